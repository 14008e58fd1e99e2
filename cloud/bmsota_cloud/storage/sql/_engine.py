"""Engine and transactions.

Strategy for SQLite: a transaction begins with BEGIN IMMEDIATE, because our transactions check before they write, and
SQLite would otherwise refuse to upgrade the lock in the middle. The driver's own transaction handling is turned off.
An in-memory database is one connection shared by all threads behind a lock; a file has a connection a thread, WAL, and
the lock only lines up the writers of this process, so that none starves in SQLite's busy handler. Behind a file that another
process keeps locked, they do not wait one after the other: when the first has waited for a moment, newcomers are refused at once, and
when it gives up, so are those behind it. Then one at a time tries for a moment whether the file is free again.

Whatever makes a database unusable for a while comes out as StorageUnavailableError (`_unavailable`); the next transaction
finds the database again by itself.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.storage.migrate import migrate
from bmsota_cloud.storage.sql._turns import TurnLock
from bmsota_cloud.storage.sql._unavailable import unavailable_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import RootTransaction

    from bmsota_cloud.storage.sql._silence import ServerWatch


MEMORY = "sqlite://"
"""The address of a database that lives as long as its store."""

# A writer holds the file for milliseconds; waiting longer than this means a stuck process, and saying so is better.
_BUSY_TIMEOUT_S = 5.0
# After this, others are not let in behind the one who waits.
_MOMENT_S = 0.5
# A server that does not take a connection in this time is away.
_CONNECT_TIMEOUT_S = 5
# A server whose machine or network is gone says nothing: by themselves, systems wait for a quarter of an hour behind a question and
# for two hours behind an answer. An address that says otherwise is believed.
_SILENCE = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
_LOCKED = "the database is busy or locked by another process; try again in a few seconds"
_BUSY = "the database is busy with other changes; try again in a few seconds"
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
        self.is_stuck = False
        """Another process keeps the file of SQLite locked."""
        self.problem = ""
        """Why nothing could be written the last time; empty again after the next change that was kept."""
        try:
            self._engine, self._server = _engine(url, synchronous, self._busy_timeout_s)
            with self._engine.connect() as connection, _foreign_keys_checked_at_the_end(connection):
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SET LOCAL lock_timeout = 0"))
                    connection.execute(text("SET LOCAL statement_timeout = 0"))
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
        was_stuck = self.is_stuck
        timeout_s = 0.0 if was_stuck else self._busy_timeout_s
        if not self._lock.acquire(timeout=-1 if self._is_memory else timeout_s):
            raise StorageUnavailableError(_LOCKED if was_stuck else _BUSY, code="storage-busy")
        try:
            if self.is_stuck and not was_stuck:
                # The one before has waited long enough for all.
                raise StorageUnavailableError(_LOCKED, code="storage-busy")
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
        with nullcontext() if self._server is None else self._server.admitted(), self._engine.connect() as connection:
            connection.execution_options(bmsota_reading=is_reading)
            is_plain = is_reading or self._is_memory or self._engine.dialect.name != "sqlite"
            with connection.begin() if is_plain else self._begun(connection):
                yield connection

    def _begun(self, connection: Connection) -> RootTransaction:
        """On SQLite: wait for another process's transaction to end, first for a moment, then, if nobody else has, for longer."""
        moment_s = min(_MOMENT_S, self._busy_timeout_s)
        waits_s = [moment_s] if self.is_stuck else [moment_s, self._busy_timeout_s - moment_s]
        for wait_s in waits_s:
            _set_busy_timeout(connection, wait_s)
            try:
                transaction = connection.begin()
            except OperationalError as error:
                refusal = unavailable_from(error)
                if refusal is None or refusal.code != "storage-busy":
                    raise
                self.is_stuck = True
                last = error
            else:
                _set_busy_timeout(connection, self._busy_timeout_s)
                self.is_stuck = False
                return transaction
        raise last

    def close(self) -> None:
        self._engine.dispose()


def _set_busy_timeout(connection: Connection, seconds: float) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
    cursor.close()


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


def _engine(url: str, synchronous: str, busy_timeout_s: float) -> tuple[Engine, ServerWatch | None]:
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

    return engine, None


def _server_engine(url: str) -> tuple[Engine, ServerWatch | None]:
    """PostgreSQL: a connection is looked at before it is used, so that a restart of the server costs no request."""
    address = make_url(url)
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    if address.drivername != "postgresql+psycopg":
        return create_engine(address, pool_pre_ping=True, pool_timeout=_CONNECT_TIMEOUT_S), None
    # Here, because only the extra brings the driver.
    from bmsota_cloud.storage.sql._silence import STATEMENT_TIMEOUT_S, ServerWatch  # noqa: PLC0415

    # What locks a row for longer than this is stuck, as on SQLite. An address that says otherwise is believed.
    limits = f"-c lock_timeout={round(_BUSY_TIMEOUT_S * 1000)} -c statement_timeout={STATEMENT_TIMEOUT_S * 1000}"
    given = address.query.get("options", "")
    options = " ".join([limits, *((given,) if isinstance(given, str) else given)])
    silence = {name: value for name, value in _SILENCE.items() if name not in address.query}
    more = {"connect_timeout": _CONNECT_TIMEOUT_S, "options": options, **silence}
    engine = create_engine(address, pool_pre_ping=True, pool_timeout=_CONNECT_TIMEOUT_S, connect_args=more)
    server = ServerWatch()

    @event.listens_for(engine, "do_connect")
    def connect(dialect: object, record: object, arguments: tuple[Any, ...], parameters: dict[str, Any]) -> Any:
        del dialect, record
        return server.connect(arguments, parameters)

    return engine, server
