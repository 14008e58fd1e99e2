"""A bench in memory: one flasher and some nodes on a direct pipe with a time loop, a power switch and a hostile bus."""

from __future__ import annotations

import heapq
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from bmsota_sim.devices.flash import FlashModel, PowerCut
from bmsota_sim.kernel import Kernel
from bmsota_sim.links.canbus import BusFaults, CanBus
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.bootloader import BootloaderCommand, BootloaderTarget, BootloaderWire
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.node import NodeCommand, ResetRequested, TargetIdentity
from bmsota.signals import loads

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.boot import BootResult
    from bmsota.canframe import CanFrame

DBC_FOLDER = Path(__file__).resolve().parents[3] / "dbc"
DBC_PATH = DBC_FOLDER / "bms_bootloader.dbc"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
SLAVE_CLASS = HardwareClass.named("bmsota.example", "test-slave")
US, MS, SECOND = 1_000, 1_000_000, 1_000_000_000

# A classic data frame of 8 bytes with 11-bit id at 500 kbit/s and expected stuffing (shared/can_limits.py: 113.8 bits).
FRAME_NS = 227_600


@cache
def database(name: str = "bms_bootloader") -> Any:
    return loads((DBC_FOLDER / f"{name}.dbc").read_text(encoding="utf-8"))


@cache
def make_image(
    version: str = "2.1.0",
    *,
    counter: int = 2,
    size: int = 3000,
    role: ImageRole = ImageRole.SLAVE,
    hardware: HardwareClass = SLAVE_CLASS,
    key: Ed25519PrivateKey = KEY,
) -> bytes:
    """A whole signed image file with a payload of *size* bytes."""
    return build_image(
        Random(f"{version}/{size}").randbytes(size),
        version=ImageVersion.parse(version),
        security_counter=counter,
        hardware_class=hardware,
        role=role,
        signing_key=key,
    )


OLD = partial(make_image, "2.0.0", counter=1)
NEW = partial(make_image, "2.1.0", counter=2)


class Node:
    """A slave with a flash and a switch. Off: no target. On: a new store, a boot, a new target.

    *options* go to the target; `access` is made anew at each boot.
    """

    def __init__(
        self, position: int = 1, *, factory: bytes | None, flash: FlashModel | None = None, **options: Any
    ) -> None:
        self.position = position
        self.wire: BootloaderWire | None = None
        """Its own, if it is not the flasher's."""
        self.flash = flash or FlashModel(16 * 1024, erase_block_bytes=1024, seed=f"node {position}")
        self.options = options
        self.layout = SlotLayout.divide(self.flash)
        self.identity = TargetIdentity(
            position=position,
            role=ImageRole.SLAVE,
            hwid=f"HW-{position:04d}",
            serial=f"SN{position:010d}",
            hardware_class=SLAVE_CLASS,
        )
        verify = partial(verify_image, public_keys=[KEY.public_key()])
        self.verify = for_hardware(verify, class_id=SLAVE_CLASS.class_id, role=ImageRole.SLAVE)
        self.target: BootloaderTarget | None = None
        self.store: BootStore
        self.boot: BootResult
        self.boots: list[BootResult] = []
        self.events: list[Any] = []
        if factory is not None:
            BootStore(self.flash, self.layout, verify=self.verify).install_factory(factory)

    def power_on(self, wire: BootloaderWire) -> None:
        self.flash.power_on()
        self.store = BootStore(self.flash, self.layout, verify=self.verify)
        self.boot = self.store.boot()
        self.store.take_busy_ns()
        self.boots.append(self.boot)
        options = {name: value() if name == "access" else value for name, value in self.options.items()}
        wire = self.wire or wire
        self.target = BootloaderTarget(wire, identity=self.identity, store=self.store, boot=self.boot, **options)

    def power_off(self) -> None:
        self.flash.power_off()
        self.target = None

    @property
    def running_version(self) -> str:
        assert self.boot.facts is not None
        return str(self.boot.facts.version)


class Bench:
    """The bus: one frame at a time, each delayed by its time on the wire; `fault(frame, rng)` says what becomes of it.

    A fault returns the delays (ns) after which copies arrive: (0,) is a good bus, () a loss, (0, 0) a duplicate.
    """

    def __init__(
        self, *nodes: Node, seed: int | str = 0, restart_ns: int = 300 * MS, dbc: str = "bms_bootloader"
    ) -> None:
        self.wire = BootloaderWire(database(dbc))
        self.nodes = nodes
        self.now_ns = 1_000 * SECOND
        self.client: Any = None
        self.events: list[Any] = []
        self.sent: list[CanFrame] = []
        self.frames = 0
        self.fault: Callable[[CanFrame, Random], tuple[int, ...]] | None = None
        self.ear: Callable[[Node | None, CanFrame, int], list[CanFrame]] | None = None
        """What a node, or the client (None), hears of a frame that passes on the bus at this time; None: all of it."""
        self.rng = Random(seed)
        self.restart_ns = restart_ns
        self.on_frame: Callable[[CanFrame], None] | None = None
        self._heap: list[tuple[int, int, Any, Any]] = []
        self._sequence = 0
        self._bus_free_ns = 0
        self._is_cut = False
        for node in nodes:
            self._start(node)

    def _push(self, when_ns: int, kind: Any, value: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when_ns, self._sequence, kind, value))

    def _start(self, node: Node) -> None:
        try:
            node.power_on(self.wire)
        except PowerCut:
            self._cut(node)

    def _cut(self, node: Node) -> None:
        node.power_off()
        self._push(self.now_ns + self.restart_ns, "power on", node)

    def cut_power(self, node: Node) -> None:
        self._cut(node)

    def cut_client(self) -> None:
        """The flasher is gone, and with it what waits in its adapter."""
        self._heap = [entry for entry in self._heap if entry[2] is not self.client]
        heapq.heapify(self._heap)
        self._bus_free_ns = self.now_ns
        self._is_cut = True

    def _transmit(self, frames: list[CanFrame], sender: Any) -> None:
        for frame in frames:
            self._bus_free_ns = max(self._bus_free_ns, self.now_ns) + FRAME_NS
            self.frames += 1
            delays = (0,) if self.fault is None else self.fault(frame, self.rng)
            for delay in delays:
                self._push(self._bus_free_ns + delay, sender, frame)

    def _deliver(self, sender: Any, frame: CanFrame) -> None:
        if self.on_frame is not None:
            self.on_frame(frame)
        if sender is not self.client and self.client is not None:
            for heard in self._heard(None, frame):
                self.client.receive_frame(heard, self.now_ns)
        for node in self.nodes:
            if node is sender:
                continue
            try:
                for heard in self._heard(node, frame):
                    if node.target is not None:
                        node.target.receive_frame(heard, self.now_ns)
            except PowerCut:
                self._cut(node)

    def _heard(self, listener: Node | None, frame: CanFrame) -> list[CanFrame]:
        return [frame] if self.ear is None else self.ear(listener, frame, self.now_ns)

    def _pump(self) -> None:
        if self.client is not None:
            self.client.handle_timeout(self.now_ns)
            frames = self.client.frames_to_send(self.now_ns)
            self.sent += frames
            self._transmit(frames, self.client)
            self.events += iter(self.client.next_event, None)
        for node in self.nodes:
            target = node.target
            if target is None:
                continue
            target.handle_timeout(self.now_ns)
            self._transmit(target.frames_to_send(self.now_ns), node)
            while (event := target.next_event()) is not None:
                node.events.append(event)
                if isinstance(event, ResetRequested):
                    self._cut(node)

    def _next_due(self) -> int | None:
        machines = [machine for machine in (self.client, *(node.target for node in self.nodes)) if machine is not None]
        due = [timeout for machine in machines if (timeout := machine.next_timeout()) is not None]
        due += [self._heap[0][0]] if self._heap else []
        return max(self.now_ns, min(due)) if due else None

    def step(self, end_ns: int) -> bool:
        """Everybody acts, then the time goes on to what is due next; False: nothing is, before *end_ns*."""
        self._pump()
        if self.client is not None and self.client.finished:
            return False
        due = self._next_due()
        if due is None or due > end_ns:
            self.now_ns = end_ns
            return False
        self.now_ns = due
        while self._heap and self._heap[0][0] <= self.now_ns:
            _, _, sender, value = heapq.heappop(self._heap)
            if sender == "power on":
                self._start(value)
            else:
                self._deliver(sender, value)
        return True

    def run(self, client: Any = None, *, limit_s: float = 120) -> list[Any]:
        """Run until *client* is finished (without one: for *limit_s* seconds); its events."""
        self.client, self.events, self.sent, self._is_cut = client, [], [], False
        end_ns = self.now_ns + int(limit_s * SECOND)
        while client is None or not (client.finished or self._is_cut):
            if not self.step(end_ns):
                finished = client is None or client.finished
                assert finished, f"not finished after {limit_s} simulated seconds: {self.events[-3:]}"
                break
        if client is not None:
            self.events += iter(client.next_event, None)
        self.client = None
        return self.events

    def command(self, position: int, command: NodeCommand, **options: Any) -> Any:
        """Give one command; its only event."""
        return self.run(BootloaderCommand(self.wire, position=position, command=command, **options))[-1]


class Station:
    """One machine on one port of a `CanBus`: fed with what it hears, asked for more whenever its port has sent everything."""

    def __init__(self, bus: CanBus, name: str, heard: Callable[[Any], None]) -> None:
        self.kernel = bus.kernel
        self.machine: Any = None
        self.port = bus.attach(self._receive, name=name, drained=lambda _now_ns: self.pump())
        self.sent: list[CanFrame] = []
        self._heard = heard
        self._timer: Any = None

    def start(self, machine: Any) -> None:
        self.machine = machine
        self.port.power(on=True)
        self.pump()

    def stop(self) -> None:
        self.machine = None
        self.port.power(on=False)
        if self._timer is not None:
            self._timer.cancel()

    def _receive(self, frame: CanFrame, now_ns: int) -> None:
        if self.machine is not None:
            self.machine.receive_frame(frame, now_ns)
            self.pump()

    def _timeout(self) -> None:
        if self.machine is not None:
            self.machine.handle_timeout(self.kernel.now_ns)
            self.pump()

    def pump(self) -> None:
        machine, now_ns = self.machine, self.kernel.now_ns
        if machine is None:
            return
        while not self.port.pending and (frames := machine.frames_to_send(now_ns)):
            self.sent += frames
            for frame in frames:
                self.port.send(frame)
        while self.machine is machine and (event := machine.next_event()) is not None:
            self._heard(event)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ns = machine.next_timeout()
        # With frames still to be sent the port calls when it is done.
        if self.machine is machine and due_ns is not None and not self.port.pending:
            self._timer = self.kernel.call_at(max(due_ns, now_ns + 1), self._timeout)


class WireBench:
    """The same bench on the simulator's `CanBus`: real bit times, arbitration, and faults of each receiver's own."""

    def __init__(
        self,
        *nodes: Node,
        seed: int | str = 0,
        dbc: str = "bms_bootloader",
        data_bitrate_bps: int | None = None,
        **faults: float,
    ) -> None:
        self.wire = BootloaderWire(database(dbc))
        self.kernel = Kernel(1_000 * SECOND)
        self.bus = CanBus(
            self.kernel, data_bitrate_bps=data_bitrate_bps, seed=seed, faults=BusFaults(**faults), name="bench"
        )
        self.events: list[Any] = []
        self.client = Station(self.bus, "flasher", self.events.append)
        self.stations = {node: Station(self.bus, f"node {node.position}", partial(self._heard, node)) for node in nodes}
        for node in nodes:
            self.stations[node].port.power(on=False)
            self.power_on(node)

    def power_on(self, node: Node) -> None:
        node.power_on(self.wire)
        self.stations[node].start(node.target)

    def power_off(self, node: Node) -> None:
        node.power_off()
        self.stations[node].stop()

    def _heard(self, node: Node, event: Any) -> None:
        node.events.append(event)
        if isinstance(event, ResetRequested):
            self.power_off(node)
            self.kernel.call_in(300 * MS, self.power_on, node)

    def run(self, client: Any, *, limit_s: float = 120) -> list[Any]:
        """Run until *client* is finished; its events. What it sent is in `client.sent`."""
        self.events.clear()
        self.client.sent = []
        end_ns = self.kernel.now_ns + int(limit_s * SECOND)
        self.client.start(client)
        while not client.finished:
            due_ns = self.kernel.next_due()
            assert due_ns is not None, self.events[-3:]
            assert due_ns < end_ns, f"not finished after {limit_s} simulated seconds: {self.events[-3:]}"
            self.kernel.run_until(due_ns)
        self.client.pump()
        self.client.stop()
        return list(self.events)


@pytest.fixture
def bench_parts() -> Any:
    """The classes of this module, for tests that build their own bench."""

    class Parts:
        pass

    parts = Parts()
    parts.__dict__.update(globals())
    return parts
