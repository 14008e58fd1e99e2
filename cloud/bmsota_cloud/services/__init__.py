"""The platform's use cases. `Services` is all of them around one `Context`; times are arguments everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.services.accounts import DEVICE_TOKEN_VALID_S, PASSWORD_LENGTH_MIN, AccountService, Login
from bmsota_cloud.services.audit import AuditService
from bmsota_cloud.services.clock import ClockService
from bmsota_cloud.services.compaction import CompactionService
from bmsota_cloud.services.context import (
    LINKS_MAX,
    REPORT_KEEP_S_MIN,
    CommandRouter,
    Context,
    LinkKeys,
    PlatformKeys,
    PlatformSettings,
)
from bmsota_cloud.services.customers import CustomerService, CustomerView
from bmsota_cloud.services.device import DeviceService
from bmsota_cloud.services.equipment import EquipmentService, NodeFact
from bmsota_cloud.services.exports import (
    EXPORT_FILES_MAX,
    EXPORT_UNFINISHED_MAX,
    XLSX_REPORTS_MAX,
    XLSX_VEHICLES_MAX,
    ExportService,
)
from bmsota_cloud.services.histories import HistoryService
from bmsota_cloud.services.ingest import FrameWriter, IngestService, stored_frame
from bmsota_cloud.services.limits import CodeLimits, RateLimits
from bmsota_cloud.services.link_watch import LinkNote, LinkWatch, Oddity
from bmsota_cloud.services.live import LiveFeed, Subscription
from bmsota_cloud.services.monitoring import Figures, Health, MonitoringService
from bmsota_cloud.services.ota_task_views import (
    ActView,
    CodeView,
    MailView,
    OrderReportView,
    TaskDetail,
    TaskRow,
    UpgradeView,
    VehiclePreview,
)
from bmsota_cloud.services.ota_tasks import OtaTaskService
from bmsota_cloud.services.outbox import OutboxService
from bmsota_cloud.services.overview import (
    MARKS_MAX,
    ZOOM_MAX,
    FleetCluster,
    FleetMap,
    FleetPage,
    FleetPoint,
    FleetRow,
    FleetSort,
    MapBounds,
    OverviewService,
)
from bmsota_cloud.services.platform_logins import PlatformLoginService, PlatformLoginVerdict
from bmsota_cloud.services.presence import PresenceService, SteadyTime
from bmsota_cloud.services.projects import ProjectService, ProjectView
from bmsota_cloud.services.records import GAP_PERIODS, RECORD_PERIOD_S, RecordService, RecordView
from bmsota_cloud.services.refusals import RefusalService, network_of
from bmsota_cloud.services.releases import RELEASE_FILES_MAX, ReleaseRow, ReleaseService
from bmsota_cloud.services.run_tracking import RunKind
from bmsota_cloud.services.task_plans import PlannedVehicle, TaskPlan, TaskPlans, VersionChoice
from bmsota_cloud.services.task_results import TaskResults
from bmsota_cloud.services.telemetry import EventView, ReportView, TelemetryService
from bmsota_cloud.services.tokens import TOKEN_DAYS_MAX, NewToken, TokenService
from bmsota_cloud.services.upgrades import Instruction, ReportVerdict, UpgradeService
from bmsota_cloud.services.vehicle_history import VehicleHistoryService
from bmsota_cloud.services.vehicle_import import ImportResult, VehicleEntry, VehicleImport
from bmsota_cloud.services.vehicle_management import VehicleManagementService
from bmsota_cloud.services.vehicle_survey import REMARK_WORDS
from bmsota_cloud.services.vehicles import VehicleDetail, VehicleListing, VehicleRow, VehicleService, is_vin

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota_cloud.services.counters import Counters

__all__ = [
    "DEVICE_TOKEN_VALID_S",
    "EXPORT_FILES_MAX",
    "EXPORT_UNFINISHED_MAX",
    "GAP_PERIODS",
    "LINKS_MAX",
    "MARKS_MAX",
    "PASSWORD_LENGTH_MIN",
    "RECORD_PERIOD_S",
    "RELEASE_FILES_MAX",
    "REMARK_WORDS",
    "REPORT_KEEP_S_MIN",
    "TOKEN_DAYS_MAX",
    "XLSX_REPORTS_MAX",
    "XLSX_VEHICLES_MAX",
    "ZOOM_MAX",
    "AccountService",
    "ActView",
    "AuditService",
    "ClockService",
    "CodeView",
    "CommandRouter",
    "CompactionService",
    "Context",
    "CustomerService",
    "CustomerView",
    "DeviceService",
    "EquipmentService",
    "EventView",
    "ExportService",
    "Figures",
    "FleetCluster",
    "FleetMap",
    "FleetPage",
    "FleetPoint",
    "FleetRow",
    "FleetSort",
    "FrameWriter",
    "Health",
    "HistoryService",
    "ImportResult",
    "IngestService",
    "Instruction",
    "LinkKeys",
    "LinkNote",
    "LinkWatch",
    "LiveFeed",
    "Login",
    "MailView",
    "MapBounds",
    "MonitoringService",
    "NewToken",
    "NodeFact",
    "Oddity",
    "OrderReportView",
    "OtaTaskService",
    "OutboxService",
    "OverviewService",
    "PlannedVehicle",
    "PlatformKeys",
    "PlatformLoginService",
    "PlatformLoginVerdict",
    "PlatformSettings",
    "PresenceService",
    "ProjectService",
    "ProjectView",
    "RecordService",
    "RecordView",
    "RefusalService",
    "ReleaseRow",
    "ReleaseService",
    "ReportVerdict",
    "ReportView",
    "RunKind",
    "Services",
    "SteadyTime",
    "Subscription",
    "TaskDetail",
    "TaskPlan",
    "TaskPlans",
    "TaskResults",
    "TaskRow",
    "TelemetryService",
    "TokenService",
    "UpgradeService",
    "UpgradeView",
    "VehicleDetail",
    "VehicleEntry",
    "VehicleHistoryService",
    "VehicleImport",
    "VehicleListing",
    "VehiclePreview",
    "VehicleRow",
    "VehicleService",
    "VersionChoice",
    "is_vin",
    "network_of",
    "stored_frame",
]


@dataclass(frozen=True, slots=True)
class Services:
    """Every use case of the platform."""

    accounts: AccountService
    audit: AuditService
    clock: ClockService
    compaction: CompactionService
    customers: CustomerService
    vehicle_management: VehicleManagementService
    device: DeviceService
    equipment: EquipmentService
    exports: ExportService
    histories: HistoryService
    ingest: IngestService
    link_watch: LinkWatch
    live: LiveFeed
    monitoring: MonitoringService
    ota_tasks: OtaTaskService
    outbox: OutboxService
    overview: OverviewService
    platform_logins: PlatformLoginService
    presence: PresenceService
    projects: ProjectService
    records: RecordService
    refusals: RefusalService
    releases: ReleaseService
    task_plans: TaskPlans
    task_results: TaskResults
    telemetry: TelemetryService
    tokens: TokenService
    upgrades: UpgradeService
    vehicle_histories: VehicleHistoryService
    vehicles: VehicleService
    vehicle_import: VehicleImport
    counters: Counters
    gauges: dict[str, Callable[[], float]]

    @classmethod
    def around(cls, context: Context) -> Services:
        watch = LinkWatch(context)
        equipment = EquipmentService(context, watch)
        limits = RateLimits(context.store, context.clock_guard)
        return cls(
            accounts=AccountService(context, limits),
            audit=AuditService(context),
            device=DeviceService(context, limits, watch),
            clock=ClockService(context, limits),
            compaction=CompactionService(context),
            customers=CustomerService(context),
            vehicle_management=VehicleManagementService(context),
            equipment=equipment,
            exports=ExportService(context),
            histories=HistoryService(context, watch),
            ingest=IngestService(context, equipment),
            link_watch=watch,
            live=context.live,
            monitoring=MonitoringService(context),
            ota_tasks=OtaTaskService(context, CodeLimits(limits, context)),
            outbox=OutboxService(context),
            overview=OverviewService(context),
            platform_logins=PlatformLoginService(context, limits),
            presence=context.presence,
            projects=ProjectService(context),
            records=RecordService(context),
            refusals=RefusalService(context),
            releases=ReleaseService(context),
            task_plans=TaskPlans(context),
            task_results=TaskResults(context),
            telemetry=TelemetryService(context),
            tokens=TokenService(context),
            upgrades=UpgradeService(context, equipment),
            vehicle_histories=VehicleHistoryService(context),
            vehicles=(vehicles := VehicleService(context, watch)),
            vehicle_import=VehicleImport(context, vehicles),
            counters=context.counters,
            gauges=context.gauges,
        )
