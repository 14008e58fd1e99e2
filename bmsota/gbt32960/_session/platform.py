"""The platform's end of the conversation with one link (annex B; chapter 5).

Time and bytes go in, events and bytes come out; see `terminal` for the caller's loop. A gateway has one session per link. Of
two links of the same vehicle the older one is to be closed (annex B): the gateway calls `supersede` on it.

Refusals. Each is an event with its kind. A refused *command* (flag 0xFE) is answered, so that who asked does not wait: with
0x02, and in 2025 with the flag of table 4 that names the cause. Not answered are replies (6.3.2; two ends that answer answers
never stop), frames with a wrong check byte, whose header may be wrong too, and frames of another VIN than the link's.

Reports at speed. With `defer_decode` a report of the vehicle that is logged in passes with header, length, check byte, time and
skeleton checked (`_skeletons`); whatever is unusual about it takes the way of every other frame. Both ways lead to the same
bytes and the same events, in one queue.

The states::

              login asked            accepted            logout
    OPEN --------------> DECIDING ------------> LOGGED_IN -------> LOGGED_OUT
     ^                    |   ^                     |                  |
     +----- refused ------+   +--- login asked -----+------------------+
    any of them -- link down, silent, superseded --> CLOSED

While a login is being decided nothing behind it is read, so that a service may take its time for the answer.

Links between platforms (chapter 5), if the options allow them, begin with the login of the other platform, with user name and
password. Then frames of any vehicle come: each login is decided by itself, each report is answered, and a vehicle's logout ends
nothing but its own. Commands do not go down such a link.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar, Final

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError, TrustError
from bmsota.gbt32960._codec import DECIPHERING, UNKNOWN_ENCRYPTION, decode_partial, encode, header_of
from bmsota.gbt32960._enums import Command, Edition, Encryption, ReplyFlag
from bmsota.gbt32960._frame import HEADER_SIZE_BYTES, Frame
from bmsota.gbt32960._messages import (
    EchoReply,
    EmptyReply,
    Heartbeat,
    PlatformLogin,
    PlatformLogout,
    RawMessage,
    Report,
    TimeReply,
    VehicleLogin,
    VehicleLogin2025,
    VehicleLogout,
)
from bmsota.gbt32960._plain import time_of
from bmsota.gbt32960._reader import RefusalKind
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
from bmsota.gbt32960._skeletons import KNOWN
from bmsota.gbt32960._time import MINUTE_NS, beijing_time, seconds_at

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
_STRANGE_FRAMES_MAX: Final = 64
"""Frames on a link where no login was accepted yet, logins aside. Each costs more to refuse than a report to take, and a terminal that was
told so often that it has to log in does not listen."""
_STRANGE_SIZE_BYTES_MAX: Final = 16 * 1024
"""Of a frame that has begun on such a link. A login with the codes of 250 subsystems is 6 KiB; a report may be 64, and is for those who
have logged in."""
_UNDECIDED_SIZE_BYTES_MAX: Final = 256 * 1024
"""What may come while a login is being decided. A terminal waits for the answer; four of the longest frames are none."""
_LESSONS_MAX: Final = 16
"""Layouts that one login may teach. A vehicle has a few; one that sends a new one each time is decoded, and costs no more."""
_FLAGS_OF_2025: Final = frozenset(
    {ReplyFlag.VIN_UNKNOWN, ReplyFlag.SIGNATURE_WRONG, ReplyFlag.STRUCTURE_WRONG, ReplyFlag.DECRYPTION_FAILED}
)
"""Table 4: 2016 has only "error" for these."""


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


class Acknowledgement(Enum):
    """Whether and when a correct report is answered. A wrong one always is (B.3.5)."""

    NEVER = "annex B: a correct report on a terminal's link is not answered"
    DEFERRED = "when the caller says so, with `answer_report`: after it has stored the report"
    AT_ONCE = "when it is received"


_TIME: Final = ReplyBody.TIME
_NEVER: Final = Acknowledgement.NEVER


class _Input(Enum):
    LOGIN_ASKED = auto()
    ACCEPTED = auto()
    REFUSED = auto()
    VEHICLE_REFUSED = auto()
    LOGOUT = auto()
    CLOSED = auto()


_S = PlatformState
# Asked for with every report: an enumeration looks its members up each time.
_LOGGED_IN: Final = PlatformState.LOGGED_IN
_CLOSED: Final = PlatformState.CLOSED
_HEARTBEAT_SIZE_BYTES: Final = HEADER_SIZE_BYTES + 1
"""A header, no data unit, a check byte (B.3.6)."""
_COMMAND: Final = int(ReplyFlag.COMMAND)
_SUCCESS: Final = int(ReplyFlag.SUCCESS)
_REPORTS: Final = frozenset({Command.REALTIME_REPORT, Command.BACKFILL_REPORT})
_LOGINS: Final = frozenset({Command.VEHICLE_LOGIN, Command.PLATFORM_LOGIN})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformOptions:
    """What annex B leaves to the platform, and where the field differs from it."""

    reply_body: ReplyBody = ReplyBody.TIME
    acknowledge_reports: Acknowledgement = Acknowledgement.NEVER
    """Annex B answers only a wrong report; in the field correct ones are answered too."""
    defer_decode: bool = False
    """Let reports be decoded when `ReportReceived.report` is asked for, or in a batch of `ReportReceived.clear`. What is
    refused and what is answered stays the same."""
    allows_platform_login: bool = False
    """Let another platform log in (0x05), which then sends for many vehicles. Its user name and password are the caller's to
    check when `LoginRequested` has a `PlatformLogin`. Correct reports are always answered there: with anything but
    `Acknowledgement.AT_ONCE` when the caller says so, with `answer_report`."""
    allows_other_vin: bool = False
    """Accept the login of another vehicle on the link of one that is logged in. A terminal has one VIN, also after a swap of
    its battery."""
    login_timeout_ns: int = 4 * MINUTE_NS
    """A terminal tries three times, a minute apart; a peer that has not logged in by then is not a terminal."""
    silence_timeout_ns: int = 5 * MINUTE_NS
    """Without a sign of life for this long the link is dead. A terminal may send its heartbeats each 240 s (parameter 0x09), and
    a slow network takes its time; most send them each minute. Between platforms nothing may come for as long as no vehicle is
    on: raise it there."""
    command_retry_ns: int = MINUTE_NS
    """Between the tries of a command (B.2.9)."""
    cipher: DataUnitCipher | None = None
    """Decipher what comes, and encipher answers to enciphered frames, and commands. `change_options` brings another key."""
    layouts: Layouts | None = None
    """For reports with bodies of the vehicle's maker."""
    verifier: ReportVerifier | None = None
    """2025: refuse reports that are not signed by this key, with reply flag 0x05."""


_REFUSED: Final[dict[int, RefusalKind]] = {
    Command.ACTIVATION_REPLY: RefusalKind.WRONG_DIRECTION,
    Command.QUERY_PARAMETERS: RefusalKind.WRONG_DIRECTION,
    Command.SET_PARAMETERS: RefusalKind.WRONG_DIRECTION,
    Command.CONTROL: RefusalKind.WRONG_DIRECTION,
}
"""Commands with a name that a terminal does not send."""


def _flag_of(edition: Edition, flag: int) -> int:
    """Return *flag*, or what 2016 has for it."""
    return ReplyFlag.ERROR if edition is Edition.GBT2016 and flag in _FLAGS_OF_2025 else flag


def _flag_for(error: FrameError) -> ReplyFlag:
    """The flag of 2025 for what is wrong inside a frame."""
    is_cipher = error.where in (DECIPHERING, UNKNOWN_ENCRYPTION)
    return ReplyFlag.DECRYPTION_FAILED if is_cipher else ReplyFlag.STRUCTURE_WRONG


def _is_ciphertext(frame: Frame) -> bool:
    """Whether the data unit is enciphered, and was not deciphered. An empty one is neither."""
    message = frame.message
    return (
        frame.encryption != Encryption.NONE
        and isinstance(message, RawMessage)
        and not message.is_plain
        and bool(message.data)
    )


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

    __slots__ = (
        "_edition",
        "_garbage_size_bytes",
        "_heads",
        "_heard_ns",
        "_heartbeat",
        "_identifier",
        "_is_answered_at_once",
        "_is_platform_link",
        "_lessons",
        "_login",
        "_strange_frames",
        "_vin",
        "_waiting",
        "options",
    )

    _NAME = "platform"
    _TRANSITIONS: ClassVar[dict[PlatformState, dict[_Input, PlatformState]]] = {
        _S.OPEN: {_Input.LOGIN_ASKED: _S.DECIDING, _Input.CLOSED: _S.CLOSED},
        _S.DECIDING: {
            _Input.ACCEPTED: _S.LOGGED_IN,
            _Input.REFUSED: _S.OPEN,
            _Input.VEHICLE_REFUSED: _S.LOGGED_IN,  # On the link of another platform, which stays logged in.
            _Input.CLOSED: _S.CLOSED,
        },
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
        self._reader.keep_bodies = True
        self._vin: str | None = None
        self._edition = Edition.GBT2016
        self._login: FrameReceived | None = None
        self._waiting: list[_Waiting] = []
        self._garbage_size_bytes = 0
        self._strange_frames = 0
        self._is_platform_link = False
        self._heard_ns = 0
        """When the vehicle was last heard. The timer for its silence looks here when it is due, and is not moved before."""
        self._identifier = b""
        """The identifier of the login, as it came."""
        self._heartbeat: tuple[bytes, bytes, HeartbeatReceived] | None = None
        """The frame of a heartbeat, its answer and its event."""
        self._heads: tuple[bytes, bytes] | None = None
        """How reports begin, up to their length, that need not be decoded."""
        self._is_answered_at_once = False
        self._lessons = 0
        """How many layouts this login may still teach."""

    # --- what the caller asks -----------------------------------------------------------------------------------------

    @property
    def vin(self) -> str | None:
        """The vehicle that is, or was last, logged in on this link; on a link between platforms, the other platform's code."""
        return self._vin

    @property
    def is_platform_link(self) -> bool:
        """Whether another platform is logged in, and sends for many vehicles."""
        return self._is_platform_link

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
        if self._state is PlatformState.OPEN and SessionTimer.LOGIN not in self._timers:
            self._start(SessionTimer.LOGIN, now_ns + self.options.login_timeout_ns)

    def disconnected(self, now_ns: int) -> None:
        """The link is gone. Commands without an answer are reported as timed out.

        Frames behind one that was never finished are events now. Bytes behind a login that waits for a decision are not read.
        """
        if self._state is PlatformState.CLOSED:
            return
        if self._state is not PlatformState.DECIDING:
            self._reader.end()
            self._read(now_ns)
            if self._login is not None:
                # The caller cannot answer it any more.
                self._events.pop()
        if self.state is not PlatformState.CLOSED:
            self._close(None)

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """Take what the link received."""
        if self._state is _LOGGED_IN:
            if self._reader.is_empty:
                data = self._receive_usual(data if type(data) is bytes else bytes(data), now_ns)
                if not data:
                    return
        elif self._state is PlatformState.CLOSED:
            return
        elif (
            self._state is PlatformState.DECIDING
            and self._reader.unread_size_bytes + len(data) > _UNDECIDED_SIZE_BYTES_MAX
        ):
            self._close(CloseReason.FLOOD)
            return
        self.connected(now_ns)
        super().receive_data(data, now_ns)
        if (
            self._vin is None
            and self._state is PlatformState.OPEN
            and self._reader.unread_size_bytes > _STRANGE_SIZE_BYTES_MAX
        ):
            self._close(CloseReason.GARBAGE)

    def _receive_usual(self, data: bytes, now_ns: int) -> bytes:
        """Take what nearly everything is, heartbeats and reports of known layout, and return the rest.

        Whatever is taken here leads to the same events and answers as `_receive` would give.
        """
        size = len(data)
        # The size first: a heartbeat is looked at where one came, and what is not looked at need not be in the processor's caches.
        if size == _HEARTBEAT_SIZE_BYTES and self._heartbeat is not None and data == self._heartbeat[0]:
            self._heard_ns = now_ns
            self._garbage_size_bytes = 0
            self._reader.pass_over(size)
            self._send(self._heartbeat[1])
            self._events.append(self._heartbeat[2])
            return b""
        heads = self._heads
        if heads is None:
            return data
        vin, events = self._vin, self._events
        assert vin is not None
        at = 0
        while data.startswith(heads, at) and at + HEADER_SIZE_BYTES < size:
            end = at + HEADER_SIZE_BYTES + ((data[at + 22] << 8) | data[at + 23]) + 1
            if end > size:
                break
            frame = data if end - at == size else data[at:end]
            # Over everything, check byte included, the XOR is zero if it is right: the two start bytes cancel each other.
            if bcc_xor(frame) or not KNOWN.has(frame):
                break
            reported_at_s = seconds_at(frame, HEADER_SIZE_BYTES)
            if reported_at_s is None:
                break
            event = ReportReceived(vin, frame, frame, reported_at_s)
            events.append(event)
            if self._is_answered_at_once:
                self.answer_report(event, now_ns)
            at = end
        if not at:
            return data
        self._heard_ns = now_ns
        self._garbage_size_bytes = 0
        self._reader.pass_over(at)
        return data[at:]

    # --- what the platform wants --------------------------------------------------------------------------------------

    def accept_login(self, now_ns: int) -> None:
        """Accept the login.

        Raises:
            LocalProtocolError: no login waits for a decision.
        """
        login = self._decide(_Input.ACCEPTED)
        is_platform = login.frame.command == Command.PLATFORM_LOGIN
        if is_platform or not self._is_platform_link:
            self._is_platform_link = is_platform
            self._vin = login.frame.vin
            self._edition = login.frame.edition
            self._identifier = login.raw[4:21]
            self._lessons = _LESSONS_MAX
            self._expect_usual()
        self._reply_in_kind(login.frame, login.clear, ReplyFlag.SUCCESS, now_ns)
        self._heard_ns = now_ns
        self._stop(SessionTimer.LOGIN)
        self._start(SessionTimer.SILENCE, now_ns + self.options.silence_timeout_ns)
        self._read(now_ns)

    def refuse_login(self, reply_flag: int | None, now_ns: int) -> None:
        """Refuse the login: reply with *reply_flag*, or with None not at all (B.2.1 lets the terminal wait).

        For a vehicle that is not known that is `ReplyFlag.VIN_UNKNOWN`. 2016 does not have the flags 0x04 to 0x07; there
        `ReplyFlag.ERROR` is sent for them.

        Raises:
            LocalProtocolError: no login waits for a decision, or the flag says success.
        """
        if reply_flag in (ReplyFlag.SUCCESS, ReplyFlag.COMMAND):
            msg = f"refuse_login: expected the flag of a refusal, got {reply_flag!r}"
            raise LocalProtocolError(msg)
        asked = self._login
        if self._is_platform_link and asked is not None and asked.frame.command == Command.VEHICLE_LOGIN:
            login = self._decide(_Input.VEHICLE_REFUSED)
        else:
            login = self._decide(_Input.REFUSED)
            self._is_platform_link = False
        if reply_flag is not None:
            self._reply_in_kind(login.frame, login.clear, reply_flag, now_ns)
        if self._state is PlatformState.LOGGED_IN:
            self._read(now_ns)
            return
        self._stop(SessionTimer.SILENCE)
        if SessionTimer.LOGIN not in self._timers:
            self._start(SessionTimer.LOGIN, now_ns + self.options.login_timeout_ns)
        self._read(now_ns)

    def answer_report(self, event: ReportReceived, now_ns: int, *, flag: int = ReplyFlag.SUCCESS) -> None:
        """Answer a report of this link: success once it is stored, or the flag of an error so that it is sent again (B.3.5).

        May come late and in any order. Does nothing if the report was answered, if the link is closed, or for a success that
        `PlatformOptions.acknowledge_reports` does not want.

        Raises:
            LocalProtocolError: the flag is that of a command. Nothing was sent.
        """
        if flag == _COMMAND:
            msg = f"answer_report: expected the flag of a reply, got {flag:#04x}"
            raise LocalProtocolError(msg)
        if event.reply_flag is not None or self._state is _CLOSED:
            return
        if flag == _SUCCESS:
            if self.options.acknowledge_reports is _NEVER and not self._is_platform_link:
                return
        else:
            flag = _flag_of(Edition(event.frame[:2]), flag)
        raw = event.frame
        if self.options.reply_body is _TIME and raw is event.clear:
            event.reply_flag = flag
            # 6.3.2: header and time of the report, as they came.
            answer = raw[:3] + bytes((flag,)) + raw[4:22] + b"\0\6" + raw[24:30]
            self._send(answer + bytes((bcc_xor(answer),)))
            return
        frame = replace(decode_partial(event.clear)[0], encryption=raw[21])
        event.reply_flag = self._reply_in_kind(frame, event.clear, flag, now_ns)

    def change_options(self, options: PlatformOptions) -> None:
        """Use other options from the next frame on: a vehicle's key is known when it says who it is."""
        self.options = options
        self._use(options.cipher, options.layouts)
        if self._state is PlatformState.LOGGED_IN:
            self._expect_usual()
            self._start(SessionTimer.SILENCE, self._heard_ns + options.silence_timeout_ns)

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
        if self._is_platform_link:
            msg = "command: this is a link between platforms, which carries no commands"
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
        self._stop_all()
        self._login = None
        for waiting in self._waiting:
            self._events.append(CommandTimedOut(waiting.command, waiting.message, waiting.tries))
        self._waiting.clear()
        if reason is not None:
            self._events.append(CloseRequested(reason))

    def _expect_usual(self) -> None:
        """Prepare for what nearly everything of this login will be."""
        edition, identifier, options = self._edition, self._identifier, self.options
        asked = encode(Frame(command=Command.HEARTBEAT, vin="", message=Heartbeat(), edition=edition))
        answer = bytearray(asked)
        answer[3] = ReplyFlag.SUCCESS
        frames = []
        for raw in (bytearray(asked), answer):
            raw[4:21] = identifier
            raw[-1] = bcc_xor(raw[:-1])
            frames.append(bytes(raw))
        assert self._vin is not None
        self._heartbeat = frames[0], frames[1], HeartbeatReceived(self._vin)
        is_verified = options.verifier is not None and edition is Edition.GBT2025
        self._heads = None
        self._is_answered_at_once = options.acknowledge_reports is Acknowledgement.AT_ONCE
        if options.defer_decode and options.layouts is None and not is_verified and not self._is_platform_link:
            realtime, backfill = (
                edition.value + bytes((command, ReplyFlag.COMMAND)) + identifier + bytes((Encryption.NONE,))
                for command in (Command.REALTIME_REPORT, Command.BACKFILL_REPORT)
            )
            self._heads = realtime, backfill

    def _login_due(self, _now_ns: int) -> None:
        self._close(CloseReason.NOT_LOGGED_IN)

    def _silence_due(self, now_ns: int) -> None:
        """Nothing was heard; what stands behind a beginning without an end was not listened to yet."""
        if self._heard_ns + self.options.silence_timeout_ns <= now_ns:
            self._drain(now_ns)
            if self._state is PlatformState.CLOSED:
                return
        due_ns = self._heard_ns + self.options.silence_timeout_ns
        if due_ns > now_ns:
            self._start(SessionTimer.SILENCE, due_ns)
        else:
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
            self._start(SessionTimer.COMMAND, min(due))
        else:
            self._stop(SessionTimer.COMMAND)

    def _answered(self, event: FrameReceived, now_ns: int) -> None:
        frame = event.frame
        for waiting in self._waiting:
            if waiting.command == frame.command and waiting.tries:
                self._waiting.remove(waiting)
                self._events.append(CommandReplied(waiting.command, waiting.message, frame.reply_flag, frame))
                self._send_waiting(now_ns)
                return
        self._refuse(event, RefusalKind.UNEXPECTED_REPLY, "unexpected reply")

    # --- what comes in ------------------------------------------------------------------------------------------------

    def _count_strange(self) -> None:
        if self._vin is None and self._state is not PlatformState.CLOSED:
            self._strange_frames += 1
            if self._strange_frames >= _STRANGE_FRAMES_MAX:
                self._close(CloseReason.NOT_LOGGED_IN)

    def _receive_discarded(self, discarded: DiscardedBytes, now_ns: int) -> None:
        if discarded.error is None:
            self._events.append(discarded)
            self._garbage_size_bytes += len(discarded.data)
            if self._garbage_size_bytes >= _GARBAGE_SIZE_BYTES_MAX:
                self._close(CloseReason.GARBAGE)
            return
        # One frame with a right check byte and a wrong inside.
        header = header_of(discarded.data)
        if self._state is PlatformState.LOGGED_IN and self._is_of_link(header.vin):
            self._heard_ns = now_ns
        if header.reply_flag == ReplyFlag.COMMAND and (
            header.command in _LOGINS or self._vin is None or self._is_of_link(header.vin)
        ):
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
            flag = self._reply(frame, _flag_for(discarded.error), message)
            discarded = replace(discarded, reply_flag=flag)
        self._events.append(discarded)
        self._count_strange()

    def _is_of_link(self, vin: str) -> bool:
        """Whether a frame under this identifier belongs to who is, or was last, logged in here."""
        return self._is_platform_link or vin == self._vin

    def _receive(self, event: FrameReceived, now_ns: int) -> None:
        self._garbage_size_bytes = 0
        frame = event.frame
        is_command = frame.reply_flag == ReplyFlag.COMMAND
        if is_command and frame.command in _LOGINS:
            self._login_received(event, now_ns)
            if self._state is not PlatformState.DECIDING:
                self._count_strange()
            return
        if is_command and frame.edition is Edition.GBT2025 and frame.command in SECURITY_UP:
            self._events.append(SecurityReceived(frame))
            self._count_strange()
            return
        if self._vin is not None and not self._is_of_link(frame.vin):
            self._refuse(event, RefusalKind.OTHER_VIN, f"from {frame.vin!r} on the link of {self._vin!r}")
            return
        if self._state is PlatformState.LOGGED_IN:
            self._heard_ns = now_ns
        elif not (self._state is PlatformState.LOGGED_OUT and is_command and frame.command in _REPORTS):
            reason = f"from {frame.vin!r}, which is not logged in (state {self._state.name})"
            if is_command:
                self._refuse_command(event, RefusalKind.NOT_LOGGED_IN, reason, ReplyFlag.ERROR, now_ns)
            else:
                self._refuse(event, RefusalKind.NOT_LOGGED_IN, reason)
            self._count_strange()
            return
        if not is_command:
            self._answered(event, now_ns)
            return
        received = self._RECEIVED.get(frame.command)
        if received is not None:
            if _is_ciphertext(frame):
                self._refuse_enciphered(event, now_ns)
            else:
                received(self, event, now_ns)
        elif 0xC0 <= frame.command <= 0xFE:
            if _is_ciphertext(frame):
                self._refuse_enciphered(event, now_ns)
            else:
                self._events.append(ExtensionReceived(frame))
        else:
            kind = _REFUSED.get(frame.command, RefusalKind.UNKNOWN_COMMAND)
            if frame.command == Command.ACTIVATION_REPLY and frame.edition is Edition.GBT2016:
                kind = RefusalKind.UNKNOWN_COMMAND
            self._refuse_command(event, kind, f"command {frame.command:#04x}", ReplyFlag.ERROR, now_ns)

    def _refuse_command(
        self, event: FrameReceived, kind: RefusalKind, reason: str, flag: ReplyFlag, now_ns: int
    ) -> None:
        """Refuse what asks for something, and say so to who asked."""
        self._refuse(event, kind, reason, self._reply_in_kind(event.frame, event.clear, flag, now_ns))

    def _refuse_enciphered(self, event: FrameReceived, now_ns: int) -> None:
        reason = f"enciphered ({event.frame.encryption:#04x}), and there is no key for it"
        self._refuse_command(event, RefusalKind.ENCRYPTION, reason, ReplyFlag.DECRYPTION_FAILED, now_ns)

    def _login_received(self, event: FrameReceived, now_ns: int) -> None:
        frame, login = event.frame, event.frame.message
        if not isinstance(login, (VehicleLogin, VehicleLogin2025, PlatformLogin)):
            self._refuse_enciphered(event, now_ns)
            return
        is_platform = frame.command == Command.PLATFORM_LOGIN
        if is_platform and not self.options.allows_platform_login:
            reason = f"login of the platform {frame.vin!r}, which the options do not allow"
            self._refuse_command(event, RefusalKind.PLATFORM_LINK, reason, ReplyFlag.ERROR, now_ns)
            return
        if self._state is PlatformState.LOGGED_IN and not self._may_log_in(frame.vin, is_platform=is_platform):
            reason = f"login of {frame.vin!r} on the link of {self._vin!r}"
            self._refuse_command(event, RefusalKind.SECOND_LOGIN, reason, ReplyFlag.ERROR, now_ns)
            return
        self._move(_Input.LOGIN_ASKED)
        self._login = event
        self._events.append(LoginRequested(frame.vin, login))

    def _may_log_in(self, vin: str, *, is_platform: bool) -> bool:
        """Whether a login may come on the link of who is logged in."""
        if is_platform:
            return self._is_platform_link and vin == self._vin
        return self._is_of_link(vin) or self.options.allows_other_vin

    def _report_received(self, event: FrameReceived, now_ns: int) -> None:
        frame, report, options = event.frame, event.frame.message, self.options
        if not isinstance(report, Report):  # An empty data unit that claims to be enciphered.
            self._refuse_enciphered(event, now_ns)
            return
        is_verified = options.verifier is not None and frame.edition is Edition.GBT2025
        if event.fault is not None and is_verified:
            # What is left of it is not what was signed.
            self._refuse_command(event, RefusalKind.STRUCTURE, str(event.fault), ReplyFlag.STRUCTURE_WRONG, now_ns)
            return
        if options.verifier is not None and is_verified:
            try:
                verify_report(report, options.verifier, layouts=options.layouts)
            except TrustError as error:
                self._refuse_command(event, RefusalKind.SIGNATURE, str(error), ReplyFlag.SIGNATURE_WRONG, now_ns)
                return
        received = ReportReceived(
            frame.vin,
            event.raw,
            event.clear,
            None,
            report,
            options.layouts,
            fault=event.fault,
            is_after_logout=self._state is PlatformState.LOGGED_OUT,
        )
        self._events.append(received)
        if event.fault is not None:
            self.answer_report(received, now_ns, flag=_flag_for(event.fault))
            return
        if options.acknowledge_reports is Acknowledgement.AT_ONCE:
            self.answer_report(received, now_ns)
        if self._heads is not None and self._lessons and event.raw.startswith(self._heads):
            self._lessons -= 1
            KNOWN.learn(event.raw)

    def _logout_received(self, event: FrameReceived, now_ns: int) -> None:
        logout = event.frame.message
        if not isinstance(logout, VehicleLogout):
            self._refuse_enciphered(event, now_ns)
            return
        self._reply_in_kind(event.frame, event.clear, ReplyFlag.SUCCESS, now_ns)
        if not self._is_platform_link:
            self._move(_Input.LOGOUT)
        self._events.append(LogoutReceived(event.frame.vin, logout.serial, logout.time))

    def _platform_logout_received(self, event: FrameReceived, now_ns: int) -> None:
        frame, logout = event.frame, event.frame.message
        if not self._is_platform_link or frame.vin != self._vin or not isinstance(logout, PlatformLogout):
            reason = f"logout of the platform {frame.vin!r}, which is not logged in"
            self._refuse_command(event, RefusalKind.PLATFORM_LINK, reason, ReplyFlag.ERROR, now_ns)
            return
        self._reply_in_kind(frame, event.clear, ReplyFlag.SUCCESS, now_ns)
        self._is_platform_link = False
        self._move(_Input.LOGOUT)
        self._events.append(LogoutReceived(frame.vin, logout.serial, logout.time))

    def _heartbeat_received(self, event: FrameReceived, _now_ns: int) -> None:
        self._reply(event.frame, ReplyFlag.SUCCESS, EmptyReply())
        self._events.append(HeartbeatReceived(event.frame.vin))

    def _time_sync_received(self, event: FrameReceived, now_ns: int) -> None:
        # The text says only "success"; the implementations put the platform's time into the answer.
        self._reply(event.frame, ReplyFlag.SUCCESS, TimeReply(beijing_time(now_ns)))

    # --- bytes --------------------------------------------------------------------------------------------------------

    def _reply(self, frame: Frame, flag: int, message: Message) -> int:
        """Answer *frame* with *flag*, or with what its edition has for it; return which was sent."""
        flag = _flag_of(frame.edition, flag)
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
        return flag

    def _encoded(self, frame: Frame) -> bytes:
        """Enciphered, if there is a cipher."""
        cipher = self.options.cipher
        if cipher is not None:
            frame = replace(frame, encryption=cipher.encryption)
        return encode(frame, cipher=cipher, layouts=self.options.layouts)

    def _reply_in_kind(self, frame: Frame, clear: bytes, flag: int, now_ns: int) -> int:
        """Answer with the body that the options ask for; return the flag that was sent."""
        body = self.options.reply_body
        if body is ReplyBody.ECHO and (frame.edition is Edition.GBT2025 or frame.encryption != Encryption.NONE):
            body = ReplyBody.TIME  # 2025 has no echo (B.3.3.2), and ciphertext cannot be echoed with another time.
        match body:
            case ReplyBody.TIME:
                message: Message = time_reply(frame, now_ns)
            case ReplyBody.ECHO:
                rest = clear[HEADER_SIZE_BYTES + 6 : -1]
                now = beijing_time(now_ns)
                message = EchoReply(now, rest) if rest else TimeReply(now)
            case ReplyBody.EMPTY:
                message = EmptyReply()
        return self._reply(frame, flag, message)

    # --- which method does what ---------------------------------------------------------------------------------------

    _RECEIVED: ClassVar[dict[int, Callable[[PlatformSession, FrameReceived, int], None]]] = {
        Command.REALTIME_REPORT: _report_received,
        Command.BACKFILL_REPORT: _report_received,
        Command.VEHICLE_LOGOUT: _logout_received,
        Command.PLATFORM_LOGOUT: _platform_logout_received,
        Command.HEARTBEAT: _heartbeat_received,
        Command.TIME_SYNC: _time_sync_received,
    }
    _DUE: ClassVar[dict[SessionTimer, Callable[[PlatformSession, int], None]]] = {
        SessionTimer.COMMAND: _send_waiting,
        SessionTimer.LOGIN: _login_due,
        SessionTimer.SILENCE: _silence_due,
    }
