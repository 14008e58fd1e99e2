"""Vector's binary log (`.blf`), as CANoe, CANalyzer, loggers and python-can write it.

The file begins with a header `LOGG` (how long the file is, how many objects it holds, when it began) and goes on in objects
`LOBJ`. Usually each of those is a container of type 10 that holds, deflated, a piece of one long stream of further objects; some
writers put the objects into the file directly. All numbers are little-endian. Vector publishes the structures with its
`binlog` library.

Strategy. The reader is pushed bytes and keeps what is not a whole object yet. Every size is checked before it is believed, and
the position only ever rises: at an object that cannot be one, reading goes on at the next `LOBJ`, and the gap is counted.
A container whose check value is wrong is left out whole, because deflate tells damage only at the end: what came out before it may be
wrong values. A container that is cut off by the end of the file is read as far as it goes: those bytes are right. An object that
lies about its size would hide the ones behind it; sizes of CAN objects are bounded, behind any other one the next `LOBJ` must stand,
and the number of objects found is compared with the header's.

Channels are CANoe's: counted from 1. Times are the header's start time and an offset; the start time is the clock of the machine,
counted as UTC, as python-can writes it. Objects of other buses, statistics and texts are left out.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bmsota._words import counted
from bmsota.adapters.canlogs._frames import EXTENDED_ID_MAX, STANDARD_ID_MAX, FrameKind, LogFrame

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogNotes

MAGIC = b"LOGG"

# Signature, header size, application (4 bytes), version of the format (4 bytes), file size, size inflated, objects, objects read, and
# the start time as Windows' SYSTEMTIME: year, month, day of week, day, hour, minute, second, millisecond.
_FILE_HEADER = struct.Struct("<4sL8xQQLL8H")
# 144 bytes in all known versions.
_FILE_HEADER_SIZE_BYTES_MAX = 4096

_OBJECT = b"LOBJ"
# Signature, header size, header version, object size, object type.
_OBJECT_BASE = struct.Struct("<4sHHLL")
# Behind it, in both versions of the header: flags, (2 or 1 and 1 bytes), version, time stamp.
_OBJECT_TIME = struct.Struct("<L4xQ")
_HEADER_SIZE_BYTES = {1: 32, 2: 40}
# Compression, size inflated.
_CONTAINER = struct.Struct("<H6xL4x")
_STORED, _DEFLATED = 0, 2

# Channel, flags, DLC, id, and the data behind them.
_CAN_MESSAGE = struct.Struct("<HBBL8s")
# Channel, flags, DLC, id, (frame length, bits), FD flags, valid data bytes, and the data 5 bytes behind them.
_CAN_FD_MESSAGE = struct.Struct("<HBBL5xBB5x")
# Channel, DLC, valid data bytes, (tx count), id, (frame length), flags, (timing, bits, direction), offset of extension, (CRC).
_CAN_FD_MESSAGE_64 = struct.Struct("<BBBxL4xL18xBBL")
_CHANNEL = struct.Struct("<H")
# What stands before the data at most.
_FD_FIELDS_SIZE_BYTES_MAX = _CAN_FD_MESSAGE_64.size

_LOG_CONTAINER = 10
_CAN_MESSAGE_TYPES = {1, 86}
_CAN_FD_MESSAGE_TYPE = 100
_CAN_FD_MESSAGE_64_TYPE = 101
# CAN_ERROR, CAN_ERROR_EXT and CAN_FD_ERROR_64; the last one has a channel of one byte.
_ERROR_TYPES = (2, 73, 104)
# An overload frame is neither data nor an error.
_OVERLOAD_TYPE = 3
# Writers do not count these restore points.
_UNCOUNTED = {115}

# How long a CAN object's body may be. A classic one has 16 to 32 bytes: with this bound none covers the next object, which has 48 at
# least. A message of 64 bytes has 104 and may carry an extension of some 20.
_BODY_SIZE_BYTES_MAX = dict.fromkeys((*_CAN_MESSAGE_TYPES, _OVERLOAD_TYPE, 2, 73), 48) | dict.fromkeys(
    (100, 101, 104), 256
)

_SINCE_START = "times are seconds since the start of the log"

_EXTENDED_FLAG = 0x8000_0000
_REMOTE_FLAG = 0x80
_REMOTE_FLAG_64 = 0x10
_TEN_MICROSECONDS = 1

# Containers have 128 kB inflated; some loggers write a few megabytes. What claims more is damaged and not worth the memory.
OBJECT_SIZE_BYTES_MAX = 16 * 1024 * 1024
_INFLATED_SIZE_BYTES_MAX = 64 * 1024 * 1024

# Damage on a disk does not hit more, and each costs an attempt to inflate up to that much: a file that is made to cost time
# must end as well.
_FAILURES_MAX = 256

# Objects are padded to four bytes, by some writers with as many bytes as the rest of the division.
_PADDING_MAX = 8


class BlfReader:
    """A `LogReader`."""

    def __init__(self, notes: LogNotes) -> None:
        self._notes = notes
        self._buffer = bytearray()
        self._offset = 0
        """Where in the file the buffer begins."""
        self._has_header = False
        self._file_size_bytes = 0
        self._objects_expected = 0
        self._objects = 0
        self._start_s = 0.0
        self._rest = bytearray()
        """The end of the stream in the containers: an object of which a part is still to come."""
        self._wanted_size_bytes = 0
        """How much of the stream that object needs."""
        self._failures = 0
        """Containers that could not be inflated."""
        self._cut_at = ""
        """Where the object begins that ends behind the end of the file."""
        self._is_lost = False
        """Between objects: the next one is being searched for, and that has been counted."""

        self._is_stream_lost = False
        """The same for the stream in the containers."""

    def feed(self, data: bytes, /) -> list[LogFrame]:
        self._buffer += data
        return self._advance(is_end=False)

    def end(self) -> list[LogFrame]:
        frames = self._advance(is_end=True)
        if self._rest:
            self._stream(b"", frames, is_end=True)
        size = self._offset
        progress = f"{self._objects} of {self._objects_expected} objects read"
        is_short = self._objects < self._objects_expected
        if size < self._file_size_bytes:
            self._notes.break_off(
                f"the log breaks off after {size} of {self._file_size_bytes} bytes{f' ({progress})' if is_short else ''}"
            )
        elif is_short:
            self._notes.break_off(f"objects are missing: {progress}")
        elif self._cut_at:
            self._notes.break_off("the log breaks off inside an object")
        return frames

    # The file: header and outer objects.

    def _advance(self, *, is_end: bool) -> list[LogFrame]:
        frames: list[LogFrame] = []
        position = 0
        if not self._has_header:
            if len(self._buffer) < _FILE_HEADER_SIZE_BYTES_MAX and not is_end:
                return frames
            position = self._header()
        buffer = self._buffer
        while position < len(buffer):
            if self._failures > _FAILURES_MAX:
                self._notes.break_off(f"more than {_FAILURES_MAX} containers are damaged")
                position = len(buffer)
                break
            found = buffer.find(_OBJECT, position)
            if found < 0:
                # All but the beginning of a signature is of no use.
                self._gap(position, len(buffer) - (0 if is_end else len(_OBJECT) - 1))
                position = max(position, len(buffer) - (0 if is_end else len(_OBJECT) - 1))
                break
            self._gap(position, found)
            position = found
            if len(buffer) - position < _OBJECT_BASE.size:
                if is_end:
                    self._cut_at = f"offset {self._offset + position}"
                    position = len(buffer)
                break
            _, header_size, _, size, kind = _OBJECT_BASE.unpack_from(buffer, position)
            is_container = kind == _LOG_CONTAINER
            least = _OBJECT_BASE.size + (_CONTAINER.size if is_container else 0)
            if not least <= size <= OBJECT_SIZE_BYTES_MAX or not _OBJECT_BASE.size <= header_size <= size:
                self._lose(f"offset {self._offset + position}", f"an object of {counted(size, 'byte')}")
                position += len(_OBJECT)
                continue
            end = position + size
            if end > len(buffer):
                if not is_end:
                    break
                frames += self._cut_off(position, is_container=is_container)
                # A further object may follow if the size is wrong; the rest of a container does not look like one.
                self._cut_at = self._cut_at or f"offset {self._offset + position}"
                self._is_lost = True
                position += len(_OBJECT)
                continue
            found = (self._container if is_container else self._outer_object)(position, end, frames)
            if found:
                self._is_lost = self._is_lost and found != end
                self._went_on()
            # What could not be read may have lied about its size as well.
            position = found or position + len(_OBJECT)
        del buffer[:position]
        self._offset += position
        return frames

    def _header(self) -> int:
        """Read the file's header; where the first object may stand."""
        self._has_header = True
        if not self._buffer.startswith(MAGIC) or len(self._buffer) < _FILE_HEADER.size:
            self._notes.skip("offset 0", "the file header is damaged")
            self._notes.time_base = _SINCE_START
            self._is_lost = True
            return 0
        fields = _FILE_HEADER.unpack_from(self._buffer)
        size = fields[1]
        self._file_size_bytes, self._objects_expected = fields[2], fields[4]
        self._start_s = _start_s(fields[6:14])
        if not self._start_s:
            self._notes.time_base = _SINCE_START
        if not _FILE_HEADER.size <= size <= _FILE_HEADER_SIZE_BYTES_MAX:
            self._notes.skip("offset 4", f"a file header of {size} bytes")
            self._is_lost = True
            return _FILE_HEADER.size
        return min(int(size), len(self._buffer))

    def _went_on(self) -> None:
        """An object follows where the log seemed to break off: a size was wrong."""
        if self._cut_at:
            self._notes.skip(self._cut_at, "an object with a wrong size")
            self._cut_at = ""

    def _gap(self, start: int, end: int) -> None:
        if end - start > _PADDING_MAX:
            self._lose(f"offset {self._offset + start}", "not an object")

    def _lose(self, place: str, reason: str) -> None:
        """Count a damage; what is found behind it until the next good object belongs to it."""
        if not self._is_lost:
            self._notes.skip(place, reason)
        self._is_lost = True

    def _cut_off(self, position: int, *, is_container: bool) -> list[LogFrame]:
        """Read what the end of the file has left of an object, or of one that lies about its size."""
        frames: list[LogFrame] = []
        start = position + _OBJECT_BASE.size + _CONTAINER.size
        if is_container and start <= len(self._buffer):
            method, inflated_size = _CONTAINER.unpack_from(self._buffer, position + _OBJECT_BASE.size)
            self._failures += 1
            content = _content(method, inflated_size, bytes(self._buffer[start:]))
            if content is not None:
                self._stream(content.data, frames)
        return frames

    def _container(self, position: int, end: int, frames: list[LogFrame]) -> int:
        """Read a container; where it ends, or 0 if it is damaged."""
        start = position + _OBJECT_BASE.size + _CONTAINER.size
        method, inflated_size = _CONTAINER.unpack_from(self._buffer, position + _OBJECT_BASE.size)
        content = _content(method, inflated_size, bytes(self._buffer[start:end]))
        if content is None or not content.is_whole:
            self._lose(f"offset {self._offset + position}", "a damaged container")
            # An object that began in the container before cannot go on.
            self._rest.clear()
            self._is_stream_lost = True
            self._wanted_size_bytes = 0
            self._failures += 1
            return 0
        self._stream(content.data, frames)
        if start + content.size_bytes + _PADDING_MAX < end:
            self._lose(f"offset {self._offset + position}", f"a container of {end - position} bytes with fewer in it")
            return start + content.size_bytes
        return end

    def _outer_object(self, position: int, end: int, frames: list[LogFrame]) -> int:
        """Read an object that stands outside of containers; where it ends, or 0 if it is damaged."""
        data = bytes(self._buffer[position : end + _PADDING_MAX + len(_OBJECT)])
        _, header_size, version, size, kind = _OBJECT_BASE.unpack_from(data)
        bound = _BODY_SIZE_BYTES_MAX.get(kind)
        is_plausible = _is_followed(data, size) if bound is None else size - header_size <= bound
        if not is_plausible or not self._take(data, 0, version, size, kind, frames):
            self._lose(f"offset {self._offset + position}", f"a damaged object of type {kind}")
            return 0
        return end

    # The stream in the containers.

    def _lose_object(self, reason: str) -> None:
        """As `_lose`, in the stream."""
        if not self._is_stream_lost:
            self._notes.skip(f"object {self._objects + 1}", reason)
        self._is_stream_lost = True

    def _stream(self, data: bytes, frames: list[LogFrame], *, is_end: bool = False) -> None:
        self._rest += data
        if len(self._rest) < self._wanted_size_bytes and not is_end:
            return
        data = bytes(self._rest)
        self._wanted_size_bytes = 0
        position, before, size_all = 0, -1, len(data)
        unpack, object_at = _OBJECT_BASE.unpack_from, data.find
        while True:
            found = object_at(_OBJECT, position, position + _PADDING_MAX + len(_OBJECT))
            if found < 0:
                if size_all - position < _PADDING_MAX + len(_OBJECT):
                    break
                self._lose_object("not an object")
                # The object before may have claimed more than its own.
                found = object_at(_OBJECT, position if before < 0 else before + len(_OBJECT))
                if found < 0:
                    position = size_all - len(_OBJECT) + 1
                    break
            position, before = found, -1
            if size_all - position < _OBJECT_BASE.size:
                self._cut_at = self._cut_at or (f"object {self._objects + 1}" if is_end else "")
                break
            _, header_size, version, size, kind = unpack(data, position)
            bound = _BODY_SIZE_BYTES_MAX.get(kind)
            # Other objects may have shorter headers.
            least = _OBJECT_BASE.size if bound is None else _HEADER_SIZE_BYTES.get(version, _OBJECT_BASE.size)
            if not least <= header_size <= size <= OBJECT_SIZE_BYTES_MAX:
                self._lose_object(f"an object of {counted(size, 'byte')}")
                position += len(_OBJECT)
                continue
            end = position + size
            if bound is not None and size - header_size > bound:
                self._lose_object(f"an object of type {kind} with {counted(size, 'byte')}")
                position += len(_OBJECT)
                continue
            if end > size_all:
                if not is_end:
                    self._wanted_size_bytes = end - position
                    break
                self._cut_at = self._cut_at or f"object {self._objects + 1}"
                self._is_stream_lost = True
                position += len(_OBJECT)
                continue
            if bound is None and not _is_followed(data, end):
                self._lose_object(f"an object of {counted(size, 'byte')} that no object follows")
                position += len(_OBJECT)
                continue
            if not self._take(data, position, version, size, kind, frames):
                self._lose_object(f"a damaged object of type {kind}")
                # Its size is believed: an intact object stands behind it, or the search goes on there.
            else:
                self._is_stream_lost = False
                self._went_on()
            position, before = end, position
        self._rest = bytearray(data[position:])

    def _take(self, data: bytes, position: int, version: int, size: int, kind: int, frames: list[LogFrame]) -> bool:
        """Read one object; False if it is damaged. One that is not about CAN is counted and nothing else."""
        if kind not in _BODY_SIZE_BYTES_MAX or kind == _OVERLOAD_TYPE:
            self._objects += kind not in _UNCOUNTED
            return True
        header_size = _HEADER_SIZE_BYTES.get(version)
        if header_size is None or size < header_size:
            return False
        end = position + size
        body = position + header_size
        if kind in _CAN_MESSAGE_TYPES:
            frame = self._classic(data, body, end)
        elif kind == _CAN_FD_MESSAGE_TYPE:
            frame = self._fd(data, body, end)
        elif kind == _CAN_FD_MESSAGE_64_TYPE:
            frame = self._fd_64(data, position, body, end)
        else:
            if end - body < _CHANNEL.size:
                return False
            channel = data[body] if kind == _ERROR_TYPES[-1] else _CHANNEL.unpack_from(data, body)[0]
            frame = (channel, 0, b"", FrameKind.ERROR)
        # An FD object may claim so much that another one is in it.
        if frame is None or data.find(_OBJECT, body + len(frame[2]) + _FD_FIELDS_SIZE_BYTES_MAX, end) >= 0:
            return False
        channel, number, payload, frame_kind = frame
        is_extended_id = bool(number & _EXTENDED_FLAG)
        number &= ~_EXTENDED_FLAG
        if number > (EXTENDED_ID_MAX if is_extended_id else STANDARD_ID_MAX):
            return False
        flags, ticks = _OBJECT_TIME.unpack_from(data, position + _OBJECT_BASE.size)
        self._objects += 1
        time_s = self._start_s + (ticks / 100_000 if flags == _TEN_MICROSECONDS else ticks / 1_000_000_000)
        frames.append(LogFrame(time_s, str(channel), number, is_extended_id, payload, frame_kind))
        return True

    @staticmethod
    def _classic(data: bytes, body: int, end: int) -> tuple[int, int, bytes, FrameKind] | None:
        if end - body < _CAN_MESSAGE.size:
            return None
        channel, flags, dlc, number, payload = _CAN_MESSAGE.unpack_from(data, body)
        if dlc > 15:
            return None
        if flags & _REMOTE_FLAG:
            return channel, number, b"", FrameKind.REMOTE
        return channel, number, payload[: min(dlc, 8)], FrameKind.DATA

    @staticmethod
    def _fd(data: bytes, body: int, end: int) -> tuple[int, int, bytes, FrameKind] | None:
        if end - body < _CAN_FD_MESSAGE.size:
            return None
        channel, flags, _, number, _, valid = _CAN_FD_MESSAGE.unpack_from(data, body)
        start = body + _CAN_FD_MESSAGE.size
        if valid > 64 or start + valid > end:
            return None
        if flags & _REMOTE_FLAG:
            return channel, number, b"", FrameKind.REMOTE
        return channel, number, data[start : start + valid], FrameKind.DATA

    @staticmethod
    def _fd_64(data: bytes, position: int, body: int, end: int) -> tuple[int, int, bytes, FrameKind] | None:
        if end - body < _CAN_FD_MESSAGE_64.size:
            return None
        channel, _, valid, number, flags, _, extension, _ = _CAN_FD_MESSAGE_64.unpack_from(data, body)
        if valid > 64:
            return None
        if flags & _REMOTE_FLAG_64:
            return channel, number, b"", FrameKind.REMOTE
        start = body + _CAN_FD_MESSAGE_64.size
        # The extension's offset counts from the object's beginning.
        data_end = min(position + extension, end) if extension else end
        if data_end < start:
            return None
        # More bytes may be valid than are written down: CANoe shows zeros then (python-can 1905).
        written = min(valid, data_end - start)
        return channel, number, data[start : start + written].ljust(valid, b"\0"), FrameKind.DATA


@dataclass(frozen=True, slots=True)
class _Content:
    """What a container holds."""

    data: bytes
    size_bytes: int
    """How many bytes of the container that took."""
    is_whole: bool
    """The deflated data came to their end, with the right check value."""


def _content(method: int, size_bytes: int, packed: bytes) -> _Content | None:
    """The content of a container as far as *packed* goes; None if it is damaged."""
    if method == _STORED:
        return _Content(packed[:size_bytes], min(size_bytes, len(packed)), size_bytes <= len(packed))
    if method != _DEFLATED:
        return None
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, _INFLATED_SIZE_BYTES_MAX)
    except zlib.error:
        return None
    if stream.unconsumed_tail:
        return None
    return _Content(data, len(packed) - len(stream.unused_data), stream.eof)


def _is_followed(data: bytes, end: int) -> bool:
    """Whether behind an object stands another one, or nothing to tell by."""
    behind = data[end : end + _PADDING_MAX + len(_OBJECT)]
    return len(behind) < _PADDING_MAX + len(_OBJECT) or _OBJECT in behind


def _start_s(fields: tuple[int, ...]) -> float:
    year, month, _, day, hour, minute, second, millisecond = fields
    try:
        return datetime(year, month, day, hour, minute, second, millisecond * 1000, tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0
