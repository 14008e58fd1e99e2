"""The platform without its doors: the services around their stores, keys and settings. Nothing is built on import.

What `build_cloud` makes can be driven without sockets and without an event loop (`open_link`, `device_respond`,
`services.outbox.drain`), which is how a simulation runs it in virtual time. `bmsota_cloud.wiring` puts HTTP and a process
around it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from bmsota.gbt32960 import PlatformOptions, PlatformSession
from bmsota_cloud.api import device as device_api
from bmsota_cloud.clock import wall_clock
from bmsota_cloud.domain.clock_guard import ClockGuard
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.export_files import ExportFolder
from bmsota_cloud.folders import make_folder
from bmsota_cloud.gateway import GatewayLink, LocalRouter, ReportWriter, platform_options
from bmsota_cloud.services import Context, LiveFeed, PlatformSettings, PresenceService, Services, network_of
from bmsota_cloud.services.counters import Counters
from bmsota_cloud.storage.sql import MEMORY, SqlStore, SqlTelemetryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from bmsota.ota import HttpRequest, HttpResponse
    from bmsota_cloud.gateway.link import Submit
    from bmsota_cloud.services import OutboxService, PlatformKeys
    from bmsota_cloud.storage.base import Store, TelemetryStore

__all__ = ["Cloud", "build_cloud"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cloud:
    """The platform without its doors."""

    services: Services
    settings: PlatformSettings
    router: LocalRouter
    store: Store
    telemetry: TelemetryStore
    clock: Callable[[], datetime]
    link_options: PlatformOptions = field(init=False)
    """Of every link whose vehicle is not known yet: one object for all, which so stays in the processor's caches."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "link_options", platform_options(self.settings))

    def now(self) -> datetime:
        """The platform's time; in a simulation, that of the simulation."""
        return self.clock()

    @property
    def outbox(self) -> OutboxService:
        """`drain(now, deliver)` gives every due mail to a function."""
        return self.services.outbox

    def open_link(
        self, wake: Callable[[], None] | None = None, *, address: str = "", submit: Submit | None = None
    ) -> GatewayLink:
        """A link for one vehicle, whose other end is at *address* (without the port) if that is known.

        *wake* is called, from any thread, when the platform has something to say unasked; the driver then calls
        `handle_timeout` and sends `data_to_send`. Without it, `next_timeout` says 0 until that was done. *submit* has
        jobs done in a worker; without it they are done at once.
        """
        return GatewayLink(
            self.services,
            self.router,
            session=PlatformSession(options=self.link_options),
            wake=wake,
            address=network_of(address),
            submit=submit,
            peers=self.settings.platform_peers,
            options_of=partial(platform_options, self.settings) if self.settings.link_keys.by_vin else None,
        )

    def make_writer(self) -> ReportWriter:
        """The writer of this process. From now on reports are stored by it; it has to be started."""
        ingest = self.services.ingest
        writer = ReportWriter(self.telemetry.append, ingest.derive, ingest.recover, self.services.counters)
        ingest.attach(writer)
        self.services.gauges["ingest_queue_bytes"] = lambda: writer.size_bytes
        self.services.gauges["ingest_commit_seconds"] = lambda: writer.commit_s
        return writer

    def device_respond(self, request: HttpRequest, now: datetime, address: str = "") -> HttpResponse:
        """Answer one request of a unit to the device API. Without an address nothing is counted against one."""
        return device_api.respond(request, self.services, now, address)

    def close(self) -> None:
        """Write down what is noted but not written yet, if the database takes it, and let go of the databases."""
        try:
            self.services.link_watch.flush()
        except StorageUnavailableError as refusal:
            _LOG.warning("what was odd about links is not written down: %s", refusal)
        finally:
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
    clock_guard: ClockGuard | None = None,
    gateway_id: str = "local",
    gateway_name: str = "local",
    is_gateway_name_fixed: bool = False,
) -> Cloud:
    """Make the platform.

    Args:
        keys: see `PlatformKeys`.
        data_dir: folder of the SQLite files, and of the reports in it; None and no addresses: everything in memory.
        database_url: SQLAlchemy address of another database for all but telemetry.
        telemetry_url: the same for telemetry.
        settings: limits and addresses.
        draw: source of random bytes; a seeded one makes a run repeatable.
        clock: the platform's time for HTTP requests; links and services take it as arguments.
        clock_guard: what watches the clock; None: nothing does, because time is virtual.
        gateway_id: the name under which this process has vehicles and mails; of its own for every process on the same data.
        gateway_name: the name under which it writes reports; the same after a restart.
        is_gateway_name_fixed: see `SqlTelemetryStore`.

    Raises:
        ConfigurationError: the folder or a database cannot be used.
    """
    settings = PlatformSettings() if settings is None else settings
    if data_dir is not None:
        make_folder(data_dir)
    store = SqlStore(database_url or (MEMORY if data_dir is None else f"sqlite:///{data_dir / 'platform.sqlite'}"))
    counters = Counters()
    telemetry = SqlTelemetryStore(
        telemetry_url or (MEMORY if data_dir is None else f"sqlite:///{data_dir / 'telemetry.sqlite'}"),
        is_hourly=settings.hourly_partitions,
        writer=gateway_name,
        is_writer_fixed=is_gateway_name_fixed,
        count=counters.add,
    )
    router = LocalRouter()
    gauges: dict[str, Callable[[], float]] = {"platform_links": lambda: sum(router.platforms().values())}
    context = Context(
        store=store,
        telemetry=telemetry,
        keys=keys,
        draw=draw,
        live=LiveFeed(),
        router=router,
        settings=settings,
        clock_guard=ClockGuard.trusting() if clock_guard is None else clock_guard,
        presence=PresenceService(store, gateway_id),
        counters=counters,
        gauges=gauges,
        exports=None if data_dir is None else ExportFolder(data_dir / "exports"),
    )
    return Cloud(
        services=Services.around(context),
        settings=settings,
        router=router,
        store=store,
        telemetry=telemetry,
        clock=clock,
    )
