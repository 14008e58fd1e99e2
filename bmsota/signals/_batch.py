"""The columnar codec: thousands of frames of one message in a few NumPy calls per signal.

Made from the same plan as the one-message codec (`_codec`) and held equal to it by the tests: same rounding, same limits,
same refusals, with the row named. Imported when a message's `decode_batch` or `encode_batch` is first called, because
NumPy is an extra and slow to load.

Strategy. The frames are an array of n x length bytes. A signal of 8, 16, 32 or 64 bits on a byte is a strided view of it;
any other is cut out of 64-bit words, one shift and one mask, two words if it lies across. Big-endian words are swapped
once for all signals. Multiplexed frames are sorted by their number first (a radix sort, stable), then each page is a slice;
signals of neighbouring pages with the same bits and scale, such as the cells of a pack, are decoded in one go and cut
apart afterwards, so that 32 pages cost little more than one.

Encoding takes the limits at the ends: conversion is monotone, so if the smallest and the largest value of a column fit, all
do. Only when they do not fit plainly (a mark above the maximum, a value half a step outside) each row is looked at, and
what is then still wrong is said by the one-message codec's reference. What 64-bit arithmetic cannot do exactly (more than
64 bits, integers beyond 2**52 to be scaled, names instead of numbers) goes through that reference row by row as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from bmsota.errors import SignalError
from bmsota.signals._codec import (
    RANGE_TOLERANCE_STEPS,
    bits_of,
    decode_reference,
    encode_reference,
    extract,
    has_overlap,
    is_integer_conversion,
    multiplexer_number,
    named,
    raw_of,
    scaled,
    unknown_branch,
)
from bmsota.signals._columns import SignalColumns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from bmsota.signals._plan import Branch, LayoutNode, Signal


Array: TypeAlias = "NDArray[Any]"
Rows: TypeAlias = "NDArray[np.intp]"

# Integers up to here, their sums and their differences are exact in float64.
_EXACT_MAX = 1 << 52
# The bits of an integer that a float64 holds.
_FLOAT_BITS = 53
# A multiplexer of up to this many bits is looked up in a table of all its numbers; a wider one by its distinct values.
_TABLE_BITS_MAX = 12


class _Frames:
    """Some frames: their bytes, padded to whole 64-bit words, and those words in both byte orders."""

    __slots__ = ("_big", "_little", "count", "padded")

    def __init__(self, padded: NDArray[np.uint8]) -> None:
        self.padded = padded
        self.count = len(padded)
        self._little: Array | None = None
        self._big: dict[int, Array] = {}

    @classmethod
    def of(cls, data: NDArray[np.uint8], size_bytes: int) -> _Frames:
        wanted = -(-size_bytes // 8) * 8
        if data.shape[1] == wanted and data.flags.c_contiguous:
            return cls(data)
        padded = np.zeros((len(data), wanted), dtype=np.uint8)
        padded[:, :size_bytes] = data[:, :size_bytes]
        return cls(padded)

    def little(self, index: int) -> Array:
        """Word *index* of the frames as little-endian integers, counted from the least significant."""
        if self._little is None:
            self._little = self.padded.view("<u8").astype(np.uint64, copy=False)
        return self._little[:, index]

    def big(self, index: int) -> Array:
        """Word *index* of the frames as big-endian integers, counted from the least significant."""
        words = self._big.get(index)
        if words is None:
            at = self.padded.shape[1] // 8 - 1 - index
            words = self._big[index] = self.padded.view(">u8")[:, at].astype(np.uint64)
        return words

    def take(self, rows: Rows) -> _Frames:
        words = self.padded.view(np.uint64)
        taken = words[:, 0].take(rows)[:, None] if words.shape[1] == 1 else words.take(rows, axis=0)
        return _Frames(taken.view(np.uint8))

    def part(self, start: int, stop: int) -> _Frames:
        return _Frames(self.padded[start:stop])


class _Cut:
    """Where a signal lies in an array of frames, and how to fetch and place its raw numbers. Up to 64 bits."""

    __slots__ = ("_at", "_dtype", "_index", "_is_big", "_is_signed", "_lie", "_mask", "_over", "_size", "_span")

    def __init__(self, signal: Signal, size_bytes: int) -> None:
        length = signal.length_bits
        self._is_big = signal.byte_order == "big"
        self._is_signed = signal.is_signed
        # The padding follows the frame: it moves the least significant bit of a big-endian integer, not of a little one.
        shift = signal.shift + (8 * (-size_bytes % 8) if self._is_big else 0)
        self._index, self._lie = divmod(shift, 64)
        self._over = self._lie + length - 64
        self._span = 64 - length
        self._mask = np.uint64((1 << length) - 1)
        self._size = 0
        self._at = 0
        self._dtype = ""
        if length in (8, 16, 32, 64) and signal.shift % 8 == 0 and (length > 8 or not signal.is_float):
            self._size = length // 8
            self._at = size_bytes - signal.shift // 8 - self._size if self._is_big else signal.shift // 8
            kind = "f" if signal.is_float else "i" if signal.is_signed else "u"
            self._dtype = f"{'>' if self._is_big else '<'}{kind}{self._size}"
        elif signal.is_float:
            self._dtype = f"f{length // 8}"

    @property
    def key(self) -> tuple[object, ...]:
        """What two signals share if they are fetched alike."""
        return self._is_big, self._is_signed, self._index, self._lie, self._span, self._dtype

    def fetch(self, frames: _Frames, start: int, stop: int) -> Array:
        """The raw numbers of frames *start* to *stop*: an integer or float array of whatever width is at hand."""
        if self._size:
            view: Array = frames.padded[start:stop, self._at : self._at + self._size].view(self._dtype)[:, 0]
            return view
        word = frames.big if self._is_big else frames.little
        bits = word(self._index)[start:stop] >> self._lie
        if self._over > 0:
            bits |= word(self._index + 1)[start:stop] << (64 - self._lie)
        if self._dtype:
            unsigned = f"u{self._dtype[1:]}"
            floats: Array = (bits & self._mask).astype(unsigned).view(self._dtype)
            return floats
        if self._is_signed:
            bits <<= self._span
            signed: Array = bits.view(np.int64)
            signed >>= self._span
            return signed
        bits &= self._mask
        return bits if self._span == 0 else bits.view(np.int64)  # int64 converts to float64 faster than uint64.

    def place(self, raw: Array, target: _Target) -> None:
        """Put raw numbers, known to fit, into all frames of *target*."""
        if self._size:
            target.padded[:, self._at : self._at + self._size].view(self._dtype)[:, 0] = raw
            return
        if self._dtype:
            bits = raw.astype(self._dtype).view(f"u{self._dtype[1:]}").astype(np.uint64)
        elif raw.dtype.kind == "f" and (self._is_signed or self._span):
            bits = raw.astype(np.int64).view(np.uint64)
        else:
            bits = raw.astype(np.uint64)  # Of a negative integer: its two's complement.
        if self._is_signed:
            bits &= self._mask
        if self._over > 0:
            target.join(bits >> (64 - self._lie), self._index + 1, is_big=self._is_big)
        if self._lie:
            bits <<= self._lie
        target.join(bits, self._index, is_big=self._is_big)


class _Target:
    """Frames under construction. Signals do not overlap, so the order in which they come makes no difference."""

    __slots__ = ("_words", "padded")

    def __init__(self, count: int, size_bytes: int) -> None:
        self.padded = np.zeros((count, -(-size_bytes // 8) * 8), dtype=np.uint8)
        self._words: dict[tuple[bool, int], Array] = {}

    def join(self, bits: Array, index: int, *, is_big: bool) -> None:
        words = self._words.get((is_big, index))
        if words is None:
            self._words[is_big, index] = bits
        else:
            words |= bits

    def finish(self) -> NDArray[np.uint8]:
        for (is_big, index), words in self._words.items():
            view = self.padded.view(">u8" if is_big else "<u8")
            view[:, view.shape[1] - 1 - index if is_big else index] |= words
        self._words.clear()
        return self.padded


# --- Decoding ---------------------------------------------------------------------------------------------------------


def _result_dtype(signal: Signal) -> np.dtype[Any]:
    """What a column of the signal is made of."""
    if signal.is_float:
        return np.dtype(np.float64)
    whole = is_integer_conversion(signal)
    if not whole:
        return np.dtype(np.float64)
    ends = (scaled(signal, signal.raw_minimum), scaled(signal, signal.raw_maximum))
    for kind in (np.int64, np.uint64):
        limits = np.iinfo(kind)
        if int(limits.min) <= min(ends) and max(ends) <= int(limits.max):
            return np.dtype(kind)
    return np.dtype(object)


class _Decoder:
    """Fetches and scales one signal, or several that lie in the same bits of different pages."""

    __slots__ = ("_cut", "_factor", "_offset", "_result", "_signal", "_size_bytes", "_step")

    def __init__(self, signal: Signal, size_bytes: int) -> None:
        self._signal = signal
        self._size_bytes = size_bytes
        self._result = _result_dtype(signal)
        # One frame at a time multiplies integers by an integer exactly before it adds a fraction; floats of more than 53 bits
        # would not give the same number.
        is_inexact = (
            self._result.kind == "f"
            and not signal.is_float
            and signal.length_bits > _FLOAT_BITS
            and isinstance(signal.scale, int)
        )
        is_plain = signal.length_bits <= 64 and self._result.kind != "O" and not is_inexact
        self._cut = _Cut(signal, size_bytes) if is_plain else None
        self._factor = float(signal.scale) if self._result.kind == "f" else 1.0
        self._offset = float(signal.offset) if self._result.kind == "f" else 0.0
        # Integers are scaled modulo 2**64: the result fits, so whatever overflows on the way comes back.
        self._step = (
            (1, 0) if self._result.kind == "f" else (int(signal.scale) % (1 << 64), int(signal.offset) % (1 << 64))
        )

    @property
    def key(self) -> object:
        """Equal for signals that one call decodes."""
        if self._cut is None:
            return id(self)
        return self._cut.key, str(self._result), self._factor, self._offset, self._step

    def values(self, frames: _Frames, start: int, stop: int) -> Array:
        if self._cut is None:
            return self._one_by_one(frames, start, stop)
        raw = self._cut.fetch(frames, start, stop)
        if self._result.kind == "f":
            if self._factor == 1 and self._offset == 0:
                return raw.astype(np.float64)
            values = np.multiply(raw, self._factor, dtype=np.float64)
            if self._offset:
                values += self._offset
            return values
        scale, offset = self._step
        if scale == 1 and offset == 0:
            return raw.astype(self._result)
        whole = raw.astype(np.int64 if raw.dtype.kind == "i" else np.uint64).view(np.uint64)
        if scale != 1:
            whole *= np.uint64(scale)
        if offset:
            whole += np.uint64(offset)
        return whole.view(self._result)

    def _one_by_one(self, frames: _Frames, start: int, stop: int) -> Array:
        values = np.empty(stop - start, dtype=self._result)
        for row, frame in enumerate(frames.padded[start:stop]):
            values[row] = scaled(self._signal, extract(self._signal, frame.tobytes()[: self._size_bytes]))
        return values


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring pages of a multiplexer with a signal of the same bits and scale each."""

    decoder: _Decoder
    first: int
    last: int
    names: tuple[str, ...]


class _BranchDecoder:
    """A multiplexer: which page each frame shows, and the signals of the pages."""

    def __init__(self, branch: Branch, size_bytes: int, where: str) -> None:
        distinct = {id(node): node for node in branch.nodes.values()}  # Ranges of numbers share one node.
        pages = list(distinct.values())
        self._signal = branch.multiplexer
        self._where = where
        self._size_bytes = size_bytes
        position = {key: index for index, key in enumerate(distinct)}
        self._page_of = {number: position[id(node)] for number, node in branch.nodes.items()}
        self.count = len(pages)
        """Also the page of a number that the message does not define."""
        self._kind = np.min_scalar_type(self.count)
        self._cut = _Cut(self._signal, size_bytes) if self._signal.length_bits <= 64 else None
        self._table = self._tabled()
        self.runs = _runs(pages, size_bytes)
        self.below = [[_BranchDecoder(each, size_bytes, where) for each in node.branches] for node in pages]

    def _page(self, raw: float) -> int:
        try:
            number = multiplexer_number(self._signal, named(self._signal, raw), self._where)
        except SignalError:
            return self.count  # A float that is no number; `decode_reference` says so.
        return self._page_of.get(number, self.count)

    def _tabled(self) -> Array | None:
        """The page of each raw number, negative ones last, as an index from the end finds them."""
        signal = self._signal
        if signal.is_float or signal.length_bits > _TABLE_BITS_MAX:
            return None
        numbers = [*range(signal.raw_maximum + 1), *range(signal.raw_minimum, 0)]
        return np.array([self._page(raw) for raw in numbers], dtype=self._kind)

    def pages(self, frames: _Frames) -> Array:
        if self._cut is None:
            raws = [
                extract(self._signal, frame.tobytes()[: self._size_bytes]) for frame in frames.padded
            ]  # More than 64 bits.
            return np.array([self._page(raw) for raw in raws], dtype=self._kind)
        raw = self._cut.fetch(frames, 0, frames.count)
        if self._table is not None:
            return self._table[raw]
        distinct, inverse = np.unique(raw, return_inverse=True)
        table = np.array([self._page(each) for each in distinct.tolist()], dtype=self._kind)
        return table[inverse]


def _runs(pages: list[LayoutNode], size_bytes: int) -> list[_Run]:
    """Group the signals of all pages by what decodes them, as far as pages follow each other."""
    found: list[_Run] = []
    opened: dict[object, tuple[_Decoder, int, list[str]]] = {}
    for index in range(len(pages) + 1):
        here: dict[object, tuple[_Decoder, str]] = {}
        twins: list[tuple[_Decoder, str]] = []
        for signal in pages[index].signals if index < len(pages) else ():
            decoder = _Decoder(signal, size_bytes)
            if decoder.key in here:
                twins.append((decoder, signal.name))  # The same bits twice on one page.
            else:
                here[decoder.key] = (decoder, signal.name)
        for key in [key for key in opened if key not in here]:
            decoder, first, names = opened.pop(key)
            found.append(_Run(decoder, first, index - 1, tuple(names)))
        for key, (decoder, name) in here.items():
            opened.setdefault(key, (decoder, index, []))[2].append(name)
        found += [_Run(decoder, index, index, (name,)) for decoder, name in twins]
    return found


class _Found:
    """The columns as they are found. A signal of several pages comes in pieces."""

    def __init__(self, signals: tuple[str, ...]) -> None:
        self._pieces: dict[str, list[tuple[Array, Rows | None]]] = {name: [] for name in signals}
        self.undefined: set[int] = set()

    def add(self, name: str, values: Array, rows: Rows | None) -> None:
        self._pieces[name].append((values, rows))

    def columns(self, length: int) -> SignalColumns:
        values: dict[str, Array] = {}
        held: dict[str, Rows] = {}
        for name, pieces in self._pieces.items():
            if len(pieces) == 1:
                values[name], rows = pieces[0]
            else:
                rows = np.concatenate([part for _, part in pieces if part is not None] or [np.empty(0, np.intp)])
                order = np.argsort(rows, kind="stable")
                values[name] = np.concatenate([piece for piece, _ in pieces] or [np.empty(0)])[order]
                rows = rows[order]
            if rows is not None:
                held[name] = rows
        return SignalColumns(length, values, held, undefined=tuple(sorted(self.undefined)))


# --- Encoding ---------------------------------------------------------------------------------------------------------


class _Encoder:
    """Checks, unscales and places one signal."""

    __slots__ = ("_cut", "_high", "_is_checked", "_low", "_plain_high", "_plain_low", "_size_bytes", "signal")

    def __init__(self, signal: Signal, size_bytes: int) -> None:
        self.signal = signal
        self._size_bytes = size_bytes
        self._cut = _Cut(signal, size_bytes) if signal.length_bits <= 64 else None
        tolerance = abs(signal.scale) * RANGE_TOLERANCE_STEPS
        self._low = -np.inf if signal.minimum is None else float(signal.minimum - tolerance)
        self._high = np.inf if signal.maximum is None else float(signal.maximum + tolerance)
        # Between these a value fits for sure: inside the limits, and at least half a step away from what the bits cannot hold.
        self._plain_low, self._plain_high = self._low, self._high
        self._is_checked = np.isfinite(self._low) or np.isfinite(self._high) or not signal.is_float
        if not signal.is_float:
            ends = sorted((float(scaled(signal, signal.raw_minimum)), float(scaled(signal, signal.raw_maximum))))
            self._plain_low, self._plain_high = max(self._low, ends[0]), min(self._high, ends[1])
        if signal.scale == 0 or (not signal.is_float and signal.length_bits > 52):
            self._plain_low, self._plain_high = (
                np.inf,
                -np.inf,
            )  # Never plainly: float64 does not hold every raw number.

    def place(self, values: Array, target: _Target, refuse: Callable[[Signal, Any, int], NoReturn]) -> None:
        """Put the column *values* into *target*. *refuse* is called with what does not fit, and its row; it raises."""
        if not len(values):
            return
        raw = self._raw(values)
        if raw is None:
            self._one_by_one(values, target, refuse)
        else:
            assert self._cut is not None  # `_raw` gives up on signals without one.
            self._cut.place(raw, target)

    def _raw(self, values: Array) -> Array | None:
        """Raw numbers that fit, or None: row by row, then."""
        signal = self.signal
        kind = values.dtype.kind
        if kind not in "biuf" or signal.scale == 0 or self._cut is None:
            return None
        low = high = 0.0
        if self._is_checked or kind in "iu":
            low, high = values.min().item(), values.max().item()
        if kind in "iu":
            if is_integer_conversion(signal) and signal.scale == 1 and signal.offset == 0:
                inside = self._low <= low and high <= self._high
                if inside and signal.raw_minimum <= low and high <= signal.raw_maximum:
                    return values
            if max(-low, high, abs(signal.offset)) > _EXACT_MAX:
                return None
        if not self._is_checked or (self._plain_low <= low and high <= self._plain_high):
            raw = self._unscaled(values)
            return self._narrowed(raw) if signal.is_float else raw
        return self._careful(values.astype(np.float64))

    def _unscaled(self, values: Array) -> Array:
        signal = self.signal
        if signal.is_float and signal.scale == 1 and signal.offset == 0:
            return values.astype(np.float64)
        if signal.offset == 0:
            raw = np.divide(values, float(signal.scale), dtype=np.float64) if signal.scale != 1 else None
        else:
            raw = np.subtract(values, float(signal.offset), dtype=np.float64)
            if signal.scale != 1:
                raw /= float(signal.scale)
        if raw is None:
            raw = values.astype(np.float64)
        return raw if signal.is_float else np.rint(raw, out=raw)

    def _narrowed(self, raw: Array) -> Array | None:
        """None if a finite number becomes infinite in a float of the signal's size."""
        if self.signal.length_bits == 64:
            return raw
        narrow = raw.astype(f"f{self.signal.length_bits // 8}")
        return None if np.any(np.isinf(narrow) & np.isfinite(raw)) else narrow

    def _careful(self, values: Array) -> Array | None:
        """Look at every row: outside the limits is allowed for numbers of the value table."""
        signal = self.signal
        raw = self._unscaled(values)
        outside = (values < self._low) | (values > self._high)
        wrong = outside & ~np.isin(raw, [float(number) for number in signal.choices]) if outside.any() else outside
        if not signal.is_float:
            # The upper limit is a power of two and exact, where the largest number itself may not be.
            wrong |= ~np.isfinite(values) | (raw < float(signal.raw_minimum)) | (raw >= float(signal.raw_maximum + 1))
        if wrong.any():
            return None
        return self._narrowed(raw) if signal.is_float else raw

    def _one_by_one(self, values: Array, target: _Target, refuse: Callable[[Signal, Any, int], NoReturn]) -> None:
        signal = self.signal
        bits: list[int] = []
        for row, value in enumerate(values.tolist()):
            plain = value.item() if isinstance(value, np.generic) else value
            try:
                bits.append(bits_of(signal, raw_of(signal, plain, ""), "") >> signal.shift)
            except SignalError:
                refuse(signal, plain, row)
        if self._cut is None:
            size = self._size_bytes
            joined = b"".join((each << signal.shift).to_bytes(size, signal.byte_order) for each in bits)
            target.padded[:, :size] |= np.frombuffer(joined, dtype=np.uint8).reshape(-1, size)
            return
        whole = np.array(bits, dtype=np.uint64)
        if signal.is_float:
            width = signal.length_bits // 8
            self._cut.place(whole.astype(f"u{width}").view(f"f{width}"), target)
        elif signal.is_signed:
            unused = 64 - signal.length_bits
            self._cut.place((whole << np.uint64(unused)).view(np.int64) >> unused, target)
        else:
            self._cut.place(whole, target)


class _NodeEncoder:
    """The signals of one node of the plan and the multiplexers below it."""

    def __init__(self, node: LayoutNode, size_bytes: int) -> None:
        self.signals = [_Encoder(signal, size_bytes) for signal in node.signals]
        self.branches = [_BranchEncoder(branch, size_bytes) for branch in node.branches]


class _BranchEncoder:
    def __init__(self, branch: Branch, size_bytes: int) -> None:
        distinct = {id(node): node for node in branch.nodes.values()}
        position = {key: index for index, key in enumerate(distinct)}
        self.signal = branch.multiplexer
        self.nodes = branch.nodes
        self.page_of = {number: position[id(node)] for number, node in branch.nodes.items()}
        self.pages = [_NodeEncoder(node, size_bytes) for node in distinct.values()]


class _Given:
    """The columns the caller gave: each a scalar, or one value a frame, or a `SignalColumns`' own."""

    def __init__(self, columns: Mapping[str, Any], rows: int | None, signals: frozenset[str], where: str) -> None:
        if unknown := sorted(set(columns) - signals):
            raise SignalError(f"no such signals in this message: {', '.join(unknown)} ({where})")
        self._where = where
        self._columns = columns if isinstance(columns, SignalColumns) else None
        self._arrays = {name: np.asarray(column) for name, column in columns.items()}
        for name, array in self._arrays.items():
            if array.ndim > 1:
                raise SignalError(f"expected one value per frame, got {array.ndim} dimensions ({where}.{name})")
        if isinstance(columns, SignalColumns):
            self.count = columns.length
            return
        lengths = {name: len(array) for name, array in self._arrays.items() if array.ndim}
        self.count = max(lengths.values(), default=1) if rows is None else rows
        for name, length in lengths.items():
            if length != self.count:
                raise SignalError(f"expected {self.count} values, one per frame, got {length} ({where}.{name})")

    def column(self, name: str, rows: Rows | None) -> Array:
        """The values of the frames *rows*; None are all."""
        array = self._arrays.get(name)
        if array is None:
            raise SignalError(f"no values for {name} ({self._where})")
        if not array.ndim:
            return np.full(self.count if rows is None else len(rows), array)
        if self._columns is not None and not self._columns.is_everywhere(name):
            held = self._columns.rows(name)
            wanted = np.arange(self.count) if rows is None else rows
            if np.array_equal(held, wanted):
                return array
            at = np.searchsorted(held, wanted)
            at[at == len(held)] = 0
            missing = np.ones(len(wanted), dtype=bool) if not len(held) else held[at] != wanted
            if missing.any():
                row = int(wanted[int(np.argmax(missing))])
                raise SignalError(f"no value for {name} (row {row}, {self._where})")
            return array[at]
        return array if rows is None else array[rows]


# --- Both ways --------------------------------------------------------------------------------------------------------


class BatchCodec:
    """Decodes and encodes arrays of frames of one message. Made once per message."""

    def __init__(self, layout: LayoutNode, *, signals: tuple[str, ...], size_bytes: int, where: str) -> None:
        self._layout = layout
        self._signals = signals
        self._size_bytes = size_bytes
        self._where = where
        self._decoders = [(signal.name, _Decoder(signal, size_bytes)) for signal in layout.signals]
        self._branches = [_BranchDecoder(branch, size_bytes, where) for branch in layout.branches]
        self._encoders = None if has_overlap(layout, size_bytes=size_bytes) else _NodeEncoder(layout, size_bytes)

    def decode(self, data: NDArray[np.uint8], *, strict: bool) -> SignalColumns:
        """See `Message.decode_batch`."""
        where, size = self._where, self._size_bytes
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
            got = f"{data.ndim} of {data.dtype}" if isinstance(data, np.ndarray) else type(data).__name__
            raise SignalError(f"expected an array of 2 dimensions of uint8, got {got} ({where})")
        if data.shape[1] < size:
            raise SignalError(f"expected {size} data bytes, got {data.shape[1]} ({where})")
        frames = _Frames.of(data, size)
        found = _Found(self._signals)
        with np.errstate(all="ignore"):  # A NaN on the wire is a value, not a slip of arithmetic.
            for name, decoder in self._decoders:
                found.add(name, decoder.values(frames, 0, frames.count), None)
            for branch in self._branches:
                self._decode_branch(branch, frames, None, found, strict=strict)
        return found.columns(len(data))

    def _decode_branch(
        self, branch: _BranchDecoder, frames: _Frames, rows: Rows | None, found: _Found, *, strict: bool
    ) -> None:
        pages = branch.pages(frames)
        order = np.argsort(pages, kind="stable")
        bounds = [0, *np.cumsum(np.bincount(pages, minlength=branch.count + 1)).tolist()]
        known = bounds[branch.count]
        if strict and known < frames.count:
            self._refuse_frame(frames, rows, int(order[known]))
        frames = frames.take(order)
        rows = order if rows is None else rows[order]
        parts = [rows[start:stop] for start, stop in pairwise(bounds)]
        found.undefined.update(rows[known:].tolist())
        for run in branch.runs:
            start = bounds[run.first]
            values = run.decoder.values(frames, start, bounds[run.last + 1])
            for page, name in enumerate(run.names, run.first):
                found.add(name, values[bounds[page] - start : bounds[page + 1] - start], parts[page])
        for page, below in enumerate(branch.below):
            for each in below:
                part = frames.part(bounds[page], bounds[page + 1])
                self._decode_branch(each, part, parts[page], found, strict=strict)

    def _refuse_frame(self, frames: _Frames, rows: Rows | None, index: int) -> NoReturn:
        row = index if rows is None else int(rows[index])
        data = frames.padded[index].tobytes()
        decode_reference(self._layout, data, size_bytes=self._size_bytes, where=f"row {row}, {self._where}")
        raise AssertionError("the reference decodes what the columns refuse")

    def encode(self, columns: Mapping[str, Any], rows: int | None) -> NDArray[np.uint8]:
        """See `Message.encode_batch`."""
        given = _Given(columns, rows, frozenset(self._signals), self._where)
        if self._encoders is None:
            return self._encode_one_by_one(given)
        target = _Target(given.count, self._size_bytes)
        with np.errstate(all="ignore"):
            self._encode_node(self._encoders, given, None, target, target)
        return target.finish()[:, : self._size_bytes]

    def _encode_node(
        self, node: _NodeEncoder, given: _Given, rows: Rows | None, local: _Target, whole: _Target
    ) -> None:
        for encoder in node.signals:
            encoder.place(given.column(encoder.signal.name, rows), local, self._refuser(rows))
        for branch in node.branches:
            pages = self._pages(branch, given.column(branch.signal.name, rows), rows)
            order = np.argsort(pages, kind="stable")
            bounds = [0, *np.cumsum(np.bincount(pages, minlength=len(branch.pages))).tolist()]
            sorted_rows = order if rows is None else rows[order]
            for index, page in enumerate(branch.pages):
                part = sorted_rows[bounds[index] : bounds[index + 1]]
                if len(part):
                    below = _Target(len(part), self._size_bytes)
                    self._encode_node(page, given, part, below, whole)
                    whole.padded[part] |= below.finish()

    def _refuser(self, rows: Rows | None) -> Callable[[Signal, Any, int], NoReturn]:
        def refuse(signal: Signal, value: Any, index: int) -> NoReturn:
            row = index if rows is None else int(rows[index])
            place = f"row {row}, {self._where}.{signal.name}"
            bits_of(signal, raw_of(signal, value, place), place)
            raise AssertionError("the reference encodes what it has just refused")

        return refuse

    def _pages(self, branch: _BranchEncoder, values: Array, rows: Rows | None) -> Array:
        """The page each multiplexer value chooses."""
        known: dict[Any, int] = {}

        def page(value: Any, row: int) -> int:
            if value not in known:
                where = f"row {row if rows is None else int(rows[row])}, {self._where}"
                number = multiplexer_number(branch.signal, value, where)
                if number not in branch.page_of:
                    raise SignalError(unknown_branch(branch.nodes, number, f"{where}.{branch.signal.name}"))
                known[value] = branch.page_of[number]
            return known[value]

        kind = np.min_scalar_type(len(branch.pages))
        if values.dtype.kind in "iuf" and len(values):
            distinct, firsts, inverse = np.unique(values, return_index=True, return_inverse=True)
            # In the order of the rows, so that the first row that is wrong is the one named.
            chosen = {int(at): page(values[at].item(), int(at)) for at in np.sort(firsts)}
            table = np.array([chosen[int(at)] for at in firsts], dtype=kind)
            assert len(table) == len(distinct)
            return table[inverse.reshape(-1)]
        return np.array([page(value, row) for row, value in enumerate(values.tolist())], dtype=kind)

    def _encode_one_by_one(self, given: _Given) -> NDArray[np.uint8]:
        """For signals that share bits: whether they agree is a question to each row."""
        size = self._size_bytes
        data = np.zeros((given.count, size), dtype=np.uint8)
        for row in range(given.count):
            only = np.array([row], dtype=np.intp)
            values: dict[str, Any] = {}
            nodes = [self._layout]
            where = f"row {row}, {self._where}"
            for node in nodes:
                for signal in node.signals:
                    value = given.column(signal.name, only)[0]
                    values[signal.name] = value.item() if isinstance(value, np.generic) else value
                for branch in node.branches:
                    number = multiplexer_number(branch.multiplexer, values[branch.multiplexer.name], where)
                    if number in branch.nodes:
                        nodes.append(branch.nodes[number])
            frame = encode_reference(self._layout, values, size_bytes=size, where=where)
            data[row] = np.frombuffer(frame, dtype=np.uint8)
        return data
