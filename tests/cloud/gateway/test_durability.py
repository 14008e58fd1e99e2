"""What an acknowledgement is worth: kill -9, power cut, full disk, the end of the process, a flood. Real processes, real databases."""

import asyncio
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import StoredFrame
from bmsota_cloud.domain.vehicles import Vehicle
from bmsota_cloud.gateway import GatewayServer, ReportWriter
from bmsota_cloud.services.counters import Counters
from bmsota_cloud.services.derivation import Derivation
from bmsota_cloud.storage.sql import SqlStore, SqlTelemetryStore
from long_run import LONG
from memory_telemetry import MemoryTelemetry
from postgresql import OwnServer, fresh_database, some_database

from bmsota.gbt32960 import Alarms, Command, Frame, Position, Report, TerminalSession, encode

ROOT = __file__.rpartition("/tests/")[0]
LIMIT_S = 120.0
VINS = [f"LDURABLE{number:09d}" for number in range(5)]
BASE_S = int(datetime(2026, 11, 29, 6, tzinfo=UTC).timestamp())

# The platform's gateway as `bmsota-cloud serve` wires it, without the web; it says its port and ends on SIGTERM. The third argument is
# its name, if it is to have one.
SERVER = """
import asyncio, signal, sys
from pathlib import Path
from bmsota_cloud.gateway import GatewayServer
from bmsota_cloud.platform import build_cloud
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from bmsota_cloud.clock import wall_clock_ns
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

async def main():
    keys = PlatformKeys(order_signing_key=Ed25519PrivateKey.generate(), manifest_public_keys=(), image_public_keys=())
    cloud = build_cloud(keys=keys, data_dir=Path(sys.argv[1]), telemetry_url=sys.argv[2],
                        settings=PlatformSettings(acknowledge_reports=True),
                        gateway_name=sys.argv[3] or "local", is_gateway_name_fixed=bool(sys.argv[3]))
    cloud.services.ingest.recover()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = GatewayServer(cloud.open_link, wall_clock_ns, writer=cloud.make_writer())
    print(await server.start("127.0.0.1", 0), flush=True)
    await stop.wait()
    await server.stop()
    cloud.close()

asyncio.run(main())
"""


def report(vin, number, *, size=60):
    """A report that tells its number, one second after the one before."""
    at = datetime.fromtimestamp(BASE_S + number, UTC)
    bodies = (Position(valid=True, longitude_deg=number % 180, latitude_deg=1.0), Alarms(0, 0, tuple(range(size))))
    return encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(at, bodies)))


def register(folder):
    store = SqlStore(f"sqlite:///{folder / 'platform.sqlite'}")
    with store.transaction() as work:
        for number, vin in enumerate(VINS):
            work.vehicles.add(
                Vehicle(
                    vin=vin,
                    series="F7",
                    project="p",
                    hwid=f"H{number}",
                    device_public_key=bytes(32),
                    registered_at=datetime.fromtimestamp(BASE_S, UTC),
                )
            )
    store.close()


@contextmanager
def serving(folder, url="", limits=None, name=""):
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder), url, name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=limits,  # noqa: PLW1509 - only a limit and a signal, before anything runs
    ) as process:
        try:
            process.port = int(process.stdout.readline())
            yield process
        finally:
            process.kill()


class Terminal:
    """A vehicle on a plain socket: sends, and counts which of its reports were acknowledged, in order."""

    def __init__(self, port, vin):
        self.vin = vin
        self.sent = 0
        self.acknowledged = 0
        self.refused = 0
        self.rest = b""
        session = TerminalSession(vin=vin, iccid="8" * 20)
        session.handle_timeout(time.time_ns())
        session.connected(time.time_ns())
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self.socket.sendall(session.data_to_send())
        answer = self.socket.recv(4096)
        assert answer[2:4] == b"\x01\x01"

    def send(self, count, make=report, **options):
        for _ in range(count):
            self.socket.sendall(make(self.vin, self.sent, **options))
            self.sent += 1

    def hear(self, *, until=None):
        """Take answers until so many are there; None: until the other end closes."""
        with suppress(ConnectionError):
            while until is None or self.acknowledged + self.refused < until:
                data = self.socket.recv(65536)
                if not data:
                    break
                data = self.rest + data
                while len(data) >= 25 and len(data) >= (size := 25 + int.from_bytes(data[22:24], "big")):
                    assert data[2] == Command.REALTIME_REPORT
                    self.acknowledged += data[3] == 1
                    self.refused += data[3] != 1
                    data = data[size:]
                self.rest = data


def kept(folder, vin, url=""):
    telemetry = SqlTelemetryStore(url or f"sqlite:///{folder / 'telemetry.sqlite'}")
    try:
        return [frame.frame for frame in telemetry.read(vin, 0, 2**40)]
    finally:
        telemetry.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request):
    if request.param == "sqlite":
        yield ""
        return
    with some_database() as url:
        yield url


@pytest.mark.long
@pytest.mark.parametrize("seed", range(len(VINS) if LONG else 1))
def test_kill_9_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path, url, seed):
    draw = random.Random(seed)
    register(tmp_path)
    vins = VINS if not url else [VINS[seed]]
    with serving(tmp_path, url) as process:
        terminals = [Terminal(process.port, vin) for vin in vins]
        goal = draw.randrange(20, 400)
        while sum(terminal.acknowledged for terminal in terminals) < goal:
            for terminal in terminals:
                terminal.send(draw.randrange(1, 30))
            terminals[0].hear(until=terminals[0].acknowledged + 1)
        time.sleep(draw.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
        for terminal in terminals:
            # What was on its way is an acknowledgement as well.
            terminal.hear()
            found = kept(tmp_path, terminal.vin, url)
            assert found[: terminal.acknowledged] == [report(terminal.vin, n) for n in range(terminal.acknowledged)]
            assert found == [report(terminal.vin, n) for n in range(len(found))]
    # And the next start derives what was stored and not derived.
    with serving(tmp_path, url) as process:
        again = Terminal(process.port, vins[0])
        again.sent = 5000
        again.send(1)
        again.hear(until=1)
        assert again.acknowledged == 1


def flagged(vin, number):
    """A report of which three are of one second, with a flag that goes on and off."""
    at = datetime.fromtimestamp(BASE_S + number // 3, UTC)
    bodies = (Position(valid=True, longitude_deg=number % 180, latitude_deg=1.0), Alarms(number % 4, number % 2))
    return encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(at, bodies)))


def derived(telemetry, vin):
    """The report time of the newest state, and all events, oldest first."""
    row = telemetry.newest([vin]).get(vin)
    pages = range(1, 1 + -(-telemetry.events(vin, PageRequest()).total // 500))
    events = [event for number in pages for event in telemetry.events(vin, PageRequest(number, 500)).items]
    return row and (row.reported_at_s, row.heard_at_ns), events[::-1]


def derived_at_once(frames, vin):
    memory = MemoryTelemetry()
    memory.append(frames)
    Derivation(memory, Counters(), keep_s=10**9).recover()
    return derived(memory, vin)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_kill_9_of_one_of_two_processes_leaves_nothing_underived(tmp_path, url, seed):
    """Its last second is derived by the other one, whether its vehicles have come there or are silent, and by itself after a restart."""
    draw = random.Random(seed)
    register(tmp_path)
    vins = VINS[:4] if not url else []
    if url:
        # One database for all tests of the module: vehicles of its own.
        vins = [f"LTWOPROCS{seed}{number:07d}" for number in range(4)]
        store = SqlStore(f"sqlite:///{tmp_path / 'platform.sqlite'}")
        with store.transaction() as work:
            known = work.vehicles.get(VINS[0])
            for number, vin in enumerate(vins):
                work.vehicles.add(replace(known, vin=vin, hwid=f"T{number}"))
        store.close()
    telemetry = SqlTelemetryStore(url or f"sqlite:///{tmp_path / 'telemetry.sqlite'}")

    def wait_until_derived():
        deadline = time.monotonic() + LIMIT_S
        while True:
            found = {vin: derived(telemetry, vin) for vin in vins}
            expected = {vin: derived_at_once(list(telemetry.read(vin, 0, 2**40)), vin) for vin in vins}
            if found == expected:
                return
            assert time.monotonic() < deadline, [vin for vin in vins if found[vin] != expected[vin]]
            time.sleep(0.2)

    def play(terminals, rounds):
        for _ in range(rounds):
            for terminal in terminals:
                terminal.send(draw.randrange(1, 20), flagged)
            for terminal in terminals:
                terminal.hear(until=terminal.sent)
            time.sleep(draw.random() * 0.1)

    with serving(tmp_path, url, name="b") as living:
        with serving(tmp_path, url, name="a") as killed:
            ours = [Terminal(killed.port, vin) for vin in vins[:2]]
            theirs = [Terminal(living.port, vin) for vin in vins[2:]]
            play([*ours, *theirs], draw.randrange(8, 30))
            killed.send_signal(signal.SIGKILL)
            killed.wait(LIMIT_S)
        # One of its vehicles comes over at once and goes on; the other one stays silent.
        moved = Terminal(living.port, vins[0])
        moved.sent = ours[0].sent
        moved.acknowledged = moved.sent
        play([moved, *theirs], 10)
        wait_until_derived()
        # The name comes back while the other process lives, and is killed again in the middle of traffic.
        with serving(tmp_path, url, name="a") as killed:
            back = Terminal(killed.port, vins[1])
            back.sent = back.acknowledged = ours[1].sent
            play([back, *theirs], draw.randrange(8, 30))
            killed.send_signal(signal.SIGKILL)
            killed.wait(LIMIT_S)
        with serving(tmp_path, url, name="a"):
            wait_until_derived()
    telemetry.close()


@pytest.mark.slow
def test_sigterm_stores_and_answers_what_was_read(tmp_path):
    register(tmp_path)
    with serving(tmp_path) as process:
        terminal = Terminal(process.port, VINS[0])
        terminal.send(500)
        terminal.hear(until=1)
        process.send_signal(signal.SIGTERM)
        terminal.hear()
        assert process.wait(LIMIT_S) == 0
    found = kept(tmp_path, VINS[0])
    # All that was stored was acknowledged, and nothing else.
    assert found == [report(VINS[0], n) for n in range(terminal.acknowledged)]
    assert terminal.acknowledged >= 1
    telemetry = SqlTelemetryStore(f"sqlite:///{tmp_path / 'telemetry.sqlite'}")
    assert telemetry.unread(1).frames == ()
    with telemetry.taking_over(1) as unread:
        assert unread.frames == ()
    assert len(telemetry.newest(VINS)) == 1
    telemetry.close()


def flood(terminal):
    while terminal.acknowledged < 20_000:
        terminal.send(100, size=250)
        terminal.hear(until=terminal.sent)


@pytest.mark.slow
def test_a_full_disk_stops_the_vehicles_and_loses_nothing(tmp_path):
    """A limit on the size of files stands for the disk: writing fails in the middle of a transaction, as it does there."""
    register(tmp_path)
    limit = 3 * 1024 * 1024

    def limits():
        # Otherwise the limit would end the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    with serving(tmp_path, limits=limits) as process:
        terminal = Terminal(process.port, VINS[0])
        terminal.socket.settimeout(3.0)
        with pytest.raises(TimeoutError):
            flood(terminal)
        before = terminal.acknowledged
        assert before < terminal.sent
        # There is room again: no restart, and what waits is stored.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        terminal.socket.settimeout(LIMIT_S)
        terminal.hear(until=terminal.sent)
        assert terminal.acknowledged == terminal.sent
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    assert kept(tmp_path, VINS[0]) == [report(VINS[0], n, size=250) for n in range(terminal.sent)]


@pytest.mark.slow
def test_a_server_that_is_stopped_killed_and_started_again_costs_nothing(tmp_path):
    register(tmp_path)
    with OwnServer() as database, fresh_database(database.address) as url, serving(tmp_path, url) as process:
        terminal = Terminal(process.port, VINS[0])
        terminal.send(100)
        terminal.hear(until=100)
        for how in (signal.SIGINT, signal.SIGQUIT):
            # In the middle of traffic, by an orderly stop and by a crash.
            terminal.send(200)
            database.stop(how)
            terminal.send(100)
            database.start()
            terminal.send(50)
            terminal.hear(until=terminal.sent)
            assert terminal.acknowledged == terminal.sent
        assert kept(tmp_path, VINS[0], url) == [report(VINS[0], n) for n in range(terminal.sent)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_kill_9_of_the_database_at_any_moment_loses_nothing(tmp_path, seed):
    """Of the server and all its processes, in the middle of commits; the platform goes on by itself when it is back."""
    draw = random.Random(seed)
    register(tmp_path)
    with OwnServer() as database, fresh_database(database.address) as url, serving(tmp_path, url) as process:
        terminals = [Terminal(process.port, vin) for vin in VINS[:3]]
        for _ in range(3):
            for terminal in terminals:
                terminal.send(draw.randrange(50, 300))
            time.sleep(draw.random() * 0.2)
            database.kill()
            for terminal in terminals:
                terminal.send(50)
            time.sleep(draw.random() * 0.5)
            database.start()
            for terminal in terminals:
                terminal.hear(until=terminal.sent)
                assert (terminal.acknowledged, terminal.refused) == (terminal.sent, 0)
        for terminal in terminals:
            assert kept(tmp_path, terminal.vin, url) == [report(terminal.vin, n) for n in range(terminal.sent)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
        # And all of it was derived, once.
        telemetry = SqlTelemetryStore(url)
        assert telemetry.unread(1).frames == ()
        for terminal in terminals:
            frames = list(telemetry.read(terminal.vin, 0, 2**40))
            assert derived(telemetry, terminal.vin) == derived_at_once(frames, terminal.vin)
        telemetry.close()


@pytest.mark.slow
def test_a_commit_on_postgresql_is_synced_whatever_the_server_s_default_is():
    import psycopg

    with some_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        telemetry = SqlTelemetryStore(url)
        frames = telemetry._on_postgresql

        async def setting():
            return await frames._connection.fetchval("SHOW synchronous_commit")

        assert frames._run(setting()) == "on"
        telemetry.close()


# --- power cut ------------------------------------------------------------------------------------------------------------


class PowerCut:
    """What a file system may have after a power cut: files as they were at the last sync, and of later writes any beginning.

    A copy is made whenever `append` has returned, which SQLite does after it has synced its write-ahead log. What the next commit
    has written by then is cut off at a random byte: the log only grows, and that is the worst that can happen to its end.
    """

    def __init__(self, folder, image):
        self.folder, self.image = folder, image

    def sync(self):
        shutil.rmtree(self.image, ignore_errors=True)
        shutil.copytree(self.folder, self.image)

    def cut(self, draw):
        """The image, with a random part of what was written behind the last sync."""
        for path in self.folder.rglob("*-wal"):
            synced = self.image / path.relative_to(self.folder)
            old = synced.read_bytes() if synced.exists() else b""
            new = path.read_bytes()
            if new.startswith(old):
                keep = draw.randrange(len(old), len(new) + 1)
                synced.write_bytes(new[:keep])
        for path in self.image.rglob("*-shm"):
            path.unlink()


def test_every_connection_syncs_at_each_commit(tmp_path):
    """`synchronous`: FULL for frames, so that the log is synced before `append` returns; NORMAL would lose the last of them."""
    telemetry = SqlTelemetryStore(f"sqlite:///{tmp_path / 'telemetry.sqlite'}")
    frames = telemetry._on_sqlite
    connection = frames._connect("2026-11-29", is_new=True)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA fullfsync").fetchone() == (0,)
    connection.close()
    telemetry.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_between_and_within_commits_loses_nothing_that_was_acknowledged(tmp_path, seed):
    def batch_at(begin, count):
        frames = [report(VINS[0], begin + n, size=draw.randrange(100)) for n in range(count)]
        return [
            StoredFrame(
                vin=VINS[0],
                frame=raw,
                clear=raw,
                reported_at_s=BASE_S + begin + n,
                arrived_at_ns=(BASE_S + begin + n) * 10**9,
                is_backfill=False,
            )
            for n, raw in enumerate(frames)
        ]

    draw = random.Random(seed)
    live, image = tmp_path / "live", tmp_path / "image"
    live.mkdir()
    power = PowerCut(live, image)
    telemetry = SqlTelemetryStore(f"sqlite:///{live / 'telemetry.sqlite'}")
    acknowledged = []
    for step in range(draw.randrange(1, 12)):
        batch = batch_at(100 * step, draw.randrange(1, 40))
        telemetry.append(batch)
        acknowledged += batch
        if draw.random() < 0.3:
            telemetry.save_derived([], [], telemetry.mark())
        power.sync()
    # One more commit is under way when the power goes.
    telemetry.append(batch_at(50_000, 20))
    power.cut(draw)
    telemetry.close()
    survivor = SqlTelemetryStore(f"sqlite:///{image / 'telemetry.sqlite'}")
    found = list(survivor.read(acknowledged[0].vin, 0, 2**40))
    assert found[: len(acknowledged)] == acknowledged
    # The last commit is there whole or not at all.
    assert len(found) - len(acknowledged) in {0, 20}
    survivor.close()


# --- flood ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flood_is_held_in_bytes_and_comes_in_whole(world):
    """Fifty links send as fast as they can while the database stands still: the queue stays bounded, then everything is there."""
    gate = threading.Event()

    def append(frames):
        gate.wait(LIMIT_S)
        return world.cloud.telemetry.append(frames)

    check_flood(world, append, gate.set)


@pytest.mark.slow
def test_a_flood_on_a_database_that_is_down_is_held_in_bytes_and_comes_in_whole(new_world):
    with OwnServer() as database, fresh_database(database.address) as url:
        world = new_world(telemetry_url=url)
        assert world.cloud.telemetry.unread(1).frames == ()
        database.kill()
        check_flood(world, world.cloud.telemetry.append, database.start)
        assert world.cloud.telemetry.unread(1).frames == ()
        world.cloud.telemetry.close()


def check_flood(world, append, let_go):
    vins = [world.register(number) for number in range(1, 51)]
    ingest = world.services.ingest
    bound = 1_000_000
    writer = ReportWriter(append, ingest.derive, ingest.recover, world.services.counters, size_bytes_max=bound)
    ingest.attach(writer)
    reports = 400

    async def send_all(port, vin):
        reader, out = await asyncio.open_connection("127.0.0.1", port)
        session = TerminalSession(vin=vin, iccid="8" * 20)
        session.handle_timeout(time.time_ns())
        session.connected(time.time_ns())
        out.write(session.data_to_send())
        assert (await reader.read(4096))[3] == 1
        for number in range(reports):
            out.write(report(vin, number))
        await out.drain()
        out.write_eof()
        await reader.read()
        out.close()

    async def play():
        server = GatewayServer(world.cloud.open_link, time.time_ns, writer=writer)
        port = await server.start("127.0.0.1", 0)
        async with asyncio.timeout(LIMIT_S):
            floods = [asyncio.create_task(send_all(port, vin)) for vin in vins]
            while not writer._is_full:  # noqa: ASYNC110 - it is set by a thread
                await asyncio.sleep(0.01)
            for _ in range(50):
                await asyncio.sleep(0.001)
            stood = writer.size_bytes
            await asyncio.to_thread(let_go)
            await asyncio.gather(*floods)
        await server.stop()
        ingest.attach(None)
        return stood

    stood = asyncio.run(play())
    # One read more at most, of 32 KiB, and what is around its frames.
    assert bound <= stood < bound + 4 * 32 * 1024
    for vin in vins:
        assert [frame.frame for frame in world.cloud.telemetry.read(vin, 0, 2**40)] == [
            report(vin, number) for number in range(reports)
        ]
