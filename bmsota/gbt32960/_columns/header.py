"""What stands before the bodies, for many frames at once: identifiers and times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._columns.numbers import wrong_shape
from bmsota.gbt32960._time import BEIJING
from bmsota.gbt32960._walk import REPORTS, TIME, VIN_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bmsota.gbt32960._columns.values import FrameGroup

    Array = NDArray[Any]


def _month_tables() -> tuple[Array, Array]:
    """By year and month byte: the UTC second at which the month begins in Beijing, and its number of days (0: no month)."""
    starts, days = np.zeros(0x10000), np.zeros(0x10000, np.uint8)  # A century of seconds is exact in float64.
    edges = np.arange("2000-01", "2100-02", dtype="datetime64[M]").astype("datetime64[s]").astype(np.int64)
    codes = (np.arange(100)[:, None] * 256 + np.arange(1, 13)).ravel()
    offset = BEIJING.utcoffset(None)
    assert offset is not None
    # One day less, because days count from 1.
    starts[codes] = edges[:-1] - int(offset.total_seconds()) - 86400
    days[codes] = np.diff(edges) // 86400
    return starts, days


_STARTS, _DAYS = _month_tables()


_MINUTE: Final = np.int64(60)
_CLOCK_LIMITS: Final = np.array([23, 59, 59], np.uint8)
_SECONDS: Final = np.array([86400.0, 3600.0, 60.0, 1.0])
"""Of a day, an hour, a minute, a second."""


def times_of(raw: Array) -> tuple[Array, Array | None]:
    """Seconds since the epoch (UTC), and which of them are real (None: all), of six rows of bytes."""
    is_real: Array
    # Frames that arrive together are mostly of one hour: half the work.
    if raw.shape[1] and not np.count_nonzero(raw[:4] != raw[:4, :1]):
        year, month_of_year, day, hour = raw[:4, 0].tolist()
        code = (year << 8) | month_of_year
        seconds = raw[4] * _MINUTE
        seconds += raw[5]
        seconds += int(_STARTS[code]) + day * 86400 + hour * 3600
        is_day = 1 <= day <= _DAYS[code] and hour <= 23
        if is_day and np.maximum.reduce(raw[4:], axis=None) <= 59:
            return seconds, None
        return seconds, is_day & (raw[4:] <= _CLOCK_LIMITS[1:, None]).all(axis=0)
    month = raw[0].astype(np.intp)
    month <<= 8
    month |= raw[1]
    days = raw[2] - np.uint8(1)  # Day 0 becomes 255, which no month has.
    is_real = days < _DAYS.take(month)
    clock = raw[3:]
    if (clock.max(axis=1) > _CLOCK_LIMITS).any():
        is_real &= (clock <= _CLOCK_LIMITS[:, None]).all(axis=0)
    real = _SECONDS @ raw[2:].astype(np.float64)
    real += _STARTS.take(month)
    return real.astype(np.int64), is_real


def time_of(data: bytes) -> int | None:
    """As `times_of`, of one frame; None if it is no time."""
    year, month, day, hour, minute, second = data[TIME]
    code = (year << 8) | month
    if not 1 <= day <= _DAYS[code] or hour > 23 or minute > 59 or second > 59:
        return None
    return int(_STARTS[code]) + 86400 * day + 3600 * hour + 60 * minute + second


def is_identifier(raw: bytes) -> bool:
    """As `are_identifiers`, of one."""
    return raw.isalnum() or all(0x20 < letter < 0x7F for letter in raw.rstrip(b"\0"))


def are_identifiers(raw: Array) -> Array:
    """Which identifiers are visible ASCII, followed by nothing but zero bytes. `decode` judges the rest."""
    visible = (raw > 0x20) & (raw < 0x7F)
    found: Array = (visible | (raw == 0)).all(axis=1) & (visible[:, 1:] <= visible[:, :-1]).all(axis=1)
    return found


def check_header(group: FrameGroup) -> Array:
    """Check what stands before the bodies, and return the identifiers as numbers."""
    count = len(group)
    for name in ("command", "vin", "time"):
        column = getattr(group, name)
        if column.shape != (count,):
            raise wrong_shape(name, (count,), column)
    command = group.command
    if not bool(((command == REPORTS[0]) | (command == REPORTS[1])).all()):
        msg = f"command: expected 2 or 3 in every row, got {sorted(set(command.tolist()))}"
        raise LocalProtocolError(msg)
    if group.vin.dtype.kind != "U" or group.vin.dtype.itemsize > 4 * VIN_SIZE:
        msg = f"vin: expected an array of str of up to 17 characters, got {group.vin.dtype}"
        raise LocalProtocolError(msg)
    letters = np.ascontiguousarray(group.vin, f"=U{VIN_SIZE}").view(np.uint32).reshape(count, VIN_SIZE)
    if count and not (letters.max() < 0x7F and letters.min() > 0x20):
        fit = are_identifiers(letters)
        if not fit.all():
            msg = f"vin: expected visible ASCII, got {str(group.vin[int(np.argmin(fit))])!r}"
            raise LocalProtocolError(msg)
    return letters


_YEAR_2000: Final = np.datetime64("2000-01-01", "s").astype(np.int64)
_YEAR_2100: Final = np.datetime64("2100-01-01", "s").astype(np.int64)


def _dates() -> Array:
    """Year, month and day byte of each day of the century."""
    days = np.arange("2000-01-01", "2100-01-01", dtype="datetime64[D]")
    months, years = days.astype("datetime64[M]"), days.astype("datetime64[Y]")
    parts = (years - years[0], months - years.astype("datetime64[M]"), days - months.astype("datetime64[D]"))
    table = np.array([part.astype(np.int64) for part in parts]).astype(np.uint8)
    table[1:] += 1
    return table


_DATES: Final = _dates()


def bytes_of_times(times: Array) -> Array:
    """The six rows of bytes that name *times*."""
    if times.dtype.kind != "M":
        msg = f"time: expected datetime64 (UTC), got {times.dtype}"
        raise LocalProtocolError(msg)
    since = times.astype("datetime64[s]").astype(np.int64) + (28800 - _YEAR_2000)
    # NaT is the lowest number there is.
    if len(since) and not (since.min() >= 0 and since.max() < _YEAR_2100 - _YEAR_2000):
        bad = np.flatnonzero((since < 0) | (since >= _YEAR_2100 - _YEAR_2000))[0]
        msg = f"time: expected a year from 2000 to 2099 in Beijing, got {times[bad]} (row {bad} of the group)"
        raise LocalProtocolError(msg)
    rest = since.astype(np.uint32)  # A century has fewer seconds.
    out = np.empty((6, len(rest)), np.uint8)
    days = rest // 86400
    out[:3] = _DATES[:, days]
    rest -= days * 86400
    out[3] = hours = rest // 3600
    rest -= hours * 3600
    out[4] = minutes = rest // 60
    out[5] = rest - minutes * 60
    return out
