"""Files that are either complete or absent: written under a temporary name, then moved."""

import csv
import errno
import io
import json
import os
import re
import secrets
import shutil
import socket
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError, printable

# File name, host and process of the writer, random digits.
_TEMPORARY = re.compile(r"\..+\.(?P<host>\w+)-(?P<process>\d+)-[0-9a-f]{8}\.tmp", re.ASCII)
_OLD = 24 * 3600  # seconds after which a temporary file of another host counts as left behind
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}  # what file systems without fsync say
MOST_UNPACKED = 4  # times the size of a torch file
CODE_BYTES = 2**26  # beyond that: of TorchScript's source code, which is compressed


def write_atomically(path: Path, write: Callable[[Path], None], size: Callable[[], int] | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place; nothing is left on failure.

    The name is this writer's own, and the content is on the disk before it takes the place of the old one. `size` gives
    the bytes of the content, for the message where they find no room. Raises InputError naming the file when the system
    refuses (no permission, disk full), also where `write` hides that behind a RuntimeError, as torch.save does.
    """
    remove_left_behind(path.parent)
    with suppress(OSError):
        path.with_name(f"{path.name}.tmp").unlink()  # an earlier version that was killed
    writer = f"{_system_name()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name[:40]}.{writer}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    except Exception as error:
        refused = _system_error(error)
        if refused is None:
            raise
        needed = ""
        if refused.errno in _NO_ROOM:
            needed = _human(size()) if size else f"more than {_human(_written(temporary))}"
        _remove(temporary)  # before the free space is asked for
        raise InputError(f"{path} cannot be written ({refused.strerror or refused}){_room(path, needed)}") from None
    finally:
        _remove(temporary)
    with suppress(OSError):  # not every file system opens folders
        _sync(path.parent, os.O_RDONLY)


def remove_left_behind(folder: Path) -> None:
    """Remove the temporary files of writers that were killed: processes of this host that are gone, and old files."""
    here = _system_name()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not (name := _TEMPORARY.fullmatch(entry.name)):
                continue
            with suppress(OSError):  # another process may have removed it
                dead = name["host"] == here and not is_running(int(name["process"]))
                if dead or time.time() - entry.stat().st_mtime > _OLD:
                    os.unlink(entry.path)


def _system_name() -> str:
    """The host, and of containers that share its name the one that numbers its processes, in letters and digits."""
    try:
        numbering = f"_{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        numbering = ""
    return re.sub(r"[^0-9A-Za-z]", "_", socket.gethostname()) + numbering


def host_name() -> str:
    """The name of this machine in its network."""
    return socket.gethostname()


def is_running(process: int) -> bool:
    """Whether this host has such a process; True where the system cannot be asked."""
    if os.name != "posix":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _system_error(error: BaseException | None) -> OSError | None:
    """The system's refusal that `error` is, or hides; None for a fault of another kind, which has its own message."""
    while isinstance(error, (OSError, RuntimeError)) and not isinstance(error, InputError):
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _sync(path: Path, mode: int = os.O_RDWR) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _written(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _room(path: Path, needed: str) -> str:
    """What the user can do about a file that needs so much room; empty for a refusal of another kind."""
    if not needed:
        return ""
    try:
        free = f", {_human(shutil.disk_usage(path.parent).free)} are free on its disk"
    except OSError:
        free = ""
    return f": it needs {needed}{free}; make room (quota and ulimit -f count too) or name another folder"


def _human(size: int) -> str:
    """Bytes for people: 512 bytes, 1.5 MB."""
    if size < 1000:
        return f"{size} bytes"
    value, units = size / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}"


def save_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write text in UTF-8; `errors` is what `str.encode` does with characters that UTF-8 does not have."""
    content = text.encode("utf-8", errors)
    write_atomically(path, lambda temporary: temporary.write_bytes(content), lambda: len(content))


def save_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    save_text(path, json.dumps(content, indent=2) + "\n")


def save_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any] | Sequence[Any]], errors: str = "strict"
) -> None:
    """Write a table with a row of column names; a row is a sequence, or a mapping whose missing cells stay empty.

    `errors` is that of `save_text`: with 'backslashreplace' a name that is not valid UTF-8 is written with escapes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] if isinstance(row, Mapping) else row for row in rows)
    save_text(path, text.getvalue(), errors)


def save_archive(path: Path, content: Any) -> None:
    """Write tensors and plain Python as torch does; raises InputError when the system refuses, as on a full disk."""

    def write(temporary: Path) -> None:
        # A file object: the system's own error is then known, which torch hides where it opens the file itself.
        with temporary.open("wb") as file:
            torch.save(content, file)

    def size() -> int:
        torch.save(content, counter := _Counter())
        return counter.written

    write_atomically(path, write, size)


def check_archive(path: Path) -> None:
    """Raise InputError when a part of a torch file differs from its checksum (CRC-32), which torch.load does not test.

    Also for an archive that would unpack to far more than it is: tensors are not compressed, and hardly can be. A file
    without checksums passes: one that is no archive, and one that torch was told to write without them.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            unpacked, size = sum(part.file_size for part in parts), path.stat().st_size
            if unpacked > MOST_UNPACKED * size + CODE_BYTES:
                raise InputError(f"{path} of {size:,} bytes would unpack to {unpacked:,}, as no weights do")
            damaged = archive.testzip() if any(part.CRC for part in parts) else None
            # What is marked as a folder has content for zipfile, but none for torch.
            damaged = next((part.filename for part in parts if part.external_attr & 0x10 and part.file_size), damaged)
    except InputError:
        raise
    except Exception:  # zipfile raises many kinds for a damaged table of contents
        damaged = "the table of contents"
    if damaged is not None:
        raise InputError(f"{path} is damaged: {printable(damaged)} differs from its checksum; copy or make it anew")


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while part := file.read(2**22):
            digest.update(part)
    return digest.hexdigest()


class _Counter(io.RawIOBase):
    """A file that only counts."""

    written = 0

    def write(self, content: Any) -> int:
        self.written += len(content)
        return len(content)
