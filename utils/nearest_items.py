"""The nearest items of each of many, by squared Euclidean distance, from blocks of distances.

Q queries, G gallery items, N = Q + G items (queries first), U distinct items, F features, B items of a block, R items
from the first of the block to the last of all, K nearest items that are kept, C columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray

_BLOCK_ROWS = 1024  # items of a block


def _squared_lengths(features_nF: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,), added pairwise: the rounding of a plain sum would reorder neighbours that are nearly tied."""
    lengths = [np.square(features_nF[block]).sum(axis=1) for block in blocks(len(features_nF), _BLOCK_ROWS)]
    return np.concatenate(lengths) if lengths else np.empty(0, dtype=np.float32)


class Items:
    """The list of N items and the U distinct ones among them, in the order in which they first occur.

    A query with the features of a gallery item is the same item: that saves work, and both are exactly as near to any
    other. Raises ValueError for features (Q, F), (G, F) that are not finite or too large to square.
    """

    def __init__(self, queries_QF: NDArray[np.float32], gallery_GF: NDArray[np.float32]) -> None:
        gallery_rows = {sha256(row).digest(): row_number for row_number, row in enumerate(gallery_GF)}
        copy_of_Q = np.array([gallery_rows.get(sha256(row).digest(), -1) for row in queries_QF], dtype=np.int64)
        is_new_Q = copy_of_Q < 0  # not in the gallery
        num_new = np.count_nonzero(is_new_Q)
        self.num_query, self.num_gallery = len(queries_QF), len(gallery_GF)
        self.parts = [queries_QF if is_new_Q.all() else queries_QF[is_new_Q], gallery_GF]  # together (U, F)
        column_Q = np.where(is_new_Q, np.cumsum(is_new_Q) - 1, num_new + copy_of_Q)
        self.column_N = np.concatenate([column_Q, num_new + np.arange(self.num_gallery)])  # of N items among U
        first_U = np.full(num_new + self.num_gallery, len(self.column_N))
        np.minimum.at(first_U, self.column_N, np.arange(len(self.column_N)))
        order_U = np.argsort(first_U)
        if (order_U[1:] < order_U[:-1]).any():  # unless the queries are all new, or the first gallery items
            self.parts = [np.concatenate(self.parts)[order_U]]
            self.column_N = np.argsort(order_U)[self.column_N]
        with np.errstate(over="ignore", invalid="ignore"):
            self.squares_U = np.concatenate([_squared_lengths(part) for part in self.parts])
            largest = 4 * self.squares_U.max(initial=0)  # no squared distance is above it
        if not np.isfinite(largest):
            raise ValueError("features hold nan or inf, or are too large to square")

    def features(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features (n, F) of distinct items."""
        if not len(self.parts[0]):
            return self.parts[1][columns]
        rows_nF = np.empty((len(columns), self.parts[0].shape[1]), dtype=np.float32)
        start = 0
        for part in self.parts:
            inside = (columns >= start) & (columns < start + len(part))
            rows_nF[inside] = part[columns[inside] - start]
            start += len(part)
        return rows_nF

    def distances(self, block: slice) -> torch.Tensor:
        """Squared distances (R, B) of a block of distinct items to itself and all R - B that follow it.

        The product is torch's: its rounding does not depend on the place of a row (numpy's does), so copies inside the
        gallery are equally near, too. (R, B) is faster than (B, R). Adding inside the product (addmm) would double the
        rounding error.
        """
        features_FB = torch.from_numpy(self.features(np.arange(block.start, block.stop))).T
        squares_U = torch.from_numpy(self.squares_U)
        dist_RB = squares_U[block.start :, None] + squares_U[block]
        start = 0
        for part in self.parts:
            end = start + len(part)
            if end > block.start:
                rows_F = torch.from_numpy(part[max(0, block.start - start) :])
                dist_RB[max(0, start - block.start) : end - block.start].sub_(rows_F @ features_FB, alpha=2)
            start = end
        return dist_RB.clamp_(min=0)


@dataclass(frozen=True)
class Nearest:
    """The K nearest items of each item, itself included, as a stable sort gives them."""

    rows_NK: NDArray[np.int32]
    dist_NK: NDArray[np.float32]  # squared distances over the item's largest one
    largest_N: NDArray[np.float32]


def blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of about equal length, at most `size`, that cover `count` rows."""
    edges = np.linspace(0, count, -(-count // size) + 1).astype(int).tolist()
    yield from (slice(start, stop) for start, stop in zip(edges, edges[1:]))


def nearest_items(items: Items, num_near: int, original_QG: NDArray[np.float32]) -> Nearest:
    """The nearest items of each item; writes the normalised distances of queries to gallery items into `original_QG`.

    Distances are symmetric, so each is computed once: a block of items is compared with itself and all items that
    follow, and both sides keep the nearest so far.
    """
    num_distinct = len(items.squares_U)
    num_kept = min(num_near, num_distinct)
    dist_UK = np.full((num_distinct, num_kept), np.inf, dtype=np.float32)
    columns_UK = np.zeros((num_distinct, num_kept), dtype=np.int32)
    largest_U = np.full(num_distinct, 1e-12, dtype=np.float32)
    for block in blocks(num_distinct, _BLOCK_ROWS):
        dist_RB = items.distances(block)
        later = slice(block.stop, num_distinct)
        largest_U[block.start :] = np.maximum(largest_U[block.start :], dist_RB.amax(dim=1).numpy())
        largest_U[block] = np.maximum(largest_U[block], dist_RB.amax(dim=0).numpy())
        for rows, dist_nC in ((block, dist_RB.T), (later, dist_RB[block.stop - block.start :])):
            dist_UK[rows], columns_UK[rows] = _merged(dist_UK[rows], columns_UK[rows], dist_nC, block.start)
        _copy_pairs(items, block, dist_RB.numpy(), original_QG)
    # Each item's distances are divided by its largest one: the column maximum of the matrix, which is symmetric.
    dist_UK /= largest_U[:, None]
    original_QG /= largest_U[items.column_N[: items.num_query], None]
    rows_UK, dist_UK = _with_copies(items, columns_UK, dist_UK, min(num_near, len(items.column_N)))
    return Nearest(rows_UK[items.column_N], dist_UK[items.column_N], largest_U[items.column_N])


def _copy_pairs(items: Items, block: slice, dist_RB: NDArray[np.float32], original_QG: NDArray[np.float32]) -> None:
    """Copy distances of queries to gallery items out of `dist_RB`, those of a block to itself and what follows."""
    place_Q, place_G = (columns - block.start for columns in np.split(items.column_N, [items.num_query]))
    size = block.stop - block.start
    for queries, gallery, by_row in (
        ((place_Q >= 0) & (place_Q < size), place_G >= 0, False),
        (place_Q >= size, (place_G >= 0) & (place_G < size), True),
    ):
        queries, gallery = np.flatnonzero(queries), np.flatnonzero(gallery)
        if by_row:
            original_QG[np.ix_(queries, gallery)] = dist_RB[np.ix_(place_Q[queries], place_G[gallery])]
        else:
            original_QG[np.ix_(queries, gallery)] = dist_RB[np.ix_(place_G[gallery], place_Q[queries])].T


def _merged(
    kept_nK: NDArray[np.float32], kept_columns_nK: NDArray[np.int32], dist_nC: torch.Tensor, start: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The K nearest of the items kept so far and of C more from column `start` on: distances and columns (n, K).

    Columns ascend in each row, and those kept are smaller than `start`. Of equally near items the first are kept.
    """
    num_kept = kept_nK.shape[1]
    all_nC = torch.cat([torch.from_numpy(kept_nK), dist_nC], dim=1)  # (n, K + C)
    if not len(all_nC):
        return kept_nK, kept_columns_nK
    cutoff_n = all_nC.topk(num_kept, largest=False, sorted=False).values.amax(dim=1)
    flat = np.flatnonzero((all_nC <= cutoff_n[:, None]).numpy())  # up to the K-th's distance: K or more per row
    rows = flat // all_nC.shape[1]
    surplus_n = np.bincount(rows, minlength=len(all_nC)) - num_kept
    if surplus_n.any():
        tied = np.flatnonzero(all_nC.numpy().ravel()[flat] == cutoff_n.numpy()[rows])
        tied_rows = rows[tied]
        from_last = np.searchsorted(tied_rows, tied_rows, "right") - 1 - np.arange(len(tied))
        flat = np.delete(flat, tied[from_last < surplus_n[tied_rows]])
    place_nK = (flat % all_nC.shape[1]).reshape(-1, num_kept)
    old_columns = np.take_along_axis(kept_columns_nK, np.minimum(place_nK, num_kept - 1), axis=1)
    columns_nK = np.where(place_nK < num_kept, old_columns, start + place_nK - num_kept)
    return all_nC.numpy().ravel()[flat].reshape(-1, num_kept), columns_nK


def _with_copies(
    items: Items, columns_UK: NDArray[np.int32], dist_UK: NDArray[np.float32], num_near: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rows and distances (U, num_near) among the N items, in the order of a stable sort, from distinct items (U, K)."""
    by_column = np.argsort(items.column_N, kind="stable")
    copies_U = np.bincount(items.column_N)
    first_U = np.cumsum(copies_U) - copies_U
    counts = copies_U[columns_UK.ravel()]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = by_column[np.repeat(first_U[columns_UK.ravel()], counts) + within]
    dist = np.repeat(dist_UK.ravel(), counts)
    owners = np.repeat(np.repeat(np.arange(len(columns_UK)), columns_UK.shape[1]), counts)
    order = np.lexsort((rows, dist, owners))
    first = np.searchsorted(owners, np.arange(len(columns_UK)))
    taken = order[first[:, None] + np.arange(num_near)]
    return rows[taken].astype(np.int32), dist[taken]
