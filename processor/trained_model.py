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
from model.weights import ArchitectureError, Cameras, TrainedCameras, fill_model, read_weight_file
from processor.runtime import Runtime, current_device
from utils.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """What turns frames into features without a data set at hand."""

    cfg: CfgNode  # of the training, or the one that was given
    model: TFCLIP  # in eval mode on the device; its classifiers are not filled
    runtime: Runtime  # of a test: device, number type (TEST.PRECISION), pixel statistics
    cameras: tuple[str, ...]  # names of cameras 0, 1, ...; () when the features do not depend on a camera
    dataset: str  # whose cameras these are; another set's are not known, even by the same name

    @property
    def no_camera(self) -> int:
        """The camera number of a tracklet whose camera is not known: treated as MODEL.SIE_UNSEEN says."""
        return len(self.cameras)

    def camera_number(self, name: str) -> int:
        """The number that `model.embed` takes for a camera; 0 where cameras change nothing.

        Raises InputError for a name that training has not seen.
        """
        if not self.cameras:
            return 0
        if name not in self.cameras:
            known = ", ".join(camera for camera in self.cameras if camera)
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
    file = read_weight_file(Path(weight))
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
    return TrainedModel(cfg, model.eval().to(device), runtime, names, table.dataset)
