"""What a master puts into a report: the GB/T 32960.3-2016 bodies from what it has measured and been told.

Cells and probes that the master has not heard of lately are "invalid" (the standard's word), never an old number and
never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    AlarmFlag,
    Alarms,
    CellVoltages,
    ChargingState,
    DcdcState,
    DriveMotor,
    DriveMotors,
    Extremes,
    Gear,
    GearPosition,
    MotorState,
    Position,
    ProbeTemperatures,
    RunMode,
    Sentinel,
    SubsystemTemperatures,
    SubsystemVoltages,
    VehicleData,
    VehicleState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.gbt32960 import Body
    from bmsota_sim.devices.vehicle import VirtualVehicle

__all__ = ["PackValues", "report_bodies"]

# A frame carries at most 200 cells of a subsystem (table B.6). A larger pack would need several reports a period; no
# profile has one yet, and none may lose cells silently.
CELLS_PER_FRAME_MAX = 200
# One byte names the cell of an extreme (table 16).
EXTREME_NUMBER_MAX = 250

CELL_VOLTAGE_MAX_V = 4.25
CELL_VOLTAGE_MIN_V = 2.5
TEMPERATURE_MAX_C = 55
INSULATION_KOHM = 5000
SUBSYSTEM = 1
# The ranges of the text (tables 9, 11, 16, B.6 and B.8 of 2016).
CURRENT_RANGE_A = (-1000.0, 1000.0)
PACK_VOLTAGE_RANGE_V = (0.0, 1000.0)
TEMPERATURE_RANGE_C = (-40.0, 210.0)
ODOMETER_RANGE_KM = (0.0, 999_999.9)


@dataclass(frozen=True, slots=True)
class PackValues:
    """What the master knows of its pack; None where no slave has said anything lately."""

    cell_voltages_v: Sequence[float | None]
    temperatures_c: Sequence[float | None]
    current_a: float
    """> 0: discharging."""
    soc_pct: float

    @property
    def voltage_v(self) -> float | None:
        """The sum of the cells; None unless every one is known."""
        known = [value for value in self.cell_voltages_v if value is not None]
        return sum(known) if known and len(known) == len(self.cell_voltages_v) else None


def report_bodies(pack: PackValues, vehicle: VirtualVehicle, *, has_positioning: bool) -> tuple[Body, ...]:
    """Every 2016 body a BMS fills, in the order of their types. A value beyond its field's range is "abnormal".

    Raises:
        ConfigurationError: the pack has more cells than a frame carries.
    """
    if len(pack.cell_voltages_v) > CELLS_PER_FRAME_MAX:
        raise ConfigurationError(
            f"report: expected at most {CELLS_PER_FRAME_MAX} cells, got {len(pack.cell_voltages_v)}"
        )
    voltage = pack.voltage_v
    bodies: list[Body] = [
        _vehicle_data(pack, voltage, vehicle),
        DriveMotors((_motor(voltage, vehicle),)),
    ]
    if has_positioning:
        bodies.append(Position(True, round(vehicle.longitude_deg, 6), round(vehicle.latitude_deg, 6)))
    bodies += [
        _extremes(pack),
        _alarms(pack),
        _cell_voltages(pack, voltage),
        ProbeTemperatures(
            (
                SubsystemTemperatures(
                    SUBSYSTEM,
                    tuple(_degrees(value) for value in pack.temperatures_c),
                ),
            )
        ),
    ]
    return tuple(bodies)


def _within(valid: tuple[float, float], value: float | None, decimals: int = 1) -> float | Sentinel:
    """*value* as a report carries it: rounded, or the sentinel that says why it is not there."""
    if value is None:
        return Sentinel.INVALID
    rounded = round(value, decimals)
    return rounded if valid[0] <= rounded <= valid[1] else Sentinel.ABNORMAL


def _degrees(value: float | None) -> int | Sentinel:
    whole = _within(TEMPERATURE_RANGE_C, value, 0)
    return whole if isinstance(whole, Sentinel) else int(whole)


def _vehicle_data(pack: PackValues, voltage: float | None, vehicle: VirtualVehicle) -> VehicleData:
    driving = vehicle.speed_kmh > 0
    return VehicleData(
        vehicle_state=VehicleState.STARTED if vehicle.ignition_on else VehicleState.OFF,
        charging_state=ChargingState.PARKED_CHARGING if vehicle.is_charging else ChargingState.NOT_CHARGING,
        run_mode=RunMode.ELECTRIC,
        speed_kmh=round(vehicle.speed_kmh, 1),
        odometer_km=_within(ODOMETER_RANGE_KM, vehicle.odometer_km),
        total_voltage_v=_within(PACK_VOLTAGE_RANGE_V, voltage),
        total_current_a=_within(CURRENT_RANGE_A, pack.current_a),
        # A cell beyond full or empty is still full or empty.
        soc_pct=min(100, max(0, round(pack.soc_pct))),
        dcdc_state=DcdcState.WORKING if vehicle.ignition_on else DcdcState.OPEN,
        gear=Gear.of(GearPosition.DRIVE if driving else GearPosition.PARK, is_driving=driving),
        insulation_kohm=INSULATION_KOHM,
        accelerator_pct=20 if driving else 0,
        brake_pct=0,
    )


def _motor(voltage: float | None, vehicle: VirtualVehicle) -> DriveMotor:
    driving = vehicle.speed_kmh > 0
    current = vehicle.power_w / voltage if voltage and driving else 0.0
    return DriveMotor(
        number=1,
        state=MotorState.CONSUMING if driving else MotorState.READY if vehicle.ignition_on else MotorState.OFF,
        controller_temperature_c=41 if driving else 30,
        speed_rpm=round(vehicle.speed_kmh * 90),
        torque_nm=15.0 if driving else 0.0,
        motor_temperature_c=48 if driving else 31,
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


def _alarms(pack: PackValues) -> Alarms:
    cells = [value for value in pack.cell_voltages_v if value is not None]
    probes = [value for value in pack.temperatures_c if value is not None]
    flags = AlarmFlag(0)
    level = 0
    if cells and max(cells) > CELL_VOLTAGE_MAX_V:
        flags |= AlarmFlag.CELL_OVER_VOLTAGE
        level = 3
    if cells and min(cells) < CELL_VOLTAGE_MIN_V:
        flags |= AlarmFlag.CELL_UNDER_VOLTAGE
        level = max(level, 2)
    if probes and max(probes) > TEMPERATURE_MAX_C:
        flags |= AlarmFlag.BATTERY_TEMPERATURE_HIGH
        level = 3
    return Alarms(level_max=level, flags=int(flags))


def _cell_voltages(pack: PackValues, voltage: float | None) -> CellVoltages:
    values = tuple(Sentinel.INVALID if value is None else round(value, 3) for value in pack.cell_voltages_v)
    return CellVoltages(
        (
            SubsystemVoltages(
                number=SUBSYSTEM,
                voltage_v=_within(PACK_VOLTAGE_RANGE_V, voltage),
                current_a=_within(CURRENT_RANGE_A, pack.current_a),
                cell_count=len(values),
                first_cell=1,
                cell_voltages_v=values,
            ),
        )
    )
