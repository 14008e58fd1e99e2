"""The outbox: mails wait in the database until a mail server has taken them.

Who sends them is decided elsewhere (`bmsota_cloud.mail.worker` by SMTP, a test or a simulation by a function): `take_due`, then
`delivered` or `failed` for each. Who takes a mail has a claim on it for a while, so that of several processes one sends it. A
mail whose process died in between is sent again when the claim ends, perhaps twice; an approval code twice is harmless, one never
sent is not.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from bmsota_cloud.services.transitions import publish_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bmsota_cloud.domain.outbox import Mail
    from bmsota_cloud.services.context import Context

__all__ = ["MAIL_CLAIM_S", "MAIL_RETRY_S_MAX", "MAIL_TRIES_MAX", "OutboxService"]

# The waits below add up to a day and a half: longer than the code in the mail is valid.
MAIL_TRIES_MAX = 12
_RETRY_WAIT_S = 30
MAIL_RETRY_S_MAX = 6 * 3600
# Prolonged before each mail of a batch; one mail takes no longer (`bmsota_cloud.mail.worker`).
MAIL_CLAIM_S = 120
_BATCH_MAX = 50
_ERROR_LENGTH_MAX = 300


class OutboxService:
    """Hand mails over and note what became of them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def take_due(self, now: datetime) -> tuple[Mail, ...]:
        """The next mails to send, oldest first; no other process gets them for a while."""
        until = now + timedelta(seconds=MAIL_CLAIM_S)
        if not self._has_due(now):
            return ()
        with self._context.store.transaction() as work:
            return work.outbox.take(now, _BATCH_MAX, by=self._context.presence.gateway_id, until=until)

    def keep(self, mail: Mail, now: datetime) -> bool:
        """Just before a mail is sent: False if it is another process's by now, and must not be sent here."""
        until = now + timedelta(seconds=MAIL_CLAIM_S)
        with self._context.store.transaction() as work:
            return work.outbox.keep(mail.id, by=self._context.presence.gateway_id, until=until)

    def delivered(self, mail: Mail, now: datetime) -> None:
        """The mail server has taken it. Its body is wiped: what it held is no longer ours to keep."""
        self._save(
            replace(mail, sent_at=now, tries=mail.tries + 1, error="", body="", claimed_by="", claimed_until=None)
        )

    def failed(self, mail: Mail, now: datetime, error: str, *, is_permanent: bool = False) -> None:
        """It could not be sent: try again later, each time after twice the wait, or give up."""
        tries = mail.tries + 1
        wait = timedelta(seconds=min(_RETRY_WAIT_S << min(mail.tries, 16), MAIL_RETRY_S_MAX))
        given_up = is_permanent or tries >= MAIL_TRIES_MAX
        self._save(
            replace(
                mail,
                tries=tries,
                next_try_at=now + wait,
                error=error[:_ERROR_LENGTH_MAX],
                given_up=given_up,
                body="" if given_up else mail.body,
                claimed_by="",
                claimed_until=None,
            )
        )

    def drain(self, now: datetime, deliver: Callable[[Mail], None]) -> int:
        """Give every due mail to *deliver*; how many it took. An OSError from it means "retry later"."""
        count = 0
        while mails := self.take_due(now):
            for mail in mails:
                try:
                    deliver(mail)
                except OSError as error:
                    self.failed(mail, now, str(error) or type(error).__name__)
                else:
                    self.delivered(mail, now)
                    count += 1
        return count

    def _has_due(self, now: datetime) -> bool:
        # The usual answer is no, and costs no write.
        with self._context.store.reading() as work:
            return work.outbox.has_due(now)

    def _save(self, mail: Mail) -> None:
        with self._context.store.transaction() as work:
            work.outbox.save(mail)
        if mail.task_id is not None:
            publish_task(self._context, mail.task_id)
