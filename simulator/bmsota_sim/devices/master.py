"""A master BMS: reads its slaves, reports to the platform, and upgrades the pack.

It is wiring: the cores of the library decide (`TerminalSession`, `Updater`, `FlashingEngine`, `BootStore`), this file hands
them frames, bytes and time, and carries out what they ask for. Everything but the flashes is gone when the power goes.

It is a node too (position 0): a flasher on a bus can flash it like a slave, and on a diagnosis bus, through its gateway, the
slaves. One of the two upgrades at a time: while the updater has an order the bootloader refuses and the gateway is closed;
while a flasher is at work an instruction waits (`FIELD_QUIET_NS`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from bmsota.boot import SlotState
from bmsota.flashing import (
    BootloaderProfile,
    FlashingEngine,
    FlashJob,
    NodesDiscovered,
    OperationFinished,
    TransferBroken,
    TransferProgressed,
)
from bmsota.gbt32960 import (
    CloseRequested,
    Command,
    CommandReceived,
    ConnectRequested,
    Control,
    LoggedIn,
    LoggedOut,
    LoginFailed,
    NodeIdentity,
    NodeRole,
    NodeState,
    RemoteUpgrade,
    ReplyFlag,
    ReplyReceived,
    SignedReport,
    TerminalOptions,
    TerminalSession,
    TerminalState,
    UnitIdentity,
    UpgradeState,
    UpgradeStateCode,
    beijing_time,
)
from bmsota.image import ImageRole
from bmsota.node import POSITION_MAX, NodeMode, TargetIdentity
from bmsota.ota import (
    AbortHttp,
    ActivateSlaves,
    ConfirmSlaves,
    DeviceTrust,
    DiscoverNodes,
    FlashSlaves,
    ImageStore,
    LogNote,
    NodeOutcome,
    NodeReport,
    PowerConditions,
    RaiseCounters,
    Reset,
    RevertSlaves,
    RunSelfTest,
    SendReport,
    Stage,
    StartHttp,
    TellState,
    Updater,
    UpdaterState,
    load_trust_state,
)
from bmsota_sim.devices.bootloader_node import BootloaderNode, data_keys, reply_keys, request_keys
from bmsota_sim.devices.field_upgrades import FieldUpgradeReporter
from bmsota_sim.devices.flash import FlashModel, PowerCut
from bmsota_sim.devices.gateway import Gateway
from bmsota_sim.devices.internal_bus import MeasurementTable
from bmsota_sim.devices.reporting import PackValues, report_bodies
from bmsota_sim.kernel import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from bmsota.boot import BootResult, BootStore
    from bmsota.bootloader import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.flashing import NodeResult
    from bmsota.image import HardwareClass, ImageVersion, PublicKey
    from bmsota.node import NodeDescription
    from bmsota.ota import Action
    from bmsota.signals import Database
    from bmsota_sim.devices.vehicle import VirtualVehicle
    from bmsota_sim.identity import VirtualUnitIdentity
    from bmsota_sim.kernel import Kernel, Timer
    from bmsota_sim.links.canbus import CanBus, Port
    from bmsota_sim.links.uplink import Modem
    from bmsota_sim.profiles import SeriesProfile
    from bmsota_sim.trace import Trace

__all__ = ["Master", "MasterHooks", "UnitKeys"]

# Two slots of 64 KiB and two journal areas; the external flash holds a master's and a slave's image.
FLASH_SIZE_BYTES = 192 * 1024
JOURNAL_SIZE_BYTES = 16 * 1024
SHELF_SIZE_BYTES = 128 * 1024
SHELF_ERASE_BLOCK_BYTES = 4096

BOOT_TIME_NS = 300 * MS
# After power-on the slaves need their own boot time before they answer.
FIRST_DISCOVERY_NS = 200 * MS
# A slave that missed this many rounds is silent, and its values are no longer shown.
SILENT_ROUNDS = 3
# The self-test waits for fresh values of every slave; a pack that is not whole by then has failed.
SELF_TEST_LIMIT_NS = 10 * SECOND
# What an upgrade-state frame can carry of a reason.
REASON_SIZE_BYTES_MAX = 255
# After the ignition is off the unit logs out and then loses its supply, answer or not.
SHUTDOWN_LIMIT_NS = SECOND
# A flasher that has said nothing for so long has gone: the longest pause in its work is a node's restart.
FIELD_QUIET_NS = 10 * SECOND


@dataclass(frozen=True, slots=True)
class UnitKeys:
    """Whom a unit believes, burnt in at production."""

    image_keys: tuple[PublicKey, ...]
    manifest_keys: tuple[Ed25519PublicKey, ...]
    order_keys: tuple[Ed25519PublicKey, ...]


@dataclass(slots=True)
class MasterHooks:
    """What the surroundings of a master want to know, or make happen."""

    download_complete: Callable[[], None] = lambda: None
    upgrade_over: Callable[[], None] = lambda: None
    self_test_failure: Callable[[ImageVersion], str] = lambda _version: ""
    """A reason why this version does not pass its self-test on this unit; empty when it does."""
    current_a: Callable[[], float] = lambda: 0.0
    soc_pct: Callable[[], float] = lambda: 50.0


# Enough for the story of one upgrade.
REMARKS_MAX = 50

_ON_TRIAL = frozenset({SlotState.TEST_REQUESTED, SlotState.TEST})


@dataclass(slots=True)
class MasterFigures:
    """Counted over all power cycles."""

    reports: int = 0
    stream_bytes_sent: int = 0
    stream_bytes_received: int = 0
    logins: int = 0
    transfers_broken: int = 0
    remarks: deque[str] = field(default_factory=lambda: deque(maxlen=REMARKS_MAX))
    """The newest of what the updater had to say."""


class Master:
    """One master, its flashes, and what runs on it while it has power."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        bus: CanBus,
        wire: BootloaderWire,
        database: Database,
        modem: Modem,
        vehicle: VirtualVehicle,
        trace: Trace,
        identity: VirtualUnitIdentity,
        profile: SeriesProfile,
        keys: UnitKeys,
        master_class: HardwareClass,
        slave_class: HardwareClass,
        factory_image: bytes,
        report_period_ns: int,
        heartbeat_period_ns: int,
        measure_period_ns: int,
        hooks: MasterHooks,
        diagnosis_bus: CanBus | None = None,
    ) -> None:
        self._kernel = kernel
        self._wire = wire
        self._database = database
        self._modem = modem
        self._vehicle = vehicle
        self._trace = trace
        self._identity = identity
        self._profile = profile
        self._keys = keys
        self._master_class = master_class
        self._slave_class = slave_class
        self._report_period_ns = report_period_ns
        self._heartbeat_period_ns = heartbeat_period_ns
        self._measure_period_ns = measure_period_ns
        self._hooks = hooks
        self.name = identity.name
        self.figures = MasterFigures()
        self._shelf_flash = FlashModel(
            SHELF_SIZE_BYTES, erase_block_bytes=SHELF_ERASE_BLOCK_BYTES, seed=f"{identity.master_hwid}/external"
        )
        self.node = BootloaderNode(
            kernel=kernel,
            wire=wire,
            owner=self,
            identity=TargetIdentity(
                position=0,
                role=ImageRole.MASTER,
                hwid=identity.master_hwid,
                serial=identity.master_hwid,
                hardware_class=master_class,
            ),
            flash=FlashModel(FLASH_SIZE_BYTES, seed=f"{identity.master_hwid}/internal"),
            journal_size_bytes=JOURNAL_SIZE_BYTES,
            image_keys=keys.image_keys,
            boot_time_ns=BOOT_TIME_NS,
            is_locked=lambda: self._is_upgrading,
        )
        self.node.new_store().install_factory(factory_image)
        self._measured = MeasurementTable(database, profile)
        slave_count = profile.slave_count if diagnosis_bus is None else POSITION_MAX
        self._requests = frozenset({wire.request_id})
        self._replies = frozenset(range(wire.reply_id + 1, wire.reply_id + slave_count + 1))
        self._port = bus.attach(self._receive_can, name=f"{self.name}/master", drained=self._can_drained)
        self.node.add_port(self._port, reply_keys(wire, 1, slave_count) | self._measured.accepts)
        self._diagnosis_port: Port | None = None
        self.gateway: Gateway | None = None
        """Between the diagnosis bus and the internal bus; None without the former."""
        if diagnosis_bus is not None:
            port = self._diagnosis_port = diagnosis_bus.attach(
                self._receive_diagnosis, name=f"{self.name}/diagnosis", drained=self.node.drained
            )
            inward = request_keys(wire) | data_keys(wire)
            self.node.add_port(port, inward)
            self.gateway = Gateway(
                inside=self._port,
                outside=port,
                inward=inward,
                outward=reply_keys(wire, 1, POSITION_MAX),
                is_open=lambda: not self._is_upgrading,
            )
        self._login_serial = 0
        self._login_ns: int | None = None
        self._session: TerminalSession | None = None
        self._updater: Updater | None = None
        self._store: BootStore | None = None
        self._field_upgrades: FieldUpgradeReporter | None = None
        self._engine = FlashingEngine(BootloaderProfile(wire))
        self._generation = 0
        self._timer: Timer | None = None
        self._timer_due_ns: int | None = None
        self._report_timer: Timer | None = None
        self._nodes: tuple[NodeDescription, ...] = ()
        self._pending_operation: tuple[Action, ...] = ()
        self._restarting: tuple[int, ...] = ()
        self._revert_results: tuple[NodeResult, ...] = ()
        self._wants_discovery = False
        self._discovery_is_for_updater = False
        self._self_test_since_ns: int | None = None
        self._shutting_down = False
        self._powered_off: Callable[[], None] | None = None
        self._restart_timer: Timer | None = None
        self._in_pump = False
        self._has_order_to_go_on_with = False
        self._flasher_heard_ns: int | None = None
        self._waiting_instruction = ""

    # -- what others ask -------------------------------------------------------------------------------------------------

    @property
    def version(self) -> ImageVersion | None:
        """Version of the running image; None without power."""
        return self.node.version

    @property
    def boot_result(self) -> BootResult | None:
        """What the last boot found; None without power."""
        return self.node.boot_result

    @property
    def measured(self) -> MeasurementTable:
        """What it knows from its slaves."""
        return self._measured

    @property
    def powered(self) -> bool:
        return self.node.is_powered

    @property
    def upgrade_state(self) -> UpdaterState:
        return UpdaterState.IDLE if self._updater is None else self._updater.state

    @property
    def is_logged_in(self) -> bool:
        return self._session is not None and self._session.state is TerminalState.LOGGED_IN

    @property
    def slave_versions(self) -> tuple[str, ...]:
        """As the master last heard them, by position."""
        return tuple(str(node.version) for node in self._nodes if node.position > 0)

    @property
    def _is_upgrading(self) -> bool:
        """Whether the updater has an order, or will go on with one when the slaves have booted."""
        if self._updater is None:
            return False
        return self._updater.state is not UpdaterState.IDLE or self._has_order_to_go_on_with

    # -- power -----------------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """The supply is there: boot after a moment."""
        if self.powered:
            return
        self._shelf_flash.power_on()
        self._generation += 1
        self.node.power_on()

    def power_off(self) -> None:
        """The supply is gone, whatever was going on."""
        self._shutting_down = False
        self._generation += 1
        self.node.power_off()
        self._shelf_flash.power_off()
        self._modem.power_off()
        self._engine.cancel()
        self._session = None
        self._updater = None
        self._field_upgrades = None
        self._store = None
        self._has_order_to_go_on_with = False
        self._flasher_heard_ns = None
        self._waiting_instruction = ""
        self._nodes = ()
        # What the updater of this life has asked for must not be done in the next: it may confirm what was reverted.
        self._pending_operation = ()
        self._restarting = ()
        self._revert_results = ()
        self._wants_discovery = False
        self._discovery_is_for_updater = False
        self._self_test_since_ns = None
        for timer in (self._timer, self._report_timer, self._restart_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._report_timer = self._restart_timer = None
        self._timer_due_ns = None

    def supply_failed(self) -> None:
        """The supply failed inside a flash operation, by a planned accident; it comes back after a moment.

        Unless the ignition is off: then this was the end of the shutdown.
        """
        self._trace.note(self._kernel.now_ns, self.name, "power cut inside a flash operation")
        powered_off, self._powered_off = self._powered_off, None
        self.power_off()
        if powered_off is not None:
            powered_off()
        else:
            self._restart_timer = self._kernel.call_in(self.node.off_ns, self.power_on)

    def shut_down(self, powered_off: Callable[[], None]) -> None:
        """The ignition is off: log out, then the supply goes. *powered_off* is called when it has gone."""
        self._powered_off = powered_off
        self._shutting_down = True
        generation = self._generation

        def off() -> None:
            # A power cut may have been faster, and has said so.
            if self._generation == generation and self._powered_off is not None:
                self._powered_off = None
                self.power_off()
                powered_off()

        if self.is_logged_in:
            assert self._session is not None
            self._session.logout(self._kernel.now_ns)
            self._kernel.call_in(SHUTDOWN_LIMIT_NS, off)
            self._pump()
        else:
            self._kernel.call_soon(off)

    # -- the node (NodeOwner) --------------------------------------------------------------------------------------------

    def booted(self, store: BootStore, result: BootResult) -> None:
        now_ns = self._kernel.now_ns
        self._trace.note(now_ns, self.name, f"master boots {self.version}: {result.reason.name}")
        self._store = store
        if result.facts is None:
            return
        facts = result.facts
        trust_state, trust_problem = load_trust_state(store)
        for problem in filter(None, (store.journal_problem, trust_problem)):
            self._trace.note(now_ns, self.name, problem)
        positions = range(1, self._profile.slave_count + 1)
        trust = DeviceTrust(
            vin=self._identity.vin,
            hwid=self._identity.master_hwid,
            hardware_classes={0: self._master_class, **dict.fromkeys(positions, self._slave_class)},
            image_keys=self._keys.image_keys,
            manifest_keys=self._keys.manifest_keys,
            order_keys=self._keys.order_keys,
            state=trust_state,
        )
        self._has_order_to_go_on_with = trust.state.order_is_open
        self._updater = Updater(
            hwid=self._identity.master_hwid,
            vin=self._identity.vin,
            slave_positions=tuple(positions),
            device_key=self._identity.device_key,
            trust=trust,
            store=store,
            image_store=ImageStore(self._shelf_flash),
            master_version=lambda: (facts.version, store.security_counter),
        )
        self._session = TerminalSession(
            vin=self._identity.vin,
            iccid=self._identity.iccid,
            options=TerminalOptions(heartbeat_period_ns=self._heartbeat_period_ns),
            last_serial=self._login_serial,
            last_login_ns=self._login_ns,
        )
        self._field_upgrades = FieldUpgradeReporter(
            store=store,
            boot=result,
            hwid=self._identity.master_hwid,
            session=self._session,
            note=lambda text: self._trace.note(self._kernel.now_ns, self.name, text),
        )
        self._measured = MeasurementTable(self._database, self._profile)
        self._kernel.call_in(FIRST_DISCOVERY_NS, self._begin_operation, self._generation, result)
        self._report_timer = self._kernel.call_in(self._report_period_ns, self._report)
        self._pump()

    def bootloader_entered(self) -> None:
        """A flasher has the master: it logs out and leaves the slaves alone."""
        self._trace.note(self._kernel.now_ns, self.name, "in its bootloader")
        self._engine.cancel()
        if self._session is not None and not self._shutting_down:
            self._session.logout(self._kernel.now_ns)
            self._pump()

    def bootloader_left(self) -> None:
        """The flasher has gone without a restart: log in again (`_pump_once`)."""
        self._trace.note(self._kernel.now_ns, self.name, "left its bootloader")
        self._pump()

    def restart_requested(self) -> None:
        self._trace.note(self._kernel.now_ns, self.name, "restarts, as asked over CAN")
        self.power_off()
        self.power_on()

    @property
    def _is_in_bootloader(self) -> bool:
        return self.node.state not in {None, NodeMode.APPLICATION}

    def _is_flasher_at_work(self, now_ns: int) -> bool:
        """Whether somebody has spoken the bootloader's language a moment ago, or has the master in its bootloader."""
        heard_ns = self._flasher_heard_ns
        return self._is_in_bootloader or (heard_ns is not None and now_ns - heard_ns < FIELD_QUIET_NS)

    def _is_field_work(self, now_ns: int) -> bool:
        """The same, or what he has left is on trial: no time to begin an upgrade from the cloud."""
        assert self._store is not None
        return not self._is_upgrading and (self._is_flasher_at_work(now_ns) or self._store.is_test_pending)

    def _check_field_work(self, now_ns: int) -> None:
        """When the flasher has gone, see what he has changed, and do what had to wait."""
        if self._flasher_heard_ns is not None and not self._is_flasher_at_work(now_ns):
            self._flasher_heard_ns = None
            self._wants_discovery = True
        if self._waiting_instruction and not self._is_field_work(now_ns):
            url, self._waiting_instruction = self._waiting_instruction, ""
            assert self._updater is not None
            self._updater.instructed(url, now_ns)

    def _begin_operation(self, generation: int, result: BootResult) -> None:
        """The slaves have booted too: let the updater go on, and find out who is there."""
        if generation != self._generation or self._updater is None:
            return
        self._drive(self._updater.power_on, result, self._kernel.now_ns)
        self._has_order_to_go_on_with = False
        self.vehicle_changed()
        if self._updater is not None:
            self._wants_discovery = True
            self._pump()

    # -- the vehicle -----------------------------------------------------------------------------------------------------

    def vehicle_changed(self) -> None:
        """The vehicle started, stopped or was plugged in."""
        if self._updater is None:
            return
        vehicle = self._vehicle
        conditions = PowerConditions(
            ignition_on=vehicle.ignition_on,
            speed_kmh=vehicle.speed_kmh,
            is_charging=vehicle.is_charging,
            soc_pct=self._hooks.soc_pct(),
        )
        self._drive(self._updater.conditions_changed, conditions, self._kernel.now_ns)

    def network_found(self) -> None:
        """The modem is in its network again: do not wait for the next try's time."""
        if self._session is not None and self._session.state is TerminalState.WAITING:
            self._modem.open_stream(self)

    def _report(self) -> None:
        self._report_timer = self._kernel.call_in(self._report_period_ns, self._report)
        session = self._session
        if session is None or self._shutting_down or self._is_in_bootloader:
            return
        now_ns = self._kernel.now_ns
        self._measured.forget_silent(now_ns - SILENT_ROUNDS * self._measure_period_ns)
        pack = PackValues(
            cell_voltages_v=tuple(self._measured.cell_voltages_v),
            temperatures_c=tuple(self._measured.temperatures_c),
            current_a=self._hooks.current_a(),
            soc_pct=self._hooks.soc_pct(),
        )
        bodies = report_bodies(pack, self._vehicle, has_positioning=self._profile.has_positioning)
        session.send_report(bodies, now_ns)
        self.figures.reports += 1
        self._pump()

    # -- the cloud link (StreamListener) -----------------------------------------------------------------------------------

    def stream_opened(self) -> None:
        if self._session is not None:
            self._session.connected(self._kernel.now_ns)
            self._pump()

    def stream_received(self, data: bytes) -> None:
        if self._session is not None:
            self.figures.stream_bytes_received += len(data)
            self._trace.octets(self._kernel.now_ns, f"{self.name}<", data)
            self._session.receive_data(data, self._kernel.now_ns)
            self._pump()

    def stream_closed(self, reason: str) -> None:
        if self._session is not None:
            self._trace.note(self._kernel.now_ns, self.name, f"link closed: {reason}")
            self._session.disconnected(self._kernel.now_ns)
            self._pump()

    # -- the device API (HttpListener) ---------------------------------------------------------------------------------------

    def http_head(self, status: int, headers: Mapping[str, str]) -> None:
        if self._updater is not None:
            self._drive(self._updater.http_head, status, headers, self._kernel.now_ns)

    def http_body(self, data: bytes) -> None:
        if self._updater is not None:
            self._drive(self._updater.http_body, data, self._kernel.now_ns)

    def http_ended(self, error: str | None) -> None:
        if self._updater is not None:
            if error is not None:
                self._trace.note(self._kernel.now_ns, self.name, f"HTTP broken: {error}")
            self._drive(self._updater.http_ended, error, self._kernel.now_ns)

    # -- the internal bus ----------------------------------------------------------------------------------------------------

    def _receive_can(self, frame: CanFrame, now_ns: int) -> None:
        if frame.can_id in self._replies:
            self._engine.receive_frame(frame, now_ns)
            if self.gateway is not None:
                self.gateway.from_inside(frame, now_ns)
            self._pump()
        elif self._measured.receive(frame, now_ns):
            self._look_for_strangers()
        else:
            self._hear_flasher(frame, now_ns, self._port)

    def _receive_diagnosis(self, frame: CanFrame, now_ns: int) -> None:
        assert self.gateway is not None
        assert self._diagnosis_port is not None
        self.gateway.from_outside(frame, now_ns)
        self._hear_flasher(frame, now_ns, self._diagnosis_port)

    def _hear_flasher(self, frame: CanFrame, now_ns: int, port: Port) -> None:
        if frame.can_id in self._requests:
            self._flasher_heard_ns = now_ns
            self._schedule()
        self.node.receive(frame, now_ns, port)

    def _look_for_strangers(self) -> None:
        """Ask all nodes again when a slave's identity pages tell of another one: it was replaced, or flashed."""
        stranger = self._stranger()
        if stranger and not self._wants_discovery:
            self._trace.note(self._kernel.now_ns, self.name, stranger)
            self._wants_discovery = True
            self._measured.hwids.clear()
            self._measured.versions.clear()
            self._pump()

    def _stranger(self) -> str:
        """How a slave differs from what discovery found; empty if none does."""
        known = {node.position: node for node in self._nodes}
        for position, hwid in self._measured.hwids.items():
            if position in known and known[position].hwid != hwid:
                return f"slave {position} is {hwid} now, was {known[position].hwid}"
        if self._updater is not None and self._updater.in_upgrade_mode:
            # The updater restarts slaves into new versions itself, and asks them afterwards.
            return ""
        for position, version in self._measured.versions.items():
            if position in known and known[position].version != version:
                return f"slave {position} runs {version} now, ran {known[position].version}"
        return ""

    def _can_drained(self, now_ns: int) -> None:
        self._send_engine_frames(now_ns)
        self.node.drained(now_ns)
        self._schedule()

    def _send_engine_frames(self, now_ns: int) -> None:
        """The engine has a window of blocks to send: it is asked for more only when the bus has taken what there was."""
        if not self._port.pending:
            for frame in self._engine.frames_to_send(now_ns):
                self._port.send(frame)

    # -- the pump ------------------------------------------------------------------------------------------------------------

    def _drive(self, step: Callable[..., object], *arguments: Any) -> None:
        """Hand something to the cores, then carry out what they ask for. The power may fail in any of it."""
        try:
            step(*arguments)
        except PowerCut:
            self.supply_failed()
            return
        self._pump()

    def _timeout(self) -> None:
        self._timer = None
        self._timer_due_ns = None
        self._drive(self._handle_timeouts, self._kernel.now_ns)

    def _handle_timeouts(self, now_ns: int) -> None:
        if self._session is not None:
            self._session.handle_timeout(now_ns)
        if self._updater is not None:
            self._updater.handle_timeout(now_ns)
        self._engine.handle_timeout(now_ns)
        self._check_self_test(now_ns)
        self._check_field_work(now_ns)

    def _pump(self) -> None:
        """Carry out everything the cores ask for, until they ask for nothing more."""
        if self._in_pump:
            return
        self._in_pump = True
        try:
            while self._session is not None and self._updater is not None and self._pump_once():
                pass
        except PowerCut:
            self.supply_failed()
        finally:
            self._in_pump = False
        self._schedule()

    def _pump_once(self) -> bool:
        session, updater = self._session, self._updater
        assert session is not None
        assert updater is not None
        now_ns = self._kernel.now_ns
        busy = False
        while self._session is session and (event := session.next_event()) is not None:
            busy = True
            self._session_event(event, now_ns)
        while self._updater is updater and (action := updater.next_action()) is not None:
            busy = True
            self._act(action, now_ns)
        while (engine_event := self._engine.next_event()) is not None:
            busy = True
            self._engine_event(engine_event, now_ns)
        if self._session is not session:
            return False
        data = session.data_to_send()
        if data:
            self.figures.stream_bytes_sent += len(data)
            self._trace.octets(now_ns, f"{self.name}>", data)
            self._modem.send_stream(data)
        if session.state is TerminalState.ENDED and not (self._shutting_down or self._is_in_bootloader):
            session.restart(now_ns)
            busy = True
        if self._engine.is_idle and not self._is_in_bootloader:
            self._next_operation()
        self._send_engine_frames(now_ns)
        return busy

    def _schedule(self) -> None:
        if self._session is None:
            return
        sources = [self._session.next_timeout()]
        if not self._port.pending:
            sources.append(self._engine.next_timeout())
        if self._updater is not None:
            sources.append(self._updater.next_timeout())
        if self._self_test_since_ns is not None:
            sources.append(self._kernel.now_ns + self._measure_period_ns // 2)
        if self._flasher_heard_ns is not None:
            sources.append(max(self._flasher_heard_ns + FIELD_QUIET_NS, self._kernel.now_ns + SECOND))
        elif self._waiting_instruction:
            sources.append(self._kernel.now_ns + SECOND)
        due = min((source for source in sources if source is not None), default=None)
        if due is None:
            return
        if self._timer_due_ns is None or due < self._timer_due_ns or self._timer_due_ns < self._kernel.now_ns:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due_ns = due
            self._timer = self._kernel.call_at(due, self._timeout)

    # -- what the cores say ----------------------------------------------------------------------------------------------------

    def _session_event(self, event: object, now_ns: int) -> None:
        updater, session = self._updater, self._session
        assert updater is not None
        assert session is not None
        match event:
            case ConnectRequested():
                self._modem.open_stream(self)
            case LoggedIn(serial):
                self.figures.logins += 1
                self._login_serial, self._login_ns = serial, now_ns
                self._trace.note(now_ns, self.name, f"logged in, serial {serial}")
                self._send_identity(now_ns)
                updater.logged_in(now_ns)
                # The first discovery of a power-on comes by itself, and not before the updater knows its order.
                if self._nodes and self._field_upgrades is not None and self._field_upgrades.awaits_confirmation:
                    self._wants_discovery = True
            case CommandReceived(frame):
                self._command(frame.message, now_ns)
                session.reply_to(frame, now_ns)
            case ReplyReceived(command, reply_flag, _):
                if command == Command.SIGNED_REPORT and reply_flag == ReplyFlag.SUCCESS:
                    updater.report_acknowledged(now_ns)
                    self._trace.note(now_ns, self.name, "post-boot report acknowledged")
                    self._hooks.upgrade_over()
            case CloseRequested(reason):
                self._modem.close_stream()
                self._trace.note(now_ns, self.name, f"closes the link: {reason.value}")
                session.disconnected(now_ns)
            case LoginFailed(reason, misses, _):
                self._trace.note(now_ns, self.name, f"login failed ({misses}): {reason.value}")
            case LoggedOut():
                self._trace.note(now_ns, self.name, "logged out")
            case _:
                # Time, refused frames, dropped reports: nothing that this master acts on.
                pass
        if self._field_upgrades is not None:
            self._field_upgrades.session_event(event, now_ns)

    def _command(self, message: object, now_ns: int) -> None:
        match message:
            case Control(_, _, RemoteUpgrade() as upgrade):
                self._trace.note(now_ns, self.name, f"instructed: {upgrade.url}")
                parts = urlsplit(upgrade.url)
                base_url = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
                assert self._updater is not None
                if self._is_field_work(now_ns):
                    self._trace.note(now_ns, self.name, "a flasher is at work: the instruction waits")
                    self._waiting_instruction = base_url
                else:
                    self._updater.instructed(base_url, now_ns)
            case _:
                self._trace.note(now_ns, self.name, f"command not supported: {type(message).__name__}")

    def _send_identity(self, now_ns: int) -> None:
        if self._session is None or self.version is None or not self._nodes:
            return
        assert self._store is not None
        version = self.version
        master = NodeIdentity(
            role=NodeRole.MASTER,
            position=0,
            hwid=self._identity.master_hwid,
            hardware_class=self._master_class.class_id,
            version=(version.major, version.minor, version.revision, version.build),
            security_counter=self._store.security_counter,
            serial=self._identity.master_hwid,
        )
        slaves = [
            NodeIdentity(
                role=NodeRole.SLAVE,
                position=node.position,
                hwid=node.hwid,
                hardware_class=node.class_id,
                version=(node.version.major, node.version.minor, node.version.revision, node.version.build),
                security_counter=node.security_counter,
                serial=node.serial,
                state=NodeState.RUNNING,
            )
            for node in self._nodes
            if node.position > 0
        ]
        self._session.send_extension(
            Command.UNIT_IDENTITY, UnitIdentity(beijing_time(now_ns), (master, *slaves)), now_ns
        )

    def _act(self, action: Action, now_ns: int) -> None:
        match action:
            case StartHttp(base_url, request):
                self._modem.start_http(request.origin or base_url, request, self)
            case AbortHttp():
                self._modem.abort_http()
            case TellState(order_id, stage, progress_pct, reason):
                self._tell(order_id, stage, progress_pct, reason, now_ns)
            case SendReport(document):
                self._trace.note(now_ns, self.name, "sends its post-boot report")
                self._extension(Command.SIGNED_REPORT, SignedReport(beijing_time(now_ns), document), now_ns)
            case Reset(reason):
                self._trace.note(now_ns, self.name, f"resets: {reason}")
                self.power_off()
                self.power_on()
            case LogNote(text):
                self.figures.remarks.append(text)
                self._trace.note(now_ns, self.name, text)
            case RunSelfTest():
                self._self_test_since_ns = now_ns
            case _:
                self._pending_operation = (*self._pending_operation, action)

    def _tell(self, order_id: str, stage: Stage, progress_pct: int, reason: str, now_ns: int) -> None:
        self._trace.note(now_ns, self.name, f"{stage.value} {progress_pct} % {reason}".rstrip())
        message = UpgradeState(
            time=beijing_time(now_ns),
            order_id=order_id,
            state=UpgradeStateCode[stage.name],
            progress_pct=progress_pct,
            # The wire holds so many bytes (docs/protocol.md); the whole reason stands in the signed report.
            reason=reason.encode()[:REASON_SIZE_BYTES_MAX].decode(errors="ignore"),
        )
        self._extension(Command.UPGRADE_STATE, message, now_ns)
        if stage is Stage.DOWNLOAD_COMPLETE:
            self._hooks.download_complete()

    def _extension(self, command: Command, message: UpgradeState | SignedReport, now_ns: int) -> None:
        # What is said without a link would wait in the session; the updater says it again at the next login.
        if self._session is not None and self.is_logged_in:
            self._session.send_extension(command, message, now_ns)

    # -- operations over the slaves ----------------------------------------------------------------------------------------------

    def _next_operation(self) -> None:
        """The bus is free: begin what waits, the updater's wishes first."""
        if self._restarting:
            positions, self._restarting = self._restarting, ()
            self._engine.restart(positions)
            return
        if self._pending_operation:
            action, *rest = self._pending_operation
            self._pending_operation = tuple(rest)
            self._begin(action)
        elif self._wants_discovery and not self._is_flasher_at_work(self._kernel.now_ns):
            self._wants_discovery = False
            self._engine.discover(range(1, self._profile.slave_count + 1))

    def _begin(self, action: Action) -> None:
        engine = self._engine
        match action:
            case DiscoverNodes():
                self._discovery_is_for_updater = True
                engine.discover(range(1, self._profile.slave_count + 1))
            case FlashSlaves(jobs):
                engine.flash([FlashJob(job.position, job.image) for job in jobs])
            case ActivateSlaves(positions):
                engine.activate(positions)
            case ConfirmSlaves(versions):
                engine.confirm(versions, raise_counter=False)
            case RaiseCounters(versions):
                engine.confirm(versions, raise_counter=True)
            case RevertSlaves(positions, restart):
                self._restarting = restart
                engine.revert(positions)
            case _:
                raise AssertionError(f"no operation for {action}")

    def _engine_event(self, event: object, now_ns: int) -> None:
        updater = self._updater
        match event:
            case TransferProgressed(position, next_offset, size_bytes) if updater is not None:
                if next_offset == size_bytes:
                    updater.slave_staged(position)
            case TransferBroken(position, detail):
                self.figures.transfers_broken += 1
                self._trace.note(now_ns, self.name, f"slave {position}: {detail}; goes on")
            case NodesDiscovered(nodes):
                self._discovered(nodes, now_ns)
            case OperationFinished(operation, results) if updater is not None:
                self._operation_finished(updater, operation, results, now_ns)
            case _:
                pass

    def _operation_finished(
        self, updater: Updater, operation: str, results: tuple[NodeResult, ...], now_ns: int
    ) -> None:
        outcomes = [NodeOutcome(result.position, result.ok, result.detail) for result in results]
        good = sum(outcome.ok for outcome in outcomes)
        self._trace.note(now_ns, self.name, f"{operation}: {good} of {len(outcomes)} slaves")
        match operation:
            case "flash":
                updater.slaves_flashed(outcomes, now_ns)
            case "activate":
                updater.slaves_activated(outcomes, now_ns)
            case "confirm" if updater.state is UpdaterState.CONFIRMING_PACK:
                updater.slaves_confirmed(outcomes, now_ns)
            case "confirm":
                updater.counters_raised(outcomes, now_ns)
            case "revert" if self._restarting:
                self._revert_results = results
            case "revert" | "restart":
                reverted = [NodeOutcome(item.position, item.ok, item.detail) for item in self._revert_results]
                self._revert_results = ()
                updater.slaves_reverted([*reverted, *outcomes], now_ns)
            case _:
                raise AssertionError(f"no operation {operation!r}")

    def _discovered(self, nodes: tuple[NodeDescription, ...], now_ns: int) -> None:
        before = [(node.position, node.hwid, node.version) for node in self._nodes]
        self._nodes = nodes
        reports = [
            NodeReport(
                position=node.position,
                role=ImageRole.SLAVE,
                hwid=node.hwid,
                version=node.version,
                security_counter=node.security_counter,
            )
            for node in nodes
            if node.position > 0
        ]
        if [(node.position, node.hwid, node.version) for node in nodes] != before:
            self._send_identity(now_ns)
        if self._discovery_is_for_updater and self._updater is not None:
            self._discovery_is_for_updater = False
            self._updater.nodes_discovered(
                reports,
                now_ns,
                in_test=[node.position for node in nodes if _ON_TRIAL.intersection(node.slot_states)],
                in_bootloader=[node.position for node in nodes if node.state is not NodeMode.APPLICATION],
            )
        if self._field_upgrades is not None and self._updater is not None:
            # Behind the updater: when this discovery has decided its order, what the nodes run is the order's work.
            self._field_upgrades.nodes_discovered(nodes, self._updater.scope, now_ns)

    # -- the self-test of a new image ----------------------------------------------------------------------------------------------

    def _check_self_test(self, now_ns: int) -> None:
        """Every slave must have sent fresh and plausible values since the new image runs."""
        since = self._self_test_since_ns
        if since is None or self._updater is None:
            return
        assert self.version is not None
        planned = self._hooks.self_test_failure(self.version)
        if planned:
            self._end_self_test(planned)
            return
        positions = range(1, self._profile.slave_count + 1)
        fresh = all(self._measured.heard_ns.get(position, -1) > since for position in positions)
        known = all(value is not None for value in self._measured.cell_voltages_v)
        if fresh and known:
            self._end_self_test("")
        elif now_ns - since >= SELF_TEST_LIMIT_NS:
            silent = [position for position in positions if self._measured.heard_ns.get(position, -1) <= since]
            self._end_self_test(f"no fresh values from slaves {silent}")

    def _end_self_test(self, failure: str) -> None:
        self._self_test_since_ns = None
        assert self._updater is not None
        self._trace.note(self._kernel.now_ns, self.name, f"self-test: {failure or 'passed'}")
        self._updater.self_tested(passed=not failure, reason=failure, now_ns=self._kernel.now_ns)
