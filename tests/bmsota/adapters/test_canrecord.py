"""The log of a bus."""

from __future__ import annotations

import itertools
import re

import can
import pytest

from bmsota.adapters.canrecord import CanRecord, RecordingBus

TICKS = itertools.count(1_700_000_000_000_000_000, 1_000_000)


@pytest.fixture
def buses():
    with (
        can.Bus(interface="virtual", channel="record") as bus,
        can.Bus(interface="virtual", channel="record") as other,
    ):
        yield bus, other


def log_one_frame_each_way(buses, path, channel):
    bus, other = buses
    with CanRecord(path) as record:
        recording = RecordingBus(bus, lambda: next(TICKS), record, channel=channel)
        recording.send(can.Message(arbitration_id=0x700, data=b"out", is_extended_id=False))
        other.send(can.Message(arbitration_id=0x720, data=b"in", is_extended_id=False))
        assert recording.recv(10) is not None
    assert record.fault is None
    assert record.frames == 2


@pytest.mark.parametrize(
    ("channel", "name"),
    [
        ("vcan1", "vcan1"),
        ("PCAN_USBBUS2", "PCAN_USBBUS2"),
        ("3", "can3"),
        ("/dev/ttyACM0", "can0"),
        ("COM3@115200", "can0"),
    ],
)
def test_one_bus_has_one_name_in_the_log_whichever_way_a_frame_went(buses, tmp_path, channel, name):
    log_one_frame_each_way(buses, tmp_path / "run.log", channel)
    lines = (tmp_path / "run.log").read_text(encoding="ascii").splitlines()
    assert [re.sub(r"^\(\S+\) ", "", line) for line in lines] == [f"{name} 700#6F7574 T", f"{name} 720#696E R"]


@pytest.mark.parametrize("suffix", [".blf", ".asc", ".trc"])
def test_a_port_whose_number_is_beyond_the_format_can_be_logged(buses, tmp_path, suffix):
    """Found on a Mac's names: the channel of a frame is the last number of the port, and BLF has 16 bits for it."""
    path = tmp_path / f"run{suffix}"
    log_one_frame_each_way(buses, path, "/dev/cu.usbmodem141401")
    with can.LogReader(path) as reader:
        assert [bytes(message.data) for message in reader] == [b"out", b"in"]
