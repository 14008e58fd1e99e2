"""What many vehicles run and what comes to them, read at once: for the plan of a task, its mail and its page."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bmsota_cloud.domain.vehicle_checks import RemarkKind, VehicleCheck, check_vehicle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bmsota_cloud.domain.ota_tasks import NodeVersion
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.vehicles import Vehicle
    from bmsota_cloud.storage.base import Work

__all__ = ["REMARK_WORDS", "count_remarks", "facts_for_mail", "signed_versions", "survey"]

REMARK_WORDS: dict[RemarkKind, str] = {
    RemarkKind.ALREADY_RUNS: "already on this version by signed report; will count as succeeded",
    RemarkKind.SAID_TO_RUN: "already on this version as the unit says, without a signature; will be instructed",
    RemarkKind.DOWNGRADE: "on something newer; the upgrade is a downgrade",
    RemarkKind.WRONG_CLASS: "with a node for which the release has no image",
    RemarkKind.BUSY: "in another task",
    RemarkKind.NO_KEY: "without a device key; cannot be upgraded",
    RemarkKind.NEVER_HEARD: "without any report of its nodes so far",
}
"""What follows the number of vehicles."""

# Versions named in a mail; a fleet with more is described by its most frequent ones.
_VERSIONS_NAMED_MAX = 5


def signed_versions(work: Work, vins: Sequence[str]) -> Mapping[str, tuple[NodeVersion, ...]]:
    """What is known by signature. The one place that says where such knowledge comes from: the newest signed report."""
    return work.ota_tasks.signed_versions(vins)


def survey(
    work: Work, pairs: Sequence[tuple[Vehicle, Release]], *, task_id: int | None = None
) -> Mapping[str, VehicleCheck]:
    """Check each vehicle against its release; by VIN. *task_id* is the task they are looked at for, if there is one yet."""
    vins = [vehicle.vin for vehicle, _ in pairs]
    nodes = work.vehicles.nodes(vins)
    signed = signed_versions(work, vins)
    others = work.ota_tasks.open_upgrades(vins)
    return {
        vehicle.vin: check_vehicle(
            vehicle,
            release,
            nodes[vehicle.vin],
            signed.get(vehicle.vin, ()),
            [other for other in others.get(vehicle.vin, ()) if other.task_id != task_id],
        )
        for vehicle, release in pairs
    }


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
