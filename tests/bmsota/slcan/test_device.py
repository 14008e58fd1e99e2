"""The adapter's end: its commands one by one, and the frames of the bus."""

from __future__ import annotations

import pytest

from bmsota.canframe import CanFrame
from bmsota.slcan import AdapterOptions, SlcanAdapter, SlcanHost, frame_line
from bmsota.slcan._device import OUTPUT_SIZE_BYTES_MAX
from bmsota.slcan._protocol import COMMAND_SIZE_BYTES_MAX

MS = 1_000_000
NOW = 1_700_000_000 * 1000 * MS


def said(adapter, line, now_ns=NOW):
    adapter.receive_data(line, now_ns)
    return adapter.data_to_send()


class Wire(list):
    """Takes every frame."""

    def __call__(self, frame):
        self.append(frame)
        return True


@pytest.fixture
def adapter():
    """An open one; what it transmits is in `adapter.transmit`."""
    made = SlcanAdapter(Wire())
    assert said(made, b"S6\rO\r") == b"\r\r"
    return made


CLOSED = {
    b"S0\r": b"\r", b"S9\r": b"\r", b"SA\r": b"\a", b"S\r": b"\a", b"S66\r": b"\a", b"s031C\r": b"\r", b"s03\r": b"\a",
    b"Y2\r": b"\r", b"Y5\r": b"\r", b"Y3\r": b"\a", b"Z0\r": b"\r", b"Z1\r": b"\r", b"Z2\r": b"\a", b"V\r": b"V1013\r",
    b"N\r": b"NBMS1\r", b"O\r": b"\r", b"L\r": b"\r", b"C\r": b"\r", b"\r": b"\r", b"F\r": b"\a", b"M00000000\r": b"\r",
    b"mFFFFFFFF\r": b"\r", b"M1\r": b"\a", b"X\r": b"\a", b"t1230\r": b"\a", b"O1\r": b"\a", b"\nC\r": b"\r",
}  # fmt: skip


@pytest.mark.parametrize(("line", "answer"), CLOSED.items(), ids=repr)
def test_commands_while_closed(line, answer):
    made = SlcanAdapter(Wire())
    assert said(made, line) == answer
    assert made.refused == (answer == b"\a")


OPEN = {
    b"t1230\r": (b"z\r", CanFrame(0x123, b"")),
    b"t12381122334455667788\r": (b"z\r", CanFrame(0x123, bytes.fromhex("1122334455667788"))),
    b"T1FFFFFFF2abCD\r": (b"Z\r", CanFrame(0x1FFFFFFF, b"\xab\xcd", is_extended_id=True)),
    b"d123100\r": (b"z\r", CanFrame(0x123, b"\0", is_fd=True)),
    b"D00000123F" + b"11" * 64 + b"\r": (b"Z\r", CanFrame(0x123, b"\x11" * 64, is_extended_id=True, is_fd=True)),
    b"b1239" + b"22" * 12 + b"\r": (b"z\r", CanFrame(0x123, b"\x22" * 12, is_fd=True)),
    b"B00000001100\r": (b"Z\r", CanFrame(1, b"\0", is_extended_id=True, is_fd=True)),
    b"t8000\r": (b"\a", None), b"T200000000\r": (b"\a", None), b"t1239" + b"00" * 12 + b"\r": (b"\a", None),
    b"t1231\r": (b"\a", None), b"t123100FF\r": (b"\a", None), b"t12G0\r": (b"\a", None), b"r1230\r": (b"\a", None),
    b"t00000123100\r": (b"\a", None), b"S6\r": (b"\a", None), b"O\r": (b"\a", None), b"Z1\r": (b"\a", None),
    b"C\r": (b"\r", None), b"F\r": (b"F00\r", None),
}  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), OPEN.items(), ids=lambda each: repr(each)[:20])
def test_commands_while_open(adapter, line, expected):
    answer, frame = expected
    assert said(adapter, line) == answer
    assert adapter.transmit == ([] if frame is None else [frame])
    assert adapter.sent == len(adapter.transmit)


def test_lines_may_be_cut_anywhere_and_never_pile_up(adapter):
    for byte in b"t1230\rt4561FF\r":
        adapter.receive_data(bytes((byte,)), NOW)
    assert adapter.data_to_send() == b"z\rz\r"
    assert adapter.transmit == [CanFrame(0x123, b""), CanFrame(0x456, b"\xff")]
    adapter.receive_data(b"t" * 100_000, NOW)
    assert len(adapter._input) == COMMAND_SIZE_BYTES_MAX
    assert said(adapter, b"\r") == b"\a"


def test_frames_of_the_bus_become_lines(adapter):
    frames = [frame for _, frame in OPEN.values() if frame is not None]
    for frame in frames:
        adapter.receive_frame(frame, NOW)
    lines = [line.upper() for line, (_, frame) in OPEN.items() if frame is not None]
    # Without a data bit rate, FD frames have no bit rate switch.
    assert adapter.data_to_send().upper() == b"".join(lines).replace(b"B", b"D", 1).replace(b"\rB", b"\rD").replace(
        b"ADCD", b"ABCD"
    )
    assert adapter.received == len(frames)
    said(adapter, b"C\rY2\rZ1\rO\r")
    adapter.receive_frame(CanFrame(1, b"\xaa", is_fd=True), NOW + 59_999 * MS)
    adapter.receive_frame(CanFrame(1, b""), NOW)
    assert adapter.data_to_send() == b"b0011AA%04X\rt0010%04X\r" % ((NOW // MS + 59_999) % 60_000, NOW // MS % 60_000)
    said(adapter, b"C\r")
    adapter.receive_frame(CanFrame(1, b""), NOW)
    assert adapter.data_to_send() == b""


def test_listen_only_sends_nothing():
    made = SlcanAdapter(Wire())
    assert said(made, b"L\rt1230\r") == b"\r\a"
    made.receive_frame(CanFrame(1, b""), NOW)
    assert made.data_to_send() == b"t0010\r"
    canable = SlcanAdapter(Wire(), options=AdapterOptions(has_listen=False))
    assert said(canable, b"L\rM1\rO\rt1230\rC\rM0\rO\rt1230\r") == b"\a\r\r\a\r\r\rz\r"


def test_other_firmwares():
    mute = SlcanAdapter(Wire(), options=AdapterOptions(answers=False))
    assert said(mute, b"S6\rO\rt1230\rV\r") == b""
    assert mute.transmit == [CanFrame(0x123, b"")]
    half = SlcanAdapter(Wire(), options=AdapterOptions(answers_frames=False))
    assert said(half, b"O\rt1230\rt1\r") == b"\r"
    classic = SlcanAdapter(Wire(), options=AdapterOptions(has_fd=False))
    assert said(classic, b"Y2\rO\rd1230\r") == b"\a\r\a"


def test_another_bit_rate_hears_nothing_and_reaches_nobody():
    made = SlcanAdapter(Wire(), options=AdapterOptions(bus_bitrate_bps=250_000))
    assert said(made, b"S6\rO\rt1230\r") == b"\r\r\a"
    made.receive_frame(CanFrame(1, b""), NOW)
    assert said(made, b"F\r") == b"F80\r"
    assert said(made, b"C\rS5\rO\rt1230\rF\r") == b"\r\r\rz\rF00\r"


def test_a_full_bus_and_a_host_that_does_not_read_are_flags(adapter):
    adapter.transmit = lambda _frame: False
    assert said(adapter, b"t1230\rF\r") == b"\aF02\r"
    for _ in range(OUTPUT_SIZE_BYTES_MAX):
        adapter.receive_frame(CanFrame(1, b"12345678"), NOW)
    assert adapter.overruns > 0
    kept = adapter.data_to_send(1 << 30)
    assert OUTPUT_SIZE_BYTES_MAX <= len(kept) < OUTPUT_SIZE_BYTES_MAX + 30
    assert kept.endswith(b"\r")
    assert said(adapter, b"F\r") == b"F09\r"


def test_back_to_back_the_host_reads_what_the_adapter_writes(adapter):
    """Every frame of the bus reaches the host as it was, and every line of the host the bus."""
    host = SlcanHost()
    frames = [frame for _, frame in OPEN.values() if frame is not None]
    for frame in frames:
        adapter.receive_data(f"{frame_line(frame)}\r".encode(), NOW)
    assert adapter.transmit == frames
    assert adapter.data_to_send().replace(b"Z", b"z") == b"z\r" * len(frames)
    for frame in frames:
        adapter.receive_frame(frame, NOW)
    host.receive_data(adapter.data_to_send(), NOW)
    assert [head.frame(data) for head, data, _ in host.frames] == frames
