"""The sending end of a link between platforms (chapter 5): one login, then the frames of many vehicles.

Time and bytes go in, events and bytes come out, as in `terminal`; the driver brings a link with `connected` whenever it has one.

    session.forward(frame, now)        a vehicle's login, report or logout, in the clear, as it came from the vehicle

Strategy for delivery. Between platforms a report is answered once it is stored, so a report is kept until its answer has come: what
was on its way when the link broke, or was not answered in a minute, is sent again, as 0x03. Vehicles that are on are logged in again
on a new link. What waits is bounded in bytes; the oldest is dropped first, and said.

Heartbeats. Table 3 leaves 0x07 to terminals, so between platforms it is a courtesy: a link on which nothing came for a period gets
one, under this platform's code. Whoever has answered one is expected to go on: after three without an answer, or anything else, the link is
over. From a platform that never answers any, silence means nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._codec import encode
from bmsota.gbt32960._enums import Command, Edition, Encryption, ReplyFlag
from bmsota.gbt32960._frame import HEADER_SIZE_BYTES, Frame
from bmsota.gbt32960._messages import Heartbeat, PlatformLogin, PlatformLogout
from bmsota.gbt32960._reader import FrameReader, RefusalKind
from bmsota.gbt32960._session.backfill import as_backfill
from bmsota.gbt32960._session.base import TRIES, BaseSession, SessionTimer
from bmsota.gbt32960._session.events import (
    CloseReason,
    CloseRequested,
    ForwardingEvent,
    ForwardRefused,
    LoggedIn,
    LoggedOut,
    LoginFailed,
    LoginFailure,
    ReportsDropped,
)
from bmsota.gbt32960._time import MINUTE_NS, beijing_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.gbt32960._reader import FrameReceived

__all__ = ["ForwardingOptions", "ForwardingSession", "ForwardingState"]

_ANSWER_NS: Final = MINUTE_NS
"""As between terminal and platform (B.2.9)."""
_SERIAL_MAX: Final = 65531
"""Table 6; then from 1 again."""
_REPORTS: Final = (Command.REALTIME_REPORT, Command.BACKFILL_REPORT)
_TIME_END: Final = HEADER_SIZE_BYTES + 6


class ForwardingState(Enum):
    """Where the session stands."""

    UNLINKED = "no link"
    LOGGING_IN = "the login is not answered yet"
    LOGGED_IN = "frames go out"
    LOGGING_OUT = "the logout is not answered yet"
    ENDED = "logged out"


_S = ForwardingState


class _Input(Enum):
    LINK_UP = auto()
    LINK_DOWN = auto()
    ACCEPTED = auto()
    LOGOUT_ASKED = auto()
    LOGOUT_OVER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingOptions:
    """What the two platforms agree on, and what may wait."""

    edition: Edition = Edition.GBT2016
    """Of login and logout; a vehicle's frames keep their own."""
    in_flight_max: int = 256
    """Reports on their way without an answer; the next ones wait."""
    waiting_size_bytes_max: int = 64 * 1024 * 1024
    """Of reports that are kept, on their way or waiting."""
    heartbeat_period_ns: int = MINUTE_NS
    """A heartbeat is sent when nothing has come for so long; 0: never."""


@dataclass(slots=True)
class _Report:
    """A report that is not answered yet."""

    frame: bytes
    forwarded_ns: int
    sent_ns: int = 0
    refusals: int = 0

    @property
    def key(self) -> bytes:
        """What its answer repeats: VIN and time."""
        return self.frame[4:21] + self.frame[HEADER_SIZE_BYTES:_TIME_END]


class ForwardingSession(BaseSession[ForwardingState, ForwardingEvent]):
    """One link to another platform, and what it has to get."""

    __slots__ = (
        "_answers_heartbeats",
        "_code",
        "_heartbeats_unanswered",
        "_in_flight",
        "_is_heard",
        "_is_refused",
        "_misses",
        "_password",
        "_serial",
        "_size_bytes",
        "_unanswered_rounds",
        "_user",
        "_vehicles",
        "_waiting",
        "options",
    )

    _NAME = "forwarding"
    _TRANSITIONS: ClassVar[dict[ForwardingState, dict[_Input, ForwardingState]]] = {
        _S.UNLINKED: {_Input.LINK_UP: _S.LOGGING_IN, _Input.LINK_DOWN: _S.UNLINKED, _Input.LOGOUT_ASKED: _S.ENDED},
        _S.LOGGING_IN: {_Input.ACCEPTED: _S.LOGGED_IN, _Input.LINK_DOWN: _S.UNLINKED, _Input.LOGOUT_ASKED: _S.ENDED},
        _S.LOGGED_IN: {_Input.LINK_DOWN: _S.UNLINKED, _Input.LOGOUT_ASKED: _S.LOGGING_OUT},
        _S.LOGGING_OUT: {_Input.LINK_DOWN: _S.ENDED, _Input.LOGOUT_OVER: _S.ENDED},
        _S.ENDED: {_Input.LINK_DOWN: _S.ENDED},
    }
    _LINKED = frozenset({_S.LOGGING_IN, _S.LOGGED_IN, _S.LOGGING_OUT})

    def __init__(
        self, *, code: str, user: str, password: str, serial: int = 1, options: ForwardingOptions | None = None
    ) -> None:
        """Nothing is sent before `connected`.

        Args:
            code: the unique code of this platform, in the place of a VIN.
            user: as agreed with the other platform, at most 12 characters.
            password: at most 20 characters.
            serial: of the first login; it rises with each.
            options: see `ForwardingOptions`.
        """
        super().__init__(ForwardingState.UNLINKED, None, None)
        self.options = options or ForwardingOptions()
        self._code = code
        self._user = user
        self._password = password
        self._serial = serial - 1
        self._misses = 0
        self._is_refused = False
        self._unanswered_rounds = 0
        """How often in a row reports had to be sent again, and nothing came."""
        self._is_heard = False
        """Something has come since the last look."""
        self._heartbeats_unanswered = 0
        self._answers_heartbeats = False
        """The other platform, on this link."""
        self._vehicles: dict[str, bytes] = {}
        """The login of each vehicle that is on."""
        self._waiting: deque[_Report] = deque()
        self._in_flight: deque[_Report] = deque()
        """In the order in which they went out."""
        self._size_bytes = 0

    @property
    def waiting_count(self) -> int:
        """Reports that are not answered yet, on their way or not."""
        return len(self._waiting) + len(self._in_flight)

    # --- what happened ------------------------------------------------------------------------------------------------

    def connected(self, now_ns: int) -> None:
        """There is a link: log in.

        Raises:
            LocalProtocolError: there was one already, or the session has ended.
        """
        self._move(_Input.LINK_UP)
        self._reader = FrameReader()
        self._unanswered_rounds = 0
        self._heartbeats_unanswered = 0
        self._answers_heartbeats = False
        self._misses = 0
        self._log_in(now_ns)

    def disconnected(self, now_ns: int) -> None:  # noqa: ARG002 - as the other sessions have it
        """The link is gone; what was not answered waits for the next one."""
        self._move(_Input.LINK_DOWN)
        self._outgoing.clear()
        self._outgoing_size_bytes = 0
        self._stop_all()
        for report in reversed(self._in_flight):
            self._waiting.appendleft(self._again(report))
        self._in_flight.clear()

    # --- what the caller wants ----------------------------------------------------------------------------------------

    def forward(self, frame: bytes, now_ns: int) -> None:
        """Send a vehicle's frame, whole and in the clear: login, report, backfill or logout.

        Without a link, logins and reports are kept.

        Raises:
            LocalProtocolError: another command, an answer, an enciphered or a cut frame, or the session is over. Nothing was sent.
        """
        if self._state in {_S.LOGGING_OUT, _S.ENDED}:
            msg = "forward: the session has logged out"
            raise LocalProtocolError(msg)
        command = frame[2] if len(frame) > _TIME_END else 0
        is_known = command in (*_REPORTS, Command.VEHICLE_LOGIN, Command.VEHICLE_LOGOUT)
        if not is_known or frame[3] != ReplyFlag.COMMAND or frame[21] != Encryption.NONE:
            msg = f"forward: expected a vehicle's login, report or logout in the clear, got {frame[:24].hex()}"
            raise LocalProtocolError(msg)
        if command in _REPORTS:
            self._waiting.append(_Report(frame, now_ns))
            self._size_bytes += len(frame)
            self._drop_oldest()
            self._pump(now_ns)
            return
        vin = frame[4:21].rstrip(b"\0 ").decode("latin-1")
        if command == Command.VEHICLE_LOGIN:
            self._vehicles[vin] = frame
        else:
            self._vehicles.pop(vin, None)
        if self._state is _S.LOGGED_IN:
            self._send(frame)

    def log_out(self, now_ns: int) -> None:
        """End the session. What is not answered by then stays here, and is the caller's (`unanswered`).

        Raises:
            LocalProtocolError: it has logged out before.
        """
        was_logged_in = self._state is _S.LOGGED_IN
        self._move(_Input.LOGOUT_ASKED)
        self._stop_all()
        if was_logged_in:
            self._send_own(Command.PLATFORM_LOGOUT, PlatformLogout(time=beijing_time(now_ns), serial=self._serial))
            self._start(SessionTimer.LOGOUT, now_ns + _ANSWER_NS)
        else:
            self._events.append(CloseRequested(CloseReason.LOGGED_OUT))

    def unanswered(self) -> tuple[bytes, ...]:
        """The reports that no answer has come for, oldest first; those that were sent before as 0x03."""
        return tuple(self._again(report).frame for report in self._in_flight) + tuple(r.frame for r in self._waiting)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _send_own(self, command: Command, message: PlatformLogin | PlatformLogout | Heartbeat) -> None:
        self._send(encode(Frame(command=command, vin=self._code, message=message, edition=self.options.edition)))

    def _log_in(self, now_ns: int) -> None:
        self._is_refused = False
        self._serial = self._serial % _SERIAL_MAX + 1
        login = PlatformLogin(time=beijing_time(now_ns), serial=self._serial, user=self._user, password=self._password)
        self._send_own(Command.PLATFORM_LOGIN, login)
        self._start(SessionTimer.LOGIN, now_ns + _ANSWER_NS)

    def _login_due(self, now_ns: int) -> None:
        if not self._is_refused:
            self._login_failed(LoginFailure.NO_REPLY, None, now_ns)
        if self._misses < TRIES:
            self._log_in(now_ns)

    def _login_failed(self, reason: LoginFailure, reply_flag: int | None, now_ns: int) -> None:
        self._misses += 1
        self._events.append(LoginFailed(reason, self._misses, now_ns + _ANSWER_NS, reply_flag))
        if self._misses >= TRIES:
            self._stop(SessionTimer.LOGIN)
            self._events.append(CloseRequested(CloseReason.LOGIN_FAILED))

    @staticmethod
    def _again(report: _Report) -> _Report:
        frame = report.frame
        if frame[2] == Command.REALTIME_REPORT:
            frame = as_backfill(frame)
        return _Report(frame, report.forwarded_ns, refusals=report.refusals)

    def _drop_oldest(self) -> None:
        dropped: list[_Report] = []
        while self._size_bytes > self.options.waiting_size_bytes_max and self._waiting:
            dropped.append(self._waiting.popleft())
            self._size_bytes -= len(dropped[-1].frame)
        if dropped:
            self._events.append(ReportsDropped(len(dropped), min(report.forwarded_ns for report in dropped)))

    def _pump(self, now_ns: int) -> None:
        """Send what may go out now."""
        while self._state is _S.LOGGED_IN and self._waiting and len(self._in_flight) < self.options.in_flight_max:
            report = self._waiting.popleft()
            report.sent_ns = now_ns
            self._in_flight.append(report)
            self._send(report.frame)
        if self._in_flight and self._state is _S.LOGGED_IN:
            self._start(SessionTimer.RESEND, self._in_flight[0].sent_ns + _ANSWER_NS)
        else:
            self._stop(SessionTimer.RESEND)

    def _resend_due(self, now_ns: int) -> None:
        """Nobody has answered the oldest in time: all that are as old go again, behind what waits."""
        while self._in_flight and self._in_flight[0].sent_ns + _ANSWER_NS <= now_ns:
            self._waiting.append(self._again(self._in_flight.popleft()))
        self._unanswered_rounds += 1
        if self._unanswered_rounds >= TRIES:
            self._events.append(CloseRequested(CloseReason.UNANSWERED))
            return
        self._pump(now_ns)

    def _heartbeat_due(self, now_ns: int) -> None:
        if self._is_heard:
            self._heartbeats_unanswered = 0
        elif self._answers_heartbeats and self._heartbeats_unanswered >= TRIES:
            self._stop(SessionTimer.HEARTBEAT)
            self._events.append(CloseRequested(CloseReason.HEARTBEAT_LOST))
            return
        else:
            self._heartbeats_unanswered += 1
            self._send_own(Command.HEARTBEAT, Heartbeat())
        self._is_heard = False
        self._start(SessionTimer.HEARTBEAT, now_ns + self.options.heartbeat_period_ns)

    def _logout_due(self, now_ns: int) -> None:  # noqa: ARG002 - a timer's method
        self._move(_Input.LOGOUT_OVER)
        self._events.append(CloseRequested(CloseReason.LOGGED_OUT))

    def _receive(self, event: FrameReceived, now_ns: int) -> None:
        frame = event.frame
        self._is_heard = True
        if frame.command != Command.HEARTBEAT:
            self._unanswered_rounds = 0
        if frame.reply_flag == ReplyFlag.COMMAND:
            self._refuse(event, RefusalKind.WRONG_DIRECTION, f"command {frame.command:#04x} of the other platform")
        elif frame.command == Command.PLATFORM_LOGIN and self._state is _S.LOGGING_IN:
            self._login_answered(frame, now_ns)
        elif frame.command == Command.PLATFORM_LOGOUT and self._state is _S.LOGGING_OUT:
            self._stop(SessionTimer.LOGOUT)
            self._move(_Input.LOGOUT_OVER)
            self._events.append(LoggedOut())
            self._events.append(CloseRequested(CloseReason.LOGGED_OUT))
        elif frame.command in _REPORTS:
            self._report_answered(event, now_ns)
        elif frame.command == Command.HEARTBEAT and self._heartbeats_unanswered:
            # Whatever its flag says: it is alive.
            self._heartbeats_unanswered = 0
            self._answers_heartbeats = True
        elif frame.command in (Command.VEHICLE_LOGIN, Command.VEHICLE_LOGOUT):
            if frame.reply_flag != ReplyFlag.SUCCESS:
                self._events.append(ForwardRefused(frame.vin, frame.command, frame.reply_flag, b""))
        else:
            self._refuse(event, RefusalKind.UNEXPECTED_REPLY, f"answer to {frame.command:#04x}, which was not sent")

    def _login_answered(self, frame: Frame, now_ns: int) -> None:
        if frame.reply_flag != ReplyFlag.SUCCESS:
            self._is_refused = True
            self._start(SessionTimer.LOGIN, now_ns + _ANSWER_NS)
            self._login_failed(LoginFailure.REFUSED, frame.reply_flag, now_ns)
            return
        self._stop(SessionTimer.LOGIN)
        self._move(_Input.ACCEPTED)
        self._events.append(LoggedIn(self._serial))
        if self.options.heartbeat_period_ns:
            self._is_heard = False
            self._start(SessionTimer.HEARTBEAT, now_ns + self.options.heartbeat_period_ns)
        for login in self._vehicles.values():
            self._send(login)
        self._pump(now_ns)

    def _report_answered(self, event: FrameReceived, now_ns: int) -> None:
        """Of two reports of a vehicle and a second, the older is meant: answers come in the order of the frames."""
        key = event.raw[4:21] + event.raw[HEADER_SIZE_BYTES:_TIME_END]
        report = next((each for each in self._in_flight if each.key == key), None)
        if report is None:
            self._refuse(event, RefusalKind.UNEXPECTED_REPLY, "answer to a report that was not sent, or was answered")
            return
        self._in_flight.remove(report)
        flag = event.frame.reply_flag
        if flag != ReplyFlag.SUCCESS and report.refusals + 1 < TRIES:
            # B.3.5: sent again.
            report.refusals += 1
            self._waiting.append(self._again(report))
        else:
            self._size_bytes -= len(report.frame)
            if flag != ReplyFlag.SUCCESS:
                self._events.append(ForwardRefused(event.frame.vin, event.frame.command, flag, report.frame))
        self._pump(now_ns)

    _DUE: ClassVar[dict[SessionTimer, Callable[[ForwardingSession, int], None]]] = {
        SessionTimer.LOGIN: _login_due,
        SessionTimer.LOGOUT: _logout_due,
        SessionTimer.HEARTBEAT: _heartbeat_due,
        SessionTimer.RESEND: _resend_due,
    }
