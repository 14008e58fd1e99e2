"""Whole units, in virtual time, against a platform and a network that misbehave, and with drivers who do not wait.

`Hostile` stands between the unit's modem and its platform and breaks single answers. A campaign draws its faults from a seed;
whatever happens while they last, the upgrade must succeed after them. A failing run prints the seed and its number.
"""

from __future__ import annotations

import gzip
from random import Random

import pytest
from bmsota_sim.kernel import SECOND
from bmsota_sim.virtual import MemoryUplink
from long_run import LONG, seeds

from bmsota.ota import Outcome, UpdaterState

HOUR_S = 3600
KINDS = ("challenge", "session", "confirm", "manifests", "images", "order")
HTML = b"<html><body>Sign in to the network</body></html>"
# Of one seed; four seeds make a thousand.
RUNS = 250 if LONG else 5
# How long the faults of a campaign last, and how often an answer has one.
FAULTS_S = HOUR_S
FAULT_SHARE = 0.25


class Hostile(MemoryUplink):
    """*fault(kind, request, response, n)* gives the steps of an answer in place of the honest ones, or None."""

    fault = staticmethod(lambda _kind, _request, _response, _n: None)

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.times = {kind: [] for kind in KINDS}

    def _respond(self, exchange, request, listener):
        if exchange != self._exchange:
            return
        kind = next(kind for kind in KINDS if kind in request.path)
        self.times[kind].append(self._kernel.now_ns)
        response = self._platform.respond(request)
        honest = [("head", response.status, dict(response.headers)), ("body", response.body), ("end", None)]
        steps = self.fault(kind, request, response, len(self.times[kind]))
        delay_ns = self._delay_ns
        for step in honest if steps is None else steps:
            if step[0] == "wait":
                delay_ns += round(step[1] * SECOND)
            else:
                self._kernel.call_in(delay_ns, self._step, exchange, listener, step)

    def _step(self, exchange, listener, step):
        if exchange != self._exchange:
            return
        what, *values = step
        if what == "head":
            listener.http_head(*values)
        elif what == "end":
            listener.http_ended(*values)
        elif values[0]:
            listener.http_body(*values)


@pytest.fixture
def made(unit_bench, monkeypatch):
    """A unit at rest behind a hostile network, which is still friendly."""
    monkeypatch.setattr(unit_bench, "MemoryUplink", Hostile, raising=False)

    def make(fault=None, *, seed=1):
        monkeypatch.setitem(unit_bench.Bench.__init__.__globals__, "MemoryUplink", Hostile)
        bench = unit_bench.Bench(seed=seed)
        bench.settle()
        if fault is not None:
            bench.uplink.fault = fault
        return bench

    return make


@pytest.fixture
def new(unit_bench):
    return unit_bench.release("2.1.0", 2)


def run_until(bench, condition, limit_s):
    end_ns = bench.kernel.now_ns + round(limit_s * SECOND)
    while not condition():
        assert bench.kernel.now_ns < end_ns, bench.story()
        bench.run(0.1)


def drive(bench, order_id, limit_s):
    """Until the report is there. The driver comes back a second after a download, and else once in ten minutes."""
    start_ns = came_ns = bench.kernel.now_ns
    while bench.platform.report_of(order_id) is None and bench.kernel.now_ns - start_ns < limit_s * SECOND:
        bench.run(1)
        state = bench.unit.master.upgrade_state
        is_bored = state is UpdaterState.IDLE and bench.kernel.now_ns - came_ns > 600 * SECOND
        if state is UpdaterState.DOWNLOAD_COMPLETE or is_bored:
            came_ns = bench.kernel.now_ns
            bench.unit.cycle_power(SECOND)
            bench.run(3)
    return bench.platform.report_of(order_id)


def stage(bench, new):
    """Everything is downloaded; the driver has not left yet."""
    order_id = bench.platform.offer(new)
    run_until(bench, lambda: bench.unit.master.upgrade_state is UpdaterState.DOWNLOAD_COMPLETE, 60)
    return order_id


def said(bench):
    return bench.platform.states[-1].reason


# -- the network -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_s2_n16_a_server_that_takes_one_request_and_is_silent_costs_half_a_minute(made, new, kind):
    bench = made(lambda found, _request, _response, n: [] if (found, n) == (kind, 1) else None)
    start_ns = bench.kernel.now_ns
    assert drive(bench, bench.platform.offer(new), HOUR_S).outcome is Outcome.SUCCEEDED
    assert bench.kernel.now_ns - start_ns < 100 * SECOND


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["order", "images"])
def test_s2_s33_a_silent_server_is_asked_seldom_and_holds_nobody(made, new, kind):
    """Six hours of silence: the pack never has to rest for it, and a unit without an order gives up until it is told again."""
    bench = made(lambda found, _request, _response, _n: [] if found == kind else None)
    order_id = bench.platform.offer(new)
    for _ in range(6 * 60):
        bench.run(60)
        assert not bench.unit.master.must_rest
    assert bench.unit.master.master.in_upgrade_mode is (kind == "images")
    assert len(bench.uplink.times[kind]) < 6 * 60
    bench.uplink.fault = lambda *_: None
    assert drive(bench, order_id, HOUR_S).outcome is Outcome.SUCCEEDED


def test_n10_an_image_behind_an_absolute_redirect_to_the_same_origin(made, new):
    def fault(kind, request, _response, _n):
        if kind != "images" or "moved" in request.path:
            return None
        return [("head", 302, {"Location": f"{bench.platform.url}{request.path}?moved"}), ("end", None)]

    bench = made()
    honest = bench.platform.respond
    bench.platform.respond = lambda request: honest(
        type(request)(request.method, request.path.removesuffix("?moved"), request.headers, request.body)
    )
    bench.uplink.fault = fault
    assert drive(bench, bench.platform.offer(new), HOUR_S).outcome is Outcome.SUCCEEDED


@pytest.mark.slow
def test_s33_two_units_come_back_at_different_times(made, new):
    """One Retry-After for a whole fleet, and each unit adds its own part of it."""

    def fault(kind, _request, _response, n):
        return [("head", 503, {"Retry-After": "100"}), ("end", None)] if (kind, n) == ("challenge", 1) else None

    gaps = []
    for seed in (1, 2):
        bench = made(fault, seed=seed)
        assert drive(bench, bench.platform.offer(new), HOUR_S).outcome is Outcome.SUCCEEDED
        first, second = bench.uplink.times["challenge"][:2]
        gaps.append((second - first) / SECOND)
    assert all(100 <= gap <= 201 for gap in gaps)
    assert abs(gaps[0] - gaps[1]) > 1


def broken_answer(random, response):
    """One answer with one passing fault."""
    head = ("head", response.status, dict(response.headers))
    body = response.body
    at = random.randrange(len(body)) if body else 0
    flipped = body[:at] + bytes([body[at] ^ 1 << random.randrange(8)]) + body[at + 1 :] if body else body

    def status(number, headers=None):
        return [("head", number, headers or {}), ("end", None)]

    faults = {
        "silent": [],
        "silent in the body": [head, ("body", body[:at])],
        "cut": [head, ("body", body[:at]), ("end", "connection reset")],
        "refused": [("end", "connection refused")],
        "a flipped bit": [head, ("body", flipped), ("end", None)],
        "shorter": [head, ("body", body[:-1]), ("end", None)],
        "gzip": [
            ("head", response.status, {"Content-Encoding": "gzip"}),
            ("body", gzip.compress(body, mtime=0)),
            ("end", None),
        ],
        "a web page": [("head", 200, {"Content-Type": "text/html"}), ("body", HTML), ("end", None)],
        "a web page without a type": [("head", 200, {}), ("body", HTML), ("end", None)],
        "a tiny page": [("head", 200, {}), ("body", b"x" * 41), ("end", None)],
        "nothing": [("head", 200, {}), ("end", None)],
        "a stranger": status(302, {"Location": "http://evil.example/x"}),
        "later": status(503, {"Retry-After": str(random.randrange(900))}),
        "slow": [head, *(step for byte in body[:90] for step in (("wait", 1), ("body", bytes([byte]))))],
    }
    numbers = (204, 301, 304, 400, 401, 403, 404, 408, 409, 410, 412, 416, 429, 500, 501, 502, 504, 507, 520)
    faults |= {str(number): status(number) for number in numbers}
    name = random.choice(sorted(faults))
    return name, faults[name]


@pytest.mark.long
@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: f"seed{seed}")
def test_campaigns_with_passing_faults_all_converge(made, new, seed):
    """Documents and images: a quarter of all answers are spoilt for an hour, and no upgrade ends of it."""
    for number in range(RUNS):
        random = Random(f"{seed}/{number}")
        happened = []

        def fault(kind, _request, response, _n, random=random, happened=happened):
            is_over = bench.kernel.now_ns - start_ns > FAULTS_S * SECOND  # noqa: B023 - of this run
            if is_over or random.random() > FAULT_SHARE:
                return None
            name, steps = broken_answer(random, response)
            happened.append(f"{kind}: {name}")
            return steps

        bench = made(fault, seed=number % 100 + 1)
        start_ns = bench.kernel.now_ns
        report = drive(bench, bench.platform.offer(new), 12 * HOUR_S)
        where = f"BMSOTA_LONG_SEEDS={seed}:{seed + 1}, run {number}: {happened} {report} {bench.story()}"
        assert report is not None, where
        assert report.outcome is Outcome.SUCCEEDED, where
        assert bench.versions() == ("2.1.0",) * 3, where
        bench.run(60)
        assert not bench.unit.master.master.in_upgrade_mode, where
        assert sum(len(times) for times in bench.uplink.times.values()) < 500, where


# -- the vehicle -----------------------------------------------------------------------------------------------------------


def spoil(bench, name):
    """Something that speaks against a switch, and how it is mended."""
    vehicle, packs = bench.unit.vehicle, bench.unit._packs
    if name == "charging":
        bench.unit.set_charging(is_charging=True)
        return lambda: bench.unit.set_charging(is_charging=False)
    if name == "12 V supply below 11.5 V":
        vehicle.supply_v = 11.0
        return lambda: setattr(vehicle, "supply_v", 13.8)
    if name == "a fault above level 2":
        vehicle.fault_level = 3
        return lambda: setattr(vehicle, "fault_level", 0)
    soc = packs.cell_soc.copy()
    packs.cell_soc[:] = 0.03

    def charge():
        packs.cell_soc[:] = soc

    return charge


@pytest.mark.parametrize(
    "name", ["charging", "12 V supply below 11.5 V", "a fault above level 2", "state of charge below 10 %"]
)
def test_p18_p20_at_the_power_on_nothing_is_switched_before_the_pack_rests(made, new, name):
    """It waits in the old image, says why, over power cycles too, and goes on by itself."""
    bench = made()
    order_id = stage(bench, new)
    mend = spoil(bench, name)
    for _ in range(2):
        bench.unit.cycle_power(SECOND)
        bench.run(30)
        assert bench.unit.master.upgrade_state is UpdaterState.WAITING_TO_SWITCH
        assert name in said(bench)
        assert bench.versions() == ("2.0.0",) * 3
        assert not bench.unit.master.must_rest
    mend()
    run_until(bench, lambda: bench.platform.report_of(order_id) is not None, 60)
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED


@pytest.mark.slow
def test_c12_an_order_that_is_put_off_at_thirty_starts_is_no_failure(made, new):
    bench = made()
    order_id = stage(bench, new)
    mend = spoil(bench, "charging")
    for _ in range(30):
        bench.unit.cycle_power(SECOND)
        bench.run(10)
    assert bench.unit.master.upgrade_state is UpdaterState.WAITING_TO_SWITCH
    assert bench.platform.report_of(order_id) is None
    assert bench.versions() == ("2.0.0",) * 3
    mend()
    run_until(bench, lambda: bench.platform.report_of(order_id) is not None, 60)
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED


@pytest.mark.slow
def test_p19_the_download_goes_on_while_the_vehicle_drives(made, new):
    bench = made()
    order_id = bench.platform.offer(new)
    run_until(bench, lambda: bench.unit.master.upgrade_state is UpdaterState.DOWNLOADING, 30)
    bench.unit.set_driving(is_driving=True)
    assert bench.unit.vehicle.speed_kmh > 0, "nothing forbids it"
    bench.unit.set_coverage(covered=False)
    bench.run(400)
    bench.unit.set_coverage(covered=True)
    run_until(bench, lambda: bench.unit.master.upgrade_state is UpdaterState.DOWNLOAD_COMPLETE, 900)
    assert bench.unit.vehicle.speed_kmh > 0
    bench.unit.cycle_power(SECOND)
    bench.run(30)
    assert said(bench).startswith("driving")
    assert bench.versions() == ("2.0.0",) * 3
    bench.unit.set_driving(is_driving=False)
    run_until(bench, lambda: bench.platform.report_of(order_id) is not None, 60)
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED


def test_p19_a_driver_in_a_hurry_waits_for_the_flash_and_no_longer(made, new):
    """While nodes are flashed, switched and tested the vehicle stays; then it drives off, and charges only when told."""
    bench = made()
    order_id = stage(bench, new)
    bench.unit.cycle_power(SECOND)
    run_until(bench, lambda: bench.unit.master.upgrade_state is UpdaterState.FLASHING_SLAVES, 60)
    bench.unit.set_driving(is_driving=True)
    bench.unit.set_charging(is_charging=True)
    assert (bench.unit.vehicle.speed_kmh, bench.unit.vehicle.is_charging) == (0, False)
    assert any(note.what == "stays: the pack must rest" for note in bench.trace.notes)
    bench.unit.set_charging(is_charging=False)
    while bench.platform.report_of(order_id) is None:
        assert not (bench.unit.master.must_rest and bench.unit.vehicle.speed_kmh)
        bench.run(0.05)
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED
    bench.run(1)
    assert bench.unit.vehicle.speed_kmh > 0


@pytest.mark.slow
def test_p18_a_charger_that_begins_at_the_switch_is_waited_for_in_the_test_boot_and_then_the_pack_goes_back(made, new):
    bench = made()
    order_id = stage(bench, new)
    bench.unit.cycle_power(SECOND)
    run_until(
        bench, lambda: bench.unit.master.upgrade_state is UpdaterState.RESETTING or bench.versions()[0] == "2.1.0", 60
    )
    # A charger that does not ask.
    bench.unit.vehicle.is_charging = True
    bench.unit._driver._wants = (False, True)
    run_until(bench, lambda: bench.unit.master.upgrade_state is UpdaterState.WAITING_FOR_REST, 10)
    assert "charging" in said(bench)
    bench.run(1700)
    assert bench.versions() == ("2.1.0", "2.0.0", "2.0.0")
    run_until(bench, lambda: bench.platform.report_of(order_id) is not None, 200)
    report = bench.platform.report_of(order_id)
    assert report.outcome is Outcome.ROLLED_BACK
    assert "the pack did not come to rest" in report.reason
    assert bench.versions() == ("2.0.0",) * 3


def test_s4_an_image_that_was_staged_400_days_ago_is_not_switched_to(made, new):
    """The order has expired meanwhile: the platform is asked, and gives a renewed one."""
    bench = made()
    stage(bench, new)
    bench.unit.switch_off()
    bench.run(3)
    bench.kernel.run_until(bench.kernel.now_ns + 200 * 24 * HOUR_S * SECOND)
    old = bench.platform.order
    bench.unit.switch_on()
    bench.run(300)
    assert bench.versions() == ("2.0.0",) * 3
    assert len(bench.uplink.times["order"]) > 2
    assert "freeze: expected order to be valid" in said(bench)
    order_id = bench.platform.offer(new)
    assert order_id != old.order_id
    run_until(bench, lambda: bench.platform.report_of(order_id) is not None, 900)
    assert bench.platform.report_of(order_id).outcome is Outcome.SUCCEEDED
