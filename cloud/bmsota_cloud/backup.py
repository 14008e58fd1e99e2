"""A copy of the data folder, made while the platform runs, and the way back.

    NAME/backup.json      what is in it: layout, when, by which version; size and SHA-256 of each file
    NAME/data/...         the files, under the names that they have in the data folder

Order. What one file says of another holds in the copy too: states and events first, then the frames that they were derived from, so a
frame that came in between is derived after the way back; rows before blocks, because rows become blocks and never the other way round, and
a file of rows that is gone meanwhile is in the blocks; the count of starts (`reports/starts`) last, so that a process that began in between
shows, and everything is derived again. A database on PostgreSQL is not in the folder and so not in the copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bmsota import __version__
from bmsota.errors import ConfigurationError
from bmsota_cloud.folders import make_folder
from bmsota_cloud.storage.sql.files import copy_database, damage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

__all__ = ["BackupSummary", "FileCheck", "back_up", "check_data", "restore"]

LAYOUT: Final = 1
"""Of the folder of a backup. A newer one is refused by name."""
_LIST: Final = "backup.json"
_DATA: Final = "data"
_DATABASE: Final = ".sqlite"
# Locks, and logs that belong to an open database.
_LEFT_OUT: Final = (".lock", "-wal", "-shm", "-journal")
_REPORTS: Final = "reports"
_BLOCKS: Final = ".blocks.sqlite"


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """What was copied."""

    files: int
    size_bytes: int
    made_at: str
    """ISO 8601."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file of a data folder."""

    name: str
    size_bytes: int
    faults: tuple[str, ...]


def back_up(
    data: Path, target: Path, *, now: datetime, progress: Callable[[str], None] = lambda _name: None
) -> BackupSummary:
    """Copy the data folder *data*, which may be in use, to the new folder *target*.

    Args:
        data: the platform's data folder.
        target: a folder that does not exist. It is there when all of it is: before, it is called `.NAME.unfinished`.
        now: when, for the list.
        progress: told the name of each file before it is copied.

    Raises:
        ConfigurationError: *data* has no databases, *target* exists, or a file cannot be read or written. Nothing is left then.
    """
    if not any(data.glob(f"*{_DATABASE}")):
        raise ConfigurationError(f"{data} is not the data folder of a platform: it has no *{_DATABASE} file")
    _refuse_existing(target)
    _refuse_inside(target, data)
    files: dict[str, dict[str, Any]] = {}
    made_at = now.isoformat(timespec="seconds")
    with _appearing(target, "unfinished", f"cannot back up {data}") as unfinished:
        (unfinished / _DATA).mkdir(mode=0o700)
        for path in _in_order(data):
            name = path.relative_to(data).as_posix()
            progress(name)
            copied = unfinished / _DATA / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            try:
                if path.suffix == _DATABASE:
                    copy_database(path, copied)
                    shutil.copymode(path, copied)
                else:
                    shutil.copy2(path, copied)
            except FileNotFoundError:
                # Reports that were dropped meanwhile, or are blocks by now: those are copied behind this.
                copied.unlink(missing_ok=True)
                continue
            files[name] = {"size_bytes": copied.stat().st_size, "sha256": _digest(copied)}
            _sync(copied)
        about = {"layout": LAYOUT, "made_at": made_at, "version": __version__, "files": files}
        listed = unfinished / _LIST
        listed.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        _sync(listed)
    return BackupSummary(len(files), sum(each["size_bytes"] for each in files.values()), made_at)


def restore(backup: Path, data: Path, *, progress: Callable[[str], None] = lambda _name: None) -> BackupSummary:
    """Make the data folder *data* from a backup. Every file is compared with the list first.

    Args:
        backup: a folder that `back_up` made.
        data: a folder that does not exist, or is empty. It is there when all of it is: before, it is called `.NAME.restoring`.
        progress: told the name of each file before it is copied.

    Raises:
        ConfigurationError: *backup* is none, is damaged or of a newer layout; *data* has something in it; or a file cannot be
            written. Nothing is changed then.
    """
    about = _list_of(backup)
    files: dict[str, dict[str, Any]] = about["files"]
    faults = [fault for name, told in files.items() if (fault := _difference(backup / _DATA / name, told))]
    if faults:
        raise ConfigurationError("\n".join([f"the backup {backup} is damaged; nothing was restored", *faults]))
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise ConfigurationError(
            f"{data} is not empty: restore to a new folder, or move this one away first (stop the platform before)"
        )
    with _appearing(data, "restoring", f"cannot restore to {data}") as unfinished:
        for name in files:
            progress(name)
            copied = unfinished / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(backup / _DATA / name, copied)
            _sync(copied)
        if data.exists():
            data.rmdir()
    return BackupSummary(len(files), sum(told["size_bytes"] for told in files.values()), str(about["made_at"]))


def check_data(data: Path, *, progress: Callable[[str], None] = lambda _name: None) -> Iterator[FileCheck]:
    """Look at every database in the data folder *data*, which may be in use; nothing is changed.

    *progress* is told the name of each file before it is looked at.

    Raises:
        ConfigurationError: *data* has no databases.
    """
    if not any(data.glob(f"*{_DATABASE}")):
        raise ConfigurationError(f"{data} is not the data folder of a platform: it has no *{_DATABASE} file")
    for path in _in_order(data):
        if path.suffix != _DATABASE:
            continue
        name = path.relative_to(data).as_posix()
        progress(name)
        faults = damage_of(path)
        if path.exists():  # Else dropped meanwhile.
            yield FileCheck(name, path.stat().st_size, tuple(faults))


def _in_order(data: Path) -> Iterator[Path]:
    """The files to copy. Each group is looked for when its turn comes: what has become blocks meanwhile is among them."""
    yield from sorted(data.glob(f"*{_DATABASE}"))
    reports = data / _REPORTS
    yield from sorted(path for path in reports.glob(f"*{_DATABASE}") if not path.name.endswith(_BLOCKS))
    yield from sorted(reports.glob(f"*{_BLOCKS}"))
    others = (path for path in data.rglob("*") if path.is_file() and path.suffix != _DATABASE)
    yield from sorted(path for path in others if not path.name.endswith(_LEFT_OUT))


def _list_of(backup: Path) -> dict[str, Any]:
    path = backup / _LIST
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{backup} is no backup: it has no {_LIST}") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    layout = about.get("layout") if isinstance(about, dict) else None
    if not isinstance(layout, int) or not isinstance(about.get("files"), dict):
        raise ConfigurationError(f"{path}: expected the list of a backup with layout and files")
    if layout > LAYOUT:
        raise ConfigurationError(
            f"{path}: expected a layout up to {LAYOUT}, got {layout}: a newer version of bmsota made it; restore it with that one"
        )
    for name, told in about["files"].items():
        is_inside = not name.startswith("/") and ".." not in name.split("/") and "\\" not in name
        if not is_inside or not isinstance(told, dict) or not isinstance(told.get("size_bytes"), int):
            raise ConfigurationError(f"{path}: expected a file's name with size and digest, got {name!r}")
    return about


def _difference(path: Path, told: dict[str, Any]) -> str:
    """What is wrong with one file of a backup."""
    try:
        size = path.stat().st_size
        if size != told["size_bytes"]:
            return f"{path}: expected {told['size_bytes']} bytes, got {size}"
        if _digest(path) != told.get("sha256"):
            return f"{path}: its SHA-256 is not that of the list"
    except FileNotFoundError:
        return f"{path}: it is missing"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise ConfigurationError(f"{target} exists already: name a new folder")


def _refuse_inside(target: Path, data: Path) -> None:
    if data.resolve() in target.resolve().parents:
        raise ConfigurationError(f"{target} is inside {data}: name a folder elsewhere")


@contextmanager
def _appearing(final: Path, state: str, fault: str) -> Iterator[Path]:
    """An empty folder beside *final*, which gets that name when all is in it; else nothing is left. Its owner alone can read it: it has private keys.

    Raises:
        ConfigurationError: a file cannot be read or written; it begins with *fault*.
    """
    parent = final.absolute().parent
    make_folder(parent)
    folder = parent / f".{final.absolute().name}.{state}"
    try:
        if folder.exists():
            # Of a run that was killed.
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        yield folder
        folder.rename(final)
        _sync(parent)
    except OSError as error:
        raise ConfigurationError(f"{fault}: {error}") from error
    finally:
        # Nothing is there any more when all went well.
        shutil.rmtree(folder, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make the file, or the names in the folder, last."""
    with suppress(PermissionError):  # Windows opens no folder.
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
