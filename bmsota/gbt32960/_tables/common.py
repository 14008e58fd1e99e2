"""The shorthand of the tables, and what both editions lay out alike.

A row is one call: the numbers of a message are `byte`, `word` and `dword` as in the text, with their range in raw numbers; a list is
counted in a BYTE or a WORD.
"""

from __future__ import annotations

from typing import Any, Final

from bmsota.gbt32960._enums import ParameterId
from bmsota.gbt32960._fields import Field, Layout, Repeat, Row, Text, Time
from bmsota.gbt32960._messages import PlatformLogout, VehicleLogout

# --- rows ------------------------------------------------------------------------------------------------------------


def byte(name: str, raw_min: int, raw_max: int, **more: Any) -> Field:
    """A number of one byte."""
    return Field(name=name, size_bytes=1, raw_min=raw_min, raw_max=raw_max, **more)


def word(name: str, raw_min: int, raw_max: int, **more: Any) -> Field:
    """A number of two bytes."""
    return Field(name=name, size_bytes=2, raw_min=raw_min, raw_max=raw_max, **more)


def dword(name: str, raw_min: int, raw_max: int, **more: Any) -> Field:
    """A number of four bytes."""
    return Field(name=name, size_bytes=4, raw_min=raw_min, raw_max=raw_max, **more)


def byte_list(name: str, item: Field | Layout, count_min: int, count_max: int, *, sentinels: bool = False) -> Repeat:
    """A BYTE count, then the items."""
    return Repeat(
        name=name, item=item, count_size_bytes=1, count_min=count_min, count_max=count_max, sentinels=sentinels
    )


def word_list(name: str, item: Field | Layout, count_min: int, count_max: int, *, sentinels: bool = False) -> Repeat:
    """A WORD count, then the items."""
    return Repeat(
        name=name, item=item, count_size_bytes=2, count_min=count_min, count_max=count_max, sentinels=sentinels
    )


def temperature(name: str) -> Field:
    """BYTE, 1 degree, 40 is zero."""
    return byte(name, 0, 250, raw_offset=40, unit="°C", sentinels=True)


def ordinal(name: str, raw_max: int) -> Field:
    """BYTE, a number that counts from 1."""
    return byte(name, 1, raw_max, sentinels=True)


def volts(name: str, raw_max: int) -> Field:
    """WORD, 0.1 V."""
    return word(name, 0, raw_max, divisor=10, unit="V", sentinels=True)


def cell_volts(name: str, raw_max: int) -> Field:
    """WORD, 1 mV."""
    return word(name, 0, raw_max, divisor=1000, unit="V", sentinels=True)


_FAULT: Final = dword("fault_code", 0, 0xFFFFFFFF)


def fault_list(name: str, count_max: int) -> Repeat:
    """A list of maker-defined DWORDs."""
    return byte_list(name, _FAULT, 0, count_max, sentinels=True)


# --- messages --------------------------------------------------------------------------------------------------------

SERIAL: Final = word("serial", 1, 65531)
VEHICLE_LOGOUT: Final = Layout(label="vehicle logout", cls=VehicleLogout, clause="table 20", rows=(Time(), SERIAL))
PLATFORM_LOGOUT: Final = Layout(label="platform logout", cls=PlatformLogout, clause="table 22", rows=(Time(), SERIAL))


# --- parameters (2016 table B.12, 2025 table B.8) --------------------------------------------------------------------


def parameter(size_bytes: int, raw_min: int, raw_max: int, unit: str) -> Field:
    return Field(name="value", size_bytes=size_bytes, raw_min=raw_min, raw_max=raw_max, unit=unit, sentinels=True)


_NAME_LENGTH: Final = byte("value", 0, 255, unit="B")
COMMON_PARAMETERS: Final[dict[int, Row | int]] = {
    ParameterId.LOCAL_STORAGE_PERIOD_MS: parameter(2, 0, 60000, "ms"),
    ParameterId.PLATFORM_NAME_LENGTH: _NAME_LENGTH,
    # An integer in place of a row: as many bytes of text as the parameter of that number has announced.
    ParameterId.PLATFORM_NAME: ParameterId.PLATFORM_NAME_LENGTH,
    ParameterId.PLATFORM_PORT: parameter(2, 0, 65531, ""),
    ParameterId.HARDWARE_VERSION: Text(name="value", size_bytes=5),
    ParameterId.FIRMWARE_VERSION: Text(name="value", size_bytes=5),
    ParameterId.HEARTBEAT_PERIOD_S: parameter(1, 1, 240, "s"),
    ParameterId.TERMINAL_REPLY_TIMEOUT_S: parameter(2, 1, 600, "s"),
    ParameterId.PLATFORM_REPLY_TIMEOUT_S: parameter(2, 1, 600, "s"),
    ParameterId.LOGIN_WAIT_MIN: parameter(1, 1, 240, "min"),
    ParameterId.PUBLIC_PLATFORM_NAME_LENGTH: _NAME_LENGTH,
    ParameterId.PUBLIC_PLATFORM_NAME: ParameterId.PUBLIC_PLATFORM_NAME_LENGTH,
    ParameterId.PUBLIC_PLATFORM_PORT: parameter(2, 0, 65531, ""),
    ParameterId.SAMPLED_MONITORING: parameter(1, 1, 2, ""),
}
