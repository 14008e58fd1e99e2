"""The flashing engine: operations over several nodes on one bus, whatever protocol each node speaks.

Used by a master for its slaves, and by whoever flashes a pack through an adapter. A *profile* is a protocol: the DBC
bootloader is one, UDS another. Public names: `FlashingEngine`, `FlashJob`, its events, and the profiles. On top of it the field upgrade of
a whole pack: `make_plan`, `FieldUpgrade`, and what can go wrong (`FAULTS`).
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
from bmsota.flashing.faults import EXIT_CODES, FAULTS, ExitCode, Fault, FaultError, FaultRow, FieldFault
from bmsota.flashing.field import (
    FieldEvent,
    FieldFinished,
    FieldOutcome,
    FieldPhase,
    FieldResult,
    FieldUpgrade,
    NodeReport,
    PhaseBegun,
    PhaseTime,
    PlanMade,
    Standing,
    standing_of,
)
from bmsota.flashing.plan import (
    CHECKS,
    NOT_OVERRIDABLE,
    OVERRIDABLE,
    Action,
    Check,
    Finding,
    FlashPlan,
    FlashSource,
    NodePlan,
    PlanRequest,
    SourceImage,
    Targets,
    Verdict,
    is_on_trial,
    make_plan,
)
from bmsota.flashing.profile import BootloaderProfile, DiscoveryMachine, FlashingProfile, Machine
from bmsota.flashing.uds import UdsProfile

__all__ = [
    "CHECKS",
    "EXIT_CODES",
    "FAULTS",
    "NOT_OVERRIDABLE",
    "OVERRIDABLE",
    "Action",
    "BootloaderProfile",
    "Check",
    "DiscoveryMachine",
    "EngineEvent",
    "ExitCode",
    "Fault",
    "FaultError",
    "FaultRow",
    "FieldEvent",
    "FieldFault",
    "FieldFinished",
    "FieldOutcome",
    "FieldPhase",
    "FieldResult",
    "FieldUpgrade",
    "Finding",
    "FlashJob",
    "FlashPlan",
    "FlashSource",
    "FlashingEngine",
    "FlashingProfile",
    "FramesRepeated",
    "Machine",
    "NodeDone",
    "NodePlan",
    "NodeReport",
    "NodeResult",
    "NodesDiscovered",
    "OperationFinished",
    "PhaseBegun",
    "PhaseTime",
    "PlanMade",
    "PlanRequest",
    "SourceImage",
    "Standing",
    "Targets",
    "TransferBegun",
    "TransferBroken",
    "TransferProgressed",
    "UdsProfile",
    "Verdict",
    "is_on_trial",
    "make_plan",
    "standing_of",
]
