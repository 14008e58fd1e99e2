"""Who is connected, as this gateway knows it and as the store tells all of them.

Strategy: the links of this process stand in memory, and every change is written later, together with the others (`flush`): a storm
of 10,000 logins is a few transactions, and a database that is away holds up no login. In a simulation nobody flushes, so each
change is written at once (`is_deferred` False).

Between gateways the store decides: the last login written has the vehicle. `renew` compares what the store says with the links
here. A vehicle that a living gateway has taken over is told (`renew` returns it, and its older link here is closed); what is
missing for any other reason, such as a lease that was taken for dead, is written again.

The time at which leases are judged is the gateway's own (`SteadyTime`), so a wall clock that jumps for a moment ends no lease.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Lock, RLock
from typing import TYPE_CHECKING

from bmsota_cloud.domain.presence import GatewayLease, LeaseCheck, Presence, VehicleConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_cloud.domain.telemetry import VehicleSnapshot
    from bmsota_cloud.storage.base import Store, Work

__all__ = ["LEASE_S", "PresenceService", "SteadyTime", "with_connection"]

# Renewed every five seconds or so: five renewals may be late or lost before a gateway counts as dead.
LEASE_S = 30
# A wall clock that differs from the steady one by no more is followed; NTP moves a clock by less than this per renewal.
_DRIFT_S_MAX = 2.0
# A wall clock that has jumped and stays is believed after this time.
_BELIEVED_AFTER_S = 120.0
# Gateways that ended this long ago are forgotten.
_FORGOTTEN_AFTER_S = 7 * 24 * 3600
# Before any lease: a process that is no gateway has no time of its own, and takes nobody for dead.
_NEVER = datetime.min.replace(tzinfo=UTC)


class SteadyTime:
    """The wall clock without its short jumps, by a clock that never jumps beside it."""

    def __init__(self) -> None:
        self._wall: datetime | None = None
        self._steady_s = 0.0
        self._strange_since_s: float | None = None

    def at(self, wall: datetime, steady_s: float) -> datetime:
        """The time to go by, when the wall clock says *wall* and the steady one *steady_s* (seconds since any moment)."""
        if self._wall is None:
            self._wall, self._steady_s = wall, steady_s
            return wall
        expected = self._wall + timedelta(seconds=steady_s - self._steady_s)
        if abs((wall - expected).total_seconds()) <= _DRIFT_S_MAX:
            self._strange_since_s = None
        else:
            if self._strange_since_s is None:
                self._strange_since_s = steady_s
            if steady_s - self._strange_since_s < _BELIEVED_AFTER_S:
                return expected
            self._strange_since_s = None
        self._wall, self._steady_s = wall, steady_s
        return wall


@dataclass(frozen=True, slots=True)
class _Changes:
    opened: tuple[Presence, ...]
    closed: tuple[Presence, ...]


class PresenceService:
    """The links of this gateway; safe from any thread."""

    def __init__(self, store: Store, gateway_id: str) -> None:
        self.gateway_id = gateway_id
        self.is_deferred = False
        """True: somebody calls `flush` every now and then; else each change is written when it is made."""
        self._store = store
        self._lock = Lock()
        self._writing = RLock()
        self._links: dict[str, Presence] = {}
        self._opened: dict[str, Presence] = {}
        self._closed: dict[tuple[str, int], Presence] = {}
        self._count = 0
        self._started_at: datetime | None = None
        self._now: datetime | None = None

    # -- the links of this process ---------------------------------------------------------------------------------------

    def joined(self, vin: str, *, serial: int, now: datetime) -> int:
        """The vehicle has logged in here. Returns the number of its link, from 1 on, for `left`."""
        with self._lock:
            self._count += 1
            presence = Presence(
                vin=vin, gateway_id=self.gateway_id, link_id=self._count, since=now, login_serial=serial
            )
            self._links[vin] = self._opened[vin] = presence
        if not self.is_deferred:
            self.flush()
        return presence.link_id

    def left(self, vin: str, now: datetime, *, link_id: int = 0) -> bool:
        """A link has ended; 0: whichever the vehicle has here. False: the vehicle has another link by now."""
        with self._lock:
            presence = self._links.get(vin)
            if presence is None or link_id not in (0, presence.link_id):
                return False
            del self._links[vin]
            gone = replace(presence, left_at=now)
            if vin in self._opened:
                # Not written yet: written as what it has become.
                self._opened[vin] = gone
            else:
                self._closed[vin, gone.link_id] = gone
        if not self.is_deferred:
            self.flush()
        return True

    def is_here(self, vin: str) -> bool:
        """Whether the vehicle has a link to this process."""
        with self._lock:
            return vin in self._links

    def __len__(self) -> int:
        """How many vehicles have a link to this process."""
        with self._lock:
            return len(self._links)

    @property
    def has_changes(self) -> bool:
        """Whether `flush` has something to write."""
        with self._lock:
            return bool(self._opened or self._closed)

    def flush(self) -> int:
        """Write what has changed, in one transaction; how many vehicles.

        Raises:
            StorageUnavailableError: not now; nothing is lost, the next call writes it.
        """
        with self._writing:
            with self._lock:
                changes = _Changes(tuple(self._opened.values()), tuple(self._closed.values()))
                self._opened, self._closed = {}, {}
            if not changes.opened and not changes.closed:
                return 0
            try:
                with self._store.transaction() as work:
                    work.presence.save(changes.opened, changes.closed)
            except BaseException:
                self._put_back(changes)
                raise
            return len(changes.opened) + len(changes.closed)

    def _put_back(self, changes: _Changes) -> None:
        with self._lock:
            # What has changed since is newer.
            self._opened = {presence.vin: presence for presence in changes.opened} | self._opened
            self._closed = {(presence.vin, presence.link_id): presence for presence in changes.closed} | self._closed
            # An end that was not written, of a link whose beginning was not written either, is one row.
            for (vin, link_id), gone in tuple(self._closed.items()):
                opened = self._opened.get(vin)
                if opened is not None and opened.link_id == link_id:
                    self._opened[vin] = gone
                    del self._closed[vin, link_id]

    # -- the lease -----------------------------------------------------------------------------------------------------------

    def begin(self, now: datetime) -> None:
        """This gateway starts: it has no link yet, whatever an earlier life of the same name has left behind."""
        with self._store.transaction() as work:
            work.presence.close_all(self.gateway_id, now)
            work.presence.forget(now - timedelta(seconds=_FORGOTTEN_AFTER_S))
            work.presence.renew(self._lease(now))

    def renew(self, now: datetime) -> tuple[str, ...]:
        """Prolong the lease. Returns the vehicles that another living gateway has taken over: close their links here.

        Raises:
            StorageUnavailableError: not now; the lease has room for several tries.
        """
        with self._writing:
            self.flush()
            with self._store.transaction() as work:
                work.presence.renew(self._lease(now))
                return self._settled(work, now)

    def end(self, now: datetime) -> None:
        """This gateway stops: its vehicles are offline at once, not when the lease ends."""
        with self._lock:
            self._links, self._opened, self._closed = {}, {}, {}
        with self._store.transaction() as work:
            work.presence.close_all(self.gateway_id, now)
            work.presence.renew(replace(self._lease(now), lease_until=now))

    def _lease(self, now: datetime) -> GatewayLease:
        self._now = now
        self._started_at = self._started_at or now
        return GatewayLease(
            id=self.gateway_id, started_at=self._started_at, lease_until=now + timedelta(seconds=LEASE_S)
        )

    def _settled(self, work: Work, now: datetime) -> tuple[str, ...]:
        """Compare what the store has of this gateway with its links."""
        written = work.presence.open_links(self.gateway_id)
        with self._lock:
            pending = set(self._opened) | {vin for vin, _ in self._closed}
            missing = [p for vin, p in self._links.items() if written.get(vin) != p.link_id and vin not in pending]
            stale = [
                Presence(vin=vin, gateway_id=self.gateway_id, link_id=link_id, since=now, login_serial=0, left_at=now)
                for vin, link_id in written.items()
                if vin not in self._links and vin not in pending
            ]
        elsewhere = work.presence.connections([p.vin for p in missing], self._lease_check(other=True))
        taken = {p.vin for p in missing if elsewhere.get(p.vin, VehicleConnection()).is_online}
        work.presence.save([p for p in missing if p.vin not in taken], stale)
        with self._lock:
            for presence in missing:
                if presence.vin in taken and self._links.get(presence.vin) == presence:
                    del self._links[presence.vin]
        return tuple(sorted(taken))

    # -- for the other services ----------------------------------------------------------------------------------------

    @property
    def lease_check(self) -> LeaseCheck:
        """From where this process judges leases."""
        return self._lease_check()

    def _lease_check(self, *, other: bool = False) -> LeaseCheck:
        assert self._now is not None or not other
        return LeaseCheck(gateway_id="" if other else self.gateway_id, now=self._now or _NEVER)

    def is_online(self, vins: Sequence[str]) -> dict[str, bool]:
        """Whether each of these vehicles is online, at any gateway."""
        with self._store.reading() as work:
            connections = work.presence.connections(vins, self.lease_check)
        return {vin: connections.get(vin, VehicleConnection()).is_online for vin in vins}


def with_connection(state: VehicleSnapshot, connection: VehicleConnection) -> VehicleSnapshot:
    """The newest state, with who is online."""
    return replace(state, is_online=connection.is_online, login_serial=connection.login_serial)
