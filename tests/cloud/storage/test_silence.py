"""A PostgreSQL server that keeps its connections and says nothing: given up, said so, and found again. Real servers, really stopped."""

from __future__ import annotations

import gc
import os
import signal
import time
from contextlib import closing, suppress
from threading import Barrier, Thread

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.storage.sql import SqlTelemetryStore, _silence, telemetry_postgresql
from bmsota_cloud.storage.sql._engine import SqlDatabase
from postgresql import OwnServer, fresh_database, some_database
from stored_frames import stored

# Watchdogs, no measurements.
LIMIT_S = 120.0


def opened(url):
    return closing(SqlDatabase(url, history="platform", synchronous="FULL"))


@pytest.fixture(scope="module")
def server():
    with OwnServer() as made:
        yield made


@pytest.fixture
def url(server, monkeypatch):
    monkeypatch.setattr(_silence, "_SILENCE_S", 0.4)
    monkeypatch.setattr(_silence, "_MOMENT_S", 0.1)
    with fresh_database(server.address) as made:
        yield made


def in_threads(count, work):
    threads = [Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def all_end(threads):
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.mark.slow
def test_a_server_that_stands_still_is_given_up_by_all_and_found_again(server, url, monkeypatch):
    """Who is in the middle of a transaction, who has a connection, who needs one; nothing of what was given up is kept."""
    codes = []
    with opened(url) as database:
        inside, stopped = Barrier(4), Barrier(4)

        def writes():
            try:
                with database.writing() as connection:
                    connection.exec_driver_sql("insert into secret values (pg_backend_pid()::text, 'x')")
                    inside.wait(LIMIT_S)
                    stopped.wait(LIMIT_S)
                    connection.exec_driver_sql("select 1")
            except StorageUnavailableError as error:
                codes.append(error.code)

        def reads():
            try:
                with database.reading() as connection:
                    connection.exec_driver_sql("select 1")
            except StorageUnavailableError as error:
                codes.append(error.code)

        writers = in_threads(3, writes)
        inside.wait(LIMIT_S)
        with server.paused():
            stopped.wait(LIMIT_S)
            all_end(writers + in_threads(3, reads))
            all_end(in_threads(3, reads))
            assert codes == ["storage-away"] * 9
            # Those who come one after the other do not wait one after the other either.
            monkeypatch.setattr(_silence, "_PAUSE_S", LIMIT_S)
            monkeypatch.setattr(_silence.ServerWatch, "_answers", None)
            reads()
            assert codes == ["storage-away"] * 10
            monkeypatch.undo()
            monkeypatch.setattr(_silence, "_PAUSE_S", 0.0)
            assert database.problem == "the database does not answer; try again in a few seconds"
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                with database.writing() as connection:
                    # Those given up are rolled back when the server finds that nobody is there.
                    rows = connection.exec_driver_sql("select count(*) from secret").scalar()
                break
            except StorageUnavailableError:
                assert time.monotonic() < deadline
        assert (rows, database.problem) == (0, "")


@pytest.mark.slow
def test_a_statement_that_takes_its_time_is_no_silence(url):
    with opened(url) as database, database.reading() as connection:
        assert connection.exec_driver_sql("select 7 from pg_sleep(1.5)").scalar() == 7


@pytest.mark.slow
def test_one_process_of_the_server_that_stands_still_holds_one_transaction_and_not_for_ever(url, monkeypatch):
    """The server answers others, so it is not away; a limit that it keeps itself helps nobody here."""
    monkeypatch.setattr(_silence, "_GIVEN_UP_S", 1.0)
    with opened(url) as database:
        pid = 0

        def write():
            nonlocal pid
            with database.writing() as connection:
                pid = connection.exec_driver_sql("select pg_backend_pid()").scalar()
                os.kill(pid, signal.SIGSTOP)
                try:
                    connection.exec_driver_sql("delete from mail")
                finally:
                    os.kill(pid, signal.SIGCONT)

        with pytest.raises(StorageUnavailableError) as caught:
            write()
        assert caught.value.code == "storage-away"
        with database.writing() as connection:
            assert connection.exec_driver_sql("select pg_backend_pid()").scalar() != pid


def test_the_server_ends_a_statement_after_a_minute_unless_the_address_says_otherwise():
    """And a lock after five seconds."""
    with some_database() as url:
        for query, wanted in (("", ["1min", "5s"]), ("?options=-c%20statement_timeout%3D7s", ["7s", "5s"])):
            with opened(url + query) as database, database.reading() as connection:
                names = ("statement_timeout", "lock_timeout")
                assert [connection.exec_driver_sql(f"show {name}").scalar() for name in names] == wanted


@pytest.mark.slow
def test_reports_wait_for_a_server_that_stands_still_and_are_stored_once(server, url, monkeypatch, caplog):
    """A batch that was given up may have been stored all the same: the server goes on with it when it is back."""
    monkeypatch.setattr(telemetry_postgresql, "_COMMAND_TIMEOUT_S", 0.5)
    telemetry = SqlTelemetryStore(url)
    first, second = stored(1_790_000_000), stored(1_790_000_001)
    assert telemetry.append([first]) == [True]
    with server.paused():
        with pytest.raises(StorageUnavailableError) as caught:
            telemetry.append([second])
        assert caught.value.code == "storage-away"
    deadline = time.monotonic() + LIMIT_S
    is_new = None
    while is_new is None:
        with suppress(StorageUnavailableError):
            is_new = telemetry.append([second])
        assert time.monotonic() < deadline
    # New for the caller, who has not been told so yet; and there once.
    assert is_new == [True]
    assert list(telemetry.read(first.vin, 0, 2**40)) == [first, second]
    with server.paused():
        with pytest.raises(StorageUnavailableError):
            telemetry.append([second])
        telemetry.close()
    del telemetry
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
