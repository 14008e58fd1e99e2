"""What the routes of the REST API share: documents, pages of lists, who asks, and how a refusal becomes an answer.

A bearer token from `POST /login` says who asks; cookies are never looked at, so there is nothing to forge across sites.
Who may do what is decided in the services; here a refusal becomes a status and `{"error": word, "detail": sentence}`.
Times are ISO 8601 with a zone. Who asks is known before the body is read: a stranger's 200 MB are refused at their head.
"""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

import re
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from fastapi import Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator

from bmsota_cloud.domain.accounts import Account, Permission, require
from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    LoginError,
    NotAllowedError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    StorageUnavailableError,
)
from bmsota_cloud.domain.paging import ID_MAX, PAGE_NUMBER_MAX, PAGE_SIZE_MAX, PageRequest
from bmsota_cloud.domain.texts import check_address, expect_no_nul
from bmsota_cloud.domain.tokens import TOKEN_PREFIX

if TYPE_CHECKING:
    from bmsota_cloud.clock import Clock
    from bmsota_cloud.services import Services

__all__ = [
    "STATUSES",
    "Address",
    "ApiIn",
    "ApiOut",
    "By",
    "CountOut",
    "ErrorOut",
    "Id",
    "PageOut",
    "Paging",
    "Time",
    "Token",
    "api_route_class",
    "for_strangers",
    "needs",
    "sender_of",
]

STATUSES: Mapping[type[CloudError], int] = {
    LoginError: 401,
    NotAllowedError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    InvalidInputError: 422,
    RateLimitedError: 429,
    OverloadedError: 503,
    StorageUnavailableError: 503,
}

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

# Set on endpoints by the two decorators below, read before the body of a request.
_FOR_STRANGERS = "bmsota_for_strangers"
_NEEDS = "bmsota_needs"


def for_strangers(endpoint: Endpoint) -> Endpoint:
    """Let this endpoint be asked without a session. All others read nothing from a stranger but the head of his request."""
    setattr(endpoint, _FOR_STRANGERS, True)
    return endpoint


def needs(permission: Permission) -> Callable[[Endpoint], Endpoint]:
    """Look at this permission before the body is read, because the body may be large. The service looks again."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _NEEDS, permission)
        return endpoint

    return mark


def api_route_class(services: "Services", clock: "Clock") -> type[APIRoute]:
    """Routes that know who asks before they read the body, and turn refusals of the services into answers.

    For this API only: pages show refusals in their own way.
    """

    class ApiRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()
            is_for_strangers = getattr(self.endpoint, _FOR_STRANGERS, False)
            permission: Permission | None = getattr(self.endpoint, _NEEDS, None)

            async def refusing(request: Request) -> Response:
                try:
                    if not is_for_strangers:
                        account = await run_in_threadpool(_sender, request, services, clock)
                        request.state.account = account
                        if permission is not None:
                            require(account, permission)
                    check_address(request.scope["path"], request.scope["query_string"])
                    return await handler(request)
                except CloudError as refusal:
                    return _refusal(refusal)

            return refusing

    return ApiRoute


def _sender(request: Request, services: "Services", clock: "Clock") -> Account:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise LoginError("no-session", "no bearer token; log in first")
    return sender_of(token, services, clock, _address(request))


def sender_of(token: str, services: "Services", clock: "Clock", address: str = "") -> Account:
    """Whose session or API token this is.

    Raises:
        LoginError: nobody's.
    """
    if token.startswith(TOKEN_PREFIX):
        return services.tokens.who(token, clock(), address)
    return services.accounts.who(token, clock())[0]


def _refusal(refusal: CloudError) -> JSONResponse:
    headers: dict[str, str] = {}
    if isinstance(refusal, LoginError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(refusal, RateLimitedError | OverloadedError | StorageUnavailableError):
        headers["Retry-After"] = str(refusal.retry_after_s)
    content = {"error": refusal.code, "detail": str(refusal)}
    return JSONResponse(content, status_code=STATUSES[type(refusal)], headers=headers)


_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _expect_date(value: Any) -> Any:
    """Pydantic takes numbers for seconds since 1970, which nobody who writes "2026" means."""
    if not isinstance(value, str) or not _DATE.match(value):
        raise ValueError(f"expected a time as 2026-11-30T08:00:00Z, got {str(value)[:40]!r}")
    return value


Time = Annotated[datetime, BeforeValidator(_expect_date)]
"""A time that comes in; its zone is looked at by the route, which knows its name."""


class ApiOut(BaseModel):
    """A document that goes out; made from the services' objects."""

    model_config = ConfigDict(from_attributes=True)


class ErrorOut(ApiOut):
    """Every answer of 400 and above."""

    error: str
    """A word for programs."""
    detail: str
    """A sentence for people."""


class ApiIn(BaseModel):
    """A document that comes in. A misspelt field is an error, not a default."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str):
                expect_no_nul(text)
        return value


class CountOut(ApiOut):
    """How many it were."""

    count: int


Item = TypeVar("Item")


class PageOut(ApiOut, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    total: int
    number: int
    size: int


_BEARER = HTTPBearer(auto_error=False)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def _token(credentials: Credentials) -> str:
    if credentials is None:
        raise LoginError("no-session", "no bearer token; log in first")
    return credentials.credentials


def _account(request: Request, credentials: Credentials) -> Account:
    # The credentials are an argument for the API's description; they were looked at before the body was read.
    del credentials
    account: Account = request.state.account
    return account


def _page_request(
    page: Annotated[int, Query(ge=1, le=PAGE_NUMBER_MAX)] = 1,
    size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 50,
) -> PageRequest:
    return PageRequest(page, size)


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host


Id = Annotated[int, Path(ge=1, le=ID_MAX)]
Token = Annotated[str, Depends(_token)]
By = Annotated[Account, Depends(_account)]
Paging = Annotated[PageRequest, Depends(_page_request)]
Address = Annotated[str, Depends(_address)]
