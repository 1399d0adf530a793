"""The table of a series of splits: a row per split, then mean and spread."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from processor import run_folder as files
from utils.errors import InputError
from utils.files import save_csv, save_json
from utils.metrics import SCORES


def write_splits_table(out: Path, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write splits.csv (a row per split, then mean and spread) and metrics.json of the series; returns the latter.

    `results` are the metrics of split 0, 1, ...: scores of the chosen epoch and, after training, of the last one. The
    spread is the standard deviation over the splits (n - 1). Raises InputError when splits were tested differently.
    """
    protocols = [_common(result["protocol"]) for result in results]
    for split, protocol in enumerate(protocols):
        if protocol != protocols[0]:
            raise InputError(
                f"{out / f'split{split}' / files.METRICS} was tested by another protocol than split 0 ({protocol}, "
                f"{protocols[0]}); remove it and start again"
            )
    mean, spread = mean_and_spread(results)
    named = [(split, result.get("epoch", ""), result) for split, result in enumerate(results)]
    named += [("mean", "", mean), ("spread", "", spread)]
    rows = [[name, epoch, *(f"{values[score]:.6f}" for score in SCORES)] for name, epoch, values in named]
    save_csv(out / files.SPLITS_TABLE, ["split", "epoch", *SCORES], rows)
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
    columns = {name: [float(result[name]) for result in results] for name in SCORES}
    spread = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()}
    return {name: statistics.fmean(values) for name, values in columns.items()}, spread


def _common(protocol: dict[str, Any]) -> dict[str, Any]:
    """What all splits of a series share of a protocol; one may have been tested where a GPU has TF32, one elsewhere."""
    common = {name: value for name, value in protocol.items() if name not in ("split", "left_out")}
    return common | {"precision": common.get("precision", "").replace("tf32", "float32")}
