"""Intervals have their coverage, tests their rate of false alarms; both agree with scipy where it computes the same."""

import math

import numpy as np
import pytest
from scipy import stats

from processor.compare import statistics
from processor.compare.statistics import bootstrap_p, holm, over_seeds, permutation_p, person_intervals
from utils import metrics
from utils.metrics import mean_intervals
from utils.ranking import average_precision


def once(values: np.ndarray) -> np.ndarray:
    """Counts of persons with one query each, who are then the queries."""
    return np.ones(values.shape[-1], dtype=int)


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
    assert permutation_p(zero).tolist() == bootstrap_p(zero, once(zero)).tolist() == [1, 1]
    assert mean_intervals(zero).tolist() == [[0, 0], [0, 0]]
    seeds = np.random.default_rng(0).random((3, 40))
    low, high, p = over_seeds(seeds, seeds, once(seeds))
    assert low < 0 < high and p == 1
    assert over_seeds(seeds[[0, 0]], seeds[[0, 0]], once(seeds)) == (0, 0, 1)
    assert over_seeds(np.ones((2, 9)), np.zeros((2, 9)), np.ones(9)) == (1, 1, 0)


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
    for row, p, interval in zip(difference, bootstrap_p(difference, once(difference)), mean_intervals(difference)):
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
    assert 0.035 <= (bootstrap_p(swapped, once(swapped)) <= 0.05).mean() <= 0.065


def test_with_few_persons_the_permutation_test_still_holds_and_the_bootstrap_is_too_sure():
    """What the command warns of: 17 persons."""
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


def counts_of(persons: int, queries: int) -> np.ndarray:
    """Queries of each person: one, and the others by chance."""
    others = np.random.default_rng(0).integers(persons, size=queries - persons)
    return 1 + np.bincount(others, minlength=persons)


def alike(rng: np.random.Generator, shape: tuple[int, ...], counts: np.ndarray, correlation: float) -> np.ndarray:
    """Normal values (*shape, queries) of which those of one person correlate."""
    of_persons = np.repeat(rng.normal(size=(*shape, len(counts))), counts, axis=-1)
    return correlation**0.5 * of_persons + (1 - correlation) ** 0.5 * rng.normal(size=(*shape, counts.sum()))


def sums_of(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, np.cumsum(counts) - counts, axis=-1)


def alike_pair(rng: np.random.Generator, draws: int, counts: np.ndarray, correlation: float) -> list[np.ndarray]:
    """AP (draws, queries) of two methods, the second a little better, as in `population`."""
    ease = 2 + 2 * alike(rng, (draws,), counts, correlation)
    return [1 / (1 + np.exp(-(ease + gain + 0.8 * alike(rng, (draws,), counts, correlation)))) for gain in (0.0, 0.2)]


@pytest.mark.parametrize(
    ("persons", "queries", "correlation", "as_queries"),
    [(60, 200, 0.3, 0.09), (626, 1980, 0.3, 0.09), (626, 1980, 0.0, 0.035)],
)
def test_persons_with_several_queries_make_nothing_too_sure(persons, queries, correlation, as_queries, quick_resamples):
    """1,000 query sets each, the second shaped as MARS; `as_queries`: the least false alarms of flipping queries."""
    rng, counts = np.random.default_rng(7), counts_of(persons, queries)
    first, second = alike_pair(rng, 1000, counts, correlation)
    truth = [x.mean() for x in alike_pair(rng, 100, np.full(3000, 3), correlation)]
    difference = sums_of(second - first, counts)
    assert 0.925 <= coverage(person_intervals(sums_of(first, counts), counts), truth[0]) <= 0.97
    assert 0.93 <= coverage(person_intervals(difference, counts), truth[1] - truth[0]) <= 0.97
    signs = np.where(rng.random(difference.shape) < 0.5, 1, -1)
    assert 0.035 <= (permutation_p(signs * difference) <= 0.05).mean() <= 0.065
    assert 0.035 <= (bootstrap_p(signs * difference, counts) <= 0.05).mean() <= 0.065
    each = np.repeat(signs, counts, axis=1) * (second - first)
    assert (permutation_p(each[:400]) <= 0.05).mean() >= as_queries  # why the persons are the units


def test_a_person_with_three_queries_by_hand():
    """Persons with the differences 0.1, 0.2, 0.3 and 0.4: of the four swaps only none and both reach the mean."""
    sums, counts = np.array([[0.6, 0.4]]), np.array([3, 1])
    assert permutation_p(sums).tolist() == [2 / 4]
    # Two draws with replacement: the means over the queries are 0.2 (1 of 4), 0.25 (2 of 4) and 0.4 (1 of 4).
    assert person_intervals(sums, counts) == pytest.approx(np.array([[0.2, 0.4]]))
    assert bootstrap_p(sums, counts) == pytest.approx([1 / 2001], abs=1e-12)  # none is 0.25 from 0.25


def test_one_query_of_each_person_gives_the_intervals_of_metrics_json():
    values = np.random.default_rng(11).random((3, 80))
    np.testing.assert_allclose(person_intervals(values, once(values)), mean_intervals(values), rtol=1e-12)


SEVERAL_SEEDS = [(200, 200, 2, 0.1), (200, 200, 2, 0.3), (200, 200, 3, 0.1), (200, 200, 3, 0.3), (60, 200, 3, 0.1)]


@pytest.mark.parametrize(("persons", "queries", "seeds", "seed_spread"), SEVERAL_SEEDS)
def test_the_interval_over_seeds_covers_where_that_over_persons_does_not(persons, queries, seeds, seed_spread):
    """Two equal methods with a few seeds each, whose trainings differ; queries of a person are alike."""
    rng, draws, counts = np.random.default_rng(10), 400, counts_of(persons, queries)
    covered = over_persons = 0
    for _ in range(draws):
        ease = rng.normal(2, 2, queries)
        rows = []
        for _ in range(2):
            of_method = ease + 0.7 * alike(rng, (), counts, 0.3)
            noise = rng.normal(0, seed_spread, (seeds, 1)) + 0.8 * alike(rng, (seeds,), counts, 0.3)
            rows.append(sums_of(1 / (1 + np.exp(-(of_method + noise))), counts))
        low, high, p = over_seeds(*rows, counts)
        assert (p > 0.05) == (low <= 0 <= high)
        covered += low <= 0 <= high
        difference = rows[0].mean(axis=0) - rows[1].mean(axis=0)
        mean = difference.sum() / queries
        half = 1.96 * math.sqrt(((difference - mean * counts) ** 2).sum()) / queries
        over_persons += abs(mean) <= half
    assert 0.92 <= covered / draws <= 0.99
    assert over_persons / draws < (0.95 if seed_spread == 0.1 else 0.75)


def test_the_interval_over_seeds_is_a_t_test_where_all_queries_agree():
    """Without differences between queries only the seeds are left: Welch's t-test of their means."""
    first, second = np.array([0.70, 0.74, 0.75]), np.array([0.60, 0.66])
    low, high, p = over_seeds(np.tile(first[:, None], 50), np.tile(second[:, None], 50), np.ones(50))
    expected = stats.ttest_ind(first, second, equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert (low, high, p) == pytest.approx((ends.low, ends.high, expected.pvalue), rel=1e-9)


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([0.04]) == [0.04] and holm([]) == []
