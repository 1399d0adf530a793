"""Weights from files: CLIP's, published TF-CLIP's and this project's, recognised by content.

Everything is read with torch's restricted unpickler (weights_only) or as bare tensors; no code of a file runs.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from model import weight_names
from model.encoder import TIMM_NAMES, resize_positions
from model.tfclip import TFCLIP
from model.torchscript_archive import is_torchscript, read_torchscript_tensors
from utils.errors import InputError, MissingFileError

logger = logging.getLogger(__name__)

_POSITIONS = "encoder.vit.pos_embed"
_CAMERAS = "encoder.camera_embed"
_TRAINING_ONLY = ("ssp.", "classifier_")  # no part of retrieval


class ArchitectureError(InputError):
    """A weight file whose tensors have no place in this model."""


@dataclass
class LoadReport:
    """What became of every weight of a file and of the model; fields are read as attributes or as items."""

    kind: str  # 'openai', 'timm', 'published' or 'checkpoint'
    loaded: int = 0  # tensors that were copied into the model
    renamed: dict[str, str] = field(default_factory=dict)  # name in the file -> name in the model, of those copied
    dropped: list[str] = field(default_factory=list)  # names in the file that no model uses
    skipped: dict[str, str] = field(default_factory=dict)  # names in the file that do not fit this model -> why
    missing: list[str] = field(default_factory=list)  # names in the model that the file did not fill

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
        return lines


def load_weights(model: TFCLIP, path: str | Path, allow_skipped: bool = True) -> LoadReport:
    """Fill `model` from a weight file of any kind and report what happened to each name.

    Kinds: OpenAI's CLIP, timm's CLIP ViT (both fill the encoder alone), published TF-CLIP, checkpoints of this project.
    With `allow_skipped` (evaluation) an SSP of another variant, classifiers of another number of identities and a
    camera table of another number of cameras are skipped; a table that is skipped or missing turns the camera embedding
    off. Without it (training) they are refused. Raises MissingFileError, or InputError naming the file and the weight
    that does not fit; the model is left untouched then.
    """
    kind, state = read_weight_file(Path(path))
    return fill_model(model, kind, state, str(path), allow_skipped)


def load_pretrained(model: TFCLIP, name: str, path: str) -> LoadReport:
    """Fill the encoder with CLIP's weights: the file at `path`, or timm's download of `name` when it is empty."""
    if path:
        report = load_weights(model, path, allow_skipped=False)
    else:
        report = fill_model(model, "timm", _download(name), f"timm's {TIMM_NAMES.get(name, name)}", False)
    for line in report.lines():
        logger.info("%s", line)
    return report


def read_weight_file(path: Path) -> tuple[str, dict[str, Tensor]]:
    """(kind, {name in the file: tensor}) of a weight file, recognised by content."""
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise MissingFileError(f"weight file {path} {state}")
    state = read_torchscript_tensors(path) if is_torchscript(path) else _read_plain(path)
    is_checkpoint = isinstance(state.get("model"), Mapping) and "epoch" in state
    for wrapper in ("model", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    state = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    if is_checkpoint:
        return "checkpoint", state
    for kind, recognise in (
        ("published", weight_names.is_published),
        ("openai", weight_names.is_clip),
        ("timm", weight_names.is_timm_vit),
    ):
        if recognise(state):
            return kind, state
    if any(name.startswith("encoder.vit.") for name in state):
        return "checkpoint", state
    raise InputError(
        f"weight file {path} is none of CLIP (OpenAI, timm), published TF-CLIP or a checkpoint of this project "
        f"(first names: {', '.join(list(state)[:4]) or 'none'})"
    )


def _read_plain(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"weight file {path} cannot be opened ({error.strerror})") from None
    try:
        if head[8:9] == b"{":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a broken file, with advice that does not help here
        if "Unsupported global" in str(error):
            raise InputError(
                f"weight file {path} cannot be read: it holds Python objects besides tensors, which could run code; "
                "save its state_dict alone"
            ) from None
        size = path.stat().st_size
        raise InputError(
            f"weight file {path} cannot be read; it is truncated or not a weight file ({size:,} bytes, first {head!r})"
        ) from None
    if not isinstance(content, Mapping):
        raise InputError(f"weight file {path} holds a {type(content).__name__}, not named weights")
    return content


def _download(name: str) -> dict[str, Tensor]:
    timm_name = TIMM_NAMES.get(name, name)
    try:
        vit = timm.create_model(timm_name, pretrained=True, num_classes=timm.get_pretrained_cfg(timm_name).num_classes)
    except Exception as error:  # the hub client raises many kinds for a missing network
        raise InputError(
            f"timm could not download {timm_name} ({_first_line(error)}); put OpenAI's ViT-B-16.pt on disk and set "
            "MODEL.PRETRAIN_PATH to it"
        ) from None
    return vit.state_dict()


def fill_model(
    model: TFCLIP, kind: str, state: Mapping[str, Tensor], source: str, allow_skipped: bool
) -> LoadReport:
    """`load_weights` for names and tensors that have been read already; `source` names the file in errors."""
    report = LoadReport(kind)
    named = _rename(kind, state, source, report)
    own = model.state_dict()
    _fit_positions(model, kind, named)
    skipped = _take_out_training_only(named, own) | _take_out_cameras(named, own)
    theirs = {ours: name for name, ours in report.renamed.items()}
    report.skipped = {theirs.get(name, name): reason for name, reason in skipped.items()}
    report.renamed = {name: ours for name, ours in report.renamed.items() if ours not in skipped}
    if report.skipped and not allow_skipped:
        name, reason = next(iter(report.skipped.items()))
        raise InputError(f"weight file {source} does not fit this training run: {name}: {reason}")
    for name, value in named.items():
        if name not in own or own[name].shape != value.shape:
            here = f"has {tuple(own[name].shape)} here" if name in own else "has no place here"
            raise ArchitectureError(
                f"weight file {source} is of another architecture: {name} {tuple(value.shape)} {here}; "
                "check MODEL.NAME, MODEL.ENCODER, MODEL.STRIDE_SIZE and INPUT.SIZE_TEST"
            )
    report.missing = [name for name in own if name not in named]
    lacking = [name for name in report.missing if name.startswith("encoder.vit.")]
    if lacking:
        raise ArchitectureError(f"weight file {source} is of another architecture: it lacks {_shorten(lacking)}")
    if kind in ("published", "checkpoint"):
        lost = [n for n in report.missing if not n.startswith(_TRAINING_ONLY) and n != _CAMERAS]
        if not allow_skipped:
            lost = report.missing
        if lost:
            raise InputError(f"weight file {source} lacks {_shorten(lost)}")
        if _CAMERAS in report.missing:
            model.encoder.camera_embed = None
    model.load_state_dict(named, strict=False)
    report.loaded = len(named)
    return report


def _rename(kind: str, state: Mapping[str, Tensor], source: str, report: LoadReport) -> dict[str, Tensor]:
    if kind == "checkpoint":
        return dict(state)
    translate = {
        "published": weight_names.published_names,
        "openai": weight_names.clip_names,
        "timm": weight_names.timm_names,
    }[kind]
    named = {}
    for theirs, ours in translate(state).items():
        if ours is None:
            raise ArchitectureError(
                f"weight file {source} is of another architecture: {theirs} has no place in TF-CLIP's ViT"
            )
        if ours == weight_names.DROP:
            report.dropped.append(theirs)
        else:
            report.renamed[theirs] = ours
            named[ours] = weight_names.to_our_shape(ours, state[theirs], from_timm=kind == "timm")
    return named


def _fit_positions(model: TFCLIP, kind: str, named: dict[str, Tensor]) -> None:
    """CLIP's square grid is resized to this image size; trained grids of TF-CLIP are taken as they are."""
    positions = named.get(_POSITIONS)
    vit, grid = model.encoder.vit, model.encoder.vit.patch_embed.grid_size
    if kind not in ("openai", "timm") or positions is None or positions.shape[-1] != vit.embed_dim:
        return
    if (len(positions[0]) - 1) != grid[0] ** 2 or grid[0] != grid[1]:
        named[_POSITIONS] = resize_positions(positions[0].float(), grid)[None]


def _take_out_training_only(named: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Remove SSP of another variant or depth and classifiers of another number of identities: {name: why}."""
    taken = {}
    ssp_here = {name: value.shape for name, value in own.items() if name.startswith("ssp.")}
    ssp_there = {name: value.shape for name, value in named.items() if name.startswith("ssp.")}
    if ssp_there != ssp_here:
        taken = dict.fromkeys(ssp_there, "SSP of another variant or depth (MODEL.SSP.VARIANT, MODEL.SSP.LAYERS)")
    for name in named:
        if name.startswith("classifier_") and name in own:
            there, here = named[name].shape, own[name].shape
            if there != here and there[1:] == here[1:]:
                taken[name] = f"classifier of {there[0]} identities, {here[0]} here"
    for name in taken:
        del named[name]
    return taken


def _take_out_cameras(named: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Remove a camera table of another number of cameras, or one that this model has no use for: {name: why}."""
    if _CAMERAS not in named:
        return {}
    there = named[_CAMERAS].shape
    if _CAMERAS not in own:
        reason = "the camera embedding is off here (MODEL.SIE_CAMERA)"
    elif there != own[_CAMERAS].shape and there[1:] == own[_CAMERAS].shape[1:]:
        reason = f"table of {there[0]} cameras, {len(own[_CAMERAS])} here: camera embedding off"
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
