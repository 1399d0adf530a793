"""Whether an exported file computes what the model computes, and how fast.

N clips, n tracklets, T frames per clip, H, W pixels, F feature length.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.tfclip import TFCLIP
from processor.runtime import Runtime
from utils.group_means import GroupMeans
from utils.metrics import l2_normalize

FLOAT32_LIMIT = 1e-4
_HALF_ROUNDING = 2**-11  # of a number in float16, relative to its size
_SHAPES = ((8, (1,)), (1, (5,)), (4, (3, 1)), (1, (1, 3, 5)), (8, (1, 3)))  # T, clips of each tracklet
_BLOCKS = (8, 4)  # of one colour in a frame, down and across
_MOST_TURNS, _LEAST_TURNS, _SECONDS = 25, 5, 10.0  # of the latency: turns, and what more than the least may take


class TrackletBatch(NamedTuple):
    """The inputs of an exported file, by their names."""

    frames: NDArray[np.uint8]  # (N, T, H, W, 3) RGB
    num_clips: NDArray[np.int64]  # (n,) adding up to N
    cameras: NDArray[np.int64] | None  # (n,), None for a file that takes none


Run = Callable[[TrackletBatch], NDArray[np.float32]]  # -> features (n, F)


def half_limit(num_layers: int) -> float:
    """How far half precision may move a feature, as a share of its length.

    A layer rounds its weights, its products, their sum and what it passes on, each by at most 2^-11 of its size. These
    roundings are as often up as down, so that together they grow like the square root of their number.
    """
    return _HALF_ROUNDING * math.sqrt(4 * num_layers)


def model_run(model: TFCLIP, runtime: Runtime, unit_length: bool) -> Run:
    """What a test computes with the model itself: clip features, their means, unit length."""

    @torch.inference_mode()
    def run(batch: TrackletBatch) -> NDArray[np.float32]:
        rows = torch.arange(len(batch.num_clips)).repeat_interleave(torch.from_numpy(batch.num_clips))  # (N,)
        camids = torch.zeros_like(rows) if batch.cameras is None else torch.from_numpy(batch.cameras)[rows]
        clips, camids = runtime.move(torch.from_numpy(batch.frames).permute(0, 1, 4, 2, 3), camids)
        with runtime.autocast():
            features = model.embed(runtime.normalize(clips), camids)
        means = GroupMeans(len(batch.num_clips))
        means.add(features, rows)
        features = means.means().cpu().numpy()
        return l2_normalize(features) if unit_length else features

    return run


def random_batches(size: Sequence[int], num_cameras: int, clip_length: int, any_length: bool) -> list[TrackletBatch]:
    """Batches of 1 to 3 tracklets of 1 to 5 clips of 1 to 8 frames; without `any_length` all have `clip_length`."""
    return [random_batch(size, num_cameras, length if any_length else clip_length, clips) for length, clips in _SHAPES]


def random_batch(size: Sequence[int], num_cameras: int, length: int, clips: Sequence[int]) -> TrackletBatch:
    """A batch of tracklets of so many `clips` each, of `length` frames; always the same one.

    Frames are blocks of random colours, which a network tells apart, as it does not with noise. Cameras are drawn from
    0..num_cameras - 1, None for no cameras.
    """
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (sum(clips), length, *_BLOCKS, 3), dtype=np.uint8)
    down, across = (np.arange(side) * count // side for side, count in zip(size, _BLOCKS))
    frames = np.ascontiguousarray(blocks[:, :, down][:, :, :, across])
    cameras = rng.integers(0, num_cameras, len(clips)) if num_cameras else None
    return TrackletBatch(frames, np.array(clips, np.int64), cameras)


def largest_difference(run: Run, reference: Run, batches: Iterable[TrackletBatch]) -> float:
    """The largest distance of two features of a tracklet, as a share of the reference's length; inf for nan."""
    differences = []
    for batch in batches:
        found, expected = run(batch), reference(batch)
        differences += list(np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1))
    return float(max(differences)) if np.isfinite(differences).all() else math.inf


def latencies(runs: Sequence[Run], batch: TrackletBatch) -> list[float]:
    """Seconds of each, the medians of several turns after a first one; in turn, so that a busy machine slows all."""
    seconds: list[list[float]] = []
    for turn in range(1 + _MOST_TURNS):
        if turn > _LEAST_TURNS and sum(map(sum, seconds)) > _SECONDS:
            break
        seconds.append([_seconds(run, batch) for run in runs])
    return [statistics.median(column) for column in zip(*seconds[1:])]


def _seconds(run: Run, batch: TrackletBatch) -> float:
    start = time.perf_counter()
    run(batch)
    return time.perf_counter() - start
