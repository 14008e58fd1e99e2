"""How a campaign ended, vehicle by vehicle, compared with what the scenario expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_sim.scenario import CorruptByte, DownloadCut, FrameDisturbed, SlavePowerCut, SlaveReplaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_sim.fleet import Fleet
    from bmsota_sim.operator import UpgradeRow
    from bmsota_sim.scenario import Fault
    from bmsota_sim.unit import Unit, UnitFigures

__all__ = ["CampaignOutcome", "VehicleResult", "vehicle_result"]


@dataclass(frozen=True, slots=True)
class VehicleResult:
    """How one vehicle ended, and what the scenario says about it."""

    name: str
    vin: str
    expected: str
    row: UpgradeRow
    frames: int
    bytes_down: int
    bytes_up: int
    changes: tuple[tuple[int, str, str], ...]
    story: tuple[str, ...]
    """Faults and interruptions, in the order in which they happened."""
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CampaignOutcome:
    """How a run ended."""

    scenario: str
    seed: int
    seconds: float
    """Of the run's own time."""
    is_virtual: bool
    trace_hash: str
    """Over every byte and event; in virtual time the same for the same scenario and seed."""
    vehicles: tuple[VehicleResult, ...]
    wrong_code_refused: bool

    @property
    def problems(self) -> list[str]:
        found = [f"{vehicle.name}: {problem}" for vehicle in self.vehicles for problem in vehicle.problems]
        if not self.wrong_code_refused:
            found.append("the platform took a wrong approval code")
        return found

    @property
    def ok(self) -> bool:
        return not self.problems


def vehicle_result(
    fleet: Fleet,
    number: int,
    unit: Unit,
    row: UpgradeRow,
    changes: tuple[tuple[int, str, str], ...],
    sources: Sequence[str],
) -> VehicleResult:
    """How vehicle *number* ended: *row* is what the platform says of it, *changes* its replaced slaves, *sources* its upgrades."""
    expected = fleet.scenario.expected_status(number)
    figures = unit.figures
    problems = []
    if row.status != expected:
        problems.append(f"expected {expected!r}, got {row.status!r} ({row.reason or 'no reason'})")
    problems += [
        problem
        for fault in fleet.scenario.faults
        if fault.vehicle == number
        for problem in _fault_problems(fault, figures, changes)
    ]
    if expected != "Upgrade succeeded" and row.status == expected and not row.reason:
        problems.append(f"{expected!r} has no reason")
    if list(sources) != ["OTA"]:
        problems.append(f"expected one OTA upgrade in the history, got {', '.join(sources) or 'nothing'}")
    return VehicleResult(
        name=unit.name,
        vin=unit.identity.vin,
        expected=expected,
        row=row,
        frames=figures.can_frames,
        bytes_down=figures.bytes_down,
        bytes_up=figures.bytes_up,
        changes=changes,
        story=_story(fleet, number, figures),
        problems=tuple(problems),
    )


def _story(fleet: Fleet, number: int, figures: UnitFigures) -> tuple[str, ...]:
    """What the scenario did to this vehicle, and what its updater noted."""
    story: list[str] = []
    plan = fleet.scenario.vehicles.get(number)
    if plan is not None and plan.offline is not None:
        story.append(f"offline from {plan.offline.from_s:g} to {plan.offline.to_s:g} s")
    if plan is not None and plan.driving is not None:
        story.append(f"driving from {plan.driving.from_s:g} to {plan.driving.to_s:g} s")
    story += figures.notes
    story += [
        f"slave {slave} lost power inside a flash operation and was resumed"
        for kind, slave in sorted(figures.faults)
        if kind == "slave_power_cut"
    ]
    return tuple(story)


def _fault_problems(fault: Fault, figures: UnitFigures, changes: Sequence[tuple[int, str, str]]) -> list[str]:
    """A scenario must also reach its faults: one that did not happen proves nothing."""
    match fault:
        case DownloadCut() | CorruptByte():
            if (fault.kind, 0) not in figures.faults:
                return [f"the planned {fault.kind} did not happen"]
        case SlavePowerCut(slave=slave):
            if (fault.kind, slave) not in figures.faults:
                return [f"the planned power cut of slave {slave} did not happen"]
        case FrameDisturbed(kind=kind, slave=slave):
            if (kind, slave) not in figures.faults:
                return [f"the planned {kind} of slave {slave} did not happen"]
        case SlaveReplaced(slave=slave):
            if not any(position == slave for position, _, _ in changes):
                return [f"the replacement of slave {slave} was not recorded"]
        case _:
            pass
    return []
