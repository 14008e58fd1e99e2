"""Keep dbc/sessions/*.txt: six short sessions with a node, frame by frame, for a node that is written elsewhere.

`python scripts/make_bootloader_sessions.py` writes them from our own flasher and node, `--check` only says whether they are up to date (exit
code 1 if not). What the lines mean stands in docs/bootloader.md, "Golden sessions".
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from make_bootloader_doc import BLOCK_FRAMES_MAX, HARDWARE, KEY, ROOT, Node, Recorder, image, wire

from bmsota.bootloader import BootloaderClient, BootloaderCommand, BroadcastClient
from bmsota.bootloader._messages import PartReply, Request
from bmsota.image import ImageRole, ImageVersion, build_image
from bmsota.node import NodeCommand

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.canframe import CanFrame

FOLDER = ROOT / "dbc" / "sessions"
SWITCH = (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET, NodeCommand.CONFIRM)


class SessionRecorder(Recorder):
    """Writes down every frame with its time instead of a picture."""

    def __init__(self, *positions: int, access: bool = False) -> None:
        super().__init__(*positions, access=access)
        first = self.nodes[0]
        key = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        self.lines = [
            "# Every node: role slave, protocol version 2, window 24 blocks, blocks of 64 frames, one classic bus with 11-bit ids.",
            f"# Hardware class {HARDWARE.class_id}; hardware id and serial number HW-POSITION.",
            f"# Flash: {self._flash(first)}. Slot A: version 2.0.0, counter 1, confirmed.",
            f"# Ed25519 public key of images and of access: {key}",
            *self.lines,
        ]

    @staticmethod
    def _flash(node: Node) -> str:
        flash, slot = node.flash, node.layout.slot_size_bytes
        return (
            f"erase blocks of {flash.erase_block_bytes} bytes, write units of {flash.write_unit_bytes}, slots of {slot}"
        )

    def _line(self, what: str) -> None:
        self.lines.append(f"{self.now_ns / 1_000_000:.4f} {what}")

    def note(self, node: Node, text: str) -> None:
        self._line(f"= {node.position} {text}")

    def _text(self, frame: CanFrame) -> str:
        return f"{frame.can_id:03X} {frame.data.hex()}"

    def write_request(self, frame: CanFrame) -> None:
        message = self.wire.parse(frame)
        words = f" # {self._request(message)}" if isinstance(message, Request) else ""
        self._line(f"> {self._text(frame)}{words}")

    def write_loss(self, frame: CanFrame, node: Node) -> None:
        self._line(f"x {node.position} {self._text(frame)}")

    def write_reply(self, frame: CanFrame, node: Node) -> None:  # noqa: ARG002  The id says who it is.
        message = self.wire.parse(frame)
        if isinstance(message, PartReply):
            words = message.kind.name
        else:
            words = self._reply(frame) or type(message).__name__.removesuffix("Reply")
        self._line(f"< {self._text(frame)} # {words.split(' and ')[0]}")

    def _flush(self) -> None:
        """Nothing is joined."""

    def session(self) -> str:
        return "\n".join(self.lines) + "\n"


def transfer(recorder: SessionRecorder, new: bytes, **options: Any) -> None:
    positions = [node.position for node in recorder.nodes]
    options = {"may_compress": False, **options}
    if len(positions) == 1:
        recorder.run(BootloaderClient(recorder.wire, position=positions[0], image=new, **options))
    else:
        recorder.run(BroadcastClient(recorder.wire, positions=positions, image=new, **options))


def switch(recorder: SessionRecorder) -> None:
    for node in recorder.nodes:
        for command in SWITCH:
            recorder.run(BootloaderCommand(recorder.wire, position=node.position, command=command))


def update() -> SessionRecorder:
    """An update from beginning to end: transfer, test, restart, confirm."""
    recorder = SessionRecorder(1)
    transfer(recorder, image("2.1.0", 2, 600))
    switch(recorder)
    return recorder


def losing(recorder: SessionRecorder, lose: Callable[[int, int | None, Request | None], bool]) -> None:
    """*lose*(position, index of a data frame since the offer or None, request or None): whether this node misses it."""
    counts = dict.fromkeys((node.position for node in recorder.nodes), 0)

    def is_lost(frame: CanFrame, node: Node | None) -> bool:
        if node is None:
            return False
        index = frame.can_id - recorder.wire.data_id
        if 0 <= index < BLOCK_FRAMES_MAX:
            counts[node.position] += 1
            return lose(node.position, counts[node.position], None)
        message = recorder.wire.parse(frame)
        return isinstance(message, Request) and lose(node.position, None, message)

    recorder.lose = is_lost


def loss() -> SessionRecorder:
    """Lost: a frame of the offer, two of the first block, many of the second, and a CheckBlock."""
    recorder = SessionRecorder(1)
    checks: list[int] = []

    def lose(_position: int, count: int | None, request: Request | None) -> bool:
        if request is not None:
            is_it = request.command is NodeCommand.CHECK_BLOCK and request.tag == 2 and not checks
            if is_it:
                checks.append(1)
            return is_it
        return count in {3, 10 + 5, 10 + 42} or (count is not None and 10 + 64 + 8 <= count < 10 + 64 + 20)

    losing(recorder, lose)
    transfer(recorder, image("2.1.0", 2, 1600))
    return recorder


def cut() -> SessionRecorder:
    """The node's supply fails in the fourth block; it goes on behind the last whole erase block."""
    recorder = SessionRecorder(1)

    def lose(_position: int, count: int | None, _request: Request | None) -> bool:
        if count == 9 + 3 * 64 + 20:
            recorder.nodes[0].power_off()
        return False

    losing(recorder, lose)
    transfer(recorder, image("2.1.0", 2, 2000))
    return recorder


def broadcast() -> SessionRecorder:
    """Two nodes at once; each misses another frame."""
    recorder = SessionRecorder(1, 2)
    losing(recorder, lambda position, count, _request: count == 18 + 20 * position)
    transfer(recorder, image("2.1.0", 2, 900))
    return recorder


def access() -> SessionRecorder:
    """A locked node: a command without access, a wrong key, then the right one."""
    recorder = SessionRecorder(1, access=True)
    new = image("2.1.0", 2, 300)
    transfer(recorder, new, access_signer=lambda message: KEY.sign(message + b"?"))
    transfer(recorder, new, access_signer=KEY.sign)
    return recorder


def compressed() -> SessionRecorder:
    """A compressed stream, whose last frame is filled up behind the end of the image."""
    recorder = SessionRecorder(1)
    new = build_image(
        b"alpha beta gamma " * 90, version=ImageVersion.parse("2.1.0"), security_counter=2, hardware_class=HARDWARE,
        role=ImageRole.SLAVE, signing_key=KEY,
    )  # fmt: skip
    transfer(recorder, new, may_compress=True)
    return recorder


WIRE = wire()
"""The codec of the recorded frames."""

SESSIONS = {each.__name__: each for each in (update, loss, cut, broadcast, access, compressed)}


def outputs() -> dict[Path, str]:
    """Every file this script is responsible for, and what must be in it."""
    return {
        FOLDER / f"{name}.txt": f"# bmsota bootloader session: {name}. {make.__doc__}\n{make().session()}"
        for name, make in SESSIONS.items()
    }


def main() -> int:
    wanted = outputs()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"out of date, run scripts/make_bootloader_sessions.py: {path.relative_to(ROOT)}")
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
