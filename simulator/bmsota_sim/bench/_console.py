"""The bench at a terminal or in a script: what it prints, where commands come from, and how it ends.

At a terminal: a live table of the nodes, notes above it, the command line below it. Otherwise plain lines, flushed one by
one, which scripts read: `adapter 1: /dev/pts/7`, then `ready`. Commands come from standard input and, if asked for, from a
control socket (one line each, the answer's lines back); the end of standard input is not the end of the bench.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self, TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bmsota.errors import ConfigurationError
from bmsota_sim._signals import ending_signals
from bmsota_sim.bench._bench import Bench
from bmsota_sim.bench._options import BenchOptions, BenchProtocol, BenchTopology

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bmsota_sim.bench._world import NodeRow


# How often the table is drawn, and how late a `quit` through the control socket is seen at most.
REFRESH_S = 0.2
# Nodes boot within 0.3 s; after this the table is printed with those that have.
BOOT_LIMIT_S = 2.0
# The longest command line.
LINE_SIZE_BYTES_MAX = 4096
COMMAND_TIMEOUT_S = 30.0
# How long the last lines wait for a reader that is slow, and how much is written in one go then: less than what a pipe
# that is ready to be written takes without blocking (POSIX: 512 bytes).
ENDING_WAIT_S = 1.0
PIECE_SIZE_BYTES = 256

_STATE_STYLES = {
    "application": "green",
    "bootloader": "yellow",
    "receiving": "cyan",
    "restarting": "yellow",
    "off": "red",
}


def run_bench(
    options: BenchOptions, *, channel: str = "pty", run_for_s: float | None = None, control: Path | None = None
) -> None:
    """Run a bench until `quit`, a signal, the end of its output's reader, or *run_for_s* seconds are over.

    Call it in the main thread: it handles SIGINT, SIGTERM and SIGHUP.

    Raises:
        ConfigurationError: it cannot be built or opened.
    """
    with _Inbox() as inbox:
        start_ns = time.time_ns()
        bench = Bench(
            options,
            channel=channel,
            noted=lambda note: inbox.put(f"{(note.at_ns - start_ns) / 1e9:9.3f} {note.who}: {note.what}"),
        )
        output = _Output(sys.stdout, inbox)
        screen = _Screen(bench, output) if output.isatty() else _Plain(output)
        with bench, contextlib.ExitStack() as stack:
            if control is not None:
                stack.enter_context(_control_socket(bench, control))
            for line in introduction(bench, control):
                screen.say(line)
            stack.enter_context(screen)
            _read_commands(bench, screen, inbox)
            screen.say("ready")
            end_s = float("inf") if run_for_s is None else time.monotonic() + run_for_s
            while (left_s := end_s - time.monotonic()) > 0:
                for line in inbox.wait(min(REFRESH_S, left_s)):
                    screen.say(line)
                if inbox.is_ending or bench.has_quit or bench.failure is not None:
                    break
                screen.refresh()
            for line in inbox.wait(0.0):
                screen.say(line)
        screen.say("bench: ended")


class _StuckError(Exception):
    """A signal has come while a write to the output blocks."""


class _Inbox:
    """What the main thread waits for: lines to print, and the signals that ask the bench to end. A context manager.

    Strategy: a signal is an event, not an exception. An exception strikes between any two statements: inside the
    screen's own bookkeeping it left the terminal without a cursor and the last lines unprinted, inside a finalizer or a
    callback Python drops it. The handler therefore sets a flag, and the wait is on a socket to which Python writes a
    byte for every signal (`signal.set_wakeup_fd`), whichever thread the system has handed it to.

    One place is different. The system starts an interrupted write again, so a write to a pipe or terminal that is not
    read would outlast every signal; there the handler raises (`_Output.flush`).
    """

    def __init__(self) -> None:
        self.is_ending = False
        """A signal has come, or what is printed has no reader any more."""
        self.is_writing = False
        """The main thread is in a write that may block."""
        self._lines: deque[str] = deque()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._before: dict[int, Any] = {}
        self._wakeup_fd_before = -1

    def __enter__(self) -> Self:
        self._wakeup_fd_before = signal.set_wakeup_fd(self._far.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._end) for number in ending_signals()}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_fd_before)
        self._near.close()
        self._far.close()

    def _end(self, _number: int, _frame: object) -> None:
        self.is_ending = True
        if self.is_writing:
            self.is_writing = False
            raise _StuckError

    def put(self, line: str) -> None:
        """Have *line* printed; from any thread."""
        self._lines.append(line)
        # A full socket has woken the wait already; a closed one belongs to a bench that has ended.
        with contextlib.suppress(OSError):
            self._far.send(b"\0")

    def wait(self, wait_s: float) -> list[str]:
        """The lines that are there; waits at most *wait_s* for the first, and not after a signal."""
        if not self._lines and not self.is_ending:
            select.select([self._near], [], [], wait_s)
        with contextlib.suppress(BlockingIOError):
            self._near.recv(4096)
        return [self._lines.popleft() for _ in range(len(self._lines))]


class _Output(io.TextIOBase):
    """Standard output for a bench that must end when it is asked to: what cannot be printed then is dropped."""

    def __init__(self, stream: TextIO, inbox: _Inbox) -> None:
        self._stream = stream
        self._inbox = inbox
        self._text = ""
        self._is_dead = False
        try:
            self._fd = stream.fileno()
            stream.flush()
        except (AttributeError, OSError, ValueError):
            self._fd = -1  # In memory, as in tests.

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute of the base class
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        return self._fd >= 0 and os.isatty(self._fd)

    def fileno(self) -> int:
        if self._fd < 0:
            raise io.UnsupportedOperation("fileno")
        return self._fd

    def write(self, text: str) -> int:
        self._text += text
        return len(text)

    def flush(self) -> None:
        """Print what was written. A reader that has gone away is an end of the bench, not an error."""
        text, self._text = self._text, ""
        if self._is_dead:
            return
        if self._fd < 0:
            self._stream.write(text)
            self._stream.flush()
            return
        try:
            self._write(text.encode(self.encoding, "replace"))
        except _StuckError:
            pass  # What is left of this text is lost; the next one is tried again.
        except OSError:
            self._is_dead = self._inbox.is_ending = True

    def _write(self, data: bytes) -> None:
        try:
            self._inbox.is_writing = True
            while data:
                # After a signal only what is taken at once, in pieces for which a ready pipe has room.
                if self._inbox.is_ending and not select.select([], [self._fd], [], ENDING_WAIT_S)[1]:
                    self._is_dead = True
                    return
                data = data[os.write(self._fd, data[:PIECE_SIZE_BYTES] if self._inbox.is_ending else data) :]
        finally:
            self._inbox.is_writing = False


def introduction(bench: Bench, control: Path | None) -> Iterator[str]:
    """The first lines: what the bench is, which nodes it has, how to reach them."""
    options = bench.options
    place = (
        "on the internal bus"
        if options.topology is BenchTopology.DIRECT
        else "on the diagnostic bus, the master as gateway"
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


# -- where commands come from ---------------------------------------------------------------------------------------------


def _read_commands(bench: Bench, screen: _Plain | _Screen, inbox: _Inbox) -> None:
    """Start to read standard input, unless it is the terminal of another process."""
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
                    for answer in _answer(bench, line.decode("utf-8", "replace")):
                        inbox.put(answer)

    threading.Thread(target=read, name="bench commands", daemon=True).start()


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, LINE_SIZE_BYTES_MAX)
    except OSError:
        return b""


def _answer(bench: Bench, line: str) -> list[str]:
    try:
        return bench.command(line)
    except ConfigurationError as error:
        return [f"error: {error}"]


@contextlib.contextmanager
def _control_socket(bench: Bench, path: Path) -> Iterator[None]:
    """Take commands at the Unix socket *path* while the context lasts."""
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError("this system has no Unix sockets: use standard input")
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise ConfigurationError(f"cannot open the control socket {path}: {error.strerror or error}") from error
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
    """Remove the socket of a bench that has crashed, but no other file and no socket in use."""
    if not path.exists():
        return
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink(missing_ok=True)
                return
        raise ConfigurationError(f"another bench listens at {path}")
    raise ConfigurationError(f"{path} exists and is not a socket: give another path")


def _serve_client(bench: Bench, client: socket.socket) -> None:
    with client, contextlib.suppress(OSError), client.makefile("rb") as stream:
        while line := stream.readline(LINE_SIZE_BYTES_MAX):
            answer = _answer(bench, line.decode("utf-8", "replace"))
            client.sendall("".join(f"{each}\n" for each in answer).encode())


def send_command(path: Path, words: Sequence[str]) -> list[str]:
    """Send a command to the bench that listens at *path*; the lines of its answer.

    Raises:
        ConfigurationError: no bench listens there, or it ended without an answer.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError("this system has no Unix sockets")
    answer: list[str] = []
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(COMMAND_TIMEOUT_S)
            line.connect(str(path))
            line.sendall((" ".join(words) + "\n").encode())
            with line.makefile("r", encoding="utf-8") as stream:
                for each in stream:
                    answer.append(each.rstrip("\n"))
                    if answer[-1].startswith(("ok", "error")):
                        return answer
    except OSError as error:
        raise ConfigurationError(f"no bench listens at {path}: {error.strerror or error}") from error
    raise ConfigurationError(f"the bench at {path} ended without an answer")


# -- what is shown --------------------------------------------------------------------------------------------------------


class _Plain:
    """Lines on standard output."""

    def __init__(self, output: _Output) -> None:
        self._output = output

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        pass

    def say(self, line: str) -> None:
        self._output.write(f"{line}\n")
        self._output.flush()

    def typed(self, data: bytes) -> list[bytes]:
        return data.split(b"\n")

    def refresh(self) -> None:
        pass


class _Screen:
    """A terminal: the table, notes above it, and below it what is being typed."""

    def __init__(self, bench: Bench, output: _Output) -> None:
        self._bench = bench
        self._console = Console(file=cast("TextIO", output), highlight=False)
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

            # Now, not when the terminal has taken everything: it may not be read any more.
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._terminal[0], termios.TCSANOW, self._terminal[1])

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
