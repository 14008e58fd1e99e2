"""The demo as its user runs it: the command, real sockets, real SMTP, real files, and everything kept running after it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest

pytestmark = pytest.mark.slow

# A guard against a hang, not a verdict.
TIME_LIMIT_S = 900


def ignore_interrupts():
    """As in the background of a script, where a shell has SIGINT ignored: Ctrl-C must end it all the same."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.demo
def test_the_demo_plays_to_its_planned_end_and_keeps_running(tmp_path):
    """`bmsota-sim demo --keep`: exit code 0 because every vehicle ended as planned; pages and API answer until Ctrl-C."""
    output = tmp_path / "output.txt"
    command = [sys.executable, "-m", "bmsota_sim.cli", "demo", "--keep", "--data", str(tmp_path / "data")]
    with output.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "140"},
            preexec_fn=ignore_interrupts,  # noqa: PLW1509 - this process has no other threads
        )
    try:
        deadline = time.monotonic() + TIME_LIMIT_S
        while "kept running" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.5)
        text = output.read_text()
        url = re.search(r"pages +(http://127\.0\.0\.1:\d+)", text)
        assert url, text
        login = httpx.get(f"{url[1]}/login")
        assert login.status_code == 200
        token = httpx.post(f"{url[1]}/api/v1/login", json={"name": "viewer", "password": "demo demo demo"}).json()[
            "token"
        ]
        headers = {"Authorization": f"Bearer {token}"}
        vehicles = httpx.get(f"{url[1]}/api/v1/vehicles", params={"size": 50}, headers=headers).json()["items"]
        task = httpx.get(f"{url[1]}/api/v1/tasks/1", params={"size": 50}, headers=headers).json()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=TIME_LIMIT_S) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
    text = output.read_text()
    assert "All 12 vehicles ended as the scenario says." in text
    assert "Traceback" not in text
    assert len(vehicles) == 12
    assert all(vehicle["is_online"] for vehicle in vehicles)
    assert {vehicle["master_version"] for vehicle in vehicles} == {"2.1.0", "2.0.0"}
    statuses = [upgrade["status"] for upgrade in task["upgrades"]["items"]]
    assert statuses.count("Upgrade succeeded") == 11
    assert statuses[10] == "Rolled back"
    assert task["upgrades"]["items"][10]["reason"] == "insulation monitor does not answer"
    assert list((tmp_path / "data" / "mails").glob("*.eml"))
    assert list((tmp_path / "data").glob("*.sqlite"))


@pytest.mark.demo
def test_a_signal_ends_the_demo_and_leaves_nothing_behind(tmp_path):
    """What CI and a closed terminal send; the cloud has started, and its databases are in a temporary folder."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "bmsota_sim.cli", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "300", "TMPDIR": str(tmp_path)},
    )
    try:
        lines = []
        while not lines or "registered 12 vehicles" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        assert list(tmp_path.glob("bmsota-demo-*"))
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=TIME_LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, "Traceback" in rest) == (130, False), rest
    assert not list(tmp_path.glob("bmsota-demo-*"))
