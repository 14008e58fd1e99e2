"""Challenges and sessions of units at the device API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from bmsota_cloud.domain.device import Challenge, DeviceSession
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, values_of

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SqlDevice"]


class SqlDevice(Tables):
    def add_challenge(self, challenge: Challenge, *, keep: int) -> None:
        c = t.device_challenge.c
        self._connection.execute(insert(t.device_challenge).values(**values_of(challenge)))
        newest = select(c.id).where(c.hwid == challenge.hwid).order_by(c.id.desc()).limit(keep)
        self._connection.execute(
            delete(t.device_challenge).where(c.hwid == challenge.hwid, c.id.not_in(newest.scalar_subquery()))
        )

    def take_challenge(self, hwid: str, challenge: bytes) -> Challenge | None:
        c = t.device_challenge.c
        columns = [column for column in c if column.name != "id"]
        found = self._one(Challenge, select(*columns).where(c.hwid == hwid, c.challenge == challenge), lock=True)
        if found is not None:
            self._connection.execute(delete(t.device_challenge).where(c.hwid == hwid, c.challenge == challenge))
        return found

    def add_session(self, session: DeviceSession) -> None:
        self._add(t.device_session, session)

    def session(self, token_sha256: bytes) -> DeviceSession | None:
        return self._one(DeviceSession, select(t.device_session).where(t.device_session.c.token_sha256 == token_sha256))

    def newest_session(self, hwid: str) -> DeviceSession | None:
        c = t.device_session.c
        statement = select(t.device_session).where(c.hwid == hwid)
        return self._one(DeviceSession, statement.order_by(c.issued_at.desc(), c.token_sha256).limit(1))

    def delete_before(self, expired: datetime) -> None:
        for table in (t.device_challenge, t.device_session):
            self._connection.execute(delete(table).where(table.c.expires_at <= expired))
