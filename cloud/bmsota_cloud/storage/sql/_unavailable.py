"""Which errors of the database drivers mean "not now", and how that is said.

A constraint that refuses a row, a statement that is wrong: these are ours to mend and stay what they are. A database that is away,
locked, full or read-only is not: the request fails whole, the caller is told why, and the same request works afterwards.

The drivers are told apart by what their errors carry, not by their classes, so that no driver has to be installed for it:
`sqlite_errorcode` (sqlite3), `sqlstate` (psycopg, asyncpg; PostgreSQL 15, appendix A), `errno` (the operating system).
"""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bmsota_cloud.domain.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["unavailable_from"]

_WORDS: Mapping[str, str] = {
    "storage-away": "the database does not answer; try again in a few seconds",
    "storage-busy": "the database is busy or locked by another process; try again in a few seconds",
    "storage-full": "the disk of the database is full; nothing can be saved until there is room",
    "storage-read-only": "the database is read-only; nothing can be saved",
    "storage-failed": "the database reports a fault of its files or its disk; see the log",
}

# The low byte of SQLite's result code (sqlite.org/rescode.html).
_SQLITE: Mapping[int, str] = {
    sqlite3.SQLITE_BUSY: "storage-busy",
    sqlite3.SQLITE_LOCKED: "storage-busy",
    sqlite3.SQLITE_FULL: "storage-full",
    sqlite3.SQLITE_READONLY: "storage-read-only",
    sqlite3.SQLITE_CANTOPEN: "storage-away",
    sqlite3.SQLITE_IOERR: "storage-failed",
    sqlite3.SQLITE_CORRUPT: "storage-failed",
    sqlite3.SQLITE_NOTADB: "storage-failed",
    sqlite3.SQLITE_PROTOCOL: "storage-busy",
    sqlite3.SQLITE_NOMEM: "storage-failed",
}

# SQLSTATE, the longest prefix that fits.
_SQLSTATE: Mapping[str, str] = {
    "08": "storage-away",  # connection exception
    "57P": "storage-away",  # the server is shut down, has crashed, is starting
    "53": "storage-busy",  # insufficient resources, such as too many connections
    "53100": "storage-full",
    "55P03": "storage-busy",  # lock not available
    "57014": "storage-busy",  # cancelled by a time limit
    "40001": "storage-busy",  # serialization failure
    "40P01": "storage-busy",  # deadlock
    "25006": "storage-read-only",
    "58": "storage-failed",  # system error
    "XX001": "storage-failed",  # damaged data
    "XX002": "storage-failed",
}

_ERRNO: Mapping[int, str] = {
    errno.ENOSPC: "storage-full",
    errno.EDQUOT: "storage-full",
    errno.EFBIG: "storage-full",
    errno.EROFS: "storage-read-only",
    errno.EACCES: "storage-read-only",
    errno.EMFILE: "storage-busy",
    errno.ENFILE: "storage-busy",
    errno.EIO: "storage-failed",
}


def unavailable_from(error: BaseException) -> StorageUnavailableError | None:
    """The refusal that *error*, of SQLAlchemy, sqlite3, psycopg, asyncpg or the operating system, stands for.

    None if the database works and the error is about something else. The caller raises it `from error`.
    """
    code = _code(error)
    return None if code is None else StorageUnavailableError(_WORDS[code], code=code)


def _code(error: BaseException) -> str | None:
    if isinstance(error, PoolTimeoutError):
        return "storage-busy"
    if isinstance(error, DBAPIError):
        is_lost = error.connection_invalidated
        return (_code(error.orig) if error.orig is not None else None) or ("storage-away" if is_lost else None)
    if isinstance(error, sqlite3.Error):
        result = getattr(error, "sqlite_errorcode", None)
        return None if result is None else _SQLITE.get(result & 0xFF)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return next((_SQLSTATE[state[:size]] for size in (5, 3, 2) if state[:size] in _SQLSTATE), None)
    if isinstance(error, OSError):
        # A refused or broken connection to a server, and a name that can't be found, have many numbers.
        return _ERRNO.get(
            error.errno or 0, "storage-away" if isinstance(error, ConnectionError | TimeoutError) else None
        )
    # psycopg reports a server it cannot reach, or that has closed the connection, without a state.
    names = {kind.__name__ for kind in type(error).__mro__}
    return "storage-away" if names & {"OperationalError", "InterfaceError"} else None
