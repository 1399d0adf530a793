"""A run from top to bottom: `train_main` trains and tests, `eval_main` tests."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from yacs.config import CfgNode

from configs import changed_keys
from datasets import build_train_loader, check_split_key
from loss import build_criterion
from model import build_model, build_text_branch, check_model
from model.clip_memory import build_clip_memory
from model.text_prompt import TextBranch
from model.weights import fill_model, load_weights
from model.weights.file import WeightFile
from processor import run_folder as files
from processor import splits_table as series
from processor.build import (
    Setting,
    build_run,
    check_compile,
    check_weights,
    evaluate_part,
    finish_series,
    learn_text,
    prepare,
    report,
    split_cfg,
    tracklet_features,
)
from processor.cli import run_command
from processor.evaluation.reports import save_labels, scores_line
from processor.evaluation.session import test
from processor.training.epoch import RunState, train_one_epoch
from processor.training.resume import check_continuation, check_recipe, check_same_data, how_to_go_on
from utils.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from utils.errors import InputError
from utils.interrupt import check_interrupt, deferred_interrupts
from utils.logger import hold_messages, log_to_file
from utils.seed import seed_everything

logger = logging.getLogger(__name__)


def train_main(argv: Sequence[str]) -> int:
    """`train-main.py`: train, test best and last epoch; returns the exit code."""
    return run_command(argv, "Train TF-CLIP, then test the best and the last epoch.", train)


def eval_main(argv: Sequence[str]) -> int:
    """`eval-main.py`: test the weights in TEST.WEIGHT (OUTPUT_DIR/best.pth); returns the exit code."""
    return run_command(argv, "Test the weights in TEST.WEIGHT, by default OUTPUT_DIR/best.pth.", test)


def train(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """One run, or one for each split of iLIDS-VID."""
    if cfg.TEST.DATASETS:
        logger.warning("TEST.DATASETS belongs to eval-main.py; this run tests %s alone", cfg.DATASETS.NAMES)
    if cfg.DATASETS.SPLIT == "all":
        check_split_key(cfg)
        _train_splits(cfg, arguments)
    else:
        discard = Path(cfg.OUTPUT_DIR) if arguments.overwrite else None
        _train_one(cfg, arguments, arguments.resume, discard)


def _train_one(cfg: CfgNode, arguments: argparse.Namespace, resume: bool, discard: Path | None) -> None:
    """The whole run: data, model, CLIP-Memory, epochs, final test.

    The run or series in `discard` is removed as soon as the input is known to be sound.
    """
    out, overwrite = Path(cfg.OUTPUT_DIR), discard is not None
    files.check_output_dir(out, resume, overwrite)
    check_model(cfg)
    check_compile(cfg)
    if not resume:
        check_weights(cfg)
    checkpoint = load_checkpoint(out / files.LAST) if resume else None
    if checkpoint is not None:
        check_continuation(checkpoint, changed_keys(checkpoint["config"], cfg), cfg.SOLVER.MAX_EPOCHS, out)
    setting = prepare(cfg, out, validation=True)
    seed_everything(cfg.SOLVER.SEED)
    train_loader = build_train_loader(cfg, setting.splits)
    model = build_model(cfg, setting.splits.num_classes, setting.splits.num_cameras, pretrained=checkpoint is None)
    if checkpoint is not None:
        fill_model(model, WeightFile("checkpoint", checkpoint["model"]), str(out / files.LAST), allow_skipped=False)
        check_same_data(checkpoint, setting.fingerprint, out / files.LAST)
    text = build_text_branch(cfg, model) if cfg.MODEL.MEMORY == "text" and checkpoint is None else None
    run = build_run(setting, model.to(setting.device))
    _open_output_dir(setting, resume, discard)
    try:
        with deferred_interrupts():
            if checkpoint is not None:
                _continue(setting, run, checkpoint)
            else:
                _start(setting, run, text)
                text = None  # a tower that would stay in the GPU's memory
            _fit(setting, run, train_loader)
            _final_test(setting, run)
    except KeyboardInterrupt:
        options = ["--config_file", str(arguments.config_file), *arguments.opts]
        advice = how_to_go_on(out / files.LAST, run.saved_epoch, cfg.SOLVER.MAX_EPOCHS, options)
        raise KeyboardInterrupt(advice) from None


def _train_splits(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """A run in OUTPUT_DIR/splitN for each split; finished ones are skipped, a broken one is resumed."""
    out = Path(cfg.OUTPUT_DIR)
    series.check_series_dir(out, arguments.resume, arguments.overwrite)
    discard = out if arguments.overwrite else None
    for split in range(series.NUM_SPLITS):
        _run_or_continue(split_cfg(cfg, split), arguments, f"split {split} of {cfg.DATASETS.NAMES}", discard)
        discard = None
    hold_messages()
    finish_series(out, files.TRAIN_LOG)


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
    _train_one(cfg, arguments, resume, discard)
    check_interrupt()  # pressed while the last files of the run were written


def is_finished(cfg: CfgNode) -> bool:
    """Whether the run, or every run of the series, of this config went to its end; never raises for another recipe."""
    all_splits = cfg.DATASETS.SPLIT == "all"
    runs = [split_cfg(cfg, split) for split in range(series.NUM_SPLITS)] if all_splits else [cfg]
    try:
        return all(_is_finished(run, Path(run.OUTPUT_DIR)) for run in runs)
    except InputError:
        return False


def _is_finished(cfg: CfgNode, folder: Path) -> bool:
    """Whether the run in `folder` went to its end with this config; raises InputError for another recipe."""
    epochs = series.finished_epochs(folder)
    try:
        changes = changed_keys((folder / files.CONFIG).read_text(encoding="utf-8"), cfg)
    except (OSError, ValueError):
        return False
    if epochs < cfg.SOLVER.MAX_EPOCHS:
        return False
    check_recipe(changes, folder / files.CONFIG, trained=True)
    return not any(key.startswith(("TEST.", "SOLVER.MAX_EPOCHS", "MODEL.SIE_UNSEEN")) for key in changes)


def _open_output_dir(setting: Setting, resume: bool, discard: Path | None) -> None:
    """From here on the run writes: the input is known to be sound."""
    files.create_output_dir(setting.out)
    if discard is not None:
        files.discard_run(discard)
    # Scores beside a config that they were not made with would mislead, also a series that is started again.
    (setting.out / files.METRICS).unlink(missing_ok=True)
    if not resume:
        for name in (files.MEMORY, files.TEXT_FEATURES):  # of a run that was stopped before its first state
            (setting.out / name).unlink(missing_ok=True)
    log_to_file(setting.out / files.TRAIN_LOG, append=resume)
    text = setting.cfg.dump()
    write_atomically(setting.out / files.CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
    save_labels(setting.out, setting.splits, of_training=True)


def _start(setting: Setting, run: RunState, text: TextBranch | None) -> None:
    """What v_p is compared with, from the pretrained encoder, and the state before the first epoch."""
    if setting.cfg.MODEL.MEMORY != "none":
        _make_memory(setting, run, text)
    if setting.cfg.TEST.UNTRAINED:
        run.untrained = evaluate_part(setting, run.model, setting.cfg.TEST.SAMPLING).summary()
        logger.info("before training: %s", scores_line(run.untrained))
    _save(setting, run, files.LAST)


def _make_memory(setting: Setting, run: RunState, text: TextBranch | None) -> None:
    """CLIP-Memory, or the text features of the text baseline's first stage."""
    pids = torch.tensor([t.pid for t in setting.splits.train])
    features = tracklet_features(setting, run.model)  # (n, E), n training tracklets
    if text is None:
        memory_CE = build_clip_memory(features, pids, setting.splits.num_classes)
        name, file = "CLIP-Memory", files.MEMORY
    else:
        memory_CE, name, file = learn_text(setting, text, features, pids), "text features", files.TEXT_FEATURES
    run.memory = memory_CE.to(setting.device)
    logger.info("%s: %d identities x %d values", name, *run.memory.shape)
    memory = run.memory.cpu()
    write_atomically(setting.out / file, lambda path: torch.save(memory, path))


def _continue(setting: Setting, run: RunState, checkpoint: dict) -> None:
    """The state after the last finished epoch."""
    run.load_state_dict(checkpoint)
    files.write_history(setting.out, run.history)
    logger.info("continuing after epoch %d", run.epoch)
    if checkpoint["precision"] != setting.precision:
        logger.warning("trained in %s so far, now in %s", checkpoint["precision"], setting.precision)


def _fit(setting: Setting, run: RunState, loader: torch.utils.data.DataLoader) -> None:
    """Per epoch: train, step the schedule, save, test."""
    cfg = setting.cfg
    criterion = build_criterion(cfg)
    if _test_is_due(cfg, run):  # of the epoch that a continued run ended with
        _test_epoch(setting, run)
    for epoch in range(run.epoch, cfg.SOLVER.MAX_EPOCHS):
        loader.batch_sampler.set_epoch(epoch)
        lr = cfg.SOLVER.BASE_LR * run.lr_schedule.lr_lambdas[0](epoch)
        means = train_one_epoch(
            run, criterion, loader, setting.normalize, setting.device, setting.dtype, lr, cfg.SOLVER.LOG_PERIOD,
            cfg.SOLVER.ACCUM_STEPS,
        )  # fmt: skip
        run.lr_schedule.step()
        run.epoch = epoch + 1
        run.history.append(files.history_row(run.epoch, lr, means))
        _save(setting, run, files.LAST)
        _log_epoch(run, means, cfg.SOLVER.MAX_EPOCHS)
        if _test_is_due(cfg, run):
            _test_epoch(setting, run)


def _test_is_due(cfg: CfgNode, run: RunState) -> bool:
    """Whether the last finished epoch is one to test and has not been."""
    on_schedule = run.epoch % cfg.SOLVER.EVAL_PERIOD == 0 or run.epoch >= cfg.SOLVER.MAX_EPOCHS
    return bool(run.history) and on_schedule and "mAP" not in run.history[-1]


def _test_epoch(setting: Setting, run: RunState) -> None:
    """Test the epoch just finished; keep it as best.pth when SOLVER.SELECT_BY says so."""
    select_by = setting.cfg.SOLVER.SELECT_BY
    part = "val" if select_by == "val" else "test"
    scores = evaluate_part(setting, run.model, setting.cfg.TEST.EVAL_SAMPLING, part).metrics
    run.history[-1] |= files.history_scores(scores)
    said = "validation " if part == "val" else ""
    logger.info("epoch %d/%d: %s%s", run.epoch, setting.cfg.SOLVER.MAX_EPOCHS, said, scores_line(scores))
    score = run.epoch if select_by == "last" else scores["mAP"] + scores["rank1"]
    if score > run.best.get("score", -1.0):
        run.best = {"epoch": run.epoch, "score": score}
        _save(setting, run, files.BEST)
    _save(setting, run, files.LAST)


def _final_test(setting: Setting, run: RunState) -> None:
    """Test the last epoch and best.pth with TEST.SAMPLING; metrics.json holds best.pth's scores, the others beside."""
    sampling, select_by = setting.cfg.TEST.SAMPLING, setting.cfg.SOLVER.SELECT_BY
    last = best = evaluate_part(setting, run.model, sampling)
    if run.best["epoch"] != run.epoch:
        load_weights(run.model, setting.out / files.BEST, allow_skipped=False)
        best = evaluate_part(setting, run.model, sampling)
    rows = {} if run.untrained is None else {"untrained": run.untrained}
    if select_by != "last":
        rows[f"best by {select_by}, epoch {run.best['epoch']}"] = best.summary()
    rows[f"last, epoch {run.epoch}"] = last.summary()
    extra = {"epoch": run.best["epoch"], "selected_by": select_by, "last": last.summary() | {"epoch": run.epoch}}
    if run.untrained is not None:
        extra["untrained"] = run.untrained
    report(setting, rows, best, extra)


def _save(setting: Setting, run: RunState, name: str) -> None:
    """Write the full state; history.csv follows last.pth."""
    extra = {"config": setting.cfg.dump(), "precision": setting.precision}
    extra |= {"cameras": setting.trained_cameras.state_dict(), "train_list": setting.fingerprint}
    save_checkpoint(setting.out / name, run.state_dict() | extra)
    if name == files.LAST:
        run.saved_epoch = run.epoch
        files.write_history(setting.out, run.history)


def _log_epoch(run: RunState, means: Mapping[str, float], max_epochs: int) -> None:
    terms = ", ".join(f"{name} {means[name]:.3f}" for name in ("total", "id", "triplet", "v2m", "frame_id"))
    left = timedelta(seconds=round((max_epochs - run.epoch) * means["seconds"]))
    logger.info(
        "epoch %d/%d: %s; %.0f s, %.0f frames/s, training left about %s",
        run.epoch, max_epochs, terms, means["seconds"], means["frames_per_second"], left,
    )  # fmt: skip
