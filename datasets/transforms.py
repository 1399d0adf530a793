"""Clip-level augmentation on uint8 frames; normalisation happens later, on the device of the model.

T = frames, H, W = pixels.
"""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

_ERASE_TRIES = 100


def resize_frame(frame_3HW: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, anti-aliased resize of one uint8 frame to `size` [height, width]."""
    if list(frame_3HW.shape[1:]) == list(size):
        return frame_3HW
    return F.resize(frame_3HW, list(size), antialias=True)


class ClipAugment:
    """Flip (once per clip), then random erasing (per frame) of a uint8 clip (T, 3, H, W).

    `legacy_erasing` paints the erased patch at (its width, its height) as the release does, not at the drawn corner.
    """

    def __init__(self, flip_prob: float, erase_prob: float, legacy_erasing: bool = False) -> None:
        self.flip_prob = flip_prob
        self.erase_prob = erase_prob
        self.legacy_erasing = legacy_erasing

    def __call__(self, clip: Tensor, rng: random.Random) -> Tensor:
        clip = clip.flip(-1) if rng.random() < self.flip_prob else clip.clone()
        for frame in clip:
            if rng.random() < self.erase_prob:
                self._erase(frame, rng)
        return clip

    def _erase(self, frame: Tensor, rng: random.Random) -> None:
        """Paint one patch of `frame` (3, H, W) in place with a random colour."""
        height, width = frame.shape[1:]
        box = draw_erase_box(height, width, rng)
        if box is None:
            return
        top, left, box_height, box_width = box
        if self.legacy_erasing:
            top, left = box_height, box_width
        colour = torch.tensor([rng.randrange(256) for _ in range(3)], dtype=torch.uint8)
        frame[:, top : top + box_height, left : left + box_width] = colour[:, None, None]


def draw_erase_box(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) in pixels of a box of 2-20 % of the frame, height/width uniform in 0.3-3.33.

    None when no drawn box fits the frame.
    """
    for _ in range(_ERASE_TRIES):
        area = rng.uniform(0.02, 0.2) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        box_height, box_width = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
        if 1 <= box_height <= height and 1 <= box_width <= width:
            return rng.randint(0, height - box_height), rng.randint(0, width - box_width), box_height, box_width
    return None


class Normalize(nn.Module):
    """uint8 (..., 3, H, W) on any device -> float32, ((x / 255) - mean) / std per colour."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        return (frames.float() / 255 - self.mean) / self.std
