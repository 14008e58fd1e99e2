"""The platform's clock."""

from datetime import UTC, datetime

from bmsota_cloud.clock import utc_time, wall_clock_ns


def test_the_clock_does_not_go_back(monkeypatch):
    times = iter([50, 40, 60])
    monkeypatch.setattr("bmsota_cloud.clock._last_ns", 0)
    monkeypatch.setattr("bmsota_cloud.clock.time.time_ns", lambda: next(times))
    assert [wall_clock_ns() for _ in range(3)] == [50, 50, 60]


def test_the_two_forms_of_time_are_the_same_moment():
    assert utc_time(1_795_334_400_123_456_789) == datetime(2026, 11, 22, 8, 0, 0, 123_456, tzinfo=UTC)
