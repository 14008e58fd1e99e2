"""The bench at a terminal or in a script: what it prints, where commands come from, and how it ends.

At a terminal: a live table of the nodes, notes above it, the command line below it. Otherwise plain lines, flushed one by
one, which scripts read: `adapter 1: /dev/pts/7`, then `ready`. Commands come from standard input and, if asked for, from a
control socket (one line each, the answer's lines back); the end of standard input is not the end of the bench.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bmsota.errors import ConfigurationError
from bmsota_sim.bench._bench import Bench
from bmsota_sim.bench._options import BenchOptions, BenchProtocol, BenchTopology

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bmsota_sim.bench._world import NodeRow
    from bmsota_sim.trace import Note

__all__ = ["introduction", "run_bench", "say"]

# How often the table is drawn, and how late a `quit` through the control socket is seen at most.
REFRESH_S = 0.2
# Nodes boot within 0.3 s; after this the table is printed with whoever is there.
BOOT_LIMIT_S = 2.0
# The longest command line; a client that sends more without an end is no client of ours.
LINE_SIZE_BYTES_MAX = 4096
SAY_TIMEOUT_S = 30.0

_STATE_STYLES = {
    "application": "green",
    "bootloader": "yellow",
    "receiving": "cyan",
    "restarting": "yellow",
    "off": "red",
}


class _EndedError(Exception):
    """A signal asks the bench to end."""


def run_bench(
    options: BenchOptions, *, channel: str = "pty", run_for_s: float | None = None, control: Path | None = None
) -> None:
    """Run a bench until `quit`, a signal, or *run_for_s* seconds are over.

    Raises:
        ConfigurationError: it cannot be built or opened.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def told(note: Note) -> None:
        lines.put(f"{(note.at_ns - start_ns) / 1e9:9.3f} {note.who}: {note.what}")

    start_ns = time.time_ns()
    bench = Bench(options, channel=channel, told=told)
    screen: _Plain | _Screen = _Screen(bench) if sys.stdout.isatty() else _Plain()
    ended_by = (_EndedError, KeyboardInterrupt, BrokenPipeError)
    with _signals_end_it(), contextlib.suppress(*ended_by), bench, contextlib.ExitStack() as stack:
        if control is not None:
            stack.enter_context(_control_socket(bench, control))
        for line in introduction(bench, control):
            screen.say(line)
        stack.enter_context(screen)
        _read_commands(bench, screen, lines)
        screen.say("ready")
        end_s = None if run_for_s is None else time.monotonic() + run_for_s
        while not bench.has_quit and bench.failure is None:
            left_s = REFRESH_S if end_s is None else min(REFRESH_S, end_s - time.monotonic())
            if left_s <= 0:
                break
            _say_all(screen, lines, left_s)
            screen.refresh()
        _say_all(screen, lines, 0.0)
    with contextlib.suppress(BrokenPipeError):
        screen.say("bench: ended")


def _say_all(screen: _Plain | _Screen, lines: queue.SimpleQueue[str], wait_s: float) -> None:
    """Print what is there, waiting for the first line at most *wait_s*."""
    with contextlib.suppress(queue.Empty):
        screen.say(lines.get(timeout=wait_s) if wait_s else lines.get_nowait())
        while True:
            screen.say(lines.get_nowait())


def introduction(bench: Bench, control: Path | None) -> Iterator[str]:
    """What is said before anything else: what the bench is, who is on it, how to reach it."""
    options = bench.options
    place = (
        "on the internal bus"
        if options.topology is BenchTopology.DIRECT
        else "on the diagnosis bus, the master as gateway"
    )
    yield (
        f"bench: {options.series}, a master and {options.slave_count} slaves, adapters {place}, {options.bus_text}, "
        f"seed {options.seed}"
    )
    if options.flash_file is not None:
        kept = "as the last bench left them" if bench.is_kept else "fresh from the factory"
        yield f"flashes: {kept}, kept in {options.flash_file}"
    end_s = time.monotonic() + BOOT_LIMIT_S
    while any(row.state == "booting" for row in bench.rows()) and time.monotonic() < end_s:
        time.sleep(0.05)
    for row in bench.rows():
        yield f"node {row.position}: {row.role} {row.hwid} {row.hardware_class} {row.version or '-'} {row.state}"
    for number, path in enumerate(bench.paths, start=1):
        yield f"adapter {number}: {path}"
    if bench.channel == "pty":
        fd = "" if options.data_bitrate_bps is None else f" --fd --data-bitrate {options.data_bitrate_bps}"
        ids = "" if options.ids == 11 else f" --ids {options.ids}"
        ids += " --profile uds" if options.protocol is BenchProtocol.UDS else ""
        where = f"-i bmsota_slcan -c {bench.paths[0]} -b {options.bitrate_bps}{fd}"
        yield f"use: bmsota nodes {where}{ids}"
        yield f"use: python -m can.logger {where}"
    if control is not None:
        yield f"control: {control}"
    yield "commands: help lists them; Ctrl-C or quit ends the bench"


@contextlib.contextmanager
def _signals_end_it() -> Iterator[None]:
    def end(_number: int, _frame: object) -> None:
        raise _EndedError

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


# -- where commands come from ---------------------------------------------------------------------------------------------


def _read_commands(bench: Bench, screen: _Plain | _Screen, lines: queue.SimpleQueue[str]) -> None:
    """Start to read standard input, unless it is somebody else's terminal."""
    try:
        fd = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return
    if os.isatty(fd) and hasattr(os, "tcgetpgrp") and os.tcgetpgrp(fd) != os.getpgrp():
        return  # In the background: what is typed is the shell's, and reading it would stop us.

    def read() -> None:
        # Below sys.stdin, whose lock a thread that waits in it would keep at the end of the process.
        rest = b""
        while data := _read_some(fd):
            *whole, rest = screen.typed(rest + data)
            for line in whole:
                if line.strip():
                    for answer in _ask(bench, line.decode("utf-8", "replace")):
                        lines.put(answer)

    threading.Thread(target=read, name="bench commands", daemon=True).start()


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, LINE_SIZE_BYTES_MAX)
    except OSError:
        return b""


def _ask(bench: Bench, line: str) -> list[str]:
    try:
        return bench.command(line)
    except ConfigurationError as error:
        return [f"error: {error}"]


@contextlib.contextmanager
def _control_socket(bench: Bench, path: Path) -> Iterator[None]:
    """Take commands at the Unix socket *path* while the context lasts."""
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError("control: expected a system with Unix sockets; use standard input")
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise ConfigurationError(f"control: expected a path for a socket, got {path} ({error})") from error
        listener.listen()

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_serve_client, args=(bench, client), daemon=True).start()

        threading.Thread(target=accept, name="bench control", daemon=True).start()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Take away the socket of a bench that has crashed, but no other file and no socket in use."""
    if not path.exists():
        return
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink(missing_ok=True)
                return
        raise ConfigurationError(f"control: expected a path nobody uses, got {path}, where another bench listens")
    raise ConfigurationError(f"control: expected a free path, got {path}, which is there already")


def _serve_client(bench: Bench, client: socket.socket) -> None:
    with client, contextlib.suppress(OSError), client.makefile("rb") as stream:
        while line := stream.readline(LINE_SIZE_BYTES_MAX):
            answer = _ask(bench, line.decode("utf-8", "replace"))
            client.sendall("".join(f"{each}\n" for each in answer).encode())


def say(path: Path, words: Sequence[str]) -> list[str]:
    """Say one command to the bench that listens at *path*; the lines of its answer.

    Raises:
        ConfigurationError: nobody listens there.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError("control: expected a system with Unix sockets")
    answer: list[str] = []
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(SAY_TIMEOUT_S)
            line.connect(str(path))
            line.sendall((" ".join(words) + "\n").encode())
            with line.makefile("r", encoding="utf-8") as stream:
                for each in stream:
                    answer.append(each.rstrip("\n"))
                    if answer[-1].startswith(("ok", "error")):
                        return answer
    except OSError as error:
        raise ConfigurationError(f"control: expected a bench at {path}, got {error}") from error
    raise ConfigurationError(f"control: expected an answer from the bench at {path}, got its end")


# -- what is shown --------------------------------------------------------------------------------------------------------


class _Plain:
    """Lines on standard output."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        pass

    def say(self, line: str) -> None:
        print(line, flush=True)  # noqa: T201 - this is a command line

    def typed(self, data: bytes) -> list[bytes]:
        return data.split(b"\n")

    def refresh(self) -> None:
        pass


class _Screen:
    """A terminal: the table, notes above it, and below it what is being typed."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._typing = ""
        self._terminal: tuple[int, list[Any]] | None = None

    def __enter__(self) -> None:
        self._terminal = _by_character(sys.stdin)
        self._live.__enter__()

    def __exit__(self, *_error: object) -> None:
        self._live.__exit__(None, None, None)
        if self._terminal is not None:
            import termios  # noqa: PLC0415 - only where there is one

            termios.tcsetattr(self._terminal[0], termios.TCSADRAIN, self._terminal[1])

    def say(self, line: str) -> None:
        style = "red" if line.startswith("error") else "green" if line.startswith("ok") else ""
        self._console.print(f"[{style}]{escape(line)}[/]" if style else escape(line), soft_wrap=True)

    def typed(self, data: bytes) -> list[bytes]:
        if self._terminal is None:
            return data.split(b"\n")
        text = ""
        for character in data.decode("utf-8", "replace"):
            if character in "\x7f\b":
                text = text[:-1]
            elif character.isprintable() or character in "\r\n":
                text += "\n" if character == "\r" else character
        *_, self._typing = text.split("\n")
        return [line.encode() for line in text.split("\n")]

    def refresh(self) -> None:
        with contextlib.suppress(ConfigurationError):
            rows = self._bench.rows()
            self._live.update(Group(_table(rows), Text(f"> {self._typing}")), refresh=True)


def _by_character(stream: TextIO) -> tuple[int, list[Any]] | None:
    """Let keys come one by one and unseen, so that they do not write into the table; what it was before."""
    try:
        import termios  # noqa: PLC0415 - not on Windows
        import tty  # noqa: PLC0415

        fd = stream.fileno()
        if not os.isatty(fd) or os.tcgetpgrp(fd) != os.getpgrp():
            return None
        before = termios.tcgetattr(fd)
        tty.setcbreak(fd)
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    return fd, before


def _table(rows: list[NodeRow]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("node", "role", "hardware id", "class", "version", "boot", "state", "image"):
        table.add_column(title, justify="right" if title == "node" else "left", no_wrap=True)
    for row in rows:
        share = row.stored_bytes / row.size_bytes if row.size_bytes else 0.0
        bar = Table.grid(padding=(0, 1))
        if row.size_bytes:
            bar.add_row(ProgressBar(total=1.0, completed=share, width=24), f"{share:.0%} of {row.size_bytes:,}")
        table.add_row(
            f"{row.position}",
            row.role,
            row.hwid,
            row.hardware_class,
            row.version or "-",
            row.boot_reason,
            Text(row.state, style=_STATE_STYLES.get(row.state, "")),
            bar,
        )
    return table
