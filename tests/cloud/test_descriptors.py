"""A process that is near its descriptors: pages answer, the log stays small, links come back."""

import resource
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from contextlib import ExitStack

import pytest
from bmsota_cloud.descriptors import DescriptorPlan

from bmsota.gbt32960 import Command, Frame, ReplyFlag, VehicleLogin, beijing_time, encode

VIN = "TESTVEHICLE000001"
# In a process of its own, because the limit is the process's.
SERVER = """
    import asyncio, logging, resource, sys
    from hashlib import sha256
    from pathlib import Path
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    soft, hard = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    from bmsota_cloud.clock import wall_clock
    from bmsota_cloud.services import PlatformKeys
    from bmsota_cloud.wiring import RunningCloud, ServeOptions

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    key = Ed25519PrivateKey.from_private_bytes(sha256(b"order").digest())
    keys = PlatformKeys(order_signing_key=key, manifest_public_keys=(), image_public_keys=())

    async def main():
        running = await RunningCloud.start(ServeOptions(keys=keys, data_dir=Path(sys.argv[3])))
        running.cloud.services.vehicles.register(
            vin="TESTVEHICLE000001", series="F7", project="p", hwid="M1", device_public_key=b"x" * 32, now=wall_clock()
        )
        print(running.http_port, running.gateway_port, resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await running.stop()

    asyncio.run(main())
"""


class Server:
    def __init__(self, folder, soft, hard):
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVER), str(soft), str(hard), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
        )
        first = self.process.stdout.readline()
        assert first, self.log.read_text()
        self.http, self.gateway, self.limit = map(int, first.split())

    def page(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/login", timeout=30) as answer:
            return answer.status

    def stop(self):
        """How a thousand links are closed is not what this is about."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        return self.log.read_text()


def connect(stack, port, count):
    """Open connections without waiting for any of them."""
    for number in range(count):
        link = stack.enter_context(socket.socket())
        link.setblocking(False)
        # One address has no more ports than the tests of a whole run should spend at once.
        link.bind((f"127.0.0.{2 + number % 4}", 0))
        link.connect_ex(("127.0.0.1", port))


def log_in(port):
    """The flag with which a vehicle's login is answered."""
    login = VehicleLogin(time=beijing_time(time.time_ns()), serial=1, iccid="8" * 20)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
        link.sendall(encode(Frame(command=Command.VEHICLE_LOGIN, vin=VIN, message=login)))
        return link.recv(4)[3]


@pytest.fixture
def descriptors():
    """This process may have thousands, if its hard limit allows them: it holds the other ends of the links."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("descriptors")
def test_1_100_idle_links_are_no_matter_where_the_hard_limit_allows_them(tmp_path):
    server = Server(tmp_path, 256, 2000)
    assert server.limit == 2000
    with ExitStack() as stack:
        connect(stack, server.gateway, 1100)
        assert server.page() == 200
        assert log_in(server.gateway) == ReplyFlag.SUCCESS
    assert "no new connection" not in server.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("descriptors")
def test_where_it_does_not_pages_answer_one_line_says_so_and_links_come_back(tmp_path):
    server = Server(tmp_path, 256, 400)
    assert server.limit == 400
    with ExitStack() as stack:
        connect(stack, server.gateway, 1100)
        for _ in range(20):
            assert server.page() == 200
        # Strangers that ask for nothing at the door of the pages do not keep people out either.
        connect(stack, server.http, 300)
        for _ in range(20):
            assert server.page() == 200
    assert log_in(server.gateway) == ReplyFlag.SUCCESS
    assert server.page() == 200
    log = server.stop()
    assert log.count("no new connection is accepted") == 1
    assert len(log) < 2000, log[:4000]


@pytest.mark.parametrize("limit", [64, 256, 1024, 4096, 20_000])
def test_every_share_has_room(limit):
    plan = DescriptorPlan.of(limit)
    assert 0 < plan.links_max < limit
    if limit >= 256:
        # Beside links and HTTP, for databases, mails, files.
        assert limit - plan.links_max - plan.http_connections_max >= 40
        assert plan.links_max >= limit // 2
