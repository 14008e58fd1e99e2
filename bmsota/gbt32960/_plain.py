"""Rows one at a time, the plain way, with words for what is wrong.

The compiled codec (`_compile`) does the usual case fast and comes here for everything unusual: sentinels in a fast run, values
that need rounding, values that do not fit. Also the few shapes that are not worth compiling.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from bmsota._words import counted
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960._enums import Sentinel
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
    sentinel_raws,
)
from bmsota.gbt32960._time import BEIJING, to_beijing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def values_in(layout: Layout, value: Any) -> tuple[Any, ...]:
    """Return the values of the rows of *layout*, taken from a value of its class."""
    if layout.parts is not None:
        return layout.parts(value)
    return tuple(getattr(value, row.name) for row in layout.rows)


def short(where: str, at: int, size: int, end: int) -> FrameError:
    """The error for a body that ends too early: *size* bytes were needed at *at*."""
    return FrameError(where, expected=counted(size, "more byte"), received=f"{end - at}", offset=at)


def time_of(raw: bytes, at: int) -> datetime:
    """Return the instant that six bytes name; *at* is where they stand."""
    year, month, day, hour, minute, second = raw
    if year <= 99:
        try:
            return datetime(2000 + year, month, day, hour, minute, second, 0, BEIJING)
        except ValueError:
            pass
    came = f"{year:02d}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:{second:02d}"
    raise FrameError("time", expected="a date and time of the years 2000 to 2099", received=came, offset=at)


def text_of(raw: bytes, padding: bytes = b"\0") -> str:
    """Return the text of a STRING field. Bytes that are no GB 18030 survive as lone surrogates, so none is lost."""
    raw = raw.rstrip(padding)
    if raw.isascii():
        return raw.decode("ascii")
    return raw.decode("gb18030", "surrogateescape")


def bytes_of_text(where: str, text: str, size_bytes: int, padding: bytes = b"\0") -> bytes:
    """Return *text* as a STRING of fixed size."""
    try:
        raw = text.encode("gb18030", "surrogateescape")
    except (AttributeError, UnicodeEncodeError):
        msg = f"{where}: expected text, got {text!r}"
        raise LocalProtocolError(msg) from None
    if len(raw) > size_bytes:
        msg = f"{where}: expected at most {counted(size_bytes, 'byte')}, got {len(raw)} ({text!r})"
        raise LocalProtocolError(msg)
    return raw.ljust(size_bytes, padding)


def bytes_of_time(where: str, moment: Any) -> bytes:
    """Return *moment* as six bytes. Fractions of a second are not carried by the wire and fall away."""
    if not isinstance(moment, datetime):  # A caller without a type checker.
        msg = f"{where}: expected an aware datetime, got {moment!r}"
        raise LocalProtocolError(msg)
    local = moment
    # Far from the range the conversion itself could overflow.
    if moment.tzinfo is not BEIJING and 1999 <= moment.year <= 2100:
        local = to_beijing(moment)
    if not 2000 <= local.year <= 2099:
        msg = f"{where}: expected a year from 2000 to 2099, got {local.year}"
        raise LocalProtocolError(msg)
    return bytes((local.year - 2000, local.month, local.day, local.hour, local.minute, local.second))


def raw_of_field(row: Field, where: str, value: Any, *, strict: bool) -> int:
    """Return the raw number for *value*, or say why there is none."""
    if row.sentinels and isinstance(value, Sentinel):
        return next(raw for raw, sentinel in sentinel_raws(row.size_bytes).items() if sentinel is value)
    try:
        raw: int = round(value * row.divisor) + row.raw_offset
    except (TypeError, ValueError, OverflowError):  # Not a number, NaN, infinite.
        raw = -1
    low, high = (row.raw_min, row.raw_max) if strict else (0, row.raw_limit)
    if not low <= raw <= high:
        unit = f" {row.unit}" if row.unit else ""
        or_else = " or a Sentinel" if row.sentinels else ""
        expected = (
            f"{(low - row.raw_offset) / row.divisor:g} to {(high - row.raw_offset) / row.divisor:g}{unit}{or_else}"
        )
        msg = f"{where}.{row.name}: expected {expected}, got {value!r}"
        raise LocalProtocolError(msg)
    return raw


def bytes_of_field(row: Field, where: str, value: Any, *, strict: bool) -> bytes:
    """Return one number as it stands on the wire."""
    return raw_of_field(row, where, value, strict=strict).to_bytes(row.size_bytes, "big")


def _bytes_of_sized(row: SizedText | SizedBytes, where: str, value: Any) -> bytes:
    if isinstance(row, SizedText):
        try:
            data: bytes = value.encode("utf-8")
        except (AttributeError, UnicodeEncodeError):
            msg = f"{where}.{row.name}: expected text, got {value!r}"
            raise LocalProtocolError(msg) from None
        size = 1
    else:
        data, size = _as_bytes(f"{where}.{row.name}", value), 2
    if not row.size_bytes_min <= len(data) <= row.size_bytes_max:
        expected = f"{row.size_bytes_min} to {row.size_bytes_max} bytes"
        msg = f"{where}.{row.name}: expected {expected}, got {len(data)}"
        raise LocalProtocolError(msg)
    return len(data).to_bytes(size, "big") + data


def _as_bytes(where: str, value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        msg = f"{where}: expected bytes, got {value!r}"
        raise LocalProtocolError(msg)
    return bytes(value)


def _bytes_of_code_table(row: CodeTable, where: str, value: Any, *, strict: bool) -> bytes:
    count, length, codes = value
    count_max, length_max = (row.count_max, row.length_max) if strict else (255, 255)
    if not (0 <= count <= count_max and 0 <= length <= length_max):
        expected = f"at most {count_max} subsystems with codes of at most {counted(length_max, 'byte')}"
        msg = f"{where}: expected {expected}, got {count} of {length}"
        raise LocalProtocolError(msg)
    if len(codes) != (count if length else 0):
        expected = f"{count} subsystem codes of {length} bytes" if length else "no subsystem codes of length 0"
        msg = f"{where}: expected {expected}, got {len(codes)}"
        raise LocalProtocolError(msg)
    return bytes((count, length)) + b"".join(bytes_of_text(f"{where}.{row.name}", code, length) for code in codes)


def _bytes_of_pack_table(row: PackTable, where: str, value: Any, *, strict: bool) -> bytes:
    count_max, packs_max = (row.count_max, row.packs_max) if strict else (255, 255)
    where = f"{where}.{row.name}"
    if not isinstance(value, (tuple, list)) or not all(isinstance(packs, (tuple, list)) for packs in value):
        msg = f"{where}: expected a tuple of codes for each BMS, got {value!r}"
        raise LocalProtocolError(msg)
    if len(value) > count_max or any(len(packs) > packs_max for packs in value):
        expected = f"at most {count_max} BMS with at most {packs_max} packs each"
        msg = f"{where}: expected {expected}, got {[len(packs) for packs in value]}"
        raise LocalProtocolError(msg)
    counts = bytes((len(value), *map(len, value)))
    codes = (bytes_of_text(where, code, row.code_size_bytes) for packs in value for code in packs)
    return counts + b"".join(codes)


def _bytes_of_count(row: Repeat, where: str, count: int, *, strict: bool) -> bytes:
    low, high = (row.count_min, row.count_max) if strict else (0, row.count_limit)
    if not low <= count <= high:
        msg = f"{where}.{row.name}: expected {low} to {high} items, got {count}"
        raise LocalProtocolError(msg)
    return count.to_bytes(row.count_size_bytes, "big")


def wrong_item(row: Repeat, where: str, item: Any) -> LocalProtocolError:
    assert isinstance(row.item, Layout)
    return LocalProtocolError(f"{where}.{row.name}: expected {row.item.cls.__name__}, got {item!r}")


def _bytes_of_repeat(row: Repeat, where: str, value: Any, *, strict: bool) -> bytes:
    if row.sentinels and isinstance(value, Sentinel):
        raws = sentinel_raws(row.count_size_bytes)
        return next(raw for raw, sentinel in raws.items() if sentinel is value).to_bytes(row.count_size_bytes, "big")
    if not isinstance(value, (tuple, list)):
        or_else = " or a Sentinel" if row.sentinels else ""
        msg = f"{where}.{row.name}: expected a tuple{or_else}, got {value!r}"
        raise LocalProtocolError(msg)
    out = [_bytes_of_count(row, where, len(value), strict=strict)]
    if isinstance(row.item, Layout):
        for item in value:
            if type(item) is not row.item.cls:
                raise wrong_item(row, where, item)
            out.append(bytes_of_rows(row.item.rows, row.item.label, values_in(row.item, item), strict))
    else:
        out += [bytes_of_field(row.item, f"{where}.{row.name}", item, strict=strict) for item in value]
    return b"".join(out)


def _bytes_of_row(row: Row, where: str, value: Any, *, strict: bool) -> bytes:
    match row:
        case Field():
            return bytes_of_field(row, where, value, strict=strict)
        case Time():
            return bytes_of_time(f"{where}.{row.name}", value)
        case Text():
            return bytes_of_text(f"{where}.{row.name}", value, row.size_bytes, row.padding)
        case SizedText() | SizedBytes():
            return _bytes_of_sized(row, where, value)
        case FixedBytes():
            data = _as_bytes(f"{where}.{row.name}", value)
            if len(data) != row.size_bytes:
                msg = f"{where}.{row.name}: expected {row.size_bytes} bytes, got {len(data)}"
                raise LocalProtocolError(msg)
            return data
        case CodeTable():
            return _bytes_of_code_table(row, where, value, strict=strict)
        case PackTable():
            return _bytes_of_pack_table(row, where, value, strict=strict)
        case Repeat():
            return _bytes_of_repeat(row, where, value, strict=strict)


def bytes_of_rows(rows: Sequence[Row], where: str, values: Iterable[Any], strict: bool) -> bytes:
    """Encode some rows the plain way. The compiled encoders come here for everything unusual."""
    return b"".join(_bytes_of_row(row, where, value, strict=strict) for row, value in zip(rows, values, strict=True))


def codes_at(data: bytes, at: int, end: int) -> tuple[tuple[int, int, tuple[str, ...]], int]:
    """Read the tail of the login: count, length, codes."""
    if end - at < 2:
        raise short("vehicle login", at, 2, end)
    count, length = data[at], data[at + 1]
    at += 2
    if end - at < count * length:
        raise short(f"vehicle login: {count} codes of {length} bytes", at, count * length, end)
    codes = tuple(text_of(data[at + i * length : at + (i + 1) * length]) for i in range(count)) if length else ()
    return (count, length, codes), at + count * length


def packs_at(row: PackTable, where: str, data: bytes, at: int, end: int) -> tuple[tuple[tuple[str, ...], ...], int]:
    """Read the tail of the 2025 login: count of BMS, packs of each, codes."""
    where = f"{where}.{row.name}"
    if at >= end:
        raise short(where, at, 1, end)
    counts = data[at + 1 : min(at + 1 + data[at], end)]
    if len(counts) < data[at]:
        raise short(where, at + 1, data[at], end)
    at += 1 + len(counts)
    size = row.code_size_bytes
    if end - at < sum(counts) * size:
        raise short(f"{where}: {sum(counts)} codes", at, sum(counts) * size, end)
    found = []
    for count in counts:
        found.append(tuple(text_of(data[at + i * size : at + (i + 1) * size]) for i in range(count)))
        at += count * size
    return tuple(found), at


def sized_at(row: SizedText | SizedBytes, where: str, data: bytes, at: int, end: int) -> tuple[Any, int]:
    """Read a length and what it announces."""
    size = 1 if isinstance(row, SizedText) else 2
    if end - at < size:
        raise short(f"{where}.{row.name}", at, size, end)
    length = int.from_bytes(data[at : at + size], "big")
    if not row.size_bytes_min <= length <= row.size_bytes_max:
        expected = f"a length from {row.size_bytes_min} to {row.size_bytes_max}"
        raise FrameError(f"{where}.{row.name}", expected=expected, received=str(length), offset=at)
    at += size
    if end - at < length:
        raise short(f"{where}.{row.name}", at, length, end)
    raw = data[at : at + length]
    if isinstance(row, SizedBytes):
        return raw, at + length
    try:
        return raw.decode("utf-8"), at + length
    except UnicodeDecodeError:
        raise FrameError(f"{where}.{row.name}", expected="UTF-8 text", received=raw.hex(), offset=at) from None
