"""Where the platform is put together: the only file that knows all the others. Nothing is built on import.

`build_cloud` makes the services around their stores and keys. That object can be driven without sockets and without an
event loop (`open_link`, `device_respond`, `services.outbox.drain`), which is how a simulation runs it in virtual time.
`build_app` puts HTTP around it, `RunningCloud` puts everything into one process: gateway, web server, mail worker and
the ticker of deadlines.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fastapi import FastAPI

from bmsota.errors import ConfigurationError
from bmsota.image import load_public_key, load_signing_key
from bmsota_cloud import pages
from bmsota_cloud.api import device as device_api
from bmsota_cloud.api.carrier import BodyLimit, SecurityHeaders, mount_device_api
from bmsota_cloud.api.operator import build_router
from bmsota_cloud.gateway import GatewayLink, GatewayServer, LocalRouter
from bmsota_cloud.gateway.link import utc_time
from bmsota_cloud.mail import MailSink, MailWorker, SmtpTarget
from bmsota_cloud.services import Context, LiveFeed, PlatformKeys, PlatformSettings, Services
from bmsota_cloud.storage.sql import MEMORY, SqlStore, SqlTelemetryStore

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bmsota.ota.http import HttpRequest, HttpResponse
    from bmsota_cloud.services import OutboxService
    from bmsota_cloud.storage.base import Store, TelemetryStore

__all__ = [
    "Cloud",
    "RunningCloud",
    "ServeOptions",
    "build_app",
    "build_cloud",
    "load_keys",
    "utc_time",
    "wall_clock",
    "wall_clock_ns",
]

_LOG = logging.getLogger(__name__)

# How often deadlines are looked at; time limits are minutes to days.
_TICK_S = 5.0
# Old reports are deleted this often, in ticks: every ten minutes.
_PRUNE_EVERY_TICKS = 120
_START_TIMEOUT_S = 20.0
# What open connections and WebSockets get to end by themselves.
_STOP_HTTP_S = 1
# Longer than a mail that is being sent may take (`bmsota_cloud.mail.worker`), in seconds.
_STOP_TRIES_MAX = 25


def wall_clock() -> datetime:
    """The time of a platform that runs in earnest."""
    return datetime.now(UTC)  # noqa: TID251 - wiring is where a clock is read


_last_ns = 0


def wall_clock_ns() -> int:
    """The same in nanoseconds since the Unix epoch; never going back, as the cores ask."""
    global _last_ns  # noqa: PLW0603 - the clock of the process
    _last_ns = max(_last_ns, time.time_ns())
    return _last_ns


@dataclass(frozen=True, slots=True)
class Cloud:
    """The platform without its doors."""

    services: Services
    settings: PlatformSettings
    router: LocalRouter
    store: Store
    telemetry: TelemetryStore
    clock: Callable[[], datetime]

    def now(self) -> datetime:
        """The platform's time; in a simulation, that of the simulation."""
        return self.clock()

    @property
    def outbox(self) -> OutboxService:
        """`drain(now, deliver)` gives every due mail to a function."""
        return self.services.outbox

    def open_link(self, wake: Callable[[], None] | None = None) -> GatewayLink:
        """A link for one vehicle.

        *wake* is called, from any thread, when the platform has something to say unasked; the driver then calls
        `handle_timeout` and sends `data_to_send`. Without it, `next_timeout` says 0 until that was done.
        """
        return GatewayLink(self.services, self.router, wake=wake)

    def device_respond(self, request: HttpRequest, now: datetime) -> HttpResponse:
        """Answer one request of a unit to the device API."""
        return device_api.respond(request, self.services, now)

    def close(self) -> None:
        self.store.close()
        self.telemetry.close()


def build_cloud(
    *,
    keys: PlatformKeys,
    data_dir: Path | None = None,
    database_url: str = "",
    telemetry_url: str = "",
    settings: PlatformSettings | None = None,
    draw: Callable[[int], bytes] = os.urandom,
    clock: Callable[[], datetime] = wall_clock,
) -> Cloud:
    """Make the platform.

    Args:
        keys: see `PlatformKeys`.
        data_dir: folder of the two SQLite files; None and no addresses: everything in memory.
        database_url: SQLAlchemy address of another database for all but telemetry.
        telemetry_url: the same for telemetry.
        settings: limits and addresses.
        draw: source of random bytes; a seeded one makes a run repeatable.
        clock: the platform's time for HTTP requests; links and services take it as arguments.
    """
    settings = PlatformSettings() if settings is None else settings
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
    store = SqlStore(database_url or (MEMORY if data_dir is None else f"sqlite:///{data_dir / 'platform.sqlite'}"))
    telemetry = SqlTelemetryStore(
        telemetry_url or (MEMORY if data_dir is None else f"sqlite:///{data_dir / 'telemetry.sqlite'}")
    )
    router = LocalRouter()
    context = Context(
        store=store,
        telemetry=telemetry,
        keys=keys,
        draw=draw,
        live=LiveFeed(),
        router=router,
        settings=settings,
    )
    return Cloud(
        services=Services.around(context),
        settings=settings,
        router=router,
        store=store,
        telemetry=telemetry,
        clock=clock,
    )


def load_keys(
    data_dir: Path,
    *,
    manifest_keys: Sequence[Path],
    image_keys: Sequence[Path],
    draw: Callable[[int], bytes] = os.urandom,
) -> PlatformKeys:
    """Read the keys of a platform; its own order key is made at the first start and kept in `data_dir/keys`.

    Raises:
        ConfigurationError: a file is missing, no key, or of the wrong kind.
    """
    folder = data_dir / "keys"
    private_path = folder / "order_private.pem"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not private_path.exists():
            made = Ed25519PrivateKey.from_private_bytes(draw(32))
            pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            with os.fdopen(os.open(private_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
            # Units are provisioned with this one.
            public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (folder / "order_public.pem").write_bytes(public)
        order_key = load_signing_key(private_path.read_bytes())
        manifest = [_read_public_key(path) for path in manifest_keys]
        image = [_read_public_key(path) for path in image_keys]
    except OSError as error:
        raise ConfigurationError(f"keys: expected a readable file, got {error}") from error
    if not isinstance(order_key, Ed25519PrivateKey):
        raise ConfigurationError(f"{private_path}: expected an Ed25519 key, got another kind")
    wrong = [path for path, key in zip(manifest_keys, manifest, strict=True) if not isinstance(key, Ed25519PublicKey)]
    if wrong:
        raise ConfigurationError(f"{wrong[0]}: expected an Ed25519 key, got another kind")
    return PlatformKeys(
        order_signing_key=order_key,
        manifest_public_keys=tuple(key for key in manifest if isinstance(key, Ed25519PublicKey)),
        image_public_keys=tuple(image),
    )


def _read_public_key(path: Path) -> Any:
    try:
        return load_public_key(path.read_bytes())
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def build_app(cloud: Cloud) -> FastAPI:
    """The platform's HTTP side: device API, operators' REST API, pages."""
    app = FastAPI(title="bmsota cloud", version="1", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json")
    app.state.cloud = cloud
    mount_device_api(app, cloud)
    app.include_router(build_router(cloud))
    # The pages are written on top of this package's services and mount themselves here.
    routes: Any = pages
    if hasattr(routes, "build_router"):
        app.include_router(routes.build_router(cloud))
        routes.mount_static(app)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(BodyLimit)
    return app


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
    gateway_port: int = 0
    smtp: SmtpTarget | None = None
    """None: an embedded mail sink takes the mails."""
    mail_folder: Path | None = None
    """Where the embedded sink writes .eml files."""
    ssl_context: ssl.SSLContext | None = None
    """For the gateway; HTTPS is the business of a reverse proxy."""
    draw: Callable[[int], bytes] = os.urandom


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: who runs the process decides what a signal means."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RunningCloud:
    """Gateway, HTTP, mail worker and ticker in the running event loop. Make it with `start`, end it with `stop`."""

    def __init__(self, cloud: Cloud, options: ServeOptions, http_socket: socket.socket) -> None:
        self.cloud = cloud
        self.host = options.host
        self.http_port: int = http_socket.getsockname()[1]
        self.gateway_port = 0
        self.mail_sink: MailSink | None = None
        self._options = options
        self._http_socket = http_socket
        self._gateway = GatewayServer(cloud.open_link, wall_clock_ns, ssl_context=options.ssl_context)
        self._http = _Server(
            uvicorn.Config(
                build_app(cloud),
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws_ping_interval=20.0,
                timeout_graceful_shutdown=_STOP_HTTP_S,
            )
        )
        self._mail_worker: MailWorker | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def http_url(self) -> str:
        return f"http://{_in_url(self.host)}:{self.http_port}"

    @classmethod
    async def start(cls, options: ServeOptions) -> RunningCloud:
        """Start everything.

        Raises:
            OSError: an address or the data folder can't be used; nothing is left running.
        """
        # Bound first, because the address stands in instructions and mails.
        http_socket = socket.create_server((options.host, options.http_port), family=_family(options.host))
        try:
            settings = options.settings or PlatformSettings()
            if not options.keeps_urls:
                url = f"http://{_in_url(options.host)}:{http_socket.getsockname()[1]}"
                settings = replace(settings, device_url=url, pages_url=url)
            cloud = build_cloud(
                keys=options.keys,
                data_dir=options.data_dir,
                database_url=options.database_url,
                telemetry_url=options.telemetry_url,
                settings=settings,
                draw=options.draw,
            )
            running = cls(cloud, options, http_socket)
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
        await asyncio.to_thread(cloud.services.ingest.forget_links, wall_clock())
        target = options.smtp
        if target is None:
            self.mail_sink = MailSink(host=options.host, folder=options.mail_folder)
            await asyncio.to_thread(self.mail_sink.start)
            target = SmtpTarget(host=self.mail_sink.host, port=self.mail_sink.port, start_tls=False)
        self.gateway_port = await self._gateway.start(options.host, options.gateway_port)
        self._mail_worker = MailWorker(cloud.outbox, target, sender=cloud.settings.mail_sender, clock=wall_clock)
        for name, work in (
            ("mail", self._mail_worker.run()),
            ("ticker", self._tick()),
            ("http", self._http.serve(sockets=[self._http_socket])),
        ):
            self._tasks.append(asyncio.create_task(work, name=name))
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._http.started:
            if time.monotonic() > deadline or self._tasks[-1].done():
                raise OSError(f"expected the web server to start on {self.http_url}, got none")
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
        self.cloud.close()

    async def wait(self) -> None:
        """Until something ends by itself, which nothing should."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _tick(self) -> None:
        services = self.cloud.services
        ticks = 0
        while True:
            with suppress_and_log("ticker"):
                await asyncio.to_thread(services.upgrades.expire, wall_clock())
                if ticks % _PRUNE_EVERY_TICKS == 0:
                    await asyncio.to_thread(services.ingest.prune, wall_clock())
            ticks += 1
            await asyncio.sleep(_TICK_S)


@contextmanager
def suppress_and_log(name: str) -> Iterator[None]:
    """A database that is away for a moment must not end a background task for good; it is said, and tried again."""
    try:
        yield
    except Exception:  # noqa: BLE001 - logged whole, see above
        _LOG.exception("%s: failed, goes on", name)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
