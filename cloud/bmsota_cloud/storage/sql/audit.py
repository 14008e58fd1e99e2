"""The audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import or_, select, update

from bmsota_cloud.domain.audit import AuditEntry
from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlAudit"]

_COLUMNS = [column for column in t.audit_entry.c if column.name != "repeat_key"]


class SqlAudit(Tables):
    def add(self, entry: AuditEntry) -> None:
        self._add(t.audit_entry, entry)

    def count(self, entry: AuditEntry, repeat_key: str) -> None:
        c = t.audit_entry.c
        statement = update(t.audit_entry).where(c.repeat_key == repeat_key)
        counted = statement.values(count=c.count + entry.count, last_at=entry.last_at, detail=entry.detail)
        if self._connection.execute(counted).rowcount:
            return
        try:
            self._add(t.audit_entry, entry, repeat_key=repeat_key)
        except ConflictError:
            # Another process has just begun this line.
            self._connection.execute(counted)

    def page(
        self, request: PageRequest, *, subject: str = "", who: str = "", action: str = "", text: str = ""
    ) -> Page[AuditEntry]:
        c = t.audit_entry.c
        statement = select(*_COLUMNS).order_by(c.id.desc())
        if subject:
            statement = statement.where(c.subject == subject)
        if who:
            statement = statement.where(c.who == who)
        if action:
            statement = statement.where(or_(c.action == action, c.action.startswith(f"{action}.", autoescape=True)))
        if text:
            statement = statement.where(c.subject.icontains(text, autoescape=True))
        return self._page(AuditEntry, statement, request)

    def newest(self, subject: str, *, action: str, limit: int) -> tuple[AuditEntry, ...]:
        c = t.audit_entry.c
        statement = select(*_COLUMNS).where(c.subject == subject, c.action == action)
        return self._all(AuditEntry, statement.order_by(c.id.desc()).limit(limit))
