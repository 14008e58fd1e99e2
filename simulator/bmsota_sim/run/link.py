"""A unit's way to the platform in a run: latency, jitter, loss and split segments, frames twice or out of order, and the ledger's eye.

`RunUplink` stands between a unit's modem and the real or virtual uplink. What the run does to a link itself (outage, storm, power)
is planned and counts as no fault of the platform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bmsota.gbt32960 import Command, DiscardedBytes, FrameReader
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.stamps import WrongClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from bmsota.ota import HttpRequest
    from bmsota_sim.kernel import Kernel
    from bmsota_sim.links.uplink import HttpListener, StreamListener
    from bmsota_sim.run.ledger import UnitLedger
    from bmsota_sim.run.model import Network

__all__ = ["LosableUplink", "RunUplink"]

# A lost segment comes after a retransmission (RFC 6298: the first timeout is one second).
RETRANSMISSION_NS = NS_PER_S
_REPORTS = frozenset({Command.REALTIME_REPORT, Command.BACKFILL_REPORT})


IS_COMMAND = 0xFE


class LosableUplink(Protocol):
    """An `Uplink` whose link can be lost without the platform's knowledge."""

    def open_stream(self, listener: StreamListener) -> None: ...
    def send_stream(self, data: bytes) -> None: ...
    def close_stream(self) -> None: ...
    def abandon_stream(self) -> None: ...
    def start_http(self, base_url: str, request: HttpRequest, listener: HttpListener) -> None: ...
    def abort_http(self) -> None: ...


class RunUplink:
    """The `Uplink` of one unit."""

    __slots__ = (
        "_clock_ns",
        "_drawn",
        "_hang_after_bytes",
        "_held",
        "_ignores_commands",
        "_image_bytes",
        "_is_out",
        "_kernel",
        "_network",
        "_new_random",
        "_spoils_downloads",
        "_stream",
        "_swapped",
        "_twice",
        "_uplink",
        "_watch",
        "clock",
        "duplicates",
        "half_open",
        "is_clean",
        "swaps",
    )

    def __init__(
        self,
        kernel: Kernel,
        uplink: LosableUplink,
        *,
        network: Network,
        watch: UnitLedger,
        clock_ns: Callable[[], int],
        random: Callable[[str, str], Random],
    ) -> None:
        """*clock_ns*: nanoseconds from the start of the run, for the ledger. *random*, of a unit and "network", is asked once, by the first draw."""
        self._kernel = kernel
        self._uplink = uplink
        self._network = network
        self._watch = watch
        self._clock_ns = clock_ns
        self._new_random = random
        self._drawn: Random | None = None
        self._stream: _Stream | None = None
        self._is_out = False
        self._twice = 0.0
        self._swapped = 0.0
        self._held = b""
        self.duplicates = 0
        """Frames that were sent twice."""
        self.swaps = 0
        """Reports that were sent after the next one."""
        self.is_clean = False
        """The time without faults: nothing is lost any more."""
        self.clock = WrongClock()
        """How far the times in its frames are off."""
        self.half_open = 0
        """Lost links that the platform was not told about."""
        self._ignores_commands = False
        self._hang_after_bytes: int | None = None
        self._spoils_downloads = False
        self._image_bytes = 0

    @property
    def _random(self) -> Random:
        # Most links never draw, and a generator is 2.9 kB.
        if self._drawn is None:
            self._drawn = self._new_random(str(self._watch.unit), "network")
        return self._drawn

    # -- what the run does -----------------------------------------------------------------------------------------------

    def set_outage(self, *, is_out: bool) -> None:
        """The platform is away, or back. Links are reset, connects refused."""
        self._is_out = is_out
        if is_out:
            self.drop("platform outage")

    def drop(self, reason: str) -> bool:
        """Break the link, at both ends. Return whether there was one."""
        stream = self._stream
        if stream is None:
            return False
        was_up = stream.is_up
        self.close_stream()
        stream.listener.stream_closed(reason)
        return was_up

    def send_twice(self, share: float) -> None:
        """Send this share of the reports twice; 0 ends it."""
        self._twice = share

    def swap(self, share: float) -> None:
        """Send this share of the reports after the next one; 0 ends it."""
        self._swapped = share
        if not share and self._held and self._stream is not None:
            held, self._held = self._held, b""
            self._stream.send(held)

    def ignore_commands(self) -> None:
        """From now on the unit hears no command of the platform, instructions to upgrade included."""
        self._ignores_commands = True

    def hang_download(self, after_bytes: int) -> None:
        """Let its downloads stand still after so many bytes of images, for ever."""
        self._hang_after_bytes = after_bytes

    def spoil_downloads(self) -> None:
        """Let the first byte of every piece of an image arrive wrong."""
        self._spoils_downloads = True

    # -- Uplink ----------------------------------------------------------------------------------------------------------

    def open_stream(self, listener: StreamListener) -> None:
        self.close_stream()
        if self._is_out:
            self._kernel.call_soon(listener.stream_closed, "platform outage")
            return
        self._stream = _Stream(self, listener)
        self._uplink.open_stream(self._stream)

    def send_stream(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            return
        data = self.clock.stamped(data, self._kernel.now_ns)
        is_report = len(data) > 2 and data[2] in _REPORTS
        if is_report and self._swapped and not self._held and self._random.random() < self._swapped:
            self._held = data
            return
        if is_report and self._twice and self._random.random() < self._twice:
            self.duplicates += 1
            stream.send(data)
        stream.send(data)
        if is_report and self._held:
            held, self._held = self._held, b""
            self.swaps += 1
            stream.send(held)

    def close_stream(self) -> None:
        stream, self._stream = self._stream, None
        self._held = b""
        if stream is not None:
            stream.is_open = False
            if stream.is_up and self._is_half_open():
                self.half_open += 1
                self._uplink.abandon_stream()
            else:
                self._uplink.close_stream()
            self._watch.closed(self._clock_ns(), "", is_planned=True)

    def start_http(self, base_url: str, request: HttpRequest, listener: HttpListener) -> None:
        if self._hang_after_bytes is not None or self._spoils_downloads:
            listener = _BadDownload(self, listener)
        self._uplink.start_http(base_url, request, listener)

    def abort_http(self) -> None:
        self._uplink.abort_http()

    # -- for `_Stream` ---------------------------------------------------------------------------------------------------

    def delay_ns(self) -> int:
        """Of one segment, drawn."""
        network = self._network
        delay_s = network.latency_s
        if network.jitter_s:
            delay_s += network.jitter_s * self._random.random()
        delay = round(delay_s * NS_PER_S)
        if network.loss and not self.is_clean and self._random.random() < network.loss:
            delay += RETRANSMISSION_NS
        return delay

    def _is_half_open(self) -> bool:
        """Whether the platform is not told that this link is lost. One that is not logged in, or not any more, is ended in peace."""
        share = self._network.half_open
        return bool(share) and not self.is_clean and self._watch.is_logged_in and self._random.random() < share

    def heard(self, frame: bytes) -> bytes:
        """What the unit gets of a frame of the platform."""
        if self._ignores_commands and frame[2] >= Command.QUERY_PARAMETERS and frame[3] == IS_COMMAND:
            return b""
        return self.clock.restored(frame)

    @property
    def hears_differently(self) -> bool:
        return self._ignores_commands or bool(self.clock.shifted)

    def image_data(self, data: bytes, *, is_first: bool) -> bytes:
        """What the unit gets of an image."""
        if self._spoils_downloads and is_first and data:
            data = bytes((data[0] ^ 0x10,)) + data[1:]
        if self._hang_after_bytes is not None:
            data = data[: max(self._hang_after_bytes - self._image_bytes, 0)]
        self._image_bytes += len(data)
        return data

    @property
    def download_hangs(self) -> bool:
        return self._hang_after_bytes is not None and self._image_bytes >= self._hang_after_bytes

    def pieces(self, data: bytes) -> tuple[bytes, ...]:
        if self._network.split and len(data) > 1 and self._random.random() < self._network.split:
            at = self._random.randrange(1, len(data))
            return data[:at], data[at:]
        return (data,)

    @property
    def kernel(self) -> Kernel:
        return self._kernel

    def write(self, stream: _Stream, data: bytes) -> None:
        if stream.is_open:
            self._uplink.send_stream(data)

    def asked(self, data: bytes) -> None:
        self._watch.sent(data, self._clock_ns())

    def opened(self) -> None:
        self._watch.opened(self._clock_ns())

    def arrived(self, data: bytes) -> None:
        self._watch.received(data, self._clock_ns())

    def ended(self, stream: _Stream, reason: str) -> None:
        if self._stream is stream:
            self._stream = None
            self._held = b""
        self._watch.closed(self._clock_ns(), reason, is_planned=False)


class _Stream:
    """One connection: listens to the uplink beneath, and keeps the order of what is delayed."""

    __slots__ = ("_down_ns", "_frames", "_link", "_up_ns", "is_open", "is_up", "listener")

    def __init__(self, link: RunUplink, listener: StreamListener) -> None:
        self._link = link
        self.listener = listener
        self.is_open = True
        self.is_up = False
        self._up_ns = 0
        self._down_ns = 0
        self._frames: FrameReader | None = None

    def send(self, data: bytes) -> None:
        kernel = self._link.kernel
        whole = data
        for index, piece in enumerate(self._link.pieces(data)):
            self._up_ns = max(self._up_ns, kernel.now_ns + self._link.delay_ns())
            kernel.call_at(self._up_ns, self._write, piece, whole if index == 0 else b"")

    def _write(self, data: bytes, whole: bytes) -> None:
        if self.is_open:
            if whole:
                self._link.asked(whole)
            self._link.write(self, data)

    def stream_opened(self) -> None:
        if self.is_open:
            self.is_up = True
            self._link.opened()
            self.listener.stream_opened()

    def stream_received(self, data: bytes) -> None:
        if not self.is_open:
            return
        self._link.arrived(data)
        data = self._heard(data)
        kernel = self._link.kernel
        for piece in self._link.pieces(data):
            self._down_ns = max(self._down_ns, kernel.now_ns + self._link.delay_ns())
            kernel.call_at(self._down_ns, self._deliver, piece)

    def _heard(self, data: bytes) -> bytes:
        """Frame by frame, once that makes a difference."""
        if self._frames is None:
            if not self._link.hears_differently:
                return data
            self._frames = FrameReader()
        self._frames.receive_data(data)
        heard = b""
        while (event := self._frames.next_event()) is not None:
            heard += event.data if isinstance(event, DiscardedBytes) else self._link.heard(event.raw)
        return heard

    def _deliver(self, data: bytes) -> None:
        if self.is_open:
            self.listener.stream_received(data)

    def stream_closed(self, reason: str) -> None:
        if not self.is_open:
            return
        self._link.ended(self, reason)
        # Behind what is still on its way.
        self._link.kernel.call_at(max(self._down_ns, self._link.kernel.now_ns), self._closed, reason)

    def _closed(self, reason: str) -> None:
        if self.is_open:
            self.is_open = False
            self.listener.stream_closed(reason)


class _BadDownload:
    """An `HttpListener` between a unit and an image: what arrives is wrong, or stops."""

    def __init__(self, link: RunUplink, listener: HttpListener) -> None:
        self._link = link
        self._listener = listener
        self._is_image = False
        self._is_first = True

    def http_head(self, status: int, headers: Mapping[str, str]) -> None:
        # As `Modem` knows an image: the device API gives an entity tag to nothing else.
        self._is_image = any(name.lower() == "etag" for name in headers) and status in {200, 206}
        self._listener.http_head(status, headers)

    def http_body(self, data: bytes) -> None:
        if self._is_image:
            data = self._link.image_data(data, is_first=self._is_first)
            self._is_first = False
        if data:
            self._listener.http_body(data)

    def http_ended(self, error: str | None) -> None:
        if not (self._is_image and self._link.download_hangs):
            self._listener.http_ended(error)
