"""Whole runs whose loader processes are killed, and whole runs on data with unreadable frames."""

import logging
import multiprocessing
import os
import shutil
import signal

import pytest

from processor.run import eval_main, train_main
from processor.training.epoch import FiniteCheck
from tests.conftest import metrics, one_error
from utils.group_means import GroupMeans

pytestmark = pytest.mark.slow


def kill_loaders() -> None:
    """What the system does when memory runs out."""
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)


def after(monkeypatch, owner: type, name: str, due) -> None:
    """Kill the loader processes after each call of a method with due(self) until monkeypatch.undo()."""
    unpatched = getattr(owner, name)

    def call(self, *arguments):
        unpatched(self, *arguments)
        if due(self):
            kill_loaders()

    monkeypatch.setattr(owner, name, call)


def lost(caplog, main, argv: list[str]) -> None:
    """The command ends with exit code 1, one line of error and no traceback, and leaves no process."""
    caplog.clear()
    assert main(argv) == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "was ended by SIGKILL" in record.getMessage() and "\n" not in record.getMessage() and not record.exc_info
    assert multiprocessing.active_children() == []


def test_a_killed_loader_ends_memory_pass_training_and_tests_in_one_line_and_the_run_goes_on(
    tiny_argv, tmp_path, monkeypatch, caplog
):
    argv = tiny_argv(DATALOADER__NUM_WORKERS=1, TEST__FRAMES_PER_BATCH=2)
    after(monkeypatch, GroupMeans, "add", lambda means: True)
    lost(caplog, train_main, argv)  # in the memory pass
    monkeypatch.undo()
    after(monkeypatch, FiniteCheck, "add", lambda check: check.epoch == 2)
    lost(caplog, train_main, [*argv, "--overwrite"])
    monkeypatch.undo()
    assert train_main([*argv, "--resume"]) == 0
    resumed = metrics(tmp_path / "run")
    after(monkeypatch, GroupMeans, "add", lambda means: True)
    lost(caplog, eval_main, argv)
    monkeypatch.undo()
    assert train_main([*argv, "OUTPUT_DIR", str(tmp_path / "unbroken")]) == 0
    assert metrics(tmp_path / "unbroken") == resumed


def test_a_run_on_unreadable_frames_is_that_on_data_with_their_neighbours(tiny_mars, tiny_argv, tmp_path, caplog):
    """Its features are not kept for a run in which such frames are an error."""
    broken, mended = tmp_path / "broken", tmp_path / "mended"
    for copy in (broken, mended):
        shutil.copytree(tiny_mars, copy)
    names = []
    for number, split in enumerate(("bbox_train", "bbox_train", "bbox_test", "bbox_test")):
        folder = sorted(path for path in (broken / split).iterdir() if path.is_dir())[1 + number % 2]
        first, second = sorted(folder.iterdir())[:2]
        shutil.copy(second, mended / first.relative_to(broken))
        names.append(str(first))
        if number % 2:
            first.write_bytes(first.read_bytes()[:100])
        else:
            first.unlink()
    options = {"TEST__SAMPLING": "dense", "DATASETS__CACHE_DIR": tmp_path / "cache", "TEST__CONTACT_SHEET": 4}
    runs = {}
    for root in (mended, broken):
        caplog.clear()
        out = tmp_path / f"run-{root.name}"
        skip = {"DATASETS__ON_BAD_FRAME": "skip", "DATALOADER__NUM_WORKERS": 2 if root == broken else 0}
        assert train_main(tiny_argv(DATASETS__ROOT_DIR=root, OUTPUT_DIR=out, **options, **skip)) == 0
        runs[root] = metrics(out)
        warned = [m for m in caplog.messages if "takes its place" in m]
        assert len(warned) == (len(names) if root == broken else 0)
    assert all(any(name in message for message in warned) for name in names)
    assert runs[broken].pop("frames_replaced") == len(names) and runs[mended].pop("frames_replaced") == 0
    assert runs[broken] == runs[mended]
    strict = tiny_argv(DATASETS__ROOT_DIR=broken, OUTPUT_DIR=tmp_path / "strict", **options)
    assert any(name in one_error(caplog, train_main, strict) for name in names)
    limited = tiny_argv(
        DATASETS__ROOT_DIR=broken, OUTPUT_DIR=tmp_path / "limited", DATASETS__ON_BAD_FRAME="skip",
        DATASETS__BAD_FRAME_LIMIT=1, **options,
    )  # fmt: skip
    assert "DATASETS.BAD_FRAME_LIMIT 1" in one_error(caplog, train_main, limited)
