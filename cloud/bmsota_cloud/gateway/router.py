"""Which link a vehicle is on, within one gateway process.

`LocalRouter` is the `CommandRouter` of a platform with one gateway. With several, a router over NATS or PostgreSQL's
LISTEN/NOTIFY takes its place and passes the hint to the gateway that has the link; nothing else changes.
"""

from __future__ import annotations

from threading import Lock
from typing import Protocol

__all__ = ["LocalRouter"]


class _Link(Protocol):
    """What a router knows of a link."""

    address: str
    """Where it comes from; empty if not known."""

    def wake(self, *, is_superseded: bool = False) -> None:
        """An instruction waits for this link's vehicle; or another link has taken the vehicle over."""
        ...

    def close(self) -> None:
        """The link is to be closed, whatever else it carries."""
        ...


class _PlatformLink(Protocol):
    """What a router knows of the link of another platform."""

    def follow(self) -> None:
        """The platform has logged in on a newer link: this one is to be closed as soon as it has no vehicle."""
        ...

    def close(self) -> None:
        """The link is to be closed, with all its vehicles."""
        ...


class LocalRouter:
    """VIN to link, and the links of other platforms, with or without vehicles; safe from any thread."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._platforms: dict[str, list[_PlatformLink]] = {}
        self._lock = Lock()

    def register(self, vin: str, link: _Link) -> str | None:
        """This link has the vehicle now. If another had it, that one is closed (GB/T 32960.3, B.2.2); its address."""
        with self._lock:
            old = self._links.get(vin)
            self._links[vin] = link
        if old is None or old is link:
            return None
        old.wake(is_superseded=True)
        return old.address

    def unregister(self, vin: str, link: _Link) -> bool:
        """This link is gone. Whether it was still the vehicle's link."""
        with self._lock:
            if self._links.get(vin) is not link:
                return False
            del self._links[vin]
            return True

    def register_platform(self, code: str, link: _PlatformLink) -> None:
        """The platform has logged in on this link. Its earlier ones are closed as soon as they have no vehicle."""
        with self._lock:
            links = self._platforms.setdefault(code, [])
            older = [each for each in links if each is not link]
            links[:] = [*older, link]
        for each in older:
            each.follow()

    def unregister_platform(self, code: str, link: _PlatformLink) -> None:
        """This link is gone."""
        with self._lock:
            links = [each for each in self._platforms.pop(code, ()) if each is not link]
            if links:
                self._platforms[code] = links

    def platforms(self) -> dict[str, int]:
        """By code, how many links the other platforms have here."""
        with self._lock:
            return {code: len(links) for code, links in self._platforms.items()}

    def supersede(self, vin: str) -> None:
        """Another gateway has the vehicle: its link here is closed."""
        with self._lock:
            link = self._links.pop(vin, None)
        if link is not None:
            link.wake(is_superseded=True)

    def notify(self, vin: str) -> None:
        """See `bmsota_cloud.services.context.CommandRouter`."""
        with self._lock:
            link = self._links.get(vin)
        if link is not None:
            link.wake()

    def vins(self) -> tuple[str, ...]:
        """The vehicles that have a link."""
        with self._lock:
            return tuple(self._links)

    def close_links(self) -> None:
        """Every link is closed; vehicles and platforms log in again."""
        with self._lock:
            vehicles = list(self._links.values())
            platforms = [link for links in self._platforms.values() for link in links]
            self._links.clear()
            self._platforms.clear()
        for vehicle in vehicles:
            vehicle.close()
        for platform in platforms:
            platform.close()

    def __len__(self) -> int:
        with self._lock:
            return len(self._links)
