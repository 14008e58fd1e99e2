"""Platforms for tests begin with a database that costs little: a copy of a migrated one, on an engine that has compiled its queries.

A thousand tests make a platform in memory. Two fifths of what such a test cost were the migrations of its two databases, another fifth
was SQLAlchemy, which compiles every statement once for each engine.

* A new SQLite database gets the statements that the real migrations have left in another one, once in a process. A database that has
  any version goes through the migrations, and so does every one of PostgreSQL. `tests/cloud/storage/test_migrations.py` runs the
  migrations themselves and compares.
* The engine of a database in memory is lent again when its store is closed; its connection, and with it the data, ends there.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import pytest
from bmsota_cloud.storage.migrate import migrate
from bmsota_cloud.storage.sql import _engine
from bmsota_cloud.storage.sql._engine import MEMORY, SqlDatabase
from sqlalchemy import Connection, Engine, create_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota_cloud.storage.sql._silence import ServerWatch

__all__ = ["cheap_databases", "dump", "migrate_by_copy"]


def dump(connection: Connection) -> list[str]:
    """The statements that make the SQLite database of *connection* again, with what is in it."""
    lines = connection.connection.driver_connection.iterdump()
    return [line for line in lines if line not in {"BEGIN TRANSACTION;", "COMMIT;"}]


@cache
def _statements(history: str) -> list[str]:
    with create_engine(MEMORY).connect() as connection, connection.begin():
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


@contextmanager
def cheap_databases() -> Iterator[None]:
    """From here on, `SqlDatabase` is made so."""
    make, close = _engine._engine, SqlDatabase.close
    free: dict[tuple[str, float], list[Engine]] = defaultdict(list)
    lent: dict[Engine, tuple[str, float]] = {}
    # Who uses a store behind its end finds an empty database, and not that of another test.
    ended, _ = make(MEMORY, "OFF", 0.0)

    def lend(url: str, synchronous: str, busy_timeout_s: float) -> tuple[Engine, ServerWatch | None]:
        if url != MEMORY:
            return make(url, synchronous, busy_timeout_s)
        kept = free[synchronous, busy_timeout_s]
        engine = kept.pop() if kept else make(url, synchronous, busy_timeout_s)[0]
        lent[engine] = (synchronous, busy_timeout_s)
        return engine, None

    def close_and_keep(database: SqlDatabase) -> None:
        close(database)
        if (kind := lent.pop(database._engine, None)) is not None:
            free[kind].append(database._engine)
            database._engine = ended

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_engine, "migrate", migrate_by_copy)
        patch.setattr(_engine, "_engine", lend)
        patch.setattr(SqlDatabase, "close", close_and_keep)
        yield
