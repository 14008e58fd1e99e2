"""The vehicle list, the real-time values of one vehicle, and its upgrade history."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse

from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, PageRequest
from bmsota_cloud.domain.telemetry import Value, VehicleState
from bmsota_cloud.pages.face import VehicleFace, difference, vehicle_face
from bmsota_cloud.pages.listing import list_vehicles
from bmsota_cloud.pages.live import Message, serve_live
from bmsota_cloud.pages.session import Visitor
from bmsota_cloud.pages.site import Query, Site

if TYPE_CHECKING:
    from bmsota_cloud.services import VehicleDetail

__all__ = ["add_vehicle_pages"]

_ROWS_A_PAGE = 50
_UPGRADES_SHOWN = 10
"""On the real-time page; the history has a page of its own."""
_ONLINE = {"yes": True, "no": False}
_TEMPLATE = "vehicle.html"
# The blocks of the template that change with the vehicle.
_PARTS = ("live_head", "live_values", "live_nodes", "live_history")


def add_vehicle_pages(router: APIRouter, site: Site) -> None:
    """Add the routes below /vehicles and their WebSocket."""

    @router.get("/vehicles", response_class=HTMLResponse)
    def vehicle_list(
        request: Request,
        project: str = "",
        series: str = "",
        online: Literal["", "yes", "no"] = "",
        q: str = "",
        page: int = 1,
    ) -> HTMLResponse:
        visitor = site.visitor(request)
        by = visitor.account
        listing = list_vehicles(
            site.services.vehicles,
            PageRequest(page, _ROWS_A_PAGE),
            by=by,
            project=project,
            text=q.strip(),
            series=series,
            is_online=_ONLINE.get(online),
        )
        # Series have no list of their own; those that can be updated and those just seen are the ones asked for.
        releases = site.services.releases.page(PageRequest(1, PAGE_SIZE_MAX), by=by)
        known = {release.series for release in releases.items} | {row.series for row in listing.page.items}
        return site.show_list(
            request,
            "vehicles.html",
            visitor,
            section="vehicles",
            listing=listing,
            projects=site.services.vehicles.projects(by=by),
            all_series=sorted(known | ({series} if series else set())),
            query=Query("/vehicles", {"project": project, "series": series, "online": online, "q": q.strip()}),
        )

    @router.get("/vehicles/{vin}")
    def vehicle(vin: str) -> RedirectResponse:
        # The real-time values are the first of several pages of a vehicle; each has its own address.
        return RedirectResponse(f"/vehicles/{vin}/real-time", 303)

    @router.get("/vehicles/{vin}/real-time", response_class=HTMLResponse)
    def real_time(request: Request, vin: str) -> HTMLResponse:
        visitor = site.visitor(request)
        live = _LiveVehicle(site, vin, visitor)
        return site.show(_TEMPLATE, visitor, section="vehicles", **live.read())

    @router.get("/vehicles/{vin}/upgrades", response_class=HTMLResponse)
    def upgrades(request: Request, vin: str, page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        return site.show_list(
            request,
            "upgrades.html",
            visitor,
            section="vehicles",
            vin=vin,
            history=site.services.upgrade_history.page(vin, PageRequest(page, _ROWS_A_PAGE), by=visitor.account),
            query=Query(f"/vehicles/{vin}/upgrades", {}),
        )

    @router.websocket("/live/vehicles/{vin}")
    async def live_vehicle(websocket: WebSocket, vin: str) -> None:
        await serve_live(websocket, site, lambda visitor: _LiveVehicle(site, vin, visitor))


class _LiveVehicle:
    """One vehicle as one open page shows it."""

    def __init__(self, site: Site, vin: str, visitor: Visitor) -> None:
        self.topic = f"vehicle:{vin}"
        self._site = site
        self._vin = vin
        self._visitor = visitor
        self._detail: VehicleDetail | None = None
        self._face = VehicleFace()

    def read(self) -> dict[str, Any]:
        """Fetch everything; the context of the template."""
        vehicles = self._site.services.vehicles
        detail = vehicles.detail(self._vin, by=self._visitor.account)
        history = self._site.services.upgrade_history.page(
            self._vin, PageRequest(1, _UPGRADES_SHOWN), by=self._visitor.account
        )
        self._detail = detail
        self._face = vehicle_face(detail.state, detail.nodes)
        return {"detail": detail, "face": self._face, "history": history}

    def snapshot(self) -> Message:
        context = {**self._site.context(self._visitor), **self.read()}
        return {"kind": "parts", "parts": self._site.pages.parts(_TEMPLATE, _PARTS, context)}

    def change(self, messages: Sequence[dict[str, Value]]) -> Message | None:
        """Only the newest state counts, and nothing else if the nodes have changed."""
        newest = messages[-1]
        if self._detail is None or any(message["kind"] != "state" for message in messages):
            return None
        face = vehicle_face(_state(self._detail.state, newest), self._detail.nodes)
        if face.layout != self._face.layout:
            return None
        texts, attributes = difference(self._face, face)
        self._face = face
        return {"kind": "patch", "texts": texts, "attributes": attributes}


def _state(known: VehicleState, message: dict[str, Value]) -> VehicleState:
    values = message["values"]
    return replace(
        known,
        is_online=message["is_online"] is True,
        last_seen_at=_time(message["last_seen_at"]),
        reported_at=_time(message["reported_at"]),
        values=values if isinstance(values, dict) else {},
    )


def _time(value: Value) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
