"""`bmsota-cloud`: exit codes and words, no tracebacks."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from bmsota_cloud.cli import app
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery"


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BMSOTA_CLOUD_PASSWORD", PASSWORD)
    return lambda *words: CliRunner().invoke(app, words)


def test_an_account_is_created_once(run):
    words = ("create-account", "carol", "carol@example.org", "--role", "operator", "--data", "d")
    result = run(*words)
    assert (result.exit_code, result.output) == (0, "created carol (operator)\n")
    result = run(*words)
    assert (result.exit_code, result.stderr) == (
        1,
        "bmsota-cloud: the name carol is taken\n",
    )


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("create-account", "Carol", "carol@example.org"), 1, "name: expected "),
        (("create-account", "carol", "nowhere"), 1, "expected a mail address"),
        (("create-account", "carol", "c@d", "--data", "file"), 1, "bmsota-cloud:"),
        (("create-account", "carol"), 2, "EMAIL"),
        (("create-account", "carol", "c@d", "--role", "king"), 2, "king"),
        (("serve", "--manifest-key", "none.pem"), 1, "none.pem"),
        (("serve", "--http-port", "70000"), 2, "65535"),
        (("serve", "--database", "nonsense://x"), 1, "nonsense"),
        (("mail-sink", "--host", "203.0.113.1"), 1, "bmsota-cloud:"),
        (("dance",), 2, "dance"),
    ],
)
def test_mistakes_are_said_in_a_line_and_in_the_exit_code(run, words, code, says):
    Path("file").write_text("in the way")
    result = run(*words)
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


def wait_for(process, words, lines):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        lines.append(line)
        if words in line:
            return
    pytest.fail(f"expected {words!r}, got {lines}")


@contextmanager
def running(folder, words):
    """`bmsota-cloud` in a process of its own; it is killed if it still runs at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bmsota_cloud.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "ready"),
    [
        (("serve", "--http-port", "0", "--gateway-port", "0", "--data", "d"), "mails"),
        (("mail-sink", "--port", "0"), "mail sink"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_it_is_stopped_and_then_ends_well(tmp_path, words, ready, number):
    with running(tmp_path, words) as process:
        wait_for(process, ready, [])
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in errors) == (0, False), errors


@pytest.mark.slow
def test_a_sample_key_is_warned_of_at_the_start(tmp_path):
    key = next(
        path for top in ("firmware_images", "simulator") for path in (ROOT / top).rglob("manifest.SAMPLE.public.pem")
    )
    words = ("serve", "--http-port", "0", "--gateway-port", "0", "--data", "d", "--manifest-key", str(key))
    lines = []
    with running(tmp_path, words) as process:
        wait_for(process, "mails", lines)
    assert lines[0].startswith(
        "warning         this platform uses the sample manifest key, whose private half is published"
    )
