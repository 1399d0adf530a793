"""One epoch of training."""

import logging
import math
import time

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from loss.criterion import Criterion
from processor.runtime import Runtime
from processor.training.state import RunState
from processor.training.step import TrainingStep
from utils.errors import NonFiniteLossError
from utils.interrupt import check_interrupt
from utils.meters import Meters
from utils.progress import progress

logger = logging.getLogger(__name__)


def train_one_epoch(
    run: RunState,
    criterion: Criterion,
    loader: DataLoader,
    runtime: Runtime,
    lr: float,
    log_period: int,
    num_parts: int = 1,
) -> dict[str, float]:
    """One pass over the P x K batches -> means of the loss terms, seconds and frames per second.

    `lr`, the base learning rate of this epoch, is only shown; each batch is computed in `num_parts` parts. Raises
    NonFiniteLossError, and KeyboardInterrupt between steps.
    """
    run.model.train()
    clip_features = run.clip_features or run.model.clip_features
    compute = TrainingStep(run.model, clip_features, criterion, run.memory, runtime, num_parts, run.erase)
    meters, finite, frames, start = Meters(), FiniteCheck(run.epoch + 1), 0, time.perf_counter()
    with progress(loader, f"epoch {run.epoch + 1}", "step") as bar:
        for step, batch in enumerate(bar, start=1):
            check_interrupt()
            clips, pids, camids = runtime.move(*batch)  # clips (B, T, 3, H, W)
            run.optimizer.zero_grad(set_to_none=True)
            losses = compute(clips, pids, camids, run.scaler.scale)
            finite.add(losses, step)
            run.scaler.step(run.optimizer)
            run.scaler.update()
            meters.update(losses)
            frames += clips.shape[0] * clips.shape[1]
            if step == 1 or step % log_period == 0:
                speed = frames / (time.perf_counter() - start)
                text = ", ".join(f"{name} {value:.3f}" for name, value in meters.means().items())
                bar.set_postfix_str(f"{text}, lr {lr:.2e}, {speed:,.0f} frames/s")
                if step > 1:
                    logger.info("epoch %d step %d/%d: %s, lr %.2e", run.epoch + 1, step, len(loader), text, lr)
    finite.finish()
    seconds = time.perf_counter() - start
    return meters.means() | {"seconds": seconds, "frames_per_second": frames / seconds}


class FiniteCheck:
    """Checks the loss of each step while the next one is computed, so that the host need not wait for the device.

    By then one step too many has been taken; the run ends anyway, before anything is saved.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._pending: tuple[int, list[str], Tensor, torch.cuda.Event | None] | None = None

    def add(self, losses: dict[str, Tensor], step: int) -> None:
        """Start the copy of the terms of `step` to the host, then check those of the step before it, as `finish`."""
        values = torch.stack([value.detach().float() for value in losses.values()])  # (terms,)
        arrived = None
        if values.is_cuda:
            on_host = torch.empty(values.shape, pin_memory=True)
            values = on_host.copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.finish()
        self._pending = step, list(losses), values, arrived

    def finish(self) -> None:
        """Check the last step that was added; raises NonFiniteLossError naming epoch, step and terms."""
        if self._pending is None:
            return
        (step, names, values, arrived), self._pending = self._pending, None
        if arrived is not None:
            arrived.synchronize()
        terms = dict(zip(names, values.tolist()))
        if not math.isfinite(terms["total"]):
            raise NonFiniteLossError(
                f"the loss is not finite in epoch {self.epoch}, step {step}: "
                f"{', '.join(f'{name} {value:.4g}' for name, value in terms.items())}; lower SOLVER.BASE_LR in a new "
                "run, or go on with SOLVER.AMP off"
            )
