"""REST: the overview: counts, list and map of the same filter."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from bmsota_cloud.api.common import ApiOut, By, PageOut, Paging
from bmsota_cloud.domain.vehicles import FleetState, VehicleFilter
from bmsota_cloud.services import MARKS_MAX, ZOOM_MAX, FleetSort, MapBounds

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_overview_routes"]


class FleetRowOut(ApiOut):
    vin: str
    hwid: str
    series: str
    project: str
    customer: str
    battery_number: str
    frame_number: str
    model: str
    plate: str
    city: str
    is_online: bool
    is_upgrading: bool
    last_seen_at: datetime | None
    soc_pct: float | None
    alarm_level: int | None
    latitude_deg: float | None = Field(description="> 0: north; of the last valid position")
    longitude_deg: float | None
    is_position_valid: bool | None = Field(description="false: the fix was lost since")


class FleetPageOut(PageOut[FleetRowOut]):
    counts: dict[str, int] = Field(
        description="of the vehicles that pass the filter but for the state: all, online, offline, faults, upgrading"
    )


class FleetPointOut(ApiOut):
    vin: str
    hwid: str
    latitude_deg: float
    longitude_deg: float
    is_position_valid: bool
    is_online: bool
    is_upgrading: bool
    alarm_level: int
    soc_pct: float | None


class FleetClusterOut(ApiOut):
    latitude_deg: float
    longitude_deg: float
    vehicles: int
    online: int
    faults: int
    upgrading: int
    points: list[FleetPointOut] = Field(description="the first 20 of them")


class FleetMapOut(ApiOut):
    total: int = Field(description="how many vehicles pass the filter")
    placed: int = Field(description="how many of them have told a position")
    points: list[FleetPointOut] | None = Field(description="all of them; null if there are too many")
    clusters: list[FleetClusterOut] | None


def _filter(
    project: str = "",
    series: str = "",
    city: str = "",
    customer: str = "",
    text: Annotated[str, Query(description="a part of VIN, HWID, series, plate, battery or frame number")] = "",
) -> VehicleFilter:
    return VehicleFilter(project=project, series=series, city=city, customer=customer, text=text)


Asked = Annotated[VehicleFilter, Depends(_filter)]


def add_overview_routes(router: APIRouter, services: "Services") -> None:
    """Add the routes."""

    @router.get("/overview", response_model=FleetPageOut)
    def overview(
        by: By, paging: Paging, asked: Asked, state: FleetState | None = None, sort: FleetSort = FleetSort.VIN
    ) -> Any:
        found = services.overview.page(paging, asked, by=by, state=state, sort=sort)
        return {
            **{name: getattr(found.page, name) for name in ("items", "total", "number", "size")},
            "counts": {"all": found.total, **{each.value: count for each, count in found.counts.items()}},
        }

    @router.get("/overview/map", response_model=FleetMapOut)
    def fleet_map(
        by: By,
        asked: Asked,
        state: FleetState | None = None,
        bounds: Annotated[str, Query(description="south,west,north,east in degrees, for clusters")] = "",
        zoom: Annotated[int, Query(ge=0, le=ZOOM_MAX, description="of a web map, for clusters")] = 2,
        clusters_from: Annotated[
            int, Query(ge=1, le=MARKS_MAX + 1, description="so many vehicles are clustered")
        ] = MARKS_MAX + 1,
    ) -> Any:
        found = services.overview.map(
            asked, by=by, state=state, bounds=MapBounds.parse(bounds), zoom=zoom, clusters_from=clusters_from
        )
        return {
            "total": found.total,
            "placed": found.placed,
            "points": None if found.points is None else [point._asdict() for point in found.points],
            "clusters": None
            if found.clusters is None
            else [
                {**cluster._asdict(), "points": [point._asdict() for point in cluster.points]}
                for cluster in found.clusters
            ],
        }
