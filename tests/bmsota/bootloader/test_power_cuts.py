"""A power cut at any flash operation of a node's update: old image or new image, never neither, and the next update works.

The whole way: client and target over the pipe, test boot, restart, confirm; alone on a classic wire, with a compressed
stream, on CAN FD, and as one of three nodes of a broadcast, of which the others must not notice. Compare
tests/bmsota/boot/test_power_cuts.py, which does the same to the store alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import product
from random import Random

import pytest
from long_run import LONG

from bmsota.boot import BootReason, SlotState
from bmsota.bootloader import BootloaderClient, BroadcastClient, TargetLimits
from bmsota.image import ImageRole, ImageVersion, build_image
from bmsota.node import CommandSucceeded, ImageVerified, NodeCommand, TransferFailed, TransferInterrupted

PHASES = ("before", "inside", "after")
pytestmark = pytest.mark.long
POSITION = 2


@dataclass(frozen=True)
class Kind:
    """One way to update; node 2 is the one whose supply fails."""

    dbc: str = "bms_bootloader"
    is_compressed: bool = False
    positions: tuple[int, ...] = (POSITION,)
    block_frames: int = 64
    pairs: int = 20


KINDS = {
    "classic": Kind(pairs=40),
    "compressed": Kind(is_compressed=True),
    "fd": Kind("bms_bootloader_fd", block_frames=8),
    "broadcast": Kind(positions=(1, POSITION, 3)),
}


def make_images(bench_parts, kind):
    def make(version, counter, size):
        rng = Random(f"{version}/{kind.is_compressed}")
        return build_image(
            b"".join(rng.choice((b"alpha ", b"beta! ", b"gamma ")) for _ in range(size // 6))
            if kind.is_compressed
            else rng.randbytes(size),
            version=ImageVersion.parse(version),
            security_counter=counter,
            hardware_class=bench_parts.SLAVE_CLASS,
            role=ImageRole.SLAVE,
            signing_key=bench_parts.KEY,
        )

    return {"2.0.0": make("2.0.0", 1, 1100), "2.1.0": make("2.1.0", 2, 1300), "2.2.0": make("2.2.0", 3, 1200)}


class Pack:
    """The nodes of one kind, each with the old image, and their updates."""

    def __init__(self, bench_parts, kind):
        self.parts = bench_parts
        self.kind = kind
        self.images = make_images(bench_parts, kind)
        self.flashes = {}
        for position in kind.positions:
            flash = bench_parts.FlashModel(8 * 1024, erase_block_bytes=512, seed=f"slave {position}")
            bench_parts.Node(position, factory=self.images["2.0.0"], flash=flash)
            self.flashes[position] = flash

    def bench(self, cuts=()):
        """All nodes as new, on a bench; the supply of node 2 fails at these (operation, phase) of its flash."""
        nodes = {}
        for position, flash in self.flashes.items():
            limits = TargetLimits(block_frames_max=self.kind.block_frames)
            nodes[position] = self.parts.Node(position, factory=None, flash=copy.deepcopy(flash), limits=limits)
        for operation, phase in cuts:
            nodes[POSITION].flash.cut_at(operation, phase)
        return nodes, self.parts.Bench(*nodes.values(), dbc=self.kind.dbc)

    def stage(self, bench, version):
        """Whether node 2 has it now. The others always have.

        Nobody resumes on cells that a cut has torn: that would come out at the digest, and cost the whole image.
        """
        options = {"image": self.images[version], "may_compress": self.kind.is_compressed}
        if len(self.flashes) == 1:
            events = bench.run(BootloaderClient(bench.wire, position=POSITION, **options))
            assert TransferInterrupted("FINISH_TRANSFER: DAMAGED") not in events
            return isinstance(events[-1], ImageVerified)
        events = bench.run(BroadcastClient(bench.wire, positions=self.kind.positions, **options))
        assert all(event.event != TransferInterrupted("FINISH_TRANSFER: DAMAGED") for event in events)
        ended = {
            event.position: event.event for event in events if isinstance(event.event, ImageVerified | TransferFailed)
        }
        verified = ended.pop(POSITION)
        assert [type(event) for event in ended.values()] == [ImageVerified] * 2
        return isinstance(verified, ImageVerified)

    def update(self, bench, version):
        """One whole update of node 2 as an operator does it; true if every step said that it succeeded."""
        wanted = ImageVersion.parse(version)
        if not self.stage(bench, version):
            return False
        for command, expected in (
            (NodeCommand.ACTIVATE_TEST, None),
            (NodeCommand.RESET, wanted),
            (NodeCommand.CONFIRM, wanted),
        ):
            if not isinstance(bench.command(POSITION, command, expected_version=expected), CommandSucceeded):
                return False
        return True

    def operations(self):
        """The numbers of the flash operations of one undisturbed update."""
        nodes, bench = self.bench()
        first = nodes[POSITION].flash.operations + 1
        assert self.update(bench, "2.1.0")
        return range(first, nodes[POSITION].flash.operations + 1)

    def run_with_cuts(self, cuts):
        """One update with these cuts; afterwards the node is checked and updated once more."""
        nodes, bench = self.bench(cuts)
        node = nodes[POSITION]
        succeeded = self.update(bench, "2.1.0")
        bench.run(limit_s=2)
        happened = len(node.boots) - 1
        node.flash.clear_cuts()
        bench.cut_power(node)
        bench.run(limit_s=2)
        assert node.boot.slot is not None, f"{cuts}: neither image boots"
        assert node.running_version in {"2.0.0", "2.1.0"}, cuts
        if succeeded:
            assert (node.running_version, node.boot.reason) == ("2.1.0", BootReason.NORMAL), cuts
        assert all(str(boot.facts.version) in {"2.0.0", "2.1.0"} for boot in node.boots), cuts
        for position, other in nodes.items():
            if position != POSITION:
                assert len(other.boots) == 1
                assert other.store.slots[1].state is SlotState.STAGED
        assert self.update(bench, "2.2.0"), cuts
        bench.cut_power(node)
        bench.run(limit_s=2)
        assert (node.running_version, node.boot.reason) == ("2.2.0", BootReason.NORMAL), cuts
        assert node.store.security_counter == 3
        return succeeded, happened


@pytest.fixture(params=KINDS)
def pack(request, bench_parts):
    return Pack(bench_parts, KINDS[request.param])


def test_power_may_fail_at_any_flash_operation_of_an_update(pack):
    """Every operation, before, inside and after it. Most updates succeed all the same, in the first run."""
    operations = pack.operations()
    assert len(operations) >= 15
    outcomes = []
    for operation, phase in product(operations, PHASES):
        succeeded, happened = pack.run_with_cuts([(operation, phase)])
        assert happened >= 1
        outcomes.append(succeeded)
    # Only a cut between the record of the test boot and the confirmation costs the update: the node must revert then.
    assert outcomes.count(False) <= 5


def test_power_may_fail_twice_during_an_update(pack):
    """Pairs drawn from a seed, the second cut up to 15 operations after the first; with BMSOTA_LONG=1 every such pair."""
    operations = pack.operations()
    rng = Random("slave pairs")
    later = range(1, 16)
    if LONG:
        pairs = product(operations, PHASES, later, PHASES)
    else:
        drawn = range(pack.kind.pairs)
        pairs = [(rng.choice(operations), rng.choice(PHASES), rng.choice(later), rng.choice(PHASES)) for _ in drawn]
    for first, phase, after, second_phase in pairs:
        pack.run_with_cuts([(first, phase), (first + after, second_phase)])
