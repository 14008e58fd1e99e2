"""A disk that is full while PostgreSQL compacts: a server of its own on a small file system in memory."""

import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.storage.sql import SqlTelemetryStore
from postgresql import OwnServer
from stored_frames import NOON_S, stored

VINS = [f"LFULL{number:012d}" for number in range(8)]


@pytest.fixture
def small_disk(monkeypatch):
    # Not below the folder of the test, whose name is too long for a socket in it.
    disk = Path(tempfile.mkdtemp(prefix="bmsota-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m,mode=777", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        disk.rmdir()
        pytest.skip("only root can mount a file system in memory")
    # The server, which is not root, has to get there.
    disk.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
    disk.rmdir()


@pytest.mark.slow
def test_a_full_disk_stops_compacting_on_postgresql_and_loses_nothing(small_disk):
    with OwnServer() as server:
        telemetry = SqlTelemetryStore(f"postgresql://postgres@{server.address}/postgres")
        draw = random.Random(1)
        frames = [
            stored(NOON_S + 10 * n, vin=vin, bodies=draw.randbytes(300)) for n in range(720) for vin in VINS
        ]  # fmt: skip
        for begin in range(0, len(frames), 1000):
            telemetry.append(frames[begin : begin + 1000])
        while (unread := telemetry.unread(1000)).frames:
            telemetry.save_derived([], [], unread.mark)
        before = everything(telemetry)
        (partition,) = telemetry.hot()
        filler = small_disk / "filler"
        # Less than the blocks need: bytes that are drawn are no smaller in them.
        with filler.open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(small_disk).free - 512 * 1024)))
        with pytest.raises(StorageUnavailableError, match="disk of the database is full") as refused:
            compact(telemetry, partition.name)
        assert refused.value.code == "storage-full"
        assert everything(telemetry) == before
        assert [each.name for each in telemetry.hot()] == [partition.name]
        filler.unlink()
        compact(telemetry, partition.name)
        assert telemetry.hot() == []
        assert everything(telemetry) == before
        telemetry.close()


def compact(telemetry, name):
    for _ in range(100):
        if telemetry.compact(name, 16).is_done:
            return
    pytest.fail("it is never done")


def everything(telemetry):
    found = {vin: [frame.frame for frame in telemetry.read(vin, 0, 2**40)] for vin in VINS}
    assert all(len(each) == 720 for each in found.values())
    return found
