"""What is seen of a training while it runs: the bar and the lines of the log."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from tqdm import tqdm

from loss.criterion import LOSS_TERMS
from processor.training.state import RunState
from processor.training.time_left import Clock, duration_text
from utils.meters import Meters
from utils.progress import progress

logger = logging.getLogger(__name__)

_BAR = "{desc} {percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt} [{rate_fmt}{postfix}]"  # without the epoch's own time


class Watch:
    """What a training tells of its course; this one shows the bar of an epoch and nothing else.

    Called on all ranks.
    """

    def open(self, run: RunState, steps_before: Callable[[int], int], config: str) -> None:
        """The run begins or goes on with its epochs; `config` is its YAML.

        `steps_before` counts the steps of all epochs before one (from 0).
        """

    def note_pass(self, sampling: str, frames: int, seconds: float) -> None:
        """A pass without gradients has read so many frames."""

    def set_lr(self, lr: float) -> None:
        """The base learning rate of the next epoch."""

    def bar(self, loader: Iterable, run: RunState, last: int) -> tqdm:
        """A bar over the loader of the epoch that begins, or goes on after `run.step`, and ends with step `last`."""
        return progress(loader, f"epoch {run.epoch + 1}", "step", total=last or None, initial=run.step)

    def before_update(self, run: RunState, losses: Mapping[str, Tensor]) -> None:
        """Gradients and losses of a step are computed, the weights are those before it."""

    def after_step(self, run: RunState, meters: Meters, frames_per_second: float) -> None:
        """A step has ended; the meters hold the losses of the epoch so far, of which the speed is the mean."""

    def after_epoch(self, run: RunState, frames_per_second: float) -> None:
        """An epoch has ended; its losses and seconds are the last row of `run.history`."""

    def after_test(self, run: RunState) -> None:
        """The last finished epoch has been tested; its scores, as fractions, are in the last row of `run.history`."""

    def after_final_test(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """The final scores, as fractions, of each model that was tested."""

    def flush(self) -> None:
        """The state of the run is about to be saved; what was seen so far is to outlive the process."""

    def close(self) -> None:
        """The run has ended, in whatever way."""


class RunWatch(Watch):
    """The bar and the log of a run, with the time left until its end: training, tests and final test."""

    def __init__(self, log_period: int, clock: Clock) -> None:
        """`log_period` is the number of steps between two lines."""
        self._log_period, self._clock = log_period, clock
        self._epochs = clock.plan.epochs
        self._lr, self._steps = 0.0, 0
        self._bar: tqdm | None = None

    def note_pass(self, sampling: str, frames: int, seconds: float) -> None:
        self._clock.note_pass(sampling, frames, seconds)

    def set_lr(self, lr: float) -> None:
        self._lr = lr

    def bar(self, loader: Iterable, run: RunState, last: int) -> tqdm:
        self._steps = last
        self._clock.start_epoch(last, run.history)
        self._bar = progress(loader, self._title(run), "step", total=last, initial=run.step, form=_BAR)
        return self._bar

    def after_step(self, run: RunState, meters: Meters, frames_per_second: float) -> None:
        self._clock.note_step()
        self._bar.set_description_str(self._title(run), refresh=False)
        if not self._is_due(run.step):
            return
        text = ", ".join(f"{name} {value:.3f}" for name, value in meters.means().items())
        self._bar.set_postfix_str(f"{text}, lr {self._lr:.2e}, {frames_per_second:,.0f} frames/s", refresh=False)
        if run.step > 1:
            logger.info(
                "epoch %d step %d/%d: %s, lr %.2e%s",
                run.epoch + 1, run.step, self._steps, text, self._lr, self._left(run, "; run left about "),
            )  # fmt: skip

    def after_epoch(self, run: RunState, frames_per_second: float) -> None:
        row = run.history[-1]
        self._clock.end_epoch(row["seconds"])
        terms = ", ".join(f"{name} {row[f'loss_{name}']:.3f}" for name in LOSS_TERMS)
        left = self._clock.left(run.epoch - 1, self._steps)
        logger.info(
            "epoch %d/%d: %s; %.0f s, %.0f frames/s, run left about %s",
            run.epoch, self._epochs, terms, row["seconds"], frames_per_second, duration_text(left),
        )  # fmt: skip

    def _is_due(self, step: int) -> bool:
        """Whether the first step of an epoch, or one of every `log_period`."""
        return step == 1 or step % self._log_period == 0

    def _title(self, run: RunState) -> str:
        return f"epoch {run.epoch + 1}/{self._epochs}{self._left(run, ', run left ')}"

    def _left(self, run: RunState, before: str) -> str:
        """The time left until the end of the run, after `before`; empty as long as nothing has been timed."""
        left = self._clock.left(run.epoch, run.step)
        return "" if left is None else f"{before}{duration_text(left)}"
