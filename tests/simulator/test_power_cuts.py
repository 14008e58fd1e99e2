"""A power cut at any flash operation of a whole upgrade: old pack or new pack, never a mix, and a signed report says which.

Method: count the flash operations of one undisturbed upgrade, from the instruction to the acknowledged report, of every
flash of the unit (the master's own, its image shelf, one slave's). Then repeat the upgrade with the power failing at
operation 1, 2, ... n: before it, inside it (what is left is drawn from the seed) or after it. The device gets its supply
back a second later, and nobody helps: the driver only leaves and comes back when a download is complete.
"""

from __future__ import annotations

from random import Random

import pytest
from bmsota_sim.kernel import MS
from long_run import LONG, phases_at, seeds, thinned

from bmsota.ota import Outcome

pytestmark = pytest.mark.long

PHASES = ("before", "inside", "after")
# Of one seed.
PAIRS = {"alone": 100 if LONG else 12, "together": 50 if LONG else 8}
SELF_TEST_REASON = "insulation monitor does not answer"


@pytest.fixture(scope="module")
def releases(unit_bench):
    make = unit_bench.release
    return {"2.0.0": make("2.0.0", 1), "2.1.0": make("2.1.0", 2), "2.2.0": make("2.2.0", 3)}


@pytest.fixture(scope="module")
def operations(unit_bench, releases):
    """Flash name -> the numbers of the operations of one undisturbed upgrade."""
    bench = ready(unit_bench, seed=1)
    first = {name: flash.operations + 1 for name, flash in bench.flashes.items()}
    report = bench.upgrade(releases["2.1.0"])
    assert report.outcome is Outcome.SUCCEEDED
    bench.run(5)
    return {name: range(first[name], flash.operations + 1) for name, flash in bench.flashes.items()}


def ready(unit_bench, *, seed):
    bench = unit_bench.Bench(seed=seed)
    bench.settle()
    return bench


def cut_all_together(bench):
    """Whoever loses power takes the others along: they hang on one supply."""
    devices = [bench.unit.master, *bench.unit.slaves]
    alone = {device: device.supply_failed for device in devices}

    def lose_together(first):
        others = [device for device in devices if device is not first and is_powered(device)]
        for device in (first, *others):
            alone[device]()

    def is_powered(device):
        return device.powered if device is bench.unit.master else device.node.is_powered

    for device in devices:
        device.supply_failed = lambda device=device: lose_together(device)


def run_with_cuts(unit_bench, releases, cuts, *, seed=1, together=False, self_test_fails=False):
    """One upgrade with these cuts; everything the unit promises is checked. The report, and whether a cut happened.

    With *together* a cut takes the supply of the whole unit.
    """
    bench = ready(unit_bench, seed=seed)
    if together:
        cut_all_together(bench)
    if self_test_fails:
        bench.unit.fail_self_test("2.1.0", SELF_TEST_REASON)
    for name, operation, phase in cuts:
        bench.flashes[name].cut_at(operation, phase)
    report = bench.upgrade(releases["2.1.0"])
    happened = any("power cut" in note.what for note in bench.trace.notes)
    promise(bench, releases, report)
    return report, happened


def promise(bench, releases, report):
    """What holds behind every upgrade, whatever befell it."""
    story = f"{report.outcome}: {report.reason}; {bench.story()}"
    bench.run(3)
    bench.settle()
    for flash in bench.flashes.values():
        flash.clear_cuts()

    # Old or new, the whole of it, and the report says which.
    versions = bench.versions()
    expected = "2.1.0" if report.outcome is Outcome.SUCCEEDED else "2.0.0"
    assert versions == (expected,) * len(versions), story
    assert tuple(str(node.version) for node in report.nodes) == versions, story
    assert [node.position for node in report.nodes] == [0, 1, 2], story
    assert report.outcome in {Outcome.SUCCEEDED, Outcome.ROLLED_BACK}, story
    assert bool(report.reason) is (report.outcome is not Outcome.SUCCEEDED), story
    assert not bench.platform.refused, f"{bench.platform.refused}; {story}"

    # It stays so: nothing is left in test that another power-on would change.
    bench.unit.cycle_power(1_000_000_000)
    bench.run(5)
    bench.settle()
    assert bench.versions() == versions, f"another version after a power cycle: {bench.story()}"
    if report.outcome is Outcome.SUCCEEDED:
        counters = [
            bench.unit.master.master.security_counter,
            *(slave.node._target._store.security_counter for slave in bench.unit.slaves),
        ]
        assert counters == [2, 2, 2], f"security counters {counters}; {story}"

    # And the unit is as good as before.
    following = bench.upgrade(releases["2.2.0"])
    assert following.outcome is Outcome.SUCCEEDED, f"second upgrade: {following.reason}; {bench.story()}"
    assert bench.versions() == ("2.2.0",) * len(versions), bench.story()
    # Whatever was changed on the way, and however often it was cut: an order did it.
    assert bench.platform.local_upgrades == [], bench.story()


def check(unit_bench, releases, cuts, **options):
    try:
        return run_with_cuts(unit_bench, releases, cuts, **options)
    except BaseException as error:
        error.add_note(f"failing case (flash, operation, phase): {cuts}, options {options}")
        raise


@pytest.mark.parametrize("flash", ["master", "shelf", "slave 1", "slave 2"])
def test_power_may_fail_at_any_flash_operation_of_an_upgrade(unit_bench, releases, operations, flash):
    """Every operation of this flash, before, inside or after it; in `make test` every second, and of slaves, which are alike, fewer."""
    outcomes = []
    numbers = thinned(operations[flash], {"slave 1": 3, "slave 2": 4}.get(flash, 2))
    for index, operation in enumerate(numbers):
        for phase in phases_at(index, PHASES):
            report, happened = check(unit_bench, releases, [(flash, operation, phase)])
            assert happened, f"the cut did not happen: {(flash, operation, phase)}"
            outcomes.append(report.outcome)
    # A cut costs the upgrade only while something is in test; the download and the report go on behind any.
    assert outcomes.count(Outcome.SUCCEEDED) >= len(outcomes) // 3
    if flash == "shelf":
        assert set(outcomes) == {Outcome.SUCCEEDED}


def test_the_power_of_the_whole_unit_may_fail_at_any_operation_of_the_master(unit_bench, releases, operations):
    """Master and slaves hang on one supply."""
    for index, operation in enumerate(thinned(operations["master"], 4)):
        for phase in phases_at(index, PHASES):
            check(unit_bench, releases, [("master", operation, phase)], together=True)


def test_power_may_fail_at_any_flash_operation_of_a_roll_back(unit_bench, releases):
    """The new image does not pass its self-test. Whatever is cut on the way back, all of the pack goes back."""
    bench = ready(unit_bench, seed=1)
    bench.unit.fail_self_test("2.1.0", SELF_TEST_REASON)
    first = {name: flash.operations + 1 for name, flash in bench.flashes.items()}
    report = bench.upgrade(releases["2.1.0"])
    assert (report.outcome, report.reason) == (Outcome.ROLLED_BACK, SELF_TEST_REASON)
    for name in ("master", "slave 1"):
        last = bench.flashes[name].operations
        # What comes before the self-test is tested above; the way back is the later half.
        for index, operation in enumerate(thinned(range((first[name] + last) // 2, last + 1), 2)):
            for phase in phases_at(index, PHASES):
                report, _ = check(unit_bench, releases, [(name, operation, phase)], self_test_fails=True)
                assert report.outcome is Outcome.ROLLED_BACK


def test_the_master_may_lose_its_supply_behind_any_command_it_gives(unit_bench, releases):
    """Between flash operations too: a slave has been told to try its image, and nobody is there to restart it.

    Method: count what the master asks for on the internal bus, and take its supply after the 1st, 2nd, ... n-th request,
    at once or when the node has had the time to do it.
    """
    count, _ = run_and_cut_at_request(unit_bench, releases, None, 0)
    assert count > 30
    for index, number in enumerate(thinned(range(1, count + 1), 2)):
        for delay_ms in phases_at(index, (0, 8)):
            try:
                run_and_cut_at_request(unit_bench, releases, number, delay_ms)
            except BaseException as error:
                error.add_note(f"failing case: supply lost {delay_ms} ms behind request {number}")
                raise


def run_and_cut_at_request(unit_bench, releases, number, delay_ms):
    bench = ready(unit_bench, seed=1)
    master = bench.unit.master
    count = 0

    def watch(frame, _now_ns):
        nonlocal count
        if frame.can_id == bench.wire.request_id:
            count += 1
            if count == number:
                bench.kernel.call_in(delay_ms * MS, master.supply_failed)

    bench.unit.bus.observe(watch)
    report = bench.upgrade(releases["2.1.0"])
    asked = count
    count = -(10**9)
    promise(bench, releases, report)
    return asked, report


@pytest.mark.parametrize("block", seeds(), ids="seed{}".format)
@pytest.mark.parametrize("supply", ["alone", "together"])
def test_power_may_fail_twice(unit_bench, releases, operations, supply, block):
    """Pairs of cuts anywhere, drawn from a seed; the second may hit the recovery from the first."""
    for seed in range(block * PAIRS[supply] + 1, (block + 1) * PAIRS[supply] + 1):
        random = Random(f"pairs {supply} {seed}")
        cuts = {}
        for _ in range(2):
            name = random.choice(sorted(operations))
            # Behind the last operation of an undisturbed upgrade too: a recovery takes more of them.
            operation = random.randrange(operations[name].start, operations[name].stop + 6)
            cuts[name, operation] = random.choice(PHASES)
        planned = [(name, operation, phase) for (name, operation), phase in cuts.items()]
        check(unit_bench, releases, planned, seed=seed, together=supply == "together")
