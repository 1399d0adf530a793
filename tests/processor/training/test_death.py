"""Runs that are stopped or killed at any moment and continued: they end as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from processor.run import train_main
from processor.training.epoch import FiniteCheck
from tests.conftest import ROOT, load, metrics, tiny_options
from tests.test_end_to_end import assert_same_state

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}
STEPS = 9  # of the third epoch of the tiny set


@pytest.fixture
def signal_when(monkeypatch):
    """signal_when(name, due): a real signal within the step where due(epoch, step), until monkeypatch.undo()."""

    def patch(name, due) -> None:
        def add(self, losses, step):
            unpatched(self, losses, step)
            if due(self.epoch, step):
                os.kill(os.getpid(), getattr(signal, name))

        unpatched = FiniteCheck.add
        monkeypatch.setattr(FiniteCheck, "add", add)

    return patch


@pytest.mark.parametrize(
    ("name", "at"), [("SIGTERM", (1, 1)), ("SIGHUP", (2, 5)), ("SIGUSR1", (3, STEPS)), ("SIGINT", (2, 6))]
)
def test_a_stopped_run_finishes_its_step_and_goes_on_within_the_epoch(
    trained_run, tiny_argv, tmp_path, monkeypatch, signal_when, caplog, capfd, name, at
):
    run = tmp_path / "run"
    signal_when(name, lambda *epoch_and_step: epoch_and_step == at)
    assert train_main(tiny_argv("--resume", "auto", TEST__UNTRAINED=True)) == SIGNALS[name]
    state = load(run / "last.pth")
    if at[1] < STEPS:
        assert (state["epoch"], state["step"]) == (at[0] - 1, at[1])
        assert f"training will go on after step {at[1]} of epoch {at[0]}" in caplog.text
    else:  # the epoch's last step is followed by its end
        assert (state["epoch"], state["step"]) == (at[0], 0)
    notices = {"SIGINT": "Ctrl-C: stopping after this step (press it again"}
    assert notices.get(name, f"{name}: stopping after this step") in capfd.readouterr().err
    monkeypatch.undo()
    assert train_main(tiny_argv("--resume", "auto", TEST__UNTRAINED=True)) == 0
    assert_same_state(run / "last.pth", trained_run / "last.pth")
    assert metrics(run) == metrics(trained_run)


@pytest.mark.parametrize(("every", "stop_at", "saved"), [(2, (2, 8), 6), (4, (1, 3), 0), (9, (2, 8), 0)])
def test_a_run_goes_on_from_the_last_step_that_was_saved(
    trained_run, tiny_argv, tmp_path, monkeypatch, interrupt_when, every, stop_at, saved
):
    """The interrupt stands for a death within a step, which saves nothing."""
    keys = {"SOLVER__SAVE_EVERY_STEPS": every, "TEST__UNTRAINED": True}
    interrupt_when(lambda *epoch_and_step: epoch_and_step == stop_at)
    assert train_main(tiny_argv(**keys)) == 130
    state = load(tmp_path / "run" / "last.pth")
    assert (state["epoch"], state["step"]) == (stop_at[0] - 1, saved)
    monkeypatch.undo()
    assert train_main(tiny_argv("--resume", DATALOADER__NUM_WORKERS=1, **keys)) == 0
    assert_same_state(tmp_path / "run" / "last.pth", trained_run / "last.pth")


def test_a_finished_run_may_be_resumed_again_and_resume_needs_a_checkpoint(trained_run, tiny_argv, tmp_path, caplog):
    assert train_main(tiny_argv("--resume")) == 2
    assert "last.pth does not exist, so there is no run to resume" in caplog.text
    caplog.clear()
    assert train_main(tiny_argv("--resume", "auto", "--overwrite")) == 2
    assert "exclude each other" in caplog.text


@pytest.mark.slow
def test_runs_that_are_killed_at_random_end_in_the_same_weights(trained_run, tiny_mars, tmp_path):
    """SIGKILL to the training process, five times, at any moment; one command starts and continues the run."""
    run, rng, deaths = tmp_path / "run", random.Random(0), 0
    options = tiny_options(
        "--resume", "auto", TEST__UNTRAINED=True, SOLVER__SAVE_EVERY_STEPS=2, DATASETS__ROOT_DIR=tiny_mars,
        OUTPUT_DIR=run,
    )  # fmt: skip
    for _ in range(40):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "train-main.py"), *options]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, text=True, env=environment, **output)
        if deaths < 5:
            before = {path: path.stat().st_mtime_ns for path in run.glob("*")}
            while process.poll() is None and before == {path: path.stat().st_mtime_ns for path in run.glob("*")}:
                time.sleep(0.01)  # until it writes
            time.sleep(rng.uniform(0, 0.6))
            deaths += process.poll() is None
            process.kill()
        said, _ = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
    assert deaths == 5 and process.returncode == 0
    assert_same_state(run / "last.pth", trained_run / "last.pth")
    assert metrics(run) == metrics(trained_run)
    assert not list(run.glob("*.tmp*"))
