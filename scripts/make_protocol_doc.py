"""Keep the made parts of docs/protocol.md: our extension of GB/T 32960.3, byte by byte, from the tables the codec is made of.

`python scripts/make_protocol_doc.py` writes them, `--check` only says whether they are up to date (exit code 1 if not). The
page itself is written by hand.
"""

from __future__ import annotations

import sys
from functools import partial
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
    Frame,
    LocalUpgrade,
    LocalUpgradeOutcome,
    LocalUpgrades,
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
from bmsota.gbt32960._tables import (
    ACTIVATION,
    ACTIVATION_REPLY,
    BODY_LAYOUTS,
    EXTENSION_BODY_LAYOUTS,
    EXTENSION_LAYOUTS,
    EXTENSION_REPLY_LAYOUTS,
    KEY_EXCHANGE,
    PLATFORM_LOGIN_2016,
    PLATFORM_LOGIN_2025,
    PLATFORM_LOGOUT,
    VEHICLE_LOGIN_2016,
    VEHICLE_LOGIN_2025,
    VEHICLE_LOGOUT,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pages import DOCS, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import IntEnum

    from bmsota.gbt32960 import Body, Message

PAGE = DOCS / "protocol.md"

MESSAGES = (
    VEHICLE_LOGIN_2016,
    VEHICLE_LOGIN_2025,
    VEHICLE_LOGOUT,
    PLATFORM_LOGIN_2016,
    PLATFORM_LOGIN_2025,
    PLATFORM_LOGOUT,
    ACTIVATION,
    ACTIVATION_REPLY,
    KEY_EXCHANGE,
)


MOMENT = beijing_time(1_767_225_600_000_000_000)


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
            return f"text, padded with {'zero bytes' if row.padding == bytes(1) else 'blanks'}"
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
            return "count n, length m, then (unless m is 0) n codes of m bytes"
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
        0xC0: UnitIdentity(MOMENT, nodes),
        0xC1: UpgradeState(
            time=MOMENT, order_id="o-1", state=UpgradeStateCode.DOWNLOADING, progress_pct=42, reason="resumed"
        ),
        0xC2: SignedReport(MOMENT, b"\xd2\x84\x43\xa1\x01\x27"),
        0xC3: LocalUpgrades(
            MOMENT,
            (
                LocalUpgrade(
                    upgraded_at=beijing_time(1_767_222_000_000_000_000),
                    position=2,
                    hwid="F7S-0002",
                    version_before=(2, 0, 0, 0),
                    version_after=(2, 1, 0, 5),
                    outcome=LocalUpgradeOutcome.SUCCEEDED,
                    tool="bmsota 1.0",
                ),
            ),
        ),
        0xC4: BlockRequest(MOMENT, bytes(range(32)), 65536, 16),
    }


def body_examples() -> dict[int, Body]:
    return {
        0xB0: CanSignals((CanMessage(0x180, bytes.fromhex("0e10271000c80000"), offset_ms=20),)),
        0xB1: BmsConfiguration(7, (ConfigurationItem(1, 0x0102, b"\x0e\x74"),)),
        0xB2: FaultChanges((FaultChange(MOMENT, 2, 0x10203, FaultState.ONSET, 2, "cell 7"),)),
    }


def command_part(command: int) -> str:
    layout = EXTENSION_LAYOUTS[command]
    return "\n".join([*tables_of(layout), *example_of(command, examples()[command])])


def reply_part(command: int) -> str:
    request = examples()[command]
    assert isinstance(request, BlockRequest)
    block = BlockReply.to(request, bytes.fromhex("00000120c1000008cd000008cf000008"))
    return "\n".join([*table_of(EXTENSION_REPLY_LAYOUTS[command]), *example_of(command, block, ReplyFlag.SUCCESS)])


def body_part(type_id: int) -> str:
    lines = tables_of(EXTENSION_BODY_LAYOUTS[type_id], in_body=True)
    return "\n".join([*lines, *example_of(Command.REALTIME_REPORT, Report(MOMENT, (body_examples()[type_id],)))])


def tables_of(layout: Layout, *, in_body: bool = False, clauses: bool = False) -> Iterator[str]:
    """The layout's table and those of the layouts that it repeats."""
    yield from table_of(layout, in_body=in_body)
    for inner in inner_layouts(layout):
        yield f"Each {inner.label} ({inner.clause}):" if clauses else f"Each {inner.label}:"
        yield ""
        yield from table_of(inner)


def answer() -> str:
    question = examples()[0xC1]
    assert isinstance(question, UpgradeState)
    frame = Frame(
        command=Command.UPGRADE_STATE,
        vin="LTEST000000000001",
        message=TimeReply(question.time),
        reply_flag=ReplyFlag.SUCCESS,
    )
    return f"```text\n{encode(frame).hex(' ')}\n```"


def codes() -> str:
    enums: tuple[type[IntEnum], ...] = (NodeRole, NodeState, UpgradeStateCode, LocalUpgradeOutcome, FaultState)
    return "\n".join(line for each in enums for line in codes_of(each))


def bodies() -> str:
    lines = []
    for edition, layouts in BODY_LAYOUTS.items():
        for layout in layouts.values():
            lines += [f"### {edition.name.removeprefix('GBT')}: {layout.label} ({layout.clause})", ""]
            lines += tables_of(layout, clauses=True)
    return "\n".join(lines)


def messages() -> str:
    return "\n".join(
        line for layout in MESSAGES for line in (f"### {layout.label} ({layout.clause})", "", *table_of(layout))
    )


PARTS: dict[str, Callable[[], str]] = {
    **{f"0x{command:02X}": partial(command_part, command) for command in EXTENSION_LAYOUTS},
    **{f"0x{command:02X} answer": partial(reply_part, command) for command in EXTENSION_REPLY_LAYOUTS},
    **{f"body 0x{type_id:02X}": partial(body_part, type_id) for type_id in EXTENSION_BODY_LAYOUTS},
    "answer": answer,
    "codes": codes,
    "bodies": bodies,
    "messages": messages,
}


def phrases() -> list[str]:
    """What the page's sentences say of the code's numbers."""
    return [
        f"the WORD `0x{EXTENSION_VERSION:04X}`",
        f"at most {BLOCK_SIZE_BYTES_MAX}: half of what a data unit can hold",
    ]


if __name__ == "__main__":
    sys.exit(run(PAGE, PARTS, phrases()))
