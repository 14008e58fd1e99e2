"""Write dbc/bms_bootloader.dbc.

`python scripts/make_bootloader_dbc.py` writes it, `--check` only says whether it is as this script would write it (exit
code 1 if not). Sixty-four data messages and thirty-two reply messages of one layout are nothing to type or review by
hand; the tables below are. The DBC file is committed because CAN tools read that. docs/bootloader.md explains the use.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

DBC = Path(__file__).resolve().parents[1] / "dbc" / "bms_bootloader.dbc"

POSITIONS = range(32)
REQUEST_ID = 0x700
REPLY_ID = 0x720  # + position
DATA_ID = 0x740  # + index of the frame in its block
DATA_MESSAGES = 64

COMMANDS = {
    1: "Discover",
    2: "EnterBootloader",
    3: "BeginTransfer",
    4: "CheckBlock",
    5: "FinishTransfer",
    6: "ActivateTest",
    7: "Reset",
    8: "Confirm",
    9: "Revert",
    10: "LeaveBootloader",
}
KINDS = {
    1: "Status",
    2: "Version",
    3: "Build",
    4: "Counter",
    **{5 + part: f"Class{part}" for part in range(3)},
    **{8 + part: f"Hwid{part}" for part in range(4)},
    **{12 + part: f"Serial{part}" for part in range(4)},
    32: "Result",
    33: "BlockAccepted",
    34: "BlockMissing",
    35: "Pending",
}
RESULTS = {
    0: "Ok",
    1: "WrongState",
    2: "WrongRole",
    3: "WrongHardware",
    4: "TooLarge",
    5: "CounterTooLow",
    6: "TestPending",
    7: "BadOffer",
    8: "Incomplete",
    9: "BadImage",
    10: "NotTrusted",
    11: "NothingToDo",
    12: "Damaged",
}
NODE_STATES = {0: "Application", 1: "Bootloader", 2: "Receiving", 3: "Restarting"}
BOOT_REASONS = {0: "Normal", 1: "Test", 2: "Reverted", 3: "Fallback", 4: "Nothing"}
SLOT_STATES = {0: "Empty", 1: "Staging", 2: "Staged", 3: "TestRequested", 4: "Test", 5: "Confirmed", 6: "Bad"}
SLOTS = {0: "SlotA", 1: "SlotB", 3: "None"}
ROLES = {0: "Master", 1: "Slave"}


@dataclass(frozen=True)
class Row:
    """One signal; little endian, unsigned, unscaled."""

    name: str
    start_bit: int
    length_bits: int
    comment: str
    kinds: tuple[int, ...] | None = None  # multiplexer numbers; None: in every frame
    multiplexer: bool = False
    choices: dict[int, str] = field(default_factory=dict)
    unit: str = ""


def only(name: str, start: int, length: int, kind: int, comment: str, **more: object) -> Row:
    return Row(name, start, length, comment, kinds=(kind,), **more)  # type: ignore[arg-type]


REQUEST_ROWS = (
    Row("Node", 0, 8, "Position of the node this is for: 0 the master, 1 to 31 a slave, 255 every node."),
    Row("Command", 8, 8, "What the node is asked to do.", multiplexer=True, choices=COMMANDS),
    only("DiscoverEcho", 16, 8, 1, "Comes back in the Status, Version, Build and Counter replies to this request."),
    *(
        only(f"{COMMANDS[kind]}Tag", 16, 8, kind, "Number of this command, 1 to 255, then 1 again; a repetition has the same tag.")
        for kind in (2, 3, 5, 6, 7, 8, 9, 10)
    ),
    *(
        only(f"{COMMANDS[kind]}BootId", 32, 8, kind, "BootId the node last reported: the command is not for a later boot.")
        for kind in (2, 5, 6, 7, 8, 9, 10)
    ),
    only("OfferFrames", 24, 8, 3, "Data frames of the offer record that was sent before, see docs/bootloader.md."),
    only("OfferCrc32", 32, 32, 3, "CRC-32 (Ethernet) of these frames' data bytes."),
    only("CheckedBlock", 16, 8, 4, "Number of the block in this transfer: 0 to 254, then 0 again."),
    only("CheckedFrames", 24, 8, 4, "Data frames of the block; the last frame is filled with 0xFF."),
    only("CheckedCrc32", 32, 32, 4, "CRC-32 (Ethernet) of these frames' data bytes."),
    only("RaiseCounter", 24, 1, 8, "Whether the security counter rises to the confirmed image's counter.", choices={0: "No", 1: "Yes"}),
)  # fmt: skip

REPLY_ROWS = (
    Row("Kind", 0, 8, "What this reply says.", multiplexer=True, choices=KINDS),
    only("StatusEcho", 8, 8, 1, "DiscoverEcho of the request."),
    only("LastTag", 16, 8, 1, "Tag of the newest command done since power-up; 0: none."),
    only("ProtocolVersion", 24, 8, 1, "Newest version of this protocol the node speaks."),
    only("Role", 32, 2, 1, "Kind of node.", choices=ROLES),
    only("NodeState", 34, 3, 1, "What the node is doing.", choices=NODE_STATES),
    only("BootReason", 37, 3, 1, "Why the running image runs.", choices=BOOT_REASONS),
    only("SlotAState", 40, 4, 1, "What slot A holds.", choices=SLOT_STATES),
    only("SlotBState", 44, 4, 1, "What slot B holds.", choices=SLOT_STATES),
    only("ActiveSlot", 48, 2, 1, "The slot that boots normally.", choices=SLOTS),
    only("RunningSlot", 50, 2, 1, "The slot that runs.", choices=SLOTS),
    only("Capabilities", 52, 4, 1, "Bit 0 CAN FD data, 1 broadcast transfer, 2 compression, 3 security access needed."),
    only("BlockFramesMax", 56, 8, 1, "Data frames of the largest block the node can hold."),
    only("VersionEcho", 8, 8, 2, "DiscoverEcho of the request."),
    only("VersionMajor", 16, 8, 2, "Version of the running image; 0 if none runs."),
    only("VersionMinor", 24, 8, 2, "Version of the running image; 0 if none runs."),
    only("VersionRevision", 32, 16, 2, "Version of the running image; 0 if none runs."),
    only("BuildEcho", 8, 8, 3, "DiscoverEcho of the request."),
    only("VersionBuild", 16, 32, 3, "Build number of the running image; 0 if none runs."),
    only("CounterEcho", 8, 8, 4, "DiscoverEcho of the request."),
    only("SecurityCounter", 16, 32, 4, "The node's security counter: images with a lower one are refused."),
    only("BootId", 48, 8, 4, "Changes with every boot that changed anything in the node's journal."),
    *(
        only(f"HardwareClass{part}", 8, 56, 5 + part, f"Bytes {7 * part} to {min(7 * part + 6, 15)} of the 16-byte class id.")
        for part in range(3)
    ),
    *(
        only(f"Hwid{part}", 8, 56, 8 + part, f"Characters {7 * part} to {min(7 * part + 6, 23)} of the hardware id; 0 fills up.")
        for part in range(4)
    ),
    *(
        only(f"Serial{part}", 8, 56, 12 + part, f"Characters {7 * part} to {min(7 * part + 6, 23)} of the serial number; 0 fills up.")
        for part in range(4)
    ),
    only("ResultTag", 8, 8, 32, "Tag of the command; of CheckBlock the block's number."),
    only("ResultCommand", 16, 8, 32, "The command this is the result of.", choices=COMMANDS),
    only("ResultCode", 24, 8, 32, "What became of it.", choices=RESULTS),
    only("ResultDetail", 32, 32, 32, "BeginTransfer: the offset from which the image is wanted. Else 0.", unit="byte"),
    only("AcceptedBlock", 8, 8, 33, "Number of the block that is complete and correct."),
    only("NextOffset", 16, 32, 33, "Offset of the first byte behind it in the image.", unit="byte"),
    only("MissingBlock", 8, 8, 34, "Number of the block, or 255 for the offer, of which frames are missing."),
    only("MissingSegment", 16, 8, 34, "Which 32 frames the bitmap is about."),
    only("MissingTotal", 24, 8, 34, "Missing frames of the whole block; one reply per segment that misses some."),
    only("MissingBitmap", 32, 32, 34, "Bit k set: frame 32 * segment + k is missing."),
    only("PendingTag", 8, 8, 35, "Tag of the command, or number of the block, that takes longer."),
    only("PendingCommand", 16, 8, 35, "The command that takes longer.", choices=COMMANDS),
    only("PendingMs", 24, 16, 35, "The result comes no later than in this time.", unit="ms"),
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One message."""

    name: str
    can_id: int
    sender: str
    receivers: str
    comment: str
    rows: tuple[Row, ...]
    with_signal_comments: bool = True


def node_name(position: int) -> str:
    return "Master" if position == 0 else f"Slave{position:02d}"


def tables() -> list[Table]:
    nodes = ",".join(node_name(position) for position in POSITIONS)
    return [
        Table("BootRequest", REQUEST_ID, "Flasher", nodes, "A command to one node or to all.", REQUEST_ROWS),
        *(
            Table(
                f"BootReply{position:02d}",
                REPLY_ID + position,
                node_name(position),
                "Flasher",
                f"What the node at position {position} answers. All BootReply messages have one layout;"
                " its signals are commented at BootReply00.",
                REPLY_ROWS,
                with_signal_comments=position == 0,
            )
            for position in POSITIONS
        ),
        *(
            Table(
                f"BootData{index:02d}",
                DATA_ID + index,
                "Flasher",
                nodes,
                f"Eight raw bytes: frame {index} of the block that is being sent, for the node with an open transfer.",
                (Row(f"Data{index:02d}", 0, 64, "Image bytes in ascending order, the first in the lowest bits."),),
                with_signal_comments=index == 0,
            )
            for index in range(DATA_MESSAGES)
        ),
    ]


def dbc_text() -> str:
    nodes = ["Flasher", *(node_name(position) for position in POSITIONS)]
    lines = ['VERSION "1.0"', "", "NS_ :", "", "BS_:", "", f"BU_: {' '.join(nodes)}", ""]
    for table in tables():
        lines.append(f"BO_ {table.can_id} {table.name}: 8 {table.sender}")
        for row in table.rows:
            mux = " M" if row.multiplexer else "" if row.kinds is None else f" m{row.kinds[0]}"
            maximum = (1 << row.length_bits) - 1 if row.length_bits <= 32 else 0  # 0|0: no limit beside the bits.
            lines.append(
                f" SG_ {row.name}{mux} : {row.start_bit}|{row.length_bits}@1+ (1,0) [0|{maximum}]"
                f' "{row.unit}" {table.receivers}'
            )
        lines.append("")
    lines.append(
        'CM_ "Bootloader of BMS masters and slaves: 11-bit ids 0x700 to 0x77F, beside the traffic of bms_internal.dbc.'
        ' Explained in docs/bootloader.md. Made by scripts/make_bootloader_dbc.py.";'
    )
    for table in tables():
        lines.append(f'CM_ BO_ {table.can_id} "{table.comment}";')
        if table.with_signal_comments:
            lines += [f'CM_ SG_ {table.can_id} {row.name} "{row.comment}";' for row in table.rows]
    for table in tables():
        for row in table.rows:
            if row.choices:
                pairs = " ".join(f'{raw} "{name}"' for raw, name in sorted(row.choices.items()))
                lines.append(f"VAL_ {table.can_id} {row.name} {pairs} ;")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if the file is out of date")
    check = parser.parse_args(arguments).check
    text = dbc_text()
    if check:
        up_to_date = DBC.exists() and DBC.read_text(encoding="utf-8") == text
        print(f"{DBC.name}: {'up to date' if up_to_date else 'out of date, run scripts/make_bootloader_dbc.py'}")
        return 0 if up_to_date else 1
    DBC.write_text(text, encoding="utf-8")
    print(f"wrote {DBC.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
