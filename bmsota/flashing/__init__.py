"""The flashing engine: operations over several nodes on one bus, whatever protocol each node speaks.

Used by a master for its slaves, and by whoever flashes a pack through an adapter. The DBC bootloader is the one profile
so far; UDS becomes a second one beside it. Public names: `FlashingEngine`, `FlashJob`, and its events.
"""

from __future__ import annotations

from bmsota.flashing.engine import (
    EngineEvent,
    FlashingEngine,
    FlashJob,
    NodeResult,
    NodesDiscovered,
    OperationFinished,
    TransferBroken,
    TransferProgressed,
)

__all__ = [
    "EngineEvent",
    "FlashJob",
    "FlashingEngine",
    "NodeResult",
    "NodesDiscovered",
    "OperationFinished",
    "TransferBroken",
    "TransferProgressed",
]
