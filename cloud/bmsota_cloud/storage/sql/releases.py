"""Releases, their manifests, and image files by digest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from bmsota_cloud.domain.releases import Release
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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

    def by_manifest(self, manifest_sha256: str) -> Release | None:
        return self._one(Release, _RELEASE.where(t.release.c.manifest_sha256 == manifest_sha256))

    def page(self, request: PageRequest) -> Page[Release]:
        return self._page(Release, _RELEASE.order_by(t.release.c.id.desc()), request)

    def manifest(self, manifest_sha256: str) -> bytes | None:
        statement = select(t.release.c.manifest).where(t.release.c.manifest_sha256 == manifest_sha256)
        return self._connection.execute(statement).scalar()

    def image(self, sha256: str) -> bytes | None:
        return self._connection.execute(select(t.image.c.data).where(t.image.c.sha256 == sha256)).scalar()
