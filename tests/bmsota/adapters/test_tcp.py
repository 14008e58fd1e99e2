"""The TCP adapter over this machine's loopback: sent, heard, closed, refused."""

from __future__ import annotations

import socket

import pytest

from bmsota.adapters.tcp import TcpLink, wait
from bmsota.errors import TransferError


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def link(server):
    with TcpLink("127.0.0.1", server.getsockname()[1]) as opened:
        yield opened


def test_there_and_back(server, link):
    other, _ = server.accept()
    with other:
        link.send(b"question")
        assert other.recv(100) == b"question"
        assert wait([link], 0.0) == []
        other.sendall(b"answer")
        assert wait([link], 5.0) == [link]
        assert link.receive() == b"answer"


def test_the_other_end_closes(server, link):
    """Closing is something that came; after it the link is closed and is not waited for."""
    other, _ = server.accept()
    other.close()
    assert wait([link], 5.0) == [link]
    assert link.receive() == b""
    assert not link.is_open
    assert wait([link], 0.0) == []


def test_the_other_end_breaks_off(server, link):
    """A reset is told as an end when hearing, and as an error when sending."""
    other, _ = server.accept()
    link.send(b"unread")
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    other.close()
    assert wait([link], 5.0) == [link]
    assert link.receive() == b""
    with pytest.raises(TransferError, match=r"cannot send to 127\.0\.0\.1"):
        link.send(b"more")


@pytest.mark.parametrize("host", ["127.0.0.1", "x" * 70 + ".example"])
def test_nobody_there(host):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(TransferError, match="cannot connect to") as caught:
        TcpLink(host, port)
    assert not caught.value.permanent
