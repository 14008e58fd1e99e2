"""The parts of "Manage Background", and who may use which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bmsota_cloud.domain.accounts import Permission

if TYPE_CHECKING:
    from bmsota_cloud.domain.accounts import Account

__all__ = ["manage_sections"]

_SECTIONS: Final = (
    ("/manage/accounts", "Accounts", Permission.ACCOUNT_MANAGE),
    ("/manage/customers", "Customers", Permission.CUSTOMER_MANAGE),
    ("/manage/vehicles", "Vehicles", Permission.VEHICLE_REGISTER),
    ("/manage/audit", "Audit log", Permission.AUDIT_READ),
    ("/refusals", "Heard but not admitted", Permission.REFUSAL_READ),
)


def manage_sections(account: Account) -> tuple[tuple[str, str], ...]:
    """Address and name of each part that *account* may use, in the order of the menu."""
    return tuple((path, label) for path, label, permission in _SECTIONS if account.may(permission))
