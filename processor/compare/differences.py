"""Differences between rows: how large, how sure, and whether they hold when several are compared.

S scores with an interval (utils.metrics.WITH_INTERVAL), P persons with a query that has a true match, N seeds of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from processor.compare.runs import Row
from processor.compare.statistics import bootstrap_p, holm, over_seeds, permutation_p, person_intervals
from utils.metrics import SCORES, WITH_INTERVAL

LEVEL = 0.05  # below it a difference holds
_TESTED = [list(SCORES).index(name) for name in WITH_INTERVAL]


@dataclass(frozen=True)
class Score:
    """One score of one row; fractions."""

    row: str
    name: str  # of SCORES
    value: float  # mean over the seeds
    spread: float | None  # standard deviation over the seeds (n - 1); None for one seed
    interval: tuple[float, float] | None  # 95 %, over the persons, for these trainings; None for Rank-5 and beyond


@dataclass(frozen=True)
class Difference:
    """One score of `row` minus that of `against`; fractions, intervals of 95 %."""

    row: str
    against: str
    name: str  # of WITH_INTERVAL
    value: float
    interval: tuple[float, float]  # over the persons, for these trainings
    p_bootstrap: float  # over the persons, as p_permutation
    p_permutation: float
    seeds_interval: tuple[float, float] | None  # over seeds and persons; None unless both rows have several seeds
    p_seeds: float | None
    p_holm: float = 1.0  # of `p`, after Holm's correction over the differences of this score

    @property
    def decides(self) -> str:
        """The name of the p-value that decides: over seeds and persons where that is known, else of permutations."""
        return "p_permutation" if self.p_seeds is None else "p_seeds"

    @property
    def p(self) -> float:
        """The p-value that decides."""
        return getattr(self, self.decides)

    @property
    def holds(self) -> bool:
        """Whether it is marked with a star."""
        return self.p_holm < LEVEL


def scores_of(row: Row) -> list[Score]:
    """All SCORES of a row."""
    sums_SP = row.sums_SNP[_TESTED].mean(axis=1)
    intervals = dict(zip(WITH_INTERVAL, _pairs(person_intervals(sums_SP, row.counts_P))))
    found = []
    for name, of_seeds in zip(SCORES, row.values_SNV.mean(axis=2)):
        spread = float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else None
        found.append(Score(row.name, name, float(of_seeds.mean()), spread, intervals.get(name)))
    return found


def compare(pairs: Sequence[tuple[Row, Row]]) -> list[Difference]:
    """The differences of all pairs (row, against), for each score of WITH_INTERVAL in turn.

    The rows are those of `check_comparable`. Tests over the persons take each query's mean over the seeds of a row:
    they say what other persons, with their queries, would change with these trainings, not what other trainings would.
    Persons count as independent, the queries of one do not. Holm's correction is over the pairs, for each score by
    itself.
    """
    by_pair = [_differences(row, against) for row, against in pairs]
    corrected = []
    for of_score in zip(*by_pair):
        p_holm = holm([difference.p for difference in of_score])
        corrected.append([replace(difference, p_holm=p) for difference, p in zip(of_score, p_holm)])
    return [difference for of_pair in zip(*corrected) for difference in of_pair]


def _differences(row: Row, against: Row) -> list[Difference]:
    """Those of one pair, not corrected."""
    first_SNP, second_SNP, counts_P = row.sums_SNP[_TESTED], against.sums_SNP[_TESTED], row.counts_P
    sums_SP = first_SNP.mean(axis=1) - second_SNP.mean(axis=1)
    columns = zip(
        WITH_INTERVAL, (sums_SP.sum(axis=1) / counts_P.sum()).tolist(), _pairs(person_intervals(sums_SP, counts_P)),
        bootstrap_p(sums_SP, counts_P).tolist(), permutation_p(sums_SP).tolist(),
    )  # fmt: skip
    found = []
    for score, (name, value, interval, p_bootstrap, p_permutation) in enumerate(columns):
        seeds_interval, p_seeds = None, None
        if len(row.runs) > 1 and len(against.runs) > 1:
            low, high, p_seeds = over_seeds(first_SNP[score], second_SNP[score], counts_P)
            seeds_interval = (low, high)
        found.append(
            Difference(
                row.name, against.name, name, value, interval, p_bootstrap, p_permutation, seeds_interval, p_seeds
            )
        )
    return found


def _pairs(intervals_S2: NDArray[np.float64]) -> list[tuple[float, float]]:
    return [(low, high) for low, high in intervals_S2.tolist()]
