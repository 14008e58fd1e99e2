"""Where reports say that there is no alarm: so that a report laid out like one that was walked need not be decoded to be counted.

A report's skeleton (`bmsota.gbt32960._walk`) says where its alarm flags and its highest alarm level stand. All of them zero is no alarm;
anything else, and a layout without a walk, is decoded by who asks. What is known is bounded, as that of `_skeletons` is.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from bmsota.gbt32960._walk import BODIES_AT, Unplannable, Walk

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AlarmPlaces"]

_FRAME_SIZE_BYTES_MAX: Final = 4096
_SAME_SIZE_MAX: Final = 8
_SIZES_MAX: Final = 256


class AlarmPlaces:
    """The layouts that were walked."""

    def __init__(self) -> None:
        self._by_size: dict[int, list[tuple[Callable[[bytes], Any], Any, Callable[[bytes], Any], Any]]] = {}

    def are_zero(self, frame: bytes) -> bool:
        """Whether *frame*, a whole and valid report, says in every byte for alarms that there is none."""
        for pick, picked, alarms, zeros in self._by_size.get(len(frame), ()):
            if pick(frame) == picked:
                return bool(alarms(frame) == zeros)
        return self._learn(frame)

    def _learn(self, frame: bytes) -> bool:
        if len(frame) > _FRAME_SIZE_BYTES_MAX:
            return False
        try:
            walk = Walk(frame)
        except Unplannable:
            return False
        places = [
            at
            for slot in walk.slots
            if slot.name.startswith("alarms") and slot.name.endswith((".flags", ".level_max"))
            for at in range(slot.at, slot.at + slot.row.size_bytes)
        ]
        if not places:
            return False
        # Never one place alone, which would give no tuple.
        pick = itemgetter(*(place for place in walk.fixed if place >= BODIES_AT), 0, 3, 21)
        alarms = itemgetter(*places, places[0])
        zeros = (0,) * (len(places) + 1)
        if len(self._by_size) >= _SIZES_MAX:
            self._by_size = {}
        known = self._by_size.setdefault(len(frame), [])
        known.insert(0, (pick, pick(frame), alarms, zeros))
        del known[_SAME_SIZE_MAX:]
        return bool(alarms(frame) == zeros)
