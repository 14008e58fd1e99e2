"""Real time: the kernel's heap against the wall clock, real TCP, real HTTP.

The same units that run in virtual time run here. An I/O event first brings the kernel up to the present, so that
everything due before it has happened before it; then it is handed to the unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx

from bmsota.adapters.asyncio_link import CLOSE_TIMEOUT_S, SEND_TIMEOUT_S
from bmsota.adapters.asyncio_terminal import CONNECT_TIMEOUT_S
from bmsota.errors import ConfigurationError
from bmsota_sim.kernel import MS, SECOND, Kernel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Sequence

    from bmsota.ota import HttpRequest
    from bmsota_sim.links.uplink import HttpListener, StreamListener

__all__ = ["RealTimeDriver", "TcpUplink", "allow_connections", "event_loop", "lag_of", "run_on_links"]

T = TypeVar("T")
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
# Beside connections: libraries, the report, pipes.
OTHER_FILES = 200
# Lateness is kept as the time spent in each power of two of a millisecond: up to 18 hours.
LAG_BUCKETS = 27
# Half-open links of one unit; a socket each. A platform that ends none of them is told of the oldest.
ABANDONED_MAX = 4


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files, if it must be, so that *count* connections fit under it.

    Raises:
        ConfigurationError: the system's own limit is lower. The platform would be blamed for connections that we cannot open.
    """
    needed = count + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ConfigurationError(
                f"{count:,} connections need {needed:,} open files, but the limit is {hard:,}: raise `ulimit -Hn`, or run fewer units"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def lag_of(lag_time_ns: Sequence[int], lag_ns_max: int, share: float) -> float:
    """The lateness that was not exceeded for this share of the time, in seconds.

    Args:
        lag_time_ns: the time spent in each power of two of a millisecond behind.
        lag_ns_max: the greatest lateness.
        share: 0 to 1.
    """
    wanted, seen = share * sum(lag_time_ns), 0
    for bucket, time_ns in enumerate(lag_time_ns):
        seen += time_ns
        if seen >= wanted:
            return min((1 << bucket) * MS, max(lag_ns_max, MS)) / SECOND
    return lag_ns_max / SECOND


def event_loop() -> tuple[str, Callable[[], asyncio.AbstractEventLoop] | None]:
    """The name of the event loop for tens of thousands of links, and what makes it (None: asyncio's own): uvloop where it is installed."""
    try:
        uvloop = import_module("uvloop")
    except ModuleNotFoundError:
        return "asyncio", None
    return f"uvloop {uvloop.__version__}", uvloop.new_event_loop


def run_on_links(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the event loop for many links."""
    with asyncio.Runner(loop_factory=event_loop()[1]) as runner:
        return runner.run(main)


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
        self._has_backlog = False
        """The last slice has not brought the kernel to the present."""
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
        until = min(now, due + SLICE_NS) if self.lag_ns and due is not None else now
        self._has_backlog = until < now
        self.kernel.run_until(until)

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

    @property
    def lag_time_ns(self) -> tuple[int, ...]:
        """The time spent in each power of two of a millisecond behind, for `lag_of`."""
        return tuple(self._lag_time_ns)

    def lag_s(self, share: float) -> float:
        """The lateness that was not exceeded for this share of the time, in seconds; powers of two of a millisecond."""
        return lag_of(self._lag_time_ns, self.lag_ns_max, share)

    def deliver(self, callback: Callable[..., object], *args: object) -> None:
        """Hand over an I/O event, after what was due before it; with a backlog at once.

        A thousand events must not wait for a slice of backlog each: answers that came in time would be late by our fault.
        """
        try:
            if not self._has_backlog:
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


class _Stream(asyncio.Protocol):
    """One TCP connection to the gateway, from the attempt to its end. The unit's session keeps the deadlines.

    No task and no buffer of its own: there are tens of thousands.
    """

    __slots__ = ("_driver", "_gives_up", "_listener", "_lost", "_transport")

    def __init__(self, driver: RealTimeDriver, listener: StreamListener) -> None:
        self._driver = driver
        self._listener: StreamListener | None = listener
        self._transport: asyncio.Transport | None = None
        self._gives_up: asyncio.TimerHandle | None = None
        """While the peer takes nothing."""
        self._lost: asyncio.Future[None] | None = None
        """Who waits for the end."""

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def failed(self, reason: str) -> None:
        """There is no connection, or none any more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._driver.deliver(listener.stream_closed, reason)

    def abandon(self) -> None:
        self._listener = None

    def close(self) -> None:
        """Close; what was sent is still delivered if the peer takes it within seconds. The listener hears nothing more."""
        self._listener = None
        transport = self._transport
        if transport is not None:
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, transport.abort)

    async def wait_lost(self) -> None:
        """Wait until the connection is gone; not longer than it takes to give up a peer that does not close."""
        if self._transport is None:
            return
        self._lost = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._lost
        except TimeoutError:
            self._transport.abort()

    # -- for asyncio -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # Those of uvloop are no subclass of it.
        if self._listener is None:
            transport.close()
        else:
            self._driver.deliver(self._listener.stream_opened)

    def data_received(self, data: bytes) -> None:
        if self._listener is not None:
            self._driver.deliver(self._listener.stream_received, data)

    def pause_writing(self) -> None:
        if self._gives_up is None:
            self._gives_up = asyncio.get_running_loop().call_later(SEND_TIMEOUT_S, self._give_up)

    def resume_writing(self) -> None:
        if self._gives_up is not None:
            self._gives_up.cancel()
            self._gives_up = None

    def _give_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.failed(f"the peer has not read for {SEND_TIMEOUT_S:g} s")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.resume_writing()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        self.failed("connection closed" if exc is None else f"the connection broke: {exc}")


class TcpUplink:
    """The `Uplink` of one unit over real sockets."""

    __slots__ = (
        "_abandoned",
        "_client",
        "_connecting",
        "_driver",
        "_exchange",
        "_host",
        "_port",
        "_source_address",
        "_ssl_context",
        "_stream",
    )

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
        """*source_address*: connect from there; beyond about 12,000 connections from one address the kernel searches long for a port."""
        self._ssl_context = ssl_context
        self._source_address = source_address
        self._driver = driver
        self._client = client
        self._host = host
        self._port = port
        self._stream: _Stream | None = None
        self._abandoned: tuple[_Stream, ...] = ()
        # asyncio keeps only weak references to tasks; we keep the strong ones.
        self._connecting: asyncio.Task[None] | None = None
        self._exchange: asyncio.Task[None] | None = None

    def open_stream(self, listener: StreamListener) -> None:
        self.close_stream()
        stream = self._stream = _Stream(self._driver, listener)
        self._connecting = asyncio.get_running_loop().create_task(self._connect(stream))

    async def _connect(self, stream: _Stream) -> None:
        tls: dict[str, Any] = {}
        if self._ssl_context is not None:
            tls = {"ssl": self._ssl_context, "ssl_shutdown_timeout": CLOSE_TIMEOUT_S}
        local = None if self._source_address is None else (self._source_address, 0)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: stream, self._host, self._port, local_addr=local, **tls)
        except (OSError, UnicodeError) as error:  # A name with a label of more than 63 characters is a UnicodeError.
            stream.failed(f"cannot connect to {self._host}:{self._port}: {str(error) or 'timed out'}")
        finally:
            if self._stream is stream:
                self._connecting = None

    def send_stream(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.send(data)

    def close_stream(self) -> None:
        stream, self._stream = self._stream, None
        connecting, self._connecting = self._connecting, None
        if stream is not None:
            stream.close()
        if connecting is not None:
            connecting.cancel()

    def abandon_stream(self) -> None:
        """The unit is gone, and the platform does not learn it: the socket stays open and silent, until the run or the platform ends it."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        stream.abandon()
        self._abandoned += (stream,)
        while len(self._abandoned) > ABANDONED_MAX:
            self._abandoned[0].close()
            self._abandoned = self._abandoned[1:]

    def start_http(self, base_url: str, request: HttpRequest, listener: HttpListener) -> None:
        self.abort_http()
        self._exchange = asyncio.get_running_loop().create_task(self._run_http(base_url, request, listener))

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
        streams = [*self._abandoned, *([] if self._stream is None else [self._stream])]
        tasks = [task for task in (self._connecting, self._exchange) if task is not None]
        self.close_stream()
        for stream in self._abandoned:
            stream.close()
        self._abandoned = ()
        self.abort_http()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(stream.wait_lost() for stream in streams))
