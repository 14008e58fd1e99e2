"""The boot window of a UDS server: a way back over CAN for a node whose confirmed application hangs."""

from __future__ import annotations

import uds_rig
from hanging import Hanging

from bmsota.image import ImageVersion
from bmsota.node import (
    ApplicationStarted,
    BootloaderEntered,
    BootloaderLeft,
    CommandSucceeded,
    FailureCause,
    ImageConfirmed,
    ImageVerified,
    NodeCommand,
    NodeMode,
)
from bmsota.uds import UdsServerTiming

MS = 1_000_000
SECOND = 1_000 * MS
WINDOW = UdsServerTiming(boot_window_ns=500 * MS)


class HangingNode(Hanging, uds_rig.Node):
    """A node that speaks UDS and whose application hangs."""


def flash(node):
    """The tester looks for the node while its supply is switched off and on."""
    node.restart_ns = SECOND
    bench = uds_rig.Bench(node)
    bench.run(limit_s=2)
    bench.cut_power(node)
    return bench, bench.flash(uds_rig.NEW())


def test_a_confirmed_application_that_hangs_is_replaced_over_can():
    node = HangingNode(factory=uds_rig.OLD(), timing=WINDOW)
    bench, events = flash(node)
    assert isinstance(events[-1], ImageVerified)
    assert isinstance(bench.command(1, NodeCommand.ACTIVATE_TEST), CommandSucceeded)
    node.hangs = False  # The new image's application does not.
    version = ImageVersion.parse("2.1.0")
    for command in (NodeCommand.RESET, NodeCommand.CONFIRM):
        assert isinstance(bench.command(1, command, expected_version=version), CommandSucceeded)
    assert node.store.active_slot == 1


def test_without_a_window_it_has_no_way_back():
    node = HangingNode(factory=uds_rig.OLD())
    _, events = flash(node)
    assert events[-1].cause is FailureCause.NODE_SILENT


def test_the_application_starts_once_when_the_window_is_over():
    node = uds_rig.Node(factory=uds_rig.OLD(), timing=WINDOW)
    uds_rig.Bench(node)
    server = node.target
    assert (server.state, server.is_in_boot_window) == (NodeMode.BOOTLOADER, True)
    assert server.next_timeout() == 0
    server.handle_timeout(7 * SECOND)
    end = server.next_timeout()
    assert end == 7 * SECOND + WINDOW.boot_window_ns
    server.handle_timeout(end - 1)
    assert server.next_event() is None
    server.handle_timeout(end)
    assert (server.next_event(), server.next_event(), server.state) == (
        ApplicationStarted(),
        None,
        NodeMode.APPLICATION,
    )


def test_a_programming_session_holds_the_node_until_it_ends():
    node = uds_rig.Node(factory=uds_rig.OLD(), timing=WINDOW)
    bench = uds_rig.Bench(node)
    bench.command(1, NodeCommand.ENTER_BOOTLOADER)
    bench.run(limit_s=4)
    assert node.target.state is NodeMode.BOOTLOADER
    bench.run(limit_s=3)
    assert node.target.state is NodeMode.APPLICATION
    assert [type(event).__name__ for event in node.events if not isinstance(event, BootloaderEntered)][-1] == (
        "BootloaderLeft"
    )
    assert ApplicationStarted() not in node.events


def test_an_image_in_test_is_confirmed_after_its_application_has_started():
    node = uds_rig.Node(factory=uds_rig.OLD(), timing=WINDOW)
    bench = uds_rig.Bench(node)
    bench.flash(uds_rig.NEW())
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET):
        bench.command(1, command)
    assert isinstance(bench.command(1, NodeCommand.CONFIRM), CommandSucceeded)
    events = [event for event in node.events if isinstance(event, ApplicationStarted | ImageConfirmed)]
    assert events[-2:] == [ApplicationStarted(), ImageConfirmed()]


def test_a_node_without_an_image_has_no_window():
    node = uds_rig.Node(factory=None, timing=WINDOW)
    uds_rig.Bench(node)
    assert (node.target.state, node.target.is_in_boot_window) == (NodeMode.BOOTLOADER, False)


def test_a_discovery_can_hold_the_nodes_it_finds_in_their_window():
    """One that runs its application is not told anything; the held one leaves by itself when nothing is sent for S3."""
    held, running = uds_rig.Node(1, factory=uds_rig.OLD(), timing=WINDOW), uds_rig.Node(2, factory=uds_rig.OLD())
    bench = uds_rig.Bench(held, running)
    discovery = bench.discovery(holds_nodes=True)
    bench.run(discovery)
    assert {position: node.state for position, node in discovery.nodes.items()} == {
        1: NodeMode.BOOTLOADER,
        2: NodeMode.APPLICATION,
    }
    assert (held.target.session, running.target.session) == (2, 1)
    for _ in range(3):
        bench.run(limit_s=4)
        bench.run(bench.discovery(holds_nodes=True))
    assert ApplicationStarted() not in held.events
    assert held.events.count(BootloaderEntered()) == 1
    bench.run(limit_s=6)
    assert held.target.state is NodeMode.APPLICATION


def test_a_discovery_that_holds_nothing_leaves_the_window_alone():
    node = uds_rig.Node(1, factory=uds_rig.OLD(), timing=WINDOW)
    bench = uds_rig.Bench(node)
    bench.run(bench.discovery())
    bench.run(limit_s=1)
    assert BootloaderEntered() not in node.events
    assert node.target.state is NodeMode.APPLICATION


def test_a_held_node_whose_application_hangs_is_flashed_without_ever_starting_it():
    """Transfer, activation and reset stay in the programming session: between them the old application would start, and hang."""
    node = HangingNode(factory=uds_rig.OLD(), timing=WINDOW)
    bench = uds_rig.Bench(node)
    bench.run(bench.discovery(holds_nodes=True))
    assert isinstance(bench.flash(uds_rig.NEW())[-1], ImageVerified)
    assert isinstance(bench.command(1, NodeCommand.ACTIVATE_TEST), CommandSucceeded)
    assert not {ApplicationStarted(), BootloaderLeft()} & set(node.events)
    node.hangs = False
    assert isinstance(bench.command(1, NodeCommand.RESET), CommandSucceeded)
