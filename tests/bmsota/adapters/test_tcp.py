"""The TCP adapter over this machine's loopback: sent, heard, closed, refused."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest
from certificates import make_certificate

from bmsota.adapters.tcp import TcpLink, wait
from bmsota.adapters.tls import client_context
from bmsota.errors import ConfigurationError, TransferError


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


# -- TLS -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(server, tmp_path):
    """`tls(link options)`: both ends of a TLS connection, ours and the accepted one."""
    cert, key = make_certificate(tmp_path)
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepting.load_cert_chain(cert, key)
    opened = []

    def connect(**files):
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(lambda: accepting.wrap_socket(server.accept()[0], server_side=True))
            link = TcpLink("127.0.0.1", server.getsockname()[1], ssl_context=client_context(**({"ca": cert} | files)))
            opened.extend((link, waiting.result(120)))
        return opened[-2:]

    yield connect
    for each in opened:
        each.close()


def test_tls_there_and_back(tls):
    link, other = tls()
    link.send(b"question")
    assert other.recv(100) == b"question"
    # What TLS itself has sent since the handshake (its session tickets) is nothing to hear.
    assert wait([link], 0.0) == []
    other.sendall(b"answer")
    assert wait([link], 120.0) == [link]
    assert link.receive() == b"answer"
    other.close()
    assert wait([link], 120.0) == [link]
    assert (link.receive(), link.is_open) == (b"", False)


def test_what_tls_has_read_ahead_is_not_forgotten(tls):
    """Two records come in one segment, the system knows of no more data after the first; and more than one read takes."""
    link, other = tls()
    other.sendall(b"a" * 100_000)
    other.sendall(b"b")
    heard = b""
    while len(heard) < 100_001:
        assert wait([link], 120.0) == [link]
        heard += link.receive()
    assert heard == b"a" * 100_000 + b"b"


def test_a_server_that_is_not_believed_gets_nothing(server, tmp_path):
    cert, key = make_certificate(tmp_path)
    other_cert, _ = make_certificate(tmp_path, "other")
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepting.load_cert_chain(cert, key)

    def received():
        accepted, _ = server.accept()
        try:
            with accepting.wrap_socket(accepted, server_side=True) as secured:
                # In TLS 1.3 the server learns of it at its first read.
                return secured.recv(1)
        except (ssl.SSLError, ConnectionError) as error:
            return error

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(received)
        with pytest.raises(TransferError, match=r"cannot open TLS to 127\.0\.0\.1.*certificate verify failed"):
            TcpLink("127.0.0.1", server.getsockname()[1], ssl_context=client_context(ca=other_cert))
        assert isinstance(done.result(120), OSError)


def test_files_that_make_no_client(tmp_path):
    cert, key = make_certificate(tmp_path)
    _, other_key = make_certificate(tmp_path, "other")
    assert client_context(ca=cert, cert=cert, key=key).check_hostname
    for files, words in (
        ({"ca": tmp_path / "none"}, "cannot read .*none: No such file"),
        ({"ca": key}, "expected certificates of authorities"),
        ({"cert": cert, "key": other_key}, "expected a certificate and its private key"),
        ({"cert": tmp_path / "none"}, "cannot read .*none: No such file"),
        ({"key": key}, "the key of no certificate"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            client_context(**files)
