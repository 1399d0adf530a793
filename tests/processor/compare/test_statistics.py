"""Intervals have their coverage, tests their rate of false alarms; both agree with scipy where it computes the same."""

import math

import numpy as np
import pytest
from scipy import stats

from processor.compare import statistics
from processor.compare.statistics import bootstrap_p, holm, over_seeds, permutation_p
from utils import metrics
from utils.metrics import mean_intervals
from utils.ranking import average_precision


def means_of(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return values.mean(axis=axis)


def population(seed: int, size: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """AP of two methods for every query that could be drawn: most easy for both, some hard; the second is better."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(2.0, 2.0, size)
    return tuple(1 / (1 + np.exp(-(ease + gain + rng.normal(0, 0.8, size)))) for gain in (0.0, 0.2))


def coverage(intervals: np.ndarray, truth: float) -> float:
    return float(((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean())


@pytest.fixture
def quick_resamples(monkeypatch):
    """The means of the resamples for a thousand query sets at once: the same draws, counted and multiplied."""

    def quick(values_SV: np.ndarray) -> np.ndarray:
        rng, size = np.random.default_rng(metrics._RESAMPLING_SEED), values_SV.shape[1]
        draws = (rng.integers(size, size=size, dtype=np.int32) for _ in range(metrics._RESAMPLES))
        return np.stack([np.bincount(draw, minlength=size) for draw in draws]) @ values_SV.T / size

    few = np.random.default_rng(0).random((2, 300))
    np.testing.assert_allclose(quick(few), metrics.resampled_means(few), rtol=1e-12)
    monkeypatch.setattr(metrics, "resampled_means", quick)
    monkeypatch.setattr(statistics, "resampled_means", quick)


def test_a_small_case_by_hand():
    """Three queries, all better by different amounts: of the eight swaps only none and all reach the mean."""
    difference = np.array([[0.1, 0.2, 0.3]])
    assert permutation_p(difference).tolist() == [2 / 8]
    assert permutation_p(-difference).tolist() == [2 / 8]
    # Swapping 0.1 alone, or the others alone, also gives |0.4|; the two largest cancel nothing else.
    assert permutation_p(np.array([[-0.1, 0.2, 0.3]])).tolist() == [4 / 8]


def test_equal_rows_are_not_different():
    zero = np.zeros((2, 40))
    assert permutation_p(zero).tolist() == bootstrap_p(zero).tolist() == [1, 1]
    assert mean_intervals(zero).tolist() == [[0, 0], [0, 0]]
    seeds = np.random.default_rng(0).random((3, 40))
    low, high, p = over_seeds(seeds, seeds)
    assert low < 0 < high and p == 1
    assert over_seeds(seeds[[0, 0]], seeds[[0, 0]]) == (0, 0, 1)
    assert over_seeds(np.ones((2, 9)), np.zeros((2, 9))) == (1, 1, 0)


def test_scores_and_unchanged_queries_do_not_disturb_each_other():
    rng = np.random.default_rng(1)
    difference = rng.normal(0.1, 1, (2, 9))
    alone = [permutation_p(row[None])[0] for row in difference]
    assert permutation_p(difference).tolist() == alone
    padded = np.concatenate([difference, np.zeros((2, 30))], axis=1)
    assert permutation_p(padded).tolist() == alone


def test_all_swaps_agree_with_scipy_to_the_last_one():
    difference = np.random.default_rng(2).normal(0.3, 1, (3, 11))
    for row, p in zip(difference, permutation_p(difference)):
        expected = stats.permutation_test((row, -row), lambda x, y, axis: means_of(x, axis), permutation_type="samples")
        assert p == pytest.approx(expected.pvalue, abs=1e-12)


def test_drawn_swaps_agree_with_scipy_within_their_error():
    difference = np.random.default_rng(3).normal([[0.0], [0.1], [0.2]], 1, (3, 150))
    for row, p in zip(difference, permutation_p(difference)):
        expected = stats.permutation_test(
            (row,), means_of, permutation_type="samples", n_resamples=10_000, rng=4
        ).pvalue
        assert abs(p - expected) < 5 * math.sqrt(2 * max(p * (1 - p), 1e-4) / 10_000)


def test_the_bootstrap_agrees_with_scipy_within_its_error():
    difference = np.random.default_rng(5).normal([[0.0], [0.15]], 1, (2, 200))
    for row, p, interval in zip(difference, bootstrap_p(difference), mean_intervals(difference)):
        expected = stats.bootstrap((row,), np.mean, n_resamples=20_000, method="percentile", rng=6)
        width = interval[1] - interval[0]
        ends = expected.confidence_interval
        assert np.abs(interval - [ends.low, ends.high]).max() < 0.06 * width  # an end is good to 3 % of half the width
        share = (np.abs(expected.bootstrap_distribution - row.mean()) >= abs(row.mean())).mean()
        assert abs(p - share) < 5 * math.sqrt(1.1 * max(p * (1 - p), 1e-3) / 2_000)


@pytest.mark.parametrize("queries", [200, 1980])
def test_intervals_cover_and_tests_alarm_as_often_as_they_say(queries, quick_resamples):
    """1,000 query sets drawn from a known population; of swapped pairs no difference is real."""
    draws, (first, second) = 1000, population(queries)
    rng = np.random.default_rng(7)
    chosen = rng.integers(len(first), size=(draws, queries))
    difference = (second - first)[chosen]
    assert 0.93 <= coverage(mean_intervals(first[chosen]), first.mean()) <= 0.97
    assert 0.93 <= coverage(mean_intervals(difference), (second - first).mean()) <= 0.97
    swapped = np.where(rng.random(difference.shape) < 0.5, difference, -difference)
    assert 0.035 <= (permutation_p(swapped) <= 0.05).mean() <= 0.065
    assert 0.035 <= (bootstrap_p(swapped) <= 0.05).mean() <= 0.065


def test_with_few_queries_the_permutation_test_still_holds_and_the_bootstrap_is_too_sure():
    """What the command warns of: 17 queries."""
    draws, queries, (first, second) = 1000, 17, population(1)
    rng = np.random.default_rng(8)
    difference = (second - first)[rng.integers(len(first), size=(draws, queries))]
    assert 0.85 <= coverage(mean_intervals(difference), (second - first).mean()) < 0.95
    swapped = np.where(rng.random(difference.shape) < 0.5, difference, -difference)
    assert 0.035 <= (permutation_p(swapped) <= 0.05).mean() <= 0.065


def test_a_ranking_metric_behaves_as_the_logistic_population_does():
    """The same for AP of simulated rankings: 1 to 8 true matches among 300 items, queries of different ease."""
    rng = np.random.default_rng(9)

    def ap(ease: float) -> float:
        matches = rng.normal(ease, 1, rng.integers(1, 9))
        others = np.sort(-rng.normal(0, 1, 300))
        before = np.searchsorted(others, np.sort(-matches))
        return average_precision(before + np.arange(1, len(matches) + 1))

    values = np.array([ap(ease) for ease in rng.normal(2.5, 1.2, 4000)])
    drawn = values[rng.integers(len(values), size=(1000, 200))]
    assert 0.1 < values.std() and 0.93 <= coverage(mean_intervals(drawn), values.mean()) <= 0.97


@pytest.mark.parametrize("seed_spread", [0.1, 0.3])
def test_the_interval_over_seeds_covers_where_that_over_queries_does_not(seed_spread):
    """Two equal methods with three seeds each: the trainings differ, the methods do not."""
    rng, draws, seeds, queries = np.random.default_rng(10), 400, 3, 200
    covered = over_queries = 0
    for _ in range(draws):
        ease = rng.normal(2, 2, queries)
        rows = []
        for _ in range(2):
            of_method = ease + rng.normal(0, 0.7, queries)
            noise = rng.normal(0, seed_spread, (seeds, 1)) + rng.normal(0, 0.8, (seeds, queries))
            rows.append(1 / (1 + np.exp(-(of_method + noise))))
        low, high, p = over_seeds(*rows)
        assert (p > 0.05) == (low <= 0 <= high)
        covered += low <= 0 <= high
        difference = rows[0].mean(axis=0) - rows[1].mean(axis=0)
        half = 1.96 * difference.std(ddof=1) / math.sqrt(queries)
        over_queries += abs(difference.mean()) <= half
    assert 0.92 <= covered / draws <= 0.985
    assert over_queries / draws < (0.95 if seed_spread == 0.1 else 0.75)


def test_the_interval_over_seeds_is_a_t_test_where_all_queries_agree():
    """Without differences between queries only the seeds are left: Welch's t-test of their means."""
    first, second = np.array([0.70, 0.74, 0.75]), np.array([0.60, 0.66])
    low, high, p = over_seeds(np.tile(first[:, None], 50), np.tile(second[:, None], 50))
    expected = stats.ttest_ind(first, second, equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert (low, high, p) == pytest.approx((ends.low, ends.high, expected.pvalue), rel=1e-9)


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([0.04]) == [0.04] and holm([]) == []
