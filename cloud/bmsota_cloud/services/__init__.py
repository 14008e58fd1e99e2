"""The platform's use cases. `Services` is all of them around one `Context`; times are arguments everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.services.accounts import AccountService, Login
from bmsota_cloud.services.audit import AuditService
from bmsota_cloud.services.context import CommandRouter, Context, PlatformKeys, PlatformSettings
from bmsota_cloud.services.device import DeviceService
from bmsota_cloud.services.ingest import IngestService
from bmsota_cloud.services.live import LiveFeed, Subscription
from bmsota_cloud.services.ota_tasks import OtaTaskService
from bmsota_cloud.services.outbox import OutboxService
from bmsota_cloud.services.releases import ReleaseService
from bmsota_cloud.services.upgrade_history import UpgradeHistoryService
from bmsota_cloud.services.upgrades import Instruction, ReportVerdict, UpgradeService
from bmsota_cloud.services.vehicles import NodeFact, VehicleService
from bmsota_cloud.services.views import CodeView, MailView, TaskDetail, TaskRow, UpgradeView, VehicleDetail, VehicleRow

if TYPE_CHECKING:
    from collections import Counter

__all__ = [
    "AccountService",
    "AuditService",
    "CodeView",
    "CommandRouter",
    "Context",
    "DeviceService",
    "IngestService",
    "Instruction",
    "LiveFeed",
    "Login",
    "MailView",
    "NodeFact",
    "OtaTaskService",
    "OutboxService",
    "PlatformKeys",
    "PlatformSettings",
    "ReleaseService",
    "ReportVerdict",
    "Services",
    "Subscription",
    "TaskDetail",
    "TaskRow",
    "UpgradeHistoryService",
    "UpgradeService",
    "UpgradeView",
    "VehicleDetail",
    "VehicleRow",
    "VehicleService",
]


@dataclass(frozen=True, slots=True)
class Services:
    """Every use case of the platform."""

    accounts: AccountService
    audit: AuditService
    device: DeviceService
    ingest: IngestService
    live: LiveFeed
    ota_tasks: OtaTaskService
    outbox: OutboxService
    releases: ReleaseService
    upgrade_history: UpgradeHistoryService
    upgrades: UpgradeService
    vehicles: VehicleService
    counters: Counter[str]

    @classmethod
    def around(cls, context: Context) -> Services:
        vehicles = VehicleService(context)
        return cls(
            accounts=AccountService(context),
            audit=AuditService(context),
            device=DeviceService(context),
            ingest=IngestService(context, vehicles),
            live=context.live,
            ota_tasks=OtaTaskService(context),
            outbox=OutboxService(context),
            releases=ReleaseService(context),
            upgrade_history=UpgradeHistoryService(context),
            upgrades=UpgradeService(context),
            vehicles=vehicles,
            counters=context.counters,
        )
