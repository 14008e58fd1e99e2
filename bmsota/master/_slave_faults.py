"""Faults of slaves whose frames fail their protection, as they come and go.

A fault is one kind of failure of one slave. It comes with the first frame that fails so, because a wrong byte is told at once. It
goes when each message that failed has been good three times in a row: a slave that falls silent has not recovered.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CODE_BASE = 0xE2E0_0000
"""Fault codes of the extension and the alarm body: this, plus the fault's number times 256, plus the slave's position."""

GOOD_FRAMES_TO_CLEAR = 3
CHANGES_MAX = 255
"""As many as one report carries; of more, the newest are kept. What is present now stands in the alarm body all the same."""


class SlaveFault(IntEnum):
    """Why the frames of a slave are not used. The numbers are on the cloud link."""

    CORRUPTED = 1
    """Frames have a wrong CRC, or are too short."""
    REPEATED = 2
    """The same frame comes again: the slave, or a part of it, is frozen."""
    OUT_OF_SEQUENCE = 3
    """Frames come whose counter has jumped: old ones are replayed, or a second sender is on the bus."""
    UNPROTECTED = 4
    """The slave's frames carry neither CRC nor counter: its software is from before message protection."""
    SILENT = 5
    """The slave has missed three rounds: it sends nothing, or nothing that may be used."""

    @property
    def level(self) -> int:
        """The alarm level: 2 where values are missing, 1 where they are only unprotected."""
        return 1 if self is SlaveFault.UNPROTECTED else 2

    def code(self, position: int) -> int:
        """The fault code of this fault of the slave at *position*."""
        return CODE_BASE | self << 8 | position


@dataclass(frozen=True, slots=True)
class SlaveFaultChanged:
    """A fault of a slave's frames has come or gone."""

    position: int
    fault: SlaveFault
    is_present: bool
    detail: str
    """The frame it began or ended with."""
    at_ns: int


class SlaveFaults:
    """The faults of all slaves of one pack."""

    def __init__(self) -> None:
        self._present: dict[tuple[int, SlaveFault], dict[str, int]] = {}
        """Fault -> the messages that failed so, and how often each has been good since."""
        self.changes: deque[SlaveFaultChanged] = deque(maxlen=CHANGES_MAX)
        """What has come and gone; whoever tells it takes it out."""

    @property
    def present(self) -> tuple[tuple[int, SlaveFault], ...]:
        """Position and fault of every fault that is present, sorted."""
        return tuple(sorted(self._present))

    def failed(self, position: int, fault: SlaveFault, message: str, why: str, now_ns: int) -> None:
        """A frame of *message* failed so."""
        key = (position, fault)
        if key not in self._present:
            self._present[key] = {}
            self.changes.append(SlaveFaultChanged(position, fault, True, f"{message}: {why}", now_ns))
        self._present[key][message] = 0
        for (other, kind), messages in self._present.items():
            # Not good, so what it was before has not ended either.
            if other == position and kind is not fault and message in messages:
                messages[message] = 0

    def silent(self, positions: Iterable[int], now_ns: int) -> None:
        """Exactly these slaves are silent now."""
        now = set(positions)
        was = {position for position, fault in self._present if fault is SlaveFault.SILENT}
        for position in sorted(now - was):
            self._present[position, SlaveFault.SILENT] = {}
            self.changes.append(SlaveFaultChanged(position, SlaveFault.SILENT, True, "nothing was heard of it", now_ns))
        for position in sorted(was - now):
            del self._present[position, SlaveFault.SILENT]
            self.changes.append(SlaveFaultChanged(position, SlaveFault.SILENT, False, "it was heard again", now_ns))

    def passed(self, position: int, message: str, now_ns: int) -> None:
        """A frame of *message* was good."""
        if not self._present:
            return
        for key, messages in list(self._present.items()):
            if key[0] != position or message not in messages:
                continue
            messages[message] += 1
            if messages[message] >= GOOD_FRAMES_TO_CLEAR:
                del messages[message]
            if not messages:
                del self._present[key]
                detail = f"{message}: good {GOOD_FRAMES_TO_CLEAR} times"
                self.changes.append(SlaveFaultChanged(position, key[1], False, detail, now_ns))
