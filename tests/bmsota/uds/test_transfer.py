"""The tester's transfer against the real server: the whole way, every kind of loss, restarts, refusals, resume."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bmsota.boot import SlotState
from bmsota.canframe import CanFrame
from bmsota.errors import ImageError
from bmsota.image import ImageRole, ImageVersion
from bmsota.node import (
    FAILURES,
    BlockAccepted,
    BlockRepeated,
    Capability,
    ExpectedNode,
    FailureCause,
    ImageVerified,
    NodeMode,
    TargetConnected,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)
from bmsota.uds import UDS_29BIT, Did, IsoTpParameters, Routine, UdsDialect, UdsServerTiming, UdsTiming

MS, SECOND = 1_000_000, 1_000_000_000


def kinds(events):
    return [type(event) for event in events]


def requests(bench):
    """First bytes of the tester's messages (single and first frames), TesterPresent left out."""
    found = []
    for frame in bench.sent:
        kind = frame.data[0] >> 4
        if kind < 2:
            data = frame.data[1:] if kind == 0 else frame.data[2:]
            if data[:1] != b"\x3e":
                found.append(data)
    return found


def image_bytes_sent(bench):
    """How many image bytes went over the bus in TransferData requests."""
    total = 0
    for frame in bench.sent:
        kind = frame.data[0] >> 4
        if kind == 1 and frame.data[2] == 0x36:
            total += (frame.data[0] & 15) << 8 | frame.data[1]
            total -= 2
        elif kind == 0 and frame.data[1] == 0x36:
            total += frame.data[0] - 2
    return total


def is_frame(frame, can_id, start):
    return frame.can_id == can_id and frame.data.startswith(bytes.fromhex(start))


def lose(bench, matches, times=1):
    """Lose the first *times* frames that *matches*."""
    lost = []

    def fault(frame, _rng):
        if len(lost) < times and matches(frame):
            lost.append(frame)
            return ()
        return (0,)

    bench.fault = fault
    return lost


def blocks_accepted(bench):
    return kinds(bench.events).count(BlockAccepted)


def verified(events):
    assert isinstance(events[-1], ImageVerified), events[-1]
    return events


def test_a_whole_transfer(bench, node, parts):
    events = bench.flash(parts.NEW())
    assert kinds(events) == [TargetConnected, TransferStarted, BlockAccepted, ImageVerified]
    assert events[1] == TransferStarted(0, len(parts.NEW()))
    assert events[2] == BlockAccepted(len(parts.NEW()), len(parts.NEW()))
    assert node.store.read_slot(1) == parts.NEW()
    assert node.store.slots[1].state is SlotState.STAGED
    starts = [
        "22fd03",
        "22f191",
        "22fd05",
        "22fd01",
        "1003",
        "1002",
        "2701",
        "2702",
        "3101ff00",
        "340044",
        "3601",
        "37",
        "31010202",
    ]
    for request, start in zip(requests(bench), starts, strict=True):
        assert request.hex().startswith(start)
    described = events[0].node
    assert (described.position, described.role, described.hwid) == (1, ImageRole.SLAVE, "HW-0001")
    assert (described.serial, described.class_id) == ("SN0000000001", parts.SLAVE_CLASS.class_id)
    assert (described.version, described.security_counter) == (ImageVersion(2, 0), 1)
    assert (described.capabilities, described.slot_size_kib) == (
        Capability.SECURITY_ACCESS | Capability.IMAGE_DIGEST,
        7,
    )
    assert (described.state, described.active_slot, described.running_slot) == (NodeMode.APPLICATION, 0, 0)


@pytest.mark.parametrize("frame_bytes", [8, 64])
def test_29_bit_ids_and_can_fd(parts, frame_bytes):
    transport = IsoTpParameters(frame_bytes=frame_bytes)
    node = parts.Node(31, factory=parts.OLD(), transport=transport)
    bench = parts.Bench(node, addressing=UDS_29BIT)
    verified(bench.flash(parts.NEW(), 31, transport=transport))
    assert node.store.read_slot(1) == parts.NEW()
    assert {frame.can_id for frame in bench.frames} <= {0x18DA2FF1, 0x18DAF12F, 0x18DB33F1}
    assert all(frame.is_extended_id and frame.is_fd == (frame_bytes > 8) for frame in bench.frames)


@pytest.mark.slow
def test_the_counter_wraps(parts):
    """More than 256 blocks at a small block length."""
    node = parts.Node(factory=parts.OLD(), block_length_max=12)
    bench = parts.Bench(node)
    events = verified(bench.flash(parts.NEW()))
    assert kinds(events).count(BlockAccepted) == -(-len(parts.NEW()) // 10) > 300
    assert node.store.read_slot(1) == parts.NEW()


@pytest.mark.parametrize("longest", [0x14, 0x102])
def test_a_block_is_as_long_as_the_node_says_with_its_two_bytes(parts, longest):
    bench = parts.Bench(parts.Node(factory=parts.OLD(), block_length_max=longest))
    events = verified(bench.flash(parts.NEW()))
    steps = [event.next_offset for event in events if isinstance(event, BlockAccepted)]
    assert steps[0] == longest - 2


def test_a_block_is_no_longer_than_we_want(parts, bench):
    events = verified(bench.flash(parts.NEW(), dialect=UdsDialect(block_length_max=0x82)))
    assert next(event.next_offset for event in events if isinstance(event, BlockAccepted)) == 0x80


# ---- losses


def test_a_lost_request_is_sent_again(bench, node, parts):
    lost = lose(bench, lambda frame: is_frame(frame, 0x7E1, "0210"))
    events = verified(bench.flash(parts.NEW()))
    assert len(lost) == 1
    assert TransferInterrupted not in kinds(events)


def test_a_block_whose_answer_is_lost_is_not_sent_again(bench, node, parts):
    """The node says how much it has; the next block follows."""
    lose(bench, lambda frame: is_frame(frame, 0x7E9, "027601"))
    events = verified(bench.flash(parts.NEW()))
    assert kinds(events).count(BlockRepeated) == 1
    assert image_bytes_sent(bench) == len(parts.NEW())


def test_a_lost_consecutive_frame_costs_its_block_and_halves_the_next(bench, node, parts):
    lose(bench, lambda frame: is_frame(frame, 0x7E1, "2f") and blocks_accepted(bench) == 1)
    events = verified(bench.flash(parts.NEW(), dialect=UdsDialect(block_length_max=0x402)))
    (repeated,) = [event for event in events if isinstance(event, BlockRepeated)]
    assert repeated == BlockRepeated(0x400, 147)
    offsets = [event.next_offset for event in events if isinstance(event, BlockAccepted)]
    assert offsets[:3] == [0x400, 0x600, 0x800]
    assert TransferInterrupted not in kinds(events)


def test_blocks_grow_again_when_the_bus_is_good_again(parts):
    node = parts.Node(factory=parts.OLD())
    bench = parts.Bench(node)
    lose(
        bench,
        lambda frame: (
            frame.can_id == 0x7E1 and frame.data[:3:2] in {b"\x11\x36", b"\x10\x36"} and blocks_accepted(bench)
        ),
        times=2,
    )
    timing = UdsTiming(blocks_until_longer=3)
    events = verified(bench.flash(parts.NEW(), dialect=UdsDialect(block_length_max=0x102), timing=timing))
    offsets = [event.next_offset for event in events if isinstance(event, BlockAccepted)]
    steps = Counter(later - earlier for earlier, later in zip([0, *offsets], offsets, strict=False))
    assert steps[0x40] == 1 + 3, "the repeated one, and three good ones"
    assert steps[0x80] == 3
    assert steps[0x100] > 3


def test_a_bus_that_loses_one_frame_in_fifty_is_no_obstacle(parts):
    node = parts.Node(factory=parts.OLD())
    bench = parts.Bench(node, seed="2 %")
    bench.fault = lambda _frame, rng: () if rng.random() < 0.02 else (0,)
    verified(bench.flash(parts.NEW()))
    assert node.store.read_slot(1) == parts.NEW()


def test_without_flow_control_the_block_comes_again(bench, node, parts):
    lose(bench, lambda frame: is_frame(frame, 0x7E9, "30") and blocks_accepted(bench) == 2, times=2)
    events = verified(bench.flash(parts.NEW(), dialect=UdsDialect(block_length_max=0x102)))
    assert kinds(events).count(BlockRepeated) == 2
    assert TransferInterrupted not in kinds(events)


def test_foreign_traffic_is_ignored(bench, node, parts):
    """Frames of other nodes, other protocols, other testers' answers, between all of ours."""
    others = [
        CanFrame(0x7E2, b"\x02\x10\x02"),
        CanFrame(0x7EA, b"\x02\x7e\x00"),
        CanFrame(0x100, bytes(8)),
        CanFrame(0x7E9, b"\x03\x7f\x22\x31", is_extended_id=True),
        CanFrame(0x18DAF111, b"\x03\x7f\x36\x73", is_extended_id=True),
    ]
    count = iter(range(1_000_000))
    bench.on_frame = lambda frame: (
        bench.inject(others[next(count) % len(others)])
        if frame.can_id in {0x7E1, 0x7E9} and not frame.is_extended_id
        else None
    )
    verified(bench.flash(parts.NEW()))
    assert node.store.read_slot(1) == parts.NEW()


# ---- time


def test_a_session_is_kept_alive_while_a_block_takes_longer_than_s3(parts):
    """TesterPresent to all nodes, without an answer, every 2 s, also in mid-message: it disturbs none."""
    node = parts.Node(factory=parts.OLD(), transport=IsoTpParameters(stmin=20))
    bench = parts.Bench(node)
    events = verified(bench.flash(parts.NEW()))
    assert TransferInterrupted not in kinds(events)
    assert all(frame.data[:3] == b"\x02\x3e\x80" for frame in bench.frames if frame.can_id == 0x7DF)
    assert sum(frame.can_id == 0x7DF for frame in bench.frames) >= 4


def test_a_session_is_not_kept_alive_in_the_middle_of_an_answer(bench, node, parts):
    """TesterPresent to this node alone: only between two messages."""
    dialect = UdsDialect(functional_tester_present=False)
    timing = UdsTiming(tester_present_ns=200 * MS)
    verified(bench.flash(parts.NEW(), dialect=dialect, timing=timing, transport=IsoTpParameters(stmin=0x7F)))
    frames = [frame for frame in bench.frames if frame.can_id in {0x7E1, 0x7E9}]
    present = [index for index, frame in enumerate(frames) if frame.data[:3] == b"\x02\x3e\x80"]
    assert len(present) > 3
    assert not any(frames[index + 1].data[0] >> 4 == 2 for index in present)


def test_a_late_answer_while_a_block_goes_out_is_not_its_answer(bench, node, parts):
    done = []

    def on_frame(frame):
        if not done and is_frame(frame, 0x7E1, "25") and TransferStarted in kinds(bench.events):
            done.append(frame)
            bench.inject(CanFrame(0x7E9, bytes.fromhex("037f3624")))

    transport = IsoTpParameters(burst_frames=10, burst_spacing_ns=10 * MS)
    bench.on_frame = on_frame
    client = bench.transfer(parts.NEW(), transport=transport)
    bench.run(client)
    events = verified(bench.events)
    assert done
    assert TransferInterrupted not in kinds(events)


def test_a_slow_flash_is_waited_for(parts):
    """Erase and verification far beyond P2: announced by NRC 0x78, never a timeout."""
    timing = UdsServerTiming(verify_ns=12 * SECOND)
    flash = parts.FlashModel(16 * 1024, erase_block_bytes=1024, erase_ns=700 * MS)
    node = parts.Node(factory=parts.OLD(), flash=flash, timing=timing)
    bench = parts.Bench(node)
    events = verified(bench.flash(parts.NEW()))
    assert kinds(events) == [TargetConnected, TransferStarted, BlockAccepted, ImageVerified]
    assert sum(is_frame(frame, 0x7E9, "037f3778") for frame in bench.frames) >= 3


def test_a_session_that_ends_in_mid_transfer_is_opened_again(bench, node, parts):
    """As if TesterPresent never arrived: the server drops the transfer, and it goes on from what is stored."""
    done = []

    def on_frame(frame):
        if not done and is_frame(frame, 0x7E9, "027603"):
            done.append(frame)
            node.target._enter(node.target.session.DEFAULT)

    bench.on_frame = on_frame
    events = verified(bench.flash(parts.NEW(), dialect=UdsDialect(block_length_max=0x102)))
    assert kinds(events).count(TransferInterrupted) == 1
    started = [event.offset for event in events if isinstance(event, TransferStarted)]
    assert started == [0, 3 * 0x100]
    assert node.store.read_slot(1) == parts.NEW()


def test_the_node_restarts_in_mid_transfer_and_the_rest_is_sent(bench, node, parts):
    """Behind a power cut staging goes on at a whole erase block (1024 bytes here)."""
    done = []

    def on_frame(frame):
        if not done and is_frame(frame, 0x7E9, "02760a"):
            done.append(frame)
            bench.cut_power(node)

    bench.on_frame = on_frame
    events = verified(bench.flash(parts.NEW(), dialect=UdsDialect(block_length_max=0x82)))
    started = [event.offset for event in events if isinstance(event, TransferStarted)]
    assert started == [0, 1024]
    assert image_bytes_sent(bench) <= len(parts.NEW()) + 10 * 0x80 - 1024 + 0x80
    assert node.store.read_slot(1) == parts.NEW()


def test_an_image_that_is_there_already_is_only_verified(bench, node, parts):
    verified(bench.flash(parts.NEW()))
    events = verified(bench.flash(parts.NEW()))
    assert kinds(events) == [TargetConnected, TransferStarted, ImageVerified]
    assert image_bytes_sent(bench) == 0


def test_a_damaged_slot_is_filled_again(bench, node, parts):
    """The digest tells; the second attempt of the same run mends it."""
    done = []

    def on_frame(frame):
        if not done and is_frame(frame, 0x7E1, "0137"):
            done.append(frame)
            node.flash.flip_bit(node.layout.slot_offsets[1] + 700, 2)

    bench.on_frame = on_frame
    events = verified(bench.flash(parts.NEW()))
    assert [event for event in events if isinstance(event, TransferInterrupted)] == [
        TransferInterrupted("RequestTransferExit: DAMAGED (0xFC)")
    ]
    assert node.store.read_slot(1) == parts.NEW()


# ---- refusals


def failed(events, cause):
    event = events[-1]
    assert isinstance(event, TransferFailed), event
    assert event.cause is cause
    failure = FAILURES[cause]
    assert (event.permanent, event.safe_to_run_again) == (failure.permanent, failure.safe_to_run_again)
    return event


def test_a_node_that_restarts_again_and_again(bench, node, parts):
    bench.on_frame = lambda frame: (
        bench.cut_power(node) if is_frame(frame, 0x7E9, "0676") or is_frame(frame, 0x7E9, "0474") else None
    )
    event = failed(bench.flash(parts.NEW()), FailureCause.NO_PROGRESS)
    assert kinds(bench.events).count(TransferInterrupted) == 8
    assert event.next_offset == 0


def test_the_hardware_id_is_checked_if_it_is_given(bench, node, parts):
    expected = ExpectedNode(hardware_class=parts.SLAVE_CLASS, role=ImageRole.SLAVE, hwid="HW-0002")
    event = failed(bench.flash(parts.NEW(), expected=expected), FailureCause.WRONG_NODE)
    assert event.detail == "expected hardware id HW-0002, got HW-0001"
    verified(bench.flash(parts.NEW(), expected=replace(expected, hwid="HW-0001")))


def test_a_node_of_another_profile_is_refused(bench, node, parts):
    old = bytes([1, 0]) + bytes(5)
    node.target._identifiers = {**node.target._identifiers, Did.NODE_KIND: lambda: old}
    event = failed(bench.flash(parts.NEW()), FailureCause.PROTOCOL_VERSION)
    assert event.detail == "expected UDS profile 1, got 0"
    strange = bytes([7, 2]) + bytes(5)
    node.target._identifiers = {**node.target._identifiers, Did.NODE_KIND: lambda: strange}
    event = failed(bench.flash(parts.NEW()), FailureCause.PROTOCOL_VERSION)
    assert event.detail == "expected values of UDS profile 1, got role: expected 0 to 1, got 7"


@pytest.mark.parametrize(
    ("did", "value", "detail"),
    [
        (Did.NODE_KIND, bytes([7, 1]) + bytes(5), "node 1: role: expected 0 to 1, got 7"),
        (Did.SOFTWARE_VERSION, b"v2".ljust(24), "expected major.minor.revision+build, got 'v2'"),
        (Did.HARDWARE_ID, b"S\xff1".ljust(24, b"\0"), "node 1: hwid: expected 1 to 24 printable ASCII characters"),
        (Did.HARDWARE_ID, bytes(24), "node 1: hwid: expected 1 to 24 printable ASCII characters"),
        (Did.SERIAL_NUMBER, b"SN\x07".ljust(24, b"\0"), "node 1: serial: expected at most 24 printable ASCII"),
        (Did.HARDWARE_CLASS, b"\xff" * 16, "node 1: hardware class: expected a UUID, got ffff"),
        (Did.BOOT_STATE, bytes([0, 9, 5, 0, 0, 0]), "node 1: boot reason: expected 0 to 4, got 9"),
        (Did.BOOT_STATE, bytes([0, 0, 5, 77, 0, 0]), "node 1: state of slot B: expected 0 to 6, got 77"),
        (Did.BOOT_STATE, bytes([0, 0, 5, 0, 0, 2]), "node 1: running slot: expected slot 0, 1 or none, got 2"),
    ],
)
def test_an_impossible_identity_is_that_nodes_refusal_by_name(bench, node, parts, did, value, detail):
    node.target._identifiers = {**node.target._identifiers, did: lambda: value}
    event = failed(bench.flash(parts.NEW()), FailureCause.BAD_IDENTITY)
    assert detail in event.detail


@pytest.mark.parametrize("status", ["ffffffff", "", "00"])
def test_an_impossible_offset_is_not_believed(bench, node, parts, status):
    routines = {**node.target._routines, Routine.ERASE_MEMORY: lambda record: bytes.fromhex(status)}
    node.target._routines = routines
    event = failed(bench.flash(parts.NEW()), FailureCause.NO_PROGRESS)
    assert event.detail == f"expected an offset of at most {len(parts.NEW())}, got {status}"


def test_how_far_it_is_can_be_asked(bench, parts):
    client = bench.transfer(parts.NEW())
    assert (client.size_bytes, client.next_offset) == (len(parts.NEW()), 0)
    assert client.next_timeout() == 0, "it wants to begin"
    client.handle_timeout(bench.now_ns)
    bench.run(client)
    assert client.next_offset == len(parts.NEW())
    assert client.next_timeout() is None
    assert client.frames_to_send(bench.now_ns) == []


def test_what_is_no_image_is_refused_at_once(bench, parts):
    with pytest.raises(ImageError):
        bench.transfer(b"no image")


# ---- access


def test_a_node_that_wants_a_pause_gets_it(parts):
    """0x37 behind a restart: wait and ask again, with the session kept alive."""
    node = parts.Node(factory=parts.OLD(), timing=UdsServerTiming(access_boot_delay_ns=7 * SECOND))
    bench = parts.Bench(node)
    events = verified(bench.flash(parts.NEW()))
    assert TransferInterrupted not in kinds(events)
    assert sum(is_frame(frame, 0x7E9, "037f2737") for frame in bench.frames) == 7


def test_a_node_that_is_locked_out_is_waited_for_too(bench, node, parts):
    node.target._access.failures = 2
    wrong = iter([True])
    key = parts.ACCESS_KEY
    events = verified(
        bench.flash(parts.NEW(), access_key=lambda seed, serial: bytes(64) if next(wrong, False) else key(seed, serial))
    )
    assert TransferInterrupted not in kinds(events)
    assert sum(is_frame(frame, 0x7E9, "037f2736") for frame in bench.frames) == 1


def test_a_node_that_never_takes_a_key(parts):
    node = parts.Node(factory=parts.OLD(), timing=UdsServerTiming(access_boot_delay_ns=3600 * SECOND))
    events = parts.Bench(node).flash(parts.NEW(), timing=UdsTiming(access_tries=4))
    event = failed(events, FailureCause.ACCESS_DENIED)
    assert event.detail == "SecurityAccess: expected a node that takes keys, got refusals 4 times"


def test_a_node_without_locks_needs_no_key(parts):
    bench = parts.Bench(parts.Node(factory=parts.OLD(), access=None))
    verified(bench.flash(parts.NEW(), access_key=None))
    verified(bench.flash(parts.NEW(), access_key=None, dialect=UdsDialect(needs_access=False)))
    assert not any(request[:1] == b"\x27" for request in requests(bench))
