"""Steps whose loss is not finite: which tracklets they saw, and how many may be left out."""

import logging
from collections.abc import Sequence
from pathlib import Path

from datasets.clips import Draw
from datasets.tracklet import ReIDSplits
from utils.errors import NonFiniteLossError
from utils.files import save_csv

logger = logging.getLogger(__name__)

_COLUMNS = ("epoch", "step", "item", "person", "camera", "seed", "first_frame", "last_frame")


def save_batch(path: Path, epoch: int, step: int, batch: Sequence[Draw], splits: ReIDSplits) -> None:
    """Write the clips of a batch: training item (from 0), person, camera, seed of the draw, first and last frame."""
    rows = []
    for item, seed in batch:
        tracklet = splits.train[item]
        person = splits.train_persons[tracklet.pid] if splits.train_persons else tracklet.pid
        ends = tracklet.frames[0], tracklet.frames[-1]
        rows.append((epoch, step, item, person, splits.camera(tracklet.camid), seed, *ends))
    save_csv(path, _COLUMNS, rows, errors="backslashreplace")


def note_skipped(skipped: int, limit: int, epoch: int, step: int, terms: str, written: Path) -> None:
    """Warn of a step that was left out, the run's `skipped`-th; raises NonFiniteLossError above the limit."""
    what = f"epoch {epoch}, step {step} has no finite loss or gradient ({terms}); its tracklets: {written}"
    if skipped > limit:
        raise NonFiniteLossError(
            f"{what}; more than SOLVER.NONFINITE_LIMIT {limit} steps were left out: lower SOLVER.BASE_LR in a new run, "
            "or go on with SOLVER.AMP off"
        )
    logger.warning("%s; left out (SOLVER.ON_NONFINITE skip, %d of at most %d)", what, skipped, limit)
