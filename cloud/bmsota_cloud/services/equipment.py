"""Equipment: which nodes a vehicle has, and what was exchanged; what its unit reports, and what its signature confirms.

Strategy. Two sources speak of the nodes: the identity frame of the cloud link, which anyone who knows the VIN can send, and
documents with the unit's signature (identity report, post-boot report). What is believed is one row a position
(`Work.vehicles.nodes`). The frame fills it only where no signature has spoken yet. What the frame says is kept beside it
(`reported_nodes`), and shown where it differs from what was confirmed before. An exchange that only the frame tells is
recorded as reported; the next signed document confirms or refutes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from bmsota.image import ImageVersion
from bmsota.ota import NodeUpgradeOutcome, verify_identity
from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.equipment import ChangeStatus, EquipmentChange
from bmsota_cloud.domain.errors import NotFoundError
from bmsota_cloud.domain.histories import LocalUpgradeRow
from bmsota_cloud.domain.ota_tasks import NodeVersion, VehicleStatus, is_before_the_switch
from bmsota_cloud.domain.vehicles import NodeKind, VehicleNode
from bmsota_cloud.services.audit import note
from bmsota_cloud.services.link_watch import Oddity
from bmsota_cloud.services.unit_documents import verified_document, with_sequence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bmsota.errors import TrustError
    from bmsota.ota import IdentityReport, ReportedUpgrade
    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.domain.vehicles import Vehicle
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.link_watch import LinkWatch
    from bmsota_cloud.storage.base import Work

__all__ = [
    "EquipmentService",
    "NodeFact",
    "confirm_nodes",
    "hex_digest",
    "merge_nodes",
    "note_mixed_pack",
    "verified_identity",
    "versions_of",
]

_ABSENT = "absent"

# Exchanges without a signature that are recorded of one vehicle in a day: every node of a pack once. A stranger can say more.
REPORTED_CHANGES_MAX = 32
_DAY = timedelta(days=1)

_LOCAL_STATUSES: Mapping[NodeUpgradeOutcome, VehicleStatus] = {
    NodeUpgradeOutcome.SUCCEEDED: VehicleStatus.SUCCEEDED,
    NodeUpgradeOutcome.FAILED: VehicleStatus.FAILED,
    NodeUpgradeOutcome.REVERTED: VehicleStatus.ROLLED_BACK,
}
# Beyond it no datetime is; a unit's clock may say anything.
_TIME_S_MAX = 253_402_300_799


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFact:
    """What a unit says of one of its nodes; None where this source says nothing."""

    position: int
    hwid: str
    version: str
    security_counter: int
    hardware_class: str | None = None
    serial: str | None = None
    state: str = "running"
    image_sha256: str = ""
    """Empty if this source does not know it."""
    slot_size_kib: int | None = None


def merge_nodes(work: Work, vin: str, facts: Sequence[NodeFact], now: datetime) -> tuple[EquipmentChange, ...]:
    """Take over an identity frame, which is not signed; the exchanges that it reports for the first time.

    Nodes that a signed document has confirmed stay as they are. The first list of all sets the nodes and is no change. An
    absent node keeps its HWID and version: it has not been replaced, it does not answer.
    """
    known = {node.position: node for node in work.vehicles.nodes([vin])[vin]}
    reported = work.equipment.reported(vin)
    recent = [change for change in reported if change.changed_at > now - _DAY]
    changes: list[EquipmentChange] = []
    for fact in facts:
        old = known.get(fact.position)
        if fact.state == _ABSENT and old is not None:
            told = replace(old, state=_ABSENT, updated_at=now, confirmed_at=None)
            is_same = True
        else:
            is_same = old is not None and old.hwid == fact.hwid
            told = _node(vin, fact, old if is_same else None, now)
        work.vehicles.save_reported_node(told)
        if old is None or not old.is_confirmed:
            work.vehicles.save_node(told)
        if not known or is_same:
            continue
        change = EquipmentChange(
            vin=vin,
            position=fact.position,
            old_hwid="" if old is None else old.hwid,
            new_hwid=fact.hwid,
            changed_at=now,
            status=ChangeStatus.REPORTED,
        )
        # A node that is not confirmed moves with every frame; a confirmed one makes the same change of each of them.
        is_repeated = old is not None and old.is_confirmed and any(_is_same(change, other) for other in reported)
        if not is_repeated and len(recent) + len(changes) < REPORTED_CHANGES_MAX:
            work.equipment.add(change)
            changes.append(change)
    return tuple(changes)


def confirm_nodes(work: Work, vin: str, facts: Sequence[NodeFact], now: datetime) -> tuple[EquipmentChange, ...]:
    """Take over what a signed document says: *facts* are the master and every slave that answered.

    Returns the exchanges that are certain since now. The first signed list sets the nodes and is no change, except where
    the identity frame has reported one. A confirmed node that is not listed is absent; one that only the identity frame
    has ever named is forgotten.
    """
    known = {node.position: node for node in work.vehicles.nodes([vin])[vin]}
    was_confirmed = any(node.is_confirmed for node in known.values())
    reported: dict[int, list[EquipmentChange]] = {}
    for change in work.equipment.reported(vin):
        reported.setdefault(change.position, []).append(change)
    changes: list[EquipmentChange] = []
    for fact in facts:
        old = known.pop(fact.position, None)
        is_same = old is not None and old.hwid == fact.hwid
        decided = _decide(work, reported.get(fact.position, []), fact.hwid, now)
        if decided is not None:
            changes.append(decided)
        elif was_confirmed and not is_same and (old is None or old.is_confirmed):
            change = EquipmentChange(
                vin=vin,
                position=fact.position,
                old_hwid="" if old is None else old.hwid,
                new_hwid=fact.hwid,
                changed_at=now,
                status=ChangeStatus.CONFIRMED,
                decided_at=now,
            )
            work.equipment.add(change)
            changes.append(change)
        # What only the frame has said of class and serial number is not confirmed by a document that does not name them.
        kept = old if is_same and old is not None and old.is_confirmed else None
        work.vehicles.save_node(replace(_node(vin, fact, kept, now), confirmed_at=now))
    for node in known.values():
        if node.is_confirmed:
            work.vehicles.save_node(replace(node, state=_ABSENT, updated_at=now, confirmed_at=now))
        else:
            work.vehicles.delete_node(vin, node.position)
    return tuple(changes)


def _decide(work: Work, reported: list[EquipmentChange], hwid: str, now: datetime) -> EquipmentChange | None:
    """Judge the reported exchanges of one position (newest first), now that *hwid* is known to be there."""
    is_refuted = any(change.old_hwid == hwid for change in reported)
    confirmed: EquipmentChange | None = None
    for change in reported:
        if is_refuted:
            work.equipment.save(replace(change, status=ChangeStatus.REFUTED, decided_at=now))
        elif change.new_hwid == hwid and confirmed is None:
            confirmed = replace(change, status=ChangeStatus.CONFIRMED, decided_at=now)
            work.equipment.save(confirmed)
    return confirmed


def _is_same(one: EquipmentChange, other: EquipmentChange) -> bool:
    return (one.position, one.old_hwid, one.new_hwid) == (other.position, other.old_hwid, other.new_hwid)


def _node(vin: str, fact: NodeFact, old: VehicleNode | None, now: datetime) -> VehicleNode:
    known_class = "" if old is None else old.hardware_class
    known_serial = "" if old is None else old.serial
    return VehicleNode(
        vin=vin,
        position=fact.position,
        kind=NodeKind.MASTER if fact.position == 0 else NodeKind.SLAVE,
        hwid=fact.hwid,
        hardware_class=known_class if fact.hardware_class is None else fact.hardware_class,
        version=fact.version,
        security_counter=fact.security_counter,
        serial=known_serial if fact.serial is None else fact.serial,
        state=fact.state,
        updated_at=now,
        image_sha256=fact.image_sha256,
        slot_size_kib=(0 if old is None else old.slot_size_kib) if fact.slot_size_kib is None else fact.slot_size_kib,
    )


def verified_identity(vehicle: Vehicle, document: bytes) -> IdentityReport:
    """The identity report, if it is this unit's and newer than the last; raises as `verified_document`."""
    return verified_document(
        vehicle, document, verify_identity, last_counter=vehicle.identity_counter, what="identity report"
    )


class EquipmentService:
    """One method per use case."""

    def __init__(self, context: Context, watch: LinkWatch) -> None:
        self._context = context
        self._watch = watch

    def identify(self, vin: str, facts: Sequence[NodeFact], now: datetime) -> tuple[EquipmentChange, ...]:
        """The unit has reported its nodes without a signature (UnitIdentity); the exchanges that this reports.

        Raises:
            NotFoundError: there is no such vehicle.
        """
        with self._context.store.transaction() as work:
            vehicle = work.vehicles.get(vin, lock=True)
            if vehicle is None:
                raise NotFoundError("no-such-vehicle", f"no vehicle {vin}")
            changes = merge_nodes(work, vin, facts, now)
            work.vehicles.save(replace(vehicle, identified_at=now))
            self._complete_versions_before(work, vin)
        for fact in facts:
            # A vehicle that is only monitored may be registered without one.
            if fact.position == 0 and vehicle.hwid and fact.hwid != vehicle.hwid:
                detail = f"the unit calls its master {fact.hwid}; {vehicle.hwid} is registered"
                self._watch.note(vin, Oddity.OTHER_HWID, detail, now)
        self._context.live.publish(f"vehicle:{vin}", {"kind": "identity", "changes": len(changes)})
        return changes

    def confirm(
        self, work: Work, vehicle: Vehicle, document: bytes, now: datetime
    ) -> tuple[IdentityReport, tuple[EquipmentChange, ...]]:
        """A signed identity report, in the caller's transaction: nodes, exchanges and local upgrades are certain now.

        Raises:
            TrustError: it is not to be believed; nothing was changed.
        """
        report = verified_identity(vehicle, document)
        vin = vehicle.vin
        changes = confirm_nodes(work, vin, _facts(report), now)
        for upgrade in report.upgrades:
            work.histories.confirm(_local_upgrade(vin, upgrade, now))
        work.vehicles.save(
            replace(
                with_sequence(vehicle, report.sequence),
                identity_counter=report.counter,
                identity_sha256=sha256(document).digest(),
                confirmed_at=now,
                mixed_pack=report.mixed_pack,
            )
        )
        note_mixed_pack(work, vehicle, report.mixed_pack, now)
        self._complete_versions_before(work, vin)
        note(
            work,
            who=f"vehicle {vin}",
            action="identity.confirm",
            subject=f"vehicle {vin}",
            outcome="done",
            now=now,
            detail=f"{len(report.nodes)} nodes, {len(changes)} exchanged, {len(report.upgrades)} local upgrades",
        )
        return report, changes

    def refused(self, vin: str, refusal: TrustError, now: datetime) -> None:
        """A signed document was not believed: for the audit log, once an hour with a count."""
        self._watch.note(vin, Oddity.REFUSED_DOCUMENT, f"identity report: {refusal}", now)

    @staticmethod
    def _complete_versions_before(work: Work, vin: str) -> None:
        """What the unit says of its nodes before it has begun is what it ran before: signed words first, then others."""
        upgrade = work.ota_tasks.open_upgrade(vin)
        if upgrade is None or upgrade.status is VehicleStatus.UNAPPROVED or not is_before_the_switch(upgrade):
            return
        if any(version.is_signed for version in upgrade.versions_before):
            return
        nodes = work.vehicles.nodes([vin])[vin]
        if not upgrade.versions_before or any(node.is_confirmed for node in nodes):
            work.ota_tasks.save_upgrade(replace(upgrade, versions_before=versions_of(nodes)))

    def page(self, request: PageRequest, *, by: Account, vin: str = "") -> Page[EquipmentChange]:
        """Equipment changes, newest first; of all vehicles that *by* sees if *vin* is empty."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            return work.equipment.page(request, by.scope, vin=vin)


def hex_digest(digest: bytes | None) -> str:
    """As the platform keeps it; empty if it is not known."""
    return "" if digest is None else digest.hex()


def note_mixed_pack(work: Work, before: Vehicle, mixed_pack: str, now: datetime) -> None:
    """The audit log hears of a mixed pack with every signed document that says so, and of its end."""
    if not mixed_pack and not before.mixed_pack:
        return
    note(
        work,
        who=f"vehicle {before.vin}",
        action="vehicle.mixed_pack",
        subject=f"vehicle {before.vin}",
        outcome="mixed" if mixed_pack else "over",
        now=now,
        detail=mixed_pack or f"no longer mixed; was: {before.mixed_pack}",
    )


def versions_of(nodes: Sequence[VehicleNode]) -> tuple[NodeVersion, ...]:
    """What runs on the nodes, for `VehicleUpgrade.versions_before`."""
    return tuple(
        NodeVersion(
            position=node.position,
            hwid=node.hwid,
            version=node.version,
            is_signed=node.is_confirmed,
            image_sha256=node.image_sha256,
        )
        for node in nodes
    )


def _facts(report: IdentityReport) -> list[NodeFact]:
    return [
        NodeFact(
            position=node.position,
            hwid=node.hwid,
            version=str(node.version),
            security_counter=node.security_counter,
            hardware_class=str(node.class_id),
            serial=node.serial,
            image_sha256=hex_digest(node.image_sha256),
            slot_size_kib=node.slot_size_kib,
        )
        for node in report.nodes
    ]


def _local_upgrade(vin: str, upgrade: ReportedUpgrade, now: datetime) -> LocalUpgradeRow:
    return LocalUpgradeRow(
        vin=vin,
        upgraded_at=datetime.fromtimestamp(min(upgrade.at_s, _TIME_S_MAX), UTC),
        reported_at=now,
        position=upgrade.position,
        hwid=upgrade.hwid,
        version_before=_version(upgrade.version_before),
        version_after=_version(upgrade.version_after),
        status=_LOCAL_STATUSES[upgrade.outcome],
        tool="",
        detail="",
        confirmed_at=now,
        image_before=hex_digest(upgrade.sha256_before),
        image_after=hex_digest(upgrade.sha256_after),
    )


def _version(version: ImageVersion) -> str:
    return "" if version == ImageVersion() else str(version)
