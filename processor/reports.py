"""What an evaluation leaves for people and programs: metrics.json, features.npz, ranks.csv and a table."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from processor.evaluator import Evaluation
from utils.checkpoint import write_atomically
from utils.metrics import QueryRanking, rank_queries

_TOP = 10


def results_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """{row name: fractions} -> a table in percent."""
    columns = ("mAP", "rank1", "rank5", "rank10", "rank20")
    width = max(len(name) for name in rows) + 2
    lines = [" " * width + "".join(f"{name:>9}" for name in ("mAP", "Rank-1", "Rank-5", "Rank-10", "Rank-20"))]
    for name, scores in rows.items():
        lines.append(f"{name:<{width}}" + "".join(f"{100 * scores[column]:>9.2f}" for column in columns))
    return "\n".join(lines)


def queries_without_match(evaluation: Evaluation) -> str | None:
    """One line that says how many queries were left out of the means, or None."""
    missing = evaluation.metrics["num_query"] - evaluation.metrics["num_valid"]
    if not missing:
        return None
    return (
        f"{missing} of {evaluation.metrics['num_query']} queries have no true match in the gallery; "
        f"the scores are means over the other {evaluation.metrics['num_valid']}"
    )


def save_features(path: Path, evaluation: Evaluation) -> None:
    """Write `features` float32 (n, F) before the L2 norm, `pids`, `camids`, `is_query`; queries first."""
    arrays: dict[str, Any] = {
        "features": evaluation.features.astype(np.float32),
        "pids": np.array([t.pid for t in evaluation.tracklets]),
        "camids": np.array([t.camid for t in evaluation.tracklets]),
        "is_query": np.arange(len(evaluation.tracklets)) < evaluation.num_query,
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_atomically(path, write)


def save_ranks(path: Path, evaluation: Evaluation) -> None:
    """Write one row per query: AP, position of the first true match, the ten nearest gallery tracklets with distances.

    Tracklets are named by their first frame; AP and first match are empty for a query without a true match.
    """
    fields = ["query", "pid", "camera", "AP", "first_match"]
    for place in range(1, _TOP + 1):
        fields += [f"top{place}", f"top{place}_pid", f"top{place}_camera", f"top{place}_distance"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    gallery = evaluation.gallery
    for row, (query, ranking) in enumerate(zip(evaluation.query, rankings(evaluation))):
        record = {"query": Path(query.frames[0]).name, "pid": query.pid, "camera": query.camid + 1}
        if ranking.first_match:
            record |= {"AP": f"{ranking.average_precision:.6f}", "first_match": ranking.first_match}
        for place, item in enumerate(ranking.order[:_TOP], start=1):
            record |= {
                f"top{place}": Path(gallery[item].frames[0]).name,
                f"top{place}_pid": gallery[item].pid,
                f"top{place}_camera": gallery[item].camid + 1,
                f"top{place}_distance": f"{evaluation.dist_QG[row, item]:.6f}",
            }
        writer.writerow(record)
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


def rankings(evaluation: Evaluation) -> list[QueryRanking]:
    """The ranked list of every query."""
    q_pids, g_pids = (np.array([t.pid for t in side]) for side in (evaluation.query, evaluation.gallery))
    q_camids, g_camids = (np.array([t.camid for t in side]) for side in (evaluation.query, evaluation.gallery))
    return rank_queries(evaluation.dist_QG, q_pids, g_pids, q_camids, g_camids)
