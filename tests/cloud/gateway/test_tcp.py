"""The TCP server on loopback: a few links, nothing about the protocol that `test_link` does not say better."""

import asyncio
import threading

import pytest
from bmsota_cloud.clock import wall_clock_ns
from bmsota_cloud.gateway import GatewayServer
from bmsota_cloud.services import ReportVerdict

from bmsota.adapters.asyncio_direct import READ_SIZE_BYTES_MAX
from bmsota.gbt32960 import (
    Command,
    CommandReceived,
    ConnectRequested,
    Frame,
    FrameReader,
    FrameReceived,
    Heartbeat,
    LoggedIn,
    LoginFailed,
    ReplyFlag,
    SignedReport,
    TerminalSession,
    VehicleLogin,
    beijing_time,
    encode,
)


class Vehicle:
    """A terminal on a real socket."""

    def __init__(self, vin):
        self.session = TerminalSession(vin=vin, iccid="1" * 20)
        self.seen = []

    async def open(self, port):
        self.session.handle_timeout(wall_clock_ns())
        assert isinstance(self.session.next_event(), ConnectRequested)
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.session.connected(wall_clock_ns())

    async def until(self, kind):
        async with asyncio.timeout(120):
            while True:
                while (event := self.session.next_event()) is not None:
                    self.seen.append(event)
                    if isinstance(event, CommandReceived):
                        self.session.reply_to(event.frame, wall_clock_ns(), flag=ReplyFlag.SUCCESS)
                self.writer.write(self.session.data_to_send())
                if any(isinstance(event, kind) for event in self.seen):
                    return
                data = await self.reader.read(4096)
                assert data
                self.session.receive_data(data, wall_clock_ns())


@pytest.fixture
def serve(world):
    """Run a coroutine beside a server of this world."""

    def run(play):
        async def main():
            server = GatewayServer(world.cloud.open_link, wall_clock_ns)
            port = await server.start("127.0.0.1", 0)
            try:
                await play(port)
            finally:
                await server.stop()

        asyncio.run(main())

    return run


def test_a_vehicle_logs_in_is_told_from_another_thread_and_leaves(world, serve):
    vin = world.register(1)
    world.upload()

    async def play(port):
        vehicle = Vehicle(vin)
        await vehicle.open(port)
        await vehicle.until(LoggedIn)
        await asyncio.to_thread(lambda: world.approve(world.create(1)))
        await vehicle.until(CommandReceived)
        vehicle.writer.close()
        # Stopping the server waits for the link's end.

    serve(play)
    assert not world.services.presence.is_online([vin])[vin]
    assert world.services.upgrades.pending_instruction(vin) is not None


def test_the_older_of_two_links_is_closed(world, serve):
    vin = world.register(1)

    async def play(port):
        old, new = Vehicle(vin), Vehicle(vin)
        await old.open(port)
        await old.until(LoggedIn)
        await new.open(port)
        await new.until(LoggedIn)
        async with asyncio.timeout(120):
            while await old.reader.read(4096):
                pass
        assert world.services.presence.is_online([vin])[vin]

    serve(play)


def test_a_vehicle_that_asks_without_end_fills_no_memory_and_keeps_nobody_waiting(world, monkeypatch):
    """Its questions wait in the socket, and the links take turns: another's login is the next thing done."""
    first, second = world.register(1), world.register(2)
    gate, done = threading.Event(), []
    log_in = world.services.ingest.log_in

    def decided(vin, **options):
        done.append(vin)
        return log_in(vin, **options)

    def judged(vin, *_arguments):
        gate.wait(120)
        done.append("question")
        return ReportVerdict.REFUSED

    monkeypatch.setattr(world.services.ingest, "log_in", decided)
    monkeypatch.setattr(world.services.upgrades, "receive_report", judged)
    signed = SignedReport(time=beijing_time(wall_clock_ns()), document=b"x")
    question = encode(Frame(command=Command.SIGNED_REPORT, vin=first, message=signed))

    async def play():
        server = GatewayServer(world.cloud.open_link, wall_clock_ns)
        port = await server.start("127.0.0.1", 0)
        try:
            asking, other = Vehicle(first), Vehicle(second)
            await asking.open(port)
            await asking.until(LoggedIn)
            asking.writer.write(question * 5000)
            lines = server._turns._lines
            async with asyncio.timeout(120):
                while not lines:  # noqa: ASYNC110 - what the worker does sets no event
                    await asyncio.sleep(0)
                await other.open(port)
                other.writer.write(other.session.data_to_send())
                while len(lines) < 2:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0)
            assert len(lines[0]) < 16 + READ_SIZE_BYTES_MAX // len(question)
            gate.set()
            await other.until(LoggedIn)
            assert done.index(second) <= 3, "the question that was being answered, and one of each turn"
            answered = b""
            while len(answered) < len(question) and (data := await asking.reader.read(65536)):
                answered += data
            assert answered
        finally:
            gate.set()
            await server.stop()

    asyncio.run(play())


def test_stopping_closes_every_link_and_everybody_is_offline(world, serve):
    vin = world.register(1)
    vehicle = Vehicle(vin)

    async def play(port):
        await vehicle.open(port)
        await vehicle.until(LoggedIn)

    serve(play)
    assert not world.services.presence.is_online([vin])[vin]
    assert len(world.cloud.router) == 0


def test_an_error_of_ours_refuses_one_login_and_costs_no_link(world, serve, monkeypatch, caplog):
    first, second = world.register(1), world.register(2)
    log_in = world.services.ingest.log_in

    def fails(vin, **options):
        if vin == first:
            raise RuntimeError("a bug")
        return log_in(vin, **options)

    monkeypatch.setattr(world.services.ingest, "log_in", fails)

    async def play(port):
        bad, good = Vehicle(first), Vehicle(second)
        await bad.open(port)
        await bad.until(LoginFailed)
        assert bad.seen[-1].reply_flag == ReplyFlag.ERROR
        await good.open(port)
        await good.until(LoggedIn)

    serve(play)
    assert "a bug" in caplog.text


def test_a_terminal_that_closes_its_half_behind_its_last_word_is_answered(world, serve):
    """Login, report and logout in one write, then no more: every answer comes, though each waits for the worker."""
    vin = world.register(1)
    now_ns = wall_clock_ns()
    time = beijing_time(now_ns)
    frames = [
        Frame(command=Command.VEHICLE_LOGIN, vin=vin, message=VehicleLogin(time=time, serial=1, iccid="1" * 20)),
        Frame(command=Command.HEARTBEAT, vin=vin, message=Heartbeat()),
        Frame(command=Command.SIGNED_REPORT, vin=vin, message=SignedReport(time, b"nonsense")),
    ]

    async def play(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"".join(map(encode, frames)))
        writer.write_eof()
        async with asyncio.timeout(120):
            data = await reader.read()
        answers = FrameReader()
        answers.receive_data(data)
        found = []
        while isinstance(event := answers.next_event(), FrameReceived):
            found.append((event.frame.command, event.frame.reply_flag))
        assert found == [
            (Command.VEHICLE_LOGIN, ReplyFlag.SUCCESS),
            (Command.HEARTBEAT, ReplyFlag.SUCCESS),
            (Command.SIGNED_REPORT, ReplyFlag.ERROR),
        ]
        writer.close()

    serve(play)
    assert not world.services.presence.is_online([vin])[vin]
