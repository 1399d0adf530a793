"""Rows and cells of a list in CSV: texts, numbers, boxes."""

import csv
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

from datasets.own.crops import Box
from utils.errors import InputError

BOX = ("x", "y", "w", "h")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 1e9  # no picture is as large, no video as long


class RowError(Exception):
    """What is wrong with a row."""


def csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, stripped cells) of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path} row {number}: cannot be read as CSV ({error}); check its quotes") from None
        if any(cells):
            yield number, cells


def frame_number(text: str) -> int:
    """The number of a frame in a video; raises RowError."""
    value = _number("frame", text)
    if value < 0 or value != math.floor(value):
        raise RowError(f"frame is {text}; it must be a whole number, 0 being the first frame of the video")
    return int(value)


def _number(name: str, text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not abs(value) < _LARGEST:
        raise RowError(f"{name} is {text!r:.60}; it must be a number such as 12 or 12.5, below {_LARGEST:,.0f}")
    return value


def box_of(texts: list[str]) -> Box | None:
    """The box of the cells x, y, w, h, in whole pixels; None where all are empty. Raises RowError."""
    if not any(texts):
        return None
    if not all(texts):
        raise RowError(f"has some of {','.join(BOX)} but not all: give all four, or none for the whole picture")
    x, y, w, h = (_number(name, text) for name, text in zip(BOX, texts))
    given = f"box {','.join(texts)} (x,y,w,h)"
    if x < 0 or y < 0:
        raise RowError(f"{given} begins outside of the picture: x and y must be 0 or more")
    if w <= 0 or h <= 0:
        raise RowError(f"{given} is empty: w and h must be more than 0")
    # Edges are rounded, not sizes, so that a box within the picture stays within it.
    left, top, right, bottom = (math.floor(edge + 0.5) for edge in (x, y, x + w, y + h))
    if left == right or top == bottom:
        raise RowError(f"{given} holds no whole pixel")
    return left, top, right - left, bottom - top
