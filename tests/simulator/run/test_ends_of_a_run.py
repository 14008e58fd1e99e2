"""However a run of `bmsota-sim run` ends, as a process of its own: its report is there and whole, its exit code says how, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from bmsota_sim._commands import app
from bmsota_sim.run import runner
from bmsota_sim.run.outputs.folder import REPORT_FILES
from typer.testing import CliRunner

SCENARIO = """
name: ends
duration: 1h
groups: { f: { profile: E7, count: 2, fidelity: full } }
life: { report: 10s, measure: 30s }
expect:
  - { what: sent, by: 5s, at_least: 0 }
  - { what: sent, above: 1 }
"""

# Sends this process a signal where a run comes by, then runs the command line as its script does.
PROGRAM = """
import importlib, importlib.abc, os, sys

place, number = sys.argv[1], int(sys.argv[2])
sys.argv = ["bmsota-sim", *sys.argv[3:]]

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if place == "import " + name:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)

if place.startswith("import "):
    sys.meta_path.insert(0, Finder())
else:
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    *parts, name = name.split(".")
    for part in parts:
        owner = getattr(owner, part)
    its = getattr(owner, name)

    def signalled(*arguments, **options):
        setattr(owner, name, its)
        os.kill(os.getpid(), number)
        return its(*arguments, **options)

    setattr(owner, name, signalled)

from bmsota_sim.cli import main
main()
"""

PLACES = {
    "importing": ("import bmsota_sim._commands", signal.SIGINT),
    "reading the command line": ("bmsota_sim._commands:_run", signal.SIGHUP),
}
# With everything loaded it is the same in the process of the tests.
METHODS = {
    "building the units": ("FullUnit", signal.SIGTERM),
    "starting": ("Run.start", signal.SIGHUP),
    "running": ("Run._judge", signal.SIGINT),
    "judging": ("Run.end", signal.SIGTERM),
}


def start(tmp_path, place, number, *arguments, **options):
    scenario = tmp_path / "ends.yaml"
    scenario.write_text(SCENARIO)
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        place,
        str(int(number)),
        "run",
        str(scenario),
        "--virtual",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)


def check_report(folder, number, phase):
    report = json.loads((folder / "run.json").read_text())
    assert report["exit_code"] == 128 + number
    assert ET.parse(folder / "junit.xml").getroot().get("failures") == "0"
    assert "<title>" in (folder / "report.html").read_text()
    names = {path.name for path in folder.iterdir()}
    assert names <= REPORT_FILES
    assert not [name for name in names if name.endswith(".new")]
    passed = [verdict["passed"] for verdict in report["verdicts"]]
    assert False not in passed
    if phase in {"running", "judging"}:
        assert passed[0] is True  # What was due before is judged,
    assert passed[1] is (True if phase == "judging" else None)  # what was due later is not.


@pytest.mark.slow
@pytest.mark.parametrize("phase", PLACES)
def test_a_signal_before_the_run_ends_it_with_its_report(phase, tmp_path):
    place, number = PLACES[phase]
    result = start(tmp_path, place, number, "--report", tmp_path / "out")
    assert result.returncode == 128 + number, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    check_report(tmp_path / "out", number, phase)


@pytest.mark.slow
@pytest.mark.parametrize("phase", METHODS)
def test_a_signal_in_any_phase_of_the_run_ends_it_with_its_report(phase, tmp_path, monkeypatch):
    name, number = METHODS[phase]
    owner_name, _, method = name.rpartition(".")
    owner = getattr(runner, owner_name) if owner_name else runner
    its = getattr(owner, method)

    def signalled(*arguments, **options):
        monkeypatch.setattr(owner, method, its)
        os.kill(os.getpid(), number)
        return its(*arguments, **options)

    monkeypatch.setattr(owner, method, signalled)
    (tmp_path / "ends.yaml").write_text(SCENARIO)
    before = signal.getsignal(number)
    result = CliRunner().invoke(
        app, ["run", str(tmp_path / "ends.yaml"), "--virtual", "--report", str(tmp_path / "out")]
    )
    assert result.exit_code == 128 + number, result.output
    assert signal.getsignal(number) is before
    check_report(tmp_path / "out", number, phase)


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_is_written_is_whole(tmp_path):
    import resource

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    result = start(
        tmp_path, "import nothing", 0, "--run-for", "100", "--report", tmp_path / "out", preexec_fn=small_files
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "the report is not complete: " in result.stderr
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert "passed, trace " in result.stdout  # What became of it is said all the same.
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [".lock", "junit.xml", "scenario.yaml"]
    ET.parse(tmp_path / "out" / "junit.xml")


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_cost_the_report(tmp_path):
    scenario = tmp_path / "ends.yaml"
    scenario.write_text(SCENARIO)
    command = [
        sys.executable,
        "-m",
        "bmsota_sim.cli",
        "run",
        str(scenario),
        "--virtual",
        "--run-for",
        "20",
        "--report",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    stderr = process.stderr.read()
    process.wait(600)
    assert "Traceback" not in stderr, stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["exit_code"] == 0
    process.stderr.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    scenario = tmp_path / "ends.yaml"
    scenario.write_text(SCENARIO)
    result = CliRunner().invoke(app, ["run", str(scenario), "--virtual", "--report", str(tmp_path / "file" / "out")])
    assert result.exit_code == 2, (result.output, result.exception)
    assert f"--report {tmp_path}/file/out: " in result.output
