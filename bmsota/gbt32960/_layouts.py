"""Every layout as a table: which byte stands where, for both editions.

2016 tables 6, 9 to 22, B.4 to B.8, 2025 chapter 7 and annex B, and docs/protocol.md for the extension. The number of a type means other things in the
other edition (0x06 is extremes in 2016 and alarms in 2025), so every look-up goes through `BODY_LAYOUTS[edition]`.
"""

from __future__ import annotations

from math import copysign
from typing import TYPE_CHECKING, Any, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._bodies import (
    AlarmLevel,
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    DriveMotor,
    DriveMotor2025,
    DriveMotors,
    DriveMotors2025,
    Engine,
    Engine2025,
    Extremes,
    FuelCell,
    FuelCell2025,
    FuelCellStack,
    FuelCellStacks,
    PackTemperatures,
    PackVoltages,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    Signature,
    SubsystemTemperatures,
    SubsystemVoltages,
    Supercapacitor,
    SupercapacitorExtremes,
    VehicleData,
    VehicleData2025,
)
from bmsota.gbt32960._enums import (
    ActivationResult,
    ActivationStatus,
    ChargingState,
    CoordinateSystem,
    DcdcState,
    Edition,
    Encryption,
    EngineState,
    FaultState,
    Gear,
    LocalUpgradeOutcome,
    MotorState,
    NodeRole,
    NodeState,
    ParameterId,
    RunMode,
    Sentinel,
    SignatureAlgorithm,
    UpgradeStateCode,
    VehicleState,
)
from bmsota.gbt32960._extension import (
    BLOCK_SIZE_BYTES_MAX,
    EXTENSION_VERSION,
    BlockReply,
    BlockRequest,
    BmsConfiguration,
    CanMessage,
    CanSignals,
    ConfigurationItem,
    FaultChange,
    FaultChanges,
    LocalUpgrade,
    LocalUpgrades,
    NodeIdentity,
    SignedReport,
    UnitIdentity,
    UpgradeState,
)
from bmsota.gbt32960._fields import (
    CodeTable,
    Field,
    FixedBytes,
    Layout,
    PackTable,
    Repeat,
    Row,
    SizedBytes,
    SizedText,
    Text,
    Time,
)
from bmsota.gbt32960._make import maker
from bmsota.gbt32960._messages import (
    Activation,
    ActivationReply,
    KeyExchange,
    PlatformLogin,
    PlatformLogout,
    VehicleLogin,
    VehicleLogin2025,
    VehicleLogout,
)

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "ACTIVATION",
    "ACTIVATION_REPLY",
    "BLOCK_REQUEST_SIZE_BYTES",
    "BODY_LAYOUTS",
    "EXTENSION_BODY_LAYOUTS",
    "EXTENSION_LAYOUTS",
    "EXTENSION_REPLY_LAYOUTS",
    "KEY_EXCHANGE",
    "PARAMETER_ROWS",
    "PLATFORM_LOGIN",
    "PLATFORM_LOGIN_2025",
    "PLATFORM_LOGOUT",
    "SIGNATURE_2025",
    "VEHICLE_LOGIN_2016",
    "VEHICLE_LOGIN_2025",
    "VEHICLE_LOGOUT",
]


_CHAPTER_7: Final = "2025, chapter 7"
"""The transcription of 2025 that we have names few of its tables."""

# --- shorthand for what recurs ---------------------------------------------------------------------------------------


def _temperature(name: str, clause: str) -> Field:
    """BYTE, 1 degree, 40 is zero."""
    return Field(
        name=name, size_bytes=1, raw_min=0, raw_max=250, raw_offset=40, unit="°C", sentinels=True, clause=clause
    )


def _ordinal(name: str, raw_max: int, clause: str) -> Field:
    """BYTE, a number that counts from 1."""
    return Field(name=name, size_bytes=1, raw_min=1, raw_max=raw_max, sentinels=True, clause=clause)


def _volts(name: str, raw_max: int, clause: str) -> Field:
    """WORD, 0.1 V."""
    return Field(
        name=name, size_bytes=2, raw_min=0, raw_max=raw_max, divisor=10, unit="V", sentinels=True, clause=clause
    )


def _amperes(name: str, clause: str) -> Field:
    """WORD, 0.1 A, 10000 is zero. In 2016 that holds for the pack current of 0x08 too."""
    return Field(
        name=name,
        size_bytes=2,
        raw_min=0,
        raw_max=20000,
        divisor=10,
        raw_offset=10000,
        unit="A",
        sentinels=True,
        clause=clause,
    )


def _cell_volts(name: str, raw_max: int, clause: str) -> Field:
    """WORD, 1 mV."""
    return Field(
        name=name, size_bytes=2, raw_min=0, raw_max=raw_max, divisor=1000, unit="V", sentinels=True, clause=clause
    )


# --- bodies of 2016 --------------------------------------------------------------------------------------------------

VEHICLE_2016: Final = Layout(
    label="0x01 vehicle",
    cls=VehicleData,
    clause="table B.4",
    rows=(
        Field(name="vehicle_state", size_bytes=1, raw_min=1, raw_max=3, sentinels=True, values=VehicleState),
        Field(name="charging_state", size_bytes=1, raw_min=1, raw_max=4, sentinels=True, values=ChargingState),
        Field(name="run_mode", size_bytes=1, raw_min=1, raw_max=3, sentinels=True, values=RunMode),
        Field(name="speed_kmh", size_bytes=2, raw_min=0, raw_max=2200, divisor=10, unit="km/h", sentinels=True),
        Field(name="odometer_km", size_bytes=4, raw_min=0, raw_max=9999999, divisor=10, unit="km", sentinels=True),
        _volts("total_voltage_v", 10000, ""),
        _amperes("total_current_a", ""),
        Field(name="soc_pct", size_bytes=1, raw_min=0, raw_max=100, unit="%", sentinels=True),
        Field(name="dcdc_state", size_bytes=1, raw_min=1, raw_max=2, sentinels=True, values=DcdcState),
        Field(name="gear", size_bytes=1, raw_min=0, raw_max=0x3F, values=Gear, clause="table A.1"),
        # The text defines no sentinels for the insulation; terminals send them all the same, and 65535 kOhm is no value.
        Field(name="insulation_kohm", size_bytes=2, raw_min=0, raw_max=60000, unit="kΩ", sentinels=True),
        Field(name="accelerator_pct", size_bytes=1, raw_min=0, raw_max=100, unit="%", sentinels=True),
        Field(name="brake_pct", size_bytes=1, raw_min=0, raw_max=101, unit="%", sentinels=True),
    ),
)

DRIVE_MOTOR_2016: Final = Layout(
    label="drive motor",
    cls=DriveMotor,
    clause="table 11",
    rows=(
        Field(name="number", size_bytes=1, raw_min=1, raw_max=253),
        Field(name="state", size_bytes=1, raw_min=1, raw_max=4, sentinels=True, values=MotorState),
        _temperature("controller_temperature_c", ""),
        Field(
            name="speed_rpm",
            size_bytes=2,
            raw_min=0,
            raw_max=65531,
            raw_offset=20000,
            unit="r/min",
            sentinels=True,
        ),
        # The text's "offset 20000" is in raw steps: 2000 N m.
        Field(
            name="torque_nm",
            size_bytes=2,
            raw_min=0,
            raw_max=65531,
            divisor=10,
            raw_offset=20000,
            unit="N·m",
            sentinels=True,
        ),
        _temperature("motor_temperature_c", ""),
        _volts("controller_voltage_v", 60000, ""),
        _amperes("controller_current_a", ""),
    ),
)

DRIVE_MOTORS_2016: Final = Layout(
    label="0x02 drive motors",
    cls=DriveMotors,
    clause="table 10",
    rows=(
        Repeat(name="motors", item=DRIVE_MOTOR_2016, count_size_bytes=1, count_min=1, count_max=253, sentinels=True),
    ),
)

FUEL_CELL_2016: Final = Layout(
    label="0x03 fuel cell",
    cls=FuelCell,
    clause="table 12",
    rows=(
        _volts("voltage_v", 20000, ""),
        # No offset here: the only current of the standard that cannot be negative.
        Field(name="current_a", size_bytes=2, raw_min=0, raw_max=20000, divisor=10, unit="A", sentinels=True),
        Field(
            name="consumption_kg_per_100km",
            size_bytes=2,
            raw_min=0,
            raw_max=60000,
            divisor=100,
            unit="kg/100 km",
            sentinels=True,
        ),
        Repeat(
            name="probe_temperatures_c",
            item=Field(
                name="temperature_c", size_bytes=1, raw_min=0, raw_max=240, raw_offset=40, unit="°C", sentinels=True
            ),
            count_size_bytes=2,
            count_min=0,
            count_max=65531,
            sentinels=True,
        ),
        Field(
            name="hydrogen_temperature_c_max",
            size_bytes=2,
            raw_min=0,
            raw_max=2400,
            divisor=10,
            raw_offset=400,
            unit="°C",
            sentinels=True,
        ),
        _ordinal("hydrogen_temperature_probe", 252, ""),
        # The text says raw 0..60000 and means 0..50000 mg/kg; the raw number is reported as it is.
        Field(
            name="hydrogen_concentration_mg_per_kg_max",
            size_bytes=2,
            raw_min=0,
            raw_max=60000,
            unit="mg/kg",
            sentinels=True,
        ),
        _ordinal("hydrogen_concentration_sensor", 252, ""),
        Field(
            name="hydrogen_pressure_mpa_max",
            size_bytes=2,
            raw_min=0,
            raw_max=1000,
            divisor=10,
            unit="MPa",
            sentinels=True,
        ),
        _ordinal("hydrogen_pressure_sensor", 252, ""),
        Field(name="dcdc_state", size_bytes=1, raw_min=1, raw_max=2, sentinels=True, values=DcdcState),
    ),
)

ENGINE_2016: Final = Layout(
    label="0x04 engine",
    cls=Engine,
    clause="table 13",
    rows=(
        Field(name="state", size_bytes=1, raw_min=1, raw_max=2, sentinels=True, values=EngineState),
        Field(name="crankshaft_speed_rpm", size_bytes=2, raw_min=0, raw_max=60000, unit="r/min", sentinels=True),
        Field(
            name="fuel_rate_l_per_100km",
            size_bytes=2,
            raw_min=0,
            raw_max=60000,
            divisor=100,
            unit="L/100 km",
            sentinels=True,
        ),
    ),
)

_new_position: Final = maker(Position)
_INVALID_BIT: Final = 0x01
_SOUTH_BIT: Final = 0x02
_WEST_BIT: Final = 0x04


def _build_position(status: int, longitude: float | Sentinel, latitude: float | Sentinel) -> Position:
    """Put the hemisphere bits where they belong: into the signs."""
    rest = status & ~_INVALID_BIT
    if not isinstance(longitude, Sentinel):
        if status & _WEST_BIT:
            longitude = -longitude
        rest &= ~_WEST_BIT
    if not isinstance(latitude, Sentinel):
        if status & _SOUTH_BIT:
            latitude = -latitude
        rest &= ~_SOUTH_BIT
    position: Position = _new_position(not status & _INVALID_BIT, longitude, latitude, rest)
    return position


def _position_parts(position: Position | Position2025) -> tuple[int, float | Sentinel, float | Sentinel]:
    """Take the signs apart again. -0.0 is west or south too, so that any frame comes back as it was."""
    longitude, latitude, bits = position.longitude_deg, position.latitude_deg, position.status_bits
    allowed = 0xF8
    status = 0 if position.valid else _INVALID_BIT
    if isinstance(longitude, Sentinel):
        allowed |= _WEST_BIT
    elif copysign(1.0, longitude) < 0:
        status |= _WEST_BIT
        longitude = -longitude
    if isinstance(latitude, Sentinel):
        allowed |= _SOUTH_BIT
    elif copysign(1.0, latitude) < 0:
        status |= _SOUTH_BIT
        latitude = -latitude
    if bits & ~allowed:
        msg = f"0x05 position.status_bits: expected only bits of {allowed:#04x}, got {bits:#x}"
        raise LocalProtocolError(msg)
    return status | bits, longitude, latitude


POSITION_2016: Final = Layout(
    label="0x05 position",
    cls=Position,
    clause="table 14",
    rows=(
        # Bit 0: 1 is INVALID; bit 1: south; bit 2: west (table 15).
        Field(name="status", size_bytes=1, raw_min=0, raw_max=7, clause="table 15"),
        # Magnitudes; longitude comes before latitude. The text has no sentinels here, terminals send them.
        Field(
            name="longitude_deg",
            size_bytes=4,
            raw_min=0,
            raw_max=180_000_000,
            divisor=1_000_000,
            unit="°",
            sentinels=True,
        ),
        Field(
            name="latitude_deg",
            size_bytes=4,
            raw_min=0,
            raw_max=90_000_000,
            divisor=1_000_000,
            unit="°",
            sentinels=True,
        ),
    ),
    build=_build_position,
    parts=_position_parts,
)

EXTREMES_2016: Final = Layout(
    label="0x06 extremes",
    cls=Extremes,
    clause="table 16",
    rows=(
        _ordinal("cell_voltage_max_subsystem", 250, ""),
        _ordinal("cell_voltage_max_cell", 250, ""),
        _cell_volts("cell_voltage_max_v", 15000, ""),
        _ordinal("cell_voltage_min_subsystem", 250, ""),
        _ordinal("cell_voltage_min_cell", 250, ""),
        _cell_volts("cell_voltage_min_v", 15000, ""),
        _ordinal("temperature_max_subsystem", 250, ""),
        _ordinal("temperature_max_probe", 250, ""),
        _temperature("temperature_max_c", ""),
        _ordinal("temperature_min_subsystem", 250, ""),
        _ordinal("temperature_min_probe", 250, ""),
        _temperature("temperature_min_c", ""),
    ),
)

_FAULT: Final = Field(name="fault_code", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF)


def _faults(name: str) -> Repeat:
    """A list of maker-defined DWORDs."""
    return Repeat(name=name, item=_FAULT, count_size_bytes=1, count_min=0, count_max=252, sentinels=True)


ALARMS_2016: Final = Layout(
    label="0x07 alarms",
    cls=Alarms,
    clause="table 17",
    rows=(
        Field(name="level_max", size_bytes=1, raw_min=0, raw_max=3, sentinels=True),
        # Bits 19 to 31 are reserved in 2016; the range says so, and decoding keeps them.
        Field(name="flags", size_bytes=4, raw_min=0, raw_max=0x7FFFF, clause="table 18"),
        _faults("ress_faults"),
        _faults("motor_faults"),
        _faults("engine_faults"),
        _faults("other_faults"),
    ),
)

SUBSYSTEM_VOLTAGES_2016: Final = Layout(
    label="subsystem voltages",
    cls=SubsystemVoltages,
    clause="table B.6",
    rows=(
        Field(name="number", size_bytes=1, raw_min=1, raw_max=250),
        _volts("voltage_v", 10000, ""),
        _amperes("current_a", ""),
        Field(name="cell_count", size_bytes=2, raw_min=1, raw_max=65531, sentinels=True),
        Field(name="first_cell", size_bytes=2, raw_min=1, raw_max=65531),
        Repeat(
            name="cell_voltages_v",
            item=_cell_volts("cell_voltage_v", 60000, ""),
            count_size_bytes=1,
            count_min=1,
            count_max=200,
        ),
    ),
)

CELL_VOLTAGES_2016: Final = Layout(
    label="0x08 cell voltages",
    cls=CellVoltages,
    clause="table B.5",
    rows=(
        Repeat(
            name="subsystems",
            item=SUBSYSTEM_VOLTAGES_2016,
            count_size_bytes=1,
            count_min=1,
            count_max=250,
            sentinels=True,
        ),
    ),
)

SUBSYSTEM_TEMPERATURES_2016: Final = Layout(
    label="subsystem temperatures",
    cls=SubsystemTemperatures,
    clause="table B.8",
    rows=(
        Field(name="number", size_bytes=1, raw_min=1, raw_max=250),
        Repeat(
            name="temperatures_c",
            item=_temperature("temperature_c", ""),
            count_size_bytes=2,
            count_min=1,
            count_max=65531,
            sentinels=True,
        ),
    ),
)

PROBE_TEMPERATURES_2016: Final = Layout(
    label="0x09 probe temperatures",
    cls=ProbeTemperatures,
    clause="table B.7",
    rows=(
        Repeat(
            name="subsystems",
            item=SUBSYSTEM_TEMPERATURES_2016,
            count_size_bytes=1,
            count_min=1,
            count_max=250,
            sentinels=True,
        ),
    ),
)

# --- bodies of 2025 (chapter 7) -----------------------------------------------------------------------------------------


def _wide_amperes(name: str) -> Field:
    """WORD, 0.1 A, 30000 is zero: three times as far as in 2016."""
    return Field(
        name=name,
        size_bytes=2,
        raw_min=0,
        raw_max=60000,
        divisor=10,
        raw_offset=30000,
        unit="A",
        sentinels=True,
    )


def _pack_count(name: str, item: Layout) -> Repeat:
    return Repeat(name=name, item=item, count_size_bytes=1, count_min=0, count_max=50, sentinels=True)


def _temperatures(name: str) -> Repeat:
    """WORD count, then a BYTE each."""
    return Repeat(
        name=name,
        item=_temperature("temperature_c", ""),
        count_size_bytes=2,
        count_min=0,
        count_max=65531,
        sentinels=True,
    )


def _unit_volts(name: str) -> Repeat:
    """WORD count, then a WORD each. No first cell and no limit of 200 here: a pack comes whole."""
    return Repeat(
        name=name,
        item=_cell_volts("cell_voltage_v", 60000, ""),
        count_size_bytes=2,
        count_min=0,
        count_max=65531,
        sentinels=True,
    )


VEHICLE_2025: Final = Layout(
    label="0x01 vehicle",
    cls=VehicleData2025,
    clause=_CHAPTER_7,
    rows=(
        Field(name="vehicle_state", size_bytes=1, raw_min=1, raw_max=3, sentinels=True, values=VehicleState),
        Field(name="charging_state", size_bytes=1, raw_min=1, raw_max=4, sentinels=True, values=ChargingState),
        Field(name="run_mode", size_bytes=1, raw_min=1, raw_max=3, sentinels=True, values=RunMode),
        Field(name="speed_kmh", size_bytes=2, raw_min=0, raw_max=5000, divisor=10, unit="km/h", sentinels=True),
        Field(name="odometer_km", size_bytes=4, raw_min=0, raw_max=9999999, divisor=10, unit="km", sentinels=True),
        _volts("total_voltage_v", 60000, ""),
        _wide_amperes("total_current_a"),
        Field(name="soc_pct", size_bytes=1, raw_min=0, raw_max=100, unit="%", sentinels=True),
        Field(name="dcdc_state", size_bytes=1, raw_min=1, raw_max=2, sentinels=True, values=DcdcState),
        # Bit 7 says that the gear is not valid.
        Field(name="gear", size_bytes=1, raw_min=0, raw_max=0xBF, values=Gear),
        Field(name="insulation_kohm", size_bytes=2, raw_min=0, raw_max=60000, unit="kΩ", sentinels=True),
    ),
)

DRIVE_MOTOR_2025: Final = Layout(
    label="drive motor",
    cls=DriveMotor2025,
    clause=_CHAPTER_7,
    rows=(
        Field(name="number", size_bytes=1, raw_min=1, raw_max=253),
        Field(name="state", size_bytes=1, raw_min=1, raw_max=4, sentinels=True, values=MotorState),
        _temperature("controller_temperature_c", ""),
        Field(
            name="speed_rpm",
            size_bytes=2,
            raw_min=0,
            raw_max=65531,
            raw_offset=32000,
            unit="r/min",
            sentinels=True,
        ),
        Field(
            name="torque_nm",
            size_bytes=4,
            raw_min=0,
            raw_max=400_000,
            divisor=10,
            raw_offset=200_000,
            unit="N·m",
            sentinels=True,
        ),
        _temperature("motor_temperature_c", ""),
    ),
)

DRIVE_MOTORS_2025: Final = Layout(
    label="0x02 drive motors",
    cls=DriveMotors2025,
    clause=_CHAPTER_7,
    rows=(
        Repeat(name="motors", item=DRIVE_MOTOR_2025, count_size_bytes=1, count_min=1, count_max=253, sentinels=True),
    ),
)

FUEL_CELL_2025: Final = Layout(
    label="0x03 fuel cell",
    cls=FuelCell2025,
    clause=_CHAPTER_7,
    rows=(
        # A whole degree in two bytes, where 2016 has a tenth.
        Field(
            name="hydrogen_temperature_c_max",
            size_bytes=2,
            raw_min=0,
            raw_max=250,
            raw_offset=40,
            unit="°C",
            sentinels=True,
        ),
        _ordinal("hydrogen_temperature_probe", 252, ""),
        Field(
            name="hydrogen_concentration_pct_max",
            size_bytes=2,
            raw_min=0,
            raw_max=60000,
            divisor=10000,
            unit="%",
            sentinels=True,
        ),
        _ordinal("hydrogen_concentration_sensor", 252, ""),
        Field(
            name="hydrogen_pressure_mpa_max",
            size_bytes=2,
            raw_min=0,
            raw_max=1000,
            divisor=10,
            unit="MPa",
            sentinels=True,
        ),
        _ordinal("hydrogen_pressure_sensor", 252, ""),
        Field(name="dcdc_state", size_bytes=1, raw_min=1, raw_max=2, sentinels=True, values=DcdcState),
        Field(name="hydrogen_remaining_pct", size_bytes=1, raw_min=0, raw_max=100, unit="%", sentinels=True),
        _temperature("dcdc_temperature_c", ""),
    ),
)

ENGINE_2025: Final = Layout(
    label="0x04 engine",
    cls=Engine2025,
    clause=_CHAPTER_7,
    rows=(Field(name="crankshaft_speed_rpm", size_bytes=2, raw_min=0, raw_max=60000, unit="r/min", sentinels=True),),
)

_new_position_2025: Final = maker(Position2025)


def _build_position_2025(
    status: int, system: int | Sentinel, longitude: float | Sentinel, latitude: float | Sentinel
) -> Position2025:
    old = _build_position(status, longitude, latitude)
    position: Position2025 = _new_position_2025(old.valid, system, old.longitude_deg, old.latitude_deg, old.status_bits)
    return position


def _position_parts_2025(position: Position2025) -> tuple[Any, ...]:
    status, longitude, latitude = _position_parts(position)
    return status, position.coordinate_system, longitude, latitude


POSITION_2025: Final = Layout(
    label="0x05 position",
    cls=Position2025,
    clause=_CHAPTER_7,
    rows=(
        POSITION_2016.rows[0],
        Field(name="coordinate_system", size_bytes=1, raw_min=1, raw_max=3, sentinels=True, values=CoordinateSystem),
        *POSITION_2016.rows[1:],
    ),
    build=_build_position_2025,
    parts=_position_parts_2025,
)


def _faults_2025(name: str) -> Repeat:
    """A list of maker-defined DWORDs, one longer than in 2016."""
    return Repeat(name=name, item=_FAULT, count_size_bytes=1, count_min=0, count_max=253, sentinels=True)


ALARM_LEVEL_2025: Final = Layout(
    label="alarm level",
    cls=AlarmLevel,
    clause=_CHAPTER_7,
    rows=(
        Field(name="bit", size_bytes=1, raw_min=0, raw_max=27),
        Field(name="level", size_bytes=1, raw_min=0, raw_max=4, sentinels=True),
    ),
)

ALARMS_2025: Final = Layout(
    label="0x06 alarms",
    cls=Alarms2025,
    clause=_CHAPTER_7,
    rows=(
        Field(name="level_max", size_bytes=1, raw_min=0, raw_max=4, sentinels=True),
        # Bits 28 to 31 are reserved.
        Field(name="flags", size_bytes=4, raw_min=0, raw_max=0xFFFFFFF),
        _faults_2025("ress_faults"),
        _faults_2025("motor_faults"),
        _faults_2025("engine_faults"),
        _faults_2025("other_faults"),
        Repeat(
            name="general_levels",
            item=ALARM_LEVEL_2025,
            count_size_bytes=1,
            count_min=0,
            count_max=253,
            sentinels=True,
        ),
    ),
)

PACK_VOLTAGES_2025: Final = Layout(
    label="pack voltages",
    cls=PackVoltages,
    clause=_CHAPTER_7,
    rows=(
        Field(name="number", size_bytes=1, raw_min=1, raw_max=50),
        _volts("voltage_v", 60000, ""),
        _wide_amperes("current_a"),
        _unit_volts("cell_voltages_v"),
    ),
)

CELL_VOLTAGES_2025: Final = Layout(
    label="0x07 cell voltages",
    cls=CellVoltages2025,
    clause=_CHAPTER_7,
    rows=(_pack_count("packs", PACK_VOLTAGES_2025),),
)

PACK_TEMPERATURES_2025: Final = Layout(
    label="pack temperatures",
    cls=PackTemperatures,
    clause=_CHAPTER_7,
    rows=(Field(name="number", size_bytes=1, raw_min=1, raw_max=50), _temperatures("temperatures_c")),
)

PROBE_TEMPERATURES_2025: Final = Layout(
    label="0x08 probe temperatures",
    cls=ProbeTemperatures2025,
    clause=_CHAPTER_7,
    rows=(_pack_count("packs", PACK_TEMPERATURES_2025),),
)


def _kilopascals(name: str) -> Field:
    """WORD, 0.1 kPa, 1000 is zero."""
    return Field(
        name=name,
        size_bytes=2,
        raw_min=0,
        raw_max=65531,
        divisor=10,
        raw_offset=1000,
        unit="kPa",
        sentinels=True,
    )


FUEL_CELL_STACK_2025: Final = Layout(
    label="fuel-cell stack",
    cls=FuelCellStack,
    clause=_CHAPTER_7,
    rows=(
        Field(name="number", size_bytes=1, raw_min=1, raw_max=253),
        _volts("voltage_v", 60000, ""),
        # No offset: a stack only gives.
        Field(name="current_a", size_bytes=2, raw_min=0, raw_max=60000, divisor=10, unit="A", sentinels=True),
        _kilopascals("hydrogen_inlet_pressure_kpa"),
        _kilopascals("air_inlet_pressure_kpa"),
        _temperature("air_inlet_temperature_c", ""),
        _temperatures("coolant_outlet_temperatures_c"),
    ),
)

FUEL_CELL_STACKS_2025: Final = Layout(
    label="0x30 fuel-cell stacks",
    cls=FuelCellStacks,
    clause=_CHAPTER_7,
    rows=(
        Repeat(
            name="stacks", item=FUEL_CELL_STACK_2025, count_size_bytes=1, count_min=0, count_max=253, sentinels=True
        ),
    ),
)

SUPERCAPACITOR_2025: Final = Layout(
    label="0x31 supercapacitor",
    cls=Supercapacitor,
    clause=_CHAPTER_7,
    rows=(
        Field(name="number", size_bytes=1, raw_min=1, raw_max=253),
        _volts("voltage_v", 60000, ""),
        _wide_amperes("current_a"),
        _unit_volts("cell_voltages_v"),
        _temperatures("temperatures_c"),
    ),
)


def _wide_ordinal(name: str) -> Field:
    """WORD, a number that counts from 1."""
    return Field(name=name, size_bytes=2, raw_min=1, raw_max=65531, sentinels=True)


SUPERCAPACITOR_EXTREMES_2025: Final = Layout(
    label="0x32 supercapacitor extremes",
    cls=SupercapacitorExtremes,
    clause=_CHAPTER_7,
    rows=(
        _ordinal("cell_voltage_max_subsystem", 250, ""),
        _wide_ordinal("cell_voltage_max_cell"),
        _cell_volts("cell_voltage_max_v", 60000, ""),
        _ordinal("cell_voltage_min_subsystem", 250, ""),
        _wide_ordinal("cell_voltage_min_cell"),
        _cell_volts("cell_voltage_min_v", 60000, ""),
        _ordinal("temperature_max_subsystem", 250, ""),
        _wide_ordinal("temperature_max_probe"),
        _temperature("temperature_max_c", ""),
        _ordinal("temperature_min_subsystem", 250, ""),
        _wide_ordinal("temperature_min_probe"),
        _temperature("temperature_min_c", ""),
    ),
)

SIGNATURE_2025: Final = Layout(
    label="0xFF signature",
    cls=Signature,
    clause="2025 table 8",
    rows=(
        Field(name="algorithm", size_bytes=1, raw_min=1, raw_max=3, values=SignatureAlgorithm),
        SizedBytes(name="r"),
        SizedBytes(name="s"),
    ),
)

BODY_LAYOUTS: Final[dict[Edition, dict[int, Layout]]] = {
    Edition.GBT2016: {
        0x01: VEHICLE_2016,
        0x02: DRIVE_MOTORS_2016,
        0x03: FUEL_CELL_2016,
        0x04: ENGINE_2016,
        0x05: POSITION_2016,
        0x06: EXTREMES_2016,
        0x07: ALARMS_2016,
        0x08: CELL_VOLTAGES_2016,
        0x09: PROBE_TEMPERATURES_2016,
    },
    Edition.GBT2025: {
        0x01: VEHICLE_2025,
        0x02: DRIVE_MOTORS_2025,
        0x03: FUEL_CELL_2025,
        0x04: ENGINE_2025,
        0x05: POSITION_2025,
        0x06: ALARMS_2025,
        0x07: CELL_VOLTAGES_2025,
        0x08: PROBE_TEMPERATURES_2025,
        0x30: FUEL_CELL_STACKS_2025,
        0x31: SUPERCAPACITOR_2025,
        0x32: SUPERCAPACITOR_EXTREMES_2025,
        0xFF: SIGNATURE_2025,
    },
}
"""Body layouts by edition and type."""


# --- small messages --------------------------------------------------------------------------------------------------

_SERIAL: Final = Field(name="serial", size_bytes=2, raw_min=1, raw_max=65531)


def _build_login(time: Any, serial: int, iccid: str, codes: tuple[int, int, tuple[str, ...]]) -> VehicleLogin:
    count, length, names = codes
    return VehicleLogin(time, serial, iccid, names, count, length)


def _login_parts(login: VehicleLogin) -> tuple[Any, ...]:
    return login.time, login.serial, login.iccid, (login.subsystem_count, login.code_length, login.subsystem_codes)


VEHICLE_LOGIN_2016: Final = Layout(
    label="vehicle login",
    cls=VehicleLogin,
    clause="table 6",
    rows=(Time(), _SERIAL, Text(name="iccid", size_bytes=20), CodeTable()),
    build=_build_login,
    parts=_login_parts,
)

VEHICLE_LOGOUT: Final = Layout(label="vehicle logout", cls=VehicleLogout, clause="table 20", rows=(Time(), _SERIAL))

PLATFORM_LOGIN: Final = Layout(
    label="platform login",
    cls=PlatformLogin,
    clause="table 21",
    rows=(
        Time(),
        _SERIAL,
        Text(name="user", size_bytes=12),
        Text(name="password", size_bytes=20),
        Field(name="cipher", size_bytes=1, raw_min=1, raw_max=3),
    ),
)

PLATFORM_LOGIN_2025: Final = Layout(
    label="platform login",
    cls=PlatformLogin,
    clause="2025, platform login",
    rows=(*PLATFORM_LOGIN.rows[:-1], Field(name="cipher", size_bytes=1, raw_min=1, raw_max=5)),
)

PLATFORM_LOGOUT: Final = Layout(label="platform logout", cls=PlatformLogout, clause="table 22", rows=(Time(), _SERIAL))


# --- login and security of 2025 ---------------------------------------------------------------------------------------

VEHICLE_LOGIN_2025: Final = Layout(
    label="vehicle login",
    cls=VehicleLogin2025,
    clause="2025, vehicle login",
    rows=(Time(), _SERIAL, Text(name="iccid", size_bytes=20), PackTable()),
)


def _build_activation(time: Any, chip_id: str, key: bytes, vin: str, algorithm: int, r: bytes, s: bytes) -> Activation:
    return Activation(time, chip_id, key, vin, Signature(algorithm, r, s))


def _activation_parts(activation: Activation) -> tuple[Any, ...]:
    signature: Any = activation.signature
    if not isinstance(signature, Signature):
        msg = f"activation.signature: expected a Signature, got {signature!r}"
        raise LocalProtocolError(msg)
    return (
        activation.time,
        activation.chip_id,
        activation.public_key,
        activation.vin,
        signature.algorithm,
        signature.r,
        signature.s,
    )


ACTIVATION: Final = Layout(
    label="activation",
    cls=Activation,
    clause="2025 table B.3",
    rows=(
        Time(),
        Text(name="chip_id", size_bytes=16, padding=b" "),
        SizedBytes(name="public_key"),
        Text(name="vin", size_bytes=17),
        # The signature of table 8, without its marker.
        *SIGNATURE_2025.rows,
    ),
    build=_build_activation,
    parts=_activation_parts,
)

ACTIVATION_REPLY: Final = Layout(
    label="activation reply",
    cls=ActivationReply,
    clause="2025 table B.4",
    rows=(
        Field(name="status", size_bytes=1, raw_min=1, raw_max=2, values=ActivationStatus),
        Field(name="result", size_bytes=1, raw_min=0, raw_max=2, values=ActivationResult),
    ),
)

KEY_EXCHANGE: Final = Layout(
    label="key exchange",
    cls=KeyExchange,
    clause="2025 table 31",
    rows=(
        Field(name="key_type", size_bytes=1, raw_min=2, raw_max=5, values=Encryption),
        SizedBytes(name="key"),
        Time(name="valid_from"),
        Time(name="valid_until"),
    ),
)


# --- parameters (2016 table B.12, 2025 table B.8) --------------------------------------------------------------------


def _parameter(size_bytes: int, raw_min: int, raw_max: int, unit: str) -> Field:
    return Field(name="value", size_bytes=size_bytes, raw_min=raw_min, raw_max=raw_max, unit=unit, sentinels=True)


_NAME_LENGTH: Final = Field(name="value", size_bytes=1, raw_min=0, raw_max=255, unit="B")
_PARAMETERS_COMMON: Final[dict[int, Row | int]] = {
    ParameterId.LOCAL_STORAGE_PERIOD_MS: _parameter(2, 0, 60000, "ms"),
    ParameterId.PLATFORM_NAME_LENGTH: _NAME_LENGTH,
    # An integer in place of a row: as many bytes of text as the parameter of that number has announced.
    ParameterId.PLATFORM_NAME: ParameterId.PLATFORM_NAME_LENGTH,
    ParameterId.PLATFORM_PORT: _parameter(2, 0, 65531, ""),
    ParameterId.HARDWARE_VERSION: Text(name="value", size_bytes=5),
    ParameterId.FIRMWARE_VERSION: Text(name="value", size_bytes=5),
    ParameterId.HEARTBEAT_PERIOD_S: _parameter(1, 1, 240, "s"),
    ParameterId.TERMINAL_REPLY_TIMEOUT_S: _parameter(2, 1, 600, "s"),
    ParameterId.PLATFORM_REPLY_TIMEOUT_S: _parameter(2, 1, 600, "s"),
    ParameterId.LOGIN_WAIT_MIN: _parameter(1, 1, 240, "min"),
    ParameterId.PUBLIC_PLATFORM_NAME_LENGTH: _NAME_LENGTH,
    ParameterId.PUBLIC_PLATFORM_NAME: ParameterId.PUBLIC_PLATFORM_NAME_LENGTH,
    ParameterId.PUBLIC_PLATFORM_PORT: _parameter(2, 0, 65531, ""),
    ParameterId.SAMPLED_MONITORING: _parameter(1, 1, 2, ""),
}

PARAMETER_ROWS: Final[dict[Edition, dict[int, Row | int]]] = {
    Edition.GBT2016: _PARAMETERS_COMMON
    | {
        ParameterId.REPORT_PERIOD_S: _parameter(2, 1, 600, "s"),
        ParameterId.ALARM_REPORT_PERIOD: _parameter(2, 0, 60000, "ms"),
    },
    Edition.GBT2025: _PARAMETERS_COMMON
    | {
        ParameterId.REPORT_PERIOD_S: _parameter(1, 1, 30, "s"),
        ParameterId.ALARM_REPORT_PERIOD: _parameter(1, 0, 1, "s"),
    },
}
"""How each parameter is laid out. An id that is missing here has an unknown size: the list cannot be read on."""


# --- our extension (docs/protocol.md is made from these) -------------------------------------------------------------

_VERSION: Final = Field(name="extension", size_bytes=2, raw_min=EXTENSION_VERSION, raw_max=EXTENSION_VERSION)


def _build_node(role: int, position: int, hwid: str, class_: bytes, *rest: Any) -> NodeIdentity:
    from uuid import UUID  # noqa: PLC0415 its import costs as much as a fifth of ours, and few frames need it

    major, minor, revision, build, counter, serial, state = rest
    return NodeIdentity(
        role=role,
        position=position,
        hwid=hwid,
        hardware_class=UUID(bytes=class_),
        version=(major, minor, revision, build),
        security_counter=counter,
        serial=serial,
        state=state,
    )


def _node_parts(node: NodeIdentity) -> tuple[Any, ...]:
    return (
        node.role,
        node.position,
        node.hwid,
        node.hardware_class.bytes,
        *node.version,
        node.security_counter,
        node.serial,
        node.state,
    )


NODE_IDENTITY: Final = Layout(
    label="node identity",
    cls=NodeIdentity,
    rows=(
        Field(name="role", size_bytes=1, raw_min=0, raw_max=1, values=NodeRole),
        Field(name="position", size_bytes=1, raw_min=0, raw_max=31),
        SizedText(name="hwid", size_bytes_min=1, size_bytes_max=24),
        FixedBytes(name="hardware_class", size_bytes=16),
        Field(name="version_major", size_bytes=1, raw_min=0, raw_max=255),
        Field(name="version_minor", size_bytes=1, raw_min=0, raw_max=255),
        Field(name="version_revision", size_bytes=2, raw_min=0, raw_max=65535),
        Field(name="version_build", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF),
        Field(name="security_counter", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF),
        SizedText(name="serial", size_bytes_max=32),
        Field(name="state", size_bytes=1, raw_min=0, raw_max=2, values=NodeState),
    ),
    build=_build_node,
    parts=_node_parts,
)

UNIT_IDENTITY: Final = Layout(
    label="0xC0 unit identity",
    cls=UnitIdentity,
    rows=(
        Time(),
        _VERSION,
        Repeat(name="nodes", item=NODE_IDENTITY, count_size_bytes=1, count_min=1, count_max=32),
    ),
    build=lambda time, _version, nodes: UnitIdentity(time, nodes),
    parts=lambda identity: (identity.time, EXTENSION_VERSION, identity.nodes),
)

UPGRADE_STATE: Final = Layout(
    label="0xC1 upgrade state",
    cls=UpgradeState,
    rows=(
        Time(),
        _VERSION,
        SizedText(name="order_id", size_bytes_max=64),
        Field(name="state", size_bytes=1, raw_min=1, raw_max=13, values=UpgradeStateCode),
        Field(name="progress_pct", size_bytes=1, raw_min=0, raw_max=100, unit="%", sentinels=True),
        SizedText(name="reason"),
    ),
    build=lambda time, _version, order_id, state, progress, reason: UpgradeState(
        time=time, order_id=order_id, state=state, progress_pct=progress, reason=reason
    ),
    parts=lambda state: (
        state.time,
        EXTENSION_VERSION,
        state.order_id,
        state.state,
        state.progress_pct,
        state.reason,
    ),
)

SIGNED_REPORT: Final = Layout(
    label="0xC2 signed report",
    cls=SignedReport,
    rows=(Time(), _VERSION, SizedBytes(name="document", size_bytes_min=1, size_bytes_max=65000)),
    build=lambda time, _version, document: SignedReport(time, document),
    parts=lambda report: (report.time, EXTENSION_VERSION, report.document),
)


def _build_local_upgrade(time: datetime, position: int, hwid: str, *rest: Any) -> LocalUpgrade:
    return LocalUpgrade(
        upgraded_at=time,
        position=position,
        hwid=hwid,
        version_before=rest[:4],
        version_after=rest[4:8],
        outcome=rest[8],
        tool=rest[9],
        detail=rest[10],
    )


def _local_upgrade_parts(upgrade: LocalUpgrade) -> tuple[Any, ...]:
    before, after = upgrade.version_before, upgrade.version_after
    # Eight numbers, however they were shared out, would pass for two versions.
    if not all(isinstance(version, (tuple, list)) and len(version) == 4 for version in (before, after)):
        msg = f"local upgrade: expected two versions of 4 numbers, got {before!r} and {after!r}"
        raise LocalProtocolError(msg)
    where = (upgrade.upgraded_at, upgrade.position, upgrade.hwid)
    return (*where, *before, *after, upgrade.outcome, upgrade.tool, upgrade.detail)


LOCAL_UPGRADE: Final = Layout(
    label="local upgrade",
    cls=LocalUpgrade,
    rows=(
        Time(name="upgraded_at"),
        Field(name="position", size_bytes=1, raw_min=0, raw_max=31),
        SizedText(name="hwid", size_bytes_min=1, size_bytes_max=24),
        Field(name="version_before_major", size_bytes=1, raw_min=0, raw_max=255),
        Field(name="version_before_minor", size_bytes=1, raw_min=0, raw_max=255),
        Field(name="version_before_revision", size_bytes=2, raw_min=0, raw_max=65535),
        Field(name="version_before_build", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF),
        Field(name="version_after_major", size_bytes=1, raw_min=0, raw_max=255),
        Field(name="version_after_minor", size_bytes=1, raw_min=0, raw_max=255),
        Field(name="version_after_revision", size_bytes=2, raw_min=0, raw_max=65535),
        Field(name="version_after_build", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF),
        Field(name="outcome", size_bytes=1, raw_min=1, raw_max=3, values=LocalUpgradeOutcome),
        SizedText(name="tool", size_bytes_max=64),
        SizedText(name="detail"),
    ),
    build=_build_local_upgrade,
    parts=_local_upgrade_parts,
)

LOCAL_UPGRADES: Final = Layout(
    label="0xC3 local upgrades",
    cls=LocalUpgrades,
    rows=(
        Time(),
        _VERSION,
        # Twice a full unit; 64 of the longest are 24 KiB. A longer journal goes in several frames.
        Repeat(name="upgrades", item=LOCAL_UPGRADE, count_size_bytes=1, count_min=1, count_max=64),
    ),
    build=lambda time, _version, upgrades: LocalUpgrades(time, upgrades),
    parts=lambda told: (told.time, EXTENSION_VERSION, told.upgrades),
)

BLOCK_REQUEST: Final = Layout(
    label="0xC4 block request",
    cls=BlockRequest,
    rows=(
        Time(),
        _VERSION,
        FixedBytes(name="sha256", size_bytes=32),
        Field(name="offset", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF, unit="B"),
        Field(name="size", size_bytes=2, raw_min=1, raw_max=BLOCK_SIZE_BYTES_MAX, unit="B"),
    ),
    build=lambda time, _version, sha256, offset, size: BlockRequest(time, sha256, offset, size),
    parts=lambda request: (request.time, EXTENSION_VERSION, request.sha256, request.offset, request.size),
)
BLOCK_REQUEST_SIZE_BYTES: Final = 46
"""Of that data unit. An answer of this size is its echo (annex B of 2016), because a block has at least one byte more."""

BLOCK_REPLY: Final = Layout(
    label="0xC4 block reply",
    cls=BlockReply,
    rows=(
        Time(),
        _VERSION,
        FixedBytes(name="sha256", size_bytes=32),
        Field(name="offset", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF, unit="B"),
        SizedBytes(name="data", size_bytes_min=1, size_bytes_max=BLOCK_SIZE_BYTES_MAX),
    ),
    build=lambda time, _version, sha256, offset, data: BlockReply(time, sha256, offset, data),
    parts=lambda reply: (reply.time, EXTENSION_VERSION, reply.sha256, reply.offset, reply.data),
)

EXTENSION_LAYOUTS: Final[dict[int, Layout]] = {
    0xC0: UNIT_IDENTITY,
    0xC1: UPGRADE_STATE,
    0xC2: SIGNED_REPORT,
    0xC3: LOCAL_UPGRADES,
    0xC4: BLOCK_REQUEST,
}
"""Extension layouts by command."""
EXTENSION_REPLY_LAYOUTS: Final[dict[int, Layout]] = {0xC4: BLOCK_REPLY}
"""Answers (flag 0x01) that carry more than the time of the question."""


# --- our bodies inside a report. Behind the length of the standard stands `EXTENSION_VERSION`, then the layout. ----------

_EXTENDED_ID_BIT: Final = 1 << 31


def _build_can_message(bus: int, key: int, offset_ms: int, data: bytes) -> CanMessage:
    return CanMessage(key & ~_EXTENDED_ID_BIT, data, bool(key & _EXTENDED_ID_BIT), bus, offset_ms)


def _can_message_parts(message: CanMessage) -> tuple[Any, ...]:
    if not isinstance(message.can_id, int) or not 0 <= message.can_id < _EXTENDED_ID_BIT:
        msg = f"CAN message.can_id: expected 0 to {_EXTENDED_ID_BIT - 1:#x}, got {message.can_id!r}"
        raise LocalProtocolError(msg)
    key = message.can_id | _EXTENDED_ID_BIT if message.is_extended_id else message.can_id
    return message.bus, key, message.offset_ms, message.data


CAN_MESSAGE: Final = Layout(
    label="CAN message",
    cls=CanMessage,
    rows=(
        Field(name="bus", size_bytes=1, raw_min=0, raw_max=255),
        # Bit 31 says that the id has 29 bits, as DBC files write it.
        Field(name="can_id", size_bytes=4, raw_min=0, raw_max=0x9FFFFFFF),
        Field(name="offset_ms", size_bytes=2, raw_min=0, raw_max=65535, unit="ms"),
        SizedBytes(name="data", size_bytes_max=64),
    ),
    build=_build_can_message,
    parts=_can_message_parts,
)

CAN_SIGNALS: Final = Layout(
    label="0xB0 CAN signals",
    cls=CanSignals,
    rows=(Repeat(name="messages", item=CAN_MESSAGE, count_size_bytes=2, count_min=1, count_max=5000),),
)

CONFIGURATION_ITEM: Final = Layout(
    label="configuration item",
    cls=ConfigurationItem,
    rows=(
        Field(name="position", size_bytes=1, raw_min=0, raw_max=31),
        Field(name="parameter", size_bytes=2, raw_min=0, raw_max=65535),
        SizedBytes(name="value", size_bytes_max=1024),
    ),
)

BMS_CONFIGURATION: Final = Layout(
    label="0xB1 BMS configuration",
    cls=BmsConfiguration,
    rows=(
        Field(name="revision", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF),
        Repeat(name="items", item=CONFIGURATION_ITEM, count_size_bytes=2, count_min=0, count_max=5000),
    ),
)

FAULT_CHANGE: Final = Layout(
    label="fault change",
    cls=FaultChange,
    rows=(
        Time(),
        Field(name="position", size_bytes=1, raw_min=0, raw_max=31),
        Field(name="code", size_bytes=4, raw_min=0, raw_max=0xFFFFFFFF),
        Field(name="state", size_bytes=1, raw_min=0, raw_max=1, values=FaultState),
        Field(name="level", size_bytes=1, raw_min=0, raw_max=4, sentinels=True),
        SizedText(name="detail"),
    ),
)

FAULT_CHANGES: Final = Layout(
    label="0xB2 fault changes",
    cls=FaultChanges,
    rows=(Repeat(name="changes", item=FAULT_CHANGE, count_size_bytes=1, count_min=1, count_max=255),),
)

EXTENSION_BODY_LAYOUTS: Final[dict[int, Layout]] = {0xB0: CAN_SIGNALS, 0xB1: BMS_CONFIGURATION, 0xB2: FAULT_CHANGES}
"""Extension bodies by type, in both editions."""
