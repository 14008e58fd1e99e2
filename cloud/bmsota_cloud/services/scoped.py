"""What an account may see, for the services: the one door to a vehicle, a task or a project by its name.

What lies outside the scope of an account is answered word for word like what is not there, so that nobody learns by asking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_cloud.domain.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.ota_tasks import OtaTask
    from bmsota_cloud.domain.vehicles import Vehicle
    from bmsota_cloud.storage.base import Work

__all__ = ["check_project", "check_vehicles", "task_for", "vehicle_for"]


def vehicle_for(work: Work, vin: str, by: Account, *, lock: bool = False) -> Vehicle:
    """The vehicle.

    Raises:
        NotFoundError: there is none, or not for *by*.
    """
    vehicle = work.vehicles.visible(vin, by.scope, lock=lock)
    if vehicle is None:
        raise NotFoundError("no-such-vehicle", f"no vehicle {vin[:32]}")
    return vehicle


def check_vehicles(work: Work, vins: Sequence[str], by: Account) -> None:
    """Refuse vehicles that there are not, or not for *by*.

    Raises:
        NotFoundError: names the first of them.
    """
    known = work.vehicles.visible_many(vins, by.scope)
    for vin in vins:
        if vin not in known:
            raise NotFoundError("no-such-vehicle", f"no vehicle {vin[:32]}")


def task_for(work: Work, task_id: int, by: Account, *, lock: bool = False) -> OtaTask:
    """The task.

    Raises:
        NotFoundError: there is none, or not for *by*.
    """
    task = work.ota_tasks.visible(task_id, by.scope, lock=lock)
    if task is None:
        raise NotFoundError("no-such-task", f"no task {task_id}")
    return task


def check_project(name: str, by: Account) -> None:
    """Refuse a project that is not for *by*; whether there is one, is not looked at.

    Raises:
        NotFoundError: it is not in the scope of *by*.
    """
    if not by.scope.has_project(name):
        raise NotFoundError("no-such-project", f"no project {name[:64]}")
