"""Runs, faults, track and configuration as lists: what a range shows, what is open, and for whom."""

from datetime import timedelta

import pytest
from bmsota_cloud.domain.errors import NotFoundError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import EventKind
from bmsota_cloud.domain.vehicle_history import FaultFilter, FaultOrder
from bmsota_cloud.services import RunKind, stored_frame

from bmsota.gbt32960 import (
    Alarms,
    BmsConfiguration,
    Command,
    ConfigurationItem,
    Edition,
    FaultChange,
    FaultChanges,
    FaultState,
    Frame,
    Position,
    Report,
    VehicleData,
    encode,
)

DRIVING, CHARGING, PARKED = (1, 3), (2, 1), (2, 3)


@pytest.fixture
def vehicle(world):
    return VehicleHistory(world)


class VehicleHistory:
    """A vehicle of the world whose reports are dated by minutes from now on."""

    def __init__(self, world):
        self.world, self.vin, self.t0 = world, world.register(1), world.now
        self.asked = {"by": world.people["vera"]}
        self.lists = world.services.vehicle_histories

    def at(self, minutes):
        return self.t0 + timedelta(minutes=minutes)

    def report(self, minutes, what=PARKED, *bodies):
        """Arrives at once; the world's clock goes there."""
        self.world.wait(seconds=(self.at(minutes) - self.world.now).total_seconds())
        data = VehicleData(what[0], what[1], 1, 0.0, 100.0, 350.0, 10.0, 50, 1, 14, 5000, 0, 0)
        raw = encode(
            Frame(
                command=Command.REALTIME_REPORT,
                vin=self.vin,
                message=Report(self.world.now, (data, *bodies)),
                edition=Edition.GBT2016,
            )
        )
        now_ns = self.world.now_ns
        stored = stored_frame(self.vin, raw, reported_at_s=now_ns // 10**9, arrived_at_ns=now_ns, is_backfill=False)
        self.world.services.ingest.accept(stored)

    def minutes(self, moment):
        return None if moment is None else (moment - self.t0) / timedelta(minutes=1)

    def runs(self, number=1, size=50, **asked):
        page = self.lists.runs(self.vin, PageRequest(number, size), now=self.world.now, **self.asked | asked)
        return page, [(self.minutes(each.started_at), self.minutes(each.ended_at)) for each in page.items]


def test_runs_of_a_range_are_those_that_touch_it(vehicle):
    """Whenever their ends were shown: of the last one hours later."""
    for start, what in ((0, DRIVING), (30, CHARGING), (60, DRIVING)):
        for minute in range(start, start + 11, 5):
            vehicle.report(minute, what)
    vehicle.report(500, PARKED)
    every = [(60, 70), (30, 40), (0, 10)]
    page, runs = vehicle.runs()
    assert (runs, page.total, page.last) == (every, 3, None)
    for since in (None, -5, 0, 5, 10, 11, 30, 40, 41, 69, 70, 71, 450, 600):
        for until in (None, -5, 0, 1, 29, 30, 31, 60, 61, 100, 490, 600):
            asked = {name: vehicle.at(each) for name, each in (("since", since), ("until", until)) if each is not None}
            touched = [
                (start, end)
                for start, end in every
                if (since is None or end >= since) and (until is None or start < until)
            ]
            page, runs = vehicle.runs(**asked)
            if since is None or until is None or since < until:
                assert (runs, page.total) == (touched, len(touched)), (since, until)
    assert vehicle.runs(kind=RunKind.CHARGING)[1] == [(30, 40)]
    assert vehicle.runs(2, 2)[1] == [(0, 10)]


def test_the_last_run_is_open_until_the_gap_has_passed(vehicle):
    vehicle.report(0, CHARGING)
    vehicle.report(5, CHARGING)
    page, runs = vehicle.runs()
    assert runs == []
    assert (page.last.kind, page.last.is_open, vehicle.minutes(page.last.ended_at)) == ("charging", True, 5)
    assert vehicle.runs(kind=RunKind.DRIVING)[0].last is None
    assert vehicle.runs(since=vehicle.at(6))[0].last is None
    assert vehicle.runs(until=vehicle.at(0))[0].last is None
    vehicle.world.wait(seconds=301)
    assert vehicle.runs()[0].last.is_open is False


def test_faults_have_their_duration_and_what_was_measured(vehicle):
    told = FaultChange(vehicle.at(1), 2, 0x12, FaultState.ONSET, 3, "cell 7")
    vehicle.report(2, DRIVING, Alarms(1, 1 << 4), FaultChanges((told,)))
    vehicle.report(8, DRIVING, Alarms(1, 1 << 4))
    vehicle.report(10, DRIVING, Alarms(0))
    page = vehicle.lists.faults(vehicle.vin, PageRequest(), FaultFilter(), **vehicle.asked)
    told, alarm = page.items
    assert (told.kind, told.subject, told.level, told.detail) == (EventKind.FAULT_CHANGE, "2 0x00000012", 3, "cell 7")
    assert (told.is_open, told.duration_s, vehicle.minutes(told.began_at)) == (True, None, 1)
    assert (alarm.subject, alarm.level, alarm.duration_s, alarm.is_open) == ("SOC_LOW", 1, 480, False)
    assert (alarm.values["soc_pct"], alarm.values["voltage_v"], alarm.values["current_a"]) == (50, 350, 10)
    by_level = FaultFilter(order=FaultOrder.LEVEL, level_min=2)
    assert vehicle.lists.faults(vehicle.vin, PageRequest(), by_level, **vehicle.asked).items == (told,)


def test_the_configuration_is_what_was_told_last_of_each_value(vehicle):
    def told(minutes, revision, **values):
        items = tuple(ConfigurationItem(0, int(name[1:]), bytes([value])) for name, value in values.items())
        vehicle.report(minutes, PARKED, BmsConfiguration(revision, items))

    told(0, 7, p1=1, p2=2)
    told(1, 7, p1=1, p2=2)
    told(2, 7, p2=3)
    told(3, 7, p1=1, p2=2)
    told(4, 8, p2=2)
    values = vehicle.lists.configuration(vehicle.vin, **vehicle.asked)
    assert [(each.parameter, each.value, each.revision, vehicle.minutes(each.since)) for each in values] == [
        (1, "01", 7, 0),
        (2, "02", 8, 4),
    ]
    page = vehicle.lists.configuration_changes(vehicle.vin, PageRequest(1, 2), **vehicle.asked)
    assert page.total == 4
    assert [(vehicle.minutes(each.at), each.parameter, each.before, each.after) for each in page.items] == [
        (3, 2, "03", "02"),
        (2, 2, "02", "03"),
    ]


def test_the_track_is_where_it_was(vehicle):
    for minutes, longitude in ((0, 116.3), (1, 116.31), (2, 116.31), (5, 116.35)):
        vehicle.report(minutes, DRIVING, Position(valid=True, longitude_deg=longitude, latitude_deg=-39.9))
    page = vehicle.lists.track(vehicle.vin, PageRequest(), **vehicle.asked)
    assert [(vehicle.minutes(each.at), each.longitude_deg, each.latitude_deg) for each in page.items] == [
        (5, 116.35, -39.9),
        (1, 116.31, -39.9),
        (0, 116.3, -39.9),
    ]
    asked = {"since": vehicle.at(1), "until": vehicle.at(5)} | vehicle.asked
    assert vehicle.lists.track(vehicle.vin, PageRequest(), **asked).total == 1


@pytest.mark.parametrize("name", ["runs", "faults", "track", "configuration", "configuration_changes"])
def test_a_vehicle_that_is_not_there_has_no_histories(name, world):
    more = {
        "runs": {"request": PageRequest(), "now": world.now},
        "faults": {"request": PageRequest(), "asked": FaultFilter()},
        "track": {"request": PageRequest()},
        "configuration": {},
        "configuration_changes": {"request": PageRequest()},
    }[name]
    with pytest.raises(NotFoundError, match="no vehicle TESTVEHICLE000009"):
        getattr(world.services.vehicle_histories, name)("TESTVEHICLE000009", by=world.people["vera"], **more)
