"""Frames on PostgreSQL: a table with a partition for each day of report time (UTC).

    frame             partitioned by `reported_s2000`, seconds since 2000-01-01 UTC: four bytes until 2068
    frame_20261129    the partition of a day
    frame_other       frames that may not begin a partition: see `has_day`
    frame_vehicle     VIN <-> number
    report_writer     the processes that write: each row of a frame has its writer's number
    report_mark       how far each writer's frames have been derived

Strategy. The way in is asyncpg, one statement over arrays a batch (`unnest`, `ON CONFLICT DO NOTHING`): it costs a fifth of the same
rows through the layers above it. It has an event loop of its own, in the thread that calls; everything that only reads goes
through SQLAlchemy. `position` rises with every row of one connection, and a block range index finds the rows behind a mark
without the space of a real one.

A process holds an advisory lock on its writer's number, which the server takes back when the connection ends. So a number that can be
locked belongs to a process that is gone, and another may derive what it has left (`taking_over`). What is derived is saved under a
lock that savers share; who takes over has it alone.

What fails is tried again by the caller with the same frames. After a connection broke nobody knows whether the commit was the last
thing it did: a frame that is there with the very same arrival is that frame.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg
from sqlalchemy import make_url, text

from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.telemetry import Mark, Unread
from bmsota_cloud.storage.sql._packing import TIME_IMPLAUSIBLE, has_day, pack, unpack
from bmsota_cloud.storage.sql._unavailable import unavailable_from
from bmsota_cloud.storage.sql._writers import OWN_NAME_TIMEOUT_S, names_for, overtaken, taken_name

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.telemetry import StateRow, StoredFrame, VehicleEvent
    from bmsota_cloud.storage.sql._engine import SqlDatabase

__all__ = ["PostgresqlFrames"]

_EPOCH_2000_S: Final = 946_684_800
_DAY_S: Final = 86_400
_OTHER: Final = "frame_other"
_CONNECT_TIMEOUT_S: Final = 10.0
# A batch takes milliseconds. A server that is silent for this long is away, and the batch is tried again.
_COMMAND_TIMEOUT_S: Final = 60.0
_CHUNK_ROWS: Final = 1000
_DELETE_ROWS: Final = 500
_OWN_NAME_EVERY_S: Final = 0.1
_LOCK_TIMEOUT: Final = "2s"
# The first half of advisory locks, any number of our own; the second is a writer's number, or 0.
_WRITER_LOCK: Final = 0x626D_0001
_DERIVED_LOCK: Final = 0x626D_0002
# A machine that is gone says nothing: its locks are free after half a minute.
_SERVER_SETTINGS: Final = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
_MARK: Final = "frame"

_INSERT: Final = """
WITH added AS (
    INSERT INTO {table} (digest, arrived_at_ns, vehicle, reported_s2000, form, received, fault, clear, writer)
    SELECT *, $10::int4 FROM unnest($1::int8[], $2::int8[], $3::int4[], $4::{time}[], $5::int2[], $6::bytea[], $7::text[], $8::bytea[])
    ON CONFLICT DO NOTHING RETURNING digest, vehicle, reported_s2000, position
), noted AS (
    UPDATE report_writer SET newest_position = greatest(newest_position, (SELECT max(position) FROM added)) WHERE number = $10::int4
)
SELECT count(*), max(position),
    CASE WHEN count(*) < $9 THEN array_agg(vehicle) END,
    CASE WHEN count(*) < $9 THEN array_agg(reported_s2000) END,
    CASE WHEN count(*) < $9 THEN array_agg(digest) END
FROM added
"""
_STATES: Final = """
INSERT INTO newest_state
    (vin, last_seen_at_ns, reported_at_s, heard_at_ns, is_time_plausible, soc_pct, speed_kmh, alarm_level, frames, memory)
SELECT * FROM unnest(
    $1::text[], $2::int8[], $3::int8[], $4::int8[], $5::bool[], $6::float8[], $7::float8[], $8::int4[], $9::bytea[], $10::bytea[])
ON CONFLICT (vin) DO UPDATE SET
    last_seen_at_ns = excluded.last_seen_at_ns, reported_at_s = excluded.reported_at_s, heard_at_ns = excluded.heard_at_ns,
    is_time_plausible = excluded.is_time_plausible, soc_pct = excluded.soc_pct, speed_kmh = excluded.speed_kmh,
    alarm_level = excluded.alarm_level, frames = excluded.frames, memory = excluded.memory
"""
_EVENTS: Final = """
INSERT INTO vehicle_event (vin, at_s, sequence, kind, subject, value, detail)
SELECT * FROM unnest($1::text[], $2::int8[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::text[]) ON CONFLICT DO NOTHING
"""
_PARTITIONS: Final = """
INSERT INTO report_partition (name, derived_to, newest_arrival_ns)
SELECT * FROM unnest($1::text[], $2::int8[], $3::int8[])
ON CONFLICT (name) DO UPDATE SET derived_to = greatest(report_partition.derived_to, excluded.derived_to),
    newest_arrival_ns = greatest(report_partition.newest_arrival_ns, excluded.newest_arrival_ns)
"""
# The columns of `unpack`, and where the frame stands in time.
_COLUMNS: Final = f"reported_s2000::int8 + {_EPOCH_2000_S}, arrived_at_ns, form, clear, received, fault"
_AT: Final = "reported_s2000"
_AT_OTHER: Final = f"CASE WHEN form & {TIME_IMPLAUSIBLE} <> 0 THEN arrived_at_ns / 1000000000 - {_EPOCH_2000_S} ELSE reported_s2000 END"
_OF_VEHICLE: Final = "vehicle = (SELECT number FROM frame_vehicle WHERE vin = :vin)"

_Result = TypeVar("_Result")


class PostgresqlFrames:
    """The frames of a telemetry store on PostgreSQL. Every method may be called from any thread."""

    def __init__(self, url: str, database: SqlDatabase, *, writer: str, is_writer_fixed: bool) -> None:
        """Use the migrated *database* at *url*; *writer* and *is_writer_fixed* as in `SqlTelemetryStore`."""
        self._dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._database = database
        self._names = tuple(names_for(writer, is_fixed=is_writer_fixed))
        self._writer = -1
        self._takeovers: int | None = None
        self._lock = RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._numbers: dict[str, int] = {}
        self._days: set[str] = set()
        self._written: dict[str, tuple[int, int]] = {}
        self._has_failed = False

    # --- writing ----------------------------------------------------------------------------------------------------------

    def append(self, frames: Sequence[StoredFrame]) -> list[bool]:
        """See `TelemetryStore.append`."""
        with self._lock:
            try:
                is_new = self._run(self._append(frames))
            except BaseException:
                self._has_failed = True
                raise
            self._has_failed = False
            return is_new

    def save(self, states: Sequence[StateRow], events: Sequence[VehicleEvent], mark: Mark) -> None:
        """See `TelemetryStore.save_derived`."""
        with self._lock:
            self._run(self._save(states, events, mark))
            if mark.writer in (None, self._writer):
                for name, position, _ in mark.places:
                    if self._written.get(name, (0, 0))[0] <= position:
                        self._written.pop(name, None)

    def mark(self) -> Mark:
        with self._lock:
            return Mark(tuple((name, *place) for name, place in self._written.items()))

    async def _append(self, frames: Sequence[StoredFrame]) -> list[bool]:
        is_new = [True] * len(frames)
        await self._number({frame.vin for frame in frames} - self._numbers.keys())
        parts: dict[str, list[int]] = {}
        for place, frame in enumerate(frames):
            parts.setdefault(self._table_of(frame), []).append(place)
        written: dict[str, tuple[int, int]] = {}
        if len(parts) == 1:
            # One statement is a transaction of its own: one way to the server and back.
            for table, places in parts.items():
                await self._append_to(table, frames, places, is_new, written)
        else:
            async with self._connection.transaction():
                for table, places in parts.items():
                    await self._append_to(table, frames, places, is_new, written)
        for table, (position, arrival) in written.items():
            self._written[table] = (position, max(arrival, self._written.get(table, (0, 0))[1]))
        return is_new

    async def _append_to(
        self,
        table: str,
        frames: Sequence[StoredFrame],
        places: Sequence[int],
        is_new: list[bool],
        written: dict[str, tuple[int, int]],
    ) -> None:
        if table != _OTHER and table not in self._days:
            await self._make_day(table)
        numbers = self._numbers
        vehicles = [numbers[frames[place].vin] for place in places]
        reported, digests, arrivals, forms, clears, received, faults = zip(
            *[pack(frames[place]) for place in places], strict=True
        )
        times = [at_s - _EPOCH_2000_S for at_s in reported]
        sql = _INSERT.format(table=table, time="int8" if table == _OTHER else "int4")
        count, position, *added = await self._connection.fetchrow(
            sql,
            digests,
            arrivals,
            vehicles,
            times,
            forms,
            [each or b"" for each in received],
            [each or "" for each in faults],
            clears,
            len(places),
            self._writer,
        )
        if count < len(places):
            fresh = set(zip(*[each or () for each in added], strict=True))
            for place, *key, arrival in zip(places, vehicles, times, digests, arrivals, strict=True):
                if tuple(key) in fresh:
                    fresh.discard(tuple(key))
                else:
                    is_new[place] = self._has_failed and await self._is_there(table, key, arrival)
        if position is not None:
            written[table] = (position, max(arrivals))

    async def _is_there(self, table: str, key: Sequence[int], arrival: int) -> bool:
        """Whether the frame that is there is this very one, from a call that seemed to fail."""
        sql = f"SELECT arrived_at_ns FROM {table} WHERE vehicle = $1 AND reported_s2000 = $2 AND digest = $3"
        return bool(await self._connection.fetchval(sql, *key) == arrival)

    async def _number(self, vins: set[str]) -> None:
        if not vins:
            return
        names = sorted(vins)
        await self._connection.execute(
            "INSERT INTO frame_vehicle (vin) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING", names
        )
        rows = await self._connection.fetch("SELECT vin, number FROM frame_vehicle WHERE vin = ANY($1::text[])", names)
        self._numbers.update((row[0], row[1]) for row in rows)

    async def _make_day(self, table: str) -> None:
        begin = _begin_of(table)
        await self._connection.execute(
            f"CREATE TABLE IF NOT EXISTS {table} PARTITION OF frame FOR VALUES FROM ({begin}) TO ({begin + _DAY_S})"
        )
        self._days.add(table)

    def _table_of(self, frame: StoredFrame) -> str:
        if not frame.is_time_plausible:
            return _OTHER
        day = _table_of_day(frame.reported_at_s // _DAY_S)
        return day if day in self._days or has_day(frame) else _OTHER

    async def _save(self, states: Sequence[StateRow], events: Sequence[VehicleEvent], mark: Mark) -> None:
        connection = self._connection
        # Of a vehicle that is there twice only the last counts, and one statement may not touch a row twice.
        rows = {state.vin: state for state in states}.values()
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock_shared($1, 0)", _DERIVED_LOCK)
            count = await connection.fetchval("SELECT count FROM takeover")
            if count != self._takeovers:
                self._takeovers = count
                raise overtaken()
            if rows:
                await connection.execute(
                    _STATES,
                    [row.vin for row in rows],
                    [row.last_seen_at_ns for row in rows],
                    [row.reported_at_s for row in rows],
                    [row.heard_at_ns for row in rows],
                    [row.is_time_plausible for row in rows],
                    [row.soc_pct for row in rows],
                    [row.speed_kmh for row in rows],
                    [row.alarm_level for row in rows],
                    [row.frames for row in rows],
                    [row.memory for row in rows],
                )
            if events:
                await connection.execute(_EVENTS, *_columns_of(events))
            if mark.places:
                names, positions, arrivals = zip(*mark.places, strict=True)
                await connection.execute(_PARTITIONS, names, positions, arrivals)
                await connection.execute(
                    "INSERT INTO report_mark (writer, place, derived_to) VALUES ($1, $2, $3) ON CONFLICT (writer, place)"
                    " DO UPDATE SET derived_to = greatest(report_mark.derived_to, excluded.derived_to)",
                    self._writer if mark.writer is None else mark.writer,
                    _MARK,
                    max(positions),
                )

    def replace_events(self, vin: str, since_s: int, until_s: int, events: Sequence[VehicleEvent]) -> None:
        """See `TelemetryStore.replace_events`."""

        async def work() -> None:
            async with self._connection.transaction():
                await self._connection.execute(
                    "DELETE FROM vehicle_event WHERE vin = $1 AND at_s >= $2 AND at_s < $3", vin, since_s, until_s
                )
                if events:
                    await self._connection.execute(_EVENTS, *_columns_of(events))

        with self._lock:
            self._run(work())

    # --- reading ----------------------------------------------------------------------------------------------------------

    def page(
        self, vin: str, request: PageRequest, since_s: int | None, until_s: int | None
    ) -> tuple[tuple[StoredFrame, ...], int]:
        """Newest first: the frames of the page, and how many there are in all."""
        values = {"vin": vin, "size": request.size, "offset": request.offset, **_bounds(since_s, until_s)}
        both = _both(_OF_VEHICLE, since_s, until_s)
        with self._database.reading() as connection:
            total = connection.execute(text(f"SELECT count(*) FROM ({both}) AS found"), values).scalar_one()
            rows = connection.execute(
                text(
                    f"SELECT * FROM ({both}) AS found ORDER BY at DESC, arrived_at_ns DESC, position DESC LIMIT :size OFFSET :offset"
                ),
                values,
            ).all()
        return tuple(unpack(vin, row[2:]) for row in rows), int(total)

    def read(self, vin: str, since_s: int, until_s: int) -> Iterator[StoredFrame]:
        """Oldest first, in pieces of their own transactions."""
        values: dict[str, Any] = {"vin": vin, "size": _CHUNK_ROWS, **_bounds(since_s, until_s)}
        both = _both(_OF_VEHICLE, since_s, until_s)
        more = ""
        while True:
            sql = f"SELECT * FROM ({both}) AS found {more} ORDER BY at, arrived_at_ns, position LIMIT :size"
            with self._database.reading() as connection:
                rows = connection.execute(text(sql), values).all()
            for row in rows:
                yield unpack(vin, row[2:])
            if len(rows) < _CHUNK_ROWS:
                return
            more = "WHERE (at, arrived_at_ns, position) > (:at, :arrived, :position)"
            values |= {"at": rows[-1][0], "arrived": rows[-1][3], "position": rows[-1][1]}

    def unread(self, limit: int) -> Unread:
        """See `TelemetryStore.unread`."""
        with self._lock:
            self._run(self._nothing())
            return self._unread(limit, self._writer)

    def _unread(self, limit: int, writer: int) -> Unread:
        select = (
            "SELECT position, vin, {name} AS place, {columns} FROM {table} JOIN frame_vehicle ON number = vehicle"
            " WHERE writer = :writer AND position > :mark"
        )
        plain = select.format(table="frame", name="frame.tableoid::regclass::text", columns=_COLUMNS)
        other = select.format(table=_OTHER, name=f"'{_OTHER}'", columns=_COLUMNS)
        behind = (
            "SELECT newest_position, coalesce(derived_to, 0) FROM report_writer"
            " LEFT JOIN report_mark ON writer = number AND place = :place WHERE number = :writer"
        )
        with self._database.reading() as connection:
            found = connection.execute(text(behind), {"writer": writer, "place": _MARK}).one_or_none()
            if found is None or found[0] <= found[1]:
                return Unread((), Mark((), writer))
            rows = connection.execute(
                text(f"SELECT * FROM ({plain} UNION ALL {other}) AS found ORDER BY position LIMIT :limit"),
                {"writer": writer, "mark": found[1], "limit": limit},
            ).all()
        places: dict[str, tuple[int, int]] = {}
        for row in rows:
            places[row[2]] = (row[0], max(row[4], places.get(row[2], (0, 0))[1]))
        return Unread(
            tuple(unpack(row[1], row[3:]) for row in rows),
            Mark(tuple((name, *place) for name, place in places.items()), writer),
        )

    # --- other writers ----------------------------------------------------------------------------------------------------

    @contextmanager
    def taking_over(self, limit: int) -> Iterator[Unread]:
        """See `TelemetryStore.taking_over`."""
        with self._lock:
            for number in self._run(self._others()):
                if not self._run(self._lock_writer(number)):
                    continue
                try:
                    self._run(self._be_alone())
                    try:
                        unread = self._unread(limit, number)
                        if unread.frames:
                            self._takeovers = self._run(self._count_takeover())
                            yield unread
                            return
                    finally:
                        self._run(self._unlock(_DERIVED_LOCK, 0))
                    self._run(self._strike(number))
                finally:
                    self._run(self._unlock(_WRITER_LOCK, number))
            yield Unread((), Mark())

    async def _others(self) -> list[int]:
        rows = await self._connection.fetch(
            "SELECT number FROM report_writer WHERE number <> $1 ORDER BY number", self._writer
        )
        return [number for (number,) in rows]

    async def _lock_writer(self, number: int) -> bool:
        return bool(await self._connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _WRITER_LOCK, number))

    async def _unlock(self, kind: int, number: int) -> None:
        await self._connection.fetchval("SELECT pg_advisory_unlock($1, $2)", kind, number)

    async def _be_alone(self) -> None:
        await self._connection.execute("SELECT pg_advisory_lock($1, 0)", _DERIVED_LOCK)

    async def _count_takeover(self) -> int:
        return int(await self._connection.fetchval("UPDATE takeover SET count = count + 1 RETURNING count"))

    async def _strike(self, number: int) -> None:
        async with self._connection.transaction():
            await self._connection.execute("DELETE FROM report_mark WHERE writer = $1", number)
            await self._connection.execute("DELETE FROM report_writer WHERE number = $1", number)

    async def _nothing(self) -> None:
        """Be connected."""

    async def _register(self) -> None:
        """Get a name, its number, and the lock on it.

        Raises:
            ConfigurationError: the process is to have one name and no other, and another process has it.
            StorageUnavailableError: the name that this process had is not free yet.
        """
        connection = self._connection
        for _ in range(round(OWN_NAME_TIMEOUT_S / _OWN_NAME_EVERY_S)):
            for name in self._names:
                number = await connection.fetchval("SELECT number FROM report_writer WHERE name = $1", name)
                if number is None:
                    number = await connection.fetchval(
                        "INSERT INTO report_writer (name, newest_position) VALUES ($1, 0) ON CONFLICT DO NOTHING"
                        " RETURNING number",
                        name,
                    )
                if number is None or not await self._lock_writer(number):
                    continue
                # Who takes over strikes names.
                if await connection.fetchval("SELECT name FROM report_writer WHERE number = $1", number) == name:
                    self._writer, self._names = number, (name,)
                    if self._takeovers is None:
                        self._takeovers = await connection.fetchval("SELECT count FROM takeover")
                    return
                await self._unlock(_WRITER_LOCK, number)
            await asyncio.sleep(_OWN_NAME_EVERY_S)
        if self._takeovers is None:
            raise taken_name(self._names[0])
        raise StorageUnavailableError(
            f"telemetry database: the connection that was lost still has the name {self._names[0]!r}; it is free soon",
            code="storage-busy",
        )

    # --- dropping ---------------------------------------------------------------------------------------------------------

    def prune(self, arrived_before_ns: int) -> int:
        """See `TelemetryStore.prune`."""
        with self._lock:
            days = self._run(self._old_days(arrived_before_ns))
        count = 0
        for table, derived_to in days:
            with self._lock:
                count += self._run(self._drop(table, derived_to, arrived_before_ns))
        while True:
            with self._lock:
                deleted = self._run(self._delete_others(arrived_before_ns))
            count += deleted
            if deleted < _DELETE_ROWS:
                return count

    async def _old_days(self, arrived_before_ns: int) -> list[tuple[str, int]]:
        rows = await self._connection.fetch(
            "SELECT c.relname, coalesce(p.derived_to, 0) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " LEFT JOIN report_partition p ON p.name = c.relname"
            " WHERE i.inhparent = 'frame'::regclass AND coalesce(p.newest_arrival_ns, 0) < $1 ORDER BY c.relname",
            arrived_before_ns,
        )
        return [(name, derived_to) for name, derived_to in rows]

    async def _drop(self, table: str, derived_to: int, arrived_before_ns: int) -> int:
        connection = self._connection
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                # In the order in which an insert through the parent takes them; nobody adds to it while it goes.
                await connection.execute("LOCK TABLE ONLY frame IN ACCESS EXCLUSIVE MODE")
                await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                younger = await connection.fetchval(
                    f"SELECT EXISTS (SELECT FROM {table} WHERE position > $1 AND arrived_at_ns >= $2)",
                    derived_to,
                    arrived_before_ns,
                )
                if younger:
                    return 0
                estimate = await connection.fetchval(
                    "SELECT reltuples::int8 FROM pg_class WHERE oid = $1::text::regclass", table
                )
                await connection.execute(f"DROP TABLE {table}")
                await connection.execute("DELETE FROM report_partition WHERE name = $1", table)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.UndefinedTableError):
            # Somebody reads it just now, or another process has dropped it: the next look will see.
            self._days.discard(table)
            return 0
        self._days.discard(table)
        self._written.pop(table, None)
        return max(0, int(estimate))

    async def _delete_others(self, arrived_before_ns: int) -> int:
        done = await self._connection.execute(
            "DELETE FROM frame_other WHERE position IN"
            " (SELECT position FROM frame_other WHERE arrived_at_ns < $1 ORDER BY position LIMIT $2)",
            arrived_before_ns,
            _DELETE_ROWS,
        )
        return int(done.split()[1])

    def close(self) -> None:
        with self._lock:
            if self._loop is None:
                return
            if self._connection is not None:
                with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                    self._complete(self._connection.close(timeout=_CONNECT_TIMEOUT_S))
                self._connection = None
            self._loop.close()
            self._loop = None

    # --- the connection ---------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Under the lock: run *work* on the connection, which is opened first if it is not there.

        Raises:
            StorageUnavailableError: the server is away, silent, full, or refuses. The connection is closed, so the next call begins
                with another.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        try:
            return self._complete(self._connected(work))
        except StorageUnavailableError:
            raise
        except asyncpg.UndefinedTableError as error:
            # Another process has dropped a day; with the next try it is made again.
            self._days.clear()
            raise StorageUnavailableError(f"telemetry database: {error}", code="storage-busy") from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            if isinstance(error, asyncpg.DataError | ValueError):
                # A value that no column takes: trying again changes nothing.
                raise
            self._abandon()
            refusal = unavailable_from(error)
            code = "storage-failed" if refusal is None else refusal.code
            raise StorageUnavailableError(
                f"telemetry database: {str(error) or type(error).__name__}", code=code
            ) from error
        except BaseException:
            self._abandon()
            raise

    def _complete(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run *work* in this thread, or in another if this one is in the middle of an event loop of its own."""
        assert self._loop is not None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._loop.run_until_complete(work)
        with ThreadPoolExecutor(1) as other:
            return other.submit(self._loop.run_until_complete, work).result()

    async def _connected(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._dsn,
                    timeout=_CONNECT_TIMEOUT_S,
                    command_timeout=_COMMAND_TIMEOUT_S,
                    server_settings=_SERVER_SETTINGS,
                )
                try:
                    # What is acknowledged is on the disk, whatever the server's default is.
                    await self._connection.execute(
                        "SELECT set_config('synchronous_commit', 'on', false)"
                        " WHERE current_setting('synchronous_commit') = 'off'"
                    )
                    await self._register()
                except BaseException:
                    self._abandon()
                    raise
                rows = await self._connection.fetch(
                    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                    " WHERE i.inhparent = 'frame'::regclass"
                )
                self._days = {name for (name,) in rows}
        except BaseException:
            work.close()
            raise
        return await work

    def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


@lru_cache(maxsize=1024)
def _table_of_day(day: int) -> str:
    """*day* counts from 1970-01-01."""
    return f"frame_{datetime.fromtimestamp(day * _DAY_S, UTC):%Y%m%d}"


def _begin_of(table: str) -> int:
    """The first second of a day's partition, since 2000."""
    day = datetime.strptime(table.removeprefix("frame_"), "%Y%m%d").replace(tzinfo=UTC)
    return (day - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def _columns_of(events: Sequence[VehicleEvent]) -> tuple[list[Any], ...]:
    return (
        [event.vin for event in events],
        [event.at_s for event in events],
        [event.sequence for event in events],
        [event.kind for event in events],
        [event.subject for event in events],
        [event.value for event in events],
        [event.detail for event in events],
    )


def _bounds(since_s: int | None, until_s: int | None) -> dict[str, int]:
    found = {}
    if since_s is not None:
        found["since"] = since_s - _EPOCH_2000_S
    if until_s is not None:
        found["until"] = until_s - _EPOCH_2000_S
    return found


def _both(condition: str, since_s: int | None, until_s: int | None) -> str:
    """Frames of both tables: at, position, then the columns of `unpack`."""
    parts = []
    for table, at in (("frame", _AT), (_OTHER, _AT_OTHER)):
        where = condition
        if since_s is not None:
            where += f" AND {at} >= :since"
        if until_s is not None:
            where += f" AND {at} < :until"
        parts.append(f"SELECT ({at})::int8 AS at, position, {_COLUMNS} FROM {table} WHERE {where}")
    return " UNION ALL ".join(parts)
