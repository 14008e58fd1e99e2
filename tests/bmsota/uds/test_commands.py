"""Commands to one node and discovery, against the real server."""

from __future__ import annotations

import pytest

from bmsota.boot import BootReason
from bmsota.errors import LocalProtocolError
from bmsota.image import ImageVersion
from bmsota.node import (
    BootloaderEntered,
    BootloaderLeft,
    Capability,
    CommandFailed,
    CommandSucceeded,
    FailureCause,
    ImageConfirmed,
    ImageVerified,
    NodeCommand,
    NodeFound,
    NodeMode,
    NodeRefused,
    TestRequested,
)
from bmsota.uds import UDS_11BIT, UDS_29BIT, IsoTpParameters, UdsCommand, UdsDiscovery, UdsTiming
from bmsota.uds._identifiers import Did

pytestmark = pytest.mark.slow

MS, SECOND = 1_000_000, 1_000_000_000
OLD_VERSION, NEW_VERSION = ImageVersion(2, 0), ImageVersion(2, 1)
IMPATIENT = UdsTiming(discover_tries=5)


@pytest.fixture
def staged(bench, parts):
    assert isinstance(bench.flash(parts.NEW())[-1], ImageVerified)
    return bench


@pytest.fixture
def on_trial(staged):
    assert staged.command(1, NodeCommand.ACTIVATE_TEST).command is NodeCommand.ACTIVATE_TEST
    assert isinstance(staged.command(1, NodeCommand.RESET, expected_version=NEW_VERSION), CommandSucceeded)
    return staged


def failed(event, cause):
    assert isinstance(event, CommandFailed), event
    assert event.cause is cause, event
    return event


def test_an_image_goes_the_whole_way(on_trial, node):
    assert node.running_version == "2.1.0"
    event = on_trial.command(1, NodeCommand.CONFIRM, expected_version=NEW_VERSION)
    assert isinstance(event, CommandSucceeded)
    assert event.node.version == NEW_VERSION
    assert node.store.security_counter == 2
    assert [type(event) for event in node.events if isinstance(event, TestRequested | ImageConfirmed)] == [
        TestRequested,
        ImageConfirmed,
    ]
    assert on_trial.command(1, NodeCommand.DISCOVER).node.security_counter == 2
    assert len(node.boots) == 2


def test_confirming_without_the_counter_leaves_the_way_back_open(on_trial, node):
    assert isinstance(on_trial.command(1, NodeCommand.CONFIRM, raise_counter=False), CommandSucceeded)
    assert node.store.security_counter == 1
    assert isinstance(on_trial.command(1, NodeCommand.REVERT), CommandSucceeded)
    assert isinstance(on_trial.command(1, NodeCommand.RESET, expected_version=OLD_VERSION), CommandSucceeded)
    assert node.running_version == "2.0.0"


def test_there_is_no_way_back_behind_a_raised_counter(on_trial):
    on_trial.command(1, NodeCommand.CONFIRM)
    event = failed(on_trial.command(1, NodeCommand.REVERT), FailureCause.COUNTER_TOO_LOW)
    assert event.detail == "RoutineControl: COUNTER_TOO_LOW (0xF5)"


def test_there_is_nothing_to_activate_or_revert_on_a_quiet_node(bench):
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.REVERT):
        event = failed(bench.command(1, command), FailureCause.NOTHING_TO_DO)
        assert event.node.version == OLD_VERSION


def test_the_version_is_read_back_behind_a_reset(staged):
    event = failed(staged.command(1, NodeCommand.RESET, expected_version=NEW_VERSION), FailureCause.WRONG_VERSION)
    assert event.detail == "RESET: expected version 2.1.0, got 2.0.0"


def test_entering_and_leaving(bench, node):
    bench.command(1, NodeCommand.ENTER_BOOTLOADER)
    assert node.target.state is NodeMode.BOOTLOADER
    bench.command(1, NodeCommand.LEAVE_BOOTLOADER)
    assert node.target.state is NodeMode.APPLICATION
    assert [event for event in node.events if isinstance(event, BootloaderEntered | BootloaderLeft)] == [
        BootloaderEntered(),
        BootloaderLeft(),
    ]


def test_only_writing_needs_a_key(bench, node):
    for command in (NodeCommand.DISCOVER, NodeCommand.RESET, NodeCommand.LEAVE_BOOTLOADER):
        assert isinstance(bench.command(1, command, access_key=None), CommandSucceeded)
    for command in (NodeCommand.CONFIRM, NodeCommand.REVERT, NodeCommand.ACTIVATE_TEST, NodeCommand.ENTER_BOOTLOADER):
        failed(bench.command(1, command, access_key=None), FailureCause.ACCESS_NEEDED)


def test_commands_of_a_transfer_do_not_stand_alone():
    with pytest.raises(LocalProtocolError, match="expected one that stands alone, got BEGIN_TRANSFER"):
        UdsCommand(UDS_11BIT.address(1), position=1, command=NodeCommand.BEGIN_TRANSFER)


def test_a_node_that_says_yes_and_does_not_restart(bench, node):
    """Its driver forgets the reset; whoever waits for another boot id does not wait for ever."""

    def forget(frame):
        if frame.data[:2] == b"\x02\x51":
            node.target._is_resetting = False
            node.target._restart_due_ns = None

    bench.on_frame = forget
    event = failed(bench.command(1, NodeCommand.RESET, timing=IMPATIENT), FailureCause.NODE_SILENT)
    assert event.detail == "node 1 did not restart"


def test_a_reset_whose_answer_is_lost_is_not_sent_again(bench, node):
    """Whether it has happened is asked instead."""
    bench.fault = lambda frame, _rng: () if frame.data[:2] == b"\x02\x51" else (0,)
    assert isinstance(bench.command(1, NodeCommand.RESET), CommandSucceeded)
    assert sum(frame.data[:3] == b"\x02\x11\x01" for frame in bench.sent) == 1
    assert len(node.boots) == 2


def test_a_node_that_restarts_while_it_says_who_it_is_is_asked_from_the_beginning(staged, node):
    """Its version is that of the boot before, its boot state that of the boot after."""
    staged.command(1, NodeCommand.ACTIVATE_TEST)
    node.restart_ns = 1
    done = []

    def on_frame(frame):
        if not done and frame.data[2:5] == b"\x62\xf1\x91":
            done.append(frame)
        elif len(done) == 1 and frame.data[:2] == b"\x07\x22":
            done.append(frame)
            staged.cut_power(node)

    staged.on_frame = on_frame
    event = staged.command(1, NodeCommand.DISCOVER)
    assert (str(event.node.version), event.node.boot_reason) == ("2.1.0", BootReason.TEST)


def test_a_node_that_restarts_each_time_it_says_who_it_is_is_given_up(bench, node):
    """It answers, so it is not silent; but it is another boot at every question."""

    def restart(_frame):
        node.target._boot_id = node.random.randbytes(4)

    bench.on_frame = restart
    event = failed(bench.command(1, NodeCommand.DISCOVER), FailureCause.NO_PROGRESS)
    assert event.detail == "node 1: expected one boot id in all answers, got another one 9 times"
    discovery = UdsDiscovery(UDS_11BIT)
    assert bench.run(discovery) == []
    assert discovery.nodes == {}


def test_a_slow_answer_is_not_taken_for_silence(bench):
    """It has begun within its time and takes a second: 127 ms between its frames."""
    event = bench.command(1, NodeCommand.DISCOVER, transport=IsoTpParameters(stmin=0x7F))
    assert isinstance(event, CommandSucceeded)
    assert sum(frame.data[:2] == b"\x07\x22" for frame in bench.sent) == 3


def test_a_node_that_restarts_under_a_command_is_asked_again(on_trial, node):
    """It has reverted meanwhile: confirming now would confirm the old image."""
    done = []

    def on_frame(frame):
        if not done and frame.data[:3] == b"\x02\x67\x02":
            done.append(frame)
            on_trial.cut_power(node)

    on_trial.on_frame = on_frame
    failed(on_trial.command(1, NodeCommand.CONFIRM, expected_version=NEW_VERSION), FailureCause.WRONG_VERSION)


def test_a_command_gives_up_when_nothing_gets_through(bench):
    bench.fault = lambda frame, _rng: () if frame.data[:2] == b"\x02\x50" or frame.data[1:2] == b"\x50" else (0,)
    event = failed(bench.command(1, NodeCommand.CONFIRM), FailureCause.NO_PROGRESS)
    assert event.detail == "DiagnosticSessionControl: no answer in 5 tries"


# ---- discovery


def discovered(bench, **options):
    client = UdsDiscovery(bench.addressing, **options)
    events = bench.run(client)
    assert [event.node for event in events] == [client.nodes[position] for position in sorted(client.nodes)]
    assert all(isinstance(event, NodeFound) for event in events)
    return client.nodes


@pytest.mark.parametrize(("addressing", "positions"), [(UDS_11BIT, (0, 3, 7)), (UDS_29BIT, (0, 8, 31))])
def test_everybody_is_found(parts, addressing, positions):
    nodes = [parts.Node(position, factory=parts.OLD()) for position in positions]
    bench = parts.Bench(*nodes, addressing=addressing)
    found = discovered(bench)
    assert [(node.position, node.hwid) for node in found.values()] == [(at, f"HW-{at:04d}") for at in positions]


@pytest.mark.parametrize(
    ("did", "value", "detail"),
    [
        (Did.HARDWARE_ID, b"S\xff1".ljust(24, b"\0"), "node 2: hwid: expected 1 to 24 printable ASCII characters"),
        (Did.IMAGE_DIGEST, None, ""),
    ],
)
def test_a_node_with_an_impossible_identity_is_refused_by_name_and_the_others_are_found(parts, did, value, detail):
    """And one made before the digest is found without it."""
    nodes = [parts.Node(position, factory=parts.OLD()) for position in (1, 2)]
    bench = parts.Bench(*nodes)
    target = nodes[1].target
    target._identifiers = {**target._identifiers, did: lambda: value}
    if value is None:
        del target._identifiers[did]
        target._capabilities &= ~Capability.IMAGE_DIGEST
    client = UdsDiscovery(bench.addressing)
    events = bench.run(client)
    refused = [event for event in events if isinstance(event, NodeRefused)]
    if value is None:
        assert (refused, set(client.nodes), client.nodes[2].image_sha256) == ([], {1, 2}, None)
        assert client.nodes[1].image_sha256 is not None
    else:
        assert set(client.nodes) == {1}
        assert [event.position for event in refused] == [2]
        assert refused[0].detail.startswith(detail)


def test_nobody_is_found_on_an_empty_bus(parts):
    bench = parts.Bench()
    begin = bench.now_ns
    assert discovered(bench) == {}
    assert len(bench.sent) == 2
    assert bench.now_ns - begin < SECOND


def test_who_is_expected_is_asked_by_name(parts):
    """Node 2 does not hear functional requests."""
    nodes = [parts.Node(position, factory=parts.OLD()) for position in (1, 2)]
    bench = parts.Bench(*nodes)
    hear = nodes[1].target.receive_frame
    nodes[1].target.receive_frame = lambda frame, now_ns: frame.can_id != 0x7DF and hear(frame, now_ns)
    assert set(discovered(bench)) == {1}
    assert set(discovered(bench, positions=[2])) == {1, 2}
    assert set(discovered(bench, positions=[2, 5])) == {1, 2}


def test_discovery_changes_nothing(bench, node, parts):
    operations = node.flash.operations
    discovered(bench)
    assert node.flash.operations == operations
    assert node.events == []
    assert {frame.data[1] for frame in bench.sent} <= {0x3E, 0x22, 0x00}, "questions and flow control only"


def test_a_position_without_ids_is_refused():
    with pytest.raises(LocalProtocolError, match="position: expected 0 to 7, got 8"):
        UdsDiscovery(UDS_11BIT, positions=[8])
