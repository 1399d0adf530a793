"""A picture of ranked lists: each row a query and its nearest gallery tracklets, right ones green, wrong ones red."""

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


def save_contact_sheet(path: Path, evaluation: Evaluation, splits: ReIDSplits, most: int) -> None:
    """Draw at most `most` queries, evenly spread from the best to the worst AP, with their five nearest."""
    ranked = [(row, r) for row, r in enumerate(evaluation.rankings) if r.first_match]
    ranked.sort(key=lambda item: -item[1].average_precision)
    chosen = sorted({round(place) for place in np.linspace(0, len(ranked) - 1, min(most, len(ranked)))})
    cell_height, cell_width = _FRAME[0] + 2 * _BORDER + _TEXT + _GAP, _FRAME[1] + 2 * _BORDER + _GAP
    size = ((_TOP + 1) * cell_width + 3 * _GAP, len(chosen) * cell_height + _TEXT + _GAP)
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

    draw.text((_GAP, _GAP), "query", _INK, font)
    legend = "nearest gallery tracklets: green = same person, red = another"
    draw.text((cell_width + 3 * _GAP, _GAP), legend, _INK, font)
    for line, place in enumerate(chosen):
        row, ranking = ranked[place]
        query = evaluation.query[row]
        top = _TEXT + line * cell_height
        paste(query, _GAP, top, _BLUE, f"AP {ranking.average_precision:.2f}")
        for column, item in enumerate(ranking.order[:_TOP], start=1):
            found = evaluation.gallery[item]
            colour = _GREEN if found.pid == query.pid else _RED
            paste(found, column * cell_width + 3 * _GAP, top, colour, f"d {evaluation.dist_QG[row, item]:.3f}")
    write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))


def _who(tracklet: Tracklet, splits: ReIDSplits) -> str:
    """Person and camera, cut to the width of a picture."""
    text = f"id {splits.person(tracklet.pid)}" + (f"  cam {splits.camera(tracklet.camid)}" if splits.cameras else "")
    return text if len(text) <= _CAPTION else text[: _CAPTION - 1] + "…"
