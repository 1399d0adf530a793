"""Signals that end a command at safe points: between steps and batches, never in a save, nor in a destructor.

Ctrl-C (SIGINT), SIGTERM (schedulers, `kill`), SIGHUP (a closed terminal) and SIGUSR1 (schedulers, before their limit).
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from utils.errors import LostProcessError

T = TypeVar("T")
_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
_MAIN_PROCESS = os.getpid()
_requested = threading.Event()
_last_signal = signal.SIGINT
_stopped_at_once = False
_notices = True


@contextmanager
def stop_signals() -> Iterator[None]:
    """In this context SIGTERM, SIGHUP and SIGUSR1 do what Ctrl-C does; one that is ignored, as by nohup, stays so."""
    global _last_signal, _stopped_at_once
    _last_signal, _stopped_at_once = signal.SIGINT, False
    _requested.clear()
    with _handling([signal.SIGINT, *_STOPPING], _stop_at_once):
        yield


def stopped_at_once() -> bool:
    """Whether KeyboardInterrupt was raised since `stop_signals` began, at any line: of an import or a destructor too.

    Another error that reaches the command may be what that line made of it.
    """
    return _stopped_at_once


def forget_signals() -> None:
    """At the end of a command: the signal that stopped it must not stop what this process does next."""
    global _stopped_at_once
    _stopped_at_once = False
    _requested.clear()


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """In this context Ctrl-C and the other signals wait for `check_interrupt`.

    A second Ctrl-C raises KeyboardInterrupt at once. Only the main thread can take signals; in another one the context
    has no effect. A signal from before whose KeyboardInterrupt was swallowed by a destructor is heard at the first safe
    point.
    """
    if threading.current_thread() is threading.main_thread() and not _stopped_at_once:
        _requested.clear()
    with _handling([signal.SIGINT, *_STOPPING], _remember):
        yield


def interrupt_requested() -> bool:
    """Whether a signal has come since `deferred_interrupts` began."""
    return _requested.is_set()


def until_stopped(items: Iterable[T]) -> Iterator[T | None]:
    """The items; None in place of one whose process has got, and died of, the signal that this one is to stop at."""
    try:
        yield from items
    except LostProcessError:
        if not interrupt_requested():
            raise
        yield None


def check_interrupt() -> None:
    """A safe point: raise KeyboardInterrupt when a signal has come since `deferred_interrupts` began."""
    if _requested.is_set():
        raise KeyboardInterrupt


def last_signal() -> int:
    """The signal that KeyboardInterrupt stands for; the exit code of the command is 128 more."""
    return int(_last_signal)


def request_stop(number: int) -> None:
    """Take over the signal that another process has got."""
    global _last_signal
    _last_signal = signal.Signals(number)
    _requested.set()


def keep_quiet() -> None:
    """No notice of a signal from this process."""
    global _notices
    _notices = False


@contextmanager
def _handling(numbers: list[signal.Signals], handler: object) -> Iterator[None]:
    """Handle the signals that are not ignored; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _stop_at_once(number: int, _frame: object) -> None:
    global _last_signal, _stopped_at_once
    if os.getpid() != _MAIN_PROCESS and number != signal.SIGINT:
        _as_usual(number)
    _last_signal, _stopped_at_once = signal.Signals(number), True
    _requested.set()
    raise KeyboardInterrupt


def _remember(number: int, _frame: object) -> None:
    if os.getpid() != _MAIN_PROCESS:
        # The loader processes get the signals of the whole group too, and end with the process that they work for.
        if number == signal.SIGTERM:
            _as_usual(number)
        return
    if number == signal.SIGINT and _requested.is_set():
        raise KeyboardInterrupt
    request_stop(number)
    if _notices:
        what = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        again = " (press it again to stop at once)" if number == signal.SIGINT else ""
        os.write(2, f"\n{what}: stopping after this step{again}\n".encode())  # print would use a buffer


def _as_usual(number: int) -> None:
    """What the signal does to a process that does not handle it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
