"""A platform's HTTP behind a port of its own, in a thread."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from bmsota_cloud.wiring import build_app
from lent_apps import lent_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota_cloud.platform import Cloud

# A busy machine takes its time; a server that hangs is noticed all the same.
LIMIT_S = 120.0


class Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def http_port(cloud: Cloud, *, send_buffer_bytes: int | None = None) -> Iterator[int]:
    """The port of a server; *send_buffer_bytes* bounds what the kernel holds of a response."""
    listening = socket.create_server(("127.0.0.1", 0))
    if send_buffer_bytes is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    with lent_app(build_app, cloud) as app:
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        server = Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(LIMIT_S)
        assert not thread.is_alive()
