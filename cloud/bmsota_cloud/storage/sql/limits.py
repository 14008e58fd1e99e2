"""Counters of tries, and the addresses that other platforms have logged in from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from bmsota_cloud.domain.limits import Level
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, upsert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SqlLimits"]


class SqlLimits(Tables):
    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, Level]:
        c = t.rate_limit.c
        rows = self._connection.execute(select(c.key, c.free_at, c.counted_at).where(c.key.in_(keys)))
        return {
            row.key: Level(row.free_at.timestamp(), None if row.counted_at is None else row.counted_at.timestamp())
            for row in rows
        }

    def save(
        self, key: bytes, free_at: float, now: float, *, nonsense_from: float, keep: int, may_forget: bool
    ) -> None:
        c = t.rate_limit.c
        found = self.get([key]).get(key)
        known = None if found is None else found.at(now)
        if known is None or known < free_at or known >= nonsense_from:
            upsert(self._connection, t.rate_limit, {"key": key, "free_at": _utc(free_at), "counted_at": _utc(now)})
        if may_forget:
            self._delete_until(_utc(now))
        # The emptiest go first: who has tried most is remembered longest, however many others are made up meanwhile.
        limit = self._connection.execute(select(c.free_at).order_by(c.free_at.desc()).offset(keep).limit(1)).scalar()
        if limit is not None:
            self._delete_until(limit)

    def _delete_until(self, moment: datetime) -> None:
        c = t.rate_limit.c
        # Rows that another transaction is writing are left to it: two that wait for each other's rows would both fail.
        idle = select(c.key).where(c.free_at <= moment).with_for_update(skip_locked=True)
        self._connection.execute(delete(t.rate_limit).where(c.key.in_(idle)))

    def delete(self, key: bytes) -> None:
        self._connection.execute(delete(t.rate_limit).where(t.rate_limit.c.key == key))

    def knows_platform_address(self, code: str, address_digest: bytes) -> bool:
        c = t.platform_login_address.c
        statement = select(c.last_at).where(c.code == code, c.address_digest == address_digest)
        return self._connection.execute(statement).first() is not None

    def save_platform_address(self, code: str, address_digest: bytes, last_at: datetime, *, keep: int) -> None:
        c = t.platform_login_address.c
        values = {"code": code, "address_digest": address_digest, "last_at": last_at}
        upsert(self._connection, t.platform_login_address, values)
        newest = select(c.address_digest).where(c.code == code).order_by(c.last_at.desc(), c.address_digest).limit(keep)
        self._connection.execute(
            delete(t.platform_login_address).where(c.code == code, c.address_digest.not_in(newest.scalar_subquery()))
        )


def _utc(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
