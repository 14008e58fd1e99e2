"""uvicorn as the platform runs it: without signal handlers, and with a bounded number of connections.

A connection costs a descriptor whether it asks for something or not. When there are too many, the one that has been idle longest
is closed for the new one: idle strangers must not keep people out. A connection that does not manage to send a request is closed
after a while.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bmsota.adapters.asyncio_accept import Acceptor

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Iterator

__all__ = ["WebServer"]

# From the connection to the whole head of its first request.
_FIRST_REQUEST_S = 20.0
_HANDSHAKE_TIMEOUT_S = 10.0
# Anybody can send what is no HTTP, as often as he likes: it must not fill the disk with log lines.
_SAY_EVERY_S = 60.0

_LOG = logging.getLogger(__name__)


class WebServer(uvicorn.Server):
    """A web server on a socket that is bound already."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket, *, connections_max: int) -> None:
        """*listening* listens from `serve` on; *connections_max* for all connections together."""
        config.http = _limited_http(connections_max)
        super().__init__(config)
        self._listening = listening
        self._connections_max = connections_max
        self._acceptor: Acceptor | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process that runs us decides what a signal means."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn without sockets; ours accepts one connection at a time, so that it never has more than it can count."""
        del sockets
        await super().startup(sockets=[])
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": _HANDSHAKE_TIMEOUT_S}
        self._acceptor = Acceptor([self._listening], self._make_protocol, tls=tls, handshakes_max=self._connections_max)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        del sockets
        if self._acceptor is not None:
            await self._acceptor.close()
        await super().shutdown(sockets=[])

    def _make_protocol(self) -> asyncio.BaseProtocol:
        made: asyncio.BaseProtocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _limited_http(connections_max: int) -> type[asyncio.Protocol]:
    """A class of HTTP protocol of which there are at most so many connections."""
    connections: dict[asyncio.Transport, _LimitedHttp] = {}

    class LimitedHttp(_LimitedHttp):
        _all = connections
        _all_max = connections_max
        _complaints = _Complaints()

    return LimitedHttp


class _Complaints:
    """What visitors have done wrong: counted, and said once in a while."""

    def __init__(self) -> None:
        self._count = 0
        self._said_s: float | None = None

    def add(self, words: str, address: str, now_s: float) -> None:
        self._count += 1
        if self._said_s is None or now_s - self._said_s >= _SAY_EVERY_S:
            _LOG.warning("%d requests could not be read, the last from %s: %s", self._count, address, words.rstrip("."))
            self._count, self._said_s = 0, now_s


class _OfOneConnection:
    """uvicorn's log as one connection sees it: its warnings are about what the visitor sends."""

    def __init__(self, logger: logging.Logger, protocol: _LimitedHttp) -> None:
        self._logger = logger
        self._protocol = protocol

    def warning(self, words: str, *arguments: object) -> None:
        protocol = self._protocol
        address = protocol.client[0] if protocol.client else "an unknown address"
        protocol._complaints.add(words % arguments if arguments else words, address, protocol.loop.time())  # noqa: SLF001

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)


class _LimitedHttp(H11Protocol):
    _all: dict[asyncio.Transport, _LimitedHttp]
    """In the order in which they came or were last asked something; WebSockets too."""
    _all_max: int
    _complaints: _Complaints
    _is_upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.logger = _OfOneConnection(self.logger, self)  # type: ignore[assignment]
        if len(self._all) >= self._all_max and not self._make_room():
            transport.abort()
            return
        self._all[transport] = self
        self._first_request = self.loop.call_later(_FIRST_REQUEST_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._all.pop(self.transport, None) is not None:
            self._all[self.transport] = self
        super().data_received(data)

    def handle_websocket_upgrade(self, event: Any) -> None:
        # From here on another protocol has the transport; it stays counted until that is closed.
        self._is_upgraded = True
        super().handle_websocket_upgrade(event)

    def _make_room(self) -> bool:
        for transport, protocol in tuple(self._all.items()):
            if transport.is_closing():
                protocol._forget()  # noqa: SLF001 - one of us
        if len(self._all) < self._all_max:
            return True
        for transport, protocol in self._all.items():
            if not protocol._is_upgraded and protocol._is_idle:  # noqa: SLF001
                protocol._forget()  # noqa: SLF001
                transport.abort()
                return True
        return False

    @property
    def _is_idle(self) -> bool:
        return not self._has_asked or self.cycle.response_complete

    @property
    def _has_asked(self) -> bool:
        cycle: object = self.cycle  # uvicorn's type leaves out that there is none at first.
        return cycle is not None

    def _give_up(self) -> None:
        if not self._has_asked and not self._is_upgraded:
            self.transport.abort()

    def _forget(self) -> None:
        self._all.pop(self.transport, None)
        if (timer := getattr(self, "_first_request", None)) is not None:
            timer.cancel()
