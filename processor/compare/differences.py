"""Differences between rows: how large, how sure, and whether they hold when several are compared.

S scores with an interval (utils.metrics.WITH_INTERVAL), V queries with a true match, N seeds of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from processor.compare.runs import Row
from processor.compare.statistics import bootstrap_p, holm, over_seeds, permutation_p
from utils.metrics import SCORES, WITH_INTERVAL, mean_intervals

LEVEL = 0.05  # below it a difference holds
_TESTED = [list(SCORES).index(name) for name in WITH_INTERVAL]


@dataclass(frozen=True)
class Score:
    """One score of one row; fractions."""

    row: str
    name: str  # of SCORES
    value: float  # mean over the seeds
    spread: float | None  # standard deviation over the seeds (n - 1); None for one seed
    interval: tuple[float, float] | None  # 95 %, over the queries, for these trainings; None for Rank-5 and beyond


@dataclass(frozen=True)
class Difference:
    """One score of `row` minus that of `against`; fractions, intervals of 95 %."""

    row: str
    against: str
    name: str  # of WITH_INTERVAL
    value: float
    interval: tuple[float, float]  # over the queries, for these trainings
    p_bootstrap: float  # over the queries
    p_permutation: float
    seeds_interval: tuple[float, float] | None  # over seeds and queries; None unless both rows have several seeds
    p_seeds: float | None
    p_holm: float = 1.0  # of `p`, after Holm's correction over the differences of this score

    @property
    def p(self) -> float:
        """The p-value that decides: over seeds and queries where that is known, else of the permutation test."""
        return self.p_permutation if self.p_seeds is None else self.p_seeds

    @property
    def holds(self) -> bool:
        """Whether it is marked with a star."""
        return self.p_holm < LEVEL


def scores_of(row: Row) -> list[Score]:
    """All SCORES of a row."""
    values_SNV = row.values_SNV
    intervals = dict(zip(WITH_INTERVAL, _pairs(mean_intervals(values_SNV[_TESTED].mean(axis=1)))))
    found = []
    for name, of_seeds in zip(SCORES, values_SNV.mean(axis=2)):
        spread = float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else None
        found.append(Score(row.name, name, float(of_seeds.mean()), spread, intervals.get(name)))
    return found


def compare(pairs: Sequence[tuple[Row, Row]]) -> list[Difference]:
    """The differences of all pairs (row, against), for each score of WITH_INTERVAL in turn.

    The rows are those of `check_comparable`. Tests over the queries take each query's mean over the seeds of a row:
    they say what other queries would change with these trainings, not what other trainings would. Queries
    count as independent; several of one person are alike, for which intervals and p-values are rather too sure. Holm's
    correction is over the pairs, for each score by itself.
    """
    by_pair = [_differences(row, against) for row, against in pairs]
    corrected = []
    for of_score in zip(*by_pair):
        p_holm = holm([difference.p for difference in of_score])
        corrected.append([replace(difference, p_holm=p) for difference, p in zip(of_score, p_holm)])
    return [difference for of_pair in zip(*corrected) for difference in of_pair]


def _differences(row: Row, against: Row) -> list[Difference]:
    """Those of one pair, not corrected."""
    first_SNV, second_SNV = row.values_SNV[_TESTED], against.values_SNV[_TESTED]
    difference_SV = first_SNV.mean(axis=1) - second_SNV.mean(axis=1)
    columns = zip(
        WITH_INTERVAL, difference_SV.mean(axis=1).tolist(), _pairs(mean_intervals(difference_SV)),
        bootstrap_p(difference_SV).tolist(), permutation_p(difference_SV).tolist(),
    )  # fmt: skip
    found = []
    for score, (name, value, interval, p_bootstrap, p_permutation) in enumerate(columns):
        seeds_interval, p_seeds = None, None
        if len(row.runs) > 1 and len(against.runs) > 1:
            low, high, p_seeds = over_seeds(first_SNV[score], second_SNV[score])
            seeds_interval = (low, high)
        found.append(
            Difference(
                row.name, against.name, name, value, interval, p_bootstrap, p_permutation, seeds_interval, p_seeds
            )
        )
    return found


def _pairs(intervals_S2: NDArray[np.float64]) -> list[tuple[float, float]]:
    return [(low, high) for low, high in intervals_S2.tolist()]
