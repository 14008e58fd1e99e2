"""Write docs/protocol.md: our extension of GB/T 32960.3, byte by byte, from the tables that the codec is made of.

python scripts/make_protocol_doc.py            write the page
python scripts/make_protocol_doc.py --check    exit code 1 if the page is not what it would write
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from bmsota.gbt32960 import (
    BLOCK_SIZE_BYTES_MAX,
    EXTENSION_VERSION,
    BlockReply,
    BlockRequest,
    BmsConfiguration,
    CanMessage,
    CanSignals,
    Command,
    ConfigurationItem,
    FaultChange,
    FaultChanges,
    FaultState,
    FieldUpgrade,
    FieldUpgradeOutcome,
    FieldUpgrades,
    Frame,
    NodeIdentity,
    NodeRole,
    NodeState,
    ReplyFlag,
    Report,
    SignedReport,
    TimeReply,
    UnitIdentity,
    UpgradeState,
    UpgradeStateCode,
    beijing_time,
    encode,
    explain,
)
from bmsota.gbt32960._fields import (
    CodeTable,
    Field,
    FixedBytes,
    Layout,
    PackTable,
    Repeat,
    Row,
    SizedBytes,
    SizedText,
    Text,
    Time,
)
from bmsota.gbt32960._layouts import (
    ACTIVATION,
    ACTIVATION_REPLY,
    BODY_LAYOUTS,
    EXTENSION_BODY_LAYOUTS,
    EXTENSION_LAYOUTS,
    EXTENSION_REPLY_LAYOUTS,
    KEY_EXCHANGE,
    PLATFORM_LOGIN,
    PLATFORM_LOGIN_2025,
    PLATFORM_LOGOUT,
    VEHICLE_LOGIN_2016,
    VEHICLE_LOGIN_2025,
    VEHICLE_LOGOUT,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from enum import IntEnum

    from bmsota.gbt32960 import Body, Message

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"

INTRODUCTION = f"""\
# The cloud link's extension

<!-- Made by scripts/make_protocol_doc.py from the tables in bmsota/gbt32960/_layouts.py. Do not edit. -->

Units and cloud speak GB/T 32960.3. What a battery management system needs to say and the standard has no words for goes
under commands that the standard leaves to the parties (0xC0 to 0xFE), and in bodies of a report that it leaves to the maker
(0x80 to 0xFE). This page specifies every byte of it.

A platform that knows only the standard may ignore these frames or answer them with an error: the terminal sends each at most
three times, reports that to the program above, and goes on. A terminal that knows only the standard never sends them.

## Conventions

* The frame around the data unit is the standard's, in either edition: start, command, reply flag, identifier, encryption,
  length, data unit, check byte.
* Numbers are big-endian and unsigned. BYTE has 8 bits, WORD 16, DWORD 32.
* A time has six bytes: year - 2000, month, day, hour, minute, second; Beijing time (UTC+8), plain binary.
* Text is a BYTE with its length in bytes, then UTF-8, without an end mark.
* Every data unit begins with the time and the WORD `0x{EXTENSION_VERSION:04X}`: the high byte marks this extension, the low byte is
  its version. In a body it stands behind the body's WORD length. **A frame or body with another WORD in that place is not ours**, whatever its command or type: other makers use
  the same numbers. The codec keeps such data as raw bytes.
* The layouts of a version never change. A later version has another low byte, and receivers that do not know it keep the
  frame raw.
* A data unit, and a body, must be used up by its fields; a byte too many or too few makes the frame invalid.
* Terminal to platform (flag 0xFE) and its answer: the same command, flag 0x01 (or 0x02, not accepted), and as data unit
  **the time of the question**, six bytes. The terminal matches the answer by command and time, sends its frames one after
  another, repeats one that is not answered after the reply timeout (parameter 0x0B; default 1 min), and after three tries
  gives it up. So a frame can arrive twice: the receiver takes the second for what it is, by its time. Only the answer to
  0xC4 carries more, behind the time of the question.
"""

BODY_SECTIONS = {
    0xB0: """Signals of the unit's own buses, carried as the CAN messages they are in: a DBC file says what they mean, and is not
part of the frame. `can_id` has bit 31 set for an id of 29 bits, as DBC files write it. `offset_ms` counts from the report's
time; `data` has up to 8 bytes, with CAN FD up to 64. `bus` is the unit's own number of the bus.
""",
    0xB1: """Calibration values, sent when they were changed or asked for. `revision` names the calibration list, which gives each
`parameter` its name, type and unit; `value` is what stands in the node's memory.
""",
    0xB2: """Faults that came or went since the last report, each with its own time: the alarm body says what is, this says what
happened. `code` is that of the alarm body's lists.
""",
}
SECTIONS = {
    0xC0: """Sent after each login and whenever a node changes. The first node is the master, at position 0; slaves count from 1.
A slave that is configured and does not answer is listed with state ABSENT and what was last known of it. The platform
compares the list with the one before: another HWID at a position is an equipment change.

`hardware_class` is the UUID of the hardware class that firmware images name; `version` and `security_counter` are those of
the running image.
""",
    0xC1: """Sent at each change of state, and while downloading or flashing when the percentage has moved. `order_id` is empty
until the unit has its signed order. `reason` says in a few words why, in the states that need it (FAILED, ROLLED_BACK,
REJECTED, CANCELLED, WAITING_SAFE_STATE). These frames are for showing only: **success is decided by 0xC2**.
""",
    0xC2: """Sent after the first boot that follows an upgrade, until it is answered. `document` is a COSE_Sign1 post-boot report
(`bmsota.ota`), signed by the master's device key; the frame carries it unopened.
""",
    0xC3: """Sent after the next login when nodes were upgraded over CAN, by a tool on the bus and without the platform: it tells
what 0xC0 alone cannot, who did it, when, and what became of it. `version_before` and `version_after` are what the node ran
and runs, all zero where it had or has no valid image; after FAILED and REVERTED they may be the same. `upgraded_at` is the
unit's clock at the end of the upgrade or, where no tool told it, when it noticed: nodes are asked at each start and when a tool
has gone. `tool` is what the tool calls itself, empty if nobody knows, `detail` in a few words why it did not succeed. The
upgrades stand in the order in which they ended; a unit with more of them than a frame holds sends several. A unit keeps
them until the frame is answered with 0x01, so the platform may be told twice: the same `hwid`, versions, outcome and
`upgraded_at` are the same upgrade. These are the unit's own words, unsigned. What an upgrade order has changed is not in here,
its signed report (0xC2) tells it; nor is another piece of hardware at a position, which 0xC0 tells.
""",
    0xC4: f"""For a unit without HTTP: it asks for one piece of a file after another, and for the next when it has the last.
`sha256` is the digest of the whole file and its only name (an upgrade order names the digest of its manifest, a manifest those
of its images). `size` is how many bytes it wants, from `offset` on, at most {BLOCK_SIZE_BYTES_MAX}: half of what a data unit can hold. On the
slowest link (GPRS, 20 kbit/s) that takes 13 s, well inside the reply timeout, so that a block is not asked for again
while it is coming, and heartbeats and commands behind it do not wait long. A unit with little memory asks for less.

Nothing depends on the order of the requests: a unit resumes after a cut by asking from where its verified bytes end, and asks
again for a block whose digest in the manifest does not fit. **A block is not trusted for having come this way**; the
signatures and digests of the documents decide, as with HTTP.
""",
}
REPLY_SECTIONS = {
    0xC4: """The platform's answer to a request that it serves, with flag 0x01. `time`, `sha256` and `offset` are those of the request: the
terminal takes the answer for its question only if all three are equal (many questions fit into one second), and if it is not
longer than asked. `data` has at least one byte; it is shorter than asked at the end of the file, or where the platform
wants smaller blocks. The file ends where its document says, not where an answer is short.

A request that the platform does not serve (no such file, not for this vehicle, nothing at this offset) has flag 0x02 and
the time of the question alone. An answer with flag 0x01 and no more than the request's 46 bytes has no block in it: a time
or an echo, from a platform that knows only the standard.
""",
}


MESSAGES = (
    VEHICLE_LOGIN_2016,
    VEHICLE_LOGIN_2025,
    VEHICLE_LOGOUT,
    PLATFORM_LOGIN,
    PLATFORM_LOGIN_2025,
    PLATFORM_LOGOUT,
    ACTIVATION,
    ACTIVATION_REPLY,
    KEY_EXCHANGE,
)


def size_of(row: Row) -> str:
    match row:
        case Field() | Text() | FixedBytes():
            return str(row.size_bytes)
        case Time():
            return "6"
        case SizedText():
            return "1 + n"
        case SizedBytes():
            return "2 + n"
        case Repeat():
            return f"{row.count_size_bytes} + ..."
        case CodeTable():
            return "2 + n·m"
        case PackTable():
            return f"1 + n + {row.code_size_bytes}·p"


def meaning_of(row: Row) -> str:
    match row:
        case Field() if row.raw_min == row.raw_max:
            return f"always 0x{row.raw_min:04X}"
        case Field():
            parts = [f"{row.raw_min} to {row.raw_max}"]
            if row.divisor != 1 or row.raw_offset:
                offset = f" - {row.raw_offset}" if row.raw_offset else ""
                value = f"raw{offset}"
                parts.append(f"value = ({value}) / {row.divisor}" if row.divisor != 1 else f"value = {value}")
            if row.unit:
                parts.append(row.unit)
            if row.values is not None:
                parts.append(f"`{row.values.__name__}`")
            if row.sentinels:
                high = (1 << (8 * row.size_bytes)) - 1
                parts.append(f"{high - 1:#x} abnormal, {high:#x} invalid")
            return "; ".join(parts)
        case Time():
            return "time"
        case Text():
            return f"text, filled up with {'zero bytes' if row.padding == bytes(1) else 'blanks'}"
        case SizedText():
            return f"length, then text of {row.size_bytes_min} to {row.size_bytes_max} bytes"
        case SizedBytes():
            return f"length, then {row.size_bytes_min} to {row.size_bytes_max} bytes"
        case FixedBytes():
            return "bytes"
        case Repeat():
            item = row.item.label if isinstance(row.item, Layout) else meaning_of(row.item)
            count = f"{row.count_min} to {row.count_max}"
            sentinels = "; a count of abnormal or invalid: no items" if row.sentinels else ""
            return f"count ({count}), then for each: {item}{sentinels}"
        case CodeTable():
            return "count n, length m, then unless m is 0: n codes of m bytes"
        case PackTable():
            packs = f"n bytes with the packs of each (0 to {row.packs_max})"
            return (
                f"count n of BMS (0 to {row.count_max}), {packs}, p codes of {row.code_size_bytes} bytes in that order"
            )


def offset_after(offset: str, row: Row) -> str:
    """Where the next field begins, as far as that is a number."""
    size = size_of(row)
    return str(int(offset) + int(size)) if offset.isdigit() and size.isdigit() else ".."


def table_of(layout: Layout, *, in_body: bool = False) -> Iterator[str]:
    yield "| offset | size | field | meaning |"
    yield "|---|---|---|---|"
    offset = "0"
    if in_body:
        yield "| 0 | 2 | length | of all that follows |"
        yield f"| 2 | 2 | extension | always 0x{EXTENSION_VERSION:04X} |"
        offset = "4"
    for row in layout.rows:
        yield f"| {offset} | {size_of(row)} | {row.name} | {meaning_of(row)} |"
        offset = offset_after(offset, row)
    yield ""


def inner_layouts(layout: Layout) -> Iterator[Layout]:
    for row in layout.rows:
        if isinstance(row, Repeat) and isinstance(row.item, Layout):
            yield row.item
            yield from inner_layouts(row.item)


def codes_of(codes: type[IntEnum]) -> Iterator[str]:
    yield f"`{codes.__name__}`: " + ", ".join(f"{code.value} {code.name}" for code in codes) + "."
    yield ""


def example_of(command: int, message: Message, flag: ReplyFlag = ReplyFlag.COMMAND) -> Iterator[str]:
    frame = Frame(command=command, vin="LTEST000000000001", message=message, reply_flag=flag)
    raw = encode(frame, strict=True)
    yield "Example, field by field:"
    yield ""
    yield "```text"
    for field in explain(raw):
        value = field.value.hex() if isinstance(field.value, bytes) else getattr(field.value, "name", str(field.value))
        if isinstance(field.value, bytes) and len(field.value) > 17:  # Its bytes stand in the line already.
            value = f"{len(field.value)} bytes"
        for start in range(0, len(field.data), 17):
            shown = field.data[start : start + 17].hex(" ")
            said = "" if start else f"{field.name.split(' / ', 1)[-1]:<38}  {value}"
            yield f"{field.offset + start:4}  {shown:<52}  {said}".rstrip()
    yield "```"
    yield ""


def examples() -> dict[int, Message]:
    moment = beijing_time(1_767_225_600_000_000_000)
    nodes = (
        NodeIdentity(
            role=NodeRole.MASTER,
            position=0,
            hwid="F7M-0001",
            hardware_class=UUID("00112233-4455-6677-8899-aabbccddeeff"),
            version=(2, 1, 0, 5),
            security_counter=3,
            serial="SN1",
        ),
    )
    return {
        0xC0: UnitIdentity(moment, nodes),
        0xC1: UpgradeState(
            time=moment, order_id="o-1", state=UpgradeStateCode.DOWNLOADING, progress_pct=42, reason="resumed"
        ),
        0xC2: SignedReport(moment, b"\xd2\x84\x43\xa1\x01\x27"),
        0xC3: FieldUpgrades(
            moment,
            (
                FieldUpgrade(
                    upgraded_at=beijing_time(1_767_222_000_000_000_000),
                    position=2,
                    hwid="F7S-0002",
                    version_before=(2, 0, 0, 0),
                    version_after=(2, 1, 0, 5),
                    outcome=FieldUpgradeOutcome.SUCCEEDED,
                    tool="bmsota 1.0",
                ),
            ),
        ),
        0xC4: BlockRequest(moment, bytes(range(32)), 65536, 16),
    }


def body_examples() -> dict[int, Body]:
    moment = beijing_time(1_767_225_600_000_000_000)
    return {
        0xB0: CanSignals((CanMessage(0x180, bytes.fromhex("0e10271000c80000"), offset_ms=20),)),
        0xB1: BmsConfiguration(7, (ConfigurationItem(1, 0x0102, b"\x0e\x74"),)),
        0xB2: FaultChanges((FaultChange(moment, 2, 0x10203, FaultState.ONSET, 2, "cell 7"),)),
    }


def page() -> str:
    lines: list[str] = [INTRODUCTION]
    shown = examples()
    for command, layout in EXTENSION_LAYOUTS.items():
        lines += [f"## {layout.label[:2]}{layout.label[2:4].upper()} {layout.label[5:]}", "", SECTIONS[command]]
        lines += table_of(layout)
        for inner in inner_layouts(layout):
            lines += [f"Each {inner.label}:", "", *table_of(inner)]
        lines += example_of(command, shown[command])
        reply = EXTENSION_REPLY_LAYOUTS.get(command)
        if reply is not None:
            lines += [f"### {reply.label[:2]}{reply.label[2:4].upper()} {reply.label[5:]}", "", REPLY_SECTIONS[command]]
            lines += table_of(reply)
            request = shown[command]
            assert isinstance(request, BlockRequest)
            block = BlockReply.to(request, bytes.fromhex("00000120c1000008cd000008cf000008"))
            lines += example_of(command, block, ReplyFlag.SUCCESS)
    for type_id, layout in EXTENSION_BODY_LAYOUTS.items():
        lines += [
            f"## Body {layout.label[:2]}{layout.label[2:4].upper()} {layout.label[5:]}",
            "",
            BODY_SECTIONS[type_id],
        ]
        lines += table_of(layout, in_body=True)
        for inner in inner_layouts(layout):
            lines += [f"Each {inner.label}:", "", *table_of(inner)]
        moment = beijing_time(1_767_225_600_000_000_000)
        lines += example_of(Command.REALTIME_REPORT, Report(moment, (body_examples()[type_id],)))
    lines += ["## Answer", "", "The answer to the 0xC1 example:", ""]
    question = shown[0xC1]
    assert isinstance(question, UpgradeState)
    answer = Frame(
        command=Command.UPGRADE_STATE,
        vin="LTEST000000000001",
        message=TimeReply(question.time),
        reply_flag=ReplyFlag.SUCCESS,
    )
    lines += ["```text", encode(answer).hex(" "), "```", "", "## Codes", ""]
    enums: Iterable[type[IntEnum]] = (NodeRole, NodeState, UpgradeStateCode, FieldUpgradeOutcome, FaultState)
    for codes in enums:
        lines += codes_of(codes)
    lines += ["## The standard's bodies, as this library reads them", ""]
    lines += [
        "The offsets count from the byte behind the type byte. Ranges are the text's; decoding keeps other numbers."
    ]
    lines += [""]
    for edition, layouts in BODY_LAYOUTS.items():
        for layout in layouts.values():
            lines += [
                f"### {edition.name.removeprefix('GBT')}: {layout.label} ({layout.clause})",
                "",
                *table_of(layout),
            ]
            for inner in inner_layouts(layout):
                lines += [f"Each {inner.label} ({inner.clause}):", "", *table_of(inner)]
    lines += ["## The standard's messages, as this library reads them", ""]
    lines += [
        "Offsets count from the first byte of the data unit. Only messages with a fixed table; heartbeat and time"
    ]
    lines += ["synchronisation are empty."]
    lines += [""]
    for layout in MESSAGES:
        lines += [f"### {layout.label} ({layout.clause})", "", *table_of(layout)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name}: expected what scripts/make_protocol_doc.py writes, got another text; run it again")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
