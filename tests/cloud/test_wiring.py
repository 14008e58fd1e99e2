"""The platform in a process: everything together, and what goes wrong at the start."""

import asyncio
import json
import logging
import sqlite3
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from bmsota_cloud.clock import wall_clock, wall_clock_ns
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.outbox import Mail
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.refusals import RefusalCause
from bmsota_cloud.keys import SAMPLE_KEY_HASHES
from bmsota_cloud.services import PlatformSettings
from bmsota_cloud.tls import server_context
from bmsota_cloud.wiring import RunningCloud, ServeOptions
from certificates import make_certificate

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import Command, Frame, ReplyFlag, VehicleLogin, beijing_time, encode
from bmsota.image import key_hash

PASSWORD = "correct horse battery"


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_what_a_proxy_is_said_to_have_forwarded_is_not_the_address(sample_keys):
    """Tries are counted by the address of the connection; a header that anybody can write is none."""

    def tries(url):
        statuses = []
        for number in range(12):
            request = urllib.request.Request(
                f"{url}/api/v1/login",
                b'{"name": "carol", "password": "wrong"}',
                {
                    "Content-Type": "application/json",
                    "X-Forwarded-For": f"10.0.0.{number}",
                    "Forwarded": f"for=10.0.0.{number}",
                },
            )
            try:
                urllib.request.urlopen(request, timeout=10)
            except urllib.error.HTTPError as refusal:
                statuses.append((refusal.code, refusal.headers["Retry-After"] is not None))
        return statuses

    async def play():
        settings = PlatformSettings(password_memory_kib=64, password_passes=1, password_lanes=1)
        running = await RunningCloud.start(ServeOptions(keys=sample_keys, settings=settings))
        try:
            return await asyncio.to_thread(tries, running.http_url)
        finally:
            await running.stop()

    assert asyncio.run(play()) == [(401, False)] * 10 + [(429, True)] * 2


@pytest.mark.slow
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
        running.clock_guard.accept()
        try:
            async with asyncio.timeout(120):
                await third.wait()
        finally:
            await running.stop()

    asyncio.run(play())
    assert "ticker: failed; retrying" in caplog.text
    assert calls[-1] - calls[0] < timedelta(seconds=10)


@pytest.mark.slow
def test_days_that_are_over_are_compacted_by_a_clock_that_is_trusted(sample_keys, monkeypatch):
    """Slice after slice, and one that fails does not end it."""
    monkeypatch.setattr("bmsota_cloud.wiring._TICK_S", 0.01)
    ticks, calls = [], []

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys))
        services = running.cloud.services
        loop, ticked, done = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def tick():
            ticks.append(1)
            if len(ticks) == 10:
                loop.call_soon_threadsafe(ticked.set)

        def run(_, now):
            calls.append(running.clock_guard.is_waiting)
            if len(calls) == 3:
                raise StorageUnavailableError("the disk of the database is full", code="storage-full")
            if len(calls) == 6:
                loop.call_soon_threadsafe(done.set)
            return len(calls) < 5

        monkeypatch.setattr(type(services.compaction), "run", run)
        monkeypatch.setattr(services.link_watch, "flush", tick)
        try:
            async with asyncio.timeout(120):
                await ticked.wait()
                assert calls == []
                running.clock_guard.accept()
                await done.wait()
        finally:
            await running.stop()

    asyncio.run(play())
    assert not any(calls)


@pytest.mark.slow
@pytest.mark.parametrize("reading", [20, 21, 22])
def test_nothing_ends_and_nothing_is_deleted_before_the_clock_is_trusted(sample_keys, monkeypatch, reading):
    """A tick reads the clock three times; the guard may begin to trust it at any of them."""
    monkeypatch.setattr("bmsota_cloud.wiring._TICK_S", 0.01)
    looked, calls = [], []

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys))
        loop, pruned = asyncio.get_running_loop(), asyncio.Event()
        services, real = running.cloud.services, running.clock.now

        def now():
            looked.append(running.clock_guard.is_waiting)
            if len(looked) == reading:
                # Some ticks later three vehicles say what time it is.
                assert calls == []
                for vin in "ABC":
                    running.clock_guard.hear(vin, int(real().timestamp()))
            return real()

        def prune(at):
            calls.append("prune")
            loop.call_soon_threadsafe(pruned.set)

        monkeypatch.setattr(services.upgrades, "expire", lambda at: calls.append("expire"))
        monkeypatch.setattr(services.ingest, "prune", prune)
        monkeypatch.setattr(running.clock, "now", now)
        try:
            async with asyncio.timeout(120):
                await pruned.wait()
        finally:
            await running.stop()

    asyncio.run(play())
    assert len(looked) >= reading
    assert calls[:2] == ["expire", "prune"]


@pytest.mark.slow
def test_nothing_is_deleted_by_a_reading_that_shows_a_jump(sample_keys, monkeypatch):
    """The clock jumps in the middle of a tick that began in good order."""
    monkeypatch.setattr("bmsota_cloud.wiring._TICK_S", 0.01)
    pruned, expired = [], []

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys))
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        services, guard, real = running.cloud.services, running.clock_guard, running.clock.now
        monkeypatch.setattr(services.upgrades, "expire", expired.append)
        monkeypatch.setattr(services.ingest, "prune", pruned.append)
        readings = []

        def now():
            if expired:
                readings.append(1)
            if len(readings) == 2:
                # The one for pruning.
                monkeypatch.setattr(type(guard), "is_waiting", property(lambda self: True))
            if len(readings) == 9:
                loop.call_soon_threadsafe(seen.set)
            return real()

        monkeypatch.setattr(running.clock, "now", now)
        guard.accept()
        try:
            async with asyncio.timeout(30):
                await seen.wait()
        finally:
            await running.stop()

    asyncio.run(play())
    assert expired
    assert pruned == []


@pytest.mark.slow
def test_links_begin_anew_when_the_clock_is_put_back(sample_keys, monkeypatch, caplog):
    """Their deadlines are of the wrong time: a vehicle that fell silent would stay online until that time comes."""
    monkeypatch.setattr("bmsota_cloud.wiring._TICK_S", 0.01)

    class Link:
        def close(self):
            closed.append(True)
            loop.call_soon_threadsafe(woken.set)

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys))
        services, vin = running.cloud.services, "TESTVEHICLE000001"
        services.vehicles.register(
            vin=vin, series="F7", project="p", hwid="M", device_public_key=b"\x01" + bytes(31), now=running.clock.now()
        )
        services.ingest.log_in(vin, serial=1, now=running.clock.now())
        running.cloud.router.register(vin, Link())
        running.clock_guard.accept()
        try:
            async with asyncio.timeout(120):
                # An operator says so; the guard has run ahead of the wall clock.
                running.clock_guard._offset_ns += 7200 * 10**9
                running.clock_guard.accept()
                await woken.wait()
            assert len(running.cloud.router) == 0
            assert not running.cloud.services.presence.is_here(vin)
        finally:
            await running.stop()

    closed, woken = [], asyncio.Event()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        runner.run(play())
    assert closed == [True]
    assert "the clock was put back; 1 links are closed" in caplog.text


@pytest.mark.slow
def test_what_a_wrong_clock_has_written_is_put_right_before_it_is_judged(sample_keys, monkeypatch):
    """A mail that was dated two hours ahead is sent when the clock is put back, and the audit log says so."""
    monkeypatch.setattr("bmsota_cloud.wiring._TICK_S", 0.01)

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys))
        store = running.cloud.store
        running.clock_guard.accept()
        try:
            running.clock_guard._offset_ns += 7200 * 10**9
            now = running.clock.now()
            with store.transaction() as work:
                mail = work.outbox.add(
                    Mail(recipient="a@b.example", subject="s", body="b", task_id=None, created_at=now, next_try_at=now)
                )
                work.outbox.save(replace(mail, next_try_at=now + timedelta(minutes=1), tries=1))
            running.clock_guard.accept()
            async with asyncio.timeout(120):
                while True:
                    with store.reading() as work:
                        lines = work.audit.newest("clock", action="clock.mend", limit=9)
                        if lines and work.outbox.waiting() == 0:
                            return [line.detail for line in lines]
                    await asyncio.sleep(0.01)
        finally:
            await running.stop()

    assert asyncio.run(play()) == ["written by a wrong clock: 1 mails"]


@pytest.mark.slow
def test_a_start_with_a_sample_key_is_logged_as_a_warning(sample_keys, monkeypatch, caplog):
    async def play(keys):
        running = await RunningCloud.start(ServeOptions(keys=keys))
        await running.stop()

    asyncio.run(play(sample_keys))
    assert "sample" not in caplog.text
    monkeypatch.setitem(SAMPLE_KEY_HASHES, key_hash(sample_keys.image_public_keys[0]), "image")
    asyncio.run(play(sample_keys))
    assert [record.levelno for record in caplog.records if "sample image key" in record.message] == [logging.WARNING]


@pytest.mark.slow
def test_each_process_on_the_same_data_has_a_gateway_name_of_its_own(tmp_path, sample_keys, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.storage.sql.telemetry.OWN_NAME_TIMEOUT_S", 0.2)
    monkeypatch.setattr("bmsota_cloud.wiring.socket.gethostname", lambda: "host")

    async def play():
        named = ServeOptions(keys=sample_keys, data_dir=tmp_path, gateway_name="north")
        running = [await RunningCloud.start(named)]
        try:
            with pytest.raises(ConfigurationError, match="gateway name 'north': another process"):
                await RunningCloud.start(named)
            unnamed = ServeOptions(keys=sample_keys, data_dir=tmp_path)
            running += [await RunningCloud.start(unnamed), await RunningCloud.start(unnamed)]
            with closing(sqlite3.connect(tmp_path / "telemetry.sqlite")) as connection:
                return [name for (name,) in connection.execute("SELECT name FROM report_writer ORDER BY number")]
        finally:
            for each in running:
                await each.stop()

    assert asyncio.run(play()) == ["north", "host", "host-2"]


@pytest.mark.slow
def test_a_second_process_on_the_same_data_leaves_the_vehicles_of_the_first_online(tmp_path, sample_keys, monkeypatch):
    """And a vehicle that goes to the second is closed at the first."""
    monkeypatch.setattr("bmsota_cloud.wiring._RENEW_S", 0.3)
    vin = "TESTVEHICLE000001"

    async def play():
        first = await RunningCloud.start(ServeOptions(keys=sample_keys, data_dir=tmp_path))
        presence = first.cloud.services.presence
        try:
            first.cloud.services.vehicles.register(
                vin=vin, series="F7", project="p", hwid="M1", device_public_key=b"x" * 32, now=wall_clock()
            )
            older = await connect(first.gateway_port, vin)
            await asyncio.to_thread(presence.flush)
            second = await RunningCloud.start(ServeOptions(keys=sample_keys, data_dir=tmp_path))
            try:
                for cloud in (first.cloud, second.cloud):
                    assert (await asyncio.to_thread(cloud.services.presence.is_online, [vin])) == {vin: True}
                newer = await connect(second.gateway_port, vin)
                # The first hears of it with its next renewal.
                async with asyncio.timeout(120):
                    assert await older.read() == b""
                assert not presence.is_here(vin)
                assert second.cloud.services.presence.is_here(vin)
                assert (await asyncio.to_thread(presence.is_online, [vin])) == {vin: True}
            finally:
                await second.stop()
            assert (await asyncio.to_thread(presence.is_online, [vin])) == {vin: False}
            assert await newer.read() == b""
        finally:
            await first.stop()

    asyncio.run(play())


async def connect(port, vin):
    """A vehicle that has logged in; what comes to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    login = VehicleLogin(time=beijing_time(wall_clock_ns()), serial=1, iccid="8" * 20)
    writer.write(encode(Frame(command=Command.VEHICLE_LOGIN, vin=vin, message=login)))
    assert (await reader.readexactly(4))[3] == ReplyFlag.SUCCESS
    await reader.readexactly(27)
    OPEN.append(writer)
    return reader


OPEN: list[asyncio.StreamWriter] = []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trusted", "address"),
    [((), "127.0.0.1"), (("192.0.2.0/24",), "127.0.0.1"), (("127.0.0.0/8",), "198.51.100.7")],
)
def test_only_a_trusted_proxy_says_where_a_visitor_is(sample_keys, trusted, address):
    """Else every visitor could choose the address that limits and the audit log know."""

    def log_in(url):
        request = urllib.request.Request(
            f"{url}/api/v1/login",
            json.dumps({"name": "nobody", "password": "nothing at all"}).encode(),
            {"Content-Type": "application/json", "X-Forwarded-For": "198.51.100.7"},
        )
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=120)

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys, trusted_proxies=trusted))
        try:
            await asyncio.to_thread(log_in, running.http_url)
            with running.cloud.store.reading() as work:
                (entry,) = work.audit.page(PageRequest(), subject="account nobody").items
            return entry.address
        finally:
            await running.stop()

    assert asyncio.run(play()) == address


@pytest.mark.slow
def test_what_was_odd_is_written_down_although_the_clock_is_not_trusted_yet(sample_keys, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.wiring._TICK_S", 0.01)

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys))
        loop, flushed = asyncio.get_running_loop(), asyncio.Event()
        services = running.cloud.services
        monkeypatch.setattr(services.link_watch, "flush", lambda: loop.call_soon_threadsafe(flushed.set))
        try:
            async with asyncio.timeout(120):
                await flushed.wait()
            return services.clock.is_waiting
        finally:
            await running.stop()

    assert asyncio.run(play())


@pytest.mark.slow
def test_what_was_refused_is_written_by_the_ticker(sample_keys, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.wiring._TICK_S", 0.01)

    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys))
        rows = ()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", running.gateway_port)
            writer.write(b"GET / HTTP/1.1\r\n" + b"x" * 10_000)
            async with asyncio.timeout(120):
                while not rows:
                    await asyncio.sleep(0.02)
                    with running.cloud.store.reading() as work:
                        rows = work.refusals.page(PageRequest(), text="", cause=None, is_registered=None).items
            writer.close()
            (row,) = rows
            return row.refusal
        finally:
            await running.stop()

    refusal = asyncio.run(play())
    assert (refusal.cause, refusal.address, set(refusal.head)) == (RefusalCause.NOT_A_FRAME, "127.0.0.1", set(b"x"))


@pytest.mark.slow
def test_a_failed_tls_handshake_leaves_a_record(sample_keys, tmp_path):
    """A terminal without TLS has its record, in OpenSSL's words.

    Who only knocks afterwards, or does not say that he distrusts our certificate, has another, and hides nothing.
    """
    cert, key = make_certificate(tmp_path)

    async def play():
        options = ServeOptions(keys=sample_keys, ssl_context=server_context(cert, key))
        running = await RunningCloud.start(options)
        service = running.cloud.services.refusals
        try:
            _, plain = await asyncio.open_connection("127.0.0.1", running.gateway_port)
            plain.write(bytes.fromhex("232301fe") + b"V" * 17)
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection("127.0.0.1", running.gateway_port, ssl=ssl.create_default_context())
            async with asyncio.timeout(120):
                _, knocking = await asyncio.open_connection("127.0.0.1", running.gateway_port)
                knocking.close()
                while True:
                    service.flush()
                    with running.cloud.store.reading() as work:
                        rows = work.refusals.page(PageRequest(), text="", cause=None, is_registered=None).items
                    if sum(row.refusal.count for row in rows) == 3:
                        break
                    await asyncio.sleep(0)
            plain.close()
            return [row.refusal for row in rows]
        finally:
            await running.stop()

    found = {refusal.cause: refusal for refusal in asyncio.run(play())}
    assert set(found) == {RefusalCause.TLS_HANDSHAKE, RefusalCause.TLS_ABANDONED}
    refusal = found[RefusalCause.TLS_HANDSHAKE]
    assert (refusal.address, refusal.answered) == ("127.0.0.1", None)
    assert refusal.detail in {"wrong version number", "tlsv1 alert unknown ca"}
    assert found[RefusalCause.TLS_ABANDONED].detail == "the other end closed the connection"


@pytest.mark.slow
def test_the_number_of_links_is_a_setting(sample_keys):
    async def play():
        running = await RunningCloud.start(ServeOptions(keys=sample_keys, settings=PlatformSettings(links_max=1)))
        try:
            first_reader, first = await asyncio.open_connection("127.0.0.1", running.gateway_port)
            second_reader, second = await asyncio.open_connection("127.0.0.1", running.gateway_port)
            async with asyncio.timeout(120):
                assert await second_reader.read() == b""
            assert not first_reader.at_eof()
            first.close()
            second.close()
        finally:
            await running.stop()

    asyncio.run(play())
