"""Where each number of a report stands, and which bytes say how the report is laid out: one walk with the tables.

Those bytes are the report's *skeleton*: types, counts and lengths. `decode` refuses a data unit only for them and for its time,
so that of two reports with one skeleton and real times both are valid or neither. Columns and sessions rest on this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bmsota.gbt32960._bodies import Signature
from bmsota.gbt32960._enums import Command, Edition, Encryption, ReplyFlag
from bmsota.gbt32960._fields import Field, FixedBytes, Layout, Repeat, SizedBytes
from bmsota.gbt32960._frame import DATA_SIZE_BYTES_MAX, HEADER_SIZE_BYTES
from bmsota.gbt32960._sized import USER_DEFINED
from bmsota.gbt32960._tables import BODY_LAYOUTS, EXTENSION_BODY_LAYOUTS

VIN: Final = slice(4, 21)
VIN_SIZE: Final = 17
TIME: Final = slice(24, 30)
BODIES_AT: Final = 30
REPORTS: Final = (int(Command.REALTIME_REPORT), int(Command.BACKFILL_REPORT))


@dataclass(frozen=True, slots=True)
class Slot:
    """One number, or one list of numbers, and where it stands."""

    name: str
    row: Field
    at: int
    count: int | None = None
    """None for a single number."""

    @property
    def is_integer(self) -> bool:
        """Whether the wire's number is the value, and cannot be missing."""
        return is_integer(self.row)


def is_integer(row: Field) -> bool:
    """Whether the wire's number is the value, and cannot be missing."""
    return not (row.sentinels or row.raw_offset or row.divisor != 1)


_EDITIONS: Final = {edition.value: edition for edition in Edition}
OCTET: Final = Field(name="data", size_bytes=1, raw_min=0, raw_max=255)


class Unplannable(Exception):  # noqa: N818 it never leaves this module, and is no error
    """A frame that has no columns."""


class Walk:
    """Finds the slots of one frame, and the places of its skeleton."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.end = len(data) - 1
        length = (data[22] << 8) | data[23] if len(data) > BODIES_AT else -1
        if (
            length + HEADER_SIZE_BYTES != self.end
            or length > DATA_SIZE_BYTES_MAX
            or data[:2] not in _EDITIONS
            or data[3] != ReplyFlag.COMMAND
            or data[21] != Encryption.NONE
        ):
            raise Unplannable
        self.slots: list[Slot] = []
        self.fixed: list[int] = [0, 1, 3, 21, 22, 23]  # Start, reply flag, encryption, length.
        self.positions: list[str] = []
        seen: dict[str, int] = {}
        layouts = BODY_LAYOUTS[_EDITIONS[data[:2]]]
        at = BODIES_AT
        while at < self.end:
            type_id = data[at]
            self.fixed.append(at)
            layout = layouts.get(type_id)
            stem = body_name(type_id, layout)
            seen[stem] = seen.get(stem, 0) + 1
            name = stem if seen[stem] == 1 else f"{stem}_{seen[stem]}"
            if layout is not None:
                at = self.layout(layout, name, at + 1)
                if layout.cls is Signature and at != self.end:  # What stands behind it would not be signed.
                    raise Unplannable
            elif type_id in USER_DEFINED and type_id not in EXTENSION_BODY_LAYOUTS:
                size = self.structural(at + 1, 2)
                at = self.list_of(OCTET, f"{name}.data", at + 3, size)
            else:
                raise Unplannable
        if at != self.end or len({slot.name for slot in self.slots}) != len(self.slots):
            raise Unplannable

    def structural(self, at: int, size: int) -> int:
        """A number that says how the frame is laid out."""
        if at + size > self.end:
            raise Unplannable
        self.fixed.extend(range(at, at + size))
        return int.from_bytes(self.data[at : at + size], "big")

    def list_of(self, row: Field, name: str, at: int, count: int) -> int:
        self.slots.append(Slot(name, row, at, count))
        return at + count * row.size_bytes

    def layout(self, layout: Layout, name: str, at: int) -> int:
        if layout.build is not None:
            if not {getattr(row, "name", "") for row in layout.rows} >= POSITION_ROWS:
                raise Unplannable
            self.positions.append(name)
        for row in layout.rows:
            match row:
                case Field():
                    self.slots.append(Slot(f"{name}.{row.name}", row, at))
                    at += row.size_bytes
                case SizedBytes():
                    size = self.structural(at, 2)
                    if not row.size_bytes_min <= size <= row.size_bytes_max:
                        raise Unplannable
                    at = self.list_of(OCTET, f"{name}.{row.name}", at + 2, size)
                case FixedBytes():
                    at = self.list_of(OCTET, f"{name}.{row.name}", at, row.size_bytes)
                case Repeat():
                    count = self.structural(at, row.count_size_bytes)
                    at += row.count_size_bytes
                    if row.sentinels and count > row.count_limit:
                        continue
                    if isinstance(row.item, Field):
                        at = self.list_of(row.item, f"{name}.{row.name}", at, count)
                        continue
                    for place in range(1, count + 1):
                        at = self.layout(row.item, f"{name}.{place}", at)
                case _:
                    raise Unplannable
            if at > self.end:
                raise Unplannable
        return at


def body_name(type_id: int, layout: Layout | None) -> str:
    """VehicleData and VehicleData2025 are both "vehicle_data": the group says which edition it is."""
    if layout is None:
        return f"user_defined_0x{type_id:02x}"
    name = layout.cls.__name__.removesuffix("2025")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


DEGREES: Final = {"longitude_deg": 0x04, "latitude_deg": 0x02}
"""The bit of the status byte that makes each negative: west and south (table 15)."""


POSITION_ROWS: Final = {"status", *DEGREES}
