"""SQLite files as a whole: a copy of one that is in use, and whether one is sound."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["copy_database", "damage_of"]

_FAULTS_SHOWN = 5


def copy_database(source: Path, target: Path) -> None:
    """Copy the committed state of *source* to the new file *target*, while others may write to it.

    It is one step of SQLite's online backup, so it is the state of one moment; what is in the write-ahead log is in it.

    Raises:
        FileNotFoundError: *source* is gone.
        OSError: it cannot be read, or *target* not written.
    """
    if not source.exists():
        raise FileNotFoundError(f"no such file: {source}")
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=60)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            reading.backup(writing)
            # One file, without a log beside it; who opens it for writing turns the log on again.
            writing.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise OSError(f"{source.name}: {error}") from error


def damage_of(path: Path) -> list[str]:
    """What SQLite finds wrong with the file, at most five lines; empty if it is sound. Nothing is changed."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            lines = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_FAULTS_SHOWN})") if row[0] != "ok"]
            if not lines:
                lines = [
                    f"row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there"
                    for row in connection.execute("PRAGMA foreign_key_check").fetchmany(_FAULTS_SHOWN)
                ]
    except sqlite3.Error as error:
        return [str(error)]
    return [line for text in lines for line in text.splitlines()][:_FAULTS_SHOWN]
