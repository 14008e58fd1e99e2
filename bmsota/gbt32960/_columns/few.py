"""A few frames of one layout: what a plan does, in as few calls of NumPy as there can be.

For thousands of frames the bytes that pass through memory are what a batch costs; for a handful it is the number of calls, whatever they do.
So here every number of a layout, of any size, single or in a list, is a window of four bytes that ends with it: one gather
brings all of them, one mask cuts them, and one subtraction and one division in float64 make values of all. Those of one and two bytes
are then rounded to float32: a quotient of them that was rounded to 53 bits before is the same as one that was not, because 53 is more than
twice 24 and two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.gbt32960._columns.numbers import UNSIGNED, marks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bmsota.gbt32960._walk import Slot

    Array = NDArray[Any]

_WINDOW: Final = np.dtype(">u4")


class FewFrames:
    """All numbers of a layout at once."""

    def __init__(self, slots: list[Slot]) -> None:
        kinds: list[list[Slot]] = [[] for _ in range(5)]
        for slot in slots:  # float32, float64, plain integers of 4, 2 and 1 bytes
            size = slot.row.size_bytes
            kinds[{4: 2, 2: 3, 1: 4}[size] if slot.is_integer else size == 4].append(slot)
        columns: list[int] = []
        places: list[int] = []
        self.parts: list[tuple[slice, Any, tuple[str, ...], list[tuple[str, slice]]]] = []
        """Of each kind: its columns of the gather, its type, the names of single numbers, which are first, and lists."""
        self.rows: list[tuple[str, slice, Slot]] = []
        """Where each of the first two kinds is."""
        for kind, dtype in zip(kinds, (np.float32, np.float64, UNSIGNED[4], UNSIGNED[2], UNSIGNED[1]), strict=True):
            kind.sort(key=lambda slot: slot.count is not None)
            begin = len(columns)
            lists = []
            for slot in kind:
                size, first = slot.row.size_bytes, len(columns)
                for place in range(1 if slot.count is None else slot.count):
                    # Every number is behind the header, so that four bytes are there.
                    places.extend(range(slot.at + (place + 1) * size - 4, slot.at + (place + 1) * size))
                    columns.append((1 << 8 * size) - 1)
                if slot.count is not None:
                    lists.append((slot.name, slice(first - begin, len(columns) - begin)))
                if not slot.is_integer:
                    self.rows.append((slot.name, slice(first, len(columns)), slot))
            names = tuple(slot.name for slot in kind if slot.count is None)
            if kind:
                self.parts.append((slice(begin, len(columns)), dtype, names, lists))
        self.places = np.array(places, np.intp)
        self.masks = np.array(columns, np.uint32)
        real = [slot.row for _, columns_of, slot in self.rows for _ in range(columns_of.start, columns_of.stop)]
        self.real = len(real)
        self.offsets = np.array([row.raw_offset for row in real], np.float64)
        self.divisors = np.array([row.divisor for row in real], np.float64)
        self.limits = np.array([row.raw_limit for row in real], np.uint32)

    def decode(self, frames: Array, values: dict[str, Array], marks: dict[str, Array]) -> None:
        """Put the columns of *frames*, one row a frame, into *values* and *marks*."""
        raw = frames.take(self.places, axis=1).view(_WINDOW) & self.masks
        wire = raw[:, : self.real]
        out = wire - self.offsets
        out /= self.divisors
        missing = wire > self.limits
        if np.count_nonzero(missing):
            out[missing] = np.nan
            for name, columns, slot in self.rows:
                if missing[:, columns].any():
                    mark = marks_of(wire[:, columns], missing[:, columns], slot.row)
                    marks[name] = mark[:, 0] if slot.count is None else mark
        for columns, dtype, names, lists in self.parts:
            part = (out if columns.stop <= self.real else raw)[:, columns].astype(dtype)
            values.update(zip(names, part.T, strict=False))
            for name, place in lists:
                values[name] = part[:, place]
