"""The histories of one vehicle: runs, faults, places, calibration values, equipment; and what it is."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from datetime import date, datetime, timedelta
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from bmsota.gbt32960 import BEIJING
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import EventKind
from bmsota_cloud.domain.vehicle_history import FAULT_KINDS, FaultFilter, FaultOrder
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.services import RunKind

__all__ = ["add_vehicle_history_pages"]

_ROWS_A_PAGE = 50
_OPEN = {"yes": True, "no": False}
_KIND_WORDS = [
    (str(EventKind.ALARM), "Alarm"),
    (str(EventKind.FAULT_CODE), "Fault code"),
    (str(EventKind.FAULT_CHANGE), "Fault told by a node"),
]


def add_vehicle_history_pages(router: APIRouter, site: Site) -> None:
    """Add the pages; each is a list with its filters in the address."""
    _add_runs(router, site)
    _add_faults(router, site)
    _add_places(router, site)
    _add_configuration(router, site)
    _add_equipment(router, site)


def _add_runs(router: APIRouter, site: Site) -> None:
    @router.get("/vehicles/{vin}/runs", response_class=HTMLResponse)
    def runs(
        request: Request,
        vin: str,
        kind: Literal["", "charging", "driving"] = "",
        since: str = "",
        until: str = "",
        page: int = 1,
    ) -> HTMLResponse:
        visitor = site.visitor(request)
        first, end = _days(since, until)
        history = site.services.vehicle_histories.runs(
            vin,
            PageRequest(page, _ROWS_A_PAGE),
            by=visitor.account,
            now=site.now(),
            since=first,
            until=end,
            kind=RunKind(kind) if kind else None,
        )
        query = Query(f"/vehicles/{vin}/runs", {"kind": kind, "since": since, "until": until})
        return site.show_list(
            request, "histories/runs.html", visitor, section="vehicles", vin=vin, history=history, query=query
        )


def _add_faults(router: APIRouter, site: Site) -> None:
    @router.get("/vehicles/{vin}/faults", response_class=HTMLResponse)
    def faults(
        request: Request,
        vin: str,
        kind: str = "",
        level: Literal["", "1", "2", "3", "4"] = "",
        state: Literal["", "yes", "no"] = "",
        sort: FaultOrder = FaultOrder.TIME,
        since: str = "",
        until: str = "",
        page: int = 1,
    ) -> HTMLResponse:
        visitor = site.visitor(request)
        first, end = _days(since, until)
        if kind not in {"", *FAULT_KINDS}:
            raise InvalidInputError("bad-kind", f"kind: expected {', '.join(FAULT_KINDS)}, got {kind[:40]!r}")
        asked = FaultFilter(
            since_s=None if first is None else int(first.timestamp()),
            until_s=None if end is None else int(end.timestamp()),
            kinds=(EventKind(kind),) if kind else FAULT_KINDS,
            level_min=int(level or 0),
            is_open=_OPEN.get(state),
            order=sort,
        )
        history = site.services.vehicle_histories.faults(
            vin, PageRequest(page, _ROWS_A_PAGE), asked, by=visitor.account
        )
        filters = {"kind": kind, "level": level, "state": state, "since": since, "until": until}
        if sort is not FaultOrder.TIME:
            filters["sort"] = str(sort)
        return site.show_list(
            request,
            "histories/faults.html",
            visitor,
            section="vehicles",
            vin=vin,
            history=history,
            kinds=_KIND_WORDS,
            query=Query(f"/vehicles/{vin}/faults", filters),
        )


def _add_places(router: APIRouter, site: Site) -> None:
    @router.get("/vehicles/{vin}/location", response_class=HTMLResponse)
    def location(request: Request, vin: str, since: str = "", until: str = "", page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        first, end = _days(since, until)
        detail = site.services.vehicles.detail(vin, by=visitor.account)
        history = site.services.vehicle_histories.track(
            vin, PageRequest(page, _ROWS_A_PAGE), by=visitor.account, since=first, until=end
        )
        return site.show_list(
            request,
            "histories/location.html",
            visitor,
            section="vehicles",
            vin=vin,
            state=detail.state,
            history=history,
            query=Query(f"/vehicles/{vin}/location", {"since": since, "until": until}),
        )


def _add_configuration(router: APIRouter, site: Site) -> None:
    @router.get("/vehicles/{vin}/configuration", response_class=HTMLResponse)
    def configuration(request: Request, vin: str, page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        histories = site.services.vehicle_histories
        return site.show_list(
            request,
            "histories/configuration.html",
            visitor,
            section="vehicles",
            vin=vin,
            values=histories.configuration(vin, by=visitor.account),
            history=histories.configuration_changes(vin, PageRequest(page, _ROWS_A_PAGE), by=visitor.account),
            query=Query(f"/vehicles/{vin}/configuration", {}),
        )


def _add_equipment(router: APIRouter, site: Site) -> None:
    @router.get("/vehicles/{vin}/equipment", response_class=HTMLResponse)
    def equipment(request: Request, vin: str, page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        site.services.vehicles.detail(vin, by=visitor.account)
        return site.show_list(
            request,
            "histories/equipment.html",
            visitor,
            section="vehicles",
            vin=vin,
            history=site.services.equipment.page(PageRequest(page, _ROWS_A_PAGE), by=visitor.account, vin=vin),
            query=Query(f"/vehicles/{vin}/equipment", {}),
        )

    @router.get("/vehicles/{vin}/basic", response_class=HTMLResponse)
    def basic(request: Request, vin: str) -> HTMLResponse:
        visitor = site.visitor(request)
        detail = site.services.vehicles.detail(vin, by=visitor.account)
        return site.show(
            "vehicles/basic.html", visitor, section="vehicles", vin=vin, detail=detail, vehicle=detail.vehicle
        )


def _days(since: str, until: str) -> tuple[datetime | None, datetime | None]:
    """The moments at which the first day begins and the last one ends, in the zone of the pages."""
    first, last = _day("since", since), _day("until", until)
    return first, None if last is None else last + timedelta(days=1)


def _day(name: str, word: str) -> datetime | None:
    if not word:
        return None
    try:
        day = date.fromisoformat(word)
        return (
            datetime(day.year, day.month, day.day, tzinfo=BEIJING) if 2000 <= day.year < 2100 else _refuse(name, word)
        )
    except ValueError:
        return _refuse(name, word)


def _refuse(name: str, word: str) -> datetime:
    raise InvalidInputError("bad-date", f"{name}: expected a date such as 2026-11-30, got {word[:40]!r}")
