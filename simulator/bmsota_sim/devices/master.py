"""A virtual master BMS: `bmsota.master.Master` on virtual flashes, buses and a modem, switched on and off.

The library's master decides; this file is wiring: it hands over frames, bytes and time, carries out what comes back, and
writes the run's trace. What has power is one object (`_Powered`); when the power goes it is dropped whole.

It is a node too (position 0): a flasher on a bus can flash it like a slave, and on a diagnosis bus, through its gateway, the
slaves. While the master has an order its bootloader refuses and the gateway is closed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bmsota.gbt32960 import (
    CloseRequested,
    ConnectRequested,
    LoggedIn,
    TerminalState,
)
from bmsota.master import (
    Master,
    MeasurementTable,
    PackValues,
    ReportAcknowledged,
    SendData,
    UpgradeModeChanged,
)
from bmsota.node import POSITION_MAX
from bmsota.ota import AbortHttp, LogNote, Reset, Stage, StartHttp, TellState, UpdaterState, stored_images
from bmsota_sim.devices.bootloader_node import BootloaderNode, NodeDevice, data_keys, reply_keys, request_keys
from bmsota_sim.devices.flash import FlashModel, PowerCut
from bmsota_sim.devices.gateway import Gateway
from bmsota_sim.devices.master_notes import note_of
from bmsota_sim.devices.phase import discovery_begins, next_latch
from bmsota_sim.kernel import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.boot import BootResult, BootStore
    from bmsota.bootloader import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.image import ImageVersion
    from bmsota.master import MasterConfiguration, MasterEvent, MasterReadings
    from bmsota_sim.habits import BehindLogout
    from bmsota_sim.kernel import Kernel, Timer
    from bmsota_sim.links.canbus import CanBus, Port
    from bmsota_sim.links.uplink import Modem
    from bmsota_sim.trace import Trace

__all__ = ["MasterHooks", "VirtualMaster"]

# Two slots of 64 KiB and two journal areas; the external flash holds a master's and a slave's image.
FLASH_SIZE_BYTES = 192 * 1024
JOURNAL_SIZE_BYTES = 16 * 1024
IMAGE_FLASH_SIZE_BYTES = 128 * 1024
IMAGE_FLASH_ERASE_BLOCK_BYTES = 4096

BOOT_TIME_NS = 300 * MS
# After the ignition is off the unit logs out and then loses its supply, answer or not.
SHUTDOWN_LIMIT_NS = SECOND

# Enough for the story of one upgrade.
REMARKS_MAX = 50


@dataclass(slots=True, kw_only=True)
class MasterHooks:
    """What the surroundings of a master want to know, or make happen."""

    readings: Callable[[], MasterReadings]
    download_complete: Callable[[], None] = lambda: None
    upgrade_over: Callable[[], None] = lambda: None
    rest_changed: Callable[[], None] = lambda: None
    """`must_rest` is another one now."""
    self_test_failure: Callable[[ImageVersion], str] = lambda _version: ""
    """A reason why this version does not pass its self-test on this unit; empty when it does."""


@dataclass(slots=True)
class MasterFigures:
    """Counted over all power cycles."""

    reports: int = 0
    stream_bytes_sent: int = 0
    stream_bytes_received: int = 0
    logins: int = 0
    remarks: deque[str] = field(default_factory=lambda: deque(maxlen=REMARKS_MAX))
    """The newest of what the updater had to say."""


class VirtualMaster(NodeDevice):
    """One master, its flashes, and what runs on it while it has power."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        bus: CanBus,
        wire: BootloaderWire,
        modem: Modem,
        trace: Trace,
        name: str,
        configuration: MasterConfiguration,
        factory_image: bytes,
        report_period_ns: int,
        hooks: MasterHooks,
        diagnosis_bus: CanBus | None = None,
        behind_logout: BehindLogout | None = None,
    ) -> None:
        super().__init__(kernel, trace, name)
        self.behind_logout = behind_logout
        self.kernel = kernel
        self.modem = modem
        self.configuration = configuration
        self.report_period_ns = report_period_ns
        self.hooks = hooks
        self.figures = MasterFigures()
        self.last_login: tuple[int, int] | None = None
        """Serial and time of the last login, over all power cycles."""
        hwid = configuration.identity.hwid
        self.image_flash = FlashModel(
            IMAGE_FLASH_SIZE_BYTES, erase_block_bytes=IMAGE_FLASH_ERASE_BLOCK_BYTES, seed=f"{hwid}/external"
        )
        self.node = BootloaderNode(
            kernel=kernel,
            wire=wire,
            owner=self,
            identity=configuration.identity,
            flash=FlashModel(FLASH_SIZE_BYTES, seed=f"{hwid}/internal"),
            journal_size_bytes=JOURNAL_SIZE_BYTES,
            image_keys=configuration.keys.image_keys,
            boot_time_ns=BOOT_TIME_NS,
            is_locked=lambda: self._is_upgrading,
            spare_images=lambda: stored_images(self.image_flash),
        )
        self.node.install_factory(factory_image)
        slave_count = configuration.layout.slave_count if diagnosis_bus is None else POSITION_MAX
        measured = MeasurementTable(
            configuration.database,
            configuration.layout,
            unprotected=configuration.unprotected,
            has_pack_sensor=configuration.has_pack_sensor,
        ).accepts
        self._requests = frozenset({wire.request_id})
        self._inside = frozenset(range(wire.reply_id + 1, wire.reply_id + slave_count + 1)) | measured
        self.port = bus.attach(self._receive_can, name=f"{self.name}/master", drained=self._can_drained)
        self.node.add_port(self.port, reply_keys(wire, 1, slave_count) | measured)
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
                inside=self.port,
                outside=port,
                inward=inward,
                outward=reply_keys(wire, 1, POSITION_MAX),
                is_open=lambda: not self._is_upgrading,
            )
        self._powered: _Powered | None = None
        """The application, from the boot to the loss of power."""
        self._powered_off: Callable[[], None] | None = None
        """Who waits for the end of a shutdown."""

    # -- what others ask -------------------------------------------------------------------------------------------------

    @property
    def powered(self) -> bool:
        return self.node.is_powered

    @property
    def master(self) -> Master | None:
        """The library's master; None without power, and while no image can run."""
        return None if self._powered is None else self._powered.master

    @property
    def upgrade_state(self) -> UpdaterState:
        return UpdaterState.IDLE if self.master is None else self.master.upgrade_state

    @property
    def must_rest(self) -> bool:
        """Whether the vehicle must neither drive nor charge now."""
        return self.master is not None and self.master.must_rest

    @property
    def is_logged_in(self) -> bool:
        return self.master is not None and self.master.link_state is TerminalState.LOGGED_IN

    @property
    def slave_versions(self) -> tuple[str, ...]:
        return () if self.master is None else self.master.slave_versions

    @property
    def pack_values(self) -> PackValues:
        """What its slaves measured, as far as it knows; nothing without power."""
        layout = self.configuration.layout
        unknown = PackValues((None,) * layout.cell_count, (None,) * layout.probe_count)
        return unknown if self.master is None else self.master.pack_values

    @property
    def pack_sensor(self) -> tuple[float | None, float | None]:
        """Current and state of charge as it knows them by the bus; nothing without power."""
        return (None, None) if self.master is None else self.master.pack_sensor

    @property
    def _is_upgrading(self) -> bool:
        return self.master is not None and self.master.is_upgrading

    # -- power -----------------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """The supply is there: boot after a moment."""
        if not self.powered:
            self.image_flash.power_on()
            super().power_on()

    def power_off(self) -> None:
        """The supply is gone, whatever was going on."""
        super().power_off()
        self.image_flash.power_off()
        self.modem.power_off()
        if self._powered is not None:
            self._powered.end()
            self._powered = None

    def supply_failed(self) -> None:
        """As of every device; but with the ignition off this is the end of the shutdown."""
        super().supply_failed()
        powered_off, self._powered_off = self._powered_off, None
        if powered_off is not None:
            self.power_off()
            powered_off()

    def shut_down(self, powered_off: Callable[[], None]) -> None:
        """The ignition is off: log out, then the supply goes. *powered_off* is called when it has gone."""
        self._powered_off = powered_off
        powered = self._powered

        def off() -> None:
            # A power cut may have been faster, and has said so.
            if self._powered is powered and self._powered_off is not None:
                self._powered_off = None
                self.power_off()
                powered_off()

        if powered is not None and self.is_logged_in:
            self.kernel.call_in(SHUTDOWN_LIMIT_NS, off)
            powered.step(powered.master.shut_down)
        else:
            self.kernel.call_soon(off)

    # -- the node (NodeOwner) --------------------------------------------------------------------------------------------

    def booted(self, store: BootStore, result: BootResult) -> None:
        self.note(f"master boots {self.version}: {result.reason.name}")
        if result.facts is not None:
            self._powered = _Powered(self, store, result)
            self._powered.settle()
            self.hooks.rest_changed()

    def bootloader_entered(self) -> None:
        self.note("in its bootloader")
        if self._powered is not None:
            self._powered.step(self._powered.master.bootloader_entered)

    def bootloader_left(self) -> None:
        self.note("left its bootloader")
        if self._powered is not None:
            self._powered.step(self._powered.master.bootloader_left)

    def restart_requested(self) -> None:
        self.note("restarts, as asked over CAN")
        super().restart_requested()

    # -- the vehicle -----------------------------------------------------------------------------------------------------

    def vehicle_changed(self) -> None:
        """The vehicle started, stopped or was plugged in."""
        if self._powered is not None:
            self._powered.step(self._powered.master.vehicle_changed)

    def network_found(self) -> None:
        """The modem is in its network again: do not wait for the next try's time."""
        if self._powered is not None and self._powered.master.link_state is TerminalState.WAITING:
            self.modem.open_stream(self._powered)

    # -- the buses -------------------------------------------------------------------------------------------------------

    def _receive_can(self, frame: CanFrame, now_ns: int) -> None:
        if frame.can_id not in self._inside:
            self._hear_flasher(frame, now_ns, self.port)
            return
        if self._powered is not None:
            self._powered.receive_can(frame, now_ns)
        if self.gateway is not None:
            self.gateway.from_inside(frame, now_ns)

    def _receive_diagnosis(self, frame: CanFrame, now_ns: int) -> None:
        assert self.gateway is not None
        assert self._diagnosis_port is not None
        self.gateway.from_outside(frame, now_ns)
        self._hear_flasher(frame, now_ns, self._diagnosis_port)

    def _hear_flasher(self, frame: CanFrame, now_ns: int, port: Port) -> None:
        if frame.can_id in self._requests and self._powered is not None:
            self._powered.step(self._powered.master.flasher_heard)
        self.node.receive(frame, now_ns, port)

    def _can_drained(self, now_ns: int) -> None:
        self.node.drained(now_ns)
        if self._powered is not None:
            self._powered.drained()

    def note(self, text: str | None) -> None:
        """Into the run's trace, if there is something to say."""
        if text is not None:
            self._trace.note(self.kernel.now_ns, self.name, text)

    def octets(self, direction: str, data: bytes) -> None:
        """Bytes of the cloud link, into the run's trace."""
        self._trace.octets(self.kernel.now_ns, f"{self.name}{direction}", data)


class _Powered:
    """What runs from a boot to the loss of power: the library's master, and its timers on the kernel."""

    def __init__(self, device: VirtualMaster, store: BootStore, boot: BootResult) -> None:
        self._device = device
        self._kernel = device.kernel
        now_ns = self._kernel.now_ns
        configuration = device.configuration
        self.master = Master(
            replace(configuration, slave_boot_ns=discovery_begins(now_ns + configuration.slave_boot_ns) - now_ns),
            store=store,
            boot=boot,
            image_flash=device.image_flash,
            read=device.hooks.readings,
            check=device.hooks.self_test_failure,
            last_login=device.last_login,
            now_ns=now_ns,
        )
        self._has_power = True
        self._is_settling = False
        self._timer: Timer | None = None
        self._timer_due_ns = 0
        self._report_timer = self._kernel.call_in(device.report_period_ns, self._report)
        self._latch_timer = self._kernel.call_at(next_latch(now_ns), self._latch)

    def end(self) -> None:
        """The supply is gone."""
        self._has_power = False
        self._report_timer.cancel()
        self._latch_timer.cancel()
        if self._timer is not None:
            self._timer.cancel()

    # -- driving the master ----------------------------------------------------------------------------------------------

    def step(self, call: Callable[..., object], *arguments: Any) -> None:
        """Hand the master something, then do what it asks for. The power may fail in any of it."""
        if not self._has_power:
            return
        try:
            call(*arguments, self._kernel.now_ns)
        except PowerCut:
            self._device.supply_failed()
            return
        self.settle()

    def receive_can(self, frame: CanFrame, now_ns: int) -> None:
        """A slave has sent a frame."""
        if self.master.receive_frame(frame, now_ns):
            self.settle()

    def settle(self) -> None:
        """Do what the master asks for, until it asks for nothing more."""
        if self._is_settling:
            return
        self._is_settling = True
        try:
            while self._has_power and (event := self.master.next_event()) is not None:
                self._act(event)
        except PowerCut:
            self._device.supply_failed()
        finally:
            self._is_settling = False
        self.drained()

    def drained(self) -> None:
        """Send what there is, when the bus has taken what there was; then wait, too short a time rather than too long."""
        if not self._has_power:
            return
        port = self._device.port
        if not port.pending:
            for frame in self.master.frames_to_send(self._kernel.now_ns):
                port.send(frame)
        due = self.master.next_timeout(bus_is_busy=bool(port.pending))
        if due is not None and (self._timer is None or due < self._timer_due_ns):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due_ns = due
            self._timer = self._kernel.call_at(due, self._timeout)

    def _timeout(self) -> None:
        self._timer = None
        self.step(self.master.handle_timeout)

    def _latch(self) -> None:
        self._latch_timer = self._kernel.call_at(next_latch(self._kernel.now_ns), self._latch)
        self.step(self.master.latch)

    def _report(self) -> None:
        now_ns = self._kernel.now_ns
        self._report_timer = self._kernel.call_in(self._device.report_period_ns, self._report)
        # What is due in this nanosecond comes before the report, in whatever order it was planned.
        if self._latch_timer.when_ns == now_ns:
            self._latch_timer.cancel()
            self._latch()
        if self._timer is not None and self._timer_due_ns == now_ns:
            self._timer.cancel()
            self._timeout()
        if not self._has_power:
            return
        if self.master.send_report(self._kernel.now_ns):
            self._device.figures.reports += 1
            self.settle()

    # -- the cloud link (StreamListener) ---------------------------------------------------------------------------------

    def stream_opened(self) -> None:
        self.step(self.master.connected)

    def stream_received(self, data: bytes) -> None:
        self._device.figures.stream_bytes_received += len(data)
        self._device.octets("<", data)
        self.step(self.master.receive_data, data)

    def stream_closed(self, reason: str) -> None:
        if self._has_power:
            self._device.note(f"link closed: {reason}")
        self.step(self.master.disconnected)

    # -- the device API (HttpListener) -----------------------------------------------------------------------------------

    def http_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.step(self.master.http_head, status, headers)

    def http_body(self, data: bytes) -> None:
        self.step(self.master.http_body, data)

    def http_ended(self, error: str | None) -> None:
        if error is not None and self._has_power:
            self._device.note(f"HTTP broken: {error}")
        self.step(self.master.http_ended, error)

    # -- what the master asks for ----------------------------------------------------------------------------------------

    def _act(self, event: MasterEvent) -> None:
        device, figures = self._device, self._device.figures
        device.note(note_of(event))
        match event:
            case SendData(data):
                if device.behind_logout is not None:
                    data = device.behind_logout.sent(data, self._kernel.now_ns)
                figures.stream_bytes_sent += len(data)
                device.octets(">", data)
                device.modem.send_stream(data)
            case ConnectRequested():
                device.modem.open_stream(self)
            case CloseRequested():
                device.modem.close_stream()
            case StartHttp(base_url, request):
                device.modem.start_http(request.origin or base_url, request, self)
            case AbortHttp():
                device.modem.abort_http()
            case Reset():
                device.power_off()
                device.power_on()
            case LoggedIn(serial):
                figures.logins += 1
                device.last_login = (serial, self._kernel.now_ns)
            case LogNote(text):
                figures.remarks.append(text)
            case TellState(stage=Stage.DOWNLOAD_COMPLETE):
                device.hooks.download_complete()
            case ReportAcknowledged():
                device.hooks.upgrade_over()
                device.node.back_up_soon()
            case UpgradeModeChanged():
                device.hooks.rest_changed()
            case _:
                pass
