"""A slave BMS: measures its cells, sends them over the internal bus, and can be flashed.

Its application is a timer that sends a round of measurements; its bootloader is `bmsota.bootloader.BootloaderTarget` on a
modelled flash. Both are gone when the power goes; the flash stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.bootloader import (
    BLOCK_FRAMES_MAX,
    BlockStored,
    BootloaderEntered,
    BootloaderLeft,
    BootloaderTarget,
    ResetRequested,
    TargetIdentity,
)
from bmsota.image import ImageRole, verify_image
from simulator.devices.flash import CutPhase, FlashModel, PowerCut
from simulator.devices.internal_bus import SlaveMessages
from simulator.kernel import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.boot import BootResult, Flash
    from bmsota.bootloader import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.image import FirmwareImage, HardwareClass, ImageVersion, PublicKey
    from bmsota.signals import Database
    from simulator.kernel import Kernel, Timer
    from simulator.links.canbus import CanBus
    from simulator.profiles import SeriesProfile
    from simulator.trace import Trace

__all__ = ["CellSensors", "Slave", "SlavePowerCutPlan"]

# Two slots of 16 KiB and two journal areas of 4 KiB: the flash of a small analogue front end's controller.
FLASH_SIZE_BYTES = 48 * 1024
JOURNAL_SIZE_BYTES = 8 * 1024
# From supply to the first frame: clocks, self-check, digest of the image.
BOOT_TIME_NS = 40 * MS


class CellSensors(Protocol):
    """What the slave's analogue front end reads."""

    def cell_voltages_v(self) -> Sequence[float]: ...
    def temperatures_c(self) -> Sequence[float]: ...


class SlavePowerCutPlan:
    """The supply fails once, inside a flash operation, when so much of a new image is stored."""

    def __init__(self, at_progress: float, off_ns: int) -> None:
        self.at_progress = at_progress
        self.off_ns = off_ns
        self.happened = False


class Slave:
    """One slave at one position of a pack."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        bus: CanBus,
        wire: BootloaderWire,
        database: Database,
        trace: Trace,
        name: str,
        position: int,
        hwid: str,
        hardware_class: HardwareClass,
        profile: SeriesProfile,
        image_keys: tuple[PublicKey, ...],
        factory_image: bytes,
        sensors: CellSensors,
        measure_period_ns: int,
        seed: str,
    ) -> None:
        self._kernel = kernel
        self._bus = bus
        self._wire = wire
        self._trace = trace
        self.name = name
        self.position = position
        self._hardware_class = hardware_class
        self._messages = SlaveMessages(database, position, profile)
        self._sensors = sensors
        self._measure_period_ns = measure_period_ns
        self._image_keys = image_keys
        self._seed = seed
        # A node listens to data frames only while it is being flashed; its acceptance filter keeps the rest away.
        self._idle_filter = frozenset({wire.request_id})
        self._flashing_filter = frozenset({wire.request_id, *range(wire.data_id, wire.data_id + BLOCK_FRAMES_MAX)})
        self._port = bus.attach(self._receive, name=name, accepts=self._idle_filter, drained=self._drained)
        self._port.power(on=False)
        self._measure_timer: Timer | None = None
        self._target_timer: Timer | None = None
        self._target_due_ns: int | None = None
        self._target: BootloaderTarget | None = None
        self._alive = 0
        self._transmission = 0
        self._powered = False
        self._boot_timer: Timer | None = None
        self._restart_timer: Timer | None = None
        self.power_cut_plan: SlavePowerCutPlan | None = None
        self.boot_result: BootResult | None = None
        self.hwid = ""
        self._equip(hwid, factory_image)

    def _equip(self, hwid: str, factory_image: bytes) -> None:
        self.hwid = hwid
        self._flash = FlashModel(FLASH_SIZE_BYTES, seed=f"{self._seed}/{hwid}")
        self._new_store().install_factory(factory_image)

    def replace(self, hwid: str, factory_image: bytes) -> None:
        """Another piece of hardware takes this position, as it comes from the factory. The power must be off."""
        self._trace.note(self._kernel.now_ns, self.name, f"replaced: {self.hwid} by {hwid}")
        self._equip(hwid, factory_image)

    def _new_store(self) -> BootStore:
        flash: Flash = self._flash
        layout = SlotLayout.divide(flash, journal_size_bytes=JOURNAL_SIZE_BYTES)
        verify = for_hardware(self._verify, class_id=self._hardware_class.class_id, role=ImageRole.SLAVE)
        return BootStore(flash, layout, verify=verify)

    def _verify(self, data: bytes) -> FirmwareImage:
        return verify_image(data, public_keys=self._image_keys)

    @property
    def version(self) -> ImageVersion | None:
        """Version of the running image; None without power or image."""
        result = self.boot_result
        return None if result is None or result.facts is None else result.facts.version

    # -- power -----------------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """The supply is there: boot after a moment."""
        if self._powered:
            return
        self._powered = True
        self._flash.power_on()
        self._boot_timer = self._kernel.call_in(BOOT_TIME_NS, self._boot)

    def power_off(self) -> None:
        """The supply is gone, whatever was going on."""
        self._powered = False
        self._flash.power_off()
        self._port.power(on=False)
        self._port.accept(self._idle_filter)
        self._target = None
        self.boot_result = None
        for timer in (self._boot_timer, self._measure_timer, self._target_timer, self._restart_timer):
            if timer is not None:
                timer.cancel()
        self._boot_timer = self._measure_timer = self._target_timer = self._restart_timer = None
        self._target_due_ns = None

    def _boot(self) -> None:
        self._boot_timer = None
        try:
            store = self._new_store()
            result = self.boot_result = store.boot()
        except PowerCut:
            self._lose_power()
            return
        self._trace.note(self._kernel.now_ns, self.name, f"boots {self.version}: {result.reason.name}")
        self._target = BootloaderTarget(
            self._wire,
            identity=TargetIdentity(
                position=self.position,
                role=ImageRole.SLAVE,
                hwid=self.hwid,
                serial=self.hwid,
                hardware_class=self._hardware_class,
            ),
            store=store,
            boot=result,
        )
        self._port.power(on=True)
        self._send_identity(store)
        self._start_measuring()

    def _restart(self) -> None:
        if self._powered:
            self.power_off()
            self.power_on()

    # -- the application -------------------------------------------------------------------------------------------------

    def _start_measuring(self) -> None:
        # Positions send one after another, so that rounds of different slaves do not meet on the bus.
        if self.version is not None and self._measure_timer is None:
            offset = self.position * 10 * MS
            period = self._measure_period_ns
            start = self._kernel.now_ns
            self._measure_timer = self._kernel.call_at(start - start % period + period + offset, self._measure)

    def _stop_measuring(self) -> None:
        if self._measure_timer is not None:
            self._measure_timer.cancel()
            self._measure_timer = None

    def _measure(self) -> None:
        self._measure_timer = self._kernel.call_in(self._measure_period_ns, self._measure)
        self._alive += 1
        sensors = self._sensors
        for frame in self._messages.measurements(
            sensors.cell_voltages_v(), sensors.temperatures_c(), alive=self._alive
        ):
            self._port.send(frame)

    def _send_identity(self, store: BootStore) -> None:
        if self.version is None:
            return
        self._transmission += 1
        frames = self._messages.identity(
            hwid=self.hwid,
            version=self.version,
            security_counter=store.security_counter,
            transmission=self._transmission,
        )
        for frame in frames:
            self._port.send(frame)

    # -- the bootloader --------------------------------------------------------------------------------------------------

    def _receive(self, frame: CanFrame, now_ns: int) -> None:
        if self._target is None:
            return
        try:
            self._target.receive_frame(frame, now_ns)
            self._pump(now_ns)
        except PowerCut:
            self._lose_power()

    def _target_timeout(self) -> None:
        self._target_timer = None
        self._target_due_ns = None
        if self._target is None:
            return
        try:
            self._target.handle_timeout(self._kernel.now_ns)
            self._pump(self._kernel.now_ns)
        except PowerCut:
            self._lose_power()

    def _drained(self, now_ns: int) -> None:
        if self._target is not None:
            self._pump(now_ns)

    def _pump(self, now_ns: int) -> None:
        target = self._target
        assert target is not None
        for frame in target.frames_to_send(now_ns):
            self._port.send(frame)
        while (event := target.next_event()) is not None:
            match event:
                case BootloaderEntered():
                    self._stop_measuring()
                    self._port.accept(self._flashing_filter)
                case BootloaderLeft():
                    self._port.accept(self._idle_filter)
                    self._start_measuring()
                case BlockStored(next_offset, size_bytes):
                    self._plan_power_cut(next_offset / size_bytes)
                case ResetRequested():
                    self._kernel.call_soon(self._restart)
                    return
                case _:
                    pass
        due = target.next_timeout()
        if due != self._target_due_ns:
            if self._target_timer is not None:
                self._target_timer.cancel()
            self._target_due_ns = due
            self._target_timer = None if due is None else self._kernel.call_at(due, self._target_timeout)

    # -- planned accidents -----------------------------------------------------------------------------------------------

    def _plan_power_cut(self, progress: float) -> None:
        plan = self.power_cut_plan
        if plan is not None and not plan.happened and progress >= plan.at_progress:
            plan.happened = True
            self._flash.cut_at(self._flash.operations + 1, CutPhase.INSIDE)

    def _lose_power(self) -> None:
        plan = self.power_cut_plan
        off_ns = plan.off_ns if plan is not None else SECOND
        self._trace.note(self._kernel.now_ns, self.name, "power cut inside a flash operation")
        self.power_off()
        self._restart_timer = self._kernel.call_in(off_ns, self.power_on)
