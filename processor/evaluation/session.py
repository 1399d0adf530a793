"""What eval-main.py does: one weight file on one data set or on several, or the ten models of iLIDS-VID's splits."""

import argparse
import logging
from pathlib import Path

from yacs.config import CfgNode

from configs import changed_keys
from datasets import check_split_key, parse_dataset_list, plain_name
from model import build_model, check_model
from model.weights import ArchitectureError, load_weights
from model.weights.file import read_weight_file
from processor import run_folder as files
from processor import splits_table as series
from processor.build import (
    Setting,
    check_file,
    current_device,
    evaluate_part,
    finish_series,
    log_environment,
    prepare,
    report,
    split_cfg,
)
from processor.evaluation.evaluator import Evaluation
from processor.evaluation.reports import protocol_line, results_table
from utils.checkpoint import save_json
from utils.errors import InputError
from utils.interrupt import deferred_interrupts
from utils.logger import hold_messages, log_to_file

logger = logging.getLogger(__name__)


def test(cfg: CfgNode, _arguments: argparse.Namespace) -> None:
    """Test one weight file on one data set or on several, or the ten models of iLIDS-VID's splits."""
    out = Path(cfg.OUTPUT_DIR)
    files.check_writable(out)
    check_model(cfg)
    if cfg.DATASETS.SPLIT == "all":
        check_split_key(cfg)
        weights = [series.weight_of(cfg.TEST.WEIGHT, out, split) for split in range(series.NUM_SPLITS)]
        for weight in weights:
            check_file("TEST.WEIGHT", weight, "name the file of each split, or the OUTPUT_DIR of a finished series")
        for split, weight in enumerate(weights):
            one = split_cfg(cfg, split)
            _test_set(prepare(one, Path(one.OUTPUT_DIR)), weight)
            hold_messages()
        finish_series(out, files.TEST_LOG)
        return
    weight = Path(cfg.TEST.WEIGHT.replace("{split}", cfg.DATASETS.SPLIT)) if cfg.TEST.WEIGHT else out / files.BEST
    check_file("TEST.WEIGHT", weight, "name a weight file, or the OUTPUT_DIR of a finished run")
    if cfg.TEST.DATASETS:
        _test_sets(cfg, weight)
    else:
        _test_set(prepare(cfg, out), weight)


def _test_set(setting: Setting, weight: Path) -> Evaluation:
    """Test one weight file on one data set; the report goes to the setting's folder."""
    cfg = setting.cfg
    model = build_model(cfg, setting.splits.num_classes, setting.splits.num_cameras, pretrained=False)
    try:
        fate = load_weights(model, weight, here=setting.cameras, unseen=cfg.MODEL.SIE_UNSEEN)
    except ArchitectureError as error:
        raise InputError(f"{error}{_how_trained(weight, cfg)}") from None
    if fate.kind not in ("published", "checkpoint"):
        raise InputError(f"TEST.WEIGHT {weight} holds CLIP's encoder alone; a test needs weights of a trained TF-CLIP")
    if setting.dataset == "iLIDS-VID":
        _check_same_split(weight, fate.config, cfg)
    files.create_output_dir(setting.out)
    if not cfg.TEST.DATASETS:
        log_to_file(setting.out / files.TEST_LOG)
    logger.info("weights: %s", weight)
    for line in fate.lines():
        logger.info("%s", line)
    with deferred_interrupts():
        evaluation = evaluate_part(setting, model.to(setting.device), cfg.TEST.SAMPLING)
    report(setting, {weight.name: evaluation.summary()}, evaluation, {"weight": str(weight)})
    return evaluation


def _how_trained(weight: Path, cfg: CfgNode) -> str:
    """What a user needs to build the network of a weight file that does not fit: keys that differ, and its config."""
    config = weight.parent / files.CONFIG
    changes = changed_keys(trained, cfg) if (trained := read_weight_file(weight).config) else {}
    network = [f"{key} {was}" for key, (was, _) in changes.items() if key.startswith(("MODEL.", "INPUT.SIZE"))]
    hints = [f"it was trained with {', '.join(network)}"] if network else []
    hints += [f"the config of its run is {config} (--config_file)"] if config.exists() else []
    return "".join(f"; {hint}" for hint in hints)


def _check_same_split(weight: Path, trained: str, cfg: CfgNode) -> None:
    """Raise InputError when the people of the test are people that the model was trained on."""
    if not trained:
        logger.warning(
            "%s does not say which split and half it was trained on; the authors' release trains on the first half "
            "(DATASETS.TRAIN_HALF first)", weight,
        )  # fmt: skip
        return
    changes = changed_keys(trained, cfg)
    trained_set, _ = changes.get("DATASETS.NAMES", (cfg.DATASETS.NAMES, None))
    if plain_name(str(trained_set)) != "ILIDSVID":
        return
    for key in ("DATASETS.SPLIT", "DATASETS.TRAIN_HALF"):
        if key in changes:
            was, now = changes[key]
            raise InputError(
                f"TEST.WEIGHT {weight} was trained with {key} {was}; with {now} it would be tested on people of its "
                f"training: set {key} {was}"
            )


def _test_sets(cfg: CfgNode, weight: Path) -> None:
    """Test one weight file on every set of TEST.DATASETS; a folder for each, one table and metrics.json for all."""
    out = Path(cfg.OUTPUT_DIR)
    log_environment(current_device())
    if cfg.DATASETS.PACK:
        logger.warning("DATASETS.PACK belongs to DATASETS.NAMES; the sets of TEST.DATASETS are read from their files")
    settings: list[Setting] = []
    for number, (name, root) in enumerate(parse_dataset_list(cfg.TEST.DATASETS), start=1):
        try:
            settings.append(prepare(cfg, out / f"{number}-{name}", name, root))
        except InputError as error:
            raise InputError(f"TEST.DATASETS '{name}:{root}': {error.line}") from None
    files.create_output_dir(out)
    log_to_file(out / files.TEST_LOG)
    evaluations = {setting.out.name: _test_set(setting, weight) for setting in settings}
    for evaluation in evaluations.values():
        logger.info("%s", protocol_line(evaluation))
    summaries = {name: evaluation.summary() for name, evaluation in evaluations.items()}
    for line in results_table(summaries).splitlines():
        logger.info("%s", line)
    save_json(out / files.METRICS, {"weight": str(weight), "datasets": summaries})
    logger.info("wrote %s", out / files.METRICS)
