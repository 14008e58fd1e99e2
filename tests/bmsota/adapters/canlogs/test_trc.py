"""PEAK's trace file, every version; the format description's own examples for the kinds of lines."""

from __future__ import annotations

import io
import random

import can
import pytest
from canlog_rig import skipped, text

# 30 December 1899 and 45,251.5 days: 21 November 2023, noon.
START = ";$STARTTIME=45251.5\n"
START_S = 1700568000.0
SINCE = "times are seconds since the start of the trace"

VERSIONS = {
    "1.0": (
        (
        ";   Start time: 11.09.2002 16:00:20.682\n"
        "     1)      1841  0001  8  00 01 02 03 04 05 06 07\n"
        "     2)      1842  0008  4  ERROR 00 19 08 08\n"
        "     3)      1843  FFFFFFFF  4  00 00 00 04  ------BUSLIGHT\n"
        "     4)      1844  0100  3  RTR\n"
        "     5)      1845  18EFC034  0\n"
        ),
        [
            (1.841, "", 1, False, "0001020304050607"),
            (1.842, "", 0, False, "error"),
            (1.844, "", 0x100, False, "remote"),
            (1.845, "", 0x18EFC034, True, ""),
        ],
    ),
    "1.1": (
        (
        f";$FILEVERSION=1.1\n{START};\n"
        "     1)      1059.9  Rx         0300  7  00 00 00 00 04 00 00\n"
        "     2)      1283.2  Warng  FFFFFFFF  4  00 00 00 04  BUSLIGHT\n"
        "     3)      1298.9  Tx         0400  2  RTR\n"
        "     4)      1323.0  Error      0008  4  00 19 08 08\n"
        ),
        [
            (START_S + 1.0599, "", 0x300, False, "00000000040000"),
            (START_S + 1.2989, "", 0x400, False, "remote"),
            (START_S + 1.323, "", 0, False, "error"),
        ],
    ),
    "1.2": (
        (f";$FILEVERSION=1.2\n{START}"
        "     1)      1059.900 2  Rx         0300  2  E8 0D\n"),
        [(START_S + 1.0599, "2", 0x300, False, "e80d")],
    ),
    "1.3": (
        (f";$FILEVERSION=1.3\n{START}"
        "     1)      1059.900 1  Rx     00000300 -  2    E8 0D\n"
        "     2)      1060.900 1  Rx         0300 -  2    RTR\n"),
        [(START_S + 1.0599, "1", 0x300, True, "e80d"), (START_S + 1.0609, "1", 0x300, False, "remote")],
    ),
    "2.0": (
        (
        f";$FILEVERSION=2.0\n{START};$COLUMNS=N,O,T,I,d,l,D\n"
        "      1      1059.900 DT     0300 Rx 2  E8 0D\n"
        "      2      1060.900 FB 18EFC034 Tx 12 00 01 02 03 04 05 06 07 08 09 0A 0B\n"
        "      3      1061.900 RR     0300 Rx 2\n"
        "      4      1062.900 ST          Rx    00 00 00 00\n"
        "      5      1063.900 ER          Rx    04 00 02 00 00\n"
        "      6      1064.900 EC          Rx    02 02\n"
        ),
        [
            (START_S + 1.0599, "", 0x300, False, "e80d"),
            (START_S + 1.0609, "", 0x18EFC034, True, "000102030405060708090a0b"),
            (START_S + 1.0619, "", 0x300, False, "remote"),
            (START_S + 1.0639, "", 0, False, "error"),
        ],
    ),
    "2.1": (
        (
        f";$FILEVERSION=2.1\n{START};$COLUMNS=N,O,T,B,I,d,R,L,D\n"
        "      1      1059.900 DT 1     0300 Rx -  2    E8 0D\n"
        "      2      1060.900 FD 02    0300 Rx -  9    00 01 02 03 04 05 06 07 08 09 0A 0B\n"
        "      3      1061.900 DT 1     0300 Rx -  12   00 01 02 03 04 05 06 07\n"
        "      4      1062.900 EV 1     User-defined event for bus 1\n"
        ),
        [
            (START_S + 1.0599, "1", 0x300, False, "e80d"),
            (START_S + 1.0609, "2", 0x300, False, "000102030405060708090a0b"),
            (START_S + 1.0619, "1", 0x300, False, "0001020304050607"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("log", "expected"), VERSIONS.values(), ids=VERSIONS)
def test_each_version(log, expected):
    frames, notes = text(log)
    assert [frame[1:] for frame in frames] == [frame[1:] for frame in expected]
    assert [frame[0] for frame in frames] == pytest.approx([frame[0] for frame in expected], abs=1e-6)
    assert (notes.skipped, notes.fault) == (0, None)
    assert notes.time_base == (
        SINCE if START not in log else "times are the clock of the machine that traced, counted as UTC"
    )


STRANGE = {
    "garbage": "garbage",
    "      1      1059.900 DT 1     0300 Rx -  2    E8": "1      1059.900 DT 1     0300 Rx -  2    E8: expected 2 data bytes, got 1",
    "      1      1059.900 DT 1     0300 Rx -  1    E8 0D": "1      1059.900 DT 1     0300 Rx -  1    E8 0D: expected 1 data bytes, got 2",
    "      1      1059.900 XX 1     0300 Rx -  2    E8": "1      1059.900 XX 1     0300 Rx -  2    E8: unknown message type XX",
    "      1      1059.900 FD 1     0300 Rx -  16   E8": "1      1059.900 FD 1     0300 Rx -  16   E8: expected a DLC of 0 to 15, got 16",
    "      1      1059.900 FD 1     0300 Rx -  -1   E8": "1      1059.900 FD 1     0300 Rx -  -1   E8: expected a DLC of 0 to 15, got -1",
    "      1      nan      DT 1     0300 Rx -  1    E8": "1      nan      DT 1     0300 Rx -  1    E8: the time is not a number",
    "      1      1059.900 DT 1     0900 Rx -  1    E8": "1      1059.900 DT 1     0900 Rx -  1    E8: CAN id 900 is too large",
    ";$COLUMNS=N,O": ";$COLUMNS=N,O: expected the columns O, T, I, D and l or L",
    ";$STARTTIME=yesterday": ";$STARTTIME=yesterday",
    ";$STARTTIME=1e300": ";$STARTTIME=1e300",
}  # fmt: skip


@pytest.mark.parametrize(("line", "said"), STRANGE.items())
def test_a_strange_line_costs_itself_and_is_counted_with_its_number(line, said):
    log = (
        f";$FILEVERSION=2.1\n{START};$COLUMNS=N,O,T,B,I,d,R,L,D\n{line}\n      2      0.0 DT 1     0300 Rx -  1    AA\n"
    )
    frames, notes = text(log)
    assert [frame[4] for frame in frames] == ["aa"]
    assert skipped(notes) == [f"line 4: {said}"]


@pytest.mark.parametrize("version", [can.TRCFileVersion.V1_0, can.TRCFileVersion.V2_1])
def test_an_intact_trace_has_the_frames_that_python_can_reads(tmp_path, version):
    """Version 1.0 has no channel, where python-can says 1."""
    draw = random.Random(4)
    path = tmp_path / "drive.trc"
    writer = can.TRCWriter(path)
    writer.file_version = version
    for number in range(300):
        is_extended_id = draw.random() < 0.5
        writer.on_message_received(
            can.Message(
                timestamp=1700000000 + number / 8, arbitration_id=draw.randrange(1 << (29 if is_extended_id else 11)),
                is_extended_id=is_extended_id, data=draw.randbytes(draw.randrange(9)), channel=number % 3 + 1,
            )
        )  # fmt: skip
    writer.stop()
    log = path.read_text(encoding="utf-8")
    expected = [
        ("" if version is can.TRCFileVersion.V1_0 else str(each.channel), each.arbitration_id, each.is_extended_id, each.data.hex())
        for each in can.TRCReader(io.StringIO(log))
    ]  # fmt: skip
    times = [each.timestamp for each in can.TRCReader(io.StringIO(log))]
    frames, notes = text(log)
    assert [frame[1:] for frame in frames] == expected
    assert [frame[0] for frame in frames] == pytest.approx(times, abs=1e-6)
    assert len(frames) == 300
    assert notes.skipped == 0
