"""The same protocol on four wires: 11-bit and 29-bit ids, data frames of 8 and of 64 bytes; and what happens in between."""

from __future__ import annotations

import pytest

from bmsota.boot import SlotState
from bmsota.bootloader import BootloaderClient, BootloaderDiscovery, BootloaderWire, BroadcastClient
from bmsota.bootloader._messages import Request
from bmsota.bootloader._offer import OFFER_BYTES
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError
from bmsota.image import ImageVersion
from bmsota.node import (
    FAILURES,
    Capability,
    CommandSucceeded,
    FailureCause,
    ImageVerified,
    NodeCommand,
    TransferFailed,
    TransferInterrupted,
)

pytestmark = pytest.mark.slow

DBCS = ("bms_bootloader", "bms_bootloader_29bit", "bms_bootloader_fd", "bms_bootloader_fd_29bit")
FD_OF = {dbc: dbc.replace("bms_bootloader", "bms_bootloader_fd") for dbc in DBCS if "fd" not in dbc}
BASES = {False: 0x700, True: 0x1CFF0700}


def make_node(bench_parts, position=1, *, dbc=None, **options):
    flash = bench_parts.FlashModel(128 * 1024, erase_block_bytes=1024, seed=f"node {position}")
    node = bench_parts.Node(position, factory=bench_parts.OLD(), flash=flash, **options)
    node.wire = None if dbc is None else BootloaderWire(bench_parts.database(dbc))
    return node


def stored(node, image):
    return node.flash.read(node.layout.slot_offsets[1], len(image))


def data_bitrate_bps(dbc):
    return 2_000_000 if "fd" in dbc else None


@pytest.mark.parametrize("dbc", DBCS)
def test_the_wire_is_made_from_the_database_alone(bench_parts, dbc):
    wire = BootloaderWire(bench_parts.database(dbc))
    base = BASES["29bit" in dbc]
    assert (wire.request_id, wire.reply_id, wire.data_id) == (base, base + 0x20, base + 0x40)
    assert (wire.is_extended_id, wire.is_fd) == ("29bit" in dbc, "fd" in dbc)
    assert wire.data_bytes == (64 if "fd" in dbc else 8)


@pytest.mark.parametrize("dbc", DBCS)
def test_a_whole_update_in_frames_of_this_wire_only(bench_parts, dbc):
    """Commands and replies are classic frames on all of them; data frames alone are CAN FD."""
    image = bench_parts.make_image(size=20_000)
    node = make_node(bench_parts, 7)
    bench = bench_parts.Bench(node, dbc=dbc)
    heard = []
    bench.on_frame = heard.append
    client = BootloaderClient(bench.wire, position=7, image=image)
    assert isinstance(bench.run(client)[-1], ImageVerified)
    assert stored(node, image) == image
    bench.command(7, NodeCommand.ACTIVATE_TEST)
    assert bench.command(7, NodeCommand.RESET).node.version == ImageVersion(2, 1, 0)
    assert isinstance(bench.command(7, NodeCommand.CONFIRM, raise_counter=False), CommandSucceeded)
    assert isinstance(bench.command(7, NodeCommand.REVERT), CommandSucceeded)
    assert bench.command(7, NodeCommand.RESET).node.version == ImageVersion(2, 0, 0)
    discovery = BootloaderDiscovery(bench.wire)
    bench.run(discovery)
    assert list(discovery.nodes) == [7]
    assert (Capability.FD_DATA in discovery.nodes[7].capabilities) is bench.wire.is_fd

    base, size = BASES["29bit" in dbc], bench.wire.data_bytes
    data = [frame for frame in heard if base + 0x40 <= frame.can_id < base + 0x80]
    assert all(base <= frame.can_id < base + 0x80 for frame in heard)
    assert all(frame.is_extended_id is ("29bit" in dbc) for frame in heard)
    assert all((len(frame.data), frame.is_fd) == (size, "fd" in dbc) for frame in data)
    assert {(len(frame.data), frame.is_fd) for frame in heard if frame not in data} == {(8, False)}
    assert len(data) == -(-len(image) // size) + -(-OFFER_BYTES // size)


@pytest.mark.parametrize("dbc", DBCS)
@pytest.mark.parametrize("loss", [0, 0.01])
def test_a_broadcast_with_real_bit_times(bench_parts, dbc, loss):
    image = bench_parts.make_image(size=40_000)
    nodes = [make_node(bench_parts, position) for position in (0, 3, 31)]
    for node in nodes:
        node.flash.erase_ns = node.flash.program_ns = 0  # The wire's time, not the flash's.
    bench = bench_parts.WireBench(*nodes, dbc=dbc, data_bitrate_bps=data_bitrate_bps(dbc), loss=loss, seed=dbc)
    began_ns = bench.kernel.now_ns
    events = bench.run(BroadcastClient(bench.wire, positions=[0, 3, 31], image=image))
    ended = [event for event in events if isinstance(event.event, ImageVerified | TransferFailed)]
    assert [type(event.event) for event in ended] == [ImageVerified] * 3
    assert [stored(node, image) for node in nodes] == [image] * 3
    took_s = (bench.kernel.now_ns - began_ns) / bench_parts.SECOND
    verify_s = 0.15
    # 40 KiB: classic 1.16 s (11 bits) and 1.39 s (29 bits), FD at 2 Mbit/s 0.24 s.
    assert took_s < ((0.26 if "fd" in dbc else 1.4) + verify_s) * (1.1 if not loss else 2.0)


# ---- two wires that do not fit


@pytest.mark.parametrize("dbc", FD_OF)
def test_a_flasher_with_fd_refuses_a_classic_node_before_the_first_fd_frame(bench_parts, dbc):
    """One FD frame is an error frame to a classic controller; so it is asked first, in classic frames."""
    node = make_node(bench_parts, dbc=dbc)
    operations = node.flash.operations
    bench = bench_parts.WireBench(node, dbc=FD_OF[dbc], data_bitrate_bps=2_000_000)
    for client in (
        BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()),
        BroadcastClient(bench.wire, positions=[1], image=bench_parts.NEW()),
    ):
        events = bench.run(client)
        failed = getattr(events[-1], "event", events[-1])
        assert isinstance(failed, TransferFailed)
        assert (failed.cause, failed.permanent) == (FailureCause.CAPABILITY_MISSING, True)
        assert failed.detail == "expected a node with CAN FD, got one without"
        assert failed.node.hwid == "HW-0001"
        assert not any(frame.is_fd for frame in bench.client.sent)
    assert "run it without" in FAILURES[FailureCause.CAPABILITY_MISSING].advice
    assert node.flash.operations == operations


@pytest.mark.parametrize("dbc", FD_OF)
def test_a_broadcast_with_fd_leaves_the_classic_node_out(bench_parts, dbc):
    nodes = [make_node(bench_parts, 1), make_node(bench_parts, 2, dbc=dbc)]
    bench = bench_parts.WireBench(*nodes, dbc=FD_OF[dbc], data_bitrate_bps=2_000_000)
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=bench_parts.NEW()))
    ended = {event.position: event.event for event in events if isinstance(event.event, ImageVerified | TransferFailed)}
    assert isinstance(ended[1], ImageVerified)
    assert ended[2].cause is FailureCause.CAPABILITY_MISSING
    assert nodes[1].store.slots[1].state is SlotState.EMPTY


@pytest.mark.parametrize("dbc", FD_OF)
def test_a_classic_flasher_flashes_an_fd_node_on_a_classic_bus(bench_parts, dbc):
    """Alone, and together with a classic node."""
    image = bench_parts.make_image(size=6000)
    nodes = [make_node(bench_parts, 1, dbc=FD_OF[dbc]), make_node(bench_parts, 2)]
    bench = bench_parts.WireBench(*nodes, dbc=dbc)
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=1, image=image))[-1], ImageVerified)
    assert len([frame for frame in bench.client.sent if frame.can_id >= bench.wire.data_id]) == -(-len(image) // 8) + -(
        -OFFER_BYTES // 8
    )
    other = bench_parts.make_image("2.2.0", counter=3, size=6000)
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=other))
    assert sum(isinstance(event.event, ImageVerified) for event in events) == 2
    assert [stored(node, other) for node in nodes] == [other] * 2


@pytest.mark.parametrize("dbc", FD_OF)
def test_an_fd_node_goes_on_in_the_other_size_after_a_cut(bench_parts, dbc):
    """Begun with FD, finished without: the offset counts bytes, not frames."""
    image = bench_parts.make_image(size=40_000)
    node = make_node(bench_parts, dbc=FD_OF[dbc])
    bench = bench_parts.Bench(node, dbc=FD_OF[dbc])

    def stop(frame):
        if node.store.staging_offset >= 10_000:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(BootloaderClient(bench.wire, position=1, image=image))
    bench.on_frame = None
    offset = node.store.staging_offset
    assert 10_000 <= offset < len(image)
    bench.wire = BootloaderWire(bench_parts.database(dbc))
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=1, image=image))[-1], ImageVerified)
    data = [frame for frame in bench.sent if bench.wire.data_id <= frame.can_id < bench.wire.data_id + 64]
    assert len(data) == -(-(len(image) - offset) // 8) + -(-OFFER_BYTES // 8)
    assert stored(node, image) == image


@pytest.mark.parametrize("dbc", DBCS)
def test_data_frames_of_the_other_size_are_none_of_this_stream(bench_parts, dbc):
    """Another flasher's, or a diagnostic tool's: same id, other length."""
    image = bench_parts.make_image(size=20_000)
    node = make_node(bench_parts)
    bench = bench_parts.Bench(node, dbc=dbc)
    wire, size = bench.wire, 8 if "fd" in dbc else 7
    before, injected = [], []

    def inject(frame):
        if before and before[-1].can_id >= wire.data_id and node.store.staging_offset:
            injected.append(frame)
            node.target.receive_frame(CanFrame(before[-1].can_id, bytes(size), wire.is_extended_id), bench.now_ns)
        before.append(frame)

    bench.on_frame = inject
    events = bench.run(BootloaderClient(wire, position=1, image=image))
    assert len(injected) > 100
    assert isinstance(events[-1], ImageVerified)
    assert stored(node, image) == image
    assert len([frame for frame in bench.sent if frame.can_id >= wire.data_id]) == -(
        -len(image) // wire.data_bytes
    ) + -(-OFFER_BYTES // wire.data_bytes)


@pytest.mark.parametrize("dbc", ["bms_bootloader", "bms_bootloader_fd"])
def test_foreign_frames_with_the_same_number_in_the_other_length_are_ignored(bench_parts, dbc):
    """0x700 in 29 bits is not 0x700 in 11 bits: behind every frame come its double with wrong data, and a Reset."""
    image = bench_parts.make_image(size=6000)
    node = make_node(bench_parts)
    bench = bench_parts.Bench(node, dbc=dbc)

    before = []

    def double(frame):
        before.append(frame)
        last = before[-2:][0]
        foreign = CanFrame(last.can_id, bytes(byte ^ 0x5A for byte in last.data), True, last.is_fd)
        reset = Request(1, NodeCommand.RESET, node.target._last_tag + 1, boot_id=node.target._boot_id)
        reset = CanFrame(bench.wire.request_id, bench.wire.serialize(reset).data, True)
        for other in (foreign, reset):
            node.target.receive_frame(other, bench.now_ns)
            bench.client.receive_frame(other, bench.now_ns)

    bench.on_frame = double
    for client in (
        BootloaderDiscovery(bench.wire),
        BootloaderClient(bench.wire, position=1, image=image),
        BroadcastClient(bench.wire, positions=[1], image=image),
    ):
        events = bench.run(client)
        assert not [event for event in events if isinstance(getattr(event, "event", event), TransferInterrupted)]
    assert isinstance(events[-1].event, ImageVerified)
    assert stored(node, image) == image
    assert len(node.boots) == 1


@pytest.mark.parametrize(
    ("flasher", "dbc"), [(one, other) for one in DBCS for other in DBCS if ("29" in one) != ("29" in other)]
)
def test_with_the_other_id_length_the_node_is_silent(bench_parts, flasher, dbc):
    node = make_node(bench_parts, dbc=dbc)
    bench = bench_parts.WireBench(node, dbc=flasher, data_bitrate_bps=2_000_000)
    failed = bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))[-1]
    assert failed.cause is FailureCause.NODE_SILENT


def test_a_database_without_the_bootloader_is_refused(bench_parts):
    with pytest.raises(ConfigurationError, match="BootRequest"):
        BootloaderWire(bench_parts.loads('VERSION ""\n\nBU_: A\n'))
