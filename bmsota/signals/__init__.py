"""CAN signals by DBC: `loads(text)` gives a `Database`; its messages decode and encode frames.

    database = loads(text)
    database["PackState"].decode(frame.data)   # {"PackVoltage": 355.2, "State": "Discharging", ...}
    database["MasterCommand"].frame({"Mode": "Normal", ...})
    database["PackState"].decode_batch(array)  # array of n x length bytes -> a NumPy array per signal
    E2EChecker(database["PackState"]).check(frame.data)  # E2EStatus.OK, .ERROR, .REPEATED, ...

`MessageFinder` says which message a frame is, also by a J1939 parameter group; `TransportReassembler` puts J1939's transport
packets together. Both codecs, for one frame and for columns of frames, are compiled from a plan per message (`Message.layout`); cantools only
parses. NumPy is imported when columns are first used. DBC files are read by `bmsota.adapters.files.load_dbc`, logs by
`bmsota.adapters.canlogs`.
"""

from __future__ import annotations

from bmsota.signals._columns import SignalColumns
from bmsota.signals._crc import CrcAlgorithm
from bmsota.signals._database import Database, DbcFault, Message, MessageFinder, Severity
from bmsota.signals._load import loads
from bmsota.signals._plan import Branch, LayoutNode, NamedValue, Signal, Signals, SignalValue
from bmsota.signals._protection import DataIdMode, E2EChecker, E2EProfile, E2EProtection, E2EProtector, E2EStatus
from bmsota.signals._transport import OtherTransport, TransportFault, TransportMessage, TransportReassembler, pgn_of

__all__ = [
    "Branch",
    "CrcAlgorithm",
    "DataIdMode",
    "Database",
    "DbcFault",
    "E2EChecker",
    "E2EProfile",
    "E2EProtection",
    "E2EProtector",
    "E2EStatus",
    "LayoutNode",
    "Message",
    "MessageFinder",
    "NamedValue",
    "OtherTransport",
    "Severity",
    "Signal",
    "SignalColumns",
    "SignalValue",
    "Signals",
    "TransportFault",
    "TransportMessage",
    "TransportReassembler",
    "loads",
    "pgn_of",
]
