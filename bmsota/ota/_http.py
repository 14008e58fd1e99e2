"""HTTP requests and responses as values. Who sends them over which connection is an adapter's business."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def find_header(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value, whatever the case of its name (RFC 9110, section 5.1); None when it is not there."""
    wanted = name.lower()
    return next((value for key, value in headers.items() if key.lower() == wanted), None)


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
