"""Steps whose loss is not finite: the batch is named; such steps may be left out, up to a limit."""

import pytest
import torch

from loss.criterion import Criterion
from processor.run import train_main
from tests.conftest import load, read_csv
from tests.test_end_to_end import assert_same_state


@pytest.fixture
def break_steps(monkeypatch):
    """break_steps(numbers): the losses of these steps of the process (from 1) are nan."""

    def patch(numbers) -> None:
        steps = []

        def forward(self, output, pids):
            losses = unpatched(self, output, pids)
            steps.append(pids)
            return {name: value * (float("nan") if len(steps) in numbers else 1) for name, value in losses.items()}

        unpatched = Criterion.forward
        monkeypatch.setattr(Criterion, "forward", forward)

    return patch


def test_the_batch_of_a_loss_that_is_not_finite_is_written(tiny_argv, tmp_path, caplog, break_steps):
    break_steps({11})  # the second of the second epoch, which has eight or nine
    assert train_main(tiny_argv()) == 1
    (path,) = (tmp_path / "run").glob("nonfinite_*.csv")
    epoch, step = (2, 2) if path.name == "nonfinite_epoch2_step2.csv" else (2, 3)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"not finite in epoch {epoch}, step {step}: id nan" in line and line.endswith(f"its tracklets: {path}")
    rows = read_csv(path)
    assert len(rows) == 4 and len({row["person"] for row in rows}) == 2  # P x K
    assert all(row["first_frame"].endswith(".jpg") and row["camera"] and int(row["seed"]) for row in rows)
    assert train_main(tiny_argv("--overwrite", SOLVER__MAX_EPOCHS=1)) == 0
    assert not list((tmp_path / "run").glob("nonfinite_*"))


def test_a_step_may_be_left_out_and_leaves_no_trace(tiny_argv, tmp_path, monkeypatch, caplog, break_steps):
    """No trace in weights and batch statistics: the step is as if its batch had not been drawn."""
    keys = {"SOLVER__ON_NONFINITE": "skip", "SOLVER__MAX_EPOCHS": 2, "SOLVER__NONFINITE_LIMIT": 3}
    break_steps({3, 12})
    assert train_main(tiny_argv(**keys)) == 0
    state = load(tmp_path / "run" / "last.pth")
    assert state["skipped"] == 2 and caplog.text.count("left out (SOLVER.ON_NONFINITE skip, ") == 2
    assert all(value.isfinite().all() for value in state["model"].values())
    assert int(state["model"]["neck_g.num_batches_tracked"]) == 17 - 2
    steps = {int(slots["step"]) for slots in state["optimizer"]["state"].values()}
    assert steps == {15}
    assert len(list((tmp_path / "run").glob("nonfinite_*.csv"))) == 2


def test_the_state_after_a_step_that_was_left_out_is_saved_when_it_is_due(
    tiny_argv, tmp_path, interrupt_when, break_steps, monkeypatch
):
    saved = []
    monkeypatch.setattr("processor.training.state.RunState.save", lambda run, *_: saved.append((run.epoch, run.step)))
    break_steps({2})
    keys = {"SOLVER__ON_NONFINITE": "skip", "SOLVER__SAVE_EVERY_STEPS": 2}
    interrupt_when(lambda epoch, step: (epoch, step) == (1, 3))
    assert train_main(tiny_argv(**keys)) == 130
    assert (0, 2) in saved


@pytest.mark.slow
def test_a_resumed_run_leaves_out_the_same_steps(tiny_argv, tmp_path, monkeypatch, interrupt_when, break_steps):
    keys = {"SOLVER__ON_NONFINITE": "skip", "SOLVER__MAX_EPOCHS": 2, "SOLVER__SAVE_EVERY_STEPS": 2}
    break_steps({3})
    assert train_main(tiny_argv(OUTPUT_DIR=tmp_path / "unbroken", **keys)) == 0
    monkeypatch.undo()
    break_steps({3})
    interrupt_when(lambda epoch, step: (epoch, step) == (1, 7))
    assert train_main(tiny_argv(**keys)) == 130
    monkeypatch.undo()
    assert load(tmp_path / "run" / "last.pth")["skipped"] == 1
    assert train_main(tiny_argv("--resume", **keys)) == 0
    assert_same_state(tmp_path / "run" / "last.pth", tmp_path / "unbroken" / "last.pth")


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_above_the_limit_the_run_ends_and_a_finite_loss_with_an_infinite_gradient_counts(
    tiny_argv, tmp_path, monkeypatch, caplog, precision
):
    def forward(self, output, pids):
        losses = unpatched(self, output, pids)
        zero = output.features[0].float().sum() * 0
        return losses | {"total": losses["total"] + torch.sqrt(zero.square())}  # 0, with a gradient of 0 / 0

    unpatched = Criterion.forward
    monkeypatch.setattr(Criterion, "forward", forward)
    keys = {"SOLVER__ON_NONFINITE": "skip", "SOLVER__NONFINITE_LIMIT": 2, "SOLVER__AMP": precision}
    assert train_main(tiny_argv(**keys)) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "epoch 1, step 3 has no finite loss or gradient" in line
    assert "more than SOLVER.NONFINITE_LIMIT 2 steps were left out" in line
    assert all(value.isfinite().all() for value in load(tmp_path / "run" / "last.pth")["model"].values())
