"""The scope of an account as conditions of a statement: the one place where SQL decides what an account sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import false

from bmsota_cloud.domain.accounts import Scope, ScopeKind
from bmsota_cloud.storage import schema as t

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement

__all__ = ["tasks_in", "vehicles_in"]


def vehicles_in(scope: Scope) -> Sequence[ColumnElement[bool]]:
    """What holds for the rows of `vehicle` in *scope*, as `Scope.has_vehicle` says; none for everything."""
    match scope.kind:
        case ScopeKind.EVERYTHING:
            return ()
        case ScopeKind.PROJECTS:
            return (t.vehicle.c.project.in_(scope.projects),)
        case ScopeKind.CUSTOMER:
            # An empty name is bound as NULL, which equals nothing: who has no customer sees no vehicle.
            return (t.vehicle.c.customer == scope.customer,)


def tasks_in(scope: Scope) -> Sequence[ColumnElement[bool]]:
    """What holds for the rows of `ota_task` in *scope*, as `Scope.has_project` says; none for everything."""
    match scope.kind:
        case ScopeKind.EVERYTHING:
            return ()
        case ScopeKind.PROJECTS:
            return (t.ota_task.c.project.in_(scope.projects),)
        case ScopeKind.CUSTOMER:
            return (false(),)
