"""A trained network with what belongs to it: config, device, number type, pixel statistics and cameras."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from yacs.config import CfgNode

from configs import load_dumped_cfg
from datasets.clips import Normalize
from model import build_model, pixel_statistics
from model.tfclip import TFCLIP
from model.weights import ArchitectureError, Cameras, TrainedCameras, WeightFile, fill_model, read_weight_file
from processor.runtime import Runtime, current_device
from utils.errors import InputError
from utils.files import file_hash

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """What turns frames into features without a data set at hand."""

    cfg: CfgNode  # of the training, or the one that was given
    model: TFCLIP  # in eval mode on the device; its classifiers are not filled
    runtime: Runtime  # of a test: device, number type (TEST.PRECISION), pixel statistics
    cameras: tuple[str, ...]  # names of cameras 0, 1, ...; () when the features do not depend on a camera
    dataset: str  # whose cameras these are; another set's are not known, even by the same name
    weight_sha256: str = ""  # of the file that the weights were read from; '' for a model that is from none
    trained_cameras: tuple[str, ...] = ()  # names of those of `cameras` that training has seen

    @property
    def no_camera(self) -> int:
        """The camera number of a tracklet whose camera is not known: treated as MODEL.SIE_UNSEEN says."""
        return len(self.cameras)

    def camera_number(self, name: str) -> int:
        """The number that `model.embed` takes for a camera; 0 where cameras change nothing.

        A camera of the data set that training has not seen has a number too, and is treated as one that is not known.
        Raises InputError for any other name.
        """
        if not self.cameras:
            return 0
        if name not in self.cameras:
            known = ", ".join(self.trained_cameras) or "none"
            raise InputError(f"camera '{name}' is unknown to the model, which knows {known}; leave it out")
        return self.cameras.index(name)


def load_trained(
    weight: str | Path,
    config: CfgNode | None = None,
    device: str | torch.device | None = None,
    opts: Sequence[str] = (),
) -> TrainedModel:
    """A trained TF-CLIP from a checkpoint of ours or from a published file.

    A checkpoint brings its config, in which `opts` (KEY VALUE ...) take the place of its values; `config` takes the
    place of all, and a published file needs one. `device` is the GPU when there is one. Torch's random numbers go on as
    if nothing had been built. Raises MissingFileError or InputError naming the file.
    """
    file, weight_sha256 = _read(Path(weight))
    if file.kind not in ("published", "checkpoint"):
        raise InputError(f"{weight} holds only CLIP's encoder; features need weights of a trained TF-CLIP")
    if config is None and not file.config:
        raise InputError(f"{weight} does not say how it was trained: name its config with --config_file")
    cfg = load_dumped_cfg(file.config, str(weight), opts) if config is None else config
    table = file.cameras
    if table is None:
        sizes = [len(value) for name, value in file.state.items() if name in ("cv_embed", "encoder.camera_embed")]
        table = TrainedCameras.of_published(sizes[0] if sizes else 0)
    # One camera more than the table has rows stands for cameras that are not known.
    here = Cameras(table.dataset, (*table.names, ""), frozenset(table.trained))
    with torch.random.fork_rng(devices=[]):
        model = build_model(cfg, 1, len(table.names), pretrained=False)
    try:
        report = fill_model(model, file, str(weight), allow_skipped=True, here=here, unseen=cfg.MODEL.SIE_UNSEEN)
    except ArchitectureError as error:
        raise InputError(f"{error}; name the config of its training with --config_file") from None
    for line in report.notes:
        logger.info("%s", line)
    mean, std, _ = pixel_statistics(cfg)
    device = current_device() if device is None else torch.device(device)
    runtime = Runtime(device, None, Normalize(mean, std).to(device))
    names = table.names if model.encoder.camera_embed is not None else ()
    runtime = runtime.with_precision(cfg.TEST.PRECISION, "TEST.PRECISION")
    seen = tuple(names[row] for row in table.trained if names and names[row])
    return TrainedModel(cfg, model.eval().to(device), runtime, names, table.dataset, weight_sha256, seen)


def _read(path: Path) -> tuple[WeightFile, str]:
    """The content of a weight file and its SHA-256, both of one state: a training may replace the file meanwhile."""
    while True:
        before = path.stat() if path.exists() else None
        file, digest = read_weight_file(path), file_hash(path)
        after = path.stat()
        if before and (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
            return file, digest
