"""What both flashing protocols promise, as one class of tests that each protocol subclasses with its own nodes and clients.

Power: compare tests/bmsota/boot/test_power_cuts.py, which does the same to the store alone.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from random import Random
from typing import Any, ClassVar

import node as rig
import pytest
from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from long_run import LONG, phases_at, seeds
from node import MS, SECOND, make_image

from bmsota.boot import BootReason, BootResult, SlotState
from bmsota.canframe import CanFrame
from bmsota.image import HardwareClass, ImageRole, ImageVersion
from bmsota.node import (
    FAILURES,
    BlockRepeated,
    CommandFailed,
    CommandSucceeded,
    ExpectedNode,
    FailureCause,
    ImageRefused,
    ImageReverted,
    ImageVerified,
    NodeCommand,
    NodeFound,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)

PHASES = ("before", "inside", "after")
VERSIONS = ("2.0.0", "2.1.0", "2.2.0")
OTHER_CLASS = HardwareClass.named("bmsota.example", "another")
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x0b" * 32)
RATE = st.sampled_from([0.0, 0.01, 0.03, 0.1])


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to flash; options go to every node, to the bench, and to every client of a transfer or of a command."""

    sizes: tuple[int, int, int] = (1100, 1300, 1200)
    """Payloads of the three versions; cuts of frames send the second."""
    is_compressible: bool = False
    positions: tuple[int, ...] = (1,)
    node: dict[str, Any] = field(default_factory=dict)
    bench: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    command: dict[str, Any] = field(default_factory=dict)
    pairs: int = 20
    """Of power cuts, drawn."""
    step: int = 1
    """Every so many frames one is cut behind; with BMSOTA_LONG=1 each."""
    frames_min: int = 0
    resumed_min: int = 3
    """At how many different offsets new clients have gone on."""

    def images(self) -> dict[str, bytes]:
        make = partial(make_image, is_compressible=self.is_compressible)
        return {version: make(version, size=size) for version, size in zip(VERSIONS, self.sizes, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Hostility:
    """Chances of each frame: lost, doubled, late by up to *delay_ns_max*, or with a flipped bit."""

    seed: int | str
    loss: float
    doubling: float
    delay: float
    corruption: float = 0
    delay_ns_max: int = 3 * MS
    gets_through: bool = False
    """The update succeeds on this very bus."""

    def fault(self, frame: CanFrame, rng: Random) -> tuple[int, ...]:
        draw = rng.random()
        if draw < self.loss:
            return ()
        late = rng.randrange(self.delay_ns_max) if rng.random() < self.delay else 0
        if draw < self.loss + self.doubling:
            return (late, rng.randrange(self.delay_ns_max))
        if draw < self.loss + self.doubling + self.corruption and frame.data:
            data = bytearray(frame.data)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            object.__setattr__(frame, "data", bytes(data))
        return (late,)


class Scene:
    """The nodes of one way on a bench of their own. `node`, the middle one, is the one that is struck."""

    def __init__(
        self, contract: Any, way: Way, *, flashes: dict[int, FlashModel] | None = None, **options: Any
    ) -> None:
        self.contract, self.way, self.images = contract, way, way.images()
        self.nodes = {
            position: contract.Node(
                position,
                factory=rig.OLD() if flashes is None else None,
                flash=None if flashes is None else copy.deepcopy(flashes[position]),
                **way.node,
            )
            for position in way.positions
        }
        self.position = way.positions[len(way.positions) // 2]
        self.node = self.nodes[self.position]
        for operation, phase in options.pop("cuts", ()):
            self.node.flash.cut_at(operation, phase)
        self.bench = contract.Bench(*self.nodes.values(), **way.bench, **options)

    def client(self, image: bytes, **options: Any) -> Any:
        return self.bench.transfer(image, *self.way.positions, **{**self.way.client, **options})

    def transfer(self, image: bytes, *, cut: Any = None, behind: int = 0, **options: Any) -> dict[int, list[Any]]:
        """A whole run of a new client; what was said of each node. *cut* is called behind so many frames."""
        left = [behind]

        def count(_frame: CanFrame) -> None:
            left[0] -= 1
            if not left[0]:
                cut()

        self.bench.on_frame = count if cut is not None else None
        events = self.bench.run(self.client(image), **options)
        self.bench.on_frame = None
        if len(self.nodes) == 1:
            return {self.position: list(events)}
        return {
            position: [event.event for event in events if event.position == position] for position in self.way.positions
        }

    def command(self, command: NodeCommand, **options: Any) -> Any:
        return self.bench.command(self.position, command, **{**self.way.command, **options})

    def update(self, version: str, *, limit_s: float | None = None, **options: Any) -> bool:
        """One whole update of the node as an operator does it; true if every step said that it succeeded."""
        wanted, image = ImageVersion.parse(version), self.images[version]
        said = self.transfer(image, limit_s=limit_s)
        # Nobody resumes on cells that a cut has torn: that would come out at the digest, and cost the whole image.
        if not options.pop("may_be_damaged", False):
            assert not any(
                "DAMAGED" in event.detail for each in said.values() for event in of(each, TransferInterrupted)
            )
        for position, each in said.items():
            if position != self.position:
                assert isinstance(of(each, ImageVerified | TransferFailed)[-1], ImageVerified)
        if not isinstance(of(said[self.position], ImageVerified | TransferFailed)[-1], ImageVerified):
            return False
        assert self.node.store.read_slot(self.node.store.spare_slot) == image
        return all(
            isinstance(self.command(command, expected_version=expected, **options), CommandSucceeded)
            for command, expected in (
                (NodeCommand.ACTIVATE_TEST, None),
                (NodeCommand.RESET, wanted),
                (NodeCommand.CONFIRM, wanted),
            )
        )

    def restart(self) -> None:
        self.bench.cut_power(self.node)
        self.bench.run(limit_s=2)

    def offset_stored(self, node: Any, image: bytes) -> int:
        """Up to where the node has this image."""
        slot = node.store.slots[1]
        if slot.state is SlotState.STAGED:
            return len(image)
        return node.store.staging_offset if slot.state is SlotState.STAGING else 0

    def check(self, said: dict[int, list[Any]], image: bytes) -> None:
        """Every node has the image, verified."""
        for position, node in self.nodes.items():
            assert isinstance(said[position][-1], ImageVerified), said[position][-3:]
            assert node.stored(len(image)) == image
            assert node.store.slots[1].state is SlotState.STAGED


def of(events: list[Any], kind: Any) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@cache
def new_flash(position: int, image: bytes) -> FlashModel:
    """A small flash with this image from the factory; to be copied."""
    flash = FlashModel(8 * 1024, erase_block_bytes=512, seed=f"slave {position}")
    rig.Node(position, factory=image, flash=flash)
    return flash


class HostileBus(RuleBasedStateMachine):
    """A flasher, its nodes and everything that can go wrong between them.

    The bus loses, doubles, delays and spoils frames, for each listener on its own; an adapter gives its own frames back;
    strangers send; nodes lose their supply, also inside a flash operation; the flasher is started anew. After each step:

    * the image that boots normally is whole and signed;
    * what is staged is the whole image that was offered;
    * no exception but the flash model's power cut has come out of anything (any other ends the run).

    And when the bus is good again, a flash goes through. A failing run prints its steps and a line
    `@reproduce_failure(...)` that replays them; put it in front of the test.
    """

    contract: Any = None
    ways: ClassVar[dict[str, Way]] = {}
    examples = 50
    offers_have_a_check = True
    """Whether a spoiled offer is noticed at once; otherwise a digest that nobody offered may be staged, until the end."""

    RATES = st.fixed_dictionaries(
        {},
        # Any one of these is worse than a bus on which people would flash.
        optional={
            "loss": st.sampled_from([0.01, 0.05, 0.2, 0.5]),
            "duplication": st.sampled_from([0.02, 0.2]),
            "delay": st.sampled_from([0.02, 0.2]),
            "corruption": st.sampled_from([0.005, 0.05]),
        },
    )

    @initialize(kind=st.integers(0, 59), seed=st.integers(0, 2**32))
    def begin(self, kind, seed):
        names = sorted(self.ways)
        self.way = self.ways[names[kind % len(names)]]
        self.rng = Random(seed)
        self.scene = Scene(self.contract, self.way, seed=seed)
        self.old, self.image = rig.OLD(), self.way.images()["2.1.0"]
        self.other = make_image("2.1.1", size=1500)
        self.known = {hashlib.sha256(image).digest(): image for image in (self.old, self.image, self.other)}
        self.nodes, self.bench = list(self.scene.nodes.values()), self.scene.bench
        self.rates = {}
        self.echoes = False
        self.bench.fault = self.on_the_wire
        self.bench.ear = self.heard
        self.bench.on_frame = self.echo
        self.new_client()

    def new_client(self):
        self.client = self.bench.client = self.scene.client(self.image)

    # ---- what the bus does to a frame

    def on_the_wire(self, _frame, rng):
        return (rng.randrange(15 * MS) if rng.random() < self.rates.get("delay", 0) else 0,)

    def heard(self, _listener, frame, _now_ns):
        rng, rates = self.rng, self.rates
        if rng.random() < rates.get("loss", 0):
            return []
        if frame.data and rng.random() < rates.get("corruption", 0):
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

    @rule(which=st.integers(0, 7), operation=st.integers(1, 12), phase=st.sampled_from(PHASES))
    def a_nodes_supply_will_fail(self, which, operation, phase):
        flash = self.nodes[which % len(self.nodes)].flash
        flash.cut_at(flash.operations + operation, phase)

    @rule(data=st.binary(min_size=8, max_size=8), offset=st.integers(0, 200), is_long=st.booleans())
    def a_stray_frame(self, data, offset, is_long):
        """On any id around ours, or the same number with the other kind of id."""
        first, is_extended = self.contract.first_id(self.bench)
        self.put_on_the_bus(CanFrame(first + offset, data, is_extended is not is_long))

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
            if slot.sha256 not in self.known:
                assert not self.offers_have_a_check
                assert slot.state in {SlotState.BAD, SlotState.STAGING}
                continue
            image = self.known[slot.sha256]
            stored = self.stored_for_good(store, slot, image)
            start = node.layout.slot_offsets[store.spare_slot]
            assert not stored or node.flash.read(start, stored) == image[:stored], (slot.state, stored)

    def stored_for_good(self, _store, slot, image):
        """How much of *image* must be in the slot, byte for byte."""
        return 0 if slot.state in {SlotState.BAD, SlotState.STAGING} else len(image)

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
        # An image that somebody has let be tried runs after the first restart, and no more after the second.
        for _ in range(2):
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
            assert self.image in [node.store.read_slot(slot) for slot in (0, 1)]


class FlashingProfileContract(ABC):
    """The promises. A subclass names its protocol's nodes, its bench, and the ways in which each promise is kept."""

    Node: Any
    Bench: Any
    power_ways: ClassVar[dict[str, Way]]
    cut_ways: ClassVar[dict[str, Way]]
    node_cut_ways: ClassVar[dict[str, Way]]
    both_cut_ways: ClassVar[dict[str, Way]]
    lossy_ways: ClassVar[dict[str, Way]]
    sleepy_ways: ClassVar[dict[str, Way]]
    sleeps_ms: ClassVar[tuple[int, ...]] = (50, 200, 1000, 6000)
    """How long the flasher's host may stand still in `sleepy_ways`."""
    hostile_ways: ClassVar[dict[str, Way]]
    any_bus_ways: ClassVar[dict[str, Way]]
    hostilities: ClassVar[tuple[Hostility, ...]]
    machines: ClassVar[tuple[type[HostileBus], ...]]
    discovery_losses: ClassVar[tuple[tuple[int | str, float], ...]]
    locked: ClassVar[dict[str, Any]]
    """Options of a locked node."""
    unlocked: ClassVar[dict[str, Any]]
    keys: ClassVar[dict[str, dict[str, Any]]]
    """Options of a client with the right key, a wrong one and none, and one that must not be asked."""
    command_frames_min: int
    """What a command takes at least, so that there is something to strike."""
    silence: str
    """What a client says of node 1 that never answers."""

    def pytest_generate_tests(self, metafunc):
        for name, values in (
            ("power_way", self.power_ways),
            ("cut_way", self.cut_ways),
            ("node_cut_way", self.node_cut_ways),
            ("both_cut_way", self.both_cut_ways),
            ("lossy_way", self.lossy_ways),
            ("sleepy_way", self.sleepy_ways),
            ("hostile_way", self.hostile_ways),
            ("any_bus_way", self.any_bus_ways),
            ("hostility", {str(each.seed): each for each in self.hostilities}),
            ("machine", {each.__name__: each for each in self.machines}),
            ("discovery_loss", {str(each[0]): each for each in self.discovery_losses}),
        ):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, list(values.values()), ids=list(values))

    # ---- what a subclass says of its protocol

    @abstractmethod
    def first_id(self, bench: Any) -> tuple[int, bool]:
        """Where stray frames begin, and whether these are 29-bit ids."""

    @abstractmethod
    def sent_units(self, scene: Scene, frames: list[CanFrame]) -> int:
        """How much of images these frames carry, in the unit of `rest_units`."""

    @abstractmethod
    def rest_units(self, scene: Scene, image: bytes, offset: int) -> int:
        """What it takes to send *image* from *offset* on."""

    def opening_units(self, scene: Scene, said: dict[int, list[Any]]) -> int:
        """What else `sent_units` counts of a run."""
        return 0

    @abstractmethod
    def is_offer(self, bench: Any, frame: CanFrame) -> bool:
        """The frame with which the node is asked where to go on."""

    @abstractmethod
    def is_reset_answer(self, bench: Any, frame: CanFrame) -> bool:
        """Whether it is the node's answer to a reset."""

    @abstractmethod
    def check_refusal(self, bench: Any, failed: Any) -> None:
        """More of what this protocol says when it refuses."""

    # ---- helpers

    def one(self, **options: Any) -> Scene:
        return Scene(self, Way(node=self.unlocked, **options))

    def failed(self, said: dict[int, list[Any]], cause: FailureCause) -> Any:
        event = said[1][-1]
        assert isinstance(event, TransferFailed), event
        assert event.cause is cause
        failure = FAILURES[cause]
        assert (event.permanent, event.safe_to_run_again) == (failure.permanent, failure.safe_to_run_again)
        return event

    # ---- power

    def flashes(self, way: Way) -> dict[int, FlashModel]:
        return {position: new_flash(position, way.images()["2.0.0"]) for position in way.positions}

    def operations(self, way: Way) -> range:
        """The numbers of the flash operations of one undisturbed update."""
        scene = Scene(self, way, flashes=self.flashes(way))
        first = scene.node.flash.operations + 1
        assert scene.update("2.1.0")
        return range(first, scene.node.flash.operations + 1)

    def run_with_cuts(self, way: Way, *cuts: tuple[int, str]) -> tuple[bool, int]:
        """One update with these cuts; afterwards the node is checked and updated once more."""
        scene = Scene(self, way, flashes=self.flashes(way), cuts=cuts)
        node = scene.node
        succeeded = scene.update("2.1.0")
        scene.bench.run(limit_s=2)
        happened = len(node.boots) - 1
        node.flash.clear_cuts()
        scene.restart()
        assert node.boot.slot is not None, f"{cuts}: neither image boots"
        assert node.running_version in {"2.0.0", "2.1.0"}, cuts
        if succeeded:
            assert (node.running_version, node.boot.reason) == ("2.1.0", BootReason.NORMAL), cuts
        assert all(str(boot.facts.version) in {"2.0.0", "2.1.0"} for boot in node.boots), cuts
        for other in scene.nodes.values():
            if other is not node:
                assert len(other.boots) == 1
                assert other.store.slots[1].state is SlotState.STAGED
        assert scene.update("2.2.0"), cuts
        scene.restart()
        assert (node.running_version, node.boot.reason) == ("2.2.0", BootReason.NORMAL), cuts
        assert node.store.security_counter == 3
        return succeeded, happened

    @pytest.mark.long
    @pytest.mark.slow
    def test_power_may_fail_at_any_flash_operation_of_an_update(self, power_way):
        """Old image or new image, never neither: every operation, before, inside or after it, and the next update works."""
        operations = self.operations(power_way)
        assert len(operations) >= 15
        outcomes = []
        for index, operation in enumerate(operations):
            for phase in phases_at(index, PHASES):
                succeeded, happened = self.run_with_cuts(power_way, (operation, phase))
                assert happened >= 1
                outcomes.append(succeeded)
        # Only a cut between the request of the test boot and the confirmation costs the update: the node must revert then.
        # Those are three changes of the journal, each made twice, and the renewal of both its areas.
        assert outcomes.count(False) <= 16

    @pytest.mark.long
    @pytest.mark.slow
    def test_power_may_fail_twice_during_an_update(self, power_way):
        """Pairs drawn from a seed, the second cut up to 15 operations after the first; with BMSOTA_LONG=1 every such pair."""
        operations = self.operations(power_way)
        rng = Random("slave pairs")
        later = range(1, 16)
        drawn = range(power_way.pairs)
        pairs = [(rng.choice(operations), rng.choice(PHASES), rng.choice(later), rng.choice(PHASES)) for _ in drawn]
        for first, phase, after, second_phase in product(operations, PHASES, later, PHASES) if LONG else pairs:
            self.run_with_cuts(power_way, (first, phase), (first + after, second_phase))

    # ---- cuts of either side: only the rest is sent again

    def cuts(self, way: Way, image: bytes) -> list[int]:
        """Behind which frames to cut: all, or a sample with the first and the last ones, when each node answers for itself."""
        scene = Scene(self, way)
        scene.check(scene.transfer(image), image)
        total = len(scene.bench.frames)
        assert total > way.frames_min
        return sorted({*range(1, total, 1 if LONG else way.step), *range(total - 1 - len(way.positions), total)})

    @pytest.mark.long
    @pytest.mark.slow
    def test_our_side_may_be_cut_at_any_frame(self, cut_way):
        """The flasher disappears with what waits in its adapter; a new one goes on where each node stands, to the frame."""
        image = cut_way.images()["2.1.0"]
        resumed = set()
        for behind in self.cuts(cut_way, image):
            scene = Scene(self, cut_way)
            scene.transfer(image, cut=scene.bench.cut_client, behind=behind)
            scene.bench.run(limit_s=1)
            stored = {position: scene.offset_stored(node, image) for position, node in scene.nodes.items()}
            said = scene.transfer(image)
            scene.check(said, image)
            for position, events in said.items():
                assert [event.offset for event in of(events, TransferStarted)] == [stored[position]], behind
                assert not of(events, BlockRepeated | TransferInterrupted), behind
            expected = self.opening_units(scene, said) + self.rest_units(scene, image, min(stored.values()))
            assert self.sent_units(scene, scene.bench.sent) == expected, behind
            resumed |= set(stored.values())
        assert {0, len(image)} <= resumed
        assert len(resumed) >= cut_way.resumed_min, "too few cuts came in the middle of the image"

    @pytest.mark.long
    @pytest.mark.slow
    def test_a_nodes_supply_may_fail_at_any_frame(self, node_cut_way):
        """The same client finds it again and goes on at a whole erase block; the others of a broadcast are not disturbed."""
        image = node_cut_way.images()["2.1.0"]
        resumed = set()
        for behind in self.cuts(node_cut_way, image):
            scene = Scene(self, node_cut_way)
            node = scene.node
            said = scene.transfer(image, cut=partial(scene.bench.cut_power, node), behind=behind)
            sent = scene.bench.sent
            scene.bench.run(limit_s=1)
            scene.check(said, image)
            offset = of(said[scene.position], TransferStarted)[-1].offset
            resumed.add(offset)
            assert offset % node.flash.erase_block_bytes == 0 or offset == len(image)
            last = max(index for index, frame in enumerate(sent) if self.is_offer(scene.bench, frame))
            assert self.sent_units(scene, sent[last:]) == self.rest_units(scene, image, offset), behind
            for position, events in said.items():
                if position != scene.position:
                    assert len(of(events, TransferStarted)) == 1, behind
                    assert not of(events, BlockRepeated | TransferInterrupted), behind
        assert {0, len(image)} <= resumed
        assert len(resumed) >= 3 or len(image) < 2 * scene.node.flash.erase_block_bytes

    @pytest.mark.long
    @pytest.mark.slow
    def test_both_sides_may_be_cut_at_any_frame(self, both_cut_way):
        """A new client goes on at the last whole erase block of what the node had, and sends the rest and no more."""
        image = both_cut_way.images()["2.1.0"]
        for behind in self.cuts(both_cut_way, image):
            scene = Scene(self, both_cut_way)
            scene.transfer(image, cut=scene.bench.cut_client, behind=behind)
            stored = scene.offset_stored(scene.node, image)
            scene.bench.cut_power(scene.node)
            said = scene.transfer(image)
            scene.check(said, image)
            whole = stored if stored == len(image) else stored - stored % scene.node.flash.erase_block_bytes
            assert [event.offset for event in of(said[1], TransferStarted)] == [whole], behind
            expected = self.opening_units(scene, said) + self.rest_units(scene, image, whole)
            assert self.sent_units(scene, scene.bench.sent) == expected, behind

    # ---- a bad bus

    @pytest.mark.parametrize("copies", [(), (0, 0)], ids=["lost", "doubled"])
    @pytest.mark.slow
    def test_any_one_frame_of_a_transfer_may_be_lost_or_doubled(self, lossy_way, copies):
        """Each frame of both sides in turn; a loss does not even break the transfer off."""
        image = make_image(size=300)
        for index in range(len(self.frames_of(lossy_way, image))):
            scene = Scene(self, lossy_way)
            self.strike(scene.bench, index, copies)
            said = scene.transfer(image)
            scene.check(said, image)
            assert copies or not of(said[1], TransferInterrupted), index

    @pytest.mark.parametrize("seed", range(20))
    def test_a_host_that_stands_still_now_and_then_costs_time_and_nothing_else(self, sleepy_way, seed):
        """On a busy machine our process gets no time; what has come meanwhile it takes in one go, behind its deadlines."""

        def sleep(rng: Random) -> int:
            return rng.choice(self.sleeps_ms) * MS if rng.random() < 0.2 else 0

        scene = Scene(self, sleepy_way, seed=seed)
        scene.bench.sleep = sleep
        image = make_image(size=300)
        scene.check(scene.transfer(image, limit_s=3600), image)

    def frames_of(self, way: Way, image: bytes) -> list[CanFrame]:
        scene = Scene(self, way)
        scene.check(scene.transfer(image), image)
        return scene.bench.frames

    @staticmethod
    def strike(bench: Any, index: int, copies: tuple[int, ...]) -> None:
        """The frame with this number arrives so often."""
        count = iter(range(1_000_000))
        bench.fault = lambda _frame, _rng: copies if next(count) == index else (0,)

    @pytest.mark.parametrize(
        "command",
        [NodeCommand.ACTIVATE_TEST, NodeCommand.CONFIRM, NodeCommand.REVERT, NodeCommand.RESET],
        ids=lambda command: command.name,
    )
    @pytest.mark.slow
    def test_any_one_frame_of_a_command_may_be_lost_or_doubled(self, lossy_way, command):
        """Above all: however the answer to a reset is lost, the node restarts once, and its trial goes on."""
        image = make_image(size=100)
        staged = Scene(self, lossy_way)
        staged.check(staged.transfer(image), image)

        def prepared():
            scene = Scene(self, lossy_way, flashes={1: staged.node.flash})
            if command is not NodeCommand.ACTIVATE_TEST:
                scene.command(NodeCommand.ACTIVATE_TEST)
            if command in {NodeCommand.CONFIRM, NodeCommand.REVERT}:
                scene.command(NodeCommand.RESET)
            scene.bench.frames.clear()
            return scene

        scene = prepared()
        assert isinstance(scene.command(command), CommandSucceeded)
        total, boots = len(scene.bench.frames), len(scene.node.boots)
        slots = [slot.state for slot in scene.node.store.slots]
        assert total >= self.command_frames_min
        for copies, index in product(((), (0, 0)), range(total)):
            scene = prepared()
            self.strike(scene.bench, index, copies)
            assert isinstance(scene.command(command), CommandSucceeded), (index, copies)
            assert len(scene.node.boots) == boots, (index, copies)
            assert [slot.state for slot in scene.node.store.slots] == slots, (index, copies)
            if command is NodeCommand.REVERT:
                assert scene.node.events.count(ImageReverted()) == 1

    def test_a_reset_whose_answers_are_lost_happens_once(self):
        """A second restart would end the image's test: whether the first has happened is asked instead."""
        scene = self.one()
        scene.check(scene.transfer(rig.NEW()), rig.NEW())
        scene.command(NodeCommand.ACTIVATE_TEST)
        lost = []

        def fault(frame, _rng):
            if len(scene.node.boots) == 1 and self.is_reset_answer(scene.bench, frame):
                lost.append(frame)
                return ()
            return (0,)

        scene.bench.fault = fault
        event = scene.command(NodeCommand.RESET, expected_version=ImageVersion(2, 1))
        assert isinstance(event, CommandSucceeded)
        assert lost
        assert len(scene.node.boots) == 2
        assert event.node.boot_reason is BootReason.TEST

    def update_on(self, way: Way, hostility: Hostility, cuts: Any = ()) -> None:
        """An update on this bus, with power cuts after so many flash operations, and another one on a good bus if need be."""
        scene = Scene(self, way, flashes=self.flashes(way), seed=hostility.seed)
        node, bench = scene.node, scene.bench
        bench.fault = hostility.fault
        for cut in cuts:
            node.flash.cut_at(node.flash.operations + cut, "inside")
        options = {"may_be_damaged": True, "limit_s": 600}
        succeeded = scene.update("2.1.0", **options)
        assert succeeded or not hostility.gets_through
        if hostility.gets_through:
            assert node.running_version == "2.1.0"
            assert node.store.slots[1].state is SlotState.CONFIRMED
        bench.fault = None
        node.flash.clear_cuts()
        bench.run(limit_s=12)  # Sessions and delays run out.
        assert all(boot.facts is not None for boot in node.boots), "a node without an image"
        assert all(str(boot.facts.version) in {"2.0.0", "2.1.0"} for boot in node.boots)
        if node.store.is_test_pending:
            scene.restart()
        if node.running_version != "2.1.0":
            assert scene.update("2.1.0", **options)
        elif node.store.security_counter != 2:
            wanted = ImageVersion(2, 1)
            assert isinstance(scene.command(NodeCommand.CONFIRM, expected_version=wanted), CommandSucceeded)
        scene.restart()
        assert node.running_version == "2.1.0"
        assert node.store.security_counter == 2

    @pytest.mark.slow
    def test_a_bad_bus_costs_time_and_nothing_else(self, hostile_way, hostility):
        """Frames are lost, doubled, reordered, spoilt. Replay: the name is the seed."""
        self.update_on(hostile_way, hostility)

    @pytest.mark.slow
    def test_any_bus_and_any_power(self, any_bus_way):
        @settings(max_examples=40, deadline=None)
        @given(
            number=st.integers(0, 2**32),
            rates=st.tuples(RATE, RATE, RATE, RATE),
            cuts=st.lists(st.integers(1, 40), max_size=3),
        )
        def check(number, rates, cuts):
            loss, doubling, delay, corruption = rates
            hostility = Hostility(seed=number, loss=loss, doubling=doubling, delay=delay, corruption=corruption)
            self.update_on(any_bus_way, hostility, cuts)

        check()

    @pytest.mark.long
    @pytest.mark.slow
    @pytest.mark.parametrize("number", seeds(), ids="seed{}".format)
    def test_nothing_wrong_is_stored_and_nothing_is_stuck(self, machine, number):
        @seed(number)
        def make():
            found = machine()
            found.contract = self
            return found

        run_state_machine_as_test(
            make,
            settings=settings(
                max_examples=machine.examples * 2 if LONG else machine.examples,
                stateful_step_count=40 if LONG else 20,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )

    # ---- nodes that do not answer

    def test_a_silent_node(self):
        bench = self.Bench()
        failed = self.failed({1: bench.run(bench.transfer(rig.NEW(), 1))}, FailureCause.NODE_SILENT)
        assert (failed.node, failed.next_offset) == (None, 0)
        assert failed.detail == self.silence
        assert len(bench.sent) == 100
        for command in (NodeCommand.DISCOVER, NodeCommand.CONFIRM):
            event = bench.command(1, command)
            assert isinstance(event, CommandFailed)
            assert (event.cause, event.permanent) == (FailureCause.NODE_SILENT, False)
            assert event.detail == self.silence

    def test_a_node_that_falls_silent_for_ever(self):
        scene = self.one()
        client = scene.client(rig.NEW(), **self.small_blocks)
        offsets = []

        def fall_silent(_frame):
            if 0 < client.next_offset < len(rig.NEW()) and not offsets:
                offsets.append(client.next_offset)
                scene.node.power_off()

        scene.bench.on_frame = fall_silent
        failed = self.failed({1: scene.bench.run(client)}, FailureCause.NODE_SILENT)
        assert [failed.next_offset] == offsets
        assert failed.node is not None

    @pytest.mark.slow
    def test_a_node_that_never_gets_further_is_given_up(self):
        """It loses its supply again and again before an erase block is whole, so none of it counts."""
        scene = self.one(sizes=(3000, 3000, 3000))
        node = self.Node(factory=rig.OLD(), flash=FlashModel(32 * 1024, erase_block_bytes=2048), **scene.way.node)
        bench = self.Bench(node)
        seen = []

        def cut(frame):
            if node.target is not None and node.store.staging_offset >= 1024:
                seen.append(frame)
                bench.cut_power(node)

        bench.on_frame = cut
        self.failed({1: bench.run(bench.transfer(rig.NEW(), 1, **self.small_blocks))}, FailureCause.NO_PROGRESS)
        assert 8 <= len(seen) <= 10
        bench.on_frame = None
        bench.run(limit_s=1)
        assert node.running_version == "2.0.0"
        assert isinstance(bench.run(bench.transfer(rig.NEW(), 1))[-1], ImageVerified)

    small_blocks: ClassVar[dict[str, Any]] = {}
    """Options of a client that sends less than 1024 bytes at a time."""

    def test_a_node_that_does_not_come_back_from_a_reset_is_reported(self):
        scene = self.one()
        scene.node.restart_ns = 3600 * SECOND
        event = scene.command(NodeCommand.RESET)
        assert isinstance(event, CommandFailed)
        assert (event.cause, event.command) == (FailureCause.NODE_SILENT, NodeCommand.RESET)
        assert event.node.version == ImageVersion(2, 0)

    def test_an_unconfirmed_image_is_reverted_by_the_next_boot(self):
        """Whoever confirms the new image then is told that the old one runs; it can be tried again."""
        scene = self.one()
        wanted = ImageVersion(2, 1)
        scene.check(scene.transfer(rig.NEW()), rig.NEW())
        scene.command(NodeCommand.ACTIVATE_TEST)
        assert scene.command(NodeCommand.RESET).node.version == wanted
        scene.restart()
        event = scene.command(NodeCommand.CONFIRM, expected_version=wanted)
        assert isinstance(event, CommandFailed)
        assert (event.cause, event.detail) == (
            FailureCause.WRONG_VERSION,
            "CONFIRM: expected version 2.1.0, got 2.0.0",
        )
        assert event.node.boot_reason is BootReason.REVERTED
        assert (scene.node.running_version, scene.node.store.security_counter) == ("2.0.0", 1)
        assert isinstance(scene.command(NodeCommand.ACTIVATE_TEST), CommandSucceeded), "it is still staged"

    # ---- access

    def test_with_the_right_key_a_locked_node_is_updated(self):
        scene = Scene(self, Way(node=self.locked, client=self.keys["right"], command=self.keys["right"]))
        assert scene.update("2.1.0")
        assert (scene.node.running_version, scene.node.store.security_counter) == ("2.1.0", 2)

    @pytest.mark.parametrize(
        ("key", "cause"), [("none", FailureCause.ACCESS_NEEDED), ("wrong", FailureCause.ACCESS_DENIED)]
    )
    def test_without_the_right_key_nothing_is_written(self, key, cause):
        scene = Scene(self, Way(node=self.locked, client=self.keys[key], command=self.keys[key]))
        operations = scene.node.flash.operations
        failed = self.failed(scene.transfer(rig.NEW()), cause)
        self.check_refusal(scene.bench, failed)
        event = scene.command(NodeCommand.ACTIVATE_TEST)
        assert isinstance(event, CommandFailed)
        assert (event.cause, event.detail) == (cause, failed.detail)
        assert scene.node.flash.operations == operations
        right = scene.bench.transfer(rig.NEW(), 1, **self.keys["right"])
        assert isinstance(scene.bench.run(right)[-1], ImageVerified)

    @pytest.mark.parametrize("key", ["none", "unused"])
    def test_an_open_node_asks_for_no_key(self, key):
        scene = Scene(self, Way(node=self.unlocked, client=self.keys[key]))
        scene.check(scene.transfer(rig.NEW()), rig.NEW())

    # ---- discovery

    def found(self, bench: Any, **options: Any) -> dict[int, Any]:
        discovery = bench.discovery(**options)
        events = bench.run(discovery)
        assert all(isinstance(event, NodeFound) for event in events)
        assert {event.node.position for event in events} == set(discovery.nodes)
        return discovery.nodes

    def test_nodes_are_found_on_a_lossy_bus(self, discovery_loss):
        number, loss = discovery_loss
        nodes = [self.Node(position, factory=rig.OLD()) for position in range(8)]
        bench = self.Bench(*nodes, seed=number)
        bench.fault = lambda _frame, rng: () if rng.random() < loss else (0,)
        found = self.found(bench, positions=range(8))
        assert {position: node.hwid for position, node in found.items()} == {at: f"HW-{at:04d}" for at in range(8)}

    def test_discovery_says_which_bytes_run(self):
        """The digest of the whole file, as a release manifest has it: of the new image after its test boot, zeros read as none."""
        scene = self.one()
        assert self.found(scene.bench)[1].image_sha256 == hashlib.sha256(rig.OLD()).digest()
        other_build = make_image("2.0.0", counter=1, size=3001)
        assert isinstance(scene.bench.run(scene.bench.transfer(other_build, 1))[-1], ImageVerified)
        assert isinstance(scene.bench.command(1, NodeCommand.ACTIVATE_TEST), CommandSucceeded)
        assert isinstance(scene.bench.command(1, NodeCommand.RESET), CommandSucceeded)
        node = self.found(scene.bench)[1]
        assert (node.version, node.image_sha256) == (ImageVersion(2), hashlib.sha256(other_build).digest())
        assert not node.runs(ImageVersion(2), hashlib.sha256(rig.OLD()).digest())
        scene.node.boot = BootResult(None, BootReason.NOTHING, None)
        scene.node.target = scene.node.new_target(scene.bench.wire)
        assert self.found(scene.bench)[1].image_sha256 is None

    def test_an_empty_bus_ends_the_search(self):
        bench = self.Bench()
        begin_ns = bench.now_ns
        assert self.found(bench) == {}
        assert bench.now_ns - begin_ns < SECOND
        assert self.found(bench, positions=[4]) == {}

    def test_discovery_changes_nothing(self):
        scene = self.one()
        operations = scene.node.flash.operations
        assert set(self.found(scene.bench)) == {1}
        assert scene.node.flash.operations == operations
        assert scene.node.events == []

    # ---- refusals

    @pytest.mark.parametrize(
        ("cause", "options", "hwid"),
        [
            (FailureCause.WRONG_HARDWARE, {"hardware": OTHER_CLASS}, None),
            (FailureCause.WRONG_ROLE, {"role": ImageRole.MASTER}, None),
            (FailureCause.COUNTER_TOO_LOW, {"version": "1.0.0", "counter": 0}, None),
            (FailureCause.TOO_LARGE, {"size": 8000}, None),
            (FailureCause.WRONG_NODE, {}, "HW-0002"),
        ],
    )
    def test_a_wrong_image_is_refused_before_the_first_erase(self, cause, options, hwid):
        scene = self.one()
        operations = scene.node.flash.operations
        role, hardware = ImageRole.SLAVE, rig.SLAVE_CLASS
        expected = None if hwid is None else ExpectedNode(hardware_class=hardware, role=role, hwid=hwid)
        failed = self.failed({1: scene.bench.run(scene.client(make_image(**options), expected=expected))}, cause)
        assert failed.permanent
        assert failed.node.hwid == "HW-0001"
        assert scene.node.flash.operations == operations
        self.check_refusal(scene.bench, failed)

    @pytest.mark.parametrize("is_reverted", [False, True])
    def test_an_image_under_test_is_not_overwritten(self, is_reverted):
        """It keeps its fallback, also while it still runs after it was reverted."""
        scene = self.one()
        scene.check(scene.transfer(rig.NEW()), rig.NEW())
        scene.command(NodeCommand.ACTIVATE_TEST)
        scene.command(NodeCommand.RESET)
        if is_reverted:
            scene.command(NodeCommand.REVERT)
        operations = scene.node.flash.operations
        failed = self.failed(scene.transfer(make_image("2.2.0")), FailureCause.TEST_PENDING)
        assert scene.node.flash.operations == operations
        self.check_refusal(scene.bench, failed)

    def test_an_image_of_an_unknown_signer_is_refused_at_the_end_and_never_runs(self):
        scene = self.one()
        failed = self.failed(scene.transfer(make_image(key=STRANGER)), FailureCause.NOT_TRUSTED)
        self.check_refusal(scene.bench, failed)
        assert isinstance(scene.node.events[-1], ImageRefused)
        assert scene.node.store.slots[1].state is SlotState.BAD
        assert scene.command(NodeCommand.ACTIVATE_TEST).cause is FailureCause.NOTHING_TO_DO
        scene.check(scene.transfer(rig.NEW()), rig.NEW())

    def test_a_worn_flash_ends_the_transfer_by_name_and_the_old_image_runs(self):
        """Not "damaged", which would be sent again and again: the node has to be replaced."""
        scene = self.one()
        image = rig.NEW()
        offset = next(index for index, byte in enumerate(image) if index >= 256 and not byte & 1)
        scene.node.flash.wear("not programmed", scene.node.layout.slot_offsets[1] + offset)
        failed = self.failed(scene.transfer(image), FailureCause.FLASH_WORN)
        assert failed.permanent
        assert "WORN" in failed.detail
        scene.node.power_off()
        scene.node.power_on(scene.bench.wire)
        assert scene.node.running_version == "2.0.0"
