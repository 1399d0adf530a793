"""One training run from top to bottom: data, model, CLIP-Memory, epochs, final test."""

import logging
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
from yacs.config import CfgNode

from configs import changed_keys
from datasets import build_train_loader
from datasets.clips import IdentitySampler
from loss import build_criterion
from loss.criterion import LOSS_TERMS
from model import build_model, build_text_branch, check_model, check_text, pretrained_path
from model.compiled import check_compiler
from model.encoder import is_resnet, weights_file
from model.text_prompt import TextBranch
from model.weights import WeightFile, fill_model, load_weights
from processor import run_folder as files
from processor.distributed import current_ranks
from processor.evaluation import Evaluation, evaluate_part, report, save_curves, scores_line
from processor.experiment import Experiment, check_file, prepare
from processor.runtime import current_device
from processor.training.epoch import Safety, train_one_epoch
from processor.training.events import build_watch, check_tensorboard
from processor.training.memory import make_memory
from processor.training.nonfinite import note_skipped, save_batch
from processor.training.resume import check_continuation, check_same_data, how_to_go_on
from processor.training.state import RunState, new_run
from processor.training.watch import Watch
from utils.checkpoint import Checkpoint
from utils.environment import TRAINING_NEEDS_LESS, explain_out_of_memory
from utils.errors import InputError, NonFiniteLossError
from utils.files import save_text
from utils.interrupt import deferred_interrupts
from utils.logger import log_to_file
from utils.metrics import SCORES
from utils.seed import make_deterministic, seed_everything

logger = logging.getLogger(__name__)


def train_one(cfg: CfgNode, resume: bool | str, discard: Path | None) -> None:
    """The whole run; with `resume` 'auto' it goes on where there is a checkpoint, else it starts.

    The run or series in the folder `discard` is removed once the input is known to be sound.
    """
    out, ranks = Path(cfg.OUTPUT_DIR), current_ranks()
    resume = ranks.on_main(lambda: files.check_output_dir(out, resume, overwrite=discard is not None))
    check_model(cfg)
    check_start(cfg, pretrained=not resume)
    checkpoint = ranks.on_main(lambda: _read_checkpoint(cfg, out)) if resume else None
    experiment = prepare(cfg, out, training=True)
    check_ranks(experiment)
    splits = experiment.splits
    seed_everything(cfg.SOLVER.SEED)
    make_deterministic(cfg.SOLVER.DETERMINISTIC)
    train_loader = build_train_loader(cfg, splits, ranks.share(cfg.SOLVER.IMS_PER_BATCH))
    logger.info(
        "%d training items (%s), %d batches of %d in the first epoch",
        len(splits.train), splits.train_items, len(train_loader), cfg.SOLVER.IMS_PER_BATCH,
    )  # fmt: skip
    model = build_model(cfg, splits.num_classes, splits.num_cameras, pretrained=checkpoint is None)
    if checkpoint is not None:
        fill_model(model, WeightFile("checkpoint", checkpoint.model), str(out / files.LAST), allow_skipped=False)
        check_same_data(checkpoint, experiment.fingerprint, out / files.LAST)
    text = build_text_branch(cfg, model) if cfg.MODEL.MEMORY == "text" and checkpoint is None else None
    run = new_run(experiment, model.to(experiment.runtime.device))
    if checkpoint is not None:
        memory_shape = None if cfg.MODEL.MEMORY == "none" else (model.num_classes, model.encoder.embed_width)
        checkpoint.check_fits(out / files.LAST, model, run.optimizer, memory_shape)
    if not ranks.is_main:  # the weights are those of rank 0, dropout and erasing are not
        seed_everything(cfg.SOLVER.SEED, ranks.rank)
    ranks.on_main(lambda: _open_output_dir(experiment, resume, discard))
    try:
        with deferred_interrupts(), closing(build_watch(experiment)) as watch:
            if checkpoint is not None:
                _continue(experiment, run, checkpoint)
            else:
                _start(experiment, run, watch, text)
                text = None  # frees the text tower on the GPU
            _fit(experiment, run, watch, train_loader)
            _final_test(experiment, run, watch)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how_to_go_on(out / files.LAST, run.saved, cfg.SOLVER.MAX_EPOCHS)) from None


def _read_checkpoint(cfg: CfgNode, out: Path) -> Checkpoint:
    """last.pth, if the run can go on from it under this config."""
    checkpoint = files.load_last(out)
    changes = changed_keys(checkpoint.config, cfg)
    check_continuation(checkpoint, changes, cfg.DATASETS.NAMES, cfg.SOLVER.MAX_EPOCHS, out)
    return checkpoint


def check_ranks(experiment: Experiment) -> None:
    """Raise InputError where the batch cannot be cut over the ranks."""
    cfg, ranks = experiment.cfg, experiment.runtime.ranks
    if ranks.size == 1:
        return
    least = ranks.size * cfg.SOLVER.ACCUM_STEPS
    if cfg.SOLVER.IMS_PER_BATCH < least:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is the batch of all {ranks.size} processes, less than a "
            f"clip for each of SOLVER.ACCUM_STEPS {cfg.SOLVER.ACCUM_STEPS} parts in each: raise it to {least} or more"
        )
    if is_resnet(cfg.MODEL.NAME) and experiment.runtime.device.type == "cpu":
        raise InputError(
            f"MODEL.NAME {cfg.MODEL.NAME} takes statistics of the whole batch, which several processes can share on "
            "GPUs only; start one process"
        )
    here = len(range(cfg.SOLVER.IMS_PER_BATCH)[ranks.share(cfg.SOLVER.IMS_PER_BATCH)])
    logger.info("%d processes, %d of the %d clips of a batch in this one", ranks.size, here, cfg.SOLVER.IMS_PER_BATCH)


def check_start(cfg: CfgNode, pretrained: bool = True) -> None:
    """Raise InputError when pretrained weights, text tower, compiler or TensorBoard are missing; reads no data set."""
    if cfg.SOLVER.COMPILE:
        check_compiler(current_device())
    if cfg.SOLVER.TENSORBOARD and current_ranks().is_main:
        check_tensorboard(Path(cfg.OUTPUT_DIR) / files.EVENTS)
    if not pretrained:
        return
    check_text(cfg)
    if cfg.MODEL.PRETRAIN_PATH:
        check_file("MODEL.PRETRAIN_PATH", Path(pretrained_path(cfg)), f"put {weights_file(cfg.MODEL.NAME)} there")


def _open_output_dir(experiment: Experiment, resume: bool, discard: Path | None) -> None:
    """Make the folder and write the first files; the input is known to be sound."""
    files.create_output_dir(experiment.out)
    if discard is not None:
        files.discard_run(discard)
    # Old scores must not stand beside the new config, nor be taken for this run's when a series is started again.
    (experiment.out / files.METRICS).unlink(missing_ok=True)
    if not resume:
        for name in files.BEFORE_TRAINING:  # of a run that was stopped before its first checkpoint
            (experiment.out / name).unlink(missing_ok=True)
    log_to_file(experiment.out / files.TRAIN_LOG, append=resume)
    save_text(experiment.out / files.CONFIG, experiment.cfg.dump())
    files.save_labels(experiment.out, experiment.splits, of_training=True)


def _evaluate(experiment: Experiment, run: RunState, watch: Watch, sampling: str, part: str = "test") -> Evaluation:
    """`evaluate_part`, timed."""
    start = time.perf_counter()
    evaluation = evaluate_part(experiment, run.model, sampling, part)
    watch.note_pass(sampling, experiment.test_frames(sampling, part), time.perf_counter() - start)
    return evaluation


def _start(experiment: Experiment, run: RunState, watch: Watch, text: TextBranch | None) -> None:
    """CLIP-Memory or text features from the pretrained encoder, and the checkpoint before the first epoch."""
    if experiment.cfg.MODEL.MEMORY != "none":
        run.memory = make_memory(experiment, run.model, text, partial(watch.note_pass, "dense"))
    if experiment.cfg.TEST.UNTRAINED:
        run.untrained = _evaluate(experiment, run, watch, experiment.cfg.TEST.SAMPLING).summary()
        logger.info("before training: %s", scores_line(run.untrained))
    run.save(experiment, files.LAST)


def _continue(experiment: Experiment, run: RunState, checkpoint: Checkpoint) -> None:
    """Restore the state of the checkpoint: after a finished epoch, or after a step of the next one."""
    ranks = experiment.runtime.ranks
    run.restore(checkpoint, ranks, experiment.cfg.SOLVER.SEED)
    if ranks.is_main:
        files.write_history(experiment.out, run.history)
    logger.info("continuing after epoch %d%s", run.epoch, f", step {run.step}" if run.step else "")
    if checkpoint.precision != experiment.runtime.precision:
        logger.warning("trained in %s so far, now in %s", checkpoint.precision, experiment.runtime.precision)
    tests = experiment.test_runtime.precision
    if "PRECISION:" not in checkpoint.config and checkpoint.precision != tests:  # of a version without the key
        logger.warning("tested in %s so far, now in %s (TEST.PRECISION)", checkpoint.precision, tests)


def _fit(experiment: Experiment, run: RunState, watch: Watch, loader: torch.utils.data.DataLoader) -> None:
    """Per epoch: train, step the schedule, save, test."""
    cfg, sampler = experiment.cfg, loader.batch_sampler
    step = run.training_step(build_criterion(cfg), experiment.runtime, cfg.SOLVER.ACCUM_STEPS, cfg.SOLVER.IMS_PER_BATCH)
    safety = _safety(experiment, run, watch, sampler)
    parts = experiment.runtime.ranks.size * cfg.SOLVER.ACCUM_STEPS
    frames = cfg.SOLVER.IMS_PER_BATCH * cfg.INPUT.SEQ_LEN // parts  # that pass the network at a time
    watch.open(run, sampler.batches_before, cfg.dump())
    if _test_is_due(cfg, run):  # the epoch that a continued run ended with
        _test_epoch(experiment, run, watch)
    for epoch in range(run.epoch, cfg.SOLVER.MAX_EPOCHS):
        sampler.set_epoch(epoch, run.step)
        lr = cfg.SOLVER.BASE_LR * run.lr_schedule.lr_lambdas[0](epoch)
        watch.set_lr(lr)
        with explain_out_of_memory(TRAINING_NEEDS_LESS, frames):
            try:
                means = train_one_epoch(run, step, loader, safety, watch)
            except NonFiniteLossError as error:
                if not error.step:
                    raise
                written = _save_nonfinite(experiment, run, sampler, error.step)
                raise NonFiniteLossError(f"{error}; its tracklets: {written}") from None
        experiment.share_bad_frames()
        run.lr_schedule.step()
        run.epoch = epoch + 1
        row = {"epoch": run.epoch, "lr": lr, "seconds": round(means["seconds"], 2)}  # the scores follow after a test
        run.history.append(row | {f"loss_{name}": means[name] for name in LOSS_TERMS})
        watch.after_epoch(run, means["frames_per_second"])
        _save(experiment, run, watch)
        if _test_is_due(cfg, run):
            _test_epoch(experiment, run, watch)


def _save(experiment: Experiment, run: RunState, watch: Watch) -> None:
    """Write last.pth, after what was seen up to it."""
    watch.flush()
    run.save(experiment, files.LAST)


def _safety(experiment: Experiment, run: RunState, watch: Watch, sampler: IdentitySampler) -> Safety:
    """Checkpoints within an epoch, and what becomes of a step whose loss is not finite."""
    solver = experiment.cfg.SOLVER

    def skip(terms: str) -> None:
        run.skipped += 1
        written = _save_nonfinite(experiment, run, sampler, run.step)
        note_skipped(run.skipped, solver.NONFINITE_LIMIT, run.epoch + 1, run.step, terms, written)

    save = partial(_save, experiment, run, watch)
    return Safety(save, solver.SAVE_EVERY_STEPS, skip if solver.ON_NONFINITE == "skip" else None)


def _save_nonfinite(experiment: Experiment, run: RunState, sampler: IdentitySampler, step: int) -> Path:
    """The file with the tracklets of this step's batch."""
    path = experiment.out / files.NONFINITE.format(epoch=run.epoch + 1, step=step)
    if experiment.runtime.ranks.is_main:
        save_batch(path, run.epoch + 1, step, sampler.batches[step - 1], experiment.splits)
    return path


def _test_is_due(cfg: CfgNode, run: RunState) -> bool:
    """Whether the last finished epoch is to be tested and has not been tested yet."""
    on_schedule = run.epoch % cfg.SOLVER.EVAL_PERIOD == 0 or run.epoch >= cfg.SOLVER.MAX_EPOCHS
    return bool(run.history) and run.step == 0 and on_schedule and "mAP" not in run.history[-1]


def _test_epoch(experiment: Experiment, run: RunState, watch: Watch) -> None:
    """Test the epoch just finished; keep it as best.pth when SOLVER.SELECT_BY says so."""
    select_by = experiment.cfg.SOLVER.SELECT_BY
    part = "val" if select_by == "val" else "test"
    scores = _evaluate(experiment, run, watch, experiment.cfg.TEST.EVAL_SAMPLING, part).metrics
    run.history[-1] |= {name: scores[name] for name in SCORES}
    tested = "validation " if part == "val" else ""
    logger.info("epoch %d/%d: %s%s", run.epoch, experiment.cfg.SOLVER.MAX_EPOCHS, tested, scores_line(scores))
    watch.after_test(run)
    score = run.epoch if select_by == "last" else scores["mAP"] + scores["rank1"]
    if score > run.best.get("score", -1.0):
        run.best = {"epoch": run.epoch, "score": score}
        run.save(experiment, files.BEST)
    _save(experiment, run, watch)


def _final_test(experiment: Experiment, run: RunState, watch: Watch) -> None:
    """Test the last epoch and best.pth with TEST.SAMPLING; metrics.json holds best.pth's scores, the others beside."""
    sampling, select_by = experiment.cfg.TEST.SAMPLING, experiment.cfg.SOLVER.SELECT_BY
    last = best = evaluate_part(experiment, run.model, sampling)
    if run.best["epoch"] != run.epoch:
        ranks = experiment.runtime.ranks
        if ranks.is_main:
            load_weights(run.model, experiment.out / files.BEST, allow_skipped=False)
        ranks.share_weights(run.model)
        best = evaluate_part(experiment, run.model, sampling)
    rows = {} if run.untrained is None else {"untrained": run.untrained}
    if select_by != "last":
        rows[f"best by {select_by}, epoch {run.best['epoch']}"] = best.summary()
    rows[f"last, epoch {run.epoch}"] = last.summary()
    chosen = {"train_items": experiment.splits.train_items, "epoch": run.best["epoch"], "selected_by": select_by}
    extra = chosen | {"last": last.summary() | {"epoch": run.epoch}}
    if run.untrained is not None:
        extra["untrained"] = run.untrained
    report(experiment, run.model, rows, best, extra)
    watch.after_final_test(rows)
    if experiment.runtime.ranks.is_main:
        path = experiment.out / files.CURVES
        with files.optional(path):
            save_curves(path, run.history)
            logger.info("wrote %s", path)
