"""The information bodies of a report, in engineering units (2016 tables 9 to 18 and B.4 to B.8; 2025 chapter 7).

Values only: which byte stands where is in `_tables`. Where the terminal says "abnormal" or "invalid", a `Sentinel`
stands in place of the number. A code that has a name is the member of its enumeration; any other code is a plain
integer. Values outside the text's range are kept as they came; nothing is clamped.

The 2025 edition gives other bodies, partly under the same numbers. Its classes have the year in their name where 2016 has a
body of the same meaning; a report of one edition holds bodies of that edition only.
"""

from __future__ import annotations

from dataclasses import dataclass

from bmsota.gbt32960._enums import (
    AlarmFlag,
    ChargingState,
    CoordinateSystem,
    DcdcState,
    EngineState,
    MotorState,
    RunMode,
    Sentinel,
    SignatureAlgorithm,
    VehicleState,
)
from bmsota.gbt32960._extension import BmsConfiguration, CanSignals, FaultChanges
from bmsota.gbt32960._value import Value

_FLAGS_2016 = tuple(flag for flag in AlarmFlag if flag <= AlarmFlag.STORAGE_OVER_CHARGE)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VehicleData(Value):
    """0x01 vehicle (table B.4)."""

    vehicle_state: VehicleState | int | Sentinel
    charging_state: ChargingState | int | Sentinel
    run_mode: RunMode | int | Sentinel
    speed_kmh: float | Sentinel
    odometer_km: float | Sentinel
    total_voltage_v: float | Sentinel
    total_current_a: float | Sentinel
    """The text fixes no sign; throughout this project > 0 is discharging."""
    soc_pct: int | Sentinel
    dcdc_state: DcdcState | int | Sentinel
    gear: int
    """The whole gear byte. Decoding gives a `Gear`; a `GearPosition` or `Gear.of(...)` may be passed in."""
    insulation_kohm: int | Sentinel
    accelerator_pct: int | Sentinel
    brake_pct: int | Sentinel
    """0 is off; `BRAKE_PRESSED` (101) is pressed, travel unknown."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DriveMotor(Value):
    """One motor of `DriveMotors` (table 11)."""

    number: int
    state: MotorState | int | Sentinel
    controller_temperature_c: int | Sentinel
    speed_rpm: int | Sentinel
    torque_nm: float | Sentinel
    motor_temperature_c: int | Sentinel
    controller_voltage_v: float | Sentinel
    controller_current_a: float | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DriveMotors(Value):
    """0x02 drive motors (table 10)."""

    motors: tuple[DriveMotor, ...] | Sentinel
    """A `Sentinel` where the count byte itself says abnormal or invalid; then no items follow on the wire."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FuelCell(Value):
    """0x03 fuel cell (table 12)."""

    voltage_v: float | Sentinel
    current_a: float | Sentinel
    consumption_kg_per_100km: float | Sentinel
    probe_temperatures_c: tuple[int | Sentinel, ...] | Sentinel
    hydrogen_temperature_c_max: float | Sentinel
    hydrogen_temperature_probe: int | Sentinel
    hydrogen_concentration_mg_per_kg_max: int | Sentinel
    hydrogen_concentration_sensor: int | Sentinel
    hydrogen_pressure_mpa_max: float | Sentinel
    hydrogen_pressure_sensor: int | Sentinel
    dcdc_state: DcdcState | int | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Engine(Value):
    """0x04 engine (table 13)."""

    state: EngineState | int | Sentinel
    crankshaft_speed_rpm: int | Sentinel
    fuel_rate_l_per_100km: float | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Position(Value):
    """0x05 position (tables 14 and 15). When the fix is lost, the last valid position is repeated with valid=False."""

    valid: bool
    """On the wire bit 0 says the opposite: 1 is invalid."""
    longitude_deg: float | Sentinel
    """> 0: east."""
    latitude_deg: float | Sentinel
    """> 0: north."""
    reserved_bits: int = 0
    """Bits of the status byte that the fields above do not say: the reserved bits 3 to 7, and the hemisphere bits
    (1 south, 2 west) of a coordinate that is a `Sentinel` and so has no sign of its own."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Extremes(Value):
    """0x06 extremes (table 16)."""

    cell_voltage_max_subsystem: int | Sentinel
    cell_voltage_max_cell: int | Sentinel
    cell_voltage_max_v: float | Sentinel
    cell_voltage_min_subsystem: int | Sentinel
    cell_voltage_min_cell: int | Sentinel
    cell_voltage_min_v: float | Sentinel
    temperature_max_subsystem: int | Sentinel
    temperature_max_probe: int | Sentinel
    temperature_max_c: int | Sentinel
    temperature_min_subsystem: int | Sentinel
    temperature_min_probe: int | Sentinel
    temperature_min_c: int | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Alarms(Value):
    """0x07 alarms (tables 17 and 18)."""

    level_max: int | Sentinel
    """0 none, 1, 2 (limit driving), 3 (stop at once)."""
    flags: int = 0
    """All 32 bits as sent; name them with `AlarmFlag`, list the known ones with `active`."""
    ress_faults: tuple[int, ...] | Sentinel = ()
    """Maker-defined codes of the energy storage. A `Sentinel` where the count itself says abnormal or invalid."""
    motor_faults: tuple[int, ...] | Sentinel = ()
    engine_faults: tuple[int, ...] | Sentinel = ()
    other_faults: tuple[int, ...] | Sentinel = ()

    @property
    def active(self) -> tuple[AlarmFlag, ...]:
        """The alarms that are set and have a name in 2016, lowest bit first. It reserves bits 19 to 31."""
        return tuple(flag for flag in _FLAGS_2016 if flag & self.flags)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SubsystemVoltages(Value):
    """One energy-storage subsystem of `CellVoltages` (table B.6)."""

    number: int
    voltage_v: float | Sentinel
    current_a: float | Sentinel
    """> 0: discharging, as `VehicleData.total_current_a`."""
    cell_count: int | Sentinel
    """Cells in the whole subsystem; more than 200 are split over several frames."""
    first_cell: int
    """Number of the first cell in this frame, counted from 1."""
    cell_voltages_v: tuple[float | Sentinel, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CellVoltages(Value):
    """0x08 energy-storage voltages (table B.5)."""

    subsystems: tuple[SubsystemVoltages, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SubsystemTemperatures(Value):
    """One energy-storage subsystem of `ProbeTemperatures` (table B.8)."""

    number: int
    temperatures_c: tuple[int | Sentinel, ...] | Sentinel
    """A `Sentinel` where the probe count itself says abnormal or invalid."""

    @property
    def probe_count(self) -> int | Sentinel:
        """How many probes the subsystem has; in this body every probe is present."""
        return self.temperatures_c if isinstance(self.temperatures_c, Sentinel) else len(self.temperatures_c)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ProbeTemperatures(Value):
    """0x09 energy-storage temperatures (table B.7)."""

    subsystems: tuple[SubsystemTemperatures, ...] | Sentinel


# --- 2025 -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VehicleData2025(Value):
    """0x01 vehicle, 2025: without the pedals, with a wider current."""

    vehicle_state: VehicleState | int | Sentinel
    charging_state: ChargingState | int | Sentinel
    run_mode: RunMode | int | Sentinel
    speed_kmh: float | Sentinel
    odometer_km: float | Sentinel
    total_voltage_v: float | Sentinel
    total_current_a: float | Sentinel
    """The text fixes no sign; throughout this project > 0 is discharging."""
    soc_pct: int | Sentinel
    dcdc_state: DcdcState | int | Sentinel
    gear: int
    """The whole gear byte, as in 2016; `Gear.is_invalid` has a meaning here."""
    insulation_kohm: int | Sentinel
    """The lower of plus and minus to ground."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DriveMotor2025(Value):
    """One motor of `DriveMotors2025`: no voltage, no current, a wider torque."""

    number: int
    state: MotorState | int | Sentinel
    controller_temperature_c: int | Sentinel
    speed_rpm: int | Sentinel
    torque_nm: float | Sentinel
    motor_temperature_c: int | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DriveMotors2025(Value):
    """0x02 drive motors, 2025."""

    motors: tuple[DriveMotor2025, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FuelCell2025(Value):
    """0x03 fuel-cell engine and hydrogen system, 2025. The stacks have a body of their own, `FuelCellStacks`."""

    hydrogen_temperature_c_max: int | Sentinel
    hydrogen_temperature_probe: int | Sentinel
    hydrogen_concentration_pct_max: float | Sentinel
    """By volume."""
    hydrogen_concentration_sensor: int | Sentinel
    hydrogen_pressure_mpa_max: float | Sentinel
    hydrogen_pressure_sensor: int | Sentinel
    dcdc_state: DcdcState | int | Sentinel
    hydrogen_remaining_pct: int | Sentinel
    dcdc_temperature_c: int | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Engine2025(Value):
    """0x04 engine, 2025."""

    crankshaft_speed_rpm: int | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Position2025(Value):
    """0x05 position, 2025: says in which coordinate system."""

    valid: bool
    """On the wire bit 0 says the opposite: 1 is invalid."""
    coordinate_system: CoordinateSystem | int | Sentinel
    longitude_deg: float | Sentinel
    """> 0: east."""
    latitude_deg: float | Sentinel
    """> 0: north."""
    reserved_bits: int = 0
    """As in `Position`."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AlarmLevel(Value):
    """The level of one general alarm, in `Alarms2025`."""

    bit: int
    """The number of the flag: 0 to 27."""
    level: int | Sentinel
    """1 to 4; a thermal event is always 4."""

    @property
    def flag(self) -> AlarmFlag | None:
        """The alarm by its name; None for a number that has none."""
        flags = [flag for flag in AlarmFlag if flag.bit_length() - 1 == self.bit]
        return flags[0] if flags else None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Alarms2025(Value):
    """0x06 alarms, 2025: with a level for each general alarm."""

    level_max: int | Sentinel
    """0 none, 1, 2 (limit driving), 3 (stop at once), 4 (thermal event)."""
    flags: int = 0
    ress_faults: tuple[int, ...] | Sentinel = ()
    motor_faults: tuple[int, ...] | Sentinel = ()
    engine_faults: tuple[int, ...] | Sentinel = ()
    other_faults: tuple[int, ...] | Sentinel = ()
    general_levels: tuple[AlarmLevel, ...] | Sentinel = ()

    @property
    def active(self) -> tuple[AlarmFlag, ...]:
        """The alarms that are set and have a name, lowest bit first."""
        return tuple(flag for flag in AlarmFlag if flag & self.flags)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PackVoltages(Value):
    """One battery pack of `CellVoltages2025`. It comes whole; 2025 splits nothing over frames."""

    number: int
    voltage_v: float | Sentinel
    current_a: float | Sentinel
    """> 0: discharging, as `VehicleData2025.total_current_a`."""
    cell_voltages_v: tuple[float | Sentinel, ...] | Sentinel
    """Of the smallest parallel units. A `Sentinel` where the count itself says abnormal or invalid."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CellVoltages2025(Value):
    """0x07 voltages of the smallest parallel units, 2025."""

    packs: tuple[PackVoltages, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PackTemperatures(Value):
    """One battery pack of `ProbeTemperatures2025`."""

    number: int
    temperatures_c: tuple[int | Sentinel, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ProbeTemperatures2025(Value):
    """0x08 temperatures of the battery packs, 2025."""

    packs: tuple[PackTemperatures, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FuelCellStack(Value):
    """One stack of `FuelCellStacks`."""

    number: int
    voltage_v: float | Sentinel
    current_a: float | Sentinel
    hydrogen_inlet_pressure_kpa: float | Sentinel
    air_inlet_pressure_kpa: float | Sentinel
    air_inlet_temperature_c: int | Sentinel
    coolant_outlet_temperatures_c: tuple[int | Sentinel, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FuelCellStacks(Value):
    """0x30 fuel-cell stacks, 2025."""

    stacks: tuple[FuelCellStack, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Supercapacitor(Value):
    """0x31 supercapacitor, 2025."""

    number: int
    voltage_v: float | Sentinel
    current_a: float | Sentinel
    cell_voltages_v: tuple[float | Sentinel, ...] | Sentinel
    temperatures_c: tuple[int | Sentinel, ...] | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SupercapacitorExtremes(Value):
    """0x32 extremes of the supercapacitor, 2025. Cells and probes are counted in two bytes here."""

    cell_voltage_max_subsystem: int | Sentinel
    cell_voltage_max_cell: int | Sentinel
    cell_voltage_max_v: float | Sentinel
    cell_voltage_min_subsystem: int | Sentinel
    cell_voltage_min_cell: int | Sentinel
    cell_voltage_min_v: float | Sentinel
    temperature_max_subsystem: int | Sentinel
    temperature_max_probe: int | Sentinel
    temperature_max_c: int | Sentinel
    temperature_min_subsystem: int | Sentinel
    temperature_min_probe: int | Sentinel
    temperature_min_c: int | Sentinel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Signature(Value):
    """0xFF signature of a report, 2025: the last body. Made and checked by `sign_report` and `verify_report`."""

    algorithm: SignatureAlgorithm | int
    r: bytes
    """The R of SM2 and ECC; the whole signature of RSA."""
    s: bytes = b""
    """The S of SM2 and ECC; empty with RSA."""


# --- both editions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UserDefined(Value):
    """0x80 to 0xFE: a maker's own body, with its length in front (table 7)."""

    type_id: int
    data: bytes


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnsizedBody(Value):
    """A maker's own body without a length on the wire, kept as bytes. Its size is known from `Layouts` only."""

    type_id: int
    data: bytes


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RawBody(Value):
    """A body this edition gives no layout for, together with everything behind it: its length is unknown.

    Only ever the last body of a report.
    """

    type_id: int
    data: bytes


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InvalidTail(Value):
    """The end of a report from the first body that is not valid, as `decode(data, strict=False)` keeps it. Always the last body."""

    data: bytes
    """From the type of that body to the end of the data unit. `encode` writes it as it is."""
    reason: str
    """What is wrong with it, where, as `decode` would say. Not on the wire."""


Body = (
    VehicleData
    | DriveMotors
    | FuelCell
    | Engine
    | Position
    | Extremes
    | Alarms
    | CellVoltages
    | ProbeTemperatures
    | VehicleData2025
    | DriveMotors2025
    | FuelCell2025
    | Engine2025
    | Position2025
    | Alarms2025
    | CellVoltages2025
    | ProbeTemperatures2025
    | FuelCellStacks
    | Supercapacitor
    | SupercapacitorExtremes
    | Signature
    | CanSignals
    | BmsConfiguration
    | FaultChanges
    | UserDefined
    | UnsizedBody
    | RawBody
    | InvalidTail
)
"""Any body of a report."""
