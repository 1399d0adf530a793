"""Tar archives, unpacked once into a cache; an archive that could write outside of it is refused whole."""

import hashlib
import os
import posixpath
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from utils.errors import InputError, MissingFileError
from utils.progress import progress

_BLOCK = 512  # bytes of a tar header; an archive ends with blocks of zeros
_PORTION = 2**20  # bytes read at a time
_LONGEST_NAME = 4_096  # characters of a path, as on Linux
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/tf-clip or ~/.cache/tf-clip; raises InputError when there is no home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules have a relative path ignored.
    if os.path.isabs(base):
        return Path(base) / "tf-clip"
    try:
        return Path.home() / ".cache" / "tf-clip"
    except RuntimeError:
        raise InputError("there is no home folder for a cache; set DATASETS.CACHE_DIR") from None


def unpack_tar(archive: Path, cache_dir: str | Path, wanted: Callable[[str], bool]) -> Path:
    """The folder below `cache_dir` (empty: the default one) with those files of `archive` whose name is `wanted`.

    `wanted` gets relative names with forward slashes. The folder is written when it is not there yet, and is then
    whole. Raises MissingFileError when there is no archive; InputError, with nothing left behind, when it is no tar
    archive, is truncated, holds no wanted file or does not fit on the disk, when a member has an unsafe name, points
    outside, comes twice or is a special file, and when the folder cannot be written.
    """
    cache = Path(cache_dir or default_cache_dir())
    target = cache / _folder_name(archive)
    if os.path.isdir(target):
        return target
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
    chosen = {name: member for name, member in files.items() if member.isreg() and wanted(name)}
    if not chosen:
        raise InputError(f"{archive} holds none of the files that are looked for")
    return chosen


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
        # A symbolic link starts at its own folder, a hard link at the top of the archive.
        start = posixpath.dirname(member.name) if member.issym() else ""
        end = posixpath.normpath(posixpath.join(start, member.linkname))
        if _is_absolute(member.linkname) or _leads_outside(end):
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
    """Write the members into a temporary folder beside `target` and rename it; nothing is left on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        for name in progress(members, f"unpacking {archive.name}", "file", total=len(members)):
            _write_member(tar, members[name], temporary.joinpath(*name.split("/")))
        move_into_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x": two names that one file system takes for the same must not overwrite each other.
    with tar.extractfile(member) as source, path.open("xb") as file:
        shutil.copyfileobj(source, file)
    path.chmod(0o644)


def move_into_place(temporary: Path, target: Path) -> None:
    """Rename a finished folder; where another process was faster, its equal folder stays and ours is removed."""
    try:
        os.rename(temporary, target)
    except OSError:
        if not os.path.isdir(target):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
