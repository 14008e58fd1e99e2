"""Two processes that begin partitions of the same data at the same time: they agree where a frame belongs."""

import subprocess
import sys

import pytest
from bmsota_cloud.storage.sql import SqlTelemetryStore
from postgresql import some_database
from stored_frames import DAY_S, NOON_S, VIN, derive_all, everything, stored, with_retry

FRAMES = [
    stored(NOON_S + n * 3600 + 7 * k, bodies=bytes([n, k]), arrived_s=NOON_S + 4 * DAY_S)
    for n in range(48)
    for k in range(2)
]

PROCESS = """
import random
import sys

sys.path[:0] = {path!r}
from bmsota_cloud.storage.sql import SqlTelemetryStore
from stored_frames import with_retry
from test_two_processes import FRAMES

telemetry = SqlTelemetryStore({url!r}, is_hourly={is_hourly})
telemetry.append([])
print("ready", flush=True)
sys.stdin.readline()
order = random.Random({seed}).sample(FRAMES, len(FRAMES))
print(sum(sum(with_retry(telemetry, order[n:n + 2])) for n in range(0, len(order), 2)), flush=True)
telemetry.close()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'telemetry.sqlite'}"
        return
    with some_database() as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_both_take_the_same_reports_and_each_is_kept_once(url, seed):
    """One has partitions of a day, the other (on SQLite) of an hour."""
    SqlTelemetryStore(url).close()
    path = [entry for entry in sys.path if entry] + [__file__.rpartition("/")[0]]
    both = []
    for is_hourly in (False, True):
        code = PROCESS.format(path=path, url=url, is_hourly=is_hourly, seed=2 * seed + is_hourly)
        both.append(
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    try:
        for process in both:
            assert process.stdout.readline() == "ready\n"
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = [int(process.stdout.readline()) for process in both]
        assert [process.wait(120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
            process.communicate()
    telemetry = SqlTelemetryStore(url)
    assert everything(telemetry) == FRAMES
    assert sum(counts) == len(FRAMES)
    assert telemetry.append(FRAMES) == [False] * len(FRAMES)
    telemetry.close()


def test_a_partition_that_another_has_begun_is_found_before_one_of_another_length(tmp_path):
    url = f"sqlite:///{tmp_path / 'telemetry.sqlite'}"
    daily, hourly = SqlTelemetryStore(url), SqlTelemetryStore(url, is_hourly=True)
    assert daily.append(FRAMES[:4]) == [True] * 4
    # Its day is there, and it does not know yet.
    assert hourly.append(FRAMES[2:8]) == [False] * 2 + [True] * 4
    # The other way: an hour of the next day, of which the day is begun behind it.
    assert hourly.append(FRAMES[60:62]) == [True] * 2
    assert daily.append(FRAMES[60:66]) == [False] * 2 + [True] * 4
    assert hourly.append(FRAMES[60:66]) == [False] * 6
    assert everything(hourly) == FRAMES[:8] + FRAMES[60:66]
    for each in (daily, hourly):
        each.close()


def test_an_hour_in_blocks_has_its_reports_also_when_its_day_is_begun(tmp_path):
    url = f"sqlite:///{tmp_path / 'telemetry.sqlite'}"
    hourly = SqlTelemetryStore(url, is_hourly=True)
    assert hourly.append(FRAMES[:2]) == [True] * 2
    derive_all(hourly)
    for _ in range(9):
        for partition in hourly.hot():
            hourly.compact(partition.name, 9)
    assert hourly.hot() == []
    hourly.close()
    daily = SqlTelemetryStore(url)
    assert daily.append(FRAMES[2:4]) == [True] * 2
    assert daily.append(FRAMES[:4]) == [False] * 4
    assert everything(daily) == FRAMES[:4]
    daily.close()


def test_a_report_too_old_to_begin_a_day_goes_into_the_day_that_another_has_begun(url):
    one, two = SqlTelemetryStore(url), SqlTelemetryStore(url, writer="two")
    young = stored(NOON_S, arrived_s=NOON_S + 5)
    late = stored(NOON_S, command=3, arrived_s=NOON_S + 40 * DAY_S)
    # It has looked which partitions there are.
    assert two.append([stored(NOON_S + 40 * DAY_S)]) == [True]
    assert one.append([young]) == [True]
    assert two.append([late]) == [False]
    assert everything(one) == [young, stored(NOON_S + 40 * DAY_S)]
    for each in (one, two):
        each.close()


def test_a_day_that_another_drops_while_it_is_opened_is_not_made_anew_beside_its_hours(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'telemetry.sqlite'}"
    daily, hourly = SqlTelemetryStore(url), SqlTelemetryStore(url, writer="two", is_hourly=True)
    assert daily.append(FRAMES[:4]) == [True] * 4
    daily.save_derived([], [], daily.mark())
    assert everything(hourly) == FRAMES[:4]
    for _ in range(2):
        # It closes what it has not written to.
        daily.prune(0)
    part, dropped = daily._on_sqlite, []
    open_file = part._open_file

    def opens_late(name):
        dropped.append(hourly.prune((NOON_S + 9 * DAY_S) * 10**9))
        if dropped[0]:
            hourly.append(FRAMES[4:6])
        monkeypatch.setattr(part, "_open_file", open_file)
        return open_file(name)

    monkeypatch.setattr(part, "_open_file", opens_late)
    assert with_retry(daily, FRAMES[:2]) == [False] * 2
    assert dropped == [0]
    files = sorted(path.stem for path in (tmp_path / "reports").glob("2*.sqlite"))
    assert files == ["2026-11-22"]
    assert everything(daily) == everything(hourly) == FRAMES[:4]
    for each in (daily, hourly):
        each.close()


def test_a_partition_that_another_has_compacted_or_dropped_is_begun_anew_by_one_process_only(url):
    one, two = SqlTelemetryStore(url), SqlTelemetryStore(url, writer="two", is_hourly=True)
    for each, frames in ((one, FRAMES[:2]), (two, FRAMES[2:4])):
        assert each.append(frames) == [True] * 2
        each.save_derived([], [], each.mark())
    # Two looks: what is not written to is closed by the first.
    for each in (one, two, one):
        each.prune((NOON_S + 9 * DAY_S) * 10**9)
    assert everything(two, VIN) == []
    assert with_retry(two, FRAMES[:4]) == [True] * 4
    assert with_retry(one, FRAMES[:6]) == [False] * 4 + [True] * 2
    assert with_retry(two, FRAMES[:8]) == [False] * 6 + [True] * 2
    derive_all(one)
    derive_all(two)
    assert everything(one) == everything(two) == FRAMES[:8]
    for each in (one, two):
        each.close()
