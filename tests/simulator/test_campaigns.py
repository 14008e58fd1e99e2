"""Whole units under faults that pass and faults that do not, in virtual time, thousands of them.

A campaign is one upgrade of one unit while its world misbehaves: every response of the platform may be spoiled
(`hostile_uplink.PASSING`), the network comes and goes, the driver drives, charges, switches off and on, supplies fail at any
flash operation. Then the faults stop, and the unit has a day. What has to hold is written in `promise`.

The kinds: `passing` faults alone, with power `cuts`, with `lies` of somebody in the way, and `everything`: all of that and one or two
worn cells in any area of master and slaves. A worn unit may end an order as "flash worn"; what it must do is in `promise_of_worn`.

A failing campaign prints its seed; `BMSOTA_CAMPAIGN=<kind>:<seed>` runs that one alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from random import Random

import pytest
from bmsota_sim.devices.flash import CellFault
from bmsota_sim.kernel import SECOND
from hostile_uplink import PASSING, Body, End, Head, HostileUplink
from long_run import LONG, seeds
from worn_cells import AREAS, is_lost, wear_somewhere

from bmsota.ota import Outcome, UpdaterState

pytestmark = pytest.mark.long

CAMPAIGNS = {"passing": 20, "cuts": 20, "lies": 20, "everything": 18}
"""By kind, of one seed of the run."""
CAMPAIGNS_LONG = 625
"""Of each kind and seed: four kinds and the four seeds of `make test-long` are 10,000."""
LIES_SHARE = 0.5
FAULTS_MAX_S = 2 * 3600
DAY_S = 24 * 3600
TRIP_S = 3 * 3600
"""The driver switches off and on at least this often."""
FACTORY, ORDERED, FOLLOWING = "2.0.0", "2.1.0", "2.2.0"


@pytest.fixture(scope="module")
def releases(unit_bench):
    return {
        FACTORY: unit_bench.release(FACTORY, 1),
        ORDERED: unit_bench.release(ORDERED, 2),
        FOLLOWING: unit_bench.release(FOLLOWING, 3),
    }


class Lies:
    """What somebody in the way says who has heard much and can sign nothing that counts, or one thing too many."""

    def __init__(self, bench, unit_bench, releases, draw):
        self.bench, self.random = bench, draw
        self.parts, self.releases = unit_bench, releases
        self.stranger = unit_bench._key(99)

    def about(self, kind, response):
        """A name and the steps of a lie for an exchange of *kind*; None when there is none."""
        lies = {
            "challenge": [("another challenge", self.answer(response, self.random.randbytes(len(response.body))))],
            "session": [("another token", self.json(response, {"token": "stolen", "expires_at_s": 2**40}))],
            "order": self.orders(response),
            "manifests": self.manifests(response),
            "confirm": [
                ("cancelled", (Head(409, {}), Body(b""), End())),
                ("not this", self.json(response, {"decision": "rejected"})),
            ],
            "images": [("another image", self.another_image(response))],
        }.get(kind)
        return self.random.choice(lies) if lies else None

    def answer(self, response, body):
        return (Head(response.status, response.headers), Body(body), End())

    def json(self, response, value):
        return self.answer(response, json.dumps(value).encode())

    def orders(self, response):
        order = self.bench.platform.order
        if order is None:
            return []
        forged = replace(order, sequence=order.sequence + 5, software_version="9.9.9")
        then_s = order.issued_s - 3 * DAY_S
        long_ago = replace(order, issued_s=then_s, approved_s=then_s, expires_s=then_s + DAY_S)
        return [
            ("forged order", self.answer(response, self.parts.sign_order(forged, self.stranger))),
            ("another vehicle's order", self.answer(response, self.sign(replace(order, vin="LTEST00000000099Z")))),
            ("another unit's order", self.answer(response, self.sign(replace(order, hwid="T1-M-00099")))),
            ("an order that has expired", self.answer(response, self.sign(long_ago))),
        ]

    def sign(self, order):
        return self.parts.sign_order(order, self.parts.ORDER_KEY)

    def manifests(self, response):
        other = self.releases[FOLLOWING].manifest
        return [
            ("another release's manifest", self.answer(response, other)),
            ("forged manifest", self.answer(response, other[:-8] + self.random.randbytes(8))),
        ]

    def another_image(self, response):
        other = self.releases[FOLLOWING].master
        size = len(response.body)
        return self.answer(response, (other * (size // len(other) + 1))[:size])


class Campaign:
    """One unit, one order, and what happens around it."""

    def __init__(self, unit_bench, releases, *, number, has_cuts=False, is_lied_to=False, is_worn=False):
        self.random = Random(f"campaign {number}")
        self.bench = unit_bench.Bench(
            seed=number + 1, uplink=HostileUplink, measure_period_s=10, cuts_are_unstable=is_worn
        )
        self.bench.settle()
        self.releases = releases
        self.happened: list[str] = []
        self.complete_since: int | None = None
        self.order_id = ""
        draw = self.random
        # How often a response is spoiled, and by what: some campaigns know one fault only, and much of it.
        self.rate = draw.choice((0.1, 0.3, 0.6, 0.9))
        self.faults = draw.sample(sorted(PASSING), draw.choice((1, 3, len(PASSING))))
        self.faults_end_ns = self.bench.kernel.now_ns + round(draw.uniform(60, FAULTS_MAX_S) * SECOND)
        self.bench.uplink.fault = self.spoil
        self.lies = Lies(self.bench, unit_bench, releases, draw) if is_lied_to else None
        self.next_trip_ns = self.bench.kernel.now_ns + TRIP_S * SECOND
        self.plan_world()
        if has_cuts:
            self.plan_cuts()
        self.is_worn = is_worn
        if is_worn:
            self.plan_wear()

    @property
    def is_hostile(self):
        return self.bench.kernel.now_ns < self.faults_end_ns

    def spoil(self, kind, request, response, _number):
        if not self.is_hostile or self.random.random() >= self.rate:
            return None
        if self.lies and self.random.random() < LIES_SHARE:
            lie = self.lies.about(kind, response)
            if lie is not None:
                name, steps = lie
                self.happened.append(f"{kind}: {name}")
                return steps
        name = self.random.choice(self.faults)
        self.happened.append(f"{kind}: {name}")
        return PASSING[name](request, response, self.random)

    # -- the world -------------------------------------------------------------------------------------------------------

    def plan_world(self):
        """The network comes and goes, the driver drives."""
        draw, unit, kernel = self.random, self.bench.unit, self.bench.kernel
        length_s = (self.faults_end_ns - kernel.now_ns) / SECOND
        for _ in range(draw.randrange(4)):
            start_s = draw.uniform(0, length_s)
            kernel.call_in(round(start_s * SECOND), lambda: unit.set_coverage(covered=False))
            until_s = min(length_s, start_s + draw.uniform(1, 600))
            kernel.call_in(round(until_s * SECOND), lambda: unit.set_coverage(covered=True))
        for _ in range(draw.randrange(3)):
            start_s = draw.uniform(0, length_s)
            kernel.call_in(round(start_s * SECOND), lambda: unit.set_driving(is_driving=True))
            until_s = min(length_s, start_s + draw.uniform(1, 900))
            kernel.call_in(round(until_s * SECOND), lambda: unit.set_driving(is_driving=False))

    def plan_cuts(self):
        """Supplies fail, somewhere in the flash operations of an upgrade."""
        for _ in range(self.random.choice((1, 1, 2, 3))):
            name = self.random.choice(sorted(self.bench.flashes))
            flash = self.bench.flashes[name]
            flash.cut_at(
                flash.operations + self.random.randrange(1, 120), self.random.choice(("before", "inside", "after"))
            )

    def plan_wear(self):
        """One cell or two wear out: most of them while it is downloaded, switched and flashed, some at any time."""
        draw, kernel = self.random, self.bench.kernel
        length_s = (self.faults_end_ns - kernel.now_ns) / SECOND
        for _ in range(draw.choice((1, 1, 1, 2))):
            at_s = draw.choice((0, draw.uniform(0, 40), draw.uniform(0, length_s), length_s))
            area, fault = draw.choice(AREAS), draw.choice(list(CellFault))
            slave = draw.randrange(1, len(self.bench.unit.slaves) + 1)
            kernel.call_in(round(at_s * SECOND), self.wear, area, fault, slave)

    def wear(self, area, fault, slave):
        self.happened.append(wear_somewhere(self.bench, area, fault, self.random, slave=slave))

    # -- the run ---------------------------------------------------------------------------------------------------------

    def run(self):
        """From the order to the end of the day behind the faults."""
        self.order_id = self.bench.platform.offer(self.releases[ORDERED])
        end_ns = self.faults_end_ns + DAY_S * SECOND
        while self.bench.kernel.now_ns < end_ns and not (self.is_over() and not self.is_hostile):
            self.step(end_ns)
        return self.bench.platform.report_of(self.order_id)

    def is_over(self):
        master = self.bench.unit.master
        return (
            self.bench.platform.report_of(self.order_id) is not None
            and self.bench.is_up()
            and master.upgrade_state is UpdaterState.IDLE
        )

    def step(self, end_ns):
        """A little further; the driver leaves and comes back when a download is complete, and now and then in any case."""
        bench = self.bench
        bench.kernel.run_until(min(end_ns, bench.kernel.now_ns + 2 * SECOND))
        if bench.unit.master.upgrade_state is UpdaterState.DOWNLOAD_COMPLETE:
            self.complete_since = self.complete_since or bench.kernel.now_ns
            if bench.kernel.now_ns - self.complete_since >= 5 * SECOND:
                self.complete_since = None
                bench.unit.cycle_power(SECOND)
        else:
            self.complete_since = None
        if bench.kernel.now_ns >= self.next_trip_ns and bench.is_up():
            self.next_trip_ns = bench.kernel.now_ns + TRIP_S * SECOND
            bench.unit.cycle_power(SECOND)


def promise(campaign, report):
    """What holds behind every campaign."""
    bench = campaign.bench
    for flash in bench.flashes.values():
        flash.clear_cuts()
    bench.uplink.fault = None
    state = bench.unit.master.upgrade_state
    assert bench.is_up(), "the unit does not come up"
    assert report is not None, f"no report a day after the faults stopped; {state}"
    assert state is UpdaterState.IDLE, f"still {state} a day after the faults stopped"
    versions = bench.versions()
    expected = ORDERED if report.outcome is Outcome.SUCCEEDED else FACTORY
    assert versions == (expected,) * len(versions), f"{report.outcome} reported, {versions} run"
    assert tuple(str(node.version) for node in report.nodes) == versions, (
        "the report says something else than what runs"
    )
    bench.unit.cycle_power(SECOND)
    bench.run(5)
    bench.settle()
    assert bench.versions() == versions, f"another version after a power cycle: {bench.versions()}"
    following = bench.upgrade(campaign.releases[FOLLOWING])
    assert following.outcome is Outcome.SUCCEEDED, f"locked out: {following.reason}"
    assert bench.versions() == (FOLLOWING,) * len(versions), "the next upgrade was reported and did not happen"


def promise_of_worn(campaign, report):
    """What holds behind a campaign with worn cells: what cannot be carried out is told, and an image that is intact runs."""
    bench = campaign.bench
    for flash in bench.flashes.values():
        flash.clear_cuts()
    bench.uplink.fault = None
    try:
        before = (FACTORY,) * len(bench.versions())
        promise_ended(campaign, report, ORDERED, before)
        for _ in range(2):
            # The rest behind an upgrade, in which copies are made, and power-ons.
            bench.run(30)
            bench.unit.cycle_power(SECOND)
            bench.run(5)
            bench.settle()
        before = bench.versions()
        promise_ended(campaign, bench.upgrade(campaign.releases[FOLLOWING]), FOLLOWING, before)
    except AssertionError:
        if not is_lost(bench, campaign.releases.values()):
            raise


def promise_ended(campaign, report, new, old):
    """No brick, no wrong image, no mixed pack that is not told, no upgrade mode; and if it did not work, the reason."""
    bench = campaign.bench
    state = bench.unit.master.upgrade_state
    assert bench.is_up(), "the unit does not come up"
    assert report is not None, f"no report a day after the faults stopped; {state}"
    assert state is UpdaterState.IDLE, f"still {state} a day after the faults stopped"
    assert not bench.unit.master.master.in_upgrade_mode, "in upgrade mode without an order"
    versions = bench.versions()
    campaign.happened.append(f"{report.outcome.value} {report.reason!r}")
    if report.outcome is Outcome.SUCCEEDED:
        assert set(versions) == {new}, versions
        return
    assert report.reason, "no reason"
    if report.mixed_pack or "mixed pack" in report.reason:
        assert tuple(str(node.version) for node in report.nodes) == versions, versions
    else:
        assert versions == old, versions


def check(unit_bench, releases, kind, number, *, converges):
    campaign = Campaign(
        unit_bench,
        releases,
        number=number,
        has_cuts=kind in {"cuts", "everything"},
        is_lied_to=kind in {"lies", "everything"},
        is_worn=kind == "everything",
    )
    try:
        report = campaign.run()
        (promise_of_worn if campaign.is_worn else promise)(campaign, report)
        if converges:
            assert report.outcome is Outcome.SUCCEEDED, f"{report.outcome}: {report.reason}"
    except BaseException as error:
        last = ", ".join(campaign.happened[-12:])
        error.add_note(
            f"replay: BMSOTA_CAMPAIGN={kind}:{number} python -m pytest tests/simulator/test_campaigns.py\n"
            f"faults {campaign.faults} at {campaign.rate}; the last: {last}\n{campaign.bench.story()}"
        )
        raise


def numbers(kind, seed):
    asked = os.environ.get("BMSOTA_CAMPAIGN")
    if asked:
        wanted, number = asked.split(":")
        return [int(number)] if wanted == kind else []
    count = CAMPAIGNS_LONG if LONG else CAMPAIGNS[kind]
    return range(seed * count, (seed + 1) * count)


@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: f"seed{seed}")
def test_faults_that_pass_end_no_upgrade(unit_bench, releases, seed):
    """Whatever befalls the responses for a while, documents included: behind it the upgrade is carried out."""
    for number in numbers("passing", seed):
        check(unit_bench, releases, "passing", number, converges=True)


@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: f"seed{seed}")
def test_faults_and_power_cuts_leave_a_whole_pack_that_is_reported(unit_bench, releases, seed):
    """With supplies that fail on the way: old or new, the whole of it, said so, and the next upgrade is good."""
    for number in numbers("cuts", seed):
        check(unit_bench, releases, "cuts", number, converges=False)


@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: f"seed{seed}")
def test_nobody_in_the_way_decides_anything(unit_bench, releases, seed):
    """Forged, foreign and old documents, other images, false cancellations beside the faults: the pack stays whole and can be upgraded."""
    for number in numbers("lies", seed):
        check(unit_bench, releases, "lies", number, converges=False)


@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: f"seed{seed}")
def test_everything_at_once_bricks_no_unit_and_is_told(unit_bench, releases, seed):
    """Faults, lies, power cuts and worn cells of any area together: an intact image runs, and what did not work is told."""
    for number in numbers("everything", seed):
        check(unit_bench, releases, "everything", number, converges=False)
