"""The store of everything but telemetry: its transactions, and the groups of tables in them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._engine import MEMORY, SqlDatabase
from bmsota_cloud.storage.sql._tables import insert_new, upsert
from bmsota_cloud.storage.sql.accounts import SqlAccounts
from bmsota_cloud.storage.sql.audit import SqlAudit
from bmsota_cloud.storage.sql.customers import SqlCustomers
from bmsota_cloud.storage.sql.device import SqlDevice
from bmsota_cloud.storage.sql.equipment import SqlEquipment
from bmsota_cloud.storage.sql.exports import SqlExports
from bmsota_cloud.storage.sql.figures import SqlFigures
from bmsota_cloud.storage.sql.histories import SqlHistories
from bmsota_cloud.storage.sql.limits import SqlLimits
from bmsota_cloud.storage.sql.ota_tasks import SqlOtaTasks
from bmsota_cloud.storage.sql.outbox import SqlOutbox
from bmsota_cloud.storage.sql.presence import SqlPresence
from bmsota_cloud.storage.sql.projects import SqlProjects
from bmsota_cloud.storage.sql.refusals import SqlRefusals
from bmsota_cloud.storage.sql.releases import SqlReleases
from bmsota_cloud.storage.sql.times import SqlTimes
from bmsota_cloud.storage.sql.vehicles import SqlVehicles

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SqlStore", "SqlWork"]


class SqlWork:
    """One transaction: the groups of tables on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.accounts = SqlAccounts(connection)
        self.customers = SqlCustomers(connection)
        self.vehicles = SqlVehicles(connection)
        self.presence = SqlPresence(connection)
        self.equipment = SqlEquipment(connection)
        self.exports = SqlExports(connection)
        self.releases = SqlReleases(connection)
        self.projects = SqlProjects(connection)
        self.ota_tasks = SqlOtaTasks(connection)
        self.histories = SqlHistories(connection)
        self.device = SqlDevice(connection)
        self.limits = SqlLimits(connection)
        self.outbox = SqlOutbox(connection)
        self.audit = SqlAudit(connection)
        self.figures = SqlFigures(connection)
        self.refusals = SqlRefusals(connection)
        self.times = SqlTimes(connection)

    def secret(self, name: str) -> bytes | None:
        return self._connection.execute(select(t.secret.c.value).where(t.secret.c.name == name)).scalar()

    def save_secret(self, name: str, value: bytes) -> None:
        upsert(self._connection, t.secret, {"name": name, "value": value})

    def first_secret(self, name: str, value: bytes) -> bytes:
        insert_new(self._connection, t.secret, {"name": name, "value": value})
        found = self.secret(name)
        assert found is not None  # just inserted, or there before
        return found


class SqlStore:
    """`bmsota_cloud.storage.base.Store`. Tasks and accounts must survive a power cut: every commit is synced."""

    def __init__(self, url: str = MEMORY) -> None:
        self._database = SqlDatabase(url, history="platform", synchronous="FULL")

    @property
    def problem(self) -> str:
        return self._database.problem

    @contextmanager
    def transaction(self) -> Iterator[SqlWork]:
        with self._database.writing() as connection:
            yield SqlWork(connection)

    @contextmanager
    def reading(self) -> Iterator[SqlWork]:
        with self._database.reading() as connection:
            yield SqlWork(connection)

    def close(self) -> None:
        self._database.close()
