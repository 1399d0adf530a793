"""Errors that end a command in one line instead of a traceback."""

import os
import stat
from pathlib import Path


class InputError(ValueError):
    """A fault in keys, files, images or weights that the user can mend; its message is one line (exit code 2)."""

    def __init__(self, message: str) -> None:
        """`message` with line breaks escaped; of a traceback that a DataLoader worker wrapped, only its message."""
        name = type(self)
        if message.startswith(f"Caught {name.__name__} in ") and "\nOriginal Traceback " in message:
            message = message.rstrip("\n").rpartition("\n")[2].removeprefix(f"{name.__module__}.{name.__qualname__}: ")
        super().__init__(printable(message))

    @property
    def line(self) -> str:
        """The message."""
        return str(self)


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that is not there; the message names it and says how to get it."""


class NonFiniteLossError(RuntimeError):
    """The loss or the state of a run became inf or nan; the message names the place and the terms (exit code 1)."""

    step = 0  # of the epoch, from 1, where it is known


class LostProcessError(RuntimeError):
    """A loader process or another rank has gone; the message names it and says how to go on (exit code 1)."""


def printable(text: object) -> str:
    """The text with line breaks and other control characters escaped, so that a message stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def file_fault(path: Path) -> str:
    """Why `path` cannot be read as a file, to stand after its name in a message; empty if it can be tried.

    Only regular files are read: a pipe or a device might wait, or go on, for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    except ValueError:  # a name with a null character
        return "has a name that no file can have"
    if stat.S_ISDIR(mode):
        return "is a folder"
    return "" if stat.S_ISREG(mode) else "is no regular file, but a pipe or a device"
