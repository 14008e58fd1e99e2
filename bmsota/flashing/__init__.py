"""The flashing engine: operations over several nodes on one bus, whatever protocol each node speaks.

Used by a master for its slaves, and to flash a pack through an adapter. A *profile* is a protocol: the DBC bootloader is one,
UDS another. Public names: `FlashingEngine`, its events, and the profiles. On top of it the flashing of a whole
pack: `FlashSource`, `make_plan` with its `Check`s, `PackFlash`.
"""

from __future__ import annotations

from bmsota import _needs_trust  # noqa: F401 - first: it names the extra
from bmsota.flashing._bootloader import BootloaderProfile
from bmsota.flashing._checks import CHECKS, NOT_OVERRIDABLE, OVERRIDABLE, Check, Finding, Verdict
from bmsota.flashing._engine import (
    EngineEvent,
    FlashingEngine,
    FramesRepeated,
    NodeDone,
    NodesDiscovered,
    OperationFinished,
    TransferBegun,
    TransferBroken,
    TransferProgressed,
)
from bmsota.flashing._pack import (
    RUNS_NEW,
    FlashEvent,
    FlashFinished,
    FlashOutcome,
    FlashPhase,
    FlashResult,
    NodeFlashReport,
    PackFlash,
    PhaseBegun,
    PhaseTime,
    PlanMade,
    TargetStatus,
    target_status,
)
from bmsota.flashing._plan import Action, FlashPlan, NodePlan, PlanRequest, Targets, class_text, make_plan, node_words
from bmsota.flashing._profile import FlashingProfile
from bmsota.flashing._source import FlashSource, SourceError, SourceFault, SourceImage
from bmsota.flashing._uds import UdsProfile

__all__ = [
    "CHECKS",
    "NOT_OVERRIDABLE",
    "OVERRIDABLE",
    "RUNS_NEW",
    "Action",
    "BootloaderProfile",
    "Check",
    "EngineEvent",
    "Finding",
    "FlashEvent",
    "FlashFinished",
    "FlashOutcome",
    "FlashPhase",
    "FlashPlan",
    "FlashResult",
    "FlashSource",
    "FlashingEngine",
    "FlashingProfile",
    "FramesRepeated",
    "NodeDone",
    "NodeFlashReport",
    "NodePlan",
    "NodesDiscovered",
    "OperationFinished",
    "PackFlash",
    "PhaseBegun",
    "PhaseTime",
    "PlanMade",
    "PlanRequest",
    "SourceError",
    "SourceFault",
    "SourceImage",
    "TargetStatus",
    "Targets",
    "TransferBegun",
    "TransferBroken",
    "TransferProgressed",
    "UdsProfile",
    "Verdict",
    "class_text",
    "make_plan",
    "node_words",
    "target_status",
]
