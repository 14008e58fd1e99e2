"""What every flashing test stands on: images, a node with a flash, a store and a switch, and a paced wire in virtual time.

`bootloader_rig` and `uds_rig` say which protocol the node speaks.
"""

from __future__ import annotations

import heapq
from functools import cache, partial
from random import Random
from typing import TYPE_CHECKING, Any

from bmsota_sim.devices.flash import FlashModel, PowerCut
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.image import HardwareClass, ImageDependency, ImageRole, ImageVersion, build_image, verify_image
from bmsota.node import ResetRequested, TargetIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bmsota.boot import BootResult
    from bmsota.canframe import CanFrame
    from bmsota.image import FirmwareImage

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
CLASSES = {role: HardwareClass.named("bmsota.example", f"test-{role.name.lower()}") for role in ImageRole}
SLAVE_CLASS = CLASSES[ImageRole.SLAVE]
US, MS, SECOND = 1_000, 1_000_000, 1_000_000_000

# A classic data frame of 8 bytes with 11-bit id at 500 kbit/s and expected stuffing: 113.8 bits.
FRAME_NS = 227_600


@cache
def make_image(
    version: str = "2.1.0",
    *,
    counter: int | None = None,
    size: int = 3000,
    role: ImageRole = ImageRole.SLAVE,
    hardware: HardwareClass = SLAVE_CLASS,
    key: Ed25519PrivateKey = KEY,
    needs: ImageVersion | None = None,
    is_compressible: bool = False,
) -> bytes:
    """A whole signed image file with a payload of *size* bytes; its security counter follows the minor version.

    *needs*: the oldest slave's image it goes with. *is_compressible*: a third remains.
    """
    parsed = ImageVersion.parse(version)
    rng = Random(f"{version}/{size}")
    words = (
        b"".join(rng.choice((b"alpha ", b"beta! ", b"gamma ")) for _ in range(size // 6)) if is_compressible else b""
    )
    return build_image(
        words or rng.randbytes(size),
        version=parsed,
        security_counter=parsed.minor + 1 if counter is None else counter,
        hardware_class=hardware,
        role=role,
        signing_key=key,
        dependencies=() if needs is None else (ImageDependency(role=ImageRole.SLAVE, version_min=needs),),
    )


OLD = partial(make_image, "2.0.0")
NEW = partial(make_image, "2.1.0")


class Node:
    """A node with a flash and a switch. Off: no target. On: a new store, a boot, a new target (`new_target`).

    *options* go to the target.
    """

    target: Any

    def __init__(
        self,
        position: int = 1,
        *,
        factory: bytes | None,
        flash: FlashModel | None = None,
        role: ImageRole = ImageRole.SLAVE,
        hardware: HardwareClass = SLAVE_CLASS,
        key: Ed25519PrivateKey = KEY,
        **options: Any,
    ) -> None:
        self.position = position
        self.role = role
        self.hardware = hardware
        self.key = key
        self.hwid = f"HW-{position:04d}"
        self.serial = f"SN{position:010d}"
        self.wire: Any = None
        """Its own, if it is not the flasher's."""
        self.flash = flash or FlashModel(16 * 1024, erase_block_bytes=1024, seed=f"node {position}")
        self.options = options
        self.layout = SlotLayout.divide(self.flash)
        self.verify = for_hardware(self.judge, class_id=hardware.class_id, role=role)
        self.random = Random(f"node {position}")
        self.restart_ns = 300 * MS
        self.target = None
        self.store: BootStore
        self.boot: BootResult
        self.boots: list[BootResult] = []
        self.events: list[Any] = []
        if factory is not None:
            BootStore(self.flash, self.layout, verify=self.verify).install_factory(factory)

    def judge(self, data: bytes) -> FirmwareImage:
        return verify_image(data, public_keys=[self.key.public_key()])

    @property
    def identity(self) -> TargetIdentity:
        return TargetIdentity(
            position=self.position,
            role=self.role,
            hwid=self.hwid,
            serial=self.serial,
            hardware_class=self.hardware,
        )

    def power_on(self, wire: Any) -> None:
        self.flash.power_on()
        self.store = BootStore(self.flash, self.layout, verify=self.verify)
        self.boot = self.store.boot()
        self.store.take_busy_ns()
        self.boots.append(self.boot)
        self.target = self.new_target(self.wire or wire)

    def new_target(self, wire: Any) -> Any:
        """What speaks for the node during one boot; a node without a protocol has nothing that does."""
        return None

    def power_off(self) -> None:
        self.flash.power_off()
        self.target = None

    @property
    def version(self) -> ImageVersion:
        assert self.boot.facts is not None
        return self.boot.facts.version

    @property
    def running_version(self) -> str:
        return str(self.version)

    def stored(self, size: int) -> bytes:
        """The first *size* bytes of the second slot."""
        return self.flash.read(self.layout.slot_offsets[1], size)


class Bench:
    """The bus: one frame at a time, each delayed by its time on the wire; `fault(frame, rng)` says what becomes of it.

    A fault returns the delays (ns) after which copies arrive: (0,) is a good bus, () a loss, (0, 0) a duplicate. *nodes* are
    anything with `target`, `power_on`, `power_off`, `restart_ns`, `events`; *wire* is what they get at `power_on`.
    """

    LIMIT_S = 120
    frame_ns = FRAME_NS

    def __init__(self, wire: Any, *nodes: Any, seed: int | str = 0, now_ns: int = 1_000 * SECOND) -> None:
        self.wire = wire
        self.nodes: Any = nodes
        self.now_ns = now_ns
        self.client: Any = None
        self.events: list[Any] = []
        self.sent: list[CanFrame] = []
        """What the client has sent in this run."""
        self.frames: list[CanFrame] = []
        """What has passed on the bus, in all runs."""
        self.fault: Callable[[CanFrame, Random], tuple[int, ...]] | None = None
        self.ear: Callable[[Any, CanFrame, int], list[CanFrame]] | None = None
        """What a node, or the client (None), hears of a frame that passes on the bus at this time; None: all of it."""
        self.rng = Random(seed)
        self.on_frame: Callable[[CanFrame], None] | None = None
        self._heap: list[tuple[int, int, Any, Any]] = []
        self._sequence = 0
        self._bus_free_ns = 0
        self._is_cut = False
        self.sleep: Callable[[Random], int] | None = None
        """For how many ns the client's host stands still behind a turn: what comes meanwhile it gets in one go."""
        self._awake_ns = 0
        self._adapter: list[CanFrame] = []
        for node in nodes:
            self._start(node)

    def live(self) -> Iterable[Any]:
        """The nodes that hear and act."""
        return [node for node in self.nodes if node.target is not None]

    def _push(self, when_ns: int, kind: Any, value: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when_ns, self._sequence, kind, value))

    def _start(self, node: Any) -> None:
        try:
            node.power_on(self.wire)
        except PowerCut:
            self.cut_power(node)

    def cut_power(self, node: Any) -> None:
        """It is back after its `restart_ns`."""
        node.power_off()
        self._push(self.now_ns + node.restart_ns, "power on", node)

    def cut_client(self) -> None:
        """The flasher is gone, and with it what waits in its adapter."""
        self._heap = [entry for entry in self._heap if entry[2] is not self.client]
        heapq.heapify(self._heap)
        self._bus_free_ns = self.now_ns
        self._is_cut = True

    def inject(self, *frames: CanFrame) -> None:
        """Frames of nobody's: late duplicates, foreign traffic."""
        self._transmit(list(frames), None)

    def _transmit(self, frames: list[CanFrame], sender: Any) -> None:
        for frame in frames:
            self._bus_free_ns = max(self._bus_free_ns, self.now_ns) + self.frame_ns
            delays = (0,) if self.fault is None else self.fault(frame, self.rng)
            for delay in delays:
                self._push(self._bus_free_ns + delay, sender, frame)

    def _deliver(self, sender: Any, frame: CanFrame) -> None:
        self.frames.append(frame)
        if self.on_frame is not None:
            self.on_frame(frame)
        if sender is not self.client and self.client is not None:
            for heard in self._heard(None, frame):
                if self.now_ns < self._awake_ns:
                    self._adapter.append(heard)
                else:
                    self.client.receive_frame(heard, self.now_ns)
        for node in self.live():
            if node is sender:
                continue
            try:
                for heard in self._heard(node, frame):
                    if node.target is not None:
                        node.target.receive_frame(heard, self.now_ns)
            except PowerCut:
                self.cut_power(node)

    def _heard(self, listener: Any, frame: CanFrame) -> list[CanFrame]:
        return [frame] if self.ear is None else self.ear(listener, frame, self.now_ns)

    def _pump(self) -> None:
        client = self.client
        if client is not None and self.now_ns >= self._awake_ns:
            for frame in self._adapter:  # As the real loop does: the time is looked at behind every frame.
                client.receive_frame(frame, self.now_ns)
                client.handle_timeout(self.now_ns)
            self._adapter.clear()
            client.handle_timeout(self.now_ns)
            frames = client.frames_to_send(self.now_ns)
            self.sent += frames
            self._transmit(frames, client)
            while (event := client.next_event()) is not None:
                self.events.append(event)
                self.heard_event(event)
            if self.sleep is not None:
                self._awake_ns = self.now_ns + self.sleep(self.rng)
        for node in self.live():
            target = node.target
            target.handle_timeout(self.now_ns)
            self._transmit(target.frames_to_send(self.now_ns), node)
            while (event := target.next_event()) is not None:
                node.events.append(event)
                if isinstance(event, ResetRequested):
                    self.cut_power(node)

    def heard_event(self, event: Any) -> None:
        """The client has said something."""

    def _next_due(self) -> int | None:
        is_asleep = self.now_ns < self._awake_ns
        client = None if is_asleep else self.client
        machines = [machine for machine in (client, *(node.target for node in self.live())) if machine is not None]
        due = [timeout for machine in machines if (timeout := machine.next_timeout()) is not None]
        due += [self._awake_ns] if is_asleep else []
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

    def run(self, client: Any = None, *, limit_s: float | None = None) -> list[Any]:
        """Run until *client* is finished (without one: for *limit_s* seconds); its events."""
        limit_s = self.LIMIT_S if limit_s is None else limit_s
        self.client, self.events, self.sent, self._is_cut = client, [], [], False
        self._awake_ns = 0
        self._adapter.clear()
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


class EngineClient:
    """A flashing engine as a bench's client: finished when its operation is."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    @property
    def finished(self) -> bool:
        return self._engine.is_idle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
