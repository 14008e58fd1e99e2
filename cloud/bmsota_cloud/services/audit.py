"""Who did what: every act of an operator is one transaction with its own line in the audit log.

A refused act changes nothing and leaves a line as well, in a transaction of its own. An act that is refused *and* must
leave a trace (a wrong approval code is counted) sets `Act.refusal`: the transaction is committed, then it is raised.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.audit import AuditEntry
from bmsota_cloud.domain.errors import CloudError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["Act", "AuditService", "acting", "note", "refusals_audited"]

# Details come from outside; a log line is for reading.
_DETAIL_MAX = 500


class Act:
    """An act under way."""

    def __init__(self, work: Work, subject: str) -> None:
        self.work = work
        self.subject = subject
        self.detail = ""
        self.refusal: CloudError | None = None


@contextmanager
def acting(context: Context, *, who: str, action: str, subject: str, now: datetime, address: str = "") -> Iterator[Act]:
    """Run the block as one audited transaction."""
    try:
        with context.store.transaction() as work:
            act = Act(work, subject)
            yield act
            outcome = "done" if act.refusal is None else act.refusal.code
            detail = act.detail if act.refusal is None else str(act.refusal)
            _add(work, who, action, act.subject, outcome, now, detail, address)
    except CloudError as refusal:
        with context.store.transaction() as work:
            _add(work, who, action, subject, refusal.code, now, str(refusal), address)
        raise
    if act.refusal is not None:
        raise act.refusal


@contextmanager
def refusals_audited(
    context: Context, *, who: str, action: str, subject: str, now: datetime, address: str = ""
) -> Iterator[None]:
    """Run the block, which reads and computes before an act's transaction begins; a refusal leaves its line."""
    try:
        yield
    except CloudError as refusal:
        with context.store.transaction() as work:
            _add(work, who, action, subject, refusal.code, now, str(refusal), address)
        raise


def note(
    work: Work,
    *,
    who: str,
    action: str,
    subject: str,
    outcome: str,
    now: datetime,
    detail: str = "",
    address: str = "",
) -> None:
    """Add a line for something that no operator did, inside the caller's transaction."""
    _add(work, who, action, subject, outcome, now, detail, address)


def _add(
    work: Work, who: str, action: str, subject: str, outcome: str, now: datetime, detail: str, address: str
) -> None:
    work.audit.add(
        AuditEntry(
            at=now,
            who=who,
            action=action,
            subject=subject[:128],
            outcome=outcome,
            detail=detail[:_DETAIL_MAX],
            address=address[:64],
        )
    )


class AuditService:
    """Reading the log."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def page(
        self,
        request: PageRequest,
        *,
        by: Account,
        subject: str = "",
        who: str = "",
        action: str = "",
        text: str = "",
    ) -> Page[AuditEntry]:
        """Newest first; what is empty is not looked at.

        Args:
            request: which part of the list.
            by: who asks.
            subject: what it was done to, whole, as "task 17".
            who: an account's name, or what else stands there.
            action: as "account.create"; or its noun, as "account", for all that is done to accounts.
            text: a part of the subject, in capitals or not.

        Raises:
            NotAllowedError: *by* may not read the audit log.
        """
        require(by, Permission.AUDIT_READ)
        with self._context.store.reading() as work:
            return work.audit.page(request, subject=subject, who=who, action=action, text=text)
