"""Data set name -> splits; config and splits -> loaders."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from datasets.bad_frames import BadFrames
from datasets.clips import ClipAugment, ClipLoader, EvalClips, IdentitySampler, TrainClips, keep_batch
from datasets.exclusion import read_exclusions, unless_excluded
from datasets.frames import FILES, FrameSource, frame_source
from datasets.items import TrainItems
from datasets.registry import DATA_SETS, find_dataset, official_name
from datasets.tracklet import DataSet, OnFault, RawSplits, ReIDSplits, Tracklet, raise_or_warn
from datasets.validation import hold_out
from utils.errors import InputError, MissingFileError

logger = logging.getLogger(__name__)


def load_splits(
    name: str,
    root: str,
    *,
    train_items: str = "auto",
    exclude: str = "",
    val_fraction: float = 0.0,
    seed: int = 0,
    **options,
) -> ReIDSplits:
    """Splits of the data set `name` (case and hyphens do not matter) under `root`, its folder or the parent of it.

    `train_items` says what training draws clips from (see datasets.items); 'auto' is what the authors of TF-CLIP did
    with this set: windows of 8 frames of iLIDS-VID, chunks of 48 of LS-VID, else whole tracklets. Test tracklets are
    always whole. `exclude` is a list of frames to leave out (see datasets.exclusion). With a `val_fraction` above 0,
    that share of the training identities, drawn by `seed`, becomes the validation part of a set that has none of its
    own. The other options belong to single sets: `split` and `train_half` of iLIDS-VID, `validation` of LS-VID,
    `cache_dir` where something has to be unpacked or cropped, `outside` of lists of the user's own. Raises InputError
    (a ValueError) for an unknown name or option or a broken list, MissingFileError (a FileNotFoundError) for a missing
    one.
    """
    items = items_of(find_dataset(name), train_items)
    exclusions = read_exclusions(exclude)
    raw = load_raw(name, root, unless_excluded(exclusions), **options)
    kept = exclusions.apply(raw)
    splits = finish_splits(official_name(name), kept, items, val_fraction, seed)
    return replace(splits, left_out=exclusions.describe(raw, kept))


def items_of(dataset: DataSet, train_items: str) -> TrainItems:
    """The training items that the text names; 'auto': those of the data set. Raises InputError for another text."""
    return TrainItems.parse(dataset.train_items if train_items.strip() == "auto" else train_items)


def load_raw(name: str, root: str, on_fault: OnFault = raise_or_warn, **options) -> RawSplits:
    """What the lists of a data set say, before labels and training items; faults of single rows go to `on_fault`."""
    dataset = find_dataset(name)
    unknown = [option for option in options if option not in dataset.options]
    if unknown:
        accepted = ", ".join(dataset.options) or "none"
        raise InputError(f"{dataset.name} has no option '{unknown[0]}' (options: {accepted})")
    return dataset.parse(root, on_fault=on_fault, **options)


def finish_splits(name: str, raw: RawSplits, items: TrainItems, val_fraction: float, seed: int) -> ReIDSplits:
    """Validation part, training items, labels; raises InputError for a split without tracklets."""
    train, val_query, val_gallery = raw.train, raw.val_query, raw.val_gallery
    source = f"of {name} itself" if val_query else ""
    if val_fraction and not val_query and train:
        train, val_query, val_gallery = hold_out(train, val_fraction, seed)
        count = len({t.pid for t in val_query})
        source = f"{count} training identities held out (DATASETS.VAL_FRACTION {val_fraction}, SOLVER.SEED {seed})"
    ranked = raw.gallery or (raw.query if raw.gallery_includes_query else ())
    for split, tracklets in (("train", train), ("query", raw.query), ("gallery", ranked)):
        if not tracklets:
            raise InputError(f"{name} in {raw.root} has no {split} tracklet")
    pids = sorted({t.pid for t in train})
    label = {pid: number for number, pid in enumerate(pids)}
    return ReIDSplits(
        train=tuple(replace(t, pid=label[t.pid]) for t in items.cut(train)),
        query=tuple(raw.query),
        gallery=tuple(raw.gallery),
        num_classes=len(pids),
        num_cameras=len(raw.cameras),
        gallery_includes_query=raw.gallery_includes_query,
        val_query=tuple(val_query),
        val_gallery=tuple(val_gallery),
        root=raw.root,
        train_persons=tuple(raw.person(pid) for pid in pids),
        persons=raw.persons,
        cameras=raw.cameras,
        validation_source=source,
        train_items=str(items),
    )


def configured_splits(cfg: CfgNode, name: str = "", root: str = "", validation: bool = False) -> ReIDSplits:
    """`load_splits` of the data set that the config names, or of another one with the same keys.

    With `validation` and SOLVER.SELECT_BY 'val' a part of the training identities is held out where the set has no
    validation part of its own.
    """
    pack = ""  # a file of frames belongs to the data set of the config
    if not name:
        check_split_key(cfg)
        name, root, pack = cfg.DATASETS.NAMES, cfg.DATASETS.ROOT_DIR, cfg.DATASETS.PACK
    validation &= cfg.SOLVER.SELECT_BY == "val"
    fraction = cfg.DATASETS.VAL_FRACTION if validation else 0.0
    options = dataset_options(cfg, name)
    if "validation" in options:
        options["validation"] = validation
    splits = load_splits(
        name,
        root,
        train_items=cfg.DATASETS.TRAIN_ITEMS,
        exclude=cfg.DATASETS.EXCLUDE,
        val_fraction=fraction,
        seed=cfg.SOLVER.SEED,
        **options,
    )
    bad_frames = BadFrames(cfg.DATASETS.BAD_FRAME_LIMIT) if cfg.DATASETS.ON_BAD_FRAME == "skip" else None
    return replace(splits, pack=pack, bad_frames=bad_frames)


def check_split_key(cfg: CfgNode) -> None:
    """Raise InputError for a DATASETS.SPLIT that the data set of the config does not have."""
    dataset = find_dataset(cfg.DATASETS.NAMES)
    if cfg.DATASETS.SPLIT != "0" and dataset.num_splits == 1:
        owners = ", ".join(other.name for other in DATA_SETS if other.num_splits > 1)
        raise InputError(
            f"DATASETS.SPLIT {cfg.DATASETS.SPLIT}: {dataset.name} has one split; the key belongs to {owners}"
        )


def split_numbers(cfg: CfgNode) -> list[str]:
    """The splits that DATASETS.SPLIT chooses: one, or with 'all' every one of the data set."""
    if cfg.DATASETS.SPLIT != "all":
        return [cfg.DATASETS.SPLIT]
    return [str(number) for number in range(find_dataset(cfg.DATASETS.NAMES).num_splits)]


def dataset_options(cfg: CfgNode, name: str) -> dict[str, Any]:
    """The options of this data set, from their keys."""
    values = {
        "split": cfg.DATASETS.SPLIT,
        "train_half": cfg.DATASETS.TRAIN_HALF,
        "validation": True,
        "cache_dir": cache_dir(cfg),
        "outside": cfg.DATASETS.OUTSIDE,
    }
    return {option: value for option, value in values.items() if option in find_dataset(name).options}


def cache_dir(cfg: CfgNode) -> str:
    """DATASETS.CACHE_DIR, or the folder in OUTPUT_DIR that stands for it."""
    return cfg.DATASETS.CACHE_DIR or str(Path(cfg.OUTPUT_DIR) / "cache")


def check_frames_present(splits: ReIDSplits) -> None:
    """Look for the first frame of each split, so that a wrong folder is noticed before weights are read.

    Where unreadable frames are replaced, any frame of a tracklet will do. Raises MissingFileError naming the first
    frame of the split, or InputError when the data set's pack lacks it.
    """
    source, skip = frame_source(splits.pack, splits.root), splits.bad_frames is not None
    for name in ("train", "query", "gallery", "val_query", "val_gallery"):
        tracklets = getattr(splits, name)
        if splits.pack:
            for tracklet in tracklets:  # one frame of each: a look-up takes microseconds
                _look_up(tracklet.frames if skip else tracklet.frames[:1], source)
        elif tracklets and not any(map(os.path.exists, tracklets[0].frames if skip else tracklets[0].frames[:1])):
            raise MissingFileError(
                f"{tracklets[0].frames[0]} is missing although the lists of the data set name it: "
                f"unpack the {name} images there, or mend DATASETS.ROOT_DIR"
            )


def _look_up(frames: Sequence[str], source: FrameSource) -> None:
    """Find the first of the frames that is readable; raises the InputError of the last one where none is."""
    for frame in frames[:-1]:
        try:
            source.content(frame)
            return
        except InputError:
            pass
    source.content(frames[-1])


def build_train_loader(cfg: CfgNode, splits: ReIDSplits, share: slice = slice(None)) -> DataLoader:
    """Batches of P x K augmented clips; call `loader.batch_sampler.set_epoch(epoch)` before each epoch.

    Of each batch only the clips of `share` are read. With INPUT.RE_MODE 'pixel' they are still to be erased, by
    `build_erasing`.
    """
    length = TrainItems.parse(splits.train_items).length
    if 0 < length < cfg.INPUT.SEQ_LEN:
        logger.warning(
            "training items of %d frames (DATASETS.TRAIN_ITEMS) are shorter than a clip of %d (INPUT.SEQ_LEN), which "
            "repeats their last frame", length, cfg.INPUT.SEQ_LEN,
        )  # fmt: skip
    erase_prob = cfg.INPUT.RE_PROB if cfg.INPUT.RE_MODE == "colour" else 0.0
    logger.info(
        "augmentation: %s resize, flip %s, padding %d, erasing %s (%s)",
        cfg.INPUT.INTERPOLATION, cfg.INPUT.PROB, cfg.INPUT.PADDING, cfg.INPUT.RE_PROB, cfg.INPUT.RE_MODE,
    )  # fmt: skip
    dataset = TrainClips(
        splits.train,
        cfg.INPUT.SEQ_LEN,
        cfg.INPUT.SIZE_TRAIN,
        ClipAugment(cfg.INPUT.PROB, erase_prob, cfg.INPUT.RE_LEGACY, cfg.INPUT.PADDING),
        len(range(cfg.SOLVER.IMS_PER_BATCH)[share]),
        frame_source(splits.pack, splits.root),
        cfg.INPUT.INTERPOLATION,
        splits.bad_frames,
    )
    sampler = build_sampler(cfg, splits, share)
    # The workers stay from epoch to epoch, with their files open and batches of the next epoch sooner at hand.
    return ClipLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=keep_batch,
        persistent_workers=cfg.DATALOADER.NUM_WORKERS > 0,
        **_loader_options(cfg),
    )


def build_sampler(cfg: CfgNode, splits: ReIDSplits, share: slice = slice(None)) -> IdentitySampler:
    """The P x K batches of training items, of each `share`; raises InputError for fewer than P identities."""
    pids = [t.pid for t in splits.train]
    return IdentitySampler(pids, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE, cfg.SOLVER.SEED, share)


def build_erasing(cfg: CfgNode, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """INPUT.RE_MODE 'pixel': timm's random erasing with normal noise, as CLIP-ReID's; None where the loader erases.

    It erases normalised frames (N, 3, H, W) on `device`, each on its own, in place and returns them. It draws from
    Python's and torch's global random numbers.
    """
    if cfg.INPUT.RE_MODE == "colour":
        return None
    from timm.data.random_erasing import RandomErasing  # not above: commands that only read data need not wait for timm

    return RandomErasing(cfg.INPUT.RE_PROB, mode="pixel", max_count=1, device=device)


def build_memory_loader(cfg: CfgNode, splits: ReIDSplits, tracklets: Sequence[Tracklet]) -> DataLoader:
    """All frames of these training tracklets, without augmentation (CLIP-Memory)."""
    return build_test_loader(cfg, tracklets, "dense", frame_source(splits.pack, splits.root), splits.bad_frames)


def build_test_loader(
    cfg: CfgNode,
    tracklets: Sequence[Tracklet],
    sampling: str,
    source: FrameSource = FILES,
    bad_frames: BadFrames | None = None,
) -> DataLoader:
    """Batches of at most TEST.FRAMES_PER_BATCH frames, read from `source`; clips of several tracklets share a batch.

    Unreadable frames are replaced and noted in `bad_frames`; None: they are an error.
    """
    dataset = EvalClips(
        tracklets, cfg.INPUT.SEQ_LEN, cfg.INPUT.SIZE_TEST, sampling, cfg.TEST.FRAMES_PER_BATCH, source, bad_frames
    )
    return ClipLoader(dataset, batch_size=None, **_loader_options(cfg))


def _loader_options(cfg: CfgNode) -> dict:
    # An own generator keeps the loaders from drawing on the global one, whose state a resumed run restores.
    generator = torch.Generator().manual_seed(cfg.SOLVER.SEED)
    return {
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "pin_memory": torch.cuda.is_available(),
        # Forked workers inherit the memory that batches are decoded into (Python 3.14 would start them otherwise).
        "multiprocessing_context": "fork" if cfg.DATALOADER.NUM_WORKERS and sys.platform == "linux" else None,
        "generator": generator,
    }
