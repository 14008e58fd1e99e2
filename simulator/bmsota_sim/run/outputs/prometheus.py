"""`--prometheus HOST:PORT`: the figures of a run while it goes on, in Prometheus's text format.

Served by the run's own event loop, so a scrape sees the counters of one instant. `GET /metrics`; each connection is answered once.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING

from bmsota._extras import needs
from bmsota.errors import ConfigurationError
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.ledger import replies_below

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from prometheus_client import Metric

    from bmsota_sim.run.judged import JudgedRun

__all__ = ["metrics_server", "metrics_text", "split_host_port"]

REQUEST_SIZE_BYTES_MAX = 16 * 1024
REQUEST_TIMEOUT_S = 5.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def split_host_port(text: str) -> tuple[str, int]:
    """`127.0.0.1:9100`, `[::1]:9100`, or `:9100` for every address.

    Raises:
        ConfigurationError: it is none.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigurationError(f"--prometheus: expected HOST:PORT such as 127.0.0.1:9100, got {text}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def metrics_text(run: JudgedRun, late_s: float) -> str:
    """The figures of *run* now; *late_s*: how late the simulator is.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    with needs("--prometheus", "prometheus_client", "sim"):
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - only this option needs it
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily  # noqa: PLC0415

    class Figures:
        """What `generate_latest` collects."""

        def collect(self) -> Iterator[Metric]:
            figures = run.figures()
            for name, text, value in _gauges(run, late_s):
                yield GaugeMetricFamily(f"bmsota_sim_{name}", text, value=value)
            for name, count in figures.totals.items():
                yield CounterMetricFamily(f"bmsota_sim_{name}", f"Counter {name} of the run, all units.", value=count)
            yield HistogramMetricFamily(
                "bmsota_sim_reply_seconds",
                "How long the platform took to answer.",
                buckets=[
                    ("+Inf" if below_s == inf else f"{below_s:.6g}", count)
                    for below_s, count in replies_below(figures.replies)
                ],
                sum_value=figures.reply_sum_s,
            )

    registry = CollectorRegistry()
    registry.register(Figures())
    return generate_latest(registry).decode()


def _gauges(run: JudgedRun, late_s: float) -> Iterator[tuple[str, str, float]]:
    figures = run.figures()
    yield "units", "Units of the scenario.", figures.unit_count
    yield "units_started", "Units that were switched on.", figures.started
    yield "units_connected", "Units with a link.", figures.connected
    yield "units_logged_in", "Units whose login was accepted on the link that they have.", figures.logged_in
    yield "time_seconds", "Time of the scenario since its start.", run.now_ns() / NS_PER_S
    yield "duration_seconds", "Duration of the scenario.", run.duration_ns / NS_PER_S
    yield "late_seconds", "How late the simulator is; nothing is to be concluded from a late one.", late_s


@asynccontextmanager
async def metrics_server(host: str, port: int, text: Callable[[], str]) -> AsyncIterator[int]:
    """Serve *text* in the running loop; gives the port.

    Raises:
        ConfigurationError: the address is taken, or not ours.
        MissingExtraError: as `metrics_text`.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, text))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # A scraper that breaks off, or is none.
        finally:
            writer.close()

    text()  # What is missing is told now, and what must be loaded does not hold up the run later.
    try:
        server = await asyncio.start_server(answer, host or None, port, limit=REQUEST_SIZE_BYTES_MAX)
    except OSError as error:
        raise ConfigurationError(f"--prometheus {host}:{port}: {error.strerror or error}") from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def _response(head: bytes, text: Callable[[], str]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in {b"GET", b"HEAD"}:
        status, body = "405 Method Not Allowed", b"GET /metrics\n"
    elif path != b"/metrics":
        status, body = "404 Not Found", b"the figures are at /metrics\n"
    else:
        status, body = "200 OK", text().encode()
    header = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return header.encode() + (b"" if method == b"HEAD" else body)
