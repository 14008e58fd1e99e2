"""A terminal on asyncio: connect when its link asks for it, drive it, and connect again.

    terminal = connect_terminal(SessionLink(session, handle), "gateway.example", 32960)
    session.send_report(bodies, now_ns)
    terminal.wake()
    ...
    await terminal.wait_closed()        # after `session.logout`; or `await terminal.close()`

When to connect and how long to wait between two attempts is the session's decision. What the loop does about slow, silent and
closing peers: `bmsota.adapters.asyncio_link`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bmsota.adapters.asyncio_link import CLOSE_TIMEOUT_S, Connection, run_link, seconds_until
from bmsota.adapters.clock import steady_clock
from bmsota.errors import TransferError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from bmsota.adapters.asyncio_link import ReconnectingLink

__all__ = ["AsyncioTerminal", "connect_terminal"]

CONNECT_TIMEOUT_S = 10.0


def connect_terminal(
    link: ReconnectingLink,
    host: str,
    port: int,
    *,
    ssl_context: ssl.SSLContext | None = None,
    source_address: tuple[str, int] | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    clock_ns: Callable[[], int] | None = None,
    on_lost: Callable[[TransferError], object] | None = None,
) -> AsyncioTerminal:
    """Drive *link* in the running event loop, with as many connections as it asks for, until it has finished.

    Args:
        link: the terminal's end, for example a `SessionLink` of a `TerminalSession`.
        host: the gateway, a name or an address.
        port: its TCP port.
        ssl_context: for TLS.
        source_address: address and port to connect from (port 0: the system chooses one). One address has some 28,000 ports.
        connect_timeout_s: how long one attempt may take.
        clock_ns: nanoseconds since the Unix epoch, never going back; by default a `steady_clock`.
        on_lost: is given the reason when a connection broke or could not be opened, after `disconnected`.
    """
    loop = asyncio.get_running_loop()
    tls: dict[str, Any] = {} if ssl_context is None else {"ssl": ssl_context, "ssl_shutdown_timeout": CLOSE_TIMEOUT_S}

    async def connect() -> Connection:
        try:
            async with asyncio.timeout(connect_timeout_s):
                _, made = await loop.create_connection(Connection, host, port, local_addr=source_address, **tls)
        except (OSError, UnicodeError) as error:  # A name with a label of more than 63 characters is a UnicodeError.
            reason = str(error) or "timed out"
            raise TransferError(f"cannot connect to {host}:{port}: {reason}", permanent=False) from error
        return made

    return AsyncioTerminal(link, connect, clock_ns or steady_clock(), on_lost)


class AsyncioTerminal:
    """A terminal that is being driven; made by `connect_terminal`."""

    def __init__(
        self,
        link: ReconnectingLink,
        connect: Callable[[], Awaitable[Connection]],
        clock_ns: Callable[[], int],
        on_lost: Callable[[TransferError], object] | None,
    ) -> None:
        self._link = link
        self._connect = connect
        self._clock_ns = clock_ns
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._task = self._loop.create_task(self._run())

    def wake(self) -> None:
        """The link has something to do or to send. Safe from any thread."""
        # The loop may be closed already; then there is nothing to wake.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake)

    async def wait_closed(self) -> None:
        """Wait until the link has finished, or `close`. An exception of the link, which is a bug, comes out here."""
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def close(self) -> None:
        """Close the connection and stop, whatever the link wants."""
        self._task.cancel()
        await self.wait_closed()

    def _wake(self) -> None:
        self._changed.set()
        if self._connection is not None:
            self._connection.wake()

    async def _run(self) -> None:
        while not self._link.is_finished:
            if self._link.wants_connection:
                await self._run_connection()
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Do what is due; if that asks for no connection, wait for the next deadline."""
        link = self._link
        self._changed.clear()
        link.handle_timeout(self._clock_ns())
        if not (link.wants_connection or link.is_finished):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds_until(link.next_timeout(), self._clock_ns())):
                    await self._changed.wait()

    async def _run_connection(self) -> None:
        try:
            try:
                self._connection = await self._connect()
            except BaseException:
                self._link.disconnected(self._clock_ns())
                raise
            await run_link(self._link, self._connection, clock_ns=self._clock_ns)
        except TransferError as error:
            if self._on_lost is not None:
                self._on_lost(error)
        finally:
            self._connection = None
