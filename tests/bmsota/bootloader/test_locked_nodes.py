"""Security access on the wire: what a locked node refuses, how it is opened, and when it closes again."""

from __future__ import annotations

from random import Random
from zlib import crc32

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import BootReason, SlotState
from bmsota.bootloader import BootloaderClient, BootloaderDiscovery, BootloaderTiming, BroadcastClient, TargetTiming
from bmsota.bootloader._client import StreamShape
from bmsota.bootloader._messages import BitmapReply, PartReply, PendingReply, ReplyKind, Request, ResultReply
from bmsota.bootloader._target import _ACCESS_WANTED
from bmsota.image import ImageVersion
from bmsota.node import (
    AccessDenied,
    AccessGranted,
    AccessGuard,
    BootloaderLeft,
    Capability,
    CommandSucceeded,
    FailureCause,
    ImageVerified,
    NodeCommand,
    NodeMode,
    ResultCode,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
    access_message,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)
WRONG_KEY = Ed25519PrivateKey.from_private_bytes(b"\x12" * 32)
DATA_IDS = range(0x740, 0x780)
MS, SECOND = 1_000_000, 1_000_000_000
SIGNATURE_FRAMES = 8
SHAPE = StreamShape(block_frames=64, window_blocks=4, is_compressed=False)


def guard(**options):
    options = {"delay_ns": 10 * SECOND, "failures_max": 3} | options
    rng = Random(5)
    return lambda: AccessGuard([KEY.public_key()], rng.randbytes, **options)


def locked_node(bench_parts, position=1, *, factory=..., access=None, **options):
    """A slave that wants security access."""
    return bench_parts.Node(
        position,
        factory=bench_parts.OLD() if factory is ... else factory,
        flash=bench_parts.FlashModel(64 * 1024, erase_block_bytes=1024, seed=f"node {position}"),
        access=access or guard(),
        **options,
    )


@pytest.fixture
def bench(bench_parts):
    return bench_parts.Bench(locked_node(bench_parts))


def client_of(bench, bench_parts, signer=KEY.sign, **options):
    image = options.pop("image", bench_parts.NEW())
    return BootloaderClient(bench.wire, position=1, image=image, access_signer=signer, **options)


def unlocks(bench, frames):
    parsed = (bench.wire.parse(frame) for frame in frames)
    return [request for request in parsed if isinstance(request, Request) and request.command is NodeCommand.UNLOCK]


class Talk:
    """Frames to the first node by hand, as somebody without our client would send them."""

    def __init__(self, bench):
        self.bench, self.wire, self.node = bench, bench.wire, bench.nodes[0]
        self.tag = self.node.target._last_tag

    def give(self, frame):
        self.node.target.receive_frame(frame, self.bench.now_ns)

    def say(self, command, *, tag=None, **fields):
        """One command; all that is answered within 10 s."""
        if tag is None:
            tag = self.tag = self.tag % 255 + 1
        self.give(self.wire.serialize(Request(1, command, tag, boot_id=self.node.target._boot_id, **fields)))
        self.bench.now_ns += 10 * SECOND
        replies = [self.wire.parse(frame) for frame in self.node.target.frames_to_send(self.bench.now_ns)]
        return [reply for reply in replies if not isinstance(reply, PendingReply)]

    def result(self, command, **fields):
        (reply,) = (reply for reply in self.say(command, **fields) if isinstance(reply, ResultReply))
        return ResultCode(reply.code)

    def challenge(self):
        *parts, result = self.say(NodeCommand.REQUEST_CHALLENGE)
        assert result.code == ResultCode.OK
        assert all(isinstance(part, PartReply) for part in parts)
        return b"".join(part.data for part in parts)[:16]

    def answer(self, signature, **fields):
        """The signature's data frames and UNLOCK; the result."""
        frames = self.wire.data_frames(signature)
        for frame in frames:
            self.give(frame)
        return self.result(NodeCommand.UNLOCK, frames=len(frames), crc32=crc32(signature), **fields)

    def unlock(self):
        signature = KEY.sign(access_message(self.challenge(), "HW-0001"))
        assert self.answer(signature) is ResultCode.OK
        return signature


# ---- who is let in


def test_with_the_right_key_a_locked_node_is_flashed_and_switched(bench, bench_parts):
    node = bench.nodes[0]
    found = bench.command(1, NodeCommand.DISCOVER).node
    assert Capability.SECURITY_ACCESS in found.capabilities
    assert not found.is_unlocked
    assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified)
    assert AccessGranted() in node.events
    assert bench.command(1, NodeCommand.DISCOVER).node.is_unlocked
    assert isinstance(bench.command(1, NodeCommand.ACTIVATE_TEST), CommandSucceeded)  # still open
    assert isinstance(bench.command(1, NodeCommand.RESET), CommandSucceeded)
    assert not bench.command(1, NodeCommand.DISCOVER).node.is_unlocked  # a restart has closed it
    event = bench.command(1, NodeCommand.CONFIRM, expected_version=ImageVersion(2, 1, 0), access_signer=KEY.sign)
    assert isinstance(event, CommandSucceeded)
    assert (node.store.active_slot, node.target.state) == (1, NodeMode.APPLICATION)
    assert not node.target.wants_data


def test_an_open_node_asks_for_no_key(bench_parts):
    """A signer given for a node without a lock is not called."""
    bench = bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD()))

    def never(message):
        raise AssertionError(message)

    assert isinstance(bench.run(client_of(bench, bench_parts, signer=never))[-1], ImageVerified)
    talk = Talk(bench)
    assert talk.result(NodeCommand.REQUEST_CHALLENGE) is ResultCode.NOTHING_TO_DO
    assert talk.answer(bytes(64)) is ResultCode.NOTHING_TO_DO


def test_the_signer_is_asked_once_a_node(bench, bench_parts):
    asked = []

    def sign(message):
        asked.append(message)
        return KEY.sign(message)

    bench.run(client_of(bench, bench_parts, signer=sign))
    assert len(asked) == 1
    assert asked[0].endswith(b"HW-0001")


# ---- what is locked


def prepare(bench, bench_parts, command):
    """Bring the node to where *command* can be done; locked."""
    if command is not NodeCommand.BEGIN_TRANSFER:
        assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified)
    if command in {NodeCommand.CONFIRM, NodeCommand.REVERT}:
        bench.command(1, NodeCommand.ACTIVATE_TEST)
    bench.command(1, NodeCommand.RESET)
    talk = Talk(bench)
    if command is NodeCommand.BEGIN_TRANSFER:
        assert talk.result(NodeCommand.ENTER_BOOTLOADER, protocol=2) is ResultCode.OK
    return talk


def with_data(bench, bench_parts, talk, command):
    """Fields of *command*, whose data frames have been sent."""
    if command is not NodeCommand.BEGIN_TRANSFER:
        return {}
    record = client_of(bench, bench_parts)._payload.offer(SHAPE, is_fd=False).serialize()
    frames = bench.wire.data_frames(record)
    for frame in frames:
        talk.give(frame)
    return {"frames": len(frames), "crc32": crc32(record)}


@pytest.mark.parametrize("command", sorted(_ACCESS_WANTED))
def test_what_changes_images_is_refused_while_locked_and_done_when_open(bench, bench_parts, command):
    talk = prepare(bench, bench_parts, command)
    node, operations = bench.nodes[0], bench.nodes[0].flash.operations
    state = node.target.state
    assert talk.result(command, **with_data(bench, bench_parts, talk, command)) is ResultCode.ACCESS_NEEDED
    assert (node.flash.operations, node.target.state) == (operations, state)
    talk.unlock()
    assert talk.result(command, **with_data(bench, bench_parts, talk, command)) is ResultCode.OK
    assert node.flash.operations > operations


def test_everything_else_is_done_while_locked(bench):
    talk = Talk(bench)
    assert len(talk.say(NodeCommand.DISCOVER, tag=1)) == 22
    assert talk.result(NodeCommand.ENTER_BOOTLOADER, protocol=2) is ResultCode.OK
    assert talk.result(NodeCommand.LEAVE_BOOTLOADER) is ResultCode.OK
    assert talk.result(NodeCommand.RESET) is ResultCode.OK
    done_while_locked = {
        NodeCommand.DISCOVER,
        NodeCommand.ENTER_BOOTLOADER,
        NodeCommand.LEAVE_BOOTLOADER,
        NodeCommand.RESET,
    }
    need_a_transfer = {NodeCommand.FINISH_TRANSFER, NodeCommand.OPEN_BLOCK, NodeCommand.CHECK_BLOCK}
    open_it = {NodeCommand.REQUEST_CHALLENGE, NodeCommand.UNLOCK}
    assert set(NodeCommand) == done_while_locked | need_a_transfer | open_it | _ACCESS_WANTED


@pytest.mark.parametrize("command", [NodeCommand.ACTIVATE_TEST, NodeCommand.CONFIRM, NodeCommand.REVERT])
def test_a_command_opens_the_lock_by_itself_without_stopping_the_application(bench, bench_parts, command):
    """Its signature comes as data frames while the application runs."""
    prepare(bench, bench_parts, command)
    node = bench.nodes[0]
    node.events.clear()
    event = bench.command(1, command, access_signer=KEY.sign)
    assert isinstance(event, CommandSucceeded)
    assert node.target.state is NodeMode.APPLICATION
    assert node.events[0] == AccessGranted()
    assert len(node.events) == 2
    assert not node.target.wants_data


# ---- when it closes


def test_leave_closes_the_lock_also_in_the_application(bench):
    talk = Talk(bench)
    talk.unlock()
    assert bench.command(1, NodeCommand.DISCOVER).node.is_unlocked
    bench.command(1, NodeCommand.LEAVE_BOOTLOADER)
    assert not bench.command(1, NodeCommand.DISCOVER).node.is_unlocked
    talk.tag = talk.node.target._last_tag
    talk.result(NodeCommand.ENTER_BOOTLOADER, protocol=2)
    talk.unlock()
    bench.command(1, NodeCommand.LEAVE_BOOTLOADER)
    assert not bench.command(1, NodeCommand.DISCOVER).node.is_unlocked


@pytest.mark.parametrize("first", [NodeCommand.ENTER_BOOTLOADER, NodeCommand.DISCOVER])
def test_silence_closes_the_lock(bench_parts, first):
    """In the bootloader as in the application."""
    node = locked_node(bench_parts, timing=TargetTiming(session_timeout_ns=20 * SECOND))
    bench = bench_parts.Bench(node)
    talk = Talk(bench)
    talk.say(first, protocol=2)
    talk.unlock()
    bench.run(limit_s=5)
    assert node.target._access.is_unlocked
    node.events.clear()
    bench.run(limit_s=30)
    assert not node.target._access.is_unlocked
    assert node.target.state is NodeMode.APPLICATION
    assert node.events == ([BootloaderLeft()] if first is NodeCommand.ENTER_BOOTLOADER else [])
    assert node.target.next_timeout() is None


def test_silence_ends_the_wait_for_a_signature(bench_parts):
    """Who asks for a challenge and goes away leaves no ear open for data frames."""
    node = locked_node(bench_parts, timing=TargetTiming(session_timeout_ns=20 * SECOND))
    bench = bench_parts.Bench(node)
    Talk(bench).challenge()
    assert node.target.wants_data
    bench.run(limit_s=30)
    assert not node.target.wants_data


def test_silence_closes_the_lock_of_a_node_without_an_image(bench_parts):
    """It stays in its bootloader; what it has received stays, and goes on after the next unlock."""
    image = bench_parts.make_image(size=20_000)
    node = locked_node(bench_parts, factory=None, timing=TargetTiming(session_timeout_ns=20 * SECOND))
    bench = bench_parts.Bench(node)

    def stop(frame):
        if node.store.staging_offset >= 4096:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(client_of(bench, bench_parts, image=image))
    bench.on_frame = None
    stored = node.store.staging_offset
    bench.run(limit_s=10)
    assert (node.target.state, node.target._access.is_unlocked) == (NodeMode.RECEIVING, True)
    bench.run(limit_s=30)
    assert (node.target.state, node.target._access.is_unlocked) == (NodeMode.BOOTLOADER, False)
    assert node.target.wants_data
    assert BootloaderLeft() not in node.events
    events = bench.run(client_of(bench, bench_parts, image=image))
    assert isinstance(events[-1], ImageVerified)
    assert [event.offset for event in events if isinstance(event, TransferStarted)] == [stored]


def test_a_lock_that_closes_between_two_steps_is_opened_again(bench, bench_parts):
    """Somebody else ends the session when the node has been found open; the client comes back with its key."""
    node = bench.nodes[0]
    talk = Talk(bench)
    talk.unlock()
    closed = []

    def close(frame):
        if not closed and frame.can_id == 0x700 and frame.data[1] == NodeCommand.ENTER_BOOTLOADER:
            closed.append(frame)
            node.target._access.lock()

    bench.on_frame = close
    events = bench.run(client_of(bench, bench_parts))
    assert closed
    assert TransferInterrupted("BEGIN_TRANSFER: ACCESS_NEEDED") in events
    assert isinstance(events[-1], ImageVerified)
    # Without a key it is not tried again.
    node.target._access._is_unlocked = True
    closed.clear()
    other = bench_parts.make_image("2.2.0", counter=3)
    failed = bench.run(client_of(bench, bench_parts, signer=None, image=other))[-1]
    assert (failed.cause, failed.detail) == (FailureCause.ACCESS_NEEDED, "BEGIN_TRANSFER: ACCESS_NEEDED")


# ---- replay


def test_a_recorded_answer_opens_nothing(bench):
    """Neither again in the same session, nor with the same tag, nor after a restart."""
    talk = Talk(bench)
    talk.result(NodeCommand.ENTER_BOOTLOADER, protocol=2)
    signature = talk.unlock()
    assert talk.answer(signature) is ResultCode.ACCESS_DENIED
    talk.result(NodeCommand.LEAVE_BOOTLOADER)
    talk.challenge()  # who listens may ask, too
    assert talk.answer(signature) is ResultCode.ACCESS_DENIED
    assert talk.answer(signature, tag=talk.tag) is ResultCode.ACCESS_DENIED  # a repetition of the same command
    bench.command(1, NodeCommand.RESET)
    talk = Talk(bench)
    talk.challenge()
    assert talk.answer(signature) is ResultCode.ACCESS_DENIED
    assert not bench.nodes[0].target._access.is_unlocked


def test_an_answer_without_a_challenge_opens_nothing(bench):
    talk = Talk(bench)
    signature = talk.unlock()
    talk.result(NodeCommand.LEAVE_BOOTLOADER)
    talk.result(NodeCommand.ENTER_BOOTLOADER, protocol=2)
    assert talk.answer(signature) is ResultCode.ACCESS_DENIED


def test_a_signature_for_another_node_opens_nothing(bench):
    talk = Talk(bench)
    signature = KEY.sign(access_message(talk.challenge(), "HW-0002"))
    assert talk.answer(signature) is ResultCode.ACCESS_DENIED


@pytest.mark.parametrize("frames", [0, 1, 7, 9, 64])
def test_a_signature_of_another_size_is_refused(bench, frames):
    talk = Talk(bench)
    talk.challenge()
    assert talk.result(NodeCommand.UNLOCK, frames=frames, crc32=0) is ResultCode.ACCESS_DENIED


# ---- a bad bus


def losing(bench, wanted, times):
    """Lose *times* frames that *wanted* picks."""
    lost = []

    def fault(frame, rng):
        if len(lost) < times and wanted(frame):
            lost.append(frame)
            return ()
        return (0,)

    bench.fault = fault
    return lost


@pytest.mark.parametrize("kind", [37, 38, 39])
@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_part_of_a_challenge_is_asked_for_again(bench, bench_parts, kind, times):
    lost = losing(bench, lambda frame: frame.can_id == 0x721 and frame.data[0] == kind, times)
    events = bench.run(client_of(bench, bench_parts))
    assert len(lost) == times
    assert isinstance(events[-1], ImageVerified)
    assert not [event for event in events if isinstance(event, TransferInterrupted)]
    assert bench.nodes[0].events.count(AccessDenied()) == 0


def test_a_lost_challenge_is_given_again_whole(bench, bench_parts):
    """To the repeated request, which is not done twice."""
    challenge_or_its_result = {(kind, None) for kind in (37, 38, 39)} | {(32, NodeCommand.REQUEST_CHALLENGE)}
    lost = losing(
        bench,
        lambda frame: (
            frame.can_id == 0x721
            and (frame.data[0], frame.data[2] if frame.data[0] == 32 else None) in challenge_or_its_result
        ),
        4,
    )
    assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified)
    asked = [frame for frame in bench.sent if frame.can_id == 0x700 and frame.data[1] == NodeCommand.REQUEST_CHALLENGE]
    assert len(lost) == 4
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_a_challenge_that_never_comes_whole_ends_the_attempt(bench, bench_parts):
    losing(bench, lambda frame: frame.can_id == 0x721 and frame.data[0] == 38, 10_000)
    failed = bench.run(client_of(bench, bench_parts))[-1]
    assert failed.cause is FailureCause.NO_PROGRESS
    assert failed.detail == "node 1 (HW-0001): the challenge stayed incomplete in 10 tries"


@pytest.mark.parametrize("index", range(SIGNATURE_FRAMES))
def test_a_lost_frame_of_the_signature_is_sent_again_alone(bench, bench_parts, index):
    is_asked = []

    def wanted(frame):
        is_asked.extend([1] * (frame.can_id == 0x721 and frame.data[0] == 39))
        return bool(is_asked) and frame.can_id == 0x740 + index

    lost = losing(bench, wanted, 1)
    events = bench.run(client_of(bench, bench_parts))
    assert len(lost) == 1
    assert isinstance(events[-1], ImageVerified)
    requests = unlocks(bench, bench.sent)
    assert len(requests) == 2
    assert requests[0] == requests[1]
    sent = [frame for frame in bench.sent if frame.can_id in DATA_IDS]
    assert [frame.can_id for frame in sent[: SIGNATURE_FRAMES + 1]] == [*range(0x740, 0x748), 0x740 + index]
    assert bench.nodes[0].events.count(AccessDenied()) == 0


def test_a_lost_unlock_or_its_lost_result_is_repeated_and_costs_no_failure(bench, bench_parts):
    for wanted in (
        lambda frame: frame.can_id == 0x700 and frame.data[1] == NodeCommand.UNLOCK,
        lambda frame: frame.can_id == 0x721 and frame.data[0] == 32 and frame.data[2] == NodeCommand.UNLOCK,
    ):
        lost = losing(bench, wanted, 2)
        assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified)
        assert len(lost) == 2
        assert len(unlocks(bench, bench.sent)) == 3
        assert bench.nodes[0].events.count(AccessDenied()) == 0
        bench.command(1, NodeCommand.LEAVE_BOOTLOADER)


def test_a_frame_of_the_signature_that_is_wrong_is_found_by_the_crc(bench):
    talk = Talk(bench)
    signature = KEY.sign(access_message(talk.challenge(), "HW-0001"))
    frames = bench.wire.data_frames(signature)
    for frame in [*frames, *bench.wire.data_frames(b"\x00" * 8)]:
        talk.give(frame)
    (reply,) = talk.say(NodeCommand.UNLOCK, frames=8, crc32=crc32(signature))
    assert reply == BitmapReply(1, 255, 0, 8, 0xFF)
    assert talk.answer(signature, tag=talk.tag) is ResultCode.OK


@pytest.mark.parametrize("seed", range(12))
def test_locked_nodes_are_opened_on_a_bus_that_loses_a_tenth(bench_parts, seed):
    bench = bench_parts.Bench(locked_node(bench_parts), seed=seed)
    bench.fault = lambda frame, rng: () if rng.random() < 0.1 else (0,)
    assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified), seed
    assert isinstance(bench.command(1, NodeCommand.ACTIVATE_TEST, access_signer=KEY.sign), CommandSucceeded), seed
    assert isinstance(bench.command(1, NodeCommand.RESET), CommandSucceeded), seed
    event = bench.command(1, NodeCommand.CONFIRM, expected_version=ImageVersion(2, 1, 0), access_signer=KEY.sign)
    assert isinstance(event, CommandSucceeded), seed
    assert event.node.boot_reason is BootReason.TEST


def test_a_hardware_id_that_came_wrong_is_asked_for_again(bench, bench_parts):
    """One altered frame; nothing is signed with what it says, and the transfer goes its way."""
    forged = []

    def forge(frame):
        if not forged and frame.can_id == 0x721 and frame.data[0] == ReplyKind.HWID_1:
            forged.append(frame)
            bench.client.receive_frame(
                bench.wire.serialize(PartReply(1, ReplyKind.HWID_0, b"\xffW-0001")), bench.now_ns
            )

    bench.on_frame = forge
    events = bench.run(client_of(bench, bench_parts))
    assert forged
    assert not [event for event in events if isinstance(event, TransferInterrupted)]
    assert isinstance(events[-1], ImageVerified)
    assert events[-1].node.hwid == "HW-0001"
    assert AccessDenied() not in bench.nodes[0].events


# ---- delays


def test_the_delay_after_wrong_keys_is_waited_for(bench, bench_parts):
    """The third wrong answer costs 10 s; the client with the right key waits them, and no more."""
    for _ in range(3):
        assert bench.run(client_of(bench, bench_parts, signer=WRONG_KEY.sign))[-1].cause is FailureCause.ACCESS_DENIED
    began = bench.now_ns
    assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified)
    assert 9.9 * SECOND < bench.now_ns - began < 12 * SECOND
    challenges = [
        frame for frame in bench.sent if frame.can_id == 0x700 and frame.data[1] == NodeCommand.REQUEST_CHALLENGE
    ]
    assert len(challenges) == 2


def test_a_node_that_wants_a_pause_after_its_boot_gets_it(bench_parts):
    bench = bench_parts.Bench(locked_node(bench_parts, access=guard(boot_delay_ns=3 * SECOND)))
    began = bench.now_ns
    assert isinstance(bench.run(client_of(bench, bench_parts))[-1], ImageVerified)
    assert 3 * SECOND <= bench.now_ns - began < 5 * SECOND


def test_a_delay_beyond_all_patience_is_told(bench_parts):
    bench = bench_parts.Bench(locked_node(bench_parts, access=guard(boot_delay_ns=3600 * SECOND)))
    began = bench.now_ns
    timing = BootloaderTiming(access_waits_max=4, access_wait_ns_max=2 * SECOND)
    failed = bench.run(client_of(bench, bench_parts, timing=timing))[-1]
    assert failed.cause is FailureCause.ACCESS_DENIED
    left_ms = 3_600_000 - (bench.now_ns - began) // MS
    assert failed.detail.startswith("node 1 (HW-0001): no challenge in 4 tries, but a pause of ")
    assert abs(int(failed.detail.split()[-3]) - left_ms) < 1000
    assert 6 * SECOND <= bench.now_ns - began < 7 * SECOND


# ---- a broadcast


def broadcast(bench, bench_parts, positions, **options):
    options = {"image": bench_parts.NEW(), "access_signer": KEY.sign} | options
    events = bench.run(BroadcastClient(bench.wire, positions=positions, **options))
    return {event.position: event.event for event in events if isinstance(event.event, ImageVerified | TransferFailed)}


@pytest.mark.parametrize("burst_frames", [65, 9, 5, 1])
def test_locked_nodes_take_part_in_a_broadcast(bench_parts, burst_frames):
    """Each has its own challenge and signature, and the signatures, which carry no address, do not meet."""
    nodes = [locked_node(bench_parts, position) for position in range(1, 7)]
    bench = bench_parts.Bench(*nodes)
    timing = BootloaderTiming(burst_frames=burst_frames, burst_spacing_ns=MS)
    ended = broadcast(bench, bench_parts, range(1, 7), timing=timing)
    assert len(ended) == 6
    assert all(isinstance(event, ImageVerified) for event in ended.values())
    assert all(node.events.count(AccessGranted()) == 1 for node in nodes)
    assert len(unlocks(bench, bench.sent)) == 6
    assert all(node.store.slots[1].state is SlotState.STAGED for node in nodes)


def test_a_broadcast_over_open_locked_and_foreign_nodes(bench_parts):
    """Node 1 has no lock, node 3 knows another key: it is refused, and the others go on."""
    other = Ed25519PrivateKey.from_private_bytes(b"\x13" * 32)
    nodes = [
        bench_parts.Node(1, factory=bench_parts.OLD()),
        locked_node(bench_parts, 2),
        locked_node(
            bench_parts,
            3,
            access=lambda: AccessGuard([other.public_key()], Random(6).randbytes, delay_ns=SECOND, failures_max=3),
        ),
    ]
    bench = bench_parts.Bench(*nodes)
    ended = broadcast(bench, bench_parts, [1, 2, 3])
    assert isinstance(ended[1], ImageVerified)
    assert isinstance(ended[2], ImageVerified)
    assert ended[3].cause is FailureCause.ACCESS_DENIED
    assert ended[3].detail == "node 3 (HW-0003): expected a signature by a key it knows, got another one"
    ended = broadcast(
        bench, bench_parts, [1, 2, 3], access_signer=None, image=bench_parts.make_image("2.2.0", counter=3)
    )
    assert isinstance(ended[1], ImageVerified)
    assert isinstance(ended[2], ImageVerified)  # open since the first run
    assert (ended[3].cause, ended[3].node.hwid) == (FailureCause.ACCESS_NEEDED, "HW-0003")


def test_a_broadcast_does_not_wait_for_a_node_that_wants_a_pause(bench_parts):
    """Somebody has tried wrong keys on node 2; the others have their image long before it gives a challenge again."""
    nodes = [
        locked_node(bench_parts, 1),
        locked_node(bench_parts, 2, access=guard(boot_delay_ns=20 * SECOND)),
        locked_node(bench_parts, 3),
    ]
    bench = bench_parts.Bench(*nodes)
    began_ns, ended = bench.now_ns, {}
    client = BroadcastClient(bench.wire, positions=[1, 2, 3], image=bench_parts.NEW(), access_signer=KEY.sign)
    take = client.next_event

    def timed():
        event = take()
        if event is not None and isinstance(event.event, ImageVerified | TransferFailed):
            ended[event.position] = (type(event.event), (bench.now_ns - began_ns) / SECOND)
        return event

    client.next_event = timed
    bench.run(client)
    assert {position: kind for position, (kind, _) in ended.items()} == dict.fromkeys((1, 2, 3), ImageVerified)
    assert max(ended[1][1], ended[3][1]) < 3
    assert 20 < ended[2][1] < 23


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_broadcast_to_locked_nodes_on_a_lossy_wire(bench_parts, seed):
    nodes = [locked_node(bench_parts, position) for position in range(1, 9)]
    bench = bench_parts.WireBench(*nodes, seed=seed, loss=0.03)
    ended = broadcast(bench, bench_parts, range(1, 9))
    assert len(ended) == 8
    assert all(isinstance(event, ImageVerified) for event in ended.values()), seed
    assert sum(node.events.count(AccessDenied()) for node in nodes) == 0


def test_discovery_says_who_is_locked(bench_parts):
    bench = bench_parts.Bench(locked_node(bench_parts, 1), bench_parts.Node(2, factory=bench_parts.OLD()))
    discovery = BootloaderDiscovery(bench.wire)
    bench.run(discovery)
    assert [Capability.SECURITY_ACCESS in discovery.nodes[position].capabilities for position in (1, 2)] == [
        True,
        False,
    ]
