"""A picture of the queries that changed most: what one row found above what the other found."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.tracklet import ReIDSplits, Tracklet, below
from processor import run_folder as files
from processor.compare.runs import Row, find_config
from processor.compare.table import by_change
from processor.evaluation import SheetLine, draw_sheet
from utils.errors import InputError

NAME = "changes{number}.png"
_LONGEST = 32  # characters of a row's name


def config_of(row: Row) -> Path:
    """The config that says where the frames are."""
    return find_config(row.runs[0].folder, row.runs[0].metrics)


def lines_of(row: Row, against: Row, splits: ReIDSplits, most: int) -> list[SheetLine]:
    """Two lines for each of at most `most` queries whose AP changed, the largest change first: `against`, then `row`.

    The ranked lists are those in ranks.csv of each row's first run. Raises InputError where one has none, or names
    tracklets that the data do not have.
    """
    tracklets = {_name(t, splits): t for t in (*splits.query, *splits.gallery)}
    ap = {r.name: r.values_SNV[0].mean(axis=0) for r in (row, against)}
    changed = [place for place in by_change([against, row]) if ap[row.name][place] != ap[against.name][place]]
    found = {r.name: dict(_found(r, tracklets)) for r in (against, row)}
    names = [against.queries[place].name or row.queries[place].name for place in changed[:most]]
    return [
        SheetLine(tracklets[name], f"AP {ap[r.name][place]:.2f}", found[r.name][name])
        for place, name in zip(changed, names)
        for r in (against, row)
    ]


def save_changes(path: Path, row: Row, against: Row, lines: Sequence[SheetLine], splits: ReIDSplits) -> Path:
    """Draw the lines of `lines_of`; returns the path."""
    upper, lower = (
        _short(r.name) + (f" ({r.runs[0].folder.name} of {len(r.runs)} runs)" if len(r.runs) > 1 else "")
        for r in (against, row)
    )
    draw_sheet(path, lines, splits, f"largest changes of AP; upper line of each two: {upper}, lower line: {lower}", 2)
    return path


def _found(row: Row, tracklets: dict[str, Tracklet]) -> Iterator[tuple[str, list[tuple[Tracklet, float]]]]:
    """(query, nearest gallery tracklets with their distances) of every line of ranks.csv."""
    path = row.runs[0].folder / files.RANKS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for record in csv.DictReader(file):
                nearest = [record[f"top{place}"] for place in range(1, 6)]
                distances = [record[f"top{place}_distance"] for place in range(1, 6)]
                tracklets[record["query"]]  # known, too
                found = [(tracklets[name], float(value)) for name, value in zip(nearest, distances) if name]
                yield record["query"], found
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}), and names what was found") from None
    except KeyError as error:
        raise InputError(f"{path} names {error}, which the data of the run's config do not have") from None


def _name(tracklet: Tracklet, splits: ReIDSplits) -> str:
    """The tracklet's name as ranks.csv has it."""
    return below(splits.root, tracklet.frames[0]).encode("utf-8", "backslashreplace").decode()


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
