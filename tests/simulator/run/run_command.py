"""`bmsota-sim run` as a process of its own, asked and stopped as a second terminal does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from bmsota_sim.run.steering import SOCKET_NAME, ask_run

from bmsota.errors import ConfigurationError

# Of a machine that is very busy; nothing is concluded from how long something took.
TIME_LIMIT_S = 300


class Command:
    def __init__(self, folder, text, *arguments):
        self.folder = folder
        (folder / "scenario.yaml").write_text(text)
        self.report = folder / "out"
        command = [sys.executable, "-m", "bmsota_sim.cli", "run", str(folder / "scenario.yaml")]
        command += [*map(str, arguments), "--report", str(self.report)]
        self.log = folder / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def ask(self, **values):
        return ask_run(self.report / SOCKET_NAME, values)

    def wait_for(self, pattern):
        """Until the run's status is as *pattern* says."""
        return self.until(lambda: re.search(pattern, self.ask(do="status")))

    def until(self, holds):
        deadline_s = time.monotonic() + TIME_LIMIT_S
        while time.monotonic() < deadline_s:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if found := holds():
                    return found
            except ConfigurationError:
                pass  # It does not listen yet.
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def shards(self):
        """The processes in which shards run."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def end(self):
        """Exit code and report."""
        code = self.process.wait(TIME_LIMIT_S)
        return code, json.loads((self.report / "run.json").read_text())

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cpu_s(pid):
    """How much of a core the process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
