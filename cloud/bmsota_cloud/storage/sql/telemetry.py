"""Frames, newest states and events: a store of its own.

Each process that writes has a name of its own, and a mark (how far it has derived) under it: see `_writers` for SQLite.

What is small and read by pages is in the telemetry database, by SQLAlchemy; frames are where `SqliteFrames` or `PostgresqlFrames` puts
them. States and events are derived from frames and may be lost with the power up to their mark, which goes with them; frames may not.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import attrgetter
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import JSON, Select, cast, delete, func, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.telemetry import EventKind, FleetMark, Mark, StateRow, Unread, VehicleEvent
from bmsota_cloud.domain.vehicle_history import FaultOrder, FaultPeriod
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._engine import MEMORY, SqlDatabase
from bmsota_cloud.storage.sql._reading import BlockReader
from bmsota_cloud.storage.sql._tables import in_lists, page_of
from bmsota_cloud.storage.sql._unavailable import unavailable_from
from bmsota_cloud.storage.sql._writers import (
    DERIVED_LOCK,
    OWN_NAME_TIMEOUT_S,
    FileLock,
    names_for,
    overtaken,
    taken_name,
)
from bmsota_cloud.storage.sql.telemetry_sqlite import SqliteFrames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.domain.telemetry import Compacted, FramePage, HotPartition, StoredFrame
    from bmsota_cloud.domain.vehicle_history import FaultFilter
    from bmsota_cloud.storage.sql.telemetry_postgresql import PostgresqlFrames

__all__ = ["SqlTelemetryStore"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATE_SQL = (
    "INSERT INTO newest_state (vin, last_seen_at_ns, reported_at_s, heard_at_ns, is_time_plausible, soc_pct, speed_kmh, alarm_level,"
    " frames, memory, latitude_deg, longitude_deg, is_position_valid) VALUES {rows} ON CONFLICT (vin) DO UPDATE SET last_seen_at_ns = excluded.last_seen_at_ns,"
    " reported_at_s = excluded.reported_at_s, heard_at_ns = excluded.heard_at_ns, is_time_plausible = excluded.is_time_plausible,"
    " soc_pct = excluded.soc_pct, speed_kmh = excluded.speed_kmh, alarm_level = excluded.alarm_level, frames = excluded.frames,"
    " memory = excluded.memory, latitude_deg = excluded.latitude_deg, longitude_deg = excluded.longitude_deg,"
    " is_position_valid = excluded.is_position_valid"
)
_EVENT_SQL = "INSERT OR IGNORE INTO vehicle_event (vin, at_s, sequence, kind, subject, value, detail) VALUES (?, ?, ?, ?, ?, ?, ?)"
_MARK_SQL = (
    "INSERT INTO report_mark (writer, place, derived_to) VALUES (?, ?, ?) ON CONFLICT (writer, place) DO UPDATE SET"
    " derived_to = excluded.derived_to"
)
# The vehicles that have events, in their order, with the time of the oldest: two steps down the index for each of them, however
# many events there are.
_NEXT_VINS = text(
    "WITH RECURSIVE found(vin) AS (SELECT min(vin) FROM vehicle_event WHERE vin > :after"
    " UNION ALL SELECT (SELECT min(vin) FROM vehicle_event e WHERE e.vin > found.vin) FROM found WHERE found.vin IS NOT NULL)"
    " SELECT vin, (SELECT min(at_s) FROM vehicle_event e WHERE e.vin = found.vin) AS oldest_s FROM found"
    " WHERE vin IS NOT NULL LIMIT :limit"
)
_EVENT_VINS = 200
# A transaction of so many is some milliseconds; deriving waits for one.
_DELETE_EVENTS = 1000
# Where it is counted how often the database was opened to write: under a writer that there is not, and in a file among the frames.
_NO_WRITER, _STARTS = -1, "starts"
# Longer than another process needs to derive a batch for one that is gone.
_DERIVED_LOCK_TIMEOUT_S = 10.0
_PARTITION_SQL = (
    "INSERT INTO report_partition (name, derived_to, newest_arrival_ns) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
    " derived_to = excluded.derived_to, newest_arrival_ns = max(newest_arrival_ns, excluded.newest_arrival_ns)"
)


class SqlTelemetryStore:
    """`bmsota_cloud.storage.base.TelemetryStore`."""

    def __init__(
        self,
        url: str = MEMORY,
        *,
        is_hourly: bool = False,
        writer: str = "local",
        is_writer_fixed: bool = False,
        count: Callable[[str], None] | None = None,
    ) -> None:
        """Open, or make, the database at *url* and what belongs to it.

        Args:
            url: an SQLAlchemy address of SQLite or PostgreSQL. On SQLite, frames are in the folder `reports` beside the file.
            is_hourly: on SQLite, a partition an hour instead of a day, for more than some 3,000 reports a second.
            writer: the name of this process among those that write to the same data, up to 56 characters; it has the name from
                its first write on, until it ends.
            is_writer_fixed: have this name and no other: the first write is refused (ConfigurationError) if another process has it.
                Otherwise "-2", "-3" and so on are tried.
            count: called, from any thread, with "report_block_unreadable" whenever a block could not be read.

        Raises:
            ConfigurationError: the database cannot be opened.
        """
        self._database = SqlDatabase(url, history="telemetry", synchronous="NORMAL")
        self._writer, self._is_writer_fixed = writer, is_writer_fixed
        self._folder = _folder_of(url) if url.startswith("sqlite") else None
        self._lock = RLock()
        self._own_lock: FileLock | None = None
        self._derived_lock: FileLock | None = None
        self._is_registered = False
        self.is_set_back = False
        self._starts = 0
        self._takeovers = 0
        reader = BlockReader(count)
        self._on_sqlite: SqliteFrames | None = None
        self._on_postgresql: PostgresqlFrames | None = None
        if not url.startswith("sqlite"):
            # Behind an extra: SQLite needs no driver.
            from bmsota_cloud.storage.sql.telemetry_postgresql import PostgresqlFrames  # noqa: PLC0415

            self._on_postgresql = PostgresqlFrames(
                url, self._database, reader, writer=writer, is_writer_fixed=is_writer_fixed
            )
            return
        try:
            self._on_sqlite = SqliteFrames(self._folder, reader, is_hourly=is_hourly)
        except OSError as error:
            self._database.close()
            raise ConfigurationError(f"cannot open the folder of reports: {error}") from error
        rows = self._catalog()
        self._on_sqlite.take_catalog(rows)
        # A process that ended behind removing a file and before this; a file of that name would begin anew.
        self._strike([name for name in rows if name not in self._on_sqlite.names])

    @property
    def _frames(self) -> SqliteFrames | PostgresqlFrames:
        found = self._on_sqlite or self._on_postgresql
        assert found is not None
        return found

    def append(self, frames: Sequence[StoredFrame]) -> Sequence[bool]:
        self._register()
        return self._frames.append(frames) if frames else []

    def mark(self) -> Mark:
        return self._frames.mark()

    def save_derived(self, states: Sequence[StateRow], events: Sequence[VehicleEvent], mark: Mark) -> None:
        if not (states or events or mark.places):
            return
        if self._on_postgresql is not None:
            self._on_postgresql.save(states, events, mark)
            return
        assert self._on_sqlite is not None
        self._register()
        with self._shared_with_others() as connection:
            _save_states(connection, states)
            _many(connection, _EVENT_SQL, [_event_values(event) for event in events])
            _many(connection, _PARTITION_SQL, list(mark.places))
            writer = self._on_sqlite.writer if mark.writer is None else mark.writer
            _many(connection, _MARK_SQL, [(writer, name, position) for name, position, _ in mark.places])
        self._on_sqlite.saved(mark)

    def unread(self, limit: int) -> Unread:
        self._register()
        with _refusals():
            return self._frames.unread(limit)

    @contextmanager
    def taking_over(self, limit: int) -> Iterator[Unread]:
        if self._on_postgresql is not None:
            with _refusals(), self._on_postgresql.taking_over(limit) as unread:
                yield unread
            return
        self._register()
        if self._folder is None:
            yield Unread((), Mark())
            return
        with self._lock, self._left_behind(limit) as unread:
            yield unread

    # --- the processes that write to the same files ----------------------------------------------------------------------

    def _register(self) -> None:
        """On SQLite, get the name and its lock; PostgreSQL does it for every connection."""
        if self._is_registered or self._on_sqlite is None:
            return
        with self._lock:
            if not self._is_registered:
                self._wait_for_own_name()
                with _refusals(), self._database.writing() as connection:
                    self._take_name(connection, self._on_sqlite)
                    self._count_start(connection)
                if self._folder is not None:
                    # Others start at the same time: the transaction is their lock.
                    with _refusals(), self._database.writing():
                        self._starts = max(self._starts, _read_number(self._folder / _STARTS))
                        _write_number(self._folder / _STARTS, self._starts)
                self._is_registered = True

    def _wait_for_own_name(self) -> None:
        """Another process may just be deriving under it what this one has left behind."""
        if self._folder is None or not self._is_writer_fixed:
            return
        c = t.report_writer.c
        with _refusals():
            with self._database.reading() as connection:
                number = connection.execute(select(c.number).where(c.name == self._writer)).scalar_one_or_none()
            if number is not None:
                with closing(FileLock(self._folder / f"writer-{number}.lock")) as lock:
                    lock.take(timeout_s=OWN_NAME_TIMEOUT_S)

    def _take_name(self, connection: Connection, frames: SqliteFrames) -> None:
        if connection.execute(select(func.max(t.report_writer.c.number))).scalar() == 0:
            # Reports beside a database that knows none of their writers: it was lost, and everything is derived again.
            lost = [
                {"number": number, "name": f"lost {number}", "newest_position": 0} for number in frames.writers() - {0}
            ]
            if lost:
                connection.execute(insert(t.report_writer), lost)
            self.is_set_back = bool(lost)
        for name in names_for(self._writer, is_fixed=self._is_writer_fixed):
            number = _number_of(connection, name)
            if self._folder is None:
                break
            lock = FileLock(self._folder / f"writer-{number}.lock")
            if lock.take():
                self._own_lock = lock
                self._derived_lock = FileLock(self._folder / DERIVED_LOCK)
                break
            lock.close()
        else:
            raise taken_name(self._writer)
        self._takeovers = connection.execute(select(t.takeover.c.count)).scalar_one()
        frames.take_number(number, _marks_of(connection, number))

    def _count_start(self, connection: Connection) -> None:
        """Count this start, in the database and beside the frames: a database that knows of fewer is an older one.

        One that is older stays so until its states are derived again: this process may be killed before.
        """
        c = t.report_mark.c
        ours = (c.writer == _NO_WRITER) & (c.place == _STARTS)
        known = connection.execute(select(c.derived_to).where(ours)).scalar() or 0
        told = 0 if self._folder is None else _read_number(self._folder / _STARTS)
        assert self._on_sqlite is not None
        self.is_set_back = self.is_set_back or (told > known and bool(self._on_sqlite.names))
        self._starts = max(known, told) + 1
        if not self.is_set_back:
            _many(connection, _MARK_SQL, [(_NO_WRITER, _STARTS, self._starts)])

    def states_derived_again(self) -> None:
        if not self.is_set_back:
            return
        with _refusals(), self._database.writing() as connection:
            _many(connection, _MARK_SQL, [(_NO_WRITER, _STARTS, self._starts)])
        self.is_set_back = False

    @contextmanager
    def _shared_with_others(self) -> Iterator[Connection]:
        """A transaction for what has been derived.

        Raises:
            StorageUnavailableError: another process has derived for one that is gone, maybe for vehicles that are here now.
        """
        with self._lock, self._taken_derived_lock(is_shared=True):
            with _refusals(), self._database.writing() as connection:
                count = connection.execute(select(t.takeover.c.count)).scalar_one()
                if count == self._takeovers:
                    yield connection
                    return
            self._takeovers = count
            raise overtaken()

    @contextmanager
    def _taken_derived_lock(self, *, is_shared: bool = False) -> Iterator[None]:
        if self._derived_lock is None:
            yield
            return
        with _refusals(), self._derived_lock.held(timeout_s=_DERIVED_LOCK_TIMEOUT_S, is_shared=is_shared):
            yield

    @contextmanager
    def _left_behind(self, limit: int) -> Iterator[Unread]:
        """Of one process that is gone, and alone; the names of those that have left nothing are struck."""
        assert self._on_sqlite is not None
        assert self._folder is not None
        own = self._on_sqlite.writer
        with _refusals(), self._database.reading() as connection:
            others = connection.execute(select(t.report_writer.c.number).where(t.report_writer.c.number != own))
            numbers = sorted(others.scalars())
        for number in numbers:
            with _refusals():
                lock = FileLock(self._folder / f"writer-{number}.lock")
            try:
                with _refusals():
                    if not lock.take():
                        continue
                with self._taken_derived_lock():
                    with _refusals(), self._database.reading() as connection:
                        marks = _marks_of(connection, number)
                    unread = self._on_sqlite.unread(limit, number, marks)
                    if unread.frames:
                        with _refusals(), self._database.writing() as connection:
                            connection.execute(update(t.takeover).values(count=t.takeover.c.count + 1))
                            self._takeovers = connection.execute(select(t.takeover.c.count)).scalar_one()
                        yield unread
                        return
                with _refusals(), self._database.writing() as connection:
                    connection.execute(delete(t.report_mark).where(t.report_mark.c.writer == number))
                    connection.execute(delete(t.report_writer).where(t.report_writer.c.number == number))
                # Numbers are not given twice, so nobody wants this file again.
                lock.path.unlink(missing_ok=True)
            finally:
                lock.close()
        yield Unread((), Mark())

    # --- reading ---------------------------------------------------------------------------------------------------------

    def frames(
        self, vin: str, request: PageRequest, *, since: datetime | None = None, until: datetime | None = None
    ) -> FramePage:
        with _refusals():
            return self._frames.page(vin, request, _seconds(since), _seconds(until))

    def read(self, vin: str, since_s: int, until_s: int) -> Iterator[StoredFrame]:
        with _refusals():
            yield from self._frames.read(vin, since_s, until_s)

    def newest(self, vins: Sequence[str]) -> Mapping[str, StateRow]:
        found: dict[str, StateRow] = {}
        with _refusals(), self._database.reading() as connection:
            for part in in_lists(vins):
                statement = select(*[t.newest_state.c[name] for name in StateRow._fields]).where(
                    t.newest_state.c.vin.in_(part)
                )
                for row in connection.execute(statement).all():
                    found[row[0]] = StateRow(*row)
        return found

    def fleet_marks(self, vins: Sequence[str] | None = None) -> Mapping[str, FleetMark]:
        c = t.newest_state.c
        statement = select(c.vin, *(c[name] for name in FleetMark._fields))
        found: dict[str, FleetMark] = {}
        with _refusals(), self._database.reading() as connection:
            for each in [statement] if vins is None else [statement.where(c.vin.in_(part)) for part in in_lists(vins)]:
                found.update((vin, FleetMark._make(values)) for vin, *values in connection.execute(each))
        return found

    def alarm_levels(self) -> Mapping[str, int]:
        c = t.newest_state.c
        with _refusals(), self._database.reading() as connection:
            found = connection.execute(select(c.vin, c.alarm_level).where(c.alarm_level > 0)).all()
        return {row[0]: row[1] for row in found}

    def newest_values(self, name: Literal["soc_pct", "last_seen_at_ns"]) -> Mapping[str, float | None]:
        c = t.newest_state.c
        with _refusals(), self._database.reading() as connection:
            found = connection.execute(select(c.vin, c[name])).all()
        return {row[0]: row[1] for row in found}

    def events(
        self,
        vin: str,
        request: PageRequest,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Sequence[str] = (),
    ) -> Page[VehicleEvent]:
        c = t.vehicle_event.c
        statement = select(t.vehicle_event).where(c.vin == vin)
        if since is not None:
            statement = statement.where(c.at_s >= _seconds(since))
        if until is not None:
            statement = statement.where(c.at_s < _seconds(until))
        if kinds:
            statement = statement.where(c.kind.in_(kinds))
        order = (c.at_s.desc(), c.sequence.desc(), c.kind, c.subject, c.value)
        with _refusals(), self._database.reading() as connection:
            return page_of(connection, _event, statement.order_by(*order), request)

    def faults(self, vin: str, request: PageRequest, asked: FaultFilter) -> Page[FaultPeriod]:
        with _refusals(), self._database.reading() as connection:
            statement = _faults(vin, asked, is_postgresql=self._on_postgresql is not None)
            return page_of(connection, _fault, statement, request)

    def replace_events(self, vin: str, since_s: int, until_s: int, events: Sequence[VehicleEvent]) -> None:
        if self._on_postgresql is not None:
            self._on_postgresql.replace_events(vin, since_s, until_s, events)
            return
        c = t.vehicle_event.c
        with _refusals(), self._database.writing() as connection:
            connection.execute(delete(t.vehicle_event).where(c.vin == vin, c.at_s >= since_s, c.at_s < until_s))
            _many(connection, _EVENT_SQL, [_event_values(event) for event in events])

    def prune(self, arrived_before_ns: int) -> int:
        if self._on_postgresql is not None:
            return self._on_postgresql.prune(arrived_before_ns)
        assert self._on_sqlite is not None
        count, gone = self._on_sqlite.prune(arrived_before_ns)
        self._strike(gone)
        return count

    def prune_events(self, before_s: int) -> int:
        count, after = 0, ""
        while True:
            with _refusals(), self._database.reading() as connection:
                vins = list(connection.execute(_NEXT_VINS, {"after": after, "limit": _EVENT_VINS}).all())
            due = [vin for vin, oldest_s in vins if oldest_s < before_s]
            while due:
                with _refusals(), self._database.writing() as connection:
                    count += _delete_events(connection, due, before_s)
            if len(vins) < _EVENT_VINS:
                return count
            after = vins[-1].vin

    def hot(self) -> Sequence[HotPartition]:
        with _refusals():
            if self._on_postgresql is not None:
                return self._on_postgresql.hot()
            assert self._on_sqlite is not None
            return self._on_sqlite.hot(self._all_marks)

    def compact(self, name: str, hours: int) -> Compacted:
        self._register()
        with _refusals():
            if self._on_postgresql is not None:
                return self._on_postgresql.compact(name, hours)
            assert self._on_sqlite is not None
            compacted, gone = self._on_sqlite.compact(name, hours, self._all_marks)
        self._strike(gone)
        return compacted

    def _catalog(self) -> Mapping[str, tuple[int, int]]:
        """By partition: derived to, newest arrival."""
        with self._database.reading() as connection:
            rows = connection.execute(select(t.report_partition)).all()
        return {name: (derived_to, arrival) for name, derived_to, arrival in rows}

    def _all_marks(self) -> Mapping[int, Mapping[str, int]]:
        """Of every writer that may have left something underived."""
        marks, writers = t.report_mark.c, t.report_writer.c
        joined = t.report_writer.outerjoin(t.report_mark, marks.writer == writers.number)
        with self._database.reading() as connection:
            rows = connection.execute(select(writers.number, marks.place, marks.derived_to).select_from(joined)).all()
        found: dict[int, dict[str, int]] = {}
        for number, place, derived_to in rows:
            found.setdefault(number, {})
            if place is not None:
                found[number][place] = derived_to
        return found

    def _strike(self, gone: Sequence[str]) -> None:
        if gone:
            with _refusals(), self._database.writing() as connection:
                _many(connection, "DELETE FROM report_partition WHERE name = ?", [(name,) for name in gone])
                _many(connection, "DELETE FROM report_mark WHERE place = ?", [(name,) for name in gone])

    def close(self) -> None:
        self._frames.close()
        self._database.close()
        for lock in (self._own_lock, self._derived_lock):
            if lock is not None:
                lock.close()


def _delete_events(connection: Connection, due: list[str], before_s: int) -> int:
    """Delete some of the events of the vehicles at the end of *due*, and take those off that have no more; how many."""
    c = t.vehicle_event.c
    count = 0
    while due and count < _DELETE_EVENTS:
        old = (c.vin == due[-1]) & (c.at_s < before_s)
        # The last for which there is room; its second goes whole.
        rest = select(c.at_s).where(old).order_by(c.at_s).offset(_DELETE_EVENTS - count - 1).limit(1)
        last_s = connection.execute(rest).scalar()
        until_s = before_s if last_s is None else last_s + 1
        count += connection.execute(delete(t.vehicle_event).where(c.vin == due[-1], c.at_s < until_s)).rowcount
        if last_s is None:
            due.pop()
    return count


def _number_of(connection: Connection, name: str) -> int:
    """The number of a writer, who gets one if it is new."""
    c = t.report_writer.c
    number = connection.execute(select(c.number).where(c.name == name)).scalar_one_or_none()
    if number is None:
        number = connection.execute(
            insert(t.report_writer).values(name=name, newest_position=0).returning(c.number)
        ).scalar_one()
    return int(number)


def _marks_of(connection: Connection, writer: int) -> dict[str, int]:
    c = t.report_mark.c
    rows = connection.execute(select(c.place, c.derived_to).where(c.writer == writer))
    return {row.place: row.derived_to for row in rows}


def _faults(vin: str, asked: FaultFilter, *, is_postgresql: bool) -> Select[Any]:
    c = t.vehicle_event.c
    lag = func.lag(c.value).over(partition_by=(c.kind, c.subject), order_by=(c.at_s, c.sequence))
    told = select(*c, lag.label("before"))
    e = told.where(c.vin == vin, c.kind.in_(asked.kinds)).subquery().c
    # Of what is told twice the first.
    f = select(*e).where(func.coalesce(e.before, "0") != e.value).subquery().c
    group, order = (f.kind, f.subject), (f.at_s, f.sequence)
    json = func.nullif(f.detail, "")
    level = cast(json, JSON)["level"].as_integer() if is_postgresql else func.json_extract(json, "$.level")
    pairs = select(
        *f,
        func.lead(f.at_s).over(partition_by=group, order_by=order).label("cleared_s"),
        func.lead(f.detail).over(partition_by=group, order_by=order).label("cleared_detail"),
        func.coalesce(level, 0).label("level"),
    ).subquery()
    p = pairs.c
    statement = select(*p).where(p.value == "1")
    if asked.since_s is not None:
        statement = statement.where((p.cleared_s >= asked.since_s) | p.cleared_s.is_(None))
    if asked.until_s is not None:
        statement = statement.where(p.at_s < asked.until_s)
    if asked.level_min:
        statement = statement.where(p.level >= asked.level_min)
    if asked.is_open is not None:
        statement = statement.where(p.cleared_s.is_(None) if asked.is_open else p.cleared_s.is_not(None))
    first = {FaultOrder.TIME: (), FaultOrder.TYPE: (p.kind, p.subject), FaultOrder.LEVEL: (p.level.desc(),)}
    newest = (p.at_s.desc(), p.sequence.desc(), p.kind, p.subject)
    return statement.order_by(p.cleared_s.is_not(None), *first[asked.order], *newest)


def _fault(**row: Any) -> FaultPeriod:
    fields = {name: row[name] for name in t.vehicle_event.c.keys()}  # noqa: SIM118 - a collection of columns
    return FaultPeriod(onset=_event(**fields), cleared_s=row["cleared_s"], cleared_detail=row["cleared_detail"] or "")


def _event(**row: Any) -> VehicleEvent:
    with suppress(ValueError):  # A kind of a newer version stays the word it is.
        row["kind"] = EventKind(row["kind"])
    return VehicleEvent(**row)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, sqlite3.Error, OSError) as error:
        refusal = unavailable_from(error)
        if refusal is None:
            raise
        raise refusal from error


def _folder_of(url: str) -> Path | None:
    """The folder of the reports that belong to the SQLite database at *url*; None for one in memory."""
    name = make_url(url).database
    if not name or name == ":memory:":
        return None
    path = Path(name)
    return path.parent / ("reports" if path.stem == "telemetry" else f"{path.stem}-reports")


def _read_number(path: Path) -> int:
    """0 if there is none."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _write_number(path: Path, number: int) -> None:
    new = path.with_suffix(".new")
    new.write_text(str(number), encoding="ascii")
    new.replace(path)


def _seconds(at: datetime | None) -> int | None:
    """The first whole second that is not before *at*: reports know whole seconds."""
    return None if at is None else -((_EPOCH - at) // timedelta(seconds=1))


# `dataclasses.astuple` takes fifty times as long.
_event_values = attrgetter("vin", "at_s", "sequence", "kind", "subject", "value", "detail")

# Many rows in one statement, as reports are inserted: the driver lets go of the interpreter's lock once a statement, and what SQLAlchemy
# does around one is the price of ten rows. Statements by their number of rows, the largest first.
_STATE_SQLS = {
    count: _STATE_SQL.format(rows=", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * count))
    for count in (100, 10, 1)
}


def _save_states(connection: Connection, states: Sequence[StateRow]) -> None:
    at = 0
    for count, sql in _STATE_SQLS.items():
        while len(states) - at >= count:
            values = chain.from_iterable(states[at : at + count])
            connection.exec_driver_sql(sql, tuple(values))
            at += count


def _many(connection: Connection, sql: str, rows: list[tuple[Any, ...]]) -> None:
    """Past SQLAlchemy's own work for each row."""
    if rows:
        connection.exec_driver_sql(sql, rows)
