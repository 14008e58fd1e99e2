"""The gateway's TCP server: `serve_gateway` of the library outside, `GatewayLink` inside.

Links run in the event loop and never wait. What needs the database is done in one worker thread, a job at a time; reports are
written by the writer's thread. When its queue is full, nothing is read from any link until there is room.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from bmsota.adapters import serve_gateway
from bmsota_cloud.gateway.link import GatewayLink
from bmsota_cloud.services import LINKS_MAX, network_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from bmsota.adapters import AsyncioGateway, StreamLink
    from bmsota_cloud.gateway.link import Submit
    from bmsota_cloud.gateway.writer import ReportWriter

__all__ = ["GatewayServer", "OpenLink"]

_LOG = logging.getLogger(__name__)

# What reports that were read may take to be stored when the process ends. A service manager kills after 90 s (systemd's default).
STOP_TIMEOUT_S = 30.0
# The most that reports wait to be read together: at a few hundred a second. At some thousands it is 10 to 20 ms.
LINGER_S = 0.050


class OpenLink(Protocol):
    """Makes the link of a new connection from its wake function and the way to its worker."""

    def __call__(self, wake: Callable[[], None], *, submit: Submit) -> GatewayLink: ...


class _Turns:
    """What waits for the one worker: the links take turns, and what one of them wants done keeps its order. From any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lines: deque[deque[Callable[[], None]]] = deque()
        """Of the links that have something waiting."""

    def put(self, line: deque[Callable[[], None]], job: Callable[[], None]) -> None:
        with self._lock:
            if not line:
                self._lines.append(line)
            line.append(job)

    def do_next(self) -> None:
        """Do one; there is one for each that was put."""
        with self._lock:
            line = self._lines.popleft()
            job = line.popleft()
            if line:
                self._lines.append(line)
        job()


def _set_address(link: StreamLink, address: str) -> None:
    assert isinstance(link, GatewayLink)
    link.address = network_of(address)


class GatewayServer:
    """Listen, and run a link for each connection."""

    def __init__(
        self,
        open_link: OpenLink,
        clock_ns: Callable[[], int],
        *,
        ssl_context: ssl.SSLContext | None = None,
        writer: ReportWriter | None = None,
        links_max: int = LINKS_MAX,
        descriptors_max: int | None = None,
        on_handshake_failed: Callable[[str, str], object] | None = None,
    ) -> None:
        """Nothing listens before `start`.

        Args:
            open_link: makes the link of a new connection.
            clock_ns: reads the platform's clock.
            ssl_context: for TLS.
            writer: started and stopped with the server.
            links_max: links beyond it are closed at once.
            descriptors_max: accept nothing while the process has so many descriptors open.
            on_handshake_failed: called with the network of a peer whose TLS handshake failed, and the reason.
        """
        self._links_max = links_max
        self._descriptors_max = descriptors_max
        self._on_handshake_failed = on_handshake_failed
        self._open_link = open_link
        self._clock_ns = clock_ns
        self._ssl_context = ssl_context
        self._writer = writer
        self._gateway: AsyncioGateway | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway")
        self._turns = _Turns()

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, chosen by the system if *port* is 0.

        Raises:
            OSError: the address cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        gateway = self._gateway = await serve_gateway(
            lambda wake: self._open_link(wake, submit=partial(self._submit, deque())),
            host,
            port,
            ssl_context=self._ssl_context,
            clock_ns=self._clock_ns,
            links_max=self._links_max,
            descriptors_max=self._descriptors_max,
            linger_s=LINGER_S,
            on_open=_set_address,
            on_handshake_failed=self._handshake_failed,
        )
        if self._writer is not None:
            self._writer.start(
                on_full=gateway.pause_reading, on_room=gateway.resume_reading, comes_in_rounds=gateway.reads_in_rounds
            )
        return gateway.port

    async def stop(self) -> None:
        """Stop reading, store and answer what was read, close every link and stop listening."""
        if self._gateway is not None:
            self._gateway.pause_reading()
            if self._writer is not None:
                await self._writer.stop(STOP_TIMEOUT_S)
            await self._gateway.close()
        await asyncio.to_thread(self._worker.shutdown)

    def _handshake_failed(self, address: str, words: str) -> None:
        if self._on_handshake_failed is not None:
            self._on_handshake_failed(network_of(address), words)

    def _submit(
        self,
        line: deque[Callable[[], None]],
        job: Callable[[], Any],
        then: Callable[[Any, Exception | None, int], None],
    ) -> None:
        """Run *job* in the worker when the turn of its link's *line* has come, then call *then* in the event loop's thread.

        Nothing happens once the server has ended.
        """
        loop = self._loop
        assert loop is not None

        def finish(result: Any, error: Exception | None) -> None:
            try:
                then(result, error, self._clock_ns())
            except Exception:  # noqa: BLE001 - logged whole; the other links go on
                _LOG.exception("an internal error behind a job of a link")

        def run() -> None:
            try:
                result, error = job(), None
            except Exception as caught:  # noqa: BLE001 - the link decides what becomes of it
                result, error = None, caught
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, result, error)

        with suppress(RuntimeError):
            self._turns.put(line, run)
            self._worker.submit(self._turns.do_next)
