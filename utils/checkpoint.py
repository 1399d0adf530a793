"""The full state of a run as one file: tensors and plain Python only, so that it is read without running code."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import InputError, MissingFileError
from utils.files import write_atomically


@dataclass(frozen=True)
class Checkpoint:
    """Every field of last.pth and best.pth; those with a default are absent in files of earlier versions."""

    model: dict[str, Tensor]  # weights of TFCLIP
    optimizer: dict[str, Any]
    lr_schedule: dict[str, Any]
    scaler: dict[str, Any]  # of fp16; empty in other number types
    clip_memory: Tensor | None  # (C, E) what v_p is compared with; None without memory
    epoch: int  # finished epochs
    best: dict[str, Any]  # epoch and score of the best test so far; empty before the first
    history: list[dict[str, Any]]  # rows of history.csv
    untrained: dict[str, Any] | None  # scores before the first epoch, where asked for
    rng: dict[str, Any]  # random states
    config: str  # of the run, as YAML
    precision: str  # number type of the forward pass
    cameras: dict[str, Any] | None = None  # the data set's cameras and which of them training sees
    train_list: str = ""  # hash of the training tracklets
    step: int = 0  # finished steps of the unfinished epoch
    meters: dict[str, Any] | None = None  # sums of the losses over these steps
    rank_rng: list[dict[str, Any]] | None = None  # random states of the ranks after the first

    @classmethod
    def holds(cls, content: Mapping[str, Any]) -> bool:
        """Whether the content of a weight file is a checkpoint, complete or not."""
        return isinstance(content.get("model"), Mapping) and "epoch" in content

    def save(self, path: Path) -> None:
        """Write the file; raises InputError when the system refuses."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}

        def write(temporary: Path) -> None:
            # A file object, so that a full disk is the system's own error.
            with temporary.open("wb") as file:
                torch.save(content, file)

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read the file on the CPU; raises MissingFileError, or InputError when it is broken or incomplete."""
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist, so there is no run to resume; start it without --resume")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # torch.load raises many kinds for a broken file, with advice that does not help here
            raise InputError(f"checkpoint {path} cannot be read; it is truncated or not a checkpoint") from None
        content = content if isinstance(content, dict) else {}
        lacking = [field.name for field in fields(cls) if field.default is MISSING and field.name not in content]
        if lacking:
            raise InputError(f"checkpoint {path} cannot be resumed: it lacks {', '.join(lacking)}")
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})
