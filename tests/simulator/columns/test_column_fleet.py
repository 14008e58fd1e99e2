"""Vehicles at fleet fidelity report as terminals do, each by itself."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from bmsota_sim.columns import ColumnFleet, ColumnUnit
from bmsota_sim.identity import vin
from bmsota_sim.kernel import SECOND
from bmsota_sim.physics import NMC, PackDesign
from bmsota_sim.profiles import PROFILES
from bmsota_sim.streams import stream

from bmsota.errors import LocalProtocolError

pytestmark = pytest.mark.slow

START_S = 1_795_305_600
F7 = PROFILES["F7"]
DESIGN = PackDesign(cell_count=96, probe_count=32, capacity_ah=150.0, chemistry=NMC)


def unit(number):
    return ColumnUnit(
        vin=vin("F7", number),
        iccid=f"{number:020d}",
        longitude_deg=116.0 + number / 100,
        latitude_deg=39.0,
        heading_rad=0.7 * number,
        odometer_km=1000.0 * number,
        is_driving=number % 3 == 0,
    )


def fleet_of(numbers, *, seed=1, **options):
    return ColumnFleet(F7, DESIGN, [unit(number) for number in numbers], seed=seed, start_s=START_S, **options)


class Reports:
    """What the platform has decoded."""

    def __init__(self):
        self.times = {}
        self.rows = {}

    def __call__(self, columns):
        for group in columns.groups:
            speeds = group.values["vehicle_data.speed_kmh"].tolist()
            places = group.values["position.latitude_deg"].tolist()
            for row, (name, at) in enumerate(
                zip(group.vin.tolist(), group.time.astype(np.int64).tolist(), strict=True)
            ):
                self.times.setdefault(name, []).append(at)
                self.rows.setdefault(name, []).append((at, int(group.command[row]), speeds[row], places[row]))


def test_every_report_arrives_once_over_an_outage():
    """Before the login, in the outage and after it: sent or filled in, none lost, none twice, and in real time but for those."""
    reports = Reports()
    fleet = fleet_of(range(1, 13), decoded=reports)
    away = [0, 2, 5]  # Two that drive, one that stands.
    fleet.call_at((START_S + 300) * SECOND + 1, lambda: fleet.set_coverage(away, covered=False))
    fleet.call_at((START_S + 600) * SECOND + 1, lambda: fleet.set_coverage(away, covered=True))
    fleet.run(570)
    assert [fleet.is_logged_in(row) for row in range(12)] == [row not in away for row in range(12)]
    assert all(fleet.stored(row) >= 8 for row in away)
    fleet.run(630)
    assert all(fleet.is_logged_in(row) and fleet.stored(row) == 0 for row in range(12))
    assert fleet.counts.logins == 12 + len(away)
    assert fleet.counts.reports == 12 * 40
    assert fleet.counts.received + fleet.counts.backfilled == fleet.counts.reports
    for name, times in reports.times.items():
        assert len(times) == 40, name
        assert np.diff(sorted(times)).tolist() == [30] * 39
        commands = Counter(command for at, command, *_ in reports.rows[name] if at > START_S + 60)
        assert commands[3] == (10 if name in {vin("F7", row + 1) for row in away} else 0)


def test_what_a_unit_sends_does_not_depend_on_the_others():
    """Nor on how long the link of another takes to come back; another seed is another fleet."""
    alone = [3, 5, 9]
    small, large, other = fleet_of(alone), fleet_of(range(1, 13)), fleet_of(alone, seed=2)
    large.call_at((START_S + 100) * SECOND, lambda: large.set_coverage([0, 1], covered=False))
    for fleet in (small, large, other):
        fleet.run(600)
    digests = [small.digest(row) for row in range(3)]
    assert digests == [large.digest(number - 1) for number in alone]
    assert len(set(digests)) == 3
    assert not set(digests) & {other.digest(row) for row in range(3)}


def test_a_report_shows_the_second_of_a_tenth_before_it():
    """A vehicle that drives is stepped each second; its latitude says which second a report shows."""
    reports = Reports()
    driving = range(3, 63, 3)
    fleet = fleet_of([4, *driving], decoded=reports)
    fleet.run(120)
    borders = 0
    for unit_number in driving:
        phase_ns = stream(1, vin("F7", unit_number), "report phase").randrange(30 * SECOND)
        borders += phase_ns % SECOND >= 9 * SECOND // 10  # Reports in the tenth that still shows the second before.
        latitude, shown = 39.0, []
        for _ in range(120):  # The step of the starting second comes first.
            latitude += 48.0 / 3600 * 1000 * math.cos(0.7 * unit_number) / 111_320.0
            shown.append(round(latitude, 6))
        for at, _, speed, place in reports.rows[vin("F7", unit_number)]:
            number = (at - START_S) // 30 if phase_ns < 29 * SECOND else (at - START_S - 2) // 30
            assert at == (START_S * SECOND + number * 30 * SECOND + phase_ns + SECOND // 10) // SECOND
            assert (speed, round(place, 6)) == (48.0, shown[number * 30 + phase_ns // SECOND])
    assert borders > 0
    assert {row[2:] for row in reports.rows[vin("F7", 4)]} == {(0.0, 39.0)}
    assert fleet.counts.driving_s == 120 * len(driving)


def test_a_fleet_of_none_has_time_too():
    fleet = fleet_of([])
    fleet.run(60)
    assert (fleet.counts.reports, fleet.counts.received, fleet.now_ns // SECOND) == (0, 0, START_S + 60)


def test_heartbeats_keep_the_links():
    fleet = fleet_of(range(1, 4), heartbeat_period_s=10)
    fleet.run(1200)
    assert fleet.counts.logins == 3
    assert fleet.counts.heartbeats == pytest.approx(3 * 120, abs=6)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: fleet_of([1], report_period_s=0), "got 0 s, 20000000 ns"),
        (lambda: fleet_of([1], delay_ns=0), "got 30 s, 0 ns"),
        (lambda: fleet_of([1]).run(31), "expected a multiple of 30 s, got 31 s"),
    ],
)
def test_what_a_column_fleet_cannot_be(call, named):
    with pytest.raises(LocalProtocolError, match=named):
        call()
