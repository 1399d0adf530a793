"""One folder, one run: the lock of OUTPUT_DIR, and what is said when last.pth is broken."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time

import pytest
import torch

from datasets.synthetic.command import write_mars
from processor import run_folder
from processor.run import eval_main, train_main
from processor.run_folder import LOCK, discard_run, load_last, lock
from tests.conftest import contents, load, one_error, tiny_options
from tests.reference import DATA
from utils.checkpoint import Checkpoint
from utils.errors import InputError, MissingFileError

FORK = multiprocessing.get_context("fork")  # another would import torch, for seconds


def keep(folder, connection) -> None:
    """Hold the folder until a word comes."""
    with lock(folder):
        connection.send("locked")
        connection.recv()


@pytest.fixture
def hold():
    """hold(folder) -> another process that holds the folder, and the connection that lets it end."""
    processes = []

    def start(folder):
        here, there = FORK.Pipe()
        processes.append(FORK.Process(target=keep, args=[folder, there]))
        processes[-1].start()
        assert here.recv() == "locked"
        return processes[-1], here

    yield start
    for process in processes:
        process.kill()
        process.join()


def refusal(folder, *arguments) -> str:
    """The one line that refuses the folder."""
    with pytest.raises(InputError) as caught, lock(folder, *arguments):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left_by(folder, **owner) -> None:
    """A lock file as a process leaves it that is killed."""
    folder.mkdir(exist_ok=True)
    content = {"process": 2**22 - 1, "host": "elsewhere", "since": "2026-01-01 10:00:00", "command": []} | owner
    (folder / LOCK).write_text(json.dumps(content))


def test_nothing_is_left_of_a_lock_and_a_process_may_lock_twice(tmp_path):
    folder = tmp_path / "runs" / "mars"
    with lock(folder):
        with lock(folder):
            owner = json.loads((folder / LOCK).read_text())
            assert owner["process"] == os.getpid() and owner["command"] == sys.argv
        assert (folder / LOCK).exists() and run_folder.run_files(folder) == []
        discard_run(folder)
        assert (folder / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), lock(folder):
        (folder / "train_log.txt").write_text("")
        raise ZeroDivisionError
    assert [path.name for path in folder.iterdir()] == ["train_log.txt"]


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path, hold):
    process, _ = hold(tmp_path)
    line = refusal(tmp_path)
    assert line.startswith(f"OUTPUT_DIR {tmp_path} is in use by process {process.pid} on host ")
    assert line.endswith(": wait for its end, or name another OUTPUT_DIR")
    assert refusal(tmp_path, "wait").endswith(": wait")
    process.kill()
    process.join()
    assert (tmp_path / LOCK).exists()
    with lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()
    process, connection = hold(tmp_path)
    connection.send("end")
    process.join()
    assert process.exitcode == 0 and not (tmp_path / LOCK).exists()


def lock_and_fork(folder, connection) -> None:
    with lock(folder):
        worker = FORK.Process(target=time.sleep, args=[60])
        worker.start()
        connection.send(worker.pid)
        time.sleep(60)


def test_a_loader_process_that_survives_does_not_keep_the_lock(tmp_path):
    here, there = FORK.Pipe()
    main = FORK.Process(target=lock_and_fork, args=[tmp_path, there])
    main.start()
    worker = here.recv()
    try:
        assert f"process {main.pid} on" in refusal(tmp_path)
        main.kill()
        main.join()
        os.kill(worker, 0)  # it lives
        with lock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_run_in_one_split_keeps_the_whole_series_from_being_discarded(tmp_path, hold):
    for split in ("split0", "split3"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "last.pth").write_text(split)
    hold(tmp_path / "split3")
    with pytest.raises(InputError, match="split3 is in use"):
        discard_run(tmp_path)
    assert (tmp_path / "split0" / "last.pth").exists() and (tmp_path / "split3" / "last.pth").exists()


def test_a_lock_file_of_another_host_holds_as_long_as_it_is_renewed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_folder, "_BEAT", 0.05)
    left_by(tmp_path)
    ended = threading.Event()
    sign = threading.Thread(target=run_folder._give_signs, args=(tmp_path / LOCK, ended))
    sign.start()
    try:
        assert "is in use by process 4194303 on host elsewhere since 2026-01-01 10:00:00: wait" in refusal(tmp_path)
    finally:
        ended.set()
        sign.join()
    with caplog.at_level("INFO"), lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert "was in use on host elsewhere: waiting" in caplog.text and not (tmp_path / LOCK).exists()


def test_a_running_process_gives_signs(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "_BEAT", 0.02)
    with lock(tmp_path):
        first = (tmp_path / LOCK).stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while (tmp_path / LOCK).stat().st_mtime_ns == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_without_locks_a_living_process_of_this_host_holds_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "fcntl", None)
    here = {"host": run_folder.host_name()}
    left_by(tmp_path, process=os.getppid(), **here)
    assert f"is in use by process {os.getppid()} on" in refusal(tmp_path)
    left_by(tmp_path, **here)  # no process has such a number
    with lock(tmp_path):
        pass
    for content in ("", "{}", "[]", "words", '{"process": "x"}'):
        (tmp_path / LOCK).write_text(content)
        with lock(tmp_path):
            pass


def test_a_broken_last_pth_names_best_pth_where_that_is_whole(tmp_path):
    whole = (DATA / "earlier_run" / "last.pth").read_bytes()
    last, best = tmp_path / "last.pth", tmp_path / "best.pth"
    last.write_bytes(whole)
    best.write_bytes(whole)
    assert load_last(tmp_path).epoch == 1
    spare = f"; {best} is a full state: copy it over last.pth to go on after epoch 1"
    last.write_bytes(whole[:-7])
    for kind, fault in ((InputError, "cannot be read; it is truncated, damaged"), (MissingFileError, "does not exist")):
        with pytest.raises(kind, match=fault) as caught:
            load_last(tmp_path)
        assert str(caught.value).endswith(spare) and "\n" not in str(caught.value)
        last.unlink(missing_ok=True)
    last.write_bytes(whole[:-7])
    best.write_bytes(whole[:-7])
    with pytest.raises(InputError, match="last.pth cannot be read") as caught:
        load_last(tmp_path)
    assert "best.pth" not in str(caught.value)
    last.write_bytes(whole)
    with pytest.raises(InputError, match="best.pth cannot be read"):  # before the epochs, not after them
        load_last(tmp_path)
    shutil.copy(last, best)
    assert load_last(tmp_path).epoch == 1


def save_again_and_again(path, value, ended) -> None:
    state = Checkpoint.load(DATA / "earlier_run" / "last.pth")
    for weight in state.model.values():
        weight.fill_(value)
    while not ended.is_set():
        state.save(path)


@pytest.mark.slow
def test_two_writers_of_one_checkpoint_never_mix_nor_break_it(tmp_path):
    path, ended, seen = tmp_path / "last.pth", FORK.Event(), []
    writers = [FORK.Process(target=save_again_and_again, args=[path, value, ended]) for value in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        while len(seen) < 60 or len(set(seen)) < 2:
            if path.exists():
                model = Checkpoint.load(path).model
                values = {float(value) for weight in model.values() for value in torch.unique(weight)}
                assert len(values) == 1, values
                seen += values
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0] and [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_no_command_touches_the_folder_of_a_running_training(trained_run, tiny_argv, tmp_path, hold, caplog):
    out = shutil.copytree(trained_run, tmp_path / "run")
    process, _ = hold(out)
    before = contents(out)
    for main, flags in ((train_main, ()), (train_main, ("--resume",)), (train_main, ("--overwrite",)), (eval_main, ())):
        line = one_error(caplog, main, tiny_argv(*flags))
        assert f"OUTPUT_DIR {out} is in use by process {process.pid} on" in line
        assert main is train_main or line.endswith(f"another OUTPUT_DIR with TEST.WEIGHT {out / 'best.pth'}")
    assert contents(out) == before
    assert eval_main(tiny_argv(TEST__WEIGHT=out / "best.pth", OUTPUT_DIR=tmp_path / "test")) == 0
    series = {"DATASETS__NAMES": "iLIDS-VID", "DATASETS__SPLIT": "all"}
    for main in (train_main, eval_main):
        assert "is in use by" in one_error(caplog, main, tiny_argv(**series))


def test_a_state_of_another_model_is_refused_before_anything_is_written(trained_run, tiny_argv, tmp_path, caplog):
    out = shutil.copytree(trained_run, tmp_path / "run")
    state = load(out / "last.pth")
    state["optimizer"]["state"][0]["exp_avg"] = torch.ones(2)
    torch.save(state, out / "last.pth")
    before = contents(out)
    line = one_error(caplog, train_main, tiny_argv("--resume", TEST__UNTRAINED=True))
    assert "last.pth cannot be resumed: field optimizer: exp_avg of weight 0 is no tensor" in line
    assert contents(out) == before


def test_weights_that_became_nan_in_the_last_step_of_an_epoch_are_not_saved(tmp_path, caplog):
    data, out = tmp_path / "mars", tmp_path / "run"
    write_mars(data, train_ids=6, test_ids=4, cameras=2, tracklets=2, frames=(3, 5), size=(32, 16), workers=0)
    recipe = {"SOLVER__BASE_LR": 1e3, "SOLVER__IMS_PER_BATCH": 12}  # two steps; the second has a loss for the last time
    assert train_main(tiny_options(DATASETS__ROOT_DIR=data, OUTPUT_DIR=out, **recipe)) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert (
        "more tensors of the state hold inf or nan" in line
        and f"{out / 'last.pth'} keeps the state after epoch 0" in line
    )
    assert all(value.isfinite().all() for value in load(out / "last.pth")["model"].values())
