"""The sending end between platforms: the library's two ends against each other, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    Acknowledgement,
    CloseReason,
    CloseRequested,
    Command,
    EmptyReply,
    Encryption,
    ForwardingOptions,
    ForwardingSession,
    ForwardingState,
    ForwardRefused,
    Frame,
    Heartbeat,
    HeartbeatReceived,
    LoggedIn,
    LoggedOut,
    LoginFailed,
    LoginRequested,
    PlatformLogin,
    PlatformOptions,
    PlatformSession,
    RefusalKind,
    ReplyFlag,
    Report,
    ReportReceived,
    ReportsDropped,
    VehicleLogin,
    VehicleLogout,
    beijing_time,
    encode,
)

CODE, ONE, TWO = "UPPERPLATFORM0001", "LHARBOUR000000001", "LHARBOUR000000002"
SECOND, MINUTE = 10**9, 60 * 10**9
START = 1_767_240_000 * SECOND


def frame(command, vin, message, **options):
    return encode(Frame(command=command, vin=vin, message=message, **options))


def report(vin=ONE, seconds=0, command=Command.REALTIME_REPORT):
    return frame(command, vin, Report(time=beijing_time(START + seconds * SECOND), bodies=()))


def login(vin=ONE):
    return frame(Command.VEHICLE_LOGIN, vin, VehicleLogin(time=beijing_time(START), serial=1, iccid="8" * 20))


def logout(vin=ONE):
    return frame(Command.VEHICLE_LOGOUT, vin, VehicleLogout(time=beijing_time(START), serial=1))


@dataclass
class Two:
    """Both ends, with a link that the test makes and breaks."""

    lower: ForwardingSession = field(
        default_factory=lambda: ForwardingSession(code=CODE, user="upper", password="correcthorse")
    )
    upper: PlatformSession = field(default_factory=lambda: None)
    now: int = START
    heard: list = field(default_factory=list)
    """What the upper platform got: (command, VIN) of logins, and report frames."""
    told: list = field(default_factory=list)
    refuses: frozenset = frozenset()
    """VINs, and the code, that the upper platform does not take."""
    answers: bool = True
    is_alive: bool = True

    def link(self):
        options = PlatformOptions(allows_platform_login=True, acknowledge_reports=Acknowledgement.DEFERRED)
        self.upper = PlatformSession(options=options)
        self.upper.connected(self.now)
        self.lower.connected(self.now)
        self.run()

    def cut(self):
        self.lower.disconnected(self.now)

    def run(self, step=None):
        """Carry bytes until none is left; *step* at a time."""
        while data := self.lower.data_to_send():
            for at in range(0, len(data), step or len(data)):
                self.upper.receive_data(data[at : at + (step or len(data))], self.now)
                self.decide()
            self.lower.receive_data(self.upper.data_to_send(), self.now)
        while (event := self.lower.next_event()) is not None:
            self.told.append(event)

    def decide(self):
        while (event := self.upper.next_event()) is not None:
            match event:
                case LoginRequested(vin=vin, login=asked):
                    self.heard.append((type(asked).__name__, vin))
                    if vin in self.refuses:
                        self.upper.refuse_login(ReplyFlag.ERROR, self.now)
                    else:
                        self.upper.accept_login(self.now)
                case ReportReceived(vin=vin):
                    self.heard.append(event.frame)
                    if self.answers:
                        flag = ReplyFlag.ERROR if vin in self.refuses else ReplyFlag.SUCCESS
                        self.upper.answer_report(event, self.now, flag=flag)

    def wait(self, seconds):
        end = self.now + int(seconds * SECOND)
        while (due := self.lower.next_timeout()) is not None and due <= end:
            self.now = due
            self.lower.handle_timeout(due)
            self.run()
        self.now = end

    def kinds(self):
        return [type(event) for event in self.told]


@pytest.fixture
def two():
    return Two()


@pytest.mark.parametrize("step", [None, 1])
def test_many_vehicles_whole_and_byte_by_byte(two, step):
    two.link()
    sent = [report(ONE, 1), report(TWO, 1), report(ONE, 2), report(TWO, 0, Command.BACKFILL_REPORT)]
    for each in (login(ONE), login(TWO), *sent, logout(ONE)):
        two.lower.forward(each, two.now)
    two.run(step)
    assert two.heard == [("PlatformLogin", CODE), ("VehicleLogin", ONE), ("VehicleLogin", TWO), *sent]
    assert two.lower.waiting_count == 0
    two.lower.log_out(two.now)
    two.run()
    assert two.told == [LoggedIn(1), LoggedOut(), CloseRequested(CloseReason.LOGGED_OUT)]
    assert two.lower.state is ForwardingState.ENDED


def test_what_was_not_answered_when_the_link_broke_comes_again_as_backfill(two):
    """At every point of the exchange: all of it arrives, nothing is left, and vehicles that are on are logged in again."""
    sent = [report(ONE, second) for second in range(4)]
    for answered in range(5):
        two = Two()
        two.link()
        two.lower.forward(login(ONE), two.now)
        two.lower.forward(login(TWO), two.now)
        two.lower.forward(logout(TWO), two.now)
        for each in sent[:answered]:
            two.lower.forward(each, two.now)
        two.run()
        two.answers = False
        for each in sent[answered:]:
            two.lower.forward(each, two.now)
        two.run()
        two.cut()
        assert two.lower.waiting_count == 4 - answered
        two.answers, two.heard = True, []
        two.link()
        again = [report(ONE, second, Command.BACKFILL_REPORT) for second in range(answered, 4)]
        assert two.heard == [("PlatformLogin", CODE), ("VehicleLogin", ONE), *again]
        assert two.lower.waiting_count == 0


def test_without_a_link_everything_waits_in_order(two):
    two.lower.forward(login(ONE), two.now)
    two.lower.forward(report(ONE, 1), two.now)
    two.lower.forward(report(ONE, 2), two.now)
    assert two.lower.data_to_send() == b""
    two.link()
    assert two.heard == [("PlatformLogin", CODE), ("VehicleLogin", ONE), report(ONE, 1), report(ONE, 2)]


def test_a_report_without_an_answer_is_sent_again_after_a_minute_and_a_silent_platform_is_left(two):
    two.link()
    two.answers = False
    two.lower.forward(report(ONE, 1), two.now)
    two.run()
    two.wait(59)
    assert two.heard[1:] == [report(ONE, 1)]
    two.wait(2)
    assert two.heard[1:] == [report(ONE, 1), report(ONE, 1, Command.BACKFILL_REPORT)]
    two.wait(121)
    assert two.told[-1] == CloseRequested(CloseReason.UNANSWERED)
    two.cut()
    two.answers = True
    two.link()
    assert two.lower.waiting_count == 0


def test_a_report_that_is_refused_three_times_is_told_and_given_up(two):
    two.link()
    two.refuses = frozenset({TWO})
    two.lower.forward(login(TWO), two.now)
    two.lower.forward(report(TWO, 1), two.now)
    two.lower.forward(report(ONE, 1), two.now)
    two.run()
    again = report(TWO, 1, Command.BACKFILL_REPORT)
    assert [each for each in two.heard if isinstance(each, bytes)] == [report(TWO, 1), report(ONE, 1), again, again]
    assert two.told[1:] == [
        ForwardRefused(TWO, Command.VEHICLE_LOGIN, ReplyFlag.ERROR, b""),
        ForwardRefused(TWO, Command.BACKFILL_REPORT, ReplyFlag.ERROR, again),
    ]
    assert two.lower.waiting_count == 0


def test_a_login_is_tried_three_times_a_minute_apart(two):
    two.refuses = frozenset({CODE})
    two.link()
    two.wait(300)
    assert two.heard == [("PlatformLogin", CODE)] * 3
    assert two.kinds() == [LoginFailed] * 3 + [CloseRequested]
    assert [event.misses for event in two.told[:3]] == [1, 2, 3]
    two.cut()
    two.refuses = frozenset()
    two.link()
    assert two.told[-1] == LoggedIn(4)


def test_a_login_without_an_answer_is_tried_again(two):
    two.lower.connected(two.now)
    sent = []
    for _ in range(3):
        sent.append(two.lower.data_to_send())
        two.now += MINUTE
        two.lower.handle_timeout(two.now)
    assert all(sent)
    assert two.lower.data_to_send() == b""
    two.run()
    assert two.kinds() == [LoginFailed] * 3 + [CloseRequested]


def test_what_waits_is_bounded_and_the_oldest_goes_first(two):
    size = len(report())
    two.lower.options = ForwardingOptions(waiting_size_bytes_max=2 * size)
    for second in range(5):
        two.lower.forward(report(ONE, second), START + second)
    two.run()
    assert two.told == [ReportsDropped(1, START + second) for second in range(3)]
    two.link()
    assert two.heard[1:] == [report(ONE, 3), report(ONE, 4)]


def test_no_more_than_the_window_is_on_its_way(two):
    two.lower.options = ForwardingOptions(in_flight_max=2)
    two.link()
    two.answers = False
    for second in range(4):
        two.lower.forward(report(ONE, second), two.now)
    two.run()
    assert len(two.heard) == 1 + 2
    assert two.lower.unanswered() == (
        report(ONE, 0, Command.BACKFILL_REPORT),
        report(ONE, 1, Command.BACKFILL_REPORT),
        report(ONE, 2),
        report(ONE, 3),
    )


def test_what_is_not_a_vehicles_frame_is_refused_and_nothing_is_sent(two):
    two.link()
    wrong = [
        b"",
        report()[:20],
        frame(Command.PLATFORM_LOGIN, CODE, PlatformLogin(time=beijing_time(START), serial=1, user="u", password="p")),
        report()[:3] + bytes([ReplyFlag.SUCCESS]) + report()[4:],
        report()[:21] + bytes([Encryption.AES]) + report()[22:],
    ]
    for data in wrong:
        with pytest.raises(LocalProtocolError, match="expected a vehicle's login, report or logout"):
            two.lower.forward(data, two.now)
    assert two.lower.data_to_send() == b""
    two.lower.log_out(two.now)
    with pytest.raises(LocalProtocolError, match="has logged out"):
        two.lower.forward(report(), two.now)


def test_a_logout_without_an_answer_ends_after_a_minute(two):
    two.link()
    two.lower.log_out(two.now)
    two.lower.data_to_send()
    two.now += MINUTE
    two.lower.handle_timeout(two.now)
    two.run()
    assert two.told[-1] == CloseRequested(CloseReason.LOGGED_OUT)
    assert two.lower.state is ForwardingState.ENDED


# -- heartbeats ----------------------------------------------------------------------------------------------------------


def heartbeats(two):
    """How many the lower platform sends in the next minute; the upper one answers them if `two.is_alive`."""
    count = 0
    end = two.now + MINUTE
    while (due := two.lower.next_timeout()) is not None and due <= end:
        two.now = due
        two.lower.handle_timeout(due)
        data = two.lower.data_to_send()
        count += data == frame(Command.HEARTBEAT, CODE, Heartbeat())
        if two.is_alive:
            two.upper.receive_data(data, due)
            two.lower.receive_data(two.upper.data_to_send(), due)
            assert two.upper.next_event() in (None, HeartbeatReceived(CODE))
    two.now = end
    while (event := two.lower.next_event()) is not None:
        two.told.append(event)
    return count


def test_an_idle_link_has_heartbeats_and_a_busy_one_needs_none(two):
    two.link()
    two.is_alive = True
    assert [heartbeats(two) for _ in range(3)] == [1, 0, 1]  # The answer is something that has come.
    two.lower.forward(report(ONE, 1), two.now)
    two.run()
    assert heartbeats(two) == 0
    assert two.kinds() == [LoggedIn]
    two.lower.log_out(two.now)
    two.run()
    assert two.lower.next_timeout() is None


def test_a_platform_that_has_answered_heartbeats_and_stops_is_gone(two):
    two.link()
    two.is_alive = True
    heartbeats(two)
    two.is_alive = False
    assert [heartbeats(two) for _ in range(5)] == [0, 1, 1, 1, 0]
    assert two.told[-1] == CloseRequested(CloseReason.HEARTBEAT_LOST)
    two.cut()
    # On a new link it has everything before it.
    two.link()
    assert [heartbeats(two) for _ in range(9)] == [1] * 9


def test_silence_of_a_platform_that_answers_no_heartbeats_means_nothing(two):
    """Table 3 leaves 0x07 to terminals."""
    two.link()
    two.is_alive = False
    assert [heartbeats(two) for _ in range(9)] == [1] * 9
    assert two.kinds() == [LoggedIn]
    # A refusal is an answer too: it is alive.
    flags = {"reply_flag": ReplyFlag.ERROR}
    two.lower.receive_data(frame(Command.HEARTBEAT, CODE, EmptyReply(), **flags), two.now)
    assert [heartbeats(two) for _ in range(5)] == [0, 1, 1, 1, 0]
    assert two.told[-1] == CloseRequested(CloseReason.HEARTBEAT_LOST)


def test_an_answer_to_no_heartbeat_is_refused(two):
    two.link()
    two.lower.receive_data(frame(Command.HEARTBEAT, CODE, EmptyReply(), reply_flag=ReplyFlag.SUCCESS), two.now)
    two.run()
    assert two.told[-1].kind is RefusalKind.UNEXPECTED_REPLY


def test_heartbeats_can_be_left_out():
    options = ForwardingOptions(heartbeat_period_ns=0)
    two = Two(lower=ForwardingSession(code=CODE, user="upper", password="correcthorse", options=options))
    two.link()
    assert two.lower.next_timeout() is None
