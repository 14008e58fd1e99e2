"""`bmsota-sim run`: what a platform does wrong is named, with unit and time; the exit codes; the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from bmsota_sim._commands import app
from typer.testing import CliRunner

from .nasty_gateway import gateway

SCENARIO = """
name: small
duration: 12s
platform: {{ acknowledges_reports: yes }}
groups:
  f: {{ profile: E7, count: {count}, fidelity: full }}
life: {{ report: 2s, heartbeat: 3s, measure: 5s }}
network: {{ latency: 0s }}
{rest}
"""
# Whether this machine is fast enough is no question of these tests.
PATIENT = ("--lateness-limit", "1000", "--speed", "4")


def write(tmp_path, *, count=1, rest=""):
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO.format(count=count, rest=rest).replace(": yes", ': "yes"'))
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, ["run", *map(str, arguments)])


def report_of(tmp_path):
    return json.loads((tmp_path / "out" / "run.json").read_text())


MISBEHAVIOURS = {
    "twice": "answered_twice",
    "report_twice": "answered_twice",
    "garbage": "garbage",
    "garbage_behind": "garbage",
    "http_banner": "garbage",
    "bad_bcc": "wrong_check_byte",
    "bad_bcc_of_reports": "wrong_check_byte",
    "wrong_vin": "other_vin",
    "wrong_vin_after_login": "other_vin",
    "refuse_login": "login_refusals",
    "refuse_reports": "refused",
    "never": "unanswered",
    "no_report_answer": "unanswered",
    "no_heartbeat_answer": "unanswered",
    "answers_nothing_asked": "garbage",
    "other_report_time": "garbage",
    "cut": "wrong_check_byte",  # The next frame begins where the check byte should be.
    "drop_at_once": "drops",
    "drop_after_report": "drops",
    "closes_politely": "drops",
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MISBEHAVIOURS)
def test_what_a_platform_does_wrong_is_named_by_unit_and_time(mode, tmp_path):
    with gateway(mode) as port:
        result = run(write(tmp_path), "--to", f"tcp://127.0.0.1:{port}", "--report", tmp_path / "out", *PATIENT)
    assert result.exit_code == 3, result.output
    counter = MISBEHAVIOURS[mode]
    unit = report_of(tmp_path)["units"]["f/1"]
    assert unit["counters"][counter] > 0
    assert 0 <= unit["first"][counter]["at_s"] <= 30
    failures = ET.parse(tmp_path / "out" / "junit.xml").findall(".//failure")
    texts = [failure.text for failure in failures]
    assert any(
        unit["vin"] in text and f"first {counter} at " in text and "replay: bmsota-sim run " in text for text in texts
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["good", "bytewise"])
def test_a_platform_without_fault_passes(mode, tmp_path):
    with gateway(mode) as port:
        result = run(write(tmp_path), "--to", f"tcp://127.0.0.1:{port}", "--report", tmp_path / "out", *PATIENT)
    assert result.exit_code == 0, result.output
    counters = report_of(tmp_path)["counters"]
    assert counters["sent"] >= 3
    assert counters["acknowledged"] >= counters["sent"] - 1  # The last may be on its way.


@pytest.mark.slow
def test_a_platform_that_is_not_there_fails(tmp_path):
    result = run(write(tmp_path), "--to", "tcp://127.0.0.1:1", "--report", tmp_path / "out", *PATIENT)
    assert result.exit_code == 3, result.output
    assert report_of(tmp_path)["units"]["f/1"]["counters"]["connect_failures"] > 0


@pytest.mark.slow
def test_a_simulator_that_is_late_gives_no_verdict(tmp_path):
    with gateway("good") as port:
        result = run(
            write(tmp_path),
            "--to",
            f"tcp://127.0.0.1:{port}",
            "--report",
            tmp_path / "out",
            "--speed",
            1000,
            "--lateness-limit",
            0.001,
        )
    assert result.exit_code == 4, result.output
    assert "NO VERDICT: the simulator was late" in result.output
    assert ET.parse(tmp_path / "out" / "junit.xml").find(".//error") is not None


def virtual(tmp_path, *, name="out", count=2, rest="", seed=1):
    result = run(write(tmp_path, count=count, rest=rest), "--virtual", "--seed", seed, "--report", tmp_path / name)
    return result, json.loads((tmp_path / name / "run.json").read_text())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_hash_and_another_unit_changes_no_others(tmp_path):
    _, first = virtual(tmp_path, name="a")
    _, again = virtual(tmp_path, name="b")
    _, more = virtual(tmp_path, name="c", count=3)
    _, other = virtual(tmp_path, name="d", seed=2)
    assert first["hash"] == again["hash"] != other["hash"]
    assert {unit: more["units"][unit]["hash"] for unit in first["units"]} == {
        unit: told["hash"] for unit, told in first["units"].items()
    }


def test_a_fleet_of_the_edition_of_2025(tmp_path):
    path = Path(write(tmp_path, count=2))
    path.write_text(path.read_text().replace('"yes"', '"no"'))  # The library's platform end answers no report.
    result = run(path, "--virtual", "--edition", "2025", "--report", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert report_of(tmp_path)["counters"]["sent"] > 4


def test_the_timeline_happens(tmp_path):
    rest = """
timeline:
  - { at: 4s, do: storm, who: f/1 }
  - { at: 5s, do: duplicate_frames, who: f/2, for: 4s }
  - { at: 5s, do: slave_silent, who: f/2, slave: 1, for: 2s }
"""
    _, report = virtual(tmp_path, rest=rest)
    assert [event["outcome"] for event in report["events"]] == ["happened"] * 3
    assert report["counters"]["drops"] == 0  # What the run does is no fault of the platform.


def test_an_entry_that_cannot_be_done_makes_the_run_red(tmp_path):
    result, report = virtual(tmp_path, rest="timeline:\n  - { at: 0, do: restart, who: f/2 }\n")
    assert result.exit_code == 3
    assert report["events"][0]["outcome"] == "failed"
    assert "it was not switched on yet" in result.output


def test_an_expectation_that_fails_makes_the_run_red(tmp_path):
    result, report = virtual(tmp_path, rest="expect:\n  - { what: sent, above: 1000000 }\n")
    assert result.exit_code == 3
    assert report["verdicts"][0]["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --to URL or --virtual"),
        (("--to", "http://a"), "expected tcp://HOST:PORT"),
        (("--to", "tcp://a:99999"), "--to tcp://a:99999"),
        (("--virtual", "--edition", "2020"), "expected 2016 or 2025, got 2020"),
        (("--to", "tcp://a", "--source-address", "127.0.0.9-2"), "such as 127.0.0.2-9"),
        (("--virtual", "--speed", "2"), "--virtual opens no connection"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, tmp_path):
    result = run(write(tmp_path), *arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_the_full_report(number, code, tmp_path):
    with gateway("good") as port:
        path = write(tmp_path)
        command = [sys.executable, "-m", "bmsota_sim.cli", "run", path, "--to", f"tcp://127.0.0.1:{port}"]
        process = subprocess.Popen([*command, "--speed", "0.01", "--report", str(tmp_path / "out")])
        lock = tmp_path / "out" / ".lock"
        while not lock.exists() and process.poll() is None:
            time.sleep(0.05)
        second = run(path, "--virtual", "--report", tmp_path / "out")
        assert second.exit_code == 2
        assert "another run is writing there" in second.output
        os.kill(process.pid, number)
        assert process.wait() == code
    assert report_of(tmp_path)["exit_code"] == code


def test_a_folder_that_is_no_report_is_refused(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    result = run(write(tmp_path), "--virtual", "--report", tmp_path)
    assert result.exit_code == 2
    assert not (tmp_path / "run.json").exists()
