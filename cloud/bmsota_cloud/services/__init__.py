"""The platform's use cases. `Services` is all of them around one `Context`; times are arguments everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.services.accounts import AccountService, Login
from bmsota_cloud.services.audit import AuditService
from bmsota_cloud.services.context import CommandRouter, Context, PlatformKeys, PlatformSettings
from bmsota_cloud.services.device import DeviceService
from bmsota_cloud.services.equipment import EquipmentService, NodeFact
from bmsota_cloud.services.histories import HistoryService
from bmsota_cloud.services.ingest import IngestService
from bmsota_cloud.services.live import LiveFeed, Subscription
from bmsota_cloud.services.monitoring import Figures, Health, MonitoringService
from bmsota_cloud.services.ota_task_views import CodeView, MailView, TaskDetail, TaskRow, UpgradeView
from bmsota_cloud.services.ota_tasks import OtaTaskService
from bmsota_cloud.services.outbox import OutboxService
from bmsota_cloud.services.presence import PresenceService, SteadyTime
from bmsota_cloud.services.releases import ReleaseService
from bmsota_cloud.services.telemetry import TelemetryService
from bmsota_cloud.services.upgrades import Instruction, ReportVerdict, UpgradeService
from bmsota_cloud.services.vehicles import VehicleDetail, VehicleListing, VehicleRow, VehicleService

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

__all__ = [
    "AccountService",
    "AuditService",
    "CodeView",
    "CommandRouter",
    "Context",
    "DeviceService",
    "EquipmentService",
    "Figures",
    "Health",
    "HistoryService",
    "IngestService",
    "Instruction",
    "LiveFeed",
    "Login",
    "MailView",
    "MonitoringService",
    "NodeFact",
    "OtaTaskService",
    "OutboxService",
    "PlatformKeys",
    "PlatformSettings",
    "PresenceService",
    "ReleaseService",
    "ReportVerdict",
    "Services",
    "SteadyTime",
    "Subscription",
    "TaskDetail",
    "TaskRow",
    "TelemetryService",
    "UpgradeService",
    "UpgradeView",
    "VehicleDetail",
    "VehicleListing",
    "VehicleRow",
    "VehicleService",
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
    monitoring: MonitoringService
    ota_tasks: OtaTaskService
    outbox: OutboxService
    presence: PresenceService
    releases: ReleaseService
    telemetry: TelemetryService
    upgrades: UpgradeService
    vehicles: VehicleService
    counters: Counter[str]
    gauges: dict[str, Callable[[], float]]

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
            monitoring=MonitoringService(context),
            ota_tasks=OtaTaskService(context),
            outbox=OutboxService(context),
            presence=context.presence,
            releases=ReleaseService(context),
            telemetry=TelemetryService(context),
            upgrades=UpgradeService(context),
            vehicles=VehicleService(context),
            counters=context.counters,
            gauges=context.gauges,
        )
