"""Engine and transactions.

Strategy for SQLite: a transaction begins with BEGIN IMMEDIATE, because our transactions check before they write, and
SQLite would otherwise refuse to upgrade the lock in the middle. The driver's own transaction handling is turned off.
An in-memory database is one connection shared by all threads behind a lock; a file has a connection a thread, WAL, and
the lock only lines up the writers of this process, so that none starves in SQLite's busy handler. It is waited for as long
as SQLite waits for another process, and no longer: behind a file that stays locked, a queue of callers would each wait in turn.

Whatever makes a database unusable for a while comes out as StorageUnavailableError (`_unavailable`); the next transaction
finds the database again by itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.storage.migrate import migrate
from bmsota_cloud.storage.sql._turns import TurnLock
from bmsota_cloud.storage.sql._unavailable import unavailable_from

if TYPE_CHECKING:
    from collections.abc import Iterator


MEMORY = "sqlite://"
"""The address of a database that lives as long as its store."""

# A writer holds the file for milliseconds; waiting longer than this means a stuck process, and saying so is better.
_BUSY_TIMEOUT_S = 10.0
# A server that does not take a connection in this time is away.
_CONNECT_TIMEOUT_S = 5
# "bmsota", as a number: the advisory lock under which one process at a time brings a PostgreSQL database up to date.
_MIGRATION_LOCK = 0x626D736F7461


class SqlDatabase:
    """An engine, migrated, and its transactions."""

    def __init__(self, url: str, *, history: str, synchronous: str, busy_timeout_s: float | None = None) -> None:
        """*synchronous* and *busy_timeout_s* are for SQLite.

        Raises:
            ConfigurationError: the database cannot be opened or brought up to date.
        """
        self._is_memory = url == MEMORY
        self._lock = TurnLock()
        self._busy_timeout_s = _BUSY_TIMEOUT_S if busy_timeout_s is None else busy_timeout_s
        self.problem = ""
        """Why nothing could be written the last time; empty again after the next change that was kept."""
        try:
            self._engine = _engine(url, synchronous, self._busy_timeout_s)
            with self._engine.connect() as connection, _foreign_keys_checked_at_the_end(connection):
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                migrate(connection, history)
        except (SQLAlchemyError, ImportError) as error:
            # The address with its password stays out of the message.
            scheme = url.partition(":")[0]
            raise ConfigurationError(f"cannot open the {history} database ({scheme}): {error}") from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction.

        Raises:
            StorageUnavailableError: the database cannot be used just now; nothing was written.
        """
        with self._refusals_said(is_writing=True):
            if self._engine.dialect.name != "sqlite":
                with self._begin() as connection:
                    yield connection
            else:
                with self._turn(), self._begin() as connection:
                    yield connection
        self.problem = ""

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view.

        Raises:
            StorageUnavailableError: the database cannot be used just now.
        """
        with self._refusals_said():
            if self._is_memory:
                with self._lock, self._begin(is_reading=True) as connection:
                    yield connection
            else:
                with self._begin(is_reading=True) as connection:
                    yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=-1 if self._is_memory else self._busy_timeout_s):
            raise StorageUnavailableError(
                "the database is busy with other changes; try again in a few seconds", code="storage-busy"
            )
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _refusals_said(self, *, is_writing: bool = False) -> Iterator[None]:
        try:
            yield
        except (StorageUnavailableError, SQLAlchemyError) as error:
            refusal = error if isinstance(error, StorageUnavailableError) else unavailable_from(error)
            if refusal is None:
                raise
            if is_writing:
                self.problem = str(refusal)
            if refusal is error:
                raise
            raise refusal from error

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


def _engine(url: str, synchronous: str, busy_timeout_s: float) -> Engine:
    if not url.startswith("sqlite"):
        return _server_engine(url)
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
        cursor.execute(f"PRAGMA busy_timeout = {round(busy_timeout_s * 1000)}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_reading = connection.get_execution_options().get("bmsota_reading", False)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")

    return engine


def _server_engine(url: str) -> Engine:
    """PostgreSQL: a connection is looked at before it is used, so that a restart of the server costs no request."""
    address = make_url(url)
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {}
    if address.drivername == "postgresql+psycopg":
        options["connect_args"] = {"connect_timeout": _CONNECT_TIMEOUT_S}
    return create_engine(address, pool_pre_ping=True, pool_timeout=_CONNECT_TIMEOUT_S, **options)
