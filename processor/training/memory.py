"""CLIP-Memory (Eq. 6), or in its place the text features of the text baseline: one vector per identity.

Before training the pretrained encoder sees every training tracklet once; n tracklets, C identities, E projection width.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets import build_memory_loader, cache_dir
from datasets.tracklet import Tracklet
from model import pixel_statistics
from model.clip_memory import build_clip_memory
from model.text_prompt import TextBranch
from model.tfclip import TFCLIP
from processor import run_folder as files
from processor.evaluation import tracklet_means
from processor.experiment import Experiment
from processor.runtime import Runtime
from processor.training.feature_cache import (
    cached_features,
    describe_code,
    describe_frames,
    describe_machine,
    describe_weights,
)
from processor.training.text_stage import TextRecipe, learn_text_features
from utils.files import save_archive

logger = logging.getLogger(__name__)


def make_memory(
    experiment: Experiment, model: TFCLIP, text: TextBranch | None, note_pass: Callable[[int, float], None]
) -> Tensor:
    """CLIP-Memory, or with a text branch the learned text features: (C, E) on the device, also saved as a file.

    `note_pass` is told frames and seconds of the pass over the training tracklets, unless the cache spares it.
    """
    pids = torch.tensor([t.pid for t in experiment.splits.train])
    features_nE = tracklet_features(experiment, model, note_pass)
    if text is None:
        memory_CE = build_clip_memory(features_nE, pids, experiment.splits.num_classes)
        name, file = "CLIP-Memory", files.MEMORY
    else:
        memory_CE = learn_text_features(text, features_nE, pids, text_recipe(experiment), experiment.runtime)
        name, file = "text features", files.TEXT_FEATURES
    logger.info("%s: %d identities x %d values", name, *memory_CE.shape)
    if experiment.runtime.ranks.is_main:
        save_archive(experiment.out / file, memory_CE.cpu())
    return memory_CE.to(experiment.runtime.device)


def tracklet_features(experiment: Experiment, model: TFCLIP, note_pass: Callable[[int, float], None]) -> Tensor:
    """Features (n, E) of the training tracklets: computed, or from the cache of an earlier run.

    The cache serves runs on the same frames with the same weights, sizes, code and versions.
    """
    cfg, splits, runtime = experiment.cfg, experiment.splits, experiment.memory_runtime

    def describe() -> dict[str, Any]:
        return {
            "frames": describe_frames(splits),
            "weights": describe_weights(model.encoder),
            "encoder": [cfg.MODEL.NAME, cfg.MODEL.STRIDE_SIZE, dict(cfg.MODEL.ENCODER)],
            "input": [cfg.INPUT.SIZE_TEST, cfg.INPUT.SEQ_LEN, *pixel_statistics(cfg)[:2]],
            "frames_per_batch": cfg.TEST.FRAMES_PER_BATCH,
            "precision": runtime.precision,
            "processes": runtime.ranks.size,
            "code": describe_code(),
        } | describe_machine(runtime.device)

    def compute() -> Tensor:
        start = time.perf_counter()
        features = compute_tracklet_features(model, partial(build_memory_loader, cfg, splits), splits.train, runtime)
        note_pass(sum(len(t.frames) for t in splits.train), time.perf_counter() - start)
        return features

    def sound() -> bool:
        experiment.share_bad_frames()
        return splits.bad_frames is None or not splits.bad_frames.files

    description = runtime.ranks.on_main(describe)
    return cached_features(Path(cache_dir(cfg)), description, len(splits.train), compute, runtime.ranks, sound)


def compute_tracklet_features(
    model: TFCLIP,
    build_loader: Callable[[Sequence[Tracklet]], DataLoader],
    tracklets: Sequence[Tracklet],
    runtime: Runtime,
) -> Tensor:
    """v_p of each tracklet, mean over its dense clips: no camera embedding, no augmentation, eval mode -> (n, E)."""
    model.eval()

    def encode(clips: Tensor, _camids: Tensor) -> Tensor:
        return model.encode_memory(clips)

    return tracklet_means(encode, build_loader, tracklets, runtime, "tracklet features")


def text_recipe(experiment: Experiment) -> TextRecipe:
    """SOLVER.TEXT as plain values."""
    keys = experiment.cfg.SOLVER.TEXT
    return TextRecipe(
        epochs=keys.MAX_EPOCHS,
        batch_size=keys.BATCH_SIZE,
        base_lr=keys.BASE_LR,
        min_lr=keys.MIN_LR,
        warmup_epochs=keys.WARMUP_EPOCHS,
        warmup_lr=keys.WARMUP_LR,
        weight_decay=keys.WEIGHT_DECAY,
        seed=experiment.cfg.SOLVER.SEED,
    )
