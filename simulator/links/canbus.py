"""A virtual CAN bus with the timing, the arbitration and, on demand, the losses of a real one.

ISO 11898-1. A frame occupies the bus from its start bit to the end of the third intermission bit, stuff bits included,
and is heard by every other powered port at that moment. When the bus becomes free, the waiting frames at the heads of
the ports' queues arbitrate: the lowest identifier wins, whoever came first. A port sends its own frames in the order in
which it got them, as an adapter or a controller with a transmit FIFO does; it does not overtake itself.

Stuffing. Counting a frame's stuff bits exactly costs more than everything else here, so by default each frame is charged
the mean for random data of its length (`bmsota.canbits`).

Left out on purpose: error frames, acknowledgement errors, error-passive and bus-off states (a frame nobody hears is sent
all the same), remote frames, and the collision of two ports that send the same identifier at once (attachment order
decides).
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Protocol

from bmsota.canbits import FD_SIZES, Stuffing, frame_bits, frame_stuff_bits
from bmsota.errors import ConfigurationError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from bmsota.canframe import CanFrame
    from simulator.kernel import Kernel

__all__ = ["FD_SIZES", "BusFaults", "CanBus", "Port", "Receiver", "Stuffing", "frame_bits", "frame_stuff_bits"]

# A window of the bootloader is 64 frames; sixteen of them waiting in one port mean that its owner does not look at
# `pending`, and an endless queue would hide that.
QUEUE_FRAMES_MAX = 1024

EXTENDED_FLAG = 1 << 31


class Receiver(Protocol):
    """What a port calls for each frame it hears."""

    def __call__(self, frame: CanFrame, now_ns: int, /) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BusFaults:
    """Chances per frame and receiver, drawn from the bus's seed."""

    loss: float = 0.0
    """The receiver does not get the frame (its controller's buffer ran over)."""
    duplication: float = 0.0
    """The receiver gets the frame twice (the sender missed the acknowledgement and repeated it)."""

    def __post_init__(self) -> None:
        if not (0 <= self.loss <= 1 and 0 <= self.duplication <= 1):
            raise ConfigurationError(f"expected chances from 0 to 1, got {self}")


# --- The bus ----------------------------------------------------------------------------------------------------------


class Port:
    """One node's place on the bus. Made by `CanBus.attach`."""

    __slots__ = (
        "_accepts", "_bus", "_drained", "_index", "_outages", "_queue", "_random", "_receive", "dropped", "is_powered", "lost",
        "name", "received", "sent",
    )  # fmt: skip

    def __init__(
        self,
        bus: CanBus,
        index: int,
        name: str,
        receive: Receiver,
        accepts: Container[int] | None,
        drained: Callable[[int], object] | None,
    ) -> None:
        self.name = name
        self.is_powered = True
        self.sent = 0
        """Frames of this port that were on the bus to their end."""
        self.received = 0
        self.dropped = 0
        """Frames that never reached the bus: port off, queue full, or waiting when the power went."""
        self.lost = 0
        """Frames the bus carried and this port missed by a drawn fault."""
        self._bus = bus
        self._index = index
        self._receive = receive
        self._accepts = accepts
        self._drained = drained
        self._queue: deque[CanFrame] = deque()
        self._outages = 0
        self._random = random.Random(f"{bus.seed}/{bus.name}/{name}")  # noqa: S311 - a replayable draw, not a secret

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
        if not self.is_powered or len(queue) >= QUEUE_FRAMES_MAX:
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
        if not on:
            self._outages += 1
            self.dropped += len(self._queue)
            self._queue.clear()
            self._bus.leave(self)

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
        self.faults = faults
        """May be changed at any time; a run ends with a phase without faults."""
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

    def attach(
        self,
        receive: Receiver,
        *,
        name: str = "",
        accepts: Container[int] | None = None,
        drained: Callable[[int], object] | None = None,
    ) -> Port:
        """Add a node, powered.

        *receive* gets (frame, now_ns) for every frame of the other ports whose identifier *accepts* contains (see
        `Port.accept`); like a controller's acceptance filter, it costs nothing for the frames it keeps away. *drained*
        is called with now_ns whenever the last frame that waited here has left: the moment to ask a core for more.
        """
        port = Port(self, len(self.ports), name or f"port{len(self.ports)}", receive, accepts, drained)
        self.ports.append(port)
        self.forget_listeners()
        return port

    def observe(self, observer: Receiver) -> None:
        """Call *observer* with (frame, now_ns) for every frame the bus carries, whoever else hears it: for logs."""
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
            # Not at once: whoever else sends in this instant takes part in the arbitration.
            self._is_busy = True
            self.kernel.call_soon(self._start)

    def leave(self, port: Port) -> None:
        """*port* has nothing to send any more."""
        self._heads = [head for head in self._heads if head[2] is not port]
        heapify(self._heads)

    def forget_listeners(self) -> None:
        self._listeners.clear()

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
        if port._outages == outages:  # noqa: SLF001
            self.frames += 1
            self.bits += bits
            port.sent += 1
            queue = port._queue  # noqa: SLF001
            queue.popleft()
            if queue:
                heappush(self._heads, (_priority(queue[0]), port._index, port))  # noqa: SLF001
            self._deliver(port, frame)
            if not queue and port._drained is not None and port.is_powered:  # noqa: SLF001
                port._drained(self.kernel.now_ns)  # noqa: SLF001
        self._start()

    def _deliver(self, sender: Port, frame: CanFrame) -> None:
        now_ns = self.kernel.now_ns
        for observer in self._observers:
            observer(frame, now_ns)
        key = frame.can_id | EXTENDED_FLAG if frame.is_extended_id else frame.can_id
        listeners = self._listeners.get(key)
        if listeners is None:
            listeners = tuple(port for port in self.ports if port._accepts is None or key in port._accepts)  # noqa: SLF001
            self._listeners[key] = listeners
        faults = self.faults
        is_clean = not (faults.loss or faults.duplication)
        for port in listeners:
            if port is sender or not port.is_powered:
                continue
            if is_clean:
                port.received += 1
                port._receive(frame, now_ns)  # noqa: SLF001
            else:
                self._deliver_by_chance(port, frame, now_ns)

    def _deliver_by_chance(self, port: Port, frame: CanFrame, now_ns: int) -> None:
        draw = port._random.random()  # noqa: SLF001
        if draw < self.faults.loss:
            port.lost += 1
            return
        for _ in range(2 if draw < self.faults.loss + self.faults.duplication else 1):
            if port.is_powered:
                port.received += 1
                port._receive(frame, now_ns)  # noqa: SLF001


def _priority(frame: CanFrame) -> int:
    """What arbitration compares, bit by bit; lower wins. A standard frame beats an extended one of the same first bits."""
    if frame.is_extended_id:
        return ((frame.can_id >> 18) << 1 | 1) << 18 | frame.can_id & 0x3FFFF
    return frame.can_id << 19
