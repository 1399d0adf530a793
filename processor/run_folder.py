"""The folder of a run: the names of its files, and when a new run may write there."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.tracklet import ReIDSplits
from loss.criterion import LOSS_TERMS
from utils.errors import InputError
from utils.files import save_csv, save_json
from utils.metrics import SCORES

TRAIN_LOG, TEST_LOG, CONFIG, HISTORY = "train_log.txt", "test_log.txt", "config.yml", "history.csv"
LAST, BEST, MEMORY, METRICS = "last.pth", "best.pth", "clip_memory.pt", "metrics.json"
FEATURES, RANKS, SHEET, PAIRS = "features.npz", "ranks.csv", "contact_sheet.png", "camera_pairs.csv"
LABELS, SPLITS_TABLE, TEXT_FEATURES = "labels.json", "splits.csv", "text_features.pt"
BEFORE_TRAINING = (MEMORY, TEXT_FEATURES)
_RUN_FILES = (LAST, BEST, HISTORY, *BEFORE_TRAINING)
_HISTORY_COLUMNS = ("epoch", "lr", *(f"loss_{name}" for name in LOSS_TERMS), "seconds", *SCORES)


def check_output_dir(output_dir: Path, resume: bool | str, overwrite: bool) -> bool:
    """Whether the run in the folder is to be resumed: `resume`, or with 'auto' whether it holds a checkpoint.

    Raises InputError for a folder that cannot be written, or that holds a run without --resume or --overwrite.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: one continues the run, the other discards it")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"OUTPUT_DIR {output_dir} is a file; name a folder")
    if resume == "auto":
        resume = (output_dir / LAST).exists()
    found = run_files(output_dir)
    if found and not (resume or overwrite):
        raise InputError(
            f"OUTPUT_DIR {output_dir} holds a run ({', '.join(found)}): continue it with --resume, discard it with "
            "--overwrite, or name another folder"
        )
    check_writable(output_dir)
    return bool(resume)


def run_files(output_dir: Path) -> list[str]:
    """The files in the folder that a new run would lose, splits of a series included.

    CLIP-Memory or text features without a checkpoint do not count: their run was stopped before its first one.
    """
    found = [name for name in (*_RUN_FILES, SPLITS_TABLE) if (output_dir / name).exists()]
    found += [f"{path.parent.name}/{path.name}" for path in sorted(output_dir.glob(f"split[0-9]/{LAST}"))]
    return found if set(found) - set(BEFORE_TRAINING) else []


def check_writable(output_dir: Path) -> None:
    """Raise InputError when the folder, or the nearest existing one above it, takes no temporary file."""
    try:
        nearest = next(folder for folder in (output_dir, *output_dir.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            return
    except OSError as error:
        raise InputError(f"OUTPUT_DIR {output_dir} cannot be written ({error.strerror})") from None


def create_output_dir(output_dir: Path) -> None:
    """Make the folder; raises InputError when the system refuses."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUTPUT_DIR {output_dir} cannot be made ({error.strerror})") from None


def discard_run(output_dir: Path) -> None:
    """Remove the files of a run or of a series of splits, and nothing else."""
    for split in sorted(output_dir.glob("split[0-9]")):
        discard_run(split)
    reports = (METRICS, FEATURES, RANKS, SHEET, PAIRS, LABELS, SPLITS_TABLE)
    for name in (*_RUN_FILES, *reports, TRAIN_LOG, TEST_LOG, CONFIG):
        (output_dir / name).unlink(missing_ok=True)


def write_history(output_dir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Rewrite history.csv, one row per finished epoch."""
    save_csv(output_dir / HISTORY, _HISTORY_COLUMNS, history)


def save_labels(out: Path, splits: ReIDSplits, of_training: bool = False) -> bool:
    """Write labels.json (what the numbers mean) where persons and cameras are free text; whether it was written.

    Only training writes the labels of training; a later test in the folder of the run keeps them.
    """
    path = out / LABELS
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["train_labels"] if (out / LAST).exists() else {}
    except (OSError, ValueError, KeyError, TypeError):
        kept = {}
    if not (splits.persons or kept):
        path.unlink(missing_ok=True)
        return False
    names = splits.names()
    save_json(path, names if of_training else names | {"train_labels": kept})
    return True


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of the folder's metrics.json; None unless it holds the scores of a whole test."""
    try:
        content = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        parts = [content, content["last"]] if "last" in content else [content]
        sound = all(isinstance(part[name], float) for part in parts for name in SCORES)
        sound &= all(name in content for name in ("num_query", "num_gallery", "protocol"))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return content if sound else None
