"""What a master reports: every body a BMS fills, sentinels for what it does not know, the text's ranges kept."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from bmsota_sim.devices.reporting import PackValues, report_bodies
from bmsota_sim.devices.vehicle import VirtualVehicle

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    AlarmFlag,
    Alarms,
    CellVoltages,
    ChargingState,
    Command,
    DriveMotors,
    Extremes,
    Frame,
    MotorState,
    Position,
    ProbeTemperatures,
    Report,
    Sentinel,
    VehicleData,
    VehicleState,
    beijing_time,
    decode,
    encode,
)

VOLTAGES = (3.7001, 3.7234, 3.6509, 3.7234)
TEMPERATURES = (21.4, -3.6, 21.6)
PACK = PackValues(cell_voltages_v=VOLTAGES, temperatures_c=TEMPERATURES, current_a=12.34, soc_pct=56.7)
UNKNOWN = PackValues(cell_voltages_v=(None,) * 4, temperatures_c=(None,) * 3, current_a=0.0, soc_pct=50.0)


@pytest.fixture
def vehicle():
    return VirtualVehicle(longitude_deg=104.0668, latitude_deg=30.5728, heading_rad=0.0, odometer_km=1234.56)


def bodies_of(pack, vehicle, *, has_positioning=True):
    return {type(body): body for body in report_bodies(pack, vehicle, has_positioning=has_positioning)}


def through_the_wire(pack, vehicle):
    """Encode strictly, as a terminal should send, and decode again."""
    bodies = report_bodies(pack, vehicle, has_positioning=True)
    frame = Frame(
        command=Command.REALTIME_REPORT, vin="LBMF7EV0XR0000001", message=Report(beijing_time(10**18), bodies)
    )
    return decode(encode(frame, strict=True)).message.bodies


def test_all_seven_bodies_in_the_order_of_their_types(vehicle):
    kinds = [type(body) for body in report_bodies(PACK, vehicle, has_positioning=True)]
    assert kinds == [VehicleData, DriveMotors, Position, Extremes, Alarms, CellVoltages, ProbeTemperatures]


def test_a_vehicle_without_positioning_reports_no_position(vehicle):
    assert Position not in bodies_of(PACK, vehicle, has_positioning=False)


@pytest.mark.parametrize("pack", [PACK, UNKNOWN])
@pytest.mark.parametrize("is_driving", [False, True])
def test_a_report_survives_the_wire_strictly(vehicle, pack, is_driving):
    vehicle.is_driving = is_driving
    assert through_the_wire(pack, vehicle) == report_bodies(pack, vehicle, has_positioning=True)


def test_pack_values(vehicle):
    data = bodies_of(PACK, vehicle)[VehicleData]
    assert data.total_voltage_v == round(sum(VOLTAGES), 1)
    assert data.total_current_a == 12.3
    assert data.soc_pct == 57
    assert data.odometer_km == 1234.6
    cells = bodies_of(PACK, vehicle)[CellVoltages].subsystems[0]
    assert cells.cell_voltages_v == (3.700, 3.723, 3.651, 3.723)
    assert (cells.cell_count, cells.first_cell, cells.number) == (4, 1, 1)
    assert bodies_of(PACK, vehicle)[ProbeTemperatures].subsystems[0].temperatures_c == (21, -4, 22)


def test_extremes_name_the_first_of_equals(vehicle):
    extremes = bodies_of(PACK, vehicle)[Extremes]
    assert (extremes.cell_voltage_max_cell, extremes.cell_voltage_max_v) == (2, 3.723)
    assert (extremes.cell_voltage_min_cell, extremes.cell_voltage_min_v) == (3, 3.651)
    assert (extremes.temperature_max_probe, extremes.temperature_max_c) == (3, 22)
    assert (extremes.temperature_min_probe, extremes.temperature_min_c) == (2, -4)


def test_what_is_not_known_is_invalid_and_never_zero(vehicle):
    bodies = bodies_of(UNKNOWN, vehicle)
    assert bodies[VehicleData].total_voltage_v is Sentinel.INVALID
    assert bodies[DriveMotors].motors[0].controller_voltage_v is Sentinel.INVALID
    assert bodies[CellVoltages].subsystems[0].cell_voltages_v == (Sentinel.INVALID,) * 4
    assert bodies[CellVoltages].subsystems[0].voltage_v is Sentinel.INVALID
    assert bodies[ProbeTemperatures].subsystems[0].temperatures_c == (Sentinel.INVALID,) * 3
    extremes = bodies[Extremes]
    values = [getattr(extremes, name) for name in extremes.__dataclass_fields__]
    assert values == [Sentinel.INVALID] * 12
    assert bodies[Alarms].flags == 0


def test_one_silent_slave_hides_the_sum_but_not_the_other_cells(vehicle):
    pack = replace(PACK, cell_voltages_v=(3.7, None, 3.6, 3.65), temperatures_c=(None, 20.0, None))
    bodies = bodies_of(pack, vehicle)
    assert pack.voltage_v is None
    assert bodies[VehicleData].total_voltage_v is Sentinel.INVALID
    assert bodies[CellVoltages].subsystems[0].cell_voltages_v == (3.7, Sentinel.INVALID, 3.6, 3.65)
    extremes = bodies[Extremes]
    assert (extremes.cell_voltage_max_cell, extremes.cell_voltage_min_cell) == (1, 3)
    assert (extremes.temperature_max_probe, extremes.temperature_min_probe) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "flags", "level"),
    [
        ({}, AlarmFlag(0), 0),
        ({"cell_voltages_v": (3.7, 4.251, None, 3.7)}, AlarmFlag.CELL_OVER_VOLTAGE, 3),
        ({"cell_voltages_v": (3.7, 4.25, 2.5, 3.7)}, AlarmFlag(0), 0),
        ({"cell_voltages_v": (3.7, 2.499, None, 3.7)}, AlarmFlag.CELL_UNDER_VOLTAGE, 2),
        ({"temperatures_c": (20.0, 55.1, None)}, AlarmFlag.BATTERY_TEMPERATURE_HIGH, 3),
        ({"temperatures_c": (20.0, 55.0, None)}, AlarmFlag(0), 0),
        (
            {"cell_voltages_v": (4.3, 2.4, 3.7, 3.7), "temperatures_c": (60.0,) * 3},
            AlarmFlag.CELL_OVER_VOLTAGE | AlarmFlag.CELL_UNDER_VOLTAGE | AlarmFlag.BATTERY_TEMPERATURE_HIGH,
            3,
        ),
    ],
)
def test_alarms(vehicle, changes, flags, level):
    alarms = bodies_of(replace(PACK, **changes), vehicle)[Alarms]
    assert (alarms.flags, alarms.level_max) == (int(flags), level)


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
        ({"temperatures_c": (210.4, 20.0)}, (Extremes, "temperature_max_c"), 210),
        ({"temperatures_c": (211.0, 20.0)}, (Extremes, "temperature_max_c"), Sentinel.ABNORMAL),
        ({"temperatures_c": (-41.0, 20.0)}, (Extremes, "temperature_min_c"), Sentinel.ABNORMAL),
    ],
)
def test_values_beyond_the_text_s_ranges_still_make_a_report(vehicle, changes, where, expected):
    """A thermal runaway or a broken shunt is exactly when the platform must hear from the unit."""
    pack = replace(PACK, **changes)
    kind, name = where
    assert getattr(bodies_of(pack, vehicle)[kind], name) == expected
    through_the_wire(pack, vehicle)


def test_a_cell_whose_number_does_not_fit_a_byte_is_abnormal_there(vehicle):
    pack = replace(PACK, temperatures_c=(20.0,) * 255 + (30.0,))
    assert bodies_of(pack, vehicle)[Extremes].temperature_max_probe is Sentinel.ABNORMAL
    assert bodies_of(pack, vehicle)[Extremes].temperature_max_c == 30


def test_a_pack_too_large_for_a_frame_is_refused_and_not_cut(vehicle):
    bodies_of(replace(PACK, cell_voltages_v=(3.7,) * 200), vehicle)
    with pytest.raises(ConfigurationError, match="expected at most 200 cells, got 201"):
        bodies_of(replace(PACK, cell_voltages_v=(3.7,) * 201), vehicle)


def test_a_driving_vehicle(vehicle):
    vehicle.is_driving = True
    bodies = bodies_of(PACK, vehicle)
    assert bodies[VehicleData].speed_kmh == vehicle.speed_kmh > 0
    assert bodies[DriveMotors].motors[0].state is MotorState.CONSUMING
    assert bodies[DriveMotors].motors[0].controller_current_a == round(vehicle.power_w / sum(VOLTAGES), 1)
    position = bodies[Position]
    assert (position.longitude_deg, position.latitude_deg) == (104.0668, 30.5728)


def test_a_parked_a_charging_and_a_switched_off_vehicle(vehicle):
    assert bodies_of(PACK, vehicle)[DriveMotors].motors[0].state is MotorState.READY
    vehicle.is_charging = True
    assert bodies_of(PACK, vehicle)[VehicleData].charging_state is ChargingState.PARKED_CHARGING
    vehicle.ignition_on = False
    assert bodies_of(PACK, vehicle)[VehicleData].vehicle_state is VehicleState.OFF
    assert bodies_of(PACK, vehicle)[DriveMotors].motors[0].state is MotorState.OFF
