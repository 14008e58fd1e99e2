"""The ready scenarios run to their end in virtual time, with few units, and are green against a platform without fault."""

from __future__ import annotations

import json
import re

import pytest
from bmsota_sim._commands import app
from bmsota_sim.run.scenario import packaged_names, packaged_text
from long_run import LONG
from typer.testing import CliRunner

# The fewest units that each works with, and how often slaves measure: what is judged does not depend on it.
SCENARIOS = {
    "storm": (2, "10s"),
    "cloud-outage": (1, "60s"),
    "slave-swap": (5, "10s"),
    "thermal-event": (4, "10s"),
    "real-habits": (5, "60s"),
    "daily": (2, "60s"),
    "soak": (2, "60s"),
}
# Hours of virtual time: 13 to 26 CPU-seconds each.
LONG_ONES = {"real-habits", "daily", "soak"}
# They need a platform's API: tests of `--api`.
WITH_API = {"ota-rollout", "bad-release"}


def test_all_are_here():
    assert set(packaged_names()) == SCENARIOS.keys() | WITH_API


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_ready_scenario_runs_to_its_end_and_is_green(name, tmp_path):
    """What the units of this version cannot do is red, and nothing else is."""
    if name in LONG_ONES and not LONG:
        pytest.skip("hours of virtual time: make test-long")
    count, measure = SCENARIOS[name]
    text, changed = re.subn(r"(report: \d+s)", rf"\1, measure: {measure}", packaged_text(name))
    assert changed
    (tmp_path / f"{name}.yaml").write_text(text)
    result = CliRunner().invoke(
        app,
        ["run", str(tmp_path / f"{name}.yaml"), "--virtual", "--count", str(count), "--report", str(tmp_path / "out")],
    )
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    undone = {event["do"] for event in report["events"] if "cannot do" in event["text"]}
    red = {verdict["name"] for verdict in report["verdicts"] if verdict["passed"] is False}
    if undone:
        assert result.exit_code == 3, result.output
        assert "every planned event happened" in red
        # An alarm comes of a fault that was not done.
        assert all(name == "every planned event happened" or name.startswith("alarms of ") for name in red), red
    else:
        assert result.exit_code == 0, result.output
    assert {event["outcome"] for event in report["events"] if event["do"] not in undone} <= {"happened"}
    assert not [verdict for verdict in report["verdicts"] if verdict["passed"] is None]
    assert report["ran_s"] == report["series"]["at_s"][-1]
    assert report["started"] == count
    assert (tmp_path / "out" / "report.html").stat().st_size < 500_000


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_ready_scenario_goes_with_few_units_and_any_seed(name):
    for seed in range(1, 6):
        result = CliRunner().invoke(app, ["check", name, "--count", str(SCENARIOS[name][0]), "--seed", str(seed)])
        assert result.exit_code == 0, result.output
