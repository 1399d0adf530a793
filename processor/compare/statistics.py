"""How much of a difference is chance: tests over the queries, an interval over seeds and queries, Holm's correction.

S scores, V queries with a true match, N seeds of a row.
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


def bootstrap_p(difference_SV: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p-values (S,) of the paired bootstrap for per-query differences, whose mean is 0 by the hypothesis.

    The share of resamples of the queries whose mean, shifted to the hypothesis, is at least as far from 0 as the mean
    that was found (Efron and Tibshirani 1993, section 16.4; for retrieval: Sakai, SIGIR 2006). The resamples are those
    of the intervals (`utils.metrics.mean_intervals`), so that the smallest value is 1 / 2,001.
    """
    found_S = difference_SV.mean(axis=1)
    shifted = np.abs(resampled_means(difference_SV) - found_S)
    return _share(shifted, np.abs(found_S) - _smallest(difference_SV))


def permutation_p(difference_SV: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p-values (S,) of the paired permutation test for per-query differences.

    If both rows were the same, each query's two values could as well be swapped: the share of swaps whose mean
    difference is at least as far from 0 as the one that was found (Fisher 1935; for retrieval: Smucker, Allan and
    Carterette, CIKM 2007). All swaps are counted where there are at most 10,000, else as many are drawn, and the one
    that was found counts as one of them (Phipson and Smyth 2010). Queries without any difference change nothing.
    """
    changed_SV = difference_SV[:, difference_SV.any(axis=0)]
    changed = changed_SV.shape[1]
    found_S = np.abs(changed_SV.sum(axis=1)) - len(difference_SV[0]) * _smallest(difference_SV)
    if 2**changed <= _PERMUTATIONS:
        signs = np.array(list(product((-1.0, 1.0), repeat=changed)))
        return (np.abs(signs @ changed_SV.T) >= found_S).mean(axis=0)
    rng = np.random.default_rng(_SEED)
    sums = [
        np.abs((2.0 * rng.integers(2, size=(_PER_BLOCK, changed), dtype=np.int8) - 1) @ changed_SV.T)
        for _ in range(_PERMUTATIONS // _PER_BLOCK)
    ]
    return _share(np.concatenate(sums), found_S)


def _share(drawn: NDArray[np.float64], found_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of draws (draws, S) that reach what was found, which counts as one more draw."""
    return ((drawn >= found_S).sum(axis=0) + 1) / (len(drawn) + 1)


def _smallest(difference_SV: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean difference (S,) below which only rounding counts."""
    return _ROUNDING * np.abs(difference_SV).mean(axis=1)


def over_seeds(first_NV: NDArray[np.float64], second_NV: NDArray[np.float64]) -> tuple[float, float, float]:
    """95 % interval (low, high) and two-sided p-value of mean(first) - mean(second) for other seeds and other queries.

    Each row has at least two seeds (the numbers may differ); the queries are the same. Seeds and queries are crossed
    random factors, as readers and cases in diagnostic studies (Obuchowski and Rockette 1995; Hillis 2007). The variance
    of the difference is

        var_queries(d) / V + sum over both rows of max(0, var_seeds(m) - r / V) / N,

    with d the differences of each query's means over the seeds, m the means of each seed over the queries, r the
    residual mean square of seeds x queries, which both of the other terms contain. The interval is Student's t with
    Satterthwaite's degrees of freedom, from the uncorrected terms. A bootstrap of seeds and queries is too narrow for
    the two to five seeds that are usual: where seeds differed much, it covered 78, 86 and 89 % with two, three and five
    of them in simulations, and this interval 94 to 97 %.
    """
    difference_V = first_NV.mean(axis=0) - second_NV.mean(axis=0)
    found, num_queries = float(difference_V.mean()), len(difference_V)
    of_queries = difference_V.var(ddof=1) / num_queries if num_queries > 1 else np.inf
    variance, spread = of_queries, of_queries**2 / max(1, num_queries - 1)
    for values_NV in (first_NV, second_NV):
        num_seeds = len(values_NV)
        of_seeds_N1 = values_NV.mean(axis=1, keepdims=True)
        residual_NV = values_NV - values_NV.mean(axis=0) - of_seeds_N1 + values_NV.mean()
        residual = (residual_NV**2).sum() / ((num_seeds - 1) * max(1, num_queries - 1))
        of_seeds = of_seeds_N1.var(ddof=1)
        variance += max(0.0, of_seeds - residual / num_queries) / num_seeds
        spread += (of_seeds / num_seeds) ** 2 / (num_seeds - 1)
    if not variance > (_ROUNDING * max(1.0, abs(found))) ** 2:
        return found, found, float(abs(found) <= _ROUNDING)
    if not np.isfinite(variance):
        return -np.inf, np.inf, 1.0
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
