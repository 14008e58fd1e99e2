"""`bmsota send`: replay frames to a platform over TCP, at their original or a scaled speed, and print its answers.

Each vehicle gets a connection of its own, as terminals have (annex B); `--one-link` sends all over one, as platforms do. Of a
capture only the terminals' directions are sent. The pauses are those of the capture, of the table's time column, or of the times inside the
frames; backfill, which is older, is sent at once. Commands of the platform are shown and not answered: a replay is not a terminal.

Exit codes: 0 everything was sent and nothing refused; 1 a frame was refused or invalid, or a connection failed; 2 usage error,
or nothing to read.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from bmsota._words import counted
from bmsota.adapters.frame_sources import FoundFrame, ReadSummary
from bmsota.adapters.tcp import TcpLink, wait
from bmsota.adapters.tls import client_context
from bmsota.cli.decode import json_line, json_of
from bmsota.cli.frame_input import FrameInputOptions, read_frames
from bmsota.cli.options import takes
from bmsota.cli.terminal import forgiving_output
from bmsota.errors import ConfigurationError, TransferError
from bmsota.gbt32960 import Command, FrameReader, FrameReceived, ReplyFlag, nanoseconds

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from bmsota.gbt32960 import Frame

__all__ = ["Replay", "SendOptions", "SendPace", "command", "is_uplink"]

_LINKS_MAX: Final = 900
"""Connections at once. Systems let a process have 1024 files by default."""
_WAIT_S_MAX: Final = 0.2
"""The longest single wait, so that the progress bar keeps moving."""
_LOGINS: Final = frozenset({Command.VEHICLE_LOGIN, Command.PLATFORM_LOGIN})
_LOGOUTS: Final = frozenset({Command.VEHICLE_LOGOUT, Command.PLATFORM_LOGOUT})
_ENDPOINT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]\s]+)):(\d{1,5})")


class SendPace:
    """When each frame is due, from the frame's time. Reads no clock."""

    def __init__(self, *, speed: float = 1.0, pause_s_max: float | None = None) -> None:
        """*speed* 2 halves every pause, 0 leaves them all out. No pause is longer than *pause_s_max* after that."""
        self._speed = speed
        self._pause_s_max = pause_s_max
        self._latest_ns: int | None = None
        self._due_s = 0.0

    def due_s(self, time_ns: int | None) -> float:
        """Seconds after the start. Never falls: a frame that is older than the one before it is due at once."""
        if time_ns is None or not self._speed:
            return self._due_s
        if self._latest_ns is not None:
            pause_s = max(time_ns - self._latest_ns, 0) / 1e9 / self._speed
            self._due_s += pause_s if self._pause_s_max is None else min(pause_s, self._pause_s_max)
        self._latest_ns = time_ns if self._latest_ns is None else max(time_ns, self._latest_ns)
        return self._due_s


def is_uplink(frame: Frame) -> bool:
    """Whether a terminal, or a lower platform, sends such a frame."""
    is_command = frame.reply_flag == ReplyFlag.COMMAND
    # 0xC0 to 0xFE may go either way; so far only terminals send commands with them.
    return is_command if frame.command < 0x80 or frame.command >= 0xC0 else not is_command


@dataclass(slots=True)
class _Vehicle:
    """A connection and what is known about it."""

    link: TcpLink
    reader: FrameReader = field(default_factory=FrameReader)
    sent: int = 0
    last_command: int = 0


class Replay:
    """Sends frames when they are due and listens in between. Clock, waiting and connecting are passed in."""

    def __init__(
        self,
        *,
        connect: Callable[[], TcpLink],
        pace: SendPace,
        tell: Callable[[FoundFrame], None],
        complain: Callable[[str], None],
        one_link: bool = False,
        clock: Callable[[], float] = time.monotonic,
        listen: Callable[[Iterable[TcpLink], float], list[TcpLink]] = wait,
    ) -> None:
        self._connect = connect
        self._pace = pace
        self._tell = tell
        self._complain = complain
        self._one_link = one_link
        self._clock = clock
        self._listen = listen
        self._start_s = clock()
        self._vehicles: dict[str, _Vehicle] = {}
        self._lost: set[str] = set()
        self._uplinks: dict[str, bool] = {}
        self.sent = 0
        self.unsent = 0
        """Frames of vehicles whose connection is gone."""
        self.downlink = 0
        """Frames of a capture that the platform sent."""
        self.answers = 0
        self.refused = 0
        self.asked = 0
        """Commands of the platform, which a replay does not answer."""
        self.faults = 0

    def send(self, found: FoundFrame) -> None:
        """Send one frame when it is due."""
        frame = found.frame
        assert frame is not None
        if found.link:
            if found.link not in self._uplinks:
                self._uplinks[found.link] = is_uplink(frame)
            if not self._uplinks[found.link]:
                self.downlink += 1
                return
        time_ns = found.time_ns
        if time_ns is None and hasattr(frame.message, "time"):
            time_ns = nanoseconds(frame.message.time)
        due_s = self._start_s + self._pace.due_s(time_ns)
        if self._is_lost(frame):  # No wait for what will not be sent.
            self.unsent += 1
            return
        self.hear(0.0)
        while (left_s := due_s - self._clock()) > 0:
            self.hear(min(left_s, _WAIT_S_MAX))
        self._send_now(frame, found.data)

    def _key(self, frame: Frame) -> str:
        return "" if self._one_link else frame.vin

    def _is_lost(self, frame: Frame) -> bool:
        """Whether the frame's connection is gone, and the frame is none that opens another."""
        key = self._key(frame)
        return key not in self._vehicles and key in self._lost and frame.command not in _LOGINS

    def _send_now(self, frame: Frame, data: bytes) -> None:
        key = self._key(frame)
        # While waiting, it may have been lost.
        vehicle = self._vehicles.get(key) or (None if self._is_lost(frame) else self._open(key))
        if vehicle is None:
            self.unsent += 1
            return
        try:
            vehicle.link.send(data)
        except TransferError as error:
            self._lose(key, str(error))
            self.unsent += 1
            return
        vehicle.sent += 1
        vehicle.last_command = frame.command
        self.sent += 1

    def _open(self, key: str) -> _Vehicle | None:
        if len(self._vehicles) >= _LINKS_MAX:
            self._lose(key, f"more than {_LINKS_MAX} vehicles at once; use --one-link")
            return None
        try:
            vehicle = self._vehicles[key] = _Vehicle(self._connect())
        except TransferError as error:
            self._lose(key, str(error))
            return None
        return vehicle

    def _lose(self, key: str, reason: str) -> None:
        self._vehicles.pop(key, None)
        self._lost.add(key)
        self.faults += 1
        self._complain(f"{key}: {reason}" if key else reason)

    def hear(self, timeout_s: float) -> bool:
        """Listen for at most *timeout_s*; return whether anything came."""
        by_link = {id(vehicle.link): (key, vehicle) for key, vehicle in self._vehicles.items()}
        heard = self._listen([vehicle.link for vehicle in self._vehicles.values()], timeout_s)
        for link in heard:
            key, vehicle = by_link[id(link)]
            data = link.receive()
            if data:
                vehicle.reader.receive_data(data)
                self._read(key, vehicle)
                continue
            vehicle.reader.end()
            self._read(key, vehicle)
            if vehicle.last_command in _LOGOUTS:  # What it should do.
                del self._vehicles[key]
                self._lost.add(key)
            else:
                self._lose(
                    key,
                    f"the platform closed the connection after {counted(vehicle.sent, 'frame')}",
                )
        return bool(heard)

    def _read(self, key: str, vehicle: _Vehicle) -> None:
        while (event := vehicle.reader.next_event()) is not None:
            place = f"< {key}" if key else "<"
            if not isinstance(event, FrameReceived):
                self.faults += 1
                self._tell(
                    FoundFrame(place, event.data, error=f"{counted(len(event.data), 'byte')} discarded: {event.reason}")
                )
                continue
            flag = event.frame.reply_flag
            if flag == ReplyFlag.COMMAND:
                self.asked += 1
            else:
                self.answers += 1
                self.refused += flag != ReplyFlag.SUCCESS
            self._tell(FoundFrame(place, event.raw, event.frame))

    def finish(self, wait_s: float) -> None:
        """Listen until nothing has come for *wait_s*, or every connection is closed."""
        until_s = self._clock() + wait_s
        while self._vehicles and (left_s := until_s - self._clock()) > 0:
            if self.hear(min(left_s, _WAIT_S_MAX)):
                until_s = self._clock() + wait_s

    def close(self) -> None:
        """Close every connection."""
        for vehicle in self._vehicles.values():
            vehicle.link.close()
        self._vehicles.clear()

    def summary(self) -> str:
        """What happened, in one line."""
        parts = [f"{counted(self.sent, 'frame')} sent in {self._clock() - self._start_s:.1f} s"]
        parts.append(f"{self.answers} answered, {self.refused} of them refused")
        for count, what in (
            (self.asked, "commands from the platform not answered"),
            (self.downlink, "frames of the other direction skipped"),
            (self.unsent, "frames not sent"),
        ):
            if count:
                parts.append(f"{count} {what}")
        return "; ".join(parts)


def _endpoint(text: str) -> tuple[str, int]:
    if not text:
        raise typer.BadParameter("no platform: pass --to HOST:PORT")
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 0 < int(match[3]) <= 65535:
        raise typer.BadParameter(f"--to: expected HOST:PORT or [ADDRESS]:PORT, got {text!r}")
    return match[1] or match[2], int(match[3])


def _ssl_context(options: SendOptions) -> ssl.SSLContext | None:
    if not (options.tls or options.tls_ca or options.tls_cert or options.tls_key):
        return None
    try:
        return client_context(ca=options.tls_ca, cert=options.tls_cert, key=options.tls_key)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions(FrameInputOptions):
    """The options of `bmsota send`."""

    to: Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="Send to this platform.")] = ""
    speed: Annotated[
        float, typer.Option("--speed", min=0.0, help="Divide all pauses by this factor; 0 sends without pauses.")
    ] = 1.0
    pause_max: Annotated[
        float | None, typer.Option("--pause-max", min=0.0, metavar="SECONDS", help="Shorten longer pauses to this.")
    ] = None
    wait_s: Annotated[
        float,
        typer.Option("--wait", min=0.0, metavar="SECONDS", help="At the end, exit after this long without an answer."),
    ] = 2.0
    one_link: Annotated[
        bool, typer.Option("--one-link", help="Use one connection for all vehicles, as between platforms.")
    ] = False
    tls: Annotated[
        bool, typer.Option("--tls", help="Use TLS, and check the platform's certificate by the system's authorities.")
    ] = False
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", metavar="FILE", help="Use TLS, with these authorities instead (PEM).")
    ] = None
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Show this certificate to the platform (PEM).")
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="The private key of --tls-cert (PEM).")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print answers as JSON, one object a line.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the summary, not the answers.")] = False


@takes(SendOptions)
def command(_ctx: typer.Context, options: SendOptions) -> None:
    """Replay GB/T 32960.3 frames to a platform, at original or scaled speed, and print its answers.

    Each vehicle gets its own connection. From a capture only the terminals' frames are sent. Commands of the platform are
    shown, not answered.

    Exit code: 0 everything was sent and nothing refused; 1 a frame was refused or invalid, or a connection failed; 2 usage error.
    """
    forgiving_output()
    host, number = _endpoint(options.to)
    context = _ssl_context(options)
    summary = ReadSummary()
    frames = read_frames(options, summary)
    console = Console(stderr=True, soft_wrap=True)

    def tell(found: FoundFrame) -> None:
        if options.quiet and found.frame is not None:
            return
        typer.echo(json_line(json_of(found)) if options.as_json else _line(found))

    def complain(text: str) -> None:
        typer.echo(f"bmsota send: {text}", err=True)

    replay = Replay(
        connect=lambda: TcpLink(host, number, ssl_context=context),
        pace=SendPace(speed=options.speed, pause_s_max=options.pause_max),
        tell=tell,
        complain=complain,
        one_link=options.one_link,
    )
    bar: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    try:
        with Progress(*bar, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("sending", total=1.0)
            for found in frames:
                if found.frame is None:
                    complain(f"{found.place}: {found.error} (not sent)")
                else:
                    replay.send(found)
                progress.update(task, completed=summary.progress(), description=f"{replay.sent} frames sent")
            replay.finish(options.wait_s)
    finally:
        replay.close()
        for note in summary.notes:
            complain(note)
        complain(replay.summary())
    if replay.refused or replay.faults or replay.unsent or summary.bad or not replay.sent:
        raise typer.Exit(1)


def _line(found: FoundFrame) -> str:
    if found.frame is None:
        return f"{found.place}: {found.error}"
    frame = found.frame
    return f"{found.place} {_name(Command, frame.command)} {_name(ReplyFlag, frame.reply_flag)}"


def _name(codes: type[Command | ReplyFlag], code: int) -> str:
    return codes(code).name if code in codes._value2member_map_ else f"{code:#04x}"
