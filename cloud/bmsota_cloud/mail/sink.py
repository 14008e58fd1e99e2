"""An SMTP server that keeps what it gets, for demos, development and tests: real mail, no internet.

It relays nothing. Mails are kept in memory, the newest thousand, and written as .eml files if a folder is given. A file that is
there is never written again: the numbers go on after a restart, and other sinks may write to the same folder.
"""

from __future__ import annotations

import logging
import os
import socket
from asyncio import Server
from collections import deque
from dataclasses import dataclass
from email import message_from_bytes, policy
from threading import Condition
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller

if TYPE_CHECKING:
    from email.message import EmailMessage
    from pathlib import Path

__all__ = ["MailSink", "ReceivedMail"]

_LOG = logging.getLogger(__name__)

# A demo sends a handful; a forgotten sink must not eat the machine.
_KEPT_MAX = 1000


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A mail as it came over SMTP."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage

    @property
    def text(self) -> str:
        """The plain text of the body."""
        body = self.message.get_body(preferencelist=("plain",))
        return "" if body is None else str(body.get_content())


class MailSink:
    """Start it, read `mails`, stop it."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, folder: Path | None = None) -> None:
        """Port 0 lets the system choose; `port` tells after `start`."""
        self.mails: deque[ReceivedMail] = deque(maxlen=_KEPT_MAX)
        self.host = host
        self.port = port
        self._folder = folder
        self._number = 0
        self._count = 0
        self._arrived = Condition()
        self._controller: Controller | None = None

    def start(self) -> None:
        """Listen, in a thread of its own.

        Raises:
            OSError: the address or the folder can't be used.
        """
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(path.stem) for path in self._folder.glob("*.eml") if path.stem.isdecimal()]
            self._number = max(numbers, default=0)
        # aiosmtpd says that an address can't be used only after its timeout; asking beforehand says it at once, and why.
        socket.create_server((self.host, self.port), family=_family(self.host)).close()
        self._controller = _AnyPortController(self, hostname=self.host, port=self.port)
        self._controller.start()
        self.port = self._controller.port

    def stop(self) -> None:
        """Stop listening; what was received stays."""
        if self._controller is not None:
            self._controller.stop(no_assert=True)
            self._controller = None

    def wait_for(self, count: int, *, timeout_s: float) -> bool:
        """Wait until *count* mails have come in all; whether they did in time."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self._count >= count, timeout_s)

    def _write(self, folder: Path, content: bytes) -> None:
        while True:
            self._number += 1
            path = folder / f"{self._number:04d}.eml"
            try:
                # For this user alone: a mail may hold an approval code.
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
            except OSError:
                # Half a mail is none.
                path.unlink(missing_ok=True)
                raise
            return

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Called by aiosmtpd for every mail."""
        del server, session
        message = message_from_bytes(envelope.content, policy=policy.default)
        with self._arrived:
            if self._folder is not None:
                try:
                    self._write(self._folder, envelope.content)
                except OSError as error:
                    _LOG.warning("mail sink: cannot write to %s: %s", self._folder, error.strerror)
                    # Not a 5xx: the sender keeps the mail and tries again.
                    return "452 cannot write the mail to the folder; try again later"
            self._count += 1
            self.mails.append(ReceivedMail(str(envelope.mail_from), tuple(envelope.rcpt_tos), message))
            self._arrived.notify_all()
        return "250 kept"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _AnyPortController(Controller):
    """aiosmtpd checks that it listens by connecting to the port it was given; port 0 can't be connected to."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]
