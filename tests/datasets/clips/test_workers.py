"""Loader processes that are killed or stopped: one line, no hang, and no process is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from torch.utils.data import Dataset, get_worker_info

from datasets.clips import workers
from datasets.clips.buffers import ClipLoader
from tests.conftest import ROOT
from utils.errors import LostProcessError
from utils.interrupt import deferred_interrupts, interrupt_requested, until_stopped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' signals and /proc"),
]


class Numbers(Dataset):
    """Item i is i; before item `at` the process that reads it does `fault` to itself, once."""

    def __init__(self, count: int, at: int = -1, fault=None) -> None:
        self.count, self.at, self.fault = count, at, fault
        self.batch_bytes, self.bad_frames, self.buffers = 1, None, None
        self.pid = multiprocessing.Value("i", 0)  # of the process that had the fault

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        if index == self.at and not self.pid.value:
            self.pid.value = os.getpid()
            self.fault()
        return index


def send(number: signal.Signals):
    return lambda: os.kill(os.getpid(), number)


def loader_of(dataset: Dataset, persistent: bool = False) -> ClipLoader:
    return ClipLoader(dataset, batch_size=None, num_workers=2, persistent_workers=persistent)


def assert_no_process_is_left() -> None:
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (send(signal.SIGKILL), "was ended by SIGKILL, as the system does when memory runs out; start"),
        (send(signal.SIGTERM), "was ended by SIGTERM; start"),
        (lambda: os._exit(3), "ended with exit code 3; start"),
    ],
)
def test_a_process_that_ends_is_named_in_one_line(persistent, fault, said):
    dataset, seen = Numbers(40, 7, fault), []
    with pytest.raises(LostProcessError) as caught:
        for index in loader_of(dataset, persistent):
            seen.append(index)
    assert seen == list(range(len(seen))) and len(seen) <= 7
    text = str(caught.value)
    assert f"loader process {dataset.pid.value} {said} the command again" in text
    assert "--resume" in text and "DATALOADER.NUM_WORKERS" in text
    assert "\n" not in text and caught.value.__suppress_context__
    assert_no_process_is_left()


def test_a_process_that_stays_stopped_is_named_in_one_line(monkeypatch):
    monkeypatch.setattr(workers, "_STOPPED_LOOKS", 2)
    dataset, start = Numbers(40, 7, send(signal.SIGSTOP)), time.monotonic()
    with pytest.raises(LostProcessError, match=r"loader process \d+ was stopped \(SIGSTOP\)") as caught:
        list(loader_of(dataset))
    assert f"process {dataset.pid.value} " in str(caught.value) and 2 <= time.monotonic() - start < 10
    assert_no_process_is_left()


def test_a_process_that_goes_on_soon_or_is_merely_slow_is_waited_for(monkeypatch):
    monkeypatch.setattr(workers, "_STOPPED_LOOKS", 4)
    dataset = Numbers(20, 7, send(signal.SIGSTOP))
    timer = threading.Timer(2.5, lambda: os.kill(dataset.pid.value, signal.SIGCONT))
    timer.start()
    assert list(loader_of(dataset)) == list(range(20))
    timer.join()
    monkeypatch.setattr(workers, "_STOPPED_LOOKS", 1)
    assert list(loader_of(Numbers(20, 7, lambda: time.sleep(3)))) == list(range(20))
    assert_no_process_is_left()


def test_a_loss_between_epochs_is_said_when_the_next_one_begins_and_not_before():
    loader = loader_of(Numbers(20), persistent=True)
    assert list(loader) == list(range(20))
    lost = loader._iterator._workers[0].pid
    os.kill(lost, signal.SIGKILL)
    time.sleep(0.5)  # an error that comes out of nowhere would come here
    with pytest.raises(LostProcessError, match=f"loader process {lost} was ended by SIGKILL"):
        list(loader)
    assert_no_process_is_left()


def test_a_stopped_process_does_not_outlive_a_loader_that_is_no_longer_used():
    loader = loader_of(Numbers(20), persistent=True)
    assert list(loader) == list(range(20))
    os.kill(loader._iterator._workers[0].pid, signal.SIGSTOP)
    time.sleep(0.1)
    start = time.monotonic()
    del loader
    assert time.monotonic() - start < 4
    assert_no_process_is_left()


def test_processes_that_end_with_the_whole_run_are_no_error():
    """A signal to the group of processes: the main one is to stop, the others have ended already."""
    with deferred_interrupts():
        items = []
        for item in until_stopped(loader_of(Numbers(40, 7, send(signal.SIGTERM)))):
            items.append(item)
            os.kill(os.getpid(), signal.SIGINT) if item == 0 else None
        assert items[-1] is None and interrupt_requested()
    assert_no_process_is_left()


class Slow(Numbers):
    """Each item takes a while."""

    def __getitem__(self, index: int) -> int:
        time.sleep(0.2)
        return get_worker_info().id


CODE = """
import sys
from datasets.clips import workers
from tests.datasets.clips.test_workers import Slow, loader_of
workers._STOPPED_LOOKS = 2
for index in loader_of(Slow(20)):
    print(index, flush=True)
print("done")
"""


def test_ctrl_z_of_the_whole_run_and_going_on_again_changes_nothing():
    """Even when this process goes on some seconds before its loader processes do."""
    with subprocess.Popen(
        [sys.executable, "-c", CODE], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout.readline() in ("0\n", "1\n")
        os.killpg(run.pid, signal.SIGSTOP)
        time.sleep(7)
        os.kill(run.pid, signal.SIGCONT)
        time.sleep(1.5)
        os.killpg(run.pid, signal.SIGCONT)
        rest = run.stdout.read().splitlines()
    assert run.returncode == 0 and len(rest) == 20 and rest[-1] == "done"
