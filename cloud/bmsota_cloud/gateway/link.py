"""One vehicle's link, sans-IO: the platform's end of GB/T 32960.3 joined to the services.

Bytes and `now_ns` in, bytes and deadlines out; the protocol is `bmsota.gbt32960.PlatformSession`, the meaning is in the
services, and this file says which event leads to which use case::

    driver                        GatewayLink                      services
    receive_data(data, now_ns) -> events -> log_in, report, ... -> store
    data_to_send()             <- replies, instructions         <- pending_instruction

Everything is called from one thread but `wake`, which may be called from any: it sets a flag and wakes the driver, which
then calls `handle_timeout`, because `next_timeout` says "now".
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    CloseRequested,
    Command,
    CommandReplied,
    CommandTimedOut,
    Control,
    ControlId,
    DiscardedBytes,
    ExtensionReceived,
    FrameRefused,
    HeartbeatReceived,
    LocalUpgrades,
    LoginRequested,
    LogoutReceived,
    PlatformLogin,
    PlatformSession,
    RemoteUpgrade,
    ReplyFlag,
    ReportReceived,
    SecurityReceived,
    SignedReport,
    UnitIdentity,
    UpgradeState,
    VehicleLogin,
    VehicleLogin2025,
    beijing_time,
)
from bmsota_cloud.clock import utc_time
from bmsota_cloud.domain.refusals import RefusalCause
from bmsota_cloud.gateway.options import FirstVin
from bmsota_cloud.gateway.refusals import LinkRefusals
from bmsota_cloud.services import ReportVerdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bmsota.gbt32960 import Frame, PlatformEvent, PlatformOptions
    from bmsota_cloud.gateway.router import LocalRouter
    from bmsota_cloud.services import Instruction, Services

__all__ = ["GatewayLink"]

# The standard's largest value of the connect limit (table B.16: WORD, 0..60000 min).
_CONNECT_LIMIT_MIN_MAX = 60000
# The firmware-version field has 5 characters; a longer one does not fit and is left empty, which the standard allows.
_FIRMWARE_VERSION_LENGTH = 5


class GatewayLink:
    """See the module's docstring."""

    def __init__(
        self,
        services: Services,
        router: LocalRouter,
        *,
        session: PlatformSession | None = None,
        wake: Callable[[], None] | None = None,
        address: str = "",
        options_of: Callable[[str], PlatformOptions] | None = None,
    ) -> None:
        """*options_of* gives the options of a VIN, for vehicles with keys of their own."""
        self._services = services
        self._router = router
        self._session = PlatformSession() if session is None else session
        self._options_of = options_of
        self._first_vin = FirstVin() if options_of is not None else None
        self._wake_driver = wake
        self._is_woken = False
        self._is_superseded = False
        self._sent_order_id = ""
        self.vin = ""
        """Empty until the vehicle has logged in, and after it has logged out."""
        self._refusals = LinkRefusals(services.refusals, address)
        self.is_closing = False
        """The driver should send what is left and close."""

    @property
    def address(self) -> str:
        """Where the other end is, without the port; of an IPv6 address the network (`services.network_of`)."""
        return self._refusals.address

    @address.setter
    def address(self, address: str) -> None:
        self._refusals.address = address

    # -- for the driver ------------------------------------------------------------------------------------------------

    def connected(self, now_ns: int) -> None:
        """The link is open; the vehicle has to log in."""
        self._session.connected(now_ns)
        self._take_events(now_ns)

    def receive_data(self, data: bytes, now_ns: int) -> None:
        if self._first_vin is not None and (vin := self._first_vin.take(data)) is not None:
            self._first_vin = None
            self._use_key(vin)
        self._refusals.received(data)
        self._session.receive_data(data, now_ns)
        self._take_events(now_ns)

    def data_to_send(self) -> bytes:
        return self._session.data_to_send()

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called; 0 means at once."""
        return 0 if self._is_woken or self._is_superseded else self._session.next_timeout()

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due; without effect before its time."""
        if self._is_superseded:
            self._is_superseded = False
            self.vin = ""
            self._session.supersede(now_ns)
        if self._is_woken:
            self._is_woken = False
            self._send_instruction(now_ns)
        self._session.handle_timeout(now_ns)
        self._take_events(now_ns)

    def disconnected(self, now_ns: int) -> None:
        """The link is gone, whichever side closed it."""
        self._session.disconnected(now_ns)
        self._take_events(now_ns)
        self._refusals.closed(utc_time(now_ns))
        self._leave(now_ns)

    # -- for the router ------------------------------------------------------------------------------------------------

    def wake(self, *, is_superseded: bool = False) -> None:
        """Something waits for this link. Safe from any thread."""
        if is_superseded:
            self._is_superseded = True
        else:
            self._is_woken = True
        if self._wake_driver is not None:
            self._wake_driver()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take_events(self, now_ns: int) -> None:
        while (event := self._session.next_event()) is not None:
            self._handle(event, now_ns)

    def _handle(self, event: PlatformEvent, now_ns: int) -> None:
        services = self._services
        now = utc_time(now_ns)
        match event:
            case LoginRequested(vin=vin, login=login):
                self._log_in(vin, login, now_ns)
            case ReportReceived(vin=vin, report=report, is_backfill=is_backfill):
                services.ingest.report(vin, report, is_backfill=is_backfill, now=now)
                self._refusals.take(event, utc_time(now_ns))
                self._session.answer_report(event, now_ns)
            case HeartbeatReceived(vin=vin):
                services.ingest.seen(vin, now)
            case ExtensionReceived(frame=frame):
                flag = self._extension(frame, now)
                if flag != ReplyFlag.SUCCESS:
                    self._refusals.extension(frame, flag, now)
                try:
                    self._session.reply(frame, now_ns, flag=flag)
                except LocalProtocolError:
                    # The same burst of bytes ended the session; the terminal repeats it on its next link.
                    services.counters["reply_not_sent"] += 1
            case LogoutReceived():
                self._leave(now_ns)
            case CommandReplied(reply_flag=flag):
                services.counters["instruction_answered" if flag == ReplyFlag.SUCCESS else "instruction_refused"] += 1
            case CommandTimedOut():
                # The next login, or the next hint, sends it again.
                services.counters["instruction_unanswered"] += 1
                self._sent_order_id = ""
            case CloseRequested():
                self.is_closing = True
            case SecurityReceived(frame=frame):
                # Activation and key exchange of 2025: keys come from the gateway's own file.
                self._refusals.extension(frame, None, utc_time(now_ns))
            case FrameRefused():
                services.counters["frame_refused"] += 1
                self._refusals.take(event, utc_time(now_ns))
            case DiscardedBytes(data=data):
                services.counters["bad_stretch"] += 1
                services.counters["bad_stretch_bytes"] += len(data)
                self._refusals.take(event, utc_time(now_ns))

    def _use_key(self, vin: str) -> None:
        if self._options_of is not None:
            self._session.change_options(self._options_of(vin))

    def _log_in(self, vin: str, login: VehicleLogin | VehicleLogin2025 | PlatformLogin, now_ns: int) -> None:
        if not isinstance(login, VehicleLogin | VehicleLogin2025):
            # A platform carrying many vehicles on one link: not our kind of peer.
            self._services.counters["platform_login_refused"] += 1
            self._refusals.login(vin, login, RefusalCause.LOGIN_PLATFORM, ReplyFlag.ERROR, utc_time(now_ns))
            self._session.refuse_login(ReplyFlag.ERROR, now_ns)
            return
        self._refusals.heard()
        if self.vin != vin:
            # Another vehicle on the same link: the one before has left.
            self._leave(now_ns)
        if not self._services.ingest.log_in(vin, serial=login.serial, now=utc_time(now_ns)):
            flag = ReplyFlag.VIN_UNKNOWN
            self._refusals.login(vin, login, RefusalCause.LOGIN_UNKNOWN_VIN, flag, utc_time(now_ns))
            self._session.refuse_login(flag, now_ns)
            return
        self._use_key(vin)
        self._session.accept_login(now_ns)
        self.vin = vin
        self._sent_order_id = ""
        self._router.register(vin, self)
        self._send_instruction(now_ns)

    def _extension(self, frame: Frame, now: datetime) -> ReplyFlag:
        """Handle a frame of our extension; the flag to answer with."""
        services = self._services
        match frame.message:
            case UnitIdentity() as identity:
                services.ingest.identity(frame.vin, identity, now)
            case UpgradeState() as reported:
                services.ingest.seen(frame.vin, now)
                services.upgrades.receive_state(
                    frame.vin,
                    order_id=reported.order_id,
                    state=reported.state,
                    progress_pct=reported.progress_pct if isinstance(reported.progress_pct, int) else None,
                    reason=reported.reason,
                    now=now,
                )
            case SignedReport(document=document):
                services.ingest.seen(frame.vin, now)
                if services.upgrades.receive_report(frame.vin, document, now) is ReportVerdict.REFUSED:
                    return ReplyFlag.ERROR
            case LocalUpgrades(upgrades=upgrades):
                services.ingest.seen(frame.vin, now)
                services.histories.receive(frame.vin, upgrades, now)
            case _:
                # Another maker's use of the same command numbers.
                services.counters["extension_unknown"] += 1
                return ReplyFlag.ERROR
        return ReplyFlag.SUCCESS

    def _send_instruction(self, now_ns: int) -> None:
        """Send what the store holds for this vehicle, once a login."""
        if not self.vin:
            return
        instruction = self._services.upgrades.pending_instruction(self.vin)
        if instruction is None or instruction.order_id == self._sent_order_id:
            return
        try:
            self._session.send_command(Command.CONTROL, _message(instruction, now_ns), now_ns)
        except LocalProtocolError:
            # The link is on its way down, or has too many commands waiting; the store keeps it for the next login.
            self._services.counters["instruction_not_sent"] += 1
            return
        self._sent_order_id = instruction.order_id
        self._services.upgrades.instruction_sent(instruction, utc_time(now_ns))

    def _leave(self, now_ns: int) -> None:
        vin, self.vin = self.vin, ""
        if vin and self._router.unregister(vin, self):
            self._services.ingest.link_lost(vin, utc_time(now_ns))


def _message(instruction: Instruction, now_ns: int) -> Control:
    """The instruction as 0x82/0x01, in the text layout of table B.15 (the URL first)."""
    where = urlsplit(instruction.url)
    version = instruction.software_version
    return Control(
        time=beijing_time(now_ns),
        control_id=ControlId.REMOTE_UPGRADE,
        parameters=RemoteUpgrade(
            url=instruction.url,
            address=where.hostname or "",
            port=where.port or (443 if where.scheme == "https" else 80),
            firmware_version=version if len(version) <= _FIRMWARE_VERSION_LENGTH else "",
            connect_limit_min=min(-(-instruction.time_limit_s // 60), _CONNECT_LIMIT_MIN_MAX),
        ),
    )
