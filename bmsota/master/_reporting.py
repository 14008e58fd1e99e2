"""What a master puts into a report: the GB/T 32960.3 bodies, 2016 or 2025, from what it has measured and what the vehicle says.

Cells and probes that the master has not heard of lately are "invalid" (the standard's word), never an old number and
never zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    ChargingState,
    CoordinateSystem,
    DriveMotor,
    DriveMotor2025,
    DriveMotors,
    DriveMotors2025,
    Edition,
    Extremes,
    FaultChanges,
    PackTemperatures,
    PackVoltages,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    RunMode,
    Sentinel,
    SubsystemTemperatures,
    SubsystemVoltages,
    VehicleData,
    VehicleData2025,
    VehicleState,
)
from bmsota.master._alarms import AlarmLimits, alarms_body, alarms_of_moment
from bmsota.master._internal_bus import CELLS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bmsota.gbt32960 import AlarmFlag, Body, FaultChange
    from bmsota.master._readings import MasterReadings, MotorReadings, PackValues
    from bmsota.master._slave_faults import SlaveFault


# One byte names the cell of an extreme (table 16).
EXTREME_NUMBER_MAX = 250

SUBSYSTEM = 1
# The ranges of the text (tables 9, 11, 16, B.6 and B.8 of 2016).
SPEED_RANGE_KMH = (0.0, 220.0)
CURRENT_RANGE_A = (-1000.0, 1000.0)
PACK_VOLTAGE_RANGE_V = (0.0, 1000.0)
TEMPERATURE_RANGE_C = (-40.0, 210.0)
ODOMETER_RANGE_KM = (0.0, 999_999.9)
INSULATION_RANGE_KOHM = (0.0, 60_000.0)
PERCENT_RANGE = (0.0, 100.0)


_USUAL_LIMITS = AlarmLimits()


def report_bodies(
    pack: PackValues,
    readings: MasterReadings,
    *,
    alarm_limits: AlarmLimits = _USUAL_LIMITS,
    alarms: Mapping[AlarmFlag, int] | None = None,
    faults: Iterable[tuple[int, SlaveFault]] = (),
    fault_changes: Iterable[FaultChange] = (),
    edition: Edition = Edition.GBT2016,
) -> tuple[Body, ...]:
    """Every body of *edition* that a BMS fills, in the order of their types. A value beyond its field's range is "abnormal".

    The ranges are those of 2016 in both editions. 2025 has no body of extremes and no pedals. *alarms* are present, with their
    levels; None: those that this moment's values make by *alarm_limits*. Without motors there is no drive motor body, without a position no position body. *faults* are present: the alarm body has
    their codes. *fault_changes* have come or gone since the last report; without any there is no body for them.

    Raises:
        ConfigurationError: the pack has more cells than a report carries.
    """
    if len(pack.cell_voltages_v) > CELLS_MAX:
        raise ConfigurationError(f"report: expected at most {CELLS_MAX} cells, got {len(pack.cell_voltages_v)}")
    voltage = pack.voltage_v
    bodies: list[Body] = [_vehicle_data(voltage, readings)]
    if readings.motors:
        bodies.append(DriveMotors(tuple(_motor(voltage, motor) for motor in readings.motors)))
    if readings.position is not None:
        longitude, latitude = readings.position
        bodies.append(Position(True, round(longitude, 6), round(latitude, 6)))
    degrees = tuple(_degrees(value) for value in pack.temperatures_c)
    bodies += [
        _extremes(pack),
        alarms_body(alarms_of_moment(pack, readings, alarm_limits) if alarms is None else alarms, faults, edition),
        _cell_voltages(pack, voltage, readings.current_a),
        ProbeTemperatures((SubsystemTemperatures(SUBSYSTEM, degrees),)),
    ]
    if edition is Edition.GBT2025:
        bodies = [newer for body in bodies if (newer := _in_2025(body)) is not None]
    if changes := tuple(fault_changes):
        bodies.append(FaultChanges(changes))
    return tuple(bodies)


def _in_2025(body: Body) -> Body | None:
    """A body of a 2016 report as 2025 has it; None if it has none."""
    match body:
        case VehicleData():
            return VehicleData2025(
                vehicle_state=body.vehicle_state,
                charging_state=body.charging_state,
                run_mode=body.run_mode,
                speed_kmh=body.speed_kmh,
                odometer_km=body.odometer_km,
                total_voltage_v=body.total_voltage_v,
                total_current_a=body.total_current_a,
                soc_pct=body.soc_pct,
                dcdc_state=body.dcdc_state,
                gear=body.gear,
                insulation_kohm=body.insulation_kohm,
            )
        case DriveMotors(motors=tuple(motors)):
            return DriveMotors2025(
                tuple(
                    DriveMotor2025(
                        number=motor.number,
                        state=motor.state,
                        controller_temperature_c=motor.controller_temperature_c,
                        speed_rpm=motor.speed_rpm,
                        torque_nm=motor.torque_nm,
                        motor_temperature_c=motor.motor_temperature_c,
                    )
                    for motor in motors
                )
            )
        case Position():
            return Position2025(body.valid, CoordinateSystem.WGS84, body.longitude_deg, body.latitude_deg)
        case Alarms2025():
            return body
        case CellVoltages(subsystems=tuple(subsystems)):
            return CellVoltages2025(
                tuple(
                    PackVoltages(
                        number=each.number,
                        voltage_v=each.voltage_v,
                        current_a=each.current_a,
                        cell_voltages_v=each.cell_voltages_v,
                    )
                    for each in subsystems
                )
            )
        case ProbeTemperatures(subsystems=tuple(subsystems)):
            return ProbeTemperatures2025(
                tuple(PackTemperatures(number=each.number, temperatures_c=each.temperatures_c) for each in subsystems)
            )
        case _:
            return None


def _within(valid: tuple[float, float], value: float | None, decimals: int = 1) -> float | Sentinel:
    """*value* as a report carries it: rounded, or the sentinel that says why it is not there."""
    if value is None:
        return Sentinel.INVALID
    rounded = round(value, decimals)
    return rounded if valid[0] <= rounded <= valid[1] else Sentinel.ABNORMAL


def _whole(valid: tuple[float, float], value: float | None) -> int | Sentinel:
    whole = _within(valid, value, 0)
    return whole if isinstance(whole, Sentinel) else int(whole)


def _degrees(value: float | None) -> int | Sentinel:
    return _whole(TEMPERATURE_RANGE_C, value)


def _charging_state(readings: MasterReadings) -> ChargingState:
    if readings.is_charging:
        return ChargingState.PARKED_CHARGING
    return ChargingState.COMPLETE if readings.is_charge_complete else ChargingState.NOT_CHARGING


def _vehicle_data(voltage: float | None, readings: MasterReadings) -> VehicleData:
    is_ready = readings.ignition_on if readings.is_ready is None else readings.is_ready
    return VehicleData(
        vehicle_state=VehicleState.STARTED if is_ready else VehicleState.OFF,
        charging_state=_charging_state(readings),
        run_mode=RunMode.ELECTRIC,
        speed_kmh=_within(SPEED_RANGE_KMH, readings.speed_kmh),
        odometer_km=_within(ODOMETER_RANGE_KM, readings.odometer_km),
        total_voltage_v=_within(PACK_VOLTAGE_RANGE_V, voltage),
        total_current_a=_within(CURRENT_RANGE_A, readings.current_a),
        # A cell beyond full or empty is still full or empty.
        soc_pct=Sentinel.ABNORMAL if math.isnan(readings.soc_pct) else min(100, max(0, round(readings.soc_pct))),
        dcdc_state=readings.dcdc_state,
        gear=readings.gear,
        insulation_kohm=_whole(INSULATION_RANGE_KOHM, readings.insulation_kohm),
        accelerator_pct=_whole(PERCENT_RANGE, readings.accelerator_pct),
        brake_pct=_whole(PERCENT_RANGE, readings.brake_pct),
    )


def _motor(voltage: float | None, motor: MotorReadings) -> DriveMotor:
    # Without the pack's voltage nothing is known of the current, unless none flows.
    current = 0.0 if not motor.power_w else motor.power_w / voltage if voltage else None
    return DriveMotor(
        number=motor.number,
        state=motor.state,
        controller_temperature_c=_degrees(motor.controller_temperature_c),
        speed_rpm=motor.speed_rpm,
        torque_nm=motor.torque_nm,
        motor_temperature_c=_degrees(motor.motor_temperature_c),
        controller_voltage_v=_within(PACK_VOLTAGE_RANGE_V, voltage),
        controller_current_a=_within(CURRENT_RANGE_A, current),
    )


def _extremes(pack: PackValues) -> Extremes:
    cells = [(value, number) for number, value in enumerate(pack.cell_voltages_v, start=1) if value is not None]
    probes = [(value, number) for number, value in enumerate(pack.temperatures_c, start=1) if value is not None]
    invalid = Sentinel.INVALID
    # The first of several equal extremes is named, in both directions.
    highest = max(cells, key=lambda item: (item[0], -item[1]), default=None)
    lowest = min(cells, default=None)
    hottest = max(probes, key=lambda item: (item[0], -item[1]), default=None)
    coldest = min(probes, default=None)

    def number(item: tuple[float, int] | None) -> int | Sentinel:
        return invalid if item is None else item[1] if item[1] <= EXTREME_NUMBER_MAX else Sentinel.ABNORMAL

    return Extremes(
        cell_voltage_max_subsystem=SUBSYSTEM if highest else invalid,
        cell_voltage_max_cell=number(highest),
        cell_voltage_max_v=round(highest[0], 3) if highest else invalid,
        cell_voltage_min_subsystem=SUBSYSTEM if lowest else invalid,
        cell_voltage_min_cell=number(lowest),
        cell_voltage_min_v=round(lowest[0], 3) if lowest else invalid,
        temperature_max_subsystem=SUBSYSTEM if hottest else invalid,
        temperature_max_probe=number(hottest),
        temperature_max_c=_degrees(hottest[0] if hottest else None),
        temperature_min_subsystem=SUBSYSTEM if coldest else invalid,
        temperature_min_probe=number(coldest),
        temperature_min_c=_degrees(coldest[0] if coldest else None),
    )


def _cell_voltages(pack: PackValues, voltage: float | None, current_a: float) -> CellVoltages:
    values = tuple(Sentinel.INVALID if value is None else round(value, 3) for value in pack.cell_voltages_v)
    return CellVoltages(
        (
            SubsystemVoltages(
                number=SUBSYSTEM,
                voltage_v=_within(PACK_VOLTAGE_RANGE_V, voltage),
                current_a=_within(CURRENT_RANGE_A, current_a),
                cell_count=len(values),
                first_cell=1,
                cell_voltages_v=values,
            ),
        )
    )
