"""The device API over HTTP: one route that hands every request below /device/v1 to `bmsota_cloud.api.device.answer`."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from bmsota.ota import HttpRequest, HttpResponse
from bmsota_cloud.api.device import ServedImage, answer, refuse_unread, served_image
from bmsota_cloud.clock import Clock
from bmsota_cloud.domain.errors import LoginError, StorageUnavailableError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from bmsota_cloud.services import Services

__all__ = ["mount_device_api"]

_LOG = logging.getLogger(__name__)

_CHUNK_SIZE_BYTES = 64 * 1024


def mount_device_api(app: FastAPI, services: "Services", clock: Clock) -> None:
    """Add the route."""

    @app.api_route("/device/v1/{rest:path}", methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False)
    async def device(request: Request, rest: str) -> Response:
        del rest
        head = HttpRequest(method=request.method, path=request.url.path, headers=dict(request.headers))
        response = await run_in_threadpool(refuse_unread, head, services, clock())
        if response is None:
            asked = replace(head, body=await request.body())
            address = "" if request.client is None else request.client.host
            response = await run_in_threadpool(answer, asked, services, clock(), address)
            served = served_image(asked, response)
            if served is not None:
                return _ImageResponse(response, served, services, clock)
        return Response(content=response.body, status_code=response.status, headers=dict(response.headers))


class _ImageResponse(Response):
    """Goes out piece by piece; then it is noted whether all of it was given to the unit's connection, or the unit has left before.

    The server takes a piece when most of those before it have gone out. An answer that is noted although the unit lacks its last
    kilobytes can still happen, when the connection breaks with them on the way.
    """

    def __init__(self, response: HttpResponse, served: ServedImage, services: "Services", clock: Clock) -> None:
        super().__init__(content=response.body, status_code=response.status, headers=dict(response.headers))
        self._served = served
        self._services = services
        self._clock = clock

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        request = Request(scope, receive)
        body = bytes(self.body)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        is_gone = False
        for at in range(0, len(body), _CHUNK_SIZE_BYTES):
            if is_gone := await request.is_disconnected():
                break
            piece = body[at : at + _CHUNK_SIZE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        is_gone = is_gone or await request.is_disconnected()
        await run_in_threadpool(self._note, is_complete=not is_gone)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _note(self, *, is_complete: bool) -> None:
        try:
            self._served.note(self._services, self._clock(), is_complete=is_complete)
        except (LoginError, StorageUnavailableError) as refusal:
            # The unit has its bytes. Until they are noted its instruction is repeated, which it knows already.
            self._services.counters.add("image_served_not_noted")
            _LOG.warning("an image was served and that could not be noted: %s", refusal)
