"""Peers that are not ours, over slcan on pseudo terminals, in real time: scapy as ECU, udsoncan with can-isotp as tester.

Nothing here is asserted of time, and every patience is far beyond what a busy machine needs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import can
import isotp
import pytest
import udsoncan
from bmsota_sim.links.slcan_pty import SlcanPty, join
from bmsota_sim.links.slcan_pty import serve as serve_cables
from udsoncan.client import Client
from udsoncan.connections import PythonIsoTpConnection
from udsoncan.exceptions import NegativeResponseException

from bmsota.adapters.clock import steady_clock
from bmsota.adapters.pythoncan import drive, serve
from bmsota.adapters.slcan import SlcanBus
from bmsota.image import ImageVersion
from bmsota.node import BlockAccepted, CommandSucceeded, ImageVerified, NodeCommand, ResetRequested
from bmsota.slcan import SlcanAdapter
from bmsota.uds import (
    UDS_11BIT,
    UDS_29BIT,
    Did,
    IsoTpParameters,
    UdsCommand,
    UdsDialect,
    UdsServerTiming,
    UdsTiming,
    UdsTransfer,
)

SECOND = 1_000_000_000
SCAPY_ECU = Path(__file__).parent / "peers" / "scapy_ecu.py"
LONG_S = 60
TRANSPORT = IsoTpParameters(flow_control_timeout_ns=LONG_S * SECOND, consecutive_timeout_ns=LONG_S * SECOND)
TIMING = UdsTiming(margin_ns=LONG_S * SECOND, discover_timeout_ns=LONG_S * SECOND)


@pytest.fixture
def cables():
    """Two adapters on one bus; their serial ports."""
    clock = steady_clock()
    adapters = [SlcanAdapter(), SlcanAdapter()]
    join(*adapters, now_ns=clock)
    made = [SlcanPty(adapter) for adapter in adapters]
    ended, end = os.pipe()
    thread = threading.Thread(target=serve_cables, args=(made, clock), kwargs={"until": ended}, daemon=True)
    thread.start()
    yield [cable.path for cable in made]
    os.write(end, b"x")
    thread.join(LONG_S)
    for cable in made:
        cable.close()
    for descriptor in (ended, end):
        os.close(descriptor)


@contextmanager
def scapy_ecu(path):
    """The ECU's program; waits until it listens."""
    process = subprocess.Popen(
        [sys.executable, str(SCAPY_ECU), path, "7E1", "7E9"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # A peer that hangs must not hang us: its end of file fails the test.
    watchdog = threading.Timer(3 * LONG_S, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        line = process.stdout.readline()
        assert line == "ready\n", process.communicate()[1]
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_scapys_answering_machine_is_flashed_by_our_client(cables):
    """ISO-TP and UDS of both sides are of different makers: image equal, reset, version read back."""
    image = bytes(range(256)) * 8
    options = {
        "position": 1,
        "dialect": UdsDialect.plain(address=0x0800_0000, check_routine=0x0202),
        "access_key": lambda seed, _serial: bytes(byte ^ 0xA5 for byte in seed),
        "timing": TIMING,
        "transport": TRANSPORT,
    }
    address = UDS_11BIT.address(1)
    with scapy_ecu(cables[1]) as process, SlcanBus(cables[0]) as bus:
        events = list(drive(UdsTransfer(address, image=image, **options), bus, steady_clock()))
        assert isinstance(events[-1], ImageVerified), events[-1]
        assert sum(isinstance(event, BlockAccepted) for event in events) == 4
        assert process.stdout.readline().split() == [str(len(image)), hashlib.sha256(image).hexdigest()]
        command = UdsCommand(address, command=NodeCommand.RESET, expected_version=ImageVersion(2, 1), **options)
        (event,) = drive(command, bus, steady_clock())
        assert isinstance(event, CommandSucceeded), event
        assert process.stdout.readline() == "reset\n"


class RestartingNode:
    """A node and its supply, as one core: a reset boots it anew."""

    def __init__(self, node, addressing):
        self.node = node
        self.addressing = addressing
        self.restarted = threading.Event()
        node.power_on(addressing)

    def next_event(self):
        event = self.node.target.next_event()
        if event is not None:
            self.node.events.append(event)
        if isinstance(event, ResetRequested):
            self.node.power_off()
            self.node.power_on(self.addressing)
            self.restarted.set()
        return event

    def __getattr__(self, name):
        return getattr(self.node.target, name)


@contextmanager
def served(node, addressing, path):
    """The node at its adapter, in a thread of its own; an event that it has restarted."""
    core = RestartingNode(node, addressing)
    ended, listening = threading.Event(), threading.Event()
    failures = []

    def run():
        try:
            with SlcanBus(path) as bus:
                listening.set()
                for _ in serve(core, bus, steady_clock(), ended.is_set):
                    pass
        except BaseException as error:  # noqa: BLE001 - the test must see it
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert listening.wait(LONG_S)
    try:
        yield core.restarted
    finally:
        ended.set()
        thread.join(LONG_S)
    assert not failures


class Text(udsoncan.DidCodec):
    def decode(self, string_bin):
        return string_bin.rstrip(b"\0").decode("ascii")

    def __len__(self):
        return 24


@contextmanager
def udsoncan_client(path, address, key):
    """udsoncan on can-isotp's threads on python-can's own slcan."""
    mode = isotp.AddressingMode.Normal_29bits if address.is_extended_id else isotp.AddressingMode.Normal_11bits
    config = dict(
        udsoncan.configs.default_client_config,
        request_timeout=LONG_S,
        p2_timeout=LONG_S,
        p2_star_timeout=LONG_S,
        use_server_timing=False,
        security_algo=lambda level, seed, params: key(seed, "SN0000000001"),
        data_identifiers={int(Did.SOFTWARE_VERSION): Text, int(Did.SERIAL_NUMBER): Text},
    )
    milliseconds = LONG_S * 1000
    with can.Bus(interface="slcan", channel=path, sleep_after_open=0) as bus:
        notifier = can.Notifier(bus, [])
        stack = isotp.NotifierBasedCanStack(
            bus,
            notifier,
            address=isotp.Address(mode, txid=address.request_id, rxid=address.response_id),
            params={
                "rx_flowcontrol_timeout": milliseconds,
                "rx_consecutive_frame_timeout": milliseconds,
                "tx_padding": 0,
            },
        )
        try:
            with Client(PythonIsoTpConnection(stack), config=config) as client:
                yield client
        finally:
            notifier.stop()


def make_node(parts):
    timing = UdsServerTiming(s3_ns=LONG_S * SECOND)
    return parts.Node(factory=parts.OLD(), timing=timing, transport=TRANSPORT, block_length_max=0x402)


def flash_by_udsoncan(client, image):
    """As its examples do it; how many blocks."""
    client.change_session(udsoncan.services.DiagnosticSessionControl.Session.extendedDiagnosticSession)
    client.change_session(udsoncan.services.DiagnosticSessionControl.Session.programmingSession)
    client.unlock_security_access(1)
    client.start_routine(0xFF00)
    location = udsoncan.MemoryLocation(0x0801_0000, len(image), address_format=32, memorysize_format=32)
    answer = client.request_download(location)
    step = answer.service_data.max_length - 2
    starts = range(0, len(image), step)
    for index, start in enumerate(starts):
        client.transfer_data((index + 1) % 256, image[start : start + step])
    client.request_transfer_exit()
    client.start_routine(0x0202)
    client.start_routine(0xFF01)
    return len(starts)


@pytest.mark.slow
@pytest.mark.parametrize("addressing", [UDS_11BIT, UDS_29BIT], ids=["11 bit", "29 bit"])
def test_our_server_is_flashed_by_udsoncan_and_can_isotp(cables, parts, addressing):
    node = make_node(parts)
    with (
        served(node, addressing, cables[1]) as restarted,
        udsoncan_client(cables[0], addressing.address(1), parts.ACCESS_KEY) as client,
    ):
        assert flash_by_udsoncan(client, parts.NEW()) == 4
        assert node.store.read_slot(1) == parts.NEW()
        client.ecu_reset(udsoncan.services.ECUReset.ResetType.hardReset)
        assert restarted.wait(LONG_S)  # While it goes down a node answers nothing; udsoncan asks once.
        values = client.read_data_by_identifier([int(Did.SOFTWARE_VERSION), int(Did.SERIAL_NUMBER)]).service_data.values
        assert values[Did.SOFTWARE_VERSION] == "2.1.0"
        assert values[Did.SERIAL_NUMBER] == "SN0000000001"
        client.change_session(udsoncan.services.DiagnosticSessionControl.Session.extendedDiagnosticSession)
        client.unlock_security_access(1)
        client.start_routine(0xF011)
    assert node.store.security_counter == 2
    assert not node.store.is_test_pending


@pytest.mark.slow
def test_udsoncan_understands_our_refusals(cables, parts):
    """Standard and maker's codes reach its user as what they are."""
    node = make_node(parts)
    with (
        served(node, UDS_11BIT, cables[1]),
        udsoncan_client(cables[0], UDS_11BIT.address(1), parts.ACCESS_KEY) as client,
    ):
        with pytest.raises(NegativeResponseException) as refusal:
            client.start_routine(0xFF00)
        assert refusal.value.response.code == udsoncan.Response.Code.ServiceNotSupportedInActiveSession
        broken = bytes([parts.NEW()[0] ^ 1]) + parts.NEW()[1:]
        with pytest.raises(NegativeResponseException) as refusal:
            flash_by_udsoncan(client, broken)
        assert refusal.value.response.code == 0xF9
