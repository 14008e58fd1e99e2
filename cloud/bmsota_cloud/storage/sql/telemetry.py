"""Frames, newest states and events: a store of its own.

What is small and read by pages is in the telemetry database, by SQLAlchemy; frames are where `SqliteFrames` or `PostgresqlFrames` puts
them. States and events are derived from frames and may be lost with the power up to their mark, which goes with them; frames may not.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, make_url, select
from sqlalchemy.exc import DBAPIError

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.telemetry import EventKind, StateRow, VehicleEvent
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._engine import MEMORY, SqlDatabase
from bmsota_cloud.storage.sql._reading import BlockReader
from bmsota_cloud.storage.sql._tables import in_lists, page_of
from bmsota_cloud.storage.sql._unavailable import unavailable_from
from bmsota_cloud.storage.sql.telemetry_sqlite import SqliteFrames

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.telemetry import Compacted, HotPartition, Mark, StoredFrame, Unread
    from bmsota_cloud.storage.sql.telemetry_postgresql import PostgresqlFrames

__all__ = ["SqlTelemetryStore"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATE_SQL = (
    "INSERT INTO newest_state (vin, last_seen_at_ns, reported_at_s, heard_at_ns, is_time_plausible, soc_pct, speed_kmh, alarm_level,"
    " frames, memory) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (vin) DO UPDATE SET last_seen_at_ns = excluded.last_seen_at_ns,"
    " reported_at_s = excluded.reported_at_s, heard_at_ns = excluded.heard_at_ns, is_time_plausible = excluded.is_time_plausible,"
    " soc_pct = excluded.soc_pct, speed_kmh = excluded.speed_kmh, alarm_level = excluded.alarm_level, frames = excluded.frames,"
    " memory = excluded.memory"
)
_EVENT_SQL = "INSERT OR IGNORE INTO vehicle_event (vin, at_s, kind, subject, value, detail) VALUES (?, ?, ?, ?, ?, ?)"
_PARTITION_SQL = (
    "INSERT INTO report_partition (name, derived_to, newest_arrival_ns) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
    " derived_to = excluded.derived_to, newest_arrival_ns = max(newest_arrival_ns, excluded.newest_arrival_ns)"
)


class SqlTelemetryStore:
    """`bmsota_cloud.storage.base.TelemetryStore`."""

    def __init__(
        self, url: str = MEMORY, *, is_hourly: bool = False, writer: str = "", counters: Counter[str] | None = None
    ) -> None:
        """Open, or make, the database at *url* and what belongs to it.

        Args:
            url: an SQLAlchemy address of SQLite or PostgreSQL. On SQLite, frames are in the folder `reports` beside the file.
            is_hourly: on SQLite, a partition an hour instead of a day, for more than some 3,000 reports a second.
            writer: on PostgreSQL, the name of this process among several.
            counters: where it is counted how often a block could not be read (`report_block_unreadable`).

        Raises:
            ConfigurationError: the database cannot be opened.
        """
        self._database = SqlDatabase(url, history="telemetry", synchronous="NORMAL")
        reader = BlockReader(Counter() if counters is None else counters)
        self._on_sqlite: SqliteFrames | None = None
        self._on_postgresql: PostgresqlFrames | None = None
        if not url.startswith("sqlite"):
            # Behind an extra: SQLite needs no driver.
            from bmsota_cloud.storage.sql.telemetry_postgresql import PostgresqlFrames  # noqa: PLC0415

            self._on_postgresql = PostgresqlFrames(url, self._database, reader, writer=writer)
            return
        try:
            self._on_sqlite = SqliteFrames(_folder_of(url), reader, is_hourly=is_hourly)
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
        with _refusals(), self._database.writing() as connection:
            _many(connection, _STATE_SQL, [_state_values(state) for state in states])
            _many(connection, _EVENT_SQL, [astuple(event) for event in events])
            _many(connection, _PARTITION_SQL, list(mark.places))
        self._on_sqlite.saved(mark)

    def unread(self, limit: int) -> Unread:
        with _refusals():
            return self._frames.unread(limit)

    def frames(
        self, vin: str, request: PageRequest, *, since: datetime | None = None, until: datetime | None = None
    ) -> Page[StoredFrame]:
        with _refusals():
            items, total = self._frames.page(vin, request, _seconds(since), _seconds(until))
        return Page(items=items, total=total, number=request.number, size=request.size)

    def read(self, vin: str, since_s: int, until_s: int) -> Iterator[StoredFrame]:
        with _refusals():
            yield from self._frames.read(vin, since_s, until_s)

    def newest(self, vins: Sequence[str]) -> Mapping[str, StateRow]:
        found: dict[str, StateRow] = {}
        with _refusals(), self._database.reading() as connection:
            for part in in_lists(vins):
                statement = select(t.newest_state).where(t.newest_state.c.vin.in_(part))
                for row in connection.execute(statement).mappings():
                    found[row["vin"]] = StateRow(**row)
        return found

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
        order = (c.at_s.desc(), c.kind, c.subject, c.value)
        with _refusals(), self._database.reading() as connection:
            return page_of(connection, _event, statement.order_by(*order), request)

    def replace_events(self, vin: str, since_s: int, until_s: int, events: Sequence[VehicleEvent]) -> None:
        if self._on_postgresql is not None:
            self._on_postgresql.replace_events(vin, since_s, until_s, events)
            return
        c = t.vehicle_event.c
        with _refusals(), self._database.writing() as connection:
            connection.execute(delete(t.vehicle_event).where(c.vin == vin, c.at_s >= since_s, c.at_s < until_s))
            _many(connection, _EVENT_SQL, [astuple(event) for event in events])

    def prune(self, arrived_before_ns: int) -> int:
        if self._on_postgresql is not None:
            return self._on_postgresql.prune(arrived_before_ns)
        assert self._on_sqlite is not None
        count, gone = self._on_sqlite.prune(arrived_before_ns)
        self._strike(gone)
        return count

    def hot(self) -> Sequence[HotPartition]:
        with _refusals():
            if self._on_sqlite is not None:
                self._on_sqlite.add_catalog(self._catalog())
            return self._frames.hot()

    def compact(self, name: str, hours: int) -> Compacted:
        with _refusals():
            if self._on_postgresql is not None:
                return self._on_postgresql.compact(name, hours)
            assert self._on_sqlite is not None
            self._on_sqlite.add_catalog(self._catalog())
            compacted, gone = self._on_sqlite.compact(name, hours)
        self._strike(gone)
        return compacted

    def _catalog(self) -> Mapping[str, tuple[int, int]]:
        """By partition: derived to, newest arrival."""
        with self._database.reading() as connection:
            rows = connection.execute(select(t.report_partition)).all()
        return {name: (derived_to, arrival) for name, derived_to, arrival in rows}

    def _strike(self, gone: Sequence[str]) -> None:
        if gone:
            with _refusals(), self._database.writing() as connection:
                _many(connection, "DELETE FROM report_partition WHERE name = ?", [(name,) for name in gone])

    def close(self) -> None:
        self._frames.close()
        self._database.close()


def _event(**row: Any) -> VehicleEvent:
    with suppress(ValueError):  # A kind of a newer version stays the word it is.
        row["kind"] = EventKind(row["kind"])
    return VehicleEvent(**row)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
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


def _seconds(at: datetime | None) -> int | None:
    """The first whole second that is not before *at*: reports know whole seconds."""
    return None if at is None else -((_EPOCH - at) // timedelta(seconds=1))


def _state_values(state: StateRow) -> tuple[Any, ...]:
    return (
        state.vin,
        state.last_seen_at_ns,
        state.reported_at_s,
        state.heard_at_ns,
        state.is_time_plausible,
        state.soc_pct,
        state.speed_kmh,
        state.alarm_level,
        state.frames,
        state.memory,
    )


def _many(connection: Connection, sql: str, rows: list[tuple[Any, ...]]) -> None:
    """Past SQLAlchemy's own work for each row."""
    if rows:
        connection.exec_driver_sql(sql, rows)
