"""What a unit makes of an upgrade, as a scenario's `ota.outcomes` says: how it is made to, and which status the platform must then show.

Each is what a real unit may do, and none is a word to the platform: it trusts another key, its 12 V battery is flat, its download
stands still or comes wrong, its driver never switches off, its new image does not pass its self-test, it does not hear instructions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.keys import strange_keys

if TYPE_CHECKING:
    from bmsota.master import UnitKeys
    from bmsota_sim.devices.unit import FullUnit
    from bmsota_sim.run.link import RunUplink
    from bmsota_sim.run.model import Ota
    from bmsota_sim.run.timeline import Planned

__all__ = ["expected_statuses", "may_change_outcome", "prepare_outcome", "trusted_keys"]

# Below `PowerLimits.supply_v_min`.
FLAT_SUPPLY_V = 10.9
# Long enough to be seen as a download that has begun.
HANG_AFTER_BYTES = 8192
AFTER_DOWNLOAD_NS = 2 * NS_PER_S
SELF_TEST_REASON = "the scenario has its self-test fail"
# The platform looks for what has run out every few seconds, and the run asks for it as often.
EXPIRY_SLACK_S = 30.0

_END = {
    "succeeds": "Upgrade succeeded",
    "rejects": "Rejected",
    "rolls_back": "Rolled back",
    "fails_verification": "Upgrade failed",
}
_OPEN = {
    "stays_queued": ("To be downloaded",),
    "hangs_in_download": ("Downloading",),
    "times_out": ("Download Complete",),
    # The second: once it has sent its instruction on a link.
    "never_answers": ("Approved", "To be downloaded"),
}
# A unit that says again and again how far it is does not time out: the validity counts from what was heard last.
_SILENT = frozenset({"times_out", "never_answers"})
# What such an entry does to a unit passes, and the upgrade goes on.
_PASSES = frozenset(
    {
        "offline", "platform_outage", "storm", "duplicate_frames", "out_of_order", "driving", "charging", "position_frozen",
        "position_jump", "clock_skew", "clock_jump", "download_cut", "corrupt_byte", "slave_power_cut",
    }
)  # fmt: skip


def trusted_keys(outcome: str, keys: UnitKeys, seed: int, unit: str) -> UnitKeys:
    """The keys that a unit with this outcome trusts."""
    return strange_keys(keys, seed, unit) if outcome == "rejects" else keys


def prepare_outcome(outcome: str, unit: FullUnit, link: RunUplink, *, ota: Ota, version: str) -> None:
    """Make *unit* so that an upgrade to *version* ends, or does not end, like that."""
    if outcome != "times_out":
        unit.cycle_power_after_download(AFTER_DOWNLOAD_NS, round(ota.power_cycle_off_s * NS_PER_S))
    match outcome:
        case "stays_queued":
            unit.vehicle.supply_v = FLAT_SUPPLY_V
        case "hangs_in_download":
            link.hang_download(HANG_AFTER_BYTES)
        case "fails_verification":
            link.spoil_downloads()
        case "rolls_back":
            unit.fail_self_test(version, SELF_TEST_REASON)
        case "never_answers":
            link.ignore_commands()
        case _:
            pass


def expected_statuses(outcome: str, ota: Ota, *, valid_for_s: float | None) -> tuple[str, ...]:
    """The statuses of which one must be there at the end. *valid_for_s*: how much time the task had left then; None: no limit."""
    if outcome in _END:
        return (_END[outcome],)
    if ota.validity_s is None or valid_for_s is None or valid_for_s > EXPIRY_SLACK_S:
        return _OPEN[outcome]
    if outcome in _SILENT and valid_for_s < -EXPIRY_SLACK_S:
        return ("Timed out",)
    return (*_OPEN[outcome], "Timed out")


def may_change_outcome(planned: Planned) -> bool:
    """Whether this entry of the timeline may give its unit's upgrade another end than the one that was drawn."""
    return planned.entry.do not in _PASSES
