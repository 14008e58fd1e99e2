"""The frame arithmetic: against a bit-by-bit construction, and against ceilings computed elsewhere."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmsota.can_timing import FD_SIZES, Stuffing, ceiling_bytes_per_s, frame_bits, frame_stuff_bits, wire_seconds
from bmsota.canframe import CanFrame
from bmsota.errors import LocalProtocolError


def bits(value, width):
    return [value >> width - 1 - index & 1 for index in range(width)]


def stuffed(stream):
    """How many bits a transmitter adds: one after every five equal ones, added ones included."""
    sent, added = [], 0
    for bit in stream:
        sent.append(bit)
        if len(sent) >= 5 and len(set(sent[-5:])) == 1:
            sent.append(1 - bit)
            added += 1
    return added


def crc15(stream):
    crc = 0
    for bit in stream:
        crc = (crc << 1 ^ (0x4599 if crc >> 14 ^ bit else 0)) & 0x7FFF
    return crc


def naive(frame):
    if frame.is_extended_id:
        head = [0, *bits(frame.can_id >> 18, 11), 1, 1, *bits(frame.can_id & 0x3FFFF, 18)]
    else:
        head = [0, *bits(frame.can_id, 11)]
    data = [bit for byte in frame.data for bit in bits(byte, 8)]
    if frame.is_fd:
        head += [0, 1, 0, 1] if frame.is_extended_id else [0, 0, 1, 0, 1]
        slow = stuffed(head)
        return slow, stuffed([*head, 0, *bits(FD_SIZES.index(len(frame.data)), 4), *data]) - slow
    head += [0, 0, 0, *bits(len(frame.data), 4), *data]
    return stuffed(head + bits(crc15(head), 15)), 0


IDS = st.one_of(st.tuples(st.just(False), st.integers(0, 0x7FF)), st.tuples(st.just(True), st.integers(0, 0x1FFFFFFF)))
DATA = st.one_of(
    st.tuples(st.just(False), st.binary(max_size=8)),
    st.tuples(st.just(True), st.sampled_from(FD_SIZES).flatmap(lambda size: st.binary(min_size=size, max_size=size))),
    st.tuples(st.just(False), st.sampled_from([bytes(8), b"\xff" * 8, b"\x0f" * 8, b"\x07\xc1" * 4])),
)


@given(IDS, DATA)
def test_stuff_bits_are_counted_exactly(identifier, data):
    frame = CanFrame(identifier[1], data[1], is_extended_id=identifier[0], is_fd=data[0])
    assert frame_stuff_bits(frame) == naive(frame)


def test_the_longest_and_the_shortest_classic_frames_are_those_of_the_standard():
    assert frame_bits(CanFrame(0x2AA, b"\xaa" * 8), Stuffing.EXACT)[0] >= 111  # 44 + 64 bits and the intermission.
    longest = max(
        frame_bits(CanFrame(i, d * 8), Stuffing.EXACT)[0]
        for i in (0, 0x7FF, 0x078, 0x3C0)
        for d in (b"\0", b"\xff", b"\x3c")
    )
    assert 120 < longest <= 135


@pytest.mark.slow
@pytest.mark.parametrize("extended", [False, True])
def test_the_expected_figures_are_the_mean_of_random_frames(extended):
    draw = random.Random(5)
    can_id = 0x18FF50E5 if extended else 0x3A5
    for size in (0, 1, 4, 8):
        frames = [CanFrame(can_id, draw.randbytes(size), extended) for _ in range(3000)]
        mean = sum(frame_bits(frame, Stuffing.EXACT)[0] for frame in frames) / len(frames)
        assert frame_bits(frames[0])[0] == pytest.approx(mean, abs=0.12)
    for size in (8, 64):
        frames = [CanFrame(can_id, draw.randbytes(size), extended, is_fd=True) for _ in range(3000)]
        slow = sum(frame_bits(frame, Stuffing.EXACT)[0] for frame in frames) / len(frames)
        fast = sum(frame_bits(frame, Stuffing.EXACT)[1] for frame in frames) / len(frames)
        assert frame_bits(frames[0]) == (pytest.approx(slow, abs=0.01), pytest.approx(fast, abs=0.3))


@pytest.mark.parametrize(
    ("bitrate_bps", "data_bitrate_bps", "extended", "bytes_per_s"),
    [
        # Computed by an independent program (frames built bit by bit, 3,000 of random payload each).
        (500_000, None, False, 35_155),
        (500_000, None, True, 29_467),
        (500_000, 2_000_000, False, 187_277),
        (500_000, 2_000_000, True, 166_780),
        (1_000_000, 5_000_000, False, 449_135),
        (1_000_000, 5_000_000, True, 391_447),
    ],
)
def test_the_ceiling_of_a_wire_is_the_one_computed_elsewhere(bitrate_bps, data_bitrate_bps, extended, bytes_per_s):
    ceiling = ceiling_bytes_per_s(bitrate_bps, extended=extended, data_bitrate_bps=data_bitrate_bps)
    assert ceiling == pytest.approx(bytes_per_s, rel=0.002)


def test_the_seconds_of_a_frame_are_its_bits_at_their_rates():
    classic = CanFrame(0x3A5, bytes(8))
    assert wire_seconds(classic, 500_000) == pytest.approx(frame_bits(classic)[0] / 500_000)
    assert wire_seconds(classic, 500_000, 2_000_000) == wire_seconds(classic, 500_000)
    fd = CanFrame(0x3A5, bytes(64), is_fd=True)
    slow, fast = frame_bits(fd)
    assert wire_seconds(fd, 500_000, 2_000_000) == pytest.approx(slow / 500_000 + fast / 2_000_000)
    assert wire_seconds(fd, 500_000) == pytest.approx((slow + fast) / 500_000)
    exact = sum(frame_bits(classic, Stuffing.EXACT)) / 500_000
    assert wire_seconds(classic, 500_000, stuffing=Stuffing.EXACT) == pytest.approx(exact)


@pytest.mark.parametrize(
    "frame",
    [
        CanFrame(0x800, b""),
        CanFrame(-1, b""),
        CanFrame(1 << 29, b"", is_extended_id=True),
        CanFrame(1, bytes(9)),
        CanFrame(1, bytes(9), is_fd=True),
    ],
)
def test_a_frame_that_cannot_exist_has_no_length(frame):
    with pytest.raises(LocalProtocolError, match="expected"):
        frame_bits(frame)
