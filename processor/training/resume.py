"""Continuing a run: which keys may have changed, and how to continue after Ctrl-C."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import find_dataset, items_of, plain_name
from processor import run_folder as files
from utils.checkpoint import Checkpoint
from utils.errors import InputError, MissingFileError

# How this process was started, as far as it can tell.
_LAUNCHER = ["torchrun", "..."] if "TORCHELASTIC_RUN_ID" in os.environ else [sys.executable]
# Keys that may differ between a run and its continuation: they change nothing that has been computed. Data folder
# and exclusion list may change, because the training items themselves are compared.
_FREE = (
    "DATALOADER.NUM_WORKERS", "DATASETS.BAD_FRAME_LIMIT", "DATASETS.CACHE_DIR", "DATASETS.EXCLUDE",
    "DATASETS.ON_BAD_FRAME", "DATASETS.OUTSIDE", "DATASETS.PACK", "DATASETS.ROOT_DIR", "MODEL.GRAD_CHECKPOINT",
    "MODEL.PRETRAIN_PATH", "OUTPUT_DIR", "SOLVER.ACCUM_STEPS", "SOLVER.AMP", "SOLVER.COMPILE", "SOLVER.DETERMINISTIC",
    "SOLVER.EVAL_PERIOD", "SOLVER.LOG_PERIOD", "SOLVER.MAX_EPOCHS", "SOLVER.NONFINITE_LIMIT", "SOLVER.ON_NONFINITE",
    "SOLVER.SAVE_EVERY_STEPS", "SOLVER.TENSORBOARD", "TEST.CAMERA_PAIRS", "TEST.CONTACT_SHEET", "TEST.DATASETS",
    "TEST.FRAMES_PER_BATCH", "TEST.REPORT", "TEST.SAMPLING", "TEST.SAVE_", "TEST.UNTRAINED", "TEST.WEIGHT",
)  # fmt: skip
# Keys of the tests that choose best.pth; after the last of these tests only the final one reads them.
_FREE_WHEN_TRAINED = ("TEST.", "MODEL.SIE_UNSEEN")


def check_recipe(
    changes: Mapping[str, tuple[Any, Any]], source: Path, dataset: str, trained: bool = False
) -> None:
    """Raise InputError at the first of `changes`, {key: (value of the run, value now)}, that a continued run forbids.

    `dataset` is the name of the data set; `trained` says that no epoch is left to train or to test.
    """
    for key, (old, new) in changes.items():
        same = key == "DATASETS.NAMES" and plain_name(str(old)) == plain_name(str(new))
        if key == "DATASETS.TRAIN_ITEMS":  # 'auto' and what it stands for are the same
            same = items_of(find_dataset(dataset), str(old)) == items_of(find_dataset(dataset), str(new))
        if not (same or key.startswith(_FREE) or (trained and key.startswith(_FREE_WHEN_TRAINED))):
            raise InputError(
                f"{source} was trained with {key} {old!r}, now it is {new!r}; a continued run keeps its recipe: "
                "undo the change, or start another OUTPUT_DIR"
            )


def check_continuation(
    checkpoint: Checkpoint, changes: Mapping[str, tuple[Any, Any]], dataset: str, max_epochs: int, output_dir: Path
) -> None:
    """Raise InputError unless the run in `output_dir` can go on from `checkpoint`, its last.pth, as it began."""
    last, epoch, history = output_dir / files.LAST, checkpoint.epoch, checkpoint.history
    begun = epoch + (checkpoint.step > 0)
    if begun > max_epochs:
        raise InputError(f"{last} has {begun} epochs already, SOLVER.MAX_EPOCHS {max_epochs} is less")
    trained = epoch >= max_epochs and bool(history) and "mAP" in history[-1]
    check_recipe(changes, last, dataset, trained)
    best = output_dir / files.BEST
    if checkpoint.best and not best.is_file():
        raise MissingFileError(
            f"{best} is missing (epoch {checkpoint.best['epoch']} of the run, the best so far); put it back, or "
            "start anew with --overwrite"
        )


def check_same_data(checkpoint: Checkpoint, fingerprint: str, last: Path) -> None:
    """Raise InputError when the training tracklets are not those of the run."""
    if checkpoint.train_list not in ("", fingerprint):
        raise InputError(
            f"{last} was trained on other tracklets: the lists, or the frames left out (DATASETS.EXCLUDE), have "
            "changed; a continued run keeps its data: undo the change, or start another OUTPUT_DIR"
        )


def how_to_go_on(last: Path, saved: tuple[int, int], max_epochs: int) -> str:
    """One line for a user who stopped the run: what `last`, last.pth, holds and the command that continues.

    `saved` are its finished epochs and the steps of the epoch after them.
    """
    flags = ("--resume", "auto", "--resume=auto", "--overwrite")
    command = [*_LAUNCHER, *(part for part in sys.argv if part not in flags)]
    if not last.exists():
        return f"stopped before the first checkpoint was saved; start again with: {shlex.join(command)}"
    epoch, step = saved
    if epoch >= max_epochs:
        state = "all epochs are finished, the final test will be repeated"
    elif step:
        state = f"training will go on after step {step} of epoch {epoch + 1}"
    elif epoch == 0:
        state = "training will begin with epoch 1"
    else:
        state = f"epoch {epoch} is the last finished one, training will go on after it"
    return f"stopped; {last} is saved: {state}. Continue with: {shlex.join([*command, '--resume'])}"
