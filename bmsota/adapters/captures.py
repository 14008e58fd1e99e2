"""Network captures: the TCP payload of `.pcap` and `.pcapng` files, put together per connection and direction (dpkt).

    with Capture("gateway.pcapng", ports=frozenset({32960})) as capture:
        for piece in capture.pieces():
            piece.link, piece.time_ns, piece.data

What a capture holds twice is given once, what came out of order is put in order, and what it does not hold at all is said in
`StreamPiece.missing_size_bytes`. A capture that breaks off ends the iteration; `Capture.fault` says where and why.

Left out: IP fragments (counted), tunnels, and link types beside Ethernet, Linux cooked, loopback and raw IP. Of a `.pcapng` with
several interfaces, all must have the link type of the first.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self, cast

from bmsota.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from bmsota.adapters.files import FilePath

__all__ = ["CAPTURE_MARKS", "Capture", "Link", "StreamPiece", "TcpStream"]

CAPTURE_MARKS: Final = (
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\xc3\xd4",
    b"\x4d\x3c\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x0a\x0d\x0d\x0a",
)
"""The first four bytes of the formats, in both byte orders."""

# A record's length is believed up to here. The largest capture unit of today's cards is 256 KiB.
_RECORD_SIZE_BYTES_MAX: Final = 16 * 1024 * 1024
# What may wait for a missing segment, per direction. More than a receiver's window is lost, not late.
_WAITING_SIZE_BYTES_MAX: Final = 1024 * 1024
_WAITING_SEGMENTS_MAX: Final = 1024
# Directions that are followed at once; then the one that began first is ended. A day of a gateway has fewer.
_STREAMS_MAX: Final = 65_536
_HALF: Final = 1 << 31
_WHOLE: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of one TCP connection."""

    source: str
    source_port: int
    destination: str
    destination_port: int

    def __str__(self) -> str:
        return f"{_host(self.source)}:{self.source_port} > {_host(self.destination)}:{self.destination_port}"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """The next bytes of one direction."""

    link: Link
    time_ns: int
    """When the segment that brought them was captured."""
    data: bytes
    missing_size_bytes: int = 0
    """How many bytes before these the capture does not hold."""
    is_end: bool = False
    """The direction is over; no more pieces of it follow. There may be no data."""
    is_start: bool = False
    """A new connection between the same two ends begins."""


@dataclass(slots=True)
class TcpStream:
    """Puts the segments of one direction in order. Knows no file and no library."""

    next_sequence: int | None = None
    waiting: dict[int, bytes] = field(default_factory=dict)
    waiting_size_bytes: int = 0

    def receive(self, sequence: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take a segment; give (missing bytes before it, data) for what can be given now."""
        if self.next_sequence is None:
            self.next_sequence = sequence
        ahead = self._ahead(sequence)
        if ahead > 0:
            if len(data) > len(self.waiting.get(sequence, b"")):
                self.waiting_size_bytes += len(data) - len(self.waiting.get(sequence, b""))
                self.waiting[sequence] = data
            if self.waiting_size_bytes > _WAITING_SIZE_BYTES_MAX or len(self.waiting) > _WAITING_SEGMENTS_MAX:
                yield from self.give_up()
            return
        fresh = data[-ahead:] if ahead else data
        if fresh:
            self.next_sequence = (self.next_sequence + len(fresh)) % _WHOLE
            yield 0, fresh
            yield from self._waited()

    def give_up(self) -> Iterator[tuple[int, bytes]]:
        """Stop waiting for what is missing: give all that is there."""
        while self.waiting:
            first = min(self.waiting, key=self._ahead)
            missing = self._ahead(first)
            if missing > 0:
                self.next_sequence = first
            for number, (_, data) in enumerate(self._waited()):
                yield (missing if number == 0 else 0), data

    def _ahead(self, sequence: int) -> int:
        """How far *sequence* is ahead of what is expected; negative if it was given already."""
        assert self.next_sequence is not None
        return (sequence - self.next_sequence + _HALF) % _WHOLE - _HALF

    def _waited(self) -> Iterator[tuple[int, bytes]]:
        while due := [sequence for sequence in self.waiting if self._ahead(sequence) <= 0]:
            sequence = min(due, key=self._ahead)
            data = self.waiting.pop(sequence)
            self.waiting_size_bytes -= len(data)
            fresh = data[-self._ahead(sequence) :] if self._ahead(sequence) else data
            if fresh and self.next_sequence is not None:
                self.next_sequence = (self.next_sequence + len(fresh)) % _WHOLE
                yield 0, fresh


class _Guarded:
    """A file that does not read more at once than a record can have; a broken length would ask for the whole file."""

    name = "capture"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.is_over = False
        """Something was wanted and nothing was there."""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _RECORD_SIZE_BYTES_MAX:
            raise ValueError(f"a record of {size} bytes")
        data = self._file.read(size)
        # dpkt would take what there is for the whole.
        if 0 < len(data) < size:
            raise EOFError("the file's end inside a record")
        self.is_over = len(data) < size
        return data

    def seek(self, place: int) -> int:
        return self._file.seek(place)


class Capture:
    """An open capture. A context manager; iterate over `pieces` once."""

    def __init__(self, path: FilePath, *, ports: frozenset[int] = frozenset()) -> None:
        """Open the capture at *path*, plain or with gzip. With *ports*, only connections that have one of them are read.

        Raises:
            OSError: the file cannot be opened.
            ConfigurationError: it is no capture, or has an unknown link type.
            MissingExtraError: the extra `cli`, which brings dpkt, is not installed.
        """
        try:
            # Through import_module: it publishes no types.
            dpkt: Any = import_module("dpkt")
        except ImportError as error:
            raise MissingExtraError("reading captures", "dpkt", "cli") from error
        self._dpkt = dpkt
        self._ports = ports
        self.packets = 0
        """Packets read so far."""
        self.others = 0
        """Packets that carry no TCP: other protocols, IP fragments, broken ones."""
        self.fault: str | None = None
        """Why the capture could not be read to its end, and after how many packets."""
        file = Path(path).open("rb")  # noqa: SIM115 - closed by close()
        if file.read(2) == b"\x1f\x8b":
            file.seek(0)
            self._file: IO[bytes] = cast("IO[bytes]", gzip.GzipFile(fileobj=file))
        else:
            file.seek(0)
            self._file = file
        self._raw_file = file
        self._size_bytes = max(Path(path).stat().st_size, 1)
        try:
            self._guarded = _Guarded(self._file)
            self._reader: Any = dpkt.pcap.UniversalReader(self._guarded)
            self._unwrap = self._unwrapper(self._reader.datalink(), path)
        except ConfigurationError:
            self.close()
            raise
        except Exception as error:
            # dpkt raises whatever its parsing stumbles over.
            self.close()
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigurationError(f"expected a .pcap or .pcapng capture, got: {reason} ({path})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw_file.close()

    @property
    def progress(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return 1.0 if self._raw_file.closed else min(1.0, self._raw_file.tell() / self._size_bytes)

    def pieces(self) -> Iterator[StreamPiece]:
        """What both directions of every connection say, in the capture's order. Raises nothing: see `fault`."""
        streams: dict[Link, TcpStream] = {}
        time_ns = 0
        for time_ns, data in self._packets():
            found = self._segment(data)
            if found is None:
                self.others += 1
                continue
            link, segment = found
            if self._ports and not self._ports & {link.source_port, link.destination_port}:
                continue
            yield from self._receive(streams, link, segment, time_ns)
        for link in list(streams):
            yield from self._end(streams, link, time_ns)

    def _receive(self, streams: dict[Link, TcpStream], link: Link, segment: Any, time_ns: int) -> Iterator[StreamPiece]:
        tcp = self._dpkt.tcp
        sequence: int = segment.seq
        payload = bytes(segment.data)
        stream = streams.get(link)
        if segment.flags & tcp.TH_SYN:
            sequence = (sequence + 1) % _WHOLE
            if stream is None or stream.next_sequence != sequence:  # Else the SYN is sent again.
                yield from self._end(streams, link, time_ns)
                streams[link] = stream = TcpStream(sequence)
                yield StreamPiece(link, time_ns, b"", is_start=True)
        elif stream is None:
            if not payload:  # An acknowledgement, or the end of something that was over.
                return
            streams[link] = stream = TcpStream()
        if len(streams) > _STREAMS_MAX:
            yield from self._end(streams, next(iter(streams)), time_ns)
        for missing, data in stream.receive(sequence, payload):
            yield StreamPiece(link, time_ns, data, missing)
        if segment.flags & (tcp.TH_FIN | tcp.TH_RST) and not stream.waiting:
            yield from self._end(streams, link, time_ns)

    def _end(self, streams: dict[Link, TcpStream], link: Link, time_ns: int) -> Iterator[StreamPiece]:
        stream = streams.pop(link, None)
        if stream is not None:
            for missing, data in stream.give_up():
                yield StreamPiece(link, time_ns, data, missing)
            yield StreamPiece(link, time_ns, b"", is_end=True)

    def _packets(self) -> Iterator[tuple[int, bytes]]:
        packets = iter(self._reader)
        while True:
            try:
                seconds, data = next(packets)
                if self._guarded.is_over:
                    raise EOFError("the file's end behind the head of a record")  # noqa: TRY301 - as the reader's own
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001 - see __init__; the reason is kept in `fault`
                reason = " ".join(str(error).split()) or type(error).__name__
                self.fault = f"expected a readable capture to its end, got: {reason} (after {self.packets} packets)"
                return
            self.packets += 1
            yield round(float(seconds) * 1e6) * 1000, data

    def _segment(self, data: bytes) -> tuple[Link, Any] | None:
        """Return the TCP segment in a packet, with its link; None if there is none."""
        dpkt = self._dpkt
        try:
            ip = self._unwrap(data)
            segment = ip.data
            if not isinstance(segment, dpkt.tcp.TCP):
                return None
            inet = dpkt.utils.inet_to_str
            return Link(inet(ip.src), segment.sport, inet(ip.dst), segment.dport), segment
        except Exception:  # noqa: BLE001 - a packet that dpkt cannot take apart carries nothing for us; it is counted
            return None

    def _unwrapper(self, kind: int, path: FilePath) -> Callable[[bytes], Any]:
        dpkt = self._dpkt

        def raw(data: bytes) -> Any:
            return dpkt.ip6.IP6(data) if data[0] >> 4 == 6 else dpkt.ip.IP(data)

        known: dict[int, Callable[[bytes], Any]] = {
            0: lambda data: dpkt.loopback.Loopback(data).data,
            1: lambda data: dpkt.ethernet.Ethernet(data).data,
            12: raw,
            101: raw,
            108: lambda data: raw(data[4:]),
            113: lambda data: dpkt.sll.SLL(data).data,
            228: raw,
            229: raw,
            276: lambda data: dpkt.sll2.SLL2(data).data,
        }
        if kind not in known:
            raise ConfigurationError(
                f"expected Ethernet, Linux cooked, loopback or raw IP, got link type {kind} ({path})"
            )
        return known[kind]
