"""New databases of SQLite get the newest schema from a copy of what the migrations leave, and not by all of them every time.

A platform in memory is made for a thousand tests, and its sixteen migrations were two fifths of what such a test cost. The copy is
taken once in a process, of a database that the real migrations have made; a database that has any version goes through them,
and so does every one of PostgreSQL. `tests/cloud/storage/test_migrations.py` runs the migrations themselves and compares.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bmsota_cloud.storage.migrate import migrate
from sqlalchemy import Connection, create_engine

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["dump", "migrate_by_copy"]


def dump(connection: Connection) -> list[str]:
    """The statements that make the SQLite database of *connection* again, with what is in it."""
    lines: Iterable[str] = connection.connection.driver_connection.iterdump()  # type: ignore[union-attr]
    return [line for line in lines if line not in {"BEGIN TRANSACTION;", "COMMIT;"}]


@cache
def _statements(history: str) -> list[str]:
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection, history)
        return dump(connection)


def migrate_by_copy(connection: Connection, history: str) -> None:
    """As `migrate` to the newest version, and the same in its effect."""
    table = f"alembic_version_{history}"
    found = "SELECT 1 FROM sqlite_master WHERE name = ?"
    if connection.dialect.name != "sqlite" or connection.exec_driver_sql(found, (table,)).first():
        migrate(connection, history)
        return
    for statement in _statements(history):
        connection.exec_driver_sql(statement)
