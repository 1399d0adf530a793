"""Tar archives, unpacked once into a cache; an archive that could write outside of it is refused whole."""

import bz2
import gzip
import hashlib
import logging
import lzma
import os
import posixpath
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from datasets.regular import check_regular
from datasets.sets.cache_folder import built_aside, default_cache_dir, read_record, write_record
from utils.errors import InputError, MissingFileError
from utils.progress import progress

logger = logging.getLogger(__name__)

_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}  # by how such a file begins
# Frames are compressed already: a sound archive of them hardly grows, and has no long headers nor many members.
_MOST_GROWTH, _LARGEST_SMALL, _LARGEST_READ, _MOST_MEMBERS = 20, 2**30, 2**20, 1_000_000
_LONGEST_NAME, _MOST_LINKS = 4_096, 40  # characters of a path, links one after another: as on Linux
# Names that are refused although tarfile's filter accepts or changes them: absolute or empty ones, Windows drives,
# backslashes, "..".
_UNSAFE_NAME = re.compile(r"^(/|[A-Za-z]:|$)|\\|(^|/)\.\.(/|$)")


def unpack_tar(archive: Path, cache_dir: str | Path, wanted: Callable[[str], bool]) -> Path:
    """Unpack the files of `archive` whose name is `wanted`; returns their folder below `cache_dir` ('': the default).

    `wanted` gets relative names with forward slashes; a wanted link becomes a file of its own. The folder of an
    earlier call is used again while it is whole. Raises MissingFileError when there is no archive, and InputError for
    one that is damaged, unsafe, larger than the free space or without a wanted file; nothing is left behind then.
    """
    target = Path(cache_dir or default_cache_dir()) / _folder_name(archive)
    if os.path.isdir(target):
        if _is_whole(target):
            return target
        logger.warning("the cache folder %s is damaged; %s is unpacked again", target, archive)
    if not hasattr(tarfile, "data_filter"):
        raise InputError(f"{archive} is not unpacked: that needs Python 3.10.12, 3.11.4 or newer")
    try:
        check_regular(archive)
        with _opened(archive) as content, tarfile.open(archive, "r:", _Bounded(content, archive)) as tar:
            _unpack(tar, target, wanted)
    except (tarfile.FilterError, tarfile.ExtractError) as error:
        raise InputError(f"{archive} is refused: {error!s:.600}; nothing is unpacked") from None
    except Exception as error:  # tarfile and the decompressors raise many kinds for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{archive} cannot be unpacked into {target} ({reason})") from None
        raise InputError(f"{archive} is not a tar archive, or a truncated or damaged one ({reason:.200})") from None
    return target


def _opened(archive: Path) -> BinaryIO:
    """The archive as a file of tar's blocks, decompressed on the way."""
    with open(archive, "rb") as file:
        start = file.read(6)
    return next((unpack for magic, unpack in _COMPRESSED.items() if start.startswith(magic)), open)(archive, "rb")


class _Bounded:
    """A file that refuses what only a decompression bomb asks for: to be read far on, or much of it at once."""

    def __init__(self, file: BinaryIO, archive: Path) -> None:
        self.file = file
        self.most = _MOST_GROWTH * os.stat(archive).st_size + _LARGEST_SMALL

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        if not 0 <= size <= _LARGEST_READ:
            raise tarfile.ExtractError(f"a header of {size:,} bytes is more than any archive needs")
        content = self.file.read(size)
        self._check(self.file.tell())
        return content

    def seek(self, place: int) -> int:
        """Go to a place from the start."""
        self._check(place)
        return self.file.seek(place)

    def tell(self) -> int:
        """The place from the start."""
        return self.file.tell()

    def _check(self, place: int) -> None:
        if place > self.most:
            raise tarfile.ExtractError(f"it grows to more than {self.most / 1e9:,.1f} GB when it is decompressed")


def _is_whole(folder: Path) -> bool:
    record = read_record(folder)
    return record is not None and bool(record["files"])


def _folder_name(archive: Path) -> str:
    """The archive's name without its ending, and a hash of its path, size and time."""
    try:
        status = os.stat(archive)
    except OSError as error:
        raise MissingFileError(f"{archive} cannot be read ({error.strerror})") from None
    identity = f"{os.path.realpath(archive)}\0{status.st_size}\0{status.st_mtime_ns}"
    stem = re.sub(r"\.(tgz|tar|tar\.(gz|bz2|xz))$", "", archive.name, flags=re.IGNORECASE)
    return f"{stem}-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:12]}"


def _unpack(tar: tarfile.TarFile, target: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the wanted files into a temporary folder that is renamed to `target` at the end."""
    files = _checked_files(tar, target)
    members = [_regular_file(name, files) for name in files if wanted(name)]
    if not members:
        raise tarfile.ExtractError("it holds none of the files that are looked for")
    needed = sum(member.size for member in members)
    free = shutil.disk_usage(next(path for path in Path(os.path.abspath(target)).parents if os.path.isdir(path))).free
    if needed > free:
        sizes = f"it needs {needed / 1e9:,.1f} GB in {target.parent}, where {free / 1e9:,.1f} GB are free"
        raise tarfile.ExtractError(f"{sizes}; set DATASETS.CACHE_DIR to a folder on another disk")
    # In the order of the archive: going back in a compressed one, as for a link to an earlier file, means decompressing
    # it from its start.
    members.sort(key=lambda member: member.offset)
    with built_aside(target, _is_whole) as temporary:
        tar.extractall(temporary, progress(members, f"unpacking {os.path.basename(tar.name)}", "file"), filter="data")
        if sum(len(files) for _, _, files in os.walk(temporary)) < len(members):
            raise tarfile.ExtractError("it holds names that this file system takes for the same")
        write_record(temporary, [member.name for member in members])


def _checked_files(tar: tarfile.TarFile, target: Path) -> dict[str, tarfile.TarInfo]:
    """Plain relative name -> file or link; every member is checked, also those that are not wanted."""
    files: dict[str, tarfile.TarInfo] = {}
    folders: set[str] = set()
    for member in progress(tar, f"reading {os.path.basename(tar.name)}", "file"):
        name = posixpath.normpath(member.name)
        # A negative size would send the reader back to the same member for ever.
        if len(name) > _LONGEST_NAME or _UNSAFE_NAME.search(member.name) or member.size < 0:
            raise tarfile.ExtractError(f"member {member.name!r:.200} has an unsafe name or size")
        if len(tar.members) > _MOST_MEMBERS:
            raise tarfile.ExtractError(f"it has more than {_MOST_MEMBERS:,} members")
        tarfile.data_filter(member, str(target))
        if name in files and not member.isdir():
            raise tarfile.ExtractError(f"member {name!r:.200} is there twice")
        folders.update(accumulate(name.split("/")[: None if member.isdir() else -1], "{}/{}".format))
        if not member.isdir():
            files[name] = member
    # tarfile takes a broken header, or the end of the file, for the end of the archive, which is a block of zeros.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it does not end as a tar archive does")
    while tar.fileobj.read(2**20):  # up to its end, where a decompressor compares the checksum
        pass
    for name in files.keys() & folders:
        raise tarfile.ExtractError(f"member {name!r:.200} is there as a file and as a folder")
    return files


def _regular_file(name: str, files: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo:
    """The regular file `name`; for a link, the file that it leads to, under the name of the link."""
    end = name
    for _ in range(_MOST_LINKS):
        if (member := files.get(end)) is None:
            break
        if member.isreg():
            return member.replace(name=name, mode=0o644, mtime=None, deep=False)
        # A symbolic link starts at its own folder, a hard link at the top of the archive.
        end = posixpath.normpath(posixpath.join(posixpath.dirname(end) if member.issym() else "", member.linkname))
    raise tarfile.ExtractError(f"member {name!r:.200} is a link that leads to no file of the archive")
