"""Keep the made parts of docs/uds.md: tables from the code, and sequences recorded from real tester and server code.

`python scripts/make_uds_doc.py` writes them, `--check` only says whether they are up to date (exit code 1 if not). The page
itself is written by hand.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image
from bmsota.node import NodeCommand, ResetRequested
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
from bmsota.uds._exchange import FINAL_WHEN_REPEATED, cause_of_refusal
from bmsota.uds._identifiers import ACCESS_LEVEL, BOOT_STATE_LAYOUT, NODE_KIND_LAYOUT, OFFER_LAYOUT, STAGING_LAYOUT

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "rigs"))
import node as rig
from pages import DOCS, layout, run, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bmsota.canframe import CanFrame
    from bmsota.uds import UdsAddress

PAGE = DOCS / "uds.md"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
HARDWARE = HardwareClass.named("bmsota.example", "doc-slave")
MS = 1_000_000
FRAME_NS = 228_000


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
    heads = ("service", "name", "sub-functions", "sessions", "needs access", "functional addressing")
    return table(heads, sorted(rows))


def identifiers() -> str:
    rows = [(f"{did:04X}", row.size_bytes, row.standard_name, row.meaning) for did, row in DIDS.items()]
    return table(("identifier", "bytes", "name in ISO 14229-1", "content"), rows)


def routines() -> str:
    rows = [(f"{routine:04X}", routine.name, *row) for routine, row in ROUTINES.items()]
    return table(("routine", "name", "request data", "response data", "what it does"), rows)


def reaction(nrc: Nrc, *, has_profile: bool) -> str:
    """What the tester does after a negative response."""
    special = {
        Nrc.RESPONSE_PENDING: "waits P2*",
        Nrc.BUSY_REPEAT_REQUEST: "retries after a pause",
        Nrc.INVALID_KEY: "requests one more seed, then fails: access denied",
        Nrc.EXCEEDED_NUMBER_OF_ATTEMPTS: "waits and requests a seed again",
        Nrc.REQUIRED_TIME_DELAY_NOT_EXPIRED: "waits and requests a seed again",
    }
    if nrc in special:
        return special[nrc]
    cause = cause_of_refusal(nrc, has_profile=has_profile)
    if cause is None:
        return "restarts and resumes; the same again: fails" if nrc in FINAL_WHEN_REPEATED else "restarts and resumes"
    return f"fails: {cause.value}"


def refusals() -> str:
    rows = [(nrc_name(nrc), meaning or "never", reaction(nrc, has_profile=True)) for nrc, meaning in NRCS.items()]
    return table(("negative response", "sent by our node for", "our tester"), rows)


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


class Node(rig.Node):
    """The node of a recording: its seeds are the number of its boot."""

    def __init__(self) -> None:
        super().__init__(factory=image("2.0.0", 1, 900), hardware=HARDWARE)
        self.hwid, self.serial = "HW-1", "SN-1"

    def new_target(self, address: UdsAddress) -> UdsServer:
        return UdsServer(
            address,
            identity=self.identity,
            store=self.store,
            boot=self.boot,
            random_bytes=lambda size: bytes([len(self.boots)]) * size,
            access=ed25519_access_check([KEY.public_key()]),
        )


class Recorder:
    """One tester and one node on a pipe with a time loop; writes down who says what."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.lines: list[str] = []
        self.address = UDS_11BIT.address(1)
        self.node = Node()
        self.on_ns: int | None = None
        self.lose: Callable[[bytes], bool] = lambda _message: False
        self.cut: Callable[[bytes], bool] = lambda _message: False
        # Two listeners put the frames together again.
        self.requests = IsoTpLink.of_node(self.address)
        self.answers = IsoTpLink.of_tester(self.address)
        self.power_on()

    @property
    def server(self) -> UdsServer | None:
        return self.node.target

    def note(self, text: str) -> None:
        self.lines.append(f"    Note over Node: {text}")

    def power_on(self) -> None:
        self.on_ns = None
        self.node.power_on(self.address)
        self.note(f"boots: {self.node.boot.reason.name}, version {self.node.version}")

    def power_off(self) -> None:
        self.node.power_off()
        self.on_ns = self.now_ns + self.node.restart_ns

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
    for command in (NodeCommand.ACTIVATE_TEST, NodeCommand.RESET, NodeCommand.CONFIRM):
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
    recorder.cut = lambda message: message == b"\x76\x03" and len(recorder.node.boots) == 1
    dialect = UdsDialect(block_length_max=0x202)
    recorder.run(UdsTransfer(recorder.address, image=image("2.1.0", 2, 2300), dialect=dialect, **options()))
    return sequence(recorder.lines)


# ---- the page


def can_ids() -> str:
    rows = []
    for kind, addressing, position in (("11-bit", UDS_11BIT, 3), ("29-bit normal fixed", UDS_29BIT, 31)):
        ids = addressing.address(position)
        functional = f"0x{ids.functional_id:X}"
        general = ("0x7E0 + p", "0x7E8 + p") if addressing is UDS_11BIT else ("0x18DA10F1 + 0x100 p", "0x18DAF110 + p")
        last = 7 if addressing is UDS_11BIT else 31
        rows.append((f"{kind}, position p (0 to {last})", *general, functional))
        rows.append((f"position {position}", f"0x{ids.request_id:X}", f"0x{ids.response_id:X}", functional))
    return table(("", "request", "response", "functional"), rows)


PARTS = {
    "can ids": can_ids,
    "a whole update": good_way,
    "an answer lost": bad_way,
    "services": services,
    "identifiers": identifiers,
    "node kind": partial(layout, NODE_KIND_LAYOUT),
    "boot state": partial(layout, BOOT_STATE_LAYOUT),
    "staging": partial(layout, STAGING_LAYOUT),
    "routines": routines,
    "offer record": partial(layout, OFFER_LAYOUT),
    "refusals": refusals,
    "dialects": dialects,
    "tester's times": partial(times, UdsTiming),
    "node's times": partial(times, UdsServerTiming),
}


def phrases() -> list[str]:
    """What the page's sentences say of the code's numbers."""
    server, client = UdsServerTiming(), UdsTiming()
    present = milliseconds(client.tester_present_ns)
    return [
        f"Version {UDS_PROFILE_VERSION} of the manufacturer-specific identifiers and routines.",
        f"is sent to all nodes every {present}.",
        f"sends TesterPresent every {present};",
        f"What takes longer than P2 ({milliseconds(server.p2_ns)}) is announced",
        f"The image is {len(image('2.1.0', 2, 5000))} bytes",
        f"After {milliseconds(server.s3_ns)} without a request (S3)",
        f"after {client.interruptions_max} restarts without progress",
        f"Level {ACCESS_LEVEL}: 27 01",
        f"After {server.access_attempts_max} wrong keys the node gives no seed for {milliseconds(server.access_delay_ns)}.",
        f"waits {milliseconds(client.access_pause_ns)} and asks again, {client.access_tries} times",
        *(f"`{did.name}`:" for did in (Did.NODE_KIND, Did.BOOT_STATE, Did.STAGING)),
    ]


if __name__ == "__main__":
    sys.exit(run(PAGE, PARTS, phrases()))
