"""Vehicles that go: to another project, or away.

A vehicle that was ever in an OTA task is not removed: the task's record names it. It can be moved to a project for vehicles that are
out of service. What a vehicle has reported is kept for as long as any other's, and is there again if its VIN is registered again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.presence import VehicleConnection
from bmsota_cloud.domain.projects import check_project_name
from bmsota_cloud.services.audit import acting
from bmsota_cloud.services.scoped import check_project, vehicle_for

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.vehicles import Vehicle
    from bmsota_cloud.services.context import Context

__all__ = ["VehicleManagementService"]


class VehicleManagementService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def move(self, vin: str, project: str, *, by: Account, now: datetime, address: str = "") -> Vehicle:
        """Put a vehicle into another project.

        Raises:
            NotAllowedError: *by* may not register vehicles.
            NotFoundError: there is no such vehicle, or the project is not in the scope of *by*.
            InvalidInputError: the project's name can't be used.
            ConflictError: an OTA task of its project waits for it.
        """
        with acting(
            self._context, who=by.name, action="vehicle.move", subject=f"vehicle {vin[:32]}", now=now, address=address
        ) as act:
            require(by, Permission.VEHICLE_REGISTER)
            check_project_name(project)
            vehicle = vehicle_for(act.work, vin, by, lock=True)
            check_project(project, by)
            act.detail = f"{vehicle.project} -> {project}"
            if project == vehicle.project:
                act.detail = f"it is in {project} already"
                return vehicle
            waiting = act.work.ota_tasks.open_upgrade(vin)
            if waiting is not None:
                raise ConflictError(
                    "in-a-task",
                    f"{vin} is in task {waiting.task_id} of {vehicle.project}; end it there first, then move it",
                )
            vehicle = replace(vehicle, project=project)
            act.work.vehicles.save(vehicle)
        return vehicle

    def remove(self, vin: str, *, by: Account, now: datetime, address: str = "") -> None:
        """Take a vehicle off the platform: its registration, its nodes and what is known of its equipment.

        Raises:
            NotAllowedError: *by* may not remove vehicles.
            NotFoundError: there is no such vehicle.
            ConflictError: it is connected, or was ever in an OTA task.
        """
        with acting(
            self._context, who=by.name, action="vehicle.remove", subject=f"vehicle {vin[:32]}", now=now, address=address
        ) as act:
            require(by, Permission.VEHICLE_REMOVE)
            vehicle = vehicle_for(act.work, vin, by, lock=True)
            task = act.work.ota_tasks.newest_task_of(vin)
            if task is not None:
                raise ConflictError(
                    "has-history",
                    f"task {task} names {vin}, so its record stays; move it to a project for vehicles that are out of service",
                )
            found = act.work.presence.connections([vin], self._context.presence.lease_check)
            if found.get(vin, VehicleConnection()).is_online:
                raise ConflictError("is-online", f"{vin} is connected; remove it when it is offline")
            act.work.vehicles.remove(vin)
            act.detail = (
                f"series {vehicle.series}, project {vehicle.project}, customer {vehicle.customer or 'none'}, "
                f"HWID {vehicle.hwid or 'none'}"
            )
