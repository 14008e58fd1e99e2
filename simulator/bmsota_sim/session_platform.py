"""A platform that needs no cloud: the library's own end of the cloud link, in the process of the fleet.

It accepts every login, acknowledges the extension, and hands every event to its user. It has no device API, so it upgrades
nothing.

    platform = SessionPlatform()
    fleet = virtual_fleet(parse_scenario(packaged_scenario("reports")), seed=1, platform=platform)
    fleet.run(600.0)
    print(platform.vehicles["LBM0F7EV9R0000001"].reports)
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bmsota.adapters import SessionLink
from bmsota.gbt32960 import (
    ExtensionReceived,
    LoginRequested,
    LogoutReceived,
    PlatformOptions,
    PlatformSession,
    ReplyFlag,
    ReportReceived,
    decode_batch,
)
from bmsota.ota import HttpResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.gbt32960 import PlatformEvent
    from bmsota.ota import HttpRequest

__all__ = ["SessionPlatform", "VehicleTraffic"]

# Of reports that wait to be decoded: enough for columns to pay, and no more memory than a megabyte.
BATCH_MAX = 1_000


@dataclass(slots=True)
class VehicleTraffic:
    """What the platform has received from one vehicle."""

    logins: int = 0
    logouts: int = 0
    reports: int = 0
    """In real time."""
    backfilled: int = 0
    """Reports that were kept during an outage and sent after it."""
    other: int = 0
    """Frames of the extension."""


class SessionPlatform:
    """A `MemoryPlatform` of `PlatformSession`s; counts per vehicle."""

    def __init__(
        self,
        received: Callable[[PlatformEvent, int], object] = lambda _event, _now_ns: None,
        *,
        decodes_behind: bool = False,
    ) -> None:
        """A platform without links.

        Args:
            received: gets every event of every link, and when it came, before it is handled.
            decodes_behind: decode reports many at a time, in columns, a little after they came. `decode` does the rest of them.
        """
        self._received = received
        self._options = PlatformOptions(defer_decode=decodes_behind)
        self._undecoded: list[ReportReceived] | None = [] if decodes_behind else None
        self.decoded = 0
        """Reports that were decoded behind."""
        self.vehicles: defaultdict[str, VehicleTraffic] = defaultdict(VehicleTraffic)
        """By VIN."""

    def open_link(self, wake: Callable[[], None]) -> SessionLink[PlatformEvent]:  # noqa: ARG002 - it never sends by itself
        session = PlatformSession(options=self._options)
        return SessionLink(session, partial(self.handle, session))

    def respond(self, request: HttpRequest) -> HttpResponse:  # noqa: ARG002 - it has no device API
        return HttpResponse(404, {}, b"")

    def handle(self, session: PlatformSession, event: PlatformEvent, now_ns: int) -> None:
        """Count *event* and answer it."""
        self._received(event, now_ns)
        match event:
            case LoginRequested(vin=vin):
                self.vehicles[vin].logins += 1
                session.accept_login(now_ns)
            case ReportReceived(vin=vin):
                if event.is_backfill:
                    self.vehicles[vin].backfilled += 1
                else:
                    self.vehicles[vin].reports += 1
                if self._undecoded is not None:
                    self._undecoded.append(event)
                    if len(self._undecoded) >= BATCH_MAX:
                        self.decode()
            case ExtensionReceived(frame=frame):
                self.vehicles[frame.vin].other += 1
                session.reply(frame, now_ns, flag=ReplyFlag.SUCCESS)
            case LogoutReceived(vin=vin):
                self.vehicles[vin].logouts += 1
            case _:
                pass  # Heartbeats, and what only `received` wants to see.

    def decode(self) -> None:
        """Decode the reports that wait for it.

        Raises:
            BmsotaError: the session took one for a report that is none.
        """
        waiting = self._undecoded
        if not waiting:
            return
        self._undecoded = []
        columns = decode_batch([event.clear for event in waiting])
        alone = {place for place, _ in columns.errors} | {place for place, _ in columns.others}
        one_by_one = [
            waiting[place].report for place in alone
        ]  # Layouts without columns, and what was answered as wrong.
        self.decoded += len(columns) - len(alone) + len(one_by_one)
