"""A clock that jumps, starts wrong or comes back: what the platform's time is, and when deadlines and deletions rest."""

import pytest
from bmsota_cloud.domain.clock_guard import ClockDoubt, ClockGuard

S = 10**9
HOUR = 3600
WALL = 1_795_334_400
"""Seconds since the epoch, when the monotonic clock says 1000 s."""


class Clocks:
    """A guard and the two clocks it reads, in seconds from the start."""

    def __init__(self):
        self.guard = ClockGuard()
        self.at = 0
        self.wrong = 0

    def read(self, at=None, *, wrong=None):
        """The platform's time in seconds from the true start, with the wall clock *wrong* seconds ahead."""
        self.at = self.at if at is None else at
        self.wrong = self.wrong if wrong is None else wrong
        now_ns = self.guard.read(int((WALL + self.at + self.wrong) * S), int((1000 + self.at) * S))
        return now_ns / S - WALL

    def hear(self, *vins, says=None):
        for vin in vins:
            self.guard.hear(vin, int(WALL + self.at + (0 if says is None else says)))

    def settled(self):
        self.read(0)
        self.read(600)
        assert not self.guard.is_waiting
        return self


@pytest.fixture
def clocks():
    return Clocks()


def test_after_a_start_it_waits_ten_minutes(clocks):
    assert clocks.guard.is_waiting
    assert clocks.read(0) == 0
    clocks.read(599)
    assert clocks.guard.is_waiting
    assert clocks.guard.status().wait_left_s == 1
    assert clocks.read(600) == 600
    assert not clocks.guard.is_waiting


def test_three_vehicles_end_the_wait_and_two_do_not(clocks):
    clocks.read(5)
    clocks.hear("A", "B", "A", "B", says=299)
    clocks.hear("C", "D", "E", says=301)
    assert clocks.guard.is_waiting
    clocks.hear("F", says=-300)
    assert not clocks.guard.is_waiting


def test_an_operator_ends_it(clocks):
    clocks.guard.accept()
    clocks.read(5)
    assert clocks.guard.status().doubt is ClockDoubt.START
    clocks.guard.accept()
    assert not clocks.guard.is_waiting
    assert clocks.guard.status().doubt is ClockDoubt.NONE


@pytest.mark.parametrize("wrong", [2 * HOUR, -2 * HOUR, 61, -61])
def test_a_jump_that_comes_back_has_not_happened(clocks, wrong):
    clocks.settled()
    assert clocks.read(700) == 700
    assert clocks.read(701, wrong=wrong) == 701
    assert clocks.guard.is_waiting
    assert clocks.guard.status().jump_s == wrong
    assert clocks.read(702) == 702
    assert clocks.read(703, wrong=0) == 703
    assert not clocks.guard.is_waiting
    assert clocks.guard.steps_back == 0


@pytest.mark.parametrize("wrong", [2 * HOUR, -2 * HOUR])
def test_a_jump_that_stays_is_followed_after_ten_minutes(clocks, wrong):
    """Also backwards: last_seen goes back with it, and no deadline waits two hours for the time to come."""
    clocks.settled()
    assert clocks.read(700, wrong=wrong) == 700
    assert clocks.read(1299) == 1299
    assert clocks.guard.is_waiting
    assert clocks.read(1300) == 1300 + wrong
    assert not clocks.guard.is_waiting
    assert clocks.guard.steps_back == (1 if wrong < 0 else 0)


@pytest.mark.parametrize("wrong", [2 * HOUR, -7 * 24 * HOUR])
def test_a_start_with_a_wrong_clock_is_known_when_it_is_put_right(clocks, wrong):
    """From the first reading on, and not only from the jump on."""
    assert clocks.read(0, wrong=wrong) == wrong
    clocks.read(100)
    clocks.read(120, wrong=0)
    assert clocks.guard.take_steps() == ()
    clocks.hear("A", "B", "C", says=0)
    assert clocks.read(121) == 121
    (step,) = clocks.guard.take_steps()
    assert (step.since_ns / S - WALL, step.until_ns / S - WALL) == (wrong, 120 + wrong)
    assert clocks.guard.take_steps() == ()


def test_a_jump_that_stays_has_been_doubted_since_it_was_seen(clocks):
    clocks.settled()
    clocks.read(700)
    clocks.read(710, wrong=HOUR)
    clocks.read(1400)
    (step,) = clocks.guard.take_steps()
    assert (step.since_ns / S - WALL, step.until_ns / S - WALL) == (700, 1400)


def test_vehicles_confirm_a_jump(clocks):
    clocks.settled()
    clocks.read(700, wrong=HOUR)
    clocks.hear("A", "B", "C", says=HOUR)
    assert not clocks.guard.is_waiting
    assert clocks.read(701) == 701 + HOUR


def test_vehicles_deny_a_jump_as_long_as_they_say_so(clocks):
    clocks.settled()
    clocks.read(700, wrong=-HOUR)
    clocks.hear("A", "B", "C", says=0)
    assert not clocks.guard.is_waiting
    assert clocks.read(1299) == 1299
    assert clocks.read(1301) == 1301
    assert not clocks.guard.is_waiting
    # Since then no vehicle has said anything: the wall clock is believed.
    assert clocks.read(1901) == 1901 - HOUR


def test_another_jump_is_waited_out_anew(clocks):
    clocks.settled()
    clocks.read(700, wrong=HOUR)
    clocks.hear("A", "B", says=HOUR)
    assert clocks.read(1200, wrong=2 * HOUR) == 1200
    clocks.hear("C", says=2 * HOUR)
    assert clocks.read(1300) == 1300
    assert clocks.guard.is_waiting
    assert clocks.read(1800) == 1800 + 2 * HOUR


def test_a_jump_within_the_wait_after_a_start(clocks):
    """A board without a battery begins in 1970 and is put right by the network a minute later."""
    clocks.read(0, wrong=-WALL)
    assert clocks.read(60, wrong=0) == 60 - WALL
    assert clocks.guard.is_waiting
    clocks.hear("A", "B", "C", says=0)
    assert clocks.read(61) == 61
    assert not clocks.guard.is_waiting


def test_small_differences_are_followed_and_the_time_never_goes_back_by_itself(clocks):
    clocks.settled()
    assert clocks.read(700, wrong=30) == 730
    assert clocks.read(710, wrong=-10) == 735
    times = [clocks.read(710 + count, wrong=-10) for count in range(1, 120)]
    assert all(later > earlier for earlier, later in zip([735, *times], times, strict=False))
    assert times[-1] == 829 - 10
    assert not clocks.guard.is_waiting


def test_a_trusting_guard_never_waits():
    guard = ClockGuard.trusting()
    assert not guard.is_waiting
    guard.hear("A", 0)
    guard.accept()
    assert guard.status().wait_left_s == 0
