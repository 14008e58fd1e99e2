"""The CAN bootloader of `dbc/bms_bootloader.dbc`: both ends, without a bus.

Issue 2, design decision 5; docs/bootloader.md explains the protocol. The public names::

    BootloaderWire(database)      typed messages <-> CAN frames, laid out by the DBC
    BootloaderClient              stage one image on one node: find, offer, send, verify; resumes after cuts
    NodeCommand                   one command to one node: activate the test, reset, confirm, revert, read its version
    NodeDiscovery                 which nodes are on the bus
    BootloaderTarget              the node's side, on a `bmsota.boot.BootStore`

All of them are driven the same way: `receive_frame(frame, now_ns)`, `handle_timeout(now_ns)`,
`frames_to_send(now_ns)`, `next_event()`, `next_timeout()`.

Left out until issue 4: broadcast transfers, CAN FD data, windows of more than 64 frames, compression, security access.
Their places are kept: capability bits, block numbers and segments in the replies, flags in the offer record.
"""

from __future__ import annotations

from bmsota.bootloader._client import CLIENT_TRANSITIONS, BootloaderClient, ClientState, ClientStimulus, ExpectedNode
from bmsota.bootloader._commands import COMMAND_TRANSITIONS, CommandState, CommandStimulus, NodeCommand, NodeDiscovery
from bmsota.bootloader._events import (
    FAILURES,
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
    Capability,
    Command,
    NodeDescription,
    NodeState,
    ResultCode,
)
from bmsota.bootloader._target import TARGET_TRANSITIONS, BootloaderTarget, TargetIdentity
from bmsota.bootloader._timing import BootloaderTiming, TargetTiming
from bmsota.bootloader._wire import BootloaderWire

__all__ = [
    "BLOCK_FRAMES_MAX",
    "CLIENT_TRANSITIONS",
    "COMMAND_TRANSITIONS",
    "FAILURES",
    "POSITION_MAX",
    "PROTOCOL_VERSION",
    "TARGET_TRANSITIONS",
    "BlockAccepted",
    "BlockRepeated",
    "BlockStored",
    "BootloaderClient",
    "BootloaderEntered",
    "BootloaderLeft",
    "BootloaderTarget",
    "BootloaderTiming",
    "BootloaderWire",
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
    "NodeFound",
    "NodeState",
    "ResetRequested",
    "ResultCode",
    "StagingStarted",
    "TargetConnected",
    "TargetEvent",
    "TargetIdentity",
    "TargetTiming",
    "TestRequested",
    "TransferFailed",
    "TransferInterrupted",
    "TransferStarted",
]
