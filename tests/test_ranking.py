"""Counting gives what sorting gives: positions, ties, protocols, and little memory."""

import tracemalloc

import numpy as np
import pytest

from utils import ranking
from utils.metrics import euclidean_distances, evaluate_ranking, rank_features
from utils.ranking import average_precision, match_positions


def same(result: dict, expected: dict) -> None:
    assert set(result) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-12, err_msg=name)


@pytest.fixture(params=["sort", "count"])
def way(request, monkeypatch):
    """Both ways to a position, and blocks of three queries."""
    monkeypatch.setattr(ranking, "_SORT_AT_MOST", {"sort": 10**9, "count": 0}[request.param])
    monkeypatch.setattr(ranking, "_COUNTS_PER_SORT", 0)
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 3 * 4 * 120)
    return request.param


@pytest.mark.parametrize("seed", range(5))
def test_positions_are_those_of_a_stable_sort(way, seed):
    rng = np.random.default_rng(seed)
    dist = rng.integers(0, [3, 10, 10_000][seed % 3], 60).astype(np.float32)  # many ties, some, hardly any
    roles = rng.permutation(60)
    matches, ignored = np.sort(roles[:7]), np.sort(roles[7:15])
    order = [row for row in np.argsort(dist, kind="stable") if row not in ignored]
    expected = [place for place, row in enumerate(order, start=1) if row in matches]
    assert match_positions(dist.copy(), matches, ignored).tolist() == expected


@pytest.mark.parametrize("camera_filter", [True, False])
@pytest.mark.parametrize("ap", ["step", "trapezoid"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_features_give_the_scores_of_their_distance_matrix(way, camera_filter, ap, own, ties):
    rng = np.random.default_rng(3)
    features = rng.integers(-1, 2, (120, 3)) if ties else rng.standard_normal((120, 16))  # whole numbers: exact ties
    pids, camids = rng.integers(0, 12, 120), rng.integers(0, 3, 120)
    pids[0] = 99  # a query that is the only one of its person
    ids = (pids[:20], pids, camids[:20], camids)
    choices = {"ap": ap, "camera_filter": camera_filter, "own_rows": np.arange(20) if own else None, "max_rank": 30}
    expected = evaluate_ranking(euclidean_distances(features[:20], features), *ids, **choices)
    same(rank_features(features[:20], features, *ids, **choices), expected)
    assert expected["num_valid"] == 20 - (own or camera_filter)


def test_an_own_row_of_another_person_is_left_out_too(way):
    """A query whose gallery row carries another label is still no answer to itself."""
    features = np.array([[0.0], [1.0], [3.0]])
    ids = ([5], [7, 6, 5], [0], [1, 1, 1])
    choices = {"own_rows": [0]}
    expected = evaluate_ranking(euclidean_distances(features[:1], features), *ids, **choices)
    same(rank_features(features[:1], features, *ids, **choices), expected)
    assert expected["mAP"] == 0.5


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e30, 1.5e19])
def test_features_that_are_not_finite_are_refused(broken):
    features = np.ones((4, 2), dtype=np.float32)
    features[2, 1] = broken
    with pytest.raises(ValueError, match="nan or inf"):
        rank_features(features[:1], features, [1], [1, 1, 2, 2], [0], [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (([1], [2, 3], [0], [1, 1]), "has a true match"),
        (([1, 1], [2, 3], [0], [1, 1]), "features .* do not fit 2 query and 2 gallery ids"),
    ],
)
def test_what_cannot_be_scored_is_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        rank_features(np.ones((1, 2)), np.ones((2, 2)), *ids)


def test_an_empty_gallery_holds_no_match():
    with pytest.raises(ValueError, match="has a true match"):
        rank_features(np.ones((1, 2)), np.ones((0, 2)), [1], np.zeros(0, int), [0], np.zeros(0, int))


def test_average_precision_by_hand():
    assert average_precision(np.array([1, 4])) == pytest.approx((1 + 2 / 4) / 2)
    # Trapezoid: (1 + 1) / 2 at the first hit, then the mean of 1/3 (before) and 2/4 (at) the second.
    assert average_precision(np.array([1, 4]), "trapezoid") == pytest.approx((1 + (1 / 3 + 2 / 4) / 2) / 2)


def test_memory_beside_the_inputs_is_a_few_blocks():
    rng = np.random.default_rng(0)
    g = rng.standard_normal((20_000, 8), dtype=np.float32)
    q_pids, g_pids = rng.integers(0, 500, 2_000), rng.integers(0, 500, 20_000)
    cams = rng.integers(0, 4, 20_000)
    tracemalloc.start()
    rank_features(g[:2_000], g, q_pids, g_pids, cams[:2_000], cams)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * ranking._BLOCK_BYTES < 4 * 2_000 * 20_000 / 2  # bytes; the matrix alone would be twice the latter
