"""The results of an evaluation: metrics.json, the other files that were asked for, and tables in the log."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.tracklet import ReIDSplits, Tracklet, below
from processor import run_folder as files
from processor.evaluation.contact_sheet import save_contact_sheet
from processor.evaluation.evaluator import Evaluation
from utils.files import save_csv, save_json, write_atomically
from utils.metrics import SCORES

logger = logging.getLogger(__name__)

NEAREST = 10  # gallery tracklets per query in ranks.csv and on the page of a run


def write_reports(
    out: Path,
    evaluation: Evaluation,
    extra: Mapping[str, Any],
    splits: ReIDSplits,
    features: bool,
    ranks: bool,
    camera_pairs: bool,
    sheet_queries: int,
) -> list[Path]:
    """Write metrics.json (the evaluation's summary and `extra`) and the files asked for; return what was written.

    Other files of an earlier test are removed, its page too: they do not belong to the new metrics.json. Where persons
    and cameras are free text, labels.json says what the numbers mean.
    """
    save_json(out / files.METRICS, evaluation.summary() | dict(extra))
    written = [out / files.METRICS]
    if camera_pairs and not splits.cameras:
        logger.warning("TEST.CAMERA_PAIRS: the data name no cameras, so there is no table")
    if files.save_labels(out, splits):
        written.append(out / files.LABELS)
    for asked, name, save in (
        (features, files.FEATURES, save_features),
        (ranks, files.RANKS, partial(save_ranks, splits=splits)),
        (camera_pairs and splits.cameras, files.PAIRS, partial(save_camera_pairs, cameras=splits.cameras)),
        (sheet_queries, files.SHEET, partial(save_contact_sheet, splits=splits, most=sheet_queries)),
    ):
        if asked:
            save(out / name, evaluation)
            written.append(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    files.discard_page(out)
    return written


def log_results(evaluation: Evaluation, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The protocol in one line, the table of `rows` below it, intervals, and the queries that could not be scored."""
    logger.info("%s, percent:", protocol_line(evaluation))
    log_table(rows)
    for name, scores in rows.items():
        if "ci95" in scores:
            logger.info("%s, 95 %% intervals: %s", name, intervals_line(scores))
    queries, scored = evaluation.metrics["num_query"], evaluation.metrics["num_valid"]
    if scored < queries:
        logger.warning(
            "%d of %d queries have no true match in the gallery; the scores are means over the other %d",
            queries - scored, queries, scored,
        )  # fmt: skip


def protocol_line(evaluation: Evaluation) -> str:
    """Data set, number of queries and gallery tracklets, and the choices that change the numbers."""
    metrics, protocol = evaluation.metrics, evaluation.protocol
    re_ranking = "k1 {}, k2 {}, lambda {}".format(*protocol.re_ranking) if protocol.re_ranking else "off"
    choices = [
        f"TEST.GALLERY_INCLUDES_QUERY {protocol.gallery_includes_query}",
        f"TEST.SAME_CAMERA_FILTER {protocol.same_camera_filter}",
        f"TEST.NECK_FEAT {protocol.neck_feat}",
        f"TEST.FEAT_NORM {protocol.feat_norm}",
        f"camera embedding {'on' if protocol.camera_embedding else 'off'}",
        f"precision {protocol.precision}",
        f"re-ranking {re_ranking}",
        f"TEST.AP {protocol.ap}",
        *([f"split {protocol.split}, trained on the {protocol.train_half} half"] if protocol.split else []),
    ]
    return (
        f"{protocol.dataset}, {protocol.sampling} sampling, {metrics['num_query']} queries against "
        f"{metrics['num_gallery']} gallery tracklets ({', '.join(choices)})"
    )


def scores_line(scores: Mapping[str, float]) -> str:
    """Fractions -> all scores in percent on one line."""
    return ", ".join(f"{title} {100 * scores[name]:.2f} %" for name, title in SCORES.items())


def intervals_line(scores: Mapping[str, Any]) -> str:
    """Fractions -> the scores with an interval in percent on one line: mAP 65.13 [58.20, 71.90], ..."""
    return ", ".join(
        f"{SCORES[name]} {100 * scores[name]:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        for name, (low, high) in scores["ci95"].items()
    )


def log_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Log {row name: fractions} as a table in percent, a line per row."""
    width = max(len(name) for name in rows) + 2
    logger.info("%s", " " * width + "".join(f"{title:>9}" for title in SCORES.values()))
    for name, scores in rows.items():
        # The scores before training come from the checkpoint, which may be older than a score.
        cells = (f"{100 * scores[column]:>9.2f}" if column in scores else f"{'-':>9}" for column in SCORES)
        logger.info("%s", f"{name:<{width}}" + "".join(cells))


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


def save_ranks(path: Path, evaluation: Evaluation, splits: ReIDSplits) -> None:
    """Write one row per query: AP, INP, position of the first true match, the ten nearest gallery tracklets.

    Tracklets are named by their first frame, a path below the data's folder; AP, INP and first match are empty for a
    query without a true match.
    """
    fields = ["query", "pid", "camera", "AP", "INP", "first_match"]
    for place in range(1, NEAREST + 1):
        fields += [f"top{place}", f"top{place}_pid", f"top{place}_camera", f"top{place}_distance"]
    gallery, records = evaluation.gallery, []
    for row, (query, ranking) in enumerate(zip(evaluation.query, evaluation.rankings)):
        record = _identify("query", "", query, splits)
        if ranking.first_match:
            record |= {"AP": f"{ranking.average_precision:.6f}", "INP": f"{ranking.inverse_negative_penalty:.6f}"}
            record["first_match"] = ranking.first_match
        for place, item in enumerate(ranking.order[:NEAREST], start=1):
            record |= _identify(f"top{place}", f"top{place}_", gallery[item], splits)
            record[f"top{place}_distance"] = f"{evaluation.dist_QG[row, item]:.6f}"
        records.append(record)
    save_csv(path, fields, records, errors="backslashreplace")  # for file names that are not UTF-8


def save_camera_pairs(path: Path, evaluation: Evaluation, cameras: Sequence[str]) -> None:
    """Write mAP and Rank-1 (fractions) of every pair of a query camera and a gallery camera, and log them in percent.

    Both are empty where no query of the one camera has a true match in the other.
    """
    pairs = evaluation.camera_pairs(len(cameras))
    columns, rows = ("query_camera", "gallery_camera", "num_query", "mAP", "rank1"), []
    for pair in pairs:
        scores = [f"{pair.mAP:.6f}", f"{pair.rank1:.6f}"] if pair.num_query else ["", ""]
        rows.append([cameras[pair.query_camera], cameras[pair.gallery_camera], pair.num_query, *scores])
    save_csv(path, columns, rows)
    width = max(8, *(len(name) + 2 for name in cameras))
    for title, name in (("mAP", "mAP"), ("Rank-1", "rank1")):
        logger.info("%s in percent, a row per query camera, a column per gallery camera:", title)
        logger.info("%s", " " * width + "".join(f"{camera:>{width}}" for camera in cameras))
        for row, camera in enumerate(cameras):
            values = [100 * getattr(pair, name) for pair in pairs if pair.query_camera == row]
            cells = (f"{value:>{width}.2f}" if value == value else f"{'-':>{width}}" for value in values)
            logger.info("%s", f"{camera:<{width}}" + "".join(cells))


def _identify(column: str, prefix: str, tracklet: Tracklet, splits: ReIDSplits) -> dict[str, str]:
    """The cells of a tracklet: its first frame, person and camera."""
    return {
        column: below(splits.root, tracklet.frames[0]),
        f"{prefix}pid": splits.person(tracklet.pid),
        f"{prefix}camera": splits.camera(tracklet.camid),
    }
