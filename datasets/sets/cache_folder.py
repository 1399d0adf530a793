"""Cache folders: written under a temporary name, renamed when they are complete, and checked before they are used."""

import json
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from datasets.regular import read_regular
from utils.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

RECORD = "record.json"  # in every cache folder: the sizes of its files, and what the writer of the folder adds
_LOCK = ".tf-clip-writer"  # in every temporary folder: locked by its writer, it names the system that this one runs on
_WITHOUT_LOCK = re.compile(r"-([0-9a-f]{12}|[0-9a-f]{16})\.[0-9a-f]{8}\.tmp$")
_OLD = 7 * 24 * 3600  # seconds; no folder takes a week to write


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/tf-clip or ~/.cache/tf-clip; raises InputError when there is no home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    if os.path.isabs(base):
        return Path(base) / "tf-clip"
    try:
        return Path.home() / ".cache" / "tf-clip"
    except RuntimeError:
        raise InputError("there is no home folder for a cache; set DATASETS.CACHE_DIR") from None


def write_record(folder: Path, names: Iterable[str], **more: Any) -> None:
    """Write the sizes of the files `names` (below `folder`, with forward slashes) and `more` into the record."""
    record = {"files": {name: os.stat(folder / name).st_size for name in names}, **more}
    # "x" fails where the folder holds a file of this name already, instead of overwriting it.
    with open(folder / RECORD, "x", encoding="utf-8") as file:
        json.dump(record, file)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record; None when it cannot be read, or when one of its files is missing or has another size."""
    try:
        record = json.loads(read_regular(folder / RECORD))
        whole = all(_has_size(os.path.join(folder, name), size) for name, size in record["files"].items())
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    return record if whole else None


def _has_size(path: str, size: int) -> bool:
    found = os.stat(path)
    return stat.S_ISREG(found.st_mode) and found.st_size == size


@contextmanager
def built_aside(folder: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary folder, renamed to `folder` at the end of the block, or deleted if the block raises.

    An existing `folder` is replaced, unless it `is_whole`: then another process has finished it in the meantime.
    """
    new_parents = [path for path in folder.parents if not os.path.lexists(path)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with workshop(folder) as aside:
            (aside / "new").mkdir()
            yield aside / "new"
            _move_into_place(aside, folder, is_whole)
    except BaseException:
        for path in new_parents:
            with suppress(OSError):  # another process may have put something into it
                path.rmdir()
        raise


def _move_into_place(aside: Path, folder: Path, is_whole: Callable[[Path], bool]) -> None:
    try:
        if os.path.isdir(folder) and not is_whole(folder):
            os.rename(folder, aside / "damaged")
        os.rename(aside / "new", folder)
    except OSError:
        if not (os.path.isdir(folder) and is_whole(folder)):
            raise


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to build it in, deleted at the end; those that killed writers left go first.

    A file in it is locked while its writer lives. Raises OSError when the folder cannot be made.
    """
    with suppress(OSError):
        for folder in [path for path in target.parent.iterdir() if path.name.endswith(".tmp")]:
            _remove_abandoned(folder)
    while True:
        aside = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
        aside.mkdir()
        with open(aside / _LOCK, "w", encoding="utf-8") as lock:
            lock.write(_system())
            lock.flush()
            try:
                _lock(lock)
            except BlockingIOError:  # another process takes the folder for abandoned
                continue
            except OSError:  # a disk without locks
                pass
            if (aside / _LOCK).exists():
                try:
                    yield aside
                    return
                finally:
                    shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    try:
        with open(folder / _LOCK, "r+", encoding="utf-8") as lock:
            if _is_abandoned(lock):
                logger.info("%s is deleted: the process that wrote it was ended", folder)
                shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:  # of a version without locks, or of a writer that was killed at once
        with suppress(OSError):
            if _WITHOUT_LOCK.search(folder.name) and time.time() - folder.stat().st_mtime > _OLD:
                shutil.rmtree(folder, ignore_errors=True)
    except (OSError, ValueError):  # no folder of ours
        pass


def _is_abandoned(lock: TextIO) -> bool:
    """Whether the writer of a folder is gone, which its lock tells here, and a week's age elsewhere."""
    if lock.read() == _system():
        try:
            _lock(lock)
            return True
        except BlockingIOError:
            return False
        except OSError:
            pass
    return time.time() - os.fstat(lock.fileno()).st_mtime > _OLD


def _lock(file: TextIO) -> None:
    """Lock the file until it is closed; raises BlockingIOError when another process has, OSError without locks."""
    if fcntl is None:
        raise OSError("this system has no locks")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _system() -> str:
    """Names the running system, whose processes see each other's locks; two containers of one host have the same."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return platform.node()
