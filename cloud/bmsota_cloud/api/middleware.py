"""What every HTTP answer passes through: the limit on bodies and the security headers."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastapi import Response
from starlette.datastructures import MutableHeaders

from bmsota_cloud.api.device import BODY_SIZE_BYTES_MAX

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyLimit", "SecurityHeaders"]

# Everything else is a form or a small JSON document; 5000 VINs are 110 KB.
_BODY_SIZE_BYTES_MAX = 1024 * 1024
_UPLOAD_PATH = "/api/v1/releases"
_DEVICE_PATH = "/device/"


class SecurityHeaders:
    """The same on every answer. The pages have no inline script or style, so the policy can be strict (web.md 2.3)."""

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
    """Refuse a body that is longer than its path may have, whether it says so beforehand or not."""

    def __init__(self, app: "ASGIApp", *, upload_size_bytes_max: int) -> None:
        self._app = app
        self._upload_size_bytes_max = upload_size_bytes_max

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = _limit(scope, self._upload_size_bytes_max)
        refusal = Response(
            content=f'{{"error":"too-large","detail":"the request body is larger than {limit} bytes"}}',
            status_code=413,
            media_type="application/json",
            headers={"Connection": "close"},
        )
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            await refusal(scope, receive, send)
            return
        received = 0
        is_answered = False

        async def receive_within() -> "Message":
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _BodyTooLongError
            return message

        async def send_unless_too_long(message: "Message") -> None:
            # The framework makes a "400" of its own out of our exception; that answer is held back.
            nonlocal is_answered
            if received <= limit:
                is_answered = True
                await send(message)

        with suppress(_BodyTooLongError):
            await self._app(scope, receive_within, send_unless_too_long)
        if received > limit and not is_answered:
            await refusal(scope, receive, send)


class _BodyTooLongError(Exception):
    """Between the two ends of `BodyLimit` only."""


def _limit(scope: "Scope", upload_size_bytes_max: int) -> int:
    path: Any = scope["path"]
    if path == _UPLOAD_PATH:
        return upload_size_bytes_max
    # One more than the device API takes, so that its own refusal is the one a unit sees.
    return BODY_SIZE_BYTES_MAX + 1024 if path.startswith(_DEVICE_PATH) else _BODY_SIZE_BYTES_MAX
