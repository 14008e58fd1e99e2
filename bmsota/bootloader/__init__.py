"""The CAN bootloader of `dbc/bms_bootloader*.dbc`: both ends, without a bus.

Design decision 5; docs/bootloader.md explains the protocol. The public names::

    BootloaderWire(database)      typed messages <-> CAN frames, laid out by the DBC: 11-bit or 29-bit ids, classic or FD data
    BootloaderClient              stage one image on one node: find, unlock, offer, send, verify; resumes after cuts
    BroadcastClient               the same for many equal nodes at once, with a result for each
    NodeCommand                   one command to one node: activate the test, reset, confirm, revert, read its version
    NodeDiscovery                 which nodes are on the bus
    BootloaderTarget              the node's side, on a `bmsota.boot.BootStore`

All of them are driven the same way: `receive_frame(frame, now_ns)`, `handle_timeout(now_ns)`,
`frames_to_send(now_ns)`, `next_event()`, `next_timeout()`.
"""

from __future__ import annotations

from bmsota.bootloader._access import (
    AccessGuard,
    AccessSigner,
    access_message,
    answer_challenge,
    public_key_from_pem,
    signer_from_pem,
)
from bmsota.bootloader._broadcast import BroadcastClient, BroadcastPhase
from bmsota.bootloader._client import CLIENT_TRANSITIONS, BootloaderClient, ClientState, ClientStimulus, ExpectedNode
from bmsota.bootloader._commands import COMMAND_TRANSITIONS, CommandState, CommandStimulus, NodeCommand, NodeDiscovery
from bmsota.bootloader._events import (
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
    NodeEvent,
    NodeFound,
    ResetRequested,
    StagingStarted,
    TargetConnected,
    TargetEvent,
    TestRequested,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)
from bmsota.bootloader._messages import (
    BLOCK_FRAMES_MAX,
    POSITION_MAX,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    SLOT_SIZE_KIB_MAX,
    Capability,
    Command,
    NodeDescription,
    NodeState,
    ResultCode,
)
from bmsota.bootloader._offer import offer_objection
from bmsota.bootloader._target import TARGET_TRANSITIONS, BootloaderTarget, TargetIdentity, TargetLimits
from bmsota.bootloader._timing import BootloaderTiming, TargetTiming
from bmsota.bootloader._wire import BootloaderWire

__all__ = [
    "BLOCK_FRAMES_MAX",
    "CLIENT_TRANSITIONS",
    "COMMAND_TRANSITIONS",
    "FAILURES",
    "POSITION_MAX",
    "PROTOCOL_VERSION",
    "PROTOCOL_VERSION_MIN",
    "SLOT_SIZE_KIB_MAX",
    "TARGET_TRANSITIONS",
    "AccessDenied",
    "AccessGranted",
    "AccessGuard",
    "AccessSigner",
    "BlockAccepted",
    "BlockRepeated",
    "BlockStored",
    "BootloaderClient",
    "BootloaderEntered",
    "BootloaderLeft",
    "BootloaderTarget",
    "BootloaderTiming",
    "BootloaderWire",
    "BroadcastClient",
    "BroadcastPhase",
    "Capability",
    "ClientEvent",
    "ClientState",
    "ClientStimulus",
    "Command",
    "CommandEvent",
    "CommandFailed",
    "CommandState",
    "CommandStimulus",
    "CommandSucceeded",
    "ExpectedNode",
    "Failure",
    "FailureCause",
    "ImageConfirmed",
    "ImageRefused",
    "ImageReverted",
    "ImageStaged",
    "ImageVerified",
    "NodeCommand",
    "NodeDescription",
    "NodeDiscovery",
    "NodeEvent",
    "NodeFound",
    "NodeState",
    "ResetRequested",
    "ResultCode",
    "StagingStarted",
    "TargetConnected",
    "TargetEvent",
    "TargetIdentity",
    "TargetLimits",
    "TargetTiming",
    "TestRequested",
    "TransferFailed",
    "TransferInterrupted",
    "TransferStarted",
    "access_message",
    "answer_challenge",
    "offer_objection",
    "public_key_from_pem",
    "signer_from_pem",
]
