"""Frames of the cloud link from digits, files of digits, byte streams, captures, a platform's CSV export, standard input.

    for found in find_frames(["gateway.pcapng", "export.csv.gz"]):
        print(found.place, found.frame or found.error)

The kind of a file is detected from its content unless the caller states it: a capture by its first four bytes, a byte stream by its
control characters (every frame has some), a table by a delimiter and a column of frames, lines of digits otherwise. Everything
is read as a stream: a day of traffic needs no more memory than a minute. What is not a frame is yielded too, with the reason:
nothing is dropped silently.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import sys
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

from bmsota._words import counted
from bmsota.errors import BmsotaError, ConfigurationError, FrameError
from bmsota.gbt32960 import BEIJING, FrameReader, FrameReceived, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bmsota.gbt32960 import Frame

__all__ = [
    "FoundFrame",
    "FrameSourceError",
    "FrameSourceFormat",
    "FrameSourceOptions",
    "ReadSummary",
    "find_frames",
]

_HEAD_SIZE_BYTES: Final = 65_536
"""How much of a file is examined to tell its kind, and how much of a stream is read at once."""
_LINE_LENGTH_MAX: Final = 1024 * 1024
"""Eight of the longest frames. A longer line must not be collected until memory ends."""
_FRAME_DIGITS_MIN: Final = 50
"""Hex digits of the shortest frame. Shorter arguments are pieces of one frame that was pasted with its blanks."""
_SAMPLE_ROWS: Final = 100
"""How many rows are examined to find the columns."""
_DELIMITERS: Final = (",", ";", "\t", "|")
_IN_TEXT: Final = re.compile(r"(?:0[xX])?(?:23 ?23|24 ?24)(?:[ :-]?[0-9a-fA-F]{2}){23,}")
"""A frame inside a line that has other words too: a start mark and as many digits as a frame has at least."""
_DIGITS: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F]*")
_EPOCH: Final = re.compile(r"\d{10}(?:\d{3})?(?:\.\d+)?")


_UNREADABLE: Final = (OSError, EOFError, UnicodeError, zlib.error)
"""What reading may raise: the disk, a gzip file that is cut off or damaged, an encoding without replacement."""


class FrameSourceError(ConfigurationError):
    """A source that cannot be read, or does not match the options; `option` is the field of the options to change, or ""."""

    def __init__(self, message: str, option: str = "") -> None:
        super().__init__(message)
        self.option = option


class FrameSourceFormat(Enum):
    """The kind of a source."""

    AUTO = "auto"
    HEX = "hex"
    STREAM = "stream"
    PCAP = "pcap"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class FrameSourceOptions:
    """What the caller knows about the sources."""

    format: FrameSourceFormat = FrameSourceFormat.AUTO
    ports: frozenset[int] = frozenset()
    """Captures: only connections with one of these ports."""
    column: str | None = None
    """Name or number (from 1) of the column with the frames; found by content if not given."""
    time_column: str | None = None
    """The column that says when each frame was stored."""
    vin_column: str | None = None
    """The column that says whose frame it is; a row that disagrees with its frame is an error."""
    encoding: str | None = None
    """Of text; UTF-8, UTF-16 and GB 18030 are detected."""


@dataclass(frozen=True, slots=True)
class FoundFrame:
    """One frame, or one piece of input that is not a frame."""

    place: str
    data: bytes
    frame: Frame | None = None
    error: str = ""
    time_ns: int | None = None
    """When it was captured or stored, if the source has it."""
    link: str = ""
    """The TCP direction it was sent in."""


@dataclass(slots=True)
class ReadSummary:
    """Counts and notes of one reading; filled while it is read."""

    frames: int = 0
    bad: int = 0
    notes: list[str] = field(default_factory=list)
    progress: Callable[[], float] = lambda: 0.0
    """How much of the input has been read, 0 to 1."""

    def count(self, found: Iterable[FoundFrame]) -> Iterator[FoundFrame]:
        for item in found:
            if item.frame is None:
                self.bad += 1
            else:
                self.frames += 1
            yield item


def find_frames(
    sources: Sequence[str],
    options: FrameSourceOptions = FrameSourceOptions(),
    summary: ReadSummary | None = None,
) -> Iterator[FoundFrame]:
    """Everything that *sources* hold, in their order; standard input if there are none.

    A source of nothing but hexadecimal digits (with blanks and colons) is a frame, or a piece of one; anything else is the
    path of a file; "-" is standard input. *summary* is kept up to date meanwhile.

    Raises:
        FrameSourceError: a source is neither, cannot be opened, or does not match *options*; the latter also while reading.
    """
    summary = ReadSummary() if summary is None else summary
    _check_encoding(options.encoding)
    hex_sources = [source for source in sources if source != "-" and _DIGITS.fullmatch(_digits(source))]
    if hex_sources and len(hex_sources) != len(sources):
        other = next(source for source in sources if source not in hex_sources)
        raise FrameSourceError(f"give either frames or files, not both ({other!r} is not hexadecimal)")
    if hex_sources:
        return summary.count(_from_arguments(hex_sources))
    opened = [(_name(source), _opened(source, options)) for source in sources or ["-"]]
    return summary.count(_from_files(opened, options, summary))


def _check_encoding(name: str | None) -> None:
    if name is None:
        return
    try:
        # Not only looked up: some codecs are not of text.
        io.TextIOWrapper(io.BytesIO(), name).close()
    except (LookupError, ValueError):
        raise FrameSourceError(f"unknown text encoding {name!r}", "encoding") from None


# --- arguments -------------------------------------------------------------------------------------------------------


def _from_arguments(arguments: list[str]) -> Iterator[FoundFrame]:
    cleaned = [_digits(argument) for argument in arguments]
    if any(len(digits) < _FRAME_DIGITS_MIN for digits in cleaned):
        cleaned = ["".join(cleaned)]
    frames: list[bytes] = []
    for number, digits in enumerate(cleaned, start=1):
        try:
            frames.append(bytes.fromhex(digits))
        except ValueError:
            raise FrameSourceError(f"argument {number}: odd number of hexadecimal digits") from None
    return (found for number, data in enumerate(frames, start=1) for found in _frames_in(f"frame {number}", data))


def _digits(text: str) -> str:
    text = "".join(text.split()).replace(":", "")
    return text[2:] if text[:2] in ("0x", "0X") else text


# --- files -----------------------------------------------------------------------------------------------------------


class _Ahead(io.RawIOBase):
    """A file that was read ahead a little, to see what it is; standard input cannot be read twice."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        super().__init__()
        self._head = head
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = len(buffer)
        data, self._head = self._head[:size], self._head[size:]
        if not data:
            # What there is, not what would fit: a pipe that is open for hours is decoded as it comes.
            data = cast("io.BufferedReader", self._file).read1(size)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True, slots=True)
class _Opened:
    path: str
    head: bytes
    file: IO[bytes]
    size_bytes: int
    raw_file: IO[bytes]


def _name(source: str) -> str:
    return "standard input" if source == "-" else source


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _opened(source: str, options: FrameSourceOptions) -> _Opened:
    if source == "-":
        if _is_terminal():
            raise FrameSourceError("no input: give frames or files, or pipe frames to standard input")
        raw: IO[bytes] = sys.stdin.buffer
        size = 0
    else:
        try:
            raw = Path(source).open("rb")  # noqa: SIM115 - closed when it has been read
            size = Path(source).stat().st_size
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise FrameSourceError(f"{_short(source)} is neither hexadecimal nor a readable file: {reason}") from None
    file = raw
    head = _read_head(file)
    if head[:2] == b"\x1f\x8b" and source != "-":
        raw.seek(0)
        file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
        try:
            head = _read_head(file)
        except _UNREADABLE as error:
            raise FrameSourceError(f"{source}: damaged gzip file: {error}") from None
    if not head.strip():
        raise FrameSourceError(f"{_name(source)} is empty")
    if _format_of(head, options) is FrameSourceFormat.PCAP and source == "-":
        raise FrameSourceError("captures cannot be read from standard input; give the file")
    return _Opened(source, head, file, size, raw)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _read_head(file: IO[bytes]) -> bytes:
    head = b""
    while len(head) < len(codecs.BOM_UTF8) + 1 and (data := cast("io.BufferedReader", file).read1(_HEAD_SIZE_BYTES)):
        head += data
    return head


def _format_of(head: bytes, options: FrameSourceOptions) -> FrameSourceFormat:
    from bmsota.adapters.captures import CAPTURE_MARKS  # noqa: PLC0415 - only files need it

    if options.format is not FrameSourceFormat.AUTO:
        return options.format
    if head[:4] in CAPTURE_MARKS:
        return FrameSourceFormat.PCAP
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return FrameSourceFormat.CSV
    if any(byte < 9 or 13 < byte < 32 or byte == 127 for byte in head[:4096]):
        return FrameSourceFormat.STREAM
    if options.column or options.time_column or options.vin_column:
        return FrameSourceFormat.CSV
    lines = [line for line in _text(head, options).splitlines()[:_SAMPLE_ROWS] if line.strip()]
    # A header alone, or a column of frames beside others.
    if any(_delimiter(line) and not _DIGITS.fullmatch(_digits(line)) for line in lines[:1]) and any(
        _frame_cell(cell) for line in lines for cell in line.split(_delimiter(lines[0]))
    ):
        return FrameSourceFormat.CSV
    return FrameSourceFormat.HEX


def _text(data: bytes, options: FrameSourceOptions) -> str:
    encoding = _encoding(data, options)
    try:
        return data.decode(encoding, "replace")
    except UnicodeError as error:  # Some codecs replace nothing.
        raise FrameSourceError(f"not text in {encoding}: {error}", "encoding") from None


def _encoding(head: bytes, options: FrameSourceOptions) -> str:
    """Exports are UTF-8, or written by a spreadsheet on a Chinese Windows."""
    if options.encoding:
        return options.encoding
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return "gb18030"
    return "utf-8-sig"


def _from_files(
    opened: list[tuple[str, _Opened]], options: FrameSourceOptions, summary: ReadSummary
) -> Iterator[FoundFrame]:
    for number, (name, source) in enumerate(opened):
        before = "" if len(opened) == 1 else f"{name}: "
        summary.progress = _progress(source, number, len(opened))
        kind = _format_of(source.head, options)
        if kind is FrameSourceFormat.PCAP:
            found = _from_capture(source.path, options, summary)
        else:
            stream = io.BufferedReader(_Ahead(source.head, source.file), _HEAD_SIZE_BYTES)
            if kind is FrameSourceFormat.STREAM:
                found = _from_stream(stream)
            elif kind is FrameSourceFormat.CSV:
                found = _from_table(stream, source.head, options, summary)
            else:
                found = _from_lines(stream, source.head, options)
        try:
            for item in found:
                yield replace(item, place=before + item.place) if before else item
        except _UNREADABLE as error:
            yield FoundFrame(name, b"", error=f"the file cannot be read to its end: {error}")
        finally:
            if source.path != "-":
                source.file.close()
                source.raw_file.close()


def _progress(source: _Opened, number: int, count: int) -> Callable[[], float]:
    def share() -> float:
        try:
            done = source.raw_file.tell() / source.size_bytes
        except (OSError, ValueError, ZeroDivisionError):
            done = 0.0  # Closed, or a pipe.
        return (number + min(done, 1.0)) / count

    return share


# --- lines of digits -------------------------------------------------------------------------------------------------


def _lines(stream: io.BufferedIOBase, encoding: str) -> Iterator[str | None]:
    """Lines of text; None for one that is too long to be one."""
    text = io.TextIOWrapper(cast("IO[bytes]", stream), encoding, errors="replace", newline=None)
    while line := text.readline(_LINE_LENGTH_MAX):
        if len(line) == _LINE_LENGTH_MAX and not line.endswith("\n"):
            while (rest := text.readline(_LINE_LENGTH_MAX)) and not rest.endswith("\n"):
                pass
            yield None
        else:
            yield line


def _from_lines(stream: io.BufferedIOBase, head: bytes, options: FrameSourceOptions) -> Iterator[FoundFrame]:
    for number, line in enumerate(_lines(stream, _encoding(head, options)), start=1):
        if line is None:
            yield FoundFrame(f"line {number}", b"", error=f"line longer than {_LINE_LENGTH_MAX} characters")
        elif line.strip():
            yield from _from_text(f"line {number}", line)


def _from_text(place: str, text: str) -> Iterator[FoundFrame]:
    """The frames in a line or a cell: all of it is digits, or there are frames between words."""
    digits = _digits(text)
    if _DIGITS.fullmatch(digits) and len(digits) % 2 == 0:
        yield from _frames_in(place, bytes.fromhex(digits))
        return
    found = [bytes.fromhex(re.sub("[ :-]", "", match.removeprefix("0x"))) for match in _IN_TEXT.findall(text)]
    if not found:
        yield FoundFrame(place, b"", error="no frame: expected hexadecimal digits, two for each byte")
    for data in found:
        yield from _frames_in(place, data)


# --- bytes -----------------------------------------------------------------------------------------------------------


def _frames_in(place: str, data: bytes) -> Iterator[FoundFrame]:
    """Find the frames in *data*; where there is none, say why it is not one."""
    try:
        yield FoundFrame(place, data, decode(data))
    except FrameError as error:
        found = list(_from_stream(io.BytesIO(data), place))
        if any(item.frame is not None for item in found):
            yield from found
        else:
            yield FoundFrame(place, data, error=str(error))


def _from_stream(stream: io.BufferedIOBase, place: str = "stream") -> Iterator[FoundFrame]:
    reader = FrameReader()
    while data := stream.read1(_HEAD_SIZE_BYTES):
        reader.receive_data(data)
        yield from _drain(reader, place)
    reader.end()
    yield from _drain(reader, place)


def _drain(reader: FrameReader, place: str, time_ns: int | None = None, link: str = "") -> Iterator[FoundFrame]:
    while (event := reader.next_event()) is not None:
        where = f"{place}, offset {event.offset}"
        if isinstance(event, FrameReceived):
            yield FoundFrame(where, event.raw, event.frame, time_ns=time_ns, link=link)
        else:
            error = f"{counted(len(event.data), 'byte')} discarded: {event.reason}"
            yield FoundFrame(where, event.data, error=error, time_ns=time_ns, link=link)


# --- captures --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Direction:
    reader: FrameReader = field(default_factory=FrameReader)
    is_ours: bool = False
    """A frame has been seen. Until then it may be any traffic, and its bytes are not reported one by one."""
    held: list[FoundFrame] = field(default_factory=list)
    foreign_size_bytes: int = 0


_HELD_MAX: Final = 64
"""Pieces kept before the first frame of a direction, in case it speaks the protocol after all."""


def _from_capture(path: str, options: FrameSourceOptions, summary: ReadSummary) -> Iterator[FoundFrame]:
    from bmsota.adapters.captures import Capture  # noqa: PLC0415 - only captures need it

    try:
        opened = Capture(path, ports=options.ports)
    except BmsotaError as error:
        yield FoundFrame(path, b"", error=str(error))
        return
    directions: dict[str, _Direction] = {}
    foreign = 0
    with opened as capture:
        summary.progress = lambda: capture.progress
        for piece in capture.pieces():
            link = str(piece.link)
            direction = directions.get(link)
            if direction is None:
                direction = directions[link] = _Direction()
            found: list[FoundFrame] = []
            if piece.missing_size_bytes:
                missing = f"the capture lacks {counted(piece.missing_size_bytes, 'byte')} here"
                found.append(FoundFrame(link, b"", error=missing, time_ns=piece.time_ns, link=link))
            direction.reader.receive_data(piece.data)
            if piece.is_end:
                direction.reader.end()
                del directions[link]
            found += _drain(direction.reader, link, piece.time_ns, link)
            yield from _ours(direction, found, always=bool(options.ports))
            if piece.is_end and not direction.is_ours and direction.foreign_size_bytes:
                foreign += 1
        if foreign:
            summary.notes.append(f"skipped {foreign} TCP directions without a frame")
        if capture.others:
            summary.notes.append(f"skipped {capture.others} packets without TCP")
        if capture.fault:
            yield FoundFrame(path, b"", error=capture.fault)


def _ours(direction: _Direction, found: list[FoundFrame], *, always: bool) -> Iterator[FoundFrame]:
    """Yield what was found, as soon as the direction has shown that it speaks the protocol."""
    if not direction.is_ours and (always or any(item.frame is not None for item in found)):
        direction.is_ours = True
        yield from direction.held
        direction.held.clear()
    if direction.is_ours:
        yield from found
        return
    direction.foreign_size_bytes += sum(len(item.data) for item in found)
    direction.held += found[: max(_HELD_MAX - len(direction.held), 0)]


# --- tables ----------------------------------------------------------------------------------------------------------


def _delimiter(line: str) -> str:
    """The delimiter that a line has most of; empty if it has none."""
    counts = Counter({each: line.count(each) for each in _DELIMITERS})
    best, count = counts.most_common(1)[0]
    return best if count else ""


def _frame_cell(cell: str) -> bool:
    """Whether a cell holds a frame by its looks."""
    digits = _digits(cell.strip(" '\"="))
    return len(digits) >= _FRAME_DIGITS_MIN and digits[:4] in ("2323", "2424") and bool(_DIGITS.fullmatch(digits))


def _from_table(
    stream: io.BufferedIOBase, head: bytes, options: FrameSourceOptions, summary: ReadSummary
) -> Iterator[FoundFrame]:
    # A cell may hold the longest frame in digits; the module's own limit is a little below that.
    csv.field_size_limit(_LINE_LENGTH_MAX)
    encoding = _encoding(head, options)
    lines = (line if line is not None else "" for line in _lines(stream, encoding))
    first = next((line for line in _text(head, options).splitlines() if line.strip()), "")
    rows = csv.reader(lines, delimiter=_delimiter(first) or ",")
    sample: list[list[str]] = []
    try:
        for row in rows:
            sample.append(row)
            if len(sample) == _SAMPLE_ROWS:
                break
    except csv.Error as error:
        yield FoundFrame(f"row {rows.line_num}", b"", error=f"not a table: {error}")
        return
    header = sample[0] if sample and not any(map(_frame_cell, sample[0])) else []
    columns = _TableColumns(header, sample[1 if header else 0 :], options)
    summary.notes += columns.notes
    yield from columns.found(sample[1 if header else 0 :], 2 if header else 1)
    number = len(sample)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield FoundFrame(f"row {number + 1}", b"", error=f"not a row of the table: {error}")
            return
        number += 1
        yield from columns.found([row], number)


class _TableColumns:
    """Which column is what: as the options say, or by content."""

    def __init__(self, header: list[str], rows: list[list[str]], options: FrameSourceOptions) -> None:
        self._header = [name.strip() for name in header]
        width = max((len(row) for row in rows), default=0)
        self.notes: list[str] = []
        frames = Counter(at for row in rows for at, cell in enumerate(row) if _frame_cell(cell))
        if options.column is not None:
            self._frame = self._column(options.column, width, "column")
        elif frames:
            self._frame = frames.most_common(1)[0][0]
        else:
            named = ", ".join(self._header) or f"{width} columns without names"
            raise FrameSourceError(f"no column of frames found in {named}; name it", "column")
        times = Counter(at for row in rows for at, cell in enumerate(row) if _time_ns(cell) is not None)
        self._time: int | None = None
        if options.time_column is not None:
            self._time = self._column(options.time_column, width, "time_column")
        elif times:
            # The first of those that are a time in every row that has a frame.
            every = [at for at, count in times.items() if count >= max(frames.values(), default=1)]
            self._time = min(every, default=None)
        self._vin = None if options.vin_column is None else self._column(options.vin_column, width, "vin_column")
        if options.column is None or (options.time_column is None and self._time is not None):
            time = "" if self._time is None else f", times in {self._named(self._time)}"
            self.notes.append(f"frames in {self._named(self._frame)}{time}")

    def _column(self, name: str, width: int, option: str) -> int:
        if name in self._header:
            return self._header.index(name)
        if name.isdecimal() and 1 <= int(name) <= max(width, len(self._header)):
            return int(name) - 1
        columns = ", ".join(map(repr, self._header)) or f"1 to {width}"
        raise FrameSourceError(f"expected one of {columns}, got {name!r}", option)

    def _named(self, at: int) -> str:
        return f"column {self._header[at]!r}" if at < len(self._header) else f"column {at + 1}"

    def found(self, rows: list[list[str]], number: int) -> Iterator[FoundFrame]:
        """The frames of some rows; *number* is that of the first one."""
        for place, row in enumerate(rows, start=number):
            if not any(cell.strip() for cell in row):
                continue
            cell = row[self._frame].strip(" '\"=") if self._frame < len(row) else ""
            time_ns = _time_ns(row[self._time]) if self._time is not None and self._time < len(row) else None
            vin = row[self._vin].strip() if self._vin is not None and self._vin < len(row) else ""
            whose = f"row {place}" + (f", {vin}" if vin else "")
            if not cell:
                yield FoundFrame(whose, b"", error="empty cell", time_ns=time_ns)
                continue
            for item in _from_text(whose, cell):
                if item.frame is not None and vin and item.frame.vin != vin:
                    error = f"the row says vehicle {vin}, the frame {item.frame.vin!r}"
                    yield FoundFrame(whose, item.data, error=error, time_ns=time_ns)
                else:
                    yield replace(item, time_ns=time_ns)


def _time_ns(cell: str) -> int | None:
    """A time as exports have it: ISO 8601 in some dress, or seconds or milliseconds since 1970. Without a zone: Beijing."""
    cell = cell.strip(" '\"=")
    if _EPOCH.fullmatch(cell):
        whole = cell.partition(".")[0]
        return round(float(cell) * (10**9 if len(whole) == 10 else 10**6))
    if len(cell) < 10 or cell.isdecimal():
        return None
    try:
        moment = datetime.fromisoformat(cell.replace("/", "-"))
    except ValueError:
        return None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=BEIJING)).timestamp() * 1e6) * 1000
