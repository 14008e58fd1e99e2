"""One image to many nodes at once: every node ends with a result of its own, and the right one."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from bmsota.boot import SlotState
from bmsota.bootloader import BootloaderClient, BootloaderTiming, BroadcastClient, BroadcastPhase, TargetLimits
from bmsota.bootloader._messages import GROUP_MAX, GROUP_MIN, PartReply, ReplyKind, ReportReply, Request
from bmsota.bootloader._offer import OFFER_BYTES
from bmsota.errors import ImageError, LocalProtocolError
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image
from bmsota.node import (
    BlockRepeated,
    CommandSucceeded,
    FailureCause,
    ImageVerified,
    NodeCommand,
    NodeMode,
    TargetConnected,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)

DATA_IDS = range(0x740, 0x780)
OFFER_FRAMES = -(-OFFER_BYTES // 8)
OTHER_CLASS = HardwareClass.named("bmsota.example", "other-slave")


def of(events, position):
    """What was said of one node."""
    return [event.event for event in events if event.position == position]


def results(events):
    """position -> the event that ended it; each node has exactly one."""
    ends = [event for event in events if isinstance(event.event, ImageVerified | TransferFailed)]
    assert len({event.position for event in ends}) == len(ends)
    return {event.position: event.event for event in ends}


def offsets(events, position):
    return [event.offset for event in of(events, position) if isinstance(event, TransferStarted)]


def data_frames(frames):
    return [frame for frame in frames if frame.can_id in DATA_IDS]


def requests(bench, frames, command):
    parsed = (bench.wire.parse(frame) for frame in frames)
    return [request for request in parsed if isinstance(request, Request) and request.command is command]


def stored(node, image):
    return node.flash.read(node.layout.slot_offsets[1], len(image))


def make_nodes(bench_parts, *positions, size=64 * 1024, **options):
    nodes = []
    for position in positions:
        flash = bench_parts.FlashModel(size, erase_block_bytes=1024, seed=f"node {position}")
        nodes.append(bench_parts.Node(position, factory=bench_parts.OLD(), flash=flash, **options))
    return nodes


def compressible_image(bench_parts, version="2.1.0", size=6000):
    """Half of it repeats itself."""
    rng = Random(7)
    payload = b"".join(rng.randbytes(32) + b"\x00" * 32 for _ in range(size // 64))
    return build_image(
        payload,
        version=ImageVersion.parse(version),
        security_counter=2,
        hardware_class=bench_parts.SLAVE_CLASS,
        role=ImageRole.SLAVE,
        signing_key=bench_parts.KEY,
    )


def halfway(bench, node, image, offset):
    """Leave the node with *offset* bytes or a little more of *image*: its flasher has gone."""

    def stop(frame):
        if node.target.state is NodeMode.RECEIVING and node.store.staging_offset >= offset:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(BootloaderClient(bench.wire, position=node.position, image=image))
    bench.on_frame = None
    assert offset <= node.store.staging_offset < len(image)
    return node.store.staging_offset


# ---- the pack of the issue


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_sixteen_nodes_at_one_percent_loss_get_what_each_deserves(bench_parts, seed):
    """Node 5 is absent, node 9 is another hardware class, node 12 dies half-way, each frame is lost to each at 1 %."""
    image = bench_parts.make_image(size=20_000)
    nodes = {node.position: node for node in make_nodes(bench_parts, *(set(range(1, 17)) - {5}))}
    nodes[9].hardware = OTHER_CLASS
    bench = bench_parts.WireBench(*nodes.values(), seed=seed, loss=0.01)
    dying, stored_then = nodes[12], []

    def die(frame, now_ns):
        if not stored_then and dying.store.staging_offset >= len(image) // 2:
            stored_then.append(dying.store.staging_offset)
            bench.power_off(dying)

    bench.bus.observe(die)
    events = bench.run(BroadcastClient(bench.wire, positions=range(1, 17), image=image))
    ended = results(events)
    assert sorted(ended) == list(range(1, 17))
    failed = {position: event for position, event in ended.items() if isinstance(event, TransferFailed)}
    assert sorted(failed) == [5, 9, 12]

    assert (failed[5].cause, failed[5].node, failed[5].next_offset) == (FailureCause.NODE_SILENT, None, 0)
    assert failed[5].detail == "node 5 did not answer in 100 tries"
    assert failed[9].cause is FailureCause.WRONG_HARDWARE
    assert failed[9].detail == f"expected hardware class {bench_parts.SLAVE_CLASS.class_id}, got {OTHER_CLASS.class_id}"
    assert (failed[9].permanent, failed[9].node.hwid) == (True, "HW-0009")
    assert (failed[12].cause, failed[12].permanent) == (FailureCause.NODE_SILENT, False)
    assert failed[12].detail == "node 12 did not answer in 100 tries"
    assert (failed[12].safe_to_run_again, failed[12].node.hwid) == (True, "HW-0012")
    assert 0 < failed[12].next_offset <= stored_then[0]
    assert any(isinstance(event, TransferInterrupted) for event in of(events, 12))

    good = sorted(set(nodes) - {9, 12})
    for position in good:
        assert stored(nodes[position], image) == image
        assert nodes[position].store.slots[1].state is SlotState.STAGED
    # Nobody is repeated for alone what several have missed, and what one repeats the others do not get as their own.
    assert sum(isinstance(event.event, BlockRepeated) for event in events) > 0
    lost = sum(station.port.lost for station in bench.stations.values())
    assert len(data_frames(bench.client.sent)) < -(-len(image) // 8) + OFFER_FRAMES + lost

    # The supply is back: a second run sends what is missing, and nothing else.
    bench.bus.faults = bench_parts.BusFaults()
    bench.power_on(dying)
    events = bench.run(BroadcastClient(bench.wire, positions=[*good, 12], image=image))
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert len(results(events)) == 14
    (resumed,) = offsets(events, 12)
    assert resumed == stored_then[0] // 1024 * 1024  # its last whole erase block
    assert all(offsets(events, position) == [len(image)] for position in good)
    assert len(data_frames(bench.client.sent)) == OFFER_FRAMES + -(-(len(image) - resumed) // 8)
    assert stored(dying, image) == image


@pytest.mark.slow
def test_a_clean_broadcast_sends_the_image_once(bench_parts):
    image = bench_parts.make_image(size=20_000)
    nodes = make_nodes(bench_parts, 0, 1, 31)
    bench = bench_parts.WireBench(*nodes)
    client = BroadcastClient(bench.wire, positions=[31, 0, 1], image=image)
    events = bench.run(client)
    assert client.phase is BroadcastPhase.FINISHED
    assert sorted(results(events)) == [0, 1, 31]
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert len(data_frames(bench.client.sent)) == OFFER_FRAMES + -(-len(image) // 8)
    assert [stored(node, image) for node in nodes] == [image] * 3
    assert client.next_event() is None


# ---- members that differ


@pytest.mark.parametrize("is_compressed", [False, True])
def test_members_go_on_from_where_each_of_them_is(bench_parts, is_compressed):
    """One has nothing, one the first part, one everything: the stream begins where the first one wants it."""
    image = compressible_image(bench_parts) if is_compressed else bench_parts.make_image(size=6000)
    nodes = make_nodes(bench_parts, 1, 2, 3)
    bench = bench_parts.Bench(*nodes)
    middle = halfway(bench, nodes[1], image, 2500)
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=3, image=image))[-1], ImageVerified)
    operations = nodes[2].flash.operations

    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2, 3], image=image))
    assert offsets(events, 1) == [0]
    assert offsets(events, 2) == [middle]
    assert offsets(events, 3) == [len(image)]
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert [stored(node, image) for node in nodes] == [image] * 3
    assert nodes[2].flash.operations - operations <= 2  # its journal only
    sent = len(data_frames(bench.sent)) - OFFER_FRAMES
    whole = -(-len(image) // 8)
    assert (sent < whole * 0.9) if is_compressed else (sent == whole)

    # And once more without the one that has nothing: only the missing part.
    bench = bench_parts.Bench(*make_nodes(bench_parts, 2, 3))
    for node, offset in zip(bench.nodes, (2500, 4000), strict=True):
        halfway(bench, node, image, offset)
    events = bench.run(BroadcastClient(bench.wire, positions=[2, 3], image=image))
    first, second = offsets(events, 2)[0], offsets(events, 3)[0]
    assert 2500 <= first < second < len(image)
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert [stored(node, image) for node in bench.nodes] == [image] * 2
    assert {request.offset for request in requests(bench, bench.sent, NodeCommand.OPEN_BLOCK)} == {first}


def test_what_is_offered_is_what_the_smallest_member_can_hold(bench_parts):
    image = bench_parts.make_image(size=6040)
    small = make_nodes(bench_parts, 2, limits=TargetLimits(block_frames_max=20, window_blocks=2))
    nodes = [*make_nodes(bench_parts, 1), *small, *make_nodes(bench_parts, 3, limits=TargetLimits(block_frames_max=33))]
    bench = bench_parts.Bench(*nodes)
    next_blocks = {1: 0, 2: 0, 3: 0}
    under_way = []

    def watch(frame):
        reply = bench.wire.parse(frame)
        if hasattr(reply, "next_block"):
            next_blocks[reply.position] = reply.next_block
        elif isinstance(reply, Request) and reply.command is NodeCommand.CHECK_BLOCK:
            under_way.append(reply.tag + 1 - min(next_blocks.values()))

    bench.on_frame = watch
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2, 3], image=image))
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert [stored(node, image) for node in nodes] == [image] * 3
    checks = requests(bench, bench.sent, NodeCommand.CHECK_BLOCK)
    assert {request.frames for request in checks} == {20, 5}
    assert max(under_way) == 2


def test_a_member_that_takes_no_broadcast_is_told_from_the_others(bench_parts):
    image = bench_parts.make_image(size=3000)
    nodes = [*make_nodes(bench_parts, 1, 3), *make_nodes(bench_parts, 2, limits=TargetLimits(takes_broadcast=False))]
    bench = bench_parts.Bench(*nodes)
    operations = nodes[2].flash.operations
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2, 3], image=image))
    ended = results(events)
    assert isinstance(ended[1], ImageVerified)
    assert isinstance(ended[3], ImageVerified)
    assert (ended[2].cause, ended[2].permanent) == (FailureCause.CAPABILITY_MISSING, True)
    assert ended[2].detail == "expected a node that takes broadcasts, got one that does not"
    assert nodes[2].flash.operations == operations
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=2, image=image))[-1], ImageVerified)


def test_one_member_without_decompression_and_nobody_gets_a_compressed_stream(bench_parts):
    image = compressible_image(bench_parts)
    whole = -(-len(image) // 8)

    def frames_for(*limits):
        nodes = [
            node
            for position, limit in enumerate(limits, start=1)
            for node in make_nodes(bench_parts, position, limits=limit)
        ]
        bench = bench_parts.Bench(*nodes)
        events = bench.run(BroadcastClient(bench.wire, positions=range(1, len(limits) + 1), image=image))
        assert all(isinstance(event, ImageVerified) for event in results(events).values())
        assert [stored(node, image) for node in nodes] == [image] * len(nodes)
        return len(data_frames(bench.sent)) - OFFER_FRAMES

    able, unable = TargetLimits(), TargetLimits(takes_compression=False)
    assert frames_for(able, able, able) < 0.8 * whole
    assert frames_for(able, unable, able) == whole


def test_a_description_with_a_gap_is_asked_for_again_soon_behind_its_last_frame(bench_parts):
    """Without the last frame the node may still be telling: that is waited for."""
    (node,) = make_nodes(bench_parts, 1)
    wire = bench_parts.Bench(node).wire
    for lost, wait_ns in ((7, 5_000_000), (21, 100_000_000)):
        client = BroadcastClient(wire, positions=[1], image=bench_parts.make_image(size=1000))
        for frame in client.frames_to_send(0):
            node.target.receive_frame(frame, 0)
        replies = node.target.frames_to_send(0)
        assert len(replies) == 22
        for number, reply in enumerate(replies):
            if number != lost:
                client.receive_frame(reply, 1_000_000)
        assert client.next_timeout() == 1_000_000 + wait_ns, lost


@pytest.mark.parametrize(("boots_after_s", "streams"), [(0.5, 1), (2.0, 2)])
def test_a_late_member_is_waited_for_a_moment_and_served_in_the_next_pass(bench_parts, boots_after_s, streams):
    image = bench_parts.make_image(size=6000)
    nodes = make_nodes(bench_parts, 1, 2, 3)
    bench = bench_parts.WireBench(*nodes)
    late = nodes[2]
    bench.power_off(late)
    bench.kernel.call_in(int(boots_after_s * bench_parts.SECOND), bench.power_on, late)
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2, 3], image=image))
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert [stored(node, image) for node in nodes] == [image] * 3
    assert len(data_frames(bench.client.sent)) == streams * (OFFER_FRAMES + -(-len(image) // 8))
    kinds = [(event.position, type(event.event)) for event in events]
    assert (kinds.index((3, TargetConnected)) > kinds.index((1, ImageVerified))) is (streams == 2)


def test_a_member_that_restarts_in_the_stream_is_served_in_the_next_pass(bench_parts):
    """It resumes from its last whole erase block; the others are not asked again."""
    image = bench_parts.make_image(size=6000)
    nodes = make_nodes(bench_parts, 1, 2, 3)
    bench = bench_parts.Bench(*nodes)
    cut = []

    def blink(frame):
        if not cut and nodes[1].target is not None and nodes[1].store.staging_offset >= 3000:
            cut.append(frame)
            bench.cut_power(nodes[1])

    bench.on_frame = blink
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2, 3], image=image))
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert [stored(node, image) for node in nodes] == [image] * 3
    assert offsets(events, 1) == offsets(events, 3) == [0]
    assert offsets(events, 2) == [0, 3072]
    assert len(data_frames(bench.sent)) == 2 * OFFER_FRAMES + -(-len(image) // 8) + -(-(len(image) - 3072) // 8)


def test_a_member_whose_flash_forgets_a_bit_gets_the_image_again(bench_parts):
    image = bench_parts.make_image(size=6000)
    nodes = make_nodes(bench_parts, 1, 2)
    bench = bench_parts.Bench(*nodes)
    flipped = []

    def flip_once(frame):
        if not flipped and nodes[0].store.staging_offset > 2048:
            flipped.append(frame)
            nodes[0].flash.flip_bit(nodes[0].layout.slot_offsets[1] + 600, 2)

    bench.on_frame = flip_once
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=image))
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert TransferInterrupted("FINISH_TRANSFER: DAMAGED") in of(events, 1)
    assert (offsets(events, 1), offsets(events, 2)) == ([0, 0], [0])
    assert [stored(node, image) for node in nodes] == [image] * 2


@pytest.mark.parametrize("stored_offset", [0, 0xFFFF_FFFF])
def test_a_report_that_cannot_be_costs_its_node_another_pass(bench_parts, stored_offset):
    """It says that the node has less than before, or more than the image: the node is asked anew, the stream goes on."""
    image = bench_parts.make_image(size=20_000)
    nodes = make_nodes(bench_parts, 1, 2)
    bench = bench_parts.Bench(*nodes)
    forged = []

    def forge(frame):
        reply = bench.wire.parse(frame)
        if not forged and isinstance(reply, ReportReply) and reply.position == 1 and reply.stored_offset > 4000:
            forged.append(frame)
            bench.client.receive_frame(bench.wire.serialize(replace(reply, stored_offset=stored_offset)), bench.now_ns)

    bench.on_frame = forge
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=image))
    assert forged
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert [stored(node, image) for node in nodes] == [image] * 2
    assert [event for event in of(events, 1) if isinstance(event, TransferInterrupted)]
    assert not [event for event in of(events, 2) if isinstance(event, TransferInterrupted)]
    assert offsets(events, 1)[-1] == len(image)  # It has heard the stream all the same.


@pytest.mark.parametrize("times", [1, 2])
def test_a_node_is_refused_for_what_it_says_twice(bench_parts, times):
    """A part of the hardware class that came wrong once costs a second look, and no more."""
    nodes = make_nodes(bench_parts, 1, 2)
    bench = bench_parts.Bench(*nodes)
    forged = []

    def forge(frame):
        if len(forged) < times and frame.can_id == 0x721 and frame.data[0] == ReplyKind.CLASS_1:
            forged.append(frame)
            wrong = PartReply(1, ReplyKind.CLASS_0, b"another")
            bench.client.receive_frame(bench.wire.serialize(wrong), bench.now_ns)

    bench.on_frame = forge
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=bench_parts.NEW()))
    assert isinstance(results(events)[2], ImageVerified)
    if times == 1:
        assert isinstance(results(events)[1], ImageVerified)
    else:
        assert results(events)[1].cause is FailureCause.WRONG_HARDWARE
    assert not [event for event in events if isinstance(event.event, TransferInterrupted)]


# ---- nobody, and the wrong


def test_when_all_refuse_nothing_is_sent_and_each_says_why(bench_parts):
    image = bench_parts.make_image("1.0.0", counter=0)
    nodes = make_nodes(bench_parts, 1, 2, 3)
    nodes[1].hardware = OTHER_CLASS
    nodes[2].role = ImageRole.MASTER
    bench = bench_parts.Bench(*nodes)
    operations = [node.flash.operations for node in nodes]
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2, 3], image=image))
    assert [results(events)[position].cause for position in (1, 2, 3)] == [
        FailureCause.COUNTER_TOO_LOW,
        FailureCause.WRONG_HARDWARE,
        FailureCause.WRONG_ROLE,
    ]
    assert len(data_frames(bench.sent)) == OFFER_FRAMES  # node 1 has read the offer, the others nothing
    assert [node.flash.operations for node in nodes] == operations


def test_nobody_there_ends_in_silence_for_each(bench_parts):
    bench = bench_parts.Bench()
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=bench_parts.NEW()))
    assert [event.cause for event in results(events).values()] == [FailureCause.NODE_SILENT] * 2
    assert len(bench.sent) == 200


@pytest.mark.parametrize("positions", [[], [1, 1], [32], [1, -1]])
def test_positions_that_are_none_are_refused_at_once(bench_parts, positions):
    wire = bench_parts.Bench().wire
    with pytest.raises(LocalProtocolError, match="position"):
        BroadcastClient(wire, positions=positions, image=bench_parts.NEW())
    with pytest.raises(ImageError):
        BroadcastClient(wire, positions=[1], image=b"no image")


# ---- neighbours


def group_of(bench_parts, image):
    """The group a broadcast of *image* names; the first test here sees it on the wire."""
    return BroadcastClient(bench_parts.Bench().wire, positions=[1], image=image)._group


def test_the_group_is_the_images_own(bench_parts):
    """So a node left in an earlier broadcast of the same image may take part again, and one left in another's does not."""
    groups = set()
    for number in range(5):
        image = bench_parts.make_image(f"2.1.{number}", size=900)
        bench = bench_parts.Bench(*make_nodes(bench_parts, 1, 2))
        bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=image))
        commands = (NodeCommand.OPEN_BLOCK, NodeCommand.CHECK_BLOCK)
        (group,) = {request.node for command in commands for request in requests(bench, bench.sent, command)}
        assert GROUP_MIN <= group <= GROUP_MAX
        assert group == group_of(bench_parts, image)
        groups.add(group)
    assert len(groups) > 2


def test_a_node_left_in_another_broadcast_is_not_disturbed(bench_parts):
    """Data frames carry no address: it hears them all, and keeps none."""
    image, other = bench_parts.make_image(size=6000), bench_parts.make_image("2.2.0", counter=3, size=6000)
    assert group_of(bench_parts, image) != group_of(bench_parts, other)
    nodes = make_nodes(bench_parts, 1, 2, 3, 4)
    bench = bench_parts.Bench(*nodes)
    abandoned = BroadcastClient(bench.wire, positions=[1, 2], image=image)

    def stop(frame):
        if nodes[0].store.staging_offset >= 2048:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(abandoned)
    bench.on_frame = None
    left = [(node.target.state, node.store.staging_offset, node.flash.dump()) for node in nodes[:2]]
    assert all(state is NodeMode.RECEIVING and offset >= 2048 for state, offset, _ in left)

    events = bench.run(BroadcastClient(bench.wire, positions=[3, 4], image=other))
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert left == [(node.target.state, node.store.staging_offset, node.flash.dump()) for node in nodes[:2]]

    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=image))
    assert all(isinstance(event, ImageVerified) for event in results(events).values())
    assert [offsets(events, position) for position in (1, 2)] == [[offset] for _, offset, _ in left]
    assert [stored(node, image) for node in nodes[:2]] == [image] * 2
    assert [stored(node, other) for node in nodes[2:]] == [other] * 2


@pytest.mark.slow
def test_two_images_of_one_group_are_told_apart_by_the_crc_of_their_blocks(bench_parts):
    """Of two images one in 127 has the group of the other. A node left in a broadcast of the first hears the blocks of the
    second, and stores none of them."""
    image = bench_parts.make_image(size=6000)
    group, others = (
        group_of(bench_parts, image),
        (bench_parts.make_image(f"2.2.{number}", counter=3, size=6000) for number in range(2000)),
    )
    other = next(other for other in others if group_of(bench_parts, other) == group)
    nodes = make_nodes(bench_parts, 1, 2)
    bench = bench_parts.Bench(*nodes)

    def stop(frame):
        if nodes[0].store.staging_offset >= 2048:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(BroadcastClient(bench.wire, positions=[1], image=image))
    bench.on_frame = None
    before = nodes[0].store.staging_offset
    assert isinstance(results(bench.run(BroadcastClient(bench.wire, positions=[2], image=other)))[2], ImageVerified)
    assert nodes[0].store.staging_offset == before
    events = bench.run(BroadcastClient(bench.wire, positions=[1], image=image))
    assert offsets(events, 1) == [before]
    assert isinstance(results(events)[1], ImageVerified)
    assert [stored(nodes[0], image), stored(nodes[1], other)] == [image, other]


@pytest.mark.parametrize("positions", [(1, 2), (1, 1)])
def test_two_flashers_at_once_are_slow_and_store_no_wrong_byte(bench_parts, positions):
    """Their data frames have the same ids. On two nodes each image arrives; of two images for one node, one of them whole."""
    images = [bench_parts.make_image(size=9000), bench_parts.make_image("2.2.0", counter=3, size=9000)]
    nodes = make_nodes(bench_parts, 1, 2)
    bench = bench_parts.WireBench(*nodes)
    events = []
    other = bench_parts.Station(bench.bus, "other flasher", events.append)
    other.start(BootloaderClient(bench.wire, position=positions[1], image=images[1]))
    events.append(bench.run(BootloaderClient(bench.wire, position=positions[0], image=images[0]))[-1])
    while not other.machine.finished:
        bench.kernel.run_until(bench.kernel.next_due())
    other.pump()
    verified = [event for event in events if isinstance(event, ImageVerified)]
    assert len(verified) == 2
    assert len(data_frames(bench.client.sent)) > OFFER_FRAMES + -(-len(images[0]) // 8)  # they did meet
    if positions == (1, 2):
        assert [stored(node, image) for node, image in zip(nodes, images, strict=True)] == images
    else:
        assert nodes[0].store.slots[1].state is SlotState.STAGED
        assert stored(nodes[0], images[0]) in images
        assert nodes[1].store.slots[1].state is SlotState.EMPTY


def test_a_broadcast_stages_and_the_commands_switch(bench_parts):
    image = bench_parts.make_image(size=3000)
    nodes = make_nodes(bench_parts, 1, 2)
    bench = bench_parts.Bench(*nodes)
    bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=image))
    assert [node.running_version for node in nodes] == ["2.0.0"] * 2
    for position in (1, 2):
        bench.command(position, NodeCommand.ACTIVATE_TEST)
        assert bench.command(position, NodeCommand.RESET).node.version == ImageVersion(2, 1, 0)
        assert isinstance(bench.command(position, NodeCommand.CONFIRM), CommandSucceeded)
    assert [node.running_version for node in nodes] == ["2.1.0"] * 2


def test_a_small_queue_gets_small_bursts(bench_parts):
    nodes = make_nodes(bench_parts, 1, 2)
    bench = bench_parts.Bench(*nodes)
    timing = BootloaderTiming(burst_frames=5, burst_spacing_ns=2 * bench_parts.MS)
    client = BroadcastClient(bench.wire, positions=[1, 2], image=bench_parts.NEW(), timing=timing)
    ask, sizes = client.frames_to_send, []

    def measured(now_ns):
        frames = ask(now_ns)
        sizes.append(len(frames))
        return frames

    client.frames_to_send = measured
    assert all(isinstance(event, ImageVerified) for event in results(bench.run(client)).values())
    assert max(sizes) == 5
