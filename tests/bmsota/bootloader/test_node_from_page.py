"""A node in C that was written from docs/bootloader.md and the wire header alone, on classic CAN and CAN FD, with both lengths of identifiers."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
from pathlib import Path

import bootloader_rig
import pytest

from bmsota.canframe import CanFrame
from bmsota.node import CommandSucceeded, ImageVerified, NodeCommand

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).parent / "peers" / "node_from_page.c"
MS = 1_000_000
DIGEST_HOOK = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint8), ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint8))


@DIGEST_HOOK
def digest_of(data, size, digest):
    ctypes.memmove(digest, hashlib.sha256(ctypes.string_at(data, size)).digest(), 32)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The C program as a shared object; a warning is an error."""
    built = tmp_path_factory.mktemp("node") / "node.so"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O1", "-shared", "-fPIC", f"-I{ROOT / 'dbc'}"]
    done = subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(built)], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return ctypes.CDLL(str(built))


class CNode:
    """It on the bench: a node whose target is itself."""

    position, restart_ns = 1, 0

    def __init__(self, program, *, is_extended):
        self.program, self.is_extended = program, is_extended
        self.events, self.target = [], self
        class_id = (ctypes.c_uint8 * 16)(*bootloader_rig.SLAVE_CLASS.class_id.bytes)
        program.node_begin(class_id, int(is_extended), digest_of)

    def power_on(self, wire):
        pass

    def receive_frame(self, frame, now_ns):
        data = (ctypes.c_uint8 * 64)(*frame.data)
        self.program.node_receive(
            frame.can_id,
            int(frame.is_extended_id),
            int(frame.is_fd),
            data,
            len(frame.data),
            ctypes.c_uint64(now_ns // MS),
        )

    def frames_to_send(self, now_ns):
        data, frames = (ctypes.c_uint8 * 8)(), []
        while can_id := self.program.node_send(data):
            frames.append(CanFrame(can_id, bytes(data), is_extended_id=self.is_extended))
        return frames

    def handle_timeout(self, now_ns):
        self.program.node_turn(ctypes.c_uint64(now_ns // MS))

    def next_timeout(self):
        return None

    def next_event(self):
        return None


def lossy(chance):
    return lambda _frame, rng: () if rng.random() < chance else (0,)


@pytest.mark.parametrize("loss", [0, 0.05, 0.2])
@pytest.mark.parametrize(
    "dbc", ["bms_bootloader", "bms_bootloader_29bit", "bms_bootloader_fd", "bms_bootloader_fd_29bit"]
)
def test_it_is_found_flashed_tried_and_confirmed(program, dbc, loss):
    node = CNode(program, is_extended=dbc.endswith("29bit"))
    bench = bootloader_rig.Bench(node, dbc=dbc, seed=dbc)
    discovery = bench.discovery()
    bench.run(discovery)
    bench.fault = lossy(loss)
    assert discovery.nodes[1].hwid == "FROM-THE-PAGE"
    image = bootloader_rig.make_image("2.1.0", size=20_000)
    events = bench.run(bench.transfer(image, 1))
    assert isinstance(events[-1], ImageVerified), events[-1]
    assert any(frame.is_fd for frame in bench.sent) == ("_fd" in dbc)
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET, NodeCommand.CONFIRM):
        assert isinstance(bench.command(1, command), CommandSucceeded)
    data = (ctypes.c_uint8 * (1 << 17))()
    size = program.node_image(data)
    assert (bytes(data[:size]), program.node_counter()) == (image, 2)


@pytest.mark.parametrize("dbc", ["bms_bootloader", "bms_bootloader_29bit"])
def test_it_hears_nothing_that_has_identifiers_of_the_other_length(program, dbc):
    bench = bootloader_rig.Bench(CNode(program, is_extended=not dbc.endswith("29bit")), dbc=dbc)
    discovery = bench.discovery()
    bench.run(discovery)
    assert not discovery.nodes
    assert not any(frame.can_id & 0xFF == 0x21 for frame in bench.frames)
