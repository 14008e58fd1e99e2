"""candump: its log, and its screen with every option; what is not a frame is skipped and counted with its line."""

from __future__ import annotations

import io
import math
import random

import can
import pytest
from canlog_rig import read, shown, skipped, text

from bmsota.adapters.canlogs._candump import CandumpLines
from bmsota.adapters.canlogs._text import LINE_LENGTH_MAX, TextReader

LOG_LINES = {
    "(1700000000.000001) can0 100#E80D": (1700000000.000001, "can0", 0x100, False, "e80d"),
    "(1700000000.123456789) vcan0 00000100#": (1700000000.123456789, "vcan0", 0x100, True, ""),
    "(1.0) can0 7FF#0102030405060708 R": (1.0, "can0", 0x7FF, False, "0102030405060708"),
    "(1.0) can0 7FF#11.22.33 T": (1.0, "can0", 0x7FF, False, "112233"),
    "(1.0) can0 1FFFFFFF##3" + "AB" * 64: (1.0, "can0", 0x1FFFFFFF, True, "ab" * 64),
    "(1.0) can0 123##0": (1.0, "can0", 0x123, False, ""),
    "(1.0) can0 123#0102030405060708_B": (1.0, "can0", 0x123, False, "0102030405060708"),
    "(1.0) can0 123#R": (1.0, "can0", 0x123, False, "remote"),
    "(1.0) can0 123#R8": (1.0, "can0", 0x123, False, "remote"),
    "(1.0) can0 20000088#0000900000000000": (1.0, "can0", 0x88, False, "error"),
    "(1.0) can0 20000004#00080000000060": (1.0, "can0", 0x4, False, "error"),
}

SCREEN_LINES = {
    "  can0  100   [2]  E8 0D": (None, "can0", 0x100, False, "e80d"),
    "  can0       100   [2]  E8 0D": (None, "can0", 0x100, False, "e80d"),
    "  can0  00000100   [0]": (None, "can0", 0x100, True, ""),
    "  can0  100   [2]  E8 0D   '..'": (None, "can0", 0x100, False, "e80d"),
    "  can0  100   [3]  31 32 33   '123'": (None, "can0", 0x100, False, "313233"),
    "  can0  100   [2]  11101000 00001101": (None, "can0", 0x100, False, "e80d"),
    "  can0  100   [2]  0D`E8": (None, "can0", 0x100, False, "e80d"),
    "  can0  100  [12]  00 01 02 03 04 05 06 07 08 09 0A 0B": (None, "can0", 0x100, False, "000102030405060708090a0b"),
    "  can0  100   {B}  01 02 03 04 05 06 07 08": (None, "can0", 0x100, False, "0102030405060708"),
    "  can0  314   [8]  remote request": (None, "can0", 0x314, False, "remote"),
    "  can0  20000004   [8]  00 08 00 00 00 00 60 00   ERRORFRAME": (None, "can0", 0x4, False, "error"),
    "  can0  RX - -  100   [2]  E8 0D": (None, "can0", 0x100, False, "e80d"),
    "  can0  TX B E  00000100  [02]  E8 0D": (None, "can0", 0x100, True, "e80d"),
    " (1700000000.500000)  can0  100   [2]  E8 0D": (1700000000.5, "can0", 0x100, False, "e80d"),
    " (2023-11-14 22:13:20.500000)  can0  RX - -  100   [2]  E8 0D": (1700000000.5, "can0", 0x100, False, "e80d"),
    " (000.250000)  can0  100   [2]  E8 0D": (0.25, "can0", 0x100, False, "e80d"),
    " (590.634662)  vcan0  TX - -  20000025   [8]  00 40 00 00 00 00 00 00   ERRORFRAME": (590.634662, "vcan0", 0x25, False, "error"),
    "\x1b[0;31m  can0  \x1b[0m  100   [2]  E8 0D\x1b[0m": (None, "can0", 0x100, False, "e80d"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), [*LOG_LINES.items(), *SCREEN_LINES.items()])
def test_each_form_of_a_line(line, expected):
    (frame,), notes = text(f"{line}\n")
    assert frame[1:] == expected[1:]
    assert math.isnan(frame[0]) if expected[0] is None else frame[0] == expected[0]
    assert (notes.skipped, notes.fault) == (0, None)


STRANGE = {
    "write: No buffer space available": "write: No buffer space available",
    "DROPCOUNT: dropped 5 CAN frames on 'can0' socket (total drops 5)": "DROPCOUNT: dropped 5 CAN frames on 'can0' socket (total drop...",
    "(1.0) can0 800#00": "(1.0) can0 800#00: CAN id 800 is too large",
    "(1.0) can0 FFFFFFF0#00": None,  # An error frame: its flag is set.
    "(1.0) can0 40000000#00": "(1.0) can0 40000000#00: CAN id 40000000 is too large",
    "(1.0) can0 100#E80": "(1.0) can0 100#E80",
    "(1.0) can0 100#E8G0": "(1.0) can0 100#E8G0",
    "(1.0) can0 100#010203040506070809": "(1.0) can0 100#010203040506070809: expected at most 8 data bytes, got 9",
    "(1.0) can0 100##0" + "00" * 65: "(1.0) can0 100##00000000000000000000000000000000000000000000...: expected at most 64 data bytes, got 65",
    "(x) can0 100#00": "(x) can0 100#00",
    "(2023-99-14 22:13:20.5)  can0  100   [2]  E8 0D": "(2023-99-14 22:13:20.5)  can0  100   [2]  E8 0D",
    "  can0  100   [3]  E8 0D": "can0  100   [3]  E8 0D: expected 3 data bytes, got 2",
    "  can0  100   [2]  E8 XX": "can0  100   [2]  E8 XX: a data byte is not a number of 0 to 255",
    "  can0  100  [65]  " + "00 " * 65: "can0  100  [65]  00 00 00 00 00 00 00 00 00 00 00 00 00 00 0...: expected at most 64 data bytes, got 65",
    "\tcontroller-problem{}": "controller-problem{}",
    "\0" * 200: "?" * 60 + "...",
}  # fmt: skip


@pytest.mark.parametrize(("line", "said"), STRANGE.items())
def test_a_strange_line_costs_itself_and_is_counted_with_its_number(line, said):
    frames, notes = text(f"(1.0) can0 100#E80D\n{line}\n(2.0) can0 100#E90D\n")
    assert [frame[0] for frame in frames if frame[4] != "error"] == [1.0, 2.0]
    assert skipped(notes) == ([] if said is None else [f"line 2: {said}"])
    assert notes.fault is None


def test_comments_empty_lines_and_explained_errors_are_no_faults():
    frames, notes = text(
        "# a note\n; another\n// and another\n\n \r\n"
        " (1.500000)  can0  RX - -  20000088   [8]  00 00 90 00 00 00 00 00   ERRORFRAME\n"
        "\tprotocol-violation{{tx-recessive-bit-error,error-on-tx}{}}\n\tbus-error\n"
        " (2.500000)  can0  RX - -  100   [2]  E8 0D\n"
    )
    assert [frame[4] for frame in frames] == ["error", "e80d"]
    assert (notes.skipped, notes.fault) == (0, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  can0  100   [0]", "the log has no times"),
        (" (1700000000.5)  can0  100   [0]", ""),
        (" (2023-11-14 22:13:20.5)  can0  100   [0]", "times are the clock of the machine that ran candump (-tA), counted as UTC"),
        (" (000.5)  can0  100   [0]", "times are seconds as candump showed them: since the first frame (-tz) or since the previous one (-td)"),
        ("(1.000000) can0 100#", ""),
    ],
)  # fmt: skip
def test_what_the_times_are_is_said(line, said):
    assert text(f"{line}\n")[1].time_base == said


ENCODINGS = {
    "BOM": (b"\xef\xbb\xbf", "utf-8"),
    "UTF-16 of Windows": (b"\xff\xfe", "utf-16-le"),
    "UTF-16, the other end first": (b"\xfe\xff", "utf-16-be"),
    "none": (b"", "utf-8"),
}


@pytest.mark.parametrize(("mark", "encoding"), ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_encodings_and_line_ends(mark, encoding, end):
    """However the bytes come: the last line needs no end."""
    log = mark + end.join(["(1.0) can0 100#E80D", "# Größe", "(2.0) can0 100#E90D"]).encode(encoding)
    for pieces in (1000, 7, 2):
        frames, notes = read(log, name=".log", pieces=pieces)
        assert [shown(frame)[4] for frame in frames] == ["e80d", "e90d"]
        assert (notes.skipped, notes.fault) == (0, None)


def test_other_code_pages_cost_nothing():
    frames, notes = read(b"# Gr\xf6\xdfe\n(1.0) can0 100#E80D\n")
    assert len(frames) == 1
    assert notes.skipped == 0


def test_a_log_that_ends_in_the_middle_of_a_line_says_where():
    frames, notes = text("(1.0) can0 100#E80D\n(2.0) can")
    assert len(frames) == 1
    assert notes.fault == "the log breaks off in line 2"
    frames, notes = read(b"(1.0) can0 100#E80D\n" + bytes(100_000))
    assert len(frames) == 1
    assert notes.fault == "the log breaks off in line 2"


def test_a_line_without_an_end_is_not_held_in_memory():
    frames, notes = read(b"(1.0) can0 100#E80D\n" + b"x" * 100_000 + b"\n(2.0) can0 100#E90D\n", pieces=5000)
    assert [frame.time_s for frame in frames] == [1.0, 2.0]
    assert skipped(notes) == ["line 2: longer than 16384 characters"]
    reader = TextReader(CandumpLines(notes), notes)
    for _ in range(100):
        assert reader.feed(b"x" * 5000) == []
        assert len(reader._rest) <= LINE_LENGTH_MAX + 5000


def test_only_the_first_places_are_kept_and_all_are_counted():
    frames, notes = text("(1.0) can0 100#E80D\n" + "strange\n" * 1000)
    assert len(frames) == 1
    assert notes.skipped == 1000
    assert [part.place for part in notes.parts] == [f"line {number}" for number in range(2, 7)]


def test_an_intact_log_has_the_frames_that_python_can_reads():
    draw = random.Random(2)
    file = io.StringIO()
    with can.CanutilsLogWriter(file) as writer:
        for number in range(500):
            is_extended_id = draw.random() < 0.5
            is_remote, is_fd = draw.choice([(False, False), (True, False), (False, True)])
            writer(
                can.Message(
                    timestamp=1700000000 + number / 8, arbitration_id=draw.randrange(1 << (29 if is_extended_id else 11)),
                    is_extended_id=is_extended_id, data=b"" if is_remote else draw.randbytes(draw.choice([0, 3, 8, 64 if is_fd else 7])),
                    is_fd=is_fd, is_remote_frame=is_remote, channel=f"can{number % 3}",
                )
            )  # fmt: skip
        log = file.getvalue()
    expected = [
        (each.timestamp, each.channel, each.arbitration_id, each.is_extended_id, "remote" if each.is_remote_frame else each.data.hex())
        for each in can.CanutilsLogReader(io.StringIO(log))
    ]  # fmt: skip
    frames, notes = text(log)
    assert frames == expected
    assert len(frames) == 500
    assert notes.skipped == 0
