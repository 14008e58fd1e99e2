"""Telemetry for people: reports as they came, with their values; events; the newest state. How they come in is `services.ingest`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from bmsota.errors import FrameError
from bmsota.gbt32960 import CellVoltages, Sentinel
from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.presence import VehicleConnection
from bmsota_cloud.domain.telemetry import EventKind, VehicleSnapshot
from bmsota_cloud.services.presence import with_connection
from bmsota_cloud.services.scoped import check_vehicles, vehicle_for
from bmsota_cloud.services.values import plain_values, read_report, snapshot_of, utc_of_ns, utc_of_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bmsota.gbt32960 import Report
    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.telemetry import JsonValue, StoredFrame, VehicleEvent
    from bmsota_cloud.services.context import Context

__all__ = ["EventView", "ReportView", "TelemetryService"]

# Without being asked for no checkpoints, which are not for people, and no points of tracks, which are as many as reports.
_KINDS = tuple(kind for kind in EventKind if kind not in {EventKind.CHECKPOINT, EventKind.POSITION})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """One report as it came."""

    vin: str
    reported_at: datetime
    """By the vehicle's clock."""
    received_at: datetime
    """By the platform's clock."""
    is_backfill: bool
    is_time_plausible: bool
    """False: the vehicle's clock was wrong, `reported_at` means nothing."""
    fault: str
    """Why its end could not be read; empty if all of it could."""
    values: dict[str, JsonValue]
    """By body. A subsystem that is split over several reports of one second is whole in each of them."""
    frame: str
    """The bytes as received, in hexadecimal digits; enciphered if it came so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """Something that changed."""

    vin: str
    at: datetime
    """The own time of the report that showed it."""
    sequence: int
    """The order of the events of one second, from 1 on; 0: not known, it was kept by an older version."""
    kind: EventKind
    subject: str
    value: str
    happened_at: datetime | None = None
    """When it happened, where the report says so."""
    level: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage(Page[ReportView]):
    """A page of a vehicle's reports."""

    unreadable: int = 0
    """As many reports could not be read on the way to this page: counted in `total`, and not listed."""


class TelemetryService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def snapshots(self, vins: Sequence[str], *, by: Account) -> Mapping[str, VehicleSnapshot]:
        """The newest states of vehicles, with their values; of one that was never heard of an empty one.

        Raises:
            NotFoundError: it is not in the scope of *by*. Who sees everything gets an empty answer for a VIN that is not registered.
        """
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            if not by.scope.is_everything:
                check_vehicles(work, vins, by)
            connections = work.presence.connections(vins, self._context.presence.lease_check)
        rows = self._context.telemetry.newest(vins)
        layouts = self._context.settings.layouts
        found = {}
        for vin in vins:
            presence = with_connection(VehicleSnapshot(vin=vin), connections.get(vin, VehicleConnection()))
            found[vin] = snapshot_of(presence, rows.get(vin), layouts)
        return found

    def snapshot(self, vin: str, *, by: Account) -> VehicleSnapshot:
        """The newest state of one vehicle.

        Raises:
            NotFoundError: it is not in the scope of *by*. Who sees everything gets an empty answer for a VIN that is not registered.
        """
        return self.snapshots([vin], by=by)[vin]

    def reports(
        self,
        vin: str,
        request: PageRequest,
        *,
        by: Account,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> ReportPage:
        """The reports of a vehicle, newest first, every one of a second.

        Raises:
            NotFoundError: it is not in the scope of *by*. Who sees everything gets an empty answer for a VIN that is not registered.
        """
        self._check(vin, by)
        page = self._context.telemetry.frames(vin, request, since=since, until=until)
        read = [(frame, self._read(frame)) for frame in page.items]
        seconds = self._seconds(vin, read)
        items = tuple(_view(frame, report, seconds.get(frame.reported_at_s, ())) for frame, report in read)
        return ReportPage(items=items, total=page.total, number=page.number, size=page.size, unreadable=page.unreadable)

    def events(
        self,
        vin: str,
        request: PageRequest,
        *,
        by: Account,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Sequence[EventKind] = (),
    ) -> Page[EventView]:
        """What changed for a vehicle, newest first; of all kinds but positions if *kinds* is empty.

        Raises:
            NotFoundError: it is not in the scope of *by*. Who sees everything gets an empty answer for a VIN that is not registered.
        """
        self._check(vin, by)
        asked = tuple(kind for kind in kinds if kind is not EventKind.CHECKPOINT) or _KINDS
        page = self._context.telemetry.events(vin, request, since=since, until=until, kinds=asked)
        items = tuple(map(_event_view, page.items))
        return Page(items=items, total=page.total, number=page.number, size=page.size)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _check(self, vin: str, by: Account) -> None:
        require(by, Permission.VEHICLE_READ)
        if not by.scope.is_everything:
            with self._context.store.reading() as work:
                vehicle_for(work, vin, by)

    def _read(self, frame: StoredFrame) -> Report | str:
        """The report, or why it can't be read."""
        try:
            return read_report(frame.clear, self._context.settings.layouts)
        except FrameError as error:
            return str(error)

    def _seconds(
        self, vin: str, read: Sequence[tuple[StoredFrame, Report | str]]
    ) -> Mapping[int, tuple[tuple[StoredFrame, Report], ...]]:
        """By report time, all reports of the seconds in which a subsystem is split. The page may end in the middle of one."""
        asked = sorted({frame.reported_at_s for frame, report in read if _has_part(report)})
        found = {}
        for at_s in asked:
            frames = [
                frame for frame in self._context.telemetry.read(vin, at_s, at_s + 1) if frame.reported_at_s == at_s
            ]
            pairs = ((frame, self._read(frame)) for frame in frames)
            found[at_s] = tuple((frame, report) for frame, report in pairs if not isinstance(report, str))
        return found


def _has_part(report: Report | str) -> bool:
    """Whether a report has a part of a subsystem only."""
    return not isinstance(report, str) and any(
        isinstance(body, CellVoltages)
        and not isinstance(body.subsystems, Sentinel)
        and any(item.cell_count != len(item.cell_voltages_v) for item in body.subsystems)
        for body in report.bodies
    )


def _view(frame: StoredFrame, report: Report | str, second: Sequence[tuple[StoredFrame, Report]]) -> ReportView:
    values: dict[str, JsonValue] = {}
    fault = frame.fault
    if isinstance(report, str):
        fault = fault or report
    else:
        values = plain_values([report])
        if _has_part(report):
            _complete(values, second)
    return ReportView(
        vin=frame.vin,
        reported_at=utc_of_s(frame.reported_at_s),
        received_at=utc_of_ns(frame.arrived_at_ns),
        is_backfill=frame.is_backfill,
        is_time_plausible=frame.is_time_plausible,
        fault=fault,
        values=values,
        frame=frame.frame.hex(),
    )


def _complete(values: dict[str, JsonValue], second: Sequence[tuple[StoredFrame, Report]]) -> None:
    """Put the whole subsystems of a second in the place of the parts that one report has of them."""
    whole = plain_values([report for _, report in second]).get("cell_voltages")
    own = values["cell_voltages"]
    if not isinstance(whole, dict) or not isinstance(own, dict):
        return
    parts, items = own.get("subsystems"), whole.get("subsystems")
    if not isinstance(parts, list) or not isinstance(items, list):
        return
    numbers = {part["number"] for part in parts if isinstance(part, dict)}
    values["cell_voltages"] = {
        "subsystems": [item for item in items if isinstance(item, dict) and item["number"] in numbers]
    }


_WITH_OWN_DETAIL = {
    EventKind.CHARGING_RUN,
    EventKind.DRIVING_RUN,
    EventKind.POSITION,
    EventKind.CONFIGURATION,
}


def _event_view(event: VehicleEvent) -> EventView:
    more = json.loads(event.detail) if event.detail else {}
    if event.kind in _WITH_OWN_DETAIL:
        more = {"detail": event.detail}
    return EventView(
        vin=event.vin,
        at=utc_of_s(event.at_s),
        sequence=event.sequence,
        kind=EventKind(event.kind),
        subject=event.subject,
        value=event.value,
        happened_at=datetime.fromisoformat(more["time"]) if "time" in more else None,
        level=more.get("level"),
        detail=more.get("detail", ""),
    )
