"""`bmsota send`: what is sent when, and what is printed about the answers. No clock, no socket: both are passed in."""

from __future__ import annotations

import json
import re

import pytest
from certificates import make_certificate

from bmsota.adapters.frame_sources import FoundFrame
from bmsota.cli import send as send_command
from bmsota.cli.send import Replay, SendPace, is_uplink
from bmsota.errors import TransferError
from bmsota.gbt32960 import (
    Command,
    EmptyReply,
    Frame,
    Heartbeat,
    ParameterQuery,
    ReplyFlag,
    Report,
    TimeReply,
    VehicleLogin,
    VehicleLogout,
    beijing_time,
    decode,
    encode,
)

SECOND_NS = 10**9
START_NS = 1_767_240_000 * SECOND_NS


class World:
    """A clock that only waiting moves, and a platform that closes or answers as the test says."""

    def __init__(self):
        self.now_s = 100.0
        self.links = []
        self.contexts = []
        self.sent = []
        self.told = []
        self.complaints = []
        self.refuses_connections = False

    def connect(self):
        if self.refuses_connections:
            raise TransferError("cannot connect to there: refused", permanent=False)
        link = FakeLink(self, len(self.links))
        self.links.append(link)
        return link

    def listen(self, links, timeout_s):
        heard = [link for link in links if link.incoming]
        if not heard:
            self.now_s += timeout_s
        return heard

    def replay(self, **options):
        pace = options.pop("pace", SendPace())
        return Replay(
            connect=self.connect,
            pace=pace,
            tell=self.told.append,
            complain=self.complaints.append,
            clock=lambda: self.now_s,
            listen=self.listen,
            **options,
        )


class FakeLink:
    def __init__(self, world, number):
        self.world = world
        self.number = number
        self.incoming = []
        self.is_broken = False
        self.is_open = True

    def send(self, data):
        if self.is_broken:
            raise TransferError("expected to send, got: broken", permanent=False)
        self.world.sent.append((round(self.world.now_s - 100, 3), self.number, decode(data).command))

    def receive(self):
        return self.incoming.pop(0)

    def close(self):
        self.is_open = False


@pytest.fixture
def world():
    return World()


def found(command, message, *, vin="V", seconds=None, link="", flag=ReplyFlag.COMMAND):
    frame = Frame(command=command, vin=vin, message=message, reply_flag=flag)
    time_ns = None if seconds is None else START_NS + round(seconds * SECOND_NS)
    return FoundFrame("test", encode(frame), frame, time_ns=time_ns, link=link)


def report(seconds, **more):
    return found(Command.REALTIME_REPORT, Report(beijing_time(START_NS + seconds * SECOND_NS), ()), **more)


def heartbeat(**more):
    return found(Command.HEARTBEAT, Heartbeat(), **more)


def answer(command, flag=ReplyFlag.SUCCESS):
    return encode(Frame(command=command, vin="V", message=EmptyReply(), reply_flag=flag))


@pytest.mark.parametrize(
    ("options", "dues"),
    [
        ({}, [0, 10, 10, 40, 40]),
        ({"speed": 10}, [0, 1, 1, 4, 4]),
        ({"speed": 0}, [0, 0, 0, 0, 0]),
        ({"pause_s_max": 12}, [0, 10, 10, 22, 22]),
    ],
)
def test_the_pace(options, dues):
    """Pauses are kept or scaled; what is older, or has no time, goes at once and moves nothing."""
    pace = SendPace(**options)
    times = [5, 15, 3, 45, None]
    assert [pace.due_s(None if at is None else at * SECOND_NS) for at in times] == pytest.approx(dues)


def test_frames_go_when_they_were_captured(world):
    replay = world.replay()
    for seconds in (0, 2.5, 30):
        replay.send(heartbeat(seconds=seconds))
    assert [at for at, _, _ in world.sent] == pytest.approx([0, 2.5, 30])


def test_without_a_capture_the_frames_own_times_count(world):
    replay = world.replay(pace=SendPace(speed=2))
    for each in (report(0), heartbeat(), report(30), report(10), report(31)):
        replay.send(each)
    assert [at for at, _, _ in world.sent] == pytest.approx([0, 0, 15, 15, 15.5])


def test_each_vehicle_has_its_own_connection(world):
    replay = world.replay()
    for vin in ("A", "B", "A"):
        replay.send(heartbeat(vin=vin))
    assert [number for _, number, _ in world.sent] == [0, 1, 0]


def test_one_link_for_all(world):
    replay = world.replay(one_link=True)
    for vin in ("A", "B"):
        replay.send(heartbeat(vin=vin))
    assert len(world.links) == 1


def test_of_a_capture_only_the_terminals_side_goes(world):
    replay = world.replay()
    replay.send(heartbeat(link="up"))
    replay.send(found(Command.HEARTBEAT, EmptyReply(), link="down", flag=ReplyFlag.SUCCESS))
    replay.send(found(Command.QUERY_PARAMETERS, ParameterQuery(beijing_time(START_NS), (1,)), link="down"))
    assert (replay.sent, replay.downlink) == (1, 2)
    assert "2 frames of the other direction skipped" in replay.summary()


def test_which_side_a_frame_is_of():
    time = beijing_time(START_NS)
    query = Frame(command=0x80, vin="V", message=ParameterQuery(time, (1,)))
    reply = Frame(command=0x81, vin="V", message=TimeReply(time), reply_flag=1)
    assert not is_uplink(query)
    assert is_uplink(reply)
    assert is_uplink(heartbeat().frame)


def test_answers_are_told_and_counted(world):
    replay = world.replay()
    replay.send(heartbeat())
    command = encode(Frame(command=0x80, vin="V", message=ParameterQuery(beijing_time(START_NS), (1,))))
    world.links[0].incoming = [
        answer(7)[:10],
        answer(7)[10:] + answer(1, ReplyFlag.VIN_DUPLICATED),
        command + b"junk" + answer(7),
    ]
    replay.finish(2.0)
    assert (replay.answers, replay.refused, replay.asked, replay.faults) == (3, 1, 1, 1)
    assert len(world.told) == 5
    assert "3 answered, 1 of them refused; 1 commands from the platform not answered" in replay.summary()


def test_it_listens_until_nothing_comes(world):
    """The silence counts from the last answer; then the connections are closed."""
    replay = world.replay()
    replay.send(heartbeat())
    replay.finish(3.0)
    assert world.now_s == pytest.approx(103.0)
    replay.close()
    assert not world.links[0].is_open


def test_a_platform_that_closes_is_at_fault(world):
    """Frames for a connection that is gone are counted as not sent; a new login opens another."""
    replay = world.replay()
    replay.send(heartbeat())
    world.links[0].incoming = [b""]
    replay.send(heartbeat())
    assert (replay.sent, replay.unsent, replay.faults) == (1, 1, 1)
    assert world.complaints == ["V: the platform closed the connection after 1 frame"]
    replay.send(found(Command.VEHICLE_LOGIN, VehicleLogin(beijing_time(START_NS), 1, "i")))
    assert (replay.sent, len(world.links)) == (2, 2)


def test_closing_after_the_logout_is_right(world):
    replay = world.replay()
    replay.send(found(Command.VEHICLE_LOGOUT, VehicleLogout(beijing_time(START_NS), 1)))
    world.links[0].incoming = [b""]
    replay.finish(1.0)
    assert replay.faults == 0


def test_a_broken_connection(world):
    replay = world.replay()
    replay.send(heartbeat())
    world.links[0].is_broken = True
    replay.send(heartbeat())
    assert (replay.sent, replay.unsent, replay.faults) == (1, 1, 1)


def test_nobody_answers_there(world):
    """The failed connection is said once, not for each frame."""
    world.refuses_connections = True
    replay = world.replay()
    replay.send(heartbeat())
    replay.send(heartbeat())
    assert (replay.unsent, len(world.complaints)) == (2, 1)


def test_for_a_connection_that_is_gone_nobody_waits(world):
    """An hour of frames that cannot be sent takes no hour."""
    world.refuses_connections = True
    replay = world.replay()
    for seconds in (0, 1800, 3600):
        replay.send(heartbeat(seconds=seconds))
    assert (replay.unsent, world.now_s) == (3, 100.0)


def test_connections_have_a_limit(world, monkeypatch):
    monkeypatch.setattr(send_command, "_LINKS_MAX", 2)
    replay = world.replay()
    for vin in "ABC":
        replay.send(heartbeat(vin=vin))
    assert (replay.sent, replay.unsent, replay.faults) == (2, 1, 1)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(runner, world, monkeypatch):
    """The command, with the world's connections in place of sockets."""

    def connect(host, port, *, ssl_context):
        world.contexts.append(ssl_context)
        return world.connect()

    monkeypatch.setattr(send_command, "TcpLink", connect)
    monkeypatch.setattr(send_command.Replay.__init__, "__kwdefaults__", _kwdefaults(world))
    return runner(send_command.command)


def _kwdefaults(world):
    return {"one_link": False, "clock": lambda: world.now_s, "listen": world.listen}


def test_a_file_is_sent(run, world, tmp_path):
    (tmp_path / "frames.bin").write_bytes(report(0).data + report(30).data)
    done = run(tmp_path / "frames.bin", "--to", "gateway:32960", "--speed", "60")
    assert done.exit_code == 0, done.output
    assert world.sent == [(0.0, 0, 2), (0.5, 0, 2)]
    assert "2 frames sent in" in done.stderr


@pytest.mark.parametrize("flag", [ReplyFlag.SUCCESS, ReplyFlag.ERROR])
def test_a_refusal_is_exit_code_1(run, world, flag):
    world.connect = _answering(world, world.connect, answer(7, flag))
    done = run(heartbeat().data.hex(), "--to", "gateway:32960", "--json")
    assert json.loads(done.stdout)["reply_flag"] == flag
    assert done.exit_code == (flag != ReplyFlag.SUCCESS)


def _answering(_world, connect, data):
    def make():
        link = connect()
        link.incoming = [data]
        return link

    return make


def test_answers_as_lines_and_quiet(run, world):
    world.connect = _answering(world, world.connect, answer(7, 0x77))
    digits = heartbeat().data.hex()
    assert run(digits, "--to", "h:1").stdout == "< V HEARTBEAT 0x77\n"
    assert run(digits, "--to", "h:1", "-q").stdout == ""


def test_what_is_no_frame_is_not_sent(run, world):
    done = run("--to", "h:1", stdin=heartbeat().data.hex() + "\nnonsense\n")
    assert done.exit_code == 1
    assert "(not sent)" in done.stderr
    assert len(world.sent) == 1


@pytest.mark.parametrize("to", ["", "host", "host:", ":1", "host:0", "host:65536", "a b:1", "::1:5"])
def test_a_wrong_endpoint(run, to):
    done = run(heartbeat().data.hex(), "--to", to)
    assert done.exit_code == 2
    assert "HOST:PORT" in done.stderr


def test_a_platform_that_is_not_named_is_asked_for(run):
    done = run(heartbeat().data.hex())
    assert done.exit_code == 2
    assert "no platform: pass --to HOST:PORT" in done.stderr


def test_an_ipv6_endpoint():
    assert send_command._endpoint("[fe80::1%eth0]:32960") == ("fe80::1%eth0", 32960)


def test_tls_is_used_when_an_option_of_it_is_given(run, world, tmp_path):
    """The connection itself: tests/bmsota/adapters/test_tcp.py."""
    cert, key = make_certificate(tmp_path)
    world.connect = _answering(world, world.connect, answer(7))
    digits = heartbeat().data.hex()
    for options in ((), ("--tls",), ("--tls-ca", cert), ("--tls-ca", cert, "--tls-cert", cert, "--tls-key", key)):
        assert run(digits, "--to", "h:1", *map(str, options)).exit_code == 0
    assert [context is not None for context in world.contexts] == [False, True, True, True]
    assert all(context.check_hostname for context in world.contexts[1:])


def test_a_certificate_of_no_use_is_a_usage_error(run, world, tmp_path):
    done = run(heartbeat().data.hex(), "--to", "h:1", "--tls-ca", str(tmp_path / "none"))
    assert done.exit_code == 2
    assert "cannot read" in " ".join(done.stderr.split())
    assert world.contexts == []


def test_a_certificate_without_its_key_says_what_to_do(run, world, tmp_path):
    cert, _ = make_certificate(tmp_path)
    done = run(heartbeat().data.hex(), "--to", "h:1", "--tls-cert", str(cert))
    assert done.exit_code == 2
    words = " ".join(re.sub(r"[│╭╮╰╯─]", "", done.stderr).split())
    assert "or name the file of the key" in words
    assert "None" not in words
    assert world.contexts == []
