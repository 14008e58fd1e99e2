"""HTTP requests and responses as values. Who sends them over which connection is an adapter's business."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


def find_header(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value, whatever the case of its name (RFC 9110, section 5.1); None when it is not there."""
    wanted = name.lower()
    return next((value for key, value in headers.items() if key.lower() == wanted), None)


def retry_after_s(headers: Mapping[str, str], now_ns: int) -> int | None:
    """Retry-After (RFC 9110, section 10.2.3) in seconds from now; None when there is none, or it says nothing."""
    text = (find_header(headers, "Retry-After") or "").strip()
    if _SECONDS.fullmatch(text):
        return int(text)
    try:
        moment = parsedate_to_datetime(text[:64])
    except (ValueError, TypeError):
        return None
    return max(0, int(moment.timestamp()) - now_ns // 1_000_000_000) if moment.tzinfo is not None else None


def is_unavailable(status: int) -> bool:
    """Whether a response says "later": 408, 425, 429, and every 5xx, since an unknown one is as 500 (RFC 9110, section 15)."""
    return status in _STATUS_LATER or 500 <= status <= 599


_STATUS_LATER: Final = (408, 425, 429)
# 19 digits are beyond any wait; a longer number is no number to us.
_SECONDS: Final = re.compile(r"\d{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request to be sent, or one received."""

    method: str
    path: str
    """Absolute, below the base URL; with the query, if any."""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes = b""
    origin: str = ""
    """Where to send it, as "https://host:port"; empty: to the base URL. Set after a redirect only."""

    def header(self, name: str) -> str | None:
        """The value of header *name*, or None."""
        return find_header(self.headers, name)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response received, or one to be sent."""

    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of header *name*, or None."""
        return find_header(self.headers, name)
