"""Single numbers and lists of numbers as arrays, and the hemisphere bits of positions as signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._columns.values import MARK_INVALID
from bmsota.gbt32960._walk import DEGREES, Slot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bmsota.gbt32960._fields import Field

    Array = NDArray[Any]


_BIG_ENDIAN_DWORD: Final = np.dtype(">u4")
UNSIGNED: Final[dict[int, np.dtype[Any]]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}


def highest(raw: Array) -> Any:
    """As the method `max`, which is written in Python."""
    return np.maximum.reduce(raw, axis=None)


def lowest(raw: Array) -> Any:
    """As the method `min`, which is written in Python."""
    return np.minimum.reduce(raw, axis=None)


class _Reals:
    """Numbers that are no plain integers: those that have an offset or a unit step should be neighbours.

    Each of the two operations is done from the first that needs it to the last, because it changes nothing in those that do not.
    """

    def __init__(self, slots: list[Slot], dtype: Any) -> None:
        self.names = tuple(slot.name for slot in slots)
        self.rows = tuple(slot.row for slot in slots)
        self.dtype = dtype
        self.limits = [slot.row.raw_limit for slot in slots]
        offsets = np.array([[slot.row.raw_offset] for slot in slots], dtype)
        divisors = np.array([[slot.row.divisor] for slot in slots], dtype)
        self.with_offset = _reach_of(offsets != 0)
        self.with_divisor = _reach_of(divisors != 1)
        self.offsets, self.divisors = offsets[self.with_offset], divisors[self.with_divisor]

    def decode(self, raw: Array, values: dict[str, Array]) -> Array:
        """Put the columns of *raw*, one row a number, into *values*; and return them."""
        out = raw.astype(self.dtype)
        if len(self.offsets):
            part = out[self.with_offset]  # In two steps, so that the result is not copied onto itself.
            part -= self.offsets
        if len(self.divisors):
            part = out[self.with_divisor]
            part /= self.divisors
        values.update(zip(self.names, out, strict=True))
        return out

    def mark(self, raw: Array, out: Array, marks: dict[str, Array], rows: range) -> None:
        """Mark what is missing in *rows*."""
        for place in rows:
            row = self.rows[place]
            missing = raw[place] > self.limits[place]
            if missing.any():
                out[place, missing] = np.nan
                marks[self.names[place]] = marks_of(raw[place].astype(UNSIGNED[row.size_bytes]), missing, row)


def _reach_of(needed: Array) -> slice:
    """From the first that is needed to the last."""
    places = np.flatnonzero(needed)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


class Wide:
    """The single numbers of four bytes. These are few, and are read where they stand."""

    def __init__(self, slots: list[Slot], size: int) -> None:
        slots = sorted(slots, key=lambda slot: (slot.is_integer, slot.row.divisor == 1))
        real = [slot for slot in slots if not slot.is_integer]
        self.fields = [f"f{place}" for place in range(len(slots))]
        self.record = np.dtype(
            {
                "names": self.fields,
                "formats": [_BIG_ENDIAN_DWORD] * len(slots),
                "offsets": [slot.at for slot in slots],
                "itemsize": size,
            }
        )
        self.integers = tuple(slot.name for slot in slots[len(real) :])
        self.reals = _Reals(real, np.float64)
        self.limit = min(self.reals.limits, default=0)

    def decode(self, frames: Array, _gathered: Array, values: dict[str, Array], marks: dict[str, Array]) -> None:
        raw = np.empty((len(self.fields), len(frames)), np.uint32)
        records = frames.view(self.record)[:, 0]
        for place, name in enumerate(self.fields):
            raw[place] = records[name]
        real = len(self.reals.names)
        values.update(zip(self.integers, raw[real:], strict=True))
        if real:
            raw = raw[:real]
            out = self.reals.decode(raw, values)
            if raw.size and highest(raw) > self.limit:
                self.reals.mark(raw, out, marks, range(real))


class Narrow:
    """The single numbers of one and of two bytes: all in words, so that one operation does for both."""

    def __init__(self, slots: list[Slot], row_of: Mapping[int, int]) -> None:
        def needs(slot: Slot) -> tuple[bool, bool]:
            return slot.row.raw_offset != 0, slot.row.divisor != 1

        # What needs an operation stands in the middle: plain octets, octets, words, plain words, then words that are integers.
        octets = sorted((slot for slot in slots if slot.row.size_bytes == 1 and not slot.is_integer), key=needs)
        words = sorted((slot for slot in slots if slot.row.size_bytes == 2 and not slot.is_integer), key=needs)[::-1]
        integers = [slot for slot in slots if slot.row.size_bytes == 2 and slot.is_integer]
        self.octets, self.real = len(octets), len(octets) + len(words)
        self.low = np.array(
            [row_of[slot.at + slot.row.size_bytes - 1] for slot in (*octets, *words, *integers)], np.intp
        )
        self.high = np.array([row_of[slot.at] for slot in (*words, *integers)], np.intp)
        self.reals = _Reals([*octets, *words], np.float32)
        self.octet_limit = min(self.reals.limits[: self.octets], default=0)
        self.word_limit = min(self.reals.limits[self.octets :], default=0)
        self.integers = tuple(slot.name for slot in integers)
        self.bare = [(slot.name, row_of[slot.at]) for slot in slots if slot.row.size_bytes == 1 and slot.is_integer]

    def decode(self, _frames: Array, gathered: Array, values: dict[str, Array], marks: dict[str, Array]) -> None:
        raw = gathered.take(self.low, axis=0).astype(np.uint16)
        octets, real = self.octets, self.real
        if len(self.high):
            high = gathered.take(self.high, axis=0).astype(np.uint16)
            high <<= 8
            part = raw[octets:]
            part |= high
        for name, row in self.bare:
            values[name] = gathered[row]
        values.update(zip(self.integers, raw[real:], strict=True))
        if not real:
            return
        out = self.reals.decode(raw[:real], values)
        if not raw.shape[1]:
            return
        if octets and highest(raw[:octets]) > self.octet_limit:
            self.reals.mark(raw, out, marks, range(octets))
        if real > octets and highest(raw[octets:real]) > self.word_limit:
            self.reals.mark(raw, out, marks, range(octets, real))


class Scalars:
    """The single numbers of one size, to be encoded."""

    def __init__(self, slots: list[Slot], size: int, row_of: Mapping[int, int]) -> None:
        self.names = tuple(slot.name for slot in slots)
        self.rows = tuple(slot.row for slot in slots)
        self.size = size
        # Rows of the gather: the highest bytes of all numbers, then the next, ...
        self.octets = [np.array([row_of[slot.at + octet] for slot in slots], np.intp) for octet in range(size)]
        self.unsigned = UNSIGNED[size]
        self.dtype: Any = np.float64 if size == 4 else np.float32
        self.offsets = np.array([[slot.row.raw_offset] for slot in slots], self.dtype)
        self.divisors = np.array([[slot.row.divisor] for slot in slots], self.dtype)
        self.has_offset = bool(self.offsets.any())
        self.has_divisor = bool((self.divisors != 1).any())
        self.bounds = {
            strict: (
                np.array([row.raw_min if strict else 0 for row in self.rows], np.float64),
                np.array([row.raw_max if strict else row.raw_limit for row in self.rows], np.float64),
            )
            for strict in (False, True)
        }

    def encode(self, gathered: Array, values: Mapping[str, Array], marks: Mapping[str, Array], strict: bool) -> None:
        count = gathered.shape[1]
        columns = [values[name] for name in self.names]
        for name, column in zip(self.names, columns, strict=True):
            if column.shape != (count,):
                raise wrong_shape(name, (count,), column)
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
        self._put(gathered, raw)

    def encode_raw(self, gathered: Array, values: Mapping[str, Array], strict: bool) -> None:
        """As `encode`, of the numbers that the wire carries."""
        raw = np.empty((len(self.names), gathered.shape[1]), self.unsigned)
        for place, (name, row) in enumerate(zip(self.names, self.rows, strict=True)):
            column = values[name]
            if column.shape != raw.shape[1:]:
                raise wrong_shape(name, raw.shape[1:], column)
            check_raw(name, row, column, strict)
            raw[place] = column
        self._put(gathered, raw)

    def _put(self, gathered: Array, raw: Array) -> None:
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


def marks_of(raw: Array, missing: Array, row: Field) -> Array:
    """0 a value, 1 abnormal, 2 invalid: how far a raw number is above the highest that is a value."""
    return np.where(missing, raw - UNSIGNED[row.size_bytes].type(row.raw_limit), 0).astype(np.uint8)


def _marks_in(name: str, marks: Mapping[str, Array], column: Array, row: Field) -> Array | None:
    """The marks of one column, checked."""
    mark = marks.get(name)
    if mark is None:
        return None
    if mark.shape != column.shape or mark.dtype.kind not in "ui":
        raise wrong_shape(f"marks of {name}", column.shape, mark)
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


def check_raw(name: str, row: Field, column: Array, strict: bool) -> None:
    """Refuse numbers that the wire cannot carry; *strict*: that the text does not allow."""
    if column.dtype.kind not in "ui":
        msg = f"{name}: expected an array of integers, as the wire carries them, got {column.dtype}"
        raise LocalProtocolError(msg)
    high = (1 << 8 * row.size_bytes) - 1
    if not column.size or (not strict and column.dtype == UNSIGNED[row.size_bytes]):
        return
    low, highest = (row.raw_min, row.raw_max) if strict else (0, high)
    if column.min() >= low and column.max() <= highest:
        return
    bad = (column < low) | (column > highest)
    if strict and row.sentinels:
        bad &= (column <= row.raw_limit) | (column > high)
    if bad.any():
        place = tuple(int(part) for part in np.argwhere(bad)[0])
        or_else = f", {row.raw_limit + 1} or {high}" if strict and row.sentinels else ""
        where = f"row {', '.join(map(str, place))} of the group"
        msg = f"{name}: expected {low} to {highest}{or_else} on the wire, got {column[place]} ({where})"
        raise LocalProtocolError(msg)


def wrong_shape(name: str, shape: tuple[int, ...], column: Array) -> LocalProtocolError:
    return LocalProtocolError(f"{name}: expected an array of shape {shape}, got {column.dtype} of {column.shape}")


class NumberList:
    """One list of numbers: a slice of every frame."""

    def __init__(self, slot: Slot) -> None:
        assert slot.count is not None
        self.name, self.row, self.count = slot.name, slot.row, slot.count
        self.columns = slice(slot.at, slot.at + slot.count * slot.row.size_bytes)
        self.unsigned = UNSIGNED[slot.row.size_bytes]
        self.big_endian = self.unsigned.newbyteorder(">")
        self.is_integer = slot.is_integer
        # More than 24 bits would not survive in a float32.
        self.dtype: Any = np.float64 if slot.row.size_bytes == 4 else np.float32
        self.offset, self.divisor = self.dtype(self.row.raw_offset), self.dtype(self.row.divisor)

    def decode(self, frames: Array, values: dict[str, Array], marks: dict[str, Array]) -> None:
        if not self.count:
            values[self.name] = np.empty((len(frames), 0), self.unsigned if self.is_integer else self.dtype)
            return
        wire = frames[:, self.columns].view(self.big_endian)
        if self.is_integer:
            values[self.name] = wire.astype(self.unsigned)
            return
        # Into one piece and the byte order first, then float: each of the two is vectorised, both at once not.
        wire = wire.astype(self.unsigned)
        out = wire.astype(self.dtype)
        is_missing = self.row.sentinels and out.size and highest(wire) > self.row.raw_limit
        if self.offset:
            out -= self.offset
        if self.row.divisor != 1:
            out /= self.divisor
        if is_missing:
            missing = wire > self.row.raw_limit
            out[missing] = np.nan
            marks[self.name] = marks_of(wire, missing, self.row)
        values[self.name] = out

    def encode(self, frames: Array, values: Mapping[str, Array], marks: Mapping[str, Array], strict: bool) -> None:
        column, row = values[self.name], self.row
        if column.shape != (len(frames), self.count):
            raise wrong_shape(self.name, (len(frames), self.count), column)
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

    def encode_raw(self, frames: Array, values: Mapping[str, Array], strict: bool) -> None:
        """As `encode`, of the numbers that the wire carries."""
        column = values[self.name]
        if column.shape != (len(frames), self.count):
            raise wrong_shape(self.name, (len(frames), self.count), column)
        check_raw(self.name, self.row, column, strict)
        frames[:, self.columns].view(self.big_endian)[...] = column


def sign_position(name: str, values: dict[str, Array], marks: Mapping[str, Array]) -> None:
    """As `_tables` does it for one frame."""
    rest = values.pop(f"{name}.status")
    if not np.count_nonzero(rest):  # North, east, valid.
        values[f"{name}.valid"] = rest == 0
        values[f"{name}.reserved_bits"] = rest
        return
    values[f"{name}.valid"] = (rest & 1) == 0
    rest = rest & np.uint8(0xFE)
    for axis, bit in DEGREES.items():
        column, mark = values[f"{name}.{axis}"], marks.get(f"{name}.{axis}")
        negative = (rest & bit) != 0
        if mark is not None:
            negative &= mark == 0
        np.negative(column, out=column, where=negative)
        rest[negative] &= np.uint8(0xFF ^ bit)
    values[f"{name}.reserved_bits"] = rest


def unsigned_position(name: str, values: Mapping[str, Array], marks: Mapping[str, Array]) -> dict[str, Array]:
    """The inverse of `sign_position`."""
    changed = dict(values)
    try:
        valid, rest = changed.pop(f"{name}.valid"), changed.pop(f"{name}.reserved_bits")
        columns = {axis: changed[f"{name}.{axis}"] for axis in DEGREES}
    except KeyError as error:
        msg = f"columns: no {error.args[0]!r}, which is in the layout"
        raise LocalProtocolError(msg) from None
    status = np.where(valid, 0, 1)
    allowed = np.full(len(status), 0xF8)
    for axis, bit in DEGREES.items():
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
        msg = (
            f"{name}.reserved_bits: expected only reserved bits and those of missing degrees, got {int(rest.max()):#x}"
        )
        raise LocalProtocolError(msg)
    changed[f"{name}.status"] = status | rest
    return changed
