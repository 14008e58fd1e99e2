"""UDS (ISO 14229-1) on ISO-TP (ISO 15765-2): flash nodes that speak it, and be such a node. Both ends, without a bus.

Design decision 5; docs/uds.md has every identifier, routine and refusal. The public names::

    UdsAddressing, UDS_11BIT, UDS_29BIT   position -> CAN ids
    UdsTransfer                           stage one image on one node; resumes where an earlier run broke off
    UdsCommand                            one command to one node: activate the test, reset, confirm, revert, read its version
    UdsDiscovery                          which nodes are on the bus
    UdsServer                             the node's side, on a `bmsota.boot.BootStore`
    UdsDialect                            what differs from one kind of node to the next
    IsoTpLink                             messages <-> CAN frames

All of them are driven the same way: they are `bmsota.node.CanProtocol`s, and their events are those of `bmsota.node`.

The state machine of ISO-TP is can-isotp's, the coding of the services udsoncan's; both come with the extra 'can'.
"""

from __future__ import annotations

from bmsota import _needs_can  # noqa: F401 - first: it names the extra
from bmsota.uds._access import AccessCheck, AccessKey, ed25519_access_check, ed25519_access_key, signed_access_key
from bmsota.uds._addressing import UDS_11BIT, UDS_29BIT, UdsAddress, UdsAddressing
from bmsota.uds._commands import UdsCommand, UdsDiscovery
from bmsota.uds._dialect import UdsDialect
from bmsota.uds._identifiers import (
    DIDS,
    NRCS,
    ROUTINES,
    UDS_PROFILE_VERSION,
    Did,
    DidRow,
    ImageOffer,
    Nrc,
    Routine,
    Session,
    nrc_name,
)
from bmsota.uds._isotp import IsoTpError, IsoTpFault, IsoTpLink, IsoTpParameters
from bmsota.uds._server import SERVICES, ServiceRule, UdsServer
from bmsota.uds._timing import UdsServerTiming, UdsTiming
from bmsota.uds._transfer import UdsTransfer

__all__ = [
    "DIDS",
    "NRCS",
    "ROUTINES",
    "SERVICES",
    "UDS_11BIT",
    "UDS_29BIT",
    "UDS_PROFILE_VERSION",
    "AccessCheck",
    "AccessKey",
    "Did",
    "DidRow",
    "ImageOffer",
    "IsoTpError",
    "IsoTpFault",
    "IsoTpLink",
    "IsoTpParameters",
    "Nrc",
    "Routine",
    "ServiceRule",
    "Session",
    "UdsAddress",
    "UdsAddressing",
    "UdsCommand",
    "UdsDialect",
    "UdsDiscovery",
    "UdsServer",
    "UdsServerTiming",
    "UdsTiming",
    "UdsTransfer",
    "ed25519_access_check",
    "ed25519_access_key",
    "nrc_name",
    "signed_access_key",
]
