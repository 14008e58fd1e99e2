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

from bmsota.adapters.asyncio_accept import descriptors_to_spend, listen
from bmsota.adapters.asyncio_direct import DirectConnection, DirectDoor
from bmsota.adapters.asyncio_link import CLOSE_TIMEOUT_S, Connection, run_link
from bmsota.adapters.clock import steady_clock
from bmsota.errors import TransferError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

    from bmsota.adapters.asyncio_accept import Acceptor
    from bmsota.adapters.asyncio_link import StreamLink

__all__ = ["AsyncioGateway", "serve_gateway"]

_LOG = logging.getLogger(__name__)

# A process may have 20,000 descriptors; beyond that, the fleet is divided among several.
LINKS_MAX = 20_000
# That links are closed for want of room is said this often.
SAY_EVERY_S = 60.0


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
    on_handshake_failed: Callable[[str, str], object] | None = None,
    descriptors_max: int | None = None,
    linger_s: float = 0.0,
) -> AsyncioGateway:
    """Listen on *host* and *port* (0: the system chooses one) and serve until `AsyncioGateway.close`.

    Args:
        open_link: makes the link of a new connection. It gets a function that wakes the link from any thread: the door then calls
            `handle_timeout` and sends what there is.
        host: an address or a name of this machine.
        port: the TCP port.
        ssl_context: for TLS.
        clock_ns: nanoseconds since the Unix epoch, never going back; by default a `steady_clock`.
        executor: where the links' calls run, if they may block (a database). One worker keeps them one after another. Without it, they
            run in the event loop, which costs a fraction.
        links_max: connections beyond it are closed at once.
        on_open: called with each new link and its peer's address (without the port), before `connected`.
        on_handshake_failed: called with the address of a peer whose TLS handshake failed, and the reason; it never gets a link.
        descriptors_max: accept nothing while the process has so many descriptors open; by default all but a reserve for files.
        linger_s: from some hundred reads a second on, wait up to this long between two looks for what has come, so that many links are
            read together. Delays nothing else in this loop. Only without *executor* and TLS, where there is epoll.

    Raises:
        OSError: the address cannot be used.
    """
    loop = asyncio.get_running_loop()
    clock = clock_ns or steady_clock()
    tls: dict[str, Any] = {} if ssl_context is None else {"ssl": ssl_context, "ssl_shutdown_timeout": CLOSE_TIMEOUT_S}
    options: dict[str, Any] = {
        "descriptors_max": descriptors_to_spend() if descriptors_max is None else descriptors_max,
        "tls": tls,
        "on_handshake_failed": on_handshake_failed,
    }
    if executor is None:
        door = DirectDoor(open_link, clock, links_max, on_open, linger_s, has_rounds=not tls)
        gateway = AsyncioGateway(door=door)
        gateway.listen(await listen(lambda: DirectConnection(door), host, port, **options))
        return gateway

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
    gateway.listen(await listen(lambda: Connection(gateway.accept), host, port, **options))
    return gateway


class AsyncioGateway:
    """A gateway that listens; made by `serve_gateway`."""

    def __init__(
        self,
        run: Callable[[Connection], Coroutine[Any, Any, None]] | None = None,
        links_max: int = LINKS_MAX,
        *,
        door: DirectDoor | None = None,
    ) -> None:
        self.port = 0
        """The TCP port it listens on."""
        self._run = run
        self._door = door
        self._links_max = links_max
        self._acceptor: Acceptor | None = None
        self._closed_at_s: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop listening and close every link."""
        if self._acceptor is not None:
            await self._acceptor.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._door is not None:
            await self._door.close()

    def pause_reading(self) -> None:
        """Read from no link until `resume_reading`, so that the peers wait. Only without an executor, from the event loop's thread."""
        assert self._door is not None
        self._door.pause()

    def resume_reading(self) -> None:
        """Read from all links again."""
        assert self._door is not None
        self._door.resume()

    @property
    def reads_in_rounds(self) -> bool:
        """Whether it lingers under load, so that whoever takes what was read need not."""
        return self._door is not None and self._door.rounds is not None

    def listen(self, acceptor: Acceptor) -> None:
        """Take over *acceptor*, to be closed with the links."""
        self._acceptor = acceptor
        self.port = acceptor.port

    def accept(self, connection: Connection) -> None:
        """Serve a new connection in a task of its own."""
        # asyncio keeps only weak references to tasks.
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection) -> None:
        try:
            assert self._run is not None
            if len(self._tasks) <= self._links_max:
                await self._run(connection)
            else:
                now_s = asyncio.get_running_loop().time()
                if self._closed_at_s is None or now_s - self._closed_at_s >= SAY_EVERY_S:
                    self._closed_at_s = now_s
                    _LOG.warning(
                        "closing %s: %d links are open, the most that is allowed", connection.peer, self._links_max
                    )
                await connection.close()
        except TransferError as error:
            _LOG.info("%s", error)
        except Exception:  # noqa: BLE001 - one link's bug must not end the others; it is logged whole
            _LOG.exception("closing the link from %s after an internal error", connection.peer)
            await connection.close()
