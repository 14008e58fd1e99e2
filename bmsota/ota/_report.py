"""The post-boot report: what really runs now, on the master and on every slave, signed by the unit's own key.

Only this document makes "Upgrade succeeded" in the cloud, and it can only be made by the unit after a boot. It also
reports a failure or a roll-back, with the reason. Layout: docs/trust.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from bmsota.image import ImageRole, ImageVersion
from bmsota.ota import _document
from bmsota.ota._fields import malformed_as_trust_error, parse_role, parse_version, take_fields
from bmsota.ota._rules import (
    expect,
    expect_count,
    expect_digest,
    expect_hwid,
    expect_integer,
    expect_name,
    expect_text,
    expect_vin,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


# A node takes about 160 bytes; 64 of them and the head, with the longest reasons in a script of 4 bytes a character.
REPORT_SIZE_BYTES_MAX: Final = 14 * 1024

# One master and 31 slaves are the most a pack has; twice that is beyond any bus of ours.
NODES_MAX: Final = 64

# What the cloud link's UpgradeState and this report both can carry: 255 bytes of UTF-8 and 256 characters.
REASON_SIZE_BYTES_MAX: Final = 250


class Outcome(StrEnum):
    """How an upgrade ended."""

    SUCCEEDED = "succeeded"
    """Every node runs the release, after a boot."""
    ROLLED_BACK = "rolled-back"
    """The new images do not run; what ran before does."""
    FAILED = "failed"
    """Not finished, and no attack."""
    REJECTED = "rejected"
    """The unit refused what it was given; the reason begins with the attack's name. Nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What one node runs."""

    position: int
    """0 is the master, 1..63 the slaves."""
    role: ImageRole
    hwid: str
    version: ImageVersion
    security_counter: int
    image_sha256: bytes | None = None
    """Of the whole file of the running image, as in a manifest; None if none runs, or the node cannot say it."""

    def __post_init__(self) -> None:
        expect_integer("position", self.position, maximum=NODES_MAX - 1)
        expect(isinstance(self.role, ImageRole), "role", "an ImageRole", repr(self.role))
        expect(
            (self.position == 0) == (self.role is ImageRole.MASTER), "role", "the master at position 0", self.position
        )
        expect_hwid("hwid", self.hwid)
        expect(isinstance(self.version, ImageVersion), "version", "an ImageVersion", repr(self.version))
        expect_integer("security_counter", self.security_counter, maximum=0xFFFF_FFFF)
        expect_digest("image_sha256", self.image_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostBootReport:
    """The end of one order, as the unit saw it."""

    order_id: str
    vin: str
    hwid: str
    """Of the master."""
    outcome: Outcome
    reason: str
    """Empty on success; else what went wrong, beginning with the attack's name if it was one."""
    counter: int
    """Rises with every report of this unit; the cloud takes no number twice."""
    time_s: int
    """By the unit's clock, seconds since the Unix epoch, UTC."""
    nodes: tuple[NodeReport, ...]
    """The master and every slave that answers, by rising position."""
    mixed_pack: str = ""
    """How the nodes run images that do not belong together; empty if they do."""
    sequence: int = 0
    """The highest sequence of an order that this unit has accepted; 0: it does not say. A platform that was restored from
    a backup learns from it which numbers the unit takes for a replay."""
    manifest_sha256: bytes | None = None
    """Of the release manifest that the order names; None: it does not say. A platform that was restored from a backup may give
    the same order id to another order; this tells which one is meant, also when it was signed again with a higher sequence."""

    def __post_init__(self) -> None:
        expect_name("order_id", self.order_id)
        expect_vin("vin", self.vin)
        expect_hwid("hwid", self.hwid)
        expect(isinstance(self.outcome, Outcome), "outcome", "an Outcome", repr(self.outcome))
        expect_text("reason", self.reason, length_max=256)
        expect_integer("counter", self.counter, minimum=1)
        expect_integer("time_s", self.time_s)
        expect_integer("sequence", self.sequence)
        expect_count("nodes", self.nodes, minimum=1, maximum=NODES_MAX)
        positions = [node.position for node in self.nodes]
        expect(positions == sorted(set(positions)), "nodes", "rising positions", positions)
        expect(self.nodes[0].position == 0, "nodes", "the master first", positions)
        expect(self.nodes[0].hwid == self.hwid, "nodes", f"the master {self.hwid}", self.nodes[0].hwid)
        expect_text("mixed_pack", self.mixed_pack, length_max=256)
        expect_digest("manifest_sha256", self.manifest_sha256)


SEQUENCE: Final = "sequence"
"""A field that later versions have added, to this document and to the identity report."""

_NAMES: Final = ("order_id", "vin", "hwid", "outcome", "reason", "counter", "time_s", "nodes")
_NODE_NAMES: Final = ("position", "role", "hwid", "version", "security_counter")


def short_reason(reason: str) -> str:
    """*reason* as every message can carry it: printable, and not too long. Part of it may come from a server."""
    printable = "".join(character if character.isprintable() else " " for character in reason)
    return printable.encode()[:REASON_SIZE_BYTES_MAX].decode(errors="ignore")


def sign_report(report: PostBootReport, key: Ed25519PrivateKey) -> bytes:
    """Encode and sign with the unit's own key."""
    payload = {name: getattr(report, name) for name in _NAMES}
    payload["outcome"] = report.outcome.value
    payload["nodes"] = [_node_map(node) for node in report.nodes]
    if report.mixed_pack:
        payload["mixed_pack"] = report.mixed_pack
    if report.sequence:
        payload[SEQUENCE] = report.sequence
    if report.manifest_sha256 is not None:
        payload["manifest_sha256"] = report.manifest_sha256
    return _document.sign(payload, content_type=_document.REPORT, key=key)


def verify_report(data: bytes, public_keys: Iterable[Ed25519PublicKey]) -> PostBootReport:
    """Check signature and form. The cloud compares order, vehicle and counter with what it knows.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document`, `arbitrary-software` or `newer-document`.
    """
    value = _document.verify(
        data, content_type=_document.REPORT, keys=public_keys, size_bytes_max=REPORT_SIZE_BYTES_MAX
    )
    needed = take_fields(value, _NAMES, "report", optional=("mixed_pack", SEQUENCE, "manifest_sha256"))[: len(_NAMES)]
    fields = dict(zip(_NAMES, needed, strict=True))
    with malformed_as_trust_error("report"):
        expect(fields["outcome"] in tuple(Outcome), "outcome", "an outcome", repr(fields["outcome"]))
        fields["outcome"] = Outcome(fields["outcome"])
        expect_count("nodes", fields["nodes"], minimum=1, maximum=NODES_MAX)
        fields["nodes"] = tuple(_parse_node_map(node) for node in fields["nodes"])
        return PostBootReport(
            **fields,
            mixed_pack=value.get("mixed_pack", ""),
            sequence=value.get(SEQUENCE, 0),
            manifest_sha256=value.get("manifest_sha256"),
        )


def _node_map(node: NodeReport) -> dict[str, Any]:
    version = node.version
    # A digest that is not known is left out: the document is then the one that readers have always known.
    known = {} if node.image_sha256 is None else {"image_sha256": node.image_sha256}
    return {
        "position": node.position,
        "role": int(node.role),
        "hwid": node.hwid,
        "version": [version.major, version.minor, version.revision, version.build],
        "security_counter": node.security_counter,
        **known,
    }


def _parse_node_map(value: Any) -> NodeReport:
    position, role, hwid, version, counter, image_sha256 = take_fields(
        value, _NODE_NAMES, "report node", optional=("image_sha256",)
    )
    return NodeReport(
        position=position,
        role=parse_role(role),
        hwid=hwid,
        version=parse_version(version),
        security_counter=counter,
        image_sha256=image_sha256,
    )
