"""When a unit's parts do what they do, within a second: the rule of phase of docs/decisions/0068-fleet-units.md.

    0 ms               the physics steps, once a second, before anything else
    5 ms               the sensor in the main line measures and sends
    10 ms to 100 ms    the slaves measure and send, one after another
    100 ms             the master latches all values; a report at T shows the latch of floor(T - 0.1 s)
    100 ms to 850 ms   a master that has booted asks its slaves who they are: undisturbed, so it takes equally long for every unit

All seconds are whole seconds since the epoch. So what a report shows is a function of the second that it shows, and a unit of
columns can say it without a bus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.kernel import MS, SECOND

if TYPE_CHECKING:
    from bmsota_sim.profiles import SeriesProfile

__all__ = ["LATCH_NS", "SENSOR_OFFSET_NS", "discovery_begins", "next_latch", "slave_offset_ns"]

LATCH_NS = 100 * MS
# A discovery lasts 150 ms at most.
DISCOVERY_LATEST_NS = 850 * MS
SENSOR_OFFSET_NS = 5 * MS
SLAVE_STEP_NS = 10 * MS
# The last slave's frames must be there by the latch: a round of twelve cells takes 1.4 ms at 500 kbit/s.
LAST_SLAVE_NS = 90 * MS


def next_latch(now_ns: int) -> int:
    """The first latch after *now_ns*."""
    return (now_ns - LATCH_NS) // SECOND * SECOND + SECOND + LATCH_NS


def discovery_begins(earliest_ns: int) -> int:
    """When a master may ask its slaves who they are: not before *earliest_ns*, and between two rounds of measurements."""
    second, phase = divmod(earliest_ns, SECOND)
    if LATCH_NS <= phase <= DISCOVERY_LATEST_NS:
        return earliest_ns
    return (second + (phase > LATCH_NS)) * SECOND + LATCH_NS


def slave_offset_ns(profile: SeriesProfile, position: int) -> int:
    """How long after its round's beginning the slave at *position* measures."""
    return position * min(SLAVE_STEP_NS, LAST_SLAVE_NS // profile.slave_count)
