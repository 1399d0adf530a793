"""A training in TensorBoard: its course as events in OUTPUT_DIR/tensorboard (SOLVER.TENSORBOARD).

The axis of every curve counts the steps of the run, and a point stands at the number of steps before it: the losses of
a step are those of the weights that it finds, and the scores of an epoch stand where the next one begins. A continued
run begins at its last checkpoint; TensorBoard leaves out what was written from there on.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from processor import run_folder as files
from processor.experiment import Experiment
from processor.training.state import RunState
from processor.training.time_left import Clock, Plan
from processor.training.watch import RunWatch, Watch
from solver import group_names
from utils.errors import InputError
from utils.meters import Meters
from utils.metrics import SCORES

try:
    import resource
except ImportError:  # Windows
    resource = None

logger = logging.getLogger(__name__)


def check_tensorboard(folder: Path) -> None:
    """Raise InputError when TensorBoard's package is missing or its events cannot be written to the folder."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise InputError("SOLVER.TENSORBOARD True needs a package that is not there: pip install tensorboard") from None
    if folder.exists() and not folder.is_dir():
        raise InputError(f"SOLVER.TENSORBOARD True: {folder} is a file; move it away, its name is needed for a folder")
    files.check_writable(folder, "SOLVER.TENSORBOARD True:")


def build_watch(experiment: Experiment) -> Watch:
    """What shows the course of a run under its config."""
    cfg = experiment.cfg
    part = "val" if cfg.SOLVER.SELECT_BY == "val" else "test"
    final_tests = 1 if cfg.SOLVER.SELECT_BY == "last" else 2  # best.pth and the last epoch
    plan = Plan(
        epochs=cfg.SOLVER.MAX_EPOCHS,
        step_frames=cfg.SOLVER.IMS_PER_BATCH * cfg.INPUT.SEQ_LEN,
        test_every=cfg.SOLVER.EVAL_PERIOD,
        test_frames=experiment.test_frames(cfg.TEST.EVAL_SAMPLING, part),
        test_sampling=cfg.TEST.EVAL_SAMPLING,
        final_frames=final_tests * experiment.test_frames(cfg.TEST.SAMPLING),
        final_sampling=cfg.TEST.SAMPLING,
    )
    if cfg.SOLVER.TENSORBOARD and experiment.runtime.ranks.is_main:
        return EventWatch(cfg.SOLVER.LOG_PERIOD, Clock(plan), experiment.out / files.EVENTS, part)
    return RunWatch(cfg.SOLVER.LOG_PERIOD, Clock(plan))


class EventWatch(RunWatch):
    """Bar, log and TensorBoard's curves, as one process of a run shows them."""

    def __init__(self, log_period: int, clock: Clock, folder: Path, part: str) -> None:
        """`part` is what the epochs are tested on, 'test' or 'val'."""
        super().__init__(log_period, clock)
        self._folder, self._part = folder, part
        self._writer: EventWriter | None = None
        self._finished = 0  # steps of the finished epochs
        self._names: list[str] = []
        self._values: Tensor | None = None  # losses of a step and the norm of its gradient, on the device

    def open(self, run: RunState, steps_before: Callable[[int], int], config: str) -> None:
        self._finished = steps_before(run.epoch)
        step = self._finished + run.step
        self._writer = EventWriter(self._folder, step)
        self._writer.text("config", f"```yaml\n{config}\n```", step)
        if run.history and run.step == 0:  # it may have ended while it wrote them
            self._write_epoch(run)
            self.after_test(run)

    def before_update(self, run: RunState, losses: Mapping[str, Tensor]) -> None:
        if self._is_due(run.step):
            self._names = list(losses)
            values = [loss.detach().float() for loss in losses.values()]
            self._values = torch.stack([*values, gradient_norm(run.model, run.scaler).to(values[0])])

    def after_step(self, run: RunState, meters: Meters, frames_per_second: float) -> None:
        super().after_step(run, meters, frames_per_second)
        if not self._is_due(run.step):
            return
        *losses, norm = self._values.tolist()
        groups, device = run.optimizer.param_groups, self._values.device
        values = {f"loss/{name}": loss for name, loss in zip(self._names, losses)} | {"gradient/norm": norm}
        values |= {f"lr/{name}": group["lr"] for name, group in zip(group_names(run.model, groups), groups)}
        values |= {"speed/frames_per_second": frames_per_second} | peak_memory(device)
        self._writer.scalars(values, self._finished + run.step - 1)

    def after_epoch(self, run: RunState, frames_per_second: float) -> None:
        super().after_epoch(run, frames_per_second)
        self._finished += self._steps
        self._write_epoch(run)

    def after_test(self, run: RunState) -> None:
        row = run.history[-1]
        self._writer.scalars({f"{self._part}/{name}": row[name] for name in SCORES if name in row}, self._finished)

    def _write_epoch(self, run: RunState) -> None:
        row = run.history[-1]
        values = {f"epoch/{name}": value for name, value in row.items() if name not in ("epoch", *SCORES)}
        self._writer.scalars(values | {"epoch/number": row["epoch"]}, self._finished)

    def after_final_test(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        table = [["percent", *SCORES.values()], ["---"] * (1 + len(SCORES))]
        for name, scores in rows.items():
            table.append([name, *(f"{100 * scores[column]:.2f}" if column in scores else "-" for column in SCORES)])
        self._writer.text("final scores", "\n".join(f"| {' | '.join(cells)} |" for cells in table), self._finished)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def gradient_norm(model: nn.Module, scaler: torch.amp.GradScaler) -> Tensor:
    """The L2 norm of all gradients without the scaler's factor: a scalar on their device, which is not waited for."""
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    norm = nn.utils.get_total_norm(grads)
    return norm / scaler.scale(torch.ones_like(norm))


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that was held so far, in GB, with the tag of its curve.

    That of torch's tensors on a GPU; on a CPU that of the process, or nothing where the system does not tell.
    """
    if device.type == "cuda":
        return {"memory/gpu_peak_GB": torch.cuda.max_memory_allocated(device) / 1e9}
    if resource is None:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return {"memory/process_peak_GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


class EventWriter:
    """torch's SummaryWriter, which gives up where the system refuses, as on a full disk: training goes on without it.

    One warning says so.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """Points at `first_step` and later that stand in the folder already are left out."""
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._writer = folder, None
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        with self._giving_up():
            self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A point at `step` on the curve of each tag."""
        with self._giving_up():
            for tag, value in values.items() if self._writer else ():
                self._writer.add_scalar(tag, value, step)

    def text(self, tag: str, text: str, step: int) -> None:
        """A text in Markdown."""
        with self._giving_up():
            if self._writer:
                self._writer.add_text(tag, text, step)

    def flush(self) -> None:
        """Wait until all is with the system."""
        with self._giving_up():
            if self._writer:
                self._writer.flush()

    def close(self) -> None:
        """Write what is left and end the thread."""
        with self._giving_up():
            if self._writer:
                self._writer.close()
        self._writer = None
        threading.excepthook = self._hook

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            logger.warning(
                "%s cannot be written (%s): training goes on without TensorBoard; --resume takes it up again",
                self._folder, error.strerror or error,
            )  # fmt: skip

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """No traceback of TensorBoard's thread: the next call raises its error again."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._hook(failure)
