"""The one implementation of the stores: SQLAlchemy Core on SQLite (default) or PostgreSQL.

Rows and dataclasses have the same names, so reading is `Kind(**row)` and writing is one dictionary; what a column does
to its value (UTC, enumeration by name) stands in `schema`.

Strategy for SQLite: a transaction begins with BEGIN IMMEDIATE, because our transactions check before they write, and
SQLite would otherwise refuse to upgrade the lock in the middle. The driver's own transaction handling is turned off.
An in-memory database is one connection shared by all threads behind a lock; a file has a connection a thread, WAL, and
the lock only lines up the writers of this process, so that none starves in SQLite's busy handler.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    case,
    create_engine,
    delete,
    event,
    func,
    insert,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.accounts import Account, LoginSession
from bmsota_cloud.domain.audit import AuditEntry
from bmsota_cloud.domain.device import Challenge, DeviceSession
from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.mail import Mail
from bmsota_cloud.domain.ota_tasks import (
    OPEN_STATUSES,
    ApprovalCode,
    OtaTask,
    Transition,
    VehicleStatus,
    VehicleUpgrade,
)
from bmsota_cloud.domain.paging import Page, PageRequest
from bmsota_cloud.domain.releases import Release
from bmsota_cloud.domain.telemetry import ReportRow, VehicleState
from bmsota_cloud.domain.upgrade_history import FieldUpgrade, HistoryEntry, UpgradeSource
from bmsota_cloud.domain.vehicles import EquipmentChange, Node, Vehicle
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

__all__ = ["MEMORY", "SqlStore", "SqlTelemetryStore", "SqlWork"]

MEMORY = "sqlite://"
"""The address of a database that lives as long as its store."""

# A writer holds the file for milliseconds; waiting longer than this means a stuck process, and saying so is better.
_BUSY_TIMEOUT_MS = 10_000

# SQLite allows some ten thousand variables in a statement; VIN lists come from pages (500) and are cut all the same.
_IN_LIST_MAX = 500

Kind = TypeVar("Kind")

_OPEN = sorted(OPEN_STATUSES)
_UNDER_WAY = sorted(OPEN_STATUSES - {VehicleStatus.UNAPPROVED})


def _values(item: Any, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in fields(item) if field.name not in without}


_ID = frozenset({"id"})


class _Tables:
    """What the groups of tables share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _add(self, table: Table, item: Any, **more: Any) -> int:
        """Insert; the new id for tables that count, else 0."""
        counts = "id" in table.c
        values = _values(item, without=_ID if counts else frozenset()) | more
        values = {name: value for name, value in values.items() if name in table.c}
        try:
            # A savepoint, so that a refused row does not spoil the transaction on PostgreSQL.
            with self._connection.begin_nested():
                result = self._connection.execute(insert(table).values(**values))
        except IntegrityError as error:
            raise ConflictError(
                "already-there", f"expected a new {table.name}, got one that is already there"
            ) from error
        return int(result.inserted_primary_key[0]) if counts and result.inserted_primary_key else 0

    def _save(self, table: Table, item: Any) -> None:
        """Update by the primary key."""
        values = _values(item)
        keys = [column.name for column in table.primary_key.columns]
        changed = {name: value for name, value in values.items() if name in table.c and name not in keys}
        statement = update(table).where(*(table.c[key] == values[key] for key in keys)).values(**changed)
        if self._connection.execute(statement).rowcount != 1:
            raise ConflictError("not-there", f"expected a {table.name} to change, got none with its key")

    def _upsert(self, table: Table, item: Any) -> None:
        values = {name: value for name, value in _values(item).items() if name in table.c}
        _upsert(self._connection, table, values)

    def _one(self, kind: type[Kind], statement: Select[Any], *, lock: bool = False) -> Kind | None:
        # SQLite has no FOR UPDATE and needs none: a transaction of ours has the whole file.
        row = self._connection.execute(statement.with_for_update() if lock else statement).mappings().first()
        return None if row is None else kind(**row)

    def _all(self, kind: type[Kind], statement: Select[Any]) -> tuple[Kind, ...]:
        return tuple(kind(**row) for row in self._connection.execute(statement).mappings())

    def _page(self, kind: type[Kind], statement: Select[Any], request: PageRequest) -> Page[Kind]:
        return _page(self._connection, kind, statement, request)


def _page(connection: Connection, kind: type[Kind], statement: Select[Any], request: PageRequest) -> Page[Kind]:
    total = connection.execute(select(func.count()).select_from(statement.order_by(None).subquery())).scalar_one()
    rows = connection.execute(statement.limit(request.size).offset(request.offset)).mappings()
    return Page(items=tuple(kind(**row) for row in rows), total=total, number=request.number, size=request.size)


def _upsert(connection: Connection, table: Table, values: dict[str, Any]) -> None:
    keys = [column.name for column in table.primary_key.columns]
    changed = {name: value for name, value in values.items() if name not in keys}
    if connection.dialect.name == "postgresql":
        on_postgresql = postgresql.insert(table).values(**values)
        connection.execute(on_postgresql.on_conflict_do_update(index_elements=keys, set_=changed))
    else:
        on_sqlite = sqlite.insert(table).values(**values)
        connection.execute(on_sqlite.on_conflict_do_update(index_elements=keys, set_=changed))


class SqlAccounts(_Tables):
    def add(self, account: Account) -> None:
        self._add(t.account, account)

    def get(self, name: str) -> Account | None:
        return self._one(Account, select(t.account).where(t.account.c.name == name))

    def save(self, account: Account) -> None:
        self._save(t.account, account)

    def page(self, request: PageRequest) -> Page[Account]:
        return self._page(Account, select(t.account).order_by(t.account.c.name), request)

    def add_session(self, session: LoginSession) -> None:
        self._add(t.login_session, session)

    def session(self, token_sha256: bytes) -> LoginSession | None:
        return self._one(LoginSession, select(t.login_session).where(t.login_session.c.token_sha256 == token_sha256))

    def save_session(self, session: LoginSession) -> None:
        self._save(t.login_session, session)

    def delete_session(self, token_sha256: bytes) -> None:
        self._connection.execute(delete(t.login_session).where(t.login_session.c.token_sha256 == token_sha256))

    def delete_sessions_of(self, account_name: str) -> None:
        self._connection.execute(delete(t.login_session).where(t.login_session.c.account_name == account_name))

    def delete_sessions_before(self, expired: datetime) -> None:
        self._connection.execute(delete(t.login_session).where(t.login_session.c.expires_at <= expired))


class SqlVehicles(_Tables):
    def add(self, vehicle: Vehicle) -> None:
        self._add(t.vehicle, vehicle)

    def get(self, vin: str, *, lock: bool = False) -> Vehicle | None:
        return self._one(Vehicle, select(t.vehicle).where(t.vehicle.c.vin == vin), lock=lock)

    def by_hwid(self, hwid: str) -> Vehicle | None:
        return self._one(Vehicle, select(t.vehicle).where(t.vehicle.c.hwid == hwid))

    def save(self, vehicle: Vehicle) -> None:
        self._save(t.vehicle, vehicle)

    def page(self, request: PageRequest, *, project: str = "", text: str = "") -> Page[Vehicle]:
        statement = select(t.vehicle).order_by(t.vehicle.c.vin)
        if project:
            statement = statement.where(t.vehicle.c.project == project)
        if text:
            statement = statement.where(
                or_(
                    *(
                        column.icontains(text, autoescape=True)
                        for column in (t.vehicle.c.vin, t.vehicle.c.hwid, t.vehicle.c.series)
                    )
                )
            )
        return self._page(Vehicle, statement, request)

    def projects(self) -> tuple[str, ...]:
        statement = select(t.vehicle.c.project).distinct().order_by(t.vehicle.c.project)
        return tuple(self._connection.execute(statement).scalars())

    def nodes(self, vins: Sequence[str]) -> Mapping[str, tuple[Node, ...]]:
        found: dict[str, list[Node]] = {vin: [] for vin in vins}
        for start in range(0, len(vins), _IN_LIST_MAX):
            statement = select(t.node).where(t.node.c.vin.in_(vins[start : start + _IN_LIST_MAX]))
            for item in self._all(Node, statement.order_by(t.node.c.vin, t.node.c.position)):
                found[item.vin].append(item)
        return {vin: tuple(items) for vin, items in found.items()}

    def save_node(self, node: Node) -> None:
        self._upsert(t.node, node)

    def add_change(self, change: EquipmentChange) -> None:
        self._add(t.equipment_change, change)

    def changes(self, request: PageRequest, *, vin: str = "") -> Page[EquipmentChange]:
        statement = select(t.equipment_change).order_by(t.equipment_change.c.id.desc())
        if vin:
            statement = statement.where(t.equipment_change.c.vin == vin)
        return self._page(EquipmentChange, statement, request)


_RELEASE = select(*(column for column in t.release.c if column.name != "manifest"))


class SqlReleases(_Tables):
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


class SqlTasks(_Tables):
    def add(self, task: OtaTask) -> OtaTask:
        return replace(task, id=self._add(t.ota_task, task))

    def get(self, task_id: int, *, lock: bool = False) -> OtaTask | None:
        return self._one(OtaTask, select(t.ota_task).where(t.ota_task.c.id == task_id), lock=lock)

    def save(self, task: OtaTask) -> None:
        self._save(t.ota_task, task)

    def page(self, request: PageRequest, *, project: str = "") -> Page[OtaTask]:
        statement = select(t.ota_task).order_by(t.ota_task.c.id.desc())
        if project:
            statement = statement.where(t.ota_task.c.project == project)
        return self._page(OtaTask, statement, request)

    def counts(self, task_ids: Sequence[int]) -> Mapping[int, Mapping[str, int]]:
        c = t.vehicle_upgrade.c
        statement = (
            select(c.task_id, c.status, func.count()).where(c.task_id.in_(task_ids)).group_by(c.task_id, c.status)
        )
        found: dict[int, dict[VehicleStatus, int]] = {task_id: {} for task_id in task_ids}
        for task_id, status, count in self._connection.execute(statement):
            found[task_id][status] = count
        # In the order of the table of statuses, so that a list always reads the same.
        return {
            task_id: {str(status): counts[status] for status in VehicleStatus if status in counts}
            for task_id, counts in found.items()
        }

    def add_upgrade(self, upgrade: VehicleUpgrade) -> None:
        self._add(t.vehicle_upgrade, upgrade)

    def delete_upgrades(self, task_id: int) -> None:
        self._connection.execute(delete(t.transition).where(t.transition.c.task_id == task_id))
        self._connection.execute(delete(t.vehicle_upgrade).where(t.vehicle_upgrade.c.task_id == task_id))

    def upgrade(self, task_id: int, place: int, *, lock: bool = False) -> VehicleUpgrade | None:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.task_id == task_id, c.place == place)
        return self._one(VehicleUpgrade, statement, lock=lock)

    def upgrades(self, task_id: int) -> tuple[VehicleUpgrade, ...]:
        c = t.vehicle_upgrade.c
        return self._all(VehicleUpgrade, select(t.vehicle_upgrade).where(c.task_id == task_id).order_by(c.place))

    def upgrades_page(self, task_id: int, request: PageRequest) -> Page[VehicleUpgrade]:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.task_id == task_id).order_by(c.place)
        return self._page(VehicleUpgrade, statement, request)

    def open_upgrade(self, vin: str) -> VehicleUpgrade | None:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.vin == vin, c.status.in_(_OPEN))
        return self._one(VehicleUpgrade, statement.order_by(c.task_id.desc()))

    def silent_upgrades(self, now: datetime, limit: int) -> tuple[VehicleUpgrade, ...]:
        c = t.vehicle_upgrade.c
        found: list[VehicleUpgrade] = []
        # Limits are few and differ by task; a comparison for each keeps date arithmetic out of the SQL dialects.
        limits = self._connection.execute(
            select(t.ota_task.c.time_limit_s)
            .join(t.vehicle_upgrade, c.task_id == t.ota_task.c.id)
            .where(c.status.in_(_UNDER_WAY))
            .distinct()
            .order_by(t.ota_task.c.time_limit_s)
        ).scalars()
        for time_limit_s in list(limits):
            statement = (
                select(t.vehicle_upgrade)
                .join(t.ota_task, c.task_id == t.ota_task.c.id)
                .where(
                    t.ota_task.c.time_limit_s == time_limit_s,
                    c.status.in_(_UNDER_WAY),
                    c.heard_at < now - timedelta(seconds=time_limit_s),
                )
                .order_by(c.task_id, c.place)
                .limit(limit - len(found))
            )
            found.extend(self._all(VehicleUpgrade, statement))
            if len(found) >= limit:
                break
        return tuple(found)

    def save_upgrade(self, upgrade: VehicleUpgrade) -> None:
        self._save(t.vehicle_upgrade, upgrade)

    def add_transition(self, transition: Transition) -> None:
        self._connection.execute(insert(t.transition).values(**_values(transition)))

    def transitions(self, task_id: int, vins: Sequence[str]) -> Mapping[str, tuple[Transition, ...]]:
        c = t.transition.c
        columns = [column for column in c if column.name != "id"]
        found: dict[str, list[Transition]] = {vin: [] for vin in vins}
        for start in range(0, len(vins), _IN_LIST_MAX):
            statement = select(*columns).where(c.task_id == task_id, c.vin.in_(vins[start : start + _IN_LIST_MAX]))
            for item in self._all(Transition, statement.order_by(c.id)):
                found[item.vin].append(item)
        return {vin: tuple(items) for vin, items in found.items()}

    def code(self, task_id: int) -> ApprovalCode | None:
        return self._one(ApprovalCode, select(t.approval_code).where(t.approval_code.c.task_id == task_id))

    def save_code(self, code: ApprovalCode) -> None:
        self._upsert(t.approval_code, code)


@dataclass(frozen=True, slots=True)
class _HistoryKey:
    """One line of a history, before its rows are read."""

    source: str
    key: int
    at: datetime


class SqlUpgradeHistory(_Tables):
    def add(self, upgrade: FieldUpgrade) -> bool:
        try:
            self._add(t.field_upgrade, upgrade)
        except ConflictError:
            return False
        return True

    def page(self, vin: str, request: PageRequest) -> Page[HistoryEntry]:
        # Two kinds of rows in one order: first only which they are, then the rows of this page.
        page = self._page(_HistoryKey, _history_keys(vin), request)
        tasks = self._from_tasks(vin, [item for item in page.items if item.source == UpgradeSource.OTA])
        field = self._from_field([item for item in page.items if item.source == UpgradeSource.CAN])
        items = tuple((tasks if item.source == UpgradeSource.OTA else field)[item.key] for item in page.items)
        return Page(items=items, total=page.total, number=page.number, size=page.size)

    def _from_tasks(self, vin: str, keys: list[_HistoryKey]) -> dict[int, HistoryEntry]:
        c = t.vehicle_upgrade.c
        at = {item.key: item.at for item in keys}
        upgrades = self._all(VehicleUpgrade, select(t.vehicle_upgrade).where(c.vin == vin, c.task_id.in_(list(at))))
        versions = {
            row.id: row.software_version
            for row in self._connection.execute(
                select(t.ota_task.c.id, t.ota_task.c.software_version).where(t.ota_task.c.id.in_(list(at)))
            )
        }
        return {
            upgrade.task_id: HistoryEntry.of_task(
                upgrade, software_version=versions[upgrade.task_id], at=at[upgrade.task_id]
            )
            for upgrade in upgrades
        }

    def _from_field(self, keys: list[_HistoryKey]) -> dict[int, HistoryEntry]:
        statement = select(t.field_upgrade).where(t.field_upgrade.c.id.in_([item.key for item in keys]))
        return {upgrade.id: HistoryEntry.of_field(upgrade) for upgrade in self._all(FieldUpgrade, statement)}


def _history_keys(vin: str) -> Select[Any]:
    u, s, f = t.vehicle_upgrade.c, t.transition.c, t.field_upgrade.c
    by_task = (
        select(
            literal(UpgradeSource.OTA.value).label("source"),
            u.task_id.label("key"),
            # Every step of a vehicle leaves a transition, so the newest is when it came into its status.
            func.max(s.at).label("at"),
        )
        .join(t.transition, (s.task_id == u.task_id) & (s.vin == u.vin))
        .where(u.vin == vin)
        .group_by(u.task_id)
    )
    # As `FieldUpgrade.at`.
    at = case((f.upgraded_at > f.told_at, f.told_at), else_=f.upgraded_at)
    by_field = select(literal(UpgradeSource.CAN.value), f.id, at).where(f.vin == vin)
    both = union_all(by_task, by_field).subquery()
    return select(both).order_by(both.c.at.desc(), both.c.source, both.c.key.desc())


class SqlDevices(_Tables):
    def add_challenge(self, challenge: Challenge, *, keep: int) -> None:
        c = t.device_challenge.c
        self._connection.execute(insert(t.device_challenge).values(**_values(challenge)))
        newest = select(c.id).where(c.hwid == challenge.hwid).order_by(c.id.desc()).limit(keep)
        self._connection.execute(
            delete(t.device_challenge).where(c.hwid == challenge.hwid, c.id.not_in(newest.scalar_subquery()))
        )

    def take_challenge(self, hwid: str, challenge: bytes) -> Challenge | None:
        c = t.device_challenge.c
        columns = [column for column in c if column.name != "id"]
        found = self._one(Challenge, select(*columns).where(c.hwid == hwid, c.challenge == challenge), lock=True)
        if found is not None:
            self._connection.execute(delete(t.device_challenge).where(c.hwid == hwid, c.challenge == challenge))
        return found

    def add_session(self, session: DeviceSession) -> None:
        self._add(t.device_session, session)

    def session(self, token_sha256: bytes) -> DeviceSession | None:
        return self._one(DeviceSession, select(t.device_session).where(t.device_session.c.token_sha256 == token_sha256))

    def delete_before(self, expired: datetime) -> None:
        for table in (t.device_challenge, t.device_session):
            self._connection.execute(delete(table).where(table.c.expires_at <= expired))


class SqlMails(_Tables):
    def add(self, mail: Mail) -> Mail:
        return replace(mail, id=self._add(t.mail, mail))

    def save(self, mail: Mail) -> None:
        self._save(t.mail, mail)

    def due(self, now: datetime, limit: int) -> tuple[Mail, ...]:
        c = t.mail.c
        statement = select(t.mail).where(c.sent_at.is_(None), c.given_up.is_(False), c.next_try_at <= now)
        return self._all(Mail, statement.order_by(c.next_try_at, c.id).limit(limit))

    def of_task(self, task_id: int) -> tuple[Mail, ...]:
        statement = select(t.mail).where(t.mail.c.task_id == task_id).order_by(t.mail.c.id.desc())
        return self._all(Mail, statement.limit(100))


class SqlAudit(_Tables):
    def add(self, entry: AuditEntry) -> None:
        self._add(t.audit_entry, entry)

    def page(self, request: PageRequest, *, subject: str = "") -> Page[AuditEntry]:
        statement = select(t.audit_entry).order_by(t.audit_entry.c.id.desc())
        if subject:
            statement = statement.where(t.audit_entry.c.subject == subject)
        return self._page(AuditEntry, statement, request)


class SqlWork:
    """One transaction: the groups of tables on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.accounts = SqlAccounts(connection)
        self.vehicles = SqlVehicles(connection)
        self.releases = SqlReleases(connection)
        self.tasks = SqlTasks(connection)
        self.history = SqlUpgradeHistory(connection)
        self.devices = SqlDevices(connection)
        self.mails = SqlMails(connection)
        self.audit = SqlAudit(connection)

    def secret(self, name: str) -> bytes | None:
        return self._connection.execute(select(t.secret.c.value).where(t.secret.c.name == name)).scalar()

    def save_secret(self, name: str, value: bytes) -> None:
        _upsert(self._connection, t.secret, {"name": name, "value": value})


class _Database:
    """An engine, migrated, and its transactions."""

    def __init__(self, url: str, *, history: str, synchronous: str) -> None:
        self._is_memory = url == MEMORY
        self._lock = RLock()
        try:
            self._engine = _engine(url, synchronous)
            with self._engine.connect() as connection, connection.begin():
                migrate(connection, history)
        except (SQLAlchemyError, ImportError) as error:
            # The address with its password stays out of the message.
            scheme = url.partition(":")[0]
            raise ConfigurationError(
                f"{history} database ({scheme}): expected one that can be opened, got {error}"
            ) from error

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


def _engine(url: str, synchronous: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url)
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


class SqlStore:
    """`bmsota_cloud.storage.base.Store`. Tasks and accounts must survive a power cut: every commit is synced."""

    def __init__(self, url: str = MEMORY) -> None:
        self._database = _Database(url, history="platform", synchronous="FULL")

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


class SqlTelemetryStore:
    """`bmsota_cloud.storage.base.TelemetryStore`. The last second of reports may be lost with the power; they come again."""

    def __init__(self, url: str = MEMORY) -> None:
        self._database = _Database(url, history="telemetry", synchronous="NORMAL")

    def save_state(self, state: VehicleState) -> None:
        with self._database.writing() as connection:
            _upsert(connection, t.vehicle_state, _values(state))

    def state(self, vin: str) -> VehicleState | None:
        return self.states([vin]).get(vin)

    def states(self, vins: Sequence[str]) -> Mapping[str, VehicleState]:
        found: dict[str, VehicleState] = {}
        with self._database.reading() as connection:
            for start in range(0, len(vins), _IN_LIST_MAX):
                statement = select(t.vehicle_state).where(t.vehicle_state.c.vin.in_(vins[start : start + _IN_LIST_MAX]))
                for row in connection.execute(statement).mappings():
                    found[row["vin"]] = VehicleState(**row)
        return found

    def online_vins(self) -> tuple[str, ...]:
        c = t.vehicle_state.c
        with self._database.reading() as connection:
            return tuple(connection.execute(select(c.vin).where(c.is_online.is_(True)).order_by(c.vin)).scalars())

    def append(self, rows: Iterable[ReportRow]) -> int:
        values = [_values(row) for row in rows]
        if not values:
            return 0
        count = 0
        with self._database.writing() as connection:
            for row in values:
                if connection.dialect.name == "postgresql":
                    on_postgresql = postgresql.insert(t.report).values(**row)
                    result = connection.execute(on_postgresql.on_conflict_do_nothing())
                else:
                    on_sqlite = sqlite.insert(t.report).values(**row)
                    result = connection.execute(on_sqlite.on_conflict_do_nothing())
                count += max(0, result.rowcount)
        return count

    def reports(
        self, vin: str, request: PageRequest, *, since: datetime | None = None, until: datetime | None = None
    ) -> Page[ReportRow]:
        c = t.report.c
        statement = select(*(column for column in c if column.name != "id")).where(c.vin == vin)
        if since is not None:
            statement = statement.where(c.reported_at >= since)
        if until is not None:
            statement = statement.where(c.reported_at < until)
        with self._database.reading() as connection:
            return _page(connection, ReportRow, statement.order_by(c.reported_at.desc()), request)

    def prune(self, before: datetime) -> int:
        with self._database.writing() as connection:
            return connection.execute(delete(t.report).where(t.report.c.reported_at < before)).rowcount

    def close(self) -> None:
        self._database.close()
