"""What the page of a run is made from: the test behind its scores, from saved features or computed anew.

Where the data have moved, what the files of the run can show.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from configs import changed_keys, load_cfg
from datasets.tracklet import ReIDSplits, Tracklet
from model.tfclip import TFCLIP
from processor import run_folder as files
from processor.evaluation import (
    Evaluation,
    RunPage,
    SavedFeatures,
    attention_of_test,
    epochs_tested,
    evaluate_part,
    rank_tracklets,
    read_camera_pairs,
    read_features,
    read_labels,
    read_protocol,
    read_ranks,
    read_scores,
    tested_model,
)
from processor.experiment import Experiment, prepare
from utils.errors import InputError, MissingFileError
from utils.metrics import SCORES

logger = logging.getLogger(__name__)

_SAME = 1e-3  # as a fraction: near ties may be ranked the other way round on another machine


def page_of_run(run: Path, opts: Sequence[str]) -> RunPage:
    """The page of the run in a folder; `opts` are KEY VALUE pairs over its config.

    Raises InputError for a folder that holds no run, for broken files, and for a run that can neither be read from its
    features nor tested anew.
    """
    metrics, cfg, saved = read_scores(run), None, None
    if metrics is None and not any((run / name).exists() for name in (files.CONFIG, files.BEST)):
        raise InputError(f"{run} holds no run{_elsewhere(run)}; name the OUTPUT_DIR of a training or of eval-main.py")
    saved = read_features(run)
    cfg = _config(run, metrics, opts)
    if cfg is None:
        return _without_data(run, metrics, saved, None, f"{run / files.METRICS} does not say where the data are")
    changes, tested = _changes(run, metrics), epochs_tested(run)
    try:
        experiment = _experiment(cfg, run)
    except MissingFileError as error:
        return _without_data(run, metrics, saved, changes, error.line)
    notes: list[str] = []
    weight = Path(str((metrics or {}).get("weight") or run / files.BEST))
    evaluation = _from_features(run, metrics, saved, experiment, notes)
    page = partial(RunPage, run, splits=experiment.splits, changes=changes, notes=notes, epochs_tested=tested)
    if evaluation is None and not weight.is_file():
        raise MissingFileError(
            f"{run} holds no {files.FEATURES} of this test, and its weights {weight} do not exist: test again with "
            "eval-main.py"
        )
    try:
        model = tested_model(experiment, weight).eval().to(experiment.runtime.device)
    except InputError as error:
        if evaluation is None:
            raise
        notes.append(f"It is not shown where the model looks: {error.line}.")
        logger.warning("the page has no pictures of attention: %s", error.line)
        return page(evaluation=evaluation)
    if evaluation is None:
        evaluation = _anew(model, weight.name, metrics, experiment, notes)
    return page(evaluation=evaluation, attention=attention_of_test(experiment, model, evaluation))


def _elsewhere(run: Path) -> str:
    """The tests in folders below, for a folder that is above them."""
    below = sorted(path.parent for depth in ("*", "*/*") for path in run.glob(f"{depth}/{files.METRICS}"))
    return f" itself, but {', '.join(map(str, below[:10]))}" if below else ""


def _config(run: Path, metrics: Mapping[str, Any] | None, opts: Sequence[str]) -> CfgNode | None:
    """The config of the test: that which eval-main.py wrote into metrics.json, or config.yml; None without both."""
    own = (metrics or {}).get("config")
    if own is not None and not isinstance(own, dict):
        raise InputError(f"{run / files.METRICS}: config holds no keys; test again with eval-main.py")
    if own is None and not (run / files.CONFIG).exists():
        return None
    place = ["OUTPUT_DIR", str(run)]
    if not (run / "cache").exists() and (run.parent / "cache").exists():  # of one set of several, or one split
        place += ["DATASETS.CACHE_DIR", str(run.parent / "cache")]
    if own is None:
        return load_cfg(run / files.CONFIG, [*_unless_set(run, place), *opts])
    return load_cfg(opts=[*(str(part) for pair in own.items() for part in pair), *place, *opts])


def _changes(run: Path, metrics: Mapping[str, Any] | None) -> Mapping[str, tuple[Any, Any]]:
    """The keys of the test that differ from the defaults, wherever its folder and its data lie now."""
    own = (metrics or {}).get("config")
    if own is None:
        return changed_keys("{}", load_cfg(run / files.CONFIG))
    return changed_keys("{}", load_cfg(opts=[str(part) for pair in own.items() for part in pair]))


def _unless_set(run: Path, place: list[str]) -> list[str]:
    """`place` without the cache where config.yml names one."""
    return place[:2] if load_cfg(run / files.CONFIG).DATASETS.CACHE_DIR else place


def _experiment(cfg: CfgNode, run: Path) -> Experiment:
    """The data of the test; raises MissingFileError where they are gone."""
    root = Path(cfg.DATASETS.ROOT_DIR)
    if not root.exists():
        raise MissingFileError(f"DATASETS.ROOT_DIR {root} does not exist")
    return prepare(cfg, run)


def _from_features(
    run: Path, metrics: Mapping[str, Any] | None, saved: SavedFeatures | None, experiment: Experiment, notes: list[str]
) -> Evaluation | None:
    """The test again from features.npz; None, and why in `notes`, where they are not those behind metrics.json."""
    if saved is None:
        return None
    query, gallery = experiment.part("test")
    tracklets = (*query, *gallery)
    expected = [np.array([getattr(t, name) for t in tracklets]) for name in ("pid", "camid")]
    if saved.num_query != len(query) or not all(map(np.array_equal, (saved.pids, saved.camids), expected)):
        reason = "holds other tracklets than the data"
    elif metrics is None:
        reason = "stands beside no scores"
    else:
        evaluation = rank_tracklets(saved.features, tracklets, len(query), read_protocol(run, metrics))
        reason, is_same = _other_scores(evaluation, metrics)
        if is_same:
            notes += _near_ties(reason)
            return evaluation
    notes.append(f"{files.FEATURES} {reason}, so the tracklets were embedded anew.")
    logger.warning("%s %s: the tracklets are embedded anew", run / files.FEATURES, reason)
    return None


def _other_scores(evaluation: Evaluation, metrics: Mapping[str, Any]) -> tuple[str, bool]:
    """Where the score that differs most from metrics.json is printed with other digits, both; whether near ties can do
    that.
    """
    name = max(SCORES, key=lambda name: abs(evaluation.metrics[name] - metrics[name]))
    now, then = (f"{100 * scores[name]:.2f} %" for scores in (evaluation.metrics, metrics))
    words = f"gives {SCORES[name]} {now}, where {files.METRICS} says {then}" if now != then else ""
    return words, abs(evaluation.metrics[name] - metrics[name]) <= _SAME


def _near_ties(reason: str) -> list[str]:
    """The note on features whose scores are printed with other digits than those in metrics.json."""
    why = "on another machine near ties may be ranked the other way round. The page shows the new scores"
    return [f"{files.FEATURES} {reason}: {why}."] if reason else []


def _anew(
    model: TFCLIP, weight: str, metrics: Mapping[str, Any] | None, experiment: Experiment, notes: list[str]
) -> Evaluation:
    """Embed and rank with the weights of the test."""
    evaluation = evaluate_part(experiment, model, experiment.cfg.TEST.SAMPLING)
    if metrics is None:
        notes.append(
            f"This run has no {files.METRICS}: the scores are those of {weight} as it was tested for this page."
        )
    elif reason := _other_scores(evaluation, metrics)[0]:
        notes.append(f"Testing anew with {weight} {reason}; the page shows the new test.")
        logger.warning("testing anew with %s %s", weight, reason)
    return evaluation


def _without_data(
    run: Path,
    metrics: Mapping[str, Any] | None,
    saved: SavedFeatures | None,
    changes: Mapping[str, tuple[Any, Any]] | None,
    reason: str,
) -> RunPage:
    """The page without pictures; raises InputError where the run has no scores."""
    if metrics is None:
        raise MissingFileError(f"{reason}, and {run} holds no {files.METRICS}: name the data with DATASETS.ROOT_DIR")
    notes = [f"No pictures: {reason}. Name the folder of the data with DATASETS.ROOT_DIR."]
    logger.warning("%s: the page has no pictures; name the folder of the data with DATASETS.ROOT_DIR", reason)
    evaluation, splits = None, None
    if saved is not None:
        splits = _numbered(run, saved)
        tracklets, protocol = (*splits.query, *splits.gallery), read_protocol(run, metrics)
        evaluation = rank_tracklets(saved.features, tracklets, saved.num_query, protocol)
        reason, is_same = _other_scores(evaluation, metrics)
        if is_same:
            notes += _near_ties(reason)
        else:
            evaluation, splits = None, None
            notes.append(f"{files.FEATURES} {reason}, so it is not used.")
    return RunPage(
        run, evaluation, splits, has_frames=False, changes=changes, notes=notes, epochs_tested=epochs_tested(run)
    )


def _numbered(run: Path, saved: SavedFeatures) -> ReIDSplits:
    """The tracklets of features.npz, whose frames are not known; persons and cameras as the files of the run name them.

    labels.json and camera_pairs.csv name all cameras, ranks.csv those of the queries; none has a name where one that is
    needed has none.
    """
    labels = read_labels(run)
    pairs = dict(enumerate(dict.fromkeys(row["query_camera"] for row in read_camera_pairs(run))))
    queries = dict(zip(saved.camids.tolist(), (row["camera"] for row in read_ranks(run)))) if not pairs else {}
    known, used = labels.get("cameras") or pairs or queries, set(saved.camids.tolist())
    is_named = used <= set(known) and set(known.values()) != {"-"}  # which stands for data that name no cameras
    cameras = [known.get(number, "") for number in range(max(used) + 1)] if is_named else []
    rows = zip(saved.pids.tolist(), saved.camids.tolist())
    tracklets = tuple(Tracklet((f"tracklet {n}",), pid, camid) for n, (pid, camid) in enumerate(rows, start=1))
    return ReIDSplits(
        train=(), query=tracklets[: saved.num_query], gallery=tracklets[saved.num_query :], num_classes=0,
        num_cameras=len(cameras), gallery_includes_query=False, persons=labels.get("test_ids", {}),
        cameras=tuple(cameras),
    )  # fmt: skip
