"""Engine and transactions.

Strategy for SQLite: a transaction begins with BEGIN IMMEDIATE, because our transactions check before they write, and
SQLite would otherwise refuse to upgrade the lock in the middle. The driver's own transaction handling is turned off.
An in-memory database is one connection shared by all threads behind a lock; a file has a connection a thread, WAL, and
the lock only lines up the writers of this process, so that none starves in SQLite's busy handler.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from bmsota.errors import ConfigurationError
from bmsota_cloud.storage.migrate import migrate
from bmsota_cloud.storage.sql._turns import TurnLock

if TYPE_CHECKING:
    from collections.abc import Iterator


MEMORY = "sqlite://"
"""The address of a database that lives as long as its store."""

# A writer holds the file for milliseconds; waiting longer than this means a stuck process, and saying so is better.
_BUSY_TIMEOUT_MS = 10_000


class SqlDatabase:
    """An engine, migrated, and its transactions."""

    def __init__(self, url: str, *, history: str, synchronous: str) -> None:
        self._is_memory = url == MEMORY
        self._lock = TurnLock()
        try:
            self._engine = _engine(url, synchronous)
            with self._engine.connect() as connection, _foreign_keys_checked_at_the_end(connection):
                migrate(connection, history)
        except (SQLAlchemyError, ImportError) as error:
            # The address with its password stays out of the message.
            scheme = url.partition(":")[0]
            raise ConfigurationError(f"cannot open the {history} database ({scheme}): {error}") from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        if self._engine.dialect.name == "sqlite":
            with self._lock, self._begin() as connection:
                yield connection
        else:
            with self._begin() as connection:
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        if self._is_memory:
            with self._lock, self._begin(is_reading=True) as connection:
                yield connection
        else:
            with self._begin(is_reading=True) as connection:
                yield connection

    @contextmanager
    def _begin(self, *, is_reading: bool = False) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            connection.execution_options(bmsota_reading=is_reading)
            with connection.begin():
                yield connection

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def _foreign_keys_checked_at_the_end(connection: Connection) -> Iterator[None]:
    """A transaction for migrations.

    SQLite changes a table by copying it, and does not drop a table that others refer to while it enforces foreign keys; and
    enforcing them can be turned off only outside a transaction.
    """
    if connection.dialect.name != "sqlite":
        with connection.begin():
            yield
        return
    driver = connection.connection.cursor()
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        with connection.begin():
            yield
            if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise ConfigurationError(
                    "the database has rows that refer to rows which are not there; nothing was changed"
                )
    finally:
        driver.execute("PRAGMA foreign_keys = ON")
        driver.close()


def _engine(url: str, synchronous: str) -> Engine:
    if not url.startswith("sqlite"):
        # Of the drivers that SQLAlchemy knows for PostgreSQL, the extra brings this one. A connection that broke is replaced.
        place = make_url(url)
        if place.drivername in {"postgresql", "postgres"}:
            place = place.set(drivername="postgresql+psycopg")
        return create_engine(place, pool_pre_ping=True)
    if url == MEMORY:
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def set_up(driver_connection: Any, record: object) -> None:
        del record
        # From now on BEGIN comes from `begin` below, and from nowhere else.
        driver_connection.isolation_level = None
        cursor = driver_connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_reading = connection.get_execution_options().get("bmsota_reading", False)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")

    return engine
