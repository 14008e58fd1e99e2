"""Accepting stops in time when descriptors get scarce, and goes on when there are some again."""

import asyncio
import os
import resource
import socket
import ssl
from pathlib import Path

import pytest

from bmsota.adapters import asyncio_accept
from bmsota.adapters.asyncio_accept import Acceptor, descriptors_to_spend


class Peer(asyncio.Protocol):
    def __init__(self, open_peers):
        self.open_peers = open_peers

    def connection_made(self, transport):
        self.transport = transport
        self.open_peers.append(self)

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        self.open_peers.remove(self)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(asyncio_accept, "_LOOK_AGAIN_S", 0.01)


def listen():
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    return listening, listening.getsockname()[1]


async def until(condition):
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - what happens in the kernel has no event
            await asyncio.sleep(0.005)


@pytest.fixture
def next_descriptor():
    """The number the next descriptor gets, and all after it in order: what other tests have left open leaves no gaps."""
    filling = [os.dup(0)]
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    while filling[-1] < highest:
        filling.append(os.dup(0))

    def ask():
        number = os.dup(0)
        os.close(number)
        return number

    yield ask
    for number in filling:
        os.close(number)


def clients(count, port):
    made = [socket.socket() for _ in range(count)]
    for each in made:
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", port))
    return made


async def echoes(client):
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"x")
    async with asyncio.timeout(120):
        return await loop.sock_recv(client, 1)


def test_beyond_its_share_connections_wait_until_others_have_gone(quick, caplog, next_descriptor):
    async def play():
        listening, port = listen()
        open_peers = []
        made = clients(12, port)
        # Those of the clients and of the listening socket are open already.
        acceptor = Acceptor([listening], lambda: Peer(open_peers), descriptors_max=next_descriptor() + 5)
        await until(lambda: acceptor.is_holding_back)
        assert len(open_peers) == 6
        assert await echoes(made[0]) == b"x"
        await asyncio.sleep(0.05)
        assert len(open_peers) == 6
        for each in made[:6]:
            each.close()
        await until(lambda: len(open_peers) == 6)
        assert await echoes(made[6]) == await echoes(made[11]) == b"x"
        await acceptor.close()
        for each in made[6:]:
            each.close()
        await until(lambda: not open_peers)

    asyncio.run(play())
    assert caplog.text.count("no new connection is accepted") == 1
    assert "still" not in caplog.text


def test_a_process_without_any_descriptor_left_says_so_once_and_goes_on(quick, caplog, next_descriptor):
    async def play():
        listening, port = listen()
        open_peers = []
        made = clients(8, port)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_descriptor() + 3, hard))
        try:
            acceptor = Acceptor([listening], lambda: Peer(open_peers))
            await until(lambda: acceptor.is_holding_back)
            await asyncio.sleep(0.1)
            assert len(open_peers) == 3
            assert await echoes(made[0]) == b"x"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: len(open_peers) == 8)
        assert not acceptor.is_holding_back
        await acceptor.close()
        for each in made:
            each.close()
        await until(lambda: not open_peers)

    asyncio.run(play())
    assert len(caplog.records) == 1


def test_a_condition_that_lasts_is_said_again_after_a_while(quick, caplog, monkeypatch):
    monkeypatch.setattr(asyncio_accept, "_SAY_EVERY_S", 0.05)

    async def play():
        listening, port = listen()
        open_peers = []
        (made,) = clients(1, port)
        acceptor = Acceptor([listening], lambda: Peer(open_peers), descriptors_max=1)
        await until(lambda: "still" in caplog.text)
        await acceptor.close()
        made.close()
        await until(lambda: not open_peers)

    asyncio.run(play())


def test_a_peer_that_does_not_shake_hands_keeps_nobody_waiting():
    """And of too many such peers the oldest is given up."""

    async def play():
        listening, port = listen()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        acceptor = Acceptor([listening], lambda: Peer([]), tls={"ssl": context}, handshakes_max=3)
        made = clients(5, port)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(120):
            assert await loop.sock_recv(made[0], 1) == b""
            assert await loop.sock_recv(made[1], 1) == b""
        assert len(acceptor._handshakes) == 3
        await acceptor.close()
        for each in made:
            each.close()

    asyncio.run(play())


def test_what_connections_may_have_leaves_something():
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    spend = descriptors_to_spend()
    assert spend is None or soft - soft // 8 <= spend < soft
