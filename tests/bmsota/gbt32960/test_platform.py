"""The platform's end, as conversations with one link."""

from __future__ import annotations

from functools import reduce
from operator import xor

import pytest

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    Acknowledgement,
    CloseReason,
    CloseRequested,
    CommandReplied,
    CommandTimedOut,
    Control,
    ControlId,
    DiscardedBytes,
    EchoReply,
    Edition,
    EmptyReply,
    ExtensionReceived,
    Frame,
    FrameReader,
    FrameRefused,
    Heartbeat,
    HeartbeatReceived,
    LoginRequested,
    LogoutReceived,
    ParameterQuery,
    PlatformOptions,
    PlatformSession,
    PlatformState,
    Position,
    RawMessage,
    RefusalKind,
    RemoteUpgrade,
    ReplyBody,
    Report,
    ReportReceived,
    TimeReply,
    TimeSync,
    UpgradeState,
    UpgradeStateCode,
    UserDefined,
    VehicleLogin,
    VehicleLogout,
    beijing_time,
    encode,
)

VIN = "LTEST000000000001"
ICCID = "89860000000000000001"
START_NS = 1_767_225_600 * 10**9


@pytest.fixture
def platform(talk):
    def make(**options):
        return talk(PlatformSession(options=PlatformOptions(**options)))

    return make


def up(command, message, vin=VIN, **more):
    return Frame(command=command, vin=vin, message=message, **more)


def login(end, vin=VIN, serial=1):
    return up(1, VehicleLogin(beijing_time(end.now_ns), serial, ICCID), vin)


def report(end):
    return up(2, Report(beijing_time(end.now_ns), (Position(True, 121.5, 31.2),)))


def logged_in(end, **options):
    found = end(**options)
    found.hear(login(found))
    found.do("accept_login")
    assert found.session.state is PlatformState.LOGGED_IN
    found.take()
    return found


def test_a_login_is_decided_by_the_program_above(platform):
    """The answer carries the time of the login; only then does the vehicle count as logged in."""
    end = platform()
    asked = login(end)
    end.hear(asked)
    assert end.events == [LoginRequested(VIN, asked.message)]
    assert (end.session.state, end.session.vin) == (PlatformState.DECIDING, None)
    end.pass_time(3)
    end.do("accept_login")
    assert end.frames == [up(1, TimeReply(asked.message.time), reply_flag=1)]
    assert end.session.vin == VIN
    assert end.session.edition is Edition.GBT2016


def test_a_refused_login_may_be_answered_or_not(platform):
    """With a flag, or with silence (B.2.1); the link stays and the next login is asked again."""
    end = platform()
    end.hear(login(end))
    end.do("refuse_login", 3)
    assert end.frames[-1].reply_flag == 3
    end.pass_time(60)
    end.hear(login(end))
    end.do("refuse_login", None)
    assert len(end.frames) == 1
    assert end.session.state is PlatformState.OPEN
    end.hear(login(end))
    with pytest.raises(LocalProtocolError, match="refusal"):
        end.session.refuse_login(1, end.now_ns)
    end.do("accept_login")
    assert end.session.state is PlatformState.LOGGED_IN


def test_a_link_without_a_login_is_closed(platform):
    """After four minutes, however many refused logins there were, or none at all."""
    for first in ("connected", "login"):
        end = platform()
        if first == "login":
            end.hear(login(end))
            end.do("refuse_login", None)
        else:
            end.do("connected")
        end.take()
        end.pass_time(300)
        assert end.take() == ["00:04:00 ! CloseRequested reason=NOT_LOGGED_IN"]
        end.hear(login(end))
        assert end.take() == []


def test_what_comes_while_a_login_is_decided_waits(platform):
    """A service may take its time; nothing behind the login is lost or judged too early."""
    end = platform()
    data = encode(login(end)) + encode(report(end)) + encode(up(7, Heartbeat()))
    end.do("receive_data", data)
    assert [type(event) for event in end.events] == [LoginRequested]
    end.do("accept_login")
    assert [type(event) for event in end.events[1:]] == [ReportReceived, HeartbeatReceived]
    assert [frame.command for frame in end.frames] == [1, 7]


def test_reports(platform):
    """A correct report is an event and gets no answer (annex B); 0x03 is told apart."""
    end = logged_in(platform)
    frame = report(end)
    end.hear(frame)
    end.hear(up(3, frame.message))
    sent = encode(frame)
    stored = encode(up(3, frame.message))
    assert end.events[-2:] == [ReportReceived(VIN, sent), ReportReceived(VIN, stored)]
    assert [(event.report, event.is_backfill) for event in end.events[-2:]] == [
        (frame.message, False),
        (frame.message, True),
    ]
    assert [event.reported_at_s for event in end.events[-2:]] == [START_NS // 10**9] * 2
    assert end.events[-1].clear is end.events[-1].frame
    assert len(end.frames) == 1


def test_a_wrong_report_is_answered_so_that_it_comes_again(platform):
    """With the error flag and its time, if it has one. Without a readable time there is nothing to keep."""
    end = logged_in(platform)
    now = beijing_time(end.now_ns)
    time = bytes((26, 1, 1, 8, 0, 0))
    end.hear(up(2, RawMessage(time + b"\x01")))
    assert isinstance(end.events[-1], ReportReceived)
    assert "vehicle" in str(end.events[-1].fault)
    assert end.events[-1].report == Report(now, ())
    assert (end.frames[-1], end.events[-1].reply_flag) == (up(2, TimeReply(now), reply_flag=2), 2)
    for unit, message in ((b"\x1a", EmptyReply()), (bytes(7), TimeReply(now)), (b"", EmptyReply())):
        end.hear(up(2, RawMessage(unit)))
        event = end.events[-1]
        assert isinstance(event, DiscardedBytes)
        assert (event.kind, event.vin, event.reply_flag) == (RefusalKind.STRUCTURE, VIN, 2)
        assert end.frames[-1] == up(2, message, reply_flag=2)
    sent = len(end.frames)
    end.hear(up(2, RawMessage(time[:5]), vin="LTEST000000000002"))
    assert (end.events[-1].kind, end.events[-1].vin) == (RefusalKind.STRUCTURE, "LTEST000000000002")
    assert (len(end.frames), end.events[-1].reply_flag) == (sent, None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (ReplyBody.TIME, lambda end, raw: TimeReply(beijing_time(end.now_ns - 2 * 10**9))),
        (ReplyBody.ECHO, lambda end, raw: EchoReply(beijing_time(end.now_ns), raw[30:-1])),
        (ReplyBody.EMPTY, lambda end, raw: EmptyReply()),
    ],
)
def test_the_reply_practices_of_the_field(platform, body, expected):
    """Surprise 2: three bodies, by option, for logins, logouts and, if wanted, reports."""
    end = logged_in(platform, reply_body=body, acknowledge_reports=Acknowledgement.AT_ONCE)
    asked = report(end)
    end.pass_time(2)
    end.hear(asked)
    assert end.frames[-1] == up(2, expected(end, encode(asked)), reply_flag=1)


def test_the_identifier_is_answered_as_it_came(platform):
    """A terminal that pads with blanks gets blanks."""
    end = platform()
    asked = Frame(command=1, vin="SHORT", vin_padding=" " * 12, message=login(end).message)
    end.hear(asked)
    end.do("accept_login")
    assert end.frames[-1].vin_padding == " " * 12
    assert end.session.vin == "SHORT"


def test_heartbeats_and_the_time(platform):
    """Answered at once: nothing, and the platform's time."""
    end = logged_in(platform)
    end.hear(up(7, Heartbeat()))
    assert end.frames[-1] == up(7, EmptyReply(), reply_flag=1)
    assert end.events[-1] == HeartbeatReceived(VIN)
    end.hear(up(8, TimeSync()))
    assert end.frames[-1] == up(8, TimeReply(beijing_time(end.now_ns)), reply_flag=1)


def test_a_silent_link_is_closed(platform):
    """Every frame is a sign of life. A heartbeat each 240 s, the longest period there is, keeps the link; five minutes do not."""
    end = logged_in(platform)
    for _ in range(3):
        end.pass_time(240)
        end.hear(up(7, Heartbeat()))
    assert end.session.state is PlatformState.LOGGED_IN
    end.take()
    end.pass_time(299)
    assert end.take() == []
    end.pass_time(1)
    assert [line[9:] for line in end.take()] == ["! CloseRequested reason=SILENT"]
    assert end.session.next_timeout() is None


def test_logout(platform):
    """Answered; the vehicle may log in again on the same link."""
    end = logged_in(platform)
    out = up(4, VehicleLogout(beijing_time(end.now_ns), 1))
    end.hear(out)
    assert end.events[-1] == LogoutReceived(VIN, 1, out.message.time)
    assert end.frames[-1] == up(4, TimeReply(out.message.time), reply_flag=1)
    end.hear(login(end, serial=2))
    end.do("accept_login")
    assert end.session.state is PlatformState.LOGGED_IN


def test_a_command_is_tried_three_times(platform):
    """A minute apart, and a minute for the last answer (B.2.9)."""
    end = logged_in(platform, silence_timeout_ns=10**15)
    message = Control(beijing_time(end.now_ns), ControlId.REMOTE_UPGRADE, RemoteUpgrade(url="https://x/y"))
    end.do("send_command", 0x82, message)
    end.pass_time(300)
    assert end.take() == [
        "00:00:00 > 0x82 Control",
        "00:01:00 > 0x82 Control",
        "00:02:00 > 0x82 Control",
        "00:03:00 ! CommandTimedOut command=130 tries=3",
    ]
    assert end.events[-1] == CommandTimedOut(0x82, message, 3)
    assert end.session.waiting_command_count == 0


def test_commands_of_one_number_wait_for_each_other(platform):
    """Their answers differ by nothing but the number; other numbers do not wait."""
    end = logged_in(platform)
    now = beijing_time(end.now_ns)
    first, second = Control(now, ControlId.RESET), Control(now, ControlId.POWER_OFF)
    end.do("send_command", 0x82, first)
    end.do("send_command", 0x82, second)
    end.do("send_command", 0x80, ParameterQuery(now, (1,)))
    assert [line[9:] for line in end.take()] == ["> 0x82 Control", "> 0x80 ParameterQuery"]
    answer = up(0x82, TimeReply(now), reply_flag=1)
    end.hear(answer)
    assert end.events[-1] == CommandReplied(0x82, first, 1, answer)
    assert end.frames[-1].message == second
    refusal = up(0x82, EmptyReply(), reply_flag=2)
    end.hear(refusal)
    assert end.events[-1] == CommandReplied(0x82, second, 2, refusal)
    end.hear(refusal)
    assert isinstance(end.events[-1], FrameRefused)


def test_commands_need_a_login_and_room(platform):
    end = platform()
    control = Control(beijing_time(end.now_ns), ControlId.RESET)
    with pytest.raises(LocalProtocolError, match="logged in"):
        end.session.send_command(0x82, control, end.now_ns)
    end = logged_in(platform)
    with pytest.raises(LocalProtocolError, match="0x80 to 0xFE"):
        end.session.send_command(7, Heartbeat(), end.now_ns)
    for _ in range(64):
        end.session.send_command(0x82, control, end.now_ns)
    with pytest.raises(LocalProtocolError, match="64 commands are unanswered"):
        end.session.send_command(0x82, control, end.now_ns)


def test_a_lost_link_ends_its_commands(platform):
    """The gateway learns at once that they were not answered, and how often they were sent."""
    end = logged_in(platform)
    control = Control(beijing_time(end.now_ns), ControlId.RESET)
    end.do("send_command", 0x82, control)
    end.do("send_command", 0x82, control)
    end.do("disconnected")
    assert end.events[-2:] == [CommandTimedOut(0x82, control, 1), CommandTimedOut(0x82, control, 0)]
    assert end.session.state is PlatformState.CLOSED
    end.do("disconnected")
    end.do("supersede")
    assert len(end.events) == 3  # The login, and the two commands.


def test_the_older_link_of_a_vehicle_is_closed(platform):
    """What still comes on it has no effect."""
    end = logged_in(platform)
    end.do("supersede")
    assert end.take() == ["00:00:00 ! CloseRequested reason=SUPERSEDED"]
    end.hear(report(end))
    assert end.take() == []
    with pytest.raises(LocalProtocolError, match="link"):
        end.session.reply(report(end), end.now_ns)
    with pytest.raises(LocalProtocolError, match=r"not possible in state CLOSED \(ACCEPTED\)"):
        end.session.accept_login(end.now_ns)


def test_the_extension_is_answered_by_the_program_above(platform):
    """After it has stored what it must not lose; the answer carries the frame's time."""
    end = logged_in(platform)
    asked = up(
        0xC1,
        UpgradeState(time=beijing_time(end.now_ns), order_id="o", state=UpgradeStateCode.SUCCEEDED, progress_pct=100),
    )
    end.hear(asked)
    assert end.events[-1] == ExtensionReceived(asked)
    end.pass_time(5)
    end.do("reply", asked)
    assert end.frames[-1] == up(0xC1, TimeReply(asked.message.time), reply_flag=1)
    end.session.reply(asked, end.now_ns, 2)
    end.note()
    assert end.frames[-1].reply_flag == 2
    foreign = up(0xF0, RawMessage(b"x"))
    end.hear(foreign)
    end.do("reply", foreign, message=EmptyReply())
    assert end.frames[-1].message == EmptyReply()
    with pytest.raises(LocalProtocolError, match="a command"):
        end.session.reply(end.frames[-1], end.now_ns)


def test_who_sends_only_garbage_is_cut_off(platform):
    """64 KiB without one frame; a frame in between begins the count anew."""
    end = logged_in(platform)
    for _ in range(4):
        end.do("receive_data", b"\xaa" * 40_000 + encode(up(7, Heartbeat())))
    assert end.session.state is PlatformState.LOGGED_IN
    end.do("receive_data", b"\xaa" * 70_000)
    assert end.take()[-1].endswith("CloseRequested reason=GARBAGE")


def raw_frame(command, data=b"", *, flag=0xFE, encryption=1, start=b"##"):
    inside = bytes((command, flag)) + VIN.encode() + bytes((encryption,)) + len(data).to_bytes(2, "big") + data
    return start + inside + bytes((reduce(xor, inside),))


@pytest.mark.parametrize(
    "raw",
    [
        raw_frame(7),
        raw_frame(2),
        raw_frame(2, b"x" * 16, encryption=3),
        raw_frame(7, flag=1),
        raw_frame(1, b"x"),
        raw_frame(1, b"x" * 16, encryption=3),
        raw_frame(5, b"x" * 41),
        raw_frame(0x0A, b"x" * 20, start=b"$$"),
        raw_frame(0x55),
    ],
    ids=["heartbeat", "report", "encrypted", "reply", "wrong login", "encrypted login", "platform", "2025", "unknown"],
)
def test_who_never_logs_in_is_refused_64_times_and_cut_off(raw):
    """Each is told to the program until then."""
    session = PlatformSession()
    session.connected(START_NS)
    session.receive_data(raw * 63, START_NS)
    assert session.state is PlatformState.OPEN
    session.receive_data(raw * 1000, START_NS)
    assert session.state is PlatformState.CLOSED
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
    assert len(events) == 65
    assert events[-1] == CloseRequested(CloseReason.NOT_LOGGED_IN)


def test_a_frame_that_begins_before_the_login_may_hold_16_kib(platform):
    """One that begins behind it has the standard's 64; a long login is waited for."""
    begun = raw_frame(2, bytes(60_000))[:-1]
    end = platform()
    end.do("receive_data", begun[: 16 * 1024])
    assert end.session.state is PlatformState.OPEN
    end.do("receive_data", begun[16 * 1024 : 16 * 1024 + 1])
    assert end.take()[-1].endswith("CloseRequested reason=GARBAGE")
    end = logged_in(platform)
    end.do("receive_data", begun)
    assert end.session.state is PlatformState.LOGGED_IN
    end = platform()
    codes = tuple(f"{number:024d}" for number in range(250))
    end.hear(up(1, VehicleLogin(beijing_time(end.now_ns), 1, ICCID, codes)))
    assert end.session.state is PlatformState.DECIDING


def test_who_has_logged_in_and_out_is_not_cut_off(platform):
    end = logged_in(platform)
    end.hear(up(4, VehicleLogout(time=beijing_time(end.now_ns), serial=1)))
    end.do("receive_data", encode(up(7, Heartbeat())) * 100)
    assert end.session.state is PlatformState.LOGGED_OUT


FALSE_START = encode(up(7, Heartbeat()))[:22] + b"\x40\x00"


def test_a_whole_frame_ends_the_wait_for_an_unfinished_one(platform):
    """At once if the unfinished one is older than a burst, else when it is."""
    end = logged_in(platform)
    end.take()
    end.do("receive_data", FALSE_START + encode(report(end)))
    end.pass_time(1)
    end.do("receive_data", FALSE_START)
    end.pass_time(5)
    end.do("receive_data", encode(report(end)))
    assert [line[6:] for line in end.take()] == [
        "01 ! DiscardedBytes reason=a frame that was never finished",
        "01 ! ReportReceived",
        "06 ! DiscardedBytes reason=a frame that was never finished",
        "06 ! ReportReceived",
    ]


def test_a_frame_that_carries_a_frame_is_one_frame(platform):
    """Its pieces come within a second, as those of a burst do."""
    end = logged_in(platform)
    outer = encode(
        up(
            2,
            Report(beijing_time(end.now_ns), (UserDefined(0x80, encode(up(7, Heartbeat()))), UserDefined(0x81, b"x"))),
        )
    )
    end.take()
    end.do("receive_data", outer[:-1])
    end.pass_time(0.5)
    end.do("receive_data", outer[-1:])
    end.pass_time(60)
    assert [line[9:] for line in end.take()] == ["! ReportReceived"]


def test_who_sends_single_bytes_is_looked_through_once_a_second(platform, monkeypatch):
    looks = []
    look = FrameReader.skip_to_frame
    monkeypatch.setattr(FrameReader, "skip_to_frame", lambda reader: looks.append(1) or look(reader))
    end = logged_in(platform)
    end.do("receive_data", FALSE_START)
    for _ in range(100):
        end.pass_time(0.1)
        end.do("receive_data", b"x")
    assert 9 <= len(looks) <= 11


def test_what_stands_behind_a_false_beginning_is_heard_before_silence_is_told(platform):
    """Also where silence is shorter than the wait for the rest."""
    end = logged_in(platform, silence_timeout_ns=20 * 10**9)
    end.take()
    beat = encode(up(7, Heartbeat()))
    end.do("receive_data", FALSE_START + FALSE_START)
    end.pass_time(19)
    end.do("receive_data", beat[:-1])
    end.pass_time(0.5)
    end.do("receive_data", beat[-1:])
    end.pass_time(0.5)
    assert "! CloseRequested" not in str(end.take())
    end.pass_time(20)
    assert end.take()[-1].endswith("CloseRequested reason=SILENT")


def test_a_link_that_ends_gives_what_stands_behind_a_false_beginning(platform):
    """Nothing that came whole is lost; a login is no event any more, because nobody can answer it."""
    end = logged_in(platform)
    end.take()
    end.do("receive_data", FALSE_START + encode(report(end)) + FALSE_START)
    end.do("disconnected")
    assert [line[9:] for line in end.take()] == [
        "! DiscardedBytes reason=a frame that was never finished",
        "! ReportReceived",
        "! DiscardedBytes reason=a frame that was never finished",
    ]
    end = platform()
    end.do("connected")
    end.do("receive_data", FALSE_START + encode(login(end)))
    end.do("disconnected")
    assert [line[9:] for line in end.take()] == ["! DiscardedBytes reason=a frame that was never finished"]
    assert end.session.state is PlatformState.CLOSED
