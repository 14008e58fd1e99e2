"""Nothing that several threads count at once is lost."""

import sys
from threading import Barrier, Thread

import pytest
from bmsota_cloud.services.counters import Counters


@pytest.fixture(autouse=True)
def _threads_change_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run(*works):
    start = Barrier(len(works))

    def beside(work):
        start.wait(120)
        work()

    threads = [Thread(target=beside, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_each_count_of_each_thread_is_in_the_sum():
    counters = Counters()
    seen = []

    def count():
        for number in range(20_000):
            counters.add("both")
            counters.add(f"name {number % 50}", 2)

    def read():
        seen.extend(counters["both"] for _ in range(300))

    run(count, count, count, read)
    assert counters["both"] == 60_000
    assert counters.snapshot() == {"both": 60_000} | {f"name {number}": 2400 for number in range(50)}
    assert seen == sorted(seen)


def test_a_thread_writes_its_own_dictionary_and_no_other():
    """What makes it exact whatever the interpreter does between the steps of an addition."""
    counters = Counters()
    run(*[lambda: counters.add("x")] * 5)
    owners = [counts for _, counts in counters._running]
    assert all(counts == {"x": 1} for counts in owners)
    assert counters["x"] == 5


def test_threads_that_have_ended_cost_nothing_and_their_counts_stay():
    counters = Counters()
    for _ in range(500):
        thread = Thread(target=counters.add, args=("x",))
        thread.start()
        thread.join()
    assert counters["x"] == 500
    assert len(counters._running) == 1


def test_what_never_happened_is_zero():
    counters = Counters()
    assert (counters["x"], dict(counters), len(counters)) == (0, {}, 0)
    counters.add("x", 0)
    assert dict(counters) == {"x": 0}
