"""CMC and mAP from features, without the distance matrix and without sorting its rows.

A true match's position is one more than the number of kept gallery items nearer than it, so items are counted, block of
queries by block of queries. Q queries, G gallery items, F features, P true matches of a query.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 16 * 2**20  # of distances that are held at once
# Sorting n items takes about as long as counting them for a match n / 64 times, and few items are sorted at once.
_SORT_AT_MOST = 1_000
_COUNTS_PER_SORT = 64


def average_precision(positions: NDArray[np.int64], ap: str = "step") -> float:
    """AP of true matches at these 1-based positions (P,), ascending.

    'step' is the mean precision at the hits, 'trapezoid' MARS' official rule (compute_AP.m).
    """
    found = np.arange(1, len(positions) + 1)
    precision = found / positions
    if ap == "trapezoid":
        # Precision just before each hit; with no item before the first one it counts as 1.
        earlier = positions - 1
        before = np.divide(found - 1, earlier, out=np.ones(len(positions)), where=earlier > 0)
        precision = (precision + before) / 2
    return float(precision.mean())


def match_positions(
    dist_G: NDArray[np.float32], matches: NDArray[np.int64], ignored: NDArray[np.int64]
) -> NDArray[np.int64]:
    """1-based positions (P,), ascending, of the true matches in a stable sort of the kept items.

    `matches` and `ignored` are gallery rows, ascending and distinct. `dist_G` (G,) is changed: what is ignored becomes
    infinitely far, so distances must be finite.
    """
    dist_G[ignored] = np.inf
    dist_P = dist_G[matches]
    near_G = dist_G <= dist_P.max()  # what lies behind the last match is idle
    num_near = np.count_nonzero(near_G)
    if num_near == len(matches):
        return np.arange(1, num_near + 1)
    if num_near <= _SORT_AT_MOST or num_near < len(matches) * _COUNTS_PER_SORT:
        near = np.flatnonzero(near_G)  # ascending rows
        is_match_G = np.zeros(len(dist_G), dtype=bool)
        is_match_G[matches] = True
        return np.flatnonzero(is_match_G[near[np.argsort(dist_G[near], kind="stable")]]) + 1
    return np.sort([_position(dist_G, row, distance) for row, distance in zip(matches, dist_P)])


def _position(dist_G: NDArray[np.float32], row: np.int64, distance: np.float32) -> int:
    """1-based position of gallery row `row`: the nearer items, and those as near that stand before it."""
    nearer = np.count_nonzero(dist_G < distance)
    if np.count_nonzero(dist_G <= distance) - nearer > 1:
        nearer += np.count_nonzero(dist_G[:row] == distance)
    return nearer + 1


def positions_of_matches(
    q_feats: NDArray[np.float32],
    g_feats: NDArray[np.float32],
    q_pids: NDArray,
    g_pids: NDArray,
    q_camids: NDArray,
    g_camids: NDArray,
    camera_filter: bool,
    own_rows: NDArray[np.int64] | None,
) -> Iterator[NDArray[np.int64]]:
    """For each query the positions (P,) of its true matches by Euclidean distance, none where it has no match.

    Raises ValueError for features that are not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        q_squares, g_squares = squared_lengths(q_feats), squared_lengths(g_feats)
        largest = 2 * (q_squares.max(initial=0) + g_squares.max(initial=0))  # no squared distance is above it
    if not np.isfinite(largest):
        raise ValueError("features hold nan or inf, or are too large to square")
    by_person = np.argsort(g_pids, kind="stable")  # rows of a person stay ascending
    sorted_pids = g_pids[by_person]
    first, end = (np.searchsorted(sorted_pids, q_pids, side) for side in ("left", "right"))
    block = max(1, _BLOCK_BYTES // (4 * max(1, len(g_feats))))
    for start in range(0, len(q_feats), block):
        rows = slice(start, start + block)
        dist_BG = euclidean_block(q_feats[rows], g_feats, q_squares[rows], g_squares)
        for offset, dist_G in enumerate(dist_BG):
            query = start + offset
            same_person = by_person[first[query] : end[query]]
            left_out = (g_camids[same_person] == q_camids[query]) & camera_filter
            if own_rows is not None:
                left_out |= same_person == own_rows[query]
            matches, ignored = same_person[~left_out], same_person[left_out]
            if own_rows is not None and own_rows[query] not in ignored:
                ignored = np.union1d(ignored, own_rows[query])
            yield match_positions(dist_G, matches, ignored) if len(matches) else np.empty(0, dtype=np.int64)


def euclidean_block(
    q_feats: NDArray[np.float32],
    g_feats: NDArray[np.float32],
    q_squares: NDArray[np.float32],
    g_squares: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Euclidean distances (B, G) float32 of features (B, F), (G, F) with their squared lengths (B,), (G,)."""
    products_BG = q_feats @ g_feats.T
    products_BG *= -2
    dist_BG = q_squares[:, None] + g_squares
    dist_BG += products_BG
    np.maximum(dist_BG, 0, out=dist_BG)
    return np.sqrt(dist_BG, out=dist_BG)


def squared_lengths(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared length of each row: (n, F) -> (n,)."""
    step = max(1, _BLOCK_BYTES // (4 * max(1, features.shape[1])))
    blocks = [np.square(features[start : start + step]).sum(axis=1) for start in range(0, len(features), step)]
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)
