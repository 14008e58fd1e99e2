"""REST: the vehicle list, one vehicle, registration."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

import base64
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from pydantic import Field

from bmsota_cloud.api.common import Address, ApiIn, ApiOut, By, PageOut, Paging, needs
from bmsota_cloud.api.equipment import EquipmentChangeOut
from bmsota_cloud.api.telemetry import VehicleSnapshotOut
from bmsota_cloud.clock import Clock
from bmsota_cloud.domain.accounts import Account, Permission
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.vehicles import EquipmentData, VehicleFilter
from bmsota_cloud.vehicle_file import VEHICLES_MAX, parse_vehicles

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_vehicle_routes"]


class EquipmentIn(ApiIn):
    """What people know a vehicle by; what is left out becomes empty."""

    battery_number: str = ""
    frame_number: str = ""
    model: str = ""
    plate: str = ""
    city: str = ""

    def data(self) -> EquipmentData:
        return EquipmentData(
            battery_number=self.battery_number.strip(),
            frame_number=self.frame_number.strip(),
            model=self.model.strip(),
            plate=self.plate.strip(),
            city=self.city.strip(),
        )


class VehicleIn(EquipmentIn):
    vin: str
    series: str
    project: str
    hwid: str = ""
    device_public_key: str | None = Field(
        default=None,
        description="Ed25519, 32 raw bytes in base64; without it, the vehicle is monitored and never upgraded over the air",
    )


class VehicleImportOut(ApiOut):
    registered: int
    present: int = Field(description="were registered already, with the same values")
    changed: int = Field(description="were registered already, with other equipment data, which was replaced")


class UnitIn(ApiIn):
    hwid: str = Field(description="of the master")
    device_public_key: str = Field(description="Ed25519, 32 raw bytes in base64")


class VehicleCustomerIn(ApiIn):
    customer: str = Field(max_length=64, description='"": to none')


class VehicleRowOut(ApiOut):
    vin: str
    hwid: str
    series: str
    project: str
    customer: str
    battery_number: str
    frame_number: str
    model: str
    plate: str
    city: str
    is_upgradable: bool
    is_online: bool
    last_seen_at: datetime | None
    soc_pct: float | None
    master_version: str
    slave_versions: list[str]
    slave_count: int


class VehicleListOut(PageOut[VehicleRowOut]):
    online: int = Field(description="of the vehicles that pass the other filters, how many are connected")
    offline: int


class NodeOut(ApiOut):
    position: int
    kind: str
    hwid: str
    hardware_class: str
    version: str
    security_counter: int
    serial: str
    state: str
    updated_at: datetime
    confirmed_at: datetime | None
    image_sha256: str = Field(description="of the running image; empty if no signed document has said it")
    slot_size_kib: int = Field(description="0: not known")


class LinkNoteOut(ApiOut):
    kind: str
    words: str
    count: int
    first_at: datetime
    last_at: datetime


class VehicleOut(ApiOut):
    vin: str
    hwid: str
    series: str
    project: str
    customer: str
    battery_number: str
    frame_number: str
    model: str
    plate: str
    city: str
    is_upgradable: bool = Field(description="false: a plain GB/T 32960 terminal, monitored only")
    registered_at: datetime
    identified_at: datetime | None
    confirmed_at: datetime | None
    mixed_pack: str = Field(
        description="how the nodes run images that do not belong together, by the unit's newest signed document; empty if they do"
    )
    state: VehicleSnapshotOut
    nodes: list[NodeOut]
    reported_nodes: list[NodeOut]
    """What the unit reports without a signature, where it differs from a confirmed node."""
    link_notes: list[LinkNoteOut]
    equipment_changes: list[EquipmentChangeOut]


def _key(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidInputError("bad-key", f"device_public_key: not base64: {error}") from error


def add_vehicle_routes(router: APIRouter, services: "Services", clock: Clock) -> None:
    """Add the routes."""

    @router.get("/vehicles", response_model=VehicleListOut)
    def vehicles(
        by: By,
        paging: Paging,
        project: str = "",
        text: str = "",
        series: str = "",
        online: Annotated[
            bool | None, Query(description="only vehicles that are connected, or only those that are not")
        ] = None,
    ) -> Any:
        asked = VehicleFilter(project=project, series=series, text=text, is_online=online)
        listing = services.vehicles.listing(paging, asked, by=by)
        page = listing.page
        return {
            **{name: getattr(page, name) for name in ("items", "total", "number", "size")},
            "online": listing.count.online,
            "offline": listing.count.offline,
        }

    @router.post("/vehicles", response_model=VehicleOut, status_code=201)
    def register(body: VehicleIn, by: By) -> Any:
        key = None if body.device_public_key is None else _key(body.device_public_key)
        services.vehicles.register(
            vin=body.vin,
            series=body.series,
            project=body.project,
            hwid=body.hwid,
            device_public_key=key,
            equipment=body.data(),
            now=clock(),
            by=by,
        )
        return _vehicle(body.vin, by)

    @router.post("/vehicles/import", response_model=VehicleImportOut)
    @needs(Permission.VEHICLE_REGISTER)
    def register_many(
        by: By,
        address: Address,
        file: Annotated[
            UploadFile,
            File(
                description="CSV: vin, series, project, and if there are any hwid, device_public_key, battery_number, frame_number, model, plate, city"
            ),
        ],
        project: Annotated[str, Form(description="of vehicles that have none in the file")] = "",
    ) -> Any:
        entries = parse_vehicles(
            file.file.read(),
            name=(file.filename or "file")[:64],
            project=project,
            project_hint="name the project of all in the field project",
            count_max=VEHICLES_MAX,
        )
        return services.vehicle_import.run(entries, by=by, now=clock(), address=address)

    @router.put("/vehicles/{vin}/unit", response_model=VehicleOut)
    def replace_unit(vin: str, body: UnitIn, by: By) -> Any:
        services.vehicles.replace_unit(
            vin=vin, hwid=body.hwid, device_public_key=_key(body.device_public_key), now=clock(), by=by
        )
        return _vehicle(vin, by)

    @router.put("/vehicles/{vin}/customer", response_model=VehicleOut)
    def set_customer(vin: str, body: VehicleCustomerIn, by: By, address: Address) -> Any:
        services.customers.set_customer(vin, body.customer, by=by, now=clock(), address=address)
        return _vehicle(vin, by)

    @router.put("/vehicles/{vin}/equipment", response_model=VehicleOut)
    def set_equipment(vin: str, body: EquipmentIn, by: By, address: Address) -> Any:
        services.vehicles.set_equipment(vin, body.data(), now=clock(), by=by, address=address)
        return _vehicle(vin, by)

    @router.get("/vehicles/{vin}", response_model=VehicleOut)
    def vehicle(vin: str, by: By) -> Any:
        return _vehicle(vin, by)

    def _vehicle(vin: str, by: Account) -> dict[str, Any]:
        detail = services.vehicles.detail(vin, by=by)
        return {
            **{
                name: getattr(detail.vehicle, name)
                for name in ("vin", "hwid", "series", "project", "customer", "is_upgradable")
            },
            **{each.name: getattr(detail.vehicle, each.name) for each in fields(EquipmentData)},
            "registered_at": detail.vehicle.registered_at,
            "identified_at": detail.vehicle.identified_at,
            "mixed_pack": detail.vehicle.mixed_pack,
            "confirmed_at": detail.vehicle.confirmed_at,
            "state": detail.state,
            "nodes": detail.nodes,
            "reported_nodes": list(detail.reported.values()),
            "link_notes": detail.link_notes,
            "equipment_changes": detail.changes,
        }
