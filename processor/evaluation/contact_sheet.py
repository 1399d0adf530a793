"""A picture of ranked lists: each row a query and its nearest gallery tracklets, right ones green, wrong ones red."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datasets.clips import read_nearest_into
from datasets.frames import frame_source
from datasets.tracklet import ReIDSplits, Tracklet
from processor.evaluation.evaluator import Evaluation
from utils.files import write_atomically

_TOP = 5  # gallery tracklets per query
_CAPTION = 18  # characters
_FRAME = (192, 96)  # height, width of a picture in pixels
_BORDER, _GAP, _TEXT = 6, 10, 30
GREEN, RED, BLUE, GREY = "#1a9641", "#d7191c", "#2b5c8a", "#9a9a9a"
_INK, _PAPER = "#202020", "#ffffff"


Read = Callable[[NDArray[np.uint8], Sequence[str]], None]


class SheetCell(NamedTuple):
    """One tracklet of a sheet."""

    frames: Sequence[str]  # paths
    colour: str  # of the border
    lines: tuple[str, str]  # below the picture


def save_contact_sheet(path: Path, evaluation: Evaluation, splits: ReIDSplits, most: int) -> None:
    """Draw at most `most` queries, evenly spread from the best to the worst AP, with their five nearest."""
    ranked = [(row, r) for row, r in enumerate(evaluation.rankings) if r.first_match]
    ranked.sort(key=lambda item: -item[1].average_precision)
    chosen = sorted({round(place) for place in np.linspace(0, len(ranked) - 1, min(most, len(ranked)))})
    rows = []
    for row, ranking in (ranked[place] for place in chosen):
        query = evaluation.query[row]
        cells = [SheetCell(query.frames, BLUE, (_who(query, splits), f"AP {ranking.average_precision:.2f}"))]
        for item in ranking.order[:_TOP]:
            found = evaluation.gallery[item]
            colour = GREEN if found.pid == query.pid else RED
            note = f"d {evaluation.dist_QG[row, item]:.3f}"
            cells.append(SheetCell(found.frames, colour, (_who(found, splits), note)))
        rows.append(cells)
    draw_sheet(path, rows, _TOP, "nearest gallery tracklets: green = same person, red = another", reader(splits))


def reader(splits: ReIDSplits) -> Read:
    """`read` of `draw_sheet` for the frames of a data set; where they may be replaced, the nearest takes the place."""
    source = frame_source(splits.pack, splits.root)

    def read(frame_1HW3: NDArray[np.uint8], frames: Sequence[str]) -> None:
        faults: dict[str, str] | None = None if splits.bad_frames is None else {}
        read_nearest_into(frame_1HW3, [(frames, len(frames) // 2)], source, faults)
        if faults:
            splits.bad_frames.add(faults)

    return read


def draw_sheet(
    path: Path,
    rows: Sequence[Sequence[SheetCell]],
    top: int,
    legend: str,
    read: Read,
) -> None:
    """Write a picture whose rows are a query and at most `top` gallery tracklets, below the words `legend`.

    `read(frame_1HW3, frames)` puts the middle one of a tracklet's frames into an uint8 array (1, H, W, 3).
    """
    cell_height, cell_width = _FRAME[0] + 2 * _BORDER + _TEXT + _GAP, _FRAME[1] + 2 * _BORDER + _GAP
    size = ((top + 1) * cell_width + 3 * _GAP, len(rows) * cell_height + _TEXT + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)

    def paste(cell: SheetCell, left: int, top: int) -> None:
        frame_1HW3 = np.empty((1, *_FRAME, 3), np.uint8)
        read(frame_1HW3, cell.frames)
        right, bottom = left + _FRAME[1] + 2 * _BORDER, top + _FRAME[0] + 2 * _BORDER
        draw.rectangle((left, top, right - 1, bottom - 1), fill=cell.colour)
        sheet.paste(Image.fromarray(frame_1HW3[0]), (left + _BORDER, top + _BORDER))
        draw.multiline_text((left, bottom + 2), "\n".join(map(_cut, cell.lines)), _INK, font, spacing=1)

    draw.text((_GAP, _GAP), "query", _INK, font)
    draw.text((cell_width + 3 * _GAP, _GAP), legend, _INK, font)
    for line, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            paste(cell, column * cell_width + (3 if column else 1) * _GAP, _TEXT + line * cell_height)
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))


def _who(tracklet: Tracklet, splits: ReIDSplits) -> str:
    """Person and camera."""
    return f"id {splits.person(tracklet.pid)}" + (f"  cam {splits.camera(tracklet.camid)}" if splits.cameras else "")


def _cut(text: str) -> str:
    """The text, cut to the width of a picture."""
    return text if len(text) <= _CAPTION else text[: _CAPTION - 1] + "…"
