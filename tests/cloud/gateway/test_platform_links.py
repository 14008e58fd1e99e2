"""Another platform on one link: its login, its vehicles, their reports, over real TCP."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass, field

import pytest
from bmsota_cloud.clock import wall_clock, wall_clock_ns
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.platform_peers import PlatformPeer
from bmsota_cloud.platform import build_cloud
from bmsota_cloud.services import PlatformSettings
from bmsota_cloud.wiring import RunningCloud, ServeOptions

from bmsota.gbt32960 import (
    Command,
    ForwardingSession,
    ForwardRefused,
    Frame,
    FrameReader,
    FrameReceived,
    Heartbeat,
    PlatformLogin,
    PlatformLogout,
    ReplyFlag,
    Report,
    VehicleLogin,
    VehicleLogout,
    beijing_time,
    encode,
)

CODE, USER, PASSWORD = "UPPERPLATFORM0001", "upper", "correcthorse"
PEER = PlatformPeer(
    code=CODE, user=USER, password=PASSWORD, projects=frozenset({"Harbour"}), vins=frozenset({"LNAMED00000000001"})
)
OURS, ALSO_OURS, NAMED, FOREIGN, UNKNOWN = (
    "LHARBOUR000000001",
    "LHARBOUR000000002",
    "LNAMED00000000001",
    "LFOREIGN000000001",
    "LUNKNOWN000000001",
)
OK, ERROR = ReplyFlag.SUCCESS, ReplyFlag.ERROR


@dataclass
class Peer:
    """The other platform: sends frames, and waits for the answer to each."""

    running: RunningCloud
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: FrameReader = field(default_factory=FrameReader)
    began_ns: int = field(default_factory=wall_clock_ns)
    """Times of reports are counted from here: on a slow machine, too, each has the second that the test means."""

    def send(self, command, vin, message):
        self.writer.write(encode(Frame(command=command, vin=vin, message=message)))

    async def answer(self):
        async with asyncio.timeout(120):
            while (event := self.frames.next_event()) is None:
                data = await self.reader.read(4096)
                assert data, "the platform has closed the link"
                self.frames.receive_data(data)
        assert isinstance(event, FrameReceived)
        return event.frame

    async def ask(self, command, vin, message):
        self.send(command, vin, message)
        frame = await self.answer()
        assert (frame.command, frame.vin) == (command, vin)
        return frame.reply_flag

    async def log_in(self, *, user=USER, password=PASSWORD, code=CODE):
        login = PlatformLogin(time=now(), serial=1, user=user, password=password)
        return await self.ask(Command.PLATFORM_LOGIN, code, login)

    async def vehicle(self, vin, serial=1):
        login = VehicleLogin(time=now(), serial=serial, iccid="89860" + "0" * 15)
        return await self.ask(Command.VEHICLE_LOGIN, vin, login)

    async def report(self, vin, *, ago_s=0, command=Command.REALTIME_REPORT):
        at = beijing_time(self.began_ns - ago_s * 1_000_000_000)
        return await self.ask(command, vin, Report(time=at, bodies=()))

    def online(self):
        found = self.running.cloud.services.vehicles._context.presence.is_online((OURS, ALSO_OURS, NAMED))
        return {vin for vin, is_online in found.items() if is_online}

    async def until(self, condition):
        async with asyncio.timeout(120):
            while not condition():  # noqa: ASYNC110 - what happens in other threads sets no event
                await asyncio.sleep(0.01)

    def stored(self, vin):
        cloud = self.running.cloud
        return cloud.telemetry.frames(vin, PageRequest(1, 1)).total

    def refusals(self):
        self.running.cloud.services.refusals.flush()
        with self.running.cloud.store.reading() as work:
            rows = work.refusals.page(PageRequest(1, 50), text="", cause=None, is_registered=None).items
        return {(row.refusal.cause.value, row.refusal.vin, row.refusal.answered) for row in rows}


def now():
    return beijing_time(wall_clock_ns())


@pytest.fixture
def play(sample_keys):
    """`play(scene)`: the scene with a platform that runs."""

    def run(scene, **settings):
        async def go():
            settings_ = PlatformSettings(**({"platform_peers": {CODE: PEER}} | settings))
            running = await RunningCloud.start(ServeOptions(keys=sample_keys, settings=settings_))
            try:
                for vin, project in ((OURS, "Harbour"), (ALSO_OURS, "Harbour"), (NAMED, "Hills"), (FOREIGN, "Hills")):
                    running.cloud.services.vehicles.register(vin=vin, series="T1", project=project, now=wall_clock())
                await scene(await connect(running))
            finally:
                await running.stop()

        asyncio.run(go())

    return run


async def connect(running):
    return Peer(running, *await asyncio.open_connection("127.0.0.1", running.gateway_port))


@pytest.mark.slow
def test_many_vehicles_on_one_link(play):
    """Each report is answered though `acknowledge_reports` is off; presence is each vehicle's own."""

    async def scene(peer):
        assert await peer.log_in() == OK
        for vin in (OURS, NAMED):
            assert await peer.vehicle(vin) == OK
        await peer.until(lambda: peer.online() == {OURS, NAMED})
        for vin in (OURS, NAMED, OURS):
            assert await peer.report(vin, ago_s=1 + peer.stored(vin)) == OK
        assert (peer.stored(OURS), peer.stored(NAMED)) == (2, 1)
        assert await peer.ask(Command.VEHICLE_LOGOUT, OURS, VehicleLogout(time=now(), serial=1)) == OK
        await peer.until(lambda: peer.online() == {NAMED})
        # What it could not send before, of a vehicle that is not on.
        assert await peer.report(OURS, ago_s=3600, command=Command.BACKFILL_REPORT) == OK
        assert await peer.report(ALSO_OURS, ago_s=3600, command=Command.BACKFILL_REPORT) == OK
        assert peer.online() == {NAMED}
        assert await peer.ask(Command.PLATFORM_LOGOUT, CODE, PlatformLogout(time=now(), serial=1)) == OK
        await peer.until(lambda: not peer.online())
        assert peer.refusals() == set()

    play(scene)


@pytest.mark.slow
def test_a_link_that_breaks_takes_its_vehicles_along(play):
    async def scene(peer):
        await peer.log_in()
        await peer.vehicle(OURS)
        await peer.vehicle(NAMED)
        peer.writer.close()
        await peer.until(lambda: not peer.online())

    play(scene)


@pytest.mark.slow
def test_a_platform_that_closes_its_half_hears_the_answers_to_all_it_has_sent(play):
    """And then its vehicles are gone: a half of a link is nothing to wait for."""

    async def scene(peer):
        assert await peer.log_in() == OK
        for vin in (OURS, ALSO_OURS):
            assert await peer.vehicle(vin) == OK
        for number in range(100):
            at = beijing_time(peer.began_ns - number * 1_000_000_000)
            peer.send(Command.REALTIME_REPORT, (OURS, ALSO_OURS)[number % 2], Report(time=at, bodies=()))
        peer.writer.write_eof()
        flags = [(await peer.answer()).reply_flag for _ in range(100)]
        assert flags == [OK] * 100
        assert await peer.reader.read() == b""
        await peer.until(lambda: not peer.online())
        assert (peer.stored(OURS), peer.stored(ALSO_OURS)) == (50, 50)

    play(scene)


@pytest.mark.slow
def test_a_platform_whose_link_is_reset_loses_nothing_that_was_answered_and_comes_back(play, caplog):
    """In the middle of a login, of reports, of nothing: no fault is logged, nobody stays online, and the next link works."""

    async def scene(peer):
        for length in (1, 3, 40):
            link = await connect(peer.running)
            assert await link.log_in() == OK
            assert await link.vehicle(OURS) == OK
            answered = [await link.report(OURS, ago_s=60 * length + number) for number in range(length)]
            assert answered == [OK] * length
            login = VehicleLogin(time=now(), serial=9, iccid="89860" + "0" * 15)
            link.send(Command.VEHICLE_LOGIN, ALSO_OURS, login)
            for number in range(length):
                at = beijing_time(peer.began_ns - (2000 + 60 * length + number) * 1_000_000_000)
                link.send(Command.REALTIME_REPORT, ALSO_OURS, Report(time=at, bodies=()))
            link.writer.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            link.writer.transport.abort()
            await peer.until(lambda: not peer.online() and not peer.running.cloud.router.platforms())
        assert peer.stored(OURS) == 44
        assert await peer.log_in() == OK
        assert await peer.vehicle(ALSO_OURS) == OK
        await peer.until(lambda: peer.online() == {ALSO_OURS})

    play(scene)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.slow
def test_a_platform_that_falls_silent_is_hung_up_on_and_its_vehicles_are_offline(play):
    """Over a real socket. Its first heartbeat is its last word: only then does silence count."""

    async def scene(peer):
        assert await peer.log_in() == OK
        assert await peer.vehicle(OURS) == OK
        assert await peer.report(OURS) == OK
        await peer.until(lambda: peer.online() == {OURS})
        assert await peer.ask(Command.HEARTBEAT, CODE, Heartbeat()) == OK
        async with asyncio.timeout(120):
            assert await peer.reader.read() == b""
        await peer.until(lambda: peer.online() == set())
        assert peer.stored(OURS) == 1
        again = await connect(peer.running)
        assert await again.log_in() == OK
        assert await again.vehicle(OURS, serial=2) == OK

    play(scene, heartbeat_window_s=1)


@pytest.mark.slow
def test_a_vehicle_that_logs_in_elsewhere_leaves_the_platforms_link_and_the_others_stay(play):
    async def scene(peer):
        await peer.log_in()
        await peer.vehicle(OURS)
        await peer.vehicle(NAMED)
        direct = await connect(peer.running)
        assert await direct.vehicle(OURS, serial=2) == OK
        await peer.until(lambda: peer.online() == {OURS, NAMED})
        # The platform's link is open and may still speak for both.
        assert await peer.report(NAMED, ago_s=1) == OK
        peer.writer.close()
        await peer.until(lambda: peer.online() == {OURS})
        direct.writer.close()
        await peer.until(lambda: not peer.online())

    play(scene)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", [{"user": "other"}, {"password": "correcthorsf"}, {"password": ""}, {"code": "OTHERPLATFORM0001"}]
)
def test_who_is_not_the_platform_is_refused_and_recorded(play, wrong):
    async def scene(peer):
        assert await peer.log_in(**wrong) == ERROR
        assert peer.refusals() == {("login-platform", wrong.get("code", CODE), ERROR)}
        # The link is open to a better login.
        assert await peer.log_in() == OK
        assert await peer.vehicle(OURS) == OK

    play(scene)


@pytest.mark.slow
def test_who_guesses_the_password_is_stopped_and_recorded(play):
    async def scene(peer):
        for _ in range(10):
            assert await peer.log_in(password="correcthorsf") == ERROR
        assert await peer.log_in() == ERROR
        assert peer.refusals() == {("login-platform", CODE, ERROR), ("login-platform-limited", CODE, ERROR)}
        assert peer.running.cloud.router.platforms() == {}

    play(scene)


@pytest.mark.slow
def test_without_an_entry_no_platform_logs_in(play):
    async def scene(peer):
        assert await peer.log_in() == ERROR
        assert peer.refusals() == {("login-platform", CODE, ERROR)}

    play(scene, platform_peers={})


@pytest.mark.slow
def test_a_vehicle_of_others_and_one_of_nobody_are_refused_and_recorded(play):
    async def scene(peer):
        await peer.log_in()
        assert await peer.vehicle(FOREIGN) == ERROR
        assert await peer.vehicle(UNKNOWN) == ERROR
        assert await peer.report(FOREIGN, ago_s=1) == ERROR
        assert await peer.report(UNKNOWN, ago_s=1) == ERROR
        assert peer.stored(FOREIGN) == 0
        assert peer.refusals() == {
            ("platform-foreign-vin", FOREIGN, ERROR),
            ("login-unknown-vin", UNKNOWN, ERROR),
        }
        # None of it has cost the link anything.
        assert await peer.vehicle(OURS) == OK
        await peer.until(lambda: peer.online() == {OURS})

    play(scene)


# -- the library's sending end against ours --------------------------------------------------------------------------------


class Links:
    """Links of a platform without sockets; what they ask the store is done when `run` is called, in its order."""

    def __init__(self, sample_keys, folder):
        settings = PlatformSettings(platform_peers={CODE: PEER})
        self.cloud = build_cloud(keys=sample_keys, data_dir=folder, settings=settings)
        self.cloud.services.vehicles.register(vin=OURS, series="T1", project="Harbour", now=wall_clock())
        self.now_ns = wall_clock_ns()
        self.asked = deque()

    def open(self):
        link = self.cloud.open_link(lambda: None, submit=lambda job, then: self.asked.append((job, then)))
        link.connected(self.now_ns)
        return link

    def give(self, link, command, vin, message):
        link.receive_data(encode(Frame(command=command, vin=vin, message=message)), self.now_ns)

    def log_in(self, link, serial):
        self.give(link, Command.VEHICLE_LOGIN, OURS, VehicleLogin(time=now(), serial=serial, iccid="89860" + "0" * 15))

    def platform(self):
        link = self.open()
        self.give(link, Command.PLATFORM_LOGIN, CODE, PlatformLogin(time=now(), serial=1, user=USER, password=PASSWORD))
        self.run()
        return link

    def run(self):
        while self.asked:
            job, then = self.asked.popleft()
            then(job(), None, self.now_ns)

    def is_online(self):
        return self.cloud.services.presence.is_here(OURS)


@pytest.fixture
def links(sample_keys, tmp_path):
    made = Links(sample_keys, tmp_path)
    yield made
    made.cloud.close()


@pytest.mark.slow
def test_a_vehicle_that_goes_to_and_fro_is_offline_when_all_links_are_gone(links):
    """It comes back to the platform's link before that link has heard that it had left."""
    platform, terminal = links.platform(), links.open()
    links.log_in(platform, 1)
    links.run()
    links.log_in(terminal, 2)
    links.log_in(platform, 3)
    links.run()
    for link in (platform, terminal):
        link.handle_timeout(links.now_ns)
    assert links.is_online()
    for link in (terminal, platform):
        link.disconnected(links.now_ns)
        links.run()
    assert not links.is_online()
    assert links.cloud.router.vins() == ()


def test_a_platforms_link_is_closed_with_the_others_when_the_clock_is_put_back(links):
    platform = links.platform()
    links.log_in(platform, 1)
    links.run()
    links.cloud.router.close_links()
    platform.handle_timeout(links.now_ns)
    assert platform.is_closing


@pytest.mark.slow
def test_a_link_without_vehicles_is_counted_and_closed_with_the_others(links):
    platform, gauge = links.platform(), links.cloud.services.gauges["platform_links"]
    assert (links.cloud.router.platforms(), gauge()) == ({CODE: 1}, 1)
    # A second login on it is the same link.
    links.give(
        platform, Command.PLATFORM_LOGIN, CODE, PlatformLogin(time=now(), serial=2, user=USER, password=PASSWORD)
    )
    links.run()
    assert links.cloud.router.platforms() == {CODE: 1}
    assert not platform.is_closing
    links.cloud.router.close_links()
    platform.handle_timeout(links.now_ns)
    assert platform.is_closing
    other = links.platform()
    links.give(other, Command.PLATFORM_LOGOUT, CODE, PlatformLogout(time=now(), serial=1))
    assert gauge() == 0


@pytest.mark.slow
def test_a_platforms_newer_link_ends_the_older_as_soon_as_that_has_no_vehicle(links):
    """An empty one at once; another when its vehicle has logged in on the newer."""
    empty = links.platform()
    older = links.platform()
    empty.handle_timeout(links.now_ns)
    assert (empty.is_closing, older.is_closing) == (True, False)
    empty.disconnected(links.now_ns)
    links.log_in(older, 1)
    links.run()
    newer = links.platform()
    older.handle_timeout(links.now_ns)
    assert not older.is_closing
    links.log_in(newer, 2)
    links.run()
    older.handle_timeout(links.now_ns)
    assert older.is_closing
    older.disconnected(links.now_ns)
    links.run()
    assert links.is_online()
    assert not newer.is_closing
    assert links.cloud.router.platforms() == {CODE: 1}


@pytest.mark.slow
def test_a_vehicle_that_logs_out_is_the_last_of_an_older_link(links):
    older = links.platform()
    links.log_in(older, 1)
    links.run()
    links.platform()
    links.give(older, Command.VEHICLE_LOGOUT, OURS, VehicleLogout(time=now(), serial=1))
    links.run()
    assert older.is_closing


@pytest.mark.slow
def test_a_platform_that_sends_heartbeats_may_be_silent_no_longer_than_a_terminal(links):
    link = links.platform()
    assert link.next_timeout() == links.now_ns + 3600 * 10**9
    link.data_to_send()
    links.give(link, Command.HEARTBEAT, CODE, Heartbeat())
    (answer,) = frames(link.data_to_send())
    assert (answer.command, answer.vin, answer.reply_flag) == (Command.HEARTBEAT, CODE, OK)
    assert link.next_timeout() == links.now_ns + 540 * 10**9
    link.handle_timeout(links.now_ns + 540 * 10**9)
    assert link.is_closing


def frames(data):
    reader, found = FrameReader(), []
    reader.receive_data(data)
    while isinstance(event := reader.next_event(), FrameReceived):
        found.append(event.frame)
    return found


class Forwarder:
    """Drives a `ForwardingSession` over TCP, one link at a time."""

    def __init__(self, running):
        self.running = running
        self.session = ForwardingSession(code=CODE, user=USER, password=PASSWORD)
        self.events = []

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.running.gateway_port)
        self.session.connected(wall_clock_ns())

    def send(self):
        self.writer.write(self.session.data_to_send())

    async def until(self, condition):
        """Send and receive until it holds."""
        async with asyncio.timeout(120):
            self.send()
            while not condition():
                data = await self.reader.read(65_536)
                assert data, "the platform has closed the link"
                self.session.receive_data(data, wall_clock_ns())
                self.send()
                while (event := self.session.next_event()) is not None:
                    self.events.append(event)

    def cut(self):
        self.writer.transport.abort()
        self.session.disconnected(wall_clock_ns())


@pytest.mark.slow
def test_both_ends_of_the_library_and_a_link_that_breaks_in_the_middle(play):
    """200 reports of two vehicles, the link cut with most of them on their way: each is stored, and no answer is missing."""

    def of(vin, number):
        at = beijing_time(wall_clock_ns() - (1000 - number) * 1_000_000_000)
        report = Report(time=at, bodies=())
        return encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=report))

    async def scene(peer):
        forwarder = Forwarder(peer.running)
        session = forwarder.session
        await forwarder.open()
        for vin in (OURS, NAMED, FOREIGN):
            login = VehicleLogin(time=now(), serial=1, iccid="89860" + "0" * 15)
            session.forward(encode(Frame(command=Command.VEHICLE_LOGIN, vin=vin, message=login)), wall_clock_ns())
        sent = [(vin, of(vin, number)) for number in range(100) for vin in (OURS, NAMED)]
        for _, frame in sent[:60]:
            session.forward(frame, wall_clock_ns())
        await forwarder.until(lambda: session.waiting_count <= 40)
        assert [event.vin for event in forwarder.events if isinstance(event, ForwardRefused)] == [FOREIGN]
        for _, frame in sent[60:]:
            session.forward(frame, wall_clock_ns())
        forwarder.send()
        forwarder.cut()
        assert session.waiting_count >= 140
        await forwarder.open()
        await forwarder.until(lambda: session.waiting_count == 0 and session.state.name == "LOGGED_IN")
        for vin in (OURS, NAMED):
            times = {
                frame.reported_at_s for frame in peer.running.cloud.telemetry.frames(vin, PageRequest(1, 500)).items
            }
            assert len(times) == 100
        await peer.until(lambda: peer.online() == {OURS, NAMED})
        forwarder.cut()
        await peer.until(lambda: not peer.online())
        peer.writer.close()

    play(scene)
