"""k-reciprocal re-ranking against a plain textbook implementation with sets and loops."""

import math
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch

from tests.tolerance import assert_close
from utils import nearest_items, reranking
from utils.reranking import k_reciprocal_rerank


def textbook(q_feats, g_feats, k1, k2, lambda_value) -> np.ndarray:
    """Zhong et al. 2017, section 3, item by item in double precision."""
    items = [list(map(float, row)) for row in [*q_feats, *g_feats]]
    n = len(items)
    squared = [[sum((x - y) ** 2 for x, y in zip(a, b)) for b in items] for a in items]
    original = [[squared[i][j] / max(squared[i]) for j in range(n)] for i in range(n)]
    ranking = [sorted(range(n), key=lambda j, i=i: (original[i][j], j)) for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:  # R(i, k); the list N(i, k) holds i itself and k others
        return {j for j in ranking[i][: k + 1] if i in ranking[j][: k + 1]}

    vectors = []
    for i in range(n):
        own = reciprocal(i, k1)
        star = set(own)
        for j in own:
            half = reciprocal(j, round(k1 / 2))
            if len(half & own) > len(half) * 2 / 3:
                star |= half
        total = sum(math.exp(-original[i][j]) for j in star)
        vectors.append([math.exp(-original[i][j]) / total if j in star else 0.0 for j in range(n)])
    if k2 > 1:  # local query expansion: the mean over the k2 nearest, the item itself first
        expanded = []
        for i in range(n):
            near = ranking[i][:k2]
            expanded.append([sum(vectors[j][column] for j in near) / len(near) for column in range(n)])
        vectors = expanded
    final = np.empty((len(q_feats), len(g_feats)))
    for i in range(len(q_feats)):
        for column in range(len(g_feats)):
            j = len(q_feats) + column
            smaller = sum(map(min, vectors[i], vectors[j]))
            larger = sum(map(max, vectors[i], vectors[j]))
            final[i, column] = (1 - lambda_value) * (1 - smaller / larger) + lambda_value * original[i][j]
    return final


def clusters(queries: int, gallery: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of eight loose identities, in steps of 1/128.

    So sums of their products are exact in float32 in any order, and no rounding decides who is nearer.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, 6))
    features = centres[rng.integers(0, 8, queries + gallery)] + 0.5 * rng.normal(size=(queries + gallery, 6))
    features = np.round(128 * features).astype(np.float32) / 128
    return features[:queries], features[queries:]


def whole_numbers(queries: int, gallery: int, highest: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of two whole numbers 0..highest: their squared distances are exact, and many are the same."""
    features = np.random.default_rng(seed).integers(0, highest + 1, (queries + gallery, 2)).astype(np.float32)
    return features[:queries], features[queries:]


def assert_textbook(q, g, k1: int, k2: int, lambda_value: float) -> None:
    result = k_reciprocal_rerank(q, g, k1, k2, lambda_value)
    assert result.shape == (len(q), len(g)) and result.dtype == np.float32
    assert_close(result, textbook(q, g, k1, k2, lambda_value), terms=len(q) + len(g), passes=3)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that a small case has many, uneven ones."""
    monkeypatch.setattr(nearest_items, "_BLOCK_ROWS", 9)
    monkeypatch.setattr(nearest_items, "_PART_ROWS", 4)
    reranking_rows = {"_SET_ROWS": 13, "_PAIRS": 7, "_GALLERY_ROWS": 17, "_QUERY_ROWS": 5, "_PART_ENTRIES": 40}
    for name, rows in reranking_rows.items():
        monkeypatch.setattr(reranking, name, rows)


PARAMETERS = [
    (20, 6, 0.3), (50, 15, 0.3), (200, 6, 0.3), (20, 1, 0.3), (5, 3, 0.0), (6, 9, 0.3), (1, 1, 0.5), (7, 200, 0.3),
    (7, 3, 0.3), (11, 2, 0.3), (20, 2, 0.1), (90, 9, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), PARAMETERS)
def test_distances_agree_with_the_textbook(k1, k2, lambda_value):
    assert_textbook(*clusters(12, 58), k1, k2, lambda_value)


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), PARAMETERS[::3])
def test_blocks_smaller_than_the_data_change_nothing(small_blocks, k1, k2, lambda_value):
    assert_textbook(*clusters(12, 58), k1, k2, lambda_value)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What a GPU computes is computed by the same functions of torch on the CPU."""
    find = partial(nearest_items.nearest_items_on, torch.device("cpu"))
    monkeypatch.setattr(reranking, "nearest_items", find)


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), PARAMETERS)
def test_the_functions_for_a_gpu_agree_with_the_textbook(as_on_a_gpu, k1, k2, lambda_value):
    assert_textbook(*clusters(12, 58), k1, k2, lambda_value)


@pytest.mark.parametrize("seed", range(4))
def test_the_functions_for_a_gpu_order_ties_and_copies_as_the_textbook(as_on_a_gpu, small_blocks, seed):
    q, g = whole_numbers(10, 50, highest=4, seed=seed)
    q[: 2 * seed] = g[5 : 5 + 2 * seed]
    assert_textbook(q, g, 6, 3, 0.2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_distances_of_the_cpu():
    q, g = clusters(80, 400)
    assert_close(k_reciprocal_rerank(q, g, device=torch.device("cuda")), k_reciprocal_rerank(q, g), 480, passes=3)


@pytest.mark.parametrize("block_rows", [1, 9, 1024])
@pytest.mark.parametrize(
    "copied", [[], [0, 1, 2, 3, 4], [19, 3, 3, 24, 0], [7, 2]], ids=["none", "first", "scattered", "some"]
)
def test_queries_that_stand_in_the_gallery_too_agree_with_the_textbook(monkeypatch, small_blocks, copied, block_rows):
    """With many items equally near."""
    monkeypatch.setattr(nearest_items, "_BLOCK_ROWS", block_rows)
    q, g = whole_numbers(5, 30, highest=4)
    q[: len(copied)] = g[copied]
    q[len(copied) :] += 5  # not in the gallery
    assert_textbook(q, g, 9, 4, 0.3)


def test_all_weight_on_the_original_gives_squared_distances_over_their_maximum():
    # Items 0 and 3 query, 1 and 5 gallery on a line: squared distances 1, 25 of at most 25 and 4, 4 of at most 9.
    result = k_reciprocal_rerank([[0.0], [3.0]], [[1.0], [5.0]], k1=2, k2=1, lambda_value=1)
    np.testing.assert_allclose(result, [[1 / 25, 1], [4 / 9, 4 / 9]], rtol=1e-6)


def test_features_are_taken_as_given_so_their_scale_cancels_but_not_their_lengths():
    q, g = clusters(6, 30, seed=2)
    first = k_reciprocal_rerank(q, g)
    assert np.array_equal(first, k_reciprocal_rerank(q, g, 20, 6, 0.3))  # the textbook's parameters are the defaults
    assert_close(k_reciprocal_rerank(4 * q, 4 * g), first, terms=36, passes=3)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (q, g)]
    assert np.abs(k_reciprocal_rerank(*unit) - first).max() > 0.01


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(0, 6, 0.3), (20, 0, 0.3), (20, 6, -0.1), (20, 6, 1.1)])
def test_parameters_out_of_range_are_refused(k1, k2, lambda_value):
    with pytest.raises(ValueError, match=f"found {k1}, {k2}, {lambda_value}"):
        k_reciprocal_rerank(*clusters(2, 5), k1, k2, lambda_value)


@pytest.mark.parametrize(("k1", "k2"), [(6, 1), (6, 3), (3, 8)])
@pytest.mark.parametrize("seed", range(4))
def test_ties_go_by_row_as_in_the_textbook(k1, k2, seed):
    # Points of a 5x5 grid: nearly all distances are tied, and many items are copies.
    assert_textbook(*whole_numbers(10, 50, highest=4, seed=seed), k1, k2, 0.2)


@pytest.mark.parametrize("k2", [1, 4])
def test_more_copies_than_neighbours_leave_items_without_a_set(k2):
    # Nine copies, k1 3: the nearest of all are the first four rows, so the later copies have no reciprocal neighbour.
    q, g = np.ones((2, 3)), np.concatenate([np.ones((7, 3)), np.arange(12).reshape(4, 3)])
    result = k_reciprocal_rerank(q, g, 3, k2, 0.0)
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
    # The mean over the first rows makes every copy the same again; without it the last five have no member.
    expected = np.array([[0, 0] + [0 if k2 > 1 else 1] * 5] * 2)
    assert_close(result[:, :7], expected, terms=13, passes=3, scale=1)


def test_inputs_stay_as_they_are_and_may_be_read_only_or_of_another_type():
    q, g = clusters(6, 30, seed=5)
    kept = q.copy(), g.copy()
    expected = k_reciprocal_rerank(q, g)
    assert np.array_equal(q, kept[0]) and np.array_equal(g, kept[1])
    q.flags.writeable = False
    assert np.array_equal(k_reciprocal_rerank(q, g.astype(np.float64)), expected)
    assert np.array_equal(k_reciprocal_rerank(q, np.asfortranarray(g)), expected)


def test_the_result_does_not_depend_on_the_number_of_threads():
    q, g = clusters(80, 200, seed=6)
    before = torch.get_num_threads()
    try:
        results = [torch.set_num_threads(threads) or k_reciprocal_rerank(q, g) for threads in (1, 3)]
    finally:
        torch.set_num_threads(before)
    assert_close(*results, terms=280, passes=3)


@pytest.fixture
def measured(monkeypatch) -> list[tuple[int, int]]:
    """Shapes of the blocks of distances that were computed."""
    shapes, distances = [], nearest_items.Items.distances

    def noted(items, block):
        dist_RB = distances(items, block)
        shapes.append(tuple(dist_RB.shape))
        return dist_RB

    monkeypatch.setattr(nearest_items.Items, "distances", noted)
    return shapes


def test_memory_is_the_result_and_blocks_but_no_square_matrix(monkeypatch, measured):
    monkeypatch.setattr(nearest_items, "_BLOCK_ROWS", 64)
    rng = np.random.default_rng(0)
    people = rng.normal(size=(400, 16))
    features = (people[rng.integers(0, 400, 4000)] + 0.3 * rng.normal(size=(4000, 16))).astype(np.float32)
    tracemalloc.start()
    k_reciprocal_rerank(features[:100], features[100:])
    _, peak = tracemalloc.get_traced_memory()  # bytes of numpy arrays; distances are torch's and not counted
    tracemalloc.stop()
    assert peak < 20e6  # the result is 1.6 MB, one square matrix of float32 would be 64 MB
    assert sum(columns for _, columns in measured) == 4000 and max(columns for _, columns in measured) <= 64
    assert sum(rows * columns for rows, columns in measured) < 0.52 * 4000**2  # each pair once


def test_a_query_that_stands_in_the_gallery_too_is_measured_once(measured):
    q, g = clusters(6, 30)
    k_reciprocal_rerank(np.concatenate([q, g[[8, 3]]]), g)
    assert measured == [(36, 36)]


@pytest.mark.parametrize("fault", [np.nan, np.inf, 1e20])
def test_features_that_are_not_finite_are_refused(fault):
    q, g = clusters(3, 9)
    g[4, 2] = fault
    with pytest.raises(ValueError, match="nan or inf, or are too large to square"):
        k_reciprocal_rerank(q, g)


def test_no_query_or_no_gallery_gives_an_empty_result():
    q, g = clusters(3, 9)
    assert k_reciprocal_rerank(q[:0], g).shape == (0, 9)
    assert k_reciprocal_rerank(q, g[:0]).shape == (3, 0)
