"""Telemetry for people: the hot reports of a vehicle. How they come in is `bmsota_cloud.services.ingest`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.domain.telemetry import ReportRow
    from bmsota_cloud.services.context import Context

__all__ = ["TelemetryService"]


class TelemetryService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def reports(
        self,
        vin: str,
        request: PageRequest,
        *,
        by: Account,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page[ReportRow]:
        """The hot history of a vehicle, newest first."""
        require(by, Permission.VEHICLE_READ)
        return self._context.telemetry.reports(vin, request, since=since, until=until)
