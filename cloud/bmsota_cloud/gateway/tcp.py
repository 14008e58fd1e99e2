"""The gateway's TCP server: asyncio outside, `GatewayLink` inside.

Strategy: the links are synchronous and write to the store, so all of them run in one worker thread, a step at a time;
the event loop only moves bytes. A link that does not read its answers is closed, and reading stops while a step of the
same link runs: back-pressure reaches the vehicle by TCP itself.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from bmsota_cloud.gateway.link import GatewayLink

__all__ = ["GatewayServer"]

_LOG = logging.getLogger(__name__)

# One read: some dozens of reports. A longer burst takes several steps, so that other links get their turn.
_READ_SIZE_BYTES_MAX = 64 * 1024
# A peer that takes nothing for so long is gone; TCP itself would need many minutes to notice.
_SEND_TIMEOUT_S = 30
# SQLite is advised up to 10,000 vehicles; twice that leaves room for links not yet timed out.
_LINKS_MAX = 20_000


class GatewayServer:
    """Listen, and run a link for each connection."""

    def __init__(
        self,
        open_link: Callable[[Callable[[], None]], GatewayLink],
        clock_ns: Callable[[], int],
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """*open_link* makes a link from its wake function; *clock_ns* reads the wall clock, never going back."""
        self._open_link = open_link
        self._clock_ns = clock_ns
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway")
        self._connections: dict[asyncio.Task[None], None] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, chosen by the system if *port* is 0.

        Raises:
            OSError: the address can't be used.
        """
        self._server = await asyncio.start_server(self._serve, host, port, ssl=self._ssl_context)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close every link and stop listening."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        self._worker.shutdown()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= _LINKS_MAX:
            _LOG.warning("expected at most %d links, got one more: closed", _LINKS_MAX)
            writer.close()
            return
        self._connections[task] = None
        try:
            await self._run(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            _LOG.info("link from %s ended: %r", writer.get_extra_info("peername"), error)
        except asyncio.CancelledError:
            # Only `stop` cancels, and it waits for us; the streams library would log a cancelled handler.
            pass
        except Exception:  # noqa: BLE001 - one link's bug must not end the others; it is logged whole
            _LOG.exception("link from %s: closed after an error of ours", writer.get_extra_info("peername"))
        finally:
            del self._connections[task]
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        link = self._open_link(lambda: _call_soon(loop, wake))
        await loop.run_in_executor(self._worker, link.connected, self._clock_ns())
        reading = asyncio.ensure_future(reader.read(_READ_SIZE_BYTES_MAX))
        waking = asyncio.ensure_future(wake.wait())
        try:
            while not link.is_closing:
                due_ns = link.next_timeout()
                wait_s = None if due_ns is None else max(0.0, (due_ns - self._clock_ns()) / 1e9)
                done, _ = await asyncio.wait((reading, waking), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                data = b""
                if waking in done:
                    wake.clear()
                    waking = asyncio.ensure_future(wake.wait())
                if reading in done:
                    data = reading.result()
                    if not data:
                        break
                    reading = asyncio.ensure_future(reader.read(_READ_SIZE_BYTES_MAX))
                answer = await loop.run_in_executor(self._worker, self._step, link, data)
                if answer:
                    writer.write(answer)
                    # Not `wait_for`: before Python 3.12 it can swallow the cancellation by `stop`.
                    async with asyncio.timeout(_SEND_TIMEOUT_S):
                        await writer.drain()
        finally:
            reading.cancel()
            waking.cancel()
            await asyncio.shield(loop.run_in_executor(self._worker, link.disconnected, self._clock_ns()))

    def _step(self, link: GatewayLink, data: bytes) -> bytes:
        now_ns = self._clock_ns()
        if data:
            link.receive_data(data, now_ns)
        link.handle_timeout(now_ns)  # Always: a busy link must not starve its deadlines.
        return link.data_to_send()


def _call_soon(loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> None:
    # The loop may be closed when a late hint comes; then there is no link to wake either.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(wake.set)
