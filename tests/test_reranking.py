"""k-reciprocal re-ranking against a plain textbook implementation with sets and loops."""

import math

import numpy as np
import pytest

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
    """Features of eight loose identities."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, 6))
    features = centres[rng.integers(0, 8, queries + gallery)] + 0.5 * rng.normal(size=(queries + gallery, 6))
    return features[:queries].astype(np.float32), features[queries:].astype(np.float32)


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"),
    [(20, 6, 0.3), (50, 15, 0.3), (200, 6, 0.3), (20, 1, 0.3), (5, 3, 0.0), (6, 9, 0.3), (1, 1, 0.5), (7, 200, 0.3),
     (7, 3, 0.3), (11, 2, 0.3), (20, 2, 0.1)],
)  # fmt: skip
def test_distances_agree_with_the_textbook(k1, k2, lambda_value):
    q, g = clusters(12, 58)
    expected = textbook(q, g, k1, k2, lambda_value)
    result = k_reciprocal_rerank(q, g, k1, k2, lambda_value)
    assert result.shape == (12, 58) and result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_the_default_parameters_are_the_textbooks():
    q, g = clusters(5, 40, seed=1)
    assert np.array_equal(k_reciprocal_rerank(q, g), k_reciprocal_rerank(q, g, 20, 6, 0.3))


def test_all_weight_on_the_original_gives_squared_distances_over_their_maximum():
    # Items 0 and 3 query, 1 and 5 gallery on a line: squared distances 1, 25 of at most 25 and 4, 4 of at most 9.
    result = k_reciprocal_rerank([[0.0], [3.0]], [[1.0], [5.0]], k1=2, k2=1, lambda_value=1)
    np.testing.assert_allclose(result, [[1 / 25, 1], [4 / 9, 4 / 9]], rtol=1e-6)


def test_features_are_taken_as_given_so_their_scale_cancels_but_not_their_lengths():
    q, g = clusters(6, 30, seed=2)
    first = k_reciprocal_rerank(q, g)
    np.testing.assert_allclose(k_reciprocal_rerank(4 * q, 4 * g), first, atol=1e-6)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (q, g)]
    assert np.abs(k_reciprocal_rerank(*unit) - first).max() > 0.01


def test_the_set_distance_is_symmetric_between_queries_and_gallery():
    q, g = clusters(9, 30, seed=3)
    forth, back = k_reciprocal_rerank(q, g, lambda_value=0), k_reciprocal_rerank(g, q, lambda_value=0)
    np.testing.assert_allclose(forth, back.T, atol=1e-6)
    assert forth.min() >= 0 and forth.max() <= 1


def test_shuffling_the_gallery_shuffles_the_result():
    q, g = clusters(6, 30, seed=4)
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(k_reciprocal_rerank(q, g[order]), k_reciprocal_rerank(q, g)[:, order], atol=1e-6)


def test_items_that_share_no_neighbour_are_at_distance_one():
    # Two far groups of four on a line: neighbour sets of two others stay inside a group.
    q, g = [[0.0], [100.0]], [[1.0], [2.5], [4.7], [101.0], [102.5], [104.7]]
    result = k_reciprocal_rerank(q, g, k1=2, k2=1, lambda_value=0)
    assert result[0, 3:].tolist() == result[1, :3].tolist() == [1, 1, 1]
    assert result[0, 0] < 1 and result[1, 3] < 1


def test_identical_features_give_finite_distances():
    assert np.isfinite(k_reciprocal_rerank(np.ones((3, 4)), np.ones((5, 4)))).all()


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(0, 6, 0.3), (20, 0, 0.3), (20, 6, -0.1), (20, 6, 1.1)])
def test_parameters_out_of_range_are_refused(k1, k2, lambda_value):
    with pytest.raises(ValueError, match=f"found {k1}, {k2}, {lambda_value}"):
        k_reciprocal_rerank(*clusters(2, 5), k1, k2, lambda_value)
