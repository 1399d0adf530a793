"""Ctrl-C waits for a safe point; a second one does not."""

import contextlib
import os
import signal
import threading
import time

import pytest

from configs.command import run_command
from utils.interrupt import check_interrupt, deferred_interrupts, last_signal, stop_signals, stopped_at_once


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # let the interpreter run the handler


def test_the_first_ctrl_c_waits_for_a_safe_point(capfd):
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        check_interrupt()
        press_ctrl_c()
        reached.append("a save goes on")
        check_interrupt()
        reached.append("never")
    assert reached == ["a save goes on"] and "press it again to stop at once" in capfd.readouterr().err


def test_the_second_ctrl_c_stops_at_once(capfd):
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        press_ctrl_c()
        press_ctrl_c()
        pytest.fail("the second Ctrl-C was not heard")
    assert capfd.readouterr().err.count("Ctrl-C") == 1


def test_afterwards_ctrl_c_is_what_it_was_and_the_next_run_starts_clean():
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupts():
        press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before
    with deferred_interrupts():
        check_interrupt()


def test_another_thread_may_run_without_signals():
    faults = []

    def work():
        try:
            with deferred_interrupts():
                check_interrupt()
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert faults == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_every_signal_stops_a_command_and_its_number_is_kept(name, capfd):
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(KeyboardInterrupt), stop_signals():
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(1)
    assert last_signal() == getattr(signal, name) and stopped_at_once()
    with pytest.raises(KeyboardInterrupt), stop_signals(), deferred_interrupts():
        assert not stopped_at_once()
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.01)
        check_interrupt()
    assert last_signal() == getattr(signal, name) and "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(getattr(signal, name)) is before


def test_a_stop_that_was_swallowed_is_heard_at_the_first_safe_point():
    with stop_signals():
        with contextlib.suppress(KeyboardInterrupt):
            press_ctrl_c()  # a destructor swallows it in this way
        with pytest.raises(KeyboardInterrupt), deferred_interrupts():
            check_interrupt()


def test_what_an_import_makes_of_a_signal_is_a_stop_and_an_ignored_signal_stays_ignored():
    def broken_import():
        try:
            press_ctrl_c()
        except KeyboardInterrupt:
            raise RecursionError("maximum recursion depth exceeded") from None

    assert run_command(broken_import) == 130
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_signals(), deferred_interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            check_interrupt()
    finally:
        signal.signal(signal.SIGHUP, before)
