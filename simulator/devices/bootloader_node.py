"""What every flashable device has in common: a flash, a boot, and a bootloader target on one bus or two.

`BootloaderNode` is the part of a virtual master or slave that `bmsota.bootloader` and `bmsota.boot` decide about. It boots
the device, carries frames and time to its `BootloaderTarget`, and says to its owner, the device, what happened. Power is
the owner's business; what the power takes with it is not: `power_off` leaves nothing but the flash.
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
    StagingStarted,
    TargetIdentity,
)
from bmsota.image import verify_image
from simulator.devices.flash import CutPhase, PowerCut
from simulator.kernel import SECOND
from simulator.links.canbus import EXTENDED_FLAG

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.boot import BootResult, Flash
    from bmsota.bootloader import BootloaderWire, NodeState
    from bmsota.canframe import CanFrame
    from bmsota.image import FirmwareImage, ImageVersion, PublicKey
    from simulator.devices.flash import FlashModel
    from simulator.kernel import Kernel, Timer
    from simulator.links.canbus import Port

__all__ = ["BootloaderNode", "NodeOwner", "PowerCutPlan", "data_keys", "reply_keys", "request_keys"]

# How long the supply stays away after a cut that nobody planned a time for.
OFF_TIME_NS = SECOND


def request_keys(wire: BootloaderWire) -> frozenset[int]:
    """Filter keys (`Port.accept`) of the flasher's commands."""
    return _keys(wire, wire.request_id, 1)


def data_keys(wire: BootloaderWire) -> frozenset[int]:
    """Filter keys of the flasher's data."""
    return _keys(wire, wire.data_id, BLOCK_FRAMES_MAX)


def reply_keys(wire: BootloaderWire, first: int, count: int) -> frozenset[int]:
    """Filter keys of what the nodes at *count* positions from *first* on answer."""
    return _keys(wire, wire.reply_id + first, count)


def _keys(wire: BootloaderWire, first: int, count: int) -> frozenset[int]:
    flag = EXTENDED_FLAG if wire.is_extended_id else 0
    return frozenset(flag | can_id for can_id in range(first, first + count))


class PowerCutPlan:
    """The supply fails once, inside a flash operation, when so much of a new image is stored."""

    def __init__(self, at_progress: float, off_ns: int) -> None:
        self.at_progress = at_progress
        self.off_ns = off_ns
        self.happened = False


class NodeOwner(Protocol):
    """The device around a node."""

    def booted(self, store: BootStore, result: BootResult) -> None:
        """The boot is done and the ports are on. `BootReason.NOTHING`: there is no application, only the bootloader."""

    def bootloader_entered(self) -> None:
        """A flasher has the device: the application rests."""

    def bootloader_left(self) -> None:
        """The application goes on."""

    def restart_requested(self) -> None:
        """The device must restart now."""

    def supply_failed(self) -> None:
        """The power failed inside a flash operation; the node must be switched off before anything else."""


class BootloaderNode:
    """The flash, the boot and the bootloader of one device."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        wire: BootloaderWire,
        owner: NodeOwner,
        identity: TargetIdentity,
        flash: FlashModel,
        journal_size_bytes: int,
        image_keys: tuple[PublicKey, ...],
        boot_time_ns: int,
        is_locked: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make a node without power, with an empty flash.

        Args:
            kernel: the clock.
            wire: the bootloader's frames.
            owner: is told what happens.
            identity: who the node is; another piece of hardware gets another one by `replace`.
            flash: outlives every loss of power.
            journal_size_bytes: how much of it the boot journal takes.
            image_keys: whose signature an image must carry to run.
            boot_time_ns: from supply to the first frame: clocks, self-check, digest of the image.
            is_locked: while true the flash is somebody else's, and the bootloader refuses to change anything.
        """
        self._kernel = kernel
        self._wire = wire
        self._owner = owner
        self._journal_size_bytes = journal_size_bytes
        self._image_keys = image_keys
        self._boot_time_ns = boot_time_ns
        self._is_locked = is_locked
        self.identity = identity
        self.flash = flash
        self.is_powered = False
        self.boot_result: BootResult | None = None
        self.power_cut_plan: PowerCutPlan | None = None
        self.progress: tuple[int, int] | None = None
        """(bytes stored, size) of the image that is being received or was received last; None since the boot."""
        self._target: BootloaderTarget | None = None
        self._ports: list[tuple[Port, frozenset[int]]] = []
        self._answering: Port | None = None
        self._timer: Timer | None = None
        self._due_ns: int | None = None
        self._boot_timer: Timer | None = None
        self._request_keys = request_keys(wire)
        self._data_keys = data_keys(wire)

    @property
    def version(self) -> ImageVersion | None:
        """Version of the running image; None without power or image."""
        result = self.boot_result
        return None if result is None or result.facts is None else result.facts.version

    @property
    def state(self) -> NodeState | None:
        """What the node is doing; None without power and until it has booted."""
        return None if self._target is None else self._target.state

    @property
    def ports(self) -> list[Port]:
        """Where it listens and answers."""
        return [port for port, _ in self._ports]

    @property
    def off_ns(self) -> int:
        """How long the supply stays away after a cut."""
        return OFF_TIME_NS if self.power_cut_plan is None else self.power_cut_plan.off_ns

    def add_port(self, port: Port, also: frozenset[int] = frozenset()) -> None:
        """Let the node listen and answer on *port*, whose filter is the node's from now on.

        *also*: identifiers that the device wants for itself there. The device hands over what it hears: `receive`.
        """
        self._ports.append((port, also | self._request_keys))
        self._answering = port
        port.accept(also | self._request_keys)
        port.power(on=self._target is not None)

    def new_store(self) -> BootStore:
        """Slots and journal, as the flash has them."""
        flash: Flash = self.flash
        layout = SlotLayout.divide(flash, journal_size_bytes=self._journal_size_bytes)
        identity = self.identity
        verify = for_hardware(self._verify, class_id=identity.hardware_class.class_id, role=identity.role)
        return BootStore(flash, layout, verify=verify)

    def _verify(self, data: bytes) -> FirmwareImage:
        return verify_image(data, public_keys=self._image_keys)

    def replace(self, identity: TargetIdentity, flash: FlashModel) -> None:
        """Another piece of hardware is here now. The power must be off."""
        assert not self.is_powered
        self.identity = identity
        self.flash = flash

    # -- power -----------------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """The supply is there: boot after a moment."""
        if self.is_powered:
            return
        self.is_powered = True
        self.flash.power_on()
        self._boot_timer = self._kernel.call_in(self._boot_time_ns, self._boot)

    def power_off(self) -> None:
        """The supply is gone, whatever was going on."""
        self.is_powered = False
        self.flash.power_off()
        for port, idle in self._ports:
            port.power(on=False)
            port.accept(idle)
        self._target = None
        self.boot_result = None
        self.progress = None
        for timer in (self._boot_timer, self._timer):
            if timer is not None:
                timer.cancel()
        self._boot_timer = self._timer = None
        self._due_ns = None

    def _boot(self) -> None:
        self._boot_timer = None
        try:
            store = self.new_store()
            result = self.boot_result = store.boot()
        except PowerCut:
            self._owner.supply_failed()
            return
        self._target = BootloaderTarget(
            self._wire, identity=self.identity, store=store, boot=result, is_locked=self._is_locked
        )
        for port, _ in self._ports:
            port.power(on=True)
        if result.facts is None:
            self._listen_for_data()
        self._owner.booted(store, result)

    # -- frames and time -------------------------------------------------------------------------------------------------

    def receive(self, frame: CanFrame, now_ns: int, port: Port) -> None:
        """A frame was on the bus of *port*; answers go there."""
        self._answering = port
        target = self._target
        if target is None:
            return
        try:
            target.receive_frame(frame, now_ns)
            self._pump(now_ns)
        except PowerCut:
            self._owner.supply_failed()

    def drained(self, now_ns: int) -> None:
        """A port has sent everything it had."""
        if self._target is not None:
            self._pump(now_ns)

    def _timeout(self) -> None:
        self._timer = None
        self._due_ns = None
        if self._target is None:
            return
        try:
            self._target.handle_timeout(self._kernel.now_ns)
            self._pump(self._kernel.now_ns)
        except PowerCut:
            self._owner.supply_failed()

    def _pump(self, now_ns: int) -> None:
        target, port = self._target, self._answering
        assert target is not None
        assert port is not None
        for frame in target.frames_to_send(now_ns):
            port.send(frame)
        while (event := target.next_event()) is not None:
            match event:
                case BootloaderEntered():
                    self._listen_for_data()
                    self._owner.bootloader_entered()
                case BootloaderLeft():
                    for each, idle in self._ports:
                        each.accept(idle)
                    self._owner.bootloader_left()
                case StagingStarted(offset, size_bytes):
                    self.progress = (offset, size_bytes)
                case BlockStored(next_offset, size_bytes):
                    self.progress = (next_offset, size_bytes)
                    self._plan_power_cut(next_offset / size_bytes)
                case ResetRequested():
                    self._kernel.call_soon(self._restart, target)
                    return
                case _:
                    pass
        due = target.next_timeout()
        if due != self._due_ns:
            if self._timer is not None:
                self._timer.cancel()
            self._due_ns = due
            self._timer = None if due is None else self._kernel.call_at(due, self._timeout)

    def _listen_for_data(self) -> None:
        """Only a node that is being flashed listens to data frames; its acceptance filter keeps the others' away."""
        for port, idle in self._ports:
            port.accept(idle | self._data_keys)

    def _restart(self, target: BootloaderTarget) -> None:
        if self._target is target:
            self._owner.restart_requested()

    def _plan_power_cut(self, progress: float) -> None:
        plan = self.power_cut_plan
        if plan is not None and not plan.happened and progress >= plan.at_progress:
            plan.happened = True
            self.flash.cut_at(self.flash.operations + 1, CutPhase.INSIDE)
