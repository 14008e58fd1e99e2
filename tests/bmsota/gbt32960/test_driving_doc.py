"""The drivers of docs/driving.md work: the asyncio gateway and the terminal in a thread, over this machine's loopback."""

from __future__ import annotations

import asyncio
import doctest
import queue
import re
import threading
import time
from pathlib import Path

import pytest

from bmsota.adapters import SessionLink, serve_gateway
from bmsota.gbt32960 import Engine, LoggedOut, LoginRequested, PlatformSession, ReportReceived, TerminalSession

PAGE = Path(__file__).resolve().parents[3] / "docs" / "driving.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page():
    """What the page defines, as somebody would have it who copies all of it."""
    names: dict[str, object] = {}
    for block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        for example in doctest.DocTestParser().get_examples(block):
            exec(compile(example.source, str(PAGE), "single"), names)
    return names


def test_the_page_is_about_two_pages():
    """Some 85 lines of prose fit on two pages beside the examples."""
    prose = BLOCK.sub("", PAGE.read_text(encoding="utf-8"))
    assert len(prose.split()) < 1000


@pytest.mark.slow
def test_a_terminal_in_a_thread_reports_to_a_gateway_in_asyncio(page):
    """The report arrives, the terminal logs out, and both drivers end by themselves."""
    engine = Engine(state=1, crankshaft_speed_rpm=900, fuel_rate_l_per_100km=5.0)
    reports: queue.Queue[object] = queue.Queue()
    arrived: list[tuple[str, object]] = []
    told: list[object] = []
    offset_ns = time.time_ns() - time.monotonic_ns()
    session = TerminalSession(vin="LBMF7EV01R0000001", iccid="89860000000000000001")

    async def serve():
        has_arrived = asyncio.Event()

        def open_link(wake):
            gateway_session = PlatformSession()

            def handle(event, now_ns):
                if isinstance(event, LoginRequested):
                    gateway_session.accept_login(now_ns)
                elif isinstance(event, ReportReceived):
                    arrived.append((event.vin, event.report))
                    has_arrived.set()

            return SessionLink(gateway_session, handle)

        server = await serve_gateway(open_link, "127.0.0.1", 0)
        thread = threading.Thread(
            target=page["run_terminal"],
            args=(session, "127.0.0.1", server.port, reports, lambda: time.monotonic_ns() + offset_ns, told.append),
            daemon=True,
        )
        reports.put([engine])  # Before there is a link: it goes out as backfill.
        thread.start()
        await has_arrived.wait()
        reports.put(None)
        await asyncio.to_thread(thread.join)
        await server.close()

    asyncio.run(serve())
    assert [(vin, report.bodies) for vin, report in arrived] == [("LBMF7EV01R0000001", (engine,))]
    assert isinstance(told[-1], LoggedOut)


def test_a_terminal_without_a_platform_goes_on(page):
    """Nobody listens there: the session is told so, and logging out ends it all the same."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    reports: queue.Queue[object] = queue.Queue()
    session = TerminalSession(vin="V", iccid="i")
    told: list[object] = []

    def handle(event):
        told.append(type(event).__name__)
        if "LoginFailed" in told and reports.empty() and told.count("LoginFailed") == 1:
            reports.put(None)

    page["run_terminal"](session, "127.0.0.1", port, reports, time.monotonic_ns, handle)
    assert told[-1] == "LoggedOut"
