"""The device API, request by request, with the library's own client half."""

from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import cbor2
import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import DeviceService
from bmsota_cloud.services.limits import RateLimits
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.errors import ConfigurationError, TransferError, TrustError
from bmsota.gbt32960 import UpgradeStateCode
from bmsota.ota import DownloadOptions, HttpRequest, UpdaterState, verify_manifest, verify_order
from bmsota.ota import device_api as api
from bmsota.ota._exchange import DeviceExchange


class Unit:
    """A unit that does what it should, unless told otherwise."""

    def __init__(self, world, number):
        self.world = world
        self.vin = world.vin(number)
        self.hwid = f"M-{number:06d}"
        self.key = world.device_key(self.vin)
        self.token = ""

    def ask(self, request):
        return self.world.cloud.device_respond(request, self.world.now)

    def challenge(self):
        answer = self.ask(api.challenge_request(self.hwid))
        return api.parse_challenge(answer.status, answer.body)

    def answer(self, challenge, *, key=None, hwid=None, origin=None):
        hwid = hwid or self.hwid
        origin = api.origin_of(self.world.cloud.settings.device_url) if origin is None else origin
        signature = (key or self.key).sign(api.session_proof(hwid, challenge, origin))
        return self.ask(api.session_request(hwid, challenge, origin, signature))

    def log_in(self):
        answer = self.answer(self.challenge())
        self.token = api.parse_session(answer.status, answer.body)
        return self

    def order(self):
        answer = self.ask(api.order_request(self.token))
        return answer.status, answer.body

    def confirm(self, order_id, decision="accepted", reason=""):
        return self.ask(api.confirm_request(self.token, order_id, decision=decision, reason=reason))

    def image(self, sha256, **headers):
        request = HttpRequest("GET", api.image_path(sha256), {k.replace("_", "-"): v for k, v in headers.items()})
        return self.ask(api.authorised(request, self.token))


def refusal(answer):
    return answer.status, api._parse_fields("answer", answer.body, ("error", "detail"))["error"]


@pytest.fixture
def files(release_files):
    return release_files()


@pytest.fixture
def task(world):
    return world.approved(1, 2)


@pytest.fixture
def unit(world, task):
    return Unit(world, 1).log_in()


# --- who are you?


def test_a_session_is_opened_with_a_signed_challenge(world, task):
    unit = Unit(world, 1).log_in()
    assert unit.order()[0] == 200


def test_known_and_unknown_units_are_answered_alike(world, task):
    """Status, words, length and headers, at both steps; so nobody learns which HWIDs exist."""
    known, unknown = Unit(world, 1), Unit(world, 9)
    challenges = [unit.ask(api.challenge_request(unit.hwid)) for unit in (known, unknown)]
    assert [(one.status, len(one.body), dict(one.headers)) for one in challenges] == [
        (200, len(challenges[0].body), dict(challenges[0].headers))
    ] * 2
    stranger = Unit(world, 2).key
    answers = [unit.answer(unit.challenge(), key=stranger) for unit in (known, unknown)]
    assert (answers[0].status, answers[0].body) == (answers[1].status, answers[1].body)
    assert refusal(answers[0]) == (401, "wrong-signature")
    # Both leave the same trace, so they take the same time.
    entries = world.services.audit.page(PageRequest(1, 2), by=world.people["anna"]).items
    assert [(entry.who, entry.outcome) for entry in entries] == [
        ("unit M-000009", "wrong-signature"),
        ("unit M-000001", "wrong-signature"),
    ]


def test_the_key_that_stands_for_an_unknown_unit_opens_nothing(world, task):
    """Its private half can be had by anybody who reads the source."""
    key = Ed25519PrivateKey.from_private_bytes(sha256(b"bmsota: no such unit").digest())
    unit = Unit(world, 9)
    assert refusal(unit.answer(unit.challenge(), key=key)) == (401, "wrong-signature")


def test_a_challenge_works_once(world, task):
    unit = Unit(world, 1)
    challenge = unit.challenge()
    assert unit.answer(challenge).status == 200
    assert refusal(unit.answer(challenge)) == (401, "unknown-challenge")


def test_a_wrong_answer_of_a_stranger_does_not_spend_the_units_challenge(world, task):
    unit = Unit(world, 1)
    challenge = unit.challenge()
    assert refusal(unit.answer(challenge, key=Unit(world, 2).key)) == (401, "wrong-signature")
    assert unit.answer(challenge).status == 200


def test_a_challenge_works_once_in_all_processes(world, task):
    """What the first one has spent, another one on the same data knows, and takes the challenges of the first."""
    unit = Unit(world, 1)
    first, second = unit.challenge(), unit.challenge()
    assert unit.answer(first).status == 200
    context = world.services.device._context
    object.__setattr__(
        world.services, "device", DeviceService(context, RateLimits(context.store), world.services.link_watch)
    )
    assert refusal(unit.answer(first)) == (401, "unknown-challenge")
    assert unit.answer(second).status == 200


def test_strangers_who_ask_in_a_units_name_do_not_keep_it_out(world, task):
    unit = Unit(world, 1)
    challenge = unit.challenge()
    for _ in range(300):
        unit.challenge()
    assert unit.answer(challenge).status == 200


def test_challenges_cost_no_write(world, task, monkeypatch):
    """300 in a row, and answers that are not worth a look; the secret that they need is drawn at the first one."""
    unit = Unit(world, 1)
    unit.challenge()
    monkeypatch.setattr(world.cloud.store, "transaction", None)
    for _ in range(300):
        unit.challenge()
    assert refusal(unit.answer(b"\x07" * 32)) == (401, "unknown-challenge")


def test_a_flood_of_wrong_answers_is_twenty_lines_an_hour(world, task):
    unit = Unit(world, 1)
    for _ in range(50):
        assert unit.answer(unit.challenge(), key=Unit(world, 2).key).status == 401
    entries = world.services.audit.page(PageRequest(1, 500), by=world.people["anna"]).items
    assert len([entry for entry in entries if entry.action == "device.open_session"]) == 20
    assert world.services.counters["device_login_refused"] == 50
    # The unit itself gets in all the same.
    unit.log_in()


def test_one_address_that_asks_too_much_is_told_when_to_come_back(world, task):
    def ask(number, address):
        return world.cloud.device_respond(api.challenge_request(f"M-{number}"), world.now, address)

    answers = [ask(number, "192.0.2.1") for number in range(202)]
    assert [answer.status for answer in answers] == [200] * 200 + [429] * 2
    assert (refusal(answers[-1])[1], answers[-1].header("Retry-After")) == ("too-many-requests", "1")
    assert ask(1, "192.0.2.2").status == 200
    world.wait(seconds=1)
    assert ask(1, "192.0.2.1").status == 200


def test_a_unit_that_opens_sessions_without_end_is_slowed_down(world, task):
    unit = Unit(world, 1)
    statuses = [unit.answer(unit.challenge()).status for _ in range(122)]
    assert statuses == [200] * 120 + [429] * 2
    Unit(world, 2).log_in()


def test_a_challenge_of_a_clock_that_was_ahead_is_as_expired(world, task):
    unit = Unit(world, 1)
    world.wait(hours=2)
    challenge = unit.challenge()
    world.wait(hours=-2)
    assert refusal(unit.answer(challenge)) == (401, "challenge-expired")
    unit.log_in()


# --- whom are you talking to?


class Relayed:
    """The updater's own exchange with a stranger whom it takes for its platform."""

    def __init__(self, unit, url):
        self.requests = []
        records = SimpleNamespace(journal=SimpleNamespace(base_url=url))
        self.exchange = DeviceExchange(
            hwid=unit.hwid, device_key=unit.key, records=records, steering=self, options=DownloadOptions()
        )
        self.exchange.entered(UpdaterState.OPENING_SESSION, 0)

    def tell(self, *_):
        pass

    def act(self, action):
        self.requests.append(action.request)

    def answer(self, response):
        self.exchange.receive_head(response.status, response.headers, 0)
        self.exchange.receive_body(response.body, 0)
        self.exchange.ended(None, UpdaterState.OPENING_SESSION, 0)


def test_a_relay_gains_nothing(world, task):
    """A stranger fetches a challenge here, has a unit sign it, and passes the proof on, changed or not."""
    unit = Unit(world, 1)
    relayed = Relayed(unit, "http://evil.example:8080")
    relayed.answer(unit.ask(relayed.requests[0]))
    proof = relayed.requests[1]
    fields = cbor2.loads(proof.body)
    assert fields["origin"] == "http://evil.example:8080"
    assert refusal(unit.ask(proof)) == (401, "wrong-origin")
    ours = api.origin_of(world.cloud.settings.device_url)
    older = {name: fields[name] for name in ("hwid", "challenge", "signature")}
    for changed in (fields | {"origin": ours}, older):
        body = cbor2.dumps(changed, canonical=True)
        assert refusal(unit.ask(HttpRequest("POST", proof.path, {}, body))) == (401, "wrong-signature")
    # The same exchange with the platform itself.
    direct = Relayed(unit, world.cloud.settings.device_url)
    direct.answer(unit.ask(direct.requests[0]))
    assert unit.ask(direct.requests[1]).status == 200


def test_a_proof_without_an_origin_is_refused_unless_told_otherwise(world, task, new_world):
    def ask(world):
        unit = Unit(world, 1)
        challenge = unit.challenge()
        proof = unit.key.sign(api.session_proof(unit.hwid, challenge, ""))
        body = cbor2.dumps({"hwid": unit.hwid, "challenge": challenge, "signature": proof}, canonical=True)
        return unit.ask(HttpRequest("POST", "/device/v1/session", {}, body))

    assert refusal(ask(world)) == (401, "no-origin")
    lenient = new_world(settings={"accepts_proof_without_origin": True})
    lenient.register(1)
    assert ask(lenient).status == 200
    Unit(lenient, 1).log_in()


def test_the_platform_may_have_several_urls(world, new_world):
    other = new_world(settings={"device_url_aliases": ("https://Ota.Example/",)})
    other.register(1)
    unit = Unit(other, 1)
    for origin, status in (
        ("https://ota.example:443", 200),
        ("http://cloud.example:8080", 200),
        ("http://ota.example:80", 401),
        ("https://ota.example.evil.example:443", 401),
    ):
        assert unit.answer(unit.challenge(), origin=origin).status == status, origin


def test_a_url_without_an_origin_is_said_at_the_start(world, new_world):
    with pytest.raises(ConfigurationError, match="expected an http or https URL, got 'cloud"):
        new_world(settings={"device_url": "cloud.example"})


def test_a_session_ends_when_the_master_leaves_the_vehicle(world, unit):
    """Taken out, and taken out and put into another vehicle."""
    with world.cloud.store.transaction() as work:
        work.vehicles.save(replace(work.vehicles.get(unit.vin), hwid="M-exchanged"))
    assert unit.order()[0] == 401
    with world.cloud.store.transaction() as work:
        work.vehicles.save(replace(work.vehicles.get(world.vin(2)), hwid=unit.hwid))
    assert unit.order()[0] == 401


# --- what is ordered?


def test_the_order_and_its_manifest(world, unit, files, sample_keys):
    status, document = unit.order()
    order = verify_order(document, [sample_keys.order_signing_key.public_key()])
    assert (status, order.order_id, order.vin) == (200, "OTA-1-1", unit.vin)
    answer = unit.ask(api.manifest_request(unit.token, order.manifest_sha256))
    assert (answer.status, answer.body) == (200, files.manifest)
    assert verify_manifest(answer.body, sample_keys.manifest_public_keys).software_version == "2.1.0"
    with pytest.raises(TrustError):
        verify_order(document, sample_keys.manifest_public_keys)


def test_fetching_the_order_is_being_heard_of(world, task, unit):
    world.wait(minutes=7)
    unit.order()
    seen = world.detail(task).upgrades.items[0]
    assert (str(seen.status), seen.heard_at) == ("To be downloaded", world.now)


def test_no_order_is_204(world, unit, task):
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    assert unit.order() == (204, b"")


def test_an_unapproved_task_is_no_order(world):
    world.register(1)
    world.upload()
    world.create(1)
    assert Unit(world, 1).log_in().order() == (204, b"")


def test_an_order_that_is_over_is_given_again_with_the_next_sequence(world, task, sample_keys):
    """A vehicle offline for long."""
    keys = [sample_keys.order_signing_key.public_key()]
    first = verify_order(Unit(world, 1).log_in().order()[1], keys)
    world.wait(days=6, hours=22)
    assert verify_order(Unit(world, 1).log_in().order()[1], keys) == first
    world.wait(hours=2)
    again = verify_order(Unit(world, 1).log_in().order()[1], keys)
    assert (again.order_id, again.sequence) == (first.order_id, first.sequence + 1)
    assert again.issued_s == int(world.now.timestamp())
    assert again.approved_s == first.approved_s


def test_s4_a_unit_that_has_it_staged_gets_a_renewed_order_too(world, task, sample_keys):
    """It does not switch under one that has expired; the status stays as it is."""
    keys = [sample_keys.order_signing_key.public_key()]
    first = verify_order(Unit(world, 1).log_in().order()[1], keys)
    world.fetch(1)
    world.tell(world.vin(1), UpgradeStateCode.DOWNLOAD_COMPLETE)
    world.wait(days=8)
    again = verify_order(Unit(world, 1).log_in().order()[1], keys)
    assert (again.order_id, again.sequence) == (first.order_id, first.sequence + 1)
    assert str(world.detail(task).upgrades.items[0].status) == "Download Complete"


def test_an_order_that_is_over_with_its_release_ends_the_vehicle(world, task):
    """The unit would ask for ever, the time limit would never come, and no workshop could flash it."""
    Unit(world, 1).log_in().order()
    world.fetch(1)
    world.tell(world.vin(1), UpgradeStateCode.DOWNLOAD_COMPLETE)
    world.wait(days=4000)
    status, body = Unit(world, 1).log_in().order()
    assert (status, body) == (204, b"")
    seen = world.detail(task).upgrades.items[0]
    assert (str(seen.status), seen.reason) == (
        "Timed out",
        "the order is over and cannot be renewed: its release expires, or another unit is in the vehicle",
    )


def test_no_order_is_renewed_for_a_unit_that_nobody_approved(world, task, sample_keys):
    keys = [sample_keys.order_signing_key.public_key()]
    first = verify_order(Unit(world, 1).log_in().order()[1], keys)
    vin, key = world.vin(1), world.device_key(world.vin(1)).public_key().public_bytes_raw()
    world.services.vehicles.replace_unit(
        vin=vin, hwid="M-ANOTHER-1", device_public_key=key, now=world.now, by=world.people["carol"]
    )
    world.wait(days=6, hours=23, minutes=30)
    another = Unit(world, 1)
    another.hwid = "M-ANOTHER-1"
    again = verify_order(another.log_in().order()[1], keys)
    assert again == first


# --- the decision


def test_accepting_is_noted_once(world, task, unit):
    answer = unit.confirm("OTA-1-1")
    api.parse_confirmed(answer.status, answer.body, order_id="OTA-1-1", decision="accepted")
    first = world.detail(task).upgrades.items[0].confirmed_at
    world.wait(minutes=1)
    assert unit.confirm("OTA-1-1") == answer
    assert world.detail(task).upgrades.items[0].confirmed_at == first


def test_rejecting_ends_it_with_the_reason(world, task, unit):
    answer = unit.confirm("OTA-1-1", "rejected", "owner said no")
    api.parse_confirmed(answer.status, answer.body, order_id="OTA-1-1", decision="rejected")
    seen = world.detail(task).upgrades.items[0]
    assert (str(seen.status), seen.reason) == ("Rejected", "owner said no")
    assert unit.order() == (204, b"")


@pytest.mark.slow
@pytest.mark.parametrize("order_id", ["OTA-1-2", "OTA-9-9", "nonsense"])
def test_only_the_units_own_order_can_be_confirmed(world, task, unit, order_id):
    """A unit answers for another vehicle's order: refused, and the other one is as before."""
    assert refusal(unit.confirm(order_id)) == (409, "no-such-order")
    assert world.detail(task).counts == {"Approved": 2}


def test_a_cancelled_order_can_not_be_confirmed(world, task, unit):
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    answer = unit.confirm("OTA-1-1")
    assert refusal(answer) == (409, "no-such-order")
    with pytest.raises(TransferError):
        api.parse_confirmed(answer.status, answer.body, order_id="OTA-1-1", decision="accepted")


# --- the image


def digest(data):
    from hashlib import sha256

    return sha256(data).digest()


def test_the_whole_image(unit, files):
    data = files.images[0]
    answer = unit.image(digest(data))
    assert (answer.status, answer.body) == (200, data)
    assert answer.header("ETag") == f'"{digest(data).hex()}"'
    assert answer.header("Content-Length") == str(len(data))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-99", 0, 99), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-999999", 5, None)],
)
def test_a_range_of_it(unit, files, asked, first, last):
    data = files.images[0]
    begin = first if first >= 0 else len(data) + first
    end = len(data) - 1 if last is None else last
    answer = unit.image(digest(data), Range=asked)
    assert (answer.status, answer.body) == (206, data[begin : end + 1])
    assert answer.header("Content-Range") == f"bytes {begin}-{end}/{len(data)}"


def test_a_range_behind_the_end_is_416(unit, files):
    data = files.images[0]
    answer = unit.image(digest(data), Range=f"bytes={len(data)}-")
    assert (answer.status, answer.header("Content-Range")) == (416, f"bytes */{len(data)}")


@pytest.mark.parametrize("asked", ["bytes=0-1,5-9", "items=0-5", "bytes=9-5", "bytes=", "bytes=x-"])
def test_a_range_that_is_not_understood_is_answered_with_the_whole(unit, files, asked):
    answer = unit.image(digest(files.images[0]), Range=asked)
    assert (answer.status, answer.body) == (200, files.images[0])


def test_a_range_of_another_file_is_answered_with_the_whole(unit, files):
    """If-Range: whoever resumes another file's bytes begins again instead of splicing."""
    data = files.images[0]
    same, other = f'"{digest(data).hex()}"', f'"{digest(files.images[1]).hex()}"'
    assert unit.image(digest(data), Range="bytes=10-", If_Range=same).status == 206
    answer = unit.image(digest(data), Range="bytes=10-", If_Range=other)
    assert (answer.status, answer.body) == (200, data)


def test_only_the_ordered_release_is_given_out(world, unit, release_files):
    other = release_files("E7")
    world.upload(other)
    assert unit.image(digest(other.images[0])).status == 404
    assert unit.ask(api.manifest_request(unit.token, digest(other.manifest))).status == 404
    assert unit.image(b"\x00" * 32).status == 404


def test_a_unit_without_an_open_order_is_given_no_image(world, task, unit, files):
    unit.confirm("OTA-1-1", decision="rejected", reason="r")
    assert unit.image(digest(files.images[0])).status == 404


# --- nonsense


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/device/v1/", 404),
        ("DELETE", "/device/v1/order", 404),
        ("GET", "/device/v1/images/../../etc/passwd", 404),
        ("GET", "/device/v1/images/" + "g" * 64, 404),
        ("POST", "/device/v1/challenge", 400),
        ("POST", "/device/v1/session", 400),
    ],
)
def test_nonsense_is_refused_with_words(world, task, method, path, status):
    for body in (b"", b"\xff", b"\xa1\x61\x61\x01", b"\x00" * 100):
        answer = world.cloud.device_respond(HttpRequest(method, path, {}, body), world.now)
        assert refusal(answer)[0] == status


def test_a_body_that_is_too_long_is_413(world):
    answer = world.cloud.device_respond(HttpRequest("POST", "/device/v1/challenge", {}, b"x" * 5000), world.now)
    assert answer.status == 413


# --- over HTTP


def test_fastapi_carries_it_unchanged(world, client, task, files):
    unit = Unit(world, 1)

    def ask(request):
        answer = client.request(request.method, request.path, headers=dict(request.headers), content=request.body)
        from bmsota.ota import HttpResponse

        return HttpResponse(answer.status_code, dict(answer.headers), answer.content)

    unit.ask = ask
    unit.log_in()
    assert unit.order()[0] == 200
    answer = unit.image(digest(files.images[1]), Range="bytes=100-199")
    assert (answer.status, answer.body) == (206, files.images[1][100:200])
    assert answer.header("Content-Range") == f"bytes 100-199/{len(files.images[1])}"
    answer = unit.confirm("OTA-1-1")
    api.parse_confirmed(answer.status, answer.body, order_id="OTA-1-1", decision="accepted")
