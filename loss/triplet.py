"""Batch-hard triplet loss (Hermans et al., arXiv 1703.07737)."""

import math

from torch import Tensor
from torch.nn import functional as F


def batch_hard_triplet(features_BF: Tensor, pids_B: Tensor, margin: float) -> Tensor:
    """mean_i max(0, margin + max_pos d(i, p) - min_neg d(i, n)) in float32.

    d is the Euclidean distance sqrt(max(d2, 1e-12)) of the features as given (B, F). Identities may have unequal
    counts. A batch of one identity has no negative, and the loss is 0.
    """
    dist_BB = euclidean_distances(features_BF.float())
    same_BB = pids_B[:, None] == pids_B[None, :]
    hardest_positive_B = dist_BB.masked_fill(~same_BB, -math.inf).amax(dim=1)
    hardest_negative_B = dist_BB.masked_fill(same_BB, math.inf).amin(dim=1)
    return F.relu(margin + hardest_positive_B - hardest_negative_B).mean()


def euclidean_distances(features_BF: Tensor) -> Tensor:
    """All pairs sqrt(max(|x - y|^2, 1e-12)): (B, F) -> (B, B); the distance to itself has no gradient."""
    squared_BB = (features_BF[:, None] - features_BF[None, :]).square().sum(dim=2)
    return squared_BB.clamp(min=1e-12).sqrt()
