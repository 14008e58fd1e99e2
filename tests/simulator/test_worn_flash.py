"""Worn cells anywhere in a unit, with power cuts: no unit stays dead, no order ends in silence, none ends wrong.

Method: one upgrade of a master and two slaves in virtual time. At a moment drawn from the seed one cell of one area wears out (it
cannot be programmed, or erased; it is unstable, or unreadable), and in half of the runs the power fails inside one or two flash
operations, too. The driver only leaves and comes back. Then the unit must be a whole one: every node boots, the report says what
the nodes run, and the next upgrade succeeds or is refused by name.

    BMSOTA_LONG=1 BMSOTA_LONG_SEEDS=0:1 python -m pytest tests/simulator/test_worn_flash.py     seeds 0 to 2499
    BMSOTA_WORN_SEED=17 python -m pytest tests/simulator/test_worn_flash.py                     one seed again
"""

from __future__ import annotations

import os
from random import Random

import pytest
from bmsota_sim.devices.flash import CellFault
from bmsota_sim.kernel import SECOND
from long_run import LONG, seeds
from worn_cells import AREAS, is_lost, wear_somewhere

from bmsota.ota import Outcome

pytestmark = pytest.mark.long

RUNS = 2500 if LONG else 12


@pytest.fixture(scope="module")
def releases(unit_bench):
    make = unit_bench.release
    return {"2.0.0": make("2.0.0", 1), "2.1.0": make("2.1.0", 2), "2.2.0": make("2.2.0", 3)}


class WornRun:
    """One seed: the unit, its worn cell and its cuts."""

    def __init__(self, unit_bench, releases, seed):
        self.random = random = Random(f"worn unit {seed}")
        self.releases = releases
        self.bench = bench = unit_bench.Bench(seed=1 + seed % 5, cuts_are_unstable=True)
        bench.settle()
        self.area = random.choice(AREAS)
        self.fault = random.choice(list(CellFault))
        self.story = f"seed {seed}: {self.area}, {self.fault.value}"
        # In virtual time, from the order on: download, switch, slaves, report, or in the rest behind it.
        wear_at_s = random.choice((0, random.uniform(0, 4), random.uniform(0, 12), random.uniform(0, 40)))
        bench.kernel.call_in(round(wear_at_s * SECOND), self.wear)
        for _ in range(random.choice((0, 0, 1, 2))):
            name = random.choice(sorted(bench.flashes))
            flash = bench.flashes[name]
            operation = flash.operations + random.randint(1, 40)
            if operation not in flash._cuts:
                flash.cut_at(operation, random.choice(("before", "inside", "after")))
                self.story += f"; cut {name} {operation}"

    def wear(self):
        self.story += f"; {wear_somewhere(self.bench, self.area, self.fault, self.random)}"

    def is_lost(self):
        """Whether a node is dead because no image was left that its counter allows, by the cells of the unit's flashes."""
        return is_lost(self.bench, self.releases.values())

    def check(self):
        try:
            self.check_whole()
        except AssertionError:
            if not self.is_lost():
                raise

    def check_whole(self):
        bench, releases = self.bench, self.releases
        report = bench.upgrade(releases["2.1.0"])
        self.story += f"; {report.outcome.value} {report.reason!r}"
        # The rest behind an upgrade, in which copies are made, and several power-ons.
        for _ in range(3):
            bench.run(20)
            bench.settle()
            bench.unit.cycle_power(SECOND)
            bench.run(5)
            bench.settle()
        for flash in bench.flashes.values():
            flash.clear_cuts()
        self.check_ended(report, "2.1.0", ("2.0.0",) * 3)
        before = bench.versions()
        following = bench.upgrade(releases["2.2.0"])
        self.story += f"; then {following.outcome.value} {following.reason!r}"
        self.check_ended(following, "2.2.0", before)

    def check_ended(self, report, new, old):
        versions = self.bench.versions()
        assert report.outcome is Outcome.SUCCEEDED or report.reason
        if report.outcome is Outcome.SUCCEEDED:
            assert set(versions) == {new}, versions
        elif "mixed pack" in report.reason:
            assert tuple(str(node.version) for node in report.nodes) == versions, versions
        elif versions != old:
            # An image has rotted behind the report, and the other one runs: the signed identity says so.
            told = self.bench.platform.identities[-1]
            assert tuple(str(node.version) for node in told.nodes) == versions, (versions, told)
            assert bool(told.mixed_pack) is (len(set(versions)) > 1), told


def run(unit_bench, releases, seed):
    worn = None
    try:
        worn = WornRun(unit_bench, releases, seed)
        worn.check()
    except BaseException as error:
        error.add_note(worn.story if worn is not None else f"seed {seed}")
        error.add_note(f"replay: BMSOTA_WORN_SEED={seed} python -m pytest tests/simulator/test_worn_flash.py")
        raise


@pytest.mark.parametrize("block", seeds(), ids="seed{}".format)
def test_a_unit_with_a_worn_cell(unit_bench, releases, block):
    single = os.environ.get("BMSOTA_WORN_SEED")
    wanted = [int(single)] if single else range(block * RUNS, (block + 1) * RUNS)
    for seed in wanted:
        run(unit_bench, releases, seed)
