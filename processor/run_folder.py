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
LABELS, SPLITS_TABLE, TEXT_FEATURES = "labels.json", "splits.csv", "text_features.pt"
_BEFORE_TRAINING = (MEMORY, TEXT_FEATURES)
_RUN_FILES = (LAST, BEST, HISTORY, *_BEFORE_TRAINING)
_LOSSES = ("id", "triplet", "v2m", "frame_id", "total")
_SCORES = ("mAP", "rank1", "rank5", "rank10", "rank20")
_COLUMNS = ("epoch", "lr", *(f"loss_{name}" for name in _LOSSES), "seconds", *_SCORES)


def check_output_dir(output_dir: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds a run unless --resume or --overwrite says what to do with it; changes nothing.

    Raises InputError, also when nothing could be written there.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: one continues the run, the other discards it")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"OUTPUT_DIR {output_dir} is a file; name a folder")
    found = run_files(output_dir)
    if found and not (resume or overwrite):
        raise InputError(
            f"OUTPUT_DIR {output_dir} holds a run ({', '.join(found)}): continue it with --resume, discard it with "
            "--overwrite, or name another folder"
        )
    check_writable(output_dir)


def run_files(output_dir: Path) -> list[str]:
    """The files in the folder that a new run would lose, splits of a series included.

    CLIP-Memory or text features alone are none: their run was stopped before the first state was saved.
    """
    found = [name for name in (*_RUN_FILES, SPLITS_TABLE) if (output_dir / name).exists()]
    found += [f"{path.parent.name}/{path.name}" for path in sorted(output_dir.glob(f"split[0-9]/{LAST}"))]
    return found if set(found) - set(_BEFORE_TRAINING) else []


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
    """Remove the files of an earlier run, or of the series of which the folder holds the splits, and nothing else."""
    for split in sorted(output_dir.glob("split[0-9]")):
        discard_run(split)
    reports = (METRICS, FEATURES, RANKS, SHEET, PAIRS, LABELS, SPLITS_TABLE)
    for name in (*_RUN_FILES, *reports, TRAIN_LOG, TEST_LOG, CONFIG):
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
