"""The process: HTTP around the platform, and everything together in one event loop.

`build_app` puts HTTP around a platform (`bmsota_cloud.platform`), `RunningCloud` runs gateway, web server, mail worker and
the ticker of deadlines in one process.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from bmsota.adapters.asyncio_accept import HANDSHAKE_ABANDONED
from bmsota_cloud import pages
from bmsota_cloud.api.device_route import mount_device_api
from bmsota_cloud.api.middleware import BodyLimit, SecurityHeaders
from bmsota_cloud.api.monitoring import mount_monitoring
from bmsota_cloud.api.router import build_router
from bmsota_cloud.clock import PlatformClock, wall_clock
from bmsota_cloud.descriptors import DescriptorPlan, raise_descriptor_limit
from bmsota_cloud.domain.clock_guard import ClockGuard, ClockStep
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.refusals import RefusalCause
from bmsota_cloud.gateway import GatewayServer
from bmsota_cloud.keys import sample_key_warning
from bmsota_cloud.mail import MailSink, MailWorker, SmtpTarget
from bmsota_cloud.platform import Cloud, build_cloud
from bmsota_cloud.services import PlatformKeys, PlatformSettings, SteadyTime
from bmsota_cloud.web_server import WebServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

__all__ = ["AddressError", "RunningCloud", "ServeOptions", "build_app", "tune_collector"]

_LOG = logging.getLogger(__name__)

# How often deadlines are looked at; time limits are minutes to days.
_TICK_S = 5.0
# Old reports are deleted this often, in ticks: every ten minutes.
_PRUNE_EVERY_TICKS = 120
# Compressing reports rests four times as long as it works: at most a fifth of a core, an hour a day for 10,000 vehicles.
_COMPACT_REST = 4.0
# An export rests as long as it works: at most half a core.
_EXPORT_REST = 1.0
# Who has come and gone is written this often: in a storm, many vehicles at a time.
_PRESENCE_S = 0.2
# The gateway's lease is prolonged this often (`bmsota_cloud.services.presence.LEASE_S`).
_RENEW_S = 5.0
_START_TIMEOUT_S = 20.0
# What open connections and WebSockets get to end by themselves.
_STOP_HTTP_S = 1
# Longer than a mail that is being sent may take (`bmsota_cloud.mail.worker`), in seconds.
_STOP_TRIES_MAX = 25


def build_app(cloud: Cloud) -> FastAPI:
    """The platform's HTTP side: device API, operators' REST API, pages."""
    app = FastAPI(title="bmsota cloud", version="1", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json")
    mount_device_api(app, cloud.services, cloud.clock)
    app.include_router(build_router(cloud.services, cloud.clock))
    app.include_router(pages.build_router(cloud.services, cloud.settings, cloud.clock))
    pages.mount_static(app)
    mount_monitoring(app, cloud.services, cloud.clock)
    pages.add_error_pages(app, cloud.services, cloud.settings, cloud.clock)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(BodyLimit, upload_size_bytes_max=cloud.settings.upload_size_bytes_max)
    return app


def tune_collector() -> None:
    """Have the garbage collector look less often; for a process that does nothing but serve.

    Reports wait in memory for their commit and to be derived, some ten objects each, none of them garbage. Looked through every 700
    objects, as Python does by itself, they cost more than being received.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to run a platform in one process."""

    keys: PlatformKeys
    data_dir: Path | None = None
    database_url: str = ""
    telemetry_url: str = ""
    settings: PlatformSettings | None = None
    """`device_url` and `pages_url` are set to the real address unless `keeps_urls`."""
    keeps_urls: bool = False
    host: str = "127.0.0.1"
    http_port: int = 0
    web_tls: tuple[Path, Path] | None = None
    """Certificate and private key for HTTPS, both PEM; the key without a password."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed; nobody else's are."""
    gateway_host: str = ""
    """Empty: as `host`."""
    gateway_port: int = 0
    gateway_name: str = ""
    """Of this process among several on the same data, the same after a restart. Empty: the first of the machine's name, that name
    with "-2", and so on, that no other process has."""
    smtp: SmtpTarget | None = None
    """None: an embedded mail sink takes the mails."""
    mail_folder: Path | None = None
    """Where the embedded sink writes .eml files."""
    ssl_context: ssl.SSLContext | None = None
    """For the gateway."""
    draw: Callable[[int], bytes] = os.urandom


class RunningCloud:
    """Gateway, HTTP, mail worker and ticker in the running event loop. Make it with `start`, end it with `stop`."""

    def __init__(self, cloud: Cloud, options: ServeOptions, http_socket: socket.socket, guard: ClockGuard) -> None:
        self.cloud = cloud
        self.clock_guard = guard
        self.clock = clock = PlatformClock(guard)
        self.host = options.host
        self.http_port: int = http_socket.getsockname()[1]
        self.gateway_port = 0
        self.mail_sink: MailSink | None = None
        self._options = options
        self._http_socket = http_socket
        plan = DescriptorPlan.of(raise_descriptor_limit())
        self.gateway_host = options.gateway_host or options.host
        self._gateway = GatewayServer(
            cloud.open_link,
            clock.now_ns,
            ssl_context=options.ssl_context,
            links_max=cloud.settings.links_max,
            descriptors_max=plan.links_max,
            writer=cloud.make_writer(),
            on_handshake_failed=self._handshake_failed,
        )
        cert, key = options.web_tls or (None, None)
        self._http = WebServer(
            uvicorn.Config(
                build_app(cloud),
                # As everything else says it, with the time.
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws_ping_interval=20.0,
                ssl_certfile=cert,
                ssl_keyfile=key,
                # Anybody can write X-Forwarded-For, and tries are counted by address; uvicorn's own default believes every
                # program on this machine.
                proxy_headers=bool(options.trusted_proxies),
                forwarded_allow_ips=list(options.trusted_proxies),
                timeout_graceful_shutdown=_STOP_HTTP_S,
            ),
            http_socket,
            connections_max=plan.http_connections_max,
        )
        self._mail_worker: MailWorker | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._steady = SteadyTime()
        self._has_begun = False
        self._compact_at: datetime | None = None
        """The time of the last tick that could trust the clock; None if it could not."""

    @property
    def http_url(self) -> str:
        return _url(self._options, self.http_port)

    @classmethod
    async def start(cls, options: ServeOptions) -> RunningCloud:
        """Start everything.

        Raises:
            AddressError: one of the two doors cannot listen where it should; nothing is left running.
            ConfigurationError: the data folder or a database cannot be used, or another process has the gateway's name; the same.
        """
        # Bound first, because the address stands in instructions and mails.
        with _listening("web", options.host, options.http_port):
            http_socket = socket.create_server((options.host, options.http_port), family=_family(options.host))
        try:
            settings = options.settings or PlatformSettings()
            if not options.keeps_urls:
                url = _url(options, http_socket.getsockname()[1])
                settings = replace(settings, device_url=url, pages_url=url)
            guard = ClockGuard()
            cloud = build_cloud(
                keys=options.keys,
                data_dir=options.data_dir,
                database_url=options.database_url,
                telemetry_url=options.telemetry_url,
                settings=settings,
                draw=options.draw,
                clock=PlatformClock(guard).now,
                clock_guard=guard,
                gateway_id=_gateway_id(options.gateway_name),
                gateway_name=options.gateway_name or _host_name(),
                is_gateway_name_fixed=bool(options.gateway_name),
            )
            running = cls(cloud, options, http_socket, guard)
        except BaseException:
            http_socket.close()
            raise
        try:
            await running._begin()
        except BaseException:
            await running.stop()
            raise
        return running

    async def _begin(self) -> None:
        options, cloud = self._options, self.cloud
        if warning := sample_key_warning(options.keys):
            _LOG.warning("%s", warning)
        await asyncio.to_thread(cloud.services.ingest.recover)
        cloud.services.presence.is_deferred = True
        await asyncio.to_thread(cloud.services.presence.begin, self._steady_now())
        target = options.smtp
        if target is None:
            # For this process only, wherever the doors are.
            self.mail_sink = MailSink(host="127.0.0.1", folder=options.mail_folder)
            await asyncio.to_thread(self.mail_sink.start)
            target = SmtpTarget(host=self.mail_sink.host, port=self.mail_sink.port, start_tls=False)
        with _listening("gateway", self.gateway_host, options.gateway_port):
            self.gateway_port = await self._gateway.start(self.gateway_host, options.gateway_port)
        self._mail_worker = MailWorker(cloud.outbox, target, sender=cloud.settings.mail_sender, clock=self.clock.now)
        for name, work in (
            ("mail", self._mail_worker.run()),
            ("ticker", self._tick()),
            ("presence", self._keep_presence()),
            ("compacting", self._compact()),
            ("exports", self._export()),
            ("http", self._http.serve(sockets=[])),
        ):
            self._tasks.append(asyncio.create_task(work, name=name))
        self._has_begun = True
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._http.started:
            if time.monotonic() > deadline or self._tasks[-1].done():
                raise OSError(f"the web server did not start on {self.http_url}")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End everything; safe to call when only half of it runs."""
        await self._gateway.stop()
        self._http.should_exit = True
        if self._mail_worker is not None:
            self._mail_worker.stop()
        waiting = set(self._tasks)
        for _ in range(_STOP_TRIES_MAX):
            if not waiting:
                break
            # Again, because a cancellation can be swallowed by what a task is waiting in (see `MailWorker.stop`).
            for task in waiting:
                if task.get_name() != "http":
                    task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=1.0)
        self._http_socket.close()
        if self.mail_sink is not None:
            await asyncio.to_thread(self.mail_sink.stop)
        if self._has_begun:
            # Without it the vehicles are offline as well, when the lease ends.
            with _failures_logged("presence"):
                await asyncio.to_thread(self.cloud.services.presence.end, self._steady_now())
        with _failures_logged("refusals"):
            await asyncio.to_thread(self.cloud.services.refusals.flush)
        self.cloud.close()

    async def wait(self) -> None:
        """Until something ends by itself, which nothing should."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _tick(self) -> None:
        services = self.cloud.services
        ticks = 0
        steps_back = 0
        steps: list[ClockStep] = []
        is_mended = False
        while True:
            is_trusted = False
            with _failures_logged("ticker"):
                now = self.clock.now()
                if self.clock_guard.steps_back != steps_back:
                    steps_back = self.clock_guard.steps_back
                    await asyncio.to_thread(self._restart_links, now)
                is_trusted = not services.clock.is_waiting
                steps += self.clock_guard.take_steps()
                if is_trusted:
                    if steps or not is_mended or ticks % _PRUNE_EVERY_TICKS == 0:
                        # Before anything is judged by what a wrong clock has written.
                        await asyncio.to_thread(services.clock.mend, now, tuple(steps))
                        steps.clear()
                        is_mended = True
                    await asyncio.to_thread(services.upgrades.expire, now)
            with _failures_logged("link notes"):
                await asyncio.to_thread(services.link_watch.flush)
            with _failures_logged("acts on OTA tasks"):
                await asyncio.to_thread(services.ota_tasks.carry_on, self.clock.now())
            with _failures_logged("refusals"):
                await asyncio.to_thread(services.refusals.flush)
            # It is the reading that shows a jump: the guard is asked behind it.
            now = self.clock.now()
            self._compact_at = None
            if is_trusted and not services.clock.is_waiting:
                self._compact_at = now
                with _failures_logged("pruning"):
                    if ticks % _PRUNE_EVERY_TICKS == 0:
                        await asyncio.to_thread(services.ingest.prune, now)
                with _failures_logged("old exports"):
                    if ticks % _PRUNE_EVERY_TICKS == 0:
                        await asyncio.to_thread(services.exports.expire, now)
                ticks += 1
            await asyncio.sleep(_TICK_S)

    def _handshake_failed(self, address: str, words: str) -> None:
        # A record of its own: a health check at the same address must not hide what OpenSSL has said of a terminal.
        cause = RefusalCause.TLS_ABANDONED if words == HANDSHAKE_ABANDONED else RefusalCause.TLS_HANDSHAKE
        self.cloud.services.refusals.record(cause, address=address, detail=words, now=self.clock.now())

    async def _compact(self) -> None:
        services = self.cloud.services
        while True:
            rest_s = _TICK_S
            with _failures_logged("compacting"):
                if self._compact_at is not None and not services.clock.is_waiting:
                    begun_s = time.monotonic()
                    if await asyncio.to_thread(services.compaction.run, self._compact_at):
                        rest_s = _COMPACT_REST * (time.monotonic() - begun_s)
            await asyncio.sleep(rest_s)

    async def _export(self) -> None:
        services = self.cloud.services
        while True:
            rest_s = _TICK_S
            with _failures_logged("exports"):
                begun_s = time.monotonic()
                if await asyncio.to_thread(services.exports.run, self.clock.now()):
                    rest_s = _EXPORT_REST * (time.monotonic() - begun_s)
            await asyncio.sleep(rest_s)

    def _restart_links(self, now: datetime) -> None:
        """The deadlines of the links are of a time that was wrong, and hours ahead: silent ones would stay that long."""
        router = self.cloud.router
        count = len(router) + sum(router.platforms().values())
        _LOG.warning("the clock was put back; %d links are closed, so that their vehicles log in again", count)
        for vin in router.vins():
            self.cloud.services.ingest.link_lost(vin, now)
        router.close_links()

    async def _keep_presence(self) -> None:
        presence, router = self.cloud.services.presence, self.cloud.router
        renewed_s = time.monotonic()
        while True:
            await asyncio.sleep(_PRESENCE_S)
            with _failures_logged("presence"):
                if time.monotonic() - renewed_s >= _RENEW_S:
                    renewed_s = time.monotonic()
                    for vin in await asyncio.to_thread(presence.renew, self._steady_now()):
                        router.supersede(vin)
                elif presence.has_changes:
                    await asyncio.to_thread(presence.flush)

    def _steady_now(self) -> datetime:
        return self._steady.at(wall_clock(), time.monotonic())


def _host_name() -> str:
    return socket.gethostname()[:48] or "gateway"


def _gateway_id(name: str) -> str:
    """Unique for this start of this process; a name for people in front."""
    return f"{name or _host_name()}:{os.getpid()}:{os.urandom(4).hex()}"


@contextmanager
def _failures_logged(name: str) -> Iterator[None]:
    """A database that is away for a moment must not end a background task for good; it is logged and retried."""
    try:
        yield
    except StorageUnavailableError as refusal:
        _LOG.warning("%s: %s; retrying", name, refusal)
    except Exception:  # noqa: BLE001 - logged whole, see above
        _LOG.exception("%s: failed; retrying", name)


class AddressError(OSError):
    """A door cannot listen where it should."""

    def __init__(self, door: str, message: str) -> None:
        super().__init__(message)
        self.door = door
        """"web" or "gateway"."""


@contextmanager
def _listening(door: str, host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            words = f"port {port} on {host} is in use; stop the program that listens there, or choose another port"
        elif error.errno == errno.EACCES:
            words = f"port {port} on {host}: no permission; ports below 1024 need it, choose a higher one"
        elif isinstance(error, socket.gaierror) or error.errno in {errno.EADDRNOTAVAIL, socket.EAI_NONAME}:
            words = f"{host} is not an address of this machine"
        else:
            words = f"cannot listen on {host}, port {port}: {error.strerror or error}"
        raise AddressError(door, f"{door}: {words}") from error


def _url(options: ServeOptions, port: int) -> str:
    return f"{'http' if options.web_tls is None else 'https'}://{_in_url(options.host)}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
