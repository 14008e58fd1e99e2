"""The boot journal: small records appended to write-once flash, safe against a power cut at any moment.

Strategy. There are two areas; one is current. Records are appended to it, each by one flash write, each with a CRC and
a sequence number. When the next record does not fit, the other area is erased, receives a snapshot of everything that
still counts, and last of all its head with a generation one higher: only the head makes an area valid, so that a cut
anywhere before leaves the old area current, complete and untouched. A torn head fails its CRC.

A torn record fails its CRC and is skipped: the older record wins. Its cells are spent. One case cannot be seen by reading: a
write cut so early that its first unit still reads as erased but must not be written again. Leaving a unit out does not
help for long: the write behind it may be cut as invisibly, and the next power-up would write there again. Therefore nothing
is appended to what was found at power-up: the first change moves to the other area, erased before.

A torn record may hold, in its payload, bytes that look like a record. They are never looked at: the header has its own
CRC, so that a record with a sound header is skipped by its length, and behind a torn header nothing was written.

Other versions. The 16 bytes of the head keep their form in every layout to come; its `version` is the layout of what follows.
An area of a newer layout is never read, and never the first to be erased: `newer_layout` says that it is the newest, and the
next write goes to the other area. Records of a kind that a later version has added are kept as they are and written back, as
long as there is room for them. An image that is not confirmed must not write a newer layout than it found.

Left out: nothing detects a unit that reads differently from one time to the next.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from construct import Bytes, Const, Int8ul, Int16ul, Int32ul, Struct

from bmsota.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bmsota.boot._flash import Flash, SlotLayout


RECORD_NAME_BYTES_MAX = 32
"""Names are constants of an updater's code; a word or two is enough."""

JOURNAL_RECORD_BYTES_MAX = 0xFFFF
"""What the length field can say. The area's size is the tighter limit in practice."""

_RECORD_MAGIC = 0xB0A7
_HEAD_MAGIC = b"bmsj"

LAYOUT = 1
"""The version in the head of the areas we read and write."""

# The head of an area, written last.
HEAD_LAYOUT = Struct(
    "magic" / Const(_HEAD_MAGIC), "version" / Const(LAYOUT, Int32ul), "generation" / Int32ul, "crc" / Int32ul
)

# One record: this header, then `size` payload bytes, then erased bytes up to the next write unit.
RECORD_LAYOUT = Struct(
    "magic" / Const(_RECORD_MAGIC, Int16ul),
    "kind" / Int8ul,
    "reserved" / Const(0xFF, Int8ul),
    "size" / Int16ul,
    "header_crc" / Int16ul,  # low half of the CRC-32 of magic .. size and sequence
    "sequence" / Int32ul,
    "payload_crc" / Int32ul,
)
_HEADER_FACTS = Struct("magic" / Int16ul, "kind" / Int8ul, "size" / Int16ul, "sequence" / Int32ul)
_HEADER_MAGIC_BYTES = Int16ul.build(_RECORD_MAGIC)
_NAMED = Struct("name_size" / Int8ul, "name" / Bytes(lambda context: context.name_size))

HEADER_BYTES = RECORD_LAYOUT.sizeof()
HEAD_BYTES = HEAD_LAYOUT.sizeof()


class RecordKind(IntEnum):
    """What a record says. Never reuse a number."""

    STATE = 1
    """The whole boot state; replaces every STATE and PROGRESS before it."""
    PROGRESS = 2
    """How much of the staged image is safely in the flash."""
    APPLICATION = 3
    """One application record: name and value; replaces the one of the same name."""
    APPLICATION_DELETED = 4
    """The application record of this name is gone."""


class Record(NamedTuple):
    """One journal record without its envelope."""

    kind: int
    """A `RecordKind`, or a number of a later version."""
    payload: bytes


def serialize_named(name: bytes, value: bytes = b"") -> bytes:
    """Lay out an application record's payload."""
    return bytes(_NAMED.build({"name_size": len(name), "name": name})) + value


def parse_named(payload: bytes) -> tuple[bytes, bytes]:
    """Take an application record's payload apart. Payloads are CRC-checked, so a misfit is our own bug."""
    name_size = payload[0]
    return payload[1 : 1 + name_size], payload[1 + name_size :]


def _header_crc(kind: int, size: int, sequence: int) -> int:
    facts = _HEADER_FACTS.build({"magic": _RECORD_MAGIC, "kind": kind, "size": size, "sequence": sequence})
    return crc32(facts) & 0xFFFF


class Journal:
    """The two areas. `records` are what was found at power-up, oldest first; `foreign` those of unknown kinds.

    *snapshot* is asked, when an area is full, for the records that still count.
    """

    def __init__(self, flash: Flash, layout: SlotLayout, *, snapshot: Callable[[], Iterable[Record]]) -> None:
        self._flash = flash
        self._layout = layout
        self._snapshot = snapshot
        self._unit = flash.write_unit_bytes
        self.busy_ns = 0
        """Flash time spent since it was last taken (see `BootStore.take_busy_ns`)."""
        self._area: int | None = None
        self._generation = 0
        self.sequence = 0
        """Number of the newest record."""
        self._end = 0  # where the next record goes, from the area's start
        self._is_found = False  # whether the current area is one of before the power-up, with cells that may be spent
        self.records: list[Record] = []
        self.foreign: list[Record] = []
        self.newer_layout: int | None = None
        """The layout of the newest area, if it is newer than ours: nothing of it was read."""
        self._find_current_area()

    # ---- power-up

    def _find_current_area(self) -> None:
        newest = 0
        for area in (0, 1):
            version, generation = self._area_head(area)
            if version and generation > self._generation:
                self._area, self._generation, newest = area, generation, version
        if newest > LAYOUT:
            self.newer_layout = newest
            self._is_found = True
        elif self._area is not None:
            self._scan(self._area)

    def _area_head(self, area: int) -> tuple[int, int]:
        """(version, generation); zeros if the area is not valid."""
        head = self._flash.read(self._layout.journal_offsets[area], HEAD_BYTES)
        magic, version, generation, crc = (head[start : start + 4] for start in range(0, HEAD_BYTES, 4))
        if magic != _HEAD_MAGIC or int.from_bytes(crc, "little") != crc32(head[:-4]):
            return 0, 0
        return int.from_bytes(version, "little"), int.from_bytes(generation, "little")

    def _scan(self, area: int) -> None:
        content = self._flash.read(self._layout.journal_offsets[area], self._layout.journal_size_bytes)
        visible = len(content.rstrip(b"\xff"))  # Behind it every byte reads as erased.
        position = self._padded(HEAD_BYTES)
        while position < visible:
            size = self._record_at(content, position)
            position += self._padded(HEADER_BYTES + size) if size is not None else self._unit
        self._is_found = True

    def _record_at(self, content: bytes, position: int) -> int | None:
        """Take the record at *position*; its payload size if its header is sound, else None."""
        raw = content[position : position + HEADER_BYTES]
        if len(raw) < HEADER_BYTES or raw[:2] != _HEADER_MAGIC_BYTES or raw[3] != 0xFF:
            return None
        header = RECORD_LAYOUT.parse(raw)
        if header.header_crc != _header_crc(header.kind, header.size, header.sequence):
            return None
        payload = content[position + HEADER_BYTES : position + HEADER_BYTES + header.size]
        if header.payload_crc == crc32(payload):
            self.sequence = header.sequence
            # An unknown kind is from a later version: what it means is unknown here, so it is only kept.
            if header.kind in RecordKind.__members__.values():
                self.records.append(Record(RecordKind(header.kind), payload))
            else:
                self.foreign.append(Record(int(header.kind), payload))
        return int(header.size)

    # ---- writing

    def append(self, record: Record) -> bool:
        """Write *record* behind the others, if there is room; false means that `compact` is needed."""
        if self._area is None or self._is_found:
            return False
        raw = self._envelope(record, self.sequence + 1)
        if self._end + len(raw) > self._layout.journal_size_bytes:
            return False
        self._write(self._layout.journal_offsets[self._area] + self._end, raw)
        self.sequence += 1
        self._end += len(raw)
        return True

    def compact(self) -> None:
        """Move to the other area: erase it, write the snapshot, then the head that makes it valid.

        Raises:
            LocalProtocolError: the snapshot does not fit an area; nothing was written.
        """
        records = list(self._snapshot())
        self.check_room(records)
        if self._needed([*records, *self.foreign]) <= self._layout.journal_size_bytes:
            records += self.foreign
        area = 1 if self._area == 0 else 0
        start = self._layout.journal_offsets[area]
        block = self._flash.erase_block_bytes
        for offset in range(start, start + self._layout.journal_size_bytes, block):
            self._flash.erase(offset)
            self.busy_ns += self._flash.erase_ns
        end = self._padded(HEAD_BYTES)
        sequence = self.sequence
        for record in records:
            sequence += 1
            raw = self._envelope(record, sequence)
            self._write(start + end, raw)
            end += len(raw)
        generation = self._generation + 1
        head = bytes(HEAD_LAYOUT.build({"generation": generation, "crc": 0}))[:-4]
        self._write(start, self._pad(head + Int32ul.build(crc32(head))))
        self._area, self._generation = area, generation
        self.sequence, self._end, self._is_found = sequence, end, False

    def check_room(self, records: Iterable[Record]) -> None:
        """Refuse a snapshot that could not be written into one area.

        Raises:
            LocalProtocolError: it does not fit.
        """
        needed = self._needed(records)
        if needed > self._layout.journal_size_bytes:
            raise LocalProtocolError(
                f"journal: expected at most {self._layout.journal_size_bytes} bytes of live records, got {needed}"
            )

    def _needed(self, records: Iterable[Record]) -> int:
        return self._padded(HEAD_BYTES) + sum(self._padded(HEADER_BYTES + len(record.payload)) for record in records)

    def _envelope(self, record: Record, sequence: int) -> bytes:
        size = len(record.payload)
        header = RECORD_LAYOUT.build(
            {
                "kind": record.kind,
                "size": size,
                "header_crc": _header_crc(record.kind, size, sequence),
                "sequence": sequence,
                "payload_crc": crc32(record.payload),
            }
        )
        return self._pad(bytes(header) + record.payload)

    def _write(self, offset: int, data: bytes) -> None:
        self._flash.write(offset, data)
        self.busy_ns += self._flash.program_ns * (len(data) // self._unit)

    def _padded(self, size: int) -> int:
        return size + -size % self._unit

    def _pad(self, data: bytes) -> bytes:
        return data + b"\xff" * (-len(data) % self._unit)
