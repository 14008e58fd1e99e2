"""Nodes of other makers: the usual order of ISO 14229-1, and the habits real servers have.

`ForeignEcu` is such a server in a few lines. Its habits are those measured on driftregion/iso14229: a security delay at boot, at most
one answer each P2, a session that only 0x10 and 0x3E renew, a download that is dropped by a wrong block counter.
"""

from __future__ import annotations

import pytest

from bmsota.errors import ConfigurationError, LocalProtocolError
from bmsota.image import ImageRole, ImageVersion
from bmsota.node import (
    BlockRepeated,
    CommandFailed,
    CommandSucceeded,
    FailureCause,
    ImageVerified,
    NodeCommand,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)
from bmsota.uds import IsoTpLink, UdsDialect, UdsDiscovery, UdsTiming, nrc_name

MS, SECOND = 1_000_000, 1_000_000_000
ADDRESS = 0x0800_4000
IMAGE = bytes(range(256)) * 8
DIALECT = UdsDialect.plain(address=ADDRESS, check_routine=0x0202)
IMPATIENT = UdsTiming(discover_tries=5)


def foreign_key(seed, serial):
    """A rule from somebody's firmware."""
    assert serial == "FOREIGN-7"
    return bytes(byte ^ 0xA5 for byte in seed)


class ForeignEcu:
    """The habits are attributes; `script(request)` may answer instead (a list of answers, or None: as usual)."""

    restart_ns = 300 * MS
    p2_ns = 5 * MS
    block_length = 0x42
    boot_delay_ns = 0
    has_identifiers = True
    renews_by_any_request = True
    conforms_to_repeat = True
    s3_ns = 5 * SECOND

    def __init__(self, **habits):
        self.__dict__.update(habits)
        self.script = lambda request: None
        self.memory = b""
        self.version = b"1.0.0"
        self.requests = []
        self.resets = 0
        self.target = None

    # The bench drives `target`; here it is the same object.
    def power_on(self, addressing):
        address = addressing.address(1)
        self.link = IsoTpLink.of_node(address)
        self.session, self.unlocked, self.seed, self.download = 1, False, b"", None
        self.heard_ns = self.booted_ns = None
        self.answers = []
        self.free_ns = 0
        self.target = self

    def power_off(self):
        self.target = None

    def receive_frame(self, frame, now_ns):
        self.booted_ns = self.booted_ns or now_ns
        if not self.link.receive_frame(frame, now_ns):
            return
        while (message := self.link.next_message()) is not None:
            self.requests.append(message)
            self.take(message, now_ns)
        while self.link.next_error() is not None:
            pass

    def take(self, request, now_ns):
        renews = self.renews_by_any_request or request[0] in {0x10, 0x3E}
        if self.session != 1 and now_ns > self.heard_ns + self.s3_ns:
            self.session, self.unlocked = 1, False  # Silently: a download goes on, as there.
        if renews:
            self.heard_ns = now_ns
        answers = self.script(request)
        if answers is None:
            answers = [self.answer(request, now_ns)]
        self.free_ns = max(self.free_ns, now_ns)
        for answer in answers:
            if answer:
                self.free_ns += self.p2_ns
                self.answers.append((self.free_ns, answer))

    def answer(self, request, now_ns):
        service, rest = request[0], request[1:]
        if service == 0x10:
            self.session, self.unlocked = rest[0], False
            return bytes([0x50, rest[0], 0, 50, 1, 0xF4])
        if service == 0x3E:
            return b"" if rest[0] & 0x80 else b"\x7e\x00"
        if service == 0x22:
            values = {0xF189: self.version, 0xF18C: b"FOREIGN-7 ", 0xF191: b"HW3"}
            number = int.from_bytes(rest, "big")
            if not self.has_identifiers or number not in values:
                return b"\x7f\x22\x31"
            return b"\x62" + rest + values[number]
        if service == 0x27 and rest[0] == 1:
            if now_ns < self.booted_ns + self.boot_delay_ns:
                return b"\x7f\x27\x37"
            self.seed = b"\x11\x22\x33\x44"
            return b"\x67\x01" + (bytes(4) if self.unlocked else self.seed)
        if service == 0x27:
            self.unlocked = rest[1:] == foreign_key(self.seed, "FOREIGN-7")
            return b"\x67\x02" if self.unlocked else b"\x7f\x27\x35"
        if service == 0x11:
            self.resets += 1
            self.version = b"2.1.0"
            self.session, self.unlocked, self.download = 1, False, None
            return b"\x51" + rest[:1]
        if service == 0x36:
            return self.block(rest)
        if not self.unlocked and service != 0x37:
            return bytes([0x7F, service, 0x33])
        if service == 0x31:
            return b"\x71" + rest[:3]
        if service == 0x34:
            self.download, self.counter = b"", 0
            self.size = int.from_bytes(rest[6:10], "big")
            assert rest[:6] == b"\x00\x44" + ADDRESS.to_bytes(4, "big")
            return b"\x74\x20" + self.block_length.to_bytes(2, "big")
        if service == 0x37:
            if self.download is None or len(self.download) != self.size:
                return b"\x7f\x37\x24"
            self.memory, self.download = self.download, None
            return b"\x77"
        return bytes([0x7F, service, 0x11])

    def block(self, rest):
        if self.download is None:
            return b"\x7f\x36\x24"
        assert len(rest) + 1 <= self.block_length
        if rest[0] == self.counter and self.conforms_to_repeat:
            return b"\x76" + rest[:1]
        if rest[0] != (self.counter + 1) % 256:
            self.download = None
            return b"\x7f\x36\x24"
        self.counter = rest[0]
        self.download += rest[1:]
        return b"\x76" + rest[:1]

    def frames_to_send(self, now_ns):
        while self.answers and self.answers[0][0] <= now_ns:
            self.link.send(self.answers.pop(0)[1], now_ns)
        return self.link.frames_to_send(now_ns)

    def next_timeout(self):
        due = [self.link.next_timeout(), self.answers[0][0] if self.answers else None]
        return min((time for time in due if time is not None), default=None)

    def handle_timeout(self, now_ns):
        self.link.handle_timeout(now_ns)

    def next_event(self):
        return None


@pytest.fixture
def world(parts):
    class World:
        def __init__(self, **habits):
            self.ecu = ForeignEcu(**habits)
            self.ecu.events = []
            self.bench = parts.Bench(self.ecu)

        def flash(self, image=IMAGE, **options):
            options = {"access_key": foreign_key, "dialect": DIALECT, **options}
            return self.bench.flash(image, **options)

        def command(self, command, **options):
            options = {"access_key": foreign_key, "dialect": DIALECT, **options}
            return self.bench.command(1, command, **options)

    return World


def once(start, *answers):
    """Answer the first request that begins so with *answers* instead."""
    done = []

    def script(request):
        if not done and request.hex().startswith(start):
            done.append(request)
            return [bytes.fromhex(answer) for answer in answers]
        return None

    return script


def verified(events):
    assert isinstance(events[-1], ImageVerified), events[-1]
    return events


def failed(events, cause):
    assert isinstance(events[-1], TransferFailed), events[-1]
    assert events[-1].cause is cause
    return events[-1]


def order(ecu):
    """Requests by service and first parameters, blocks and TesterPresent left out."""
    return [request[:4].hex() for request in ecu.requests if request[0] not in {0x36, 0x3E, 0x22}]


def test_the_usual_order(world):
    made = world()
    events = verified(made.flash())
    assert made.ecu.memory == IMAGE
    assert order(made.ecu) == ["1003", "1002", "2701", "2702b487", "3101ff00", "34004408", "37", "31010202", "3101ff01"]
    erase = next(request for request in made.ecu.requests if request[:4] == b"\x31\x01\xff\x00")
    assert erase[4:] == b"\x44" + ADDRESS.to_bytes(4, "big") + len(IMAGE).to_bytes(4, "big")
    assert not any(isinstance(event, TransferInterrupted) for event in events)
    assert events[0].node.serial == "FOREIGN-7"
    assert events[0].node.version == ImageVersion(1, 0)


def test_what_a_node_does_not_want_is_left_out(world):
    made = world()
    made.ecu.unlocked = True
    made.ecu.answer_as_usual = made.ecu.answer

    def answer(request, now_ns):
        found = made.ecu.answer_as_usual(request, now_ns)
        made.ecu.unlocked = True
        return found

    made.ecu.answer = answer
    dialect = UdsDialect(
        has_profile=False,
        session_first=False,
        needs_access=False,
        erase_routine=None,
        check_routine=None,
        address=ADDRESS,
        extra_requests=(bytes.fromhex("3101F1000102"),),
    )
    verified(made.flash(dialect=dialect))
    assert order(made.ecu) == ["1002", "3101f100", "34004408", "37"]


def test_a_node_with_its_own_lengths(world):
    made = world()
    made.ecu.script = lambda request: (
        [b"\x74\x40\x00\x00\x00\x42"]
        if request[:1] == b"\x34"
        and made.ecu.answer(b"\x34\x00\x44" + ADDRESS.to_bytes(4, "big") + request[-3:].rjust(4, b"\0"), 0)
        else None
    )
    dialect = UdsDialect(has_profile=False, address=0x1234, address_bytes=2, size_field_bytes=3, check_routine=None)
    verified(made.flash(dialect=dialect))
    download = next(request for request in made.ecu.requests if request[0] == 0x34)
    assert download.hex() == "340032" + "1234" + f"{len(IMAGE):06x}"
    assert made.ecu.memory == IMAGE


def test_values_that_must_be_there_are_compared_before_anything_is_erased(world):
    made = world()
    dialect = UdsDialect.plain(address=ADDRESS, expected_values={0xF191: b"HW4"})
    event = failed(made.flash(dialect=dialect), FailureCause.WRONG_HARDWARE)
    assert event.detail == "identifier 0xF191: expected 485734, got 485733"
    assert order(made.ecu) == []
    verified(made.flash(dialect=UdsDialect.plain(address=ADDRESS, expected_values={0xF191: b"HW3"})))


def test_a_node_without_identifiers_is_flashed_all_the_same(world):
    made = world(has_identifiers=False)
    events = made.flash(access_key=lambda seed, serial: bytes(byte ^ 0xA5 for byte in seed))
    assert verified(events)[0].node.version == ImageVersion()


# ---- habits


def test_the_delay_behind_a_boot_is_waited_for(world):
    """0x37 in the first second: wait and ask again."""
    made = world(boot_delay_ns=SECOND)
    events = verified(made.flash())
    assert sum(request[:2] == b"\x27\x01" for request in made.ecu.requests) == 2
    assert not any(isinstance(event, TransferInterrupted) for event in events)


@pytest.mark.parametrize("functional", [True, False])
def test_a_session_that_only_tester_present_renews(world, functional):
    """The whole flash takes 12 s, the session 5: without TesterPresent the check routine would be refused with 0x33."""
    made = world(renews_by_any_request=False, p2_ns=200 * MS)
    made.ecu.functional = IsoTpLink(transmit_id=0x7E9, receive_id=0x7DF)
    hear = made.ecu.receive_frame

    def receive_frame(frame, now_ns):
        if made.ecu.functional.receive_frame(frame, now_ns):
            assert made.ecu.functional.next_message() == b"\x3e\x80"
            made.ecu.heard_ns = now_ns
        hear(frame, now_ns)

    made.ecu.receive_frame = receive_frame
    dialect = UdsDialect.plain(address=ADDRESS, check_routine=0x0202, functional_tester_present=functional)
    begin = made.bench.now_ns
    events = verified(made.flash(dialect=dialect))
    assert made.bench.now_ns - begin > 6 * SECOND
    assert not any(isinstance(event, TransferInterrupted) for event in events)
    own = sum(request == b"\x3e\x80" for request in made.ecu.requests)
    assert (own == 0) is functional
    assert functional or own >= 3


@pytest.mark.slow
def test_the_mended_session_when_tester_present_is_not_heard(world):
    """Functional frames do not reach it: the check routine is refused with 0x33, and everything is sent once more."""
    made = world(renews_by_any_request=False, p2_ns=200 * MS)
    dialect = UdsDialect.plain(address=ADDRESS, check_routine=0x0202, functional_tester_present=True)
    timing = UdsTiming(discover_timeout_ns=SECOND)
    event = failed(made.flash(dialect=dialect, timing=timing), FailureCause.REFUSED)
    assert event.detail == "RoutineControl: SECURITY_ACCESS_DENIED (0x33)"
    assert event.safe_to_run_again


def test_the_same_block_again_when_its_answer_is_lost(world):
    made = world()
    made.ecu.script = once("3605")
    lost = []
    made.bench.fault = lambda frame, _rng: (
        () if frame.data[:3] == b"\x02\x76\x07" and not lost and (lost.append(1) or True) else (0,)
    )
    events = verified(made.flash())
    assert made.ecu.memory == IMAGE
    assert sum(isinstance(event, BlockRepeated) for event in events) == 2
    assert not any(isinstance(event, TransferInterrupted) for event in events)
    blocks = [request for request in made.ecu.requests if request[0] == 0x36]
    assert blocks[4] == blocks[5]


def test_a_new_download_when_the_node_drops_it(world):
    """It takes the repetition for a wrong counter: 0x24, and the only way is RequestDownload."""
    made = world(conforms_to_repeat=False)
    lost = []
    made.bench.fault = lambda frame, _rng: (
        () if frame.data[:3] == b"\x02\x76\x07" and not lost and (lost.append(1) or True) else (0,)
    )
    events = verified(made.flash())
    assert made.ecu.memory == IMAGE
    assert [event.offset for event in events if isinstance(event, TransferStarted)] == [0, 0]
    assert [event.detail for event in events if isinstance(event, TransferInterrupted)] == [
        "TransferData: REQUEST_SEQUENCE_ERROR (0x24)"
    ]


def test_a_block_that_never_gets_through_is_tried_shorter_in_a_new_download(world):
    """Every block longer than 32 bytes is lost."""
    made = world()
    made.ecu.script = lambda request: [] if request[0] == 0x36 and len(request) > 34 else None
    events = verified(made.flash(timing=UdsTiming(block_bytes_min=16)))
    assert made.ecu.memory == IMAGE
    lengths = [len(request) - 2 for request in made.ecu.requests if request[0] == 0x36]
    assert lengths[0] == 64
    assert max(lengths[-30:]) == 32
    assert sum(isinstance(event, TransferInterrupted) for event in events) >= 1


@pytest.mark.parametrize(
    ("start", "answers"),
    [
        ("36", ["7f3624"]),
        ("36", ["7f3671"]),
        ("36", ["7f3672"]),
        ("36", ["7f3673"]),
        ("36", ["7f3610"]),
        ("34", ["7f3470"]),
        ("37", ["7f3724"]),
        ("37", ["7f3772"]),
        ("31010202", ["7f3133"]),
        ("3101ff00", ["7f317f"]),
        ("1002", ["7f107e"]),
    ],
)
def test_refusals_that_a_new_start_mends(world, start, answers):
    made = world()
    made.ecu.script = once(start, *answers)
    events = verified(made.flash())
    assert made.ecu.memory == IMAGE
    (interruption,) = [event for event in events if isinstance(event, TransferInterrupted)]
    assert interruption.detail.endswith(nrc_name(bytes.fromhex(answers[0])[2]))


@pytest.mark.parametrize(
    ("start", "answer", "detail"),
    [
        ("1002", "7f1012", "DiagnosticSessionControl: SUB_FUNCTION_NOT_SUPPORTED (0x12)"),
        ("1002", "7f1022", "DiagnosticSessionControl: CONDITIONS_NOT_CORRECT (0x22)"),
        ("2701", "7f2711", "SecurityAccess: SERVICE_NOT_SUPPORTED (0x11)"),
        ("3101ff00", "7f3131", "RoutineControl: REQUEST_OUT_OF_RANGE (0x31)"),
        ("34", "7f3431", "RequestDownload: REQUEST_OUT_OF_RANGE (0x31)"),
        ("34", "7f3413", "RequestDownload: WRONG_LENGTH_OR_FORMAT (0x13)"),
        ("36", "7f3692", "TransferData: NRC 0x92"),
        # In our own range this would be "wrong role"; what it means for others, only they know.
        ("3101ff00", "7f31f2", "RoutineControl: WRONG_ROLE (0xF2)"),
    ],
)
def test_refusals_that_nothing_mends(world, start, answer, detail):
    made = world()
    made.ecu.script = once(start, answer)
    event = failed(made.flash(), FailureCause.REFUSED)
    assert event.detail == detail


@pytest.mark.parametrize(
    ("service", "nrc", "name"),
    [
        (0x34, 0x70, "RequestDownload: UPLOAD_DOWNLOAD_NOT_ACCEPTED (0x70)"),
        (0x36, 0x72, "TransferData: GENERAL_PROGRAMMING_FAILURE (0x72)"),
        (0x37, 0x72, "RequestTransferExit: GENERAL_PROGRAMMING_FAILURE (0x72)"),
    ],
)
def test_a_refusal_that_comes_again_is_told_as_what_it_is(world, service, nrc, name):
    """Not "no progress", whose advice is to check the supply: the node has said what it does not do. It is asked twice."""
    made = world()
    made.ecu.script = lambda request: [bytes([0x7F, service, nrc])] if request[0] == service else None
    event = failed(made.flash(), FailureCause.REFUSED)
    assert event.detail == f"{name}, twice"
    assert sum(request[0] == service for request in made.ecu.requests) == 2


def test_such_a_refusal_once_is_an_accident(world):
    made = world()
    refused = iter(range(1))
    made.ecu.script = lambda request: (
        [b"\x7f\x36\x72"] if request[0] == 0x36 and next(refused, None) is not None else None
    )
    events = verified(made.flash())
    assert TransferInterrupted("TransferData: GENERAL_PROGRAMMING_FAILURE (0x72)") in events
    assert made.ecu.memory == IMAGE


def test_response_pending_is_waited_for_and_counted(world):
    made = world(p2_ns=100 * MS)
    made.ecu.script = once("3101ff00", *["7f3178"] * 30, "7101ff00")
    verified(made.flash())
    made = world(p2_ns=100 * MS)
    made.ecu.script = lambda request: [b"\x7f\x31\x78"] * 4 if request[0] == 0x31 else None
    event = failed(made.flash(timing=UdsTiming(pending_max=3)), FailureCause.NO_PROGRESS)
    assert event.detail == "RoutineControl: no answer in 5 tries"


def test_a_busy_node_is_asked_again(world):
    made = world()
    busy = iter(range(3))
    made.ecu.script = lambda request: [b"\x7f\x34\x21"] if request[0] == 0x34 and next(busy, None) is not None else None
    events = verified(made.flash())
    assert sum(request[0] == 0x34 for request in made.ecu.requests) == 4
    assert not any(isinstance(event, TransferInterrupted) for event in events)
    made = world()
    made.ecu.script = lambda request: [b"\x7f\x34\x21"] if request[0] == 0x34 else None
    event = failed(made.flash(timing=UdsTiming(busy_tries=2)), FailureCause.REFUSED)
    assert event.detail == "RequestDownload: BUSY_REPEAT_REQUEST (0x21)"


@pytest.mark.parametrize(
    "answer",
    ["", "76", "7604", "7f37", "7f3724", "7f36", "6e00", "f0", "7f", "740000", "7f7f7f", "00"],
)
def test_answers_to_something_else_are_not_taken_for_ours(world, answer):
    """Late answers, other services, cut ones: ignored, and the right one counts."""
    made = world()
    made.ecu.script = once("3605", answer)
    events = verified(made.flash())
    assert made.ecu.memory == IMAGE
    assert not any(isinstance(event, TransferInterrupted) for event in events)


@pytest.mark.parametrize("answer", ["7101ff00", "71020202", "7101"])
def test_the_answer_of_another_routine_is_not_taken_for_this_ones(world, answer):
    made = world()
    made.ecu.script = once("31010202", answer)
    events = verified(made.flash())
    assert made.ecu.requests.count(b"\x31\x01\x02\x02") == 2
    assert not any(isinstance(event, TransferInterrupted) for event in events)


def test_a_block_length_that_carries_nothing_is_no_answer(world):
    made = world()
    made.ecu.script = lambda request: [b"\x74\x20\x00\x02"] if request[0] == 0x34 else None
    event = failed(made.flash(), FailureCause.NO_PROGRESS)
    assert event.detail == "RequestDownload: no answer in 5 tries"


def test_an_older_server_says_nothing_of_its_times(world):
    made = world()
    made.ecu.script = lambda request: (
        (made.ecu.answer(request, made.bench.now_ns) and [bytes([0x50, request[1]])]) if request[0] == 0x10 else None
    )
    verified(made.flash())


def test_a_slow_server_tells_its_own_p2(world):
    """P2 of 3 s, told in the answer: nothing is asked twice."""
    made = world(p2_ns=1500 * MS, block_length=0x202)
    made.ecu.script = lambda request: (
        (made.ecu.answer(request, made.bench.now_ns) and [bytes([0x50, request[1], 0x0B, 0xB8, 1, 0xF4])])
        if request[0] == 0x10
        else None
    )
    events = verified(made.flash(timing=UdsTiming(p2_ns=2 * SECOND, discover_timeout_ns=2 * SECOND)))
    assert not any(isinstance(event, BlockRepeated) for event in events)


# ---- commands


def test_a_reset_and_the_version_read_back(world):
    made = world()
    event = made.command(NodeCommand.RESET, expected_version=ImageVersion(2, 1))
    assert isinstance(event, CommandSucceeded)
    assert made.ecu.resets == 1
    event = made.command(NodeCommand.RESET, expected_version=ImageVersion(3, 0))
    assert (event.cause, event.detail) == (FailureCause.WRONG_VERSION, "RESET: expected version 3.0.0, got 2.1.0")


def test_a_node_without_a_trial(world):
    """ACTIVATE_TEST has nothing to do, CONFIRM compares the version, REVERT is refused."""
    made = world()
    assert isinstance(made.command(NodeCommand.ACTIVATE_TEST), CommandSucceeded)
    assert isinstance(made.command(NodeCommand.CONFIRM, expected_version=ImageVersion(1, 0)), CommandSucceeded)
    event = made.command(NodeCommand.CONFIRM, expected_version=ImageVersion(2, 1))
    assert event.cause is FailureCause.WRONG_VERSION
    event = made.command(NodeCommand.REVERT)
    assert isinstance(event, CommandFailed)
    assert event.detail == "REVERT: a node without our profile has no image to go back to"
    assert all(request[0] in {0x3E, 0x22} for request in made.ecu.requests)


def test_it_is_discovered_as_far_as_it_tells(world):
    made = world()
    hear = made.ecu.receive_frame
    made.ecu.receive_frame = hear
    client = UdsDiscovery(made.bench.addressing, positions=[1], dialect=UdsDialect.plain(address=0))
    made.bench.run(client)
    assert client.nodes[1].serial == "FOREIGN-7"
    assert client.nodes[1].role is ImageRole.MASTER
    client = UdsDiscovery(made.bench.addressing, positions=[1])
    made.bench.run(client)
    assert client.nodes == {}, "it does not have our profile"


def test_our_own_dialect_says_that_the_node_is_another(world, parts):
    made = world()
    event = failed(made.bench.flash(parts.NEW(), timing=IMPATIENT), FailureCause.PROTOCOL_VERSION)
    assert event.detail == ("expected a node with UDS profile 1, got ReadDataByIdentifier: REQUEST_OUT_OF_RANGE (0x31)")


@pytest.mark.parametrize("values", [{"block_length_max": 2}, {"address_bytes": 6}, {"size_field_bytes": 0}])
def test_impossible_dialects_are_refused(values):
    with pytest.raises(ConfigurationError, match="UDS dialect: expected"):
        UdsDialect(**values)


def test_an_extra_request_must_be_one(world):
    made = world()
    with pytest.raises(LocalProtocolError, match="request: expected the number of a service first, got f0"):
        made.flash(dialect=UdsDialect(has_profile=False, extra_requests=(b"\xf0",)))
