"""What an evaluation leaves for people and programs: metrics.json, features.npz, ranks.csv and a table."""

import csv
import io
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from processor import output_dir as files
from processor.contact_sheet import save_contact_sheet
from processor.evaluator import Evaluation
from utils.checkpoint import save_json, write_atomically

logger = logging.getLogger(__name__)

_TOP = 10


def write_reports(
    out: Path, evaluation: Evaluation, extra: Mapping[str, Any], features: bool, ranks: bool, sheet_queries: int
) -> list[Path]:
    """Write metrics.json (the evaluation's summary and `extra`) and the files asked for; return what was written.

    Files of an earlier test that are not asked for are removed: beside the new metrics.json they would mislead.
    """
    save_json(out / files.METRICS, evaluation.summary() | dict(extra))
    written = [out / files.METRICS]
    for wanted, name, save in (
        (features, files.FEATURES, save_features),
        (ranks, files.RANKS, save_ranks),
        (sheet_queries, files.SHEET, partial(save_contact_sheet, num_queries=sheet_queries)),
    ):
        if wanted:
            save(out / name, evaluation)
            written.append(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    return written


def log_results(evaluation: Evaluation, rows: Mapping[str, Mapping[str, float]]) -> None:
    """The protocol in one line, the table of `rows` below it, and the queries that could not be scored."""
    metrics, protocol = evaluation.metrics, evaluation.protocol
    kept = "with" if protocol.gallery_includes_query else "without"
    logger.info(
        "%s, %s sampling, %d queries against %d gallery tracklets (%s queries), percent:",
        protocol.dataset, protocol.sampling, metrics["num_query"], metrics["num_gallery"], kept,
    )  # fmt: skip
    for line in results_table(rows).splitlines():
        logger.info("%s", line)
    unmatched = queries_without_match(evaluation)
    if unmatched:
        logger.warning("%s", unmatched)


def scores_line(scores: Mapping[str, float]) -> str:
    """Fractions -> mAP and Rank-1, 5, 10 in percent on one line."""
    named = (("mAP", "mAP"), ("Rank-1", "rank1"), ("Rank-5", "rank5"), ("Rank-10", "rank10"))
    return ", ".join(f"{title} {100 * scores[name]:.2f} %" for title, name in named)


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
    for row, (query, ranking) in enumerate(zip(evaluation.query, evaluation.rankings)):
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
