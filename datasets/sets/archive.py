"""Tar archives, unpacked once into a cache; an archive that could write outside of it is refused whole."""

import hashlib
import logging
import os
import posixpath
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from datasets.sets.cache_folder import built_aside, default_cache_dir, read_record, write_record
from utils.errors import InputError, MissingFileError
from utils.progress import progress

logger = logging.getLogger(__name__)

_BLOCK = 512  # bytes of a tar header; an archive ends with blocks of zeros
_PORTION = 2**20  # bytes read at a time
_LONGEST_NAME = 4_096  # characters of a path, as on Linux
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def unpack_tar(archive: Path, cache_dir: str | Path, wanted: Callable[[str], bool]) -> Path:
    """The folder below `cache_dir` (empty: the default one) with those files of `archive` whose name is `wanted`.

    `wanted` gets relative names with forward slashes; a wanted link becomes a file of its own. The folder is written
    when it is not there yet, or no longer whole. Raises MissingFileError when there is no archive; InputError, with
    nothing left behind, when it is no tar archive, is truncated, holds no wanted file or does not fit on the disk,
    when a member has an unsafe name, points outside, comes twice or is a special file, when a wanted link leads to no
    file of the archive, and when the folder cannot be written.
    """
    cache = Path(cache_dir or default_cache_dir())
    target = cache / _folder_name(archive)
    if os.path.isdir(target):
        if _is_whole(target):
            return target
        logger.warning("the cache folder %s is damaged; %s is unpacked again", target, archive)
    try:
        with _open(archive) as tar:
            members = _checked_members(tar, archive, wanted)
            _check_space(members, archive, cache)
            _unpack(tar, members, archive, target)
    except InputError:
        raise
    except Exception as error:  # tarfile and the decompressors raise many kinds for a file that is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{archive} cannot be unpacked into {target} ({reason})") from None
        raise InputError(f"{archive} is truncated or damaged ({reason})") from None
    return target


def _is_whole(folder: Path) -> bool:
    record = read_record(folder)
    return record is not None and bool(record["files"])


def _open(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r:*")
    except tarfile.ReadError:
        raise InputError(f"{archive} is not a tar archive, or only the start of one") from None


def _folder_name(archive: Path) -> str:
    """The archive's name without ending and a hash that another or a changed archive does not have."""
    try:
        status = os.stat(archive)
    except OSError as error:
        raise MissingFileError(f"{archive} cannot be read ({error.strerror})") from None
    identity = f"{os.path.realpath(archive)}\0{status.st_size}\0{status.st_mtime_ns}"
    ending = next((ending for ending in _ENDINGS if archive.name.lower().endswith(ending)), archive.suffix)
    stem = archive.name[: len(archive.name) - len(ending)]
    return f"{stem}-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:12]}"


def _checked_members(
    tar: tarfile.TarFile, archive: Path, wanted: Callable[[str], bool]
) -> dict[str, tarfile.TarInfo]:
    """Plain relative name -> member, of the wanted files; every member is looked at, wanted or not."""
    files: dict[str, tarfile.TarInfo] = {}
    folders: set[str] = set()
    for member in progress(tar, f"reading {archive.name}", "file"):
        name = posixpath.normpath(member.name)
        fault = _fault(member) or ("is there twice" if name in files and not member.isdir() else "")
        if fault:
            raise InputError(f"{archive}: member {member.name!r:.200} {fault}; the archive is not unpacked")
        folders.update(_folders_above(name))
        if member.isdir():
            folders.add(name)
        else:
            files[name] = member
    _check_end(tar, archive)
    both = next((name for name in files if name in folders), None)
    if both is not None:
        what = f"member {both!r:.200} is there as a file and as a folder"
        raise InputError(f"{archive}: {what}; the archive is not unpacked")
    chosen = {name: _followed(name, files) for name in files if wanted(name)}
    if not chosen:
        raise InputError(f"{archive} holds none of the files that are looked for")
    nowhere = next((name for name, member in chosen.items() if member is None), None)
    if nowhere is not None:
        what = f"member {nowhere!r:.200} is a link that leads to no file of the archive"
        raise InputError(f"{archive}: {what}; the archive is not unpacked")
    return chosen


def _followed(name: str, files: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The regular file that a member is, or that it leads to over any number of links; None where there is none."""
    passed: set[str] = set()
    while name in files and name not in passed:
        if files[name].isreg():
            return files[name]
        passed.add(name)
        name = _link_end(name, files[name])
    return None


def _link_end(name: str, link: tarfile.TarInfo) -> str:
    """A symbolic link starts at its own folder, a hard link at the top of the archive."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name) if link.issym() else "", link.linkname))


def _folders_above(name: str) -> list[str]:
    """a/b/c -> a, a/b."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _fault(member: tarfile.TarInfo) -> str:
    """What makes a member unsafe; empty for a safe one."""
    # The name "/" comes as an empty one.
    if not member.name or _leads_outside(member.name):
        return "has a name that leads out of the archive's folder"
    if len(member.name) > _LONGEST_NAME:
        return f"has a name of more than {_LONGEST_NAME:,} characters"
    if member.issym() or member.islnk():
        if _is_absolute(member.linkname) or _leads_outside(_link_end(member.name, member)):
            return f"is a link to {member.linkname!r:.200}, outside of the archive's folder"
    elif not (member.isreg() or member.isdir()):
        return "is neither a file nor a folder (a device, a pipe or another special file)"
    # A negative size would send the reader back to the same member for ever.
    return "has a negative size" if member.size < 0 else ""


def _is_absolute(name: str) -> bool:
    """Absolute on any system: /, a Windows drive, or a Windows share."""
    return name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) is not None


def _leads_outside(name: str) -> bool:
    return _is_absolute(name) or ".." in re.split(r"[/\\]", name) or "\0" in name


def _check_end(tar: tarfile.TarFile, archive: Path) -> None:
    """tarfile takes a broken header, or the end of the file, for the end of the archive."""
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
        raise InputError(f"{archive} is truncated or damaged: it does not end as a tar archive does")
    # A decompressor compares its checksum where its file ends.
    while tar.fileobj.read(_PORTION):
        pass


def _check_space(members: dict[str, tarfile.TarInfo], archive: Path, cache: Path) -> None:
    needed = sum(member.size for member in members.values())
    existing = next(path for path in (cache, *Path(os.path.abspath(cache)).parents) if os.path.isdir(path))
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{archive} needs {needed / 1e9:,.1f} GB in {cache}, where {free / 1e9:,.1f} GB are free; "
            "set DATASETS.CACHE_DIR to a folder on another disk"
        )


def _unpack(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], archive: Path, target: Path) -> None:
    """Write the members into a folder that becomes `target` when it is whole; nothing is left on failure."""
    first_files: dict[int, Path] = {}
    # In the order of the archive, and each member once: going back in a compressed archive means starting again.
    names = sorted(members, key=lambda name: members[name].offset)
    with built_aside(target, _is_whole) as temporary:
        for name in progress(names, f"unpacking {archive.name}", "file"):
            path = temporary.joinpath(*name.split("/"))
            first = first_files.setdefault(members[name].offset, path)
            _write_file(tar.extractfile(members[name]) if first == path else first.open("rb"), path)
        write_record(temporary, names)


def _write_file(source: BinaryIO, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x": two names that one file system takes for the same must not overwrite each other.
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file)
    path.chmod(0o644)
