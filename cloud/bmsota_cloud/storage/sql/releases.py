"""Releases, their manifests, and image files by digest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from bmsota_cloud.domain.releases import Release
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._scope import tasks_in
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bmsota_cloud.domain.accounts import Scope
    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlReleases"]

_RELEASE = select(*(column for column in t.release.c if column.name != "manifest"))


class SqlReleases(Tables):
    def add(self, release: Release, manifest: bytes, images: Mapping[str, bytes]) -> Release:
        new_id = self._add(t.release, release, manifest=manifest)
        known = set(
            self._connection.execute(select(t.image.c.sha256).where(t.image.c.sha256.in_(list(images)))).scalars()
        )
        for sha256, data in images.items():
            if sha256 not in known:
                self._connection.execute(insert(t.image).values(sha256=sha256, data=data))
        return replace(release, id=new_id)

    def get(self, release_id: int) -> Release | None:
        return self._one(Release, _RELEASE.where(t.release.c.id == release_id))

    def many(self, release_ids: Sequence[int]) -> Mapping[int, Release]:
        return {item.id: item for item in self._all(Release, _RELEASE.where(t.release.c.id.in_(release_ids)))}

    def find(self, *, series: str, software_version: str) -> Release | None:
        return self._one(
            Release,
            _RELEASE.where(t.release.c.series == series, t.release.c.software_version == software_version),
        )

    def of_series(self, series: Sequence[str]) -> tuple[Release, ...]:
        c = t.release.c
        return self._all(Release, _RELEASE.where(c.series.in_(series)).order_by(c.id.desc()))

    def used_by(self, release_ids: Sequence[int], scope: Scope) -> Mapping[int, tuple[int, ...]]:
        c = t.vehicle_upgrade.c
        joined = t.vehicle_upgrade.join(t.ota_task, t.ota_task.c.id == c.task_id)
        statement = (
            select(c.release_id, c.task_id)
            .select_from(joined)
            .where(c.release_id.in_(release_ids), *tasks_in(scope))
            .distinct()
            .order_by(c.task_id.desc())
        )
        found: dict[int, list[int]] = {release_id: [] for release_id in release_ids}
        for release_id, task_id in self._connection.execute(statement):
            found[release_id].append(task_id)
        return {release_id: tuple(tasks) for release_id, tasks in found.items()}

    def by_manifest(self, manifest_sha256: str) -> Release | None:
        return self._one(Release, _RELEASE.where(t.release.c.manifest_sha256 == manifest_sha256))

    def page(self, request: PageRequest, *, series: str = "") -> Page[Release]:
        statement = _RELEASE.order_by(t.release.c.id.desc())
        return self._page(Release, statement.where(t.release.c.series == series) if series else statement, request)

    def all_series(self) -> tuple[str, ...]:
        series = t.release.c.series
        return tuple(self._connection.execute(select(series).distinct().order_by(series)).scalars())

    def manifest(self, manifest_sha256: str) -> bytes | None:
        statement = select(t.release.c.manifest).where(t.release.c.manifest_sha256 == manifest_sha256)
        return self._connection.execute(statement).scalar()

    def image(self, sha256: str) -> bytes | None:
        return self._connection.execute(select(t.image.c.data).where(t.image.c.sha256 == sha256)).scalar()
