"""First stage of the text baseline: prompts learn to name each identity, against frozen features of both encoders."""

import logging
import math

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.optim import Adam, Optimizer

from loss.supervised_contrastive import supervised_contrastive
from model.text_encoder import TextTower
from model.text_prompt import TextBranch, TextPrompts
from processor.training.epoch import NonFiniteLossError
from utils.interrupt import check_interrupt
from utils.meters import Meters
from utils.precision import autocast
from utils.progress import progress

logger = logging.getLogger(__name__)

_LOG_PERIOD = 10  # epochs between two log lines


def learn_text_features(
    tower: TextTower,
    prompts: TextPrompts,
    tracklet_features: Tensor,
    pids: Tensor,
    *,
    epochs: int,
    batch_size: int,
    base_lr: float,
    min_lr: float,
    warmup_epochs: int,
    warmup_lr: float,
    weight_decay: float,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Tensor:
    """Train the context of `prompts` with Adam and return the text features (C, E) float32 of all identities.

    Tracklet features (n, E) as CLIP-Memory averages them, and labels (n,) that name each of 0..C-1; both modules are
    moved to `device`. `seed` decides the order of the tracklets, `dtype` is the autocast type of the tower. Raises
    ValueError when an identity has no tracklet, NonFiniteLossError, and KeyboardInterrupt between steps.
    """
    branch = TextBranch(tower, prompts).to(device)
    features_nE = tracklet_features.to(device, torch.float32)
    pids_n = torch.as_tensor(pids)
    if pids_n.unique().tolist() != list(range(prompts.num_classes)):
        raise ValueError(f"the labels of the tracklets are not 0..{prompts.num_classes - 1}, each at least once")
    pids_n = pids_n.to(device)
    optimizer = Adam([prompts.context], lr=base_lr, weight_decay=weight_decay)
    schedule = cosine_schedule(optimizer, epochs, min_lr, warmup_epochs, warmup_lr)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    order = torch.Generator().manual_seed(seed)
    bar = progress(range(epochs), "text prompts", "epoch")
    for epoch in bar:
        schedule.step(epoch + 1)
        rows = torch.randperm(len(features_nE), generator=order).to(device)
        loss = _train_one_epoch(branch, features_nE, pids_n, rows.split(batch_size), optimizer, scaler, dtype)
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss of the text prompts is not finite in epoch {epoch + 1}; lower SOLVER.TEXT.BASE_LR in a new "
                "run, or set SOLVER.AMP off"
            )
        lr = optimizer.param_groups[0]["lr"]
        bar.set_postfix_str(f"loss {loss:.3f}, lr {lr:.2e}")
        if (epoch + 1) % _LOG_PERIOD == 0 or epoch + 1 in (1, epochs):
            logger.info("text prompts, epoch %d/%d: loss %.3f, lr %.2e", epoch + 1, epochs, loss, lr)
    return all_text_features(branch, batch_size, device, dtype)


def cosine_schedule(
    optimizer: Optimizer, epochs: int, min_lr: float, warmup_epochs: int, warmup_lr: float
) -> CosineLRScheduler:
    """Linear from `warmup_lr` over `warmup_epochs`, then a cosine that reaches `min_lr` in the last epoch.

    Stepped before each epoch with its number from 1, as in CLIP-ReID. The cosine counts from the first epoch too, so
    just after the warm-up it has already begun to fall.
    """
    return CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=min_lr, warmup_t=warmup_epochs, warmup_lr_init=warmup_lr
    )


@torch.no_grad()
def all_text_features(branch: TextBranch, batch_size: int, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """Text features (C, E) float32 of all identities, `batch_size` prompts at a time."""
    features = []  # of (batch, E)
    for labels in torch.arange(branch.prompts.num_classes, device=device).split(batch_size):
        check_interrupt()
        with autocast(device, dtype):
            features.append(branch(labels).float())
    return torch.cat(features)


def _train_one_epoch(
    branch: TextBranch,
    features_nE: Tensor,
    pids_n: Tensor,
    batches: tuple[Tensor, ...],
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    dtype: torch.dtype | None,
) -> float:
    """One pass over the tracklets -> mean loss of the steps; it waits for the device at its end alone."""
    meters = Meters()
    for rows_B in batches:
        check_interrupt()
        images_BE, labels_B = features_nE[rows_B], pids_n[rows_B]
        with autocast(features_nE.device, dtype):
            texts_BE = branch(labels_B)
        to_text = supervised_contrastive(images_BE, labels_B, texts_BE, labels_B)
        to_image = supervised_contrastive(texts_BE, labels_B, images_BE, labels_B)
        loss = to_text + to_image
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        meters.update({"loss": loss})
    return meters.means()["loss"]
