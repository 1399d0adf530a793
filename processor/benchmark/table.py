"""What the benchmark has measured: one record per line, the table and the JSON file of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.files import save_json

_HEADS = ("part", "what", "value", "unit", "limit", "limit's value", "of limit")
_NUMBERS = (2, 5, 6)  # columns set flush right


class Measurement(NamedTuple):
    """One line of the table."""

    part: str
    what: str
    value: float
    unit: str  # of value and limit_value
    limit: str = ""  # what the value is held against; empty: nothing
    limit_value: float | None = None
    fraction: float | None = None  # value / limit_value; of a time or a size: how many times the limit it is


def measurement(
    part: str, what: str, value: float, unit: str, limit: str = "", limit_value: float | None = None
) -> Measurement:
    """A line with its fraction; raises ValueError for a value that is not a positive number."""
    for number in (value, limit_value):
        if number is not None and not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{part}, {what}: {number} is no measured number")
    fraction = None if limit_value is None else value / limit_value
    return Measurement(part, what, value, unit, limit, limit_value, fraction)


def number_text(value: float | None) -> str:
    """Four digits, more where the number has more before its point; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}".rstrip(".")


def table(measurements: Sequence[Measurement]) -> str:
    """The measurements below their heads, in aligned columns."""
    rows = [_HEADS]
    for m in measurements:
        fraction = "" if m.fraction is None else f"{m.fraction:.2f}"
        rows.append((m.part, m.what, number_text(m.value), m.unit, m.limit, number_text(m.limit_value), fraction))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def check_json(path: Path) -> None:
    """Raise InputError, before anything is measured, when the numbers cannot be written to `path`."""
    if (path.exists() and not path.is_file()) or not path.absolute().parent.is_dir():
        raise InputError(f"--json {path} cannot be written: it is a folder or device, or there is no folder to hold it")


def write_json(path: Path, header: Mapping[str, Any], measurements: Sequence[Measurement]) -> None:
    """The header's entries and, under `measurements`, one object per line; raises InputError naming the file."""
    save_json(path, {**header, "measurements": [m._asdict() for m in measurements]})
