"""The doors to the world: files, CAN adapters, sockets. Thin, and not imported by anything that only computes.

Each door is a module of its own, because each needs another extra. The two asyncio doors need none and are also found here:
`serve_gateway` and `connect_terminal`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmsota.adapters.asyncio_gateway import AsyncioGateway, serve_gateway
    from bmsota.adapters.asyncio_link import ReconnectingLink, SessionLink, StreamLink
    from bmsota.adapters.asyncio_terminal import AsyncioTerminal, connect_terminal

__all__ = [
    "AsyncioGateway",
    "AsyncioTerminal",
    "ReconnectingLink",
    "SessionLink",
    "StreamLink",
    "connect_terminal",
    "serve_gateway",
]

_HOMES = {
    "AsyncioGateway": "gateway",
    "AsyncioTerminal": "terminal",
    "ReconnectingLink": "link",
    "SessionLink": "link",
    "StreamLink": "link",
    "connect_terminal": "terminal",
    "serve_gateway": "gateway",
}


def __getattr__(name: str) -> object:
    """Import asyncio only for those who ask for it: the command line's other doors start without it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.asyncio_{_HOMES[name]}"), name)
