"""The command line of every command: one parser, one way to print lines, one meaning of each exit code.

0 done; 1 problems that the command was asked to find, or an error that is no fault of the input; 2 a fault of the
input, said in one line; 130 Ctrl-C. Nothing here imports torch, so that a mistyped key is answered at once.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from configs.errors import ConfigError
from utils.errors import InputError, NonFiniteLossError, WorkerLostError, printable
from utils.logger import close_logging, setup_logging

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).with_name("vit_base.yml")
_INTERRUPTED = 130


class CommandParser(argparse.ArgumentParser):
    """argparse that reports a fault of the command line as one of the input: in one line, with exit code 2.

    `config` says what --config_file is for (empty: the command has no such option); `keys` adds KEY VALUE pairs as
    `opts`.
    """

    def __init__(self, about: str, config: str = "YAML file (configs/vit_base.yml)", keys: bool = True, **options):
        super().__init__(description=about, allow_abbrev=False, **options)
        if config:
            self.add_argument("--config_file", "--config-file", type=Path, default=DEFAULT_CONFIG, help=config)
        if keys:
            self.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys, e.g. SOLVER.BASE_LR 1e-5")

    def error(self, message: str) -> NoReturn:
        """What argparse calls at a fault; raises ConfigError."""
        raise ConfigError(f"command line: {message} (see --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Options and positionals in any order; the error for an unknown option names that option only."""
        arguments, rest = self.parse_known_intermixed_args(argv)
        unknown = [text for text in rest if text.startswith("-")] or rest
        if unknown:
            self.error(f"unrecognized arguments: {unknown[0]}")
        return arguments


def run_command(work: Callable[[], int | None]) -> int:
    """Run `work` with messages on the screen and turn its end into an exit code; None counts as 0."""
    setup_logging()
    try:
        return work() or 0
    except InputError as error:
        logger.error("error: %s", error.line)
        return 2
    except (NonFiniteLossError, WorkerLostError) as error:
        logger.error("error: %s", error)
        return 1
    except KeyboardInterrupt as stop:
        logger.warning("%s", stop if str(stop) else "stopped by Ctrl-C")
        return _INTERRUPTED
    except Exception:
        logger.exception("stopped by an error that is not a fault of the input")
        return 1
    finally:
        sys.stdout.flush()
        close_logging()


def say(lines: Iterable[str]) -> None:
    """Print results, with escapes for what the terminal cannot show; a closed pipe, as after `head`, is no error."""
    coding = sys.stdout.encoding or "utf-8"
    try:
        for line in lines:
            print(printable(line).encode(coding, "backslashreplace").decode(coding))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
