"""One epoch of training, and the state of a run that a checkpoint holds."""

import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from loss.criterion import Criterion
from model.tfclip import TFCLIP
from processor.training.step import ClipEncoder, TrainingStep
from utils.interrupt import check_interrupt
from utils.meters import Meters
from utils.progress import progress
from utils.seed import get_rng_state, set_rng_state

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """The loss became inf or nan; names epoch, step and the terms."""


@dataclass
class RunState:
    """Everything that changes during a run."""

    model: TFCLIP
    optimizer: Optimizer
    lr_schedule: LRScheduler
    scaler: torch.amp.GradScaler
    memory: Tensor | None = None  # (C, E) what v_p is compared with: CLIP-Memory or text features; None: no V2M loss
    epoch: int = 0  # finished epochs
    saved_epoch: int = 0  # of them in last.pth
    best: dict[str, Any] = field(default_factory=dict)  # scores and epoch of the best test so far
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per finished epoch
    untrained: dict[str, Any] | None = None  # scores before the first epoch, where asked for
    clip_features: ClipEncoder | None = None  # the model's own compiled; None: as it is

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_schedule": self.lr_schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "clip_memory": self.memory,
            "epoch": self.epoch,
            "best": self.best,
            "history": self.history,
            "untrained": self.untrained,
            "rng": get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from `state`, a `state_dict()` of a model of the same shape."""
        self.model.load_state_dict(state["model"])
        # Whether Adam is fused is a matter of this run, not of the one that was saved.
        fused = self.optimizer.param_groups[0].get("fused")
        groups = [group | {"fused": fused} for group in state["optimizer"]["param_groups"]]
        self.optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
        self.lr_schedule.load_state_dict(state["lr_schedule"])
        if self.scaler.is_enabled() and state["scaler"]:  # empty unless the run so far was in fp16
            self.scaler.load_state_dict(state["scaler"])
        memory = state["clip_memory"]
        self.memory = None if memory is None else memory.to(next(self.model.parameters()).device)
        self.epoch, self.best, self.history = state["epoch"], state["best"], state["history"]
        self.saved_epoch = self.epoch
        self.untrained = state["untrained"]
        set_rng_state(state["rng"])


def train_one_epoch(
    run: RunState,
    criterion: Criterion,
    loader: DataLoader,
    normalize: nn.Module,
    device: torch.device,
    dtype: torch.dtype | None,
    lr: float,
    log_period: int,
    num_parts: int = 1,
) -> dict[str, float]:
    """One pass over the P x K batches -> means of the loss terms, seconds and frames per second.

    `lr` (the base learning rate of this epoch) is shown only; each batch is computed in `num_parts` parts. Raises
    NonFiniteLossError, and KeyboardInterrupt between steps.
    """
    run.model.train()
    clip_features = run.clip_features or run.model.clip_features
    compute = TrainingStep(run.model, clip_features, criterion, run.memory, normalize, device, dtype, num_parts)
    meters, finite, frames, start = Meters(), FiniteCheck(run.epoch + 1), 0, time.perf_counter()
    with progress(loader, f"epoch {run.epoch + 1}", "step") as bar:
        for step, batch in enumerate(bar, start=1):
            check_interrupt()
            clips, pids, camids = (tensor.to(device, non_blocking=True) for tensor in batch)  # clips (B, T, 3, H, W)
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
    """Looks at the loss of each step when the next one is under way, so that the device need not be waited for.

    A step that should not have been taken has then been taken; the run ends all the same, before anything is saved.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._waiting: tuple[int, list[str], Tensor, torch.cuda.Event | None] | None = None

    def add(self, losses: dict[str, Tensor], step: int) -> None:
        """Send the terms of `step` on their way to the host, then look at those of the step before it."""
        values = torch.stack([value.detach().float() for value in losses.values()])  # (terms,)
        arrived = None
        if values.is_cuda:
            on_host = torch.empty(values.shape, pin_memory=True)
            values = on_host.copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        before, self._waiting = self._waiting, (step, list(losses), values, arrived)
        self._look(before)

    def finish(self) -> None:
        """Look at the last step too; raises NonFiniteLossError naming epoch, step and terms, as `add` does."""
        before, self._waiting = self._waiting, None
        self._look(before)

    def _look(self, sent: tuple[int, list[str], Tensor, torch.cuda.Event | None] | None) -> None:
        if sent is None:
            return
        step, names, values, arrived = sent
        if arrived is not None:
            arrived.synchronize()
        terms = dict(zip(names, values.tolist()))
        if not math.isfinite(terms["total"]):
            raise NonFiniteLossError(
                f"the loss is not finite in epoch {self.epoch}, step {step}: "
                f"{', '.join(f'{name} {value:.4g}' for name, value in terms.items())}; lower SOLVER.BASE_LR in a new "
                "run, or go on with SOLVER.AMP off"
            )
