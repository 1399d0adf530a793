"""Continuing a run: what may differ from it, and what to tell a user who stopped it."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import plain_name
from utils.errors import InputError

# Keys that may differ between a run and its continuation: they change nothing that has been computed.
_FREE = (
    "TEST.", "DATALOADER.NUM_WORKERS", "DATASETS.CACHE_DIR", "DATASETS.ROOT_DIR", "MODEL.PRETRAIN_PATH",
    "MODEL.SIE_UNSEEN", "OUTPUT_DIR", "SOLVER.EVAL_PERIOD", "SOLVER.LOG_PERIOD", "SOLVER.MAX_EPOCHS",
)  # fmt: skip


def check_recipe(changes: Mapping[str, tuple[Any, Any]], checkpoint: Path) -> None:
    """Raise InputError at the first of `changes`, {key: (value of the run, value now)}, that the recipe forbids."""
    for key, (old, new) in changes.items():
        same_set = key == "DATASETS.NAMES" and plain_name(str(old)) == plain_name(str(new))
        if not (same_set or key.startswith(_FREE)):
            raise InputError(
                f"{checkpoint} was trained with {key} {old}, now it is {new}; a continued run keeps its recipe: "
                "take the key back, or start another OUTPUT_DIR"
            )


def how_to_go_on(last: Path, saved_epoch: int, max_epochs: int, options: Sequence[str]) -> str:
    """One line for a user who pressed Ctrl-C: what `last`, last.pth, holds and the command that continues."""
    command = [sys.executable, sys.argv[0], *options]
    if not last.exists():
        return f"stopped before the first state was saved; start again with: {shlex.join(command)}"
    if saved_epoch >= max_epochs:
        state = "all epochs are finished, the final test will be repeated"
    elif saved_epoch == 0:
        state = "CLIP-Memory is finished, no epoch is"
    else:
        state = f"epoch {saved_epoch} is the last finished one, what came after it is done again"
    return f"stopped; {last} is saved: {state}. Continue with: {shlex.join([*command, '--resume'])}"
