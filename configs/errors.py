"""The error of a faulty config."""

from utils.errors import InputError


class ConfigError(InputError):
    """A key, value or config file is wrong; the message is one line that names it and the accepted values."""
