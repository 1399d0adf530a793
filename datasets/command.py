"""Command line of the commands of this room: parser, exit codes, printed lines.

0 done; 1 as the work says; 2 a fault of the input, said in one line; 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, TextIO

from configs import ConfigError
from datasets.own.names import printable
from utils.errors import InputError

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "vit_base.yml"
_INTERRUPTED = 130


class DataCommandParser(argparse.ArgumentParser):
    """argparse with --config_file, whose faults are faults of the input: one line, exit code 2."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.add_argument(
            "--config_file", "--config-file", type=Path, default=DEFAULT_CONFIG, help="YAML file (configs/vit_base.yml)"
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message} (see --help)")


def run_data_command(work: Callable[[], int]) -> int:
    """Run `work` and turn its end into an exit code."""
    try:
        return work()
    except (ConfigError, InputError) as error:
        say([f"error: {error.line if isinstance(error, InputError) else error}"], sys.stderr)
        return 2
    except KeyboardInterrupt:
        say(["stopped by Ctrl-C"], sys.stderr)
        return _INTERRUPTED


def say(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Print, whatever a file name holds; a reader that closed the pipe, such as `head`, stops no work."""
    stream = sys.stdout if stream is None else stream
    coding = stream.encoding or "utf-8"
    try:
        for line in lines:
            print(printable(line).encode(coding, "backslashreplace").decode(coding), file=stream)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
