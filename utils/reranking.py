"""k-reciprocal re-ranking (Zhong et al., CVPR 2017)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def k_reciprocal_rerank(
    q_feats: ArrayLike, g_feats: ArrayLike, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> NDArray[np.float32]:
    """Re-ranked distances (Q, G) of features (Q, F) and (G, F) as they are given.

    Squared Euclidean distances of all items, divided by their column maximum; Jaccard distance of the k1-reciprocal
    neighbour sets after expansion over k2 neighbours; lambda_value weighs the original distance. The release uses k1
    50, k2 15; the textbook values are 20 and 6. Raises ValueError for k1, k2 below 1 or lambda_value outside 0..1.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(f"k1 and k2 must be 1 or more, lambda in 0..1; found {k1}, {k2}, {lambda_value}")
    num_query = len(q_feats)
    features = np.concatenate([np.asarray(q_feats, np.float32), np.asarray(g_feats, np.float32)])
    dist = _normalised_squared_distances(features)  # (n, n), n = Q + G
    num_items = len(dist)
    nearest = np.argsort(dist, axis=1, kind="stable")[:, : max(k1 + 1, k2)]  # itself included
    weights = np.zeros((num_items, num_items), dtype=np.float32)
    for item in range(num_items):
        members = _expanded_reciprocal_set(item, nearest, k1)
        affinity = np.exp(-dist[item, members])
        weights[item, members] = affinity / affinity.sum()
    if k2 > 1:
        weights = np.stack([weights[nearest[item, :k2]].mean(axis=0) for item in range(num_items)])
    jaccard = _jaccard_distances(weights, num_query)
    original = dist[:num_query, num_query:]
    return (1 - lambda_value) * jaccard[:, num_query:] + lambda_value * original


def _normalised_squared_distances(features: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = np.square(features).sum(axis=1)
    dist = squares[:, None] + squares[None, :] - 2 * (features @ features.T)
    np.maximum(dist, 0, out=dist)
    # Each item's distances are divided by its largest one: the column maximum of the (symmetric) matrix.
    return (dist / np.maximum(dist.max(axis=0), 1e-12)).T


def _reciprocal_set(item: int, nearest: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Items among the k+1 nearest of `item` that have it among their own k+1 nearest."""
    forward = nearest[item, : k + 1]
    return forward[(nearest[forward, : k + 1] == item).any(axis=1)]


def _expanded_reciprocal_set(item: int, nearest: NDArray[np.int64], k1: int) -> NDArray[np.int64]:
    """The k1-reciprocal set joined with the k1/2-sets of its members that overlap it by more than two thirds."""
    own = _reciprocal_set(item, nearest, k1)
    expanded = own
    for candidate in own:
        theirs = _reciprocal_set(candidate, nearest, int(np.around(k1 / 2)))
        if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
            expanded = np.append(expanded, theirs)
    return np.unique(expanded)


def _jaccard_distances(weights: NDArray[np.float32], num_query: int) -> NDArray[np.float32]:
    """1 - sum(min) / sum(max) of the weight rows: (Q, n). Rows sum to 1, so sum(max) = 2 - sum(min)."""
    num_items = len(weights)
    jaccard = np.empty((num_query, num_items), dtype=np.float32)
    owners = [np.flatnonzero(weights[:, column]) for column in range(num_items)]
    for query in range(num_query):
        shared = np.zeros(num_items, dtype=np.float32)
        for column in np.flatnonzero(weights[query]):
            shared[owners[column]] += np.minimum(weights[query, column], weights[owners[column], column])
        jaccard[query] = 1 - shared / (2 - shared)
    return jaccard
