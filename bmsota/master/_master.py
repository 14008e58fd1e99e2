"""A master BMS: it measures its pack, reports to the platform, and upgrades itself and its slaves.

Sans-IO. It is made at each power-on, after `BootStore.boot()`, and thrown away whole when the power goes; what outlives it
lies in the flashes. Bytes of the cloud link, HTTP answers, CAN frames and time go in. Out come CAN frames (`frames_to_send`)
and events (`next_event`), in order; these want something done:

    ConnectRequested     open the cloud link, then call `connected`, or `disconnected` if that failed
    SendData             send on the cloud link
    CloseRequested       close the cloud link
    StartHttp, AbortHttp begin an exchange with the device API, or drop it
    Reset                restart: make a new master after the next boot
    UpgradeModeChanged   show it to the driver; while the pack must rest, let the vehicle neither drive nor charge

After each call, take events until there are none, then send frames, then look at `next_timeout` again. Handling events may
write flash: if the driver of the flash raises (a power cut), the object is worthless.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from bmsota.errors import LocalProtocolError
from bmsota.flashing import NodesDiscovered, OperationFinished
from bmsota.gbt32960 import (
    CloseRequested,
    CommandReceived,
    Control,
    Edition,
    FaultChange,
    FaultState,
    LoggedIn,
    RemoteUpgrade,
    TerminalOptions,
    TerminalSession,
    TerminalState,
    beijing_time,
)
from bmsota.master._alarms import AlarmLimits
from bmsota.master._cloud import CloudReporter
from bmsota.master._events import (
    CommandUnsupported,
    InstructionReceived,
    ReportAcknowledged,
    ReportRefused,
    SelfTestEnded,
    SendData,
    SlaveChanged,
    UpgradeModeChanged,
)
from bmsota.master._interlock import Interlock
from bmsota.master._internal_bus import MeasurementTable
from bmsota.master._readings import PackValues
from bmsota.master._reporting import report_bodies
from bmsota.master._self_test import SelfTest
from bmsota.master._slave_rescue import SlaveRescue
from bmsota.master._slaves import SlaveOperations
from bmsota.master._surveillance import Surveillance
from bmsota.ota import (
    AbortHttp,
    DeviceTrust,
    DownloadOptions,
    ImageStore,
    LogNote,
    PowerConditions,
    PowerLimits,
    Reset,
    RunSelfTest,
    SendReport,
    StartHttp,
    TellState,
    TrustState,
    Updater,
    load_trust_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from bmsota.boot import BootResult, BootStore, Flash
    from bmsota.canframe import CanFrame
    from bmsota.flashing import EngineEvent, FlashingProfile
    from bmsota.gbt32960 import Body, TerminalEvent
    from bmsota.image import HardwareClass, ImageVersion, PublicKey
    from bmsota.master._events import MasterEvent
    from bmsota.master._internal_bus import PackLayout
    from bmsota.master._readings import MasterReadings
    from bmsota.node import TargetIdentity
    from bmsota.ota import Action, UpdaterState
    from bmsota.signals import Database


MS = 1_000_000
SECOND = 1_000_000_000

# A slave that missed this many rounds is silent, and its values are no longer shown.
SILENT_ROUNDS = 3
# The most that one report carries (docs/protocol.md, body 0xB2).
FAULT_CHANGES_MAX = 255

_LOGGING_OUT = frozenset({TerminalState.LOGGING_OUT, TerminalState.LEAVING, TerminalState.ENDED})


@dataclass(frozen=True, slots=True)
class UnitKeys:
    """The public keys a master and its slaves trust, burnt in at production."""

    image_keys: tuple[PublicKey, ...]
    manifest_keys: tuple[Ed25519PublicKey, ...]
    order_keys: tuple[Ed25519PublicKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterConfiguration:
    """What a master knows of itself and its pack, from production on."""

    vin: str
    iccid: str
    identity: TargetIdentity
    """Hardware id, serial number and hardware class of the master; its position is 0."""
    device_key: Ed25519PrivateKey
    """Signs session proofs and post-boot reports."""
    keys: UnitKeys
    layout: PackLayout
    slave_class: HardwareClass
    database: Database
    """The internal bus's: `dbc/bms_internal.dbc`, or one with the same messages."""
    profile: FlashingProfile
    """How the slaves are flashed: `BootloaderProfile`, `UdsProfile`."""
    unprotected: Database | None = None
    """The messages of slaves from before message protection (`dbc/bms_internal_unprotected.dbc`). Such a slave is then measured,
    and told as a fault (`SlaveFault.UNPROTECTED`). None: its frames are not understood, and its cells are invalid."""
    measure_period_ns: int = SECOND
    """How often each slave sends. One that misses three rounds is silent, and what it measured is no longer reported."""
    has_pack_sensor: bool = False
    """Reports and alarms show current and state of charge as the sensor in the main line sends them (`PackSensor` of *database*), and nothing
    if it is silent. Whether the pack is at rest stays a question to `read`. False: all of them by `read`."""
    slave_boot_ns: int = 200 * MS
    """How long the slaves take to boot, counted from the master's own boot: they are not asked earlier."""
    origins: tuple[str, ...] = ()
    """Where this unit's platform may be without TLS, as "http://host:port"; an https URL is always followed."""
    download: DownloadOptions = field(default_factory=DownloadOptions)
    """Limits of the exchanges with the device API, and where its redirects may lead. The jitter is drawn from the seed."""
    seed: str = ""
    """Spreads the waits of a fleet: units with different seeds do not come back as one. Empty: the HWID does it."""
    alarm_limits: AlarmLimits = field(default_factory=AlarmLimits)
    power_limits: PowerLimits = field(default_factory=PowerLimits)
    """When the pack is at rest, as an upgrade needs it."""
    terminal: TerminalOptions = field(default_factory=TerminalOptions)
    shape: Callable[[tuple[Body, ...]], tuple[Body, ...]] | None = None
    """What becomes of the bodies of each report before it is sent: another order, further bodies. None: they go as they are."""


class Master:
    """One master from one power-on to the next."""

    def __init__(
        self,
        configuration: MasterConfiguration,
        *,
        store: BootStore,
        boot: BootResult,
        image_flash: Flash,
        read: Callable[[], MasterReadings],
        now_ns: int,
        check: Callable[[ImageVersion], str] = lambda _version: "",
        last_login: tuple[int, int] | None = None,
    ) -> None:
        """Begin a life: log in as soon as there is a link, ask the slaves who they are, go on with an open order.

        Args:
            configuration: what it knows of itself.
            store: slots and journal of its own flash, booted.
            boot: what that boot found.
            image_flash: where downloaded images are kept until they are switched to.
            read: what it measures itself and hears of the vehicle, at this moment.
            now_ns: the time, nanoseconds since the Unix epoch. It never goes back.
            check: a product's own self-test of a new image: why it fails, or an empty string.
            last_login: serial and time of the last login (`LoggedIn`), of an earlier life; serials rise all day.

        Raises:
            LocalProtocolError: no image runs, so there is no application to be.
            ConfigurationError: one of the configured origins is none.
        """
        if boot.facts is None:
            raise LocalProtocolError("master: no image runs; only the bootloader can")
        version = boot.facts.version
        self._configuration = configuration
        self._store = store
        self._boot = boot
        self._read = read
        self._now_ns = now_ns
        self._events: deque[MasterEvent] = deque()
        self._begin_ns: int | None = now_ns + configuration.slave_boot_ns
        self._is_shutting_down = False
        self._has_reset = False
        self._turn = 0
        self._mode = UpgradeModeChanged(in_upgrade_mode=False, must_rest=False)
        trust_state, trust_problem = load_trust_state(store)
        problems = (store.journal_problem, store.worn, trust_problem)
        self._events += [LogNote(problem) for problem in problems if problem]
        trust = _trust(configuration, trust_state)
        layout = configuration.layout
        self._updater = Updater(
            hwid=configuration.identity.hwid,
            vin=configuration.vin,
            slave_positions=tuple(layout.positions),
            device_key=configuration.device_key,
            trust=trust,
            store=store,
            image_store=ImageStore(image_flash),
            master_version=lambda: (version, store.security_counter),
            options=_download_options(configuration),
            origins=configuration.origins,
            limits=configuration.power_limits,
        )
        serial, login_ns = last_login or (0, None)
        self._session = TerminalSession(
            vin=configuration.vin,
            iccid=configuration.iccid,
            # One pack is one subsystem, and its code is not told (table 6: n is 1, m is 0).
            subsystem_count=1 if configuration.terminal.edition is Edition.GBT2016 else None,
            options=configuration.terminal,
            last_serial=serial,
            last_login_ns=login_ns,
        )
        self._measured = MeasurementTable(
            configuration.database,
            layout,
            unprotected=configuration.unprotected,
            silent_after_ns=SILENT_ROUNDS * configuration.measure_period_ns,
            has_pack_sensor=configuration.has_pack_sensor,
        )
        self._latched: tuple[PackValues, MasterReadings] | None = None
        """What the reports show, if it was latched."""
        self._fault_changes: deque[FaultChange] = deque(maxlen=FAULT_CHANGES_MAX)
        self._surveillance = Surveillance(
            configuration.alarm_limits,
            self._measured,
            edition=configuration.terminal.edition,
            period_ns=configuration.measure_period_ns,
            silent_after_ns=SILENT_ROUNDS * configuration.measure_period_ns,
        )
        self._slaves = SlaveOperations(configuration.profile, layout.positions, self._updater)
        self._rescue = SlaveRescue(
            image_flash,
            image_keys=configuration.keys.image_keys,
            slave_class=configuration.slave_class,
            master_version=version,
            pack_watch=self._updater.pack_watch,
            security_counter=lambda position: trust.state.security_counter(position),  # noqa: PLW0108 - of the state at that time
        )
        self._interlock = Interlock(self._updater, store, has_open_order=trust.state.order_is_open)
        self._cloud = CloudReporter(
            self._session,
            identity=configuration.identity,
            store=store,
            boot=boot,
            device_key=configuration.device_key,
            emit=self._told,
            pack_watch=self._updater.pack_watch,
            slave_positions=layout.positions,
            order_sequence=lambda: trust.state.sequence,
        )
        self._self_test = SelfTest(
            self._measured,
            look_period_ns=configuration.measure_period_ns // 2,
            check=lambda: check(version),
        )

    def _told(self, event: MasterEvent) -> None:
        """What the part that speaks to the platform has to say."""
        self._events.append(event)
        if isinstance(event, ReportAcknowledged):
            self._updater.report_acknowledged(event.document, self._now_ns)
        if isinstance(event, ReportRefused):
            self._updater.report_refused(event.document, self._now_ns)

    # -- what others ask -------------------------------------------------------------------------------------------------

    @property
    def upgrade_state(self) -> UpdaterState:
        """What the updater is doing."""
        return self._updater.state

    @property
    def is_upgrading(self) -> bool:
        """Whether an order is under way, or a slave is being restored: no flasher may change a node of the pack now."""
        return self._interlock.is_upgrading or self._slaves.is_restoring

    @property
    def mixed_pack(self) -> str:
        """How the nodes run images that do not belong together, as the last discovery found; empty if they do."""
        return self._cloud.mixed_pack

    @property
    def in_upgrade_mode(self) -> bool:
        """Whether an order is accepted and not yet reported: show it. It forbids nothing."""
        return self._updater.in_upgrade_mode or self._may_have_order

    @property
    def must_rest(self) -> bool:
        """Whether the pack must rest, because nodes are flashed, switched, tested or restored: the vehicle must not drive or charge.

        It must in the first moment of a power-on with an order, too: how far that is, is not known yet.
        """
        return self._updater.must_rest or self._may_have_order or self._slaves.is_restoring

    @property
    def _may_have_order(self) -> bool:
        """An order was open when the power went, and the updater has not looked yet."""
        return self._begin_ns is not None and self._interlock.is_upgrading

    @property
    def link_state(self) -> TerminalState:
        """Where the cloud link stands."""
        return self._session.state

    @property
    def slave_versions(self) -> tuple[str, ...]:
        """What the slaves run, by position, as the last discovery found."""
        return tuple(str(node.version) for node in self._slaves.slaves)

    @property
    def pack_values(self) -> PackValues:
        """What the slaves measured, as far as it is known."""
        return PackValues(tuple(self._measured.cell_voltages_v), tuple(self._measured.temperatures_c))

    @property
    def pack_sensor(self) -> tuple[float | None, float | None]:
        """Current in A and state of charge in % as their sensor says, as far as they are known."""
        current_a, soc_pct = self._measured.pack_sensor
        return current_a, soc_pct

    @property
    def security_counter(self) -> int:
        """The master's: images with a lower one are refused."""
        return self._store.security_counter

    # -- the vehicle -----------------------------------------------------------------------------------------------------

    def vehicle_changed(self, now_ns: int) -> None:
        """The vehicle started, stopped, was plugged in or unplugged: read it again."""
        self._now_ns = now_ns
        self._read_conditions(now_ns)

    def _read_conditions(self, now_ns: int) -> None:
        readings = self._read()
        own_faults = self._surveillance.level_of(self.pack_values, readings)
        conditions = PowerConditions(
            ignition_on=readings.ignition_on,
            speed_kmh=readings.speed_kmh,
            is_charging=readings.is_charging,
            soc_pct=readings.soc_pct,
            contactors_closed=readings.contactors_closed,
            current_a=readings.current_a,
            supply_v=readings.supply_v,
            fault_level=max(own_faults, readings.fault_level),
        )
        self._updater.conditions_changed(conditions, now_ns)

    def latch(self, now_ns: int) -> None:
        """Take all values at this moment, when no slave is sending: the reports show them until the next latch.

        So the cells of a report are of one round of measurements, and its current of the same second. Alarms are judged then too. A
        product that never latches reports what it knows when it reports.
        """
        self._now_ns = now_ns
        self._latched = self._values(now_ns)
        if self._surveillance.look_ns is not None and now_ns >= self._surveillance.look_ns:
            self._look_at_pack(now_ns)

    def _values(self, now_ns: int) -> tuple[PackValues, MasterReadings]:
        self._measured.forget_silent(now_ns - SILENT_ROUNDS * self._configuration.measure_period_ns)
        readings = self._read()
        if self._configuration.has_pack_sensor:
            current_a, soc_pct = (math.nan if value is None else value for value in self._measured.pack_sensor)
            readings = replace(readings, current_a=current_a, soc_pct=soc_pct)
        return self.pack_values, readings

    def send_report(self, now_ns: int) -> bool:
        """Report what was latched, or else what is known now; call it once a report period. False: not while shutting down or being flashed."""
        self._now_ns = now_ns
        if self._is_shutting_down or self._interlock.is_in_bootloader:
            return False
        configuration = self._configuration
        pack, readings = self._latched or self._values(now_ns)
        bodies = report_bodies(
            pack,
            readings,
            alarms=self._surveillance.alarms,
            faults=self._measured.faults.present,
            fault_changes=self._fault_changes,
            edition=configuration.terminal.edition,
        )
        self._fault_changes.clear()
        self._session.send_report(self._shaped(bodies), now_ns)
        self._surveillance.reported(now_ns)
        return True

    def _shaped(self, bodies: tuple[Body, ...]) -> tuple[Body, ...]:
        shape = self._configuration.shape
        return bodies if shape is None else shape(bodies)

    def _look_at_pack(self, now_ns: int) -> None:
        """Judge the alarms. Around one of level 3 each second is reported, the seconds before it as backfill (B.3.5.2)."""
        configuration, surveillance = self._configuration, self._surveillance
        pack, readings = self._latched or self._values(now_ns)
        is_disturbed = (
            self.must_rest
            or self._interlock.is_flasher_at_work(now_ns)
            or self._interlock.is_in_bootloader
            or self._is_shutting_down
        )
        surveillance.look(pack, readings, now_ns, is_disturbed=is_disturbed)
        if self._measured.faults.changes:
            self._tell_faults()
        if is_disturbed:
            return
        for seen in surveillance.take_earlier():
            bodies = report_bodies(
                seen.pack, seen.readings, alarms=seen.alarms, faults=seen.faults, edition=configuration.terminal.edition
            )
            self._session.store_report(self._shaped(bodies), seen.at_ns, now_ns)
        if surveillance.wants_report(now_ns):
            self.send_report(now_ns)

    def shut_down(self, now_ns: int) -> None:
        """The ignition is off: log out and stay logged out (`LoggedOut`). The supply may go at any moment."""
        self._now_ns = now_ns
        self._is_shutting_down = True
        self._log_out(now_ns)

    def _log_out(self, now_ns: int) -> None:
        if self._session.state not in _LOGGING_OUT:
            self._session.logout(now_ns)

    # -- the cloud link --------------------------------------------------------------------------------------------------

    def connected(self, now_ns: int) -> None:
        """The cloud link is there."""
        self._now_ns = now_ns
        self._session.connected(now_ns)

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """The cloud link has brought these bytes."""
        self._now_ns = now_ns
        self._session.receive_data(data, now_ns)

    def disconnected(self, now_ns: int) -> None:
        """The cloud link is gone, or could not be opened."""
        self._now_ns = now_ns
        self._session.disconnected(now_ns)

    # -- the device API --------------------------------------------------------------------------------------------------

    def http_head(self, status: int, headers: Mapping[str, str], now_ns: int) -> None:
        """The exchange that `StartHttp` began has brought the answer's status and headers."""
        self._now_ns = now_ns
        self._updater.http_head(status, headers, now_ns)

    def http_body(self, data: bytes, now_ns: int) -> None:
        """It has brought some of the answer's body."""
        self._now_ns = now_ns
        self._updater.http_body(data, now_ns)

    def http_ended(self, error: str | None, now_ns: int) -> None:
        """It is over; *error* says why, if before its end."""
        self._now_ns = now_ns
        self._updater.http_ended(error, now_ns)

    # -- the buses -------------------------------------------------------------------------------------------------------

    def receive_frame(self, frame: CanFrame, now_ns: int) -> bool:
        """A frame was on the internal bus. False: there is nothing new to do, as after most measurements."""
        self._now_ns = now_ns
        if self._measured.receive(frame, now_ns):
            is_told = bool(self._measured.faults.changes) and self._tell_faults()
            return self._look_for_change() or is_told
        self._slaves.engine.receive_frame(frame, now_ns)
        return True

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the internal bus now. Ask again when the bus has taken it: a transfer has more."""
        self._now_ns = now_ns
        return self._slaves.engine.frames_to_send(now_ns)

    def flasher_heard(self, now_ns: int) -> None:
        """A flasher has sent a request on one of the master's buses: leave it the bus for a while."""
        self._now_ns = now_ns
        self._interlock.flasher_heard(now_ns)

    def bootloader_entered(self, now_ns: int) -> None:
        """A flasher has the master in its bootloader: log out, and leave the slaves alone."""
        self._now_ns = now_ns
        self._interlock.bootloader_entered()
        self._slaves.cancel()
        self._log_out(now_ns)

    def bootloader_left(self, now_ns: int) -> None:
        """The flasher has gone without a restart: log in again."""
        self._now_ns = now_ns
        self._interlock.bootloader_left()

    def _tell_faults(self) -> bool:
        """Faults of slaves that have come or gone: an event now, and a line of the next report."""
        changes = self._measured.faults.changes
        while changes:
            change = changes.popleft()
            self._events.append(change)
            state = FaultState.ONSET if change.is_present else FaultState.CLEARED
            self._fault_changes.append(
                FaultChange(
                    time=beijing_time(change.at_ns),
                    position=change.position,
                    code=change.fault.code(change.position),
                    state=state,
                    level=change.fault.level,
                    detail=change.detail,
                )
            )
        return True

    def _look_for_change(self) -> bool:
        """Ask all nodes again when a slave's identity pages differ: it was replaced, or flashed."""
        change = None if self._slaves.wants_discovery else self._slaves.find_change(self._measured)
        if change is None:
            return False
        self._events.append(SlaveChanged(*change))
        self._slaves.wants_discovery = True
        self._measured.hwids.clear()
        self._measured.versions.clear()
        return True

    # -- time ------------------------------------------------------------------------------------------------------------

    def next_timeout(self, *, bus_is_busy: bool = False) -> int | None:
        """When `handle_timeout` wants to be called; 0 is at once.

        *bus_is_busy*: the bus has not taken all of `frames_to_send` yet. Call again when it has.
        """
        sources = (
            self._session.next_timeout(),
            self._updater.next_timeout(),
            None if bus_is_busy else self._slaves.engine.next_timeout(),
            self._self_test.next_timeout(),
            self._interlock.next_timeout(),
            self._rescue.look_ns,
            self._begin_ns,
            self._surveillance.look_ns if self._latched is None else None,
        )
        return min((source for source in sources if source is not None), default=None)

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due."""
        self._now_ns = now_ns
        if self._begin_ns is not None and now_ns >= self._begin_ns:
            self._begin(now_ns)
        self._session.handle_timeout(now_ns)
        look_ns = self._updater.conditions_due_ns
        if look_ns is not None and now_ns >= look_ns:
            self._read_conditions(now_ns)
        self._updater.handle_timeout(now_ns)
        self._slaves.engine.handle_timeout(now_ns)
        failure = self._self_test.look(now_ns)
        if failure is not None:
            self._events.append(SelfTestEnded(failure))
            self._updater.self_tested(passed=not failure, reason=failure, now_ns=now_ns)
        if self._interlock.handle_timeout(now_ns):
            self._slaves.wants_discovery = True
        if self._rescue.look_ns is not None and now_ns >= self._rescue.look_ns:
            self._look_after_slaves(now_ns)
        is_due = self._surveillance.look_ns is not None and now_ns >= self._surveillance.look_ns
        if is_due and self._latched is None:
            self._look_at_pack(now_ns)

    def _look_after_slaves(self, now_ns: int) -> None:
        """A slave has no image: give it one, if nobody else is at work and the pack rests."""
        self._rescue.postpone(now_ns)
        is_busy = self.is_upgrading or self._interlock.is_flasher_at_work(now_ns) or not self._slaves.is_free
        if is_busy or self._is_shutting_down:
            return
        self._read_conditions(now_ns)
        if not self._updater.refusals:
            job = self._rescue.next_job()
            if job is not None:
                self._slaves.restore(job, self._rescue.restored)
            self._note_rescue()

    def _note_rescue(self) -> None:
        self._events += [LogNote(note) for note in self._rescue.notes]
        self._rescue.notes.clear()

    def _begin(self, now_ns: int) -> None:
        """The slaves have booted too: let the updater go on, and find out who is there."""
        self._begin_ns = None
        self._updater.power_on(self._boot, now_ns)
        self._interlock.begin()
        self.vehicle_changed(now_ns)
        self._slaves.wants_discovery = True
        self._surveillance.begin(now_ns)

    # -- events ----------------------------------------------------------------------------------------------------------

    def next_event(self) -> MasterEvent | None:
        """What happened, or what to do next; oldest first. None: nothing for now."""
        while not self._events and not self._has_reset and self._advance():
            pass
        mode = UpgradeModeChanged(self.in_upgrade_mode, self.must_rest)
        if mode != self._mode:
            self._mode = mode
            self._events.append(mode)
        return self._events.popleft() if self._events else None

    def _advance(self) -> bool:
        """Let one part do one step: each in its turn, until it has nothing more. False: none of them has."""
        parts = (self._cloud_step, self._updater_step, self._bus_step, self._send_step, self._operation_step)
        for _ in range(len(parts) + 1):
            if parts[self._turn](self._now_ns):
                return True
            self._turn = (self._turn + 1) % len(parts)
        self._turn = 0
        return False

    def _cloud_step(self, now_ns: int) -> bool:
        event = self._session.next_event()
        if event is not None:
            self._events.append(event)
            self._session_event(event, now_ns)
        return event is not None

    def _updater_step(self, now_ns: int) -> bool:
        action = self._updater.next_action()
        if action is not None:
            self._act(action, now_ns)
        return action is not None

    def _bus_step(self, now_ns: int) -> bool:
        event = self._slaves.engine.next_event()
        if event is not None:
            self._events.append(event)
            self._engine_event(event, now_ns)
        return event is not None

    def _send_step(self, now_ns: int) -> bool:
        session = self._session
        data = session.data_to_send()
        if data:
            self._events.append(SendData(data))
        elif session.state is TerminalState.ENDED and not self._stays_logged_out:
            session.restart(now_ns)
        else:
            return False
        return True

    def _operation_step(self, now_ns: int) -> bool:
        may_discover = not self._interlock.is_flasher_at_work(now_ns)
        return not self._interlock.is_in_bootloader and self._slaves.begin_next(may_discover=may_discover)

    @property
    def _stays_logged_out(self) -> bool:
        return self._is_shutting_down or self._interlock.is_in_bootloader

    def _session_event(self, event: TerminalEvent, now_ns: int) -> None:
        match event:
            case LoggedIn():
                if self._slaves.nodes:
                    self._cloud.send_identity(self._slaves.slaves, now_ns)
                self._updater.logged_in(now_ns)
                # The first discovery of a power-on comes by itself, and not before the updater knows its order.
                if self._slaves.nodes and self._cloud.awaits_confirmation:
                    self._slaves.wants_discovery = True
            case CommandReceived(frame):
                self._command(frame.message, now_ns)
                self._session.reply_to(frame, now_ns)
            case CloseRequested():
                self._session.disconnected(now_ns)
            case _:
                pass
        # The updater knows its order before the first discovery.
        scope = self._updater.scope if self._slaves.nodes else None
        self._cloud.session_event(event, now_ns, order=scope)

    def _command(self, message: object, now_ns: int) -> None:
        match message:
            case Control(_, _, RemoteUpgrade() as upgrade):
                parts = urlsplit(upgrade.url)
                base_url = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
                is_followed = self._interlock.instructed(base_url, now_ns)
                self._events.append(InstructionReceived(upgrade.url, is_postponed=not is_followed))
            case _:
                self._events.append(CommandUnsupported(type(message).__name__))

    def _act(self, action: Action, now_ns: int) -> None:
        match action:
            case TellState():
                self._events.append(action)
                self._cloud.send_state(action, now_ns)
            case SendReport(document):
                self._events.append(action)
                self._cloud.send_report(document, now_ns)
            case StartHttp() | AbortHttp() | LogNote():
                self._events.append(action)
            case Reset():
                self._has_reset = True
                self._events.append(action)
            case RunSelfTest():
                self._self_test.begin(now_ns)
            case _:
                self._slaves.request(action)

    def _engine_event(self, event: EngineEvent, now_ns: int) -> None:
        if self._updater.must_rest and isinstance(event, NodesDiscovered | OperationFinished):
            # The answer may lead to the next step, and each is judged by what the vehicle does now.
            self._read_conditions(now_ns)
        before = [(node.position, node.hwid, node.version) for node in self._slaves.nodes]
        self._slaves.handle(event, now_ns)
        self._note_rescue()
        if isinstance(event, NodesDiscovered):
            self._rescue.nodes_discovered(self._slaves.slaves, now_ns)
            for refused in event.refused:
                self._events.append(LogNote(f"slave {refused.position} is not counted: {refused.detail}"))
            if event.nodes and [(node.position, node.hwid, node.version) for node in event.nodes] != before:
                self._cloud.send_identity(self._slaves.slaves, now_ns)
            # After the updater: when this discovery has decided its order, what the nodes run is the order's work.
            self._cloud.nodes_discovered(self._slaves.slaves, self._updater.scope, now_ns)


def _download_options(configuration: MasterConfiguration) -> DownloadOptions:
    """The configured ones, with a jitter that is this unit's own and always the same."""
    seed = configuration.seed or configuration.identity.hwid
    jitter = int.from_bytes(hashlib.sha256(f"{seed}/jitter".encode()).digest()[:4], "big") / 2**32
    return replace(configuration.download, retry_jitter=jitter)


def _trust(configuration: MasterConfiguration, state: TrustState) -> DeviceTrust:
    """What the master trusts: its keys, and how far its trust has moved."""
    master_class, slave_class = configuration.identity.hardware_class, configuration.slave_class
    return DeviceTrust(
        vin=configuration.vin,
        hwid=configuration.identity.hwid,
        hardware_classes={0: master_class, **dict.fromkeys(configuration.layout.positions, slave_class)},
        image_keys=configuration.keys.image_keys,
        manifest_keys=configuration.keys.manifest_keys,
        order_keys=configuration.keys.order_keys,
        state=state,
    )
