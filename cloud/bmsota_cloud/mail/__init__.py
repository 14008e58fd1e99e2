"""Mail on real parts: `MailWorker` sends the outbox by SMTP, `MailSink` is an SMTP server for demos and tests."""

from bmsota_cloud.mail.sink import MailSink, ReceivedMail
from bmsota_cloud.mail.worker import MailWorker, SmtpTarget, compose

__all__ = ["MailSink", "MailWorker", "ReceivedMail", "SmtpTarget", "compose"]
