"""docs/dbc.md: every command on the page runs as it is written.

Two things are not here: a CAN interface and its `candump`. A script prints what candump would, and cantools' monitor is given
python-can's virtual bus instead of SocketCAN.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import can
import pytest

from bmsota.adapters.files import packaged_dbc

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "dbc.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
MASTER_COMMAND = bytes.fromhex("07210300948e0000")
STATUS = bytes(8)


@pytest.fixture
def checkout(tmp_path):
    """A folder with what the page takes for granted: `dbc/`, a log, `candump`, and the commands on the path."""
    (tmp_path / "dbc").symlink_to(ROOT / "dbc")
    with can.Logger(tmp_path / "drive.blf") as log:
        for can_id, data in ((0x100, MASTER_COMMAND), (0x7F0, b"")):
            log(can.Message(timestamp=1.0, arbitration_id=can_id, data=data, is_extended_id=False))
    words = " ".join(f"{byte:02X}" for byte in MASTER_COMMAND)
    candump = tmp_path / "candump"
    candump.write_text(f"#!/bin/sh\necho '  can0  100   [8]  {words}'\n")
    candump.chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return tmp_path, {**os.environ, "PATH": path, "TERM": "xterm", "LINES": "24", "COLUMNS": "80"}


def shell(checkout, command):
    folder, environment = checkout
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def only(word):
    found = [command for command in COMMANDS if word in command]
    assert len(found) == 1, word
    return found[0]


def test_every_command_of_the_page_is_tried_below():
    tried = {only(word) for word in ("packaged_dbc", "bms_bootloader", "--csv", "candump", "monitor")}
    assert tried == set(COMMANDS)


def test_a_packaged_file_is_written(checkout):
    assert shell(checkout, only("packaged_dbc")).returncode == 0
    assert (checkout[0] / "bms_internal.dbc").read_text(encoding="utf-8").rstrip() == packaged_dbc(
        "bms_internal"
    ).rstrip()


def test_a_log_is_decoded(checkout):
    done = shell(checkout, only("bms_bootloader"))
    assert done.returncode == 0, done.stderr
    assert "100 MasterCommand: CycleCounter 7, Mode Measure" in done.stdout
    done = shell(checkout, only("--csv"))
    assert done.returncode == 0, done.stderr
    assert (checkout[0] / "slave03.csv").read_text().startswith("time_s,channel,can_id,")


def test_cantools_decodes_what_candump_prints(checkout):
    done = shell(checkout, only("candump"))
    assert done.returncode == 0, done.stderr
    assert "MasterCommand(CycleCounter: 7, Mode: Measure" in done.stdout


def test_cantools_monitors_the_bus(checkout):
    """In a terminal of its own, ended by its key for it."""
    folder, environment = checkout
    words = shlex.split(only("monitor"))
    assert words[words.index("-i") + 1] == "socketcan"
    words[words.index("-i") + 1] = "virtual"
    ours, theirs = pty.openpty()
    monitor = subprocess.Popen(words, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    os.write(ours, b"q")
    screen = b""
    try:
        while part := os.read(ours, 4096):
            screen += part
    except OSError:
        pass  # Linux' way to say that the other end is closed.
    finally:
        os.close(ours)
    _, said = monitor.communicate(timeout=120)
    assert (monitor.returncode, said) == (0, b"")
    assert b"MESSAGE" in screen
