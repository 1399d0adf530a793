"""Files of a data set are read only where they are regular ones: a pipe or a device would make a run wait for ever."""

import errno
import os
import stat
from pathlib import Path

MOST_BYTES = 2**30  # of a list or a frame: more than any has, and few enough for any memory
# Only Windows has the first, and it lacks the others. Without waiting a pipe without a writer is opened too.
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: str | os.PathLike) -> bytes:
    """All bytes of a file; raises OSError, also for what is no regular file and for one of more than MOST_BYTES."""
    try:
        file = os.open(path, _FLAGS)  # half the time that a file object takes
    except OSError:
        check_regular(path)  # the system opens no socket, and does not say why
        raise
    try:
        status = os.fstat(file)
        _check_kind(status.st_mode)
        size = status.st_size
        if size > MOST_BYTES:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, at most {MOST_BYTES:,} are read")
        content = os.read(file, size)
        while len(content) < size:  # network file systems may give less than was asked for
            more = os.read(file, size - len(content))
            if not more:
                raise OSError(errno.EIO, f"it ended after {len(content)} of {size} bytes")
            content += more
        return content
    finally:
        os.close(file)


def check_regular(path: str | os.PathLike) -> os.stat_result:
    """The status of a regular file; raises OSError where there is none. For libraries that open a path themselves."""
    status = os.stat(path)
    _check_kind(status.st_mode)
    return status


def expanded(path: str) -> Path:
    """The path of a command's option, a leading ~ being the home folder, as in the keys of the config."""
    return Path(os.path.expanduser(path))


def _check_kind(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file")
