"""What the asyncio doors drive, and how: a sans-IO link on one TCP connection.

`StreamLink` is what a door needs of a link. `SessionLink` makes one of a `PlatformSession` or a `TerminalSession` and a function
that handles its events; a link of your own can do more. `run_link` is the loop that both doors share.

Strategy: the link is called a step at a time. Received bytes wait in the connection until the link has finished its step, and
beyond a limit the socket is not read any more: back-pressure reaches the peer by TCP itself. Deadlines are served in every step,
so that a busy link does not starve them. A peer that does not read is given up after a while, because TCP would need many minutes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from bmsota.errors import TransferError
from bmsota.gbt32960 import CloseRequested, ConnectRequested, LoggedOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

__all__ = ["Connection", "LinkSession", "ReconnectingLink", "SessionLink", "StreamLink", "run_link", "seconds_until"]

EventT = TypeVar("EventT")
EventT_co = TypeVar("EventT_co", covariant=True)

# One step: some dozens of reports. A longer burst takes several, so that other links get their turn.
STEP_SIZE_BYTES_MAX = 64 * 1024
# A peer that takes nothing for so long is gone.
SEND_TIMEOUT_S = 30.0
# What is left to send when a connection is closed gets this long.
CLOSE_TIMEOUT_S = 5.0


class StreamLink(Protocol):
    """One end of a conversation on a stream. Times are nanoseconds since the Unix epoch and never go back.

    One that answers later, from a worker, may have a property `is_answering`: whether it still owes an answer. When the peer has closed its
    half of the connection, it is waited for it. It may also have a property `is_behind`: while that is so, and until the link wakes its driver,
    a gateway reads nothing from its peer.
    """

    @property
    def is_closing(self) -> bool:
        """The connection should be closed once `data_to_send` has been sent."""

    def connected(self, now_ns: int, /) -> object: ...

    def receive_data(self, data: bytes, now_ns: int, /) -> object: ...

    def handle_timeout(self, now_ns: int, /) -> object:
        """Do what is due. Called in every step; has no effect before its time."""

    def disconnected(self, now_ns: int, /) -> object:
        """The connection is gone, or could not be opened. Called once for each `connected` or failed attempt."""

    def data_to_send(self) -> bytes: ...

    def next_timeout(self) -> int | None:
        """When `handle_timeout` has something to do; 0 is at once, None is never."""


class ReconnectingLink(StreamLink, Protocol):
    """A link that asks for its connections."""

    @property
    def wants_connection(self) -> bool: ...

    @property
    def is_finished(self) -> bool:
        """It will never want a connection again."""


class LinkSession(Protocol[EventT_co]):
    """What `SessionLink` needs of a session: `PlatformSession` and `TerminalSession` have it."""

    def connected(self, now_ns: int, /) -> object: ...

    def receive_data(self, data: bytes, now_ns: int, /) -> object: ...

    def handle_timeout(self, now_ns: int, /) -> object: ...

    def disconnected(self, now_ns: int, /) -> object: ...

    def data_to_send(self) -> bytes: ...

    def next_timeout(self) -> int | None: ...

    def next_event(self) -> EventT_co | None: ...


class SessionLink(Generic[EventT]):
    """A session and the function that handles its events, as a link for either door."""

    def __init__(self, session: LinkSession[EventT], handle: Callable[[EventT, int], object]) -> None:
        """*handle* gets every event and the time; it may call the session."""
        self.session = session
        self.wants_connection = False
        self.is_closing = False
        self.is_finished = False
        self._handle = handle

    def connected(self, now_ns: int) -> None:
        self.wants_connection = self.is_closing = False
        self.session.connected(now_ns)
        self._handle_events(now_ns)

    def receive_data(self, data: bytes, now_ns: int) -> None:
        self.session.receive_data(data, now_ns)
        self._handle_events(now_ns)

    def handle_timeout(self, now_ns: int) -> None:
        self.session.handle_timeout(now_ns)
        self._handle_events(now_ns)

    def disconnected(self, now_ns: int) -> None:
        self.wants_connection = self.is_closing = False
        self.session.disconnected(now_ns)
        self._handle_events(now_ns)

    def data_to_send(self) -> bytes:
        return self.session.data_to_send()

    def next_timeout(self) -> int | None:
        return self.session.next_timeout()

    def _handle_events(self, now_ns: int) -> None:
        while (event := self.session.next_event()) is not None:
            if isinstance(event, ConnectRequested):
                self.wants_connection = True
            elif isinstance(event, CloseRequested):
                self.is_closing = True
            elif isinstance(event, LoggedOut):
                self.is_finished = True
            self._handle(event, now_ns)


class Connection(asyncio.Protocol):
    """One TCP connection: what has come and was not taken, and whether the peer takes what is sent."""

    def __init__(self, made: Callable[[Connection], object] | None = None) -> None:
        """*made* is called when the connection is there."""
        self.peer = ""
        self.address = ""
        """The peer's address without the port; empty if it has none."""
        self.is_over = False
        """The peer sends nothing more."""
        self.error: Exception | None = None
        """Why the connection broke."""
        self._made = made
        self._transport: asyncio.Transport | None = None
        self._input = bytearray()
        self._changed = asyncio.Event()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._is_lost = asyncio.Event()

    def wake(self) -> None:
        """End `receive` early. Only from the event loop's thread."""
        self._changed.set()

    async def receive(self, timeout_s: float | None) -> bytes:
        """Return what has come, at most a step's worth; b"" when nothing came in time, on `wake`, or when `is_over`."""
        if not self._input and not self.is_over:
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
        self._changed.clear()
        data = bytes(self._input[:STEP_SIZE_BYTES_MAX])
        del self._input[:STEP_SIZE_BYTES_MAX]
        if self._transport is not None and len(self._input) < STEP_SIZE_BYTES_MAX:
            self._transport.resume_reading()
        return data

    async def send(self, data: bytes, timeout_s: float = SEND_TIMEOUT_S) -> None:
        """Send *data*; wait while the peer takes nothing.

        Raises:
            TransferError: it took nothing for *timeout_s*. The connection is closed.
        """
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._can_write.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._can_write.wait()
        except TimeoutError:
            self._transport.abort()
            message = f"the peer has not read for {timeout_s:g} s ({self.peer})"
            raise TransferError(message, permanent=False) from None

    async def close(self) -> None:
        """Close; what was sent is still delivered if the peer takes it within seconds."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._is_lost.wait()
        except TimeoutError:
            self._transport.abort()

    # --- for asyncio --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = str(peer)
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        if self._made is not None:
            self._made(self)

    def data_received(self, data: bytes) -> None:
        self._input += data
        if len(self._input) >= STEP_SIZE_BYTES_MAX and self._transport is not None:
            self._transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        self.is_over = True
        self._changed.set()
        # The peer may still read what answers its last words; TLS has no such half.
        return self._transport is not None and self._transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over = True
        self.error = exc
        for event in (self._changed, self._can_write, self._is_lost):
            event.set()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()


def seconds_until(due_ns: int | None, now_ns: int) -> float | None:
    """How long to wait for a deadline as `next_timeout` gives it; None is for ever."""
    return None if due_ns is None else max(0.0, (due_ns - now_ns) / 1e9)


async def run_link(
    link: StreamLink, connection: Connection, *, clock_ns: Callable[[], int], executor: Executor | None = None
) -> None:
    """Drive *link* on *connection* until one of the two ends, then close. With *executor*, the link's steps run there.

    Raises:
        TransferError: the connection broke, or the peer does not read. Not permanent. `disconnected` has been called.
    """
    loop = asyncio.get_running_loop()

    async def call(step: Callable[..., bytes], *args: object) -> bytes:
        return step(*args) if executor is None else await loop.run_in_executor(executor, step, *args)

    def begin() -> bytes:
        link.connected(clock_ns())
        return link.data_to_send()

    def step(data: bytes) -> bytes:
        now_ns = clock_ns()
        if data:
            link.receive_data(data, now_ns)
        link.handle_timeout(now_ns)
        return link.data_to_send()

    def end() -> bytes:
        link.disconnected(clock_ns())
        return b""

    try:
        try:
            await connection.send(await call(begin))
            while not link.is_closing:
                data = await connection.receive(seconds_until(link.next_timeout(), clock_ns()))
                if connection.is_over and not data:
                    break
                await connection.send(await call(step, data))
        finally:
            # To the end also when we are cancelled: the link must not miss an event.
            await asyncio.shield(call(end))
        if connection.error is not None:
            message = f"the connection broke: {connection.error} ({connection.peer})"
            raise TransferError(message, permanent=False) from connection.error
    finally:
        await connection.close()
