"""kill -9 of a process while it compacts and takes late reports: nothing is lost, nothing is there twice. Real databases."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.storage.sql import SqlTelemetryStore
from long_run import LONG, seeds
from postgresql import some_database
from stored_frames import DAY_S, NOON_S, derive_all, everything, stored

ROOT = __file__.rpartition("/tests/")[0]
VINS = [f"LKILL{number:012d}" for number in range(4)]
KILLS = 30 if LONG else 3
LIMIT_S = 120.0

# Compacts day by day, and between two slices takes a late report and a repetition; says what it has been told is kept.
COMPACTOR = """
import random, sys
sys.path.insert(0, "tests/rigs")
from dataclasses import replace
from bmsota_cloud.storage.sql import SqlTelemetryStore
from stored_frames import DAY_S, NOON_S, derive_all, stored

url, seed, number, vins = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
draw = random.Random(seed * 100_000 + number)
telemetry = SqlTelemetryStore(url)
derive_all(telemetry)
while True:
    for partition in telemetry.hot() or [None]:
        is_done = partition is None
        while True:
            at_s = NOON_S + draw.randrange(DAY_S)
            late = stored(at_s, vin=draw.choice(vins), bodies=number.to_bytes(4, "big"), arrived_s=NOON_S + 5 * DAY_S + number)
            print("begun", number, at_s, late.vin, flush=True)
            assert telemetry.append([late, replace(late, arrived_at_ns=1)]) == [True, False]
            print("kept", number, flush=True)
            number += 1
            telemetry.save_derived([], [], telemetry.mark())
            if is_done:
                break
            is_done = telemetry.compact(partition.name, draw.randrange(1, 6)).is_done
"""


def days():
    """Two days of some vehicles."""
    return [
        stored(NOON_S + n * 1200, vin=vin, bodies=bytes([n % 5]) * 40) for n in range(2 * DAY_S // 1200) for vin in VINS
    ]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'telemetry.sqlite'}"
        return
    with some_database() as url:
        yield url


def sorted_by_time(frames):
    return sorted(frames, key=lambda frame: (frame.reported_at_s, frame.arrived_at_ns))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: f"seed{seed}")
def test_kill_9_while_compacting_loses_nothing_and_doubles_nothing(url, seed):
    """Replay: pytest tests/cloud/storage/test_compacting_kill.py (which write is cut depends on the machine)."""
    draw = random.Random(seed)
    expected = days()
    telemetry = SqlTelemetryStore(url)
    telemetry.append(expected)
    telemetry.close()
    number = 1
    for _ in range(KILLS):
        command = [sys.executable, "-c", COMPACTOR, url, str(seed), str(number), *VINS]
        lines, goal = [], draw.randrange(1, 120)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            try:
                for line in process.stdout:
                    lines.append(line.split())
                    if len(lines) >= goal:
                        break
                process.send_signal(signal.SIGKILL)
                lines += [line.split() for line in process.stdout]
                process.wait(LIMIT_S)
            finally:
                process.kill()
        kept = {line[1] for line in lines if line[0] == "kept"}
        begun = {
            line[1]: stored(
                int(line[2]),
                vin=line[3],
                bodies=int(line[1]).to_bytes(4, "big"),
                arrived_s=NOON_S + 5 * DAY_S + int(line[1]),
            )
            for line in lines
            if line[0] == "begun" and len(line) == 4
        }
        assert begun, "the process ended by itself"
        expected += [begun[each] for each in kept]
        number = int(max(begun, key=int)) + 1
        telemetry = SqlTelemetryStore(url)
        found = [frame for vin in VINS for frame in everything(telemetry, vin)]
        assert max(Counter(found).values()) == 1
        assert set(expected) <= set(found)
        # What was on its way is there or not.
        more = set(found) - set(expected)
        assert more <= {frame for each, frame in begun.items() if each not in kept}
        expected += more
        for vin in VINS:
            own = sorted_by_time([frame for frame in expected if frame.vin == vin])
            assert everything(telemetry, vin) == own
            page = telemetry.frames(vin, PageRequest(2, 50))
            assert (page.total, page.items) == (len(own), tuple(own[::-1][50:100]))
        telemetry.close()
    telemetry = SqlTelemetryStore(url)
    deadline = time.monotonic() + LIMIT_S
    derive_all(telemetry)
    while not all(partition.is_derived for partition in telemetry.hot()):
        # The server may not know yet that the last one is gone.
        assert time.monotonic() < deadline
        time.sleep(0.1)
        derive_all(telemetry)
    for partition in telemetry.hot():
        while not telemetry.compact(partition.name, 32).is_done:
            pass
    assert telemetry.hot() == []
    for vin in VINS:
        assert everything(telemetry, vin) == sorted_by_time([frame for frame in expected if frame.vin == vin])
    assert telemetry.append(expected) == [False] * len(expected)
    telemetry.close()
