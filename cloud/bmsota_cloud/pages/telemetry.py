"""The real-time values of one vehicle."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse

from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import JsonValue, VehicleSnapshot
from bmsota_cloud.pages.live import Message, serve_live
from bmsota_cloud.pages.realtime_view import RealtimeView, difference, realtime_view
from bmsota_cloud.pages.session import Visitor
from bmsota_cloud.pages.site import Site

if TYPE_CHECKING:
    from bmsota_cloud.services import VehicleDetail

__all__ = ["add_telemetry_pages"]

_UPGRADES_SHOWN = 10
"""On this page; the upgrade history has a page of its own."""
_TEMPLATE = "telemetry/realtime.html"
# The blocks of the template that change with the vehicle.
_PARTS = ("live_head", "live_values", "live_nodes", "live_history")


def add_telemetry_pages(router: APIRouter, site: Site) -> None:
    """Add the real-time page and its WebSocket."""

    @router.get("/vehicles/{vin}")
    def vehicle(vin: str) -> RedirectResponse:
        # The real-time values are the first of several pages of a vehicle; each has its own address.
        return RedirectResponse(f"/vehicles/{vin}/real-time", 303)

    @router.get("/vehicles/{vin}/real-time", response_class=HTMLResponse)
    def real_time(request: Request, vin: str) -> HTMLResponse:
        visitor = site.visitor(request)
        live = _LiveVehicle(site, vin, visitor)
        return site.show(_TEMPLATE, visitor, section="vehicles", **live.read())

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
        self._view = RealtimeView()

    def read(self) -> dict[str, Any]:
        """Fetch everything; the context of the template."""
        vehicles = self._site.services.vehicles
        detail = vehicles.detail(self._vin, by=self._visitor.account)
        history = self._site.services.histories.page(
            self._vin, PageRequest(1, _UPGRADES_SHOWN), by=self._visitor.account
        )
        self._detail = detail
        self._view = realtime_view(detail.state, detail.nodes)
        refusals = self._site.services.refusals.of_vehicle(self._vin, by=self._visitor.account)
        return {"detail": detail, "view": self._view, "history": history, "refusals": refusals}

    def snapshot(self) -> Message:
        context = {**self._site.context(self._visitor), **self.read()}
        return {"kind": "parts", "parts": self._site.pages.parts(_TEMPLATE, _PARTS, context)}

    def change(self, messages: Sequence[dict[str, JsonValue]]) -> Message | None:
        """Only the newest state counts, and nothing else if the nodes have changed."""
        newest = messages[-1]
        if self._detail is None or any(message["kind"] != "state" for message in messages):
            return None
        view = realtime_view(_state(self._detail.state, newest), self._detail.nodes)
        if view.layout != self._view.layout:
            return None
        texts, attributes = difference(self._view, view)
        self._view = view
        return {"kind": "patch", "texts": texts, "attributes": attributes}


def _state(known: VehicleSnapshot, message: dict[str, JsonValue]) -> VehicleSnapshot:
    values = message["values"]
    return replace(
        known,
        is_online=message["is_online"] is True,
        last_seen_at=_time(message["last_seen_at"]),
        reported_at=_time(message["reported_at"]),
        is_time_plausible=message["is_time_plausible"] is True,
        values=values if isinstance(values, dict) else {},
    )


def _time(value: JsonValue) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
