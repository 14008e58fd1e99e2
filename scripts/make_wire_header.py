"""Keep dbc/bmsota_wire.h: the bootloader's ids, numbers, bit positions, layouts and limits, for a node written in C.

`python scripts/make_wire_header.py` writes it, `--check` only says whether it is up to date (exit code 1 if not). Everything in it comes from
the DBC files and from the tables that the library itself runs on.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota.boot import BootReason, SlotState
from bmsota.boot._journal import HEAD_LAYOUT, RECORD_LAYOUT
from bmsota.boot._store import _NO_SLOT as NO_SLOT_IN_JOURNAL
from bmsota.boot._store import PROGRESS_LAYOUT, SLOT_LAYOUT, STATE_LAYOUT
from bmsota.bootloader import TARGET_TRANSITIONS, BootloaderWire, TargetTiming
from bmsota.bootloader import _messages as messages
from bmsota.bootloader._messages import ReplyKind
from bmsota.bootloader._offer import _FLAG_COMPRESSED, _FLAG_FD, _LAYOUT, OFFER_LAYOUT
from bmsota.bootloader._target import _NO_SLOT as NO_SLOT_ON_WIRE
from bmsota.bootloader._wire import _NO_AGE
from bmsota.compression import LOOKAHEAD_BITS, WINDOW_BITS
from bmsota.image import ImageRole
from bmsota.node import CHALLENGE_BYTES, SIGNATURE_BYTES, Capability, NodeCommand, NodeMode, ResultCode
from bmsota.node._access import _MESSAGE_DOMAIN
from bmsota.signals import loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from enum import IntEnum

ROOT = Path(__file__).resolve().parents[1]
HEADER = ROOT / "dbc" / "bmsota_wire.h"
MS = 1_000_000

HEAD = """/* bmsota_wire.h: the numbers of the bmsota CAN bootloader, protocol version {version}, for a node written in C99.
 *
 * Made by scripts/make_wire_header.py from dbc/bms_bootloader*.dbc and the library's tables; do not edit. What they mean stands in
 * docs/bootloader.md. Apache-2.0.
 *
 * A frame's 8 data bytes are one little-endian number of 64 bits; X_SHIFT is a field's lowest bit in it, X_BITS its length:
 * bmsota_get(data, BMSOTA_REQUEST_COMMAND_SHIFT, BMSOTA_REQUEST_COMMAND_BITS).
 */
#ifndef BMSOTA_WIRE_H
#define BMSOTA_WIRE_H

#include <stdint.h>

static inline uint64_t bmsota_get(const uint8_t *data, unsigned shift, unsigned bits)
{{
    uint64_t value = 0;
    unsigned index;
    for (index = 8; index-- > 0;)
        value = (value << 8) | data[index];
    value >>= shift;
    return bits < 64 ? value & ((UINT64_C(1) << bits) - 1) : value;
}}

/* The field must be 0 before. */
static inline void bmsota_put(uint8_t *data, unsigned shift, unsigned bits, uint64_t value)
{{
    unsigned index;
    if (bits < 64)
        value &= (UINT64_C(1) << bits) - 1;
    value <<= shift;
    for (index = 0; index < 8; index++)
        data[index] = (uint8_t)(data[index] | (uint8_t)(value >> (8 * index)));
}}
"""


def upper(name: str) -> str:
    """SlotAState -> SLOT_A_STATE."""
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"([A-Z])([A-Z][a-z])", r"\1_\2", name).upper()


def constants() -> dict[str, list[tuple[str, int, str]]]:
    """Heading -> (name without prefix, value, remark)."""
    return {
        "Identifiers": list(identifiers()),
        "Limits": list(limits()),
        "Fields of BootRequest": list(fields("BootRequest", "REQUEST")),
        "Fields of the replies": list(fields("BootReply00", "REPLY")),
        "The offer record, little endian": list(layout("OFFER", OFFER_LAYOUT)),
        "The journal, little endian": [
            *layout("JOURNAL_HEAD", HEAD_LAYOUT),
            *layout("JOURNAL_RECORD", RECORD_LAYOUT),
            *layout("BOOT_STATE", STATE_LAYOUT),
            *layout("BOOT_SLOT", SLOT_LAYOUT),
            *layout("PROGRESS", PROGRESS_LAYOUT),
        ],
    }


def identifiers() -> Iterator[tuple[str, int, str]]:
    for suffix, name in (("", "bms_bootloader"), ("_29BIT", "bms_bootloader_29bit")):
        wire = BootloaderWire(database(name))
        yield f"ID_REQUEST{suffix}", wire.request_id, ""
        yield f"ID_REPLY{suffix}", wire.reply_id, "+ position"
        yield f"ID_DATA{suffix}", wire.data_id, "+ index of the frame in its block"


def limits() -> Iterator[tuple[str, int, str]]:
    timing = TargetTiming()
    yield "PROTOCOL_VERSION", messages.PROTOCOL_VERSION, ""
    yield "PROTOCOL_VERSION_MIN", messages.PROTOCOL_VERSION_MIN, ""
    yield "GROUP_MIN", messages.GROUP_MIN, "positions that address a broadcast"
    yield "GROUP_MAX", messages.GROUP_MAX, ""
    yield "ALL_NODES", messages.ALL_NODES, ""
    yield "DATA_BYTES", messages.DATA_BYTES, ""
    yield "FD_DATA_BYTES", messages.FD_DATA_BYTES, ""
    yield "BLOCK_FRAMES_MAX", messages.BLOCK_FRAMES_MAX, ""
    yield "CHECK_FRAME", messages.CHECK_FRAME, "in bitmaps and lists: the CheckBlock of the block"
    yield "SEGMENT_FRAMES", messages.SEGMENT_FRAMES, "frames of one bitmap"
    yield "WINDOW_BLOCKS_MAX", messages.WINDOW_BLOCKS_MAX, ""
    yield "BLOCK_NUMBERS", messages.BLOCK_NUMBERS, "then 0 again"
    yield "OFFER_BLOCK", messages.OFFER_BLOCK, "in a bitmap: the offer or the signature"
    yield "NO_ENTRY_AGE", _NO_AGE, "in a list: no entry"
    yield "NO_SLOT", NO_SLOT_ON_WIRE, ""
    yield "NO_SLOT_JOURNAL", NO_SLOT_IN_JOURNAL, ""
    yield "OFFER_LAYOUT", _LAYOUT, "value of the offer's first byte"
    yield "OFFER_FLAG_COMPRESSED", _FLAG_COMPRESSED, ""
    yield "OFFER_FLAG_FD", _FLAG_FD, ""
    yield "COMPRESSION_WINDOW_BITS", WINDOW_BITS, ""
    yield "COMPRESSION_LOOKAHEAD_BITS", LOOKAHEAD_BITS, ""
    yield "CHALLENGE_BYTES", CHALLENGE_BYTES, ""
    yield "SIGNATURE_BYTES", SIGNATURE_BYTES, ""
    yield "ACCESS_TEXT_BYTES", len(_MESSAGE_DOMAIN), "BMSOTA_ACCESS_TEXT with its final 0"
    yield "SESSION_TIMEOUT_MS", timing.session_timeout_ns // MS, ""
    yield "PENDING_THRESHOLD_MS", timing.pending_threshold_ns // MS, ""
    yield "RESTART_DELAY_MS", timing.restart_delay_ns // MS, ""


def fields(message: str, prefix: str) -> Iterator[tuple[str, int, str]]:
    for signal in sorted(database("bms_bootloader")[message].signals, key=lambda signal: signal.name):
        name = f"{prefix}_{upper(signal.name)}"
        yield f"{name}_SHIFT", signal.shift, ""
        yield f"{name}_BITS", signal.length_bits, ""


def layout(prefix: str, struct: Any) -> Iterator[tuple[str, int, str]]:
    offset = 0
    for field in struct.subcons:
        yield f"{prefix}_{field.name.upper()}_AT", offset, f"{field.sizeof()} bytes"
        offset += field.sizeof()
    yield f"{prefix}_BYTES", offset, ""


ENUMS: tuple[tuple[str, type[IntEnum]], ...] = (
    ("COMMAND", NodeCommand),
    ("KIND", ReplyKind),
    ("RESULT", ResultCode),
    ("STATE", NodeMode),
    ("SLOT", SlotState),
    ("BOOT", BootReason),
    ("ROLE", ImageRole),
)


@cache
def database(name: str) -> Any:
    """Reading a DBC takes a second."""
    return loads((ROOT / "dbc" / f"{name}.dbc").read_text(encoding="utf-8"))


def enumeration(prefix: str, members: Iterable[tuple[str, int]]) -> str:
    lines = [f"    BMSOTA_{prefix}_{name} = {value}" for name, value in members]
    return f"enum bmsota_{prefix.lower()} {{\n" + ",\n".join(lines) + "\n};"


def text() -> str:
    parts = [HEAD.format(version=messages.PROTOCOL_VERSION)]
    for heading, entries in constants().items():
        lines = [f"/* {heading} */"]
        for name, value, remark in entries:
            number = f"0x{value:X}u" if name.startswith("ID_") else f"{value}u"
            lines.append(f"#define BMSOTA_{name} {number}" + (f" /* {remark} */" if remark else ""))
        parts.append("\n".join(lines))
    access = _MESSAGE_DOMAIN[:-1].decode("ascii")
    parts.append(
        f'/* What a signature begins with: this text with its final 0, then the challenge, then the hardware id. */\n#define BMSOTA_ACCESS_TEXT "{access}"'
    )
    parts += [enumeration(prefix, ((each.name, each.value) for each in members)) for prefix, members in ENUMS]
    parts.append(enumeration("CAPABILITY", ((each.name or "", each.value) for each in Capability)))
    rows = [
        f"    X(BMSOTA_STATE_{state.name}, BMSOTA_COMMAND_{command.name}, BMSOTA_STATE_{after.name})"
        for (state, command), after in TARGET_TRANSITIONS.items()
    ]
    parts.append(
        "/* (state, command, state once the command has succeeded). A command that is not here is answered WRONG_STATE; DISCOVER is\n"
        " * answered in every state but RESTARTING. */\n#define BMSOTA_TRANSITIONS(X) \\\n" + " \\\n".join(rows)
    )
    return "\n\n".join([*parts, "#endif"]) + "\n"


def main() -> int:
    wanted = text()
    is_stale = not HEADER.exists() or HEADER.read_text(encoding="utf-8") != wanted
    if is_stale and "--check" in sys.argv[1:]:
        print("out of date, run scripts/make_wire_header.py: dbc/bmsota_wire.h")
        return 1
    if is_stale:
        HEADER.write_text(wanted, encoding="utf-8")
        print("written: dbc/bmsota_wire.h")
    return 0


if __name__ == "__main__":
    sys.exit(main())
