"""First stage of the text baseline: the prompt of each identity is learned; image encoder and text tower are frozen."""

import logging
import math
from dataclasses import dataclass

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.optim import Adam, Optimizer

from loss.supervised_contrastive import supervised_contrastive
from model.text_prompt import TextBranch
from processor.runtime import Runtime
from utils.errors import NonFiniteLossError
from utils.meters import Meters
from utils.progress import progress

logger = logging.getLogger(__name__)

_LOG_PERIOD = 10  # epochs between two log lines


@dataclass(frozen=True)
class TextRecipe:
    """How the prompts are trained."""

    epochs: int  # over the features of all training tracklets
    batch_size: int  # tracklet features per step
    base_lr: float  # of Adam after the warm-up, falling along a cosine to `min_lr`
    min_lr: float
    warmup_epochs: int  # rising linearly from `warmup_lr`
    warmup_lr: float
    weight_decay: float
    seed: int  # decides the order of the tracklets


def learn_text_features(
    branch: TextBranch, tracklet_features: Tensor, pids: Tensor, recipe: TextRecipe, runtime: Runtime
) -> Tensor:
    """Train the context of the prompts with Adam and return the text features (C, E) float32 of all identities.

    Tracklet features (n, E) as CLIP-Memory averages them, and labels (n,) that name each of 0..C-1; the branch is
    moved to the device. Raises ValueError when an identity has no tracklet, NonFiniteLossError, and KeyboardInterrupt
    between steps.
    """
    branch = branch.to(runtime.device)
    features_nE = tracklet_features.to(runtime.device, torch.float32)
    pids_n = torch.as_tensor(pids)
    if pids_n.unique().tolist() != list(range(branch.prompts.num_classes)):
        raise ValueError(f"the labels of the tracklets are not 0..{branch.prompts.num_classes - 1}, each at least once")
    pids_n = pids_n.to(runtime.device)
    optimizer = Adam([branch.prompts.context], lr=recipe.base_lr, weight_decay=recipe.weight_decay)
    schedule = cosine_schedule(optimizer, recipe)
    scaler, ranks = runtime.grad_scaler(), runtime.ranks
    encode = ranks.parallel(branch, [branch])
    order = torch.Generator().manual_seed(recipe.seed)
    bar = progress(range(recipe.epochs), "text prompts", "epoch")
    for epoch in bar:
        schedule.step(epoch + 1)
        meters = Meters()
        rows_n = torch.randperm(len(features_nE), generator=order).to(runtime.device)
        for rows_B in rows_n.split(recipe.batch_size):
            ranks.check_stop()
            images_BE, labels_B = features_nE[rows_B], pids_n[rows_B]
            with runtime.autocast():
                texts_bE = encode(labels_B[ranks.share(len(labels_B))])
            texts_BE = ranks.gather(texts_bE, len(labels_B))
            to_text = supervised_contrastive(images_BE, labels_B, texts_BE, labels_B)
            to_image = supervised_contrastive(texts_BE, labels_B, images_BE, labels_B)
            optimizer.zero_grad(set_to_none=True)
            loss = to_text + to_image
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            meters.update({"loss": loss})
        mean_loss = meters.means()["loss"]  # the one wait for the device in an epoch
        if not math.isfinite(mean_loss):
            raise NonFiniteLossError(
                f"the loss of the text prompts is not finite in epoch {epoch + 1}; lower SOLVER.TEXT.BASE_LR in a new "
                "run, or set SOLVER.AMP off"
            )
        lr = optimizer.param_groups[0]["lr"]
        bar.set_postfix_str(f"loss {mean_loss:.3f}, lr {lr:.2e}")
        if (epoch + 1) % _LOG_PERIOD == 0 or epoch + 1 in (1, recipe.epochs):
            logger.info("text prompts, epoch %d/%d: loss %.3f, lr %.2e", epoch + 1, recipe.epochs, mean_loss, lr)
    return all_text_features(branch, recipe.batch_size, runtime)


def cosine_schedule(optimizer: Optimizer, recipe: TextRecipe) -> CosineLRScheduler:
    """Linear from `warmup_lr` over `warmup_epochs`, then a cosine that reaches `min_lr` in the last epoch.

    Stepped before each epoch with its number from 1, as in CLIP-ReID. The cosine counts from the first epoch too, so
    just after the warm-up it has already begun to fall.
    """
    warmup = {"warmup_t": recipe.warmup_epochs, "warmup_lr_init": recipe.warmup_lr}
    return CosineLRScheduler(optimizer, t_initial=recipe.epochs, lr_min=recipe.min_lr, **warmup)


@torch.no_grad()
def all_text_features(branch: TextBranch, batch_size: int, runtime: Runtime) -> Tensor:
    """Text features (C, E) float32 of all identities, `batch_size` prompts at a time."""
    labels_C = torch.arange(branch.prompts.num_classes, device=runtime.device)
    labels_c = labels_C[runtime.ranks.share(len(labels_C))]
    features = []  # of (batch, E)
    for labels in labels_c.split(batch_size):
        with runtime.autocast():
            features.append(branch(labels).float())
    runtime.ranks.check_stop()
    return runtime.ranks.gather(torch.cat(features), len(labels_C))
