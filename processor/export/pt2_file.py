"""The .pt2 file: torch.export's own format, which torch alone reads."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from processor.export.check import Run, TrackletBatch

FACTS = "tf_clip.json"  # name of the metadata within the file


def save(path: Path, program: ExportedProgram, facts: Mapping[str, str]) -> None:
    """Write the program with its metadata."""
    with path.open("wb") as file:  # torch refuses a name without .pt2, which a temporary file has not
        torch.export.save(program, file, extra_files={FACTS: json.dumps(dict(facts), indent=2)})


def load(path: Path) -> Run:
    """What the file computes on the CPU."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    @torch.no_grad()
    def run(batch: TrackletBatch) -> NDArray[np.float32]:
        return module(*(torch.from_numpy(values) for values in batch if values is not None)).numpy()

    return run
