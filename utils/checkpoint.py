"""Files that are either whole or not there: written under a temporary name, then moved."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError, MissingFileError

_NEEDED = ("model", "optimizer", "lr_schedule", "scaler", "clip_memory", "epoch", "best", "rng", "history", "config")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place; nothing is left on failure."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the full state of a run (tensors and plain Python only)."""
    write_atomically(path, lambda temporary: torch.save(dict(state), temporary))


def save_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The full state of a run, on the CPU; raises MissingFileError, or InputError when it is broken or incomplete."""
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist, so there is no run to resume; start it without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"checkpoint {path} cannot be read; it is truncated or not a checkpoint ({reason})") from None
    lacking = [name for name in _NEEDED if not isinstance(state, dict) or name not in state]
    if lacking:
        raise InputError(f"checkpoint {path} cannot be resumed: it lacks {', '.join(lacking)}")
    return state
