"""The state of a run and the check of its loss."""

import copy

import pytest
import torch
from torch import nn

from datasets.clips.dataset import ClipBatch
from loss import build_criterion
from model import build_model
from processor.runtime import Runtime
from processor.training.epoch import FiniteCheck, train_one_epoch
from processor.training.state import RunState
from solver import build_lr_schedule, build_optimizer
from tests.conftest import tiny_cfg
from utils.errors import NonFiniteLossError


def run_state(scaler_enabled: bool) -> RunState:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    return RunState(model, optimizer, schedule, torch.amp.GradScaler("cpu", enabled=scaler_enabled))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("now", [True, False])
def test_a_run_may_continue_with_and_without_a_loss_scaler(before, now):
    """A checkpoint of a GPU with bf16 (no scaler) goes on where only fp16 is there, and the other way round."""
    first, second = run_state(before), run_state(now)
    first.epoch, first.memory = 3, torch.ones(2, 2)
    state = first.checkpoint("", "float16", {}, "")
    if before:
        state.scaler["scale"] = 17.0
    second.restore(state)
    assert second.saved == (second.epoch, 0) == (3, 0) and torch.equal(second.memory, torch.ones(2, 2))
    assert torch.equal(second.model.weight, first.model.weight)
    if before and now:
        assert second.scaler.get_scale() == 17.0


@pytest.mark.parametrize(("value", "at_the_end"), [(float("nan"), False), (float("inf"), True)])
def test_a_loss_that_is_not_finite_names_its_own_step_one_step_later(value, at_the_end):
    check = FiniteCheck(epoch=4)
    check.finish()  # nothing to check yet
    check.add({"id": torch.tensor(0.5), "total": torch.tensor(3.0)}, 6)
    check.add({"id": torch.tensor(1.5), "total": torch.tensor(value)}, 7)  # checks step 6
    with pytest.raises(NonFiniteLossError, match=f"epoch 4, step 7: id 1.5, total {value}"):
        check.finish() if at_the_end else check.add({"id": torch.tensor(0.5), "total": torch.tensor(3.0)}, 8)


def test_a_checkpoint_of_the_plain_optimizer_goes_on_with_the_fused_one():
    """Whether Adam is fused depends on the device of this run, not on the checkpoint."""
    plain, fused = run_state(False), run_state(False)
    fused.optimizer = torch.optim.Adam(fused.model.parameters(), fused=True)
    plain.model(torch.ones(1, 2)).sum().backward()
    plain.optimizer.step()
    fused.restore(copy.deepcopy(plain.checkpoint("", "float32", {}, "")))
    assert fused.optimizer.param_groups[0]["fused"] is True
    for run in (plain, fused):
        run.model.zero_grad()
        run.model(torch.ones(1, 2)).square().sum().backward()
        run.optimizer.step()
    torch.testing.assert_close(fused.model.weight, plain.model.weight)


def tiny_run() -> tuple[RunState, nn.Module, ClipBatch]:
    cfg = tiny_cfg()
    torch.manual_seed(0)
    model = build_model(cfg, 5, 3)
    optimizer = build_optimizer(cfg, model)
    run = RunState(model, optimizer, build_lr_schedule(cfg, optimizer), torch.amp.GradScaler("cpu", enabled=False))
    run.memory = torch.randn(5, 64)
    clips = torch.randint(0, 256, (4, 2, 3, 32, 16), dtype=torch.uint8)
    return run, build_criterion(cfg), ClipBatch(clips, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 0]))


def train(run: RunState, criterion: nn.Module, batches: list[ClipBatch], num_parts: int = 1) -> dict[str, float]:
    runtime = Runtime(torch.device("cpu"), None, lambda clips: clips.float() / 127.5 - 1)
    return train_one_epoch(run, run.training_step(criterion, runtime, num_parts), batches)


@pytest.mark.parametrize(("num_parts", "calls"), [(1, [4]), (2, [2, 2, 2, 2]), (4, [1] * 8)])
def test_an_epoch_computes_in_parts_with_the_features_it_is_given(num_parts, calls):
    run, criterion, batch = tiny_run()
    seen = []

    def clip_features(clips, camids, memory):
        seen.append(len(clips))
        return run.model.clip_features(clips, camids, memory)

    run.clip_features = clip_features
    means = train(run, criterion, [batch], num_parts=num_parts)
    assert seen == calls and means["total"] > 0


def test_a_loss_that_is_not_finite_in_the_last_step_ends_the_epoch():
    run, criterion, batch = tiny_run()
    terms = [1.0, float("nan")]

    def broken(output, pids):
        losses = criterion(output, pids)
        return losses | {"total": losses["total"] * terms.pop(0)}

    with pytest.raises(NonFiniteLossError, match="epoch 1, step 2"):
        train(run, broken, [batch, batch])
