"""A virtual CAN bus with the timing, the arbitration and, on demand, the faults of a real one.

ISO 11898-1. A frame occupies the bus from its start bit to the end of the third intermission bit, stuff bits included,
and is heard by every other powered port at that moment. When the bus becomes free, the waiting frames at the heads of
the ports' queues arbitrate: the lowest identifier wins, whoever came first. A port sends its own frames in the order in
which it got them, as an adapter or a controller with a transmit FIFO does; it does not overtake itself.

Stuffing. Counting a frame's stuff bits exactly costs more than everything else here, so by default each frame is charged
the mean for random data of its length (`bmsota.can_timing`).

Faults (`BusFaults`) are those of receivers and adapters: what the wire carried, one port misses, gets twice, late, in another
order or with a wrong byte. Each port draws from a stream of its own, made of the bus's seed and the two names, so that
another node on the bus changes no other node's faults. A frame meets at most one of them, by one draw.

Left out on purpose: error frames, acknowledgement errors and the counters behind error-passive and bus-off (a frame nobody
hears is sent all the same; bus-off is drawn or commanded), remote frames, and the collision of two ports that send the same
identifier at once (attachment order decides).
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Protocol

from bmsota.can_timing import Stuffing, frame_bits
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, LocalProtocolError
from bmsota_sim.kernel import MS

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from bmsota_sim.kernel import Kernel, Timer

__all__ = [
    "BusFaults",
    "CanBus",
    "Port",
    "Receiver",
    "filter_key",
]

# A window of the bootloader is 64 frames; sixteen of them waiting in one port mean that its owner does not look at
# `pending`, and an endless queue would hide that.
QUEUE_FRAMES_MAX = 1024

# How long a receiver's frame waits for another one to change places with.
REORDER_HOLD_NS = 2 * MS

EXTENDED_FLAG = 1 << 31


def filter_key(frame: CanFrame) -> int:
    """The identifier as acceptance filters name it (`Port.accept`): an extended one with bit 31 set."""
    return frame.can_id | EXTENDED_FLAG if frame.is_extended_id else frame.can_id


class Receiver(Protocol):
    """What a port calls for each frame it hears."""

    def __call__(self, frame: CanFrame, now_ns: int, /) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BusFaults:
    """Chances per frame and receiver; `bus_off` per frame and sender. Drawn from the bus's seed."""

    loss: float = 0.0
    """The receiver does not get the frame (its controller's buffer ran over)."""
    duplication: float = 0.0
    """The receiver gets the frame twice (the sender missed the acknowledgement and repeated it)."""
    reordering: float = 0.0
    """The receiver gets the frame after the next one it hears (an adapter with several buffers); if none follows within
    2 ms, then."""
    delay: float = 0.0
    """The receiver gets the frame up to `delay_max_ns` late; those behind it may overtake it."""
    delay_max_ns: int = 5 * MS
    corruption: float = 0.0
    """One byte of the data is another when the receiver gets it: behind the wire's CRC, in a driver or an adapter."""
    bus_off: float = 0.0
    """The sender's controller leaves the bus instead of sending the frame, and comes back after `bus_off_ns`."""
    bus_off_ns: int = 200 * MS

    def __post_init__(self) -> None:
        of_a_receiver = (self.loss, self.duplication, self.reordering, self.delay, self.corruption)
        if not (all(0 <= chance <= 1 for chance in (*of_a_receiver, self.bus_off)) and sum(of_a_receiver) <= 1 + 1e-9):
            names = ("loss", "duplication", "reordering", "delay", "corruption", "bus_off")
            given = ", ".join(f"{name} {chance:g}" for name in names if (chance := getattr(self, name)))
            raise ConfigurationError(f"expected chances from 0 to 1, at most 1 in total without bus_off, got {given}")
        if self.delay_max_ns <= 0 or self.bus_off_ns <= 0:
            raise ConfigurationError(f"expected times above 0, got {self}")

    @property
    def is_clean(self) -> bool:
        """Whether nothing ever happens."""
        return not (self.loss or self.duplication or self.reordering or self.delay or self.corruption or self.bus_off)


# --- The bus ----------------------------------------------------------------------------------------------------------


class Port:
    """One node's place on the bus. Made by `CanBus.attach`."""

    __slots__ = (
        "_accepts",
        "_bus",
        "_drained",
        "_drawn",
        "_echoes",
        "_faults",
        "_held",
        "_index",
        "_is_on_bus",
        "_outages",
        "_queue",
        "_receive",
        "_recovery",
        "_seed",
        "bus_offs",
        "corrupted",
        "dropped",
        "is_powered",
        "lost",
        "name",
        "received",
        "sent",
    )  # fmt: skip

    def __init__(
        self,
        bus: CanBus,
        index: int,
        name: str,
        receive: Receiver,
        accepts: Container[int] | None,
        drained: Callable[[int], object] | None,
        echoes: bool,
    ) -> None:
        self.name = name
        self.is_powered = True
        self.sent = 0
        """Frames of this port that were on the bus to their end."""
        self.received = 0
        self.dropped = 0
        """Frames that never reached the bus: port off, queue full, or waiting when the power or the bus was lost."""
        self.lost = 0
        """Frames the bus carried and this port missed by a drawn fault."""
        self.corrupted = 0
        """Frames this port got with a wrong byte."""
        self.bus_offs = 0
        """How often its controller left the bus."""
        self._bus = bus
        self._index = index
        self._receive = receive
        self._accepts = accepts
        self._drained = drained
        self._queue: deque[CanFrame] = deque()
        self._outages = 0
        self._is_on_bus = True  # Powered and not bus-off: what the bus asks before each delivery.
        self._echoes = echoes
        self._faults: BusFaults | None = None
        self._held: tuple[CanFrame, Timer] | None = None
        self._recovery: Timer | None = None
        self._seed = f"{bus.seed}/{bus.name}/{name}"
        self._drawn: random.Random | None = None

    @property
    def _random(self) -> random.Random:
        # Most ports never draw, and a generator is 2.5 kB.
        if self._drawn is None:
            self._drawn = random.Random(self._seed)  # noqa: S311 - a replayable draw, not a secret
        return self._drawn

    @property
    def pending(self) -> int:
        """Frames that wait here, the one on the bus included."""
        return len(self._queue)

    def send(self, frame: CanFrame) -> bool:
        """Queue *frame*. False, and counted in `dropped`, if the port is off or its queue is full.

        Raises:
            LocalProtocolError: the frame cannot exist on this bus.
        """
        queue = self._queue
        if not self._is_on_bus or len(queue) >= QUEUE_FRAMES_MAX:
            self.dropped += 1
            return False
        bus = self._bus
        bus.check(frame)
        queue.append(frame)
        if len(queue) == 1:
            bus.join(self, frame)
        return True

    def power(self, on: bool) -> None:
        """Switch the node. Off: what waits is dropped, what it is sending is destroyed, and it hears nothing."""
        if on == self.is_powered:
            return
        self.is_powered = on
        if on:
            self._is_on_bus = True
        else:
            if self._recovery is not None:
                self._recovery.cancel()
                self._recovery = None
            self._go_silent()

    @property
    def is_bus_off(self) -> bool:
        """Whether its controller has left the bus and not yet come back."""
        return self.is_powered and not self._is_on_bus

    def bus_off(self, duration_ns: int) -> None:
        """Let the controller leave the bus: what waits is dropped, and it neither sends nor hears for *duration_ns*.

        Nothing if the port has no power; a second one while the first lasts counts from now.
        """
        if not self.is_powered:
            return
        self.bus_offs += 1
        if self._recovery is not None:
            self._recovery.cancel()
        self._recovery = self._bus.kernel.call_in(duration_ns, self._recover)
        if self._is_on_bus:
            self._go_silent()

    def _recover(self) -> None:
        self._recovery = None
        self._is_on_bus = True

    def _go_silent(self) -> None:
        self._is_on_bus = False
        self._outages += 1
        self.dropped += len(self._queue)
        self._queue.clear()
        if self._held is not None:
            self._held[1].cancel()
            self._held = None
        self._bus.leave(self)

    @property
    def faults(self) -> BusFaults:
        """What this port suffers: the bus's faults, unless it has been given its own."""
        return self._bus.faults if self._faults is None else self._faults

    @faults.setter
    def faults(self, faults: BusFaults | None) -> None:
        self._faults = faults
        self._bus.look_for_faults()

    # For the bus.

    def take(self, frame: CanFrame, now_ns: int) -> None:
        """Get *frame*, unless the node has lost its power meanwhile."""
        if self._is_on_bus:
            self.received += 1
            self._receive(frame, now_ns)

    def take_by_chance(self, frame: CanFrame, now_ns: int) -> None:
        """Get *frame* as this port's faults will have it."""
        faults = self.faults
        draw = self._random.random()
        held, self._held = self._held, None
        if draw < (limit := faults.loss):
            self.lost += 1
        elif draw < (limit := limit + faults.duplication):
            self.take(frame, now_ns)
            self.take(frame, now_ns)
        elif draw < (limit := limit + faults.reordering):
            if held is None:
                self._held = (frame, self._bus.kernel.call_in(REORDER_HOLD_NS, self._release))
                return
            self.take(frame, now_ns)
        elif draw < (limit := limit + faults.delay):
            self._bus.kernel.call_in(
                self._random.randrange(faults.delay_max_ns) + 1, self._take_late, frame, self._outages
            )
        elif draw < limit + faults.corruption and frame.data:
            self.corrupted += 1
            self.take(self._corrupt(frame), now_ns)
        else:
            self.take(frame, now_ns)
        if held is not None:
            held[1].cancel()
            self.take(held[0], now_ns)

    def _release(self) -> None:
        """Nothing followed the frame that was to change places."""
        held, self._held = self._held, None
        if held is not None:
            self.take(held[0], self._bus.kernel.now_ns)

    def _take_late(self, frame: CanFrame, outages: int) -> None:
        if outages == self._outages:
            self.take(frame, self._bus.kernel.now_ns)

    def _corrupt(self, frame: CanFrame) -> CanFrame:
        data = bytearray(frame.data)
        data[self._random.randrange(len(data))] ^= self._random.randrange(1, 256)
        return CanFrame(frame.can_id, bytes(data), frame.is_extended_id, frame.is_fd)

    def accept(self, accepts: Container[int] | None) -> None:
        """Set the acceptance filter: the identifiers heard (extended ones with bit 31 set), or None for all."""
        self._accepts = accepts
        self._bus.forget_listeners()


class CanBus:
    """Ports on one wire. Everything happens in the kernel's time."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        bitrate_bps: int = 500_000,
        data_bitrate_bps: int | None = None,
        seed: int | str = 0,
        name: str = "can",
        faults: BusFaults = BusFaults(),
        stuffing: Stuffing = Stuffing.EXPECTED,
    ) -> None:
        if bitrate_bps <= 0 or (data_bitrate_bps is not None and data_bitrate_bps < bitrate_bps):
            raise ConfigurationError(
                f"expected 0 < bit rate <= data bit rate, got {bitrate_bps} and {data_bitrate_bps} ({name})"
            )
        self.kernel = kernel
        self.bitrate_bps = bitrate_bps
        self.data_bitrate_bps = data_bitrate_bps
        """None: a classic bus, which carries no CAN FD frames."""
        self.seed = seed
        self.name = name
        self.stuffing = stuffing
        self.frames = 0
        """Frames that were on the bus to their end."""
        self.bits = 0.0
        """Their bits at both rates, stuffing and intermission included."""
        self.busy_ns = 0
        self.ports: list[Port] = []
        self._observers: list[Receiver] = []
        self._heads: list[tuple[int, int, Port]] = []
        self._is_busy = False
        self._listeners: dict[int, tuple[Port, ...]] = {}
        self._costs: dict[tuple[int, bool, bool], tuple[float, int]] = {}
        self._faults = faults
        self._is_clean = faults.is_clean

    @property
    def faults(self) -> BusFaults:
        """Those of every port without its own. May be changed at any time; a run ends with a phase without faults."""
        return self._faults

    @faults.setter
    def faults(self, faults: BusFaults) -> None:
        self._faults = faults
        self.look_for_faults()

    def attach(
        self,
        receive: Receiver,
        *,
        name: str = "",
        accepts: Container[int] | None = None,
        drained: Callable[[int], object] | None = None,
        echoes: bool = False,
    ) -> Port:
        """Add a node, powered.

        *receive* gets (frame, now_ns) for every frame of the other ports whose identifier *accepts* contains (see
        `Port.accept`); like a controller's acceptance filter, it costs nothing for the frames it keeps away. *drained*
        is called with now_ns whenever the last frame that waited here has left: the moment to ask a core for more.
        *echoes*: the port also gets its own frames when they have been sent, as from many an adapter.
        """
        port = Port(self, len(self.ports), name or f"port{len(self.ports)}", receive, accepts, drained, echoes)
        self.ports.append(port)
        self.forget_listeners()
        return port

    def observe(self, observer: Receiver) -> None:
        """Call *observer* with (frame, now_ns) for every frame on the bus: for logs."""
        self._observers.append(observer)

    # For the ports.

    def check(self, frame: CanFrame) -> None:
        key = (len(frame.data), frame.is_extended_id, frame.is_fd)
        if key not in self._costs or frame.can_id >> (29 if frame.is_extended_id else 11):
            if frame.is_fd and self.data_bitrate_bps is None:
                raise LocalProtocolError(f"expected a classic frame on the bus {self.name}, got CAN FD")
            self._costs[key] = self._cost(frame, Stuffing.EXPECTED)

    def join(self, port: Port, frame: CanFrame) -> None:
        """A frame has become the head of *port*'s queue."""
        heappush(self._heads, (_priority(frame), port._index, port))  # noqa: SLF001 - port and bus are one thing
        if not self._is_busy:
            # Not at once: every port that sends in this instant takes part in the arbitration.
            self._is_busy = True
            self.kernel.call_soon(self._start)

    def leave(self, port: Port) -> None:
        """*port* has nothing to send any more."""
        self._heads = [head for head in self._heads if head[2] is not port]
        heapify(self._heads)

    def forget_listeners(self) -> None:
        self._listeners.clear()

    def look_for_faults(self) -> None:
        """The faults have changed; as long as there are none, no frame pays for them."""
        self._is_clean = all(port.faults.is_clean for port in self.ports) and self._faults.is_clean

    # The life of a frame.

    def _cost(self, frame: CanFrame, stuffing: Stuffing) -> tuple[float, int]:
        """(bits, nanoseconds)."""
        slow, fast = frame_bits(frame, stuffing)
        seconds = slow / self.bitrate_bps + fast / (self.data_bitrate_bps or self.bitrate_bps)
        return slow + fast, round(seconds * 1e9)

    def _start(self) -> None:
        if not self._heads:
            self._is_busy = False
            return
        port = heappop(self._heads)[2]
        frame = port._queue[0]  # noqa: SLF001
        if self.stuffing is Stuffing.EXACT:
            bits, duration_ns = self._cost(frame, Stuffing.EXACT)
        else:
            bits, duration_ns = self._costs[len(frame.data), frame.is_extended_id, frame.is_fd]
        kernel = self.kernel
        kernel.call_at(kernel.now_ns + duration_ns, self._end, port, port._outages, frame, bits, duration_ns)  # noqa: SLF001

    def _end(self, port: Port, outages: int, frame: CanFrame, bits: float, duration_ns: int) -> None:
        self.busy_ns += duration_ns
        if port._outages == outages and (self._is_clean or not self._is_lost_by_bus_off(port)):  # noqa: SLF001
            self.frames += 1
            self.bits += bits
            port.sent += 1
            queue = port._queue  # noqa: SLF001
            queue.popleft()
            if queue:
                heappush(self._heads, (_priority(queue[0]), port._index, port))  # noqa: SLF001
            self._deliver(port, frame)
            if not queue and port._drained is not None and port._is_on_bus:  # noqa: SLF001
                port._drained(self.kernel.now_ns)  # noqa: SLF001
        self._start()

    def _is_lost_by_bus_off(self, sender: Port) -> bool:
        """Draw whether *sender* leaves the bus at the end of its frame."""
        faults = sender.faults
        if not faults.bus_off or sender._random.random() >= faults.bus_off:  # noqa: SLF001
            return False
        sender.bus_off(faults.bus_off_ns)
        return True

    def _deliver(self, sender: Port, frame: CanFrame) -> None:
        now_ns = self.kernel.now_ns
        for observer in self._observers:
            observer(frame, now_ns)
        key = filter_key(frame)
        listeners = self._listeners.get(key)
        if listeners is None:
            listeners = tuple(port for port in self.ports if port._accepts is None or key in port._accepts)  # noqa: SLF001
            self._listeners[key] = listeners
        is_clean = self._is_clean
        for port in listeners:
            if (port is sender and not port._echoes) or not port._is_on_bus:  # noqa: SLF001
                continue
            if is_clean:
                port.received += 1
                port._receive(frame, now_ns)  # noqa: SLF001
            else:
                port.take_by_chance(frame, now_ns)


def _priority(frame: CanFrame) -> int:
    """What arbitration compares, bit by bit; lower wins. A standard frame beats an extended one of the same first bits."""
    if frame.is_extended_id:
        return ((frame.can_id >> 18) << 1 | 1) << 18 | frame.can_id & 0x3FFFF
    return frame.can_id << 19
