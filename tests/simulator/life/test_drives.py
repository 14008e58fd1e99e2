"""Units of a run live their days: what vehicles do, and what happens to their packs, is seen in the reports alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.life import Activity, DailyLife, Habits
from bmsota_sim.physics import LFP, PackDesign, Packs
from bmsota_sim.run.check import check
from bmsota_sim.run.runner import Run
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink
from long_run import LONG

from bmsota.gbt32960 import (
    AlarmFlag,
    Alarms,
    CellVoltages,
    ChargingState,
    DriveMotors,
    MotorState,
    Position,
    ProbeTemperatures,
    ReportReceived,
    Sentinel,
    VehicleData,
    VehicleState,
)

E7 = PackDesign(cell_count=36, probe_count=12, capacity_ah=100.0, chemistry=LFP)


def play(text, *, start_ns=VIRTUAL_START_NS, seconds=None):
    """Run a scenario; what each unit reported in real time, as {second: {kind: body}}, by the name of the unit."""
    scenario = check(text.encode(), "test.yaml", 7).scenario
    kernel, found = Kernel(start_ns), {}

    def received(event, _now_ns):
        if isinstance(event, ReportReceived) and not event.is_backfill:
            second = round(event.report.time.timestamp() - start_ns / SECOND)
            found.setdefault(event.vin, {})[second] = {type(body): body for body in event.report.bodies}

    platform = SessionPlatform(received)
    run = Run(scenario, 7, kernel=kernel, uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0))
    run.start()
    kernel.run_until(run.start_ns + round((seconds or scenario.duration_s) * SECOND))
    result = run.end()
    assert all(event.outcome == "happened" for event in result.events), result.events
    return {str(unit): found[each.unit.identity.vin] for unit, each in run.units.items()}, run


ONE_DAY = """
name: day
duration: 75min
groups:
  home: { profile: E7, count: 1, fidelity: full, soc: 70 }
life: { trips: udds, trips_per_day: 27, charge: { from: "08:05", power_kw: 20, to_pct: 95 }, ambient: 5..15C, report: 10s, measure: 10s }
"""


@pytest.fixture(scope="module")
def day():
    reports, run = play(ONE_DAY)
    return list(reports["home/1"].values()), run


def vehicle_data(reports):
    return [report[VehicleData] for report in reports]


@pytest.mark.slow
def test_reports_show_driving_charging_and_parking(day):
    reports, _ = day
    seen = {(each.vehicle_state, each.charging_state) for each in vehicle_data(reports)}
    assert (VehicleState.STARTED, ChargingState.NOT_CHARGING) in seen
    assert (VehicleState.OFF, ChargingState.PARKED_CHARGING) in seen
    for report in reports:
        data = report[VehicleData]
        if data.charging_state is ChargingState.PARKED_CHARGING:
            assert data.total_current_a <= 0
            assert data.speed_kmh == 0
        if data.vehicle_state is VehicleState.OFF and data.charging_state is ChargingState.NOT_CHARGING:
            assert 0 <= data.total_current_a < 0.5
    assert min(each.total_current_a for each in vehicle_data(reports)) < -50


def test_a_driving_vehicle_follows_its_cycle(day):
    reports, _ = day
    driving = [report for report in reports if report[VehicleData].vehicle_state is VehicleState.STARTED]
    speeds = [report[VehicleData].speed_kmh for report in driving]
    assert len(set(speeds)) > 20
    assert max(speeds) > 60
    states = {report[DriveMotors].motors[0].state for report in driving}
    assert {MotorState.CONSUMING, MotorState.GENERATING, MotorState.READY} <= states
    for report in driving:
        motor = report[DriveMotors].motors[0]
        assert (motor.torque_nm < 0) is (motor.state is MotorState.GENERATING)
    odometer = [report[VehicleData].odometer_km for report in reports]
    assert all(later >= earlier for earlier, later in pairwise(odometer))
    assert odometer[-1] - odometer[0] > 5
    assert len({report[Position].latitude_deg for report in reports}) > 20


def test_the_day_s_temperature_is_that_of_the_cells(day):
    """Between 08:00 and 09:15 it is 5 to 10 degrees; the pack begins at the day's lowest."""
    reports, run = day
    life = run._drives[0].life
    assert life.ambient_at(8 * 3600) == pytest.approx(7.5)
    assert life.ambient_at(16 * 3600) == pytest.approx(15.0)
    first = reports[0][ProbeTemperatures].subsystems[0].temperatures_c
    assert set(first) == {5}


@pytest.mark.slow
def test_the_same_day_whenever_a_run_begins():
    """Days are counted from the midnight before the start, so that real time replays."""
    text = (
        ONE_DAY.replace("duration: 75min", "duration: 5min")
        .replace("report: 10s", "report: 60s")
        .replace("measure: 10s", "measure: 60s")
    )
    first, _ = play(text)
    later, _ = play(text, start_ns=VIRTUAL_START_NS + 3 * 86_400 * SECOND)
    assert first == later


@pytest.mark.slow
def test_what_drives_for_eight_hours_stops_by_itself():
    """An E7 at 89 %: it has given what was in it, its contactors are open, and no cell is below its limit."""
    packs = Packs(E7, ["VIN"], seed=1, soc=0.89)
    life = DailyLife(packs, ["e7/1"], Habits(charge_from_s=None, cell_v_min=2.5, cell_v_max=3.65), seed=1)
    life.order(0, Activity.DRIVING)
    speeds = []
    for second in range(0, 8 * 3600, 20):
        life.step(second, 20.0)
        speeds.append(float(life.speed_kmh[0]))
    assert not life.contactors_closed[0]
    assert life.activity[0] == Activity.PARKED
    assert 0 <= packs.soc[0] < 0.06
    assert packs.charge_ah[0] < 0.9 * 100
    assert packs.cell_voltage_v.min() > 2.49
    assert speeds[0] == 48.0
    assert 0 < min(speed for speed in speeds if speed) < 10, "it slowed down"
    assert speeds[-1] == 0
    driven = life.odometer_km[0]
    assert 55 < driven < 75
    # It does not drive on with what recovers at rest; a charge lets it.
    life.order(0, Activity.CHARGING, charge_power_w=5_000.0)
    for second in range(8 * 3600, 9 * 3600, 10):
        life.step(second, 10.0)
    assert packs.current_a[0] < -20
    life.order(0, Activity.DRIVING)
    life.step(9 * 3600, 10.0)
    assert life.speed_kmh[0] == 48.0


STOPS = """
name: stops
duration: {duration}
groups:
  e: {{ profile: E7, count: 1, fidelity: full, soc: {soc} }}
life: {{ report: 10s, measure: 10s }}
timeline:
  - {{ at: 20s, do: driving, who: e, for: {drive} }}
  - {{ at: {charge_at}, do: charging, who: e, for: 4min, power_kw: 20 }}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("soc", "drive", "charge_at", "duration"),
    [(12, "14min", "15min", "20min"), pytest.param(89, "8h", "481min", "490min", marks=pytest.mark.long)],
    ids=["nearly empty", "eight hours"],
)
def test_a_unit_whose_pack_is_empty_stops_says_so_and_drives_again_after_a_charge(soc, drive, charge_at, duration):
    if soc == 89 and not LONG:
        pytest.skip("make test-long")
    reports, run = play(STOPS.format(soc=soc, drive=drive, charge_at=charge_at, duration=duration))
    data = [report[VehicleData] for report in reports["e/1"].values()]
    speeds = [each.speed_kmh for each in data]
    assert max(speeds) > 20
    end = next(number for number, each in enumerate(data) if each.charging_state is ChargingState.PARKED_CHARGING)
    stands = [each for each in data[:end] if each.speed_kmh == 0]
    assert len(stands) > 10
    assert stands[-1].soc_pct <= 6
    assert stands[-1].total_current_a < 5
    assert data[end].total_current_a < -50
    assert all(each.soc_pct >= 0 for each in data)
    notes = [note.what for note in run.units[next(iter(run.units))].trace.notes]
    assert notes.count("drives") == 1
    assert notes.count("its pack takes and gives no more") == 1


FAULTS = """
name: faults
duration: 220s
groups:
  w: {{ profile: E7, count: 1, fidelity: full, soc: 60 }}
life: {{ report: 10s, ambient: 25C }}
timeline:
  - {{ at: 60s, who: w/1, for: 80s, {fault} }}
"""


def faulty(fault):
    reports, _ = play(FAULTS.format(fault=fault))
    return reports["w/1"]


@pytest.mark.slow
def test_a_thermal_event_is_felt_by_the_slave_s_probes_alone_and_raises_all_levels():
    reports = faulty("do: thermal_event, slave: 2, rise_c_per_min: 60, to: 90C")
    hottest = {second: report[ProbeTemperatures].subsystems[0].temperatures_c for second, report in reports.items()}
    assert hottest[50] == (25,) * 12
    during = hottest[120]
    assert max(during[4:8]) >= 80
    assert max(during[:4] + during[8:]) <= 27
    levels = [report[Alarms].level_max for report in reports.values()]
    assert [level for level, before in zip(levels, [None, *levels], strict=False) if level != before][:4] == [
        0,
        1,
        2,
        3,
    ]
    told = reports[120][Alarms]
    assert told.flags == AlarmFlag.TEMPERATURE_DIFFERENCE | AlarmFlag.BATTERY_TEMPERATURE_HIGH
    alarm_s = next(second for second, report in reports.items() if report[Alarms].level_max == 3)
    assert {alarm_s + number for number in range(1, 29)} <= set(reports), "each second after it"
    assert max(hottest[max(hottest)]) < 90


@pytest.mark.slow
def test_a_broken_probe_is_invalid_and_no_alarm_and_a_stuck_one_stays():
    for mode in ("open", "short"):
        reports = faulty(f"do: sensor_broken, slave: 3, probe: 2, mode: {mode}")
        shown = {second: report[ProbeTemperatures].subsystems[0].temperatures_c for second, report in reports.items()}
        assert shown[100] == (25,) * 9 + (Sentinel.INVALID,) + (25,) * 2
        assert shown[50] == shown[200] == (25,) * 12
        assert {report[Alarms].flags for report in reports.values()} == {0}
    text = FAULTS.format(fault="do: sensor_broken, slave: 3, probe: 2, mode: stuck") + (
        "  - { at: 65s, who: w/1, for: 60s, do: thermal_event, slave: 3, rise_c_per_min: 20, to: 40C }\n"
    )
    reports, _ = play(text)
    shown = reports["w/1"][120][ProbeTemperatures].subsystems[0].temperatures_c
    assert shown[9] == 25
    assert shown[8] == shown[10] == 40


@pytest.mark.slow
def test_an_open_cell_is_invalid_and_no_current_flows():
    reports = faulty("do: cell_failure, slave: 2, cell: 3, mode: open")
    cells = reports[100][CellVoltages].subsystems[0]
    assert [number for number, value in enumerate(cells.cell_voltages_v) if value is Sentinel.INVALID] == [14]
    assert reports[100][VehicleData].total_voltage_v is Sentinel.INVALID
    assert reports[100][VehicleData].total_current_a == 0.0
    assert reports[50][VehicleData].total_current_a == reports[200][VehicleData].total_current_a == 3.0


@pytest.mark.slow
def test_a_shorted_cell_empties_itself_and_heats_up():
    packs = Packs(E7, ["VIN"], seed=1, soc=0.5)
    packs.short_cell(0, 14, 0.05)
    before = packs.cell_soc.copy()
    for _ in range(3600):
        packs.step(0.0, 10.0)
    assert packs.cell_soc[0, 14] == pytest.approx(0.0, abs=0.01)
    packs.short_cell(0, 14, None)
    others = [cell for cell in range(36) if cell != 14]
    assert packs.cell_soc[0, others] == pytest.approx(before[0, others], abs=1e-6)
    hot = Packs(E7, ["VIN"], seed=1, soc=0.5)
    hot.short_cell(0, 14, 0.05)
    hot.step(0.0, 60.0)
    assert hot.cell_temperature_c[0, 14] > 24
    assert hot.cell_temperature_c[0, others].max() == pytest.approx(20.0)


def test_a_weak_cell_is_the_first_to_be_empty():
    packs = Packs(E7, ["VIN"], seed=1, soc=0.5)
    packs.step(50.0, 60.0)
    soc = float(packs.cell_soc[0, 14])
    packs.change_cell(0, 14, capacity=0.2, resistance=4.0)
    packs.step(0.0, 1.0)
    assert packs.cell_soc[0, 14] == pytest.approx(soc, abs=1e-5)
    packs.step(50.0, 360.0)
    assert packs.cell_soc[0, 14] == pytest.approx(soc - 5 / (0.2 * 100), abs=0.01)
    assert packs.cell_voltage_v[0].argmin() == 14
    packs.change_cell(0, 14, capacity=5.0, resistance=0.25)
    packs.step(50.0, 360.0)
    assert packs.cell_soc[0, 14] == pytest.approx(soc - 0.25 - 0.05, abs=0.01)


def test_company_changes_no_vehicle():
    """Neither what others do nor how hot or empty they are."""

    def of(owners):
        packs = Packs(E7, owners, seed=1, soc=0.5)
        life = DailyLife(
            packs, owners, Habits(charge_from_s=None, parked_w=350.0, cell_v_min=2.5, cell_v_max=3.65), seed=1
        )
        packs.heat_cells(0, slice(0, 4), 2.0, 70.0)
        if len(owners) > 1:
            life.order(1, Activity.DRIVING)
        seen = []
        for second in range(120):
            life.step(second, 1.0)
            seen.append((float(packs.current_a[0]), packs.cell_voltage_v[0].tolist()))
        return seen

    assert of(["a"]) == of(["a", "b"])
