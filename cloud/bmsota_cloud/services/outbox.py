"""The outbox: mails wait in the database until a mail server has taken them.

Who sends them is decided elsewhere (`bmsota_cloud.mail.worker` by SMTP, a test or a simulation by a function): `take_due`, then
`delivered` or `failed` for each. A mail taken twice because the platform died in between is sent twice; an approval
code twice is harmless, one never sent is not.
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

__all__ = ["MAIL_TRIES_MAX", "OutboxService"]

# The waits below add up to a day and a half: longer than the code in the mail is valid.
MAIL_TRIES_MAX = 12
_RETRY_WAIT_S = 30
_RETRY_WAIT_S_MAX = 6 * 3600
_BATCH_MAX = 50
_ERROR_LENGTH_MAX = 300


class OutboxService:
    """Hand mails over and note what became of them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def take_due(self, now: datetime) -> tuple[Mail, ...]:
        """The next mails to send, oldest first."""
        with self._context.store.reading() as work:
            return work.outbox.due(now, _BATCH_MAX)

    def delivered(self, mail: Mail, now: datetime) -> None:
        """The mail server has taken it. Its body is wiped: what it held is no longer ours to keep."""
        self._save(replace(mail, sent_at=now, tries=mail.tries + 1, error="", body=""))

    def failed(self, mail: Mail, now: datetime, error: str, *, is_permanent: bool = False) -> None:
        """It could not be sent: try again later, each time after twice the wait, or give up."""
        tries = mail.tries + 1
        wait = timedelta(seconds=min(_RETRY_WAIT_S << min(mail.tries, 16), _RETRY_WAIT_S_MAX))
        given_up = is_permanent or tries >= MAIL_TRIES_MAX
        self._save(
            replace(
                mail,
                tries=tries,
                next_try_at=now + wait,
                error=error[:_ERROR_LENGTH_MAX],
                given_up=given_up,
                body="" if given_up else mail.body,
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

    def _save(self, mail: Mail) -> None:
        with self._context.store.transaction() as work:
            work.outbox.save(mail)
        if mail.task_id is not None:
            publish_task(self._context, mail.task_id)
