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
    BootloaderClient,
    BootloaderTarget,
    BootloaderTiming,
    BootloaderWire,
    ClientState,
    Command,
    CommandState,
    NodeCommand,
    NodeState,
    ResetRequested,
    TargetIdentity,
    TargetTiming,
)
from bmsota.bootloader._messages import (
    AcceptedReply,
    MissingReply,
    PartReply,
    PendingReply,
    Request,
    ResultCode,
    ResultReply,
    StatusReply,
)
from bmsota.bootloader._offer import OFFER_LAYOUT
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.signals import loads
from simulator.devices.flash import FlashModel

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


class Recorder:
    """One flasher and one node on a pipe with a time loop; writes down who says what."""

    def __init__(self) -> None:
        self.wire = BootloaderWire(loads(DBC.read_text(encoding="utf-8")))
        self.flash = FlashModel(16 * 1024, erase_block_bytes=1024)
        self.layout = SlotLayout.divide(self.flash)
        self.now_ns = 0
        self.lines: list[str] = []
        self._run: tuple[int, int] | None = None
        self.lose: Callable[[CanFrame], bool] = lambda _: False
        self.off_until_ns: int | None = None
        verify = partial(verify_image, public_keys=[KEY.public_key()])
        self.verify = for_hardware(verify, class_id=HARDWARE.class_id, role=ImageRole.SLAVE)
        self.store().install_factory(image("2.0.0", 1, 900))
        self.power_on()

    def store(self) -> BootStore:
        return BootStore(self.flash, self.layout, verify=self.verify)

    def power_on(self) -> None:
        store = self.store()
        boot = store.boot()
        store.take_busy_ns()
        identity = TargetIdentity(position=1, role=ImageRole.SLAVE, hwid="HW-1", serial="SN-1", hardware_class=HARDWARE)
        self.target: BootloaderTarget | None = BootloaderTarget(self.wire, identity=identity, store=store, boot=boot)
        self.off_until_ns = None
        self.note(f"node boots: {boot.reason.name}, version {boot.facts.version if boot.facts else 'none'}")

    def power_off(self) -> None:
        self.target = None
        self.off_until_ns = self.now_ns + 300 * MS
        self.note("node loses its supply")

    def note(self, text: str) -> None:
        self._flush()
        self.lines.append(f"    Note over Node: {text}")

    def _flush(self) -> None:
        if self._run is not None:
            first, last = self._run
            what = f"BootData{first:02d}" if first == last else f"BootData{first:02d} .. {last:02d}"
            self.lines.append(f"    Flasher->>Node: {what}")
            self._run = None

    def write(self, frame: CanFrame, lost: bool) -> None:
        index = frame.can_id - self.wire.data_id
        if 0 <= index < BLOCK_FRAMES_MAX:
            if lost:
                self._flush()
                self.lines.append(f"    Flasher-xNode: BootData{index:02d} is lost")
            elif self._run is not None and self._run[1] == index - 1:
                self._run = (self._run[0], index)
            else:
                self._flush()
                self._run = (index, index)
            return
        text = self.text(frame)
        if text:
            self._flush()
            is_request = frame.can_id == self.wire.request_id
            arrow = ("Flasher-xNode" if lost else "Flasher->>Node") if is_request else "Node-->>Flasher"
            self.lines.append(f"    {arrow}: {text}")

    def text(self, frame: CanFrame) -> str | None:
        message = self.wire.parse(frame)
        if isinstance(message, Request):
            details = [f"tag {message.tag}" if message.command not in {Command.DISCOVER, Command.CHECK_BLOCK} else ""]
            if message.command is Command.CHECK_BLOCK:
                details.append(f"block {message.tag}")
            if message.frames:
                details.append(f"{message.frames} frames, CRC-32")
            joined = ", ".join(detail for detail in details if detail)
            return f"{message.command.name} {joined}".strip()
        if isinstance(message, StatusReply):
            return f"Status {NodeState(message.node_state).name} and 14 more: version, counter, class, ids"
        if isinstance(message, ResultReply):
            detail = f", from offset {message.detail}" if message.command == Command.BEGIN_TRANSFER else ""
            return f"Result {Command(message.command).name}: {ResultCode(message.code).name}{detail}"
        if isinstance(message, AcceptedReply):
            return f"BlockAccepted {message.block}, next offset {message.next_offset}"
        if isinstance(message, MissingReply):
            return f"BlockMissing {message.block}, segment {message.segment}, bitmap 0x{message.bitmap:08X}"
        if isinstance(message, PendingReply):
            return f"Pending {Command(message.command).name}: {message.wait_ms} ms"
        assert isinstance(message, PartReply) or message is not None
        return None

    def run(self, client: Any) -> None:
        """Until *client* has finished; one frame at a time."""
        while not client.finished:
            client.handle_timeout(self.now_ns)
            for frame in client.frames_to_send(self.now_ns):
                self.now_ns += FRAME_NS
                lost = self.lose(frame)
                if self.target is not None:
                    self.write(frame, lost)
                    if not lost:
                        self.target.receive_frame(frame, self.now_ns)
            self._node_turn(client)
            due = [client.next_timeout(), self.off_until_ns, self.target.next_timeout() if self.target else None]
            if not client.finished:
                self.now_ns = max(self.now_ns, min(when for when in due if when is not None))
        self._flush()

    def _node_turn(self, client: Any) -> None:
        if self.off_until_ns is not None and self.now_ns >= self.off_until_ns:
            self.power_on()
        if self.target is None:
            return
        self.target.handle_timeout(self.now_ns)
        for frame in self.target.frames_to_send(self.now_ns):
            self.now_ns += FRAME_NS
            self.write(frame, lost=False)
            client.receive_frame(frame, self.now_ns)
        while (event := self.target.next_event()) is not None:
            if isinstance(event, ResetRequested):
                self.target = None
                self.off_until_ns = self.now_ns + 300 * MS
                return

    def page(self) -> str:
        return "\n".join(
            ["```mermaid", "sequenceDiagram", "    participant Flasher", "    participant Node", *self.lines, "```"]
        )


def image(version: str, counter: int, size: int) -> bytes:
    payload = bytes((index * 37 + index // 256) % 256 for index in range(size))
    return build_image(
        payload, version=ImageVersion.parse(version), security_counter=counter, hardware_class=HARDWARE,
        role=ImageRole.SLAVE, signing_key=KEY,
    )  # fmt: skip


def good_way() -> str:
    recorder = Recorder()
    new = image("2.1.0", 2, 900)
    recorder.run(BootloaderClient(recorder.wire, position=1, image=new))
    for command in (Command.ACTIVATE_TEST, Command.RESET, Command.CONFIRM):
        recorder.run(NodeCommand(recorder.wire, position=1, command=command))
    return recorder.page()


def bad_way() -> str:
    """Two data frames are lost, then the node's supply fails in the third block."""
    recorder = Recorder()
    new = image("2.1.0", 2, 1500)
    seen: list[int] = []

    def lose(frame: CanFrame) -> bool:
        index = frame.can_id - recorder.wire.data_id
        if recorder.target is None or not 0 <= index < BLOCK_FRAMES_MAX:
            return False
        seen.append(index)
        if len(seen) == 9 + 64 + 64 + 2 + 20:
            recorder.write(frame, lost=False)
            recorder.power_off()
        return len(seen) in {9 + 4, 9 + 41}

    recorder.lose = lose
    recorder.run(BootloaderClient(recorder.wire, position=1, image=new))
    return recorder.page()


# ---- the page


def page() -> str:
    database = loads(DBC.read_text(encoding="utf-8"))
    client, target = BootloaderTiming(), TargetTiming()
    return f"""<!-- Made by scripts/make_bootloader_doc.py from the code's tables. Do not edit: change the code or the script. -->

# The CAN bootloader

How a flasher (the command line, a master BMS, a test) puts a firmware image on a node (a master or a slave) over CAN, and how the
node keeps two images so that a power cut at any moment leaves one that boots. Protocol version {PROTOCOL_VERSION}. Both ends are in
`bmsota.bootloader`, the slots in `bmsota.boot`; every CAN message is defined in `dbc/bms_bootloader.dbc`.

## In ten lines

1. Classic CAN, 11-bit ids 0x700 to 0x77F, all frames 8 bytes; the internal bus's own ids (0x100 to 0x5FF) are more urgent and pass first.
2. Commands go out on 0x700 and name the node's position: 0 the master, 1 to 31 a slave. The node answers on 0x720 + position.
3. Data frames are 8 raw bytes. Their index in the block is in the id (0x740 + 0..63): no byte is spent on it, and no loss, duplicate or
   change of order within a block can put a frame in the wrong place.
4. A block is up to {BLOCK_FRAMES_MAX} data frames and one CheckBlock with their CRC-32. The node answers BlockAccepted, or a bitmap of what is
   missing; only that is sent again. A block whose CRC is wrong is sent again whole.
5. Before the image an *offer record* goes over in the same way: role, hardware class, size, SHA-256, version, counter. What does not fit
   is refused before the first erase.
6. Beginning a transfer again is always allowed: the node says from which offset it wants the image. That is the only way to resume,
   whoever was cut.
7. Every command has a tag. The node does a tag once and answers a repetition with the same result. Commands carry the *boot id* they are
   meant for: a repeated Reset cannot restart a node twice.
8. FinishTransfer verifies digest, signature, hardware and counter on the node. ActivateTest lets the next boot try the image; Confirm
   makes it permanent; without Confirm the next boot reverts.
9. What takes longer than {target.pending_threshold_ns // MS} ms is announced with Pending, so that a slow erase is no timeout.
10. A flasher that is silent for {target.session_timeout_ns // 1000 // MS} s is gone: the node goes back to its application and keeps what it has.

## A whole update

Recorded from the code. The image is 1133 bytes, blocks are 512 bytes.

{good_way()}

## Two frames lost, then the node's supply fails

The node resumes from the last whole erase block (1024 bytes here): cells behind it may be torn and are erased again.

{bad_way()}

## The flasher's states

{diagram(CLIENT_TRANSITIONS, ClientState.DISCOVERING)}

{transitions(CLIENT_TRANSITIONS)}

Each request is repeated {client.reply_tries} times at most, {client.reply_timeout_ns // MS} ms apart; Discover {client.discover_tries} times, {client.discover_timeout_ns // MS} ms apart. After
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

A torn record fails its CRC and is skipped, so the older one wins. The first record after a power-up leaves one write unit free: a write
cut in its very first unit may leave cells that read as erased and must not be written again.

## The offer record

Sent as a block of {OFFER_LAYOUT.sizeof() // 8} data frames before BeginTransfer.

{layout(OFFER_LAYOUT)}

## CAN messages

Taken from `dbc/bms_bootloader.dbc`; signals are unsigned, little endian, unscaled. Ranges and value tables: [dbc/bms_bootloader.md](dbc/bms_bootloader.md);
all files: [dbc.md](dbc.md).

{messages(database)}

### Result codes

{result_codes()}

## Not there yet

Broadcast transfers, CAN FD data, blocks of more than {BLOCK_FRAMES_MAX} frames, compression and security access come with issue 4. Their places are kept:
capability bits in Status, segments in BlockMissing, `layout` and `flags` in the offer record, 255 as address of all nodes.
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
