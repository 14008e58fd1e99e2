"""What goes into the updater and comes out of it, as values: conditions in, actions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmsota.image import ImageVersion
    from bmsota.node import FlashJob
    from bmsota.ota._http import HttpRequest
    from bmsota.ota._states import Stage

DRIVING = "driving"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLimits:
    """Between which limits a pack counts as at rest."""

    soc_pct_min: float = 10.0
    """Flashing must not end in an empty 12 V supply, which the pack feeds."""
    current_a_max: float = 15.0
    """In either direction. The electronics of a vehicle that stands take less, also from a pack of 30 V; a drive or a
    charger takes more."""
    supply_v_min: float = 11.5
    """Of the 12 V supply: a lead battery below this is empty, and a flash that is programmed while it sags wears or tears."""
    fault_level_max: int = 2
    """Of GB/T 32960: level 3 is "stop and call for help". A lower fault may be what the upgrade mends."""
    rest_wait_s: int = 1800
    """How long a master in its test boot waits for rest before it goes back to its old image."""


_POWER_LIMITS = PowerLimits()


@dataclass(frozen=True, slots=True)
class PowerConditions:
    """What the vehicle is doing, as far as an upgrade cares. None: the vehicle has no such signal, and it is not judged."""

    ignition_on: bool
    speed_kmh: float
    is_charging: bool
    soc_pct: float
    contactors_closed: bool | None = None
    """The main contactors, to the drive and the charger."""
    current_a: float | None = None
    """> 0: discharging."""
    supply_v: float | None = None
    """Of the 12 V supply."""
    fault_level: int | None = None
    """The highest of the pack's and the vehicle's faults, 0 to 3."""

    def refusals(self, limits: PowerLimits = _POWER_LIMITS) -> tuple[str, ...]:
        """Why the pack is not at rest, or must not be upgraded now; empty when it may. A value that is no number refuses."""
        rules = (
            (self.ignition_on, "ignition off"),
            (self.speed_kmh <= 0, DRIVING),
            (not self.is_charging, "charging"),
            (not self.contactors_closed, "contactors closed"),
            (
                self.current_a is None or abs(self.current_a) <= limits.current_a_max,
                f"current above {limits.current_a_max:g} A",
            ),
            (self.soc_pct >= limits.soc_pct_min, f"state of charge below {limits.soc_pct_min:g} %"),
            (
                self.supply_v is None or self.supply_v >= limits.supply_v_min,
                f"12 V supply below {limits.supply_v_min:g} V",
            ),
            (
                self.fault_level is None or self.fault_level <= limits.fault_level_max,
                f"a fault above level {limits.fault_level_max}",
            ),
        )
        return tuple(reason for is_met, reason in rules if not is_met)


@dataclass(frozen=True, slots=True)
class StartHttp:
    """Send *request* to the device API below *base_url*; one exchange at a time."""

    base_url: str
    request: HttpRequest


@dataclass(frozen=True, slots=True)
class AbortHttp:
    """Drop the exchange under way; nothing more of it is wanted."""


@dataclass(frozen=True, slots=True)
class TellState:
    """Tell the platform how far the order is. Only the newest matters when the link is down."""

    order_id: str
    """Empty before the order is known."""
    stage: Stage
    progress_pct: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LogNote:
    """For the unit's log: a download that broke off, a block that arrived wrong. Nothing has to be done."""

    text: str


@dataclass(frozen=True, slots=True)
class SendReport:
    """Send the signed post-boot report; repeat at every login until `report_acknowledged`."""

    document: bytes


@dataclass(frozen=True, slots=True)
class DiscoverNodes:
    """Ask every node of the pack who it is and what it runs; answer with `nodes_discovered`."""


@dataclass(frozen=True, slots=True)
class FlashSlaves:
    """Flash these slaves; answer with `slaves_flashed`."""

    jobs: tuple[FlashJob, ...]


@dataclass(frozen=True, slots=True)
class ActivateSlaves:
    """Let these slaves boot their new image in test; answer with `slaves_activated`."""

    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunSelfTest:
    """Check the pack under the new image; answer with `self_tested`."""


@dataclass(frozen=True, slots=True)
class ConfirmSlaves:
    """Make the new image of these slaves permanent; answer with `slaves_confirmed`."""

    versions: tuple[tuple[int, ImageVersion], ...]
    """(position, what must run there): a slave that has fallen back meanwhile must not confirm its old image."""


@dataclass(frozen=True, slots=True)
class RaiseCounters:
    """Raise the security counters of these slaves to their images'; answer with `counters_raised`."""

    versions: tuple[tuple[int, ImageVersion], ...]
    """As in `ConfirmSlaves`."""


@dataclass(frozen=True, slots=True)
class RevertSlaves:
    """Revert these slaves to the image they had, and restart those; answer with `slaves_reverted`."""

    positions: tuple[int, ...]
    restart: tuple[int, ...]
    """Slaves that run what they always ran, and may still be in their bootloader, or may be about to try the new image."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Restart the master; the boot decides which image runs."""

    reason: str


Action = (
    StartHttp
    | AbortHttp
    | TellState
    | LogNote
    | SendReport
    | DiscoverNodes
    | FlashSlaves
    | ActivateSlaves
    | RunSelfTest
    | ConfirmSlaves
    | RaiseCounters
    | RevertSlaves
    | Reset
)
