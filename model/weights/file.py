"""Reading weight files: CLIP's, published TF-CLIP's and this project's, recognised by content.

Everything is read with torch's restricted unpickler (weights_only) or as plain tensors; no code of a file runs.
"""

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
from utils.errors import InputError, MissingFileError


class WeightFile(NamedTuple):
    """The content of a weight file."""

    kind: str  # 'openai' (the names of OpenAI and open_clip), 'timm', 'published' or 'checkpoint'
    state: dict[str, Tensor]  # name in the file -> tensor
    config: str = ""  # of the run that made a checkpoint, as YAML
    cameras: TrainedCameras | None = None  # what its camera table was trained on, where the file says so


def read_weight_file(path: Path) -> WeightFile:
    """The content of a weight file, its kind recognised by content; raises MissingFileError / InputError."""
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise MissingFileError(f"weight file {path} {state}")
    state = read_torchscript_tensors(path) if is_torchscript(path) else _read_plain(path)
    is_checkpoint = Checkpoint.holds(state)
    config = state["config"] if is_checkpoint and isinstance(state.get("config"), str) else ""
    cameras = TrainedCameras.from_state_dict(state["cameras"]) if is_checkpoint and state.get("cameras") else None
    for wrapper in ("model", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    state = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    if is_checkpoint:
        return WeightFile("checkpoint", state, config, cameras)
    kind = weight_names.kind_of(state)
    if kind is not None:
        return WeightFile(kind, state)
    raise InputError(
        f"weight file {path} is none of CLIP (OpenAI, open_clip, timm), published TF-CLIP or a checkpoint of this "
        f"project (first names: {', '.join(list(state)[:4]) or 'none'})"
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
