"""What a master puts into a report: the GB/T 32960.3 bodies, 2016 or 2025, from what it has measured and what the vehicle says.

Cells and probes that the master has not heard of lately are "invalid" (the standard's word), never an old number and
never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    AlarmFlag,
    AlarmLevel,
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    ChargingState,
    CoordinateSystem,
    DcdcState,
    DriveMotor,
    DriveMotor2025,
    DriveMotors,
    DriveMotors2025,
    Edition,
    Extremes,
    FaultChanges,
    Gear,
    GearPosition,
    MotorState,
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
from bmsota.master._internal_bus import CELLS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.gbt32960 import Body, FaultChange
    from bmsota.master._slave_faults import SlaveFault


# One byte names the cell of an extreme (table 16).
EXTREME_NUMBER_MAX = 250

BUS_STEPS_PER_V = 10_000
"""Of slaves without message protection; the others' step is ten times as large."""
SUBSYSTEM = 1
# The ranges of the text (tables 9, 11, 16, B.6 and B.8 of 2016).
SPEED_RANGE_KMH = (0.0, 220.0)
CURRENT_RANGE_A = (-1000.0, 1000.0)
PACK_VOLTAGE_RANGE_V = (0.0, 1000.0)
TEMPERATURE_RANGE_C = (-40.0, 210.0)
ODOMETER_RANGE_KM = (0.0, 999_999.9)
INSULATION_RANGE_KOHM = (0.0, 60_000.0)
PERCENT_RANGE = (0.0, 100.0)

ALARM_LEVELS = {
    AlarmFlag.BATTERY_TEMPERATURE_HIGH: 3,
    AlarmFlag.CELL_OVER_VOLTAGE: 3,
    AlarmFlag.CELL_UNDER_VOLTAGE: 2,
}
"""The general alarms that a master raises, by their bits, with the level of each (2025, table 0x06; 2016 tells the highest)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmLimits:
    """Beyond which a value is an alarm (2016, table 17), and at which level."""

    cell_voltage_max_v: float = 4.25
    """Above: level 3."""
    cell_voltage_min_v: float = 2.5
    """Below: level 2."""
    temperature_max_c: float = 55.0
    """Above: level 3."""


@dataclass(frozen=True, slots=True)
class PackValues:
    """What the master knows of its cells and probes; None where no slave has said anything lately."""

    cell_voltages_v: Sequence[float | None]
    temperatures_c: Sequence[float | None]

    @property
    def voltage_v(self) -> float | None:
        """The sum of the cells; None unless every one is known."""
        known = [value for value in self.cell_voltages_v if value is not None]
        if not known or len(known) != len(self.cell_voltages_v):
            return None
        # In the finest step of the bus, as integers: a sum of floats depends on the version of Python.
        return sum(round(value * BUS_STEPS_PER_V) for value in known) / BUS_STEPS_PER_V


@dataclass(frozen=True, slots=True, kw_only=True)
class MotorReadings:
    """What one motor controller says. It hangs on the pack: its voltage is the pack's."""

    number: int = 1
    state: MotorState
    power_w: float
    """Taken from the pack; > 0 discharges it."""
    speed_rpm: int
    torque_nm: float
    controller_temperature_c: int
    motor_temperature_c: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterReadings:
    """What the master measures itself, and what it hears on the vehicle's bus. None: not known."""

    ignition_on: bool
    speed_kmh: float
    is_charging: bool
    current_a: float
    """> 0: discharging."""
    soc_pct: float
    is_ready: bool | None = None
    """Whether the vehicle is started, as a report says it; None: as *ignition_on*. A parked vehicle's BMS may be awake and say that it is off."""
    is_charge_complete: bool = False
    contactors_closed: bool | None = None
    """The main contactors, to the drive and the charger."""
    supply_v: float | None = None
    """Of the 12 V supply."""
    fault_level: int = 0
    """The highest fault of the vehicle around the pack, 0 to 3; the pack's own alarms are the master's business."""
    odometer_km: float | None = None
    insulation_kohm: float | None = None
    position: tuple[float, float] | None = None
    """Longitude and latitude in degrees, east and north > 0; None: the vehicle has no positioning."""
    gear: Gear = Gear.of(GearPosition.PARK)  # noqa: RUF009 - an integer
    dcdc_state: DcdcState | Sentinel = Sentinel.INVALID
    accelerator_pct: int | None = None
    brake_pct: int | None = None
    motors: tuple[MotorReadings, ...] = ()


def report_bodies(
    pack: PackValues,
    readings: MasterReadings,
    *,
    alarm_limits: AlarmLimits = AlarmLimits(),
    faults: Iterable[tuple[int, SlaveFault]] = (),
    fault_changes: Iterable[FaultChange] = (),
    edition: Edition = Edition.GBT2016,
) -> tuple[Body, ...]:
    """Every body of *edition* that a BMS fills, in the order of their types. A value beyond its field's range is "abnormal".

    The ranges are those of 2016 in both editions. 2025 has no body of extremes and no pedals. Without motors there is no drive motor body, without a position no position body. *faults* are present: the alarm body has
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
        alarms_of(pack, alarm_limits, faults),
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
        case Alarms(flags=int(flags)):
            levels = tuple(
                AlarmLevel(bit=flag.bit_length() - 1, level=level)
                for flag, level in ALARM_LEVELS.items()
                if flags & flag
            )
            return Alarms2025(
                level_max=body.level_max, flags=flags, ress_faults=body.ress_faults, general_levels=levels
            )
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
        soc_pct=min(100, max(0, round(readings.soc_pct))),
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


def alarms_of(pack: PackValues, limits: AlarmLimits, faults: Iterable[tuple[int, SlaveFault]] = ()) -> Alarms:
    """Which cells and probes are beyond the limits, and which slaves' frames fail, as a report says it."""
    cells = [value for value in pack.cell_voltages_v if value is not None]
    probes = [value for value in pack.temperatures_c if value is not None]
    flags = AlarmFlag(0)
    if cells and max(cells) > limits.cell_voltage_max_v:
        flags |= AlarmFlag.CELL_OVER_VOLTAGE
    if cells and min(cells) < limits.cell_voltage_min_v:
        flags |= AlarmFlag.CELL_UNDER_VOLTAGE
    if probes and max(probes) > limits.temperature_max_c:
        flags |= AlarmFlag.BATTERY_TEMPERATURE_HIGH
    level = max((each for flag, each in ALARM_LEVELS.items() if flag in flags), default=0)
    codes = []
    for position, fault in faults:
        codes.append(fault.code(position))
        level = max(level, fault.level)
    return Alarms(level_max=level, flags=int(flags), ress_faults=tuple(codes))


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
