"""`bmsota-sim` as its user meets it: exit codes, and one clear line for a mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from bmsota_sim._commands import app
from bmsota_sim.cli import main
from bmsota_sim.scenario import packaged_scenario
from typer.testing import CliRunner

pytestmark = pytest.mark.slow

SMALL = """
name: small
duration_s: 60
report_period_s: 5
link_rate_bytes_per_s: 20000
fleet: [{ series: E7, count: 1 }]
power_cycle: { after_download_s: 1, off_s: 1 }
campaign: { project: Harbour, reason: test, software_version: 2.1.0, create_at_s: 5 }
"""


# A guard against a hang, not a verdict.
WATCHDOG_S = 600


def run(*arguments, cwd):
    command = [sys.executable, "-m", "bmsota_sim.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=WATCHDOG_S, check=False)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """As `run`, in this process: what is refused at once needs none of its own. The exit code, and what it prints."""

    def called(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["bmsota-sim", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    return called


@pytest.fixture
def scenario(tmp_path):
    def write(text):
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_a_scenario_of_ones_own_ends_as_planned(scenario, tmp_path):
    done = run("demo", "--virtual", "--scenario", scenario(SMALL), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 1 vehicles ended as the scenario says." in done.stdout


def test_a_vehicle_that_ends_otherwise_gives_exit_code_3(scenario, tmp_path):
    path = scenario(SMALL + "expect: { 1: Rolled back }\n")
    done = run("demo", "--virtual", "--seed", "4", "--scenario", path, cwd=tmp_path)
    assert done.returncode == 3
    assert "expected 'Rolled back', got 'Upgrade succeeded'" in " ".join(done.stdout.split())
    assert f"replay: bmsota-sim demo --virtual --scenario {path} --seed 4\n" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fleet: [", "not valid YAML: "),
        ("[]", "expected a mapping at the top level, got list"),
        (SMALL.replace("E7", "X9"), "no series 'X9'; there are E7, F7"),
        (
            SMALL + "faults: [{kind: download_cut, vehicle: 9, after_bytes: 5}]\n",
            "expected a vehicle from 1 to 1, got 9",
        ),
        (SMALL + "colour: red\n", "colour"),
        ("name: x\nduration_s: 1\nfleet: [{series: F7, count: 1}]\n", "scenario x: no campaign"),
    ],
)
def test_a_wrong_scenario_is_one_clear_message(scenario, call, text, said):
    code, printed = call("demo", "--virtual", "--scenario", scenario(text))
    assert code == 1
    assert said in " ".join(printed.err.split())


@pytest.mark.parametrize("option", [("--keep",), ("--data", "kept")])
def test_contradictory_options_are_wrong_usage(option, call):
    code, printed = call("demo", "--virtual", *option)
    assert (code, printed.out) == (2, "")
    assert f"{option[0]} and --virtual exclude each other" in printed.err


def test_the_packaged_scenario_is_found():
    assert "campaign:" in packaged_scenario("demo")


def test_a_demo_whose_reader_has_gone_ends_as_with_ctrl_c(scenario, tmp_path):
    """`bmsota-sim demo | head -1` is not told to have failed, and shows no traceback."""
    near, far = os.pipe()
    os.close(near)
    command = [sys.executable, "-m", "bmsota_sim.cli", "demo", "--virtual", "--scenario", scenario(SMALL)]
    done = subprocess.run(command, cwd=tmp_path, stdout=far, stderr=subprocess.PIPE, text=True, check=False)
    os.close(far)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("command", [[], ["demo"], ["bench"], ["bench-ctl"], ["samples"]])
def test_help_is_whole_on_80_columns(command):
    """No line is longer, and no option or text is cut."""
    done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    assert not set("…│") & set(done.output)
