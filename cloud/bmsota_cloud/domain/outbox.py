"""A mail in the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Mail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """Written in the transaction that makes it necessary, sent by a worker afterwards."""

    id: int = 0
    recipient: str
    subject: str
    body: str
    """Wiped when the mail has been handed over: an approval code must not lie in the database."""
    task_id: int | None
    created_at: datetime
    next_try_at: datetime
    tries: int = 0
    sent_at: datetime | None = None
    given_up: bool = False
    error: str = ""
    """Why the last try failed, for the task's page."""
    claimed_by: str = ""
    """The process that is sending it."""
    claimed_until: datetime | None = None
    """Until then no other process sends it."""
