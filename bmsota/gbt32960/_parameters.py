"""The parameter lists of 0x80 and 0x81 (2016 tables B.9 to B.12, 2025 table B.8).

Two traps: the names (0x05, 0x0E) have no length of their own, so their length parameter must stand before them in the same
list; and a parameter that is not in the table has an unknown size, so the list ends there and the rest is kept as bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmsota._words import counted
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960._enums import Sentinel
from bmsota.gbt32960._fields import Field, Text, sentinel_raws
from bmsota.gbt32960._messages import Parameter, ParameterQuery, ParameterValues
from bmsota.gbt32960._plain import bytes_of_field, bytes_of_text, bytes_of_time, short, text_of, time_of
from bmsota.gbt32960._tables import PARAMETER_ROWS

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota.gbt32960._enums import Edition


_COUNT_MAX = 253
"""A BYTE without its two sentinels. The text says 252."""


def is_query(data: bytes, at: int, end: int) -> bool:
    """Whether a 0x80 data unit has the shape of the command: as many bytes behind the count as it says.

    Only the flag is meant to tell command and reply apart, but terminals send the reply under 0xFE. No list of values has
    this length, because every item takes more than one byte.
    """
    return end - at >= 7 and (end - at == 7 + data[at + 6] or data[at + 6] > _COUNT_MAX)


def _head(where: str, data: bytes, at: int, end: int) -> tuple[datetime, int, int]:
    if end - at < 7:
        raise short(where, at, 7, end)
    return time_of(data[at : at + 6], at), data[at + 6], at + 7


def decode_query(data: bytes, at: int, end: int) -> ParameterQuery:
    """Read the data unit of a 0x80 command, which `is_query` has found to have its shape."""
    time, count, at = _head("parameter query", data, at, end)
    if count > _COUNT_MAX:
        if end != at:
            received = f"{end - at} bytes"
            raise FrameError("parameter query", expected="no ids behind a sentinel", received=received, offset=at)
        return ParameterQuery(time, sentinel_raws(1)[count])
    return ParameterQuery(time, tuple(data[at:end]))


def decode_values(edition: Edition, data: bytes, at: int, end: int) -> ParameterValues:
    """Read the data unit of a 0x80 reply or a 0x81 command."""
    where = "parameters"
    time, count, at = _head(where, data, at, end)
    rows = PARAMETER_ROWS[edition]
    items: list[Parameter] = []
    lengths: dict[int, int] = {}
    for index in range(count if count <= _COUNT_MAX else 0):
        if at >= end:
            raise short(f"{where}: item {index + 1} of {count}", at, 1, end)
        parameter_id = data[at]
        row = rows.get(parameter_id)
        where = f"parameter {parameter_id:#04x}"
        at += 1
        if row is None:
            items.append(Parameter(parameter_id, data[at:end]))
            return ParameterValues(time, tuple(items), count)
        if isinstance(row, int):
            if row not in lengths:
                expected = f"its length, parameter {row:#04x}, earlier in the list"
                raise FrameError(where, expected=expected, received="none", offset=at - 1)
            size = lengths[row]
        else:
            assert isinstance(row, (Field, Text))
            size = row.size_bytes
        if end - at < size:
            raise short(where, at, size, end)
        raw = data[at : at + size]
        at += size
        if isinstance(row, Field):
            value = row.value(int.from_bytes(raw, "big"))
            if isinstance(value, int):
                lengths[parameter_id] = value
            items.append(Parameter(parameter_id, value))
        else:
            items.append(Parameter(parameter_id, _exact(raw) if isinstance(row, int) else text_of(raw)))
    if at != end:
        raise FrameError(
            "parameters", expected=counted(count, "item"), received=counted(end - at, "more byte"), offset=at
        )
    if count > _COUNT_MAX:
        return ParameterValues(time, sentinel_raws(1)[count])
    return ParameterValues(time, tuple(items), count)


def _exact(raw: bytes) -> str:
    """Text whose length is announced: zero bytes at the end belong to it."""
    return raw.decode("gb18030", "surrogateescape")


def _count_of(where: str, items: Any, count: int | None) -> bytes:
    if isinstance(items, Sentinel):
        return bytes((next(raw for raw, sentinel in sentinel_raws(1).items() if sentinel is items),))
    number = len(items) if count is None else count
    if not 0 <= number <= _COUNT_MAX:
        msg = f"{where}: expected at most {_COUNT_MAX} items, got {number}"
        raise LocalProtocolError(msg)
    return bytes((number,))


def encode_query(message: ParameterQuery) -> bytes:
    """Return the data unit."""
    ids = message.parameter_ids
    out = bytes_of_time("parameter query.time", message.time) + _count_of("parameter query", ids, None)
    if isinstance(ids, Sentinel):
        return out
    if not all(isinstance(item, int) and 0 <= item <= 255 for item in ids):
        msg = f"parameter query.parameter_ids: expected numbers from 0 to 255, got {ids!r}"
        raise LocalProtocolError(msg)
    return out + bytes(ids)


def encode_values(edition: Edition, message: ParameterValues, *, strict: bool) -> bytes:
    """Return the data unit."""
    items = message.parameters
    out = [bytes_of_time("parameters.time", message.time), _count_of("parameters", items, message.count)]
    if isinstance(items, Sentinel):
        return b"".join(out)
    rows = PARAMETER_ROWS[edition]
    lengths: dict[int, int] = {}
    is_open = False
    for item in items:
        where = f"parameter {item.parameter_id:#04x}"
        if is_open:
            msg = f"{where}: follows a parameter of unknown size, which must be the last"
            raise LocalProtocolError(msg)
        if not 0 <= item.parameter_id <= 255:
            msg = f"parameter id: expected 0 to 255, got {item.parameter_id}"
            raise LocalProtocolError(msg)
        row = rows.get(item.parameter_id)
        out.append(bytes((item.parameter_id,)))
        if row is None:
            if not isinstance(item.value, bytes):
                msg = f"{where}: expected bytes, since its size is not known, got {item.value!r}"
                raise LocalProtocolError(msg)
            is_open = True
            out.append(item.value)
        elif isinstance(row, int):
            if row not in lengths:
                msg = f"{where}: no length; put parameter {row:#04x} before it in the list"
                raise LocalProtocolError(msg)
            raw = bytes_of_text(where, item.value, lengths[row])  # type: ignore[arg-type]
            if raw != _bytes_of(item.value):
                msg = f"{where}: expected {lengths[row]} bytes as announced, got {item.value!r}"
                raise LocalProtocolError(msg)
            out.append(raw)
        elif isinstance(row, Text):
            out.append(bytes_of_text(where, item.value, row.size_bytes))  # type: ignore[arg-type]
        else:
            assert isinstance(row, Field)
            out.append(bytes_of_field(row, where, item.value, strict=strict))
            if isinstance(item.value, int):
                lengths[item.parameter_id] = item.value
    announced = message.count if message.count is not None else len(items)
    if announced != len(items) and not (is_open and announced > len(items)):
        msg = f"parameters.count: expected {len(items)}, got {announced}"
        raise LocalProtocolError(msg)
    return b"".join(out)


def _bytes_of(value: object) -> bytes:
    return value.encode("gb18030", "surrogateescape") if isinstance(value, str) else b""
