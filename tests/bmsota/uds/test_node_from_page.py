"""A node that was written from docs/uds.md alone (peers/node_from_page.py) is flashed by our tester."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import uds_rig
from node import EngineClient

from bmsota.canframe import CanFrame
from bmsota.flashing import FlashingEngine, UdsProfile
from bmsota.node import CommandSucceeded, FlashJob, NodeCommand
from bmsota.uds import UDS_11BIT, UDS_29BIT, UdsTiming

SPEC = importlib.util.spec_from_file_location("node_from_page", Path(__file__).parent / "peers" / "node_from_page.py")
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)

SECOND = 1_000_000_000


class FromPage:
    """It on the bench: a node whose target is itself; each n-th of its frames is lost."""

    restart_ns = 0
    role = None

    def __init__(self, addressing, *, lost=0):
        self.position = 1
        self.node = page.Node(1, uds_rig.SLAVE_CLASS.class_id.bytes)
        self.address = addressing.address(1)
        self.lost, self.sent = lost, 0
        self.events, self.target = [], self

    def power_on(self, wire):
        pass

    def receive_frame(self, frame, now_ns):
        if frame.is_extended_id == self.address.is_extended_id:
            self.node.frame(frame.can_id, frame.data, now_ns / SECOND)

    def frames_to_send(self, now_ns):
        frames, self.node.out = self.node.out, []
        kept = []
        for data in frames:
            self.sent += 1
            if not self.lost or self.sent % self.lost:
                kept.append(CanFrame(self.address.response_id, data, is_extended_id=self.address.is_extended_id))
        return kept

    def handle_timeout(self, now_ns):
        self.node.turn(now_ns / SECOND)

    def next_timeout(self):
        return None if self.node.reset_at is None else round(self.node.reset_at * SECOND) + 1

    def next_event(self):
        return None


@pytest.mark.parametrize("lost", [0, 31])
@pytest.mark.parametrize("addressing", [UDS_11BIT, UDS_29BIT], ids=["11 bit", "29 bit"])
def test_it_is_found_flashed_tried_and_confirmed(addressing, lost):
    """Discovery, transfer, activation, restart, confirmation, counter; with answers lost as well."""
    node = FromPage(addressing, lost=lost)
    bench = uds_rig.Bench(node, addressing=addressing)
    engine = FlashingEngine(UdsProfile(addressing, timing=UdsTiming(discover_tries=5)))
    engine.flash([FlashJob(1, uds_rig.NEW())])
    events = bench.run(EngineClient(engine))
    assert [result.cause for result in events[-1].results] == [None], events[-1]
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET, NodeCommand.CONFIRM):
        assert isinstance(bench.command(1, command), CommandSucceeded)
    assert node.node.slots[1]["data"] == uds_rig.NEW()
    assert (node.node.active, node.node.slots[1]["state"], node.node.counter) == (1, page.CONFIRMED, 2)
