"""Client and target back to back over a pipe: the good way, every refusal, cuts, and a hostile bus."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest

from bmsota.boot import BootReason, SlotState
from bmsota.bootloader import BootloaderClient, BootloaderTiming, ClientState, TargetLimits, TargetTiming
from bmsota.bootloader._messages import BitmapReply, Request
from bmsota.bootloader._offer import OFFER_BYTES, Offer
from bmsota.canframe import CanFrame
from bmsota.errors import ImageError, LocalProtocolError
from bmsota.image import HardwareClass, ImageRole, ImageVersion
from bmsota.node import (
    FAILURES,
    BlockAccepted,
    BlockRepeated,
    BlockStored,
    BootloaderEntered,
    BootloaderLeft,
    CommandSucceeded,
    ExpectedNode,
    FailureCause,
    ImageStaged,
    ImageVerified,
    NodeCommand,
    NodeMode,
    ResultCode,
    StagingStarted,
    TargetConnected,
    TransferInterrupted,
    TransferStarted,
)

DATA_IDS = range(0x740, 0x780)


@pytest.fixture
def bench(bench_parts):
    return bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD()))


def client_of(bench, bench_parts, **options):
    return BootloaderClient(bench.wire, position=1, image=options.pop("image", bench_parts.NEW()), **options)


def kinds(events):
    return [type(event).__name__ for event in events]


def data_frames(frames):
    return [frame for frame in frames if frame.can_id in DATA_IDS]


def switch(bench, version="2.1.0"):
    """Test, restart, confirm; the last event."""
    bench.command(1, NodeCommand.ACTIVATE_TEST)
    event = bench.command(1, NodeCommand.RESET, expected_version=ImageVersion.parse(version))
    if isinstance(event, CommandSucceeded):
        event = bench.command(1, NodeCommand.CONFIRM, expected_version=ImageVersion.parse(version))
    return event


def test_an_image_is_staged_byte_for_byte_and_nothing_runs_it_yet(bench, bench_parts):
    node, image = bench.nodes[0], bench_parts.NEW()
    events = bench.run(client_of(bench, bench_parts))
    assert kinds(events) == ["TargetConnected", "TransferStarted", *["BlockAccepted"] * 2, "ImageVerified"]
    assert events[1] == TransferStarted(0, len(image))
    assert events[-2] == BlockAccepted(len(image), len(image))
    assert node.flash.read(node.layout.slot_offsets[1], len(image)) == image
    assert node.store.slots[1].state is SlotState.STAGED
    assert len(data_frames(bench.sent)) == -(-OFFER_BYTES // 8) + -(-len(image) // 8)
    assert kinds(node.events) == ["BootloaderEntered", "StagingStarted", *["BlockStored"] * 7, "ImageStaged"]
    assert node.events[1] == StagingStarted(0, len(image))
    assert node.events[-2] == BlockStored(len(image), len(image))
    assert node.running_version == "2.0.0"


def test_test_restart_confirm_and_the_new_version_is_read_back(bench, bench_parts):
    node = bench.nodes[0]
    bench.run(client_of(bench, bench_parts))
    event = switch(bench)
    assert isinstance(event, CommandSucceeded)
    assert event.node.version == ImageVersion(2, 1, 0)
    assert event.node.boot_reason is BootReason.TEST
    assert (node.store.active_slot, node.store.security_counter) == (1, 2)
    described = bench.command(1, NodeCommand.DISCOVER).node
    assert (described.security_counter, described.active_slot, described.running_slot) == (2, 1, 1)
    assert described.slot_states == (SlotState.CONFIRMED, SlotState.CONFIRMED)


def test_a_pack_can_confirm_first_and_raise_counters_last_and_go_back_in_between(bench, bench_parts):
    node = bench.nodes[0]
    bench.run(client_of(bench, bench_parts))
    bench.command(1, NodeCommand.ACTIVATE_TEST)
    bench.command(1, NodeCommand.RESET)
    bench.command(1, NodeCommand.CONFIRM, raise_counter=False)
    assert node.store.security_counter == 1
    assert isinstance(bench.command(1, NodeCommand.REVERT), CommandSucceeded)
    assert bench.command(1, NodeCommand.RESET).node.version == ImageVersion(2, 0, 0)
    switch(bench)
    assert node.store.security_counter == 2
    event = bench.command(1, NodeCommand.REVERT)
    assert (event.cause, event.permanent) == (FailureCause.COUNTER_TOO_LOW, True)


def test_the_same_image_again_sends_no_data(bench, bench_parts):
    bench.run(client_of(bench, bench_parts))
    events = bench.run(client_of(bench, bench_parts))
    size = len(bench_parts.NEW())
    assert kinds(events) == ["TargetConnected", "TransferStarted", "ImageVerified"]
    assert events[1] == TransferStarted(size, size)
    assert len(data_frames(bench.sent)) == -(-OFFER_BYTES // 8)


# ---- refusals: each before the first erase


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"hardware": HardwareClass.named("bmsota.example", "other")}, ResultCode.WRONG_HARDWARE),
        ({"role": ImageRole.MASTER}, ResultCode.WRONG_ROLE),
    ],
)
def test_the_node_itself_refuses_what_a_careless_client_lets_through(bench, bench_parts, options, code):
    """The client is told to expect this node; the image is for another."""
    operations = bench.nodes[0].flash.operations
    expected = ExpectedNode(hardware_class=bench_parts.SLAVE_CLASS, role=ImageRole.SLAVE)
    failed = bench.run(client_of(bench, bench_parts, image=bench_parts.make_image(**options), expected=expected))[-1]
    assert failed.cause.value == code.name.lower().replace("_", " ")
    assert bench.nodes[0].events[-1].code is code
    assert bench.nodes[0].flash.operations == operations


def test_a_bit_that_goes_wrong_in_the_flash_is_sent_again(bench, bench_parts):
    node = bench.nodes[0]
    flipped = []

    def flip_once(frame):
        if not flipped and node.store.staging_offset > 1024:
            node.flash.flip_bit(node.layout.slot_offsets[1] + 600, 2)
            flipped.append(frame)

    bench.on_frame = flip_once
    events = bench.run(client_of(bench, bench_parts))
    assert TransferInterrupted("FINISH_TRANSFER: DAMAGED") in events
    assert [event.offset for event in events if isinstance(event, TransferStarted)] == [0, 0]
    assert isinstance(events[-1], ImageVerified)


@pytest.mark.parametrize("may_compress", [True, False])
def test_a_node_that_stores_something_else_twice_is_told_as_that(bench, bench_parts, may_compress):
    """Not "no progress", whose advice is to check the supply; and the image is not sent nine times."""
    node = bench.nodes[0]

    flipped = []

    def flip_once_an_attempt(_frame):
        offset = node.store.staging_offset
        if offset < 512:
            flipped.clear()
        elif offset > 1024 and not flipped:
            flipped.append(offset)
            node.flash.flip_bit(node.layout.slot_offsets[1] + 600, 2)

    bench.on_frame = flip_once_an_attempt
    events = bench.run(client_of(bench, bench_parts, may_compress=may_compress))
    failed = events[-1]
    assert (failed.cause, failed.detail) == (FailureCause.DAMAGED, "FINISH_TRANSFER: DAMAGED, twice")
    assert [event.offset for event in events if isinstance(event, TransferStarted)] == [0, 0]
    assert not failed.permanent


def test_an_image_that_is_none_and_a_position_that_is_none_are_refused_at_once(bench, bench_parts):
    with pytest.raises(ImageError):
        client_of(bench, bench_parts, image=b"no image")
    with pytest.raises(LocalProtocolError, match="0 to 31, got 32"):
        BootloaderClient(bench.wire, position=32, image=bench_parts.NEW())


def test_every_failure_cause_has_its_row():
    assert set(FAILURES) == set(FailureCause)
    assert all(failure.safe_to_run_again and failure.advice.endswith(".") for failure in FAILURES.values())


# ---- interruptions (cuts at every frame: test_contract.py)


def test_a_node_that_loses_its_place_is_asked_again(bench, bench_parts):
    """Another flasher resets the node's session in the middle of a block."""
    node = bench.nodes[0]
    done = []

    def disturb(frame):
        if not done and node.store.staging_offset == 1024:
            done.append(frame)
            request = Request(1, NodeCommand.LEAVE_BOOTLOADER, 40, boot_id=bench.client.node.boot_id)
            node.target.receive_frame(bench.wire.serialize(request), bench.now_ns)

    bench.on_frame = disturb
    events = bench.run(client_of(bench, bench_parts))
    assert TransferInterrupted("CHECK_BLOCK: WRONG_STATE") in events
    assert [event.offset for event in events if isinstance(event, TransferStarted)] == [0, 1024]
    assert isinstance(events[-1], ImageVerified)


def test_a_flasher_that_disappears_is_noticed(bench_parts):
    """After a minute of silence the node goes back to its application; what it has stays."""
    node = bench_parts.Node(factory=bench_parts.OLD(), timing=TargetTiming(session_timeout_ns=5 * bench_parts.SECOND))
    bench = bench_parts.Bench(node)
    client = client_of(bench, bench_parts)

    def stop(frame):
        if client.next_offset >= 1024:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(client)
    bench.on_frame = None
    assert node.target.state is NodeMode.RECEIVING
    bench.run(limit_s=6)
    assert isinstance(node.events[-1], BootloaderLeft)
    assert node.target.state is NodeMode.APPLICATION
    events = bench.run(client_of(bench, bench_parts))
    assert next(event.offset for event in events if isinstance(event, TransferStarted)) >= 1024


# ---- a hostile bus


def test_one_percent_loss_repeats_only_what_was_lost(bench_parts):
    """Selective repeat: the frames sent again are the frames lost, not the blocks around them."""
    image = bench_parts.make_image(size=6000)
    node = bench_parts.Node(factory=bench_parts.OLD())
    bench = bench_parts.Bench(node, seed=5)
    lost = []

    def fault(frame, rng):
        if frame.can_id in DATA_IDS and rng.random() < 0.02:
            lost.append(frame)
            return ()
        return (0,)

    bench.fault = fault
    events = bench.run(client_of(bench, bench_parts, image=image))
    assert isinstance(events[-1], ImageVerified)
    assert len(lost) > 5
    assert sum(event.frames for event in events if isinstance(event, BlockRepeated)) == len(lost)


def test_foreign_frames_are_ignored(bench, bench_parts):
    """Other traffic, other nodes' replies, extended and short frames of the same numbers."""
    node = bench.nodes[0]
    foreign = [
        CanFrame(0x123, bytes(8)),
        CanFrame(0x722, bytes([32, 1, 3, 0, 0, 0, 0, 0])),
        CanFrame(0x700, bytes([2, 7, 200, 0, 0, 0, 0, 0])),
        CanFrame(0x700, bytes([1, 7, 200, 0, 0, 0, 0, 0]), is_extended_id=True),
        CanFrame(0x745, bytes(8), is_extended_id=True),
        CanFrame(0x745, bytes(7)),
        CanFrame(0x721, bytes(5)),
        CanFrame(0x721, bytes([250, 0, 0, 0, 0, 0, 0, 0])),
        CanFrame(0x700, bytes([1, 250, 0, 0, 0, 0, 0, 0])),
        CanFrame(0x7E8, bytes(8)),
    ]
    turn = [0]

    def mix(frame):
        for _ in range(2):
            other = foreign[turn[0] % len(foreign)]
            turn[0] += 1
            bench.client.receive_frame(other, bench.now_ns)
            if node.target is not None:
                node.target.receive_frame(other, bench.now_ns)

    bench.on_frame = mix
    events = bench.run(client_of(bench, bench_parts))
    assert isinstance(events[-1], ImageVerified)
    assert not [event for event in events if isinstance(event, BlockRepeated | TransferInterrupted)]


def test_a_corrupted_data_frame_costs_one_repetition_of_its_block(bench, bench_parts):
    """Beside CAN's own CRC: an adapter that swaps bytes is found by the block's CRC, and never stored."""
    done = []
    original = bench._deliver

    def deliver(sender, frame):
        if frame.can_id == 0x745 and bench.nodes[0].store.staging_offset == 512 and not done:
            done.append(frame)
            frame = CanFrame(frame.can_id, bytes(8))
        original(sender, frame)

    bench._deliver = deliver
    events = bench.run(client_of(bench, bench_parts))
    assert [event for event in events if isinstance(event, BlockRepeated)] == [BlockRepeated(512, 65)]
    assert isinstance(events[-1], ImageVerified)
    image = bench_parts.NEW()
    node = bench.nodes[0]
    assert (
        hashlib.sha256(node.flash.read(node.layout.slot_offsets[1], len(image))).digest()
        == hashlib.sha256(image).digest()
    )


# ---- pace


def test_a_small_queue_gets_small_bursts(bench, bench_parts):
    timing = BootloaderTiming(burst_frames=10, burst_spacing_ns=3 * bench_parts.MS)
    client = client_of(bench, bench_parts, timing=timing)
    bursts = []
    original = client.frames_to_send

    def frames_to_send(now_ns):
        frames = original(now_ns)
        bursts.append((now_ns, len(frames)))
        return frames

    client.frames_to_send = frames_to_send
    assert isinstance(bench.run(client)[-1], ImageVerified)
    sizes = [(when, size) for when, size in bursts if size]
    assert max(size for _, size in sizes) == 10
    gaps = [later - earlier for (earlier, size), (later, _) in pairwise(sizes) if size == 10]
    assert min(gaps) >= 3 * bench_parts.MS


def test_a_bitmap_that_nobody_asked_for_is_not_acted_on(bench, bench_parts):
    """It is of an earlier round, or of another flasher's: what it names is on its way."""
    client = client_of(
        bench, bench_parts, timing=BootloaderTiming(burst_frames=10, burst_spacing_ns=3 * bench_parts.MS)
    )
    late = bench.wire.serialize(BitmapReply(1, 0, 0, 3, 0b111))
    done = []

    def disturb(frame):
        if frame.can_id == 0x745 and client.state is ClientState.SENDING and not done:
            done.append(frame)
            client.receive_frame(late, bench.now_ns)

    bench.on_frame = disturb
    events = bench.run(client)
    assert done
    assert isinstance(events[-1], ImageVerified)
    assert not [event for event in events if isinstance(event, BlockRepeated)]


def test_a_report_waits_until_two_blocks_are_still_to_be_programmed(bench_parts):
    """Programming a block takes 64 ms here, receiving it 15: the flasher is held back by the reports, never by a loss."""
    flash = bench_parts.FlashModel(32 * 1024, erase_block_bytes=1024, erase_ns=0, program_ns=bench_parts.MS)
    bench = bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD(), flash=flash))
    image = bench_parts.make_image(size=12_000)
    events = bench.run(client_of(bench, bench_parts, image=image))
    assert isinstance(events[-1], ImageVerified)
    assert not [event for event in events if isinstance(event, BlockRepeated | TransferInterrupted)]
    seconds = (bench.now_ns - 1_000 * bench_parts.SECOND) / bench_parts.SECOND
    assert 24 * 0.064 < seconds < 24 * 0.064 + 0.5  # the flash sets the pace


def test_a_node_with_a_smaller_block_gets_smaller_blocks(bench_parts):
    node = bench_parts.Node(factory=bench_parts.OLD(), limits=TargetLimits(block_frames_max=16))
    bench = bench_parts.Bench(node)
    events = bench.run(client_of(bench, bench_parts))
    assert isinstance(events[-1], ImageVerified)
    stored = [event.next_offset for event in node.events if isinstance(event, BlockStored)]
    assert stored == [*range(128, len(bench_parts.NEW()), 128), len(bench_parts.NEW())]


def test_slow_flash_is_announced_and_waited_for(bench_parts):
    """Erasing takes three seconds here, ten times the client's patience with a reply."""
    flash = bench_parts.FlashModel(16 * 1024, erase_block_bytes=1024, erase_ns=3 * bench_parts.SECOND)
    bench = bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD(), flash=flash))
    events = bench.run(client_of(bench, bench_parts))
    assert isinstance(events[-1], ImageVerified)
    assert not [event for event in events if isinstance(event, TransferInterrupted | BlockRepeated)]


@pytest.mark.slow
def test_the_rate_is_at_least_97_percent_of_the_wire(bench_parts):
    """64 KiB at classic 500 kbit/s, 11-bit, expected stuffing: payload bytes per second against back to back frames."""
    image = bench_parts.make_image(size=64 * 1024)
    flash = bench_parts.FlashModel(256 * 1024, erase_block_bytes=2048, erase_ns=0, program_ns=0)
    bench = bench_parts.Bench(
        bench_parts.Node(
            factory=bench_parts.OLD(), flash=flash, timing=TargetTiming(verify_ns=0)
        )  # neither is the wire's
    )
    start_ns = bench.now_ns
    events = bench.run(client_of(bench, bench_parts, image=image))
    assert isinstance(events[-1], ImageVerified)
    rate = len(image) / ((bench.now_ns - start_ns) / bench_parts.SECOND)
    ceiling = 8 / (bench_parts.FRAME_NS / bench_parts.SECOND)
    assert 0.97 <= rate / ceiling < 1


# ---- the offer record


def test_the_offer_record_is_these_bytes():
    offer = Offer(
        role=1,
        size_bytes=0x0102,
        sha256=bytes(range(32)),
        class_id=HardwareClass.named("bmsota.example", "x").class_id,
        version=ImageVersion(2, 1, 3, 4),
        security_counter=5,
        group=200,
        block_frames=64,
        is_fd=True,
        window_bits=10,
        lookahead_bits=3,
    )
    expected = "02 01 0300 02010000".replace(" ", "") + bytes(range(32)).hex() + offer.class_id.hex
    expected += "02 01 0300 04000000 05000000 c8 40 0a 03".replace(" ", "")
    assert offer.serialize().hex() == expected
    assert Offer.parse(offer.serialize()) == offer
    assert Offer.parse(offer.serialize() + b"\xff" * 56) == offer
    assert len(offer.serialize()) == OFFER_BYTES == 72


@pytest.mark.parametrize("change", [b"\x03", b"\x02\x01\x04", b"\x02\x01\x01"])
def test_an_offer_of_a_later_layout_is_refused_as_such(bench, bench_parts, change):
    """An unknown layout, an unknown flag, and one that says "compressed" without saying how."""
    client = client_of(bench, bench_parts, may_compress=False)
    original = client._offer_record
    client._offer_record = lambda shape: change + original(shape)[len(change) :]
    failed = bench.run(client)[-1]
    assert (failed.cause, failed.permanent) == (FailureCause.PROTOCOL_VERSION, True)


@pytest.mark.parametrize("group", [0, 1, 2, 31, 127])
def test_an_offer_whose_group_is_a_position_is_refused(bench, bench_parts, group):
    """The node would answer, and obey, what is for the node at that position."""
    client = client_of(bench, bench_parts, may_compress=False)
    original = client._offer_record
    client._offer_record = lambda shape: original(shape)[:68] + bytes([group]) + original(shape)[69:]
    failed = bench.run(client)[-1]
    assert (failed.cause, failed.detail) == (FailureCause.PROTOCOL_VERSION, "BEGIN_TRANSFER: BAD_OFFER")
    assert not any(isinstance(event, BlockStored) for event in bench.nodes[0].events)


def test_events_of_both_sides_begin_and_end_in_order(bench, bench_parts):
    bench.run(client_of(bench, bench_parts))
    assert isinstance(bench.nodes[0].events[0], BootloaderEntered)
    assert isinstance(bench.nodes[0].events[-1], ImageStaged)
    bench.command(1, NodeCommand.LEAVE_BOOTLOADER)
    assert isinstance(bench.nodes[0].events[-1], BootloaderLeft)
    assert isinstance(bench.events[0], TargetConnected | CommandSucceeded)
