"""Customers, and which vehicles are theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.customers import Customer, check_customer_name
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.paging import Page
from bmsota_cloud.services.audit import acting
from bmsota_cloud.services.scoped import check_vehicles, vehicle_for
from bmsota_cloud.services.views import view_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["ASSIGNED_MAX", "CustomerService", "CustomerView"]

# In one transaction; a larger fleet goes in several.
ASSIGNED_MAX = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerView:
    """A customer as it is shown."""

    name: str
    created_at: datetime
    created_by: str
    vehicle_count: int


class CustomerService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def create(self, name: str, *, by: Account | None, now: datetime, address: str = "") -> Customer:
        """Add a customer. *by* is None only for a simulation's wiring.

        Raises:
            NotAllowedError: *by* may not manage customers.
            InvalidInputError: the name can't be used.
            ConflictError: the name is taken.
        """
        who = "platform" if by is None else by.name
        subject = f"customer {name[:64]}"
        with acting(self._context, who=who, action="customer.create", subject=subject, now=now, address=address) as act:
            if by is not None:
                require(by, Permission.CUSTOMER_MANAGE)
            check_customer_name(name)
            if act.work.customers.get(name) is not None:
                raise ConflictError("name-taken", f"there is a customer {name} already")
            customer = Customer(name=name, created_at=now, created_by=who)
            act.work.customers.add(customer)
        return customer

    def page(self, request: PageRequest, *, by: Account) -> Page[CustomerView]:
        """All customers, by name."""
        require(by, Permission.CUSTOMER_MANAGE)
        with self._context.store.reading() as work:
            page = work.customers.page(request)
            counts = work.vehicles.counts_by_customer()
        items = tuple(view_of(CustomerView, item, vehicle_count=counts.get(item.name, 0)) for item in page.items)
        return Page(items=items, total=page.total, number=page.number, size=page.size)

    def assign(self, name: str, vins: Sequence[str], *, by: Account, now: datetime, address: str = "") -> int:
        """Give vehicles to a customer, whoever had them before; how many. At once, also for sessions that are open.

        Raises:
            NotAllowedError: *by* may not manage customers.
            NotFoundError: there is no such customer, or no such vehicle; none is assigned.
            InvalidInputError: too many vehicles.
        """
        subject = f"customer {name[:64]}"
        with acting(
            self._context, who=by.name, action="customer.assign", subject=subject, now=now, address=address
        ) as act:
            require(by, Permission.CUSTOMER_MANAGE)
            if not 1 <= len(vins) <= ASSIGNED_MAX:
                raise InvalidInputError("bad-vehicles", f"vehicles: expected 1 to {ASSIGNED_MAX}, got {len(vins)}")
            _check_there(act.work, name)
            check_vehicles(act.work, vins, by)
            count = act.work.vehicles.assign(sorted(set(vins)), name)
            act.detail = f"{count} vehicles: {', '.join(sorted(set(vins)))}"
        return count

    def set_customer(self, vin: str, name: str, *, by: Account, now: datetime, address: str = "") -> None:
        """Give one vehicle to a customer; to none if *name* is empty.

        Raises:
            NotAllowedError: *by* may not manage customers.
            NotFoundError: there is no such customer, or no such vehicle.
        """
        subject = f"vehicle {vin[:32]}"
        with acting(
            self._context, who=by.name, action="vehicle.customer", subject=subject, now=now, address=address
        ) as act:
            require(by, Permission.CUSTOMER_MANAGE)
            vehicle = vehicle_for(act.work, vin, by, lock=True)
            if name:
                _check_there(act.work, name)
            act.work.vehicles.assign([vin], name)
            act.detail = f"{vehicle.customer or 'none'} -> {name or 'none'}"


def _check_there(work: Work, name: str) -> None:
    if work.customers.get(name) is None:
        raise NotFoundError("no-such-customer", f"no customer {name[:64]}")
