"""Write the bootloader's DBC files: dbc/bms_bootloader.dbc, and its variants with 29-bit ids and CAN FD data.

`python scripts/make_bootloader_dbc.py` writes them, `--check` only says whether they are as this script would write them
(exit code 1 if not). Sixty-four data messages and thirty-two reply messages of one layout are nothing to type or review by
hand; the tables below are. The DBC files are committed because CAN tools read those. docs/bootloader.md explains the use.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

DBC_FOLDER = Path(__file__).resolve().parents[1] / "dbc"

POSITIONS = range(32)
REQUEST_ID = 0x000  # These three are behind the variant's first id.
REPLY_ID = 0x020  # + position
DATA_ID = 0x040  # + index of the frame in its block
DATA_MESSAGES = 64
CLASSIC_BYTES, FD_BYTES = 8, 64
EXTENDED_FLAG = 1 << 31  # how a DBC marks a 29-bit id
FD_FORMATS = {False: 14, True: 15}  # VFrameFormat: StandardCAN_FD, ExtendedCAN_FD


@dataclass(frozen=True)
class Variant:
    """One file: the same messages with other ids or longer data frames."""

    name: str
    first_id: int
    extended: bool
    fd: bool

    @property
    def what(self) -> str:
        ids = "29-bit ids 0x1CFF0700 to 0x1CFF077F" if self.extended else "11-bit ids 0x700 to 0x77F"
        return f"{ids}, data frames of {'64 bytes (CAN FD)' if self.fd else '8 bytes'}"


# 29-bit: the lowest priority (7), and a number that J1939 leaves to makers (PGN 0xFF07), so that such traffic goes beside it.
VARIANTS = (
    Variant("bms_bootloader", 0x700, extended=False, fd=False),
    Variant("bms_bootloader_29bit", 0x1CFF0700, extended=True, fd=False),
    Variant("bms_bootloader_fd", 0x700, extended=False, fd=True),
    Variant("bms_bootloader_fd_29bit", 0x1CFF0700, extended=True, fd=True),
)

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
    11: "OpenBlock",
    12: "RequestChallenge",
    13: "Unlock",
}
KINDS = {
    1: "Status",
    2: "Version",
    3: "Build",
    4: "Counter",
    **{5 + part: f"Class{part}" for part in range(3)},
    **{8 + part: f"Hwid{part}" for part in range(4)},
    **{12 + part: f"Serial{part}" for part in range(4)},
    16: "Limits",
    **{17 + part: f"Digest{part}" for part in range(6)},
    32: "Result",
    33: "Report",
    34: "MissingBitmap",
    35: "Pending",
    36: "MissingList",
    **{37 + part: f"Challenge{part}" for part in range(3)},
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
    13: "AccessNeeded",
    14: "AccessDenied",
    15: "AccessWait",
    16: "WrongProtocol",
    17: "InUse",
    18: "Worn",
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
    Row("Node", 0, 8, "Addressed node: 0 the master, 1 to 31 a slave, 128 to 254 the nodes of a broadcast, 255 every node."),
    Row("Command", 8, 8, "The command.", multiplexer=True, choices=COMMANDS),
    only("DiscoverEcho", 16, 8, 1, "Returned in the Status, Version, Build, Counter, Limits and Digest replies to this request."),
    *(
        only(f"{COMMANDS[kind]}Tag", 16, 8, kind, "Number of this command, 1 to 255, then 1 again; a retry has the same tag.")
        for kind in (2, 3, 5, 6, 7, 8, 9, 10, 12, 13)
    ),
    *(
        only(f"{COMMANDS[kind]}BootId", 32, 8, kind, "BootId the node last reported: the command is not for a later boot.")
        for kind in (2, 5, 6, 7, 8, 9, 10, 12)
    ),
    only("Protocol", 24, 8, 2, "Version of this protocol that the flasher will use."),
    only("OfferFrames", 24, 8, 3, "Data frames of the offer record that was sent before, see docs/bootloader.md."),
    only("OfferCrc32", 32, 32, 3, "CRC-32 (Ethernet) of these frames' data bytes."),
    only("CheckedBlock", 16, 8, 4, "Number of the block in this stream: 0 to 254, then 0 again."),
    only("CheckedFrames", 24, 7, 4, "Data frames of the block; the last frame is padded with 0xFF."),
    only("ReportWanted", 31, 1, 4, "Whether the node must send a report of what it has and what is missing.", choices={0: "No", 1: "Yes"}),
    only("CheckedCrc32", 32, 32, 4, "CRC-32 (Ethernet) of the image's SHA-256, StreamOffset (4 bytes) and these frames' data bytes."),
    only("RaiseCounter", 24, 1, 8, "Whether the security counter rises to the confirmed image's counter.", choices={0: "No", 1: "Yes"}),
    only("OpenedBlock", 16, 8, 11, "Number of the block that the next data frames belong to."),
    only("IsRepair", 24, 1, 11, "Whether the frames only fill gaps in that block, or the stream continues with it.", choices={0: "No", 1: "Yes"}),
    only("StreamOffset", 32, 32, 11, "Where in the image block 0 of this stream begins.", unit="byte"),
    only("SignatureFrames", 24, 8, 13, "Data frames of the signature that was sent before."),
    only("SignatureCrc32", 32, 32, 13, "CRC-32 (Ethernet) of these frames' data bytes."),
)  # fmt: skip

REPLY_ROWS = (
    Row("Kind", 0, 8, "Kind of reply.", multiplexer=True, choices=KINDS),
    only("StatusEcho", 8, 8, 1, "DiscoverEcho of the request."),
    only("LastTag", 16, 8, 1, "Tag of the newest command done since power-up; 0: none."),
    only("ProtocolVersion", 24, 4, 1, "Newest version of this protocol that the node supports."),
    only("ProtocolVersionMin", 28, 4, 1, "Oldest version of this protocol that the node supports."),
    only("Role", 32, 2, 1, "Kind of node.", choices=ROLES),
    only("NodeState", 34, 3, 1, "What the node is doing.", choices=NODE_STATES),
    only("BootReason", 37, 3, 1, "Why the running image runs.", choices=BOOT_REASONS),
    only("SlotAState", 40, 4, 1, "What slot A holds.", choices=SLOT_STATES),
    only("SlotBState", 44, 4, 1, "What slot B holds.", choices=SLOT_STATES),
    only("ActiveSlot", 48, 2, 1, "The slot that boots normally.", choices=SLOTS),
    only("RunningSlot", 50, 2, 1, "The slot that runs.", choices=SLOTS),
    only("Unlocked", 52, 1, 1, "Whether security access has been granted since the last restart.", choices={0: "No", 1: "Yes"}),
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
    only("LimitsEcho", 8, 8, 16, "DiscoverEcho of the request."),
    only("Capabilities", 16, 16, 16, "Bit 0 CAN FD data, 1 broadcast, 2 compression, 3 security access needed, 4 image digest."),
    only("WindowBlocks", 32, 8, 16, "Blocks of 8-byte frames the node can hold while one of them is incomplete."),
    only("WindowBlocksFd", 40, 8, 16, "The same for blocks of 64-byte frames; 0: no CAN FD."),
    only("SlotSize", 48, 16, 16, "Size of the slot an image must fit into; 65535: that or more.", unit="KiB"),
    *(
        row
        for part in range(6)
        for row in (
            only(f"ImageDigest{part}Echo", 8, 8, 17 + part, "DiscoverEcho of the request."),
            only(f"ImageDigest{part}", 16, 48, 17 + part, f"Bytes {6 * part} to {min(6 * part + 5, 31)} of the SHA-256 of the running image's file; 0 if none runs."),
        )
    ),
    only("ResultTag", 8, 8, 32, "Tag of the command; of CheckBlock the block's number."),
    only("ResultCommand", 16, 8, 32, "The command this is the result of.", choices=COMMANDS),
    only("ResultCode", 24, 8, 32, "What became of it.", choices=RESULTS),
    only("ResultDetail", 32, 32, 32, "BeginTransfer: the offset from which the image is wanted. AccessWait: how many ms. Else 0."),
    only("ReportedBlock", 8, 8, 33, "CheckedBlock of the request. The missing frames were said before, up to this block."),
    only("NextBlock", 16, 8, 33, "Number of the first block that is not complete; the node has all before it."),
    only("MissingTotal", 24, 8, 33, "Frames missing up to the reported block; 255: that or more."),
    only("StoredOffset", 32, 32, 33, "Offset of the first byte of the image that is not yet stored.", unit="byte"),
    only("BitmapBlock", 8, 8, 34, "Number of the block, or 255 for the offer or signature, of which frames are missing."),
    only("BitmapSegment", 16, 8, 34, "Which 32 frames the bitmap is about."),
    only("BitmapTotal", 24, 8, 34, "Missing frames of the whole block."),
    only("Bitmap", 32, 32, 34, "Bit k set: frame 32 * segment + k is missing; frame 64 is the block's CheckBlock."),
    only("PendingTag", 8, 8, 35, "Tag of the command, or number of the block, that takes longer."),
    only("PendingCommand", 16, 8, 35, "The command that takes longer.", choices=COMMANDS),
    only("PendingMs", 24, 16, 35, "The result comes no later than in this time.", unit="ms"),
    only("ListedBlock", 8, 8, 36, "CheckedBlock of the request."),
    *(
        row
        for entry in range(4)
        for row in (
            only(f"Missing{entry}Age", 16 + 12 * entry, 5, 36, "How many blocks before the listed one; 31: no entry."),
            only(f"Missing{entry}Frame", 21 + 12 * entry, 7, 36, "The missing frame of that block; 64: its CheckBlock."),
        )
    ),
    *(
        only(f"Challenge{part}", 8, 56, 37 + part, f"Bytes {7 * part} to {min(7 * part + 6, 15)} of the 16-byte challenge.")
        for part in range(3)
    ),
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
    size_bytes: int = CLASSIC_BYTES
    with_signal_comments: bool = True


def node_name(position: int) -> str:
    return "Master" if position == 0 else f"Slave{position:02d}"


def data_rows(index: int, *, fd: bool) -> tuple[Row, ...]:
    """Eight bytes a signal: longer numbers few tools can hold."""
    if not fd:
        return (Row(f"Data{index:02d}", 0, 64, "Image bytes in ascending order, the first in the lowest bits."),)
    return tuple(
        Row(f"Data{index:02d}_{part}", 64 * part, 64, f"Image bytes {8 * part} to {8 * part + 7} of the frame in ascending order.")
        for part in range(FD_BYTES // 8)
    )  # fmt: skip


def tables(variant: Variant) -> list[Table]:
    nodes = ",".join(node_name(position) for position in POSITIONS)
    size = FD_BYTES if variant.fd else CLASSIC_BYTES
    base = variant.first_id
    return [
        Table("BootRequest", base + REQUEST_ID, "Flasher", nodes, "A command to one node, some or all.", REQUEST_ROWS),
        *(
            Table(
                f"BootReply{position:02d}",
                base + REPLY_ID + position,
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
                base + DATA_ID + index,
                "Flasher",
                nodes,
                f"{size} raw bytes: frame {index} of the block that is being sent, for the nodes with an open transfer.",
                data_rows(index, fd=variant.fd),
                size_bytes=size,
                with_signal_comments=index == 0,
            )
            for index in range(DATA_MESSAGES)
        ),
    ]


def dbc_text(variant: Variant) -> str:
    nodes = ["Flasher", *(node_name(position) for position in POSITIONS)]
    lines = ['VERSION "1.0"', "", "NS_ :", "", "BS_:", "", f"BU_: {' '.join(nodes)}", ""]
    flag = EXTENDED_FLAG if variant.extended else 0
    for table in tables(variant):
        lines.append(f"BO_ {table.can_id | flag} {table.name}: {table.size_bytes} {table.sender}")
        for row in table.rows:
            mux = " M" if row.multiplexer else "" if row.kinds is None else f" m{row.kinds[0]}"
            maximum = (1 << row.length_bits) - 1 if row.length_bits <= 32 else 0  # 0|0: no limit beside the bits.
            lines.append(
                f" SG_ {row.name}{mux} : {row.start_bit}|{row.length_bits}@1+ (1,0) [0|{maximum}]"
                f' "{row.unit}" {table.receivers}'
            )
        lines.append("")
    lines.append(
        f'CM_ "Bootloader of BMS masters and slaves: {variant.what}.'
        " Goes beside the traffic of bms_internal.dbc."
        ' Explained in docs/bootloader.md. Made by scripts/make_bootloader_dbc.py.";'
    )
    for table in tables(variant):
        lines.append(f'CM_ BO_ {table.can_id | flag} "{table.comment}";')
        if table.with_signal_comments:
            lines += [f'CM_ SG_ {table.can_id | flag} {row.name} "{row.comment}";' for row in table.rows]
    if variant.fd:
        formats = ["StandardCAN", "ExtendedCAN", *(f"reserved{number}" for number in range(2, 14))]
        names = ",".join(f'"{name}"' for name in [*formats, "StandardCAN_FD", "ExtendedCAN_FD"])
        lines.append(f'BA_DEF_ BO_ "VFrameFormat" ENUM {names};')
        lines.append(f'BA_DEF_DEF_ "VFrameFormat" "{"ExtendedCAN" if variant.extended else "StandardCAN"}";')
        lines += [
            f'BA_ "VFrameFormat" BO_ {table.can_id | flag} {FD_FORMATS[variant.extended]};'
            for table in tables(variant)
            if table.size_bytes == FD_BYTES
        ]
    for table in tables(variant):
        for row in table.rows:
            if row.choices:
                pairs = " ".join(f'{raw} "{name}"' for raw, name in sorted(row.choices.items()))
                lines.append(f"VAL_ {table.can_id | flag} {row.name} {pairs} ;")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is out of date")
    check = parser.parse_args(arguments).check
    stale = 0
    for variant in VARIANTS:
        path = DBC_FOLDER / f"{variant.name}.dbc"
        text = dbc_text(variant)
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
        elif path.exists() and path.read_text(encoding="utf-8") == text:
            print(f"{path.name}: up to date")
        else:
            stale = 1
            print(f"{path.name}: out of date, run scripts/make_bootloader_dbc.py")
    return stale


if __name__ == "__main__":
    sys.exit(main())
