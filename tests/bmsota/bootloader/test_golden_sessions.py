"""dbc/sessions: what our node and our flasher say is what the files say, frame by frame, and the files are up to date."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.bootloader import BootloaderClient, BootloaderCommand, BroadcastClient
from bmsota.bootloader._offer import Offer
from bmsota.canframe import CanFrame
from bmsota.compression import Decompressor
from bmsota.node import NodeCommand, ResetRequested

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "dbc" / "sessions"
NAMES = ("access", "broadcast", "compressed", "cut", "loss", "update")
FRAME_NS = 227_600


@pytest.fixture
def scripts(monkeypatch):
    """The modules of scripts/; the one with the nodes that the sessions were recorded of."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_bootloader_sessions

    return make_bootloader_sessions


@dataclass(frozen=True)
class Line:
    at_ns: int
    kind: str
    node: int
    frame: CanFrame | None
    text: str


@cache
def lines_of(name):
    found = []
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        at, kind, *rest = line.partition(" # ")[0].split()
        at_ns = round(float(at) * 1e6)
        if kind == "=":
            found.append(Line(at_ns, kind, int(rest[0]), None, " ".join(rest[1:])))
            continue
        node = int(rest.pop(0)) if kind == "x" else int(rest[0], 16) - 0x720 if kind == "<" else 0
        found.append(Line(at_ns, kind, node, CanFrame(int(rest[0], 16), bytes.fromhex(rest[1])), line))
    return found


def image_of(name, wire):
    """The image of a session, put together from its frames alone: what the node must end up with."""
    frames = [line.frame for line in lines_of(name) if line.kind == ">"]
    data, offer, stream, start = {}, None, {}, 0
    for frame in frames:
        if frame.can_id >= wire.data_id:
            data[frame.can_id - wire.data_id] = frame.data
            continue
        request = wire.parse(frame)
        if request.command is NodeCommand.BEGIN_TRANSFER:
            offer = Offer.parse(b"".join(data[index] for index in range(request.frames)))
        elif request.command is NodeCommand.OPEN_BLOCK:
            start, data = request.offset, {}
        elif request.command is NodeCommand.CHECK_BLOCK and data and len(data) >= request.frames:
            stream[start + 512 * request.tag] = b"".join(data[index] for index in range(request.frames))
            data = {}
    raw = bytearray()
    for at in sorted(stream):
        raw[at:] = stream[at]
    if not offer.is_compressed:
        return offer, bytes(raw[: offer.size_bytes])
    decompressor, image = Decompressor(offer.size_bytes), b""
    for byte in raw:
        if len(image) == offer.size_bytes:
            break
        image += decompressor.feed(bytes([byte]))
    return offer, image


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_node_answers_every_session_as_recorded(scripts, name):
    """Frames in, frames out, in order; one that is missing, too many or different is named by its line."""
    positions = (1, 2) if name == "broadcast" else (1,)
    recorder = scripts.SessionRecorder(*positions, access=name == "access")
    nodes = {node.position: node for node in recorder.nodes}
    waiting = {position: [] for position in positions}

    def pump(position, at_ns):
        target = nodes[position].target
        if target is not None:
            target.handle_timeout(at_ns)
            waiting[position] += target.frames_to_send(at_ns)
            while (event := target.next_event()) is not None:
                if isinstance(event, ResetRequested):
                    nodes[position].power_off()

    lines = lines_of(name)
    for number, line in enumerate(lines):
        if line.kind == "=" and line.at_ns:
            if line.text.startswith("boots"):
                pump(line.node, line.at_ns)
                nodes[line.node].power_on(recorder.wire)
                boot = nodes[line.node]
                assert line.text == f"boots: {boot.boot.reason.name}, version {boot.version}"
            else:
                nodes[line.node].power_off()
        elif line.kind == "<":
            if not waiting[line.node]:
                pump(line.node, line.at_ns - FRAME_NS)
            assert waiting[line.node], f"line {number}: expected {line.text}, got nothing"
            assert waiting[line.node].pop(0) == line.frame, f"line {number}: {line.text}"
        elif line.kind == ">":
            deaf = {each.node for each in takewhile(lambda each: each.kind == "x", lines[number + 1 :])}
            for position, node in nodes.items():
                if node.target is not None and position not in deaf:
                    node.target.receive_frame(line.frame, line.at_ns)
    assert waiting == {position: [] for position in positions}


@pytest.mark.parametrize("name", NAMES)
def test_the_flasher_says_what_is_recorded_when_it_hears_the_node(scripts, name):
    wire = scripts.WIRE
    offer, image = (None, scripts.image("2.1.0", 2, 300)) if name == "access" else image_of(name, wire)
    if offer is not None:
        assert hashlib.sha256(image).digest() == offer.sha256
    options = {"image": image, "may_compress": name == "compressed"}
    key = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    if name == "broadcast":
        clients = [BroadcastClient(wire, positions=[1, 2], **options)]
    elif name == "access":
        signers = (lambda message: key.sign(message + b"?"), key.sign)
        clients = [BootloaderClient(wire, position=1, access_signer=signer, **options) for signer in signers]
    else:
        clients = [BootloaderClient(wire, position=1, **options)]
        if name == "update":
            clients += [BootloaderCommand(wire, position=1, command=command) for command in scripts.SWITCH]
    client, out = clients.pop(0), []
    for number, line in enumerate(lines_of(name)):
        if line.kind == "<":
            client.receive_frame(line.frame, line.at_ns)
        elif line.kind == ">":
            while not out:
                if client.finished:
                    client = clients.pop(0)
                client.handle_timeout(line.at_ns - FRAME_NS)
                out += client.frames_to_send(line.at_ns - FRAME_NS)
                assert out or client.finished, f"line {number}: expected {line.text}, got nothing"
            assert out.pop(0) == line.frame, f"line {number}: {line.text}"
    assert client.finished
    assert not clients
    assert not out


def test_the_files_are_those_that_the_script_makes(scripts):
    """A node that answers otherwise needs new files: scripts/make_bootloader_sessions.py."""
    wanted = scripts.outputs()
    assert sorted(path.stem for path in wanted) == sorted(NAMES) == sorted(path.stem for path in FOLDER.iterdir())
    for path, text in wanted.items():
        assert path.read_text(encoding="utf-8") == text, path.name


def test_a_stale_file_is_named(scripts, monkeypatch, tmp_path, capsys):
    path = scripts.FOLDER / "update.txt"
    monkeypatch.setattr(scripts, "outputs", lambda: {path: "something else"})
    monkeypatch.setattr(sys, "argv", ["make_bootloader_sessions.py", "--check"])
    assert scripts.main() == 1
    assert "sessions/update.txt" in capsys.readouterr().out
