"""The newest state of a vehicle and one line of its history.

Values are kept as plain numbers, words and lists under the names of the cloud link's message fields, body by body, so
that a page or an export needs no codec. A value the unit marked as abnormal or invalid is the word "abnormal" or
"invalid": never zero, never left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["JsonValue", "ReportRow", "VehicleSnapshot"]

JsonValue: TypeAlias = "int | float | bool | str | list[JsonValue] | dict[str, JsonValue] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleSnapshot:
    """One row a vehicle; lists, maps and the real-time page read only this."""

    vin: str
    is_online: bool = False
    last_seen_at: datetime | None = None
    """When any frame last came, by the platform's clock. Staleness is judged by this, not by changes of a value."""
    reported_at: datetime | None = None
    """The collection time inside the newest report, by the vehicle's clock."""
    login_serial: int = 0
    soc_pct: float | None = None
    """None while unknown, also when the unit itself reported it as abnormal or invalid."""
    speed_kmh: float | None = None
    values: dict[str, JsonValue] = field(default_factory=dict)
    """All newest values by body: vehicle, drive_motors, position, extremes, alarms, cells, temperatures, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """One report as received, newest rows are kept for some days (`IngestService.prune`)."""

    vin: str
    reported_at: datetime
    received_at: datetime
    is_backfill: bool
    values: dict[str, JsonValue]
