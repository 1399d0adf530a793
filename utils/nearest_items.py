"""The nearest items of each of many, by squared Euclidean distance, from blocks of distances.

Q queries, G gallery items, N = Q + G items (queries first), U distinct items, F features, B items of a block, R items
from the first of the block to the last of all, P items of a part of them, K nearest items that are kept, C columns.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from utils.precision import autocast, float32_products

_BLOCK_ROWS = 1024  # items of a block
_PART_ROWS = 256  # items that a thread compares with a block, or whose copies it adds
_COPIED_QUERIES = 64  # queries whose distances a thread copies at once
_T = TypeVar("_T")


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


def in_threads(work: Callable[[slice], _T], parts: Iterable[slice]) -> list[_T]:
    """The results of `work` on each part, in order; numpy and scipy let threads compute side by side."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(work, parts))


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
        dist_RB = items.distances(block).numpy()
        _scan(dist_RB, block, dist_UK, columns_UK, largest_U)
        _copy_pairs(items, block, dist_RB, original_QG)
    # Each item's distances are divided by its largest one: the column maximum of the matrix, which is symmetric.
    dist_UK /= largest_U[:, None]
    original_QG /= largest_U[items.column_N[: items.num_query], None]
    rows_UK, dist_UK = _with_copies(items, columns_UK, dist_UK, min(num_near, len(items.column_N)))
    return Nearest(rows_UK[items.column_N], dist_UK[items.column_N], largest_U[items.column_N])


def nearest_items_on(
    device: torch.device, items: Items, num_near: int, original_QG: NDArray[np.float32]
) -> Nearest:
    """`nearest_items`, computed by torch on `device`, which then holds the features and a few blocks of distances."""
    num_distinct = len(items.squares_U)
    features_UF, squares_U = torch.from_numpy(np.concatenate(items.parts)), torch.from_numpy(items.squares_U)
    features_UF, squares_U = features_UF.to(device), squares_U.to(device)
    numbers_U = torch.arange(num_distinct, device=device)
    place_Q, place_G = np.split(items.column_N, [items.num_query])
    place_G = torch.from_numpy(place_G).to(device)
    keys, largest = [], []
    for block in blocks(num_distinct, _BLOCK_ROWS):
        dist_BU = squares_U[block, None] + squares_U
        with autocast(device, None), float32_products(False):
            dist_BU.sub_(features_UF[block] @ features_UF.T, alpha=2).clamp_(min=0)
        largest.append(dist_BU.amax(dim=1).clamp_(min=1e-12))
        # Distances are not negative, so that their bits, and after these the columns, order as they do.
        keys_BU = dist_BU.view(torch.int32).long().bitwise_left_shift_(32).bitwise_or_(numbers_U)
        keys.append(keys_BU.topk(min(num_near, num_distinct), largest=False).values.cpu())
        queries = np.flatnonzero((place_Q >= block.start) & (place_Q < block.stop))
        rows = torch.from_numpy(place_Q[queries] - block.start).to(device)
        original_QG[queries] = dist_BU[rows][:, place_G].cpu().numpy()
    keys_UK, largest_U = torch.cat(keys).numpy(), torch.cat(largest).cpu().numpy()
    dist_UK = (keys_UK >> 32).astype(np.int32).view(np.float32) / largest_U[:, None]
    columns_UK = (keys_UK & 0xFFFFFFFF).astype(np.int32)
    original_QG /= largest_U[place_Q, None]
    rows_UK, dist_UK = _with_copies(items, columns_UK, dist_UK, min(num_near, len(items.column_N)))
    return Nearest(rows_UK[items.column_N], dist_UK[items.column_N], largest_U[items.column_N])


def _scan(
    dist_RB: NDArray[np.float32],
    block: slice,
    dist_UK: NDArray[np.float32],
    columns_UK: NDArray[np.int32],
    largest_U: NDArray[np.float32],
) -> None:
    """Update what is kept of each item, its nearest so far and its largest distance, in place."""
    size, num_later = block.stop - block.start, len(dist_RB) - (block.stop - block.start)
    cutoff_B = _cutoff(dist_UK[block], dist_RB[:size].T)

    def scan(part: slice) -> tuple[NDArray[np.float32], _Found]:
        """Serve the items of a part from the block; for the items of the block, return what the part gives them."""
        dist_PB, rows = dist_RB[part], slice(block.start + part.start, block.start + part.stop)
        largest_U[rows] = np.maximum(largest_U[rows], dist_PB.max(axis=1))
        if part.start >= size:  # the others are the block itself
            places, others, dist = _found(dist_PB, _cutoff(dist_UK[rows], dist_PB)[:, None])
            _merge(dist_UK[rows], columns_UK[rows], _Found(places, others + block.start, dist))
        places, others, dist = _found(dist_PB, cutoff_B)
        return dist_PB.max(axis=0), _Found(others, places + rows.start, dist)

    later = (slice(size + part.start, size + part.stop) for part in blocks(num_later, _PART_ROWS))
    scanned = in_threads(scan, [*blocks(size, _PART_ROWS), *later])
    largest_U[block] = np.maximum(largest_U[block], np.max([largest_B for largest_B, _ in scanned], axis=0))
    places, others, dist = (np.concatenate(arrays) for arrays in zip(*(found for _, found in scanned)))
    order = np.argsort(places, kind="stable")
    _merge(dist_UK[block], columns_UK[block], _Found(places[order], others[order], dist[order]))


class _Found(NamedTuple):
    """Distances (n,) that may be among the smallest: of which row, to which column."""

    places: NDArray[np.int64]  # ascending
    columns: NDArray[np.int64]  # ascending in each row
    dist: NDArray[np.float32]


def _cutoff(kept_nK: NDArray[np.float32], dist_nC: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) bounds of the K-th smallest distance: of those kept, or while there are none, of some more (n, C)."""
    cutoff_n, num_kept = kept_nK.max(axis=1, initial=0), kept_nK.shape[1]
    if num_kept <= dist_nC.shape[1] and np.isinf(cutoff_n).any():
        cutoff_n = np.minimum(cutoff_n, np.partition(dist_nC, num_kept - 1, axis=1)[:, num_kept - 1])
    return cutoff_n


def _found(dist_nC: NDArray[np.float32], cutoff: NDArray[np.float32]) -> _Found:
    flat = np.flatnonzero(dist_nC <= cutoff)
    return _Found(*np.divmod(flat, dist_nC.shape[1]), dist_nC.ravel()[flat])


def _copy_pairs(items: Items, block: slice, dist_RB: NDArray[np.float32], original_QG: NDArray[np.float32]) -> None:
    """Copy distances of queries to gallery items out of `dist_RB`, those of a block to itself and what follows."""
    place_Q, place_G = (columns - block.start for columns in np.split(items.column_N, [items.num_query]))
    size = block.stop - block.start
    for queries, gallery, by_row in (
        ((place_Q >= 0) & (place_Q < size), place_G >= 0, False),
        (place_Q >= size, (place_G >= 0) & (place_G < size), True),
    ):
        queries, gallery = np.flatnonzero(queries), np.flatnonzero(gallery)
        places_Q, places_G = place_Q[queries], place_G[gallery]

        def copy(part: slice, queries=queries, gallery=gallery, q=places_Q, g=places_G, by_row=by_row) -> None:
            taken = dist_RB[np.ix_(q[part], g)] if by_row else dist_RB[np.ix_(g, q[part])].T
            original_QG[np.ix_(queries[part], gallery)] = taken

        in_threads(copy, blocks(len(queries), _COPIED_QUERIES))


def _merge(kept_nK: NDArray[np.float32], columns_nK: NDArray[np.int32], found: _Found) -> None:
    """Keep the K smallest of the distances kept so far and of those found, in place; of equal ones the first columns.

    Columns ascend in each row, and those kept are smaller than those found.
    """
    num_rows, num_kept = kept_nK.shape
    counts_n = np.bincount(found.places, minlength=num_rows)
    width = num_kept + counts_n.max(initial=0)
    if width == num_kept:
        return
    dist_nC = np.full((num_rows, width), np.inf, dtype=np.float32)
    more_nC = np.zeros((num_rows, width), dtype=np.int32)
    dist_nC[:, :num_kept], more_nC[:, :num_kept] = kept_nK, columns_nK
    slots = num_kept + np.arange(len(found.places)) - np.repeat(np.cumsum(counts_n) - counts_n, counts_n)
    dist_nC[found.places, slots], more_nC[found.places, slots] = found.dist, found.columns
    cutoff_n = np.partition(dist_nC, num_kept - 1, axis=1)[:, num_kept - 1]
    flat = np.flatnonzero(dist_nC <= cutoff_n[:, None])  # up to the K-th's distance: K or more per row
    rows = flat // width
    surplus_n = np.bincount(rows, minlength=num_rows) - num_kept
    if surplus_n.any():
        tied = np.flatnonzero(dist_nC.ravel()[flat] == cutoff_n[rows])
        tied_rows = rows[tied]
        from_last = np.searchsorted(tied_rows, tied_rows, "right") - 1 - np.arange(len(tied))
        flat = np.delete(flat, tied[from_last < surplus_n[tied_rows]])
    kept_nK[...] = dist_nC.ravel()[flat].reshape(kept_nK.shape)
    columns_nK[...] = more_nC.ravel()[flat].reshape(kept_nK.shape)


def _with_copies(
    items: Items, columns_UK: NDArray[np.int32], dist_UK: NDArray[np.float32], num_near: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rows and distances (U, num_near) among the N items, in the order of a stable sort, from distinct items (U, K)."""
    by_column = np.argsort(items.column_N, kind="stable")
    copies_U = np.bincount(items.column_N)
    first_U = np.cumsum(copies_U) - copies_U

    def add_copies(part: slice) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        columns_PK = columns_UK[part]
        counts = copies_U[columns_PK.ravel()]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = by_column[np.repeat(first_U[columns_PK.ravel()], counts) + within]
        dist = np.repeat(dist_UK[part].ravel(), counts)
        owners = np.repeat(np.repeat(np.arange(len(columns_PK)), columns_PK.shape[1]), counts)
        order = np.lexsort((rows, dist, owners))
        first = np.searchsorted(owners, np.arange(len(columns_PK)))
        taken = order[first[:, None] + np.arange(num_near)]
        return rows[taken].astype(np.int32), dist[taken]

    rows, dist = zip(*in_threads(add_copies, blocks(len(columns_UK), _PART_ROWS)))
    return np.concatenate(rows), np.concatenate(dist)
