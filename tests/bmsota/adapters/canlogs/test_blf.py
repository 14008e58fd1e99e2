"""Vector's binary log: intact files as python-can reads them, damaged ones to their end, without an invented or a silent frame."""

from __future__ import annotations

import io
import itertools
import os
import random
import struct
from collections import Counter

import can
import pytest
from canlog_rig import START_S, blf, blf_object, can_message, container, read, shown, skipped

from bmsota.adapters.canlogs import LogNotes
from bmsota.adapters.canlogs._blf import OBJECT_SIZE_BYTES_MAX, BlfReader

IS_LONG = "BMSOTA_LONG" in os.environ

E80D = bytes.fromhex("e80d")
MESSAGES = [can_message(0x100, bytes([number, 1]), ticks=number * 10**9) for number in range(6)]
FRAMES = [(START_S + number, "1", 0x100, False, bytes([number, 1]).hex()) for number in range(6)]


def frames_of(data, **options):
    frames, notes = read(data, **options)
    return [shown(frame) for frame in frames], notes


def written(messages, **options):
    """What python-can writes."""
    file = io.BytesIO()
    writer = can.BLFWriter(file, **options)
    for message in messages:
        writer.on_message_received(message)
    writer._flush()
    size = file.tell()
    file.seek(0)
    writer._write_header(size)
    return file.getvalue()


def drawn(draw, count):
    """Messages of every kind that the format has."""
    for number in range(count):
        is_extended_id = draw.random() < 0.5
        kind = draw.choice(["data"] * 6 + ["fd", "fd", "remote", "error"])
        size = draw.choice([0, 1, 8, 12, 64] if kind == "fd" else range(9))
        yield can.Message(
            timestamp=1700000000 + number / 8,
            arbitration_id=draw.randrange(1 << (29 if is_extended_id else 11)),
            is_extended_id=is_extended_id,
            data=b"" if kind in {"remote", "error"} else draw.randbytes(size),
            is_fd=kind == "fd",
            is_remote_frame=kind == "remote",
            is_error_frame=kind == "error",
            channel=draw.randrange(4),
        )


def test_an_intact_log_has_the_frames_that_python_can_reads(tmp_path):
    """With channels counted from 1, as CANoe shows them."""
    data = written(drawn(random.Random(1), 5000), compression_level=6)
    expected = [
        (
            message.timestamp, str(message.channel + 1), message.arbitration_id, message.is_extended_id,
            "error" if message.is_error_frame else "remote" if message.is_remote_frame else message.data.hex(),
        )
        for message in can.BLFReader(io.BytesIO(data))
    ]  # fmt: skip
    for pieces in (1 << 16, 999):
        frames, notes = read(data, pieces=pieces)
        found = [shown(frame) for frame in frames]
        assert [frame[1:] for frame in found] == [
            # python-can keeps the id of an error frame; it has none on the bus.
            (*frame[1:2], 0, False, "error") if frame[4] == "error" else frame[1:]
            for frame in expected
        ]
        assert [frame[0] for frame in found] == pytest.approx([frame[0] for frame in expected], abs=1e-6)
        assert (notes.skipped, notes.fault, notes.time_base) == (0, None, "")


def test_both_units_of_time_and_both_headers_of_an_object():
    body = container(
        can_message(0x100, E80D, ticks=150_000, unit=1)
        + can_message(0x18FEF100 | 1 << 31, E80D, ticks=2 * 10**9, version=2, channel=300)
    )
    frames, notes = frames_of(blf(body, objects=2))
    assert frames == [
        (START_S + 1.5, "1", 0x100, False, "e80d"),
        (START_S + 2.0, "300", 0x18FEF100, True, "e80d"),
    ]
    assert (notes.skipped, notes.fault) == (0, None)


def test_a_log_without_a_start_says_what_its_times_are():
    frames, notes = frames_of(blf(container(MESSAGES[1]), objects=1, start=bytes(16)))
    assert frames[0][0] == 1.0
    assert notes.time_base == "times are seconds since the start of the log"


@pytest.mark.parametrize("method", [0, 2])
def test_objects_go_on_in_the_next_container(method):
    stream = b"".join(MESSAGES)
    for cut in (1, 20, 48, 100):
        body = container(stream[:cut], method=method) + container(stream[cut:], method=method)
        frames, notes = frames_of(blf(body, objects=6), pieces=7)
        assert frames == FRAMES
        assert (notes.skipped, notes.fault) == (0, None)


def test_objects_outside_of_containers_are_read():
    """python-can PR 2086: Vector's own programs take such files."""
    frames, notes = frames_of(blf(b"".join(MESSAGES), objects=6))
    assert frames == FRAMES
    assert (notes.skipped, notes.fault) == (0, None)


def test_kinds_of_frames():
    error_64 = struct.pack("<B", 2) + bytes(60)
    body = container(
        can_message(0x123, b"", flags=0x80, dlc=8)
        + blf_object(2, struct.pack("<HHL", 1, 0, 0))
        + blf_object(73, struct.pack("<H", 7) + bytes(30))
        + blf_object(104, error_64)
        + blf_object(3, struct.pack("<HHL", 1, 0, 0))
        + blf_object(65, b"some text of the application")
        + can_message(0x124, bytes(8), dlc=15)
    )
    frames, notes = frames_of(blf(body, objects=7))
    assert [frame[1:] for frame in frames] == [
        ("1", 0x123, False, "remote"),
        ("1", 0, False, "error"),
        ("7", 0, False, "error"),
        ("2", 0, False, "error"),
        ("1", 0x124, False, "00" * 8),
    ]
    assert (notes.skipped, notes.fault) == (0, None)


def fd_64(data, *, valid, extension=0, tail=b"", size=None):
    head = struct.pack("<BBBBLLLLLLLHBBL", 3, 9, valid, 0, 0x200, 0, 0x1000, 0, 0, 0, 0, 0, 0, extension, 0)
    return blf_object(101, head + data + tail, size=size)


def test_a_message_of_can_fd_may_be_shorter_in_the_file_than_on_the_bus():
    """python-can 1905: CANoe shows zeros; what stands behind the data is no data."""
    body = container(
        fd_64(b"\x11" * 12, valid=12)
        + fd_64(b"\x22" * 4, valid=12)
        + fd_64(b"\x33" * 8, valid=12, extension=80, tail=b"\xff" * 8)
    )
    frames, notes = frames_of(blf(body, objects=3))
    assert [frame[4] for frame in frames] == ["11" * 12, "22" * 4 + "00" * 8, "33" * 8 + "00" * 4]
    assert (notes.skipped, notes.fault) == (0, None)


# Damage of one object in the stream; what is said, and that all other frames are there.
DAMAGED_OBJECTS = {
    "size 0": (MESSAGES[3][:8] + bytes(4) + MESSAGES[3][12:], "object 4: an object of 0 bytes"),
    "header version 0": (MESSAGES[3][:6] + bytes(2) + MESSAGES[3][8:], "object 4: a damaged object of type 1"),
    "size 0 and header version 0": (MESSAGES[3][:6] + bytes(6) + MESSAGES[3][12:], "object 4: an object of 0 bytes"),
    "size of two objects": (can_message(0x100, E80D, size=96), "object 4: an object of type 1 with 96 bytes"),
    "FD size of two objects": (fd_64(b"\1" * 8, valid=8, size=88 + 48), "object 4: a damaged object of type 101"),
    "size of the rest": (can_message(0x100, E80D, size=144), "object 4: an object of type 1 with 144 bytes"),
    "size of gigabytes": (can_message(0x100, E80D, size=0xFFFFFFF0), "object 4: an object of 4294967280 bytes"),
    "signature": (b"LOBX" + MESSAGES[3][4:], "object 4: not an object"),
    "header size": (MESSAGES[3][:4] + b"\0\0" + MESSAGES[3][6:], "object 4: an object of 48 bytes"),
    "DLC": (can_message(0x100, E80D, dlc=16), "object 4: a damaged object of type 1"),
    "id": (can_message(0x800, E80D), "object 4: a damaged object of type 1"),
    "body too short": (blf_object(1, b"\1\0"), "object 4: a damaged object of type 1"),
    "FD length": (blf_object(100, struct.pack("<HBBLLBBB5x72s", 1, 0, 9, 1, 0, 0, 1, 65, b"")), "object 4: a damaged object of type 100"),
    "FD 64 length": (fd_64(b"", valid=65), "object 4: a damaged object of type 101"),
    "FD 64 extension": (fd_64(b"", valid=8, extension=16), "object 4: a damaged object of type 101"),
    "another object's size": (blf_object(65, bytes(16), size=70), "object 4: an object of 70 bytes that no object follows"),
}  # fmt: skip


@pytest.mark.parametrize(("damaged", "said"), DAMAGED_OBJECTS.values(), ids=DAMAGED_OBJECTS)
def test_a_damaged_object_costs_itself_and_is_counted(damaged, said):
    stream = b"".join([*MESSAGES[:3], damaged, *MESSAGES[4:]])
    frames, notes = frames_of(blf(container(stream), objects=6))
    assert frames == FRAMES[:3] + FRAMES[4:]
    assert skipped(notes) == [said]
    assert notes.skipped == 1
    assert notes.fault == "objects are missing: 5 of 6 objects read"
    # The same outside of a container.
    frames, notes = frames_of(blf(stream, objects=6))
    assert frames == FRAMES[:3] + FRAMES[4:]
    assert notes.skipped == 1
    assert notes.fault == "objects are missing: 5 of 6 objects read"


def test_an_object_that_covers_two_others_costs_none_of_them():
    """Its size is just believable; no object stands where it says that it ends."""
    stream = b"".join([MESSAGES[0], can_message(0x100, b"\1\1", ticks=10**9, size=80), *MESSAGES[2:]])
    frames, notes = frames_of(blf(container(stream), objects=6))
    assert frames == FRAMES
    assert notes.skipped == 1
    assert notes.fault is None


def test_a_size_beyond_the_containers_costs_no_frame_behind_it():
    lying = blf_object(65, bytes(16), size=100_000)
    body = container(MESSAGES[0] + lying) + b"".join(container(each) for each in MESSAGES[1:])
    frames, notes = frames_of(blf(body, objects=7))
    assert frames == FRAMES
    assert skipped(notes) == ["object 2: an object with a wrong size"]


def test_a_damaged_container_costs_its_own_frames_only():
    """Whatever byte of it is wrong: never a wrong frame, and always a word."""
    first, second, third = (container(b"".join(MESSAGES[at : at + 2])) for at in (0, 2, 4))
    wrong = 0
    for at in range(len(second.rstrip(b"\0"))):
        broken = bytearray(second)
        broken[at] ^= 0x55
        frames, notes = frames_of(blf(first + bytes(broken) + third, objects=6))
        assert [frame for frame in frames if frame in FRAMES[:2]] == FRAMES[:2], at
        assert [frame for frame in frames if frame in FRAMES[4:]] == FRAMES[4:], at
        assert not set(frames) - set(FRAMES), at
        if len(frames) < 6:
            wrong += 1
            # A container that calls itself something else is one object.
            assert notes.fault == f"objects are missing: {5 if 12 <= at < 16 else 4} of 6 objects read", at
            assert notes.skipped or 12 <= at < 16, at
    assert wrong > 40


def test_an_object_whose_middle_was_in_a_damaged_container_is_not_put_together():
    """Its halves would make a frame that was never on the bus."""
    stream = b"".join(MESSAGES)
    cuts = [0, 2 * 48 + 30, 4 * 48 + 30, len(stream)]
    first, second, third = (container(stream[start:end]) for start, end in itertools.pairwise(cuts))
    broken = second[:40] + bytes([second[40] ^ 0x55]) + second[41:]
    frames, notes = frames_of(blf(first + broken + third, objects=6))
    assert frames == [*FRAMES[:2], FRAMES[5]]
    assert skipped(notes) == [f"offset {144 + len(first)}: a damaged container"]
    assert notes.fault == "objects are missing: 3 of 6 objects read"


def test_a_container_that_claims_the_next_ones_costs_none():
    first, second, third = (container(b"".join(MESSAGES[at : at + 2])) for at in (0, 2, 4))
    lying = bytearray(first)
    struct.pack_into("<L", lying, 8, len(first) + len(second))
    frames, notes = frames_of(blf(bytes(lying) + second + third, objects=6))
    assert frames == FRAMES
    assert notes.skipped == 1
    assert notes.fault is None
    # And if it claims more than there is in the file.
    struct.pack_into("<L", lying, 8, 100_000)
    frames, notes = frames_of(blf(bytes(lying) + second + third, objects=6))
    assert frames == FRAMES
    assert skipped(notes) == ["offset 144: an object with a wrong size"]


@pytest.mark.parametrize("kind", ["containers", "one container", "no container"])
def test_a_log_cut_anywhere_says_so(kind):
    """The frames before the cut are there, all of them where they are not compressed, and the count of objects is said."""
    body = {
        "containers": b"".join(container(each) for each in MESSAGES),
        "one container": container(b"".join(MESSAGES)),
        "no container": b"".join(MESSAGES),
    }[kind]
    data = blf(body, objects=6)
    ends = {144 + 48 * number for number in range(7)}
    for size in range(144, len(data)):
        frames, notes = frames_of(data[:size])
        assert frames == FRAMES[: len(frames)], size
        assert f"after {size} of {len(data)} bytes" in notes.fault, size
        assert f"({len(frames)} of 6 objects read)" in notes.fault or len(frames) == 6
        assert not notes.skipped
        if kind == "no container":
            assert len(frames) == (size - 144) // 48
            assert size in ends or len(frames) < 6
    # The size in the header was never written: the log's writer was killed.
    frames, notes = frames_of(blf(b"".join(MESSAGES), size=0)[:-20])
    assert frames == FRAMES[:5]
    assert notes.fault == "the log breaks off inside an object"


def test_a_damaged_file_header_costs_the_start_only():
    body = container(b"".join(MESSAGES))
    frames, notes = read(b"XOGG" + blf(body)[4:], name="drive.blf")
    assert [frame.data for frame in frames] == [bytes([number, 1]) for number in range(6)]
    assert skipped(notes) == ["offset 0: the file header is damaged"]
    data = bytearray(blf(body, objects=6))
    struct.pack_into("<L", data, 4, 0xFFFFFFFF)
    frames, notes = frames_of(bytes(data))
    assert frames == FRAMES
    assert skipped(notes) == ["offset 4: a file header of 4294967295 bytes"]


def test_bytes_between_objects_are_skipped_and_counted_once():
    frames, notes = frames_of(
        blf(container(MESSAGES[0]) + bytes(100_000) + b"".join(container(each) for each in MESSAGES[1:]), objects=6),
        pieces=1000,
    )
    assert frames == FRAMES
    assert notes.skipped == 1


def test_padding_is_no_damage():
    """Objects of odd sizes, padded by the rest of the division (python-can) or to four bytes (Vector)."""
    for padding in (2, 3, 7):
        text = blf_object(65, b"odd" + bytes(padding - 3 if padding > 3 else 0))[: 35 + max(padding - 3, 0)] + bytes(
            padding
        )
        frames, notes = frames_of(blf(container(text + MESSAGES[0] + text), objects=3))
        assert frames == FRAMES[:1]
        assert (notes.skipped, notes.fault) == (0, None)


def test_a_file_that_is_made_to_cost_time_ends():
    """Ten thousand containers, each of which claims the next megabytes and begins well."""
    bomb = (
        struct.pack("<4sHHLL", b"LOBJ", 16, 1, OBJECT_SIZE_BYTES_MAX, 10)
        + struct.pack("<H6xL4x", 2, 1 << 20)
        + b"\x78\x9c"
    )
    frames, notes = frames_of(blf(bomb * 10_000))
    assert frames == []
    assert notes.fault == "more than 256 containers are damaged"


def changed(data, draw):
    """*data* with something wrong in it."""
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 40])):
        at = draw.randrange(len(data))
        match draw.randrange(5):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at : at + 4] = draw.choice(
                    [bytes(4), b"\xff" * 4, b"LOBJ", struct.pack("<L", draw.randrange(200))]
                )
            case 2:
                del data[at : at + draw.randrange(1, 60)]
            case 3:
                data[at:at] = draw.randbytes(draw.randrange(1, 60))
            case 4:
                data[at:at] = data[at // 2 : at // 2 + draw.randrange(1, 200)]
        if not data:
            break
    return bytes(data)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4) if IS_LONG else [0], ids="seed{}".format)
def test_reading_ends_whatever_is_changed(seed):
    """And a changed file whose containers are compressed and each written once has no frame that the intact one does not have."""
    draw = random.Random(seed)
    for number in range(3000 if IS_LONG else 60):
        messages = list(drawn(draw, draw.randrange(1, 60)))
        plain = written(messages, compression_level=draw.choice([0, 6]))
        frames, _ = read(plain)
        with_blocks = blf(b"".join(container(blf_object(65, b"note") + each) for each in MESSAGES), objects=12)
        reader = BlfReader(LogNotes())
        broken = reader.feed(changed(plain, draw)) + reader.end()
        assert len(broken) <= 3 * len(frames) + 10, f"seed {seed}, run {number}"
        data = bytearray(with_blocks)
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(144, len(data))] ^= 1 << draw.randrange(8)
        found, notes = frames_of(bytes(data))
        extra = Counter(found) - Counter(FRAMES)
        assert not extra, f"seed {seed}, run {number}: {extra}"
        assert len(found) == len(FRAMES) or notes.skipped or notes.fault, f"seed {seed}, run {number}"
