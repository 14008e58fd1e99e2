"""What can go wrong with one frame of a slave's measurements, between its memory and its CAN controller.

The bus has a CRC of its own, so a frame that is wrong on the wire does not arrive. What arrives wrong was wrong before: a bit that
flipped in memory, a buffer that is not written any more, a queue or a gateway that sends an old frame once more.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from bmsota.canframe import CanFrame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

__all__ = ["FrameFault", "FrameFaultKind"]

# A replayed frame is this many rounds old: older than a master takes for lost ones, younger than a turn of the counter.
REPLAY_ROUNDS = (4, 7)


class FrameFaultKind(Enum):
    """As in a scenario."""

    CORRUPTED = "frame_corrupted"
    """One bit of the frame is wrong in each round."""
    FROZEN = "frame_frozen"
    """The frame of the first round is sent in each."""
    REPLAYED = "frame_replayed"
    """An old frame is sent behind the right one in each round."""


class FrameFault:
    """One disturbance of one slave: which frame and which bit are drawn, from *random*."""

    def __init__(self, kind: FrameFaultKind, *, rounds: int, random: Random) -> None:
        self.kind = kind
        self.rounds = rounds
        """How many rounds are still to be disturbed."""
        self.happened = False
        self._random = random
        self._index: int | None = None
        self._held: CanFrame | None = None

    def disturb(self, frames: Sequence[CanFrame], history: Sequence[Sequence[CanFrame]]) -> list[CanFrame]:
        """What is sent of a round; *history* has the rounds before it, oldest first."""
        sent = list(frames)
        if self.rounds <= 0:
            return sent
        if self._index is None:
            self._index = self._random.randrange(len(sent))
        at = self._index
        match self.kind:
            case FrameFaultKind.CORRUPTED:
                frame = sent[at]
                bit = self._random.randrange(8 * len(frame.data))
                data = (int.from_bytes(frame.data, "big") ^ 1 << bit).to_bytes(len(frame.data), "big")
                sent[at] = CanFrame(frame.can_id, data, frame.is_extended_id, frame.is_fd)
            case FrameFaultKind.FROZEN:
                if self._held is None:
                    # It is still right now, and wrong from the next round on.
                    self._held = sent[at]
                    return sent
                sent[at] = self._held
            case FrameFaultKind.REPLAYED:
                age = self._random.randint(*REPLAY_ROUNDS)
                if len(history) < age:
                    return sent  # Not yet.
                sent.append(history[-age][at])
        self.rounds -= 1
        self.happened = True
        return sent


def new_history() -> deque[Sequence[CanFrame]]:
    """What a slave keeps of its rounds, for `FrameFault.disturb`."""
    return deque(maxlen=REPLAY_ROUNDS[1])
