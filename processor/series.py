"""One run after another: a single one, the ten splits of iLIDS-VID, or the rows of an ablation.

A run that is finished is skipped, a broken one is resumed.
"""

import argparse
import logging
from pathlib import Path

from yacs.config import CfgNode

from configs import changed_keys
from datasets import cache_dir, check_split_key, find_dataset
from model import check_model
from processor import run_folder as files
from processor import splits_table
from processor.evaluation import evaluate_one, evaluate_several
from processor.experiment import check_file
from processor.training import check_recipe, train_one
from utils.errors import InputError
from utils.interrupt import check_interrupt
from utils.logger import hold_messages, log_to_file

logger = logging.getLogger(__name__)


def train(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """What train-main.py does: one run, or one for each split of DATASETS.SPLIT all."""
    if cfg.TEST.DATASETS:
        logger.warning("TEST.DATASETS belongs to eval-main.py; this run tests %s alone", cfg.DATASETS.NAMES)
    out = Path(cfg.OUTPUT_DIR)
    discard = out if arguments.overwrite else None
    if cfg.DATASETS.SPLIT != "all":
        train_one(cfg, arguments, arguments.resume, discard)
        return
    check_split_key(cfg)
    check_series_dir(out, arguments.resume, arguments.overwrite)
    for run in split_cfgs(cfg):
        _run_or_continue(run, arguments, f"split {run.DATASETS.SPLIT} of {cfg.DATASETS.NAMES}", discard)
        discard = None
    hold_messages()
    _finish_series(cfg, files.TRAIN_LOG)


def evaluate(cfg: CfgNode) -> None:
    """What eval-main.py does: test one weight file on one data set or on several, or the ten models of the splits."""
    out = Path(cfg.OUTPUT_DIR)
    files.check_writable(out)
    check_model(cfg)
    if cfg.DATASETS.SPLIT == "all":
        check_split_key(cfg)
        runs = split_cfgs(cfg)
        weights = [split_weight(cfg.TEST.WEIGHT, run) for run in runs]
        for weight in weights:
            check_file("TEST.WEIGHT", weight, "name the file of each split, or the OUTPUT_DIR of a finished series")
        for run, weight in zip(runs, weights):
            evaluate_one(run, weight)
            hold_messages()
        _finish_series(cfg, files.TEST_LOG)
        return
    weight = Path(cfg.TEST.WEIGHT.replace("{split}", cfg.DATASETS.SPLIT)) if cfg.TEST.WEIGHT else out / files.BEST
    check_file("TEST.WEIGHT", weight, "name a weight file, or the OUTPUT_DIR of a finished run")
    if cfg.TEST.DATASETS:
        evaluate_several(cfg, weight)
    else:
        evaluate_one(cfg, weight)


def run_or_continue(cfg: CfgNode, title: str) -> None:
    """The run or series of this config, as one of several: skipped when finished, resumed when broken.

    The caller says in its own words how to go on after Ctrl-C. Raises InputError for a folder with another recipe.
    """
    arguments = argparse.Namespace(config_file=None, opts=[], resume=False, overwrite=False)
    if cfg.DATASETS.SPLIT == "all":
        train(cfg, arguments)
    else:
        _run_or_continue(cfg, arguments, title, None)


def _run_or_continue(cfg: CfgNode, arguments: argparse.Namespace, title: str, discard: Path | None) -> None:
    folder = Path(cfg.OUTPUT_DIR)
    if discard is None and _is_finished(cfg, folder):
        logger.info("%s is finished in %s", title, folder)
        return
    resume = discard is None and (folder / files.LAST).exists()
    hold_messages()  # for the log of this run
    logger.info("%s in %s%s", title, folder, ", resumed" if resume else "")
    train_one(cfg, arguments, resume, discard)
    check_interrupt()  # pressed while the last files of the run were written


def is_finished(cfg: CfgNode) -> bool:
    """Whether the run, or every run of the series, of this config went to its end; never raises for another recipe."""
    runs = split_cfgs(cfg) if cfg.DATASETS.SPLIT == "all" else [cfg]
    try:
        return all(_is_finished(run, Path(run.OUTPUT_DIR)) for run in runs)
    except InputError:
        return False


def _is_finished(cfg: CfgNode, folder: Path) -> bool:
    """Whether the run in `folder` went to its end with this config; raises InputError for another recipe."""
    epochs = files.finished_epochs(folder)
    try:
        changes = changed_keys((folder / files.CONFIG).read_text(encoding="utf-8"), cfg)
    except (OSError, ValueError):
        return False
    if epochs < cfg.SOLVER.MAX_EPOCHS:
        return False
    check_recipe(changes, folder / files.CONFIG, trained=True)
    return not any(key.startswith(("TEST.", "SOLVER.MAX_EPOCHS", "MODEL.SIE_UNSEEN")) for key in changes)


def split_cfgs(cfg: CfgNode) -> list[CfgNode]:
    """The config of each split of a series, in OUTPUT_DIR/splitN; what is unpacked serves all."""
    runs = []
    for split in range(find_dataset(cfg.DATASETS.NAMES).num_splits):
        run = cfg.clone()
        run.defrost()
        run.DATASETS.SPLIT = str(split)
        run.DATASETS.CACHE_DIR = cache_dir(cfg)
        run.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / f"split{split}")
        run.freeze()
        runs.append(run)
    return runs


def split_weight(pattern: str, run: CfgNode) -> Path:
    """The weight file of a split: `pattern` with {split} filled in, best.pth of the split's run when it is empty.

    Raises InputError for a pattern that names one file for all splits.
    """
    if not pattern:
        return Path(run.OUTPUT_DIR) / files.BEST
    if "{split}" not in pattern:
        raise InputError(
            f"TEST.WEIGHT {pattern} is one file, DATASETS.SPLIT all needs ten: write {{split}} where their names differ"
        )
    return Path(pattern.replace("{split}", run.DATASETS.SPLIT))


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


def _finish_series(cfg: CfgNode, log: str) -> None:
    """The table of all splits on screen, in the log and in OUTPUT_DIR."""
    out, folders = Path(cfg.OUTPUT_DIR), [Path(run.OUTPUT_DIR) for run in split_cfgs(cfg)]
    results = [files.read_metrics(folder) for folder in folders]
    if None in results:
        raise InputError(f"{folders[results.index(None)] / files.METRICS} holds no scores of a test; start again")
    summary = splits_table.write_splits_table(out, results)
    log_to_file(out / log, append=True)
    splits_table.log_splits(results, summary)
    logger.info("wrote %s, %s", out / files.SPLITS_TABLE, out / files.METRICS)
