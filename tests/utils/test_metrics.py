"""Ranking against numbers worked by hand and against a slow double loop."""

import numpy as np
import pytest
import torch

from tests.tolerance import allowed, assert_close
from utils.metrics import euclidean_distances, evaluate_ranking, l2_normalize, rank_camera_pairs, rank_queries
from utils.ranking import Roles

# Three queries a, b, c (persons 1, 2, 1 in cameras 0, 0, 1) against six gallery items.
GALLERY = {"pids": [1, 1, 2, 0, 1, 2], "camids": [0, 1, 1, 0, 2, 0]}
QUERY = {"pids": [1, 2, 1], "camids": [0, 0, 1]}
DIST = np.array([
    # a: item 0 is a's own person and camera: left out. Order 3, 1, 2, 5, 4: hits at positions 2 and 5.
    # step (1/2 + 2/5) / 2 = 0.45; trapezoid ((0 + 1/2) / 2 + (1/4 + 2/5) / 2) / 2 = 0.2875
    [0.0, 0.2, 0.3, 0.1, 0.5, 0.4],
    # b: item 5 is left out. Order 2, 0, 1, 3, 4: hit at position 1. step 1; trapezoid (1 + 1) / 2 = 1
    [0.2, 0.3, 0.1, 0.4, 0.5, 0.0],
    # c: item 1 is left out. Order 3, 2, 0, 4, 5: hits at positions 3 and 4.
    # step (1/3 + 2/4) / 2 = 5/12; trapezoid ((0 + 1/3) / 2 + (1/3 + 2/4) / 2) / 2 = 7/24
    [0.3, 0.0, 0.2, 0.1, 0.4, 0.5],
])  # fmt: skip


def evaluate(dist=DIST, query=QUERY, gallery=GALLERY, **options) -> dict:
    return evaluate_ranking(dist, query["pids"], gallery["pids"], query["camids"], gallery["camids"], **options)


def slow_ranking(dist, q_pids, g_pids, q_camids, g_camids, ap, camera_filter) -> tuple[list, list, list]:
    """AP, first match position and INP per query with a true match, by loops over a sorted list."""
    precisions, firsts, penalties = [], [], []
    for row in range(len(q_pids)):
        order = sorted(range(len(g_pids)), key=lambda item, row=row: (dist[row][item], item))
        position = found = 0
        terms, before, first = [], 1.0, None
        for item in order:
            if camera_filter and g_pids[item] == q_pids[row] and g_camids[item] == q_camids[row]:
                continue
            position += 1
            if g_pids[item] == q_pids[row]:
                found, last = found + 1, position
                first = first or position
                after = found / position
                terms.append(after if ap == "step" else (before + after) / 2)
            before = found / position
        if found:
            precisions.append(sum(terms) / found)
            firsts.append(first)
            penalties.append(found / last)
    return precisions, firsts, penalties


def test_three_queries_by_hand():
    result = evaluate()
    assert result["mAP"] == pytest.approx((0.45 + 1 + 5 / 12) / 3)
    assert result["mINP"] == pytest.approx((2 / 5 + 1 / 1 + 2 / 4) / 3)
    # First matches at positions 2, 1 and 3.
    assert result["cmc"].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert [result[name] for name in ("rank1", "rank5", "rank10", "rank20")] == pytest.approx([1 / 3, 1, 1, 1])
    assert (result["num_valid"], result["num_query"], result["num_gallery"]) == (3, 3, 6)


def test_the_trapezoid_rule_by_hand():
    assert evaluate(ap="trapezoid")["mAP"] == pytest.approx((0.2875 + 1 + 7 / 24) / 3)
    # It changes the average precision, not the ranks and not mINP.
    assert evaluate(ap="trapezoid")["rank1"] == pytest.approx(1 / 3)
    assert evaluate(ap="trapezoid")["mINP"] == evaluate()["mINP"]


def test_without_the_camera_filter_items_of_the_own_camera_count():
    # a: order 0 3 1 2 5 4, hits at 1, 3, 6; b: 5 2 0 1 3 4, hits at 1, 2; c: 1 3 2 0 4 5, hits at 1, 4, 5.
    result = evaluate(camera_filter=False)
    by_hand = ((1 + 2 / 3 + 3 / 6) / 3 + 1 + (1 + 2 / 4 + 3 / 5) / 3) / 3
    assert result["mAP"] == pytest.approx(by_hand) and result["rank1"] == 1
    assert result["mINP"] == pytest.approx((3 / 6 + 2 / 2 + 3 / 5) / 3)


def test_the_last_true_match_alone_decides_inp_and_ties_keep_gallery_order():
    # Three true matches among seven items; whatever lies before the last one, INP is 3 / its position.
    ids = ([1], [1, 0, 1, 0, 0, 1, 0], [0], [1] * 7)
    for dist, last in (
        ([1, 4, 2, 5, 6, 3, 7], 3), ([1, 3, 2, 4, 5, 7, 6], 7), ([7, 1, 6, 2, 3, 5, 4], 7), ([5, 5, 5, 5, 5, 5, 5], 6),
        ([5, 5, 5, 5, 4, 4, 5], 5),
    ):  # fmt: skip
        assert evaluate_ranking([dist], *ids)["mINP"] == 3 / last


@pytest.mark.parametrize("max_rank", [2, 50])
def test_cmc_holds_as_many_values_as_asked_for_or_as_the_gallery_has(max_rank):
    assert evaluate(max_rank=max_rank)["cmc"].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1][:max_rank])
    assert evaluate(max_rank=max_rank)["rank5"] == 1  # the named ranks do not depend on it


def test_a_query_without_a_true_match_is_counted_and_left_out_of_the_means():
    query, gallery = {"pids": [1, 3, 2], "camids": [0, 0, 0]}, {"pids": [1, 2, 2, 0], "camids": [1, 1, 0, 1]}
    dist = [[1, 0, 2, 3], [1, 2, 3, 4], [3, 2, 0, 1]]
    # Query 0: its match comes second; query 1: none; query 2: item 2 left out, then 3, 1: second.
    result = evaluate(dist, query, gallery)
    assert (result["mAP"], result["mINP"], result["rank1"], result["rank5"]) == (0.5, 0.5, 0, 1)
    assert (result["num_valid"], result["num_query"]) == (2, 3)
    rankings = rank_queries(np.array(dist), Roles([1, 3, 2], [1, 2, 2, 0], [0, 0, 0], [1, 1, 0, 1]))
    assert [ranking.first_match for ranking in rankings] == [2, 0, 2]
    assert [ranking.inverse_negative_penalty for ranking in rankings] == pytest.approx([0.5, np.nan, 0.5], nan_ok=True)
    assert np.isnan(rankings[1].average_precision) and rankings[2].order.tolist() == [3, 1, 0]


@pytest.mark.parametrize("ap", ["step", "trapezoid"])
@pytest.mark.parametrize("camera_filter", [True, False])
@pytest.mark.parametrize("queries_in_gallery", [True, False])
def test_random_rankings_agree_with_a_double_loop(ap, camera_filter, queries_in_gallery):
    rng = np.random.default_rng(7)
    for _ in range(10):
        q_pids, q_camids = rng.integers(1, 9, 12), rng.integers(0, 3, 12)
        g_pids, g_camids = rng.integers(0, 9, 40), rng.integers(0, 3, 40)  # 0: distractors
        dist = rng.integers(0, 12, (12, 40)).astype(np.float32)  # many ties
        if queries_in_gallery:
            g_pids, g_camids = np.concatenate([q_pids, g_pids]), np.concatenate([q_camids, g_camids])
            own = rng.integers(1, 12, (12, 12)).astype(np.float32)
            np.fill_diagonal(own, 0)
            dist = np.concatenate([own, dist], axis=1)
        arguments = (dist, q_pids, g_pids, q_camids, g_camids)
        result = evaluate_ranking(*arguments, max_rank=20, ap=ap, camera_filter=camera_filter)
        precisions, firsts, penalties = slow_ranking(*arguments, ap, camera_filter)
        assert result["num_valid"] == len(firsts)
        assert result["mAP"] == pytest.approx(sum(precisions) / len(precisions), abs=1e-12)
        assert result["mINP"] == pytest.approx(sum(penalties) / len(penalties), abs=1e-12)
        cmc = [sum(first <= rank for first in firsts) / len(firsts) for rank in range(1, 21)]
        assert result["cmc"].tolist() == pytest.approx(cmc)
        assert [result["rank5"], result["rank10"], result["rank20"]] == pytest.approx([cmc[4], cmc[9], cmc[19]])


def test_shapes_that_disagree_nan_and_unknown_rules_are_refused():
    with pytest.raises(ValueError, match=r"distances \(3, 6\) do not fit 2 query and 6 gallery ids"):
        evaluate(query={"pids": [1, 2], "camids": [0, 0]})
    with pytest.raises(ValueError, match="do not fit"):
        evaluate(gallery={"pids": GALLERY["pids"], "camids": [0] * 5})
    with pytest.raises(ValueError, match="do not fit"):
        evaluate(query={"pids": QUERY["pids"], "camids": [0] * 4})
    with pytest.raises(ValueError, match="hold nan"):
        evaluate(np.where(DIST == 0.5, np.nan, DIST))
    with pytest.raises(ValueError, match="step or trapezoid, found area"):
        evaluate(ap="area")


def test_distances_agree_with_torch_and_with_a_triangle_by_hand():
    assert euclidean_distances([[0, 0], [3, 0]], [[3, 4], [3, 0]]).tolist() == [[5, 3], [4, 0]]
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(20, 64)), rng.normal(size=(30, 64))
    distances = euclidean_distances(q, g)
    assert distances.dtype == np.float32
    expected = torch.cdist(torch.tensor(q), torch.tensor(g)).numpy()
    # They come from squares that cancel: |a|^2 + |b|^2 - 2ab.
    assert_close(distances**2, expected**2, terms=64, scale=4 * np.square(q).sum(axis=1).max())


def test_rows_get_unit_length_but_zero_rows_stay_zero_and_near_copies_have_no_nan_distance():
    assert_close(l2_normalize([[3, 4], [0, 0]]), np.array([[0.6, 0.8], [0, 0]]), terms=2)
    features = l2_normalize(np.random.default_rng(0).normal(size=(200, 64)))
    distances = euclidean_distances(features, features)
    assert np.isfinite(distances).all() and np.square(np.diag(distances)).max() < allowed(scale=4, terms=64)


def test_a_query_never_finds_itself_even_without_the_camera_filter():
    # Queries stand in front of the gallery: rows 0 and 1 are the queries themselves.
    dist = [[0.0, 0.9, 0.1, 0.2], [0.9, 0.0, 0.3, 0.4]]
    ids = ([1, 2], [1, 2, 2, 1], [0, 0], [0, 0, 0, 0])
    assert evaluate_ranking(dist, *ids, camera_filter=False)["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    result = evaluate_ranking(dist, *ids, camera_filter=False, own_rows=[0, 1])
    # Query 0: order 2, 3, 1, hit at 2; query 1: order 2, 3, 0, hit at 1.
    assert result["mAP"] == pytest.approx((1 / 2 + 1) / 2) and result["rank1"] == 0.5


def camera_pairs(own_rows=None) -> dict:
    roles = Roles(QUERY["pids"], GALLERY["pids"], QUERY["camids"], GALLERY["camids"], False, own_rows)
    return {(p.query_camera, p.gallery_camera): p[2:] for p in rank_camera_pairs(DIST, roles, num_cameras=3)}


def test_camera_pairs_by_hand():
    pairs = camera_pairs()
    # a finds item 1 of camera 1 second (behind 3) and item 4 of camera 2 fourth (behind 3, 2, 5); b finds item 2 first.
    assert pairs[0, 1] == pytest.approx((2, (1 / 2 + 1) / 2, 1 / 2))
    assert pairs[0, 2] == pytest.approx((1, 1 / 4, 0))
    # c finds item 0 of camera 0 and item 4 of camera 2 third each, behind 3 and 2.
    assert pairs[1, 0] == pairs[1, 2] == pytest.approx((1, 1 / 3, 0))
    assert pairs[0, 0] == pytest.approx((2, 1, 1))  # the own camera: items 0 and 5, nearest of all
    assert pairs[2, 0][0] == 0 and np.isnan(pairs[2, 0][1:]).all()
    own = camera_pairs(own_rows=[0, 5, 1])
    assert own[0, 0][0] == own[1, 1][0] == 0 and own[0, 1] == pairs[0, 1]


@pytest.mark.parametrize("ap", ["step", "trapezoid"])
def test_camera_pairs_of_random_rankings_agree_with_a_double_loop(ap):
    """A pair of cameras is a ranking of its queries against the gallery without the person's other cameras."""
    rng = np.random.default_rng(5)
    q_pids, q_camids = rng.integers(1, 6, 14), rng.integers(0, 3, 14)
    g_pids, g_camids = np.append(q_pids, rng.integers(0, 6, 40)), np.append(q_camids, rng.integers(0, 4, 40))
    dist = rng.integers(0, 9, (14, 54)).astype(np.float32)  # many ties
    pairs = rank_camera_pairs(dist, Roles(q_pids, g_pids, q_camids, g_camids, False, np.arange(14)), 3, ap)
    assert [pair[:2] for pair in pairs] == [(i, j) for i in range(3) for j in range(3)]
    for pair in pairs:
        precisions, firsts = [], []
        for row in np.flatnonzero(q_camids == pair.query_camera):
            kept = (g_pids != q_pids[row]) | (g_camids == pair.gallery_camera)
            kept[row] = False
            ids = ([q_pids[row]], g_pids[kept], [0], g_camids[kept])
            found = slow_ranking(dist[row : row + 1, kept], *ids, ap, camera_filter=False)
            precisions, firsts = precisions + found[0], firsts + found[1]
        assert pair.num_query == len(firsts)
        expected = (np.mean(precisions), np.mean([first == 1 for first in firsts])) if firsts else (np.nan, np.nan)
        assert pair[3:] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert sum(pair.num_query > 0 for pair in pairs) >= 7
