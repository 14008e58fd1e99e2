"""One line of the audit log: who did what to which thing, and how it ended.

Lines are only ever added. The one exception is a line about what a link did: it counts for an hour, so that a stranger who
repeats it fills no log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["AuditEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Written in the transaction of the act itself; a refused act is written in one of its own."""

    id: int = 0
    at: datetime
    who: str
    """An account's name, "vehicle <vin>" for what a unit did, "platform" for what time did."""
    action: str
    """noun.verb, as "ota_task.approve"."""
    subject: str
    """What it was done to, as "task 17"."""
    outcome: str
    """"done" or the code of the refusal."""
    detail: str = ""
    address: str = ""
    """Where the request came from, if it came over the network."""
    count: int = 1
    """How often it happened from `at` to `last_at`."""
    last_at: datetime | None = None
    """When it happened last; None for a line that does not count."""
