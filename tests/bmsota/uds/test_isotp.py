"""ISO-TP on our clock: can-isotp's machine between two links in memory."""

from __future__ import annotations

import itertools
import time
from random import Random

import pytest

from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, LocalProtocolError
from bmsota.uds import UDS_11BIT, UDS_29BIT, IsoTpFault, IsoTpLink, IsoTpParameters, UdsAddressing

MS = 1_000_000
START_NS = 1_000_000 * MS


class Pipe:
    """Two links; frames pass at once, unless *drop* takes them; `log` has (time, side, frame)."""

    def __init__(self, address, tester=None, node=None):
        self.ends = [IsoTpLink.of_tester(address, tester), IsoTpLink.of_node(address, node)]
        self.now_ns = START_NS
        self.log = []
        self.drop = lambda side, frame: False

    def send(self, message, side=0):
        self.ends[side].send(message, self.now_ns)

    def step(self):
        moved = False
        for side, link in enumerate(self.ends):
            for frame in link.frames_to_send(self.now_ns):
                moved = True
                self.log.append((self.now_ns, side, frame))
                if not self.drop(side, frame):
                    self.ends[1 - side].receive_frame(frame, self.now_ns)
        return moved

    def run(self, until_ns=None):
        """Until nothing is due any more."""
        for _ in range(100_000):
            if self.step():
                continue
            due = [time for link in self.ends if (time := link.next_timeout()) is not None]
            if not due or (until_ns is not None and min(due) > until_ns):
                return
            self.now_ns = max(self.now_ns, min(due))
            for link in self.ends:
                link.handle_timeout(self.now_ns)
        raise AssertionError("the links never come to rest")

    def frames(self, side):
        return [frame for _, who, frame in self.log if who == side]

    def faults(self, side):
        return [error.fault for error in iter(self.ends[side].next_error, None)]


@pytest.mark.parametrize("addressing", [UDS_11BIT, UDS_29BIT], ids=["11 bit", "29 bit"])
@pytest.mark.parametrize("frame_bytes", [8, 64])
@pytest.mark.parametrize("block_size", [0, 8])
def test_messages_of_every_size_arrive_in_both_directions(addressing, frame_bytes, block_size):
    parameters = IsoTpParameters(frame_bytes=frame_bytes, block_size=block_size)
    pipe = Pipe(addressing.address(3), parameters, parameters)
    rng = Random(1)
    for size in (1, 6, 7, 8, 20, 62, 63, 64, 65, 130, 4094, 4095):
        for side in (0, 1):
            message = rng.randbytes(size)
            pipe.send(message, side)
            pipe.run()
            assert pipe.ends[1 - side].next_message() == message
            assert not pipe.ends[side].is_sending
            assert not pipe.ends[1 - side].is_receiving
    assert pipe.faults(0) == pipe.faults(1) == []


def test_the_frames_are_those_of_the_standard():
    """ISO 15765-2, 9.2: single, first, flow control, consecutive; padded to 8 bytes with 0xCC (10.4.2.1)."""
    pipe = Pipe(UDS_11BIT.address(1))
    pipe.send(bytes.fromhex("3E80"))
    pipe.send(bytes(range(20)))
    pipe.run()
    assert [(frame.can_id, frame.data.hex()) for _, _, frame in pipe.log] == [
        (0x7E1, "023e80cccccccccc"),
        (0x7E1, "1014000102030405"),
        (0x7E9, "300000cccccccccc"),
        (0x7E1, "21060708090a0b0c"),
        (0x7E1, "220d0e0f10111213"),
    ]
    assert not any(frame.is_fd or frame.is_extended_id for _, _, frame in pipe.log)


def test_short_frames_stay_short_without_padding_and_fd_frames_have_legal_sizes():
    pipe = Pipe(UDS_29BIT.address(31), IsoTpParameters(padding=None))
    pipe.send(b"\x3e\x80")
    pipe.run()
    (frame,) = pipe.frames(0)
    assert (frame.can_id, frame.data, frame.is_extended_id) == (0x18DA2FF1, b"\x02\x3e\x80", True)
    fd = IsoTpParameters(frame_bytes=64)
    pipe = Pipe(UDS_11BIT.address(0), fd, fd)
    pipe.send(bytes(9))
    pipe.send(bytes(100))
    pipe.run()
    sizes = [len(frame.data) for frame in pipe.frames(0)]
    assert sizes == [12, 64, 48]
    assert all(frame.is_fd for frame in pipe.frames(0))


def test_the_receiver_says_how_many_and_how_fast():
    """BS 4 and STmin 5 ms: flow control behind every fourth frame, and never two frames within 5 ms."""
    pipe = Pipe(UDS_11BIT.address(1), node=IsoTpParameters(block_size=4, stmin=5))
    pipe.send(bytes(100))
    pipe.run()
    assert pipe.ends[1].next_message() == bytes(100)
    times = [at for at, side, frame in pipe.log if side == 0 and frame.data[0] >> 4 == 2]
    assert len(times) == 14
    assert all(later - earlier >= 5 * MS for earlier, later in itertools.pairwise(times))
    # The shortest pause that is longer, so that the rate is what was asked for.
    assert times[-1] - times[0] < 14 * 5 * MS
    assert len(pipe.frames(1)) == 4


def test_tenths_of_milliseconds_are_kept_too():
    pipe = Pipe(UDS_11BIT.address(1), node=IsoTpParameters(stmin=0xF3))
    pipe.send(bytes(30))
    pipe.run()
    times = [at for at, side, frame in pipe.log if side == 0 and frame.data[0] >> 4 == 2]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [300_001] * 3


def test_frames_are_handed_out_in_bursts():
    pipe = Pipe(UDS_11BIT.address(1), IsoTpParameters(burst_frames=10, burst_spacing_ns=2 * MS))
    pipe.send(bytes(210))
    pipe.run()
    times = [at for at, side, _ in pipe.log if side == 0]
    assert len(times) == 31
    assert pipe.ends[1].next_message() == bytes(210)
    assert max(times.count(at) for at in times) == 10
    assert times[-1] - times[0] == 3 * 2 * MS


def flow_control(status, block_size=0, stmin=0):
    return CanFrame(0x7E9, bytes([0x30 | status, block_size, stmin]))


def test_a_receiver_may_ask_to_wait():
    """FC.WAIT starts N_Bs anew; too many in a row end the message."""
    link = IsoTpLink.of_tester(UDS_11BIT.address(1), IsoTpParameters(wait_frames_max=3))
    link.send(bytes(20), START_NS)
    now_ns = START_NS
    assert len(link.frames_to_send(now_ns)) == 1
    for _ in range(3):
        now_ns += 900 * MS
        link.handle_timeout(now_ns)
        link.receive_frame(flow_control(1), now_ns)
        assert link.frames_to_send(now_ns) == []
        assert link.next_error() is None
    link.receive_frame(flow_control(0), now_ns)
    assert len(link.frames_to_send(now_ns)) == 2
    assert not link.is_sending

    link.send(bytes(20), now_ns)
    link.frames_to_send(now_ns)
    for _ in range(4):
        link.receive_frame(flow_control(1), now_ns)
    error = link.next_error()
    assert error.fault is IsoTpFault.TOO_MANY_WAITS
    assert error.is_send_lost
    assert not link.is_sending


def test_a_message_longer_than_the_receivers_buffer_is_an_overflow_on_both_sides():
    pipe = Pipe(UDS_11BIT.address(1), node=IsoTpParameters(message_bytes_max=100))
    pipe.send(bytes(101))
    pipe.run()
    assert pipe.frames(1)[0].data[0] == 0x32
    assert pipe.faults(0) == [IsoTpFault.OVERFLOW]
    assert pipe.faults(1) == [IsoTpFault.TOO_LONG]
    assert pipe.ends[1].next_message() is None
    assert not pipe.ends[0].is_sending


def test_no_flow_control_is_an_error_after_n_bs():
    pipe = Pipe(UDS_11BIT.address(1), IsoTpParameters(flow_control_timeout_ns=70 * MS))
    pipe.drop = lambda side, frame: side == 1
    pipe.send(bytes(20))
    pipe.run(until_ns=START_NS + 70 * MS)
    assert pipe.faults(0) == []
    pipe.run(until_ns=START_NS + 71 * MS)
    assert pipe.faults(0) == [IsoTpFault.NO_FLOW_CONTROL]
    assert pipe.now_ns == START_NS + 70 * MS + 1


def test_no_consecutive_frame_is_an_error_after_n_cr():
    pipe = Pipe(UDS_11BIT.address(1), node=IsoTpParameters(consecutive_timeout_ns=150 * MS))
    pipe.drop = lambda side, frame: frame.data[0] == 0x22
    pipe.send(bytes(20))
    pipe.run()
    assert pipe.ends[1].next_message() is None
    error = pipe.ends[1].next_error()
    assert (error.fault, error.is_receive_lost) == (IsoTpFault.NO_CONSECUTIVE_FRAME, True)
    assert pipe.now_ns == START_NS + 150 * MS + 1
    pipe.drop = lambda side, frame: False
    pipe.send(b"next")
    pipe.run()
    assert pipe.ends[1].next_message() == b"next"


@pytest.mark.parametrize("missing", [0x21, 0x22, 0x2F, 0x20])
def test_a_lost_frame_loses_its_message_and_not_the_next(missing):
    pipe = Pipe(UDS_11BIT.address(1))
    lost = []
    pipe.drop = lambda side, frame: frame.data[0] == missing and not lost and (lost.append(frame) or True)
    pipe.send(bytes(200))
    pipe.run()
    assert pipe.ends[1].next_message() is None
    assert pipe.faults(1)[0] is IsoTpFault.WRONG_SEQUENCE
    pipe.send(bytes(range(200)))
    pipe.run()
    assert pipe.ends[1].next_message() == bytes(range(200))


def test_a_new_message_ends_the_one_before():
    pipe = Pipe(UDS_11BIT.address(1))
    for frame in ("1014000102030405", "0411121314"):
        pipe.ends[1].receive_frame(CanFrame(0x7E1, bytes.fromhex(frame)), START_NS)
    assert pipe.ends[1].next_message() == bytes.fromhex("11121314")
    assert pipe.faults(1) == [IsoTpFault.INTERRUPTED]
    for frame in ("1014000102030405", "1009212223242526", "2127282900000000"):
        pipe.ends[1].receive_frame(CanFrame(0x7E1, bytes.fromhex(frame)), START_NS)
    assert pipe.ends[1].next_message() == bytes.fromhex("212223242526272829")
    assert pipe.faults(1) == [IsoTpFault.INTERRUPTED]


@pytest.mark.parametrize("data", ["", "00", "0700", "f0112233", "10", "3301", "30"])
def test_frames_that_are_none_are_told_and_change_nothing(data):
    link = IsoTpLink.of_node(UDS_11BIT.address(1))
    link.receive_frame(CanFrame(0x7E1, bytes.fromhex(data)), START_NS)
    assert link.next_error().fault is IsoTpFault.MALFORMED
    assert link.next_message() is None
    assert link.frames_to_send(START_NS) == []


def test_frames_without_a_message_are_told():
    link = IsoTpLink.of_node(UDS_11BIT.address(1))
    for data in ("2100", "300000"):
        link.receive_frame(CanFrame(0x7E1, bytes.fromhex(data)), START_NS)
        error = link.next_error()
        assert error.fault is IsoTpFault.UNEXPECTED
        assert not error.is_send_lost
        assert not error.is_receive_lost


def test_frames_of_others_are_not_taken():
    link = IsoTpLink.of_node(UDS_11BIT.address(1))
    assert not link.receive_frame(CanFrame(0x7E2, b"\x01\x3e"), START_NS)
    assert not link.receive_frame(CanFrame(0x7E1, b"\x01\x3e", is_extended_id=True), START_NS)
    assert link.next_message() is None


def test_what_is_aborted_is_forgotten():
    pipe = Pipe(UDS_11BIT.address(1), IsoTpParameters(burst_frames=1))
    pipe.send(bytes(100))
    pipe.step()
    pipe.step()
    pipe.ends[0].abort()
    assert not pipe.ends[0].is_sending
    assert pipe.ends[0].next_timeout() is None
    pipe.send(b"new")
    pipe.run()
    assert pipe.ends[1].next_message() == b"new"


def test_no_clock_is_read_and_nobody_sleeps(monkeypatch):
    """The reason for the adapter: the same machine runs in virtual time."""

    def read(*_args):
        raise AssertionError("a clock was read")

    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"):
        monkeypatch.setattr(time, name, read)
    pipe = Pipe(UDS_11BIT.address(1), IsoTpParameters(stmin=1), IsoTpParameters(stmin=2, block_size=3))
    pipe.send(bytes(300))
    pipe.run()
    assert pipe.ends[1].next_message() == bytes(300)
    pipe.drop = lambda side, frame: side == 1
    pipe.send(bytes(300))
    pipe.run()
    assert pipe.faults(0) == [IsoTpFault.NO_FLOW_CONTROL]


def test_nothing_is_written_to_standard_error(capfd):
    """can-isotp logs its errors; without a handler they would land between a tool's progress bars."""
    pipe = Pipe(UDS_11BIT.address(1), node=IsoTpParameters(message_bytes_max=100))
    pipe.send(bytes(101))
    pipe.run()
    assert pipe.faults(0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "values",
    [
        {"stmin": 0x80},
        {"stmin": 0xFA},
        {"block_size": 256},
        {"frame_bytes": 9},
        {"padding": 256},
        {"burst_frames": 0},
    ],
)
def test_impossible_parameters_are_refused(values):
    with pytest.raises(ConfigurationError, match="ISO-TP: expected"):
        IsoTpParameters(**values)


def test_positions_have_the_ids_of_the_standards():
    """ISO 15765-4: 0x7E0 + p, 0x7E8 + p, 0x7DF. ISO 15765-2, 10.3.4: 0x18DA, target, source."""
    assert [UDS_11BIT.address(p).request_id for p in range(8)] == list(range(0x7E0, 0x7E8))
    assert [UDS_11BIT.address(p).response_id for p in range(8)] == list(range(0x7E8, 0x7F0))
    for position in range(32):
        address = UDS_29BIT.address(position)
        assert address.request_id == 0x18DA00F1 | (0x10 + position) << 8
        assert address.response_id == 0x18DAF100 | 0x10 + position
        assert address.is_extended_id
        assert UDS_29BIT.position_of(CanFrame(address.response_id, b"", is_extended_id=True)) == position
    assert (UDS_11BIT.address(0).functional_id, UDS_29BIT.address(0).functional_id) == (0x7DF, 0x18DB33F1)
    assert UDS_11BIT.position_of(CanFrame(0x7F0, b"")) is None
    assert UDS_11BIT.position_of(CanFrame(0x7E7, b"")) is None
    assert UDS_11BIT.position_of(CanFrame(0x7E8, b"", is_extended_id=True)) is None
    for addressing, positions in ((UDS_11BIT, 8), (UDS_29BIT, 32)):
        for position in (-1, positions):
            with pytest.raises(LocalProtocolError, match=f"position: expected 0 to {positions - 1}, got {position}"):
                addressing.address(position)
    own = UdsAddressing(request_id=0x700, response_id=0x708, functional_id=0x7DF)
    assert own.address(0).response_id == 0x708
    with pytest.raises(LocalProtocolError):
        own.address(1)


@pytest.mark.parametrize(
    ("stmin", "spacing_ms"),
    [(0x00, 0), (0x0A, 10), (0x7F, 127), (0x80, 127), (0xF0, 127), (0xFA, 127), (0xFF, 127), (0xF5, 0.5)],
)
@pytest.mark.parametrize("parameters", [None, IsoTpParameters(frame_bytes=64)], ids=["classic", "FD"])
def test_a_reserved_stmin_is_the_longest_one(stmin, spacing_ms, parameters):
    """ISO 15765-2: the sender uses 127 ms instead of a reserved value; it does not take the flow control for none."""
    link = IsoTpLink.of_tester(UDS_11BIT.address(0), parameters)
    link.send(bytes(200), START_NS)
    assert len(link.frames_to_send(START_NS)) == 1
    answer = UDS_11BIT.address(0).response_id
    link.receive_frame(CanFrame(answer, bytes([0x30, 0, stmin]).ljust(8, b"\xaa")), START_NS)
    times = []
    now_ns = START_NS
    for _ in range(100):
        frames = link.frames_to_send(now_ns)
        times += [now_ns] * len(frames)
        due = link.next_timeout()
        now_ns = now_ns if frames or due is None else max(due, now_ns)
    assert len(times) >= 3
    assert times[1] - times[0] == pytest.approx(spacing_ms * MS, abs=2)
    assert link.next_error() is None
