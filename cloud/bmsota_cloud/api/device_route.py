"""The device API over HTTP: one route that hands every request below /device/v1 to `bmsota_cloud.api.device.respond`."""

from dataclasses import replace
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from bmsota.ota import HttpRequest
from bmsota_cloud.api.device import refuse_unread, respond
from bmsota_cloud.clock import Clock

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["mount_device_api"]


def mount_device_api(app: FastAPI, services: "Services", clock: Clock) -> None:
    """Add the route."""

    @app.api_route("/device/v1/{rest:path}", methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False)
    async def device(request: Request, rest: str) -> Response:
        del rest
        head = HttpRequest(method=request.method, path=request.url.path, headers=dict(request.headers))
        answer = await run_in_threadpool(refuse_unread, head, services, clock())
        if answer is None:
            asked = replace(head, body=await request.body())
            address = "" if request.client is None else request.client.host
            answer = await run_in_threadpool(respond, asked, services, clock(), address)
        return Response(content=answer.body, status_code=answer.status, headers=dict(answer.headers))
