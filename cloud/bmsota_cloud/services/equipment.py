"""Equipment: which nodes a vehicle has, as its unit reports them, and what was exchanged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.equipment import EquipmentChange
from bmsota_cloud.domain.errors import NotFoundError
from bmsota_cloud.domain.ota_tasks import NodeVersion, needs_instruction
from bmsota_cloud.domain.vehicles import NodeKind, VehicleNode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["EquipmentService", "NodeFact", "merge_nodes"]

_ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFact:
    """What a unit reports of one of its nodes; None where this source says nothing."""

    position: int
    hwid: str
    version: str
    security_counter: int
    hardware_class: str | None = None
    serial: str | None = None
    state: str = "running"


def merge_nodes(work: Work, vin: str, facts: Sequence[NodeFact], now: datetime) -> tuple[EquipmentChange, ...]:
    """Bring the vehicle's nodes up to date; what was exchanged is recorded and returned.

    The first list of all sets the nodes and is no change. An absent node keeps its HWID and version: it has not been
    replaced, it does not answer.
    """
    known = {node.position: node for node in work.vehicles.nodes([vin])[vin]}
    changes: list[EquipmentChange] = []
    for fact in facts:
        old = known.get(fact.position)
        if fact.state == _ABSENT and old is not None:
            work.vehicles.save_node(replace(old, state=_ABSENT, updated_at=now))
            continue
        is_same = old is not None and old.hwid == fact.hwid
        if known and not is_same:
            changes.append(
                EquipmentChange(
                    vin=vin,
                    position=fact.position,
                    old_hwid="" if old is None else old.hwid,
                    new_hwid=fact.hwid,
                    changed_at=now,
                )
            )
        work.vehicles.save_node(_node(vin, fact, old if is_same else None, now))
    for change in changes:
        work.equipment.add(change)
    return tuple(changes)


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
    )


class EquipmentService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def identify(self, vin: str, facts: Sequence[NodeFact], now: datetime) -> tuple[EquipmentChange, ...]:
        """The unit has reported its nodes (UnitIdentity); the changes that follow from it.

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
        self._context.live.publish(f"vehicle:{vin}", {"kind": "identity", "changes": len(changes)})
        return changes

    @staticmethod
    def _complete_versions_before(work: Work, vin: str) -> None:
        """A vehicle that was approved before it ever connected: what it reports first is what it ran before."""
        upgrade = work.ota_tasks.open_upgrade(vin)
        if upgrade is not None and not upgrade.versions_before and needs_instruction(upgrade):
            before = tuple(
                NodeVersion(position=node.position, hwid=node.hwid, version=node.version)
                for node in work.vehicles.nodes([vin])[vin]
            )
            work.ota_tasks.save_upgrade(replace(upgrade, versions_before=before))

    def page(self, request: PageRequest, *, by: Account, vin: str = "") -> Page[EquipmentChange]:
        """Equipment changes, newest first; of all vehicles if *vin* is empty."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            return work.equipment.page(request, vin=vin)
