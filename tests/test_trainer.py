"""The state of a run and the check of its loss."""

import copy

import pytest
import torch
from torch import nn

from processor.trainer import FiniteCheck, NonFiniteLossError, RunState


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
    state = first.state_dict()
    if before:
        state["scaler"]["scale"] = 17.0
    second.load_state_dict(state)
    assert second.epoch == second.saved_epoch == 3 and torch.equal(second.memory, torch.ones(2, 2))
    assert torch.equal(second.model.weight, first.model.weight)
    if before and now:
        assert second.scaler.get_scale() == 17.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at_the_end", [True, False])
def test_a_loss_that_is_not_finite_names_its_own_step_one_step_later(value, at_the_end):
    check = FiniteCheck(epoch=4)
    check.add({"id": torch.tensor(0.5), "total": torch.tensor(3.0)}, 6)
    check.add({"id": torch.tensor(1.5), "total": torch.tensor(value)}, 7)  # looks at step 6
    with pytest.raises(NonFiniteLossError, match=f"epoch 4, step 7: id 1.5, total {value}"):
        check.finish() if at_the_end else check.add({"id": torch.tensor(0.5), "total": torch.tensor(3.0)}, 8)


def test_finite_losses_pass():
    check = FiniteCheck(epoch=1)
    for step in range(3):
        check.add({"total": torch.tensor(3.0)}, step)
    check.finish()
    check.finish()


def test_a_checkpoint_of_the_plain_optimizer_goes_on_with_the_fused_one():
    """The way Adam is computed belongs to the run at hand, not to the file."""
    plain, fused = run_state(False), run_state(False)
    fused.optimizer = torch.optim.Adam(fused.model.parameters(), fused=True)
    plain.model(torch.ones(1, 2)).sum().backward()
    plain.optimizer.step()
    fused.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert fused.optimizer.param_groups[0]["fused"] is True
    for run in (plain, fused):
        run.model.zero_grad()
        run.model(torch.ones(1, 2)).square().sum().backward()
        run.optimizer.step()
    torch.testing.assert_close(fused.model.weight, plain.model.weight)
