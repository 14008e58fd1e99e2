"""The platform's use cases. `Services` is all of them around one `Context`; times are arguments everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.services.accounts import AccountService, Login
from bmsota_cloud.services.audit import AuditService
from bmsota_cloud.services.context import (
    LINKS_MAX,
    REPORT_KEEP_S_MIN,
    CommandRouter,
    Context,
    LinkKeys,
    PlatformKeys,
    PlatformSettings,
)
from bmsota_cloud.services.device import DeviceService
from bmsota_cloud.services.equipment import EquipmentService, NodeFact
from bmsota_cloud.services.histories import HistoryService
from bmsota_cloud.services.ingest import IngestService
from bmsota_cloud.services.live import LiveFeed, Subscription
from bmsota_cloud.services.ota_task_views import CodeView, MailView, TaskDetail, TaskRow, UpgradeView
from bmsota_cloud.services.ota_tasks import OtaTaskService
from bmsota_cloud.services.outbox import OutboxService
from bmsota_cloud.services.refusals import RefusalService, network_of
from bmsota_cloud.services.releases import ReleaseService
from bmsota_cloud.services.telemetry import TelemetryService
from bmsota_cloud.services.upgrades import Instruction, ReportVerdict, UpgradeService
from bmsota_cloud.services.vehicles import VehicleDetail, VehicleRow, VehicleService

if TYPE_CHECKING:
    from collections import Counter

__all__ = [
    "LINKS_MAX",
    "REPORT_KEEP_S_MIN",
    "AccountService",
    "AuditService",
    "CodeView",
    "CommandRouter",
    "Context",
    "DeviceService",
    "EquipmentService",
    "HistoryService",
    "IngestService",
    "Instruction",
    "LinkKeys",
    "LiveFeed",
    "Login",
    "MailView",
    "NodeFact",
    "OtaTaskService",
    "OutboxService",
    "PlatformKeys",
    "PlatformSettings",
    "RefusalService",
    "ReleaseService",
    "ReportVerdict",
    "Services",
    "Subscription",
    "TaskDetail",
    "TaskRow",
    "TelemetryService",
    "UpgradeService",
    "UpgradeView",
    "VehicleDetail",
    "VehicleRow",
    "VehicleService",
    "network_of",
]


@dataclass(frozen=True, slots=True)
class Services:
    """Every use case of the platform."""

    accounts: AccountService
    audit: AuditService
    device: DeviceService
    equipment: EquipmentService
    histories: HistoryService
    ingest: IngestService
    live: LiveFeed
    ota_tasks: OtaTaskService
    outbox: OutboxService
    refusals: RefusalService
    releases: ReleaseService
    telemetry: TelemetryService
    upgrades: UpgradeService
    vehicles: VehicleService
    counters: Counter[str]

    @classmethod
    def around(cls, context: Context) -> Services:
        equipment = EquipmentService(context)
        return cls(
            accounts=AccountService(context),
            audit=AuditService(context),
            device=DeviceService(context),
            equipment=equipment,
            histories=HistoryService(context),
            ingest=IngestService(context, equipment),
            live=context.live,
            ota_tasks=OtaTaskService(context),
            outbox=OutboxService(context),
            refusals=RefusalService(context),
            releases=ReleaseService(context),
            telemetry=TelemetryService(context),
            upgrades=UpgradeService(context),
            vehicles=VehicleService(context),
            counters=context.counters,
        )
