"""How long a run still takes: the seconds of what has been measured, times what is left."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_SURE = 10  # steps of an epoch that tell more than the epoch before
_FORWARD = 1 / 3  # of a training step: its backward pass computes twice as much


@dataclass(frozen=True)
class Plan:
    """The parts of a run; a test is given by the frames that it reads and by its sampling, 'first' or 'dense'."""

    epochs: int
    step_frames: int  # of a training step
    test_every: int  # epochs; the last epoch is always tested
    test_frames: int  # of a test during training
    test_sampling: str
    final_frames: int  # of the final test, or of the two of them
    final_sampling: str

    def tests_after(self, epoch: int) -> int:
        """Tests during training that follow those of the first `epoch` epochs."""
        if epoch >= self.epochs:
            return 0
        last = self.epochs % self.test_every > 0  # beside those of the schedule
        return self.epochs // self.test_every - epoch // self.test_every + last


@dataclass(frozen=True)
class Pace:
    """Seconds of each part of a run."""

    step: float  # of the epoch under way
    epoch: float  # without its test
    test_frame: float  # in a test during training
    final_frame: float  # in the final test


def seconds_left(plan: Plan, epoch: int, steps: int, pace: Pace) -> float:
    """Seconds until the end of the final test, with `steps` steps of `epoch` (from 0) to go and its test, if any."""
    training = steps * pace.step + (plan.epochs - epoch - 1) * pace.epoch
    tests = plan.tests_after(epoch) * plan.test_frames * pace.test_frame + plan.final_frames * pace.final_frame
    return training + tests


def duration_text(seconds: float) -> str:
    """Whole seconds as 1:23:45, or 2 days, 1:23:45."""
    return str(timedelta(seconds=round(seconds)))


class Clock:
    """Measures steps and tests of a run as they pass and says what is left."""

    def __init__(self, plan: Plan, now: Callable[[], float] = time.perf_counter) -> None:
        self.plan = plan
        self._now = now
        self._frame: dict[str, float] = {}  # sampling of a pass -> seconds of a frame
        self._epoch_before: float | None = None  # seconds
        self._start = self._first = self._last = 0.0
        self._done = self._steps = 0

    def start_epoch(self, steps: int, history: Sequence[Mapping[str, Any]]) -> None:
        """An epoch of `steps` steps begins, or goes on; `history` holds the `seconds` of those before it."""
        self._steps, self._done, self._start = steps, 0, self._now()
        self._epoch_before = history[-1]["seconds"] if history else None

    def end_epoch(self, seconds: float) -> None:
        """The epoch has taken so long."""
        self._epoch_before = seconds

    def note_step(self) -> None:
        """A step has ended."""
        self._done, self._last = self._done + 1, self._now()
        if self._done == 1:
            self._first = self._last

    def note_pass(self, sampling: str, frames: int, seconds: float) -> None:
        """A pass without gradients over so many frames took so long."""
        self._frame[sampling] = seconds / max(1, frames)

    def left(self, epoch: int, step: int) -> float | None:
        """Seconds until the end of the run after `step` steps of `epoch` (from 0); None before a step can be timed.

        Of an epoch's steps the first is left out, which waits for the loader to start; until ten are timed, the epoch
        before decides. A frame of a test that has not been seen costs what one of another test did, or else the forward
        pass of training.
        """
        before = None if self._epoch_before is None else self._epoch_before / self._steps
        own = (self._last - self._first) / (self._done - 1) if self._done > 1 else None
        seconds = own if own is not None and (before is None or self._done >= _SURE) else before
        if seconds is None:
            return None
        epoch_seconds = self._epoch_before
        if epoch_seconds is None:
            epoch_seconds = self._first - self._start + (self._steps - 1) * seconds
        frame = next(iter(self._frame.values()), seconds * _FORWARD / self.plan.step_frames)
        of_test, of_final = (self._frame.get(s, frame) for s in (self.plan.test_sampling, self.plan.final_sampling))
        return seconds_left(self.plan, epoch, self._steps - step, Pace(seconds, epoch_seconds, of_test, of_final))
