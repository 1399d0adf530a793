"""A measurement in a process of its own, and the peak of memory in it.

Memory that other measurements held hides nothing there, and ends with the process.
"""

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

import torch

from utils.errors import InputError

T = TypeVar("T")

_PATIENCE = 5.0  # seconds that a process gets to end by itself
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
_RESET_PEAK = "5"


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a fresh process with as many threads; what it raises is raised here.

    Function, arguments and result travel by pickle. Raises InputError when the process dies, for instance because
    memory ran out. Ctrl-C ends it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, torch.get_num_threads(), function, arguments))
    try:
        with _ctrl_c_held_back():  # the process inherits it: the parent alone ends the run, without a traceback of both
            process.start()
        sender.close()
        outcome = receiver.recv()
    except EOFError:
        process.join(_PATIENCE)
        raise InputError(
            f"a measuring process ended with code {process.exitcode}; the memory may have run out: name fewer --parts, "
            "or leave out --full"
        ) from None
    finally:
        receiver.close()
        _end(process)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _end(process: SpawnProcess) -> None:
    """Wait for a process that has done its work, else stop it: at first so that it can tidy up."""
    if process.pid is None:
        return
    if sys.exc_info()[0] is None:
        process.join(_PATIENCE)
    for stop in (process.terminate, process.kill):
        if process.is_alive():
            stop()
            process.join(_PATIENCE)


def _work(sender: Connection, threads: int, function: Callable[..., Any], arguments: tuple) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(threads)
    try:
        outcome = function(*arguments)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        outcome = error
    sender.send(outcome)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Ctrl-C is delivered at the end of the context; a process that is started in it ignores Ctrl-C.

    Without effect where signals cannot be blocked (Windows).
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would end the block, so it is started before
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def with_peak(work: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """What `work()` gives, and the peak of memory within it, in bytes over what was held before.

    On a GPU what torch has allocated there; else the resident memory of this process as the system counts it, None
    where its peak cannot be reset (only Linux can).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return work(), torch.cuda.max_memory_allocated(device) - before
    if not _reset_peak():
        return work(), None
    before = _resident("VmRSS")
    return work(), _resident("VmHWM") - before


def memory_name(device: torch.device) -> str:
    """What `with_peak` watches on this device."""
    return "GPU memory" if device.type == "cuda" else "RAM"


def _reset_peak() -> bool:
    """Whether the system could reset its peak; freed memory that the C library keeps is given back before that.

    Such memory, taken once more, would raise no peak.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc
    except (AttributeError, OSError, TypeError):  # another library or system
        pass
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _resident(field: str) -> int:
    """Bytes of VmRSS (resident now) or VmHWM (its peak)."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024
