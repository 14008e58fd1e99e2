"""The tables, column by column named as the fields of the dataclasses they keep.

Two sets: `PLATFORM` and `TELEMETRY`, which never refer to each other, so that each can live in a database of its own.
Changes here need a migration beside them (`cloud/bmsota_cloud/storage/migrations`); a test compares the two.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from bmsota_cloud.domain.accounts import Role, ScopeKind
from bmsota_cloud.domain.equipment import ChangeStatus
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.exports import ExportFormat, ExportStatus
from bmsota_cloud.domain.ota_tasks import ActKind, NodeVersion, TaskStatus, VehicleStatus
from bmsota_cloud.domain.projects import ApprovalWay, ProjectClass
from bmsota_cloud.domain.refusals import HEAD_SIZE_BYTES_MAX, RefusalCause
from bmsota_cloud.domain.releases import ReleasedImage
from bmsota_cloud.domain.vehicles import NodeKind

if TYPE_CHECKING:
    from sqlalchemy import Dialect

__all__ = ["PLATFORM", "TELEMETRY"]


class UtcTime(TypeDecorator[datetime]):
    """An aware time, kept as UTC. SQLite forgets the zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"expected an aware time, got {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class EmptyAsNull(TypeDecorator[str]):
    """A text that is NULL where it is empty, so that a unique column may have many without one."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        del dialect
        return value or None

    def process_result_value(self, value: str | None, dialect: Dialect) -> str:
        del dialect
        return value or ""


class EnumName(TypeDecorator[Enum]):
    """An enumeration kept by its name: its value is wording and may be changed."""

    impl = String(32)
    cache_ok = True

    def __init__(self, kind: type[Enum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Enum | None, dialect: Dialect) -> str | None:
        del dialect
        return None if value is None else value.name

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Enum | None:
        del dialect
        return None if value is None else self.kind[value]


class Items(TypeDecorator[tuple[Any, ...]]):
    """A tuple of small dataclasses, as a JSON list of objects."""

    impl = JSON
    cache_ok = True

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: tuple[Any, ...] | None, dialect: Dialect) -> Any:
        del dialect
        return [asdict(item) for item in value or ()]

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Any, ...]:
        del dialect
        return tuple(self.kind(**item) for item in value or ())


class Plain(TypeDecorator[tuple[Any, ...]]):
    """A tuple of numbers or words, as a JSON list."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[Any, ...] | None, dialect: Dialect) -> Any:
        del dialect
        return list(value or ())

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Any, ...]:
        del dialect
        return tuple(value or ())


PLATFORM = MetaData()
TELEMETRY = MetaData()

customer = Table(
    "customer",
    PLATFORM,
    Column("name", String(64), primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", String(64), nullable=False),
)

account = Table(
    "account",
    PLATFORM,
    Column("name", String(64), primary_key=True),
    Column("email", String(254), nullable=False),
    Column("role", EnumName(Role), nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    # The scope: everything, the projects of this list, or the vehicles of this customer.
    Column("sees", EnumName(ScopeKind), nullable=False, server_default="EVERYTHING"),
    Column("projects", Plain, nullable=False, server_default="[]"),
    Column("customer", EmptyAsNull(64), ForeignKey("customer.name")),
    Column("disabled_at", UtcTime),
)

login_session = Table(
    "login_session",
    PLATFORM,
    Column("token_sha256", LargeBinary(32), primary_key=True),
    Column("account_name", ForeignKey("account.name"), nullable=False, index=True),
    Column("csrf_token", String(64), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("last_seen_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False, index=True),
    Column("address", String(64), nullable=False, server_default=""),
)

api_token = Table(
    "api_token",
    PLATFORM,
    Column("token_sha256", LargeBinary(32), primary_key=True),
    Column("account_name", ForeignKey("account.name"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("permissions", Plain, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("last_used_at", UtcTime),
    Column("last_address", String(64), nullable=False),
    UniqueConstraint("account_name", "name"),
)

# Where an account has logged in from. Addresses are kept as digests: they are compared, never shown.
login_address = Table(
    "login_address",
    PLATFORM,
    Column("account_name", ForeignKey("account.name"), primary_key=True),
    Column("address_digest", LargeBinary(16), primary_key=True),
    Column("last_at", UtcTime, nullable=False),
)

# The same for other platforms, by their codes.
platform_login_address = Table(
    "platform_login_address",
    PLATFORM,
    Column("code", String(17), primary_key=True),
    Column("address_digest", LargeBinary(16), primary_key=True),
    Column("last_at", UtcTime, nullable=False),
)

project = Table(
    "project",
    PLATFORM,
    Column("name", String(64), primary_key=True),
    Column("audit_mailbox", String(254), nullable=False),
    Column("approval", EnumName(ApprovalWay), nullable=False),
    Column("starters", Plain, nullable=False),
    Column("changed_at", UtcTime),
    Column("changed_by", String(64), nullable=False),
    Column("number", EmptyAsNull(32), unique=True),
    Column("classification", EnumName(ProjectClass), nullable=False, server_default="UNSPECIFIED"),
)

vehicle = Table(
    "vehicle",
    PLATFORM,
    Column("vin", String(17), primary_key=True),
    Column("series", String(32), nullable=False, index=True),
    Column("project", String(64), nullable=False, index=True),
    # Both empty for a terminal that is only monitored; NULL, so that there may be many without.
    Column("hwid", EmptyAsNull(24), unique=True),
    Column("device_public_key", LargeBinary(32)),
    Column("registered_at", UtcTime, nullable=False),
    Column("order_sequence", BigInteger, nullable=False),
    Column("report_counter", BigInteger, nullable=False),
    Column("report_sha256", LargeBinary(32), nullable=False),
    Column("identified_at", UtcTime),
    Column("identity_counter", BigInteger, nullable=False),
    Column("identity_sha256", LargeBinary(32), nullable=False),
    Column("confirmed_at", UtcTime),
    Column("mixed_pack", Text, nullable=False, server_default=""),
    Column("customer", EmptyAsNull(64), ForeignKey("customer.name"), index=True),
    # What people know it by, as far as it is known.
    Column("battery_number", String(64), nullable=False, server_default=""),
    Column("frame_number", String(64), nullable=False, server_default=""),
    Column("model", String(64), nullable=False, server_default=""),
    Column("plate", String(64), nullable=False, server_default=""),
    Column("city", String(64), nullable=False, server_default="", index=True),
)

gateway = Table(
    "gateway",
    PLATFORM,
    Column("id", String(80), primary_key=True),
    Column("started_at", UtcTime, nullable=False),
    Column("lease_until", UtcTime, nullable=False),
)

# Without foreign keys: the links of many vehicles are written together, and one of them must not spoil the others.
presence = Table(
    "presence",
    PLATFORM,
    Column("vin", String(17), primary_key=True),
    Column("gateway_id", String(80), nullable=False),
    Column("link_id", BigInteger, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("login_serial", Integer, nullable=False),
    Column("left_at", UtcTime),
    # Open links first: they are what is looked for.
    Index("ix_presence_left_at_gateway_id", "left_at", "gateway_id"),
)


def _node_columns() -> list[Column[Any]]:
    """What is known of a node, confirmed or only reported."""
    return [
        Column("vin", ForeignKey("vehicle.vin"), primary_key=True),
        Column("position", Integer, primary_key=True, autoincrement=False),
        Column("kind", EnumName(NodeKind), nullable=False),
        Column("hwid", String(24), nullable=False),
        Column("hardware_class", String(36), nullable=False),
        Column("version", String(32), nullable=False),
        Column("security_counter", BigInteger, nullable=False),
        Column("serial", String(64), nullable=False),
        Column("state", String(16), nullable=False),
        Column("updated_at", UtcTime, nullable=False),
    ]


def _image_columns() -> list[Column[Any]]:
    """What only signed documents say of a node; behind the others, because they came later."""
    return [
        Column("image_sha256", String(64), nullable=False, server_default=""),
        Column("slot_size_kib", Integer, nullable=False, server_default="0"),
    ]


node = Table(
    "node",
    PLATFORM,
    *_node_columns(),
    Column("confirmed_at", UtcTime),
    *_image_columns(),
)

# What the newest identity frame said, beside what was confirmed.
reported_node = Table(
    "reported_node",
    PLATFORM,
    *_node_columns(),
    *_image_columns(),
)

# The login before the newest one of each vehicle, to compare with.
last_login = Table(
    "last_login",
    PLATFORM,
    Column("vin", ForeignKey("vehicle.vin"), primary_key=True),
    Column("iccid", String(20), nullable=False),
    Column("login_serial", Integer, nullable=False),
    Column("login_at", UtcTime, nullable=False),
    Column("address", String(64), nullable=False),
    Column("received_at", UtcTime, nullable=False),
)

equipment_change = Table(
    "equipment_change",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("vin", ForeignKey("vehicle.vin"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("old_hwid", String(24), nullable=False),
    Column("new_hwid", String(24), nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    Column("status", EnumName(ChangeStatus), nullable=False),
    Column("decided_at", UtcTime),
    sqlite_autoincrement=True,
)

# In the database it keeps its first name, and so does the column.
local_upgrade = Table(
    "field_upgrade",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("vin", ForeignKey("vehicle.vin"), nullable=False),
    Column("upgraded_at", UtcTime, nullable=False),
    Column("told_at", UtcTime, key="reported_at", nullable=False),
    Column("position", Integer, nullable=False),
    Column("hwid", String(24), nullable=False),
    Column("version_before", String(32), nullable=False),
    Column("version_after", String(32), nullable=False),
    Column("status", EnumName(VehicleStatus), nullable=False),
    Column("tool", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("confirmed_at", UtcTime),
    Column("image_before", String(64), nullable=False, server_default=""),
    Column("image_after", String(64), nullable=False, server_default=""),
    # What makes a repetition one. It begins with the vehicle, so that it serves the history as an index.
    UniqueConstraint("vin", "upgraded_at", "position", "hwid", "version_before", "version_after", "status"),
    sqlite_autoincrement=True,
)

export_job = Table(
    "export_job",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("owner", ForeignKey("account.name"), nullable=False, index=True),
    Column("created_at", UtcTime, nullable=False),
    Column("format", EnumName(ExportFormat), nullable=False),
    Column("project", String(64), nullable=False),
    Column("series", String(32), nullable=False),
    Column("text", String(64), nullable=False),
    Column("is_online", Boolean),
    Column("since", UtcTime, nullable=False),
    Column("until", UtcTime, nullable=False),
    Column("status", EnumName(ExportStatus), nullable=False, index=True),
    Column("vehicles", Integer, nullable=False),
    Column("vehicles_done", Integer, nullable=False),
    Column("reports", BigInteger, nullable=False),
    Column("unreadable", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ended_at", UtcTime),
    Column("attempts", Integer, nullable=False),
    Column("claimed_by", String(80), nullable=False),
    Column("claimed_until", UtcTime),
    # Never the number of an older one again: a file is named by it.
    sqlite_autoincrement=True,
)

# The vehicles of an export, as they were found when it was asked for.
export_list = Table(
    "export_list",
    PLATFORM,
    Column("export_id", ForeignKey("export_job.id"), primary_key=True),
    Column("vins", Plain, nullable=False),
)

release = Table(
    "release",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("software_version", String(32), nullable=False),
    Column("series", String(32), nullable=False),
    Column("manifest_sha256", String(64), nullable=False, unique=True),
    Column("manifest", LargeBinary, nullable=False),
    Column("images", Items(ReleasedImage), nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("uploaded_by", String(64), nullable=False),
    Column("uploaded_at", UtcTime, nullable=False),
    # A task names a software version; with the vehicle's series that must mean one release.
    UniqueConstraint("series", "software_version"),
    sqlite_autoincrement=True,
)

image = Table(
    "image",
    PLATFORM,
    Column("sha256", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

ota_task = Table(
    "ota_task",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("project", String(64), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("software_version", String(32), nullable=False),
    Column("creator", String(64), nullable=False),
    Column("auditor", String(64), nullable=False),
    Column("time_limit_s", Integer, nullable=False),
    Column("status", EnumName(TaskStatus), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("approver", String(64), nullable=False),
    Column("approved_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("approval", EnumName(ApprovalWay)),
    Column("code_mailbox", String(254), nullable=False),
    Column("supersedes", Boolean, nullable=False),
    Column("form_token", EmptyAsNull(32), index=True, unique=True),
    # Never the number of an older task again: units and mails know tasks by it.
    sqlite_autoincrement=True,
)

vehicle_upgrade = Table(
    "vehicle_upgrade",
    PLATFORM,
    Column("task_id", ForeignKey("ota_task.id"), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("vin", ForeignKey("vehicle.vin"), nullable=False),
    Column("release_id", ForeignKey("release.id"), nullable=False),
    Column("status", EnumName(VehicleStatus), nullable=False),
    Column("stage", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("progress_pct", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("order_expires_at", UtcTime),
    Column("order_document", LargeBinary, nullable=False),
    Column("instructed_at", UtcTime),
    Column("instruction_count", Integer, nullable=False),
    Column("confirmed_at", UtcTime),
    Column("heard_at", UtcTime),
    Column("ended_by_report", Boolean, nullable=False),
    Column("report_document", LargeBinary, nullable=False),
    Column("versions_before", Items(NodeVersion), nullable=False),
    Column("versions_after", Items(NodeVersion), nullable=False),
    Column("source", EnumName(Source), nullable=False),
    Column("images_fetched", Plain, nullable=False),
    Column("fetched_at", UtcTime),
    Column("attempt", Integer, nullable=False),
    UniqueConstraint("task_id", "vin"),
    Index("ix_vehicle_upgrade_vin_status", "vin", "status"),
    Index("ix_vehicle_upgrade_release_id_task_id", "release_id", "task_id"),
    Index("ix_vehicle_upgrade_status_heard_at", "status", "heard_at"),
)

transition = Table(
    "transition",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("task_id", ForeignKey("ota_task.id"), nullable=False),
    Column("vin", String(17), nullable=False),
    Column("status", EnumName(VehicleStatus), nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", EnumName(Source), nullable=False),
    Index("ix_transition_task_id_vin", "task_id", "vin"),
)

approval_code = Table(
    "approval_code",
    PLATFORM,
    Column("task_id", ForeignKey("ota_task.id"), primary_key=True),
    Column("code_hmac", LargeBinary(32), nullable=False),
    Column("content_sha256", LargeBinary(32), nullable=False),
    Column("issued_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("is_void", Boolean, nullable=False),
    Column("recipient", String(254), nullable=False),
)

task_act = Table(
    "task_act",
    PLATFORM,
    Column("task_id", ForeignKey("ota_task.id"), primary_key=True),
    Column("kind", EnumName(ActKind), nullable=False),
    Column("who", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("begun_at", UtcTime, nullable=False),
    Column("statuses", Plain, nullable=False),
    Column("places", Plain, nullable=False),
    Column("place_done", Integer, nullable=False),
    Column("count", Integer, nullable=False),
)

# The vehicles of a task whose list is being entered, until all of it is.
task_list = Table(
    "task_list",
    PLATFORM,
    Column("task_id", ForeignKey("ota_task.id"), primary_key=True),
    Column("vins", Plain, nullable=False),
    Column("release_ids", Plain, nullable=False),
)

order_report = Table(
    "order_report",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("task_id", ForeignKey("ota_task.id"), nullable=False),
    Column("vin", String(17), nullable=False),
    Column("order_id", String(64), nullable=False),
    Column("received_at", UtcTime, nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("versions", Items(NodeVersion), nullable=False),
    Column("is_late", Boolean, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Index("ix_order_report_task_id_vin", "task_id", "vin"),
    Index("ix_order_report_vin", "vin"),
)

# Challenges that have opened a session, until they expire. The others are kept nowhere.
spent_challenge = Table(
    "spent_challenge",
    PLATFORM,
    Column("challenge", LargeBinary(32), primary_key=True),
    Column("expires_at", UtcTime, nullable=False, index=True),
)

device_session = Table(
    "device_session",
    PLATFORM,
    Column("token_sha256", LargeBinary(32), primary_key=True),
    Column("vin", ForeignKey("vehicle.vin"), nullable=False),
    Column("hwid", String(24), nullable=False),
    Column("issued_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False, index=True),
)

mail = Table(
    "mail",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("recipient", String(254), nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("task_id", ForeignKey("ota_task.id"), index=True),
    Column("created_at", UtcTime, nullable=False),
    Column("next_try_at", UtcTime, nullable=False, index=True),
    Column("tries", Integer, nullable=False),
    Column("sent_at", UtcTime),
    Column("given_up", Boolean, nullable=False),
    Column("error", Text, nullable=False),
    Column("claimed_by", String(80), nullable=False),
    Column("claimed_until", UtcTime),
)

audit_entry = Table(
    "audit_entry",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("who", String(80), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(128), nullable=False, index=True),
    Column("outcome", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("address", String(64), nullable=False),
    Column("count", Integer, nullable=False),
    Column("last_at", UtcTime),
    Column("repeat_key", String(128), unique=True),
    sqlite_autoincrement=True,
)

refusal = Table(
    "refusal",
    PLATFORM,
    Column("id", Integer, primary_key=True),
    Column("address", String(64), nullable=False),
    Column("vin", String(17), nullable=False, index=True),
    Column("cause", EnumName(RefusalCause), nullable=False),
    Column("first_at", UtcTime, nullable=False),
    Column("last_at", UtcTime, nullable=False, index=True),
    Column("count", BigInteger, nullable=False),
    Column("head", LargeBinary(HEAD_SIZE_BYTES_MAX), nullable=False),
    Column("answered", Integer),
    Column("detail", Text, nullable=False),
    UniqueConstraint("address", "vin", "cause"),
)

# How often each cause was refused in all, also what is not kept any more.
refusal_total = Table(
    "refusal_total",
    PLATFORM,
    Column("cause", EnumName(RefusalCause), primary_key=True),
    Column("count", BigInteger, nullable=False),
)

secret = Table(
    "secret",
    PLATFORM,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# Counters of tries that a restart must not reset (bmsota_cloud.domain.limits); the key is a digest of what is counted.
rate_limit = Table(
    "rate_limit",
    PLATFORM,
    Column("key", LargeBinary(16), primary_key=True),
    Column("free_at", UtcTime, nullable=False, index=True),
    # When it was counted; NULL for what older versions have kept.
    Column("counted_at", UtcTime),
)

# Frames themselves are not here: `bmsota_cloud.storage.sql.telemetry_sqlite` and `telemetry_postgresql` have them.
newest_state = Table(
    "newest_state",
    TELEMETRY,
    Column("vin", String(17), primary_key=True),
    Column("last_seen_at_ns", BigInteger, nullable=False),
    Column("reported_at_s", BigInteger),
    Column("heard_at_ns", BigInteger),
    Column("is_time_plausible", Boolean, nullable=False),
    Column("soc_pct", Float),
    Column("speed_kmh", Float),
    Column("alarm_level", Integer),
    Column("frames", LargeBinary, nullable=False),
    Column("memory", LargeBinary, nullable=False),
    Column("latitude_deg", Float),
    Column("longitude_deg", Float),
    Column("is_position_valid", Boolean),
)

vehicle_event = Table(
    "vehicle_event",
    TELEMETRY,
    Column("vin", String(17), primary_key=True),
    Column("at_s", BigInteger, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("detail", Text, nullable=False),
    Index("vehicle_event_by_kind", "vin", "kind", "at_s"),
    sqlite_with_rowid=False,
)

# The processes that write frames; 0 stands for the versions that had no names. A name whose frames are all derived may go.
report_writer = Table(
    "report_writer",
    TELEMETRY,
    Column("number", Integer, Identity(), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    # On PostgreSQL: nothing of this writer is behind it. On SQLite each partition says so itself.
    Column("newest_position", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

# How far each writer's frames have been derived: on SQLite in every partition, on PostgreSQL in all of them ("frame").
report_mark = Table(
    "report_mark",
    TELEMETRY,
    Column("writer", Integer, primary_key=True, autoincrement=False),
    Column("place", String(32), primary_key=True),
    Column("derived_to", BigInteger, nullable=False),
)

# One row: how often a process has derived for another. Who finds another number than before has to read states again.
takeover = Table("takeover", TELEMETRY, Column("count", BigInteger, primary_key=True, autoincrement=False))

# Partitions of frames: how far they have been derived by anyone, and the newest arrival up to there.
report_partition = Table(
    "report_partition",
    TELEMETRY,
    Column("name", String(32), primary_key=True),
    Column("derived_to", BigInteger, nullable=False),
    Column("newest_arrival_ns", BigInteger, nullable=False),
)
