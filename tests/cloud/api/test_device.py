"""The device API, request by request, with the library's own client half."""

import pytest

from bmsota.errors import TransferError, TrustError
from bmsota.gbt32960 import UpgradeStateCode as Code
from bmsota.ota import HttpRequest, verify_manifest, verify_order
from bmsota.ota import device_api as api


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


def test_an_unknown_unit_gets_no_challenge(world):
    unit = Unit(world, 9)
    assert refusal(unit.ask(api.challenge_request(unit.hwid))) == (401, "unknown-hwid")


def test_a_challenge_works_once(world, task):
    unit = Unit(world, 1)
    challenge = unit.challenge()
    assert unit.answer(challenge).status == 200
    assert refusal(unit.answer(challenge)) == (401, "unknown-challenge")


def test_a_challenge_is_spent_by_a_wrong_answer_too(world, task):
    unit = Unit(world, 1)
    challenge = unit.challenge()
    assert refusal(unit.answer(challenge, key=Unit(world, 2).key)) == (401, "wrong-signature")
    assert refusal(unit.answer(challenge)) == (401, "unknown-challenge")


def test_a_challenge_is_good_for_a_minute(world, task):
    unit = Unit(world, 1)
    challenge = unit.challenge()
    world.wait(seconds=60)
    assert refusal(unit.answer(challenge)) == (401, "challenge-expired")


def test_a_challenge_belongs_to_the_unit_that_asked(world, task):
    one, two = Unit(world, 1), Unit(world, 2)
    assert refusal(two.answer(one.challenge())) == (401, "unknown-challenge")
    assert refusal(two.answer(two.challenge(), hwid=one.hwid)) == (401, "unknown-challenge")


def test_a_made_up_challenge_is_refused(world, task):
    assert refusal(Unit(world, 1).answer(b"\x07" * 32)) == (401, "unknown-challenge")


def test_asking_often_does_not_lock_the_unit_out_at_once(world, task):
    unit = Unit(world, 1)
    mine = unit.challenge()
    for _ in range(3):
        unit.challenge()
    assert unit.answer(mine).status == 200


def test_a_session_ends_after_an_hour(world, unit):
    world.wait(hours=1)
    assert unit.order()[0] == 401


@pytest.mark.parametrize("token", ["", "x" * 43, "spaces are no token"])
def test_without_a_session_nothing_is_given_out(world, unit, files, token):
    unit.token = token or "none"
    headers = {} if not token else {"Authorization": f"Bearer {token}"}
    with world.cloud.store.reading() as work:
        release = work.releases.get(1)
    for method, path in (
        ("GET", "/device/v1/order"),
        ("GET", f"/device/v1/manifests/{release.manifest_sha256}"),
        ("GET", f"/device/v1/images/{release.images[0].sha256}"),
    ):
        assert refusal(unit.ask(HttpRequest(method, path, headers)))[0] == 401
    body = api.confirm_request("t", "OTA-1-1", decision="accepted").body
    assert unit.ask(HttpRequest("POST", "/device/v1/orders/OTA-1-1/confirm", headers, body)).status == 401


def test_the_token_is_kept_as_a_digest(world, unit):
    with world.cloud.store.reading() as work:
        assert work.device.session(unit.token.encode()[:32]) is None


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
    """ota.md C6: a vehicle offline for long."""
    keys = [sample_keys.order_signing_key.public_key()]
    first = verify_order(Unit(world, 1).log_in().order()[1], keys)
    world.wait(days=6, hours=22)
    assert verify_order(Unit(world, 1).log_in().order()[1], keys) == first
    world.wait(hours=2)
    again = verify_order(Unit(world, 1).log_in().order()[1], keys)
    assert (again.order_id, again.sequence) == (first.order_id, first.sequence + 1)
    assert again.issued_s == int(world.now.timestamp())
    assert again.approved_s == first.approved_s


# --- the decision


def test_accepting_is_noted_once(world, task, unit):
    assert unit.confirm("OTA-1-1").status == 204
    first = world.detail(task).upgrades.items[0].confirmed_at
    world.wait(minutes=1)
    assert unit.confirm("OTA-1-1").status == 204
    assert world.detail(task).upgrades.items[0].confirmed_at == first


def test_rejecting_ends_it_with_the_reason(world, task, unit):
    assert unit.confirm("OTA-1-1", "rejected", "owner said no").status == 204
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
        api.parse_confirmed(answer.status, answer.body)


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
    """If-Range: whoever resumes another file's bytes begins again instead of splicing (ota.md N5)."""
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
    world.tell(unit.vin, Code.FAILED, order_id="OTA-1-1", reason="r")
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
    assert unit.confirm("OTA-1-1").status == 204
