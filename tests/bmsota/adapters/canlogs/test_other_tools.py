"""SavvyCAN and GVRET, BUSMASTER, CARBUS Analyzer, Microchip: as SavvyCAN's example files have them."""

from __future__ import annotations

import can
import pytest
from canlog_rig import skipped, text

GVRET_1 = "Time Stamp,ID,Extended,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8\n"
GVRET_2 = "Time Stamp,ID,Extended,Dir,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8\n"


def test_both_versions_of_gvret():
    frames, notes = text(
        GVRET_1 + "166064000,0000021A,false,0,2,FE,36,00,00,00,00,00,00,\n166074000,18FEF100,true,1,0,,,,,,,,,\n"
    )
    assert frames == [(166.064, "0", 0x21A, False, "fe36"), (166.074, "1", 0x18FEF100, True, "")]
    assert (notes.skipped, notes.fault) == (0, None)
    assert notes.time_base == "times are seconds as the recorder counted them"
    frames, notes = text(
        GVRET_2 + "39747828,000005EB,false,Rx,0,8,E8,45,85,4B,4A,28,36,69,\n1,20000004,false,Rx,0,8,0,0,0,0,0,0,0,0,\n"
    )
    assert frames == [(39.747828, "0", 0x5EB, False, "e845854b4a283669"), (0.000001, "0", 4, False, "error")]
    assert notes.skipped == 0
    frames, notes = text(GVRET_2 + "1700000000500000,000005EB,false,Rx,0,1,E8\n")
    assert frames[0][0] == 1700000000.5
    assert notes.time_base == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x,000005EB,false,Rx,0,1,E8", "x,000005EB,false,Rx,0,1,E8"),
        ("1,000005EB,false,Rx,0,2,E8", "1,000005EB,false,Rx,0,2,E8: expected 2 data bytes, got 1"),
        ("1,000005EB,false,Rx,0,1,E8,0D,00,", "1,000005EB,false,Rx,0,1,E8,0D,00,: expected 1 data bytes, got 3"),
        ("1,000005EB,maybe,Rx,0,1,E8", "1,000005EB,maybe,Rx,0,1,E8: expected true or false in the column Extended"),
        ("1,00000800,false,Rx,0,1,E8", "1,00000800,false,Rx,0,1,E8: CAN id 800 is too large"),
        ("1,000005EB", "1,000005EB"),
    ],
)
def test_a_strange_line_of_gvret(line, said):
    frames, notes = text(f"{GVRET_2}{line}\n1,000005EB,false,Rx,0,1,E8\n")
    assert len(frames) == 1
    assert skipped(notes) == [f"line 2: {said}"]


def test_python_can_csv_has_the_frames_that_python_can_wrote(tmp_path):
    path = tmp_path / "drive.csv"
    written = [
        can.Message(timestamp=1.7e9 + 0.5, arbitration_id=0x100, is_extended_id=False, data=b"\xe8\x0d"),
        can.Message(timestamp=1.7e9 + 1, arbitration_id=0x18FEF100, data=b""),
        can.Message(timestamp=1.7e9 + 2, arbitration_id=0x12, is_extended_id=False, is_fd=True, data=bytes(range(64))),
        can.Message(timestamp=1.7e9 + 3, arbitration_id=0x100, is_extended_id=False, is_remote_frame=True, dlc=8),
        can.Message(timestamp=1.7e9 + 4, arbitration_id=4, is_extended_id=False, is_error_frame=True),
    ]
    with can.CSVWriter(path) as writer:
        for message in written:
            writer(message)
    frames, notes = text(path.read_text())
    assert frames == [
        (1700000000.5, "", 0x100, False, "e80d"),
        (1700000001.0, "", 0x18FEF100, True, ""),
        (1700000002.0, "", 0x12, False, bytes(range(64)).hex()),
        (1700000003.0, "", 0x100, False, "remote"),
        (1700000004.0, "", 4, False, "error"),
    ]
    assert (notes.skipped, notes.fault, notes.time_base) == (0, None, "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x,0x100,0,0,0,1,6A==", ""),
        ("nan,0x100,0,0,0,1,6A==", ": the time is not a number"),
        ("1.0,0x800,0,0,0,1,6A==", ": CAN id 800 is too large"),
        ("1.0,0x100,0,0,2,1,6A==", ": expected 0 or 1 in the columns extended, remote and error"),
        ("1.0,0x100,0,0,0,2,6A==", ": expected 2 data bytes, got 1"),
        ("1.0,0x100,0,0,0,1,6A=?", ": the data are not Base64"),
        ("1.0,0x100,0,0,0,1", ": expected 7 columns, got 6"),
    ],
)
def test_a_strange_line_of_python_can_csv(line, said):
    frames, notes = text(f"timestamp,arbitration_id,extended,remote,error,dlc,data\n{line}\n2.0,0x100,0,0,0,1,6A==\n")
    assert frames == [(2.0, "", 0x100, False, "e8")]
    assert skipped(notes) == [f"line 2: {line}{said}"]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_tables_that_a_spreadsheet_has_saved(mark):
    """Where the comma is the decimal mark a spreadsheet saves other separators, and times with a comma."""
    gvret = GVRET_2 + "166064000,0000021A,false,Rx,0,2,FE,36,00,00,00,00,00,00,\n"
    frames, notes = text(gvret.replace(",", mark))
    assert frames == [(166.064, "0", 0x21A, False, "fe36")]
    assert (notes.skipped, notes.fault) == (0, None)
    for time in ("1700000000,5", "1700000000.5"):
        line = mark.join([time, "0x100", "0", "0", "0", "2", "6A0="])
        head = "timestamp,arbitration_id,extended,remote,error,dlc,data".replace(",", mark)
        frames, notes = text(f"{head}\n{line}\n")
        assert frames == [(1700000000.5, "", 0x100, False, "e80d")]
        assert (notes.skipped, notes.fault) == (0, None)


BUSMASTER = (
    "***BUSMASTER Ver 2.4.0***\n***PROTOCOL CAN***\n***NOTE: PLEASE DO NOT EDIT THIS DOCUMENT***\n***[START LOGGING SESSION]***\n"
    "***START DATE AND TIME 8:8:2014 11:49:7:965***\n***HEX***\n***SYSTEM MODE***\n"
    "***<Time><Tx/Rx><Channel><CAN ID><Type><DLC><DataBytes>***\n"
)
MIDNIGHT_S = 1407456000.0  # 8 August 2014


def test_busmaster():
    frames, notes = text(
        BUSMASTER + "11:49:12:9420 Rx 1 0x023 s 1 40\n"
        "11:49:13:0000 Tx 2 0x18FEF100 x 8 03 E0 00 00 C0 00 00 00 \n"
        "11:49:13:0010 Rx 1 0x023 sr 1\n"
        "11:49:13:0020 Rx 1 0x18FEF100 xr 0\n"
        "11:49:13:0030 Rx 1 ERR 1 2 3\n"
        "23:59:59:0000 Rx 1 0x023 s 0\n"
        "00:00:01:0000 Rx 1 0x023 s 0\n"
        "***[STOP LOGGING SESSION]***\n"
    )
    noon_s = MIDNIGHT_S + 11 * 3600 + 49 * 60
    assert frames == [
        (noon_s + 12.942, "1", 0x23, False, "40"),
        (noon_s + 13.0, "2", 0x18FEF100, True, "03e00000c0000000"),
        (noon_s + 13.001, "1", 0x23, False, "remote"),
        (noon_s + 13.002, "1", 0x18FEF100, True, "remote"),
        (noon_s + 13.003, "1", 0, False, "error"),
        (MIDNIGHT_S + 86400 - 1, "1", 0x23, False, ""),
        (MIDNIGHT_S + 86400 + 1, "1", 0x23, False, ""),  # The night has passed.
    ]
    assert (notes.skipped, notes.fault) == (0, None)
    assert notes.time_base == "times are the clock of the machine that logged, counted as UTC"


def test_busmaster_as_savvycan_writes_it():
    """Milliseconds without leading zeros, ids without 0x."""
    frames, _ = text(
        BUSMASTER
        + "22:20:15:2 Rx 0 0000021A s 1 FE \n22:20:15:12 Rx 0 0000021A s 1 FE \n22:20:15:992 Rx 0 0000021A s 1 FE \n"
    )
    second_s = MIDNIGHT_S + 22 * 3600 + 20 * 60 + 15
    assert [frame[0] for frame in frames] == pytest.approx(
        [second_s + 0.002, second_s + 0.012, second_s + 0.992], abs=1e-6
    )


def test_busmasters_modes_and_bases():
    line = "00:00:05:5000 Rx 1 35 s 2 64 232\n"
    for mode, said in (("ABSOLUTE", "the start of the session"), ("RELATIVE", "the previous frame")):
        frames, notes = text(BUSMASTER.replace("SYSTEM", mode).replace("HEX", "DEC") + line)
        assert frames == [(5.5, "1", 35, False, "40e8")]
        assert notes.time_base == f"times are seconds since {said}"
    frames, notes = text(BUSMASTER.replace("START DATE", "STARTED") + "00:00:05:5000 Rx 1 0x35 s 0\n")
    assert frames[0][0] == 5.5
    assert notes.time_base == "times are seconds since midnight, by the clock of the machine that logged"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("garbage", "garbage"),
        ("11:49:12:9420 Rx 1 0x023 q 1 40", "11:49:12:9420 Rx 1 0x023 q 1 40: expected the type s, x, sr or xr, got q"),
        ("11:49:12:9420 Rx 1 0x023 s 2 40", "11:49:12:9420 Rx 1 0x023 s 2 40: expected 2 data bytes, got 1"),
        ("11:49:12:9420 Rx 1 0x923 s 1 40", "11:49:12:9420 Rx 1 0x923 s 1 40: CAN id 923 is too large"),
        ("11:49:12:9420 Rx 1 0x023", "11:49:12:9420 Rx 1 0x023"),
    ],
)
def test_a_strange_line_of_busmaster(line, said):
    frames, notes = text(f"{BUSMASTER}{line}\n11:49:12:9420 Rx 1 0x023 s 1 40\n")
    assert len(frames) == 1
    assert skipped(notes) == [f"line 9: {said}"]


def carbus(version, *lines):
    return (
        "\r".join([f"@ TEXT @ {version} @ 64 @ 0 @ 2 @ 7283 @ 00:00:07.283 @", "# $LocalTime=16:39:55.817", *lines])
        + "\r"
    )


def test_carbus_analyzer():
    frames, notes = text(
        carbus(
            2,
            "46,016\t1\t0004\t45A\t8\t5A 04 00 00 00 00 00 00\t00000000\tZ       \t",
            "56,094\t2\t0005\t17333210\t2\t24 00                  \t00000000\t$       \t",
        )
    )
    assert frames == [(46.016, "1", 0x45A, False, "5a04000000000000"), (56.094, "2", 0x17333210, True, "2400")]
    assert (notes.skipped, notes.fault) == (0, None)
    frames, _ = text(carbus(3, f"00,469067\t1\t00000030\t2BB\t64\t{'96 ' * 64}\t00000000\t{' ' * 71}\t"))
    assert frames == [(0.469067, "1", 0x2BB, False, "96" * 64)]


def test_carbus_begins_again_each_minute():
    """Frames of two channels may stand in the wrong order, around the full minute as well."""
    times = ["59,990", "59,980", "00,010", "59,999", "00,020", "30,000", "00,000"]
    frames, _ = text(carbus(2, *(f"{each}\t1\t0004\t45A\t1\t5A\t0\t\t" for each in times)))
    assert [frame[0] for frame in frames] == [59.99, 59.98, 60.01, 59.999, 60.02, 90.0, 120.0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("garbage", "garbage"),
        ("46,016\\t1\\t0004\\t45A\\t2\\t5A\\t0", "46,016?1?0004?45A?2?5A?0: expected 2 data bytes, got 1"),
        ("46,016\\t1", "46,016?1"),
    ],
)
def test_a_strange_line_of_carbus(line, said):
    frames, notes = text(carbus(2, line.replace("\\t", "\t"), "46,016\t1\t0004\t45A\t1\t5A\t0"))
    assert len(frames) == 1
    assert skipped(notes) == [f"line 3: {said}"]


MICROCHIP = (
    "//---------------------------------\nMicrochip Technology Inc.\nCAN BUS Analyzer\nSavvyCAN Exporter\n"
    "Logging Started: 23/9/2015 22:17:43\n//---------------------------------\n"
)


def test_microchip():
    frames, notes = text(
        MICROCHIP
        + "166064;RX;0x0000021A;2;0xFE;0x36;\n166065;TX;0x18FEF100;0;\n1.5;RX;0x100x;1;0xAA;\n2,5;RX;0x100;1;0xAA;\n"
    )
    assert frames == [
        (166.064, "", 0x21A, False, "fe36"),
        (166.065, "", 0x18FEF100, True, ""),
        (1.5, "", 0x100, True, "aa"),
        (2.5, "", 0x100, False, "aa"),
    ]
    assert (notes.skipped, notes.fault) == (0, None)
    assert notes.time_base == "times are seconds since the start of the log"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("garbage", "garbage"),
        ("166064;RX;0x0000021A;2;0xFE;", "166064;RX;0x0000021A;2;0xFE;: a data byte is not a number"),
        ("166064;RX;0x3000021A;1;0xFE;", "166064;RX;0x3000021A;1;0xFE;: CAN id 3000021A is too large"),
    ],
)
def test_a_strange_line_of_microchip(line, said):
    frames, notes = text(f"{MICROCHIP}{line}\n166064;RX;0x0000021A;1;0xFE;\n")
    assert len(frames) == 1
    assert skipped(notes) == [f"line 7: {said}"]
