"""Customers: to whom vehicles belong. An account of a customer sees the customer's vehicles and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.domain.errors import InvalidInputError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Customer", "check_customer_name"]

_NAME = re.compile(r"[\w.&()+-][\w .&()+-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A customer. Which vehicles belong to it stands with the vehicles."""

    name: str
    created_at: datetime
    created_by: str


def check_customer_name(name: str) -> None:
    """Raise InvalidInputError unless *name* can name a customer."""
    if not _NAME.fullmatch(name) or name != name.strip():
        raise InvalidInputError(
            "bad-customer", f"customer: expected 1 to 64 letters, digits, space . & ( ) + - _, got {name[:80]!r}"
        )
