"""What changes during a run; it is saved in a checkpoint and restored from one."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from datasets import build_erasing
from loss.criterion import Criterion
from model.compiled import compile_clip_features
from model.encoder import is_resnet
from model.tfclip import TFCLIP
from processor import run_folder as files
from processor.distributed import ALONE, Ranks
from processor.experiment import Experiment
from processor.runtime import Runtime
from processor.training.step import Classifier, ClipEncoder, Erasing, TrainingStep
from solver import build_lr_schedule, build_optimizer
from utils.checkpoint import Checkpoint
from utils.seed import get_rng_state, seed_everything, set_rng_state


@dataclass
class RunState:
    """Everything that changes during a run."""

    model: TFCLIP
    optimizer: Optimizer
    lr_schedule: LRScheduler
    scaler: torch.amp.GradScaler
    memory: Tensor | None = None  # (C, E) CLIP-Memory, or text features in its place; None: no V2M loss
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch after them
    meters: dict[str, Any] | None = None  # sums of the losses over these steps
    skipped: int = 0  # steps that were left out because their loss was not finite
    saved: tuple[int, int] = (0, 0)  # epoch and step in last.pth
    best: dict[str, Any] = field(default_factory=dict)  # score and epoch of the best test so far
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per finished epoch
    untrained: dict[str, Any] | None = None  # scores before the first epoch, where asked for
    clip_features: ClipEncoder | None = None  # `TFCLIP.clip_features`, compiled or parallel; None: as it is
    classify: Classifier | None = None  # `TFCLIP.classify`, parallel; None: as it is
    erase: Erasing | None = None  # random erasing on the device; None: the loader has erased

    def training_step(
        self, criterion: Criterion, runtime: Runtime, num_parts: int = 1, batch_size: int = 0
    ) -> TrainingStep:
        """The step of a batch of `batch_size` clips on all ranks (0: of those it gets), in `num_parts` parts."""
        encode, classify = self.clip_features or self.model.clip_features, self.classify or self.model.classify
        return TrainingStep(encode, classify, criterion, self.memory, runtime, num_parts, self.erase, batch_size)

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
            step=self.step,
            meters=self.meters,
            skipped=self.skipped,
        )

    def save(self, experiment: Experiment, name: str) -> None:
        """Write the full state to `name` in the run's folder; history.csv follows last.pth. All ranks call it."""
        ranks = experiment.runtime.ranks
        rank_rng = ranks.collect(get_rng_state())[1:]
        if ranks.is_main:
            cameras = experiment.trained_cameras.state_dict()
            config, precision = experiment.cfg.dump(), experiment.runtime.precision
            state = self.checkpoint(config, precision, cameras, experiment.fingerprint)
            replace(state, rank_rng=rank_rng).save(experiment.out / name)
        if name == files.LAST:
            self.saved = self.epoch, self.step
            if ranks.is_main:
                files.write_history(experiment.out, self.history)

    def restore(self, state: Checkpoint, ranks: Ranks = ALONE, seed: int = 0) -> None:
        """Take over the state of a checkpoint of the same model.

        Where the number of ranks has changed, those after the first draw random numbers from `seed` and the epoch.
        """
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
        self.epoch, self.step, self.meters = state.epoch, state.step, state.meters
        self.saved, self.skipped = (self.epoch, self.step), state.skipped
        self.best, self.history, self.untrained = state.best, state.history, state.untrained
        rank_rng = [state.rng, *(state.rank_rng or [])]
        if ranks.is_main or len(rank_rng) == ranks.size:
            set_rng_state(rank_rng[ranks.rank])
        else:
            seed_everything(seed + state.epoch + 1, ranks.rank)


def new_run(experiment: Experiment, model: TFCLIP) -> RunState:
    """Optimiser, schedule and scaler of a model on its device; it has no memory yet."""
    cfg, trained = experiment.cfg, experiment.trained_cameras
    if model.encoder.camera_embed is not None and len(trained.trained) < len(trained.names):
        model.encoder.map_cameras(trained.rows_for(experiment.cameras), trained.trained, cfg.MODEL.SIE_UNSEEN)
    if experiment.runtime.ranks.size > 1 and is_resnet(cfg.MODEL.NAME):  # a ViT has no batch norm
        model.encoder = nn.SyncBatchNorm.convert_sync_batchnorm(model.encoder)
    optimizer = build_optimizer(cfg, model)
    run = RunState(model, optimizer, build_lr_schedule(cfg, optimizer), experiment.runtime.grad_scaler())
    run.erase = build_erasing(cfg, experiment.runtime.device)
    encode = compile_clip_features(model) if cfg.SOLVER.COMPILE else model.clip_features
    heads = [model.neck_g, model.neck_p, model.neck_t, model.neck_f]
    heads += [model.classifier_g, model.classifier_p, model.classifier_t]
    parallel = experiment.runtime.ranks.parallel
    run.clip_features = parallel(encode, [model.encoder, model.ssp, model.tmd, model.temporal_head])
    run.classify = parallel(model.classify, heads)
    return run
