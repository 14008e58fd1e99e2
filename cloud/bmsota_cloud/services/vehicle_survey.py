"""What many vehicles run and what comes to them, read at once: for the plan of a task, its mail and its page."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from bmsota_cloud.domain.vehicle_checks import RemarkKind, VehicleCheck, check_vehicle
from bmsota_cloud.services.equipment import versions_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bmsota_cloud.domain.ota_tasks import NodeVersion
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.vehicles import Vehicle, VehicleNode
    from bmsota_cloud.storage.base import Work

__all__ = ["REMARK_WORDS", "count_remarks", "facts_for_mail", "pairs_of", "signed_versions", "survey"]

REMARK_WORDS: dict[RemarkKind, str] = {
    RemarkKind.ALREADY_RUNS: "already on this version by signed report; will count as succeeded",
    RemarkKind.SAID_TO_RUN: "already on this version as the unit says, without a signature; will be instructed",
    RemarkKind.OTHER_BUILD: "on another build of this version; will be flashed",
    RemarkKind.TOO_LARGE: "with an image too large for its slot; the unit will refuse the order",
    RemarkKind.MIXED_PACK: "with a mixed pack: its nodes run images that do not belong together",
    RemarkKind.DOWNGRADE: "on something newer; the upgrade is a downgrade",
    RemarkKind.WRONG_CLASS: "with a node for which the release has no image",
    RemarkKind.BUSY: "in another task",
    RemarkKind.NO_KEY: "without a device key; cannot be upgraded",
    RemarkKind.NEVER_HEARD: "without any report of its nodes so far",
}
"""What follows the number of vehicles."""

# Versions named in a mail; a fleet with more is described by its most frequent ones.
_VERSIONS_NAMED_MAX = 5


def signed_versions(
    work: Work, nodes: Mapping[str, Sequence[VehicleNode]], reported: Mapping[str, Sequence[VehicleNode]]
) -> Mapping[str, tuple[NodeVersion, ...]]:
    """What is known by signature, by VIN. The one place that says where such knowledge comes from.

    It is what signed documents have confirmed of the nodes. A node of which the unit's identity frame has said something
    else since is left out: it may have been exchanged. A vehicle that has sent no signed document since documents confirm
    nodes has its newest signed report, from an older platform.

    Args:
        work: the transaction.
        nodes: what is believed of the nodes.
        reported: what the identity frame says of them.
    """
    found: dict[str, tuple[NodeVersion, ...]] = {}
    for vin, known in nodes.items():
        told = {node.position: node for node in reported.get(vin, ())}
        if any(node.is_confirmed for node in known):
            found[vin] = versions_of([node for node in known if _is_signed(node, told.get(node.position))])
    return dict(work.ota_tasks.signed_versions([vin for vin in nodes if vin not in found])) | found


def _is_signed(node: VehicleNode, told: VehicleNode | None) -> bool:
    if node.confirmed_at is None:
        return False
    return told is None or told.updated_at <= node.confirmed_at or not node.differs_from(told)


def pairs_of(work: Work, vehicles: Sequence[tuple[str, int]]) -> list[tuple[Vehicle, Release]]:
    """Vehicles and releases for (VIN, id of a release), in the same order."""
    known = work.vehicles.many([vin for vin, _ in vehicles])
    releases = work.releases.many(sorted({release_id for _, release_id in vehicles}))
    return [(known[vin], releases[release_id]) for vin, release_id in vehicles]


def survey(
    work: Work, pairs: Sequence[tuple[Vehicle, Release]], *, task_id: int | None = None
) -> Mapping[str, VehicleCheck]:
    """Check each vehicle against its release; by VIN. *task_id* is the task they are looked at for, if there is one yet."""
    vins = [vehicle.vin for vehicle, _ in pairs]
    nodes = work.vehicles.nodes(vins)
    reported = work.vehicles.reported_nodes(vins)
    signed = signed_versions(work, nodes, reported)
    others = work.ota_tasks.open_upgrades(vins)
    return {
        vehicle.vin: check_vehicle(
            vehicle,
            release,
            [_with_class(node, reported[vehicle.vin]) for node in nodes[vehicle.vin]],
            signed.get(vehicle.vin, ()),
            [other for other in others.get(vehicle.vin, ()) if other.task_id != task_id],
        )
        for vehicle, release in pairs
    }


def _with_class(node: VehicleNode, reported: Sequence[VehicleNode]) -> VehicleNode:
    """With the hardware class of the identity frame, where the signed documents so far have not named one."""
    if node.hardware_class:
        return node
    told = (item.hardware_class for item in reported if (item.position, item.hwid) == (node.position, node.hwid))
    return replace(node, hardware_class=next(told, ""))


def count_remarks(checks: Iterable[VehicleCheck]) -> Mapping[RemarkKind, int]:
    """How many vehicles have a remark of each kind, in the order of the kinds."""
    found = Counter(kind for check in checks for kind in {remark.kind for remark in check.remarks})
    return {kind: found[kind] for kind in RemarkKind if found[kind]}


def facts_for_mail(pairs: Sequence[tuple[Vehicle, Release]], checks: Mapping[str, VehicleCheck]) -> tuple[str, ...]:
    """What an auditor is asked about, for one who may have no account here: images, what runs now, remarks."""
    lines: list[str] = []
    releases = {release.id: release for _, release in pairs}
    for release in sorted(releases.values(), key=lambda item: item.name):
        images = ", ".join(f"{image.kind} {image.version} ({image.sha256[:16]})" for image in release.images)
        lines.append(f"Release   {release.name}: {images}")
    running = Counter(check.nodes[0].version or "unknown" for check in checks.values() if check.nodes)
    if running:
        named = [f"{count} x {version}" for version, count in running.most_common(_VERSIONS_NAMED_MAX)]
        more = ["others"] if len(running) > _VERSIONS_NAMED_MAX else []
        lines.append(f"Running   master {', '.join([*named, *more])}")
    lines.extend(
        f"Note      {count} {'vehicle' if count == 1 else 'vehicles'} {REMARK_WORDS[kind]}"
        for kind, count in count_remarks(checks.values()).items()
    )
    return tuple(lines)
