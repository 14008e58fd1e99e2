"""Rows on SQLite: both kinds of files give the same, by their index, and the new kind writes far less."""

import random
import sqlite3
from contextlib import closing

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.storage.sql import SqlTelemetryStore
from bmsota_cloud.storage.sql.rows_sqlite import SLICE, counts_between, next_hours, rows_between
from stored_frames import LAYOUT_1, NOON_S, VIN, everything, stored

HOUR_S = 3600
COLUMNS = "vehicle, reported_at_s, digest, arrived_at_ns, form, clear"
OTHER_VIN = "LTESTVEHICLE00002"
LAYOUT_2 = """
ALTER TABLE frame ADD COLUMN writer INTEGER NOT NULL DEFAULT 0;
CREATE TABLE writer (number INTEGER PRIMARY KEY, newest_position INTEGER NOT NULL);
PRAGMA user_version = 2;
"""


def file_of(layout):
    """Tables in memory as a file of this layout has them."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(LAYOUT_1 + LAYOUT_2)
    if layout == 3:
        connection.executescript(
            "DROP INDEX frame_key;"
            f"CREATE UNIQUE INDEX frame_key ON frame ({SLICE}, vehicle, reported_at_s, digest);"
            "PRAGMA user_version = 3;"
        )
    return connection


def filled(layout, rows):
    connection = file_of(layout)
    for number in (1, 2, 3):
        connection.execute("INSERT INTO vehicle VALUES (?, ?)", (number, f"VIN{number}"))
    connection.executemany(f"INSERT INTO frame ({COLUMNS}) VALUES (?, ?, ?, ?, 0, x'00')", rows)
    return connection


def drawn_rows(seed, hours=5):
    """Rows around the edges of slices and hours, some in one second, in a mixed order."""
    draw = random.Random(seed)
    edges = [NOON_S + n * 300 + d for n in range(hours * 12) for d in (-1, 0, 1)]
    seconds = draw.sample(edges, 40) + [NOON_S + draw.randrange(hours * HOUR_S) for _ in range(40)]
    rows = [
        (draw.choice([1, 1, 3]), at_s, draw.getrandbits(60), (at_s + draw.randrange(9)) * 10**9) for at_s in seconds
    ]
    rows += [(vehicle, at_s, digest + 1, arrival) for vehicle, at_s, digest, arrival in rows[:10]]
    draw.shuffle(rows)
    return rows


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_range_is_the_same_from_both_layouts(newest_first):
    """Whatever its ends and its limit, in whichever order."""
    rows = drawn_rows(1)
    draw = random.Random(2)
    with closing(filled(2, rows)) as plain, closing(filled(3, rows)) as sliced:
        for _ in range(200):
            since_s, until_s = sorted(
                draw.choice([NOON_S + draw.randrange(18) * 1000, NOON_S + draw.randrange(60) * 300]) for _ in range(2)
            )
            options = {"newest_first": newest_first, "limit": draw.choice([None, 1, 3, 10])}
            vin = draw.choice(["VIN1", "VIN2", "VIN3", "UNKNOWN"])
            found = [
                rows_between(each, vin, since_s, until_s, at="reported_at_s", **options) for each in (plain, sliced)
            ]
            assert found[0] == found[1]
            counts = [counts_between(each, vin, since_s, until_s, at="reported_at_s") for each in (plain, sliced)]
            assert counts[0] == counts[1]
            if options["limit"] is None:
                assert sum(counts[0].values()) == len(found[0])


@pytest.mark.parametrize("layout", [2, 3])
@pytest.mark.parametrize("slice_hours", [1, 3, 100])
def test_each_vehicle_and_hour_comes_once(layout, slice_hours):
    rows = [*drawn_rows(3), (2, NOON_S + 100 * HOUR_S, 7, 0)]
    found = []
    with closing(filled(layout, rows)) as connection:
        after = (0, 0)
        while pairs := next_hours(connection, after, slice_hours):
            assert len(pairs) <= slice_hours
            found += pairs
            after = pairs[-1]
    assert len(found) == len(set(found))
    assert set(found) == {(vehicle, at_s - at_s % HOUR_S) for vehicle, at_s, *_ in rows}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "reports").mkdir()
    return tmp_path


@pytest.mark.parametrize("layout", [2, 3])
def test_a_file_keeps_its_index_until_it_goes(folder, layout):
    """A day that was begun by the version before goes on in its layout: appended to, repeated, read, compacted."""
    path = folder / "reports" / "2026-11-22.sqlite"
    if layout == 2:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(LAYOUT_1 + LAYOUT_2)
    frames = [stored(NOON_S + n * 100, vin=vin, bodies=bytes([n])) for n in range(80) for vin in (VIN, OTHER_VIN)]
    telemetry = SqlTelemetryStore(f"sqlite:///{folder / 'telemetry.sqlite'}")
    with closing(telemetry):
        assert all(telemetry.append(frames[:100]))
        assert telemetry.append(frames[50:]) == [False] * 50 + [True] * 60
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (layout,)
            (index,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'frame_key'").fetchone()
            assert (SLICE in index) == (layout == 3)
        own = [frame for frame in frames if frame.vin == VIN]
        assert everything(telemetry) == own
        assert telemetry.frames(VIN, PageRequest(2, 30)).items == tuple(own[49:19:-1])
        telemetry.save_derived([], [], telemetry.mark())
        (partition,) = telemetry.hot()
        while not telemetry.compact(partition.name, 3).is_done:
            pass
        assert everything(telemetry) == own
        assert telemetry.append(frames) == [False] * 160
        assert not path.exists()


def test_no_query_of_a_day_looks_at_rows_of_others(folder, monkeypatch):
    """SQLite uses an index over an expression only where that is spelled as in the index; else it goes through the whole day."""
    statements = set()
    connect = sqlite3.connect

    def traced(*args, **options):
        made = connect(*args, **options)
        made.set_trace_callback(statements.add)
        return made

    monkeypatch.setattr("bmsota_cloud.storage.sql.telemetry_sqlite.sqlite3.connect", traced)
    frames = [stored(NOON_S + n * 100, vin=vin, bodies=bytes([n])) for n in range(40) for vin in (VIN, OTHER_VIN)]
    with closing(SqlTelemetryStore(f"sqlite:///{folder / 'telemetry.sqlite'}")) as telemetry:
        telemetry.append(frames)
        telemetry._on_sqlite._has_failed = True
        assert all(telemetry.append(frames[:3]))
        assert len(everything(telemetry)) == telemetry.frames(VIN, PageRequest(1, 5)).total == 40
        telemetry.save_derived([], [], telemetry.mark())
        (partition,) = telemetry.hot()
        telemetry.compact(partition.name, 3)
    asked = [each for each in statements if SLICE in each and each.startswith("SELECT")]
    assert len(asked) > 5
    with closing(file_of(3)) as connection:
        for statement in asked:
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
            assert "INDEX frame_key (<expr>" in plan, (statement, plan)
            assert "SCAN frame" not in plan, (statement, plan)


@pytest.mark.slow
def test_vehicles_in_turn_write_few_pages(folder):
    """The write-ahead log of a round of 400 vehicles with an hour behind them, against that of an index by vehicle."""
    written = []
    for layout in (2, 3):
        path = folder / f"{layout}.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            with closing(file_of(layout)) as made:
                made.backup(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            draw = random.Random(1)
            rows = [(n % 400, NOON_S + n // 400 * 30, draw.getrandbits(60), 0) for n in range(400 * 121)]
            sql = f"INSERT INTO frame ({COLUMNS}) VALUES (?, ?, ?, ?, 0, zeroblob(311))"
            connection.execute("BEGIN")
            connection.executemany(sql, rows[:-400])
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for begin in range(len(rows) - 400, len(rows), 40):
                connection.execute("BEGIN")
                connection.executemany(sql, rows[begin : begin + 40])
                connection.execute("COMMIT")
            written.append(path.with_name(f"{path.name}-wal").stat().st_size)
    assert written[1] < written[0] / 2
