"""The host's end: frames, answers and garbage of an adapter, whole, cut anywhere and without end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmsota.canframe import CanFrame
from bmsota.slcan import Answer, SlcanHost, _host, _protocol


def contents(received):
    head, data, _ = received
    return (
        head.can_id, head.is_extended_id, head.is_fd, head.is_remote, head.has_bitrate_switch, head.length, data,
    )  # fmt: skip


LINES = {
    b"t1230\r": (0x123, False, False, False, False, 0, b""),
    b"t7FF80001020304050607\r": (0x7FF, False, False, False, False, 8, bytes(range(8))),
    b"T1FFFFFFF2aBcD\r": (0x1FFFFFFF, True, False, False, False, 2, b"\xab\xcd"),
    b"r1234\r": (0x123, False, False, True, False, 4, b""),
    b"R000001230\r": (0x123, True, False, True, False, 0, b""),
    b"d1239" + b"00" * 12 + b"\r": (0x123, False, True, False, False, 12, bytes(12)),
    b"D00000123F" + b"11" * 64 + b"\r": (0x123, True, True, False, False, 64, b"\x11" * 64),
    b"b12312A\r": (0x123, False, True, False, True, 1, b"*"),
    b"B000001231FF\r": (0x123, True, True, False, True, 1, b"\xff"),
    b"t1231FFEA5F\r": (0x123, False, False, False, False, 1, b"\xff"),  # With a timestamp.
    b"r12340000\r": (0x123, False, False, True, False, 4, b""),
    b"t1231FF0001E240\r": (0x123, False, False, False, False, 1, b"\xff"),  # With a timestamp in microseconds.
    b"t1231FFS\r": (0x123, False, False, False, False, 1, b"\xff"),  # From a node that is error passive.
    b"t1231FFSEA5F\r": (0x123, False, False, False, False, 1, b"\xff"),
    b"t1231FFEA5FS\r": (0x123, False, False, False, False, 1, b"\xff"),
    b"t1231FF\r\n": (0x123, False, False, False, False, 1, b"\xff"),
}


@pytest.mark.parametrize(
    ("line", "expected"), LINES.items(), ids=lambda each: each[:12].decode() if isinstance(each, bytes) else ""
)
def test_every_kind_of_frame_is_read(line, expected):
    host = SlcanHost()
    host.receive_data(line, 5)
    (found,) = host.frames
    assert contents(found) == expected
    assert (found[2], host.garbage) == (5, 0)
    can_id, is_extended_id, is_fd, is_remote, _, _, data = expected
    assert found[0].frame(data) == (None if is_remote else CanFrame(can_id, data, is_extended_id, is_fd))


BAD_LINES = [
    b"t123", b"t12", b"t", b"t1231", b"t1231F", b"t1231GG", b"t1239000000000000000000", b"t8000", b"T200000000", b"t 120", b"t1_20",
    b"t+120", b"t12301", b"t1230EA60", b"t1230 123", b"t1231FFzzzz", b"x123", b"hello", b"\xff\xfe", b"d123", b"t1230t1230",
    b"z1", b"tt1230", b"t1230SS", b"t1230000", b"t1230S00", b"t12300000000G", b"##", b"#12", b"E0000080", b"E0000080G", b"t1231S",
]  # fmt: skip


@pytest.mark.parametrize("line", BAD_LINES)
def test_garbage_is_counted_and_costs_only_its_line(line):
    host = SlcanHost()
    host.receive_data(b"t1111AA\r" + line + b"\rt2222BBBB\r", 0)
    assert [head.can_id for head, _, _ in host.frames] == [0x111, 0x222]
    assert (host.garbage, list(host.answers)) == (1, [])


def test_answers_are_told_from_frames():
    host = SlcanHost()
    host.receive_data(b"\r\az\rZ\rV1013\rt12", 0)
    host.receive_data(b"34\aNA123\rF08\rb158aa7 github.com/a/canable2.git\rt1230\a", 0)
    assert list(host.answers) == [
        Answer.DONE, Answer.REFUSED, Answer.DONE, Answer.DONE, "V1013", Answer.REFUSED, "NA123", "F08",
        "b158aa7 github.com/a/canable2.git", Answer.REFUSED,
    ]  # fmt: skip
    assert not host.frames
    assert host.garbage == 2  # What stood before a BEL.


def test_answers_may_end_in_cr_lf():
    host = SlcanHost()
    host.receive_data(b"\r\nz\r\n\a\nV1013\r\nt1230\r", 0)
    host.receive_data(b"\n", 0)
    assert list(host.answers) == [Answer.DONE, Answer.DONE, Answer.REFUSED, "V1013"]
    assert (len(host.frames), host.garbage) == (1, 0)


def test_feedback_says_why_something_is_refused_and_reports_are_no_answers():
    """CANable 2.5: `#` for done, `#` and a digit for refused; reports of bus errors and messages for people answer nothing."""
    host = SlcanHost()
    host.receive_data(b"#\r#7\rE00000800\r>> start recovery\r+1\r", 0)
    assert list(host.answers) == [Answer.DONE, Answer.REFUSED, "+1"]
    assert (host.refusal, host.bus_errors, host.messages, host.garbage) == ("#7", 1, 1, 0)
    host.receive_data(b"\a", 0)
    assert host.refusal == ""  # BEL gives no reason.


@pytest.mark.slow
@given(st.lists(st.sampled_from([*LINES, b"\r", b"\a", b"z\r", b"junk\r", b"t12\r"]), max_size=12), st.data())
def test_lines_may_be_cut_anywhere(pieces, data):
    stream = b"".join(pieces)
    whole = SlcanHost()
    whole.receive_data(stream, 0)
    cut = SlcanHost()
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, 40))
        cut.receive_data(stream[at : at + step], 0)
        at += step
    assert [contents(each) for each in cut.frames] == [contents(each) for each in whole.frames]
    assert (cut.answers, cut.garbage) == (whole.answers, whole.garbage)
    assert len(whole.frames) == sum(piece in LINES for piece in pieces)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_bytes_break_the_parser_or_fill_it(chunks):
    host = SlcanHost()
    for chunk in chunks:
        host.receive_data(chunk, 0)
        assert len(host._rest) <= _protocol.LINE_SIZE_BYTES_MAX
    host.receive_data(b"\rt1230\r", 0)
    assert host.frames[-1][0].can_id == 0x123


def test_frames_that_are_not_fetched_are_dropped_oldest_first(monkeypatch):
    monkeypatch.setattr(_host, "FRAMES_MAX", 3)
    monkeypatch.setattr(_host, "HEADS_MAX", 2)
    host = SlcanHost()
    host.receive_data(b"t0010\rt0020\rt0030\rt0040\rt0050\r", 0)
    assert [head.can_id for head, _, _ in host.frames] == [3, 4, 5]
    assert host.dropped == 2


def stamped(pairs):
    """The times, in seconds, given to frames with these (adapter milliseconds, host seconds)."""
    host = SlcanHost(use_timestamps=True)
    for stamp, host_s in pairs:
        host.receive_data(b"t1230%04X\r" % (stamp % 60_000), round(host_s * 1e9))
    return [time_ns / 1e9 for _, _, time_ns in host.frames]


def test_timestamps_have_no_jitter_and_know_their_minute():
    """Frames every 10 ms, read with a delay of up to 15 ms, over three minutes and a silence of two more."""
    times = [10 * number for number in range(0, 18_000, 7)]
    times += [times[-1] + 130_000 + 10 * number for number in range(100)]
    host = [1000 + time / 1000 + (number % 16) / 1000 for number, time in enumerate(times)]
    found = stamped(zip(times, host, strict=True))
    assert found == pytest.approx([1000 + time / 1000 for time in times], abs=1e-6)


def test_timestamps_follow_a_clock_that_drifts():
    """100 parts per million, either way, over an hour: never more than a minute's drift away."""
    for drift in (1e-4, -1e-4):
        times = range(0, 3_600_000, 500)
        found = stamped((round(time * (1 + drift)), 1000 + time / 1000) for time in times)
        assert max(abs(at - 1000 - time / 1000) for at, time in zip(found, times, strict=True)) < 0.014


def test_timestamps_in_microseconds_know_their_hour():
    """32 bits of microseconds start again after 71 minutes; frames every 3 s, read up to 15 ms late, for three hours."""
    host = SlcanHost(use_timestamps=True)
    times_s = range(0, 3 * 3600, 3)
    for number, time_s in enumerate(times_s):
        host.receive_data(
            b"t1230%08X\r" % (time_s * 1_000_000 % 2**32), round((1000 + time_s + number % 16 / 1000) * 1e9)
        )
    found = [time_ns / 1e9 for _, _, time_ns in host.frames]
    assert found == pytest.approx([1000 + time_s for time_s in times_s], abs=1e-6)
