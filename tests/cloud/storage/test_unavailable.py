"""A database that cannot be used for a while: said by name, nothing half-done, and it works again by itself."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from threading import Event, Thread

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.storage.sql import _engine
from bmsota_cloud.storage.sql._engine import SqlDatabase
from bmsota_cloud.storage.sql._unavailable import unavailable_from
from postgresql import some_database
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's options of a socket")
def test_a_server_that_is_gone_without_a_word_is_given_up_within_half_a_minute():
    """Without it, a cut network holds every thread that asks for a quarter of an hour. What the address says is believed."""
    with some_database() as url:
        for query, idle_s in (("", 15), ("?keepalives_idle=77", 77)):
            database = SqlDatabase(url + query, history="platform", synchronous="FULL")
            with closing(database), database.reading() as connection:
                descriptor = os.dup(connection.connection.driver_connection.fileno())
                with socket.socket(fileno=descriptor) as own:
                    options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                    found = [own.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            assert found == [30_000, idle_s, 5, 3]


def of_sqlite(code):
    error = sqlite3.OperationalError("words")
    error.sqlite_errorcode = code
    return error


def of_server(state):
    error = Exception("words")
    error.sqlstate = state
    return error


# As psycopg has it: a kind of its OperationalError, without a state.
SlowConnection = type("ConnectionTimeout", (type("OperationalError", (Exception,), {}),), {})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (of_sqlite(sqlite3.SQLITE_BUSY), "storage-busy"),
        (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), "storage-busy"),
        (of_sqlite(sqlite3.SQLITE_FULL), "storage-full"),
        (of_sqlite(sqlite3.SQLITE_READONLY_DBMOVED), "storage-read-only"),
        (of_sqlite(sqlite3.SQLITE_IOERR_WRITE), "storage-failed"),
        (of_sqlite(sqlite3.SQLITE_CONSTRAINT_UNIQUE), None),
        (of_sqlite(sqlite3.SQLITE_ERROR), None),
        (OperationalError("select 1", {}, of_sqlite(sqlite3.SQLITE_FULL)), "storage-full"),
        (IntegrityError("insert", {}, of_sqlite(sqlite3.SQLITE_CONSTRAINT_UNIQUE)), None),
        (of_server("57P01"), "storage-away"),
        (of_server("08006"), "storage-away"),
        (of_server("53300"), "storage-busy"),
        (of_server("53100"), "storage-full"),
        (of_server("40P01"), "storage-busy"),
        (of_server("25006"), "storage-read-only"),
        (of_server("23505"), None),
        (of_server("42601"), None),
        (ProgrammingError("select", {}, of_server("42P01")), None),
        (OperationalError("select", {}, Exception(), connection_invalidated=True), "storage-away"),
        (OperationalError("connect", {}, SlowConnection()), "storage-away"),
        (PoolTimeoutError("pool"), "storage-busy"),
        (OSError(errno.ENOSPC, "full"), "storage-full"),
        (OSError(errno.EDQUOT, "quota"), "storage-full"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "storage-away"),
        (OSError(errno.ENOENT, "no such file"), None),
        (ValueError("a bug"), None),
    ],
)
def test_what_means_not_now_and_what_is_a_fault_of_ours(error, code):
    found = unavailable_from(error)
    assert (None if found is None else found.code) == code


class Holder:
    """Another process that has the file locked."""

    def __init__(self, path):
        script = (
            "import sqlite3, sys\n"
            "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "db.execute('begin immediate')\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout.readline() == b"locked\n"

    def release(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def test_a_file_that_another_process_has_locked_is_said_to_be_busy(tmp_path):
    path = tmp_path / "p.sqlite"
    database = SqlDatabase(f"sqlite:///{path}", history="platform", synchronous="FULL", busy_timeout_s=0.05)
    holder = Holder(path)
    try:
        with pytest.raises(StorageUnavailableError) as caught, database.writing():
            pytest.fail("the transaction began")
        assert caught.value.code == "storage-busy"
        assert "locked by another process" in database.problem
        with database.reading() as connection:
            assert connection.exec_driver_sql("select count(*) from mail").scalar() == 0
        assert database.problem
    finally:
        holder.release()
    with database.writing() as connection:
        connection.exec_driver_sql("delete from mail")
    assert database.problem == ""
    database.close()


def test_behind_a_locked_file_one_waits_and_nobody_else(tmp_path, monkeypatch):
    """Otherwise every thread of the web server waits, and every page with it. The one who waits goes on when the file is free."""
    monkeypatch.setattr("bmsota_cloud.storage.sql._engine._MOMENT_S", 0.05)
    path = tmp_path / "p.sqlite"
    database = SqlDatabase(f"sqlite:///{path}", history="platform", synchronous="FULL", busy_timeout_s=120)
    holder = Holder(path)
    refused = []

    def write():
        try:
            with database.writing() as connection:
                connection.exec_driver_sql("delete from mail")
        except StorageUnavailableError as error:
            refused.append(str(error))

    first = Thread(target=write)
    first.start()
    deadline = time.monotonic() + 60
    while not database.is_stuck:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    others = [Thread(target=write) for _ in range(30)]
    for other in others:
        other.start()
    for other in others:
        # Far less than what the first waits: a watchdog, no measurement.
        other.join(60)
        assert not other.is_alive()
    assert len(refused) == 30
    assert all("locked by another process" in words for words in refused)
    assert first.is_alive()
    holder.release()
    first.join(60)
    assert not first.is_alive()
    assert (len(refused), database.is_stuck, database.problem) == (30, False, "")
    with database.writing():
        pass
    database.close()


def test_those_behind_one_who_has_waited_in_vain_do_not_wait_again(tmp_path, monkeypatch):
    """And while the file stays locked, each further one tries for a moment only."""
    monkeypatch.setattr("bmsota_cloud.storage.sql._engine._MOMENT_S", 0.3)
    path = tmp_path / "p.sqlite"
    database = SqlDatabase(f"sqlite:///{path}", history="platform", synchronous="FULL", busy_timeout_s=1.0)
    holder = Holder(path)
    waits = []
    real = _engine._set_busy_timeout

    def counting(connection, seconds):
        waits.append(seconds)
        real(connection, seconds)

    monkeypatch.setattr(_engine, "_set_busy_timeout", counting)

    def write():
        with pytest.raises(StorageUnavailableError), database.writing():
            pytest.fail("the transaction began")

    # All of them are there before the first has waited for a moment, or are refused because it has.
    threads = [Thread(target=write) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert waits[:2] == [0.3, 0.7]
    # Nobody had the long wait again.
    assert set(waits[2:]) <= {0.3}
    before = len(waits)
    write()
    assert waits[before:] == [0.3]
    holder.release()
    with database.writing():
        pass
    assert not database.is_stuck
    database.close()


def test_a_writer_of_this_process_that_does_not_end_does_not_hold_the_others_for_ever(tmp_path):
    database = SqlDatabase(
        f"sqlite:///{tmp_path / 'p.sqlite'}", history="platform", synchronous="FULL", busy_timeout_s=0.05
    )
    inside, done = Event(), Event()

    def write():
        with database.writing():
            inside.set()
            done.wait(30)

    thread = Thread(target=write)
    thread.start()
    try:
        assert inside.wait(30)
        with pytest.raises(StorageUnavailableError, match="busy"), database.writing():
            pytest.fail("two writers at once")
    finally:
        done.set()
        thread.join()
    with database.writing():
        pass
    database.close()


FULL = """
    import os, resource, signal, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from bmsota_cloud.domain.errors import StorageUnavailableError
    from bmsota_cloud.domain.outbox import Mail
    from bmsota_cloud.storage.sql import SqlStore

    NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
    folder, way = Path(sys.argv[1]), sys.argv[2]
    filler = folder / "filler"

    def no_room():
        if way == "limit":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
        else:
            with filler.open("wb") as file:
                file.truncate(0)
                room = os.statvfs(folder)
                file.write(bytes(room.f_bavail * room.f_bsize - 1_000_000))

    def room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        filler.unlink(missing_ok=True)

    def add(count):
        with store.transaction() as work:
            for _ in range(count):
                work.outbox.add(Mail(recipient="a@b", subject="s", body="x" * 100_000, task_id=None, created_at=NOW, next_try_at=NOW))

    def count():
        with store.reading() as work:
            return work.outbox.waiting()

    store = SqlStore(f"sqlite:///{folder / 'p.sqlite'}")
    kept = 0
    no_room()
    for _ in range(100):
        try:
            add(2)
        except StorageUnavailableError as refusal:
            print(refusal.code)
            break
        kept += 2
    assert 0 < kept < 100, kept
    # Two together or none, and what is there can be read.
    assert count() == kept, (count(), kept)
    room()
    add(1)
    assert count() == kept + 1
    with store.reading() as work:
        assert work._connection.exec_driver_sql("pragma integrity_check").scalar() == "ok"
    store.close()
"""


def mounts_are_permitted():
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("way", "codes"), [("limit", {"storage-failed", "storage-full"}), ("disk", {"storage-full"})])
def test_a_full_disk_refuses_whole_transactions_is_read_and_written_again_when_there_is_room(tmp_path, way, codes):
    """A file that may not grow, and a small file system that is really full."""
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), way]
    if way == "disk":
        if not mounts_are_permitted():
            pytest.skip("mounting a file system is not permitted here")
        mount = f'mount -t tmpfs -o size=8m full {tmp_path} && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", mount, "sh", *command]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() in codes
