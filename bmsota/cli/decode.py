"""`bmsota decode`: GB/T 32960.3 frames as text, JSON, or a table of every field.

The input is read by `bmsota.adapters.frame_sources`. What is not a frame takes one line, and the frames around it are shown.

Exit codes: 0 everything was a valid frame; 1 something was not; 2 usage error.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from bmsota.adapters.frame_sources import ReadSummary
from bmsota.cli.frame_input import FrameInputOptions, read_frames
from bmsota.cli.options import takes
from bmsota.cli.terminal import forgiving_output
from bmsota.gbt32960 import Gear, Sentinel, beijing_time, explain, to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.adapters.frame_sources import FoundFrame
    from bmsota.gbt32960 import ExplainedField

__all__ = ["command", "json_line", "json_of"]

_SHOWN_BYTES: Final = 12
"""How many bytes of one field `--explain` prints before it shortens them."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions(FrameInputOptions):
    """The options of `bmsota decode`."""

    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object a line, which `bmsota encode` turns into frames again."),
    ] = False
    explained: Annotated[
        bool, typer.Option("--explain", help="Show every field: offset, bytes, name, raw number, value, unit, clause.")
    ] = False
    vin_column: Annotated[
        str | None,
        typer.Option("--vin-column", metavar="NAME", help="Tables: the column of VINs, compared with the frame's."),
    ] = None


@takes(DecodeOptions)
def command(_ctx: typer.Context, options: DecodeOptions) -> None:
    """Decode GB/T 32960.3 frames, both editions.

    HEX may contain blanks, colons, and a leading 0x. A FILE may contain lines of hexadecimal digits (also between other words,
    as in a log), a raw byte stream, a .pcap or .pcapng capture, or a CSV table with a column of frames, each also as .gz; its
    kind is detected. "-" is standard input.

    Exit code: 0 only valid frames; 1 some input was not a frame (one line each); 2 usage error or nothing to read.
    """
    forgiving_output()
    summary = ReadSummary()
    for found in read_frames(options, summary, vin_column=options.vin_column):
        if options.as_json:
            typer.echo(json_line(json_of(found, explained=options.explained)))
        elif found.frame is None:
            typer.echo(f"{found.place}: {found.error}", err=True)
        else:
            for line in _explained(found) if options.explained else _lines(found):
                typer.echo(line)
    for note in summary.notes:
        typer.echo(f"bmsota decode: {note}", err=True)
    if summary.notes and not summary.frames:
        typer.echo("bmsota decode: no frame found", err=True)
    if summary.bad or not summary.frames:
        raise typer.Exit(1)


# --- text output -----------------------------------------------------------------------------------------------------


def _head(found: FoundFrame) -> str:
    frame = found.frame
    assert frame is not None
    edition = frame.edition.name.removeprefix("GBT")
    parts = (f"GB/T 32960.3-{edition}", _word(frame.command), _word(frame.reply_flag), f"VIN {frame.vin}")
    time = "" if found.time_ns is None else f"{beijing_time(found.time_ns):%Y-%m-%d %H:%M:%S} "
    return f"{found.place}: {time}{', '.join(parts)}, {len(found.data)} bytes"


def _lines(found: FoundFrame) -> Iterator[str]:
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
    """A value in plain words."""
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


def _explained(found: FoundFrame) -> Iterator[str]:
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


def json_of(found: FoundFrame, *, explained: bool = False) -> dict[str, Any]:
    """What was found as one object."""
    result: dict[str, Any] = {"place": found.place}
    if found.time_ns is not None:
        result["time"] = beijing_time(found.time_ns).isoformat()
    if found.link:
        result["link"] = found.link
    if found.frame is None:
        return result | {"error": found.error, "hex": found.data.hex()}
    result |= to_dict(found.frame)
    if explained:
        del result["message"]
        result["fields"] = [to_dict(each) for each in explain(found.data)]
        for each in result["fields"]:
            del each["type"]
    return result


def json_line(item: Any) -> str:
    """One line of JSON; text that is not Unicode, which the wire may carry, is escaped."""
    line = json.dumps(item, ensure_ascii=False)
    return line if line.isprintable() or not _SURROGATE.search(line) else json.dumps(item)
