"""The state of a run and the check of its loss."""

import pytest
import torch
from torch import nn

from processor.trainer import NonFiniteLossError, RunState, check_finite


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
def test_a_loss_that_is_not_finite_names_epoch_step_and_terms(value):
    losses = {"id": torch.tensor(1.5), "total": torch.tensor(value)}
    with pytest.raises(NonFiniteLossError, match=f"epoch 4, step 7: id 1.5, total {value}"):
        check_finite(losses, 4, 7)
    check_finite({"total": torch.tensor(3.0)}, 4, 7)
