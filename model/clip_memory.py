"""CLIP-Memory (Eq. 6): one vector per training identity, made once by the pretrained encoder."""

import torch
from torch import Tensor

from utils.group_means import GroupMeans


def build_clip_memory(tracklet_features: Tensor, pids: Tensor, num_classes: int) -> Tensor:
    """Mean over each identity's training tracklets, not normalised and constant for the run.

    Tracklet features (n, E), each the mean of its clips' `TFCLIP.encode_memory`, and labels (n,) in 0..C-1 ->
    CLIP-Memory (C, E) float32. Raises ValueError when an identity has no tracklet.
    """
    memory = GroupMeans(num_classes)
    memory.add(tracklet_features, torch.as_tensor(pids))
    return memory.means()
