"""Frames on PostgreSQL: a table with a partition for each day of report time (UTC).

    frame             partitioned by `reported_s2000`, seconds since 2000-01-01 UTC: four bytes until 2068
    frame_20261129    the partition of a day
    frame_other       frames that may not begin a partition (see `has_day`), and late ones of days that are in blocks
    frame_vehicle     VIN <-> number
    report_writer     the processes that write: each row of a frame has its writer's number
    report_mark       how far each writer's frames have been derived
    block, sealed_... days that are over for long enough, compressed, and what is on its way there: `blocks_postgresql.py`

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
from itertools import islice
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg
from sqlalchemy import make_url, text

from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.telemetry import Compacted, FramePage, HotPartition, Mark, Unread
from bmsota_cloud.storage.sql._compacting import compact_hour
from bmsota_cloud.storage.sql._packing import TIME_IMPLAUSIBLE, digest_of, has_day, pack, unpack
from bmsota_cloud.storage.sql._reading import HOUR_S, ROWS_LIMIT, Found, FrameCounts, StoredBlock
from bmsota_cloud.storage.sql._unavailable import unavailable_from
from bmsota_cloud.storage.sql._writers import OWN_NAME_TIMEOUT_S, names_for, overtaken, taken_name
from bmsota_cloud.storage.sql.blocks_postgresql import (
    EPOCH_2000_S,
    OTHER,
    OTHER_IS_DERIVED,
    ROW_COLUMNS,
    PostgresqlHourTables,
    blocks_between,
    late_hours,
    next_hours,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from sqlalchemy import Connection

    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.telemetry import StateRow, StoredFrame, VehicleEvent
    from bmsota_cloud.storage.sql._engine import SqlDatabase
    from bmsota_cloud.storage.sql._reading import BlockReader

__all__ = ["PostgresqlFrames"]

_DAY_S: Final = 86_400
_CONNECT_TIMEOUT_S: Final = 10.0
# A batch takes milliseconds. A server that is silent for this long is away, and the batch is tried again. Less than a process has
# for its end.
_COMMAND_TIMEOUT_S: Final = 20.0
_CHUNK_ROWS: Final = 1000
_DELETE_ROWS: Final = 500
_OWN_NAME_EVERY_S: Final = 0.1
_LOCK_TIMEOUT: Final = "2s"
# The first half of advisory locks, any number of our own; the second is a writer's number, or 0.
_WRITER_LOCK: Final = 0x626D_0001
_DERIVED_LOCK: Final = 0x626D_0002
_DAYS_LOCK: Final = 0x626D_0003
# A machine that is gone says nothing: its locks are free after half a minute.
_SERVER_SETTINGS: Final = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
_MARK: Final = "frame"
# "bmsoblk" as a number: the advisory lock under which one process at a time compacts.
_COMPACT_LOCK: Final = 0x626D736F626C6B
# Wider than any time of a frame; the columns of whole days have four bytes, `frame_other` eight.
_ALWAYS_S: Final = 2**62

_INSERT: Final = """
WITH added AS (
    INSERT INTO {table} (digest, arrived_at_ns, vehicle, reported_s2000, form, received, fault, clear, writer)
    SELECT *, $10::int4 FROM unnest($1::int8[], $2::int8[], $3::int4[], $4::{time}[], $5::int2[], $6::bytea[], $7::text[], $8::bytea[])
    {where}ON CONFLICT DO NOTHING RETURNING digest, vehicle, reported_s2000, position
), noted AS (
    UPDATE report_writer SET newest_position = greatest(newest_position, (SELECT max(position) FROM added)) WHERE number = $10::int4
)
SELECT count(*), max(position),
    CASE WHEN count(*) < $9 THEN array_agg(vehicle) END,
    CASE WHEN count(*) < $9 THEN array_agg(reported_s2000) END,
    CASE WHEN count(*) < $9 THEN array_agg(digest) END
FROM added
"""
# A report that came before, when its time was not plausible, stays where it is.
_NOT_IN_OTHER: Final = f"""AS sent (d, a, v, t, f, r, w, c)
    WHERE NOT EXISTS (SELECT FROM {OTHER} WHERE vehicle = v AND reported_s2000 = t AND digest = d)
    """
_STATES: Final = """
INSERT INTO newest_state
    (vin, last_seen_at_ns, reported_at_s, heard_at_ns, is_time_plausible, soc_pct, speed_kmh, alarm_level, frames, memory,
    latitude_deg, longitude_deg, is_position_valid)
SELECT * FROM unnest(
    $1::text[], $2::int8[], $3::int8[], $4::int8[], $5::bool[], $6::float8[], $7::float8[], $8::int4[], $9::bytea[], $10::bytea[],
    $11::float8[], $12::float8[], $13::bool[])
ON CONFLICT (vin) DO UPDATE SET
    last_seen_at_ns = excluded.last_seen_at_ns, reported_at_s = excluded.reported_at_s, heard_at_ns = excluded.heard_at_ns,
    is_time_plausible = excluded.is_time_plausible, soc_pct = excluded.soc_pct, speed_kmh = excluded.speed_kmh,
    alarm_level = excluded.alarm_level, frames = excluded.frames, memory = excluded.memory,
    latitude_deg = excluded.latitude_deg, longitude_deg = excluded.longitude_deg, is_position_valid = excluded.is_position_valid
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
# Whether nobody has left a frame of a table underived. Who has nothing behind the mark is not looked for: so it is the block range
# index that answers.
_IS_DERIVED: Final = """NOT EXISTS (
    WITH behind AS (
        SELECT number, coalesce(derived_to, 0) AS derived_to FROM report_writer
        LEFT JOIN report_mark ON report_mark.writer = number AND place = 'frame' WHERE newest_position > coalesce(derived_to, 0)
    )
    SELECT FROM {table} AS kept JOIN behind ON number = kept.writer
    WHERE kept.position > derived_to AND kept.position > (SELECT min(derived_to) FROM behind)
)"""
# Where a frame stands in time.
_AT: Final = "reported_s2000"
_AT_OTHER: Final = (
    f"CASE WHEN form & {TIME_IMPLAUSIBLE} <> 0 THEN arrived_at_ns / 1000000000 - {EPOCH_2000_S} ELSE reported_s2000 END"
)
_OF_VEHICLE: Final = "vehicle = (SELECT number FROM frame_vehicle WHERE vin = :vin)"

_Result = TypeVar("_Result")


class PostgresqlFrames:
    """The frames of a telemetry store on PostgreSQL. Every method may be called from any thread."""

    def __init__(
        self, url: str, database: SqlDatabase, reader: BlockReader, *, writer: str, is_writer_fixed: bool
    ) -> None:
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
        self._closed: set[str] = set()
        """Days that are sealed or in blocks, by the name of their partition of rows."""
        self._knows_days = False
        self._reader = reader
        self._compacting: dict[str, tuple[int, int]] = {}
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
        if missing := {frame.vin for frame in frames if frame.vin not in self._numbers}:
            await self._number(missing)
        parts = self._parts(frames)
        if any(table not in self._days for table in parts):
            # Another process may have made such a day, compacted or dropped it.
            await self._find_days()
            parts = self._parts(frames)
            for table in parts:
                if table != OTHER and table not in self._days:
                    await self._make_day(table)
        written: dict[str, tuple[int, int]] = {}
        late = [place for place in parts.get(OTHER, ()) if self._has_day(frames[place])]
        if len(parts) == 1 and not late:
            # One statement is a transaction of its own: one way to the server and back.
            for table, places in parts.items():
                await self._append_to(table, frames, places, is_new, written)
        else:
            async with self._connection.transaction():
                for table, places in parts.items():
                    await self._append_to(table, frames, places, is_new, written)
                if late:
                    await self._strike_what_has_a_day(frames, late, is_new)
        for table, (position, arrival) in written.items():
            self._written[table] = (position, max(arrival, self._written.get(table, (0, 0))[1]))
        return is_new

    def _parts(self, frames: Sequence[StoredFrame]) -> dict[str, list[int]]:
        parts: dict[str, list[int]] = {}
        days: dict[int, list[int]] = {}
        for place, frame in enumerate(frames):
            day = frame.reported_at_s // _DAY_S
            # Nearly always all of them are of one day, which has a table already.
            if not frame.is_time_plausible or (found := days.get(day)) is None:
                table = self._table_of(frame)
                found = parts.setdefault(table, [])
                if table in self._days:
                    days[day] = found
            found.append(place)
        return parts

    def _has_day(self, frame: StoredFrame) -> bool:
        day = _table_of_day(frame.reported_at_s // _DAY_S)
        return day in self._days or day in self._closed

    async def _strike_what_has_a_day(
        self, frames: Sequence[StoredFrame], places: Sequence[int], is_new: list[bool]
    ) -> None:
        """Late reports: one that is there in the sealed rows of its day or in a block is taken out again.

        So is one whose time is not plausible now, because the clock has been set back, and was when it came before. Looked at behind the insert, and where frames are moved from first, so that one that is moved meanwhile is seen.
        """
        keys: dict[int, tuple[int, int, int]] = {}
        tables: dict[str, list[tuple[int, int, int]]] = {}
        for place in places:
            if is_new[place]:
                at_s, digest, *_ = pack(frames[place])
                key = (self._numbers[frames[place].vin], at_s - EPOCH_2000_S, digest)
                keys[place] = key
                day = _table_of_day(at_s // _DAY_S)
                # What is sealed has another name, but the same parent.
                tables.setdefault("frame" if day in self._closed else day, []).append(key)
        there: dict[tuple[int, int, int], int] = {}
        for table, asked in tables.items():
            rows = await self._connection.fetch(
                f"SELECT vehicle, reported_s2000, digest, arrived_at_ns FROM {table} JOIN"
                " unnest($1::int4[], $2::int4[], $3::int8[]) AS key (v, t, d) ON vehicle = v AND reported_s2000 = t AND digest = d",
                *zip(*asked, strict=True),
            )
            there.update(((row[0], row[1], row[2]), row[3]) for row in rows)
        if closed := tables.get("frame"):
            vins = {self._numbers[frames[place].vin]: frames[place].vin for place in keys}
            hours = {(vehicle, at_s - at_s % HOUR_S) for vehicle, at_s, _ in closed}
            rows = await self._connection.fetch(
                "SELECT vehicle, since_s2000, until_s2000, frames, data FROM block"
                " JOIN unnest($1::int4[], $2::int4[]) AS key (v, h)"
                f" ON vehicle = v AND since_s2000 >= h AND since_s2000 < h + {HOUR_S}",
                *zip(*hours, strict=True),
            )
            for vehicle, since, until, count, data in rows:
                block = StoredBlock(since + EPOCH_2000_S, until + EPOCH_2000_S, count, data)
                for row in self._reader.rows(vins[vehicle], block) or ():
                    there[vehicle, row[0] - EPOCH_2000_S, digest_of(row)] = row[1]
        for place, key in keys.items():
            arrival = there.get(key)
            if arrival is not None:
                await self._connection.execute(
                    f"DELETE FROM {OTHER} WHERE vehicle = $1 AND reported_s2000 = $2 AND digest = $3", *key
                )
                is_new[place] = self._has_failed and arrival == frames[place].arrived_at_ns

    async def _append_to(
        self,
        table: str,
        frames: Sequence[StoredFrame],
        places: Sequence[int],
        is_new: list[bool],
        written: dict[str, tuple[int, int]],
    ) -> None:
        numbers = self._numbers
        vehicles = [numbers[frames[place].vin] for place in places]
        reported, digests, arrivals, forms, clears, received, faults = zip(
            *[pack(frames[place]) for place in places], strict=True
        )
        times = [at_s - EPOCH_2000_S for at_s in reported]
        if table == OTHER:
            sql = _INSERT.format(table=table, time="int8", where="")
        else:
            sql = _INSERT.format(table=table, time="int4", where=_NOT_IN_OTHER)
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
        key_is = "vehicle = $1 AND reported_s2000 = $2 AND digest = $3"
        sql = " UNION ALL ".join(f"SELECT arrived_at_ns FROM {each} WHERE {key_is}" for each in sorted({table, OTHER}))
        return bool(await self._connection.fetchval(sql, *key) == arrival)

    async def _number(self, vins: set[str]) -> None:
        names = sorted(vins)
        await self._connection.execute(
            "INSERT INTO frame_vehicle (vin) SELECT * FROM unnest($1::text[]) ON CONFLICT DO NOTHING", names
        )
        rows = await self._connection.fetch("SELECT vin, number FROM frame_vehicle WHERE vin = ANY($1::text[])", names)
        self._numbers.update((row[0], row[1]) for row in rows)

    async def _make_day(self, table: str) -> None:
        begin = _begin_of(table)
        async with self._connection.transaction():
            await self._connection.execute("SELECT pg_advisory_xact_lock($1, 0)", _DAYS_LOCK)
            if await self._connection.fetchval(
                "SELECT to_regclass($1) IS NOT NULL OR to_regclass($2) IS NOT NULL",
                _sealed_of(table),
                table.replace("frame_", "block_"),
            ):
                self._knows_days = False
                raise StorageUnavailableError(
                    f"telemetry database: another process has compacted {table}; try again", code="storage-busy"
                )
            await self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS {table} PARTITION OF frame FOR VALUES FROM ({begin}) TO ({begin + _DAY_S})"
            )
        self._days.add(table)

    def _table_of(self, frame: StoredFrame) -> str:
        if not frame.is_time_plausible:
            return OTHER
        day = _table_of_day(frame.reported_at_s // _DAY_S)
        return day if day in self._days or (has_day(frame) and day not in self._closed) else OTHER

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
                await connection.execute(_STATES, *zip(*rows, strict=True))
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

    def page(self, vin: str, request: PageRequest, since_s: int | None, until_s: int | None) -> FramePage:
        """Newest first."""
        begin, end = _range(since_s, until_s)
        source = _VehicleFrames(self._database, vin)
        total = self._reader.count(source, vin, begin, end)
        limit = min(ROWS_LIMIT, request.offset + request.size + 1)
        unreadable: dict[int, int] = {}
        found = self._reader.in_order(source, vin, begin, end, newest_first=True, limit=limit, unreadable=unreadable)
        rows = islice(found, request.offset, request.offset + request.size)
        items = tuple(unpack(vin, row) for _, row in rows)
        return FramePage(
            items=items,
            total=total,
            number=request.number,
            size=request.size,
            unreadable=sum(unreadable.values()),
        )

    def read(self, vin: str, since_s: int, until_s: int) -> Iterator[StoredFrame]:
        """Oldest first, in pieces of their own transactions."""
        for _, row in self._reader.in_order(_VehicleFrames(self._database, vin), vin, *_range(since_s, until_s)):
            yield unpack(vin, row)

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
        plain = select.format(table="frame", name="frame.tableoid::regclass::text", columns=ROW_COLUMNS)
        other = select.format(table=OTHER, name=f"'{OTHER}'", columns=ROW_COLUMNS)
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

    # --- compacting -------------------------------------------------------------------------------------------------------

    def hot(self) -> list[HotPartition]:
        """See `TelemetryStore.hot`."""
        found = []
        with self._database.reading() as connection:
            rows = connection.execute(
                text(
                    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                    " WHERE i.inhparent = 'frame'::regclass ORDER BY right(c.relname, 8)"
                )
            ).scalars()
            for table in rows.all():
                sql = f"SELECT arrived_at_ns, {_IS_DERIVED.format(table=table)} FROM {table} LIMIT 1"
                first = connection.execute(text(sql)).first()
                day = _day_of(table)
                # One that is empty is soon dropped when it is sealed.
                arrival, is_derived = (0, True) if first is None else first
                if first is not None or table != day:
                    found.append(HotPartition(day, _begin_of(day) + EPOCH_2000_S + _DAY_S, arrival, is_derived))
            late = connection.execute(
                text(
                    f"SELECT min(arrived_at_ns), bool_and({OTHER_IS_DERIVED}) FROM {OTHER}"
                    f" WHERE form & {TIME_IMPLAUSIBLE} = 0 AND reported_s2000 / {_DAY_S} = ANY(:days)"
                ),
                {"days": _days_in_blocks(connection)},
            ).one()
            if late[0] is not None:
                found.append(HotPartition(OTHER, 0, late[0], late[1]))
        return found

    def compact(self, name: str, hours: int) -> Compacted:
        """See `TelemetryStore.compact`."""
        if name != OTHER and name not in self._compacting:
            with self._lock:
                self._run(self._seal(name))
        table = OTHER if name == OTHER else _sealed_of(name)
        after = self._compacting.get(name, (0, 0))
        with self._database.writing() as connection:
            if not connection.execute(
                text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _COMPACT_LOCK}
            ).scalar_one():
                return Compacted(0, is_done=False)
            if name == OTHER:
                pairs = late_hours(connection, _days_in_blocks(connection), after, hours)
            elif connection.execute(text("SELECT to_regclass(:table)"), {"table": table}).scalar_one() is None:
                # Another process was faster.
                self._compacting.pop(name, None)
                return Compacted(0, is_done=True)
            elif (
                name not in self._compacting
                and not connection.execute(text(f"SELECT {_IS_DERIVED.format(table=table)}")).scalar_one()
            ):
                return Compacted(0, is_done=False)
            else:
                pairs = next_hours(connection, table, after, hours)
            for vehicle, hour_s in pairs:
                vin = connection.execute(
                    text("SELECT vin FROM frame_vehicle WHERE number = :number"), {"number": vehicle}
                ).scalar_one()
                tables = PostgresqlHourTables(vin, vehicle, connection, table)
                compact_hour(tables, hour_s, self._reader)
                if name == OTHER and tables.newest_arrival_ns:
                    _keep_until(connection, _table_of_day(hour_s // _DAY_S), tables.newest_arrival_ns)
        if pairs:
            self._compacting[name] = pairs[-1]
            return Compacted(len(pairs), is_done=False)
        if name != OTHER:
            with self._lock:
                if not self._run(self._drop_sealed(table)):
                    return Compacted(0, is_done=False)
        self._compacting.pop(name, None)
        return Compacted(0, is_done=True)

    async def _seal(self, day: str) -> None:
        """From now on nobody adds to the rows of *day*; no effect if that is so already."""
        connection = self._connection
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            await connection.execute("SELECT pg_advisory_xact_lock($1, 0)", _DAYS_LOCK)
            begin = _begin_of(day)
            blocks = day.replace("frame_", "block_")
            # In the order in which readers lock them.
            await connection.execute(f"ALTER TABLE IF EXISTS {day} RENAME TO {_sealed_of(day)}")
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {blocks} PARTITION OF block FOR VALUES FROM ({begin}) TO ({begin + _DAY_S})"
            )
        self._days.discard(day)
        self._closed.add(day)

    async def _drop_sealed(self, table: str) -> bool:
        """Under the lock: whether the rows, which are all in blocks, could be dropped."""
        connection = self._connection
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                await connection.execute("LOCK TABLE ONLY frame IN ACCESS EXCLUSIVE MODE")
                await connection.execute(f"DROP TABLE IF EXISTS {table}")
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            return False
        return True

    # --- dropping ---------------------------------------------------------------------------------------------------------

    def prune(self, arrived_before_ns: int) -> int:
        """See `TelemetryStore.prune`."""
        with self._lock:
            days = self._run(self._old_days(arrived_before_ns))
        count = 0
        for day, tables, derived_to in days:
            with self._lock:
                count += self._run(self._drop(day, tables, derived_to, arrived_before_ns))
        while True:
            with self._lock:
                deleted = self._run(self._delete_others(arrived_before_ns))
            count += deleted
            if deleted < _DELETE_ROWS:
                return count

    async def _old_days(self, arrived_before_ns: int) -> list[tuple[str, list[str], int]]:
        """Day by the name of its rows, its tables, and how far it has been derived."""
        rows = await self._connection.fetch(
            "SELECT day, tables, coalesce(p.derived_to, 0) FROM ("
            " SELECT 'frame_' || right(c.relname, 8) AS day, array_agg(c.relname ORDER BY c.relname) AS tables"
            " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent IN ('frame'::regclass, 'block'::regclass) GROUP BY day) AS found"
            " LEFT JOIN report_partition p ON p.name = day WHERE coalesce(p.newest_arrival_ns, 0) < $1 ORDER BY day",
            arrived_before_ns,
        )
        return [(day, tables, derived_to) for day, tables, derived_to in rows]

    async def _drop(self, day: str, tables: Sequence[str], derived_to: int, arrived_before_ns: int) -> int:
        connection = self._connection
        begin = _begin_of(day)
        count = 0
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                # In the order in which an insert through the parent takes them; nobody adds to it while it goes.
                await connection.execute("LOCK TABLE ONLY frame, ONLY block IN ACCESS EXCLUSIVE MODE")
                for table in tables:
                    await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                    if _is_blocks(table):
                        # What came late and is not in a block yet.
                        younger = await connection.fetchval(
                            f"SELECT EXISTS (SELECT FROM {OTHER} WHERE reported_s2000 >= $1 AND reported_s2000 < $2"
                            f" AND form & {TIME_IMPLAUSIBLE} = 0 AND arrived_at_ns >= $3)",
                            begin,
                            begin + _DAY_S,
                            arrived_before_ns,
                        )
                        count += await connection.fetchval(f"SELECT coalesce(sum(frames), 0) FROM {table}")
                    else:
                        younger = await connection.fetchval(
                            f"SELECT EXISTS (SELECT FROM {table} WHERE position > $1 AND arrived_at_ns >= $2)",
                            derived_to,
                            arrived_before_ns,
                        )
                        count += await connection.fetchval(
                            "SELECT greatest(reltuples::int8, 0) FROM pg_class WHERE oid = $1::text::regclass", table
                        )
                    if younger:
                        return 0
                await connection.execute(f"DROP TABLE {', '.join(tables)}")
                await connection.execute(
                    "DELETE FROM report_partition WHERE name = ANY($1::text[])", [day, _sealed_of(day)]
                )
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.UndefinedTableError):
            # Somebody reads it just now, or another process has dropped it: the next look will see.
            self._knows_days = False
            return 0
        self._days.discard(day)
        self._closed.discard(day)
        self._written.pop(day, None)
        return count

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
            # Behind a command that took too long, the driver still asks the server to give it up.
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    self._complete(_end_of(task))
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
            # Another process has dropped or sealed a day; the next try looks what there is.
            self._knows_days = False
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
                self._knows_days = False
            if not self._knows_days:
                await self._find_days()
        except BaseException:
            work.close()
            raise
        return await work

    async def _find_days(self) -> None:
        rows = await self._connection.fetch(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent IN ('frame'::regclass, 'block'::regclass)"
        )
        names = {name for (name,) in rows}
        self._days = {name for name in names if name == _day_of(name)}
        # Of a day that is in blocks and has rows again, the rows are not sealed.
        self._closed = {_day_of(name) for name in names} - self._days
        self._knows_days = True

    def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _end_of(task: asyncio.Task[Any]) -> None:
    await task


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


def _day_of(table: str) -> str:
    """The partition of rows that belongs to a sealed one or to one of blocks."""
    return f"frame_{table.rpartition('_')[2]}"


def _sealed_of(day: str) -> str:
    return day.replace("frame_", "sealed_")


def _is_blocks(table: str) -> bool:
    return table.startswith("block_")


def _days_in_blocks(connection: Connection) -> list[int]:
    """Since 2000-01-01."""
    rows = connection.execute(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'block'::regclass"
        )
    )
    return [_begin_of(_day_of(name)) // _DAY_S for (name,) in rows]


def _keep_until(connection: Connection, day: str, newest_arrival_ns: int) -> None:
    """A late report has come into *day*."""
    connection.execute(
        text(
            "INSERT INTO report_partition (name, derived_to, newest_arrival_ns) VALUES (:day, 0, :arrival)"
            " ON CONFLICT (name) DO UPDATE SET"
            " newest_arrival_ns = greatest(report_partition.newest_arrival_ns, excluded.newest_arrival_ns)"
        ),
        {"day": day, "arrival": newest_arrival_ns},
    )


def _range(since_s: int | None, until_s: int | None) -> tuple[int, int]:
    return -_ALWAYS_S if since_s is None else since_s, _ALWAYS_S if until_s is None else until_s


class _VehicleFrames:
    """`_reading.FrameSource`: the rows of days, those of `frame_other`, then blocks, statement by statement.

    Each statement sees what was committed before it, and the tables read stay locked: none of them is dropped in between.
    """

    def __init__(self, database: SqlDatabase, vin: str) -> None:
        self._database = database
        self._vin = vin

    def fetch(self, since_s: int, until_s: int, *, newest_first: bool, limit: int | None) -> Found:
        way = "DESC" if newest_first else "ASC"
        tables = []
        with self._database.reading() as connection:
            for table, at in ((("frame"), _AT), (OTHER, _AT_OTHER)):
                rows = connection.execute(
                    text(
                        f"SELECT ({at})::int8 + {EPOCH_2000_S} AS at, {ROW_COLUMNS} FROM {table}"
                        f" WHERE {_OF_VEHICLE} AND {at} >= :since AND {at} < :until"
                        f" ORDER BY {at} {way}, arrived_at_ns {way}, position {way}{'' if limit is None else ' LIMIT :limit'}"
                    ),
                    self._values(since_s, until_s) | ({} if limit is None else {"limit": limit}),
                )
                tables.append([tuple(row) for row in rows])
            blocks = blocks_between(
                connection,
                self._vin,
                since_s,
                until_s,
                newest_first=newest_first,
                is_limited=limit is not None,
            )
        return Found(tables, blocks)

    def counts(self, since_s: int, until_s: int) -> FrameCounts:
        tables = []
        with self._database.reading() as connection:
            for table, at in (("frame", _AT), (OTHER, _AT_OTHER)):
                # 2000-01-01 began with an hour.
                rows = connection.execute(
                    text(
                        f"SELECT ({at})::int8 / {HOUR_S} AS hour, count(*) FROM {table}"
                        f" WHERE {_OF_VEHICLE} AND {at} >= :since AND {at} < :until GROUP BY hour"
                    ),
                    self._values(since_s, until_s),
                )
                tables.append({hour * HOUR_S + EPOCH_2000_S: count for hour, count in rows})
            blocks = blocks_between(connection, self._vin, since_s, until_s, is_limited=False, has_data=False)
        return FrameCounts(tables, blocks)

    def _values(self, since_s: int, until_s: int) -> dict[str, Any]:
        return {"vin": self._vin, "since": since_s - EPOCH_2000_S, "until": until_s - EPOCH_2000_S}
