"""Customers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from bmsota_cloud.domain.customers import Customer
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlCustomers"]


class SqlCustomers(Tables):
    def add(self, customer: Customer) -> None:
        self._add(t.customer, customer)

    def get(self, name: str) -> Customer | None:
        return self._one(Customer, select(t.customer).where(t.customer.c.name == name))

    def page(self, request: PageRequest) -> Page[Customer]:
        return self._page(Customer, select(t.customer).order_by(t.customer.c.name), request)
