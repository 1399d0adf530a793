"""Clip-level augmentation on uint8 frames; normalisation happens later, on the device of the model.

T = frames, H, W = pixels.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_ERASE_TRIES = 100


class Patch(NamedTuple):
    """A box of one frame and the colour that covers it."""

    frame: int
    top: int  # pixels, as the following three
    left: int
    height: int
    width: int
    colour: bytes  # R, G, B


class Augmentation(NamedTuple):
    """What was drawn for one clip."""

    flip: bool
    padding: int  # pixels of black around each frame
    corner: tuple[int, int]  # pixels (top, left) of the crop in the padded frames
    patches: list[Patch]

    def apply(self, clip_THW3: NDArray[np.uint8]) -> None:
        """Mirror, pad, crop a contiguous uint8 clip (T, H, W, 3) and cover its patches, in place."""
        frames, height, width, _ = clip_THW3.shape
        if self.flip:
            # As (3, H, W) with channels last in memory, which torch has a fast flip for.
            for frame_3HW in torch.from_numpy(clip_THW3).permute(0, 3, 1, 2):
                frame_3HW.copy_(frame_3HW.flip(-1))
        if self.padding:
            (top, left), margin = self.corner, (self.padding, self.padding)
            padded = np.pad(clip_THW3, ((0, 0), margin, margin, (0, 0)))  # with zeros
            clip_THW3[...] = padded[:, top : top + height, left : left + width]
        rows = clip_THW3.reshape(frames, height, width * 3)  # (T, H, W * 3): one slice per row of a box
        for patch in self.patches:
            bottom, right = patch.top + patch.height, min(patch.left + patch.width, width)
            line = np.frombuffer(patch.colour * (right - patch.left), np.uint8)  # (box width * 3,)
            rows[patch.frame, patch.top : bottom, 3 * patch.left : 3 * right] = line


class ClipAugment:
    """Draws flip and crop (once per clip), then random erasing (per frame), of clips.

    `legacy_erasing` paints the erased patch at (its width, its height) as the release does, not at the drawn corner.
    With `padding` above 0 that many pixels of black are put around each frame, and a window of the frame's size is cut
    out: the same one in all frames of a clip, so that the person does not jump from frame to frame.
    """

    def __init__(self, flip_prob: float, erase_prob: float, legacy_erasing: bool = False, padding: int = 0) -> None:
        self.flip_prob = flip_prob
        self.erase_prob = erase_prob
        self.legacy_erasing = legacy_erasing
        self.padding = padding

    def draw(self, frames: int, height: int, width: int, rng: random.Random) -> Augmentation:
        """Decide for a clip of `frames` frames of `height` x `width` pixels."""
        flip = rng.random() < self.flip_prob
        corner = (rng.randint(0, 2 * self.padding), rng.randint(0, 2 * self.padding)) if self.padding else (0, 0)
        patches = []
        for frame in range(frames):
            if rng.random() < self.erase_prob and (box := draw_erase_box(height, width, rng)):
                top, left, box_height, box_width = box
                if self.legacy_erasing:
                    top, left = box_height, box_width
                colour = bytes(rng.randrange(256) for _ in range(3))
                patches.append(Patch(frame, top, left, box_height, box_width, colour))
        return Augmentation(flip, self.padding, corner, patches)


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
    """uint8 (..., 3, H, W) on any device -> contiguous float32, ((x / 255) - mean) / std per colour."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (..., 3, H, W), in any order in memory, -> a new tensor of the same shape."""
        # Clips come with channels last in memory; the usual order is made by the conversion, then nothing is copied.
        floats = frames.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return floats.div_(255).sub_(self.mean).div_(self.std)
