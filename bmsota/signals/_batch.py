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

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar

import numpy as np

from bmsota.errors import SignalError
from bmsota.signals._codec import (
    RANGE_TOLERANCE_STEPS,
    bits_of,
    decode_reference,
    encode_onto,
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
from bmsota.signals._columns import PagedColumns, PageRuns, SignalColumns
from bmsota.signals._plan import NamedValue

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

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

    def __init__(self, padded: NDArray[np.uint8]) -> None:
        self.padded = padded
        self._words: dict[tuple[bool, int], Array] = {}

    def join(self, bits: Array, index: int, *, is_big: bool) -> None:
        words = self._words.get((is_big, index))
        if words is None:
            self._words[is_big, index] = bits
        else:
            words |= bits

    @classmethod
    def of(cls, count: int, size_bytes: int) -> _Target:
        """Frames of zeros."""
        return cls(np.zeros((count, -(-size_bytes // 8) * 8), dtype=np.uint8))

    def part(self, start: int, stop: int) -> _Target:
        """Some of the frames; to be finished before the whole."""
        return _Target(self.padded[start:stop])

    def merge(self, other: _Target, rows: Rows) -> None:
        """Put the frames of *other*, finished, to the frames *rows* of this one."""
        words, others = self.padded.view(np.uint64), other.finish().view(np.uint64)
        if words.shape[1] == 1:
            words[:, 0][rows] |= others[:, 0]
        else:
            words[rows] |= others

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
                values = raw.astype(np.float64)
                if self._signal.is_float and self._signal.length_bits < 64 and (odd := np.isnan(raw)).any():
                    size = self._size_bytes
                    # One by one: the hardware changes the bits of a signalling NaN when it widens it.
                    for row in np.flatnonzero(odd).tolist():
                        values[row] = extract(self._signal, frames.padded[start + row].tobytes()[:size])
                return values
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


class _HasKey(Protocol):
    @property
    def key(self) -> object: ...


_Coder = TypeVar("_Coder", bound=_HasKey)


@dataclass(frozen=True, slots=True)
class _Run(Generic[_Coder]):
    """Neighbouring pages of a multiplexer with a signal of the same bits and scale each."""

    coder: _Coder
    first: int
    last: int
    names: tuple[str, ...]

    def by_page(self) -> Iterator[tuple[int, str]]:
        return enumerate(self.names, self.first)


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
        self.runs = _runs(pages, lambda signal: _Decoder(signal, size_bytes))
        self.places: dict[str, tuple[int, int, int]] = {}
        """Signals whose column is cut from a run when it is asked for (`PageRuns.places`)."""
        self.pieces = [(number, page, name) for number, run in enumerate(self.runs) for page, name in run.by_page()]
        """The others: the number of the run, the page, the signal."""
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

    def cut_when_asked(self, once: Container[str]) -> None:
        """Leave the columns of signals that are *once* in the whole message to `PageRuns`."""
        for number, page, name in self.pieces:
            if name in once:
                self.places[name] = (number, self.runs[number].first, page)
        self.pieces = [piece for piece in self.pieces if piece[2] not in self.places]

    def names(self) -> Iterator[str]:
        """Every signal of every page, as often as it is on one."""
        for run in self.runs:
            yield from run.names
        for below in self.below:
            for each in below:
                yield from each.names()

    def pages(self, frames: _Frames) -> Array:
        if self._cut is None:
            raws = [
                extract(self._signal, frame.tobytes()[: self._size_bytes]) for frame in frames.padded
            ]  # More than 64 bits.
            return np.array([self._page(raw) for raw in raws], dtype=self._kind)
        raw = self._cut.fetch(frames, 0, frames.count)
        if self._table is not None:
            return self._table.take(raw)
        distinct, inverse = np.unique(raw, return_inverse=True)
        table = np.array([self._page(each) for each in distinct.tolist()], dtype=self._kind)
        return table[inverse]


def _sorted(pages: Array, count: int) -> tuple[Rows, list[int]]:
    """The frames in the order of their pages, and where in that order each of *count* pages begins, and the last ends."""
    order = np.argsort(pages, kind="stable")
    bounds: list[int] = np.searchsorted(pages.take(order), np.arange(count + 1)).tolist()
    return order, bounds


def _runs(pages: list[LayoutNode], make: Callable[[Signal], _Coder]) -> list[_Run[_Coder]]:
    """Group the signals of all pages by what codes them, as far as pages follow each other."""
    found: list[_Run[_Coder]] = []
    opened: dict[object, tuple[_Coder, int, list[str]]] = {}
    for index in range(len(pages) + 1):
        here: dict[object, tuple[_Coder, str]] = {}
        twins: list[tuple[_Coder, str]] = []
        for signal in pages[index].signals if index < len(pages) else ():
            coder = make(signal)
            if coder.key in here:
                twins.append((coder, signal.name))  # The same bits twice on one page.
            else:
                here[coder.key] = (coder, signal.name)
        for key in [key for key in opened if key not in here]:
            coder, first, names = opened.pop(key)
            found.append(_Run(coder, first, index - 1, tuple(names)))
        for key, (coder, name) in here.items():
            opened.setdefault(key, (coder, index, []))[2].append(name)
        found += [_Run(coder, index, index, (name,)) for coder, name in twins]
    return found


class _Found:
    """The columns as they are found. A signal of several pages comes in pieces."""

    def __init__(self, signals: tuple[str, ...]) -> None:
        self._signals = signals
        self._pieces: dict[str, list[tuple[Array, Rows | None]]] = {}
        self.pages: list[PageRuns] = []
        self.undefined: set[int] = set()

    def add(self, name: str, values: Array, rows: Rows | None) -> None:
        self._pieces.setdefault(name, []).append((values, rows))

    def columns(self, length: int) -> SignalColumns:
        values: dict[str, Array] = {}
        held: dict[str, Rows] = {}
        for name, pieces in self._pieces.items():
            if len(pieces) == 1:
                values[name], rows = pieces[0]
            else:
                rows = np.concatenate([part for _, part in pieces if part is not None])
                order = np.argsort(rows, kind="stable")
                values[name] = np.concatenate([piece for piece, _ in pieces])[order]
                rows = rows[order]
            if rows is not None:
                held[name] = rows
        undefined = tuple(sorted(self.undefined))
        return PagedColumns(length, values, held, undefined=undefined, names=self._signals, pages=tuple(self.pages))


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
        if signal.scale == 0 or (not signal.is_float and signal.length_bits > 52):
            # Never plainly: float64 does not hold every raw number.
            self._plain_low, self._plain_high = np.inf, -np.inf
        elif not signal.is_float:
            ends = sorted((float(scaled(signal, signal.raw_minimum)), float(scaled(signal, signal.raw_maximum))))
            self._plain_low, self._plain_high = max(self._low, ends[0]), min(self._high, ends[1])

    @property
    def key(self) -> object:
        """Equal for signals that one call encodes."""
        signal = self.signal
        if self._cut is None:
            return id(self)
        limits = signal.minimum, signal.maximum, frozenset(signal.choices.items())
        return self._cut.key, signal.length_bits, signal.is_float, signal.scale, signal.offset, limits

    def place_plain(self, values: Array, target: _Target) -> bool:
        """Put the column *values* into *target* if all of it fits; whether it does."""
        raw = self._raw(values) if len(values) else values
        if raw is None:
            return False
        if len(raw) and self._cut is not None:
            self._cut.place(raw, target)
        return True

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
        # A NaN goes one by one as well: the hardware changes the bits of a signalling one.
        return None if np.any(np.isinf(narrow) & np.isfinite(raw)) or np.isnan(raw).any() else narrow

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
        self.runs = _runs(list(distinct.values()), lambda signal: _Encoder(signal, size_bytes))
        """All signals of all pages; only of use if no page has a multiplexer of its own."""
        self.is_flat = not any(page.branches for page in self.pages)
        self.table = self._tabled()

    def _tabled(self) -> Array | None:
        """The page of each multiplexer value from 0, and of the first that is too large for all; None if there are too many."""
        numbers = range(max(self.page_of, default=0) + 2)
        is_named = self.signal.choices and (self.signal.scale != 1 or self.signal.offset != 0)
        if min(self.page_of, default=0) < 0 or len(numbers) > 1 << _TABLE_BITS_MAX or is_named:
            return None
        unknown = len(self.pages)
        return np.array([self.page_of.get(number, unknown) for number in numbers], dtype=np.min_scalar_type(unknown))

    def pages_of(self, values: Array) -> Array | None:
        """The page that each of *values* chooses; None if that takes a closer look."""
        if self.table is None or values.dtype.kind not in "iu" or not len(values) or values.min() < 0:
            return None
        pages: Array = self.table.take(np.minimum(values, len(self.table) - 1))
        return None if (pages == len(self.pages)).any() else pages


def _number(signal: Signal, value: Any, where: str) -> int:
    """What a multiplexer's value in a column chooses: names stay numbers there, and are scaled as every other."""
    if signal.choices and isinstance(value, int | float) and signal.scale != 0 and math.isfinite(value):
        raw = round((value - signal.offset) / signal.scale)
        if raw in signal.choices and scaled(signal, raw) == value:
            return raw
    return multiplexer_number(signal, value, where)


class _Given:
    """The columns the caller gave: each a scalar, or one value a frame, or a `SignalColumns`' own."""

    def __init__(self, columns: Mapping[str, Any], rows: int | None, signals: frozenset[str], where: str) -> None:
        if unknown := sorted(set(columns) - signals):
            raise SignalError(f"no such signals in this message: {', '.join(unknown)} ({where})")
        self._where = where
        self._columns = columns if isinstance(columns, SignalColumns) else None
        self._arrays: dict[str, Array] = {}
        if isinstance(columns, SignalColumns):
            self.count = columns.length
            return
        self._arrays = {name: np.asarray(column) for name, column in columns.items()}
        for name, array in self._arrays.items():
            if array.ndim > 1:
                raise SignalError(f"expected one value per frame, got {array.ndim} dimensions ({where}.{name})")
        lengths = {name: len(array) for name, array in self._arrays.items() if array.ndim}
        self.count = max(lengths.values(), default=1) if rows is None else rows
        for name, length in lengths.items():
            if length != self.count:
                raise SignalError(f"expected {self.count} values, one per frame, got {length} ({where}.{name})")

    def has_names(self) -> bool:
        """Whether a column holds anything but numbers."""
        return any(array.dtype.kind not in "biufO" for array in self._arrays.values()) or any(
            isinstance(value, str) for array in self._arrays.values() if array.dtype.kind == "O" for value in array.flat
        )

    def column(self, name: str, rows: Rows | None) -> Array:
        """The values of the frames *rows*; None are all."""
        array = self._arrays.get(name)
        if array is None and self._columns is not None and name in self._columns:
            array = self._arrays[name] = self._columns[name]
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

    def run(self, run: _Run[_Encoder], rows: Rows, bounds: list[int]) -> Array | None:
        """The values of the run's pages, one page after the other; None if they are not of one kind.

        *rows* are the frames sorted by page, *bounds* where in them each page begins.
        """
        if (
            isinstance(self._columns, PagedColumns)
            and (values := self._columns.run(run.names, run.first, rows, bounds)) is not None
        ):
            return values
        parts = [self.column(name, rows[bounds[page] : bounds[page + 1]]) for page, name in run.by_page()]
        return None if len({part.dtype for part in parts}) > 1 else np.concatenate(parts)


def _differs(signal: Signal, values: Array, held: SignalColumns, rows: Rows) -> Array:
    """Of each of the frames *rows*, whether *values*, numbers, ask for something else than *held* has there."""
    changed = np.ones(len(rows), dtype=np.bool_)
    everywhere = held.is_everywhere(signal.name)
    places = rows if everywhere else np.searchsorted(held.rows(signal.name), rows)
    there = np.arange(len(rows)) if everywhere else np.flatnonzero(held.mask(signal.name)[rows])
    now, wanted = held[signal.name][places[there]], values[there]
    if wanted.dtype.kind != now.dtype.kind:
        wanted, now = wanted.astype(object), now.astype(object)  # Exactly: int64, uint64 and float64 meet in float64.
    changed[there] = (wanted != now) & ((wanted == wanted) | (now == now))  # noqa: PLR0124 - NaN is what NaN was
    return changed


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
        counts = Counter(name for branch in self._branches for name in branch.names())
        once = {name for name, count in counts.items() if count == 1}
        for branch in self._branches:
            branch.cut_when_asked(once)
        self._encoders = None if has_overlap(layout, size_bytes=size_bytes) else _NodeEncoder(layout, size_bytes)

    def _checked(self, data: NDArray[np.uint8]) -> None:
        where, size = self._where, self._size_bytes
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
            got = f"{data.ndim} of {data.dtype}" if isinstance(data, np.ndarray) else type(data).__name__
            raise SignalError(f"expected an array of 2 dimensions of uint8, got {got} ({where})")
        if data.shape[1] < size:
            raise SignalError(f"expected {size} data bytes, got {data.shape[1]} ({where})")

    def decode(self, data: NDArray[np.uint8], *, strict: bool) -> SignalColumns:
        """See `Message.decode_batch`."""
        self._checked(data)
        frames = _Frames.of(data, self._size_bytes)
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
        order, bounds = _sorted(branch.pages(frames), branch.count + 1)
        known = bounds[branch.count]
        if strict and known < frames.count:
            self._refuse_frame(frames, rows, int(order[known]))
        frames = frames.take(order)
        rows = order if rows is None else rows[order]
        if known < frames.count:
            found.undefined.update(rows[known:].tolist())
        runs = [run.coder.values(frames, bounds[run.first], bounds[run.last + 1]) for run in branch.runs]
        if branch.places:
            found.pages.append(PageRuns(rows, bounds, runs, branch.places))
        for number, page, name in branch.pieces:
            start = bounds[branch.runs[number].first]
            values = runs[number][bounds[page] - start : bounds[page + 1] - start]
            found.add(name, values, rows[bounds[page] : bounds[page + 1]])
        for page, below in enumerate(branch.below):
            for each in below:
                part = frames.part(bounds[page], bounds[page + 1])
                self._decode_branch(each, part, rows[bounds[page] : bounds[page + 1]], found, strict=strict)

    def _refuse_frame(self, frames: _Frames, rows: Rows | None, index: int) -> NoReturn:
        row = index if rows is None else int(rows[index])
        data = frames.padded[index].tobytes()
        decode_reference(self._layout, data, size_bytes=self._size_bytes, where=f"row {row}, {self._where}")
        raise AssertionError("the reference decodes what the columns refuse")

    def encode(self, columns: Mapping[str, Any], rows: int | None, base: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        """See `Message.encode_batch`."""
        if base is not None:
            return self._encode_onto(columns, rows, base)
        given = _Given(columns, rows, frozenset(self._signals), self._where)
        if self._encoders is None:
            return self._encode_one_by_one(given)
        target = _Target.of(given.count, self._size_bytes)
        with np.errstate(all="ignore"):
            self._encode_node(self._encoders, given, None, target, target)
        return target.finish()[:, : self._size_bytes]

    def _encode_onto(self, columns: Mapping[str, Any], rows: int | None, base: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write the values that differ from those of *base* into a copy of it."""
        self._checked(base)
        if rows not in (None, len(base)):
            raise SignalError(f"expected {len(base)} rows as in base, got {rows} ({self._where})")
        held = self.decode(base, strict=True)
        given = _Given(columns, len(base), frozenset(self._signals), self._where)
        if given.count != len(base):
            raise SignalError(f"expected {len(base)} frames as in base, got {given.count} ({self._where})")
        result = base.copy()
        if self._encoders is None or given.has_names():
            return self._onto_one_by_one(given, result)
        with np.errstate(all="ignore"):
            self._onto_node(self._encoders, given, held, np.arange(len(base)), result)
        return result

    def _onto_node(
        self, node: _NodeEncoder, given: _Given, held: SignalColumns, rows: Rows, result: NDArray[np.uint8]
    ) -> None:
        size = self._size_bytes
        for encoder in node.signals:
            signal = encoder.signal
            values = given.column(signal.name, rows)
            changed = np.flatnonzero(_differs(signal, values, held, rows))
            if not len(changed):
                continue
            target = _Target.of(len(changed), size)
            encoder.place(values[changed], target, self._refuser(rows[changed]))
            mask = (1 << signal.length_bits) - 1 << signal.shift
            others = ~np.frombuffer(mask.to_bytes(size, signal.byte_order), dtype=np.uint8)
            at = rows[changed]
            result[at, :size] = result[at, :size] & others | target.finish()[:, :size]
        for branch in node.branches:
            values = given.column(branch.signal.name, rows)
            order, bounds = _sorted(self._pages(branch, values, rows), len(branch.pages))
            for index, page in enumerate(branch.pages):
                part = rows[order[bounds[index] : bounds[index + 1]]]
                if len(part):
                    self._onto_node(page, given, held, part, result)

    def _onto_one_by_one(self, given: _Given, result: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """For signals that share bits, and names, of which the frame may have another number."""
        size = self._size_bytes
        for row in range(given.count):
            where = f"row {row}, {self._where}"
            base = result[row, :size].tobytes()
            held = decode_reference(self._layout, base, size_bytes=size, where=where)
            values = self._row(given, row, where)
            data = encode_onto(self._layout, values, base=base, held=held, where=where)
            result[row, :size] = np.frombuffer(data, dtype=np.uint8)
        return result

    def _encode_node(
        self, node: _NodeEncoder, given: _Given, rows: Rows | None, local: _Target, whole: _Target
    ) -> None:
        for encoder in node.signals:
            encoder.place(given.column(encoder.signal.name, rows), local, self._refuser(rows))
        for branch in node.branches:
            values = given.column(branch.signal.name, rows)
            pages = branch.pages_of(values)
            if pages is None:
                pages = self._pages(branch, values, rows)
            order, bounds = _sorted(pages, len(branch.pages))
            sorted_rows = order if rows is None else rows[order]
            if branch.is_flat and self._encode_runs(branch, given, sorted_rows, bounds, whole):
                continue
            for index, page in enumerate(branch.pages):
                part = sorted_rows[bounds[index] : bounds[index + 1]]
                if len(part):
                    below = _Target.of(len(part), self._size_bytes)
                    self._encode_node(page, given, part, below, whole)
                    whole.merge(below, part)

    def _encode_runs(
        self, branch: _BranchEncoder, given: _Given, rows: Rows, bounds: list[int], whole: _Target
    ) -> bool:
        """All pages of a multiplexer at once. False, with nothing done, if something does not fit: page by page says what."""
        target = _Target.of(len(rows), self._size_bytes)
        for run in branch.runs:
            start, stop = bounds[run.first], bounds[run.last + 1]
            try:
                values = given.run(run, rows, bounds)
            except SignalError:
                return False
            part = target if stop - start == len(rows) else target.part(start, stop)
            if values is None or not run.coder.place_plain(values, part):
                return False
            if part is not target:
                part.finish()
        whole.merge(target, rows)
        return True

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
                number = _number(branch.signal, value, where)
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
            where = f"row {row}, {self._where}"
            values = self._row(given, row, where)
            frame = encode_reference(self._layout, values, size_bytes=size, where=where)
            data[row] = np.frombuffer(frame, dtype=np.uint8)
        return data

    def _row(self, given: _Given, row: int, where: str) -> dict[str, Any]:
        """The values of one frame."""
        only = np.array([row], dtype=np.intp)
        values: dict[str, Any] = {}
        nodes = [self._layout]
        for node in nodes:
            for signal in node.signals:
                value = given.column(signal.name, only)[0]
                values[signal.name] = value.item() if isinstance(value, np.generic) else value
            for branch in node.branches:
                signal = branch.multiplexer
                number = _number(signal, values[signal.name], where)
                if not isinstance(values[signal.name], str) and number in signal.choices:
                    values[signal.name] = NamedValue(signal.choices[number], number)
                if number in branch.nodes:
                    nodes.append(branch.nodes[number])
        return values
