"""Whole runs through both scripts' entry points on the tiny set: train, resume, evaluate, bad input."""

import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from processor.evaluation import session
from processor.evaluation.evaluator import evaluate
from processor.run import eval_main, train_main
from tests.conftest import ROOT, SCORES, load, metrics, read_csv


def assert_same_state(first: Path, second: Path) -> None:
    """Weights, optimiser, schedule and history equal bit for bit."""
    a, b = load(first), load(second)
    for name, value in a["model"].items():
        assert torch.equal(value, b["model"][name]), name
    for index, slots in a["optimizer"]["state"].items():
        for slot, value in slots.items():
            assert torch.equal(value, b["optimizer"]["state"][index][slot]), (index, slot)
    assert torch.equal(a["clip_memory"], b["clip_memory"]) and torch.equal(a["rng"]["torch"], b["rng"]["torch"])
    assert (a["epoch"], a["lr_schedule"], a["best"]) == (b["epoch"], b["lr_schedule"], b["best"])
    without_time = ([row | {"seconds": 0} for row in state["history"]] for state in (a, b))
    assert next(without_time) == next(without_time)


def test_a_run_leaves_the_promised_files(trained_run):
    assert {path.name for path in trained_run.iterdir()} == {
        "train_log.txt", "config.yml", "history.csv", "last.pth", "best.pth", "clip_memory.pt", "metrics.json",
        "features.npz", "ranks.csv", "contact_sheet.png", "curves.png", "cache",
    }  # fmt: skip
    rows = read_csv(trained_run / "history.csv")
    losses = "loss_id loss_triplet loss_v2m loss_frame_id loss_total"
    assert list(rows[0]) == f"epoch lr {losses} seconds mAP mINP rank1 rank5 rank10 rank20".split()
    assert all(row["mINP"] for row in rows)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-4, 1e-3, 1e-4])
    result = metrics(trained_run)
    for scores in (result, result["last"], result["untrained"]):
        assert set(SCORES) <= set(scores) and list(scores["ci95"]) == ["mAP", "mINP", "rank1"]
        assert all(low <= scores[name] <= high for name, (low, high) in scores["ci95"].items())
    assert result["last"]["epoch"] == 3 and result["num_query"] == 12
    log = (trained_run / "train_log.txt").read_text()
    assert "torch" in log and "commit" in log and "epoch 3/3" in log
    memory, state = load(trained_run / "clip_memory.pt"), load(trained_run / "last.pth")
    assert memory.shape == (6, 64) and memory.dtype is torch.float32
    assert state["epoch"] == 3 and "MODEL:" in state["config"]


def test_evaluation_reproduces_the_final_test_and_leaves_no_files_of_an_earlier_one(trained_run, tiny_argv, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(trained_run / "best.pth", out)  # the default of TEST.WEIGHT
    assert eval_main(tiny_argv(TEST__SAVE_FEATURES=True, TEST__SAVE_RANKS=True, TEST__CONTACT_SHEET=1)) == 0
    ours, theirs = metrics(out), metrics(trained_run)
    assert {name: ours[name] for name in SCORES} == {name: theirs[name] for name in SCORES}
    with np.load(out / "features.npz") as a, np.load(trained_run / "features.npz") as b:
        assert a["features"].shape[1] == 192 and np.array_equal(a["features"], b["features"])
    assert eval_main(tiny_argv()) == 0
    assert {path.name for path in out.iterdir()} == {"best.pth", "metrics.json", "test_log.txt"}


def test_test_options_change_the_result(trained_run, tiny_argv, tmp_path):
    found = []
    for number, options in enumerate([
        {}, {"TEST__SAMPLING": "first"}, {"TEST__NECK_FEAT": "after"}, {"TEST__FEAT_NORM": False},
        {"TEST__GALLERY_INCLUDES_QUERY": False}, {"TEST__RE_RANKING": True, "TEST__RE_RANKING_K1": 4,
         "TEST__RE_RANKING_K2": 2}, {"INPUT__PIXEL_MEAN": "[0.9,0.1,0.5]"},
    ]):  # fmt: skip
        out = tmp_path / str(number)
        argv = tiny_argv(TEST__WEIGHT=trained_run / "best.pth", TEST__SAVE_RANKS=True, OUTPUT_DIR=out, **options)
        assert eval_main(argv) == 0
        found.append((out / "ranks.csv").read_text())
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("stop_at", [(1, 1), (3, 2)])
def test_interrupted_and_resumed_run_equals_an_unbroken_one(
    trained_run, tiny_argv, tmp_path, monkeypatch, interrupt_when, caplog, stop_at
):
    interrupt_when(lambda *epoch_and_step: epoch_and_step == stop_at)
    with caplog.at_level(logging.INFO):
        assert train_main(tiny_argv(TEST__UNTRAINED=True)) == 130
    finished = stop_at[0] - 1
    state = f"epoch {finished} is the last finished one" if finished else "training will begin with epoch 1"
    assert state in caplog.text and "--resume" in caplog.text
    assert load(tmp_path / "run" / "last.pth")["epoch"] == finished
    monkeypatch.undo()
    torch.rand(7)  # whatever the process did in between
    assert train_main(tiny_argv("--resume", TEST__UNTRAINED=True)) == 0
    assert_same_state(tmp_path / "run" / "last.pth", trained_run / "last.pth")
    assert metrics(tmp_path / "run") == metrics(trained_run)


def test_a_resumed_run_erases_the_pixels_that_an_unbroken_one_erases(tiny_argv, tmp_path, monkeypatch, interrupt_when):
    """Noise on the device is drawn from random numbers of the main process, which the checkpoint holds."""
    keys = {"INPUT__RE_MODE": "pixel", "INPUT__PADDING": 2, "SOLVER__MAX_EPOCHS": 2, "MODEL__TRIPLET_PENULTIMATE": True}
    assert train_main(tiny_argv(OUTPUT_DIR=tmp_path / "unbroken", **keys)) == 0
    interrupt_when(lambda *epoch_and_step: epoch_and_step == (2, 1))
    assert train_main(tiny_argv(**keys)) == 130
    monkeypatch.undo()
    random.seed(99)  # whatever the process did in between
    torch.rand(7)
    assert train_main(tiny_argv("--resume", **keys)) == 0
    assert_same_state(tmp_path / "run" / "last.pth", tmp_path / "unbroken" / "last.pth")
    states = [load(tmp_path / name / "last.pth")["rng"]["python"] for name in ("run", "unbroken")]
    random.seed(1234)
    assert states[0] == states[1] and states[0][1] != list(random.getstate()[1])  # it was drawn from


def test_run_stopped_in_a_test_runs_that_test_when_resumed(trained_run, tiny_argv, tmp_path, monkeypatch):
    tests = []

    def interrupt(*arguments):
        tests.append(arguments)
        if len(tests) == 4:  # untrained, epochs 1 to 3
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(session, "evaluate", interrupt)
    assert train_main(tiny_argv(TEST__UNTRAINED=True)) == 130
    state = load(tmp_path / "run" / "last.pth")
    assert state["epoch"] == 3 and "mAP" not in state["history"][2]
    monkeypatch.setattr(session, "evaluate", evaluate)
    assert train_main(tiny_argv("--resume", TEST__UNTRAINED=True, DATASETS__NAMES="mars")) == 0
    assert_same_state(tmp_path / "run" / "last.pth", trained_run / "last.pth")
    assert metrics(tmp_path / "run") == metrics(trained_run)


def test_worker_processes_do_not_change_a_run(trained_run, tiny_argv, tmp_path):
    assert train_main(tiny_argv(DATALOADER__NUM_WORKERS=2, TEST__UNTRAINED=True)) == 0
    assert_same_state(tmp_path / "run" / "last.pth", trained_run / "last.pth")


def test_a_longer_run_may_continue_a_finished_one(trained_run, tiny_argv, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    assert train_main(tiny_argv("--resume", SOLVER__MAX_EPOCHS=4)) == 0
    assert metrics(tmp_path / "run")["last"]["epoch"] == 4
    assert len(read_csv(tmp_path / "run" / "history.csv")) == 4


def test_non_finite_loss_stops_with_epoch_step_and_terms(tiny_argv, caplog):
    with caplog.at_level(logging.INFO):
        assert train_main(tiny_argv(SOLVER__BASE_LR=1e30, SOLVER__WARMUP_EPOCHS=0)) == 1
    assert "the loss is not finite in epoch 1, step 2: id nan" in caplog.text


@pytest.mark.slow
def test_both_scripts_run_from_another_folder_and_ctrl_c_leaves_a_run_to_resume(tiny_argv, tmp_path):
    argv = tiny_argv(SOLVER__MAX_EPOCHS=500, DATALOADER__NUM_WORKERS=1)
    command = [sys.executable, str(ROOT / "train-main.py"), *argv]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    best, deadline = tmp_path / "run" / "best.pth", time.monotonic() + 120
    while not best.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert f"Continue with: {sys.executable} {ROOT / 'train-main.py'}" in output
    assert output.rstrip().endswith("--resume")
    weight = str(tmp_path / "run" / "best.pth")
    done = subprocess.run(
        [sys.executable, str(ROOT / "eval-main.py"), *argv, "TEST.WEIGHT", weight],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "run")["weight"] == weight
