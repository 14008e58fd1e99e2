"""The bootloader keeps what both flashing protocols promise (`flashing_contract`), on every wire, compressed, locked, as a broadcast."""

from __future__ import annotations

import hashlib
from random import Random
from typing import ClassVar
from zlib import crc32

import bootloader_rig
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flashing_contract import FlashingProfileContract, HostileBus, Hostility, Way, of
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from node import MS, SECOND, SLAVE_CLASS

from bmsota.boot import SlotState
from bmsota.bootloader import TargetLimits
from bmsota.bootloader._messages import Request, ResultReply
from bmsota.bootloader._offer import OFFER_BYTES, Offer
from bmsota.bootloader._target import _REPLIES_MAX
from bmsota.compression import compress
from bmsota.image import ImageVersion
from bmsota.node import SIGNATURE_BYTES, AccessDenied, AccessGuard, FailureCause, NodeCommand, TargetConnected

ACCESS_KEY = Ed25519PrivateKey.from_private_bytes(b"\x21" * 32)
WRONG_KEY = Ed25519PrivateKey.from_private_bytes(b"\x12" * 32)


def guard():
    return AccessGuard([ACCESS_KEY.public_key()], Random("guard").randbytes, delay_ns=SECOND, failures_max=3)


def never(message):
    raise AssertionError(message)


LOCKED = {"access": guard}
RIGHT_KEY = {"access_signer": ACCESS_KEY.sign}


def way(dbc="bms_bootloader", *, limits=None, is_locked=False, **options):
    """Blocks of 512 bytes and erase blocks of 1024 on every wire, so that there is something to lose in both."""
    is_compressible = options.get("is_compressible", False)
    limits = limits or TargetLimits(block_frames_max=8 if "fd" in dbc else 64)
    return Way(
        bench={"dbc": dbc},
        node={"limits": limits, **(LOCKED if is_locked else {})},
        client={"may_compress": is_compressible, **(RIGHT_KEY if is_locked else {})},
        command=RIGHT_KEY if is_locked else {},
        **options,
    )


def cut_way(dbc="bms_bootloader", size=900, **options):
    """Sizes and steps keep a run of all ways below half a minute."""
    return way(dbc, sizes=(100, size, 100), **options)


def hostile_way(dbc="bms_bootloader", size=1400, **options):
    limits = TargetLimits(block_frames_max=4 if dbc.endswith("fd") else 24, window_blocks=8)
    return way(dbc, sizes=(100, size, 100), limits=limits, **options)


class HostileBootloader(HostileBus):
    """Other flashers, some of them right in every detail; of what is being staged all is right; windows and queues have ends."""

    ways: ClassVar = {
        "classic": hostile_way(),
        "29-bit": hostile_way("bms_bootloader_29bit"),
        "fd": hostile_way("bms_bootloader_fd"),
        "compressed": hostile_way(size=3600, is_compressible=True),
        "locked": hostile_way(is_locked=True),
    }

    @rule(
        command=st.sampled_from(sorted(NodeCommand)),
        node=st.sampled_from([1, 2, 255, None]),
        tag_ahead=st.sampled_from([0, 1, 2, 100, 200]),
        number=st.integers(0, 255),
        offset=st.sampled_from([0, 192, 256, 384, 1024, 2**31]),
        flag=st.integers(0, 1),
        knows_boot=st.booleans(),
    )
    def another_flasher_asks(self, command, node, tag_ahead, number, offset, flag, knows_boot):
        """It knows the protocol, and maybe the node."""
        target = self.nodes[number % len(self.nodes)].target
        if target is None:
            return
        numbered = command in {NodeCommand.OPEN_BLOCK, NodeCommand.CHECK_BLOCK, NodeCommand.DISCOVER}
        group = target._offer.group if target._offer is not None else 200
        request = Request(
            group if node is None else node,
            command,
            number if numbered else (target._last_tag + tag_ahead) % 255 + 1,
            frames=number % 128,
            crc32=number,
            raise_counter=flag,
            boot_id=target._boot_id if knows_boot else 1,
            report_wanted=flag,
            offset=offset,
            repair=flag,
            protocol=2,
        )
        self.put_on_the_bus(self.bench.wire.serialize(request))

    def offer_of_other(self):
        return Offer(
            role=1,
            size_bytes=len(self.other),
            sha256=hashlib.sha256(self.other).digest(),
            class_id=SLAVE_CLASS.class_id,
            version=ImageVersion(2, 1, 1),
            security_counter=2,
            group=255,
            block_frames=4,
        )

    @rule(which=st.integers(0, 7))
    def another_flasher_offers_another_image(self, which):
        node = self.nodes[which % len(self.nodes)]
        if node.target is None:
            return
        offer = self.offer_of_other().serialize()
        frames = self.bench.wire.data_frames(offer)
        content = b"".join(frame.data for frame in frames)
        tag = node.target._last_tag % 255 + 1
        request = Request(node.position, NodeCommand.BEGIN_TRANSFER, tag, frames=len(frames), crc32=crc32(content))
        self.put_on_the_bus(*frames, self.bench.wire.serialize(request))

    @rule(which=st.integers(0, 7), ahead=st.integers(0, 3))
    def another_flasher_streams_another_image(self, which, ahead):
        """A block of it, with everything right for a stream of its own."""
        node = self.nodes[which % len(self.nodes)]
        stream = node.target._stream if node.target is not None else None
        if stream is None:
            return
        receiver = stream._receiver
        number = (receiver.next_block + ahead) % 255
        size = receiver._block_frames * self.bench.wire.data_bytes
        offset = stream.offset
        content = self.other[offset + number * size : offset + (number + 1) * size] or self.other[:size]
        frames = self.bench.wire.data_frames(content)
        crc = crc32(b"".join(frame.data for frame in frames), self.offer_of_other().stream_crc(offset))
        opened = Request(node.position, NodeCommand.OPEN_BLOCK, number, offset=offset)
        checked = Request(
            node.position, NodeCommand.CHECK_BLOCK, number, frames=len(frames), crc32=crc, report_wanted=1
        )
        self.put_on_the_bus(self.bench.wire.serialize(opened), *frames, self.bench.wire.serialize(checked))

    def stored_for_good(self, store, slot, image):
        return store.staging_offset if slot.state is SlotState.STAGING else super().stored_for_good(store, slot, image)

    @invariant()
    def nobody_holds_more_than_its_window(self):
        for node in self.powered():
            target = node.target
            assert len(target._replies) <= _REPLIES_MAX
            if target._stream is not None:
                blocks = target._stream._receiver._blocks
                assert len(blocks) <= 8
                assert all(len(block.frames) <= 24 for block in blocks.values())
            assert target._staging.held_bytes < 32
        stream = getattr(self.bench.client, "_stream", None)
        if stream is not None:
            assert len(stream._out) <= 8 * (24 + 4) + 16


class HostileBroadcast(HostileBootloader):
    """The same with three nodes."""

    ways: ClassVar = {
        name: Way(**{**vars(each), "positions": (1, 2, 3)}) for name, each in HostileBootloader.ways.items()
    }


# (loss, doubling, delay)
RATES = ((0.01, 0, 0), (0.2, 0, 0), (0, 0.2, 0.1), (0, 0.05, 0.3), (0.1, 0.1, 0.1), (0.05, 0.02, 0.02))


def hostility(number):
    loss, doubling, delay = RATES[number % len(RATES)]
    late_ns = (1 + number % 4) * 10 * MS
    return Hostility(seed=number, loss=loss, doubling=doubling, delay=delay, delay_ns_max=late_ns, gets_through=True)


class TestBootloader(FlashingProfileContract):
    Node = bootloader_rig.Node
    Bench = bootloader_rig.Bench
    power_ways: ClassVar = {
        "classic": way(pairs=40),
        "compressed": way(is_compressible=True),
        "fd": way("bms_bootloader_fd"),
        "broadcast": way(positions=(1, 2, 3)),
    }
    cut_ways: ClassVar = {
        "classic": cut_way(),
        "29-bit": cut_way("bms_bootloader_29bit", step=5),
        "fd": cut_way("bms_bootloader_fd", 4000, step=3),
        "fd 29-bit": cut_way("bms_bootloader_fd_29bit", 4000, step=7),
        "compressed": cut_way(size=3000, is_compressible=True, step=4),
        "fd compressed": cut_way("bms_bootloader_fd", 6000, is_compressible=True, step=5),
        "locked": cut_way(is_locked=True, step=5),
        "broadcast": cut_way(positions=(1, 2, 3), step=7),
        "broadcast fd": cut_way("bms_bootloader_fd", 4000, positions=(1, 2, 3), step=11),
        "broadcast compressed": cut_way(size=3000, is_compressible=True, positions=(1, 2, 3), step=13),
    }
    node_cut_ways = cut_ways
    both_cut_ways: ClassVar = {"classic": cut_way(step=5)}
    lossy_ways: ClassVar = {"classic": Way()}
    sleepy_ways: ClassVar = {
        "classic": Way(),
        "locked": cut_way(is_locked=True),
        "broadcast": Way(positions=(1, 2, 3)),
        "broadcast locked": cut_way(is_locked=True, positions=(1, 2, 3)),
    }
    hostile_ways: ClassVar = {"classic": way(sizes=(500, 3000, 500))}
    any_bus_ways: ClassVar = {"classic": way(sizes=(500, 700, 500))}
    hostilities = tuple(hostility(number) for number in range(24))
    machines = (HostileBootloader, HostileBroadcast)
    discovery_losses = tuple((number, 0.02) for number in range(10))
    locked = LOCKED
    unlocked: ClassVar = {}
    keys: ClassVar = {
        "right": RIGHT_KEY,
        "wrong": {"access_signer": WRONG_KEY.sign},
        "none": {"access_signer": None},
        "unused": {"access_signer": never},
    }
    command_frames_min = 19
    silence = "node 1 did not answer in 100 tries"

    def first_id(self, bench):
        return bench.wire.request_id & ~0xFF, bench.wire.is_extended_id

    def sent_units(self, scene, frames):
        """Data frames."""
        return sum(0 <= frame.can_id - scene.bench.wire.data_id < 64 for frame in frames)

    def rest_units(self, scene, image, offset):
        rest = image[offset:]
        return self._frames(scene, len(compress(rest) if scene.way.is_compressible and rest else rest))

    def opening_units(self, scene, said):
        offers = self._frames(scene, OFFER_BYTES)  # Once for all members of a broadcast.
        connected = [of(events, TargetConnected)[0] for events in said.values()]
        locked = sum("access" in scene.way.node and not event.node.is_unlocked for event in connected)
        return offers + self._frames(scene, SIGNATURE_BYTES) * locked

    def _frames(self, scene, size):
        return -(-size // scene.bench.wire.data_bytes)

    def is_offer(self, bench, frame):
        request = bench.wire.parse(frame)
        return isinstance(request, Request) and request.command is NodeCommand.BEGIN_TRANSFER

    def is_reset_answer(self, bench, frame):
        reply = bench.wire.parse(frame)
        return isinstance(reply, ResultReply) and reply.command == NodeCommand.RESET

    DETAILS: ClassVar = {
        FailureCause.ACCESS_NEEDED: "node 1 (HW-0001) is locked and no access key was given",
        FailureCause.ACCESS_DENIED: "node 1 (HW-0001): expected a signature by a key it knows, got another one",
    }

    def check_refusal(self, bench, failed):
        if failed.cause in self.DETAILS:
            assert failed.detail == self.DETAILS[failed.cause]
        if failed.cause is FailureCause.ACCESS_DENIED:
            assert bench.nodes[0].events[-1] == AccessDenied()
