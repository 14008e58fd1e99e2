"""The settings of projects."""

from __future__ import annotations

from sqlalchemy import select

from bmsota_cloud.domain.projects import Project
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

__all__ = ["SqlProjects"]


class SqlProjects(Tables):
    def get(self, name: str, *, lock: bool = False) -> Project | None:
        return self._one(Project, select(t.project).where(t.project.c.name == name), lock=lock)

    def with_number(self, number: str) -> Project | None:
        return self._one(Project, select(t.project).where(t.project.c.number == number))

    def all(self) -> tuple[Project, ...]:
        return self._all(Project, select(t.project).order_by(t.project.c.name))

    def save(self, project: Project) -> None:
        self._upsert(t.project, project)
