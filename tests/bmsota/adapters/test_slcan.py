"""The slcan back end: over ptys against a virtual adapter, and beside python-can's own back end."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import tomllib
from contextlib import contextmanager
from pathlib import Path

import can
import can.interfaces
import pytest
from bmsota_sim.links.slcan_pty import SlcanPty, join, serve
from can.interfaces.slcan import slcanBus as TheirBus

from bmsota.adapters import slcan
from bmsota.adapters.slcan import SlcanBus
from bmsota.canframe import CanFrame
from bmsota.slcan import AdapterOptions, SlcanAdapter

# What a loaded machine may need for a few bytes through two threads. A test that waits so long fails.
PATIENCE_S = 120.0


@contextmanager
def served(*cables):
    """The cables pumped in a thread of their own."""
    ticks = itertools.count(1_700_000_000_000_000_000, 1_000_000)
    ended, end = os.pipe()
    thread = threading.Thread(target=serve, args=(cables, lambda: next(ticks)), kwargs={"until": ended}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.write(end, b".")
        thread.join(PATIENCE_S)
        os.close(ended)
        os.close(end)


@contextmanager
def wire(*options):
    """Virtual adapters on one wire, one for each of *options*, each behind a pty."""
    adapters = [SlcanAdapter(options=each) for each in options]
    join(*adapters, now_ns=lambda: 1_700_000_000_000_000_000)
    cables = [SlcanPty(adapter) for adapter in adapters]
    with served(*cables):
        yield cables
    for cable in cables:
        cable.close()


@pytest.fixture
def pair():
    """Two plain adapters on one wire."""
    with wire(AdapterOptions(), AdapterOptions()) as cables:
        yield cables


def bus_on(cable, **options):
    return SlcanBus(cable.path, **{"bitrate": 500_000, **options})


def contents(message):
    return (
        message.arbitration_id, message.is_extended_id, message.is_fd, message.is_remote_frame, message.bitrate_switch,
        message.dlc, bytes(message.data),
    )  # fmt: skip


CLASSIC = [
    can.Message(arbitration_id=0x123, is_extended_id=False, data=b""),
    can.Message(arbitration_id=0x7FF, is_extended_id=False, data=bytes(range(8))),
    can.Message(arbitration_id=0, is_extended_id=True, data=b"\x00"),
    can.Message(arbitration_id=0x1FFFFFFF, is_extended_id=True, data=b"\xff" * 8),
]
FD = [
    can.Message(arbitration_id=0x123, is_extended_id=extended, data=bytes(range(size)), is_fd=True, bitrate_switch=True)
    for extended in (False, True)
    for size in (0, 1, 8, 12, 16, 20, 24, 32, 48, 64)
]


def test_frames_go_both_ways_and_through_the_interface_name(pair, monkeypatch):
    # What the entry point does in an installed package (next test).
    monkeypatch.setitem(can.interfaces.BACKENDS, "bmsota_slcan", ("bmsota.adapters.slcan", "SlcanBus"))
    monkeypatch.setattr(can.util, "VALID_INTERFACES", can.util.VALID_INTERFACES | {"bmsota_slcan"})
    with (
        can.Bus(interface="bmsota_slcan", channel=f"{pair[0].path}@115200", bitrate=250_000) as one,
        bus_on(pair[1]) as other,
    ):
        assert pair[0].adapter.bitrate_bps == 250_000
        assert (pair[0].adapter.is_open, pair[0].adapter.is_silent) == (True, False)
        assert one.version == "V1013"
        assert one.state is can.BusState.ACTIVE
        assert one.protocol is can.CanProtocol.CAN_20
        for sent in CLASSIC:
            one.send(sent)
            received = other.recv(PATIENCE_S)
            assert contents(received) == contents(sent)
            assert received.channel == pair[1].path
            assert received.is_rx
        other.send(CLASSIC[0])
        assert contents(one.recv(PATIENCE_S)) == contents(CLASSIC[0])
    assert not pair[0].adapter.is_open


def test_the_entry_point_is_registered():
    """So that `can.Bus(interface="bmsota_slcan")` finds it in an installed package."""
    with (Path(__file__).parents[3] / "pyproject.toml").open("rb") as file:
        points = tomllib.load(file)["project"]["entry-points"]["can.interface"]
    assert points == {"bmsota_slcan": "bmsota.adapters.slcan:SlcanBus"}


def test_can_fd_frames_go_both_ways(pair):
    with bus_on(pair[0], fd=True) as one, bus_on(pair[1], data_bitrate=5_000_000) as other:
        assert [cable.adapter.data_bitrate_bps for cable in pair] == [2_000_000, 5_000_000]
        assert one.protocol is can.CanProtocol.CAN_FD
        for sent in FD:
            one.send(sent, timeout=PATIENCE_S)
            assert contents(other.recv(PATIENCE_S)) == contents(sent)
        odd = can.Message(arbitration_id=1, is_extended_id=False, data=b"123456789", is_fd=True, bitrate_switch=True)
        one.send(odd)
        assert other.recv(PATIENCE_S).data == b"123456789\0\0\0"  # FD has no length 9.


@pytest.mark.parametrize("theirs_first", [True, False])
def test_beside_python_cans_own_back_end(pair, theirs_first):
    """Both speak the same lines: frames of one arrive at the other."""
    path = pair[0].path
    theirs = TheirBus(path, bitrate=500_000, sleep_after_open=0, timeout=0.01)
    ours = bus_on(pair[1])
    with theirs, ours:
        assert theirs.get_version(PATIENCE_S) == (10, 13)  # It does not wait for its commands: by now it is open.
        sender, receiver = (theirs, ours) if theirs_first else (ours, theirs)
        for sent in CLASSIC:
            sender.send(sent)
            assert contents(receiver.recv(PATIENCE_S)) == contents(sent)


def test_beside_python_cans_own_back_end_with_can_fd(pair):
    timing = can.BitTimingFd.from_sample_point(
        f_clock=80_000_000, nom_bitrate=500_000, nom_sample_point=80, data_bitrate=2_000_000, data_sample_point=80
    )
    theirs = TheirBus(pair[0].path, timing=timing, sleep_after_open=0, timeout=0.01)
    with theirs, bus_on(pair[1], bitrate=None, timing=timing) as ours:
        assert theirs.get_version(PATIENCE_S) == (10, 13)
        for sent in FD[::3]:
            theirs.send(sent)
            assert contents(ours.recv(PATIENCE_S)) == contents(sent)
            ours.send(sent)
            assert contents(theirs.recv(PATIENCE_S)) == contents(sent)


def test_recv_waits_as_python_can_says(pair):
    with bus_on(pair[0]) as one, bus_on(pair[1]) as other:
        assert one.recv(0) is None
        assert one.recv(0.01) is None
        threading.Timer(0.05, other.send, [CLASSIC[1]]).start()
        assert contents(one.recv()) == contents(CLASSIC[1])


def test_filters_are_applied(pair):
    with (
        bus_on(pair[0], can_filters=[{"can_id": 0x7FF, "can_mask": 0x7FF, "extended": False}]) as one,
        bus_on(pair[1]) as other,
    ):
        for message in CLASSIC:
            other.send(message)
        assert one.recv(PATIENCE_S).arbitration_id == 0x7FF
        one.set_filters(None)
        other.send(CLASSIC[2])
        assert CLASSIC[2].arbitration_id in {one.recv(PATIENCE_S).arbitration_id for _ in range(3)}


# --- Settings and refusals --------------------------------------------------------------------------------------------


def test_listen_only_by_l_and_by_m1(pair):
    with bus_on(pair[0], listen_only=True) as one:
        assert (pair[0].adapter.is_open, pair[0].adapter.is_silent) == (True, True)
        assert one.state is can.BusState.PASSIVE
        with pytest.raises(can.CanOperationError, match="cannot send: opened listen-only"):
            one.send(CLASSIC[0])
        with pytest.raises(can.CanOperationError, match="listen_only can only be set when opening"):
            one.state = can.BusState.ACTIVE
    canable = AdapterOptions(has_listen=False, version="b158aa7 github.com/normaldotcom/canable2.git")
    with wire(canable) as (cable,):
        with bus_on(cable, listen_only=True) as bus:
            assert (cable.adapter.is_open, cable.adapter.is_silent) == (True, True)
            assert bus.version == canable.version
        cable.adapter._must_listen = True  # Left silent by a program that was killed.
        with bus_on(cable):
            assert (cable.adapter.is_open, cable.adapter.is_silent) == (True, False)


def test_settings_the_adapter_refuses_are_named():
    with wire(AdapterOptions(has_fd=False)) as (cable,):
        with pytest.raises(can.CanInitializationError, match=r"the adapter did not accept Y2 \(data bit rate\): BEL"):
            bus_on(cable, fd=True)
        bus_on(cable).shutdown()  # The port was given back.


def test_settings_no_adapter_has_are_refused():
    for options, said in [
        ({"bitrate": 400_000}, "expected a bit rate of 10000, .* got 400000"),
        ({"bitrate": 500_000, "data_bitrate": 3_000_000}, "expected a data bit rate of 1000000, .* got 3000000"),
        (
            {"bitrate": 500_000, "timing": can.BitTiming.from_registers(8_000_000, 0, 0x1C)},
            "give a bit rate or a timing, not both",
        ),
        ({"unanswered_max": 0}, "unanswered_max: expected at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=said):
            SlcanBus("/dev/null", **options)
    with pytest.raises(ValueError, match="no serial port"):
        SlcanBus("")


def test_bit_timing_registers_are_sent(pair):
    with bus_on(pair[0], bitrate=None, timing=can.BitTiming.from_registers(8_000_000, 0, 0x1C)):
        assert pair[0].adapter.refused == 0
        assert pair[0].adapter.is_open


def test_no_port_and_no_adapter_are_two_messages(monkeypatch, tmp_path):
    with pytest.raises(can.CanInitializationError, match=r"cannot open .*ttyACM9: No such file"):
        SlcanBus(str(tmp_path / "ttyACM9"))
    monkeypatch.setattr(slcan, "OPEN_TIMEOUT_S", 0.02)
    monkeypatch.setattr(slcan, "OPEN_ASK_S", 0.01)
    said = r"no answer to C within 0\.02 s"
    with wire(AdapterOptions(answers=False)) as (cable,), pytest.raises(can.CanInitializationError, match=said):
        bus_on(cable)


def test_two_programs_cannot_have_one_adapter(pair):
    with (
        bus_on(pair[0]),
        pytest.raises(can.CanInitializationError, match=r"cannot open .*: another program is using it"),
    ):
        bus_on(pair[0])


def test_an_adapter_that_was_open_and_stuck_in_a_line_is_taken_over(pair):
    """The program before was killed in the middle of a line; frames are streaming in."""
    adapter = pair[0].adapter
    adapter.receive_data(b"O\rt1234", 0)
    for number in range(200):
        adapter.receive_frame(CanFrame(number, b"12345678"), 0)
    with bus_on(pair[0]) as one, bus_on(pair[1]) as other:
        other.send(CLASSIC[1])
        assert contents(one.recv(PATIENCE_S)) == contents(CLASSIC[1])


def test_adapters_that_never_answer():
    """Nothing is waited for, and everything works that does not need an answer."""
    with wire(AdapterOptions(answers=False), AdapterOptions()) as cables:
        with bus_on(cables[0], check_answers=False, fd=True, timestamps=True) as one, bus_on(cables[1]) as other:
            for _ in range(50):
                one.send(CLASSIC[1])
            for _ in range(50):
                assert contents(other.recv(PATIENCE_S)) == contents(CLASSIC[1])
            other.send(CLASSIC[0])
            assert contents(one.recv(PATIENCE_S)) == contents(CLASSIC[0])
        with bus_on(cables[0], check_answers=False, listen_only=True) as one:
            assert one.state is can.BusState.PASSIVE


def test_adapters_that_answer_commands_but_not_frames(monkeypatch):
    monkeypatch.setattr(slcan, "ANSWER_TIMEOUT_S", 0.05)
    with (
        wire(AdapterOptions(answers_frames=False), AdapterOptions()) as cables,
        bus_on(cables[0]) as one,
        bus_on(cables[1]) as other,
    ):
        for _ in range(40):
            one.send(CLASSIC[1])
        for _ in range(40):
            assert contents(other.recv(PATIENCE_S)) == contents(CLASSIC[1])


# --- Answers to frames ------------------------------------------------------------------------------------------------


class Stubborn:
    """A bus that refuses some frames, as an adapter with a full transmit buffer does."""

    def __init__(self, *refusals):
        self.refusals = list(refusals)
        self.frames = []

    def __call__(self, frame):
        if self.refusals and self.refusals.pop(0):
            return False
        self.frames.append(frame.can_id)
        return True


@contextmanager
def stubborn_bus(*refusals, **options):
    bus = Stubborn(*refusals)
    with SlcanPty(SlcanAdapter(bus)) as cable, served(cable):
        yield bus, bus_on(cable, **options), cable


def message(number):
    return can.Message(arbitration_id=number, is_extended_id=False, data=b"ab")


def test_a_refused_frame_is_sent_again():
    with stubborn_bus(False, True, True, True) as (far, bus, _), bus:
        for number in range(20):
            bus.send(message(number))
        bus.send(message(99), timeout=PATIENCE_S)
        assert sorted(far.frames) == [*range(20), 99]  # Those under way may have overtaken it.


def test_with_one_frame_under_way_the_order_is_kept():
    with stubborn_bus(*([False, True, True] * 5), unanswered_max=1) as (far, bus, _), bus:
        for number in range(20):
            bus.send(message(number))
        bus.send(message(99), timeout=PATIENCE_S)
        assert far.frames == [*range(20), 99]


def send_and_wait(bus):
    bus.send(message(7), timeout=PATIENCE_S)


def send_until_told(bus):
    while True:
        bus.send(message(7))


def send_and_receive(bus):
    bus.send(message(7))
    bus.recv(PATIENCE_S)


@pytest.mark.parametrize("how", [send_and_wait, send_until_told, send_and_receive])
def test_a_frame_refused_for_long_is_an_error_that_names_it(monkeypatch, how):
    """Said by whoever asks next: also by the recv() that waits for what the frame should have brought."""
    monkeypatch.setattr(slcan, "RESEND_S_MAX", 0.02)
    with stubborn_bus(*[True] * 100_000) as (far, bus, _), bus:
        with pytest.raises(can.CanOperationError, match=r"the adapter could not send t00726162 for 0\.02 s"):
            how(bus)
        assert far.frames == []


def test_after_a_refusal_the_bus_goes_on(monkeypatch):
    monkeypatch.setattr(slcan, "RESEND_S_MAX", 0.02)
    with stubborn_bus(*[True] * 100_000) as (far, bus, _), bus:
        with pytest.raises(can.CanOperationError):
            bus.send(message(7), timeout=PATIENCE_S)
        far.refusals.clear()
        bus.send(message(9), timeout=PATIENCE_S)
        assert far.frames == [9]


def test_an_answer_that_stays_away_is_a_timeout():
    with stubborn_bus() as (_, bus, cable), bus:
        bus.send(message(1), timeout=PATIENCE_S)
        cable.adapter.options = AdapterOptions(answers_frames=False)
        with pytest.raises(can.CanTimeoutError, match=r"no answer to t00226162 within 0\.05 s"):
            bus.send(message(2), timeout=0.05)


def test_an_adapter_that_has_answered_is_given_time(monkeypatch):
    """Its process may get no turn on a busy machine; that is no lost adapter."""
    with stubborn_bus(unanswered_max=1) as (far, bus, _), bus:
        bus.send(message(0), timeout=PATIENCE_S)
        monkeypatch.setattr(slcan, "ANSWER_TIMEOUT_S", 0)
        monkeypatch.setattr(slcan, "LOST_TIMEOUT_S", PATIENCE_S)
        for number in range(1, 50):
            bus.send(message(number))
        bus.send(message(50), timeout=PATIENCE_S)
        assert far.frames == list(range(51))


def test_what_is_no_frame_for_an_adapter_is_refused(pair):
    with bus_on(pair[0]) as bus:
        with pytest.raises(can.CanOperationError, match="expected at most 8 data bytes in a classic frame, got 9"):
            bus.send(can.Message(data=bytes(9)))
        with pytest.raises(can.CanOperationError, match="expected a data or remote frame, got an error frame"):
            bus.send(can.Message(is_error_frame=True))
    assert (
        slcan._line_of(can.Message(arbitration_id=0x12, is_extended_id=False, is_remote_frame=True, dlc=3)) == "r0123"
    )
    assert slcan._line_of(can.Message(arbitration_id=0x12, is_fd=True, data=bytes(10))) == "D000000129" + "00" * 12


# --- The life of a bus ------------------------------------------------------------------------------------------------


def test_shutdown_may_be_called_twice_and_ends_everything(pair):
    bus = bus_on(pair[0])
    assert bus.fileno() >= 0
    bus.shutdown()
    bus.shutdown()
    for use in (lambda: bus.recv(0), lambda: bus.send(CLASSIC[0])):
        with pytest.raises(can.CanOperationError, match="the bus has been shut down"):
            use()


def test_an_unplugged_adapter_is_an_error_both_ways():
    cable = SlcanPty(SlcanAdapter(lambda _frame: True))
    with served(cable):
        bus = bus_on(cable)
    cable.close()
    with pytest.raises(can.CanOperationError, match=r"the adapter is gone: .*unplugged\?"):
        bus.recv(PATIENCE_S)
    with pytest.raises(can.CanOperationError, match="cannot send t1230: "):
        bus.send(CLASSIC[0])
    bus.shutdown()


def test_without_a_file_descriptor_the_port_is_read_with_its_own_timeout(pair, monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(slcan, "_descriptor", lambda _port: None)
    with bus_on(pair[0]) as one, bus_on(pair[1]) as other:
        other.send(CLASSIC[1])
        assert contents(one.recv(PATIENCE_S)) == contents(CLASSIC[1])
        with pytest.raises(RuntimeError) as caught:  # Of python-can: the Notifier then uses a thread.
            one.fileno()
        assert "fileno is not implemented" in str(caught.value)


def test_asyncio_gets_every_frame_of_a_burst(pair):
    """One read brings many frames, the loop asks for one at a time: the descriptor must stay readable."""
    frames = [can.Message(arbitration_id=number, is_extended_id=False, data=b"12345678") for number in range(300)]

    async def collect(bus, other):
        reader = can.AsyncBufferedReader()
        loop = asyncio.get_running_loop()
        with can.Notifier(bus, [reader], loop=loop):
            await loop.run_in_executor(None, lambda: [other.send(frame) for frame in frames])
            return [await asyncio.wait_for(reader.get_message(), PATIENCE_S) for _ in frames]

    with bus_on(pair[0]) as one, bus_on(pair[1]) as other:
        assert [each.arbitration_id for each in asyncio.run(collect(one, other))] == list(range(300))


def test_a_notifier_thread_receives_while_another_sends(pair):
    received, done = [], threading.Event()

    def listen(each):
        received.append(each.arbitration_id)
        if len(received) == 1000:
            done.set()

    with bus_on(pair[0]) as one, bus_on(pair[1]) as other:
        with can.Notifier(one, [listen], timeout=0.05), can.Notifier(other, [lambda _each: None], timeout=0.05):
            for number in range(1000):
                other.send(message(number))
                one.send(message(number))
            assert done.wait(PATIENCE_S)
        assert received == list(range(1000))
        assert (one.garbage, one.dropped) == (0, 0)


def test_detection_lists_usb_serial_ports(monkeypatch):
    from serial.tools import list_ports
    from serial.tools.list_ports_common import ListPortInfo

    usb, uart = ListPortInfo("/dev/ttyACM7"), ListPortInfo("/dev/ttyS0")
    usb.vid = 0x16D0
    monkeypatch.setattr(list_ports, "comports", lambda: [usb, uart])
    assert SlcanBus._detect_available_configs() == [{"interface": "bmsota_slcan", "channel": "/dev/ttyACM7"}]


def test_timestamps_are_asked_of_the_adapter(pair):
    with bus_on(pair[0], timestamps=True) as one, bus_on(pair[1]) as other:
        assert pair[0].adapter.has_timestamps
        other.send(CLASSIC[1])
        assert contents(one.recv(PATIENCE_S)) == contents(CLASSIC[1])
