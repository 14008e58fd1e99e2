"""Both ends back to back: what the terminal says, the platform understands, and the other way round."""

from __future__ import annotations

import random

import pytest

from bmsota.gbt32960 import (
    BLOCK_SIZE_BYTES_MAX,
    BlockReply,
    BlockRequest,
    CloseRequested,
    Command,
    CommandReceived,
    CommandReplied,
    ConnectRequested,
    Control,
    ControlId,
    Edition,
    ExtensionReceived,
    LocalUpgrade,
    LocalUpgradeOutcome,
    LocalUpgrades,
    LoggedIn,
    LoggedOut,
    LoginRequested,
    LogoutReceived,
    PlatformSession,
    PlatformState,
    Position,
    RemoteUpgrade,
    ReplyFlag,
    ReplyReceived,
    ReportReceived,
    SignedReport,
    TerminalOptions,
    TerminalSession,
    TerminalState,
    TimeReply,
    beijing_time,
)

START_NS = 1_767_225_600 * 10**9
VIN = "LTEST000000000001"


class Wire:
    """A terminal, a platform and a link between them that can be cut, and that cuts the bytes as it likes."""

    def __init__(self, seed=0, edition=Edition.GBT2016):
        self.now_ns = START_NS
        codes = {"subsystem_codes": ("PACK-1",)} if edition is Edition.GBT2016 else {"pack_codes": (("PACK-1",),)}
        options = TerminalOptions(edition=edition)
        self.terminal = TerminalSession(vin=VIN, iccid="89860000000000000001", options=options, **codes)
        self.platform = None
        self.random = random.Random(seed)
        self.seen = []
        self.is_up = True
        self.files = {}

    def run(self, seconds):
        """Let time pass: events, bytes and timeouts of both ends in order."""
        until = self.now_ns + round(seconds * 10**9)
        while True:
            self.settle()
            dues = [self.terminal.next_timeout(), self.platform.next_timeout() if self.platform else None]
            due = min((due for due in dues if due is not None), default=until + 1)
            if due > until:
                break
            self.now_ns = max(self.now_ns, due)
            self.terminal.handle_timeout(self.now_ns)
            if self.platform:
                self.platform.handle_timeout(self.now_ns)
        self.now_ns = until

    def settle(self):
        while self.exchange() or self.events():
            pass

    def exchange(self):
        up = self.terminal.data_to_send()
        down = self.platform.data_to_send() if self.platform else b""
        for data, end in ((up, self.platform), (down, self.terminal)):
            at = 0
            while at < len(data) and end is not None:
                size = self.random.randint(1, len(data) - at)
                end.receive_data(data[at : at + size], self.now_ns)
                at += size
        return bool(up or down)

    def events(self):
        found = False
        while (event := self.terminal.next_event()) is not None:
            found = True
            self.seen.append(event)
            match event:
                case ConnectRequested():
                    if self.is_up:
                        self.platform = PlatformSession()
                        self.terminal.connected(self.now_ns)
                    else:
                        self.terminal.disconnected(self.now_ns)
                case CommandReceived():
                    self.terminal.reply_to(event.frame, self.now_ns)
                case CloseRequested():
                    self.exchange()
                    self.cut()
        while self.platform is not None and (event := self.platform.next_event()) is not None:
            found = True
            self.seen.append(event)
            match event:
                case LoginRequested():
                    self.platform.accept_login(self.now_ns)
                case ExtensionReceived():
                    self.answer(event.frame)
                case CloseRequested():
                    self.cut()
        return found

    def answer(self, frame):
        """As a platform does: a block of a file that it has, and for the rest that it has heard."""
        request = frame.message
        if not isinstance(request, BlockRequest):
            self.platform.reply(frame, self.now_ns)
            return
        data = self.files.get(request.sha256, b"")[request.offset : request.offset + request.size]
        if data:
            self.platform.reply(frame, self.now_ns, message=BlockReply.to(request, data))
        else:
            self.platform.reply(frame, self.now_ns, ReplyFlag.ERROR)

    def cut(self):
        if self.platform is not None:
            platform, self.platform = self.platform, None
            platform.disconnected(self.now_ns)
            while (event := platform.next_event()) is not None:
                self.seen.append(event)
            self.terminal.disconnected(self.now_ns)

    def of(self, kind):
        return [event for event in self.seen if isinstance(event, kind)]


@pytest.mark.parametrize("seed", range(10))
def test_a_day_of_a_vehicle(seed):
    """Log in, report, obey, report the upgrade, log out; the link cuts the bytes at will."""
    wire = Wire(seed)
    wire.run(1)
    for second in range(20):
        wire.terminal.send_report([Position(True, 121.5, 31.0 + second / 100)], wire.now_ns)
        wire.run(10)
    upgrade = Control(beijing_time(wire.now_ns), ControlId.REMOTE_UPGRADE, RemoteUpgrade(url="https://ota.example/"))
    wire.platform.send_command(Command.CONTROL, upgrade, wire.now_ns)
    wire.run(1)
    wire.terminal.send_extension(Command.SIGNED_REPORT, SignedReport(beijing_time(wire.now_ns), b"doc"), wire.now_ns)
    wire.run(1)
    wire.terminal.logout(wire.now_ns)
    wire.run(1)

    reports = wire.of(ReportReceived)
    assert [event.report.bodies[0].latitude_deg for event in reports] == [31.0 + i / 100 for i in range(20)]
    assert not any(event.is_backfill for event in reports)
    assert wire.of(CommandReceived)[0].frame.message == upgrade
    assert wire.of(CommandReplied)[0].message == upgrade
    assert wire.of(ExtensionReceived)[0].frame.message.document == b"doc"
    assert wire.terminal.waiting_extension_count == 0
    assert len(wire.of(LogoutReceived)) == 1
    assert isinstance(wire.seen[-1], LoggedOut)
    assert wire.terminal.state is TerminalState.ENDED


@pytest.mark.parametrize("seed", range(10))
def test_a_link_that_comes_and_goes(seed):
    """Between runs of a settled wire, every report arrives exactly once, by 0x02 or later by 0x03."""
    wire = Wire(seed)
    chance = random.Random(1000 + seed)
    wire.run(0)
    for number in range(60):
        if chance.random() < 0.2:
            wire.is_up = not wire.is_up
            if not wire.is_up:
                wire.cut()
        wire.terminal.send_report([Position(True, number / 1000, 0.0)], wire.now_ns)
        wire.run(10)
    wire.is_up = True
    wire.run(3 * 3600)
    numbers = sorted(round(event.report.bodies[0].longitude_deg * 1000) for event in wire.of(ReportReceived))
    assert numbers == list(range(60))
    assert wire.terminal.state is TerminalState.LOGGED_IN
    assert wire.terminal.stored_report_count == 0
    serials = [event.serial for event in wire.of(LoggedIn)]
    assert serials == list(range(serials[0], serials[0] + len(serials)))


def test_two_links_of_one_vehicle():
    """The second login closes the first link; the terminal on it learns that by the cut."""
    first, second = PlatformSession(), PlatformSession()
    wire = Wire()
    wire.run(1)
    first = wire.platform
    assert first.state is PlatformState.LOGGED_IN
    intruder = TerminalSession(vin=VIN, iccid="89860000000000000002")
    intruder.handle_timeout(wire.now_ns)
    intruder.connected(wire.now_ns)
    second.receive_data(intruder.data_to_send(), wire.now_ns)
    assert isinstance(second.next_event(), LoginRequested)
    second.accept_login(wire.now_ns)
    first.supersede(wire.now_ns)
    wire.run(0)
    assert first.state is PlatformState.CLOSED
    assert wire.terminal.state is TerminalState.WAITING


def test_what_was_upgraded_over_can_is_told_at_the_next_login():
    """Done while the unit had no link: the frame waits for it."""
    wire = Wire()
    wire.is_up = False
    wire.run(0)
    upgrade = LocalUpgrade(
        upgraded_at=beijing_time(wire.now_ns),
        position=1,
        hwid="F7S-0001",
        version_before=(2, 0, 0, 0),
        version_after=(2, 1, 0, 0),
        outcome=LocalUpgradeOutcome.SUCCEEDED,
        tool="bmsota",
    )
    told = LocalUpgrades(beijing_time(wire.now_ns), (upgrade,))
    wire.terminal.send_extension(Command.LOCAL_UPGRADES, told, wire.now_ns)
    wire.run(30)
    assert not wire.of(ExtensionReceived)
    wire.is_up = True
    wire.run(3600)
    assert [event.frame.message for event in wire.of(ExtensionReceived)] == [told]
    (reply,) = wire.of(ReplyReceived)
    assert (reply.command, reply.reply_flag) == (Command.LOCAL_UPGRADES, ReplyFlag.SUCCESS)
    assert reply.frame.message == TimeReply(told.time)


@pytest.mark.parametrize("edition", Edition)
@pytest.mark.parametrize("seed", range(5))
def test_a_file_in_blocks(seed, edition):
    """Asked for piece by piece, with a link that breaks on the way; several pieces within one second."""
    wire = Wire(seed, edition)
    chance = random.Random(seed)
    digest = bytes(32)
    file = wire.files[digest] = chance.randbytes(5 * BLOCK_SIZE_BYTES_MAX + 1234)
    got = bytearray()
    wire.run(1)
    for step in range(20):
        request = BlockRequest(beijing_time(wire.now_ns), digest, len(got), chance.randint(8192, BLOCK_SIZE_BYTES_MAX))
        wire.seen.clear()
        wire.terminal.send_extension(Command.DOWNLOAD_BLOCK, request, wire.now_ns)
        if step == 2:  # The question is lost with the link, and goes out again after the next login.
            wire.cut()
            wire.run(60)
        wire.settle()
        (reply,) = wire.of(ReplyReceived)
        if reply.reply_flag != ReplyFlag.SUCCESS:
            break
        assert reply.frame.message.answers(request)
        got += reply.frame.message.data
    assert got == file
    assert reply.reply_flag == ReplyFlag.ERROR
    assert reply.frame.message == TimeReply(request.time)
    assert wire.terminal.waiting_extension_count == 0
