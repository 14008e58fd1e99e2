"""The life of one slot, as a table.

The same in characters (the other slot is the active one and stays as it is)::

    EMPTY --BEGUN--> STAGING --VERIFIED--> STAGED --TEST_REQUESTED--> TEST_REQUESTED --TEST_BOOTED--> TEST
                        |                    ^                              |                          |   |
                        +--REFUSED--> BAD    +----------REVERTED------------+------REVERTED------------+   |
                                             +----------REVERTED-------- CONFIRMED <-----CONFIRMED---------+

A slot in TEST has been booted once and is reverted by the next boot unless it is confirmed before.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class SlotState(IntEnum):
    """What a slot holds. The numbers stand in the journal and on the wire; never reuse one."""

    EMPTY = 0
    STAGING = 1
    """Being written; not bootable."""
    STAGED = 2
    """Complete and verified; not pending, or reverted."""
    TEST_REQUESTED = 3
    """Pending: the next boot tests it."""
    TEST = 4
    """It has been booted once and is not confirmed yet."""
    CONFIRMED = 5
    """The active slot, or the one that was active before."""
    BAD = 6
    """Complete and refused, or found damaged."""


class SlotChange(IntEnum):
    """What happens to a slot."""

    BEGUN = 0
    """Staging starts from the slot's beginning."""
    VERIFIED = 1
    REFUSED = 2
    """Digest, signature, hardware or counter was wrong at the end of staging."""
    TEST_REQUESTED = 3
    TEST_BOOTED = 4
    CONFIRMED = 5
    REVERTED = 6
    DAMAGED = 7
    """A boot found the image invalid."""
    RESCUED = 8
    """A boot found no other image to run than this genuine one, whatever its state."""


_S, _C = SlotState, SlotChange

SLOT_TRANSITIONS: Mapping[tuple[SlotState, SlotChange], SlotState] = {
    (_S.EMPTY, _C.BEGUN): _S.STAGING,
    (_S.EMPTY, _C.RESCUED): _S.CONFIRMED,
    (_S.STAGING, _C.BEGUN): _S.STAGING,
    (_S.STAGING, _C.VERIFIED): _S.STAGED,
    (_S.STAGING, _C.REFUSED): _S.BAD,
    (_S.STAGING, _C.RESCUED): _S.CONFIRMED,
    (_S.STAGED, _C.BEGUN): _S.STAGING,
    (_S.STAGED, _C.VERIFIED): _S.STAGED,
    (_S.STAGED, _C.REFUSED): _S.BAD,
    (_S.STAGED, _C.TEST_REQUESTED): _S.TEST_REQUESTED,
    (_S.STAGED, _C.DAMAGED): _S.BAD,
    (_S.STAGED, _C.RESCUED): _S.CONFIRMED,
    (_S.TEST_REQUESTED, _C.BEGUN): _S.STAGING,
    (_S.TEST_REQUESTED, _C.VERIFIED): _S.TEST_REQUESTED,
    (_S.TEST_REQUESTED, _C.REFUSED): _S.BAD,
    (_S.TEST_REQUESTED, _C.TEST_REQUESTED): _S.TEST_REQUESTED,
    (_S.TEST_REQUESTED, _C.TEST_BOOTED): _S.TEST,
    (_S.TEST_REQUESTED, _C.REVERTED): _S.STAGED,
    (_S.TEST_REQUESTED, _C.DAMAGED): _S.BAD,
    (_S.TEST_REQUESTED, _C.RESCUED): _S.CONFIRMED,
    (_S.TEST, _C.CONFIRMED): _S.CONFIRMED,
    (_S.TEST, _C.REVERTED): _S.STAGED,
    (_S.CONFIRMED, _C.BEGUN): _S.STAGING,
    (_S.CONFIRMED, _C.VERIFIED): _S.STAGED,
    (_S.CONFIRMED, _C.REFUSED): _S.BAD,
    (_S.CONFIRMED, _C.REVERTED): _S.STAGED,
    (_S.CONFIRMED, _C.DAMAGED): _S.BAD,
    (_S.CONFIRMED, _C.RESCUED): _S.CONFIRMED,
    (_S.BAD, _C.BEGUN): _S.STAGING,
    (_S.BAD, _C.RESCUED): _S.CONFIRMED,
}
"""(state, change) -> next state. What is not here is refused with `LocalProtocolError`. BEGUN, VERIFIED and REFUSED of a
CONFIRMED slot mean the slot that was active before, never the active one."""
