"""Positions of true matches from features, without the distance matrix and without ranking whole rows.

The position of a true match is one more than the number of gallery items before it. So items are counted, for one
block of queries at a time: with numpy on the CPU, with torch elsewhere. Q queries, G gallery items, F features, B
queries of a block, P true matches of a query, M true matches of a block's queries together.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from utils.precision import autocast, float32_products

_BLOCK_BYTES = 32 * 2**20  # of distances that are held at once; a matrix product of fewer queries is slower
# Up to this many items (in all, or per match) are sorted; of more, those before each match are counted, which is faster
# then. Measured with 11,310 and 50,000 items.
_SORT_AT_MOST, _SORT_PER_MATCH = 1_000, 128
_COUNT_BYTES = 2**22  # of truth values that a comparison may fill
_NOT_FINITE = "features hold nan or inf, or are too large to square"
_LAST_KEY = torch.iinfo(torch.int64).max


class Roles:
    """Who is whose true match: persons and cameras of queries (Q,) and gallery (G,), and what is left out.

    With `camera_filter` gallery items of the query's own person and camera are left out. `own_rows` (Q,) names the
    gallery row that is the query itself, which is always left out.
    """

    def __init__(
        self,
        q_pids: ArrayLike,
        g_pids: ArrayLike,
        q_camids: ArrayLike,
        g_camids: ArrayLike,
        camera_filter: bool = True,
        own_rows: ArrayLike | None = None,
    ) -> None:
        self.q_pids, self.g_pids, self.q_camids, self.g_camids = map(np.asarray, (q_pids, g_pids, q_camids, g_camids))
        self.camera_filter = camera_filter
        self.own_rows = None if own_rows is None else np.asarray(own_rows)
        self.num_query, self.num_gallery = len(self.q_pids), len(self.g_pids)
        self._by_person = np.argsort(self.g_pids, kind="stable")  # (G,) rows of a person stay ascending
        sorted_pids = self.g_pids[self._by_person]
        self._first, self._end = (np.searchsorted(sorted_pids, self.q_pids, side) for side in ("left", "right"))

    def check_fit(self, what: str, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless `shape`, that of `what`, is (Q, G) and there are as many cameras as persons."""
        cameras = len(self.q_camids), len(self.g_camids)
        if not shape == cameras == (self.num_query, self.num_gallery):
            raise ValueError(
                f"{what} {shape} do not fit {self.num_query} query and {self.num_gallery} gallery ids "
                f"({cameras[0]}, {cameras[1]} cameras)"
            )

    def of(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Gallery rows of a query's true matches (P,), ascending, and of all that is left out for it."""
        same_person = self._by_person[self._first[query] : self._end[query]]
        left_out = (self.g_camids[same_person] == self.q_camids[query]) & self.camera_filter
        if self.own_rows is None:
            return same_person[~left_out], same_person[left_out]
        own = self.own_rows[query]
        left_out |= same_person == own
        return same_person[~left_out], np.append(same_person[left_out], own)


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
    return float(precision.sum() / len(precision))


def inverse_negative_penalty(positions: NDArray[np.int64]) -> float:
    """INP of true matches at these 1-based positions (P,), ascending: P / position of the last one.

    Its mean over the queries is mINP (Ye et al., TPAMI 2021): how early the hardest true match is found.
    """
    return float(len(positions) / positions[-1])


def others_before(dist_G: NDArray, matches: NDArray[np.int64], left_out: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of the `matches` (P,), how many other items a stable sort puts before it: (P,).

    True matches and items that are left out are not counted. `matches` and `left_out` are gallery rows, P at least 1.
    Distances may be infinite, not nan.
    """
    dist_P = dist_G[matches]
    others_G = dist_G.astype(np.result_type(dist_G, np.float32))  # a copy
    others_G[matches] = others_G[left_out] = np.nan  # no comparison with nan is true
    near_G = others_G <= dist_P.max()  # items behind the last match do not count
    if np.count_nonzero(near_G) <= max(_SORT_AT_MOST, _SORT_PER_MATCH * len(matches)):
        return _before_by_sorting(np.flatnonzero(near_G), others_G[near_G], matches, dist_P)
    step = max(1, _COUNT_BYTES // len(dist_G))
    before = []
    for start in range(0, len(matches), step):
        dist_P1 = dist_P[start : start + step, None]
        nearer_PG, not_farther_PG = others_G < dist_P1, others_G <= dist_P1
        # An item as near as the match is before it if its row is.
        before += [
            np.count_nonzero(not_farther_G[:row]) + np.count_nonzero(nearer_G[row:])
            for row, nearer_G, not_farther_G in zip(matches[start : start + step].tolist(), nearer_PG, not_farther_PG)
        ]
    return np.array(before)


def _before_by_sorting(
    rows: NDArray[np.int64], dist: NDArray, matches: NDArray[np.int64], dist_P: NDArray
) -> NDArray[np.int64]:
    """How many of the items with these ascending rows and distances (n,) a stable sort puts before each match (P,)."""
    in_order = np.sort(dist)
    before = np.searchsorted(in_order, dist_P, "left")
    for tied in np.flatnonzero(np.searchsorted(in_order, dist_P, "right") > before):
        before[tied] += np.count_nonzero(dist[: np.searchsorted(rows, matches[tied])] == dist_P[tied])
    return before


def match_positions(dist_G: NDArray, matches: NDArray[np.int64], left_out: NDArray[np.int64]) -> NDArray[np.int64]:
    """1-based positions (P,), ascending, of the true matches in a stable sort of the kept items.

    The arguments are those of `others_before`; P may be 0.
    """
    if not len(matches):
        return np.empty(0, dtype=np.int64)
    return np.sort(others_before(dist_G, matches, left_out)) + np.arange(1, len(matches) + 1)


def feature_positions(
    q_feats: NDArray[np.float32], g_feats: NDArray[np.float32], roles: Roles
) -> Iterator[NDArray[np.int64]]:
    """For each query the positions (P,) of its true matches by `euclidean_distances` of (Q, F), (G, F).

    Raises ValueError for features that are not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        q_squares, g_squares = squared_lengths(q_feats), squared_lengths(g_feats)
        # No squared distance is above this; in float32, which numpy 1 would leave for a Python 2.
        largest = np.float32(2) * (q_squares.max(initial=0) + g_squares.max(initial=0))
    if not np.isfinite(largest):
        raise ValueError(_NOT_FINITE)
    buffer_BG = None
    for rows in query_blocks(len(q_feats), len(g_feats)):
        if buffer_BG is None:  # the first block is the largest
            buffer_BG = np.empty((rows.stop, len(g_feats)), dtype=np.float32)
        block_BG = buffer_BG[: rows.stop - rows.start]
        euclidean_block(q_feats[rows], g_feats, q_squares[rows], g_squares, block_BG)
        for query, dist_G in enumerate(block_BG, start=rows.start):
            yield match_positions(dist_G, *roles.of(query))


def query_blocks(num_query: int, num_gallery: int) -> list[slice]:
    """Consecutive queries in blocks of about equal size, each with at most `_BLOCK_BYTES` of distances."""
    most = max(1, _BLOCK_BYTES // (4 * max(1, num_gallery)))
    size = -(-num_query // max(1, -(-num_query // most)))
    return [slice(start, min(start + size, num_query)) for start in range(0, num_query, max(1, size))]


def euclidean_block(
    q_feats: NDArray[np.float32],
    g_feats: NDArray[np.float32],
    q_squares: NDArray[np.float32],
    g_squares: NDArray[np.float32],
    out_BG: NDArray[np.float32],
) -> None:
    """Write the distances of features (B, F), (G, F) with squared lengths (B,), (G,) into `out_BG`."""
    np.matmul(-2 * q_feats, g_feats.T, out=out_BG)
    out_BG += q_squares[:, None]
    out_BG += g_squares
    np.maximum(out_BG, 0, out=out_BG)  # rounding may leave a square a little below 0
    np.sqrt(out_BG, out=out_BG)


def squared_lengths(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared length of each row: (n, F) -> (n,)."""
    return np.einsum("nf,nf->n", features, features)


@torch.no_grad()
def device_feature_positions(q_feats: Tensor, g_feats: Tensor, roles: Roles) -> list[NDArray[np.int64]]:
    """`feature_positions` of float32 features (Q, F), (G, F) where they lie, for instance on a GPU.

    Products are taken in full float32. The host waits for the device when it checks the features, when it uploads row
    numbers (a few times per block) and when it reads the result, once at the end. Raises ValueError for features that
    are not finite.
    """
    q_squares, g_squares = _squared_lengths_on_device(q_feats), _squared_lengths_on_device(g_feats)
    if not len(q_squares) or not len(g_squares):
        return [np.empty(0, dtype=np.int64)] * len(q_squares)
    if not (2 * (q_squares.max() + g_squares.max())).isfinite():
        raise ValueError(_NOT_FINITE)
    positions, counts = [], []
    with float32_products(tf32=False), autocast(q_feats.device, None):
        for rows in query_blocks(len(q_feats), len(g_feats)):
            sums_BG = q_squares[rows, None] + g_squares
            dist_BG = torch.addmm(sums_BG, q_feats[rows], g_feats.T, alpha=-2).clamp_(min=0).sqrt_()
            matches, left_out = zip(*map(roles.of, range(rows.start, rows.stop)))
            positions.append(device_match_positions(dist_BG, matches, left_out))
            counts += map(len, matches)
    return np.split(torch.cat(positions).cpu().numpy(), np.cumsum(counts)[:-1])


def device_match_positions(
    dist_BG: Tensor, matches: Sequence[NDArray[np.int64]], left_out: Sequence[NDArray[np.int64]]
) -> Tensor:
    """`match_positions` of each of B queries, joined: (M,), on the device of the float32 distances (B, G).

    No value is read back from the device. Distances must not be negative or nan.
    """
    device = dist_BG.device
    query_M, row_M = _pairs(matches, device)
    place_M = torch.from_numpy(np.concatenate([np.arange(len(m)) for m in matches])).to(device)
    most = max(map(len, matches))
    # One integer per item that sorts by distance, then by row: floats from 0 on have the same order as their bits.
    key_BG = dist_BG.abs().view(torch.int32).long() << 32  # (B, G); abs turns -0.0 into 0.0
    key_BG += torch.arange(dist_BG.shape[1], device=device)
    key_BP = torch.full((len(dist_BG), most), _LAST_KEY, device=device)  # (B, P) with the largest P
    key_BP[query_M, place_M] = key_BG[query_M, row_M]
    key_BP = key_BP.sort(dim=1).values
    key_BG[query_M, row_M] = _LAST_KEY
    key_BG[_pairs(left_out, device)] = _LAST_KEY
    next_BG = torch.searchsorted(key_BP, key_BG)  # (B, G) the first match behind each item; P where there is none
    counts_BP = torch.zeros(len(dist_BG), most + 1, dtype=torch.int64, device=device)
    counts_BP.scatter_add_(1, next_BG, torch.ones_like(next_BG[:, :1]).expand_as(next_BG))
    position_BP = counts_BP.cumsum(dim=1) + torch.arange(1, most + 2, device=device)
    return position_BP[query_M, place_M]


def _pairs(rows_of: Sequence[NDArray[np.int64]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(query in the block, gallery row) of all rows listed per query: two tensors (M,)."""
    query_M = np.repeat(np.arange(len(rows_of)), [len(rows) for rows in rows_of])
    return torch.from_numpy(query_M).to(device), torch.from_numpy(np.concatenate(rows_of)).to(device)


def _squared_lengths_on_device(features: Tensor) -> Tensor:
    """Squared length of each row: (n, F) -> (n,), in blocks of rows."""
    most = max(1, _BLOCK_BYTES // (4 * max(1, features.shape[1])))
    return torch.cat([rows.square().sum(dim=1) for rows in features.split(most)])
