"""A whole unit: what counts are the bytes a node runs, a mixed pack is told until it is over, and no node's words stop the others."""

from __future__ import annotations

import hashlib

import pytest
from bmsota_sim.kernel import SECOND

from bmsota.image import ImageVersion
from bmsota.node import FlashJob


def running_bytes(bench):
    """What lies in the slot that runs, of every node."""
    nodes = [bench.unit.master.node, *(slave.node for slave in bench.unit.slaves)]
    stores = [node._target._store for node in nodes]
    return [store.read_slot(store.active_slot) for store in stores]


def power_cycles(bench, count=1):
    for _ in range(count):
        bench.unit.cycle_power(SECOND)
        bench.settle()
        bench.run(30)


def test_s8_another_build_of_the_ordered_version_is_flashed(unit_bench):
    """Slaves and master with another build of 2.1.0: after the order for 2.1.0 they run the release's bytes."""
    bench = unit_bench.Bench(factory=unit_bench.release("2.1.0", 1, build="debug"))
    bench.settle()
    ordered = unit_bench.release("2.1.0", 1)
    report = bench.upgrade(ordered)
    assert report.outcome.value == "succeeded", bench.story()
    assert running_bytes(bench) == [ordered.master, ordered.slave, ordered.slave]
    digests = [hashlib.sha256(image).digest() for image in running_bytes(bench)]
    assert [node.image_sha256 for node in report.nodes] == digests
    requests = len(bench.platform.requests)
    assert bench.upgrade(ordered).outcome.value == "succeeded"
    assert len(bench.platform.requests) > requests


@pytest.mark.slow
def test_p17_a_master_that_fell_back_alone_is_a_mixed_pack_until_it_is_over(unit_bench):
    """Equal counters: the old image still boots. Told at every power-on, signed, and over with the next upgrade."""
    bench = unit_bench.Bench()
    bench.settle()
    assert bench.upgrade(unit_bench.release("2.1.0", 1)).outcome.value == "succeeded"
    master = bench.unit.master
    store = master.node._target._store
    master.node.flash.flip_bit(store._layout.slot_offsets[store.active_slot] + 1000, 3)
    for flash in (master.image_flash,):  # No copy is left to restore it from.
        for offset in range(0, flash.size_bytes, flash.erase_block_bytes):
            flash.erase(offset)
    told = len(bench.platform.identities)
    power_cycles(bench, 3)
    assert bench.versions() == ("2.0.0", "2.1.0", "2.1.0")
    words = "master runs 2.0.0, slaves 1, 2 run 2.1.0"
    assert [identity.mixed_pack for identity in bench.platform.identities[told:]] == [words] * 3, bench.story()
    assert bench.unit.master._powered.master.mixed_pack == words
    assert bench.upgrade(unit_bench.release("2.2.0", 1)).outcome.value == "succeeded"
    power_cycles(bench)
    assert bench.platform.identities[-1].mixed_pack == ""


@pytest.mark.slow
def test_p17_one_locally_flashed_node_is_a_mixed_pack(unit_bench):
    bench = unit_bench.Bench()
    bench.settle()
    bench.run(30)
    flasher = bench.flasher()
    assert flasher.do("flash", [FlashJob(1, unit_bench.release("2.1.0", 1).slave)])[1].ok
    assert flasher.do("activate", (1,))[1].ok
    assert flasher.do("confirm", [(1, ImageVersion(2, 1))], raise_counter=True)[1].ok
    flasher.port.power(on=False)
    power_cycles(bench)
    assert bench.platform.identities[-1].mixed_pack == "master runs 2.0.0, slave 1 runs 2.1.0, slave 2 runs 2.0.0"


@pytest.mark.slow
@pytest.mark.parametrize("hwid", ["S\xff1", "", "A" * 40])
def test_p15_a_slave_with_an_impossible_hardware_id_stops_only_itself(unit_bench, hwid):
    """At every boot: the log names it, the others are found, and an order goes back with its name."""
    bench = unit_bench.Bench()
    bench.settle()
    identity = bench.unit.slaves[1].node._target._identity
    object.__setattr__(identity, "hwid", hwid)
    power_cycles(bench, 2)
    notes = [note.what for note in bench.trace.notes if "slave 2 is not counted" in note.what]
    assert notes, bench.story()
    assert "impossible identity: hwid: expected 1 to 24 printable ASCII characters without spaces" in notes[-1]
    report = bench.upgrade(unit_bench.release("2.1.0", 2))
    assert report.outcome.value == "rolled-back"
    assert report.reason.startswith("slave 2: impossible identity: hwid: expected 1 to 24"), report.reason
    assert [node.position for node in report.nodes] == [0, 1]
    assert bench.versions() == ("2.0.0",) * 3


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "who"), [({"master_size": 90_000}, "master"), ({"slave_size": 40_000}, "slave 1")])
def test_p12_an_image_too_large_for_its_slot_is_refused_before_the_download(unit_bench, sizes, who):
    bench = unit_bench.Bench()
    bench.settle()
    report = bench.upgrade(unit_bench.release("2.1.0", 2, **sizes))
    assert (report.outcome.value, report.reason.split(":")[0]) == ("failed", who), report.reason
    assert not [request.path for request in bench.platform.requests if "/images/" in request.path]
    assert bench.versions() == ("2.0.0",) * 3
    assert bench.upgrade(unit_bench.release("2.1.0", 2)).outcome.value == "succeeded"
