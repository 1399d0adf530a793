"""Config -> what training and testing share: device, number type, data, protocol, the state of a fresh run."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from datasets import (
    build_memory_loader,
    build_test_loader,
    cache_dir,
    check_frames_present,
    configured_splits,
    official_name,
)
from datasets.clips.transforms import Normalize
from datasets.exclusion import below
from datasets.frames.store import frame_source
from datasets.tracklet import ReIDSplits, Tracklet
from model import check_text, pretrained_path
from model.compiled import check_compiler, compile_clip_features
from model.encoder import openai_file
from model.text_prompt import TextBranch
from model.tfclip import TFCLIP
from model.weights.cameras import Cameras, TrainedCameras
from processor import run_folder as files
from processor import splits_table as series
from processor.evaluation.evaluator import Evaluation, Protocol, check_scorable, evaluate
from processor.evaluation.reports import Wanted, log_results, write_reports
from processor.training.epoch import RunState
from processor.training.memory_cache import (
    cached_features,
    describe_code,
    describe_frames,
    describe_machine,
    describe_weights,
)
from processor.training.memory_pass import memory_features
from processor.training.text_stage import learn_text_features
from solver import build_lr_schedule, build_optimizer
from utils.errors import InputError, MissingFileError
from utils.logger import describe_environment, log_to_file
from utils.precision import amp_dtype, precision_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What training and testing share."""

    cfg: CfgNode
    out: Path
    dataset: str  # official name
    splits: ReIDSplits
    normalize: nn.Module  # uint8 frames -> normalised float, on `device`
    device: torch.device
    dtype: torch.dtype | None  # autocast type, None for float32

    @property
    def precision(self) -> str:
        """The name of the number type of the forward pass."""
        return precision_name(self.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the training tracklets: labels, cameras and frames below the data's folder."""
        digest = sha256()
        for t in self.splits.train:
            frames = "\0".join(below(self.splits.root, frame) for frame in t.frames)
            digest.update(f"{t.pid} {t.camid} {frames}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def cameras(self) -> Cameras:
        """The cameras of the data, and which of them the test sees."""
        used = frozenset(t.camid for t in self.splits.query + self.splits.gallery)
        return Cameras(self.dataset, self.splits.cameras, used)

    @property
    def trained_cameras(self) -> TrainedCameras:
        """The cameras of the data and which of them training sees; a checkpoint keeps it."""
        trained = sorted({t.camid for t in self.splits.train})
        return TrainedCameras(self.dataset, self.splits.cameras, tuple(trained))


def prepare(cfg: CfgNode, out: Path, name: str = "", root: str = "", validation: bool = False) -> Setting:
    """Read the lists of the data set and say in the log what was found.

    The set is that of the config, or `name` in `root`: one of several, for which the caller logs the environment once.
    """
    device = current_device()
    dtype = amp_dtype(cfg.SOLVER.AMP, device)
    start = time.perf_counter()
    splits = configured_splits(cfg, name, root, validation)
    check_frames_present(splits)
    dataset, root = official_name(name or cfg.DATASETS.NAMES), root or cfg.DATASETS.ROOT_DIR
    for part in ("test", "val") if splits.val_query else ("test",):
        check_scorable(build_protocol(cfg, dataset, splits, "first", part, False), *_part(splits, part))
    if not name:
        log_environment(device)
    logger.info("precision %s (SOLVER.AMP %s)", precision_name(dtype), cfg.SOLVER.AMP)
    logger.info("%s read in %.1f s from %s", dataset, time.perf_counter() - start, root)
    for line in splits.summary().splitlines():
        logger.info("%s", line)
    if splits.left_out:
        logger.info("DATASETS.EXCLUDE %s: %s", cfg.DATASETS.EXCLUDE, splits.left_out)
    if splits.val_query:
        logger.info("validation part: %s", splits.validation_source)
    normalize = Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD).to(device)
    return Setting(cfg, out, dataset, splits, normalize, device, dtype)


def current_device() -> torch.device:
    """The GPU when there is one; CUDA_VISIBLE_DEVICES chooses it."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def log_environment(device: torch.device) -> None:
    """Versions, device and commit."""
    for line in describe_environment(device).splitlines():
        logger.info("%s", line)


def build_run(setting: Setting, model: TFCLIP) -> RunState:
    """Optimiser, schedule and scaler of a model on its device; it has no memory yet."""
    cfg = setting.cfg
    trained = setting.trained_cameras
    if model.encoder.camera_embed is not None and len(trained.trained) < len(trained.names):
        model.encoder.map_cameras(trained.rows_for(setting.cameras), trained.trained, cfg.MODEL.SIE_UNSEEN)
    optimizer = build_optimizer(cfg, model)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.dtype is torch.float16)
    run = RunState(model, optimizer, build_lr_schedule(cfg, optimizer), scaler)
    if cfg.SOLVER.COMPILE:
        run.clip_features = compile_clip_features(model)
    return run


def tracklet_features(setting: Setting, model: TFCLIP) -> Tensor:
    """What CLIP-Memory averages: features (n, E) of the n training tracklets, computed or from the cache of an
    earlier run on the same frames with the same weights, sizes and versions."""
    cfg, splits = setting.cfg, setting.splits
    description = {
        "frames": describe_frames(splits),
        "weights": describe_weights(model.encoder),
        "encoder": [cfg.MODEL.NAME, cfg.MODEL.STRIDE_SIZE, dict(cfg.MODEL.ENCODER)],
        "input": [cfg.INPUT.SIZE_TEST, cfg.INPUT.SEQ_LEN, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD],
        "frames_per_batch": cfg.TEST.FRAMES_PER_BATCH,
        "precision": setting.precision,
        "code": describe_code(),
    } | describe_machine(setting.device)

    def compute() -> Tensor:
        loader, count = build_memory_loader(cfg, splits), len(splits.train)
        return memory_features(model, loader, count, setting.normalize, setting.device, setting.dtype)

    return cached_features(Path(cache_dir(cfg)), description, len(splits.train), compute)


def learn_text(setting: Setting, text: TextBranch, tracklet_features: Tensor, pids: Tensor) -> Tensor:
    """First stage of the text baseline, as SOLVER.TEXT says: tracklet features (n, E) -> text features (C, E)."""
    keys = setting.cfg.SOLVER.TEXT
    return learn_text_features(
        text.tower,
        text.prompts,
        tracklet_features,
        pids,
        epochs=keys.MAX_EPOCHS,
        batch_size=keys.BATCH_SIZE,
        base_lr=keys.BASE_LR,
        min_lr=keys.MIN_LR,
        warmup_epochs=keys.WARMUP_EPOCHS,
        warmup_lr=keys.WARMUP_LR,
        weight_decay=keys.WEIGHT_DECAY,
        seed=setting.cfg.SOLVER.SEED,
        device=setting.device,
        dtype=setting.dtype,
    )


def evaluate_part(setting: Setting, model: TFCLIP, sampling: str, part: str = "test") -> Evaluation:
    """Rank the queries of the test part, or of the validation part ('val'), where queries are gallery items too."""
    cfg, splits = setting.cfg, setting.splits
    query, gallery = _part(splits, part)
    embedding = model.encoder.camera_embed is not None
    protocol = build_protocol(cfg, setting.dataset, splits, sampling, part, embedding)
    tracklets = query + gallery
    loader = build_test_loader(cfg, tracklets, sampling, frame_source(splits.pack, splits.root))
    return evaluate(model, loader, tracklets, len(query), protocol, setting.normalize, setting.device, setting.dtype)


def _part(splits: ReIDSplits, part: str) -> tuple[tuple[Tracklet, ...], tuple[Tracklet, ...]]:
    """(queries, other gallery tracklets) of 'test' or 'val'."""
    return (splits.query, splits.gallery) if part == "test" else (splits.val_query, splits.val_gallery)


def build_protocol(
    cfg: CfgNode, dataset: str, splits: ReIDSplits, sampling: str, part: str, camera_embedding: bool
) -> Protocol:
    """What the TEST keys say about `part` ('test' or 'val') of a data set."""
    keys = cfg.TEST
    include = {"auto": splits.gallery_includes_query, "True": True, "False": False}[keys.GALLERY_INCLUDES_QUERY]
    camera_filter = {"auto": splits.num_cameras > 1, "True": True, "False": False}[keys.SAME_CAMERA_FILTER]
    re_ranking = (keys.RE_RANKING_K1, keys.RE_RANKING_K2, keys.RE_RANKING_LAMBDA)
    return Protocol(
        dataset=dataset if part == "test" else f"{dataset} validation",
        sampling=sampling,
        gallery_includes_query=include or part == "val",
        neck_feat=keys.NECK_FEAT,
        feat_norm=keys.FEAT_NORM,
        re_ranking=re_ranking if keys.RE_RANKING else None,
        camera_embedding=camera_embedding,
        camera_filter=camera_filter,
        ap=keys.AP,
        split=cfg.DATASETS.SPLIT if dataset == "iLIDS-VID" else "",
        train_half=cfg.DATASETS.TRAIN_HALF if dataset == "iLIDS-VID" else "",
        left_out=splits.left_out,
    )


def report(setting: Setting, rows: Mapping[str, Mapping], evaluation: Evaluation, extra: Mapping) -> None:
    """The table on screen and in the log, and the files that were asked for."""
    keys = setting.cfg.TEST
    wanted = Wanted(keys.SAVE_FEATURES, keys.SAVE_RANKS, keys.CAMERA_PAIRS, keys.CONTACT_SHEET)
    written = write_reports(setting.out, evaluation, extra, wanted, setting.splits)
    log_results(evaluation, rows)
    logger.info("wrote %s", ", ".join(map(str, written)))


def split_cfg(cfg: CfgNode, split: int) -> CfgNode:
    """The config of one split of a series, in OUTPUT_DIR/splitN; what is unpacked serves all."""
    one = cfg.clone()
    one.defrost()
    one.DATASETS.SPLIT = str(split)
    one.DATASETS.CACHE_DIR = cache_dir(cfg)
    one.OUTPUT_DIR = str(series.split_dir(Path(cfg.OUTPUT_DIR), split))
    one.freeze()
    return one


def finish_series(out: Path, log: str) -> None:
    """The table of all splits on screen, in the log and in OUTPUT_DIR."""
    folders = [series.split_dir(out, split) for split in range(series.NUM_SPLITS)]
    results = [series.read_metrics(folder) for folder in folders]
    if None in results:
        raise InputError(f"{folders[results.index(None)] / files.METRICS} holds no scores of a test; start again")
    summary = series.write_splits_table(out, results)
    log_to_file(out / log, append=True)
    series.log_splits(results, summary)
    logger.info("wrote %s, %s", out / files.SPLITS_TABLE, out / files.METRICS)


def check_weights(cfg: CfgNode) -> None:
    """Raise InputError, before any data are read, when what training starts from is not at hand."""
    check_text(cfg)
    if cfg.MODEL.PRETRAIN_PATH:
        check_file("MODEL.PRETRAIN_PATH", Path(pretrained_path(cfg)), f"put {openai_file(cfg.MODEL.NAME)} there")


def check_compile(cfg: CfgNode) -> None:
    """Raise InputError when SOLVER.COMPILE asks for what torch cannot do here."""
    if cfg.SOLVER.COMPILE:
        check_compiler(current_device())


def check_file(key: str, path: Path, advice: str) -> None:
    """Raise MissingFileError unless `path`, the value of `key`, is a file."""
    if not path.is_file():
        raise MissingFileError(f"{key}: {path} {'is a folder' if path.is_dir() else 'does not exist'}; {advice}")
