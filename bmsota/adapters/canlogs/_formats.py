"""Which format a log has: by its content, and by its suffix only where the content does not tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bmsota.adapters.canlogs import (
    _asc,
    _blf,
    _busmaster,
    _candump,
    _carbus,
    _gvret,
    _mf4,
    _microchip,
    _pythoncan_csv,
    _trc,
)
from bmsota.adapters.canlogs._text import TextReader, encoding_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.adapters.canlogs._frames import LogNotes, LogReader
    from bmsota.adapters.canlogs._text import LineFormat

# Of a log that begins with garbage or a long header, so much is looked at.
HEAD_SIZE_BYTES = 65_536

MF4 = "MF4"
BLF = "Vector BLF"

# Name -> whether a line is of it, what reads it, the suffixes it is found under. In the order in which they are asked: those
# whose mark is a header before those whose mark is an ordinary line.
_TEXTS: dict[str, tuple[Callable[[str], bool], Callable[[LogNotes], LineFormat], tuple[str, ...]]] = {
    "BUSMASTER": (_busmaster.recognizes, _busmaster.BusmasterLines, ()),
    "CARBUS Analyzer": (_carbus.recognizes, _carbus.CarbusLines, ()),
    "Microchip CAN BUS Analyzer": (_microchip.recognizes, _microchip.MicrochipLines, ()),
    "python-can CSV": (_pythoncan_csv.recognizes, _pythoncan_csv.PythonCanCsvLines, ()),
    "SavvyCAN CSV": (_gvret.recognizes, _gvret.GvretLines, (".csv",)),
    "PEAK trace": (_trc.recognizes, _trc.TrcLines, (".trc",)),
    "Vector ASCII": (_asc.recognizes, _asc.AscLines, (".asc",)),
    "candump": (_candump.recognizes, _candump.CandumpLines, (".log",)),
}

KNOWN = "candump, Vector .asc and .blf, PEAK .trc, MF4, SavvyCAN/GVRET and python-can .csv, BUSMASTER, CARBUS Analyzer, Microchip"


# What people pass for a log, and what to do with it. gzip is read as it is.
_UNPACK = "unpack it first, or pipe what it holds to `-`"
_OTHERS: dict[bytes, str] = {
    b"\xfd7zXZ\0": f"compressed with xz; {_UNPACK}",
    b"BZh": f"compressed with bzip2; {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed with Zstandard; {_UNPACK}",
    b"PK\x03\x04": f"a zip archive; {_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive; {_UNPACK}",
    b"\x0a\x0d\x0d\x0a": "a Wireshark capture; record the bus with `candump -l`",
    b"\xd4\xc3\xb2\xa1": "a Wireshark capture; record the bus with `candump -l`",
    b"\x4d\x3c\xb2\xa1": "a Wireshark capture; record the bus with `candump -l`",
}


def what_else(head: bytes) -> str | None:
    """What a file is that is no log and begins with *head*, with a way out; None if that is not known."""
    return next((words for magic, words in _OTHERS.items() if head.startswith(magic)), None)


def format_of(head: bytes, name: str) -> str | None:
    """The format of a log that begins with *head* and is called *name*; None if neither tells."""
    if head.startswith(_mf4.MAGICS):
        return MF4
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    # A binary log whose header is damaged has objects all the same.
    if head.startswith(_blf.MAGIC) or (suffix == ".blf" and b"LOBJ" in head):
        return BLF
    lines = head.decode(encoding_of(head), errors="replace").splitlines()
    for line in lines:
        for found, (recognizes, _, _) in _TEXTS.items():
            if recognizes(line):
                return found
    return next((found for found, (_, _, suffixes) in _TEXTS.items() if suffix in suffixes), None)


def reader_of(found: str, notes: LogNotes) -> LogReader:
    """The reader of a format that `format_of` has named; MF4 has none, see `_mf4`."""
    if found == BLF:
        return _blf.BlfReader(notes)
    return TextReader(_TEXTS[found][1](notes), notes)
