"""The flashing engine against real bootloader targets on a bus in memory: one node's trouble is not the others'."""

from __future__ import annotations

from functools import partial

import pytest
from node import EngineClient
from pack_rig import NEW, OLD, Node, Pack, make_image, wire

from bmsota.boot import SlotState
from bmsota.bootloader import BootloaderTiming, TargetLimits
from bmsota.bootloader._messages import Request
from bmsota.errors import ImageError, LocalProtocolError
from bmsota.flashing import (
    BootloaderProfile,
    FlashingEngine,
    NodeDone,
    NodesDiscovered,
    OperationFinished,
    TransferBegun,
    TransferBroken,
    TransferProgressed,
)
from bmsota.image import HardwareClass
from bmsota.node import FlashJob, NodeCommand

pytestmark = pytest.mark.slow

OTHER_CLASS = HardwareClass.named("bmsota.example", "another-slave")
# A dead node is given up after 0.5 s instead of 10.
TIMING = BootloaderTiming(discover_tries=5)


class Bus(Pack):
    """A pack behind an engine."""

    def __init__(self, *nodes, broadcast=True):
        super().__init__(*nodes)
        self.engine = FlashingEngine(BootloaderProfile(wire(), timing=TIMING, broadcast=broadcast))

    def run(self):
        """Run the operation to its end; its events."""
        return super().run(EngineClient(self.engine), limit_s=60)

    def commands(self):
        """(position, command) in the order in which they were given, repetitions left out."""
        given = [
            (request.node, request.command) for request in self.requests if request.command is not NodeCommand.DISCOVER
        ]
        return [pair for index, pair in enumerate(given) if index == 0 or given[index - 1] != pair]


@pytest.fixture
def bus():
    return Bus(Node(1), Node(2), Node(3))


def results(events, operation):
    finished = events[-1]
    assert isinstance(finished, OperationFinished)
    assert finished.operation == operation
    assert [event for event in events if isinstance(event, OperationFinished)] == [finished]
    return {result.position: result for result in finished.results}


def flash(bus, *positions):
    bus.engine.flash([FlashJob(position, make_image()) for position in positions])
    return bus.run()


def activate(bus, *positions):
    flash(bus, *positions)
    bus.engine.activate(positions)
    return bus.run()


def test_discovery_names_everybody_by_rising_position(bus):
    bus.engine.discover((1, 2, 3))
    assert not bus.engine.is_idle
    (found,) = bus.run()
    assert isinstance(found, NodesDiscovered)
    assert [(node.position, node.hwid, node.version) for node in found.nodes] == [
        (1, "HW-1", OLD),
        (2, "HW-2", OLD),
        (3, "HW-3", OLD),
    ]
    assert bus.engine.is_idle


def test_discovery_ends_without_the_dead(bus):
    bus.nodes[2].is_dead = True
    bus.engine.discover((1, 2, 3))
    (found,) = bus.run()
    assert [node.position for node in found.nodes] == [1, 3]


def test_discovery_of_nobody_ends(bus):
    for node in bus.nodes.values():
        node.is_dead = True
    bus.engine.discover((1, 2, 3))
    assert bus.run() == [NodesDiscovered(())]


def test_flashing_stages_and_runs_nothing(bus):
    events = flash(bus, 1, 2, 3)
    assert {position: result.ok for position, result in results(events, "flash").items()} == {1: True, 2: True, 3: True}
    for node in bus.nodes.values():
        assert node.version == OLD
        assert node.store.slots[node.store.spare_slot].state is SlotState.STAGED
        assert node.restarts == 0
    progress = [event for event in events if isinstance(event, TransferProgressed)]
    assert [event.position for event in progress] == sorted(event.position for event in progress)
    assert all(event.size_bytes == len(make_image()) for event in progress)
    assert [event.next_offset for event in progress if event.position == 2][-1] == len(make_image())


def test_equal_nodes_get_their_image_at_once(bus):
    events = flash(bus, 3, 1)
    assert {position: result.ok for position, result in results(events, "flash").items()} == {1: True, 3: True}
    blocks = [request for request in bus.requests if request.command is NodeCommand.CHECK_BLOCK]
    assert {request.node for request in blocks} <= set(range(128, 255))
    begun = [event for event in events if isinstance(event, TransferBegun)]
    assert {event.position for event in begun} == {1, 3}


def test_a_node_that_takes_no_broadcast_has_its_turn_behind_the_others():
    bus = Bus(Node(1), Node(2, limits=TargetLimits(takes_broadcast=False)), Node(3))
    events = flash(bus, 1, 2, 3)
    assert {position: result.ok for position, result in results(events, "flash").items()} == {1: True, 2: True, 3: True}
    assert [event.result.position for event in events if isinstance(event, NodeDone)] == [1, 3, 2]
    streams = [request.node for request in bus.requests if request.command is NodeCommand.CHECK_BLOCK]
    assert streams[0] >= 128
    assert streams[-1] == 2


def test_a_node_that_can_neither_is_refused_once():
    """The wire is CAN FD, the node is not: alone it fails in the same way, and that is its result."""
    bus = Bus(Node(1), Node(2))
    bus.engine = FlashingEngine(BootloaderProfile(wire("bms_bootloader_fd"), timing=TIMING))
    events = flash(bus, 1, 2)
    found = results(events, "flash")
    assert {result.detail for result in found.values()} == {
        "capability missing: expected a node with CAN FD, got one without"
    }
    assert sorted(event.result.position for event in events if isinstance(event, NodeDone)) == [1, 2]


def test_nodes_are_served_one_after_another_in_the_order_given():
    bus = Bus(Node(1), Node(2), Node(3), broadcast=False)
    flash(bus, 3, 1)
    once = list(dict.fromkeys(bus.commands()))
    steps = [
        NodeCommand.ENTER_BOOTLOADER,
        NodeCommand.BEGIN_TRANSFER,
        NodeCommand.OPEN_BLOCK,
        NodeCommand.CHECK_BLOCK,
        NodeCommand.FINISH_TRANSFER,
    ]
    assert once == [(position, command) for position in (3, 1) for command in steps]


def test_one_dead_node_does_not_stop_the_others(bus):
    bus.nodes[2].is_dead = True
    found = results(flash(bus, 1, 2, 3), "flash")
    assert {position: result.ok for position, result in found.items()} == {1: True, 2: False, 3: True}
    assert found[2].detail.startswith("node silent: node 2 did not answer")
    assert found[2].safe_to_run_again


def test_a_node_of_another_class_is_refused_before_anything_is_written():
    bus = Bus(Node(1), Node(2, hardware=OTHER_CLASS), Node(3))
    before = bus.nodes[2].flash.operations
    found = results(flash(bus, 1, 2, 3), "flash")
    assert {position: result.ok for position, result in found.items()} == {1: True, 2: False, 3: True}
    assert found[2].detail.startswith("wrong hardware: expected hardware class")
    assert bus.nodes[2].flash.operations == before


@pytest.mark.parametrize("broadcast", [True, False])
def test_a_node_that_dies_in_its_transfer_is_given_up_and_the_others_served(broadcast):
    bus = Bus(Node(1), Node(2), Node(3), broadcast=broadcast)

    def kill(request):
        if request.command is NodeCommand.CHECK_BLOCK:
            bus.nodes[1].is_dead = True

    bus.on_request = kill
    events = flash(bus, 1, 2)
    found = results(events, "flash")
    assert (found[1].ok, found[2].ok) == (False, True)
    assert [event.position for event in events if isinstance(event, TransferBroken)] == [1]


def test_activation_boots_each_node_on_trial(bus):
    found = results(activate(bus, 1, 2, 3), "activate")
    assert all(result.ok for result in found.values())
    for node in bus.nodes.values():
        assert node.version == NEW
        assert node.store.is_test_pending
        assert node.restarts == 1
    order = [pair for pair in bus.commands() if pair[1] in {NodeCommand.ACTIVATE_TEST, NodeCommand.RESET}]
    assert order == [
        (position, command) for position in (1, 2, 3) for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET)
    ]


def test_a_failed_step_leaves_out_the_later_steps_of_the_same_node_only(bus):
    """Node 2 has nothing staged: it must not be restarted for that."""
    flash(bus, 1, 3)
    bus.engine.activate((1, 2, 3))
    found = results(bus.run(), "activate")
    assert {position: result.ok for position, result in found.items()} == {1: True, 2: False, 3: True}
    assert found[2].detail == "nothing to do: ACTIVATE_TEST: NOTHING_TO_DO"
    assert [node.restarts for node in bus.nodes.values()] == [1, 0, 1]


def test_confirming_without_counters_leaves_the_way_back_open(bus):
    activate(bus, 1, 2, 3)
    bus.engine.confirm([(1, NEW), (2, NEW), (3, NEW)], raise_counter=False)
    assert all(result.ok for result in results(bus.run(), "confirm").values())
    assert [node.store.security_counter for node in bus.nodes.values()] == [1, 1, 1]
    bus.engine.revert((1, 2, 3))
    assert all(result.ok for result in results(bus.run(), "revert").values())
    assert [node.version for node in bus.nodes.values()] == [OLD, OLD, OLD]


def test_a_raised_counter_closes_the_way_back(bus):
    activate(bus, 1)
    bus.engine.confirm([(1, NEW)], raise_counter=True)
    bus.run()
    assert bus.nodes[1].store.security_counter == 2
    bus.engine.revert((1,))
    found = results(bus.run(), "revert")
    assert found[1].detail == "security counter too low: REVERT: COUNTER_TOO_LOW"
    assert bus.nodes[1].version == NEW


def test_a_node_that_has_fallen_back_does_not_confirm_its_old_image(bus):
    activate(bus, 1, 2)
    bus.nodes[1].restart()  # unconfirmed: reverted by the boot
    bus.engine.confirm([(1, NEW), (2, NEW)], raise_counter=False)
    found = results(bus.run(), "confirm")
    assert (found[1].ok, found[2].ok) == (False, True)
    assert found[1].detail == "wrong version: CONFIRM: expected version 2.1.0, got 2.0.0"


def test_a_restart_ends_a_trial_and_a_session(bus):
    activate(bus, 1)
    bus.engine.restart((1, 2))
    assert all(result.ok for result in results(bus.run(), "restart").values())
    assert [node.version for node in bus.nodes.values()] == [OLD, OLD, OLD]
    assert [node.restarts for node in bus.nodes.values()] == [2, 1, 0]


def test_an_operation_over_nobody_is_over_at_once(bus):
    for begin, name in (
        (partial(bus.engine.flash, []), "flash"),
        (partial(bus.engine.revert, ()), "revert"),
        (partial(bus.engine.confirm, [], raise_counter=True), "confirm"),
    ):
        begin()
        assert bus.engine.is_idle
        assert bus.run() == [OperationFinished(name, ())]
    assert bus.requests == []


def test_one_operation_at_a_time(bus):
    bus.engine.discover((1,))
    with pytest.raises(LocalProtocolError, match="expected no operation under way, got 'discover'"):
        bus.engine.restart((1,))
    assert isinstance(bus.run()[0], NodesDiscovered)


def test_a_cancelled_operation_says_nothing_more_and_the_next_may_begin(bus):
    bus.engine.flash([FlashJob(1, make_image()), FlashJob(2, make_image())])
    bus.engine.frames_to_send(bus.now_ns)
    bus.engine.cancel()
    assert bus.engine.is_idle
    assert bus.engine.next_event() is None
    assert bus.engine.next_timeout() is None
    assert bus.engine.frames_to_send(bus.now_ns) == []
    assert results(flash(bus, 3), "flash").keys() == {3}


def test_what_is_no_image_is_refused_and_nothing_is_under_way(bus):
    with pytest.raises(ImageError):
        bus.engine.flash([FlashJob(1, make_image()), FlashJob(2, b"no image")])
    assert bus.engine.is_idle
    assert results(flash(bus, 1), "flash")[1].ok


def test_time_and_frames_without_an_operation_do_nothing(bus):
    bus.engine.handle_timeout(bus.now_ns)
    bus.engine.receive_frame(wire().serialize(Request(1, NodeCommand.DISCOVER, tag=1)), bus.now_ns)
    assert bus.engine.next_timeout() is None
    assert bus.engine.next_event() is None
