"""API tokens: what a program shows instead of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["TOKEN_PREFIX", "ApiToken"]

TOKEN_PREFIX = "bmsota_"  # noqa: S105 - what every token begins with, so that it is found where it does not belong
"""Tells a token from a session, and lets scanners of repositories find one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """A token of an account. The secret itself is not here: only its SHA-256 is stored."""

    token_sha256: bytes
    account_name: str
    name: str
    """What it is for, in its owner's words; unique among the tokens of an account."""
    permissions: tuple[str, ...]
    """What it may do at most, sorted; of these it may do what its owner may at that moment."""
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = None
    last_address: str = ""

    @property
    def id(self) -> str:
        """Names the token in lists; worth nothing to who wants to be it."""
        return self.token_sha256.hex()[:16]
