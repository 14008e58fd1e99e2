"""Write docs/bootloader.md.

`python scripts/make_bootloader_doc.py` writes it, `--check` only says whether it is as this script would write it (exit
code 1 if not). State tables, layouts and limits are taken from the code, the CAN messages from the DBC, and the sequences
are recorded from real client and target code over a pipe in memory; only the sentences stand here.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import SLOT_TRANSITIONS, BootStore, SlotLayout, SlotState, for_hardware
from bmsota.boot._journal import HEAD_LAYOUT, RECORD_LAYOUT
from bmsota.boot._store import PROGRESS_LAYOUT, SLOT_LAYOUT, STATE_LAYOUT
from bmsota.bootloader import (
    BLOCK_FRAMES_MAX,
    CLIENT_TRANSITIONS,
    COMMAND_TRANSITIONS,
    FAILURES,
    PROTOCOL_VERSION,
    TARGET_TRANSITIONS,
    AccessGuard,
    BootloaderClient,
    BootloaderTarget,
    BootloaderTiming,
    BootloaderWire,
    BroadcastClient,
    ClientState,
    Command,
    CommandState,
    NodeCommand,
    NodeState,
    ResetRequested,
    TargetIdentity,
    TargetLimits,
    TargetTiming,
)
from bmsota.bootloader._access import CHALLENGE_BYTES, SIGNATURE_BYTES
from bmsota.bootloader._compression import LOOKAHEAD_BITS, WINDOW_BITS
from bmsota.bootloader._messages import (
    CHECK_FRAME,
    FD_DATA_BYTES,
    BitmapReply,
    ListReply,
    PendingReply,
    ReplyKind,
    ReportReply,
    Request,
    ResultCode,
    ResultReply,
    StatusReply,
)
from bmsota.bootloader._offer import OFFER_LAYOUT
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.signals import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bmsota.canframe import CanFrame

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "bootloader.md"
DBC = ROOT / "dbc" / "bms_bootloader.dbc"

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
HARDWARE = HardwareClass.named("bmsota.example", "F7-slave")
MS = 1_000_000
FRAME_NS = 227_600  # 8 bytes, 11-bit id, 500 kbit/s, expected stuffing


# ---- tables


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


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


def layout(struct: Any) -> str:
    rows, offset = [], 0
    for field in struct.subcons:
        size = field.sizeof()
        rows.append((offset, size, f"`{field.name}`"))
        offset += size
    return table(("offset", "bytes", "field"), rows)


def messages(database: Any) -> str:
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


class Node:
    """One node of a recording, with its flash."""

    def __init__(self, recorder: Recorder, position: int, access: bool) -> None:
        self.recorder = recorder
        self.position = position
        self.has_access = access
        self.flash = FlashModel(16 * 1024, erase_block_bytes=1024)
        self.layout = SlotLayout.divide(self.flash)
        verify = partial(verify_image, public_keys=[KEY.public_key()])
        self.verify = for_hardware(verify, class_id=HARDWARE.class_id, role=ImageRole.SLAVE)
        self.target: BootloaderTarget | None = None
        self.off_until_ns: int | None = None
        self.store().install_factory(image("2.0.0", 1, 900))

    @property
    def name(self) -> str:
        return "Node" if len(self.recorder.nodes) < 2 else f"Node{self.position}"

    def store(self) -> BootStore:
        return BootStore(self.flash, self.layout, verify=self.verify)

    def power_on(self) -> None:
        store = self.store()
        boot = store.boot()
        store.take_busy_ns()
        name = f"HW-{self.position}"
        identity = TargetIdentity(
            position=self.position, role=ImageRole.SLAVE, hwid=name, serial=name, hardware_class=HARDWARE
        )
        access = None
        if self.has_access:
            access = AccessGuard([KEY.public_key()], bytes, delay_ns=1000 * MS, failures_max=3)
        self.target = BootloaderTarget(self.recorder.wire, identity=identity, store=store, boot=boot, access=access)
        self.off_until_ns = None
        version = boot.facts.version if boot.facts else "none"
        self.recorder.note(self, f"boots: {boot.reason.name}, version {version}")

    def power_off(self) -> None:
        self.target = None
        self.off_until_ns = self.recorder.now_ns + 300 * MS
        self.recorder.note(self, "loses its supply")


class Recorder:
    """One flasher and its nodes on a pipe with a time loop; writes down who says what."""

    def __init__(self, *positions: int, access: bool = False) -> None:
        self.wire = BootloaderWire(loads(DBC.read_text(encoding="utf-8")))
        self.now_ns = 0
        self.lines: list[str] = []
        self._run: tuple[int, int] | None = None
        self.lose: Callable[[CanFrame, Node | None], bool] = lambda _frame, _node: False
        self.nodes: list[Node] = []
        self.nodes = [Node(self, position, access) for position in positions]
        for node in self.nodes:
            node.power_on()

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
        if command is Command.CHECK_BLOCK:
            wanted = ", report wanted" if message.report_wanted else ""
            return f"CHECK_BLOCK {message.tag}, {message.frames} frames, CRC-32{wanted}"
        if command is Command.OPEN_BLOCK:
            kind = "repair" if message.repair else f"stream from offset {message.offset}"
            return f"OPEN_BLOCK {message.tag}, {kind}"
        details = ["" if command is Command.DISCOVER else f"tag {message.tag}"]
        if message.frames:
            details.append(f"{message.frames} frames, CRC-32")
        return f"{command.name} {', '.join(detail for detail in details if detail)}".strip()

    def _reply(self, frame: CanFrame) -> str | None:
        message = self.wire.parse(frame)
        if isinstance(message, StatusReply):
            return f"Status {NodeState(message.node_state).name} and 15 more: version, counter, limits, class, ids"
        if isinstance(message, ResultReply):
            detail = f", from offset {message.detail}" if message.command == Command.BEGIN_TRANSFER else ""
            return f"Result {Command(message.command).name}: {ResultCode(message.code).name}{detail}"
        if isinstance(message, ReportReply):
            missing = f", {message.missing_total} missing" if message.missing_total else ""
            return f"Report {message.block}: next block {message.next_block}, stored {message.stored_offset}{missing}"
        if isinstance(message, ListReply):
            entries = ", ".join(f"{(message.block - age) % 255}/{index}" for age, index in message.entries)
            return f"MissingList: {entries}"
        if isinstance(message, BitmapReply):
            return f"MissingBitmap {message.block}, segment {message.segment}, 0x{message.bitmap:08X}"
        if isinstance(message, PendingReply):
            return f"Pending {Command(message.command).name}: {message.wait_ms} ms"
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
            node.power_on()
        if node.target is None:
            return
        node.target.handle_timeout(self.now_ns)
        for frame in node.target.frames_to_send(self.now_ns):
            self.now_ns += FRAME_NS
            self.write_reply(frame, node)
            client.receive_frame(frame, self.now_ns)
        while (event := node.target.next_event()) is not None:
            if isinstance(event, ResetRequested):
                node.target = None
                node.off_until_ns = self.now_ns + 300 * MS
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
    for command in (Command.ACTIVATE_TEST, Command.RESET, Command.CONFIRM):
        recorder.run(NodeCommand(recorder.wire, position=1, command=command))
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
            is_the_one = at.position == 2 and (message.command, message.tag) == (Command.CHECK_BLOCK, 2)
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


def page() -> str:
    database = loads(DBC.read_text(encoding="utf-8"))
    client, target, limits = BootloaderTiming(), TargetTiming(), TargetLimits()
    return f"""<!-- Made by scripts/make_bootloader_doc.py from the code's tables. Do not edit: change the code or the script. -->

# The CAN bootloader

How a flasher (the command line, a master BMS, a test) puts a firmware image on a node (a master or a slave) over CAN, and how the
node keeps two images so that a power cut at any moment leaves one that boots. Protocol version {PROTOCOL_VERSION}. Both ends are in
`bmsota.bootloader`, the slots in `bmsota.boot`; every CAN message is defined in `dbc/bms_bootloader*.dbc`.

## In twelve lines

1. Ids 0x700 to 0x77F, or 0x1CFF0700 to 0x1CFF077F with 29 bits; the internal bus's own ids (0x100 to 0x5FF) are more urgent and pass
   first. Commands and replies are classic frames of 8 bytes.
2. Commands go out on the first id and name the node's position: 0 the master, 1 to 31 a slave. The node answers on its own id (0x720 +
   position). Each side names the protocol versions it speaks, and the newest that both speak is used.
3. Data frames are raw bytes, 8 or (CAN FD) {FD_DATA_BYTES}. Their index in the block is in the id (0x740 + 0..63): no byte is spent on it.
4. A block is up to {BLOCK_FRAMES_MAX} data frames and one CheckBlock with their CRC-32. Blocks go out one behind the other; every few blocks a
   CheckBlock asks for a *report*, and the next blocks go out while it is on its way.
5. A report says what is missing (a list, or bitmaps when it is much), what is complete and how far the image is stored. Only what is
   missing is sent again, between two blocks. A block whose CRC is wrong is missing whole.
6. The *window* (blocks under way) begins small and grows to what the node can hold. When much is missing a slower pace is tried, and kept
   if it helps.
7. A *broadcast* is the same to many nodes at once: what any of them misses is sent again once. Each node has a result of its own.
8. Before the image an *offer record* goes over: role, hardware class, size, SHA-256, version, counter, shape of the stream. What does not
   fit is refused before the first erase. The node answers from which offset it wants the image; that is the only way to resume, whoever
   was cut.
9. Every command has a tag. The node does a tag once and answers a repetition with the same result. Commands carry the *boot id* they are
   meant for: a repeated Reset cannot restart a node twice.
10. FinishTransfer verifies digest, signature, hardware and counter on the node. ActivateTest lets the next boot try the image; Confirm
    makes it permanent; without Confirm the next boot reverts.
11. A node may want *security access*: it gives a challenge, and does nothing that changes its images before it has a signature over it.
12. What takes longer than {target.pending_threshold_ns // MS} ms is announced with Pending. A flasher that is silent for {target.session_timeout_ns // 1000 // MS} s is gone: the node goes back to
    its application and keeps what it has.

## A whole update

Recorded from the code. The image is 2233 bytes, blocks are 512 bytes.

{good_way()}

## Two frames lost, then the node's supply fails

The node resumes from the last whole erase block (1024 bytes here): cells behind it may be torn and are erased again.

{bad_way()}

## Two nodes at once

Each misses another frame, and node 2 a CheckBlock, which is frame {CHECK_FRAME} of its block. Both frames go out again once, for both.

{many_nodes()}

Passes of four phases: all members are found, checked and unlocked; one after another gets the offer; all get the stream, from the lowest
offset any of them wants; all verify. A member that is late, wants a pause before it is unlocked, falls silent or restarts is left
behind by its phase and served in the next pass. A member that refuses has failed, and says why; the others go on. The flashing engine
serves a node that takes no broadcasts alone, behind the others.

## The stream

OpenBlock says which block the next data frames belong to: the stream goes on with it, or (IsRepair) they fill gaps of it. In the stream
the node counts: a frame belongs to the place with its index that is nearest to the expected one, so less than half a block may be lost,
doubled or out of order; CheckBlock and OpenBlock set the count right. Counting wrong cannot store a wrong byte: the block's CRC fails
then. The CRC begins with the image's SHA-256 and StreamOffset (4 bytes, little endian), so a block of another image, or of another place
in this one, fails it too. Blocks are stored in order; a complete block behind a gap is kept. StreamOffset says where in the image block 0
begins, so a node that has more already ignores what it has.

When a CRC fails the node forgets the frames that repairs have brought (an OpenBlock was lost, they belong elsewhere); if it fails again,
the whole block and its CheckBlock. Block numbers that the flasher cannot have got to are ignored; so is an OpenBlock with another
StreamOffset once a CRC of this stream was right.

A node holds {limits.window_blocks} blocks of 8-byte frames or {limits.window_blocks_fd} blocks of {FD_DATA_BYTES}-byte frames unless its Limits say otherwise. The flasher starts with {client.window_blocks_min} and asks for a
report twice a window. When more than {client.loss_pct_high} % of what was sent is missing at a node, it tries a slower pace (pauses of {client.spacing_ns_min // 1000} us to
{client.spacing_ns_max // MS} ms between frames): if the loss goes down to a third, a receiver or an adapter was overrun, and the pace is kept and raised step by
step; if not, the wire is bad, and the stream goes on at full speed. From {client.loss_pct_low} % on OpenBlock is sent once more. A node that gets no further in
{client.rounds_stuck} reports is sent to more slowly in any case.

With compression the stream is a heatshrink stream (window {1 << WINDOW_BITS} bytes, copies of up to {1 << LOOKAHEAD_BITS} bytes) of the image from StreamOffset on. It is used
if all nodes of the stream can take it and it saves 3 % or more. If the image then comes out wrong on a node (Damaged), that node gets it
without compression.

## Security access

{locked_node()}

The challenge has {CHALLENGE_BYTES} bytes; the Ed25519 signature ({SIGNATURE_BYTES} bytes) is over a fixed text, the challenge and the node's hardware id, so it opens no
other node and no other time. The node holds public keys only. Without access it answers BeginTransfer, ActivateTest, Confirm and Revert
with AccessNeeded. Wrong answers cost a delay that grows; AccessWait says how long. A command to a node
in its application is unlocked there: the application goes on. Access ends with LeaveBootloader, after
{TargetTiming().session_timeout_ns // 1_000_000_000} s of silence and with a restart.

## The flasher's states

{diagram(CLIENT_TRANSITIONS, ClientState.DISCOVERING)}

{transitions(CLIENT_TRANSITIONS)}

Each request is sent {client.reply_tries} times at most, at first {client.reply_timeout_ns // MS} ms apart, then twice as long each time up to {client.reply_timeout_ns_max // MS} ms; Discover {client.discover_tries} times,
{client.discover_timeout_ns // MS} ms apart. A report is asked for {client.report_tries} times at most, as often as it usually takes to come. After
{client.interruptions_max} interruptions without getting further than ever before the flasher gives up.

## Commands to one node

{diagram(COMMAND_TRANSITIONS, CommandState.DISCOVERING)}

{transitions(COMMAND_TRANSITIONS)}

## The node's states

{diagram(TARGET_TRANSITIONS, NodeState.APPLICATION)}

{transitions(TARGET_TRANSITIONS)}

Anything else is answered WRONG_STATE. A command that is refused changes no state. Discover is answered in every state but RESTARTING.
A node that has no image to run starts in BOOTLOADER.

## What a failure means

A transfer writes the spare slot only and nothing runs before ActivateTest, so running it again is always safe.

{failures()}

## A slot's life

{diagram(SLOT_TRANSITIONS, SlotState.EMPTY)}

{transitions(SLOT_TRANSITIONS)}

One slot is *active*: it boots normally. Staging writes the other one. A test boot is recorded before the image gets control; the boot
after it finds the record and, without a confirmation, takes the image back. The security counter rises at Confirm (or, for a
pack that confirms all its nodes first, by a later Confirm with RaiseCounter), never before; images with a lower counter are refused
from then on, also as fallback.

A pack goes forward or back as one: stage all nodes, ActivateTest and Reset all, Confirm all without RaiseCounter, and when the last
one has confirmed, Confirm all with RaiseCounter. Until then Revert brings each node back to its old image; a node that reverted by
itself still has the new image staged and needs ActivateTest and Reset only.

## The journal

Two areas of whole erase blocks. Records are appended to the current one, each by one flash write, padded to the flash's write unit. When
the next one does not fit, the other area is erased, gets a snapshot of what still counts, and last of all its head with a generation one
higher; the area with the highest valid head is current. All numbers are little endian; every CRC is the CRC-32 of Ethernet.

Area head:

{layout(HEAD_LAYOUT)}

Record, followed by `size` bytes of payload. `header_crc` is the low half of the CRC-32 of magic, kind, size and sequence:

{layout(RECORD_LAYOUT)}

Kind 1, the boot state (two slots of the second table):

{layout(STATE_LAYOUT)}

{layout(SLOT_LAYOUT)}

Kind 2, staging progress, written after each whole erase block:

{layout(PROGRESS_LAYOUT)}

Kind 3 and 4, an application record set or deleted: one byte of name length, the name, the value.

A torn record fails its CRC and is skipped, so the older one wins. A write cut in its very first unit may leave cells that read as
erased and must not be written again; therefore nothing is appended to an area found at power-up: the first change goes to the other
one.

## The offer record

Sent as {OFFER_LAYOUT.sizeof() // 8} data frames (CAN FD: {-(-OFFER_LAYOUT.sizeof() // FD_DATA_BYTES)}) before BeginTransfer; what fills the last frame up is ignored.

{layout(OFFER_LAYOUT)}

## CAN messages

Taken from `dbc/bms_bootloader.dbc`; signals are unsigned, little endian, unscaled. Ranges and value tables: [dbc/bms_bootloader.md](dbc/bms_bootloader.md);
all files: [dbc.md](dbc.md).

{messages(database)}

### Result codes

{result_codes()}
"""  # noqa: S608  A page, not a query.


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if the page is out of date")
    check = parser.parse_args(arguments).check
    text = page()
    if check:
        up_to_date = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE.name}: {'up to date' if up_to_date else 'out of date, run scripts/make_bootloader_doc.py'}")
        return 0 if up_to_date else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
