"""How a host program reaches an adapter's seat: an slcan pseudo terminal, or any bus of python-can.

The loop asks each endpoint what to wait for, and pumps it; an endpoint decides nothing.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from bmsota.errors import ConfigurationError, TransferError
from bmsota.slcan import AdapterOptions, SlcanAdapter

if TYPE_CHECKING:
    from collections.abc import Callable

    import can

    from bmsota.canframe import CanFrame
    from bmsota_sim.bench._options import BenchOptions
    from bmsota_sim.bench._world import AdapterSeat


# How long the reader of a python-can bus waits at most before it looks whether the bench still runs.
READ_WAIT_S = 0.1
# A back end that does not return from its wait must not keep the bench from ending.
CLOSE_TIMEOUT_S = 5.0
# What may wait for a host that does not read before the oldest is dropped.
OUTPUT_FRAMES_MAX = 4096


class Endpoint(Protocol):
    """One open way in."""

    path: str
    """What the host program opens."""

    def fileno(self) -> int: ...

    @property
    def has_output(self) -> bool:
        """Whether something waits until the line is writable."""
        ...

    def pump(self, now_ns: int) -> None:
        """Take what the host has sent; hand it what it can take.

        Raises:
            TransferError: the way in is gone.
        """
        ...

    def flush(self) -> None:
        """Hand the host what it can take."""
        ...

    def close(self) -> None: ...


def open_endpoint(seat: AdapterSeat, number: int, channel: str, options: BenchOptions) -> Endpoint:
    """Open the way in for adapter *number* (from 1 on).

    *channel* is "pty", or python-can's interface and channel: "virtual:bench", "socketcan:vcan0".

    Raises:
        ConfigurationError: it cannot be opened on this system.
    """
    if channel == "pty":
        return PtyEndpoint(seat, number, options)
    interface, colon, name = channel.partition(":")
    if not (interface and colon and name):
        raise ConfigurationError(f"channel: expected pty or INTERFACE:CHANNEL, got {channel!r}")
    if interface == "pty" or (number > 1 and interface != "virtual"):
        raise ConfigurationError(f"channel {channel!r} has room for one adapter, not for {options.adapters}")
    return PythonCanEndpoint(seat, interface, name if number == 1 else f"{name}{number}", options)


class PtyEndpoint:
    """An slcan adapter behind a pseudo terminal."""

    def __init__(self, seat: AdapterSeat, number: int, options: BenchOptions) -> None:
        try:
            from bmsota_sim.links.slcan_pty import SlcanPty  # noqa: PLC0415 - there is no pseudo terminal on Windows
        except ImportError as error:
            raise ConfigurationError(
                f"this system has no pseudo terminals ({error}): use the channel virtual:NAME"
            ) from error
        adapter = SlcanAdapter(
            seat.send,
            options=AdapterOptions(
                serial_number=f"NBENCH{number}",
                has_fd=options.data_bitrate_bps is not None,
                bus_bitrate_bps=options.bitrate_bps,
            ),
        )
        seat.receive = adapter.receive_frame
        self._cable = SlcanPty(adapter)
        self.path = self._cable.path

    def fileno(self) -> int:
        return self._cable.fileno()

    @property
    def has_output(self) -> bool:
        return self._cable.adapter.has_output

    def pump(self, now_ns: int) -> None:
        self._cable.pump(now_ns)

    def flush(self) -> None:
        self._cable.flush()

    def close(self) -> None:
        self._cable.close()


class PythonCanEndpoint:
    """A bus of python-can; a thread reads it, because few of its interfaces can be waited for."""

    def __init__(self, seat: AdapterSeat, interface: str, channel: str, options: BenchOptions) -> None:
        try:
            import can  # noqa: PLC0415 - a bench on ptys does without

            from bmsota.adapters.pythoncan import from_message, to_message  # noqa: PLC0415
        except ImportError as error:
            raise ConfigurationError(f"channel {interface} needs {error.name}: pip install 'bmsota[can]'") from error
        fd = options.data_bitrate_bps is not None
        try:
            self._bus: can.BusABC = can.Bus(interface=interface, channel=channel, bitrate=options.bitrate_bps, fd=fd)
        except (can.CanError, OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"python-can cannot open {interface}:{channel}: {error}") from error
        self.path = channel
        self._from_message: Callable[[can.Message], CanFrame | None] = from_message
        self._to_message: Callable[[CanFrame], can.Message] = to_message
        self._seat = seat
        self._input: deque[can.Message] = deque()
        self._output: deque[CanFrame] = deque(maxlen=OUTPUT_FRAMES_MAX)
        self._wake_near, self._wake_far = socket.socketpair()
        self._wake_near.setblocking(False)
        self._wake_far.setblocking(False)
        self._is_closed = False
        self._failure: can.CanError | None = None
        seat.receive = lambda frame, _now_ns: self._output.append(frame)
        self._reader = threading.Thread(target=self._read, name=f"bench reader {channel}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        import can  # noqa: PLC0415 - see above

        while not self._is_closed:
            try:
                message = self._bus.recv(READ_WAIT_S)
            except can.CanError as error:
                self._failure = error
                self._wake()
                return
            if message is not None:
                self._input.append(message)
                self._wake()

    def _wake(self) -> None:
        # A full socket: the loop is awake already.
        with contextlib.suppress(BlockingIOError):
            self._wake_far.send(b"\0")

    def fileno(self) -> int:
        return self._wake_near.fileno()

    @property
    def has_output(self) -> bool:
        return False

    def pump(self, now_ns: int) -> None:  # noqa: ARG002 - one surface
        try:
            while len(self._wake_near.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        while self._input:
            frame = self._from_message(self._input.popleft())
            if frame is not None:
                self._seat.send(frame)
        if self._failure is not None:
            raise TransferError(
                f"python-can can no longer read {self.path}: {self._failure}", permanent=False
            ) from self._failure
        self.flush()

    def flush(self) -> None:
        import can  # noqa: PLC0415 - see above

        while self._output:
            frame = self._output.popleft()
            try:
                self._bus.send(self._to_message(frame))
            except can.CanError:
                return  # The host's end is full or gone; as on a wire, it misses the frame.

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._reader.join(CLOSE_TIMEOUT_S)
            self._bus.shutdown()
            self._wake_near.close()
            self._wake_far.close()
