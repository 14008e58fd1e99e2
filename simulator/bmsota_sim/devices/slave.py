"""A slave BMS: measures its cells, sends them over the internal bus, and can be flashed.

Its application is a timer that sends a round of measurements; the rest is a `BootloaderNode`. Both are gone when the power
goes; the flash stays.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Protocol

from bmsota.boot import BootReason
from bmsota.image import ImageRole
from bmsota.master import SlaveMessages
from bmsota.node import TargetIdentity
from bmsota_sim.devices.bootloader_node import BootloaderNode, NodeDevice, NodeProtocols, PowerCutPlan
from bmsota_sim.devices.flash import ERASE_NS, PROGRAM_NS, FlashModel
from bmsota_sim.devices.frame_faults import FrameFault, FrameFaultKind, new_history
from bmsota_sim.devices.phase import slave_offset_ns
from bmsota_sim.kernel import MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.boot import BootResult, BootStore
    from bmsota.bootloader import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.image import HardwareClass, PublicKey
    from bmsota.signals import Database
    from bmsota_sim.kernel import Kernel, Timer
    from bmsota_sim.links.canbus import CanBus
    from bmsota_sim.profiles import SeriesProfile
    from bmsota_sim.trace import Trace

__all__ = ["CellSensors", "Slave"]

# Two slots of 16 KiB and two journal areas of 4 KiB: the flash of a small analogue front end's controller.
FLASH_SIZE_BYTES = 48 * 1024
JOURNAL_SIZE_BYTES = 8 * 1024
# From supply to the first frame: clocks, self-check, digest of the image.
BOOT_TIME_NS = 40 * MS


class CellSensors(Protocol):
    """What the slave's analogue front end reads."""

    def cell_voltages_v(self) -> Sequence[float]: ...
    def temperatures_c(self) -> Sequence[float]: ...


class Slave(NodeDevice):
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
        measure_period_ns: int | None,
        seed: str,
        flash_times_ns: tuple[int, int] = (ERASE_NS, PROGRAM_NS),
        flash_size_bytes: int = FLASH_SIZE_BYTES,
        protocols: NodeProtocols = NodeProtocols(),  # noqa: B008 - frozen
    ) -> None:
        """Make a slave without power that runs *factory_image*.

        *measure_period_ns* None: it never measures. *flash_times_ns*: to erase a block, to program a unit.
        """
        super().__init__(kernel, trace, name)
        self.position = position
        self._hardware_class = hardware_class
        self._messages = SlaveMessages(database, position, profile.layout)
        self._sensors = sensors
        self._measure_period_ns = measure_period_ns
        self._offset_ns = slave_offset_ns(profile, position)
        self._seed = seed
        self._flash_times_ns = flash_times_ns
        self._flash_size_bytes = flash_size_bytes
        self._measure_timer: Timer | None = None
        self._alive = 0
        self._history = new_history()
        self._frame_faults: list[FrameFault] = []
        self._transmission = 0
        self.hwid = hwid
        self.node = BootloaderNode(
            kernel=kernel,
            wire=wire,
            owner=self,
            identity=self._identity(hwid),
            flash=self._new_flash(hwid),
            journal_size_bytes=JOURNAL_SIZE_BYTES,
            image_keys=image_keys,
            boot_time_ns=BOOT_TIME_NS,
            protocols=protocols,
        )
        self.node.install_factory(factory_image)
        self._port = bus.attach(self._receive, name=name, drained=self.node.drained)
        self.node.add_port(self._port)

    def _identity(self, hwid: str) -> TargetIdentity:
        return TargetIdentity(
            position=self.position,
            role=ImageRole.SLAVE,
            hwid=hwid,
            serial=hwid,
            hardware_class=self._hardware_class,
        )

    def _new_flash(self, hwid: str) -> FlashModel:
        erase_ns, program_ns = self._flash_times_ns
        return FlashModel(self._flash_size_bytes, erase_ns=erase_ns, program_ns=program_ns, seed=f"{self._seed}/{hwid}")

    def replace(self, hwid: str, factory_image: bytes) -> None:
        """Another piece of hardware takes this position, as it comes from the factory. The power must be off."""
        self._trace.note(self._kernel.now_ns, self.name, f"replaced: {self.hwid} by {hwid}")
        self.hwid = hwid
        self.node.replace(self._identity(hwid), self._new_flash(hwid))
        self.node.install_factory(factory_image)

    @property
    def boot_result(self) -> BootResult | None:
        """What the last boot found; None without power."""
        return self.node.boot_result

    @property
    def power_cut_plan(self) -> PowerCutPlan | None:
        """When the supply will fail, or has failed."""
        return self.node.power_cut_plan

    @power_cut_plan.setter
    def power_cut_plan(self, plan: PowerCutPlan | None) -> None:
        self.node.power_cut_plan = plan

    # -- power -----------------------------------------------------------------------------------------------------------

    def disturb_frames(self, kind: FrameFaultKind, rounds: int) -> None:
        """Let one frame of the next *rounds* measurement rounds go wrong; which one is drawn from the seed."""
        random = Random(f"{self._seed}/{self.hwid}/{kind.value}")  # noqa: S311 - a replayable draw, not a secret
        self._frame_faults.append(FrameFault(kind, rounds=rounds, random=random))
        self._trace.note(self._kernel.now_ns, self.name, f"{kind.value} begins, for {rounds} rounds")

    @property
    def frame_faults(self) -> frozenset[str]:
        """The kinds of frame faults that have happened."""
        return frozenset(fault.kind.value for fault in self._frame_faults if fault.happened)

    def power_off(self) -> None:
        super().power_off()
        self._stop_measuring()

    # -- the node (NodeOwner) --------------------------------------------------------------------------------------------

    def booted(self, store: BootStore, result: BootResult) -> None:
        self._trace.note(self._kernel.now_ns, self.name, f"boots {self.version}: {result.reason.name}")
        for problem in filter(None, (store.journal_problem, store.worn)):
            self._trace.note(self._kernel.now_ns, self.name, problem)
        # What was in its memory is gone.
        self._alive = 0
        self._history.clear()
        if result.reason is not BootReason.NOTHING:
            self._send_identity(store)
            self._start_measuring()

    def bootloader_entered(self) -> None:
        self._stop_measuring()

    def bootloader_left(self) -> None:
        self._start_measuring()

    # -- the application -------------------------------------------------------------------------------------------------

    def _start_measuring(self) -> None:
        # Positions send one after another, so that rounds of different slaves do not meet on the bus.
        period = self._measure_period_ns
        if period is not None and self._measure_timer is None:
            start = self._kernel.now_ns
            self._measure_timer = self._kernel.call_at(start - start % period + period + self._offset_ns, self._measure)

    def _stop_measuring(self) -> None:
        if self._measure_timer is not None:
            self._measure_timer.cancel()
            self._measure_timer = None

    def _measure(self) -> None:
        assert self._measure_period_ns is not None
        self._measure_timer = self._kernel.call_in(self._measure_period_ns, self._measure)
        sensors = self._sensors
        frames = self._messages.measurements(sensors.cell_voltages_v(), sensors.temperatures_c(), alive=self._alive)
        self._alive += 1
        sent = frames
        for fault in self._frame_faults:
            sent = fault.disturb(sent, self._history)
        self._history.append(frames)
        for frame in sent:
            self._port.send(frame)

    def _send_identity(self, store: BootStore) -> None:
        assert self.version is not None
        self._transmission += 1
        frames = self._messages.identity(
            hwid=self.hwid,
            version=self.version,
            security_counter=store.security_counter,
            transmission=self._transmission,
        )
        for frame in frames:
            self._port.send(frame)

    # -- the bus ---------------------------------------------------------------------------------------------------------

    def _receive(self, frame: CanFrame, now_ns: int) -> None:
        self.node.receive(frame, now_ns, self._port)
