"""How histories are written: of an upgrade, nodes that made the same step stand together; faults by their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.domain.histories import UpgradeSource
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES
from bmsota_cloud.domain.telemetry import EventKind
from bmsota_cloud.domain.vehicles import node_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_cloud.domain.histories import HistoryEntry
    from bmsota_cloud.domain.vehicle_history import FaultView

__all__ = ["NodeChange", "fault_name", "node_changes"]


@dataclass(frozen=True, slots=True)
class NodeChange:
    """Nodes that went from one version to another."""

    who: str
    """As "Master, slaves 1–3"."""
    hwid: str
    """Of a single node; empty for several."""
    before: str
    after: str
    """Versions, or why there is none."""


def node_changes(entry: HistoryEntry) -> list[NodeChange]:
    """What changed where, the master's change first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for node in entry.nodes:
        before, after = node.version_before, node.version_after
        if node.is_other_build:
            # Two builds of one version: only their digests tell them apart.
            before, after = f"{before} ({node.image_before[:8]})", f"{after} ({node.image_after[:8]})"
        groups.setdefault((before, after), []).append(node.position)
    hwids = {node.position: node.hwid for node in entry.nodes}
    return [
        NodeChange(
            who=_who(positions),
            hwid=hwids[positions[0]] if len(positions) == 1 else "",
            before=before or ("no image" if entry.source is UpgradeSource.CAN else "–"),
            after=after or _why_unknown(entry),
        )
        for (before, after), positions in groups.items()
    ]


# As the alarm body's lists of faults are called by people.
_LISTS = {"ress": "Energy storage", "motor": "Motor", "engine": "Engine", "other": "Other"}


def fault_name(fault: FaultView) -> str:
    """As "SOC low", "Energy storage fault 0x00000012", "Slave 2, fault 0x00000012"."""
    first, _, code = fault.subject.partition(" ")
    if fault.kind is EventKind.FAULT_CODE:
        return f"{_LISTS.get(first, first)} fault {code}"
    if fault.kind is EventKind.FAULT_CHANGE and first.isdigit():
        return f"{node_name(int(first)).capitalize()}, fault {code}"
    return fault.subject.replace("_", " ").capitalize().replace("Soc", "SOC")


def _why_unknown(entry: HistoryEntry) -> str:
    if entry.source is UpgradeSource.CAN:
        return "no image"
    return "…" if entry.status in OPEN_STATUSES else "not reported"


def _who(positions: Sequence[int]) -> str:
    """The master and ranges of slaves. Positions rise."""
    slaves = [position for position in positions if position > 0]
    ranges: list[list[int]] = []
    for position in slaves:
        if ranges and position == ranges[-1][-1] + 1:
            ranges[-1].append(position)
        else:
            ranges.append([position])
    words = ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in ranges)
    parts = ["master"] if 0 in positions else []
    if slaves:
        parts.append(f"{'slave' if len(slaves) == 1 else 'slaves'} {words}")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:]
