"""Who looks at a page: the session cookie, the CSRF token of forms, and where a request comes from.

The cookie is `HttpOnly` and `SameSite=Lax`, and bound to the host by its `__Host-` name where the pages are served over
HTTPS. A form carries the token of its session; besides, a request that a browser marks as coming from another site is
refused, which also covers the login form, that has no session yet, and the WebSocket.

A second cookie stays when the session ends: it says that somebody has logged in as this name from this browser before, so that
wrong passwords of strangers do not keep him out (`bmsota_cloud.services.accounts`).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bmsota_cloud.domain.errors import LoginError, NotAllowedError, OverloadedError, RateLimitedError
from bmsota_cloud.services import DEVICE_TOKEN_VALID_S

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.requests import HTTPConnection
    from starlette.responses import Response

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.errors import CloudError
    from bmsota_cloud.services import AccountService, Login, PlatformSettings

__all__ = [
    "Visitor",
    "check_form",
    "check_origin",
    "clear_cookie",
    "cookie_name",
    "device_of",
    "local_path",
    "set_cookies",
    "token_of",
    "visitor_of",
    "with_retry_after",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """An account that is logged in."""

    account: Account
    csrf_token: str


def _is_https(settings: PlatformSettings) -> bool:
    return settings.pages_url.startswith("https:")


def cookie_name(settings: PlatformSettings) -> str:
    return "__Host-bmsota" if _is_https(settings) else "bmsota"


def _device_cookie_name(settings: PlatformSettings) -> str:
    return f"{cookie_name(settings)}-device"


def set_cookies(response: Response, login: Login, settings: PlatformSettings) -> None:
    """The session's cookie, and that of the browser."""
    for name, value, max_age in (
        (cookie_name(settings), login.token, settings.session_valid_s),
        (_device_cookie_name(settings), login.device, DEVICE_TOKEN_VALID_S),
    ):
        response.set_cookie(
            name,
            value,
            max_age=max_age,
            path="/",
            secure=_is_https(settings),
            httponly=True,
            samesite="lax",
        )


def device_of(connection: HTTPConnection, settings: PlatformSettings) -> str:
    """The token of an earlier login from this browser, or ""."""
    return connection.cookies.get(_device_cookie_name(settings), "")


def with_retry_after(response: Response, error: CloudError) -> Response:
    """*response* with the time after which to try again, if *error* has one."""
    if isinstance(error, RateLimitedError | OverloadedError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def clear_cookie(response: Response, settings: PlatformSettings) -> None:
    response.delete_cookie(cookie_name(settings), path="/", secure=_is_https(settings), httponly=True, samesite="lax")


def token_of(connection: HTTPConnection, settings: PlatformSettings) -> str:
    return connection.cookies.get(cookie_name(settings), "")


def visitor_of(
    connection: HTTPConnection, accounts: AccountService, settings: PlatformSettings, now: datetime
) -> Visitor:
    """Who is asking.

    Raises:
        LoginError: the visitor is not logged in.
    """
    token = token_of(connection, settings)
    if not token:
        raise LoginError("no-session", "you are not logged in")
    account, session = accounts.who(token, now)
    return Visitor(account=account, csrf_token=session.csrf_token)


def check_origin(connection: HTTPConnection) -> None:
    """Refuse what a browser says comes from another site. Programs send neither header, and have no cookie either.

    Raises:
        NotAllowedError: it comes from elsewhere.
    """
    site = connection.headers.get("sec-fetch-site", "same-origin")
    origin = connection.headers.get("origin")
    host = connection.headers.get("host", "")
    if site not in {"same-origin", "none"}:
        raise NotAllowedError("cross-site", f"this request comes from another site ({site[:20]})")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise NotAllowedError("cross-site", f"this request comes from another site ({origin[:100]})")


def check_form(connection: HTTPConnection, visitor: Visitor, csrf: str) -> None:
    """Refuse a form that no page of this session has shown.

    Raises:
        NotAllowedError: its token or its origin is wrong.
    """
    check_origin(connection)
    if not hmac.compare_digest(csrf.encode(), visitor.csrf_token.encode()):
        raise NotAllowedError("bad-csrf", "this form is out of date; reload the page")


def local_path(path: str) -> str:
    """*path* if it leads to a page of ours, else the front page: our login must not send visitors elsewhere."""
    is_local = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_local else "/"
