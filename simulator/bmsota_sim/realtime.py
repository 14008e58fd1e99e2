"""Real time: the kernel's heap against the wall clock, real TCP, real HTTP.

The same units that run in virtual time run here. An I/O event first brings the kernel up to the present, so that
everything due before it has happened before it; then it is handed to the unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import httpx

from bmsota.adapters import connect_terminal
from bmsota_sim.kernel import MS, SECOND, Kernel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

    from bmsota.adapters import AsyncioTerminal
    from bmsota.ota import HttpRequest
    from bmsota_sim.links.uplink import HttpListener, StreamListener

__all__ = ["RealTimeDriver", "TcpUplink"]

# The longest sleep between two looks at the heap: short enough to notice a stop request at once.
SLEEP_MAX_S = 0.2
# One answer of the device API is at most an image; beyond this a server is feeding us endless data. The unit refuses
# at the signed size already; this bounds what waits between the socket and the unit.
HTTP_ANSWER_SIZE_BYTES_MAX = 64 * 1024 * 1024
# How much answer may wait in the modem before the socket is read on, and how often it is looked at.
HTTP_CHUNK_SIZE_BYTES = 16 * 1024
HTTP_TIMEOUT_S = 20.0
# How much backlog is worked off before the sockets are looked at.
SLICE_NS = 20 * MS
# Lateness is kept as the time spent in each power of two of a millisecond: up to 18 hours.
LAG_BUCKETS = 27
# Half-open links of one unit; a socket each. A platform that ends none of them is told of the oldest.
ABANDONED_MAX = 4


class RealTimeDriver:
    """Pumps a kernel in real time inside an asyncio loop."""

    def __init__(self, *, speed: float = 1.0) -> None:
        """*speed*: seconds of the kernel in a second of the wall clock."""
        # One reading of the wall clock, then the monotonic one: `now_ns` never goes back.
        self._speed = speed
        self._epoch_ns, self._monotonic_ns = time.time_ns(), time.monotonic_ns()
        self.kernel = Kernel(self.wall_ns())
        self.lag_ns_max = 0
        self.lag_ns = 0
        """How far the kernel is behind now."""
        self._lag_time_ns = [0] * LAG_BUCKETS
        self._looked_ns = 0
        self._wake = asyncio.Event()
        self.failure: BaseException | None = None

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch, never going back; with a speed, as many times as fast from the start on."""
        passed_ns = time.monotonic_ns() - self._monotonic_ns
        return self._epoch_ns + (passed_ns if self._speed == 1.0 else int(passed_ns * self._speed))

    def _run_slice(self) -> None:
        """Run what is due, but no more than a slice: with a backlog the sockets come first."""
        now = self.wall_ns()
        due = self.kernel.next_due()
        self.lag_ns = 0 if due is None else max(0, now - due)
        self.lag_ns_max = max(self.lag_ns_max, self.lag_ns)
        self.kernel.run_until(min(now, due + SLICE_NS) if self.lag_ns and due is not None else now)

    def forget_lag(self) -> None:
        """Measure the lateness from here on."""
        self.lag_ns_max = 0
        self._lag_time_ns = [0] * LAG_BUCKETS

    def _count_lag(self) -> None:
        now = time.monotonic_ns()
        if self._looked_ns:
            bucket = min((self.lag_ns // MS).bit_length(), LAG_BUCKETS - 1)
            self._lag_time_ns[bucket] += now - self._looked_ns
        self._looked_ns = now

    def lag_s(self, share: float) -> float:
        """The lateness that was not exceeded for this share of the time, in seconds; powers of two of a millisecond."""
        wanted, seen = share * sum(self._lag_time_ns), 0
        for bucket, time_ns in enumerate(self._lag_time_ns):
            seen += time_ns
            if seen >= wanted:
                return min((1 << bucket) * MS, max(self.lag_ns_max, MS)) / SECOND
        return self.lag_ns_max / SECOND

    def deliver(self, callback: Callable[..., object], *args: object) -> None:
        """Bring the kernel towards the present, by a slice, then hand it an I/O event."""
        try:
            self._run_slice()
            callback(*args)
        except BaseException as error:
            # Raised inside an asyncio callback it would only be logged; the run must end with it.
            self.failure = error
            raise
        finally:
            self._wake.set()

    async def run(self, finished: Callable[[], bool], *, until_ns: int) -> None:
        """Run until *finished* says so or *until_ns* has come."""
        while not finished():
            if self.failure is not None:
                raise self.failure
            self._run_slice()
            self._count_lag()
            if self.wall_ns() >= until_ns:
                return
            due = self.kernel.next_due()
            wait_s = (
                SLEEP_MAX_S
                if due is None
                else min(SLEEP_MAX_S, max(0.0, (due - self.wall_ns()) / SECOND / self._speed))
            )
            if wait_s < 0.001:
                await asyncio.sleep(0)
                continue
            self._wake.clear()
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()


class _Stream:
    """One TCP connection to the gateway, as a link that `connect_terminal` drives. The unit's session keeps the deadlines."""

    def __init__(self, driver: RealTimeDriver, listener: StreamListener) -> None:
        self.wants_connection = True
        self.is_closing = False
        self.is_finished = False
        self._driver = driver
        self._listener: StreamListener | None = listener
        self._output = bytearray()

    def connected(self, _now_ns: int) -> None:
        self.wants_connection = False
        if self._listener is not None:
            self._driver.deliver(self._listener.stream_opened)

    def receive_data(self, data: bytes, _now_ns: int) -> None:
        if self._listener is not None:
            self._driver.deliver(self._listener.stream_received, data)

    def handle_timeout(self, _now_ns: int) -> None:
        return

    def next_timeout(self) -> int | None:
        return None

    def send(self, data: bytes) -> None:
        self._output += data

    def data_to_send(self) -> bytes:
        data = bytes(self._output)
        self._output.clear()
        return data

    def disconnected(self, _now_ns: int) -> None:
        self.wants_connection = False
        self.is_finished = True

    def closed(self, reason: str) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._driver.deliver(listener.stream_closed, reason)

    def abandon(self) -> None:
        self._listener = None

    def close(self) -> None:
        self._listener = None
        self.is_closing = True


class TcpUplink:
    """The `Uplink` of one unit over real sockets."""

    def __init__(
        self,
        driver: RealTimeDriver,
        client: httpx.AsyncClient,
        *,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None = None,
        source_address: str | None = None,
    ) -> None:
        self._ssl_context = ssl_context
        self._source_address = source_address
        self._driver = driver
        self._client = client
        self._host = host
        self._port = port
        self._stream: _Stream | None = None
        self._terminal: AsyncioTerminal | None = None
        self._abandoned: deque[tuple[_Stream, AsyncioTerminal]] = deque()
        self._exchange: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        # asyncio keeps only weak references to tasks; we keep the strong one until it is done.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def open_stream(self, listener: StreamListener) -> None:
        self.close_stream()
        stream = self._stream = _Stream(self._driver, listener)
        ends: list[str] = []
        terminal = self._terminal = connect_terminal(
            stream,
            self._host,
            self._port,
            clock_ns=self._driver.wall_ns,
            ssl_context=self._ssl_context,
            source_address=None if self._source_address is None else (self._source_address, 0),
            on_lost=lambda error: ends.append(str(error)),
        )
        self._start(self._until_closed(terminal, stream, ends))

    @staticmethod
    async def _until_closed(terminal: AsyncioTerminal, stream: _Stream, ends: list[str]) -> None:
        await terminal.wait_closed()
        stream.closed(ends[0] if ends else "connection closed")

    def send_stream(self, data: bytes) -> None:
        if self._stream is not None and self._terminal is not None:
            self._stream.send(data)
            self._terminal.wake()

    def close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and self._terminal is not None:
            stream.close()
            self._terminal.wake()

    def abandon_stream(self) -> None:
        """The unit is gone, and the platform does not learn it: the socket stays open and silent, until the run or the platform ends it."""
        stream, terminal = self._stream, self._terminal
        self._stream = None
        if stream is None or terminal is None:
            return
        stream.abandon()
        self._abandoned.append((stream, terminal))
        while len(self._abandoned) > ABANDONED_MAX:
            self._end_abandoned(*self._abandoned.popleft())

    @staticmethod
    def _end_abandoned(stream: _Stream, terminal: AsyncioTerminal) -> None:
        stream.close()
        terminal.wake()

    def start_http(self, base_url: str, request: HttpRequest, listener: HttpListener) -> None:
        self.abort_http()
        self._exchange = self._start(self._run_http(base_url, request, listener))

    async def _run_http(self, base_url: str, request: HttpRequest, listener: HttpListener) -> None:
        error: str | None = None
        try:
            async with self._client.stream(
                request.method,
                base_url.rstrip("/") + request.path,
                headers=dict(request.headers),
                content=request.body or None,
                timeout=HTTP_TIMEOUT_S,
            ) as response:
                self._driver.deliver(listener.http_head, response.status_code, dict(response.headers))
                size = 0
                async for data in response.aiter_raw(HTTP_CHUNK_SIZE_BYTES):
                    size += len(data)
                    if size > HTTP_ANSWER_SIZE_BYTES_MAX:
                        error = f"the answer is larger than {HTTP_ANSWER_SIZE_BYTES_MAX} bytes"
                        break
                    self._driver.deliver(listener.http_body, data)
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            error = f"{type(problem).__name__}: {problem}"
        self._driver.deliver(listener.http_ended, error)

    def abort_http(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    async def close(self) -> None:
        """Close everything; for the end of a run."""
        self.close_stream()
        while self._abandoned:
            self._end_abandoned(*self._abandoned.popleft())
        self.abort_http()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
