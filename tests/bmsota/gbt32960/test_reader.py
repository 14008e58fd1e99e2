"""The reader finds every frame, in any pieces, between any garbage, and reports every byte once."""

from __future__ import annotations

import os
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960 import (
    DiscardedBytes,
    Frame,
    FrameReader,
    FrameReceived,
    Heartbeat,
    RawMessage,
    RefusalKind,
    Report,
    UserDefined,
    beijing_time,
    decode,
    encode,
)
from bmsota.gbt32960 import _reader as reader_module

IS_LONG = "BMSOTA_LONG" in os.environ
VIN = "LTEST000000000001"
HEARTBEAT = encode(Frame(command=7, vin=VIN, message=Heartbeat()))
NOW = beijing_time(1_767_225_600 * 10**9)


def repaired(raw):
    """The frame with the length and check byte that fit it."""
    data = bytearray(raw)
    data[22:24] = (len(data) - 25).to_bytes(2, "big")
    data[-1] = bcc_xor(data[2:-1])
    return bytes(data)


def events_of(pieces, *, end=True):
    """What a reader says about a stream that comes in these pieces."""
    reader = FrameReader()
    found = []
    for piece in pieces:
        reader.receive_data(piece)
        while (event := reader.next_event()) is not None:
            found.append(event)
    if end:
        reader.end()
        while (event := reader.next_event()) is not None:
            found.append(event)
    return found


def frames_of(events):
    return [event.raw for event in events if isinstance(event, FrameReceived)]


def bytes_of(events):
    return b"".join(event.raw if isinstance(event, FrameReceived) else event.data for event in events)


def test_glued_frames_come_one_by_one(good_frames):
    """Every good frame, both editions mixed on one stream, with its place in the stream."""
    stream = b"".join(good_frames)
    events = events_of([stream])
    assert frames_of(events) == good_frames
    offset = 0
    for event in events:
        assert event.offset == offset
        assert event.frame == decode(event.raw)
        offset += len(event.raw)


def test_byte_by_byte_is_the_same(good_frames):
    stream = b"".join(good_frames)
    assert events_of(stream[i : i + 1] for i in range(len(stream))) == events_of([stream])


def junk(rng, size):
    """Garbage that likes to look like a start."""
    return bytes(rng.choice([0x23, 0x24, 0x01, rng.randrange(256)]) for _ in range(size))


@pytest.mark.parametrize("seed", range(40))
def test_no_frame_is_lost_between_garbage(good_frames, seed):
    """Whole, byte by byte and in random pieces: the same events, all the frames, every byte reported once and in order."""
    rng = random.Random(seed)
    chosen = rng.sample(good_frames, 5)
    stream = b"".join(part for frame in chosen for part in (junk(rng, rng.randrange(90)), frame)) + junk(rng, 30)
    whole = events_of([stream])
    cuts = sorted(rng.sample(range(1, len(stream)), 9))
    pieces = [stream[i:j] for i, j in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events_of(pieces) == whole
    assert events_of(stream[i : i + 1] for i in range(len(stream))) == whole
    assert bytes_of(whole) == stream
    found = frames_of(whole)
    assert [frame for frame in found if frame in chosen] == chosen
    offset = 0
    for event in whole:
        assert event.offset == offset
        offset += len(bytes_of([event]))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.just(HEARTBEAT) | st.sampled_from([b"#", b"##", b"$$", b"##\x07\xfe"])))
def test_every_byte_is_reported_once(pieces):
    """For any stream: nothing is dropped silently, nothing twice, and the cutting does not matter."""
    stream = b"".join(pieces)
    events = events_of(pieces)
    assert bytes_of(events) == stream
    assert events == events_of([stream])


def test_a_good_frame_behind_a_false_start_is_not_lost():
    """The last mark of a run is the start; a header whose length leads into nowhere hides no frame for ever."""
    assert frames_of(events_of([b"###" + HEARTBEAT[2:]], end=False)) == [HEARTBEAT]
    # Nineteen marks in front of a report: its command would be an encryption, its flag the length of a huge data unit.
    report = encode(Frame(command=2, vin=VIN, message=Report(NOW, ())))
    assert frames_of(events_of([b"#" * 50 + report], end=False)) == [report]
    too_long = HEARTBEAT[:22] + b"\xff\xff"
    assert frames_of(events_of([too_long + HEARTBEAT], end=False)) == [HEARTBEAT]
    false_start = HEARTBEAT[:22] + b"\x40\x00"
    stream = false_start + HEARTBEAT * 3
    assert frames_of(events_of([stream], end=False)) == []
    assert frames_of(events_of([stream])) == [HEARTBEAT] * 3
    # When the announced length has come after all, the frames inside are found without anybody's help.
    assert frames_of(events_of([stream + bytes(0x4000)], end=False)) == [HEARTBEAT] * 3


def test_an_unfinished_frame_can_be_given_up():
    """What a session does when a frame stays unfinished for too long."""
    reader = FrameReader()
    reader.receive_data(HEARTBEAT[:22] + b"\x40\x00" + HEARTBEAT)
    assert reader.next_event() is None
    assert reader.unfinished_size_bytes == 24 + len(HEARTBEAT)
    reader.skip_start()
    bad = reader.next_event()
    assert isinstance(bad, DiscardedBytes)
    assert (bad.offset, bad.data, bad.reason) == (0, HEARTBEAT[:22] + b"\x40\x00", "a frame that was never finished")
    good = reader.next_event()
    assert isinstance(good, FrameReceived)
    assert good.offset == 24
    assert reader.next_event() is None
    assert reader.unfinished_size_bytes == 0
    reader.skip_start()  # Between frames it does nothing.
    assert reader.next_event() is None


def test_a_start_mark_inside_a_body_is_no_start():
    """There is no escaping on this link: a whole frame may be the content of a body."""
    inner = Report(NOW, (UserDefined(0x80, HEARTBEAT), UserDefined(0x81, b"##$$##")))
    outer = encode(Frame(command=2, vin=VIN, message=inner))
    assert frames_of(events_of([outer, outer])) == [outer, outer]
    assert frames_of(events_of(outer[i : i + 1] for i in range(len(outer)))) == [outer]


def test_a_wrong_check_byte_costs_one_frame():
    """The stretch is reported with what was wrong, and the next frame comes."""
    broken = HEARTBEAT[:-1] + bytes((HEARTBEAT[-1] ^ 1,))
    bad, good = events_of([broken + HEARTBEAT])
    assert isinstance(bad, DiscardedBytes)
    assert bad.data == broken
    assert "expected check byte" in bad.reason
    assert bad.error is None
    assert isinstance(good, FrameReceived)


def test_a_wrong_inside_is_reported_whole():
    """With a right check byte the borders are certain: one stretch, with the error, at once."""
    wrong = encode(Frame(command=2, vin=VIN, message=RawMessage(b"\x01")))
    bad, good = events_of([b"xyz" + wrong + HEARTBEAT])[1:]
    assert isinstance(bad, DiscardedBytes)
    assert bad.data == wrong
    assert bad.offset == 3
    assert bad.error is not None
    assert bad.error.where == "report"
    assert isinstance(good, FrameReceived)


def test_garbage_is_reported_in_bounded_pieces():
    """A link that sends nothing but garbage cannot fill the memory."""
    reader = FrameReader()
    sizes = []
    for _ in range(100):
        reader.receive_data(b"\xaa" * 1000)
        while (event := reader.next_event()) is not None:
            assert isinstance(event, DiscardedBytes)
            sizes.append(len(event.data))
    assert set(sizes) == {1024}
    assert sum(sizes) > 98_000
    assert len(reader._buffer) < 2048


def test_an_idle_reader_is_small(good_frames):
    """Ten thousand links wait most of the time: an idle one holds no buffer."""
    reader = FrameReader()
    reader.receive_data(b"".join(good_frames))
    while reader.next_event() is not None:
        pass
    held = sys.getsizeof(reader) + sum(sys.getsizeof(getattr(reader, name)) for name in reader.__slots__)
    assert held < 1500


def test_a_caller_who_never_asks_is_stopped():
    """Megabytes without a look at the events are a mistake of the caller; nothing is taken, nothing is lost."""
    reader = FrameReader()
    reader.receive_data(HEARTBEAT + bytes(4_000_000))
    with pytest.raises(LocalProtocolError, match="next_event"):
        reader.receive_data(bytes(1_000_000))
    assert isinstance(reader.next_event(), FrameReceived)


def test_nothing_comes_after_the_end():
    reader = FrameReader()
    reader.receive_data(HEARTBEAT[:10])
    reader.end()
    bad = reader.next_event()
    assert isinstance(bad, DiscardedBytes)
    assert bad.data == HEARTBEAT[:10]
    assert reader.next_event() is None
    with pytest.raises(LocalProtocolError, match="end"):
        reader.receive_data(HEARTBEAT)


# --- against the slow definition ---------------------------------------------------------------------------------------


def is_plausible(header):
    """The rules of a header, one by one."""
    return (
        header[:2] in (b"##", b"$$")
        and header[2] not in b"#$"
        and int.from_bytes(header[22:24], "big") <= 65531
        and header[21] in {*range(10), 0xFE, 0xFF}
        and all(0x20 <= byte < 0x7F for byte in header[4:21].rstrip(b"\0"))
    )


def slow_events(stream):
    """What a reader must say about a whole stream: looked at byte by byte, as its strategy is written."""
    found = []
    at = bad = 0

    def discard(up_to):
        nonlocal bad
        while bad < up_to:
            piece = stream[bad : min(bad + 1024, up_to)]
            found.append((bad, piece, None))
            bad += len(piece)

    while at < len(stream):
        header = stream[at : at + 24]
        end = at + 25 + int.from_bytes(header[22:24], "big")
        if len(header) == 24 and is_plausible(header) and end <= len(stream):
            raw = stream[at:end]
            check = 0
            for byte in raw:
                check ^= byte
            if not check:
                discard(at)
                try:
                    found.append((at, raw, decode(raw)))
                except FrameError as error:
                    found.append((at, raw, str(error)))
                at = bad = end
                continue
        at += 1
    discard(len(stream))
    return found


def header(rng, length):
    vin = rng.choice(
        (VIN.encode(), b"A" * 9 + bytes(8), bytes(17), b"A\0" * 8 + b"A", b"##AAAA##\2\xfeAAAAAAA", rng.randbytes(17))
    )
    command, encryption = rng.choice((2, 7, 1, 0x23, 0x24)), rng.choice((1, 1, 1, 0, 9, 10, 0xFE, 0x20))
    return rng.choice((b"##", b"$$")) + bytes((command, 0xFE)) + vin + bytes((encryption,)) + length.to_bytes(2, "big")


def noise(rng, good_frames):
    """A stream of what may be on a link: frames, false ones, damaged ones, marks, headers whose lengths overlap, anything."""
    parts = []
    for _ in range(rng.randrange(1, 30)):
        frame = rng.choice(good_frames)
        damaged = bytearray(frame)
        damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
        parts.append(
            rng.choice(
                (
                    frame, HEARTBEAT, HEARTBEAT, bytes(damaged), frame[: rng.randrange(len(frame))],
                    rng.choice((b"#", b"$", b"##", b"#$", b"\0")) * rng.randrange(1, 40),
                    header(rng, rng.choice((0, 1, 30, 200, 65531, 65533))),
                    header(rng, rng.randrange(3000)) * rng.randrange(1, 20),
                    rng.randbytes(rng.randrange(50)), bytes(rng.randrange(1500)),
                )
            )
        )  # fmt: skip
    # Some check bytes of false frames are right: their insides are judged too.
    stream = bytearray(b"".join(parts))
    marks = [at for at in range(len(stream)) if stream[at : at + 2] in (b"##", b"$$")]
    for at in rng.sample(marks, min(len(marks), 5)):
        begin = bytes(stream[at : at + 24])
        end = at + 25 + int.from_bytes(begin[22:24], "big")
        if len(begin) == 24 and end <= len(stream):
            stream[end - 1] ^= bcc_xor(stream[at:end])
    return bytes(stream)


def check_noise(seed, good_frames):
    rng = random.Random(seed)
    stream = noise(rng, good_frames)
    sizes = rng.choice(((len(stream),), (1,), (1, 7, 24, 25, 300), (1460,)))
    pieces, at = [], 0
    while at < len(stream):
        size = rng.choice(sizes)
        pieces.append(stream[at : at + size])
        at += size
    found = [
        (event.offset, event.raw, event.frame)
        if isinstance(event, FrameReceived)
        else (event.offset, event.data, None if event.error is None else str(event.error))
        for event in events_of(pieces)
    ]
    assert found == slow_events(stream), seed


@pytest.mark.slow
def test_the_reader_says_what_its_definition_says(good_frames):
    """The regular expression and the running XOR change nothing but speed, however the stream is cut."""
    short_frames = [frame for frame in good_frames if len(frame) < 400]
    for seed in range(250):
        check_noise(seed, short_frames)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4) if IS_LONG else [0], ids="seed{}".format)
def test_the_reader_says_what_its_definition_says_of_more(good_frames, seed):
    for number in range(5000 if IS_LONG else 20):
        check_noise(1000 + 5000 * seed + number, good_frames)


@pytest.mark.parametrize(
    ("name", "unit", "bytes_per_look"),
    [
        ("marks", b"#", 500),
        ("both marks", b"##$$", 500),
        ("marks and letters", b"##a", 500),
        ("zeros", b"\0", 500),
        ("text", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 500),
        # Each of these is a header that can be one, and its check byte has to be looked at.
        ("headers", b"##\x02\xfe" + b"A" * 17 + b"\x01\x13\x88", 10),
        ("long headers", b"##\x02\xfe" + b"A" * 17 + b"\x01\xea\x60", 10),
    ],
)
@pytest.mark.parametrize("piece_size", [1460, 65536])
def test_garbage_costs_a_bounded_amount_a_byte(monkeypatch, name, unit, bytes_per_look, piece_size):
    """Whatever it is: the reader looks once in so many bytes, decodes next to nothing, and folds each byte once."""
    counts = {"looks": 0, "decoded": 0, "folded": 0}
    look, decode_one, fold = FrameReader._next_start, reader_module.decode_with_clear, reader_module.accumulate

    def counted_look(self, at):
        counts["looks"] += 1
        return look(self, at)

    def counted_decode(raw, *arguments):
        counts["decoded"] += len(raw)
        return decode_one(raw, *arguments)

    def counted_fold(data, *arguments, **more):
        counts["folded"] += len(data)
        return fold(data, *arguments, **more)

    monkeypatch.setattr(FrameReader, "_next_start", counted_look)
    monkeypatch.setattr(reader_module, "decode_with_clear", counted_decode)
    monkeypatch.setattr(reader_module, "accumulate", counted_fold)
    garbage = unit * (300_000 // len(unit))
    events = events_of([garbage[at : at + piece_size] for at in range(0, len(garbage), piece_size)], end=False)
    assert len(bytes_of(events)) + 66_000 > 280_000
    assert counts["looks"] < len(garbage) / bytes_per_look, (name, counts)
    assert counts["folded"] <= len(garbage), (name, counts)
    # A frame that begins where a piece of garbage was reported is decoded as if it were the first.
    assert counts["decoded"] <= 70 * len(garbage), (name, counts)


@pytest.mark.parametrize(
    ("data", "kind", "vin"),
    [
        (b"junk", RefusalKind.NOT_A_FRAME, ""),
        (HEARTBEAT[:-1] + b"\0", RefusalKind.CHECK_BYTE, VIN),
        (HEARTBEAT[:-1], RefusalKind.UNFINISHED, VIN),
        (HEARTBEAT[:10], RefusalKind.UNFINISHED, ""),
        (repaired(HEARTBEAT[:24] + b"x" + HEARTBEAT[24:]), RefusalKind.STRUCTURE, VIN),
        (repaired(HEARTBEAT[:21] + b"\0" + HEARTBEAT[22:]), RefusalKind.ENCRYPTION, VIN),
    ],
)
def test_what_is_discarded_says_why_and_whose_it_was(data, kind, vin):
    """For a list of refusals: a kind to count, the identifier where there is a header, and the first bytes."""
    event = events_of([data])[0]
    assert (event.kind, event.vin, event.reply_flag) == (kind, vin, None)
    assert event.first_bytes == data[:64]


def test_a_report_with_a_wrong_end_keeps_its_bodies_if_asked():
    """By default it is one wrong frame."""
    body = UserDefined(0x80, b"abc")
    whole = encode(Frame(command=2, vin=VIN, message=Report(NOW, (body, body))))
    cut = repaired(whole[:-3] + whole[-1:])
    (event,) = events_of([cut])
    assert (type(event), event.kind) == (DiscardedBytes, RefusalKind.STRUCTURE)
    reader = FrameReader(keep_bodies=True)
    reader.receive_data(cut + whole)
    event = reader.next_event()
    assert event.frame.message == Report(NOW, (body,))
    assert (event.raw, event.clear, event.fault.offset) == (cut, cut, 39)
    assert reader.next_event() == FrameReceived(decode(whole), whole, len(cut), whole)
