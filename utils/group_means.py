"""Means of clip features per tracklet or of tracklet features per identity, in any order and any batches."""

import torch
from torch import Tensor


class GroupMeans:
    """Running float32 means of rows (B, F) per group."""

    def __init__(self, num_groups: int) -> None:
        self.num_groups = num_groups
        self.sums: Tensor | None = None
        self.counts: Tensor | None = None

    def add(self, features_BF: Tensor, groups_B: Tensor) -> None:
        """Add rows (B, F) to the groups `groups_B` (B,)."""
        features_BF, groups_B = features_BF.float(), groups_B.to(features_BF.device)
        if self.sums is None:
            self.sums = features_BF.new_zeros(self.num_groups, features_BF.shape[1])
            self.counts = features_BF.new_zeros(self.num_groups)
        self.sums.index_add_(0, groups_B, features_BF)
        self.counts.index_add_(0, groups_B, torch.ones_like(groups_B, dtype=torch.float32))

    def means(self) -> Tensor:
        """(groups, F) float32; raises ValueError when a group has had no row."""
        if self.counts is None or not bool((self.counts > 0).all()):
            raise ValueError(f"one of {self.num_groups} groups has had no row")
        return self.sums / self.counts[:, None]
