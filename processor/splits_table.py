"""Ten models for the ten splits of iLIDS-VID: which are finished, and the table of all with mean and spread."""

import csv
import io
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from processor import run_folder as files
from utils.checkpoint import save_json, write_atomically
from utils.errors import InputError

logger = logging.getLogger(__name__)

NUM_SPLITS = 10
_SCORES = ("mAP", "rank1", "rank5", "rank10", "rank20")


def check_series_dir(out: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds another run; one with splits of a series goes on without any flag.

    Raises InputError.
    """
    begun = list(out.glob(f"split[0-9]/{files.LAST}"))
    if resume and not overwrite and not begun:
        raise InputError(f"{out} holds no split of a series, so there is nothing to resume; start it without --resume")
    alone = [name for name in files.run_files(out) if "/" not in name and name != files.SPLITS_TABLE]
    if alone and not overwrite:
        raise InputError(
            f"OUTPUT_DIR {out} holds a run of one split ({', '.join(alone)}); name another folder for the series, or "
            "discard what is there with --overwrite"
        )
    files.check_output_dir(out, resume and overwrite, overwrite=True)


def split_dir(out: Path, split: int) -> Path:
    """The folder of one split's run."""
    return out / f"split{split}"


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of the folder's metrics.json; None unless it holds all that the table needs."""
    try:
        content = json.loads((folder / files.METRICS).read_text(encoding="utf-8"))
        parts = [content, content["last"]] if "last" in content else [content]
        sound = all(isinstance(part[name], float) for part in parts for name in _SCORES)
        sound &= all(name in content for name in ("num_query", "num_gallery", "protocol"))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return content if sound else None


def finished_epochs(folder: Path) -> int:
    """The epochs of the run in `folder` if it went to its end, final test included; else 0."""
    epochs = ((read_metrics(folder) or {}).get("last") or {}).get("epoch")
    return epochs if isinstance(epochs, int) else 0


def write_splits_table(out: Path, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write splits.csv (a row per split, then mean and spread) and metrics.json of the series; returns the latter.

    `results` are the metrics of split 0, 1, ...: scores of the chosen epoch and, after training, of the last one. The
    spread is the standard deviation over the splits (n - 1). Raises InputError when splits were tested differently.
    """
    own = ("split", "left_out")  # of each split
    protocols = [{name: v for name, v in result["protocol"].items() if name not in own} for result in results]
    for split, protocol in enumerate(protocols):
        if protocol != protocols[0]:
            raise InputError(
                f"{split_dir(out, split) / files.METRICS} was tested by another protocol than split 0 ({protocol}, "
                f"{protocols[0]}); remove it and start again"
            )
    rows: list[list[str]] = []
    for split, result in enumerate(results):
        rows.append([str(split), str(result.get("epoch", "")), *(f"{result[name]:.6f}" for name in _SCORES)])
    mean, spread = mean_and_spread(results)
    for title, values in (("mean", mean), ("spread", spread)):
        rows.append([title, "", *(f"{values[name]:.6f}" for name in _SCORES)])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["split", "epoch", *_SCORES], *rows])
    write_atomically(out / files.SPLITS_TABLE, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))
    first = results[0]
    summary: dict[str, Any] = {**mean, "spread": spread, "num_splits": len(results)}
    summary |= {name: first[name] for name in ("num_query", "num_gallery", "selected_by") if name in first}
    summary["protocol"] = first["protocol"] | {"split": "all"}
    if all("last" in result for result in results):
        last_mean, last_spread = mean_and_spread([result["last"] for result in results])
        summary["last"] = {**last_mean, "spread": last_spread}
    summary["splits"] = [dict(result) for result in results]
    save_json(out / files.METRICS, summary)
    return summary


def mean_and_spread(results: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Means and standard deviations (n - 1; 0 for one result) of the scores."""
    columns = {name: [float(result[name]) for result in results] for name in _SCORES}
    spread = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()}
    return {name: statistics.fmean(values) for name, values in columns.items()}, spread


def log_splits(results: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """The table of the series in percent."""
    line = "{:<16}" + "{:>9}" * len(_SCORES)
    logger.info("%d splits, percent:", len(results))
    logger.info("%s", line.format("", "mAP", "Rank-1", "Rank-5", "Rank-10", "Rank-20"))
    named: list[tuple[str, Mapping[str, float]]] = []
    for split, result in enumerate(results):
        named.append((f"split {split}" + (f", epoch {result['epoch']}" if "epoch" in result else ""), result))
    named += [("mean", summary), ("spread", summary["spread"])]
    if "last" in summary:
        named += [("last epoch: mean", summary["last"]), ("spread", summary["last"]["spread"])]
    for name, scores in named:
        logger.info("%s", line.format(name, *(f"{100 * scores[column]:.2f}" for column in _SCORES)))


def weight_of(pattern: str, out: Path, split: int) -> Path:
    """The weight file of a split: `pattern` with {split} filled in, best.pth of the split's run when it is empty.

    Raises InputError for a pattern that names one file for all splits.
    """
    if not pattern:
        return split_dir(out, split) / files.BEST
    if "{split}" not in pattern:
        raise InputError(
            f"TEST.WEIGHT {pattern} is one file, DATASETS.SPLIT all needs ten: write {{split}} where their names differ"
        )
    return Path(pattern.replace("{split}", str(split)))
