"""The audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from bmsota_cloud.domain.audit import AuditEntry
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlAudit"]


class SqlAudit(Tables):
    def add(self, entry: AuditEntry) -> None:
        self._add(t.audit_entry, entry)

    def page(self, request: PageRequest, *, subject: str = "") -> Page[AuditEntry]:
        statement = select(t.audit_entry).order_by(t.audit_entry.c.id.desc())
        if subject:
            statement = statement.where(t.audit_entry.c.subject == subject)
        return self._page(AuditEntry, statement, request)
