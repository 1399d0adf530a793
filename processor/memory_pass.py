"""Before training the pretrained encoder sees every training tracklet once: CLIP-Memory (Eq. 6), text baseline."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from model.clip_memory import build_clip_memory
from model.tfclip import TFCLIP
from processor.tracklet_pass import tracklet_means


def run_memory_pass(
    model: TFCLIP,
    loader: DataLoader,
    pids: Sequence[int],
    normalize: nn.Module,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Tensor:
    """Means over each identity's tracklet features -> CLIP-Memory (C, E) on `device`.

    `pids` are the labels of the loader's tracklets, in its order.
    """
    features = memory_features(model, loader, len(pids), normalize, device, dtype)
    return build_clip_memory(features, torch.tensor(pids), model.num_classes)


def memory_features(
    model: TFCLIP,
    loader: DataLoader,
    num_tracklets: int,
    normalize: nn.Module,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Tensor:
    """v_p of each tracklet, mean over its dense clips: no camera embedding, no augmentation, eval mode -> (n, E)."""
    model.eval()
    return tracklet_means(
        lambda clips, _camids: model.encode_memory(clips), loader, num_tracklets, normalize, device, dtype, "memory"
    )
