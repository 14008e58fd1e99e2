"""Typed messages <-> CAN frames. The layout is the DBC's; this module only names its signals, in tables.

Strategy. Commands and replies go through the DBC codec: they are rare. Data frames are millions, and their layout is
"eight raw bytes", so they are packed and recognised directly; a test holds that this equals the DBC codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.bootloader._messages import (
    BLOCK_FRAMES_MAX,
    DATA_BYTES,
    DIGEST_PART_BYTES,
    FD_DATA_BYTES,
    BitmapReply,
    BuildReply,
    CounterReply,
    DigestReply,
    LimitsReply,
    ListReply,
    PartReply,
    PendingReply,
    Reply,
    ReplyKind,
    ReportReply,
    Request,
    ResultReply,
    StatusReply,
    VersionReply,
)
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, SignalError
from bmsota.node import POSITION_MAX, NodeCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.signals import Database


_FRAME_BYTES = 8
_PART_BYTES = 7

_LIST_ENTRIES = 4
_NO_AGE, _NO_FRAME = 31, 127

_PLAIN = (
    NodeCommand.FINISH_TRANSFER,
    NodeCommand.ACTIVATE_TEST,
    NodeCommand.RESET,
    NodeCommand.REVERT,
    NodeCommand.LEAVE_BOOTLOADER,
    NodeCommand.REQUEST_CHALLENGE,
)


def _signal(command: NodeCommand, what: str) -> str:
    return "".join(word.capitalize() for word in command.name.split("_")) + what


# Command -> (field of `Request`, signal).
_REQUEST_SIGNALS: Mapping[NodeCommand, tuple[tuple[str, str], ...]] = {
    NodeCommand.DISCOVER: (("tag", "DiscoverEcho"),),
    NodeCommand.ENTER_BOOTLOADER: (
        ("tag", "EnterBootloaderTag"),
        ("protocol", "Protocol"),
        ("boot_id", "EnterBootloaderBootId"),
    ),
    NodeCommand.BEGIN_TRANSFER: (("tag", "BeginTransferTag"), ("frames", "OfferFrames"), ("crc32", "OfferCrc32")),
    NodeCommand.CHECK_BLOCK: (
        ("tag", "CheckedBlock"),
        ("frames", "CheckedFrames"),
        ("report_wanted", "ReportWanted"),
        ("crc32", "CheckedCrc32"),
    ),
    NodeCommand.OPEN_BLOCK: (("tag", "OpenedBlock"), ("repair", "IsRepair"), ("offset", "StreamOffset")),
    NodeCommand.UNLOCK: (("tag", "UnlockTag"), ("frames", "SignatureFrames"), ("crc32", "SignatureCrc32")),
    NodeCommand.CONFIRM: (("tag", "ConfirmTag"), ("raise_counter", "RaiseCounter"), ("boot_id", "ConfirmBootId")),
    **{command: (("tag", _signal(command, "Tag")), ("boot_id", _signal(command, "BootId"))) for command in _PLAIN},
}

_REPLY_CLASSES: Mapping[ReplyKind, Callable[..., Reply]] = {
    ReplyKind.STATUS: StatusReply,
    ReplyKind.VERSION: VersionReply,
    ReplyKind.BUILD: BuildReply,
    ReplyKind.COUNTER: CounterReply,
    ReplyKind.LIMITS: LimitsReply,
    ReplyKind.RESULT: ResultReply,
    ReplyKind.REPORT: ReportReply,
    ReplyKind.MISSING_BITMAP: BitmapReply,
    ReplyKind.PENDING: PendingReply,
}

# Reply kind -> (field of its class, signal).
_REPLY_SIGNALS: Mapping[ReplyKind, tuple[tuple[str, str], ...]] = {
    ReplyKind.STATUS: (
        ("echo", "StatusEcho"),
        ("last_tag", "LastTag"),
        ("protocol_version", "ProtocolVersion"),
        ("protocol_version_min", "ProtocolVersionMin"),
        ("role", "Role"),
        ("node_state", "NodeState"),
        ("boot_reason", "BootReason"),
        ("slot_a_state", "SlotAState"),
        ("slot_b_state", "SlotBState"),
        ("active_slot", "ActiveSlot"),
        ("running_slot", "RunningSlot"),
        ("unlocked", "Unlocked"),
        ("block_frames_max", "BlockFramesMax"),
    ),
    ReplyKind.LIMITS: (
        ("echo", "LimitsEcho"),
        ("capabilities", "Capabilities"),
        ("window_blocks", "WindowBlocks"),
        ("window_blocks_fd", "WindowBlocksFd"),
        ("slot_size_kib", "SlotSize"),
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
    ReplyKind.REPORT: (
        ("block", "ReportedBlock"),
        ("next_block", "NextBlock"),
        ("missing_total", "MissingTotal"),
        ("stored_offset", "StoredOffset"),
    ),
    ReplyKind.MISSING_BITMAP: (
        ("block", "BitmapBlock"),
        ("segment", "BitmapSegment"),
        ("total", "BitmapTotal"),
        ("bitmap", "Bitmap"),
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
    ReplyKind.CHALLENGE_0: "Challenge0",
    ReplyKind.CHALLENGE_1: "Challenge1",
    ReplyKind.CHALLENGE_2: "Challenge2",
}

_DIGEST_SIGNALS: Mapping[ReplyKind, str] = {
    ReplyKind.DIGEST_0: "ImageDigest0",
    ReplyKind.DIGEST_1: "ImageDigest1",
    ReplyKind.DIGEST_2: "ImageDigest2",
    ReplyKind.DIGEST_3: "ImageDigest3",
    ReplyKind.DIGEST_4: "ImageDigest4",
    ReplyKind.DIGEST_5: "ImageDigest5",
}

_KIND_OF_CLASS: Mapping[object, ReplyKind] = {reply_class: kind for kind, reply_class in _REPLY_CLASSES.items()}


class BootloaderWire:
    """The codec of the bootloader's frames, from one of the loaded `dbc/bms_bootloader*.dbc`.

    Raises:
        ConfigurationError: *database* lacks a message of the bootloader.
    """

    def __init__(self, database: Database) -> None:
        try:
            self._request = database["BootRequest"]
            self._replies = tuple(database[f"BootReply{position:02d}"] for position in range(POSITION_MAX + 1))
            data = database["BootData00"]
        except KeyError as error:
            raise ConfigurationError(f"DBC: the bootloader's message {error} is missing") from error
        self.data_id: int = data.can_id
        """Id of the first data frame; frame k of a block has `data_id + k`."""
        self.is_fd: bool = data.is_fd
        """Whether data frames are CAN FD frames. Commands and replies are classic frames always."""
        self.data_bytes: int = FD_DATA_BYTES if data.is_fd else DATA_BYTES
        """Image bytes in one data frame."""
        self.is_extended_id: bool = self._request.is_extended_id
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
        if isinstance(message, DigestReply):
            signal = _DIGEST_SIGNALS[message.kind]
            raw = int.from_bytes(message.data.ljust(DIGEST_PART_BYTES, b"\0"), "little")
            return reply.frame({"Kind": int(message.kind), f"{signal}Echo": message.echo, signal: raw})
        if isinstance(message, ListReply):
            values = {"Kind": int(ReplyKind.MISSING_LIST), "ListedBlock": message.block}
            entries = [*message.entries, *[(_NO_AGE, _NO_FRAME)] * (_LIST_ENTRIES - len(message.entries))]
            for number, (age, frame) in enumerate(entries):
                values[f"Missing{number}Age"] = age
                values[f"Missing{number}Frame"] = frame
            return reply.frame(values)
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
        if frame.is_extended_id is not self.is_extended_id or len(frame.data) != _FRAME_BYTES:
            return None
        if not (is_request or 0 <= position <= POSITION_MAX):
            return None
        try:
            if is_request:
                values = self._request.decode_raw(frame.data)
                command = NodeCommand(int(values["Command"]))
                fields = {field: int(values[signal]) for field, signal in _REQUEST_SIGNALS[command]}
                return Request(int(values["Node"]), command, **fields)
            values = self._replies[position].decode_raw(frame.data)
            kind = ReplyKind(int(values["Kind"]))
        except (SignalError, ValueError):
            return None
        if kind in _PART_SIGNALS:
            return PartReply(position, kind, int(values[_PART_SIGNALS[kind]]).to_bytes(_PART_BYTES, "little"))
        if kind in _DIGEST_SIGNALS:
            signal = _DIGEST_SIGNALS[kind]
            piece = int(values[signal]).to_bytes(DIGEST_PART_BYTES, "little")
            return DigestReply(position, int(values[f"{signal}Echo"]), kind, piece)
        if kind is ReplyKind.MISSING_LIST:
            pairs = (
                (int(values[f"Missing{number}Age"]), int(values[f"Missing{number}Frame"]))
                for number in range(_LIST_ENTRIES)
            )
            entries = tuple(pair for pair in pairs if pair[0] != _NO_AGE)
            return ListReply(position, int(values["ListedBlock"]), entries)
        return _REPLY_CLASSES[kind](
            position=position, **{field: int(values[signal]) for field, signal in _REPLY_SIGNALS[kind]}
        )

    def data_frames(self, data: bytes) -> list[CanFrame]:
        """Cut a block of at most `BLOCK_FRAMES_MAX` frames into data frames; the last one is filled with 0xFF."""
        size = self.data_bytes
        assert len(data) <= BLOCK_FRAMES_MAX * size
        filled = data + b"\xff" * (-len(data) % size)
        first, extended, fd = self.data_id, self.is_extended_id, self.is_fd
        return [
            CanFrame(first + index, filled[start : start + size], extended, fd)
            for index, start in enumerate(range(0, len(filled), size))
        ]
