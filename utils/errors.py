"""Faults of the user's input: reported as one line with exit code 2, never as a traceback."""


class InputError(ValueError):
    """A fault in files, lists, images or weights that the user can mend; its message is one line."""

    @property
    def line(self) -> str:
        """The message alone; a DataLoader worker wraps it in a traceback whose last line holds it."""
        text = str(self).strip().splitlines()[-1]
        prefix = f"{type(self).__module__}.{type(self).__qualname__}: "
        return text.removeprefix(prefix)


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that is not there; the message names it and says how to get it."""
