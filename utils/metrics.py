"""Distances, CMC and mAP of retrieval.

Q queries, G gallery items, F features.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.ranking import average_precision, euclidean_block, positions_of_matches, squared_lengths


class QueryRanking(NamedTuple):
    """One query's ranked list after the camera filter; positions are 1-based."""

    average_precision: float  # nan without a true match
    first_match: int  # position of the first true match; 0 without one
    order: NDArray[np.int64]  # kept gallery rows, nearest first


def euclidean_distances(q_feats: ArrayLike, g_feats: ArrayLike) -> NDArray[np.float32]:
    """Euclidean distances (Q, G) float32 of features (Q, F), (G, F)."""
    q, g = np.asarray(q_feats, dtype=np.float32), np.asarray(g_feats, dtype=np.float32)
    return euclidean_block(q, g, squared_lengths(q), squared_lengths(g))


def l2_normalize(features: ArrayLike) -> NDArray[np.float32]:
    """Rows of unit length (n, F); a zero row stays zero."""
    features = np.asarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def rank_query(
    dist_G: NDArray, matches_G: NDArray[np.bool_], ignored_G: NDArray[np.bool_], ap: str = "step"
) -> QueryRanking:
    """Rank one query: distances, true matches and gallery items to leave out, all (G,); ties keep gallery order."""
    order = np.argsort(dist_G, kind="stable")
    order = order[~ignored_G[order]]
    hits = np.flatnonzero(matches_G[order])
    if not len(hits):
        return QueryRanking(float("nan"), 0, order)
    return QueryRanking(average_precision(hits + 1, ap), int(hits[0]) + 1, order)


def evaluate_ranking(
    dist_QG: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    max_rank: int = 50,
    ap: str = "step",
    camera_filter: bool = True,
    own_rows: ArrayLike | None = None,
) -> dict:
    """CMC and mAP of distances (Q, G) under the protocol of video ReID.

    With `camera_filter` gallery items of the query's own person and camera are left out (the query itself too).
    `own_rows` (Q,) names the gallery row that is the query itself: it is left out in any case. `ap`:
    'step' is the mean precision at the hits (what papers report), 'trapezoid' MARS' official rule. Returns fractions:
    {"mAP", "cmc" (min(max_rank, G) values), "rank1", "rank5", "rank10", "rank20", "num_valid", "num_query",
    "num_gallery"}; means run over the `num_valid` queries with a true match. Raises ValueError when there is none, or
    when shapes disagree.
    """
    dist_QG = np.asarray(dist_QG)
    q_pids, g_pids, q_camids, g_camids = (np.asarray(x) for x in (q_pids, g_pids, q_camids, g_camids))
    _check_arguments("distances", dist_QG.shape, q_pids, g_pids, q_camids, g_camids, ap)
    if np.isnan(dist_QG).any():
        raise ValueError("distances hold nan")
    rankings = _each_ranking(dist_QG, q_pids, g_pids, q_camids, g_camids, ap, camera_filter, own_rows)
    # The orders are not kept: those of all MSMT17 queries together would take 8 GB.
    return _scores(((r.average_precision, r.first_match) for r in rankings if r.first_match), q_pids, g_pids, max_rank)


def rank_features(
    q_feats: ArrayLike,
    g_feats: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    max_rank: int = 50,
    ap: str = "step",
    camera_filter: bool = True,
    own_rows: ArrayLike | None = None,
) -> dict:
    """`evaluate_ranking` of the Euclidean distances of features (Q, F), (G, F), which are never held all at once.

    The other arguments, the result and the treatment of ties are those of `evaluate_ranking`. Memory beside the inputs
    is a few blocks of distances. Raises ValueError also for features that are not finite.
    """
    q_feats, g_feats = (np.ascontiguousarray(x, dtype=np.float32) for x in (q_feats, g_feats))
    q_pids, g_pids, q_camids, g_camids = (np.asarray(x) for x in (q_pids, g_pids, q_camids, g_camids))
    _check_arguments("features", (len(q_feats), len(g_feats)), q_pids, g_pids, q_camids, g_camids, ap)
    own_rows = None if own_rows is None else np.asarray(own_rows)
    positions = positions_of_matches(
        q_feats, g_feats, q_pids, g_pids, q_camids, g_camids, camera_filter, own_rows
    )  # of (P,)
    return _scores(((average_precision(p, ap), int(p[0])) for p in positions if len(p)), q_pids, g_pids, max_rank)


def _check_arguments(
    what: str, shape: tuple[int, ...], q_pids: NDArray, g_pids: NDArray, q_camids: NDArray, g_camids: NDArray, ap: str
) -> None:
    if shape != (len(q_pids), len(g_pids)) or len(q_camids) != len(q_pids) or len(g_camids) != len(g_pids):
        raise ValueError(
            f"{what} {shape} do not fit {len(q_pids)} query and {len(g_pids)} gallery ids "
            f"({len(q_camids)}, {len(g_camids)} cameras)"
        )
    if ap not in ("step", "trapezoid"):
        raise ValueError(f"ap must be step or trapezoid, found {ap}")


def _scores(valid: Iterable[tuple[float, int]], q_pids: NDArray, g_pids: NDArray, max_rank: int) -> dict:
    """The result of `evaluate_ranking` from (AP, position of the first match) of each query with a true match."""
    pairs = list(valid)
    if not pairs:
        raise ValueError(f"none of {len(q_pids)} queries has a true match in the gallery")
    precisions, first = map(np.array, zip(*pairs))  # (valid,) each
    num_ranks = min(max_rank, len(g_pids))
    cmc = (first[:, None] <= np.arange(1, num_ranks + 1)).mean(axis=0)
    result = {"mAP": float(precisions.mean()), "cmc": cmc}
    result |= {f"rank{k}": float((first <= k).mean()) for k in (1, 5, 10, 20)}
    return result | {"num_valid": len(pairs), "num_query": len(q_pids), "num_gallery": len(g_pids)}


def rank_queries(
    dist_QG: NDArray,
    q_pids: NDArray,
    g_pids: NDArray,
    q_camids: NDArray,
    g_camids: NDArray,
    ap: str = "step",
    camera_filter: bool = True,
    own_rows: ArrayLike | None = None,
) -> list[QueryRanking]:
    """The ranked list of every query; see `evaluate_ranking` for the arguments."""
    return list(_each_ranking(dist_QG, q_pids, g_pids, q_camids, g_camids, ap, camera_filter, own_rows))


def _each_ranking(
    dist_QG: NDArray,
    q_pids: NDArray,
    g_pids: NDArray,
    q_camids: NDArray,
    g_camids: NDArray,
    ap: str,
    camera_filter: bool,
    own_rows: ArrayLike | None,
) -> Iterator[QueryRanking]:
    for row, (dist_G, pid, camid) in enumerate(zip(dist_QG, q_pids, q_camids)):
        same_person = g_pids == pid
        ignored = same_person & (g_camids == camid) & camera_filter
        if own_rows is not None:
            ignored[np.asarray(own_rows)[row]] = True
        yield rank_query(dist_G, same_person & ~ignored, ignored, ap)


class CameraPair(NamedTuple):
    """Scores of the queries of one camera against the true matches in one camera."""

    query_camera: int  # 0-based
    gallery_camera: int
    num_query: int  # queries with a true match in the gallery camera
    mAP: float  # nan without such a query, as rank1
    rank1: float


def rank_camera_pairs(
    dist_QG: NDArray,
    q_pids: NDArray,
    g_pids: NDArray,
    q_camids: NDArray,
    g_camids: NDArray,
    num_cameras: int,
    ap: str = "step",
    own_rows: ArrayLike | None = None,
) -> list[CameraPair]:
    """mAP and Rank-1 for every pair of a query camera and a gallery camera, as MARS' evaluation tabulates them.

    The true matches are those in the gallery camera; the person's tracklets in other cameras are left out, all other
    people stay whatever their camera. On the diagonal the query itself (`own_rows`) is left out.
    """
    pairs = []
    for query_camera in range(num_cameras):
        rows = np.flatnonzero(q_camids == query_camera)
        for gallery_camera in range(num_cameras):
            found = []
            for row in rows:
                same_person = g_pids == q_pids[row]
                matches = same_person & (g_camids == gallery_camera)
                if own_rows is not None:
                    matches[np.asarray(own_rows)[row]] = False
                if matches.any():
                    found.append(rank_query(dist_QG[row], matches, same_person & ~matches, ap))
            mean_ap = float(np.mean([r.average_precision for r in found])) if found else float("nan")
            rank1 = float(np.mean([r.first_match == 1 for r in found])) if found else float("nan")
            pairs.append(CameraPair(query_camera, gallery_camera, len(found), mean_ap, rank1))
    return pairs
