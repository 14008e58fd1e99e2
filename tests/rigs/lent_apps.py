"""The HTTP side of a platform, lent from test to test: a hundred routes cost 0.2 s of a core to make, more than most tests of them.

The routes are those of the product, made by its own functions. What they were made around (services, settings, clock) is looked up at
every request in the platform that has the app at the time. Two platforms at the same time have two apps.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from bmsota_cloud.platform import Cloud
    from fastapi import FastAPI

__all__ = ["lent_app"]

_free: dict[Callable[[Any], FastAPI], list[tuple[FastAPI, _Holder]]] = defaultdict(list)


class _Holder:
    """The platform that has the app now."""

    cloud: Cloud | None = None

    def clock(self) -> datetime:
        return self.cloud.clock()


class _Settings:
    """The settings of whichever platform it is."""

    def __init__(self, holder: _Holder) -> None:
        self._holder = holder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._holder.cloud.settings, name)


class _Service:
    """A service of whichever platform it is."""

    def __init__(self, holder: _Holder, name: str) -> None:
        self._holder, self._name = holder, name

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._holder.cloud.services, self._name), name)


class _Services:
    """Its services; routes may keep one of them."""

    def __init__(self, holder: _Holder) -> None:
        self._holder = holder

    def __getattr__(self, name: str) -> Any:
        return _Service(self._holder, name)


@contextmanager
def lent_app(build: Callable[[Any], FastAPI], cloud: Cloud) -> Iterator[FastAPI]:
    """The app that *build* makes of a platform, around *cloud* until the end of the block.

    What *build* reads at once must be the same for all platforms: limits of the middleware, and nothing else today.
    """
    free = _free[build]
    if free:
        app, holder = free.pop()
    else:
        holder = _Holder()
        holder.cloud = cloud
        parts = SimpleNamespace(services=_Services(holder), settings=_Settings(holder), clock=holder.clock)
        app = build(parts)
    holder.cloud = cloud
    try:
        yield app
    finally:
        holder.cloud = None
        free.append((app, holder))
