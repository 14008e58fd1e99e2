"""The vehicles that another platform speaks for on its one link: who is on, who may, whose reports wait for that answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.gbt32960 import ReportReceived
    from bmsota_cloud.domain.platform_peers import PlatformPeer

__all__ = ["ForwardedVehicle", "ForwardedVehicles"]

# Reports of a link that wait for the answer whether their vehicles are the platform's; more are refused, and sent again.
WAITING_MAX = 1000


@dataclass(slots=True)
class ForwardedVehicles:
    """Of one link. Only `taken_over` is touched by other threads."""

    peer: PlatformPeer
    link_ids: dict[str, int] = field(default_factory=dict)
    """The vehicles that are logged in, with the numbers of their links."""
    allowed: set[str] = field(default_factory=set)
    """Those that were looked up and are the platform's: its later reports of them need no second look."""
    waiting: dict[str, list[ReportReceived]] = field(default_factory=dict)
    taken_over: deque[ForwardedVehicle] = field(default_factory=deque)

    def wait(self, event: ReportReceived) -> bool | None:
        """Keep a report until it is known whether its vehicle is the platform's; whether that is still to be asked. None: no room."""
        if sum(map(len, self.waiting.values())) >= WAITING_MAX:
            return None
        others = self.waiting.setdefault(event.vin, [])
        others.append(event)
        return len(others) == 1


class ForwardedVehicle:
    """What the router knows of such a vehicle's link: when another takes the vehicle over, the platform's link stays."""

    def __init__(
        self,
        vin: str,
        vehicles: ForwardedVehicles,
        address: str,
        *,
        wake: Callable[[], None],
        close: Callable[[], None],
    ) -> None:
        self.address = address
        self.vin = vin
        self.close = close
        """The platform's link is to be closed, with all its vehicles."""
        self._vehicles = vehicles
        self._wake = wake

    def wake(self, *, is_superseded: bool = False) -> None:
        """Instructions are not sent through another platform: the vehicle gets them on a link of its own."""
        if is_superseded:
            self._vehicles.taken_over.append(self)
            self._wake()
