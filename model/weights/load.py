"""Weights from files into the model, with a report of what became of each."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from model.encoder import openai_file, resize_positions, timm_name
from model.tfclip import TFCLIP
from model.weights import names as weight_names
from model.weights.cameras import CameraFit, Cameras, TrainedCameras
from model.weights.file import WeightFile, read_weight_file
from utils.errors import InputError

logger = logging.getLogger(__name__)

_CAMERAS = "encoder.camera_embed"
_TRAINING_ONLY = ("ssp.", "classifier_")  # no part of retrieval
_TEMPORAL = ("tmd.", "temporal_head.", "neck_t.", "neck_f.")
_ADVICE = "check MODEL.NAME, MODEL.ENCODER, MODEL.STRIDE_SIZE, INPUT.SIZE_TEST, MODEL.TEMPORAL and MODEL.TMD"


class ArchitectureError(InputError):
    """A weight file whose tensors have no place in this model."""


@dataclass
class LoadReport:
    """What became of every weight of a file and of the model; fields are read as attributes or as items."""

    kind: str  # 'openai', 'timm', 'published' or 'checkpoint'
    config: str = ""  # of the run that made a checkpoint, as YAML
    loaded: int = 0  # tensors that were copied into the model
    renamed: dict[str, str] = field(default_factory=dict)  # name in the file -> name in the model, of those copied
    dropped: list[str] = field(default_factory=list)  # names in the file that no model uses
    skipped: dict[str, str] = field(default_factory=dict)  # names in the file that do not fit this model -> why
    missing: list[str] = field(default_factory=list)  # names in the model that the file did not fill
    notes: list[str] = field(default_factory=list)  # what else was done, one line each

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def lines(self) -> list[str]:
        """The report for a log, one line per fate; weights renamed one to one are only counted."""
        lines = [f"{self.kind} weights: {self.loaded} tensors loaded, {len(self.renamed)} of them under new names"]
        if self.dropped:
            lines.append(f"dropped (used by no model): {_shorten(self.dropped)}")
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            by_reason.setdefault(reason, []).append(name)
        lines += [f"skipped ({reason}): {_shorten(names)}" for reason, names in by_reason.items()]
        if self.missing:
            lines.append(f"not in the file: {_shorten(self.missing)}")
        return lines + self.notes


def load_weights(
    model: TFCLIP,
    path: str | Path,
    allow_skipped: bool = True,
    here: Cameras | None = None,
    unseen: str = "off",
) -> LoadReport:
    """Fill `model` from a weight file of any kind and report what happened to each name.

    Kinds: CLIP as OpenAI or timm keep it (both fill the encoder alone), published TF-CLIP, checkpoints of this project.
    With `allow_skipped` (evaluation) an SSP of another variant or that is off here and classifiers of another number of
    identities are skipped, and cameras of the data (`here`) that the file was not trained on get no embedding with
    `unseen` 'off', the mean of the trained ones with 'mean'; a table that is missing or serves no camera turns the
    embedding off. Where a file does not name its data set, the number of cameras tells. Without `allow_skipped`
    (training) what does not fit is refused. Raises MissingFileError, or InputError naming the file and the weight that
    does not fit; the model is left untouched then.
    """
    file = read_weight_file(Path(path))
    return fill_model(model, file, str(path), allow_skipped, here, unseen)


def load_pretrained(model: TFCLIP, name: str, path: str) -> LoadReport:
    """Fill the encoder with CLIP's weights: the file at `path`, or timm's download of `name` when it is empty."""
    if path:
        report = load_weights(model, path, allow_skipped=False)
    else:
        file = WeightFile("timm", _download(name))
        report = fill_model(model, file, f"timm's {timm_name(name)}", allow_skipped=False)
    for line in report.lines():
        logger.info("%s", line)
    return report


def _download(name: str) -> dict[str, Tensor]:
    full_name = timm_name(name)
    try:
        num_classes = timm.get_pretrained_cfg(full_name).num_classes
        encoder = timm.create_model(full_name, pretrained=True, num_classes=num_classes)
    except Exception as error:  # the hub client raises many kinds for a missing network
        raise InputError(
            f"timm could not download {full_name} ({_first_line(error)}); put {openai_file(name)} on disk and set "
            "MODEL.PRETRAIN_PATH to it"
        ) from None
    return encoder.state_dict()


def fill_model(
    model: TFCLIP,
    file: WeightFile,
    source: str,
    allow_skipped: bool,
    here: Cameras | None = None,
    unseen: str = "off",
) -> LoadReport:
    """`load_weights` for a file that has been read already; `source` names it in errors."""
    report = LoadReport(file.kind, file.config)
    _check_tower(file, source, model)
    named = _rename(file, source, model, report)
    own = model.state_dict()
    _fit_positions(model, file.kind, named)
    fit = _fit_cameras(named, own, file, here, unseen, report) if allow_skipped else None
    skipped = _take_out_training_only(named, own) | _take_out_cameras(named, own, fit)
    theirs = {ours: name for name, ours in report.renamed.items()}
    report.skipped = {theirs.get(name, name): reason for name, reason in skipped.items()}
    report.renamed = {name: ours for name, ours in report.renamed.items() if ours not in skipped}
    if report.skipped and not allow_skipped:
        name, reason = next(iter(report.skipped.items()))
        raise InputError(f"weight file {source} does not fit this training run: {name}: {reason}")
    if fit is not None and _CAMERAS in named:
        own[_CAMERAS] = named[_CAMERAS]
    absent = [name for name in own if name not in named]
    report.missing = [name for name in absent if name not in skipped]
    whole = file.kind in ("published", "checkpoint")
    _check_architecture(named, own, source, (f"encoder.{model.encoder.tower}.", *(_TEMPORAL if whole else ())))
    if whole:
        lost = [n for n in absent if not n.startswith(_TRAINING_ONLY) and n != _CAMERAS]
        if not allow_skipped:
            lost = absent
        if lost:
            raise InputError(f"weight file {source} lacks {_shorten(lost)}")
        if _CAMERAS in absent:
            model.encoder.camera_embed = None
    if fit is not None and _CAMERAS in named:
        fit.apply(model.encoder, named[_CAMERAS])
        report.notes += [fit.describe()] if fit.num_unseen else []
    model.load_state_dict(named, strict=False)
    report.loaded = len(named)
    return report


def _check_tower(file: WeightFile, source: str, model: TFCLIP) -> None:
    """Raise ArchitectureError for a ViT's weights in a ResNet, and the reverse."""
    there, here = weight_names.tower_of(file.state), model.encoder.tower
    if there not in (None, here):
        raise ArchitectureError(
            f"weight file {source} is of another architecture: it holds {weight_names.TOWERS[there]}, MODEL.NAME is "
            f"{weight_names.TOWERS[here]} here"
        )


def _check_architecture(
    named: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, needed: tuple[str, ...]
) -> None:
    """Raise ArchitectureError for a tensor without a place here, and for a `needed` part that the file lacks."""
    for name, value in named.items():
        if name not in own or own[name].shape != value.shape:
            here = f"has {tuple(own[name].shape)} here" if name in own else "has no place here"
            raise ArchitectureError(
                f"weight file {source} is of another architecture: {name} {tuple(value.shape)} {here}; {_ADVICE}"
            )
    # A counter of batches is read by nothing.
    lacking = [n for n in own if n not in named and n.startswith(needed) and not n.endswith(".num_batches_tracked")]
    if lacking:
        raise ArchitectureError(
            f"weight file {source} is of another architecture: it lacks {_shorten(lacking)}; {_ADVICE}"
        )


def _rename(file: WeightFile, source: str, model: TFCLIP, report: LoadReport) -> dict[str, Tensor]:
    """{our name: tensor}; what no model uses and what has a new name goes into the report."""
    kind, state, tower = file.kind, file.state, model.encoder.tower
    if kind == "checkpoint":
        return dict(state)
    if kind == "published":
        targets = weight_names.published_names(state)
    elif kind == "timm":
        targets = weight_names.timm_names(state, tower)
    elif tower == "cnn":
        targets = weight_names.clip_resnet_names(state, model.encoder.cnn)
    else:
        targets = weight_names.clip_names(state)
    named = {}
    for theirs, ours in targets.items():
        if ours is None:
            raise ArchitectureError(
                f"weight file {source} is of another architecture: {theirs} has no place in "
                f"{weight_names.TOWERS[tower]}; check MODEL.NAME"
            )
        if ours == weight_names.DROP:
            report.dropped.append(theirs)
        else:
            report.renamed[theirs] = ours
            named[ours] = weight_names.to_our_shape(ours, state[theirs], from_timm=kind == "timm")
    return named


def _fit_positions(model: TFCLIP, kind: str, named: dict[str, Tensor]) -> None:
    """CLIP's square grid is resized to this image size; trained grids of TF-CLIP are taken as they are."""
    encoder = model.encoder
    name, grid = f"encoder.{encoder.positions}", encoder.grid
    here, there = encoder.get_parameter(encoder.positions), named.get(name)
    if kind not in ("openai", "timm") or there is None or there.shape[-1] != here.shape[-1]:
        return
    tokens = there.flatten(0, -2)  # (N, D) of a ViT's (1, N, D); a ResNet's is (N, D)
    if len(tokens) - 1 != grid[0] ** 2 or grid[0] != grid[1]:
        named[name] = resize_positions(tokens.float(), grid).view(*there.shape[:-2], -1, there.shape[-1])


def _take_out_training_only(named: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Remove SSP that does not fit or is off here and classifiers of another number of identities: {name: why}."""
    taken = {}
    ssp_here = {name: value.shape for name, value in own.items() if name.startswith("ssp.")}
    ssp_there = {name: value.shape for name, value in named.items() if name.startswith("ssp.")}
    if ssp_there != ssp_here:
        other = "SSP of another variant or depth (MODEL.SSP.VARIANT, MODEL.SSP.LAYERS)"
        taken = dict.fromkeys(ssp_there, other if ssp_here else "SSP is off here (MODEL.SSP.ENABLED)")
    for name in named:
        if name.startswith("classifier_") and name in own:
            there, here = named[name].shape, own[name].shape
            if there != here and there[1:] == here[1:]:
                taken[name] = f"classifier of {there[0]} identities, {here[0]} here"
    for name in taken:
        del named[name]
    return taken


def _fit_cameras(
    named: Mapping[str, Tensor], own: Mapping[str, Tensor], file: WeightFile, here: Cameras | None, unseen: str,
    report: LoadReport,
) -> CameraFit | None:  # fmt: skip
    """What to make of the file's camera table; None: nothing special, each camera has the row of its number."""
    if _CAMERAS not in named or _CAMERAS not in own or named[_CAMERAS].shape[1:] != own[_CAMERAS].shape[1:]:
        return None
    size, size_here = len(named[_CAMERAS]), len(own[_CAMERAS])
    if here is None:  # nothing is known of the cameras but how many they are
        rows = range(size) if size == size_here else [None] * size_here
        fit = CameraFit(list(rows), range(size), unseen)
        return None if fit.exact and size == size_here else fit
    table = file.cameras
    if table is None:
        table = TrainedCameras.of_published(size)
        report.notes.append(f"camera table of {size} rows: the file names no data set, taken for {table.dataset}'s")
    fit = CameraFit(table.rows_for(here), table.trained, unseen, here.used)
    return None if fit.exact and named[_CAMERAS].shape == own[_CAMERAS].shape else fit


def _take_out_cameras(named: dict[str, Tensor], own: Mapping[str, Tensor], fit: CameraFit | None) -> dict[str, str]:
    """Remove a camera table that serves no camera of the data, or one that this model has no use for: {name: why}."""
    if _CAMERAS not in named:
        return {}
    there, here = named[_CAMERAS].shape, own[_CAMERAS].shape if _CAMERAS in own else None
    if here is None:
        reason = "the model has no camera embedding: the data name no cameras, or MODEL.SIE_CAMERA is off"
    elif fit is not None and fit.gives_nothing:
        reason = (
            f"table of {there[0]} cameras, {here[0]} others here: camera embedding off; "
            "MODEL.SIE_UNSEEN mean takes the mean of the trained ones"
        )
    elif fit is None and there != here and there[1:] == here[1:]:
        reason = f"table of {there[0]} cameras, {here[0]} here"
    else:
        return {}
    del named[_CAMERAS]
    return {_CAMERAS: reason}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _shorten(names: list[str], most: int = 6) -> str:
    """The names, or how many of them stand under each first part when they are many."""
    if len(names) <= most:
        return ", ".join(names)
    parts = Counter(name.split(".")[0] for name in names).most_common()
    rest = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(f"{part} ({count})" if count > 1 else part for part, count in parts[:most]) + rest
