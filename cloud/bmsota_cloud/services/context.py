"""What every service is given: stores, keys, randomness, settings, and the two ways out (live feed, command router).

Services are synchronous and take `now`: the same code runs behind a web server and in a simulation without an event
loop. Nothing here reads a clock or draws randomness of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.clock_guard import ClockGuard
from bmsota_cloud.services.counters import Counters
from bmsota_cloud.services.run_tracking import RUN_GAP_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from bmsota.gbt32960 import DataUnitCipher, Layouts, ReportVerifier
    from bmsota.image import PublicKey
    from bmsota_cloud.domain.platform_peers import PlatformPeer
    from bmsota_cloud.services.export_columns import ExportFiles
    from bmsota_cloud.services.live import LiveFeed
    from bmsota_cloud.services.presence import PresenceService
    from bmsota_cloud.storage.base import Store, TelemetryStore

__all__ = [
    "LINKS_MAX",
    "REPORT_COMPACT_AFTER_S_MIN",
    "REPORT_KEEP_S_MIN",
    "CommandRouter",
    "Context",
    "LinkKeys",
    "PlatformKeys",
    "PlatformSettings",
]

LINKS_MAX = 20_000
"""A process may have as many descriptors; beyond that, the fleet is divided among several."""
REPORT_KEEP_S = 10 * 24 * 3600
"""How long reports are kept by default: the longest time for backfill (2025, 5.5: 7 days) and a long weekend."""
EVENT_KEEP_S = 366 * 24 * 3600
"""Histories of faults, alarms and runs outlive the reports that they come from."""
REPORT_KEEP_S_MIN = 7 * 24 * 3600
"""The standard's backfill must not be thrown away as soon as it has come."""
REPORT_COMPACT_AFTER_S = 24 * 3600
"""How long reports stay rows by default when their day is over. What an evening without reception has held back has come by then,
and pages of today and yesterday, which are asked for most, are read from rows."""
REPORT_COMPACT_AFTER_S_MIN = 3600
UPLOAD_SIZE_BYTES_MAX = 256 * 1024 * 1024
"""A release of 16 images of 16 MiB, the largest we know of anywhere."""


EXPORT_KEEP_S = 7 * 24 * 3600
EXPORT_SIZE_BYTES_MAX = 8 * 1024**3
"""A month of 2,000 vehicles, as Parquet."""


class CommandRouter(Protocol):
    """Reaches the link of a vehicle, in whichever gateway it is."""

    def notify(self, vin: str) -> None:
        """Wake the vehicle's link, if there is one: the store holds an instruction for it.

        Only a hint: what has to be sent is in the store, and a link asks at every login anyway. So a lost hint costs
        time, never an instruction, and a router over a message bus needs no delivery guarantee.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformKeys:
    """The platform's own signing key and the public keys it trusts."""

    order_signing_key: Ed25519PrivateKey
    """Online: signs upgrade orders."""
    manifest_public_keys: tuple[Ed25519PublicKey, ...]
    """Release manifests signed with one of these may be uploaded."""
    image_public_keys: tuple[PublicKey, ...]
    """Images signed with one of these may be in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKeys:
    """What data units are deciphered with; a vehicle without a key of its own has the default one, if there is one."""

    default: DataUnitCipher | None = None
    by_vin: Mapping[str, DataUnitCipher] = field(default_factory=dict)

    def cipher_of(self, vin: str) -> DataUnitCipher | None:
        return self.by_vin.get(vin, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformSettings:
    """Limits and addresses. Every duration is in seconds."""

    device_url: str = "http://127.0.0.1:8080"
    """Where units reach the device API; `/device/v1/...` is below it."""
    device_url_aliases: tuple[str, ...] = ()
    """Other URLs under which units may reach the device API. A unit's proof must name the origin of one of these."""
    accepts_proof_without_origin: bool = False
    """Whether units whose firmware does not name the origin yet (session layout 0) may log in. A stranger whom such a unit
    takes for its platform can log in as that unit."""
    pages_url: str = "http://127.0.0.1:8080"
    """Where people reach the pages; for the links in mails."""
    mail_sender: str = "bmsota cloud <noreply@bmsota.example>"
    approval_code_valid_s: int = 24 * 3600
    order_valid_s: int = 7 * 24 * 3600
    """An order not fetched in this time is signed again with a higher sequence."""
    challenge_valid_s: int = 60
    device_session_valid_s: int = 3600
    session_idle_s: int = 8 * 3600
    session_valid_s: int = 24 * 3600
    acknowledge_reports: bool = False
    """Answer a correct report once it is committed and synced. Annex B answers none on a terminal's link."""
    report_keep_s: int = REPORT_KEEP_S
    """How long reports are kept after their arrival. A vehicle may send what it could not send for 3 days (2016, B.2.8) or 7 (2025,
    5.5), so at least 7 days."""
    event_keep_s: int = EVENT_KEEP_S
    """How long events (faults, alarms, runs) are kept after their arrival; at least as long as reports, whatever stands here."""
    report_compact_after_s: int = REPORT_COMPACT_AFTER_S
    """When a day of reports has been over for this long, it is put into compressed blocks, which take a sixth of the room; 0: never. What
    comes later is added once in this time, at least an hour."""
    hourly_partitions: bool = False
    """On SQLite, keep reports in a file an hour instead of a day: for more than some 1,000 a second. Can be changed at any time."""
    run_gap_s: int = RUN_GAP_S
    """A charging or driving run ends when so long no report of its kind has come; what is shorter is an interruption. With another
    value the runs of a day that is derived again change."""
    layouts: Layouts | None = None
    """Bodies of the vehicles' makers, to show their values; without it they are shown as bytes."""
    password_memory_kib: int = 65536
    """argon2id by RFC 9106's low-memory profile: 64 MiB, 3 passes, 4 lanes."""
    password_passes: int = 3
    password_lanes: int = 4
    links_max: int = LINKS_MAX
    """Connections of vehicles at once to one process, which needs as many descriptors; one more is closed."""
    heartbeat_window_s: int = 540
    """Without a sign for so long, a link is dead. Heartbeats may be 240 s apart (GB/T 32960.3, parameter 0x09), and one may
    be lost; a minute is for the network.
    """
    login_timeout_s: int = 240
    """A terminal tries to log in three times, a minute apart; who has not by then is none."""
    link_keys: LinkKeys = field(default_factory=LinkKeys)
    platform_peers: Mapping[str, PlatformPeer] = field(default_factory=dict)
    """Other platforms that may log in, by their codes."""
    report_verifier: ReportVerifier | None = None
    """Reports of the 2025 edition must be signed by this key."""
    map_tiles: str = ""
    """Where browsers get the base map: "https://tiles.example/{z}/{x}/{y}.png"; empty: outlines of our own."""
    map_attribution: str = ""
    """Whose base map that is."""
    upload_size_bytes_max: int = UPLOAD_SIZE_BYTES_MAX
    """The largest release upload; other requests have limits of their own."""
    export_keep_s: int = EXPORT_KEEP_S
    """How long files of exports are kept."""
    export_size_bytes_max: int = EXPORT_SIZE_BYTES_MAX
    """The largest file of an export, what it needs while it is being made included."""

    @property
    def map_tiles_origin(self) -> str:
        """Scheme, host and port of `map_tiles`; empty without."""
        return "/".join(self.map_tiles.split("/")[:3])

    def __post_init__(self) -> None:
        if self.report_compact_after_s and self.report_compact_after_s < REPORT_COMPACT_AFTER_S_MIN:
            raise ConfigurationError(
                f"report_compact_after_s: expected 0 (never) or at least {REPORT_COMPACT_AFTER_S_MIN} s, "
                f"got {self.report_compact_after_s}"
            )
        if self.report_keep_s < REPORT_KEEP_S_MIN:
            raise ConfigurationError(
                f"report_keep_s: expected at least {REPORT_KEEP_S_MIN} s (7 days, the standard's window for backfill), "
                f"got {self.report_keep_s}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The surroundings of the services."""

    store: Store
    telemetry: TelemetryStore
    keys: PlatformKeys
    draw: Callable[[int], bytes]
    """n random bytes: the operating system's, or in a simulation a seeded generator's."""
    live: LiveFeed
    router: CommandRouter
    settings: PlatformSettings
    presence: PresenceService
    clock_guard: ClockGuard = field(default_factory=ClockGuard.trusting)
    """Whether the platform's clock may delete things and end things; one that never doubts where time is virtual."""
    counters: Counters = field(default_factory=Counters)
    """How often something was left aside (a stale frame, an unknown order): nothing is dropped without a count."""
    exports: ExportFiles | None = None
    """Where files of exports are; None: there is no folder, and no exports."""
    gauges: dict[str, Callable[[], float]] = field(default_factory=dict)
    """What can be asked for its value now, as `ingest_queue_bytes`; asked from any thread. `/metrics` shows it."""
