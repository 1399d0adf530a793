"""The command line of every command: one parser, one way to print lines, one meaning of each exit code.

0 done; 1 problems that the command was asked to find, or an error that is no fault of the input; 2 a fault of the
input, said in one line; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1. Nothing here imports torch, so that a
mistyped key is answered at once.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from configs.errors import ConfigError
from utils.errors import InputError, LostProcessError, NonFiniteLossError, printable
from utils.interrupt import forget_signals, last_signal, stop_signals, stopped_at_once
from utils.logger import close_logging, setup_logging

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).with_name("vit_base.yml")


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


def run_command(work: Callable[[], int | None], may_report: Callable[[int], bool] = lambda code: True) -> int:
    """Run `work` with messages on the screen and turn its end into an exit code; None counts as 0.

    Of several processes that fail together one speaks: `may_report` gets the exit code, not 0, and says whether it is
    this one.
    """
    setup_logging()
    try:
        code, report = _outcome(work)
        if report is not None and may_report(code):
            report()
        return code
    finally:
        forget_signals()
        sys.stdout.flush()
        close_logging()


def _outcome(work: Callable[[], int | None]) -> tuple[int, Callable[[], None] | None]:
    """The exit code, and what says why `work` did not come to its end."""
    try:
        with stop_signals():
            return work() or 0, None
    except InputError as error:
        return 2, partial(logger.error, "error: %s", error.line)
    except (NonFiniteLossError, LostProcessError) as error:
        return 1, partial(logger.error, "error: %s", error)
    except KeyboardInterrupt as stop:
        return _stopped(str(stop))
    except Exception as error:
        if stopped_at_once():
            return _stopped()
        return 1, partial(logger.error, "stopped by an error that is not a fault of the input", exc_info=error)


def _stopped(message: str = "") -> tuple[int, Callable[[], None]]:
    """The outcome of a command that a signal has stopped."""
    name = "Ctrl-C" if last_signal() == signal.SIGINT else signal.Signals(last_signal()).name
    return 128 + last_signal(), partial(logger.warning, "%s", message or f"stopped by {name}")


def say(lines: Iterable[str]) -> None:
    """Print results, with escapes for what the terminal cannot show; a closed pipe, as after `head`, is no error."""
    coding = sys.stdout.encoding or "utf-8"
    try:
        for line in lines:
            print(printable(line).encode(coding, "backslashreplace").decode(coding))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
