"""The virtual slcan adapter on a paced bus, and behind a pty."""

from __future__ import annotations

import os
import threading

import can
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.links.canbus import CanBus
from bmsota_sim.links.slcan_pty import SlcanPty, join, serve
from can.interfaces.slcan import slcanBus as TheirBus

from bmsota.canframe import CanFrame
from bmsota.slcan import SlcanAdapter

NOW = 1_700_000_000 * SECOND
PATIENCE_S = 120.0


def test_on_a_paced_bus_in_virtual_time():
    kernel = Kernel(NOW)
    bus = CanBus(kernel)
    adapter = SlcanAdapter()
    adapter.transmit = bus.attach(adapter.receive_frame, name="adapter").send
    heard = []
    node = bus.attach(lambda frame, now_ns: heard.append((frame, now_ns)), name="node")
    adapter.receive_data(b"S6\rO\rt1238" + b"AA" * 8 + b"\rt1238" + b"BB" * 8 + b"\r", NOW)
    assert adapter.data_to_send() == b"\r\rz\rz\r"
    node.send(CanFrame(0x10, b"\x01"))
    kernel.run_until(NOW + SECOND)
    assert [frame.data[0] for frame, _ in heard] == [0xAA, 0xBB]
    assert (
        200_000 < heard[0][1] - NOW < 400_000
    )  # Nanoseconds of a full frame, behind the one that won the arbitration.
    assert adapter.data_to_send() == b"t010101\r"


def test_behind_ptys_python_cans_own_back_end_talks_to_itself():
    adapters = [SlcanAdapter(), SlcanAdapter()]
    join(*adapters, now_ns=lambda: NOW)
    ended, end = os.pipe()
    with SlcanPty(adapters[0]) as one, SlcanPty(adapters[1]) as other:
        thread = threading.Thread(target=serve, args=([one, other], lambda: NOW), kwargs={"until": ended}, daemon=True)
        thread.start()
        buses = [TheirBus(cable.path, bitrate=500_000, sleep_after_open=0, timeout=0.01) for cable in (one, other)]
        assert [bus.get_version(PATIENCE_S) for bus in buses] == [(10, 13), (10, 13)]  # By then they are open.
        for number in range(20):
            buses[0].send(can.Message(arbitration_id=number, data=b"12345678", is_extended_id=number > 9))
        assert [buses[1].recv(PATIENCE_S).arbitration_id for _ in range(20)] == list(range(20))
        for bus in buses:
            bus.shutdown()
        os.write(end, b".")
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    os.close(ended)
    os.close(end)
    assert [adapter.sent for adapter in adapters] == [20, 0]


def test_a_pty_that_nobody_reads_holds_back_and_loses_nothing_it_took():
    adapter = SlcanAdapter(lambda _frame: True)
    with SlcanPty(adapter) as cable:
        host = os.open(cable.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        os.write(host, b"O\r")
        cable.pump(NOW)
        assert os.read(host, 100) == b"\r"
        for number in range(1000):
            adapter.receive_frame(CanFrame(number, b"12345678"), NOW)
        got = b""
        while adapter.has_output or len(got) < 1000 * 22:
            cable.pump(NOW)
            got += os.read(host, 65_536)
        assert [int(line[1:4], 16) for line in got.split(b"\r")[:-1]] == list(range(1000))
        os.close(host)
        cable.close()
