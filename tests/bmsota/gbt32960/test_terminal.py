"""The terminal's end, as conversations: what it sends and says, and when. Times are literals; nothing waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    BlockReply,
    BlockRequest,
    CommandReceived,
    Control,
    ControlId,
    DiscardedBytes,
    EchoReply,
    Edition,
    EmptyReply,
    ExtensionUndelivered,
    Frame,
    FrameRefused,
    Heartbeat,
    LoggedOut,
    ParameterQuery,
    ParameterValues,
    Position,
    RawMessage,
    ReportsDropped,
    TerminalOptions,
    TerminalSession,
    TerminalState,
    TimeReply,
    TimeSynchronised,
    UpgradeState,
    UpgradeStateCode,
    UserDefined,
    VehicleData,
    beijing_time,
    encode,
    nanoseconds,
)

VIN = "LTEST000000000001"
ICCID = "89860000000000000001"
START_NS = 1_767_225_600 * 10**9
HERE = Position(True, 121.5, 31.2)
MINUTE = 60
DAY = 24 * 3600


@pytest.fixture
def terminal(talk):
    """A terminal that asks for no time, which would only lengthen the scripts."""

    def make(**options):
        options = {"time_sync": False, "heartbeat_period_ns": 3600 * 10**9, "reconnect_spread": 0.0} | options
        session = TerminalSession(vin=VIN, iccid=ICCID, options=TerminalOptions(**options))
        return talk(session)

    return make


def reply(command, flag=1, message=None, vin=VIN):
    return Frame(command=command, vin=vin, message=message or EmptyReply(), reply_flag=flag)


def logged_in(end, **options):
    found = end(**options)
    found.do("handle_timeout")
    found.do("connected")
    found.hear(reply(1))
    assert found.session.state is TerminalState.LOGGED_IN
    found.take()
    return found


# --- login ---------------------------------------------------------------------------------------------------------------


def test_the_first_login(terminal):
    """Ask for a link, send the login, report at once when it is accepted."""
    end = terminal()
    assert end.session.next_timeout() == 0
    end.do("handle_timeout")
    assert end.session.next_timeout() is None  # The driver has the word.
    end.do("connected")
    end.hear(reply(1))
    end.do("send_report", [HERE])
    assert end.take() == [
        "00:00:00 ! ConnectRequested attempt=1",
        "00:00:00 > 0x01 VehicleLogin",
        "00:00:00 ! LoggedIn serial=1",
        "00:00:00 > 0x02 Report",
    ]
    assert end.frames[0].message.iccid == ICCID


def test_no_answer_to_the_login(terminal):
    """A minute, three times; then the link is closed for half an hour (B.2.1)."""
    end = terminal()
    end.do("handle_timeout")
    end.do("connected")
    end.pass_time(10 * MINUTE)
    assert end.take() == [
        "00:00:00 ! ConnectRequested attempt=1",
        "00:00:00 > 0x01 VehicleLogin",
        "00:01:00 > 0x01 VehicleLogin",
        "00:01:00 ! LoginFailed reason=NO_REPLY misses=1",
        "00:02:00 > 0x01 VehicleLogin",
        "00:02:00 ! LoginFailed reason=NO_REPLY misses=2",
        "00:03:00 ! LoginFailed reason=NO_REPLY misses=3",
        "00:03:00 ! CloseRequested reason=LOGIN_FAILED",
    ]
    assert [frame.message.serial for frame in end.frames] == [1, 1, 1]
    end.do("disconnected")
    end.pass_time(60 * MINUTE)
    assert end.take() == ["00:33:00 ! ConnectRequested attempt=1"]
    end.do("connected")
    assert end.frames[-1].message.serial == 2
    end.hear(reply(1))
    assert end.session.state is TerminalState.LOGGED_IN


def test_the_2025_edition_waits_three_minutes(talk):
    """Only the wait differs; the login of 2025 itself is not supported yet, so it is refused here and now."""
    options = TerminalOptions(edition=Edition.GBT2025, reconnect_spread=0.0)
    session = TerminalSession(vin=VIN, iccid=ICCID, options=options)
    end = talk(session)
    end.do("handle_timeout")
    end.do("disconnected")
    assert session.next_timeout() == end.now_ns + 180 * 10**9


def test_a_refused_login_is_tried_again_after_the_same_wait(terminal):
    """The flag is reported; three refusals are three misses."""
    end = terminal()
    end.do("handle_timeout")
    end.do("connected")
    for _ in range(3):
        end.pass_time(10)
        end.hear(reply(1, flag=3, message=TimeReply(beijing_time(end.now_ns))))
        end.pass_time(50)
    assert end.take() == [
        "00:00:00 ! ConnectRequested attempt=1",
        "00:00:00 > 0x01 VehicleLogin",
        "00:00:10 ! LoginFailed reason=REFUSED reply_flag=3 misses=1",
        "00:01:00 > 0x01 VehicleLogin",
        "00:01:10 ! LoginFailed reason=REFUSED reply_flag=3 misses=2",
        "00:02:00 > 0x01 VehicleLogin",
        "00:02:10 ! LoginFailed reason=REFUSED reply_flag=3 misses=3",
        "00:02:10 ! CloseRequested reason=LOGIN_FAILED",
    ]
    end.do("disconnected")
    end.pass_time(40 * MINUTE)
    assert end.take() == ["00:32:10 ! ConnectRequested attempt=1"]


def test_a_link_that_cannot_be_opened(terminal):
    """Attempts to connect count like logins: a minute, three times, then half an hour."""
    end = terminal()
    for _ in range(4):
        end.pass_time(0)
        end.do("disconnected")
        end.pass_time((end.session.next_timeout() - end.now_ns) / 10**9)
    assert end.take() == [
        "00:00:00 ! ConnectRequested attempt=1",
        "00:00:00 ! LoginFailed reason=NO_LINK misses=1",
        "00:01:00 ! ConnectRequested attempt=2",
        "00:01:00 ! LoginFailed reason=NO_LINK misses=2",
        "00:02:00 ! ConnectRequested attempt=3",
        "00:02:00 ! LoginFailed reason=NO_LINK misses=3",
        "00:32:00 ! ConnectRequested attempt=1",
        "00:32:00 ! LoginFailed reason=NO_LINK misses=1",
        "00:33:00 ! ConnectRequested attempt=2",
    ]


def test_a_lost_link_is_opened_again_soon(terminal):
    """A link that had worked is no failed login; the serial rises."""
    end = logged_in(terminal)
    end.pass_time(100)
    end.do("disconnected")
    end.pass_time(10)
    end.do("connected")
    end.hear(reply(1))
    assert end.take() == [
        "00:01:45 ! ConnectRequested attempt=1",
        "00:01:50 > 0x01 VehicleLogin",
        "00:01:50 ! LoggedIn serial=2",
    ]


def lose_soon(end, times):
    """The platform takes each login and drops the link at once. How long each wait was, in seconds."""
    waits = []
    for _ in range(times):
        end.do("disconnected")
        due_ns = end.session.next_timeout()
        waits.append((due_ns - end.now_ns) / 10**9)
        end.pass_time((due_ns - end.now_ns) / 10**9)
        end.do("connected")
        end.hear(reply(1))
    return waits


def test_a_platform_that_drops_the_link_behind_each_login_is_called_less_and_less(terminal):
    """5 s, twice as long each time, at most half an hour; a link that stood for ten minutes has worked."""
    end = logged_in(terminal)
    assert lose_soon(end, 11) == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800]
    end.pass_time(600)
    assert lose_soon(end, 2) == [5, 10]


def test_lost_heartbeats_count_as_a_lost_link(terminal):
    end = logged_in(terminal, heartbeat_period_ns=MINUTE * 10**9)
    lose_soon(end, 2)
    end.pass_time(4 * MINUTE)
    assert end.take()[-1].endswith("CloseRequested reason=HEARTBEAT_LOST")
    end.do("disconnected")
    assert end.session.next_timeout() == end.now_ns + 20 * 10**9


def test_a_fleet_does_not_come_back_in_one_instant(talk):
    """The waits for a link are spread over a quarter of themselves, by the VIN or a seed, the same in every run."""

    def waits(vin, seed=None):
        options = TerminalOptions(time_sync=False, heartbeat_period_ns=3600 * 10**9)
        end = talk(TerminalSession(vin=vin, iccid=ICCID, options=options, seed=seed))
        found = []
        for _ in range(3):
            end.do("handle_timeout")
            end.do("disconnected")
            found.append(end.session.next_timeout() - end.now_ns)
            end.pass_time(found[-1] / 10**9)
        return found

    fleet = [waits(f"LTEST{number:012}") for number in range(100)]
    assert fleet == [waits(f"LTEST{number:012}") for number in range(100)]
    for place, least_s in enumerate((60, 60, 1800)):
        found = [each[place] / 10**9 for each in fleet]
        assert least_s <= min(found) < least_s * 1.02
        assert least_s * 1.23 < max(found) < least_s * 1.25
        assert len(set(found)) == 100
    assert waits(VIN, seed=1) == waits("LTEST000000000099", seed=1) != waits(VIN, seed=2)


@pytest.mark.parametrize(
    ("given", "count", "length"),
    [
        ({}, 0, 0),
        ({"subsystem_count": 1}, 1, 0),
        ({"subsystem_count": 3, "code_length": 0}, 3, 0),
        ({"subsystem_codes": ("A", "BBB")}, 2, 3),
        ({"subsystem_codes": ("A", "BBB"), "code_length": 24}, 2, 24),
    ],
)
def test_a_login_says_how_many_subsystems_there_are(talk, given, count, length):
    """Table 6: n and m, also without a code."""
    end = talk(TerminalSession(vin=VIN, iccid=ICCID, options=TerminalOptions(time_sync=False), **given))
    end.do("handle_timeout")
    end.do("connected")
    login = end.frames[-1].message
    assert (login.subsystem_count, login.code_length) == (count, length)
    assert encode(end.frames[-1])[52:54] == bytes((count, length))


@pytest.mark.parametrize(
    ("edition", "given", "named"),
    [
        (Edition.GBT2016, {"subsystem_codes": ("A", "B"), "subsystem_count": 3}, "subsystem"),
        (Edition.GBT2016, {"subsystem_codes": ("AAAA",), "code_length": 2}, "code"),
        (Edition.GBT2025, {"subsystem_count": 1}, "pack_codes"),
    ],
)
def test_a_login_that_cannot_be_sent_is_refused_before_there_is_a_link(edition, given, named):
    with pytest.raises(LocalProtocolError, match=named):
        TerminalSession(vin=VIN, iccid=ICCID, options=TerminalOptions(edition=edition), **given)


def test_the_serial_begins_anew_each_day_in_beijing(terminal):
    """At midnight of UTC+8, and after 65531; it survives a power-off if it is handed over."""
    end = logged_in(terminal)
    end.pass_time(15 * 3600)  # 23:00 in Beijing, 15:00 in London.
    for hours, serial in ((0, 2), (2, 1), (0, 2)):
        end.do("disconnected")
        end.pass_time(hours * 3600 + 5)
        end.do("connected")
        end.hear(reply(1))
        assert end.session.serial == serial
    session = TerminalSession(vin=VIN, iccid=ICCID, last_serial=65531, last_login_ns=end.now_ns)
    session.handle_timeout(end.now_ns)
    session.connected(end.now_ns)
    assert session.serial == 1


def test_answers_that_nothing_waits_for_have_no_effect(terminal):
    """A second answer to the login, somebody else's frame, a stray reply, an uplink command: refused and reported."""
    end = logged_in(terminal)
    for frame in (
        reply(1),
        reply(4),
        reply(8, message=TimeReply(beijing_time(end.now_ns))),
        reply(0xC1),
        reply(0x42),
        reply(7, vin="LTEST000000000002"),
        Frame(command=7, vin=VIN, message=Heartbeat()),
    ):
        end.hear(frame)
        assert isinstance(end.events[-1], FrameRefused)
        assert end.events[-1].frame == frame
    assert end.session.state is TerminalState.LOGGED_IN
    assert not [line for line in end.take() if ">" in line]


def test_garbage_is_passed_on(terminal):
    end = logged_in(terminal)
    end.do("receive_data", b"\x00\x01" + encode(reply(7)))
    assert end.events[-1] == DiscardedBytes(len(encode(reply(1))), b"\x00\x01", "no start mark")


def test_a_command_behind_a_wrong_length_comes_when_the_burst_is_over(terminal):
    """It stands whole in what has come: a second later nobody waits for the rest of the false frame any more."""
    end = logged_in(terminal)
    command = Frame(command=0x82, vin=VIN, message=Control(beijing_time(end.now_ns), ControlId.RESET))
    end.do("receive_data", encode(reply(7))[:22] + b"\x40\x00" + encode(command))
    assert end.take() == []
    end.pass_time(10)
    assert end.take() == [
        "00:00:01 ! DiscardedBytes reason=a frame that was never finished",
        "00:00:01 ! CommandReceived",
    ]


def test_an_unfinished_frame_is_given_up_after_half_a_minute(terminal):
    """From its first byte on, whatever comes; what begins then has its own time."""
    end = logged_in(terminal)
    command = encode(Frame(command=0x82, vin=VIN, message=Control(beijing_time(end.now_ns), ControlId.RESET)))
    end.do("receive_data", encode(reply(7))[:22] + b"\x40\x00")
    for _ in range(29):
        end.pass_time(1)
        end.do("receive_data", b"x")
    end.do("receive_data", command[:-1])
    assert end.take() == []
    end.pass_time(2)
    end.do("receive_data", command[-1:])
    assert [line[9:] for line in end.take()] == [
        "! DiscardedBytes reason=a frame that was never finished",
        "! CommandReceived",
    ]


# --- alive -----------------------------------------------------------------------------------------------------------------


def test_heartbeats(terminal):
    """Each period; three without any sign of the platform, and the link is given up and opened again."""
    end = logged_in(terminal, heartbeat_period_ns=MINUTE * 10**9)
    end.pass_time(60)
    end.hear(reply(7))
    end.pass_time(240)
    assert end.take() == [
        "00:01:00 > 0x07 Heartbeat",
        "00:02:00 > 0x07 Heartbeat",
        "00:03:00 > 0x07 Heartbeat",
        "00:04:00 > 0x07 Heartbeat",
        "00:05:00 ! CloseRequested reason=HEARTBEAT_LOST",
    ]
    # However long the driver takes to close it, the next link is asked for only after that.
    end.pass_time(60)
    assert end.take() == []
    end.do("disconnected")
    end.pass_time(0)
    assert end.take() == ["00:06:00 ! ConnectRequested attempt=1"]


def test_a_new_heartbeat_period_counts_from_now(terminal):
    """0x81 sets parameter 0x09."""
    end = logged_in(terminal)
    end.do("change_options", replace(end.session.options, heartbeat_period_ns=10 * 10**9))
    end.pass_time(20)
    assert end.take() == ["00:00:10 > 0x07 Heartbeat", "00:00:20 > 0x07 Heartbeat"]


def test_the_platforms_time(terminal):
    """Asked for after each login; the answer says how far its clock is ahead."""
    end = terminal(time_sync=True)
    end.do("handle_timeout")
    end.do("connected")
    end.hear(reply(1))
    assert "00:00:00 > 0x08 TimeSync" in end.take()
    end.pass_time(1.5)
    end.hear(reply(8, message=TimeReply(beijing_time(end.now_ns + 10 * 10**9))))
    assert end.events[-1] == TimeSynchronised(beijing_time(end.now_ns + 10 * 10**9), 10 * 10**9)


# --- reports ---------------------------------------------------------------------------------------------------------------


def test_reports_without_a_link_come_later_as_backfill(terminal):
    """One after another in the idle time, oldest first, with the time they were collected (B.2.8)."""
    end = terminal()
    for _ in range(3):
        end.do("send_report", [HERE])
        end.pass_time(10)
    end.take()
    assert end.session.stored_report_count == 3
    end.do("connected")
    end.hear(reply(1))
    end.pass_time(1.5)
    end.do("send_report", [HERE])
    end.pass_time(10)
    assert end.take() == [
        "00:00:30 > 0x01 VehicleLogin",
        "00:00:30 ! LoggedIn serial=1",
        "00:00:31 > 0x03 Report",
        "00:00:32 > 0x02 Report",
        "00:00:32 > 0x03 Report",
        "00:00:34 > 0x03 Report",
    ]
    backfill = [frame.message.time for frame in end.frames if frame.command == 3]
    assert backfill == [beijing_time(end.now_ns - (41_500 - late) * 10**6) for late in (0, 10_000, 20_000)]


def test_reports_that_the_link_never_took_are_stored_again(terminal):
    """What is still in our hands when the link breaks is not lost, and keeps its order."""
    end = logged_in(terminal)
    session = end.session
    for _ in range(3):
        session.send_report([HERE], end.now_ns)
        end.now_ns += 10**9
    session.disconnected(end.now_ns)
    assert session.data_to_send() == b""
    assert session.stored_report_count == 3
    end.now_ns += 10 * 10**9
    end.do("connected")
    end.hear(reply(1))
    end.pass_time(5)
    times = [frame.message.time for frame in end.frames if frame.command == 3]
    assert times == sorted(times)
    assert len(times) == 3


def test_a_link_that_takes_nothing_does_not_fill_the_memory(terminal):
    """Beyond a megabyte in our hands, reports go to the store."""
    end = logged_in(terminal)
    for _ in range(30):
        end.session.send_report([UserDefined(0x80, bytes(60000))], end.now_ns)
    assert end.session.stored_report_count == 30 - 18
    assert len(end.session.data_to_send()) < 1_100_000


def test_the_store_is_bounded_in_time_and_size(terminal):
    """Three days in 2016, and a number of bytes; what is given up is counted in one event."""
    end = terminal(backfill_size_bytes_max=160)
    end.do("handle_timeout")
    end.take()
    for _ in range(12):
        end.session.send_report([HERE], end.now_ns)
        end.now_ns += 10**9
    assert end.session.stored_report_count == 10
    end.note()
    assert [event for event in end.events if isinstance(event, ReportsDropped)] == [
        ReportsDropped(2, end.now_ns - 12 * 10**9)
    ]
    end.pass_time(3 * DAY - 5)
    end.do("connected")
    end.hear(reply(1))
    end.pass_time(20)
    dropped = [event.count for event in end.events if isinstance(event, ReportsDropped)]
    sent = [frame for frame in end.frames if frame.command == 3]
    assert sum(dropped) + len(sent) == 12
    # Several at once are one event, which names the oldest.
    last = [event for event in end.events if isinstance(event, ReportsDropped)][-1]
    assert last == ReportsDropped(dropped[-1], START_NS + 2 * 10**9)
    assert dropped[-1] > 1
    assert sent
    assert all(end.now_ns - 20 * 10**9 - 3 * DAY * 10**9 <= stamp(frame) for frame in sent)


def stamp(frame):
    return nanoseconds(frame.message.time)


def test_seconds_before_an_alarm_are_sent_as_backfill(terminal):
    """B.2: the part before a level-3 alarm goes as 0x03, also while logged in."""
    end = logged_in(terminal)
    end.pass_time(100)
    collected = end.now_ns - 30 * 10**9
    end.session.store_report([HERE], collected, end.now_ns)
    end.pass_time(2)
    assert end.take() == ["00:01:41 > 0x03 Report"]
    assert stamp(end.frames[-1]) == collected


def test_a_report_that_the_platform_calls_wrong_is_sent_again(terminal):
    """After a minute, three times, then no more (B.3.5). A success needs nothing."""
    end = logged_in(terminal)
    end.do("send_report", [HERE])
    wrong = reply(2, flag=2, message=TimeReply(end.frames[-1].message.time))
    for _ in range(5):
        end.hear(wrong)
        end.hear(wrong)  # Twice the same answer is one complaint.
        end.pass_time(60)
    assert [line for line in end.take() if ">" in line] == [
        "00:00:00 > 0x02 Report",
        "00:01:00 > 0x02 Report",
        "00:02:00 > 0x02 Report",
        "00:03:00 > 0x02 Report",
    ]
    end.do("send_report", [HERE])
    end.hear(reply(2, message=TimeReply(end.frames[-1].message.time)))
    end.hear(reply(2, flag=2, message=TimeReply(beijing_time(0 + 10**18))))  # Of a report that we do not know.
    end.take()
    end.pass_time(300)
    assert end.take() == []


@pytest.mark.parametrize(("late_s", "is_sent_again"), [(59, True), (61, False)])
def test_a_report_is_kept_for_as_long_as_the_platform_may_answer(terminal, late_s, is_sent_again):
    """The reply timeout: what was not called wrong by then is forgotten with the next report."""
    end = logged_in(terminal)
    end.do("send_report", [HERE])
    wrong = reply(2, flag=2, message=TimeReply(end.frames[-1].message.time))
    end.pass_time(late_s)
    end.do("send_report", [HERE])
    end.hear(wrong)
    end.take()
    end.pass_time(60)
    assert (end.take() != []) is is_sent_again


def test_two_wrong_reports_are_sent_again_each_at_its_time(terminal):
    """The second complaint does not move the first."""
    end = logged_in(terminal)
    for _ in range(2):
        end.do("send_report", [HERE])
        end.hear(reply(2, flag=2, message=TimeReply(end.frames[-1].message.time)))
        end.pass_time(10)
    end.take()
    end.pass_time(60)
    assert end.take() == ["00:01:00 > 0x02 Report", "00:01:10 > 0x02 Report"]


def test_a_report_with_a_wrong_value_is_refused(terminal):
    """The terminal sends nothing that the text does not allow, unless told otherwise."""
    wrong = VehicleData(1, 3, 1, 0.0, 0.0, 0.0, 0.0, 101, 1, 0, 0, 0, 0)
    end = logged_in(terminal)
    with pytest.raises(LocalProtocolError, match="soc_pct"):
        end.session.send_report([wrong], end.now_ns)
    assert end.session.data_to_send() == b""
    lenient = logged_in(terminal, strict=False)
    lenient.do("send_report", [wrong])
    assert lenient.take() == ["00:00:00 > 0x02 Report"]


# --- commands and the extension ----------------------------------------------------------------------------------------------


def test_commands_are_answered_by_the_program_above(terminal):
    """0x80 to 0x82 and downlink commands of an extension are events; the answer carries their own time."""
    end = logged_in(terminal)
    asked = beijing_time(end.now_ns)
    query = Frame(command=0x80, vin=VIN, message=ParameterQuery(asked, (1,)))
    control = Frame(command=0x82, vin=VIN, message=Control(asked, ControlId.POWER_OFF))
    oem = Frame(command=0xF0, vin=VIN, message=RawMessage(b"x"))
    for frame in (query, control, oem):
        end.hear(frame)
        assert end.events[-1] == CommandReceived(frame)
    end.pass_time(5)
    end.do("reply_to", query, message=ParameterValues.build(asked, {1: 500}))
    end.do("reply_to", control)
    end.do("reply_to", oem, flag=2)
    assert end.frames[-3] == reply(0x80, message=ParameterValues.build(asked, {1: 500}))
    assert end.frames[-2] == reply(0x82, message=TimeReply(asked))
    assert end.frames[-1] == reply(0xF0, flag=2, message=TimeReply(beijing_time(end.now_ns)))


def test_no_command_counts_before_the_login(terminal):
    end = terminal()
    end.do("handle_timeout")
    end.do("connected")
    control = Frame(command=0x82, vin=VIN, message=Control(beijing_time(end.now_ns), ControlId.POWER_OFF))
    end.hear(control)
    assert isinstance(end.events[-1], FrameRefused)
    with pytest.raises(LocalProtocolError, match="logged in"):
        end.session.reply_to(control, end.now_ns)


def upgrade_state(end, progress):
    moment = beijing_time(end.now_ns)
    return UpgradeState(time=moment, order_id="o", state=UpgradeStateCode.DOWNLOADING, progress_pct=progress)


def test_extension_frames_go_one_after_another(terminal):
    """Each waits for the answer to the one before, and for the login."""
    end = terminal()
    end.do("send_extension", 0xC1, upgrade_state(end, 1))
    end.pass_time(1)
    end.do("send_extension", 0xC1, upgrade_state(end, 2))
    end.do("connected")
    end.hear(reply(1))
    assert end.take()[-2:] == ["00:00:01 > 0xc1 UpgradeState", "00:00:01 ! LoggedIn serial=1"]
    assert end.session.waiting_extension_count == 2
    first = end.frames[-1].message
    end.hear(reply(0xC1, message=TimeReply(beijing_time(end.now_ns + 5 * 10**9))))  # Not the answer to this one.
    end.hear(reply(0xC1, message=TimeReply(first.time)))
    assert [line.split(" ", 1)[1] for line in end.take()] == [
        "! FrameRefused reason=unexpected reply",
        "> 0xc1 UpgradeState",
        "! ReplyReceived reply_flag=1 command=193",
    ]
    assert (first.progress_pct, end.frames[-1].message.progress_pct) == (1, 2)
    end.hear(reply(0xC1))  # An empty answer is one, too.
    assert end.session.waiting_extension_count == 0


def test_a_late_block_is_not_taken_for_the_next_one(terminal):
    """Two questions of one second have the same time; a block for the first one does not answer the second."""
    end = logged_in(terminal)
    requests = [BlockRequest(beijing_time(end.now_ns), bytes(32), offset, 4) for offset in (0, 4)]
    for request in requests:
        end.do("send_extension", 0xC4, request)
    first, second = (reply(0xC4, message=BlockReply.to(request, b"data")) for request in requests)
    end.hear(first)
    end.hear(first)
    assert end.session.waiting_extension_count == 1
    end.hear(reply(0xC4, message=BlockReply.to(requests[1], b"more than asked")))
    end.hear(second)
    assert [line.split(" ", 1)[1] for line in end.take()] == [
        "> 0xc4 BlockRequest",
        "> 0xc4 BlockRequest",
        "! ReplyReceived reply_flag=1 command=196",
        "! FrameRefused reason=unexpected block",
        "! FrameRefused reason=unexpected block",
        "! ReplyReceived reply_flag=1 command=196",
    ]
    assert end.events[-1].frame.message == BlockReply(requests[1].time, bytes(32), 4, b"data")
    assert end.session.waiting_extension_count == 0


def test_an_echo_of_a_block_request_is_an_answer_without_a_block(terminal):
    """A platform that knows only the standard and echoes: the unit learns at once that there is nothing to get."""
    end = logged_in(terminal)
    request = BlockRequest(beijing_time(end.now_ns), bytes(32), 0, 4)
    end.do("send_extension", 0xC4, request)
    echo = encode(Frame(command=0xC4, vin=VIN, message=request))[30:-1]
    end.hear(reply(0xC4, message=EchoReply(request.time, echo)))
    assert end.events[-1].frame.message == EchoReply(request.time, echo)
    assert end.session.waiting_extension_count == 0


def test_an_extension_frame_that_nobody_answers_is_given_up(terminal):
    """A platform may know only the standard: three tries, then the next one has its turn."""
    end = logged_in(terminal)
    lost = upgrade_state(end, 1)
    end.do("send_extension", 0xC1, lost)
    end.do("send_extension", 0xC1, upgrade_state(end, 2))
    end.pass_time(180)
    assert end.take() == [
        "00:00:00 > 0xc1 UpgradeState",
        "00:01:00 > 0xc1 UpgradeState",
        "00:02:00 > 0xc1 UpgradeState",
        "00:03:00 > 0xc1 UpgradeState",
        "00:03:00 ! ExtensionUndelivered command=193",
    ]
    assert end.events[-1] == ExtensionUndelivered(0xC1, lost)
    assert end.frames[-1].message.progress_pct == 2


def test_an_extension_frame_survives_a_lost_link(terminal):
    """It is sent again after the next login, with all its tries."""
    end = logged_in(terminal)
    end.do("send_extension", 0xC1, upgrade_state(end, 1))
    end.pass_time(70)
    end.do("disconnected")
    end.pass_time(10)
    end.take()
    end.do("connected")
    end.hear(reply(1))
    assert end.take()[-2:] == ["00:01:20 > 0xc1 UpgradeState", "00:01:20 ! LoggedIn serial=2"]
    end.pass_time(120)
    assert end.take() == ["00:02:20 > 0xc1 UpgradeState", "00:03:20 > 0xc1 UpgradeState"]


def test_the_extension_queue_is_bounded(terminal):
    """The oldest is given up, and said."""
    end = terminal(extension_queue_max=2)
    for progress in range(4):
        end.do("send_extension", 0xC1, upgrade_state(end, progress))
    given_up = [event.message.progress_pct for event in end.events if isinstance(event, ExtensionUndelivered)]
    assert given_up == [0, 1]
    with pytest.raises(LocalProtocolError, match="0xC0 to 0xFE"):
        end.session.send_extension(2, upgrade_state(end, 1), end.now_ns)


# --- logout ----------------------------------------------------------------------------------------------------------------


def test_logout(terminal):
    """With the login's serial; then the link is to be closed, and nothing follows until a restart."""
    end = logged_in(terminal)
    end.pass_time(5)
    end.do("logout")
    end.hear(reply(4, message=EchoReply(beijing_time(end.now_ns), b"\x00\x01")))
    end.do("disconnected")
    end.pass_time(DAY)
    assert end.take() == [
        "00:00:05 > 0x04 VehicleLogout",
        "00:00:05 ! CloseRequested reason=LOGGED_OUT",
        "00:00:05 ! LoggedOut",
    ]
    assert end.frames[-1].message.serial == 1
    assert end.session.state is TerminalState.ENDED
    assert end.session.next_timeout() is None
    end.do("restart")
    end.pass_time(0)
    assert end.take()[-1].endswith("ConnectRequested attempt=1")


def test_a_logout_without_an_answer_ends_as_well(terminal):
    end = logged_in(terminal)
    end.do("logout")
    end.pass_time(61)
    assert end.take()[-1] == "00:01:00 ! CloseRequested reason=LOGGED_OUT"
    end.do("disconnected")
    assert isinstance(end.events[-1], LoggedOut)


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ([], TerminalState.ENDED),
        (["handle_timeout"], TerminalState.LEAVING),
        (["handle_timeout", "connected"], TerminalState.LEAVING),
    ],
)
def test_the_vehicle_may_be_switched_off_at_any_time(terminal, steps, state):
    """Before there is a link, while it is being opened, while logging in: it ends, without another login."""
    end = terminal()
    for step in steps:
        end.do(step)
    sent = len(end.frames)
    end.do("logout")
    assert end.session.state is state
    if steps == ["handle_timeout"]:
        end.do("connected")  # The driver had it under way.
        assert "CloseRequested" in end.take()[-1]
    if steps:
        end.do("disconnected")
    assert isinstance(end.events[-1], LoggedOut)
    assert end.session.state is TerminalState.ENDED
    assert len(end.frames) == sent
    end.pass_time(DAY)
    assert len(end.frames) == sent


@pytest.mark.parametrize(
    ("before", "wrong"),
    [([], "restart"), (["handle_timeout", "connected"], "connected"), (["logout"], "logout"), (["logout"], "connected")],
)  # fmt: skip
def test_what_makes_no_sense_now_is_refused_and_changes_nothing(terminal, before, wrong):
    end = terminal()
    for step in before:
        end.do(step)
    state = end.session.state
    with pytest.raises(LocalProtocolError, match="terminal: not possible in state"):
        getattr(end.session, wrong)(end.now_ns)
    assert end.session.state is state


def test_a_second_disconnect_is_no_news(terminal):
    """Drivers report a lost link twice at times; the wait is not prolonged."""
    end = terminal()
    end.do("handle_timeout")
    end.do("disconnected")
    due = end.session.next_timeout()
    end.pass_time(10)
    end.do("disconnected")
    assert end.session.next_timeout() == due
