"""Errors that end a command in one line instead of a traceback."""


class InputError(ValueError):
    """A fault in keys, files, images or weights that the user can mend; its message is one line (exit code 2)."""

    @property
    def line(self) -> str:
        """Only the message, also where a DataLoader worker has wrapped it in a traceback as the last line."""
        text = str(self).strip().splitlines()[-1]
        prefix = f"{type(self).__module__}.{type(self).__qualname__}: "
        return text.removeprefix(prefix)


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that is not there; the message names it and says how to get it."""


class NonFiniteLossError(RuntimeError):
    """The loss or the state of a run became inf or nan; the message names the place and the terms (exit code 1)."""


class LostProcessError(RuntimeError):
    """A loader process or another rank has gone; the message names it and says how to go on (exit code 1)."""


def printable(text: object) -> str:
    """The text with line breaks and other control characters escaped, so that a message stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
