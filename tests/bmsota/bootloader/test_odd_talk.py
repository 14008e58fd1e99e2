"""What one side says that it should not say: answers that cannot be, requests out of place, too many of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bmsota.boot import SlotState
from bmsota.bootloader import BootloaderClient, BootloaderTiming, BroadcastClient, TargetLimits
from bmsota.bootloader._messages import OFFER_BLOCK, BitmapReply, ReportReply, Request, ResultReply, StatusReply
from bmsota.bootloader._target import _REPLIES_MAX
from bmsota.errors import ConfigurationError, ImageError
from bmsota.node import (
    FailureCause,
    ImageVerified,
    NodeCommand,
    NodeMode,
    RepliesDropped,
    ResultCode,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)


@pytest.fixture
def bench(bench_parts):
    flash = bench_parts.FlashModel(64 * 1024, erase_block_bytes=1024)
    return bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD(), flash=flash))


def client_of(bench, bench_parts, **options):
    image = options.pop("image", bench_parts.NEW())
    return BootloaderClient(bench.wire, position=1, image=image, **options)


def forge(bench, change, times=1):
    """Let the client hear what *change* makes of a reply before the reply itself; *change* gives None for the others."""
    heard = []

    def on_frame(frame):
        reply = bench.wire.parse(frame)
        if reply is None or isinstance(reply, Request) or len(heard) >= times:
            return
        changed = change(reply)
        if changed is not None:
            heard.append(changed)
            bench.client.receive_frame(bench.wire.serialize(changed), bench.now_ns)

    bench.on_frame = on_frame
    return heard


def is_result(reply, command):
    return isinstance(reply, ResultReply) and reply.command == command


# ---- answers


def test_an_offset_beyond_the_image_is_asked_for_again(bench, bench_parts):
    size = len(bench_parts.NEW())
    heard = forge(
        bench,
        lambda reply: replace(reply, detail=size + 1) if is_result(reply, NodeCommand.BEGIN_TRANSFER) else None,
    )
    events = bench.run(client_of(bench, bench_parts))
    assert heard
    assert TransferInterrupted(f"expected an offset of at most {size}, got {size + 1}") in events
    assert isinstance(events[-1], ImageVerified)


def test_a_result_nobody_knows_ends_the_transfer(bench, bench_parts):
    forge(bench, lambda reply: replace(reply, code=200) if is_result(reply, NodeCommand.FINISH_TRANSFER) else None)
    failed = bench.run(client_of(bench, bench_parts))[-1]
    assert isinstance(failed, TransferFailed)
    assert (failed.cause, failed.detail) == (
        FailureCause.REFUSED,
        "FINISH_TRANSFER: expected a known result, got 200",
    )


@pytest.mark.parametrize(
    "change", [{"tag": 99}, {"command": 99}, {"position": 2}], ids=["another tag", "another command", "another node"]
)
def test_a_result_of_something_else_is_none(bench, bench_parts, change):
    """Its code would end the transfer."""
    wrong = {"code": int(ResultCode.NOT_TRUSTED), **change}
    heard = forge(bench, lambda reply: replace(reply, **wrong) if isinstance(reply, ResultReply) else None, times=100)
    events = bench.run(client_of(bench, bench_parts))
    assert len(heard) >= 3
    assert isinstance(events[-1], ImageVerified)
    assert not [event for event in events if isinstance(event, TransferInterrupted)]


@pytest.mark.parametrize(
    "bitmap",
    [
        BitmapReply(1, OFFER_BLOCK, 0, 0, 0),
        BitmapReply(1, OFFER_BLOCK, 0, 3, 0b1),
        BitmapReply(1, OFFER_BLOCK, 7, 1, 0b1),
        BitmapReply(1, 3, 0, 1, 0b1),
    ],
    ids=["nothing missing", "two of three unsaid", "frames that there are none of", "another block"],
)
def test_a_bitmap_that_says_nothing_of_use_does_no_harm(bench, bench_parts, bitmap):
    heard = forge(bench, lambda reply: bitmap if is_result(reply, NodeCommand.BEGIN_TRANSFER) else None)
    events = bench.run(client_of(bench, bench_parts))
    assert heard
    assert isinstance(events[-1], ImageVerified)


def test_an_offer_that_never_arrives_whole_is_given_up(bench, bench_parts):
    """One of its frames is lost every time, and of no other."""
    bench.fault = lambda frame, rng: () if frame.can_id == 0x743 else (0,)
    timing = BootloaderTiming(rounds_max=5, interruptions_max=2)
    events = bench.run(client_of(bench, bench_parts, timing=timing))
    failed = events[-1]
    assert failed.cause is FailureCause.NO_PROGRESS
    assert failed.detail == "BEGIN_TRANSFER: still incomplete after 5 rounds"
    assert len([event for event in events if isinstance(event, TransferInterrupted)]) == 2


def test_a_command_that_is_never_answered_is_given_up(bench, bench_parts):
    bench.fault = lambda frame, rng: (
        () if frame.can_id == 0x700 and frame.data[1] == NodeCommand.ENTER_BOOTLOADER else (0,)
    )
    failed = bench.run(client_of(bench, bench_parts, timing=BootloaderTiming(interruptions_max=1)))[-1]
    assert (failed.cause, failed.detail) == (FailureCause.NO_PROGRESS, "ENTER_BOOTLOADER: no answer in 5 tries")
    assert len([frame for frame in bench.sent if frame.data[1] == NodeCommand.ENTER_BOOTLOADER]) == 10


def test_a_state_nobody_knows_leaves_the_description_incomplete(bench, bench_parts):
    """Once: it is asked again. Always: the node is no node we can talk to."""
    forged = []

    def on_frame(frame):
        reply = bench.wire.parse(frame)
        # Behind the true Status, in front of the Version: the collector keeps the newest.
        if not isinstance(reply, Request) and frame.data[0] == 2 and len(forged) < times:
            forged.append(frame)
            status = StatusReply(1, frame.data[1], 0, 2, 2, 1, 7, 0, 5, 0, 0, 0, 0, 64)
            bench.client.receive_frame(bench.wire.serialize(status), bench.now_ns)

    bench.on_frame = on_frame
    times = 1
    assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified)
    times = 1000
    failed = bench.run(client_of(bench, bench_parts, timing=BootloaderTiming(discover_tries=4)))[-1]
    assert failed.cause is FailureCause.NODE_SILENT
    assert failed.detail == "node 1 said only a part of what it is in 4 tries"


def test_what_a_node_says_while_it_waits_for_the_others_is_not_acted_on(bench_parts):
    """Node 1 is ready and nothing is asked of it; node 2 boots late."""
    nodes = [bench_parts.Node(position, factory=bench_parts.OLD()) for position in (1, 2)]
    for node in nodes:
        node.restart_ns = 500 * bench_parts.MS
    bench = bench_parts.Bench(*nodes)
    bench.cut_power(nodes[1])
    client = BroadcastClient(bench.wire, positions=[1, 2], image=bench_parts.NEW())
    said = []

    def chatter(frame):
        if frame.can_id == 0x700 and frame.data[0] == 2 and frame.data[1] == NodeCommand.DISCOVER:
            for reply in (
                ResultReply(1, client._members[1]._tag, NodeCommand.ENTER_BOOTLOADER, ResultCode.NOT_TRUSTED, 0),
                ReportReply(1, 0, 0, 0, 0),
            ):
                said.append(reply)
                client.receive_frame(bench.wire.serialize(reply), bench.now_ns)

    bench.on_frame = chatter
    events = bench.run(client)
    assert len(said) >= 4
    ended = [event.event for event in events if isinstance(event.event, ImageVerified | TransferFailed)]
    assert [type(event) for event in ended] == [ImageVerified] * 2


# ---- requests, and what the node makes of them


def halfway(bench, bench_parts, image, offset):
    node = bench.nodes[0]

    def stop(frame):
        if node.target.state is NodeMode.RECEIVING and node.store.staging_offset >= offset:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(client_of(bench, bench_parts, image=image))
    bench.on_frame = None
    bench.run(limit_s=1)
    return node.store.staging_offset


def say(bench, *requests):
    """Hand the node these; what it answers within 10 s."""
    target = bench.nodes[0].target
    for request in requests:
        target.receive_frame(bench.wire.serialize(request), bench.now_ns)
    bench.now_ns += 10 * 10**9
    return [bench.wire.parse(frame) for frame in target.frames_to_send(bench.now_ns)]


@pytest.mark.parametrize("state", [NodeMode.APPLICATION, NodeMode.BOOTLOADER])
def test_blocks_without_an_offer_are_none(bench, state):
    target = bench.nodes[0].target
    if state is NodeMode.BOOTLOADER:
        say(bench, Request(1, NodeCommand.ENTER_BOOTLOADER, 1, protocol=2, boot_id=target._boot_id))
    operations = bench.nodes[0].flash.operations
    assert say(bench, Request(1, NodeCommand.OPEN_BLOCK, 0)) == []
    for frame in bench.wire.data_frames(bytes(512)):
        target.receive_frame(frame, bench.now_ns)
    (reply,) = say(bench, Request(1, NodeCommand.CHECK_BLOCK, 0, frames=64, crc32=0, report_wanted=1))
    assert reply.code == ResultCode.WRONG_STATE
    assert (target.state, bench.nodes[0].flash.operations) == (state, operations)


def test_a_stream_that_begins_behind_what_the_node_has_is_not_for_it(bench, bench_parts):
    """A gap would be left. It says that it has nothing of it, and where it is."""
    image = bench_parts.make_image(size=20_000)
    stored = halfway(bench, bench_parts, image, 5000)
    operations = bench.nodes[0].flash.operations
    bench.nodes[0].target._close_stream()
    assert say(bench, Request(1, NodeCommand.OPEN_BLOCK, 0, offset=stored + 512)) == []
    (report,) = say(bench, Request(1, NodeCommand.CHECK_BLOCK, 0, frames=64, crc32=0, report_wanted=1))
    assert report == ReportReply(1, 0, 0, 255, stored)
    assert bench.nodes[0].flash.operations == operations
    events = bench.run(client_of(bench, bench_parts, image=image))
    assert isinstance(events[-1], ImageVerified)
    assert [event.offset for event in events if isinstance(event, TransferStarted)] == [stored]


def test_a_store_that_somebody_else_uses_ends_the_stream(bench, bench_parts):
    """A master's own updater begins to stage another image; the flasher's session loses."""
    image = bench_parts.make_image(size=20_000)
    node, taken = bench.nodes[0], []

    def take(frame):
        if not taken and node.store.staging_offset >= 5000:
            taken.append(frame)
            node.store.begin_staging(4000, bytes(32))

    bench.on_frame = take
    events = bench.run(client_of(bench, bench_parts, image=image))
    assert TransferInterrupted("CHECK_BLOCK: WRONG_STATE") in events
    # The updater does not go on, so the flasher has the store again.
    assert [event.offset for event in events if isinstance(event, TransferStarted)] == [0, 0]
    assert isinstance(events[-1], ImageVerified)
    assert node.flash.read(node.layout.slot_offsets[1], len(image)) == image


def test_an_image_that_is_malformed_is_told_from_one_that_is_not_trusted(bench, bench_parts):
    node = bench.nodes[0]

    def malformed(data):
        raise ImageError("image", expected="a trailer", received="none", offset=len(data))

    node.store._verify = malformed
    failed = bench.run(client_of(bench, bench_parts))[-1]
    assert (failed.cause, failed.permanent) == (FailureCause.BAD_IMAGE, True)
    assert node.store.slots[1].state is SlotState.BAD


def test_a_bus_gone_mad_does_not_fill_the_nodes_memory(bench, bench_parts):
    """22 replies to each of many Discovers, none of which can be sent: they are bounded, counted, and the node lives on."""
    target = bench.nodes[0].target
    for echo in range(100):
        target.receive_frame(bench.wire.serialize(Request(255, NodeCommand.DISCOVER, echo)), bench.now_ns)
    assert len(target._replies) == _REPLIES_MAX
    # One event, however long the flood; what is dropped after it was taken is another one.
    assert target.next_event() == RepliesDropped(100 * 22 - _REPLIES_MAX)
    assert target.next_event() is None
    target.receive_frame(bench.wire.serialize(Request(255, NodeCommand.DISCOVER, 100)), bench.now_ns)
    assert target.next_event() == RepliesDropped(22)
    assert len(target.frames_to_send(bench.now_ns)) == _REPLIES_MAX
    assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified)


@pytest.mark.parametrize("name", ["window_blocks", "window_blocks_fd"])
@pytest.mark.parametrize("blocks", [0, 31])
def test_a_window_that_no_list_of_missing_frames_can_name_is_refused(name, blocks):
    with pytest.raises(ConfigurationError, match=f"{name}: expected 1 to 30, got {blocks}"):
        TargetLimits(**{name: blocks})
