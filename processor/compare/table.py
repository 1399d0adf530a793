"""The comparison as text: tables on screen, compare.csv and queries.csv."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from processor.compare.differences import LEVEL, Difference, Score
from processor.compare.runs import Row
from utils.files import save_csv
from utils.metrics import SCORES

TABLE, QUERIES = "compare.csv", "queries.csv"
_FEW = 50  # persons; below them a percentile bootstrap is too narrow (docs/evaluation.md has the measured coverage)
_COLUMNS = (
    "row", "against", "score", "seeds", "value", "spread", "low", "high", "p_bootstrap", "p_permutation", "seeds_low",
    "seeds_high", "p_seeds", "decides", "p_holm", "star",
)  # fmt: skip


def score_lines(rows: Sequence[Row], scores: Sequence[Sequence[Score]]) -> list[str]:
    """The scores of every row in percent, with intervals and the spread over the seeds."""
    body = [
        [row.name, str(len(row.runs)), *(f"{_percent(s.value)}{_spread(s)}{_interval(s)}" for s in found)]
        for row, found in zip(rows, scores)
    ]
    title = "percent [95 % interval over the persons, for these trainings]"
    title += ", ± standard deviation over the seeds:" if any(len(row.runs) > 1 for row in rows) else ":"
    return [title, *aligned(["", "seeds", *SCORES.values()], body)]


def _spread(score: Score) -> str:
    return "" if score.spread is None else f" ± {_percent(score.spread)}"


def _interval(score: Score) -> str:
    return "" if score.interval is None else " [{}, {}]".format(*map(_percent, score.interval))


def difference_lines(differences: Sequence[Difference]) -> list[str]:
    """Every difference in points with its intervals and p-values, and what they mean."""
    with_seeds = any(difference.p_seeds is not None for difference in differences)
    header = ["", "", "difference", "over persons", "p bootstrap", "p permutation"]
    header += ["over seeds and persons", "p seeds"] if with_seeds else []
    header += ["p Holm", ""]
    body = []
    for d in differences:
        cells = [f"{d.row} - {d.against}", SCORES[d.name], _points(d.value), _points_interval(d.interval)]
        cells += [_chance(d.p_bootstrap), _chance(d.p_permutation)]
        if with_seeds:
            cells += ["-", "-"] if d.p_seeds is None else [_points_interval(d.seeds_interval), _chance(d.p_seeds)]
        body.append([*cells, _chance(d.p_holm), "*" if d.holds else ""])
    return ["differences in points [95 % interval]:", *aligned(header, body), *_notes(differences, with_seeds)]


def _notes(differences: Sequence[Difference], with_seeds: bool) -> list[str]:
    pairs = len({(d.row, d.against) for d in differences})
    decides = "'p seeds' where there is one, else 'p permutation'" if with_seeds else "'p permutation'"
    notes = [
        f"p Holm: {decides}, corrected for {pairs} comparison{'s' * (pairs > 1)} of one score (Holm); * below {LEVEL}"
    ]
    notes.append(
        "over persons: the queries of one person are alike, so each person counts as one, with all its queries; "
        "ci95 in metrics.json takes every query by itself and is narrower where persons have several"
    )
    if any(d.p_seeds is None for d in differences):
        notes.append(
            "a row of one seed: its intervals and p-values are about other persons, not about another training of the "
            "same method; several seeds would tell"
        )
    return notes


def size_lines(rows: Sequence[Row]) -> list[str]:
    """What was tested, and a warning where the persons are few."""
    metrics, scored = rows[0].runs[0].metrics, len(rows[0].queries)
    left_out = f" ({metrics['num_query'] - scored} without a true match are left out)"
    lines = [
        f"{metrics['protocol']['dataset']}, {metrics['num_query']} queries"
        f"{left_out if scored < metrics['num_query'] else ''} against {metrics['num_gallery']} gallery tracklets"
    ]
    persons = len(rows[0].counts_P)
    if persons < _FEW:
        never = f", and can never fall below {LEVEL}" if 2.0 ** (1 - persons) >= LEVEL else ""
        lines.append(
            f"the queries show {persons} person{'s' * (persons > 1)}, which is few: intervals over persons and 'p "
            "bootstrap' are too sure then (95 % means about 91 with 20 persons, 80 with 5), 'p permutation' holds"
            + never
        )
    return lines


def save_table(path: Path, rows: Sequence[Row], scores: Sequence[Sequence[Score]], found: Sequence[Difference]) -> None:
    """Write compare.csv: scores (`against` is empty), then differences; fractions."""
    seeds = {row.name: len(row.runs) for row in rows}
    records = [
        {"row": s.row, "score": s.name, "seeds": seeds[s.row], "value": _six(s.value), "spread": _six(s.spread)}
        | _bounds("", s.interval)
        for of_row in scores
        for s in of_row
    ]
    for d in found:
        record = {"row": d.row, "against": d.against, "score": d.name, "seeds": seeds[d.row], "value": _six(d.value)}
        record |= _bounds("", d.interval) | _bounds("seeds_", d.seeds_interval)
        p_values = {name: getattr(d, name) for name in ("p_bootstrap", "p_permutation", "p_seeds", "p_holm")}
        record |= {name: f"{p:.6g}" for name, p in p_values.items() if p is not None}
        records.append(record | {"decides": d.decides, "star": "*" if d.holds else ""})
    save_csv(path, _COLUMNS, records)


def save_queries(path: Path, rows: Sequence[Row]) -> None:
    """Write queries.csv: AP of each row (mean over its seeds) and its difference to the first, largest change first."""
    first, *others = rows
    ap = {row.name: row.values_SNV[list(SCORES).index("mAP")].mean(axis=0) for row in rows}
    columns = ["query", "pid", "camera", *(f"AP {row.name}" for row in rows)]
    columns += [f"change {row.name}" for row in others]
    lines = []
    for place in by_change(rows):
        changes = [ap[row.name][place] - ap[first.name][place] for row in others]
        lines.append([*first.queries[place], *(_six(ap[row.name][place]) for row in rows), *map(_six, changes)])
    save_csv(path, columns, lines)


def by_change(rows: Sequence[Row]) -> list[int]:
    """Places of the queries (V), those first whose AP differs most between the first row and any other."""
    ap_RV = np.array([row.values_SNV[list(SCORES).index("mAP")].mean(axis=0) for row in rows])
    change_V = np.abs(ap_RV[1:] - ap_RV[0]).max(axis=0)
    return np.argsort(-change_V.round(9), kind="stable").tolist()


def aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A line per row: the first column stands left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *body)]
    lines = []
    for first, *others in (header, *body):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _points_interval(interval: tuple[float, float]) -> str:
    return "[{}, {}]".format(*map(_points, interval))


def _chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"


def _six(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _bounds(prefix: str, interval: tuple[float, float] | None) -> dict[str, str]:
    low, high = (None, None) if interval is None else interval
    return {f"{prefix}low": _six(low), f"{prefix}high": _six(high)}
