"""What a search has found, as lines, table and picture.

Q queries, G gallery tracklets, K nearest of each query.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.frames import FILES, read_frames_into
from processor.evaluation import BLUE, GREEN, GREY, RED, SheetCell, draw_sheet
from processor.extractor import FeatureTable
from utils.errors import InputError
from utils.files import save_csv

logger = logging.getLogger(__name__)

CSV, SHEET = "search.csv", "search.png"
_COLUMNS = ("query", "query_person", "query_camera", "rank", "name", "person", "camera", "frames", "distance")
_DRAWN_QUERIES, _DRAWN_TOP = 20, 10


@dataclass(frozen=True)
class Found:
    """The nearest gallery tracklets of each query."""

    query: FeatureTable
    gallery: FeatureTable
    rows_QK: NDArray[np.int64]  # of the gallery, nearest first
    dist_QK: NDArray[np.float32]

    def lines(self, most: int | None) -> Iterator[str]:
        """A block of lines for each query, or for the first `most`."""
        gallery = self.gallery
        for query, (rows, dist) in enumerate(zip(self.rows_QK[:most], self.dist_QK)):
            yield f"{self.query.names[query]}:"
            width = max(len(gallery.names[row]) for row in rows)
            for rank, (row, distance) in enumerate(zip(rows, dist), start=1):
                notes = [f"{title} {text}" for title, text in (("person", gallery.persons[row]),
                         ("camera", gallery.cameras[row])) if text]  # fmt: skip
                yield f"{rank:>4}  {distance:.4f}  {gallery.names[row]:<{width}}  {', '.join(notes)}".rstrip()
        if most is not None and len(self.rows_QK) > most:
            yield f"and {len(self.rows_QK) - most:,} more queries in {CSV}"

    def records(self) -> Iterator[tuple]:
        """The rows of search.csv."""
        query, gallery = self.query, self.gallery
        for q, (rows, dist) in enumerate(zip(self.rows_QK, self.dist_QK)):
            for rank, (row, distance) in enumerate(zip(rows, dist), start=1):
                frames = gallery.frames[row] or ""
                yield (query.names[q], query.persons[q], query.cameras[q], rank, gallery.names[row],
                       gallery.persons[row], gallery.cameras[row], frames, f"{distance:.6f}")  # fmt: skip


def save(found: Found, out: Path) -> list[Path]:
    """Write search.csv, and search.png where the frames can be reached; returns what was written."""
    save_csv(out / CSV, _COLUMNS, found.records(), errors="backslashreplace")
    (out / SHEET).unlink(missing_ok=True)  # of an earlier search
    rows_QK = found.rows_QK[:_DRAWN_QUERIES, :_DRAWN_TOP]
    drawn = [*found.query.pictures[: len(rows_QK)].tolist(), *found.gallery.pictures[np.unique(rows_QK)].tolist()]
    missing = [path for path in drawn if not os.path.isfile(path)]
    if missing:
        advice = f", such as {named[0]}" if (named := list(filter(None, missing))) else ""
        if "" in missing:
            advice += "; python -m processor.extract keeps the crops of a list in its --cache"
        logger.info("no %s: %d of %d frames to draw are not at hand%s", SHEET, len(missing), len(drawn), advice)
        return [out / CSV]
    legend = "nearest gallery tracklets: green = same person, red = another, grey = not known"
    rows = [_cells(found, query, rows) for query, rows in enumerate(rows_QK)]
    try:
        draw_sheet(out / SHEET, rows, rows_QK.shape[1], legend, _read)
    except InputError as error:  # the table is complete without it
        logger.warning("no %s: %s", SHEET, error.line)
        return [out / CSV]
    if len(found.rows_QK) > _DRAWN_QUERIES:
        logger.info("%s shows the first %d of %d queries", SHEET, _DRAWN_QUERIES, len(found.rows_QK))
    return [out / CSV, out / SHEET]


def _cells(found: Found, query: int, rows: NDArray[np.int64]) -> list[SheetCell]:
    """The query and its nearest, each with its name and what is known of it."""
    person = found.query.persons[query]
    cells = [SheetCell([found.query.pictures[query]], BLUE, (_who(found.query, query), ""))]
    for row, distance in zip(rows, found.dist_QK[query]):
        other = found.gallery.persons[row]
        colour = GREY if not (person and other) else GREEN if person == other else RED
        note = f"d {distance:.3f}"
        cells.append(SheetCell([found.gallery.pictures[row]], colour, (_who(found.gallery, row), note)))
    return cells


def _who(table: FeatureTable, row: int) -> str:
    """Person and camera as on the contact sheet, or the name."""
    person, camera = table.persons[row], table.cameras[row]
    if not person:
        return str(table.names[row])
    return f"id {person}" + (f"  cam {camera}" if camera else "")


def _read(frame_1HW3: NDArray[np.uint8], frames: Sequence[str]) -> None:
    read_frames_into(frame_1HW3, frames, FILES)
