"""Exports: reports of many vehicles in a file, made in the background and fetched later."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bmsota_cloud.domain.vehicles import VehicleFilter

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["UNFINISHED", "ExportFormat", "ExportJob", "ExportStatus"]


class ExportFormat(StrEnum):
    """What kind of file."""

    CSV = "csv"
    PARQUET = "parquet"
    XLSX = "xlsx"


class ExportStatus(StrEnum):
    """What became of an export."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    """The file is there."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    DELETED = "deleted"
    """The file was there, and has been deleted."""


UNFINISHED = (ExportStatus.WAITING, ExportStatus.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """One export. Its vehicles are those that passed the filter when it was asked for; they are kept beside it."""

    id: int
    owner: str
    created_at: datetime
    format: ExportFormat
    project: str
    series: str
    text: str
    is_online: bool | None
    since: datetime
    """By the vehicles' clocks; included."""
    until: datetime
    """Not included."""
    status: ExportStatus = ExportStatus.WAITING
    vehicles: int = 0
    vehicles_done: int = 0
    reports: int = 0
    unreadable: int = 0
    """Reports without any value in the file; their rows say why."""
    size_bytes: int = 0
    reason: str = ""
    """Why it failed, or who cancelled or deleted it."""
    ended_at: datetime | None = None
    attempts: int = 0
    """How often it was begun."""
    claimed_by: str = ""
    """The process that makes it, until `claimed_until`."""
    claimed_until: datetime | None = None

    @property
    def filter(self) -> VehicleFilter:
        """What the vehicle list was asked for."""
        return VehicleFilter(project=self.project, series=self.series, text=self.text, is_online=self.is_online)

    @property
    def is_unfinished(self) -> bool:
        return self.status in UNFINISHED

    @property
    def file_name(self) -> str:
        """What its file is called."""
        return f"bmsota-export-{self.id}.{self.format}"
