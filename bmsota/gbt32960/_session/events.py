"""What the two sessions report, in the past tense. An event is a fact; what to do about it is the caller's.

`TerminalEvent` and `PlatformEvent` list what each session can say, so that a type checker proves that all are handled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from bmsota.gbt32960._codec import decode_partial
from bmsota.gbt32960._enums import Command
from bmsota.gbt32960._messages import Report
from bmsota.gbt32960._reader import FIRST_SIZE_BYTES_MAX, DiscardedBytes, RefusalKind
from bmsota.gbt32960._time import seconds_at

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota.errors import FrameError
    from bmsota.gbt32960._frame import Frame
    from bmsota.gbt32960._messages import Message, PlatformLogin, VehicleLogin, VehicleLogin2025
    from bmsota.gbt32960._registry import Layouts


# --- both sessions ---------------------------------------------------------------------------------------------------


class CloseReason(Enum):
    """Why a session wants its link closed."""

    LOGGED_OUT = "the logout was answered, or nobody answered it"
    LOGIN_FAILED = "three logins in a row failed"
    HEARTBEAT_LOST = "the platform does not answer heartbeats"
    SILENT = "nothing was heard from the terminal for too long"
    NOT_LOGGED_IN = "the terminal did not log in"
    LOGIN_REFUSED = "the terminal's login was refused"
    SUPERSEDED = "the same vehicle has logged in on another link"
    GARBAGE = "too many bytes in a row belong to no frame"
    UNANSWERED = "the other platform answers no report"
    FLOOD = "too many bytes came while a login was being decided"


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """The driver should send what is left and close the link."""

    reason: CloseReason


# --- the terminal ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectRequested:
    """The driver should open a link now, then call `connected`, or `disconnected` if that failed."""

    attempt: int
    """1 for the first try after a success or a long wait."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The platform has accepted the login."""

    serial: int
    """The login serial of this session of the vehicle."""


class LoginFailure(Enum):
    """Why a login did not succeed."""

    REFUSED = "the platform refused it"
    NO_REPLY = "the platform did not answer in time"
    NO_LINK = "there was no link, or it broke before the answer"


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """A login has failed. The session tries again by itself after the wait that the standard prescribes."""

    reason: LoginFailure
    misses: int
    """How many failed in a row; after the third the wait is the long one."""
    retry_ns: int
    """When the next try is due."""
    reply_flag: int | None = None
    """The platform's flag, if it answered."""


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """The vehicle is logged out. `restart` begins again."""


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """The platform has sent a command: 0x80 to 0x82, or one of an extension. Reply with `reply_to`.

    In 2025 also 0x0A, the reply to an activation, which needs no answer, and 0x0B, an exchange of keys.
    """

    frame: Frame


@dataclass(frozen=True, slots=True)
class ReplyReceived:
    """The platform has replied to a frame of ours."""

    command: int
    reply_flag: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class TimeSynchronised:
    """The platform has sent its time."""

    platform_time: datetime
    ahead_ns: int
    """How far the platform's clock is ahead of ours, to the second."""


@dataclass(frozen=True, slots=True)
class ExtensionUndelivered:
    """The platform did not answer a frame of the extension; it may know only the standard."""

    command: int
    message: Message


@dataclass(frozen=True, slots=True)
class ReportsDropped:
    """Stored reports were given up: older than the window, or more than the store may hold."""

    count: int
    oldest_ns: int


# --- the sending end between platforms ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ForwardRefused:
    """The other platform does not take a vehicle's frame: a login, or a report that it has refused three times."""

    vin: str
    command: int
    reply_flag: int
    frame: bytes
    """The report as it was sent last; empty for a login or logout."""


# --- the platform ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoginRequested:
    """A vehicle, or a platform, wants to log in. Answer with `accept_login` or `refuse_login`."""

    vin: str
    login: VehicleLogin | VehicleLogin2025 | PlatformLogin


@dataclass(frozen=True, slots=True)
class LogoutReceived:
    """The vehicle, or the other platform, has logged out; the reply is sent."""

    vin: str
    serial: int
    time: datetime


class ReportReceived:
    """A report has arrived: its bytes, and its values when they are asked for.

    A correct one gets no reply on a terminal's link (annex B) unless `PlatformOptions.acknowledge_reports` says so. Two events
    are equal if they are of the same bytes. Not to be changed by the receiver.
    """

    __slots__ = (
        "_layouts",
        "_report",
        "clear",
        "fault",
        "frame",
        "is_after_logout",
        "reply_flag",
        "reported_at_s",
        "vin",
    )

    vin: str
    frame: bytes
    """The whole frame, exactly as it was received."""
    clear: bytes
    """The whole frame in the clear, with its right check byte; `frame` itself if it was not enciphered."""
    reported_at_s: int
    """The report's own time, in seconds since the Unix epoch."""
    fault: FrameError | None
    """Why the end of the data unit is not valid; `report` has the bodies before it. The report was answered as wrong."""
    is_after_logout: bool
    """The vehicle had logged out on this link: real ones send their state at switch-off with, or behind, the logout."""
    reply_flag: int | None
    """With which flag the report was answered; None: not yet, or not at all."""

    def __init__(
        self,
        vin: str,
        frame: bytes,
        clear: bytes | None = None,
        reported_at_s: int | None = None,
        report: Report | None = None,
        layouts: Layouts | None = None,
        *,
        fault: FrameError | None = None,
        is_after_logout: bool = False,
        reply_flag: int | None = None,
    ) -> None:
        """Of a valid *frame*; what is not given is read from its bytes.

        Raises:
            FrameError: *clear*, or *frame*, has no time.
        """
        self.vin = vin
        self.frame = frame
        self.clear = clear = frame if clear is None else clear
        if reported_at_s is None:
            reported_at_s = seconds_at(clear, 24)
            if reported_at_s is None:
                decode_partial(clear)  # Raises, and says what is wrong.
                raise AssertionError(clear)
        self.reported_at_s = reported_at_s
        self.fault = fault
        self.is_after_logout = is_after_logout
        self.reply_flag = reply_flag
        self._report = report
        self._layouts = layouts

    @property
    def is_backfill(self) -> bool:
        """Whether it came as 0x03, from a time without a link."""
        return self.frame[2] == Command.BACKFILL_REPORT

    @property
    def report(self) -> Report:
        """The values: decoded when first asked for, then kept."""
        if self._report is None:
            message = decode_partial(self.clear, layouts=self._layouts)[0].message
            assert isinstance(message, Report)
            self._report = message
        return self._report

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReportReceived):
            return NotImplemented
        return (self.vin, self.frame, self.clear, self.is_after_logout) == (
            other.vin,
            other.frame,
            other.clear,
            other.is_after_logout,
        )

    def __hash__(self) -> int:
        return hash((self.vin, self.frame))

    def __repr__(self) -> str:
        return (
            f"ReportReceived(vin={self.vin!r}, reported_at_s={self.reported_at_s}, is_backfill={self.is_backfill}, "
            f"size_bytes={len(self.frame)}, fault={self.fault})"
        )


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """A heartbeat has arrived, and was replied to."""

    vin: str


@dataclass(frozen=True, slots=True)
class ExtensionReceived:
    """A frame of the extension, or of another maker's use of the same commands. Answer with `reply`."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class SecurityReceived:
    """2025: the terminal introduces its key (0x09) or exchanges the data unit's key (0x0B), before or after the login.

    Answer with `reply`, `send_security`, or both.
    """

    frame: Frame


@dataclass(frozen=True, slots=True)
class CommandReplied:
    """The terminal answered a command."""

    command: int
    message: Message
    """What we had sent."""
    reply_flag: int
    frame: Frame
    """The answer."""


@dataclass(frozen=True, slots=True)
class CommandTimedOut:
    """The terminal did not answer a command in all its tries, or the link ended before it could."""

    command: int
    message: Message
    tries: int


@dataclass(frozen=True, slots=True)
class FrameRefused:
    """A valid frame that is not allowed now, such as one before the login or for another vehicle. It has had no effect."""

    frame: Frame
    reason: str
    kind: RefusalKind
    raw: bytes
    """The frame as it came."""
    reply_flag: int | None = None
    """With which flag it was answered; None: not at all."""

    @property
    def vin(self) -> str:
        """The identifier in its header."""
        return self.frame.vin

    @property
    def first_bytes(self) -> bytes:
        """The beginning of `raw`."""
        return self.raw[:FIRST_SIZE_BYTES_MAX]


TerminalEvent = (
    ConnectRequested
    | LoggedIn
    | LoginFailed
    | LoggedOut
    | CommandReceived
    | ReplyReceived
    | TimeSynchronised
    | ExtensionUndelivered
    | ReportsDropped
    | FrameRefused
    | CloseRequested
    | DiscardedBytes
)
"""What `TerminalSession.next_event` returns."""
ForwardingEvent = (
    LoggedIn
    | LoginFailed
    | LoggedOut
    | ForwardRefused
    | ReportsDropped
    | FrameRefused
    | CloseRequested
    | DiscardedBytes
)
"""What `ForwardingSession.next_event` returns."""
PlatformEvent = (
    LoginRequested
    | LogoutReceived
    | ReportReceived
    | HeartbeatReceived
    | ExtensionReceived
    | SecurityReceived
    | CommandReplied
    | CommandTimedOut
    | FrameRefused
    | CloseRequested
    | DiscardedBytes
)
"""What `PlatformSession.next_event` returns."""
