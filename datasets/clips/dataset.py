"""Tracklets -> uint8 clips, for training and for whole-tracklet passes.

A batch is decoded into one piece of memory (B, T, H, W, 3) and seen as (B, T, 3, H, W).

B = clips, T = frames per clip, H, W = pixels.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from datasets.bad_frames import BadFrames
from datasets.clips.buffers import Batch, BatchBuffers, WithBadFrames, numbers
from datasets.clips.replacement import read_nearest_into
from datasets.clips.sampling import dense_clips, first_per_chunk, random_per_chunk
from datasets.clips.transforms import ClipAugment
from datasets.frames import FILES, FrameSource
from datasets.tracklet import Tracklet


class ClipBatch(NamedTuple):
    """A batch of training clips."""

    clips: Tensor  # (B, T, 3, H, W) uint8
    pids: Tensor  # (B,) int64 labels
    camids: Tensor  # (B,) int64


class EvalBatch(NamedTuple):
    """Clips of one or several tracklets for one forward pass."""

    clips: Tensor  # (B, T, 3, H, W) uint8
    camids: Tensor  # (B,) int64, the camera of each clip's tracklet
    rows: Tensor  # (B,) int64, the tracklet each clip belongs to


class _Clips(Dataset):
    """What both data sets of clips share."""

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        clip_length: int,
        size: Sequence[int],
        source: FrameSource,
        batch_size: int,
        bad_frames: BadFrames | None,
    ) -> None:
        """`size` is [height, width] in pixels, `batch_size` the largest number of clips in a batch.

        With `bad_frames` unreadable frames are replaced, and the loader notes there what comes with the batch.
        """
        self.tracklets = tracklets
        self.clip_length = clip_length
        self.size = size
        self.source = source
        self.batch_bytes = batch_size * clip_length * size[0] * size[1] * 3
        self.bad_frames = bad_frames
        self.buffers: BatchBuffers | None = None


class TrainClips(_Clips):
    """Training clips, a whole batch per list of draws (tracklet index, seed).

    The frames and the augmentation of a clip depend on its seed alone. `interpolation`, of frames of another size, is
    'bilinear' or 'bicubic'.
    """

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        clip_length: int,
        size: Sequence[int],
        augment: ClipAugment,
        batch_size: int,
        source: FrameSource = FILES,
        interpolation: str = "bilinear",
        bad_frames: BadFrames | None = None,
    ) -> None:
        super().__init__(tracklets, clip_length, size, source, batch_size, bad_frames)
        self.augment = augment
        self.interpolation = interpolation

    def __len__(self) -> int:
        return len(self.tracklets)

    def __getitems__(self, draws: Sequence[tuple[int, int]]) -> ClipBatch | WithBadFrames:
        """Everything random is drawn before the first frame is read."""
        height, width = self.size
        plans = []  # of each clip: its frames in the tracklet, augmentation
        for index, seed in draws:
            rng = random.Random(seed)
            frames = self.tracklets[index].frames
            places = [(frames, place) for place in random_per_chunk(len(frames), self.clip_length, rng)]
            plans.append((places, self.augment.draw(self.clip_length, height, width, rng)))
        batch = Batch(len(draws), self.clip_length, height, width, self.buffers)
        clips = batch.frames_NHW3.reshape(len(draws), self.clip_length, height, width, 3)
        faults: dict[str, str] | None = None if self.bad_frames is None else {}
        for clip_THW3, (places, augmentation) in zip(clips, plans):  # augmented while it is still in the cache
            read_nearest_into(clip_THW3, places, self.source, faults, self.interpolation)
            augmentation.apply(clip_THW3)
        tracklets = [self.tracklets[index] for index, _ in draws]
        pids, camids = numbers(t.pid for t in tracklets), numbers(t.camid for t in tracklets)
        made = ClipBatch(batch.finish(), pids, camids)
        return WithBadFrames(made, faults) if faults else made


class EvalClips(_Clips):
    """Test clips, one whole batch of at most `frames_per_batch` frames per item.

    A batch may hold clips of several tracklets, and a tracklet may be spread over several batches. `sampling` is
    'dense' or 'first'.
    """

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        clip_length: int,
        size: Sequence[int],
        sampling: str,
        frames_per_batch: int,
        source: FrameSource = FILES,
        bad_frames: BadFrames | None = None,
    ) -> None:
        clips = [(row, clip) for row, t in enumerate(tracklets) for clip in _places(t, clip_length, sampling)]
        per_batch = max(1, frames_per_batch // clip_length)
        self.batches = [clips[start : start + per_batch] for start in range(0, len(clips), per_batch)]
        super().__init__(tracklets, clip_length, size, source, min(per_batch, len(clips)), bad_frames)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> EvalBatch | WithBadFrames:
        clips = self.batches[index]
        batch = Batch(len(clips), self.clip_length, *self.size, self.buffers)
        faults: dict[str, str] | None = None if self.bad_frames is None else {}
        places = [(self.tracklets[row].frames, place) for row, indices in clips for place in indices]
        read_nearest_into(batch.frames_NHW3, places, self.source, faults)
        rows = numbers(row for row, _ in clips)
        camids = numbers(self.tracklets[row].camid for row, _ in clips)
        made = EvalBatch(batch.finish(), camids, rows)
        return WithBadFrames(made, faults) if faults else made


def _places(tracklet: Tracklet, clip_length: int, sampling: str) -> list[list[int]]:
    """Of each clip of a test the places of its frames in the tracklet."""
    num_frames = len(tracklet.frames)
    return dense_clips(num_frames, clip_length) if sampling == "dense" else [first_per_chunk(num_frames, clip_length)]


def keep_batch(batch: ClipBatch) -> ClipBatch:
    """The `collate_fn` of TrainClips, whose batches are whole."""
    return batch
