"""A unit and its switch: ignition, and supplies that fail while it is turned."""

from __future__ import annotations

import pytest
from bmsota_sim.devices.flash import CutPhase
from bmsota_sim.kernel import SECOND

from bmsota.image import ImageVersion
from bmsota.ota import ConfirmSlaves, Outcome, RevertSlaves, UpdaterState


@pytest.fixture
def bench(unit_bench):
    bench = unit_bench.Bench()
    bench.settle()
    return bench


@pytest.fixture
def new(unit_bench):
    return unit_bench.release("2.1.0", 2)


def run_until(bench, condition, limit_s=60):
    end_ns = bench.kernel.now_ns + limit_s * SECOND
    while not condition():
        assert bench.kernel.now_ns < end_ns, bench.story()
        bench.run(0.005)


def begin_download(bench, new):
    order_id = bench.platform.offer(new)
    run_until(bench, lambda: bench.unit.master.upgrade_state is UpdaterState.DOWNLOADING)
    return order_id


def cut_next_shelf_operation(bench):
    shelf = bench.flashes["shelf"]
    shelf.cut_at(shelf.operations + 1, CutPhase.INSIDE)


def is_dark(bench):
    return set(bench.versions()) == {"off"} and not bench.unit.master.powered


def test_ignition_off_logs_out_and_takes_the_supply_of_all(bench):
    went = []
    bench.unit.switch_off(lambda: went.append(bench.kernel.now_ns))
    bench.run(2)
    assert len(went) == 1
    assert is_dark(bench)
    bench.run(60)
    assert is_dark(bench)
    bench.unit.switch_on()
    bench.settle()
    assert bench.versions() == ("2.0.0",) * 3


def test_a_master_without_network_is_switched_off_at_once(bench):
    bench.unit.set_coverage(covered=False)
    bench.run(1)
    went = []
    start_ns = bench.kernel.now_ns
    bench.unit.switch_off(lambda: went.append(bench.kernel.now_ns - start_ns))
    bench.run(2)
    assert went == [0]


def test_the_ignition_goes_off_while_the_master_has_lost_its_supply(bench, new):
    """The master must not come back by itself into a vehicle that is off, and the driver's return must not be lost."""
    order_id = begin_download(bench, new)
    cut_next_shelf_operation(bench)
    run_until(bench, lambda: not bench.unit.master.powered)
    bench.unit.cycle_power(5 * SECOND)
    bench.run(4)
    assert is_dark(bench)
    bench.wait(lambda: bench.platform.report_of(order_id) is not None, "report")
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED


def test_the_supply_fails_while_the_master_shuts_down(bench, new):
    order_id = begin_download(bench, new)
    cut_next_shelf_operation(bench)
    bench.unit.cycle_power(5 * SECOND)
    run_until(bench, lambda: not bench.unit.master.powered, limit_s=2)
    assert "power cut" in bench.trace.notes[-1].what
    bench.run(4)
    assert is_dark(bench)
    bench.wait(lambda: bench.platform.report_of(order_id) is not None, "report")
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED
    assert bench.unit.power_cycles == 2


def test_a_slave_without_supply_stays_off_when_the_ignition_goes_off(bench, new):
    bench.platform.offer(new)
    slave = bench.unit.slaves[0]
    slave.node.flash.cut_at(slave.node.flash.operations + 1, CutPhase.AFTER)
    bench.wait(lambda: any("slave 1" in note.who and "power cut" in note.what for note in bench.trace.notes), "cut")
    bench.unit.switch_off()
    bench.run(10)
    assert is_dark(bench)


def test_a_slave_switched_on_twice_boots_once(bench):
    slave = bench.unit.slaves[0]
    slave.power_off()
    slave.power_on()
    bench.run(0.02)
    slave.power_off()
    slave.power_on()
    boots = len([note for note in bench.trace.notes if note.who.endswith("slave 1") and "boots" in note.what])
    bench.run(0.03)
    assert slave.version is None, "the boot of the earlier power-on went on"
    bench.run(0.2)
    after = len([note for note in bench.trace.notes if note.who.endswith("slave 1") and "boots" in note.what])
    assert after - boots == 1


def test_the_unit_does_not_act_while_driving(bench, new):
    bench.unit.set_driving(is_driving=True)
    order_id = bench.platform.offer(new)
    bench.run(20)
    assert bench.unit.master.upgrade_state is UpdaterState.WAITING_SAFE_STATE
    assert bench.platform.requests == []
    bench.unit.set_driving(is_driving=False)
    bench.wait(lambda: bench.platform.report_of(order_id) is not None, "report")
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED


@pytest.mark.slow
def test_a_replaced_slave_with_an_old_image_comes_along(bench, unit_bench, new):
    bench.upgrade(new)
    bench.unit.replace_slave(2, "S000102REPLACED", SECOND)
    bench.run(5)
    bench.settle()
    assert bench.versions() == ("2.1.0", "2.1.0", "2.0.0")
    report = bench.upgrade(new)
    assert report.outcome is Outcome.SUCCEEDED
    assert bench.versions() == ("2.1.0",) * 3
    assert [node.hwid for node in report.nodes][2] == "S000102REPLACED"


def test_a_slave_that_dies_during_the_upgrade_is_said_in_the_report(bench, new):
    """It never answers again: the master goes back, and so does the other slave."""
    order_id = bench.platform.offer(new)
    dead = bench.unit.slaves[1]
    dead.node.flash.cut_at(dead.node.flash.operations + 3, CutPhase.INSIDE)
    dead.supply_failed = dead.power_off
    bench.wait(lambda: bench.platform.report_of(order_id) is not None, "report")
    report = bench.platform.report_of(order_id)
    assert report.outcome is Outcome.ROLLED_BACK
    assert "slave 2: node silent" in report.reason
    assert report.reason.endswith("slaves 2 do not answer")
    assert bench.versions() == ("2.0.0", "2.0.0", "off")
    assert [node.position for node in report.nodes] == [0, 1]


def test_what_was_asked_for_in_one_life_is_not_done_in_the_next(bench, new):
    """A confirmation that waited for the bus when the supply failed would confirm what the boot is about to revert."""
    master = bench.unit.master
    master.master._slaves.request(ConfirmSlaves(((1, ImageVersion(2, 0)),)))
    master.master._slaves.request(RevertSlaves((), restart=(2,)))
    master.supply_failed()
    bench.run(6)
    notes = [note.what for note in bench.trace.notes]
    assert not any(what.startswith(("confirm", "restart")) for what in notes)


def test_the_master_forgets_its_nodes_with_its_supply(bench):
    bench.unit.slaves[1].power_off()
    bench.unit.master.supply_failed()
    bench.run(6)
    assert bench.unit.master.slave_versions == ("2.0.0",)
