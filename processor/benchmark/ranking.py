"""What ranking and re-ranking take, beside plain references in numpy.

Q queries, G gallery items, F features, N = Q + G items (queries first).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import matmul

import numpy as np
import torch
from numpy.typing import NDArray

from processor.benchmark.data import RankingInput, ranking_input
from processor.benchmark.limits import least_seconds
from processor.benchmark.process import in_own_process, memory_name, with_peak
from processor.benchmark.table import Limit, Measurement
from utils.metrics import rank_features
from utils.reranking import k_reciprocal_rerank

_RE_RANKINGS = ((20, 6), (50, 15))  # k1, k2: textbook, release
_LAMBDA = 0.3  # weight of the original distance, as by default in ours
_CPU = torch.device("cpu")


def ranking(sizes: Sequence[int], repeats: int, device: torch.device) -> Iterator[Measurement]:
    """CMC and mAP from features, `sizes` (Q, G, F), under MARS' protocol; on a GPU the features lie there already."""
    for kind in ("clusters", "random"):
        name = f"{kind}, {sizes[0]:,} x {sizes[1]:,} x {sizes[2]}"
        yield from _lines("rank", name, rank, kind, sizes, device, repeats)
        yield from _lines("rank", f"{name}, argsort reference", argsort_scores, kind, sizes, _CPU, 1)


def re_ranking(sizes: Sequence[int], repeats: int) -> Iterator[Measurement]:
    """k-reciprocal re-ranking of clustered features, `sizes` (Q, G, F), on the CPU."""
    for k1, k2 in _RE_RANKINGS:
        name = f"k1 {k1}, k2 {k2}, {sizes[0] + sizes[1]:,} items"
        for title, work, times in (("", k_reciprocal_rerank, repeats), (", textbook", textbook_rerank, 1)):
            rerank = partial(re_rank, work, k1, k2)
            yield from _lines("rerank", name + title, rerank, "clusters", sizes, _CPU, times)


def _lines(
    part: str, name: str, work: Callable, kind: str, sizes: Sequence[int], device: torch.device, repeats: int
) -> Iterator[Measurement]:
    """A ranking against the bare product, and its memory, where known, against a matrix of all the distances."""
    of_all = part == "rerank"
    rows, columns = (sizes[0] + sizes[1],) * 2 if of_all else sizes[:2]
    seconds, product, peak = in_own_process(ranking_seconds, work, kind, sizes, of_all, device, repeats)
    title = "product of all with all" if of_all else "bare product"
    yield Measurement(part, f"{name}, time", seconds, "s", [Limit(title, product)])
    if peak:
        matrix = Limit("its distances", 4 * rows * columns / 1e6)
        yield Measurement(part, f"{name}, extra {memory_name(device)}", peak / 1e6, "MB", [matrix])


def ranking_seconds(
    work: Callable[[RankingInput], object],
    kind: str,
    sizes: Sequence[int],
    of_all: bool,
    device: torch.device,
    repeats: int,
) -> tuple[float, float, int | None]:
    """Seconds of `work`, those of the bare product, and the bytes that `work` holds beside the features, if known.

    The features are of `kind` 'clusters' or 'random' and `sizes` (Q, G, F); their product is that of queries and
    gallery, or `of_all` items with all.
    """
    given = ranking_input(kind, *sizes)
    if device.type != "cpu":
        q_feats, g_feats = (torch.from_numpy(feats).to(device) for feats in (given.q_feats, given.g_feats))
        given = given._replace(q_feats=q_feats, g_feats=g_feats)
    left, right = given.q_feats, given.g_feats
    if of_all:
        left = right = np.concatenate([left, right])  # (N, F)
    product = least_seconds(partial(matmul, left, right.T), device, repeats)
    del left, right
    seconds, peak = with_peak(partial(least_seconds, partial(work, given), device, repeats), device)
    return seconds, product, peak


def rank(given: RankingInput) -> dict:
    """Our scores."""
    return rank_features(*given, own_rows=np.arange(len(given.q_pids)))  # the queries stand in front


def re_rank(work: Callable[..., NDArray], k1: int, k2: int, given: RankingInput) -> NDArray[np.float32]:
    """Distances (Q, G) by `work`, ours or the textbook's."""
    return work(given.q_feats, given.g_feats, k1, k2)


def argsort_scores(given: RankingInput) -> tuple[float, NDArray[np.float64]]:
    """mAP and CMC (G,) the plain way: distance matrix, stable sort of every row, a loop with the camera filter."""
    squares_QG = np.square(given.q_feats).sum(axis=1)[:, None] + np.square(given.g_feats).sum(axis=1)
    return sorted_scores(np.sqrt(np.maximum(squares_QG - 2 * (given.q_feats @ given.g_feats.T), 0)), given)


def sorted_scores(dist_QG: NDArray, given: RankingInput) -> tuple[float, NDArray[np.float64]]:
    """mAP and CMC (G,) of distances (Q, G) by a stable sort of every row."""
    order_QG = np.argsort(dist_QG, axis=1, kind="stable")
    precisions, cmc = [], np.zeros(len(given.g_pids))
    for order, pid, camid in zip(order_QG, given.q_pids, given.q_camids):
        kept = order[(given.g_pids[order] != pid) | (given.g_camids[order] != camid)]
        hits = given.g_pids[kept] == pid
        if hits.any():
            precisions.append((np.cumsum(hits) / np.arange(1, len(kept) + 1))[hits].mean())
            cmc[np.argmax(hits) :] += 1
    return float(np.mean(precisions)), cmc / len(precisions)


def textbook_rerank(q_feats: NDArray, g_feats: NDArray, k1: int, k2: int) -> NDArray[np.float32]:
    """Distances (Q, G) of Zhong et al. 2017, section 3, with dense float32 matrices (N, N)."""
    features, num_query = np.concatenate([q_feats, g_feats]), len(q_feats)
    squares = np.square(features).sum(axis=1)
    # torch's product, in which copies of an item are equally near; numpy's rounds by the place of a row.
    products = (torch.from_numpy(features) @ torch.from_numpy(features).T).numpy()  # (N, N)
    dist = np.maximum(squares[:, None] + squares - 2 * products, 0)  # (N, N)
    del products
    dist /= dist.max(axis=1, keepdims=True)
    ranking = np.argsort(dist, axis=1, kind="stable").astype(np.int32)  # (N, N)

    def reciprocal(item: int, k: int) -> NDArray[np.int32]:
        forward = ranking[item, : k + 1]
        return forward[(ranking[forward, : k + 1] == item).any(axis=1)]

    weights = np.zeros_like(dist)
    for item in range(len(dist)):
        own = members = reciprocal(item, k1)
        for other in own:
            theirs = reciprocal(other, round(k1 / 2))
            if 3 * len(np.intersect1d(theirs, own)) > 2 * len(theirs):
                members = np.append(members, theirs)
        members = np.unique(members)
        affinities = np.exp(-dist[item, members])
        weights[item, members] = affinities / affinities.sum()
    if k2 > 1:
        expanded = np.empty_like(weights)
        for item, near in enumerate(ranking):
            expanded[item] = weights[near[:k2]].mean(axis=0)
        weights = expanded
    owners = [np.flatnonzero(column) for column in weights.T]
    result = _LAMBDA * dist[:num_query]  # (Q, N)
    for query in range(num_query):
        smaller = np.zeros(len(dist), dtype=np.float32)  # (N,)
        for column in np.flatnonzero(weights[query]):
            smaller[owners[column]] += np.minimum(weights[query, column], weights[owners[column], column])
        result[query] += (1 - _LAMBDA) * (1 - smaller / (2 - smaller))
    return result[:, num_query:]
