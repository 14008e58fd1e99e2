"""The platform's clock."""

from datetime import UTC, datetime

from bmsota_cloud.clock import PlatformClock, utc_time
from bmsota_cloud.domain.clock_guard import ClockGuard

S = 10**9


def test_a_clock_two_hours_ahead_for_two_seconds_leaves_no_trace(monkeypatch):
    start_ns = 1_795_334_400 * S
    walls = iter([start_ns, start_ns + 601 * S, start_ns + 7802 * S, start_ns + 7803 * S, start_ns + 604 * S])
    monos = iter([0, 601 * S, 602 * S, 603 * S, 604 * S])
    monkeypatch.setattr("bmsota_cloud.clock.time.time_ns", lambda: next(walls))
    monkeypatch.setattr("bmsota_cloud.clock.time.monotonic_ns", lambda: next(monos))
    guard = ClockGuard()
    clock = PlatformClock(guard)
    assert [clock.now_ns() - start_ns for _ in range(4)] == [0, 601 * S, 602 * S, 603 * S]
    assert guard.is_waiting
    assert clock.now() == utc_time(start_ns + 604 * S)
    assert not guard.is_waiting


def test_the_two_forms_of_time_are_the_same_moment():
    assert utc_time(1_795_334_400_123_456_789) == datetime(2026, 11, 22, 8, 0, 0, 123_456, tzinfo=UTC)
