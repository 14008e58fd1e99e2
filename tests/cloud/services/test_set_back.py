"""The database of states and events is lost, or an older copy is put in its place; the reports beside it are not. On SQLite."""

import shutil

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import stored_frame
from bmsota_cloud.storage.sql.telemetry import SqlTelemetryStore

from bmsota.gbt32960 import Alarms, Command, Frame, Report, encode


def put(world, vin, level):
    raw = encode(
        Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(world.now, (Alarms(level_max=level, flags=0),)))
    )
    frame = stored_frame(
        vin, raw, reported_at_s=int(world.now.timestamp()), arrived_at_ns=world.now_ns, is_backfill=False
    )
    world.services.ingest.accept(frame)


def level(world, vin):
    return world.services.telemetry.snapshot(vin, by=world.people["vera"]).alarm_level


def events(world, vin):
    found = world.services.telemetry.events(vin, PageRequest(), by=world.people["vera"])
    return [event.value for event in found.items]


def compact(world):
    while world.services.compaction.run(world.now):
        pass


@pytest.fixture
def start(new_world, tmp_path):
    """`start(before)`: a platform on the same folder, as another process after *before*; the first one without."""

    def make(before=None):
        number = len(list(tmp_path.glob("start*")))
        (tmp_path / f"start{number}").touch()
        world = new_world(f"start {number}", data_dir=tmp_path / "data", people=before is None)
        if before is not None:
            world.clock.now, world.people = before.now, before.people
        world.services.ingest.recover()
        return world

    return make


def remove_states(tmp_path):
    for path in (tmp_path / "data").glob("telemetry.sqlite*"):
        path.unlink()


def test_states_that_were_lost_are_derived_from_rows_and_from_blocks(start, tmp_path, caplog):
    """One vehicle reported on two days and another on the first only, whose reports are in blocks by now."""
    world = start()
    one, two = world.register(1), world.register(2)
    put(world, one, 1)
    put(world, two, 2)
    world.wait(hours=30)
    put(world, one, 3)
    world.wait(hours=20)
    compact(world)
    assert world.services.counters["report_block_written"] == 2
    world.cloud.close()
    remove_states(tmp_path)
    second = start(world)
    assert (level(second, one), level(second, two)) == (3, 2)
    assert "1 states are derived again" in caplog.text
    assert second.services.counters["state_derived_again"] == 1
    second.services.ingest.derive(())
    assert (events(second, one), events(second, two)) == (["3"], ["2"])
    # The next start finds everything in its place.
    second.cloud.close()
    caplog.clear()
    third = start(second)
    assert (level(third, one), level(third, two), caplog.text) == (3, 2, "")


def test_an_older_copy_does_not_take_a_newest_state_back(start, tmp_path, caplog):
    """What came after the copy was made, and is in blocks by now, is the newest state all the same."""
    world = start()
    vin = world.register(1)
    put(world, vin, 2)
    world.cloud.close()
    shutil.copy(tmp_path / "data" / "telemetry.sqlite", tmp_path / "copy.sqlite")
    second = start(world)
    second.wait(hours=1)
    put(second, vin, 0)
    second.wait(hours=60)
    compact(second)
    assert second.services.counters["report_block_written"] == 2
    second.cloud.close()
    remove_states(tmp_path)
    shutil.copy(tmp_path / "copy.sqlite", tmp_path / "data" / "telemetry.sqlite")
    assert caplog.text == ""
    third = start(second)
    assert level(third, vin) == 0
    assert "an older copy: 1 states are derived again" in caplog.text
    third.services.ingest.derive(())
    assert events(third, vin) == ["0", "2"]


def test_without_any_report_there_is_nothing_to_say(start, tmp_path, caplog):
    world = start()
    world.register(1)
    world.cloud.close()
    remove_states(tmp_path)
    start(world)
    assert "lost" not in caplog.text


def test_a_process_that_dies_while_it_derives_again_leaves_the_rest_to_the_next(start, tmp_path, monkeypatch, caplog):
    """Killed behind the first of two vehicles: the next start finds the other one, and the one after has nothing to do."""
    world = start()
    one, two = world.register(1), world.register(2)
    put(world, one, 1)
    put(world, two, 2)
    world.wait(hours=50)
    compact(world)
    world.cloud.close()
    remove_states(tmp_path)
    read = SqlTelemetryStore.frames

    def killed_at_the_second(store, vin, *arguments):
        if vin == two:
            raise KeyboardInterrupt
        return read(store, vin, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SqlTelemetryStore, "frames", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            start(world)
    second = start(world)
    assert (level(second, one), level(second, two)) == (1, 2)
    assert "1 states are derived again" in caplog.text
    second.cloud.close()
    caplog.clear()
    third = start(second)
    assert (level(third, one), level(third, two), caplog.text) == (1, 2, "")
