"""What the services ask of a store. Services see these Protocols only.

A `Store` hands out transactions; everything a use case writes stands in one of them or not at all. Inside, the tables
are grouped by what they are about. A `TelemetryStore` is a thing of its own: newest states and reports may live in
another file or another database, and no transaction spans both (web.md section 4).

Objects go in and come out as the frozen dataclasses of `bmsota_cloud.domain`. `add` of something that must be unique raises
ConflictError; `get` of something that is not there returns None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account, LoginSession
    from bmsota_cloud.domain.audit import AuditEntry
    from bmsota_cloud.domain.device import Challenge, DeviceSession
    from bmsota_cloud.domain.equipment import EquipmentChange
    from bmsota_cloud.domain.histories import HistoryEntry, LocalUpgradeRow
    from bmsota_cloud.domain.ota_tasks import ApprovalCode, OtaTask, Transition, VehicleUpgrade
    from bmsota_cloud.domain.outbox import Mail
    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.domain.refusals import Refusal, RefusalCause, RefusalRow
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.telemetry import ReportRow, VehicleSnapshot
    from bmsota_cloud.domain.vehicles import Vehicle, VehicleNode

__all__ = [
    "AccountTables",
    "AuditTable",
    "DeviceTables",
    "EquipmentTables",
    "HistoryTables",
    "OtaTaskTables",
    "OutboxTable",
    "RefusalTables",
    "ReleaseTables",
    "Store",
    "TelemetryStore",
    "VehicleTables",
    "Work",
]


class AccountTables(Protocol):
    """Accounts and their login sessions."""

    def add(self, account: Account) -> None: ...
    def get(self, name: str) -> Account | None: ...
    def save(self, account: Account) -> None: ...
    def page(self, request: PageRequest) -> Page[Account]: ...
    def add_session(self, session: LoginSession) -> None: ...
    def session(self, token_sha256: bytes) -> LoginSession | None: ...
    def save_session(self, session: LoginSession) -> None: ...
    def delete_session(self, token_sha256: bytes) -> None: ...
    def delete_sessions_of(self, account_name: str) -> None: ...
    def delete_sessions_before(self, expired: datetime) -> None: ...


class VehicleTables(Protocol):
    """Vehicles and their nodes."""

    def add(self, vehicle: Vehicle) -> None: ...
    def get(self, vin: str, *, lock: bool = False) -> Vehicle | None:
        """With *lock* no other transaction may change it until this one ends."""
        ...

    def by_hwid(self, hwid: str) -> Vehicle | None: ...
    def save(self, vehicle: Vehicle) -> None: ...
    def page(self, request: PageRequest, *, project: str = "", text: str = "") -> Page[Vehicle]:
        """Ordered by VIN; *text* is looked for in VIN, HWID and series."""
        ...

    def projects(self) -> tuple[str, ...]: ...
    def nodes(self, vins: Sequence[str]) -> Mapping[str, tuple[VehicleNode, ...]]:
        """By VIN, each ordered by position."""
        ...

    def save_node(self, node: VehicleNode) -> None: ...


class EquipmentTables(Protocol):
    """What was exchanged."""

    def add(self, change: EquipmentChange) -> None: ...
    def page(self, request: PageRequest, *, vin: str = "") -> Page[EquipmentChange]:
        """Newest first; of all vehicles if *vin* is empty."""
        ...


class ReleaseTables(Protocol):
    """Releases, their signed manifests, and image files by digest."""

    def add(self, release: Release, manifest: bytes, images: Mapping[str, bytes]) -> Release: ...
    def get(self, release_id: int) -> Release | None: ...
    def find(self, *, series: str, software_version: str) -> Release | None: ...
    def by_manifest(self, manifest_sha256: str) -> Release | None: ...
    def page(self, request: PageRequest) -> Page[Release]: ...
    def manifest(self, manifest_sha256: str) -> bytes | None: ...
    def image(self, sha256: str) -> bytes | None: ...


class OtaTaskTables(Protocol):
    """OTA tasks, the upgrades of their vehicles, transitions, approval codes."""

    def add(self, task: OtaTask) -> OtaTask: ...
    def get(self, task_id: int, *, lock: bool = False) -> OtaTask | None: ...
    def save(self, task: OtaTask) -> None: ...
    def page(self, request: PageRequest, *, project: str = "") -> Page[OtaTask]:
        """Newest first."""
        ...

    def counts(self, task_ids: Sequence[int]) -> Mapping[int, Mapping[str, int]]:
        """For each task, how many vehicles have each status (by its own words)."""
        ...

    def add_upgrade(self, upgrade: VehicleUpgrade) -> None: ...
    def delete_upgrades(self, task_id: int) -> None:
        """With their transitions; only for tasks that were never approved."""
        ...

    def upgrade(self, task_id: int, place: int, *, lock: bool = False) -> VehicleUpgrade | None: ...
    def upgrades(self, task_id: int) -> tuple[VehicleUpgrade, ...]: ...
    def upgrades_page(self, task_id: int, request: PageRequest) -> Page[VehicleUpgrade]: ...
    def open_upgrade(self, vin: str) -> VehicleUpgrade | None:
        """The one upgrade of this vehicle that has not ended; None if there is none."""
        ...

    def silent_upgrades(self, now: datetime, limit: int) -> tuple[VehicleUpgrade, ...]:
        """Approved, not ended, and not heard of for longer than its task allows."""
        ...

    def save_upgrade(self, upgrade: VehicleUpgrade) -> None: ...
    def add_transition(self, transition: Transition) -> None: ...
    def transitions(self, task_id: int, vins: Sequence[str]) -> Mapping[str, tuple[Transition, ...]]: ...
    def code(self, task_id: int) -> ApprovalCode | None: ...
    def save_code(self, code: ApprovalCode) -> None: ...


class HistoryTables(Protocol):
    """Local upgrades, and the history that they and the tasks make together."""

    def add(self, upgrade: LocalUpgradeRow) -> bool:
        """Keep what is new; False if it is there already: all but `reported_at`, tool and detail are the same."""
        ...

    def page(self, vin: str, request: PageRequest) -> Page[HistoryEntry]:
        """Of one vehicle, newest first."""
        ...


class DeviceTables(Protocol):
    """Challenges and sessions of units."""

    def add_challenge(self, challenge: Challenge, *, keep: int) -> None:
        """Add it, and delete all but the newest *keep* of the same HWID."""
        ...

    def take_challenge(self, hwid: str, challenge: bytes) -> Challenge | None:
        """Return and delete it: a challenge works once."""
        ...

    def add_session(self, session: DeviceSession) -> None: ...
    def session(self, token_sha256: bytes) -> DeviceSession | None: ...
    def delete_before(self, expired: datetime) -> None:
        """Challenges and sessions that are over."""
        ...


class OutboxTable(Protocol):
    """The outbox."""

    def add(self, mail: Mail) -> Mail: ...
    def save(self, mail: Mail) -> None: ...
    def due(self, now: datetime, limit: int) -> tuple[Mail, ...]: ...
    def of_task(self, task_id: int) -> tuple[Mail, ...]:
        """Newest first."""
        ...


class AuditTable(Protocol):
    """The audit log; there is no way to change or delete a line."""

    def add(self, entry: AuditEntry) -> None: ...
    def page(self, request: PageRequest, *, subject: str = "") -> Page[AuditEntry]:
        """Newest first."""
        ...


class RefusalTables(Protocol):
    """What the gateway refused."""

    def add(self, records: Sequence[Refusal], counts: Mapping[RefusalCause, int]) -> None:
        """Add to the records of the same address, VIN and cause, or make new ones; *counts* go to the totals."""
        ...

    def trim(self, addresses: Sequence[str], *, keep: int, keep_of_address: int) -> None:
        """Delete all but the newest *keep_of_address* of each of *addresses*, then all but the newest *keep*."""
        ...

    def page(
        self, request: PageRequest, *, text: str, cause: RefusalCause | None, is_registered: bool | None
    ) -> Page[RefusalRow]:
        """Newest first."""
        ...

    def of_vehicle(self, vin: str, limit: int) -> tuple[Refusal, ...]:
        """Newest first."""
        ...

    def totals(self) -> Mapping[RefusalCause, int]: ...


class Work(Protocol):
    """One transaction."""

    @property
    def accounts(self) -> AccountTables: ...
    @property
    def vehicles(self) -> VehicleTables: ...
    @property
    def equipment(self) -> EquipmentTables: ...
    @property
    def releases(self) -> ReleaseTables: ...
    @property
    def ota_tasks(self) -> OtaTaskTables: ...
    @property
    def histories(self) -> HistoryTables: ...
    @property
    def device(self) -> DeviceTables: ...
    @property
    def outbox(self) -> OutboxTable: ...
    @property
    def audit(self) -> AuditTable: ...
    @property
    def refusals(self) -> RefusalTables: ...
    def secret(self, name: str) -> bytes | None:
        """A secret of the platform itself, as the key of the approval codes."""
        ...

    def save_secret(self, name: str, value: bytes) -> None: ...


class Store(Protocol):
    """Everything but telemetry."""

    def transaction(self) -> AbstractContextManager[Work]:
        """Read and write; committed at the end of the block, rolled back if it raises. Not to be nested."""
        ...

    def reading(self) -> AbstractContextManager[Work]:
        """One consistent view; writing in it is a bug."""
        ...

    def close(self) -> None: ...


class TelemetryStore(Protocol):
    """Newest states and hot reports."""

    def save_state(self, state: VehicleSnapshot) -> None:
        """Insert or replace."""
        ...

    def state(self, vin: str) -> VehicleSnapshot | None: ...
    def states(self, vins: Sequence[str]) -> Mapping[str, VehicleSnapshot]: ...
    def online_vins(self) -> tuple[str, ...]: ...
    def append(self, rows: Iterable[ReportRow]) -> int:
        """Keep what is new by (vehicle, time) and return how many were; a report sent twice costs nothing."""
        ...

    def reports(
        self, vin: str, request: PageRequest, *, since: datetime | None = None, until: datetime | None = None
    ) -> Page[ReportRow]:
        """By collection time, newest first; *since* is included, *until* is not."""
        ...

    def prune(self, before: datetime) -> int:
        """Delete reports collected earlier; how many there were."""
        ...

    def close(self) -> None: ...
