"""What the platform's end refuses: each refusal with its kind, and an answer to who asked; and what it keeps all the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError, TrustError
from bmsota.gbt32960 import (
    ActivationReply,
    ActivationStatus,
    CloseRequested,
    Control,
    ControlId,
    DiscardedBytes,
    Edition,
    EmptyReply,
    Encryption,
    Engine,
    Engine2025,
    Frame,
    FrameRefused,
    Heartbeat,
    InvalidTail,
    LoginRequested,
    LogoutReceived,
    ParameterQuery,
    PlatformOptions,
    PlatformSession,
    PlatformState,
    RawMessage,
    RefusalKind,
    ReplyFlag,
    Report,
    ReportReceived,
    Signature,
    SignatureAlgorithm,
    TerminalOptions,
    TerminalSession,
    TimeReply,
    TimeSync,
    UserDefined,
    VehicleLogin,
    VehicleLogin2025,
    VehicleLogout,
    beijing_time,
    decode,
    decode_header,
    decode_partial,
    encode,
    explain,
    from_dict,
    to_dict,
)

VIN = "LTEST000000000001"
OTHER = "LTEST000000000002"
ICCID = "89860000000000000001"
SECOND_NS = 10**9
START_NS = 1_767_225_600 * SECOND_NS
NOW = beijing_time(START_NS)
TIME = bytes((26, 1, 1, 8, 0, 0))
EDITIONS = pytest.mark.parametrize("edition", Edition)


def repaired(raw):
    """The frame with the length and check byte that fit it."""
    data = bytearray(raw)
    data[22:24] = (len(data) - 25).to_bytes(2, "big")
    data[-1] = bcc_xor(data[2:-1])
    return bytes(data)


def frame(command, message, edition=Edition.GBT2016, vin=VIN, **more):
    return Frame(command=command, vin=vin, message=message, edition=edition, **more)


def unit(command, data, edition=Edition.GBT2016, vin=VIN, encryption=Encryption.NONE):
    return encode(frame(command, RawMessage(data), edition, vin, encryption=encryption))


def login(edition=Edition.GBT2016, vin=VIN, serial=1):
    kind = VehicleLogin2025 if edition is Edition.GBT2025 else VehicleLogin
    return encode(frame(1, kind(NOW, serial, ICCID), edition, vin))


def report(edition=Edition.GBT2016, vin=VIN, command=2, found=None):
    if found is None:
        found = (Engine2025(2400) if edition is Edition.GBT2025 else Engine(1, 2400, 1.5),)
    return encode(frame(command, Report(NOW, found), edition, vin))


class End:
    """A session, what it said, and what it sent."""

    def __init__(self, **options):
        self.session = PlatformSession(options=PlatformOptions(**options))

    def hear(self, raw, now_ns=START_NS):
        """Receive bytes, and return the events and the frames sent."""
        self.session.receive_data(raw, now_ns)
        return self.take()

    def take(self):
        events = []
        while (event := self.session.next_event()) is not None:
            events.append(event)
        data, frames = self.session.data_to_send(), []
        while data:
            size = 25 + int.from_bytes(data[22:24], "big")
            frames.append(decode(data[:size]))
            data = data[size:]
        return events, frames

    def log_in(self, edition=Edition.GBT2016, vin=VIN):
        self.hear(login(edition, vin))
        self.session.accept_login(START_NS)
        self.take()
        return self


def flag_of(edition, flag):
    """What 2016 has for a flag of 2025."""
    return ReplyFlag.ERROR if edition is Edition.GBT2016 else flag


def assert_refused(end, raw, kind, flag, now_ns=START_NS):
    """One event of this kind that says whose bytes they were and what was answered; and the answer, to the same command."""
    (event,), frames = end.hear(raw, now_ns)
    assert isinstance(event, (FrameRefused, DiscardedBytes))
    assert event.kind is kind, event.reason
    assert event.vin == raw[4:21].decode()
    assert event.first_bytes == raw[:64]
    assert event.reply_flag == flag
    if flag is None:
        assert frames == []
    else:
        (answer,) = frames
        assert (answer.command, answer.vin, answer.reply_flag) == (raw[2], event.vin, flag)
        assert answer.edition.value == raw[:2]
        assert isinstance(answer.message, (TimeReply, EmptyReply))


# --- not logged in, other vehicles ---------------------------------------------------------------------------------------


@EDITIONS
def test_who_is_not_logged_in_is_told(edition):
    """Before a login: any command is answered as wrong and has no effect; a reply is not answered."""
    end = End()
    logout = encode(frame(4, VehicleLogout(NOW, 1), edition))
    for raw in (report(edition), report(edition, command=3), logout, encode(frame(7, Heartbeat(), edition))):
        assert_refused(end, raw, RefusalKind.NOT_LOGGED_IN, ReplyFlag.ERROR)
    reply = encode(frame(0x82, TimeReply(NOW), edition, reply_flag=1))
    assert_refused(end, reply, RefusalKind.NOT_LOGGED_IN, None)
    assert end.session.state is PlatformState.OPEN


@EDITIONS
def test_a_frame_of_another_vehicle_is_reported_and_not_answered(edition):
    """Neither while the vehicle of the link is logged in nor after its logout; nor if it is wrong inside."""
    end = End().log_in(edition)
    for _ in range(2):
        assert_refused(end, report(edition, OTHER), RefusalKind.OTHER_VIN, None)
        assert_refused(end, encode(frame(7, Heartbeat(), edition, OTHER)), RefusalKind.OTHER_VIN, None)
        assert_refused(end, unit(4, b"x", edition, OTHER), RefusalKind.STRUCTURE, None)
        end.hear(encode(frame(4, VehicleLogout(NOW, 1), edition)))


@EDITIONS
def test_a_second_login_under_another_vin_is_refused(edition):
    """A stranger's link does not turn into another vehicle's. The vehicle of the link stays logged in."""
    end = End().log_in(edition)
    assert_refused(end, login(edition, OTHER), RefusalKind.SECOND_LOGIN, ReplyFlag.ERROR)
    assert (end.session.state, end.session.vin) == (PlatformState.LOGGED_IN, VIN)
    # The same vehicle logs in again, as after a swap of its battery; another one after a logout, or where it is allowed.
    assert [type(event) for event in end.hear(login(edition))[0]] == [LoginRequested]
    end.session.accept_login(START_NS)
    end.hear(encode(frame(4, VehicleLogout(NOW, 1), edition)))
    assert [type(event) for event in end.hear(login(edition, OTHER))[0]] == [LoginRequested]
    end = End(allows_other_vin=True).log_in(edition)
    assert [type(event) for event in end.hear(login(edition, OTHER))[0]] == [LoginRequested]
    end.session.accept_login(START_NS)
    assert end.session.vin == OTHER


@EDITIONS
def test_an_unknown_vin_is_told_what_its_edition_has_for_it(edition):
    """2025 has a flag for it, 2016 has not."""
    end = End()
    end.hear(login(edition))
    end.session.refuse_login(ReplyFlag.VIN_UNKNOWN, START_NS)
    (answer,) = end.take()[1]
    assert answer.reply_flag == flag_of(edition, ReplyFlag.VIN_UNKNOWN)


# --- commands ---------------------------------------------------------------------------------------------------------


@EDITIONS
@pytest.mark.parametrize(
    ("command", "message", "kind"),
    [
        (0x06, RawMessage(TIME + b"\0\1"), RefusalKind.PLATFORM_LINK),
        (0x60, RawMessage(b"123456789"), RefusalKind.UNKNOWN_COMMAND),
        (0x83, RawMessage(b"123456789"), RefusalKind.UNKNOWN_COMMAND),
        (0x0C, RawMessage(b""), RefusalKind.UNKNOWN_COMMAND),
        (0xFF, RawMessage(b""), RefusalKind.UNKNOWN_COMMAND),
        (0x80, ParameterQuery(NOW, (1,)), RefusalKind.WRONG_DIRECTION),
        (0x81, RawMessage(TIME + b"\0"), RefusalKind.WRONG_DIRECTION),
        (0x82, Control(NOW, ControlId.RESET), RefusalKind.WRONG_DIRECTION),
    ],
)
def test_commands_that_a_terminal_does_not_send(edition, command, message, kind):
    """Reserved ones, those of a platform, those of a link between platforms: answered as wrong, and the link lives."""
    end = End().log_in(edition)
    assert_refused(end, encode(frame(command, message, edition)), kind, ReplyFlag.ERROR)
    assert [answer.reply_flag for answer in end.hear(encode(frame(7, Heartbeat(), edition)))[1]] == [1]


def test_commands_of_the_other_edition_are_reserved():
    """0x09 to 0x0B are of 2025; there 0x0A only goes down."""
    end = End().log_in()
    for command in (0x09, 0x0A, 0x0B):
        assert_refused(end, unit(command, b"x"), RefusalKind.UNKNOWN_COMMAND, ReplyFlag.ERROR)
    down = frame(0x0A, ActivationReply(ActivationStatus.SUCCEEDED), Edition.GBT2025)
    assert_refused(End().log_in(Edition.GBT2025), encode(down), RefusalKind.WRONG_DIRECTION, ReplyFlag.ERROR)


@EDITIONS
def test_a_reply_is_never_answered(edition):
    """6.3.2: two ends that answer answers never stop."""
    end = End().log_in(edition)
    for command in (7, 1, 2, 0x80, 0x60):
        for flag in (1, 2, 0x55):
            raw = encode(frame(command, EmptyReply(), edition, reply_flag=flag))
            assert_refused(end, raw, RefusalKind.UNEXPECTED_REPLY, None)
    assert_refused(end, encode(frame(7, RawMessage(b"x"), edition, reply_flag=1)), RefusalKind.STRUCTURE, None)


@EDITIONS
def test_a_wrong_check_byte_is_not_answered(edition):
    """Its header may be wrong too."""
    end = End().log_in(edition)
    raw = report(edition)
    events, frames = end.hear(raw[:-1] + bytes((raw[-1] ^ 0x5A,)) + encode(frame(7, Heartbeat(), edition)))
    assert (events[0].kind, events[0].vin, events[0].reply_flag) == (RefusalKind.CHECK_BYTE, VIN, None)
    assert [answer.command for answer in frames] == [7]


# --- the inside -------------------------------------------------------------------------------------------------------


@EDITIONS
@pytest.mark.parametrize("is_logged_in", [False, True])
def test_a_login_that_cannot_be_read_is_answered(edition, is_logged_in):
    """Without its code byte, with bytes too many, with a month 0, cut short: the terminal learns why it waits."""
    end = End().log_in(edition) if is_logged_in else End()
    head = TIME + b"\0\1" + ICCID.encode()
    tails = (b"\1\1", b"\0\0abc", b"\1") if edition is Edition.GBT2016 else (b"\1\1", b"\0abc", b"")
    for data in (*(head + tail for tail in tails), b"\x1a\0\1\0\0\0" + head[6:] + b"\0\0", b"\x1a", b""):
        assert_refused(end, unit(1, data, edition), RefusalKind.STRUCTURE, flag_of(edition, ReplyFlag.STRUCTURE_WRONG))
    # Also one of another vehicle on this link: who logs in waits for an answer.
    flag = flag_of(edition, ReplyFlag.STRUCTURE_WRONG)
    assert_refused(end, unit(1, head, edition, OTHER), RefusalKind.STRUCTURE, flag)
    assert [type(event) for event in end.hear(login(edition))[0]] == [LoginRequested]


@EDITIONS
@pytest.mark.parametrize("encryption", [0x00, 0x02, 0x03, 0x04, 0x05, 0x09, 0xFE, 0xFF])
@pytest.mark.parametrize("command", [1, 2, 3, 4, 7, 8, 0xC1, 0xF0])
def test_what_nobody_can_decipher_is_answered(edition, encryption, command):
    """No key, or no such encryption: 2025 has a flag for it. Nothing of it is believed."""
    end = End().log_in(edition)
    raw = bytearray(unit(command, bytes(range(48)), edition))
    raw[21] = encryption
    flag = flag_of(edition, ReplyFlag.DECRYPTION_FAILED)
    assert_refused(end, repaired(raw), RefusalKind.ENCRYPTION, flag)
    assert end.session.state is PlatformState.LOGGED_IN


def test_an_empty_data_unit_needs_no_key():
    """A heartbeat of a terminal that enciphers says so in its header, and has nothing to decipher; one with a data unit is odd."""
    end = End().log_in()
    for command, message in ((7, Heartbeat()), (8, TimeSync())):
        raw = bytearray(encode(frame(command, message)))
        raw[21] = Encryption.AES
        assert [answer.reply_flag for answer in end.hear(repaired(raw))[1]] == [1]
        filled = unit(command, b"x" * 16, encryption=Encryption.AES)
        assert_refused(end, filled, RefusalKind.ENCRYPTION, ReplyFlag.ERROR)
    assert_refused(end, unit(2, b"", encryption=Encryption.AES), RefusalKind.ENCRYPTION, ReplyFlag.ERROR)


@EDITIONS
def test_a_report_without_a_time_is_refused(edition):
    """There is nothing to keep it under: empty, cut, month 0, second 60, 30 February, hour 24, a year of 100."""
    end = End().log_in(edition)
    flag = flag_of(edition, ReplyFlag.STRUCTURE_WRONG)
    for time in (
        b"", TIME[:5], b"\x1a\0\1\0\0\0", b"\x1a\1\1\0\0\x3c", b"\x1a\2\x1e\0\0\0", b"\x1a\1\1\x18\0\0", b"\x64\1\1\0\0\0",
    ):  # fmt: skip
        assert_refused(
            end, unit(2, time + (b"\4\1\1\1" if len(time) == 6 else b""), edition), RefusalKind.STRUCTURE, flag
        )
    # A time alone is a report without bodies.
    (event,), frames = end.hear(unit(2, TIME, edition))
    assert (event.report, frames) == (Report(NOW, ()), [])


FIRST = {Edition.GBT2016: Engine(1, 2400, 1.5), Edition.GBT2025: Engine2025(2400)}


@EDITIONS
@pytest.mark.parametrize("defer_decode", [False, True])
@pytest.mark.parametrize(
    "tail",
    [
        b"\x01", b"\x01\x01\x01", b"\x80", b"\x80\x00", b"\x80\x00\x09abc", b"\x02\x09\x01",
        b"\x05\x00\x00", b"\x08\xfd", b"\x07\x01",
    ],
)  # fmt: skip
def test_a_report_with_a_wrong_end_keeps_the_bodies_before_it(edition, defer_decode, tail):
    """What was measured is kept and marked; the report is answered as wrong, so that the terminal may send it again."""
    end = End(defer_decode=defer_decode).log_in(edition)
    good = report(edition)
    raw = repaired(good[:-1] + tail + b"\0")
    for _ in range(2):
        (event,), (answer,) = end.hear(raw)
        assert isinstance(event, ReportReceived)
        assert event.report == Report(NOW, (FIRST[edition],))
        assert (event.frame, event.clear) == (raw, raw)
        assert isinstance(event.fault, FrameError)
        assert event.reply_flag == answer.reply_flag == flag_of(edition, ReplyFlag.STRUCTURE_WRONG)
        assert answer.message == TimeReply(NOW)
        assert decode_partial(raw)[0].message == event.report
        with pytest.raises(FrameError):
            decode(raw)
        end.session.answer_report(event, START_NS)
        assert end.take() == ([], [])  # It has its answer.
        assert end.hear(good)[0][0].fault is None


def test_bodies_behind_the_signature_are_kept_out_and_what_is_before_it_is_kept():
    """The signature has to be the last body; a key that is to be checked refuses the whole report."""
    signed = report(Edition.GBT2025, found=(Engine2025(2400), Signature(SignatureAlgorithm.ECC, b"r" * 32, b"s" * 32)))
    signed = repaired(signed[:-1] + b"\x80\0\1x" + b"\0")
    end = End().log_in(Edition.GBT2025)
    (event,), (answer,) = end.hear(signed)
    assert event.report == Report(NOW, (Engine2025(2400),))
    assert "the end of the report" in str(event.fault)
    assert answer.reply_flag == ReplyFlag.STRUCTURE_WRONG

    class Refusing:
        def verify(self, data, signature):
            raise TrustError("signature", "not signed by this key")

    end = End(verifier=Refusing()).log_in(Edition.GBT2025)
    assert_refused(end, signed, RefusalKind.STRUCTURE, ReplyFlag.STRUCTURE_WRONG)
    assert_refused(end, report(Edition.GBT2025), RefusalKind.SIGNATURE, ReplyFlag.SIGNATURE_WRONG)


def test_an_unknown_body_is_kept_with_all_behind_it():
    """Its length is not known, so it holds the rest; that is no fault, and the bytes come back."""
    raw = repaired(report()[:-1] + b"\x30abc\x01" + b"\0")
    (event,), frames = End().log_in().hear(raw)
    assert (event.fault, frames) == (None, [])
    assert encode(frame(2, event.report)) == raw


def test_decode_partial_is_decode_where_nothing_is_wrong(good_frames):
    """Of every frame of every source; and of what is wrong elsewhere it says the same."""
    for raw in good_frames:
        assert decode_partial(raw) == (decode(raw), None)
    for raw in (b"", b"##", login()[:-1] + b"\0", unit(1, b"x"), encode(frame(7, RawMessage(b"x")))):
        with pytest.raises(FrameError) as whole:
            decode(raw)
        with pytest.raises(FrameError) as partial:
            decode_partial(raw)
        assert str(partial.value) == str(whole.value)


@EDITIONS
def test_decode_keeps_the_bodies_before_a_wrong_tail_if_it_shall(edition):
    """As values, with the rest as bytes and why behind them: the frame comes back byte for byte, by JSON too."""
    good = report(edition)
    raw = repaired(good[:-1] + b"\x01\x02\0")
    with pytest.raises(FrameError) as why:
        decode(raw)
    found = decode(raw, strict=False)
    assert found.message.bodies[:-1] == decode(good).message.bodies
    assert found.message.bodies[-1] == InvalidTail(b"\x01\x02", str(why.value))
    assert encode(found) == encode(from_dict(json.loads(json.dumps(to_dict(found))))) == raw
    with pytest.raises(LocalProtocolError, match="only as the last"):
        encode(replace(found, message=Report(found.message.time, found.message.bodies[::-1])))


def test_decode_is_the_same_either_way_where_nothing_is_wrong(good_frames):
    for raw in good_frames:
        assert decode(raw, strict=False) == decode(raw)
    for raw in (b"", b"##", login()[:-1] + b"\0", unit(1, b"x"), encode(frame(7, RawMessage(b"x")))):
        with pytest.raises(FrameError):
            decode(raw, strict=False)


@pytest.mark.parametrize("function", [decode, decode_partial, decode_header, explain])
def test_text_is_told_apart_from_bytes(function):
    """Hexadecimal digits are what a beginner passes."""
    with pytest.raises(TypeError, match=r"expected bytes, got text; bytes\.fromhex"):
        function("232307fe")


# --- behind the logout ------------------------------------------------------------------------------------------------


@EDITIONS
@pytest.mark.parametrize("defer_decode", [False, True])
def test_reports_behind_the_logout_are_kept(edition, defer_decode):
    """Real vehicles send their last state with the logout's own second behind it; nothing else is taken any more."""
    end = End(defer_decode=defer_decode).log_in(edition)
    end.hear(report(edition))
    logout = encode(frame(4, VehicleLogout(NOW, 1), edition))
    events, _ = end.hear(logout + report(edition) + report(edition, command=3))
    assert [type(event) for event in events] == [LogoutReceived, ReportReceived, ReportReceived]
    assert [(event.vin, event.is_after_logout, event.is_backfill) for event in events[1:]] == [
        (VIN, True, False),
        (VIN, True, True),
    ]
    assert events[1].reported_at_s == START_NS // SECOND_NS
    assert events[1] != ReportReceived(VIN, report(edition))
    for raw in (encode(frame(7, Heartbeat(), edition)), logout, unit(0xC1, b"x", edition)):
        assert_refused(end, raw, RefusalKind.NOT_LOGGED_IN, ReplyFlag.ERROR)
    assert_refused(end, unit(2, b"x", edition), RefusalKind.STRUCTURE, flag_of(edition, ReplyFlag.STRUCTURE_WRONG))
    (event,), (answer,) = end.hear(repaired(report(edition)[:-1] + b"\x01\0"))
    assert (event.is_after_logout, answer.reply_flag) == (True, event.reply_flag)
    # Logged in again, it is as before.
    end.hear(login(edition))
    end.session.accept_login(START_NS)
    end.take()
    assert end.hear(report(edition))[0][0].is_after_logout is False


# --- a lying length ---------------------------------------------------------------------------------------------------


def lying(raw, length):
    data = bytearray(raw)
    data[22:24] = length.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize("period_s", [5, 10, 29, 31])
@pytest.mark.parametrize("length", [600, 6656, 60000])
def test_a_lying_length_costs_no_report_and_half_a_minute(period_s, length):
    """The wait for the rest runs from the frame's beginning, however often something comes; then all behind it is there."""
    end = End().log_in()
    raw = report(found=tuple(UserDefined(0x90, bytes(40)) for _ in range(8)))
    end.hear(lying(raw, length))
    sent = received = 0
    first_s = None
    for second in range(0, 200, 1):
        now_ns = START_NS + second * SECOND_NS
        end.session.handle_timeout(now_ns)
        events = end.take()[0]
        if second % period_s == 0 and second:
            events += end.hear(raw, now_ns)[0]
            sent += 1
        assert not any(isinstance(event, CloseRequested) for event in events), second
        got = sum(isinstance(event, ReportReceived) for event in events)
        first_s = second if got and first_s is None else first_s
        received += got
    assert received == sent
    assert first_s <= max(30, period_s)


def test_many_false_starts_end_together():
    """Beginnings that were there when the wait began are as old as it: they do not wait half a minute each."""
    end = End().log_in()
    beat = encode(frame(7, Heartbeat()))
    end.hear(b"".join(lying(beat, 60_000 + number)[:24] for number in range(40)) + beat[:-1])
    end.session.handle_timeout(START_NS + 29 * SECOND_NS)
    assert end.take() == ([], [])
    end.session.handle_timeout(START_NS + 30 * SECOND_NS)
    events, frames = end.hear(beat, START_NS + 30 * SECOND_NS)
    assert [answer.command for answer in frames] == [7]
    assert events[0].kind is RefusalKind.UNFINISHED
    assert (events[0].vin, len(events[0].data)) == (VIN, 40 * 24 + len(beat) - 1)
    end.session.handle_timeout(START_NS + 300 * SECOND_NS)
    assert end.session.next_timeout() == START_NS + 330 * SECOND_NS  # Silence, from the heartbeat on.


def test_a_frame_in_time_ends_the_wait():
    """Also while a login is decided: the wait for its rest is over, and the next one has its own time."""
    end = End()
    raw = login()
    end.hear(raw[:30])
    end.hear(raw[30:], START_NS + 20 * SECOND_NS)
    assert end.session.state is PlatformState.DECIDING
    end.session.handle_timeout(START_NS + 40 * SECOND_NS)
    end.session.accept_login(START_NS + 40 * SECOND_NS)
    end.take()
    raw = report()
    end.hear(raw[:30], START_NS + 45 * SECOND_NS)
    end.session.handle_timeout(START_NS + 74 * SECOND_NS)
    assert [type(event) for event in end.hear(raw[30:], START_NS + 74 * SECOND_NS)[0]] == [ReportReceived]


# --- the terminal's end -----------------------------------------------------------------------------------------------


def test_what_a_terminal_refuses_has_a_kind_too():
    """It answers none of it: commands for others, commands that only terminals send, replies to nothing."""
    terminal = TerminalSession(vin=VIN, iccid=ICCID, options=TerminalOptions(time_sync=False))
    terminal.handle_timeout(START_NS)
    terminal.connected(START_NS)
    terminal.data_to_send()

    def refused(raw):
        terminal.receive_data(raw, START_NS)
        events = []
        while (event := terminal.next_event()) is not None:
            events.append(event)
        assert terminal.data_to_send() == b""
        event = events[-1]
        assert (event.vin, event.first_bytes, event.reply_flag) == (raw[4:21].decode(), raw[:64], None)
        return event.kind

    control = frame(0x82, Control(NOW, ControlId.RESET))
    assert refused(encode(control)) is RefusalKind.NOT_LOGGED_IN
    terminal.receive_data(encode(frame(1, EmptyReply(), reply_flag=1)), START_NS)
    assert refused(encode(replace(control, vin=OTHER))) is RefusalKind.OTHER_VIN
    assert refused(report()) is RefusalKind.WRONG_DIRECTION
    assert refused(unit(0x60, b"x")) is RefusalKind.UNKNOWN_COMMAND
    for command in (1, 4, 8, 0x60, 0xC1):
        assert refused(encode(frame(command, EmptyReply(), reply_flag=1))) is RefusalKind.UNEXPECTED_REPLY
    assert refused(unit(0x82, b"x")) is RefusalKind.STRUCTURE
