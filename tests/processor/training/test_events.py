"""SOLVER.TENSORBOARD: the events are those of the run, and the run is that without them."""

import errno
import logging
import math
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from processor import run_folder
from processor.run import train_main
from processor.runtime import Runtime
from processor.training import session
from processor.training.epoch import train_one_epoch
from processor.training.events import EventWatch, gradient_norm
from processor.training.time_left import Clock, Plan
from tests.conftest import SCORES, contents, load, one_error, read_csv, tiny_options
from tests.processor.training.test_epoch import tiny_run
from tests.test_end_to_end import assert_same_state
from tests.tolerance import allowed

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

PLAN = Plan(1, 8, 1, 8, "first", 8, "dense")
MEASURED = ("speed/", "memory/", "epoch/seconds")  # differ from run to run
ON = {"SOLVER__TENSORBOARD": True}
WATCHED = ON | {"SOLVER__LOG_PERIOD": 3, "TEST__UNTRAINED": True}
STEPS = (9, 8, 9)  # of the epochs of the tiny set


def accumulated(run: Path):
    events = event_accumulator.EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "tensors": 0})
    return events.Reload()


def go_on(argv: list[str]) -> int:
    """`train_main` in the next second: TensorBoard orders the files of one process and second by their names."""
    time.sleep(1 - time.time() % 1)
    return train_main(argv)


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of every point that TensorBoard shows."""
    events = accumulated(run)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def repeatable(run: Path) -> dict[str, list[tuple[int, float]]]:
    return {tag: points for tag, points in curves(run).items() if not tag.startswith(MEASURED)}


def norm_by_hand(model: nn.Module) -> float:
    squares = [weight.grad.double().square().sum() for weight in model.parameters() if weight.grad is not None]
    return math.sqrt(sum(map(float, squares)))


@pytest.fixture(scope="module")
def watched_run(tiny_mars, tmp_path_factory) -> Path:
    """`trained_run` with events of each third step."""
    out = tmp_path_factory.mktemp("watched") / "run"
    assert train_main(tiny_options(DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=out, **WATCHED)) == 0
    return out


def test_a_watched_run_is_the_same_bit_for_bit(watched_run, trained_run):
    assert_same_state(watched_run / "last.pth", trained_run / "last.pth")


def test_losses_and_scores_of_the_epochs_are_those_of_the_history(watched_run):
    found, rows = curves(watched_run), read_csv(watched_run / "history.csv")
    ends = [sum(STEPS[: epoch + 1]) for epoch in range(3)]
    tags = {name: f"test/{name}" if name in SCORES else f"epoch/{name}" for name in rows[0]} | {"epoch": "epoch/number"}
    assert {tag for tag in found if tag.startswith(("epoch/", "test/"))} == set(tags.values())
    for column, tag in tags.items():
        assert [step for step, _ in found[tag]] == ends, tag
        assert [value for _, value in found[tag]] == pytest.approx([float(row[column]) for row in rows], rel=1e-6), tag


def test_the_steps_have_a_curve_for_everything_that_is_watched(watched_run):
    found = curves(watched_run)
    in_epoch = [[step for step in range(1, steps + 1) if step == 1 or step % 3 == 0] for steps in STEPS]
    due = [sum(STEPS[:epoch]) + step - 1 for epoch, steps in enumerate(in_epoch) for step in steps]
    of_steps = {tag for tag in found if not tag.startswith(("epoch/", "test/"))}
    groups = {"encoder_weights", "encoder_biases", "classifier_t-ssp-tmd_weights", "ssp-tmd_biases"}
    expected = {f"loss/{name}" for name in ("id", "triplet", "v2m", "frame_id", "total")} | {"gradient/norm"}
    expected |= {f"lr/{name}" for name in groups} | {"speed/frames_per_second"}
    assert expected <= of_steps and {tag.split("/")[0] for tag in of_steps - expected} <= {"memory"}
    for tag in of_steps:
        assert [step for step, _ in found[tag]] == due, tag
        assert all(math.isfinite(value) and value >= 0 for _, value in found[tag]), tag
    weights, biases = ([value for _, value in found[f"lr/encoder_{kind}"]] for kind in ("weights", "biases"))
    assert biases == pytest.approx([2 * value for value in weights]) and weights[0] == pytest.approx(1e-4)


def test_config_and_final_scores_are_there_as_text(watched_run):
    events = accumulated(watched_run)
    texts = (events.Tensors(f"{tag}/text_summary")[0] for tag in ("config", "final scores"))
    config, scores = (text.tensor_proto.string_val[0].decode() for text in texts)
    assert "MAX_EPOCHS: 3" in config
    assert "| percent | mAP |" in scores and "| last, epoch 3 |" in scores and "| untrained |" in scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop_at", "saved"),
    [((2, 8), 5), pytest.param((1, 5), 0, marks=pytest.mark.slow), pytest.param((3, 4), 0, marks=pytest.mark.slow)],
)
def test_the_curves_of_a_continued_run_have_no_gap_and_no_overlap(
    watched_run, tiny_argv, tmp_path, monkeypatch, interrupt_when, stop_at, saved
):
    """It died in a step; points of the steps after the last save stand in the first file of events."""
    run = tmp_path / "run"
    interrupt_when(lambda *epoch_and_step: epoch_and_step == stop_at)
    assert train_main(tiny_argv(**WATCHED, SOLVER__SAVE_EVERY_STEPS=5)) == 130
    state = load(run / "last.pth")
    assert (state["epoch"], state["step"]) == (stop_at[0] - 1, saved)
    assert curves(run)["loss/total"][-1][0] >= sum(STEPS[: state["epoch"]]) + saved
    monkeypatch.undo()
    assert go_on(tiny_argv("--resume", **WATCHED)) == 0
    assert len(list((run / "tensorboard").iterdir())) == 2
    assert repeatable(run) == repeatable(watched_run)


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_saved_the_scores_of_a_test_shows_them_once(
    watched_run, tiny_argv, tmp_path, monkeypatch
):
    """Their points are written, the checkpoint with them is not; the test is repeated."""
    run, save = tmp_path / "run", session.RunState.save

    def killed(state, experiment, name):
        if state.epoch == 2 and "mAP" in state.history[-1]:
            raise KeyboardInterrupt
        save(state, experiment, name)

    monkeypatch.setattr(session.RunState, "save", killed)
    assert train_main(tiny_argv(**WATCHED)) == 130
    assert len(curves(run)["test/mAP"]) == 2 and "mAP" not in load(run / "last.pth")["history"][-1]
    monkeypatch.undo()
    assert go_on(tiny_argv("--resume", **WATCHED)) == 0
    assert repeatable(run) == repeatable(watched_run)


def test_a_finished_run_goes_on_behind_its_curves(watched_run, tiny_argv, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(watched_run, run)
    assert go_on(tiny_argv("--resume", **WATCHED | {"SOLVER__MAX_EPOCHS": 4})) == 0
    before, after = repeatable(watched_run), repeatable(run)
    assert {tag: points[: len(before[tag])] for tag, points in after.items()} == before
    assert [step for step, _ in after["test/mAP"]] == [9, 17, 26, updates(run)]


def updates(run: Path) -> int:
    """Steps of the run, as Adam counts them."""
    return int(load(run / "last.pth")["optimizer"]["state"][0]["step"])


@pytest.mark.slow
def test_the_key_may_change_when_a_run_continues_and_off_needs_no_package(
    trained_run, tiny_argv, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train_main(tiny_argv("--resume", SOLVER__MAX_EPOCHS=4)) == 0
    assert not (run / "tensorboard").exists()
    monkeypatch.undo()
    first = updates(run)
    assert go_on(tiny_argv("--resume", SOLVER__MAX_EPOCHS=5, **ON | {"SOLVER__LOG_PERIOD": 1})) == 0
    assert [step for step, _ in curves(run)["loss/total"]] == list(range(first, updates(run)))
    assert curves(run)["epoch/number"] == [(first, 4), (updates(run), 5)]


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("fp16", [False, True])
def test_the_gradient_norm_is_that_of_the_gradients_that_adam_gets(tmp_path, num_parts, fp16):
    """By hand from every weight's gradient just before the update."""
    run, criterion, batch = tiny_run()
    by_hand = []
    run.optimizer.register_step_pre_hook(lambda *_: by_hand.append(norm_by_hand(run.model)))
    watch = EventWatch(1, Clock(PLAN), tmp_path / "tensorboard", "test")
    watch.open(run, lambda epoch: 0, "")
    runtime = Runtime(torch.device("cpu"), None, lambda clips: clips.float() / 255)
    step = run.training_step(criterion, runtime, num_parts)
    if fp16:  # Adam undoes the scale itself, after the hook
        run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train_one_epoch(run, step, [batch, batch, batch], watch=watch)
    watch.close()
    norms = [norm for _, norm in curves(tmp_path)["gradient/norm"]]
    factor = 1024.0 if fp16 else 1.0
    size = sum(weight.numel() for weight in run.model.parameters())
    assert norms == pytest.approx([norm / factor for norm in by_hand], rel=allowed(1.0, size))
    assert len(norms) == 3 and min(norms) > 0


def test_no_gradient_no_norm():
    model = nn.Linear(2, 2)
    assert gradient_norm(model, torch.amp.GradScaler("cpu", enabled=False)) == 0


def test_a_missing_package_is_said_before_data_are_read(tiny_argv, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = one_error(caplog, train_main, tiny_argv(DATASETS__ROOT_DIR="nowhere", **ON))
    assert line == "error: SOLVER.TENSORBOARD True needs a package that is not there: pip install tensorboard"
    assert not (tmp_path / "run").exists()


def test_a_file_in_place_of_the_folder_is_an_error(tiny_argv, tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").touch()
    line = one_error(caplog, train_main, tiny_argv(DATASETS__ROOT_DIR="nowhere", **ON))
    file = tmp_path / "run" / "tensorboard"
    assert line.startswith(f"error: SOLVER.TENSORBOARD True: {file} is a file; move it away")


def test_a_folder_that_cannot_be_written_is_an_error(tiny_argv, tmp_path, caplog, monkeypatch):
    folder = tmp_path / "run" / "tensorboard"
    folder.mkdir(parents=True)
    unpatched = run_folder.tempfile.TemporaryFile

    def refuse(dir):  # root may write everywhere
        if Path(dir) == folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return unpatched(dir=dir)

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", refuse)
    line = one_error(caplog, train_main, tiny_argv(DATASETS__ROOT_DIR="nowhere", **ON))
    assert line == f"error: SOLVER.TENSORBOARD True: {folder} cannot be written (Permission denied)"


@pytest.mark.parametrize("written", [pytest.param(0, marks=pytest.mark.slow), 40])
def test_training_goes_on_without_events_when_the_disk_is_full(
    tiny_argv, trained_run, tmp_path, monkeypatch, caplog, capfd, written
):
    from tensorboard.summary.writer.record_writer import RecordWriter

    unpatched, room = RecordWriter.write, [written]

    def write(self, data):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        unpatched(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    hook = threading.excepthook
    assert train_main(tiny_argv(**WATCHED)) == 0
    assert_same_state(tmp_path / "run" / "last.pth", trained_run / "last.pth")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    folder = tmp_path / "run" / "tensorboard"
    assert warning.startswith(f"{folder} cannot be written (No space left on device): training goes on")
    assert "Traceback" not in capfd.readouterr().err and threading.excepthook is hook


def test_nothing_is_left_running_after_ctrl_c(tiny_argv, tmp_path, interrupt_when):
    before, hook = set(threading.enumerate()), threading.excepthook
    interrupt_when(lambda *epoch_and_step: epoch_and_step == (1, 4))
    assert train_main(tiny_argv(**ON, SOLVER__LOG_PERIOD=1)) == 130
    left = {type(thread).__module__ for thread in set(threading.enumerate()) - before}
    assert not any(module.startswith("tensorboard.") for module in left) and threading.excepthook is hook
    assert [step for step, _ in curves(tmp_path / "run")["loss/total"]] == [0, 1, 2]


def test_overwrite_removes_events_and_picture_and_nothing_else(watched_run, tiny_argv, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(watched_run, run)
    (run / "tensorboard" / "notes.txt").write_text("mine")
    run_folder.discard_run(run)
    assert set(contents(run)) - {p for p in contents(run) if p.parts[0] == "cache"} == {Path("tensorboard/notes.txt")}
    (run / "tensorboard" / "notes.txt").unlink()
    run_folder.discard_run(run)
    assert not (run / "tensorboard").exists()


def test_the_log_says_how_long_the_whole_run_takes(watched_run):
    log = (watched_run / "train_log.txt").read_text()
    assert log.count("; run left about 0:0") == 8 and log.count("frames/s, run left about 0:0") == 3


def test_a_picture_that_cannot_be_drawn_ends_no_run(tiny_argv, tmp_path, monkeypatch, caplog):
    def missing(path, history):
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(session, "save_curves", missing)
    with caplog.at_level(logging.WARNING):
        assert train_main(tiny_argv(SOLVER__MAX_EPOCHS=1)) == 0
    assert "curves.png: No module named 'matplotlib'" in caplog.text
