"""Where a run gets the code that starts an OTA task: from the mail that the platform sends to the auditor, or from a command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
from collections import deque
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any, Protocol

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["CodeSource", "CommandCodes", "MailedCodes", "host_and_port"]

_CODE = re.compile(r"Approval code: (\d{6})\b")
_DIGITS = re.compile(r"(?<!\d)(\d{6})(?!\d)")
# A task sends one mail; whoever else writes to us must not fill the memory.
_MAILS_MAX = 1000
COMMAND_TIMEOUT_S = 60.0


class CodeSource(Protocol):
    """Where the code comes from."""

    async def code(self, task_id: int) -> str | None:
        """The newest code of this task; None: it has not come yet."""
        ...

    async def close(self) -> None: ...

    @property
    def wanted(self) -> str:
        """What is waited for, in words."""
        ...


class MailedCodes:
    """An SMTP server that keeps what it gets and relays nothing."""

    def __init__(self, host: str, port: int) -> None:
        """*port* 0 lets the system choose."""
        self.host = host
        self.port = port
        self._mails: deque[EmailMessage] = deque(maxlen=_MAILS_MAX)
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: the address cannot be used.
        """
        from aiosmtpd.smtp import SMTP  # noqa: PLC0415 - for this only

        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: SMTP(self, hostname="bmsota-sim", loop=loop), self.host, self.port
            )
        except OSError as error:
            raise ConfigurationError(
                f"mail: cannot listen on {self.host}:{self.port}: {error.strerror or error}"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self._mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"

    async def code(self, task_id: int) -> str | None:
        key = f"OTA-{task_id}:"
        for mail in reversed(self._mails):
            body = mail.get_body(preferencelist=("plain",))
            found = None if body is None else _CODE.search(str(body.get_content()))
            if found and str(mail["Subject"] or "").startswith(key):
                return found[1]
        return None

    @property
    def wanted(self) -> str:
        return f"a mail with the code at {self.host}:{self.port} (got {len(self._mails)} mails)"

    async def close(self) -> None:
        if self._server is not None:
            # Not until the last client has gone: one that stays must not keep the run.
            self._server.close()


class CommandCodes:
    """A command that prints the code; it is run until it does. The task's number is in `BMSOTA_TASK`."""

    def __init__(self, command: str) -> None:
        """Raises ConfigurationError: *command* is none."""
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"code command: {error}: {command}") from error
        if not self._words:
            raise ConfigurationError("code command: expected a command, got nothing")
        self._last = "was not run"

    async def code(self, task_id: int) -> str | None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "BMSOTA_TASK": str(task_id)},
            )
        except OSError as error:
            raise ConfigurationError(f"code command: {self._words[0]}: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                out, err = await process.communicate()
        except TimeoutError:
            self._last = f"did not end within {COMMAND_TIMEOUT_S:g} s"
            return None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            told = err.decode(errors="replace").strip().splitlines()
            self._last = f"ended with exit code {process.returncode}" + (f": {told[-1][:200]}" if told else "")
            return None
        found = _DIGITS.findall(out.decode(errors="replace"))
        self._last = "printed no code of six digits"
        return found[-1] if found else None

    @property
    def wanted(self) -> str:
        return f"the code from the command {self._words[0]}, which {self._last}"

    async def close(self) -> None:
        return


def host_and_port(text: str) -> tuple[str, int]:
    """`127.0.0.1:2525`, `[::1]:2525`.

    Raises:
        ConfigurationError: it is none.
    """
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"expected HOST:PORT, got {text}")
    return host, int(port)
