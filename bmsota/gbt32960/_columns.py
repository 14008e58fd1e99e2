"""Thousands of reports at once, as columns of numbers (0x02 and 0x03 of both editions: every body that the text lays out).

`decode_batch` takes frames as they come and groups those that are laid out alike: the same edition, the same bodies in the
same order, the same counts. Each group is a `FrameGroup` of NumPy arrays. Frames that have no columns (logins, replies, bodies
of unknown length, encrypted ones) are in `FrameColumns.others` as `decode` gives them, frames that are no frames in `FrameColumns.errors`;
none is lost and none stops the rest. `encode_batch` is the inverse and gives, frame by frame, what `encode` gives.

What a column is, by its row in the tables of `_tables`:

    a number with a unit step, an offset or sentinels      float32 for a BYTE or WORD, float64 for a DWORD; NaN where it is missing
    a list of such numbers (cells, probes)                 float32, one row a frame
    any other number (ordinals, codes, bits, fault codes)  the unsigned type of its size
    bytes of a user-defined body, of a signature           uint8, one row a frame
    position                                               valid is bool, the degrees are signed

NaN does not say why. Where a frame of the group has a sentinel, `FrameGroup.marks` has, under the name of the column, an array
of the same shape: 0 a value, `MARK_ABNORMAL` 1, `MARK_INVALID` 2. So sentinels survive the round trip, and a column without an
entry has none.

Strategy: a plan knows for one layout where each number stands. It is made once by walking one frame with the tables, and kept.
Frames of one length are put into a byte matrix; those that have the plan's type and count bytes are its group. One gather
brings all single numbers into native byte order, a handful of operations turns them into values, and each list is one slice. A
frame that the quick checks do not like is given to `decode`, whose word is final: so both paths refuse the same frames, in
the same words.

Left out: messages other than reports, which are rare; bodies of our extension and of registered layouts. They go through
`decode`, without registered layouts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960._bodies import Signature
from bmsota.gbt32960._codec import decode, encode
from bmsota.gbt32960._enums import Command, Edition, Encryption, ReplyFlag
from bmsota.gbt32960._fields import Field, FixedBytes, Layout, Repeat, SizedBytes
from bmsota.gbt32960._frame import DATA_SIZE_BYTES_MAX, FRAME_SIZE_BYTES_MAX, HEADER_SIZE_BYTES, Frame
from bmsota.gbt32960._sized import USER_DEFINED
from bmsota.gbt32960._tables import BODY_LAYOUTS, EXTENSION_BODY_LAYOUTS
from bmsota.gbt32960._time import BEIJING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["MARK_ABNORMAL", "MARK_INVALID", "FrameColumns", "FrameGroup", "decode_batch", "encode_batch"]

MARK_ABNORMAL: Final = 1
MARK_INVALID: Final = 2

_VIN: Final = slice(4, 21)
_VIN_SIZE: Final = 17
_TIME: Final = slice(24, 30)
_BODIES_AT: Final = 30
_REPORTS: Final = (int(Command.REALTIME_REPORT), int(Command.BACKFILL_REPORT))
_BIG_ENDIAN_DWORD: Final = np.dtype(">u4")
_UNSIGNED: Final[dict[int, np.dtype[Any]]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameGroup:
    """Reports that are laid out alike. Row i of every array belongs to the same frame."""

    edition: Edition
    skeleton: bytes
    """A frame of this layout: type and count bytes as they are, zeros where values stand."""
    index: Array
    """int64: the place of each frame in the batch."""
    command: Array
    """uint8: 2 real-time, 3 backfill."""
    vin: Array
    """str of up to 17 characters."""
    time: Array
    """datetime64[s], UTC."""
    values: Mapping[str, Array]
    """Columns by name: body, place in the list from 1, field, as "vehicle_data.soc_pct" or "cell_voltages.1.voltage_v". If a
    body comes twice in a report, the second is "vehicle_data_2"."""
    marks: Mapping[str, Array] = field(default_factory=dict)
    """Why a number is missing, for the columns where one is."""

    def __len__(self) -> int:
        return len(self.index)

    def to_dict(self) -> dict[str, Array]:
        """Return all columns by name: index, vin, command, time, then the values. Lists (cells, probes) are 2-D."""
        return {"index": self.index, "vin": self.vin, "command": self.command, "time": self.time, **self.values}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameColumns:
    """What `decode_batch` made of a batch. Every frame is in exactly one of the three."""

    groups: tuple[FrameGroup, ...] = ()
    """In the order of their first frames."""
    others: tuple[tuple[int, Frame], ...] = ()
    """Place in the batch, and the frame: frames that have no columns."""
    errors: tuple[tuple[int, FrameError], ...] = ()
    """Place in the batch, and what is wrong with the frame."""

    def __len__(self) -> int:
        """The number of frames in the batch, bad ones included."""
        return sum(map(len, self.groups)) + len(self.others) + len(self.errors)


# --- plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Slot:
    """One number, or one list of numbers, and where it stands."""

    name: str
    row: Field
    at: int
    count: int | None = None
    """None for a single number."""

    @property
    def is_integer(self) -> bool:
        """Whether the wire's number is the value, and cannot be missing."""
        row = self.row
        return not (row.sentinels or row.raw_offset or row.divisor != 1)


_EDITIONS: Final = {edition.value: edition for edition in Edition}
_OCTET: Final = Field(name="data", size_bytes=1, raw_min=0, raw_max=255)


class _Unplannable(Exception):  # noqa: N818 it never leaves this module, and is no error
    """A frame that has no columns."""


class _Walk:
    """Finds the slots of one frame, and the bytes that say how it is laid out."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.end = len(data) - 1
        length = (data[22] << 8) | data[23] if len(data) > _BODIES_AT else -1
        if (
            length + HEADER_SIZE_BYTES != self.end
            or length > DATA_SIZE_BYTES_MAX
            or data[:2] not in _EDITIONS
            or data[3] != ReplyFlag.COMMAND
            or data[21] != Encryption.NONE
        ):
            raise _Unplannable
        self.slots: list[_Slot] = []
        self.fixed: list[int] = [0, 1, 3, 21, 22, 23]  # Start, reply flag, encryption, length.
        self.positions: list[str] = []
        seen: dict[str, int] = {}
        layouts = BODY_LAYOUTS[_EDITIONS[data[:2]]]
        at = _BODIES_AT
        while at < self.end:
            type_id = data[at]
            self.fixed.append(at)
            layout = layouts.get(type_id)
            stem = f"user_defined_0x{type_id:02x}" if layout is None else _snake(layout.cls.__name__)
            seen[stem] = seen.get(stem, 0) + 1
            name = stem if seen[stem] == 1 else f"{stem}_{seen[stem]}"
            if layout is not None:
                at = self.layout(layout, name, at + 1)
                if layout.cls is Signature and at != self.end:  # What stands behind it would not be signed.
                    raise _Unplannable
            elif type_id in USER_DEFINED and type_id not in EXTENSION_BODY_LAYOUTS:
                size = self.structural(at + 1, 2)
                at = self.list_of(_OCTET, f"{name}.data", at + 3, size)
            else:
                raise _Unplannable
        if at != self.end or len({slot.name for slot in self.slots}) != len(self.slots):
            raise _Unplannable

    def structural(self, at: int, size: int) -> int:
        """A number that says how the frame is laid out."""
        if at + size > self.end:
            raise _Unplannable
        self.fixed.extend(range(at, at + size))
        return int.from_bytes(self.data[at : at + size], "big")

    def list_of(self, row: Field, name: str, at: int, count: int) -> int:
        self.slots.append(_Slot(name, row, at, count))
        return at + count * row.size_bytes

    def layout(self, layout: Layout, name: str, at: int) -> int:
        if layout.build is not None:
            if not {getattr(row, "name", "") for row in layout.rows} >= _POSITION_ROWS:
                raise _Unplannable
            self.positions.append(name)
        for row in layout.rows:
            match row:
                case Field():
                    self.slots.append(_Slot(f"{name}.{row.name}", row, at))
                    at += row.size_bytes
                case SizedBytes():
                    size = self.structural(at, 2)
                    if not row.size_bytes_min <= size <= row.size_bytes_max:
                        raise _Unplannable
                    at = self.list_of(_OCTET, f"{name}.{row.name}", at + 2, size)
                case FixedBytes():
                    at = self.list_of(_OCTET, f"{name}.{row.name}", at, row.size_bytes)
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
                    raise _Unplannable
            if at > self.end:
                raise _Unplannable
        return at


def _snake(name: str) -> str:
    """VehicleData and VehicleData2025 are both "vehicle_data": the group says which edition it is."""
    name = name.removesuffix("2025")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


_DEGREES: Final = {"longitude_deg": 0x04, "latitude_deg": 0x02}
"""The bit of the status byte that makes each negative: west and south (table 15)."""
_POSITION_ROWS: Final = {"status", *_DEGREES}


def _order(slot: _Slot) -> int:
    row = slot.row
    if slot.is_integer:
        return 4
    has_divisor = row.divisor != 1
    return int(has_divisor) if row.raw_offset else 2 if has_divisor else 3


class _Scalars:
    """The single numbers of one size: those with an offset, those with a unit step, those with sentinels only, plain integers.

    Those that have an offset and a unit step stand between: so each operation is done on neighbours, and on no others.
    """

    def __init__(self, slots: list[_Slot], size: int, row_of: Mapping[int, int]) -> None:
        slots = sorted(slots, key=_order)
        self.names = tuple(slot.name for slot in slots)
        self.rows = tuple(slot.row for slot in slots)
        self.size = size
        self.ats = tuple(slot.at for slot in slots)
        # Rows of the gather: the highest bytes of all numbers, then the next, ...
        self.octets = [np.array([row_of[slot.at + octet] for slot in slots], np.intp) for octet in range(size)]
        self.unsigned = _UNSIGNED[size]
        self.real = sum(not slot.is_integer for slot in slots)
        """How many are no plain integers."""
        self.dtype: Any = np.float64 if size == 4 else np.float32
        self.limits = np.array([slot.row.raw_limit for slot in slots[: self.real]], self.unsigned)
        self.lowest_limit = int(self.limits.min(initial=(1 << 8 * size) - 1))
        self.offsets = np.array([[slot.row.raw_offset] for slot in slots], self.dtype)
        self.divisors = np.array([[slot.row.divisor] for slot in slots], self.dtype)
        self.has_offset = bool(self.offsets.any())
        self.has_divisor = bool((self.divisors != 1).any())
        with_offset = np.flatnonzero(self.offsets)
        with_divisor = np.flatnonzero(self.divisors != 1)
        self.with_offset = slice(0, int(with_offset[-1]) + 1) if len(with_offset) else None
        self.with_divisor = slice(int(with_divisor[0]), int(with_divisor[-1]) + 1) if len(with_divisor) else None
        self.bounds = {
            strict: (
                np.array([row.raw_min if strict else 0 for row in self.rows], np.float64),
                np.array([row.raw_max if strict else row.raw_limit for row in self.rows], np.float64),
            )
            for strict in (False, True)
        }

    def decode(self, frames: Array, gathered: Array, values: dict[str, Array], marks: dict[str, Array]) -> None:
        if self.size == 4:  # These are few, and are read where they stand.
            raw = np.empty((len(self.ats), len(frames)), self.unsigned)
            for place, at in enumerate(self.ats):
                raw[place] = frames[:, at : at + 4].view(_BIG_ENDIAN_DWORD)[:, 0]
        else:
            raw = gathered.take(self.octets[0], axis=0)
            if self.size == 2:
                raw = raw.astype(self.unsigned)
                raw <<= 8
                raw |= gathered.take(self.octets[1], axis=0)
        real = self.real
        if real < len(raw):
            values.update(zip(self.names[real:], raw[real:], strict=True))
            raw = raw[:real]
            if not real:
                return
        out = raw.astype(self.dtype)
        if self.with_offset is not None:
            part = out[self.with_offset]  # In two steps, so that the result is not copied onto itself.
            part -= self.offsets[self.with_offset]
        if self.with_divisor is not None:
            part = out[self.with_divisor]
            part /= self.divisors[self.with_divisor]
        if raw.size and raw.max() > self.lowest_limit:
            for place in np.flatnonzero(raw.max(axis=1) > self.limits).tolist():
                missing = raw[place] > self.limits[place]
                out[place, missing] = np.nan
                marks[self.names[place]] = _marks_of(raw[place], missing, self.rows[place])
        values.update(zip(self.names, out, strict=False))

    def encode(self, gathered: Array, values: Mapping[str, Array], marks: Mapping[str, Array], strict: bool) -> None:
        count = gathered.shape[1]
        columns = [values[name] for name in self.names]
        for name, column in zip(self.names, columns, strict=True):
            if column.shape != (count,):
                raise _wrong_shape(name, (count,), column)
        # A float32 has room for a WORD times any divisor of the tables; anything else is computed in float64.
        is_narrow = all(column.dtype in (self.dtype, self.unsigned) for column in columns)
        out = np.array(columns, self.dtype if is_narrow else np.float64)
        if self.has_divisor:
            out *= self.divisors
        np.rint(out, out=out)
        if self.has_offset:
            out += self.offsets
        low, high = self.bounds[strict]
        is_good = not count or bool((out.min(axis=1) >= low).all() and (out.max(axis=1) <= high).all())
        if not is_good or not marks.keys().isdisjoint(self.names):
            self._mark(out, columns, marks, strict)
        raw = out.astype(self.unsigned, copy=False)
        for octet in reversed(self.octets):
            gathered[octet] = raw  # Its lowest eight bits.
            if self.size > 1:
                raw = raw >> 8

    def _mark(self, out: Array, columns: list[Array], marks: Mapping[str, Array], strict: bool) -> None:
        """Put the sentinels where they belong, and refuse what does not fit."""
        low, high = self.bounds[strict]
        for place, (name, row) in enumerate(zip(self.names, self.rows, strict=True)):
            line = out[place]
            bad = ~((line >= low[place]) & (line <= high[place]))  # Written so that NaN is bad.
            mark = _marks_in(name, marks, columns[place], row)
            if mark is not None:
                line[mark != 0] = row.raw_limit + mark[mark != 0].astype(np.int64)
                bad &= mark == 0
            _refuse(name, row, columns[place], bad, strict)


def _marks_of(raw: Array, missing: Array, row: Field) -> Array:
    """0 a value, 1 abnormal, 2 invalid: how far a raw number is above the highest that is a value."""
    return np.where(missing, raw - _UNSIGNED[row.size_bytes].type(row.raw_limit), 0).astype(np.uint8)


def _marks_in(name: str, marks: Mapping[str, Array], column: Array, row: Field) -> Array | None:
    """The marks of one column, checked."""
    mark = marks.get(name)
    if mark is None:
        return None
    if mark.shape != column.shape or mark.dtype.kind not in "ui":
        raise _wrong_shape(f"marks of {name}", column.shape, mark)
    if bool(((mark < 0) | (mark > MARK_INVALID)).any()) or (not row.sentinels and bool(mark.any())):
        msg = f"marks of {name}: expected {'0, 1 or 2' if row.sentinels else 'none, the wire has no sentinel here'}"
        raise LocalProtocolError(msg + f", got {int(mark.max())}")
    return mark


def _refuse(name: str, row: Field, column: Array, bad: Array, strict: bool) -> None:
    """Say which value does not fit, if one does not."""
    if not bad.any():
        return
    place = tuple(int(part) for part in np.argwhere(bad)[0])
    low, high = (row.raw_min, row.raw_max) if strict else (0, row.raw_limit)
    unit = f" {row.unit}" if row.unit else ""
    expected = f"{(low - row.raw_offset) / row.divisor:g} to {(high - row.raw_offset) / row.divisor:g}{unit}"
    or_else = " or a mark" if row.sentinels else ""
    msg = f"{name}: expected {expected}{or_else}, got {column[place]} (row {', '.join(map(str, place))} of the group)"
    raise LocalProtocolError(msg)


def _wrong_shape(name: str, shape: tuple[int, ...], column: Array) -> LocalProtocolError:
    return LocalProtocolError(f"{name}: expected an array of shape {shape}, got {column.dtype} of {column.shape}")


class _List:
    """One list of numbers: a slice of every frame."""

    def __init__(self, slot: _Slot) -> None:
        assert slot.count is not None
        self.name, self.row, self.count = slot.name, slot.row, slot.count
        self.columns = slice(slot.at, slot.at + slot.count * slot.row.size_bytes)
        self.unsigned = _UNSIGNED[slot.row.size_bytes]
        self.big_endian = self.unsigned.newbyteorder(">")
        self.is_integer = slot.is_integer
        # More than 24 bits would not survive in a float32.
        self.dtype: Any = np.float64 if slot.row.size_bytes == 4 else np.float32

    def decode(self, frames: Array, values: dict[str, Array], marks: dict[str, Array]) -> None:
        wire = frames[:, self.columns].view(self.big_endian)
        if self.is_integer:
            values[self.name] = wire.astype(self.unsigned)
            return
        if self.row.size_bytes > 1:
            wire = wire.astype(
                self.unsigned
            )  # Byte order first, then float: each of the two is vectorised, both at once not.
        out = wire.astype(self.dtype)
        scanned = wire if self.row.size_bytes > 1 else out  # The one that is in one piece, and narrow.
        is_missing = self.row.sentinels and out.size and scanned.max() > self.row.raw_limit
        if self.row.raw_offset:
            out -= self.dtype(self.row.raw_offset)
        if self.row.divisor != 1:
            out /= self.dtype(self.row.divisor)
        if is_missing:
            missing = wire > self.row.raw_limit
            out[missing] = np.nan
            marks[self.name] = _marks_of(wire, missing, self.row)
        values[self.name] = out

    def encode(self, frames: Array, values: Mapping[str, Array], marks: Mapping[str, Array], strict: bool) -> None:
        column, row = values[self.name], self.row
        if column.shape != (len(frames), self.count):
            raise _wrong_shape(self.name, (len(frames), self.count), column)
        out = column
        if not self.is_integer or column.dtype != self.unsigned:
            # float32 has room for a WORD times any divisor of the tables, and is twice as fast.
            out = np.rint(np.multiply(column, row.divisor, dtype=column.dtype if column.dtype == self.dtype else float))
            if row.raw_offset:
                out += row.raw_offset
        low, high = (row.raw_min, row.raw_max) if strict else (0, row.raw_limit)
        mark = _marks_in(self.name, marks, column, row)
        if mark is not None or (out.size and not (out.min() >= low and out.max() <= high)):
            bad = ~((out >= low) & (out <= high))
            if mark is not None:
                out[mark != 0] = row.raw_limit + mark[mark != 0].astype(np.int64)
                bad &= mark == 0
            _refuse(self.name, row, column, bad, strict)
        frames[:, self.columns].view(self.big_endian)[...] = out


class _Plan:
    """Where everything stands in the frames of one layout."""

    def __init__(self, data: bytes) -> None:
        walk = _Walk(data)
        self.edition = Edition(data[:2])
        self.size = len(data)
        self.skeleton = _skeleton(data, walk.fixed)
        self.names = tuple(slot.name for slot in walk.slots)
        self.positions = tuple(walk.positions)
        self.lists = [_List(slot) for slot in walk.slots if slot.count is not None]
        singles = [slot for slot in walk.slots if slot.count is None]
        places = {place for slot in singles for place in range(slot.at, slot.at + slot.row.size_bytes)}
        self.runs = _runs({*walk.fixed, 2, *range(_TIME.start, _TIME.stop), *places})
        firsts = [place for run in self.runs for place in range(run.start, run.stop, 2)]
        self.pairs = len(firsts)
        self.row_of = {place: row for row, place in enumerate(firsts)}
        self.row_of.update({place + 1: row + self.pairs for row, place in enumerate(firsts)})
        # Rows of the gather.
        self.fixed = np.array([self.row_of[place] for place in walk.fixed], np.intp)
        self.expected = np.array([[data[place]] for place in walk.fixed], np.uint8)
        self.command = self.row_of[2]
        self.time = np.array([self.row_of[place] for place in range(_TIME.start, _TIME.stop)], np.intp)
        self.filling = np.frombuffer(
            bytes(self.skeleton[place] for place in sorted(self.row_of, key=self.row_of.__getitem__)), np.uint8
        )[:, None]
        self.scalars = []
        for size in (4, 2, 1):
            slots = [slot for slot in singles if slot.row.size_bytes == size]
            if slots:
                self.scalars.append(_Scalars(slots, size, self.row_of))
        self._pick = itemgetter(*walk.fixed)
        self._picked = self._pick(data)

    def is_layout_of(self, data: bytes) -> bool:
        """Whether one frame of this plan's size is laid out like this."""
        return bool(self._pick(data) == self._picked)

    def gather(self, frames: Array) -> Array:
        """Every byte that is no part of a list, a row for each place and a column for each frame.

        Two bytes at a time are turned, then parted: turning costs by the element, parting is vectorised.
        """
        pairs = np.empty((self.pairs, len(frames)), _PAIR)
        for begin in range(0, len(frames), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            row = 0
            for run in self.runs:
                stop = row + (run.stop - run.start) // 2
                pairs[row:stop, block] = frames[block, run].view(_PAIR).T
                row = stop
        out = np.empty((len(self.row_of), len(frames)), np.uint8)
        out[: self.pairs] = pairs  # The lower eight bits.
        pairs >>= 8
        out[self.pairs :] = pairs
        return out

    def scatter(self, gathered: Array, frames: Array) -> None:
        """The inverse of `gather`."""
        pairs = gathered[self.pairs :].astype(_PAIR)
        pairs <<= 8
        pairs |= gathered[: self.pairs]
        for begin in range(0, len(frames), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            row = 0
            for run in self.runs:
                stop = row + (run.stop - run.start) // 2
                frames[block, run].view(_PAIR)[...] = pairs[row:stop, block].T
                row = stop

    def matches(self, gathered: Array) -> Array | None:
        """Which of the frames, as `gather` gives them, are laid out like this; None if all are."""
        equal = gathered.take(self.fixed, axis=0) == self.expected
        return None if equal.all() else equal.all(axis=0)

    def decode(self, frames: Array, gathered: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        values: dict[str, Array] = {}
        marks: dict[str, Array] = {}
        for scalars in self.scalars:
            scalars.decode(frames, gathered, values, marks)
        for item in self.lists:
            item.decode(frames, values, marks)
        for name in self.positions:
            _sign_position(name, values, marks)
        return values, marks

    def encode(self, group: FrameGroup, strict: bool) -> Array:
        values: Mapping[str, Array] = group.values
        for name in self.positions:
            values = _unsigned_position(name, values, group.marks)
        missing = [name for name in self.names if name not in values]
        unknown = sorted((values.keys() | group.marks.keys()).difference(self.names))
        if missing or unknown:
            received = f"no {missing[0]!r}" if missing else f"{unknown[0]!r}"
            msg = f"columns: expected those of the layout, {len(self.names)} in number, got {received}"
            raise LocalProtocolError(msg)
        count = len(group)
        gathered = np.empty((len(self.row_of), count), np.uint8)
        gathered[...] = self.filling
        for scalars in self.scalars:
            scalars.encode(gathered, values, group.marks, strict)
        vin = _check_header(group)
        gathered[self.command] = group.command
        gathered[self.time] = _bytes_of_times(group.time)
        frames = np.empty((count, self.size), np.uint8)
        self.scatter(gathered, frames)
        frames[:, _VIN] = vin
        for item in self.lists:
            item.encode(frames, values, group.marks, strict)
        frames[:, -1] = 0
        frames[:, -1] = _xor_of_rows(frames)  # The two start bytes cancel each other.
        return frames


_PAIR: Final = np.dtype("<u2")
_BLOCK: Final = 500
"""Frames that are turned at a time. A thousand columns of one byte each are in as many cache lines, which the cache does not
hold; half of them takes half as long."""
_GAP_MAX: Final = 4
"""Bytes of a list that are rather copied too than that a new run is begun."""


def _runs(places: set[int]) -> list[slice]:
    """Cover *places* with few slices of whole pairs. What is behind the last place, the check byte, may be in one."""
    runs: list[slice] = []
    for place in sorted(places):
        if runs and place - runs[-1].stop <= _GAP_MAX:
            runs[-1] = slice(runs[-1].start, place + 1)
        else:
            runs.append(slice(place, place + 1))
    return [slice(run.start & ~1, (run.stop + 1) & ~1) for run in runs]


def _xor_of_rows(frames: Array) -> Array:
    """The XOR of all bytes of each row: as `bitwise_xor.reduce(axis=1)`, which takes three times as long."""
    found: Array = np.bitwise_xor.reduceat(frames.ravel(), np.arange(0, frames.size, frames.shape[1]))
    return found


def _skeleton(data: bytes, fixed: list[int]) -> bytes:
    kept = bytearray(len(data))
    for place in fixed:
        kept[place] = data[place]
    return bytes(kept)


_PLANS_MAX: Final = 256
"""Plans that are kept, some 10 kB each. A fleet has a layout per model and state; beyond this all are forgotten and made again."""

_plans: dict[int, list[_Plan]] = {}
"""By frame size, the latest first."""
_plans_by_skeleton: dict[bytes, _Plan] = {}


def _plan_for(data: bytes) -> _Plan:
    """Return the plan for a frame, made if need be.

    Raises:
        _Unplannable: such frames have no columns.
    """
    for plan in _plans.get(len(data), ()):
        if plan.is_layout_of(data):
            return plan
    return _plan_of(data)


def _plan_of(data: bytes) -> _Plan:
    """Make the plan for frames like *data*, or find it.

    Raises:
        _Unplannable: such frames have no columns.
    """
    found = _plans_by_skeleton.get(data)
    if found is None:
        plan = _Plan(data)
        found = _plans_by_skeleton.get(plan.skeleton)
        if found is None:
            if len(_plans_by_skeleton) >= _PLANS_MAX:
                _plans.clear()
                _plans_by_skeleton.clear()
            found = _plans_by_skeleton[plan.skeleton] = plan
            _plans.setdefault(plan.size, []).insert(0, plan)
    return found


# --- positions: the hemisphere bits are the signs ----------------------------------------------------------------------


def _sign_position(name: str, values: dict[str, Array], marks: Mapping[str, Array]) -> None:
    """As `_tables` does it for one frame."""
    rest = values.pop(f"{name}.status")
    if not rest.any():  # North, east, valid.
        values[f"{name}.valid"] = np.ones(len(rest), np.bool_)
        values[f"{name}.status_bits"] = rest
        return
    values[f"{name}.valid"] = (rest & 1) == 0
    rest = rest & np.uint8(0xFE)
    for axis, bit in _DEGREES.items():
        column, mark = values[f"{name}.{axis}"], marks.get(f"{name}.{axis}")
        negative = (rest & bit) != 0
        if mark is not None:
            negative &= mark == 0
        np.negative(column, out=column, where=negative)
        rest[negative] &= np.uint8(0xFF ^ bit)
    values[f"{name}.status_bits"] = rest


def _unsigned_position(name: str, values: Mapping[str, Array], marks: Mapping[str, Array]) -> dict[str, Array]:
    """The inverse of `_sign_position`."""
    changed = dict(values)
    try:
        valid, rest = changed.pop(f"{name}.valid"), changed.pop(f"{name}.status_bits")
        columns = {axis: changed[f"{name}.{axis}"] for axis in _DEGREES}
    except KeyError as error:
        msg = f"columns: expected those of the layout, got no {error.args[0]!r}"
        raise LocalProtocolError(msg) from None
    status = np.where(valid, 0, 1)
    allowed = np.full(len(status), 0xF8)
    for axis, bit in _DEGREES.items():
        column, mark = columns[axis], marks.get(f"{name}.{axis}")
        negative = np.signbit(column)
        if mark is not None:
            negative &= mark == 0
            allowed[mark != 0] |= bit
        if negative.any():
            status[negative] |= bit
            changed[f"{name}.{axis}"] = np.where(negative, -column, column)
    rest = rest.astype(np.int64)
    if bool((rest & ~allowed).any()):
        msg = f"{name}.status_bits: expected only reserved bits and those of missing degrees, got {int(rest.max()):#x}"
        raise LocalProtocolError(msg)
    changed[f"{name}.status"] = status | rest
    return changed


# --- header ------------------------------------------------------------------------------------------------------------


def _month_tables() -> tuple[Array, Array]:
    """By year and month byte: the UTC second at which the month begins in Beijing, and its number of days (0: no month)."""
    starts, days = np.zeros(0x10000), np.zeros(0x10000, np.uint8)  # A century of seconds is exact in float64.
    edges = np.arange("2000-01", "2100-02", dtype="datetime64[M]").astype("datetime64[s]").astype(np.int64)
    codes = (np.arange(100)[:, None] * 256 + np.arange(1, 13)).ravel()
    offset = BEIJING.utcoffset(None)
    assert offset is not None
    # One day less, because days count from 1.
    starts[codes] = edges[:-1] - int(offset.total_seconds()) - 86400
    days[codes] = np.diff(edges) // 86400
    return starts, days


_STARTS, _DAYS = _month_tables()
_CLOCK_LIMITS: Final = np.array([23, 59, 59], np.uint8)
_SECONDS: Final = np.array([86400.0, 3600.0, 60.0, 1.0])
"""Of a day, an hour, a minute, a second."""


def _times_of(raw: Array) -> tuple[Array, Array]:
    """Seconds since the epoch (UTC), and which of them are real, of six rows of bytes."""
    month = raw[0].astype(np.intp)
    month <<= 8
    month |= raw[1]
    days = raw[2] - np.uint8(1)  # Day 0 becomes 255, which no month has.
    is_real: Array = days < _DAYS.take(month)
    clock = raw[3:]
    if (clock.max(axis=1) > _CLOCK_LIMITS).any():
        is_real &= (clock <= _CLOCK_LIMITS[:, None]).all(axis=0)
    seconds = _SECONDS @ raw[2:].astype(np.float64)
    seconds += _STARTS.take(month)
    return seconds.astype(np.int64), is_real


def _are_identifiers(raw: Array) -> Array:
    """Which identifiers are visible ASCII, followed by nothing but zero bytes. `decode` judges the rest."""
    visible = (raw > 0x20) & (raw < 0x7F)
    found: Array = (visible | (raw == 0)).all(axis=1) & (visible[:, 1:] <= visible[:, :-1]).all(axis=1)
    return found


def _check_header(group: FrameGroup) -> Array:
    """Check what stands before the bodies, and return the identifiers as numbers."""
    count = len(group)
    for name in ("command", "vin", "time"):
        column = getattr(group, name)
        if column.shape != (count,):
            raise _wrong_shape(name, (count,), column)
    command = group.command
    if not bool(((command == _REPORTS[0]) | (command == _REPORTS[1])).all()):
        msg = f"command: expected 2 or 3 in every row, got {sorted(set(command.tolist()))}"
        raise LocalProtocolError(msg)
    if group.vin.dtype.kind != "U" or group.vin.dtype.itemsize > 4 * _VIN_SIZE:
        msg = f"vin: expected an array of str of up to 17 characters, got {group.vin.dtype}"
        raise LocalProtocolError(msg)
    letters = np.ascontiguousarray(group.vin, f"=U{_VIN_SIZE}").view(np.uint32).reshape(count, _VIN_SIZE)
    if count and not (letters.max() < 0x7F and letters.min() > 0x20):
        fit = _are_identifiers(letters)
        if not fit.all():
            msg = f"vin: expected visible ASCII, got {str(group.vin[int(np.argmin(fit))])!r}"
            raise LocalProtocolError(msg)
    return letters


_YEAR_2000: Final = np.datetime64("2000-01-01", "s").astype(np.int64)
_YEAR_2100: Final = np.datetime64("2100-01-01", "s").astype(np.int64)


def _dates() -> Array:
    """Year, month and day byte of each day of the century."""
    days = np.arange("2000-01-01", "2100-01-01", dtype="datetime64[D]")
    months, years = days.astype("datetime64[M]"), days.astype("datetime64[Y]")
    parts = (years - years[0], months - years.astype("datetime64[M]"), days - months.astype("datetime64[D]"))
    table = np.array([part.astype(np.int64) for part in parts]).astype(np.uint8)
    table[1:] += 1
    return table


_DATES: Final = _dates()


def _bytes_of_times(times: Array) -> Array:
    """The six rows of bytes that name *times*."""
    if times.dtype.kind != "M":
        msg = f"time: expected datetime64 (UTC), got {times.dtype}"
        raise LocalProtocolError(msg)
    since = times.astype("datetime64[s]").astype(np.int64) + (28800 - _YEAR_2000)
    # NaT is the lowest number there is.
    if len(since) and not (since.min() >= 0 and since.max() < _YEAR_2100 - _YEAR_2000):
        bad = np.flatnonzero((since < 0) | (since >= _YEAR_2100 - _YEAR_2000))[0]
        msg = f"time: expected a year from 2000 to 2099 in Beijing, got {times[bad]} (row {bad} of the group)"
        raise LocalProtocolError(msg)
    rest = since.astype(np.uint32)  # A century has fewer seconds.
    out = np.empty((6, len(rest)), np.uint8)
    days = rest // 86400
    out[:3] = _DATES[:, days]
    rest -= days * 86400
    out[3] = hours = rest // 3600
    rest -= hours * 3600
    out[4] = minutes = rest // 60
    out[5] = rest - minutes * 60
    return out


# --- the batch -----------------------------------------------------------------------------------------------------------

_GROUPS_BY_MATCHING_MAX: Final = 16
"""Layouts of one frame size that are looked for in the whole matrix. A batch in which every frame is laid out differently would
otherwise be searched as often as it has frames; beyond this each frame is walked by itself."""


def decode_batch(frames: Sequence[bytes] | bytes | bytearray | memoryview, offsets: Any = None) -> FrameColumns:
    """Decode whole frames, each as `decode` would, into columns.

    Args:
        frames: a sequence of frames, or bytes in which the frames stand one behind the other. Who has them in one buffer
            anyway should give that: frames of one size are then copied nowhere before they are decoded.
        offsets: for bytes: where each frame begins, and as the last number where the last one ends (so n + 1 for n frames).

    Raises:
        LocalProtocolError: *offsets* are missing or do not fit. What is wrong with a frame is in `FrameColumns.errors`.
    """
    if isinstance(frames, (bytes, bytearray, memoryview)):
        joined = bytes(frames)
        starts, sizes = _spans(len(joined), offsets)
        size = int(sizes[0]) if len(sizes) else 0
        if not len(sizes) or starts[0] or not (sizes == size).all():
            whole = _Batch(joined, starts, sizes)
        else:
            whole = _Batch(joined, None, None, len(sizes), size)
    else:
        if offsets is not None:
            msg = "offsets: expected none with a sequence of frames, got some"
            raise LocalProtocolError(msg)
        joined = b"".join(frames)
        count = len(frames)
        longest = max(map(len, frames), default=0)
        if longest * count == len(joined):  # Then none is shorter.
            whole = _Batch(joined, None, None, count, longest)
        else:
            sizes = np.fromiter(map(len, frames), np.int64, count)
            whole = _Batch(joined, np.cumsum(sizes) - sizes, sizes)
    return whole.columns()


def _spans(size: int, offsets: Any) -> tuple[Array, Array]:
    try:
        edges = np.asarray(() if offsets is None else offsets, np.int64)
    except (TypeError, ValueError, OverflowError):
        edges = np.empty(0, np.int64)
    sizes = edges[1:] - edges[:-1] if edges.ndim == 1 else edges
    if edges.ndim != 1 or not len(edges) or edges[0] < 0 or edges[-1] > size or (len(sizes) and sizes.min() < 0):
        msg = f"offsets: expected rising places in {size} bytes, one more than there are frames, got {offsets!r:.60}"
        raise LocalProtocolError(msg)
    return edges[:-1], sizes


class _Batch:
    """One call of `decode_batch`."""

    def __init__(self, joined: bytes, starts: Array | None, sizes: Array | None, count: int = 0, size: int = 0) -> None:
        self.joined = joined
        self.starts, self.sizes = starts, sizes
        self.count, self.size = count, size
        self.groups: list[FrameGroup] = []
        self.slow: list[int] = []

    def frame(self, index: int) -> bytes:
        if self.starts is None or self.sizes is None:
            return self.joined[index * self.size : (index + 1) * self.size]
        start = int(self.starts[index])
        return self.joined[start : start + int(self.sizes[index])]

    def matrices(self) -> Iterator[tuple[Array, Array]]:
        """The frames of each size: their places, and their bytes, one row a frame."""
        octets = np.frombuffer(self.joined, np.uint8)
        if self.starts is None or self.sizes is None:
            if self.count:
                yield np.arange(self.count), octets[: self.count * self.size].reshape(self.count, self.size)
            return
        for size in np.unique(self.sizes):
            index = np.flatnonzero(self.sizes == size)
            starts = self.starts[index]
            first, stop = int(starts[0]), int(starts[-1]) + int(size)
            if size and stop - first == len(index) * size:  # One behind the other.
                yield index, octets[first:stop].reshape(len(index), size)
            else:
                yield index, octets[starts[:, None] + np.arange(size)]

    def columns(self) -> FrameColumns:
        for index, frames in self.matrices():
            if frames.shape[1] <= _BODIES_AT or frames.shape[1] > FRAME_SIZE_BYTES_MAX:
                self.slow.extend(index.tolist())
            else:
                self.one_size(index, frames)
        others: list[tuple[int, Frame]] = []
        errors: list[tuple[int, FrameError]] = []
        for place in sorted(self.slow):
            try:
                others.append((place, decode(self.frame(place))))
            except FrameError as error:
                errors.append((place, error))
        self.groups.sort(key=lambda group: int(group.index[0]))
        return FrameColumns(groups=tuple(self.groups), others=tuple(others), errors=tuple(errors))

    def keep(self, index: Array, frames: Array, fit: Array) -> tuple[Array, Array]:
        """Go on with the rows that are *fit*; `decode` shall look at the others."""
        if fit.all():
            return index, frames
        self.slow.extend(index[~fit].tolist())
        return index[fit], frames[fit]

    def one_size(self, index: Array, frames: Array) -> None:
        """Group frames of one size: the first that is left leads, all that are laid out like it follow."""
        # Over everything, check byte included, the XOR is zero if it is right: the two start bytes cancel each other.
        wrong = _xor_of_rows(frames)
        if wrong.any():
            index, frames = self.keep(index, frames, wrong == 0)
        tried = 0
        while len(index) and tried < _GROUPS_BY_MATCHING_MAX:
            leader = frames[0].tobytes()
            try:
                plan = _plan_for(leader)
            except _Unplannable:
                self.slow.append(int(index[0]))
                index, frames = index[1:], frames[1:]
                continue
            index, frames = self.take(plan, index, frames)
            tried += 1
        self.one_by_one(index, frames)

    def one_by_one(self, index: Array, frames: Array) -> None:
        """Group what is left by its skeleton."""
        found: dict[bytes, list[int]] = {}
        for row in range(len(index)):
            data = frames[row].tobytes()
            try:
                found.setdefault(_skeleton(data, _Walk(data).fixed), []).append(row)
            except _Unplannable:
                self.slow.append(int(index[row]))
        for skeleton, rows in found.items():
            self.take(_plan_of(skeleton), index[rows], frames[rows])

    def take(self, plan: _Plan, index: Array, frames: Array) -> tuple[Array, Array]:
        """Make a group of the rows that *plan* fits, and return the others."""
        gathered = plan.gather(frames)
        match = plan.matches(gathered)
        if match is None:
            self.group(plan, index, frames, gathered)
            return index[:0], frames[:0]
        self.group(plan, index[match], frames[match], gathered[:, match])
        return index[~match], frames[~match]

    def group(self, plan: _Plan, index: Array, frames: Array, gathered: Array) -> None:
        command = gathered[plan.command]
        letters = frames[:, _VIN].astype(np.uint32)
        seconds, fit = _times_of(gathered.take(plan.time, axis=0))
        fit &= (command == _REPORTS[0]) | (command == _REPORTS[1])
        if not (letters.max() < 0x7F and letters.min() > 0x20):
            fit &= _are_identifiers(letters)
        if not fit.all():
            seconds, letters, gathered, command = seconds[fit], letters[fit], gathered[:, fit], command[fit]
            index, frames = self.keep(index, frames, fit)
            if not len(index):
                return
        values, marks = plan.decode(frames, gathered)
        self.groups.append(
            FrameGroup(
                edition=plan.edition,
                skeleton=plan.skeleton,
                index=index,
                command=command.copy(),
                vin=letters.view(f"=U{_VIN_SIZE}")[:, 0],
                time=seconds.view("datetime64[s]"),
                values=values,
                marks=marks,
            )
        )


def encode_batch(columns: FrameColumns, *, strict: bool = False) -> list[bytes]:
    """Encode all groups and other frames of *columns*, in the order of their places in the batch.

    Places need not be without gaps: frames that were in `errors` are not here any more.

    Raises:
        LocalProtocolError: a column is missing or too many, has another shape, or holds a value that the wire cannot carry
            (*strict*: that the text does not allow). The message names column and row.
    """
    found: list[tuple[Array, list[bytes]]] = []
    for group in columns.groups:
        try:
            plan = _plan_of(group.skeleton)
        except _Unplannable:
            msg = f"skeleton: expected a report that has columns, got {group.skeleton[:40].hex(' ')}"
            raise LocalProtocolError(msg) from None
        found.append((group.index, plan.encode(group, strict).view(f"V{plan.size}")[:, 0].tolist()))
    if columns.others:
        others = [encode(frame, strict=strict) for _, frame in columns.others]
        found.append((np.array([index for index, _ in columns.others], np.int64), others))
    if not found:
        return []
    index = np.concatenate([part[0] for part in found])
    frames = [frame for part in found for frame in part[1]] if len(found) > 1 else found[0][1]
    if bool((index[1:] > index[:-1]).all()):
        return frames
    return [frames[place] for place in np.argsort(index, kind="stable")]
