"""`bmsota decode`: GB/T 32960.3 frames in, words out.

Where the frames come from is `frameinput`'s business. What is no frame is said in one line each, and the frames around it are
shown all the same.

Exit codes: 0 everything was a valid frame; 1 something was not; 2 the command was called wrongly.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from bmsota.cli.frameinput import Counts, InputFormat, InputOptions, checked_encoding, find_frames
from bmsota.cli.screen import forgiving_output
from bmsota.gbt32960 import Gear, Sentinel, beijing_time, explain, to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.cli.frameinput import Found
    from bmsota.gbt32960 import ExplainedField

__all__ = ["command", "json_line", "json_of"]

_SHOWN_BYTES: Final = 12
"""How many bytes of one field `--explain` prints before it shortens them."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[HEX|FILE]...", help="Frames or files; without any, standard input is read."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line; `bmsota encode` makes frames of it again.")
    ] = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="Every field: offset, bytes, name, raw number, value, unit, clause.")
    ] = False,
    input_format: Annotated[
        InputFormat, typer.Option("--format", help="What the input is, if its content does not tell.")
    ] = InputFormat.AUTO,
    port: Annotated[
        list[int] | None,
        typer.Option("--port", min=1, max=65535, help="Captures: only connections with this port. May be repeated."),
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", metavar="NAME", help="Tables: the column of frames, by name or number.")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option("--time-column", metavar="NAME", help="Tables: when each frame came.")
    ] = None,
    vin_column: Annotated[
        str | None, typer.Option("--vin-column", metavar="NAME", help="Tables: whose it is; held against the frame.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Text files: their encoding; UTF-8, UTF-16 and GB 18030 are found.")
    ] = None,
) -> None:
    """Decode GB/T 32960.3 frames, both editions.

    HEX may have blanks, colons, and 0x in front. A FILE may be lines of hexadecimal digits (also between other words, as in
    a log), a raw byte stream, a .pcap or .pcapng capture, or a CSV table with a column of frames, all also as .gz; its
    content tells. "-" is standard input.

    Exit code: 0 all valid frames, 1 something was none (said in one line each), 2 called wrongly or nothing to read.
    """
    forgiving_output()
    options = InputOptions(
        format=input_format,
        ports=frozenset(port or ()),
        column=column,
        time_column=time_column,
        vin_column=vin_column,
        encoding=checked_encoding(encoding),
    )
    counts = Counts()
    for found in find_frames(sources or [], options, counts):
        if as_json:
            typer.echo(json_line(json_of(found, explained=explained)))
        elif found.frame is None:
            typer.echo(f"{found.place}: {found.error}", err=True)
        else:
            for line in _explained(found) if explained else _lines(found):
                typer.echo(line)
    for note in counts.notes:
        typer.echo(f"bmsota decode: {note}", err=True)
    if counts.notes and not counts.frames:
        typer.echo("bmsota decode: expected frames, got none", err=True)
    if counts.bad or not counts.frames:
        raise typer.Exit(1)


# --- text output -----------------------------------------------------------------------------------------------------


def _head(found: Found) -> str:
    frame = found.frame
    assert frame is not None
    edition = frame.edition.name.removeprefix("GBT")
    parts = (f"GB/T 32960.3-{edition}", _word(frame.command), _word(frame.reply_flag), f"VIN {frame.vin}")
    time = "" if found.time_ns is None else f"{beijing_time(found.time_ns):%Y-%m-%d %H:%M:%S} "
    return f"{found.place}: {time}{', '.join(parts)}, {len(found.data)} bytes"


def _lines(found: Found) -> Iterator[str]:
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


def _explained(found: Found) -> Iterator[str]:
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


def json_of(found: Found, *, explained: bool = False) -> dict[str, Any]:
    """Return what was found as one object."""
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
    """One line of JSON; text that is no Unicode, which the wire may carry, is escaped."""
    line = json.dumps(item, ensure_ascii=False)
    return line if line.isprintable() or not _SURROGATE.search(line) else json.dumps(item)
