"""Vehicles: registration, the list, one vehicle with its newest values."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.paging import Page, PageRequest
from bmsota_cloud.domain.presence import VehicleConnection
from bmsota_cloud.domain.telemetry import VehicleSnapshot
from bmsota_cloud.domain.vehicles import EquipmentData, FleetCount, NodeKind, Vehicle, VehicleFilter
from bmsota_cloud.services.audit import acting
from bmsota_cloud.services.presence import with_connection
from bmsota_cloud.services.scoped import check_project, vehicle_for
from bmsota_cloud.services.values import snapshot_of
from bmsota_cloud.services.views import view_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.equipment import EquipmentChange
    from bmsota_cloud.domain.vehicles import VehicleNode
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.link_watch import LinkNote, LinkWatch

__all__ = [
    "VehicleDetail",
    "VehicleListing",
    "VehicleRow",
    "VehicleService",
    "check_equipment",
    "check_registration",
    "is_vin",
]

_VIN = re.compile(r"[A-Z0-9]{17}", re.ASCII)
_HWID = re.compile(r"[!-~]{1,24}", re.ASCII)
_EQUIPMENT_LENGTH_MAX = 64
_WORD = re.compile(r"[\w .+-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleRow:
    """A vehicle in the list."""

    vin: str
    hwid: str
    series: str
    project: str
    customer: str
    """Empty: it belongs to none."""
    battery_number: str
    frame_number: str
    model: str
    plate: str
    city: str
    is_upgradable: bool
    """False: a plain GB/T 32960 terminal, monitored only."""
    is_online: bool
    last_seen_at: datetime | None
    soc_pct: float | None
    master_version: str
    """Empty before the unit has reported it."""
    slave_versions: tuple[str, ...]
    """The different versions on the slaves, sorted; more than one is a mixed pack."""
    slave_count: int

    @classmethod
    def of(
        cls, vehicle: Vehicle, connection: VehicleConnection, state: VehicleSnapshot, nodes: Sequence[VehicleNode]
    ) -> VehicleRow:
        slaves = [node for node in nodes if node.kind is NodeKind.SLAVE]
        return view_of(
            cls,
            vehicle,
            is_online=connection.is_online,
            last_seen_at=state.last_seen_at,
            soc_pct=state.soc_pct,
            master_version=next((node.version for node in nodes if node.kind is NodeKind.MASTER), ""),
            slave_versions=tuple(sorted({node.version for node in slaves})),
            slave_count=len(slaves),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleListing:
    """A page of the vehicle list, and how many vehicles pass its filters."""

    page: Page[VehicleRow]
    count: FleetCount
    """What passes all filters but the one for the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleDetail:
    """One vehicle, all newest values."""

    vehicle: Vehicle
    state: VehicleSnapshot
    nodes: tuple[VehicleNode, ...]
    changes: tuple[EquipmentChange, ...]
    """The newest 20."""
    reported: Mapping[int, VehicleNode]
    """By position, what the unit has reported without a signature since, where it differs from a confirmed node."""
    link_notes: tuple[LinkNote, ...]
    """What was odd about its links, newest first."""


class VehicleService:
    """One method per use case."""

    def __init__(self, context: Context, watch: LinkWatch) -> None:
        self._context = context
        self._watch = watch

    def register(
        self,
        *,
        vin: str,
        series: str,
        project: str,
        hwid: str = "",
        device_public_key: bytes | None = None,
        equipment: EquipmentData | None = None,
        now: datetime,
        by: Account | None = None,
    ) -> Vehicle:
        """Make a vehicle known, with its master's HWID and the public key its unit signs with (Ed25519, 32 raw bytes).

        Without *device_public_key* it is a plain GB/T 32960 terminal: monitored, and never upgraded over the air. Its HWID
        may be left out too.

        *by* is None only where no operator is involved: the command line and a simulation's wiring.

        Raises:
            InvalidInputError: a value can't be used.
            ConflictError: the VIN or the HWID is registered already.
            NotFoundError: *project* is not in the scope of *by*.
        """
        who = "platform" if by is None else by.name
        with acting(self._context, who=who, action="vehicle.register", subject=f"vehicle {vin[:32]}", now=now) as act:
            if by is not None:
                require(by, Permission.VEHICLE_REGISTER)
            check_registration(vin=vin, series=series, project=project, hwid=hwid, device_public_key=device_public_key)
            if equipment is not None:
                check_equipment(equipment)
            if by is not None:
                check_project(project, by)
            if act.work.vehicles.get(vin) is not None:
                raise ConflictError("already-registered", f"VIN {vin} is already registered")
            if hwid and (other := act.work.vehicles.by_hwid(hwid)) is not None:
                raise _taken(other, by)
            vehicle = Vehicle(
                vin=vin,
                series=series,
                project=project,
                hwid=hwid,
                device_public_key=device_public_key,
                registered_at=now,
                **({} if equipment is None else asdict(equipment)),
            )
            act.work.vehicles.add(vehicle)
            how = "" if vehicle.is_upgradable else ", without a device key: monitored only"
            act.detail = f"series {series}, project {project}, HWID {hwid or 'none'}{how}"
        return vehicle

    def replace_unit(
        self, *, vin: str, hwid: str, device_public_key: bytes, now: datetime, by: Account | None = None
    ) -> Vehicle:
        """Register another master in a vehicle, or another key of the same; its HWID, and its public key as in `register`.

        Sessions of the device API end. The counters of what the unit signs stay: the new unit learns from the receipt for its
        first report how far they are, and no document of before is ever new again, whichever key comes back. An open order
        names the HWID it was approved for; another unit refuses it.

        Raises:
            NotFoundError: there is no such vehicle.
            InvalidInputError: a value can't be used.
            ConflictError: the HWID is registered in another vehicle.
        """
        who = "platform" if by is None else by.name
        subject = f"vehicle {vin[:32]}"
        with acting(self._context, who=who, action="vehicle.replace_unit", subject=subject, now=now) as act:
            if by is not None:
                require(by, Permission.VEHICLE_REGISTER)
            _check("HWID", _HWID, hwid, "1 to 24 printable ASCII characters")
            _check_key(device_public_key)
            vehicle = act.work.vehicles.get(vin, lock=True) if by is None else vehicle_for(act.work, vin, by, lock=True)
            if vehicle is None:
                raise NotFoundError("no-such-vehicle", f"no vehicle {vin[:32]}")
            other = act.work.vehicles.by_hwid(hwid)
            if other is not None and other.vin != vin:
                raise _taken(other, by)
            act.detail = f"HWID {vehicle.hwid or 'none'}, now {hwid}"
            vehicle = replace(vehicle, hwid=hwid, device_public_key=device_public_key)
            act.work.vehicles.save(vehicle)
            act.work.device.delete_sessions(vin)
        return vehicle

    def set_equipment(
        self, vin: str, equipment: EquipmentData, *, now: datetime, by: Account | None = None, address: str = ""
    ) -> Vehicle:
        """Change what people know a vehicle by; all of it is replaced. *by* as in `register`.

        Raises:
            NotFoundError: there is no such vehicle.
            InvalidInputError: a value can't be used.
        """
        who = "platform" if by is None else by.name
        subject = f"vehicle {vin[:32]}"
        with acting(
            self._context, who=who, action="vehicle.equipment", subject=subject, now=now, address=address
        ) as act:
            if by is not None:
                require(by, Permission.VEHICLE_REGISTER)
            check_equipment(equipment)
            vehicle = act.work.vehicles.get(vin, lock=True) if by is None else vehicle_for(act.work, vin, by, lock=True)
            if vehicle is None:
                raise NotFoundError("no-such-vehicle", f"no vehicle {vin[:32]}")
            changes = {name: value for name, value in asdict(equipment).items() if value != getattr(vehicle, name)}
            act.detail = "; ".join(
                f"{name.replace('_', ' ')}: {getattr(vehicle, name) or 'none'} -> {value or 'none'}"
                for name, value in changes.items()
            )
            vehicle = replace(vehicle, **changes)
            act.work.vehicles.save(vehicle)
        return vehicle

    # -- for people ----------------------------------------------------------------------------------------------------

    def rows(
        self,
        request: PageRequest,
        *,
        by: Account,
        project: str = "",
        text: str = "",
        series: str = "",
        is_online: bool | None = None,
    ) -> Page[VehicleRow]:
        """The vehicle list: one row a vehicle, by VIN. What the filters mean: `VehicleFilter`."""
        asked = VehicleFilter(project=project, series=series, text=text, is_online=is_online)
        return self.listing(request, asked, by=by).page

    def listing(self, request: PageRequest, asked: VehicleFilter, *, by: Account) -> VehicleListing:
        """A page of the list, with how many are online and offline. The filters are the database's, for any number of vehicles."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            page, count = work.vehicles.page(request, asked, self._context.presence.lease_check, by.scope)
            vins = [vehicle.vin for vehicle, _ in page.items]
            nodes = work.vehicles.nodes(vins)
        newest = self._context.telemetry.newest(vins)
        rows = tuple(
            VehicleRow.of(
                vehicle,
                connection,
                snapshot_of(VehicleSnapshot(vin=vehicle.vin), newest.get(vehicle.vin), has_values=False),
                nodes[vehicle.vin],
            )
            for vehicle, connection in page.items
        )
        return VehicleListing(page=Page(items=rows, total=page.total, number=page.number, size=page.size), count=count)

    def projects(self, *, by: Account) -> tuple[str, ...]:
        """The names of all projects of the vehicles that *by* sees, sorted."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            return work.vehicles.projects(by.scope)

    def cities(self, *, by: Account) -> tuple[str, ...]:
        """The cities of all vehicles that *by* sees, sorted."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            return work.vehicles.cities(by.scope)

    def customers(self, *, by: Account) -> tuple[str, ...]:
        """The customers of all vehicles that *by* sees, sorted."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            return work.vehicles.customers(by.scope)

    def series(self, *, by: Account) -> tuple[str, ...]:
        """The series of all vehicles that *by* sees, sorted."""
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            return work.vehicles.series(by.scope)

    def detail(self, vin: str, *, by: Account) -> VehicleDetail:
        """One vehicle with its nodes, newest values (cells included) and newest equipment changes.

        Raises:
            NotFoundError: there is no such vehicle.
        """
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            vehicle = vehicle_for(work, vin, by)
            nodes = work.vehicles.nodes([vin])[vin]
            reported = {node.position: node for node in work.vehicles.reported_nodes([vin])[vin]}
            changes = work.equipment.page(PageRequest(1, 20), by.scope, vin=vin).items
            notes = self._watch.notes(work, vin)
            connections = work.presence.connections([vin], self._context.presence.lease_check)
        presence = with_connection(VehicleSnapshot(vin=vin), connections.get(vin, VehicleConnection()))
        row = self._context.telemetry.newest([vin]).get(vin)
        state = snapshot_of(presence, row, self._context.settings.layouts)
        return VehicleDetail(
            vehicle=vehicle,
            state=state,
            nodes=nodes,
            changes=changes,
            reported=_differences(nodes, reported),
            link_notes=notes,
        )


def _taken(other: Vehicle, by: Account | None) -> ConflictError:
    """The HWID is that of another vehicle, which is named only to who sees it."""
    is_seen = by is None or by.scope.has_vehicle(project=other.project, customer=other.customer)
    where = f", in {other.vin}" if is_seen else ""
    return ConflictError("already-registered", f"HWID {other.hwid} is already registered{where}")


def _differences(nodes: Sequence[VehicleNode], reported: Mapping[int, VehicleNode]) -> dict[int, VehicleNode]:
    """What the identity frame says otherwise than a confirmed node, if it came later; and nodes that only it names."""
    known = {node.position: node for node in nodes}
    found: dict[int, VehicleNode] = {}
    for position, told in sorted(reported.items()):
        node = known.get(position)
        if node is None or node.confirmed_at is None:
            continue
        if told.updated_at >= node.confirmed_at and node.differs_from(told):
            found[position] = told
    return found


def check_registration(*, vin: str, series: str, project: str, hwid: str, device_public_key: bytes | None) -> None:
    """Whether a vehicle can be registered so; the platform is not asked.

    Raises:
        InvalidInputError: a value can't be used.
    """
    _check("VIN", _VIN, vin, "17 capitals or digits")
    if hwid or device_public_key is not None:
        _check("HWID", _HWID, hwid, "1 to 24 printable ASCII characters")
    _check("series", _WORD, series, "1 to 32 letters, digits, space . + - _", length_max=32)
    _check("project", _WORD, project, "1 to 64 letters, digits, space . + - _")
    if device_public_key is not None:
        _check_key(device_public_key)


def check_equipment(equipment: EquipmentData) -> None:
    """Whether a vehicle can be known by this.

    Raises:
        InvalidInputError: a value can't be used.
    """
    for each in fields(equipment):
        value = getattr(equipment, each.name)
        if len(value) > _EQUIPMENT_LENGTH_MAX or not value.isprintable() or value != value.strip():
            what = each.name.replace("_", " ")
            raise InvalidInputError(
                f"bad-{what.replace(' ', '-')}",
                f"{what}: expected up to {_EQUIPMENT_LENGTH_MAX} printable characters, got {value[:80]!r}",
            )


def _check_key(device_public_key: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(device_public_key)
    except ValueError as error:
        raise InvalidInputError(
            "bad-key", f"device public key: expected 32 bytes of Ed25519, got {len(device_public_key)} bytes: {error}"
        ) from error


def is_vin(text: str) -> bool:
    """Whether a vehicle can be registered under *text*."""
    return _VIN.fullmatch(text) is not None


def _check(what: str, pattern: re.Pattern[str], value: str, expected: str, *, length_max: int = 64) -> None:
    if len(value) > length_max or not pattern.fullmatch(value):
        raise InvalidInputError(f"bad-{what.lower()}", f"{what}: expected {expected}, got {value[:80]!r}")
