"""One logger for a run: screen and file, set up once by the entry script."""

import logging
import logging.handlers
import sys
from pathlib import Path

from tqdm import tqdm

from utils.errors import InputError

_BACKLOG = 10_000  # messages
_muted = False


class _Backlog(logging.handlers.MemoryHandler):
    """Messages that wait for their file, whatever their level."""

    def __init__(self) -> None:
        super().__init__(_BACKLOG, flushLevel=logging.CRITICAL + 1)


class _RunFile(logging.FileHandler):
    """The log file of a run."""


class _BarFriendlyHandler(logging.StreamHandler):
    """Writes above a running tqdm bar instead of through it; warnings and errors go to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout)


def mute() -> None:
    """Nothing from this process from now on: neither on the screen nor in a file."""
    global _muted
    _muted = True
    for handler in _screens():
        handler.setLevel(logging.CRITICAL + 1)


def unmute(prefix: str) -> None:
    """Messages go to the screen again, after `prefix`."""
    global _muted
    _muted = False
    for handler in _screens():
        handler.setLevel(logging.NOTSET)
        handler.setFormatter(logging.Formatter(f"{prefix.replace('%', '%%')}%(message)s"))


def is_muted() -> bool:
    """Whether this process is to be silent."""
    return _muted


def _screens() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _BarFriendlyHandler)]


def setup_logging() -> None:
    """Send the messages of all modules to the screen, and keep them for the log file until there is one."""
    close_logging()
    screen = _BarFriendlyHandler()
    screen.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(screen)
    hold_messages()
    for noisy in ("httpx", "huggingface_hub", "matplotlib", "timm"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_to_file(file: Path, append: bool = False) -> None:
    """Write the messages so far and all later ones to `file`, with times; a run calls it once its input is sound."""
    if _muted:
        return
    root = logging.getLogger()
    try:
        to_file = _RunFile(file, mode="a" if append else "w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror})") from None
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for handler in root.handlers:
        if isinstance(handler, _Backlog):
            handler.setTarget(to_file)
    _remove_handlers(_Backlog)  # closing it writes its messages to the file
    root.addHandler(to_file)


def hold_messages() -> None:
    """Close the log file; messages wait for the next one."""
    _remove_handlers(_RunFile)
    root = logging.getLogger()
    if not any(isinstance(handler, _Backlog) for handler in root.handlers):
        root.addHandler(_Backlog())


def close_logging() -> None:
    """Close and remove the handlers of this module."""
    _remove_handlers(_BarFriendlyHandler, _Backlog, _RunFile)


def _remove_handlers(*kinds: type[logging.Handler]) -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, kinds):
            root.removeHandler(handler)
            handler.close()
