"""Links between platforms (chapter 5): another platform logs in and sends for many vehicles."""

from __future__ import annotations

import pytest

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    Acknowledgement,
    CloseReason,
    CloseRequested,
    Control,
    ControlId,
    Edition,
    Engine,
    Engine2025,
    Frame,
    FrameRefused,
    Heartbeat,
    HeartbeatReceived,
    LoginRequested,
    LogoutReceived,
    PlatformLogin,
    PlatformLogout,
    PlatformOptions,
    PlatformSession,
    PlatformState,
    RefusalKind,
    Report,
    ReportReceived,
    TimeReply,
    VehicleLogin,
    VehicleLogin2025,
    VehicleLogout,
    beijing_time,
    decode,
    encode,
)

PEER = "PLATFORM000000001"
FIRST = "LTEST000000000001"
SECOND = "LTEST000000000002"
START_NS = 1_767_225_600 * 10**9
NOW = beijing_time(START_NS)
EDITIONS = pytest.mark.parametrize("edition", Edition)


class Link:
    """One link: what is sent up it, what the session says and sends."""

    def __init__(self, edition, **options):
        self.edition = edition
        options = {"allows_platform_login": True, **options}
        self.session = PlatformSession(options=PlatformOptions(**options))

    def up(self, command, message, vin=PEER):
        self.session.receive_data(
            encode(Frame(command=command, vin=vin, message=message, edition=self.edition)), START_NS
        )
        return self.take()

    def take(self):
        events = []
        while (event := self.session.next_event()) is not None:
            events.append(event)
        data, answers = self.session.data_to_send(), []
        while data:
            size = 25 + int.from_bytes(data[22:24], "big")
            frame = decode(data[:size])
            answers.append((frame.command, frame.vin, frame.reply_flag))
            data = data[size:]
        return events, answers

    def log_in(self, password="secret"):
        (event,), _ = self.up(5, PlatformLogin(NOW, 1, "tester", password))
        assert isinstance(event, LoginRequested)
        if event.login.password != "secret":
            self.session.refuse_login(2, START_NS)
        else:
            self.session.accept_login(START_NS)
        return self.take()[1]

    def vehicle(self, vin, *, is_known=True):
        login = (VehicleLogin2025 if self.edition is Edition.GBT2025 else VehicleLogin)(NOW, 1, "8" * 20)
        (event,), _ = self.up(1, login, vin)
        assert (type(event), event.vin) == (LoginRequested, vin)
        if is_known:
            self.session.accept_login(START_NS)
        else:
            self.session.refuse_login(2, START_NS)
        return self.take()[1]

    def report(self, vin, command=2):
        body = Engine2025(2400) if self.edition is Edition.GBT2025 else Engine(1, 2400, 1.5)
        return self.up(command, Report(NOW, (body,)), vin)


@EDITIONS
def test_many_vehicles_on_one_link(edition):
    """Each login is decided by itself and answered under its own VIN; after one vehicle's logout the others live on."""
    link = Link(edition)
    assert link.log_in() == [(5, PEER, 1)]
    assert (link.session.is_platform_link, link.session.vin) == (True, PEER)
    assert link.vehicle(FIRST) == [(1, FIRST, 1)]
    assert link.vehicle(SECOND, is_known=False) == [(1, SECOND, 2)]
    assert link.session.state is PlatformState.LOGGED_IN
    for vin in (FIRST, SECOND):
        (event,), answers = link.report(vin, 3)
        assert (type(event), event.vin, event.is_backfill, answers) == (ReportReceived, vin, True, [])
        link.session.answer_report(event, START_NS)
        assert link.take()[1] == [(3, vin, 1)]
    (event,), answers = link.up(4, VehicleLogout(NOW, 1), FIRST)
    assert (event, answers) == (LogoutReceived(FIRST, 1, NOW), [(4, FIRST, 1)])
    assert isinstance(link.report(SECOND)[0][0], ReportReceived)
    assert link.up(7, Heartbeat()) == ([HeartbeatReceived(PEER)], [(7, PEER, 1)])
    (event,), answers = link.up(6, PlatformLogout(NOW, 1))
    assert (event, answers) == (LogoutReceived(PEER, 1, NOW), [(6, PEER, 1)])
    (event,), answers = link.report(SECOND)
    assert isinstance(event, FrameRefused)
    assert (link.session.is_platform_link, answers) == (False, [])


@EDITIONS
def test_a_wrong_password_opens_nothing(edition):
    """It is told, and what comes behind it is refused; the right one opens, and a wrong one later shuts."""
    link = Link(edition)
    assert link.log_in("wrong") == [(5, PEER, 2)]
    (event,), answers = link.report(FIRST)
    assert (event.kind, answers) == (RefusalKind.NOT_LOGGED_IN, [(2, FIRST, 2)])
    assert link.log_in() == [(5, PEER, 1)]
    assert isinstance(link.report(FIRST)[0][0], ReportReceived)
    assert link.log_in("wrong") == [(5, PEER, 2)]
    assert (link.session.state, link.session.is_platform_link) == (PlatformState.OPEN, False)


@EDITIONS
def test_a_platform_may_not_log_in_unless_it_is_allowed(edition):
    """Nor on the link of a vehicle, nor a second one; a caller that accepts every login accepts no platform unasked."""
    link = Link(edition, allows_platform_login=False)
    (event,), answers = link.up(5, PlatformLogin(NOW, 1, "tester", "secret"))
    assert (event.kind, answers) == (RefusalKind.PLATFORM_LINK, [(5, PEER, 2)])
    link = Link(edition)
    link.vehicle(FIRST)
    (event,), answers = link.up(5, PlatformLogin(NOW, 1, "tester", "secret"))
    assert (event.kind, answers) == (RefusalKind.SECOND_LOGIN, [(5, PEER, 2)])
    assert link.session.vin == FIRST
    link = Link(edition)
    link.log_in()
    (event,), answers = link.up(5, PlatformLogin(NOW, 1, "tester", "secret"), "PLATFORM000000002")
    assert (event.kind, answers) == (RefusalKind.SECOND_LOGIN, [(5, "PLATFORM000000002", 2)])
    assert link.session.vin == PEER


@EDITIONS
@pytest.mark.parametrize("acknowledgement", Acknowledgement)
def test_reports_are_always_acknowledged(edition, acknowledgement):
    """At once if that is wished, else when the caller has stored them: what annex B says of terminals does not hold here."""
    link = Link(edition, acknowledge_reports=acknowledgement, defer_decode=True)
    link.log_in()
    for _ in range(2):
        (event,), answers = link.report(FIRST)
        is_at_once = acknowledgement is Acknowledgement.AT_ONCE
        assert answers == [(2, FIRST, 1)] * is_at_once
        link.session.answer_report(event, START_NS)
        assert link.take()[1] == [(2, FIRST, 1)] * (not is_at_once)


def test_commands_do_not_go_down_a_link_between_platforms():
    link = Link(Edition.GBT2016)
    link.log_in()
    with pytest.raises(LocalProtocolError, match="between platforms"):
        link.session.send_command(0x82, Control(NOW, ControlId.RESET), START_NS)
    answer = Frame(command=0x82, vin=FIRST, message=TimeReply(NOW), reply_flag=1)
    link.session.receive_data(encode(answer), START_NS)
    (event,), answers = link.take()
    assert (event.kind, answers) == (RefusalKind.UNEXPECTED_REPLY, [])


def test_a_silent_platform_is_closed():
    link = Link(Edition.GBT2016)
    link.log_in()
    link.session.handle_timeout(START_NS + 300 * 10**9)
    assert link.take()[0] == [CloseRequested(CloseReason.SILENT)]
