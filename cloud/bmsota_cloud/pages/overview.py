"""The home page: every vehicle that the account sees, filtered, counted, listed and on the map."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import HTMLResponse, Response

from bmsota_cloud.domain.paging import PAGE_NUMBER_MAX, PageRequest
from bmsota_cloud.domain.telemetry import JsonValue
from bmsota_cloud.domain.vehicles import FleetState, VehicleFilter
from bmsota_cloud.pages.live import Message, serve_live
from bmsota_cloud.pages.session import Visitor
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.services import MARKS_MAX, ZOOM_MAX, FleetPoint, FleetSort, MapBounds

__all__ = ["add_overview_pages"]

_TEMPLATE = "overview/home.html"
# The blocks that follow the filters, and the vehicles.
_PARTS = ("counters", "list")
_ROWS_A_PAGE = 50
_SORTS = {
    FleetSort.HWID: "HWID",
    FleetSort.PLATE: "Plate",
    FleetSort.BATTERY_NUMBER: "Battery number",
    FleetSort.PROJECT: "Project",
    FleetSort.CITY: "City",
    FleetSort.SOC: "SOC, lowest first",
    FleetSort.ALARM: "Alarm, highest first",
    FleetSort.LAST_SEEN: "Last seen, newest first",
}
# Below that, compressing costs more than it saves.
_GZIP_FROM_BYTES = 4096


def add_overview_pages(router: APIRouter, site: Site) -> None:
    """Add the home page, the marks of its map, and its WebSocket."""

    @router.get("/", response_class=HTMLResponse)
    def overview(request: Request) -> Response:
        shown = _Overview(site, site.visitor(request), request.query_params)
        context = site.context(shown.visitor, **shown.read())
        if "x-partial" in request.headers:
            return site.pages.several(_TEMPLATE, _PARTS, context)
        return site.pages.page(_TEMPLATE, context)

    @router.get("/map/vehicles")
    def marks(request: Request) -> Response:
        """What the map shows, as lists of values: `points` and `clusters` in the order of `services.overview`."""
        by = site.visitor(request).account
        asked = _Asked(request.query_params)
        zoom = request.query_params.get("zoom", "")
        found = site.services.overview.map(
            asked.filter,
            by=by,
            state=asked.state,
            bounds=MapBounds.parse(request.query_params.get("bounds", "")),
            zoom=min(int(zoom), ZOOM_MAX) if zoom.isascii() and zoom.isdecimal() and len(zoom) < 3 else 2,
            clusters_from=1 if request.query_params.get("grouped") else MARKS_MAX + 1,
        )
        content = {
            "total": found.total,
            "placed": found.placed,
            "points": None if found.points is None else [_flat(point) for point in found.points],
            "clusters": None
            if found.clusters is None
            else [(*cluster[:-1], [_flat(point) for point in cluster.points]) for cluster in found.clusters],
        }
        return _json(request, content)

    @router.websocket("/live/overview")
    async def live(websocket: WebSocket) -> None:
        await serve_live(websocket, site, lambda visitor: _Overview(site, visitor, websocket.query_params))


class _Asked:
    """What the address asks for. What it says wrongly counts as not said: an old bookmark still leads to the overview."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        said = {
            name: parameters.get(name, "").strip() for name in ("project", "city", "customer", "q", "state", "sort")
        }
        self.state = FleetState(said["state"]) if said["state"] in set(FleetState) else None
        self.sort = FleetSort(said["sort"]) if said["sort"] in set(FleetSort) else FleetSort.VIN
        page = parameters.get("page", "")
        is_number = page.isascii() and page.isdecimal() and len(page) <= len(str(PAGE_NUMBER_MAX))
        self.page = min(max(1, int(page)), PAGE_NUMBER_MAX) if is_number else 1
        self.filter = VehicleFilter(
            project=said["project"], city=said["city"], customer=said["customer"], text=said["q"]
        )
        self.query = Query(
            "/",
            {
                **{name: said[name] for name in ("project", "city", "customer", "q")},
                "state": "" if self.state is None else self.state.value,
                "sort": "" if self.sort is FleetSort.VIN else self.sort.value,
            },
        )


class _Overview:
    """The overview as one open page shows it."""

    # Nothing is published there: the page is renewed by the snapshots that every page gets now and then. A storm of
    # ten thousand vehicles must not become ten thousand overviews.
    topic = "overview"

    def __init__(self, site: Site, visitor: Visitor, parameters: Mapping[str, str]) -> None:
        self.visitor = visitor
        self._site = site
        self._asked = _Asked(parameters)

    def read(self) -> dict[str, Any]:
        """Fetch everything; the context of the template."""
        by, asked = self.visitor.account, self._asked
        services = self._site.services
        found = services.overview.page(
            PageRequest(asked.page, _ROWS_A_PAGE), asked.filter, by=by, state=asked.state, sort=asked.sort
        )
        names = {
            "projects": services.vehicles.projects(by=by),
            "cities": services.vehicles.cities(by=by),
            "customers": services.vehicles.customers(by=by),
        }
        return {
            "section": "overview",
            "found": found,
            "query": asked.query,
            "state": asked.state,
            "states": tuple(FleetState),
            "sorts": [(sort.value, text) for sort, text in _SORTS.items()],
            "tiles": self._site.settings.map_tiles,
            "attribution": self._site.settings.map_attribution,
            **names,
        }

    def snapshot(self) -> Message:
        context = self._site.context(self.visitor, **self.read())
        return {"kind": "parts", "parts": self._site.pages.parts(_TEMPLATE, _PARTS, context)}

    def change(self, messages: Sequence[dict[str, JsonValue]]) -> Message | None:
        del messages
        return None


def _flat(point: FleetPoint) -> tuple[Any, ...]:
    """Truth as 0 and 1: half of the answer would be the words."""
    return tuple(int(value) if isinstance(value, bool) else value for value in point)


def _json(request: Request, content: Any) -> Response:
    data = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
    if len(data) >= _GZIP_FROM_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        data = gzip.compress(data, compresslevel=1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(data, media_type="application/json", headers=headers)
