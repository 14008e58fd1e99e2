"""Virtual time: jump from one entry of the heap to the next, links in memory.

`MemoryUplink` is the `Uplink` of a unit whose world is a platform in the same process, reached through two functions: one
opens a link (bytes in, bytes out, deadlines), one answers an HTTP request. No socket, no event loop, no waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bmsota_sim.kernel import MS, SECOND, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.adapters import StreamLink
    from bmsota.ota import HttpRequest, HttpResponse
    from bmsota_sim.kernel import Timer
    from bmsota_sim.links.uplink import HttpListener, StreamListener

__all__ = ["VIRTUAL_START_NS", "MemoryPlatform", "MemoryUplink", "run_virtual"]

VIRTUAL_START_NS = 1_795_305_600 * SECOND
"""Where virtual time starts: any moment will do, as long as it is the same in every run."""

# How far the kernel is run before *finished* is asked again.
SLICE_NS = 100 * MS


class MemoryPlatform(Protocol):
    """A platform in the same process."""

    def open_link(self, wake: Callable[[], None]) -> StreamLink: ...
    def respond(self, request: HttpRequest) -> HttpResponse: ...


class MemoryUplink:
    """One unit's way to a `MemoryPlatform`, with a delay in each direction."""

    def __init__(self, kernel: Kernel, platform: MemoryPlatform, *, delay_ns: int) -> None:
        self._kernel = kernel
        self._platform = platform
        self._delay_ns = delay_ns
        self._connection: _Connection | None = None
        self._exchange = 0

    def open_stream(self, listener: StreamListener) -> None:
        self.close_stream()
        self._connection = _Connection(self._kernel, self._platform, listener, self._delay_ns)

    def send_stream(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.send(data)

    def close_stream(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abandon_stream(self) -> None:
        """The unit is gone, and the platform does not learn it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()

    def start_http(self, base_url: str, request: HttpRequest, listener: HttpListener) -> None:  # noqa: ARG002 - one platform
        self._exchange += 1
        self._kernel.call_in(self._delay_ns, self._respond, self._exchange, request, listener)

    def abort_http(self) -> None:
        self._exchange += 1

    def _respond(self, exchange: int, request: HttpRequest, listener: HttpListener) -> None:
        if exchange != self._exchange:
            return
        response = self._platform.respond(request)
        self._kernel.call_in(self._delay_ns, self._deliver, exchange, response, listener)

    def _deliver(self, exchange: int, response: HttpResponse, listener: HttpListener) -> None:
        if exchange != self._exchange:
            return
        listener.http_head(response.status, dict(response.headers))
        if response.body:
            listener.http_body(response.body)
        listener.http_ended(None)


class _Connection:
    """One TCP stream in memory: ordered, lossless, delayed."""

    def __init__(self, kernel: Kernel, platform: MemoryPlatform, listener: StreamListener, delay_ns: int) -> None:
        self._kernel = kernel
        self._listener: StreamListener | None = listener
        self._delay_ns = delay_ns
        self._link = platform.open_link(self._woken)
        self._timer: Timer | None = None
        self._link_open = True
        self._is_up = False
        kernel.call_in(delay_ns, self._open)

    def _open(self) -> None:
        if not self._link_open:
            return
        self._link.connected(self._kernel.now_ns)
        self._is_up = True
        if self._listener is not None:
            self._listener.stream_opened()
        self._pump()

    def send(self, data: bytes) -> None:
        if self._delay_ns or not self._is_up:
            self._kernel.call_in(self._delay_ns, self._receive, data)
        else:
            self._receive(data)  # Its answer comes later: who sends is never called back here.

    def close(self) -> None:
        """The unit closes, or its power is gone: the platform learns it a delay later."""
        self._listener = None
        self._kernel.call_in(self._delay_ns, self._close_link)

    def abandon(self) -> None:
        """As `close`, but the platform is told nothing."""
        self._listener = None

    def _close_link(self) -> None:
        if self._link_open:
            self._link_open = False
            if self._timer is not None:
                self._timer.cancel()
            self._link.disconnected(self._kernel.now_ns)

    def _receive(self, data: bytes) -> None:
        if self._link_open:
            self._link.receive_data(data, self._kernel.now_ns)
            self._pump()

    def _woken(self) -> None:
        self._kernel.call_soon(self._timeout)

    def _due(self) -> None:
        self._timer = None
        self._timeout()

    def _timeout(self) -> None:
        if self._link_open:
            self._link.handle_timeout(self._kernel.now_ns)
            self._pump()

    def _pump(self) -> None:
        data = self._link.data_to_send()
        if data:
            self._kernel.call_in(self._delay_ns, self._deliver, data)
        if self._link.is_closing:
            self._close_link()
            self._kernel.call_in(self._delay_ns, self._closed)
            return
        due = self._link.next_timeout()
        # A timer that comes too early is set anew then: with each report the deadline moves, and never comes.
        if due is not None and (self._timer is None or due < self._timer.when_ns):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._kernel.call_at(due, self._due)

    def _deliver(self, data: bytes) -> None:
        if self._listener is not None:
            self._listener.stream_received(data)

    def _closed(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stream_closed("closed by the platform")


def run_virtual(
    kernel: Kernel, finished: Callable[[], bool], *, until_ns: int, tick: Callable[[], object] = lambda: None
) -> None:
    """Run *kernel* until *finished* says so or *until_ns* has come; *tick* is called between slices."""
    while kernel.now_ns < until_ns and not finished():
        due = kernel.next_due()
        if due is None:
            return
        kernel.run_until(min(until_ns, max(kernel.now_ns + SLICE_NS, due)))
        tick()
