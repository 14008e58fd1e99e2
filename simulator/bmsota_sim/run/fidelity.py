"""Which units of a run are full ones: those of groups that want it, and those that meet something a unit of columns cannot do.

Both fidelities send the same bytes, so nobody outside can tell. A unit is full for the whole run, not from the event on: who meets
what is known before the run begins.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.selection import group_units, select
from bmsota_sim.run.timeline import plan
from bmsota_sim.run.verbs import Charging, Driving, DuplicateFrames, Offline, OutOfOrder, PlatformOutage, Restart, Storm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.selection import UnitId
    from bmsota_sim.run.timeline import Planned

__all__ = ["FLEET_VERBS", "full_by_need", "full_units"]

FLEET_VERBS = (PlatformOutage, Offline, Storm, Driving, Charging, DuplicateFrames, OutOfOrder, Restart)
"""What a unit of columns can do."""


def full_units(scenario: FleetScenario, seed: int, planned: Iterable[Planned]) -> frozenset[UnitId]:
    """The full units of the run of *scenario* with *seed*, whose timeline is *planned*."""
    groups = {
        name
        for name, group in scenario.groups.items()
        if group.fidelity == "full" or round(scenario.life_of(name).measure_s * NS_PER_S) % NS_PER_S
    }
    full = {unit for unit in group_units(scenario) if unit.group in groups}
    full |= {each.unit for each in planned if each.unit is not None and not isinstance(each.entry, FLEET_VERBS)}
    if scenario.ota is not None:
        full |= set(select(scenario, seed, scenario.ota.who, "ota"))
    return frozenset(full)


def full_by_need(scenario: FleetScenario, seed: int) -> dict[str, int]:
    """How many units of each group of fleet fidelity are full nevertheless; groups without one are left out.

    Raises:
        PlanError: the timeline does not go with this seed.
    """
    full = Counter(unit.group for unit in full_units(scenario, seed, plan(scenario, seed)))
    return {name: full[name] for name, group in scenario.groups.items() if group.fidelity == "fleet" and full[name]}
