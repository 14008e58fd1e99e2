"""The flashing engine: operations over several nodes on one bus, whatever protocol each node speaks.

Used by a master for its slaves, and by whoever flashes a pack through an adapter. A *profile* is a protocol: the DBC
bootloader is one. Public names: `FlashingEngine`, `FlashJob`, its events, and the profiles.
"""

from __future__ import annotations

from bmsota.flashing.engine import (
    EngineEvent,
    FlashingEngine,
    FlashJob,
    FramesRepeated,
    NodeDone,
    NodeResult,
    NodesDiscovered,
    OperationFinished,
    TransferBegun,
    TransferBroken,
    TransferProgressed,
)
from bmsota.flashing.profile import BootloaderProfile, DiscoveryMachine, FlashingProfile, Machine

__all__ = [
    "BootloaderProfile",
    "DiscoveryMachine",
    "EngineEvent",
    "FlashJob",
    "FlashingEngine",
    "FlashingProfile",
    "FramesRepeated",
    "Machine",
    "NodeDone",
    "NodeResult",
    "NodesDiscovered",
    "OperationFinished",
    "TransferBegun",
    "TransferBroken",
    "TransferProgressed",
]
