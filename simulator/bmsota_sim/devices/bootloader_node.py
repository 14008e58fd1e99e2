"""What every flashable device has in common: a flash, a boot, and a bootloader on one bus or two.

`BootloaderNode` is the part of a virtual master or slave that `bmsota.bootloader`, `bmsota.uds` and `bmsota.boot` decide
about. It boots the device, carries frames and time to its cores, and says to its owner, the device, what happened. Power is
the owner's business; what the power takes with it is not: `power_off` leaves nothing but the flash.

A node may speak two protocols on one flash, the bootloader's and UDS. Who has entered the bootloader by one of them has it:
meanwhile the other side is refused (bootloader, IN_USE) or not heard (UDS).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.bootloader import BLOCK_FRAMES_MAX, BootloaderTarget, TargetTiming
from bmsota.image import verify_image
from bmsota.node import (
    AccessGuard,
    ApplicationStarted,
    BlockStored,
    BootloaderEntered,
    BootloaderLeft,
    CanProtocol,
    ImageConfirmed,
    ResetRequested,
    StagingStarted,
    TargetEvent,
    TargetIdentity,
)
from bmsota_sim.devices.flash import CutPhase, FlashContents, PowerCut, share_pages
from bmsota_sim.kernel import SECOND
from bmsota_sim.links.canbus import EXTENDED_FLAG, filter_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from bmsota.boot import BootResult, Flash
    from bmsota.bootloader import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.image import FirmwareImage, ImageVersion, PublicKey
    from bmsota.node import NodeMode
    from bmsota.uds import UdsAddressing
    from bmsota_sim.devices.flash import FlashModel
    from bmsota_sim.kernel import Kernel, Timer
    from bmsota_sim.links.canbus import Port
    from bmsota_sim.trace import Trace

__all__ = [
    "BootloaderNode",
    "NodeDevice",
    "NodeOwner",
    "NodeProtocols",
    "PowerCutPlan",
    "data_keys",
    "reply_keys",
    "request_keys",
    "uds_request_keys",
    "uds_response_keys",
]

# Images whose signature a node need not check again, because another one has: those of a fleet and of its upgrade.
# A node copies its image when it has had nothing else to do for so long, then a block at a time.
BACK_UP_DELAY_NS = 10 * SECOND
BACK_UP_PERIOD_NS = SECOND // 10

# Kinds of new nodes whose flashes are kept for the next ones: a fleet has a few, a test its own.
FACTORY_MAX = 32
_FACTORY: dict[tuple[object, ...], FlashContents] = {}

# Images that were verified, by their bytes and the keys: nodes that run the same share what they know of it.
VERIFIED_MAX = 64
_VERIFIED: dict[tuple[bytes, tuple[bytes, ...]], FirmwareImage] = {}

# How long the supply stays away after a cut without a planned time.
OFF_TIME_NS = SECOND

# How a locked node limits wrong keys, as most devices in the field do.
ACCESS_DELAY_NS = 10 * SECOND
ACCESS_FAILURES_MAX = 3


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
    return _range(EXTENDED_FLAG if wire.is_extended_id else 0, first, count)


@lru_cache(maxsize=256)
def _range(flag: int, first: int, count: int) -> frozenset[int]:
    """Shared by all nodes that listen alike."""
    return frozenset(flag | can_id for can_id in range(first, first + count))


def uds_request_keys(addressing: UdsAddressing, first: int, count: int) -> frozenset[int]:
    """Filter keys of what UDS testers send to *count* positions from *first* on, as far as they have ids, and to all."""
    flag = EXTENDED_FLAG if addressing.is_extended_id else 0
    addresses = [addressing.address(position) for position in _positions(addressing, first, count)]
    return frozenset(flag | can_id for each in addresses for can_id in (each.request_id, each.functional_id))


def uds_response_keys(addressing: UdsAddressing, first: int, count: int) -> frozenset[int]:
    """Filter keys of what the nodes at these positions answer by UDS."""
    flag = EXTENDED_FLAG if addressing.is_extended_id else 0
    return frozenset(flag | addressing.address(each).response_id for each in _positions(addressing, first, count))


def _positions(addressing: UdsAddressing, first: int, count: int) -> range:
    return range(first, min(first + count, addressing.positions))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProtocols:
    """How a node can be flashed."""

    has_bootloader: bool = True
    uds: UdsAddressing | None = None
    """None: it does not speak UDS; neither does a node whose position has no ids there."""
    access_keys: tuple[Ed25519PublicKey, ...] = ()
    """A flasher must have one of the private keys to change images; empty: the node is not locked."""
    seed: str = ""
    """Of challenges, seeds and boot ids."""
    boot_window_ns: int = 0
    """How long it listens after a restart before its application starts; 0: the application starts at once."""


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
        """The application continues."""

    def restart_requested(self) -> None:
        """The device must restart now."""

    def supply_failed(self) -> None:
        """The power failed inside a flash operation; the node must be switched off before anything else."""


class _NodeProtocol(CanProtocol[TargetEvent], Protocol):
    """`BootloaderTarget` and `UdsServer`."""

    @property
    def state(self) -> NodeMode: ...

    @property
    def is_in_boot_window(self) -> bool: ...


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
        spare_images: Callable[[], Iterable[bytes]] = tuple,
        protocols: NodeProtocols = NodeProtocols(),
    ) -> None:
        """Make a node without power, with an empty flash.

        Args:
            kernel: the clock.
            wire: the bootloader's frames.
            owner: is notified of what happens.
            identity: who the node is; another piece of hardware gets another one by `replace`.
            flash: outlives every loss of power.
            journal_size_bytes: how much of it the boot journal takes.
            image_keys: whose signature an image must carry to run.
            boot_time_ns: from supply to the first frame: clocks, self-check, digest of the image.
            is_locked: while true another upgrade has the flash, and the bootloader refuses to change anything.
            spare_images: image files outside this flash, for a boot that finds none in it that can run.
            protocols: how it can be flashed.
        """
        self._kernel = kernel
        self._wire = wire
        self._owner = owner
        self._journal_size_bytes = journal_size_bytes
        self._image_keys = image_keys
        self._key_names = tuple(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in image_keys)
        self._boot_time_ns = boot_time_ns
        self._is_locked = is_locked
        self._spare_images = spare_images
        self._protocols = protocols
        self._seed = f"{protocols.seed}/{identity.hwid}"
        self._random: Random | None = None  # Made by the first challenge: most nodes never make one, and it is 2.5 kB.
        self.identity = identity
        self.flash = flash
        self.is_powered = False
        self.boot_result: BootResult | None = None
        self.power_cut_plan: PowerCutPlan | None = None
        self.progress: tuple[int, int] | None = None
        """(bytes stored, size) of the image that is being received or was received last; None since the boot."""
        self.application_hangs = False
        """Whether nothing comes from the node, and it does nothing, while its application runs."""
        self._waits_for_window = False
        self._target: BootloaderTarget | None = None
        self._hears_data = False
        self._server: _NodeProtocol | None = None
        self._cores: tuple[_NodeProtocol, ...] = ()
        self._holder: _NodeProtocol | None = None
        self._ports: list[tuple[Port, frozenset[int]]] = []
        self._answering: Port | None = None
        self._timer: Timer | None = None
        self._due_ns: int | None = None
        self._boot_timer: Timer | None = None
        self._store: BootStore | None = None
        self._back_up_timer: Timer | None = None
        self._request_keys = request_keys(wire) if protocols.has_bootloader else frozenset()
        self._data_keys = data_keys(wire) if protocols.has_bootloader else frozenset()
        if protocols.uds is not None:
            self._request_keys |= uds_request_keys(protocols.uds, identity.position, 1)

    @property
    def version(self) -> ImageVersion | None:
        """Version of the running image; None without power or image."""
        result = self.boot_result
        return None if result is None or result.facts is None else result.facts.version

    @property
    def state(self) -> NodeMode | None:
        """What the node is doing; None without power and until it has booted."""
        core = self._holder or self._target or self._server
        return None if core is None else core.state

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
        port.power(on=bool(self._cores))

    def new_store(self) -> BootStore:
        """Slots and journal, as the flash has them."""
        flash: Flash = self.flash
        layout = SlotLayout.divide(flash, journal_size_bytes=self._journal_size_bytes)
        identity = self.identity
        verify = for_hardware(self._verify, class_id=identity.hardware_class.class_id, role=identity.role)
        return BootStore(flash, layout, verify=verify, spare_images=self._spare_images)

    def install_factory(self, image: bytes) -> None:
        """What the production line does with a new node. Nodes that are alike share what it leaves in their flashes.

        Raises:
            LocalProtocolError: the image does not fit.
            ImageError: it is malformed.
            TrustError: it is not for this node.
        """
        flash, identity = self.flash, self.identity
        sizes = (flash.size_bytes, flash.erase_block_bytes, flash.write_unit_bytes, self._journal_size_bytes)
        made = (image, sizes, identity.role, identity.hardware_class.class_id, self._key_names)
        if flash.is_new and made in _FACTORY:
            flash.hold(_FACTORY[made])
            return
        is_new = flash.is_new
        self.new_store().install_factory(image)
        if is_new and len(_FACTORY) < FACTORY_MAX:
            _FACTORY[made] = contents = flash.contents()
            share_pages(contents)
            flash.hold(contents)

    def _draw(self, size: int) -> bytes:
        if self._random is None:
            self._random = Random(self._seed)  # noqa: S311 - a simulation's challenges replay
        return self._random.randbytes(size)

    def _verify(self, data: bytes) -> FirmwareImage:
        made = (data, self._key_names)
        image = _VERIFIED.get(made)
        if image is None:
            image = verify_image(data, public_keys=self._image_keys)
            if len(_VERIFIED) >= VERIFIED_MAX:
                _VERIFIED.clear()
            _VERIFIED[made] = image
        return image

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
        self._target = self._server = self._holder = self._store = None
        self._waits_for_window = False
        self._hears_data = False
        self._cores = ()
        self.boot_result = None
        self.progress = None
        for timer in (self._boot_timer, self._timer, self._back_up_timer):
            if timer is not None:
                timer.cancel()
        self._boot_timer = self._timer = self._back_up_timer = None
        self._due_ns = None

    def _boot(self) -> None:
        self._boot_timer = None
        try:
            store = self.new_store()
            result = self.boot_result = store.boot()
        except PowerCut:
            self._owner.supply_failed()
            return
        self._store = store
        self._make_cores(store, result)
        for port, _ in self._ports:
            port.power(on=True)
        self._listen_for_data()
        self._waits_for_window = True
        if any(core.is_in_boot_window for core in self._cores):
            self._timeout()  # The window begins now.
        else:
            self._start_application()

    def _start_application(self) -> None:
        store, result = self._store, self.boot_result
        if not self._waits_for_window or store is None or result is None:
            return
        self._waits_for_window = False
        self._owner.booted(store, result)
        self.back_up_soon()

    @property
    def _is_hanging(self) -> bool:
        return self.application_hangs and not self._waits_for_window and self._holder is None

    # -- a copy of the image that runs -------------------------------------------------------------------------------------

    def back_up_soon(self) -> None:
        """An upgrade may be over: copy the new image into the other slot, unless something else happens first."""
        if self._back_up_timer is None and self._store is not None and self._store.wants_back_up:
            self._back_up_timer = self._kernel.call_in(BACK_UP_DELAY_NS, self._back_up)

    def _back_up(self) -> None:
        self._back_up_timer = None
        store = self._store
        assert store is not None
        if self._holder is not None or self._is_locked():
            self.back_up_soon()
            return
        try:
            has_more = store.back_up_block()
        except PowerCut:
            self._owner.supply_failed()
            return
        if has_more:
            self._back_up_timer = self._kernel.call_in(BACK_UP_PERIOD_NS, self._back_up)

    def _make_cores(self, store: BootStore, result: BootResult) -> None:
        protocols, identity = self._protocols, self.identity
        if protocols.has_bootloader:
            access = None
            if protocols.access_keys:
                access = AccessGuard(
                    protocols.access_keys,
                    self._draw,
                    delay_ns=ACCESS_DELAY_NS,
                    failures_max=ACCESS_FAILURES_MAX,
                )
            self._target = BootloaderTarget(
                self._wire,
                identity=identity,
                store=store,
                boot=result,
                access=access,
                timing=TargetTiming(boot_window_ns=protocols.boot_window_ns),
                is_locked=lambda: self._is_locked() or (self._holder is not None and self._holder is self._server),
            )
        if protocols.uds is not None and identity.position < protocols.uds.positions:
            from bmsota.uds import UdsServer, UdsServerTiming, ed25519_access_check  # noqa: PLC0415 - a fleet does without

            self._server = UdsServer(
                protocols.uds.address(identity.position),
                identity=identity,
                store=store,
                boot=result,
                random_bytes=self._draw,
                access=ed25519_access_check(protocols.access_keys) if protocols.access_keys else None,
                timing=UdsServerTiming(boot_window_ns=protocols.boot_window_ns),
                is_locked=self._is_locked,
            )
        self._cores = tuple(core for core in (self._target, self._server) if core is not None)

    # -- frames and time -------------------------------------------------------------------------------------------------

    def receive(self, frame: CanFrame, now_ns: int, port: Port) -> None:
        """A frame was on the bus of *port*; if it asks for something, answers go there from now on."""
        if self._is_hanging:
            return
        if filter_key(frame) in self._request_keys:
            self._answering = port
        try:
            for core in self._cores:
                if core is self._server and self._holder is not None and self._holder is not core:
                    continue  # It is in its other bootloader, which does not speak UDS.
                core.receive_frame(frame, now_ns)
                self._pump(core, now_ns)
        except PowerCut:
            self._owner.supply_failed()
            return
        self._schedule()

    def drained(self, now_ns: int) -> None:
        """A port has sent everything it had."""
        for core in self._cores:
            self._pump(core, now_ns)
        self._schedule()

    def _timeout(self) -> None:
        self._timer = None
        self._due_ns = None
        now_ns = self._kernel.now_ns
        try:
            for core in self._cores:
                core.handle_timeout(now_ns)
                self._pump(core, now_ns)
        except PowerCut:
            self._owner.supply_failed()
            return
        self._schedule()

    def _pump(self, core: _NodeProtocol, now_ns: int) -> None:
        port = self._answering
        assert port is not None
        for frame in core.frames_to_send(now_ns):
            port.send(frame)
        while (event := core.next_event()) is not None:
            match event:
                case ApplicationStarted():
                    if self._holder is None:
                        self._start_application()
                case BootloaderEntered():
                    self._start_application()
                    self._holder = core
                    self._owner.bootloader_entered()
                case BootloaderLeft():
                    self._holder = None
                    self._owner.bootloader_left()
                case ImageConfirmed():
                    self.back_up_soon()
                case StagingStarted(offset, size_bytes):
                    self.progress = (offset, size_bytes)
                case BlockStored(next_offset, size_bytes):
                    self.progress = (next_offset, size_bytes)
                    self._plan_power_cut(next_offset / size_bytes)
                case ResetRequested():
                    self._kernel.call_soon(self._restart, core)
                    return
                case _:
                    pass
        self._listen_for_data()

    def _schedule(self) -> None:
        due = None
        for core in self._cores:
            wanted = core.next_timeout()
            if wanted is not None and (due is None or wanted < due):
                due = wanted
        if due != self._due_ns:
            if self._timer is not None:
                self._timer.cancel()
            self._due_ns = due
            self._timer = None if due is None else self._kernel.call_at(due, self._timeout)

    def _listen_for_data(self) -> None:
        """Only a node that is being flashed or unlocked hears data frames; its acceptance filter keeps the others' away."""
        wants_data = self._target is not None and self._target.wants_data
        if wants_data is not self._hears_data:
            self._hears_data = wants_data
            for port, idle in self._ports:
                port.accept(idle | self._data_keys if wants_data else idle)

    def _restart(self, core: _NodeProtocol) -> None:
        if core in self._cores:
            self._owner.restart_requested()

    def _plan_power_cut(self, progress: float) -> None:
        plan = self.power_cut_plan
        if plan is not None and not plan.happened and progress >= plan.at_progress:
            plan.happened = True
            self.flash.cut_at(self.flash.operations + 1, CutPhase.INSIDE)


class NodeDevice:
    """A device that is not much more than its node: its supply, and what brings it back after an accident.

    Subclasses make `node` with themselves as its owner.
    """

    node: BootloaderNode

    def __init__(self, kernel: Kernel, trace: Trace, name: str) -> None:
        self._kernel = kernel
        self._trace = trace
        self.name = name
        self._restart_timer: Timer | None = None

    @property
    def version(self) -> ImageVersion | None:
        """Version of the running image; None without power or image."""
        return self.node.version

    def power_on(self) -> None:
        """The supply is there: boot after a moment."""
        self.node.power_on()

    def power_off(self) -> None:
        """The supply is gone, whatever was going on."""
        self.node.power_off()
        if self._restart_timer is not None:
            self._restart_timer.cancel()
            self._restart_timer = None

    def restart_requested(self) -> None:
        self.power_off()
        self.power_on()

    def supply_failed(self) -> None:
        self._trace.note(self._kernel.now_ns, self.name, "power cut inside a flash operation")
        self.power_off()
        self._restart_timer = self._kernel.call_in(self.node.off_ns, self.power_on)
