"""Typed messages <-> CAN frames. The layout is the DBC's; this module only names its signals, in tables.

Strategy. Commands and replies go through the DBC codec: they are rare. Data frames are millions, and their layout is
"eight raw bytes", so they are packed and recognised directly; a test holds that this equals the DBC codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.bootloader._messages import (
    BLOCK_FRAMES_MAX,
    DATA_BYTES,
    POSITION_MAX,
    AcceptedReply,
    BuildReply,
    Command,
    CounterReply,
    MissingReply,
    PartReply,
    PendingReply,
    Reply,
    ReplyKind,
    Request,
    ResultReply,
    StatusReply,
    VersionReply,
)
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, SignalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.signals import Database

__all__ = ["BootloaderWire"]

_FRAME_BYTES = 8
_PART_BYTES = 7

_PLAIN = (
    Command.ENTER_BOOTLOADER,
    Command.FINISH_TRANSFER,
    Command.ACTIVATE_TEST,
    Command.RESET,
    Command.REVERT,
    Command.LEAVE_BOOTLOADER,
)


def _signal(command: Command, what: str) -> str:
    return "".join(word.capitalize() for word in command.name.split("_")) + what


# Command -> (field of `Request`, signal).
_REQUEST_SIGNALS: Mapping[Command, tuple[tuple[str, str], ...]] = {
    Command.DISCOVER: (("tag", "DiscoverEcho"),),
    Command.BEGIN_TRANSFER: (("tag", "BeginTransferTag"), ("frames", "OfferFrames"), ("crc32", "OfferCrc32")),
    Command.CHECK_BLOCK: (("tag", "CheckedBlock"), ("frames", "CheckedFrames"), ("crc32", "CheckedCrc32")),
    Command.CONFIRM: (("tag", "ConfirmTag"), ("raise_counter", "RaiseCounter"), ("boot_id", "ConfirmBootId")),
    **{command: (("tag", _signal(command, "Tag")), ("boot_id", _signal(command, "BootId"))) for command in _PLAIN},
}

_REPLY_CLASSES: Mapping[ReplyKind, Callable[..., Reply]] = {
    ReplyKind.STATUS: StatusReply,
    ReplyKind.VERSION: VersionReply,
    ReplyKind.BUILD: BuildReply,
    ReplyKind.COUNTER: CounterReply,
    ReplyKind.RESULT: ResultReply,
    ReplyKind.BLOCK_ACCEPTED: AcceptedReply,
    ReplyKind.BLOCK_MISSING: MissingReply,
    ReplyKind.PENDING: PendingReply,
}

# Reply kind -> (field of its class, signal).
_REPLY_SIGNALS: Mapping[ReplyKind, tuple[tuple[str, str], ...]] = {
    ReplyKind.STATUS: (
        ("echo", "StatusEcho"),
        ("last_tag", "LastTag"),
        ("protocol_version", "ProtocolVersion"),
        ("role", "Role"),
        ("node_state", "NodeState"),
        ("boot_reason", "BootReason"),
        ("slot_a_state", "SlotAState"),
        ("slot_b_state", "SlotBState"),
        ("active_slot", "ActiveSlot"),
        ("running_slot", "RunningSlot"),
        ("capabilities", "Capabilities"),
        ("block_frames_max", "BlockFramesMax"),
    ),
    ReplyKind.VERSION: (
        ("echo", "VersionEcho"),
        ("major", "VersionMajor"),
        ("minor", "VersionMinor"),
        ("revision", "VersionRevision"),
    ),
    ReplyKind.BUILD: (("echo", "BuildEcho"), ("build", "VersionBuild")),
    ReplyKind.COUNTER: (("echo", "CounterEcho"), ("security_counter", "SecurityCounter"), ("boot_id", "BootId")),
    ReplyKind.RESULT: (
        ("tag", "ResultTag"),
        ("command", "ResultCommand"),
        ("code", "ResultCode"),
        ("detail", "ResultDetail"),
    ),
    ReplyKind.BLOCK_ACCEPTED: (("block", "AcceptedBlock"), ("next_offset", "NextOffset")),
    ReplyKind.BLOCK_MISSING: (
        ("block", "MissingBlock"),
        ("segment", "MissingSegment"),
        ("total", "MissingTotal"),
        ("bitmap", "MissingBitmap"),
    ),
    ReplyKind.PENDING: (("tag", "PendingTag"), ("command", "PendingCommand"), ("wait_ms", "PendingMs")),
}

_PART_SIGNALS: Mapping[ReplyKind, str] = {
    ReplyKind.CLASS_0: "HardwareClass0",
    ReplyKind.CLASS_1: "HardwareClass1",
    ReplyKind.CLASS_2: "HardwareClass2",
    ReplyKind.HWID_0: "Hwid0",
    ReplyKind.HWID_1: "Hwid1",
    ReplyKind.HWID_2: "Hwid2",
    ReplyKind.HWID_3: "Hwid3",
    ReplyKind.SERIAL_0: "Serial0",
    ReplyKind.SERIAL_1: "Serial1",
    ReplyKind.SERIAL_2: "Serial2",
    ReplyKind.SERIAL_3: "Serial3",
}

_KIND_OF_CLASS: Mapping[object, ReplyKind] = {reply_class: kind for kind, reply_class in _REPLY_CLASSES.items()}


class BootloaderWire:
    """The codec of the bootloader's frames, from a loaded `bms_bootloader.dbc`.

    Raises:
        ConfigurationError: *database* lacks a message of the bootloader.
    """

    def __init__(self, database: Database) -> None:
        try:
            self._request = database["BootRequest"]
            self._replies = tuple(database[f"BootReply{position:02d}"] for position in range(POSITION_MAX + 1))
            self.data_id: int = database["BootData00"].can_id
        except KeyError as error:
            raise ConfigurationError(f"DBC: expected the bootloader's messages, got none named {error}") from error
        """Id of the first data frame; frame k of a block has `data_id + k`."""
        self.request_id: int = self._request.can_id
        self.reply_id: int = self._replies[0].can_id
        """Id of the master's replies; the node at position p answers with `reply_id + p`."""

    def serialize(self, message: Request | Reply) -> CanFrame:
        """Lay out one command or reply."""
        if isinstance(message, Request):
            values = {"Node": message.node, "Command": int(message.command)}
            for field, signal in _REQUEST_SIGNALS[message.command]:
                values[signal] = getattr(message, field)
            return self._request.frame(values)
        reply = self._replies[message.position]
        if isinstance(message, PartReply):
            raw = int.from_bytes(message.data.ljust(_PART_BYTES, b"\0"), "little")
            return reply.frame({"Kind": int(message.kind), _PART_SIGNALS[message.kind]: raw})
        kind = _KIND_OF_CLASS[type(message)]
        values = {"Kind": int(kind)}
        for field, signal in _REPLY_SIGNALS[kind]:
            values[signal] = getattr(message, field)
        return reply.frame(values)

    def parse(self, frame: CanFrame) -> Request | Reply | None:
        """The command or reply in *frame*; None for a data frame and for everything that is not of this protocol.

        A frame of a newer protocol (an unknown command or kind) is None as well: the bus may carry both.
        """
        position = frame.can_id - self.reply_id
        is_request = frame.can_id == self.request_id
        if frame.is_extended_id or len(frame.data) != _FRAME_BYTES or not (is_request or 0 <= position <= POSITION_MAX):
            return None
        try:
            if is_request:
                values = self._request.decode_raw(frame.data)
                command = Command(int(values["Command"]))
                fields = {field: int(values[signal]) for field, signal in _REQUEST_SIGNALS[command]}
                return Request(int(values["Node"]), command, **fields)
            values = self._replies[position].decode_raw(frame.data)
            kind = ReplyKind(int(values["Kind"]))
        except (SignalError, ValueError):
            return None
        if kind in _PART_SIGNALS:
            return PartReply(position, kind, int(values[_PART_SIGNALS[kind]]).to_bytes(_PART_BYTES, "little"))
        return _REPLY_CLASSES[kind](
            position=position, **{field: int(values[signal]) for field, signal in _REPLY_SIGNALS[kind]}
        )

    def data_frames(self, data: bytes) -> list[CanFrame]:
        """Cut a block of at most `BLOCK_FRAMES_MAX` frames into data frames; the last one is filled with 0xFF."""
        assert len(data) <= BLOCK_FRAMES_MAX * DATA_BYTES
        filled = data + b"\xff" * (-len(data) % DATA_BYTES)
        first = self.data_id
        return [
            CanFrame(first + index, filled[start : start + DATA_BYTES])
            for index, start in enumerate(range(0, len(filled), DATA_BYTES))
        ]
