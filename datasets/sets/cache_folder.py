"""Cache folders: written under a temporary name, renamed when they are complete, and checked before they are used."""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from datasets.regular import read_regular
from utils.errors import InputError

RECORD = "record.json"  # in every cache folder: the sizes of its files, and what the writer of the folder adds


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
    temporary = _sibling(folder)
    new_parents = [path for path in folder.parents if not os.path.lexists(path)]
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _move_into_place(temporary, folder, is_whole)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for path in new_parents:
            with suppress(OSError):  # another process may have put something into it
                path.rmdir()
        raise


def _move_into_place(temporary: Path, folder: Path, is_whole: Callable[[Path], bool]) -> None:
    damaged = _sibling(folder)
    try:
        if os.path.isdir(folder) and not is_whole(folder):
            os.rename(folder, damaged)
        os.rename(temporary, folder)
    except OSError:
        if not (os.path.isdir(folder) and is_whole(folder)):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


def _sibling(folder: Path) -> Path:
    """An unused path beside `folder`."""
    return folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
