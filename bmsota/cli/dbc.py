"""`bmsota dbc`: check DBC files, and decode CAN logs with them.

Exit codes of `check`: 0 the file is clean, 1 it has faults, 2 it cannot be read.
Exit codes of `decode`: 0 everything was decoded, 1 the log breaks off, parts of it could not be read, some frames do not match
their message or fail their protection, or J1939 packets became no message (the rest is decoded), 2 a file cannot be read or written. Ids that are not in the DBC are not
an error, nor are remote and error frames; they are counted.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bmsota._words import counted
from bmsota.adapters.files import load_dbc, packaged_dbc, packaged_dbc_names
from bmsota.errors import BmsotaError
from bmsota.signals import Severity, loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from bmsota.adapters.canlogs import CanLog, LogBlock, Misfit
    from bmsota.cli.logtables import LogTable
    from bmsota.cli.protection import ProtectionCounts
    from bmsota.signals import Database, DbcFault, OtherTransport, TransportFault

__all__ = ["app"]

app = typer.Typer(
    name="dbc", help="Check DBC files, and decode CAN logs with them.", no_args_is_help=True, rich_markup_mode=None
)

EXIT_FAULTS = 1
EXIT_UNREADABLE = 2


@app.callback()
def dbc() -> None:
    """Check DBC files, and decode CAN logs with them."""


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The DBC file, or one that ships with bmsota (by name).")],
    errors_only: Annotated[
        bool,
        typer.Option("--errors-only", help="Leave out warnings: neither print them nor exit with 1 because of them."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON, for tools.")] = False,
) -> None:
    """Report every fault of FILE with its line, and what could be loaded.

    An error is something that could not be loaded; a warning is loaded as it stands.

    Exit code: 0 no faults; 1 faults (with --errors-only: errors); 2 the file cannot be read.
    """
    try:
        database = _load(file)
    except OSError as error:
        _stop(f"{file}: {error.strerror or error}")
    except BmsotaError as error:
        _stop(f"{file}: {error}")
    faults = [each for each in database.faults if each.severity is Severity.ERROR or not errors_only]
    _print(database, file, faults, as_json=as_json)
    if not database.messages and not any(fault.severity is Severity.WARNING for fault in database.faults):
        # Not one message: this is not a DBC file with mistakes in it.
        _stop(f"{file}: not a DBC file: it defines no message")
    if faults:
        raise typer.Exit(EXIT_FAULTS)


def _print(database: Database, file: str, found: list[DbcFault], *, as_json: bool) -> None:
    # Not len(database), which counts names: two messages may have one.
    messages = len(database.messages)
    signals = sum(len(message.signals) for message in database.messages)
    if as_json:
        faults = [{"line": each.line, "severity": each.severity.value, "reason": each.reason} for each in found]
        typer.echo(json.dumps({"file": file, "messages": messages, "signals": signals, "faults": faults}, indent=1))
        return
    for fault in found:
        typer.echo(f"{file}:{fault.line}: {fault.severity.value}: {fault.reason}")
    errors = sum(fault.severity is Severity.ERROR for fault in database.faults)
    warnings = len(database.faults) - errors
    counts = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}" if database.faults else "no faults"
    typer.echo(f"{file}: {counted(messages, 'message')}, {counted(signals, 'signal')} loaded; {counts}")


@app.command()
def decode(
    log: Annotated[
        str,
        typer.Argument(
            metavar="LOG",
            help="A CAN log (candump, .asc, .blf, .trc, .mf4, SavvyCAN .csv, BUSMASTER, ...), plain or .gz; - is standard input.",
        ),
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
    j1939: Annotated[
        bool,
        typer.Option(
            "--j1939", help="Match extended ids by their J1939 parameter group, also where the DBC does not declare it."
        ),
    ] = False,
    id_mask: Annotated[
        str | None,
        typer.Option(
            "--id-mask", metavar="MASK", help="Compare only these bits of ids that are not in the DBC: 0x3FFFF00."
        ),
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

    Exit code: 0 decoded; 1 the log breaks off, parts of it cannot be read, some frames do not match their message or fail
    their protection, or J1939 packets became no message; 2 a file cannot be read or written.
    """
    if csv is not None and parquet is not None:
        _stop("give either --csv or --parquet, not both")
    if parquet == "-":
        _stop("--parquet: a Parquet file cannot be written to standard output; give a path")
    databases = [_database(each) for each in dbc]
    if protection is not None:
        databases = _protected(databases, protection)
    names = {name for database in databases for name in database}
    if unknown := sorted(set(only or ()) - names):
        similar = sorted({each for name in unknown for each in _similar(name, names)})
        hint = f" (similar: {', '.join(similar)})" if similar else ""
        _stop(f"--only: not in the DBC: {', '.join(unknown)}{hint}")
    mask = _mask(id_mask)
    from bmsota.adapters.canlogs import STANDARD_INPUT, CanLog, decode_log  # noqa: PLC0415 - not for `check`

    try:
        opened = CanLog(log)
    except OSError as error:
        _stop(f"{log}: {error.strerror or error}")
    except BmsotaError as error:
        _stop(str(error))
    with opened:
        name = "standard input" if log == STANDARD_INPUT else log
        blocks = decode_log(opened, databases, only=frozenset(only or ()), j1939=j1939, id_mask=mask)
        raise typer.Exit(_decode_into(opened, name, blocks, csv, parquet))


def _similar(name: str, names: Iterable[str]) -> list[str]:
    """Which of *names* may have been meant, whatever their case; at most three."""
    by_lower = {each.lower(): each for each in names}
    return [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower)]


def _mask(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        mask = int(text, 0)
    except ValueError:
        mask = -1
    if not 0 <= mask < 1 << 29:
        _stop(f"--id-mask: expected up to 29 bits, such as 0x3FFFF00, got {text}")
    return mask


def _load(name: str) -> Database:
    """A DBC file, or one that ships with bmsota if there is no file of this name."""
    if not Path(name).exists() and name in packaged_dbc_names():
        return loads(packaged_dbc(name))
    return load_dbc(name)


def _database(name: str) -> Database:
    try:
        database = _load(name)
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
        _stop(
            f"{csv or parquet}: {os.strerror(error.errno) if error.errno else error}"
        )  # pyarrow has a sentence of its own.
    except BmsotaError as error:
        _stop(str(error))


def _decode_into(log: CanLog, name: str, blocks: Iterator[LogBlock], csv: str | None, parquet: str | None) -> int:
    from bmsota.cli.protection import ProtectionCounts  # noqa: PLC0415 - as above

    console = Console(stderr=True, soft_wrap=True)
    # A bar between lines of text on the same screen would be neither.
    has_bar = console.is_terminal and not ((csv or parquet) in (None, "-") and sys.stdout.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    tally = _Tally()
    protection = ProtectionCounts()
    table = _table(csv, parquet)
    try:
        with Progress(*columns, console=console, transient=True, disable=not has_bar) as progress:
            task = progress.add_task(name, total=1.0)
            for block in blocks:
                table.write(block)
                tally.add(block)
                protection.add(block)
                progress.update(task, completed=log.progress)
        table.close()
    except KeyboardInterrupt:
        table.close()  # What was decoded so far is a valid file.
        raise
    except BrokenPipeError:
        raise  # The reader of our output has ended; click ends quietly.
    except OSError as error:
        _stop(f"{csv or parquet or 'stdout'}: {error.strerror or error}")
    return _summary(log, name, tally, protection)


class _Tally:
    """What became of the frames of a log: each is in exactly one of the counts."""

    def __init__(self) -> None:
        self.complete = 0
        self.misfits: Counter[Misfit] = Counter()
        self.unknown: Counter[int] = Counter()
        self.left_out = 0
        self.packets = self.joined = 0
        self.transport_faults: Counter[TransportFault] = Counter()
        self.other_packets: Counter[OtherTransport] = Counter()

    def add(self, block: LogBlock) -> None:
        self.complete += block.complete
        self.misfits.update(block.misfits)
        self.unknown.update(block.unknown)
        self.left_out += block.left_out
        self.packets += block.packets
        self.joined += block.joined
        self.transport_faults.update(block.transport_faults)
        self.other_packets.update(block.other_packets)

    def counts(self) -> dict[str, int]:
        """The counts by what the summary calls them, in its order.

        Their sum with the decoded ones is the number of frames and of messages put together.
        """
        partly = sum(count for each, count in self.misfits.items() if each.is_decoded)
        ids = [
            f"{key & 0x1FFFFFFF:08X}" if key >> 31 else f"{key:03X}" for key, _ in self.unknown.most_common(_IDS_SHOWN)
        ]
        more = ", ..." if len(self.unknown) > len(ids) else ""
        return {
            "decoded in part": partly,
            "not decoded": self.misfits.total() - partly,
            f"with ids not in the DBC ({', '.join(ids)}{more})": self.unknown.total(),
            "of other messages": self.left_out,
            f"J1939 packets, put together into {counted(self.joined, 'message')} more": self.packets,
        } | {f"of {kind.value}, not put together": count for kind, count in self.other_packets.items()}


# As many as fit a line, and a screen.
_IDS_SHOWN = 5
_MISFITS_SHOWN = 10


def _summary(log: CanLog, name: str, tally: _Tally, protection: ProtectionCounts) -> int:
    """Print what was and was not decoded to stderr; the exit code."""
    if not log.frames and not log.others:
        reasons = [f"{part.place}: {part.reason}" for part in log.skipped_parts[:1]]
        reasons += [log.fault] if log.fault else []
        _stop(f"{name}: the log contains no frame ({'; '.join([f'read as {log.format}', *reasons])})")
    _say(f"{name}: {_counts_line(counted(log.frames, 'frame'), {'decoded': tally.complete}, tally.counts(), log)}")
    for each, count in tally.misfits.most_common(_MISFITS_SHOWN):
        message = each.message
        can_id = f"{message.can_id:08X}" if message.is_extended_id else f"{message.can_id:03X}"
        _say(f"{name}: {can_id} {message.name}: {counted(count, 'frame')} with {each.reason}")
    if len(tally.misfits) > _MISFITS_SHOWN:
        _say(
            f"{name}: and {counted(len(tally.misfits) - _MISFITS_SHOWN, 'more kind')} of frames that do not match their message"
        )
    for line in protection.lines():
        _say(f"{name}: {line}")
    for fault, count in tally.transport_faults.most_common():
        _say(f"{name}: J1939 transport, {counted(count, 'time')}: {fault.value}")
    if log.time_base:
        _say(f"{name}: {log.time_base}")
    for part in log.skipped_parts:
        _say(f"{name}: skipped {part.place}: {part.reason}")
    if log.skipped > len(log.skipped_parts):
        more = counted(log.skipped - len(log.skipped_parts), f"more {_noun_of_parts(log)}")
        _say(f"{name}: skipped {more}")
    if log.fault:
        _say(f"{name}: {log.fault}")
    has_losses = bool(tally.misfits or tally.transport_faults or log.skipped or log.fault)
    return EXIT_FAULTS if has_losses or protection.has_failures else 0


def _counts_line(frames: str, always: Mapping[str, int], counts: Mapping[str, int], log: CanLog) -> str:
    """The summary's first line: counts by their names, those of 0 left out unless they are *always* said.

    Whoever counts something else about frames adds it to *counts*.
    """
    parts = [frames, *(f"{count} {what}" for what, count in always.items())]
    parts += [f"{count} {what}" for what, count in counts.items() if count]
    parts += [counted(log.remote_frames, "remote frame")] if log.remote_frames else []
    parts += [counted(log.error_frames, "error frame")] if log.error_frames else []
    if log.skipped:
        parts.append(f"{counted(log.skipped, _noun_of_parts(log))} skipped")
    return "; ".join(parts)


def _noun_of_parts(log: CanLog) -> str:
    """What a log that has skipped something consists of."""
    return "line" if log.skipped_parts[0].place.startswith("line") else "part"


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _stop(reason: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(f"bmsota: {reason}", style="red", markup=False, highlight=False)
    raise typer.Exit(EXIT_UNREADABLE)
