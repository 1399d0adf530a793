"""The folder of a run: what lies in it, when it is refused, and how its tables are written."""

import csv
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.checkpoint import write_atomically
from utils.errors import InputError

TRAIN_LOG, TEST_LOG, CONFIG, HISTORY = "train_log.txt", "test_log.txt", "config.yml", "history.csv"
LAST, BEST, MEMORY, METRICS = "last.pth", "best.pth", "clip_memory.pt", "metrics.json"
FEATURES, RANKS, SHEET, PAIRS = "features.npz", "ranks.csv", "contact_sheet.png", "camera_pairs.csv"
LABELS, SPLITS_TABLE = "labels.json", "splits.csv"
_RUN_FILES = (LAST, BEST, HISTORY, MEMORY)
_LOSSES = ("id", "triplet", "v2m", "frame_id", "total")
_SCORES = ("mAP", "rank1", "rank5", "rank10", "rank20")
_COLUMNS = ("epoch", "lr", *(f"loss_{name}" for name in _LOSSES), "seconds", *_SCORES)


def holds_memory_alone(output_dir: Path) -> bool:
    """Whether a run was stopped before its first state was saved, so that nothing is lost by starting it anew."""
    return [name for name in _RUN_FILES if (output_dir / name).exists()] == [MEMORY]


def check_output_dir(output_dir: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds a run unless --resume or --overwrite says what to do with it; changes nothing.

    Raises InputError, also when nothing could be written there.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: one continues the run, the other discards it")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"OUTPUT_DIR {output_dir} is a file; name a folder")
    found = [name for name in _RUN_FILES if (output_dir / name).exists()]
    if found and not (resume or overwrite):
        raise InputError(
            f"OUTPUT_DIR {output_dir} holds a run ({', '.join(found)}): continue it with --resume, discard it with "
            "--overwrite, or name another folder"
        )
    check_writable(output_dir)


def check_writable(output_dir: Path) -> None:
    """Try a nameless file in the folder, or in the nearest one above it that is there; raises InputError."""
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
    """Remove the files of an earlier run, and nothing else."""
    for name in (*_RUN_FILES, TRAIN_LOG, TEST_LOG, CONFIG, METRICS, FEATURES, RANKS, SHEET, PAIRS, LABELS):
        (output_dir / name).unlink(missing_ok=True)


def history_row(epoch: int, lr: float, means: dict[str, float]) -> dict[str, Any]:
    """One row of history.csv; `history_scores` are added to it after a test."""
    row = {"epoch": epoch, "lr": lr, "seconds": round(means["seconds"], 2)}
    return row | {f"loss_{name}": means[name] for name in _LOSSES}


def history_scores(scores: dict[str, float]) -> dict[str, float]:
    """The score columns of a row of history.csv."""
    return {name: scores[name] for name in _SCORES}


def write_history(output_dir: Path, history: Sequence[dict[str, Any]]) -> None:
    """Rewrite history.csv, one row per finished epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(output_dir / HISTORY, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))
