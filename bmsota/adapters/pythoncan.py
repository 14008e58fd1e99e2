"""Any sans-IO core on any bus of python-can: one loop that sends, waits, feeds, and decides nothing.

A core is a `bmsota.node.CanProtocol`: the bootloader's client and its target, a simulated node. The adapter is chosen in
python-can: `can.Bus(interface=..., ...)`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from bmsota.errors import MissingExtraError, TransferError

try:
    import can
except ImportError as error:
    raise MissingExtraError("bmsota.adapters.pythoncan", "python-can", "can") from error

from bmsota.canframe import CanFrame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bmsota.node import CanProtocol, FinishingCanProtocol

__all__ = ["CanPort", "drive", "from_message", "serve", "to_message"]

EventT = TypeVar("EventT")

# A core without a deadline still wants to be asked whether it has finished, and the user's Ctrl-C to be heard: python-can
# waits in C, where on Windows nothing else gets a turn.
WAIT_S_MAX = 0.2

# Frames taken from the driver before the core may send again. On a busy bus more come than one per turn of the loop; an answer
# that waits behind them in the driver's queue looks like a slow node.
RECEIVED_MAX = 512

# A driver whose transmit queue is full says so at once (socketcan: 10 frames by default, 2 ms of a 500k bus). It empties at
# the bus's pace; for so long a frame is offered again before the adapter is given up.
SEND_LIMIT_S = 0.5
SEND_PAUSE_S = 0.002


class CanPort(Protocol):
    """What the loop needs of a bus: `can.BusABC` is one."""

    channel_info: str

    def send(self, msg: can.Message, timeout: float | None = None) -> None: ...

    def recv(self, timeout: float | None = None) -> can.Message | None: ...


def to_message(frame: CanFrame) -> can.Message:
    """The library's frame as python-can's. A CAN FD frame is sent with the faster data rate."""
    return can.Message(
        arbitration_id=frame.can_id,
        data=frame.data,
        is_extended_id=frame.is_extended_id,
        is_fd=frame.is_fd,
        bitrate_switch=frame.is_fd,
    )


def from_message(message: can.Message) -> CanFrame | None:
    """python-can's frame as the library's; None for error and remote frames, which carry no data."""
    if message.is_error_frame or message.is_remote_frame:
        return None
    return CanFrame(message.arbitration_id, bytes(message.data), message.is_extended_id, message.is_fd)


def drive(
    core: FinishingCanProtocol[EventT],
    bus: CanPort,
    clock: Callable[[], int],
    *,
    stop: Callable[[], None] | None = None,
) -> Iterator[EventT]:
    """Run *core* over *bus* until it has finished; yield its events as they come.

    What it still has to send when it finishes is sent before the end. *stop* is called before each turn: it cancels the core
    when the user has asked for that.

    Raises:
        TransferError: the adapter refuses to send or to receive. Not permanent: with the cable back, the core can go on.
    """
    yield from _run(core, bus, clock, lambda: core.finished, stop)


def serve(
    core: CanProtocol[EventT],
    bus: CanPort,
    clock: Callable[[], int],
    until: Callable[[], bool],
    *,
    stop: Callable[[], None] | None = None,
) -> Iterator[EventT]:
    """As `drive`, for a core that never finishes by itself: until *until* says so. Raises the same."""
    yield from _run(core, bus, clock, until, stop)


def _run(
    core: CanProtocol[EventT],
    bus: CanPort,
    clock: Callable[[], int],
    has_ended: Callable[[], bool],
    stop: Callable[[], None] | None,
) -> Iterator[EventT]:
    while not has_ended():
        if stop is not None:
            stop()
        _send(core, bus, clock())
        wait_s = _wait_s(core.next_timeout(), clock())
        message = _receive(bus, wait_s)
        for _ in range(RECEIVED_MAX):
            now_ns = clock()
            frame = None if message is None else from_message(message)
            if frame is not None:
                core.receive_frame(frame, now_ns)
            core.handle_timeout(now_ns)  # Always: on a busy bus the wait never comes back empty.
            if message is None or (message := _receive(bus, 0)) is None:
                break
        while (event := core.next_event()) is not None:
            yield event
    _send(core, bus, clock())


def _wait_s(deadline_ns: int | None, now_ns: int) -> float:
    if deadline_ns is None:
        return WAIT_S_MAX
    return min(max(deadline_ns - now_ns, 0) / 1e9, WAIT_S_MAX)


def _send(core: CanProtocol[EventT], bus: CanPort, now_ns: int) -> None:
    for frame in core.frames_to_send(now_ns):
        _send_frame(bus, frame)


def _send_frame(bus: CanPort, frame: CanFrame) -> None:
    message = to_message(frame)
    limit_s = time.monotonic() + SEND_LIMIT_S
    while True:
        try:
            bus.send(message)
        except can.CanError as error:
            if time.monotonic() < limit_s:
                time.sleep(SEND_PAUSE_S)
                continue
            raise TransferError(
                f"expected the CAN adapter to send 0x{frame.can_id:X}, got: {error} ({bus.channel_info})",
                permanent=False,
            ) from error
        return


def _receive(bus: CanPort, timeout_s: float) -> can.Message | None:
    try:
        return bus.recv(timeout=timeout_s)
    except can.CanError as error:
        raise TransferError(
            f"expected the CAN adapter to receive, got: {error} ({bus.channel_info})", permanent=False
        ) from error
