"""The operators' REST API below /api/v1: what the pages do, for programs (QA automation, the demo)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from bmsota_cloud.api.accounts import add_account_routes
from bmsota_cloud.api.audit import add_audit_routes
from bmsota_cloud.api.clock import add_clock_routes
from bmsota_cloud.api.common import ErrorOut, api_route_class
from bmsota_cloud.api.customers import add_customer_routes
from bmsota_cloud.api.equipment import add_equipment_routes
from bmsota_cloud.api.exports import add_export_routes
from bmsota_cloud.api.histories import add_history_routes
from bmsota_cloud.api.ota_tasks import add_ota_task_routes
from bmsota_cloud.api.overview import add_overview_routes
from bmsota_cloud.api.projects import add_project_routes
from bmsota_cloud.api.refusals import add_refusal_routes
from bmsota_cloud.api.releases import add_release_routes
from bmsota_cloud.api.telemetry import add_telemetry_routes
from bmsota_cloud.api.vehicle_history import add_vehicle_history_routes
from bmsota_cloud.api.vehicles import add_vehicle_routes

if TYPE_CHECKING:
    from bmsota_cloud.clock import Clock
    from bmsota_cloud.services import Services

__all__ = ["build_router"]


def build_router(services: Services, clock: Clock) -> APIRouter:
    """All routes of the REST API."""
    router = APIRouter(
        prefix="/api/v1",
        route_class=api_route_class(services, clock),
        responses={"4XX": {"model": ErrorOut}, 422: {"model": ErrorOut}},
    )
    add_account_routes(router, services, clock)
    add_audit_routes(router, services)
    add_clock_routes(router, services, clock)
    add_customer_routes(router, services, clock)
    add_vehicle_routes(router, services, clock)
    add_overview_routes(router, services)
    add_telemetry_routes(router, services)
    add_history_routes(router, services)
    add_vehicle_history_routes(router, services, clock)
    add_equipment_routes(router, services)
    add_export_routes(router, services, clock)
    add_project_routes(router, services, clock)
    add_refusal_routes(router, services)
    add_release_routes(router, services, clock)
    add_ota_task_routes(router, services, clock)
    return router
