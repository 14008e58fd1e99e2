"""A flasher on the unit's buses: the master as a node, its gateway, and how both keep out of the updater's way."""

from __future__ import annotations

import pytest
from bmsota_sim.devices.bootloader_node import PowerCutPlan
from bmsota_sim.kernel import MS, SECOND

from bmsota.canframe import CanFrame
from bmsota.image import ImageVersion
from bmsota.node import FAILURES, FailureCause, FlashJob, NodeMode
from bmsota.ota import Outcome, UpdaterState

NEW = ImageVersion(2, 1, 0)


@pytest.fixture
def new(unit_bench):
    return unit_bench.release("2.1.0", 2)


@pytest.fixture(params=["direct", "gateway"])
def bench(unit_bench, request):
    bench = unit_bench.Bench(has_diagnosis=request.param == "gateway")
    bench.settle()
    bench.run(2)  # The master has seen its slaves.
    return bench


@pytest.fixture
def outside(unit_bench):
    bench = unit_bench.Bench(has_diagnosis=True)
    bench.settle()
    bench.run(2)
    return bench


def ok(results):
    assert all(result.ok for result in results.values()), results
    return sorted(results)


def install(flasher, positions, release):
    """Flash, activate, confirm, as `bmsota flash` does."""
    jobs = [FlashJob(position, release.slave if position else release.master) for position in positions]
    assert ok(flasher.do("flash", jobs)) == sorted(positions)
    assert ok(flasher.do("activate", positions)) == sorted(positions)
    found = flasher.do("discover", positions)
    assert {position: found[position].version for position in positions} == dict.fromkeys(positions, NEW)
    assert ok(flasher.do("confirm", [(position, NEW) for position in positions], raise_counter=True))


@pytest.mark.slow
def test_master_and_slaves_are_found_and_flashed(bench, new):
    flasher = bench.flasher()
    found = flasher.do("discover", (0, 1, 2))
    assert {position: (node.role, str(node.version)) for position, node in found.items()} == {
        0: (0, "2.0.0"),
        1: (1, "2.0.0"),
        2: (1, "2.0.0"),
    }
    assert found[0].hwid == bench.identity.master_hwid
    install(flasher, (1, 2, 0), new)
    assert bench.versions() == ("2.1.0",) * 3
    bench.run(1)
    bench.unit.cycle_power(SECOND)
    bench.settle()
    assert bench.versions() == ("2.1.0",) * 3, "confirmed, so it stays"
    # The history learns of all three, though no order did it.
    bench.wait(lambda: len(bench.platform.local_upgrades) == 3, "local upgrades")
    assert {upgrade.position for upgrade in bench.platform.local_upgrades} == {0, 1, 2}


@pytest.mark.slow
def test_a_master_on_trial_falls_back_unless_confirmed(bench, new):
    flasher = bench.flasher()
    ok(flasher.do("flash", [FlashJob(0, new.master)]))
    ok(flasher.do("activate", (0,)))
    assert str(flasher.do("discover", (0,))[0].version) == "2.1.0"
    bench.unit.cycle_power(SECOND)
    bench.settle()
    assert bench.versions()[0] == "2.0.0"


@pytest.mark.slow
@pytest.mark.parametrize("at_progress", [0.0, 0.5, 1.0])
def test_the_power_may_fail_while_the_master_is_flashed(bench, new, at_progress):
    flasher = bench.flasher()
    plan = bench.unit.master.node.power_cut_plan = PowerCutPlan(at_progress, 300 * MS)
    first = flasher.do("flash", [FlashJob(0, new.master)])
    assert plan.happened
    bench.run(2)
    assert bench.versions()[0] == "2.0.0"
    if not first[0].ok:
        assert first[0].safe_to_run_again
        ok(flasher.do("flash", [FlashJob(0, new.master)]))
    ok(flasher.do("activate", (0,)))
    found = flasher.do("discover", (0,))
    assert found[0].version == NEW


def test_the_master_rests_in_its_bootloader_and_logs_in_again(bench, new):
    flasher = bench.flasher()
    master = bench.unit.master
    logins = bench.platform.logins
    ok(flasher.do("flash", [FlashJob(0, new.master)]))
    assert master.node.state is NodeMode.BOOTLOADER
    bench.run(2)
    reports = master.figures.reports
    assert not master.is_logged_in
    bench.run(50)
    assert master.figures.reports == reports
    # A minute after the flasher's last word the node goes back to its application by itself.
    bench.wait(lambda: master.is_logged_in, "login")
    assert master.node.state is NodeMode.APPLICATION
    assert bench.platform.logins == logins + 1


def test_a_restart_over_can_restarts_the_master(bench):
    flasher = bench.flasher()
    logins = bench.platform.logins
    ok(flasher.do("restart", (0,)))
    bench.wait(lambda: bench.platform.logins == logins + 1, "login after the restart")
    boots = [note for note in bench.trace.notes if "master boots" in note.what]
    assert len(boots) == 2


def test_a_master_without_an_image_can_be_flashed(bench, new):
    flasher = bench.flasher()
    master = bench.unit.master
    bench.unit.switch_off()
    bench.run(2)
    for offset in range(0, master.node.flash.size_bytes, 64):
        master.node.flash.flip_bit(offset, 0)
    bench.unit.switch_on()
    bench.run(2)
    assert master.version is None
    found = flasher.do("discover", (0,))
    assert found[0].state is NodeMode.BOOTLOADER
    ok(flasher.do("flash", [FlashJob(0, new.master)]))
    ok(flasher.do("activate", (0,)))
    bench.wait(lambda: master.version == NEW and master.is_logged_in, "new image")


# --- One upgrade at a time --------------------------------------------------------------------------------------------


def test_while_the_cloud_upgrades_the_master_refuses(bench, new, unit_bench):
    order_id = bench.platform.offer(new)
    bench.wait(lambda: bench.unit.master.upgrade_state is UpdaterState.DOWNLOADING, "download")
    flasher = bench.flasher()
    found = flasher.do("discover", (0,))
    assert str(found[0].version) == "2.0.0", "to be found is allowed"
    result = flasher.do("flash", [FlashJob(0, unit_bench.release("2.2.0", 3).master)])[0]
    assert not result.ok
    assert result.cause is FailureCause.IN_USE
    assert "over the air" in FAILURES[result.cause].advice
    assert not flasher.do("restart", (0,))[0].ok
    bench.wait(lambda: bench.platform.report_of(order_id) is not None, "report")
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED
    assert bench.platform.local_upgrades == []


def test_a_report_that_the_platform_does_not_take_locks_no_technician_out(outside, new, unit_bench):
    """The order has ended, and the platform may be away for days: the master and, through its gateway, the slaves can be flashed."""
    take = outside.platform._report
    outside.platform._report = lambda _document: False
    order_id = outside.platform.offer(new)
    outside.wait(lambda: outside.unit.master.upgrade_state is UpdaterState.REPORTING, "the report")
    assert outside.unit.master.master.in_upgrade_mode
    flasher = outside.flasher()
    ok(flasher.do("flash", [FlashJob(1, unit_bench.release("2.2.0", 3).slave)]))
    ok(flasher.do("activate", (1,)))
    ok(flasher.do("confirm", [(1, ImageVersion.parse("2.2.0"))], raise_counter=False))
    outside.run(30)
    outside.platform._report = take
    outside.unit.cycle_power(SECOND)
    outside.wait(lambda: outside.platform.report_of(order_id) is not None, "report")
    outside.settle()
    # The report says what runs now, and the history what was flashed behind the order.
    assert [str(node.version) for node in outside.platform.report_of(order_id).nodes] == ["2.1.0", "2.2.0", "2.1.0"]
    assert [(each.position, each.version_after) for each in outside.platform.local_upgrades] == [(1, (2, 2, 0, 0))]


def test_a_report_that_was_signed_before_a_technician_came_is_followed_by_what_runs_since(outside, new, unit_bench):
    """No power-on between: the report is the word of its moment. The history is told at once, the signed identity at the next login."""
    take = outside.platform._report
    outside.platform._report = lambda _document: False
    order_id = outside.platform.offer(new)
    outside.wait(lambda: outside.unit.master.upgrade_state is UpdaterState.REPORTING, "the report")
    flasher = outside.flasher()
    ok(flasher.do("flash", [FlashJob(1, unit_bench.release("2.2.0", 3).slave)]))
    ok(flasher.do("activate", (1,)))
    ok(flasher.do("confirm", [(1, ImageVersion.parse("2.2.0"))], raise_counter=False))
    outside.run(90)
    outside.platform._report = take
    outside.wait(lambda: outside.platform.report_of(order_id) is not None, "report")
    outside.run(30)
    assert [str(node.version) for node in outside.platform.report_of(order_id).nodes] == ["2.1.0"] * 3
    assert [(each.position, each.version_after) for each in outside.platform.local_upgrades] == [(1, (2, 2, 0, 0))]
    outside.unit.cycle_power(SECOND)
    outside.settle()
    outside.run(30)
    identity = outside.platform.identities[-1]
    assert [str(node.version) for node in identity.nodes] == ["2.1.0", "2.2.0", "2.1.0"]
    assert identity.mixed_pack


def test_while_the_cloud_upgrades_the_gateway_is_closed(outside, new):
    order_id = outside.platform.offer(new)
    gateway = outside.unit.master.gateway
    outside.wait(lambda: outside.unit.master.upgrade_state is UpdaterState.DOWNLOADING, "download")
    flasher = outside.flasher()
    passed = gateway.passed
    assert list(flasher.do("discover", (0,))) == [0]
    assert (gateway.passed, gateway.refused > 0) == (passed, True)
    outside.wait(lambda: outside.platform.report_of(order_id) is not None, "report")
    outside.settle()
    assert sorted(flasher.do("discover", (0, 1, 2))) == [0, 1, 2]


def test_an_instruction_waits_until_the_flasher_has_gone(bench, new, unit_bench):
    """What the flasher left in test is settled first; then the order is fetched."""
    flasher = bench.flasher()
    ok(flasher.do("flash", [FlashJob(0, new.master)]))
    ok(flasher.do("activate", (0,)))
    assert flasher.do("discover", (0,))[0].version == NEW
    bench.wait(lambda: bench.unit.master.is_logged_in, "login")
    order_id = bench.platform.offer(unit_bench.release("2.2.0", 3))
    bench.run(30)
    assert bench.unit.master.upgrade_state is UpdaterState.IDLE, "the master is in test"
    ok(flasher.do("confirm", [(0, NEW)], raise_counter=True))
    bench.wait(lambda: bench.platform.report_of(order_id) is not None, "report")
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED
    assert bench.versions() == ("2.2.0",) * 3


# --- The gateway ------------------------------------------------------------------------------------------------------


def test_the_gateway_passes_the_bootloaders_frames_and_no_others(outside):
    inside_log, outside_log = [], []
    inside = outside.unit.bus.attach(lambda frame, _now: inside_log.append(frame), name="probe")
    diagnosis = outside.diagnosis.attach(lambda frame, _now: outside_log.append(frame), name="probe")
    wire = outside.wire
    outside.run(5)
    assert {frame.can_id for frame in inside_log}, "the slaves measure"
    assert outside_log == [], "and nobody outside hears it"
    inside.send(CanFrame(wire.reply_id + 1, bytes(8)))
    outside.run(0.02)
    assert outside_log == [], "an answer that nobody asked for"
    inside_log.clear()
    inward = [
        CanFrame(wire.request_id, bytes(8)),
        CanFrame(wire.data_id, bytes(8)),
        CanFrame(wire.data_id + 63, b"1" * 8),
    ]
    for frame in (*inward, CanFrame(0x123, bytes(8)), CanFrame(wire.reply_id + 1, bytes(8))):
        diagnosis.send(frame)
    outside.run(0.02)
    outward = [CanFrame(wire.reply_id + 1, bytes(8)), CanFrame(wire.reply_id + 31, bytes(8))]
    for frame in (*outward, CanFrame(0x123, bytes(8)), CanFrame(wire.data_id, bytes(8))):
        inside.send(frame)
    outside.run(0.02)
    assert [frame for frame in inside_log if frame in inward] == inward
    assert [frame for frame in inside_log if frame.can_id in {0x123, wire.reply_id + 1}] == []
    assert outside_log == outward


def test_a_slave_is_flashed_through_the_gateway_at_nearly_the_rate_of_the_bus(outside, new):
    flasher = outside.flasher()
    start_ns = outside.kernel.now_ns
    ok(flasher.do("flash", [FlashJob(1, new.slave)]))
    assert outside.kernel.now_ns - start_ns < SECOND
    assert outside.unit.master.gateway.passed > len(new.slave) // 8
