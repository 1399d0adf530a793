"""Weights from files into the model, with a report of what happened to each."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from model.encoder import activation, resize_positions, timm_name, timm_weights, weights_file, weights_name
from model.tfclip import TFCLIP
from model.weights import names as weight_names
from model.weights.cameras import CameraFit, Cameras, TrainedCameras
from model.weights.file import WeightFile, read_weight_file
from utils.errors import InputError

logger = logging.getLogger(__name__)

_CAMERAS = "encoder.camera_embed"
_TRAINING_ONLY = ("ssp.", "classifier_")  # no part of retrieval
_TEMPORAL = ("tmd.", "temporal_head.", "neck_t.", "neck_f.")
_ADVICE = "check MODEL.NAME"
_ADVICE_WHOLE = (
    f"{_ADVICE}, MODEL.ENCODER, MODEL.STRIDE_SIZE, INPUT.SIZE_TEST, INPUT.SEQ_LEN (TRANSF_CLS), MODEL.TEMPORAL and "
    "MODEL.TMD"
)


class ArchitectureError(InputError):
    """A weight file of a model with other parts or sizes than this one."""


@dataclass
class LoadReport:
    """What happened to every weight of a file and of the model; fields are read as attributes or as items."""

    kind: str  # 'openai' (the names of OpenAI and open_clip), 'timm', 'published' or 'checkpoint'
    config: str = ""  # of the run that made a checkpoint, as YAML
    loaded: int = 0  # tensors that were copied into the model
    renamed: dict[str, str] = field(default_factory=dict)  # name in the file -> name in the model, of those copied
    dropped: list[str] = field(default_factory=list)  # names in the file that no model of this project uses
    skipped: dict[str, str] = field(default_factory=dict)  # names in the file that do not fit this model -> why
    missing: list[str] = field(default_factory=list)  # names in the model that the file did not fill
    notes: list[str] = field(default_factory=list)  # what else was done, one line each

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def lines(self) -> list[str]:
        """The report for a log: loaded and renamed weights as numbers, all others by name."""
        kind = "CLIP" if self.kind == "openai" else self.kind
        lines = [f"{kind} weights: {self.loaded} tensors loaded, {len(self.renamed)} of them under new names"]
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

    Kinds: CLIP as OpenAI, open_clip or timm keep it (only the encoder is filled), published TF-CLIP, checkpoints of
    this project.

    With `allow_skipped` (evaluation), these are skipped: an SSP of another variant, or any if SSP is off here, and
    classifiers of another number of identities. Cameras of the data (`here`) that the file was not trained on get no
    embedding with `unseen` 'off', and the mean of the trained ones with 'mean'. If the file has no camera table, or
    none of its rows is used, the embedding is turned off. If the file does not name its data set, that is guessed from
    the number of cameras. Without `allow_skipped` (training), anything that does not fit is an error.

    Raises MissingFileError, or InputError naming the file and the weight that does not fit; the model then stays
    unchanged.
    """
    file = read_weight_file(Path(path))
    return fill_model(model, file, str(path), allow_skipped, here, unseen)


def load_pretrained(model: TFCLIP, name: str, path: str) -> LoadReport:
    """Fill the encoder with CLIP's weights: the file at `path`, or timm's download of `name` when it is empty.

    Raises InputError, or ArchitectureError naming MODEL.NAME (`name`) and the file that does not fit it.
    """
    source = path or f"timm's {weights_name(name)}"
    default = "" if path or "." in timm_name(name) else f" (the default tag: MODEL.NAME '{name}' has none)"
    logger.info("weights of the encoder: %s%s", source, default)
    if path and model.encoder.tower == "vit":  # names and shapes are the same with each activation
        logger.info("activation of MODEL.NAME '%s': %s; a weight file does not say its own", name, activation(name))
    file = read_weight_file(Path(path)) if path else WeightFile("timm", _download(name))
    try:
        report = fill_model(model, file, source, allow_skipped=False)
    except ArchitectureError as error:
        raise ArchitectureError(f"MODEL.NAME '{name}': {error}") from None
    for line in report.lines():
        logger.info("%s", line)
    return report


def _download(name: str) -> dict[str, Tensor]:
    weights = timm_weights(name)
    kept_as = f"{weights.architecture}.{weights.tag}"
    try:
        encoder = timm.create_model(kept_as, pretrained=True, num_classes=weights.num_classes)
    except Exception as error:  # the hub client raises many kinds for a missing network
        raise InputError(
            f"timm could not download {kept_as} ({_first_line(error)}); put {weights_file(name)} on disk and set "
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
    """`load_weights` for a file that is already read; `source` names it in errors."""
    report = LoadReport(file.kind, file.config)
    _check_tower(file, source, model)
    named = _rename(file, source, model, report)
    own = model.state_dict()
    try:
        _fit_positions(model, file.kind, named)
    except InputError as error:
        raise ArchitectureError(f"weight file {source} is of another architecture: {error}; {_ADVICE}") from None
    if file.cameras and _CAMERAS in named and named[_CAMERAS].shape[:1] != (len(file.cameras.names),):
        names, shape = file.cameras.names, tuple(named[_CAMERAS].shape)
        raise InputError(f"weight file {source} names {len(names)} cameras, but {_CAMERAS} is {shape}")
    fit = _fit_cameras(named, own, file, here, unseen, report) if allow_skipped else None
    skipped = _misfits(named, own) | _unused_cameras(named, own, fit)
    named = {name: value for name, value in named.items() if name not in skipped}
    theirs = {ours: name for name, ours in report.renamed.items()}
    report.skipped = {theirs.get(name, name): reason for name, reason in skipped.items()}
    report.renamed = {name: ours for name, ours in report.renamed.items() if ours not in skipped}
    if report.skipped and not allow_skipped:
        name, reason = next(iter(report.skipped.items()))
        raise InputError(f"weight file {source} does not fit this training run: {name}: {reason}")
    if _CAMERAS not in named:
        fit = None
    if fit is not None:
        own[_CAMERAS] = named[_CAMERAS]
    absent = [name for name in own if name not in named]
    report.missing = [name for name in absent if name not in skipped]
    whole = file.kind in ("published", "checkpoint")
    needed = (f"encoder.{model.encoder.tower}.", *(_TEMPORAL if whole else ()))
    _check_architecture(named, own, source, needed, _ADVICE_WHOLE if whole else _ADVICE)
    if whole:
        optional = (*_TRAINING_ONLY, _CAMERAS) if allow_skipped else ()
        lacking = [name for name in absent if not name.startswith(optional)]
        if lacking:
            raise InputError(f"weight file {source} lacks {_shorten(lacking)}")
        if _CAMERAS in absent:
            model.encoder.camera_embed = None
    if fit is not None:
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
    named: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, needed: tuple[str, ...], advice: str
) -> None:
    """Raise ArchitectureError for a tensor without a place here, and if weights that begin with `needed` are absent."""
    fault = f"weight file {source} is of another architecture:"
    for name, value in named.items():
        if name not in own or own[name].shape != value.shape:
            here = f"has {tuple(own[name].shape)} here" if name in own else "has no place here"
            raise ArchitectureError(f"{fault} {name} {tuple(value.shape)} {here}; {advice}")
    # Counters of batches may be absent: nothing reads them.
    lacking = [n for n in own if n not in named and n.startswith(needed) and not n.endswith(".num_batches_tracked")]
    if lacking:
        raise ArchitectureError(f"{fault} it lacks {_shorten(lacking)}; {advice}")


def _rename(file: WeightFile, source: str, model: TFCLIP, report: LoadReport) -> dict[str, Tensor]:
    """{our name: tensor}; dropped and renamed weights are entered into the report."""
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
    if kind not in ("openai", "timm") or there is None or there.dim() != here.dim():
        return
    if there.shape[-1] != here.shape[-1]:
        return
    tokens = there.flatten(0, -2)  # (N, D) of a ViT's (1, N, D); a ResNet's is (N, D)
    if len(tokens) - 1 != grid[0] ** 2 or grid[0] != grid[1]:
        named[name] = resize_positions(tokens.float(), grid).view(*there.shape[:-2], -1, there.shape[-1])


def _misfits(named: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """{name: why it is skipped} of an SSP that does not fit or is off here, and of classifiers of other identities."""
    misfits = {}
    ssp_here = {name: value.shape for name, value in own.items() if name.startswith("ssp.")}
    ssp_there = {name: value.shape for name, value in named.items() if name.startswith("ssp.")}
    if ssp_there != ssp_here:
        other = "SSP of another variant or depth (MODEL.SSP.VARIANT, MODEL.SSP.LAYERS)"
        misfits = dict.fromkeys(ssp_there, other if ssp_here else "SSP is off here (MODEL.SSP.ENABLED)")
    for name in named:
        if name.startswith("classifier_") and name in own:
            there, here = named[name].shape, own[name].shape
            if there != here and there[1:] == here[1:]:
                misfits[name] = f"classifier of {there[0]} identities, {here[0]} here"
    return misfits


def _fit_cameras(
    named: Mapping[str, Tensor], own: Mapping[str, Tensor], file: WeightFile, here: Cameras | None, unseen: str,
    report: LoadReport,
) -> CameraFit | None:  # fmt: skip
    """How the cameras here use the file's table; None if it does not fit, or each camera has the row of its number."""
    if _CAMERAS not in named or _CAMERAS not in own or named[_CAMERAS].shape[1:] != own[_CAMERAS].shape[1:]:
        return None
    size, size_here = len(named[_CAMERAS]), len(own[_CAMERAS])
    if here is None:  # only the number of cameras is known
        rows = list(range(size)) if size == size_here else [None] * size_here
        fit = CameraFit(rows, range(size), unseen)
    else:
        table = file.cameras
        if table is None:
            table = TrainedCameras.of_published(size)
            report.notes.append(f"camera table of {size} rows: the file names no data set, taken for {table.dataset}'s")
        fit = CameraFit(table.rows_for(here), table.trained, unseen, here.used)
    return None if fit.exact and size == size_here else fit


def _unused_cameras(named: Mapping[str, Tensor], own: Mapping[str, Tensor], fit: CameraFit | None) -> dict[str, str]:
    """{name: why it is skipped} of a camera table that no camera of the data uses, or that has no place here."""
    if _CAMERAS not in named:
        return {}
    if _CAMERAS not in own:
        return {_CAMERAS: "the model has no camera embedding: the data name no cameras, or MODEL.SIE_CAMERA is off"}
    there, here = named[_CAMERAS].shape, own[_CAMERAS].shape
    if fit is not None and fit.gives_nothing:
        reason = (
            f"table of {there[0]} cameras, {here[0]} others here: camera embedding off; "
            "MODEL.SIE_UNSEEN mean takes the mean of the trained ones"
        )
    elif fit is None and there != here and there[1:] == here[1:]:
        reason = f"table of {there[0]} cameras, {here[0]} here"
    else:
        return {}
    return {_CAMERAS: reason}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _shorten(names: list[str], most: int = 6) -> str:
    """The names if they are few, else how many names begin with each first part."""
    if len(names) <= most:
        return ", ".join(names)
    parts = Counter(name.split(".")[0] for name in names).most_common()
    rest = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(f"{part} ({count})" if count > 1 else part for part, count in parts[:most]) + rest
