"""Health and figures, and who may see them."""

import sqlite3
from threading import Event

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.wiring import build_app
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def client(world):
    """With an app of its own: what `/healthz` answered a moment ago is kept in it."""
    with TestClient(build_app(world.cloud), base_url="http://cloud.example:8080") as made:
        yield made


@pytest.fixture
def local(world):
    """A program on this machine."""
    with TestClient(build_app(world.cloud), client=("127.0.0.1", 50000)) as made:
        yield made


def figures(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_health_needs_no_account_and_says_that_both_databases_answer(client):
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "platform_database": "ok", "telemetry_database": "ok"}
    assert client.get("/healthz/live").json() == {"status": "ok"}


def test_a_database_that_is_away_is_named_and_the_process_lives_all_the_same(world, client, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.api.monitoring._HEALTH_VALID_S", 0.0)

    def away(vin):
        raise StorageUnavailableError("the database does not answer; try again in a few seconds", code="storage-away")

    with monkeypatch.context() as broken:
        broken.setattr(world.cloud.telemetry, "newest", away)
        answer = client.get("/healthz")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json() == {
            "status": "unavailable",
            "platform_database": "ok",
            "telemetry_database": "the database does not answer; try again in a few seconds",
        }
        assert client.get("/healthz/live").status_code == 200
    assert client.get("/healthz").status_code == 200


def test_a_database_that_never_answers_does_not_keep_anybody_waiting(world, client, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.api.monitoring._HEALTH_TIMEOUT_S", 0.1)
    calls, answers = [], Event()

    def hangs(vin):
        calls.append(vin)
        answers.wait(30)

    monkeypatch.setattr(world.cloud.telemetry, "newest", hangs)
    try:
        for _ in range(3):
            answer = client.get("/healthz")
            assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert client.get("/healthz/live").status_code == 200
        # Everybody waits for the same question.
        assert len(calls) == 1
    finally:
        answers.set()


def test_a_change_that_could_not_be_kept_is_told_until_one_is_kept(new_world, open_client, tmp_path, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.storage.sql._engine._BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr("bmsota_cloud.api.monitoring._HEALTH_VALID_S", 0.0)
    world = new_world(data_dir=tmp_path)
    client, _ = open_client(world)
    holder = sqlite3.connect(tmp_path / "platform.sqlite", isolation_level=None)
    holder.execute("begin immediate")
    with pytest.raises(StorageUnavailableError):
        world.register(1)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["platform_database"].startswith("the last change was not kept: the database is busy")
    holder.rollback()
    holder.close()
    world.register(1)
    assert client.get("/healthz").json()["status"] == "ok"


def test_figures_are_the_platform_s(world, local):
    task = world.approved(1, 2)
    world.register(3)
    world.services.ingest.log_in(world.vin(1), serial=1, now=world.now)
    world.services.counters.add("frame_refused", 7)
    world.services.gauges["ingest_queue_bytes"] = lambda: 4096
    world.tell(world.vin(2), 4, order_id="nobody's")
    answer = local.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = figures(answer.text)
    assert found["bmsota_events_total", "frame_refused"] == 7
    assert found["bmsota_ingest_queue_bytes",] == 4096
    assert found["bmsota_links",] == 1
    assert (found["bmsota_vehicles", "online"], found["bmsota_vehicles", "offline"]) == (1, 2)
    assert (found["bmsota_ota_tasks", "Approved"], found["bmsota_ota_tasks", "Unapproved"]) == (1, 0)
    assert sum(value for (name, *_), value in found.items() if name == "bmsota_vehicle_upgrades") == 2
    assert found["bmsota_mails_waiting",] == 0
    assert found["bmsota_database_up",] == 1
    assert found["process_open_fds",] > 0
    for word in (task.creator, world.vin(1), "M-000001", "example.org"):
        assert word not in answer.text


def test_figures_without_a_database_are_those_of_the_process(world, local, monkeypatch):
    def away():
        raise StorageUnavailableError("away", code="storage-away")

    world.services.ingest.log_in(world.register(1), serial=1, now=world.now)
    monkeypatch.setattr(world.cloud.store, "reading", away)
    found = figures(local.get("/metrics").text)
    assert (found["bmsota_database_up",], found["bmsota_links",]) == (0, 1)
    assert ("bmsota_vehicles", "online") not in found


def test_a_stranger_sees_no_figures_and_an_account_does(world, client, bearer):
    refused = client.get("/metrics")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["error"] == "no-session"
    assert client.get("/metrics", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert client.get("/metrics", headers=bearer("vera")).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_what_a_proxy_on_this_machine_has_forwarded_is_not_of_this_machine(local, header):
    assert local.get("/metrics").status_code == 200
    assert local.get("/metrics", headers={header: "127.0.0.1"}).status_code == 401
