"""A connection that calls its link from the event loop's own callbacks: no task, no queue, one buffer for all.

This is how `serve_gateway` runs links that never block: what has been read is handed to the link before anything else is read, so
nothing waits here, and the memory that connections need does not grow with what peers send.

A look for what is ready costs as much as a report. Where a thousand reads a second come one by one, a gateway may linger a millisecond or
two between two looks, as network cards do with their interrupts: ten reports come together then, and all of them cost half.
What a link is, and what is done about
slow, silent and closing peers, is the same as in `bmsota.adapters.asyncio_link`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING

from bmsota.adapters import asyncio_link
from bmsota.adapters.asyncio_link import seconds_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.adapters.asyncio_link import StreamLink

__all__ = ["DirectConnection", "DirectDoor"]

_LOG = logging.getLogger("bmsota.adapters.asyncio_gateway")

# One read: some dozens of reports, a millisecond of work, so that other links get their turn.
READ_SIZE_BYTES_MAX = 32 * 1024
# Lingering begins at so many reads a second, counted over stretches of this length.
LINGER_FROM_HZ = 1000
_STRETCH_S = 0.05


class DirectDoor:
    """What the connections of one gateway share."""

    def __init__(
        self,
        open_link: Callable[[Callable[[], None]], StreamLink],
        clock_ns: Callable[[], int],
        links_max: int,
        on_open: Callable[[StreamLink, str], object] | None,
        linger_s: float,
    ) -> None:
        self.open_link = open_link
        self.clock_ns = clock_ns
        self.on_open = on_open
        self.links_max = links_max
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        # Read into and emptied in one callback, so one is enough.
        self.buffer = memoryview(bytearray(READ_SIZE_BYTES_MAX))
        self.connections: set[DirectConnection] = set()
        self.is_paused = False
        self._linger_s = linger_s
        self._is_lingering = False
        self._reads = 0
        self._stretch_began_s = 0.0
        self._all_lost = asyncio.Event()

    def pause(self) -> None:
        """Read from nobody until `resume`. Only from the event loop's thread."""
        self.is_paused = True
        for connection in self.connections:
            connection.listen()

    def resume(self) -> None:
        self.is_paused = False
        for connection in self.connections:
            connection.listen()

    def read(self) -> None:
        """Something has been read. When there is much of it, let more of it come together before the next look."""
        self._reads += 1
        if self._linger_s and not self._is_lingering:
            now_s = self.loop.time()
            passed_s = now_s - self._stretch_began_s
            if passed_s >= _STRETCH_S:
                self._is_lingering = self._reads >= LINGER_FROM_HZ * passed_s
                self._reads, self._stretch_began_s = 0, now_s
                if self._is_lingering:
                    self.loop.call_soon(self._linger)

    def _linger(self) -> None:
        """Behind all that was ready, wait a little; until a stretch has too few reads."""
        now_s = self.loop.time()
        passed_s = now_s - self._stretch_began_s
        if passed_s >= _STRETCH_S:
            self._is_lingering = self._reads >= LINGER_FROM_HZ * passed_s
            self._reads, self._stretch_began_s = 0, now_s
        if self._is_lingering and self.connections:
            time.sleep(self._linger_s)
            self.loop.call_soon(self._linger)
        else:
            self._is_lingering = False

    def lost(self, connection: DirectConnection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._all_lost.set()

    async def close(self) -> None:
        """Close every link; what was sent is still delivered if the peer takes it within seconds."""
        for connection in list(self.connections):
            connection.end()
        while self.connections:
            self._all_lost.clear()
            await self._all_lost.wait()


class Waker:
    """What a link gets to wake its connection: callable from any thread."""

    __slots__ = ("_connection", "_door")

    def __init__(self, connection: DirectConnection, door: DirectDoor) -> None:
        self._connection = connection
        self._door = door

    def __call__(self) -> None:
        door = self._door
        if get_ident() == door.thread:
            door.loop.call_soon(self._connection.wake)
            return
        # The loop may be closed when a late hint comes; then there is no link to wake either.
        with suppress(RuntimeError):
            door.loop.call_soon_threadsafe(self._connection.wake)

    def send(self) -> None:
        """Send what the link has to send, now. Only from the event loop's thread, and not from within a call of the link."""
        self._connection.send()


class DirectConnection(asyncio.BufferedProtocol):
    """One connection and its link."""

    __slots__ = (
        "_closing",
        "_door",
        "_due_ns",
        "_link",
        "_stalled",
        "_timer",
        "_transport",
        "peer",
    )

    def __init__(self, door: DirectDoor) -> None:
        self.peer = ""
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._link: StreamLink | None = None
        """None before the connection is made and after the link was told that it is over."""
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        """What the timer was set for. It is not moved when the link's deadline does: it looks again when it is due."""
        self._stalled: asyncio.TimerHandle | None = None
        """Set while the peer takes nothing."""
        self._closing: asyncio.TimerHandle | None = None

    # --- for the door and the link ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look after the link: it has something due or to send. Only from the event loop's thread."""
        link = self._link
        if link is None:
            return
        try:
            link.handle_timeout(self._door.clock_ns())
            self._flush(link, link.next_timeout())
        except Exception:  # noqa: BLE001 - one link's bug must not end the others; it is logged whole
            self._fail()

    def send(self) -> None:
        """Send what the link has to send."""
        if self._link is not None and self._transport is not None and (data := self._link.data_to_send()):
            self._transport.write(data)

    def listen(self) -> None:
        """Read, or do not, as the door and the peer allow."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._door.is_paused or self._stalled is not None:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def end(self) -> None:
        """Tell the link that it is over, send what it has left, and close."""
        link, self._link = self._link, None
        transport = self._transport
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if link is not None:
            try:
                link.disconnected(self._door.clock_ns())
                if transport is not None and not transport.is_closing() and (data := link.data_to_send()):
                    transport.write(data)
            except Exception:  # noqa: BLE001 - as above
                _LOG.exception("an internal error at the end of the link from %s", self.peer)
        if transport is not None and self._closing is None:
            self._closing = self._door.loop.call_later(asyncio_link.CLOSE_TIMEOUT_S, transport.abort)
            transport.close()

    # --- for asyncio ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        door = self._door
        peer = transport.get_extra_info("peername")
        self.peer = str(peer)
        if len(door.connections) >= door.links_max:
            _LOG.warning("closing %s: %d links are open, the most that is allowed", self.peer, door.links_max)
            self.end()
            return
        door.connections.add(self)

        try:
            link = self._link = door.open_link(Waker(self, door))
            if door.on_open is not None:
                door.on_open(link, str(peer[0]) if isinstance(peer, tuple) else "")
            link.connected(door.clock_ns())
            self._flush(link, link.next_timeout())
        except Exception:  # noqa: BLE001 - as above
            self._fail()
        self.listen()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._door.buffer

    def buffer_updated(self, nbytes: int) -> None:
        link = self._link
        if link is None:
            return
        door = self._door
        data = bytes(door.buffer[:nbytes])
        now_ns = door.clock_ns()
        try:
            link.receive_data(data, now_ns)
            due_ns = link.next_timeout()
            if due_ns is not None and due_ns <= now_ns:
                link.handle_timeout(now_ns)
                due_ns = link.next_timeout()
            self._flush(link, due_ns)
        except Exception:  # noqa: BLE001 - as above
            self._fail()
        door.read()

    def eof_received(self) -> bool:
        self.end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._link is not None:
            self.end()
            if exc is not None:
                _LOG.info("the connection broke: %s (%s)", exc, self.peer)
        for timer in (self._stalled, self._closing):
            if timer is not None:
                timer.cancel()
        self._transport = None
        self._door.lost(self)

    def pause_writing(self) -> None:
        self._stalled = self._door.loop.call_later(asyncio_link.SEND_TIMEOUT_S, self._give_up)
        self.listen()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self.listen()

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _flush(self, link: StreamLink, due_ns: int | None) -> None:
        transport = self._transport
        data = link.data_to_send()
        if data and transport is not None:
            transport.write(data)
        if link.is_closing:
            self.end()
            return
        if due_ns is None or (self._timer is not None and self._due_ns <= due_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_ns = due_ns
        wait_s = seconds_until(due_ns, self._door.clock_ns())
        assert wait_s is not None
        self._timer = self._door.loop.call_later(wait_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self.wake()

    def _give_up(self) -> None:
        _LOG.info("the peer has not read for %g s (%s)", asyncio_link.SEND_TIMEOUT_S, self.peer)
        self.end()
        if self._transport is not None:
            self._transport.abort()

    def _fail(self) -> None:
        _LOG.exception("closing the link from %s after an internal error", self.peer)
        self.end()
