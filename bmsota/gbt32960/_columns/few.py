"""A few frames of one layout: what a plan does, in as few calls of NumPy as there can be.

For thousands of frames the bytes that pass through memory are what a batch costs; for a handful it is the number of calls, whatever they do.
So here every number of a layout, of any size, single or in a list, is a window of four bytes that ends with it: one gather
brings all of them, one mask cuts them, and one subtraction and one division in float64 make values of all. Those of one and two bytes
are then rounded to float32: a quotient of them that was rounded to 53 bits before is the same as one that was not, because 53 is more than
twice 24 and two.

And a column is an object of its own, whose making costs as much as fifty numbers of `decode`. So a batch of a few frames checks and groups them,
and makes the columns of a group when one of them is first looked at: who wants to know which frames are good, or looks at one group
of many, does not pay for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.gbt32960._columns.numbers import UNSIGNED, marks_of
from bmsota.gbt32960._columns.values import FrameGroup
from bmsota.gbt32960._walk import VIN, VIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bmsota.gbt32960._columns.plan import Plan
    from bmsota.gbt32960._walk import Slot

    Array = NDArray[Any]

_WINDOW: Final = np.dtype(">u4")
_IDENTIFIER: Final = np.dtype(f"=U{VIN_SIZE}")
_SECONDS: Final = np.dtype("datetime64[s]")
FEW_BYTES_MAX: Final = 6000
"""Up to so many bytes of one layout the calls cost more than what they do."""
_FEW_SIZE_MAX: Final = 1000
"""The largest frame for which it is worth to know each number's place, which is eight times as large."""


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


class _LateGroup(FrameGroup):
    """A group of good frames whose columns are made when one of them is first looked at."""

    __slots__ = ("_made_of",)
    _made_of: tuple[Plan, Sequence[int], Sequence[bytes], Sequence[int]]

    def __len__(self) -> int:
        return len(self._made_of[1]) if hasattr(self, "_made_of") else len(self.index)

    def __getattr__(self, name: str) -> Any:
        """Fill what is empty yet; only such are asked for here."""
        if name not in _LATE:
            raise AttributeError(name)
        plan, places, frames, times = self._made_of
        put = object.__setattr__
        if name in _NUMBERS:
            matrix = np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), plan.size)
            are_few = plan.size <= _FEW_SIZE_MAX and matrix.size <= FEW_BYTES_MAX
            values, marks = plan.decode(matrix, None if are_few else plan.gather(matrix))
            put(self, "values", values)
            put(self, "marks", marks)
        else:
            put(self, "index", np.array(places, np.int64))
            put(self, "command", np.array([data[2] for data in frames], np.uint8))
            put(self, "vin", np.array([data[VIN].decode("ascii") for data in frames], _IDENTIFIER))
            put(self, "time", np.array(times, np.int64).view(_SECONDS))
        return getattr(self, name)


_NUMBERS: Final = ("values", "marks")
_LATE: Final = ("index", "command", "vin", "time", *_NUMBERS)


def late_group(plan: Plan, places: Sequence[int], frames: Sequence[bytes], times: Sequence[int]) -> FrameGroup:
    """The group of *frames*, which were checked, of this plan; their places in the batch; their seconds since the epoch (UTC)."""
    group = object.__new__(_LateGroup)
    put = object.__setattr__
    put(group, "edition", plan.edition)
    put(group, "skeleton", plan.skeleton)
    put(group, "_made_of", (plan, places, frames, times))
    return group
