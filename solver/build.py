"""Config -> optimiser and learning-rate schedule."""

import logging
from functools import partial

from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from yacs.config import CfgNode

from solver.lr_schedule import lr_factor
from solver.optimizer import parameter_groups

logger = logging.getLogger(__name__)

_LARGE = 10.0


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Adam with L2 weight decay over groups of equal learning rate.

    Biases have x2; the temporal classifier, SSP and the temporal branch have x10, where the config builds them.
    """
    lr_scale = {r"bias": cfg.SOLVER.BIAS_LR_FACTOR}
    temporal = cfg.MODEL.TEMPORAL
    if cfg.SOLVER.LARGE_FC_LR and temporal != "TAP":
        lr_scale[r"^classifier_t\."] = _LARGE
    if cfg.SOLVER.LARGE_PROMPT_LR and cfg.MODEL.SSP.ENABLED:
        lr_scale[r"^ssp\."] = _LARGE
    if cfg.SOLVER.LARGE_PROMPT_LR and temporal != "TAP":
        lr_scale[r"^tmd\." if temporal == "TMD" else r"^temporal_head\."] = _LARGE
    solver = cfg.SOLVER
    groups = parameter_groups(model, solver.BASE_LR, lr_scale, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_BIAS)
    return Adam(groups, fused=True)  # one kernel for many tensors, and no wait for the scaler's inf check


def build_lr_schedule(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule of the method, stepped once after each epoch."""
    warmup, epochs = cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.MAX_EPOCHS
    if warmup > epochs:  # as a short trial of a recipe has it
        logger.warning(
            "SOLVER.WARMUP_EPOCHS %d is more than SOLVER.MAX_EPOCHS %d: SOLVER.BASE_LR is not reached", warmup, epochs
        )
    factor = partial(
        lr_factor,
        warmup_epochs=warmup,
        warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
        steps=cfg.SOLVER.STEPS,
        gamma=cfg.SOLVER.GAMMA,
    )
    return LambdaLR(optimizer, factor)
