"""The kernel: order, time, cancelled timers, and a moment that does not end."""

from __future__ import annotations

from random import Random

import pytest
from bmsota_sim import kernel as module
from bmsota_sim.kernel import MS, SECOND, US, Kernel

from bmsota.errors import LocalProtocolError

START = 1_790_000_000 * SECOND


@pytest.fixture
def kernel():
    return Kernel(START)


def test_the_units_are_what_they_say():
    assert (US, MS, SECOND) == (1_000, 1_000_000, 1_000_000_000)


def test_callbacks_run_by_time_and_at_one_time_in_the_order_they_were_made(kernel):
    ran = []
    for number, delay in enumerate((5, 3, 5, 0, 3)):
        kernel.call_in(delay, lambda *made: ran.append((kernel.now_ns - START, *made)), delay, number)
    kernel.run_until(START + 10)
    assert [(delay, number) for _, delay, number in ran] == [(0, 3), (3, 1), (3, 4), (5, 0), (5, 2)]
    assert all(at == delay for at, delay, _ in ran)
    assert kernel.now_ns == START + 10
    assert kernel.executed == 5


def test_any_mix_of_times_runs_in_stable_order(kernel):
    random = Random(7)
    times = [random.randrange(50) for _ in range(500)]
    ran = []
    for number, time in enumerate(times):
        kernel.call_at(START + time, ran.append, (time, number))
    kernel.run_until(START + 100)
    assert ran == sorted(ran)
    assert len(ran) == 500


def test_a_time_in_the_past_means_now_behind_what_is_due(kernel):
    ran = []
    kernel.call_soon(ran.append, "first")
    kernel.call_at(START - SECOND, ran.append, "late")
    kernel.call_soon(ran.append, "last")
    kernel.run_until(START)
    assert ran == ["first", "late", "last"]
    assert kernel.now_ns == START


def test_run_until_stops_there_and_includes_it(kernel):
    ran = []
    for delay in (9, 10, 11):
        kernel.call_in(delay, ran.append, delay)
    kernel.run_until(START + 10)
    assert ran == [9, 10]
    assert kernel.now_ns == START + 10
    kernel.run_until(START + 11)
    assert ran == [9, 10, 11]


def test_time_never_goes_back(kernel):
    kernel.run_until(START + 10)
    kernel.run_until(START + 5)
    assert kernel.now_ns == START + 10


def test_callbacks_may_make_callbacks(kernel):
    ran = []

    def step():
        ran.append(kernel.now_ns - START)
        if len(ran) < 4:
            kernel.call_in(2, step)

    kernel.call_soon(step)
    kernel.run_until(START + 100)
    assert ran == [0, 2, 4, 6]


def test_a_cancelled_timer_does_nothing_and_keeps_nothing(kernel):
    ran = []
    timer = kernel.call_in(1, ran.append, "cancelled")
    kernel.call_in(2, ran.append, "kept")
    timer.cancel()
    timer.cancel()
    assert timer.args == ()
    assert kernel.next_due() == START + 2
    kernel.run_until(START + 5)
    assert ran == ["kept"]
    assert kernel.executed == 1
    timer.cancel()


def test_a_callback_may_cancel_another_of_the_same_moment(kernel):
    ran = []
    cancelled = []
    kernel.call_in(1, lambda: [timer.cancel() for timer in cancelled])
    cancelled.append(kernel.call_in(1, ran.append, "cancelled"))
    kernel.run_until(START + 1)
    assert ran == []


def test_next_due_of_nothing_is_nothing(kernel):
    assert kernel.next_due() is None
    kernel.call_in(3, print).cancel()
    assert kernel.next_due() is None


def test_an_error_passes_and_the_rest_can_go_on(kernel):
    ran = []

    def fails():
        raise ValueError("planned")

    kernel.call_in(1, fails)
    kernel.call_in(2, ran.append, "after")
    with pytest.raises(ValueError, match="planned"):
        kernel.run_until(START + 5)
    assert kernel.now_ns == START + 1
    kernel.run_until(START + 5)
    assert ran == ["after"]


def test_two_that_call_each_other_for_ever_are_found(kernel, monkeypatch):
    monkeypatch.setattr(module, "STANDSTILL_CALLBACKS_MAX", 1000)

    def ping():
        kernel.call_soon(ping)

    kernel.call_in(1, ping)
    with pytest.raises(LocalProtocolError, match=r"time stands still: 1001 callbacks at .*ping"):
        kernel.run_until(START + SECOND)


def test_a_long_run_is_no_standstill(kernel, monkeypatch):
    monkeypatch.setattr(module, "STANDSTILL_CALLBACKS_MAX", 10)
    for delay in range(200):
        for _ in range(10):
            kernel.call_in(delay, int)
    kernel.run_until(START + SECOND)
    assert kernel.executed == 2000
