"""The mobile link of a unit: a TCP stream to the gateway and HTTP to the device API.

`Uplink` is the seam between a unit and the world. Two things implement it: `bmsota_sim.virtual` (in memory, in virtual
time) and `bmsota_sim.realtime` (real sockets). `Modem` stands in front of either and adds what radio does: coverage,
rate, a cut, a wrong byte. Because it schedules on the kernel, the planned faults happen the same way in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bmsota_sim.kernel import SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bmsota.ota import HttpRequest
    from bmsota_sim.kernel import Kernel

__all__ = ["HttpListener", "Modem", "StreamListener", "Uplink"]

# The radio hands over data in pieces of this size: small enough that a cut or a progress bar has somewhere to happen,
# large enough that a download of 100 kB is about a hundred events.
CHUNK_SIZE_BYTES = 1024


class StreamListener(Protocol):
    """Receives what happens to the TCP stream."""

    def stream_opened(self) -> None: ...
    def stream_received(self, data: bytes) -> None: ...
    def stream_closed(self, reason: str) -> None: ...


class HttpListener(Protocol):
    """Receives what happens to the HTTP exchange; there is one at a time."""

    def http_head(self, status: int, headers: Mapping[str, str]) -> None: ...
    def http_body(self, data: bytes) -> None: ...
    def http_ended(self, error: str | None) -> None: ...


class Uplink(Protocol):
    """One TCP stream and one HTTP exchange at a time."""

    def open_stream(self, listener: StreamListener) -> None: ...
    def send_stream(self, data: bytes) -> None: ...
    def close_stream(self) -> None: ...
    def start_http(self, base_url: str, request: HttpRequest, listener: HttpListener) -> None: ...
    def abort_http(self) -> None: ...


class Modem:
    """A 4G modem: an `Uplink` with coverage, a rate and planned faults.

    It is the listener of the uplink beneath and has the unit as its own listener. Everything it holds back is bounded
    by the HTTP answer under way; the unit's downloader refuses an answer longer than the signed size.
    """

    __slots__ = (
        "_covered",
        "_exchange",
        "_faults",
        "_kernel",
        "_ns_per_byte",
        "_stream",
        "_uplink",
        "corrupt_at_image_byte",
        "cut_after_image_bytes",
        "http_bytes",
        "image_bytes",
    )

    def __init__(self, kernel: Kernel, uplink: Uplink, *, rate_bytes_per_s: int) -> None:
        self._kernel = kernel
        self._uplink = uplink
        self._ns_per_byte = SECOND // rate_bytes_per_s
        self._covered = True
        self._stream: StreamListener | None = None
        self._exchange: _Exchange | None = None
        self.image_bytes = 0
        """Bytes of HTTP bodies handed to the unit from large answers; the clock of the planned faults."""
        self.http_bytes = 0
        """All bytes of HTTP bodies handed to the unit."""
        self.cut_after_image_bytes: int | None = None
        self.corrupt_at_image_byte: int | None = None
        self._faults: tuple[str, ...] = ()

    @property
    def faults_happened(self) -> list[str]:
        """The planned faults that came, in words."""
        return list(self._faults)

    # -- coverage ----------------------------------------------------------------------------------------------------

    @property
    def covered(self) -> bool:
        return self._covered

    def set_coverage(self, *, covered: bool) -> None:
        """Enter or leave the mobile network. Leaving breaks what is under way."""
        self._covered = covered
        if not covered:
            self._break("no mobile network")

    def power_off(self) -> None:
        """The unit has lost its supply: connections vanish, and neither end is notified."""
        self._stream = None
        self._uplink.close_stream()
        self.abort_http()

    def _break(self, reason: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.open = False
            self._uplink.abort_http()
            exchange.listener.http_ended(reason)
        listener, self._stream = self._stream, None
        if listener is not None:
            self._uplink.close_stream()
            listener.stream_closed(reason)

    # -- the TCP stream ----------------------------------------------------------------------------------------------

    def open_stream(self, listener: StreamListener) -> None:
        if not self._covered:
            self._kernel.call_soon(listener.stream_closed, "no mobile network")
            return
        self._stream = listener
        self._uplink.open_stream(self)

    def send_stream(self, data: bytes) -> None:
        if self._stream is not None:
            self._uplink.send_stream(data)

    def close_stream(self) -> None:
        self._stream = None
        self._uplink.close_stream()

    def stream_opened(self) -> None:
        if self._stream is not None:
            self._stream.stream_opened()

    def stream_received(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.stream_received(data)

    def stream_closed(self, reason: str) -> None:
        listener, self._stream = self._stream, None
        if listener is not None:
            listener.stream_closed(reason)

    # -- HTTP --------------------------------------------------------------------------------------------------------

    def start_http(self, base_url: str, request: HttpRequest, listener: HttpListener) -> None:
        if not self._covered:
            self._kernel.call_soon(listener.http_ended, "no mobile network")
            return
        exchange = _Exchange(self, listener, self._kernel.now_ns)
        self._exchange = exchange
        self._uplink.start_http(base_url, request, exchange)

    def abort_http(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.open = False
            self._uplink.abort_http()

    def deliver_body(self, exchange: _Exchange, data: bytes) -> None:
        """Hand *data* to the unit, with the planned faults."""
        is_cut = False
        if exchange.is_image:
            start = self.image_bytes
            # The cut first: a byte behind it never arrives, so it cannot arrive wrong.
            cut = self.cut_after_image_bytes
            if cut is not None and start + len(data) >= cut:
                self.cut_after_image_bytes = None
                self._faults += (f"download_cut after image byte {cut}",)
                data = data[: max(cut - start, 0)]
                is_cut = True
            self.image_bytes += len(data)
            corrupt = self.corrupt_at_image_byte
            if corrupt is not None and start <= corrupt < self.image_bytes:
                self.corrupt_at_image_byte = None
                self._faults += (f"corrupt_byte at image byte {corrupt}",)
                at = corrupt - start
                data = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        self.http_bytes += len(data)
        if data:
            exchange.listener.http_body(data)
        if is_cut:
            self._break("mobile link lost")

    def finish(self, exchange: _Exchange, error: str | None) -> None:
        if self._exchange is exchange:
            self._exchange = None
        exchange.open = False
        exchange.listener.http_ended(error)

    @property
    def ns_per_byte(self) -> int:
        return self._ns_per_byte

    @property
    def kernel(self) -> Kernel:
        return self._kernel


class _Exchange:
    """One HTTP answer on its way through the radio: cut into chunks and paced."""

    def __init__(self, modem: Modem, listener: HttpListener, now_ns: int) -> None:
        self._modem = modem
        self.listener = listener
        self.open = True
        self.is_image = False
        self._free_at_ns = now_ns

    def _later(self, size_bytes: int) -> int:
        start = max(self._free_at_ns, self._modem.kernel.now_ns)
        self._free_at_ns = start + size_bytes * self._modem.ns_per_byte
        return self._free_at_ns

    def http_head(self, status: int, headers: Mapping[str, str]) -> None:
        # An image answer is known by its entity tag (the device API gives one to images only).
        self.is_image = any(name.lower() == "etag" for name in headers) and status in {200, 206}
        self._modem.kernel.call_at(self._later(0), self._head, status, headers)

    def http_body(self, data: bytes) -> None:
        for offset in range(0, len(data), CHUNK_SIZE_BYTES):
            chunk = data[offset : offset + CHUNK_SIZE_BYTES]
            self._modem.kernel.call_at(self._later(len(chunk)), self._body, chunk)

    def http_ended(self, error: str | None) -> None:
        self._modem.kernel.call_at(self._later(0), self._ended, error)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        if self.open:
            self.listener.http_head(status, headers)

    def _body(self, data: bytes) -> None:
        if self.open:
            self._modem.deliver_body(self, data)

    def _ended(self, error: str | None) -> None:
        if self.open:
            self._modem.finish(self, error)
