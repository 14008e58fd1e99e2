"""Vehicles: registration, what their units say of themselves, lists for people."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.ota_tasks import NodeVersion, needs_instruction
from bmsota_cloud.domain.paging import Page, PageRequest
from bmsota_cloud.domain.telemetry import VehicleState
from bmsota_cloud.domain.vehicles import EquipmentChange, Node, NodeKind, Vehicle
from bmsota_cloud.services.audit import acting
from bmsota_cloud.services.views import VehicleDetail, VehicleRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.telemetry import ReportRow
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["NodeFact", "VehicleService", "merge_nodes"]

_VIN = re.compile(r"[A-Z0-9]{17}", re.ASCII)
_HWID = re.compile(r"[!-~]{1,24}", re.ASCII)
_WORD = re.compile(r"[\w .+-]{1,64}")

_ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFact:
    """What a unit says about one of its nodes; None where this source says nothing."""

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
        work.vehicles.add_change(change)
    return tuple(changes)


def _node(vin: str, fact: NodeFact, old: Node | None, now: datetime) -> Node:
    known_class = "" if old is None else old.hardware_class
    known_serial = "" if old is None else old.serial
    return Node(
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


class VehicleService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def register(
        self,
        *,
        vin: str,
        series: str,
        project: str,
        hwid: str,
        device_public_key: bytes,
        now: datetime,
        by: Account | None = None,
    ) -> Vehicle:
        """Make a vehicle known, with its master's HWID and the public key its unit signs with (Ed25519, 32 raw bytes).

        *by* is None only where no operator stands behind it: the command line and a simulation's wiring.

        Raises:
            InvalidInputError: a value can't be used.
            ConflictError: the VIN or the HWID is registered already.
        """
        who = "platform" if by is None else by.name
        with acting(self._context, who=who, action="vehicle.register", subject=f"vehicle {vin[:32]}", now=now) as act:
            if by is not None:
                require(by, Permission.VEHICLE_REGISTER)
            _check("VIN", _VIN, vin, "17 capitals or digits")
            _check("HWID", _HWID, hwid, "1 to 24 printable ASCII characters")
            _check("series", _WORD, series, "1 to 32 letters, digits, space . + - _", length_max=32)
            _check("project", _WORD, project, "1 to 64 letters, digits, space . + - _")
            try:
                Ed25519PublicKey.from_public_bytes(device_public_key)
            except ValueError as error:
                raise InvalidInputError(
                    "bad-key",
                    f"expected an Ed25519 public key of 32 bytes, got {len(device_public_key)} bytes: {error}",
                ) from error
            if act.work.vehicles.get(vin) is not None:
                raise ConflictError("already-registered", f"expected a new VIN, got {vin}, which is registered")
            if (other := act.work.vehicles.by_hwid(hwid)) is not None:
                raise ConflictError("already-registered", f"expected a new HWID, got {hwid}, which is in {other.vin}")
            vehicle = Vehicle(
                vin=vin,
                series=series,
                project=project,
                hwid=hwid,
                device_public_key=device_public_key,
                registered_at=now,
            )
            act.work.vehicles.add(vehicle)
            act.detail = f"series {series}, project {project}, HWID {hwid}"
        return vehicle

    def identify(self, vin: str, facts: Sequence[NodeFact], now: datetime) -> tuple[EquipmentChange, ...]:
        """The unit has told who it consists of (UnitIdentity)."""
        with self._context.store.transaction() as work:
            vehicle = work.vehicles.get(vin, lock=True)
            if vehicle is None:
                raise NotFoundError("no-such-vehicle", f"expected a registered vehicle, got {vin}")
            changes = merge_nodes(work, vin, facts, now)
            work.vehicles.save(replace(vehicle, identified_at=now))
            self._complete_versions_before(work, vin)
        self._context.live.publish(f"vehicle:{vin}", {"kind": "identity", "changes": len(changes)})
        return changes

    @staticmethod
    def _complete_versions_before(work: Work, vin: str) -> None:
        """A vehicle that was approved before it was ever heard of: what it tells first is what it ran before."""
        upgrade = work.tasks.open_upgrade(vin)
        if upgrade is not None and not upgrade.versions_before and needs_instruction(upgrade):
            before = tuple(
                NodeVersion(position=node.position, hwid=node.hwid, version=node.version)
                for node in work.vehicles.nodes([vin])[vin]
            )
            work.tasks.save_upgrade(replace(upgrade, versions_before=before))

    # -- for people ----------------------------------------------------------------------------------------------------

    def rows(self, request: PageRequest, *, by: Account, project: str = "", text: str = "") -> Page[VehicleRow]:
        """The vehicle list: one row a vehicle, by VIN. *text* is looked for in VIN, HWID and series."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            page = work.vehicles.page(request, project=project, text=text)
            nodes = work.vehicles.nodes([vehicle.vin for vehicle in page.items])
        states = self._context.telemetry.states([vehicle.vin for vehicle in page.items])
        rows = tuple(
            VehicleRow.of(vehicle, states.get(vehicle.vin, VehicleState(vin=vehicle.vin)), nodes[vehicle.vin])
            for vehicle in page.items
        )
        return Page(items=rows, total=page.total, number=page.number, size=page.size)

    def projects(self, *, by: Account) -> tuple[str, ...]:
        """The names of all projects, sorted."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            return work.vehicles.projects()

    def detail(self, vin: str, *, by: Account) -> VehicleDetail:
        """One vehicle with its nodes, newest values (cells included) and newest equipment changes.

        Raises:
            NotFoundError: there is no such vehicle.
        """
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            vehicle = work.vehicles.get(vin)
            if vehicle is None:
                raise NotFoundError("no-such-vehicle", f"expected a registered vehicle, got {vin[:32]}")
            nodes = work.vehicles.nodes([vin])[vin]
            changes = work.vehicles.changes(PageRequest(1, 20), vin=vin).items
        state = self._context.telemetry.state(vin) or VehicleState(vin=vin)
        return VehicleDetail(vehicle=vehicle, state=state, nodes=nodes, changes=changes)

    def changes(self, request: PageRequest, *, by: Account, vin: str = "") -> Page[EquipmentChange]:
        """Equipment changes, newest first; of all vehicles if *vin* is empty."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            return work.vehicles.changes(request, vin=vin)

    def reports(
        self,
        vin: str,
        request: PageRequest,
        *,
        by: Account,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page[ReportRow]:
        """The hot history of a vehicle, newest first."""
        require(by, Permission.VEHICLE_READ)
        return self._context.telemetry.reports(vin, request, since=since, until=until)


def _check(what: str, pattern: re.Pattern[str], value: str, expected: str, *, length_max: int = 64) -> None:
    if len(value) > length_max or not pattern.fullmatch(value):
        raise InvalidInputError(f"bad-{what.lower()}", f"{what}: expected {expected}, got {value[:80]!r}")
