"""A real PostgreSQL for tests: a fresh database on the machine's server, or a server of the test's own that it may stop and kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MACHINE = "127.0.0.1:5432"
"""The machine's server: for reading and writing only. A test that stops or restarts a server starts its own."""
_WAIT_S = 60.0


def binaries() -> Path | None:
    """The folder with initdb and postgres, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


def answers(address: str) -> bool:
    import psycopg

    host, port = address.split(":")
    try:
        psycopg.connect(host=host, port=int(port), user="postgres", dbname="postgres", connect_timeout=5).close()
    except psycopg.Error:
        return False
    return True


@contextmanager
def fresh_database(address: str) -> Iterator[str]:
    """The URL of an empty database on the server at *address*; it is dropped in the end."""
    import psycopg

    host, port = address.split(":")
    name = f"bmsota_test_{uuid.uuid4().hex[:12]}"
    options = {"host": host, "port": int(port), "user": "postgres", "dbname": "postgres", "autocommit": True}
    with psycopg.connect(**options) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield f"postgresql://postgres@{address}/{name}"
    finally:
        with psycopg.connect(**options) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def some_server() -> Iterator[str]:
    """The address of the machine's server, or of one for all tests of this process. Skips the test where PostgreSQL is not installed."""
    yield MACHINE if answers(MACHINE) else _server_of_the_process().address


@cache
def _server_of_the_process() -> OwnServer:
    """Making the files of a server takes seconds; `stop_server_of_the_process` ends it."""
    server = OwnServer()
    server.start()
    return server


def stop_server_of_the_process() -> None:
    """At the end of the session."""
    if _server_of_the_process.cache_info().currsize:
        _server_of_the_process().__exit__()
        _server_of_the_process.cache_clear()


@contextmanager
def some_database() -> Iterator[str]:
    """The URL of an empty database, on whichever server there is. Skips the test as `some_server` does."""
    with some_server() as address, fresh_database(address) as url:
        yield url


class OwnServer:
    """A server in a folder and on a port of its own. It syncs as in production: tests kill it."""

    def __init__(self) -> None:
        found = binaries()
        if found is None:
            pytest.skip("PostgreSQL is not installed: make test installs Debian's package")
        self._binaries = found
        self._folder = Path(tempfile.mkdtemp(prefix="bmsota-postgresql-"))
        # initdb refuses to run as root.
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(self._folder, "postgres", "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._call("initdb", "-D", str(self._folder / "data"), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
        command += [
            "-c",
            f"unix_socket_directories={self._folder}",
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "shared_buffers=16MB",
        ]
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(self._as + command, stdout=log, stderr=log, cwd="/")
        log.close()
        deadline = time.monotonic() + _WAIT_S
        while not answers(self.address):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: disconnect everybody and stop. SIGQUIT: at once, without a checkpoint, as in a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_WAIT_S)
            self._process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No process of the server does anything, as in a machine that is paused; the system below goes on acknowledging what comes."""
        assert self._process is not None
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)
        children = [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGSTOP)
        try:
            yield
        finally:
            for one in (*children, pid):
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9 of the server and all its processes, as when the machine loses its memory; what it had synced is on the disk."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        # The server first, or it would notice that a child has died, and see to it.
        for pid in (self._process.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(_WAIT_S)
        self._process = None
        deadline = time.monotonic() + _WAIT_S
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as, str(self._binaries / program), *arguments],
            check=True,
            capture_output=True,
            cwd="/",
            timeout=_WAIT_S,
        )
