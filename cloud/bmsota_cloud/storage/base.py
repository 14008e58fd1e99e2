"""What the services ask of a store. Services see these Protocols only.

A `Store` hands out transactions; everything a use case writes stands in one of them or not at all. Inside, the tables
are grouped by what they are about. A `TelemetryStore` is a thing of its own: newest states and reports may live in
another file or another database, and no transaction spans both.

Objects go in and come out as the frozen dataclasses of `bmsota_cloud.domain`. `add` of something that must be unique raises
ConflictError; `get` of something that is not there returns None.
What is read for an account takes its `Scope` and leaves out what lies outside; `visible` is `get` for an account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account, LoginSession, Role, Scope
    from bmsota_cloud.domain.audit import AuditEntry
    from bmsota_cloud.domain.customers import Customer
    from bmsota_cloud.domain.device import DeviceSession
    from bmsota_cloud.domain.equipment import EquipmentChange
    from bmsota_cloud.domain.exports import ExportJob
    from bmsota_cloud.domain.histories import HistoryEntry, LocalUpgradeRow
    from bmsota_cloud.domain.limits import Level
    from bmsota_cloud.domain.ota_tasks import (
        ApprovalCode,
        NodeVersion,
        OrderReport,
        OtaTask,
        TaskAct,
        Transition,
        VehicleStatus,
        VehicleUpgrade,
    )
    from bmsota_cloud.domain.outbox import Mail
    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.domain.presence import GatewayLease, LeaseCheck, Presence, VehicleConnection
    from bmsota_cloud.domain.projects import Project
    from bmsota_cloud.domain.refusals import Refusal, RefusalCause, RefusalRow
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.telemetry import (
        Compacted,
        FleetMark,
        FramePage,
        HotPartition,
        Mark,
        StateRow,
        StoredFrame,
        Unread,
        VehicleEvent,
    )
    from bmsota_cloud.domain.tokens import ApiToken
    from bmsota_cloud.domain.vehicle_history import FaultFilter, FaultPeriod
    from bmsota_cloud.domain.vehicles import FleetCount, LastLogin, Vehicle, VehicleFilter, VehicleNode

__all__ = [
    "AccountTables",
    "AuditTable",
    "CustomerTable",
    "DeviceTables",
    "EquipmentTables",
    "ExportTables",
    "FigureTables",
    "HistoryTables",
    "LimitTable",
    "OtaTaskTables",
    "OutboxTable",
    "PresenceTables",
    "ProjectTable",
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
    def lock(self, name: str) -> Account | None:
        """As `get`; no other transaction may change it until this one ends."""
        ...

    def save(self, account: Account) -> None: ...
    def page(self, request: PageRequest, *, text: str = "", role: Role | None = None) -> Page[Account]:
        """By name; *text*: a part of name or mail address."""
        ...

    def last_logins(self, names: Sequence[str]) -> Mapping[str, datetime]:
        """When each of *names* has logged in last; without those of whom that is not known."""
        ...

    def add_session(self, session: LoginSession) -> None: ...
    def session(self, token_sha256: bytes) -> LoginSession | None: ...
    def save_session(self, session: LoginSession) -> None: ...
    def delete_session(self, token_sha256: bytes) -> None: ...
    def delete_sessions_of(self, account_name: str) -> None: ...
    def sessions_of(self, account_name: str) -> tuple[LoginSession, ...]:
        """Those seen last come first."""
        ...

    def delete_sessions_before(self, expired: datetime) -> None: ...
    def add_token(self, token: ApiToken) -> None: ...
    def token(self, token_sha256: bytes) -> ApiToken | None: ...
    def save_token(self, token: ApiToken) -> None: ...
    def delete_token(self, token_sha256: bytes) -> None: ...
    def delete_tokens_of(self, account_name: str) -> None: ...
    def tokens_of(self, account_name: str) -> tuple[ApiToken, ...]:
        """The newest first."""
        ...

    def knows_address(self, account_name: str, address_digest: bytes) -> bool:
        """Whether the account has logged in from there."""
        ...

    def save_address(self, account_name: str, address_digest: bytes, last_at: datetime, *, keep: int) -> None:
        """Note a login, and forget all but the newest *keep* addresses of the account."""
        ...


class CustomerTable(Protocol):
    """Customers."""

    def add(self, customer: Customer) -> None: ...
    def get(self, name: str) -> Customer | None: ...
    def page(self, request: PageRequest) -> Page[Customer]:
        """By name."""
        ...


class VehicleTables(Protocol):
    """Vehicles and their nodes."""

    def add(self, vehicle: Vehicle) -> None: ...
    def get(self, vin: str, *, lock: bool = False) -> Vehicle | None:
        """With *lock* no other transaction may change it until this one ends."""
        ...

    def many(self, vins: Sequence[str], *, lock: bool = False) -> Mapping[str, Vehicle]:
        """Those of *vins* that there are; locked in one order, so that two who lock several don't wait for each other."""
        ...

    def visible(self, vin: str, scope: Scope, *, lock: bool = False) -> Vehicle | None: ...
    def visible_many(self, vins: Sequence[str], scope: Scope) -> Mapping[str, Vehicle]: ...
    def vins_after(self, vin: str, limit: int) -> tuple[str, ...]:
        """The next VINs behind *vin*, in their order."""
        ...

    def by_hwid(self, hwid: str) -> Vehicle | None: ...
    def save(self, vehicle: Vehicle) -> None: ...
    def page(
        self, request: PageRequest, asked: VehicleFilter, lease_check: LeaseCheck, scope: Scope
    ) -> tuple[Page[tuple[Vehicle, VehicleConnection]], FleetCount]:
        """Ordered by VIN; and how many pass the filter, leaving aside what it says about the connection."""
        ...

    def fleet(self, asked: VehicleFilter, scope: Scope, column: str = "hwid") -> Sequence[tuple[str, str]]:
        """VIN and one more text of all that pass the filter, leaving aside what it says about the connection; by VIN."""
        ...

    def matching(self, asked: VehicleFilter, lease_check: LeaseCheck, scope: Scope, limit: int) -> tuple[str, ...]:
        """The first *limit* VINs that `page` would list, sorted."""
        ...

    def running(self, scope: Scope, *, project: str = "") -> tuple[tuple[str, str, str, int], ...]:
        """Series, version of the master, digest of its image ("" if not known), and how many vehicles; the most first in a series."""
        ...

    def projects(self, scope: Scope) -> tuple[str, ...]: ...
    def series(self, scope: Scope) -> tuple[str, ...]: ...
    def cities(self, scope: Scope) -> tuple[str, ...]: ...
    def customers(self, scope: Scope) -> tuple[str, ...]: ...
    def save_sequences(self, sequences: Mapping[str, int]) -> None:
        """The sequence of the newest order, by VIN."""
        ...

    def counts_by_project(self, scope: Scope) -> Mapping[str, int]: ...
    def counts_by_customer(self) -> Mapping[str, int]:
        """How many vehicles belong to each customer that has any."""
        ...

    def remove(self, vin: str) -> None:
        """With its nodes, links, sessions, equipment changes and local upgrades. It must be in no task."""
        ...

    def assign(self, vins: Sequence[str], customer: str) -> int:
        """Give these vehicles to a customer ("": to none); how many there are."""
        ...

    def nodes(self, vins: Sequence[str]) -> Mapping[str, tuple[VehicleNode, ...]]:
        """By VIN, each ordered by position."""
        ...

    def save_node(self, node: VehicleNode) -> None: ...
    def delete_node(self, vin: str, position: int) -> None: ...
    def reported_nodes(self, vins: Sequence[str]) -> Mapping[str, tuple[VehicleNode, ...]]:
        """What the newest identity frame said, which is not signed; as `nodes`."""
        ...

    def save_reported_node(self, node: VehicleNode) -> None: ...
    def last_login(self, vin: str) -> LastLogin | None: ...
    def save_last_login(self, login: LastLogin) -> None: ...


class PresenceTables(Protocol):
    """Gateways' leases and vehicles' links."""

    def renew(self, lease: GatewayLease) -> None:
        """Insert or replace."""
        ...

    def save(self, opened: Sequence[Presence], closed: Sequence[Presence]) -> None:
        """*opened* replace what is known of their vehicles; of *closed* only those that are still their vehicle's newest link."""
        ...

    def close_all(self, gateway_id: str, at: datetime) -> None:
        """Every open link of this gateway has ended."""
        ...

    def open_links(self, gateway_id: str) -> Mapping[str, int]:
        """The link ids of this gateway by VIN."""
        ...

    def connections(self, vins: Sequence[str], lease_check: LeaseCheck) -> Mapping[str, VehicleConnection]:
        """By VIN; vehicles that never connected are left out."""
        ...

    def online(self, lease_check: LeaseCheck) -> frozenset[str]:
        """The VINs of all that are connected."""
        ...

    def count_online(self, lease_check: LeaseCheck) -> int: ...
    def forget(self, ended_before: datetime) -> int:
        """Forget gateways whose lease ended before; their links ended with it. How many gateways."""
        ...


class EquipmentTables(Protocol):
    """What was exchanged."""

    def add(self, change: EquipmentChange) -> None: ...
    def save(self, change: EquipmentChange) -> None: ...
    def reported(self, vin: str) -> tuple[EquipmentChange, ...]:
        """Those of this vehicle that are neither confirmed nor refuted; newest first."""
        ...

    def page(self, request: PageRequest, scope: Scope, *, vin: str = "") -> Page[EquipmentChange]:
        """Newest first; of all vehicles in *scope* if *vin* is empty."""
        ...


class ExportTables(Protocol):
    """Exports, and the vehicles in each."""

    def add(self, job: ExportJob, vins: Sequence[str]) -> ExportJob: ...
    def get(self, export_id: int, *, lock: bool = False) -> ExportJob | None: ...
    def vins(self, export_id: int) -> tuple[str, ...]: ...
    def save(self, job: ExportJob) -> None: ...
    def page(self, request: PageRequest, *, owner: str = "") -> Page[ExportJob]:
        """Newest first; of everybody if *owner* is empty."""
        ...

    def unfinished(self, owner: str) -> int:
        """How many exports of *owner* wait or run."""
        ...

    def files(self, owner: str) -> int:
        """How many files *owner* has."""
        ...

    def take(self, now: datetime, *, by: str, until: datetime, claim_s: int) -> ExportJob | None:
        """Claim the oldest one that waits, or whose process has let its claim end, for the process *by*.

        A claim that reaches further than *claim_s* from now was made by a wrong clock, and is none.
        """
        ...

    def done_before(self, ended: datetime) -> tuple[ExportJob, ...]:
        """Those with a file that ended earlier, oldest first, at most a hundred."""
        ...

    def forget(self, ended_before: datetime) -> int:
        """Delete those without a file that ended earlier; how many."""
        ...

    def with_file(self) -> frozenset[int]:
        """The numbers of those that have a file or may be making one."""
        ...


class ReleaseTables(Protocol):
    """Releases, their signed manifests, and image files by digest."""

    def add(self, release: Release, manifest: bytes, images: Mapping[str, bytes]) -> Release: ...
    def get(self, release_id: int) -> Release | None: ...
    def many(self, release_ids: Sequence[int]) -> Mapping[int, Release]: ...
    def find(self, *, series: str, software_version: str) -> Release | None: ...
    def used_by(self, release_ids: Sequence[int], scope: Scope) -> Mapping[int, tuple[int, ...]]:
        """The numbers of the tasks in *scope* that bring a release, the newest first."""
        ...

    def of_series(self, series: Sequence[str]) -> tuple[Release, ...]:
        """Every release of these series, the newest first."""
        ...

    def by_manifest(self, manifest_sha256: str) -> Release | None: ...
    def page(self, request: PageRequest, *, series: str = "") -> Page[Release]: ...
    def all_series(self) -> tuple[str, ...]: ...
    def manifest(self, manifest_sha256: str) -> bytes | None: ...
    def image(self, sha256: str) -> bytes | None: ...


class OtaTaskTables(Protocol):
    """OTA tasks, the upgrades of their vehicles, transitions, approval codes."""

    def add(self, task: OtaTask) -> OtaTask: ...
    def get(self, task_id: int, *, lock: bool = False) -> OtaTask | None: ...
    def visible(self, task_id: int, scope: Scope, *, lock: bool = False) -> OtaTask | None: ...
    def by_form(self, form_token: str) -> OtaTask | None:
        """The task that was created with this form."""
        ...

    def save(self, task: OtaTask) -> None: ...
    def page(self, request: PageRequest, scope: Scope, *, project: str = "") -> Page[OtaTask]:
        """Newest first."""
        ...

    def counts(self, task_ids: Sequence[int]) -> Mapping[int, Mapping[str, int]]:
        """For each task, how many vehicles have each status (by its own words)."""
        ...

    def add_upgrade(self, upgrade: VehicleUpgrade) -> None: ...
    def add_upgrades(self, upgrades: Sequence[VehicleUpgrade]) -> None: ...
    def add_unapproved(
        self, task_id: int, vehicles: Sequence[tuple[str, int]], at: datetime, *, first_place: int
    ) -> None:
        """Vehicles of a new task as (VIN, release), at the places from *first_place* on, with their first transition."""
        ...

    def delete_upgrades(self, task_id: int, limit: int) -> int:
        """Delete *limit* vehicles with their transitions, and say how many it were; only for tasks that were never approved."""
        ...

    def upgrade(self, task_id: int, place: int, *, lock: bool = False) -> VehicleUpgrade | None: ...
    def upgrades(self, task_id: int) -> tuple[VehicleUpgrade, ...]: ...
    def upgrades_page(
        self, task_id: int, request: PageRequest, *, statuses: Sequence[VehicleStatus] = ()
    ) -> Page[VehicleUpgrade]:
        """By place; only those in one of *statuses*, if there are any."""
        ...

    def upgrades_after(
        self,
        task_id: int,
        place: int,
        limit: int,
        *,
        statuses: Sequence[VehicleStatus] = (),
        places: Sequence[int] = (),
        lock: bool = False,
    ) -> tuple[VehicleUpgrade, ...]:
        """The next *limit* vehicles behind *place*; of *statuses* and *places* only, if there are any."""
        ...

    def places(self, task_id: int, vins: Sequence[str]) -> Mapping[str, int]:
        """By VIN, for those that are in the task."""
        ...

    def vehicles(self, task_id: int) -> tuple[tuple[str, int], ...]:
        """Each vehicle of a task as (VIN, release), by place."""
        ...

    def vins(self, task_id: int, statuses: Sequence[VehicleStatus]) -> tuple[str, ...]:
        """The vehicles in one of *statuses*, by place."""
        ...

    def content(self, task_id: int) -> tuple[tuple[str, str, str], ...]:
        """Each vehicle of a task as (VIN, HWID, digest of its manifest), by place."""
        ...

    def newest_task_of(self, vin: str) -> int | None:
        """The newest task that ever had this vehicle, or is being given it."""
        ...

    def open_upgrade(self, vin: str) -> VehicleUpgrade | None:
        """The upgrade of this vehicle that has not ended; None if there is none.

        With a second one that waits for its approval to take the vehicle over: the one under way.
        """
        ...

    def open_upgrades(self, vins: Sequence[str], *, lock: bool = False) -> Mapping[str, tuple[VehicleUpgrade, ...]]:
        """Every upgrade of these vehicles that has not ended, by VIN, newest task last."""
        ...

    def others_with(self, task_id: int, vins: Sequence[str]) -> Mapping[str, int]:
        """The newest other task that has not ended these vehicles, by VIN, for those that another one has."""
        ...

    def upgrading(self) -> frozenset[str]:
        """The VINs of all vehicles for which an approved task has not ended."""
        ...

    def silent_upgrades(self, now: datetime, limit: int) -> tuple[VehicleUpgrade, ...]:
        """Approved, not ended, and not heard of for longer than its task allows."""
        ...

    def save_upgrade(self, upgrade: VehicleUpgrade) -> None: ...
    def save_upgrades(self, upgrades: Sequence[VehicleUpgrade]) -> None: ...
    def add_transition(self, transition: Transition) -> None: ...
    def add_transitions(self, transitions: Sequence[Transition]) -> None: ...
    def transitions(self, task_id: int, vins: Sequence[str]) -> Mapping[str, tuple[Transition, ...]]: ...
    def code(self, task_id: int) -> ApprovalCode | None: ...
    def save_code(self, code: ApprovalCode) -> None: ...
    def void_codes(self, project: str) -> tuple[int, ...]:
        """Void the code of every unapproved task of *project*; the tasks whose code was valid until now."""
        ...

    def act(self, task_id: int, *, lock: bool = False) -> TaskAct | None: ...
    def acts(self) -> tuple[TaskAct, ...]:
        """All that are under way, oldest first."""
        ...

    def save_act(self, act: TaskAct) -> None:
        """Insert or replace."""
        ...

    def delete_act(self, task_id: int) -> None: ...
    def save_list(self, task_id: int, vehicles: Sequence[tuple[str, int]]) -> None:
        """Keep the vehicles, as (VIN, release), that an `ActKind.LIST` is entering. Insert or replace."""
        ...

    def list_of(self, task_id: int) -> tuple[tuple[str, int], ...]:
        """The vehicles that are being entered; none if none are."""
        ...

    def listed(self) -> Mapping[int, frozenset[str]]:
        """The VINs of every list, by task."""
        ...

    def delete_list(self, task_id: int) -> None: ...
    def add_report(self, report: OrderReport, *, keep: int) -> None:
        """Add it, and delete all but the newest *keep* of the same vehicle in the same task."""
        ...

    def reports(self, task_id: int, vins: Sequence[str]) -> Mapping[str, tuple[OrderReport, ...]]:
        """By VIN, oldest first."""
        ...

    def signed_versions(self, vins: Sequence[str]) -> Mapping[str, tuple[NodeVersion, ...]]:
        """What the nodes ran by the newest signed report of each vehicle, for those that have sent one."""
        ...


class ProjectTable(Protocol):
    """The settings of projects; one without settings has no row."""

    def get(self, name: str, *, lock: bool = False) -> Project | None: ...
    def with_number(self, number: str) -> Project | None: ...
    def all(self) -> tuple[Project, ...]:
        """By name."""
        ...

    def save(self, project: Project) -> None:
        """Insert or replace."""
        ...


class HistoryTables(Protocol):
    """Local upgrades, and the history that they and the tasks make together."""

    def add(self, upgrade: LocalUpgradeRow) -> bool:
        """Keep what is new; False if it is there already: all but `reported_at`, tool and detail are the same."""
        ...

    def add_words(self, upgrade: LocalUpgradeRow) -> bool:
        """Give tool and detail to the same upgrade, if a signed document named it first; whether anything changed."""
        ...

    def confirm(self, upgrade: LocalUpgradeRow) -> bool:
        """Mark the same upgrade as confirmed, or add it so; False if it was confirmed before."""
        ...

    def unconfirmed(self, vin: str) -> int:
        """How many local upgrades of this vehicle are not confirmed."""
        ...

    def page(self, vin: str, request: PageRequest) -> Page[HistoryEntry]:
        """Of one vehicle, newest first."""
        ...


class DeviceTables(Protocol):
    """Sessions of units, and the challenges that opened them."""

    def spend_challenge(self, challenge: bytes, expires_at: datetime) -> bool:
        """Mark it as used until it expires; False if it was used before."""
        ...

    def add_session(self, session: DeviceSession) -> None: ...
    def session(self, token_sha256: bytes) -> DeviceSession | None: ...
    def newest_session(self, hwid: str) -> DeviceSession | None:
        """The session of this unit that was opened last."""
        ...

    def delete_sessions(self, vin: str) -> None:
        """All sessions of this vehicle's units."""
        ...

    def delete_before(self, expired: datetime) -> None:
        """Challenges and sessions that are over."""
        ...


class LimitTable(Protocol):
    """Counters of tries, each the moment at which it is empty again; and from where other platforms have logged in."""

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, Level]: ...
    def save(
        self, key: bytes, free_at: float, now: float, *, nonsense_from: float, keep: int, may_forget: bool
    ) -> None:
        """Insert, or replace what is earlier, or as late as *nonsense_from*. Seconds since 1970.

        Empty counters go if *may_forget*; and all but the fullest *keep*.
        """
        ...

    def delete(self, key: bytes) -> None: ...

    def knows_platform_address(self, code: str, address_digest: bytes) -> bool:
        """Whether the platform has logged in from there."""
        ...

    def save_platform_address(self, code: str, address_digest: bytes, last_at: datetime, *, keep: int) -> None:
        """Note a login, and forget all but the newest *keep* addresses of the platform."""
        ...


class FigureTables(Protocol):
    """How much there is of everything, for monitoring."""

    def tasks(self) -> Mapping[str, int]:
        """OTA tasks by status, in its own words; a status without any is left out."""
        ...

    def upgrades(self) -> Mapping[str, int]:
        """Vehicles of OTA tasks, in the same way."""
        ...

    def vehicles(self) -> int: ...


class OutboxTable(Protocol):
    """The outbox."""

    def add(self, mail: Mail) -> Mail: ...
    def save(self, mail: Mail) -> None: ...
    def has_due(self, now: datetime) -> bool: ...
    def take(self, now: datetime, limit: int, *, by: str, until: datetime) -> tuple[Mail, ...]:
        """Claim due mails for the process *by*, which has them for itself *until* then. Oldest first.

        Its own claims of before come again: it asks only when it has finished with them. No two processes get the same mail.
        """
        ...

    def keep(self, mail_id: int, *, by: str, until: datetime) -> bool:
        """Prolong a claim; False if another process has the mail by now, or it is sent."""
        ...

    def waiting(self) -> int:
        """How many mails are neither sent nor given up."""
        ...

    def of_task(self, task_id: int) -> tuple[Mail, ...]:
        """Newest first."""
        ...


class AuditTable(Protocol):
    """The audit log; there is no way to delete a line, and a line changes by counting only."""

    def add(self, entry: AuditEntry) -> None: ...
    def count(self, entry: AuditEntry, repeat_key: str) -> None:
        """Add *entry*, or to the line with this key its count, with its detail and time as the newest."""
        ...

    def newest(self, subject: str, *, action: str, limit: int) -> tuple[AuditEntry, ...]:
        """Lines about *subject* with this action, newest first."""
        ...

    def page(
        self, request: PageRequest, *, subject: str = "", who: str = "", action: str = "", text: str = ""
    ) -> Page[AuditEntry]:
        """Newest first; *action*: it, or all of its noun ("account"); *text*: a part of the subject. Empty: all."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TimesAllowed:
    """How far into the future a stored time can be, in seconds; and how long what begins anew is valid."""

    ahead_s: int
    """Clocks of two processes may differ by this."""
    login_session_s: int
    device_session_s: int
    code_s: int
    mail_retry_s: int
    mail_claim_s: int
    lease_s: int


class TimesTables(Protocol):
    """Stored times that decide something, whatever they are of."""

    def mend(
        self, now: datetime, doubted: Sequence[tuple[datetime, datetime]], allowed: TimesAllowed
    ) -> Mapping[str, int]:
        """Put what a wrong clock has written in the place where it would be now; how many of what.

        A time that lies further ahead than it can was written by a clock that was ahead. *doubted*: what the platform's time was, from
        and to, when it was found wrong; who was heard of then counts as heard of now.
        """
        ...


class Work(Protocol):
    """One transaction."""

    @property
    def accounts(self) -> AccountTables: ...
    @property
    def customers(self) -> CustomerTable: ...
    @property
    def vehicles(self) -> VehicleTables: ...
    @property
    def presence(self) -> PresenceTables: ...
    @property
    def equipment(self) -> EquipmentTables: ...
    @property
    def exports(self) -> ExportTables: ...
    @property
    def releases(self) -> ReleaseTables: ...
    @property
    def projects(self) -> ProjectTable: ...
    @property
    def ota_tasks(self) -> OtaTaskTables: ...
    @property
    def histories(self) -> HistoryTables: ...
    @property
    def device(self) -> DeviceTables: ...
    @property
    def limits(self) -> LimitTable: ...
    @property
    def outbox(self) -> OutboxTable: ...
    @property
    def audit(self) -> AuditTable: ...
    @property
    def figures(self) -> FigureTables: ...
    @property
    def refusals(self) -> RefusalTables: ...
    @property
    def times(self) -> TimesTables: ...
    def secret(self, name: str) -> bytes | None:
        """A secret of the platform itself, as the key of the approval codes."""
        ...

    def save_secret(self, name: str, value: bytes) -> None: ...
    def first_secret(self, name: str, value: bytes) -> bytes:
        """The secret of this name; *value* becomes it if there is none yet. Two processes that start at once get the same."""
        ...


class Store(Protocol):
    """Everything but telemetry."""

    @property
    def problem(self) -> str:
        """Why nothing could be written the last time; empty again after the next change that was kept."""
        ...

    def transaction(self) -> AbstractContextManager[Work]:
        """Read and write; committed at the end of the block, rolled back if it raises. Not to be nested."""
        ...

    def reading(self) -> AbstractContextManager[Work]:
        """One consistent view; writing in it is a bug."""
        ...

    def close(self) -> None: ...


class TelemetryStore(Protocol):
    """Frames, and what is derived from them: newest states and events.

    The order of commits: frames first, what is derived from them second, with a mark of how far. After a crash between the two,
    `unread` returns the frames behind the mark. Every method may be called from any thread.

    Raises:
        StorageUnavailableError: (every method) the database is away, locked, read-only or full. Nothing is half done, and the same
            call may be made again.
    """

    @property
    def is_set_back(self) -> bool:
        """The states and events were lost, or are those of an older copy, and the frames are not. Known from the first `unread` on."""
        ...

    def states_derived_again(self) -> None:
        """The states are those of the frames again, and saved. Until then the next start finds them set back, too."""
        ...

    def append(self, frames: Sequence[StoredFrame]) -> Sequence[bool]:
        """Keep *frames*; on return they are committed and synced. Whether each one is new.

        A frame that is there already, by vehicle, report time and digest of its data unit, is not new. A call that is made again
        after it failed returns what the first one would have.
        """
        ...

    def mark(self) -> Mark:
        """How far this store has appended: what `save_derived` is given when every frame up to now has been derived."""
        ...

    def save_derived(self, states: Sequence[StateRow], events: Sequence[VehicleEvent], mark: Mark) -> None:
        """Insert or replace *states*, add *events* (one that is there stays one) and move the mark, in one transaction."""
        ...

    def unread(self, limit: int) -> Unread:
        """Up to *limit* frames of this process behind the mark, in the order of their arrival: for the start after a crash.

        Raises:
            ConfigurationError: another process has the name of this one.
        """
        ...

    def taking_over(self, limit: int) -> AbstractContextManager[Unread]:
        """Up to *limit* frames that a process which has ended has left underived; none if there is no such process.

        Within the block no other process saves what it has derived. Each of them finds out at its next `save_derived`, which is
        refused (StorageUnavailableError): it has to read states again, because some may have changed.
        """
        ...

    def frames(
        self, vin: str, request: PageRequest, *, since: datetime | None = None, until: datetime | None = None
    ) -> FramePage:
        """A vehicle's frames, newest first by report time, then arrival; *since* is included, *until* is not.

        A frame whose time is not plausible stands where it arrived.
        """
        ...

    def read(self, vin: str, since_s: int, until_s: int) -> Iterator[StoredFrame]:
        """The same frames, oldest first, from *since_s* (included) to *until_s*, Unix seconds. Reads in small pieces."""
        ...

    def fleet_marks(self, vins: Sequence[str] | None = None) -> Mapping[str, FleetMark]:
        """What an overview shows of the newest states; None: of all vehicles. Without their frames, for many at once."""
        ...

    def alarm_levels(self) -> Mapping[str, int]:
        """Of all vehicles whose newest state has an alarm."""
        ...

    def newest_values(self, name: Literal["soc_pct", "last_seen_at_ns"]) -> Mapping[str, float | None]:
        """One value of the newest states of all vehicles."""
        ...

    def newest(self, vins: Sequence[str]) -> Mapping[str, StateRow]:
        """The derived states of those vehicles that have one."""
        ...

    def events(
        self,
        vin: str,
        request: PageRequest,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Sequence[str] = (),
    ) -> Page[VehicleEvent]:
        """Newest first, also within a second; of all kinds if *kinds* is empty."""
        ...

    def faults(self, vin: str, request: PageRequest, asked: FaultFilter) -> Page[FaultPeriod]:
        """Onsets of alarms and faults, each with its end; open ones first.

        An onset that is told again while the fault is there, and the end of one whose onset is not known, are none.
        """
        ...

    def replace_events(self, vin: str, since_s: int, until_s: int, events: Sequence[VehicleEvent]) -> None:
        """Put *events* in the place of those from *since_s* (included) to *until_s*, in one transaction."""
        ...

    def prune_events(self, before_s: int) -> int:
        """Delete the events of reports whose own time is earlier (Unix seconds), in small transactions; how many."""
        ...

    def hot(self) -> Sequence[HotPartition]:
        """The partitions that have frames which are not in blocks, oldest first; without those of implausible time."""
        ...

    def compact(self, name: str, hours: int) -> Compacted:
        """Put frames of a partition that `hot` returned into blocks: the next *hours* hours of a vehicle each.

        Call it again until it is done. In between, and while it runs, frames can be appended and read: none is lost, none is there
        twice. It may be ended at any moment; then it begins anew. A repetition of a frame in a block is not new for `append`.
        """
        ...

    def prune(self, arrived_before_ns: int) -> int:
        """Drop partitions (days of report time), rows and blocks, whose newest frame arrived earlier; how many frames there were.

        Frames with an implausible time go one by one.
        """
        ...

    def close(self) -> None: ...
