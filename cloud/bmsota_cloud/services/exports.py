"""Exports: reports of the vehicles of a list, in a file that is made in the background.

Who may export asks for it (`create`); a process claims it (`run`, a step at a time) and begins the file anew if another one that had it has died; the
file appears under its name when it is whole. The scope holds twice: for the vehicles at creation, and again when the work begins and at each download, because
accounts change and vehicles move. Every step has its line in the audit log.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final

from bmsota.errors import BmsotaError
from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StorageUnavailableError,
)
from bmsota_cloud.domain.exports import ExportFormat, ExportJob, ExportStatus
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, Page, PageRequest
from bmsota_cloud.services.audit import acting, note
from bmsota_cloud.services.export_columns import rows_of
from bmsota_cloud.services.records import check_range
from bmsota_cloud.services.scoped import check_vehicles
from bmsota_cloud.services.turns import short_turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.telemetry import StoredFrame
    from bmsota_cloud.domain.vehicles import VehicleFilter
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.export_columns import ExportFiles, ExportRows, GrowingFile
    from bmsota_cloud.storage.base import Work

__all__ = [
    "EXPORT_FILES_MAX",
    "EXPORT_UNFINISHED_MAX",
    "XLSX_REPORTS_MAX",
    "XLSX_VEHICLES_MAX",
    "ExportService",
]

_LOG = logging.getLogger(__name__)

EXPORT_UNFINISHED_MAX: Final = 3
"""Exports of one account that wait or run at once."""
EXPORT_FILES_MAX: Final = 20
"""Files of one account; they are days old at most, and nobody reads more."""
EXPORT_VEHICLES_MAX: Final = 20_000
XLSX_REPORTS_MAX: Final = 100_000
"""A worksheet has a million rows, but no program that opens one is quick beyond this."""
XLSX_VEHICLES_MAX: Final = 500
"""They are counted while the visitor waits."""
CLAIM_S: Final = 120
"""Prolonged with every step of some tenths of a second."""
_BATCH_REPORTS: Final = 16_384
"""Rows that are in memory at once: some 20 MB."""
_ATTEMPTS_MAX: Final = 5
_REST: Final = timedelta(minutes=1)
"""A database that is away comes back in minutes; five attempts must not be over before."""
_DISK_RESERVE_BYTES: Final = 512 * 1024 * 1024
"""An export ends before it takes the room that reports need."""
_ROW_KEEP: Final = timedelta(days=90)
"""How long the list names exports whose file is gone; the audit log does so for ever."""


class _FailedError(Exception):
    """This export cannot be made; the words are for its owner."""


@dataclass(slots=True)
class _Running:
    """The export that this process is making."""

    job: ExportJob
    steps: Iterator[None]
    file: GrowingFile | None = None


class ExportService:
    """One method per use case; `run` and `expire` are called by the process itself."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = Lock()
        self._running: _Running | None = None
        self._rest_until: datetime | None = None

    # -- for people ----------------------------------------------------------------------------------------------------

    def create(
        self,
        asked: VehicleFilter,
        *,
        kind: ExportFormat,
        since: datetime,
        until: datetime,
        by: Account,
        now: datetime,
        address: str = "",
    ) -> ExportJob:
        """Ask for a file with the reports of all vehicles that pass *asked* now, by the vehicles' clocks from *since* to *until*.

        Raises:
            NotAllowedError: *by* may not export.
            InvalidInputError: the range is empty, no vehicle passes, or there is too much of it for xlsx.
            ConflictError: *by* has too many exports or files, or the platform can't make such files.
        """
        with acting(
            self._context, who=by.name, action="export.create", subject="export", now=now, address=address
        ) as act:
            require(by, Permission.VEHICLE_EXPORT)
            files = self._files()
            try:
                files.check(kind)
            except BmsotaError as error:
                raise ConflictError("no-such-format", str(error)) from error
            check_range(since, until)
            if len(asked.text) > 64 or len(asked.project) > 64 or len(asked.series) > 32:
                raise InvalidInputError("bad-filter", "filter: expected at most 64 characters each, 32 for the series")
            # Locked, so that two requests at once don't both get the last place.
            if act.work.accounts.lock(by.name) is None:
                raise NotFoundError("no-such-account", f"no account {by.name}")
            if act.work.exports.unfinished(by.name) >= EXPORT_UNFINISHED_MAX:
                raise ConflictError(
                    "too-many-exports", f"{EXPORT_UNFINISHED_MAX} of your exports are not finished; wait, or cancel one"
                )
            if act.work.exports.files(by.name) >= EXPORT_FILES_MAX:
                raise ConflictError("too-many-files", f"you have {EXPORT_FILES_MAX} files; delete one")
            vins = self._vins(act.work, asked, by)
            if not vins:
                raise InvalidInputError("no-vehicles", "no vehicle passes the filter")
            if kind is ExportFormat.XLSX:
                self._check_xlsx(vins, since, until)
            job = act.work.exports.add(
                ExportJob(
                    id=0,
                    owner=by.name,
                    created_at=now,
                    format=kind,
                    project=asked.project,
                    series=asked.series,
                    text=asked.text,
                    is_online=asked.is_online,
                    since=since,
                    until=until,
                    vehicles=len(vins),
                ),
                vins,
            )
            act.subject = f"export {job.id}"
            act.detail = f"{kind}, {len(vins)} vehicles, {since.isoformat()} to {until.isoformat()}{_in_words(asked)}"
        return job

    def page(self, request: PageRequest, *, by: Account) -> Page[ExportJob]:
        """The exports of *by*, newest first; those of everybody for who manages accounts.

        Raises:
            NotAllowedError: *by* may not export.
        """
        require(by, Permission.VEHICLE_EXPORT)
        with self._context.store.reading() as work:
            return work.exports.page(request, owner="" if _sees_all(by) else by.name)

    def get(self, export_id: int, *, by: Account) -> ExportJob:
        """One export.

        Raises:
            NotAllowedError: *by* may not export.
            NotFoundError: there is none, or not for *by*.
        """
        require(by, Permission.VEHICLE_EXPORT)
        with self._context.store.reading() as work:
            return _job_for(work, export_id, by)

    def delete(self, export_id: int, *, by: Account, now: datetime, address: str = "") -> ExportJob:
        """Cancel an export that is not finished, or delete its file.

        Raises:
            NotAllowedError: *by* may not export.
            NotFoundError: there is none, or not for *by*.
        """
        subject = f"export {export_id}"
        with acting(
            self._context, who=by.name, action="export.delete", subject=subject, now=now, address=address
        ) as act:
            require(by, Permission.VEHICLE_EXPORT)
            job = _job_for(act.work, export_id, by, lock=True)
            if job.is_unfinished:
                job = replace(job, status=ExportStatus.CANCELLED, reason=f"cancelled by {by.name}", ended_at=now)
                act.detail = "cancelled"
                act.work.exports.save(job)
            elif job.status is ExportStatus.DONE:
                job = replace(job, status=ExportStatus.DELETED, reason=f"deleted by {by.name}", ended_at=now)
                act.detail = f"{job.file_name}, {job.reports} reports"
                act.work.exports.save(job)
            else:
                act.detail = f"was {job.status}"
        # Behind the transaction: a file without a row is found by `expire`, a row without its file would be a lie.
        if self._context.exports is not None and job.status is ExportStatus.DELETED:
            self._context.exports.delete(job.file_name)
        return job

    def file(self, export_id: int, *, by: Account, now: datetime, address: str = "") -> tuple[ExportJob, Path]:
        """The finished file, for a download.

        Raises:
            NotAllowedError: *by* may not export.
            NotFoundError: there is no such export or no file any more, or a vehicle in it is not in the scope of *by* any more.
            ConflictError: it is not finished.
        """
        subject = f"export {export_id}"
        with acting(
            self._context, who=by.name, action="export.download", subject=subject, now=now, address=address
        ) as act:
            require(by, Permission.VEHICLE_EXPORT)
            job = _job_for(act.work, export_id, by)
            if job.is_unfinished:
                raise ConflictError("not-finished", f"export {export_id} is not finished")
            if job.status is not ExportStatus.DONE:
                raise NotFoundError("no-such-file", f"export {export_id} has no file: {job.reason or job.status}")
            if not by.scope.is_everything:
                check_vehicles(act.work, act.work.exports.vins(job.id), by)
            path = self._files().path_of(job.file_name)
            if not path.is_file():
                raise NotFoundError("no-such-file", f"{job.file_name} is not in this platform's folder any more")
            act.detail = f"{job.file_name}, {job.vehicles} vehicles, {job.reports} reports"
        return job, path

    # -- the work ------------------------------------------------------------------------------------------------------

    @short_turns()
    def run(self, now: datetime) -> bool:
        """Do one step, if there is an export to make. Whether there is more to do at once.

        Raises:
            StorageUnavailableError: the export is begun again later.
        """
        if self._context.exports is None or not self._lock.acquire(blocking=False):
            return False
        try:
            if self._rest_until is not None and now < self._rest_until <= now + _REST:
                return False
            self._rest_until = None
            if self._running is None:
                self._running = self._take(now)
                return self._running is not None
            self._step(self._running, now)
            return True
        finally:
            self._lock.release()

    def expire(self, now: datetime) -> int:
        """Delete files that have been kept for long enough, and what nobody wants any more; how many files."""
        files = self._context.exports
        if files is None:
            return 0
        keep = timedelta(seconds=self._context.settings.export_keep_s)
        with self._context.store.transaction() as work:
            old = work.exports.done_before(now - keep)
            for job in old:
                days = keep.total_seconds() / 86_400
                reason = f"kept for {days:g} days"
                work.exports.save(replace(job, status=ExportStatus.DELETED, reason=reason, ended_at=now))
                note(
                    work,
                    who="platform",
                    action="export.expire",
                    subject=f"export {job.id}",
                    outcome="done",
                    now=now,
                    detail=f"{job.file_name}, {reason}",
                )
            work.exports.forget(now - _ROW_KEEP)
            known = work.exports.with_file()
        for name in files.names():
            if (number := _number_of(name)) is not None and number not in known:
                files.delete(_name_of_part(name) if name.startswith(".") else name)
        return len(old)

    def _take(self, now: datetime) -> _Running | None:
        store, by = self._context.store, self._context.presence.gateway_id
        with store.transaction() as work:
            job = work.exports.take(now, by=by, until=now + timedelta(seconds=CLAIM_S), claim_s=CLAIM_S)
        if job is None:
            return None
        running = _Running(job, iter(()))
        running.steps = self._make(running)
        return running

    def _step(self, running: _Running, now: datetime) -> None:
        """One step of the export; it ends here, with words, whatever goes wrong."""
        try:
            is_over = next(running.steps, _OVER) is _OVER
        except StorageUnavailableError:
            self._drop(running)
            self._rest_until = now + _REST
            raise
        except _FailedError as error:
            self._end(running, now, ExportStatus.FAILED, str(error))
            return
        except CloudError as error:
            self._end(running, now, ExportStatus.FAILED, str(error))
            return
        except OSError as error:
            self._end(running, now, ExportStatus.FAILED, _disk_words(error))
            return
        except Exception:  # noqa: BLE001 - logged whole; one export must not end the others
            _LOG.exception("export %d failed", running.job.id)
            self._end(running, now, ExportStatus.FAILED, "the platform failed to make this file; its log says why")
            return
        if is_over:
            self._end(running, now, ExportStatus.DONE, "")
        elif not self._keep(running, now):
            self._drop(running)

    def _make(self, running: _Running) -> Iterator[None]:
        job = running.job
        if job.attempts > _ATTEMPTS_MAX:
            raise _FailedError(f"it was begun {_ATTEMPTS_MAX} times and never finished")
        with self._context.store.reading() as work:
            owner = work.accounts.get(job.owner)
            vins = work.exports.vins(job.id)
            if owner is None or not owner.may(Permission.VEHICLE_EXPORT):
                raise _FailedError(f"{job.owner} may not export any more")
            check_vehicles(work, vins, owner)
        files = self._files()
        self._check_room(files, 0)
        running.file = file = files.begin(job.file_name, job.format, self._context.presence.gateway_id)
        for rows, vehicles_done in self._batches(vins, job):
            file.write(rows)
            job = running.job
            size_bytes = file.size_bytes
            self._check_room(files, size_bytes)
            running.job = replace(
                job,
                vehicles_done=vehicles_done,
                reports=job.reports + len(rows),
                unreadable=job.unreadable + rows.unreadable,
                size_bytes=size_bytes,
            )
            if job.format is ExportFormat.XLSX and running.job.reports > XLSX_REPORTS_MAX:
                # Vehicles have sent more since it was counted.
                raise _FailedError(
                    f"more than {XLSX_REPORTS_MAX:,} reports; ask for a shorter range, or for CSV or Parquet"
                )
            yield
        for _ in file.finish():
            self._check_room(files, file.size_bytes)
            yield
        path = files.path_of(job.file_name)
        running.job = replace(running.job, vehicles_done=len(vins), size_bytes=path.stat().st_size)

    def _batches(self, vins: Sequence[str], job: ExportJob) -> Iterator[tuple[ExportRows, int]]:
        """Rows of some thousand reports, and how many vehicles are done behind them."""
        telemetry, layouts = self._context.telemetry, self._context.settings.layouts
        since_s, until_s = _seconds(job.since), _seconds(job.until)
        waiting: list[StoredFrame] = []
        for number, vin in enumerate(vins):
            for frame in telemetry.read(vin, since_s, until_s):
                waiting.append(frame)
                if len(waiting) >= _BATCH_REPORTS:
                    yield rows_of(waiting, layouts), number
                    waiting = []
            if number % 200 == 199 and len(waiting) < _BATCH_REPORTS:
                # A sign of life, also where there is nothing to read.
                yield rows_of(waiting, layouts), number + 1
                waiting = []
        if waiting:
            yield rows_of(waiting, layouts), len(vins)

    def _check_room(self, files: ExportFiles, size_bytes: int) -> None:
        limit = self._context.settings.export_size_bytes_max
        if size_bytes > limit:
            raise _FailedError(
                f"the file would be larger than {limit // 1024**2:,} MiB; ask for fewer vehicles or a shorter range"
            )
        if files.free_bytes() < _DISK_RESERVE_BYTES:
            raise _FailedError("the platform's disk is nearly full; nothing was kept")

    def _keep(self, running: _Running, now: datetime) -> bool:
        """Prolong the claim and tell the progress; False if the export is cancelled or another process's."""
        with self._context.store.transaction() as work:
            job = work.exports.get(running.job.id, lock=True)
            if not self._is_ours(job):
                return False
            running.job = replace(running.job, claimed_until=now + timedelta(seconds=CLAIM_S))
            work.exports.save(running.job)
        self._context.live.publish("exports", {"kind": "export", "id": running.job.id})
        return True

    def _end(self, running: _Running, now: datetime, status: ExportStatus, reason: str) -> None:
        self._running = None
        if running.file is not None:
            running.file.abandon()
        with self._context.store.transaction() as work:
            job = work.exports.get(running.job.id, lock=True)
            is_ours = self._is_ours(job)
            if is_ours:
                done = replace(
                    running.job, status=status, reason=reason, ended_at=now, claimed_by="", claimed_until=None
                )
                if status is not ExportStatus.DONE:
                    done = replace(done, size_bytes=0)
                work.exports.save(done)
                note(
                    work,
                    who="platform",
                    action="export.finish",
                    subject=f"export {done.id}",
                    outcome="done" if status is ExportStatus.DONE else "failed",
                    now=now,
                    detail=reason or f"{done.file_name}, {done.reports} reports, {done.size_bytes} bytes",
                )
        if not is_ours and status is ExportStatus.DONE and job is not None and job.status is ExportStatus.CANCELLED:
            self._files().delete(job.file_name)

    def _is_ours(self, job: ExportJob | None) -> bool:
        return (
            job is not None
            and job.status is ExportStatus.RUNNING
            and job.claimed_by == self._context.presence.gateway_id
        )

    def _drop(self, running: _Running) -> None:
        self._running = None
        if running.file is not None:
            running.file.abandon()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _files(self) -> ExportFiles:
        if self._context.exports is None:
            raise ConflictError("no-folder", "this platform has no data folder to keep files in")
        return self._context.exports

    def _vins(self, work: Work, asked: VehicleFilter, by: Account) -> tuple[str, ...]:
        vins: list[str] = []
        number = 1
        while True:
            request = PageRequest(number, PAGE_SIZE_MAX)
            page, _ = work.vehicles.page(request, asked, self._context.presence.lease_check, by.scope)
            if page.total > EXPORT_VEHICLES_MAX:
                raise InvalidInputError(
                    "too-many-vehicles",
                    f"{page.total:,} vehicles pass the filter; expected at most {EXPORT_VEHICLES_MAX:,}: narrow it",
                )
            vins += [vehicle.vin for vehicle, _ in page.items]
            if number >= page.pages:
                return tuple(vins)
            number += 1

    def _check_xlsx(self, vins: Sequence[str], since: datetime, until: datetime) -> None:
        if len(vins) > XLSX_VEHICLES_MAX:
            raise InvalidInputError(
                "too-many-vehicles",
                f"{len(vins):,} vehicles; an xlsx file has at most {XLSX_VEHICLES_MAX}: choose CSV or Parquet",
            )
        reports = 0
        for vin in vins:
            reports += self._context.telemetry.frames(vin, PageRequest(1, 1), since=since, until=until).total
            if reports > XLSX_REPORTS_MAX:
                raise InvalidInputError(
                    "too-many-reports",
                    f"more than {XLSX_REPORTS_MAX:,} reports, which an xlsx file cannot have: "
                    "choose CSV or Parquet, or a shorter range",
                )


_OVER: Final = object()


def _job_for(work: Work, export_id: int, by: Account, *, lock: bool = False) -> ExportJob:
    job = work.exports.get(export_id, lock=lock)
    if job is None or (job.owner != by.name and not _sees_all(by)):
        raise NotFoundError("no-such-export", f"no export {export_id}")
    return job


def _sees_all(by: Account) -> bool:
    return by.may(Permission.ACCOUNT_MANAGE)


def _seconds(at: datetime) -> int:
    """The first whole second that is not earlier."""
    return -int(-at.timestamp() // 1)


def _in_words(asked: VehicleFilter) -> str:
    online = None if asked.is_online is None else "online" if asked.is_online else "offline"
    words = [f"project {asked.project}"] * bool(asked.project) + [f"series {asked.series}"] * bool(asked.series)
    words += [f"text {asked.text!r}"] * bool(asked.text) + [online] * bool(online)  # type: ignore[list-item]
    return f", {', '.join(words)}" if words else ""


def _disk_words(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the platform's disk is full; nothing was kept"
    return f"the file cannot be written: {error.strerror or error}"


def _number_of(name: str) -> int | None:
    """The number of the export that a file belongs to; None if it is none of ours."""
    stem = name.removeprefix(".").removeprefix("bmsota-export-")
    digits = stem.partition(".")[0]
    return int(digits) if stem != name.removeprefix(".") and digits.isdecimal() else None


def _name_of_part(name: str) -> str:
    """The name of the file that a part belongs to."""
    return ".".join(name.split(".")[1:3])
