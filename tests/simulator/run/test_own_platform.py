"""`bmsota-sim run --api` against a real `bmsota-cloud`: another process, over TCP, HTTP and SMTP, as a user has it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from bmsota_cloud.cli import app as cloud_app
from bmsota_sim._commands import app
from bmsota_sim.run.scenario import packaged_text
from bmsota_sim.run.steering import ask_run
from bmsota_sim.samples import sample_file
from long_run import LONG
from typer.testing import CliRunner

from bmsota.errors import ConfigurationError

pytestmark = [pytest.mark.slow, pytest.mark.long]

PASSWORD = "correct horse battery"
# Long enough for any machine: the run is stopped when all has come to its end.
SMALL = """
name: two vehicles
duration: 1h
groups:
  good: { profile: E7, count: 1, fidelity: full }
  bad: { profile: E7, count: 1, fidelity: full }
life: { report: 5s, heartbeat: 30s, measure: 5s }
timeline:
  - { at: 4s, do: storm }
  - { at: 0, do: self_test_fails, who: bad, reason: insulation monitor does not answer }
ota: { release: "2.1.0", at: 5s, validity: 30min, project: Harbour }
expect:
  - { what: status, who: all, is: [Upgrade succeeded, Rolled back] }
  - { what: sent, above: 0, by: 30s }
"""
HISTORY = """
name: two vehicles
duration: 2s
groups: { good: { profile: E7, count: 1, fidelity: full } }
expect:
  - { what: history, who: good, contains: "OTA 2.1.0: Upgrade succeeded" }
  - { what: history, who: good, contains: "Rolled back" }
"""
FINAL = {"Upgrade succeeded", "Rolled back", "Upgrade failed", "Rejected", "Timed out", "Cancelled"}
# What a slow machine does to answers is no question here.
BY_THE_CLOCK = {"no late_answers", "no unanswered", "no drops"}
TIME_LIMIT_S = 500


def shortened(name, times):
    """A ready scenario in minutes instead of hours."""
    text = packaged_text(name)
    for long, short in times.items():
        assert long in text
        text = text.replace(long, short)
    return text


FEWER = {"profile: F7": "profile: E7", "report: 30s": "report: 10s, measure: 5s"}
READY = {
    "storm": shortened("storm", FEWER | {"20min": "5min", "over: 60s": "over: 10s", "count: 900": "count: 16", "count: 100": "count: 2", "at: 5min": "at: 40s", "for: 2min": "for: 20s", "at: 10min": "at: 2min", "2min after": "40s after", "faults_off: 5min": "faults_off: 60s"}),
    "ota-rollout": shortened("ota-rollout", FEWER | {"duration: 2h": "duration: 8min", "over: 60s": "over: 10s", "count: 80": "count: 8", "f7/1-8": "f7/1-2", "count: 40": "count: 4", "for: 20min": "for: 2min", "for: 15min": "for: 1min", "at: 2min": "at: 20s", "90min": "3min", "rejects: 3%, stays_queued: 3%": "rejects: 10%, stays_queued: 10%", "faults_off: 20min": "faults_off: 2min", "at_least: 85%": "at_least: 75%"}),
    "bad-release": shortened("bad-release", FEWER | {"duration: 1h": "duration: 5min", "over: 60s": "over: 10s", "count: 100": "count: 8", "at: 2min": "at: 20s", "40min": "2min", "faults_off: 10min": "faults_off: 30s"}),
}  # fmt: skip


class Cloud:
    """`bmsota-cloud serve` in *folder*, with an operator and an administrator; it mails to `mail_port`, where the run listens."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("manifest", "image"):
            (folder / f"{name}.pem").write_bytes(sample_file(f"keys/{name}.SAMPLE.public.pem"))
        for name in ("operator", "administrator", "auditor"):
            words = ("create-account", name, f"{name}@example.org", "--role", name, "--data", str(folder / "cloud"))
            assert CliRunner().invoke(cloud_app, words, env={"BMSOTA_CLOUD_PASSWORD": PASSWORD}).exit_code == 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.mail_port = free.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "bmsota_cloud",
            "serve",
            "--data",
            "cloud",
            "--http-port",
            "0",
            "--gateway-port",
            "0",
        ]
        command += ["--manifest-key", "manifest.pem", "--image-key", "image.pem"]
        command += ["--smtp-host", "127.0.0.1", "--smtp-port", str(self.mail_port)]
        self.log = (folder / "cloud.log").open("w")
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        said = "".join(self.process.stdout.readline() for _ in range(2))
        self.api = re.search(r"http://\S+", said)[0]
        self.gateway = re.search(r"tcp://\S+", said)[0]

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def run(self, scenario, *words):
        (self.folder / "scenario.yaml").write_text(scenario)
        passwords = {f"BMSOTA_SIM_API_{who}PASSWORD": PASSWORD for who in ("", "ADMIN_", "AUDITOR_")}
        fixed = ("--to", self.gateway, "--api", self.api, "--lateness-limit", "100000")
        return CliRunner().invoke(app, ["run", "scenario.yaml", *fixed, *map(str, words)], env=passwords)

    def end_when_all_is_over(self, report):
        """Stop the run at *report* when every vehicle of the newest task has come to its end."""
        deadline_s = time.monotonic() + TIME_LIMIT_S
        is_over = False
        with httpx.Client(base_url=f"{self.api}/api/v1", timeout=60) as client:
            token = client.post("/login", json={"name": "operator", "password": PASSWORD}).json()["token"]
            client.headers["Authorization"] = f"Bearer {token}"
            while not is_over and time.monotonic() < deadline_s:
                time.sleep(0.5)
                tasks = client.get("/tasks").json()["items"]
                counts = tasks[0]["counts"] if tasks else {}
                is_over = bool(counts) and set(counts) <= FINAL
        while True:
            try:
                ask_run(report / "control.sock", {"do": "stop"})
            except ConfigurationError:
                return  # It has ended.
            time.sleep(1)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Cloud(tmp_path)
    yield made
    made.close()


def report_of(folder):
    report = json.loads((Path(folder) / "run.json").read_text())
    return report, {verdict["name"]: verdict["passed"] for verdict in report["verdicts"]}


def upgrade(cloud, *words):
    """Two vehicles come back after a storm; one takes the release and one rolls back."""
    stopper = threading.Thread(target=cloud.end_when_all_is_over, args=(Path("out"),))
    stopper.start()
    trust = ("--order-key", "cloud/keys/order_public.pem")
    result = cloud.run(
        SMALL,
        "--api-admin",
        "administrator",
        "--mail-listen",
        f"127.0.0.1:{cloud.mail_port}",
        *trust,
        *words,
        "--report",
        "out",
    )
    stopper.join()
    report, verdicts = report_of("out")
    assert "registered 2 vehicles in project Harbour" in result.output, result.output
    assert {name for name, passed in verdicts.items() if passed is False} <= BY_THE_CLOCK, result.output
    assert verdicts["OTA task"] is True, result.output
    assert verdicts["upgrade outcome succeeds"] is True, result.output
    assert verdicts["every planned event happened"] is True, result.output
    assert {event["do"]: event["outcome"] for event in report["events"]} == {
        "storm": "happened",
        "self_test_fails": "happened",
    }
    assert all(unit["counters"]["logins"] >= 3 for unit in report["units"].values())
    assert PASSWORD not in (cloud.folder / "out" / "run.json").read_text()
    return report


def test_an_upgrade_of_our_own_platform_from_the_registration_to_the_report(cloud):
    """Two vehicles come back after a storm; one takes the release and one rolls back. Then the same vehicle with another unit in it."""
    result = cloud.run(SMALL)
    assert (result.exit_code, "give --mail-listen HOST:PORT" in result.output) == (2, True), result.output
    upgrade(cloud)
    result = cloud.run(HISTORY.replace("two vehicles", "Harbour"), "--seed", 2, "--report", "again")
    verdicts = report_of("again")[1]
    assert "0 vehicles in project Harbour; 1 were known" in result.output, result.output
    assert [verdicts[name] for name in verdicts if name.startswith("history")] == [True, False], result.output

    result = cloud.run(HISTORY, "--api-user", "nobody")
    assert (result.exit_code, "the platform refuses: POST /login: wrong name or password" in result.output) == (
        2,
        True,
    ), result.output
    result = cloud.run(HISTORY)
    assert (
        result.exit_code,
        "is registered with project 'Harbour', the scenario has 'two vehicles'" in result.output,
    ) == (2, True)


def test_workers_have_one_registration_and_one_task(cloud):
    """The process that was started does both; each vehicle is in a process of its own."""
    report = upgrade(cloud, "--workers", 2)
    assert [shard["units"] for shard in report["shards"]] == [1, 1]
    assert [shard["lost"] for shard in report["shards"]] == [[], []]


@pytest.mark.skipif(not LONG, reason="minutes of real time: make test-long")
@pytest.mark.parametrize("name", READY)
def test_a_ready_scenario_against_our_own_platform(name, cloud):
    """With a named auditor, who gets the code from a command that reads the platform's mails."""
    reads_mail = (
        "import asyncio, os, sys; from bmsota_sim.run.approval_codes import MailedCodes\n"
        "async def main():\n"
        f"    mails = MailedCodes('127.0.0.1', {cloud.mail_port}); await mails.open()\n"
        "    while not (code := await mails.code(int(os.environ['BMSOTA_TASK']))): await asyncio.sleep(0.1)\n"
        "    print('the code is', code)\n"
        "asyncio.run(main())\n"
    )
    (cloud.folder / "code.py").write_text(reads_mail)
    words = ["--api-admin", "administrator", "--api-auditor", "auditor", "--order-key", "cloud/keys/order_public.pem"]
    if name != "storm":
        words += ["--code-command", f"{sys.executable} code.py"]
    result = cloud.run(READY[name], *words, "--report", "out")
    assert (cloud.folder / "out" / "run.json").exists(), result.output
    _, verdicts = report_of("out")
    assert {case for case, passed in verdicts.items() if passed is not True} <= BY_THE_CLOCK, result.output
