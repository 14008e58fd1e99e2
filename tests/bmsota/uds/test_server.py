"""The server against a tester that sends raw requests: every service, every refusal, sessions, access, times."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import SlotState
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError
from bmsota.image import HardwareClass, ImageRole
from bmsota.node import (
    AccessDenied,
    AccessGranted,
    BlockStored,
    BootloaderEntered,
    BootloaderLeft,
    ImageConfirmed,
    ImageRefused,
    ImageReverted,
    ImageStaged,
    MessagesLost,
    NodeMode,
    RepliesDropped,
    ResetRequested,
    ResultCode,
    StagingStarted,
    TestRequested,
)
from bmsota.uds import (
    DIDS,
    SERVICES,
    Did,
    ImageOffer,
    IsoTpLink,
    Nrc,
    Routine,
    Session,
    UdsServerTiming,
    ed25519_access_check,
    signed_access_key,
)
from bmsota.uds._identifiers import BOOT_STATE_LAYOUT, NODE_KIND_LAYOUT, STAGING_LAYOUT

MS, SECOND = 1_000_000, 1_000_000_000


class RawTester:
    """Sends what the test says and collects what comes, without any knowledge of UDS."""

    def __init__(self, bench, position=1):
        self.bench = bench
        self.address = bench.addressing.address(position)
        self.link = IsoTpLink.of_tester(self.address)
        self.answers = []
        self.finished = False
        self.until = None

    def receive_frame(self, frame, now_ns):
        self.link.receive_frame(frame, now_ns)
        while (message := self.link.next_message()) is not None:
            self.answers.append((now_ns, message))
            # "Response pending" is not the end.
            self.finished = self.until is None and message[2:3] != b"\x78"

    def frames_to_send(self, now_ns):
        return self.link.frames_to_send(now_ns)

    def next_event(self):
        return None

    def next_timeout(self):
        due = [self.link.next_timeout(), self.until]
        return min((time for time in due if time is not None), default=None)

    def handle_timeout(self, now_ns):
        self.link.handle_timeout(now_ns)
        if self.until is not None and now_ns >= self.until:
            self.finished = True

    def all_answers(self, request, within_ns=None):
        """Every answer to *request*: until the final one, or all that come within a time."""
        self.answers, self.finished = [], False
        self.until = None if within_ns is None else self.bench.now_ns + within_ns
        self.sent_ns = self.bench.now_ns
        self.link.send(request, self.bench.now_ns)
        self.bench.run(self)
        return [message for _, message in self.answers]

    def ask(self, request):
        """The final answer as hex digits."""
        if isinstance(request, str):
            request = bytes.fromhex(request)
        return self.all_answers(request)[-1].hex()

    def ask_all_nodes(self, request):
        """Ask with the functional id; what comes within a second."""
        data = bytes.fromhex(request)
        self.bench.inject(CanFrame(self.address.functional_id, bytes([len(data)]) + data))
        self.answers, self.finished = [], False
        self.until = self.bench.now_ns + SECOND
        self.bench.run(self)
        return [message.hex() for _, message in self.answers]

    def pause(self, duration_ns):
        self.bench.run(limit_s=duration_ns / SECOND)

    def unlock(self, key):
        seed = bytes.fromhex(self.ask("2701"))[2:]
        return self.ask(b"\x27\x02" + key(seed, "SN0000000001"))

    def open(self, key, session="02"):
        assert self.ask("10" + session).startswith("50" + session)
        assert self.unlock(key) == "6702"


@pytest.fixture
def tester(bench):
    return RawTester(bench)


@pytest.fixture
def programmer(tester, parts):
    """A tester in the programming session, unlocked."""
    tester.open(parts.ACCESS_KEY)
    return tester


def offer(image, parts, **changes):
    import hashlib
    from dataclasses import replace

    from bmsota.image import parse_image

    facts = parse_image(image)
    made = ImageOffer(
        role=facts.role,
        size_bytes=len(image),
        sha256=hashlib.sha256(image).digest(),
        class_id=facts.hardware_class.class_id,
        version=facts.version,
        security_counter=facts.security_counter,
    )
    return replace(made, **changes).serialize()


def download(size, address=0):
    return b"\x34\x00\x44" + address.to_bytes(4, "big") + size.to_bytes(4, "big")


def send_image(tester, image, block=1000):
    """RequestDownload and all blocks, without the exit."""
    assert tester.ask(download(len(image))) == "74200fff"
    for index, start in enumerate(range(0, len(image), block)):
        counter = (index + 1) % 256
        answer = tester.ask(bytes([0x36, counter]) + image[start : start + block])
        assert answer == f"76{counter:02x}"


# ---- sessions


def test_a_session_says_how_long_the_node_may_think(tester):
    """P2 in ms, P2* in 10 ms (ISO 14229-1, table 29)."""
    assert tester.ask("1003") == "5003" + f"{50:04x}{500:04x}"
    assert tester.ask("1001") == "5001003201f4"


def test_the_programming_session_is_the_bootloader(tester, node):
    tester.ask("1002")
    assert (node.target.session, node.target.state) == (Session.PROGRAMMING, NodeMode.BOOTLOADER)
    tester.ask("1002")
    tester.ask("1003")
    assert node.target.state is NodeMode.APPLICATION
    assert node.events == [BootloaderEntered(), BootloaderLeft()]


def test_a_session_without_a_request_ends_after_s3(tester, node):
    tester.ask("1002")
    tester.pause(4900 * MS)
    assert node.target.session is Session.PROGRAMMING
    assert tester.all_answers(b"\x3e\x80", within_ns=10 * MS) == []
    tester.pause(4900 * MS)
    assert node.target.session is Session.PROGRAMMING
    tester.pause(200 * MS)
    assert node.target.session is Session.DEFAULT
    assert node.events == [BootloaderEntered(), BootloaderLeft()]


def test_tester_present_is_answered_unless_suppressed(tester):
    assert tester.ask("3e00") == "7e00"
    assert tester.all_answers(b"\x3e\x80", within_ns=100 * MS) == []


# ---- refusals in the order of ISO 14229-1 figure 5


@pytest.mark.parametrize(
    ("request_hex", "nrc"),
    [
        ("2e f190 00", Nrc.SERVICE_NOT_SUPPORTED),
        ("35 00 44 00000000 00000010", Nrc.SERVICE_NOT_SUPPORTED),
        ("b9", Nrc.SERVICE_NOT_SUPPORTED),
        ("11 01", Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION),
        ("27 01", Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION),
        ("28 03 01", Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION),
        ("31 01 ff00", Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION),
        ("34 00 44 00000000 00000010", Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION),
        ("36 01 00", Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION),
        ("37", Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION),
        ("85 02", Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION),
        ("10", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("10 03 00", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("3e", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("10 04", Nrc.SUB_FUNCTION_NOT_SUPPORTED),
        ("3e 01", Nrc.SUB_FUNCTION_NOT_SUPPORTED),
        ("22", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("22 f1", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("22" + "f186" * 17, Nrc.WRONG_LENGTH_OR_FORMAT),
        ("22 f190", Nrc.REQUEST_OUT_OF_RANGE),
    ],
)
def test_refusals_in_the_default_session(tester, request_hex, nrc):
    request = bytes.fromhex(request_hex)
    assert tester.ask(request) == bytes([0x7F, request[0], nrc]).hex()


@pytest.mark.parametrize(
    ("request_hex", "nrc"),
    [
        ("11 02", Nrc.SUB_FUNCTION_NOT_SUPPORTED),
        ("11 01 00", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("27 03", Nrc.SUB_FUNCTION_NOT_SUPPORTED),
        ("27 01 00", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("27 02 00", Nrc.REQUEST_SEQUENCE_ERROR),
        ("31 02 ff00", Nrc.SUB_FUNCTION_NOT_SUPPORTED),
        ("31 01 ff00", Nrc.SECURITY_ACCESS_DENIED),
        ("34 00 44 00000000 00000010", Nrc.SECURITY_ACCESS_DENIED),
        ("36 01 00", Nrc.SECURITY_ACCESS_DENIED),
        ("37", Nrc.SECURITY_ACCESS_DENIED),
    ],
)
def test_refusals_in_the_locked_programming_session(tester, request_hex, nrc):
    tester.ask("1002")
    request = bytes.fromhex(request_hex)
    assert tester.ask(request) == bytes([0x7F, request[0], nrc]).hex()


@pytest.mark.parametrize(
    ("request_hex", "nrc"),
    [
        ("31 01 ff", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("31 01 1234", Nrc.REQUEST_OUT_OF_RANGE),
        ("31 01 0202", Nrc.REQUEST_SEQUENCE_ERROR),
        ("31 01 ff01", Nrc.NOTHING_TO_DO),
        ("31 01 f012", Nrc.NOTHING_TO_DO),
        ("31 01 f011 02", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("31 01 ff00 01 0203", Nrc.BAD_OFFER),
        ("34", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("34 00 44 00000000 000010", Nrc.WRONG_LENGTH_OR_FORMAT),
        ("34 10 44 00000000 00000010", Nrc.REQUEST_OUT_OF_RANGE),
        ("34 00 04 00000000", Nrc.REQUEST_OUT_OF_RANGE),
        ("34 00 40 00000010", Nrc.REQUEST_OUT_OF_RANGE),
        ("34 00 44 00000000 00000000", Nrc.REQUEST_OUT_OF_RANGE),
        ("34 00 44 00000000 00100000", Nrc.REQUEST_OUT_OF_RANGE),
        ("36 01 00", Nrc.REQUEST_SEQUENCE_ERROR),
        ("37", Nrc.REQUEST_SEQUENCE_ERROR),
    ],
)
def test_refusals_in_the_unlocked_programming_session(programmer, request_hex, nrc):
    request = bytes.fromhex(request_hex)
    assert programmer.ask(request) == bytes([0x7F, request[0], nrc]).hex()


def test_a_download_is_not_begun_in_the_extended_session(tester, parts):
    tester.open(parts.ACCESS_KEY, "03")
    assert tester.ask("3101ff00") == "7f3122"
    assert tester.ask(download(100)) == "7f347f"


def test_what_is_asked_of_all_nodes_is_refused_silently(tester, node):
    assert tester.ask_all_nodes("3e00") == ["7e00"]
    assert tester.ask_all_nodes("22f186") == ["62f18601"]
    assert tester.ask_all_nodes("22f190") == []
    assert tester.ask_all_nodes("1004") == []
    assert tester.ask_all_nodes("2701") == []
    assert tester.ask_all_nodes("b900") == []
    assert tester.ask_all_nodes("10") == ["7f1013"]
    assert tester.ask_all_nodes("1083") == []
    assert node.target.session is Session.EXTENDED


def test_a_long_message_to_all_nodes_is_ignored(tester, bench):
    for data in ("100922f186f18cf1", "2191f192"):
        bench.inject(CanFrame(0x7DF, bytes.fromhex(data)))
    bench.run(limit_s=1)
    assert {frame.can_id for frame in bench.frames} == {0x7DF}


def test_a_message_of_no_bytes_is_ignored(tester, bench):
    """A first frame may announce 0 bytes; can-isotp takes it."""
    for data in ("1000000000000102", "2101020304050607"):
        bench.inject(CanFrame(tester.address.request_id, bytes.fromhex(data)))
    bench.run(limit_s=1)
    assert all(frame.data[0] == 0x30 for frame in bench.frames if frame.can_id == tester.address.response_id)
    assert tester.ask("3e00") == "7e00"


# ---- identifiers


def test_every_identifier_has_the_size_the_table_says(tester):
    for did, row in DIDS.items():
        answer = bytes.fromhex(tester.ask(f"22{did:04x}"))
        assert answer[:3] == b"\x62" + did.to_bytes(2, "big")
        assert len(answer) - 3 == row.size_bytes, did.name


def test_identifiers_say_who_the_node_is(tester, node, parts):
    values = {did: bytes.fromhex(tester.ask(f"22{did:04x}"))[3:] for did in DIDS}
    assert values[Did.SERIAL_NUMBER].rstrip(b"\0") == b"SN0000000001"
    assert values[Did.HARDWARE_ID].rstrip(b"\0") == b"HW-0001"
    assert values[Did.HARDWARE_CLASS] == parts.SLAVE_CLASS.class_id.bytes
    assert values[Did.SOFTWARE_VERSION].rstrip(b"\0") == b"2.0.0"
    assert int.from_bytes(values[Did.SECURITY_COUNTER], "big") == 1
    kind = NODE_KIND_LAYOUT.parse(values[Did.NODE_KIND])
    assert (kind.role, kind.profile_version, kind.block_length_max) == (ImageRole.SLAVE, 1, 0xFFF)
    boot = BOOT_STATE_LAYOUT.parse(values[Did.BOOT_STATE])
    assert (boot.node_state, boot.boot_reason) == (NodeMode.APPLICATION, node.boot.reason)
    assert (boot.slot_a_state, boot.slot_b_state) == (SlotState.CONFIRMED, SlotState.EMPTY)
    assert (boot.active_slot, boot.running_slot) == (0, 0)
    assert STAGING_LAYOUT.parse(values[Did.STAGING]).state == SlotState.EMPTY


def test_several_identifiers_in_one_request_and_unknown_ones_left_out(tester):
    assert tester.ask("22f186f190fd01") == "62" + "f18601" + "fd0100000001"


def test_a_node_without_an_image_says_so(parts):
    node = parts.Node(factory=None)
    tester = RawTester(parts.Bench(node))
    assert node.target.state is NodeMode.BOOTLOADER
    assert bytes.fromhex(tester.ask("22f189"))[3:] == bytes(24)
    boot = BOOT_STATE_LAYOUT.parse(bytes.fromhex(tester.ask("22fd02"))[3:])
    assert (boot.active_slot, boot.running_slot) == (0xFF, 0xFF)


def test_the_boot_id_changes_with_every_boot(tester, bench, node):
    before = tester.ask("22fd03")
    assert tester.ask("22fd03") == before
    bench.cut_power(node)
    tester.pause(SECOND)
    assert tester.ask("22fd03") != before


# ---- access


def test_access_is_a_signature_over_the_seed_and_the_serial_number(tester, parts):
    tester.ask("1002")
    seed = bytes.fromhex(tester.ask("2701"))[2:]
    assert len(seed) == 32
    assert tester.ask("2701")[4:] == seed.hex(), "the same until it is answered"
    assert tester.ask(b"\x27\x02" + parts.ACCESS_KEY(seed, "SN0000000001")) == "6702"
    assert tester.ask("2701") == "6701" + "00" * 32
    assert tester.ask("3101ff00").startswith("71")
    tester.ask("1002")
    assert tester.ask("3101ff00") == "7f3133", "every change of the session locks again"
    assert tester.ask("2701")[4:] != seed.hex()


def test_a_key_for_another_node_or_seed_or_by_another_signer_is_none(tester, parts):
    tester.ask("1002")
    other = signed_access_key(Ed25519PrivateKey.from_private_bytes(b"\x0a" * 32).sign)
    seed = bytes.fromhex(tester.ask("2701"))[2:]
    assert tester.ask(b"\x27\x02" + parts.ACCESS_KEY(seed, "SN0000000002")) == "7f2735"
    assert tester.ask(b"\x27\x02" + parts.ACCESS_KEY(seed, "SN0000000001")) == "7f2724", "a seed is used once"
    second = bytes.fromhex(tester.ask("2701"))[2:]
    assert second != seed
    assert tester.ask(b"\x27\x02" + parts.ACCESS_KEY(seed, "SN0000000001")) == "7f2735"
    third = bytes.fromhex(tester.ask("2701"))[2:]
    assert tester.ask(b"\x27\x02" + other(third, "SN0000000001")) == "7f2736"


def test_wrong_keys_cost_a_pause(tester, node, parts):
    """Three of them, and no seed is given for 10 s (NRC 0x36, then 0x37)."""
    tester.ask("1003")
    for nrc in ("35", "35", "36"):
        tester.ask("2701")
        assert tester.ask("27020000") == "7f27" + nrc
    assert node.events == [AccessDenied()] * 3
    for _ in range(9):
        assert tester.ask("2701") == "7f2737"
        tester.pause(SECOND)
    tester.pause(1100 * MS)
    tester.ask("1003")
    assert tester.unlock(parts.ACCESS_KEY) == "6702"


def test_a_key_must_not_be_empty(tester):
    tester.ask("1003")
    tester.ask("2701")
    assert tester.ask("2702") == "7f2713"


def test_a_restart_may_cost_a_pause_too(parts):
    node = parts.Node(factory=parts.OLD(), timing=UdsServerTiming(access_boot_delay_ns=SECOND))
    tester = RawTester(parts.Bench(node))
    tester.ask("1003")
    assert tester.ask("2701") == "7f2737"
    tester.pause(SECOND)
    assert tester.unlock(parts.ACCESS_KEY) == "6702"


def test_a_node_without_access_control_gives_a_seed_of_zeros(parts):
    tester = RawTester(parts.Bench(parts.Node(factory=parts.OLD(), access=None)))
    tester.ask("1002")
    assert tester.ask("2701") == "6701" + "00" * 32
    assert tester.ask("3101ff00") == "7101ff0000000000"


def test_any_of_several_keys_opens():
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2)]
    check = ed25519_access_check([key.public_key() for key in keys])
    for key in keys:
        assert check(b"seed", "SN", signed_access_key(key.sign)(b"seed", "SN"))
    assert not check(b"seed", "SN", bytes(64))
    assert not check(b"seed", "SN", b"")


# ---- a whole flash by a tester that knows only ISO 14229-1


def test_a_plain_tester_flashes_the_node(programmer, node, parts, bench):
    """Erase with address and size, download at the tester's own address, exit, dependencies, reset; then confirm."""
    image = parts.NEW()
    assert programmer.ask("3101ff0044" + "08010000" + f"{len(image):08x}") == "7101ff0000000000"
    assert programmer.ask(download(len(image), 0x0801_0000)) == "74200fff"
    for index, start in enumerate(range(0, len(image), 1001)):
        assert programmer.ask(bytes([0x36, index + 1]) + image[start : start + 1001]) == f"76{index + 1:02x}"
    assert programmer.ask("37") == "77"
    assert programmer.ask("31010202") == "7101020200"
    assert programmer.ask("3101ff01") == "7101ff0100"
    assert programmer.ask("1101") == "5101"
    assert node.target.state is NodeMode.RESTARTING
    programmer.pause(SECOND)
    assert node.running_version == "2.1.0"
    assert node.store.read_slot(1) == image
    programmer.open(parts.ACCESS_KEY, "03")
    assert programmer.ask("3101f011") == "7101f011"
    bench.cut_power(node)
    programmer.pause(SECOND)
    assert (node.running_version, node.store.security_counter) == ("2.1.0", 2)
    kinds = [type(event) for event in node.events]
    assert kinds == [
        BootloaderEntered,
        AccessGranted,
        StagingStarted,
        *[BlockStored] * 4,
        ImageStaged,
        TestRequested,
        ResetRequested,
        AccessGranted,
        ImageConfirmed,
    ]


def test_preparations_of_other_testers_are_answered(tester):
    tester.ask("1003")
    assert tester.ask("8502") == "c502"
    assert tester.ask("280301") == "6803"


def test_an_image_for_other_hardware_is_refused_at_the_exit_when_no_offer_was_made(programmer, node, parts):
    image = parts.make_image("2.1.0", counter=2, hardware=HardwareClass.named("bmsota.example", "another"))
    send_image(programmer, image)
    assert programmer.ask("37") == "7f37f3"
    assert node.events[-1].code is ResultCode.WRONG_HARDWARE
    assert programmer.ask("3101ff01") == "7f31fb"


@pytest.mark.parametrize(
    ("change", "nrc"),
    [
        ("payload", Nrc.DAMAGED),
        ("key", Nrc.NOT_TRUSTED),
        ("header", Nrc.BAD_IMAGE),
        ("counter", Nrc.COUNTER_TOO_LOW),
        ("role", Nrc.WRONG_HARDWARE),
    ],
)
def test_wrong_images_are_refused_at_the_exit(programmer, node, parts, change, nrc):
    if change == "counter":
        image = parts.make_image("1.9.0", counter=0)
    elif change == "key":
        image = parts.make_image("2.1.0", counter=2, key=Ed25519PrivateKey.from_private_bytes(b"\x0b" * 32))
    elif change == "role":
        image = parts.make_image("2.1.0", counter=2, role=ImageRole.MASTER)
    else:
        data = bytearray(parts.NEW())
        data[{"payload": 500, "header": 0}[change]] ^= 1
        image = bytes(data)
    send_image(programmer, image)
    assert programmer.ask("37") == bytes([0x7F, 0x37, nrc]).hex()
    assert isinstance(node.events[-1], ImageRefused)
    assert node.store.slots[1].state is SlotState.BAD


def test_an_offer_that_does_not_fit_is_refused_before_anything_is_erased(programmer, node, parts):
    operations = node.flash.operations
    other = HardwareClass.named("bmsota.example", "another").class_id
    cases = [
        ({"role": 0}, Nrc.WRONG_ROLE),
        ({"class_id": other}, Nrc.WRONG_HARDWARE),
        ({"size_bytes": 1_000_000}, Nrc.TOO_LARGE),
        ({"size_bytes": 0}, Nrc.TOO_LARGE),
        ({"security_counter": 0}, Nrc.COUNTER_TOO_LOW),
    ]
    for change, nrc in cases:
        request = b"\x31\x01\xff\x00" + offer(parts.NEW(), parts, **change)
        assert programmer.ask(request) == bytes([0x7F, 0x31, nrc]).hex()
        assert node.events[-1].code == nrc - 0xF0
    assert node.flash.operations == operations


def test_an_image_on_trial_keeps_its_fallback(programmer, node, parts, bench):
    send_image(programmer, parts.NEW())
    programmer.ask("37")
    programmer.ask("3101ff01")
    programmer.ask("1101")
    programmer.pause(SECOND)
    programmer.open(parts.ACCESS_KEY)
    newest = parts.make_image("2.2.0", counter=3)
    assert programmer.ask(b"\x31\x01\xff\x00" + offer(newest, parts)) == "7f31f6"
    assert programmer.ask("3101ff00") == "7f3122"
    assert programmer.ask(download(len(newest))) == "7f3422"
    assert programmer.ask("3101f012") == "7101f012"
    assert node.events[-1] == ImageReverted()
    bench.cut_power(node)
    programmer.pause(SECOND)
    assert node.running_version == "2.0.0"


def test_the_check_routine_does_not_touch_the_fallback(programmer, node, parts, bench):
    """The spare slot holds the image before; "verify what was received" must not turn it into something staged."""
    send_image(programmer, parts.NEW())
    programmer.ask("37")
    programmer.ask("3101ff01")
    programmer.ask("1101")
    programmer.pause(SECOND)
    programmer.open(parts.ACCESS_KEY)
    programmer.ask("3101f01100")
    assert programmer.ask("31010202") == "7f3124"
    assert [slot.state for slot in node.store.slots] == [SlotState.CONFIRMED] * 2


def test_a_node_whose_store_somebody_else_uses_changes_nothing(parts):
    """A master's own updater is at work: questions are answered, everything else is NRC 0x22."""
    is_locked = [False]
    node = parts.Node(factory=parts.OLD(), is_locked=lambda: is_locked[0])
    tester = RawTester(parts.Bench(node))
    tester.open(parts.ACCESS_KEY, "03")
    is_locked[0] = True
    for request in ("1002", "1101", "3101ff01", "3101f011"):
        assert tester.ask(request) == f"7f{request[:2]}22"
    assert tester.ask("22f186") == "62f18603"
    assert tester.ask("280201") == "6802"
    assert tester.ask("3e00") == "7e00"
    assert tester.ask("1001").startswith("5001")
    is_locked[0] = False
    tester.open(parts.ACCESS_KEY)


# ---- the download


def test_blocks_are_counted_and_the_counter_wraps(programmer, node, parts):
    """From 1; 0 follows 255 (ISO 14229-1, 14.5.2.2)."""
    image = parts.NEW()
    assert programmer.ask(download(len(image))) == "74200fff"
    counters = []
    for index, start in enumerate(range(0, len(image), 11)):
        counter = (index + 1) % 256
        counters.append(counter)
        assert programmer.ask(bytes([0x36, counter]) + image[start : start + 11]) == f"76{counter:02x}"
    assert counters[254:258] == [255, 0, 1, 2]
    assert programmer.ask("37") == "77"
    assert node.store.read_slot(1) == image


def test_a_block_whose_answer_was_lost_is_answered_again_and_not_written_again(programmer, node, parts):
    image = parts.NEW()
    programmer.ask(download(len(image)))
    block = b"\x36\x01" + image[:800]
    assert programmer.ask(block) == "7601"
    operations = node.flash.operations
    assert programmer.ask(block) == "7601"
    assert node.flash.operations == operations
    assert programmer.ask("3603" + "00" * 8) == "7f3673"
    assert programmer.ask("3600" + "00" * 8) == "7f3673"
    assert programmer.ask(b"\x36\x02" + image[800:]) == "7602"
    assert programmer.ask("37") == "77"


def test_the_first_block_is_number_one(programmer):
    programmer.ask(download(100))
    for counter in (0, 2, 255):
        assert programmer.ask(f"36{counter:02x}00") == "7f3673"
    assert programmer.ask("36") == "7f3613"
    assert programmer.ask("3601") == "7f3613"
    assert programmer.ask("360100") == "7601"


def test_more_than_was_announced_is_refused(programmer):
    programmer.ask(download(10))
    assert programmer.ask("3601" + "00" * 11) == "7f3631"
    assert programmer.ask("3601" + "00" * 10) == "7601"
    assert programmer.ask("3602" + "00") == "7f3631"


def test_the_exit_needs_every_byte_and_no_parameters(programmer, parts):
    image = parts.NEW()
    programmer.ask(download(len(image)))
    assert programmer.ask("37") == "7f3724"
    programmer.ask(b"\x36\x01" + image)
    assert programmer.ask("3700") == "7f3713"
    assert programmer.ask("37") == "77"
    assert programmer.ask("37") == "77", "its answer may have been lost"
    programmer.ask("3e00")
    assert programmer.ask("37") == "77"
    programmer.ask("22f186")
    assert programmer.ask("37") == "7f3724"


def test_a_block_longer_than_announced_is_refused(parts):
    node = parts.Node(factory=parts.OLD(), block_length_max=20)
    tester = RawTester(parts.Bench(node))
    tester.open(parts.ACCESS_KEY)
    assert tester.ask(download(100)) == "74200014"
    assert tester.ask("3601" + "00" * 19) == "7f3613"
    assert tester.ask("3601" + "00" * 18) == "7601"


def test_a_store_that_somebody_else_takes_over_ends_the_download(programmer, node, parts):
    """A master's own updater uses the same store."""
    programmer.ask(download(100))
    node.store.begin_staging(len(parts.NEW()), b"\x01" * 32)
    node.store.write_staged(0, bytes(parts.NEW())[: len(parts.NEW())])
    assert programmer.ask("3601" + "00" * 96) == "7f3672"
    assert programmer.ask("3602" + "00") == "7f3624"


def test_an_offered_download_begins_where_the_node_says(programmer, node, parts):
    image = parts.NEW()
    request = b"\x31\x01\xff\x00" + offer(image, parts)
    assert programmer.ask(request) == "7101ff0000000000"
    assert programmer.ask(download(len(image), 8)) == "7f3431"
    assert programmer.ask(download(len(image) - 8)) == "7f3431"
    assert programmer.ask("31010202") == "7f3124"
    send_image(programmer, image[:2000] + image[2000:])
    assert programmer.ask("37") == "77"
    assert programmer.ask("1002").startswith("5002")
    assert programmer.unlock(parts.ACCESS_KEY) == "6702"
    assert programmer.ask(request) == f"7101ff00{len(image):08x}"
    assert programmer.ask(download(0, len(image))) == "7f3431"
    assert programmer.ask("31010202") == "7101020200"


def test_how_far_a_download_got_can_be_read_and_survives_the_session(programmer, node, parts):
    image = parts.NEW()
    request = b"\x31\x01\xff\x00" + offer(image, parts)
    programmer.ask(request)
    programmer.ask(download(len(image)))
    programmer.ask(b"\x36\x01" + image[:1001])
    staging = STAGING_LAYOUT.parse(bytes.fromhex(programmer.ask("22fd04"))[3:])
    assert (staging.state, staging.size_bytes, staging.received_bytes) == (SlotState.STAGING, len(image), 1001)
    programmer.pause(6 * SECOND)
    staging = STAGING_LAYOUT.parse(bytes.fromhex(programmer.ask("22fd04"))[3:])
    assert staging.received_bytes == 1000, "what was no whole write unit is gone"
    programmer.open(parts.ACCESS_KEY)
    assert programmer.ask(request) == f"7101ff00{1000:08x}"
    assert programmer.ask(download(len(image) - 1000, 1000)) == "74200fff"
    programmer.ask(b"\x36\x01" + image[1000:])
    assert programmer.ask("37") == "77"


# ---- times


def test_what_takes_longer_than_p2_is_announced(programmer, node, parts):
    """Verification takes 150 ms: NRC 0x78 before P2 ends, then the answer."""
    send_image(programmer, parts.NEW())
    assert [answer.hex() for answer in programmer.all_answers(b"\x37")] == ["7f3778", "77"]
    (pending_ns, _), (answer_ns, _) = programmer.answers
    assert pending_ns - programmer.sent_ns < 50 * MS
    assert answer_ns - programmer.sent_ns > 150 * MS


def test_it_is_announced_again_before_each_p2_star_ends(parts):
    timing = UdsServerTiming(verify_ns=1000 * MS, p2_star_ns=300 * MS)
    tester = RawTester(parts.Bench(parts.Node(factory=parts.OLD(), timing=timing)))
    tester.open(parts.ACCESS_KEY)
    send_image(tester, parts.NEW())
    answers = tester.all_answers(b"\x37")
    assert answers[-1] == b"\x77"
    assert set(answers[:-1]) == {b"\x7f\x37\x78"}
    times = [at for at, _ in tester.answers]
    assert all(later - earlier < 300 * MS for earlier, later in itertools.pairwise(times))


def test_while_one_request_is_done_others_are_asked_to_come_again(programmer, parts, bench):
    """Verification takes 150 ms; meanwhile another request, the same again, and TesterPresent."""
    send_image(programmer, parts.NEW())
    for data in ("0137", "0322f186", "0137", "023e00"):
        bench.inject(CanFrame(programmer.address.request_id, bytes.fromhex(data)))
    programmer.answers, programmer.finished = [], False
    programmer.until = bench.now_ns + SECOND
    bench.run(programmer)
    answers = [message.hex() for _, message in programmer.answers]
    assert answers == ["7f2221", "7f3778", "7f3778", "77"]


def test_a_flood_of_requests_queues_no_more_answers_than_a_node_holds(bench, node, tester):
    """A tester that asks a thousand times and never listens: some answers wait for the bus, the rest is counted and dropped."""
    address = bench.addressing.address(1)
    server = node.target
    now_ns = bench.now_ns
    # The answer to this one is long and waits for a flow control that never comes; those to the others queue behind it.
    server.receive_frame(CanFrame(address.request_id, bytes.fromhex("0722f18cf191f192")), now_ns)
    server.frames_to_send(now_ns)
    for _ in range(1000):
        server.receive_frame(CanFrame(address.request_id, bytes.fromhex("023e00")), now_ns)
    dropped = [event.count for event in iter(server.next_event, None) if isinstance(event, RepliesDropped)]
    assert sum(dropped) >= 900
    assert server._link.messages_waiting <= 16
    tester.pause(2 * SECOND)
    assert tester.ask("3e00") == "7e00"  # It is well afterwards.


def test_busy_answers_are_bounded_too(programmer, node, bench):
    """While a request is done, every other one is told to come again; nobody fetches what it is told."""
    server, address = node.target, programmer.address
    now_ns = bench.now_ns
    server._extra_busy_ns = SECOND
    server.receive_frame(CanFrame(address.request_id, bytes.fromhex("0322f189")), now_ns)
    for _ in range(1000):
        server.receive_frame(CanFrame(address.request_id, bytes.fromhex("0322f18c")), now_ns)
    assert len(server.frames_to_send(now_ns)) == 16
    dropped = [event.count for event in iter(server.next_event, None) if isinstance(event, RepliesDropped)]
    assert sum(dropped) == 1000 - 16


def test_a_suppressed_answer_is_given_after_all_when_it_was_announced(parts):
    """Whoever got "response pending" must get the end too (ISO 14229-1, 7.5.2)."""
    node = parts.Node(factory=parts.OLD(), timing=UdsServerTiming(p2_ns=20 * MS, pending_margin_ns=20 * MS))
    tester = RawTester(parts.Bench(node))
    tester.open(parts.ACCESS_KEY)
    image = parts.NEW()
    assert tester.all_answers(b"\x31\x81\xff\x00" + offer(image, parts), within_ns=SECOND) == [
        b"\x7f\x31\x78",
        b"\x71\x01\xff\x00" + bytes(4),
    ]


def test_programming_overlaps_the_next_block(parts):
    """A block is answered when the flash has finished the one before; only the exit waits for all."""
    node = parts.Node(factory=parts.OLD())
    tester = RawTester(parts.Bench(node))
    tester.open(parts.ACCESS_KEY)
    image = parts.NEW()
    tester.ask(download(len(image)))
    times = []
    for index in range(3):
        tester.ask(bytes([0x36, index + 1]) + image[index * 1024 : index * 1024 + 1024])
        times.append(tester.answers[-1][0] - tester.sent_ns)
    # 147 frames of the block, its flow control and the answer; erase and program take 33 ms more.
    assert all(time < 147 * parts.FRAME_NS + 5 * MS for time in times)


def test_an_answer_whose_flow_control_was_lost_does_not_hold_up_the_next(tester, bench):
    """Otherwise every question within N_Bs would be answered late, and all of them one after another."""
    bench.fault = lambda frame, _rng: () if frame.data[0] == 0x30 else (0,)
    assert tester.all_answers(b"\x22\xf1\x8c", within_ns=100 * MS) == []
    bench.fault = None
    begin_ns = bench.now_ns
    assert tester.all_answers(b"\x3e\x80", within_ns=10 * MS) == []
    assert tester.ask("22f191").startswith("62f191")
    assert bench.now_ns - begin_ns < 50 * MS
    assert tester.all_answers(b"\x3e\x00", within_ns=2 * SECOND) == [b"\x7e\x00"]


def test_a_block_waits_for_the_flash_of_the_one_before(parts):
    """Small blocks come faster than 22 ms, which the erasure before the first one takes."""
    tester = RawTester(parts.Bench(parts.Node(factory=parts.OLD())))
    tester.open(parts.ACCESS_KEY)
    tester.ask(download(1000))
    times = []
    for counter in (1, 2, 3):
        tester.ask(f"36{counter:02x}" + "00" * 16)
        times.append(tester.answers[-1][0] - tester.sent_ns)
    assert times[0] < 5 * MS
    assert times[1] > 15 * MS
    assert times[2] < 5 * MS


def test_a_restart_ends_the_session_so_a_late_reset_does_nothing(tester, node):
    tester.ask("1003")
    assert tester.ask("1101") == "5101"
    assert tester.all_answers(b"\x11\x01", within_ns=10 * MS) == [], "it is on its way down"
    tester.pause(SECOND)
    assert len(node.boots) == 2
    assert tester.ask("1101") == "7f117f"
    tester.pause(SECOND)
    assert len(node.boots) == 2


def test_a_routine_whose_answer_was_lost_is_answered_again_and_not_done_again(programmer, node, parts):
    send_image(programmer, parts.NEW())
    programmer.ask("37")
    programmer.ask("3101ff01")
    assert programmer.ask("3101f012") == "7101f012"
    assert programmer.ask("3101f012") == "7101f012"
    assert node.events.count(ImageReverted()) == 1
    assert programmer.ask("22f186") == "62f18602"
    assert programmer.ask("3101f012") == "7f31fb"


def test_going_back_below_the_counter_is_refused(programmer, node, parts):
    send_image(programmer, parts.NEW())
    programmer.ask("37")
    programmer.ask("3101ff01")
    programmer.ask("1101")
    programmer.pause(SECOND)
    programmer.open(parts.ACCESS_KEY, "03")
    assert programmer.ask("3101f01101") == "7101f011"
    assert programmer.ask("3101f012") == "7f31f5"


def test_every_service_and_routine_of_the_tables_has_its_handler(bench, node):
    assert set(SERVICES) == set(node.target._handlers)
    assert set(Routine) == set(node.target._routines)
    assert set(Did) == set(node.target._identifiers) == set(DIDS)


@pytest.mark.parametrize("length", [2, 0x1000])
def test_an_impossible_block_length_is_refused(parts, length):
    with pytest.raises(ConfigurationError, match=f"block length: expected 3 to 4095 bytes, got {length}"):
        parts.Bench(parts.Node(factory=parts.OLD(), block_length_max=length))


def test_what_the_link_does_not_receive_whole_is_counted(tester, bench, node):
    """Consecutive frames of no message, a message broken off by another, and long requests to all nodes."""
    for _ in range(300):
        bench.inject(CanFrame(tester.address.request_id, bytes([0x21, *range(7)])))
    bench.inject(CanFrame(tester.address.request_id, bytes([0x10, 20, *range(6)])))
    bench.inject(CanFrame(tester.address.functional_id, bytes([0x10, 20, *range(6)])))
    assert tester.ask("3e00") == "7e00"
    assert sum(event.count for event in node.events if isinstance(event, MessagesLost)) == 302


def test_a_flood_that_nobody_takes_is_one_event(bench, node):
    for _ in range(300):
        node.target.receive_frame(
            CanFrame(bench.addressing.address(1).request_id, bytes([0x21, *range(7)])), bench.now_ns
        )
    assert node.target.next_event() == MessagesLost(300)
    assert node.target.next_event() is None


@pytest.mark.slow
def test_garbage_is_answered_or_ignored_and_never_an_exception(tester, bench, node):
    """Every first byte with lengths 1 to 6, in every session; the server still answers afterwards."""
    for session in ("01", "03", "02"):
        for service in range(256):
            for tail in (b"", b"\x01", b"\xff\xff", b"\x01\xff\x00\x01", b"\x00" * 5):
                request = bytes([service]) + tail
                if request[:2] == b"\x11\x01":
                    continue  # That one restarts.
                tester.all_answers(request, within_ns=3 * MS)
            tester.all_answers(
                bytes.fromhex("1081") if session == "01" else bytes.fromhex("10") + bytes([0x80 | int(session)]),
                within_ns=3 * MS,
            )
    assert tester.ask("3e00") == "7e00"
