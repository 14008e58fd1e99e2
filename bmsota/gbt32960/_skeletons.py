"""Layouts of reports that are known to be valid, so that a report laid out like one need not be decoded to be believed.

`decode` refuses a data unit of a report only for its skeleton and its time (`_walk`): a report with a known skeleton, the right
length, a right check byte and a real time is valid, whatever its values are. Looking the skeleton up takes a thirtieth of
decoding.

What is known here changes nothing but speed, so all sessions of a process share it. It is bounded, because what is learnt comes
from outside: by the number of layouts, by the bytes that are compared in each, and by the size of the frame that is walked.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from bmsota.gbt32960._walk import BODIES_AT, Unplannable, Walk

if TYPE_CHECKING:
    from collections.abc import Callable


_LAYOUTS_MAX: Final = 256
"""A fleet has a layout per model and state. Beyond this all are forgotten, and those in use are soon learnt again."""
_SAME_SIZE_MAX: Final = 8
"""Layouts of one frame size, which are compared one after another; the latest are kept."""
_PLACES_MAX: Final = 512
"""Bytes of a skeleton: some 20 kB for the largest. A usual one has 20; a report of 250 subsystems is decoded each time."""
_FRAME_SIZE_BYTES_MAX: Final = 4096
"""Of what is learnt: a walk costs up to a microsecond a byte."""


class Skeletons:
    """The skeletons of reports that were decoded in full."""

    def __init__(self) -> None:
        self._by_size: dict[int, tuple[tuple[Callable[[bytes], Any], Any], ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def has(self, frame: bytes) -> bool:
        """Whether a report of this skeleton is known to be valid. Start, header and length are the caller's to check."""
        for pick, picked in self._by_size.get(len(frame), ()):  # noqa: SIM110 - a generator costs more than what it would do
            if pick(frame) == picked:
                return True
        return False

    def learn(self, frame: bytes) -> None:
        """Remember the skeleton of *frame*, which `decode` has accepted without layouts of a user."""
        if len(frame) > _FRAME_SIZE_BYTES_MAX or self.has(frame):
            return
        try:
            fixed = Walk(frame).fixed
        except Unplannable:  # Bodies whose inside may be wrong, such as those of the extension.
            return
        places = [0, *(place for place in fixed if place >= BODIES_AT)]
        if len(places) > _PLACES_MAX:
            return
        if self._count >= _LAYOUTS_MAX:
            self._by_size = {}
            self._count = 0
        pick: Callable[[bytes], Any] = itemgetter(*places, 0)  # Never one place alone, which would give no tuple.
        known = self._by_size.get(len(frame), ())
        kept = ((pick, pick(frame)), *known[: _SAME_SIZE_MAX - 1])
        self._by_size[len(frame)] = kept
        self._count += len(kept) - len(known)


KNOWN: Final = Skeletons()
"""What all sessions of this process have learnt."""
