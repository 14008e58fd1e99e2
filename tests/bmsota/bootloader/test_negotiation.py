"""Both sides name the protocol versions they speak: the newest common one is used, and without one it is said plainly."""

from __future__ import annotations

from collections import deque

import pytest

from bmsota.boot import BootReason, SlotState
from bmsota.bootloader import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    BootloaderClient,
    BootloaderDiscovery,
    BroadcastClient,
)
from bmsota.bootloader import _target as target_module
from bmsota.bootloader._messages import (
    ALL_NODES,
    BuildReply,
    CounterReply,
    PartReply,
    ReplyKind,
    Request,
    ResultReply,
    StatusReply,
    VersionReply,
)
from bmsota.image import ImageRole
from bmsota.node import CommandSucceeded, FailureCause, ImageVerified, NodeCommand, NodeMode, ResultCode, TransferFailed


@pytest.fixture
def bench(bench_parts):
    return bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD()))


@pytest.fixture
def node_speaks(monkeypatch):
    """Let nodes, not flashers, speak these versions."""

    def speak(oldest, newest):
        monkeypatch.setattr(target_module, "PROTOCOL_VERSION_MIN", oldest)
        monkeypatch.setattr(target_module, "PROTOCOL_VERSION", newest)

    return speak


def enters(bench):
    parsed = (bench.wire.parse(frame) for frame in bench.sent)
    return [each for each in parsed if isinstance(each, Request) and each.command is NodeCommand.ENTER_BOOTLOADER]


def failures(bench, bench_parts):
    """What a client, a broadcast and a command say of node 1."""
    image = bench_parts.NEW()
    yield bench.run(BootloaderClient(bench.wire, position=1, image=image))[-1]
    yield bench.run(BroadcastClient(bench.wire, positions=[1], image=image))[-1].event
    yield bench.command(1, NodeCommand.ACTIVATE_TEST)


@pytest.mark.parametrize(("oldest", "newest"), [(2, 2), (2, 5), (1, 2), (0, 15)])
def test_the_newest_common_version_is_spoken(bench, bench_parts, node_speaks, oldest, newest):
    node_speaks(oldest, newest)
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))[-1], ImageVerified)
    assert [request.protocol for request in enters(bench)] == [2]
    assert isinstance(bench.command(1, NodeCommand.ACTIVATE_TEST), CommandSucceeded)


def test_this_code_speaks_one_version(bench):
    """The messages here say "expected protocol 2"; a second version would make it a range."""
    assert (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION) == (2, 2)


@pytest.mark.parametrize(
    ("oldest", "newest", "said"), [(3, 5, "3 to 5"), (3, 3, "3"), (1, 1, "1"), (0, 1, "1"), (15, 15, "15")]
)
def test_without_a_common_version_both_ranges_are_named(bench, bench_parts, node_speaks, oldest, newest, said):
    node_speaks(oldest, newest)
    operations = bench.nodes[0].flash.operations
    for failed in failures(bench, bench_parts):
        assert (failed.cause, failed.permanent) == (FailureCause.PROTOCOL_VERSION, True)
        assert failed.detail == f"expected protocol 2, got {said}"
        assert failed.node.hwid == "HW-0001"
        assert enters(bench) == []
    described = bench.command(1, NodeCommand.DISCOVER).node  # who it is can be read all the same
    assert (described.protocol_version, str(described.version)) == (newest, "2.0.0")
    assert bench.nodes[0].flash.operations == operations


class OldTarget:
    """A node of protocol version 1, as it was on the bus: fifteen replies to Discover, no limits, no range of versions.

    Recorded from that version: its Status had eight bits of version (24..31) and capabilities in bits 52..55, where
    `Unlocked` is now.
    """

    def __init__(self, wire, *, position=1, kinds=15, node_state=0, versions=(0, 1)):
        self.wire, self.position, self.kinds = wire, position, kinds
        self.node_state, self.versions = node_state, versions
        self.out = deque()

    def receive_frame(self, frame, now_ns):
        request = self.wire.parse(frame)
        if not isinstance(request, Request) or request.node not in {self.position, ALL_NODES}:
            return
        at = self.position
        if request.command is not NodeCommand.DISCOVER:
            self.out.append(ResultReply(at, request.tag, request.command, ResultCode.WRONG_STATE, 0))
            return
        echo = request.tag
        status = StatusReply(
            position=at,
            echo=echo,
            last_tag=0,
            protocol_version=self.versions[1],
            protocol_version_min=self.versions[0],
            role=int(ImageRole.SLAVE),
            node_state=self.node_state,
            boot_reason=int(BootReason.NORMAL),
            slot_a_state=int(SlotState.CONFIRMED),
            slot_b_state=int(SlotState.EMPTY),
            active_slot=0,
            running_slot=0,
            unlocked=1,
            block_frames_max=64,
        )
        moving = [status, VersionReply(at, echo, 1, 9, 0), BuildReply(at, echo, 7), CounterReply(at, echo, 1, 3)]
        names = [(ReplyKind.CLASS_0, 3, b"\x01" * 16), (ReplyKind.HWID_0, 4, b"OLD-1"), (ReplyKind.SERIAL_0, 4, b"S1")]
        parts = [
            PartReply(at, ReplyKind(first + part), data[7 * part : 7 * part + 7])
            for first, count, data in names
            for part in range(count)
        ]
        self.out.extend([*moving, *parts][: self.kinds])

    def frames_to_send(self, now_ns):
        frames = [self.wire.serialize(reply) for reply in self.out]
        self.out.clear()
        return frames

    def next_event(self):
        return None

    def next_timeout(self):
        return 0 if self.out else None

    def handle_timeout(self, now_ns):
        pass


def test_a_node_of_version_1_is_refused_by_its_version_and_shown(bench, bench_parts):
    bench.nodes[0].target = OldTarget(bench.wire)
    for failed in failures(bench, bench_parts):
        assert (failed.cause, failed.detail) == (FailureCause.PROTOCOL_VERSION, "expected protocol 2, got 1")
        assert (failed.node.hwid, failed.node.serial, str(failed.node.version)) == ("OLD-1", "S1", "1.9.0+7")
    discovery = BootloaderDiscovery(bench.wire)
    bench.run(discovery)
    (node,) = discovery.nodes.values()
    assert (node.protocol_version_min, node.protocol_version) == (1, 1)
    assert discovery._collectors[node.position].details.window_blocks == 1
    assert not node.capabilities


@pytest.mark.parametrize(("kinds", "node_state"), [(15, 7), (4, 0), (1, 0)])
def test_a_newer_node_whose_words_we_do_not_know_is_refused_by_its_version(bench, bench_parts, kinds, node_state):
    """It says less than we know, or states that we do not; that it is there and speaks 3 to 5 is known all the same."""
    for failed_of in (0, 1, 2):
        bench.nodes[0].target = OldTarget(bench.wire, kinds=kinds, node_state=node_state, versions=(3, 5))
        began_ns = bench.now_ns
        failed = list(failures(bench, bench_parts))[failed_of]
        assert (failed.cause, failed.detail) == (FailureCause.PROTOCOL_VERSION, "expected protocol 2, got 3 to 5")
        assert failed.node is None
        assert bench.now_ns - began_ns < 3 * bench_parts.SECOND


def test_on_a_bad_bus_an_old_node_still_gets_the_time_to_say_who_it_is(bench, bench_parts):
    bench.nodes[0].target = OldTarget(bench.wire)
    lost = []

    def lose(frame, rng):
        if len(lost) < 3 and frame.can_id == 0x721 and frame.data[0] == ReplyKind.SERIAL_3:
            lost.append(frame)
            return ()
        return (0,)

    bench.fault = lose
    failed = bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))[-1]
    assert len(lost) == 3
    assert (failed.cause, failed.node.hwid) == (FailureCause.PROTOCOL_VERSION, "OLD-1")


def test_a_node_of_our_version_that_says_a_part_only_is_silent(bench, bench_parts):
    bench.nodes[0].target = OldTarget(bench.wire, kinds=4, versions=(2, 2))
    failed = bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))[-1]
    assert isinstance(failed, TransferFailed)
    assert failed.cause is FailureCause.NODE_SILENT
    assert failed.detail == "node 1 said only a part of what it is in 100 tries"


@pytest.mark.parametrize("protocol", [0, 1, 3, 255])
def test_a_version_the_node_does_not_speak_is_refused_on_entering(bench, protocol):
    target = bench.nodes[0].target

    def enter(tag, protocol):
        request = Request(1, NodeCommand.ENTER_BOOTLOADER, tag, boot_id=target._boot_id, protocol=protocol)
        target.receive_frame(bench.wire.serialize(request), bench.now_ns)
        (frame,) = target.frames_to_send(bench.now_ns + 10**9)
        return bench.wire.parse(frame).code

    assert enter(1, protocol) == ResultCode.WRONG_PROTOCOL
    assert target.state is NodeMode.APPLICATION
    assert not target.wants_data
    assert enter(2, 2) == ResultCode.OK
    assert enter(3, protocol) == ResultCode.WRONG_PROTOCOL
    assert target.state is NodeMode.BOOTLOADER


def test_a_node_that_does_not_keep_to_its_word_ends_the_transfer(bench, bench_parts, node_speaks):
    """It said 2 when it was found, and does not take it when it is entered."""

    def change(frame):
        if frame.can_id == 0x700 and frame.data[1] == NodeCommand.ENTER_BOOTLOADER:
            node_speaks(3, 3)

    bench.on_frame = change
    failed = bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))[-1]
    assert (failed.cause, failed.detail) == (FailureCause.PROTOCOL_VERSION, "ENTER_BOOTLOADER: WRONG_PROTOCOL")
