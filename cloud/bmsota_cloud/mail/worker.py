"""Send what the outbox holds, by aiosmtplib.

The worker decides nothing: which mail, when again and when no more is `OutboxService`. A refusal for ever (5xx) ends a
mail, everything else is tried again later. The body of a mail is never logged: it may hold an approval code.

Several processes may send from one outbox: a mail is asked for again just before it is sent, because the batch it came in may
have taken longer than its claim. What was sent and could not be noted is noted first of all, before it would be sent again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import TYPE_CHECKING

import aiosmtplib

from bmsota_cloud.domain.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bmsota_cloud.domain.outbox import Mail
    from bmsota_cloud.services.outbox import OutboxService

__all__ = ["MailWorker", "SmtpTarget", "compose"]

_LOG = logging.getLogger(__name__)

# How long a fresh mail waits at most before the worker looks; a person at a form does not notice a second.
_LOOK_EVERY_S = 1.0
# RFC 5321, 4.5.3.2, gives a server minutes for a step; the whole mail has less than its claim.
_SMTP_TIMEOUT_S = 60.0
# A whole mail, every step of it slow; shorter than `bmsota_cloud.services.outbox.MAIL_CLAIM_S`.
_MAIL_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpTarget:
    """Where mails are handed over."""

    host: str
    port: int = 25
    user: str | None = None
    password: str | None = None
    use_tls: bool = False
    """TLS from the first byte (port 465)."""
    start_tls: bool | None = None
    """None: if the server offers it. True: or not at all."""


def compose(mail: Mail, *, sender: str) -> EmailMessage:
    """The mail as a message. The same mail gives the same bytes, so a repetition can be recognised by its id."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = mail.recipient
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(mail.created_at)
    domain = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
    message["Message-ID"] = f"<{mail.id}.{int(mail.created_at.timestamp())}@{domain}>"
    # Keeps out-of-office replies away.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.body)
    return message


class MailWorker:
    """Runs beside the platform in its event loop."""

    def __init__(
        self, outbox: OutboxService, target: SmtpTarget, *, sender: str, clock: Callable[[], datetime]
    ) -> None:
        self._outbox = outbox
        self._target = target
        self._sender = sender
        self._clock = clock
        self._stopping = asyncio.Event()
        self._unnoted: dict[int, tuple[Mail, datetime]] = {}

    def stop(self) -> None:
        """Let `run` end after the mail it is sending.

        Cancelling is not enough: aiosmtplib waits by `asyncio.wait_for`, which can swallow it before Python 3.12.
        """
        self._stopping.set()

    async def run(self) -> None:
        """Send until `stop`."""
        while not self._stopping.is_set():
            try:
                await self.send_due()
            except StorageUnavailableError as refusal:
                _LOG.warning("mail worker: %s; retrying", refusal)
            except Exception:  # noqa: BLE001 - logged whole, see below
                # A database that is away must not end the sending for good.
                _LOG.exception("mail worker: failed; retrying")
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._stopping.wait()

    async def send_due(self) -> int:
        """Send what is due now; how many mails were taken by the server."""
        sent = 0
        await self._note_sent()
        for mail in await asyncio.to_thread(self._outbox.take_due, self._clock()):
            if not await asyncio.to_thread(self._outbox.keep, mail, self._clock()):
                continue
            try:
                async with asyncio.timeout(_MAIL_TIMEOUT_S):
                    await self._send(mail)
            except (aiosmtplib.SMTPException, OSError) as error:
                is_permanent = _is_permanent(error)
                _LOG.warning("mail %d to %s: not sent: %s", mail.id, mail.recipient, _words(error))
                await asyncio.to_thread(
                    self._outbox.failed, mail, self._clock(), _words(error), is_permanent=is_permanent
                )
            except Exception as error:  # noqa: BLE001 - logged whole; the mails behind this one can do nothing about it
                _LOG.exception("mail %d: not sent", mail.id)
                # Of a ValueError's address or text no message can be made, today or tomorrow.
                is_permanent = isinstance(error, ValueError)
                await asyncio.to_thread(
                    self._outbox.failed, mail, self._clock(), _words(error), is_permanent=is_permanent
                )
            else:
                sent += 1
                self._unnoted[mail.id] = (mail, self._clock())
                await self._note_sent()
        return sent

    async def _send(self, mail: Mail) -> None:
        target = self._target
        await aiosmtplib.send(
            compose(mail, sender=self._sender),
            hostname=target.host,
            port=target.port,
            username=target.user,
            password=target.password,
            use_tls=target.use_tls,
            start_tls=target.start_tls,
            timeout=_SMTP_TIMEOUT_S,
        )

    async def _note_sent(self) -> None:
        for mail, at in tuple(self._unnoted.values()):
            await asyncio.to_thread(self._outbox.delivered, mail, at)
            del self._unnoted[mail.id]


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(_is_permanent(refused) for refused in error.recipients)
    # Trouble with our own login or with TLS is the operator's to mend, and the mail is still good afterwards.
    if isinstance(error, aiosmtplib.SMTPAuthenticationError | aiosmtplib.SMTPHeloError):
        return False
    return isinstance(error, aiosmtplib.SMTPResponseException) and 500 <= error.code < 600


def _words(error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return "; ".join(f"{refused.code} {refused.message}" for refused in error.recipients)
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{error.code} {error.message}"
    return str(error) or type(error).__name__
