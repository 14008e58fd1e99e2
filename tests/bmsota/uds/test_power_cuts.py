"""A power cut at any flash operation of an update over UDS: old image or new image, never neither, and the next update works.

The whole way: tester and server over the pipe, test boot, restart, confirm. Compare tests/bmsota/bootloader/test_power_cuts.py.
"""

from __future__ import annotations

import copy
from random import Random

import pytest

from bmsota.boot import BootReason
from bmsota.image import ImageVersion
from bmsota.node import CommandSucceeded, ImageVerified, NodeCommand
from bmsota.uds import UdsDialect

PHASES = ("before", "inside", "after")


def update(bench, image, version):
    """One whole update as an operator does it; true if every step said that it succeeded."""
    wanted = ImageVersion.parse(version)
    if not isinstance(bench.flash(image, dialect=UdsDialect(block_length_max=0x82))[-1], ImageVerified):
        return False
    for command, expected in (
        (NodeCommand.ACTIVATE_TEST, None),
        (NodeCommand.RESET, wanted),
        (NodeCommand.CONFIRM, wanted),
    ):
        if not isinstance(bench.command(1, command, expected_version=expected), CommandSucceeded):
            return False
    return True


@pytest.fixture
def images(parts):
    make = parts.make_image
    return {
        "2.0.0": make("2.0.0", counter=1, size=700),
        "2.1.0": make("2.1.0", counter=2, size=900),
        "2.2.0": make("2.2.0", counter=3, size=800),
    }


@pytest.fixture
def flash(parts, images):
    flash = parts.FlashModel(8 * 1024, erase_block_bytes=512, seed="slave")
    parts.Node(factory=images["2.0.0"], flash=flash)
    return flash


def run_with_cuts(parts, images, flash, cuts):
    """One update with these cuts; afterwards the node is checked and updated once more."""
    node = parts.Node(factory=None, flash=copy.deepcopy(flash))
    for operation, phase in cuts:
        node.flash.cut_at(operation, phase)
    bench = parts.Bench(node)
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


def operations_of_one_update(parts, images, flash):
    node = parts.Node(factory=None, flash=copy.deepcopy(flash))
    first = node.flash.operations + 1
    assert update(parts.Bench(node), images["2.1.0"], "2.1.0")
    return range(first, node.flash.operations + 1)


def test_power_may_fail_at_any_flash_operation_of_an_update(parts, images, flash):
    """Every operation, before, inside and after it. Most updates succeed all the same, in the first run."""
    operations = operations_of_one_update(parts, images, flash)
    assert len(operations) >= 15
    outcomes = []
    for operation in operations:
        for phase in PHASES:
            succeeded, happened = run_with_cuts(parts, images, flash, [(operation, phase)])
            assert happened >= 1
            outcomes.append(succeeded)
    # Only a cut between the record of the test boot and the confirmation costs the update: the node must revert then.
    assert outcomes.count(False) <= 5


def test_power_may_fail_twice_during_an_update(parts, images, flash):
    """Pairs drawn from a seed, the second cut up to 15 operations after the first."""
    operations = operations_of_one_update(parts, images, flash)
    rng = Random("uds pairs")
    for _ in range(40):
        first = rng.choice(operations)
        cuts = [(first, rng.choice(PHASES)), (first + rng.randint(1, 15), rng.choice(PHASES))]
        run_with_cuts(parts, images, flash, cuts)


# ---- cuts of the tester's side


class KilledError(Exception):
    """The tester's program is killed."""


def run_until_frame(bench, client, frame):
    """Run *client* and kill it when it has handed out that many frames; true if it was killed."""
    handed = iter(range(1_000_000))

    def fault(_frame, _rng):
        if next(handed) == frame:
            raise KilledError
        return (0,)

    bench.fault = fault
    try:
        bench.run(client)
    except KilledError:
        bench.client = None
        return True
    finally:
        bench.fault = None
    return False


def blocks(events):
    from bmsota.node import TransferStarted

    return [event.offset for event in events if isinstance(event, TransferStarted)]


def test_either_side_may_be_cut_at_any_frame_and_only_the_rest_is_sent(parts, images):
    """Killed at every frame of a flash; a second run sends what is missing, and no more; the image is equal."""
    image = images["2.1.0"]
    dialect = UdsDialect(block_length_max=0x82)
    frame, was_killed = 0, True
    offsets = set()
    while was_killed:
        for victim in ("tester", "node"):
            node = parts.Node(factory=images["2.0.0"])
            bench = parts.Bench(node)
            was_killed = run_until_frame(bench, bench.transfer(image, dialect=dialect), frame)
            if victim == "node":
                bench.cut_power(node)
            stored = node.store.staging_offset if node.store.slots[1].size_bytes == len(image) else 0
            events = bench.flash(image, dialect=dialect)
            assert isinstance(events[-1], ImageVerified), (frame, victim, events)
            assert node.store.read_slot(1) == image
            (begun,) = blocks(events)
            # Behind a power cut the node trusts whole erase blocks (1024 bytes here) only.
            whole = stored if stored == len(image) else stored - stored % 1024
            assert begun == (stored if victim == "tester" else whole), (frame, victim)
            sent = sum(_image_bytes(frame) for frame in bench.sent)
            assert sent == len(image) - begun, (frame, victim)
            offsets.add(begun)
        frame += 1
    assert frame > 150
    assert len(offsets) > 8


def _image_bytes(frame):
    """Image bytes of the block that begins in *frame*."""
    kind = frame.data[0] >> 4
    if kind == 1 and frame.data[2] == 0x36:
        return ((frame.data[0] & 15) << 8 | frame.data[1]) - 2
    return frame.data[0] - 2 if kind == 0 and frame.data[1] == 0x36 else 0
