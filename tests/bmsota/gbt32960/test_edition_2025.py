"""The 2025 edition in conversation: login with packs, its waits, time-only answers, keys, signatures, both editions mixed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    Acknowledgement,
    Activation,
    ActivationReply,
    ActivationResult,
    ActivationStatus,
    AlarmFlag,
    AlarmLevel,
    Alarms2025,
    CellVoltages2025,
    CipherMode,
    CipherPadding,
    CloseReason,
    CloseRequested,
    Command,
    CommandReceived,
    CommandReplied,
    Control,
    EcdsaSigner,
    EcdsaVerifier,
    Edition,
    Encryption,
    Engine,
    Engine2025,
    Frame,
    FrameReader,
    FrameRefused,
    KeyExchange,
    LoggedIn,
    LoginRequested,
    PlatformOptions,
    PlatformSession,
    ProbeTemperatures2025,
    RawMessage,
    ReplyBody,
    ReplyFlag,
    ReplyReceived,
    Report,
    ReportReceived,
    ReportsDropped,
    SecurityReceived,
    Signature,
    SymmetricCipher,
    TerminalOptions,
    TerminalSession,
    TimeReply,
    VehicleLogin,
    VehicleLogin2025,
    beijing_time,
    decode,
    encode,
)

VIN = "LTEST000000000001"
ICCID = "89860000000000000001"
PACKS = (("0RJPEA00HAU0AAF131001956", "0RJPEA00HAU0AAF131001957"), ())
START_NS = 1_767_225_600 * 10**9
NOW = beijing_time(START_NS)
BODY = Engine2025(900)
GBT2025 = Edition.GBT2025
DAY_NS = 24 * 3600 * 10**9


def terminal(**options):
    options = TerminalOptions(edition=GBT2025, time_sync=False, **options)
    return TerminalSession(vin=VIN, iccid=ICCID, pack_codes=PACKS, options=options)


def events_of(session):
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


def exchange(one, two, now_ns=START_NS):
    """Carry bytes both ways until both are silent; return what each side has said."""
    said = ([], [])
    for _ in range(20):
        there, back = one.data_to_send(), two.data_to_send()
        if there:
            two.receive_data(there, now_ns)
        if back:
            one.receive_data(back, now_ns)
        said[0].extend(events_of(one))
        for event in events_of(two):
            said[1].append(event)
            if isinstance(event, LoginRequested):
                two.accept_login(now_ns)
        if not there and not back and not two.data_to_send():
            break
    return said


def linked(terminal_session, platform_session):
    terminal_session.handle_timeout(START_NS)
    terminal_session.connected(START_NS)
    platform_session.connected(START_NS)
    return exchange(terminal_session, platform_session)


def test_a_terminal_of_2025_logs_in_reports_and_obeys():
    """Both ends of ours, back to back: login with pack codes, a report, a command, a logout."""
    unit, cloud = terminal(), PlatformSession()
    unit_said, cloud_said = linked(unit, cloud)
    login = next(event for event in cloud_said if isinstance(event, LoginRequested)).login
    assert login == VehicleLogin2025(NOW, 1, ICCID, PACKS)
    assert any(isinstance(event, LoggedIn) for event in unit_said)
    assert cloud.edition is GBT2025
    unit.send_report((BODY,), START_NS)
    _, cloud_said = exchange(unit, cloud)
    assert [(event.vin, event.report, event.is_backfill) for event in cloud_said] == [
        (VIN, Report(NOW, (BODY,)), False)
    ]
    control = Control(NOW, 2)
    cloud.send_command(Command.CONTROL, control, START_NS)
    unit_said, _ = exchange(unit, cloud)
    (received,) = [event for event in unit_said if isinstance(event, CommandReceived)]
    assert (received.frame.edition, received.frame.message) == (GBT2025, control)
    unit.reply_to(received.frame, START_NS)
    _, cloud_said = exchange(unit, cloud)
    (replied,) = [event for event in cloud_said if isinstance(event, CommandReplied)]
    assert replied.frame.message == TimeReply(NOW)
    unit.logout(START_NS)
    unit_said, _ = exchange(unit, cloud)
    assert CloseRequested(CloseReason.LOGGED_OUT) in unit_said


def test_logins_are_three_minutes_apart(talk):
    """2025 B.1; then the long wait, as in 2016."""
    one = talk(terminal())
    one.do("handle_timeout")
    one.do("connected")
    one.pass_time(9 * 60)
    assert [line for line in one.take() if "0x01" in line or "LoginFailed" in line or "Close" in line] == [
        "00:00:00 > 0x01 VehicleLogin2025",
        "00:03:00 > 0x01 VehicleLogin2025",
        "00:03:00 ! LoginFailed reason=NO_REPLY misses=1",
        "00:06:00 > 0x01 VehicleLogin2025",
        "00:06:00 ! LoginFailed reason=NO_REPLY misses=2",
        "00:09:00 ! LoginFailed reason=NO_REPLY misses=3",
        "00:09:00 ! CloseRequested reason=LOGIN_FAILED",
    ]


def test_backfill_reaches_back_seven_days():
    """2025 B.2.8: a report of six days ago is kept, one of eight is given up."""
    unit = terminal()
    unit.store_report((BODY,), START_NS, START_NS)
    unit.store_report((BODY,), START_NS + 2 * DAY_NS, START_NS + 6 * DAY_NS)
    assert unit.stored_report_count == 2
    unit.store_report((BODY,), START_NS + 8 * DAY_NS, START_NS + 8 * DAY_NS)
    assert unit.stored_report_count == 2
    assert [type(event) for event in events_of(unit)] == [ReportsDropped]


def test_codes_of_the_other_edition_are_refused():
    with pytest.raises(LocalProtocolError, match="expected pack_codes in GBT2025, got subsystem_codes"):
        TerminalSession(vin=VIN, iccid=ICCID, subsystem_codes=("a",), options=TerminalOptions(edition=GBT2025))
    with pytest.raises(LocalProtocolError, match="expected subsystem_codes in GBT2016, got pack_codes"):
        TerminalSession(vin=VIN, iccid=ICCID, pack_codes=PACKS)
    with pytest.raises(LocalProtocolError, match="expected options of GBT2025"):
        terminal().change_options(TerminalOptions(), START_NS)


def test_answers_are_the_time_alone_even_where_echo_is_asked_for():
    """B.3.3.2 of 2025; the option is for annex B of 2016."""
    for edition, login, size in (
        (GBT2025, VehicleLogin2025(NOW, 1, ICCID, PACKS), 6),
        (Edition.GBT2016, VehicleLogin(NOW, 1, ICCID), 30),
    ):
        cloud = PlatformSession(options=PlatformOptions(reply_body=ReplyBody.ECHO))
        cloud.receive_data(encode(Frame(command=1, vin=VIN, message=login, edition=edition)), START_NS)
        events_of(cloud)
        cloud.accept_login(START_NS)
        answer = cloud.data_to_send()
        assert len(answer) == 25 + size
        assert decode(answer).edition is edition


def test_a_wrong_report_is_answered_with_the_flag_of_2025():
    """0x06 for the structure; 2016 has only 0x02."""
    unit, cloud = terminal(), PlatformSession()
    linked(unit, cloud)
    for edition, flag in ((GBT2025, ReplyFlag.STRUCTURE_WRONG), (Edition.GBT2016, ReplyFlag.ERROR)):
        wrong = RawMessage(encode(Frame(command=2, vin=VIN, message=Report(NOW, ())))[24:-1] + b"\x04\x00")
        cloud.receive_data(encode(Frame(command=2, vin=VIN, message=wrong, edition=edition)), START_NS)
        answer = decode(cloud.data_to_send())
        assert (answer.reply_flag, answer.message) == (flag, TimeReply(NOW))


def test_editions_may_be_mixed_on_one_connection(good_frames):
    """The start bytes of each frame decide; every vector of both, alternating, glued together."""
    old = [data for data in good_frames if data[:2] == b"##"]
    new = [data for data in good_frames if data[:2] == b"$$"]
    glued = [data for pair in zip(old, new, strict=False) for data in pair]
    reader = FrameReader()
    reader.receive_data(b"".join(glued))
    found = []
    while (event := reader.next_event()) is not None:
        found.append(event)
    assert [event.raw for event in found] == glued
    assert {event.frame.edition for event in found} == set(Edition)


def test_activation_comes_before_the_login():
    """0x09 up, 0x0A down as a command of its own, and a time as the answer to the first."""
    unit, cloud = terminal(), PlatformSession()
    unit.handle_timeout(START_NS)
    with pytest.raises(LocalProtocolError, match="security: no link"):
        unit.send_security(Command.ACTIVATION, ActivationReply(1), START_NS)
    unit.connected(START_NS)
    cloud.connected(START_NS)
    unit.data_to_send()  # The login is lost.
    activation = Activation(NOW, "CHIP 1", b"key", VIN, Signature(3, b"r" * 32, b"s" * 32))
    unit.send_security(Command.ACTIVATION, activation, START_NS)
    _, cloud_said = exchange(unit, cloud)
    (event,) = cloud_said
    assert isinstance(event, SecurityReceived)
    assert event.frame.message == activation
    cloud.reply(event.frame, START_NS)
    reply = ActivationReply(ActivationStatus.FAILED, ActivationResult.CHIP_ALREADY_ACTIVE)
    cloud.send_security(VIN, Command.ACTIVATION_REPLY, reply, START_NS)
    unit_said, _ = exchange(unit, cloud)
    received = [event.frame.message for event in unit_said if isinstance(event, CommandReceived)]
    assert received == [reply]
    assert [event.command for event in unit_said if isinstance(event, ReplyReceived)] == [Command.ACTIVATION]
    for session, command, arguments in ((unit, Command.CONTROL, ()), (cloud, Command.ACTIVATION, (VIN,))):
        with pytest.raises(LocalProtocolError, match="security: expected"):
            session.send_security(*arguments, command, reply, START_NS)
    with pytest.raises(LocalProtocolError, match="in GBT2016"):
        TerminalSession(vin=VIN, iccid=ICCID).send_security(Command.ACTIVATION, activation, START_NS)


def cipher(key):
    return SymmetricCipher(Encryption.SM4, key=key, mode=CipherMode.CBC, padding=CipherPadding.PKCS7, iv=bytes(16))


def test_a_key_is_exchanged_and_used_by_both():
    """From the exchange on everything with a content is enciphered; a stored report too, though it was made before."""
    unit, cloud = terminal(), PlatformSession()
    linked(unit, cloud)
    unit.store_report((BODY,), START_NS - 10**9, START_NS)
    key = bytes(range(16))
    exchange_of_keys = KeyExchange(Encryption.SM4, key, NOW, beijing_time(START_NS + DAY_NS))
    cloud.send_security(VIN, Command.KEY_EXCHANGE, exchange_of_keys, START_NS)
    unit_said, _ = exchange(unit, cloud)
    (received,) = unit_said
    assert received.frame.message == exchange_of_keys
    unit.reply_to(received.frame, START_NS)
    exchange(unit, cloud)
    unit.change_options(replace(unit.options, cipher=cipher(key)), START_NS)
    cloud.change_options(replace(cloud.options, cipher=cipher(key), acknowledge_reports=Acknowledgement.AT_ONCE))
    later_ns = START_NS + 10 * 10**9
    unit.handle_timeout(later_ns)
    unit.send_report((BODY,), later_ns)
    raw = unit.data_to_send()
    frames = [decode(raw[: 25 + 16]), decode(raw[25 + 16 :])]
    assert {frame.encryption for frame in frames} == {Encryption.SM4}
    assert all(isinstance(frame.message, RawMessage) for frame in frames)
    cloud.receive_data(raw, later_ns)
    assert [(event.report.bodies, event.is_backfill) for event in events_of(cloud)] == [
        ((BODY,), True),
        ((BODY,), False),
    ]
    answer = cloud.data_to_send()
    assert decode(answer[: 25 + 16]).encryption == Encryption.SM4
    unit.receive_data(answer, later_ns)
    assert [event.frame.message for event in events_of(unit)] == [
        TimeReply(beijing_time(START_NS - 10**9)),
        TimeReply(beijing_time(later_ns)),
    ]
    cloud.send_command(Command.CONTROL, Control(NOW, 2), later_ns)
    unit_said, _ = exchange(unit, cloud, later_ns)
    assert unit_said[-1].frame.message == Control(NOW, 2)


def test_a_report_that_cannot_be_deciphered_is_answered_with_its_own_flag():
    """0x07 of 2025."""
    unit, cloud = terminal(), PlatformSession()
    linked(unit, cloud)
    cloud.change_options(replace(cloud.options, cipher=cipher(bytes(16))))
    frame = Frame(command=2, vin=VIN, message=RawMessage(b"x" * 15), edition=GBT2025, encryption=Encryption.SM4)
    cloud.receive_data(encode(frame), START_NS)
    answer = decode(cloud.data_to_send())
    assert (answer.reply_flag, answer.message) == (ReplyFlag.DECRYPTION_FAILED, TimeReply(NOW))


def test_reports_are_signed_and_checked():
    """A right one is reported; one without a signature, or of another key, is answered with 0x05 and has no effect."""
    key = ec.generate_private_key(ec.SECP256R1())
    verifier = EcdsaVerifier(key.public_key(), hash_algorithm=SHA256())
    signer = EcdsaSigner(key, hash_algorithm=SHA256())
    unit, cloud = terminal(signer=signer), PlatformSession(options=PlatformOptions(verifier=verifier))
    linked(unit, cloud)
    unit.send_report((BODY,), START_NS)
    _, cloud_said = exchange(unit, cloud)
    (event,) = cloud_said
    assert isinstance(event, ReportReceived)
    assert isinstance(event.report.bodies[-1], Signature)
    unit.change_options(replace(unit.options, signer=None), START_NS)
    unit.send_report((BODY,), START_NS)
    unit_said, cloud_said = exchange(unit, cloud)
    assert [type(event) for event in cloud_said] == [FrameRefused]
    assert [event.reply_flag for event in unit_said] == [ReplyFlag.SIGNATURE_WRONG]
    # A frame of 2016 has no signature, and cannot have one.
    old = Frame(command=2, vin=VIN, message=Report(NOW, (Engine(1, 1, 1.0),)))
    cloud.receive_data(encode(old), START_NS)
    assert isinstance(cloud.next_event(), ReportReceived)


def test_values_of_two_classes_are_never_equal():
    """Also where their fields are; and what is shown is what would make it again."""
    assert CellVoltages2025(()) != ProbeTemperatures2025(())
    assert CellVoltages2025(()) == CellVoltages2025(())
    assert hash(BODY) == hash(Engine2025(900))
    assert BODY != 900
    assert repr(BODY) == "Engine2025(crankshaft_speed_rpm=900)"


def test_alarm_levels_can_be_named():
    assert AlarmLevel(23, 4).flag is AlarmFlag.THERMAL_EVENT
    assert AlarmLevel(31, 1).flag is None
    assert Alarms2025(4, AlarmFlag.THERMAL_EVENT | AlarmFlag.SOC_LOW).active == (
        AlarmFlag.SOC_LOW,
        AlarmFlag.THERMAL_EVENT,
    )
