"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) with sparse neighbour sets, block of items by block of items.

Q queries, G gallery items, N = Q + G items (queries first), F features, B items of a block, K kept nearest items.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from utils.nearest_items import Items, Nearest, blocks, in_threads, nearest_items, nearest_items_on

_SET_ROWS = 512  # items whose neighbour sets a thread expands at once
_PAIRS = 256  # pairs of items whose features it holds
_GALLERY_ROWS = 8192  # gallery items whose expanded weights are held at once
_QUERY_ROWS = 64  # queries that a thread compares with them
_PART_ENTRIES = 2**17  # pairs of weights that are compared at once; more do not fit the cache


def k_reciprocal_rerank(
    q_feats: ArrayLike,
    g_feats: ArrayLike,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    device: torch.device | None = None,
) -> NDArray[np.float32]:
    """Re-ranked distances (Q, G) of features (Q, F) and (G, F) as they are given.

    Squared Euclidean distances of all items, divided by their column maximum; Jaccard distance of the k1-reciprocal
    neighbour sets after expansion over k2 neighbours; lambda_value weighs the original distance. The release uses k1
    50, k2 15; the textbook values are 20 and 6. Distances and nearest items are found on `device` (None: the CPU),
    whose rounding decides near ties; the rest takes all cores. Memory beside the result: blocks of distances and, per
    item, the nearest items and the neighbour set. Raises ValueError for k1, k2 below 1, lambda_value outside 0..1 or
    features that are not finite.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(f"k1 and k2 must be 1 or more, lambda in 0..1; found {k1}, {k2}, {lambda_value}")
    items = Items(_as_features(q_feats), _as_features(g_feats))
    result_QG = np.empty((items.num_query, items.num_gallery), dtype=np.float32)
    if not result_QG.size:
        return result_QG
    find = nearest_items if device is None or device.type == "cpu" else partial(nearest_items_on, device)
    near = find(items, max(k1 + 1, k2), result_QG)
    weights_NN = _set_weights(items, near, k1)
    # With k2 1 each item keeps its own weights, even when the nearest item is an earlier copy of it.
    means_NN = _pattern(near.rows_NK[:, :k2] if k2 > 1 else np.arange(len(near.rows_NK))[:, None])
    means_NN.data /= min(k2, near.rows_NK.shape[1])
    _blend_jaccard(weights_NN, means_NN, lambda_value, result_QG)
    return result_QG


def _as_features(features: ArrayLike) -> NDArray[np.float32]:
    """float32 rows (n, F), copied only if needed; writeable, as torch.from_numpy asks for."""
    return np.require(features, np.float32, ["C", "W"])


def _pattern(rows_NK: NDArray[np.int32]) -> sparse.csr_array:
    """Ones (N, N): row i has them at the columns rows_NK[i]."""
    count, width = rows_NK.shape
    dtype = sparse.get_index_dtype(maxval=count * width)
    ends = np.arange(0, count * width + 1, width, dtype=dtype)
    ones = np.ones(count * width, dtype=np.float32)
    return sparse.csr_array((ones, rows_NK.ravel().astype(dtype), ends), shape=(count, count))


def _reciprocal_sets(rows_NK: NDArray[np.int32], k: int) -> sparse.csr_array:
    """Ones (N, N) where two items are both among the k+1 nearest of the other."""
    forward_NN = _pattern(rows_NK[:, : k + 1])
    return forward_NN.multiply(forward_NN.T.tocsr()).tocsr()


def _expanded_sets(block: slice, own_NN: sparse.csr_array, half_NN: sparse.csr_array) -> sparse.csr_array:
    """The k1-sets of a block joined with the k1/2-sets of their members that overlap them by more than two thirds."""
    own_BN = own_NN[block]
    # half_NN is symmetric: entry (i, c) of the product counts what the k1-set of i and the k1/2-set of c share.
    overlap_BN = (own_BN @ half_NN).multiply(own_BN).tocsr()
    set_sizes = np.diff(half_NN.indptr)
    overlap_BN.data = (3 * overlap_BN.data > 2 * set_sizes[overlap_BN.indices]).astype(np.float32)
    overlap_BN.eliminate_zeros()
    sets_BN = (own_BN + overlap_BN @ half_NN).tocsr()
    sets_BN.data[:] = 1
    return sets_BN


def _set_weights(items: Items, near: Nearest, k1: int) -> sparse.csr_array:
    """Weights (N, N) of the members of each item's expanded set: exp(-distance), of sum 1 per item."""
    own_NN = _reciprocal_sets(near.rows_NK, k1)
    half_NN = _reciprocal_sets(near.rows_NK, round(k1 / 2))
    known_NN = _pattern(near.rows_NK)
    known_NN.data = np.exp(-near.dist_NK.ravel())

    def weigh(block: slice) -> sparse.csr_array:
        sets_BN = _expanded_sets(block, own_NN, half_NN)
        known_BN = sets_BN.multiply(known_NN[block]).tocsr()
        absent_BN = (sets_BN - known_BN.sign()).tocsr()
        absent_BN.eliminate_zeros()
        absent_BN.data = np.exp(-_distances_of_pairs(items, near, block, absent_BN))
        weights_BN = (known_BN + absent_BN).tocsr()
        sums_B = np.maximum(weights_BN.sum(axis=1), 1e-12)  # the set is empty if many copies come before the item
        weights_BN.data /= np.repeat(sums_B, np.diff(weights_BN.indptr))
        return weights_BN

    return sparse.vstack(in_threads(weigh, blocks(len(items.column_N), _SET_ROWS)), format="csr")


def _distances_of_pairs(items: Items, near: Nearest, block: slice, pairs_BN: sparse.csr_array) -> NDArray[np.float32]:
    """Normalised squared distances (n,) of the n stored pairs: members that are not among the kept nearest items."""
    first = np.repeat(np.arange(block.start, block.stop), np.diff(pairs_BN.indptr))
    first, second = items.column_N[first], items.column_N[pairs_BN.indices]
    products = np.empty(len(second), dtype=np.float32)
    for part in blocks(len(second), _PAIRS):  # not by BLAS, whose threads would be in each other's way
        np.einsum("nf,nf->n", items.features(first[part]), items.features(second[part]), out=products[part])
    dist = items.squares_U[first] + items.squares_U[second] - 2 * products
    return np.maximum(dist, 0) / np.repeat(near.largest_N[block], np.diff(pairs_BN.indptr))


def _blend_jaccard(
    weights_NN: sparse.csr_array, means_NN: sparse.csr_array, lambda_value: float, result_QG: NDArray[np.float32]
) -> None:
    """Turn original distances (Q, G) into lambda of them and 1 - lambda of the Jaccard distances, in place.

    Jaccard distance: 1 - sum(min) / sum(max) of the weights means_NN @ weights_NN, the means over the nearest items of
    each item.
    """
    num_query, num_gallery = result_QG.shape
    result_QG *= lambda_value

    def mean_weights(start: int, stop: int) -> sparse.csr_array:
        rows = (slice(start + part.start, start + part.stop) for part in blocks(stop - start, _SET_ROWS))
        return sparse.vstack(in_threads(lambda part: means_NN[part] @ weights_NN, rows), format="csr")

    query_QN = mean_weights(0, num_query)
    sums_Q = query_QN.sum(axis=1)
    for block in blocks(num_gallery, _GALLERY_ROWS):
        gallery_BN = mean_weights(num_query + block.start, num_query + block.stop)
        sums_B = gallery_BN.sum(axis=1)
        owners_NB = gallery_BN.T.tocsr()  # per set member the gallery items that have it, and their weights

        def blend(part: slice, block=block, sums_B=sums_B, owners_NB=owners_NB) -> None:
            smaller_PB = _sums_of_smaller(query_QN[part], owners_NB)
            larger_PB = sums_Q[part, None] + sums_B - smaller_PB
            np.maximum(larger_PB, np.maximum(smaller_PB, 1e-12), out=larger_PB)
            result_QG[part, block] += (1 - lambda_value) * (1 - smaller_PB / larger_PB)

        in_threads(blend, blocks(num_query, _QUERY_ROWS))


def _sums_of_smaller(query_PN: sparse.csr_array, owners_NB: sparse.csr_array) -> NDArray[np.float32]:
    """Sum over set members of the smaller of the two weights, for queries and gallery items: (P, B)."""
    shape = (query_PN.shape[0], owners_NB.shape[1])
    sums = torch.zeros(shape[0] * shape[1])
    num_owners = np.diff(owners_NB.indptr)[query_PN.indices]  # of each member of each query
    first_cell = np.repeat(np.arange(shape[0]) * shape[1], np.diff(query_PN.indptr))
    part_of_member = np.cumsum(num_owners, dtype=np.int64) // _PART_ENTRIES
    starts = np.flatnonzero(np.diff(part_of_member, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(num_owners)]):
        part, counts = slice(start, stop), num_owners[start:stop]
        shared = owners_NB[query_PN.indices[part]]  # a row per member of a query
        np.minimum(shared.data, np.repeat(query_PN.data[part], counts), out=shared.data)
        cells = np.repeat(first_cell[part], counts)
        cells += shared.indices
        sums.scatter_add_(0, torch.from_numpy(cells), torch.from_numpy(shared.data))
    return sums.view(shape).numpy()
