"""Data set name -> splits; config and splits -> loaders."""

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from datasets.clip_dataset import TestClips, TrainClips, collate_clips
from datasets.identity_sampler import IdentitySampler
from datasets.mars import parse_mars
from datasets.tracklet import ReIDSplits, Tracklet
from datasets.transforms import ClipAugment
from utils.errors import InputError, MissingFileError

_PARSERS: dict[str, Callable[..., ReIDSplits]] = {"MARS": parse_mars}


def plain_name(name: str) -> str:
    """The name of a data set without hyphens and in capitals: iLIDS-VID -> ILIDSVID."""
    return re.sub(r"[-_ ]", "", name).upper()


def load_splits(name: str, root: str, **options) -> ReIDSplits:
    """Splits of the data set `name` (case and hyphens do not matter) under `root`, its folder or the parent of it.

    Raises InputError (a ValueError) for an unknown name or option or a broken list, MissingFileError (a
    FileNotFoundError) for a missing one.
    """
    plain = plain_name(name)
    if plain not in _PARSERS:
        raise InputError(f"DATASETS.NAMES '{name}' is not known; it must be one of {', '.join(_PARSERS)}")
    parser = _PARSERS[plain]
    accepted = list(inspect.signature(parser).parameters)[1:]
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise InputError(f"{name} has no option '{unknown[0]}' (options: {', '.join(accepted) or 'none'})")
    return parser(root, **options)


def check_frames_present(splits: ReIDSplits) -> None:
    """One look at the disk per split, so that images unpacked elsewhere are found before weights are read.

    Raises MissingFileError naming the first frame of the split.
    """
    for name in ("train", "query", "gallery"):
        tracklets = getattr(splits, name)
        if tracklets and not Path(tracklets[0].frames[0]).exists():
            raise MissingFileError(
                f"{tracklets[0].frames[0]} is missing although the lists of the data set name it: "
                f"unpack the {name} images there, or mend DATASETS.ROOT_DIR"
            )


def build_train_loader(cfg: CfgNode, splits: ReIDSplits) -> DataLoader:
    """Batches of P x K augmented clips; call `loader.batch_sampler.set_epoch(epoch)` before each epoch."""
    dataset = TrainClips(
        splits.train,
        cfg.INPUT.SEQ_LEN,
        cfg.INPUT.SIZE_TRAIN,
        ClipAugment(cfg.INPUT.PROB, cfg.INPUT.RE_PROB, cfg.INPUT.RE_LEGACY),
    )
    sampler = IdentitySampler(
        [t.pid for t in splits.train], cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE, cfg.SOLVER.SEED
    )
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_clips, **_loader_options(cfg))


def build_memory_loader(cfg: CfgNode, splits: ReIDSplits) -> DataLoader:
    """All frames of all training tracklets, without augmentation (CLIP-Memory)."""
    return build_test_loader(cfg, splits.train, "dense")


def build_test_loader(cfg: CfgNode, tracklets: Sequence[Tracklet], sampling: str) -> DataLoader:
    """Batches of at most TEST.FRAMES_PER_BATCH frames; the clips of several tracklets share a batch."""
    dataset = TestClips(
        tracklets, cfg.INPUT.SEQ_LEN, cfg.INPUT.SIZE_TEST, sampling, cfg.TEST.FRAMES_PER_BATCH
    )
    return DataLoader(dataset, batch_size=None, **_loader_options(cfg))


def _loader_options(cfg: CfgNode) -> dict:
    # An own generator keeps the loaders from drawing on the global one, whose state a resumed run restores.
    generator = torch.Generator().manual_seed(cfg.SOLVER.SEED)
    return {
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "pin_memory": torch.cuda.is_available(),
        "generator": generator,
    }
