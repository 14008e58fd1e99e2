"""The front door: every command is there, says its exit codes, and shows no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bmsota.cli.app import app

HEARTBEAT = "232307fe4c424d4637455630315230303030303031010000bb"


def test_every_command_of_the_cloud_link_is_there():
    shown = CliRunner().invoke(app, ["--help"]).output
    for name in ("decode", "encode", "send"):
        assert name in shown


@pytest.mark.parametrize("name", ["decode", "encode", "send"])
def test_help_says_the_exit_codes(name):
    assert "Exit code" in CliRunner().invoke(app, [name, "--help"]).output


@pytest.mark.slow
def test_from_outside():
    """As a user runs it: through a pipe, with an encoding that lacks the degree sign, and stopped early by the reader."""
    script = f"from bmsota.cli.main import main; import sys; sys.argv = ['bmsota', 'decode', '{HEARTBEAT}']; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, env={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"HEARTBEAT" in done.stdout
