"""The platform's end of the conversation with one link (annex B; chapter 5).

Time and bytes go in, events and bytes come out; see `terminal` for the caller's loop. A gateway has one session per link. Of
two links of the same vehicle the older one is to be closed (annex B): the gateway calls `supersede` on it.

The states::

              login asked            accepted            logout
    OPEN --------------> DECIDING ------------> LOGGED_IN -------> LOGGED_OUT
     ^                    |   ^                     |                  |
     +----- refused ------+   +--- login asked -----+------------------+
    any of them -- link down, silent, superseded --> CLOSED

While a login is being decided nothing behind it is read, so that a service may take its time for the answer.

Left out for now: the links between platforms that carry many vehicles. Their login is reported and can be refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar, Final

from bmsota.errors import FrameError, LocalProtocolError, TrustError
from bmsota.gbt32960._codec import DECIPHERING, decode_header, encode
from bmsota.gbt32960._enums import Command, Edition, Encryption, ReplyFlag
from bmsota.gbt32960._frame import HEADER_SIZE_BYTES, Frame
from bmsota.gbt32960._messages import (
    EchoReply,
    EmptyReply,
    PlatformLogin,
    Report,
    TimeReply,
    VehicleLogin,
    VehicleLogin2025,
    VehicleLogout,
)
from bmsota.gbt32960._plain import time_of
from bmsota.gbt32960._session.base import SECURITY_DOWN, SECURITY_UP, TRIES, BaseSession, SessionTimer, time_reply
from bmsota.gbt32960._session.events import (
    CloseReason,
    CloseRequested,
    CommandReplied,
    CommandTimedOut,
    ExtensionReceived,
    HeartbeatReceived,
    LoginRequested,
    LogoutReceived,
    PlatformEvent,
    ReportReceived,
    SecurityReceived,
)
from bmsota.gbt32960._signatures import verify_report
from bmsota.gbt32960._time import MINUTE_NS, beijing_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.gbt32960._cipher import DataUnitCipher
    from bmsota.gbt32960._messages import Message
    from bmsota.gbt32960._reader import DiscardedBytes, FrameReceived
    from bmsota.gbt32960._registry import Layouts
    from bmsota.gbt32960._signatures import ReportVerifier


_COMMANDS_WAITING_MAX: Final = 64
"""More than an operator can mean at once for one vehicle; a caller who gets there does not look at the answers."""
_GARBAGE_SIZE_BYTES_MAX: Final = 64 * 1024
"""After as many bytes without one valid frame, the other end does not speak this protocol."""


class PlatformState(Enum):
    """Where the session stands."""

    OPEN = "no vehicle is logged in"
    DECIDING = "a login waits for accept_login or refuse_login"
    LOGGED_IN = "reports come in, commands go out"
    LOGGED_OUT = "the vehicle has logged out"
    CLOSED = "the link is to be closed, or is gone; nothing counts any more"


class ReplyBody(Enum):
    """What a reply carries: the text prescribes two forms, and devices in the field use a third."""

    TIME = "the time of the request (6.3.2, and 2025 everywhere)"
    ECHO = "the whole request with our time (annex B of 2016)"
    EMPTY = "nothing"


class _Input(Enum):
    LOGIN_ASKED = auto()
    ACCEPTED = auto()
    REFUSED = auto()
    LOGOUT = auto()
    CLOSED = auto()


_S = PlatformState
_REPORTS: Final = frozenset({Command.REALTIME_REPORT, Command.BACKFILL_REPORT})
_LOGINS: Final = frozenset({Command.VEHICLE_LOGIN, Command.PLATFORM_LOGIN})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformOptions:
    """What annex B leaves to the platform, and where the field differs from it."""

    reply_body: ReplyBody = ReplyBody.TIME
    always_reply_to_reports: bool = False
    """Annex B answers only a wrong report; between platforms, and in the field, correct ones are answered too."""
    login_timeout_ns: int = 4 * MINUTE_NS
    """A terminal tries three times, a minute apart; a peer that has not logged in by then is not a terminal."""
    silence_timeout_ns: int = 3 * MINUTE_NS
    """Heartbeats come at least every 240 s in the text's range, usually each minute; without a sign for this long the
    link is dead. Raise it for terminals with a longer period (parameter 0x09)."""
    command_retry_ns: int = MINUTE_NS
    """Between the tries of a command (B.2.9)."""
    cipher: DataUnitCipher | None = None
    """Decipher what comes, and encipher answers to enciphered frames, and commands. `change_options` brings another key."""
    layouts: Layouts | None = None
    """For reports with bodies of the vehicle's maker."""
    verifier: ReportVerifier | None = None
    """2025: refuse reports that are not signed by this key, with reply flag 0x05."""


@dataclass(slots=True)
class _Waiting:
    """A command that was not answered yet."""

    command: int
    message: Message
    raw: bytes
    tries: int = 0
    due_ns: int = 0


class PlatformSession(BaseSession[PlatformState, PlatformEvent]):
    """One link to a terminal."""

    _NAME = "platform"
    _TRANSITIONS: ClassVar[dict[PlatformState, dict[_Input, PlatformState]]] = {
        _S.OPEN: {_Input.LOGIN_ASKED: _S.DECIDING, _Input.CLOSED: _S.CLOSED},
        _S.DECIDING: {_Input.ACCEPTED: _S.LOGGED_IN, _Input.REFUSED: _S.OPEN, _Input.CLOSED: _S.CLOSED},
        # 2025 logs in again after each battery swap, on the same link.
        _S.LOGGED_IN: {_Input.LOGIN_ASKED: _S.DECIDING, _Input.LOGOUT: _S.LOGGED_OUT, _Input.CLOSED: _S.CLOSED},
        _S.LOGGED_OUT: {_Input.LOGIN_ASKED: _S.DECIDING, _Input.CLOSED: _S.CLOSED},
        _S.CLOSED: {},
    }
    _LINKED = frozenset(_S) - {_S.CLOSED}
    _DEAF = frozenset({_S.DECIDING, _S.CLOSED})

    def __init__(self, *, options: PlatformOptions | None = None) -> None:
        self.options = options or PlatformOptions()
        super().__init__(PlatformState.OPEN, self.options.cipher, self.options.layouts)
        self._vin: str | None = None
        self._edition = Edition.GBT2016
        self._login: FrameReceived | None = None
        self._waiting: list[_Waiting] = []
        self._garbage_size_bytes = 0

    # --- what the caller asks -----------------------------------------------------------------------------------------

    @property
    def vin(self) -> str | None:
        """The vehicle that is, or was last, logged in on this link."""
        return self._vin

    @property
    def edition(self) -> Edition:
        """The edition that the terminal speaks."""
        return self._edition

    @property
    def waiting_command_count(self) -> int:
        """How many commands are not answered yet."""
        return len(self._waiting)

    # --- what happened ------------------------------------------------------------------------------------------------

    def connected(self, now_ns: int) -> None:
        """The link is there. If this is not called, the time to log in counts from the first bytes."""
        if self._state is PlatformState.OPEN:
            self._timers.setdefault(SessionTimer.LOGIN, now_ns + self.options.login_timeout_ns)

    def disconnected(self, _now_ns: int) -> None:
        """The link is gone. Commands without an answer are reported as timed out."""
        if self._state is not PlatformState.CLOSED:
            self._close(None)

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """Take what the link received."""
        if self._state is PlatformState.CLOSED:
            return
        self.connected(now_ns)
        super().receive_data(data, now_ns)

    # --- what the platform wants --------------------------------------------------------------------------------------

    def accept_login(self, now_ns: int) -> None:
        """Accept the login.

        Raises:
            LocalProtocolError: no login waits for a decision.
        """
        login = self._decide(_Input.ACCEPTED)
        self._vin = login.frame.vin
        self._edition = login.frame.edition
        self._reply_in_kind(login, ReplyFlag.SUCCESS, now_ns)
        self._timers.pop(SessionTimer.LOGIN, None)
        self._timers[SessionTimer.SILENCE] = now_ns + self.options.silence_timeout_ns
        self._read(now_ns)

    def refuse_login(self, reply_flag: int | None, now_ns: int) -> None:
        """Refuse the login: reply with *reply_flag*, or with None not at all (B.2.1 lets the terminal wait).

        Raises:
            LocalProtocolError: no login waits for a decision, or the flag says success.
        """
        if reply_flag in (ReplyFlag.SUCCESS, ReplyFlag.COMMAND):
            msg = f"refuse_login: expected the flag of a refusal, got {reply_flag!r}"
            raise LocalProtocolError(msg)
        login = self._decide(_Input.REFUSED)
        if reply_flag is not None:
            self._reply_in_kind(login, reply_flag, now_ns)
        self._timers.pop(SessionTimer.SILENCE, None)
        self._timers.setdefault(SessionTimer.LOGIN, now_ns + self.options.login_timeout_ns)
        self._read(now_ns)

    def change_options(self, options: PlatformOptions) -> None:
        """Use other options from the next frame on: a vehicle's key is known when it says who it is."""
        self.options = options
        self._use(options.cipher, options.layouts)

    def send_security(self, vin: str, command: int, message: Message, _now_ns: int) -> None:
        """2025: send the reply to an activation (0x0A) or a key (0x0B), before or after the login. Sent once.

        Raises:
            LocalProtocolError: another command, the link is closed, or the message does not fit. Nothing was sent.
        """
        if command not in SECURITY_DOWN or self._state is PlatformState.CLOSED:
            msg = f"security: expected 0x0a or 0x0b and an open link, got {command:#04x}, {self._state.name}"
            raise LocalProtocolError(msg)
        self._send(self._encoded(Frame(command=command, vin=vin, message=message, edition=Edition.GBT2025)))

    def send_command(self, command: int, message: Message, now_ns: int) -> None:
        """Send the terminal a command: 0x80 to 0x82, or one of an extension. `CommandReplied` or `CommandTimedOut` follows.

        Commands of one number are sent one at a time, because nothing else tells their replies apart.

        Raises:
            LocalProtocolError: no vehicle is logged in, the message does not fit, or too many are waiting. Nothing was sent.
        """
        if self._state is not PlatformState.LOGGED_IN or self._vin is None:
            msg = f"command: no terminal is logged in (state {self._state.name})"
            raise LocalProtocolError(msg)
        if not 0x80 <= command <= 0xFE:
            msg = f"command: expected one from 0x80 to 0xFE, got {command:#04x}"
            raise LocalProtocolError(msg)
        if len(self._waiting) >= _COMMANDS_WAITING_MAX:
            msg = f"command: {_COMMANDS_WAITING_MAX} commands are unanswered already"
            raise LocalProtocolError(msg)
        frame = Frame(command=command, vin=self._vin, message=message, edition=self._edition)
        self._waiting.append(_Waiting(command, message, self._encoded(frame)))
        self._send_waiting(now_ns)

    def reply(
        self, frame: Frame, now_ns: int, flag: int = ReplyFlag.SUCCESS, *, message: Message | None = None
    ) -> None:
        """Answer an `ExtensionReceived`. Without *message* the answer is the frame's own time and nothing else.

        A `BlockRequest` that is served is answered with `BlockReply.to(request, data)`.

        Raises:
            LocalProtocolError: the frame is an answer itself, the link is closed, or the message does not fit.
        """
        if frame.reply_flag != ReplyFlag.COMMAND or self._state is PlatformState.CLOSED:
            msg = f"reply: expected a command and an open link, got flag {frame.reply_flag:#04x}, {self._state.name}"
            raise LocalProtocolError(msg)
        if message is None:
            message = time_reply(frame, now_ns)
        self._reply(frame, flag, message)

    def supersede(self, _now_ns: int) -> None:
        """The same vehicle has logged in on another link: this one is to be closed. Does nothing if it is already."""
        if self._state is not PlatformState.CLOSED:
            self._close(CloseReason.SUPERSEDED)

    # --- the machine --------------------------------------------------------------------------------------------------

    def _decide(self, what: _Input) -> FrameReceived:
        self._move(what)
        login = self._login
        assert login is not None
        self._login = None
        return login

    def _close(self, reason: CloseReason | None) -> None:
        self._move(_Input.CLOSED)
        self._timers.clear()
        self._login = None
        for waiting in self._waiting:
            self._events.append(CommandTimedOut(waiting.command, waiting.message, waiting.tries))
        self._waiting.clear()
        if reason is not None:
            self._events.append(CloseRequested(reason))

    def _login_due(self, _now_ns: int) -> None:
        self._close(CloseReason.NOT_LOGGED_IN)

    def _silence_due(self, _now_ns: int) -> None:
        self._close(CloseReason.SILENT)

    # --- commands -----------------------------------------------------------------------------------------------------

    def _send_waiting(self, now_ns: int) -> None:
        """Send the first waiting command of each number whose time has come."""
        busy: set[int] = set()
        for waiting in list(self._waiting):
            if waiting.command in busy:
                continue
            busy.add(waiting.command)
            if waiting.due_ns > now_ns:
                continue
            if waiting.tries >= TRIES:
                self._waiting.remove(waiting)
                busy.discard(waiting.command)
                self._events.append(CommandTimedOut(waiting.command, waiting.message, waiting.tries))
                continue
            waiting.tries += 1
            waiting.due_ns = now_ns + self.options.command_retry_ns
            self._send(waiting.raw)
        due = [waiting.due_ns for waiting in self._waiting if waiting.tries]
        if due:
            self._timers[SessionTimer.COMMAND] = min(due)
        else:
            self._timers.pop(SessionTimer.COMMAND, None)

    def _answered(self, frame: Frame, now_ns: int) -> None:
        for waiting in self._waiting:
            if waiting.command == frame.command and waiting.tries:
                self._waiting.remove(waiting)
                self._events.append(CommandReplied(waiting.command, waiting.message, frame.reply_flag, frame))
                self._send_waiting(now_ns)
                return
        self._refuse(frame, "unexpected reply")

    # --- what comes in ------------------------------------------------------------------------------------------------

    def _receive_discarded(self, discarded: DiscardedBytes, now_ns: int) -> None:
        if discarded.error is None:
            self._garbage_size_bytes += len(discarded.data)
            if self._garbage_size_bytes >= _GARBAGE_SIZE_BYTES_MAX:
                self._close(CloseReason.GARBAGE)
            return
        # One frame with a right check byte and a wrong inside. A wrong report is answered, so that it is sent again (B.3.5).
        header = decode_header(discarded.data)
        is_ours = self._state is PlatformState.LOGGED_IN and header.vin == self._vin
        if is_ours and header.command in _REPORTS and header.reply_flag == ReplyFlag.COMMAND:
            message: Message = EmptyReply()
            if header.encryption != Encryption.NONE:
                message = TimeReply(beijing_time(now_ns))
            elif header.data_size_bytes >= 6:
                try:
                    message = TimeReply(
                        time_of(discarded.data[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + 6], HEADER_SIZE_BYTES)
                    )
                except FrameError:
                    message = TimeReply(beijing_time(now_ns))
            frame = Frame(command=header.command, vin=header.vin, message=message, edition=header.edition)
            flag = ReplyFlag.ERROR
            if header.edition is Edition.GBT2025:
                is_cipher = discarded.error.where == DECIPHERING
                flag = ReplyFlag.DECRYPTION_FAILED if is_cipher else ReplyFlag.STRUCTURE_WRONG
            self._reply(frame, flag, message)

    def _receive(self, event: FrameReceived, now_ns: int) -> None:
        self._garbage_size_bytes = 0
        frame = event.frame
        is_login = frame.command in _LOGINS and frame.reply_flag == ReplyFlag.COMMAND
        is_2025 = frame.edition is Edition.GBT2025
        if is_2025 and frame.command in SECURITY_UP and frame.reply_flag == ReplyFlag.COMMAND:
            self._events.append(SecurityReceived(frame))
            return
        if not is_login and (self._state is not PlatformState.LOGGED_IN or frame.vin != self._vin):
            self._refuse(frame, f"from {frame.vin!r} in state {self._state.name}, logged in is {self._vin!r}")
            return
        if self._state is PlatformState.LOGGED_IN:
            self._timers[SessionTimer.SILENCE] = now_ns + self.options.silence_timeout_ns
        if frame.reply_flag != ReplyFlag.COMMAND:
            self._answered(frame, now_ns)
            return
        received = self._RECEIVED.get(frame.command)
        if received is not None:
            received(self, event, now_ns)
        elif frame.command >= 0xC0:
            self._events.append(ExtensionReceived(frame))
        else:
            self._refuse(frame, "a command that a terminal does not send")

    def _login_received(self, event: FrameReceived, _now_ns: int) -> None:
        login = event.frame.message
        if not isinstance(login, (VehicleLogin, VehicleLogin2025, PlatformLogin)):
            self._refuse(
                event.frame, f"expected a login in the clear and of a known edition, got {type(login).__name__}"
            )
            return
        self._move(_Input.LOGIN_ASKED)
        self._login = event
        self._events.append(LoginRequested(event.frame.vin, login))

    def _report_received(self, event: FrameReceived, now_ns: int) -> None:
        frame = event.frame
        if not isinstance(frame.message, Report):
            self._refuse(
                frame, f"expected a report in the clear and of a known edition, got {type(frame.message).__name__}"
            )
            return
        if self.options.verifier is not None and frame.edition is Edition.GBT2025:
            try:
                verify_report(frame.message, self.options.verifier, layouts=self.options.layouts)
            except TrustError as error:
                self._reply_in_kind(event, ReplyFlag.SIGNATURE_WRONG, now_ns)
                self._refuse(frame, str(error))
                return
        if self.options.always_reply_to_reports:
            self._reply_in_kind(event, ReplyFlag.SUCCESS, now_ns)
        is_backfill = frame.command == Command.BACKFILL_REPORT
        self._events.append(ReportReceived(frame.vin, frame.message, is_backfill))

    def _logout_received(self, event: FrameReceived, now_ns: int) -> None:
        logout = event.frame.message
        if not isinstance(logout, VehicleLogout):
            self._refuse(event.frame, f"expected a logout in the clear, got {type(logout).__name__}")
            return
        self._reply_in_kind(event, ReplyFlag.SUCCESS, now_ns)
        self._move(_Input.LOGOUT)
        self._events.append(LogoutReceived(event.frame.vin, logout.serial, logout.time))

    def _heartbeat_received(self, event: FrameReceived, _now_ns: int) -> None:
        self._reply(event.frame, ReplyFlag.SUCCESS, EmptyReply())
        self._events.append(HeartbeatReceived(event.frame.vin))

    def _time_sync_received(self, event: FrameReceived, now_ns: int) -> None:
        # The text says only "success"; the implementations put the platform's time into the answer.
        self._reply(event.frame, ReplyFlag.SUCCESS, TimeReply(beijing_time(now_ns)))

    # --- bytes --------------------------------------------------------------------------------------------------------

    def _reply(self, frame: Frame, flag: int, message: Message) -> None:
        answer = Frame(
            command=frame.command,
            vin=frame.vin,
            message=message,
            reply_flag=flag,
            edition=frame.edition,
            vin_padding=frame.vin_padding,
        )
        cipher = self.options.cipher
        is_clear = cipher is None or frame.encryption != cipher.encryption
        self._send(encode(answer) if is_clear else self._encoded(answer))

    def _encoded(self, frame: Frame) -> bytes:
        """Enciphered, if there is a cipher."""
        cipher = self.options.cipher
        if cipher is not None:
            frame = replace(frame, encryption=cipher.encryption)
        return encode(frame, cipher=cipher, layouts=self.options.layouts)

    def _reply_in_kind(self, event: FrameReceived, flag: int, now_ns: int) -> None:
        """Answer with the body that the options ask for."""
        body = self.options.reply_body
        if body is ReplyBody.ECHO and (
            event.frame.edition is Edition.GBT2025 or event.frame.encryption != Encryption.NONE
        ):
            body = ReplyBody.TIME  # 2025 has no echo (B.3.3.2), and ciphertext cannot be echoed with another time.
        match body:
            case ReplyBody.TIME:
                message: Message = time_reply(event.frame, now_ns)
            case ReplyBody.ECHO:
                rest = event.raw[HEADER_SIZE_BYTES + 6 : -1]
                now = beijing_time(now_ns)
                message = EchoReply(now, rest) if rest else TimeReply(now)
            case ReplyBody.EMPTY:
                message = EmptyReply()
        self._reply(event.frame, flag, message)

    # --- which method does what ---------------------------------------------------------------------------------------

    _RECEIVED: ClassVar[dict[int, Callable[[PlatformSession, FrameReceived, int], None]]] = {
        Command.VEHICLE_LOGIN: _login_received,
        Command.PLATFORM_LOGIN: _login_received,
        Command.REALTIME_REPORT: _report_received,
        Command.BACKFILL_REPORT: _report_received,
        Command.VEHICLE_LOGOUT: _logout_received,
        Command.HEARTBEAT: _heartbeat_received,
        Command.TIME_SYNC: _time_sync_received,
    }
    _DUE: ClassVar[dict[SessionTimer, Callable[[PlatformSession, int], None]]] = {
        SessionTimer.COMMAND: _send_waiting,
        SessionTimer.LOGIN: _login_due,
        SessionTimer.SILENCE: _silence_due,
    }
