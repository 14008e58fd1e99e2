"""Two processes on the same reports, one of which ends: nothing goes into a block before somebody has derived it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import StoredFrame
from bmsota_cloud.services.compaction import LOOK_EVERY_S
from bmsota_cloud.services.counters import Counters
from bmsota_cloud.services.derivation import Derivation
from bmsota_cloud.storage.sql import SqlTelemetryStore
from memory_telemetry import MemoryTelemetry
from postgresql import some_database

from bmsota.gbt32960 import Alarms, Command, Frame, Position, Report, encode

# The world begins on 2026-11-22 at 08:00 UTC.
DAY_BEFORE = datetime(2026, 11, 21, tzinfo=UTC)
EVERY_S = 600


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'telemetry.sqlite'}"
        return
    with some_database() as url:
        yield url


def flagged(vin, number, *, arrived_s=None):
    """A report of which two are of one second, with a flag that goes on and off."""
    at = DAY_BEFORE + timedelta(seconds=number // 2 * EVERY_S)
    bodies = (Position(valid=True, longitude_deg=number % 180, latitude_deg=1.0), Alarms(number % 4, number % 2))
    raw = encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(at, bodies)))
    at_s = int(at.timestamp())
    arrived_at_ns = (at_s if arrived_s is None else arrived_s) * 10**9 + number
    return StoredFrame(
        vin=vin, frame=raw, clear=raw, reported_at_s=at_s, arrived_at_ns=arrived_at_ns, is_backfill=False
    )


def derived(telemetry, vin):
    pages = [telemetry.events(vin, PageRequest(number, 500)) for number in (1, 2)]
    events = [event for page in pages for event in page.items]
    assert pages[0].total == len(events) > 100
    return telemetry.newest([vin])[vin].reported_at_s, events


def expected_of(frames, vin):
    """What one process derives that has them all at once."""
    memory = MemoryTelemetry()
    memory.append(frames)
    Derivation(memory, Counters(), keep_s=10**9).recover()
    return derived(memory, vin)


def compact_all(world):
    for _ in range(1000):
        if not world.services.compaction.run(world.now):
            return
    pytest.fail("never done")


@pytest.mark.slow
@pytest.mark.parametrize("is_in_blocks", [False, True])
def test_a_day_waits_until_another_has_derived_what_a_process_that_is_gone_has_left(new_world, url, is_in_blocks):
    """Whether its reports are the first of their day, or come late for one that is in blocks already."""
    world = new_world(telemetry_url=url)
    telemetry = world.cloud.telemetry
    moved, own, silent = (world.register(number) for number in (1, 2, 3))
    kept = [flagged(vin, number) for number in range(140) for vin in (moved, own)]
    for frame in kept:
        world.services.ingest.accept(frame)
    if is_in_blocks:
        world.wait(days=2)
        compact_all(world)
        assert telemetry.hot() == []
    written = world.services.counters["report_block_written"]

    now_s = int(world.now.timestamp())
    left = [flagged(vin, number, arrived_s=now_s) for number in range(140, 280) for vin in (moved, silent)]
    gone = SqlTelemetryStore(url, writer="gone")
    assert all(append(gone, left[:100]))
    Derivation(gone, Counters(), keep_s=10**9).recover()
    repeated = [replace(frame, arrived_at_ns=frame.arrived_at_ns + 1) for frame in (kept[7], left[3])]
    assert append(gone, [*left[100:], *repeated]) == [True] * 180 + [False] * 2

    # It lives; then it is gone, and nobody has looked yet.
    for _ in range(2):
        world.wait(days=3)
        compact_all(world)
        (partition,) = telemetry.hot()
        assert partition.is_derived is False
        for _ in range(50):
            telemetry.compact(partition.name, 100)
        assert world.services.counters["report_block_written"] == written
        gone.close()
    assert world.services.ingest.recover() == 180
    assert world.services.ingest.recover() == 0
    assert [each.is_derived for each in telemetry.hot()] == [True]
    world.wait(seconds=LOOK_EVERY_S)
    compact_all(world)
    assert telemetry.hot() == []
    assert world.services.counters["report_block_written"] > written

    everything = [*kept, *left]
    for vin in (moved, own, silent):
        frames = [frame for frame in everything if frame.vin == vin]
        assert list(telemetry.read(vin, 0, 2**40)) == frames
        assert derived(telemetry, vin) == expected_of(frames, vin)
    assert telemetry.append(everything) == [False] * len(everything)
    with telemetry.taking_over(10) as unread:
        assert unread.frames == ()
    assert telemetry.unread(10).frames == ()


def append(telemetry, frames):
    return list(telemetry.append(frames))
