"""Counting gives what sorting gives: positions, ties, protocols, and little memory; with numpy and with torch."""

import tracemalloc

import numpy as np
import pytest
import torch

from processor.benchmark.data import ranking_input
from processor.benchmark.ranking import argsort_scores, sorted_scores
from utils import metrics, ranking
from utils.metrics import euclidean_distances, evaluate_ranking, rank_features
from utils.ranking import Roles, device_match_positions, match_positions


def same(result: dict, expected: dict) -> None:
    assert set(result) == set(expected)
    result, expected = (scores | {"ci95": list(scores["ci95"].values())} for scores in (result, expected))
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-12, err_msg=name)


def use(way: str, monkeypatch) -> None:
    """Rank by sorting, by counting, or as on a GPU but on the CPU; in blocks of three queries."""
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 3 * 4 * 120)
    monkeypatch.setattr(ranking, "_COUNT_BYTES", 2 * 120)  # two matches per comparison
    monkeypatch.setattr(ranking, "_SORT_PER_MATCH", -1)
    monkeypatch.setattr(ranking, "_SORT_AT_MOST", 10**9 if way == "sort" else -1)
    if way == "device":
        positions = ranking.device_feature_positions
        on_cpu = lambda q, g, roles: positions(torch.as_tensor(q), torch.as_tensor(g), roles)  # noqa: E731
        monkeypatch.setattr(metrics, "feature_positions", on_cpu)


def on_a_grid(features: np.ndarray) -> np.ndarray:
    """Features rounded to sixteenths: sums of their products are exact in float32 in any order, so ties are real."""
    return np.round(16 * features) / 16


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """60 distances with many ties, some, or hardly any; 7 matches, 8 items left out, and the positions by sorting."""
    rng = np.random.default_rng(seed)
    dist = rng.integers(0, [3, 10, 10_000][seed % 3], 60).astype(np.float32)
    roles = rng.permutation(60)
    matches, left_out = np.sort(roles[:7]), np.sort(roles[7:15])
    order = [row for row in np.argsort(dist, kind="stable") if row not in left_out]
    return dist, matches, left_out, [place for place, row in enumerate(order, start=1) if row in matches]


@pytest.mark.parametrize("way", ["sort", "count"])
@pytest.mark.parametrize("seed", range(6))
def test_positions_are_those_of_a_stable_sort(monkeypatch, way, seed):
    use(way, monkeypatch)
    dist, matches, left_out, expected = drawn(seed)
    kept = dist.copy()
    assert match_positions(dist, matches, left_out).tolist() == expected
    assert (dist == kept).all()  # the caller's distances stay
    whole = dist.astype(int)
    assert match_positions(whole, matches, left_out).tolist() == expected
    far = np.where(dist > np.median(dist), np.inf, dist)
    order = [row for row in np.argsort(far, kind="stable") if row not in left_out]
    expected = [place for place, row in enumerate(order, start=1) if row in matches]
    assert match_positions(far, matches, left_out).tolist() == expected


def test_positions_on_a_device_are_those_of_a_stable_sort():
    drawings = [drawn(seed) for seed in range(6)]
    nothing = np.empty(0, dtype=np.int64)
    dist_BG = np.stack([drawing[0] for drawing in drawings] + [drawings[0][0]])
    dist_BG[dist_BG == 0] = -0.0  # what the root of a rounded zero may be; not before 0.0
    dist_BG[:, :7] = 0.0
    matches = [*(drawing[1] for drawing in drawings), nothing]  # the last query has none
    left_out = [*(drawing[2] for drawing in drawings), nothing]
    expected = [match_positions(*of_query) for of_query in zip(dist_BG, matches, left_out)]
    found = device_match_positions(torch.from_numpy(dist_BG), matches, left_out)
    assert found.tolist() == np.concatenate(expected).tolist()
    none = device_match_positions(torch.from_numpy(dist_BG[:2]), [nothing] * 2, [nothing] * 2)
    assert none.shape == (0,)


@pytest.mark.parametrize("way", ["sort", "count", "device"])
@pytest.mark.parametrize("camera_filter", [True, False])
@pytest.mark.parametrize("ap", ["step", "trapezoid"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_features_give_the_scores_of_their_distance_matrix(monkeypatch, way, camera_filter, ap, own, ties):
    rng = np.random.default_rng(3)
    features = rng.integers(-1, 2, (120, 3)) if ties else on_a_grid(rng.standard_normal((120, 16)))
    pids, camids = rng.integers(0, 12, 120), rng.integers(0, 3, 120)
    pids[0] = 99  # a query that is the only one of its person
    ids = (pids[:20], pids, camids[:20], camids)
    choices = {"ap": ap, "camera_filter": camera_filter, "own_rows": np.arange(20) if own else None, "max_rank": 30}
    expected = evaluate_ranking(euclidean_distances(features[:20], features), *ids, **choices)
    use(way, monkeypatch)
    same(rank_features(features[:20], features, *ids, **choices), expected)
    assert expected["num_valid"] == 20 - (own or camera_filter) and 0 < expected["mINP"] < expected["mAP"]


@pytest.mark.parametrize("way", ["sort", "count", "device"])
def test_an_own_row_of_another_person_is_left_out_too(monkeypatch, way):
    """A query whose gallery row has another label is still not ranked for itself."""
    use(way, monkeypatch)
    features = np.array([[0.0], [1.0], [3.0]])
    ids = ([5], [7, 6, 5], [0], [1, 1, 1])
    choices = {"own_rows": [0]}
    expected = evaluate_ranking(euclidean_distances(features[:1], features), *ids, **choices)
    same(rank_features(features[:1], features, *ids, **choices), expected)
    assert expected["mAP"] == 0.5


def test_tensors_are_ranked_as_arrays_are_whatever_their_type():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.integers(-2, 3, (60, 4))).bfloat16().requires_grad_()
    pids, camids = rng.integers(0, 6, 60), rng.integers(0, 3, 60)
    ids = (pids[:9], pids, camids[:9], camids)
    expected = rank_features(features.detach().float().numpy()[:9], features.detach().float().numpy(), *ids)
    same(rank_features(features[:9], features, *ids), expected)
    same(rank_features(features[:9], features, *ids, device=torch.device("cpu")), expected)


def test_the_device_decides_who_ranks(monkeypatch):
    """Shown with the meta device, whose tensors hold no values."""
    asked = []
    count = lambda q, g, roles: asked.append((q, g)) or [np.array([2])]  # noqa: E731
    monkeypatch.setattr(metrics, "device_feature_positions", count)
    ids = ([1], [2, 1], [0], [1, 1])
    plain = np.ones((1, 2)), np.ones((2, 2))
    assert rank_features(*plain, *ids, device=torch.device("meta"))["mAP"] == 0.5
    assert rank_features(*(torch.ones(x.shape, device="meta") for x in plain), *ids)["mAP"] == 0.5
    assert [(q.device.type, q.dtype, g.shape) for q, g in asked] == 2 * [("meta", torch.float32, (2, 2))]


@pytest.mark.parametrize("interface", ["older", "newer"])
def test_products_on_a_device_are_full_float32_and_the_setting_comes_back(monkeypatch, interface):
    during, setting = [], torch.backends.cuda.matmul
    count = ranking.device_match_positions
    seen = lambda *x: during.append((setting.fp32_precision, x[0].dtype)) or count(*x)  # noqa: E731
    monkeypatch.setattr(ranking, "device_match_positions", seen)
    before, eye = (torch.get_float32_matmul_precision(), setting.fp32_precision), torch.eye(3)
    try:
        if interface == "older":
            torch.set_float32_matmul_precision("high")
        else:
            setting.fp32_precision = "tf32"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = ranking.device_feature_positions(eye[:1], eye, Roles([1], [2, 1, 1], [0], [1, 1, 1]))
        assert setting.fp32_precision == "tf32"
        assert interface == "newer" or torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[0])
        setting.fp32_precision = before[1]
    assert during == [("ieee", torch.float32)] and found[0].tolist() == [2, 3]


@pytest.mark.parametrize("kind", ["clusters", "random"])
def test_scores_are_those_of_a_full_sort_of_the_same_distances(kind):
    """Exactly, at a size of many blocks; and those of distances computed in another way."""
    given = ranking_input(kind, 150, 2_000, 64)
    dist_QG = euclidean_distances(*given[:2])
    scores = rank_features(*given, max_rank=2_000)
    mean_ap, cmc = sorted_scores(dist_QG, given)
    assert scores["mAP"] == pytest.approx(mean_ap, abs=1e-14) and scores["cmc"].tolist() == pytest.approx(cmc.tolist())
    same(evaluate_ranking(dist_QG, *given[2:], max_rank=2_000), scores)
    # Distances computed in another way may order near ties in another way, so this time all of them are exact.
    given = given._replace(q_feats=on_a_grid(given.q_feats), g_feats=on_a_grid(given.g_feats))
    assert rank_features(*given)["mAP"] == pytest.approx(argsort_scores(given)[0], abs=1e-14)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e30, 1.5e19])
@pytest.mark.parametrize("way", ["count", "device"])
def test_features_that_are_not_finite_are_refused(monkeypatch, way, broken):
    use(way, monkeypatch)
    features = np.ones((4, 2), dtype=np.float32)
    features[2, 1] = broken
    with pytest.raises(ValueError, match="nan or inf"):
        rank_features(features[:1], features, [1], [1, 1, 2, 2], [0], [1, 1, 1, 1])


@pytest.mark.parametrize("way", ["count", "device"])
def test_what_cannot_be_scored_is_refused(monkeypatch, way):
    use(way, monkeypatch)
    for q_pids, g_pids, message in (
        ([1], [2, 3], "has a true match"),
        ([1], [], "has a true match"),
        ([1, 1], [2, 3], "features .* do not fit 2 query and 2 gallery ids"),
    ):
        with pytest.raises(ValueError, match=message):
            gallery = np.ones((len(g_pids), 2))
            rank_features(np.ones((1, 2)), gallery, q_pids, np.array(g_pids, int), [0], np.ones(len(g_pids), int))


def test_memory_beside_the_inputs_is_a_block(monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 4 * 2**20)
    rng = np.random.default_rng(0)
    g = rng.standard_normal((20_000, 8), dtype=np.float32)
    q_pids, g_pids = rng.integers(0, 500, 500), rng.integers(0, 500, 20_000)
    cams = rng.integers(0, 4, 20_000)
    tracemalloc.start()
    rank_features(g[:500], g, q_pids, g_pids, cams[:500], cams)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * ranking._BLOCK_BYTES < 4 * 500 * 20_000 / 4  # bytes; the matrix takes four times the last


def test_distances_of_double_precision_are_not_rounded():
    """1 and 1 + 1e-12 are not equally near."""
    dist = np.array([1 + 1e-12, 1.0, 2.0, 3.0])
    assert match_positions(dist, np.array([0]), np.array([], dtype=np.int64)).tolist() == [2]
