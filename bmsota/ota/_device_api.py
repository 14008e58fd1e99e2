"""The device HTTP API: the messages between a unit and the platform, both ends.

Everything here is a pure function: the client half makes requests and reads answers, the server half reads requests and
makes answers; who sends them is not known here. Bodies are plain CBOR maps, `application/cbor`; signed documents travel as
they are, `application/cose`. Times (`expires_s`) are seconds since the Unix epoch, UTC::

    POST /device/v1/challenge             {"hwid"}                            200 {"challenge", "expires_s"}
    POST /device/v1/session               {"layout", "hwid", "challenge",
                                           "origin", "signature"}             200 {"token", "expires_s"}, 401
    GET  /device/v1/order                 Bearer                              200 the order, 204
    GET  /device/v1/manifests/{sha256}    Bearer                              200 the manifest, 404
    POST /device/v1/order/refusal         Bearer, {"order_sha256", "sequence",
                                           "reason"}                          200 another order, 204
    POST /device/v1/orders/{id}/confirm   Bearer, {"decision", "reason"}      200 {"order_id", "decision"}, 409
    POST /device/v1/reports               Bearer, a report of the unit        200 the receipt for it
    GET  /device/v1/images/{sha256}       Bearer, Range, If-Range             200, 206, 416, 404

A refusal carries {"error", "detail"}; 429 and 503 name in Retry-After when to try again.

The signature of a session is the unit's own Ed25519 key over `session_proof`, which holds the origin that the unit talks to.
Whoever stands between a unit and its platform has another origin, so the proof that a unit gives it opens nothing elsewhere.
The request has layout 1; layout 0 had no origin. A unit never falls back to layout 0: it would do so for an attacker too.

Errors: an answer that says no is `TransferError` (`permanent` tells whether asking again can help), one that makes no sense
is `RemoteProtocolError`, as is a request that makes none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature

from bmsota.errors import RemoteProtocolError, TransferError
from bmsota.ota import _cbor
from bmsota.ota._fields import malformed_as_remote_error
from bmsota.ota._http import HttpRequest, HttpResponse
from bmsota.ota._rules import (
    DIGEST_SIZE_BYTES,
    expect,
    expect_hwid,
    expect_integer,
    expect_name,
    expect_octets,
    expect_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


_BASE: Final = "/device/v1"
REPORTS_PATH: Final = f"{_BASE}/reports"
_CBOR: Final = "application/cbor"
_COSE: Final = "application/cose"
_OCTETS: Final = "application/octet-stream"

STATUS_OK: Final = 200
STATUS_UNAUTHORIZED: Final = 401
STATUS_NOT_FOUND: Final = 404
STATUS_CONFLICT: Final = 409
STATUS_TOO_MANY_REQUESTS: Final = 429
STATUS_UNAVAILABLE: Final = 503

SESSION_LAYOUT: Final = 1

CHALLENGE_SIZE_BYTES: Final = 32
SIGNATURE_SIZE_BYTES: Final = 64

# Our longest message is a refusal with its detail; documents are bounded by their own parsers.
MESSAGE_SIZE_BYTES_MAX: Final = 4096
TOKEN_LENGTH_MAX: Final = 256
TEXT_LENGTH_MAX: Final = 256
# A host name has at most 253 characters (RFC 1035, section 2.3.4), of which 8 and 6 more are scheme and port.
ORIGIN_LENGTH_MAX: Final = 270


class Decision(StrEnum):
    """What the unit decides about an order."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class DeviceEndpoint(StrEnum):
    """Where a request goes."""

    CHALLENGE = "challenge"
    SESSION = "session"
    ORDER = "order"
    REFUSAL = "refusal"
    MANIFEST = "manifest"
    CONFIRM = "confirm"
    IMAGE = "image"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Route:
    """A request's endpoint and what its path names."""

    endpoint: DeviceEndpoint
    order_id: str = ""
    sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A unit's answer to a challenge."""

    hwid: str
    challenge: bytes
    origin: str
    """Where the unit believes it is talking to, as `origin_of` writes it; "" in layout 0, which did not say."""
    signature: bytes


@dataclass(frozen=True, slots=True)
class OrderRefusal:
    """What a unit says of an order that it does not believe. It has no order id: nothing in the document can be believed."""

    order_sha256: bytes
    """Of the whole document, as it came."""
    sequence: int
    """The highest sequence of an order that the unit has accepted; the next one has to be above it."""
    reason: str
    """Beginning with the name of the attack."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A unit's decision about its order."""

    decision: Decision
    reason: str


# -- both halves -------------------------------------------------------------------------------------------------------


def origin_of(url: str) -> str:
    """scheme://host:port of *url*, always written the same way: lower case, the port never left out (RFC 6454, section 6).

    Raises:
        ValueError: *url* has no http or https origin.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    port = parts.port or _PORTS.get(scheme)
    if port is None or scheme not in _PORTS or not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise ValueError(f"expected an http or https URL, got {url[:120]!r}")
    host = parts.hostname.lower().removesuffix(".")
    origin = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    if len(origin) > ORIGIN_LENGTH_MAX:
        raise ValueError(f"expected an origin of at most {ORIGIN_LENGTH_MAX} characters, got {len(origin)}")
    return origin


def session_proof(hwid: str, challenge: bytes, origin: str) -> bytes:
    """What a unit signs to open a session at *origin*; layout 0 if *origin* is "".

    The prefix keeps the signature from being worth anything elsewhere; the zero byte, which is in no HWID, keeps HWID and
    origin apart.
    """
    if not origin:
        return b"bmsota-session-v1" + challenge + hwid.encode()
    return b"bmsota-session-v2" + challenge + hwid.encode() + b"\0" + origin.encode()


def image_path(sha256: bytes) -> str:
    """The path of an image below the base URL."""
    return f"{_BASE}/images/{sha256.hex()}"


def image_etag(sha256: bytes) -> str:
    """The entity tag of an image: strong, because it is the digest."""
    return f'"{sha256.hex()}"'


# -- the unit's half ---------------------------------------------------------------------------------------------------


def challenge_request(hwid: str) -> HttpRequest:
    """Ask for a challenge."""
    expect_hwid("hwid", hwid)
    return _post(f"{_BASE}/challenge", {"hwid": hwid})


def parse_challenge(status: int, body: bytes) -> bytes:
    """The challenge to sign. Its expiry is the platform's concern: a late answer is refused and begun anew."""
    fields = _parse_answer("challenge", status, body, ("challenge", "expires_s"))
    with malformed_as_remote_error("challenge"):
        expect_octets("challenge", fields["challenge"], size_bytes=CHALLENGE_SIZE_BYTES)
        expect_integer("expires_s", fields["expires_s"])
    return bytes(fields["challenge"])


def session_request(hwid: str, challenge: bytes, origin: str, signature: bytes) -> HttpRequest:
    """Answer the challenge with the unit's signature over `session_proof`."""
    expect_hwid("hwid", hwid)
    expect_octets("challenge", challenge, size_bytes=CHALLENGE_SIZE_BYTES)
    expect_text("origin", origin, length_max=ORIGIN_LENGTH_MAX, length_min=1)
    expect_octets("signature", signature, size_bytes=SIGNATURE_SIZE_BYTES)
    return _post(
        f"{_BASE}/session",
        {"layout": SESSION_LAYOUT, "hwid": hwid, "challenge": challenge, "origin": origin, "signature": signature},
    )


def parse_session(status: int, body: bytes) -> str:
    """The token of the session. When it has run out, the next answer is 401."""
    fields = _parse_answer("session", status, body, ("token", "expires_s"))
    with malformed_as_remote_error("session"):
        expect_integer("expires_s", fields["expires_s"])
        token = fields["token"]
        expect(
            isinstance(token, str) and _TOKEN.fullmatch(token) is not None, "token", "a bearer token", "another value"
        )
    return str(token)


def authorised(request: HttpRequest, token: str) -> HttpRequest:
    """*request* with the session's token, unless a redirect leads it to another origin: those never see the token."""
    if request.origin:
        return request
    return replace(request, headers={**request.headers, "Authorization": f"Bearer {token}"})


def order_request(token: str) -> HttpRequest:
    """Ask for the unit's order."""
    return authorised(_get(f"{_BASE}/order"), token)


def refusal_request(token: str, *, order_sha256: bytes, sequence: int, reason: str) -> HttpRequest:
    """Tell the platform that the order it gave is not believed. The answer is read as that to `order_request`."""
    expect_octets("order_sha256", order_sha256, size_bytes=DIGEST_SIZE_BYTES)
    expect_integer("sequence", sequence)
    expect_text("reason", reason, length_max=TEXT_LENGTH_MAX)
    fields = {"order_sha256": order_sha256, "sequence": sequence, "reason": reason}
    return authorised(_post(f"{_BASE}/order/refusal", fields), token)


def report_request(token: str, document: bytes) -> HttpRequest:
    """Deliver a signed report; the answer is the platform's signed receipt for it (`parse_receipt`)."""
    headers = {"Content-Type": _COSE, "Accept": _COSE}
    return authorised(HttpRequest("POST", REPORTS_PATH, headers, document), token)


def parse_receipt(status: int, body: bytes) -> bytes | None:
    """The receipt, not looked into; None when there is none, as from a platform that takes no reports here.

    Raises:
        TransferError: the session is over, or the platform is busy (401, 429, 503): deliver the report again later.
    """
    if status in (STATUS_UNAUTHORIZED, STATUS_TOO_MANY_REQUESTS, STATUS_UNAVAILABLE):
        _refuse_unless_ok("report", status, body)
    return body if status == STATUS_OK else None


def manifest_request(token: str, sha256: bytes) -> HttpRequest:
    """Ask for the manifest with this digest."""
    expect_octets("sha256", sha256, size_bytes=DIGEST_SIZE_BYTES)
    return authorised(_get(f"{_BASE}/manifests/{sha256.hex()}"), token)


def parse_document(status: int, body: bytes) -> bytes | None:
    """The signed document, not looked into; None when there is none (204, 404)."""
    if status in (204, 404):
        return None
    _refuse_unless_ok("document", status, body)
    if not body:
        raise RemoteProtocolError("document: the response is empty")
    return body


def confirm_request(token: str, order_id: str, *, decision: Decision | str, reason: str = "") -> HttpRequest:
    """Tell the platform what the unit decided about its order."""
    expect_name("order_id", order_id)
    expect_text("reason", reason, length_max=TEXT_LENGTH_MAX)
    request = _post(f"{_BASE}/orders/{order_id}/confirm", {"decision": Decision(decision).value, "reason": reason})
    return authorised(request, token)


def parse_confirmed(status: int, body: bytes, *, order_id: str, decision: Decision | str) -> None:
    """Return when the platform has taken this decision about this order. 409: the order was cancelled meanwhile.

    Only the platform's own document says so: a status alone may be a portal's or a proxy's.

    Raises:
        TransferError: it was refused.
        RemoteProtocolError: the answer makes no sense, or is about another order or decision.
    """
    fields = _parse_answer("confirm", status, body, ("order_id", "decision"))
    expected, received = (order_id, str(decision)), (fields["order_id"], fields["decision"])
    if received != expected:
        raise RemoteProtocolError(f"confirm: expected {' '.join(expected)}, got {str(received)[:120]}")


def parse_refusal(body: bytes) -> tuple[str, str] | None:
    """Word and detail of an `error_response`; None if *body* is no such document, and so not the platform's own word."""
    try:
        fields = _parse_fields("refusal", body, ("error", "detail"))
    except RemoteProtocolError:
        return None
    return str(fields["error"])[:40], str(fields["detail"])[:120]


# -- the platform's half -----------------------------------------------------------------------------------------------


def route(method: str, path: str) -> Route:
    """Which endpoint a request is for.

    Raises:
        RemoteProtocolError: there is no such path, or not with this method.
    """
    for pattern_method, pattern, endpoint in _ROUTES:
        match = pattern.fullmatch(path)
        if match is not None and method == pattern_method:
            named = match.groupdict()
            return Route(endpoint, order_id=named.get("order_id", ""), sha256=bytes.fromhex(named.get("sha256", "")))
    raise RemoteProtocolError(f"device API: no such endpoint: {method[:8]} {path[:120]}")


def bearer_token(request: HttpRequest) -> str | None:
    """The session token a request carries, or None."""
    scheme, _, token = (request.header("Authorization") or "").partition(" ")
    return token if scheme.lower() == "bearer" and _TOKEN.fullmatch(token) else None


def parse_challenge_request(body: bytes) -> str:
    """The hardware id that asks."""
    fields = _parse_fields("challenge", body, ("hwid",))
    with malformed_as_remote_error("challenge"):
        expect_hwid("hwid", fields["hwid"])
    return str(fields["hwid"])


def challenge_response(challenge: bytes, expires_s: int) -> HttpResponse:
    """Answer with a fresh random challenge."""
    expect_octets("challenge", challenge, size_bytes=CHALLENGE_SIZE_BYTES)
    return _message(200, {"challenge": challenge, "expires_s": expires_s})


def parse_session_request(body: bytes) -> SessionRequest:
    """The unit's answer to the challenge; check it with `session_proof_is_valid`.

    Fields of a later writer that are not known here are left aside; a later layout is refused.
    """
    fields = _parse_map("session", body)
    with malformed_as_remote_error("session"):
        layout = fields.get("layout", 0)
        expect_integer("layout", layout)
        if layout > SESSION_LAYOUT:
            raise RemoteProtocolError(f"session: expected layout 0 to {SESSION_LAYOUT}, got {layout}: newer-document")
        names = ("hwid", "challenge", "signature") if layout == 0 else ("hwid", "challenge", "origin", "signature")
        if any(name not in fields for name in names):
            raise RemoteProtocolError(f"session: not a map with {', '.join(names)}")
        expect_hwid("hwid", fields["hwid"])
        expect_octets("challenge", fields["challenge"], size_bytes=CHALLENGE_SIZE_BYTES)
        expect_octets("signature", fields["signature"], size_bytes=SIGNATURE_SIZE_BYTES)
        origin = fields["origin"] if layout else ""
        if layout:
            expect_text("origin", origin, length_max=ORIGIN_LENGTH_MAX, length_min=1)
    return SessionRequest(
        hwid=fields["hwid"], challenge=bytes(fields["challenge"]), origin=origin, signature=bytes(fields["signature"])
    )


def session_proof_is_valid(request: SessionRequest, public_key: Ed25519PublicKey) -> bool:
    """Whether the unit with this key signed this challenge for its hardware id and this origin.

    Whether the origin is one of the platform's own, the caller has to check.
    """
    try:
        public_key.verify(request.signature, session_proof(request.hwid, request.challenge, request.origin))
    except InvalidSignature:
        return False
    return True


def session_response(token: str, expires_s: int) -> HttpResponse:
    """Open the session."""
    expect(_TOKEN.fullmatch(token) is not None, "token", "a bearer token", "another value")
    return _message(200, {"token": token, "expires_s": expires_s})


def order_response(document: bytes | None) -> HttpResponse:
    """The unit's order, or 204: there is nothing to do."""
    return _document(document) if document is not None else HttpResponse(204)


def parse_refusal_request(body: bytes) -> OrderRefusal:
    """What the unit does not believe, and why."""
    fields = _parse_fields("refusal", body, ("order_sha256", "sequence", "reason"))
    with malformed_as_remote_error("refusal"):
        expect_octets("order_sha256", fields["order_sha256"], size_bytes=DIGEST_SIZE_BYTES)
        expect_integer("sequence", fields["sequence"])
        expect_text("reason", fields["reason"], length_max=TEXT_LENGTH_MAX)
    return OrderRefusal(fields["order_sha256"], fields["sequence"], fields["reason"])


def receipt_response(receipt: bytes) -> HttpResponse:
    """The signed receipt for a report."""
    return _document(receipt)


def manifest_response(document: bytes | None) -> HttpResponse:
    """The manifest, or 404."""
    return _document(document) if document is not None else error_response(404, "missing")


def parse_confirm_request(body: bytes) -> Confirmation:
    """The unit's decision."""
    fields = _parse_fields("confirm", body, ("decision", "reason"))
    with malformed_as_remote_error("confirm"):
        expect(fields["decision"] in tuple(Decision), "decision", "accepted or rejected", repr(fields["decision"]))
        expect_text("reason", fields["reason"], length_max=TEXT_LENGTH_MAX)
    return Confirmation(Decision(fields["decision"]), fields["reason"])


def confirmed_response(order_id: str, decision: Decision) -> HttpResponse:
    """The decision was taken."""
    expect_name("order_id", order_id)
    return _message(200, {"order_id": order_id, "decision": decision.value})


def error_response(status: int, error: str, detail: str = "", *, retry_after_s: int | None = None) -> HttpResponse:
    """A refusal: *error* is a word for programs, *detail* a sentence for people; neither may hold a secret.

    *retry_after_s* says when to try again (RFC 9110, section 10.2.3).
    """
    refusal = _message(status, {"error": error[:TEXT_LENGTH_MAX], "detail": detail[:TEXT_LENGTH_MAX]})
    if retry_after_s is None:
        return refusal
    return replace(refusal, headers={**refusal.headers, "Retry-After": str(retry_after_s)})


def image_response(request: HttpRequest, *, sha256: bytes, data: bytes | None) -> HttpResponse:
    """Answer a request for image bytes with the whole, a range, or a refusal (RFC 9110, sections 13.1.5 and 14).

    A `Range` we do not understand, several ranges, and one whose `If-Range` names other bytes are answered with the whole,
    as the RFC asks.
    """
    if data is None:
        return error_response(404, "missing")
    headers = {
        "Content-Type": _OCTETS,
        "ETag": image_etag(sha256),
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-transform",
    }
    if_range = request.header("If-Range")
    match = _RANGE.fullmatch(request.header("Range") or "")
    if match is None or (if_range is not None and if_range != headers["ETag"]):
        return _octets(200, headers, data)
    first_text, last_text = match.groups()
    if first_text:
        first = int(first_text)
        last = min(int(last_text), len(data) - 1) if last_text else len(data) - 1
        if last_text and int(last_text) < first:
            return _octets(200, headers, data)
    elif last_text:
        first, last = max(len(data) - int(last_text), 0), len(data) - 1
    else:
        return _octets(200, headers, data)
    if first >= len(data):
        return HttpResponse(416, {**headers, "Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
    return _octets(206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1])


# -- private -----------------------------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(rf"[A-Za-z0-9._~+/=-]{{1,{TOKEN_LENGTH_MAX}}}", re.ASCII)
# 19 digits are beyond any file; a longer number is no number to us.
_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
_PORTS: Final = {"http": 80, "https": 443}
# Names and addresses as they stand in URLs; user names, spaces and the like are no part of a host.
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+", re.ASCII)
_SHA256_PATTERN: Final = r"(?P<sha256>[0-9a-f]{64})"
_ROUTES: Final = tuple(
    (method, re.compile(_BASE + pattern, re.ASCII), endpoint)
    for method, pattern, endpoint in (
        ("POST", "/challenge", DeviceEndpoint.CHALLENGE),
        ("POST", "/session", DeviceEndpoint.SESSION),
        ("GET", "/order", DeviceEndpoint.ORDER),
        ("POST", "/order/refusal", DeviceEndpoint.REFUSAL),
        ("POST", "/reports", DeviceEndpoint.REPORT),
        ("GET", f"/manifests/{_SHA256_PATTERN}", DeviceEndpoint.MANIFEST),
        ("POST", r"/orders/(?P<order_id>[A-Za-z0-9_][A-Za-z0-9._+-]{0,63})/confirm", DeviceEndpoint.CONFIRM),
        ("GET", f"/images/{_SHA256_PATTERN}", DeviceEndpoint.IMAGE),
    )
)


def _post(path: str, fields: dict[str, Any]) -> HttpRequest:
    headers = {"Content-Type": _CBOR, "Accept": _CBOR, "Accept-Encoding": "identity"}
    return HttpRequest("POST", path, headers, _cbor.encode(fields))


def _get(path: str) -> HttpRequest:
    return HttpRequest("GET", path, {"Accept": _COSE, "Accept-Encoding": "identity"})


def _message(status: int, fields: dict[str, Any]) -> HttpResponse:
    return _octets(status, {"Content-Type": _CBOR, "Cache-Control": "no-store"}, _cbor.encode(fields))


def _document(document: bytes) -> HttpResponse:
    return _octets(200, {"Content-Type": _COSE}, document)


def _octets(status: int, headers: Mapping[str, str], body: bytes) -> HttpResponse:
    return HttpResponse(status, {**headers, "Content-Length": str(len(body))}, body)


def _parse_map(where: str, body: bytes) -> dict[str, Any]:
    if len(body) > MESSAGE_SIZE_BYTES_MAX:
        raise RemoteProtocolError(f"{where}: expected at most {MESSAGE_SIZE_BYTES_MAX} bytes, got {len(body)}")
    try:
        value = _cbor.decode(body)
    except _cbor.CborError as error:
        raise RemoteProtocolError(f"{where}: {error}") from error
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"{where}: not a map")
    return value


def _parse_fields(where: str, body: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    value = _parse_map(where, body)
    if set(value) != set(names):
        raise RemoteProtocolError(f"{where}: not a map of exactly {', '.join(names)}")
    return value


def _parse_answer(where: str, status: int, body: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    _refuse_unless_ok(where, status, body)
    return _parse_fields(where, body, names)


def _refuse_unless_ok(where: str, status: int, body: bytes) -> None:
    if status == 200:
        return
    # What the refusal says is for people; if it says nothing readable, the status must do.
    refusal = parse_refusal(body)
    said = "" if refusal is None else f" {refusal[0]}: {refusal[1]}"
    # Asking again is unlikely to turn 404, 409, 410 or 422 into yes; everything else may be a matter of time or of a new
    # session.
    raise TransferError(f"{where}: expected 200, got {status}{said}", permanent=status in (404, 409, 410, 422))
