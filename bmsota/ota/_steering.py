"""What a part of the updater may do to the whole: the seam between `_updater` and its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.ota._actions import Action
    from bmsota.ota._report import Outcome
    from bmsota.ota._states import UpdaterState


@dataclass(frozen=True, slots=True)
class Steering:
    """The updater, as its parts see it."""

    enter: Callable[[UpdaterState, int], None]
    """Go to a state; refused with LocalProtocolError unless the table allows it."""
    refusals: Callable[[], tuple[str, ...]]
    """Why the pack is not at rest now; empty when it is."""
    act: Callable[[Action], None]
    """Ask the unit for something."""
    tell: Callable[[int, str], None]
    """Tell the platform the progress in percent and a reason, in the stage of the present state."""
    conclude: Callable[[Outcome, str, int], None]
    """The outcome is known: report it."""
    withdraw: Callable[[int], None]
    """The platform has no order for this unit any more: the order is over, without a report."""
    report_answered: Callable[[bytes, int], None]
    """The platform's receipt for the report that was delivered over the device API."""
    repeat: Callable[[int], None]
    """The platform offers an order that has ended: report how, once more."""
    forget: Callable[[], None]
    """Nothing has begun: drop what is known of the order, and be idle again after the next `enter`."""
