"""A trained model as a function from tracklets to features.

n tracklets, F features.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from yacs.config import CfgNode

from datasets import build_test_loader
from datasets.bad_frames import BadFrames
from datasets.tracklet import Tracklet
from processor.evaluation import means_of_loader
from processor.extractor.given_frames import GivenFrames
from processor.trained_model import TrainedModel, load_trained
from utils.errors import InputError
from utils.interrupt import deferred_interrupts
from utils.metrics import l2_normalize

logger = logging.getLogger(__name__)

_PASS = Lock()  # held while a pass has set torch's number type of products, which all threads share


class FeatureExtractor:
    """Computes what a test of its model compares: per tracklet the mean of its clip features, L2-normalised.

    Frames are decoded, resized, grouped into clips and passed as eval-main.py does it, under the keys of the model's
    config: TEST.SAMPLING (dense: all frames), FRAMES_PER_BATCH, NECK_FEAT and PRECISION, and DATASETS.ON_BAD_FRAME.
    Features have unit length also with TEST.FEAT_NORM False, where a test compares them as they are: that is logged.
    An extractor may be used in a notebook and in threads: passes set how torch takes float32 products, so that those of
    all extractors run one after another, and leave it as it was.
    """

    def __init__(self, trained: TrainedModel, num_workers: int = 0) -> None:
        """`num_workers` loader processes decode frames; 0 decodes in this one, which works everywhere."""
        self.trained = trained
        self._cfg = trained.cfg.clone()
        self._cfg.defrost()
        self._cfg.DATALOADER.NUM_WORKERS = num_workers
        if not self._cfg.TEST.FEAT_NORM:
            logger.warning("TEST.FEAT_NORM False: a test compares features of any length, here they have length 1")
        skip = self._cfg.DATASETS.ON_BAD_FRAME == "skip"
        self.bad_frames = BadFrames(self._cfg.DATASETS.BAD_FRAME_LIMIT) if skip else None

    @classmethod
    def from_checkpoint(
        cls,
        weight: str | Path,
        device: str | torch.device | None = None,
        config: CfgNode | None = None,
        num_workers: int = 0,
    ) -> "FeatureExtractor":
        """The extractor of a weight file, by default on the GPU where there is one.

        A checkpoint of ours carries its config; for another file pass `config=load_cfg("configs/vit_base.yml")`. Raises
        MissingFileError or InputError naming the file.
        """
        return cls(load_trained(weight, config, device), num_workers)

    @property
    def num_features(self) -> int:
        """F."""
        return self.trained.model.num_features

    @property
    def cameras(self) -> tuple[str, ...]:
        """The names of the cameras that the model tells apart; () when its features do not depend on a camera."""
        return self.trained.trained_cameras

    @property
    def clip_length(self) -> int:
        """Frames per clip (T)."""
        return self._cfg.INPUT.SEQ_LEN

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) in pixels that frames are resized to."""
        return tuple(self._cfg.INPUT.SIZE_TEST)

    def __call__(self, frames: Any, camera: str | None = None) -> NDArray[np.float32]:
        """The feature (F,) of one tracklet; see `many`."""
        return self.many([frames], camera, progress=False)[0]

    def many(
        self, tracklets: Sequence[Any], cameras: str | Sequence[str | None] | None = None, progress: bool = True
    ) -> NDArray[np.float32]:
        """Features (n, F) of tracklets; clips of several tracklets share a pass.

        A tracklet is a list of paths, of PIL images or of uint8 arrays (H, W, 3), or one uint8 array (n, H, W, 3); its
        frames are in temporal order, of any size, in RGB. `cameras` is a name for each tracklet, or one for all; None
        or '' is a camera that is not known, which MODEL.SIE_UNSEEN speaks of, and so
        is a camera of the training's data set that training itself has not seen. Raises InputError naming the
        tracklet and the frame, by their numbers from 0, or the path, and for a camera that the model does not know.
        """
        source = GivenFrames()
        if cameras is None or isinstance(cameras, str):
            cameras = [cameras] * len(tracklets)
        if len(cameras) != len(tracklets):
            raise InputError(f"{len(cameras)} cameras were given for {len(tracklets)} tracklets")
        number = {name: self._camera_number(name) for name in dict.fromkeys(cameras)}
        rows = [
            Tracklet(source.add(tracklet, row), 0, number[camera])
            for row, (tracklet, camera) in enumerate(zip(tracklets, cameras))
        ]
        if not rows:
            return np.empty((0, self.num_features), np.float32)
        return self._features(rows, partial(build_test_loader, source=source, bad_frames=self.bad_frames), progress)

    def _features(self, rows: Sequence[Tracklet], build_loader: Any, progress: bool) -> NDArray[np.float32]:
        """Features (n, F) of tracklets whose frames the loader can read."""
        trained = self.trained
        loader = build_loader(self._cfg, rows, self._cfg.TEST.SAMPLING)
        with _PASS, deferred_interrupts():
            means = means_of_loader(trained.model.embed, loader, len(rows), trained.runtime, "features", not progress)
            trained.runtime.ranks.check_stop()
        features = l2_normalize(means.cpu().numpy())
        if not np.isfinite(features).all():
            raise InputError("the features hold nan or inf: the weights are broken, or TEST.PRECISION fp16 overflows")
        return features

    def check_cameras(self, names: Iterable[str]) -> None:
        """Raise InputError for a camera that the model does not know; a model without cameras takes any name."""
        for name in names:
            self._camera_number(name)

    def _camera_number(self, name: str | None) -> int:
        return self.trained.camera_number(name) if name else self.trained.no_camera
