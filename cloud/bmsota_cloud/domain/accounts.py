"""Accounts, roles and permissions.

A permission is a named act; a role is a set of permissions; an account has one role. Four eyes are not a permission:
who created a task may not approve it, whatever its role (`bmsota_cloud.domain.ota_tasks`).
Left out: scopes (customers who see only their vehicles) and API tokens with a lifetime of their own; sessions serve both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bmsota_cloud.domain.errors import NotAllowedError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["ROLE_PERMISSIONS", "Account", "LoginSession", "Permission", "Role", "require"]


class Permission(StrEnum):
    """A named act."""

    VEHICLE_READ = "vehicle.read"
    VEHICLE_REGISTER = "vehicle.register"
    REFUSAL_READ = "refusal.read"
    """What was refused at the gateway, strangers and their addresses included."""
    RELEASE_READ = "release.read"
    RELEASE_UPLOAD = "release.upload"
    OTA_READ = "ota.read"
    OTA_CREATE = "ota.create"
    OTA_APPROVE = "ota.approve"
    OTA_CANCEL = "ota.cancel"
    AUDIT_READ = "audit.read"
    ACCOUNT_MANAGE = "account.manage"


class Role(StrEnum):
    """What an account is for."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


_READ = frozenset({Permission.VEHICLE_READ, Permission.RELEASE_READ, Permission.OTA_READ})

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: _READ,
    Role.OPERATOR: _READ
    | {
        Permission.VEHICLE_REGISTER,
        Permission.REFUSAL_READ,
        Permission.RELEASE_UPLOAD,
        Permission.OTA_CREATE,
        Permission.OTA_CANCEL,
    },
    # An auditor reads everything, approves and cancels, and creates nothing: the decision must stay independent.
    Role.AUDITOR: _READ
    | {Permission.REFUSAL_READ, Permission.OTA_APPROVE, Permission.OTA_CANCEL, Permission.AUDIT_READ},
    # An administrator keeps the platform running; approving a task is no part of that.
    Role.ADMINISTRATOR: _READ
    | {
        Permission.VEHICLE_REGISTER,
        Permission.REFUSAL_READ,
        Permission.RELEASE_UPLOAD,
        Permission.OTA_CREATE,
        Permission.OTA_CANCEL,
        Permission.AUDIT_READ,
        Permission.ACCOUNT_MANAGE,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A person who can log in."""

    name: str
    """Unique, lower case; what is shown beside everything the person did."""
    email: str
    role: Role
    password_hash: str
    """argon2id in its own text form; never leaves the services."""
    created_at: datetime

    def may(self, permission: Permission) -> bool:
        return permission in ROLE_PERMISSIONS[self.role]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSession:
    """An open login. The token itself is not here: only its SHA-256 is stored."""

    token_sha256: bytes
    account_name: str
    csrf_token: str
    """Part of every form of a page served to this session."""
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    """The absolute end; `last_seen_at` plus the idle limit may come earlier."""


def require(account: Account, permission: Permission) -> None:
    """Raise NotAllowedError unless *account* has *permission*."""
    if not account.may(permission):
        raise NotAllowedError("not-allowed", f"{account.name} ({account.role}) lacks the permission {permission}")
