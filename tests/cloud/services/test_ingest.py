"""Reports become the newest state and hot rows."""

from datetime import datetime, timedelta

import pytest
from bmsota_cloud.domain.paging import PageRequest

from bmsota.gbt32960 import (
    Alarms,
    CellVoltages,
    FaultChange,
    FaultChanges,
    FaultState,
    Position,
    ProbeTemperatures,
    RawBody,
    Report,
    Sentinel,
    SubsystemTemperatures,
    SubsystemVoltages,
    VehicleData,
)


def vehicle_data(soc_pct=80, speed_kmh=12.5):
    return VehicleData(
        vehicle_state=1,
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


def put(world, vin, *bodies, at=None, is_backfill=False):
    report = Report(at or world.now, bodies)
    world.services.ingest.report(vin, report, is_backfill=is_backfill, now=world.now)


def state(world, vin):
    return world.cloud.telemetry.state(vin)


def rows(world, vin, **options):
    return world.services.telemetry.reports(vin, PageRequest(), by=world.people["vera"], **options).items


def test_an_unknown_vehicle_does_not_log_in(world):
    assert not world.services.ingest.log_in("NOSUCHVEHICLE0001", serial=1, now=world.now)
    assert world.cloud.telemetry.state("NOSUCHVEHICLE0001") is None
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
    (told,) = state(world, vin).values["other"]
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


def test_history_is_cut_by_time_and_pruned(world, vin):
    for _ in range(4):
        put(world, vin, vehicle_data())
        world.wait(hours=24)
    start = world.now - timedelta(hours=96)
    found = rows(world, vin, since=start + timedelta(hours=24), until=start + timedelta(hours=72))
    assert [row.reported_at for row in found] == [start + timedelta(hours=48), start + timedelta(hours=24)]
    # Ten days (`PlatformSettings.report_keep_s`): the first is older, the second is not.
    world.wait(hours=156)
    assert world.services.ingest.prune(world.now) == 1
    assert len(rows(world, vin)) == 3


def test_last_seen_moves_with_every_frame_and_a_lost_link_keeps_the_values(world, vin):
    put(world, vin, vehicle_data())
    world.wait(seconds=50)
    world.services.ingest.seen(vin, world.now)
    seen = world.now
    world.wait(seconds=50)
    world.services.ingest.link_lost(vin, world.now)
    newest = state(world, vin)
    assert (newest.is_online, newest.last_seen_at, newest.soc_pct) == (False, seen, 80.0)


def test_after_a_restart_nobody_is_online(world, vin):
    world.services.ingest.forget_links(world.now)
    assert not state(world, vin).is_online


def test_real_time_pages_hear_of_it(world, vin):
    feed = world.services.live.subscribe(f"vehicle:{vin}")
    put(world, vin, vehicle_data())
    message = feed.take()
    assert (message["kind"], message["soc_pct"], message["is_online"]) == ("state", 80.0, True)
    assert message["values"]["vehicle"]["speed_kmh"] == 12.5
