"""The master's gateway: what a flasher on the diagnostic bus says reaches the slaves, and their answers the flasher.

Nothing else passes: measurements stay inside, whatever else is on the diagnostic bus stays outside, and so do answers that
no flasher outside has requested, such as those to the master's own requests. While the master upgrades its pack itself the gateway
is closed, so that no node has two flashers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.kernel import SECOND
from bmsota_sim.links.canbus import filter_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.canframe import CanFrame
    from bmsota_sim.links.canbus import Port

# A slave may be silent for so long before it answers: the longest wait it can announce, and some.
ANSWER_LIMIT_NS = 70 * SECOND

__all__ = ["Gateway"]


class Gateway:
    """Between two ports of one device. The device hands over what it hears on each; what is not to pass is not passed.

    *inward* and *outward* are filter keys (`Port.accept`): what flashers send, and what slaves answer.
    """

    def __init__(
        self,
        *,
        inside: Port,
        outside: Port,
        inward: frozenset[int],
        outward: frozenset[int],
        is_open: Callable[[], bool],
    ) -> None:
        self._inside = inside
        self._outside = outside
        self._inward = inward
        self._outward = outward
        self._is_open = is_open
        self._asked_ns: int | None = None
        self.passed = 0
        """Frames handed to the other bus, both ways."""
        self.refused = 0
        """Frames that did not pass because the gateway was closed or the other bus took no more."""

    def from_outside(self, frame: CanFrame, now_ns: int) -> None:
        """The device has heard *frame* on the diagnostic bus."""
        if filter_key(frame) in self._inward:
            self._asked_ns = now_ns
            self._pass(frame, self._inside)

    def from_inside(self, frame: CanFrame, now_ns: int) -> None:
        """The device has heard *frame* on the internal bus."""
        if (
            filter_key(frame) in self._outward
            and self._asked_ns is not None
            and now_ns - self._asked_ns < ANSWER_LIMIT_NS
        ):
            self._pass(frame, self._outside)

    def _pass(self, frame: CanFrame, port: Port) -> None:
        if self._is_open() and port.send(frame):
            self.passed += 1
        else:
            self.refused += 1
