"""The device HTTP API, sans-IO: `respond` takes a request and gives the answer; FastAPI is only its carrier.

The messages are `bmsota.ota.device_api`, both ends of which are in the library; here is which refusal becomes which
status. What a unit may read is the services' decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.errors import RemoteProtocolError
from bmsota.ota import IDENTITY_REPORT_SIZE_BYTES_MAX, device_api
from bmsota_cloud.domain.errors import ConflictError, LoginError, RateLimitedError, StorageUnavailableError

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota.ota import HttpRequest, HttpResponse
    from bmsota_cloud.services import Services

__all__ = ["ServedImage", "answer", "body_size_bytes_max", "refuse_unread", "respond", "served_image"]

# The largest request but a report is a session's: HWID, challenge, origin, signature, under 500 bytes.
_BODY_SIZE_BYTES_MAX = 4096

_WITHOUT_SESSION = frozenset({device_api.DeviceEndpoint.CHALLENGE, device_api.DeviceEndpoint.SESSION})


def body_size_bytes_max(path: str) -> int:
    """The longest body that is taken at *path*."""
    return IDENTITY_REPORT_SIZE_BYTES_MAX if path == device_api.REPORTS_PATH else _BODY_SIZE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class ServedImage:
    """What an answer means for the upgrade once its bytes have gone out."""

    token: str
    sha256: str
    reaches_end: bool
    """The last byte of the image is in the answer."""

    def note(self, services: Services, now: datetime, *, is_complete: bool) -> None:
        """All bytes of the answer have gone out, or only a part of them.

        Raises:
            LoginError: the unit's session has ended meanwhile.
            StorageUnavailableError: not now.
        """
        services.device.image_served(self.token, self.sha256, now, to_its_end=self.reaches_end and is_complete)


def respond(request: HttpRequest, services: Services, now: datetime, address: str = "") -> HttpResponse:
    """Answer one request of a unit that has the whole answer at once, as in a simulation."""
    response = answer(request, services, now, address)
    served = served_image(request, response)
    if served is not None:
        served.note(services, now, is_complete=True)
    return response


def served_image(request: HttpRequest, response: HttpResponse) -> ServedImage | None:
    """What is to be noted when *response* has gone out; None for an answer that holds no bytes of an image."""
    if response.status not in {200, 206}:
        return None
    route = device_api.route(request.method, request.path)
    if route.endpoint is not device_api.DeviceEndpoint.IMAGE:
        return None
    # "bytes 100-199/200"
    last, _, size = response.headers.get("Content-Range", "").rpartition("-")[2].partition("/")
    reaches_end = response.status == 200 or int(last) == int(size) - 1
    return ServedImage(device_api.bearer_token(request) or "", route.sha256.hex(), reaches_end)


def answer(request: HttpRequest, services: Services, now: datetime, address: str = "") -> HttpResponse:
    """Answer one request of a unit from *address*. Never raises for what the request holds.

    What `served_image` says is to be noted by whoever sends the answer.
    """
    try:
        return _respond(request, services, now, address)
    except LoginError as refusal:
        return device_api.error_response(device_api.STATUS_UNAUTHORIZED, refusal.code, str(refusal))
    except ConflictError as refusal:
        return device_api.error_response(device_api.STATUS_CONFLICT, refusal.code, str(refusal))
    except RateLimitedError as refusal:
        return device_api.error_response(
            device_api.STATUS_TOO_MANY_REQUESTS, refusal.code, str(refusal), retry_after_s=refusal.retry_after_s
        )
    except StorageUnavailableError as refusal:
        return device_api.error_response(
            device_api.STATUS_UNAVAILABLE, refusal.code, str(refusal), retry_after_s=refusal.retry_after_s
        )
    except RemoteProtocolError as error:
        return device_api.error_response(400, "bad-request", str(error))


def refuse_unread(request: HttpRequest, services: Services, now: datetime) -> HttpResponse | None:
    """The answer to a request whose body need not be read: no such path, or no session; None if it has to be read."""
    try:
        route = device_api.route(request.method, request.path)
        if route.endpoint not in _WITHOUT_SESSION:
            services.device.check_session(device_api.bearer_token(request) or "", now)
    except RemoteProtocolError as error:
        return device_api.error_response(404, "no-such-path", str(error))
    except LoginError as refusal:
        return device_api.error_response(device_api.STATUS_UNAUTHORIZED, refusal.code, str(refusal))
    return None


def _respond(request: HttpRequest, services: Services, now: datetime, address: str) -> HttpResponse:
    largest = body_size_bytes_max(request.path)
    if len(request.body) > largest:
        return device_api.error_response(413, "too-large", f"the request body is larger than {largest} bytes")
    try:
        route = device_api.route(request.method, request.path)
    except RemoteProtocolError as error:
        return device_api.error_response(404, "no-such-path", str(error))
    device = services.device
    if route.endpoint is device_api.DeviceEndpoint.CHALLENGE:
        issued = device.challenge(device_api.parse_challenge_request(request.body), now, address)
        return device_api.challenge_response(issued.challenge, int(issued.expires_at.timestamp()))
    if route.endpoint is device_api.DeviceEndpoint.SESSION:
        token, expires_at = device.open_session(device_api.parse_session_request(request.body), now, address)
        return device_api.session_response(token, int(expires_at.timestamp()))
    token = device_api.bearer_token(request) or ""
    if route.endpoint is device_api.DeviceEndpoint.ORDER:
        return device_api.order_response(device.order(token, now))
    if route.endpoint is device_api.DeviceEndpoint.REFUSAL:
        refusal = device_api.parse_refusal_request(request.body)
        return device_api.order_response(device.refuse_order(token, refusal, now))
    if route.endpoint is device_api.DeviceEndpoint.REPORT:
        return device_api.receipt_response(services.upgrades.deliver(device.vin_of(token, now), request.body, now))
    if route.endpoint is device_api.DeviceEndpoint.MANIFEST:
        return device_api.manifest_response(device.manifest(token, route.sha256.hex(), now))
    if route.endpoint is device_api.DeviceEndpoint.IMAGE:
        data = device.image(token, route.sha256.hex(), now)
        return device_api.image_response(request, sha256=route.sha256, data=data)
    confirmation = device_api.parse_confirm_request(request.body)
    device.confirm(token, route.order_id, confirmation.decision, confirmation.reason, now)
    return device_api.confirmed_response(route.order_id, confirmation.decision)
