"""A secret of the platform is the same for all who ask, also when they ask for the first time at once."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Event, Thread
from types import SimpleNamespace

from bmsota_cloud.services.platform_secret import PlatformSecret
from bmsota_cloud.storage.sql.store import SqlStore


class SlowReader:
    """A store whose first reader learns that there is no secret, and goes on only when the other thread has written one."""

    def __init__(self, store):
        self._store = store
        self._readers = 0
        self.has_read, self.may_go_on, self.has_gone_on, self.other_is_done = Event(), Event(), Event(), Event()

    @contextmanager
    def reading(self):
        self._readers += 1
        is_first = self._readers == 1
        with self._store.reading() as work:
            yield SimpleNamespace(secret=self._read_slowly(work) if is_first else work.secret)

    def _read_slowly(self, work):
        def secret(name):
            found = work.secret(name)
            self.has_read.set()
            assert self.may_go_on.wait(60)
            return found

        return secret

    @contextmanager
    def transaction(self):
        if self.may_go_on.is_set():
            self.has_gone_on.set()
            assert self.other_is_done.wait(60)
        with self._store.transaction() as work:
            yield work
        if not self.may_go_on.is_set():
            self.may_go_on.set()
            assert self.has_gone_on.wait(60)


def test_two_threads_that_ask_for_the_first_time_get_the_same(tmp_path):
    store = SqlStore(f"sqlite:///{tmp_path}/platform.sqlite")
    slow = SlowReader(store)
    draws = iter([b"first".ljust(32), b"other".ljust(32)])
    secret = PlatformSecret(SimpleNamespace(store=slow, draw=lambda _size: next(draws)), "a key")
    got = {}
    thread = Thread(target=lambda: got.update(slow=secret()))
    thread.start()
    assert slow.has_read.wait(60)
    got["quick"] = secret()
    slow.other_is_done.set()
    thread.join(60)
    assert got == {"slow": b"first".ljust(32), "quick": b"first".ljust(32)}
    assert secret() == b"first".ljust(32)
    store.close()
