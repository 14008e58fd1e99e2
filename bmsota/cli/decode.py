"""`bmsota decode`: GB/T 32960.3 frames in, words out.

Frames come as hexadecimal arguments, as lines of standard input, or as a raw stream on standard input. What is no frame is
said in one line each, and the frames around it are shown all the same.

Exit codes: 0 everything was a valid frame; 1 something was not; 2 the command was called wrongly.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from bmsota.errors import FrameError
from bmsota.gbt32960 import NEED_DATA, FrameReader, FrameReceived, Gear, Sentinel, decode, explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.gbt32960 import ExplainedField, Frame

__all__ = ["command"]

_INPUT_SIZE_BYTES_MAX: Final = 256 * 1024 * 1024
"""What is read from standard input: half a million frames as text. A capture beyond that belongs into a file tool."""
_FRAME_DIGITS_MIN: Final = 50
"""Hex digits of the shortest frame. Shorter arguments are pieces of one frame that was pasted with its blanks."""
_SHOWN_BYTES: Final = 12
"""How many bytes of one field `--explain` prints before it shortens them."""


@dataclass(frozen=True, slots=True)
class _Found:
    """One frame, or one piece of input that is none."""

    place: str
    data: bytes
    frame: Frame | None = None
    error: str = ""


def command(
    frames: Annotated[
        list[str] | None, typer.Argument(metavar="[HEX]...", help="Frames; without any, standard input is read.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="Every field: offset, bytes, name, raw number, value, unit, clause.")
    ] = False,
) -> None:
    """Decode GB/T 32960.3 frames, both editions.

    HEX may have blanks, colons, and 0x in front. On standard input, one line is one frame or several glued together; a
    stream that is not text is taken as raw bytes. Empty lines are skipped.
    """
    has_bad = False
    for found in _from_arguments(frames) if frames else _from_stdin():
        has_bad |= found.frame is None
        if as_json:
            typer.echo(json.dumps(_json_of(found, explained=explained), ensure_ascii=False))
        elif found.frame is None:
            typer.echo(f"{found.place}: {found.error}", err=True)
        else:
            for line in _explained(found) if explained else _lines(found):
                typer.echo(line)
    if has_bad:
        raise typer.Exit(1)


# --- input -----------------------------------------------------------------------------------------------------------


def _from_arguments(arguments: list[str]) -> Iterator[_Found]:
    cleaned = [_digits(argument) for argument in arguments]
    if any(len(digits) < _FRAME_DIGITS_MIN for digits in cleaned):
        cleaned = ["".join(cleaned)]
    for number, digits in enumerate(cleaned, start=1):
        try:
            data = bytes.fromhex(digits)
        except ValueError:
            msg = f"argument {number}: expected hexadecimal digits, two for each byte"
            raise typer.BadParameter(msg) from None
        yield from _frames_in(f"frame {number}", data)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _from_stdin() -> Iterator[_Found]:
    if _is_terminal():
        msg = "expected frames as arguments or on standard input"
        raise typer.BadParameter(msg)
    raw = sys.stdin.buffer.read(_INPUT_SIZE_BYTES_MAX + 1)
    if len(raw) > _INPUT_SIZE_BYTES_MAX:
        msg = f"standard input: expected at most {_INPUT_SIZE_BYTES_MAX} bytes"
        raise typer.BadParameter(msg)
    if not raw.strip():
        msg = "standard input: expected frames, got nothing"
        raise typer.BadParameter(msg)
    if any(byte < 9 or 13 < byte < 32 or byte > 126 for byte in raw[:4096]):
        yield from _frames_in("stream", raw)
        return
    for number, line in enumerate(raw.decode("ascii", "replace").splitlines(), start=1):
        digits = _digits(line)
        if not digits:
            continue
        try:
            data = bytes.fromhex(digits)
        except ValueError:
            yield _Found(f"line {number}", b"", error="expected hexadecimal digits, two for each byte")
            continue
        yield from _frames_in(f"line {number}", data)


def _digits(text: str) -> str:
    text = "".join(text.split()).replace(":", "")
    return text[2:] if text[:2] in ("0x", "0X") else text


def _frames_in(place: str, data: bytes) -> Iterator[_Found]:
    """Find the frames in *data*; where there is none, say why it is not one."""
    try:
        yield _Found(place, data, decode(data))
    except FrameError as error:
        found = list(_stream(place, data))
        if any(item.frame is not None for item in found):
            yield from found
        else:
            yield _Found(place, data, error=str(error))


def _stream(place: str, data: bytes) -> Iterator[_Found]:
    reader = FrameReader()
    # In pieces, because the reader refuses to hold everything at once.
    for start in range(0, len(data), 65536):
        reader.receive_data(data[start : start + 65536])
        yield from _drain(reader, place)
    reader.end()
    yield from _drain(reader, place)


def _drain(reader: FrameReader, place: str) -> Iterator[_Found]:
    while (event := reader.next_event()) is not NEED_DATA:
        where = f"{place}, offset {event.offset}"
        if isinstance(event, FrameReceived):
            yield _Found(where, event.raw, event.frame)
        else:
            yield _Found(where, event.data, error=f"{len(event.data)} bytes of no frame: {event.reason}")


# --- text output -----------------------------------------------------------------------------------------------------


def _head(found: _Found) -> str:
    frame = found.frame
    assert frame is not None
    edition = frame.edition.name.removeprefix("GBT")
    parts = (f"GB/T 32960.3-{edition}", _word(frame.command), _word(frame.reply_flag), f"VIN {frame.vin}")
    return f"{found.place}: {', '.join(parts)}, {len(found.data)} bytes"


def _lines(found: _Found) -> Iterator[str]:
    assert found.frame is not None
    yield _head(found)
    if found.frame.encryption != 1:
        yield f"  encryption: {_word(found.frame.encryption)}"
    yield from _value_lines(type(found.frame.message).__name__, found.frame.message, 1)


def _value_lines(name: str, value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if is_dataclass(value):
        kind = type(value).__name__
        yield f"{indent}{name}" if name == kind else f"{indent}{name}: {kind}"
        for item in fields(value):
            yield from _value_lines(item.name, getattr(value, item.name), depth + 1)
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        for index, item in enumerate(value):
            yield from _value_lines(type(item).__name__ if name == "bodies" else f"{name}[{index}]", item, depth)
    elif isinstance(value, tuple):
        yield f"{indent}{name}: {' '.join(map(_word, value))} ({len(value)})" if value else f"{indent}{name}: none"
    else:
        yield f"{indent}{name}: {_word(value)}"


def _word(value: Any) -> str:
    """Return a value as a person reads it."""
    match value:
        case Sentinel() | UUID():
            return str(value.value if isinstance(value, Sentinel) else value)
        case Gear():
            parts = [value.position.name]
            parts += ["driving"] if value.is_driving else []
            parts += ["braking"] if value.is_braking else []
            return f"{value:#04x} ({', '.join(parts)})"
        case IntEnum():
            return f"{value.name} ({value:#04x})"
        case Enum():
            return value.name
        case bytes():
            return value.hex(" ") if value else "(no bytes)"
        case str():
            return repr(value)
        case _:
            return str(value)


def _explained(found: _Found) -> Iterator[str]:
    yield _head(found)
    rows = [("offset", "bytes", "field", "raw", "value", "clause"), *map(_explained_row, explain(found.data))]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip()


def _explained_row(field: ExplainedField) -> tuple[str, ...]:
    data = field.data.hex(" ")
    if len(field.data) > _SHOWN_BYTES:
        data = f"{field.data[:_SHOWN_BYTES].hex(' ')} .. ({len(field.data)})"
    value = data if isinstance(field.value, bytes) else _word(field.value)
    if isinstance(field.value, str):
        value = repr(field.value)[1:-1]  # Escapes without the quotes: most of these are names, not text from the wire.
    unit = f" {field.unit}" if field.unit and not isinstance(field.value, Sentinel) else ""
    warning = "" if field.is_in_range else "  ! outside the text's range"
    raw = "" if field.raw is None else str(field.raw)
    return str(field.offset), data, field.name, raw, f"{value}{unit}{warning}", field.clause


# --- JSON output -----------------------------------------------------------------------------------------------------


def _json_of(found: _Found, *, explained: bool) -> dict[str, Any]:
    if found.frame is None:
        return {"place": found.place, "error": found.error, "hex": found.data.hex()}
    frame = found.frame
    result: dict[str, Any] = {
        "place": found.place,
        "edition": int(frame.edition.name.removeprefix("GBT")),
        "command": int(frame.command),
        "reply_flag": int(frame.reply_flag),
        "vin": frame.vin,
        "encryption": int(frame.encryption),
    }
    if explained:
        result["fields"] = [_plain(field) | {"value": _plain(field.value)} for field in explain(found.data)]
    else:
        result["message"] = _plain(frame.message)
    return result


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: times as ISO 8601, bytes as hex, codes as numbers, sentinels as their word."""
    match value:
        case bool() | None | float() | str():
            return value
        case Sentinel():
            return value.value
        case int():
            return int(value)
        case Enum():
            return value.value
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case tuple():
            return [_plain(item) for item in value]
        case _:
            members = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
            return {"type": type(value).__name__} | members
