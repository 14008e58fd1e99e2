"""Accounts: roles, permissions and scope.

A permission is a named act; a role is a set of permissions; an account has one role. Its *scope* says on which vehicles: all,
those of the projects given to it, or those of one customer. What belongs to no vehicle in particular (the audit log, strangers at
the gateway, settings) is for accounts that see everything, whatever the role (`PLATFORM_WIDE`).

Every query for an account goes through `Account.scope`: services ask `bmsota_cloud.services.scoped`, and the store puts the same
condition into its statements (`bmsota_cloud.storage.sql._scope`). What lies outside is answered as if it were not there.

Four eyes are not a permission: the code of a task never goes to its creator, whatever the role (`bmsota_cloud.domain.projects`).
An API token is its owner with fewer permissions (`Account.limited_to`, `bmsota_cloud.domain.tokens`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bmsota_cloud.domain.errors import NotAllowedError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "PLATFORM_WIDE",
    "PROJECTS_MAX",
    "ROLE_PERMISSIONS",
    "Account",
    "LoginSession",
    "Permission",
    "Role",
    "Scope",
    "ScopeKind",
    "require",
]

# As many as one statement takes without a thought, and more than a person works on.
PROJECTS_MAX = 500


class Permission(StrEnum):
    """A named act."""

    VEHICLE_READ = "vehicle.read"
    VEHICLE_EXPORT = "vehicle.export"
    """Take reports of many vehicles away as a file."""
    VEHICLE_REGISTER = "vehicle.register"
    VEHICLE_REMOVE = "vehicle.remove"
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
    CUSTOMER_MANAGE = "customer.manage"
    """Make customers, and say which vehicles are theirs."""
    MONITORING_READ = "monitoring.read"
    """Figures of the whole platform."""
    CLOCK_ACCEPT = "clock.accept"


class Role(StrEnum):
    """What an account is for."""

    CUSTOMER = "customer"
    """Somebody outside: sees the vehicles of one customer, and nothing else."""
    VIEWER = "viewer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


_READ = frozenset(
    {
        Permission.VEHICLE_READ,
        Permission.RELEASE_READ,
        Permission.OTA_READ,
        Permission.PROJECT_READ,
        Permission.MONITORING_READ,
    }
)

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    # Tasks name people, mailboxes and other customers' vehicles; what was upgraded in an own vehicle is in its history.
    Role.CUSTOMER: frozenset({Permission.VEHICLE_READ, Permission.VEHICLE_EXPORT}),
    Role.VIEWER: _READ,
    Role.OPERATOR: _READ
    | {
        Permission.VEHICLE_EXPORT,
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
        Permission.VEHICLE_EXPORT,
        Permission.VEHICLE_REGISTER,
        Permission.VEHICLE_REMOVE,
        Permission.REFUSAL_READ,
        Permission.RELEASE_UPLOAD,
        Permission.OTA_CREATE,
        Permission.OTA_CANCEL,
        Permission.OTA_FORCE,
        Permission.PROJECT_MANAGE,
        Permission.AUDIT_READ,
        Permission.ACCOUNT_MANAGE,
        Permission.CUSTOMER_MANAGE,
        Permission.CLOCK_ACCEPT,
    },
}

PLATFORM_WIDE = frozenset(
    {
        Permission.REFUSAL_READ,
        Permission.PROJECT_MANAGE,
        Permission.AUDIT_READ,
        Permission.ACCOUNT_MANAGE,
        Permission.CUSTOMER_MANAGE,
        Permission.CLOCK_ACCEPT,
        Permission.MONITORING_READ,
    }
)
"""Acts on what belongs to no single vehicle or project: only for accounts whose scope is everything."""


class ScopeKind(StrEnum):
    """How the scope of an account is drawn."""

    EVERYTHING = "everything"
    PROJECTS = "projects"
    CUSTOMER = "customer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which vehicles an account sees."""

    kind: ScopeKind = ScopeKind.EVERYTHING
    projects: tuple[str, ...] = ()
    """The names of the projects, sorted; for `ScopeKind.PROJECTS` only."""
    customer: str = ""
    """The name of the customer; for `ScopeKind.CUSTOMER` only."""

    @property
    def is_everything(self) -> bool:
        return self.kind is ScopeKind.EVERYTHING

    def has_project(self, name: str) -> bool:
        """Whether the whole project is in it: its settings, its tasks, and vehicles that will be registered in it."""
        return self.is_everything or (self.kind is ScopeKind.PROJECTS and name in self.projects)

    def has_vehicle(self, *, project: str, customer: str) -> bool:
        """Whether a vehicle of this project that belongs to this customer ("": to none) is in it."""
        if self.kind is ScopeKind.CUSTOMER:
            return customer != "" and customer == self.customer
        return self.has_project(project)

    def __str__(self) -> str:
        match self.kind:
            case ScopeKind.EVERYTHING:
                return "everything"
            case ScopeKind.PROJECTS:
                return f"projects {', '.join(self.projects) or 'none'}"
            case ScopeKind.CUSTOMER:
                return f"customer {self.customer}"


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
    sees: ScopeKind = ScopeKind.EVERYTHING
    projects: tuple[str, ...] = ()
    customer: str = ""
    disabled_at: datetime | None = None
    """Since when it cannot log in; None while it can."""
    limited_to: tuple[str, ...] | None = None
    """The permissions of the API token by which it asks; None: a person has logged in. Not stored."""

    @property
    def scope(self) -> Scope:
        """Which vehicles it sees."""
        return Scope(kind=self.sees, projects=self.projects, customer=self.customer)

    @property
    def permissions(self) -> frozenset[Permission]:
        """Those of its role; without those for everything, if it does not see everything; none while it is disabled."""
        if self.disabled_at is not None:
            return frozenset()
        granted = ROLE_PERMISSIONS[self.role]
        if self.sees is not ScopeKind.EVERYTHING:
            granted -= PLATFORM_WIDE
        return granted if self.limited_to is None else granted & frozenset(self.limited_to)

    def may(self, permission: Permission) -> bool:
        return permission in self.permissions


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
    address: str = ""
    """Where the login came from; empty if that is not known."""

    @property
    def id(self) -> str:
        """Names the session in lists; worth nothing to who wants to be it."""
        return self.token_sha256.hex()[:16]


def require(account: Account, permission: Permission) -> None:
    """Raise NotAllowedError unless *account* has *permission*."""
    if account.may(permission):
        return
    if account.disabled_at is not None:
        raise NotAllowedError("not-allowed", f"the account {account.name} is disabled")
    if account.limited_to is not None and permission not in account.limited_to:
        raise NotAllowedError("not-allowed", f"this API token lacks the permission {permission}")
    if permission in ROLE_PERMISSIONS[account.role]:
        raise NotAllowedError(
            "not-allowed", f"{account.name} sees only {account.scope}; {permission} is for accounts that see everything"
        )
    raise NotAllowedError("not-allowed", f"{account.name} ({account.role}) lacks the permission {permission}")
