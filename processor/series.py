"""One run after another: a single one, the ten splits of iLIDS-VID, or the rows of an ablation.

A finished run is skipped, one that was broken off is resumed.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from yacs.config import CfgNode

from configs import changed_keys
from datasets import cache_dir, check_split_key, split_numbers
from model import check_model
from processor import run_folder as files
from processor.distributed import current_ranks
from processor.evaluation import evaluate_one, evaluate_several, log_table
from processor.experiment import check_file
from processor.splits_table import write_splits_table
from processor.training import check_recipe, train_one
from utils.errors import InputError
from utils.logger import hold_messages, log_to_file

logger = logging.getLogger(__name__)


def train(cfg: CfgNode, resume: bool | str = False, overwrite: bool = False) -> None:
    """What train-main.py does: one run, or one for each split of DATASETS.SPLIT all.

    `resume` is whether --resume was given, or 'auto'.
    """
    if cfg.TEST.DATASETS:
        logger.warning("TEST.DATASETS belongs to eval-main.py; this run tests only %s", cfg.DATASETS.NAMES)
    out = Path(cfg.OUTPUT_DIR)
    discard = out if overwrite else None
    if cfg.DATASETS.SPLIT != "all":
        with _locked(out):
            train_one(cfg, resume, discard)
        return
    check_split_key(cfg)
    with _locked(out):
        current_ranks().on_main(lambda: _check_series_dir(out, resume, overwrite))
        for run in split_cfgs(cfg):
            run_or_continue(run, f"split {run.DATASETS.SPLIT} of {cfg.DATASETS.NAMES}", discard)
            discard = None
        hold_messages()
        _finish_series(cfg, files.TRAIN_LOG)


def evaluate(cfg: CfgNode) -> None:
    """What eval-main.py does: test one weight file on one data set or on several, or the ten models of the splits."""
    out = Path(cfg.OUTPUT_DIR)
    elsewhere = f"wait for its end, or test elsewhere: another OUTPUT_DIR with TEST.WEIGHT {out / files.BEST}"
    with _locked(out, elsewhere):
        _evaluate(cfg)


def _evaluate(cfg: CfgNode) -> None:
    check_model(cfg)
    if cfg.DATASETS.SPLIT != "all":
        test = evaluate_several if cfg.TEST.DATASETS else evaluate_one
        test(cfg, _weight_file(cfg))
        return
    check_split_key(cfg)
    if cfg.TEST.WEIGHT and "{split}" not in cfg.TEST.WEIGHT:
        raise InputError(
            f"TEST.WEIGHT {cfg.TEST.WEIGHT} is one file, DATASETS.SPLIT all needs ten: write {{split}} where their "
            "names differ"
        )
    weights = [(run, _weight_file(run)) for run in split_cfgs(cfg)]
    for run, weight in weights:
        with _locked(Path(run.OUTPUT_DIR)):
            evaluate_one(run, weight)
        hold_messages()
    _finish_series(cfg, files.TEST_LOG)


def _locked(folder: Path, *advice: str) -> AbstractContextManager:
    """The folder belongs to this command alone; rank 0 locks it for all ranks."""
    return files.lock(folder, *advice) if current_ranks().is_main else nullcontext()


def _weight_file(cfg: CfgNode) -> Path:
    """TEST.WEIGHT with {split} filled in, or best.pth in OUTPUT_DIR; raises MissingFileError."""
    named = cfg.TEST.WEIGHT.replace("{split}", cfg.DATASETS.SPLIT)
    weight = Path(named) if named else Path(cfg.OUTPUT_DIR) / files.BEST
    check_file("TEST.WEIGHT", weight, "name a weight file, or the OUTPUT_DIR of a finished training")
    return weight


def run_or_continue(cfg: CfgNode, title: str, discard: Path | None = None) -> None:
    """The run or series of this config, as one of several: skipped when finished, resumed when broken off.

    The run or series in the folder `discard` is removed first. Raises InputError for a folder with another recipe.
    """
    if cfg.DATASETS.SPLIT == "all":
        train(cfg)
        return
    folder, ranks = Path(cfg.OUTPUT_DIR), current_ranks()
    if discard is None and ranks.on_main(lambda: _went_to_its_end(cfg)):
        logger.info("%s is finished in %s", title, folder)
        return
    hold_messages()  # for the log of this run
    with _locked(folder):
        resume = discard is None and ranks.on_main((folder / files.LAST).exists)
        logger.info("%s in %s%s", title, folder, ", resumed" if resume else "")
        train_one(cfg, resume, discard)
    ranks.check_stop()  # Ctrl-C may have been pressed while the last files were written


def is_finished(cfg: CfgNode) -> bool:
    """Whether the run, or every run of the series, of this config went to its end; False for one of another recipe."""
    if cfg.DATASETS.SPLIT == "all":
        return all(map(is_finished, split_cfgs(cfg)))
    try:
        return _went_to_its_end(cfg)
    except InputError:
        return False


def _went_to_its_end(cfg: CfgNode) -> bool:
    """Whether the run went to its end with these epochs and tests; raises InputError for one of another recipe."""
    folder = Path(cfg.OUTPUT_DIR)
    last = (files.read_metrics(folder) or {}).get("last", {})  # scores and number of the last epoch
    try:
        changes = changed_keys((folder / files.CONFIG).read_text(encoding="utf-8"), cfg)
    except (OSError, ValueError):
        return False
    if last.get("epoch", 0) < cfg.SOLVER.MAX_EPOCHS:
        return False
    check_recipe(changes, folder / files.CONFIG, cfg.DATASETS.NAMES, trained=True)
    # With another list of exclusions the run is taken up again, which compares the training items themselves.
    reopening = ("TEST.", "SOLVER.MAX_EPOCHS", "MODEL.SIE_UNSEEN", "DATASETS.EXCLUDE")
    return not any(key.startswith(reopening) for key in changes)


def split_cfgs(cfg: CfgNode) -> list[CfgNode]:
    """The config of each split of a series, in OUTPUT_DIR/splitN; all share one cache."""
    runs = []
    for split in split_numbers(cfg):
        run = cfg.clone()
        run.defrost()
        run.DATASETS.SPLIT = split
        run.DATASETS.CACHE_DIR = cache_dir(cfg)
        run.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / f"split{split}")
        run.freeze()
        runs.append(run)
    return runs


def _check_series_dir(out: Path, resume: bool | str, overwrite: bool) -> None:
    """Raise InputError for a folder that holds a single run; one with splits of a series goes on without any flag."""
    resume = resume is True  # 'auto' is what a series does anyway
    files.check_output_dir(out, resume, overwrite=overwrite or not resume)
    if resume and not list(out.glob(f"split[0-9]/{files.LAST}")):
        raise InputError(f"{out} holds no split of a series, so there is nothing to resume; start it without --resume")
    single_run = [name for name in files.run_files(out) if "/" not in name and name != files.SPLITS_TABLE]
    if single_run and not overwrite:
        raise InputError(
            f"OUTPUT_DIR {out} holds a run of one split ({', '.join(single_run)}); name another folder for the series, "
            "or discard what is there with --overwrite"
        )


def _finish_series(cfg: CfgNode, log: str) -> None:
    """The table of all splits on screen, in the log and in OUTPUT_DIR."""
    if not current_ranks().is_main:
        return
    out, folders = Path(cfg.OUTPUT_DIR), [Path(run.OUTPUT_DIR) for run in split_cfgs(cfg)]
    results = [files.read_metrics(folder) for folder in folders]
    if None in results:
        raise InputError(f"{folders[results.index(None)] / files.METRICS} holds no scores of a test; start again")
    summary = write_splits_table(out, results)
    rows = {
        f"split {split}" + (f", epoch {result['epoch']}" if "epoch" in result else ""): result
        for split, result in enumerate(results)
    }
    rows |= {"mean": summary, "spread": summary["spread"]}
    if "last" in summary:
        rows |= {"last epoch: mean": summary["last"], "last epoch: spread": summary["last"]["spread"]}
    log_to_file(out / log, append=True)
    logger.info("%d splits, percent:", len(results))
    log_table(rows)
    logger.info("wrote %s, %s", out / files.SPLITS_TABLE, out / files.METRICS)
