"""A bench in memory: one tester and some nodes on a direct pipe with a time loop, a power switch and a hostile bus."""

from __future__ import annotations

import heapq
from functools import cache, partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from bmsota_sim.devices.flash import FlashModel, PowerCut
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.node import NodeCommand, ResetRequested, TargetIdentity
from bmsota.uds import (
    UDS_11BIT,
    UdsAddressing,
    UdsCommand,
    UdsServer,
    UdsTiming,
    UdsTransfer,
    ed25519_access_check,
    signed_access_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.boot import BootResult
    from bmsota.canframe import CanFrame

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
ACCESS_PRIVATE = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
ACCESS_KEY = signed_access_key(ACCESS_PRIVATE.sign)
ACCESS_CHECK = ed25519_access_check([ACCESS_PRIVATE.public_key()])
SLAVE_CLASS = HardwareClass.named("bmsota.example", "test-slave")
US, MS, SECOND = 1_000, 1_000_000, 1_000_000_000
# A classic frame of 8 bytes at 500 kbit/s with expected stuffing.
FRAME_NS = 227_600
TIMING = UdsTiming()


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
    """A slave with a flash and a switch. Off: no server. On: a new store, a boot, a new server."""

    def __init__(
        self, position: int = 1, *, factory: bytes | None, flash: FlashModel | None = None, **options: Any
    ) -> None:
        self.position = position
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
        self.random = Random(f"node {position}")
        self.server: UdsServer | None = None
        self.store: BootStore
        self.boot: BootResult
        self.boots: list[BootResult] = []
        self.events: list[Any] = []
        self.restart_ns = 300 * MS
        if factory is not None:
            BootStore(self.flash, self.layout, verify=self.verify).install_factory(factory)

    def power_on(self, addressing: UdsAddressing) -> None:
        self.flash.power_on()
        self.store = BootStore(self.flash, self.layout, verify=self.verify)
        self.boot = self.store.boot()
        self.store.take_busy_ns()
        self.boots.append(self.boot)
        options = {"access": ACCESS_CHECK, **self.options}
        self.server = UdsServer(
            addressing.address(self.position),
            identity=self.identity,
            store=self.store,
            boot=self.boot,
            random_bytes=self.random.randbytes,
            **options,
        )

    def power_off(self) -> None:
        self.flash.power_off()
        self.server = None

    @property
    def running_version(self) -> str:
        assert self.boot.facts is not None
        return str(self.boot.facts.version)


class Bench:
    """The bus: one frame at a time, each delayed by its time on the wire; `fault(frame, rng)` says what becomes of it.

    A fault returns the delays (ns) after which copies arrive: (0,) is a good bus, () a loss, (0, 0) a duplicate. *nodes* are
    anything with `server`, `power_on`, `power_off`.
    """

    def __init__(self, *nodes: Any, addressing: UdsAddressing = UDS_11BIT, seed: int | str = 0) -> None:
        self.addressing = addressing
        self.nodes = nodes
        self.now_ns = 1_000 * SECOND
        self.client: Any = None
        self.events: list[Any] = []
        self.sent: list[CanFrame] = []
        self.frames: list[CanFrame] = []
        self.fault: Callable[[CanFrame, Random], tuple[int, ...]] | None = None
        self.rng = Random(seed)
        self.on_frame: Callable[[CanFrame], None] | None = None
        self._heap: list[tuple[int, int, Any, Any]] = []
        self._sequence = 0
        self._bus_free_ns = 0
        for node in nodes:
            self._start(node)

    def _push(self, when_ns: int, kind: Any, value: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when_ns, self._sequence, kind, value))

    def _start(self, node: Any) -> None:
        try:
            node.power_on(self.addressing)
        except PowerCut:
            self.cut_power(node)

    def cut_power(self, node: Any) -> None:
        node.power_off()
        self._push(self.now_ns + node.restart_ns, "power on", node)

    def _transmit(self, frames: list[CanFrame], sender: Any) -> None:
        for frame in frames:
            self._bus_free_ns = max(self._bus_free_ns, self.now_ns) + FRAME_NS
            delays = (0,) if self.fault is None else self.fault(frame, self.rng)
            for delay in delays:
                self._push(self._bus_free_ns + delay, sender, frame)

    def _deliver(self, sender: Any, frame: CanFrame) -> None:
        self.frames.append(frame)
        if self.on_frame is not None:
            self.on_frame(frame)
        if sender is not self.client and self.client is not None:
            self.client.receive_frame(frame, self.now_ns)
        for node in self.nodes:
            if node is not sender and node.server is not None:
                try:
                    node.server.receive_frame(frame, self.now_ns)
                except PowerCut:
                    self.cut_power(node)

    def _pump(self) -> None:
        if self.client is not None:
            self.client.handle_timeout(self.now_ns)
            frames = self.client.frames_to_send(self.now_ns)
            self.sent += frames
            self._transmit(frames, self.client)
            self.events += iter(self.client.next_event, None)
        for node in self.nodes:
            server = node.server
            if server is None:
                continue
            server.handle_timeout(self.now_ns)
            self._transmit(server.frames_to_send(self.now_ns), node)
            while (event := server.next_event()) is not None:
                node.events.append(event)
                if isinstance(event, ResetRequested):
                    self.cut_power(node)

    def _next_due(self) -> int | None:
        machines = [machine for machine in (self.client, *(node.server for node in self.nodes)) if machine is not None]
        due = [timeout for machine in machines if (timeout := machine.next_timeout()) is not None]
        due += [self._heap[0][0]] if self._heap else []
        return max(self.now_ns, min(due)) if due else None

    def inject(self, frame: CanFrame) -> None:
        """A frame of nobody's: a late duplicate, foreign traffic."""
        self._transmit([frame], None)

    def run(self, client: Any = None, *, limit_s: float = 240) -> list[Any]:
        """Run until *client* is finished (without one: for *limit_s* seconds); its events."""
        self.client, self.events, self.sent = client, [], []
        end_ns = self.now_ns + int(limit_s * SECOND)
        while client is None or not client.finished:
            self._pump()
            if client is not None and client.finished:
                break
            due = self._next_due()
            if due is None or due > end_ns:
                assert client is None, f"not finished after {limit_s} simulated seconds: {self.events[-3:]}"
                self.now_ns = end_ns
                break
            self.now_ns = due
            while self._heap and self._heap[0][0] <= self.now_ns:
                _, _, sender, value = heapq.heappop(self._heap)
                if sender == "power on":
                    self._start(value)
                else:
                    self._deliver(sender, value)
        if client is not None:
            self.events += iter(client.next_event, None)
        self.client = None
        return self.events

    # ---- short ways

    def transfer(self, image: bytes, position: int = 1, **options: Any) -> UdsTransfer:
        options = {"access_key": ACCESS_KEY, **options}
        return UdsTransfer(self.addressing.address(position), position=position, image=image, **options)

    def flash(self, image: bytes, position: int = 1, **options: Any) -> list[Any]:
        """Stage *image*; the events."""
        return self.run(self.transfer(image, position, **options))

    def command(self, command: NodeCommand, position: int = 1, **options: Any) -> Any:
        """Give one command; its only event."""
        options = {"access_key": ACCESS_KEY, **options}
        client = UdsCommand(self.addressing.address(position), position=position, command=command, **options)
        return self.run(client)[-1]


@pytest.fixture
def parts() -> Any:
    """The classes of this module, for tests that build their own bench."""

    class Parts:
        pass

    found = Parts()
    found.__dict__.update(globals())
    return found


@pytest.fixture
def node() -> Node:
    return Node(factory=OLD())


@pytest.fixture
def bench(node: Node) -> Bench:
    return Bench(node)
