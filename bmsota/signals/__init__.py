"""CAN signals by DBC: `loads(text)` or `load(path)` gives a `Database`, its messages decode and encode frames.

    database = loads(text)
    database["PackState"].decode(frame.data)   # {"PackVoltage": 355.2, "State": "Discharging", ...}
    database["MasterCommand"].frame({"Mode": "Normal", ...})
    database["PackState"].decode_batch(array)  # array of n x length bytes -> a NumPy array per signal

Both codecs, for one frame and for columns of frames, are compiled from a plan per message (`Message.layout`); cantools only
parses. NumPy is imported when columns are first asked for. Not here: reading files and logs (`bmsota.adapters`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.signals._columns import Columns
from bmsota.signals._database import Database, Fault, Message, Severity
from bmsota.signals._load import loads
from bmsota.signals._plan import Branch, Node, Signal, SignalValue

if TYPE_CHECKING:
    from bmsota.adapters.files import FilePath

__all__ = [
    "Branch",
    "Columns",
    "Database",
    "Fault",
    "Message",
    "Node",
    "Severity",
    "Signal",
    "SignalValue",
    "load",
    "loads",
]


def load(path: FilePath) -> Database:
    """Read the DBC file at *path*; see `loads`. The reading is done by `bmsota.adapters.files`.

    Raises:
        OSError: the file cannot be read.
        SignalError: as `loads`.
    """
    from bmsota.adapters.files import load_dbc  # noqa: PLC0415 - a door to the file system, opened only when asked

    return load_dbc(path)
