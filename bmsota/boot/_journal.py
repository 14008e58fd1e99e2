"""The boot journal: small records kept twice in write-once flash, safe against power cuts and worn cells.

Strategy. There are two areas, and each change is written to both: a record behind the others of its area, by one flash write,
with a CRC and a sequence number. When a record does not fit, both areas are renewed, one after the other: erased, filled with a
snapshot of everything that still counts, and last of all given a head with a higher generation. Only the head makes an area
valid, and one of the two is always valid and whole.

What is written is read back, several times. A record that its cells do not keep is written again behind them; so is a head,
which then stands among the records. An area that cannot be filled is *worn*. If the change stands in the other one, `problem`
says that there is no second copy; if it stands in none, `FlashWornError` is raised and the change has not happened.

At power-up both areas are read several times, and a record counts if it was sound in any reading of either. What is not the
same in both, every time, was being written when the power failed, or has decayed since: it might read otherwise the next time.
Then `is_settled` is false, and the journal must be renewed (`compact`) before anything is done because of what was read.

The order of the writes matters, because the last write before a power cut may have left cells that are sound only now and then:

* An area that reads differently from one time to the next is erased first, so that the steady one stays. So is one that lacks
  what its copy has. Both are looked at again before each renewal: a cell may have worn out since power-up.
* Of generation g, `_first(g)` is the area that is filled first, and the next generation begins with the other one. The head
  that was written last, the only one that may be torn, is thereby the first to be erased.
* A record goes to the area first that is erased first. A change that then fails is gone with it.
* Generations rise by 2 or 3. Areas of one generation are copies. A difference of 2 or more is a renewal that was interrupted
  between the two, and nothing has been done because of what it changed. The older area is erased first, for it may be half
  erased already; unless the newer one's head is not read every time, which is the torn one then, and the older area is whole.
  A difference of 1 is of a version that did not keep copies: the newer one counts.

A torn record fails its CRC and is skipped. Its cells are spent, and one case cannot be seen by reading: a write cut so early
that its first unit still reads as erased. Therefore nothing is appended to what was found at power-up: the first change renews.

A torn record may hold, in its payload, bytes that look like a record. They are never looked at: the header has its own
CRC, so that a record with a sound header is skipped by its length, and behind a torn header nothing was written. Where a worn
cell has damaged a header, only a record with a higher number than the one before it is believed.

Other versions. The 16 bytes of the head keep their form in every layout to come; its `version` is the layout of what follows.
An area of a newer layout is never read, never the first to be erased, and not renewed beside the other: `newer_layout` says that
it is the newest, and the next write goes to the other area. Records of a kind that a later version has added are kept as they
are and written back, as long as there is room for them. An image that is not confirmed must not write a newer layout than it
found.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from construct import Bytes, Const, Int8ul, Int16ul, Int32ul, Struct

from bmsota.boot._flash import read_leniently
from bmsota.errors import FlashError, FlashWornError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bmsota.boot._flash import Flash, SlotLayout


READINGS = 3
"""How often it is read what has been written. An unstable cell that is right every second time passes one time in eight, and
then there is the second copy."""

POWER_UP_READINGS = 16
"""How often the areas are read at power-up, because what is found there decides which of them is erased first."""

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
# The same layout for writing, which a device does each time a block is stored: a record's whole header, and what its CRC covers.
_RECORD_HEADER = struct.Struct("<HBBHHII")
_HEADER_FACTS = struct.Struct("<HBHI")
_RESERVED = 0xFF
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
    return crc32(_HEADER_FACTS.pack(_RECORD_MAGIC, kind, size, sequence)) & 0xFFFF


def _head_at(data: bytes, position: int) -> tuple[int, int]:
    """(version, generation) of the area head at *position*; zeros if there is none."""
    head = data[position : position + HEAD_BYTES]
    magic, version, generation, crc = (head[start : start + 4] for start in range(0, HEAD_BYTES, 4))
    if magic != _HEAD_MAGIC or int.from_bytes(crc, "little") != crc32(head[:-4]):
        return 0, 0
    return int.from_bytes(version, "little"), int.from_bytes(generation, "little")


def _header_at(data: bytes, position: int) -> tuple[int, int, int, int] | None:
    """(kind, size, sequence, payload CRC) of the record header at *position*; None unless it is sound."""
    raw = data[position : position + HEADER_BYTES]
    if len(raw) < HEADER_BYTES or raw[:2] != _HEADER_MAGIC_BYTES or raw[3] != 0xFF:
        return None
    header = RECORD_LAYOUT.parse(raw)
    if header.header_crc != _header_crc(header.kind, header.size, header.sequence):
        return None
    return int(header.kind), int(header.size), int(header.sequence), int(header.payload_crc)


@dataclass(slots=True)
class _Content:
    """What the readings of one area have found, together."""

    version: int = 0
    """0: the area has no head, so it is not valid."""
    generation: int = 0
    records: dict[int, Record] = field(default_factory=dict)
    """By sequence number."""
    has_steady_head: bool = True
    """Whether every reading has found the head, or none."""
    is_steady: bool = True
    """Whether every reading has found the same. Unused cells may be unstable: they are found when they are written."""


@dataclass(slots=True)
class _Open:
    """An area that was filled since power-up, so that records can be appended to it."""

    start: int
    end: int
    """Where the next record goes, from the start."""


def _first(generation: int) -> int:
    """The area that is filled first in this generation."""
    return (generation + 1) % 2


class Journal:
    """The two areas. `records` are what was found at power-up, oldest first; `foreign` those of unknown kinds.

    *snapshot* is asked, when the areas are renewed, for the records that still count.
    """

    def __init__(self, flash: Flash, layout: SlotLayout, *, snapshot: Callable[[], Iterable[Record]]) -> None:
        self._flash = flash
        self._layout = layout
        self._snapshot = snapshot
        self._unit = flash.write_unit_bytes
        self.busy_ns = 0
        """Flash time spent since it was last taken (see `BootStore.take_busy_ns`)."""
        self._generations = [0, 0]  # of each area; 0: not valid
        self._versions = [0, 0]
        self._doubtful: int | None = None  # the area that must be erased first, whatever its generation
        self._open: list[_Open] = []  # in the order in which a record is written to them
        self._one_copy: list[_Open] = []  # the area that took a record which the other one did not
        self.sequence = 0
        """Number of the newest record."""
        self._promised = 0  # number of the newest record that is in both areas, as far as both can be filled
        self.records: list[Record] = []
        self.foreign: list[Record] = []
        self.newer_layout: int | None = None
        """The layout of the newest area, if it is newer than ours: nothing of it was read."""
        self.is_settled = True
        """Whether what was found is whole in both areas. If not, it may read otherwise next time; `compact` makes it so."""
        self.problem = ""
        """Why there is no second copy of the newest records, or not even one; empty if nothing is wrong."""
        self._find()

    @property
    def is_empty(self) -> bool:
        """Whether no area is valid: a new device, or both heads are lost."""
        return not any(self._versions)

    # ---- power-up

    def _find(self) -> None:
        contents = [self._content(area) for area in (0, 1)]
        self._versions = [content.version for content in contents]
        self._generations = [content.generation for content in contents]
        newest = contents[self._newest]
        other = contents[1 - self._newest]
        if newest.version > LAYOUT:
            self.newer_layout = newest.version
            return
        if not newest.version:
            return
        found = dict(newest.records)
        is_copy = newest.generation == other.generation
        if other.version == LAYOUT and (is_copy or newest.generation - other.generation > 1):
            # Of one number, the newer area's is the one that counts: the other may be a torn record that was given up.
            found = other.records | found
            if is_copy:
                self._doubtful = self._worse_copy(contents)
            elif not newest.has_steady_head:
                self._doubtful = self._newest
        if other.version <= LAYOUT:
            is_same = is_copy and newest.records == other.records
            self.is_settled = is_same and newest.is_steady and other.is_steady
        for sequence in sorted(found):
            record = found[sequence]
            self.sequence = sequence
            # An unknown kind is from a later version: what it means is unknown here, so it is only kept.
            if isinstance(record.kind, RecordKind):
                self.records.append(record)
            elif record not in self.foreign:
                self.foreign.append(record)
        self._promised = self.sequence

    def _worse_copy(self, contents: Sequence[_Content]) -> int | None:
        """Which of two areas of one generation must not be the one that stays; None if both will do."""
        for area in (0, 1):
            content, copy = contents[area], contents[1 - area]
            if copy.is_steady and not content.is_steady:
                return area
        for area in (0, 1):
            content, copy = contents[area], contents[1 - area]
            if content.records.items() < copy.records.items():
                return area
        return None

    @property
    def _newest(self) -> int:
        return 1 if self._generations[1] > self._generations[0] else 0

    def _content(self, area: int) -> _Content:
        start, size = self._layout.journal_offsets[area], self._layout.journal_size_bytes
        readings = {read_leniently(self._flash, start, size) for _ in range(POWER_UP_READINGS)}
        contents = [self._scan(reading) for reading in readings]
        together = max(contents, key=lambda content: content.generation)
        is_steady = all(content == together for content in contents)
        together.has_steady_head = all(content.generation == together.generation for content in contents)
        together.is_steady = is_steady
        for content in contents:
            together.records = content.records | together.records
        return together

    def _scan(self, data: bytes) -> _Content:
        content = _Content()
        content.version, content.generation = _head_at(data, 0)
        if content.version > LAYOUT:
            return content
        visible = len(data.rstrip(b"\xff"))  # Behind it every byte reads as erased.
        position = self._padded(HEAD_BYTES)
        newest = 0
        while position < visible:
            if not content.version and data[position : position + 4] == _HEAD_MAGIC:
                # The cells of its own place did not take it.
                content.version, content.generation = _head_at(data, position)
            header = _header_at(data, position)
            if header is None:
                position += self._unit
                continue
            kind, size, sequence, payload_crc = header
            payload = data[position + HEADER_BYTES : position + HEADER_BYTES + size]
            if payload_crc == crc32(payload) and sequence > newest:
                newest = sequence
                known = kind in RecordKind.__members__.values()
                content.records[sequence] = Record(RecordKind(kind) if known else kind, payload)
            position += self._padded(HEADER_BYTES + size)
        return content

    # ---- writing

    def write(self, record: Record) -> None:
        """Write *record*; the snapshot must hold it already.

        Raises:
            LocalProtocolError: the snapshot does not fit an area; nothing was written.
            FlashWornError: neither area keeps it. What was there before counts.
        """
        if not self.append(record):
            self.compact()

    def append(self, record: Record) -> bool:
        """Write *record* behind the others, if there is room in both areas; false means that `compact` is needed."""
        if not self._open:
            return False
        raw = self._envelope(record, self.sequence + 1)
        if any(area.end + len(raw) > self._layout.journal_size_bytes for area in self._open):
            return False
        # The number is used up in any case: what a worn area has kept of this try must not pass for the next record.
        self.sequence += 1
        for index, area in enumerate(self._open):
            if not self._put(area, raw):
                self._one_copy = self._open[:index]
                return False
        self._promised = self.sequence
        return True

    def compact(self) -> None:
        """Renew both areas, each by erasing it and writing the snapshot, then the head that makes it valid.

        Raises:
            LocalProtocolError: the snapshot does not fit an area; nothing was written.
            FlashWornError: the first area does not keep the snapshot, nor has the other one the change. What was there
                before counts.
        """
        records = list(self._snapshot())
        self.check_room(records)
        if self._needed([*records, *self.foreign]) <= self._layout.journal_size_bytes:
            records += self.foreign
        self._look_again()
        area = self._oldest()
        generation = max(self._generations) + (2 if any(self._generations) else 1)
        generation += _first(generation) != area
        first_sequence = self.sequence + 1
        self.sequence += len(records)
        self._open, one_copy = [], self._one_copy
        self._one_copy = []
        first = self._fill(area, generation, records, first_sequence)
        if first is None:
            self.problem = f"journal area {area} does not keep what is written to it"
            if one_copy and one_copy[0].start != self._layout.journal_offsets[area]:
                # The change stands in the area that was not touched.
                self._open = one_copy
                return
            raise FlashWornError(self.problem)
        self._open = [first]
        self._doubtful = None
        self._promised = self.sequence
        self.is_settled = True
        self.newer_layout = None
        if self._versions[1 - area] > LAYOUT:
            return
        second = self._fill(1 - area, generation, records, first_sequence)
        if second is None:
            self.problem = f"journal area {1 - area} does not keep what is written to it"
        else:
            self._open.insert(0, second)

    def _look_again(self) -> None:
        """Find the area that has decayed since it was read or written; its copy must stay until it has been filled again.

        A record that was not written to both has not happened yet, and does not make the area that lacks it the worse one.
        """
        if self._doubtful is not None or self._versions != [LAYOUT, LAYOUT]:
            return
        if self._generations[0] != self._generations[1]:
            return
        size = self._layout.journal_size_bytes
        readings = {
            read_leniently(self._flash, start, size) for start in self._layout.journal_offsets for _ in range(READINGS)
        }
        if len(readings) == 1:
            # Two areas that were filled alike, and no cell has moved.
            return
        contents = [self._content(area) for area in (0, 1)]
        for content in contents:
            content.records = {
                sequence: record for sequence, record in content.records.items() if sequence <= self._promised
            }
        heads = [content.has_steady_head and content.version == LAYOUT for content in contents]
        if heads[0] != heads[1]:
            self._doubtful = heads.index(False)
        else:
            self._doubtful = self._worse_copy(contents)

    def _oldest(self) -> int:
        """The area to erase first."""
        if self._doubtful is not None:
            return self._doubtful
        if self._generations[0] == self._generations[1]:
            return 1 - _first(self._generations[0]) if self._generations[0] else 0
        return 1 - self._newest

    def _fill(self, area: int, generation: int, records: Sequence[Record], sequence: int) -> _Open | None:
        """Erase the area and write all of this; None if it does not keep it."""
        self._generations[area] = self._versions[area] = 0
        start, size = self._layout.journal_offsets[area], self._layout.journal_size_bytes
        for offset in range(start, start + size, self._flash.erase_block_bytes):
            try:
                self._flash.erase(offset)
            except FlashError:
                return None
            self.busy_ns += self._flash.erase_ns
        opened = _Open(start, self._padded(HEAD_BYTES))
        for number, record in enumerate(records, start=sequence):
            if not self._put(opened, self._envelope(record, number)):
                return None
        head = bytes(HEAD_LAYOUT.build({"generation": generation, "crc": 0}))[:-4]
        head = self._pad(head + Int32ul.build(crc32(head)))
        if not self._keeps(start, head) and not self._put(opened, head):
            return None
        self._generations[area], self._versions[area] = generation, LAYOUT
        return opened

    def _put(self, area: _Open, raw: bytes) -> bool:
        """Write *raw* at the first place of the area that keeps it; false if there is none."""
        while area.end + len(raw) <= self._layout.journal_size_bytes:
            position = area.start + area.end
            area.end += len(raw)
            if self._keeps(position, raw):
                return True
        return False

    def _keeps(self, offset: int, data: bytes) -> bool:
        """Write *data* and read it back."""
        try:
            self._flash.write(offset, data)
        except FlashError:
            return False
        self.busy_ns += self._flash.program_ns * (len(data) // self._unit)
        return all(read_leniently(self._flash, offset, len(data)) == data for _ in range(READINGS))

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
        header_crc = _header_crc(record.kind, size, sequence)
        header = _RECORD_HEADER.pack(
            _RECORD_MAGIC, record.kind, _RESERVED, size, header_crc, sequence, crc32(record.payload)
        )
        return self._pad(header + record.payload)

    def _padded(self, size: int) -> int:
        return size + -size % self._unit

    def _pad(self, data: bytes) -> bytes:
        return data + b"\xff" * (-len(data) % self._unit)
