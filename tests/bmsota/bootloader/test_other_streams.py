"""Frames of a stream that is not the one under way: late ones of an earlier stream, and those of another flasher."""

from __future__ import annotations

import hashlib
from zlib import crc32

import pytest

from bmsota.bootloader import BootloaderClient, BroadcastClient
from bmsota.bootloader._messages import Request
from bmsota.bootloader._offer import Offer
from bmsota.node import BlockRepeated, ImageVerified, NodeCommand, NodeMode, TransferInterrupted, TransferStarted

BLOCK = 512


@pytest.fixture
def bench(bench_parts):
    return bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD()))


def stop_at(bench, offset):
    """Cut our side when so much is stored."""

    def look(_frame):
        if bench.nodes[0].store.staging_offset >= offset:
            bench.cut_client()

    bench.on_frame = look


def say(bench, command, number, **fields):
    """Somebody else's request."""
    frame = bench.wire.serialize(Request(1, command, number, **fields))
    bench.nodes[0].target.receive_frame(frame, bench.now_ns)


def wrong_bytes(bench, image):
    """Where what is stored is not the image."""
    node = bench.nodes[0]
    stored = node.flash.read(node.layout.slot_offsets[1], node.store.staging_offset or 1)
    return [at for at in range(node.store.staging_offset) if stored[at] != image[at]]


def disturb(bench, image, when, action):
    """Do *action* once, behind the first frame of which *when* is true; look at what is stored all the time."""
    done = []

    def look(frame):
        assert wrong_bytes(bench, image) == []
        if not done and when(frame):
            done.append(frame)
            action()

    bench.on_frame = look
    return done


def test_a_late_openblock_of_an_earlier_stream_cannot_move_the_image(bench, bench_parts):
    """The stream begins at 1024; OpenBlock of the stream from 0 comes behind its own. The CRCs do not fit any more, so
    nothing is stored at a wrong place; the flasher finds out and begins anew from where it was."""
    image = bench_parts.NEW()
    stop_at(bench, 1024)
    bench.run(BootloaderClient(bench.wire, position=1, image=image))
    done = disturb(
        bench,
        image,
        lambda frame: frame.can_id == 0x745 and bench.nodes[0].target.state is NodeMode.RECEIVING,
        lambda: say(bench, NodeCommand.OPEN_BLOCK, 0, offset=0),
    )
    events = bench.run(BootloaderClient(bench.wire, position=1, image=image))
    assert done
    assert isinstance(events[-1], ImageVerified)
    assert [event.offset for event in events if isinstance(event, TransferStarted)] == [1024, 1024]
    assert len([event for event in events if isinstance(event, TransferInterrupted)]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("offset", [512, 1024, 2**31])
@pytest.mark.parametrize("repair", [0, 1])
def test_a_stray_openblock_of_another_offset_costs_nothing_once_blocks_have_come(bench, bench_parts, offset, repair):
    image = bench_parts.make_image(size=6000)
    done = disturb(
        bench,
        image,
        lambda frame: frame.can_id == 0x745 and bench.nodes[0].store.staging_offset >= 2048,
        lambda: say(bench, NodeCommand.OPEN_BLOCK, 3, offset=offset, repair=repair),
    )
    events = bench.run(BootloaderClient(bench.wire, position=1, image=image))
    assert done
    assert isinstance(events[-1], ImageVerified)
    assert not [event for event in events if isinstance(event, BlockRepeated | TransferInterrupted)]


def test_a_whole_block_of_another_image_is_not_stored(bench, bench_parts):
    """Another flasher streams its image to this node, with everything right for its own stream."""
    image, other = bench_parts.NEW(), bench_parts.make_image("2.1.1", counter=2)
    start = Offer(
        role=1,
        size_bytes=len(other),
        sha256=hashlib.sha256(other).digest(),
        class_id=bench_parts.SLAVE_CLASS.class_id,
        version=bench_parts.ImageVersion(2, 1, 1),
        security_counter=2,
        group=255,
        block_frames=64,
    ).stream_crc(0)
    blocks = []

    def stream():
        node = bench.nodes[0]
        number = node.store.staging_offset // BLOCK
        blocks.append(number)
        content = other[number * BLOCK : (number + 1) * BLOCK]
        say(bench, NodeCommand.OPEN_BLOCK, number, offset=0)
        for frame in bench.wire.data_frames(content):
            node.target.receive_frame(frame, bench.now_ns)
        say(bench, NodeCommand.CHECK_BLOCK, number, frames=64, crc32=crc32(content, start), report_wanted=1)

    done = disturb(
        bench, image, lambda frame: frame.can_id == 0x745 and bench.nodes[0].store.staging_offset >= 1024, stream
    )
    events = bench.run(BootloaderClient(bench.wire, position=1, image=image))
    assert done
    assert blocks
    assert isinstance(events[-1], ImageVerified)
    assert not [event for event in events if isinstance(event, TransferInterrupted)]


def test_a_node_that_has_entered_anew_belongs_to_no_broadcast(bench, bench_parts):
    """Until its next offer: the blocks of its old group are not answered, not even with a refusal."""
    stop_at(bench, 1024)
    bench.run(BroadcastClient(bench.wire, positions=[1], image=bench_parts.NEW()))
    target, later_ns = bench.nodes[0].target, bench.now_ns + bench_parts.SECOND
    check = Request(target._offer.group, NodeCommand.CHECK_BLOCK, 0, frames=64, crc32=1, report_wanted=1)

    def answers():
        target.receive_frame(bench.wire.serialize(check), bench.now_ns)
        return target.frames_to_send(later_ns)

    assert len(answers()) == 1
    say(bench, NodeCommand.ENTER_BOOTLOADER, target._last_tag + 1, boot_id=target._boot_id, protocol=2)
    target.frames_to_send(later_ns)
    assert target.state is NodeMode.BOOTLOADER
    assert answers() == []
