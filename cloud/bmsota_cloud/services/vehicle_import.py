"""Many vehicles registered at once: all of them are looked at before the first is registered."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import CloudError, InvalidInputError
from bmsota_cloud.domain.vehicles import EquipmentData
from bmsota_cloud.services.audit import refusals_audited
from bmsota_cloud.services.scoped import check_project
from bmsota_cloud.services.vehicles import check_equipment, check_registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.vehicles import Vehicle
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.vehicles import VehicleService
    from bmsota_cloud.storage.base import Work

__all__ = ["ImportResult", "VehicleEntry", "VehicleImport"]

_FAULTS_SHOWN: Final = 20
# One view of the database is not held for longer than so many look-ups take.
_LOOKED_UP: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleEntry:
    """A vehicle to be registered; the values are those of `VehicleService.register`."""

    place: str
    """Where it stands, for messages: "fleet.csv:7"."""
    vin: str
    series: str
    project: str
    hwid: str = ""
    device_public_key: bytes | None = None
    equipment: EquipmentData = field(default_factory=EquipmentData)
    """Of a vehicle that is registered already, what is empty stays as it is."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of the entries."""

    registered: int
    present: int
    """Were registered already, and stay as they are."""
    changed: int = 0
    """Were registered already, with other equipment data, which was replaced."""


class VehicleImport:
    """Registers many vehicles."""

    def __init__(self, context: Context, vehicles: VehicleService) -> None:
        self._context = context
        self._vehicles = vehicles

    def run(
        self,
        entries: Sequence[VehicleEntry],
        *,
        now: datetime,
        by: Account | None = None,
        address: str = "",
        progress: Callable[[int], None] = lambda _done: None,
    ) -> ImportResult:
        """Register those that are not registered yet.

        One that is there with the same values is left as it is, so that an import that was interrupted can be made again. Of one that is
        there with other equipment data (plate, city ...), what the entry says replaces it.

        Args:
            entries: what to register.
            now: when.
            by: who; None: the command line.
            address: where the request comes from.
            progress: told, now and then, how many are done.

        Raises:
            InvalidInputError: an entry cannot be registered; nothing was. The message has a line for each of the first 20.
            CloudError: what `VehicleService.register` raises, because somebody else has registered one of them meanwhile.
        """
        who = "platform" if by is None else by.name
        with refusals_audited(
            self._context, who=who, action="vehicle.import", subject="vehicles", now=now, address=address
        ):
            fresh, changes = self._fresh(entries, by)
        for done, entry in enumerate(fresh, 1):
            self._vehicles.register(
                vin=entry.vin,
                series=entry.series,
                project=entry.project,
                hwid=entry.hwid,
                device_public_key=entry.device_public_key,
                equipment=entry.equipment,
                now=now,
                by=by,
            )
            progress(len(entries) - len(fresh) - len(changes) + done)
        for done, (vin, equipment) in enumerate(changes, 1):
            self._vehicles.set_equipment(vin, equipment, now=now, by=by, address=address)
            progress(len(entries) - len(changes) + done)
        return ImportResult(
            registered=len(fresh), present=len(entries) - len(fresh) - len(changes), changed=len(changes)
        )

    def _fresh(
        self, entries: Sequence[VehicleEntry], by: Account | None
    ) -> tuple[list[VehicleEntry], list[tuple[str, EquipmentData]]]:
        """Those that are not registered yet, and the equipment data of those that are with other ones; if all can be."""
        if by is not None:
            require(by, Permission.VEHICLE_REGISTER)
        faults: list[str] = []
        fresh: list[VehicleEntry] = []
        changes: list[tuple[str, EquipmentData]] = []
        self._within(entries, by, faults)
        for start in range(0, len(entries), _LOOKED_UP):
            with self._context.store.reading() as work:
                for entry in entries[start : start + _LOOKED_UP]:
                    known = work.vehicles.get(entry.vin)
                    if known is None:
                        fresh.append(entry)
                    elif (equipment := _merged(known, entry.equipment)) is not None:
                        changes.append((entry.vin, equipment))
                    faults += _against(work, entry, known, by)
        if faults:
            more = [f"and {len(faults) - _FAULTS_SHOWN:,} more"] if len(faults) > _FAULTS_SHOWN else []
            raise InvalidInputError("bad-import", "\n".join([*faults[:_FAULTS_SHOWN], *more, "nothing was registered"]))
        return fresh, changes

    @staticmethod
    def _within(entries: Sequence[VehicleEntry], by: Account | None, faults: list[str]) -> None:
        """Of each entry by itself, and between them."""
        vins: dict[str, str] = {}
        hwids: dict[str, str] = {}
        for entry in entries:
            try:
                check_registration(
                    vin=entry.vin,
                    series=entry.series,
                    project=entry.project,
                    hwid=entry.hwid,
                    device_public_key=entry.device_public_key,
                )
                check_equipment(entry.equipment)
                if by is not None:
                    check_project(entry.project, by)
            except CloudError as error:
                faults.append(f"{entry.place}: {error}")
                continue
            if (other := vins.setdefault(entry.vin, entry.place)) != entry.place:
                faults.append(f"{entry.place}: VIN {entry.vin} stands at {other} too")
            if entry.hwid and (other := hwids.setdefault(entry.hwid, entry.place)) != entry.place:
                faults.append(f"{entry.place}: HWID {entry.hwid} stands at {other} too")


def _against(work: Work, entry: VehicleEntry, known: Vehicle | None, by: Account | None) -> Iterator[str]:
    """What the platform has instead; of a vehicle that *by* does not see, no more than that it is there."""
    if known is not None:
        if not _is_seen(known, by):
            yield f"{entry.place}: VIN {entry.vin} is registered already"
            return
        for what in ("series", "project", "hwid", "device_public_key"):
            if getattr(known, what) != getattr(entry, what):
                words = {"hwid": "HWID", "device_public_key": "device key"}.get(what, what)
                got = "" if what == "device_public_key" else f": {getattr(known, what) or 'none'}"
                yield f"{entry.place}: VIN {entry.vin} is registered already, with another {words}{got}"
                return
    elif entry.hwid and (other := work.vehicles.by_hwid(entry.hwid)) is not None:
        where = f", in {other.vin}" if _is_seen(other, by) else ""
        yield f"{entry.place}: HWID {entry.hwid} is registered already{where}"


def _merged(known: Vehicle, said: EquipmentData) -> EquipmentData | None:
    """What the vehicle is known by afterwards; None if nothing changes."""
    names = [each.name for each in fields(EquipmentData)]
    before = {name: getattr(known, name) for name in names}
    after = {name: getattr(said, name) or before[name] for name in names}
    return None if after == before else EquipmentData(**after)


def _is_seen(vehicle: Vehicle, by: Account | None) -> bool:
    return by is None or by.scope.has_vehicle(project=vehicle.project, customer=vehicle.customer)
