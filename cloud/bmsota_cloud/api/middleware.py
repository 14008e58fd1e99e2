"""What every HTTP answer passes through: the limit on bodies, what becomes of an unread one, and the security headers."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastapi import Response
from starlette.datastructures import MutableHeaders

from bmsota_cloud.api.device import body_size_bytes_max

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyLimit", "SecurityHeaders"]

# Everything else is a form or a small JSON document; 5000 VINs are 110 KB.
_BODY_SIZE_BYTES_MAX = 1024 * 1024
# What anybody may send: a name and a password.
_LOGIN_SIZE_BYTES_MAX = 16 * 1024
_UPLOAD_PATHS = frozenset({"/releases", "/api/v1/releases"})
_LOGIN_PATHS = frozenset({"/login", "/api/v1/login"})
_DEVICE_PATH = "/device/"

# After a refusal the connection is closed, but what is on its way is thrown away first: a close with bytes unread is a reset,
# which takes the answer away from a client that has not read it yet (RFC 9112, section 9.6). A body that is longer or slower
# than this meets the reset.
_LINGER_SIZE_BYTES_MAX = 1024 * 1024
_LINGER_S = 2.0


class SecurityHeaders:
    """The same on every answer. The pages have no inline script or style, so the policy can be strict."""

    _HEADERS = (
        (
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
    )

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http" or scope["path"].startswith(_DEVICE_PATH):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: "Message") -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._HEADERS:
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class BodyLimit:
    """Refuse a body that is longer than its path may have, whether it says so beforehand or not.

    An answer that is given before the body was read (too long, unknown sender, no such page) closes the connection; otherwise
    the server would go on to read all of it. To a client that waits for "100 Continue" it comes instead of that.
    """

    def __init__(self, app: "ASGIApp", *, upload_size_bytes_max: int) -> None:
        self._app = app
        self._upload_size_bytes_max = upload_size_bytes_max

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = _limit(scope, self._upload_size_bytes_max)
        body = _Body(scope, receive, send)
        refusal = Response(
            content=f'{{"error":"too-large","detail":"the request body is larger than {limit} bytes"}}',
            status_code=413,
            media_type="application/json",
        )
        if body.announced > limit:
            await refusal(scope, body.receive, body.send)
            return
        is_answered = False

        async def receive_within() -> "Message":
            message = await body.receive()
            if body.received > limit:
                raise _BodyTooLongError
            return message

        async def send_unless_too_long(message: "Message") -> None:
            # The framework makes a "400" of its own out of our exception; that answer is held back.
            nonlocal is_answered
            if body.received <= limit:
                is_answered = True
                await body.send(message)

        with suppress(_BodyTooLongError):
            await self._app(scope, receive_within, send_unless_too_long)
        if body.received > limit and not is_answered:
            await refusal(scope, body.receive, body.send)


class _Body:
    """The body of one request: how long it is, how much of it was read, and the end of a connection with some of it unread."""

    def __init__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self.announced = int(length) if length.isdigit() else 0
        self.received = 0
        self._is_over = self.announced == 0 and b"transfer-encoding" not in headers
        # Whoever asks to be told does not send before; and to read from him would be to tell him to send.
        self._is_waiting = headers.get(b"expect", b"").lower() == b"100-continue"
        self._receive = receive
        self._send = send

    async def receive(self) -> "Message":
        self._is_waiting = False
        message = await self._receive()
        self.received += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_over = True
        return message

    async def send(self, message: "Message") -> None:
        if self._is_over:
            await self._send(message)
        elif message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
            await self._send(message)
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b""})

    async def _linger(self) -> None:
        until = self.received + _LINGER_SIZE_BYTES_MAX
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while not self._is_over and not self._is_waiting and self.received < until:
                    await self.receive()


class _BodyTooLongError(Exception):
    """Between the two ends of `BodyLimit` only."""


def _limit(scope: "Scope", upload_size_bytes_max: int) -> int:
    path: Any = scope["path"]
    if path in _UPLOAD_PATHS:
        return upload_size_bytes_max
    if path in _LOGIN_PATHS:
        return _LOGIN_SIZE_BYTES_MAX
    # One more than the device API takes, so that its own refusal is the one a unit sees.
    return body_size_bytes_max(path) + 1024 if path.startswith(_DEVICE_PATH) else _BODY_SIZE_BYTES_MAX
