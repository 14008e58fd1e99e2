"""The lines: written as the manuals have them, and read back as they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmsota.can_timing import FD_SIZES
from bmsota.canframe import CanFrame
from bmsota.errors import LocalProtocolError
from bmsota.slcan import BITRATES, DATA_BITRATES, FrameHead, StatusFlag, frame_line, parse_head, remote_line

FRAMES = {
    "t1230": CanFrame(0x123, b""),
    "t7FF2ABCD": CanFrame(0x7FF, b"\xab\xcd"),
    "T1FFFFFFF8" + "FF" * 8: CanFrame(0x1FFFFFFF, b"\xff" * 8, is_extended_id=True),
    "b12312A": CanFrame(0x123, b"*", is_fd=True),
    "B000001239" + "00" * 12: CanFrame(0x123, bytes(12), is_extended_id=True, is_fd=True),
    "b001F" + "11" * 64: CanFrame(1, b"\x11" * 64, is_fd=True),
}


@pytest.mark.parametrize(("line", "frame"), FRAMES.items(), ids=lambda each: str(each)[:12])
def test_a_frame_has_one_line(line, frame):
    assert frame_line(frame) == line
    slow = line.replace("b", "d").replace("B", "D", 1) if frame.is_fd else line
    assert frame_line(frame, has_bitrate_switch=False) == slow


def test_lengths_that_can_fd_does_not_have_are_padded():
    assert frame_line(CanFrame(0x12, bytes(10), is_extended_id=True, is_fd=True)) == "B000000129" + "00" * 12
    assert frame_line(CanFrame(0x12, b"\xff" * 63, is_fd=True)) == "b012F" + "FF" * 63 + "00"


def test_remote_frames_ask_for_a_length():
    assert remote_line(0x12, 3) == "r0123"
    assert remote_line(0x12, 0, is_extended_id=True) == "R000000120"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: frame_line(CanFrame(1, bytes(9))), "expected at most 8 data bytes in a classic frame, got 9"),
        (lambda: frame_line(CanFrame(1, bytes(65), is_fd=True)), "expected at most 64 data bytes in a CAN FD frame, got 65"),
        (lambda: frame_line(CanFrame(0x800, b"")), "expected an identifier of 11 bits, got 0x800"),
        (lambda: frame_line(CanFrame(1 << 29, b"", is_extended_id=True)), "expected an identifier of 29 bits, got 0x20000000"),
        (lambda: frame_line(CanFrame(-1, b"")), "expected an identifier of 11 bits, got -0x1"),
        (lambda: remote_line(1, 9), "expected at most 8 data bytes in a classic frame, got 9"),
    ],
)  # fmt: skip
def test_frames_that_no_line_can_carry_are_refused(make, said):
    with pytest.raises(LocalProtocolError, match=said):
        make()


@pytest.mark.parametrize(
    "line",
    [b"", b"x1230", b"t", b"t123", b"t12G0", b"t 120", b"t1_20", b"t+120", b"t8000", b"T200000000", b"t1239", b"r1239"],
)
def test_what_is_no_head_is_none(line):
    assert parse_head(line) is None


def test_a_head_says_where_the_data_are():
    assert parse_head(b"D1BCDEF01F") == FrameHead(
        0x1BCDEF01, is_extended_id=True, is_remote=False, is_fd=True, has_bitrate_switch=False, length=64, data_start=10,
        data_end=138,
    )  # fmt: skip
    assert parse_head(b"r1238") == FrameHead(
        0x123, is_extended_id=False, is_remote=True, is_fd=False, has_bitrate_switch=False, length=8, data_start=5,
        data_end=5,
    )  # fmt: skip


@given(st.booleans(), st.booleans(), st.integers(0, (1 << 29) - 1), st.sampled_from(FD_SIZES), st.data())
def test_what_is_written_can_be_read(is_extended_id, is_fd, number, length, data):
    frame = CanFrame(
        number if is_extended_id else number & 0x7FF,
        data.draw(st.binary(min_size=min(length, 64 if is_fd else 8), max_size=min(length, 64 if is_fd else 8))),
        is_extended_id,
        is_fd,
    )
    line = frame_line(frame).encode()
    head = parse_head(line)
    assert (head.can_id, head.is_extended_id, head.is_fd, head.has_bitrate_switch) == (
        frame.can_id, is_extended_id, is_fd, is_fd,
    )  # fmt: skip
    assert len(line) == head.data_end
    assert bytes.fromhex(line[head.data_start :].decode()) == frame.data


def test_bit_rates_and_flags_are_lawicels():
    """CAN232 manual V3, commands S and F; CANable 2's Y."""
    assert [BITRATES[rate] for rate in (10_000, 125_000, 500_000, 1_000_000)] == ["S0", "S4", "S6", "S8"]
    assert DATA_BITRATES[2_000_000] == "Y2"
    assert StatusFlag(0xA5) == (
        StatusFlag.RECEIVE_FULL | StatusFlag.ERROR_WARNING | StatusFlag.ERROR_PASSIVE | StatusFlag.BUS_ERROR
    )
