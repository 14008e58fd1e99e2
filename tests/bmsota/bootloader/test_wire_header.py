"""dbc/bmsota_wire.h: up to date, compiled as strict C99, and the frames it reads are those that Python reads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import bootloader_rig
import pytest

from bmsota.boot import BootReason, SlotState
from bmsota.bootloader import BLOCK_FRAMES_MAX, TARGET_TRANSITIONS, BootloaderWire
from bmsota.bootloader._messages import ReplyKind
from bmsota.bootloader._offer import OFFER_BYTES, Offer
from bmsota.image import HardwareClass, ImageRole, ImageVersion
from bmsota.node import Capability, NodeCommand, NodeMode, ResultCode, access_message

ROOT = Path(__file__).resolve().parents[3]
HEADER = ROOT / "dbc" / "bmsota_wire.h"


def built(folder, body):
    """What a C99 program with this body prints, word by word; a warning is an error."""
    source, program = folder / "main.c", folder / "main"
    source.write_text(f'#include "bmsota_wire.h"\n#include <inttypes.h>\n#include <stdio.h>\n{body}', encoding="utf-8")
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Werror", f"-I{HEADER.parent}"]
    done = subprocess.run(["gcc", *flags, str(source), "-o", str(program)], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
def test_the_header_is_the_one_that_the_script_makes(monkeypatch):
    """Another table needs another header: scripts/make_wire_header.py."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_wire_header

    assert HEADER.read_text(encoding="utf-8") == make_wire_header.text()


@pytest.mark.slow
def test_the_numbers_of_the_header_are_pythons(tmp_path):
    enums = {
        "COMMAND": NodeCommand,
        "KIND": ReplyKind,
        "RESULT": ResultCode,
        "STATE": NodeMode,
        "SLOT": SlotState,
        "BOOT": BootReason,
        "ROLE": ImageRole,
        "CAPABILITY": Capability,
    }
    wanted = {f"{prefix}_{member.name}": member.value for prefix, members in enums.items() for member in members}
    wire, wire_29 = (BootloaderWire(bootloader_rig.database(f"bms_bootloader{end}")) for end in ("", "_29bit"))
    for end, each in (("", wire), ("_29BIT", wire_29)):
        wanted |= {f"ID_REQUEST{end}": each.request_id, f"ID_REPLY{end}": each.reply_id, f"ID_DATA{end}": each.data_id}
    wanted |= {"BLOCK_FRAMES_MAX": BLOCK_FRAMES_MAX, "OFFER_BYTES": OFFER_BYTES}
    wanted["ACCESS_TEXT_BYTES"] = len(access_message(bytes(16), "x")) - 17
    prints = "".join(f'printf("%lu\\n", (unsigned long)BMSOTA_{name});' for name in wanted)
    text = 'printf("%s %lu\\n", BMSOTA_ACCESS_TEXT, (unsigned long)sizeof BMSOTA_ACCESS_TEXT);'
    *numbers, last = built(tmp_path, f"int main(void) {{ {prints} {text} return 0; }}\n")
    assert dict(zip(wanted, map(int, numbers), strict=True)) == wanted
    assert last == f"{access_message(bytes(16), 'x')[:26].decode()} 27"


def test_the_transitions_of_the_header_are_the_nodes(tmp_path):
    body = '#define X(s, c, n) printf("%d %d %d\\n", (int)s, (int)c, (int)n);\nint main(void) { BMSOTA_TRANSITIONS(X) return 0; }\n'
    rows = {
        (NodeMode(state), NodeCommand(command)): NodeMode(after)
        for state, command, after in (map(int, line.split()) for line in built(tmp_path, body))
    }
    assert rows == dict(TARGET_TRANSITIONS)


@pytest.mark.slow
def test_c_reads_and_writes_the_frames_of_the_golden_sessions_as_python_does(tmp_path):
    """Every field of every request and reply of all sessions, by the header's bit positions; and put together again."""
    database = bootloader_rig.database()
    wire = BootloaderWire(database)
    frames = {
        tuple(line.partition(" # ")[0].split()[2:4])
        for path in sorted((ROOT / "dbc" / "sessions").iterdir())
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#") and line.split()[1] in "<>"
    }
    messages = {
        wire.request_id: (database["BootRequest"], "REQUEST"),
        wire.reply_id: (database["BootReply00"], "REPLY"),
    }
    lines, wanted = [], []
    for can_id, data in sorted(frames):
        number = int(can_id, 16)
        if number >= wire.data_id:
            continue
        message, prefix = messages[wire.request_id if number == wire.request_id else wire.reply_id]
        raw = message.decode_raw(bytes.fromhex(data))
        octets = ", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(data))
        lines.append(f"{{ const uint8_t d[8] = {{ {octets} }}; uint8_t e[8] = {{0}};")
        for signal, value in raw.items():
            name = f"BMSOTA_{prefix}_{upper(signal)}"
            lines.append(
                f'printf("%" PRIu64 "\\n", bmsota_get(d, {name}_SHIFT, {name}_BITS)); bmsota_put(e, {name}_SHIFT, {name}_BITS, UINT64_C({int(value)}));'
            )
            wanted.append(str(int(value)))
        lines.append('for (unsigned i = 0; i < 8; i++)\nprintf("%02x", (unsigned)e[i]);\nprintf("\\n"); }')
        wanted.append(message.frame(raw).data.hex())
    assert len(wanted) > 500
    body = "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    assert built(tmp_path, body) == wanted


def test_the_offer_that_c_takes_apart_is_the_one_python_put_together(tmp_path):
    hardware = HardwareClass.named("bmsota.example", "c-node")
    offer = Offer(
        role=1, size_bytes=0x12345678, sha256=bytes(range(32)), class_id=hardware.class_id, version=ImageVersion(1, 2, 3, 4),
        security_counter=5, group=200, block_frames=16, is_fd=True, window_bits=10, lookahead_bits=3,
    )  # fmt: skip
    octets = ", ".join(str(byte) for byte in offer.serialize())
    names = {"LAYOUT": 2, "ROLE": 1, "FLAGS": 3, "SIZE_BYTES": 0x78, "SHA256": 0, "MAJOR": 1, "MINOR": 2, "REVISION": 3, "BUILD": 4,
             "SECURITY_COUNTER": 5, "GROUP": 200, "BLOCK_FRAMES": 16, "WINDOW_BITS": 10, "LOOKAHEAD_BITS": 3, "CLASS_ID": hardware.class_id.bytes[0]}  # fmt: skip
    prints = "".join(f'printf("%d\\n", o[BMSOTA_OFFER_{name}_AT]);' for name in names)
    body = f"int main(void) {{ const uint8_t o[BMSOTA_OFFER_BYTES] = {{ {octets} }}; {prints} return 0; }}\n"
    assert built(tmp_path, body) == [str(value) for value in names.values()]


def upper(name):
    """An own way from SlotAState to SLOT_A_STATE."""
    word = ""
    for index, letter in enumerate(name):
        before, after = name[index - 1 : index], name[index + 1 : index + 2]
        is_start = letter.isupper() and before and (before.islower() or before.isdigit() or after.islower())
        word += ("_" if is_start else "") + letter.upper()
    return word
