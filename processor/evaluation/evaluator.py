"""Evaluation in three steps: embed all tracklets, compute distances, rank.

Q queries, G gallery tracklets, n = queries + other gallery tracklets, F features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from datasets.tracklet import Tracklet
from model.tfclip import TFCLIP
from processor.evaluation.tracklet_pass import tracklet_means
from processor.protocol import EvalProtocol
from processor.runtime import Runtime
from utils.errors import InputError
from utils.metrics import (
    SCORES,
    CameraPair,
    QueryRanking,
    euclidean_distances,
    evaluate_ranking,
    l2_normalize,
    rank_camera_pairs,
    rank_features,
    rank_queries,
)
from utils.ranking import Roles
from utils.reranking import k_reciprocal_rerank


@dataclass(frozen=True)
class Evaluation:
    """Scores of one test and what they were computed from."""

    metrics: dict  # fractions; see utils.metrics.evaluate_ranking
    protocol: EvalProtocol
    features: NDArray[np.float32]  # (n, F) raw, queries first
    tracklets: tuple[Tracklet, ...]  # n, queries first
    num_query: int
    re_ranked_QG: NDArray[np.float32] | None = None  # distances after re-ranking

    @cached_property
    def dist_QG(self) -> NDArray[np.float32]:
        """Distances of queries and ranked gallery; only ranked lists, camera pairs and pictures need all of them."""
        if self.re_ranked_QG is not None:
            return self.re_ranked_QG
        return euclidean_distances(*_compared(self.features, self.num_query, self.protocol))

    @property
    def query(self) -> tuple[Tracklet, ...]:
        """The query tracklets (Q)."""
        return self.tracklets[: self.num_query]

    @property
    def gallery(self) -> tuple[Tracklet, ...]:
        """The ranked tracklets (G); they begin with the queries where the protocol includes them."""
        return self.tracklets if self.protocol.gallery_includes_query else self.tracklets[self.num_query :]

    @cached_property
    def rankings(self) -> list[QueryRanking]:
        """The ranked list of every query; ranks.csv and the contact sheet share it."""
        return rank_queries(self.dist_QG, self._roles(self.protocol.same_camera_filter), self.protocol.ap)

    def camera_pairs(self, num_cameras: int) -> list[CameraPair]:
        """mAP and Rank-1 for every pair of a query camera and a gallery camera."""
        return rank_camera_pairs(self.dist_QG, self._roles(camera_filter=False), num_cameras, self.protocol.ap)

    def _roles(self, camera_filter: bool) -> Roles:
        return Roles(*_ids(self.query, self.gallery), camera_filter, self.protocol.own_rows(self.num_query))

    def summary(self) -> dict:
        """The content of metrics.json."""
        scores = {name: self.metrics[name] for name in SCORES}
        return scores | {
            "ci95": self.metrics["ci95"],
            "num_query": self.metrics["num_query"],
            "num_gallery": self.metrics["num_gallery"],
            "num_query_without_match": self.metrics["num_query"] - self.metrics["num_valid"],
            "protocol": self.protocol.describe(),
        }


def evaluate(
    model: TFCLIP,
    build_loader: Callable[[Sequence[Tracklet]], DataLoader],
    tracklets: Sequence[Tracklet],
    num_query: int,
    protocol: EvalProtocol,
    runtime: Runtime,
) -> Evaluation:
    """Test `model` on `tracklets`, of which the first `num_query` are the queries; `build_loader` reads some of them.

    Clip features are averaged without normalisation; the mean is L2-normalised unless the protocol says no. Rank 0
    ranks, and all ranks get the scores. Raises InputError when features are not finite or no query has a true match.
    """
    model.eval()
    means = tracklet_means(model.embed, build_loader, tracklets, runtime, f"test ({protocol.sampling})")
    features = means.numpy()
    if not np.isfinite(features).all():
        raise InputError("the features hold nan or inf: the weights are broken, or TEST.PRECISION fp16 overflows")
    ranked = []  # on rank 0, with the distances that it alone needs

    def rank() -> dict:
        ranked.append(rank_tracklets(features, tracklets, num_query, protocol, runtime.device))
        return ranked[0].metrics

    metrics = runtime.ranks.on_main(rank)
    return ranked[0] if ranked else Evaluation(metrics, protocol, features, tuple(tracklets), num_query)


def rank_tracklets(
    features: NDArray[np.float32],
    tracklets: Sequence[Tracklet],
    num_query: int,
    protocol: EvalProtocol,
    device: torch.device | None = None,
) -> Evaluation:
    """Scores of tracklet features (n, F), queries first; ranked on `device`, by default the CPU."""
    query, gallery = _compared(features, num_query, protocol)
    ids = _ids(tracklets[:num_query], tracklets[len(features) - len(gallery) :])
    choices = {
        "ap": protocol.ap,
        "camera_filter": protocol.same_camera_filter,
        "own_rows": protocol.own_rows(num_query),
    }
    re_ranked_QG = None
    try:
        if protocol.re_ranking is None:
            metrics = rank_features(query, gallery, *ids, **choices, device=device)
        else:
            re_ranked_QG = k_reciprocal_rerank(query, gallery, *protocol.re_ranking, device=device)
            metrics = evaluate_ranking(re_ranked_QG, *ids, **choices)
    except ValueError as error:
        raise InputError(f"{protocol.dataset} cannot be scored: {error}") from None
    return Evaluation(metrics, protocol, features, tuple(tracklets), num_query, re_ranked_QG)


def _ids(query: Sequence[Tracklet], gallery: Sequence[Tracklet]) -> list[NDArray[np.int64]]:
    """Identities of queries (Q,) and gallery (G,), then their cameras."""
    return [np.array([getattr(t, name) for t in side]) for name in ("pid", "camid") for side in (query, gallery)]


def _compared(
    features: NDArray[np.float32], num_query: int, protocol: EvalProtocol
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (n, F), queries first -> those of the queries (Q, F) and of the ranked gallery (G, F)."""
    compared = l2_normalize(features) if protocol.feat_norm else features
    return compared[:num_query], compared[0 if protocol.gallery_includes_query else num_query :]
