"""A picture of the queries that changed most: what one row found above what the other found."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from datasets.tracklet import ReIDSplits, Tracklet, below
from processor import run_folder as files
from processor.compare.runs import Row, find_config, tested_keys
from processor.compare.table import by_change
from processor.evaluation import BLUE, GREEN, RED, SheetCell, draw_sheet, reader
from utils.errors import InputError

NAME = "changes{number}.png"
_TOP = 5  # gallery tracklets per query
_LONGEST = 24  # characters of a row's name in the legend

Lines = list[list[SheetCell]]  # a query and what was found for it


def config_of(row: Row) -> tuple[Path | None, list[str]]:
    """The config file and KEY VALUE pairs of the test, which say where the frames are; no file where the pairs do."""
    run = row.runs[0]
    keys = tested_keys(run.metrics)
    return None if keys else find_config(run.folder, run.metrics), keys


def lines_of(row: Row, against: Row, splits: ReIDSplits, most: int) -> Lines:
    """Two lines for each of at most `most` queries whose AP changed, the largest change first: `against`, then `row`.

    The ranked lists are those in ranks.csv of each row's first run, AP is the mean over its seeds. Raises InputError
    where one has no ranks.csv, or names tracklets that the data do not have.
    """
    tracklets = {_name(t, splits): t for t in (*splits.query, *splits.gallery)}
    ap = {r.name: r.values_SNV[0].mean(axis=0) for r in (row, against)}
    changed = [place for place in by_change([against, row]) if ap[row.name][place] != ap[against.name][place]]
    found = {r.name: dict(_found(r, tracklets)) for r in (against, row)}
    lines = []
    for place in changed[:most]:
        query = tracklets[against.queries[place].name]
        for r in (against, row):
            cells = [_cell(query, BLUE, f"AP {ap[r.name][place]:.2f}  {r.name}", splits)]
            for other, distance in found[r.name][against.queries[place].name]:
                colour = GREEN if other.pid == query.pid else RED
                cells.append(_cell(other, colour, f"d {float(distance):.3f}", splits))
            lines.append(cells)
    return lines


def save_changes(path: Path, row: Row, against: Row, lines: Lines, splits: ReIDSplits) -> Path:
    """Draw the lines of `lines_of`; returns the path."""
    upper, lower = (
        (r.name if len(r.name) <= _LONGEST else r.name[: _LONGEST - 1] + "…")
        + (", first seed" if len(r.runs) > 1 else "")
        for r in (against, row)
    )
    legend = f"green = same person, red = another; of two lines the upper: {upper}, the lower: {lower}"
    draw_sheet(path, lines, _TOP, legend, reader(splits))
    return path


def _found(row: Row, tracklets: Mapping[str, Tracklet]) -> Iterator[tuple[str, list[tuple[Tracklet, str]]]]:
    """(query, nearest gallery tracklets with their distances) of every line of ranks.csv."""
    path = row.runs[0].folder / files.RANKS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for record in csv.DictReader(file):
                tracklets[record["query"]]  # known, too
                names = [(record[f"top{place}"], record[f"top{place}_distance"]) for place in range(1, _TOP + 1)]
                yield record["query"], [(tracklets[name], distance) for name, distance in names if name]
    except OSError as error:
        raise InputError(f"{path}, which names what was found, cannot be read ({error.strerror})") from None
    except KeyError as error:
        raise InputError(f"{path}: {error} is not there, or not in the data of the run's config") from None


def _cell(tracklet: Tracklet, colour: str, note: str, splits: ReIDSplits) -> SheetCell:
    camera = f"  cam {splits.camera(tracklet.camid)}" if splits.cameras else ""
    return SheetCell(tracklet.frames, colour, (f"id {splits.person(tracklet.pid)}{camera}", note))


def _name(tracklet: Tracklet, splits: ReIDSplits) -> str:
    """The tracklet's name as ranks.csv has it."""
    return below(splits.root, tracklet.frames[0]).encode("utf-8", "backslashreplace").decode()
