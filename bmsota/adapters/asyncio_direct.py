"""A connection that calls its link from the event loop's own callbacks: no task, no queue, one buffer for all.

This is how `serve_gateway` runs links that never block: what has been read is handed to the link before anything else is read, so
nothing waits here, and the memory that connections need does not grow with what peers send.

What a link is, and what is done about slow, silent and closing peers, is the same as in `bmsota.adapters.asyncio_link`.

Strategy. For each socket that is ready the event loop makes a handle and goes through five calls, which costs more than the read. So
the door has a poll of its own (`_Rounds`): the loop sees one descriptor, and all that is ready is read in one round, at one time of the
clock. A gateway may also linger between two rounds, as network cards do with their interrupts: what comes meanwhile is read
together, and nothing else in the loop waits for it. It lingers for as long as some dozens of reads take to come, and not at all
where each round finds but one read: a peer that waits for an answer before it sends again must not be slowed down by that. TLS, and
systems without epoll, are read by the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
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

# One read: a dozen reports, well below a millisecond of work. Of what costs most a byte, the shortest frames that are refused, it is
# some milliseconds; of such a link everybody else sees one read a round.
READ_SIZE_BYTES_MAX = 4 * 1024
_READS_A_ROUND_MAX = 256
# How much work a read is, depends on what was sent. So a round is over when it has taken this long, and whatever else is in the event
# loop gets its turn before the rest is read.
_ROUND_S_MAX = 0.05
# Lingering is tried from so many reads a second, counted over stretches of at least this length; again after a second.
LINGER_FROM_HZ = 200
_STRETCH_S = 0.05
_TRY_AGAIN_S = 1.0
# As many as make a round cheap for each; more would only be later.
_READS_WANTED = 66
_LINGER_S_MIN = 0.01
_HAS_EPOLL = hasattr(select, "epoll")


class _Rounds:
    """Reads from all links of a door that have something, a round at a time. Only from the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock_ns: Callable[[], int], linger_s: float) -> None:
        self._loop = loop
        self._clock_ns = clock_ns
        self._linger_s = linger_s
        self._poll = select.epoll()
        self._connections: dict[int, DirectConnection] = {}
        self._next: asyncio.Handle | None = None
        """The next round, while the loop does not watch the poll."""
        self._wait_s = 0.0
        """Between two rounds; 0: the loop watches."""
        self._left: list[tuple[int, int]] = []
        """Ready, and not read by the round before: the poll would name the same ones first again."""
        self._reads = self._rounds_with_reads = 0
        self._stretch_began_s = self._not_before_s = loop.time()
        loop.add_reader(self._poll.fileno(), self._round)

    def add(self, descriptor: int, connection: DirectConnection) -> None:
        if descriptor not in self._connections:
            self._connections[descriptor] = connection
            self._poll.register(descriptor, select.EPOLLIN)

    def discard(self, descriptor: int) -> None:
        if self._connections.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._loop.remove_reader(self._poll.fileno())
        self._poll.close()

    def _round(self) -> None:
        left, self._left = self._left, []
        ready = left or self._poll.poll(0, _READS_A_ROUND_MAX)
        has_more = bool(left) or len(ready) == _READS_A_ROUND_MAX
        if ready:
            now_ns, time = self._clock_ns(), self._loop.time
            end_s = time() + _ROUND_S_MAX
            for count, (descriptor, _) in enumerate(ready, 1):
                # One that was read before may have ended this one.
                connection = self._connections.get(descriptor)
                if connection is None:
                    continue
                if connection.read(descriptor, now_ns) == READ_SIZE_BYTES_MAX:
                    has_more = True
                if time() >= end_s and count < len(ready):
                    self._left = ready[count:]
                    has_more = True
                    break
            if self._linger_s:
                self._reads += len(ready) - len(self._left)
                self._rounds_with_reads += 1
                self._choose()
        if has_more and self._next is not None:
            self._next = self._loop.call_soon(self._round)
        elif ready and not has_more and self._wait_s:
            if self._next is None:
                self._loop.remove_reader(self._poll.fileno())
            self._next = self._loop.call_later(self._wait_s, self._round)
        elif self._next is not None:
            self._next = None
            self._loop.add_reader(self._poll.fileno(), self._round)

    def _choose(self) -> None:
        """How long to wait between two rounds, from what has come since the last choice."""
        now_s = self._loop.time()
        passed_s = now_s - self._stretch_began_s
        if passed_s < _STRETCH_S:
            return
        rate_hz = self._reads / passed_s
        if self._wait_s and self._reads < 2 * self._rounds_with_reads:
            self._wait_s = 0.0
            self._not_before_s = now_s + _TRY_AGAIN_S
        elif self._wait_s or (rate_hz >= LINGER_FROM_HZ and now_s >= self._not_before_s):
            self._wait_s = min(max(_READS_WANTED / rate_hz, _LINGER_S_MIN), self._linger_s)
        self._reads = self._rounds_with_reads = 0
        self._stretch_began_s = now_s


class DirectDoor:
    """What the connections of one gateway share."""

    def __init__(
        self,
        open_link: Callable[[Callable[[], None]], StreamLink],
        clock_ns: Callable[[], int],
        links_max: int,
        on_open: Callable[[StreamLink, str], object] | None,
        linger_s: float,
        *,
        has_rounds: bool,
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
        self.rounds = _Rounds(self.loop, clock_ns, linger_s) if has_rounds and _HAS_EPOLL else None
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
        if self.rounds is not None:
            self.rounds.close()


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
        "_answering",
        "_closing",
        "_descriptor",
        "_door",
        "_due_ns",
        "_is_behind",
        "_is_over",
        "_link",
        "_stalled",
        "_timer",
        "_transport",
        "peer",
    )

    def __init__(self, door: DirectDoor) -> None:
        self.peer = ""
        self._door = door
        self._descriptor = -1
        """The socket, if the door reads from it; -1 if the event loop does."""
        self._transport: asyncio.Transport | None = None
        self._link: StreamLink | None = None
        """None before the connection is made and after the link was told that it is over."""
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        """What the timer was set for. It is not moved when the link's deadline does: it looks again when it is due."""
        self._stalled: asyncio.TimerHandle | None = None
        """Set while the peer takes nothing."""
        self._closing: asyncio.TimerHandle | None = None
        self._is_behind = False
        """The link has enough to do; its waker says when it has not."""
        self._is_over = False
        """The peer sends nothing more; it may still read what answers its last words."""
        self._answering: asyncio.TimerHandle | None = None
        """Until when it is waited for these answers."""

    # --- for the door and the link ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look after the link: it has something due or to send. Only from the event loop's thread."""
        link = self._link
        if link is None:
            return
        try:
            link.handle_timeout(self._door.clock_ns())
            self._flush(link, link.next_timeout())
            if self._is_behind:
                self._look_whether_behind(link)
        except Exception:  # noqa: BLE001 - one link's bug must not end the others; it is logged whole
            self._fail()

    def send(self) -> None:
        """Send what the link has to send."""
        if self._link is not None and self._transport is not None and (data := self._link.data_to_send()):
            self._transport.write(data)
        if self._is_over:
            self._end_if_answered()

    def listen(self) -> None:
        """Read, or do not, as the door and the peer allow."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        is_listening = not self._door.is_paused and self._stalled is None and not (self._is_over or self._is_behind)
        rounds = self._door.rounds
        if rounds is not None and self._descriptor >= 0:
            if is_listening:
                rounds.add(self._descriptor, self)
            else:
                rounds.discard(self._descriptor)
        elif is_listening:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def read(self, descriptor: int, now_ns: int) -> int:
        """Read from the socket, which has something, and hand it to the link; how many bytes it were."""
        try:
            data = os.read(descriptor, READ_SIZE_BYTES_MAX)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            _LOG.info("the connection broke: %s (%s)", error, self.peer)
            if self._transport is not None:
                self._stop_reading()
                self._transport.abort()
            return 0
        if data:
            self._take(data, now_ns)
        else:
            self.end_of_input()
        return len(data)

    def end_of_input(self) -> None:
        """The peer has closed its half. A link that still owes answers (`is_answering`, if it has that) gets some seconds for them."""
        if self._is_over:
            return
        self._is_over = True
        transport = self._transport
        # TLS has no such half.
        is_tls = transport is not None and transport.get_extra_info("sslcontext") is not None
        if not is_tls and getattr(self._link, "is_answering", False):
            self._stop_reading()
            self._answering = self._door.loop.call_later(asyncio_link.CLOSE_TIMEOUT_S, self.end)
        else:
            self.end()

    def end(self) -> None:
        """Tell the link that it is over, send what it has left, and close."""
        link, self._link = self._link, None
        transport = self._transport
        self._stop_reading()
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
        if door.rounds is not None:
            transport.pause_reading()
            self._descriptor = transport.get_extra_info("socket").fileno()
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
        self._take(bytes(self._door.buffer[:nbytes]), self._door.clock_ns())

    def eof_received(self) -> bool:
        self.end_of_input()
        return self._link is not None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._link is not None:
            self.end()
            if exc is not None:
                _LOG.info("the connection broke: %s (%s)", exc, self.peer)
        for timer in (self._stalled, self._closing, self._answering):
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

    def _take(self, data: bytes, now_ns: int) -> None:
        link = self._link
        if link is None:
            return
        try:
            link.receive_data(data, now_ns)
            due_ns = link.next_timeout()
            if due_ns is not None and due_ns <= now_ns:
                link.handle_timeout(now_ns)
                due_ns = link.next_timeout()
            self._flush(link, due_ns)
            self._look_whether_behind(link)
        except Exception:  # noqa: BLE001 - as above
            self._fail()

    def _look_whether_behind(self, link: StreamLink) -> None:
        is_behind = getattr(link, "is_behind", False)
        if is_behind != self._is_behind:
            self._is_behind = is_behind
            if self._link is not None:
                self.listen()

    def _end_if_answered(self) -> None:
        if self._link is not None and not getattr(self._link, "is_answering", False):
            self.end()

    def _stop_reading(self) -> None:
        if self._door.rounds is not None and self._descriptor >= 0:
            self._door.rounds.discard(self._descriptor)

    def _flush(self, link: StreamLink, due_ns: int | None) -> None:
        transport = self._transport
        data = link.data_to_send()
        if data and transport is not None:
            transport.write(data)
        if link.is_closing:
            self.end()
            return
        if self._is_over:
            self._end_if_answered()
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
