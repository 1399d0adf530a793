"""One epoch of training."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import length_hint

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from processor.training.state import RunState
from processor.training.step import TrainingStep
from processor.training.watch import Watch
from utils.errors import NonFiniteLossError
from utils.interrupt import until_stopped
from utils.meters import Meters


@dataclass(frozen=True)
class Safety:
    """What an epoch does so that a stop, a death or a faulty batch costs little."""

    save: Callable[[], None] | None = None  # the state of the run; also called before KeyboardInterrupt
    save_every: int = 0  # steps; 0: never within the epoch
    # Is told the losses of a step that are not finite, or whose gradients are not; the step is then left out, for which
    # each step has to wait for the device. None: such a loss ends the epoch.
    skip: Callable[[str], None] | None = None


_NONE = Safety()
_UNWATCHED = Watch()


def train_one_epoch(
    run: RunState, compute: TrainingStep, loader: DataLoader, safety: Safety = _NONE, watch: Watch = _UNWATCHED
) -> dict[str, float]:
    """One pass over the P x K batches -> means of the loss terms, seconds and frames per second.

    The loader gives the batches after the first `run.step`. Raises NonFiniteLossError, and KeyboardInterrupt between
    steps.
    """
    run.model.train()
    runtime = compute.runtime
    meters, finite, last = Meters(run.meters), FiniteCheck(run.epoch + 1), run.step + length_hint(loader)
    frames, before, start = 0, (run.meters or {}).get("seconds", 0.0), time.perf_counter()

    def save_here() -> None:
        finite.finish()
        run.meters = meters.state_dict() | {"seconds": before + time.perf_counter() - start}
        safety.save()

    def save_if_due() -> None:
        if safety.save_every and run.step % safety.save_every == 0 and run.step < last:
            save_here()

    with watch.bar(loader, run, last) as bar:
        for batch in until_stopped(bar):
            if runtime.ranks.told_to_stop():
                if safety.save is not None:
                    save_here()
                runtime.ranks.check_stop()
            clips, pids, camids = runtime.move(*batch)  # clips (b, T, 3, H, W)
            run.optimizer.zero_grad(set_to_none=True)
            statistics = [] if safety.skip is None else [buffer.clone() for buffer in run.model.buffers()]
            losses = compute(clips, pids, camids, run.scaler.scale)
            run.step += 1
            if safety.skip is not None and not all(runtime.ranks.collect(_is_finite(losses, run))):
                for buffer, before_step in zip(run.model.buffers(), statistics):
                    buffer.copy_(before_step)
                safety.skip(_terms_text({name: value.detach() for name, value in losses.items()}))
                save_if_due()
                continue
            finite.add(losses, run.step)
            watch.before_update(run, losses)
            run.scaler.step(run.optimizer)
            run.scaler.update()
            meters.update(losses)
            frames += (compute.batch_size or clips.shape[0]) * clips.shape[1]
            watch.after_step(run, meters, frames / (time.perf_counter() - start))
            save_if_due()
    finite.finish()
    if meters.count == 0:
        raise NonFiniteLossError(f"no step of epoch {run.epoch + 1} has a finite loss; lower SOLVER.BASE_LR")
    seconds = time.perf_counter() - start
    run.step, run.meters = 0, None
    return meters.means() | {"seconds": before + seconds, "frames_per_second": frames / seconds}


def _is_finite(losses: Mapping[str, Tensor], run: RunState) -> bool:
    """Whether loss and gradients are finite; in fp16 the scaler sees to the gradients."""
    values = [losses["total"].detach()]
    if not run.scaler.is_enabled():
        values += [weight.grad for weight in run.model.parameters() if weight.grad is not None]
    return bool(torch.nn.utils.get_total_norm(values, norm_type=math.inf).isfinite())


def _terms_text(losses: Mapping[str, float | Tensor]) -> str:
    return ", ".join(f"{name} {float(value):.4g}" for name, value in losses.items())


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
            error = NonFiniteLossError(
                f"the loss is not finite in epoch {self.epoch}, step {step}: {_terms_text(terms)}; lower "
                "SOLVER.BASE_LR in a new run, or go on with SOLVER.AMP off"
            )
            error.step = step
            raise error
