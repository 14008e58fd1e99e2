"""The power goes while reports are put into blocks, on SQLite: nothing is lost, nothing is there twice, whichever writes had come through."""

import random
import shutil
from dataclasses import replace

import pytest
from bmsota_cloud.storage.sql import SqlTelemetryStore, telemetry_sqlite
from stored_frames import NOON_S, derive_all, everything, stored

VINS = ["LCUT0000000000001", "LCUT0000000000002"]


class PowerCutError(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


class Disk:
    """What a file system may have after a power cut at moment *at*; moments are counted from 1.

    * What a commit has written is there: SQLite syncs it (`synchronous = FULL`). Of a commit under way, any beginning of its log.
    * A folder's entries are those of its last sync: since then, a new file may be missing and a removed one may be back, each by
      itself. (SQLite syncs the folder too when it makes a log. This disk is worse.)
    * `telemetry.sqlite` is not synced at each commit: it may be as it was one moment before.
    """

    def __init__(self, live, image, *, at, seed):
        self.live, self.image = live, image
        self.at, self.moment = at, 0
        self._draw = random.Random(seed)
        self._entries = set()
        self._before = {}
        self._removed = {}

    def sync_folder(self):
        self._entries = {path.name for path in self._reports()}
        self._removed.clear()

    def remove(self, path):
        self._removed[path.name] = path.read_bytes()

    def pass_moment(self, *, is_commit=False):
        """The power may go now; with *is_commit*, within the commit that has just been made."""
        self.moment += 1
        if self.moment == self.at:
            self._cut(is_commit)
            raise PowerCutError
        self.settle()

    def settle(self):
        """What has been written by now has come through, as far as files go."""
        self._before = {path: path.read_bytes() for path in self.live.rglob("*") if path.is_file()}

    def _reports(self):
        return [path for path in (self.live / "reports").iterdir() if path.suffix != ".lock"]

    def _cut(self, is_commit):
        shutil.copytree(self.live, self.image, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
        reports = self.image / "reports"
        if is_commit:
            for path in self._reports():
                old, new = self._before.get(path, b""), path.read_bytes()
                if path.name.endswith("-wal") and new != old and new.startswith(old):
                    (reports / path.name).write_bytes(new[: self._draw.randrange(len(old), len(new))])
        for path in self._reports():
            base = path.name.removesuffix("-wal")
            if base not in self._entries and self._draw.random() < 0.5:
                # A database without its log, or a log without its database, is what SQLite's own syncs rule out.
                for name in (base, f"{base}-wal"):
                    (reports / name).unlink(missing_ok=True)
        for name, data in self._removed.items():
            if self._draw.random() < 0.5:
                (reports / name).write_bytes(data)
        if self._draw.random() < 0.5:
            for path in self.live.glob("telemetry.sqlite*"):
                if path in self._before and path.suffix != "-shm":
                    (self.image / path.name).write_bytes(self._before[path])
        for path in self.image.rglob("*-shm"):
            path.unlink()


def hook(patch, disk):
    """The store's steps are the disk's moments."""
    frames = telemetry_sqlite.SqliteFrames

    def wrap(place, name, *, before=None, after=None):
        real = getattr(place, name)

        def call(*arguments):
            if before is not None:
                before(*arguments)
            result = real(*arguments)
            if after is not None:
                after(*arguments)
            return result

        patch.setattr(place, name, call)

    def pass_moment(*_):
        disk.pass_moment()

    def removing(store, name, *_):
        disk.pass_moment()
        disk.remove(store._path(name))

    wrap(frames, "_compact_hours", after=lambda *_: disk.pass_moment(is_commit=True))
    wrap(telemetry_sqlite, "_sync_folder", before=pass_moment, after=lambda *_: disk.sync_folder())
    wrap(frames, "_remove_alone", before=removing, after=pass_moment)
    wrap(SqlTelemetryStore, "_strike", before=pass_moment, after=pass_moment)


def open_store(folder):
    return SqlTelemetryStore(f"sqlite:///{folder / 'telemetry.sqlite'}")


def compact(telemetry, hours=2):
    for partition in telemetry.hot():
        for _ in range(100):
            if telemetry.compact(partition.name, hours).is_done:
                break
        else:
            pytest.fail("never done")


def day():
    return [stored(NOON_S + n * 900, vin=vin, bodies=bytes([n % 5]) * 40) for n in range(12) for vin in VINS]


LATE = [
    stored(NOON_S + 100, vin=VINS[0], bodies=b"late", arrived_s=NOON_S + 40_000),
    stored(NOON_S + 9000 + 7, vin=VINS[1], bodies=b"late", arrived_s=NOON_S + 40_001),
]
MOMENTS = range(1, 19)


@pytest.mark.slow
@pytest.mark.parametrize("at", MOMENTS)
def test_a_power_cut_at_any_moment_of_compacting_loses_nothing_and_doubles_nothing(tmp_path, monkeypatch, at):
    """Two disks, each with other writes that had come through; then the compactor does its work to the end."""
    for seed in range(2):
        folder = tmp_path / str(seed)
        live, image = folder / "live", folder / "image"
        live.mkdir(parents=True)
        telemetry = open_store(live)
        frames = day()
        telemetry.append(frames)
        derive_all(telemetry)
        disk = Disk(live, image, at=at, seed=100 * at + seed)
        disk.sync_folder()
        disk.settle()
        expected = list(frames)
        with monkeypatch.context() as patch:
            hook(patch, disk)
            try:
                name = telemetry.hot()[0].name
                telemetry.compact(name, 2)
                # Comes while its hour is in a block and in rows.
                telemetry.append([LATE[0], replace(frames[0], arrived_at_ns=1)])
                expected.append(LATE[0])
                disk.settle()
                derive_all(telemetry)
                compact(telemetry)
                # Comes when all rows are gone.
                telemetry.append([LATE[1], replace(frames[2], arrived_at_ns=1)])
                expected.append(LATE[1])
                disk.settle()
                derive_all(telemetry)
                compact(telemetry)
            except PowerCutError:
                assert at < MOMENTS[-1], "there are more moments"
            else:
                assert at == MOMENTS[-1], f"{disk.moment} moments"
                disk.at = disk.moment + 1
                with pytest.raises(PowerCutError):
                    disk.pass_moment()
            disk.at = 0
        telemetry.close()
        survivor = open_store(image)
        for vin in VINS:
            of_vin = sorted((f for f in expected if f.vin == vin), key=lambda f: (f.reported_at_s, f.arrived_at_ns))
            assert everything(survivor, vin) == of_vin
        derive_all(survivor)
        compact(survivor)
        compact(survivor)
        for vin in VINS:
            of_vin = sorted((f for f in expected if f.vin == vin), key=lambda f: (f.reported_at_s, f.arrived_at_ns))
            assert everything(survivor, vin) == of_vin
            assert survivor.append([replace(of_vin[0], arrived_at_ns=1)]) == [False]
        survivor.close()
