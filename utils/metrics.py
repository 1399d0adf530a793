"""Distances, CMC, mAP and mINP of retrieval, and intervals of the scores.

Q queries, G gallery items, F features, P true matches of a query, V valid queries (with a true match), S scores.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from utils.ranking import (
    Roles,
    average_precision,
    device_feature_positions,
    euclidean_block,
    feature_positions,
    inverse_negative_penalty,
    match_positions,
    others_before,
    query_blocks,
    squared_lengths,
)

# Scores of a test, name -> title in tables. Whatever shows or stores scores goes through this list.
SCORES = {
    "mAP": "mAP",
    "mINP": "mINP",
    "rank1": "Rank-1",
    "rank5": "Rank-5",
    "rank10": "Rank-10",
    "rank20": "Rank-20",
}
WITH_INTERVAL = ("mAP", "mINP", "rank1")  # scores with a 95 % interval
_RESAMPLES = 2_000  # the ends of an interval are then good to about 3 % of half its width
_RESAMPLING_SEED = 0  # the same features have the same interval, whatever the seed of the run


class QueryRanking(NamedTuple):
    """One query's ranked list after the camera filter; positions are 1-based."""

    average_precision: float  # nan without a true match
    inverse_negative_penalty: float  # nan without a true match
    first_match: int  # position of the first true match; 0 without one
    order: NDArray[np.int64]  # kept gallery rows, nearest first


def euclidean_distances(q_feats: ArrayLike, g_feats: ArrayLike) -> NDArray[np.float32]:
    """Euclidean distances (Q, G) float32 of features (Q, F), (G, F)."""
    q, g = (np.ascontiguousarray(x, dtype=np.float32) for x in (q_feats, g_feats))
    q_squares, g_squares = squared_lengths(q), squared_lengths(g)
    dist_QG = np.empty((len(q), len(g)), dtype=np.float32)
    # In the blocks of `rank_features`: products of other shapes may be rounded in another way.
    for rows in query_blocks(len(q), len(g)):
        euclidean_block(q[rows], g, q_squares[rows], g_squares, dist_QG[rows])
    return dist_QG


def l2_normalize(features: ArrayLike) -> NDArray[np.float32]:
    """Rows of unit length (n, F); a zero row stays zero."""
    features = np.asarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


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
    """CMC, mAP and mINP of distances (Q, G) under the protocol of video ReID.

    `camera_filter` and `own_rows` are those of `Roles`. `ap`: 'step' is the mean precision at the hits (what papers
    report), 'trapezoid' MARS' official rule. Returns SCORES as fractions, "ci95" {name of WITH_INTERVAL: (low, high)}
    as `mean_intervals` explains, "cmc" (min(max_rank, G) values), "num_valid", "num_query" and "num_gallery"; means are
    taken over the `num_valid` queries with a true match. Raises ValueError when there is none, or when shapes disagree.
    """
    dist_QG = np.asarray(dist_QG)
    roles = Roles(q_pids, g_pids, q_camids, g_camids, camera_filter, own_rows)
    roles.check_fit("distances", dist_QG.shape)
    if np.isnan(dist_QG).any():
        raise ValueError("distances hold nan")
    positions = (match_positions(dist_G, *roles.of(query)) for query, dist_G in enumerate(dist_QG))  # of (P,)
    return _scores(positions, roles, max_rank, ap)


def rank_features(
    q_feats: ArrayLike | Tensor,
    g_feats: ArrayLike | Tensor,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    max_rank: int = 50,
    ap: str = "step",
    camera_filter: bool = True,
    own_rows: ArrayLike | None = None,
    device: torch.device | None = None,
) -> dict:
    """`evaluate_ranking` of the Euclidean distances of features (Q, F), (G, F), computed block by block.

    The other arguments, the result and the treatment of ties are those of `evaluate_ranking`. The work is done on
    `device`, by default where `q_feats` lies; a GPU may round distances, and so order near ties, in another way than
    `euclidean_distances`. Beside the features it holds one block of distances, on a GPU a few. Raises ValueError also
    for features that are not finite.
    """
    roles = Roles(q_pids, g_pids, q_camids, g_camids, camera_filter, own_rows)
    roles.check_fit("features", (len(q_feats), len(g_feats)))
    if device is None:
        device = q_feats.device if isinstance(q_feats, Tensor) else torch.device("cpu")
    if device.type == "cpu":
        positions = feature_positions(*(_float_array(x) for x in (q_feats, g_feats)), roles)
    else:
        tensors = (torch.as_tensor(x).to(device, torch.float32) for x in (q_feats, g_feats))
        positions = device_feature_positions(*tensors, roles)
    return _scores(positions, roles, max_rank, ap)


def _float_array(features: ArrayLike | Tensor) -> NDArray[np.float32]:
    if isinstance(features, Tensor):
        features = features.detach().cpu().float()
    return np.ascontiguousarray(features, dtype=np.float32)


def _scores(positions: Iterable[NDArray[np.int64]], roles: Roles, max_rank: int, ap: str) -> dict:
    """The result of `evaluate_ranking` from each query's positions of its true matches (P,)."""
    if ap not in ("step", "trapezoid"):
        raise ValueError(f"ap must be step or trapezoid, found {ap}")
    valid = [found for found in positions if len(found)]
    if not valid:
        raise ValueError(f"none of {roles.num_query} queries has a true match in the gallery")
    first = np.array([found[0] for found in valid])  # (V,)
    of_queries = {"mAP": [average_precision(found, ap) for found in valid]}  # score -> its values (V,)
    of_queries["mINP"] = [inverse_negative_penalty(found) for found in valid]
    of_queries |= {f"rank{k}": first <= k for k in (1, 5, 10, 20)}
    scores = {name: float(np.mean(of_queries[name])) for name in SCORES}
    intervals = mean_intervals(np.array([of_queries[name] for name in WITH_INTERVAL], dtype=np.float64))
    ci95 = dict(zip(WITH_INTERVAL, map(tuple, intervals.tolist())))
    num_ranks = min(max_rank, roles.num_gallery)
    cmc = (first[:, None] <= np.arange(1, num_ranks + 1)).mean(axis=0)
    counts = {"num_valid": len(valid), "num_query": roles.num_query, "num_gallery": roles.num_gallery}
    return scores | {"ci95": ci95, "cmc": cmc} | counts


def mean_intervals(values_SV: NDArray[np.float64]) -> NDArray[np.float64]:
    """95 % intervals (S, 2), low and high, of the means over V queries, at least one; all scores share the draws.

    Percentile bootstrap (Efron and Tibshirani 1993, chapter 13): the means of queries drawn with replacement. The
    interval covers this draw alone, with weights and gallery fixed; it says nothing about another training, for
    instance with another seed. Queries count as independent; several of one person are alike, for which it is rather
    too narrow.
    """
    return np.quantile(resampled_means(values_SV), (0.025, 0.975), axis=0).T


def resampled_means(values_SV: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means (resamples, S) of V queries drawn with replacement; the same draws for the same V, and for all scores."""
    rng, num_valid = np.random.default_rng(_RESAMPLING_SEED), values_SV.shape[1]
    means = [  # of one resample after the other, which bounds the memory
        values_SV.take(rng.integers(num_valid, size=num_valid, dtype=np.int32), axis=1).mean(axis=1)
        for _ in range(_RESAMPLES)
    ]
    return np.array(means)


def rank_queries(dist_QG: NDArray, roles: Roles, ap: str = "step") -> list[QueryRanking]:
    """The ranked list of every query, from distances (Q, G); `ap` is that of `evaluate_ranking`."""
    return [_ranked(dist_G, *roles.of(query), ap) for query, dist_G in enumerate(dist_QG)]


def _ranked(dist_G: NDArray, matches: NDArray[np.int64], left_out: NDArray[np.int64], ap: str) -> QueryRanking:
    """One query: its distances (G,), the rows of its true matches and those left out; ties keep gallery order."""
    is_kept_G, is_match_G = np.ones(len(dist_G), dtype=bool), np.zeros(len(dist_G), dtype=bool)
    is_kept_G[left_out] = False
    is_match_G[matches] = True
    order = np.argsort(dist_G, kind="stable")
    order = order[is_kept_G[order]]
    positions = np.flatnonzero(is_match_G[order]) + 1
    if not len(positions):
        return QueryRanking(float("nan"), float("nan"), 0, order)
    scores = average_precision(positions, ap), inverse_negative_penalty(positions)
    return QueryRanking(*scores, int(positions[0]), order)


class CameraPair(NamedTuple):
    """Scores of the queries of one camera against the true matches in one camera."""

    query_camera: int  # 0-based
    gallery_camera: int
    num_query: int  # queries with a true match in the gallery camera
    mAP: float  # nan without such a query, as rank1
    rank1: float


def rank_camera_pairs(dist_QG: NDArray, roles: Roles, num_cameras: int, ap: str = "step") -> list[CameraPair]:
    """mAP and Rank-1 for every pair of a query camera and a gallery camera, as MARS' evaluation tabulates them.

    The true matches are those in the gallery camera; the person's tracklets in other cameras are left out, all other
    people stay whatever their camera. `roles` are without camera filter; on the diagonal only their `own_rows` are left
    out.
    """
    scores = defaultdict(list)  # (query camera, gallery camera) -> (AP, first position) of each query
    for query, (dist_G, query_camera) in enumerate(zip(dist_QG, roles.q_camids)):
        matches, left_out = roles.of(query)
        if not len(matches):
            continue
        before = others_before(dist_G, matches, left_out)  # (P,)
        for camera in np.unique(roles.g_camids[matches]):
            # The items before a match are other people and the nearer matches of its camera.
            before_here = np.sort(before[roles.g_camids[matches] == camera])
            positions = before_here + np.arange(1, len(before_here) + 1)
            scores[query_camera, camera].append((average_precision(positions, ap), positions[0]))
    return [_camera_pair(i, j, scores[i, j]) for i in range(num_cameras) for j in range(num_cameras)]


def _camera_pair(query_camera: int, gallery_camera: int, scores: list[tuple[float, int]]) -> CameraPair:
    if not scores:
        return CameraPair(query_camera, gallery_camera, 0, float("nan"), float("nan"))
    precisions, first = map(np.array, zip(*scores))  # (queries,) each
    return CameraPair(query_camera, gallery_camera, len(scores), float(precisions.mean()), float((first == 1).mean()))
