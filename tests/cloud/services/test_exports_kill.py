"""kill -9 of the process that makes an export: never half a file under its name, and another process makes it whole."""

import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bmsota_cloud.domain.exports import ExportFormat
from bmsota_cloud.domain.vehicles import VehicleFilter
from bmsota_cloud.services import exports as exports_module
from bmsota_cloud.services import stored_frame

from bmsota.gbt32960 import Command, Frame, Report, VehicleData, encode

ROOT = Path(__file__).parents[3]
T0 = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
REPORTS = 12

# Makes one step, says so, and waits to be told to go on; of its last words the file may be whole and the job not yet.
EXPORTER = """
import sys
sys.path.insert(0, "tests/cloud")
sys.path.insert(0, "tests/rigs")
from pathlib import Path
from conftest import make_world
from bmsota_cloud.services import exports
exports._BATCH_REPORTS = 2
world = make_world("child", people=False, data_dir=Path(sys.argv[1]), gateway_id="child", gateway_name="child")
for _ in sys.stdin:
    print(world.services.exports.run(world.now), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 8])
def test_killed_in_the_middle(new_world, tmp_path, steps):
    world = new_world(data_dir=tmp_path / "data")
    vin = world.register(1)
    for number in range(REPORTS):
        at = T0 + timedelta(seconds=30 * number)
        data = VehicleData(1, 3, 1, 42.5, 12345.6, 350.2, 31.4, number, 1, 14, 5000, 0, 0)
        raw = encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(at, (data,))))
        at_s = int(at.timestamp())
        world.services.ingest.accept(
            stored_frame(vin, raw, reported_at_s=at_s, arrived_at_ns=at_s * 10**9, is_backfill=False)
        )
    carol = world.people["carol"]
    world.services.exports.create(
        VehicleFilter(), kind=ExportFormat.PARQUET, since=T0, until=T0 + timedelta(hours=1), by=carol, now=world.now
    )
    command = [sys.executable, "-c", EXPORTER, str(tmp_path / "data")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        for _ in range(steps):
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "True\n"
        child.send_signal(signal.SIGKILL)
    folder = tmp_path / "data/exports"
    left = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    assert all(name.startswith(".") or pq.read_table(folder / name).num_rows == REPORTS for name in left)
    assert world.services.exports.get(1, by=carol).status == "running"
    assert not world.services.exports.run(world.now)
    world.wait(seconds=exports_module.CLAIM_S + 1)
    while world.services.exports.run(world.now):
        pass
    job, path = world.services.exports.file(1, by=carol, now=world.now)
    assert (job.status, job.attempts, job.reports) == ("done", 2, REPORTS)
    assert pq.read_table(path)["vehicle_data.soc_pct"].to_pylist() == list(range(REPORTS))
    assert [each.name for each in folder.iterdir()] == [path.name]
