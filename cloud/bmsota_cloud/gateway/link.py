"""One vehicle's link, sans-IO: the platform's end of GB/T 32960.3 joined to the services.

Bytes and `now_ns` in, bytes and deadlines out; the protocol is `bmsota.gbt32960.PlatformSession`, the meaning is in the
services, and this file says which event leads to which use case::

    driver                        GatewayLink                      services
    receive_data(data, now_ns) -> events -> log_in, accept, ... -> store
    data_to_send()             <- replies, instructions         <- pending_instruction

Nothing here waits. Reports and heartbeats go to their service inline, which passes reports on to the writer; everything that needs
a database is a job for *submit*, which runs it in the gateway's worker and gives the link what came of it. Without *submit*, as in
virtual time, jobs run at once. While a login is being decided the session reads nothing, so the order of things is kept.

Everything is called from one thread but `wake`, which may be called from any: it sets a flag and wakes the driver, which
then calls `handle_timeout`, because `next_timeout` says "now".
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    Acknowledgement,
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
    PlatformState,
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
from bmsota_cloud.domain.errors import ConflictError, StorageUnavailableError
from bmsota_cloud.domain.refusals import RefusalCause
from bmsota_cloud.domain.telemetry import StoredFrame, is_plausible_time
from bmsota_cloud.domain.vehicles import LastLogin
from bmsota_cloud.gateway.forwarded import ForwardedVehicle, ForwardedVehicles
from bmsota_cloud.gateway.options import PLATFORM_SILENCE_NS, VinFinder, platform_options
from bmsota_cloud.gateway.refusals import LinkRefusals
from bmsota_cloud.services import PlatformSettings, ReportVerdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from bmsota.gbt32960 import Frame, PlatformEvent, PlatformOptions
    from bmsota_cloud.domain.platform_peers import PlatformPeer
    from bmsota_cloud.gateway.router import LocalRouter
    from bmsota_cloud.services import Instruction, PlatformLoginVerdict, Services

__all__ = ["GatewayLink", "Submit"]

_LOG = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_Login: TypeAlias = VehicleLogin | VehicleLogin2025 | PlatformLogin

Submit: TypeAlias = "Callable[[Callable[[], Any], Callable[[Any, Exception | None, int], None]], None]"
"""submit(job, then): run *job* where it may wait; then call then(result, error, now_ns) in the link's thread."""

# The standard's largest value of the connect limit (table B.16: WORD, 0..60000 min).
_CONNECT_LIMIT_MIN_MAX = 60000
# The firmware-version field has 5 characters; a longer one does not fit and is left empty, which the standard allows.
_FIRMWARE_VERSION_LENGTH = 5
# A terminal has few questions at a time. Beyond it nothing more is read from this link until some are answered, because what waits is memory,
# and the time of the one worker.
_JOBS_MAX = 16


class GatewayLink:
    """See the module's docstring."""

    # A link is looked at when everything about it has left the processor's caches: without a dictionary there is less to fetch.
    __slots__ = (
        "_acknowledges",
        "_forwarded",
        "_has_called",
        "_is_followed",
        "_is_gone",
        "_is_superseded",
        "_is_taking",
        "_is_woken",
        "_jobs",
        "_link_id",
        "_must_look",
        "_options_of",
        "_owed",
        "_peers",
        "_refusals",
        "_router",
        "_router_links",
        "_send_driver",
        "_sent_order_id",
        "_services",
        "_session",
        "_silence_ns",
        "_submit_job",
        "_vin_finder",
        "_wake_driver",
        "is_closing",
        "vin",
    )

    def __init__(
        self,
        services: Services,
        router: LocalRouter,
        *,
        session: PlatformSession | None = None,
        wake: Callable[[], None] | None = None,
        address: str = "",
        submit: Submit | None = None,
        options_of: Callable[[str], PlatformOptions] | None = None,
        peers: Mapping[str, PlatformPeer] | None = None,
    ) -> None:
        """*options_of* gives the options of a VIN, for vehicles with keys of their own; *peers* are the platforms that may log in."""
        self._services = services
        self._router = router
        self._session = PlatformSession(options=platform_options(PlatformSettings())) if session is None else session
        self._silence_ns = self._session.options.silence_timeout_ns
        self._acknowledges = self._session.options.acknowledge_reports is not Acknowledgement.NEVER
        self._options_of = options_of
        self._vin_finder = VinFinder() if options_of is not None else None
        self._wake_driver = wake
        # The door of the library can also send at once.
        self._send_driver: Callable[[], None] | None = getattr(wake, "send", None)
        self._submit_job = submit
        self._is_taking = False
        self._has_called = False
        self._is_woken = False
        self._is_superseded = False
        self._is_gone = False
        """The link went while its login was being decided; what was read behind the login is still to be taken."""
        self._sent_order_id = ""
        self._must_look = False
        """The database was away when it was looked for an instruction; the next heartbeat looks again."""
        self._link_id = 0
        self._owed = 0
        """Jobs and reports that may still be answered."""
        self._jobs = 0
        self._peers = peers or {}
        self._forwarded: ForwardedVehicles | None = None
        """On the link of another platform."""
        self._is_followed = False
        """That platform has a newer link."""
        self._router_links: dict[str, ForwardedVehicle] = {}
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

    @property
    def is_answering(self) -> bool:
        """Whether the other end may still get an answer to what it has sent."""
        return self._owed > 0

    @property
    def is_behind(self) -> bool:
        """Whether so much of what it has sent waits for the worker that nothing more should be read. `wake` follows when that ends."""
        return self._jobs >= _JOBS_MAX

    def connected(self, now_ns: int) -> None:
        """The link is open; the vehicle has to log in."""
        self._session.connected(now_ns)
        self._take_events(now_ns)

    def receive_data(self, data: bytes, now_ns: int) -> None:
        if self._vin_finder is not None and not self.vin and self._forwarded is None:
            vin = self._vin_finder.take(data)
            if vin is not None:
                self._use_key(vin)
        self._session.receive_data(data, now_ns)
        self._take_events(now_ns)

    def data_to_send(self) -> bytes:
        self._has_called = False
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
            self._take_events(now_ns)
        if self._is_woken:
            self._is_woken = False
            self._forget_taken_over()
            self._end_if_followed(now_ns)
            self._send_instruction(now_ns)
        due_ns = self._session.next_timeout()
        if due_ns is not None and due_ns <= now_ns:
            self._session.handle_timeout(now_ns)
            self._take_events(now_ns)

    def disconnected(self, now_ns: int) -> None:
        """The link is gone, whichever side closed it.

        A terminal that does not wait for the answer to its login may be gone before it is decided: what came behind the login
        is taken then, and the link ends after that.
        """
        if self._session.state is PlatformState.DECIDING and not self._is_gone:
            self._is_gone = True
            return
        self._session.disconnected(now_ns)
        self._take_events(now_ns)
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

    def close(self) -> None:
        """This link is to be closed. Safe from any thread."""
        self.wake(is_superseded=True)

    def follow(self) -> None:
        """The platform of this link has a newer one. Safe from any thread."""
        self._is_followed = True
        self.wake()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take_events(self, now_ns: int) -> None:
        if self._is_taking:
            # A job that was done at once, on the way through the loop below.
            return
        self._is_taking = True
        try:
            while (event := self._session.next_event()) is not None:
                # Nearly all are reports.
                if type(event) is ReportReceived:
                    self._report(event, now_ns)
                else:
                    self._handle(event, now_ns)
        finally:
            self._is_taking = False

    def _submit(
        self,
        job: Callable[[], _Result],
        then: Callable[[_Result, int], None] | None,
        now_ns: int,
        *,
        failed: Callable[[int], None] | None = None,
    ) -> None:
        """Have *job* done, then call *then* with its result, or *failed* if it raised; both with the time."""

        def finish(result: _Result, error: Exception | None, now_ns: int) -> None:
            if error is not None:
                self._log(error)
                if failed is not None:
                    failed(now_ns)
            elif then is not None:
                then(result, now_ns)
            self._take_events(now_ns)
            if self._is_gone and self._session.state not in {PlatformState.DECIDING, PlatformState.CLOSED}:
                self.disconnected(now_ns)

        def finish_later(result: _Result, error: Exception | None, now_ns: int) -> None:
            self._owed -= 1
            self._jobs -= 1
            finish(result, error, now_ns)
            self._call_driver()

        if self._submit_job is not None:
            self._owed += 1
            self._jobs += 1
            self._submit_job(job, finish_later)
            return
        try:
            result, error = job(), None
        except Exception as caught:  # noqa: BLE001 - logged in `finish`; the link goes on
            finish(None, caught, now_ns)  # type: ignore[arg-type]
        else:
            finish(result, error, now_ns)

    def _log(self, error: Exception) -> None:
        if isinstance(error, StorageUnavailableError):
            self._services.counters.add("link_storage_unavailable")
        else:
            self._services.counters.add("link_job_failed")
            _LOG.error("a job for the link of %s failed", self.vin or "an unknown vehicle", exc_info=error)

    def _call_driver(self) -> None:
        """There is something to send, or the time to close: have the driver look, once until it has.

        Not on its own way through here: then it looks anyway.
        """
        if not (self._is_taking or self._has_called) and self._wake_driver is not None:
            self._has_called = True
            self._wake_driver()

    def _handle(self, event: PlatformEvent, now_ns: int) -> None:
        services = self._services
        match event:
            case HeartbeatReceived(vin=vin) if self._forwarded is not None and vin == self._forwarded.peer.code:
                # It sends them: from now on its silence means something.
                self._session.change_options(replace(self._session.options, silence_timeout_ns=self._silence_ns))
            case HeartbeatReceived(vin=vin):
                if self._forwarded is None or vin in self._forwarded.link_ids:
                    services.ingest.seen(vin, utc_time(now_ns))
                if self._must_look:
                    self._send_instruction(now_ns)
            case LoginRequested(vin=vin, login=login):
                self._log_in(vin, login, now_ns)
            case ExtensionReceived(frame=frame) if self._forwarded and frame.vin not in self._forwarded.allowed:
                self._extension_done(frame, ReplyFlag.ERROR, now_ns)
            case ExtensionReceived(frame=frame):
                now = utc_time(now_ns)
                self._submit(
                    partial(self._extension, frame, now),
                    partial(self._extension_done, frame),
                    now_ns,
                    # So that the terminal sends it again.
                    failed=partial(self._reply, frame, ReplyFlag.ERROR),
                )
            case LogoutReceived(vin=vin) if self._forwarded is not None and vin != self._forwarded.peer.code:
                self._leave_forwarded([vin], now_ns)
                self._end_if_followed(now_ns)
            case LogoutReceived():
                self._leave(now_ns)
            case CommandReplied(reply_flag=flag):
                services.counters.add("instruction_answered" if flag == ReplyFlag.SUCCESS else "instruction_refused")
            case CommandTimedOut():
                # The next login, or the next hint, sends it again.
                services.counters.add("instruction_unanswered")
                self._sent_order_id = ""
            case CloseRequested():
                self.is_closing = True
            case SecurityReceived(frame=frame):
                # Activation and key exchange of 2025: keys come from the gateway's own file.
                self._refusals.extension(frame, None, utc_time(now_ns))
            case FrameRefused():
                services.counters.add("frame_refused")
                self._refusals.take(event, utc_time(now_ns))
            case DiscardedBytes(data=data):
                services.counters.add("bad_stretch")
                services.counters.add("bad_stretch_bytes", len(data))
                self._refusals.take(event, utc_time(now_ns))

    def _report(self, event: ReportReceived, now_ns: int) -> None:
        """Nothing that goes wrong here ends the link; what cannot be kept is refused, so that it is sent again."""
        if self._forwarded is not None and event.vin not in self._forwarded.allowed:
            self._report_unknown(self._forwarded, event, now_ns)
            return
        # Between platforms every report is answered.
        done = partial(self._stored, event, now_ns) if self._acknowledges or self._forwarded is not None else None
        try:
            self._owed += done is not None
            self._services.ingest.accept(_stored_frame(event, now_ns), done)
        except Exception as error:  # noqa: BLE001 - logged
            self._owed -= done is not None
            self._log(error)
            self._session.answer_report(event, now_ns, flag=ReplyFlag.ERROR)
        if event.fault is not None:
            self._refusals.take(event, utc_time(now_ns))

    def _stored(self, event: ReportReceived, now_ns: int) -> Callable[[], None] | None:
        """Answer; what sends it, for whoever has answered all that was stored together."""
        self._owed -= 1
        self._session.answer_report(event, now_ns)
        if self._send_driver is not None:
            return self._send_driver
        self._call_driver()
        return None

    def _use_key(self, vin: str) -> None:
        if self._options_of is not None:
            self._session.change_options(self._options_of(vin))

    def _log_in(self, vin: str, login: _Login, now_ns: int) -> None:
        if not isinstance(login, VehicleLogin | VehicleLogin2025):
            self._platform_log_in(vin, login, now_ns)
            return
        if self._forwarded is not None:
            self._forwarded_log_in(self._forwarded, vin, login, now_ns)
            return
        self._use_key(vin)
        is_again = self.vin == vin
        if not is_again:
            # Another vehicle on the same link: the one before has left.
            self._leave(now_ns)
        self._submit(
            partial(self._admit, vin, login, is_again, utc_time(now_ns)),
            partial(self._login_decided, vin, login),
            now_ns,
            failed=partial(self._refuse_login, vin, login, RefusalCause.LOGIN_UNAVAILABLE, ReplyFlag.ERROR),
        )

    def _refuse_login(
        self, vin: str, login: _Login, cause: RefusalCause, flag: ReplyFlag, now_ns: int, detail: str = ""
    ) -> None:
        is_waiting = self._session.state is PlatformState.DECIDING
        answered = flag if is_waiting and not self._is_gone else None
        self._refusals.login(vin, login, cause, answered, utc_time(now_ns), detail)
        if is_waiting:
            self._session.refuse_login(flag, now_ns)

    def _login_decided(self, vin: str, login: VehicleLogin | VehicleLogin2025, link_id: int, now_ns: int) -> None:
        if not link_id:
            self._refuse_login(vin, login, RefusalCause.LOGIN_UNKNOWN_VIN, ReplyFlag.VIN_UNKNOWN, now_ns)
            return
        if self._session.state is not PlatformState.DECIDING:
            # The link has ended meanwhile.
            lost = partial(self._services.ingest.link_lost, vin, utc_time(now_ns), link_id=link_id)
            self._submit(lost, None, now_ns)
            return
        self._use_key(vin)
        self._session.accept_login(now_ns)
        self.vin = vin
        self._link_id = link_id
        self._sent_order_id = ""
        old_address = self._router.register(vin, self)
        if old_address is not None:
            self._services.link_watch.taken_over(
                vin, old_address=old_address, new_address=self.address, now=utc_time(now_ns)
            )
        self._send_instruction(now_ns)

    def _admit(self, vin: str, login: VehicleLogin | VehicleLogin2025, is_again: bool, now: datetime) -> int:
        """The number of the vehicle's link, 0 if it may not log in; in the worker. Its login is compared with others."""
        services = self._services
        link_id = services.ingest.log_in(vin, serial=login.serial, now=now)
        # The same login again on the same link is a request whose answer was lost.
        if link_id and not is_again:
            services.link_watch.logged_in(
                LastLogin(
                    vin=vin,
                    iccid=login.iccid,
                    login_serial=login.serial,
                    login_at=login.time,
                    address=self.address,
                    received_at=now,
                )
            )
        return link_id

    def _extension_done(self, frame: Frame, flag: ReplyFlag, now_ns: int) -> None:
        if flag != ReplyFlag.SUCCESS:
            self._refusals.extension(frame, flag, utc_time(now_ns))
        self._reply(frame, flag, now_ns)

    def _reply(self, frame: Frame, flag: ReplyFlag, now_ns: int) -> None:
        try:
            self._session.reply(frame, now_ns, flag=flag)
        except LocalProtocolError:
            # The session has ended meanwhile; the terminal repeats it on its next link.
            self._services.counters.add("reply_not_sent")

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
                try:
                    services.histories.receive(frame.vin, upgrades, now)
                except ConflictError:
                    return ReplyFlag.ERROR
            case _:
                # Another maker's use of the same command numbers.
                services.counters.add("extension_unknown")
                return ReplyFlag.ERROR
        return ReplyFlag.SUCCESS

    def _send_instruction(self, now_ns: int) -> None:
        """Send what the store holds for this vehicle, once a login."""
        if self.vin:
            self._must_look = False
            self._submit(
                partial(self._services.upgrades.pending_instruction, self.vin),
                partial(self._instruction_found, self.vin),
                now_ns,
                failed=self._look_later,
            )

    def _look_later(self, _now_ns: int) -> None:
        self._must_look = True

    def _instruction_found(self, vin: str, instruction: Instruction | None, now_ns: int) -> None:
        if vin != self.vin or instruction is None or instruction.order_id == self._sent_order_id:
            return
        try:
            self._session.send_command(Command.CONTROL, _message(instruction, now_ns), now_ns)
        except LocalProtocolError:
            # The link is on its way down, or has too many commands waiting; the store keeps it for the next login.
            self._services.counters.add("instruction_not_sent")
            return
        self._sent_order_id = instruction.order_id
        self._submit(partial(self._services.upgrades.instruction_sent, instruction, utc_time(now_ns)), None, now_ns)

    # -- another platform ----------------------------------------------------------------------------------------------

    def _platform_log_in(self, code: str, login: PlatformLogin, now_ns: int) -> None:
        peer = self._peers.get(code)
        judge = partial(
            self._services.platform_logins.log_in,
            code,
            peer,
            user=login.user,
            password=login.password,
            address=self.address,
            now=utc_time(now_ns),
        )
        self._submit(
            judge,
            partial(self._platform_decided, code, login, peer),
            now_ns,
            failed=partial(self._refuse_login, code, login, RefusalCause.LOGIN_UNAVAILABLE, ReplyFlag.ERROR),
        )

    def _platform_decided(
        self, code: str, login: PlatformLogin, peer: PlatformPeer | None, verdict: PlatformLoginVerdict, now_ns: int
    ) -> None:
        if peer is None or not verdict.is_accepted:
            self._services.counters.add("platform_login_refused")
            cause = RefusalCause.LOGIN_PLATFORM_LIMITED if verdict.wait_s else RefusalCause.LOGIN_PLATFORM
            self._refuse_login(code, login, cause, ReplyFlag.ERROR, now_ns, verdict.detail)
            return
        if self._session.state is not PlatformState.DECIDING:
            # The link has ended meanwhile.
            return
        self._leave(now_ns)
        self._forwarded = ForwardedVehicles(peer)
        self._session.change_options(replace(self._session.options, silence_timeout_ns=PLATFORM_SILENCE_NS))
        self._session.accept_login(now_ns)
        self._router.register_platform(code, self)

    def _forwarded_log_in(
        self, vehicles: ForwardedVehicles, vin: str, login: VehicleLogin | VehicleLogin2025, now_ns: int
    ) -> None:
        now = utc_time(now_ns)

        def admit() -> int | None:
            """The number of the vehicle's link, 0 if it is not registered, None if it is not the platform's; in the worker."""
            may_send = self._services.ingest.may_send_for(vin, vehicles.peer)
            if not may_send:
                return 0 if may_send is None else None
            return self._admit(vin, login, vin in vehicles.link_ids, now)

        self._submit(
            admit,
            partial(self._forwarded_decided, vehicles, vin, login),
            now_ns,
            failed=partial(self._refuse_login, vin, login, RefusalCause.LOGIN_UNAVAILABLE, ReplyFlag.ERROR),
        )

    def _forwarded_decided(
        self,
        vehicles: ForwardedVehicles,
        vin: str,
        login: VehicleLogin | VehicleLogin2025,
        link_id: int | None,
        now_ns: int,
    ) -> None:
        if not link_id:
            cause = RefusalCause.PLATFORM_FOREIGN_VIN if link_id is None else RefusalCause.LOGIN_UNKNOWN_VIN
            self._refuse_login(vin, login, cause, ReplyFlag.VIN_UNKNOWN, now_ns)
            return
        vehicles.allowed.add(vin)
        vehicles.link_ids[vin] = link_id
        if self._session.state is not PlatformState.DECIDING:
            # The link has ended meanwhile.
            self._leave_forwarded([vin], now_ns)
            return
        self._session.accept_login(now_ns)
        handle = self._router_links[vin] = ForwardedVehicle(
            vin, vehicles, self.address, wake=self.wake, close=self.close
        )
        self._router.register(vin, handle)

    def _report_unknown(self, vehicles: ForwardedVehicles, event: ReportReceived, now_ns: int) -> None:
        """A report, often a backfill, of a vehicle that has not logged in on this link: its registration says whose it is."""
        vin, must_ask = event.vin, vehicles.wait(event)
        if must_ask is None:
            self._services.counters.add("forwarded_report_refused")
            self._session.answer_report(event, now_ns, flag=ReplyFlag.ERROR)
        elif must_ask:
            self._submit(
                partial(self._services.ingest.may_send_for, vin, vehicles.peer),
                partial(self._report_decided, vehicles, vin),
                now_ns,
                failed=partial(self._refuse_reports, vehicles, vin, None),
            )

    def _report_decided(self, vehicles: ForwardedVehicles, vin: str, may_send: bool | None, now_ns: int) -> None:
        if not may_send:
            cause = RefusalCause.LOGIN_UNKNOWN_VIN if may_send is None else RefusalCause.PLATFORM_FOREIGN_VIN
            self._refuse_reports(vehicles, vin, cause, now_ns)
            return
        vehicles.allowed.add(vin)
        for event in vehicles.waiting.pop(vin):
            self._report(event, now_ns)

    def _refuse_reports(self, vehicles: ForwardedVehicles, vin: str, cause: RefusalCause | None, now_ns: int) -> None:
        """Answer that they are wrong; without *cause* only because that could not be found out."""
        for event in vehicles.waiting.pop(vin):
            self._session.answer_report(event, now_ns, flag=ReplyFlag.ERROR)
            if cause is not None:
                self._refusals.record(cause, vin=vin, head=event.frame, answered=event.reply_flag, now=utc_time(now_ns))

    def _forget_taken_over(self) -> None:
        if self._forwarded is not None:
            while self._forwarded.taken_over:
                handle = self._forwarded.taken_over.popleft()
                # Unless the vehicle has logged in here again meanwhile.
                if self._router_links.get(handle.vin) is handle:
                    del self._router_links[handle.vin]
                    self._forwarded.link_ids.pop(handle.vin, None)

    def _end_if_followed(self, now_ns: int) -> None:
        if self._is_followed and self._forwarded is not None and not self._forwarded.link_ids:
            self._is_followed = False
            self._session.supersede(now_ns)
            self._take_events(now_ns)

    def _leave_forwarded(self, vins: Iterable[str], now_ns: int) -> None:
        vehicles = self._forwarded
        for vin in vins:
            link_id = 0 if vehicles is None else vehicles.link_ids.pop(vin, 0)
            handle = self._router_links.pop(vin, None)
            if handle is not None:
                self._router.unregister(vin, handle)
            if link_id:
                lost = partial(self._services.ingest.link_lost, vin, utc_time(now_ns), link_id=link_id)
                self._submit(lost, None, now_ns)

    def _leave(self, now_ns: int) -> None:
        if self._forwarded is not None:
            self._router.unregister_platform(self._forwarded.peer.code, self)
            self._leave_forwarded(list(self._forwarded.link_ids), now_ns)
            self._forwarded = None
            self._is_followed = False
        vin, self.vin = self.vin, ""
        if vin and self._router.unregister(vin, self):
            lost = partial(self._services.ingest.link_lost, vin, utc_time(now_ns), link_id=self._link_id)
            self._submit(lost, None, now_ns)


def _stored_frame(event: ReportReceived, now_ns: int) -> StoredFrame:
    return StoredFrame(
        vin=event.vin,
        frame=event.frame,
        clear=event.clear,
        reported_at_s=event.reported_at_s,
        arrived_at_ns=now_ns,
        is_backfill=event.is_backfill,
        fault="" if event.fault is None else str(event.fault),
        is_time_plausible=is_plausible_time(event.reported_at_s, now_ns),
        is_check_right=True,
    )


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
