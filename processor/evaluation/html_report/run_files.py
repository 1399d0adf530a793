"""The files of a tested run that its page shows, read back with one line for each fault.

n tracklets, F features.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor import run_folder as files
from processor.evaluation.reports import NEAREST
from processor.protocol import EvalProtocol
from utils.errors import InputError
from utils.metrics import SCORES

_TEST_AGAIN = "test again with eval-main.py, or remove it"
_MEND = "mend the file or remove it"
_CHOICES = {"sampling": ("dense", "first"), "neck_feat": ("before", "after"), "ap": ("step", "trapezoid")}
_PAIR_COLUMNS = ("query_camera", "gallery_camera", "num_query", "mAP", "rank1")


@dataclass(frozen=True)
class SavedFeatures:
    """The content of features.npz, queries first."""

    features: NDArray[np.float32]  # (n, F) before the L2 norm
    pids: NDArray[np.int64]  # (n,)
    camids: NDArray[np.int64]  # (n,)
    num_query: int


def read_scores(folder: Path) -> dict[str, Any] | None:
    """metrics.json of one test; None where there is none. Raises InputError for a broken one, or one of a series."""
    path = folder / files.METRICS
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {_TEST_AGAIN}") from None
    several = {"splits": "split[0-9]", "datasets": "[0-9]*-*"}
    for key, pattern in several.items():
        if isinstance(content, dict) and key in content:
            tested = sorted(found.parent for found in folder.glob(f"{pattern}/{files.METRICS}"))
            names = ", ".join(map(str, tested)) or "none is left"
            raise InputError(f"{folder} holds several tests, each with a folder of its own: name one of them ({names})")
    metrics = files.read_metrics(folder)
    if metrics is None:
        raise InputError(f"{path} holds no scores of a test; {_TEST_AGAIN}")
    for name in ("num_query", "num_gallery"):
        if type(metrics[name]) is not int or metrics[name] < 1:
            raise InputError(f"{path}: {name} must be a whole number from 1; {_TEST_AGAIN}")
    untrained = metrics.get("untrained") or {}
    if not isinstance(untrained, dict) or not all(isinstance(untrained.get(name, 0.0), float) for name in SCORES):
        raise InputError(f"{path}: untrained must hold scores as fractions; {_TEST_AGAIN}")
    try:
        ends = [float(end) for low, high in metrics.get("ci95", {}).values() for end in (low, high)]
        is_sound = all(0 <= end <= 1 for end in ends)
    except (TypeError, ValueError, AttributeError):
        is_sound = False
    if not is_sound:
        raise InputError(f"{path}: ci95 must hold two fractions for each score; {_TEST_AGAIN}")
    return metrics


def read_protocol(folder: Path, metrics: Mapping[str, Any]) -> EvalProtocol:
    """The protocol in metrics.json; raises InputError where it is none."""
    try:
        described = dict(metrics["protocol"])
        if described.get("re_ranking") is not None:
            described["re_ranking"] = tuple(described["re_ranking"][name] for name in ("k1", "k2", "lambda"))
        protocol = EvalProtocol(**described)
        for field in fields(EvalProtocol):
            value = getattr(protocol, field.name)
            if field.type in (str, bool) and type(value) is not field.type:
                raise TypeError(f"{field.name} {value}")
        for name, choices in _CHOICES.items():
            if getattr(protocol, name) not in choices:
                raise ValueError(f"{name} {getattr(protocol, name)}")
        if protocol.re_ranking and not all(type(number) in (int, float) for number in protocol.re_ranking):
            raise TypeError("re_ranking holds no numbers")
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{folder / files.METRICS} holds no protocol of a test ({error}); {_TEST_AGAIN}") from None
    return protocol


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of history.csv, a dict per epoch without its empty cells; [] where there is no such file."""
    path, rows = folder / files.HISTORY, []
    for number, row in enumerate(_read_table(path, ("epoch", "lr")), start=2):
        try:
            rows.append({name: float(cell) for name, cell in row.items() if cell})
        except (TypeError, ValueError):
            raise InputError(f"{path}, line {number}: every cell must be a number or empty; {_MEND}") from None
        if not _is_count(row["epoch"]):
            raise InputError(f"{path}, line {number}: the epoch must be a whole number; {_MEND}")
    return rows


def read_ranks(folder: Path) -> list[dict[str, str]]:
    """The rows of ranks.csv; [] where there is no such file."""
    path = folder / files.RANKS
    nearest = [f"top{place}" for place in range(1, NEAREST + 1)]
    found = [f"{top}{part}" for top in nearest for part in ("", "_pid", "_camera", "_distance")]
    rows = _read_table(path, ("query", "pid", "camera", "AP", "INP", "first_match", *found))
    for number, row in enumerate(rows, start=2):
        scores, distances = (row["AP"], row["INP"]), [row[f"{top}_distance"] for top in nearest]
        is_sound = all(_is_number(cell) and 0 <= float(cell) <= 1 for cell in scores if cell)
        is_sound &= not row["first_match"] or _is_count(row["first_match"])
        if not is_sound or not all(_is_number(cell) for cell in distances if cell):
            raise InputError(
                f"{path}, line {number}: AP and INP must be fractions, first match a whole number, distances numbers; "
                f"{_MEND}"
            )
    return rows


def read_camera_pairs(folder: Path) -> list[dict[str, str]]:
    """The rows of camera_pairs.csv; [] where there is no such file."""
    path = folder / files.PAIRS
    rows = _read_table(path, _PAIR_COLUMNS)
    for number, row in enumerate(rows, start=2):
        scores = [row[name] for name in ("mAP", "rank1")]
        if not (row["num_query"].isdecimal() and (row["num_query"].strip("0") == "" or all(map(_is_number, scores)))):
            raise InputError(
                f"{path}, line {number}: num_query must be a whole number, with mAP and rank1 where it is above 0; "
                f"{_MEND}"
            )
    return rows


def read_features(folder: Path) -> SavedFeatures | None:
    """features.npz; None where there is none. Raises InputError for a broken one."""
    path = folder / files.FEATURES
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            features, pids, camids, is_query = (content[name] for name in ("features", "pids", "camids", "is_query"))
        num_query = int(is_query.sum())
        sound = features.ndim == 2 and {len(pids), len(camids), len(is_query)} == {len(features)}
        sound &= bool(is_query[:num_query].all()) and num_query > 0
        sound &= np.issubdtype(pids.dtype, np.integer) and np.issubdtype(camids.dtype, np.integer)
        if not (sound and np.isfinite(features).all() and camids.min() >= 0):
            raise ValueError("its tables do not fit one another")
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        advice = "remove it, or write it anew with TEST.SAVE_FEATURES True"
        raise InputError(f"{path} is broken ({error}); {advice}") from None
    return SavedFeatures(features.astype(np.float32), pids.astype(np.int64), camids.astype(np.int64), num_query)


def read_labels(folder: Path) -> dict[str, dict[int, str]]:
    """The names of test persons ('test_ids') and cameras ('cameras') by number, from labels.json; {} without one."""
    path = folder / files.LABELS
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {part: {int(n): str(text) for n, text in content[part].items()} for part in ("test_ids", "cameras")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is broken ({error}); {_MEND}") from None


def _read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that has at least these columns; [] where there is no such file."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); {_MEND}") from None
    if missing:
        raise InputError(f"{path} has no column {missing[0]}; {_MEND}")
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise InputError(f"{path}, line {number}: more cells than columns; {_MEND}")
    return rows


def _is_count(cell: str) -> bool:
    return cell.isdecimal() and int(cell) > 0


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def score_rows(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Title -> scores of the test in metrics.json and of what stands beside it: the last epoch, the untrained model."""
    epoch = metrics.get("epoch")
    rows = {f"epoch {epoch}" if epoch is not None else "this test": metrics}
    last = metrics.get("last")
    if last and last.get("epoch") != epoch:
        rows[f"last epoch, {last.get('epoch')}"] = last
    if isinstance(untrained := metrics.get("untrained"), dict) and set(untrained) & set(SCORES):
        rows["before training"] = untrained
    return rows
