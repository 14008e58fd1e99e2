"""A cut at every frame of a flash, on either side: the second run ends with the same bytes and sends only what is missing.

What is missing, asserted to the frame: after our own side was cut, whatever is behind the offset up to which the node has
stored (it knows that as long as it has power); after the node was cut, whatever is behind its last whole erase block; and
the offer, which is how one finds out. Of a compressed stream it is the compressed rest.

A run cuts behind one frame of the bus, whoever sent it. The classic wire is cut at each frame, the others at a sample of
them; with BMSOTA_LONG=1 all are cut at each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from long_run import LONG

from bmsota.boot import SlotState
from bmsota.bootloader import BootloaderClient, BroadcastClient, TargetLimits
from bmsota.bootloader._messages import Request
from bmsota.bootloader._offer import OFFER_BYTES
from bmsota.compression import compress
from bmsota.image import ImageRole, ImageVersion, build_image
from bmsota.node import (
    SIGNATURE_BYTES,
    AccessGuard,
    BlockRepeated,
    ImageVerified,
    NodeCommand,
    TargetConnected,
    TransferInterrupted,
    TransferStarted,
)

pytestmark = pytest.mark.long
ACCESS_KEY = Ed25519PrivateKey.from_private_bytes(b"\x21" * 32)


@dataclass(frozen=True)
class Kind:
    """One way to flash."""

    dbc: str = "bms_bootloader"
    size: int = 900
    is_compressed: bool = False
    is_locked: bool = False
    positions: tuple[int, ...] = (1,)
    step: int = 1
    """Every so many frames one is cut behind; sizes and steps keep a run of all kinds below half a minute."""
    block_frames: int = 64


# Blocks of 512 bytes and erase blocks of 1024 on every wire, so that there is something to lose in both.
KINDS = {
    "classic": Kind(),
    "29-bit": Kind("bms_bootloader_29bit", step=5),
    "fd": Kind("bms_bootloader_fd", size=4000, step=3, block_frames=8),
    "fd 29-bit": Kind("bms_bootloader_fd_29bit", size=4000, step=7, block_frames=8),
    "compressed": Kind(size=3000, is_compressed=True, step=4),
    "fd compressed": Kind("bms_bootloader_fd", size=6000, is_compressed=True, step=5, block_frames=8),
    "locked": Kind(is_locked=True, step=5),
    "broadcast": Kind(positions=(1, 2, 3), step=7),
    "broadcast fd": Kind("bms_bootloader_fd", size=4000, positions=(1, 2, 3), step=11, block_frames=8),
    "broadcast compressed": Kind(size=3000, is_compressed=True, positions=(1, 2, 3), step=13),
}


@cache
def payload_of(kind):
    payload = Random("cuts").randbytes(kind.size)
    if kind.is_compressed:
        # Text-like: a third remains.
        words = [payload[start : start + 6] for start in range(0, 60, 6)]
        rng = Random("words")
        payload = b"".join(rng.choice(words) for _ in range(kind.size // 6))
    return payload


def image_of(bench_parts, kind):
    return build_image(
        payload_of(kind),
        version=ImageVersion(2, 1, 0),
        security_counter=2,
        hardware_class=bench_parts.SLAVE_CLASS,
        role=ImageRole.SLAVE,
        signing_key=bench_parts.KEY,
    )


class Flash:
    """One way to flash, on a bench of its own, with a cut behind one frame."""

    def __init__(self, bench_parts, kind):
        self.kind = kind
        self.image = image_of(bench_parts, kind)
        options = {}
        if kind.is_locked:
            rng = Random("guard")
            options["access"] = lambda: AccessGuard(
                [ACCESS_KEY.public_key()], rng.randbytes, delay_ns=bench_parts.SECOND, failures_max=3
            )
        self.nodes = [
            bench_parts.Node(
                position, factory=bench_parts.OLD(), limits=TargetLimits(block_frames_max=kind.block_frames), **options
            )
            for position in kind.positions
        ]
        self.bench = bench_parts.Bench(*self.nodes, dbc=kind.dbc)
        self.wire = self.bench.wire
        self.sent = []

    def run(self, *, cut=None, behind=0):
        """A whole run of a new client; *cut* is called behind so many frames."""
        options = {"image": self.image, "may_compress": self.kind.is_compressed}
        if self.kind.is_locked:
            options["access_signer"] = ACCESS_KEY.sign
        if len(self.nodes) == 1:
            client = BootloaderClient(self.wire, position=1, **options)
        else:
            client = BroadcastClient(self.wire, positions=self.kind.positions, **options)
        left = [behind]

        def count(frame):
            left[0] -= 1
            if not left[0]:
                cut()

        self.bench.on_frame = count if cut is not None else None
        events = self.bench.run(client)
        self.sent = self.bench.sent
        self.bench.run(limit_s=1)  # whoever lost its supply is back
        return events

    def of(self, events, node):
        """What was said of this node."""
        if len(self.nodes) == 1:
            return list(events)
        return [event.event for event in events if event.position == node.position]

    def offset_stored(self, node):
        """Up to where the node has this image."""
        slot = node.store.slots[1]
        if slot.state is SlotState.STAGED:
            return len(self.image)
        return node.store.staging_offset if slot.state is SlotState.STAGING else 0

    def stream_frames(self, offset):
        """Data frames of the stream from here on."""
        rest = self.image[offset:]
        return -(-len(compress(rest) if self.kind.is_compressed and rest else rest) // self.wire.data_bytes)

    @property
    def offer_frames(self):
        return -(-OFFER_BYTES // self.wire.data_bytes)

    def data_frames(self, frames):
        return sum(0 <= frame.can_id - self.wire.data_id < 64 for frame in frames)

    def data_frames_behind_the_last_offer(self):
        def is_offer(frame):
            request = self.wire.parse(frame)
            return isinstance(request, Request) and request.command is NodeCommand.BEGIN_TRANSFER

        sent = self.sent
        last = max(index for index, frame in enumerate(sent) if is_offer(frame))
        return self.data_frames(sent[last:])

    def check(self, events):
        """Every node has the image, verified."""
        for node in self.nodes:
            assert isinstance(self.of(events, node)[-1], ImageVerified), self.of(events, node)[-3:]
            assert node.flash.read(node.layout.slot_offsets[1], len(self.image)) == self.image
            assert node.store.slots[1].state is SlotState.STAGED


def cuts_of(bench_parts, kind):
    """Behind which frames to cut: all, or a sample with the first and the last."""
    flash = Flash(bench_parts, kind)
    flash.check(flash.run())
    total = flash.bench.frames
    return sorted({*range(1, total, 1 if LONG else kind.step), total - 1})


@pytest.mark.parametrize("name", KINDS)
def test_our_side_may_be_cut_at_any_frame(bench_parts, name):
    """The flasher disappears with what waits in its adapter; a new one goes on where each node stands."""
    kind = KINDS[name]
    resumed = set()
    for behind in cuts_of(bench_parts, kind):
        flash = Flash(bench_parts, kind)
        flash.run(cut=flash.bench.cut_client, behind=behind)
        stored = {node: flash.offset_stored(node) for node in flash.nodes}
        events = flash.run()
        flash.check(events)
        expected = flash.offer_frames * len(flash.nodes)
        for node in flash.nodes:
            said = flash.of(events, node)
            assert [event.offset for event in said if isinstance(event, TransferStarted)] == [stored[node]], behind
            assert not [event for event in said if isinstance(event, BlockRepeated | TransferInterrupted)], behind
            connected = next(event for event in said if isinstance(event, TargetConnected))
            if kind.is_locked and not connected.node.is_unlocked:
                expected += -(-SIGNATURE_BYTES // flash.wire.data_bytes)
        expected += flash.stream_frames(min(stored.values()))
        assert flash.data_frames(flash.sent) == expected, behind
        resumed |= set(stored.values())
    assert {0, len(flash.image)} <= resumed
    assert len(resumed) >= 3, "no cut came in the middle of the stream"


@pytest.mark.parametrize("name", KINDS)
def test_a_nodes_supply_may_fail_at_any_frame(bench_parts, name):
    """The same client finds it again and goes on; in a broadcast the others are not disturbed."""
    kind = KINDS[name]
    resumed = set()
    for behind in cuts_of(bench_parts, kind):
        flash = Flash(bench_parts, kind)
        node = flash.nodes[len(flash.nodes) // 2]
        events = flash.run(cut=lambda flash=flash, node=node: flash.bench.cut_power(node), behind=behind)
        flash.check(events)
        said = flash.of(events, node)
        offset = [event.offset for event in said if isinstance(event, TransferStarted)][-1]
        resumed.add(offset)
        assert offset % node.flash.erase_block_bytes == 0 or offset == len(flash.image)
        assert flash.data_frames_behind_the_last_offer() == flash.stream_frames(offset), behind
        assert not [event for event in said if isinstance(event, BlockRepeated)]
        for other in flash.nodes:
            if other is not node:
                said = flash.of(events, other)
                assert len([event for event in said if isinstance(event, TransferStarted)]) == 1, behind
                assert not [event for event in said if isinstance(event, BlockRepeated | TransferInterrupted)], behind
    assert {0, len(flash.image)} <= resumed
    assert len(resumed) >= 3 or len(flash.image) < 2 * flash.nodes[0].flash.erase_block_bytes
