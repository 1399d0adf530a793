"""CLIP-Memory before training (Eq. 6): the pretrained encoder sees every training tracklet once."""

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
    """Dense clips, no camera embedding, no augmentation, model in eval mode -> CLIP-Memory (C, E) on `device`.

    `pids` are the labels of the loader's tracklets, in its order.
    """
    model.eval()
    features = tracklet_means(
        lambda clips, _camids: model.encode_memory(clips), loader, len(pids), normalize, device, dtype, "CLIP-Memory"
    )
    return build_clip_memory(features, torch.tensor(pids), model.num_classes)
