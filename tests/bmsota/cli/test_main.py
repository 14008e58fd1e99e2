"""The front door: every command is there, says its exit codes, and shows no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
def test_output_on_a_full_disk_is_one_line_and_exit_code_1():
    """Not a traceback, and not Python's own complaint at its end."""
    script = f"from bmsota.cli.main import main; import sys; sys.argv = ['bmsota', 'decode', '{HEARTBEAT}']; main()"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"bmsota: the output cannot be written: No space left on device\n")


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_traceback():
    """`bmsota decode ... | true`: quiet, as click's own commands are."""
    script = f"from bmsota.cli.main import main; import sys; sys.argv = ['bmsota', 'decode', '{HEARTBEAT}']; main()"
    near, far = os.pipe()
    os.close(near)
    done = subprocess.run([sys.executable, "-c", script], stdout=far, stderr=subprocess.PIPE, check=False)
    os.close(far)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_stream_that_the_shell_has_closed_is_no_traceback(closed, tmp_path):
    """And no file that is opened later gets what belongs there."""
    script = "from bmsota.cli.main import main; import sys; sys.argv = ['bmsota', *sys.argv[1:]]; main()"
    out = tmp_path / "out.bin"
    command = f'"{sys.executable}" -c "{script}" encode - --output "{out}" {closed} 0<"{tmp_path / "in.json"}"'
    (tmp_path / "in.json").write_text('{"command": 7, "vin": "LBMF7EV01R0000001", "message": {"type": "Heartbeat"}}\n')
    if "<&-" in closed:
        command = f'"{sys.executable}" -c "{script}" decode {HEARTBEAT} {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    if "<&-" not in closed:
        assert out.read_bytes().hex() == HEARTBEAT


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize(("package", "module"), [("bmsota_sim", "cli"), ("bmsota_cloud", "__main__")])
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--nonsense", 2)])
def test_the_other_scripts_take_closed_streams_as_bmsota_does(closed, package, module, argument, code):
    script = f"from {package}.{module} import main; import sys; sys.argv = ['script', *sys.argv[1:]]; main()"
    command = f'"{sys.executable}" -c "{script}" {argument} {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) is (code == 0 and ">&-" not in closed.replace("2>&-", ""))
    assert bool(done.stderr) is (code == 2 and "2>&-" not in closed)
