"""CAN logs of every usual tool, decoded in columns.

    with CanLog("drive.blf") as log:
        for block in decode_log(log, [database]):
            for each in block.decoded:
                each.message.name, each.times_s, each.columns["PackVoltage"]

A log is read in blocks of frames, so that an hour of bus traffic needs no more memory than a minute. Each format is a module
that turns bytes into frames and opens nothing (`_candump`, `_asc`, `_blf`, ...); which one reads a log is decided by the
log's content (`_formats`). Whatever the bytes are, reading ends: what breaks off is said in `CanLog.fault`, what is damaged
in the middle is skipped and counted in `CanLog.skipped`.
"""

from __future__ import annotations

from bmsota.adapters.canlogs._decode import DecodedMessage, LogBlock, Misfit, decode_log
from bmsota.adapters.canlogs._frames import FrameKind, LogFrame, LogNotes, SkippedPart
from bmsota.adapters.canlogs._log import BLOCK_FRAMES, STANDARD_INPUT, CanLog

__all__ = [
    "BLOCK_FRAMES",
    "LOG_SUFFIXES",
    "STANDARD_INPUT",
    "CanLog",
    "DecodedMessage",
    "FrameKind",
    "LogBlock",
    "LogFrame",
    "LogNotes",
    "Misfit",
    "SkippedPart",
    "decode_log",
]

# The formats that python-can writes, by which `canrecord` keeps a log.
LOG_SUFFIXES = (".asc", ".blf", ".log", ".trc")
