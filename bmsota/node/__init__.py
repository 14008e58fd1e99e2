"""What a flashable node is, whatever protocol it speaks: what `bmsota.bootloader` and `bmsota.uds` share.

NodeDescription, TargetIdentity       what a node says of itself, and what it was given at production
NodeMode, Capability, ImageStatus     what it is doing, what it can do, where its images are in their lives
NodeCommand, ResultCode               what it can be asked to do, and what comes of it
FlashJob, NodeResult                  the same of several nodes at once, in both upgrades of a pack
TargetConnected ... ResetRequested    the events of a flasher's machines and of a node's; `FAILURES` explains the causes
ExpectedNode                          whether a node is the one an image is for
NodeStaging, OfferedImage             an image on its way into the node's slots, and what becomes of it there; NodeRefusedError
AccessSigner, AccessGuard             security access: the flasher's signer, the node's lock
CanProtocol, FinishingCanProtocol     the one surface of everything that takes CAN frames and time
"""

from __future__ import annotations

from bmsota import _needs_trust  # noqa: F401 - first: it names the extra
from bmsota.node._access import (
    CHALLENGE_BYTES,
    SIGNATURE_BYTES,
    AccessGuard,
    AccessSigner,
    access_message,
    answer_challenge,
    is_signed_by,
    public_key_from_pem,
    signer_from_pem,
)
from bmsota.node._admission import ExpectedNode
from bmsota.node._description import (
    HWID_BYTES_MAX,
    POSITION_MAX,
    SLOT_SIZE_KIB_MAX,
    Capability,
    ImageStatus,
    NodeDescription,
    NodeMode,
    TargetIdentity,
    check_position,
    image_status,
    spare_image_status,
)
from bmsota.node._events import (
    CAUSE_OF_RESULT,
    FAILURES,
    AccessDenied,
    AccessGranted,
    BlockAccepted,
    BlockRepeated,
    BlockStored,
    BootloaderEntered,
    BootloaderLeft,
    ClientEvent,
    CommandEvent,
    CommandFailed,
    CommandSucceeded,
    Failure,
    FailureCause,
    ImageConfirmed,
    ImageRefused,
    ImageReverted,
    ImageStaged,
    ImageVerified,
    MessagesLost,
    NodeEvent,
    NodeFound,
    RepliesDropped,
    ResetRequested,
    StagingStarted,
    TargetConnected,
    TargetEvent,
    TestRequested,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
    count_event,
)
from bmsota.node._operations import FlashJob, NodeResult
from bmsota.node._protocol import CanProtocol, FinishingCanProtocol
from bmsota.node._results import NodeCommand, ResultCode
from bmsota.node._staging import NodeRefusedError, NodeStaging, OfferedImage

__all__ = [
    "CAUSE_OF_RESULT",
    "CHALLENGE_BYTES",
    "FAILURES",
    "HWID_BYTES_MAX",
    "POSITION_MAX",
    "SIGNATURE_BYTES",
    "SLOT_SIZE_KIB_MAX",
    "AccessDenied",
    "AccessGranted",
    "AccessGuard",
    "AccessSigner",
    "BlockAccepted",
    "BlockRepeated",
    "BlockStored",
    "BootloaderEntered",
    "BootloaderLeft",
    "CanProtocol",
    "Capability",
    "ClientEvent",
    "CommandEvent",
    "CommandFailed",
    "CommandSucceeded",
    "ExpectedNode",
    "Failure",
    "FailureCause",
    "FinishingCanProtocol",
    "FlashJob",
    "ImageConfirmed",
    "ImageRefused",
    "ImageReverted",
    "ImageStaged",
    "ImageStatus",
    "ImageVerified",
    "MessagesLost",
    "NodeCommand",
    "NodeDescription",
    "NodeEvent",
    "NodeFound",
    "NodeMode",
    "NodeRefusedError",
    "NodeResult",
    "NodeStaging",
    "OfferedImage",
    "RepliesDropped",
    "ResetRequested",
    "ResultCode",
    "StagingStarted",
    "TargetConnected",
    "TargetEvent",
    "TargetIdentity",
    "TestRequested",
    "TransferFailed",
    "TransferInterrupted",
    "TransferStarted",
    "access_message",
    "answer_challenge",
    "check_position",
    "count_event",
    "image_status",
    "is_signed_by",
    "public_key_from_pem",
    "signer_from_pem",
    "spare_image_status",
]
