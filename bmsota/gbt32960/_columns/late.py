"""Groups of a few frames, whose columns are made when one of them is first looked at.

A column is an object of its own, whose making costs as much as fifty numbers of `decode`. So a batch of a few frames checks and groups them, and
no more: who wants to know which frames are good, or looks at one group of many, does not pay for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.gbt32960._columns.values import FrameGroup
from bmsota.gbt32960._walk import VIN, VIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.gbt32960._columns.plan import Plan

_IDENTIFIER: Final = np.dtype(f"=U{VIN_SIZE}")
_SECONDS: Final = np.dtype("datetime64[s]")
FEW_BYTES_MAX: Final = 6000
"""Up to so many bytes of one layout the calls cost more than what they do."""
_FEW_SIZE_MAX: Final = 1000
"""The largest frame for which it is worth to know each number's place, which is eight times as large."""


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
