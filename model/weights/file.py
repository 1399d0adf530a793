"""Reading weight files: CLIP's, published TF-CLIP's and this project's, recognised by content.

Everything is read with torch's restricted unpickler (weights_only) or as plain tensors; no code of a file runs.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.weights import names as weight_names
from model.weights.cameras import TrainedCameras
from model.weights.torchscript import is_torchscript, read_torchscript_tensors
from utils.checkpoint import Checkpoint
from utils.errors import InputError, MissingFileError, file_fault
from utils.files import CODE_BYTES, MOST_UNPACKED, check_archive

_ZIP = b"PK\x03\x04"
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class WeightFile(NamedTuple):
    """The content of a weight file."""

    kind: str  # 'openai' (the names of OpenAI and open_clip), 'timm', 'published' or 'checkpoint'
    state: dict[str, Tensor]  # name in the file -> tensor
    config: str = ""  # of the run that made a checkpoint, as YAML
    cameras: TrainedCameras | None = None  # what its camera table was trained on, where the file says so


def read_weight_file(path: Path) -> WeightFile:
    """The content of a weight file, its kind recognised by content; raises MissingFileError / InputError."""
    if fault := file_fault(path):
        raise MissingFileError(f"weight file {path} {fault}")
    state = _read(path)
    is_checkpoint = Checkpoint.holds(state)
    config = state["config"] if is_checkpoint and isinstance(state.get("config"), str) else ""
    cameras = state.get("cameras") if is_checkpoint else None
    try:
        cameras = None if cameras is None else TrainedCameras.from_state_dict(cameras)
    except ValueError as error:
        raise InputError(f"weight file {path} holds no cameras as a run writes them ({error})") from None
    for wrapper in ("model", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    named = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    _check_tensors(named, path)
    state = {name.removeprefix("module."): value for name, value in named.items()}
    if is_checkpoint:
        return WeightFile("checkpoint", state, config, cameras)
    kind = weight_names.kind_of(state)
    if kind is not None:
        return WeightFile(kind, state)
    raise InputError(
        f"weight file {path} is none of CLIP (OpenAI, open_clip, timm), published TF-CLIP or a checkpoint of this "
        f"project (first names: {', '.join(list(state)[:4]) or 'none'})"
    )


def _read(path: Path) -> Mapping[Any, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"weight file {path} cannot be opened ({error.strerror})") from None
    try:
        if head.startswith(_ZIP) and is_torchscript(_member_names(path)):
            return read_torchscript_tensors(path)
        content = load_file(path) if head[8:9] == b"{" else torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
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


def _member_names(path: Path) -> list[str]:
    """Names of the members of a sound zip archive; raises InputError for another one."""
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _check_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise InputError for tensors other than plain numbers, and for more values than are stored in the file."""
    stored = {}
    for name, value in state.items():
        if value.layout != torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
            raise InputError(f"weight file {path}: {name} is no plain tensor (sparse, nested, quantized or empty)")
        if not (value.dtype.is_floating_point or value.dtype in _WHOLE):
            raise InputError(f"weight file {path}: {name} holds {value.dtype}, not real numbers")
        storage = value.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        if value.numel() * value.element_size() > storage.nbytes():
            raise InputError(f"weight file {path}: {name} has {value.numel():,} values, but fewer are stored")
    size = path.stat().st_size
    if sum(stored.values()) > MOST_UNPACKED * size + CODE_BYTES:
        raise InputError(f"weight file {path} of {size:,} bytes announces {sum(stored.values()):,} bytes of weights")
