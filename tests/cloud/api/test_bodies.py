"""A body is not read before its sender is known. Over real sockets: the answer comes although no byte of a body was sent."""

import asyncio
import socket

import pytest
from bmsota_cloud.api.middleware import BodyLimit
from fastapi import Response
from http_server import http_port

PASSWORD = "correct horse battery"
HUGE = 200 * 1024 * 1024


@pytest.fixture
def port(world):
    with http_port(world.cloud) as port:
        yield port


class Sender:
    """An HTTP client that sends the head of a request, and its body when told."""

    def __init__(self, port, line, **headers):
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.data = b""
        head = [f"{line} HTTP/1.1", "Host: cloud.example"]
        head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*head, "", ""]).encode())

    def send(self, data):
        self.socket.sendall(data)

    def head(self):
        """Status and headers of the next answer; its body is read too."""
        while b"\r\n\r\n" not in self.data:
            data = self.socket.recv(65536)
            assert data, f"closed after {self.data!r}"
            self.data += data
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(self.data) < int(headers.get("content-length", 0)):
            self.data += self.socket.recv(65536)
        self.body, self.data = self.data[: int(headers.get("content-length", 0))], b""
        return int(status.split()[1]), headers

    def close(self):
        self.socket.close()


@pytest.fixture
def send(port):
    senders = []

    def made(line, **headers):
        senders.append(Sender(port, line, **headers))
        return senders[-1]

    yield made
    for sender in senders:
        sender.close()


def token(world, name):
    return f"Bearer {world.services.accounts.log_in(name=name, password=PASSWORD, now=world.now).token}"


FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize("length", [{"Content_Length": HUGE}, {"Transfer_Encoding": "chunked"}])
@pytest.mark.parametrize(
    ("who", "status", "error"),
    [("", 401, "no-session"), ("Bearer made-up", 401, "no-session"), ("vera", 403, "not-allowed")],
)
def test_an_upload_of_somebody_who_may_not_is_refused_before_it_is_sent(world, send, length, who, status, error):
    authorization = token(world, who) if who == "vera" else who
    headers = {"Authorization": authorization} if authorization else {}
    sender = send("POST /api/v1/releases", Content_Type=FORM, **headers, **length)
    got, answer = sender.head()
    assert (got, answer["connection"], error.encode() in sender.body) == (status, "close", True)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("POST /api/v1/tasks", 401),
        ("PATCH /api/v1/tasks/1", 401),
        ("POST /api/v1/me/password", 401),
        ("POST /api/v1/nothing", 404),
        ("POST /nothing", 404),
        ("POST /device/v1/orders/OTA-1-1/confirm", 401),
        ("POST /device/v1/nothing", 404),
        ("PUT /device/v1/order", 404),
        ("POST /ota/tasks/1/approve", 303),
        ("POST /logout", 303),
    ],
)
def test_nothing_of_a_stranger_is_read(send, line, status):
    """The REST API, the device API and the forms of the pages."""
    content_type = "application/json" if "v1" in line else "application/x-www-form-urlencoded"
    got, answer = send(line, Content_Type=content_type, Content_Length=1000).head()
    assert (got, answer["connection"]) == (status, "close")


@pytest.mark.parametrize(
    ("line", "length"),
    [
        ("POST /api/v1/login", 17 * 1024),
        ("POST /login", 17 * 1024),
        ("POST /device/v1/challenge", 6 * 1024),
        ("POST /api/v1/tasks", 1024 * 1024 + 1),
        ("POST /api/v1/releases", 256 * 1024 * 1024 + 1),
    ],
)
def test_too_long_a_body_is_refused_before_it_is_sent(world, send, line, length):
    sender = send(line, Authorization=token(world, "carol"), Content_Length=length)
    got, answer = sender.head()
    assert (got, answer["connection"], b"too-large" in sender.body) == (413, "close", True)


def test_too_long_a_body_in_chunks_is_refused_in_the_middle(send):
    sender = send("POST /api/v1/login", Content_Type="application/json", Transfer_Encoding="chunked")
    for _ in range(5):
        sender.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
    assert sender.head()[0] == 413


def test_who_waits_for_100_continue_is_refused_instead_and_who_may_is_told_to_go_on(world, send):
    stranger = send("POST /api/v1/releases", Content_Type=FORM, Content_Length=HUGE, Expect="100-continue")
    assert stranger.head()[0] == 401
    assert stranger.socket.recv(1) == b""
    too_much = send("POST /api/v1/login", Content_Length=HUGE, Expect="100-continue")
    assert too_much.head()[0] == 413
    body = b'--x\r\nContent-Disposition: form-data; name="manifest"; filename="m"\r\n\r\nnonsense\r\n--x--\r\n'
    carol = send(
        "POST /api/v1/releases",
        Authorization=token(world, "carol"),
        Content_Type=FORM,
        Content_Length=len(body),
        Expect="100-continue",
    )
    assert carol.head()[0] == 100
    carol.send(body)
    assert carol.head()[0] == 422


def test_who_sends_all_of_it_before_he_reads_gets_the_answer_too(send):
    """The server throws away what is on its way instead of resetting the connection under the answer."""
    sender = send("POST /api/v1/releases", Content_Type=FORM, Content_Length=900_000)
    sender.send(b"x" * 900_000)
    assert sender.head()[0] == 401
    assert sender.socket.recv(1) == b""


def test_a_connection_goes_on_after_a_body_that_was_read(send):
    sender = send("POST /api/v1/login", Content_Type="application/json", Content_Length=2)
    sender.send(b"{}")
    got, answer = sender.head()
    assert got == 422
    assert answer.get("connection") != "close"
    sender.send(b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\n\r\n")
    assert sender.head()[0] == 401


@pytest.mark.parametrize(("expect", "reads"), [([], 1), ([(b"expect", b"100-continue")], 0)])
def test_after_a_refusal_only_what_is_on_its_way_is_read(expect, reads):
    """To read from a client that waits for "100 Continue" would be to send it that."""
    sent, received = [], []

    async def receive():
        received.append(1)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def refuse(scope, receive, send):
        await Response(status_code=401)(scope, receive, send)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/tasks",
        "headers": [(b"content-length", b"9"), *expect],
    }
    asyncio.run(BodyLimit(refuse, upload_size_bytes_max=256 * 1024 * 1024)(scope, receive, send))
    assert len(received) == reads
    assert (b"connection", b"close") in sent[0]["headers"]
    assert [message.get("more_body", False) for message in sent[1:]] == [True, False]
