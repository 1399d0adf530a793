"""Stars of an ablation's tables: rows whose mAP differs from that of the first row of their table."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from processor.compare import Row, check_comparable, compare, load_row
from processor.run_folder import SPLITS_TABLE
from utils.errors import InputError, MissingFileError

NOTE = (
    "* mAP differs, up or down, from that of the first row of the table that was tested on the same data: p < 0.05 "
    "after Holm's correction over the rows of the table. With several seeds each, p is about other seeds and other "
    "persons; with one, about other persons alone (a paired permutation test): for these trainings, not for the method."
)


_OF_THE_TEST = ("sampling", "re_ranking", "neck_feat", "feat_norm")  # of a protocol: no part of the method


@dataclass(frozen=True)
class Mark:
    """How sure a row's difference to its reference is."""

    reference: str  # label of the first row
    p: float  # of the difference in mAP, after Holm's correction
    decides: str  # the test that it comes from: 'p_seeds' or 'p_permutation'
    holds: bool


def find_marks(rows: Sequence[tuple[str, str, str, Sequence[Path]]]) -> tuple[list[Mark | None], list[str]]:
    """Marks of the rows (table, data set, label, folders of the finished runs), and why rows have none.

    The reference is the first row of the same table and data set that has runs: in the paper's tables the plainest one.
    Rows of a table stand together. None for the reference itself, for a row without runs and for one that cannot be
    compared, for instance because its runs have no ranks.csv.
    """
    loaded: dict[int, Row] = {}
    reasons: list[str] = []
    for number, (_, _, label, folders) in enumerate(rows):
        if any((folder / SPLITS_TABLE).exists() for folder in folders):
            reasons.append(f"{label} is tested on several splits, which share people; such rows get no star")
        elif folders:
            try:
                loaded[number] = load_row(str(number), folders)
            except MissingFileError:
                reasons.append(
                    f"{folders[0].parent} holds runs without the scores of their queries (ranks.csv); with "
                    "TEST.SAVE_RANKS True on the command line they are tested once more"
                )
            except InputError as error:
                reasons.append(error.line)
    marks: list[Mark | None] = [None] * len(rows)
    for _, group in groupby(sorted(range(len(rows)), key=lambda n: rows[n][:2]), key=lambda n: rows[n][:2]):
        with_runs = [number for number in group if rows[number][3]]
        if not with_runs or with_runs[0] not in loaded:
            continue
        first, *others = with_runs
        pairs = []
        for number in (number for number in others if number in loaded):
            try:
                reference, row = check_comparable([loaded[first], loaded[number]])
                if differing := [name for name in _OF_THE_TEST if len(_values(reference, row, name)) > 1]:
                    names = f"{rows[number][2]} and {rows[first][2]}"
                    raise InputError(f"{names} were tested in other ways ({', '.join(differing)})")
                pairs.append((row, reference))
            except InputError as error:
                reasons.append(error.line)
        for difference in compare(pairs):
            if difference.name == "mAP":
                against, p = rows[first][2], difference.p_holm
                marks[int(difference.row)] = Mark(against, p, difference.decides, difference.holds)
    return marks, list(dict.fromkeys(reasons))


def _values(reference: Row, row: Row, name: str) -> set[str]:
    """What the tests of both rows chose for this field of the protocol."""
    return {str(run.metrics["protocol"].get(name)) for run in (*reference.runs, *row.runs)}
