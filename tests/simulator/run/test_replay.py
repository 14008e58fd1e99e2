"""`bmsota-sim replay`: a run again from its run.json, whole or one unit alone; and the replay line of a red run."""

from __future__ import annotations

import json
import shlex
from xml.etree import ElementTree as ET

import can
import pytest
from bmsota_sim._commands import app
from bmsota_sim.run.replay import candump_line
from typer.testing import CliRunner

from bmsota.canframe import CanFrame

SCENARIO = """
name: small
duration: 12s
groups:
  f: { profile: E7, count: 3, fidelity: full }
life: { report: 2s, heartbeat: 3s, measure: 5s }
network: { jitter: 20ms, loss: 5%, split: 10% }
timeline:
  - { at: 5s, do: storm, who: 60% of all }
expect:
  - { what: sent, above: 1000000 }
"""


def call(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    """The report of a red run in virtual time, and what it printed."""
    folder = tmp_path_factory.mktemp("red")
    (folder / "my scenario.yaml").write_text(SCENARIO)
    result = call(
        "run", folder / "my scenario.yaml", "--virtual", "--seed", 5, "--count", 4, "--report", folder / "out"
    )
    assert result.exit_code == 3, result.output
    return folder / "out", result.output


@pytest.mark.slow
def test_the_replay_line_of_a_red_run_replays_it(red):
    folder, printed = red
    text = ET.parse(folder / "junit.xml").find(".//failure").text
    line = next(line for line in text.splitlines() if line.startswith("replay: "))
    name, *words = shlex.split(line.removeprefix("replay: "))
    assert name == "bmsota-sim"
    again = call(*words)
    assert again.exit_code == 3
    trace = next(line for line in printed.splitlines() if " passed, trace " in line)
    assert trace in again.output
    assert line.removeprefix("replay: ") == json.loads((folder / "run.json").read_text())["given"]["replay"]


@pytest.mark.slow
def test_a_run_is_replayed_from_its_run_json(red):
    result = call("replay", red[0] / "run.json")
    assert (result.exit_code, "4 units, 12.000 s: the same traces" in result.output) == (0, True), result.output
    assert "FAILED  sent of all: above 1000000" in result.output


def test_one_unit_alone_does_what_it_did_and_shows_every_can_frame(red, tmp_path):
    """As many frames as the run counted on its bus, in a log that others can read."""
    path = tmp_path / "frames.log"
    result = call("replay", red[0] / "run.json", "--unit", "f/3", "--output", path)
    assert (result.exit_code, "f/3, 12.000 s: the same trace" in result.output) == (0, True), result.output
    counted = json.loads((red[0] / "run.json").read_text())["units"]["f/3"]["counters"]["can_frames"]
    assert len(list(can.CanutilsLogReader(path))) == counted > 100
    shown = call("replay", red[0] / "run.json", "--unit", "f/3", "--full")
    assert path.read_text() in shown.stdout


def test_candump_lines():
    """As candump -l of can-utils writes them."""
    at_ns = 1_700_000_000_123_456_789
    assert candump_line(CanFrame(0x12, b"\x01\xab"), at_ns) == "(1700000000.123456) can0 012#01AB"
    assert candump_line(CanFrame(0x12, b"", is_extended_id=True), at_ns) == "(1700000000.123456) can0 00000012#"
    assert candump_line(CanFrame(0x7FF, bytes(12), is_fd=True), at_ns) == "(1700000000.123456) can0 7FF##1" + "00" * 12


def changed(red, tmp_path, change):
    document = json.loads((red[0] / "run.json").read_text())
    change(document)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.slow
def test_another_trace_is_told_by_unit(red, tmp_path):
    def other(document):
        document["units"]["f/2"]["hash"] = "00" * 32

    result = call("replay", changed(red, tmp_path, other))
    assert result.exit_code == 3
    assert "f/2: expected trace 0000000000000000, got " in result.output
    assert "1 other traces" in result.output


def test_another_scenario_is_refused_and_another_version_is_told(red, tmp_path):
    def scenario(document):
        document["given"]["scenario"] += "\n"

    def version(document):
        document["given"]["version"] = "0.0.1"
        document["given"]["options"] = ["--to", "tcp://gateway.test:32960", "--count", "4", "--seed", "5"]

    result = call("replay", changed(red, tmp_path, scenario))
    assert (result.exit_code, "its hash differs" in result.output) == (2, True)
    result = call("replay", changed(red, tmp_path, version), "--unit", "f/1")
    assert result.exit_code == 0
    assert "made by version 0.0.1" in result.output
    assert "against tcp://gateway.test:32960" in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.json"], "No such file"),
        (["{run}", "--full"], "give --unit NAME"),
        (["{run}", "--unit", "f/9"], "no unit 'f/9' in the run"),
        (["{run}", "--unit", "g"], "no unit 'g' in the run"),
        (["{yaml}"], "expected the run.json of a run"),
    ],
)
def test_wrong_input_is_one_line(words, says, red):
    words = [word.format(run=red[0] / "run.json", yaml=red[0] / "scenario.yaml") for word in words]
    result = call("replay", *words)
    assert (result.exit_code, says in result.output) == (2, True), result.output


def test_a_list_is_no_run_json(tmp_path):
    (tmp_path / "run.json").write_text("[]")
    result = call("replay", tmp_path / "run.json")
    assert (result.exit_code, "expected the run.json of a run" in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("expect", "code"),
    [
        ("  - { what: sent, above: 0, by: 10s }", 4),
        ("  - { what: sent, above: 0, by: 4s }\n  - { what: sent, above: 0 }", 0),
    ],
)
def test_a_run_that_ends_before_anything_is_judged_gives_no_verdict(expect, code, tmp_path):
    (tmp_path / "s.yaml").write_text(SCENARIO.partition("timeline:")[0] + f"expect:\n{expect}\n")
    result = call("run", tmp_path / "s.yaml", "--virtual", "--run-for", 5, "--report", tmp_path / "out")
    assert result.exit_code == code, result.output
    assert ("NO VERDICT: the run ended at 5 s, before any of its 1 expectations was due" in result.output) is bool(code)
