"""Commands to one node, discovery, and what a target does with repetitions, stragglers and the wrong moment."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from uuid import UUID

import pytest

from bmsota.boot import BootReason
from bmsota.bootloader import (
    CLIENT_TRANSITIONS,
    COMMAND_TRANSITIONS,
    TARGET_TRANSITIONS,
    BootloaderClient,
    BootloaderCommand,
    BootloaderDiscovery,
    BootloaderTarget,
    BootloaderTiming,
    ClientState,
    ClientStimulus,
    CommandState,
    CommandStimulus,
    TargetLimits,
)
from bmsota.bootloader._exchange import IdentityCollector
from bmsota.bootloader._messages import (
    BitmapReply,
    PendingReply,
    ReplyKind,
    ReportReply,
    Request,
    ResultReply,
    StatusReply,
)
from bmsota.bootloader._target import _WITH_DATA
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, LocalProtocolError
from bmsota.image import ImageRole, ImageVersion
from bmsota.node import (
    Capability,
    CommandFailed,
    CommandSucceeded,
    FailureCause,
    ImageReverted,
    ImageVerified,
    NodeCommand,
    NodeFound,
    NodeMode,
    NodeRefused,
    ResetRequested,
    ResultCode,
    TargetIdentity,
    TestRequested,
    TransferInterrupted,
)

NOW = 1_000_000_000_000
SECOND = 1_000_000_000


@pytest.fixture
def bench(bench_parts):
    return bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD()))


class Talk:
    """Requests to one target by hand."""

    def __init__(self, bench):
        self.bench = bench
        self.node = bench.nodes[0]
        self.now_ns = NOW

    def say(self, command, tag, *, boot_id=None, **fields):
        target = self.node.target
        boot_id = target._boot_id if boot_id is None else boot_id
        self.now_ns = max(self.now_ns, self.bench.now_ns)
        request = Request(1, command, tag, boot_id=boot_id, **fields)
        target.receive_frame(self.bench.wire.serialize(request), self.now_ns)
        return self.hear()

    def hear(self):
        self.now_ns += 10 * 1_000_000_000
        replies = [self.bench.wire.parse(frame) for frame in self.node.target.frames_to_send(self.now_ns)]
        replies = [reply for reply in replies if not isinstance(reply, PendingReply)]
        return replies[0] if len(replies) == 1 else replies

    def events(self):
        found = []
        while (event := self.node.target.next_event()) is not None:
            found.append(type(event))
        return found


@pytest.fixture
def talk(bench):
    return Talk(bench)


def test_a_repeated_command_is_answered_again_and_not_done_again(bench, bench_parts, talk):
    bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))
    talk.events()
    first = talk.say(NodeCommand.ACTIVATE_TEST, 50)
    again = talk.say(NodeCommand.ACTIVATE_TEST, 50)
    assert first == again == ResultReply(1, 50, NodeCommand.ACTIVATE_TEST, ResultCode.OK, 0)
    assert talk.events() == [TestRequested]
    assert talk.say(NodeCommand.REVERT, 49) == []  # a straggler, older than the newest
    assert talk.say(NodeCommand.REVERT, 50) == []  # the tag of another command
    assert talk.say(NodeCommand.REVERT, 0) == []  # no tag at all
    assert talk.events() == []
    assert talk.say(NodeCommand.REVERT, 51).code == ResultCode.OK
    assert talk.events() == [ImageReverted]


def test_a_command_for_an_earlier_boot_is_not_done(talk):
    """A Reset whose answer was lost is repeated; the node has restarted meanwhile and must not restart again."""
    reply = talk.say(NodeCommand.RESET, 7, boot_id=99)
    assert reply == ResultReply(1, 7, NodeCommand.RESET, ResultCode.WRONG_STATE, 0)
    assert talk.node.target.state is NodeMode.APPLICATION
    status = talk.say(NodeCommand.DISCOVER, 3)[0]
    assert isinstance(status, StatusReply)
    assert status.last_tag == 0


def test_tags_wrap_round(talk):
    for tag in (200, 255, 1, 100):
        assert talk.say(NodeCommand.LEAVE_BOOTLOADER, tag).tag == tag
    assert talk.say(NodeCommand.LEAVE_BOOTLOADER, 99) == []


def test_every_command_in_every_state_follows_the_table(bench_parts):
    """What the table does not have is answered WRONG_STATE and changes nothing."""
    commands = set(NodeCommand) - {NodeCommand.DISCOVER, NodeCommand.CHECK_BLOCK, NodeCommand.OPEN_BLOCK, *_WITH_DATA}
    for state, command in product((NodeMode.APPLICATION, NodeMode.BOOTLOADER, NodeMode.RECEIVING), commands):
        talk = Talk(bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD())))
        talk.node.target.state = state
        reply = talk.say(command, 1, protocol=2)
        if (state, command) not in TARGET_TRANSITIONS:
            assert reply.code == ResultCode.WRONG_STATE
            assert talk.node.target.state is state
        elif reply.code == ResultCode.OK:
            assert talk.node.target.state is TARGET_TRANSITIONS[state, command]
        else:
            assert talk.node.target.state is state
    assert {state for state, _ in TARGET_TRANSITIONS} | {NodeMode.RESTARTING} == set(NodeMode)


def test_begin_without_its_frames_says_which_are_missing(talk):
    talk.say(NodeCommand.ENTER_BOOTLOADER, 1, protocol=2)
    assert talk.say(NodeCommand.BEGIN_TRANSFER, 2, frames=9, crc32=0) == BitmapReply(1, 255, 0, 9, 0x1FF)
    assert talk.say(NodeCommand.BEGIN_TRANSFER, 2, frames=8, crc32=0).code == ResultCode.BAD_OFFER


def test_a_check_out_of_turn_changes_nothing_and_is_answered(bench, bench_parts, talk):
    client = BootloaderClient(bench.wire, position=1, image=bench_parts.NEW())

    def stop(frame):
        if client.next_offset >= 1024:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(client)
    talk.hear()
    stored = talk.node.store.staging_offset
    assert stored % 512 == 0
    done = stored // 512
    assert talk.say(NodeCommand.CHECK_BLOCK, 0, frames=64, report_wanted=1) == ReportReply(1, 0, 1, 0, stored)
    assert talk.say(NodeCommand.CHECK_BLOCK, done - 1, frames=64) == []
    assert talk.say(NodeCommand.CHECK_BLOCK, done, frames=0).code == ResultCode.INCOMPLETE
    assert talk.say(NodeCommand.CHECK_BLOCK, done, frames=65).code == ResultCode.INCOMPLETE
    *missing, report = talk.say(NodeCommand.CHECK_BLOCK, done, frames=64, report_wanted=1)
    assert [(reply.segment, reply.total) for reply in missing] == [(0, report.missing_total), (1, report.missing_total)]
    assert sum(reply.bitmap.bit_count() for reply in missing) == report.missing_total
    assert (report.next_block, report.stored_offset) == (done, stored)
    assert talk.say(NodeCommand.FINISH_TRANSFER, 40).code == ResultCode.INCOMPLETE
    assert talk.node.store.staging_offset == stored


def test_a_confirm_that_raises_the_counter_leaves_a_transfer_as_it_is(bench, bench_parts, talk):
    """RECEIVING stays RECEIVING: the transfer goes on at the same byte, without an interruption."""
    bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET):
        bench.command(1, command)
    bench.command(1, NodeCommand.CONFIRM, raise_counter=False)
    client = BootloaderClient(bench.wire, position=1, image=bench_parts.make_image("2.2.0", size=6000))
    replies = []

    def confirm(frame):
        # Half an erase block is stored behind the progress that the journal has.
        if talk.node.store.staging_offset % 1024 == 512 and not replies:
            request = Request(
                1, NodeCommand.CONFIRM, client._next_tag(), boot_id=talk.node.target._boot_id, raise_counter=1
            )
            talk.node.target.receive_frame(bench.wire.serialize(request), bench.now_ns)
            replies.append((talk.node.store.security_counter, talk.node.target.state))

    bench.on_frame = confirm
    events = bench.run(client)
    assert replies == [(2, NodeMode.RECEIVING)]
    assert not [event for event in events if isinstance(event, TransferInterrupted)]
    assert isinstance(events[-1], ImageVerified)


def test_blocks_that_are_no_whole_number_of_write_units_are_written_in_whole_units(bench_parts):
    """A node whose flash writes 32 bytes at a time may still hold blocks of three frames only."""
    flash = bench_parts.FlashModel(16 * 1024, erase_block_bytes=1024, write_unit_bytes=32)
    node = bench_parts.Node(factory=bench_parts.OLD(), flash=flash, limits=TargetLimits(block_frames_max=3))
    bench = bench_parts.Bench(node)
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))[-1], ImageVerified)
    assert node.flash.read(node.layout.slot_offsets[1], len(bench_parts.NEW())) == bench_parts.NEW()


def test_a_reset_is_carried_out_after_its_answer_has_gone(talk):
    assert talk.say(NodeCommand.RESET, 1).code == ResultCode.OK
    assert talk.node.target.state is NodeMode.RESTARTING
    assert talk.events() == []
    assert talk.say(NodeCommand.DISCOVER, 1) == []
    due = talk.node.target.next_timeout()
    talk.node.target.handle_timeout(due - 1)
    assert talk.events() == []
    talk.node.target.handle_timeout(due)
    assert talk.events() == [ResetRequested]
    assert talk.node.target.next_timeout() is None


def test_a_node_without_an_image_waits_in_its_bootloader_and_can_be_flashed(bench_parts):
    node = bench_parts.Node(factory=None)
    bench = bench_parts.Bench(node)
    described = bench.command(1, NodeCommand.DISCOVER).node
    assert (described.state, described.boot_reason) == (NodeMode.BOOTLOADER, BootReason.NOTHING)
    assert (described.version, described.running_slot, described.active_slot) == (ImageVersion(), None, None)
    event = bench.command(1, NodeCommand.LEAVE_BOOTLOADER)
    assert isinstance(event, CommandFailed)
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))[-1], ImageVerified)
    bench.command(1, NodeCommand.ACTIVATE_TEST)
    assert bench.command(1, NodeCommand.RESET).node.version == ImageVersion(2, 1, 0)
    assert isinstance(bench.command(1, NodeCommand.CONFIRM), CommandSucceeded)
    assert node.store.active_slot == 0


def test_a_command_that_belongs_to_a_transfer_is_refused(bench):
    with pytest.raises(LocalProtocolError, match="got CHECK_BLOCK"):
        BootloaderCommand(bench.wire, position=1, command=NodeCommand.CHECK_BLOCK)


def test_commands_say_what_is_wrong(bench):
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.REVERT):
        event = bench.command(1, command)
        assert (event.cause, event.detail) == (FailureCause.NOTHING_TO_DO, f"{command.name}: NOTHING_TO_DO")
    assert isinstance(bench.command(1, NodeCommand.ENTER_BOOTLOADER), CommandSucceeded)
    assert isinstance(bench.command(1, NodeCommand.LEAVE_BOOTLOADER), CommandSucceeded)
    event = bench.command(1, NodeCommand.DISCOVER, expected_version=ImageVersion(9))
    assert event.detail == "DISCOVER: expected version 9.0.0, got 2.0.0"


class StubbornTarget(BootloaderTarget):
    """Says yes to a reset and goes on."""

    def handle_timeout(self, now_ns):
        self._restart_due_ns = None
        self.state = NodeMode.APPLICATION


def test_a_node_that_never_carries_out_its_reset_is_reported(bench):
    node = bench.nodes[0]
    node.target = StubbornTarget(bench.wire, identity=node.identity, store=node.store, boot=node.boot)
    timing = BootloaderTiming(discover_tries=5)
    event = bench.command(1, NodeCommand.RESET, timing=timing)
    assert (event.cause, event.detail) == (FailureCause.NODE_SILENT, "node 1 did not restart")


def test_a_reset_that_never_arrives_is_not_taken_for_done(bench):
    """A fresh node has no tag to forget; it is given one first, so that "no tag" means "restarted"."""
    bench.fault = lambda frame, rng: () if frame.can_id == 0x700 and frame.data[1] == NodeCommand.RESET else (0,)
    event = bench.command(1, NodeCommand.RESET)
    assert isinstance(event, CommandFailed)
    assert event.cause is FailureCause.NO_PROGRESS
    assert len(bench.nodes[0].boots) == 1


def test_a_description_is_never_mixed_from_two_moments(bench):
    """Version and status come from one request; otherwise a restart in between could show the old version as running."""
    collector = IdentityCollector(1)
    target = bench.nodes[0].target

    def replies():
        target.receive_frame(bench.wire.serialize(collector.request()), NOW)
        return [bench.wire.parse(frame) for frame in target.frames_to_send(NOW)]

    first = replies()
    for reply in first[:2] + first[5:]:
        assert collector.receive(reply) is None
    second = replies()
    for reply in second[2:5] + first[-6:] + first[:5] + second[-6:]:
        assert collector.receive(reply) is None
    assert collector.receive(second[1]) is None
    assert collector.receive(second[0]).version == ImageVersion(2)


@pytest.mark.slow
def test_commands_survive_a_lossy_bus(bench_parts):
    for seed in range(30):
        node = bench_parts.Node(factory=bench_parts.OLD())
        bench = bench_parts.Bench(node, seed=seed)
        bench.fault = lambda frame, rng: () if rng.random() < 0.2 else (0,)
        assert isinstance(bench.command(1, NodeCommand.ENTER_BOOTLOADER), CommandSucceeded)
        event = bench.command(1, NodeCommand.RESET)
        assert isinstance(event, CommandSucceeded), seed
        assert node.target._last_tag == 0


# ---- discovery


def found(bench, **options):
    discovery = BootloaderDiscovery(bench.wire, **options)
    events = bench.run(discovery)
    assert all(isinstance(event, NodeFound) for event in events)
    assert {event.node.position for event in events} == set(discovery.nodes)
    return discovery.nodes


def test_all_nodes_are_found_with_one_question(bench_parts):
    nodes = [bench_parts.Node(position, factory=bench_parts.OLD()) for position in (0, 1, 7, 31)]
    bench = bench_parts.Bench(*nodes)
    described = found(bench)
    assert sorted(described) == [0, 1, 7, 31]
    assert described[7].serial == "SN0000000007"
    assert described[31].class_id == bench_parts.SLAVE_CLASS.class_id
    assert described[0].role is ImageRole.SLAVE
    assert len(bench.sent) == 1


IMPOSSIBLE = [
    ({"hwid": "S\xff1"}, {}, "hwid: expected 1 to 24 printable ASCII characters without spaces, got b'S\\xc3\\xbf1'"),
    ({"hwid": ""}, {}, "hwid: expected 1 to 24 printable ASCII characters without spaces, got b''"),
    ({"hwid": "A" * 28}, {}, "hwid: expected 1 to 24 printable ASCII characters without spaces"),
    ({"hwid": "HW 1"}, {}, "hwid: expected 1 to 24 printable ASCII characters without spaces, got b'HW 1'"),
    ({"hwid": "HW\0001"}, {}, "hwid: expected 1 to 24 printable ASCII characters without spaces"),
    ({"serial": "SN\x07"}, {}, "serial: expected at most 24 printable ASCII characters, got b'SN\\x07'"),
    ({"hardware_class": SimpleNamespace(class_id=UUID(int=0))}, {}, "hardware class: expected a UUID, got 0000"),
    ({"role": 3}, {}, "role: expected 0 to 1, got 3"),
    ({}, {"boot": SimpleNamespace(slot=0, reason=7, facts=None)}, "boot reason: expected 0 to 4, got 7"),
]


@pytest.mark.parametrize(("identity", "boot", "detail"), IMPOSSIBLE, ids=[row[2][:20] for row in IMPOSSIBLE])
def test_an_impossible_identity_is_that_nodes_refusal_by_name(bench_parts, identity, boot, detail):
    """Discovery names it and finds the others; a transfer and a command to it end with its cause. Nothing raises."""
    bench = bench_parts.Bench(*(bench_parts.Node(position, factory=bench_parts.OLD()) for position in (1, 2)))
    target = bench.nodes[1].target
    good = {name: getattr(target._identity, name) for name in ("position", "role", "hwid", "serial", "hardware_class")}
    target._identity = SimpleNamespace(**{**good, **identity})
    for name, value in boot.items():
        setattr(target, f"_{name}", value)
    discovery = BootloaderDiscovery(bench.wire, positions=(1, 2))
    events = bench.run(discovery)
    assert set(discovery.nodes) == {1}
    (refused,) = [event for event in events if isinstance(event, NodeRefused)]
    assert (refused.position, refused.detail[: len(detail)]) == (2, detail)
    failed = bench.run(BootloaderClient(bench.wire, position=2, image=bench_parts.NEW()))[-1]
    assert (failed.cause, failed.safe_to_run_again) == (FailureCause.BAD_IDENTITY, True)
    assert failed.detail.startswith(f"node 2: {detail}")
    assert bench.command(2, NodeCommand.RESET).cause is FailureCause.BAD_IDENTITY


def test_one_altered_frame_of_an_identity_is_asked_for_again(bench):
    altered = []
    discovery = BootloaderDiscovery(bench.wire)
    original = discovery.receive_frame

    def receive(frame, now_ns):
        if not altered and frame.data[0] == ReplyKind.HWID_0:
            altered.append(frame)
            frame = CanFrame(frame.can_id, frame.data[:-1] + b"\xff", frame.is_extended_id)
        original(frame, now_ns)

    discovery.receive_frame = receive
    events = bench.run(discovery)
    assert altered
    assert [type(event) for event in events] == [NodeFound]
    assert discovery.nodes[1].hwid == "HW-0001"


def test_a_node_made_before_the_digest_is_found_without_it(bench_parts):
    """It answers with sixteen frames; its digest is not known, and nobody waits for it."""
    bench = bench_parts.Bench(bench_parts.Node(factory=bench_parts.OLD(), limits=TargetLimits(says_image_digest=False)))
    before_ns = bench.now_ns
    node = found(bench)[1]
    assert (node.image_sha256, Capability.IMAGE_DIGEST in node.capabilities) == (None, False)
    assert bench.now_ns - before_ns < SECOND
    assert node.runs(ImageVersion(2), b"x" * 32), "of such a node the version decides"


def test_parts_of_two_digests_are_never_joined(bench):
    """Parts may come from several tries, but not across a boot that changes the image: the boot id tells."""
    collector = IdentityCollector(1)
    target = bench.nodes[0].target

    def replies(boot_id):
        target._boot_id = boot_id
        target.receive_frame(bench.wire.serialize(collector.request()), NOW)
        return [bench.wire.parse(frame) for frame in target.frames_to_send(NOW)]

    first = replies(1)
    for reply in first[:-3]:
        assert collector.receive(reply) is None
    second = replies(2)
    for reply in (*second[:-6], *second[-3:]):
        assert collector.receive(reply) is None
    third = replies(2)
    for reply in third[:-6]:
        collector.receive(reply)
    for reply in third[-6:-4]:
        assert collector.receive(reply) is None
    assert collector.receive(third[-4]).image_sha256 == bench.nodes[0].store.slots[0].sha256


def test_an_empty_bus_ends_the_search_and_an_expected_node_is_asked_by_name(bench_parts):
    bench = bench_parts.Bench()
    assert found(bench) == {}
    assert len(bench.sent) == 3
    assert found(bench, positions=[4]) == {}
    assert bench.sent[-1].data[0] == 4
    with pytest.raises(LocalProtocolError):
        BootloaderDiscovery(bench.wire, positions=[32])


def test_a_transfer_does_not_disturb_a_node_left_in_another_one(bench_parts):
    """Data frames carry no address: a node with an abandoned transfer hears them and must not store them."""
    nodes = [bench_parts.Node(position, factory=bench_parts.OLD()) for position in (1, 2)]
    bench = bench_parts.Bench(*nodes)
    abandoned = BootloaderClient(bench.wire, position=1, image=bench_parts.NEW())

    def stop(frame):
        if abandoned.next_offset >= 1024:
            bench.cut_client()

    bench.on_frame = stop
    bench.run(abandoned)
    bench.on_frame = None
    other = bench_parts.make_image("2.2.0", counter=3)
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=2, image=other))[-1], ImageVerified)
    offset = nodes[0].store.staging_offset
    assert 1024 <= offset <= 2048
    assert isinstance(bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))[-1], ImageVerified)
    for node, image in zip(nodes, (bench_parts.NEW(), other), strict=True):
        assert node.flash.read(node.layout.slot_offsets[1], len(image)) == image


# ---- tables and values


@pytest.mark.parametrize(
    ("table", "states", "stimuli", "start"),
    [
        (CLIENT_TRANSITIONS, ClientState, ClientStimulus, ClientState.DISCOVERING),
        (COMMAND_TRANSITIONS, CommandState, CommandStimulus, CommandState.DISCOVERING),
    ],
)
def test_every_state_can_be_reached_and_every_stimulus_matters(table, states, stimuli, start):
    reached = {start}
    while more := {after for (state, _), after in table.items() if state in reached} - reached:
        reached |= more
    assert reached == set(states)
    assert {stimulus for _, stimulus in table} == set(stimuli)
    ends = {states.FINISHED, states.FAILED}
    assert {state for state, _ in table} == set(states) - ends


@pytest.mark.parametrize("change", [{"hwid": ""}, {"serial": "x" * 25}, {"hwid": "ä"}])
def test_an_identity_must_fit_the_wire(bench_parts, change):
    good = {"hwid": "A", "serial": "B"}
    with pytest.raises(ConfigurationError):
        TargetIdentity(position=1, role=ImageRole.SLAVE, hardware_class=bench_parts.SLAVE_CLASS, **{**good, **change})


def test_an_impossible_block_size_is_refused(bench, bench_parts):
    node = bench.nodes[0]
    for frames in (0, 65):
        with pytest.raises(ConfigurationError):
            BootloaderTarget(
                bench.wire,
                identity=node.identity,
                store=node.store,
                boot=node.boot,
                limits=TargetLimits(block_frames_max=frames),
            )


def test_timeouts_have_no_effect_before_their_time(bench, bench_parts):
    client = BootloaderClient(bench.wire, position=1, image=bench_parts.NEW())
    assert client.next_timeout() == 0
    assert len(client.frames_to_send(NOW)) == 1
    due = client.next_timeout()
    client.handle_timeout(due - 1)
    assert client.frames_to_send(due - 1) == []
    client.handle_timeout(due)
    assert len(client.frames_to_send(due)) == 1
    client.receive_frame(CanFrame(0x721, bytes(8)), due)
    assert client.next_event() is None
