"""Mails waiting to be sent, and what became of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from bmsota_cloud.domain.outbox import Mail
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SqlOutbox"]


class SqlOutbox(Tables):
    def add(self, mail: Mail) -> Mail:
        return replace(mail, id=self._add(t.mail, mail))

    def save(self, mail: Mail) -> None:
        self._save(t.mail, mail)

    def due(self, now: datetime, limit: int) -> tuple[Mail, ...]:
        c = t.mail.c
        statement = select(t.mail).where(c.sent_at.is_(None), c.given_up.is_(False), c.next_try_at <= now)
        return self._all(Mail, statement.order_by(c.next_try_at, c.id).limit(limit))

    def of_task(self, task_id: int) -> tuple[Mail, ...]:
        statement = select(t.mail).where(t.mail.c.task_id == task_id).order_by(t.mail.c.id.desc())
        return self._all(Mail, statement.limit(100))
