"""Frames in blocks: one contract, on SQLite in memory, on SQLite in files and on PostgreSQL."""

import random
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import Compacted
from bmsota_cloud.services.counters import Counters
from bmsota_cloud.storage.migrate import migrate
from bmsota_cloud.storage.sql import SqlTelemetryStore
from bmsota_cloud.storage.sql._packing import pack
from postgresql import some_database
from sqlalchemy import create_engine
from stored_frames import DAY_S, LAYOUT_1, NOON_S, VIN, derive_all, everything, stored, wire_frame, with_retry

VINS = [VIN, "LTESTVEHICLE00002", "SHORT"]
LIMIT_S = 120.0


def derive(telemetry):
    """As the writer does once a second."""
    telemetry.save_derived([], [], telemetry.mark())


def compact(telemetry, hours=32):
    """Everything, whatever its age."""
    derive(telemetry)
    for partition in telemetry.hot():
        for _ in range(1000):
            if telemetry.compact(partition.name, hours).is_done:
                break
        else:
            pytest.fail(f"{partition.name} is never done")


def pages(telemetry, vin=VIN, size=7, **cut):
    """All pages, one behind the other; each says the same total."""
    first = telemetry.frames(vin, PageRequest(1, size), **cut)
    found = list(first.items)
    for number in range(2, -(-first.total // size) + 1):
        page = telemetry.frames(vin, PageRequest(number, size), **cut)
        assert page.total == first.total
        found += page.items
    assert len(found) == first.total
    return found


def history(vins=VINS, *, hours=5, every_s=300, since_s=NOON_S):
    """Some hours of some vehicles, with everything that a row may have."""
    frames = []
    for vin in vins:
        for n in range(hours * 3600 // every_s):
            at_s = since_s + n * every_s
            kind = n % 8
            fields = {"vin": vin, "bodies": bytes([n % 7]) * (20 + kind % 3)}
            if kind == 3:
                fields |= {"command": 3, "start": b"$$", "arrived_s": at_s + 500}
            if kind == 4:
                fields |= {"fault": "body 0x42: expected 3 more bytes, got 1"}
            if kind == 5:
                fields |= {"frame": wire_frame(vin, at_s, b"secret", encryption=3)}
            frame = stored(at_s, **fields)
            if kind == 6:
                odd = frame.clear[:3] + b"\x01" + frame.clear[4:]
                frame = replace(frame, clear=odd, frame=odd)
            frames.append(frame)
            if kind == 7:
                frames.append(stored(at_s, vin=vin, bodies=b"of the same second", arrived_s=at_s + 1))
    return frames


def of(frames, vin=VIN):
    found = [frame for frame in frames if frame.vin == vin]
    return sorted(found, key=lambda frame: (frame.reported_at_s, frame.arrived_at_ns))


def at(second):
    return datetime.fromtimestamp(second, UTC)


class BlocksContract:
    """`telemetry` and `counters` are fixtures, `again` opens the same store once more (not in memory)."""

    @pytest.mark.slow
    def test_every_byte_comes_back_from_blocks(self, telemetry):
        frames = [*history(), *history(since_s=NOON_S + DAY_S, hours=2)]
        odd = stored(946_684_800, arrived_s=NOON_S + 1800, is_time_plausible=False)
        random.Random(1).shuffle(frames)
        frames.append(odd)
        for begin in range(0, len(frames), 50):
            assert all(telemetry.append(frames[begin : begin + 50]))
        before = {vin: (everything(telemetry, vin), pages(telemetry, vin)) for vin in VINS}
        compact(telemetry)
        assert telemetry.hot() == []
        assert self.block_count(telemetry) == 3 * 7
        assert self.row_count(telemetry) == 1
        for vin in VINS:
            assert (everything(telemetry, vin), pages(telemetry, vin)) == before[vin]
            own = [frame for frame in frames if frame.vin == vin and frame is not odd]
            assert [frame for frame in everything(telemetry, vin) if frame != odd] == of(own, vin)
        assert telemetry.unread(10).frames == ()

    def test_a_report_in_a_block_is_the_same_when_its_time_is_not_plausible_any_more(self, telemetry):
        """The platform's clock has been set back since."""
        first = history([VIN], hours=1)
        assert all(telemetry.append(first))
        compact(telemetry)
        again = [
            replace(frame, arrived_at_ns=frame.arrived_at_ns - DAY_S * 10**9, is_time_plausible=False)
            for frame in first
        ]
        odd = stored(NOON_S + 7, bodies=b"odd", arrived_s=NOON_S - DAY_S, is_time_plausible=False)
        assert telemetry.append([*again, odd]) == [False] * len(first) + [True]
        back = stored(NOON_S + 7, bodies=b"odd", arrived_s=NOON_S + 60, command=3)
        assert telemetry.append([back]) == [False]
        compact(telemetry)
        assert pages(telemetry) == [*of(first)[::-1], odd]

    def test_ranges_within_an_hour(self, telemetry):
        frames = history([VIN])
        telemetry.append(frames)
        compact(telemetry)
        draw = random.Random(2)
        for _ in range(20):
            since, until = sorted(NOON_S + draw.randrange(-600, 6 * 3600) for _ in range(2))
            expected = [frame for frame in of(frames) if since <= frame.reported_at_s < until]
            assert list(telemetry.read(VIN, since, until)) == expected
            assert pages(telemetry, since=at(since), until=at(until)) == expected[::-1]

    def test_a_report_for_an_hour_in_a_block_is_compared_with_it_and_added_to_it(self, telemetry):
        frames = history([VIN])
        telemetry.append(frames)
        compact(telemetry)
        known = stored(NOON_S, bodies=bytes(20))
        assert known in frames
        # The same again, later, and as a backfill.
        again = [replace(known, arrived_at_ns=known.arrived_at_ns + 5), stored(NOON_S, bodies=bytes(20), command=3)]
        late = [
            stored(NOON_S, bodies=b"another body", command=3, arrived_s=NOON_S + 9 * 3600),
            stored(NOON_S + 7, bodies=b"a second of its own", command=3, arrived_s=NOON_S + 9 * 3600),
            stored(NOON_S + 9 * 3600, bodies=b"an hour without a block", command=3, arrived_s=NOON_S + 10 * 3600),
        ]
        assert telemetry.append([*again, late[0], late[0], *late[1:]]) == [False, False, True, False, True, True]
        assert telemetry.append(frames) == [False] * len(frames)
        assert telemetry.append(late) == [False] * 3
        assert everything(telemetry) == of([*frames, *late])
        assert pages(telemetry) == of([*frames, *late])[::-1]
        assert telemetry.unread(10).frames == tuple(late)
        compact(telemetry)
        assert self.row_count(telemetry) == 0
        assert self.block_count(telemetry) == 6
        assert everything(telemetry) == of([*frames, *late])
        assert pages(telemetry) == of([*frames, *late])[::-1]
        assert telemetry.append([*frames, *late]) == [False] * len([*frames, *late])
        assert telemetry.unread(10).frames == ()

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_nothing_is_skipped_or_doubled_between_two_slices(self, telemetry, seed):
        draw = random.Random(seed)
        frames = history(hours=4)
        telemetry.append(frames)
        derive(telemetry)
        number = 0
        for partition in telemetry.hot():
            is_done = False
            while not is_done:
                number += 1
                late = stored(NOON_S + draw.randrange(5 * 3600), bodies=bytes([number]), arrived_s=NOON_S + 9 * 3600)
                repeated = replace(draw.choice(frames), arrived_at_ns=1)
                expected = [True, False] if number < 20 else [False]
                assert telemetry.append([late, repeated] if number < 20 else [repeated]) == expected
                frames += [late] if number < 20 else []
                derive(telemetry)
                is_done = telemetry.compact(partition.name, 2).is_done
                for vin in VINS:
                    assert everything(telemetry, vin) == of(frames, vin)
                    assert pages(telemetry, vin) == of(frames, vin)[::-1]
                assert number < 100
        compact(telemetry)
        assert self.row_count(telemetry) == 0
        assert [everything(telemetry, vin) for vin in VINS] == [of(frames, vin) for vin in VINS]

    @pytest.mark.slow
    def test_readers_beside_the_compactor_see_everything_once(self, telemetry):
        frames = history(hours=10, every_s=60)
        telemetry.append(frames)
        derive(telemetry)
        expected = of(frames)
        names = [partition.name for partition in telemetry.hot()]
        failures = []

        def work():
            try:
                for name in names:
                    while not telemetry.compact(name, 1).is_done:
                        pass
            except BaseException as error:  # noqa: BLE001 - told by the test
                failures.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        reads = 0
        while worker.is_alive() or reads < 3:
            assert everything(telemetry) == expected
            assert telemetry.frames(VIN, PageRequest(3, 100)).items == tuple(expected[::-1][200:300])
            reads += 1
        worker.join(LIMIT_S)
        assert failures == []
        assert self.row_count(telemetry) == 0

    def test_a_reader_that_has_begun_goes_on_when_its_rows_have_become_blocks(self, telemetry):
        frames = history([VIN], hours=10, every_s=20)
        telemetry.append(frames)
        reader = telemetry.read(VIN, 0, 2**40)
        found = [next(reader) for _ in range(3)]
        compact(telemetry)
        assert self.row_count(telemetry) == 0
        assert [*found, *reader] == of(frames)

    def test_what_is_not_derived_yet_is_not_put_into_blocks(self, telemetry):
        frames = history([VIN], hours=1)
        telemetry.append(frames[:5])
        derive(telemetry)
        telemetry.append(frames[5:])
        (partition,) = telemetry.hot()
        assert partition.is_derived is False
        assert partition.oldest_arrival_ns == frames[0].arrived_at_ns
        assert partition.until_s == NOON_S + DAY_S // 2
        derive(telemetry)
        assert telemetry.hot() == [replace(partition, is_derived=True)]

    def test_a_day_goes_when_its_newest_arrival_is_too_old_whether_in_rows_or_blocks(self, telemetry):
        frames = history([VIN], hours=2)
        telemetry.append(frames)
        compact(telemetry)
        # What was derived of the rows is forgotten with them; the blocks know when their frames came.
        telemetry.prune((NOON_S + 3600) * 10**9)
        assert everything(telemetry) == of(frames)
        late = stored(NOON_S + 9, command=3, arrived_s=NOON_S + 3 * DAY_S)
        telemetry.append([late])
        derive(telemetry)
        telemetry.prune((NOON_S + 2 * DAY_S) * 10**9)
        assert everything(telemetry) == of([*frames, late])
        compact(telemetry)
        telemetry.prune((NOON_S + 2 * DAY_S) * 10**9)
        assert everything(telemetry) == of([*frames, late])
        assert telemetry.prune((NOON_S + 4 * DAY_S) * 10**9) == len(frames) + 1
        assert everything(telemetry) == []
        assert self.block_count(telemetry) == 0
        # And the day can begin anew.
        assert telemetry.append([late]) == [True]
        compact(telemetry)
        assert everything(telemetry) == [late]

    @pytest.mark.parametrize(
        ("harm", "words"),
        [
            (lambda data: b"\x02" + data[1:], "expected layout 1 or older, got 2; a newer bmsota-cloud wrote it"),
            (lambda data: data[:-1] + bytes((data[-1] ^ 1,)), "damaged: its check is wrong"),
            (lambda data: data[:40], "damaged"),
            (lambda data: b"", "expected a block, got 0 bytes"),
        ],
    )
    def test_a_block_that_cannot_be_read_is_told_and_the_rest_is_there(self, telemetry, counters, caplog, harm, words):
        frames = history()
        telemetry.append(frames)
        compact(telemetry)
        data = self.change_block(telemetry, VIN, NOON_S + 3600, harm)
        lost = [f for f in of(frames) if NOON_S + 3600 <= f.reported_at_s < NOON_S + 7200]
        rest = [f for f in of(frames) if f not in lost]
        assert everything(telemetry) == rest
        page = telemetry.frames(VIN, PageRequest(1, 500))
        assert (page.items, page.total, page.unreadable) == (tuple(rest[::-1]), len(of(frames)), len(lost))
        since, until = (datetime.fromtimestamp(NOON_S + n * 3600, UTC) for n in (2, 9))
        assert telemetry.frames(VIN, PageRequest(), since=since, until=until).unreadable == 0
        assert everything(telemetry, VINS[1]) == of(frames, VINS[1])
        assert counters["report_block_unreadable"] >= 2
        (told,) = caplog.messages
        assert VIN in told
        assert "2026-11-22 13:00:00+00:00" in told
        assert words in told
        # It can't be compared with: better twice than not at all.
        late = stored(NOON_S + 3700, bodies=b"late", command=3, arrived_s=NOON_S + 9 * 3600)
        assert telemetry.append([lost[0], late]) == [True, True]
        compact(telemetry)
        assert everything(telemetry) == of([*rest, lost[0], late])
        # A version that can read it, or a copy that is whole: everything is there, and once.
        self.change_block(telemetry, VIN, NOON_S + 3600, lambda _: data)
        assert everything(telemetry) == of([*frames, late])
        compact(telemetry)
        assert everything(telemetry) == of([*frames, late])
        assert self.row_count(telemetry) == 0

    @pytest.mark.slow
    def test_an_hour_with_more_than_a_block_holds_is_divided(self, telemetry, monkeypatch):
        monkeypatch.setattr("bmsota_cloud.storage.sql._compacting.BLOCK_FRAMES_MAX", 20)
        frames = [stored(NOON_S + n, bodies=n.to_bytes(2, "big")) for n in range(0, 3600, 30)]
        flood = [stored(NOON_S + 1234, bodies=b"flood" + bytes([n])) for n in range(30)]
        telemetry.append(frames[::2])
        compact(telemetry)
        assert self.block_count(telemetry) == 4
        telemetry.append([*frames[1::2], *flood])
        compact(telemetry)
        # A second that is too much for a block stays as it is.
        assert self.row_count(telemetry) == 30
        assert everything(telemetry) == of([*frames, *flood])
        assert pages(telemetry) == of([*frames, *flood])[::-1]
        assert telemetry.append([*flood, *frames]) == [False] * 150
        compact(telemetry)
        assert self.row_count(telemetry) == 30

    def test_a_second_that_is_too_much_for_a_block_outlives_the_rows_of_its_day(self, telemetry, monkeypatch):
        monkeypatch.setattr("bmsota_cloud.storage.sql._compacting.BLOCK_FRAMES_MAX", 20)
        flood = [stored(NOON_S + 1234, bodies=b"flood" + bytes([n]), arrived_s=NOON_S + 1300 + n) for n in range(30)]
        frames = [*history([VIN], hours=1), *flood]
        telemetry.append(frames)
        compact(telemetry)
        assert self.row_count(telemetry) == 30
        assert everything(telemetry) == of(frames)
        assert pages(telemetry) == of(frames)[::-1]
        assert telemetry.append([replace(frame, arrived_at_ns=1) for frame in frames]) == [False] * len(frames)

    @pytest.mark.parametrize("count", [1, 300])
    def test_what_comes_while_its_day_is_compacted_is_derived_before_it_goes_into_a_block(self, telemetry, count):
        frames = history([VIN])
        telemetry.append(frames)
        derive(telemetry)
        (partition,) = telemetry.hot()
        telemetry.compact(partition.name, 5)
        late = [stored(NOON_S + n * 31, bodies=b"late", arrived_s=NOON_S + 9 * 3600 + n) for n in range(count)]
        assert all(telemetry.append(late))
        for _ in range(30):
            telemetry.compact(partition.name, 5)
        assert telemetry.unread(1000).frames == tuple(late)
        derive(telemetry)
        compact(telemetry)
        assert self.row_count(telemetry) == 0
        assert everything(telemetry) == of([*frames, *late])

    def test_a_second_with_more_than_a_piece_is_read_whole(self, telemetry):
        flood = [stored(NOON_S + 1, bodies=n.to_bytes(2, "big"), arrived_s=NOON_S + n) for n in range(1100)]
        frames = [stored(NOON_S), *flood, stored(NOON_S + 2)]
        telemetry.append(frames)
        for _ in range(2):
            assert everything(telemetry) == of(frames)
            assert telemetry.frames(VIN, PageRequest(2, 500)).items == tuple(of(frames)[::-1][500:1000])
            compact(telemetry)

    def test_what_is_not_read_back_as_it_was_written_stays_rows(self, telemetry, monkeypatch):
        frames = history([VIN])
        telemetry.append(frames)
        derive(telemetry)
        (partition,) = telemetry.hot()
        with monkeypatch.context() as broken:
            broken.setattr(f"{self.tables}.read_back", lambda _, since_s: b"\x01" * 20)
            with pytest.raises(StorageUnavailableError, match=f"block of {VIN}: what was written is not"):
                telemetry.compact(partition.name, 5)
            assert everything(telemetry) == of(frames)
        assert self.block_count(telemetry) == 0
        compact(telemetry)
        assert everything(telemetry) == of(frames)


class DurableContract(BlocksContract):
    """What a restart must find."""

    @pytest.mark.parametrize("slices", range(1, 9))
    def test_a_restart_after_any_slice_begins_anew(self, telemetry, again, slices):
        frames = history(hours=2)
        telemetry.append(frames)
        derive(telemetry)
        (partition,) = telemetry.hot()
        for _ in range(slices):
            telemetry.compact(partition.name, 1)
        telemetry.close()
        restarted = again()
        assert [everything(restarted, vin) for vin in VINS] == [of(frames, vin) for vin in VINS]
        assert [pages(restarted, vin) for vin in VINS] == [of(frames, vin)[::-1] for vin in VINS]
        assert restarted.append(frames) == [False] * len(frames)
        assert restarted.unread(10).frames == ()
        compact(restarted)
        assert [everything(restarted, vin) for vin in VINS] == [of(frames, vin) for vin in VINS]
        assert self.row_count(restarted) == 0

    def test_late_reports_survive_a_restart_and_are_derived(self, telemetry, again):
        telemetry.append(history([VIN]))
        compact(telemetry)
        late = stored(NOON_S + 1, command=3, arrived_s=NOON_S + 9 * 3600, bodies=b"late")
        telemetry.append([late])
        telemetry.close()
        restarted = again()
        assert restarted.append([late]) == [False]
        unread = restarted.unread(10)
        assert unread.frames == (late,)
        restarted.save_derived([], [], unread.mark)
        compact(restarted)
        assert restarted.unread(10).frames == ()
        # Its row is gone; what comes next is behind it all the same.
        later = stored(NOON_S + 2, command=3, arrived_s=NOON_S + 9 * 3600, bodies=b"later")
        restarted.append([later])
        restarted.close()
        assert again().unread(10).frames == (later,)

    def test_a_process_that_never_knew_a_day_finds_its_blocks(self, telemetry, again):
        other = again(writer="b")
        assert other.unread(1).frames == ()
        frames = history([VIN], hours=2)
        telemetry.append(frames)
        compact(telemetry)
        late = stored(NOON_S + 1, bodies=b"late", command=3, arrived_s=NOON_S + 9 * 3600)
        assert with_retry(other, [replace(frames[3], arrived_at_ns=1), late]) == [False, True]
        assert list(other.read(VIN, NOON_S, NOON_S + DAY_S)) == of([*frames, late])

    def test_who_has_sent_nothing_new_keeps_no_day_from_its_blocks(self, telemetry, again):
        other = again(writer="b")
        frames = [stored(NOON_S), stored(NOON_S + 1)]
        for each, frame in zip((other, telemetry), frames, strict=True):
            each.append([frame])
            derive(each)
        assert other.append([replace(frames[1], arrived_at_ns=1)]) == [False]
        assert [partition.is_derived for partition in telemetry.hot()] == [True]
        other.append([stored(NOON_S + 2)])
        assert [partition.is_derived for partition in telemetry.hot()] == [False]

    def test_another_process_adds_to_what_this_one_compacts(self, telemetry, again):
        """Whatever the other knows of the days, nothing is lost and nothing is there twice."""
        other = again(writer="b")
        frames = history([VIN])
        telemetry.append(frames[::2])
        with_retry(other, frames[1::2])
        for each in (telemetry, other):
            derive(each)
        number = 0
        for partition in telemetry.hot():
            for _ in range(100):
                number += 1
                late = stored(NOON_S + number, bodies=b"late" + bytes([number]), arrived_s=NOON_S + 9 * 3600)
                repeated = [replace(frame, arrived_at_ns=frame.arrived_at_ns + 1) for frame in frames[:3]]
                assert with_retry(other, [late, *repeated]) == [True, False, False, False]
                frames.append(late)
                derive(other)
                # It lets go of what it does not write to.
                other.prune(0)
                other.prune(0)
                is_done = telemetry.compact(partition.name, 1).is_done
                for each in (telemetry, other):
                    assert everything(each) == of(frames)
                    assert pages(each) == of(frames)[::-1]
                if is_done:
                    break
            else:
                pytest.fail("never done")
        assert not any(with_retry(other, [replace(frame, arrived_at_ns=1) for frame in frames]))
        compact(other)
        compact(telemetry)
        assert everything(telemetry) == everything(other) == of(frames)


class SqliteParts:
    tables = "bmsota_cloud.storage.sql.blocks_sqlite.SqliteHourTables"

    def sum_of(self, telemetry, sql, *, of_blocks):
        part = telemetry._on_sqlite
        part._find_files()
        names = [name for name in part._names if name.endswith(".blocks") or not of_blocks]
        return sum(row[0] for name in names for row in part.select(name, sql, ()))

    def block_count(self, telemetry):
        return self.sum_of(telemetry, "SELECT count(*) FROM block", of_blocks=True)

    def row_count(self, telemetry):
        return self.sum_of(telemetry, "SELECT count(*) FROM frame", of_blocks=False)

    def change_block(self, telemetry, vin, since_s, change):
        name = f"{at(since_s):%Y-%m-%d}.blocks"
        connection = telemetry._on_sqlite._opened(name).connection
        where = "WHERE since_s = ? AND vehicle = (SELECT number FROM vehicle WHERE vin = ?)"
        (data,) = connection.execute(f"SELECT data FROM block {where}", (since_s, vin)).fetchone()
        connection.execute(f"UPDATE block SET data = ? {where}", (change(data), since_s, vin))
        return data


@pytest.fixture
def counters():
    return Counters()


class TestMemory(SqliteParts, BlocksContract):
    @pytest.fixture
    def telemetry(self, counters):
        made = SqlTelemetryStore(count=counters.add)
        yield made
        made.close()


class TestFile(SqliteParts, DurableContract):
    @pytest.fixture
    def telemetry(self, again):
        return again()

    @pytest.fixture
    def again(self, tmp_path, counters):
        made = []

        def again(**options):
            made.append(SqlTelemetryStore(f"sqlite:///{tmp_path / 'telemetry.sqlite'}", count=counters.add, **options))
            return made[-1]

        yield again
        for each in made:
            each.close()

    def test_the_file_of_the_rows_is_gone_when_all_are_in_blocks(self, telemetry, tmp_path):
        telemetry.append(history())
        compact(telemetry)
        telemetry.append([stored(NOON_S + 5, bodies=b"late")])
        assert sorted(path.name for path in (tmp_path / "reports").glob("*.sqlite")) == ["2026-11-22.blocks.sqlite"]
        with closing(sqlite3.connect(tmp_path / "telemetry.sqlite")) as catalog:
            assert catalog.execute("SELECT name FROM report_partition").fetchall() == []

    def test_hours_have_blocks_of_their_own(self, again, tmp_path):
        hourly = again(is_hourly=True)
        frames = history([VIN], hours=3)
        hourly.append(frames)
        compact(hourly)
        assert sorted(path.name for path in (tmp_path / "reports").glob("*.sqlite")) == [
            f"2026-11-22T{hour}.blocks.sqlite" for hour in (12, 13, 14)
        ]
        daily = again()
        assert daily.append(frames) == [False] * len(frames)
        assert everything(daily) == of(frames)
        assert pages(daily) == of(frames)[::-1]

    def test_rows_of_layout_1_wait_until_they_are_derived(self, again, tmp_path):
        """A file without writers, and the one mark that all processes had."""
        frames = history([VIN], hours=1)
        with create_engine(f"sqlite:///{tmp_path / 'telemetry.sqlite'}").connect() as connection, connection.begin():
            migrate(connection, "telemetry", revision="telemetry_0004")
            connection.exec_driver_sql("INSERT INTO report_partition VALUES ('2026-11-22', 2, 0)")
        path = tmp_path / "reports" / "2026-11-22.sqlite"
        path.parent.mkdir()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(LAYOUT_1)
            connection.execute("INSERT INTO vehicle VALUES (1, ?)", [VIN])
            connection.executemany(
                "INSERT INTO frame (vehicle, reported_at_s, digest, arrived_at_ns, form, clear, received, fault)"
                " VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                [pack(frame) for frame in frames],
            )
        telemetry = again()
        (partition,) = telemetry.hot()
        assert partition.is_derived is False
        assert telemetry.compact(partition.name, 10) == Compacted(0, is_done=False)
        derive_all(telemetry)
        assert telemetry.hot() == [replace(partition, is_derived=True)]
        compact(telemetry)
        assert (self.row_count(telemetry), path.exists()) == (0, False)
        assert everything(telemetry) == of(frames)

    def test_a_file_of_blocks_of_a_newer_layout_is_refused_by_name(self, telemetry, tmp_path):
        telemetry.append(history([VIN]))
        compact(telemetry)
        telemetry.close()
        with closing(sqlite3.connect(tmp_path / "reports" / "2026-11-22.blocks.sqlite")) as connection:
            connection.execute("PRAGMA user_version = 9")
        with pytest.raises(
            StorageUnavailableError, match=r"2026-11-22\.blocks\.sqlite: expected layout 3 or older, got 9"
        ):
            everything(telemetry)

    @pytest.mark.slow
    def test_rows_beside_blocks_are_no_reports_of_their_own(self, telemetry, again, tmp_path):
        """A process that was killed between the last block and the removing of the rows; or a copy that was put back."""
        frames = history([VIN])
        telemetry.append(frames)
        derive(telemetry)
        telemetry.close()
        rows = tmp_path / "reports" / "2026-11-22.sqlite"
        copy = rows.read_bytes()
        compacting = again()
        compact(compacting)
        compacting.close()
        assert not rows.exists()
        rows.write_bytes(copy)
        restarted = again()
        assert everything(restarted) == of(frames)
        assert pages(restarted) == of(frames)[::-1]
        assert restarted.append(frames) == [False] * len(frames)
        restarted.save_derived([], [], restarted.unread(1000).mark)
        compact(restarted)
        assert everything(restarted) == of(frames)
        assert not rows.exists()

    def test_a_full_disk_stops_compacting_and_nothing_else(self, telemetry, monkeypatch):
        frames = history(every_s=60)
        telemetry.append(frames)
        derive(telemetry)
        part = telemetry._on_sqlite
        connect = part._connect

        def small(name, *, is_new):
            connection = connect(name, is_new=is_new)
            if is_new and name.endswith(".blocks"):
                connection.execute("PRAGMA max_page_count = 14")
            return connection

        (partition,) = telemetry.hot()
        with monkeypatch.context() as full:
            full.setattr(part, "_connect", small)
            with pytest.raises(StorageUnavailableError, match=r"blocks\.sqlite: database or disk is full") as refused:
                telemetry.compact(partition.name, 20)
            assert refused.value.code == "storage-full"
            late = stored(NOON_S + 1, bodies=b"late")
            assert telemetry.append([late, replace(frames[0], arrived_at_ns=1)]) == [True, False]
            assert [everything(telemetry, vin) for vin in VINS] == [of([*frames, late], vin) for vin in VINS]
        compact(telemetry)
        assert self.row_count(telemetry) == 0
        assert [everything(telemetry, vin) for vin in VINS] == [of([*frames, late], vin) for vin in VINS]

    def test_what_the_catalog_says_of_a_file_that_is_gone_is_forgotten(self, telemetry, again, tmp_path):
        """A process that was killed between removing the rows and saying so: a file of that name begins anew."""
        telemetry.append(history([VIN]))
        derive(telemetry)
        telemetry.close()
        for path in (tmp_path / "reports").iterdir():
            path.unlink()
        restarted = again()
        restarted.append([stored()])
        restarted.close()
        assert again().unread(10).frames == (stored(),)

    def test_a_reader_does_not_bring_back_a_file_that_is_gone(self, telemetry, tmp_path):
        telemetry.append(history([VIN]))
        derive(telemetry)
        telemetry.prune(2**62)
        telemetry._on_sqlite._names.add("2026-11-22")
        assert everything(telemetry) == []
        assert list((tmp_path / "reports").glob("*.sqlite")) == []


@pytest.fixture(scope="module")
def postgresql_url():
    with some_database() as url:
        yield url


@pytest.mark.slow
class TestPostgresql(DurableContract):
    tables = "bmsota_cloud.storage.sql.blocks_postgresql.PostgresqlHourTables"

    @pytest.fixture
    def telemetry(self, again):
        return again()

    @pytest.fixture
    def again(self, postgresql_url, counters):
        import psycopg

        made = []

        def again(**options):
            made.append(SqlTelemetryStore(postgresql_url, count=counters.add, **options))
            return made[-1]

        self.url = postgresql_url
        yield again
        for each in made:
            each.close()
        with psycopg.connect(postgresql_url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")

    def ask(self, sql, *values):
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql, values).fetchone()[0]

    def block_count(self, telemetry):
        return self.ask("SELECT count(*) FROM block")

    def row_count(self, telemetry):
        return self.ask("SELECT (SELECT count(*) FROM frame) + (SELECT count(*) FROM frame_other)")

    def change_block(self, telemetry, vin, since_s, change):
        where = "WHERE since_s2000 = %s AND vehicle = (SELECT number FROM frame_vehicle WHERE vin = %s)"
        key = (since_s - 946_684_800, vin)
        data = self.ask(f"SELECT data FROM block {where}", *key)
        self.ask(f"UPDATE block SET data = %s {where} RETURNING 1", change(data), *key)
        return data

    def test_the_table_of_the_rows_is_gone_when_all_are_in_blocks(self, telemetry):
        telemetry.append(history())
        compact(telemetry)
        tables = "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relname ~ '_2026[0-9]*$'"
        assert self.ask(tables) == ["block_20261122"]

    def test_who_reads_keeps_the_rows_until_it_is_done(self, telemetry):
        """A long transaction of somebody else delays the end of compacting; nothing else."""
        import psycopg

        frames = history([VIN])
        telemetry.append(frames)
        derive(telemetry)
        with psycopg.connect(self.url) as reader:
            (partition,) = telemetry.hot()
            assert telemetry.compact(partition.name, 100).is_done is False
            reader.execute("SELECT count(*) FROM frame")
            assert telemetry.compact(partition.name, 100).is_done is False
            assert everything(telemetry) == of(frames)
            assert telemetry.append([frames[0], stored(NOON_S + 1)]) == [False, True]
        compact(telemetry)
        assert everything(telemetry) == of([*frames, stored(NOON_S + 1)])

    def test_blocks_are_not_thrown_away_by_a_downgrade(self, telemetry):
        telemetry.append(history([VIN], hours=1))
        compact(telemetry)
        telemetry.close()
        engine = create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"))
        refused = pytest.raises(RuntimeError, match="13 reports are in blocks")
        with engine.connect() as connection, connection.begin(), refused:
            migrate(connection, "telemetry", revision="base")
        engine.dispose()
