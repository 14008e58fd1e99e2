"""Newest state and events from frames: nothing a vehicle says is lost, whatever the order, the batches, the restarts."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import EventKind, StoredFrame, VehicleSnapshot, is_plausible_time
from bmsota_cloud.services.counters import Counters
from bmsota_cloud.services.derivation import Derivation
from bmsota_cloud.services.deriving import DAY_S, Deriver, run_under_way
from bmsota_cloud.services.report_facts import Facts, ReportReader
from bmsota_cloud.services.values import frames_in, read_report, snapshot_of
from memory_telemetry import MemoryTelemetry
from vehicle_streams import PERIOD_S, vehicle_stream

from bmsota.gbt32960 import (
    AlarmLevel,
    Alarms,
    Alarms2025,
    CellVoltages,
    Command,
    DriveMotors,
    Edition,
    FaultChange,
    FaultChanges,
    FaultState,
    Frame,
    Position,
    ProbeTemperatures,
    RawBody,
    Report,
    Sentinel,
    SubsystemTemperatures,
    SubsystemVoltages,
    UserDefined,
    VehicleData,
    encode,
)

VIN = "TESTVEHICLE000001"
T0 = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
T0_S = int(T0.timestamp())
KEEP_S = 10 * DAY_S
EDITIONS = list(Edition)


def frame(*bodies, at=0, arrived=None, is_backfill=False, vin=VIN, edition=Edition.GBT2016):
    """A report of T0 + *at* seconds, which arrived at T0 + *arrived* seconds."""
    arrived = at if arrived is None else arrived
    command = Command.BACKFILL_REPORT if is_backfill else Command.REALTIME_REPORT
    raw = encode(Frame(command=command, vin=vin, message=Report(T0 + timedelta(seconds=at), bodies), edition=edition))
    arrived_at_ns = (T0_S + arrived) * 10**9
    return StoredFrame(
        vin=vin,
        frame=raw,
        clear=raw,
        reported_at_s=T0_S + at,
        arrived_at_ns=arrived_at_ns,
        is_backfill=is_backfill,
        is_time_plausible=is_plausible_time(T0_S + at, arrived_at_ns),
    )


def vehicle(soc=50, state=1, charging=3, speed=12.5):
    return VehicleData(
        vehicle_state=state,
        charging_state=charging,
        run_mode=1,
        speed_kmh=speed,
        odometer_km=1.0,
        total_voltage_v=350.0,
        total_current_a=1.0,
        soc_pct=soc,
        dcdc_state=1,
        gear=14,
        insulation_kohm=5000,
        accelerator_pct=0,
        brake_pct=0,
    )


def cells(number, first, count, volts):
    return CellVoltages((SubsystemVoltages(number, 350.0, 1.0, count, first, tuple(volts)),))


class Platform:
    """Store and derivation; `restart` forgets everything that is not stored."""

    def __init__(self, keep_s=KEEP_S):
        self.telemetry = MemoryTelemetry()
        self.counters = Counters()
        self.keep_s = keep_s
        self.restart()

    def restart(self):
        self.derivation = Derivation(self.telemetry, self.counters, keep_s=self.keep_s)

    def put(self, *frames, replay=True):
        new = [each for each, is_new in zip(frames, self.telemetry.append(frames), strict=True) if is_new]
        self.derivation.take(new)
        if replay:
            self.derivation.derive_again()

    def state(self, vin=VIN):
        return snapshot_of(VehicleSnapshot(vin=vin), self.telemetry.newest([vin]).get(vin))

    def events(self, vin=VIN, *, checkpoints=False):
        found = self.telemetry.events(vin, PageRequest(1, 500)).items
        return [
            (event.at_s - T0_S, str(event.kind), event.subject, event.value)
            for event in reversed(found)
            if checkpoints or event.kind is not EventKind.CHECKPOINT
        ]


@pytest.fixture
def platform():
    return Platform()


# -- the newest state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("seed", range(6))
def test_streams_of_real_habits_are_in_the_newest_state_whole(seed, edition):
    """Whatever the batches: cells of every subsystem, probes, alarms, motors, maker's bodies, and the report behind the logout."""
    stream = vehicle_stream(seed, edition=edition, reports=39)
    frames = stream.stored
    for size in (1, 7, len(frames)):
        platform = Platform()
        for start in range(0, len(frames), size):
            platform.put(*frames[start : start + size])
        newest, state = stream.newest, platform.state(stream.vin)
        assert state.reported_at.timestamp() == newest.reported_at_s
        assert state.is_time_plausible == newest.is_time_plausible
        assert state.soc_pct == newest.soc_pct
        assert state.values["alarms"]["flags"] == newest.alarm_flags
        assert ("drive_motors" in state.values) == newest.has_motors
        shown = {
            (item["number"], place): value
            for item in state.values["cell_voltages"]["subsystems"]
            for place, value in enumerate(item["cell_voltages_v"], item["first_cell"])
        }
        assert shown == newest.cells
        probes = {item["number"]: item["temperatures_c"] for item in state.values["probe_temperatures"]["subsystems"]}
        assert probes == newest.probes
        assert {item["type_id"]: item["data"] for item in state.values.get("other", [])} == newest.users
        kept = {(each.reported_at_s, each.frame[24:-1]) for each in platform.telemetry.stored}
        assert kept == stream.kept
        assert not platform.counters


def test_a_report_behind_the_logout_is_the_newest_state(platform):
    platform.put(frame(vehicle(98), at=0), frame(vehicle(100, state=2), at=6))
    assert platform.state().soc_pct == 100


def test_a_backfilled_report_never_replaces_one_heard_later_than_its_own_time(platform):
    platform.put(frame(vehicle(50), at=0, arrived=0), frame(vehicle(10), at=-60, arrived=5, is_backfill=True))
    assert platform.state().soc_pct == 50
    # Collected after the last report in real time came: it is what is known last.
    platform.put(frame(vehicle(60), at=300, arrived=400, is_backfill=True))
    assert platform.state().soc_pct == 60
    platform.put(frame(vehicle(55), at=200, arrived=401, is_backfill=True))
    assert platform.state().soc_pct == 60
    platform.put(frame(vehicle(61), at=350, arrived=402, is_backfill=True))
    assert platform.state().soc_pct == 61
    platform.put(frame(vehicle(70), at=250, arrived=403))
    assert platform.state().soc_pct == 70


def test_of_reports_in_real_time_the_last_to_arrive_is_the_newest_whatever_its_clock_says(platform):
    platform.put(frame(vehicle(50), at=200, arrived=0), frame(vehicle(51), at=100, arrived=25))
    assert (platform.state().soc_pct, platform.state().reported_at) == (51, T0 + timedelta(seconds=100))


@pytest.mark.parametrize("years", [73, -20], ids=["2099", "2006"])
def test_a_wrong_date_is_marked_and_freezes_nothing(platform, years):
    at = int(timedelta(days=365.25 * years).total_seconds())
    platform.put(frame(vehicle(99, state=2), at=at, arrived=0))
    assert (platform.state().soc_pct, platform.state().is_time_plausible) == (99, False)
    platform.put(frame(vehicle(20), at=25))
    assert (platform.state().soc_pct, platform.state().is_time_plausible) == (20, True)
    assert not platform.derivation.waiting
    platform.put(frame(vehicle(1), at=at, arrived=30, is_backfill=True))
    assert platform.state().soc_pct == 20
    assert platform.events() == [(25, "vehicle state", "", "1"), (25, "charging state", "", "3")]


def test_values_and_alarm_in_two_frames_of_one_second(platform):
    platform.put(frame(vehicle(50)), frame(Alarms(3, 1)))
    assert (platform.state().soc_pct, platform.state().alarm_level) == (50, 3)
    assert platform.state().values["alarms"]["active"] == ["TEMPERATURE_DIFFERENCE"]


def test_cells_in_several_frames_or_bodies_and_subsystems_apart(platform):
    first, second = [3.3] * 200, [3.4] * 100
    platform.put(
        frame(vehicle(), cells(1, 1, 300, first)), frame(cells(1, 201, 300, second)), frame(cells(2, 1, 4, [3.5] * 4))
    )
    one, two = platform.state().values["cell_voltages"]["subsystems"]
    assert (one["number"], one["cell_voltages_v"]) == (1, first + second)
    assert (two["number"], two["cell_voltages_v"]) == (2, [3.5] * 4)
    platform.put(frame(cells(1, 1, 300, [3.6] * 200), cells(1, 201, 300, [3.7] * 100), at=25))
    one, two = platform.state().values["cell_voltages"]["subsystems"]
    assert one["cell_voltages_v"] == [3.6] * 200 + [3.7] * 100
    assert two["cell_voltages_v"] == [3.5] * 4
    # The frames of the first second have said nothing that is not said again, but that of subsystem 2 and the vehicle's.
    assert len(list(frames_in(platform.telemetry.rows[VIN].frames))) == 3


def test_a_pack_of_another_size_leaves_no_cells_of_the_old_one(platform):
    platform.put(frame(cells(1, 1, 300, [3.3] * 200)), frame(cells(1, 201, 300, [3.4] * 100)))
    platform.put(frame(cells(1, 1, 100, [3.5] * 100), at=25))
    (one,) = platform.state().values["cell_voltages"]["subsystems"]
    assert (one["cell_count"], one["cell_voltages_v"]) == (100, [3.5] * 100)
    assert len(list(frames_in(platform.telemetry.rows[VIN].frames))) == 1


def test_two_bodies_of_one_kind_are_both_shown(platform):
    platform.put(frame(Alarms(1, 1), Alarms(2, 2)))
    values = platform.state().values
    assert (values["alarms"]["level_max"], values["alarms_2"]["level_max"]) == (1, 2)
    assert platform.state().alarm_level == 2


def test_the_usual_state_is_one_frame_and_a_state_is_bounded(platform):
    for at in range(0, 250, 25):
        platform.put(frame(vehicle(), Alarms(0), cells(1, 1, 4, [3.3] * 4), at=at))
    assert len(list(frames_in(platform.telemetry.rows[VIN].frames))) == 1
    for at in range(1000, 1200):
        platform.put(frame(cells(at % 200 + 1, 1, 4, [3.3] * 4), at=at))
    row = platform.telemetry.rows[VIN]
    assert len(list(frames_in(row.frames))) == 24
    assert platform.state().values["cell_voltages"]["subsystems"][-1]["number"] == 200


def test_a_frame_that_is_no_report_is_counted_and_stops_nothing(platform, caplog):
    good = frame(vehicle(33), at=25)
    bad = replace(frame(vehicle(99)), clear=b"##\x02\xfe" + bytes(30))
    platform.put(bad, good)
    platform.put(replace(bad, clear=bad.clear + b"\0"), frame(vehicle(34), at=50))
    assert platform.state().soc_pct == 34
    assert platform.counters["report_not_derived"] == 2
    assert len(platform.telemetry.stored) == 4
    assert len(caplog.records) == 1


def test_a_fault_of_ours_leaves_out_one_frame(platform, monkeypatch):
    """An exception that nothing expects: the others of the batch are derived."""
    show = "bmsota_cloud.services.deriving._Vehicle.show"
    from bmsota_cloud.services import deriving

    real = deriving._Vehicle.show

    def failing(self, stored, facts, **options):
        if facts.soc_pct == 13:
            raise ZeroDivisionError
        real(self, stored, facts, **options)

    monkeypatch.setattr(show, failing)
    marks = []
    real_save = platform.telemetry.save_derived

    def saving(states, events, mark):
        marks.append(mark.places)
        real_save(states, events, mark)

    platform.telemetry.save_derived = saving
    platform.put(frame(vehicle(12)), frame(vehicle(13), at=1), frame(vehicle(14), at=2, vin="TESTVEHICLE000002"))
    # Behind the last of them and not before: a crash in between would lose the others.
    assert [bool(mark) for mark in marks] == [False, False, False, True]
    assert (platform.state().soc_pct, platform.state("TESTVEHICLE000002").soc_pct) == (12, 14)
    assert platform.counters["derive_failed"] == 1
    assert platform.telemetry.derived_to == 3


# -- columns and single decoding agree ---------------------------------------------------------------------------------


@pytest.mark.parametrize("edition", EDITIONS)
def test_columns_and_single_decoding_give_the_same_facts(edition):
    frames = [each for seed in range(4) for each in vehicle_stream(seed, edition=edition, reports=20).distinct]
    if edition is Edition.GBT2016:
        frames += [
            frame(Alarms(Sentinel.INVALID, 5, Sentinel.ABNORMAL, (3, 1, 3), (), (7,)), Alarms(2, 8, (9,))),
            frame(
                cells(3, 5, 10, []), CellVoltages(()), ProbeTemperatures((SubsystemTemperatures(1, Sentinel.INVALID),))
            ),
            frame(CellVoltages((SubsystemVoltages(1, 1.0, 1.0, Sentinel.INVALID, 1, (3.3,)),)), DriveMotors(())),
            frame(vehicle(Sentinel.ABNORMAL, Sentinel.INVALID, Sentinel.ABNORMAL, Sentinel.INVALID), vehicle(11)),
            frame(UserDefined(0x83, b"ab"), RawBody(0x0A, b"\x01")),
            frame(),
            *(frame(Position(True, 121.473701, latitude)) for latitude in (31.230416, Sentinel.INVALID, -33.9)),
            *(frame(Position(valid, -70.5, -33.5), vehicle(5)) for valid in (True, False)),
        ]
    else:
        levels = (AlarmLevel(1, 2),)
        frames += [frame(Alarms2025(4, 1 << 23, (1,), general_levels=levels), edition=edition)]
    in_batch = ReportReader().facts([frame.clear for frame in frames])
    reader = ReportReader()
    for facts, each in zip(in_batch, frames, strict=True):
        assert isinstance(facts, Facts)
        single = reader.of_report(read_report(each.clear))
        assert facts._replace(coverage=None) == single._replace(coverage=None)
        assert (facts.coverage.kinds, facts.coverage.parts) == (single.coverage.kinds, single.coverage.parts)


@pytest.mark.parametrize(
    "bodies",
    [(), (vehicle(12),), (Alarms(1, 5, (3,)),), (cells(1, 5, 10, []),), (cells(1, 1, 3, [3.3] * 3), vehicle(12))],
)
def test_frames_of_one_layout_are_read_in_columns_whatever_is_missing(bodies, monkeypatch):
    frames = [frame(*bodies, at=second) for second in range(50)]
    expected = [ReportReader().one(each.clear) for each in frames]
    reader = ReportReader()
    monkeypatch.setattr(reader, "one", None)
    for facts, single in zip(reader.facts([frame.clear for frame in frames]), expected, strict=True):
        assert facts._replace(coverage=None) == single._replace(coverage=None)
        assert (facts.coverage.kinds, facts.coverage.parts) == (single.coverage.kinds, single.coverage.parts)


def test_the_last_valid_position_stays_until_there_is_another(platform):
    def place():
        state = platform.state()
        return state.latitude_deg, state.longitude_deg, state.is_position_valid

    platform.put(frame(Position(False, 1.0, 2.0)))
    assert place() == (2.0, 1.0, False)
    platform.put(frame(Position(True, 121.473701, 31.230416), at=10))
    assert place() == (31.230416, 121.473701, True)
    platform.put(frame(Position(False, 0.0, 0.0), at=20))
    assert place() == (31.230416, 121.473701, False)
    platform.put(frame(Position(True, Sentinel.INVALID, 10.0), vehicle(12), at=30))
    assert place() == (31.230416, 121.473701, False)
    platform.put(frame(Position(True, -70.5, -33.5), at=40))
    assert place() == (-33.5, -70.5, True)
    platform.put(frame(Position(True, 5.0, 5.0), at=15, arrived=50, is_backfill=True))
    assert place() == (-33.5, -70.5, True)


# -- events ------------------------------------------------------------------------------------------------------------


def test_edges_are_events_and_sentinels_are_none(platform):
    platform.put(
        frame(vehicle(state=1, charging=3), Alarms(0)),
        frame(vehicle(state=Sentinel.INVALID, charging=Sentinel.ABNORMAL), Alarms(1, 1 << 4, (0x11,)), at=25),
        frame(vehicle(state=1, charging=3), Alarms(Sentinel.INVALID, 1 << 4, Sentinel.INVALID), at=50),
        frame(vehicle(state=2, charging=1), Alarms(0, 1 << 30, (0x12,)), at=75),
        frame(Alarms(0, 0), at=100),
    )
    assert platform.events() == [
        (0, "vehicle state", "", "1"),
        (0, "charging state", "", "3"),
        (25, "alarm level", "", "1"),
        (25, "alarm", "SOC_LOW", "1"),
        (25, "fault code", "ress 0x00000011", "1"),
        (75, "vehicle state", "", "2"),
        (75, "charging state", "", "1"),
        (75, "alarm level", "", "0"),
        (75, "alarm", "SOC_LOW", "0"),
        (75, "alarm", "bit 30", "1"),
        (75, "fault code", "ress 0x00000011", "0"),
        (75, "fault code", "ress 0x00000012", "1"),
        (75, "driving run", "", str(T0_S)),
        (100, "alarm", "bit 30", "0"),
        (100, "fault code", "ress 0x00000012", "0"),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_what_is_set_cleared_and_set_in_one_second_is_three_events_in_order(size):
    """Whatever the batches and restarts, and derived again they are the same."""
    frames = [frame(vehicle(10 + n), Alarms(n, n % 2), at=60) for n in range(1, 8)]
    platform = Platform()
    platform.put(frame(vehicle(), Alarms(0), at=0))
    for start in range(0, len(frames), size):
        platform.put(*frames[start : start + size])
        platform.restart()
    flags = [(60, "alarm", "TEMPERATURE_DIFFERENCE", str(n % 2)) for n in range(1, 8)]
    assert [event for event in platform.events() if event[1] == "alarm"] == flags
    kept = platform.telemetry.events(VIN, PageRequest(), kinds=(EventKind.ALARM, EventKind.ALARM_LEVEL)).items
    assert [event.sequence for event in kept] == list(range(14, 0, -1))
    before = platform.telemetry.events(VIN, PageRequest(1, 100)).items
    # A late report of the same day that changes nothing has all of it derived again.
    platform.put(frame(vehicle(), at=30, arrived=100, is_backfill=True))
    assert platform.telemetry.events(VIN, PageRequest(1, 100)).items == before
    platform.put(frame(vehicle(), Alarms(8, 0), at=60, arrived=110))
    newest = platform.telemetry.events(VIN, PageRequest(), kinds=(EventKind.ALARM,)).items[0]
    assert (newest.sequence, newest.value) == (16, "0")


@pytest.mark.parametrize("layout", [1, 2])
def test_a_memory_of_a_layout_before_is_read_and_goes_on(platform, layout):
    """Layout 1 had no count of events, layout 2 no runs: the bytes are those that they wrote."""
    platform.put(frame(vehicle(), Alarms(1, 1, (0x11,))))
    row = platform.telemetry.rows[VIN]
    count = "" if layout == 1 else "00000005"
    old = bytes.fromhex(f"{layout:02x}{T0_S:016x}{'ff' * 16}000100030001{1:08x}0001{count}{0:02x}{0x11:08x}")
    as_before = bytes.fromhex(f"{T0_S:016x}{'ff' * 16}000100030001{1:08x}000100000005{0:02x}{0x11:08x}")
    assert row.memory.startswith(b"\x03" + as_before)
    platform.telemetry.rows[VIN] = row._replace(memory=old)
    checkpoints = {
        key: replace(event, detail=f"{layout:02x}{'ff' * 28}0000{'00' * 6}{'00' * (len(count) // 2)}")
        for key, event in platform.telemetry.kept_events.items()
        if event.kind is EventKind.CHECKPOINT
    }
    assert len(checkpoints) == 1
    platform.telemetry.kept_events.update(checkpoints)
    platform.restart()
    platform.put(frame(vehicle(), Alarms(1, 1, (0x11,)), at=25), frame(vehicle(), Alarms(1, 0, (0x11,)), at=50))
    assert platform.events()[-1] == (50, "alarm", "TEMPERATURE_DIFFERENCE", "0")
    assert len(platform.events()) == 6
    assert run_under_way(platform.telemetry.rows[VIN]).started_s == T0_S + 25
    assert platform.counters["state_of_another_version"] == 0
    before = platform.events(checkpoints=True)
    platform.put(frame(vehicle(), at=30, arrived=100, is_backfill=True))
    assert platform.events(checkpoints=True) == before


def test_fault_changes_are_events_as_they_say(platform):
    change = FaultChange(
        time=T0 - timedelta(seconds=3), position=2, code=17, state=FaultState.ONSET, level=2, detail="hot"
    )
    platform.put(frame(FaultChanges((change, replace(change, state=FaultState.CLEARED, level=Sentinel.INVALID)))))
    clear, onset = platform.telemetry.events(VIN, PageRequest(), kinds=(EventKind.FAULT_CHANGE,)).items
    assert (onset.subject, onset.value, clear.value) == ("2 0x00000011", "1", "0")
    assert onset.detail == '{"time": "2026-11-22T15:59:57+08:00", "level": 2, "detail": "hot"}'
    assert "level" not in clear.detail


def events_in_order(frames, vin):
    """What all reports in the order of their own times make, in one batch."""
    platform = Platform()
    platform.put(*sorted(frames, key=lambda each: each.reported_at_s))
    assert not platform.derivation.waiting
    return platform.events(vin, checkpoints=True)


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("seed", range(4))
def test_any_order_any_batches_any_restarts_give_the_same_events(seed, edition):
    stream = vehicle_stream(seed + 100, edition=edition, reports=45)
    frames = [each for each in stream.distinct if each.is_time_plausible]
    expected = events_in_order(frames, stream.vin)
    assert len({(T0_S + event[0]) // DAY_S for event in expected}) > 1
    assert sum(event[1] == "alarm" for event in expected) > 1
    draw = random.Random(seed)
    end_ns = max(each.arrived_at_ns for each in frames)
    for _ in range(2):
        # Seconds in any order; what is of one second stays in its order, because only that says what came first.
        seconds = {}
        for each in frames:
            seconds.setdefault(each.reported_at_s, []).append(replace(each, arrived_at_ns=end_ns))
        shuffled = list(seconds.values())
        draw.shuffle(shuffled)
        arriving = [each for second in shuffled for each in second]
        platform = Platform()
        while arriving:
            size = draw.choice((1, 2, 5, 40))
            platform.put(*arriving[:size], replay=draw.random() < 0.5)
            arriving = arriving[size:]
            if draw.random() < 0.3:
                platform.restart()
        # A process that has just started learns of what waits when the vehicle is heard of.
        platform.derivation.take((), seen={stream.vin: end_ns})
        platform.derivation.derive_again()
        assert platform.events(stream.vin, checkpoints=True) == expected


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_in_the_middle_changes_nothing(seed):
    """The row has all that deriving remembers: state and row are the same as without a restart."""
    stream = vehicle_stream(seed, reports=45)
    steady, restarted = Platform(), Platform()
    draw = random.Random(seed)
    for each in stream.stored:
        steady.put(each)
        restarted.put(each)
        if draw.random() < 0.4:
            restarted.restart()
    assert restarted.telemetry.rows == steady.telemetry.rows
    assert restarted.telemetry.kept_events == steady.telemetry.kept_events


def test_a_sentinel_across_a_restart_is_no_edge(platform):
    platform.put(frame(vehicle(state=1)), frame(vehicle(state=Sentinel.INVALID), at=25))
    platform.restart()
    platform.put(frame(vehicle(state=1), at=50))
    assert [event for event in platform.events() if event[1] == "vehicle state"] == [(0, "vehicle state", "", "1")]


def test_a_late_report_changes_its_day_and_every_day_behind_it_that_it_changes(platform):
    platform.put(
        frame(vehicle(state=2), at=0), frame(vehicle(state=1), at=2 * DAY_S), frame(vehicle(state=2), at=4 * DAY_S)
    )
    platform.put(frame(vehicle(state=1), at=DAY_S, arrived=4 * DAY_S + 1, is_backfill=True))
    assert [event for event in platform.events() if event[1] == "vehicle state"] == [
        (0, "vehicle state", "", "2"),
        (DAY_S, "vehicle state", "", "1"),
        (4 * DAY_S, "vehicle state", "", "2"),
    ]


def test_days_that_a_late_report_does_not_change_are_not_read(platform):
    for day in range(5):
        platform.put(frame(vehicle(state=1 + day % 2), at=day * DAY_S))
    read = []
    real = platform.telemetry.read

    def counting(vin, since_s, until_s):
        for each in real(vin, since_s, until_s):
            read.append(each)
            yield each

    platform.telemetry.read = counting
    replaced = []
    real_replace = platform.telemetry.replace_events
    platform.telemetry.replace_events = lambda *arguments: (replaced.append(arguments), real_replace(*arguments))
    before = platform.events()
    platform.put(frame(vehicle(state=2), at=DAY_S + 60, arrived=4 * DAY_S + 60, is_backfill=True))
    assert platform.events() == before
    ((_, since_s, until_s, _),) = replaced
    assert (since_s, until_s) == (T0_S + DAY_S - 8 * 3600, T0_S + 2 * DAY_S - 8 * 3600)


def test_a_report_of_a_day_past_retention_takes_no_events_away():
    """The frames of its day are gone, so the day can't be derived again."""
    platform = Platform(keep_s=7 * DAY_S)
    platform.put(frame(vehicle(state=1), at=0), frame(vehicle(state=2), at=60), frame(vehicle(), at=9 * DAY_S))
    before = platform.events()
    platform.telemetry.stored = [each for each in platform.telemetry.stored if each.reported_at_s > T0_S + DAY_S]
    platform.put(frame(vehicle(state=3), at=30, arrived=9 * DAY_S, is_backfill=True))
    assert platform.events() == before
    assert platform.derivation.waiting == 0


def test_what_was_appended_and_not_derived_is_derived_at_the_next_start(platform):
    platform.put(frame(vehicle(50)))
    platform.telemetry.append([frame(vehicle(51, state=2), at=25), frame(vehicle(52), at=50)])
    platform.restart()
    assert platform.derivation.recover() == 2
    assert platform.state().soc_pct == 52
    assert [event[0] for event in platform.events() if event[1] == "vehicle state"] == [0, 25, 50]
    assert platform.derivation.recover() == 0


def test_what_is_derived_late_stands_behind_what_has_arrived_since(platform):
    """A process has died with two reports; the vehicle has come to another one, which has derived the next."""
    platform.put(frame(vehicle(50, state=1), cells(1, 1, 4, (3.1, 3.2)), cells(2, 1, 2, (3.3, 3.4))))
    left = [
        frame(vehicle(51, state=2), cells(1, 3, 4, (3.5, 3.6)), at=25),
        frame(vehicle(52, state=1), cells(1, 1, 4, (3.7, 3.8)), at=50),
    ]
    newest = frame(vehicle(53, state=2), at=75)
    platform.telemetry.append([*left, newest])
    platform.derivation.take([newest])
    platform.restart()
    platform.derivation.take(left, is_late=True)
    platform.derivation.derive_again()
    state = platform.state()
    assert (state.soc_pct, state.reported_at.timestamp(), state.heard_at.timestamp()) == (53, T0_S + 75, T0_S + 75)
    assert state.last_seen_at.timestamp() == T0_S + 75
    first, second = state.values["cell_voltages"]["subsystems"]
    assert (first["cell_voltages_v"], second["cell_voltages_v"]) == ([3.7, 3.8, 3.5, 3.6], [3.3, 3.4])
    # As if they had come in order.
    other = Platform()
    other.put(frame(vehicle(50, state=1), cells(1, 1, 4, (3.1, 3.2)), cells(2, 1, 2, (3.3, 3.4))), *left, newest)
    assert platform.events(checkpoints=True) == other.events(checkpoints=True)
    assert platform.telemetry.rows[VIN].frames == other.telemetry.rows[VIN].frames


def test_a_store_that_is_away_costs_nothing(platform):
    from bmsota_cloud.domain.errors import StorageUnavailableError

    platform.put(frame(vehicle(50)))
    real = platform.telemetry.save_derived

    def away(*_):
        raise StorageUnavailableError("the database is away")

    platform.telemetry.save_derived = away
    batch = [frame(vehicle(51, state=2), at=25)]
    platform.telemetry.append(batch)
    with pytest.raises(StorageUnavailableError):
        platform.derivation.take(batch)
    platform.telemetry.save_derived = real
    platform.derivation.take(batch)
    assert platform.state().soc_pct == 51
    assert len([event for event in platform.events() if event[1] == "vehicle state"]) == 2


def test_a_row_of_another_version_begins_anew_and_harms_nothing(platform):
    platform.put(frame(vehicle(50)))
    row = platform.telemetry.rows[VIN]
    platform.telemetry.rows[VIN] = row._replace(memory=b"\x63" + row.memory[1:], frames=row.frames + b"##\x02")
    platform.restart()
    platform.put(frame(vehicle(51), at=25))
    assert platform.state().soc_pct == 51
    assert platform.counters["state_of_another_version"] == 1


def test_the_cache_forgets_the_oldest_and_loads_them_again(monkeypatch):
    from bmsota_cloud.services import deriving

    monkeypatch.setattr(deriving, "_CACHE_SIZE_BYTES_MAX", 2000)
    platform = Platform()
    vins = [f"TESTVEHICLE{number:06d}" for number in range(20)]
    for at in (0, 25):
        platform.put(*(frame(vehicle(at), Alarms(1, 1), at=at, vin=vin) for vin in vins))
    assert all(platform.state(vin).soc_pct == 25 for vin in vins)
    assert all(len(platform.events(vin)) == 4 for vin in vins)
    assert len(platform.derivation._deriver._vehicles) < 5


def test_heartbeats_move_last_seen_and_nothing_else():
    deriver = Deriver(lambda vins: {}, keep_s=KEEP_S)
    (row,) = deriver.take([frame(vehicle(50))], seen={VIN: 5}).states
    assert (row.last_seen_at_ns, row.soc_pct) == (5, 50)
    (row,) = deriver.take((), seen={VIN: 7}).states
    assert (row.last_seen_at_ns, row.soc_pct, row.heard_at_ns) == (7, 50, T0_S * 10**9)
    assert PERIOD_S == 25
