"""What the benchmark has measured: one record per line, the table and the JSON file of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.files import save_json

_HEADS = ("part", "what", "value", "unit", "limit", "limit's value", "of limit")
_NUMBERS = (2, 5, 6)  # columns set flush right


class Limit(NamedTuple):
    """What a value is held against: a number, or that many times one of the machine's limits."""

    name: str  # as the table says it
    value: float
    machine: str = ""  # 'decode', 'copy' or 'matmul, float32' and the like; empty: `value` is the limit itself


class Measurement(NamedTuple):
    """One line of the table; the machine's limits are filled in at the end, when the best of them are known."""

    part: str
    what: str
    value: float
    unit: str  # of the value and of its limits
    limits: Sequence[Limit] = ()  # the smallest is what the value is held against

    def cells(self, machine: Mapping[str, float]) -> dict[str, Any]:
        """The line as the JSON file has it; raises ValueError for a value or limit that is not a positive number.

        `fraction` is value / limit: of a time or a size how many times the limit it is.
        """
        values = {limit.name: limit.value * (machine[limit.machine] if limit.machine else 1) for limit in self.limits}
        name = min(values, key=values.get, default="")
        limit_value = values.get(name)
        for number in (self.value, limit_value):
            if number is not None and not (number > 0 and math.isfinite(number)):
                raise ValueError(f"{self.part}, {self.what}: {number} is no measured number")
        fraction = None if limit_value is None else self.value / limit_value
        line = {"part": self.part, "what": self.what, "value": self.value, "unit": self.unit}
        return line | {"limit": name, "limit_value": limit_value, "fraction": fraction}


def number_text(value: float | None) -> str:
    """Four digits, more where the number has more before its point; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}".rstrip(".")


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines (`Measurement.cells`) below their heads, in aligned columns."""
    rows = [_HEADS]
    for line in lines:
        part, what, value, unit, limit, limit_value, fraction = line.values()
        share = "" if fraction is None else f"{fraction:.2f}"
        rows.append((part, what, number_text(value), unit, limit, number_text(limit_value), share))
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


def write_json(path: Path, header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    """The header's entries and, under `measurements`, one object per line; raises InputError naming the file."""
    save_json(path, {**header, "measurements": lines})
