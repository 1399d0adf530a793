"""Ctrl-C waits for a safe point; a second one does not."""

import os
import signal
import threading
import time

import pytest

from utils.interrupt import check_interrupt, deferred_interrupts


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
