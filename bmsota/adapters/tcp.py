"""TCP: open a link, send, and hear what comes back. Blocking sockets.

    with TcpLink("gateway.example", 32960) as link:
        link.send(data)
        for each in wait([link], 0.5):
            data = each.receive()        # b"" once the other end has closed

Blocking and plain, for a command line and for threads; servers and fleets have `serve_gateway` and `connect_terminal`. Nothing
here knows frames: feed what comes to a `FrameReader` or a session.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final, Self

from bmsota.errors import TransferError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ["TcpLink", "wait"]

_RECEIVE_SIZE_BYTES: Final = 65_536
# How long the other end may refuse to take what we send. It has megabytes of buffers; after this it does not read at all.
_SEND_TIMEOUT_S: Final = 30.0


class TcpLink:
    """An open TCP connection. A context manager."""

    def __init__(
        self, host: str, port: int, *, timeout_s: float = 10.0, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """Connect to *host*, a name or an address; with *ssl_context* by TLS, where *host* is the name in the certificate.

        Raises:
            TransferError: the connection cannot be opened. Not permanent.
        """
        self.name = f"{host}:{port}"
        self.is_open = True
        """False once the other end has closed, or the connection broke."""
        try:
            self._socket = socket.create_connection((host, port), timeout_s)
        except (OSError, UnicodeError) as error:  # A name with a label of more than 63 characters is a UnicodeError.
            raise TransferError(f"cannot connect to {self.name}: {error}", permanent=False) from error
        # Frames are small and each is one message: waiting for more would only delay them.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ssl_context is not None:
            try:
                self._socket = ssl_context.wrap_socket(self._socket, server_hostname=host)
            except (OSError, ValueError) as error:  # A name that no certificate can have is a ValueError.
                self._socket.close()
                raise TransferError(f"cannot open TLS to {self.name}: {error}", permanent=False) from error
        self._heard = b""
        self._socket.settimeout(_SEND_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was sent is still delivered."""
        self.is_open = False
        self._socket.close()

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send all of *data*.

        Raises:
            TransferError: the connection broke, or the other end has not read for half a minute. The link is closed.
        """
        try:
            self._socket.sendall(data)
        except OSError as error:
            self.close()
            raise TransferError(f"cannot send to {self.name}: {error}", permanent=False) from error

    def receive(self) -> bytes:
        """Return what has come; waits if nothing has (see `wait`). b"" when the other end has closed or the link broke."""
        if self._heard:
            data, self._heard = self._heard, b""
            return data
        try:
            data = self._socket.recv(_RECEIVE_SIZE_BYTES)
        except OSError:
            data = b""
        if not data:
            self.close()
        return data

    def has_heard(self) -> bool:
        """Whether there is something for `receive`. Of TLS a record may have come that has no data in it, or only its beginning."""
        if not isinstance(self._socket, ssl.SSLSocket) or self._heard:
            return True
        self._socket.settimeout(0.0)
        try:
            self._heard = self._socket.recv(_RECEIVE_SIZE_BYTES)
        except ssl.SSLWantReadError:
            return False
        except OSError:
            pass  # `receive` finds the same.
        finally:
            self._socket.settimeout(_SEND_TIMEOUT_S)
        return True

    def is_waiting(self) -> bool:
        """Whether data has come already that the operating system does not know of any more."""
        return bool(self._heard) or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0)


def wait(links: Iterable[TcpLink], timeout_s: float) -> list[TcpLink]:
    """Wait until something has come on one of *links*, or they were closed, or *timeout_s* is over; return those links."""
    links = list(links)
    if waiting := [link for link in links if link.is_open and link.is_waiting()]:
        timeout_s = 0.0
    with selectors.DefaultSelector() as selector:
        for link in links:
            if link.is_open:
                selector.register(link, selectors.EVENT_READ, link)
        # Without a link there is nothing to wait for but the time, which some systems' selectors refuse to do.
        if not selector.get_map():
            time.sleep(max(timeout_s, 0.0))
            return []
        ready = [key.data for key, _ in selector.select(max(timeout_s, 0.0))]
    return waiting + [link for link in ready if link not in waiting and link.has_heard()]
