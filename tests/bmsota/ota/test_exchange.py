"""The updater against a device API that misbehaves, in literal time: every exchange, documents and images alike.

`Hostile` drives one updater by itself: it answers each request honestly unless a fault says otherwise, and lets time pass
when nobody speaks. The faults N1 to N20, S2, S3, S28 and S33 are those of docs/trust.md, "Faults of the network".
"""

import gzip
from itertools import pairwise

import pytest
from updater_rig import URL, Device

from bmsota.errors import ConfigurationError
from bmsota.ota import DownloadOptions, StartHttp, Updater, UpdaterState, device_api, sign_manifest, sign_order

SECOND = 1_000_000_000
HTML = b"<html><body>Sign in to the network</body></html>"
KINDS = ("challenge", "session", "order", "manifests", "confirm", "images")
DOCUMENTS = KINDS[:-1]
AT_LAST = {UpdaterState.DOWNLOAD_COMPLETE, UpdaterState.DISCOVERING, UpdaterState.IDLE}


def kind_of(request):
    return next(kind for kind in ("confirm", "refusal", *KINDS) if kind in request.path)


class Hostile:
    """An updater and its device API. *fault(kind, request, honest response, n)*: steps in place of the honest answer."""

    def __init__(self, device, fault):
        self.device = device
        self.fault = fault
        self.requests = []
        self.sent = []
        self.told = []
        self.answers = {}

    def run(self, hours=48.0):
        """Until the download is complete or the order has come to an end, or the time is over."""
        device = self.device
        start_ns = device.now_ns
        device.give("instructed")
        while device.now_ns - start_ns < hours * 3600 * SECOND:
            self._collect()
            if device.request is not None:
                self._answer()
            elif device.updater.state in AT_LAST:
                break
            else:
                due = device.updater.next_timeout()
                assert due is not None, f"waits for ever in {device.updater.state}"
                device.give(f"wait {max(0, due - device.now_ns) / SECOND}")
        self.seconds = (device.now_ns - start_ns) / SECOND
        return self

    def _collect(self):
        before = self.device.request
        lines = self.device.collect()
        self.told += lines
        if self.device.request is not None and self.device.request is not before:
            self.requests.append((self.device.now_ns, kind_of(self.device.request)))
            self.sent.append(self.device.request)

    def _answer(self):
        device, request = self.device, self.device.request
        kind = kind_of(request)
        number = self.answers[kind] = self.answers.get(kind, 0) + 1
        asked = request
        if request.origin:
            asked = device_api.authorised(device_api.HttpRequest("GET", request.path, request.headers), "token")
        elif "?" in request.path:
            asked = device_api.HttpRequest("GET", request.path.partition("?")[0], request.headers)
        honest = device.respond(asked, "")
        steps = self.fault(kind, request, honest, number)
        for step, *values in whole(honest) if steps is None else steps:
            if device.request is not request:
                return
            if step == "wait":
                device.give(f"wait {values[0]}")
            elif step == "hang":
                # Nothing more comes, ever: only the updater can end it.
                while device.request is request:
                    due = device.updater.next_timeout()
                    assert due is not None, f"waits for ever in {device.updater.state}"
                    device.give(f"wait {max(0, due - device.now_ns) / SECOND}")
                    self._collect()
            elif step == "head":
                device.updater.http_head(*values, device.now_ns)
            elif step == "body":
                device.updater.http_body(*values, device.now_ns)
            else:
                device.request = None
                device.updater.http_ended(*values, device.now_ns)
            self._collect()

    @property
    def state(self):
        return self.device.updater.state

    def count(self, kind):
        return sum(1 for _, found in self.requests if found == kind)

    def gaps_s(self, kind):
        times = [time for time, found in self.requests if found == kind]
        return [(after - before) / SECOND for before, after in pairwise(times)]

    def report(self):
        """The outcome and reason of the report that ends it."""
        assert self.state is UpdaterState.DISCOVERING, (self.state, self.told[-5:])
        self.device.give("nodes 1=2.0.0 2=2.0.0")
        self.device.actions()
        report, _ = self.device.reports[-1]
        return report.outcome.value, report.reason


@pytest.fixture
def hostile(world):
    return lambda fault, **options: Hostile(Device(world, options=DownloadOptions(**options)), fault)


def whole(response, **headers):
    return [
        ("head", response.status, {**response.headers, **headers}),
        *[("body", response.body[at : at + 1000]) for at in range(0, len(response.body), 1000)],
        ("end", None),
    ]


def just(status, headers=None, body=b""):
    return lambda _request, _response: [("head", status, headers or {}), ("body", body), ("end", None)]


def flipped(_request, response):
    at = len(response.body) // 2
    body = response.body[:at] + bytes([response.body[at] ^ 4]) + response.body[at + 1 :]
    return whole(device_api.HttpResponse(response.status, response.headers, body))


def packed(_request, response):
    body = gzip.compress(response.body, mtime=0)
    headers = {**response.headers, "Content-Encoding": "gzip", "Content-Length": str(len(body))}
    return whole(device_api.HttpResponse(response.status, headers, body))


def shortened(_request, response):
    return [("head", response.status, response.headers), ("body", response.body[:-1]), ("end", None)]


def cut(_request, response):
    return [("head", response.status, response.headers), ("body", response.body[:20]), ("end", "connection reset")]


def dripping(bytes_per_s):
    """Half a byte a second, or more, in pieces; without an end of its own."""

    def drip(_request, response):
        size, pause_s = (1, 1 / bytes_per_s) if bytes_per_s <= 1 else (int(bytes_per_s), 1)
        steps = [("head", response.status, response.headers)]
        for at in range(0, len(response.body), size):
            steps += [("wait", pause_s), ("body", response.body[at : at + size])]
        return [*steps, ("end", None)]

    return drip


ONCE = {
    "N1 nothing": lambda _request, _response: None,
    "N2 cut": cut,
    "N6 shorter than announced": shortened,
    "N7 longer than announced": lambda _request, response: whole(response, **{"Content-Length": "999999"}),
    "N8 endless": lambda _request, response: [
        ("head", 200, {}),
        *[("body", (response.body or b"x") * 200)] * 400,
        ("end", None),
    ],
    "N9 gzip": packed,
    "N10 S28 redirected to a stranger": just(302, {"Location": "http://evil.example/x"}),
    "N10 redirected to nowhere": just(302),
    "N12 404": just(404),
    "N12 410": just(410),
    "N13 503": just(503),
    "N13 S33 429": just(429, {"Retry-After": "30"}),
    "N14 S2 one flipped bit": flipped,
    "N16 S2 S3 no response": lambda _request, _response: [("hang",)],
    "N16 S3 silent in the body": lambda _request, response: [
        ("head", response.status, response.headers),
        ("body", response.body[:10]),
        ("hang",),
    ],
    "N16 S3 a byte in two seconds": dripping(0.5),
    "N17 204": just(204),
    "N17 304": just(304),
    "N17 401": just(401),
    "N17 403": just(403),
    "N17 409 without a word of the platform": just(409),
    "N17 412": just(412),
    "N17 416": just(416),
    "N17 501": just(501),
    "N17 520": just(520),
    "N17 web page": just(200, {"Content-Type": "text/html; charset=utf-8"}, HTML),
    "N17 web page without a type": just(200, {}, HTML),
    "N17 empty 200": just(200),
    "N19 broken before the head": lambda _request, _response: [("end", "connection reset")],
}
# For the order 204 is a word of the platform, and without a signature it is believed: nothing has begun.
BELIEVED = {("order", "N17 204")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in ONCE if (kind, name) not in BELIEVED]
)
def test_one_passing_fault_of_any_exchange_ends_nothing(hostile, name, kind):
    """The download completes, in minutes, after a few more requests."""

    def fault(found, request, response, n):
        return ONCE[name](request, response) if (found, n) == (kind, 1) else None

    run = hostile(fault).run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE, run.told[-6:]
    assert run.seconds < 150
    assert len(run.requests) < 30


@pytest.mark.parametrize("kind", KINDS)
def test_n13_s33_retry_after_is_honoured_by_every_exchange(hostile, kind):
    def fault(found, _request, _response, n):
        return just(503, {"Retry-After": "900"})(None, None) if (found, n) == (kind, 1) else None

    run = hostile(fault).run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE
    assert 900 <= run.gaps_s(kind)[0] < 902


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("asked", "waited_s"), [("86400", 3600), ("9" * 30, 5), ("-1", 5), ("soon", 5)])
def test_n13_nobody_sends_a_unit_away_for_longer_than_an_hour(hostile, kind, asked, waited_s):
    def fault(found, _request, _response, n):
        return just(503, {"Retry-After": asked})(None, None) if (found, n) == (kind, 1) else None

    run = hostile(fault).run()
    assert run.gaps_s(kind)[0] < waited_s + 2
    assert run.gaps_s(kind)[0] >= (waited_s if waited_s > 5 else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_s33_every_wait_has_the_unit_s_own_jitter(hostile, kind):
    def fault(found, _request, _response, n):
        return just(503, {"Retry-After": "100"})(None, None) if (found, n) == (kind, 1) else None

    gaps = [round(hostile(fault, retry_jitter=jitter).run().gaps_s(kind)[0]) for jitter in (0.0, 0.25, 1.0)]
    assert gaps == [100, 125, 200]


@pytest.mark.parametrize("kind", KINDS)
def test_s2_a_server_that_is_silent_for_ever_is_never_waited_for_without_an_end(hostile, kind):
    """Nothing is held: each response has its deadline, the waits grow, and no pause is shorter than they say."""
    run = hostile(lambda found, _request, _response, _n: [("hang",)] if found == kind else None).run(hours=12)
    accepted = kind in {"confirm", "images"}
    assert (run.state is UpdaterState.IDLE) is not accepted
    assert run.count(kind) < (8 * 12 * 20 if kind == "images" else 12 * 12 + 10)
    assert not run.device.reports


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_s3_n16_a_document_at_a_byte_a_second_is_cut_off(hostile, kind):
    run = hostile(lambda found, request, response, _n: dripping(1)(request, response) if found == kind else None)
    run.run(hours=2)
    if kind in {"challenge", "session", "confirm"}:
        # About a hundred bytes: too slow is less than 64 bytes/s for 30 s.
        assert any("slow-retrieval" in line for line in run.told)
    assert any("slow-retrieval: expected 64 bytes/s" in line for line in run.told)
    assert run.state is not UpdaterState.DOWNLOAD_COMPLETE


@pytest.mark.parametrize("kind", ["order", "manifests"])
def test_n16_a_slow_but_honest_link_is_endured_by_documents(hostile, kind):
    run = hostile(lambda found, request, response, _n: dripping(70)(request, response) if found == kind else None).run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE
    assert run.count(kind) == 1


def test_n15_s3_bytes_that_are_thrown_away_are_no_progress(hostile):
    """A page of 41 bytes without a type, over and over: a bounded number of requests, then a report that says why."""
    run = hostile(
        lambda found, _request, _response, _n: just(200, {}, b"x" * 41)(None, None) if found == "images" else None
    )
    run.run()
    world = run.device.world
    problem = f"gave up after 9 attempts: expected bytes up to {len(world.master)}, got the end at 41"
    assert run.report() == ("failed", f"image {world.manifest.images[0].sha256.hex()[:16]}: {problem}")
    assert run.count("images") == 9 * 9
    assert run.seconds < 3600


def test_n12_an_image_that_is_never_there_is_missing_in_the_end(hostile):
    run = hostile(lambda found, _request, _response, _n: just(404)(None, None) if found == "images" else None).run()
    outcome, reason = run.report()
    assert outcome == "failed"
    assert "missing: the server does not have the image, got 404" in reason
    assert 600 < run.seconds < 3600
    run.device.give("power")
    assert run.device.actions() == ["discover"]


def test_n12_a_cdn_that_is_warm_after_ten_minutes(hostile):
    """404 until then; the order lives on."""
    start = []

    def fault(found, _request, _response, _n):
        start[:] = start or [run.device.now_ns]
        is_cold = run.device.now_ns - start[0] < 600 * SECOND
        return just(404)(None, None) if found == "images" and is_cold else None

    run = hostile(fault)
    run.run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 503, 520])
@pytest.mark.parametrize("kind", ["order", "confirm", "images"])
def test_n13_an_accepted_order_outlives_a_platform_that_is_away_for_a_day(hostile, kind, status):
    """It asks on, at most once in a backoff, and is done soon after the platform is back."""

    def fault(found, _request, _response, n):
        is_away = run.device.now_ns < run.device.world.NOW_NS + 86_400 * SECOND
        # The order has to be accepted before.
        return just(status)(None, None) if found == kind and is_away and (found != "order" or n > 1) else None

    run = hostile(fault)
    if kind == "order":
        honest = run.fault
        run.fault = lambda found, request, response, n: (
            just(401)(None, None) if (found, n) == ("images", 1) else honest(found, request, response, n)
        )
    run.run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE
    assert 86_000 < run.seconds < 88_000
    assert len(run.requests) < 24 * 12 * 14
    assert not run.device.reports


def test_n14_a_document_that_is_spoilt_differently_each_time_is_asked_for_on_and_on(hostile):
    """A bad link is no forger: only the very same wrong bytes end an order."""

    def fault(found, _request, response, n):
        if found != "manifests" or n > 6:
            return None
        body = response.body[:40] + bytes([response.body[40] ^ n]) + response.body[41:]
        return whole(device_api.HttpResponse(200, {}, body))

    run = hostile(fault).run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE
    assert run.count("manifests") == 7


def test_n14_a_block_that_is_spoilt_differently_each_time_is_asked_for_on_and_on(hostile):
    def fault(found, _request, response, n):
        if found != "images" or n > 7:
            return None
        body = bytes([response.body[0] ^ n]) + response.body[1:]
        return whole(device_api.HttpResponse(response.status, response.headers, body))

    run = hostile(fault).run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE
    assert run.count("images") == 9


@pytest.mark.parametrize(
    "portal",
    [
        just(200, {"Content-Type": "text/html"}, HTML),
        just(200, {"Content-Encoding": "gzip"}, gzip.compress(HTML, mtime=0)),
        just(200, {"Content-Length": "9"}, HTML),
    ],
    ids=["a web page", "an encoding", "another length"],
)
@pytest.mark.parametrize("kind", ["order", "manifests"])
def test_n17_a_portal_that_answers_the_same_for_hours_refuses_no_order(hostile, kind, portal):
    """What cannot be the platform's answer is no document at all, however often it is the very same."""

    def fault(found, request, response, n):
        return portal(request, response) if found == kind and 1 <= n <= 6 else None

    run = hostile(fault).run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE
    assert run.count(kind) == 7


def test_a_manifest_that_never_comes_ends_with_a_report(hostile):
    run = hostile(lambda found, _request, _response, _n: just(404)(None, None) if found == "manifests" else None).run()
    assert run.report() == ("failed", "manifest: the platform does not have it")
    assert run.count("manifests") == 8


def test_what_is_signed_and_not_for_us_is_refused_at_once(hostile, world):
    run = hostile(lambda *_: None)
    order = world.order_for(world.manifest_data, vin="LBMSOTA0000000002")
    run.device.documents["order"] = sign_order(order, world.ORDER_KEY)
    run.run()
    assert run.state is UpdaterState.IDLE
    assert (run.count("order"), run.count("refusal")) == (1, 1)
    assert any("wrong-vehicle" in line for line in run.told)


def test_s8_another_genuine_manifest_is_asked_for_again(hostile, world):
    """A proxy that mixes two answers up, once."""
    other = sign_manifest(world.replace(world.manifest, release="F7-other"), world.MANIFEST_KEY)

    def fault(found, _request, _response, n):
        return whole(device_api.manifest_response(other)) if (found, n) == ("manifests", 1) else None

    assert hostile(fault).run().state is UpdaterState.DOWNLOAD_COMPLETE


# -- the confirmation ------------------------------------------------------------------------------------------------------

CONFIRMED = device_api.confirmed_response("o-17", device_api.Decision.ACCEPTED)
NOT_CONFIRMED = {
    "204": device_api.HttpResponse(204),
    "an empty 200": device_api.HttpResponse(200),
    "a web page": device_api.HttpResponse(200, {}, HTML),
    "another order": device_api.confirmed_response("o-18", device_api.Decision.ACCEPTED),
    "another decision": device_api.confirmed_response("o-17", device_api.Decision.REJECTED),
    "201": device_api.HttpResponse(201, CONFIRMED.headers, CONFIRMED.body),
    "half a document": device_api.HttpResponse(200, {}, CONFIRMED.body[:-1]),
}


@pytest.mark.parametrize("name", NOT_CONFIRMED)
def test_n17_confirmed_is_a_document_and_not_any_answer(hostile, name):
    run = hostile(lambda found, *_: whole(NOT_CONFIRMED[name]) if found == "confirm" else None).run(hours=3)
    assert run.count("images") == 0
    assert run.count("confirm") >= 8


def test_cancelled_is_the_platforms_own_word(hostile):
    refusal = device_api.error_response(409, "cancelled", "the operator has cancelled it")
    run = hostile(lambda found, *_: whole(refusal) if found == "confirm" else None).run()
    assert run.state is UpdaterState.IDLE
    assert run.told[-1] == "tell cancelled 0: the platform has cancelled the order"


# -- redirects -------------------------------------------------------------------------------------------------------------


def redirected(kind, location):
    def fault(found, request, _response, _n):
        is_home = "moved=" not in request.path and not request.origin
        return just(302, {"Location": location(request)})(None, None) if found == kind and is_home else None

    return fault


@pytest.mark.parametrize("kind", ["order", "manifests", "images"])
@pytest.mark.parametrize(
    "location",
    [
        lambda request: request.path + "?moved=1",
        lambda request: URL + request.path + "?moved=1",
        lambda request: "HTTP://A.example:80" + request.path + "?moved=1",
    ],
    ids=["relative", "absolute", "absolute, written otherwise"],
)
def test_n10_the_same_origin_is_followed_with_the_token(hostile, kind, location):
    run = hostile(redirected(kind, location)).run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE
    moved = [request for request in run.sent if "moved=" in request.path]
    assert moved
    assert {(request.origin, device_api.bearer_token(request)) for request in moved} == {("", "token")}


@pytest.mark.parametrize("kind", ["order", "manifests", "images"])
def test_n10_s28_a_cdn_of_the_list_is_followed_without_the_token(hostile, kind):
    fault = redirected(kind, lambda request: "https://cdn.example" + request.path)
    run = hostile(fault, redirect_origins=frozenset({"https://cdn.example:443"})).run()
    assert run.state is UpdaterState.DOWNLOAD_COMPLETE
    moved = [request for request in run.sent if request.origin]
    assert {(request.origin, device_api.bearer_token(request)) for request in moved} == {("https://cdn.example", None)}


@pytest.mark.parametrize("kind", KINDS)
def test_s28_a_host_that_is_not_in_the_list_is_never_asked(hostile, kind):
    run = hostile(redirected(kind, lambda request: "https://evil.example" + request.path)).run(hours=3)
    assert run.state is not UpdaterState.DOWNLOAD_COMPLETE
    assert not any(request.origin for request in run.sent)
    assert any("redirected to an origin that is not allowed" in line or "got 302" in line for line in run.told)


def test_n11_documents_in_a_loop_of_redirects(hostile):
    def fault(found, request, _response, _n):
        return just(302, {"Location": request.path})(None, None) if found == "order" else None

    run = hostile(fault).run()
    assert run.state is UpdaterState.IDLE
    assert run.count("order") == 8 * 6
    assert any("more than 5 redirects" in line for line in run.told)


# -- where the instruction leads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "is_followed"),
    [
        ("http://a.example", True),
        ("http://A.example:80/", True),
        ("https://anywhere.example", True),
        ("http://a.example:8080", False),
        ("http://evil.example", False),
        ("http://a.example@evil.example", False),
        ("ftp://a.example", False),
        ("a.example", False),
        ("", False),
        ("http://[bad", False),
    ],
)
def test_n18_an_instruction_leads_to_https_or_to_where_the_unit_was_told_in_production(world, url, is_followed):
    device = Device(world)
    device.updater.instructed(url, device.now_ns)
    actions = []
    while (action := device.updater.next_action()) is not None:
        actions.append(action)
    assert any(isinstance(action, StartHttp) for action in actions) is is_followed
    if not is_followed:
        assert device.updater.state is UpdaterState.IDLE
        assert "expected an https URL or the origin of this unit's platform" in actions[-1].reason


def test_n18_a_unit_at_work_is_not_led_elsewhere(world):
    device = Device(world)
    device.give("driving")
    device.give("instructed")
    device.actions()
    device.updater.instructed("http://evil.example", device.now_ns)
    assert device.actions() == [
        "remark instruction: expected an https URL or the origin of this unit's platform, got 'http://evil.example'"
    ]
    device.give("parked")
    assert device.actions() == ["tell authenticating 0", "POST challenge"]


def test_an_origin_that_is_none_is_a_wrong_configuration(world):
    device = Device(world)
    with pytest.raises(ConfigurationError, match=r"origins: expected an http or https URL, got 'cloud'"):
        Updater(
            hwid=world.HWID,
            vin=world.VIN,
            slave_positions=(1, 2),
            device_key=world.DEVICE_KEY,
            trust=None,
            store=device.updater_store,
            image_store=None,
            master_version=lambda: None,
            origins=["cloud"],
        )
