"""Files that are either whole or not there: written under a temporary name, then moved."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError, MissingFileError

_NEEDED = (
    "model", "optimizer", "lr_schedule", "scaler", "clip_memory", "epoch", "best", "rng", "untrained", "precision",
    "history", "config",
)  # fmt: skip


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place; nothing is left on failure.

    Raises InputError naming the file when the system refuses (no permission, disk full).
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the full state of a run (tensors and plain Python only)."""

    def write(temporary: Path) -> None:
        # A file object, so that a full disk is the system's own error.
        with temporary.open("wb") as file:
            torch.save(dict(state), file)

    write_atomically(path, write)


def save_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The full state of a run, on the CPU; raises MissingFileError, or InputError when it is broken or incomplete."""
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist, so there is no run to resume; start it without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load raises many kinds for a broken file, with advice that does not help here
        raise InputError(f"checkpoint {path} cannot be read; it is truncated or not a checkpoint") from None
    lacking = [name for name in _NEEDED if not isinstance(state, dict) or name not in state]
    if lacking:
        raise InputError(f"checkpoint {path} cannot be resumed: it lacks {', '.join(lacking)}")
    return state
