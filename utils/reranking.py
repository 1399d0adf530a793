"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) with sparse neighbour sets, block of items by block of items.

Q queries, G gallery items, N = Q + G items (queries first), F features, B items of a block, K kept nearest items.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

_BLOCK_ROWS = 512  # items whose distances to all others are held at once
_SET_ROWS = 4096  # items whose neighbour sets are expanded at once
_GALLERY_ROWS = 8192  # gallery items whose expanded weights are held at once
_QUERY_ROWS = 64  # queries that a thread compares with them
_PART_ENTRIES = 2**17  # pairs of weights that are compared at once; more leave the cache


def k_reciprocal_rerank(
    q_feats: ArrayLike, g_feats: ArrayLike, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> NDArray[np.float32]:
    """Re-ranked distances (Q, G) of features (Q, F) and (G, F) as they are given.

    Squared Euclidean distances of all items, divided by their column maximum; Jaccard distance of the k1-reciprocal
    neighbour sets after expansion over k2 neighbours; lambda_value weighs the original distance. The release uses k1
    50, k2 15; the textbook values are 20 and 6. Beside the result it holds blocks of distances and, per item, the
    nearest items and the neighbour set. Raises ValueError for k1, k2 below 1, lambda_value outside 0..1 or features
    that are not finite.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(f"k1 and k2 must be 1 or more, lambda in 0..1; found {k1}, {k2}, {lambda_value}")
    items = _Items(_as_features(q_feats), _as_features(g_feats))
    result_QG = np.empty((items.num_query, items.num_gallery), dtype=np.float32)
    if not result_QG.size:
        return result_QG
    near = _nearest_items(items, max(k1 + 1, k2), result_QG)
    weights_NN = _set_weights(items, near, k1)
    # At k2 1 each item keeps its own weights, though a copy of it may be its nearest.
    means_NN = _pattern(near.rows_NK[:, :k2] if k2 > 1 else np.arange(len(near.rows_NK))[:, None])
    means_NN.data /= min(k2, near.rows_NK.shape[1])
    _blend_jaccard(weights_NN, means_NN, lambda_value, result_QG)
    return result_QG


def _as_features(features: ArrayLike) -> NDArray[np.float32]:
    """float32 rows (n, F), the given array itself where it has that form; torch wants it writeable."""
    return np.require(features, np.float32, ["C", "W"])


def _squared_lengths(features_nF: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,), added pairwise: the rounding of a plain sum would reorder neighbours that are nearly tied."""
    blocks = [np.square(features_nF[block]).sum(axis=1) for block in _blocks(len(features_nF), _BLOCK_ROWS)]
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)


class _Items:
    """Queries and gallery items as one list of N, their features not copied together.

    A query that stands in the gallery too is measured once, as the gallery item: that is less work, and both are
    exactly as near to any other. U distinct items: the queries of which the gallery has no copy, then the gallery.
    """

    def __init__(self, queries_QF: NDArray[np.float32], gallery_GF: NDArray[np.float32]) -> None:
        gallery_rows = {sha256(row).digest(): row_number for row_number, row in enumerate(gallery_GF)}
        copy_of_Q = np.array([gallery_rows.get(sha256(row).digest(), -1) for row in queries_QF], dtype=np.int64)
        alone_Q = copy_of_Q < 0
        num_alone = np.count_nonzero(alone_Q)
        self.num_query, self.num_gallery = len(queries_QF), len(gallery_GF)
        self.alone_AF = queries_QF if alone_Q.all() else queries_QF[alone_Q]
        self.gallery_GF = gallery_GF
        column_Q = np.where(alone_Q, np.cumsum(alone_Q) - 1, num_alone + copy_of_Q)
        self.column_N = np.concatenate([column_Q, num_alone + np.arange(self.num_gallery)])  # of N items among U
        with np.errstate(over="ignore", invalid="ignore"):
            self.squares_U = np.concatenate([_squared_lengths(self.alone_AF), _squared_lengths(gallery_GF)])
            largest = 4 * self.squares_U.max(initial=0)  # no squared distance is above it
        if not np.isfinite(largest):
            raise ValueError("features hold nan or inf, or are too large to square")

    def features(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features (n, F) of distinct items."""
        num_alone = len(self.alone_AF)
        if not num_alone:
            return self.gallery_GF[columns]
        rows_nF = np.empty((len(columns), self.gallery_GF.shape[1]), dtype=np.float32)
        in_gallery = columns >= num_alone
        rows_nF[in_gallery] = self.gallery_GF[columns[in_gallery] - num_alone]
        rows_nF[~in_gallery] = self.alone_AF[columns[~in_gallery]]
        return rows_nF

    def distances(self, block: slice) -> torch.Tensor:
        """Squared distances (B, N) of a block of distinct items to all.

        The product is torch's: its rounding does not depend on where a row stands (numpy's does), so copies inside
        the gallery are as near as each other, too. The block is the short side, which is faster than the long one;
        adding up inside the product (addmm) would double the rounding error.
        """
        num_alone = len(self.alone_AF)
        features_FB = torch.from_numpy(self.features(np.arange(block.start, block.stop))).T
        squares_U = torch.from_numpy(self.squares_U)
        dist_UB = squares_U[:, None] + squares_U[block]
        if num_alone:
            dist_UB[:num_alone].sub_(torch.from_numpy(self.alone_AF) @ features_FB, alpha=2)
        dist_UB[num_alone:].sub_(torch.from_numpy(self.gallery_GF) @ features_FB, alpha=2)
        dist_NB = dist_UB if len(self.squares_U) == len(self.column_N) else dist_UB[torch.from_numpy(self.column_N)]
        return dist_NB.T.contiguous().clamp_(min=0)


@dataclass(frozen=True)
class _Nearest:
    """The K nearest items of each item, itself included, as a stable sort gives them."""

    rows_NK: NDArray[np.int32]
    dist_NK: NDArray[np.float32]  # squared distances over the item's largest one
    largest_N: NDArray[np.float32]


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of about equal length, at most `size`, that cover `count` rows."""
    edges = np.linspace(0, count, -(-count // size) + 1).astype(int).tolist()
    yield from (slice(start, stop) for start, stop in zip(edges, edges[1:]))


def _nearest_items(items: _Items, num_near: int, original_QG: NDArray[np.float32]) -> _Nearest:
    """The nearest items of all; writes the normalised distances of queries to gallery items into `original_QG`."""
    num_distinct = len(items.squares_U)
    num_near = min(num_near, len(items.column_N))
    rows_UK = np.empty((num_distinct, num_near), dtype=np.int32)
    dist_UK = np.empty((num_distinct, num_near), dtype=np.float32)
    largest_U = np.empty(num_distinct, dtype=np.float32)
    column_Q = items.column_N[: items.num_query]
    for block in _blocks(num_distinct, _BLOCK_ROWS):
        dist_BN = items.distances(block)
        # The column maximum of the matrix, which is symmetric.
        largest_B = dist_BN.amax(dim=1).clamp_(min=1e-12)
        dist_BN /= largest_B[:, None]
        rows_UK[block], dist_UK[block] = _smallest(dist_BN, num_near)
        largest_U[block] = largest_B.numpy()
        queries = np.flatnonzero((column_Q >= block.start) & (column_Q < block.stop))
        original_QG[queries] = dist_BN.numpy()[column_Q[queries] - block.start, items.num_query :]
    return _Nearest(rows_UK[items.column_N], dist_UK[items.column_N], largest_U[items.column_N])


def _smallest(dist_BN: torch.Tensor, num_near: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns and values (B, K) of the smallest entries of each row, in the order of a stable sort."""
    cutoff_B = dist_BN.topk(num_near, largest=False, sorted=False).values.amax(dim=1)
    # K or more per row: all that are as near as the K-th.
    flat = np.flatnonzero((dist_BN <= cutoff_B[:, None]).numpy())
    values = dist_BN.numpy().ravel()[flat]
    rows, columns = np.divmod(flat, dist_BN.shape[1])
    order = np.lexsort((values, rows))  # stable, and columns ascend
    first_B = np.searchsorted(rows, np.arange(len(dist_BN)))
    taken_BK = order[first_B[:, None] + np.arange(num_near)]
    return columns[taken_BK], values[taken_BK]


def _pattern(rows_NK: NDArray[np.int32]) -> sparse.csr_array:
    """Ones (N, N) where an item of `rows_NK` stands in an item's row."""
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


def _set_weights(items: _Items, near: _Nearest, k1: int) -> sparse.csr_array:
    """Weights (N, N) of the members of each item's expanded set: exp(-distance), of sum 1 per item."""
    own_NN = _reciprocal_sets(near.rows_NK, k1)
    half_NN = _reciprocal_sets(near.rows_NK, round(k1 / 2))
    known_NN = _pattern(near.rows_NK)
    known_NN.data = np.exp(-near.dist_NK.ravel())
    blocks = []
    for block in _blocks(len(items.column_N), _SET_ROWS):
        sets_BN = _expanded_sets(block, own_NN, half_NN)
        known_BN = sets_BN.multiply(known_NN[block]).tocsr()
        absent_BN = (sets_BN - known_BN.sign()).tocsr()
        absent_BN.eliminate_zeros()
        absent_BN.data = np.exp(-_distances_of_pairs(items, near, block, absent_BN))
        weights_BN = (known_BN + absent_BN).tocsr()
        sums_B = np.maximum(weights_BN.sum(axis=1), 1e-12)  # no member: many copies of an item stand before it
        weights_BN.data /= np.repeat(sums_B, np.diff(weights_BN.indptr))
        blocks.append(weights_BN)
    return sparse.vstack(blocks, format="csr")


def _distances_of_pairs(items: _Items, near: _Nearest, block: slice, pairs_BN: sparse.csr_array) -> NDArray[np.float32]:
    """Normalised squared distances (n,) of the n stored pairs: members that are not among the kept nearest items."""
    first = np.repeat(np.arange(block.start, block.stop), np.diff(pairs_BN.indptr))
    first, second = items.column_N[first], items.column_N[pairs_BN.indices]
    products = np.empty(len(second), dtype=np.float32)
    for start, stop in zip(pairs_BN.indptr, pairs_BN.indptr[1:]):
        if start < stop:
            products[start:stop] = items.features(second[start:stop]) @ items.features(first[start : start + 1])[0]
    dist = items.squares_U[first] + items.squares_U[second] - 2 * products
    return np.maximum(dist, 0) / np.repeat(near.largest_N[block], np.diff(pairs_BN.indptr))


def _blend_jaccard(
    weights_NN: sparse.csr_array, means_NN: sparse.csr_array, lambda_value: float, result_QG: NDArray[np.float32]
) -> None:
    """Turn original distances (Q, G) into lambda of them and 1 - lambda of the Jaccard distances, in place.

    Jaccard distance: 1 - sum(min) / sum(max) of the weights, after each item's were replaced by their mean over its
    nearest items, which `means_NN` takes.
    """
    num_query, num_gallery = result_QG.shape
    result_QG *= lambda_value
    query_QN = means_NN[:num_query] @ weights_NN
    sums_Q = query_QN.sum(axis=1)
    for block in _blocks(num_gallery, _GALLERY_ROWS):
        gallery_BN = means_NN[num_query + block.start : num_query + block.stop] @ weights_NN
        sums_B = gallery_BN.sum(axis=1)
        owners_NB = gallery_BN.T.tocsr()  # per set member the gallery items that have it, and their weights

        def blend(part: slice, block=block, sums_B=sums_B, owners_NB=owners_NB) -> None:
            smaller_PB = _sums_of_smaller(query_QN[part], owners_NB)
            larger_PB = sums_Q[part, None] + sums_B - smaller_PB
            np.maximum(larger_PB, np.maximum(smaller_PB, 1e-12), out=larger_PB)
            result_QG[part, block] += (1 - lambda_value) * (1 - smaller_PB / larger_PB)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(blend, _blocks(num_query, _QUERY_ROWS)))


def _sums_of_smaller(query_PN: sparse.csr_array, owners_NB: sparse.csr_array) -> NDArray[np.float32]:
    """Sum over set members of the smaller of both weights, for queries and owners (P, B)."""
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
