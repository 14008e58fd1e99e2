"""What an auditor should know of a vehicle before its upgrade is approved: what runs, what comes, and what speaks against it.

What a vehicle runs is known in two ways. A node is *signed* if a signed document names this HWID with this version;
everything else is what the unit said over its link, which anybody can say who knows the VIN. Only signed knowledge makes
an upgrade unnecessary ("already runs"); a remark is made from either.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from bmsota.errors import ImageError
from bmsota.image import ImageVersion
from bmsota_cloud.domain.ota_tasks import VehicleStatus, task_key
from bmsota_cloud.domain.vehicles import node_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota_cloud.domain.ota_tasks import NodeVersion, VehicleUpgrade
    from bmsota_cloud.domain.releases import Release, ReleasedImage
    from bmsota_cloud.domain.vehicles import Vehicle, VehicleNode

__all__ = ["NodeCheck", "Remark", "RemarkKind", "VehicleCheck", "check_vehicle"]


# Nodes named in one remark.
_NAMED_MAX = 3


class RemarkKind(StrEnum):
    """What can be said against an upgrade, or for leaving it out."""

    ALREADY_RUNS = "already-runs"
    """By a signed report: at the approval it counts as success."""
    SAID_TO_RUN = "said-to-run"
    """The unit said so without a signature: it is instructed all the same."""
    OTHER_BUILD = "other-build"
    """The same version with other bytes, by a signed document: it will be flashed."""
    TOO_LARGE = "too-large"
    """An image is larger than the slot of its node, as its signed identity says it: the unit will refuse the order."""
    MIXED_PACK = "mixed-pack"
    """The nodes run images that do not belong together."""
    DOWNGRADE = "downgrade"
    WRONG_CLASS = "wrong-class"
    BUSY = "busy"
    NO_KEY = "no-key"
    NEVER_HEARD = "never-heard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One remark."""

    kind: RemarkKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCheck:
    """One node: what it runs and which image is meant for it."""

    position: int
    hwid: str
    version: str
    """Empty if it is not known."""
    is_signed: bool
    """Whether a signed document says so."""
    target_version: str
    """Empty if no image of the release fits this node."""
    image_sha256: str = ""
    """Of what it runs, hexadecimal; empty if no signed document has said it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleCheck:
    """One vehicle before its approval."""

    nodes: tuple[NodeCheck, ...] = ()
    remarks: tuple[Remark, ...] = ()

    @property
    def already_runs(self) -> bool:
        """Whether every node runs the release, by a signed report."""
        return any(remark.kind is RemarkKind.ALREADY_RUNS for remark in self.remarks)


def check_vehicle(
    vehicle: Vehicle,
    release: Release,
    nodes: Sequence[VehicleNode],
    signed: Sequence[NodeVersion],
    others: Iterable[VehicleUpgrade] = (),
) -> VehicleCheck:
    """Compare a vehicle with what is to be installed.

    Args:
        vehicle: as registered.
        release: the one chosen for it.
        nodes: as last reported, by position.
        signed: what is known of its nodes by signature; empty if it has sent no signed document.
        others: its open upgrades in other tasks.
    """
    reported = {(node.position, node.hwid, node.version, node.image_sha256) for node in signed}
    has_other_build = False
    checks: list[NodeCheck] = []
    # What is said of a node -> the nodes of which it is said: a pack of thirty slaves needs one sentence.
    objections: dict[tuple[RemarkKind, str], list[str]] = {}
    for node in nodes:
        images = release.images_for(node.kind, node.hardware_class)
        checks.append(
            NodeCheck(
                position=node.position,
                hwid=node.hwid,
                version=node.version,
                # A node that is said not to answer may have been exchanged since the report.
                is_signed=(node.position, node.hwid, node.version, node.image_sha256) in reported
                and node.state != "absent",
                image_sha256=node.image_sha256,
                target_version=" or ".join(dict.fromkeys(image.version for image in images)),
            )
        )
        if objection := _objection(node, images) if images else _wrong_class(release, node):
            objections.setdefault(objection, []).append(node_name(node.position))
        if images and _is_other_build(node, images):
            has_other_build = True
            text = f"runs another build of {node.version} ({node.image_sha256[:16]}); it will be flashed"
            objections.setdefault((RemarkKind.OTHER_BUILD, text), []).append(node_name(node.position))
        if images and not any(node.has_room_for(image.size_bytes) for image in images):
            smallest = min(image.size_bytes for image in images)
            text = f"the image of {smallest} bytes does not fit the slot of {node.slot_size_kib} KiB, the unit will refuse the order"
            objections.setdefault((RemarkKind.TOO_LARGE, text), []).append(node_name(node.position))
    remarks = [Remark(kind=kind, text=f"{_names(who)}: {text}") for (kind, text), who in objections.items()]
    runs_it = all(check.version and check.version == check.target_version for check in checks)
    if checks and runs_it and not has_other_build:
        remarks.append(_runs(release, checks, signed))
    if mixed := vehicle.mixed_pack or _mixed(nodes):
        remarks.append(Remark(kind=RemarkKind.MIXED_PACK, text=f"mixed pack: {mixed}"))
    if not vehicle.is_upgradable:
        remarks.append(
            Remark(kind=RemarkKind.NO_KEY, text="registered without a device key: it can be monitored, not upgraded")
        )
    if not nodes:
        remarks.append(
            Remark(kind=RemarkKind.NEVER_HEARD, text="has never reported its nodes: what it runs is not known")
        )
    for other in others:
        waits = ", which waits for its approval" if other.status is VehicleStatus.UNAPPROVED else f" ({other.status})"
        remarks.append(Remark(kind=RemarkKind.BUSY, text=f"is part of {task_key(other.task_id)}{waits}"))
    return VehicleCheck(nodes=tuple(checks), remarks=tuple(remarks))


def _runs(release: Release, checks: Sequence[NodeCheck], signed: Sequence[NodeVersion]) -> Remark:
    # A node that only one of the two sources knows makes the report one of another pack.
    is_signed = all(check.is_signed for check in checks) and len(signed) == len(checks)
    if is_signed:
        return Remark(
            kind=RemarkKind.ALREADY_RUNS, text=f"already runs {release.software_version}, by its signed report"
        )
    return Remark(
        kind=RemarkKind.SAID_TO_RUN,
        text=f"says that it already runs {release.software_version}, without a signature; it will be instructed",
    )


def _wrong_class(release: Release, node: VehicleNode) -> tuple[RemarkKind, str]:
    kinds = {image.kind for image in release.images}
    what = f"hardware class {node.hardware_class}" if node.kind in kinds else f"a {node.kind}"
    return RemarkKind.WRONG_CLASS, f"release {release.name} has no image for {what}"


def _objection(node: VehicleNode, images: Sequence[ReleasedImage]) -> tuple[RemarkKind, str] | None:
    """Why the unit would call it a downgrade, if it would."""
    counter = max(image.security_counter for image in images)
    if node.security_counter > counter:
        text = f"security counter {node.security_counter} is above {counter}, the unit will refuse the image"
        return RemarkKind.DOWNGRADE, text
    running = _version(node.version)
    targets = [version for image in images if (version := _version(image.version)) is not None]
    if running is not None and targets and running > max(targets):
        return RemarkKind.DOWNGRADE, f"{node.version} is newer than {max(targets)}"
    return None


def _is_other_build(node: VehicleNode, images: Sequence[ReleasedImage]) -> bool:
    same = [image.sha256 for image in images if image.version == node.version]
    return bool(same and node.image_sha256) and node.image_sha256 not in same


def _mixed(nodes: Sequence[VehicleNode]) -> str:
    """Nodes of one kind and class that run different images, as far as signed documents have said; the unit's word may be old."""
    kinds: dict[tuple[str, str], dict[str, list[str]]] = {}
    for node in nodes:
        if node.is_confirmed and node.state != "absent":
            runs = kinds.setdefault((node.kind, node.hardware_class), {})
            runs.setdefault(node.version, []).append(node_name(node.position))
    said = [runs for runs in kinds.values() if len(runs) > 1]
    return ", ".join(f"{_names(who)}: {version}" for runs in said for version, who in runs.items())


def _names(names: Sequence[str]) -> str:
    if len(names) <= _NAMED_MAX:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED_MAX])} and {len(names) - _NAMED_MAX} more"


# A fleet runs few versions; a preview of 10,000 vehicles compares 90,000 nodes.
@lru_cache(maxsize=1024)
def _version(text: str) -> ImageVersion | None:
    try:
        return ImageVersion.parse(text)
    except ImageError:
        return None
