"""The tables of GB/T 32960.3-2025: its chapter 7 and annex B."""

from __future__ import annotations

from typing import Any, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._bodies import (
    AlarmLevel,
    Alarms2025,
    CellVoltages2025,
    DriveMotor2025,
    DriveMotors2025,
    Engine2025,
    FuelCell2025,
    FuelCellStack,
    FuelCellStacks,
    PackTemperatures,
    PackVoltages,
    Position2025,
    ProbeTemperatures2025,
    Signature,
    Supercapacitor,
    SupercapacitorExtremes,
    VehicleData2025,
)
from bmsota.gbt32960._enums import (
    ActivationResult,
    ActivationStatus,
    ChargingState,
    Command,
    CoordinateSystem,
    DcdcState,
    Encryption,
    Gear,
    MotorState,
    ParameterId,
    RunMode,
    Sentinel,
    SignatureAlgorithm,
    VehicleState,
)
from bmsota.gbt32960._fields import Field, Layout, PackTable, Repeat, Row, SizedBytes, Text, Time
from bmsota.gbt32960._make import maker
from bmsota.gbt32960._messages import Activation, ActivationReply, KeyExchange, PlatformLogin, VehicleLogin2025
from bmsota.gbt32960._tables.common import (
    COMMON_PARAMETERS,
    PLATFORM_LOGOUT,
    SERIAL,
    VEHICLE_LOGOUT,
    byte,
    byte_list,
    cell_volts,
    dword,
    fault_list,
    ordinal,
    parameter,
    temperature,
    volts,
    word,
    word_list,
)
from bmsota.gbt32960._tables.edition_2016 import PLATFORM_LOGIN_2016, POSITION_2016, build_position, position_parts

_CHAPTER_7: Final = "2025, chapter 7"
"""The transcription of 2025 that we have names few of its tables."""


def _wide_amperes(name: str) -> Field:
    """WORD, 0.1 A, 30000 is zero: three times as far as in 2016."""
    return word(name, 0, 60000, divisor=10, raw_offset=30000, unit="A", sentinels=True)


def _pack_count(name: str, item: Layout) -> Repeat:
    return byte_list(name, item, 0, 50, sentinels=True)


def _temperatures(name: str) -> Repeat:
    """WORD count, then a BYTE each."""
    return word_list(name, temperature("temperature_c"), 0, 65531, sentinels=True)


def _unit_volts(name: str) -> Repeat:
    """WORD count, then a WORD each. No first cell and no limit of 200 here: a pack comes whole."""
    return word_list(name, cell_volts("cell_voltage_v", 60000), 0, 65531, sentinels=True)


def _kilopascals(name: str) -> Field:
    """WORD, 0.1 kPa, 1000 is zero."""
    return word(name, 0, 65531, divisor=10, raw_offset=1000, unit="kPa", sentinels=True)


def _wide_ordinal(name: str) -> Field:
    """WORD, a number that counts from 1."""
    return word(name, 1, 65531, sentinels=True)


# --- bodies of a report ----------------------------------------------------------------------------------------------

VEHICLE_2025: Final = Layout(
    label="0x01 vehicle",
    cls=VehicleData2025,
    clause=_CHAPTER_7,
    rows=(
        byte("vehicle_state", 1, 3, sentinels=True, values=VehicleState),
        byte("charging_state", 1, 4, sentinels=True, values=ChargingState),
        byte("run_mode", 1, 3, sentinels=True, values=RunMode),
        word("speed_kmh", 0, 5000, divisor=10, unit="km/h", sentinels=True),
        dword("odometer_km", 0, 9999999, divisor=10, unit="km", sentinels=True),
        volts("total_voltage_v", 60000),
        _wide_amperes("total_current_a"),
        byte("soc_pct", 0, 100, unit="%", sentinels=True),
        byte("dcdc_state", 1, 2, sentinels=True, values=DcdcState),
        # Bit 7 says that the gear is not valid.
        byte("gear", 0, 0xBF, values=Gear),
        word("insulation_kohm", 0, 60000, unit="kΩ", sentinels=True),
    ),
)

DRIVE_MOTOR_2025: Final = Layout(
    label="drive motor",
    cls=DriveMotor2025,
    clause=_CHAPTER_7,
    rows=(
        byte("number", 1, 253),
        byte("state", 1, 4, sentinels=True, values=MotorState),
        temperature("controller_temperature_c"),
        word("speed_rpm", 0, 65531, raw_offset=32000, unit="r/min", sentinels=True),
        dword("torque_nm", 0, 400_000, divisor=10, raw_offset=200_000, unit="N·m", sentinels=True),
        temperature("motor_temperature_c"),
    ),
)

DRIVE_MOTORS_2025: Final = Layout(
    label="0x02 drive motors",
    cls=DriveMotors2025,
    clause=_CHAPTER_7,
    rows=(byte_list("motors", DRIVE_MOTOR_2025, 1, 253, sentinels=True),),
)

FUEL_CELL_2025: Final = Layout(
    label="0x03 fuel cell",
    cls=FuelCell2025,
    clause=_CHAPTER_7,
    rows=(
        # A whole degree in two bytes, where 2016 has a tenth.
        word("hydrogen_temperature_c_max", 0, 250, raw_offset=40, unit="°C", sentinels=True),
        ordinal("hydrogen_temperature_probe", 252),
        word("hydrogen_concentration_pct_max", 0, 60000, divisor=10000, unit="%", sentinels=True),
        ordinal("hydrogen_concentration_sensor", 252),
        word("hydrogen_pressure_mpa_max", 0, 1000, divisor=10, unit="MPa", sentinels=True),
        ordinal("hydrogen_pressure_sensor", 252),
        byte("dcdc_state", 1, 2, sentinels=True, values=DcdcState),
        byte("hydrogen_remaining_pct", 0, 100, unit="%", sentinels=True),
        temperature("dcdc_temperature_c"),
    ),
)

ENGINE_2025: Final = Layout(
    label="0x04 engine",
    cls=Engine2025,
    clause=_CHAPTER_7,
    rows=(word("crankshaft_speed_rpm", 0, 60000, unit="r/min", sentinels=True),),
)

_new_position_2025: Final = maker(Position2025)


def _build_position_2025(
    status: int, system: int | Sentinel, longitude: float | Sentinel, latitude: float | Sentinel
) -> Position2025:
    old = build_position(status, longitude, latitude)
    position: Position2025 = _new_position_2025(
        old.valid, system, old.longitude_deg, old.latitude_deg, old.reserved_bits
    )
    return position


def _position_parts_2025(position: Position2025) -> tuple[Any, ...]:
    status, longitude, latitude = position_parts(position)
    return status, position.coordinate_system, longitude, latitude


POSITION_2025: Final = Layout(
    label="0x05 position",
    cls=Position2025,
    clause=_CHAPTER_7,
    rows=(
        POSITION_2016.rows[0],
        byte("coordinate_system", 1, 3, sentinels=True, values=CoordinateSystem),
        *POSITION_2016.rows[1:],
    ),
    build=_build_position_2025,
    parts=_position_parts_2025,
)

ALARM_LEVEL_2025: Final = Layout(
    label="alarm level",
    cls=AlarmLevel,
    clause=_CHAPTER_7,
    rows=(
        byte("bit", 0, 27),
        byte("level", 0, 4, sentinels=True),
    ),
)

ALARMS_2025: Final = Layout(
    label="0x06 alarms",
    cls=Alarms2025,
    clause=_CHAPTER_7,
    rows=(
        byte("level_max", 0, 4, sentinels=True),
        # Bits 28 to 31 are reserved.
        dword("flags", 0, 0xFFFFFFF),
        fault_list("ress_faults", 253),
        fault_list("motor_faults", 253),
        fault_list("engine_faults", 253),
        fault_list("other_faults", 253),
        byte_list("general_levels", ALARM_LEVEL_2025, 0, 253, sentinels=True),
    ),
)

PACK_VOLTAGES_2025: Final = Layout(
    label="pack voltages",
    cls=PackVoltages,
    clause=_CHAPTER_7,
    rows=(
        byte("number", 1, 50),
        volts("voltage_v", 60000),
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
    rows=(byte("number", 1, 50), _temperatures("temperatures_c")),
)

PROBE_TEMPERATURES_2025: Final = Layout(
    label="0x08 probe temperatures",
    cls=ProbeTemperatures2025,
    clause=_CHAPTER_7,
    rows=(_pack_count("packs", PACK_TEMPERATURES_2025),),
)

FUEL_CELL_STACK_2025: Final = Layout(
    label="fuel-cell stack",
    cls=FuelCellStack,
    clause=_CHAPTER_7,
    rows=(
        byte("number", 1, 253),
        volts("voltage_v", 60000),
        # No offset: a stack only gives.
        word("current_a", 0, 60000, divisor=10, unit="A", sentinels=True),
        _kilopascals("hydrogen_inlet_pressure_kpa"),
        _kilopascals("air_inlet_pressure_kpa"),
        temperature("air_inlet_temperature_c"),
        _temperatures("coolant_outlet_temperatures_c"),
    ),
)

FUEL_CELL_STACKS_2025: Final = Layout(
    label="0x30 fuel-cell stacks",
    cls=FuelCellStacks,
    clause=_CHAPTER_7,
    rows=(byte_list("stacks", FUEL_CELL_STACK_2025, 0, 253, sentinels=True),),
)

SUPERCAPACITOR_2025: Final = Layout(
    label="0x31 supercapacitor",
    cls=Supercapacitor,
    clause=_CHAPTER_7,
    rows=(
        byte("number", 1, 253),
        volts("voltage_v", 60000),
        _wide_amperes("current_a"),
        _unit_volts("cell_voltages_v"),
        _temperatures("temperatures_c"),
    ),
)

SUPERCAPACITOR_EXTREMES_2025: Final = Layout(
    label="0x32 supercapacitor extremes",
    cls=SupercapacitorExtremes,
    clause=_CHAPTER_7,
    rows=(
        ordinal("cell_voltage_max_subsystem", 250),
        _wide_ordinal("cell_voltage_max_cell"),
        cell_volts("cell_voltage_max_v", 60000),
        ordinal("cell_voltage_min_subsystem", 250),
        _wide_ordinal("cell_voltage_min_cell"),
        cell_volts("cell_voltage_min_v", 60000),
        ordinal("temperature_max_subsystem", 250),
        _wide_ordinal("temperature_max_probe"),
        temperature("temperature_max_c"),
        ordinal("temperature_min_subsystem", 250),
        _wide_ordinal("temperature_min_probe"),
        temperature("temperature_min_c"),
    ),
)

SIGNATURE_2025: Final = Layout(
    label="0xFF signature",
    cls=Signature,
    clause="2025 table 8",
    rows=(
        byte("algorithm", 1, 3, values=SignatureAlgorithm),
        SizedBytes(name="r"),
        SizedBytes(name="s"),
    ),
)

BODIES_2025: Final[dict[int, Layout]] = {
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
}
"""By type."""


# --- messages --------------------------------------------------------------------------------------------------------

VEHICLE_LOGIN_2025: Final = Layout(
    label="vehicle login",
    cls=VehicleLogin2025,
    clause="2025, vehicle login",
    rows=(Time(), SERIAL, Text(name="iccid", size_bytes=20), PackTable()),
)

PLATFORM_LOGIN_2025: Final = Layout(
    label="platform login",
    cls=PlatformLogin,
    clause="2025, platform login",
    rows=(*PLATFORM_LOGIN_2016.rows[:-1], byte("cipher", 1, 5)),
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
        byte("status", 1, 2, values=ActivationStatus),
        byte("result", 0, 2, values=ActivationResult),
    ),
)

KEY_EXCHANGE: Final = Layout(
    label="key exchange",
    cls=KeyExchange,
    clause="2025 table 31",
    rows=(
        byte("key_type", 2, 5, values=Encryption),
        SizedBytes(name="key"),
        Time(name="valid_from"),
        Time(name="valid_until"),
    ),
)

MESSAGES_2025: Final[dict[int, Layout]] = {
    Command.VEHICLE_LOGIN: VEHICLE_LOGIN_2025,
    Command.VEHICLE_LOGOUT: VEHICLE_LOGOUT,
    Command.PLATFORM_LOGIN: PLATFORM_LOGIN_2025,
    Command.PLATFORM_LOGOUT: PLATFORM_LOGOUT,
    Command.ACTIVATION: ACTIVATION,
    Command.ACTIVATION_REPLY: ACTIVATION_REPLY,
    Command.KEY_EXCHANGE: KEY_EXCHANGE,
}
"""Data units with a layout, by command."""

PARAMETERS_2025: Final[dict[int, Row | int]] = COMMON_PARAMETERS | {
    ParameterId.REPORT_PERIOD_S: parameter(1, 1, 30, "s"),
    ParameterId.ALARM_REPORT_PERIOD: parameter(1, 0, 1, "s"),
}
"""By parameter id."""
