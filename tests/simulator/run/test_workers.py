"""`bmsota-sim run --workers`: real processes, of which some are killed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from .nasty_gateway import gateway
from .run_command import TIME_LIMIT_S, Command, cpu_s, is_there
from .shards.test_together import in_one_process

LONG = """
name: long
duration: {duration}
groups: {{ f: {{ profile: E7, count: 4 }} }}
life: {{ report: 30s, heartbeat: 60s }}
timeline: [{{ at: 20s, do: storm, who: 50% }}]
expect: [{{ what: sent, by: 1min, at_least: 4 }}]
"""
REAL = """
name: real
duration: 10h
groups: { f: { profile: E7, count: 4 } }
life: { report: 2s, heartbeat: 5s }
expect: [{ what: sent, by: 8s, at_least: 0 }]
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(text, *arguments):
        started.append(Command(tmp_path, text, *arguments))
        return started[-1]

    yield begin
    for command in started:
        command.close()


@pytest.mark.slow
def test_a_killed_process_changes_nothing_in_virtual_time(start):
    """The shard begins again as itself; the run has the hash of one process, and says what was lost."""
    text = LONG.format(duration="8h")
    command = start(text, "--virtual", "--workers", 2)
    # The status tells how far the last one is. That is the victim if the other one has begun long before.
    other, victim = command.until(lambda: len(command.shards()) == 2 and command.shards())
    os.kill(victim, signal.SIGSTOP)
    command.until(lambda: cpu_s(other) > 3)
    os.kill(victim, signal.SIGCONT)
    command.wait_for(r"^[\d,]*[1-9]\d* of 28,800 s")
    os.kill(victim, signal.SIGKILL)
    code, report = command.end()
    assert code == 0, command.log.read_text()
    whole = in_one_process(text)
    for key in ("hash", "units", "counters", "reply_s", "verdicts", "events", "series"):
        assert report[key] == whole[key], key
    assert [len(shard["lost"]) for shard in report["shards"]] == [0, 1]
    assert report["shards"][1]["lost"][0]["reason"] == "its process was killed"
    assert "shard 2 of 2 was lost at " in command.log.read_text()
    assert "shard 2 of 2 was lost at " in (command.report / "report.html").read_text()
    assert "--workers 2" in report["given"]["replay"]


@pytest.mark.slow
def test_a_killed_process_comes_back_into_a_run_in_real_time(start):
    """Its vehicles log in again while the others go on; what was counted of them before stays. The run can be steered and stopped."""
    with gateway("good") as port:
        command = start(
            REAL,
            "--to",
            f"tcp://127.0.0.1:{port}",
            "--workers",
            2,
            "--source-address",
            "127.0.0.2-3",
            "--lateness-limit",
            1e6,
        )
        # Beyond the moment of the expectation, for which a shard tells all it knows.
        command.wait_for(r"^(9|\d\d+) of 36,000 s: 4 of 4 started, 4 logged in")
        os.kill(command.shards()[0], signal.SIGKILL)
        command.until(lambda: "shard 1 of 2 was lost" in command.log.read_text())
        command.wait_for("4 of 4 started, 4 logged in")
        assert command.ask(do="storm").startswith("storm of 4 units at ")
        command.wait_for("0 logged in|[123] logged in")
        command.wait_for("4 of 4 started, 4 logged in")
        command.ask(do="stop")
        code, report = command.end()
    assert code == 0, command.log.read_text()
    assert report["verdicts"][0]["passed"] is True
    assert [len(shard["lost"]) for shard in report["shards"]] == [1, 0]
    logins = {unit: told["counters"]["logins"] for unit, told in report["units"].items()}
    assert logins == {"f/1": 3, "f/2": 2, "f/3": 3, "f/4": 2}
    assert [event["outcome"] for event in report["events"]] == ["happened"] * 4
    assert len(report["given"]["steered"]) == 1
    assert sum(report["counters"].values()) == sum(sum(unit["counters"].values()) for unit in report["units"].values())
    at_s = report["series"]["at_s"]
    assert at_s == sorted(at_s)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "is_group", "code"), [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)])
def test_a_signal_ends_all_shards_with_one_report(start, number, is_group, code):
    """Ctrl-C reaches every process of the group; what CI sends reaches the first alone."""
    command = start(LONG.format(duration="1000h"), "--virtual", "--workers", 2)
    command.wait_for(r"^[\d,]*[1-9]\d* of 3,600,000 s")
    shards = command.shards()
    assert len(shards) == 2
    (os.killpg if is_group else os.kill)(command.process.pid, number)
    got, report = command.end()
    assert got == code, command.log.read_text()
    assert not [pid for pid in shards if is_there(pid)]
    assert "Traceback" not in command.log.read_text()
    assert len(report["shards"]) == 2
    assert report["ran_s"] == min(shard["ran_s"] for shard in report["shards"]) > 0
    assert all(unit["hash"] for unit in report["units"].values())


@pytest.mark.slow
def test_shards_do_not_outlive_who_started_them(start):
    command = start(LONG.format(duration="1000h"), "--virtual", "--workers", 2)
    command.wait_for(r"^[\d,]*[1-9]\d* of 3,600,000 s")
    shards = command.shards()
    command.process.kill()
    command.process.wait()
    deadline_s = time.monotonic() + TIME_LIMIT_S
    while any(map(is_there, shards)):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
