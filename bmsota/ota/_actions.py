"""What goes into the updater and comes out of it, as values: conditions in, actions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmsota.image import ImageVersion
    from bmsota.node import FlashJob
    from bmsota.ota._http import HttpRequest
    from bmsota.ota._states import Stage


# A pack whose state of charge is below this is not upgraded: flashing must not end in an empty 12 V supply.
SOC_PCT_MIN = 10.0


@dataclass(frozen=True, slots=True)
class PowerConditions:
    """What the vehicle is doing, as far as an upgrade cares."""

    ignition_on: bool
    speed_kmh: float
    is_charging: bool
    soc_pct: float

    def refusals(self) -> tuple[str, ...]:
        """Why upgrade mode must not be entered now; empty when it may."""
        rules = (
            (not self.ignition_on, "ignition off"),
            (self.speed_kmh > 0, "driving"),
            (self.is_charging, "charging"),
            (self.soc_pct < SOC_PCT_MIN, f"state of charge below {SOC_PCT_MIN:g} %"),
        )
        return tuple(reason for refused, reason in rules if refused)


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
