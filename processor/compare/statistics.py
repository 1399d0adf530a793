"""How much of a difference is chance: tests over the persons, an interval over seeds and persons, Holm's correction.

Several queries of one person are alike: a row that finds one of them better mostly finds the others better too. So the
persons are the units that could have been others, each with all its queries, while a score stays the mean over the
queries. Everything here takes the sums of the values over each person's queries, and the number of these queries.

S scores, P persons with a query that has a true match, V such queries, N seeds of a row.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from utils.metrics import resampled_means

_PERMUTATIONS = 10_000  # a p-value of 0.05 is then good to about 0.004 (two standard errors)
_PER_BLOCK = 1_000  # permutations that are held at once
_SEED = 0  # the same runs have the same p-values
_ROUNDING = 1e-10  # of the sum of all absolute differences: means that differ by less are equal


def person_intervals(sums_SP: NDArray[np.float64], counts_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """95 % intervals (S, 2), low and high, of the means over the queries, for other persons.

    Percentile bootstrap of clusters (Davison and Hinkley 1997, section 3.8): persons are drawn with replacement, each
    with all its queries. With one query for each person it is `utils.metrics.mean_intervals`.
    """
    return np.quantile(_resampled(sums_SP, counts_P), (0.025, 0.975), axis=0).T


def bootstrap_p(sums_SP: NDArray[np.float64], counts_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """Two-sided p-values (S,) of the paired bootstrap for differences, whose mean is 0 by the hypothesis.

    The share of resamples of the persons whose mean, shifted to the hypothesis, is at least as far from 0 as the mean
    that was found (Efron and Tibshirani 1993, section 16.4; for retrieval: Sakai, SIGIR 2006). The resamples are those
    of `person_intervals`, so that the smallest value is 1 / 2,001.
    """
    found_S = sums_SP.sum(axis=1) / counts_P.sum()
    shifted = np.abs(_resampled(sums_SP, counts_P) - found_S)
    return _share(shifted, np.abs(found_S) - _smallest(sums_SP) / counts_P.sum())


def _resampled(sums_SP: NDArray[np.float64], counts_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means (resamples, S) over the queries of persons drawn with replacement."""
    *sums, counts = resampled_means(np.vstack([sums_SP, counts_P])).T
    return np.stack(sums, axis=1) / counts[:, None]


def permutation_p(sums_SP: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p-values (S,) of the paired permutation test for differences.

    If both rows were the same, their values could as well be swapped for all queries of a person: the share of swaps
    whose mean difference is at least as far from 0 as the one that was found (Fisher 1935; for retrieval: Smucker,
    Allan and Carterette, CIKM 2007). All swaps are counted where there are at most 10,000, else as many are drawn, and
    the one that was found counts as one of them (Phipson and Smyth 2010). Persons without any difference change
    nothing.
    """
    changed_SP = sums_SP[:, sums_SP.any(axis=0)]
    changed = changed_SP.shape[1]
    found_S = np.abs(changed_SP.sum(axis=1)) - _smallest(sums_SP)
    if 2**changed <= _PERMUTATIONS:
        signs = np.array(list(product((-1.0, 1.0), repeat=changed)))
        return (np.abs(signs @ changed_SP.T) >= found_S).mean(axis=0)
    rng = np.random.default_rng(_SEED)
    sums = [
        np.abs((2.0 * rng.integers(2, size=(_PER_BLOCK, changed), dtype=np.int8) - 1) @ changed_SP.T)
        for _ in range(_PERMUTATIONS // _PER_BLOCK)
    ]
    return _share(np.concatenate(sums), found_S)


def _share(drawn: NDArray[np.float64], found_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of draws (draws, S) that reach what was found, which counts as one more draw."""
    return ((drawn >= found_S).sum(axis=0) + 1) / (len(drawn) + 1)


def _smallest(sums_SP: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of differences (S,) below which only rounding counts."""
    return _ROUNDING * np.abs(sums_SP).sum(axis=1)


def over_seeds(
    first_NP: NDArray[np.float64], second_NP: NDArray[np.float64], counts_P: NDArray[np.int64]
) -> tuple[float, float, float]:
    """95 % interval (low, high) and two-sided p-value of mean(first) - mean(second) for other seeds and other persons.

    Given are each row's sums of a score over each person's queries. Each row has at least two seeds (the numbers may
    differ); the queries are the same. Seeds and persons are crossed random factors, as readers and cases in diagnostic
    studies (Obuchowski and Rockette 1995; Hillis 2007). The variance of the difference is

        var_persons(d) + sum over both rows of max(0, var_seeds(m) - var_persons(r)) / N,

    with d the differences of each query's means over the seeds, m the means of each seed over the queries, r what seeds
    and queries leave unexplained in one seed, which both of the other terms contain; var_persons is the variance of the
    mean over the queries where whole persons are drawn (a ratio: Cochran 1977, section 6.4). The interval is Student's
    t with Satterthwaite's degrees of freedom, from the uncorrected terms. A bootstrap of both is too narrow for
    the two to five seeds that are usual: where seeds differed much, it covered 78, 86 and 89 % with two, three and
    five of them in simulations, and this interval 93 to 98 %.
    """
    num_queries, num_persons = counts_P.sum(), len(counts_P)
    if num_persons < 2:
        return -np.inf, np.inf, 1.0
    to_variance = num_persons / (num_persons - 1) / num_queries**2  # of sums of squares over the persons
    difference_P = first_NP.mean(axis=0) - second_NP.mean(axis=0)
    found = float(difference_P.sum() / num_queries)
    variance = to_variance * ((difference_P - found * counts_P) ** 2).sum()
    spread = variance**2 / (num_persons - 1)
    for sums_NP in (first_NP, second_NP):
        num_seeds = len(sums_NP)
        of_seeds_N1 = sums_NP.sum(axis=1, keepdims=True) / num_queries
        residual_NP = sums_NP - sums_NP.mean(axis=0) - counts_P * (of_seeds_N1 - of_seeds_N1.mean())
        residual = to_variance * (residual_NP**2).sum() / (num_seeds - 1)
        of_seeds = of_seeds_N1.var(ddof=1)
        variance += max(0.0, of_seeds - residual) / num_seeds
        spread += (of_seeds / num_seeds) ** 2 / (num_seeds - 1)
    if not variance > (_ROUNDING * max(1.0, abs(found))) ** 2:
        return found, found, float(abs(found) <= _ROUNDING)
    error, freedom = np.sqrt(variance), variance**2 / spread
    half = stats.t.ppf(0.975, freedom) * error
    return found - half, found + half, float(2 * stats.t.sf(abs(found) / error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, corrected so that all together are wrong with at most the chance of one (Holm 1979)."""
    order, corrected, least = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = least
    return corrected
