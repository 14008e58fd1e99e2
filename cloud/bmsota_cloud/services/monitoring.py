"""For whoever runs the platform: whether its databases answer, and how much of everything there is.

Nothing here is secret, and nothing names a vehicle or a person.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.ota_tasks import TaskStatus, VehicleStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.services.context import Context

__all__ = ["Figures", "Health", "MonitoringService"]

# The VIN of no vehicle: reading its state asks the telemetry database and finds nothing.
_NO_VIN = "-" * 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the platform can work."""

    is_ready: bool
    """Its databases can be read."""
    platform_database: str = "ok"
    """"ok", or what is wrong with it."""
    telemetry_database: str = "ok"

    @property
    def status(self) -> str:
        """In a word: ok, degraded (the last change could not be kept) or unavailable."""
        if not self.is_ready:
            return "unavailable"
        return "ok" if self.platform_database == self.telemetry_database == "ok" else "degraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How much there is of everything."""

    counters: Mapping[str, int]
    """Events of this process since its start, as `Context.counters`."""
    gauges: Mapping[str, float]
    """Values of this process now, as `Context.gauges`."""
    links: int
    """Vehicles that are logged in to this process."""
    is_database_up: bool = True
    """False: what follows is unknown."""
    tasks: Mapping[str, int] = field(default_factory=dict)
    """By status, in its own words."""
    upgrades: Mapping[str, int] = field(default_factory=dict)
    vehicles: int = 0
    vehicles_online: int = 0
    mails_waiting: int = 0


class MonitoringService:
    """One method per question."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def health(self) -> Health:
        """Ask both databases."""
        context = self._context
        platform = _answer(self._read_platform)
        telemetry = _answer(lambda: context.telemetry.newest([_NO_VIN]))
        is_ready = platform == telemetry == "ok"
        if platform == "ok" and context.store.problem:
            platform = f"the last change was not kept: {context.store.problem}"
        return Health(is_ready=is_ready, platform_database=platform, telemetry_database=telemetry)

    def require_reader(self, account: Account) -> None:
        """Whether this account may read the figures.

        Raises:
            NotAllowedError: it may not.
        """
        require(account, Permission.MONITORING_READ)

    def figures(self) -> Figures:
        """Count everything; without a database, what this process knows by itself."""
        context = self._context
        # Copies: other threads count on.
        own = Figures(
            counters=dict(context.counters.snapshot()),
            gauges={name: read() for name, read in tuple(context.gauges.items())},
            links=len(context.presence),
        )
        try:
            with context.store.reading() as work:
                tasks, upgrades = work.figures.tasks(), work.figures.upgrades()
                return Figures(
                    counters=own.counters,
                    gauges=own.gauges,
                    links=own.links,
                    # Every status, so that a series does not begin with its first event.
                    tasks={str(status): tasks.get(str(status), 0) for status in TaskStatus},
                    upgrades={str(status): upgrades.get(str(status), 0) for status in VehicleStatus},
                    vehicles=work.figures.vehicles(),
                    vehicles_online=work.presence.count_online(context.presence.lease_check),
                    mails_waiting=work.outbox.waiting(),
                )
        except StorageUnavailableError:
            return Figures(counters=own.counters, gauges=own.gauges, links=own.links, is_database_up=False)

    def _read_platform(self) -> None:
        with self._context.store.reading() as work:
            work.figures.vehicles()


def _answer(read: Callable[[], object]) -> str:
    try:
        read()
    except StorageUnavailableError as refusal:
        return str(refusal)
    return "ok"
