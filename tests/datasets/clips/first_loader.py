"""How training clips were made at first, frame by frame with Pillow and torch: what the loader must still give."""

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datasets.clips.sampling import random_per_chunk
from datasets.tracklet import Tracklet


def first_read_frame(path: str, size: Sequence[int]) -> Tensor:
    """One image as uint8 RGB (3, H, W), decoded by Pillow and resized by torchvision."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))  # (H, W, 3)
    frame = torch.from_numpy(pixels).permute(2, 0, 1)
    return (frame if list(frame.shape[1:]) == list(size) else F.resize(frame, list(size), antialias=True)).contiguous()


def first_train_clip(
    tracklet: Tracklet, length: int, size: Sequence[int], flip_prob: float, erase_prob: float, legacy: bool, seed: int
) -> Tensor:
    """The clip (T, 3, H, W) of one draw: frames chosen, read, flipped together, erased one by one, in this order."""
    rng = random.Random(seed)
    indices = random_per_chunk(len(tracklet.frames), length, rng)
    clip = torch.stack([first_read_frame(tracklet.frames[index], size) for index in indices])
    clip = clip.flip(-1) if rng.random() < flip_prob else clip.clone()
    for frame in clip:
        if rng.random() < erase_prob:
            _erase(frame, rng, legacy)
    return clip


def _erase(frame: Tensor, rng: random.Random, legacy: bool) -> None:
    height, width = frame.shape[1:]
    for _ in range(100):
        area = rng.uniform(0.02, 0.2) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        box_height, box_width = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
        if 1 <= box_height <= height and 1 <= box_width <= width:
            top, left = rng.randint(0, height - box_height), rng.randint(0, width - box_width)
            if legacy:
                top, left = box_height, box_width
            colour = torch.tensor([rng.randrange(256) for _ in range(3)], dtype=torch.uint8)
            frame[:, top : top + box_height, left : left + box_width] = colour[:, None, None]
            return
