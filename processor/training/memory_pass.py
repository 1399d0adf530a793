"""Before training the pretrained encoder sees every training tracklet once: CLIP-Memory (Eq. 6), text baseline."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from model.tfclip import TFCLIP
from processor.evaluation.tracklet_pass import tracklet_means


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
