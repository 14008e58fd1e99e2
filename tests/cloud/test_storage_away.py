"""The database is locked, then free again: everyone who asks is told, no link falls, and nothing has to be restarted."""

import signal
import sqlite3
from contextlib import contextmanager

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from postgresql import OwnServer, fresh_database

from bmsota.gbt32960 import (
    Command,
    Frame,
    Heartbeat,
    ReplyFlag,
    UnitIdentity,
    VehicleLogin,
    beijing_time,
    encode,
)
from bmsota.ota import device_api as api

PASSWORD = "correct horse battery"


@pytest.fixture
def world(new_world, tmp_path, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.storage.sql._engine._BUSY_TIMEOUT_S", 0.05)
    made = new_world(data_dir=tmp_path)
    made.register(1)
    return made


@pytest.fixture
def locked(tmp_path):
    """Both files, locked by somebody else as long as the block lasts."""

    @contextmanager
    def lock():
        holders = [sqlite3.connect(path, isolation_level=None) for path in sorted(tmp_path.glob("*.sqlite"))]
        assert len(holders) == 2
        for holder in holders:
            holder.execute("begin immediate")
        yield
        for holder in holders:
            holder.rollback()
            holder.close()

    return lock


@pytest.mark.slow
def test_the_api_answers_503_in_words_and_works_again(world, client, locked):
    asked = {"name": "carol", "password": PASSWORD}
    with locked():
        refused = client.post("/api/v1/login", json=asked)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json() == {
        "error": "storage-busy",
        "detail": "the database is busy or locked by another process; try again in a few seconds",
    }
    assert client.post("/api/v1/login", json=asked).status_code == 200


@pytest.mark.slow
def test_a_page_says_it_in_words_and_works_again(world, client, locked):
    form = {"name": "carol", "password": PASSWORD, "next": "/vehicles"}
    with locked():
        refused = client.post("/login", data=form)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.headers["content-type"].startswith("text/html")
    assert "Not available now" in refused.text
    assert "try again in a few seconds" in refused.text
    assert client.post("/login", data=form, follow_redirects=False).headers["location"] == "/vehicles"


@pytest.mark.slow
def test_an_unknown_address_is_a_page_all_the_same(world, client, monkeypatch):
    """Who asks can't be looked up; the page does not need it."""
    client.post("/login", data={"name": "carol", "password": PASSWORD, "next": "/vehicles"})

    def away(*arguments):
        raise StorageUnavailableError("the database does not answer", code="storage-away")

    monkeypatch.setattr(world.services.accounts, "who", away)
    page = client.get("/nothing", headers={"Accept": "text/html"})
    assert (page.status_code, "There is nothing at /nothing." in page.text) == (404, True)
    assert "Log out" not in page.text


def test_a_unit_is_told_to_come_again(world, locked):
    vin, hwid = world.vin(1), "M-000001"
    answer = world.cloud.device_respond(api.challenge_request(hwid), world.now)
    challenge = api.parse_challenge(answer.status, answer.body)
    origin = api.origin_of(world.cloud.settings.device_url)
    signature = world.device_key(vin).sign(api.session_proof(hwid, challenge, origin))
    proof = api.session_request(hwid, challenge, origin, signature)
    with locked():
        refused = world.cloud.device_respond(proof, world.now)
    assert (refused.status, refused.header("Retry-After")) == (503, "5")
    answer = world.cloud.device_respond(proof, world.now)
    assert api.parse_session(answer.status, answer.body)


def frame(world, command, message):
    return encode(Frame(command=command, vin=world.vin(1), message=message))


def login(world):
    message = VehicleLogin(time=beijing_time(world.now_ns), serial=1, iccid="8" * 20)
    return frame(world, Command.VEHICLE_LOGIN, message)


def test_a_login_is_refused_with_a_flag_and_taken_on_the_same_link_afterwards(world, locked):
    link = world.cloud.open_link()
    link.connected(world.now_ns)
    with locked():
        link.receive_data(login(world), world.now_ns)
    assert link.data_to_send()[3] == ReplyFlag.ERROR
    assert not link.is_closing
    assert world.services.counters["link_storage_unavailable"] == 1
    link.receive_data(login(world), world.now_ns)
    assert link.data_to_send()[3] == ReplyFlag.SUCCESS


def test_an_identity_that_can_not_be_saved_is_refused_and_the_link_stays(world, locked):
    link = world.cloud.open_link()
    link.connected(world.now_ns)
    link.receive_data(login(world), world.now_ns)
    link.data_to_send()
    identity = frame(world, 0xC0, UnitIdentity(time=beijing_time(world.now_ns), nodes=()))
    with locked():
        link.receive_data(identity, world.now_ns)
    assert link.data_to_send()[3] == ReplyFlag.ERROR
    link.receive_data(identity, world.now_ns)
    assert link.data_to_send()[3] == ReplyFlag.SUCCESS
    assert not link.is_closing


def test_an_instruction_that_could_not_be_looked_up_is_sent_after_the_next_heartbeat(world, monkeypatch):
    """Not only at the next login: a parked vehicle stays connected for weeks."""
    world.upload()
    world.identify(1)
    world.approve(world.create(1))
    upgrades = world.services.upgrades
    look_up = upgrades.pending_instruction

    def away(vin):
        raise StorageUnavailableError("the database does not answer", code="storage-away")

    link = world.cloud.open_link()
    link.connected(world.now_ns)
    monkeypatch.setattr(upgrades, "pending_instruction", away)
    link.receive_data(login(world), world.now_ns)
    assert [reply for reply in (link.data_to_send(),) if len(reply) > 60] == []
    monkeypatch.setattr(upgrades, "pending_instruction", look_up)
    world.wait(seconds=10)
    heartbeat = encode(Frame(command=Command.HEARTBEAT, vin=world.vin(1), message=Heartbeat()))
    link.receive_data(heartbeat, world.now_ns)
    assert b"http://cloud.example:8080" in link.data_to_send()


@pytest.mark.slow
def test_a_server_that_is_stopped_and_started_again_or_stands_still(new_world, open_client, monkeypatch):
    """Everyone who asks meanwhile is told, and the first request afterwards works: no connection of before is used blindly."""
    with OwnServer() as server, fresh_database(server.address) as url:
        world = new_world(database_url=url)
        world.register(1)
        client, _ = open_client(world)
        asked = {"name": "carol", "password": PASSWORD}
        assert client.post("/api/v1/login", json=asked).status_code == 200
        server.stop(signal.SIGQUIT)
        refused = client.post("/api/v1/login", json=asked)
        assert (refused.status_code, refused.json()["error"]) == (503, "storage-away")
        assert str(server.port) not in refused.text
        page = client.post("/login", data={**asked, "next": "/"})
        assert (page.status_code, "Not available now" in page.text) == (503, True)
        link = world.cloud.open_link()
        link.connected(world.now_ns)
        link.receive_data(login(world), world.now_ns)
        assert link.data_to_send()[3] == ReplyFlag.ERROR
        server.start()
        assert client.post("/api/v1/login", json=asked).status_code == 200
        monkeypatch.setattr("bmsota_cloud.storage.sql._silence._SILENCE_S", 0.5)
        monkeypatch.setattr("bmsota_cloud.storage.sql._silence._PAUSE_S", 0.0)
        with server.paused():
            # Nothing is refused, and nothing is answered: no limit of TCP notices.
            refused = client.post("/api/v1/login", json=asked)
            assert (refused.status_code, refused.json()["error"]) == (503, "storage-away")
            link.receive_data(login(world), world.now_ns)
            assert link.data_to_send()[3] == ReplyFlag.ERROR
        assert client.post("/api/v1/login", json=asked).status_code == 200
        link.receive_data(login(world), world.now_ns)
        assert link.data_to_send()[3] == ReplyFlag.SUCCESS
