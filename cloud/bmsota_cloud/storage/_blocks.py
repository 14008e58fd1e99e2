"""A block: the frames of one vehicle and one hour, compressed, every byte of them again.

    0   layout          1 byte, 1
    1   check           8 bytes, BLAKE2b over the block's key and everything behind the check
    9   size            4 bytes, of what is deflated
    13  deflated (RFC 1950), numbers little-endian:
        frames, groups, enciphered, faulty      4 bytes each
        report time, arrival                    8 bytes a frame each, less that of the frame before
        form, group                             2 bytes a frame each
        length of each group's frames           4 bytes a group
        enciphered frames, then faulty ones     place and length, 4 bytes each, of every one; then their bytes, their words (UTF-8)
        the frames, group by group              each less the one before it, byte by byte

Strategy. Every table stands column by column, so that bytes that stay are rows of zeros: a frame of 342 bytes with 1 mV of noise in
96 cells takes some 55. Frames are compared with the one before them of their own group: those of one length that begin alike, as
the frames of one subsystem do, or those with and without the motor. It needs no knowledge of bodies, and words of two bytes
would save another 2 bytes only. The key (vehicle, time) is in the check and not in the block: a block in another's place is found out.

Frames stand as rows (`sql/_packing.py`): without the header, time and check byte that come back from the other columns.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["BLOCK_FRAMES_MAX", "BLOCK_SIZE_BYTES_MAX", "BlockError", "FrameRow", "decode_block", "encode_block"]

FrameRow = tuple[int, int, int, bytes, bytes | None, str | None]
"""reported_at_s, arrived_at_ns, form, clear, received, fault: what `sql/_packing.unpack` takes."""

# An hour of one report a second, twice over; what is more is divided (`sql/_compacting.py`), so that no vehicle can make the
# compactor or a reader hold gigabytes.
BLOCK_FRAMES_MAX: Final = 8192
BLOCK_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024

_LAYOUT: Final = 1
_HEAD: Final = struct.Struct("<B8sI")
_COUNTS: Final = struct.Struct("<4I")
_CHECK_END: Final = 9
# What is deflated of a full block: the frames, their numbers, and for each a fault of some length. A block that says more is damaged.
_INFLATED_SIZE_BYTES_MAX: Final = 16 * BLOCK_SIZE_BYTES_MAX
_LEVEL: Final = 6
_SAME_BEGINNING_BYTES: Final = 3
"""Type of the first body, number of its items, number of the first."""


class BlockError(Exception):
    """A block that can't be read: of a newer layout, or damaged. Says which, not where."""


def encode_block(rows: Sequence[FrameRow], key: bytes) -> bytes:
    """The block of *rows*, in their order. *key*: whose it is; `decode_block` must be given the same."""
    groups: dict[tuple[int, bytes], int] = {}
    members: list[list[bytes]] = []
    group_of = np.empty(len(rows), "<u2")
    for place, row in enumerate(rows):
        clear = row[3]
        kind = (len(clear), clear[:_SAME_BEGINNING_BYTES])
        group = groups.get(kind)
        if group is None:
            group = groups[kind] = len(members)
            members.append([])
        group_of[place] = group
        members[group].append(clear)
    received = [(place, row[4]) for place, row in enumerate(rows) if row[4]]
    faults = [(place, row[5].encode("utf-8", "surrogatepass")) for place, row in enumerate(rows) if row[5]]
    parts = [
        _COUNTS.pack(len(rows), len(members), len(received), len(faults)),
        _planes(_differences(np.array([row[0] for row in rows], "<i8"))),
        _planes(_differences(np.array([row[1] for row in rows], "<i8"))),
        _planes(np.array([row[2] for row in rows], "<u2")),
        _planes(group_of),
        _planes(np.array([size for size, _ in groups], "<u4")),
    ]
    for items in (received, faults):
        parts.append(_planes(np.array([place for place, _ in items], "<u4")))
        parts.append(_planes(np.array([len(data) for _, data in items if data is not None], "<u4")))
        parts += [data for _, data in items if data is not None]
    for (size, _), frames in zip(groups, members, strict=True):
        table = np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), size)
        parts.append(_differences(table).T.tobytes())
    plain = b"".join(parts)
    rest = struct.pack("<I", len(plain)) + zlib.compress(plain, _LEVEL)
    return bytes((_LAYOUT,)) + _check(key, rest) + rest


def decode_block(data: bytes, key: bytes) -> list[FrameRow]:
    """The rows of a block.

    Raises:
        BlockError: it is of a newer layout, it is damaged, or it is not the block of *key*.
    """
    if not data or data[0] > _LAYOUT:
        raise BlockError(
            f"expected layout {_LAYOUT} or older, got {data[0]}; a newer bmsota-cloud wrote it"
            if data
            else "expected a block, got 0 bytes"
        )
    if len(data) < _HEAD.size or data[0] != _LAYOUT or data[1:_CHECK_END] != _check(key, data[_CHECK_END:]):
        raise BlockError("damaged: its check is wrong")
    size = _HEAD.unpack_from(data)[2]
    if size > _INFLATED_SIZE_BYTES_MAX:
        raise BlockError(f"expected at most {_INFLATED_SIZE_BYTES_MAX} bytes in it, got {size}")
    try:
        inflater = zlib.decompressobj()
        plain = inflater.decompress(data[_HEAD.size :], size + 1)
        if len(plain) != size:
            raise BlockError(f"damaged: expected {size} bytes in it, got {len(plain)}")
        return _rows(plain)
    except (zlib.error, struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        # Written so, by us or by someone who knows the key: the check is right.
        raise BlockError(f"damaged: {error}") from error


def _rows(plain: bytes) -> list[FrameRow]:
    reader = _Reader(plain)
    count, group_count, received_count, fault_count = _COUNTS.unpack(reader.take(_COUNTS.size))
    reported = _sums(reader.numbers(count, "<i8"))
    arrived = _sums(reader.numbers(count, "<i8"))
    forms = reader.numbers(count, "<u2")
    group_of = reader.numbers(count, "<u2")
    sizes = reader.numbers(group_count, "<u4").tolist()
    received = reader.items(received_count)
    faults = {place: text.decode("utf-8", "surrogatepass") for place, text in reader.items(fault_count).items()}
    clear: list[bytes] = [b""] * count
    for group, size in enumerate(sizes):
        places = np.flatnonzero(group_of == group).tolist()
        if not places:
            raise ValueError(f"expected a frame in each group, got none in group {group}")
        columns = np.frombuffer(reader.take(len(places) * size), np.uint8).reshape(size, len(places))
        frames = np.cumsum(columns, axis=1, dtype=np.uint8).T.tobytes()
        for number, place in enumerate(places):
            clear[place] = frames[number * size : (number + 1) * size]
    reader.end()
    if count and (group_of.max() >= group_count or max((*received, *faults), default=0) >= count):
        raise ValueError("expected numbers of groups and frames that are there, got others")
    return [
        (at_s, arrived_at_ns, form, clear[place], received.get(place), faults.get(place))
        for place, (at_s, arrived_at_ns, form) in enumerate(
            zip(reported.tolist(), arrived.tolist(), forms.tolist(), strict=True)
        )
    ]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise ValueError(f"expected {size} more bytes, got {len(found)}")
        self._at += size
        return found

    def numbers(self, count: int, kind: str) -> NDArray[np.int64]:
        width = np.dtype(kind).itemsize
        planes = np.frombuffer(self.take(count * width), np.uint8).reshape(width, count)
        found: NDArray[np.int64] = np.frombuffer(planes.T.tobytes(), kind)
        return found

    def items(self, count: int) -> dict[int, bytes]:
        places = self.numbers(count, "<u4").tolist()
        sizes = self.numbers(count, "<u4").tolist()
        return {place: self.take(size) for place, size in zip(places, sizes, strict=True)}

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError(f"expected the end, got {len(self._data) - self._at} more bytes")


def _check(key: bytes, rest: bytes) -> bytes:
    return blake2b(rest, digest_size=8, key=blake2b(key).digest()).digest()


def _differences(table: NDArray[np.generic]) -> NDArray[np.generic]:
    """Each row less the one before it; numbers wrap."""
    unsigned = table.view(f"<u{table.itemsize}")
    found = unsigned.copy()
    found[1:] -= unsigned[:-1]
    return found


def _sums(differences: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(differences, dtype=np.int64)


def _planes(numbers: NDArray[np.generic]) -> bytes:
    """All lowest bytes, then all second ones, ..."""
    return np.frombuffer(numbers.tobytes(), np.uint8).reshape(len(numbers), numbers.itemsize).T.tobytes()
