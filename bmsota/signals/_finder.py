"""Which message of a DBC a CAN frame is: by its id, by some bits of it, or by its J1939 parameter group.

A J1939 id holds a priority, a parameter group number (PGN) and the sender's address (SAE J1939-21, 5.2). What the data mean
depends on the PGN alone, but a DBC has to write whole ids: with some priority, and with an address that is seldom the one on
the bus (0xFE stands for "any"). Charging by GB/T 27930 uses the same ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.signals._database import Database, Message

EXTENDED_FLAG = 1 << 31
# From this PDU format on, the byte below it belongs to the PGN; under it, it is the destination's address.
_PDU2_FORMAT_MIN = 240
_ADDRESS_ANY = 0xFE


def pgn_of(can_id: int) -> int:
    """The parameter group number of a J1939 frame's 29-bit id.

    >>> f"{pgn_of(0x18FEF100):X}", f"{pgn_of(0x1C0256F4):X}"
    ('FEF1', '200')
    """
    number = can_id >> 8 & 0x3FFFF
    return number if number >> 8 & 0xFF >= _PDU2_FORMAT_MIN else number & 0x3FF00


class MessageFinder:
    """Finds the message of a frame in one or more databases. The first database that has it counts.

    The whole id is tried first, then the bits of *id_mask*, then the PGN: of the messages that their DBC declares to be J1939
    (`Message.is_j1939`), or with *j1939* of every message with an extended id. Where several messages have the same PGN, one
    with the frame's source address is preferred, then one with its destination, then one with source address 0xFE, then the
    first.
    """

    __slots__ = ("_exact", "_groups", "_id_mask", "_masked")

    def __init__(self, databases: Sequence[Database], *, j1939: bool = False, id_mask: int | None = None) -> None:
        self._exact: dict[int, Message] = {}
        self._masked: dict[int, Message] = {}
        self._groups: dict[int, list[Message]] = {}
        # The flag is always compared: a standard and an extended id are never the same message.
        self._id_mask = None if id_mask is None else id_mask | EXTENDED_FLAG
        for database in databases:
            for message in database.messages:
                key = message.can_id | EXTENDED_FLAG if message.is_extended_id else message.can_id
                self._exact.setdefault(key, message)
                if self._id_mask is not None:
                    self._masked.setdefault(key & self._id_mask, message)
                if message.is_j1939 or (j1939 and message.is_extended_id):
                    self._groups.setdefault(pgn_of(message.can_id), []).append(message)

    @property
    def has_j1939(self) -> bool:
        """Whether any message is found by its PGN: then transport packets are worth putting together (`TransportReassembler`)."""
        return bool(self._groups)

    def find(self, can_id: int, *, is_extended_id: bool) -> Message | None:
        """The message of a frame with this id; None if no database has it."""
        key = can_id | EXTENDED_FLAG if is_extended_id else can_id
        found = self._exact.get(key)
        if found is None and self._id_mask is not None:
            found = self._masked.get(key & self._id_mask)
        if found is None and is_extended_id:
            group = self._groups.get(pgn_of(can_id))
            if group is not None:
                found = max(group, key=lambda message: _likeness(message.can_id, can_id))
        return found


def _likeness(can_id: int, other: int) -> tuple[bool, bool, bool]:
    """How well the address bytes of an id in the DBC fit an id on the bus with the same PGN; the larger the better."""
    return can_id & 0xFF == other & 0xFF, can_id & 0xFF00 == other & 0xFF00, can_id & 0xFF == _ADDRESS_ANY
