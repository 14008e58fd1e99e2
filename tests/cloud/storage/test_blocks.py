"""The codec of blocks: every byte comes back, and what can't be read says why."""

import random
import struct
import zlib

import pytest
from bmsota_cloud.storage._blocks import BlockError, decode_block, encode_block
from bmsota_cloud.storage.sql._packing import digest_of, pack, unpack
from hypothesis import given
from hypothesis import strategies as st
from stored_frames import NOON_S, stored

from benchmarks.blocks import day_of_frames, size_of_blocks

KEY = b"a vehicle, an hour"
INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def any_rows(draw):
    """Anything that columns take: frames of some layouts, repeated with changes, and bytes without sense."""
    layouts = [draw(st.binary(max_size=80)) for _ in range(draw(st.integers(1, 4)))]
    rows = []
    for _ in range(draw(st.integers(0, 30))):
        clear = bytearray(draw(st.sampled_from(layouts)))
        for _ in range(draw(st.integers(0, 3)) if clear else 0):
            clear[draw(st.integers(0, len(clear) - 1))] = draw(st.integers(0, 255))
        rows.append(
            (
                draw(INT64),
                draw(INT64),
                draw(st.integers(0, 65535)),
                bytes(clear),
                draw(st.one_of(st.none(), st.none(), st.binary(min_size=1, max_size=50))),
                draw(st.one_of(st.none(), st.none(), st.text(min_size=1, max_size=20))),
            )
        )
    return rows


@pytest.mark.slow
@given(any_rows(), st.binary(max_size=20))
def test_every_row_comes_back(rows, key):
    assert decode_block(encode_block(rows, key), key) == rows


def test_the_layout_of_a_block():
    """The bytes as of layout 1: one frame of two bytes, and one enciphered with a fault."""
    rows = [(5, 300, 2, b"\x01\x02", None, None), (7, 256, 10, b"\x01\x05", b"cipher", "why")]
    data = encode_block(rows, KEY)
    assert data[0] == 1
    plain = zlib.decompress(data[13:])
    assert struct.unpack("<I", data[9:13]) == (len(plain),)
    assert plain == (
        struct.pack("<4I", 2, 2, 1, 1)
        + bytes((5, 2))
        + bytes(14)
        + bytes((44, 0xD4, 1, 0xFF))
        + b"\x00\xff" * 6
        + bytes((2, 10, 0, 0))
        + bytes((0, 1, 0, 0))
        + bytes((2, 2))
        + bytes(6)
        + struct.pack("<2I", 1, 6)
        + b"cipher"
        + struct.pack("<2I", 1, 3)
        + b"why"
        + b"\x01\x02"
        + b"\x01\x05"
    )


# A block that version 1 has written. It must be readable for ever.
OLD = bytes.fromhex(
    "01c7b2259b5f8656bb9b000000789c6361606060668000462076606464bc09a49980389b01138802b1efa953a73c66cd9ab5dddadada02c88f01e257402c01d2070410c320142727275c2f13d4aef28c4a4c83196180090600fcc60b04"
)


def test_a_block_of_the_first_layout_is_read():
    rows = [pack(stored(NOON_S + n, bodies=bytes([n % 3]) * 9, fault="why" if n == 2 else "")) for n in range(4)]
    assert decode_block(OLD, KEY) == [(row[0], *row[2:]) for row in rows]


@given(st.data())
def test_a_changed_byte_is_found_out(data):
    rows = [(n, n, 2, bytes([n]) * 40, None, None) for n in range(20)]
    block = bytearray(encode_block(rows, KEY))
    place = data.draw(st.integers(0, len(block) - 1))
    block[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BlockError, match=r"expected layout 1 or older|damaged"):
        decode_block(bytes(block), KEY)


@given(st.binary(max_size=60))
def test_bytes_without_sense_are_refused(data):
    with pytest.raises(BlockError):
        decode_block(data, KEY)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        struct.pack("<4I", 2**31, 0, 0, 0),
        struct.pack("<4I", 1, 0, 0, 0) + bytes(20) + b"more",
        struct.pack("<4I", 0, 1, 0, 0) + struct.pack("<I", 2**32 - 1),
        # A group, and a frame with a fault, that are not there.
        struct.pack("<4I", 1, 1, 0, 0) + bytes(18) + b"\x01\x00" + struct.pack("<I", 0),
        struct.pack("<4I", 1, 0, 0, 0) + bytes(20),
        struct.pack("<4I", 1, 1, 0, 1) + bytes(20) + struct.pack("<I", 0) + struct.pack("<2I", 1, 0),
        struct.pack("<4I", 0, 0, 0, 1) + struct.pack("<2I", 0, 1) + b"\xff",
    ],
)
def test_what_is_checked_and_wrong_inside_is_refused_too(plain):
    """Written by a version with a fault."""
    from bmsota_cloud.storage._blocks import _check

    rest = struct.pack("<I", len(plain)) + zlib.compress(plain)
    with pytest.raises(BlockError, match="damaged: "):
        decode_block(b"\x01" + _check(KEY, rest) + rest, KEY)
    rest = struct.pack("<I", len(plain) + 1) + zlib.compress(plain)
    with pytest.raises(BlockError, match="damaged: expected"):
        decode_block(b"\x01" + _check(KEY, rest) + rest, KEY)
    rest = struct.pack("<I", 2**32 - 1) + zlib.compress(plain)
    with pytest.raises(BlockError, match="expected at most"):
        decode_block(b"\x01" + _check(KEY, rest) + rest, KEY)


def test_a_block_in_the_place_of_another_is_found_out():
    block = encode_block([(1, 1, 2, b"x", None, None)], b"one")
    with pytest.raises(BlockError, match="damaged: its check is wrong"):
        decode_block(block, b"another")


def test_the_digest_of_a_row_is_that_of_its_frame():
    for frame in (stored(), stored(vin="SHORT", bodies=b""), stored(command=3, start=b"$$")):
        at_s, digest, *rest = pack(frame)
        assert digest_of((at_s, *rest)) == digest
        assert unpack(frame.vin, (at_s, *rest)) == frame
    whole = stored(frame=b"x" * 99, bodies=b"other")
    at_s, digest, *rest = pack(whole)
    assert digest_of((at_s, *rest)) == digest


@pytest.mark.slow
def test_a_day_of_reports_takes_at_most_70_bytes_a_report():
    """342 bytes each, 1 mV of noise in 96 cells, 22 hours parked and charging and 2 hours driving."""
    assert size_of_blocks(day_of_frames(noise_mv=1.0, seed=1)) <= 70.0


def test_subsystems_in_frames_of_their_own_are_compared_with_their_own():
    """Frames of one length that begin differently are groups of their own."""
    draw = random.Random(1)
    cells = [[draw.randrange(65536) for _ in range(60)] for _ in range(2)]
    rows = []
    for n in range(120):
        which = n % 2
        values = b"".join((value + draw.randrange(2)).to_bytes(2, "big") for value in cells[which])
        rows.append((n, n, 2, bytes((8, 1, which + 1)) + values, None, None))
    alternating = len(encode_block(rows, KEY))
    apart = sum(len(encode_block(rows[which::2], KEY)) for which in (0, 1))
    assert alternating < apart * 1.1
