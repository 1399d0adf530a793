"""A run from top to bottom: `train_main` trains and tests, `eval_main` tests."""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode

from configs import changed_keys
from datasets import build_memory_loader, build_test_loader, build_train_loader, check_frames_present, load_splits
from datasets.tracklet import ReIDSplits
from datasets.transforms import Normalize
from loss import build_criterion
from model import build_model, check_model
from model.tfclip import TFCLIP
from model.weights import ArchitectureError, fill_model, load_weights
from processor import output_dir as files
from processor.cli import run_command
from processor.evaluator import Evaluation, Protocol, evaluate
from processor.memory_pass import run_memory_pass
from processor.reports import log_results, scores_line, write_reports
from processor.resume import check_recipe, how_to_go_on
from processor.trainer import RunState, train_one_epoch
from solver import build_lr_schedule, build_optimizer
from utils.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from utils.errors import InputError, MissingFileError
from utils.interrupt import deferred_interrupts
from utils.logger import describe_environment, log_to_file
from utils.precision import amp_dtype, precision_name
from utils.seed import seed_everything

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What training and testing share."""

    cfg: CfgNode
    out: Path
    splits: ReIDSplits
    normalize: nn.Module  # uint8 frames -> normalised float, on `device`
    device: torch.device
    dtype: torch.dtype | None  # autocast type, None for float32

    @property
    def precision(self) -> str:
        """The name of the number type of the forward pass."""
        return precision_name(self.dtype)


def train_main(argv: Sequence[str]) -> int:
    """`train-main.py`: train, test best and last epoch; returns the exit code."""
    return run_command(argv, "Train TF-CLIP, then test the best and the last epoch.", train)


def eval_main(argv: Sequence[str]) -> int:
    """`eval-main.py`: test the weights in TEST.WEIGHT (OUTPUT_DIR/best.pth); returns the exit code."""
    return run_command(argv, "Test the weights in TEST.WEIGHT, by default OUTPUT_DIR/best.pth.", test)


def train(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """The whole run: data, model, CLIP-Memory, epochs, final test."""
    out = Path(cfg.OUTPUT_DIR)
    files.check_output_dir(out, arguments.resume, arguments.overwrite)
    check_model(cfg)
    if cfg.MODEL.PRETRAIN_PATH and not arguments.resume:
        _check_file("MODEL.PRETRAIN_PATH", Path(cfg.MODEL.PRETRAIN_PATH), "put OpenAI's ViT-B-16.pt there")
    checkpoint = load_checkpoint(out / files.LAST) if arguments.resume else None
    if checkpoint is not None:
        check_recipe(changed_keys(checkpoint["config"], cfg), out / files.LAST)
    setting = _prepare(cfg, out)
    seed_everything(cfg.SOLVER.SEED)
    train_loader = build_train_loader(cfg, setting.splits)
    model = build_model(cfg, setting.splits.num_classes, setting.splits.num_cameras, pretrained=checkpoint is None)
    if checkpoint is not None:
        fill_model(model, "checkpoint", checkpoint["model"], str(out / files.LAST), allow_skipped=False)
    run = _build_run(cfg, model.to(setting.device), setting)
    _open_output_dir(setting, arguments)
    try:
        with deferred_interrupts():
            if checkpoint is not None:
                _continue(setting, run, checkpoint)
            else:
                _start(setting, run)
            _fit(setting, run, train_loader)
            _final_test(setting, run)
    except KeyboardInterrupt:
        options = ["--config_file", str(arguments.config_file), *arguments.opts]
        advice = how_to_go_on(out / files.LAST, run.saved_epoch, cfg.SOLVER.MAX_EPOCHS, options)
        raise KeyboardInterrupt(advice) from None


def test(cfg: CfgNode, _arguments: argparse.Namespace) -> None:
    """Test one weight file of any kind."""
    out = Path(cfg.OUTPUT_DIR)
    files.check_writable(out)
    check_model(cfg)
    weight = Path(cfg.TEST.WEIGHT) if cfg.TEST.WEIGHT else out / files.BEST
    _check_file("TEST.WEIGHT", weight, "name a weight file, or the OUTPUT_DIR of a finished run")
    setting = _prepare(cfg, out)
    model = build_model(cfg, setting.splits.num_classes, setting.splits.num_cameras, pretrained=False)
    try:
        report = load_weights(model, weight)
    except ArchitectureError as error:
        config = weight.parent / files.CONFIG
        hint = f"; the config of its run is {config} (--config_file)" if config.exists() else ""
        raise InputError(f"{error}{hint}") from None
    if report.kind not in ("published", "checkpoint"):
        raise InputError(f"TEST.WEIGHT {weight} holds CLIP's encoder alone; a test needs weights of a trained TF-CLIP")
    files.create_output_dir(out)
    log_to_file(out / files.TEST_LOG)
    logger.info("weights: %s", weight)
    for line in report.lines():
        logger.info("%s", line)
    with deferred_interrupts():
        evaluation = _evaluate(setting, model.to(setting.device), cfg.TEST.SAMPLING)
    _report(setting, {weight.name: evaluation.summary()}, evaluation, {"weight": str(weight)})


def _prepare(cfg: CfgNode, out: Path) -> Setting:
    """Device, number type and data set."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = amp_dtype(cfg.SOLVER.AMP, device)
    start = time.perf_counter()
    splits = load_splits(cfg.DATASETS.NAMES, cfg.DATASETS.ROOT_DIR)
    check_frames_present(splits)
    for line in describe_environment(device).splitlines():
        logger.info("%s", line)
    logger.info("precision %s (SOLVER.AMP %s)", precision_name(dtype), cfg.SOLVER.AMP)
    logger.info("%s read in %.1f s from %s", cfg.DATASETS.NAMES, time.perf_counter() - start, cfg.DATASETS.ROOT_DIR)
    for line in splits.summary().splitlines():
        logger.info("%s", line)
    normalize = Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD).to(device)
    return Setting(cfg, out, splits, normalize, device, dtype)


def _build_run(cfg: CfgNode, model: TFCLIP, setting: Setting) -> RunState:
    optimizer = build_optimizer(cfg, model)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.dtype is torch.float16)
    no_memory = torch.zeros(model.num_classes, model.encoder.embed_width, device=setting.device)
    return RunState(model, optimizer, build_lr_schedule(cfg, optimizer), scaler, no_memory)


def _open_output_dir(setting: Setting, arguments: argparse.Namespace) -> None:
    """From here on the run writes: the input is known to be sound."""
    files.create_output_dir(setting.out)
    if arguments.overwrite:
        files.discard_run(setting.out)
    log_to_file(setting.out / files.TRAIN_LOG, append=arguments.resume)
    text = setting.cfg.dump()
    write_atomically(setting.out / files.CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def _start(setting: Setting, run: RunState) -> None:
    """CLIP-Memory from the pretrained encoder, and the state before the first epoch."""
    pids = [t.pid for t in setting.splits.train]
    loader = build_memory_loader(setting.cfg, setting.splits)
    run.clip_memory = run_memory_pass(run.model, loader, pids, setting.normalize, setting.device, setting.dtype)
    logger.info("CLIP-Memory: %d identities x %d values", *run.clip_memory.shape)
    if setting.cfg.TEST.UNTRAINED:
        run.untrained = _evaluate(setting, run.model, setting.cfg.TEST.SAMPLING).summary()
        logger.info("before training: %s", scores_line(run.untrained))
    memory = run.clip_memory.cpu()
    write_atomically(setting.out / files.MEMORY, lambda path: torch.save(memory, path))
    _save(setting, run, files.LAST)


def _continue(setting: Setting, run: RunState, checkpoint: dict) -> None:
    """The state after the last finished epoch."""
    run.load_state_dict(checkpoint)
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
            run, criterion, loader, setting.normalize, setting.device, setting.dtype, lr, cfg.SOLVER.LOG_PERIOD
        )
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
    """Test the epoch just finished; keep it as best.pth when it is the best by mAP + Rank-1."""
    scores = _evaluate(setting, run.model, setting.cfg.TEST.EVAL_SAMPLING).metrics
    run.history[-1] |= files.history_scores(scores)
    logger.info("epoch %d/%d: %s", run.epoch, setting.cfg.SOLVER.MAX_EPOCHS, scores_line(scores))
    if scores["mAP"] + scores["rank1"] > run.best.get("score", -1.0):
        run.best = {"epoch": run.epoch, "score": scores["mAP"] + scores["rank1"]}
        _save(setting, run, files.BEST)
    _save(setting, run, files.LAST)


def _final_test(setting: Setting, run: RunState) -> None:
    """Test the last epoch and best.pth with TEST.SAMPLING; metrics.json holds best.pth's scores, the others beside."""
    sampling = setting.cfg.TEST.SAMPLING
    last = best = _evaluate(setting, run.model, sampling)
    if run.best["epoch"] != run.epoch:
        load_weights(run.model, setting.out / files.BEST, allow_skipped=False)
        best = _evaluate(setting, run.model, sampling)
    rows = {} if run.untrained is None else {"untrained": run.untrained}
    rows[f"best, epoch {run.best['epoch']}"] = best.summary()
    rows[f"last, epoch {run.epoch}"] = last.summary()
    extra = {"epoch": run.best["epoch"], "last": last.summary() | {"epoch": run.epoch}}
    if run.untrained is not None:
        extra["untrained"] = run.untrained
    _report(setting, rows, best, extra)


def _evaluate(setting: Setting, model: TFCLIP, sampling: str) -> Evaluation:
    cfg, splits = setting.cfg, setting.splits
    include = {"auto": splits.gallery_includes_query, "True": True, "False": False}[cfg.TEST.GALLERY_INCLUDES_QUERY]
    re_ranking = (cfg.TEST.RE_RANKING_K1, cfg.TEST.RE_RANKING_K2, cfg.TEST.RE_RANKING_LAMBDA)
    protocol = Protocol(
        dataset=cfg.DATASETS.NAMES,
        sampling=sampling,
        gallery_includes_query=include,
        neck_feat=cfg.TEST.NECK_FEAT,
        feat_norm=cfg.TEST.FEAT_NORM,
        re_ranking=re_ranking if cfg.TEST.RE_RANKING else None,
        camera_embedding=model.encoder.camera_embed is not None,
    )
    tracklets = splits.query + splits.gallery
    loader = build_test_loader(cfg, tracklets, sampling)
    return evaluate(
        model, loader, tracklets, len(splits.query), protocol, setting.normalize, setting.device, setting.dtype
    )


def _report(setting: Setting, rows: Mapping[str, Mapping], evaluation: Evaluation, extra: Mapping) -> None:
    """The table on screen and in the log, and the files that were asked for."""
    keys = setting.cfg.TEST
    written = write_reports(
        setting.out, evaluation, extra, keys.SAVE_FEATURES, keys.SAVE_RANKS, sheet_queries=keys.CONTACT_SHEET
    )
    log_results(evaluation, rows)
    logger.info("wrote %s", ", ".join(map(str, written)))


def _save(setting: Setting, run: RunState, name: str) -> None:
    """Write the full state; history.csv follows last.pth."""
    extra = {"config": setting.cfg.dump(), "precision": setting.precision}
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


def _check_file(key: str, path: Path, advice: str) -> None:
    if not path.is_file():
        raise MissingFileError(f"{key}: {path} {'is a folder' if path.is_dir() else 'does not exist'}; {advice}")
