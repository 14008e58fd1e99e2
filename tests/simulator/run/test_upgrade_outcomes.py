"""Each outcome of an upgrade that a scenario can draw, against the reference cloud in virtual time: the cloud shows the status that is expected."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from bmsota_sim.embedded_cloud import MemoryCloud, unit_keys
from bmsota_sim.kernel import Kernel
from bmsota_sim.run.keys import RunKeys
from bmsota_sim.run.model import OUTCOMES
from bmsota_sim.run.runner import Run
from bmsota_sim.run.scenario import parse_scenario
from bmsota_sim.run.scenario_task import ApiAccount, ApiAccounts, ScenarioTask
from bmsota_sim.run.upgrade_outcomes import expected_statuses
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual

PASSWORD = "demo demo demo"
SHARES = ", ".join(f"{name}: 12.5%" for name in OUTCOMES)
SCENARIO = f"""
name: outcomes
duration: 130s
groups: {{ f: {{ profile: E7, count: 8, fidelity: full }} }}
life: {{ report: 20s, heartbeat: 30s, measure: 5s }}
ota: {{ release: "2.1.0", at: 3s, validity: 90s, project: Harbour, outcomes: {{ {SHARES} }} }}
"""


class NewestCode:
    """The code that the cloud has mailed, as a run gets it."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.wanted = "a mail"

    async def code(self, task_id):
        return self.cloud.newest_code()

    async def close(self):
        pass


class Played:
    """A scenario's task in virtual time. What it does by itself in real time is called here."""

    def __init__(self, text, seed=1):
        self.kernel = Kernel(VIRTUAL_START_NS)
        self.cloud = MemoryCloud(self.kernel, seed)
        keys = RunKeys(unit_keys(seed))
        self.run = Run(
            parse_scenario(text),
            seed,
            kernel=self.kernel,
            uplink=lambda _index: MemoryUplink(self.kernel, self.cloud, delay_ns=0),
            keys=keys,
            origins=[self.cloud.http_url],
        )
        client = self.cloud.http_client()
        accounts = ApiAccounts(ApiAccount("operator", PASSWORD), ApiAccount("administrator", PASSWORD))
        self.task = ScenarioTask(self.run, client, accounts, NewestCode(self.cloud), say=lambda _text: None)
        with asyncio.Runner() as runner, contextlib.closing(self.cloud):
            runner.run(self.task.prepare())
            self.run.start()
            self._until(3)
            runner.run(self.task._create())
            self.cloud.work()
            runner.run(self.task._approve())
            self._until(self.run.scenario.duration_s)
            runner.run(self.task.finish())
            runner.run(client.aclose())
        self.result = self.run.end()
        self.verdicts = {case.name: case.passed for case in self.result.cases}

    def _until(self, seconds):
        until_ns = self.run.start_ns + round(seconds * 1e9)
        run_virtual(self.kernel, lambda: False, until_ns=until_ns, tick=self.cloud.work)


@pytest.mark.slow
def test_every_outcome_ends_as_the_cloud_must_show_it():
    played = Played(SCENARIO)
    assert sorted(played.run.outcomes.values()) == sorted(OUTCOMES)
    assert {name: passed for name, passed in played.verdicts.items() if passed is not True} == {}, played.result.cases
    seen = {played.run.outcomes[unit]: upgrade for unit, upgrade in played.run.ledger.upgrades.items()}
    assert {name: upgrade.status for name, upgrade in seen.items() if name != "hangs_in_download"} == {
        "succeeds": "Upgrade succeeded",
        "rejects": "Rejected",
        "stays_queued": "Timed out",
        "fails_verification": "Upgrade failed",
        "times_out": "Timed out",
        "rolls_back": "Rolled back",
        "never_answers": "Timed out",
    }
    assert seen["hangs_in_download"].seen[-1] in {"Downloading", "Timed out"}
    assert "Downloading" in seen["hangs_in_download"].seen
    assert "To be downloaded" in seen["stays_queued"].seen
    assert "Downloading" not in seen["stays_queued"].seen
    assert "Download Complete" in seen["times_out"].seen
    assert seen["never_answers"].seen[-2:] == ("To be downloaded", "Timed out")
    # A unit that ends otherwise than it was drawn makes the run red, by name.
    unit = next(unit for unit, outcome in played.run.outcomes.items() if outcome == "rejects")
    played.run.ledger.upgrades[unit] = seen["succeeds"]
    case = next(case for case in played.run._upgrade_cases() if case.name == "upgrade outcome rejects")
    vin = played.run.ledger.units[unit].vin
    assert (case.passed, case.failing) == (False, (f"{unit} {vin}: Upgrade succeeded",))


@pytest.mark.parametrize(
    ("outcome", "validity", "left_s", "statuses"),
    [
        ("succeeds", "", None, ("Upgrade succeeded",)),
        ("never_answers", "", None, ("Approved", "To be downloaded")),
        ("never_answers", "validity: 90s,", 60.0, ("Approved", "To be downloaded")),
        ("never_answers", "validity: 90s,", 5.0, ("Approved", "To be downloaded", "Timed out")),
        ("never_answers", "validity: 90s,", -5.0, ("Approved", "To be downloaded", "Timed out")),
        ("never_answers", "validity: 90s,", -60.0, ("Timed out",)),
        ("hangs_in_download", "validity: 90s,", -60.0, ("Downloading", "Timed out")),
        ("rejects", "validity: 90s,", -60.0, ("Rejected",)),
    ],
)
def test_which_statuses_an_outcome_may_have(outcome, validity, left_s, statuses):
    text = SCENARIO.replace("validity: 90s,", validity)
    assert expected_statuses(outcome, parse_scenario(text).ota, valid_for_s=left_s) == statuses
