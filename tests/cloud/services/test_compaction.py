"""When reports go into compressed blocks: the decision, and the platform that makes it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import Compacted, HotPartition
from bmsota_cloud.services import PlatformSettings
from bmsota_cloud.services.compaction import LOOK_EVERY_S, is_due
from bmsota_cloud.storage.sql import SqlTelemetryStore
from memory_telemetry import MemoryTelemetry
from stored_frames import stored

from bmsota.errors import ConfigurationError

HOUR_S = 3600
DAY_S = 24 * HOUR_S
# The world begins on 2026-11-22 at 08:00 UTC.
DAY_BEFORE_S = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("until_s", "oldest_s", "is_derived", "expected"),
    [
        (1000, 900, True, True),
        (1001, 900, True, False),
        # Late reports wait for others.
        (1000, 1001, True, False),
        (500, 1000, True, True),
        (1000, 900, False, False),
    ],
)
def test_due_is_what_has_been_over_for_long_and_is_derived(until_s, oldest_s, is_derived, expected):
    partition = HotPartition("day", until_s, oldest_s * 10**9, is_derived)
    assert is_due(partition, 1000 + DAY_S, DAY_S) is expected


def test_the_age_can_be_set_and_turned_off():
    assert PlatformSettings().report_compact_after_s == 24 * 3600
    assert PlatformSettings(report_compact_after_s=0).report_compact_after_s == 0
    with pytest.raises(
        ConfigurationError, match=r"report_compact_after_s: expected 0 \(never\) or at least 3600 s, got 3599"
    ):
        PlatformSettings(report_compact_after_s=3599)


def frames_of_the_day_before(vin, count=200):
    return [stored(DAY_BEFORE_S + n * 400, vin=vin, bodies=bytes([n % 9]) * 30) for n in range(count)]


def accept(world, frames):
    for frame in frames:
        world.services.ingest.accept(frame)


def run_all(world, limit=500):
    for _ in range(limit):
        if not world.services.compaction.run(world.now):
            return
    pytest.fail("never done")


@pytest.mark.slow
def test_a_day_is_compacted_when_it_is_over_for_a_day_and_looks_the_same(world):
    vin = world.register(1)
    frames = frames_of_the_day_before(vin)
    accept(world, frames)
    telemetry = world.cloud.telemetry
    pages = [telemetry.frames(vin, PageRequest(number, 30)) for number in range(1, 8)]
    events = telemetry.events(vin, PageRequest())
    run_all(world)
    assert len(telemetry.hot()) == 1
    world.wait(hours=16, minutes=1)
    run_all(world)
    assert telemetry.hot() == []
    assert world.services.counters["report_block_written"] == 23
    assert [telemetry.frames(vin, PageRequest(number, 30)) for number in range(1, 8)] == pages
    assert list(telemetry.read(vin, 0, 2**40)) == frames
    # A report that comes late: its day is derived again from blocks and rows, and it waits a day for others.
    late = stored(DAY_BEFORE_S + 5, vin=vin, command=3, arrived_s=int(world.now.timestamp()), bodies=b"late")
    accept(world, [late, replace(frames[7], arrived_at_ns=late.arrived_at_ns, is_backfill=True)])
    assert world.services.counters["report_repeated"] == 1
    assert telemetry.events(vin, PageRequest()) == events
    for hours, rows in ((12, 1), (13, 0)):
        world.wait(hours=hours)
        run_all(world)
        assert len(telemetry.hot()) == rows
    assert list(telemetry.read(vin, 0, 2**40)) == [frames[0], late, *frames[1:]]


def test_turned_off_nothing_is_compacted(new_world):
    world = new_world(settings={"report_compact_after_s": 0})
    accept(world, frames_of_the_day_before(world.register(1), 3))
    world.wait(days=5)
    assert world.services.compaction.run(world.now) is False
    assert len(world.cloud.telemetry.hot()) == 1


def test_the_store_of_the_tests_agrees_with_the_real_one():
    """`rigs/memory_telemetry.py`, on what is left to do and on what each slice does."""
    real, rig = SqlTelemetryStore(), MemoryTelemetry()
    frames = [stored(DAY_BEFORE_S + n * 5000, vin=f"V{n % 3}", bodies=bytes([n])) for n in range(40)]
    late = [stored(DAY_BEFORE_S + 60, vin="V1", bodies=b"late", command=3, arrived_s=DAY_BEFORE_S + 9 * DAY_S)]

    def look(telemetry):
        return [(each.until_s, each.oldest_arrival_ns, each.is_derived) for each in telemetry.hot()]

    for batch in (frames[:30], frames[30:], [*late, frames[0]]):
        for telemetry in (real, rig):
            telemetry.append(batch)
        assert look(real) == look(rig)
        for telemetry in (real, rig):
            telemetry.save_derived([], [], telemetry.mark())
        assert look(real) == look(rig) != []
        for one, two in zip(real.hot(), rig.hot(), strict=True):
            done = [(real.compact(one.name, 4), rig.compact(two.name, 4)) for _ in range(20)]
            assert sum(own.hours for own, _ in done) == sum(other.hours for _, other in done) > 0
            assert all(each.is_done for each in done[-1])
        assert look(real) == look(rig) == []
        for vin in ("V0", "V1", "V2"):
            assert list(real.read(vin, 0, 2**40)) == list(rig.read(vin, 0, 2**40))
    real.close()


class Partitions:
    """A store that says what is due and how compacting goes."""

    def __init__(self, answers):
        self.answers = answers
        self.calls = []

    def hot(self):
        return [HotPartition(name, 0, 0, is_derived=True) for name in self.answers]

    def compact(self, name, hours):
        self.calls.append(name)
        answer = self.answers[name].pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer.is_done and not self.answers[name]:
            del self.answers[name]
        return answer


@pytest.fixture
def compacting(world, monkeypatch):
    def prepare(answers):
        made = Partitions(answers)
        monkeypatch.setattr(world.cloud.telemetry, "hot", made.hot)
        monkeypatch.setattr(world.cloud.telemetry, "compact", made.compact)
        return made

    return prepare


def test_what_fails_waits_and_the_others_go_on(world, compacting):
    away = StorageUnavailableError("the disk of the database is full", code="storage-full")
    part = compacting(
        {"a": [away, Compacted(3, is_done=True)], "b": [Compacted(2, is_done=False), Compacted(0, is_done=True)]}
    )
    run = world.services.compaction.run
    assert run(world.now) is True
    with pytest.raises(StorageUnavailableError):
        run(world.now)
    assert [run(world.now) for _ in range(3)] == [True, False, False]
    assert part.calls == ["a", "b", "b"]
    world.wait(seconds=LOOK_EVERY_S - 1)
    assert run(world.now) is False
    world.wait(seconds=1)
    assert [run(world.now) for _ in range(2)] == [True, False]
    assert part.calls == ["a", "b", "b", "a"]


def test_what_cannot_end_now_waits_and_what_keeps_rows_rests(world, compacting):
    part = compacting(
        {"read by somebody": [Compacted(0, is_done=False)] * 9, "unreadable": [Compacted(0, is_done=True)] * 9}
    )
    for _ in range(DAY_S // LOOK_EVERY_S):
        run_all(world)
        world.wait(seconds=LOOK_EVERY_S)
        part.answers["read by somebody"] = [Compacted(0, is_done=False)] * 9
    assert part.calls.count("read by somebody") == 144
    assert part.calls.count("unreadable") == 1
    run_all(world)
    assert part.calls.count("unreadable") == 2
    # A clock that is put back makes nothing rest for longer.
    world.clock.now -= timedelta(days=300)
    run_all(world)
    assert part.calls.count("unreadable") == 3
