"""An SMTP server that keeps what it gets, for demos, development and tests: real mail, no internet.

It relays nothing. Mails are kept in memory, the newest thousand, and written as .eml files if a folder is given.
"""

from __future__ import annotations

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

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Called by aiosmtpd for every mail."""
        del server, session
        message = message_from_bytes(envelope.content, policy=policy.default)
        with self._arrived:
            self._count += 1
            if self._folder is not None:
                (self._folder / f"{self._count:04d}.eml").write_bytes(envelope.content)
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
