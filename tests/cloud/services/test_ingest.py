"""Reports become the newest state and hot rows."""

from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import EventKind
from bmsota_cloud.services import PlatformSettings, stored_frame
from postgresql import some_database
from vehicle_streams import vehicle_stream

from bmsota.checksums import bcc_xor
from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    Alarms,
    CellVoltages,
    Command,
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
    VehicleData,
    encode,
)


def vehicle_data(soc_pct=80, speed_kmh=12.5, vehicle_state=1):
    return VehicleData(
        vehicle_state=vehicle_state,
        charging_state=3,
        run_mode=1,
        speed_kmh=speed_kmh,
        odometer_km=1234.5,
        total_voltage_v=350.0,
        total_current_a=12.0,
        soc_pct=soc_pct,
        dcdc_state=1,
        gear=14,
        insulation_kohm=5000,
        accelerator_pct=0,
        brake_pct=0,
    )


def cells(first, values, count=4):
    return CellVoltages(
        (
            SubsystemVoltages(
                number=1,
                voltage_v=350.0,
                current_a=1.0,
                cell_count=count,
                first_cell=first,
                cell_voltages_v=tuple(values),
            ),
        )
    )


@pytest.fixture
def vin(world):
    made = world.register(1)
    assert world.services.ingest.log_in(made, serial=5, now=world.now)
    return made


def frame(world, vin, *bodies, at=None, is_backfill=False):
    command = Command.BACKFILL_REPORT if is_backfill else Command.REALTIME_REPORT
    raw = encode(Frame(command=command, vin=vin, message=Report(at or world.now, bodies)))
    reported_at_s = int((at or world.now).timestamp())
    return stored_frame(vin, raw, reported_at_s=reported_at_s, arrived_at_ns=world.now_ns, is_backfill=is_backfill)


def put(world, vin, *bodies, **options):
    world.services.ingest.accept(frame(world, vin, *bodies, **options))


def state(world, vin):
    return world.services.telemetry.snapshot(vin, by=world.people["vera"])


def rows(world, vin, *, size=50, **options):
    return world.services.telemetry.reports(vin, PageRequest(1, size), by=world.people["vera"], **options).items


def test_an_unknown_vehicle_does_not_log_in(world):
    assert not world.services.ingest.log_in("NOSUCHVEHICLE0001", serial=1, now=world.now)
    assert state(world, "NOSUCHVEHICLE0001").last_seen_at is None
    assert world.services.counters["login_unknown_vin"] == 1


def test_a_report_is_the_newest_state_under_the_names_of_the_link(world, vin):
    put(
        world,
        vin,
        vehicle_data(),
        Position(valid=True, longitude_deg=121.5, latitude_deg=-31.2),
        Alarms(level_max=1, flags=1 << 4),
        cells(1, [3.3, Sentinel.ABNORMAL, 3.4, Sentinel.INVALID]),
        ProbeTemperatures((SubsystemTemperatures(number=1, temperatures_c=(25, -3)),)),
        RawBody(0x0A, b"\x01\xff"),
    )
    newest = state(world, vin)
    assert (newest.soc_pct, newest.speed_kmh, newest.is_online, newest.login_serial) == (80.0, 12.5, True, 5)
    assert newest.values["vehicle"]["total_voltage_v"] == 350.0
    assert newest.values["position"]["latitude_deg"] == -31.2
    assert newest.values["alarms"]["active"] == ["SOC_LOW"]
    subsystem = newest.values["cell_voltages"]["subsystems"][0]
    assert subsystem["cell_voltages_v"] == [3.3, "abnormal", 3.4, "invalid"]
    assert newest.values["probe_temperatures"]["subsystems"][0]["temperatures_c"] == [25, -3]
    assert newest.values["other"] == [{"type_id": 10, "data": "01ff"}]


def test_fault_changes_of_the_extension_are_kept(world, vin):
    """A body with times in it."""
    change = FaultChange(time=world.now, position=1, code=7, state=FaultState.ONSET, level=3, detail="cell 4")
    put(world, vin, FaultChanges((change,)))
    told = state(world, vin).values["fault_changes"]
    assert datetime.fromisoformat(told["changes"][0].pop("time")) == world.now
    assert told == {"changes": [{"position": 1, "code": 7, "state": FaultState.ONSET, "level": 3, "detail": "cell 4"}]}


def test_a_value_that_is_not_there_is_none_and_not_zero(world, vin):
    put(world, vin, vehicle_data(soc_pct=Sentinel.INVALID))
    assert state(world, vin).soc_pct is None
    assert state(world, vin).values["vehicle"]["soc_pct"] == "invalid"


def test_bodies_that_are_not_in_a_report_keep_their_last_value(world, vin):
    put(world, vin, vehicle_data(), cells(1, [3.3] * 4))
    world.wait(seconds=10)
    put(world, vin, vehicle_data(soc_pct=79))
    assert state(world, vin).soc_pct == 79
    assert "cell_voltages" in state(world, vin).values


def test_cells_split_over_frames_are_joined(world, vin):
    put(world, vin, cells(1, [3.1, 3.2]), at=world.now)
    world.wait(seconds=1)
    put(world, vin, cells(3, [3.3, 3.4]))
    assert state(world, vin).values["cell_voltages"]["subsystems"][0]["cell_voltages_v"] == [3.1, 3.2, 3.3, 3.4]
    world.wait(seconds=1)
    put(world, vin, cells(1, [3.5, 3.6]))
    assert state(world, vin).values["cell_voltages"]["subsystems"][0]["cell_voltages_v"] == [3.5, 3.6, 3.3, 3.4]


def test_a_missing_first_part_is_invalid_and_not_invented(world, vin):
    put(world, vin, cells(1, [3.1], count=4))
    world.wait(seconds=1)
    put(world, vin, cells(3, [3.3, 3.4]))
    assert state(world, vin).values["cell_voltages"]["subsystems"][0]["cell_voltages_v"] == [3.1, "invalid", 3.3, 3.4]


def test_a_backfill_is_history_and_not_news(world, vin):
    put(world, vin, vehicle_data(soc_pct=50))
    put(world, vin, vehicle_data(soc_pct=90), at=world.now - timedelta(hours=1), is_backfill=True)
    assert state(world, vin).soc_pct == 50
    assert [(row.is_backfill, row.values["vehicle"]["soc_pct"]) for row in rows(world, vin)] == [
        (False, 50),
        (True, 90),
    ]


def test_a_report_sent_twice_is_one_row(world, vin):
    put(world, vin, vehicle_data())
    put(world, vin, vehicle_data())
    assert len(rows(world, vin)) == 1
    assert world.services.counters["report_repeated"] == 1


def test_history_is_cut_by_time_and_kept_by_arrival(world, vin):
    for _ in range(4):
        put(world, vin, vehicle_data())
        world.wait(hours=24)
    start = world.now - timedelta(hours=96)
    found = rows(world, vin, since=start + timedelta(hours=24), until=start + timedelta(hours=72))
    assert [row.reported_at for row in found] == [start + timedelta(hours=48), start + timedelta(hours=24)]
    # Backfill of the 2025 edition's seven days, and it stays for days.
    put(world, vin, vehicle_data(), at=world.now - timedelta(days=7), is_backfill=True)
    world.wait(hours=6 * 24)
    assert world.services.ingest.prune(world.now) == 0
    world.wait(hours=24)
    # The first day's reports came more than ten days ago; what is older by its own time came later.
    assert world.services.ingest.prune(world.now) == 1
    assert len(rows(world, vin)) == 4
    assert rows(world, vin)[-1].reported_at == start - timedelta(days=3)


def test_events_are_kept_by_arrival_and_longer_than_reports(new_world):
    """Nothing goes earlier than the setting says after it arrived, also of a report that was seven days on its way; and all goes at last."""
    world = new_world(settings={"report_keep_s": 7 * 24 * 3600, "event_keep_s": 30 * 24 * 3600})
    vin = world.register(1)
    put(world, vin, vehicle_data(vehicle_state=1))
    put(world, vin, vehicle_data(vehicle_state=2), at=world.now - timedelta(days=7), is_backfill=True)
    begin = world.now

    def kinds():
        found = world.services.telemetry.events(vin, PageRequest(), by=world.people["vera"], kinds=["vehicle state"])
        return [event.value for event in found.items]

    assert kinds() == ["1", "2"]
    for days, left in ((8, ["1", "2"]), (29, ["1", "2"]), (31, ["1"]), (36, ["1"]), (38, [])):
        world.services.ingest.prune(begin + timedelta(days=days))
        assert (days, kinds()) == (days, left)
    # With the charging state, and what was known at the beginning of each of the two days.
    assert world.services.counters["event_deleted"] == 5
    assert world.services.counters["report_deleted"] == 2


def test_events_are_not_deleted_before_their_reports(new_world):
    """A report can be derived again: what was known at the beginning of its day is an event too."""
    world = new_world(settings={"report_keep_s": 40 * 24 * 3600, "event_keep_s": 7 * 24 * 3600})
    vin = world.register(1)
    put(world, vin, vehicle_data())
    for days, count in ((39, 0), (79, 0), (81, 3)):
        world.services.ingest.prune(world.now + timedelta(days=days))
        assert (days, world.services.counters["event_deleted"]) == (days, count)


def test_reports_are_kept_for_the_windows_of_backfill():
    assert PlatformSettings().report_keep_s == 10 * 24 * 3600
    with pytest.raises(ConfigurationError, match="report_keep_s: expected at least 604800 s"):
        PlatformSettings(report_keep_s=7 * 24 * 3600 - 1)


@pytest.mark.parametrize("edition", list(Edition))
@pytest.mark.parametrize("where", ["memory", "files", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_streams_of_real_habits_are_kept_and_shown_whole(new_world, tmp_path, edition, where):
    """Through the service and the store: every report of the stream is in the history, in order of its time, as it came."""
    with ExitStack() as stack:
        place = {"data_dir": tmp_path} if where == "files" else {}
        if where == "postgresql":
            url = stack.enter_context(some_database())
            place = {"database_url": url, "telemetry_url": url}
        check_streams(new_world(**place), edition)


def check_streams(world, edition):
    for seed in range(2):
        stream = vehicle_stream(seed + 2, edition=edition, reports=24)
        for each in stream.stored:
            world.services.ingest.accept(each)
        world.clock.now = datetime.fromtimestamp(stream.sent[-1].arrived_at_ns // 10**9, UTC)
        found = rows(world, stream.vin, size=500)
        assert {(int(row.reported_at.timestamp()), bytes.fromhex(row.frame)[24:-1]) for row in found} == stream.kept
        assert len(found) == len(stream.kept)
        assert sum(not row.is_time_plausible for row in found) == 1
        newest = state(world, stream.vin)
        assert newest.soc_pct == stream.newest.soc_pct
        assert newest.reported_at.timestamp() == stream.newest.reported_at_s
        cells_shown = sum(len(item["cell_voltages_v"]) for item in newest.values["cell_voltages"]["subsystems"])
        assert cells_shown == len(stream.newest.cells)
        events = world.services.telemetry.events(stream.vin, PageRequest(1, 500), by=world.people["vera"]).items
        assert {event.kind for event in events} >= {EventKind.VEHICLE_STATE, EventKind.CHARGING_STATE, EventKind.ALARM}
        assert EventKind.CHECKPOINT not in {event.kind for event in events}
    assert not {name for name in world.services.counters if "derive" in name}
    assert world.services.counters["report_repeated"] > 0


def test_both_frames_of_a_second_are_in_the_history_and_show_the_whole_subsystem(world, vin):
    put(world, vin, vehicle_data(), cells(1, [3.3] * 200, count=300))
    put(world, vin, cells(201, [3.4] * 100, count=300), RawBody(0x0A, b"\x07"))
    # Even where the page ends between the two.
    for request in (PageRequest(1, 1), PageRequest(2, 1)):
        page = world.services.telemetry.reports(vin, request, by=world.people["vera"])
        assert page.total == 2
        (item,) = page.items[0].values["cell_voltages"]["subsystems"]
        assert item["cell_voltages_v"] == [3.3] * 200 + [3.4] * 100
    second, first = rows(world, vin)
    assert "vehicle" in first.values
    assert "vehicle" not in second.values
    assert second.values["other"] == [{"type_id": 10, "data": "07"}]
    assert bytes.fromhex(first.frame)[2] == Command.REALTIME_REPORT


def test_values_and_alarm_in_two_frames_of_one_second(world, vin):
    put(world, vin, vehicle_data())
    put(world, vin, Alarms(level_max=3, flags=1))
    assert [sorted(row.values) for row in rows(world, vin)] == [["alarms"], ["vehicle"]]


def test_a_report_with_a_broken_tail_is_kept_with_what_stands_before_it(world, vin):
    whole = frame(world, vin, vehicle_data(soc_pct=61)).frame
    unit = whole[24:-1] + b"\x01\x02"
    raw = whole[:22] + len(unit).to_bytes(2, "big") + unit
    raw += bytes([bcc_xor(raw[2:])])
    world.services.ingest.accept(
        stored_frame(
            vin,
            raw,
            reported_at_s=int(world.now.timestamp()),
            arrived_at_ns=world.now_ns,
            is_backfill=False,
            fault="0x01 vehicle data: expected 20 more bytes, got 1",
        )
    )
    (row,) = rows(world, vin)
    assert (row.fault, row.values["vehicle"]["soc_pct"]) == ("0x01 vehicle data: expected 20 more bytes, got 1", 61)
    assert (row.frame, state(world, vin).soc_pct) == (raw.hex(), 61)


def test_bytes_that_are_no_report_are_kept_with_the_reason(world, vin):
    raw = b"##\x02\xfe" + bytes(27)
    world.services.ingest.accept(
        stored_frame(vin, raw, reported_at_s=int(world.now.timestamp()), arrived_at_ns=world.now_ns, is_backfill=False)
    )
    (row,) = rows(world, vin)
    assert row.values == {}
    assert "expected" in row.fault
    assert world.services.counters["report_not_derived"] == 1
    put(world, vin, vehicle_data())
    assert state(world, vin).soc_pct == 80


def test_events_as_people_see_them(world, vin):
    change = FaultChange(time=world.now, position=1, code=7, state=FaultState.ONSET, level=3, detail="cell 4")
    put(world, vin, Alarms(level_max=2, flags=1 << 4), FaultChanges((change,)))
    vera = world.people["vera"]
    found = {event.kind: event for event in world.services.telemetry.events(vin, PageRequest(), by=vera).items}
    told = found[EventKind.FAULT_CHANGE]
    assert (told.happened_at, told.level, told.detail) == (world.now, 3, "cell 4")
    assert (told.subject, told.value) == ("1 0x00000007", "1")
    assert (found[EventKind.ALARM].subject, found[EventKind.ALARM_LEVEL].value) == ("SOC_LOW", "2")
    only = world.services.telemetry.events(vin, PageRequest(), by=vera, kinds=(EventKind.ALARM,))
    assert [event.kind for event in only.items] == [EventKind.ALARM]


def test_a_report_that_comes_again_is_not_the_newest_state(world, vin):
    first = frame(world, vin, vehicle_data(soc_pct=50))
    done = []
    world.services.ingest.accept(first, lambda: done.append(1))
    world.wait(seconds=25)
    put(world, vin, vehicle_data(soc_pct=51))
    world.services.ingest.accept(replace(first, arrived_at_ns=world.now_ns), lambda: done.append(2))
    assert (state(world, vin).soc_pct, done) == (51, [1, 2])
    assert world.services.counters["report_repeated"] == 1


def test_a_writer_takes_reports_and_deriving_waits_for_it(world, vin):
    """With a writer nothing touches the database in the caller's thread; last_seen and states come with the next tick."""

    class Writer:
        def __init__(self):
            self.taken = []

        def put(self, frame, done):
            self.taken.append((frame, done))

    writer = Writer()
    before = state(world, vin).last_seen_at
    world.services.ingest.attach(writer)
    world.wait(seconds=25)
    done = []
    world.services.ingest.accept(frame(world, vin, vehicle_data()), lambda: done.append(True))
    world.services.ingest.seen(vin, world.now)
    ((taken, answer),) = writer.taken
    assert (taken.vin, done, state(world, vin).last_seen_at) == (vin, [], before)
    answer()
    world.cloud.telemetry.append([taken])
    world.services.ingest.derive([taken])
    assert (done, state(world, vin).soc_pct, state(world, vin).last_seen_at) == ([True], 80.0, world.now)


def test_last_seen_goes_back_with_a_clock_that_was_put_right(world, vin):
    world.wait(hours=2)
    world.services.ingest.seen(vin, world.now)
    world.wait(hours=-2)
    world.services.ingest.seen(vin, world.now)
    assert state(world, vin).last_seen_at == world.now
    world.wait(hours=2)
    put(world, vin, vehicle_data())
    world.wait(hours=-2)
    put(world, vin, vehicle_data())
    assert state(world, vin).last_seen_at == world.now


def test_last_seen_moves_with_every_frame_and_a_lost_link_keeps_the_values(world, vin):
    put(world, vin, vehicle_data())
    world.wait(seconds=50)
    world.services.ingest.seen(vin, world.now)
    seen = world.now
    world.wait(seconds=50)
    world.services.ingest.link_lost(vin, world.now)
    newest = state(world, vin)
    assert (newest.is_online, newest.last_seen_at, newest.soc_pct) == (False, seen, 80.0)


def test_real_time_pages_hear_of_it(world, vin):
    feed = world.services.live.subscribe(f"vehicle:{vin}")
    put(world, vin, vehicle_data())
    message = feed.take()
    assert (message["kind"], message["soc_pct"], message["is_online"]) == ("state", 80.0, True)
    assert message["values"]["vehicle"]["speed_kmh"] == 12.5


def test_a_vehicle_that_changes_between_gateways_goes_on_from_what_the_other_has_derived(new_world, tmp_path):
    """Each process remembers the vehicles that came last; what it remembers is old when the vehicle comes back."""
    one, two = (new_world(f"s{n}", data_dir=tmp_path, gateway_id=f"g{n}", people=n == 1) for n in (1, 2))
    made = one.register(1)
    second = 0
    for at, level, volts in ((one, 0, 3.6), (two, 2, 3.9), (one, 2, None), (two, 0, None), (one, 0, None)):
        second += 10
        assert at.services.ingest.log_in(made, serial=1, now=at.now)
        bodies = [vehicle_data(soc_pct=second), Alarms(level_max=level)]
        if volts is not None:
            bodies.append(cells(1, [volts] * 4))
        put(at, made, *bodies, at=one.now + timedelta(seconds=second))
    newest = state(one, made)
    assert newest.soc_pct == 50.0
    assert newest.values["cell_voltages"]["subsystems"][0]["cell_voltages_v"] == [3.9] * 4
    events = one.services.telemetry.events(
        made, PageRequest(1, 50), by=one.people["vera"], kinds=(EventKind.ALARM_LEVEL,)
    )
    assert [event.value for event in reversed(events.items)] == ["2", "0"]


def test_what_the_gateway_before_derives_late_is_not_overwritten(new_world, tmp_path):
    """Its last reports are derived up to a second behind the login here."""
    one, two = (new_world(f"s{n}", data_dir=tmp_path, gateway_id=f"g{n}", people=n == 1) for n in (1, 2))
    made = one.register(1)
    assert two.services.ingest.log_in(made, serial=1, now=two.now)
    assert one.services.ingest.log_in(made, serial=2, now=one.now)
    put(one, made, vehicle_data(), at=one.now)
    put(two, made, cells(1, [3.9] * 4), at=one.now + timedelta(seconds=1))
    put(one, made, vehicle_data(), at=one.now + timedelta(seconds=2))
    assert state(one, made).values["cell_voltages"]["subsystems"][0]["cell_voltages_v"] == [3.9] * 4
