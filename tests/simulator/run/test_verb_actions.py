"""Wrong clocks, wrong positions and half-open links, as the platform sees them."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from math import cos, hypot, radians

import pytest
from bmsota_sim.run.stamps import WrongClock

from bmsota.gbt32960 import Command, Frame, Heartbeat, Position, VehicleLogout, beijing_time, encode

from .rig import Watched

CLEAN = "platform: { acknowledges_reports: 'no' }\n"


def ahead_s(watched):
    """How far each report's time is ahead of its arrival."""
    return [
        round((report.time - beijing_time(watched.run.start_ns)) / timedelta(seconds=1) - at_s)
        for _, at_s, report in watched.reports
    ]


def positions(watched):
    return [
        (body.longitude_deg, body.latitude_deg)
        for _, _, report in watched.reports
        for body in report.bodies
        if isinstance(body, Position)
    ]


def failed(result):
    return [(case.name, case.got) for case in result.cases if case.passed is False]


def test_a_jumped_clock_is_in_every_report_until_the_time_without_faults():
    """And the unit's session notices nothing: the platform's answers carry the times that it knows."""
    watched = Watched(
        CLEAN + "faults_off: 10s\ntimeline:\n  - { at: 9s, do: clock_jump, who: all, by: -1h }\n", duration="30s"
    )
    result = watched.end()
    assert not failed(result)
    seen = ahead_s(watched)
    assert {value for value in seen if value < -60} == {-3600}
    assert seen[0] >= -1
    assert seen[-1] >= -1
    assert [is_off for is_off, _ in groupby(value < -60 for value in seen)] == [False, True, False]


def test_a_clock_that_runs_fast_is_off_more_and_more():
    watched = Watched(
        CLEAN + "timeline:\n  - { at: 5s, do: clock_skew, who: all, ppm: 100000, for: 40s }\n", duration="60s"
    )
    assert not failed(watched.end())
    seen = ahead_s(watched)
    assert max(seen) in {3, 4}
    assert seen[:20] == sorted(seen[:20])
    assert seen[-1] <= 0


def test_what_is_shifted_is_restored_in_its_answer_and_nothing_else_is():
    clock = WrongClock()
    vin = "X" * 17
    logout = encode(Frame(command=Command.VEHICLE_LOGOUT, vin=vin, message=VehicleLogout(beijing_time(10**18), 7)))
    heartbeat = encode(Frame(command=Command.HEARTBEAT, vin=vin, message=Heartbeat()))
    assert clock.stamped(logout, 0) is logout
    clock.jump(86_400 * 10**9)
    wrong = clock.stamped(logout, 0)
    assert wrong[24:30] != logout[24:30]
    assert clock.restored(wrong) == logout
    assert clock.stamped(heartbeat, 0) is heartbeat
    clock.correct()
    assert clock.stamped(logout, 0) is logout
    assert clock.restored(heartbeat) is heartbeat


def test_a_time_that_is_none_stays():
    clock = WrongClock()
    clock.jump(10**9)
    frame = bytes((35, 35, Command.VEHICLE_LOGOUT)) + bytes(21) + bytes((26, 13, 40, 0, 0, 0)) + bytes(3)
    assert clock.stamped(frame, 0) == frame


def test_a_frozen_position_stays_while_the_vehicle_moves():
    watched = Watched(
        CLEAN
        + "timeline:\n  - { at: 2s, do: driving, who: all, for: 27s }\n"
        + "  - { at: 8s, do: position_frozen, who: all, for: 10s }\n"
    )
    assert not failed(watched.end())
    seen = positions(watched)
    held = max(set(seen), key=seen.count)
    assert 4 <= seen.count(held) <= 6
    assert len(set(seen[-4:])) == 4


def test_a_position_jumps_by_its_distance_and_back():
    watched = Watched(CLEAN + "timeline:\n  - { at: 8s, do: position_jump, who: all, by_km: 100, for: 10s }\n")
    assert not failed(watched.end())
    seen = positions(watched)
    (longitude, latitude), far = seen[0], [place for place in seen if place != seen[0]]
    assert len(set(far)) == 1
    assert 4 <= len(far) <= 6
    assert hypot((far[0][1] - latitude), (far[0][0] - longitude) * cos(radians(latitude))) * 111.32 == pytest.approx(
        100, abs=1
    )
    assert seen[-1] == seen[0]


@pytest.mark.slow
def test_the_platform_is_not_told_of_a_half_open_link():
    """The unit comes back on a link of its own, and the old one stays; in the time without faults it is told again."""
    rest = CLEAN + "timeline:\n  - { at: 8s, do: storm }\n  - { at: 24s, do: storm }\n"
    told = Watched(rest, count=2, duration="40s")
    assert not failed(told.end())
    half_open = Watched(rest + "network: { half_open: 100% }\n", count=2, duration="40s")
    assert not failed(half_open.end())
    assert [unit.link.half_open for unit in told.run.units.values()] == [0, 0]
    assert [unit.link.half_open for unit in half_open.run.units.values()] == [2, 2]
    assert len(told.links) == len(half_open.links) == 6
    states = [link.session.state.name for link in half_open.links]
    assert len(set(states)) == 1, states
    assert len({link.session.state.name for link in told.links}) == 2


def test_an_entry_that_waits_for_an_upgrade_and_never_meets_one_makes_the_run_red():
    watched = Watched(
        "ota: { release: '2.1.0' }\ntimeline:\n  - { at: 1s, do: download_cut, who: all, after_bytes: 100 }\n",
        duration="5s",
    )
    result = watched.end()
    assert [event.reason for event in result.events] == ["no upgrade reached it"]
