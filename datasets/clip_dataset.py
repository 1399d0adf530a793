"""Tracklets -> uint8 clips, for training and for whole-tracklet passes.

B = clips, T = frames per clip, H, W = pixels.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from datasets.frame_sampling import dense_clips, first_per_chunk, random_per_chunk
from datasets.image_modes import to_rgb
from datasets.tracklet import Tracklet
from datasets.transforms import ClipAugment, resize_frame
from utils.errors import InputError, MissingFileError


class ClipBatch(NamedTuple):
    """A batch of training clips."""

    clips: Tensor  # (B, T, 3, H, W) uint8
    pids: Tensor  # (B,) int64 labels
    camids: Tensor  # (B,) int64


class TestBatch(NamedTuple):
    """Clips of one or several tracklets for one forward pass."""

    clips: Tensor  # (B, T, 3, H, W) uint8
    camids: Tensor  # (B,) int64, the camera of each clip's tracklet
    rows: Tensor  # (B,) int64, the tracklet each clip belongs to


def read_frame(path: str, size: Sequence[int]) -> Tensor:
    """Decode one image as uint8 RGB (3, H, W) of `size`; raises MissingFileError / InputError naming the file."""
    try:
        with Image.open(path) as image:
            pixels = np.array(to_rgb(image))  # (H, W, 3)
    except FileNotFoundError:
        raise MissingFileError(f"frame {path} does not exist") from None
    except UnidentifiedImageError:
        raise InputError(f"frame {path} cannot be decoded (it is no image); restore the file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"frame {path} cannot be opened ({error.strerror})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, for broken files
        raise InputError(f"frame {path} cannot be decoded ({error}); restore the file") from None
    return resize_frame(torch.from_numpy(pixels).permute(2, 0, 1), size).contiguous()


def read_clip(frames: Sequence[str], indices: Sequence[int], size: Sequence[int]) -> Tensor:
    """Decode the frames at `indices` into one uint8 clip (T, 3, H, W); a repeated frame is read once."""
    decoded = {index: read_frame(frames[index], size) for index in set(indices)}
    return torch.stack([decoded[index] for index in indices])


class TrainClips(Dataset):
    """Training clips, one per draw (tracklet index, seed): frames and augmentation depend on the seed alone."""

    def __init__(
        self, tracklets: Sequence[Tracklet], clip_length: int, size: Sequence[int], augment: ClipAugment
    ) -> None:
        self.tracklets = tracklets
        self.clip_length = clip_length
        self.size = size
        self.augment = augment

    def __len__(self) -> int:
        return len(self.tracklets)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, int, int]:
        index, seed = draw
        rng = random.Random(seed)
        tracklet = self.tracklets[index]
        indices = random_per_chunk(len(tracklet.frames), self.clip_length, rng)
        clip = read_clip(tracklet.frames, indices, self.size)
        return self.augment(clip, rng), tracklet.pid, tracklet.camid


class TestClips(Dataset):
    """One whole batch per item: the clips of a run of tracklets that fit `frames_per_batch` together.

    A tracklet with more frames than the bound is spread over several batches. `sampling` is 'dense' or 'first'.
    """

    __test__ = False  # not a test case

    def __init__(
        self, tracklets: Sequence[Tracklet], clip_length: int, size: Sequence[int], sampling: str, frames_per_batch: int
    ) -> None:
        self.tracklets = tracklets
        self.size = size
        clips = [(row, clip) for row, t in enumerate(tracklets) for clip in _clips(t, clip_length, sampling)]
        per_batch = max(1, frames_per_batch // clip_length)
        self.batches = [clips[start : start + per_batch] for start in range(0, len(clips), per_batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> TestBatch:
        batch = self.batches[index]
        clips = torch.stack([read_clip(self.tracklets[row].frames, indices, self.size) for row, indices in batch])
        rows = torch.tensor([row for row, _ in batch])
        camids = torch.tensor([self.tracklets[row].camid for row, _ in batch])
        return TestBatch(clips, camids, rows)


def _clips(tracklet: Tracklet, clip_length: int, sampling: str) -> list[list[int]]:
    num_frames = len(tracklet.frames)
    return dense_clips(num_frames, clip_length) if sampling == "dense" else [first_per_chunk(num_frames, clip_length)]


def collate_clips(samples: list[tuple[Tensor, int, int]]) -> ClipBatch:
    """Samples of TrainClips, (T, 3, H, W) with label and camera, -> one batch."""
    clips, pids, camids = zip(*samples)
    return ClipBatch(torch.stack(clips), torch.tensor(pids), torch.tensor(camids))
