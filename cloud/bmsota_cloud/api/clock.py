"""REST: whether the platform trusts its clock, and an operator's word that it may."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from bmsota_cloud.api.common import ApiOut, By

if TYPE_CHECKING:
    from bmsota_cloud.clock import Clock
    from bmsota_cloud.domain.clock_guard import ClockStatus
    from bmsota_cloud.services import Services

__all__ = ["add_clock_routes"]


class ClockOut(ApiOut):
    now: datetime
    is_waiting: bool
    doubt: str
    wait_left_s: int
    jump_s: int
    agreeing_vehicles: int
    vehicles_needed: int


def add_clock_routes(router: APIRouter, services: "Services", clock: "Clock") -> None:
    """Add the routes."""

    @router.get("/clock", response_model=ClockOut)
    def status(by: By) -> Any:
        now = clock()
        return _out(services.clock.status(by=by), now)

    @router.post("/clock/accept", response_model=ClockOut)
    def accept(by: By) -> Any:
        found = services.clock.accept(by=by, now=clock())
        return _out(found, clock())


def _out(status: "ClockStatus", now: datetime) -> ClockOut:
    return ClockOut(
        now=now,
        is_waiting=status.is_waiting,
        doubt=str(status.doubt),
        wait_left_s=status.wait_left_s,
        jump_s=status.jump_s,
        agreeing_vehicles=status.agreeing_vehicles,
        vehicles_needed=status.vehicles_needed,
    )
