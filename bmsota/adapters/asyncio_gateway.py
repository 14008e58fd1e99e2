"""A gateway on asyncio: listen, and run a link for each connection.

    gateway = await serve_gateway(lambda wake: SessionLink(PlatformSession(), handle), "0.0.0.0", 32960)
    ...
    await gateway.close()

What a link is, and what the loop does about slow, silent and closing peers: `bmsota.adapters.asyncio_link`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bmsota.adapters.asyncio_link import CLOSE_TIMEOUT_S, Connection, run_link
from bmsota.adapters.clock import steady_clock
from bmsota.errors import TransferError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

    from bmsota.adapters.asyncio_link import StreamLink

__all__ = ["AsyncioGateway", "serve_gateway"]

_LOG = logging.getLogger(__name__)

# A process may have 20,000 descriptors; beyond that, the fleet is divided among several.
LINKS_MAX = 20_000


async def serve_gateway(
    open_link: Callable[[Callable[[], None]], StreamLink],
    host: str,
    port: int,
    *,
    ssl_context: ssl.SSLContext | None = None,
    clock_ns: Callable[[], int] | None = None,
    executor: Executor | None = None,
    links_max: int = LINKS_MAX,
    on_open: Callable[[StreamLink, str], object] | None = None,
) -> AsyncioGateway:
    """Listen on *host* and *port* (0: the system chooses one) and serve until `AsyncioGateway.close`.

    Args:
        open_link: makes the link of a new connection. It gets a function that wakes the link from any thread: the door then calls
            `handle_timeout` and sends what there is.
        host: an address or a name of this machine.
        port: the TCP port.
        ssl_context: for TLS.
        clock_ns: nanoseconds since the Unix epoch, never going back; by default a `steady_clock`.
        executor: where the links' calls run, if they may block (a database). One worker keeps them one after another.
        links_max: connections beyond it are closed at once.
        on_open: called with each new link and its peer's address (without the port), before `connected`.

    Raises:
        OSError: the address cannot be used.
    """
    loop = asyncio.get_running_loop()
    clock = clock_ns or steady_clock()

    async def run(connection: Connection) -> None:
        def wake() -> None:
            # The loop may be closed when a late hint comes; then there is no link to wake either.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(connection.wake)

        link = open_link(wake)
        if on_open is not None:
            on_open(link, connection.address)
        await run_link(link, connection, clock_ns=clock, executor=executor)

    gateway = AsyncioGateway(run, links_max)
    tls: dict[str, Any] = {} if ssl_context is None else {"ssl": ssl_context, "ssl_shutdown_timeout": CLOSE_TIMEOUT_S}
    server = await loop.create_server(lambda: Connection(gateway.accept), host, port, **tls)
    gateway.listen(server)
    return gateway


class AsyncioGateway:
    """A gateway that listens; made by `serve_gateway`."""

    def __init__(self, run: Callable[[Connection], Coroutine[Any, Any, None]], links_max: int) -> None:
        self.port = 0
        """The TCP port it listens on."""
        self._run = run
        self._links_max = links_max
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop listening and close every link."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def listen(self, server: asyncio.Server) -> None:
        """Take over *server*, to be closed with the links."""
        self._server = server
        self.port = int(server.sockets[0].getsockname()[1])

    def accept(self, connection: Connection) -> None:
        """Serve a new connection in a task of its own."""
        # asyncio keeps only weak references to tasks.
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection) -> None:
        try:
            if len(self._tasks) <= self._links_max:
                await self._run(connection)
            else:
                _LOG.warning(
                    "closing %s: %d links are open, the most that is allowed", connection.peer, self._links_max
                )
                await connection.close()
        except TransferError as error:
            _LOG.info("%s", error)
        except Exception:  # noqa: BLE001 - one link's bug must not end the others; it is logged whole
            _LOG.exception("closing the link from %s after an internal error", connection.peer)
            await connection.close()
