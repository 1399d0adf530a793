"""Ctrl-C at safe points: between steps and batches, never in a save, nor in a destructor, which would swallow it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_MAIN_PROCESS = os.getpid()
_requested = threading.Event()
_NOTICE = b"\nCtrl-C: stopping after this step (press it again to stop at once)\n"


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """In this context the first Ctrl-C waits for `check_interrupt`; a second one raises KeyboardInterrupt at once.

    Only the main thread can take signals; in another one the context has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _requested.clear()
    previous = signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def check_interrupt() -> None:
    """A safe point: raise KeyboardInterrupt when Ctrl-C was pressed since `deferred_interrupts` began."""
    if _requested.is_set():
        raise KeyboardInterrupt


def _remember(_signal_number: int, _frame: object) -> None:
    if _requested.is_set():
        raise KeyboardInterrupt
    _requested.set()
    if os.getpid() == _MAIN_PROCESS:  # the loader processes get the signal too
        os.write(2, _NOTICE)  # not print: a signal handler must not use buffered output
