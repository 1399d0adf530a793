"""What training and testing share: config, folder, data, device and number type; `prepare` puts it together."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from yacs.config import CfgNode

from configs import resolve_auto
from datasets import check_frames_present, configured_splits, find_dataset, official_name
from datasets.tracklet import ReIDSplits, Tracklet, below
from model import pixel_statistics
from model.weights import Cameras, TrainedCameras
from processor.protocol import EvalProtocol, check_scorable
from processor.runtime import Runtime
from utils.environment import describe_environment
from utils.errors import InputError, MissingFileError, file_fault

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """A config with its data set, output folder, device and number type."""

    cfg: CfgNode
    out: Path  # OUTPUT_DIR
    dataset: str  # official name
    splits: ReIDSplits
    runtime: Runtime  # of training; in float32 where nothing is trained

    @cached_property
    def test_runtime(self) -> Runtime:
        """The runtime of all tests."""
        return self.runtime.with_precision(self.cfg.TEST.PRECISION, "TEST.PRECISION")

    @cached_property
    def memory_runtime(self) -> Runtime:
        """The runtime of the pass over the training items before training."""
        return self.runtime.with_precision(self.cfg.SOLVER.MEMORY_PRECISION, "SOLVER.MEMORY_PRECISION")

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the training tracklets: labels, cameras and frames below the data's folder."""
        return self._hash(self.splits.train)

    def check_same_data(self) -> None:
        """Raise InputError when the ranks have read different tracklets."""
        splits = self.splits
        if len(set(self.runtime.ranks.collect(self._hash(splits.train + splits.query + splits.gallery)))) > 1:
            raise InputError(
                f"DATASETS.ROOT_DIR {self.cfg.DATASETS.ROOT_DIR} holds other tracklets for one process than for "
                "another; every machine must see the same data"
            )

    def _hash(self, tracklets: Iterable[Tracklet]) -> str:
        digest = sha256()
        for t in tracklets:
            frames = "\0".join(below(self.splits.root, frame) for frame in t.frames)
            digest.update(f"{t.pid} {t.camid} {frames}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def cameras(self) -> Cameras:
        """The cameras of the data set, and those of the test tracklets."""
        used = frozenset(t.camid for t in self.splits.query + self.splits.gallery)
        return Cameras(self.dataset, self.splits.cameras, used)

    @property
    def trained_cameras(self) -> TrainedCameras:
        """The cameras of the data set, and those of the training tracklets; kept in every checkpoint."""
        trained = sorted({t.camid for t in self.splits.train})
        return TrainedCameras(self.dataset, self.splits.cameras, tuple(trained))

    def share_bad_frames(self) -> None:
        """Let all ranks know which frames one of them could not read; raises InputError above the limit."""
        if self.splits.bad_frames is not None:
            for faults in self.runtime.ranks.collect(dict(self.splits.bad_frames.files)):
                self.splits.bad_frames.add(faults)

    def part(self, name: str) -> tuple[tuple[Tracklet, ...], tuple[Tracklet, ...]]:
        """(queries, other gallery tracklets) of 'test' or 'val'."""
        splits = self.splits
        return (splits.query, splits.gallery) if name == "test" else (splits.val_query, splits.val_gallery)

    def test_frames(self, sampling: str, part: str = "test") -> int:
        """The number of frames that a pass over the tracklets of 'test' or 'val' reads."""
        query, gallery = self.part(part)
        if sampling == "first":
            return self.cfg.INPUT.SEQ_LEN * len(query + gallery)
        return sum(len(tracklet.frames) for tracklet in query + gallery)

    def protocol(self, sampling: str, part: str = "test", camera_embedding: bool = False) -> EvalProtocol:
        """How the tracklets of 'test' or 'val' are compared under the TEST keys."""
        cfg, splits = self.cfg, self.splits
        keys = self.cfg.TEST
        includes_query = resolve_auto(keys.GALLERY_INCLUDES_QUERY, splits.gallery_includes_query)
        re_ranking = (keys.RE_RANKING_K1, keys.RE_RANKING_K2, keys.RE_RANKING_LAMBDA)
        has_splits = find_dataset(self.dataset).num_splits > 1
        return EvalProtocol(
            dataset=self.dataset if part == "test" else f"{self.dataset} validation",
            sampling=sampling,
            gallery_includes_query=includes_query or part == "val",
            neck_feat=keys.NECK_FEAT,
            feat_norm=keys.FEAT_NORM,
            precision=self.test_runtime.precision,
            camera_embedding=camera_embedding,
            re_ranking=re_ranking if keys.RE_RANKING else None,
            same_camera_filter=resolve_auto(keys.SAME_CAMERA_FILTER, splits.num_cameras > 1),
            ap=keys.AP,
            split=cfg.DATASETS.SPLIT if has_splits else "",
            train_half=cfg.DATASETS.TRAIN_HALF if has_splits else "",
            left_out=splits.left_out,
        )


def prepare(cfg: CfgNode, out: Path, name: str = "", root: str = "", training: bool = False) -> Experiment:
    """Read the lists of the data set and log what was found.

    The set is that of the config, or `name` in `root` for one of several; then the caller logs the environment. For
    `training` a validation part is held out where SOLVER.SELECT_BY asks for it; a test needs none of training's number
    types. Raises InputError for data that cannot be read or scored.
    """
    mean, std, source = pixel_statistics(cfg)
    runtime = Runtime.choose(cfg.SOLVER.AMP if training else "off", mean, std)
    start = time.perf_counter()
    with runtime.ranks.main_first():
        splits = configured_splits(cfg, name, root, validation=training)
    check_frames_present(splits)
    dataset = official_name(name or cfg.DATASETS.NAMES)
    experiment = Experiment(cfg, out, dataset, splits, runtime)
    if runtime.ranks.size > 1:
        experiment.check_same_data()
    for part in ("test", "val") if splits.val_query else ("test",):
        check_scorable(experiment.protocol("first", part), *experiment.part(part))
    if not name:
        log_environment(runtime.device)
    if training:
        logger.info("precision of training: %s (SOLVER.AMP %s)", runtime.precision, cfg.SOLVER.AMP)
    if training and cfg.MODEL.MEMORY != "none":
        logger.info("precision of the memory pass: %s (SOLVER.MEMORY_PRECISION)", experiment.memory_runtime.precision)
    logger.info("precision of tests: %s (TEST.PRECISION %s)", experiment.test_runtime.precision, cfg.TEST.PRECISION)
    logger.info("pixel mean %s, std %s: %s (INPUT.PIXEL_STATISTICS %s)", mean, std, source, cfg.INPUT.PIXEL_STATISTICS)
    logger.info("%s read in %.1f s from %s", dataset, time.perf_counter() - start, root or cfg.DATASETS.ROOT_DIR)
    for line in splits.summary().splitlines():
        logger.info("%s", line)
    if splits.left_out:
        logger.info("DATASETS.EXCLUDE %s: %s", cfg.DATASETS.EXCLUDE, splits.left_out)
    if splits.val_query:
        logger.info("validation part: %s", splits.validation_source)
    return experiment


def log_environment(device: torch.device) -> None:
    """Versions, device and commit."""
    for line in describe_environment(device).splitlines():
        logger.info("%s", line)


def check_file(key: str, path: Path, advice: str) -> None:
    """Raise MissingFileError unless `path`, the value of `key`, is a file."""
    if fault := file_fault(path):
        raise MissingFileError(f"{key}: {path} {fault}; {advice}")
