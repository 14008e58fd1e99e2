"""The lock that lines up the writers of a process."""

from threading import Event, Thread

import pytest
from bmsota_cloud.storage.sql._turns import TurnLock


def waiting(lock, count):
    """Until *count* threads stand in the queue; the watchdog ends a test that hangs."""
    for _ in range(60_000):
        if len(lock._waiting) == count:
            return
        Event().wait(0.001)
    raise AssertionError(f"{len(lock._waiting)} wait, expected {count}")


def test_who_comes_back_at_once_stands_behind_those_who_wait():
    """The first thread takes it a thousand times in a row; the others get their turn after its first release."""
    lock, order, taken = TurnLock(), [], Event()

    def once(name):
        with lock:
            order.append(name)

    def again_and_again():
        for number in range(1000):
            with lock:
                order.append("slice")
                if number == 0:
                    taken.set()
                    waiting(lock, 2)

    busy = Thread(target=again_and_again)
    busy.start()
    assert taken.wait(60)
    others = []
    for place, name in enumerate(("first", "second"), start=1):
        others.append(Thread(target=once, args=[name]))
        others[-1].start()
        if place == 1:
            waiting(lock, 1)
    for thread in (busy, *others):
        thread.join(60)
    assert order[:3] == ["slice", "first", "second"]
    assert order.count("slice") == 1000


def test_it_is_reentrant_and_free_in_the_end():
    lock = TurnLock()
    with lock, lock:
        pass
    got = []
    thread = Thread(target=lambda: got.append(lock.__enter__()))
    thread.start()
    thread.join(60)
    assert got == [lock]


def test_who_was_handed_the_lock_has_it_alone():
    lock, is_in, may_leave, order = TurnLock(), Event(), Event(), []

    def second():
        with lock:
            is_in.set()
            assert may_leave.wait(60)
            order.append("second")

    def third():
        with lock:
            order.append("third")

    threads = [Thread(target=second), Thread(target=third)]
    with lock:
        threads[0].start()
        waiting(lock, 1)
    assert is_in.wait(60)
    threads[1].start()
    waiting(lock, 1)
    may_leave.set()
    for thread in threads:
        thread.join(60)
    assert order == ["second", "third"]


def test_two_threads_count_right():
    lock, count = TurnLock(), [0]

    def add():
        for _ in range(2000):
            with lock:
                count[0] += 1

    threads = [Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count == [8000]


@pytest.mark.parametrize("is_turn_already", [False, True])
def test_who_is_interrupted_while_waiting_is_in_nobodys_way(is_turn_already):
    lock, order = TurnLock(), []
    with lock:
        thread = Thread(target=lambda: (lock.__enter__(), order.append("next"), lock.__exit__(None, None, None)))
        thread.start()
        waiting(lock, 1)
        if not is_turn_already:
            # Ours would stand behind it; it is taken out again.
            me, gate = 1, lock._waiting[0][1]
            lock._waiting.append((me, gate))
            lock._give_up(me, gate)
            assert len(lock._waiting) == 1
    if is_turn_already:
        lock.__enter__()
        lock._give_up(0, None)
    thread.join(60)
    assert order == ["next"]
    assert lock._owner is None


def test_who_has_waited_long_enough_leaves_the_queue():
    lock, results = TurnLock(), []
    with lock:
        waiting = Thread(target=lambda: results.append(lock.acquire(timeout=0.01)))
        waiting.start()
        waiting.join()
    assert results == [False]
    # The turn was not given to somebody who is not there.
    assert lock.acquire(timeout=0)
    lock.release()
