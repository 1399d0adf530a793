"""Intervals of the scores: against a plain bootstrap, coverage of known means, the same whenever they are computed."""

import math
import random
import tracemalloc
import warnings

import numpy as np
import pytest
import torch

from utils import metrics
from utils.metrics import evaluate_ranking, mean_intervals, rank_features

TAIL = 0.025
# Density of the standard normal distribution at its quantile of TAIL. A quantile of R draws has the standard error
# sqrt(TAIL (1 - TAIL) / R) / density, in standard deviations of what is drawn.
DENSITY = math.exp(-(1.96**2) / 2) / math.sqrt(2 * math.pi)


def average_precisions(rng, *shape) -> np.ndarray:
    """Values as APs are spread: in (0, 1], many near 1; their mean is 0.8."""
    return rng.beta(2, 0.5, shape)


def test_they_agree_with_a_plain_loop():
    values = average_precisions(np.random.default_rng(0), 2, 60)
    draw, loops = random.Random(5), 20_000
    drawn = [draw.choices(range(60), k=60) for _ in range(loops)]
    tails = TAIL * (1 - TAIL) * (1 / metrics._RESAMPLES + 1 / loops)  # both have their draws
    for row, found in zip(values.tolist(), mean_intervals(values)):
        means = sorted(sum(row[query] for query in queries) / 60 for queries in drawn)
        expected = means[round(TAIL * loops)], means[round((1 - TAIL) * loops)]
        # Four standard errors, a quarter of a standard deviation; an interval of 90 % would be 0.31 away.
        error = math.sqrt(tails) / DENSITY * np.std(row) / math.sqrt(60)
        assert found == pytest.approx(expected, rel=0, abs=4 * error)


@pytest.mark.parametrize(
    ("mean", "draw"),
    [
        (0.8, average_precisions),
        (0.7, lambda rng, *shape: (rng.random(shape) < 0.7).astype(float)),  # as Rank-1
    ],
)
def test_95_of_100_hold_the_mean_that_the_queries_were_drawn_from(mean, draw):
    tests = 1_000  # each with 200 queries; rows are independent, though they share the resamples
    low, high = mean_intervals(draw(np.random.default_rng(1), tests, 200)).T
    held = np.mean((low <= mean) & (mean <= high))
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / tests))  # four standard errors: 0.028


@pytest.mark.parametrize("values", [[[1 / 3]], [[0.1] * 7], [[0.7] * 1_000], [[1.0], [0.0], [0.3]]])
def test_one_query_or_equal_ones_have_no_width_and_no_warning(values):
    values = np.array(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = mean_intervals(values).T
    assert low.tolist() == high.tolist() == values.mean(axis=1).tolist()


def test_all_scores_share_the_draws():
    one, other = np.random.default_rng(0).random((2, 50))
    low, high = mean_intervals(np.array([one, other, one])).T
    assert (low[0], high[0]) == (low[2], high[2]) != (low[1], high[1])


def drawn_test(num_query: int = 40) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Features of queries and gallery on a grid, where distances are exact; their persons and cameras."""
    rng = np.random.default_rng(2)
    pids, camids = rng.integers(0, 10, 200), rng.integers(0, 3, 200)
    features = np.round(4 * (rng.standard_normal((10, 8))[pids] + rng.standard_normal((200, 8)))) / 4
    return features[:num_query], features, [pids[:num_query].copy(), pids, camids[:num_query], camids]


def test_a_test_has_them_for_three_scores_of_its_valid_queries(monkeypatch):
    q, g, ids = drawn_test()
    ids[0][:3] = 99  # three queries without a true match
    seen = []
    monkeypatch.setattr(metrics, "mean_intervals", lambda values: seen.append(values) or mean_intervals(values))
    result = rank_features(q, g, *ids)
    assert list(result["ci95"]) == ["mAP", "mINP", "rank1"] and result["num_valid"] == 37
    (values,) = seen
    assert values.shape == (3, 37)
    assert values.mean(axis=1).tolist() == pytest.approx([result[name] for name in result["ci95"]], abs=1e-14)
    for name, (low, high) in result["ci95"].items():
        assert 0 <= low < result[name] < high <= 1 and {type(low), type(high)} == {float}, name


def test_the_same_features_have_the_same_interval_whatever_the_seed_of_the_run():
    q, g, ids = drawn_test()
    found = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        random.seed(seed)
        before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()
        found.append(rank_features(q, g, *ids)["ci95"])
        after = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()
        assert before == after  # a test in between does not change the training
    assert found[0] == found[1]
    assert evaluate_ranking(metrics.euclidean_distances(q, g), *ids)["ci95"] == found[0]


def test_ap_rule_changes_that_of_map_alone():
    q, g, ids = drawn_test()
    step, trapezoid = (rank_features(q, g, *ids, ap=ap)["ci95"] for ap in ("step", "trapezoid"))
    assert step["mAP"] != trapezoid["mAP"]
    assert (step["mINP"], step["rank1"]) == (trapezoid["mINP"], trapezoid["rank1"])


def test_more_queries_make_it_narrower():
    values = average_precisions(np.random.default_rng(3), 1, 6_400)
    widths = [float(np.diff(mean_intervals(values[:, :number]))[0, 0]) for number in (100, 6_400)]
    assert 5 < widths[0] / widths[1] < 12  # the root of 64, give or take what 100 values leave open


def test_its_memory_is_that_of_one_resample_and_the_means():
    values = np.random.default_rng(0).random((3, 11_659))  # queries of MSMT17
    tracemalloc.start()
    mean_intervals(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    means = 8 * 3 * metrics._RESAMPLES  # bytes
    assert peak < 4 * (values.nbytes + means)
