"""Over-the-air updates: signed documents, the device's trust, the download, the device API.

Sans-IO, both ends. `manifest`, `order` and `report` are the three signed documents; `trusted` is the device's judgement over
them; `download` fetches an image; `device_api` is the HTTP API's messages; `updater` is the master's whole upgrade, `shelf`
the place of its downloads; `field_upgrades` notices what was flashed without an order. What is signed by whom and checked in which order: docs/trust.md.
"""

from bmsota.image import Attack
from bmsota.ota.download import (
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
from bmsota.ota.http import HttpRequest, HttpResponse
from bmsota.ota.manifest import (
    ReleaseImage,
    ReleaseManifest,
    describe_image,
    parse_manifest,
    sign_manifest,
    verify_manifest,
)
from bmsota.ota.order import UpgradeOrder, sign_order, verify_order
from bmsota.ota.report import NodeReport, Outcome, PostBootReport, sign_report, verify_report
from bmsota.ota.trusted import DeviceTrust, TrustState

__all__ = [
    "Attack",
    "AttemptFailed",
    "BlockRefused",
    "BlockVerified",
    "DeviceTrust",
    "Download",
    "DownloadCompleted",
    "DownloadEvent",
    "DownloadFailed",
    "DownloadOptions",
    "DownloadState",
    "HttpRequest",
    "HttpResponse",
    "NodeReport",
    "Outcome",
    "PostBootReport",
    "ReleaseImage",
    "ReleaseManifest",
    "RestartedFromZero",
    "Resumed",
    "TrustState",
    "UpgradeOrder",
    "describe_image",
    "parse_manifest",
    "sign_manifest",
    "sign_order",
    "sign_report",
    "verify_manifest",
    "verify_order",
    "verify_report",
]
