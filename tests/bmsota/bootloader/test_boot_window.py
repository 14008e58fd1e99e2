"""The boot window: a way back over CAN for a node whose confirmed application hangs."""

from __future__ import annotations

import bootloader_rig
import pytest
from hanging import Hanging

from bmsota.bootloader import BootloaderClient, BootloaderTiming, TargetTiming
from bmsota.bootloader._messages import PendingReply, Request, ResultReply
from bmsota.image import ImageVersion
from bmsota.node import (
    ApplicationStarted,
    BootloaderEntered,
    CommandSucceeded,
    FailureCause,
    ImageConfirmed,
    ImageVerified,
    NodeCommand,
    NodeMode,
    ResultCode,
)

MS = 1_000_000
SECOND = 1_000 * MS
WINDOW = TargetTiming(boot_window_ns=500 * MS)


class HangingNode(Hanging, bootloader_rig.Node):
    """A node of the bootloader whose application hangs."""


def hanging(bench_parts, **options):
    node = HangingNode(factory=bench_parts.OLD(), **options)
    node.restart_ns = SECOND
    return node, bench_parts.Bench(node)


def flash(bench, bench_parts):
    """The flasher looks for the node while its supply is switched off and on."""
    bench.run(limit_s=2)
    bench.cut_power(bench.nodes[0])
    return bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))


def test_a_confirmed_application_that_hangs_is_replaced_over_can(bench_parts):
    node, bench = hanging(bench_parts, timing=WINDOW)
    assert isinstance(flash(bench, bench_parts)[-1], ImageVerified)
    assert isinstance(bench.command(1, NodeCommand.ACTIVATE_TEST), CommandSucceeded)
    node.hangs = False  # The new image's application does not.
    version = ImageVersion.parse("2.1.0")
    for command in (NodeCommand.RESET, NodeCommand.CONFIRM):
        assert isinstance(bench.command(1, command, expected_version=version), CommandSucceeded)
    assert node.store.active_slot == 1


def test_without_a_window_it_has_no_way_back(bench_parts):
    node, bench = hanging(bench_parts)
    event = flash(bench, bench_parts)[-1]
    assert event.cause is FailureCause.NODE_SILENT
    assert node.target is None


def test_the_application_starts_once_when_the_window_is_over(bench_parts):
    node = bench_parts.Node(factory=bench_parts.OLD(), timing=WINDOW)
    target, wire = bench_parts.Bench(node).nodes[0].target, bootloader_rig.BootloaderWire(bootloader_rig.database())
    assert (target.state, target.is_in_boot_window, target.wants_data) == (NodeMode.BOOTLOADER, True, False)
    assert target.next_timeout() == 0  # It begins with the first moment the node hears of.
    target.handle_timeout(7 * SECOND)
    end = target.next_timeout()
    assert end == 7 * SECOND + WINDOW.boot_window_ns
    target.receive_frame(wire.serialize(Request(1, NodeCommand.DISCOVER, 1)), end - 2)
    target.handle_timeout(end - 1)
    assert target.next_event() is None
    target.handle_timeout(end)
    assert (target.next_event(), target.next_event(), target.state) == (
        ApplicationStarted(),
        None,
        NodeMode.APPLICATION,
    )
    assert not target.is_in_boot_window


def test_a_flasher_that_has_come_holds_the_node_until_it_leaves_or_is_silent(bench_parts):
    node = bench_parts.Node(factory=bench_parts.OLD(), timing=WINDOW)
    bench = bench_parts.Bench(node)
    bench.command(1, NodeCommand.ENTER_BOOTLOADER)
    bench.run(limit_s=50)
    assert node.target.state is NodeMode.BOOTLOADER
    bench.run(limit_s=15)
    assert node.target.state is NodeMode.APPLICATION
    assert [type(event).__name__ for event in node.events] == ["BootloaderEntered", "BootloaderLeft"]


def test_leave_in_the_window_starts_the_application_at_once(bench_parts):
    node = bench_parts.Node(factory=bench_parts.OLD(), timing=WINDOW)
    bench = bench_parts.Bench(node)
    begun_ns = bench.now_ns
    bench.command(1, NodeCommand.LEAVE_BOOTLOADER)
    assert node.events == [ApplicationStarted()]
    assert bench.now_ns < begun_ns + WINDOW.boot_window_ns


def test_an_image_in_test_is_confirmed_after_its_application_has_started(bench_parts):
    """A flasher that is quick confirms inside the window; the node lets it wait, and does it when the application runs."""
    node = bench_parts.Node(factory=bench_parts.OLD(), timing=WINDOW)
    bench = bench_parts.Bench(node)
    bench.run(BootloaderClient(bench.wire, position=1, image=bench_parts.NEW()))
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET):
        bench.command(1, command)
    node.events.clear()
    assert isinstance(bench.command(1, NodeCommand.CONFIRM), CommandSucceeded)
    assert node.events == [ApplicationStarted(), ImageConfirmed()]
    replies = [bench.wire.parse(frame) for frame in bench.frames[-6:]]
    assert [type(reply) for reply in replies if isinstance(reply, PendingReply | ResultReply)] == [
        PendingReply,
        ResultReply,
    ]


@pytest.mark.parametrize("command", [NodeCommand.BEGIN_TRANSFER, NodeCommand.CHECK_BLOCK])
def test_a_transfer_begins_with_enter_bootloader_in_the_window_too(bench_parts, command):
    node = bench_parts.Node(factory=bench_parts.OLD(), timing=WINDOW)
    bench = bench_parts.Bench(node)
    request = Request(1, command, 1, frames=9, report_wanted=1)
    node.target.receive_frame(bench.wire.serialize(request), bench.now_ns)
    (frame,) = node.target.frames_to_send(bench.now_ns)
    assert bench.wire.parse(frame).code == ResultCode.WRONG_STATE
    assert node.target.is_in_boot_window


def test_a_reset_in_the_window_starts_no_application(bench_parts):
    node = bench_parts.Node(factory=bench_parts.OLD(), timing=TargetTiming(boot_window_ns=30 * MS))
    bench = bench_parts.Bench(node)
    bench.command(1, NodeCommand.LEAVE_BOOTLOADER)
    boots = len(node.boots)
    node.power_off()
    node.power_on(bench.wire)
    node.events.clear()
    target = node.target
    target.receive_frame(
        bench.wire.serialize(Request(1, NodeCommand.RESET, 1, boot_id=target._boot_id)), bench.now_ns + 20 * MS
    )
    target.handle_timeout(bench.now_ns + 50 * MS)
    assert type(target.next_event()).__name__ == "ResetRequested"
    assert target.next_event() is None
    assert target.state is NodeMode.RESTARTING
    assert len(node.boots) == boots + 1


def test_a_node_without_an_image_has_no_window(bench_parts):
    node = bench_parts.Node(factory=None, timing=WINDOW)
    target = bench_parts.Bench(node).nodes[0].target
    assert (target.state, target.is_in_boot_window, target.wants_data) == (NodeMode.BOOTLOADER, False, True)


@pytest.mark.slow
def test_a_flasher_finds_the_window_even_on_a_lossy_bus(bench_parts):
    """500 ms are enough at 10 % loss, for every seed of twelve: what has come of a description is enough to hold the node."""
    for seed in range(12):
        node, bench = hanging(bench_parts, timing=WINDOW)
        bench.rng.seed(seed)
        bench.fault = lambda _frame, rng: () if rng.random() < 0.1 else (0,)
        bench.cut_power(node)
        client = BootloaderClient(bench.wire, position=1, image=bench_parts.NEW(), timing=BootloaderTiming())
        events = bench.run(client)
        assert isinstance(events[-1], ImageVerified), seed
        assert BootloaderEntered() in node.events


@pytest.mark.parametrize("holds", [True, False])
def test_a_discovery_can_hold_the_nodes_it_finds_in_their_window(bench_parts, holds):
    node = bench_parts.Node(factory=bench_parts.OLD(), timing=WINDOW)
    bench = bench_parts.Bench(node)
    bench.run(bench.discovery(holds_nodes=holds))
    bench.run(limit_s=5)
    assert node.target.state is (NodeMode.BOOTLOADER if holds else NodeMode.APPLICATION)
    assert (BootloaderEntered() in node.events) is holds
