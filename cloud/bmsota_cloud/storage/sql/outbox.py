"""Mails waiting to be sent, and what became of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select, update

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

    def has_due(self, now: datetime) -> bool:
        c = t.mail.c
        statement = select(c.id).where(c.sent_at.is_(None), c.given_up.is_(False), c.next_try_at <= now).limit(1)
        return self._connection.execute(statement).first() is not None

    def take(self, now: datetime, limit: int, *, by: str, until: datetime) -> tuple[Mail, ...]:
        c = t.mail.c
        statement = (
            select(t.mail)
            .where(c.sent_at.is_(None), c.given_up.is_(False), c.next_try_at <= now)
            .where(or_(c.claimed_until.is_(None), c.claimed_until <= now, c.claimed_by == by))
            .order_by(c.next_try_at, c.id)
            .limit(limit)
            # On SQLite a transaction of ours has the whole file.
            .with_for_update(skip_locked=True)
        )
        mails = tuple(replace(mail, claimed_by=by, claimed_until=until) for mail in self._all(Mail, statement))
        if mails:
            claimed = update(t.mail).where(c.id.in_([mail.id for mail in mails]))
            self._connection.execute(claimed.values(claimed_by=by, claimed_until=until))
        return mails

    def keep(self, mail_id: int, *, by: str, until: datetime) -> bool:
        c = t.mail.c
        mine = update(t.mail).where(c.id == mail_id, c.claimed_by == by, c.sent_at.is_(None), c.given_up.is_(False))
        return self._connection.execute(mine.values(claimed_until=until)).rowcount == 1

    def waiting(self) -> int:
        c = t.mail.c
        statement = select(func.count()).select_from(t.mail).where(c.sent_at.is_(None), c.given_up.is_(False))
        return self._connection.execute(statement).scalar_one()

    def of_task(self, task_id: int) -> tuple[Mail, ...]:
        statement = select(t.mail).where(t.mail.c.task_id == task_id).order_by(t.mail.c.id.desc())
        return self._all(Mail, statement.limit(100))
