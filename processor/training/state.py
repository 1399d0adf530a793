"""What changes during a run; it is saved in a checkpoint and restored from one."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from datasets import build_erasing
from model.compiled import compile_clip_features
from model.tfclip import TFCLIP
from processor import run_folder as files
from processor.experiment import Experiment
from processor.training.step import ClipEncoder, Erasing
from solver import build_lr_schedule, build_optimizer
from utils.checkpoint import Checkpoint
from utils.seed import get_rng_state, set_rng_state


@dataclass
class RunState:
    """Everything that changes during a run."""

    model: TFCLIP
    optimizer: Optimizer
    lr_schedule: LRScheduler
    scaler: torch.amp.GradScaler
    memory: Tensor | None = None  # (C, E) CLIP-Memory, or text features in its place; None: no V2M loss
    epoch: int = 0  # finished epochs
    saved_epoch: int = 0  # finished epochs in last.pth
    best: dict[str, Any] = field(default_factory=dict)  # score and epoch of the best test so far
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per finished epoch
    untrained: dict[str, Any] | None = None  # scores before the first epoch, where asked for
    clip_features: ClipEncoder | None = None  # the compiled `TFCLIP.clip_features`; None: not compiled
    erase: Erasing | None = None  # random erasing on the device; None: the loader has erased

    def checkpoint(self, config: str, precision: str, cameras: dict[str, Any], train_list: str) -> Checkpoint:
        """The full state, with facts about the run: config, number type, cameras, hash of the training tracklets."""
        return Checkpoint(
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            lr_schedule=self.lr_schedule.state_dict(),
            scaler=self.scaler.state_dict(),
            clip_memory=self.memory,
            epoch=self.epoch,
            best=self.best,
            history=self.history,
            untrained=self.untrained,
            rng=get_rng_state(),
            config=config,
            precision=precision,
            cameras=cameras,
            train_list=train_list,
        )

    def save(self, experiment: Experiment, name: str) -> None:
        """Write the full state to `name` in the run's folder; history.csv follows last.pth."""
        cameras = experiment.trained_cameras.state_dict()
        config, precision = experiment.cfg.dump(), experiment.runtime.precision
        self.checkpoint(config, precision, cameras, experiment.fingerprint).save(experiment.out / name)
        if name == files.LAST:
            self.saved_epoch = self.epoch
            files.write_history(experiment.out, self.history)

    def restore(self, state: Checkpoint) -> None:
        """Take over the state of a checkpoint of the same model."""
        self.model.load_state_dict(state.model)
        # Whether Adam is fused depends on the device of this run, not on the checkpoint.
        fused = self.optimizer.param_groups[0].get("fused")
        groups = [group | {"fused": fused} for group in state.optimizer["param_groups"]]
        self.optimizer.load_state_dict(state.optimizer | {"param_groups": groups})
        self.lr_schedule.load_state_dict(state.lr_schedule)
        if self.scaler.is_enabled() and state.scaler:  # empty unless the run so far was in fp16
            self.scaler.load_state_dict(state.scaler)
        device = next(self.model.parameters()).device
        self.memory = None if state.clip_memory is None else state.clip_memory.to(device)
        self.epoch = self.saved_epoch = state.epoch
        self.best, self.history, self.untrained = state.best, state.history, state.untrained
        set_rng_state(state.rng)


def new_run(experiment: Experiment, model: TFCLIP) -> RunState:
    """Optimiser, schedule and scaler of a model on its device; it has no memory yet."""
    cfg, trained = experiment.cfg, experiment.trained_cameras
    if model.encoder.camera_embed is not None and len(trained.trained) < len(trained.names):
        model.encoder.map_cameras(trained.rows_for(experiment.cameras), trained.trained, cfg.MODEL.SIE_UNSEEN)
    optimizer = build_optimizer(cfg, model)
    run = RunState(model, optimizer, build_lr_schedule(cfg, optimizer), experiment.runtime.grad_scaler())
    run.erase = build_erasing(cfg, experiment.runtime.device)
    if cfg.SOLVER.COMPILE:
        run.clip_features = compile_clip_features(model)
    return run
