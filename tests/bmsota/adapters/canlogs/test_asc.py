"""Vector's ASCII log: channels and times as CANoe shows them, all its events, and what is none of them."""

from __future__ import annotations

import io
import random

import can
import pytest
from canlog_rig import skipped, text

HEADER = (
    "date Fri May 05 06:24:08.927 PM 2024\nbase hex  timestamps absolute\ninternal events logged\n// version 9.0.0\n"
)

LINES = {
    "   0.010000 1  100             Rx   d 2 E8 0D": (0.01, "1", 0x100, False, "e80d"),
    "   0.010000 2  18FEF100x       Tx   d 8 01 02 03 04 05 06 07 08  Length = 0 BitCount = 0 ID = 1": (0.01, "2", 0x18FEF100, True, "0102030405060708"),
    "   0.010000 1  100             Rx   d 0": (0.01, "1", 0x100, False, ""),
    "   0.010000 1  100             Rx   d D 01 02 03 04 05 06 07 08": (0.01, "1", 0x100, False, "0102030405060708"),
    "   0.010000 1  100             Rx   r": (0.01, "1", 0x100, False, "remote"),
    "   0.010000 1  100             Rx   r 8": (0.01, "1", 0x100, False, "remote"),
    "   2.501000 1 ErrorFrame": (2.501, "1", 0, False, "error"),
    "   2.501010 2 ErrorFrame Flags = 0xe CodeExt = 0x20a2 Code = 0x82 ID = 0 DLC = 0 Position = 5": (2.50101, "2", 0, False, "error"),
    "   0.5 CANFD   1 Rx        100                                   1 0 a 16 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 0 0 3000 0 0 0 0 0": (0.5, "1", 0x100, False, "000102030405060708090a0b0c0d0e0f"),
    "   0.5 CANFD   3 Tx        100x  PackState                       0 0 2  2 E8 0D 0 0 1000": (0.5, "3", 0x100, True, "e80d"),
    "   0.5 CANFD   1 Rx        100                                   0 0 0  0 0 0 1000 0": (0.5, "1", 0x100, False, ""),
    "   0.5 CANFD   1 Rx        100                                   0 0 8  0 0 0 10 0": (0.5, "1", 0x100, False, "remote"),
    "   0.5 CANFD   1 Rx        100                                   0 0 0  0 0 0 10 0": (0.5, "1", 0x100, False, "remote"),
    "   0.5 CANFD   1 Rx        ErrorFrame                            1 0 a 16": (0.5, "1", 0, False, "error"),
}  # fmt: skip

EVENTS = [
    "   0.000000 Start of measurement",
    "   0.000000 CANFD   Start of measurement",  # python-can issue 1786
    "   0.015991 CAN 1 Status:chip status error passive - TxErr: 132 RxErr: 0",
    "   1.015991 1  Statistic: D 0 R 0 XD 0 XR 0 E 0 O 0 B 0.00%",
    "   3.098426 1  J1939TP FEE3p 6 0 0 - Rx d 23 A0 0F A6",
    "   2.501000 1  OverloadFrame",
    "   0.010000 1  100             TxRq d 2 E8 0D",
    "   0.5 CANFD   1 TxRq        100                                   0 0 2  2 E8 0D 0 0 1000",
    "   4.876870 SV: 1 0 1 ::Pack = 5",
    "   5.0 L1 3 Rx 2 01 02",
    "Begin Triggerblock Fri May 05 06:24:08.846 PM 2024",
    "End TriggerBlock",
    "no internal events logged",
    "",
]


@pytest.mark.parametrize(("line", "expected"), LINES.items())
def test_each_form_of_a_line(line, expected):
    (frame,), notes = text(f"{HEADER}{line}\n")
    assert frame == expected
    assert (notes.skipped, notes.fault) == (0, None)


def test_events_that_are_no_frames_are_left_out():
    frames, notes = text(HEADER + "\n".join(EVENTS) + "\n   6.0 1  100 Rx d 1 AA\n")
    assert frames == [(6.0, "1", 0x100, False, "aa")]
    assert (notes.skipped, notes.fault) == (0, None)


def test_decimal_numbers():
    frames, _ = text(
        HEADER.replace("base hex", "base dec") + "   0.1 1  256  Rx  d 2 232 13\n   0.2 1  419360000x Rx d 0\n"
    )
    assert frames == [(0.1, "1", 0x100, False, "e80d"), (0.2, "1", 419360000, True, "")]


def test_a_hexadecimal_id_in_a_decimal_log_is_named():
    header = HEADER.replace("base hex", "base dec")
    for can_id in ("1A0", "18FEF100x"):
        frames, notes = text(f"{header}   0.1 1  {can_id}  Rx  d 1 12\n   0.2 1  256  Rx  d 1 12\n")
        assert [frame[0] for frame in frames] == [0.2]
        reason = f"expected a decimal CAN id (the log says base dec), got {can_id}"
        assert skipped(notes) == [f"line 5: 0.1 1  {can_id}  Rx  d 1 12: {reason}"]


STRANGE = {
    "stray": "stray",
    "   0.01 1  100  Rx": "0.01 1  100  Rx",
    "   0.01 1  100  R?  d 1 AA": "0.01 1  100  R?  d 1 AA",
    "   0.01 1  100  Rx  d 2 E8": "0.01 1  100  Rx  d 2 E8: expected 2 data bytes, got 1",
    "   0.01 1  100  Rx  d 1 1FF": "0.01 1  100  Rx  d 1 1FF: a data byte is not a number of 0 to 255",
    "   0.01 1  800  Rx  d 1 AA": "0.01 1  800  Rx  d 1 AA: CAN id 800 is too large",
    "   0.01 1  Pack Rx  d 1 AA": "0.01 1  Pack Rx  d 1 AA: a symbolic name in place of the CAN id: log with numeric ids",
    "   0.01 1  100  Rx  q 1 AA": "0.01 1  100  Rx  q 1 AA",
    "   0.01 CANFD 1 R? 100 0 0 1 1 AA": "0.01 CANFD 1 R? 100 0 0 1 1 AA",
    "   0.01 CANFD 1 Rx 100 0 0 2 2 AA": "0.01 CANFD 1 Rx 100 0 0 2 2 AA: expected 2 data bytes, got 1",
    "   0.01 CANFD 1 Rx 100 0 0 1f 1 AA": "0.01 CANFD 1 Rx 100 0 0 1f 1 AA: expected a DLC of at most 15, got 31",
    "   0.01 CANFD 1 Rx 100 Name 7 0 1 1 AA": "0.01 CANFD 1 Rx 100 Name 7 0 1 1 AA",
}  # fmt: skip


@pytest.mark.parametrize(("line", "said"), STRANGE.items())
def test_a_strange_line_costs_itself_and_is_counted_with_its_number(line, said):
    frames, notes = text(f"{HEADER}{line}\n   1.0 1  100  Rx  d 1 AA\n")
    assert [frame[0] for frame in frames] == [1.0]
    assert skipped(notes) == [f"line 5: {said}"]


def test_what_the_times_are_is_said():
    line = "   1.0 1  100  Rx  d 1 AA\n"
    since = "times are seconds since the start of the measurement"
    assert text(HEADER + line)[1].time_base == f"{since}, Fri May 05 06:24:08.927 PM 2024"
    assert text(HEADER.replace("absolute", "relative") + line)[1].time_base == (
        "times are seconds since the previous event (timestamps relative); the measurement began Fri May 05 06:24:08.927 PM 2024"
    )
    assert text("Begin Triggerblock Fri May 05 2024\n" + line)[1].time_base == f"{since}, Fri May 05 2024"
    assert text(line)[1].time_base == since


def test_a_log_that_ends_in_the_middle_of_a_line_says_where():
    frames, notes = text(f"{HEADER}   1.0 1  100  Rx  d 1 AA\n   2.0 1  100  Rx  d 8 AA BB")
    assert len(frames) == 1
    assert notes.fault == "the log breaks off in line 6"


def test_an_intact_log_has_the_frames_that_python_can_reads():
    """With channels as they stand in the log, which python-can counts from 0."""
    draw = random.Random(3)
    file = io.StringIO()
    writer = can.ASCWriter(file)
    for number in range(500):
        is_extended_id = draw.random() < 0.5
        kind = draw.choice(["data", "fd", "remote", "error"])
        size = draw.choice([1, 8, 12, 64] if kind == "fd" else range(9))
        writer.on_message_received(
            can.Message(
                timestamp=1700000000 + number / 8, arbitration_id=draw.randrange(1 << (29 if is_extended_id else 11)),
                is_extended_id=is_extended_id, data=draw.randbytes(size) if kind in {"data", "fd"} else b"",
                is_fd=kind == "fd", is_remote_frame=kind == "remote", is_error_frame=kind == "error", channel=number % 3,
            )
        )  # fmt: skip
    log = file.getvalue()
    expected = [
        (
            each.timestamp, str(each.channel + 1), each.arbitration_id, False if each.is_error_frame else each.is_extended_id,
            "error" if each.is_error_frame else "remote" if each.is_remote_frame else each.data.hex(),
        )
        for each in can.ASCReader(io.StringIO(log))
    ]  # fmt: skip
    frames, notes = text(log)
    assert frames == expected
    assert len(frames) == 500
    assert notes.skipped == 0
