"""What forms send."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Form
from pydantic import AfterValidator

from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.texts import expect_no_nul

__all__ = ["Text", "needed_permission", "needs"]

Text = Annotated[str, Form(), AfterValidator(expect_no_nul)]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_NEEDS = "_bmsota_page_needs"


def needs(permission: Permission) -> Callable[[Endpoint], Endpoint]:
    """Look at this permission before the form is read, because it may be large. The service looks again."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _NEEDS, permission)
        return endpoint

    return mark


def needed_permission(endpoint: Callable[..., Any]) -> Permission | None:
    """What `needs` has said of *endpoint*."""
    permission: Permission | None = getattr(endpoint, _NEEDS, None)
    return permission
