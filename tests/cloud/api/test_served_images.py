"""What was served of an image is what has gone out, and not what was asked for. Over real sockets."""

import socket
import time

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from http_server import LIMIT_S, http_port

from bmsota.ota import device_api


@pytest.fixture
def port(world):
    with http_port(world.cloud, send_buffer_bytes=4096) as port:
        yield port


@pytest.fixture
def image(world, port, monkeypatch):
    """A vehicle with a session, and an image that fits in no buffer: its bytes are made longer where they are read."""
    task = world.approved(1)
    with world.cloud.store.reading() as work:
        digest = work.releases.get(1).images[0].sha256
    data = b"0123456789abcdef" * (1 << 18)
    real = world.services.device.image
    monkeypatch.setattr(world.services.device, "image", lambda *asked: real(*asked) and data)
    return Image(world, port, task, digest, data)


class Image:
    def __init__(self, world, port, task, digest, data):
        self.world, self.port, self.task, self.digest, self.data = world, port, task, digest, data
        self.token = world.session_of(1, "unit")

    def ask(self, method="GET", **headers):
        sent = socket.socket()
        sent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent.settimeout(LIMIT_S)
        sent.connect(("127.0.0.1", self.port))
        path = device_api.image_path(bytes.fromhex(self.digest))
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.token}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        sent.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        return sent

    def upgrade(self):
        return self.world.upgrade(self.task)

    def wait_for(self, what):
        deadline = time.monotonic() + LIMIT_S
        while not what(self.upgrade()):
            assert time.monotonic() < deadline, self.upgrade()
            time.sleep(0.01)


def read_all(sent, data=b""):
    """The body."""
    while more := sent.recv(1 << 20):
        data += more
    sent.close()
    return data.partition(b"\r\n\r\n")[2]


@pytest.mark.slow
def test_an_image_counts_when_its_last_byte_has_gone_out(image):
    sent = image.ask()
    data = sent.recv(1000)
    # The answer is made and under way.
    assert data.startswith(b"HTTP/1.1 200")
    time.sleep(0.2)
    assert image.upgrade().images_fetched == ()
    assert read_all(sent, data) == image.data
    image.wait_for(lambda upgrade: upgrade.images_fetched == (image.digest,))
    assert str(image.upgrade().status) == "Downloading"


@pytest.mark.slow
def test_a_download_that_breaks_off_is_one_and_no_whole_image(image):
    sent = image.ask()
    sent.recv(1000)
    sent.close()
    image.wait_for(lambda upgrade: str(upgrade.status) == "Downloading")
    assert image.upgrade().images_fetched == ()
    # Resumed to its end it is whole; and begun again and left, it is not.
    half = len(image.data) // 2
    assert read_all(image.ask(Range=f"bytes=0-{half - 1}")) == image.data[:half]
    assert image.upgrade().images_fetched == ()
    assert read_all(image.ask(Range=f"bytes={half}-")) == image.data[half:]
    image.wait_for(lambda upgrade: upgrade.images_fetched == (image.digest,))
    sent = image.ask(Range=f"bytes={half}-")
    sent.recv(1000)
    sent.close()
    image.wait_for(lambda upgrade: upgrade.images_fetched == ())


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_what_gives_no_bytes_is_not_noted(image, method):
    read_all(image.ask(method))
    read_all(image.ask(Range=f"bytes={len(image.data)}-"))
    assert image.upgrade().images_fetched == ()
    assert str(image.upgrade().status) == "Approved"


@pytest.mark.slow
def test_a_database_that_is_away_costs_the_unit_nothing(image, monkeypatch):
    def away(*_, **__):
        raise StorageUnavailableError("the database is away")

    monkeypatch.setattr(image.world.services.device, "image_served", away)
    assert read_all(image.ask()) == image.data
    deadline = time.monotonic() + LIMIT_S
    while not image.world.services.counters["image_served_not_noted"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
