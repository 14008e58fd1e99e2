"""A power cut at any flash operation of a slave's update: old image or new image, never neither, and the next update works.

The whole way: client and target over the pipe, test boot, restart, confirm. Compare tests/bmsota/boot/test_power_cuts.py,
which does the same to the store alone.
"""

from __future__ import annotations

import copy
from random import Random

import pytest

from bmsota.boot import BootReason
from bmsota.bootloader import BootloaderClient, Command, CommandSucceeded, ImageVerified
from bmsota.image import ImageVersion

PHASES = ("before", "inside", "after")


def update(bench, image, version):
    """One whole update as an operator does it; true if every step said that it succeeded."""
    wanted = ImageVersion.parse(version)
    if not isinstance(bench.run(BootloaderClient(bench.wire, position=1, image=image))[-1], ImageVerified):
        return False
    for command, expected in ((Command.ACTIVATE_TEST, None), (Command.RESET, wanted), (Command.CONFIRM, wanted)):
        if not isinstance(bench.command(1, command, expected_version=expected), CommandSucceeded):
            return False
    return True


@pytest.fixture
def images(bench_parts):
    make = bench_parts.make_image
    return {
        "2.0.0": make("2.0.0", counter=1, size=1100),
        "2.1.0": make("2.1.0", counter=2, size=1300),
        "2.2.0": make("2.2.0", counter=3, size=1200),
    }


@pytest.fixture
def flash(bench_parts, images):
    flash = bench_parts.FlashModel(8 * 1024, erase_block_bytes=512, seed="slave")
    bench_parts.Node(factory=images["2.0.0"], flash=flash)
    return flash


def run_with_cuts(bench_parts, images, flash, cuts):
    """One update with these cuts; afterwards the node is checked and updated once more."""
    node = bench_parts.Node(factory=None, flash=copy.deepcopy(flash))
    for operation, phase in cuts:
        node.flash.cut_at(operation, phase)
    bench = bench_parts.Bench(node)
    succeeded = update(bench, images["2.1.0"], "2.1.0")
    bench.run(limit_s=2)
    happened = len(node.boots) - 1
    node.flash.clear_cuts()
    bench.cut_power(node)
    bench.run(limit_s=2)
    assert node.boot.slot is not None, "neither image boots"
    assert node.running_version in {"2.0.0", "2.1.0"}
    if succeeded:
        assert (node.running_version, node.boot.reason) == ("2.1.0", BootReason.NORMAL)
    assert all(str(boot.facts.version) in {"2.0.0", "2.1.0"} for boot in node.boots)
    assert update(bench, images["2.2.0"], "2.2.0")
    bench.cut_power(node)
    bench.run(limit_s=2)
    assert (node.running_version, node.boot.reason) == ("2.2.0", BootReason.NORMAL)
    assert node.store.security_counter == 3
    return succeeded, happened


def operations_of_one_update(bench_parts, images, flash):
    node = bench_parts.Node(factory=None, flash=copy.deepcopy(flash))
    first = node.flash.operations + 1
    assert update(bench_parts.Bench(node), images["2.1.0"], "2.1.0")
    return range(first, node.flash.operations + 1)


def test_power_may_fail_at_any_flash_operation_of_a_slave_update(bench_parts, images, flash):
    """Every operation, before, inside and after it. Most updates succeed all the same, in the first run."""
    operations = operations_of_one_update(bench_parts, images, flash)
    assert len(operations) >= 15
    outcomes = []
    for operation in operations:
        for phase in PHASES:
            succeeded, happened = run_with_cuts(bench_parts, images, flash, [(operation, phase)])
            assert happened >= 1
            outcomes.append(succeeded)
    # Only a cut between the record of the test boot and the confirmation costs the update: the node must revert then.
    assert outcomes.count(False) <= 5


def test_power_may_fail_twice_during_a_slave_update(bench_parts, images, flash):
    """Pairs drawn from a seed, the second cut up to 15 operations after the first."""
    operations = operations_of_one_update(bench_parts, images, flash)
    rng = Random("slave pairs")
    for _ in range(60):
        first = rng.choice(operations)
        cuts = [(first, rng.choice(PHASES)), (first + rng.randint(1, 15), rng.choice(PHASES))]
        run_with_cuts(bench_parts, images, flash, cuts)
