"""The tables of our extension: commands 0xC0 to 0xC4 and bodies 0xB0 to 0xB2. docs/protocol.md is made from these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._enums import FaultState, LocalUpgradeOutcome, NodeRole, NodeState, UpgradeStateCode
from bmsota.gbt32960._extension import (
    BLOCK_SIZE_BYTES_MAX,
    EXTENSION_VERSION,
    BlockReply,
    BlockRequest,
    BmsConfiguration,
    CanMessage,
    CanSignals,
    ConfigurationItem,
    FaultChange,
    FaultChanges,
    LocalUpgrade,
    LocalUpgrades,
    NodeIdentity,
    SignedReport,
    UnitIdentity,
    UpgradeState,
)
from bmsota.gbt32960._fields import Field, FixedBytes, Layout, Row, SizedBytes, SizedText, Time
from bmsota.gbt32960._tables.common import byte, byte_list, dword, word, word_list

if TYPE_CHECKING:
    from datetime import datetime


_MARK: Final = word("extension", EXTENSION_VERSION, EXTENSION_VERSION)


def _message(label: str, cls: type, *rows: Row) -> Layout:
    """A data unit: behind time and mark stand *rows*, which have the names of the fields of *cls*."""
    names = [row.name for row in rows]

    def build(time: datetime, _mark: int, *values: Any) -> Any:
        return cls(time=time, **dict(zip(names, values, strict=True)))

    def parts(message: Any) -> tuple[Any, ...]:
        return message.time, EXTENSION_VERSION, *(getattr(message, name) for name in names)

    return Layout(label=label, cls=cls, rows=(Time(), _MARK, *rows), build=build, parts=parts)


def _version(stem: str) -> tuple[Field, ...]:
    """A version's four numbers."""
    return (
        byte(f"version_{stem}major", 0, 255),
        byte(f"version_{stem}minor", 0, 255),
        word(f"version_{stem}revision", 0, 65535),
        dword(f"version_{stem}build", 0, 0xFFFFFFFF),
    )


# --- messages --------------------------------------------------------------------------------------------------------


def _build_node(role: int, position: int, hwid: str, class_: bytes, *rest: Any) -> NodeIdentity:
    from uuid import UUID  # noqa: PLC0415 its import costs as much as a fifth of ours, and few frames need it

    major, minor, revision, build, counter, serial, state = rest
    return NodeIdentity(
        role=role,
        position=position,
        hwid=hwid,
        hardware_class=UUID(bytes=class_),
        version=(major, minor, revision, build),
        security_counter=counter,
        serial=serial,
        state=state,
    )


def _node_parts(node: NodeIdentity) -> tuple[Any, ...]:
    return (
        node.role,
        node.position,
        node.hwid,
        node.hardware_class.bytes,
        *node.version,
        node.security_counter,
        node.serial,
        node.state,
    )


NODE_IDENTITY: Final = Layout(
    label="node identity",
    cls=NodeIdentity,
    rows=(
        byte("role", 0, 1, values=NodeRole),
        byte("position", 0, 31),
        SizedText(name="hwid", size_bytes_min=1, size_bytes_max=24),
        FixedBytes(name="hardware_class", size_bytes=16),
        *_version(""),
        dword("security_counter", 0, 0xFFFFFFFF),
        SizedText(name="serial", size_bytes_max=32),
        byte("state", 0, 2, values=NodeState),
    ),
    build=_build_node,
    parts=_node_parts,
)

UNIT_IDENTITY: Final = _message("0xC0 unit identity", UnitIdentity, byte_list("nodes", NODE_IDENTITY, 1, 32))

UPGRADE_STATE: Final = _message(
    "0xC1 upgrade state",
    UpgradeState,
    SizedText(name="order_id", size_bytes_max=64),
    byte("state", 1, 13, values=UpgradeStateCode),
    byte("progress_pct", 0, 100, unit="%", sentinels=True),
    SizedText(name="reason"),
)

SIGNED_REPORT: Final = _message(
    "0xC2 signed report", SignedReport, SizedBytes(name="document", size_bytes_min=1, size_bytes_max=65000)
)


def _build_local_upgrade(time: datetime, position: int, hwid: str, *rest: Any) -> LocalUpgrade:
    return LocalUpgrade(
        upgraded_at=time,
        position=position,
        hwid=hwid,
        version_before=rest[:4],
        version_after=rest[4:8],
        outcome=rest[8],
        tool=rest[9],
        detail=rest[10],
    )


def _local_upgrade_parts(upgrade: LocalUpgrade) -> tuple[Any, ...]:
    before, after = upgrade.version_before, upgrade.version_after
    # Eight numbers, however they were shared out, would pass for two versions.
    if not all(isinstance(version, (tuple, list)) and len(version) == 4 for version in (before, after)):
        msg = f"local upgrade: expected two versions of 4 numbers, got {before!r} and {after!r}"
        raise LocalProtocolError(msg)
    where = (upgrade.upgraded_at, upgrade.position, upgrade.hwid)
    return (*where, *before, *after, upgrade.outcome, upgrade.tool, upgrade.detail)


LOCAL_UPGRADE: Final = Layout(
    label="local upgrade",
    cls=LocalUpgrade,
    rows=(
        Time(name="upgraded_at"),
        byte("position", 0, 31),
        SizedText(name="hwid", size_bytes_min=1, size_bytes_max=24),
        *_version("before_"),
        *_version("after_"),
        byte("outcome", 1, 3, values=LocalUpgradeOutcome),
        SizedText(name="tool", size_bytes_max=64),
        SizedText(name="detail"),
    ),
    build=_build_local_upgrade,
    parts=_local_upgrade_parts,
)

# Twice a full unit; 64 of the longest are 24 KiB. A longer journal goes in several frames.
LOCAL_UPGRADES: Final = _message("0xC3 local upgrades", LocalUpgrades, byte_list("upgrades", LOCAL_UPGRADE, 1, 64))

BLOCK_REQUEST: Final = _message(
    "0xC4 block request",
    BlockRequest,
    FixedBytes(name="sha256", size_bytes=32),
    dword("offset", 0, 0xFFFFFFFF, unit="B"),
    word("size", 1, BLOCK_SIZE_BYTES_MAX, unit="B"),
)
BLOCK_REQUEST_SIZE_BYTES: Final = 46
"""Of that data unit. An answer of this size is its echo (annex B of 2016), because a block has at least one byte more."""

BLOCK_REPLY: Final = _message(
    "0xC4 block reply",
    BlockReply,
    FixedBytes(name="sha256", size_bytes=32),
    dword("offset", 0, 0xFFFFFFFF, unit="B"),
    SizedBytes(name="data", size_bytes_min=1, size_bytes_max=BLOCK_SIZE_BYTES_MAX),
)

EXTENSION_LAYOUTS: Final[dict[int, Layout]] = {
    0xC0: UNIT_IDENTITY,
    0xC1: UPGRADE_STATE,
    0xC2: SIGNED_REPORT,
    0xC3: LOCAL_UPGRADES,
    0xC4: BLOCK_REQUEST,
}
"""Extension layouts by command."""
EXTENSION_REPLY_LAYOUTS: Final[dict[int, Layout]] = {0xC4: BLOCK_REPLY}
"""Answers (flag 0x01) that carry more than the time of the question."""


# --- our bodies inside a report. Behind the length of the standard stands `EXTENSION_VERSION`, then the layout. ----------

_EXTENDED_ID_BIT: Final = 1 << 31


def _build_can_message(bus: int, key: int, offset_ms: int, data: bytes) -> CanMessage:
    return CanMessage(key & ~_EXTENDED_ID_BIT, data, bool(key & _EXTENDED_ID_BIT), bus, offset_ms)


def _can_message_parts(message: CanMessage) -> tuple[Any, ...]:
    if not isinstance(message.can_id, int) or not 0 <= message.can_id < _EXTENDED_ID_BIT:
        msg = f"CAN message.can_id: expected 0 to {_EXTENDED_ID_BIT - 1:#x}, got {message.can_id!r}"
        raise LocalProtocolError(msg)
    key = message.can_id | _EXTENDED_ID_BIT if message.is_extended_id else message.can_id
    return message.bus, key, message.offset_ms, message.data


CAN_MESSAGE: Final = Layout(
    label="CAN message",
    cls=CanMessage,
    rows=(
        byte("bus", 0, 255),
        # Bit 31 says that the id has 29 bits, as DBC files write it.
        dword("can_id", 0, 0x9FFFFFFF),
        word("offset_ms", 0, 65535, unit="ms"),
        SizedBytes(name="data", size_bytes_max=64),
    ),
    build=_build_can_message,
    parts=_can_message_parts,
)

CAN_SIGNALS: Final = Layout(
    label="0xB0 CAN signals",
    cls=CanSignals,
    rows=(word_list("messages", CAN_MESSAGE, 1, 5000),),
)

CONFIGURATION_ITEM: Final = Layout(
    label="configuration item",
    cls=ConfigurationItem,
    rows=(
        byte("position", 0, 31),
        word("parameter", 0, 65535),
        SizedBytes(name="value", size_bytes_max=1024),
    ),
)

BMS_CONFIGURATION: Final = Layout(
    label="0xB1 BMS configuration",
    cls=BmsConfiguration,
    rows=(
        dword("revision", 0, 0xFFFFFFFF),
        word_list("items", CONFIGURATION_ITEM, 0, 5000),
    ),
)

FAULT_CHANGE: Final = Layout(
    label="fault change",
    cls=FaultChange,
    rows=(
        Time(),
        byte("position", 0, 31),
        dword("code", 0, 0xFFFFFFFF),
        byte("state", 0, 1, values=FaultState),
        byte("level", 0, 4, sentinels=True),
        SizedText(name="detail"),
    ),
)

FAULT_CHANGES: Final = Layout(
    label="0xB2 fault changes",
    cls=FaultChanges,
    rows=(byte_list("changes", FAULT_CHANGE, 1, 255),),
)

EXTENSION_BODY_LAYOUTS: Final[dict[int, Layout]] = {0xB0: CAN_SIGNALS, 0xB1: BMS_CONFIGURATION, 0xB2: FAULT_CHANGES}
"""Extension bodies by type, in both editions."""
