"""The asyncio doors on loopback: both ends real, peers that are slow, silent, late, gone; no sleeping."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import bmsota.adapters
from bmsota.adapters import (
    SessionLink,
    asyncio_direct,
    asyncio_gateway,
    asyncio_link,
    connect_terminal,
    serve_gateway,
)
from bmsota.adapters.asyncio_direct import READ_SIZE_BYTES_MAX, DirectConnection
from bmsota.adapters.asyncio_link import STEP_SIZE_BYTES_MAX, Connection, run_link
from bmsota.adapters.clock import steady_clock
from bmsota.errors import TransferError
from bmsota.gbt32960 import (
    HeartbeatReceived,
    LoggedIn,
    LoggedOut,
    LoginRequested,
    LogoutReceived,
    PlatformSession,
    TerminalOptions,
    TerminalSession,
)

LIMIT_S = 120.0
SECOND_NS = 1_000_000_000


def run(play):
    """Run a coroutine; a test that hangs fails."""

    async def main():
        async with asyncio.timeout(LIMIT_S):
            await play

    asyncio.run(main())


async def until(condition):
    """Let the event loop turn until *condition* holds."""
    while not condition():  # noqa: ASYNC110 - it turns, it does not wait: the limit of `run` ends it
        await asyncio.sleep(0)


class Link:
    """Writes down what a door calls; answers each chunk with the same bytes. "bye" makes it close."""

    def __init__(self, wake=None):
        self.wake = wake
        self.calls = []
        self.received = bytearray()
        self.out = b""
        self.due_ns = None
        self.timeouts = []
        self.is_closing = False
        self.wants_connection = True
        self.is_finished = False

    def note(self, what):
        self.calls.append(what)

    def connected(self, now_ns):
        self.wants_connection = False
        self.note("connected")

    def receive_data(self, data, now_ns):
        self.received += data
        self.out += data
        self.is_closing = data.endswith(b"bye")
        self.note("data")

    def handle_timeout(self, now_ns):
        if self.due_ns is not None and now_ns >= self.due_ns:
            self.due_ns = None
            self.note("due")

    def disconnected(self, now_ns):
        self.is_finished = True
        self.note("disconnected")

    def data_to_send(self):
        data, self.out = self.out, b""
        return data

    def next_timeout(self):
        return self.due_ns


class Gateway:
    """`serve_gateway` with links that are kept."""

    def __init__(self, make=Link, **options):
        self.links = []
        self._make = make
        self._options = options

    def _open(self, wake):
        self.links.append(self._make(wake))
        return self.links[-1]

    async def __aenter__(self):
        self.door = await serve_gateway(self._open, "127.0.0.1", 0, **self._options)
        return self

    async def __aexit__(self, *_error):
        await self.door.close()

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.door.port)


# --- The gateway ------------------------------------------------------------------------------------------------------


def test_a_link_is_told_everything_and_its_answers_are_sent():
    async def play():
        async with Gateway() as gateway:
            reader, writer = await gateway.connect()
            for word in (b"one", b"two"):
                writer.write(word)
                assert await reader.readexactly(3) == word
            writer.close()
            await until(lambda: "disconnected" in gateway.links[0].calls)
        assert gateway.links[0].calls == ["connected", "data", "data", "disconnected"]

    run(play())


def test_a_link_that_closes_sends_its_last_words_first():
    async def play():
        async with Gateway() as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"good bye")
            assert await reader.read() == b"good bye"
            assert gateway.links[0].calls[-1] == "disconnected"
            writer.close()

    run(play())


def test_a_peer_that_only_listens_any_more_gets_the_rest():
    """Half a close: it has said all it had to say, before the link's turn came, and still reads."""

    async def play():
        near, far = socket.socketpair()
        far.sendall(b"last")
        far.shutdown(socket.SHUT_WR)
        connection = Connection()
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=near)
        await until(lambda: connection.is_over)
        await run_link(Link(), connection, clock_ns=steady_clock())
        assert far.recv(100) == b"last"
        far.close()

    run(play())


def test_a_silent_peer_is_the_links_decision_and_its_deadline_is_kept():
    def make(wake):
        link = Link(wake)
        link.due_ns = 0
        return link

    async def play():
        async with Gateway(make) as gateway:
            _, writer = await gateway.connect()
            await until(lambda: gateway.links and "due" in gateway.links[0].calls)
            writer.close()

    run(play())


def test_deadlines_are_served_while_bytes_keep_coming():
    async def play():
        async with Gateway() as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"first")
            await reader.readexactly(5)
            gateway.links[0].due_ns = 1  # Long past; the wait for bytes has begun without it.
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"
            assert gateway.links[0].calls == ["connected", "data", "data", "due"]
            writer.close()

    run(play())


def test_a_link_is_woken_from_another_thread():
    async def play():
        async with Gateway() as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"x")
            await reader.readexactly(1)
            link = gateway.links[0]
            link.out = b"news"
            await asyncio.to_thread(link.wake)
            assert await reader.readexactly(4) == b"news"
            writer.close()
        await asyncio.to_thread(link.wake)  # Too late, and harmless.

    run(play())


@pytest.fixture
def connections(monkeypatch):
    """Those that a gateway gets, as they come."""
    made = []

    for name, kind in (("Connection", Connection), ("DirectConnection", DirectConnection)):
        monkeypatch.setattr(asyncio_gateway, name, lambda what, kind=kind: made.append(kind(what)) or made[-1])
    return made


@pytest.mark.slow
def test_a_link_that_is_behind_stops_the_reading_and_loses_nothing(connections):
    """In a worker: what comes meanwhile waits in the connection up to a limit, then in TCP, at last in the peer."""
    gate = threading.Event()

    class Slow(Link):
        def note(self, what):
            self.calls.append(what)
            if what == "data":
                gate.wait(LIMIT_S)

        def data_to_send(self):
            return b""

    sent = bytes(range(256)) * 8192 * 8  # 16 MiB: more than both sockets hold.

    async def play():
        seen = []
        with ThreadPoolExecutor(1) as worker:
            async with Gateway(lambda wake: seen.append(Slow(wake)) or seen[-1], executor=worker) as gateway:
                _, writer = await gateway.connect()
                writer.write(sent)
                draining = asyncio.create_task(writer.drain())
                await until(lambda: connections)
                connection = connections[0]
                await until(lambda: connection._transport is not None and not connection._transport.is_reading())
                assert not draining.done()
                assert STEP_SIZE_BYTES_MAX <= len(connection._input) <= STEP_SIZE_BYTES_MAX + 256 * 1024
                gate.set()
                await draining
                writer.close()
                await until(lambda: "disconnected" in seen[0].calls)
        assert seen[0].received == sent

    run(play())


def test_steps_are_small_enough_for_others_to_get_their_turn():
    sizes = []

    class Counting(Link):
        def receive_data(self, data, now_ns):
            sizes.append(len(data))

    async def play():
        near, far = socket.socketpair()
        connection = Connection()
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=near)
        link = Counting()
        connection.data_received(bytes(3 * STEP_SIZE_BYTES_MAX + 5))
        connection.eof_received()
        await run_link(link, connection, clock_ns=steady_clock())
        far.close()

    run(play())
    assert sizes == [STEP_SIZE_BYTES_MAX] * 3 + [5]


def test_a_peer_that_does_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr(asyncio_link.Connection.send, "__defaults__", (0.01,))

    async def play():
        near, far = socket.socketpair()
        connection = Connection()
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=near)
        link = Link()
        link.out = bytes(64 * 1024 * 1024)
        with pytest.raises(TransferError, match=r"the peer has not read for 0\.01 s") as caught:
            await run_link(link, connection, clock_ns=steady_clock())
        assert not caught.value.permanent
        assert link.calls == ["connected", "disconnected"]
        far.close()

    run(play())


def test_a_broken_connection_is_an_error_behind_the_links_end():
    async def play():
        near, far = socket.socketpair()
        connection = Connection()
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=near)
        link = Link()
        running = asyncio.create_task(run_link(link, connection, clock_ns=steady_clock()))
        await until(lambda: "connected" in link.calls)
        connection.connection_lost(ConnectionResetError("reset by peer"))
        with pytest.raises(TransferError, match="the connection broke: reset by peer"):
            await running
        assert link.calls == ["connected", "disconnected"]
        far.close()

    run(play())


def test_closing_the_gateway_ends_every_link_and_frees_the_port():
    async def play():
        async with Gateway() as gateway:
            streams = [await gateway.connect() for _ in range(3)]
            for number, (reader, writer) in enumerate(streams):
                writer.write(b"%d" % number)
                await reader.readexactly(1)
            port = gateway.door.port
        assert [link.calls[-1] for link in gateway.links] == ["disconnected"] * 3
        for reader, writer in streams:
            assert await reader.read() == b""
            writer.close()
        with pytest.raises(OSError, match=r"refused|failed"):
            await asyncio.open_connection("127.0.0.1", port)

    run(play())


def test_an_error_of_one_link_is_logged_and_ends_only_that_link(caplog):
    class Broken(Link):
        def receive_data(self, data, now_ns):
            raise RuntimeError("a bug")

    kinds = iter([Broken, Link])

    def make(wake):
        return next(kinds)(wake)

    async def play():
        async with Gateway(make) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"x")
            assert await reader.read() == b""
            assert gateway.links[0].calls == ["connected", "disconnected"]
            writer.close()
            reader, writer = await gateway.connect()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()

    run(play())
    assert "a bug" in caplog.text


def test_beyond_the_limit_connections_are_closed_at_once(caplog):
    async def play():
        async with Gateway(links_max=1) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"x")
            await reader.readexactly(1)
            second_reader, second_writer = await gateway.connect()
            assert await second_reader.read() == b""
            assert len(gateway.links) == 1
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
            for each in (writer, second_writer):
                each.close()

    run(play())
    assert "1 links are open, the most that is allowed" in caplog.text


@pytest.fixture(params=["direct", "executor"])
def options(request):
    """Both ways to run links: from the loop's callbacks, and in a worker."""
    if request.param == "direct":
        yield {}
        return
    with ThreadPoolExecutor(1) as worker:
        yield {"executor": worker}


def test_a_link_knows_its_peers_address(options):
    async def play():
        seen = []
        async with Gateway(
            on_open=lambda link, address: seen.append((list(link.calls), address)), **options
        ) as gateway:
            _, writer = await gateway.connect()
            await until(lambda: seen and gateway.links[0].calls)
            writer.close()
        assert seen == [([], "127.0.0.1")]

    run(play())


def test_half_a_close_is_the_end_and_the_last_words_are_answered(options):
    async def play():
        async with Gateway(**options) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"last")
            writer.write_eof()
            assert await reader.read() == b"last"
            assert gateway.links[0].calls == ["connected", "data", "disconnected"]
            writer.close()

    run(play())


def test_a_connection_that_breaks_is_the_links_end(options):
    async def play():
        async with Gateway(**options) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"x")
            await reader.readexactly(1)
            writer.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4)
            )
            writer.transport.abort()
            await until(lambda: gateway.links[0].calls[-1] == "disconnected")

    run(play())


class SlowLink(Link):
    """Answers only when it is woken."""

    is_answering = False

    def receive_data(self, data, now_ns):
        super().receive_data(data, now_ns)
        self.held, self.out = self.out, b""
        self.is_answering = True

    def answer(self, data):
        self.out += data
        self.wake()


@pytest.mark.parametrize("linger_s", [0.0, 0.01])
def test_who_has_closed_his_half_gets_the_answers_that_are_on_their_way(linger_s):
    """The link ends behind the last one, and sooner if it is told so; nothing more is read meanwhile."""

    async def play():
        async with Gateway(SlowLink, linger_s=linger_s) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"one two")
            writer.write_eof()
            await until(lambda: gateway.links and gateway.links[0].received == b"one two")
            link = gateway.links[0]
            (connection,) = gateway.door._door.connections
            await until(lambda: connection._is_over)
            gateway.door.pause_reading()
            gateway.door.resume_reading()
            link.answer(b"one")
            assert await reader.readexactly(3) == b"one"
            assert "disconnected" not in link.calls
            link.is_answering = False
            link.answer(b"two")
            assert await reader.read() == b"two"
            await until(lambda: "disconnected" in link.calls)
            writer.close()

    run(play())


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(asyncio_link, "CLOSE_TIMEOUT_S", 0.02)

    async def play():
        async with Gateway(SlowLink) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"one")
            writer.write_eof()
            assert await reader.read() == b""
            assert gateway.links[0].calls[-1] == "disconnected"
            writer.close()

    run(play())


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_burst_is_read_in_small_steps_and_whole(tmp_path, is_tls):
    server_tls, client_tls = self_signed(tmp_path) if is_tls else (None, None)
    sizes = []

    class Counting(Link):
        def receive_data(self, data, now_ns):
            sizes.append(len(data))
            self.received += data

    sent = bytes(range(256)) * 4096

    async def play():
        async with Gateway(Counting, ssl_context=server_tls) as gateway:
            _, writer = await asyncio.open_connection(
                "localhost" if is_tls else "127.0.0.1", gateway.door.port, ssl=client_tls
            )
            writer.write(sent)
            await until(lambda: gateway.links and len(gateway.links[0].received) == len(sent))
            assert gateway.links[0].received == sent
            writer.close()

    run(play())
    assert max(sizes) <= READ_SIZE_BYTES_MAX


@pytest.mark.slow
def test_a_peer_that_does_not_read_is_not_read_from_and_given_up(monkeypatch):
    """Without a worker as well: what waits for it stays below what one read can cause."""
    monkeypatch.setattr(asyncio_link, "SEND_TIMEOUT_S", 0.3)

    async def play():
        async with Gateway() as gateway:
            near = socket.create_connection(("127.0.0.1", gateway.door.port))
            near.setblocking(False)
            loop = asyncio.get_running_loop()
            sending = asyncio.ensure_future(loop.sock_sendall(near, bytes(64 * 1024 * 1024)))
            await until(lambda: gateway.links and "disconnected" in gateway.links[0].calls)
            assert len(gateway.links[0].received) < 32 * 1024 * 1024
            sending.cancel()
            near.close()

    run(play())


def test_reading_is_paused_for_all_and_for_those_who_come():
    async def play():
        async with Gateway() as gateway:
            _, early = await gateway.connect()
            await until(lambda: gateway.links and gateway.links[0].calls)
            gateway.door.pause_reading()
            _, late = await gateway.connect()
            await until(lambda: len(gateway.links) == 2)
            for writer in (early, late):
                writer.write(b"x")
                await writer.drain()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not any(link.received for link in gateway.links)
            gateway.door.resume_reading()
            await until(lambda: all(link.received == b"x" for link in gateway.links))
            for writer in (early, late):
                writer.close()

    run(play())


def test_nothing_is_read_for_a_link_that_is_behind_until_it_wakes_the_door():
    class Behind(Link):
        is_behind = False

        def receive_data(self, data, now_ns):
            super().receive_data(data, now_ns)
            self.is_behind = data.endswith(b"!")

    async def play():
        async with Gateway(Behind) as gateway:
            reader, writer = await gateway.connect()
            other_reader, other = await gateway.connect()
            writer.write(b"a!")
            assert await reader.readexactly(2) == b"a!"
            writer.write(b"b")
            await writer.drain()
            for _ in range(20):
                other.write(b"x")
                await other_reader.readexactly(1)
            (link,) = (link for link in gateway.links if link.received.startswith(b"a"))
            # Woken for something else, and behind still.
            link.wake()
            for _ in range(20):
                await asyncio.sleep(0)
            assert link.received == b"a!"
            link.is_behind = False
            link.wake()
            assert await reader.readexactly(1) == b"b"
            for each in (writer, other):
                each.close()

    run(play())


def test_a_deadline_that_moves_is_served_at_its_new_time():
    """The timer is set once and looks again, later or earlier."""
    clock = steady_clock()

    async def play():
        async with Gateway(clock_ns=clock) as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"a")
            await reader.readexactly(1)
            link = gateway.links[0]
            for wait_ns in (20_000_000, 3600 * SECOND_NS, 10_000_000):
                link.due_ns = clock() + wait_ns
                writer.write(b"a")
                await reader.readexactly(1)
            await until(lambda: "due" in link.calls)
            assert link.calls.count("due") == 1
            writer.close()

    run(play())


# --- The terminal -----------------------------------------------------------------------------------------------------


def test_a_terminal_sends_when_woken_and_ends_when_its_link_has_finished(connections):
    async def play():
        async with Gateway() as gateway:
            link = Link()
            terminal = connect_terminal(link, "127.0.0.1", gateway.door.port, source_address=("127.0.0.2", 0))
            await until(lambda: "connected" in link.calls)
            link.out = b"good bye"
            terminal.wake()
            await terminal.wait_closed()
            assert link.calls == ["connected", "data", "disconnected"]
            assert link.received == b"good bye"
            assert connections[0].peer.startswith("('127.0.0.2', ")

    run(play())


def test_a_gateway_that_is_not_there_is_a_reason():
    async def play():
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        link, lost = Link(), []
        await connect_terminal(link, "127.0.0.1", port, on_lost=lost.append).wait_closed()
        assert link.calls == ["disconnected"]
        assert str(lost[0]).startswith(f"cannot connect to 127.0.0.1:{port}: ")
        assert not lost[0].permanent

    run(play())


def test_an_attempt_takes_its_time_and_no_more():
    async def play():
        # A full queue of connections that are not accepted: the next attempt gets no answer.
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)):
                link, lost = Link(), []
                await connect_terminal(
                    link, "127.0.0.1", port, connect_timeout_s=0.05, on_lost=lost.append
                ).wait_closed()
        assert [str(each) for each in lost] == [f"cannot connect to 127.0.0.1:{port}: timed out"]
        assert link.calls == ["disconnected"]

    run(play())


def test_a_terminal_is_closed_in_any_state():
    async def play():
        async with Gateway() as gateway:
            link = Link()
            terminal = connect_terminal(link, "127.0.0.1", gateway.door.port)
            await until(lambda: "connected" in link.calls)
            await terminal.close()
            assert link.calls == ["connected", "disconnected"]
        idle = Link()
        idle.wants_connection = False
        terminal = connect_terminal(idle, "127.0.0.1", 1)
        await asyncio.sleep(0)
        await terminal.close()
        assert idle.calls == []

    run(play())


def test_an_error_of_the_link_comes_out_of_wait_closed():
    class Broken(Link):
        def connected(self, now_ns):
            raise RuntimeError("a bug")

    async def play():
        async with Gateway() as gateway:
            terminal = connect_terminal(Broken(), "127.0.0.1", gateway.door.port)
            with pytest.raises(RuntimeError, match="a bug"):
                await terminal.wait_closed()

    run(play())


# --- Both, with the sessions ------------------------------------------------------------------------------------------


def session_pair(platform_events, terminal_events, terminal_options=None):
    """A link for each end of GB/T 32960; the lists get the events."""

    def open_platform(_wake):
        session = PlatformSession()

        def handle(event, now_ns):
            platform_events.append(event)
            if isinstance(event, LoginRequested):
                session.accept_login(now_ns)

        return SessionLink(session, handle)

    session = TerminalSession(
        vin="LBMF7EV01R0000001", iccid="8" * 20, **({} if terminal_options is None else {"options": terminal_options})
    )
    link = SessionLink(session, lambda event, _now_ns: terminal_events.append(event))
    return open_platform, link


def self_signed(tmp_path):
    """A server's and a client's TLS context for "localhost"."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=path)


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_vehicle_logs_in_reports_and_logs_out(tmp_path, is_tls):
    server_tls, client_tls = self_signed(tmp_path) if is_tls else (None, None)
    clock = steady_clock()

    async def play():
        seen, told = [], []
        open_platform, link = session_pair(seen, told)
        door = await serve_gateway(open_platform, "localhost", 0, ssl_context=server_tls)
        terminal = connect_terminal(link, "localhost", door.port, ssl_context=client_tls, clock_ns=clock)
        await until(lambda: any(isinstance(event, LoggedIn) for event in told))
        link.session.logout(clock())
        terminal.wake()
        await terminal.wait_closed()
        assert isinstance(told[-1], LoggedOut)
        assert any(isinstance(event, LogoutReceived) for event in seen)
        await door.close()

    run(play())


def test_a_certificate_that_does_not_fit_is_a_reason(tmp_path):
    server_tls, _ = self_signed(tmp_path)

    async def play():
        async with Gateway(ssl_context=server_tls) as gateway:
            link, lost = Link(), []
            await connect_terminal(
                link, "localhost", gateway.door.port, ssl_context=ssl.create_default_context(), on_lost=lost.append
            ).wait_closed()
            assert "certificate verify failed" in str(lost[0])

    run(play())


def test_a_terminal_comes_back_after_its_connection_broke(connections):
    """The session says when; the door keeps asking it. Heartbeats flow because the door keeps its deadlines."""
    options = TerminalOptions(reconnect_wait_ns=0, heartbeat_period_ns=SECOND_NS // 100)

    async def play():
        seen, told = [], []
        open_platform, link = session_pair(seen, told, options)
        door = await serve_gateway(open_platform, "127.0.0.1", 0)
        terminal = connect_terminal(link, "127.0.0.1", door.port)
        await until(lambda: any(isinstance(event, HeartbeatReceived) for event in seen))
        connections[0]._transport.abort()
        await until(lambda: sum(isinstance(event, LoggedIn) for event in told) == 2)
        await terminal.close()
        await door.close()

    run(play())


def test_the_face_of_the_package_has_what_it_says():
    for name in bmsota.adapters.__all__:
        assert getattr(bmsota.adapters, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bmsota.adapters.nothing  # noqa: B018


class TurnedLoop:
    """An event loop for `_Rounds`, turned by hand: what is watched, and what is to be called when."""

    def __init__(self):
        self.watched = {}
        self.calls = []
        self.now_s = 0.0

    def time(self):
        return self.now_s

    def add_reader(self, descriptor, callback):
        self.watched[descriptor] = callback

    def remove_reader(self, descriptor):
        self.watched.pop(descriptor, None)

    def call_later(self, wait_s, callback):
        self.calls.append((wait_s, callback))
        return asyncio.Handle(callback, (), self)

    def call_soon(self, callback):
        return self.call_later(0, callback)

    def get_debug(self):
        return False

    def turn(self):
        """What a real loop would call next; how long it would wait for it, None if it watches."""
        if self.calls:
            wait_s, callback = self.calls.pop(0)
            self.now_s += wait_s
            callback()
            return wait_s
        (callback,) = self.watched.values()
        callback()
        return None


class Reading:
    """Stands for a connection: reads its socket, and writes down when."""

    def __init__(self, rounds, size=READ_SIZE_BYTES_MAX):
        self.near, self.far = socket.socketpair()
        self.rounds, self.size, self.seen = rounds, size, []
        self.ends = ()
        rounds.add(self.far.fileno(), self)

    def read(self, descriptor, now_ns):
        data = self.far.recv(self.size)
        self.seen.append((now_ns, data))
        for other in self.ends:
            self.rounds.discard(other.far.fileno())
        return len(data)

    def close(self):
        self.rounds.discard(self.far.fileno())
        self.near.close()
        self.far.close()


@pytest.fixture
def rounds():
    if not asyncio_direct._HAS_EPOLL:
        pytest.skip("this system has no epoll")
    times = itertools.count(1)
    made = asyncio_direct._Rounds(TurnedLoop(), lambda: next(times), 0.05)
    yield made
    made.close()
    assert not made._loop.watched


def test_many_links_are_read_in_one_round_and_the_next_one_waits_for_more(rounds):
    """At 333 reads a second it waits the 50 ms that it may; at thousands less, because enough comes before; then not at all."""
    loop = rounds._loop
    links = [Reading(rounds) for _ in range(100)]
    for each in links[:20]:
        each.near.send(b"a")
    loop.now_s += 0.06
    assert loop.turn() is None
    assert {each.seen[0] for each in links[:20]} == {(1, b"a")}, "at one time of the clock"
    assert not loop.watched, "333 reads a second: it lingers"
    for each in links:
        each.near.send(b"b")
    assert loop.turn() == 0.05
    waits = []
    for letter in (b"c", b"d", b"e"):
        for each in links:
            each.near.send(letter)
        waits.append(loop.turn())
        assert {each.seen[-1] for each in links} == {(3 + len(waits) - 1, letter)}
    # 100 in 50 ms, then 200 in 66: as long as 66 of them take.
    assert waits == pytest.approx([0.033, 0.033, 66 / (200 / 0.066)])
    # Nothing has come meanwhile: the loop watches again, and the next one is read at once.
    assert loop.turn() > 0
    links[0].near.send(b"f")
    assert loop.turn() is None
    assert links[0].seen[-1] == (6, b"f")
    for each in links:
        each.close()


def test_a_peer_that_waits_for_its_answer_is_not_slowed_down(rounds):
    """Two hundred exchanges a second, one after another: lingering would find one read each time. It is tried once a second."""
    loop = rounds._loop
    link = Reading(rounds)
    waited_s = 0.0
    for count in range(1, 2001):
        link.near.send(b"x")
        loop.now_s += 0.003
        while len(link.seen) < count:
            waited_s += loop.turn() or 0.0
    assert 0 < waited_s < 0.1 * loop.now_s
    link.close()


def test_who_has_more_is_not_kept_waiting_and_who_is_over_is_not_read(rounds):
    loop = rounds._loop
    first, second = Reading(rounds), Reading(rounds)
    first.near.setblocking(False)

    def flood():
        sent = 0
        while sent < 3 * READ_SIZE_BYTES_MAX:
            try:
                sent += first.near.send(bytes(READ_SIZE_BYTES_MAX))
            except BlockingIOError:
                break

    rounds._wait_s = 0.05
    flood()
    loop.turn()
    assert loop.watched, "a whole read: the rest is there already"
    assert not loop.calls
    while not loop.calls:
        second.near.send(b"y")
        loop.turn()
    flood()
    assert loop.turn() == 0.05
    assert [wait_s for wait_s, _ in loop.calls] == [0], "it has lingered, and there is more"
    rounds._wait_s = 0.0
    while loop.calls:
        loop.turn()
    first.near.send(b"x")
    second.near.send(b"x")
    first.ends, second.ends = (second,), (first,)
    before = len(first.seen) + len(second.seen)
    loop.turn()
    # Whichever was read first has ended the other.
    assert len(second.seen) + len(first.seen) - before == 1
    first.close()
    second.close()


def test_a_round_is_over_when_it_has_taken_its_time_and_the_rest_is_read_first(rounds):
    """Two of three reads that take 30 ms each are a round; whatever waits in the loop comes before the third, and that before the first again."""
    loop, order = rounds._loop, []

    class Slow(Reading):
        def read(self, descriptor, now_ns):
            loop.now_s += 0.03
            order.append(self.name)
            return super().read(descriptor, now_ns)

    links = [Slow(rounds, size=1) for _ in range(3)]
    for name, each in zip("abc", links, strict=True):
        each.name = name
        each.near.send(b"12345")
    rounds._wait_s = 0.05
    assert loop.turn() is None
    assert len(order) == 2
    for turns in range(1, 10):
        loop.turn()
        # Rounds of two reads and of the one that is left, in turn; each link as often as the others.
        assert len(order) == 3 * (turns // 2) + (3 if turns % 2 else 2)
        assert max(map(order.count, "abc")) - min(map(order.count, "abc")) <= 1
        assert all(wait_s == 0 for wait_s, _ in loop.calls), "there is more, so nothing lingers"
    for each in links:
        each.close()


def test_what_is_left_of_a_round_may_be_over_before_it_is_read(rounds):
    loop = rounds._loop

    class Slow(Reading):
        def read(self, descriptor, now_ns):
            loop.now_s += 1
            return super().read(descriptor, now_ns)

    links = [Slow(rounds) for _ in range(3)]
    for each in links:
        each.near.send(b"x")
    loop.turn()
    unread = [each for each in links if not each.seen]
    assert len(unread) == 2
    unread[0].close()
    while not unread[1].seen:
        loop.turn()
    assert not unread[0].seen
    for each in links:
        if each is not unread[0]:
            each.close()


def test_without_epoll_the_event_loop_reads(monkeypatch):
    monkeypatch.setattr(asyncio_direct, "_HAS_EPOLL", False)

    async def play():
        async with Gateway(linger_s=0.001) as gateway:
            reader, writer = await gateway.connect()
            for _ in range(3):
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
            gateway.door.pause_reading()
            writer.write(b"y")
            gateway.door.resume_reading()
            assert await reader.readexactly(1) == b"y"
            writer.close()
            await until(lambda: "disconnected" in gateway.links[0].calls)

    run(play())


def test_a_gateway_that_lingers_answers_everything():
    async def play():
        async with Gateway(linger_s=0.002) as gateway:
            ends = [await gateway.connect() for _ in range(5)]
            for count in range(20):
                for _, writer in ends:
                    writer.write(bytes((count,)))
                for reader, _ in ends:
                    assert await reader.readexactly(1) == bytes((count,))
            for _, writer in ends:
                writer.close()

    run(play())


def test_what_a_link_has_to_send_is_sent_at_once_when_it_says_so():
    async def play():
        async with Gateway() as gateway:
            reader, writer = await gateway.connect()
            writer.write(b"x")
            await reader.readexactly(1)
            link = gateway.links[0]
            link.wake.send()
            link.out = b"news"
            link.wake.send()
            assert await reader.readexactly(4) == b"news"
            writer.close()
            await until(lambda: "disconnected" in link.calls)
        link.out = b"too late"
        link.wake.send()

    run(play())
