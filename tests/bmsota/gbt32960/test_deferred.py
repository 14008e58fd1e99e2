"""Reports as bytes: decoded when asked, believed by their skeleton, answered later; and the same without all that."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960 import (
    Acknowledgement,
    CellVoltages,
    CellVoltages2025,
    CipherMode,
    CipherPadding,
    CloseReason,
    CloseRequested,
    DiscardedBytes,
    Edition,
    EmptyReply,
    Encryption,
    Engine,
    Frame,
    Heartbeat,
    PackVoltages,
    PlatformOptions,
    PlatformSession,
    PlatformState,
    Position,
    RawMessage,
    ReplyBody,
    Report,
    ReportReceived,
    SubsystemVoltages,
    SymmetricCipher,
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
    encode,
    nanoseconds,
)
from bmsota.gbt32960._session import platform as platform_module
from bmsota.gbt32960._session.backfill import as_backfill
from bmsota.gbt32960._skeletons import Skeletons
from bmsota.gbt32960._tables import EXTENSION_BODY_LAYOUTS
from bmsota.gbt32960._time import seconds_at

VIN = "LTEST000000000001"
OTHER = "LTEST000000000002"
ICCID = "89860000000000000001"
SECOND_NS = 10**9
START_NS = 1_767_225_600 * SECOND_NS
IS_LONG = "BMSOTA_LONG" in os.environ


def repaired(raw):
    """The frame with the length and check byte that fit it."""
    data = bytearray(raw)
    data[22:24] = (len(data) - 25).to_bytes(2, "big")
    data[-1] = bcc_xor(data[2:-1])
    return bytes(data)


def bodies(edition, index=0):
    cells = tuple(3.6 + 0.001 * ((cell + index) % 40) for cell in range(24))
    if edition is Edition.GBT2025:
        return (CellVoltages2025((PackVoltages(1, 88.0, -10.0, cells),)),)
    return (
        Engine(1, 2000 + index, 1.5),
        Position(True, 121.5, 31.2),
        CellVoltages((SubsystemVoltages(1, 88.0, -10.0, 24, 1, cells),)),
    )


def report(edition=Edition.GBT2016, second=0, command=2, vin=VIN, found=None):
    message = Report(beijing_time(START_NS + second * SECOND_NS), bodies(edition, second) if found is None else found)
    return encode(Frame(command=command, vin=vin, message=message, edition=edition))


def up(command, message, edition=Edition.GBT2016, vin=VIN):
    return encode(Frame(command=command, vin=vin, message=message, edition=edition))


def login(edition=Edition.GBT2016, vin=VIN):
    kind = VehicleLogin2025 if edition is Edition.GBT2025 else VehicleLogin
    return up(1, kind(beijing_time(START_NS), 1, ICCID), edition, vin)


def logged_in(edition=Edition.GBT2016, **options):
    session = PlatformSession(options=PlatformOptions(**options))
    session.receive_data(login(edition), START_NS)
    session.next_event()
    session.accept_login(START_NS)
    session.data_to_send()
    return session


def events(session):
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """Each test begins without layouts that another has taught."""
    fresh = Skeletons()
    monkeypatch.setattr(platform_module, "KNOWN", fresh)
    return fresh


# --- skeletons --------------------------------------------------------------------------------------------------------


def is_valid(frame):
    try:
        decode(frame)
    except FrameError:
        return False
    return True


def mutants(frame, rng, count):
    """Frames with some bytes changed or cut, whose outside is right."""
    for _ in range(count):
        raw = bytearray(frame)
        for _ in range(rng.choice((1, 1, 2, 4))):
            raw[rng.randrange(24, len(raw) - 1)] = rng.choice((0, 1, 2, 3, 0xFE, 0xFF, rng.randrange(256)))
        if rng.random() < 0.2:
            at = rng.randrange(30, len(raw))
            del raw[at : at + rng.randrange(1, 4)]
        yield repaired(raw)


def check_mutants(frames, rng, count):
    """What the quick check passes, `decode` does not refuse. Return how many passed."""
    known = Skeletons()
    passed = 0
    for frame in frames:
        known.learn(frame)
    for frame in frames:
        for mutant in mutants(frame, rng, count):
            if known.has(mutant) and seconds_at(mutant, 24) is not None:
                passed += 1
                assert is_valid(mutant), mutant.hex()
    return passed


@pytest.mark.slow
@settings(max_examples=200 if IS_LONG else 25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_what_the_quick_check_passes_decode_does_not_refuse(reports, data, seed):
    """Any bodies of both editions, damaged behind a right check byte."""
    frames = [data.draw(strategy) for strategy in reports().values()]
    check_mutants(frames, random.Random(seed), 20)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4) if IS_LONG else [0], ids="seed{}".format)
def test_what_the_quick_check_passes_decode_does_not_refuse_in_the_field(good_frames, seed):
    """The same of the reports of twenty sources; enough of the damaged ones pass for this to mean something."""
    frames = [frame for frame in good_frames if frame[2] in (2, 3) and frame[3] == 0xFE and frame[21] == 1]
    assert check_mutants(frames, random.Random(seed), 1500 if IS_LONG else 40) > 200


def test_a_body_with_an_inside_that_may_be_wrong_is_never_known(nothing_known):
    """Bodies of the extension hold text and lengths; what is unknown has no end."""
    for found in ((UserDefined(0x90, b"\x00\x01"),), ()):
        frame = report(found=found)
        nothing_known.learn(frame)
        assert nothing_known.has(frame)
    before = len(nothing_known)
    time = bytes((26, 1, 1, 8, 0, 0))
    ours = bytes((min(EXTENSION_BODY_LAYOUTS),))
    for unit in (time + ours + b"\x00\x03abc", time + b"\x20abc"):
        nothing_known.learn(up(2, RawMessage(unit)))
    assert len(nothing_known) == before == 2


def test_what_is_known_is_bounded():
    """A stranger with ever new layouts fills no memory: in their number, in one size, and in the size of one."""
    known = Skeletons()
    for count in range(1, 255):
        for type_id in range(0x80, 0x8B):
            known.learn(report(found=(UserDefined(type_id, bytes(count)),)))
    assert len(known) <= 256
    last = report(found=(UserDefined(0x8A, bytes(254)),))
    assert known.has(last)
    assert not known.has(report(found=(UserDefined(0x80, bytes(254)),)))  # The ninth of one size pushes the first out.
    large = report(found=(UserDefined(0x80, bytes(5000)),))
    known.learn(large)
    assert not known.has(large)
    branched = report(found=tuple(UserDefined(0x80, b"") for _ in range(200)))
    known.learn(branched)
    assert not known.has(branched)


def test_one_login_teaches_sixteen_layouts(nothing_known):
    session = logged_in(defer_decode=True)
    for count in range(1, 40):
        session.receive_data(report(found=(UserDefined(0x80, bytes(count)),)), START_NS)
    assert len(nothing_known) == 16
    assert len(events(session)) == 39


def test_a_time_that_is_none_is_seen():
    for raw in (
        (26, 2, 29, 0, 0, 0),
        (26, 1, 1, 24, 0, 0),
        (26, 1, 1, 0, 60, 0),
        (26, 1, 1, 0, 0, 60),
        (100, 1, 1, 0, 0, 0),
    ):
        assert seconds_at(bytes(raw), 0) is None
    assert seconds_at(bytes((26, 1, 1, 0, 0)), 0) is None
    for moment in (
        beijing_time(START_NS),
        beijing_time(0).replace(year=2000, month=2, day=29),
        beijing_time(0).replace(year=2099),
    ):
        raw = bytes((0, moment.year - 2000, moment.month, moment.day, moment.hour, moment.minute, moment.second))
        assert seconds_at(raw, 1) == nanoseconds(moment) // SECOND_NS


# --- the shortcut -----------------------------------------------------------------------------------------------------


def stream(edition, rng, count):
    """What a vehicle might send, doubled, damaged, of others and all: as a list of frames."""
    frames = []
    for second in range(count):
        usual = report(edition, second, rng.choice((2, 2, 2, 3)))
        damaged = bytearray(usual)
        damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
        frames += rng.choice(
            (
                [usual], [usual], [usual], [usual], [usual, usual], [bytes(damaged)], [repaired(damaged)],
                [up(7, Heartbeat(), edition)], [up(7, Heartbeat(), edition)],
                [up(8, TimeSync(), edition)],
                [report(edition, second, vin=OTHER)],
                [report(edition, second, found=(UserDefined(0x90, bytes(rng.randrange(4))),))],
                [rng.randbytes(rng.randrange(1, 60))],
                [b"##" * rng.randrange(1, 4)],
                [usual[: rng.randrange(1, len(usual))]],
            )
        )  # fmt: skip
    if rng.random() < 0.3:
        frames.append(up(4, VehicleLogout(beijing_time(START_NS), 1), edition))
        frames.append(report(edition, count))
    return frames


def pieces(frames, rng):
    """The stream as a link may deliver it: frame by frame, glued, cut anywhere."""
    how = rng.choice(("frames", "glued", "cut"))
    if how == "frames":
        return frames
    whole = b"".join(frames)
    if how == "glued":
        return [whole]
    found = []
    while whole:
        size = rng.choice((1, 7, 100, 1000))
        found.append(whole[:size])
        whole = whole[size:]
    return found


def said(session):
    """Everything that a session tells, comparable."""
    found = []
    for event in events(session):
        if isinstance(event, ReportReceived):
            found.append((event, event.report, event.fault and str(event.fault), event.reply_flag, event.reported_at_s))
        elif isinstance(event, DiscardedBytes):
            found.append(replace(event, error=None if event.error is None else str(event.error)))
        else:
            found.append(event)
    return found


def check_shortcut(edition, seed, count):
    rng = random.Random(seed)
    options = {
        "acknowledge_reports": rng.choice(list(Acknowledgement)),
        "reply_body": rng.choice(list(ReplyBody)),
    }
    quick, plain = (logged_in(edition, **options, defer_decode=is_quick) for is_quick in (True, False))
    now_ns = START_NS
    for piece in pieces(stream(edition, rng, count), rng):
        now_ns += rng.choice((0, SECOND_NS, 20 * SECOND_NS))
        outcomes = []
        for session in (quick, plain):
            session.handle_timeout(now_ns)
            session.receive_data(piece, now_ns)
            outcomes.append((said(session), session.data_to_send(), session.state))
        assert outcomes[0] == outcomes[1], (edition, seed)


@pytest.mark.slow
@pytest.mark.parametrize("edition", Edition)
def test_the_shortcut_changes_nothing(edition):
    """The same events in the same order and the same bytes, whatever comes and however it is cut."""
    for seed in range(60):
        check_shortcut(edition, seed, 25)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4) if IS_LONG else [0], ids="seed{}".format)
def test_the_shortcut_changes_nothing_in_long_streams(seed):
    for number in range(200 if IS_LONG else 4):
        for edition in Edition:
            check_shortcut(edition, 1000 * (seed + 1) + number, 100)


def test_a_known_layout_is_not_decoded_until_asked(monkeypatch):
    """The second report of a layout comes through undecoded, heartbeats between it in their order; then it decodes once."""
    session = logged_in(defer_decode=True)
    session.receive_data(report(second=0), START_NS)
    session.receive_data(report(second=1) + report(second=2, command=3) + up(7, Heartbeat()), START_NS)
    session.receive_data(up(7, Heartbeat()), START_NS)
    found = events(session)
    assert [type(event).__name__ for event in found] == ["ReportReceived"] * 3 + ["HeartbeatReceived"] * 2
    assert [event._report is None for event in found[:3]] == [False, True, True]
    assert [event.is_backfill for event in found[:3]] == [False, False, True]
    assert found[1].report == Report(beijing_time(START_NS + SECOND_NS), bodies(Edition.GBT2016, 1))
    assert found[1].report is found[1].report
    assert found[1].frame == report(second=1)
    # Without the option every report is decoded.
    session = logged_in()
    for second in range(3):
        session.receive_data(report(second=second), START_NS)
    assert all(event._report is not None for event in events(session))


def test_the_shortcut_is_a_sign_of_life():
    """Reports and heartbeats that take it keep the link open, and its silence is counted from the last of them."""
    session = logged_in(defer_decode=True)
    session.receive_data(report(), START_NS)
    now_ns = START_NS
    for frame in (report(second=1), up(7, Heartbeat()), report(second=2)):
        now_ns += 299 * SECOND_NS
        session.handle_timeout(now_ns)
        session.receive_data(frame, now_ns)
    events(session)
    session.handle_timeout(now_ns + 299 * SECOND_NS)
    assert session.state is PlatformState.LOGGED_IN
    assert session.next_timeout() == now_ns + 300 * SECOND_NS
    session.handle_timeout(now_ns + 300 * SECOND_NS)
    assert events(session) == [CloseRequested(CloseReason.SILENT)]


def test_the_window_of_silence_may_change_at_any_time():
    """A shorter one counts from the last frame too, although the timer was set for the longer one."""
    session = logged_in(silence_timeout_ns=600 * SECOND_NS)
    session.receive_data(up(7, Heartbeat()), START_NS + 10 * SECOND_NS)
    session.change_options(PlatformOptions(silence_timeout_ns=60 * SECOND_NS))
    assert session.next_timeout() == START_NS + 70 * SECOND_NS


def test_an_event_may_be_made_of_bytes_alone():
    """For a test, or of a frame that was kept: what is not given is read from the frame."""
    event = ReportReceived(VIN, report(second=5, command=3))
    assert (event.is_backfill, event.reported_at_s) == (True, START_NS // SECOND_NS + 5)
    assert event == ReportReceived(VIN, report(second=5, command=3), report=event.report)
    assert hash(event) == hash(ReportReceived(VIN, report(second=5, command=3)))
    assert event != ReportReceived(VIN, report(second=5))
    assert event != 7
    assert "is_backfill=True" in repr(event)
    with pytest.raises(FrameError, match="time"):
        ReportReceived(VIN, up(2, RawMessage(bytes(6))))


def test_a_session_needs_no_numpy():
    """Skeletons are found by the walk of the columns, without their package."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from bmsota.gbt32960 import PlatformOptions, PlatformSession, TerminalSession\n"
        "PlatformSession(options=PlatformOptions(defer_decode=True))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- answers ----------------------------------------------------------------------------------------------------------


def replies(session):
    data, found = session.data_to_send(), []
    while data:
        end = 25 + int.from_bytes(data[22:24], "big")
        found.append(decode(data[:end]))
        data = data[end:]
    return found


@pytest.mark.parametrize("defer_decode", [False, True])
def test_a_report_is_answered_when_it_is_stored(defer_decode):
    """Late, in any order, once; with an error if it could not be stored; not at all when the link is closed."""
    session = logged_in(acknowledge_reports=Acknowledgement.DEFERRED, defer_decode=defer_decode)
    for second in range(4):
        session.receive_data(report(second=second), START_NS)
    first, second, third, fourth = events(session)
    assert session.data_to_send() == b""
    session.answer_report(second, START_NS)
    session.answer_report(first, START_NS, flag=2)
    session.answer_report(second, START_NS)
    assert [(frame.reply_flag, frame.message) for frame in replies(session)] == [
        (1, TimeReply(beijing_time(START_NS + SECOND_NS))),
        (2, TimeReply(beijing_time(START_NS))),
    ]
    assert [event.reply_flag for event in (first, second, third)] == [2, 1, None]
    with pytest.raises(LocalProtocolError, match="reply"):
        session.answer_report(third, START_NS, flag=0xFE)
    session.disconnected(START_NS)
    session.answer_report(fourth, START_NS)
    assert (session.data_to_send(), fourth.reply_flag) == (b"", None)


def test_annex_b_answers_no_correct_report():
    """By default: a success is not sent, an error is."""
    session = logged_in()
    session.receive_data(report(), START_NS)
    (event,) = events(session)
    session.answer_report(event, START_NS)
    assert (session.data_to_send(), event.reply_flag) == (b"", None)
    session.answer_report(event, START_NS, flag=6)
    assert [frame.reply_flag for frame in replies(session)] == [2]
    assert event.reply_flag == 2  # 2016 does not have 0x06.


@pytest.mark.parametrize("body", ReplyBody)
@pytest.mark.parametrize("vin", [VIN, "SHORT"])
def test_the_quick_answer_is_the_slow_one(body, vin):
    """At once and later, of a decoded and of an undecoded report: the same bytes."""
    padded = bytearray(login(vin=vin))
    frames = [bytearray(report(second=second, vin=vin)) for second in range(2)]
    for raw in (padded, *frames):
        raw[4:21] = vin.encode().ljust(17, b" ")
    found = []
    for acknowledgement in (Acknowledgement.AT_ONCE, Acknowledgement.DEFERRED):
        for defer_decode in (False, True):
            session = PlatformSession(
                options=PlatformOptions(acknowledge_reports=acknowledgement, defer_decode=defer_decode, reply_body=body)
            )
            session.receive_data(repaired(padded), START_NS)
            session.next_event()
            session.accept_login(START_NS)
            session.data_to_send()
            for raw in frames:
                session.receive_data(repaired(raw), START_NS)
            for event in events(session):
                session.answer_report(event, START_NS)
            found.append(session.data_to_send())
    assert len(set(found)) == 1
    assert found[0][4:21] == vin.encode().ljust(17, b" ")


def test_an_enciphered_report_is_kept_both_ways():
    """As it came, and as a whole frame in the clear that `decode` takes without a key; its answer is enciphered."""
    cipher = SymmetricCipher(Encryption.AES, key=bytes(range(16)), mode=CipherMode.ECB, padding=CipherPadding.PKCS7)
    message = Report(beijing_time(START_NS), bodies(Edition.GBT2016))
    session = logged_in(cipher=cipher, acknowledge_reports=Acknowledgement.DEFERRED, defer_decode=True)
    sent = encode(Frame(command=2, vin=VIN, message=message, encryption=Encryption.AES), cipher=cipher)
    session.receive_data(sent, START_NS)
    (event,) = events(session)
    assert event.frame == sent
    assert event.clear == report()
    assert (event.report, event.reported_at_s) == (message, START_NS // SECOND_NS)
    session.answer_report(event, START_NS)
    answer = session.data_to_send()
    assert answer[21] == Encryption.AES
    assert decode(answer, cipher=cipher).message == TimeReply(beijing_time(START_NS))
    # Not enciphered on the same link: the shortcut takes it, and the answer is in the clear.
    for _ in range(2):
        session.receive_data(report(), START_NS)
    _, event = events(session)
    assert event._report is None
    session.answer_report(event, START_NS)
    assert session.data_to_send()[21] == Encryption.NONE


def test_more_than_a_terminal_sends_while_its_login_is_decided_is_a_flood():
    """The bytes that wait are bounded; the link is closed, and nothing is raised into the driver."""
    session = PlatformSession()
    session.receive_data(login(), START_NS)
    for _ in range(8):
        session.receive_data(bytes(64 * 1024), START_NS)
    assert [type(event).__name__ for event in events(session)] == ["LoginRequested", "CloseRequested"]
    assert session.state is PlatformState.CLOSED
    with pytest.raises(LocalProtocolError):
        session.accept_login(START_NS)


# --- a terminal that is handed whole frames ----------------------------------------------------------------------------


def terminal(**options):
    return TerminalSession(vin=VIN, iccid=ICCID, options=TerminalOptions(time_sync=False, **options))


def connect(session, now_ns):
    session.handle_timeout(now_ns)
    session.connected(now_ns)
    session.data_to_send()
    edition = session.options.edition
    reply = Frame(command=1, vin=VIN, message=EmptyReply(), reply_flag=1, edition=edition)
    session.receive_data(encode(reply), now_ns)
    events(session)


def send(session, is_encoded, edition, second, now_ns, is_stored=False):
    found = bodies(edition, second)
    collected_ns = START_NS + second * SECOND_NS
    if is_encoded:
        frame = report(edition, second)
        if is_stored:
            session.store_encoded(frame, collected_ns, now_ns)
        else:
            session.send_encoded(frame, now_ns)
    elif is_stored:
        session.store_report(found, collected_ns, now_ns)
    else:
        session.send_report(found, now_ns)


def day_of(session, is_encoded, edition, rng):
    """What a terminal sends and says over outages, refused reports, a link that takes nothing, and the seconds before an alarm."""
    out = []
    now_ns = START_NS
    is_linked = False
    second = 0
    for _ in range(150):
        step = rng.choice(
            ("report", "report", "report", "report", "store", "cut", "link", "wrong", "take", "take", "wait")
        )
        second += 1
        now_ns = START_NS + second * SECOND_NS
        session.handle_timeout(now_ns)
        if step == "report":
            send(session, is_encoded, edition, second, now_ns)
        elif step == "store":
            send(session, is_encoded, edition, second - 1, now_ns, is_stored=True)
        elif step == "link" and not is_linked:
            if session.state.name == "WAITING":
                session.handle_timeout(session.next_timeout())
            connect(session, now_ns)
            is_linked = True
        elif step == "cut" and is_linked:
            session.disconnected(now_ns)
            is_linked = False
        elif step == "wrong" and is_linked:
            moment = beijing_time(START_NS + rng.randrange(second) * SECOND_NS)
            wrong = Frame(command=2, vin=VIN, message=TimeReply(moment), reply_flag=2, edition=edition)
            session.receive_data(encode(wrong), now_ns)
        elif step == "wait":
            for _ in range(20):
                second += 1
                session.handle_timeout(START_NS + second * SECOND_NS)
        if step != "report":
            out.append(session.data_to_send())
        out.append((events(session), session.stored_report_count, session.next_timeout()))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("edition", Edition)
def test_an_encoded_report_goes_the_way_of_any_other(edition):
    """The same bytes, the same events and the same deadlines: sent, stored, filled in, taken back, sent again."""
    kinds = set()
    for seed in range(30):
        found = [
            day_of(terminal(edition=edition), is_encoded, edition, random.Random(seed)) for is_encoded in (True, False)
        ]
        assert found[0] == found[1], seed
        sent = b"".join(item for item in found[0] if isinstance(item, bytes))
        kinds |= {command for command in (2, 3) if edition.value + bytes((command, 0xFE)) in sent}
    assert kinds == {2, 3}


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4) if IS_LONG else [0], ids="seed{}".format)
def test_an_encoded_report_goes_the_way_of_any_other_for_long(seed):
    for number in range(300 if IS_LONG else 4):
        for edition in Edition:
            draw = 1000 * (seed + 1) + number
            found = [day_of(terminal(edition=edition), way, edition, random.Random(draw)) for way in (True, False)]
            assert found[0] == found[1], draw


def test_a_session_at_rest_is_small():
    """Of tens of thousands in one process: no dictionary, and no queue for what most never do."""
    for session in (terminal(), PlatformSession()):
        assert not hasattr(session, "__dict__")
    session = terminal()
    connect(session, START_NS)
    for number in range(3):
        session.send_encoded(report(second=number), START_NS + number * SECOND_NS)
    assert (session._resends, session._extensions, session._store._reports) == (None, None, None)


@pytest.mark.parametrize("edition", Edition)
def test_a_backfilled_frame_is_the_one_that_encode_makes(edition):
    """Only the command and its bit in the check byte are other ones."""
    for second in range(5):
        assert as_backfill(report(edition, second)) == report(edition, second, command=3)


def test_an_encoded_report_is_enciphered_if_there_is_a_key():
    cipher = SymmetricCipher(Encryption.AES, key=bytes(range(16)), mode=CipherMode.ECB, padding=CipherPadding.PKCS7)
    session = terminal(cipher=cipher)
    session.handle_timeout(START_NS)
    session.connected(START_NS)
    session.data_to_send()
    session.receive_data(encode(Frame(command=1, vin=VIN, message=EmptyReply(), reply_flag=1)), START_NS)
    session.send_encoded(report(), START_NS)
    sent = session.data_to_send()
    assert sent[21] == Encryption.AES
    assert encode(replace(decode(sent, cipher=cipher), encryption=Encryption.NONE)) == report()


@pytest.mark.parametrize(
    "frame",
    [
        report(vin=OTHER), report(Edition.GBT2025), report(command=3), report()[:-1], report() + b"\0", b"", report()[:30],
        up(7, Heartbeat()), encode(Frame(command=2, vin=VIN, message=RawMessage(b"x" * 40), encryption=Encryption.AES)),
    ],
)  # fmt: skip
def test_what_is_no_report_of_this_vehicle_is_not_sent(frame):
    session = terminal()
    for call in (
        lambda: session.send_encoded(frame, START_NS),
        lambda: session.store_encoded(frame, START_NS, START_NS),
    ):
        with pytest.raises(LocalProtocolError, match="expected a whole report of LTEST000000000001 in GBT2016"):
            call()
    assert session.stored_report_count == 0


def test_an_encoded_report_cannot_be_signed():
    """A signature is made over the report when it is made; a session that signs refuses what it cannot."""

    class Signer:
        def sign(self, data):
            raise AssertionError(data)

    session = terminal(edition=Edition.GBT2025, signer=Signer())
    with pytest.raises(LocalProtocolError, match="signed"):
        session.send_encoded(report(Edition.GBT2025), START_NS)


def test_a_report_kept_because_the_link_takes_nothing_goes_out_when_it_does():
    """Not only after the next login."""
    session = terminal()
    connect(session, START_NS)
    session.handle_timeout(START_NS + 2 * SECOND_NS)  # The time to fill in has passed; there was nothing.
    large = report(found=(UserDefined(0x90, bytes(60_000)),))
    for _ in range(20):
        session.send_encoded(large, START_NS + 3 * SECOND_NS)
    kept = session.stored_report_count
    assert kept > 0
    session.data_to_send()
    for second in range(4, 4 + kept):
        session.handle_timeout(START_NS + second * SECOND_NS)
    assert session.stored_report_count == 0
    assert session.data_to_send().count(b"##\3\xfe") == kept


def test_a_heartbeat_is_made_once():
    """The same bytes each minute; its usual answer needs no decoding, and any other still counts."""
    session = terminal()
    connect(session, START_NS)
    now_ns = START_NS
    sent = set()
    for minute in range(1, 12):
        now_ns = START_NS + minute * 60 * SECOND_NS
        session.handle_timeout(now_ns)
        sent.add(session.data_to_send())
        message = EmptyReply() if minute < 7 else TimeReply(beijing_time(now_ns))
        session.receive_data(encode(Frame(command=7, vin=VIN, message=message, reply_flag=1)), now_ns)
    assert sent == {up(7, Heartbeat())}
    assert events(session) == []
    for minute in range(12, 16):
        session.handle_timeout(START_NS + minute * 60 * SECOND_NS)
    assert [event.reason for event in events(session)] == [CloseReason.HEARTBEAT_LOST]
