"""Runs, faults, track and configuration of a vehicle, from its events: no list here scans telemetry."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, Page, PageRequest
from bmsota_cloud.domain.telemetry import EventKind
from bmsota_cloud.domain.vehicle_history import (
    CalibrationChange,
    CalibrationValue,
    FaultFilter,
    FaultView,
    RunPage,
    RunView,
    TrackPoint,
)
from bmsota_cloud.services.deriving import run_under_way
from bmsota_cloud.services.run_tracking import RunKind, VehicleRun
from bmsota_cloud.services.scoped import vehicle_for
from bmsota_cloud.services.values import utc_of_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.telemetry import VehicleEvent
    from bmsota_cloud.domain.vehicle_history import FaultPeriod
    from bmsota_cloud.services.context import Context

__all__ = ["VehicleHistoryService"]

_KINDS = {RunKind.CHARGING: EventKind.CHARGING_RUN, RunKind.DRIVING: EventKind.DRIVING_RUN}


class VehicleHistoryService:
    """One method per list. All of them raise NotFoundError for a vehicle that is not there, or not for *by*."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def runs(
        self,
        vin: str,
        request: PageRequest,
        *,
        by: Account,
        now: datetime,
        since: datetime | None = None,
        until: datetime | None = None,
        kind: RunKind | None = None,
    ) -> RunPage:
        """The runs that have a second from *since* (included) to *until*, newest first."""
        self._check(vin, by)
        kinds = tuple(_KINDS.values()) if kind is None else (_KINDS[kind],)
        first, end = self._showing(vin, kinds, since, until)
        page = self._context.telemetry.events(vin, request, since=first, until=end, kinds=kinds)
        row = self._context.telemetry.newest([vin]).get(vin)
        run = None if row is None else run_under_way(row)
        last = None
        if run is not None and kind in {None, run.kind}:
            silent = now - utc_of_s(run.ended_s)
            last = _run_view(run, is_open=silent <= timedelta(seconds=self._context.settings.run_gap_s))
            if (since is not None and last.ended_at < since) or (until is not None and last.started_at >= until):
                last = None
        return RunPage(
            items=tuple(_run_view(VehicleRun.from_json(event.detail), is_open=False) for event in page.items),
            total=page.total,
            number=page.number,
            size=page.size,
            last=last,
        )

    def _showing(
        self, vin: str, kinds: Sequence[EventKind], since: datetime | None, until: datetime | None
    ) -> tuple[datetime | None, datetime | None]:
        """When the reports came that showed the ends of the runs of a range.

        Runs do not overlap, and each is shown before the next has ended: so only the first behind *since* may have ended before it, and
        only the first behind *until* may have begun before it.
        """
        first = None if since is None else self._oldest(vin, kinds, since)
        if since is not None and first is not None and utc_of_s(first[1].ended_s) < since:
            since = utc_of_s(first[0] + 1)
        last = None if until is None else self._oldest(vin, kinds, until)
        if until is not None and last is not None and utc_of_s(last[1].started_s) < until:
            until = utc_of_s(last[0] + 1)
        return since, until

    def _oldest(self, vin: str, kinds: Sequence[EventKind], since: datetime) -> tuple[int, VehicleRun] | None:
        """With the time of the report that showed its end."""
        telemetry = self._context.telemetry
        total = telemetry.events(vin, PageRequest(1, 1), since=since, kinds=kinds).total
        found = telemetry.events(vin, PageRequest(max(total, 1), 1), since=since, kinds=kinds).items
        return (found[0].at_s, VehicleRun.from_json(found[0].detail)) if found else None

    def faults(self, vin: str, request: PageRequest, asked: FaultFilter, *, by: Account) -> Page[FaultView]:
        """Alarms and faults, open ones first."""
        self._check(vin, by)
        page = self._context.telemetry.faults(vin, request, asked)
        items = tuple(map(_fault_view, page.items))
        return Page(items=items, total=page.total, number=page.number, size=page.size)

    def track(
        self,
        vin: str,
        request: PageRequest,
        *,
        by: Account,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page[TrackPoint]:
        """The points of the thinned track, newest first."""
        self._check(vin, by)
        page = self._context.telemetry.events(vin, request, since=since, until=until, kinds=(EventKind.POSITION,))
        items = tuple(map(_track_point, page.items))
        return Page(items=items, total=page.total, number=page.number, size=page.size)

    def configuration(self, vin: str, *, by: Account) -> tuple[CalibrationValue, ...]:
        """The calibration values now, by node and parameter: of each what was told last."""
        self._check(vin, by)
        return self._values(vin)[0]

    def configuration_changes(self, vin: str, request: PageRequest, *, by: Account) -> Page[CalibrationChange]:
        """What changed, newest first, of the newest 500 reports that brought a change."""
        self._check(vin, by)
        changes = self._values(vin)[1]
        items = tuple(changes[request.offset : request.offset + request.size])
        return Page(items=items, total=len(changes), number=request.number, size=request.size)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _check(self, vin: str, by: Account) -> None:
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            vehicle_for(work, vin, by)

    def _values(self, vin: str) -> tuple[tuple[CalibrationValue, ...], list[CalibrationChange]]:
        events = self._context.telemetry.events(vin, PageRequest(1, PAGE_SIZE_MAX), kinds=(EventKind.CONFIGURATION,))
        known: dict[tuple[int, int], CalibrationValue] = {}
        changes: list[CalibrationChange] = []
        for event in reversed(events.items):
            at, revision = utc_of_s(event.at_s), int(event.subject)
            for position, parameter, value in json.loads(event.detail):
                before = known.get((position, parameter))
                if before is not None and (before.value, before.revision) == (value, revision):
                    continue
                known[position, parameter] = CalibrationValue(
                    position=position, parameter=parameter, value=value, revision=revision, since=at
                )
                if before is None or before.value != value:
                    changes.append(
                        CalibrationChange(
                            at=at,
                            position=position,
                            parameter=parameter,
                            before=None if before is None else before.value,
                            after=value,
                            revision=revision,
                        )
                    )
        return tuple(known[key] for key in sorted(known)), changes[::-1]


def _run_view(run: VehicleRun, *, is_open: bool) -> RunView:
    fields: dict[str, Any] = run._asdict()
    started_s, ended_s = fields.pop("started_s"), fields.pop("ended_s")
    fields["kind"] = str(run.kind)
    return RunView(is_open=is_open, started_at=utc_of_s(started_s), ended_at=utc_of_s(ended_s), **fields)


def _fault_view(period: FaultPeriod) -> FaultView:
    onset = period.onset
    more = json.loads(onset.detail) if onset.detail else {}
    began_at = datetime.fromisoformat(more["time"]) if "time" in more else utc_of_s(onset.at_s)
    cleared_at = None
    if period.cleared_s is not None:
        told = json.loads(period.cleared_detail) if period.cleared_detail else {}
        cleared_at = datetime.fromisoformat(told["time"]) if "time" in told else utc_of_s(period.cleared_s)
    return FaultView(
        kind=EventKind(onset.kind),
        subject=onset.subject,
        level=more.get("level"),
        began_at=began_at,
        cleared_at=cleared_at,
        # A unit whose clock was set back in between says it was cleared before it began.
        duration_s=None if cleared_at is None else max(0, int((cleared_at - began_at).total_seconds())),
        detail=more.get("detail", ""),
        values=more.get("values", {}),
    )


def _track_point(event: VehicleEvent) -> TrackPoint:
    longitude, latitude, speed = json.loads(event.detail)
    return TrackPoint(
        at=utc_of_s(event.at_s), longitude_deg=longitude / 1e6, latitude_deg=latitude / 1e6, speed_kmh=speed
    )
