"""Over-the-air updates: signed documents, the device's trust, the download, the device API, the updater.

Sans-IO, both ends. The public names::

    ReleaseManifest, ReleaseImage, describe_image      which images make a release; sign_, verify_, parse_manifest
    UpgradeOrder                                       what one vehicle is to do; sign_, verify_order
    PostBootReport, NodeReport, Outcome                what runs after the boot; sign_, verify_report
    IdentityReport, IdentifiedNode, ReportedUpgrade    what a unit is and runs, without an order; sign_, verify_identity
    IdentityReporter                                   when a unit sends it, and what the platform has of it
    document_kind, DocumentKind                        which of them some bytes say they are
    DeviceTrust, TrustState, load_trust_state          the device's judgement over them
    Download and its events                            one image, block by block, over a bad network
    device_api, HttpRequest, HttpResponse              the HTTP API's messages, both halves
    Updater, UpdaterState, TRANSITIONS, its actions    a master's whole upgrade, from instruction to report
    ImageStore                                         where the downloads lie
    LocalUpgradeDetector and its values                notices what was flashed without an order
    RecordFormat, OlderLayout, StoredRecord            records in numbered layouts, for what else a unit keeps

What is signed by whom, what is checked in which order, and what happens to records and documents of another version:
docs/trust.md. Rooms that wait: deltas below the download (`_delta`), keys that rotate below the trust (`_roles`).
"""

from bmsota import _needs_trust  # noqa: F401 - first: it names the extra
from bmsota.image import Attack
from bmsota.ota import _device_api as device_api
from bmsota.ota._actions import (
    AbortHttp,
    Action,
    ActivateSlaves,
    ConfirmSlaves,
    DiscoverNodes,
    FlashSlaves,
    LogNote,
    PowerConditions,
    RaiseCounters,
    Reset,
    RevertSlaves,
    RunSelfTest,
    SendReport,
    StartHttp,
    TellState,
)
from bmsota.ota._document import DocumentKind, document_kind
from bmsota.ota._download import (
    AttemptFailed,
    BlockRefused,
    BlockVerified,
    Download,
    DownloadCompleted,
    DownloadEvent,
    DownloadFailed,
    DownloadOptions,
    DownloadState,
    RestartedFromZero,
    Resumed,
)
from bmsota.ota._exchange import EXCHANGE_TRIES_MAX, EXCHANGE_WAIT_NS, EXCHANGE_WAIT_NS_MAX
from bmsota.ota._http import HttpRequest, HttpResponse
from bmsota.ota._identity import (
    IDENTITY_REPORT_SIZE_BYTES_MAX,
    IdentifiedNode,
    IdentityReport,
    ReportedUpgrade,
    sign_identity,
    verify_identity,
)
from bmsota.ota._identity_reporter import IDENTITY_RECORD, IdentityReporter
from bmsota.ota._image_store import ImageStore
from bmsota.ota._journal import TRUST_RECORD, load_trust_state
from bmsota.ota._local_upgrades import (
    LOCAL_UPGRADES_MAX,
    LOCAL_UPGRADES_RECORD,
    LocalUpgradeDetector,
    NodeSnapshot,
    NodeUpgrade,
    NodeUpgradeOutcome,
    OrderScope,
)
from bmsota.ota._manifest import (
    MANIFEST_SIZE_BYTES_MAX,
    ReleaseImage,
    ReleaseManifest,
    describe_image,
    parse_manifest,
    sign_manifest,
    verify_manifest,
)
from bmsota.ota._order import ORDER_SIZE_BYTES_MAX, UpgradeOrder, sign_order, verify_order
from bmsota.ota._pack_watch import PACK_RECORD, PackMaster, PackWatch
from bmsota.ota._records import OlderLayout, RecordFormat, StoredRecord
from bmsota.ota._report import (
    REPORT_SIZE_BYTES_MAX,
    NodeReport,
    Outcome,
    PostBootReport,
    sign_report,
    verify_report,
)
from bmsota.ota._states import STAGE_OF, TRANSITIONS, Stage, UpdaterState
from bmsota.ota._trusted import DeviceTrust, TrustState
from bmsota.ota._updater import Updater

__all__ = [
    "EXCHANGE_TRIES_MAX",
    "EXCHANGE_WAIT_NS",
    "EXCHANGE_WAIT_NS_MAX",
    "IDENTITY_RECORD",
    "IDENTITY_REPORT_SIZE_BYTES_MAX",
    "LOCAL_UPGRADES_MAX",
    "LOCAL_UPGRADES_RECORD",
    "MANIFEST_SIZE_BYTES_MAX",
    "ORDER_SIZE_BYTES_MAX",
    "PACK_RECORD",
    "REPORT_SIZE_BYTES_MAX",
    "STAGE_OF",
    "TRANSITIONS",
    "TRUST_RECORD",
    "AbortHttp",
    "Action",
    "ActivateSlaves",
    "Attack",
    "AttemptFailed",
    "BlockRefused",
    "BlockVerified",
    "ConfirmSlaves",
    "DeviceTrust",
    "DiscoverNodes",
    "DocumentKind",
    "Download",
    "DownloadCompleted",
    "DownloadEvent",
    "DownloadFailed",
    "DownloadOptions",
    "DownloadState",
    "FlashSlaves",
    "HttpRequest",
    "HttpResponse",
    "IdentifiedNode",
    "IdentityReport",
    "IdentityReporter",
    "ImageStore",
    "LocalUpgradeDetector",
    "LogNote",
    "NodeReport",
    "NodeSnapshot",
    "NodeUpgrade",
    "NodeUpgradeOutcome",
    "OlderLayout",
    "OrderScope",
    "Outcome",
    "PackMaster",
    "PackWatch",
    "PostBootReport",
    "PowerConditions",
    "RaiseCounters",
    "RecordFormat",
    "ReleaseImage",
    "ReleaseManifest",
    "ReportedUpgrade",
    "Reset",
    "RestartedFromZero",
    "Resumed",
    "RevertSlaves",
    "RunSelfTest",
    "SendReport",
    "Stage",
    "StartHttp",
    "StoredRecord",
    "TellState",
    "TrustState",
    "Updater",
    "UpdaterState",
    "UpgradeOrder",
    "describe_image",
    "device_api",
    "document_kind",
    "load_trust_state",
    "parse_manifest",
    "sign_identity",
    "sign_manifest",
    "sign_order",
    "sign_report",
    "verify_identity",
    "verify_manifest",
    "verify_order",
    "verify_report",
]
