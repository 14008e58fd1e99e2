"""The tables of GB/T 32960.3-2016: its tables 6, 9 to 22 and B.4 to B.12."""

from __future__ import annotations

from math import copysign
from typing import Any, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._bodies import (
    Alarms,
    CellVoltages,
    DriveMotor,
    DriveMotors,
    Engine,
    Extremes,
    FuelCell,
    Position,
    Position2025,
    ProbeTemperatures,
    SubsystemTemperatures,
    SubsystemVoltages,
    VehicleData,
)
from bmsota.gbt32960._enums import (
    ChargingState,
    Command,
    DcdcState,
    EngineState,
    Gear,
    MotorState,
    ParameterId,
    RunMode,
    Sentinel,
    VehicleState,
)
from bmsota.gbt32960._fields import CodeTable, Field, Layout, Row, Text, Time
from bmsota.gbt32960._make import maker
from bmsota.gbt32960._messages import PlatformLogin, VehicleLogin
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


def amperes(name: str) -> Field:
    """WORD, 0.1 A, 10000 is zero. In 2016 that holds for the pack current of 0x08 too."""
    return word(name, 0, 20000, divisor=10, raw_offset=10000, unit="A", sentinels=True)


# --- bodies of a report ----------------------------------------------------------------------------------------------

VEHICLE_2016: Final = Layout(
    label="0x01 vehicle",
    cls=VehicleData,
    clause="table B.4",
    rows=(
        byte("vehicle_state", 1, 3, sentinels=True, values=VehicleState),
        byte("charging_state", 1, 4, sentinels=True, values=ChargingState),
        byte("run_mode", 1, 3, sentinels=True, values=RunMode),
        word("speed_kmh", 0, 2200, divisor=10, unit="km/h", sentinels=True),
        dword("odometer_km", 0, 9999999, divisor=10, unit="km", sentinels=True),
        volts("total_voltage_v", 10000),
        amperes("total_current_a"),
        byte("soc_pct", 0, 100, unit="%", sentinels=True),
        byte("dcdc_state", 1, 2, sentinels=True, values=DcdcState),
        byte("gear", 0, 0x3F, values=Gear, clause="table A.1"),
        # The text defines no sentinels for the insulation; terminals send them all the same, and 65535 kOhm is no value.
        word("insulation_kohm", 0, 60000, unit="kΩ", sentinels=True),
        byte("accelerator_pct", 0, 100, unit="%", sentinels=True),
        byte("brake_pct", 0, 101, unit="%", sentinels=True),
    ),
)

DRIVE_MOTOR_2016: Final = Layout(
    label="drive motor",
    cls=DriveMotor,
    clause="table 11",
    rows=(
        byte("number", 1, 253),
        byte("state", 1, 4, sentinels=True, values=MotorState),
        temperature("controller_temperature_c"),
        word("speed_rpm", 0, 65531, raw_offset=20000, unit="r/min", sentinels=True),
        # The text's "offset 20000" is in raw steps: 2000 N m.
        word("torque_nm", 0, 65531, divisor=10, raw_offset=20000, unit="N·m", sentinels=True),
        temperature("motor_temperature_c"),
        volts("controller_voltage_v", 60000),
        amperes("controller_current_a"),
    ),
)

DRIVE_MOTORS_2016: Final = Layout(
    label="0x02 drive motors",
    cls=DriveMotors,
    clause="table 10",
    rows=(byte_list("motors", DRIVE_MOTOR_2016, 1, 253, sentinels=True),),
)

FUEL_CELL_2016: Final = Layout(
    label="0x03 fuel cell",
    cls=FuelCell,
    clause="table 12",
    rows=(
        volts("voltage_v", 20000),
        # No offset here: the only current of the standard that cannot be negative.
        word("current_a", 0, 20000, divisor=10, unit="A", sentinels=True),
        word("consumption_kg_per_100km", 0, 60000, divisor=100, unit="kg/100 km", sentinels=True),
        word_list(
            "probe_temperatures_c",
            byte("temperature_c", 0, 240, raw_offset=40, unit="°C", sentinels=True),
            0,
            65531,
            sentinels=True,
        ),
        word("hydrogen_temperature_c_max", 0, 2400, divisor=10, raw_offset=400, unit="°C", sentinels=True),
        ordinal("hydrogen_temperature_probe", 252),
        # The text says raw 0..60000 and means 0..50000 mg/kg; the raw number is reported as it is.
        word("hydrogen_concentration_mg_per_kg_max", 0, 60000, unit="mg/kg", sentinels=True),
        ordinal("hydrogen_concentration_sensor", 252),
        word("hydrogen_pressure_mpa_max", 0, 1000, divisor=10, unit="MPa", sentinels=True),
        ordinal("hydrogen_pressure_sensor", 252),
        byte("dcdc_state", 1, 2, sentinels=True, values=DcdcState),
    ),
)

ENGINE_2016: Final = Layout(
    label="0x04 engine",
    cls=Engine,
    clause="table 13",
    rows=(
        byte("state", 1, 2, sentinels=True, values=EngineState),
        word("crankshaft_speed_rpm", 0, 60000, unit="r/min", sentinels=True),
        word("fuel_rate_l_per_100km", 0, 60000, divisor=100, unit="L/100 km", sentinels=True),
    ),
)

_new_position: Final = maker(Position)
_INVALID_BIT: Final = 0x01
_SOUTH_BIT: Final = 0x02
_WEST_BIT: Final = 0x04


def build_position(status: int, longitude: float | Sentinel, latitude: float | Sentinel) -> Position:
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


def position_parts(position: Position | Position2025) -> tuple[int, float | Sentinel, float | Sentinel]:
    """Take the signs apart again. -0.0 is west or south too, so that any frame comes back as it was."""
    longitude, latitude, bits = position.longitude_deg, position.latitude_deg, position.reserved_bits
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
        msg = f"0x05 position.reserved_bits: expected only bits of {allowed:#04x}, got {bits:#x}"
        raise LocalProtocolError(msg)
    return status | bits, longitude, latitude


POSITION_2016: Final = Layout(
    label="0x05 position",
    cls=Position,
    clause="table 14",
    rows=(
        # Bit 0: 1 is INVALID; bit 1: south; bit 2: west (table 15).
        byte("status", 0, 7, clause="table 15"),
        # Magnitudes; longitude comes before latitude. The text has no sentinels here, terminals send them.
        dword("longitude_deg", 0, 180_000_000, divisor=1_000_000, unit="°", sentinels=True),
        dword("latitude_deg", 0, 90_000_000, divisor=1_000_000, unit="°", sentinels=True),
    ),
    build=build_position,
    parts=position_parts,
)

EXTREMES_2016: Final = Layout(
    label="0x06 extremes",
    cls=Extremes,
    clause="table 16",
    rows=(
        ordinal("cell_voltage_max_subsystem", 250),
        ordinal("cell_voltage_max_cell", 250),
        cell_volts("cell_voltage_max_v", 15000),
        ordinal("cell_voltage_min_subsystem", 250),
        ordinal("cell_voltage_min_cell", 250),
        cell_volts("cell_voltage_min_v", 15000),
        ordinal("temperature_max_subsystem", 250),
        ordinal("temperature_max_probe", 250),
        temperature("temperature_max_c"),
        ordinal("temperature_min_subsystem", 250),
        ordinal("temperature_min_probe", 250),
        temperature("temperature_min_c"),
    ),
)

ALARMS_2016: Final = Layout(
    label="0x07 alarms",
    cls=Alarms,
    clause="table 17",
    rows=(
        byte("level_max", 0, 3, sentinels=True),
        # Bits 19 to 31 are reserved in 2016; the range says so, and decoding keeps them.
        dword("flags", 0, 0x7FFFF, clause="table 18"),
        fault_list("ress_faults", 252),
        fault_list("motor_faults", 252),
        fault_list("engine_faults", 252),
        fault_list("other_faults", 252),
    ),
)

SUBSYSTEM_VOLTAGES_2016: Final = Layout(
    label="subsystem voltages",
    cls=SubsystemVoltages,
    clause="table B.6",
    rows=(
        byte("number", 1, 250),
        volts("voltage_v", 10000),
        amperes("current_a"),
        word("cell_count", 1, 65531, sentinels=True),
        word("first_cell", 1, 65531),
        byte_list("cell_voltages_v", cell_volts("cell_voltage_v", 60000), 1, 200),
    ),
)

CELL_VOLTAGES_2016: Final = Layout(
    label="0x08 cell voltages",
    cls=CellVoltages,
    clause="table B.5",
    rows=(byte_list("subsystems", SUBSYSTEM_VOLTAGES_2016, 1, 250, sentinels=True),),
)

SUBSYSTEM_TEMPERATURES_2016: Final = Layout(
    label="subsystem temperatures",
    cls=SubsystemTemperatures,
    clause="table B.8",
    rows=(
        byte("number", 1, 250),
        word_list("temperatures_c", temperature("temperature_c"), 1, 65531, sentinels=True),
    ),
)

PROBE_TEMPERATURES_2016: Final = Layout(
    label="0x09 probe temperatures",
    cls=ProbeTemperatures,
    clause="table B.7",
    rows=(byte_list("subsystems", SUBSYSTEM_TEMPERATURES_2016, 1, 250, sentinels=True),),
)

BODIES_2016: Final[dict[int, Layout]] = {
    0x01: VEHICLE_2016,
    0x02: DRIVE_MOTORS_2016,
    0x03: FUEL_CELL_2016,
    0x04: ENGINE_2016,
    0x05: POSITION_2016,
    0x06: EXTREMES_2016,
    0x07: ALARMS_2016,
    0x08: CELL_VOLTAGES_2016,
    0x09: PROBE_TEMPERATURES_2016,
}
"""By type."""


# --- messages --------------------------------------------------------------------------------------------------------


def _build_login(time: Any, serial: int, iccid: str, codes: tuple[int, int, tuple[str, ...]]) -> VehicleLogin:
    count, length, names = codes
    return VehicleLogin(time, serial, iccid, names, count, length)


def _login_parts(login: VehicleLogin) -> tuple[Any, ...]:
    return login.time, login.serial, login.iccid, (login.subsystem_count, login.code_length, login.subsystem_codes)


VEHICLE_LOGIN_2016: Final = Layout(
    label="vehicle login",
    cls=VehicleLogin,
    clause="table 6",
    rows=(Time(), SERIAL, Text(name="iccid", size_bytes=20), CodeTable()),
    build=_build_login,
    parts=_login_parts,
)

PLATFORM_LOGIN_2016: Final = Layout(
    label="platform login",
    cls=PlatformLogin,
    clause="table 21",
    rows=(
        Time(),
        SERIAL,
        Text(name="user", size_bytes=12),
        Text(name="password", size_bytes=20),
        byte("cipher", 1, 3),
    ),
)

MESSAGES_2016: Final[dict[int, Layout]] = {
    Command.VEHICLE_LOGIN: VEHICLE_LOGIN_2016,
    Command.VEHICLE_LOGOUT: VEHICLE_LOGOUT,
    Command.PLATFORM_LOGIN: PLATFORM_LOGIN_2016,
    Command.PLATFORM_LOGOUT: PLATFORM_LOGOUT,
}
"""Data units with a layout, by command."""

PARAMETERS_2016: Final[dict[int, Row | int]] = COMMON_PARAMETERS | {
    ParameterId.REPORT_PERIOD_S: parameter(2, 1, 600, "s"),
    ParameterId.ALARM_REPORT_PERIOD: parameter(2, 0, 60000, "ms"),
}
"""By parameter id."""
