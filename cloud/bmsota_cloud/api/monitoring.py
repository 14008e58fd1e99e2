"""For monitoring: `/healthz` (anybody), `/healthz/live` (anybody), `/metrics` (accounts, and programs on this machine).

`/healthz` says whether the platform can work: 200 if its databases can be read, else 503, with words for each. `/healthz/live` says
only that the process answers, whatever the databases do, so that a supervisor does not restart it for a database that is away.

`/metrics` is Prometheus' text format. It names no vehicle and no person, but tells a stranger how large a fleet is, so it is for a
bearer token of an account that sees everything, and for requests from this machine that no proxy has forwarded.
"""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

import asyncio
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bmsota_cloud.api.common import sender_of
from bmsota_cloud.clock import Clock
from bmsota_cloud.domain.errors import LoginError, NotAllowedError, StorageUnavailableError
from bmsota_cloud.services import Health

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["mount_monitoring"]

# A database that has not answered by then is away; the answer says so, and does not wait for it.
_HEALTH_TIMEOUT_S = 5.0
# Anybody may ask, so the databases are asked this often at most.
_HEALTH_VALID_S = 1.0
# What proxies add. A request with one of these comes from elsewhere, whatever its connection says.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_STATUS = {"ok": 200, "degraded": 200, "unavailable": 503}


def mount_monitoring(app: FastAPI, services: "Services", clock: Clock) -> None:
    """Add the routes."""
    probe = _Probe(services)
    registry = CollectorRegistry()
    registry.register(_PlatformCollector(services))
    ProcessCollector(registry=registry)

    @app.get("/healthz", include_in_schema=False)
    async def health() -> JSONResponse:
        found = await probe.health()
        body = {
            "status": found.status,
            "platform_database": found.platform_database,
            "telemetry_database": found.telemetry_database,
        }
        headers = {} if found.is_ready else {"Retry-After": str(StorageUnavailableError.retry_after_s)}
        return JSONResponse(body, status_code=_STATUS[found.status], headers=headers)

    @app.get("/healthz/live", include_in_schema=False)
    async def live() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        try:
            if not _is_of_this_machine(request):
                _check_account(request, services, clock)
        except LoginError as refusal:
            return JSONResponse(
                {"error": refusal.code, "detail": str(refusal)}, 401, headers={"WWW-Authenticate": "Bearer"}
            )
        except NotAllowedError as refusal:
            return JSONResponse({"error": refusal.code, "detail": str(refusal)}, 403)
        except StorageUnavailableError as refusal:
            headers = {"Retry-After": str(refusal.retry_after_s)}
            return JSONResponse({"error": refusal.code, "detail": str(refusal)}, 503, headers=headers)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _is_of_this_machine(request: Request) -> bool:
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _check_account(request: Request, services: "Services", clock: Clock) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise LoginError("no-session", "metrics are for accounts; send a bearer token, or ask from this machine")
    services.monitoring.require_reader(sender_of(token, services, clock))


class _Probe:
    """Asks the databases, once for everybody who asks at the same time."""

    def __init__(self, services: "Services") -> None:
        self._services = services
        self._asking: asyncio.Task[Health] | None = None
        self._answered_s = 0.0

    async def health(self) -> Health:
        loop = asyncio.get_running_loop()
        if self._asking is None or (self._asking.done() and loop.time() - self._answered_s >= _HEALTH_VALID_S):
            self._asking = loop.create_task(self._ask())
        try:
            return await asyncio.wait_for(asyncio.shield(self._asking), _HEALTH_TIMEOUT_S)
        except TimeoutError:
            words = f"no answer within {_HEALTH_TIMEOUT_S:.0f} s"
            return Health(is_ready=False, platform_database=words, telemetry_database=words)

    async def _ask(self) -> Health:
        try:
            return await asyncio.to_thread(self._services.monitoring.health)
        finally:
            self._answered_s = asyncio.get_running_loop().time()


class _PlatformCollector(Collector):
    """Reads the figures when they are asked for."""

    def __init__(self, services: "Services") -> None:
        self._services = services

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not ask the databases."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        figures = self._services.monitoring.figures()
        events = CounterMetricFamily("bmsota_events", "Events of this process by kind.", labels=["event"])
        for name, count in sorted(figures.counters.items()):
            events.add_metric([name], count)
        yield events
        yield GaugeMetricFamily("bmsota_links", "Vehicles logged in to this process.", figures.links)
        for name, value in sorted(figures.gauges.items()):
            yield GaugeMetricFamily(f"bmsota_{name}", f"{name.replace('_', ' ').capitalize()} of this process.", value)
        yield GaugeMetricFamily(
            "bmsota_database_up", "1 if the platform's database answers.", int(figures.is_database_up)
        )
        if not figures.is_database_up:
            return
        yield GaugeMetricFamily("bmsota_mails_waiting", "Mails neither sent nor given up.", figures.mails_waiting)
        vehicles = GaugeMetricFamily("bmsota_vehicles", "Registered vehicles by connection.", labels=["connection"])
        vehicles.add_metric(["online"], figures.vehicles_online)
        vehicles.add_metric(["offline"], figures.vehicles - figures.vehicles_online)
        yield vehicles
        for name, words, counts in (
            ("bmsota_ota_tasks", "OTA tasks by status.", figures.tasks),
            ("bmsota_vehicle_upgrades", "Vehicles of OTA tasks by status.", figures.upgrades),
        ):
            family = GaugeMetricFamily(name, words, labels=["status"])
            for status, count in counts.items():
                family.add_metric([status], count)
            yield family
