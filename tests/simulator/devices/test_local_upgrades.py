"""A master and what it tells of local upgrades: when it looks, whom it asks, and platforms that do not want to know."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bmsota_sim.kernel import SECOND

from bmsota.gbt32960 import Command, LocalUpgradeOutcome
from bmsota.image import ImageVersion
from bmsota.node import FlashJob
from bmsota.ota import LOCAL_UPGRADES_MAX

NEW = ImageVersion(2, 1)


@pytest.fixture
def bench(unit_bench):
    bench = unit_bench.Bench()
    bench.settle()
    bench.run(2)
    return bench


@pytest.fixture
def new(unit_bench):
    return unit_bench.release("2.1.0", 2)


def try_out(bench, new, position=1):
    """A tool flashes one node and lets it run the new image in test."""
    flasher = bench.flasher()
    image = new.slave if position else new.master
    assert flasher.do("flash", [FlashJob(position, image)])[position].ok
    assert flasher.do("activate", (position,))[position].ok
    return flasher


def install(bench, new, position=1):
    flasher = try_out(bench, new, position)
    assert flasher.do("confirm", [(position, NEW)], raise_counter=True)[position].ok
    flasher.port.power(on=False)


def log_in_again(bench):
    logins = bench.platform.logins
    bench.unit.set_coverage(covered=False)
    bench.run(5)
    bench.unit.set_coverage(covered=True)
    bench.wait(lambda: bench.platform.logins > logins and bench.unit.master.is_logged_in, "login")
    bench.run(5)


def told(bench):
    return [(u.position, u.version_before[:2], u.version_after[:2], u.outcome) for u in bench.platform.local_upgrades]


DONE = (1, (2, 0), (2, 1), LocalUpgradeOutcome.SUCCEEDED)


def test_a_slave_that_is_flashed_while_the_unit_is_online_is_told_at_once(bench, new):
    install(bench, new)
    bench.run(15)
    assert told(bench) == [DONE]
    assert bench.platform.logins == 1
    # What was acknowledged is not told by the next life either.
    bench.unit.cycle_power(SECOND)
    bench.run(2)
    bench.settle()
    bench.run(15)
    assert told(bench) == [DONE]


def test_a_trial_is_not_told_before_it_is_decided(bench, new):
    flasher = try_out(bench, new)
    bench.run(15)
    log_in_again(bench)
    assert told(bench) == []
    assert flasher.do("confirm", [(1, NEW)], raise_counter=True)[1].ok
    bench.run(15)
    assert told(bench) == [DONE]


def test_a_confirmation_that_nobody_heard_of_is_found_at_the_login(bench, new):
    """The master has seen the trial. Confirmed is it behind its back: no frame on this bus says so."""
    try_out(bench, new)
    bench.run(15)
    bench.unit.slaves[0].node._target._store.confirm()
    bench.run(60)
    assert told(bench) == []
    log_in_again(bench)
    assert told(bench) == [DONE]


def test_a_slave_that_restarts_into_another_version_is_asked(bench, new, unit_bench):
    """It was flashed on a bench, not on this bus; its identity pages tell."""
    slave = bench.unit.slaves[0]
    store = slave.node._target._store
    image = new.slave
    offset = store.begin_staging(len(image), next(d for d, data in new.images.items() if data == image))
    store.write_staged(offset, image[offset:])
    store.finish_staging()
    store.request_test()
    slave.power_off()
    slave.power_on()
    bench.run(1)
    slave.node._target._store.confirm()
    log_in_again(bench)
    assert told(bench) == [DONE]
    assert any(note.what == "slave 1 runs 2.1.0 now, ran 2.0.0" for note in bench.trace.notes)


def test_a_platform_that_refuses_is_told_again_at_the_next_login(bench, new):
    bench.platform.takes_local_upgrades = False
    install(bench, new)
    bench.run(120)
    assert told(bench) == [DONE]
    bench.platform.takes_local_upgrades = True
    log_in_again(bench)
    assert told(bench) == [DONE] * 2
    assert bench.platform.local_upgrades[0] == bench.platform.local_upgrades[1], "the same words, the same time"
    log_in_again(bench)
    assert told(bench) == [DONE] * 2


@pytest.mark.slow
def test_a_platform_that_knows_only_the_standard_costs_three_frames_a_login(bench, new):
    """And the unit goes on with everything else."""
    bench.platform.unanswered = {Command.LOCAL_UPGRADES}
    install(bench, new)
    bench.run(600)
    assert told(bench) == [DONE] * 3
    log_in_again(bench)
    bench.run(600)
    assert told(bench) == [DONE] * 6
    assert bench.unit.master.is_logged_in
    bench.platform.unanswered = set()
    log_in_again(bench)
    assert told(bench) == [DONE] * 7
    log_in_again(bench)
    assert told(bench) == [DONE] * 7


def test_the_supply_comes_and_goes_before_anybody_hears_of_it(bench, new):
    bench.unit.set_coverage(covered=False)
    install(bench, new)
    bench.run(15)
    for _ in range(2):
        bench.unit.cycle_power(SECOND)
        bench.run(5)
    assert bench.versions() == ("2.0.0", "2.1.0", "2.0.0")
    log_in_again(bench)
    assert told(bench) == [DONE]


def test_a_login_before_the_first_discovery_asks_for_none(bench, new):
    """The link may be up before the slaves are: until the updater has read its journal, nobody knows what an order did."""
    try_out(bench, new)
    bench.run(15)
    bench.unit.master.power_off()
    bench.unit.slaves[0].node._target._store.confirm()
    bench.run(1)
    start_ns = bench.kernel.now_ns
    bench.unit.master.power_on()
    bench.run(15)
    assert told(bench) == [DONE]
    notes = [note.what for note in bench.trace.notes if note.at_ns >= start_ns]
    login = next(index for index, what in enumerate(notes) if what.startswith("logged in"))
    found = next(index for index, what in enumerate(notes) if what.startswith("local upgrade of"))
    assert login < found


def test_what_is_forgotten_is_noted(bench):
    """More upgrades than the record keeps, without a network: here the same slave claims another version each time."""
    bench.unit.set_coverage(covered=False)
    bench.run(1)
    powered = bench.unit.master._powered
    slave, other = powered.master._slaves.slaves
    for number in range(LOCAL_UPGRADES_MAX + 1):
        claimed = replace(slave, version=ImageVersion(3, 0, number))
        powered.step(
            lambda now_ns, claimed=claimed: powered.master._cloud.nodes_discovered((claimed, other), None, now_ns)
        )
    assert [note.what for note in bench.trace.notes if "forgets" in note.what] == [
        "forgets 1 local upgrade: there were too many"
    ]
