"""What the routes of the REST API share: documents, pages of lists, who asks, and how a refusal becomes an answer.

A bearer token from `POST /login` says who asks; cookies are never looked at, so there is nothing to forge across sites.
Who may do what is decided in the services; here a refusal becomes a status and `{"error": word, "detail": sentence}`.
Times are ISO 8601 with a zone.
"""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict

from bmsota_cloud.domain.accounts import Account
from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    LoginError,
    NotAllowedError,
    NotFoundError,
    StorageUnavailableError,
)
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, PageRequest

if TYPE_CHECKING:
    from bmsota_cloud.clock import Clock
    from bmsota_cloud.services import Services

__all__ = ["STATUSES", "Address", "ApiIn", "ApiOut", "ApiRoute", "By", "PageOut", "Paging", "Token", "accounts_of"]

STATUSES: Mapping[type[CloudError], int] = {
    LoginError: 401,
    NotAllowedError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    InvalidInputError: 422,
    StorageUnavailableError: 503,
}


class ApiRoute(APIRoute):
    """Turns refusals of the services into answers, for this API only: pages show them in their own way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def refusing(request: Request) -> Response:
            try:
                return await handler(request)
            except CloudError as refusal:
                status = STATUSES[type(refusal)]
                headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
                if isinstance(refusal, StorageUnavailableError):
                    headers["Retry-After"] = str(refusal.retry_after_s)
                return JSONResponse(
                    {"error": refusal.code, "detail": str(refusal)}, status_code=status, headers=headers
                )

        return refusing


class ApiOut(BaseModel):
    """A document that goes out; made from the services' objects."""

    model_config = ConfigDict(from_attributes=True)


class ApiIn(BaseModel):
    """A document that comes in. A misspelt field is an error, not a default."""

    model_config = ConfigDict(extra="forbid")


Item = TypeVar("Item")


class PageOut(ApiOut, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    total: int
    number: int
    size: int


_BEARER = HTTPBearer(auto_error=False)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def accounts_of(services: "Services", clock: "Clock") -> Callable[[Request], Coroutine[Any, Any, None]]:
    """A dependency of a router: it lets `By` find the account of a request's token."""

    async def provide(request: Request) -> None:
        request.state.account_of = lambda token: services.accounts.who(token, clock())[0]

    return provide


def _token(credentials: Credentials) -> str:
    if credentials is None:
        raise LoginError("no-session", "no bearer token; log in first")
    return credentials.credentials


def _account(request: Request, token: Annotated[str, Depends(_token)]) -> Account:
    account: Account = request.state.account_of(token)
    return account


def _page_request(
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 50,
) -> PageRequest:
    return PageRequest(page, size)


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host


Token = Annotated[str, Depends(_token)]
By = Annotated[Account, Depends(_account)]
Paging = Annotated[PageRequest, Depends(_page_request)]
Address = Annotated[str, Depends(_address)]
