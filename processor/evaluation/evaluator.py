"""Evaluation in three steps: embed all tracklets, compute distances, rank.

Q queries, G gallery tracklets, n = queries + other gallery tracklets, F features.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from datasets.tracklet import Tracklet
from model.tfclip import TFCLIP
from processor.evaluation.tracklet_pass import tracklet_means
from utils.errors import InputError
from utils.metrics import (
    CameraPair,
    QueryRanking,
    euclidean_distances,
    evaluate_ranking,
    l2_normalize,
    rank_camera_pairs,
    rank_queries,
)
from utils.metrics import rank_features as rank_features_by_distance
from utils.reranking import k_reciprocal_rerank


@dataclass(frozen=True)
class Protocol:
    """How tracklets are compared; written into metrics.json beside the numbers."""

    dataset: str
    sampling: str  # 'dense' or 'first'
    gallery_includes_query: bool
    neck_feat: str = "before"
    feat_norm: bool = True
    re_ranking: tuple[int, int, float] | None = None  # (k1, k2, lambda)
    camera_embedding: bool = True
    camera_filter: bool = True  # leave out the query's person in the query's camera
    ap: str = "step"  # or 'trapezoid'
    split: str = ""  # of a data set that has several, and the half of it that was trained on
    train_half: str = ""
    left_out: str = ""  # by DATASETS.EXCLUDE, in words

    def describe(self) -> dict:
        """The same as a plain dict for JSON."""
        k1, k2, weight = self.re_ranking or (None, None, None)
        described = {
            "dataset": self.dataset,
            "sampling": self.sampling,
            "gallery_includes_query": self.gallery_includes_query,
            "neck_feat": self.neck_feat,
            "feat_norm": self.feat_norm,
            "camera_embedding": self.camera_embedding,
            "re_ranking": None if k1 is None else {"k1": k1, "k2": k2, "lambda": weight},
            "same_camera_filter": self.camera_filter,
            "ap": self.ap,
        }
        if self.split:
            described |= {"split": self.split, "train_half": self.train_half}
        return described | ({"left_out": self.left_out} if self.left_out else {})


@dataclass(frozen=True)
class Evaluation:
    """Scores of one test and what they were computed from."""

    metrics: dict  # fractions; see utils.metrics.evaluate_ranking
    protocol: Protocol
    features: NDArray[np.float32]  # (n, F) raw, queries first
    tracklets: tuple[Tracklet, ...]  # n, queries first
    num_query: int
    re_ranked_QG: NDArray[np.float32] | None = None  # distances after re-ranking

    @cached_property
    def dist_QG(self) -> NDArray[np.float32]:
        """Distances of queries and ranked gallery; the scores need no matrix, lists and tables do."""
        if self.re_ranked_QG is not None:
            return self.re_ranked_QG
        return euclidean_distances(*_compared(self.features, self.num_query, self.protocol))

    @property
    def query(self) -> tuple[Tracklet, ...]:
        """The query tracklets (Q)."""
        return self.tracklets[: self.num_query]

    @property
    def gallery(self) -> tuple[Tracklet, ...]:
        """What was ranked: the queries stand in front where the protocol keeps them."""
        return self.tracklets if self.protocol.gallery_includes_query else self.tracklets[self.num_query :]

    @cached_property
    def rankings(self) -> list[QueryRanking]:
        """The ranked list of every query; ranks.csv and the contact sheet share it."""
        protocol = self.protocol
        own = own_rows(protocol, self.num_query)
        return rank_queries(self.dist_QG, *self._ids(), protocol.ap, protocol.camera_filter, own)

    def camera_pairs(self, num_cameras: int) -> list[CameraPair]:
        """mAP and Rank-1 for every pair of a query camera and a gallery camera."""
        own = own_rows(self.protocol, self.num_query)
        return rank_camera_pairs(self.dist_QG, *self._ids(), num_cameras, self.protocol.ap, own)

    def _ids(self) -> list[NDArray[np.int64]]:
        """Persons of queries and gallery, then their cameras."""
        sides = (self.query, self.gallery)
        pids, camids = ([np.array([getattr(t, name) for t in side]) for side in sides] for name in ("pid", "camid"))
        return [*pids, *camids]

    def summary(self) -> dict:
        """The content of metrics.json."""
        scores = {name: self.metrics[name] for name in ("mAP", "rank1", "rank5", "rank10", "rank20")}
        return scores | {
            "num_query": self.metrics["num_query"],
            "num_gallery": self.metrics["num_gallery"],
            "num_query_without_match": self.metrics["num_query"] - self.metrics["num_valid"],
            "protocol": self.protocol.describe(),
        }


def check_scorable(protocol: Protocol, query: Sequence[Tracklet], gallery: Sequence[Tracklet]) -> None:
    """Raise InputError when no query has a true match, before anything is computed; `gallery` is without queries."""
    ranked = (*query, *gallery) if protocol.gallery_includes_query else gallery
    of_person = Counter(t.pid for t in ranked)
    of_view = Counter((t.pid, t.camid) for t in ranked)
    for t in query:
        left_out = of_view[t.pid, t.camid] if protocol.camera_filter else int(protocol.gallery_includes_query)
        if of_person[t.pid] > left_out:
            return
    hint = " in another camera (TEST.SAME_CAMERA_FILTER)" if any(of_person[t.pid] for t in query) else ""
    raise InputError(
        f"{protocol.dataset} cannot be scored: none of {len(query)} queries has a true match in the gallery{hint}"
    )


def own_rows(protocol: Protocol, num_query: int) -> NDArray[np.int64] | None:
    """The gallery row of each query itself: queries stand in front of the gallery where they are kept."""
    return np.arange(num_query) if protocol.gallery_includes_query else None


def evaluate(
    model: TFCLIP,
    loader: DataLoader,
    tracklets: Sequence[Tracklet],
    num_query: int,
    protocol: Protocol,
    normalize: nn.Module,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Evaluation:
    """Test `model` on the loader's `tracklets`, of which the first `num_query` are the queries.

    Clip features are averaged as they are; the mean is L2-normalised once (unless the protocol says no). Raises
    InputError when features are not finite or no query has a true match.
    """
    model.eval()
    means = tracklet_means(model.embed, loader, len(tracklets), normalize, device, dtype, f"test ({protocol.sampling})")
    features = means.cpu().numpy()
    if not np.isfinite(features).all():
        raise InputError("the features hold nan or inf: the weights are broken, or SOLVER.AMP fp16 overflows")
    return rank_features(features, tracklets, num_query, protocol, device)


def rank_features(
    features: NDArray[np.float32],
    tracklets: Sequence[Tracklet],
    num_query: int,
    protocol: Protocol,
    device: torch.device | None = None,
) -> Evaluation:
    """Scores of tracklet features (n, F), queries first; ranked on `device`, by default the CPU."""
    query, gallery = _compared(features, num_query, protocol)
    start = len(features) - len(gallery)
    pids = np.array([t.pid for t in tracklets])
    camids = np.array([t.camid for t in tracklets])
    ids = (pids[:num_query], pids[start:], camids[:num_query], camids[start:])
    choices = {"ap": protocol.ap, "camera_filter": protocol.camera_filter, "own_rows": own_rows(protocol, num_query)}
    re_ranked_QG = None
    try:
        if protocol.re_ranking is None:
            metrics = rank_features_by_distance(query, gallery, *ids, **choices, device=device)
        else:
            re_ranked_QG = k_reciprocal_rerank(query, gallery, *protocol.re_ranking)
            metrics = evaluate_ranking(re_ranked_QG, *ids, **choices)
    except ValueError as error:
        raise InputError(f"{protocol.dataset} cannot be scored: {error}") from None
    return Evaluation(metrics, protocol, features, tuple(tracklets), num_query, re_ranked_QG)


def _compared(
    features: NDArray[np.float32], num_query: int, protocol: Protocol
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (n, F), queries first -> those of the queries (Q, F) and of the ranked gallery (G, F)."""
    compared = l2_normalize(features) if protocol.feat_norm else features
    return compared[:num_query], compared[0 if protocol.gallery_includes_query else num_query :]
