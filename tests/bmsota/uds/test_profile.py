"""The flashing engine over UDS: the same operations and results as with the bootloader."""

from __future__ import annotations

import pytest
from node import EngineClient

from bmsota.errors import LocalProtocolError
from bmsota.flashing import (
    FlashingEngine,
    FlashingProfile,
    NodesDiscovered,
    OperationFinished,
    TransferBegun,
    TransferBroken,
    TransferProgressed,
    UdsProfile,
)
from bmsota.image import HardwareClass, ImageVersion
from bmsota.node import FailureCause, FlashJob, NodeCommand
from bmsota.uds import UDS_11BIT, UDS_29BIT, UdsDialect, UdsTiming

OLD, NEW = ImageVersion(2, 0), ImageVersion(2, 1)
TIMING = UdsTiming(discover_tries=5)


@pytest.fixture(params=["11 bit", "29 bit"])
def world(request, parts):
    class World:
        def __init__(self, positions=(1, 2, 3)):
            self.addressing = UDS_11BIT if request.param == "11 bit" else UDS_29BIT
            self.nodes = [parts.Node(position, factory=parts.OLD()) for position in positions]
            self.bench = parts.Bench(*self.nodes, addressing=self.addressing)
            self.profile: FlashingProfile = UdsProfile(self.addressing, access_key=parts.ACCESS_KEY, timing=TIMING)
            self.engine = FlashingEngine(self.profile)

        def run(self):
            return self.bench.run(EngineClient(self.engine))

        def results(self, operation):
            events = self.run()
            finished = events[-1]
            assert isinstance(finished, OperationFinished)
            assert finished.operation == operation
            return {result.position: result for result in finished.results}

        def flash(self, *positions, image=None):
            self.engine.flash([FlashJob(position, image or parts.NEW()) for position in positions])
            return self.results("flash")

        @property
        def versions(self):
            return [node.running_version for node in self.nodes]

    return World()


@pytest.mark.slow
def test_a_pack_goes_forward_and_back(world):
    world.engine.discover((1, 2, 3))
    (found,) = world.run()
    assert isinstance(found, NodesDiscovered)
    assert [(node.position, node.hwid, node.version) for node in found.nodes] == [
        (position, f"HW-{position:04d}", OLD) for position in (1, 2, 3)
    ]
    assert all(result.ok for result in world.flash(1, 2, 3).values())
    assert world.versions == ["2.0.0"] * 3, "nothing runs it yet"
    world.engine.activate((1, 2, 3))
    assert all(result.ok for result in world.results("activate").values())
    assert world.versions == ["2.1.0"] * 3
    world.engine.confirm([(1, NEW), (2, NEW), (3, NEW)], raise_counter=False)
    assert all(result.ok for result in world.results("confirm").values())
    assert [node.store.security_counter for node in world.nodes] == [1, 1, 1]
    world.engine.revert((1, 2, 3))
    assert all(result.ok for result in world.results("revert").values())
    assert world.versions == ["2.0.0"] * 3
    world.engine.activate((1, 2, 3))
    assert all(result.ok for result in world.results("activate").values()), "it is still staged"
    world.engine.confirm([(1, NEW), (2, NEW), (3, NEW)], raise_counter=True)
    world.results("confirm")
    world.engine.restart((1, 2, 3))
    assert all(result.ok for result in world.results("restart").values())
    assert world.versions == ["2.1.0"] * 3
    assert [node.store.security_counter for node in world.nodes] == [2, 2, 2]


def test_progress_is_told(world, parts):
    world.engine.flash([FlashJob(2, parts.NEW())])
    events = world.run()
    assert events[0] == TransferBegun(2, 0, len(parts.NEW()), stream=(2,))
    assert events[1] == TransferProgressed(2, len(parts.NEW()), len(parts.NEW()))


@pytest.mark.slow
def test_one_nodes_trouble_is_not_the_others(world):
    world.nodes[1].power_off()
    found = world.flash(1, 2, 3)
    assert {position: result.ok for position, result in found.items()} == {1: True, 2: False, 3: True}
    assert found[2].cause is FailureCause.NODE_SILENT
    assert found[2].safe_to_run_again
    world.bench.cut_power(world.nodes[1])
    world.bench.run(limit_s=1)
    assert world.flash(1, 2, 3)[2].ok


def test_a_node_that_dies_half_way_goes_on(world, parts):
    node = world.nodes[1]
    node.options["block_length_max"] = 0x102
    world.bench.cut_power(node)
    world.bench.run(limit_s=1)
    cut = []
    response_id = world.addressing.address(2).response_id

    def on_frame(frame):
        if not cut and frame.can_id == response_id and frame.data[:3] == b"\x02\x76\x06":
            cut.append(frame)
            world.bench.cut_power(node)

    world.bench.on_frame = on_frame
    world.engine.flash([FlashJob(2, parts.NEW())])
    events = world.run()
    assert sum(isinstance(event, TransferBroken) for event in events) == 1
    assert [event.offset for event in events if isinstance(event, TransferBegun)] == [0, 1024]
    assert events[-1].results[0].ok


def test_an_image_of_another_class_is_refused(world, parts):
    other = parts.make_image("2.1.0", counter=2, hardware=HardwareClass.named("bmsota.example", "another"))
    assert world.flash(1, image=other)[1].cause is FailureCause.WRONG_HARDWARE


@pytest.mark.slow
def test_a_node_that_has_fallen_back_does_not_confirm_its_old_image(world):
    world.flash(1, 2)
    world.engine.activate((1, 2))
    world.results("activate")
    world.bench.cut_power(world.nodes[0])
    world.bench.run(limit_s=1)
    world.engine.confirm([(1, NEW), (2, NEW)], raise_counter=False)
    found = world.results("confirm")
    assert (found[1].ok, found[2].ok) == (False, True)
    assert found[1].detail == "wrong version: CONFIRM: expected version 2.1.0, got 2.0.0"


def test_the_profile_says_what_it_is_and_cannot():
    profile = UdsProfile()
    assert profile.name == "uds"
    assert profile.broadcast([1, 2], b"") is None
    with pytest.raises(LocalProtocolError, match="position: expected 0 to 7, got 8"):
        profile.transfer(8, b"")
    with pytest.raises(LocalProtocolError, match="position: expected 0 to 7, got 9"):
        profile.command(9, NodeCommand.RESET)


def test_a_dialect_reaches_the_machines(parts):
    bench = parts.Bench(parts.Node(factory=parts.OLD()))
    profile = UdsProfile(access_key=parts.ACCESS_KEY, dialect=UdsDialect(block_length_max=0x12))
    bench.run(profile.transfer(1, parts.NEW()))
    first_frames = [frame for frame in bench.sent if frame.data[0] >> 4 == 1 and frame.data[2] == 0x36]
    assert {frame.data[:2] for frame in first_frames} == {b"\x10\x12"}
