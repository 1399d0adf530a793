"""Command line of both scripts: arguments, exit codes, Ctrl-C.

0 success; 2 a fault of the input, said in one line; 130 Ctrl-C; 1 anything else.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from yacs.config import CfgNode

from configs import ConfigError, load_cfg
from processor.training.epoch import NonFiniteLossError
from utils.errors import InputError
from utils.logger import close_logging, setup_logging

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "vit_base.yml"
_INTERRUPTED = 130


class CommandParser(argparse.ArgumentParser):
    """argparse whose faults are faults of the input: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message} (see --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Options and positionals in any order; an unknown option is named alone, not with all that follows it."""
        arguments, rest = self.parse_known_intermixed_args(argv)
        unknown = [text for text in rest if text.startswith("-")] or rest
        if unknown:
            self.error(f"unrecognized arguments: {unknown[0]}")
        return arguments


def parse_arguments(argv: Sequence[str], description: str) -> argparse.Namespace:
    """[--config_file F] [--resume] [--overwrite] [KEY VALUE ...]; raises ConfigError."""
    parser = CommandParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--config_file", "--config-file", type=Path, default=DEFAULT_CONFIG, help="YAML file (configs/vit_base.yml)"
    )
    parser.add_argument("--resume", action="store_true", help="training: continue the run in OUTPUT_DIR")
    parser.add_argument("--overwrite", action="store_true", help="training: discard the run in OUTPUT_DIR")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys, e.g. SOLVER.BASE_LR 1e-5")
    return parser.parse(argv)


def run_command(argv: Sequence[str], description: str, work: Callable[[CfgNode, argparse.Namespace], None]) -> int:
    """Load the config, run `work` and turn its end into an exit code."""

    def load_and_work() -> None:
        arguments = parse_arguments(argv, description)
        work(load_cfg(arguments.config_file, arguments.opts), arguments)

    return run_work(load_and_work)


def run_work(work: Callable[[], None]) -> int:
    """Run `work` and turn its end into an exit code."""
    setup_logging()
    try:
        work()
    except (ConfigError, InputError) as error:
        logger.error("error: %s", error.line if isinstance(error, InputError) else error)
        return 2
    except NonFiniteLossError as error:
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
    return 0
