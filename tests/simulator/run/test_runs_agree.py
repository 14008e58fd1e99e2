"""The platform's histories against what the simulator knows: runs, faults and energy of a day, through the gateway, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.vehicle_history import FaultFilter
from bmsota_sim.campaign import PASSWORD
from bmsota_sim.embedded_cloud import MemoryCloud, unit_keys
from bmsota_sim.kernel import Kernel
from bmsota_sim.life import Activity, DailyLife
from bmsota_sim.run.api_access import ApiAccount, ApiAccounts
from bmsota_sim.run.keys import RunKeys
from bmsota_sim.run.runner import Run
from bmsota_sim.run.scenario import parse_scenario
from bmsota_sim.run.scenario_task import ScenarioTask
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual

KINDS = {Activity.DRIVING: "driving", Activity.CHARGING: "charging"}
EDGES_WH = 2 * 6600 / 3600
"""What a charge takes in two seconds: its edges lie between two reports."""
SCENARIO = """
name: truth
description: A day, in which the platform and the simulator have to agree.
duration: {duration}
start: {{ over: 10s }}
groups:
  f7: {{ profile: F7, count: {count}, city: Shanghai, soc: 80, soc_spread: 15 }}
  e7: {{ profile: E7, count: {count}, city: Beijing, soc: 70, soc_spread: 20, edition: 2025 }}
life: {{ {life}, charge: {{ from: "{charge}", to_pct: 95 }}, ambient: 5..28C, report: {report}, measure: {report} }}
network: {{ latency: 60ms, jitter: 40ms }}
timeline:
{timeline}
expect:
  - {{ what: refused, is: 0 }}
"""


@dataclass
class Truth:
    """What a vehicle did from one change of its activity to the next."""

    kind: str
    start_s: float
    end_s: float
    out_wh: float
    in_wh: float


class Observed:
    """What every vehicle of a simulator does, from outside: its activity and its pack's energy before and behind each step."""

    def __init__(self, monkeypatch):
        self.runs = {}
        self.begun = {}
        advance = DailyLife.advance

        def watched(life, now_s, dt_s, **options):
            before = life.activity.copy()
            totals = self.totals(life)
            rows = advance(life, now_s, dt_s, **options)
            for row in (life.activity != before).nonzero()[0].tolist():
                self.change(life, row, now_s, before[row], totals)
            return rows

        monkeypatch.setattr(DailyLife, "advance", watched)

    @staticmethod
    def totals(life):
        return life.energy_out_j.copy(), life.energy_in_j.copy()

    def change(self, life, row, now_s, before, totals):
        owner = life.owners[row]
        # What a steady row was behind has been caught up with in this very step.
        out_j, in_j = (float(each[row]) for each in self.totals(life))
        if before in KINDS:
            since_s, from_out, from_in = self.begun[owner]
            run = Truth(KINDS[before], since_s, now_s, (out_j - from_out) / 3600, (in_j - from_in) / 3600)
            self.runs.setdefault(owner, []).append(run)
        self.begun[owner] = (now_s, out_j, in_j)


class Seldom:
    """Ten minutes between two calls are enough for what the platform does beside answering."""

    def __init__(self, kernel, work):
        self.kernel, self.work, self.next_ns = kernel, work, 0

    def __call__(self):
        if self.kernel.now_ns >= self.next_ns:
            self.next_ns = self.kernel.now_ns + 600 * 10**9
            self.work()


def played(monkeypatch, **given):
    """The observed truth, the run, and the cloud's services behind it, open."""
    observed = Observed(monkeypatch)
    kernel = Kernel(VIRTUAL_START_NS)
    cloud = MemoryCloud(kernel, 1)
    run = Run(
        parse_scenario(SCENARIO.format(**given)),
        1,
        kernel=kernel,
        uplink=lambda _index: MemoryUplink(kernel, cloud, delay_ns=0),
        keys=RunKeys(unit_keys(1)),
        origins=[cloud.http_url],
    )
    client = cloud.http_client()
    accounts = ApiAccounts(ApiAccount("operator", PASSWORD), ApiAccount("administrator", PASSWORD))
    task = ScenarioTask(run, client, accounts, None, say=lambda _text: None)
    with asyncio.Runner() as runner:
        runner.run(task.prepare())
        run.start()
        until_ns = run.start_ns + run.duration_ns
        run_virtual(kernel, lambda: run.is_over, until_ns=until_ns, tick=Seldom(kernel, cloud.work))
        result = run.end()
        runner.run(client.aclose())
    assert {case.name: case.failing for case in result.cases if case.passed is not True} == {}
    return observed, run, cloud


@pytest.mark.long
def test_every_run_of_the_simulator_is_a_run_of_the_platform(monkeypatch):
    """A report a second: a driving cycle changes its power from one second to the next, and what lies between reports nobody measures."""
    observed, run, cloud = played(
        monkeypatch,
        duration="61min",
        count=1,
        report="1s",
        life="trips: udds, trips_per_day: 14",
        charge="23:00",
        timeline="  - { at: 57min, do: charging, who: [f7, e7], for: 3min, power_kw: 6.6 }",
    )
    midnight_s = run.start_ns // 10**9 - 8 * 3600
    services = cloud._cloud.services
    by = services.accounts.log_in(name="administrator", password=PASSWORD, now=cloud._cloud.now()).account
    with contextlib.closing(cloud):
        for unit, each in run.ledger.units.items():
            page = services.vehicle_histories.runs(each.vin, PageRequest(), by=by, now=cloud._cloud.now())
            told = ([page.last] if page.last else []) + list(page.items)
            truth = observed.runs[str(unit)]
            assert [shown.kind for shown in told[::-1]] == [known.kind for known in truth]
            assert {known.kind for known in truth} == {"driving", "charging"}
            for shown, known in zip(told[::-1], truth, strict=True):
                begun, ended = shown.started_at.timestamp() - midnight_s, shown.ended_at.timestamp() - midnight_s
                assert known.start_s <= begun <= known.start_s + 2
                assert known.end_s - 2 <= ended <= known.end_s + 1
                assert shown.gap_s == 0
                net = shown.energy_out_wh - shown.energy_in_wh
                assert net == pytest.approx(known.out_wh - known.in_wh, rel=0.01, abs=EDGES_WH)
            assert services.vehicle_histories.faults(each.vin, PageRequest(), FaultFilter(), by=by).total == 0
