"""`bmsota-sim run` over real sockets: TLS, source addresses, and the same frames as in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
from types import SimpleNamespace

import bmsota_sim.realtime
import httpx
import pytest
from bmsota_sim._commands import app
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.realtime import RealTimeDriver, TcpUplink
from bmsota_sim.run.check import check
from bmsota_sim.run.runner import Run
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual
from certificates import make_certificate
from typer.testing import CliRunner

from .nasty_gateway import gateway

SCENARIO = """
name: links
duration: 8s
groups: { f: { profile: E7, count: 2 } }
life: { report: 2s, measure: 10s }
expect: [{ what: logged_in, at_least: 100% }]
"""
PATIENT = ("--lateness-limit", "1000", "--speed", "4")


def run(tmp_path, port, *arguments, scheme="tls", host="127.0.0.1"):
    (tmp_path / "links.yaml").write_text(SCENARIO)
    command = [
        "run",
        tmp_path / "links.yaml",
        "--to",
        f"{scheme}://{host}:{port}",
        "--report",
        tmp_path / "out",
        *PATIENT,
        *arguments,
    ]
    result = CliRunner().invoke(app, list(map(str, command)))
    return result, json.loads((tmp_path / "out" / "run.json").read_text())


def server_context(folder, *, client=None):
    cert, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if client is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client)
    return context, cert


@pytest.mark.slow
def test_tls_with_the_right_certificates(tmp_path):
    """The platform's, and our own, which it demands."""
    ours, key = make_certificate(tmp_path, "ours")
    context, ca = server_context(tmp_path, client=ours)
    with gateway("good", ssl=context) as port:
        result, report = run(tmp_path, port, "--tls-ca", ca, "--tls-cert", ours, "--tls-key", key)
    assert result.exit_code == 0, result.output
    assert report["counters"]["logins"] == 2
    assert "--tls-key" in report["given"]["replay"]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["authority", "name", "no client certificate"])
def test_tls_that_must_not_come_about(wrong, tmp_path):
    """No unit logs in; the report says why, with unit and time."""
    ours, _ = make_certificate(tmp_path, "ours")
    context, ca = server_context(tmp_path, client=ours if wrong == "no client certificate" else None)
    with gateway("good", ssl=context) as port:
        host = "localhost" if wrong == "name" else "127.0.0.1"
        result, report = run(tmp_path, port, "--tls-ca", ours if wrong == "authority" else ca, host=host)
    assert result.exit_code == 3, result.output
    assert report["counters"]["logins"] == 0
    unit = report["units"]["f/1"]
    name = (
        "drops" if unit["counters"].get("drops") else "connect_failures"
    )  # TLS 1.3: the server refuses after our end is up.
    first = unit["first"][name]
    words = {
        "authority": "certificate verify failed",
        "name": "Hostname mismatch",
        "no client certificate": "required",
    }[wrong]
    assert words.lower() in first["detail"].lower() or wrong == "no client certificate", first
    assert first["detail"]
    assert 0 <= first["at_s"] <= 30


@pytest.mark.parametrize(
    "options", [("--tls-ca", "/nowhere/ca.pem"), ("--tls-cert", "/nowhere/x.pem"), ("--tls-key", "/nowhere/x.pem")]
)
def test_certificates_that_are_not_there_are_told_before_anything_runs(options, tmp_path):
    (tmp_path / "links.yaml").write_text(SCENARIO)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "links.yaml"), "--to", "tls://127.0.0.1:1", *options])
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_units_come_from_the_source_addresses_in_turn(tmp_path):
    peers = []
    loop = asyncio.new_event_loop()

    async def accept(reader, writer):
        peers.append(writer.get_extra_info("peername")[0])
        await reader.read()
        writer.close()

    server = loop.run_until_complete(_serve(accept))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        port = server.sockets[0].getsockname()[1]
        run(tmp_path, port, "--source-address", "127.0.0.2-9", "--count", "3", scheme="tcp")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert set(peers) == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}


async def _serve(accept):
    return await asyncio.start_server(accept, "127.0.0.1", 0)


# -- Prometheus ------------------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_a_run_can_be_scraped_while_it_goes_on(tmp_path):
    """The scraper ends the run when it has what it came for."""
    metrics_port, scraped = free_port(), []

    def scrape():
        while True:
            with contextlib.suppress(httpx.TransportError):
                text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", trust_env=False).text
                if "bmsota_sim_units_logged_in 2.0" in text:
                    scraped.append(text)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    scraper = threading.Thread(target=scrape)
    with gateway("good") as port:
        scraper.start()
        result, report = run(
            tmp_path, port, "--prometheus", f"127.0.0.1:{metrics_port}", "--speed", "0.2", scheme="tcp"
        )
        scraper.join()
    assert result.exit_code == 143, result.output
    assert "bmsota_sim_logins_total 2.0" in scraped[0]
    assert report["counters"]["logins"] == 2


@pytest.mark.slow
def test_an_address_that_is_taken_is_told(tmp_path):
    with gateway("good") as port:
        (tmp_path / "links.yaml").write_text(SCENARIO)
        result = CliRunner().invoke(
            app,
            [
                "run",
                str(tmp_path / "links.yaml"),
                "--to",
                f"tcp://127.0.0.1:{port}",
                "--prometheus",
                f"127.0.0.1:{port}",
            ],
        )
    assert result.exit_code == 2, result.output
    assert f"--prometheus 127.0.0.1:{port}: " in result.output


# -- the same frames ---------------------------------------------------------------------------------------------------------

SAME = """
name: same
duration: 60s
start: { over: 1s }
groups:
  a: { profile: E7, count: 2, soc_spread: 10 }
  b: { profile: F7, count: 1, edition: 2025 }
life: { report: 3s, heartbeat: 5s, measure: 5s }
timeline: [{ at: 15s, do: driving, who: a/1, for: 30s }]
network: { jitter: 100ms, split: 30%, loss: 10% }
"""


class Clock:
    """A clock that stands while bytes are on their way, and jumps to what is due next when none are."""

    def __init__(self):
        self.now_ns = VIRTUAL_START_NS
        self.in_flight = 0

    def time_ns(self):
        return self.now_ns

    def monotonic_ns(self):
        return self.now_ns

    def advance(self, kernel):
        if not self.in_flight and kernel.now_ns >= self.now_ns:
            due = kernel.next_due()
            if due is not None:
                self.now_ns = max(self.now_ns, due)


class CountedUplink(TcpUplink):
    """Counts what is on its way: connects, and bytes that the gateway has not seen or that have not come back."""

    def __init__(self, clock, *arguments, **options):
        super().__init__(*arguments, **options)
        self._clock = clock

    def open_stream(self, listener):
        self._clock.in_flight += 1
        super().open_stream(_Counted(self._clock, listener))

    def send_stream(self, data):
        self._clock.in_flight += len(data)
        super().send_stream(data)


class _Counted:
    def __init__(self, clock, listener):
        self._clock = clock
        self._listener = listener

    def stream_opened(self):
        self._clock.in_flight -= 1
        self._listener.stream_opened()

    def stream_received(self, data):
        self._clock.in_flight -= len(data)
        self._listener.stream_received(data)

    def stream_closed(self, reason):
        raise AssertionError(reason)


class CountedGateway(asyncio.Protocol):
    def __init__(self, clock, platform):
        self._clock = clock
        self._link = platform.open_link(lambda: None)

    def connection_made(self, transport):
        self._transport = transport
        self._link.connected(self._clock.now_ns)

    def data_received(self, data):
        self._link.receive_data(data, self._clock.now_ns)
        answer = self._link.data_to_send()
        self._clock.in_flight += len(answer) - len(data)
        self._transport.write(answer)


async def in_real_time(scenario, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(
        bmsota_sim.realtime, "time", SimpleNamespace(time_ns=clock.time_ns, monotonic_ns=clock.monotonic_ns)
    )
    platform = SessionPlatform()
    server = await asyncio.get_running_loop().create_server(lambda: CountedGateway(clock, platform), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    driver = RealTimeDriver()
    uplinks = []
    async with httpx.AsyncClient() as client:

        def uplink(_index):
            uplinks.append(CountedUplink(clock, driver, client, host="127.0.0.1", port=port))
            return uplinks[-1]

        run = Run(scenario, 1, kernel=driver.kernel, uplink=uplink, clock_ns=driver.wall_ns)
        run.start()

        def finished():
            clock.advance(driver.kernel)
            return run.is_over

        await driver.run(finished, until_ns=run.start_ns + 3600 * SECOND)
        result = run.end()
        await asyncio.gather(*(each.close() for each in uplinks))
    server.close()
    return result, run


def in_virtual_time(scenario):
    kernel, platform = Kernel(VIRTUAL_START_NS), SessionPlatform()
    run = Run(scenario, 1, kernel=kernel, uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0))
    run.start()
    run_virtual(kernel, lambda: run.is_over, until_ns=run.start_ns + 3600 * SECOND)
    return run.end(), run


@pytest.mark.slow
def test_virtual_and_real_time_give_the_same_frames(monkeypatch):
    """Real sockets and an injected clock: every unit's trace and every counter are those of virtual time."""
    scenario = check(SAME.encode(), "same", 1).scenario
    real, real_run = asyncio.run(in_real_time(scenario, monkeypatch))
    virtual, virtual_run = in_virtual_time(scenario)
    assert real.hashes == virtual.hashes
    assert real.fold == virtual.fold
    assert real_run.ledger.totals() == virtual_run.ledger.totals()
    assert real_run.ledger.totals()["logins"] == 3
    assert real_run.ledger.totals()["sent"] > 40


@pytest.mark.slow
def test_the_time_without_faults_is_without_those_of_the_network():
    """`faults_off`: nothing is lost any more, and a segment takes the latency alone."""
    text = SAME.replace("loss: 10%", "loss: 100%").replace("jitter: 100ms, ", "") + "faults_off: 10s\n"
    scenario = check(text.encode(), "same", 1).scenario
    kernel, platform = Kernel(VIRTUAL_START_NS), SessionPlatform()
    run = Run(scenario, 1, kernel=kernel, uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0))
    run.start()
    kernel.run_until(run.start_ns + 49 * SECOND)
    assert {unit.link.delay_ns() for unit in run.units.values()} == {round(1.05 * SECOND)}  # Lost, and sent again.
    kernel.run_until(run.start_ns + 51 * SECOND)
    assert {unit.link.delay_ns() for unit in run.units.values()} == {round(0.05 * SECOND)}


def test_uvloop_is_used_where_it_is_installed(monkeypatch):
    """And named; without it the event loop is asyncio's."""
    monkeypatch.setitem(
        sys.modules, "uvloop", SimpleNamespace(__version__="0.0", new_event_loop=asyncio.SelectorEventLoop)
    )
    assert bmsota_sim.realtime.event_loop() == ("uvloop 0.0", asyncio.SelectorEventLoop)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert bmsota_sim.realtime.event_loop() == ("asyncio", None)


def test_with_a_backlog_what_has_arrived_comes_before_the_rest_of_it(monkeypatch):
    """A thousand frames of the platform do not wait for a slice of backlog each. Without a backlog they come after what was due."""

    async def play():
        clock = SimpleNamespace(now_ns=0)
        monkeypatch.setattr(
            bmsota_sim.realtime,
            "time",
            SimpleNamespace(time_ns=lambda: 10**18, monotonic_ns=lambda: clock.now_ns),
        )
        driver = RealTimeDriver()
        ran, heard = [], []
        for number in range(10):
            driver.kernel.call_in((1 + 30 * number) * MS, ran.append, number)
        clock.now_ns = 300 * MS
        for number in range(5):
            driver.deliver(heard.append, number)
        assert (len(ran), len(heard)) == (1, 5)
        for _ in range(10):
            driver._run_slice()
        assert len(ran) == 10
        driver.kernel.call_in(MS, ran.append, 10)
        clock.now_ns += 2 * MS
        driver.deliver(lambda: heard.append(len(ran)))
        assert heard[-1] == 11

    asyncio.run(play())
