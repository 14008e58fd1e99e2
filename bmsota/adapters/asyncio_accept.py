"""Accept connections on asyncio, and stop in time when descriptors get scarce.

A process that has no descriptor left can accept nothing, open no file and reach no database; and asyncio's own server then logs
and retries in a circle. So accepting stops before: as long as the process has as many descriptors open as it may spend on
connections, new ones wait in the operating system's queue. What is left serves everything else.

Strategy: an operating system gives the lowest free number to a new descriptor, so the number of the connection just accepted says
how many are open, for nothing. While there are too many, we look again every now and then.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    HandshakeFailed = Callable[[str, str], object]

__all__ = ["Acceptor", "descriptors_to_spend", "listen"]

_LOG = logging.getLogger(__name__)

# Connections that wait to be accepted, in the operating system.
_BACKLOG = 1024
# How soon to look again whether there is room.
_LOOK_AGAIN_S = 0.5
# A condition that lasts is said this often.
_SAY_EVERY_S = 60.0
# The process, the system, or the kernel's memory has no room; `accept` works again when there is.
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# What is kept back where nobody has said how much: a part of all, but enough for a log, a database and a few files.
_KEPT_PART = 16
_KEPT_MIN = 32


def descriptors_to_spend() -> int | None:
    """How many descriptors of this process connections may have, by its soft limit; None where the system has no limit."""
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    return max(1, soft - max(_KEPT_MIN, soft // _KEPT_PART))


async def listen(
    make_protocol: Callable[[], asyncio.BaseProtocol],
    host: str,
    port: int,
    *,
    descriptors_max: int | None = None,
    tls: Mapping[str, Any] | None = None,
    on_handshake_failed: HandshakeFailed | None = None,
) -> Acceptor:
    """Listen on *host* and *port*, as `loop.create_server` does, and accept by an `Acceptor`.

    Raises:
        OSError: the address cannot be used.
    """
    loop = asyncio.get_running_loop()
    # asyncio finds and binds the addresses; the accepting is ours.
    server = await loop.create_server(make_protocol, host, port, start_serving=False)
    listening = [each.dup() for each in server.sockets]
    server.close()
    for each in listening:
        each.listen(_BACKLOG)
    return Acceptor(
        listening, make_protocol, descriptors_max=descriptors_max, tls=tls, on_handshake_failed=on_handshake_failed
    )


HANDSHAKE_ABANDONED = "the other end closed the connection"
"""The reason of a peer that has gone without a word of TLS about it, as a port scan does."""


def _handshake_words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        # As OpenSSL names it: WRONG_VERSION_NUMBER, HTTP_REQUEST, TLSV1_ALERT_UNKNOWN_CA.
        return error.reason.replace("_", " ").lower()
    if isinstance(error, ConnectionResetError):
        return HANDSHAKE_ABANDONED
    return str(error) or type(error).__name__


class Acceptor:
    """Accepts on listening sockets until it is closed. Made and used in the event loop's thread."""

    def __init__(
        self,
        listening: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.BaseProtocol],
        *,
        descriptors_max: int | None = None,
        tls: Mapping[str, Any] | None = None,
        handshakes_max: int | None = None,
        on_handshake_failed: HandshakeFailed | None = None,
    ) -> None:
        """Take over the sockets *listening*, which are bound and listen, and accept at once.

        Args:
            listening: they are closed with the acceptor.
            make_protocol: makes the protocol of a new connection.
            descriptors_max: accept nothing while so many descriptors of the process are open; None: no such limit.
            tls: what `loop.connect_accepted_socket` gets for TLS.
            handshakes_max: a TLS handshake beyond it ends the one that has lasted longest; None: no such limit.
            on_handshake_failed: called with the peer's address (without the port) and the reason.
        """
        self.is_holding_back = False
        """Descriptors are scarce, and new connections wait."""
        self.port = int(listening[0].getsockname()[1])
        """The TCP port of the first of them."""
        self._listening = tuple(listening)
        self._make_protocol = make_protocol
        self._descriptors_max = descriptors_max
        self._tls = dict(tls or {})
        self._handshakes_max = handshakes_max
        self._on_handshake_failed = on_handshake_failed
        self._said_s: float | None = None
        loop = asyncio.get_running_loop()
        for each in self._listening:
            each.setblocking(False)
        self._accepting = [loop.create_task(self._accept(each)) for each in self._listening]
        # In the order in which they began.
        self._handshakes: dict[asyncio.Task[object], None] = {}

    async def close(self) -> None:
        """Accept nothing more. Connections that are open stay."""
        tasks = [*self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in self._listening:
            each.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _SCARCE:
                    await self._hold_back(listening, error.strerror or "no resources")
                # Anything else is about a peer that has gone before we answered.
                continue
            number = accepted.fileno()
            await self._serve(accepted, str(peer[0]))
            if self._descriptors_max is not None and number >= self._descriptors_max:
                await self._hold_back(listening, f"{number + 1} descriptors are open")

    async def _serve(self, accepted: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        opening = loop.connect_accepted_socket(self._make_protocol, accepted, **self._tls)
        if not self._tls:
            await opening
            return
        # A handshake takes as long as the peer likes; nobody waits for it.
        task: asyncio.Task[object] = loop.create_task(opening)
        if self._handshakes_max is not None and len(self._handshakes) >= self._handshakes_max:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        self._handshakes[task] = None
        task.add_done_callback(partial(self._handshake_done, address))

    def _handshake_done(self, address: str, task: asyncio.Task[object]) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        words = _handshake_words(error)
        _LOG.debug("TLS handshake with %s failed: %s", address, words)
        if self._on_handshake_failed is not None:
            self._on_handshake_failed(address, words)

    async def _hold_back(self, listening: socket.socket, words: str) -> None:
        loop = asyncio.get_running_loop()
        self.is_holding_back = True
        if self._said_s is None or loop.time() - self._said_s >= _SAY_EVERY_S:
            self._said_s = loop.time()
            _LOG.warning("no new connection is accepted: %s, %s are left to connections", words, self._descriptors_max)
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            if self._has_room(listening):
                self.is_holding_back = False
                return
            if loop.time() - self._said_s >= _SAY_EVERY_S:
                self._said_s = loop.time()
                _LOG.warning("still no new connection is accepted: descriptors are scarce")

    def _has_room(self, listening: socket.socket) -> bool:
        try:
            probe = listening.dup()
        except OSError:
            return False
        with probe:
            return self._descriptors_max is None or probe.fileno() < self._descriptors_max
