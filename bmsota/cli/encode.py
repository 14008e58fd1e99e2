"""`bmsota encode`: GB/T 32960.3 frames from JSON; the inverse of `bmsota decode --json`.

Exit codes: 0 every object was encoded; 1 some were not (one line each), the others are written; 2 usage error, or a file
cannot be read or written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from bmsota.errors import BmsotaError
from bmsota.gbt32960 import encode, from_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["command"]

_LINE_LENGTH_MAX: Final = 4 * 1024 * 1024
"""The longest frame has some 65,000 values, and a value no more than 40 characters of JSON."""


def command(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="JSON, one object a line; without any, standard input."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="OUT", help="Write the raw frames to this file, one after the other."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse values outside the ranges of the standard's text.")
    ] = False,
) -> None:
    """Encode GB/T 32960.3 frames from JSON and print them in hexadecimal, one frame a line.

    The input is what `bmsota decode --json` writes: one object a line. Members with a default may be left out.

    Exit code: 0 all encoded; 1 some objects are not frames; 2 usage error, or a file cannot be read or written.
    """
    count = bad = 0
    out = _opened_to_write(output)
    try:
        for place, item in _objects(files or ["-"]):
            try:
                if isinstance(item, json.JSONDecodeError):
                    raise _no_json(item)
                data = encode(from_dict(item), strict=strict)
            except BmsotaError as error:
                bad += 1
                typer.echo(f"{place}: {error}", err=True)
                continue
            count += 1
            if out is None:
                typer.echo(data.hex())
            else:
                _write(out, data, output)
    finally:
        if out is not None:
            out.close()
    if not count and not bad:
        raise typer.BadParameter("the input is empty")
    if bad:
        raise typer.Exit(1)


def _no_json(error: json.JSONDecodeError) -> BmsotaError:
    return BmsotaError(f"not JSON: {error.msg} (column {error.colno})")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _opened_to_write(path: str | None) -> IO[bytes] | None:
    if path is None:
        return None
    try:
        return Path(path).open("wb")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {_reason(error)}") from None


def _write(out: IO[bytes], data: bytes, path: str | None) -> None:
    try:
        out.write(data)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {_reason(error)}") from None


def _objects(files: list[str]) -> Iterator[tuple[str, Any]]:
    """Each line's object with its place, or why the line is not one."""
    for file in files:
        before = "" if len(files) == 1 else f"{file}: "
        number = 0
        for number, line in enumerate(_lines(file), start=1):
            if len(line) > _LINE_LENGTH_MAX:
                raise typer.BadParameter(f"{file}: a line is longer than {_LINE_LENGTH_MAX} characters")
            if not line.strip():
                continue
            try:
                # With the newline, an error at the end of the line would be reported in column 1.
                yield f"{before}line {number}", json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                yield f"{before}line {number}", error
            except (RecursionError, ValueError) as error:  # Nested a thousand times, a number of a million digits.
                reason = json.JSONDecodeError(str(error) or "too deep", "", 0)
                yield f"{before}line {number}", reason


def _lines(file: str) -> Iterator[str]:
    if file == "-":
        if sys.stdin.isatty():
            raise typer.BadParameter("no input: give files, or pipe JSON to standard input")
        stream: IO[bytes] = sys.stdin.buffer
    else:
        try:
            stream = Path(file).open("rb")  # noqa: SIM115 - closed below
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{file}: {_reason(error)}") from None
    try:
        while line := stream.readline(_LINE_LENGTH_MAX + 1):
            yield line.decode("utf-8-sig", "replace")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {_reason(error)}") from None
    finally:
        if file != "-":
            stream.close()
