"""The WebSocket behind an open page: a whole snapshot first, then what has changed.

The server speaks, the page listens. Messages are JSON objects with "kind":

* "parts": `{"parts": {id: html}}`, whole parts of the page. Always the first message, and again when something changed
  that single texts can't say, when messages were lost, and now and then in any case, so that a page heals by itself.
* "patch": `{"texts": {key: text}, "attributes": {key: {name: value}}}` for elements with that `data-k`.
* "tick": nothing has changed; the page knows that the connection works.

All have "now", the platform's time, against which the page counts "3 s ago" whatever the browser's clock says.
Closed with 4401 (not or no longer logged in), 4403 (asked from another site), 4404 (no such thing), 1013 (the database is away:
the page tries again).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from starlette.websockets import WebSocketDisconnect

from bmsota_cloud.domain.errors import CloudError, LoginError, NotAllowedError, StorageUnavailableError
from bmsota_cloud.pages.session import check_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.websockets import WebSocket

    from bmsota_cloud.domain.telemetry import JsonValue
    from bmsota_cloud.pages.session import Visitor
    from bmsota_cloud.pages.site import Site
    from bmsota_cloud.services import Subscription

__all__ = ["LivePage", "Message", "serve_live"]

Message = dict[str, Any]

# The page gives up on a connection after two and a half of these (static/live.js), and a session that has ended stops
# being served after one.
_TICK_S = 10.0
# A whole snapshot this often: ids of who is online elsewhere on the page come by no other way.
_SNAPSHOT_EVERY_TICKS = 3
# Five times a second is as live as an eye can follow; what comes in between is one message.
_PAUSE_S = 0.2
# A browser that has not taken a message in this time is gone, whatever TCP believes.
_SEND_TIMEOUT_S = 20.0


class LivePage(Protocol):
    """What one open page shows."""

    topic: str

    def snapshot(self) -> Message:
        """The whole live content. Called in a worker thread; may read the store."""
        ...

    def change(self, messages: Sequence[dict[str, JsonValue]]) -> Message | None:
        """What these messages change: a message, or None for "take a snapshot". Called in the event loop."""
        ...


async def serve_live(websocket: WebSocket, site: Site, open_page: Callable[[Visitor], LivePage]) -> None:
    """Serve one open page until it goes away."""
    # Accepted first: a browser tells its script the code of a close, but nothing of a refused handshake.
    await websocket.accept()
    try:
        check_origin(websocket)
        visitor = await anyio.to_thread.run_sync(site.visitor, websocket)
    except NotAllowedError:
        await websocket.close(4403)
        return
    except LoginError:
        await websocket.close(4401)
        return
    except StorageUnavailableError:
        await websocket.close(1013)
        return
    page = open_page(visitor)
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        # The publisher must not suffer when this loop is closing down.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(woken.set)

    # Subscribed before the snapshot is read, so that nothing falls between the two.
    subscription = site.services.live.subscribe(page.topic, wake=wake)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_until_gone, websocket, group.cancel_scope)
            code = await _feed(websocket, site, page, visitor, open_page, subscription, woken)
            with suppress(RuntimeError, WebSocketDisconnect):
                await websocket.close(code)
            group.cancel_scope.cancel()
    finally:
        subscription.close()


async def _until_gone(websocket: WebSocket, scope: anyio.CancelScope) -> None:
    """A page sends nothing: any message from it, or its end, ends the connection."""
    with suppress(WebSocketDisconnect):
        await websocket.receive()
    scope.cancel()


async def _feed(
    websocket: WebSocket,
    site: Site,
    page: LivePage,
    visitor: Visitor,
    open_page: Callable[[Visitor], LivePage],
    subscription: Subscription,
    woken: asyncio.Event,
) -> int:
    """Send until there is a reason to stop, and return the code to close with.

    Who looks is asked again every tick, also while there is much to tell: the session may have ended, and the account may do or see
    less than before.
    """
    loop = asyncio.get_running_loop()
    asked_s = loop.time()
    dropped = 0
    ticks = 0
    needs_snapshot = True
    try:
        while True:
            messages = _take_all(subscription)
            if subscription.dropped != dropped:
                dropped = subscription.dropped
                needs_snapshot = True
            change = None if needs_snapshot else page.change(messages) if messages else {"kind": "tick"}
            if change is None:
                change = await anyio.to_thread.run_sync(page.snapshot)
                needs_snapshot = False
            with anyio.fail_after(_SEND_TIMEOUT_S):
                await websocket.send_json({**change, "now": site.now().isoformat()})
            await asyncio.sleep(_PAUSE_S)
            with anyio.move_on_after(_TICK_S) as waiting:
                await woken.wait()
            woken.clear()
            if waiting.cancelled_caught or loop.time() - asked_s >= _TICK_S:
                asked_s = loop.time()
                now = await anyio.to_thread.run_sync(site.visitor, websocket)
                if now.account != visitor.account:
                    visitor, page, needs_snapshot = now, open_page(now), True
            if waiting.cancelled_caught:
                ticks += 1
                needs_snapshot = needs_snapshot or ticks % _SNAPSHOT_EVERY_TICKS == 0
    except LoginError:
        return 4401
    except StorageUnavailableError:
        return 1013
    except CloudError:
        return 4404
    except (WebSocketDisconnect, RuntimeError, TimeoutError):
        # Starlette says RuntimeError when the other side has closed between two sends.
        return 1001


def _take_all(subscription: Subscription) -> list[dict[str, JsonValue]]:
    """Everything there is; the queue behind it is bounded."""
    messages: list[dict[str, JsonValue]] = []
    while (message := subscription.take()) is not None:
        messages.append(message)
    return messages
