"""Client and target on a hostile bus, driven by Hypothesis: whatever happens, nothing wrong is stored and nothing is stuck.

The bus loses, doubles, delays and spoils frames, for each listener on its own; an adapter gives its own frames back; other
nodes reply, and another flasher sends requests, some of them right in every detail; nodes lose their supply, also inside a
flash operation; the flasher is started anew. After each step:

* the image that boots normally is whole and signed;
* what is stored of an image that is being staged is the beginning of the very image that was offered, and what is staged is
  all of it;
* no exception but the flash model's power cut has come out of anything (any other ends the run);
* nobody holds more than its window and its queues.

And when the bus is good again, a flash goes through. A failing run prints its steps and a line `@reproduce_failure(...)` that
replays them; put it in front of the test.
"""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any
from zlib import crc32

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from long_run import LONG, seeds

from bmsota.boot import SlotState
from bmsota.bootloader import BootloaderClient, BroadcastClient, TargetLimits
from bmsota.bootloader._messages import Request
from bmsota.bootloader._offer import Offer
from bmsota.bootloader._target import _REPLIES_MAX
from bmsota.canframe import CanFrame
from bmsota.node import AccessGuard, ImageVerified, NodeCommand

pytestmark = pytest.mark.long
MS, SECOND = 1_000_000, 1_000_000_000
ACCESS_KEY = Ed25519PrivateKey.from_private_bytes(b"\x31" * 32)

# Any one of these is worse than a bus on which people would flash.
RATES = st.fixed_dictionaries(
    {},
    optional={
        "loss": st.sampled_from([0.01, 0.05, 0.2, 0.5]),
        "duplication": st.sampled_from([0.02, 0.2]),
        "delay": st.sampled_from([0.02, 0.2]),
        "corruption": st.sampled_from([0.005, 0.05]),
    },
)
KINDS = {
    "classic": ("bms_bootloader", {}),
    "29-bit": ("bms_bootloader_29bit", {}),
    "fd": ("bms_bootloader_fd", {}),
    "compressed": ("bms_bootloader", {"is_compressed": True}),
    "locked": ("bms_bootloader", {"is_locked": True}),
}


class HostileBus(RuleBasedStateMachine):
    """A flasher, its nodes and everything that can go wrong between them."""

    positions: tuple[int, ...] = (1,)
    parts: Any = None

    @initialize(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**32))
    def begin(self, kind, seed):
        parts = self.parts
        dbc, options = KINDS[kind]
        self.is_compressed, self.is_locked = options.get("is_compressed", False), options.get("is_locked", False)
        self.rng = Random(seed)
        self.old = parts.OLD()
        self.image = parts.make_image("2.1.0", counter=2, size=2600 if self.is_compressed else 1400)
        if self.is_compressed:
            self.image = self.compressible()
        self.other = parts.make_image("2.1.1", counter=2, size=1500)
        self.known = {hashlib.sha256(image).digest(): image for image in (self.old, self.image, self.other)}
        node_options = {"limits": TargetLimits(block_frames_max=4 if dbc.endswith("fd") else 24, window_blocks=8)}
        if self.is_locked:
            node_options["access"] = lambda: AccessGuard(
                [ACCESS_KEY.public_key()], self.rng.randbytes, delay_ns=SECOND, failures_max=3
            )
        self.nodes = [parts.Node(position, factory=self.old, **node_options) for position in self.positions]
        self.bench = parts.Bench(*self.nodes, seed=seed, dbc=dbc)
        self.wire = self.bench.wire
        self.rates = {}
        self.echoes = False
        self.bench.fault = self.on_the_wire
        self.bench.ear = self.heard
        self.bench.on_frame = self.echo
        self.new_client()

    def compressible(self):
        parts, rng = self.parts, Random("words")
        return parts.build_image(
            b"".join(rng.choice((b"alpha ", b"beta! ", b"gamma ")) for _ in range(600)),
            version=parts.ImageVersion(2, 1, 0),
            security_counter=2,
            hardware_class=parts.SLAVE_CLASS,
            role=parts.ImageRole.SLAVE,
            signing_key=parts.KEY,
        )

    def new_client(self):
        options = {"image": self.image, "may_compress": self.is_compressed}
        if self.is_locked:
            options["access_signer"] = ACCESS_KEY.sign
        if len(self.positions) == 1:
            self.client = BootloaderClient(self.wire, position=self.positions[0], **options)
        else:
            self.client = BroadcastClient(self.wire, positions=self.positions, **options)
        self.bench.client = self.client

    # ---- what the bus does to a frame

    def on_the_wire(self, _frame, rng):
        return (rng.randrange(15 * MS) if rng.random() < self.rates.get("delay", 0) else 0,)

    def heard(self, _listener, frame, _now_ns):
        rng, rates = self.rng, self.rates
        if rng.random() < rates.get("loss", 0):
            return []
        if rng.random() < rates.get("corruption", 0):
            data = bytearray(frame.data)
            data[rng.randrange(len(data))] = rng.randrange(256)
            frame = CanFrame(frame.can_id, bytes(data), frame.is_extended_id, frame.is_fd)
        return [frame] * (2 if rng.random() < rates.get("duplication", 0) else 1)

    def echo(self, frame):
        """What the adapter gives back. It does not tell whose frame it was, so a client hears its own."""
        if self.echoes and self.bench.client is not None:
            self.bench.client.receive_frame(frame, self.bench.now_ns)

    def put_on_the_bus(self, *frames):
        """From a stranger: for the flasher and all nodes to hear."""
        for frame in frames:
            self.bench._deliver(None, frame)

    # ---- rules

    @rule(steps=st.integers(1, 150), rates=RATES)
    def run_on_a_bad_bus(self, steps, rates):
        self.rates = rates
        self.go(steps)

    @rule(steps=st.integers(1, 250))
    def run_on_a_good_bus(self, steps):
        self.rates = {}
        self.go(steps)

    def go(self, steps):
        for _ in range(steps):
            if self.client.finished:
                self.new_client()
            self.bench.step(self.bench.now_ns + 120 * SECOND)

    @rule(echoes=st.booleans())
    def set_echo(self, echoes):
        self.echoes = echoes

    @rule(wait_ms=st.sampled_from([1, 60, 500, 70_000]))
    def the_flasher_is_held_up(self, wait_ms):
        """Its process sleeps; the nodes go on."""
        client, self.bench.client = self.bench.client, None
        end_ns = self.bench.now_ns + wait_ms * MS
        while self.bench.step(end_ns):
            pass
        self.bench.client = client

    @rule()
    def the_flasher_is_started_anew(self):
        self.bench.cut_client()
        self.new_client()

    @rule(which=st.integers(0, 7))
    def a_node_loses_its_supply(self, which):
        node = self.nodes[which % len(self.nodes)]
        if node.target is not None:
            self.bench.cut_power(node)

    @rule(which=st.integers(0, 7), operation=st.integers(1, 12), phase=st.sampled_from(["before", "inside", "after"]))
    def a_nodes_supply_will_fail(self, which, operation, phase):
        flash = self.nodes[which % len(self.nodes)].flash
        flash.cut_at(flash.operations + operation, phase)

    @rule(data=st.binary(min_size=8, max_size=8), offset=st.integers(0, 200), is_long=st.booleans())
    def a_stray_frame(self, data, offset, is_long):
        """On any id around ours, or the same number with the other kind of id."""
        can_id = (self.wire.request_id & ~0xFF) + offset
        self.put_on_the_bus(CanFrame(can_id, data, self.wire.is_extended_id is not is_long))

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
        self.put_on_the_bus(self.wire.serialize(request))

    def offer_of_other(self):
        return Offer(
            role=1,
            size_bytes=len(self.other),
            sha256=hashlib.sha256(self.other).digest(),
            class_id=self.parts.SLAVE_CLASS.class_id,
            version=self.parts.ImageVersion(2, 1, 1),
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
        frames = self.wire.data_frames(offer)
        content = b"".join(frame.data for frame in frames)
        tag = node.target._last_tag % 255 + 1
        request = Request(node.position, NodeCommand.BEGIN_TRANSFER, tag, frames=len(frames), crc32=crc32(content))
        self.put_on_the_bus(*frames, self.wire.serialize(request))

    @rule(which=st.integers(0, 7), ahead=st.integers(0, 3))
    def another_flasher_streams_another_image(self, which, ahead):
        """A block of it, with everything right for a stream of its own."""
        node = self.nodes[which % len(self.nodes)]
        stream = node.target._stream if node.target is not None else None
        if stream is None:
            return
        receiver = stream._receiver
        number = (receiver.next_block + ahead) % 255
        size = receiver._block_frames * self.wire.data_bytes
        offset = stream.offset
        content = self.other[offset + number * size : offset + (number + 1) * size] or self.other[:size]
        frames = self.wire.data_frames(content)
        crc = crc32(b"".join(frame.data for frame in frames), self.offer_of_other().stream_crc(offset))
        opened = Request(node.position, NodeCommand.OPEN_BLOCK, number, offset=offset)
        checked = Request(
            node.position, NodeCommand.CHECK_BLOCK, number, frames=len(frames), crc32=crc, report_wanted=1
        )
        self.put_on_the_bus(self.wire.serialize(opened), *frames, self.wire.serialize(checked))

    # ---- what must hold

    @invariant()
    def the_active_image_is_whole_and_signed(self):
        for node in self.powered():
            active = node.store.active_slot
            assert active is not None
            node.verify(node.store.read_slot(active))

    @invariant()
    def what_is_stored_is_what_was_offered(self):
        for node in self.powered():
            store = node.store
            slot = store.slots[store.spare_slot]
            if slot.state is SlotState.EMPTY:
                continue
            image = self.known[slot.sha256]
            stored = len(image) if slot.state is not SlotState.STAGING else store.staging_offset
            if slot.state is SlotState.BAD:
                stored = 0
            start = node.layout.slot_offsets[store.spare_slot]
            assert not stored or node.flash.read(start, stored) == image[:stored], (slot.state, stored)

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

    def powered(self):
        return [node for node in getattr(self, "nodes", ()) if node.target is not None]

    def teardown(self):
        """The bus is good again, and so is every supply: what is on trial is taken back, and the image goes over."""
        if not hasattr(self, "bench"):
            return
        self.rates, self.echoes = {}, False
        self.bench.client = None
        for node in self.nodes:
            node.flash.clear_cuts()
        for _ in range(
            2
        ):  # an image that somebody has let be tried runs after the first restart, and no more after the second
            for node in self.nodes:
                if node.target is not None:
                    self.bench.cut_power(node)
            self.bench.run(limit_s=1)
        self.new_client()
        events = [getattr(event, "event", event) for event in self.bench.run(self.client, limit_s=120)]
        verified = sum(isinstance(event, ImageVerified) for event in events)
        assert verified == len(self.nodes), events[-3:]
        self.the_active_image_is_whole_and_signed()
        self.what_is_stored_is_what_was_offered()
        for node in self.nodes:
            slots = [node.store.read_slot(slot) for slot in (0, 1)]
            assert self.image in slots


class HostileBroadcast(HostileBus):
    """The same with three nodes."""

    positions = (1, 2, 3)


@pytest.mark.parametrize("number", seeds(), ids="seed{}".format)
@pytest.mark.parametrize("machine", [HostileBus, HostileBroadcast])
def test_nothing_wrong_is_stored_and_nothing_is_stuck(bench_parts, machine, number):
    @seed(number)
    def make():
        found = machine()
        found.parts = bench_parts
        return found

    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=100 if LONG else 50,
            stateful_step_count=40 if LONG else 20,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
