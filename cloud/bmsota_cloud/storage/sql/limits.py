"""Counters of tries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, upsert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

__all__ = ["SqlLimits"]


class SqlLimits(Tables):
    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, datetime]:
        c = t.rate_limit.c
        rows = self._connection.execute(select(c.key, c.free_at).where(c.key.in_(keys)))
        return {row.key: row.free_at for row in rows}

    def save(
        self, key: bytes, free_at: datetime, now: datetime, *, nonsense_from: datetime, keep: int, may_forget: bool
    ) -> None:
        c = t.rate_limit.c
        known = self.get([key]).get(key)
        if known is None or known < free_at or known >= nonsense_from:
            upsert(self._connection, t.rate_limit, {"key": key, "free_at": free_at})
        if may_forget:
            self._delete_until(now)
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
