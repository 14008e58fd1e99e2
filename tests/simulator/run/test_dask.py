"""`bmsota-sim run --dask`: a real scheduler and two workers on the loopback, of which one is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from bmsota_sim._commands import app
from typer.testing import CliRunner

from .run_command import TIME_LIMIT_S, Command
from .shards.test_together import in_one_process
from .test_workers import LONG

pytest.importorskip("distributed")


class Cluster:
    def __init__(self, folder):
        self.processes = []
        self.log = (folder / "cluster.txt").open("w")
        file = folder / "scheduler.json"
        self._run("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file)
        deadline_s = time.monotonic() + TIME_LIMIT_S
        while not file.is_file() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]

    def add_worker(self):
        """One with two threads, so that it can take two shards."""
        self._run("dask_worker", self.address, "--no-nanny", "--nthreads", "2", "--no-dashboard", "--host", "127.0.0.1")

    def _run(self, name, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.{name}", *map(str, arguments)]
        self.processes.append(subprocess.Popen(command, stdout=self.log, stderr=self.log))

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self.log.close()


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
def test_a_killed_worker_changes_nothing_in_virtual_time(cluster, tmp_path):
    """The cluster gives its shards to another worker; the run has the hash of one process, and says what was lost."""
    text = LONG.format(duration="8h")
    cluster.add_worker()
    command = Command(tmp_path, text, "--virtual", "--dask", cluster.address, "--workers", 2)
    try:
        command.wait_for(r"^[\d,]*[1-9]\d* of 28,800 s")
        cluster.add_worker()
        os.kill(cluster.processes[1].pid, signal.SIGKILL)
        code, report = command.end()
    finally:
        command.close()
    assert code == 0, command.log.read_text()
    assert report["hash"] == in_one_process(text)["hash"]
    lost = [loss for shard in report["shards"] for loss in shard["lost"]]
    assert [loss["is_back"] for loss in lost] == [True, True]
    for loss in lost:
        assert re.search(f"its worker is gone \\(.*, process {cluster.processes[1].pid}\\)", loss["reason"])
    assert f"--workers 2 --dask {cluster.address}" in report["given"]["replay"]
    assert "Traceback" not in command.log.read_text()


def test_a_scheduler_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("bmsota_sim.run.shards.cluster.CONNECT_TIMEOUT_S", 0.2)
    (tmp_path / "x.yaml").write_text(LONG.format(duration="8h"))
    words = ["run", str(tmp_path / "x.yaml"), "--virtual", "--dask", "tcp://127.0.0.1:9"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "--dask tcp://127.0.0.1:9: no scheduler answers there" in result.output
