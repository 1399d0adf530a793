"""A picture of ranked lists: each row a query and its nearest gallery tracklets, right ones green, wrong ones red."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
_GREEN, _RED, _BLUE, _INK, _PAPER = "#1a9641", "#d7191c", "#2b5c8a", "#202020", "#ffffff"


@dataclass(frozen=True)
class SheetLine:
    """One line of a sheet: a query, and the gallery tracklets that were found for it."""

    query: Tracklet
    note: str  # below the query
    found: Sequence[tuple[Tracklet, float]]  # nearest first, each with its distance; five are drawn


def save_contact_sheet(path: Path, evaluation: Evaluation, splits: ReIDSplits, most: int) -> None:
    """Draw at most `most` queries, evenly spread from the best to the worst AP, with their five nearest."""
    ranked = [(row, r) for row, r in enumerate(evaluation.rankings) if r.first_match]
    ranked.sort(key=lambda item: -item[1].average_precision)
    chosen = sorted({round(place) for place in np.linspace(0, len(ranked) - 1, min(most, len(ranked)))})
    lines = []
    for row, ranking in (ranked[place] for place in chosen):
        found = [(evaluation.gallery[item], evaluation.dist_QG[row, item]) for item in ranking.order[:_TOP]]
        lines.append(SheetLine(evaluation.query[row], f"AP {ranking.average_precision:.2f}", found))
    draw_sheet(path, lines, splits)


def draw_sheet(path: Path, lines: Sequence[SheetLine], splits: ReIDSplits, legend: str = "", group: int = 1) -> None:
    """Write a PNG with the lines one below the other; `legend` is one more line of text at the top.

    Lines of a `group` belong together: where there are several in one, a rule stands between two groups. Raises
    InputError for a frame that cannot be read, unless the splits note such frames.
    """
    cell_height, cell_width = _FRAME[0] + 2 * _BORDER + _TEXT + _GAP, _FRAME[1] + 2 * _BORDER + _GAP
    head = _TEXT + (_TEXT - _GAP) * bool(legend)
    size = ((_TOP + 1) * cell_width + 3 * _GAP, len(lines) * cell_height + head + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    source = frame_source(splits.pack, splits.root)

    def paste(tracklet: Tracklet, left: int, top: int, colour: str, note: str) -> None:
        """The tracklet's middle frame in a border; below it person and camera, and the note."""
        frame_1HW3 = np.empty((1, *_FRAME, 3), np.uint8)
        faults: dict[str, str] | None = None if splits.bad_frames is None else {}
        read_nearest_into(frame_1HW3, [(tracklet.frames, len(tracklet.frames) // 2)], source, faults)
        if faults:
            splits.bad_frames.add(faults)
        right, bottom = left + _FRAME[1] + 2 * _BORDER, top + _FRAME[0] + 2 * _BORDER
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        sheet.paste(Image.fromarray(frame_1HW3[0]), (left + _BORDER, top + _BORDER))
        draw.multiline_text((left, bottom + 2), f"{_who(tracklet, splits)}\n{note}", _INK, font, spacing=1)

    if legend:
        draw.text((_GAP, _GAP), legend, _INK, font)
    titles = head - _TEXT + _GAP
    draw.text((_GAP, titles), "query", _INK, font)
    colours = "nearest gallery tracklets: green = same person, red = another"
    draw.text((cell_width + 3 * _GAP, titles), colours, _INK, font)
    for number, line in enumerate(lines):
        top = head + number * cell_height
        if group > 1 and number and number % group == 0:
            draw.line((_GAP, top - _GAP // 2, size[0] - _GAP, top - _GAP // 2), _INK)
        paste(line.query, _GAP, top, _BLUE, line.note)
        for column, (found, distance) in enumerate(line.found[:_TOP], start=1):
            colour = _GREEN if found.pid == line.query.pid else _RED
            paste(found, column * cell_width + 3 * _GAP, top, colour, f"d {distance:.3f}")
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))


def _who(tracklet: Tracklet, splits: ReIDSplits) -> str:
    """Person and camera, cut to the width of a picture."""
    text = f"id {splits.person(tracklet.pid)}" + (f"  cam {splits.camera(tracklet.camid)}" if splits.cameras else "")
    return text if len(text) <= _CAPTION else text[: _CAPTION - 1] + "…"
