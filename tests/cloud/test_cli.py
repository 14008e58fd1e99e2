"""`bmsota-cloud`: exit codes and words, no tracebacks."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from bmsota_cloud.cli import app
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.refusals import RefusalCause
from bmsota_cloud.storage.sql import SqlStore
from certificates import make_certificate
from typer.testing import CliRunner

from bmsota import __version__
from bmsota.adapters import SessionLink, connect_terminal
from bmsota.gbt32960 import (
    CipherMode,
    CipherPadding,
    Encryption,
    LoggedIn,
    LoggedOut,
    LoginFailed,
    SymmetricCipher,
    TerminalOptions,
    TerminalSession,
    VehicleData,
)

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery"


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BMSOTA_CLOUD_PASSWORD", PASSWORD)
    return lambda *words: CliRunner().invoke(app, words)


@pytest.mark.slow
def test_an_account_is_created_once(run):
    words = ("create-account", "carol", "carol@example.org", "--role", "operator", "--data", "d")
    result = run(*words)
    assert (result.exit_code, result.output) == (0, "created carol (operator)\n")
    result = run(*words)
    assert (result.exit_code, result.stderr) == (
        1,
        "bmsota-cloud: the name carol is taken\n",
    )


@pytest.mark.slow
def test_an_account_is_created_with_its_scope(run):
    words = (
        "create-account",
        "olga",
        "o@example.org",
        "--role",
        "operator",
        "--project",
        "Hills",
        "--project",
        "Harbour",
    )
    result = run(*words, "--data", "d")
    assert (result.exit_code, result.output) == (0, "created olga (operator), sees projects Harbour, Hills\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("create-account", "cleo", "c@d.e", "--role", "customer", "--customer", "Port"), 1, "no customer 'Port'"),
        (("create-account", "cleo", "c@d.e", "--role", "customer"), 1, "sees the vehicles of one customer"),
        (("create-account", "carol", "c@d.e", "--customer", "Port", "--project", "p"), 1, "sees the vehicles of one"),
        (("create-account", "Carol", "carol@example.org"), 1, "name: expected "),
        (("create-account", "carol", "nowhere"), 1, "expected a mail address"),
        (("create-account", "carol", "c@d", "--data", "file"), 1, "bmsota-cloud:"),
        (("create-account", "carol"), 2, "EMAIL"),
        (("create-account", "carol", "c@d", "--role", "king"), 2, "king"),
        (("serve", "--manifest-key", "none.pem"), 1, "none.pem"),
        (("serve", "--http-port", "70000"), 2, "65535"),
        (("serve", "--database", "nonsense://x"), 1, "nonsense"),
        (("serve", "--data", "file"), 1, "cannot create the folder file/keys: file is a file"),
        (("serve", "--data", "file/deep"), 1, "cannot create the folder file/deep/keys: file is a file"),
        (("serve", "--image-key", "file"), 1, "file: "),
        (("serve", "--config", "none.toml"), 1, "no such file: none.toml"),
        (("serve", "--config", "file"), 1, "file: not TOML"),
        (("serve", "--config", "bad.toml"), 1, "bad.toml: http-prt: no such setting; did you mean http-port?"),
        (("create-account", "carol", "c@d.e", "--config", "bad.toml"), 1, "bad.toml: http-prt: no such setting"),
        (("serve", "--web-cert", "file"), 2, "--web-key belong together"),
        (("serve", "--gateway-key", "file"), 2, "--gateway-key belong together"),
        (("serve", "--web-cert", "file", "--web-key", "none.key"), 1, "no such file: none.key"),
        (("serve", "--gateway-cert", "file", "--gateway-key", "file"), 1, "file, file: expected a certificate and its"),
        (("serve", "--report-key", "file"), 2, "--report-key needs --report-hash"),
        (("serve", "--report-padding", "pss"), 2, "need"),
        (("serve", "--report-key", "file", "--report-hash", "sha256"), 1, "file: expected a public key, PEM"),
        (("serve", "--link-keys", "bad.toml"), 1, "bad.toml: http-prt: no such setting"),
        (("serve", "--public-url", "cloud.example"), 2, "expected https://host"),
        (("serve", "--gateway-name", "a/b"), 2, "expected 1 to 48 letters"),
        (("serve", "--trusted-proxy", "proxy"), 2, "expected an address or a network"),
        (("serve", "--report-keep-days", "6"), 2, "--report-keep-days"),
        (
            ("serve", "--host", "203.0.113.1", "--http-port", "0"),
            1,
            "web: 203.0.113.1 is not an address of this machine",
        ),
        (("serve", "--gateway-host", "203.0.113.1", "--http-port", "0"), 1, "gateway: 203.0.113.1 is not an address"),
        (("mail-sink", "--host", "203.0.113.1"), 1, "bmsota-cloud:"),
        (("dance",), 2, "dance"),
    ],
)
def test_mistakes_are_said_in_a_line_and_in_the_exit_code(run, words, code, says):
    Path("file").write_text("in the way")
    Path("bad.toml").write_text("http-prt = 1")
    result = run(*words)
    said = " ".join(result.stderr.replace("│", " ").split())
    assert (result.exit_code, says in said) == (code, True), result.stderr
    assert "Traceback" not in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


def wait_for(process, words, lines):
    deadline = time.monotonic() + 120
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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_runs_until_it_is_stopped_and_then_ends_well(tmp_path, words, ready, number):
    with running(tmp_path, words) as process:
        wait_for(process, ready, [])
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in errors) == (0, False), errors


@pytest.mark.slow
def test_a_sample_key_is_warned_of_once_at_the_start(tmp_path):
    key = next(
        path for top in ("firmware_images", "simulator") for path in (ROOT / top).rglob("manifest.SAMPLE.public.pem")
    )
    words = ("serve", "--http-port", "0", "--gateway-port", "0", "--data", "d", "--manifest-key", str(key))
    with running(tmp_path, words) as process:
        wait_for(process, "mails", [])
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=120)
    assert (rest, errors.count("this platform uses the sample manifest key, whose private half is published")) == (
        "",
        1,
    )


def test_the_version_is_said(run):
    assert run("--version").output == f"bmsota-cloud {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("door", ["http", "gateway"])
def test_a_taken_port_is_said_with_what_to_do(run, door):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"http": 0, "gateway": 0, door: port}
        result = run("serve", *(word for name, at in ports.items() for word in (f"--{name}-port", str(at))))
    assert result.exit_code == 1
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("bmsota-cloud:"))
    assert f"port {port} on 127.0.0.1 is in use; stop the program that listens there, or choose another port" in line
    assert f"--{door}-port" in line
    assert "Errno" not in line


CONFIG = """
# What the command line says wins.
data = "d"
http-port = 0
gateway-port = 1
web-cert = "server.crt"
web-key = "server.key"
gateway-cert = "server.crt"
gateway-key = "server.key"
link-keys = "keys.toml"
acknowledge-reports = true
upload-max-mib = 1
trusted-proxy = ["127.0.0.0/8"]
"""
KEYS = """
[vehicles.TESTVEHICLE000002]
cipher = "SM4"
key = "00112233445566778899aabbccddeeff"
mode = "CBC"
padding = "PKCS7"
iv = "ffeeddccbbaa99887766554433221100"
"""


def https(url, context, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=120, context=context) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_platform_from_a_file_with_tls_on_both_doors(run, tmp_path):
    """As an operator runs it: a configuration file, certificates, a vehicle with a key of its own, a plain one, a stranger."""
    cert, _ = make_certificate(tmp_path)
    (tmp_path / "serve.toml").write_text(CONFIG)
    (tmp_path / "keys.toml").write_text(KEYS)
    (tmp_path / "keys.toml").chmod(0o600)
    result = run("create-account", "carol", "carol@example.org", "--role", "operator", "--config", "serve.toml")
    assert result.exit_code == 0, result.stderr
    context = ssl.create_default_context(cafile=cert)
    lines = []
    with running(tmp_path, ("serve", "--config", "serve.toml", "--gateway-port", "0")) as process:
        wait_for(process, "mails", lines)
        url = re.search(r"pages and APIs +(https://127\.0\.0\.1:\d+)\n", "".join(lines))[1]
        port = int(re.search(r"gateway +tls://127\.0\.0\.1:(\d+)\n", "".join(lines))[1])
        token = https(f"{url}/api/v1/login", context, {"name": "carol", "password": PASSWORD})["token"]
        carol = {"Authorization": f"Bearer {token}"}
        for vin in VINS[:2]:
            https(f"{url}/api/v1/vehicles", context, {"vin": vin, "series": "F7", "project": "Harbour"}, **carol)
        sm4 = SymmetricCipher(
            Encryption.SM4,
            key=bytes.fromhex("00112233445566778899aabbccddeeff"),
            mode=CipherMode.CBC,
            padding=CipherPadding.PKCS7,
            iv=bytes.fromhex("ffeeddccbbaa99887766554433221100"),
        )
        for vin, cipher, kind in zip(VINS, (None, sm4, None), (LoggedOut, LoggedOut, LoginFailed), strict=True):
            events = asyncio.run(trip(vin, port, context, cipher))
            assert any(isinstance(event, kind) for event in events), (vin, events)
        for vin in VINS[:2]:
            # Derived a second after it was stored, and later on a machine that is busy.
            until = time.monotonic() + 60
            while (soc_pct := https(f"{url}/api/v1/vehicles/{vin}", context, **carol)["state"]["soc_pct"]) is None:
                assert time.monotonic() < until, vin
                time.sleep(0.2)
            assert soc_pct == 50
        # Nobody gets in without TLS.
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.settimeout(120)
            plain.sendall(bytes.fromhex("2323010000"))
            assert plain.recv(100)[:1] in {b"", b"\x15"}  # nothing, or a TLS alert
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in errors) == (0, False), errors
    # What it heard it has written at the latest when it was stopped.
    store = SqlStore(f"sqlite:///{tmp_path / 'd' / 'platform.sqlite'}")
    with store.reading() as work:
        rows = work.refusals.page(PageRequest(), text="", cause=None, is_registered=None).items
    store.close()
    # Whoever did not speak TLS above is among them.
    assert {(row.refusal.vin, row.refusal.cause, row.refusal.address) for row in rows} == {
        ("", RefusalCause.TLS_HANDSHAKE, "127.0.0.1"),
        (VINS[2], RefusalCause.LOGIN_UNKNOWN_VIN, "127.0.0.1"),
    }


VINS = ("TESTVEHICLE000001", "TESTVEHICLE000002", "NOSUCHVEHICLE0001")


async def trip(vin, port, context, cipher):
    """Log in over TLS, report until it is answered, log out; or what came instead."""
    session = TerminalSession(vin=vin, iccid="1" * 20, options=TerminalOptions(cipher=cipher, time_sync=False))
    events = []
    done = asyncio.Event()

    def handle(event, now_ns):
        events.append(event)
        if isinstance(event, LoggedIn):
            session.send_report((VehicleData(1, 3, 1, 0.0, 1.0, 355.2, 0.0, 50, 1, 15, 5000, 0, 0),), now_ns)
            session.logout(now_ns)
        if isinstance(event, LoggedOut | LoginFailed):
            done.set()

    terminal = connect_terminal(SessionLink(session, handle), "127.0.0.1", port, ssl_context=context)
    async with asyncio.timeout(60):
        await done.wait()
    await terminal.close()
    return events
