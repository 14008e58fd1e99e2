"""The identity report: which nodes a unit has and what they run, signed by the unit's own key. It needs no order.

What a unit says of its nodes in the cloud link's identity frame is not signed, because a link of GB/T 32960 has no key. This
document confirms it: replaced hardware, versions, security counters, and the local upgrades that the platform has not
acknowledged. A unit sends it at the first login after any of that has changed, in the same message as the post-boot report;
the content type tells the two apart (`document_kind`). Layout: docs/trust.md.

Its counter is not that of the post-boot reports: a post-boot report waits for its acknowledgement, and an identity report
sent in between must not make it look like a replay.

Left out: what a tool or a node says in words of a local upgrade. That stays in the local-upgrades frame, unsigned.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from bmsota.image import ImageRole, ImageVersion
from bmsota.ota import _cbor, _document
from bmsota.ota._fields import malformed_as_trust_error, parse_role, parse_version, take_fields
from bmsota.ota._local_upgrades import LOCAL_UPGRADES_MAX, NodeUpgradeOutcome
from bmsota.ota._report import NODES_MAX
from bmsota.ota._rules import (
    expect,
    expect_count,
    expect_digest,
    expect_hwid,
    expect_integer,
    expect_octets,
    expect_text,
    expect_vin,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


# A node takes at most 360 bytes (a serial number of 32 characters in a script of 4 bytes), a local upgrade 250; 64 of each.
IDENTITY_REPORT_SIZE_BYTES_MAX: Final = 40 * 1024

# The cloud link's identity frame has 32 bytes for it.
SERIAL_LENGTH_MAX: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedNode:
    """One node of the pack, as it described itself."""

    position: int
    """0 is the master, 1..63 the slaves."""
    role: ImageRole
    hwid: str
    class_id: UUID
    """The hardware class, as in firmware images."""
    version: ImageVersion
    """Of the running image; all zero if none runs."""
    security_counter: int
    serial: str
    """The serial number; may be empty."""
    image_sha256: bytes | None = None
    """Of the whole file of the running image, as in a manifest; None if none runs, or the node cannot say it."""
    slot_size_kib: int = 0
    """Size of the slot an image must fit into, rounded down; 65535: that or more, 0: not known."""

    def __post_init__(self) -> None:
        expect_integer("position", self.position, maximum=NODES_MAX - 1)
        expect(isinstance(self.role, ImageRole), "role", "an ImageRole", repr(self.role))
        expect(
            (self.position == 0) == (self.role is ImageRole.MASTER), "role", "the master at position 0", self.position
        )
        expect_hwid("hwid", self.hwid)
        expect(isinstance(self.class_id, UUID), "class_id", "a UUID", repr(self.class_id))
        expect(isinstance(self.version, ImageVersion), "version", "an ImageVersion", repr(self.version))
        expect_integer("security_counter", self.security_counter, maximum=0xFFFF_FFFF)
        expect_text("serial", self.serial, length_max=SERIAL_LENGTH_MAX)
        expect_digest("image_sha256", self.image_sha256)
        expect_integer("slot_size_kib", self.slot_size_kib, maximum=0xFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedUpgrade:
    """One local upgrade of one node (`NodeUpgrade`), without the words of tool and node."""

    at_s: int
    """When the unit noticed it, seconds since the Unix epoch, UTC."""
    position: int
    hwid: str
    version_before: ImageVersion
    version_after: ImageVersion
    outcome: NodeUpgradeOutcome
    sha256_before: bytes | None = None
    """Of the image that ran before; None if it is not known. Another build of a version is told by these two alone."""
    sha256_after: bytes | None = None

    def __post_init__(self) -> None:
        expect_integer("at_s", self.at_s)
        expect_integer("position", self.position, maximum=NODES_MAX - 1)
        expect_hwid("hwid", self.hwid)
        for name in ("version_before", "version_after"):
            value = getattr(self, name)
            expect(isinstance(value, ImageVersion), name, "an ImageVersion", repr(value))
        expect(isinstance(self.outcome, NodeUpgradeOutcome), "outcome", "a NodeUpgradeOutcome", repr(self.outcome))
        expect_digest("sha256_before", self.sha256_before)
        expect_digest("sha256_after", self.sha256_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityReport:
    """Who a unit is and what it runs, at one moment."""

    vin: str
    hwid: str
    """Of the master."""
    counter: int
    """Rises with every identity report of this unit; the platform takes no number twice."""
    time_s: int
    """By the unit's clock, seconds since the Unix epoch, UTC."""
    nodes: tuple[IdentifiedNode, ...]
    """The master and every slave that answers, by rising position."""
    upgrades: tuple[ReportedUpgrade, ...] = ()
    """Local upgrades that the platform has not acknowledged, in the order in which they were noticed."""
    mixed_pack: str = ""
    """How the nodes run images that do not belong together; empty if they do."""

    def __post_init__(self) -> None:
        expect_vin("vin", self.vin)
        expect_hwid("hwid", self.hwid)
        expect_integer("counter", self.counter, minimum=1)
        expect_integer("time_s", self.time_s)
        expect_count("nodes", self.nodes, minimum=1, maximum=NODES_MAX)
        positions = [node.position for node in self.nodes]
        expect(positions == sorted(set(positions)), "nodes", "rising positions", positions)
        expect(self.nodes[0].position == 0, "nodes", "the master first", positions)
        expect(self.nodes[0].hwid == self.hwid, "nodes", f"the master {self.hwid}", self.nodes[0].hwid)
        expect_count("upgrades", self.upgrades, maximum=LOCAL_UPGRADES_MAX)
        expect_text("mixed_pack", self.mixed_pack, length_max=256)


_NAMES: Final = ("vin", "hwid", "counter", "time_s", "nodes", "upgrades")
_NODE_NAMES: Final = ("position", "role", "hwid", "class_id", "version", "security_counter", "serial")
_NODE_OPTIONS: Final = ("image_sha256", "slot_size_kib")
_UPGRADE_NAMES: Final = ("at_s", "position", "hwid", "version_before", "version_after", "outcome")
_UPGRADE_OPTIONS: Final = ("sha256_before", "sha256_after")


def sign_identity(report: IdentityReport, key: Ed25519PrivateKey) -> bytes:
    """Encode and sign with the unit's own key."""
    return _document.sign(_payload(report), content_type=_document.IDENTITY, key=key)


def verify_identity(data: bytes, public_keys: Iterable[Ed25519PublicKey]) -> IdentityReport:
    """Check signature and form. The platform compares vehicle and counter with what it knows.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document`, `arbitrary-software` or `newer-document`.
    """
    value = _document.verify(
        data, content_type=_document.IDENTITY, keys=public_keys, size_bytes_max=IDENTITY_REPORT_SIZE_BYTES_MAX
    )
    *needed, mixed_pack = take_fields(value, _NAMES, "identity report", optional=("mixed_pack",))
    fields = dict(zip(_NAMES, needed, strict=True))
    with malformed_as_trust_error("identity report"):
        expect_count("nodes", fields["nodes"], minimum=1, maximum=NODES_MAX)
        fields["nodes"] = tuple(_parse_node(node) for node in fields["nodes"])
        expect_count("upgrades", fields["upgrades"], maximum=LOCAL_UPGRADES_MAX)
        fields["upgrades"] = tuple(_parse_upgrade(upgrade) for upgrade in fields["upgrades"])
        return IdentityReport(**fields, mixed_pack="" if mixed_pack is None else mixed_pack)


def content_digests(report: IdentityReport) -> tuple[bytes, bytes]:
    """SHA-256 of who the nodes are and what they run, mixed or not, and of the local upgrades: what makes a report news."""
    payload = _payload(report)
    nodes = {name: payload[name] for name in ("vin", "hwid", "nodes", "mixed_pack") if name in payload}
    return sha256(_cbor.encode(nodes)).digest(), sha256(_cbor.encode(payload["upgrades"])).digest()


def _payload(report: IdentityReport) -> dict[str, Any]:
    payload = {name: getattr(report, name) for name in _NAMES}
    payload["nodes"] = [
        {
            "position": node.position,
            "role": int(node.role),
            "hwid": node.hwid,
            "class_id": node.class_id.bytes,
            "version": _numbers(node.version),
            "security_counter": node.security_counter,
            "serial": node.serial,
            **_known(node, _NODE_OPTIONS),
        }
        for node in report.nodes
    ]
    payload["upgrades"] = [
        {
            "at_s": upgrade.at_s,
            "position": upgrade.position,
            "hwid": upgrade.hwid,
            "version_before": _numbers(upgrade.version_before),
            "version_after": _numbers(upgrade.version_after),
            "outcome": upgrade.outcome.value,
            **_known(upgrade, _UPGRADE_OPTIONS),
        }
        for upgrade in report.upgrades
    ]
    if report.mixed_pack:
        payload["mixed_pack"] = report.mixed_pack
    return payload


def _parse_node(value: Any) -> IdentifiedNode:
    fields = _take(value, _NODE_NAMES, _NODE_OPTIONS, "identity report node")
    expect_octets("class_id", fields["class_id"], size_bytes=16)
    fields["role"] = parse_role(fields["role"])
    fields["class_id"] = UUID(bytes=fields["class_id"])
    fields["version"] = parse_version(fields["version"])
    return IdentifiedNode(**fields)


def _parse_upgrade(value: Any) -> ReportedUpgrade:
    fields = _take(value, _UPGRADE_NAMES, _UPGRADE_OPTIONS, "identity report upgrade")
    fields["version_before"] = parse_version(fields["version_before"])
    fields["version_after"] = parse_version(fields["version_after"])
    expect(fields["outcome"] in tuple(NodeUpgradeOutcome), "outcome", "an outcome", repr(fields["outcome"]))
    fields["outcome"] = NodeUpgradeOutcome(fields["outcome"])
    return ReportedUpgrade(**fields)


def _known(item: IdentifiedNode | ReportedUpgrade, names: tuple[str, ...]) -> dict[str, Any]:
    """The optional fields that say something: what is not known is left out, and the document is as it has always been."""
    return {name: value for name in names if (value := getattr(item, name))}


def _take(value: Any, names: tuple[str, ...], options: tuple[str, ...], where: str) -> dict[str, Any]:
    """As `take_fields`, by name; an optional field that is not there has its default."""
    taken = dict(zip((*names, *options), take_fields(value, names, where, optional=options), strict=True))
    return {name: field for name, field in taken.items() if name in names or field is not None}


def _numbers(version: ImageVersion) -> list[int]:
    return [version.major, version.minor, version.revision, version.build]
