"""The python-can loop, over python-can's own virtual bus."""

from __future__ import annotations

import itertools

import can
import pytest

from bmsota.adapters.clock import steady_clock
from bmsota.adapters.pythoncan import WAIT_S_MAX, drive, from_message, serve, to_message
from bmsota.canframe import CanFrame
from bmsota.errors import TransferError

START = 1_700_000_000_000_000_000
channels = itertools.count()


@pytest.fixture
def buses():
    """Two ends of a virtual bus that nobody else uses."""
    channel = f"test_pythoncan_{next(channels)}"
    with can.Bus(interface="virtual", channel=channel) as near, can.Bus(interface="virtual", channel=channel) as far:
        yield near, far


class Clock:
    """A clock that moves a millisecond whenever it is read."""

    def __init__(self):
        self.now_ns = START

    def __call__(self):
        self.now_ns += 1_000_000
        return self.now_ns


class Asker:
    """Sends a question, repeats it at its deadline, finishes with the answer; logs what the loop does to it."""

    def __init__(self, *, deadline_ns=2_000_000):
        self.finished = False
        self.log = []
        self.events = []
        self.queue = [CanFrame(0x700, b"?")]
        self.deadline_ns = deadline_ns
        self.due_ns = None

    def frames_to_send(self, now_ns):
        frames, self.queue = self.queue, []
        if frames:
            self.due_ns = now_ns + self.deadline_ns
        return frames

    def receive_frame(self, frame, now_ns):
        self.log.append(("frame", frame))
        if frame.data == b"!":
            self.events += ["answered", "done"]
            self.queue = [CanFrame(0x700, b"bye")]
            self.finished = True

    def next_timeout(self):
        return self.due_ns

    def handle_timeout(self, now_ns):
        if not self.finished and self.due_ns is not None and now_ns >= self.due_ns:
            self.log.append(("timeout", now_ns))
            self.queue = [CanFrame(0x700, b"?")]
            self.events.append("repeated")

    def next_event(self):
        return self.events.pop(0) if self.events else None


@pytest.mark.parametrize(
    "frame",
    [
        CanFrame(0x123, b""),
        CanFrame(0x7FF, bytes(range(8))),
        CanFrame(0x18FF50E5, b"\x01", is_extended_id=True),
        CanFrame(0x100, bytes(64), is_fd=True),
    ],
)
def test_a_frame_is_the_same_after_the_way_over_a_bus(buses, frame):
    near, far = buses
    near.send(to_message(frame))
    assert from_message(far.recv(timeout=0)) == frame


def test_error_and_remote_frames_are_no_frames():
    assert from_message(can.Message(is_error_frame=True)) is None
    assert from_message(can.Message(arbitration_id=1, is_remote_frame=True)) is None


def test_the_user_may_stop_the_core_before_it_sends(buses):
    """`stop` is called before the first frame, and before each further turn."""
    near, far = buses
    core, calls = Asker(), []

    def stop():
        calls.append(len(core.log))
        if len(calls) == 1:
            core.queue = []
        else:
            core.finished = True

    assert list(drive(core, near, Clock(), stop=stop)) == []
    assert len(calls) == 2
    assert far.recv(timeout=0) is None, "nothing was sent"
    list(serve(Asker(), near, Clock(), lambda: len(calls) > 3, stop=lambda: calls.append(0)))
    assert len(calls) == 4


def test_the_loop_sends_feeds_yields_and_ends(buses):
    near, far = buses
    core = Asker(deadline_ns=3_000_000)
    far.send(can.Message(is_error_frame=True))
    far.send(to_message(CanFrame(0x701, b"foreign")))
    far.send(to_message(CanFrame(0x701, b"!")))
    assert list(drive(core, near, Clock())) == ["repeated", "answered", "done"]
    assert [from_message(message).data for message in iter(lambda: far.recv(timeout=0), None)] == [b"?", b"bye"]
    assert [entry for entry in core.log if entry[0] == "frame"] == [
        ("frame", CanFrame(0x701, b"foreign")),
        ("frame", CanFrame(0x701, b"!")),
    ]


def test_a_deadline_passes_also_on_a_busy_bus(buses):
    """recv() never comes back empty here, and the timeout is handled all the same."""
    near, far = buses
    core = Asker(deadline_ns=1)
    for _ in range(5):
        far.send(to_message(CanFrame(0x123, b"noise")))
    far.send(to_message(CanFrame(0x701, b"!")))
    list(drive(core, near, Clock()))
    assert len([entry for entry in core.log if entry[0] == "timeout"]) == 5


class Bus(can.BusABC):
    """Remembers how long it was asked to wait, and fails when told to."""

    channel_info = "broken"

    def __init__(self):
        self.waits = []
        self.failing = ""

    def send(self, message, timeout=None):
        if self.failing == "send":
            raise can.CanOperationError("cable pulled")

    def recv(self, timeout=None):
        self.waits.append(timeout)
        if self.failing == "receive":
            raise can.CanOperationError("cable pulled")
        return can.Message(arbitration_id=0x701, data=b"!", is_extended_id=False) if len(self.waits) == 3 else None

    def shutdown(self):
        self._is_shutdown = True


def test_the_loop_waits_as_long_as_the_core_allows():
    core, bus = Asker(deadline_ns=50_000_000), Bus()
    list(drive(core, bus, Clock()))
    # Behind a frame it looks, without waiting, whether there are more.
    assert bus.waits == pytest.approx([0.049, 0.046, 0.043, 0])
    core, bus = Asker(deadline_ns=0), Bus()
    list(drive(core, bus, Clock()))
    assert bus.waits == [0, 0, 0, 0]  # A deadline in the past is no negative wait.
    core, bus = Asker(deadline_ns=10**12), Bus()
    list(drive(core, bus, Clock()))
    assert bus.waits == [WAIT_S_MAX] * 3 + [0]
    core, bus = Asker(), Bus()
    core.queue = []
    list(drive(core, bus, Clock()))
    assert bus.waits == [WAIT_S_MAX] * 3 + [0]


@pytest.mark.parametrize("failing", ["send", "receive"])
def test_an_adapter_that_fails_is_named_with_its_cause(failing):
    bus = Bus()
    bus.failing = failing
    with pytest.raises(TransferError, match=f"expected the CAN adapter to {failing}.*cable pulled.*broken") as caught:
        list(drive(Asker(), bus, Clock()))
    assert not caught.value.permanent
    assert isinstance(caught.value.__cause__, can.CanOperationError)


def test_a_full_transmit_queue_is_waited_for():
    """socketcan's holds ten frames by default, and says "full" at once; a burst of ours has 65."""

    class Full(Bus):
        def __init__(self):
            super().__init__()
            self.sent = []
            self.refusals = 0

        def send(self, message, timeout=None):
            if len(self.sent) == 10 and self.refusals < 3:
                self.refusals += 1
                raise can.CanOperationError("Transmit buffer full")
            self.sent.append(message.arbitration_id)

    bus = Full()
    core = Asker()
    core.queue = [CanFrame(0x740 + index, b"x") for index in range(64)]
    list(drive(core, bus, Clock()))
    assert bus.sent[:64] == [0x740 + index for index in range(64)]
    assert bus.refusals == 3


def test_a_core_without_an_end_is_served_until_told(buses):
    near, far = buses
    core = Asker()
    far.send(to_message(CanFrame(0x701, b"foreign")))
    checks = itertools.count()
    assert list(serve(core, near, Clock(), until=lambda: next(checks) == 4)) == ["repeated"] * 4
    assert ("frame", CanFrame(0x701, b"foreign")) in core.log


def test_the_steady_clock_starts_at_the_wall_clock_and_does_not_go_back():
    clock = steady_clock()
    readings = [clock() for _ in range(100)]
    assert readings == sorted(readings)
    assert readings[0] > START
