"""`--wait`: the pack sleeps, has no supply, or wakes node by node; nothing acknowledges; the user has had enough."""

from __future__ import annotations

import json
import time

import pytest
import uds_rig
from flash_rig import NEW, Node, PtyPack, VirtualPack, bmsota, interactive, write_release

from bmsota.adapters import slcan
from bmsota.bootloader import TargetTiming
from bmsota.canframe import CanFrame
from bmsota.cli import waiting
from bmsota.cli.fault_table import FaultError
from bmsota.node import BootloaderEntered, BootloaderLeft, NodeCommand, NodeMode
from bmsota.uds import UDS_11BIT, UdsServerTiming

pytestmark = pytest.mark.slow

QUICK = ["--listen", "0.05", "--timeout", "1"]


def wake(pack, *steps):
    """Nodes that wake at the n-th request of each kind: (n, positions)."""
    for node in pack.nodes.values():
        node.is_dead = True
    count = [0]

    def on_request(request):
        count[0] += request.command is NodeCommand.DISCOVER
        for number, positions in steps:
            if count[0] == number:
                for position in positions:
                    pack.nodes[position].is_dead = False

    pack.on_request = on_request


@pytest.mark.parametrize("text", ["30", "forever"])
def test_nodes_are_listed_when_the_key_is_turned(text):
    with VirtualPack(Node(0), Node(1)) as pack:
        wake(pack, (9, [0, 1]))
        done = bmsota("nodes", "--wait", text, "--json", *pack.arguments, *QUICK)
    assert done.code == 0, done.text
    assert [node["position"] for node in json.loads(done.out)] == [0, 1]
    limit = "" if text == "forever" else " (at most 30 s)"
    assert f"waiting for the pack{limit}; Ctrl-C ends it" in done.err
    assert "nodes 0, 1 answered after " in done.err


def test_a_pack_that_wakes_node_by_node_is_waited_for_whole(tmp_path):
    """The master answers first; a flash that began then would find a pack without slaves."""
    release = write_release(tmp_path)
    with VirtualPack(Node(0), Node(1), Node(2)) as pack:
        wake(pack, (4, [0]), (14, [1]), (20, [2]))
        done = bmsota(
            "flash",
            release,
            "--yes",
            "--wait",
            "60",
            "--expect",
            "0-2",
            *pack.arguments,
            *QUICK,
            "--report-dir",
            tmp_path,
        )
        assert done.code == 0, done.text
        assert pack.versions == dict.fromkeys(range(3), NEW)
    assert "nodes 0-2 answered after " in done.err


def test_a_bus_without_another_device_is_waited_for_too(monkeypatch):
    """A pack without supply does not even acknowledge: the adapter refuses every frame until it does."""
    monkeypatch.setattr(slcan, "RESEND_S_MAX", 0.05)
    tries = []
    with PtyPack(Node(1)) as pack:
        transmit = pack.adapter.transmit

        def refuse(frame):
            tries.append(frame)
            return len(tries) > 60 and transmit(frame)

        pack.adapter.transmit = refuse
        done = bmsota("nodes", "--wait", "30", *pack.arguments, *QUICK)
    assert done.code == 0, done.text
    assert len(tries) > 60
    assert "node 1 answered after " in done.err


def test_a_pack_that_does_not_come_is_told_as_without_waiting():
    node = Node(0)
    node.is_dead = True
    with VirtualPack(node) as pack:
        done = bmsota("verify", "--wait", "0.1", *pack.arguments, *QUICK)
    assert done.code == 1
    assert "no node, silent bus: no node answered" in done.err


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "1e9", ""])
def test_what_is_no_time_is_refused_before_the_bus_is_touched(text):
    with VirtualPack(Node(0)) as pack:
        done = bmsota("nodes", "--wait", text, *pack.arguments, *QUICK)
        assert not pack.frames
    assert done.code == 2
    assert f"--wait: expected seconds or forever, got {text!r}" in done.err


def test_the_time_is_read_as_it_says():
    assert [waiting.parse_wait(text) for text in (None, "0", "2.5", "forever")] == [0.0, 0.0, 2.5, None]
    with pytest.raises(FaultError, match="expected seconds or forever"):
        waiting.parse_wait("inf")


def test_an_adapter_that_is_lost_meanwhile_is_told():
    with PtyPack(Node(0)) as pack:
        wake(pack, (99_999, [0]))
        awake = pack.on_request

        def on_request(request):
            awake(request)
            pack.unplug()

        pack.on_request = on_request
        done = bmsota("nodes", "--wait", "forever", *pack.arguments, *QUICK)
    assert done.code == 4, done.text
    assert "adapter error: " in done.err


@pytest.mark.parametrize("option", ["--wait", "--plan"])
def test_a_node_in_its_boot_window_is_held_before_anything_is_decided(tmp_path, option):
    """The answer is no: it is the wait alone that has sent EnterBootloader, and the node is let go again, to its application.

    A plan holds nothing, nor does a flash without `--wait`.
    """
    release = write_release(tmp_path)
    node = Node(1, timing=TargetTiming(boot_window_ns=600_000_000_000))
    arguments = ["flash", release, "--expect", "0-1", "--report-dir", tmp_path, *QUICK, "--timeout", "60"]
    with PtyPack(Node(0), node) as pack:
        assert node.target.is_in_boot_window
        if option == "--wait":
            code, screen = interactive([*arguments, "--wait", "60", *pack.arguments], b"n\n")
        else:
            done = bmsota(*arguments, "--wait", "60", "--plan", *pack.arguments)
            code, screen = done.code, done.text
        held, let_go = (
            {each.node for each in pack.requests if each.command is command}
            for command in (NodeCommand.ENTER_BOOTLOADER, NodeCommand.LEAVE_BOOTLOADER)
        )
    assert (code, held, let_go) == ((3, {1}, {1}) if option == "--wait" else (0, set(), set())), screen
    assert node.target.state is (NodeMode.APPLICATION if option == "--wait" else NodeMode.BOOTLOADER)
    assert node.target.is_in_boot_window is (option == "--plan")


class UdsNode(uds_rig.Node):
    """A slave that speaks UDS, in a pack of real time."""

    is_dead = is_mute = False

    def __init__(self, position, **timing):
        super().__init__(position, factory=uds_rig.OLD(), access=None, timing=UdsServerTiming(**timing))
        self.restart()

    def restart(self):
        self.power_on(UDS_11BIT)


def slow_answer(pack, node):
    """An answer that comes when two more looks have been seen, or the node has gone to its application."""
    at = len(pack.frames)
    while len(asked(pack, at)) < 4 and BootloaderLeft() not in node.events:
        time.sleep(0.05)
    pack.answered_at = at
    return b"n\n"


def asked(pack, at):
    return [frame for frame in pack.frames[at:] if frame == CanFrame(0x7DF, bytes.fromhex("023e00cccccccccc"))]


@pytest.mark.parametrize("option", ["--wait", "--plan"])
def test_a_node_in_its_boot_window_is_held_by_uds_too_while_the_user_thinks(tmp_path, option):
    """Its session would end after S3; the answer comes late, and is no: the node is let go."""
    image = tmp_path / "image.bin"
    image.write_bytes(uds_rig.NEW())
    node = UdsNode(1, boot_window_ns=600_000_000_000, s3_ns=10_000_000_000)
    arguments = ["flash", image, "--to", "1", "--profile", "uds", "--report-dir", tmp_path, *QUICK]
    with PtyPack(node) as pack:
        if option == "--wait":
            code, screen = interactive([*arguments, "--wait", "60", *pack.arguments], lambda: slow_answer(pack, node))
        else:
            done = bmsota(*arguments, "--wait", "60", "--plan", *pack.arguments)
            code, screen = done.code, done.text
    events = [event for event in node.events if event in {BootloaderEntered(), BootloaderLeft()}]
    assert code == (3 if option == "--wait" else 0), screen
    assert events == ([BootloaderEntered(), BootloaderLeft()] if option == "--wait" else [])
    if option == "--wait":
        assert len(asked(pack, pack.answered_at)) >= 4
