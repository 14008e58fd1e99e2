"""Exports, and the vehicles in each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, or_, select, update

from bmsota_cloud.domain.exports import UNFINISHED, ExportJob, ExportStatus
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlExports"]

_EXPIRED_MAX = 100


class SqlExports(Tables):
    def add(self, job: ExportJob, vins: Sequence[str]) -> ExportJob:
        added = replace(job, id=self._add(t.export_job, job))
        self._connection.execute(insert(t.export_list).values(export_id=added.id, vins=tuple(vins)))
        return added

    def get(self, export_id: int, *, lock: bool = False) -> ExportJob | None:
        return self._one(ExportJob, select(t.export_job).where(t.export_job.c.id == export_id), lock=lock)

    def vins(self, export_id: int) -> tuple[str, ...]:
        statement = select(t.export_list.c.vins).where(t.export_list.c.export_id == export_id)
        return tuple(self._connection.execute(statement).scalar() or ())

    def save(self, job: ExportJob) -> None:
        self._save(t.export_job, job)

    def page(self, request: PageRequest, *, owner: str = "") -> Page[ExportJob]:
        c = t.export_job.c
        statement = select(t.export_job).order_by(c.id.desc())
        return self._page(ExportJob, statement.where(c.owner == owner) if owner else statement, request)

    def unfinished(self, owner: str) -> int:
        return self._count(owner, UNFINISHED)

    def files(self, owner: str) -> int:
        return self._count(owner, (ExportStatus.DONE,))

    def _count(self, owner: str, statuses: Sequence[ExportStatus]) -> int:
        c = t.export_job.c
        statement = select(func.count()).select_from(t.export_job).where(c.owner == owner, c.status.in_(statuses))
        return self._connection.execute(statement).scalar_one()

    def take(self, now: datetime, *, by: str, until: datetime, claim_s: int) -> ExportJob | None:
        c = t.export_job.c
        is_over = or_(c.claimed_until <= now, c.claimed_until > now + timedelta(seconds=claim_s), c.claimed_by == by)
        statement = (
            select(t.export_job)
            .where(or_(c.status == ExportStatus.WAITING, (c.status == ExportStatus.RUNNING) & is_over))
            .order_by(c.id)
            .limit(1)
            # On SQLite a transaction of ours has the whole file.
            .with_for_update(skip_locked=True)
        )
        job = self._one(ExportJob, statement)
        if job is None:
            return None
        taken = replace(
            job,
            status=ExportStatus.RUNNING,
            attempts=job.attempts + 1,
            vehicles_done=0,
            reports=0,
            unreadable=0,
            size_bytes=0,
            claimed_by=by,
            claimed_until=until,
        )
        self._connection.execute(
            update(t.export_job)
            .where(c.id == job.id)
            .values(
                status=taken.status,
                attempts=taken.attempts,
                vehicles_done=0,
                reports=0,
                unreadable=0,
                size_bytes=0,
                claimed_by=by,
                claimed_until=until,
            )
        )
        return taken

    def done_before(self, ended: datetime) -> tuple[ExportJob, ...]:
        c = t.export_job.c
        statement = select(t.export_job).where(c.status == ExportStatus.DONE, c.ended_at < ended).order_by(c.id)
        return self._all(ExportJob, statement.limit(_EXPIRED_MAX))

    def forget(self, ended_before: datetime) -> int:
        c = t.export_job.c
        without_file = (ExportStatus.FAILED, ExportStatus.CANCELLED, ExportStatus.DELETED)
        old = select(c.id).where(c.status.in_(without_file), c.ended_at < ended_before)
        self._connection.execute(delete(t.export_list).where(t.export_list.c.export_id.in_(old)))
        gone = delete(t.export_job).where(c.status.in_(without_file), c.ended_at < ended_before)
        return self._connection.execute(gone).rowcount

    def with_file(self) -> frozenset[int]:
        c = t.export_job.c
        statement = select(c.id).where(c.status.in_((*UNFINISHED, ExportStatus.DONE)))
        return frozenset(self._connection.execute(statement).scalars())
