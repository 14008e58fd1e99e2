"""Write docs/uds.md.

`python scripts/make_uds_doc.py` writes it, `--check` only says whether it is as this script would write it (exit code 1 if
not). The tables are taken from the code, the sequences are recorded from real tester and server code over a pipe in
memory; only the sentences stand here.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.bootloader import Command, ResetRequested, TargetIdentity
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.uds import (
    DIDS,
    NRCS,
    ROUTINES,
    SERVICES,
    UDS_11BIT,
    UDS_29BIT,
    UDS_PROFILE_VERSION,
    Did,
    IsoTpLink,
    Nrc,
    Session,
    UdsCommand,
    UdsDialect,
    UdsServer,
    UdsServerTiming,
    UdsTiming,
    UdsTransfer,
    ed25519_access_check,
    ed25519_access_key,
    nrc_name,
)
from bmsota.uds._conversation import cause_of_refusal
from bmsota.uds._identifiers import ACCESS_LEVEL, BOOT_STATE_LAYOUT, NODE_KIND_LAYOUT, OFFER_LAYOUT, STAGING_LAYOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bmsota.canframe import CanFrame

PAGE = Path(__file__).resolve().parents[1] / "docs" / "uds.md"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
HARDWARE = HardwareClass.named("bmsota.example", "doc-slave")
MS = 1_000_000
FRAME_NS = 228_000


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def layout(struct: Any) -> str:
    rows, offset = [], 0
    for part in struct.subcons:
        size = part.sizeof()
        rows.append((offset, size, f"`{part.name}`"))
        offset += size
    return table(("offset", "bytes", "field"), rows)


# ---- the tables


def services() -> str:
    rows = []
    for service, rule in SERVICES.items():
        sessions = (
            "all" if rule.sessions == frozenset(Session) else ", ".join(s.name.lower() for s in sorted(rule.sessions))
        )
        subfunctions = "" if rule.subfunctions is None else ", ".join(f"{s:02X}" for s in sorted(rule.subfunctions))
        rows.append(
            (
                f"{service.request_id():02X}",
                service.get_name(),
                subfunctions,
                sessions,
                "yes" if rule.needs_access else "",
                "yes" if rule.is_functional else "",
            )
        )
    heads = ("service", "name", "sub-functions", "sessions", "needs access", "may be asked of all nodes")
    return table(heads, sorted(rows))


def identifiers() -> str:
    rows = [(f"{did:04X}", row.size_bytes, row.standard_name, row.meaning) for did, row in DIDS.items()]
    return table(("identifier", "bytes", "name in ISO 14229-1", "what it says here"), rows)


def routines() -> str:
    rows = [(f"{routine:04X}", routine.name, *row) for routine, row in ROUTINES.items()]
    return table(("routine", "name", "with the request", "with the answer", "what it does"), rows)


def reaction(nrc: Nrc, *, has_profile: bool) -> str:
    """What the tester does about a refusal."""
    special = {
        Nrc.RESPONSE_PENDING: "waits P2*",
        Nrc.BUSY_REPEAT_REQUEST: "asks again after a pause",
        Nrc.INVALID_KEY: "asks for one more seed, then fails: access denied",
        Nrc.EXCEEDED_NUMBER_OF_ATTEMPTS: "waits and asks for a seed again",
        Nrc.REQUIRED_TIME_DELAY_NOT_EXPIRED: "waits and asks for a seed again",
    }
    if nrc in special:
        return special[nrc]
    cause = cause_of_refusal(nrc, has_profile=has_profile)
    return "begins anew, goes on from what is there" if cause is None else f"fails: {cause.value}"


def refusals() -> str:
    rows = [(nrc_name(nrc), meaning or "never", reaction(nrc, has_profile=True)) for nrc, meaning in NRCS.items()]
    return table(("refusal", "our node gives it for", "our tester then"), rows)


def milliseconds(value: int) -> str:
    return f"{value // MS} ms" if value < 10_000 * MS else f"{value // (1000 * MS)} s"


def times(timing: type) -> str:
    made = timing()
    rows = []
    for each in fields(timing):
        value = getattr(made, each.name)
        rows.append((f"`{each.name}`", milliseconds(value) if each.name.endswith("_ns") else value))
    return table(("setting", "default"), rows)


def dialects() -> str:
    own, plain = UdsDialect(), UdsDialect.plain(address=0x0800_0000)

    def shown(name: str, value: object) -> str:
        if value is None or value in ((), {}, b""):
            return "none"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int) and name in {"erase_routine", "check_routine", "dependencies_routine", "version_did"}:
            return f"{int(value):04X}"
        if name in {"address", "block_length_max"} and isinstance(value, int):
            return f"0x{value:X}"
        return str(getattr(value, "name", value))

    rows = []
    for each in fields(UdsDialect):
        pair = [shown(each.name, getattr(dialect, each.name)) for dialect in (own, plain)]
        rows.append((f"`{each.name}`", *pair))
    return table(("field", "our own nodes", "`UdsDialect.plain(address=0x08000000)`"), rows)


# ---- sequences, recorded


class Recorder:
    """One tester and one node on a pipe with a time loop; writes down who says what."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.lines: list[str] = []
        self.address = UDS_11BIT.address(1)
        self.flash = FlashModel(16 * 1024, erase_block_bytes=1024)
        self.layout = SlotLayout.divide(self.flash)
        verify = partial(verify_image, public_keys=[KEY.public_key()])
        self.verify = for_hardware(verify, class_id=HARDWARE.class_id, role=ImageRole.SLAVE)
        self.boots = 0
        self.server: UdsServer | None = None
        self.on_ns: int | None = None
        self.lose: Callable[[bytes], bool] = lambda _message: False
        self.cut: Callable[[bytes], bool] = lambda _message: False
        # Two listeners put the frames together again.
        self.requests = IsoTpLink.of_node(self.address)
        self.answers = IsoTpLink.of_tester(self.address)
        self.store().install_factory(image("2.0.0", 1, 900))
        self.power_on()

    def store(self) -> BootStore:
        return BootStore(self.flash, self.layout, verify=self.verify)

    def note(self, text: str) -> None:
        self.lines.append(f"    Note over Node: {text}")

    def power_on(self) -> None:
        self.on_ns = None
        self.boots += 1
        store = self.store()
        boot = store.boot()
        store.take_busy_ns()
        identity = TargetIdentity(position=1, role=ImageRole.SLAVE, hwid="HW-1", serial="SN-1", hardware_class=HARDWARE)
        self.server = UdsServer(
            self.address,
            identity=identity,
            store=store,
            boot=boot,
            random_bytes=lambda size: bytes([self.boots]) * size,
            access=ed25519_access_check([KEY.public_key()]),
        )
        version = boot.facts.version if boot.facts else "none"
        self.note(f"boots: {boot.reason.name}, version {version}")

    def power_off(self) -> None:
        self.server = None
        self.on_ns = self.now_ns + 300 * MS

    def run(self, client: Any) -> None:
        free_ns = self.now_ns
        bus: list[tuple[int, bool, CanFrame]] = []
        while not client.finished:
            client.handle_timeout(self.now_ns)
            out = [(True, frame) for frame in client.frames_to_send(self.now_ns)]
            while client.next_event() is not None:
                pass
            if self.server is not None:
                self.server.handle_timeout(self.now_ns)
                out += [(False, frame) for frame in self.server.frames_to_send(self.now_ns)]
                while self.server is not None and (event := self.server.next_event()) is not None:
                    if isinstance(event, ResetRequested):
                        self.power_off()
            for from_client, frame in out:
                free_ns = max(free_ns, self.now_ns) + FRAME_NS
                bus.append((free_ns, from_client, frame))
            due = [bus[0][0] if bus else None, client.next_timeout(), self.on_ns]
            due.append(None if self.server is None else self.server.next_timeout())
            self.now_ns = max(self.now_ns, min(time for time in due if time is not None))
            if self.on_ns is not None and self.now_ns >= self.on_ns:
                self.power_on()
            while bus and bus[0][0] <= self.now_ns:
                _, from_client, frame = bus.pop(0)
                self.deliver(client, from_client, frame)

    def deliver(self, client: Any, from_client: bool, frame: CanFrame) -> None:
        listener = self.requests if from_client else self.answers
        listener.receive_frame(frame, self.now_ns)
        listener.frames_to_send(self.now_ns)  # Its flow control goes nowhere.
        message = listener.next_message()
        is_lost = message is not None and not from_client and self.lose(message)
        if message is not None:
            self.lines.append(say(message, from_client, is_lost))
        if not is_lost:
            if from_client and self.server is not None:
                self.server.receive_frame(frame, self.now_ns)
            elif not from_client:
                client.receive_frame(frame, self.now_ns)
        if message is not None and not from_client and self.cut(message):
            self.note("loses its supply")
            self.power_off()


def say(message: bytes, from_client: bool, is_lost: bool) -> str:
    shown = message.hex(" ").upper()
    shown = f"{shown[:26]} ... ({len(message)} bytes)" if len(message) > 12 else shown
    arrow = "Tester->>Node" if from_client else "Node-xTester" if is_lost else "Node-->>Tester"
    return f"    {arrow}: {shown}{'  (lost)' if is_lost else ''}"


def image(version: str, counter: int, size: int) -> bytes:
    return build_image(
        bytes(index * 7 % 251 for index in range(size)),
        version=ImageVersion.parse(version),
        security_counter=counter,
        hardware_class=HARDWARE,
        role=ImageRole.SLAVE,
        signing_key=KEY,
    )


def options() -> dict[str, Any]:
    return {"position": 1, "access_key": ed25519_access_key(KEY)}


def sequence(lines: Iterable[str]) -> str:
    head = ["```mermaid", "sequenceDiagram", "    participant Tester", "    participant Node"]
    return "\n".join([*head, *lines, "```"])


def good_way() -> str:
    recorder = Recorder()
    address = recorder.address
    recorder.run(UdsTransfer(address, image=image("2.1.0", 2, 5000), **options()))
    for command in (Command.ACTIVATE_TEST, Command.RESET, Command.CONFIRM):
        recorder.lines.append(f"    Note over Tester: {command.name}")
        recorder.run(UdsCommand(address, command=command, **options()))
    return sequence(recorder.lines)


def bad_way() -> str:
    recorder = Recorder()
    lost: list[bytes] = []

    def lose(message: bytes) -> bool:
        if message == b"\x76\x02" and not lost:
            lost.append(message)
            return True
        return False

    recorder.lose = lose
    recorder.cut = lambda message: message == b"\x76\x03" and recorder.boots == 1
    dialect = UdsDialect(block_length_max=0x202)
    recorder.run(UdsTransfer(recorder.address, image=image("2.1.0", 2, 2300), dialect=dialect, **options()))
    return sequence(recorder.lines)


# ---- the page


def page() -> str:
    eleven, twenty_nine = UDS_11BIT.address(3), UDS_29BIT.address(31)
    server, client = UdsServerTiming(), UdsTiming()
    return f"""<!-- Made by scripts/make_uds_doc.py from the code's tables. Do not edit: change the code or the script. -->

# UDS

The second way to put a firmware image on a node: UDS (ISO 14229-1) on ISO-TP (ISO 15765-2). For ECUs that speak it already, and for
testers that speak nothing else. Both ends are in `bmsota.uds`, without a bus; the slots are those of `bmsota.boot`, the commands and events
those of [bootloader.md](bootloader.md). Version {UDS_PROFILE_VERSION} of what the supplier's ranges mean here.

## In ten lines

1. Requests to position p go out on 0x7E0 + p, answers come on 0x7E8 + p (p 0 to 7); with 29-bit ids on 0x18DA(10+p)F1 and 0x18DAF1(10+p)
   (p 0 to 31). Classic CAN or CAN FD.
2. The node says who it is by identifiers; role, hardware class and (if wanted) HWID are compared before anything is written.
3. Sessions: extended (10 03), programming (10 02). TesterPresent (3E 80) goes to all nodes every {
        milliseconds(client.tester_present_ns)
    }.
4. SecurityAccess (27 01, 27 02): the key is an Ed25519 signature over the seed and the node's serial number.
5. The erase routine (31 FF00) brings an *offer*: size, digest, version, counter, class. The node refuses it, or says from which offset it
   wants the image. That is how a broken transfer goes on, whoever was cut.
6. RequestDownload (34) for the rest, blocks (36) as long as the node allows, RequestTransferExit (37): the node verifies digest,
   signature, hardware and counter.
7. A block whose answer is lost is not sent twice: the node says how much it has. Blocks get shorter on a bad bus, and longer again.
8. Nothing runs the image before 31 FF01 and a reset (11 01): then it is on trial. 31 F011 makes it permanent, a reset without that takes it
   back, 31 F012 takes it back by hand.
9. What takes longer than P2 ({milliseconds(server.p2_ns)}) is announced with NRC 0x78.
10. Any tester can flash our node without offer and vendor routines (see below); our tester can flash other nodes (see *Nodes of other makers*).

At 500 kbit/s with 11-bit ids and blocks of 0xFFF bytes 256 KiB take 8.6 s: 87 % of what the wire could carry, which is all that ISO-TP
leaves (one byte in eight is its sequence number). Blocks of 0x202 give 84 %, of 0x82 76 %. [The bootloader](bootloader.md) gives more, sends to
many nodes at once, repeats single frames and compresses.

## From Python

```python
import can

from bmsota.adapters.pythoncan import drive, steady_clock
from bmsota.bootloader import Command, signer_from_pem
from bmsota.uds import UDS_11BIT, UdsCommand, UdsTransfer, signed_access_key

with can.Bus(interface="bmsota_slcan", channel="/dev/ttyACM0", bitrate=500_000) as bus:
    key = signed_access_key(signer_from_pem(open("access.pem", "rb").read()))
    image = open("slave.bin", "rb").read()
    for event in drive(UdsTransfer(UDS_11BIT.address(1), position=1, image=image, access_key=key), bus, steady_clock()):
        print(event)
    for command in (Command.ACTIVATE_TEST, Command.RESET, Command.CONFIRM):
        for event in drive(
            UdsCommand(UDS_11BIT.address(1), position=1, command=command, access_key=key), bus, steady_clock()
        ):
            print(event)
```

Over several nodes, with the operations of `bmsota flash`: `FlashingEngine(UdsProfile(UDS_11BIT, access_key=key))`. The node's side:

```python
import secrets

from bmsota.uds import UDS_11BIT, UdsServer, ed25519_access_check


def make_server(store, identity, public_keys):
    return UdsServer(
        UDS_11BIT.address(identity.position),
        identity=identity,
        store=store,
        boot=store.boot(),
        random_bytes=secrets.token_bytes,
        access=ed25519_access_check(public_keys),
    )
```

It is driven like every machine here; at `ResetRequested` make a new store and a new server. ISO-TP alone is `IsoTpLink`:

```python
>>> from bmsota.uds import UDS_29BIT, IsoTpLink
>>> tester, node = IsoTpLink.of_tester(UDS_29BIT.address(5)), IsoTpLink.of_node(UDS_29BIT.address(5))
>>> tester.send(bytes.fromhex("22 F18C F191 F192 FD00"), now_ns=0)
>>> for now_ns in range(3):
...     for frame in tester.frames_to_send(now_ns):
...         _ = node.receive_frame(frame, now_ns)
...     for frame in node.frames_to_send(now_ns):
...         _ = tester.receive_frame(frame, now_ns)
>>> node.next_message().hex()
'22f18cf191f192fd00'

```

## CAN ids

{
        table(
            ("", "request", "answer", "to all nodes"),
            [
                ("11-bit, position p (0 to 7)", "0x7E0 + p", "0x7E8 + p", f"0x{eleven.functional_id:X}"),
                ("position 3", f"0x{eleven.request_id:X}", f"0x{eleven.response_id:X}", f"0x{eleven.functional_id:X}"),
                (
                    "29-bit normal fixed, position p (0 to 31)",
                    "0x18DA10F1 + 0x100 p",
                    "0x18DAF110 + p",
                    f"0x{twenty_nine.functional_id:X}",
                ),
                (
                    "position 31",
                    f"0x{twenty_nine.request_id:X}",
                    f"0x{twenty_nine.response_id:X}",
                    f"0x{twenty_nine.functional_id:X}",
                ),
            ],
        )
    }

Other ids: `UdsAddressing(request_id=0x700, response_id=0x708, functional_id=0x7DF)`. Position 0 is the master. Short frames are filled with 0xCC.
With CAN FD (`IsoTpParameters(frame_bytes=64)`, both sides) the frames of a message are 64 bytes.

## A whole update

Recorded from the code. The image is {len(image("2.1.0", 2, 5000))} bytes, blocks are up to 4093.

{good_way()}

## An answer is lost, then the node's supply fails

Blocks are 512 bytes here. The answer to block 2 is lost: the tester asks how much the node has (22 FD04) and sends block 3. Then the node loses
its supply; it trusts whole erase blocks (1024 bytes here) and wants the rest.

{bad_way()}

## What the node answers

{services()}

Everything else is refused. TesterPresent, and everything that has a sub-function, can be sent with the bit 0x80, "no positive answer".
CommunicationControl and ControlDTCSetting are answered, because testers send them first, and change nothing: a node in its
programming session rests anyway. After {
        milliseconds(server.s3_ns)
    } without a request (S3) the default session comes back: access is locked, the
download is over, what is staged stays. ECUReset needs a session, and a restart ends every session; so a late repetition does not
restart the node twice, which would take an image on trial back.

### Identifiers

{identifiers()}

Several may be asked at once; those the node does not have are left out. Texts are ASCII filled with NUL, numbers big endian.

`{Did.NODE_KIND.name}`:

{layout(NODE_KIND_LAYOUT)}

`{Did.BOOT_STATE.name}`:

{layout(BOOT_STATE_LAYOUT)}

`{Did.STAGING.name}`:

{layout(STAGING_LAYOUT)}

### Routines

{routines()}

Only startRoutine. The same request again, with nothing but TesterPresent in between, is answered again and not done again: its answer may have
been lost. An offer record begins with 0x01, which no address and size can (their first byte says how long they are):

{layout(OFFER_LAYOUT)}

### Refusals

Codes from 0xF2 on are in the range ISO 14229-1 leaves to the maker: 0xF0 plus the bootloader's result code.

{refusals()}

"Begins anew" is bounded: after {
        client.interruptions_max
    } times without getting further than ever before the transfer fails with "no progress". What
each failure means and what to do is in [bootloader.md](bootloader.md); running it again is always safe.

### Access

Level {
        ACCESS_LEVEL
    }: 27 01 gives 32 random bytes, the same until they are answered; 27 02 brings 64 bytes, the Ed25519 signature over

    "bmsota UDS security access" 00 01 00 serial-number 00 seed

with any of the keys the node was given. A key fits one seed of one node. A node that was given no keys answers 27 01 with zeros ("already
unlocked") and wants none. After {server.access_attempts_max} wrong keys no seed is given for {
        milliseconds(server.access_delay_ns)
    }. Every change of the session locks again.

## A tester that is not ours

What udsoncan with can-isotp does in the tests; any tester that follows ISO 14229-1 can:

1. 10 03, 10 02, 27 01, 27 02 (the signature above, by the tester's key function).
2. 31 01 FF00, with address and size or without: they are ignored.
3. 34 00 44 with any address and the size of the image file; 36 ...; 37. A block need not be a whole number of flash words.
4. 31 01 0202 if it likes: the exit has verified already. 31 01 FF01: the next boot tries the image.
5. 11 01. Then 10 03, access, 31 01 F011, or the next restart takes the image back.

Without an offer the image's hardware, role and counter are checked at the exit instead of before the download, and a broken download
starts from the beginning. Nothing is lost by that: the spare slot only is written.

## Nodes of other makers

`UdsTransfer(..., dialect=UdsDialect.plain(address=0x08004000))` flashes them in the usual order; the image may be any bytes. A dialect says
what they want:

{dialects()}

`erase_record`: none means an offer for our own nodes, 0x44 with address and size for others. `extra_requests` are whole requests
before the erase routine (a fingerprint, precondition routines). `expected_values` are identifiers that must have these values, compared before
anything is erased. `access_key` is any function of (seed, serial number).

What our tester does about the habits of real servers, each of which has a test:

| habit | answer |
|---|---|
| no seed in the first second behind a boot (0x37) | waits {milliseconds(client.access_pause_ns)} and asks again, {
        client.access_tries
    } times |
| one answer each P2, whatever it is | longer blocks are the remedy: block length, not bit rate, decides |
| S3 renewed by 10 and 3E only | TesterPresent every {
        milliseconds(client.tester_present_ns)
    }; `functional_tester_present=False` for nodes that hear their own id only |
| a lost answer: the repeated block is accepted (ISO 14229-1) | the same bytes with the same counter |
| a lost answer: the repeated block is a sequence error (0x24) and ends the download | erase, RequestDownload, from the start |
| long messages do not get through | the next download has blocks of half the length |
| P2 and P2* of its own | taken from the answer to 10 |

Limits. Such a node has no trial: ACTIVATE_TEST does nothing (the last routine of its transfer has made the image valid), CONFIRM only
compares the version (identifier F189, if it reads as major.minor.revision), REVERT is refused. A transfer does not go on where it broke off.
Compressed or encrypted downloads, certificates (29), FC.WAIT as receiver, extended and mixed addressing are not there.

## Times

The tester's (`UdsTiming`):

{times(UdsTiming)}

The node's (`UdsServerTiming`):

{times(UdsServerTiming)}

Each has its reason in `bmsota/uds/_timing.py`. N_Bs and N_Cr are 1 s (`IsoTpParameters`).
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if the page is out of date")
    if parser.parse_args(arguments).check:
        up_to_date = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        print(f"{PAGE.name}: {'up to date' if up_to_date else 'out of date, run scripts/make_uds_doc.py'}")
        return 0 if up_to_date else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
