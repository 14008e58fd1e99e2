"""The terminal's end of the conversation: log in, report, keep alive, fill in, obey (annex B; chapter 5 for the waits).

Time and bytes go in, events and bytes come out; nothing here waits or opens anything. The caller's loop:

    session.connected(now) / .receive_data(data, now) / .disconnected(now)    what happened
    session.handle_timeout(now)                                               always, not later than next_timeout()
    session.data_to_send()                                                    hand to the link
    session.next_event()                                                      until None

The states::

              connect due          link up               accepted
    WAITING -------------> CONNECTING ------> LOGGING_IN ---------> LOGGED_IN
       ^  ^                   |                  |  |                 |  | logout
       |  +---- link down ----+---- link down ---+  | 3 misses        |  v
       |                                            v                 | LOGGING_OUT
       +------------- link down ---------------- CLOSING <- silent ---+     | answered, or no answer
                                                                            v
                                     ENDED <---- link down ----------- LEAVING

Strategy for delivery. A report that cannot be sent is stored and goes out later as 0x03 (B.2.8). The standard does not
answer correct reports, so a report that was handed to a link which then broke may be lost; one that was still here is not.
Frames of our extension are answered, and are sent one after another until each is answered or three tries are over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._codec import encode
from bmsota.gbt32960._enums import Command, Edition, Encryption, ReplyFlag
from bmsota.gbt32960._extension import BlockReply, BlockRequest
from bmsota.gbt32960._fields import TIME_SIZE_BYTES
from bmsota.gbt32960._frame import HEADER_SIZE_BYTES, Frame
from bmsota.gbt32960._messages import (
    EmptyReply,
    Heartbeat,
    RawMessage,
    Report,
    TimeReply,
    TimeSync,
    VehicleLogin,
    VehicleLogin2025,
    VehicleLogout,
)
from bmsota.gbt32960._plain import bytes_of_time
from bmsota.gbt32960._reader import FrameReader, RefusalKind
from bmsota.gbt32960._session.backfill import BackfillStore, StoredReport, as_backfill
from bmsota.gbt32960._session.base import SECURITY_DOWN, SECURITY_UP, TRIES, BaseSession, SessionTimer, time_reply
from bmsota.gbt32960._session.events import (
    CloseReason,
    CloseRequested,
    CommandReceived,
    ConnectRequested,
    ExtensionUndelivered,
    LoggedIn,
    LoggedOut,
    LoginFailed,
    LoginFailure,
    ReplyReceived,
    ReportsDropped,
    TerminalEvent,
    TimeSynchronised,
)
from bmsota.gbt32960._signatures import sign_report
from bmsota.gbt32960._time import MINUTE_NS, SECOND_NS, beijing_time, nanoseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import date, datetime

    from bmsota.gbt32960._bodies import Body
    from bmsota.gbt32960._cipher import DataUnitCipher
    from bmsota.gbt32960._messages import Message
    from bmsota.gbt32960._reader import FrameReceived
    from bmsota.gbt32960._registry import Layouts
    from bmsota.gbt32960._signatures import ReportSigner


_DAY_NS: Final = 24 * 60 * MINUTE_NS
_LOGIN_TRIES: Final = 3
"""B.2: after three logins in a row without success the terminal waits for long."""
_ANY_TIME_NS: Final = 2**60
"""Of 2006: the standard has no times before 2000."""
_SERIAL_MAX: Final = 65531
"""Table 6; then from 1 again."""
_HEARTBEATS_UNANSWERED_MAX: Final = 3
"""The text gives no number; three is what it gives for everything else."""
_RECENT_REPORTS_MAX: Final = 16
"""How many sent reports are kept at most for the case that the platform calls one wrong: the answer comes within seconds."""
_OUTGOING_SIZE_BYTES_MAX: Final = 1024 * 1024
"""Beyond this the link does not take what we send; reports then go to the store, as if there were no link."""

_LOGIN_RETRY_NS: Final = {Edition.GBT2016: MINUTE_NS, Edition.GBT2025: 3 * MINUTE_NS}
_BACKFILL_WINDOW_NS: Final = {Edition.GBT2016: 3 * _DAY_NS, Edition.GBT2025: 7 * _DAY_NS}


class TerminalState(Enum):
    """Where the session stands."""

    WAITING = "no link; the next try has its time"
    CONNECTING = "the driver was asked for a link"
    LOGGING_IN = "the link is there, the login is not answered yet"
    LOGGED_IN = "reports go out"
    LOGGING_OUT = "the logout is not answered yet"
    CLOSING = "the driver was asked to close the link; another try follows"
    LEAVING = "the driver was asked to close the link; nothing follows"
    ENDED = "logged out"


class _Input(Enum):
    CONNECT_DUE = auto()
    LINK_UP = auto()
    LINK_DOWN = auto()
    LOGIN_ACCEPTED = auto()
    GIVEN_UP = auto()
    LOGOUT_ASKED = auto()
    LOGOUT_OVER = auto()
    RESTARTED = auto()


_S = TerminalState
_DOWNLINK: Final = range(0x80, 0xFF)
"""Commands that a platform may send: query, set, control, reserved ones, and those of extensions."""


_UPLINK: Final = range(0x01, 0x09)
"""Commands that a platform does not send to a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalOptions:
    """What annex B leaves to the terminal, and where the field differs from it. The defaults are the text's."""

    edition: Edition = Edition.GBT2016
    login_retry_ns: int | None = None
    """Between two logins, and between two attempts to connect. By the edition if not given: 1 min, 3 min."""
    login_wait_ns: int = 30 * MINUTE_NS
    """After three misses (parameter 0x0C)."""
    reconnect_wait_ns: int = 5 * SECOND_NS
    """After a link that had worked was lost. The text says nothing. Twice as long each time that it is lost again soon, up to
    `login_wait_ns`: a platform that takes logins and drops the link must not be called every few seconds."""
    reconnect_steady_ns: int = 10 * MINUTE_NS
    """A link that was logged in for so long has worked: after it the wait is `reconnect_wait_ns` again."""
    reconnect_spread: float = 0.25
    """By what part of itself a wait for the next link may be longer, drawn anew for each: a fleet must not come back in the same
    instant. 0 is not at all. Waits between two logins on one link are the text's."""
    heartbeat_period_ns: int = MINUTE_NS
    """Parameter 0x09: 1 to 240 s."""
    reply_timeout_ns: int = MINUTE_NS
    """How long the platform may take to answer (parameter 0x0B)."""
    time_sync: bool = True
    """Ask for the platform's time after each login."""
    backfill_window_ns: int | None = None
    """Older reports are given up. By the edition if not given: 3 days, 7 days."""
    backfill_size_bytes_max: int = 16 * 1024 * 1024
    """Three days of one report of 500 bytes each 10 s are 13 MB."""
    backfill_interval_ns: int = SECOND_NS
    """Stored reports go out one by one, each this long after the last report of any kind."""
    extension_queue_max: int = 64
    """Frames of the extension that wait for the link or for an answer; the oldest is given up first."""
    strict: bool = True
    """Refuse to send values outside the text's ranges."""
    cipher: DataUnitCipher | None = None
    """Encipher every data unit that is not empty, and decipher what comes. `change_options` brings another key."""
    layouts: Layouts | None = None
    """For reports with bodies of your own."""
    signer: ReportSigner | None = None
    """2025: sign each report when it is made."""


@dataclass(slots=True)
class _Extension:
    command: int
    message: Message
    time: datetime | None
    raw: bytes
    tries: int = 0


class TerminalSession(BaseSession[TerminalState, TerminalEvent]):
    """One vehicle's terminal. Begins by asking for a link at the first `handle_timeout`."""

    __slots__ = (
        "_connect_ns",
        "_draws",
        "_extensions",
        "_heartbeat",
        "_heartbeats_unanswered",
        "_last_report_ns",
        "_logged_in_ns",
        "_login_is_open",
        "_losses",
        "_misses",
        "_recent",
        "_report_head",
        "_resends",
        "_seed",
        "_serial",
        "_serial_day",
        "_store",
        "_time_sync_is_open",
        "code_length",
        "iccid",
        "options",
        "pack_codes",
        "subsystem_codes",
        "subsystem_count",
        "vin",
    )

    _NAME = "terminal"
    _TRANSITIONS: ClassVar[dict[TerminalState, dict[_Input, TerminalState]]] = {
        _S.WAITING: {
            _Input.CONNECT_DUE: _S.CONNECTING,
            _Input.LINK_UP: _S.LOGGING_IN,  # A driver may bring a link unasked.
            _Input.LINK_DOWN: _S.WAITING,
            _Input.LOGOUT_ASKED: _S.ENDED,
        },
        _S.CONNECTING: {
            _Input.LINK_UP: _S.LOGGING_IN,
            _Input.LINK_DOWN: _S.WAITING,
            _Input.LOGOUT_ASKED: _S.LEAVING,
        },
        _S.LOGGING_IN: {
            _Input.LOGIN_ACCEPTED: _S.LOGGED_IN,
            _Input.GIVEN_UP: _S.CLOSING,
            _Input.LINK_DOWN: _S.WAITING,
            _Input.LOGOUT_ASKED: _S.LEAVING,
        },
        _S.LOGGED_IN: {
            _Input.GIVEN_UP: _S.CLOSING,
            _Input.LINK_DOWN: _S.WAITING,
            _Input.LOGOUT_ASKED: _S.LOGGING_OUT,
        },
        _S.LOGGING_OUT: {_Input.LOGOUT_OVER: _S.LEAVING, _Input.LINK_DOWN: _S.ENDED},
        _S.CLOSING: {_Input.LINK_DOWN: _S.WAITING, _Input.LOGOUT_ASKED: _S.LEAVING},
        _S.LEAVING: {_Input.LINK_UP: _S.LEAVING, _Input.LINK_DOWN: _S.ENDED},
        _S.ENDED: {_Input.LINK_DOWN: _S.ENDED, _Input.RESTARTED: _S.WAITING},
    }
    _LINKED = frozenset({_S.LOGGING_IN, _S.LOGGED_IN, _S.LOGGING_OUT, _S.CLOSING, _S.LEAVING})

    def __init__(
        self,
        *,
        vin: str,
        iccid: str,
        subsystem_codes: tuple[str, ...] = (),
        subsystem_count: int | None = None,
        code_length: int | None = None,
        pack_codes: tuple[tuple[str, ...], ...] = (),
        options: TerminalOptions | None = None,
        last_serial: int = 0,
        last_login_ns: int | None = None,
        seed: int | str | None = None,
    ) -> None:
        """Begin in `WAITING`, with a link due at once.

        *subsystem_codes* are for the login of 2016 (n and m of table 6 follow from them), *pack_codes* (for each BMS those of its
        packs) for that of 2025. A 2016 terminal that does not send its codes says how many subsystems it has, n, by
        *subsystem_count*; *code_length* is m where that is not the length of the longest code. *last_serial* and *last_login_ns*
        carry the login serial over a power-off: it rises all day and begins again at 1. *seed* draws how waits are spread; if
        not given it is the VIN.

        Raises:
            LocalProtocolError: codes of the other edition, or counts that do not fit the codes.
        """
        self.options = options or TerminalOptions()
        super().__init__(TerminalState.WAITING, self.options.cipher, self.options.layouts)
        is_2025 = self.options.edition is Edition.GBT2025
        if subsystem_codes if is_2025 else pack_codes:
            expected, got = ("pack", "subsystem") if is_2025 else ("subsystem", "pack")
            msg = f"terminal: expected {expected}_codes in {self.options.edition.name}, got {got}_codes"
            raise LocalProtocolError(msg)
        if is_2025 and not (subsystem_count is None and code_length is None):
            msg = "terminal: subsystem_count and code_length belong to the login of GBT2016; GBT2025 counts pack_codes"
            raise LocalProtocolError(msg)
        self.pack_codes = pack_codes
        self.vin = vin
        self.iccid = iccid
        self.subsystem_codes = subsystem_codes
        self.subsystem_count = subsystem_count
        self.code_length = code_length
        if not is_2025:
            # A login that cannot be sent shall be told here, and not when the link is there.
            self._frame(Command.VEHICLE_LOGIN, self._login_2016(beijing_time(_ANY_TIME_NS), 1))
        self._seed = vin if seed is None else seed
        self._draws = 0
        """How many waits were spread."""
        self._logged_in_ns = 0
        self._losses = 0
        """How often in a row a link was lost soon after its login."""
        self._serial = last_serial
        self._serial_day: date | None = None if last_login_ns is None else beijing_time(last_login_ns).date()
        self._start(SessionTimer.CONNECT, 0)
        self._connect_ns = 0
        """When the next link is due, once the present one is gone."""
        self._misses = 0
        self._login_is_open = False
        self._heartbeats_unanswered = 0
        self._time_sync_is_open = False
        self._store = BackfillStore()
        self._recent: list[StoredReport | tuple[bytes, int]] = []
        """Reports that the platform may still call wrong, in the order in which they were sent; a frame with its time where the
        caller has encoded it."""
        self._heartbeat: tuple[bytes, bytes] | None = None
        """The frame of a heartbeat, and that of its usual answer."""
        self._report_head: bytes | None = None
        """How the frame of a report begins, up to its length."""
        self._resends: deque[tuple[int, StoredReport]] | None = None
        """What the platform has called wrong, and when it is sent again. None as long as nothing was: an empty deque is 0.8 kB."""
        self._last_report_ns = 0
        self._extensions: deque[_Extension] | None = None
        """None while there is none."""

    # --- what the caller asks ----------------------------------------------------------------------------------------

    @property
    def serial(self) -> int:
        """The serial of the latest login; 0 before the first."""
        return self._serial

    @property
    def stored_report_count(self) -> int:
        """How many reports wait to be sent as backfill."""
        return len(self._store)

    @property
    def waiting_extension_count(self) -> int:
        """How many frames of the extension wait for the link or for their answer."""
        return len(self._extensions or ())

    # --- what happened ------------------------------------------------------------------------------------------------

    def connected(self, now_ns: int) -> None:
        """The link is there.

        Raises:
            LocalProtocolError: there is a link already, or none is wanted.
        """
        self._move(_Input.LINK_UP)
        self._reader = FrameReader(cipher=self.options.cipher, layouts=self.options.layouts)
        self._unfinished_at = -1
        self._stop(SessionTimer.CONNECT)
        if self._state is TerminalState.LEAVING:  # The vehicle was switched off while the driver was connecting.
            self._events.append(CloseRequested(CloseReason.LOGGED_OUT))
            return
        self._next_serial(now_ns)
        self._log_in(now_ns)

    def disconnected(self, now_ns: int) -> None:
        """The link is gone, or could not be opened."""
        before = self._state
        self._move(_Input.LINK_DOWN)
        if self._state is before:  # There was no link: the next try keeps its time.
            return
        self._stop_all()
        self._take_back()
        if self._state is TerminalState.ENDED:
            self._events.append(LoggedOut())
            return
        if before is TerminalState.LOGGED_IN:
            self._connect_ns = now_ns + self._reconnect_wait_ns(now_ns)
        elif before is not TerminalState.CLOSING:  # There the next try has its time already.
            is_third = self._misses + 1 >= _LOGIN_TRIES
            wait_ns = self._spread(self.options.login_wait_ns if is_third else self._login_retry_ns)
            self._miss(LoginFailure.NO_LINK, now_ns + wait_ns)
            self._connect_ns = now_ns + wait_ns
        self._start(SessionTimer.CONNECT, self._connect_ns)

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """Take what the link received. Bytes that come without a link, or while it is being closed, count as well."""
        heartbeat = self._heartbeat
        if heartbeat is not None and data == heartbeat[1] and self._reader.is_empty:
            # The usual answer, which says nothing but that the platform is alive.
            self._reader.pass_over(len(data))
            self._heartbeats_unanswered = 0
            return
        super().receive_data(data, now_ns)

    # --- what the vehicle wants ---------------------------------------------------------------------------------------

    def send_report(self, bodies: Iterable[Body], now_ns: int) -> None:
        """Report *bodies*, collected now: as 0x02 if logged in, else stored and sent as 0x03 when there is time.

        Raises:
            LocalProtocolError: a value does not fit. Nothing was sent or stored.
        """
        stored = self._stored(bodies, now_ns)
        if self._can_report:
            self._send_stored(Command.REALTIME_REPORT, stored, now_ns)
        else:
            self._keep_for_later(stored, now_ns)

    def store_report(self, bodies: Iterable[Body], collected_ns: int, now_ns: int) -> None:
        """Store *bodies*, collected earlier, to go out as backfill: the seconds before a level-3 alarm (B.3.5.2).

        Raises:
            LocalProtocolError: a value does not fit. Nothing was stored.
        """
        self._keep_for_later(self._stored(bodies, collected_ns), now_ns)

    def send_encoded(self, frame: bytes, now_ns: int, *, collected_ns: int | None = None) -> None:
        """As `send_report`, of a report that is encoded already: a whole frame 0x02 of this vehicle, in the clear.

        For many vehicles, whose frames `encode_batch` makes. Only the header is checked. *collected_ns* is when the values were
        collected, if that is not now.

        Raises:
            LocalProtocolError: another command, vehicle or edition, a wrong length, or reports are to be signed. Nothing was
                sent or stored.
        """
        self._encoded(frame)
        if not self._can_report:
            self._keep_for_later(StoredReport(now_ns if collected_ns is None else collected_ns, frame), now_ns)
        elif self.options.cipher is not None or not (collected_ns is None or collected_ns == now_ns):
            report = StoredReport(now_ns if collected_ns is None else collected_ns, frame)
            self._send_stored(Command.REALTIME_REPORT, report, now_ns)
        else:
            sent = (frame, now_ns)  # One object for both queues: most reports are never looked at again.
            self._outgoing.append(sent)
            self._outgoing_size_bytes += len(frame)
            self._remember(sent, now_ns)

    def store_encoded(self, frame: bytes, collected_ns: int, now_ns: int) -> None:
        """As `store_report`, of a report that is encoded already; see `send_encoded`.

        Raises:
            LocalProtocolError: as `send_encoded`. Nothing was stored.
        """
        self._encoded(frame)
        self._keep_for_later(StoredReport(collected_ns, frame), now_ns)

    def send_extension(self, command: int, message: Message, now_ns: int) -> None:
        """Send *message* under one of the commands 0xC0 to 0xFE, now or after the next login, until it is answered.

        Raises:
            LocalProtocolError: the message does not fit. Nothing was sent.
        """
        if not 0xC0 <= command <= 0xFE:
            msg = f"extension: expected a command from 0xC0 to 0xFE, got {command:#04x}"
            raise LocalProtocolError(msg)
        raw = self._frame(command, message)
        if self._extensions is None:
            self._extensions = deque()
        if len(self._extensions) >= self.options.extension_queue_max:
            oldest = self._extensions.popleft()
            self._events.append(ExtensionUndelivered(oldest.command, oldest.message))
            self._stop(SessionTimer.EXTENSION)
        self._extensions.append(_Extension(command, message, getattr(message, "time", None), raw))
        if self._state is TerminalState.LOGGED_IN and SessionTimer.EXTENSION not in self._timers:
            self._send_extension(now_ns)

    def reply_to(
        self,
        command_frame: Frame,
        now_ns: int,
        *,
        flag: int = ReplyFlag.SUCCESS,
        message: Message | None = None,
    ) -> None:
        """Answer a `CommandReceived`. Without *message* the answer is the command's own time and nothing else (6.3.2).

        Raises:
            LocalProtocolError: there is no login, or the message does not fit. Nothing was sent.
        """
        is_security = command_frame.command in SECURITY_DOWN and self._state in self._LINKED
        if not is_security and self._state not in (TerminalState.LOGGED_IN, TerminalState.LOGGING_OUT):
            msg = f"reply: not logged in (state {self._state.name})"
            raise LocalProtocolError(msg)
        if message is None:
            message = time_reply(command_frame, now_ns)
        self._send(self._frame(command_frame.command, message, flag=flag, edition=command_frame.edition))

    def send_security(self, command: int, message: Message, _now_ns: int) -> None:
        """2025: send an activation (0x09) or a key (0x0B), now. The text gives no rule for repeating them.

        Raises:
            LocalProtocolError: another command or edition, no link, or the message does not fit. Nothing was sent.
        """
        if command not in SECURITY_UP or self.options.edition is not Edition.GBT2025:
            msg = f"security: expected 0x09 or 0x0b in GBT2025, got {command:#04x} in {self.options.edition.name}"
            raise LocalProtocolError(msg)
        if self._state not in self._LINKED:
            msg = f"security: no link (state {self._state.name})"
            raise LocalProtocolError(msg)
        self._send(self._frame(command, message))

    def logout(self, now_ns: int) -> None:
        """The vehicle is switched off: log out, then ask for the link to be closed. Stored reports stay stored.

        Raises:
            LocalProtocolError: it is being logged out, or is logged out already.
        """
        before = self._state
        self._move(_Input.LOGOUT_ASKED)
        self._stop_all()
        if before is TerminalState.LOGGED_IN:
            self._send(self._frame(Command.VEHICLE_LOGOUT, VehicleLogout(beijing_time(now_ns), self._serial)))
            self._start(SessionTimer.LOGOUT, now_ns + self.options.reply_timeout_ns)
        elif before is TerminalState.LOGGING_IN:
            self._events.append(CloseRequested(CloseReason.LOGGED_OUT))
        elif self._state is TerminalState.ENDED:
            self._events.append(LoggedOut())

    def restart(self, now_ns: int) -> None:
        """The vehicle is switched on again.

        Raises:
            LocalProtocolError: it is not logged out.
        """
        self._move(_Input.RESTARTED)
        self._misses = 0
        self._start(SessionTimer.CONNECT, now_ns)

    def change_options(self, options: TerminalOptions, now_ns: int) -> None:
        """Use other options from now on (0x81 sets periods, 0x0B the key). A heartbeat period counts from now.

        Raises:
            LocalProtocolError: the edition is another; that needs another session. Nothing was changed.
        """
        if options.edition is not self.options.edition:
            msg = f"terminal: expected options of {self.options.edition.name}, got {options.edition.name}"
            raise LocalProtocolError(msg)
        self.options = options
        self._heartbeat = None
        self._use(options.cipher, options.layouts)
        if self._state is TerminalState.LOGGED_IN:
            self._start(SessionTimer.HEARTBEAT, now_ns + options.heartbeat_period_ns)

    # --- the machine --------------------------------------------------------------------------------------------------

    def _connect_due(self, _now_ns: int) -> None:
        self._move(_Input.CONNECT_DUE)
        self._events.append(ConnectRequested(self._misses + 1))

    def _next_serial(self, now_ns: int) -> None:
        today = beijing_time(now_ns).date()
        if today != self._serial_day or self._serial >= _SERIAL_MAX:
            self._serial = 0
        self._serial_day = today
        self._serial += 1

    def _log_in(self, now_ns: int) -> None:
        time = beijing_time(now_ns)
        login: VehicleLogin | VehicleLogin2025
        if self.options.edition is Edition.GBT2025:
            login = VehicleLogin2025(time, self._serial, self.iccid, self.pack_codes)
        else:
            login = self._login_2016(time, self._serial)
        self._send(self._frame(Command.VEHICLE_LOGIN, login))
        self._login_is_open = True
        self._start(SessionTimer.LOGIN, now_ns + self._login_retry_ns)

    def _login_2016(self, time: datetime, serial: int) -> VehicleLogin:
        return VehicleLogin(time, serial, self.iccid, self.subsystem_codes, self.subsystem_count, self.code_length)

    @property
    def _login_retry_ns(self) -> int:
        given = self.options.login_retry_ns
        return _LOGIN_RETRY_NS[self.options.edition] if given is None else given

    def _login_due(self, now_ns: int) -> None:
        """The wait after a login is over: it was refused, or was not answered, and the next one may go."""
        if not (self._login_is_open and self._login_missed(LoginFailure.NO_REPLY, now_ns, now_ns)):
            self._log_in(now_ns)

    def _login_missed(self, reason: LoginFailure, retry_ns: int, now_ns: int, reply_flag: int | None = None) -> bool:
        """Count a login that failed on a link. Return whether it was the third in a row, which ends the link for long."""
        is_third = self._misses + 1 >= _LOGIN_TRIES
        if is_third:
            retry_ns = now_ns + self._spread(self.options.login_wait_ns)
        self._miss(reason, retry_ns, reply_flag)
        if is_third:
            self._give_up(CloseReason.LOGIN_FAILED, retry_ns)
        return is_third

    def _miss(self, reason: LoginFailure, retry_ns: int, reply_flag: int | None = None) -> None:
        """Count a failed login; behind the third in a row, which brings the long wait, the count begins anew."""
        self._misses += 1
        self._events.append(LoginFailed(reason, self._misses, retry_ns, reply_flag))
        if self._misses >= _LOGIN_TRIES:
            self._misses = 0
        self._login_is_open = False

    def _spread(self, wait_ns: int) -> int:
        """*wait_ns*, or up to `reconnect_spread` more."""
        self._draws += 1
        # Not a generator: waits are rare, and ten thousand terminals need not keep one each.
        drawn = blake2b(f"{self._seed} {self._draws}".encode(), digest_size=4).digest()
        part = int.from_bytes(drawn, "big") / 2**32
        return wait_ns + int(wait_ns * self.options.reconnect_spread * part)

    def _reconnect_wait_ns(self, now_ns: int) -> int:
        """How long to wait after a link that was logged in."""
        options = self.options
        if now_ns - self._logged_in_ns >= options.reconnect_steady_ns:
            self._losses = 0
        wait_ns = min(options.reconnect_wait_ns << min(self._losses, 20), options.login_wait_ns)
        self._losses += 1
        return self._spread(max(wait_ns, options.reconnect_wait_ns))

    def _give_up(self, reason: CloseReason, connect_ns: int) -> None:
        self._move(_Input.GIVEN_UP)
        self._stop_all()
        self._connect_ns = connect_ns
        self._events.append(CloseRequested(reason))

    def _login_answered(self, event: FrameReceived, now_ns: int) -> None:
        frame = event.frame
        if self._state is not TerminalState.LOGGING_IN or not self._login_is_open:
            self._refuse(event, RefusalKind.UNEXPECTED_REPLY, "unexpected reply to a login")
            return
        if frame.reply_flag != ReplyFlag.SUCCESS:
            self._login_missed(LoginFailure.REFUSED, self._timers[SessionTimer.LOGIN], now_ns, frame.reply_flag)
            return
        self._move(_Input.LOGIN_ACCEPTED)
        self._misses = 0
        self._login_is_open = False
        self._logged_in_ns = now_ns
        self._heartbeats_unanswered = 0
        self._stop(SessionTimer.LOGIN)
        self._start(SessionTimer.HEARTBEAT, now_ns + self.options.heartbeat_period_ns)
        self._start(SessionTimer.BACKFILL, now_ns + self.options.backfill_interval_ns)
        self._events.append(LoggedIn(self._serial))
        if self.options.time_sync:
            self._send(self._frame(Command.TIME_SYNC, TimeSync()))
            self._time_sync_is_open = True
        for extension in self._extensions or ():
            extension.tries = 0
        self._send_extension(now_ns)

    def _logout_answered(self, event: FrameReceived, now_ns: int) -> None:
        if self._state is TerminalState.LOGGING_OUT:
            self._logout_due(now_ns)
        else:
            self._refuse(event, RefusalKind.UNEXPECTED_REPLY, "unexpected reply to a logout")

    def _logout_due(self, _now_ns: int) -> None:
        """The logout was answered, or will not be."""
        self._move(_Input.LOGOUT_OVER)
        self._stop_all()
        self._events.append(CloseRequested(CloseReason.LOGGED_OUT))

    def _heartbeat_due(self, now_ns: int) -> None:
        if self._heartbeats_unanswered >= _HEARTBEATS_UNANSWERED_MAX:
            self._give_up(CloseReason.HEARTBEAT_LOST, now_ns + self._reconnect_wait_ns(now_ns))
            return
        self._heartbeats_unanswered += 1
        if self._heartbeat is None:
            self._heartbeat = (
                self._frame(Command.HEARTBEAT, Heartbeat()),
                self._frame(Command.HEARTBEAT, EmptyReply(), flag=ReplyFlag.SUCCESS),
            )
        self._send(self._heartbeat[0])
        self._start(SessionTimer.HEARTBEAT, now_ns + self.options.heartbeat_period_ns)

    def _time_answered(self, event: FrameReceived, now_ns: int) -> None:
        frame = event.frame
        if not self._time_sync_is_open:
            self._refuse(event, RefusalKind.UNEXPECTED_REPLY, "unexpected time")
            return
        self._time_sync_is_open = False
        if isinstance(frame.message, TimeReply):
            ahead_ns = nanoseconds(frame.message.time) - now_ns // SECOND_NS * SECOND_NS
            self._events.append(TimeSynchronised(frame.message.time, ahead_ns))

    # --- reports ------------------------------------------------------------------------------------------------------

    def _stored(self, bodies: Iterable[Body], collected_ns: int) -> StoredReport:
        report = Report(beijing_time(collected_ns), tuple(bodies))
        if self.options.signer is not None and self.options.edition is Edition.GBT2025:
            report = sign_report(report, self.options.signer, layouts=self.options.layouts)
        # Stored in the clear: the key may be another by the time it is sent.
        raw = self._frame(Command.REALTIME_REPORT, report, is_enciphered=False)
        return StoredReport(collected_ns, raw)

    def _send_stored(self, command: Command, stored: StoredReport, now_ns: int) -> None:
        if self.options.cipher is not None:
            raw = self._frame(command, RawMessage(stored.frame[HEADER_SIZE_BYTES:-1], is_plain=True))
        elif command is Command.REALTIME_REPORT:
            raw = stored.frame
        else:
            raw = as_backfill(stored.frame)
        self._send(raw, stored)
        stored.sent_ns = now_ns
        self._remember(stored, now_ns)

    def _remember(self, report: StoredReport | tuple[bytes, int], now_ns: int) -> None:
        """Keep what was sent just now for as long as the platform may answer, and forget what it has left alone."""
        self._last_report_ns = now_ns
        recent = self._recent
        recent.append(report)
        oldest_ns = now_ns - self.options.reply_timeout_ns
        while True:
            first = recent[0]
            sent_ns = first.sent_ns if isinstance(first, StoredReport) else first[1]
            if sent_ns >= oldest_ns and len(recent) <= _RECENT_REPORTS_MAX:
                return
            del recent[0]

    def _encoded(self, frame: bytes) -> None:
        """Refuse a *frame* that is no report of ours in the clear. Its data unit is the caller's word."""
        options = self.options
        if options.signer is not None and options.edition is Edition.GBT2025:
            msg = "report: an encoded report cannot be signed; use send_report"
            raise LocalProtocolError(msg)
        if self._report_head is None:
            self._report_head = self._frame(Command.REALTIME_REPORT, RawMessage(b""), is_enciphered=False)[:22]
        size = len(frame)
        if (
            size <= HEADER_SIZE_BYTES + TIME_SIZE_BYTES
            or not frame.startswith(self._report_head)
            or (frame[22] << 8) | frame[23] != size - HEADER_SIZE_BYTES - 1
        ):
            expected = f"a whole report of {self.vin} in {options.edition.name}, not enciphered"
            msg = f"report: expected {expected}, got {bytes(frame[:HEADER_SIZE_BYTES]).hex(' ')} ({size} bytes)"
            raise LocalProtocolError(msg)

    @property
    def _can_report(self) -> bool:
        """Whether a report may go out now: there is a login, and the link takes what we send."""
        return self._state is TerminalState.LOGGED_IN and self._outgoing_size_bytes < _OUTGOING_SIZE_BYTES_MAX

    def _keep_for_later(self, stored: StoredReport, now_ns: int) -> None:
        """Store a report, and let it go out when there is time."""
        self._keep(stored, now_ns)
        if self._state is TerminalState.LOGGED_IN and SessionTimer.BACKFILL not in self._timers:
            self._start(SessionTimer.BACKFILL, now_ns + self.options.backfill_interval_ns)

    def _keep(self, stored: StoredReport, now_ns: int) -> None:
        self._store.add(stored)
        self._shorten_store(now_ns)

    def _shorten_store(self, now_ns: int) -> None:
        """Give up what is too old or too much, and say so."""
        window_ns = self.options.backfill_window_ns
        if window_ns is None:
            window_ns = _BACKFILL_WINDOW_NS[self.options.edition]
        dropped = self._store.shorten(now_ns - window_ns, self.options.backfill_size_bytes_max)
        if not dropped:
            return
        last = self._events[-1] if self._events else None
        if isinstance(last, ReportsDropped):  # One event for a long time without a link.
            self._events[-1] = ReportsDropped(last.count + len(dropped), last.oldest_ns)
        else:
            self._events.append(ReportsDropped(len(dropped), dropped[0].collected_ns))

    def _take_back(self) -> None:
        """Reports that the link never took go back to the front of the store."""
        for raw, stored in reversed(self._outgoing):
            if stored is not None:
                self._store.put_back(stored if isinstance(stored, StoredReport) else StoredReport(stored, raw))
        self._outgoing.clear()
        self._outgoing_size_bytes = 0
        self._resends = None
        self._time_sync_is_open = False

    def _backfill_due(self, now_ns: int) -> None:
        """Send one stored report, if the last report of any kind is long enough ago (B.2.8: in the idle time)."""
        idle_ns = self._last_report_ns + self.options.backfill_interval_ns
        if now_ns < idle_ns:
            self._start(SessionTimer.BACKFILL, idle_ns)
            return
        self._shorten_store(now_ns)
        if not self._store:
            return
        if self._outgoing_size_bytes < _OUTGOING_SIZE_BYTES_MAX:
            self._send_stored(Command.BACKFILL_REPORT, self._store.take(), now_ns)
        self._start(SessionTimer.BACKFILL, now_ns + self.options.backfill_interval_ns)

    def _report_answered(self, event: FrameReceived, now_ns: int) -> None:
        """Only a wrong report is answered (B.3.5): send it again after a minute, three times at most."""
        frame = event.frame
        self._events.append(ReplyReceived(frame.command, frame.reply_flag, frame))
        if frame.reply_flag == ReplyFlag.SUCCESS:
            return
        time = getattr(frame.message, "time", None)
        at = None if time is None else bytes_of_time("time", time)
        for place in range(len(self._recent) - 1, -1, -1):
            recent = self._recent[place]
            report = recent.frame if isinstance(recent, StoredReport) else recent[0]
            if at is None or report.startswith(at, HEADER_SIZE_BYTES):
                break
        else:
            return
        if isinstance(recent, StoredReport):
            stored = recent
        else:
            stored = self._recent[place] = StoredReport(recent[1], recent[0])
        if stored.resends < TRIES and all(waiting is not stored for _, waiting in self._resends or ()):
            stored.resends += 1
            if self._resends is None:
                self._resends = deque()
            self._resends.append((now_ns + MINUTE_NS, stored))
            if SessionTimer.RESEND not in self._timers:
                self._start(SessionTimer.RESEND, now_ns + MINUTE_NS)

    def _resend_due(self, now_ns: int) -> None:
        while self._resends and self._resends[0][0] <= now_ns:
            _, stored = self._resends.popleft()
            self._send_stored(Command.REALTIME_REPORT, stored, now_ns)
        if self._resends:
            self._start(SessionTimer.RESEND, self._resends[0][0])

    # --- the extension ------------------------------------------------------------------------------------------------

    def _send_extension(self, now_ns: int) -> None:
        if self._extensions:
            self._extensions[0].tries += 1
            self._send(self._extensions[0].raw)
            self._start(SessionTimer.EXTENSION, now_ns + self.options.reply_timeout_ns)

    def _extension_due(self, now_ns: int) -> None:
        if self._extensions and self._extensions[0].tries >= TRIES:
            lost = self._extensions.popleft()
            self._events.append(ExtensionUndelivered(lost.command, lost.message))
        self._send_extension(now_ns)

    def _extension_answered(self, event: FrameReceived, now_ns: int) -> None:
        frame = event.frame
        first = self._extensions[0] if self._extensions else None
        time = getattr(frame.message, "time", None)
        # The answer carries the time of the question; another time is a late answer to an earlier try.
        if first is None or first.command != frame.command or (time and first.time and time != first.time):
            self._refuse(event, RefusalKind.UNEXPECTED_REPLY, "unexpected reply")
            return
        if (
            isinstance(frame.message, BlockReply)
            and isinstance(first.message, BlockRequest)
            and not frame.message.answers(first.message)
        ):
            self._refuse(event, RefusalKind.UNEXPECTED_REPLY, "unexpected block")
            return
        assert self._extensions is not None
        self._extensions.popleft()
        if not self._extensions:
            self._extensions = None
        self._stop(SessionTimer.EXTENSION)
        self._events.append(ReplyReceived(frame.command, frame.reply_flag, frame))
        self._send_extension(now_ns)

    # --- bytes --------------------------------------------------------------------------------------------------------

    def _frame(
        self,
        command: int,
        message: Message,
        *,
        flag: int = ReplyFlag.COMMAND,
        edition: Edition | None = None,
        is_enciphered: bool = True,
    ) -> bytes:
        cipher = self.options.cipher if is_enciphered else None
        frame = Frame(
            command=command,
            vin=self.vin,
            message=message,
            reply_flag=flag,
            edition=edition or self.options.edition,
            encryption=Encryption.NONE if cipher is None else cipher.encryption,
        )
        return encode(frame, strict=self.options.strict, cipher=cipher, layouts=self.options.layouts)

    def _receive(self, event: FrameReceived, now_ns: int) -> None:
        frame = event.frame
        if frame.vin != self.vin:
            self._refuse(event, RefusalKind.OTHER_VIN, f"for vehicle {frame.vin!r}, expected {self.vin!r}")
            return
        self._heartbeats_unanswered = 0  # Whatever the platform says, it is alive.
        if frame.reply_flag == ReplyFlag.COMMAND:
            is_security = frame.edition is Edition.GBT2025 and frame.command in SECURITY_DOWN
            if is_security or (frame.command in _DOWNLINK and self._state is TerminalState.LOGGED_IN):
                self._events.append(CommandReceived(frame))
            else:
                self._refuse(event, self._kind_of(frame), f"command {frame.command:#04x} in state {self._state.name}")
            return
        answered = self._ANSWERED.get(frame.command)
        if answered is not None:
            answered(self, event, now_ns)
        elif frame.edition is Edition.GBT2025 and frame.command in SECURITY_UP:
            self._events.append(ReplyReceived(frame.command, frame.reply_flag, frame))
        elif frame.command >= 0xC0:
            self._extension_answered(event, now_ns)
        else:
            self._refuse(event, RefusalKind.UNEXPECTED_REPLY, "reply to a command that a terminal does not send")

    @staticmethod
    def _kind_of(frame: Frame) -> RefusalKind:
        """Why a command is refused."""
        if frame.command in _DOWNLINK:
            return RefusalKind.NOT_LOGGED_IN
        return RefusalKind.WRONG_DIRECTION if frame.command in _UPLINK else RefusalKind.UNKNOWN_COMMAND

    def _heartbeat_answered(self, _event: FrameReceived, _now_ns: int) -> None:
        """Nothing to do: `_receive` has counted it."""

    # --- which method does what ---------------------------------------------------------------------------------------

    _DUE: ClassVar[dict[SessionTimer, Callable[[TerminalSession, int], None]]] = {
        SessionTimer.CONNECT: _connect_due,
        SessionTimer.LOGIN: _login_due,
        SessionTimer.LOGOUT: _logout_due,
        SessionTimer.HEARTBEAT: _heartbeat_due,
        SessionTimer.EXTENSION: _extension_due,
        SessionTimer.RESEND: _resend_due,
        SessionTimer.BACKFILL: _backfill_due,
    }
    _ANSWERED: ClassVar[dict[int, Callable[[TerminalSession, FrameReceived, int], None]]] = {
        Command.VEHICLE_LOGIN: _login_answered,
        Command.VEHICLE_LOGOUT: _logout_answered,
        Command.REALTIME_REPORT: _report_answered,
        Command.BACKFILL_REPORT: _report_answered,
        Command.HEARTBEAT: _heartbeat_answered,
        Command.TIME_SYNC: _time_answered,
    }
