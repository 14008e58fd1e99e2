"""CAN logs for tests: read bytes as a log, and make the bytes of a binary log by hand."""

from __future__ import annotations

import struct
import zlib

from bmsota.adapters.canlogs import FrameKind
from bmsota.adapters.canlogs._formats import format_of, reader_of
from bmsota.adapters.canlogs._frames import LogNotes


def read(data: bytes, name: str = "", pieces: int = 1 << 16):
    """Read *data* as a log of the format it shows itself to have, fed in pieces: its frames and its notes."""
    notes = LogNotes()
    found = format_of(data, name)
    assert found is not None, data[:100]
    reader = reader_of(found, notes)
    frames = []
    for start in range(0, len(data), pieces):
        frames += reader.feed(data[start : start + pieces])
    return frames + reader.end(), notes


def text(log: str):
    """Read a log of text: its frames as (time, channel, id, extended, data in hex or the kind), and its notes."""
    frames, notes = read(log.encode())
    return [shown(frame) for frame in frames], notes


def shown(frame):
    data = frame.data.hex() if frame.kind is FrameKind.DATA else frame.kind.value
    return frame.time_s, frame.channel, frame.can_id, frame.is_extended_id, data


def skipped(notes):
    return [f"{part.place}: {part.reason}" for part in notes.parts]


# The beginning of the binary logs: Wednesday, 15 November 2023, 22:13:20.500 is 1700086400.5 s since the epoch.
START = struct.pack("<8H", 2023, 11, 3, 15, 22, 13, 20, 500)
START_S = 1700086400.5


def blf(body: bytes, *, objects: int = 0, size: int | None = None, start: bytes = START) -> bytes:
    """A binary log: a header that promises *objects* and a *size*, and *body*."""
    size = 144 + len(body) if size is None else size
    header = struct.pack("<4sL8xQQLL", b"LOGG", 144, size, 0, objects, 0) + start * 2
    return header.ljust(144, b"\0") + body


def container(content: bytes, *, method: int = 2) -> bytes:
    packed = zlib.compress(content) if method == 2 else content
    size = 32 + len(packed)
    head = struct.pack("<4sHHLL", b"LOBJ", 16, 1, size, 10) + struct.pack("<H6xL4x", method, len(content))
    return head + packed + bytes(size % 4)


def blf_object(kind: int, body: bytes, *, ticks: int = 0, unit: int = 2, version: int = 1, size: int | None = None):
    """An object: *ticks* are nanoseconds (unit 2) or tens of microseconds (unit 1)."""
    header_size = {1: 32, 2: 40}.get(version, 32)
    own = header_size + len(body)
    head = struct.pack("<4sHHLL", b"LOBJ", header_size, version, own if size is None else size, kind)
    time = struct.pack("<LHHQ", unit, 0, 0, ticks) if header_size == 32 else struct.pack("<LBxHQ8x", unit, 0, 0, ticks)
    return head + time + body + bytes(own % 4)


def can_message(can_id: int, data: bytes, *, channel: int = 1, flags: int = 0, dlc: int | None = None, **options):
    body = struct.pack("<HBBL8s", channel, flags, len(data) if dlc is None else dlc, can_id, data)
    return blf_object(1, body, **options)
