"""The reader finds every frame, in any pieces, between any garbage, and reports every byte once."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    NEED_DATA,
    DiscardedBytes,
    Frame,
    FrameReader,
    FrameReceived,
    Heartbeat,
    RawMessage,
    Report,
    UserDefined,
    beijing_time,
    decode,
    encode,
)

VIN = "LTEST000000000001"
HEARTBEAT = encode(Frame(command=7, vin=VIN, message=Heartbeat()))
NOW = beijing_time(1_767_225_600 * 10**9)


def events_of(pieces, *, end=True):
    """What a reader says about a stream that comes in these pieces."""
    reader = FrameReader()
    found = []
    for piece in pieces:
        reader.receive_data(piece)
        while (event := reader.next_event()) is not NEED_DATA:
            found.append(event)
    if end:
        reader.end()
        while (event := reader.next_event()) is not NEED_DATA:
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
    assert reader.next_event() is NEED_DATA
    assert reader.unfinished_size_bytes == 24 + len(HEARTBEAT)
    reader.skip_start()
    bad = reader.next_event()
    assert isinstance(bad, DiscardedBytes)
    assert (bad.offset, bad.data, bad.reason) == (0, HEARTBEAT[:22] + b"\x40\x00", "a frame that was never finished")
    good = reader.next_event()
    assert isinstance(good, FrameReceived)
    assert good.offset == 24
    assert reader.next_event() is NEED_DATA
    assert reader.unfinished_size_bytes == 0
    reader.skip_start()  # Between frames it does nothing.
    assert reader.next_event() is NEED_DATA


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
        while (event := reader.next_event()) is not NEED_DATA:
            assert isinstance(event, DiscardedBytes)
            sizes.append(len(event.data))
    assert set(sizes) == {1024}
    assert sum(sizes) > 98_000
    assert len(reader._buffer) < 2048


def test_an_idle_reader_is_small(good_frames):
    """Ten thousand links wait most of the time: an idle one holds no buffer."""
    reader = FrameReader()
    reader.receive_data(b"".join(good_frames))
    while reader.next_event() is not NEED_DATA:
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
    assert reader.next_event() is NEED_DATA
    with pytest.raises(LocalProtocolError, match="end"):
        reader.receive_data(HEARTBEAT)
