"""The list of frames to leave out (--fix-list) with which the next check finds nothing more to leave out."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets.check.base import Problem
from datasets.exclusion import Exclusions, read_exclusions, read_rows, write_exclusions
from utils.errors import InputError, MissingFileError


def check_writable(path: Path) -> None:
    """Raise InputError when `path` cannot be written, or when another kind of file is there."""
    if not path.parent.is_dir():
        raise MissingFileError(f"--fix-list {path} cannot be written: there is no folder {path.parent}")
    if os.path.lexists(path) and not _may_be_replaced(path):
        raise InputError(f"--fix-list {path} is there and is no list of frames to leave out; choose another name")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"--fix-list {path} cannot be written ({error.strerror})") from None


def _may_be_replaced(path: Path) -> bool:
    try:
        if path.is_file() and path.stat().st_size:
            read_exclusions(str(path))
        return path.is_file()
    except (OSError, InputError):
        return False


def earlier_reasons(path: str) -> dict[tuple[str, str], str]:
    """(split, frame) -> reason, for the rows of a list that `read_exclusions` accepts; an empty path has no rows."""
    if not path:
        return {}
    rows = read_rows(path)[1:]
    return {(row[0], row[1]): row[2] if len(row) > 2 and row[2] else "left out before" for row in rows}


def leave_out(
    earlier: Mapping[tuple[str, str], str], problems: Sequence[Problem], find: Callable[[Exclusions], list[Problem]]
) -> tuple[list[tuple[str, str, str]], list[Problem]]:
    """Rows (split, frame, reason) of the list, the `earlier` ones first, and the problems that no list solves.

    Leaving a frame out can bring up a new problem, such as a query without a match, so `find` looks again until no
    frame is added.
    """
    reasons = dict(earlier)
    unsolved = [problem for problem in problems if not problem.leave_out]
    while True:
        count = len(reasons)
        for problem in problems:
            for entry in problem.leave_out:
                reasons.setdefault(entry, f"{problem.kind}: {problem.text}")
        if len(reasons) == count:
            return [(*entry, reason) for entry, reason in reasons.items()], unsolved
        problems = find(Exclusions(reasons))
        unsolved += [problem for problem in problems if not problem.leave_out and problem not in unsolved]


def write_list(path: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """Write the list; raises InputError naming the file, or the row that no text file can hold."""
    try:
        write_exclusions(path, rows)
    except UnicodeEncodeError as error:
        row = error.object[error.object.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        raise InputError(f"--fix-list {path} cannot hold {row!r}: rename that file in UTF-8") from None
