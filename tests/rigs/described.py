"""What a node says of itself at a discovery, without a node."""

from __future__ import annotations

from uuid import UUID

from bmsota.boot import BootReason, SlotState
from bmsota.image import ImageRole, ImageVersion
from bmsota.node import Capability, NodeDescription, NodeMode


def describe(position=1, **fields):
    """A slave at rest with a confirmed image in slot 0; *fields* say what is different."""
    usual = {
        "position": position,
        "role": ImageRole.SLAVE,
        "hwid": f"S-{position}",
        "serial": f"SN-{position}",
        "class_id": UUID(int=1),
        "version": ImageVersion(2),
        "security_counter": 1,
        "state": NodeMode.APPLICATION,
        "boot_reason": BootReason.NORMAL,
        "slot_states": (SlotState.CONFIRMED, SlotState.EMPTY),
        "active_slot": 0,
        "running_slot": 0,
        "protocol_version": 2,
        "protocol_version_min": 2,
        "capabilities": Capability.NONE,
        "boot_id": 1,
    }
    return NodeDescription(**{**usual, **fields})
