"""The device HTTP API, sans-IO: `respond` takes a request and gives the answer; FastAPI is only its carrier.

The messages are `bmsota.ota.device_api`, both ends of which are in the library; here is which refusal becomes which
status. What a unit may read is the services' decision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bmsota.errors import RemoteProtocolError
from bmsota.ota import device_api
from bmsota_cloud.domain.errors import ConflictError, LoginError, StorageUnavailableError

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota.ota import HttpRequest, HttpResponse
    from bmsota_cloud.services import Services

__all__ = ["BODY_SIZE_BYTES_MAX", "respond"]

# The largest request is a session's: HWID, challenge, signature, about 180 bytes.
BODY_SIZE_BYTES_MAX = 4096


def respond(request: HttpRequest, services: Services, now: datetime) -> HttpResponse:
    """Answer one request of a unit. Never raises for what the request holds."""
    try:
        return _respond(request, services, now)
    except LoginError as refusal:
        return device_api.error_response(device_api.STATUS_UNAUTHORIZED, refusal.code, str(refusal))
    except ConflictError as refusal:
        return device_api.error_response(device_api.STATUS_CONFLICT, refusal.code, str(refusal))
    except StorageUnavailableError as refusal:
        answer = device_api.error_response(503, refusal.code, str(refusal))
        return replace(answer, headers={**answer.headers, "Retry-After": str(refusal.retry_after_s)})
    except RemoteProtocolError as error:
        return device_api.error_response(400, "bad-request", str(error))


def _respond(request: HttpRequest, services: Services, now: datetime) -> HttpResponse:
    if len(request.body) > BODY_SIZE_BYTES_MAX:
        return device_api.error_response(
            413, "too-large", f"the request body is larger than {BODY_SIZE_BYTES_MAX} bytes"
        )
    try:
        route = device_api.route(request.method, request.path)
    except RemoteProtocolError as error:
        return device_api.error_response(404, "no-such-path", str(error))
    device = services.device
    if route.endpoint is device_api.DeviceEndpoint.CHALLENGE:
        issued = device.challenge(device_api.parse_challenge_request(request.body), now)
        return device_api.challenge_response(issued.challenge, int(issued.expires_at.timestamp()))
    if route.endpoint is device_api.DeviceEndpoint.SESSION:
        token, expires_at = device.open_session(device_api.parse_session_request(request.body), now)
        return device_api.session_response(token, int(expires_at.timestamp()))
    token = device_api.bearer_token(request) or ""
    if route.endpoint is device_api.DeviceEndpoint.ORDER:
        return device_api.order_response(device.order(token, now))
    if route.endpoint is device_api.DeviceEndpoint.MANIFEST:
        return device_api.manifest_response(device.manifest(token, route.sha256.hex(), now))
    if route.endpoint is device_api.DeviceEndpoint.IMAGE:
        data = device.image(token, route.sha256.hex(), now)
        return device_api.image_response(request, sha256=route.sha256, data=data)
    confirmation = device_api.parse_confirm_request(request.body)
    device.confirm(token, route.order_id, confirmation.decision, confirmation.reason, now)
    return device_api.confirmed_response()
