"""What a master reports: every body a BMS fills, sentinels for what it does not know, the text's ranges kept."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import pytest

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    AlarmFlag,
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    ChargingState,
    Command,
    CoordinateSystem,
    DcdcState,
    DriveMotors,
    DriveMotors2025,
    Edition,
    Extremes,
    Frame,
    Gear,
    GearPosition,
    MotorState,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    Report,
    Sentinel,
    VehicleData,
    VehicleData2025,
    VehicleState,
    beijing_time,
    decode,
    encode,
)
from bmsota.master import MasterReadings, MotorReadings, PackValues, report_bodies

VOLTAGES = (3.7001, 3.7234, 3.6509, 3.7234)
TEMPERATURES = (21.4, -3.6, 21.6)
PACK = PackValues(cell_voltages_v=VOLTAGES, temperatures_c=TEMPERATURES)
UNKNOWN = PackValues(cell_voltages_v=(None,) * 4, temperatures_c=(None,) * 3)
MOTOR = MotorReadings(
    state=MotorState.CONSUMING,
    power_w=7200.0,
    speed_rpm=4320,
    torque_nm=15.0,
    controller_temperature_c=41,
    motor_temperature_c=48,
)
PARKED = MasterReadings(
    ignition_on=True,
    speed_kmh=0.0,
    is_charging=False,
    current_a=12.34,
    soc_pct=56.7,
    odometer_km=1234.56,
    insulation_kohm=5000.4,
    position=(104.0668, 30.5728),
    accelerator_pct=0,
    brake_pct=0,
    dcdc_state=DcdcState.WORKING,
    motors=(replace(MOTOR, state=MotorState.READY, power_w=0.0, speed_rpm=0, torque_nm=0.0),),
)
DRIVING = replace(
    PARKED, speed_kmh=48.0, gear=Gear.of(GearPosition.DRIVE, is_driving=True), accelerator_pct=20, motors=(MOTOR,)
)


def bodies_of(pack, readings=PARKED, **options):
    return {type(body): body for body in report_bodies(pack, readings, **options)}


def through_the_wire(pack, readings, edition=Edition.GBT2016):
    """Encode strictly, as a terminal should send, and decode again."""
    bodies = report_bodies(pack, readings, edition=edition)
    frame = Frame(
        command=Command.REALTIME_REPORT,
        vin="LBMF7EV0XR0000001",
        message=Report(beijing_time(10**18), bodies),
        edition=edition,
    )
    return decode(encode(frame, strict=True)).message.bodies


def test_all_seven_bodies_in_the_order_of_their_types():
    kinds = [type(body) for body in report_bodies(PACK, PARKED)]
    assert kinds == [VehicleData, DriveMotors, Position, Extremes, Alarms, CellVoltages, ProbeTemperatures]


def test_a_vehicle_without_positioning_reports_no_position():
    assert Position not in bodies_of(PACK, replace(PARKED, position=None))


def test_a_master_that_hears_nothing_of_motors_reports_none():
    assert DriveMotors not in bodies_of(PACK, replace(PARKED, motors=()))


# What a master knows at least.
BARE = MasterReadings(ignition_on=True, speed_kmh=0.0, is_charging=False, current_a=0.0, soc_pct=50.0)


@pytest.mark.parametrize("pack", [PACK, UNKNOWN])
@pytest.mark.parametrize("readings", [PARKED, DRIVING, BARE], ids=["parked", "driving", "bare"])
@pytest.mark.parametrize("edition", Edition)
def test_a_report_survives_the_wire_strictly(pack, readings, edition):
    assert through_the_wire(pack, readings, edition) == report_bodies(pack, readings, edition=edition)


def test_a_report_of_2025_says_the_same():
    """All that the newer bodies have, field by field; extremes and pedals it has not, levels of alarms and the coordinates' system it has."""
    hot = replace(PACK, cell_voltages_v=(4.3, 2.4, *PACK.cell_voltages_v[2:]))
    old, new = bodies_of(hot, DRIVING), bodies_of(hot, DRIVING, edition=Edition.GBT2025)
    assert list(new) == [
        VehicleData2025, DriveMotors2025, Position2025, Alarms2025, CellVoltages2025, ProbeTemperatures2025
    ]  # fmt: skip

    def same(older, newer, *unlike):
        for field in dataclasses.fields(newer):
            if field.name not in unlike:
                assert getattr(newer, field.name) == getattr(older, field.name), field.name

    same(old[VehicleData], new[VehicleData2025])
    same(old[DriveMotors].motors[0], new[DriveMotors2025].motors[0])
    same(old[Position], new[Position2025], "coordinate_system")
    same(old[CellVoltages].subsystems[0], new[CellVoltages2025].packs[0])
    same(old[ProbeTemperatures].subsystems[0], new[ProbeTemperatures2025].packs[0])
    same(old[Alarms], new[Alarms2025], "general_levels")
    assert new[Position2025].coordinate_system is CoordinateSystem.WGS84
    levels = {each.flag: each.level for each in new[Alarms2025].general_levels}
    assert levels == {
        AlarmFlag.CELL_OVER_VOLTAGE: 2,
        AlarmFlag.CELL_UNDER_VOLTAGE: 2,
        AlarmFlag.CELL_CONSISTENCY_POOR: 2,
        AlarmFlag.TEMPERATURE_DIFFERENCE: 2,
    }
    assert new[Alarms2025].level_max == 2
    assert bodies_of(PACK, alarms={}, edition=Edition.GBT2025)[Alarms2025].general_levels == ()


def test_what_the_vehicle_does_not_say_is_invalid():
    data = bodies_of(PACK, BARE)[VehicleData]
    names = ("odometer_km", "insulation_kohm", "dcdc_state", "accelerator_pct", "brake_pct")
    assert [getattr(data, name) for name in names] == [Sentinel.INVALID] * 5


def test_pack_values():
    data = bodies_of(PACK)[VehicleData]
    assert data.total_voltage_v == round(sum(VOLTAGES), 1)
    assert data.total_current_a == 12.3
    assert data.soc_pct == 57
    assert data.odometer_km == 1234.6
    assert data.insulation_kohm == 5000
    cells = bodies_of(PACK)[CellVoltages].subsystems[0]
    assert cells.cell_voltages_v == (3.700, 3.723, 3.651, 3.723)
    assert (cells.cell_count, cells.first_cell, cells.number) == (4, 1, 1)
    assert bodies_of(PACK)[ProbeTemperatures].subsystems[0].temperatures_c == (21, -4, 22)


def test_extremes_name_the_first_of_equals():
    extremes = bodies_of(PACK)[Extremes]
    assert (extremes.cell_voltage_max_cell, extremes.cell_voltage_max_v) == (2, 3.723)
    assert (extremes.cell_voltage_min_cell, extremes.cell_voltage_min_v) == (3, 3.651)
    assert (extremes.temperature_max_probe, extremes.temperature_max_c) == (3, 22)
    assert (extremes.temperature_min_probe, extremes.temperature_min_c) == (2, -4)


def test_what_is_not_known_is_invalid_and_never_zero():
    bodies = bodies_of(UNKNOWN)
    assert bodies[VehicleData].total_voltage_v is Sentinel.INVALID
    assert bodies[DriveMotors].motors[0].controller_voltage_v is Sentinel.INVALID
    assert bodies[CellVoltages].subsystems[0].cell_voltages_v == (Sentinel.INVALID,) * 4
    assert bodies[CellVoltages].subsystems[0].voltage_v is Sentinel.INVALID
    assert bodies[ProbeTemperatures].subsystems[0].temperatures_c == (Sentinel.INVALID,) * 3
    extremes = bodies[Extremes]
    values = [getattr(extremes, name) for name in extremes.__dataclass_fields__]
    assert values == [Sentinel.INVALID] * 12
    assert bodies[Alarms].flags == 0


def test_one_silent_slave_hides_the_sum_but_not_the_other_cells():
    pack = replace(PACK, cell_voltages_v=(3.7, None, 3.6, 3.65), temperatures_c=(None, 20.0, None))
    bodies = bodies_of(pack)
    assert pack.voltage_v is None
    assert bodies[VehicleData].total_voltage_v is Sentinel.INVALID
    assert bodies[CellVoltages].subsystems[0].cell_voltages_v == (3.7, Sentinel.INVALID, 3.6, 3.65)
    extremes = bodies[Extremes]
    assert (extremes.cell_voltage_max_cell, extremes.cell_voltage_min_cell) == (1, 3)
    assert (extremes.temperature_max_probe, extremes.temperature_min_probe) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "where", "expected"),
    [
        ({"current_a": 1000.1}, (VehicleData, "total_current_a"), Sentinel.ABNORMAL),
        ({"current_a": -1000.1}, (VehicleData, "total_current_a"), Sentinel.ABNORMAL),
        ({"current_a": -1000.0}, (VehicleData, "total_current_a"), -1000.0),
        ({"current_a": math.nan}, (VehicleData, "total_current_a"), Sentinel.ABNORMAL),
        ({"soc_pct": 104.9}, (VehicleData, "soc_pct"), 100),
        ({"soc_pct": -4.9}, (VehicleData, "soc_pct"), 0),
        ({"cell_voltages_v": (4.2,) * 200}, (VehicleData, "total_voltage_v"), 840.0),
        ({"cell_voltages_v": (6.0,) * 200}, (VehicleData, "total_voltage_v"), Sentinel.ABNORMAL),
        ({"speed_kmh": 221.0}, (VehicleData, "speed_kmh"), Sentinel.ABNORMAL),
        ({"insulation_kohm": 70000.0}, (VehicleData, "insulation_kohm"), Sentinel.ABNORMAL),
        ({"temperatures_c": (210.4, 20.0)}, (Extremes, "temperature_max_c"), 210),
        ({"temperatures_c": (211.0, 20.0)}, (Extremes, "temperature_max_c"), Sentinel.ABNORMAL),
        ({"temperatures_c": (-41.0, 20.0)}, (Extremes, "temperature_min_c"), Sentinel.ABNORMAL),
    ],
)
def test_values_beyond_the_text_s_ranges_still_make_a_report(changes, where, expected):
    """A thermal runaway or a broken shunt is exactly when the platform must hear from the unit."""
    of_pack = {name: value for name, value in changes.items() if name in PackValues.__dataclass_fields__}
    pack = replace(PACK, **of_pack)
    readings = replace(PARKED, **{name: value for name, value in changes.items() if name not in of_pack})
    kind, name = where
    assert getattr(bodies_of(pack, readings)[kind], name) == expected
    through_the_wire(pack, readings)


def test_a_cell_whose_number_does_not_fit_a_byte_is_abnormal_there():
    pack = replace(PACK, temperatures_c=(20.0,) * 255 + (30.0,))
    assert bodies_of(pack)[Extremes].temperature_max_probe is Sentinel.ABNORMAL
    assert bodies_of(pack)[Extremes].temperature_max_c == 30


def test_a_pack_too_large_for_a_frame_is_refused_and_not_cut():
    bodies_of(replace(PACK, cell_voltages_v=(3.7,) * 200))
    with pytest.raises(ConfigurationError, match="expected at most 200 cells, got 201"):
        bodies_of(replace(PACK, cell_voltages_v=(3.7,) * 201))


def test_a_driving_vehicle():
    bodies = bodies_of(PACK, DRIVING)
    assert bodies[VehicleData].speed_kmh == 48.0
    assert bodies[DriveMotors].motors[0].state is MotorState.CONSUMING
    assert bodies[DriveMotors].motors[0].controller_current_a == round(7200.0 / sum(VOLTAGES), 1)
    assert bodies[DriveMotors].motors[0].controller_voltage_v == round(sum(VOLTAGES), 1)
    position = bodies[Position]
    assert (position.longitude_deg, position.latitude_deg) == (104.0668, 30.5728)


def test_the_motor_s_current_is_not_known_without_the_pack_s_voltage():
    assert bodies_of(UNKNOWN, DRIVING)[DriveMotors].motors[0].controller_current_a is Sentinel.INVALID
    assert bodies_of(UNKNOWN, PARKED)[DriveMotors].motors[0].controller_current_a == 0.0


def test_a_charging_and_a_switched_off_vehicle():
    assert bodies_of(PACK, PARKED)[VehicleData].charging_state is ChargingState.NOT_CHARGING
    charging = bodies_of(PACK, replace(PARKED, is_charging=True))
    assert charging[VehicleData].charging_state is ChargingState.PARKED_CHARGING
    assert bodies_of(PACK, replace(PARKED, ignition_on=False))[VehicleData].vehicle_state is VehicleState.OFF
