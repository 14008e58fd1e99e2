"""An image goes over the wire compressed: when it is worth it, from any offset, and never so that a wrong byte stays."""

from __future__ import annotations

from random import Random
from zlib import crc32

import pytest
from bmsota_sim.samples import sample_file

from bmsota.boot import SlotState
from bmsota.bootloader import BootloaderClient, BroadcastClient, TargetLimits
from bmsota.bootloader._client import ImagePayload
from bmsota.bootloader._messages import Request, ResultReply
from bmsota.bootloader._offer import OFFER_BYTES, Offer
from bmsota.compression import LOOKAHEAD_BITS, WINDOW_BITS, compress
from bmsota.image import ImageRole, ImageVersion, build_image
from bmsota.node import (
    FailureCause,
    ImageVerified,
    NodeCommand,
    NodeMode,
    ResultCode,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)

OFFER_FRAMES = -(-OFFER_BYTES // 8)


def make_image(bench_parts, payload, version="2.1.0"):
    return build_image(
        payload,
        version=ImageVersion.parse(version),
        security_counter=2,
        hardware_class=bench_parts.SLAVE_CLASS,
        role=ImageRole.SLAVE,
        signing_key=bench_parts.KEY,
    )


def firmware(bench_parts):
    """Machine code as it is: a sample image as payload."""
    return make_image(bench_parts, sample_file("F7-slave-2.1.0.bin"))


def repetitive(bench_parts, size):
    """Words from a small vocabulary, so that it becomes half as long."""
    rng = Random(size)
    words = [rng.randbytes(6) for _ in range(24)]
    return make_image(bench_parts, b"".join(rng.choice(words) for _ in range(size // 6 + 1))[:size])


def make_node(bench_parts, position=1, *, write_unit_bytes=8, **options):
    flash = bench_parts.FlashModel(
        128 * 1024, erase_block_bytes=1024, write_unit_bytes=write_unit_bytes, seed=f"node {position}"
    )
    return bench_parts.Node(position, factory=bench_parts.OLD(), flash=flash, **options)


def client_of(bench, image, **options):
    return BootloaderClient(bench.wire, position=1, image=image, **options)


def data_count(bench, frames=None):
    """Data frames of the stream, without those of the offers."""
    frames = bench.sent if frames is None else frames
    first = bench.wire.data_id
    data = [frame for frame in frames if first <= frame.can_id < first + 64]
    offers = {NodeCommand.BEGIN_TRANSFER: -(-OFFER_BYTES // bench.wire.data_bytes)}
    # The offer goes to all members of a broadcast at once, and each is asked about it.
    asked = {
        (request.command, request.crc32) for request in map(bench.wire.parse, frames) if isinstance(request, Request)
    }
    return len(data) - sum(offers.get(command, 0) for command, _ in asked)


def stored(node, image):
    return node.flash.read(node.layout.slot_offsets[1], len(image))


def begins(events):
    return [event.offset for event in events if isinstance(event, TransferStarted)]


# ---- worth it or not


def test_firmware_takes_a_quarter_of_the_frames_less(bench_parts):
    """Of all frames on the wire, not only of the data."""
    image, frames = firmware(bench_parts), {}
    for may_compress in (True, False):
        node = make_node(bench_parts)
        bench = bench_parts.Bench(node)
        assert isinstance(bench.run(client_of(bench, image, may_compress=may_compress))[-1], ImageVerified)
        assert stored(node, image) == image
        frames[may_compress] = len(bench.frames)
    assert frames[True] <= 0.75 * frames[False]
    assert frames[False] >= -(-len(image) // 8)


def test_what_does_not_shrink_goes_as_it_is(bench_parts):
    image = bench_parts.make_image(size=6000)
    bench = bench_parts.Bench(make_node(bench_parts))
    assert isinstance(bench.run(client_of(bench, image))[-1], ImageVerified)
    assert data_count(bench) == -(-len(image) // 8)


def test_a_gain_of_less_than_three_percent_is_left_to_the_wire(bench_parts):
    """Random bytes become an eighth longer, zeros an eighth as long: the share of zeros makes any gain."""
    seen = set()
    for zeros in range(0, 4000, 100):
        image = make_image(bench_parts, Random(1).randbytes(8000 - zeros) + bytes(zeros))
        share = len(compress(image)) / len(image)
        payload = ImagePayload(image, may_compress=True)
        assert payload.is_compressible is (share <= 0.97), share
        assert not ImagePayload(image, may_compress=False).is_compressible
        seen.add((share <= 0.97, share < 1))
    assert seen == {(True, True), (False, True), (False, False)}


def test_a_node_that_cannot_gets_it_as_it_is(bench_parts):
    image = repetitive(bench_parts, 6000)
    node = make_node(bench_parts, limits=TargetLimits(takes_compression=False))
    bench = bench_parts.Bench(node)
    assert isinstance(bench.run(client_of(bench, image))[-1], ImageVerified)
    assert data_count(bench) == -(-len(image) // 8)


# ---- resume


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["flasher", "node"])
def test_a_cut_anywhere_and_the_rest_is_a_stream_of_its_own(bench_parts, cut):
    """The second stream is that of the image from where the node is on: as long as it must be, and no frame more."""
    image = repetitive(bench_parts, 12_000)
    bench = bench_parts.Bench(make_node(bench_parts))
    bench.run(client_of(bench, image))
    total, resumed = len(bench.frames), set()
    for stop in range(45, total, 29):
        node = make_node(bench_parts)
        bench = bench_parts.Bench(node)
        seen = []

        def at(frame, bench=bench, node=node, stop=stop, seen=seen):
            seen.append(frame)
            if len(seen) == stop:
                if cut == "node":
                    bench.cut_power(node)
                bench.cut_client()

        bench.on_frame = at
        bench.run(client_of(bench, image))
        bench.on_frame = None
        before = node.store.staging_offset
        events = bench.run(client_of(bench, image))
        assert isinstance(events[-1], ImageVerified), stop
        (offset,) = begins(events)
        assert offset in ({before} if cut == "flasher" else {before // 1024 * 1024, before, len(image)}), stop
        assert data_count(bench) == -(-len(compress(image[offset:])) // 8) * (offset < len(image)), stop
        assert stored(node, image) == image
        resumed.add(offset)
    assert len(resumed) > 5


def test_a_cut_in_a_broadcast_and_each_decompresses_what_it_has_skipped(bench_parts):
    """The stream begins at the lowest offset; a node that is further decompresses it all and keeps the end."""
    image = repetitive(bench_parts, 20_000)
    nodes = [make_node(bench_parts, position) for position in (1, 2, 3)]
    bench = bench_parts.Bench(*nodes)
    for node, offset in ((nodes[0], 3000), (nodes[1], 9000)):

        def stop(frame, node=node, offset=offset):
            if node.target.state is NodeMode.RECEIVING and node.store.staging_offset >= offset:
                bench.cut_client()

        bench.on_frame = stop
        bench.run(BootloaderClient(bench.wire, position=node.position, image=image))
    bench.on_frame = None
    lowest = nodes[0].store.staging_offset
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2], image=image))
    assert sum(isinstance(event.event, ImageVerified) for event in events) == 2
    assert data_count(bench) == -(-len(compress(image[lowest:])) // 8)
    assert [stored(node, image) for node in nodes[:2]] == [image] * 2


# ---- the ends of streams


@pytest.mark.slow
@pytest.mark.parametrize("dbc", ["bms_bootloader", "bms_bootloader_fd"])
def test_what_fills_the_last_frame_up_is_not_decompressed(bench_parts, dbc):
    """Every length modulo a frame; 0xFF would be one byte more or a dozen."""
    ends = set()
    for size in range(2000, 2140, 2):
        image = repetitive(bench_parts, size)
        node = make_node(bench_parts)
        bench = bench_parts.Bench(node, dbc=dbc)
        events = bench.run(client_of(bench, image))
        assert isinstance(events[-1], ImageVerified), size
        assert not [event for event in events if isinstance(event, TransferInterrupted)], size
        assert stored(node, image) == image
        ends.add(len(compress(image)) % bench.wire.data_bytes)
        assert data_count(bench) == -(-len(compress(image)) // bench.wire.data_bytes)
    assert len(ends) >= min(bench.wire.data_bytes, 30)


@pytest.mark.parametrize("block_frames", [1, 3, 5, 64])
@pytest.mark.parametrize("write_unit_bytes", [1, 8, 32])
def test_what_a_block_gives_is_written_in_whole_units(bench_parts, block_frames, write_unit_bytes):
    """A block of a compressed stream gives any number of bytes; the flash takes whole units only."""
    image = repetitive(bench_parts, 5003)
    limits = TargetLimits(block_frames_max=block_frames)
    node = make_node(bench_parts, write_unit_bytes=write_unit_bytes, limits=limits)
    bench = bench_parts.Bench(node)
    cut = []

    def blink(frame):
        if not cut and node.target is not None and node.store.staging_offset >= 2500:
            cut.append(node.store.staging_offset)
            bench.cut_client()

    bench.on_frame = blink
    bench.run(client_of(bench, image))
    assert cut[0] % write_unit_bytes == 0
    events = bench.run(client_of(bench, image))
    assert isinstance(events[-1], ImageVerified)
    assert begins(events) == [node_offset for node_offset in begins(events) if node_offset >= cut[0]]
    assert stored(node, image) == image


# ---- broken streams


class BrokenPayload(ImagePayload):
    """Its compressed streams are not those of the image; what it says of it is true."""

    def __init__(self, image, broken, times=10_000):
        super().__init__(image, may_compress=True)
        self.broken, self.times = broken, times

    def stream(self, offset, *, is_compressed):
        if is_compressed and self.times:
            self.times -= 1
            return self.broken(self._stream(offset))
        return super().stream(offset, is_compressed=is_compressed)


BREAKS = {
    "gives too much": lambda stream: compress(bytes(40_000))[: len(stream)],
    "gives other bytes": lambda stream: stream[:700] + bytes([stream[700] ^ 1]) + stream[701:],
    "gives too little": lambda stream: stream[:-200],
}


@pytest.mark.parametrize("times", [1, 10_000])
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_stream_is_found_out_and_not_tried_again(bench_parts, name, times):
    """The CRCs of the blocks are right, so it is the encoder or the node's decoder: the image goes as it is then."""
    image = repetitive(bench_parts, 9000)
    node = make_node(bench_parts)
    bench = bench_parts.Bench(node)
    events = bench.run(client_of(bench, BrokenPayload(image, BREAKS[name], times)))
    assert isinstance(events[-1], ImageVerified)
    assert stored(node, image) == image
    said = {event.detail for event in events if isinstance(event, TransferInterrupted)}
    expected = {
        "gives too much": {"CHECK_BLOCK: DAMAGED", "FINISH_TRANSFER: DAMAGED"},
        "gives other bytes": {"FINISH_TRANSFER: DAMAGED"},
        "gives too little": {f"expected {len(image)} bytes stored, got {begins(events)[1]}"},
    }
    assert said == expected[name]
    assert len(begins(events)) == len(said) + 1


def test_a_stream_that_gives_more_than_the_rest_is_found_out_before_the_end(bench_parts):
    image = repetitive(bench_parts, 9000)
    node = make_node(bench_parts)
    bench = bench_parts.Bench(node)

    def stop(frame):
        if node.target.state is NodeMode.RECEIVING and node.store.staging_offset >= 5000:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(client_of(bench, image))
    bench.on_frame = None
    events = bench.run(client_of(bench, BrokenPayload(image, BREAKS["gives too much"])))
    first = next(event for event in events if isinstance(event, TransferInterrupted))
    assert first.detail == "CHECK_BLOCK: DAMAGED"
    assert isinstance(events[-1], ImageVerified)
    assert stored(node, image) == image


def test_in_a_broadcast_a_broken_stream_is_replaced_for_all(bench_parts):
    image = repetitive(bench_parts, 9000)
    nodes = [make_node(bench_parts, position) for position in (1, 2, 3)]
    bench = bench_parts.Bench(*nodes)
    client = BroadcastClient(bench.wire, positions=[1, 2, 3], image=image)
    client._payload.__class__ = BrokenPayload
    client._payload.broken, client._payload.times = BREAKS["gives too much"], 10_000
    events = bench.run(client)
    ended = [event.event for event in events if isinstance(event.event, ImageVerified | TransferFailed)]
    assert [type(event) for event in ended] == [ImageVerified] * 3
    assert [stored(node, image) for node in nodes] == [image] * 3


# ---- offers


@pytest.mark.parametrize(
    ("bits", "takes_compression", "is_taken"),
    [
        ((0, 0), True, True),
        ((0, 0), False, True),
        ((WINDOW_BITS, LOOKAHEAD_BITS), True, True),
        ((WINDOW_BITS, LOOKAHEAD_BITS), False, False),
        ((WINDOW_BITS + 1, LOOKAHEAD_BITS), True, False),
        ((WINDOW_BITS, LOOKAHEAD_BITS + 1), True, False),
        ((4, 3), True, False),
        ((0, 4), True, False),
        ((255, 255), True, False),
    ],
)
def test_a_stream_a_node_cannot_decompress_is_refused_before_the_first_erase(
    bench_parts, bits, takes_compression, is_taken
):
    image = repetitive(bench_parts, 3000)
    node = make_node(bench_parts, limits=TargetLimits(takes_compression=takes_compression))
    bench = bench_parts.Bench(node)
    bench.command(1, NodeCommand.ENTER_BOOTLOADER)
    facts = ImagePayload(image, may_compress=False).facts
    record = Offer(
        role=facts.role,
        size_bytes=len(image),
        sha256=bytes(32),
        class_id=facts.hardware_class.class_id,
        version=facts.version,
        security_counter=facts.security_counter,
        group=255,
        block_frames=64,
        window_bits=bits[0],
        lookahead_bits=bits[1],
    ).serialize()
    operations = node.flash.operations
    target, now_ns = node.target, bench.now_ns
    for frame in bench.wire.data_frames(record):
        target.receive_frame(frame, now_ns)
    request = Request(1, NodeCommand.BEGIN_TRANSFER, target._last_tag + 1, frames=OFFER_FRAMES, crc32=crc32(record))
    target.receive_frame(bench.wire.serialize(request), now_ns)
    replies = [bench.wire.parse(frame) for frame in target.frames_to_send(now_ns + 10**10)]
    (code,) = [ResultCode(reply.code) for reply in replies if isinstance(reply, ResultReply)]
    assert code is (ResultCode.OK if is_taken else ResultCode.BAD_OFFER)
    assert (node.flash.operations > operations) is is_taken
    assert target.state is (NodeMode.RECEIVING if is_taken else NodeMode.BOOTLOADER)


def test_a_node_that_promised_more_than_it_can_do_ends_the_transfer(bench_parts):
    """Its capabilities say compression, its check of the offer does not."""
    image = repetitive(bench_parts, 3000)
    node = make_node(bench_parts)
    bench = bench_parts.Bench(node)

    def forget(frame):
        if frame.can_id == 0x700 and frame.data[1] == NodeCommand.ENTER_BOOTLOADER:
            node.target._limits = TargetLimits(takes_compression=False)

    bench.on_frame = forget
    failed = bench.run(client_of(bench, image))[-1]
    assert isinstance(failed, TransferFailed)
    assert (failed.cause, failed.detail) == (FailureCause.PROTOCOL_VERSION, "BEGIN_TRANSFER: BAD_OFFER")
    assert node.store.slots[1].state is SlotState.EMPTY
