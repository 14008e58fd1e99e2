"""Sessions of units at the device API, and the challenges that opened them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from bmsota_cloud.domain.device import DeviceSession
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, insert_new

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SqlDevice"]


class SqlDevice(Tables):
    def spend_challenge(self, challenge: bytes, expires_at: datetime) -> bool:
        return insert_new(self._connection, t.spent_challenge, {"challenge": challenge, "expires_at": expires_at})

    def add_session(self, session: DeviceSession) -> None:
        self._add(t.device_session, session)

    def session(self, token_sha256: bytes) -> DeviceSession | None:
        return self._one(DeviceSession, select(t.device_session).where(t.device_session.c.token_sha256 == token_sha256))

    def newest_session(self, hwid: str) -> DeviceSession | None:
        c = t.device_session.c
        statement = select(t.device_session).where(c.hwid == hwid)
        return self._one(DeviceSession, statement.order_by(c.issued_at.desc(), c.token_sha256).limit(1))

    def delete_sessions(self, vin: str) -> None:
        self._connection.execute(delete(t.device_session).where(t.device_session.c.vin == vin))

    def delete_before(self, expired: datetime) -> None:
        for table in (t.spent_challenge, t.device_session):
            self._connection.execute(delete(table).where(table.c.expires_at <= expired))
