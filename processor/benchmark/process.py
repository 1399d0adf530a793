"""A measurement in a process of its own: its memory is not hidden by what was held before, and ends with it."""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from utils.errors import InputError

_PATIENCE = 5.0  # seconds that a process gets to end by itself


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a fresh process with as many threads; what it raises is raised here.

    Function, arguments and result travel by pickle. Raises InputError when the process dies, for instance because
    memory ran out. Ctrl-C ends it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, torch.get_num_threads(), function, arguments))
    try:
        with _ctrl_c_ignored():  # the process inherits it: the parent alone ends the run, without a traceback of both
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
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main one can say how signals are taken
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
