"""Accounts, roles and permissions.

A permission is a named act; a role is a set of permissions; an account has one role. Four eyes are not a permission:
the code of a task never goes to its creator, whatever the role (`bmsota_cloud.domain.projects`).
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
    OTA_START = "ota.start"
    """Enter the code from the project's audit mailbox."""
    OTA_AUDIT = "ota.audit"
    """Be the auditor whom a task names, and enter its code."""
    OTA_CANCEL = "ota.cancel"
    OTA_FORCE = "ota.force"
    """End or retry single vehicles of a running task, and take vehicles over from another task."""
    PROJECT_READ = "project.read"
    PROJECT_MANAGE = "project.manage"
    AUDIT_READ = "audit.read"
    ACCOUNT_MANAGE = "account.manage"
    CLOCK_ACCEPT = "clock.accept"


class Role(StrEnum):
    """What an account is for."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


_READ = frozenset({Permission.VEHICLE_READ, Permission.RELEASE_READ, Permission.OTA_READ, Permission.PROJECT_READ})

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: _READ,
    Role.OPERATOR: _READ
    | {
        Permission.VEHICLE_REGISTER,
        Permission.REFUSAL_READ,
        Permission.RELEASE_UPLOAD,
        Permission.OTA_CREATE,
        Permission.OTA_START,
        Permission.OTA_CANCEL,
        Permission.OTA_FORCE,
        Permission.CLOCK_ACCEPT,
    },
    # An auditor reads everything, approves and cancels, and creates nothing: the decision must stay independent.
    Role.AUDITOR: _READ | {Permission.REFUSAL_READ, Permission.OTA_AUDIT, Permission.OTA_CANCEL, Permission.AUDIT_READ},
    # An administrator keeps the platform running and says where codes go; therefore it never enters one.
    Role.ADMINISTRATOR: _READ
    | {
        Permission.VEHICLE_REGISTER,
        Permission.REFUSAL_READ,
        Permission.RELEASE_UPLOAD,
        Permission.OTA_CREATE,
        Permission.OTA_CANCEL,
        Permission.OTA_FORCE,
        Permission.PROJECT_MANAGE,
        Permission.AUDIT_READ,
        Permission.ACCOUNT_MANAGE,
        Permission.CLOCK_ACCEPT,
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
