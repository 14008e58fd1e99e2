"""The gateway's TCP server: `serve_gateway` of the library outside, `GatewayLink` inside.

The links are synchronous and write to the store, so all of them run in one worker thread, a step at a time; the event loop
only moves bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bmsota.adapters import serve_gateway
from bmsota_cloud.gateway.link import GatewayLink
from bmsota_cloud.services import LINKS_MAX, network_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from bmsota.adapters import AsyncioGateway, StreamLink

__all__ = ["GatewayServer"]


def _set_address(link: StreamLink, address: str) -> None:
    assert isinstance(link, GatewayLink)
    link.address = network_of(address)


class GatewayServer:
    """Listen, and run a link for each connection."""

    def __init__(
        self,
        open_link: Callable[[Callable[[], None]], GatewayLink],
        clock_ns: Callable[[], int],
        *,
        ssl_context: ssl.SSLContext | None = None,
        links_max: int = LINKS_MAX,
    ) -> None:
        """*open_link* makes a link from its wake function; *clock_ns* reads the wall clock, never going back."""
        self._links_max = links_max
        self._open_link = open_link
        self._clock_ns = clock_ns
        self._ssl_context = ssl_context
        self._gateway: AsyncioGateway | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway")

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, chosen by the system if *port* is 0.

        Raises:
            OSError: the address cannot be used.
        """
        self._gateway = await serve_gateway(
            self._open_link,
            host,
            port,
            ssl_context=self._ssl_context,
            clock_ns=self._clock_ns,
            executor=self._worker,
            links_max=self._links_max,
            on_open=_set_address,
        )
        return self._gateway.port

    async def stop(self) -> None:
        """Close every link and stop listening."""
        if self._gateway is not None:
            await self._gateway.close()
        self._worker.shutdown()
