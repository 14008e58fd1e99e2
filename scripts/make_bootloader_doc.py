"""Keep the made parts of docs/bootloader.md: state tables, layouts, CAN messages, and sequences recorded from real code.

`python scripts/make_bootloader_doc.py` writes them, `--check` only says whether they are up to date (exit code 1 if not).
The page itself is written by hand.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota_sim.devices.bootloader_node import ACCESS_DELAY_NS, ACCESS_FAILURES_MAX
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import SLOT_TRANSITIONS, SlotState
from bmsota.boot._journal import HEAD_LAYOUT, RECORD_LAYOUT
from bmsota.boot._store import PROGRESS_LAYOUT, SLOT_LAYOUT, STATE_LAYOUT
from bmsota.bootloader import (
    BLOCK_FRAMES_MAX,
    CLIENT_TRANSITIONS,
    COMMAND_TRANSITIONS,
    PROTOCOL_VERSION,
    TARGET_TRANSITIONS,
    BootloaderClient,
    BootloaderCommand,
    BootloaderTiming,
    BootloaderWire,
    BroadcastClient,
    ClientState,
    CommandState,
    TargetLimits,
    TargetTiming,
)
from bmsota.bootloader._messages import (
    CHECK_FRAME,
    FD_DATA_BYTES,
    BitmapReply,
    ListReply,
    PendingReply,
    ReplyKind,
    ReportReply,
    Request,
    ResultReply,
    StatusReply,
)
from bmsota.bootloader._offer import OFFER_LAYOUT
from bmsota.bootloader._receiver import _BLOCKS_APART_MAX
from bmsota.bootloader._target_stream import _BITMAP_FROM, _MISSING_REPLIES_MAX
from bmsota.compression import LOOKAHEAD_BITS, WINDOW_BITS
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image
from bmsota.node import (
    CHALLENGE_BYTES,
    FAILURES,
    SIGNATURE_BYTES,
    AccessGuard,
    NodeCommand,
    NodeMode,
    ResetRequested,
    ResultCode,
)
from bmsota.node._access import _DOUBLINGS_MAX, _MESSAGE_DOMAIN
from bmsota.signals import loads

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "rigs"))
import bootloader_rig
from pages import DOCS, layout, run, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.canframe import CanFrame

ROOT = Path(__file__).resolve().parents[1]
PAGE = DOCS / "bootloader.md"
DBC = ROOT / "dbc" / "bms_bootloader.dbc"

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
HARDWARE = HardwareClass.named("bmsota.example", "F7-slave")
MS, SECOND = 1_000_000, 1_000_000_000
FRAME_NS = 227_600  # 8 bytes, 11-bit id, 500 kbit/s, expected stuffing


# ---- tables


def transitions(machine: Mapping[tuple[Any, Any], Any]) -> str:
    return table(
        ("state", "what happens", "next state"),
        ((state.name, stimulus.name, after.name) for (state, stimulus), after in machine.items()),
    )


def diagram(machine: Mapping[tuple[Any, Any], Any], start: Any) -> str:
    """The same as a picture; stimuli of one arrow are joined, ways to FAILED are left to the table."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, stimulus), after in machine.items():
        if after.name != "FAILED":
            arrows.setdefault((state.name, after.name), []).append(stimulus.name)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start.name}"]
    lines += [f"    {state} --> {after}: {', '.join(names)}" for (state, after), names in arrows.items()]
    return "\n".join([*lines, "```"])


def messages() -> str:
    database = loads(DBC.read_text(encoding="utf-8"))
    request, reply = database["BootRequest"], database["BootReply00"]
    parts = [
        "### BootRequest (0x700)",
        signals(request),
        "### BootReply00 to BootReply31 (0x720 + position)",
        signals(reply),
    ]
    data = database["BootData00"]
    parts += [f"### BootData00 to BootData63 (0x{data.can_id:X} + index)", signals(data)]
    return "\n\n".join(parts)


def signals(message: Any) -> str:
    """One row a signal: bits, the frames it is in, meaning."""
    kinds: dict[str, str] = {}
    for branch in message.layout.branches:
        for number, node in branch.nodes.items():
            name = branch.multiplexer.choices.get(number, number)
            for signal in node.signals:
                kinds[signal.name] = str(name)
    rows = []
    for signal in sorted(
        message.signals, key=lambda signal: (kinds.get(signal.name, "") != "", order(message, signal, kinds))
    ):
        end = signal.shift + signal.length_bits - 1
        rows.append((kinds.get(signal.name, "all"), f"`{signal.name}`", f"{signal.shift}..{end}", signal.comment))
    return table(("frame", "signal", "bits", "meaning"), rows)


def order(message: Any, signal: Any, kinds: Mapping[str, str]) -> tuple[int, int]:
    numbers = [
        number
        for branch in message.layout.branches
        for number, node in branch.nodes.items()
        if signal.name in {other.name for other in node.signals}
    ]
    return (min(numbers, default=-1) if signal.name in kinds else -1, signal.shift)


def result_codes() -> str:
    return table(("code", "name"), ((code.value, code.name) for code in ResultCode))


def failures() -> str:
    return table(
        ("cause", "same thing again", "safe to run again", "what to do"),
        (
            (
                cause.value,
                "fails again" if failure.permanent else "can succeed",
                yes(failure.safe_to_run_again),
                failure.advice,
            )
            for cause, failure in FAILURES.items()
        ),
    )


def yes(value: bool) -> str:
    return "yes" if value else "no"


# ---- sequences, recorded


class Node(bootloader_rig.Node):
    """One node of a recording, with its flash."""

    def __init__(self, recorder: Recorder, position: int, access: bool) -> None:
        options = {"access": lambda: AccessGuard([KEY.public_key()], bytes, delay_ns=1000 * MS, failures_max=3)}
        factory = image("2.0.0", 1, 900)
        super().__init__(position, factory=factory, key=KEY, hardware=HARDWARE, **options if access else {})
        self.recorder = recorder
        self.hwid = self.serial = f"HW-{position}"
        self.off_until_ns: int | None = None

    @property
    def name(self) -> str:
        return "Node" if len(self.recorder.nodes) < 2 else f"Node{self.position}"

    def power_on(self, wire: BootloaderWire) -> None:
        super().power_on(wire)
        self.off_until_ns = None
        self.recorder.note(self, f"boots: {self.boot.reason.name}, version {self.version}")

    def power_off(self) -> None:
        self.restart()
        self.recorder.note(self, "loses its supply")

    def restart(self) -> None:
        super().power_off()
        self.off_until_ns = self.recorder.now_ns + self.restart_ns


@cache
def wire() -> BootloaderWire:
    """Reading a DBC takes a second."""
    return BootloaderWire(loads(DBC.read_text(encoding="utf-8")))


class Recorder:
    """One flasher and its nodes on a pipe with a time loop; writes down who says what."""

    def __init__(self, *positions: int, access: bool = False) -> None:
        self.wire = wire()
        self.now_ns = 0
        self.lines: list[str] = []
        self._run: tuple[int, int] | None = None
        self.lose: Callable[[CanFrame, Node | None], bool] = lambda _frame, _node: False
        self.nodes: list[Node] = []
        self.nodes = [Node(self, position, access) for position in positions]
        for node in self.nodes:
            node.power_on(self.wire)

    def note(self, node: Node, text: str) -> None:
        self._flush()
        self.lines.append(f"    Note over {node.name}: {text}")

    @property
    def _all(self) -> str:
        return self.nodes[-1].name

    def _flush(self) -> None:
        if self._run is not None:
            first, last = self._run
            what = f"BootData{first:02d}" if first == last else f"BootData{first:02d} .. {last:02d}"
            self.lines.append(f"    Flasher->>{self._all}: {what}")
            self._run = None

    def write_request(self, frame: CanFrame) -> None:
        index = frame.can_id - self.wire.data_id
        if 0 <= index < BLOCK_FRAMES_MAX:
            if self._run is not None and self._run[1] == index - 1:
                self._run = (self._run[0], index)
            else:
                self._flush()
                self._run = (index, index)
            return
        message = self.wire.parse(frame)
        assert isinstance(message, Request)
        to = next((node.name for node in self.nodes if node.position == message.node), self._all)
        everybody = " (all)" if len(self.nodes) > 1 and message.node > 31 else ""
        self._say(f"    Flasher->>{to}: {self._request(message)}{everybody}")

    def write_loss(self, frame: CanFrame, node: Node) -> None:
        index = frame.can_id - self.wire.data_id
        self._flush()
        what = f"BootData{index:02d}" if 0 <= index < BLOCK_FRAMES_MAX else "a command"
        self.lines.append(f"    Note over {node.name}: misses {what}")

    def write_reply(self, frame: CanFrame, node: Node) -> None:
        text = self._reply(frame)
        if text:
            self._say(f"    {node.name}-->>Flasher: {text}")

    def _say(self, line: str) -> None:
        self._flush()
        self.lines.append(line)

    @staticmethod
    def _request(message: Request) -> str:
        command = message.command
        if command is NodeCommand.CHECK_BLOCK:
            wanted = ", report wanted" if message.report_wanted else ""
            return f"CHECK_BLOCK {message.tag}, {message.frames} frames, CRC-32{wanted}"
        if command is NodeCommand.OPEN_BLOCK:
            kind = "repair" if message.repair else f"stream from offset {message.offset}"
            return f"OPEN_BLOCK {message.tag}, {kind}"
        details = ["" if command is NodeCommand.DISCOVER else f"tag {message.tag}"]
        if message.frames:
            details.append(f"{message.frames} frames, CRC-32")
        return f"{command.name} {', '.join(detail for detail in details if detail)}".strip()

    def _reply(self, frame: CanFrame) -> str | None:
        message = self.wire.parse(frame)
        if isinstance(message, StatusReply):
            return (
                f"Status {NodeMode(message.node_state).name} and 21 more: version, counter, limits, class, ids, digest"
            )
        if isinstance(message, ResultReply):
            detail = f", from offset {message.detail}" if message.command == NodeCommand.BEGIN_TRANSFER else ""
            return f"Result {NodeCommand(message.command).name}: {ResultCode(message.code).name}{detail}"
        if isinstance(message, ReportReply):
            missing = f", {message.missing_total} missing" if message.missing_total else ""
            return f"Report {message.block}: next block {message.next_block}, stored {message.stored_offset}{missing}"
        if isinstance(message, ListReply):
            entries = ", ".join(f"{(message.block - age) % 255}/{index}" for age, index in message.entries)
            return f"MissingList: {entries}"
        if isinstance(message, BitmapReply):
            return f"MissingBitmap {message.block}, segment {message.segment}, 0x{message.bitmap:08X}"
        if isinstance(message, PendingReply):
            return f"Pending {NodeCommand(message.command).name}: {message.wait_ms} ms"
        if frame.data[0] == ReplyKind.CHALLENGE_0:
            return "Challenge in three parts"
        return None

    def run(self, client: Any) -> None:
        """Until *client* has finished; one frame at a time."""
        while not client.finished:
            client.handle_timeout(self.now_ns)
            for frame in client.frames_to_send(self.now_ns):
                self.now_ns += FRAME_NS
                is_lost = self.lose(frame, None)
                self.write_request(frame)
                for node in self.nodes:
                    if node.target is None:
                        continue
                    if is_lost or self.lose(frame, node):
                        self.write_loss(frame, node)
                    elif node.target is not None:  # `lose` may have cut its supply
                        node.target.receive_frame(frame, self.now_ns)
            for node in self.nodes:
                self._turn(node, client)
            due = [client.next_timeout()]
            for node in self.nodes:
                due += [node.off_until_ns, node.target.next_timeout() if node.target else None]
            if not client.finished:
                self.now_ns = max(self.now_ns, min(when for when in due if when is not None))
        self._flush()

    def _turn(self, node: Node, client: Any) -> None:
        if node.off_until_ns is not None and self.now_ns >= node.off_until_ns:
            node.power_on(self.wire)
        if node.target is None:
            return
        node.target.handle_timeout(self.now_ns)
        for frame in node.target.frames_to_send(self.now_ns):
            self.now_ns += FRAME_NS
            self.write_reply(frame, node)
            client.receive_frame(frame, self.now_ns)
        while (event := node.target.next_event()) is not None:
            if isinstance(event, ResetRequested):
                node.restart()
                return

    def page(self) -> str:
        participants = ["    participant Flasher", *(f"    participant {node.name}" for node in self.nodes)]
        return "\n".join(["```mermaid", "sequenceDiagram", *participants, *self.lines, "```"])


def image(version: str, counter: int, size: int) -> bytes:
    payload = bytes((index * 37 + index // 256) % 256 for index in range(size))
    return build_image(
        payload, version=ImageVersion.parse(version), security_counter=counter, hardware_class=HARDWARE,
        role=ImageRole.SLAVE, signing_key=KEY,
    )  # fmt: skip


def good_way() -> str:
    recorder = Recorder(1)
    new = image("2.1.0", 2, 2000)
    recorder.run(BootloaderClient(recorder.wire, position=1, image=new, may_compress=False))
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET, NodeCommand.CONFIRM):
        recorder.run(BootloaderCommand(recorder.wire, position=1, command=command))
    return recorder.page()


def bad_way() -> str:
    """Two data frames are lost, then the node's supply fails in the fourth block."""
    recorder = Recorder(1)
    node = recorder.nodes[0]
    new = image("2.1.0", 2, 2000)
    seen: list[int] = []

    def lose(frame: CanFrame, at: Node | None) -> bool:
        index = frame.can_id - recorder.wire.data_id
        if at is None or not 0 <= index < BLOCK_FRAMES_MAX:
            return False
        seen.append(index)
        if len(seen) == 9 + 64 * 3 + 20:
            node.power_off()
        return node.target is not None and len(seen) in {9 + 4, 9 + 41}

    recorder.lose = lose
    recorder.run(BootloaderClient(recorder.wire, position=1, image=new, may_compress=False))
    return recorder.page()


def many_nodes() -> str:
    """A broadcast to two nodes; each misses another frame of block 0, and node 2 also the check of block 2."""
    recorder = Recorder(1, 2)
    seen = {1: 0, 2: 0}
    checks: list[Request] = []

    def lose(frame: CanFrame, at: Node | None) -> bool:
        if at is None:
            return False
        message = recorder.wire.parse(frame)
        if isinstance(message, Request):
            is_the_one = at.position == 2 and (message.command, message.tag) == (NodeCommand.CHECK_BLOCK, 2)
            return is_the_one and not checks and not checks.append(message)
        if not 0 <= frame.can_id - recorder.wire.data_id < BLOCK_FRAMES_MAX:
            return False
        seen[at.position] += 1
        # Behind two offer records of nine frames.
        return seen[at.position] == 18 + 7 + 10 * at.position

    recorder.lose = lose
    client = BroadcastClient(recorder.wire, positions=[1, 2], image=image("2.1.0", 2, 2000), may_compress=False)
    recorder.run(client)
    return recorder.page()


def locked_node() -> str:
    recorder = Recorder(1, access=True)
    new = image("2.1.0", 2, 300)
    recorder.run(BootloaderClient(recorder.wire, position=1, image=new, may_compress=False, access_signer=KEY.sign))
    return recorder.page()


# ---- the page


def machine(transitions_of: Mapping[tuple[Any, Any], Any], start: Any) -> Callable[[], str]:
    return lambda: f"{diagram(transitions_of, start)}\n\n{transitions(transitions_of)}"


PARTS = {
    "a whole update": good_way,
    "two frames lost": bad_way,
    "two nodes at once": many_nodes,
    "security access": locked_node,
    "the flasher's states": machine(CLIENT_TRANSITIONS, ClientState.DISCOVERING),
    "commands to one node": machine(COMMAND_TRANSITIONS, CommandState.DISCOVERING),
    "the node's states": machine(TARGET_TRANSITIONS, NodeMode.APPLICATION),
    "failures": failures,
    "a slot's life": machine(SLOT_TRANSITIONS, SlotState.EMPTY),
    "area head": partial(layout, HEAD_LAYOUT),
    "record": partial(layout, RECORD_LAYOUT),
    "boot state": lambda: f"{layout(STATE_LAYOUT)}\n\n{layout(SLOT_LAYOUT)}",
    "staging progress": partial(layout, PROGRESS_LAYOUT),
    "offer record": partial(layout, OFFER_LAYOUT),
    "messages": messages,
    "result codes": result_codes,
}


def phrases() -> list[str]:
    """What the page's sentences say of the code's numbers."""
    client, target, limits = BootloaderTiming(), TargetTiming(), TargetLimits()
    silence_s = target.session_timeout_ns // 1000 // MS
    fd_frames = -(-OFFER_LAYOUT.sizeof() // FD_DATA_BYTES)
    return [
        f"Protocol version {PROTOCOL_VERSION}.",
        f"Data frames are raw bytes, 8 or (CAN FD) {FD_DATA_BYTES}.",
        f"A block is up to {BLOCK_FRAMES_MAX} data frames",
        f"What takes longer than {target.pending_threshold_ns // MS} ms is announced with Pending.",
        f"silent for {silence_s} s",
        f"a CheckBlock, which is frame {CHECK_FRAME} of its block",
        f"A node holds {limits.window_blocks} blocks of 8-byte frames or {limits.window_blocks_fd} blocks of {FD_DATA_BYTES}-byte frames",
        f"starts with {client.window_blocks_min} and",
        f"more than {client.loss_pct_high} % of what was sent",
        f"pauses of {client.spacing_ns_min // 1000} us to {client.spacing_ns_max // MS} ms between frames",
        f"From {client.loss_pct_low} % on OpenBlock is sent once more.",
        f"gets no further in {client.rounds_stuck} reports",
        f"(window {1 << WINDOW_BITS} bytes, copies of up to {1 << LOOKAHEAD_BITS} bytes)",
        f"The challenge has {CHALLENGE_BYTES} bytes; the Ed25519 signature ({SIGNATURE_BYTES} bytes)",
        f"after {silence_s} s of silence",
        f"A request is sent at most {client.reply_tries} times, at first {client.reply_timeout_ns // MS} ms apart",
        f"up to {client.reply_timeout_ns_max // MS} ms; Discover {client.discover_tries} times, {client.discover_timeout_ns // MS} ms apart.",
        f"A report is requested at most {client.report_tries} times",
        f"gives up after {client.interruptions_max} interruptions without progress",
        f"Sent as {OFFER_LAYOUT.sizeof() // 8} data frames (CAN FD: {fd_frames})",
        f"the Result first; {target.restart_delay_ns // MS} ms later",
        f"(offer: {OFFER_LAYOUT.sizeof() // 8}, CAN FD {fd_frames}; signature: {SIGNATURE_BYTES // 8}, CAN FD 1;",
        f"numbers more than {_BLOCKS_APART_MAX} away",
        f"of which {_BITMAP_FROM} or more are missing",
        f"At most {_MISSING_REPLIES_MAX} of both",
        f'"{_MESSAGE_DOMAIN[:-1].decode()}" 00 challenge hardware-id',
        f"Ed25519 over {len(_MESSAGE_DOMAIN)} + {CHALLENGE_BYTES} + n bytes",
        f"for {ACCESS_DELAY_NS // SECOND} s, then twice as long after each, {(ACCESS_DELAY_NS << _DOUBLINGS_MAX) // SECOND} s at most",
        f"allow {ACCESS_FAILURES_MAX - 1} failures in a row",
        f"after each the flasher waits {client.discover_timeout_ns // MS} ms",
        f"looks for a node every {client.discover_timeout_ns // MS} ms for {client.discover_tries * client.discover_timeout_ns // SECOND} s",
    ]


if __name__ == "__main__":
    sys.exit(run(PAGE, PARTS, phrases()))
