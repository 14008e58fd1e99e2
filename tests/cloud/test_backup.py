"""A copy of the data folder that is made while the platform writes, and the way back."""

import json
import stat
import threading
from datetime import UTC, datetime

import pytest
from bmsota_cloud.backup import back_up, check_data, restore
from bmsota_cloud.cli import app
from bmsota_cloud.services import stored_frame
from bmsota_cloud.storage.sql.telemetry import SqlTelemetryStore
from typer.testing import CliRunner

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import Alarms, Command, Frame, Report, encode

PROJECT = "Harbour"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def start(new_world, data):
    """`start(name)`: a platform on the folder; `start(name, folder, before)`: on another one, as it was before."""

    def make(name, folder=data, before=None):
        world = new_world(name, data_dir=folder, people=before is None)
        if before is not None:
            world.clock.now, world.people = before.now, before.people
        world.services.ingest.recover()
        return world

    return make


def put(world, vin, number):
    report = Report(world.now, (Alarms(level_max=number % 4, flags=0),))
    raw = encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=report))
    at = int(world.now.timestamp())
    world.services.ingest.accept(
        stored_frame(vin, raw, reported_at_s=at, arrived_at_ns=world.now_ns, is_backfill=False)
    )
    return at


def times(world, vin):
    return [frame.reported_at_s for frame in world.cloud.telemetry.read(vin, 0, 2**32)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def compact(world):
    while world.services.compaction.run(world.now):
        pass


def level(world, vin):
    return world.services.telemetry.snapshot(vin, by=world.people["vera"]).alarm_level


def test_what_was_there_comes_back(start, data, tmp_path):
    """Accounts, vehicles, states, reports in rows and in blocks, keys and their modes."""
    world = start("a")
    vin = world.register(1)
    first = put(world, vin, 1)
    world.wait(hours=60)
    compact(world)
    second = put(world, vin, 2)
    keys = data / "keys"
    keys.mkdir()
    (keys / "order_private.pem").write_text("secret")
    (keys / "order_private.pem").chmod(0o600)
    made = back_up(data, tmp_path / "copy", now=NOW)
    put(world, vin, 3)
    world.cloud.close()

    told = restore(tmp_path / "copy", tmp_path / "again")
    assert (told.files, told.size_bytes, told.made_at) == (made.files, made.size_bytes, "2026-11-30T12:00:00+00:00")
    again = start("b", tmp_path / "again", world)
    assert times(again, vin) == [first, second]
    assert level(again, vin) == 2
    assert again.services.vehicles.projects(by=world.people["vera"]) == (PROJECT,)
    assert (tmp_path / "again" / "keys" / "order_private.pem").read_text() == "secret"
    assert stat.S_IMODE((tmp_path / "again" / "keys" / "order_private.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700
    assert all(not found.faults for found in check_data(tmp_path / "again"))
    again.cloud.close()


def test_the_platform_writes_and_compacts_meanwhile(start, data, tmp_path):
    """At every file of the copy, a report comes and what is old is compacted: all that was there at the start is in the copy, once."""
    world = start("a")
    vins = [world.register(number) for number in (1, 2)]
    before = {vin: [] for vin in vins}
    for day in range(4):
        for vin in vins:
            before[vin].append(put(world, vin, day))
        world.wait(hours=24)
    later = {vin: {} for vin in vins}

    def meanwhile(_name):
        world.wait(hours=6)
        for vin in vins:
            number = len(later[vin])
            later[vin][put(world, vin, number)] = number
        compact(world)

    back_up(data, tmp_path / "copy", now=NOW, progress=meanwhile)
    world.cloud.close()
    restore(tmp_path / "copy", tmp_path / "again")
    again = start("b", tmp_path / "again", world)
    for vin in vins:
        found = times(again, vin)
        assert found[:4] == before[vin]
        assert found[4:] == [at for at in later[vin] if at in set(found)]
        # What the copy has of states is from its beginning; the rest is derived from its reports, and from no others.
        assert level(again, vin) == later[vin][found[-1]] % 4
    assert any(name.endswith(".blocks.sqlite") for name in names(tmp_path / "again" / "reports"))
    again.cloud.close()


def test_a_process_that_begins_meanwhile_is_not_forgotten(start, data, tmp_path):
    """It has a number that the copied database does not know; its reports count all the same."""
    world = start("a")
    vin = world.register(1)
    put(world, vin, 1)
    others = []

    def meanwhile(name):
        if name.startswith("reports/") and not others:
            others.append(start("c", data, world))
            others[0].wait(minutes=1)
            put(others[0], vin, 3)

    back_up(data, tmp_path / "copy", now=NOW, progress=meanwhile)
    for each in (*others, world):
        each.cloud.close()
    restore(tmp_path / "copy", tmp_path / "again")
    again = start("b", tmp_path / "again", world)
    again.wait(hours=1)
    assert len(times(again, vin)) == 2
    assert level(again, vin) == 3
    again.cloud.close()


def test_a_writer_beside_loses_nothing(data, tmp_path):
    """A thread appends without a pause; what it had committed before the copy began is in the copy."""
    data.mkdir()
    store = SqlTelemetryStore(f"sqlite:///{data / 'telemetry.sqlite'}")
    vin, stop, begun = "TESTVEHICLE000001", threading.Event(), threading.Event()
    committed = [0]
    base_s = int(NOW.timestamp())

    def write():
        while not stop.is_set():
            at = base_s + committed[0]
            raw = encode(
                Frame(
                    command=Command.REALTIME_REPORT,
                    vin=vin,
                    message=Report(datetime.fromtimestamp(at, UTC), (Alarms(level_max=1, flags=0),)),
                )
            )
            store.append(
                [stored_frame(vin, raw, reported_at_s=at, arrived_at_ns=at * 1_000_000_000, is_backfill=False)]
            )
            committed[0] += 1
            if committed[0] == 50:
                begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(60)
        known = committed[0]
        back_up(data, tmp_path / "copy", now=NOW)
    finally:
        stop.set()
        thread.join()
        store.close()
    restore(tmp_path / "copy", tmp_path / "again")
    again = SqlTelemetryStore(f"sqlite:///{tmp_path / 'again' / 'telemetry.sqlite'}")
    found = [frame.reported_at_s - base_s for frame in again.read(vin, 0, 2**32)]
    assert found == list(range(len(found)))
    assert len(found) >= known
    again.close()


@pytest.fixture
def copy(start, data, tmp_path):
    world = start("a")
    put(world, world.register(1), 1)
    world.cloud.close()
    back_up(data, tmp_path / "copy", now=NOW)
    return tmp_path / "copy"


def change_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def list_with(copy, **changes):
    path = copy / "backup.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda copy: change_byte(copy / "data" / "platform.sqlite"), "its SHA-256 is not that of the list"),
        (lambda copy: (copy / "data" / "telemetry.sqlite").unlink(), "it is missing"),
        (lambda copy: (copy / "data" / "telemetry.sqlite").write_bytes(b"x"), "bytes, got 1"),
        (lambda copy: (copy / "backup.json").unlink(), "is no backup: it has no backup.json"),
        (lambda copy: (copy / "backup.json").write_text("{"), "cannot read"),
        (lambda copy: (copy / "backup.json").write_text("[]"), "expected the list of a backup"),
        (lambda copy: list_with(copy, layout=2), "expected a layout up to 1, got 2: a newer version"),
        (lambda copy: list_with(copy, files={"../x": {"size_bytes": 1}}), "got '../x'"),
        (lambda copy: list_with(copy, files={"/etc/x": {"size_bytes": 1}}), "got '/etc/x'"),
        (lambda copy: list_with(copy, files={"x": 1}), "got 'x'"),
    ],
)
def test_a_damaged_backup_restores_nothing(copy, tmp_path, damage, says):
    damage(copy)
    with pytest.raises(ConfigurationError) as caught:
        restore(copy, tmp_path / "again")
    assert says in str(caught.value)
    assert names(tmp_path) == ["copy", "data"]


def test_it_restores_to_a_new_or_empty_folder_only(copy, data, tmp_path):
    before = names(data)
    with pytest.raises(ConfigurationError, match="is not empty"):
        restore(copy, data)
    assert names(data) == before
    (tmp_path / "empty").mkdir()
    restore(copy, tmp_path / "empty")
    assert (tmp_path / "empty" / "platform.sqlite").exists()
    # What a killed run has left is no obstacle.
    (tmp_path / ".new.restoring" / "x").mkdir(parents=True)
    restore(copy, tmp_path / "new")
    assert names(tmp_path) == ["copy", "data", "empty", "new"]


def test_a_backup_that_fails_leaves_nothing(copy, data, tmp_path):
    (data / "platform.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match="cannot back up"):
        back_up(data, tmp_path / "second", now=NOW)
    assert names(tmp_path) == ["copy", "data"]
    with pytest.raises(ConfigurationError, match="exists already"):
        back_up(data, copy, now=NOW)
    with pytest.raises(ConfigurationError, match="is inside"):
        back_up(data, data / "deep" / "copy", now=NOW)
    with pytest.raises(ConfigurationError, match="is not the data folder"):
        back_up(tmp_path / "nothing", tmp_path / "second", now=NOW)


def test_damage_is_found_and_said(copy, data, monkeypatch):
    monkeypatch.chdir(data.parent)

    def run(*words):
        return CliRunner().invoke(app, words)

    sound = run("check", "--data", "data")
    assert sound.exit_code == 0, sound.output
    assert sound.stdout.endswith("MiB: no damage found\n")
    path = data / "platform.sqlite"
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 3 + 200] = b"\xff" * 200
    path.write_bytes(content)
    damaged = run("check", "--data", "data")
    assert damaged.exit_code == 1
    assert "bmsota-cloud: data/platform.sqlite: " in damaged.stderr
    assert "restore a backup (bmsota-cloud restore)" in damaged.stderr
    assert run("check", "--data", "nowhere").exit_code == 1

    told = run("restore", "copy", "--data", "new")
    assert (told.exit_code, told.stdout.split(",")[0]) == (0, "restored 4 files"), told.output
    assert run("check", "--data", "new").exit_code == 0
    again = run("backup", "third", "--data", "new", "--database", "postgresql://x/y")
    assert again.exit_code == 0
    assert again.stdout.startswith("backed up 4 files, ")
    assert "the database of --database is not in the backup" in again.stderr
    assert run("backup", "third", "--data", "new").stderr == "bmsota-cloud: third exists already: name a new folder\n"
