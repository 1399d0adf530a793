"""What the benchmark measures with: sizes, a synthetic set in a temporary folder, batches, features to rank."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.clips import ClipBatch
from datasets.frames import FILES, FrameSource
from datasets.synthetic import write_mars
from datasets.tracklet import Tracklet
from utils.errors import MissingFileError
from utils.interrupt import deferred_interrupts

# How much is measured: reduced, for CPU cores, and --full, for a GPU.
_AS_CONFIGURED = 10**9
SIZES = {
    "image": ((128, 64), (_AS_CONFIGURED, _AS_CONFIGURED)),  # pixels [height, width] at most, of step and passes
    "clip_frames": (4, _AS_CONFIGURED),  # at most, of step and passes
    "batch": ((2, 4), (_AS_CONFIGURED, _AS_CONFIGURED)),  # identities and clips of each at most, of the step
    "frames_per_batch": (64, _AS_CONFIGURED),  # at most, of the passes
    "compiled": ((), (False, True)),  # SOLVER.COMPILE of the steps; empty: as the config has it
    "warm_up": (1, 10),  # steps
    "steps": (4, 40),
    "pass_clips": (64, 4000),
    "identities": (8, 8),  # of the synthetic set, or as many as a batch has
    "loader_batches": (16, 32),  # different ones
    "loader_rounds": (8, 8),
    "loader_seconds": (0.6, 5.0),  # of a round
    "decode_frames": (2048, 2048),
    "matmul_side": (2048, 2048),  # four times that on a GPU; so is `copy_bytes`
    "copy_bytes": (2**28, 2**28),
    "ranking": ((495, 2828, 2048), (1980, 11_310, 2048)),  # queries, gallery items, features: a quarter of MARS, MARS
    "ranking_repeats": (5, 3),
    "re_ranking_repeats": (2, 1),
}

PREFIX = "tfclip-benchmark-"  # of temporary folders
_JPEG_QUALITY = 80  # gives files of 4-6 KB at 256x128 pixels, as the frames of MARS are
_NUM_CAMERAS = 6  # of MARS
_TRACKLETS_PER_IDENTITY = 3  # queries of a person in MARS
_NOISE = 0.7  # of a feature, as a share of its person's centre


@contextmanager
def synthetic_mars(identities: int, frames: int, size: Sequence[int], workers: int) -> Iterator[Path]:
    """A set in MARS layout of `identities` to train with and two to test with, two cameras, two tracklets in each.

    All tracklets have `frames` frames of `size` [height, width]. The folder vanishes with the context. Raises
    InputError for a size that cannot be drawn. To be called from the main thread.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        root = folder / "mars"
        write_mars(
            root, workers=workers, progress=True, train_ids=identities, test_ids=2, cameras=2, tracklets=2,
            frames=(frames, frames), size=tuple(size),
        )  # fmt: skip
        for path in root.rglob("*.jpg"):
            with Image.open(path) as image:
                image.load()
            image.save(path, quality=_JPEG_QUALITY)
        yield root
    finally:
        with deferred_interrupts():  # Ctrl-C once more leaves no half of it
            shutil.rmtree(folder, ignore_errors=True)


def some_tracklets(tracklets: Sequence[Tracklet], clip_length: int, clips: int) -> list[Tracklet]:
    """The first tracklets, and these again where they are too few, that hold `clips` clips or just above."""
    chosen: list[Tracklet] = []
    while clips > 0:
        tracklet = tracklets[len(chosen) % len(tracklets)]
        chosen.append(tracklet)
        clips -= -(-len(tracklet.frames) // clip_length)
    return chosen


def read_bytes(tracklets: Sequence[Tracklet], count: int, source: FrameSource = FILES) -> list[bytes]:
    """Up to `count` frames as they are stored, spread over the tracklets; raises MissingFileError for one not there."""
    paths = [frame for tracklet in tracklets for frame in tracklet.frames]
    try:
        return [bytes(source.content(path)) for path in paths[:: max(1, len(paths) // count)][:count]]
    except FileNotFoundError as error:
        raise MissingFileError(f"frame {error.filename} does not exist") from None


def random_batch(shape: Sequence[int], per_identity: int, num_classes: int) -> ClipBatch:
    """Noise as a training batch of `shape` (B, T, H, W), `per_identity` clips of each identity, cameras 0 to 5 in turn.

    The values of a pixel lie side by side in memory, as the loader leaves them.
    """
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)  # (B, T, H, W, 3)
    labels = torch.randperm(num_classes, generator=generator)  # (C,)
    pids = labels[: shape[0] // per_identity].repeat_interleave(per_identity)  # (B,)
    return ClipBatch(clips.permute(0, 1, 4, 2, 3), pids, torch.arange(shape[0]) % _NUM_CAMERAS)


def random_memory(num_classes: int, width: int) -> Tensor:
    """Noise as CLIP-Memory: (C, E)."""
    return torch.randn(num_classes, width, generator=torch.Generator().manual_seed(0)) / width**0.5


class RankingInput(NamedTuple):
    """What is ranked; the queries stand in front of the gallery, as MARS' protocol has it."""

    q_feats: NDArray[np.float32]  # (Q, F) of unit length
    g_feats: NDArray[np.float32]  # (G, F) of unit length
    q_pids: NDArray[np.int64]  # (Q,)
    g_pids: NDArray[np.int64]  # (G,)
    q_camids: NDArray[np.int64]  # (Q,)
    g_camids: NDArray[np.int64]  # (G,)


def ranking_input(kind: str, num_query: int, num_gallery: int, width: int) -> RankingInput:
    """Features as training leaves them ('clusters': a centre for each person) or without any order ('random').

    The people are a third as many as the queries; three in ten of the other gallery items are distractors (person 0).
    """
    rng = np.random.default_rng(0)
    people = max(2, num_query // _TRACKLETS_PER_IDENTITY)
    pids = rng.integers(1, people + 1, num_gallery)  # (G,)
    is_distractor = rng.random(num_gallery) < 0.3  # (G,)
    is_distractor[:num_query] = False
    pids[is_distractor] = 0
    camids = rng.integers(0, _NUM_CAMERAS, num_gallery)  # (G,)
    features = rng.standard_normal((num_gallery, width), dtype=np.float32)  # (G, F)
    if kind == "clusters":
        features *= _NOISE
        centres = rng.standard_normal((people, width), dtype=np.float32)  # (people, F)
        for row in np.flatnonzero(~is_distractor):
            features[row] += centres[pids[row] - 1]
    for row in features:  # one by one: the peak of memory is to be that of the ranking
        row /= np.linalg.norm(row)
    return RankingInput(features[:num_query].copy(), features, pids[:num_query], pids, camids[:num_query], camids)
