"""The time left of a run, by hand."""

import pytest

from processor.training.time_left import Clock, Pace, Plan, duration_text, seconds_left

PACE = Pace(step=2.0, epoch=100.0, test_frame=0.5, final_frame=0.25)


def plan(epochs=10, test_every=3) -> Plan:
    return Plan(epochs, 64, test_every, test_frames=40, test_sampling="first", final_frames=160, final_sampling="dense")


@pytest.mark.parametrize("test_every", [1, 2, 3, 7, 10, 11])
def test_the_tests_that_are_left_are_those_of_the_schedule(test_every):
    """As `_test_is_due` has it: every so many epochs, and after the last one."""
    for done in range(13):
        tested = [e for e in range(done + 1, 11) if e % test_every == 0 or e >= 10]
        assert plan(test_every=test_every).tests_after(done) == len(tested)


@pytest.mark.parametrize(
    ("epoch", "steps", "seconds"),
    [
        (0, 50, 50 * 2 + 9 * 100 + 4 * 20 + 40),  # tests after epochs 3, 6, 9, 10
        (2, 0, 7 * 100 + 4 * 20 + 40),  # before the test of epoch 3
        (3, 50, 50 * 2 + 6 * 100 + 3 * 20 + 40),
        (9, 7, 7 * 2 + 20 + 40),
        (9, 0, 20 + 40),
    ],
)
def test_what_is_left_is_steps_epochs_tests_and_the_final_test(epoch, steps, seconds):
    assert seconds_left(plan(), epoch, steps, PACE) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (5025.2, "1:23:45"), (86400 * 2 + 5025, "2 days, 1:23:45")]
)
def test_durations_read_as_a_clock(seconds, text):
    assert duration_text(seconds) == text


class Hand:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand() -> Hand:
    return Hand()


def steps(clock: Clock, hand: Hand, count: int, seconds: float) -> None:
    for _ in range(count):
        hand.now += seconds
        clock.note_step()


def test_the_first_step_is_not_taken_for_the_rest_and_tests_cost_a_forward_pass_until_one_is_seen(hand):
    clock = Clock(plan(), hand)
    clock.start_epoch(50, [])
    assert clock.left(0, 0) is None
    steps(clock, hand, 1, 30.0)  # waits for the loader
    assert clock.left(0, 1) is None
    steps(clock, hand, 2, 6.0)
    training = 47 * 6 + 9 * (30 + 49 * 6)
    frame = 6 / 64 / 3
    assert clock.left(0, 3) == pytest.approx(training + (4 * 40 + 160) * frame)
    clock.note_pass("dense", 100, 50.0)  # as that over the training tracklets
    assert clock.left(0, 3) == pytest.approx(training + (4 * 40 + 160) * 0.5)
    clock.note_pass("first", 40, 10.0)
    assert clock.left(0, 3) == pytest.approx(training + 4 * 40 * 0.25 + 160 * 0.5)


def test_after_an_epoch_its_seconds_count_until_ten_steps_of_the_next_are_timed(hand):
    clock = Clock(plan(epochs=3, test_every=5), hand)
    clock.note_pass("first", 40, 0.0)
    clock.start_epoch(50, [])
    steps(clock, hand, 50, 1.0)
    clock.end_epoch(60.0)
    assert clock.left(0, 50) == pytest.approx(2 * 60.0)
    clock.start_epoch(50, [{"seconds": 60.0}])
    assert clock.left(1, 0) == pytest.approx(2 * 60.0)
    steps(clock, hand, 9, 3.0)
    assert clock.left(1, 9) == pytest.approx(41 * 60 / 50 + 60)
    steps(clock, hand, 1, 3.0)
    assert clock.left(1, 10) == pytest.approx(40 * 3.0 + 60)


def test_a_continued_run_knows_from_its_history(hand):
    """Also after step 20 of an epoch, before any step of its own."""
    clock = Clock(plan(), hand)
    clock.start_epoch(50, [{"seconds": 500.0}, {"seconds": 200.0}])
    assert clock.left(2, 20) == pytest.approx(30 * 4 + 7 * 200 + (4 * 40 + 160) * 4 / 64 / 3)
