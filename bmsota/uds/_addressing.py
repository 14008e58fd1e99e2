"""Which CAN ids a node's requests and responses have, by its position.

ISO 15765-4 names eight pairs of 11-bit ids and the functional id 0x7DF; ISO 15765-2 clause 10.3.4 the 29-bit ids of normal fixed
addressing (0x18DA, target address, source address; 0x18DB for functional requests). The tester's address is 0xF1; the
node at position p has the address 0x10 + p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.errors import LocalProtocolError

if TYPE_CHECKING:
    from bmsota.canframe import CanFrame


@dataclass(frozen=True, slots=True)
class UdsAddress:
    """The ids of one node."""

    request_id: int
    """Of what the tester sends to this node."""
    response_id: int
    functional_id: int
    """Of what the tester sends to every node."""
    is_extended_id: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UdsAddressing:
    """A rule that gives each position its ids. Make your own for nodes with other ids: one position is enough."""

    request_id: int
    """Of position 0."""
    response_id: int
    """Of position 0."""
    functional_id: int
    request_step: int = 1
    """From one position to the next."""
    response_step: int = 1
    positions: int = 1
    is_extended_id: bool = False

    def address(self, position: int) -> UdsAddress:
        """The ids of the node at *position*.

        Raises:
            LocalProtocolError: this rule has no ids for *position*.
        """
        if not 0 <= position < self.positions:
            raise LocalProtocolError(f"position: expected 0 to {self.positions - 1}, got {position}")
        return UdsAddress(
            self.request_id + position * self.request_step,
            self.response_id + position * self.response_step,
            self.functional_id,
            self.is_extended_id,
        )

    def position_of(self, frame: CanFrame) -> int | None:
        """Whose response *frame* belongs to; None if it is no response."""
        position, rest = divmod(frame.can_id - self.response_id, self.response_step)
        if frame.is_extended_id is not self.is_extended_id or rest or not 0 <= position < self.positions:
            return None
        return position


UDS_11BIT = UdsAddressing(request_id=0x7E0, response_id=0x7E8, functional_id=0x7DF, positions=8)
"""0x7E0 + p and 0x7E8 + p, for the positions 0 to 7."""

UDS_29BIT = UdsAddressing(
    request_id=0x18DA10F1,
    response_id=0x18DAF110,
    functional_id=0x18DB33F1,
    request_step=0x100,
    positions=32,
    is_extended_id=True,
)
"""0x18DA10F1 + 0x100 p and 0x18DAF110 + p, for the positions 0 to 31. 0x33 is the functional address of ISO 15765-4."""
