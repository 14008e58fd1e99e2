"""The CAN bootloader of `dbc/bms_bootloader*.dbc`: both ends, without a bus.

Design decision 5; docs/bootloader.md explains the protocol. The public names::

    BootloaderWire(database)      typed messages <-> CAN frames, laid out by the DBC: 11-bit or 29-bit ids, classic or FD data
    BootloaderClient              stage one image on one node: find, unlock, offer, send, verify; resumes after cuts
    BroadcastClient               the same for many equal nodes at once, with a result for each
    BootloaderCommand             one command to one node: activate the test, reset, confirm, revert, read its version
    BootloaderDiscovery           which nodes are on the bus
    BootloaderTarget              the node's side, on a `bmsota.boot.BootStore`

All of them are driven the same way: they are `bmsota.node.CanProtocol`s, and their events are those of `bmsota.node`.
"""

from __future__ import annotations

from bmsota import _needs_trust  # noqa: F401 - first: it names the extra
from bmsota.bootloader._broadcast import BroadcastClient, BroadcastPhase
from bmsota.bootloader._client import CLIENT_TRANSITIONS, BootloaderClient, ClientState, ClientStimulus
from bmsota.bootloader._commands import (
    COMMAND_TRANSITIONS,
    BootloaderCommand,
    BootloaderDiscovery,
    CommandState,
    CommandStimulus,
)
from bmsota.bootloader._messages import BLOCK_FRAMES_MAX, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, BootloaderDetails
from bmsota.bootloader._target import TARGET_TRANSITIONS, BootloaderTarget, TargetLimits
from bmsota.bootloader._timing import BootloaderTiming, TargetTiming
from bmsota.bootloader._wire import BootloaderWire

__all__ = [
    "BLOCK_FRAMES_MAX",
    "CLIENT_TRANSITIONS",
    "COMMAND_TRANSITIONS",
    "PROTOCOL_VERSION",
    "PROTOCOL_VERSION_MIN",
    "TARGET_TRANSITIONS",
    "BootloaderClient",
    "BootloaderCommand",
    "BootloaderDetails",
    "BootloaderDiscovery",
    "BootloaderTarget",
    "BootloaderTiming",
    "BootloaderWire",
    "BroadcastClient",
    "BroadcastPhase",
    "ClientState",
    "ClientStimulus",
    "CommandState",
    "CommandStimulus",
    "TargetLimits",
    "TargetTiming",
]
