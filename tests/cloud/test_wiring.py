"""The platform put together: two runs alike, keys, everything in one process."""

import asyncio
import json
import urllib.error
import urllib.request
from datetime import timedelta
from hashlib import sha256

import pytest
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.wiring import RunningCloud, ServeOptions, load_keys, wall_clock, wall_clock_ns
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import UpgradeStateCode as Code

PASSWORD = "correct horse battery"


def run_through(world):
    """A task from creation to the report; everything that came out of the platform, as one digest."""
    task = world.approved(1, 2)
    wire = []
    for number in (1, 2):
        with world.cloud.store.reading() as work:
            wire.append(work.tasks.upgrade(task.id, number).order_document)
    login = world.services.accounts.log_in(name="carol", password=PASSWORD, now=world.now)
    wire.append(login.token.encode())
    wire.append(world.services.device.challenge("M-000001", world.now).challenge)
    world.wait(seconds=5)
    world.tell(world.vin(1), Code.DOWNLOADING, progress_pct=10)
    world.services.upgrades.report_received(world.vin(1), world.report(1, "OTA-1-1"), world.now)
    world.wait(days=4)
    world.services.upgrades.expire(world.now)
    wire.append(repr(world.detail(task)).encode())
    wire.append(repr(world.mails).encode())
    from bmsota_cloud.domain.paging import PageRequest

    wire.append(repr(world.services.audit.page(PageRequest(1, 500), by=world.people["anna"])).encode())
    return sha256(b"".join(wire)).hexdigest()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(new_world):
    first, second, other = (run_through(new_world(seed)) for seed in ("a", "a", "b"))
    assert first == second
    assert first != other


def test_a_file_gives_the_same_bytes_as_memory(new_world, tmp_path):
    assert run_through(new_world("a", data_dir=tmp_path)) == run_through(new_world("a"))
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"platform", "telemetry"}


def test_a_task_survives_a_restart(new_world, tmp_path):
    """ota.md C10, P23: state from the database, the instruction is still pending, the code still works."""
    from dataclasses import replace

    world = new_world("a", data_dir=tmp_path)
    world.register(1)
    world.identify(1)
    world.upload()
    task = world.create(1)
    code = world.newest_code()
    world.cloud.close()
    from bmsota_cloud.wiring import build_cloud

    again = build_cloud(
        keys=world.services.ota_tasks._context.keys,
        settings=world.cloud.settings,
        data_dir=tmp_path,
        draw=world.draw,
        clock=world.clock,
    )
    try:
        again.services.ota_tasks.approve(task.id, code=code, by=world.people["alan"], now=world.now)
        assert again.services.upgrades.pending_instruction(world.vin(1)).order_id == "OTA-1-1"
    finally:
        again.close()
    assert replace(task) == task


# --- keys


@pytest.fixture
def pem(tmp_path, sample_keys):
    path = tmp_path / "manifest.pem"
    key = sample_keys.manifest_public_keys[0]
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_the_order_key_is_made_once_and_kept_from_others(tmp_path, pem):
    first = load_keys(tmp_path / "data", manifest_keys=[pem], image_keys=[pem])
    second = load_keys(tmp_path / "data", manifest_keys=[pem], image_keys=[pem])
    raw = [keys.order_signing_key.private_bytes_raw() for keys in (first, second)]
    assert raw[0] == raw[1]
    assert (tmp_path / "data/keys/order_private.pem").stat().st_mode & 0o077 == 0
    assert b"PUBLIC KEY" in (tmp_path / "data/keys/order_public.pem").read_bytes()
    assert len(first.manifest_public_keys) == len(first.image_public_keys) == 1


def test_keys_that_can_not_be_used_are_refused_with_their_place(tmp_path, pem):
    text = tmp_path / "text.pem"
    text.write_text("no key")
    p256 = tmp_path / "p256.pem"
    p256.write_bytes(
        generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for manifest, image, words in (
        ([tmp_path / "none.pem"], [], "none.pem"),
        ([text], [], "text.pem"),
        ([p256], [], "p256.pem"),
        ([], [text], "text.pem"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            load_keys(tmp_path, manifest_keys=manifest, image_keys=image)
    assert len(load_keys(tmp_path, manifest_keys=[pem], image_keys=[p256]).image_public_keys) == 1


def test_the_clock_does_not_go_back(monkeypatch):
    times = iter([50, 40, 60])
    monkeypatch.setattr("bmsota_cloud.wiring._last_ns", 0)
    monkeypatch.setattr("bmsota_cloud.wiring.time.time_ns", lambda: next(times))
    assert [wall_clock_ns() for _ in range(3)] == [50, 50, 60]


# --- in one process


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_everything_runs_in_one_process_and_stops(tmp_path, sample_keys):
    async def play():
        running = await RunningCloud.start(
            ServeOptions(keys=sample_keys, data_dir=tmp_path, mail_folder=tmp_path / "m")
        )
        try:
            cloud = running.cloud
            await asyncio.to_thread(
                cloud.services.accounts.create,
                name="carol",
                email="carol@example.org",
                role=Role.OPERATOR,
                password=PASSWORD,
                now=wall_clock(),
            )
            answer = await asyncio.to_thread(
                post, f"{running.http_url}/api/v1/login", {"name": "carol", "password": PASSWORD}
            )
            assert cloud.settings.device_url == running.http_url
            assert running.gateway_port > 0
            assert running.mail_sink.port > 0
            return answer, running.http_url
        finally:
            await running.stop()

    answer, url = asyncio.run(play())
    assert answer["token"]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/api/v1/me", timeout=2)


def test_a_taken_address_is_an_error_and_leaves_nothing_running(tmp_path, sample_keys):
    async def play():
        first = await RunningCloud.start(ServeOptions(keys=sample_keys))
        try:
            with pytest.raises(OSError, match="in use"):
                await RunningCloud.start(ServeOptions(keys=sample_keys, http_port=first.http_port))
            with pytest.raises(OSError, match="in use"):
                await RunningCloud.start(ServeOptions(keys=sample_keys, gateway_port=first.gateway_port))
        finally:
            await first.stop()

    asyncio.run(play())


def test_the_ticker_goes_on_after_an_error(sample_keys, monkeypatch, caplog):
    monkeypatch.setattr("bmsota_cloud.wiring._TICK_S", 0.01)
    calls = []

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys))
        loop, third = asyncio.get_running_loop(), asyncio.Event()

        def expire(now):
            calls.append(now)
            if len(calls) == 3:
                loop.call_soon_threadsafe(third.set)
            raise RuntimeError("locked")

        monkeypatch.setattr(running.cloud.services.upgrades, "expire", expire)
        try:
            async with asyncio.timeout(10):
                await third.wait()
        finally:
            await running.stop()

    asyncio.run(play())
    assert "ticker: failed, goes on" in caplog.text
    assert calls[-1] - calls[0] < timedelta(seconds=10)
