"""`bmsota dbc`: check DBC files, and decode CAN logs with them.

Exit codes of `check`: 0 the file is clean, 1 it has faults, 2 it cannot be read.
Exit codes of `decode`: 0 everything was decoded, 1 the log is cut off or some frames do not match their message or fail their
protection (the rest is decoded), 2 a file cannot be read or written. Ids that are not in the DBC are not an error; they are counted.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bmsota.adapters.files import load_dbc, packaged_dbc, packaged_dbc_names
from bmsota.cli.terminal import counted
from bmsota.errors import BmsotaError
from bmsota.signals import Severity, loads

if TYPE_CHECKING:
    from bmsota.adapters.canlogs import CanLog
    from bmsota.cli.logtables import LogTable
    from bmsota.cli.protection import ProtectionCounts
    from bmsota.signals import Database

__all__ = ["app"]

app = typer.Typer(name="dbc", help="Check DBC files, and decode CAN logs with them.", no_args_is_help=True)

EXIT_FAULTS = 1
EXIT_UNREADABLE = 2


@app.callback()
def dbc() -> None:
    """Check DBC files, and decode CAN logs with them."""


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The DBC file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON, for tools.")] = False,
) -> None:
    """Report every fault of FILE with its line, and what could be loaded.

    Exit code: 0 no faults; 1 faults; 2 the file cannot be read.
    """
    try:
        database = load_dbc(file)
    except OSError as error:
        _stop(f"{file}: {error.strerror or error}")
    except BmsotaError as error:
        _stop(f"{file}: {error}")
    if not len(database) and not any(fault.severity is Severity.WARNING for fault in database.faults):
        # Not one message: this is not a DBC file with mistakes in it.
        _print(database, file, as_json=as_json)
        _stop(f"{file}: not a DBC file: it defines no message")
    _print(database, file, as_json=as_json)
    if database.faults:
        raise typer.Exit(EXIT_FAULTS)


def _print(database: Database, file: str, *, as_json: bool) -> None:
    signals = sum(len(message.signals) for message in database.messages)
    if as_json:
        faults = [
            {"line": each.line, "severity": each.severity.value, "reason": each.reason} for each in database.faults
        ]
        typer.echo(
            json.dumps({"file": file, "messages": len(database), "signals": signals, "faults": faults}, indent=1)
        )
        return
    for fault in database.faults:
        typer.echo(f"{file}:{fault.line}: {fault.severity.value}: {fault.reason}")
    errors = sum(fault.severity is Severity.ERROR for fault in database.faults)
    warnings = len(database.faults) - errors
    found = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}" if database.faults else "no faults"
    typer.echo(f"{file}: {counted(len(database), 'message')}, {counted(signals, 'signal')} loaded; {found}")


@app.command()
def decode(
    log: Annotated[
        str, typer.Argument(metavar="LOG", help="A CAN log: .log (candump), .asc, .blf, .trc, or with .gz.")
    ],
    dbc: Annotated[
        list[str],
        typer.Option(
            "--dbc",
            metavar="FILE",
            help="Decode with this DBC file, or one that ships with bmsota (by name). May be repeated.",
        ),
    ],
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="OUT", help="Write CSV to this file, one row a value; - is stdout.")
    ] = None,
    parquet: Annotated[
        str | None,
        typer.Option("--parquet", metavar="OUT", help="Write Parquet to this file, one row a value (extra 'parquet')."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="MESSAGE", help="Decode only this message. May be repeated.")
    ] = None,
    protection: Annotated[
        str | None,
        typer.Option(
            "--protection",
            metavar="FILE",
            help="Check the CRCs and alive counters that this TOML file declares, besides those that the DBC declares.",
        ),
    ] = None,
) -> None:
    """Decode LOG with DBC files: to text, one line a frame, or into a table.

    Exit code: 0 decoded; 1 the log is cut off, or some frames do not match their message or fail their protection; 2 a file
    cannot be read or written.
    """
    if csv is not None and parquet is not None:
        _stop("give either --csv or --parquet, not both")
    databases = [_database(each) for each in dbc]
    if protection is not None:
        databases = _protected(databases, protection)
    names = {name for database in databases for name in database}
    if unknown := sorted(set(only or ()) - names):
        _stop(f"--only: not in the DBC: {', '.join(unknown)}")
    from bmsota.adapters.canlogs import CanLog  # noqa: PLC0415 - python-can takes longer to import than `check` to run

    try:
        opened = CanLog(log)
    except OSError as error:
        _stop(f"{log}: {error.strerror or error}")
    except BmsotaError as error:
        _stop(str(error))
    with opened:
        raise typer.Exit(_decode_into(opened, log, databases, csv, parquet, frozenset(only or ())))


def _database(name: str) -> Database:
    try:
        if not Path(name).exists() and name in packaged_dbc_names():
            return loads(packaged_dbc(name))
        database = load_dbc(name)
    except OSError as error:
        _stop(f"{name}: {error.strerror or error}")
    except BmsotaError as error:
        _stop(f"{name}: {error}")
    if not len(database):
        _stop(f"{name}: not a DBC file: it defines no message")
    errors = sum(fault.severity is Severity.ERROR for fault in database.faults)
    if errors:
        _say(f"{name}: {counted(errors, 'error')}; the affected signals are not decoded (see bmsota dbc check {name})")
    return database


def _protected(databases: list[Database], file: str) -> list[Database]:
    """The databases under the protection that *file* declares; one of them must have a message that it names."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        found = [database.with_protection(text, must_apply=False) for database in databases]
    except OSError as error:
        _stop(f"{file}: {error.strerror or error}")
    except UnicodeDecodeError:
        _stop(f"{file}: not a text file in UTF-8")
    except BmsotaError as error:
        _stop(f"{file}: {error}")
    if all(new[name] is old[name] for new, old in zip(found, databases, strict=True) for name in old):
        _stop(f"{file}: no section names a message of the DBC")
    return found


def _table(csv: str | None, parquet: str | None) -> LogTable:
    from bmsota.cli.logtables import CsvTable, ParquetTable, TextLines  # noqa: PLC0415 - brings NumPy

    try:
        if parquet is not None:
            return ParquetTable(parquet)
        if csv is None:
            return TextLines(sys.stdout)
        if csv == "-":
            return CsvTable(sys.stdout, keep_open=True)
        return CsvTable(Path(csv).open("w", encoding="utf-8", newline=""))
    except OSError as error:
        _stop(f"{csv or parquet}: {error.strerror or error}")
    except BmsotaError as error:
        _stop(str(error))


def _decode_into(
    log: CanLog, name: str, databases: list[Database], csv: str | None, parquet: str | None, only: frozenset[str]
) -> int:
    from bmsota.adapters.canlogs import decode_log  # noqa: PLC0415 - as above
    from bmsota.cli.protection import ProtectionCounts  # noqa: PLC0415 - as above

    console = Console(stderr=True, soft_wrap=True)
    # A bar between lines of text on the same screen would be neither.
    has_bar = console.is_terminal and not ((csv or parquet) in (None, "-") and sys.stdout.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    unknown: Counter[int] = Counter()
    decoded = refused = 0
    protection = ProtectionCounts()
    table = _table(csv, parquet)
    try:
        with Progress(*columns, console=console, transient=True, disable=not has_bar) as progress:
            task = progress.add_task(name, total=1.0)
            for block in decode_log(log, databases, only=only):
                table.write(block)
                protection.add(block)
                decoded += sum(each.columns.length for each in block.decoded)
                refused += block.refused
                unknown.update(block.unknown)
                progress.update(task, completed=log.progress)
        table.close()
    except KeyboardInterrupt:
        table.close()  # What was decoded so far is a valid file.
        raise
    except BrokenPipeError:
        raise  # The reader of our output has ended; click ends quietly.
    except OSError as error:
        _stop(f"{csv or parquet or 'stdout'}: {error.strerror or error}")
    return _summary(log, name, decoded, refused, unknown, protection)


def _summary(
    log: CanLog, name: str, decoded: int, refused: int, unknown: Counter[int], protection: ProtectionCounts
) -> int:
    """Print what was and was not decoded to stderr; the exit code."""
    if not log.frames:
        _stop(f"{name}: not a CAN log: {log.fault or 'it contains no frame'}")
    parts = [counted(log.frames, "frame"), f"{decoded} decoded"]
    if unknown:
        ids = [f"{key & 0x1FFFFFFF:08X}" if key >> 31 else f"{key:03X}" for key, _ in unknown.most_common(5)]
        more = ", ..." if len(unknown) > len(ids) else ""
        parts.append(f"{unknown.total()} with ids not in the DBC ({', '.join(ids)}{more})")
    if refused:
        parts.append(
            f"{refused} {'does' if refused == 1 else 'do'} not match {'its' if refused == 1 else 'their'} message (too short, or an undefined multiplexer value)"
        )
    if log.others:
        parts.append(f"{counted(log.others, 'remote or error frame')} skipped")
    _say(f"{name}: {'; '.join(parts)}")
    for line in protection.lines():
        _say(f"{name}: {line}")
    if log.fault:
        _say(f"{name}: {log.fault}")
    return EXIT_FAULTS if refused or log.fault or protection.has_failures else 0


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _stop(reason: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(f"bmsota: {reason}", style="red", markup=False, highlight=False)
    raise typer.Exit(EXIT_UNREADABLE)
