"""The device API: both ends understand each other, and strangers are refused by our errors."""

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bmsota.errors import LocalProtocolError, RemoteProtocolError, TransferError
from bmsota.ota import HttpRequest, HttpResponse, device_api

SHA = bytes(range(32))
CHALLENGE = bytes(range(100, 132))
ORIGIN = "https://cloud.example:443"


# -- the two ends --------------------------------------------------------------------------------------------------------


def test_a_session_is_opened(world):
    """Challenge, proof, token: each message is understood by the other end."""
    request = device_api.challenge_request("M-0001")
    assert device_api.route(request.method, request.path) == device_api.Route(device_api.DeviceEndpoint.CHALLENGE)
    assert device_api.parse_challenge_request(request.body) == "M-0001"

    answer = device_api.challenge_response(CHALLENGE, 99)
    assert device_api.parse_challenge(answer.status, answer.body) == CHALLENGE

    signature = world.DEVICE_KEY.sign(device_api.session_proof("M-0001", CHALLENGE, ORIGIN))
    request = device_api.session_request("M-0001", CHALLENGE, ORIGIN, signature)
    assert device_api.route(request.method, request.path) == device_api.Route(device_api.DeviceEndpoint.SESSION)
    proof = device_api.parse_session_request(request.body)
    assert (proof.hwid, proof.challenge, proof.origin) == ("M-0001", CHALLENGE, ORIGIN)
    assert device_api.session_proof_is_valid(proof, world.DEVICE_KEY.public_key())

    answer = device_api.session_response("tok.en-1", 99)
    assert device_api.parse_session(answer.status, answer.body) == "tok.en-1"


def test_a_proof_is_worth_nothing_elsewhere(world):
    """Another key, challenge, unit or origin, no origin, and a signature over the challenge alone."""
    public = world.DEVICE_KEY.public_key()
    good = world.DEVICE_KEY.sign(device_api.session_proof("M-0001", CHALLENGE, ORIGIN))
    for hwid, challenge, origin, signature in (
        ("M-0002", CHALLENGE, ORIGIN, good),
        ("M-0001", bytes(32), ORIGIN, good),
        ("M-0001", CHALLENGE, "http://cloud.example:443", good),
        ("M-0001", CHALLENGE, "", good),
        ("M-0001", CHALLENGE, ORIGIN, world.DEVICE_KEY.sign(device_api.session_proof("M-0001", CHALLENGE, ""))),
        ("M-0001", CHALLENGE, ORIGIN, world.THIEF_KEY.sign(device_api.session_proof("M-0001", CHALLENGE, ORIGIN))),
        ("M-0001", CHALLENGE, ORIGIN, world.DEVICE_KEY.sign(CHALLENGE)),
        ("M-0001", CHALLENGE, ORIGIN, bytes(64)),
    ):
        request = device_api.SessionRequest(hwid, challenge, origin, signature)
        assert not device_api.session_proof_is_valid(request, public)


def test_the_proof_byte_by_byte():
    """Layout 1, with the origin, and layout 0, as older units sign it."""
    assert device_api.session_proof("M-0001", CHALLENGE, ORIGIN) == (
        b"bmsota-session-v2" + CHALLENGE + b"M-0001" + b"\0" + b"https://cloud.example:443"
    )
    assert device_api.session_proof("M-0001", CHALLENGE, "") == b"bmsota-session-v1" + CHALLENGE + b"M-0001"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://cloud.example", "https://cloud.example:443"),
        ("HTTPS://Cloud.Example./device?x=1#y", "https://cloud.example:443"),
        ("http://cloud.example:8080/", "http://cloud.example:8080"),
        ("http://cloud.example", "http://cloud.example:80"),
        ("http://user:pass@cloud.example", "http://cloud.example:80"),
        ("http://[2001:DB8::1]:81", "http://[2001:db8::1]:81"),
        ("http://10.0.0.1", "http://10.0.0.1:80"),
    ],
)
def test_an_origin_is_always_written_the_same_way(url, origin):
    assert device_api.origin_of(url) == origin
    assert device_api.origin_of(origin) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cloud.example",
        "ftp://cloud.example",
        "http://",
        "http://a b",
        "http://x:99999",
        "http://[::1",
        "http://x:y",
        "http://" + "a" * 300,
        "file:///etc/passwd",
    ],
)
def test_what_has_no_origin_is_refused(url):
    with pytest.raises(ValueError):
        device_api.origin_of(url)


def test_a_session_request_of_another_version():
    """Layout 0 has no origin; later fields are left aside; a later layout is refused by name."""
    old = {"hwid": "M-0001", "challenge": CHALLENGE, "signature": bytes(64)}
    assert device_api.parse_session_request(cbor2.dumps(old, canonical=True)).origin == ""
    new = old | {"layout": 1, "origin": ORIGIN, "later": 1}
    assert device_api.parse_session_request(cbor2.dumps(new, canonical=True)).origin == ORIGIN
    # In layout 0 the origin was not signed, so what stands there is nobody's word.
    assert device_api.parse_session_request(cbor2.dumps(old | {"origin": ORIGIN}, canonical=True)).origin == ""
    with pytest.raises(RemoteProtocolError, match="newer-document"):
        device_api.parse_session_request(cbor2.dumps(new | {"layout": 2}, canonical=True))
    for wrong in (old | {"layout": 1}, new | {"origin": ""}, new | {"origin": 7}, new | {"layout": -1}, [1]):
        with pytest.raises(RemoteProtocolError):
            device_api.parse_session_request(cbor2.dumps(wrong, canonical=True))


def test_a_refusal_says_when_to_try_again():
    answer = device_api.error_response(429, "too-many-challenges", "wait", retry_after_s=7)
    assert (answer.status, answer.header("Retry-After")) == (429, "7")
    assert device_api.error_response(401, "x").header("Retry-After") is None


def test_documents_travel_as_they_are(world):
    """Order and manifest, and the answers that there is none."""
    request = device_api.order_request("tok")
    assert device_api.route(request.method, request.path) == device_api.Route(device_api.DeviceEndpoint.ORDER)
    assert device_api.bearer_token(request) == "tok"
    answer = device_api.order_response(world.order_data)
    assert (answer.status, answer.header("content-type")) == (200, "application/cose")
    assert device_api.parse_document(answer.status, answer.body) == world.order_data
    answer = device_api.order_response(None)
    assert (answer.status, device_api.parse_document(answer.status, answer.body)) == (204, None)

    request = device_api.manifest_request("tok", SHA)
    assert device_api.route(request.method, request.path) == device_api.Route(
        device_api.DeviceEndpoint.MANIFEST, sha256=SHA
    )
    answer = device_api.manifest_response(world.manifest_data)
    assert device_api.parse_document(answer.status, answer.body) == world.manifest_data
    answer = device_api.manifest_response(None)
    assert (answer.status, device_api.parse_document(answer.status, answer.body)) == (404, None)


@pytest.mark.parametrize("decision", device_api.Decision)
def test_a_decision_travels(decision):
    """Accepted or rejected, with the reason."""
    request = device_api.confirm_request("tok", "o-17", decision=decision, reason="rollback: 充电中")
    assert device_api.route(request.method, request.path) == device_api.Route(
        device_api.DeviceEndpoint.CONFIRM, order_id="o-17"
    )
    assert device_api.bearer_token(request) == "tok"
    assert device_api.parse_confirm_request(request.body) == device_api.Confirmation(decision, "rollback: 充电中")
    answer = device_api.confirmed_response("o-17", decision)
    device_api.parse_confirmed(answer.status, answer.body, order_id="o-17", decision=decision)
    with pytest.raises(
        RemoteProtocolError, match=rf"expected o-18 {decision.value}, got \('o-17', '{decision.value}'\)"
    ):
        device_api.parse_confirmed(answer.status, answer.body, order_id="o-18", decision=decision)
    with pytest.raises(TransferError, match="confirm: expected 200, got 204"):
        device_api.parse_confirmed(204, b"", order_id="o-17", decision=decision)


def test_a_refused_order_travels():
    """By its digest: nothing in it can be believed."""
    request = device_api.refusal_request("tok", order_sha256=SHA, sequence=4, reason="replay: expected …")
    assert device_api.route(request.method, request.path) == device_api.Route(device_api.DeviceEndpoint.REFUSAL)
    assert device_api.bearer_token(request) == "tok"
    assert device_api.parse_refusal_request(request.body) == device_api.OrderRefusal(SHA, 4, "replay: expected …")


def test_a_report_and_its_receipt_travel():
    """Anything but 200 is no receipt; but a session that is over, and a platform that is busy, are asked again."""
    request = device_api.report_request("tok", b"signed")
    assert device_api.route(request.method, request.path) == device_api.Route(device_api.DeviceEndpoint.REPORT)
    assert (device_api.bearer_token(request), request.body) == ("tok", b"signed")
    answer = device_api.receipt_response(b"receipt")
    assert device_api.parse_receipt(answer.status, answer.body) == b"receipt"
    for status in (204, 400, 404, 405, 413, 500):
        assert device_api.parse_receipt(status, b"<html>") is None
    for status in (401, 429, 503):
        with pytest.raises(TransferError, match=f"report: expected 200, got {status}") as caught:
            device_api.parse_receipt(status, b"<html>")
        assert not caught.value.permanent


@pytest.mark.parametrize(
    ("status", "permanent"),
    [(401, False), (403, False), (404, True), (409, True), (410, True), (429, False), (500, False), (503, False)],
)
def test_a_refusal_is_a_transfer_error_with_its_words(status, permanent):
    """Both ends know the words; whether asking again can help is said."""
    answer = device_api.error_response(status, "cancelled", "the task was cancelled")
    with pytest.raises(TransferError, match=f"got {status} cancelled: the task was cancelled") as caught:
        device_api.parse_confirmed(answer.status, answer.body, order_id="o-17", decision="accepted")
    assert device_api.parse_refusal(answer.body) == ("cancelled", "the task was cancelled")
    assert device_api.parse_refusal(b"<html>") is None
    assert caught.value.permanent is permanent
    # A proxy's page instead of our words.
    with pytest.raises(TransferError, match=f"expected 200, got {status}$"):
        device_api.parse_session(status, b"<html>")


def test_a_token_is_not_carried_to_another_origin():
    """After a redirect the other server gets no token."""
    plain = HttpRequest("GET", "/x", {"Range": "bytes=0-1"})
    assert device_api.authorised(plain, "tok").headers == {"Range": "bytes=0-1", "Authorization": "Bearer tok"}
    away = HttpRequest("GET", "/x", origin="https://cdn.example")
    assert device_api.authorised(away, "tok") is away


@pytest.mark.parametrize(
    "text", ["", "tok", "Basic dXNlcg==", "Bearer", "Bearer ", "Bearer a b", "Bearer " + "x" * 257, "Bearer ä"]
)
def test_other_authorisations_are_no_token(text):
    """None, another scheme, a token that cannot be one."""
    assert device_api.bearer_token(HttpRequest("GET", "/", {"authorization": text})) is None
    assert device_api.bearer_token(HttpRequest("GET", "/")) is None
    assert device_api.bearer_token(HttpRequest("GET", "/", {"AUTHORIZATION": "bearer tok"})) == "tok"


# -- strangers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/device/v1/challenge"),
        ("POST", "/device/v1/order"),
        ("GET", "/device/v1/order/"),
        ("GET", "/device/v1/order?x"),
        ("GET", "/device/v2/order"),
        ("GET", f"/device/v1/images/{SHA.hex().upper()}"),
        ("GET", f"/device/v1/images/{SHA.hex()}0"),
        ("GET", "/device/v1/images/../../etc/passwd"),
        ("POST", "/device/v1/orders/../confirm"),
        ("POST", "/device/v1/orders/a/b/confirm"),
        ("POST", "/device/v1/orders/%2e%2e/confirm"),
        ("POST", f"/device/v1/orders/{'x' * 65}/confirm"),
        ("GET", "/device/v1/order\n"),
    ],
)
def test_other_paths_lead_nowhere(method, path):
    """No traversal, no second spelling."""
    with pytest.raises(RemoteProtocolError, match="no such endpoint"):
        device_api.route(method, path)


REQUESTS = {
    "challenge": (device_api.parse_challenge_request, {"hwid": "M-1"}),
    "session": (
        device_api.parse_session_request,
        {"layout": 1, "hwid": "M-1", "challenge": CHALLENGE, "origin": ORIGIN, "signature": bytes(64)},
    ),
    "confirm": (device_api.parse_confirm_request, {"decision": "accepted", "reason": ""}),
    "refusal": (device_api.parse_refusal_request, {"order_sha256": SHA, "sequence": 1, "reason": ""}),
}
ANSWERS = {
    "challenge": (device_api.parse_challenge, {"challenge": CHALLENGE, "expires_s": 1}),
    "session": (device_api.parse_session, {"token": "t", "expires_s": 1}),
}
WRONG_VALUES = [None, True, -1, 2**63, "", "x" * 300, "a b\n", b"", bytes(31), [], {}, "maybe"]


def test_a_request_with_a_wrong_value_is_refused():
    """Any field of any request, any wrong value: `RemoteProtocolError`, or the value was in order after all."""
    for parse, good in REQUESTS.values():
        parse(cbor2.dumps(good, canonical=True))
        for name in good:
            for value in WRONG_VALUES:
                try:
                    parse(cbor2.dumps({**good, name: value}, canonical=True))
                except RemoteProtocolError:
                    continue
                # An origin is compared with the platform's own; any text may be compared.
                assert (name, value) in {("reason", ""), ("reason", "maybe"), ("hwid", "maybe"), ("origin", "maybe")}


def test_an_answer_with_a_wrong_value_is_refused():
    """As a request."""
    for parse, good in ANSWERS.values():
        parse(200, cbor2.dumps(good, canonical=True))
        for name in good:
            for value in WRONG_VALUES:
                try:
                    parse(200, cbor2.dumps({**good, name: value}, canonical=True))
                except RemoteProtocolError:
                    continue
                assert (name, value) == ("token", "maybe")


PARSERS = [parse for parse, _ in REQUESTS.values()]
ANSWER_PARSERS = [parse for parse, _ in ANSWERS.values()]


@given(st.binary(max_size=120))
@example(b"\xa0")
@example(b"\x80")
@example(bytes(5000))
def test_arbitrary_bytes_are_refused(body):
    """`RemoteProtocolError` and nothing else."""
    for parse in PARSERS:
        with pytest.raises(RemoteProtocolError):
            parse(body)
    for parse in ANSWER_PARSERS:
        with pytest.raises(RemoteProtocolError):
            parse(200, body)


def test_an_empty_document_is_no_document():
    """200 without a body is a fault of the server."""
    with pytest.raises(RemoteProtocolError, match="the response is empty"):
        device_api.parse_document(200, b"")
    with pytest.raises(TransferError):
        device_api.parse_document(500, b"")


def test_our_own_mistakes_are_ours():
    """What cannot be sent is not built."""
    for call in (
        lambda: device_api.challenge_request(""),
        lambda: device_api.session_request("M", b"", ORIGIN, bytes(64)),
        lambda: device_api.session_request("M", CHALLENGE, ORIGIN, b""),
        lambda: device_api.session_request("M", CHALLENGE, "", bytes(64)),
        lambda: device_api.manifest_request("t", b""),
        lambda: device_api.confirm_request("t", "a/b", decision="accepted"),
        lambda: device_api.refusal_request("t", order_sha256=b"", sequence=1, reason=""),
        lambda: device_api.refusal_request("t", order_sha256=SHA, sequence=-1, reason=""),
        lambda: device_api.confirm_request("t", "o", decision="accepted", reason="x" * 257),
        lambda: device_api.challenge_response(b"", 1),
        lambda: device_api.session_response("a b", 1),
    ):
        with pytest.raises(LocalProtocolError, match="expected"):
            call()


# -- images --------------------------------------------------------------------------------------------------------------

DATA = bytes(range(256)) * 4


def image(headers=None, data=DATA):
    request = HttpRequest("GET", device_api.image_path(SHA), headers or {})
    assert device_api.route(request.method, request.path) == device_api.Route(
        device_api.DeviceEndpoint.IMAGE, sha256=SHA
    )
    return device_api.image_response(request, sha256=SHA, data=data)


def test_a_whole_image():
    """With its tag, length and the offer of ranges."""
    answer = image()
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.header("etag") == f'"{SHA.hex()}"'
    assert answer.header("content-length") == "1024"
    assert answer.header("accept-ranges") == "bytes"


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-1023", 0, 1023),
        ("bytes=100-199", 100, 199),
        ("bytes=1000-", 1000, 1023),
        ("bytes=1000-99999", 1000, 1023),
        ("bytes=-24", 1000, 1023),
        ("bytes=-9999", 0, 1023),
    ],
)
def test_a_range_of_an_image(header, first, last):
    """RFC 9110, section 14.1.2, with and without the right If-Range."""
    for more in ({}, {"if-range": device_api.image_etag(SHA)}):
        answer = image({"range": header, **more})
        assert (answer.status, answer.body) == (206, DATA[first : last + 1])
        assert answer.header("Content-Range") == f"bytes {first}-{last}/1024"
        assert answer.header("Content-Length") == str(last - first + 1)


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=5-4"},
        {"Range": "bytes=-"},
        {"Range": "bytes=0-1,5-6"},
        {"Range": "items=0-1"},
        {"Range": "bytes=0x1-2"},
        {"Range": "bytes=" + "9" * 5000 + "-"},
        {"Range": "bytes=0-1", "If-Range": '"other"'},
        {"Range": "bytes=0-1", "If-Range": f'W/"{SHA.hex()}"'},
        {"Range": "bytes=0-1", "If-Range": "Mon, 21 Sep 2026 14:13:30 GMT"},
    ],
    ids=lambda headers: str(headers)[:60],
)
def test_a_range_that_is_not_answered_as_one(headers):
    """The whole, as RFC 9110 asks: what is not understood, and what is bound to other bytes."""
    answer = image(headers)
    assert (answer.status, answer.body) == (200, DATA)


def test_a_range_behind_the_end():
    """416, with the size."""
    for header in ("bytes=1024-", "bytes=5000-6000", "bytes=-0"):
        answer = image({"Range": header})
        assert (answer.status, answer.header("Content-Range"), answer.body) == (416, "bytes */1024", b"")


def test_an_image_the_platform_does_not_have():
    """404."""
    assert image(data=None).status == 404


@given(st.text(max_size=30), st.text(max_size=30) | st.none())
def test_no_range_header_breaks_the_server(text, if_range):
    """Any text."""
    headers = {"Range": text} if if_range is None else {"Range": text, "If-Range": if_range}
    assert image(headers).status in {200, 206, 416}


# -- values --------------------------------------------------------------------------------------------------------------


def test_header_names_have_no_case():
    """RFC 9110, section 5.1."""
    for message in (HttpRequest("GET", "/", {"ETag": "1"}), HttpResponse(200, {"eTAG": "1"})):
        assert message.header("Etag") == "1"
        assert message.header("x") is None
    assert HttpRequest("GET", "/").headers == {}
