"""Which process wrote which frames, on SQLite: names, their locks, and whose turn it is to derive.

Each process that writes has a name, and a lock under the number of that name. The lock is SQLite's own, on an empty file beside the
reports: the operating system takes it back when the process ends, however it ends. So a lock that can be taken belongs to a process
that is gone, whatever the clocks say, and what it has left underived may be derived by another.

    reports/writer-7.lock    held by the process with this number, as long as it lives
    reports/partitions.lock  held while a file of reports is begun (`telemetry_sqlite`)
    reports/derived.lock     shared by all that save what they have derived; alone to one that derives for a process that is gone
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["DERIVED_LOCK", "OWN_NAME_TIMEOUT_S", "FileLock", "names_for", "overtaken", "taken_name"]

DERIVED_LOCK: Final = "derived.lock"
OWN_NAME_TIMEOUT_S: Final = 5.0
"""How long a name is waited for by the process that is to have it and no other: one that was killed may still be going, and another
may be deriving what it has left."""
_NAMES_MAX: Final = 1000


def names_for(name: str, *, is_fixed: bool) -> Iterator[str]:
    """The names that a process may have: *name* and no other, or the first of "name", "name-2", "name-3" that nobody has."""
    yield name
    if not is_fixed:
        for number in range(2, _NAMES_MAX):
            yield f"{name}-{number}"


def taken_name(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"gateway name {name!r}: another process that runs on this data has it; give each process a name of its own"
        " (--gateway-name)"
    )


def overtaken() -> StorageUnavailableError:
    """What was derived begins at states that another process may have changed since."""
    return StorageUnavailableError(
        "another process has derived the reports of one that has ended; what is new is derived again",
        code="storage-busy",
    )


class FileLock:
    """A lock on a file, for as long as its process lives at most. Called by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Make the file if it is missing.

        Raises:
            sqlite3.Error: it cannot be opened.
        """
        self.path = path
        self._depth = 0
        self._connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)

    def take(self, *, timeout_s: float = 0.0, is_shared: bool = False) -> bool:
        """Take it, alone or with others that share it. False if another has it for longer than *timeout_s*."""
        if self._depth == 0 and not self._begin(timeout_s, is_shared=is_shared):
            return False
        self._depth += 1
        return True

    def _begin(self, timeout_s: float, *, is_shared: bool) -> bool:
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {round(timeout_s * 1000)}")
            self._connection.execute("BEGIN" if is_shared else "BEGIN EXCLUSIVE")
            # A transaction begins to share when it first reads.
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                return False
            raise
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def held(self, *, timeout_s: float, is_shared: bool = False) -> Iterator[None]:
        """Hold it while the block runs; within a block that holds it already, nothing is waited for.

        Raises:
            StorageUnavailableError: another process had it for longer than *timeout_s*.
        """
        if not self.take(timeout_s=timeout_s, is_shared=is_shared):
            raise StorageUnavailableError(
                "another process is deriving the reports of one that has ended; try again in a few seconds",
                code="storage-busy",
            )
        try:
            yield
        finally:
            self.release()

    def close(self) -> None:
        self._connection.close()
