"""A slave in which no image can run gets one from its master's image store, without a person."""

from __future__ import annotations

import pytest
from bmsota_sim.devices.flash import CutPhase
from bmsota_sim.devices.slave import JOURNAL_SIZE_BYTES
from bmsota_sim.kernel import SECOND

from bmsota.boot import BootReason, SlotLayout
from bmsota.image import ImageVersion
from bmsota.node import FlashJob

NEW = ("2.1.0",) * 3


def rot(bench, position):
    """Both slots of a slave have a wrong bit, where its image is."""
    flash = bench.flashes[f"slave {position}"]
    layout = SlotLayout.divide(flash, journal_size_bytes=JOURNAL_SIZE_BYTES)
    for offset in layout.slot_offsets:
        flash.flip_bit(offset + 300, 2)


def said(bench, text):
    return [note.what for note in bench.trace.notes if text in note.what]


@pytest.fixture
def upgraded(unit_bench):
    """A unit whose image store holds what it runs; its copies are made."""
    bench = unit_bench.Bench()
    bench.settle()
    bench.upgrade(unit_bench.release("2.1.0", 2))
    bench.run(30)
    return bench


def power_cycle(bench, seconds=5):
    bench.unit.cycle_power(SECOND)
    bench.run(seconds)


def until(bench, condition, limit_s=60):
    end_ns = bench.kernel.now_ns + limit_s * SECOND
    while not condition():
        assert bench.kernel.now_ns < end_ns, bench.story()
        bench.run(0.1)


def test_a_slave_whose_slots_have_both_rotted_runs_again_by_itself(upgraded):
    bench = upgraded
    rot(bench, 1)
    bench.unit.switch_off()
    bench.run(3)
    bench.unit.switch_on()
    until(bench, lambda: bench.unit.slaves[0].boot_result is not None, 5)
    assert bench.unit.slaves[0].boot_result.reason is BootReason.NOTHING
    until(bench, lambda: bench.unit.master.master is not None and bench.unit.master.must_rest, 5)
    # While it is flashed no flasher may change a node.
    assert bench.unit.master.master.is_upgrading
    until(bench, lambda: bench.versions() == NEW)
    until(bench, lambda: bench.is_up() and not bench.unit.master.must_rest)
    assert said(bench, "slave 1 was restored")
    power_cycle(bench)
    assert bench.versions() == NEW
    assert bench.unit.slaves[0].boot_result.reason is BootReason.NORMAL, "it is confirmed"
    assert bench.unit.master.master.mixed_pack == ""
    assert bench.platform.identities[-1].mixed_pack == ""


def test_it_waits_until_the_pack_rests_and_the_vehicle_hears_of_it(upgraded):
    bench = upgraded
    rot(bench, 2)
    bench.unit.vehicle.fault_level = 3
    power_cycle(bench, 60)
    assert bench.versions() == ("2.1.0", "2.1.0", "off")
    assert not bench.unit.master.must_rest
    bench.unit.vehicle.fault_level = 0
    until(bench, lambda: bench.versions() == NEW)


@pytest.mark.parametrize("phase", CutPhase)
@pytest.mark.parametrize("operation", [2, 5])
def test_power_may_fail_while_it_is_restored(upgraded, operation, phase):
    bench = upgraded
    rot(bench, 1)
    flash = bench.flashes["slave 1"]
    flash.cut_at(flash.operations + operation, phase)
    power_cycle(bench, 30)
    for _ in range(2):
        if bench.versions() != NEW:
            power_cycle(bench, 30)
    assert not flash._cuts
    assert bench.versions() == NEW


def test_without_an_image_in_the_store_it_is_told_and_an_order_mends_it(unit_bench):
    """A factory unit has downloaded nothing yet."""
    bench = unit_bench.Bench()
    bench.settle()
    bench.run(20)
    rot(bench, 1)
    power_cycle(bench, 30)
    assert bench.versions() == ("2.0.0", "off", "2.0.0")
    assert len(said(bench, "slave 1 has no image that can run, and the image store has none for it")) == 1
    bench.platform.offer(unit_bench.release("2.1.0", 2))
    bench.wait(lambda: bench.versions() == NEW, "the upgrade")


@pytest.mark.slow
def test_a_worn_slave_is_tried_twice_and_told(upgraded):
    bench = upgraded
    rot(bench, 1)
    flash = bench.flashes["slave 1"]
    layout = SlotLayout.divide(flash, journal_size_bytes=JOURNAL_SIZE_BYTES)
    for offset in layout.slot_offsets:
        flash.wear("unreadable", offset + 600)
    power_cycle(bench, 120)
    assert bench.versions() == ("2.1.0", "off", "2.1.0")
    told = said(bench, "slave 1 was not restored")
    assert len(told) == 2
    assert all("WORN" in text for text in told)
    assert not bench.unit.master.must_rest


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 600])
def test_a_slave_whose_spare_slot_is_worn_is_restored_in_the_other_one(upgraded, place):
    """The first try shows that the slot does not keep the image; for the second one the damaged image makes way."""
    bench = upgraded
    rot(bench, 1)
    flash = bench.flashes["slave 1"]
    spare = 1 - bench.unit.slaves[0].boot_result.slot
    layout = SlotLayout.divide(flash, journal_size_bytes=JOURNAL_SIZE_BYTES)
    flash.wear("unreadable", layout.slot_offsets[spare] + place)
    power_cycle(bench, 60)
    assert bench.versions() == NEW
    assert ["WORN" in text for text in said(bench, "slave 1 was not restored")] == [True]
    assert len(said(bench, "slave 1 was restored")) == 1
    power_cycle(bench)
    assert bench.versions() == NEW
    result = bench.unit.slaves[0].boot_result
    assert (result.slot, result.reason) == (1 - spare, BootReason.NORMAL)
    assert bench.platform.identities[-1].mixed_pack == ""


@pytest.mark.slow
@pytest.mark.parametrize("phase", CutPhase)
@pytest.mark.parametrize("operation", [2, 9, 16])
def test_power_fails_while_a_technician_flashes_a_slave_that_copies_its_factory_image(unit_bench, operation, phase):
    """The copy makes way for the image, and after the cut one of the two images runs; flashing it again succeeds."""
    bench = unit_bench.Bench(has_diagnosis=True, factory=unit_bench.release("2.0.0", 1, slave_size=9000))
    bench.settle()
    until(bench, lambda: bench.unit.slaves[0].node.new_store().staging_offset > 0)
    assert bench.unit.slaves[0].node.new_store().wants_back_up, "the copy is complete"
    flash = bench.flashes["slave 1"]
    flash.cut_at(flash.operations + operation, phase)
    image = unit_bench.release("2.1.0", 2, slave_size=9000).slave
    flasher = bench.flasher()
    flasher.do("flash", [FlashJob(1, image)])
    assert not flash._cuts
    power_cycle(bench)
    assert bench.versions()[1] in {"2.0.0", "2.1.0"}
    assert flasher.do("flash", [FlashJob(1, image)])[1].ok
    assert flasher.do("activate", (1,))[1].ok
    assert flasher.do("confirm", [(1, ImageVersion(2, 1, 0))], raise_counter=True)[1].ok
    power_cycle(bench)
    assert bench.versions() == ("2.0.0", "2.1.0", "2.0.0")


@pytest.mark.parametrize("node", ["master", "slave 1"])
def test_a_factory_unit_at_rest_copies_its_images_and_outlives_the_first_rot(unit_bench, node):
    bench = unit_bench.Bench()
    bench.settle()
    bench.run(20)
    flash = bench.flashes[node]
    flash.flip_bit(300, 2)
    power_cycle(bench)
    assert bench.versions() == ("2.0.0",) * 3
    device = bench.unit.master if node == "master" else bench.unit.slaves[0]
    result = device.node.boot_result
    assert (result.slot, result.reason) == (1, BootReason.FALLBACK)
