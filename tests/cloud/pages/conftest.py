"""Visitors of the pages, vehicles that report, and a browser before a real server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from bmsota_cloud.pages import build_router, mount_static
from bmsota_cloud.services import stored_frame
from bmsota_cloud.wiring import build_app
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lent_apps import lent_app
from playwright.sync_api import expect, sync_playwright

from bmsota.gbt32960 import (
    AlarmFlag,
    Alarms,
    CellVoltages,
    ChargingState,
    Command,
    DcdcState,
    DriveMotor,
    DriveMotors,
    Extremes,
    Frame,
    Gear,
    GearPosition,
    LocalUpgrade,
    LocalUpgradeOutcome,
    MotorState,
    Position,
    ProbeTemperatures,
    Report,
    RunMode,
    SubsystemTemperatures,
    SubsystemVoltages,
    VehicleData,
    VehicleState,
    beijing_time,
    encode,
)

BASE_URL = "http://cloud.example:8080"
PASSWORD = "correct horse battery"
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_START_TIMEOUT_S = 120.0


# -- vehicles that report ----------------------------------------------------------------------------------------------


def make_cells(count=24, *, base_v=3.652, low=(5, 3.611), high=(17, 3.689)):
    cells = [round(base_v + 0.001 * ((place * 7) % 11 - 5), 3) for place in range(count)]
    for number, volts in (low, high):
        cells[number - 1] = volts
    return tuple(cells)


def make_bodies(
    *, soc_pct=63, speed_kmh=42.5, current_a=31.4, cells=None, probes=(24, 25, 26, 25, 27, 24, 29, 25), alarms=None
):
    cells = make_cells() if cells is None else cells
    return (
        VehicleData(
            vehicle_state=VehicleState.STARTED,
            charging_state=ChargingState.NOT_CHARGING,
            run_mode=RunMode.ELECTRIC,
            speed_kmh=speed_kmh,
            odometer_km=12345.6,
            total_voltage_v=87.6,
            total_current_a=current_a,
            soc_pct=soc_pct,
            dcdc_state=DcdcState.WORKING,
            gear=Gear.of(GearPosition.DRIVE, is_driving=True),
            insulation_kohm=5000,
            accelerator_pct=18,
            brake_pct=101,
        ),
        DriveMotors((DriveMotor(1, MotorState.CONSUMING, 41, 5200, 118.5, 55, 350.2, 60.3),)),
        Position(valid=True, longitude_deg=121.473701, latitude_deg=31.230416),
        Extremes(1, 17, 3.689, 1, 5, 3.611, 1, 7, 29, 1, 1, 24),
        Alarms(0) if alarms is None else alarms,
        CellVoltages((SubsystemVoltages(1, 87.6, current_a, len(cells), 1, cells),)),
        ProbeTemperatures((SubsystemTemperatures(1, tuple(probes)),)),
    )


@pytest.fixture
def report(world):
    """`report(1, soc_pct=50)`: vehicle 1 sends a report now."""

    def send(number, *, bodies=None, **values):
        at = beijing_time(world.now_ns)
        message = Report(time=at, bodies=make_bodies(**values) if bodies is None else bodies)
        raw = encode(Frame(command=Command.REALTIME_REPORT, vin=world.vin(number), message=message))
        reported_at_s = int(message.time.timestamp())
        world.services.ingest.accept(
            stored_frame(
                world.vin(number), raw, reported_at_s=reported_at_s, arrived_at_ns=world.now_ns, is_backfill=False
            )
        )

    return send


@pytest.fixture
def tell_field_upgrade(world):
    """`tell_field_upgrade(1, position=2)`: vehicle 1 tells of a node that was flashed from 2.0.0 to 2.1.0 just now."""

    def tell(number, **fields):
        position = fields.get("position", 1)
        asked = {
            "upgraded_at": beijing_time(world.now_ns),
            "position": position,
            "hwid": f"HW-{position}",
            "version_before": (2, 0, 0, 0),
            "version_after": (2, 1, 0, 0),
            "outcome": LocalUpgradeOutcome.SUCCEEDED,
        }
        upgrade = LocalUpgrade(**asked | fields)
        assert world.services.histories.receive(world.vin(number), [upgrade], world.now) == 1

    return tell


@pytest.fixture
def fleet(world, report):
    """Four vehicles: 1 and 2 online with values, 3 went offline three hours ago, 4 (series E7, project Hills) is new."""
    for number in (1, 2, 3):
        world.register(number)
        world.identify(number)
    world.register(4, series="E7", project="Hills")
    world.wait(hours=-3)
    world.services.ingest.log_in(world.vin(3), serial=1, now=world.now)
    report(3, soc_pct=20)
    world.services.ingest.link_lost(world.vin(3), world.now)
    world.wait(hours=3)
    for number in (1, 2):
        world.services.ingest.log_in(world.vin(number), serial=1, now=world.now)
        report(number)
    return world


@pytest.fixture
def two_alarms():
    return Alarms(2, AlarmFlag.CELL_UNDER_VOLTAGE | AlarmFlag.SOC_LOW, ress_faults=(0x1234,))


# -- visitors ----------------------------------------------------------------------------------------------------------


class Visitor:
    """A person with a browser that knows no JavaScript."""

    def __init__(self, client):
        self.client = client

    def get(self, path, **options):
        return self.client.get(path, **options)

    def see(self, path):
        """The text of a page that must be there."""
        answer = self.client.get(path)
        assert answer.status_code == 200, (path, answer.status_code)
        return answer.text

    def csrf(self, path="/vehicles"):
        match = re.search(r'name="csrf" value="([^"]+)"', self.see(path))
        assert match is not None
        return match[1]

    def post(self, path, *, csrf=None, **fields):
        return self.client.post(path, data={**fields, "csrf": self.csrf() if csrf is None else csrf})

    def live(self, path, **headers):
        return self.client.websocket_connect("ws" + BASE_URL.removeprefix("http") + path, headers=headers)


def pages_alone(cloud):
    made = FastAPI(openapi_url=None)
    made.include_router(build_router(cloud.services, cloud.settings, cloud.clock))
    mount_static(made)
    return made


@pytest.fixture
def app(world):
    """The pages alone: their headers must be their own."""
    with lent_app(pages_alone, world.cloud) as made:
        yield made


@pytest.fixture
def stranger(app):
    """Somebody who is not logged in."""
    with TestClient(app, base_url=BASE_URL, follow_redirects=False) as client:
        yield Visitor(client)


@pytest.fixture
def visit(app):
    """`visit("carol")`: carol, logged in by the form."""
    clients = []

    def log_in(name):
        client = TestClient(app, base_url=BASE_URL, follow_redirects=False)
        client.__enter__()
        clients.append(client)
        answer = client.post("/login", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        return Visitor(client)

    yield log_in
    for client in clients:
        client.__exit__(None, None, None)


def text_of(html):
    """What a person reads: without tags, blanks as one."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).strip()


@pytest.fixture
def words():
    return text_of


# -- a real browser before a real server -------------------------------------------------------------------------------


# Ends a test that hangs. Not a verdict: a busy machine takes many seconds for a page.
WATCHDOG_MS = 120_000


def chromium_path():
    named = os.environ.get("BMSOTA_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None or not Path(found).exists():
        pytest.fail(
            "expected Chromium for the page tests, got none: run `make chromium`, or set BMSOTA_CHROMIUM to its path",
            pytrace=False,
        )
    return found


class Server:
    """The platform's HTTP side on a free port of this machine, in a thread."""

    def __init__(self, app):
        self.app = app
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self._serve()

    def _serve(self):
        config = uvicorn.Config(self.app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self.server.started:
            assert time.monotonic() < deadline, "the web server did not start"
            time.sleep(0.01)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(_START_TIMEOUT_S)
        self.socket.close()

    def restart(self):
        """Back again at the same address."""
        port = int(self.url.rsplit(":", 1)[1])
        self.socket = socket.create_server(("127.0.0.1", port))
        self._serve()


@pytest.fixture
def server(world):
    running = Server(build_app(world.cloud))
    yield running
    running.stop()


# Not for the session: Playwright keeps an event loop in this thread, and no later test could have one of its own.
@pytest.fixture(scope="module")
def chromium():
    path = chromium_path()
    expect.set_options(timeout=WATCHDOG_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium, server):
    """`tab("carol", "/vehicles")`: a page of a fresh browser profile, logged in through the form.

    At the end of the test every tab must have stayed with our server and kept to the Content-Security-Policy.
    """
    contexts, complaints = [], []

    def watch(page):
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((server.url, "ws" + server.url[4:])) else complaints.append(asked.url)
            ),
        )
        page.on(
            "console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))

    def open_tab(name, path, *, width=1280, height=900, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, base_url=server.url, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WATCHDOG_MS)
        watch(page)
        page.goto(path)
        if name:
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url(lambda url: "/login" not in url)
        return page

    yield open_tab
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def make():
    """Makers of values for reports."""
    return SimpleNamespace(cells=make_cells, bodies=make_bodies, minutes=lambda count: timedelta(minutes=count))
