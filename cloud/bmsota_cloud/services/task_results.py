"""The result of an OTA task as CSV (RFC 4180): one row a vehicle, written slice by slice, whatever the size of the task.

Reasons and versions come from units and people. A spreadsheet would run a cell that begins like a formula, so such a cell gets an
apostrophe in front (OWASP, "CSV Injection").
"""

from __future__ import annotations

import csv
from collections import Counter
from io import StringIO
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES, last_message_at, task_key
from bmsota_cloud.domain.vehicles import node_name
from bmsota_cloud.services.audit import acting
from bmsota_cloud.services.scoped import task_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.ota_tasks import NodeVersion, OtaTask, Transition, VehicleStatus, VehicleUpgrade
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.services.context import Context

__all__ = ["TaskResults"]

# A slice is read in some milliseconds; between two of them nothing of the database is held, however slow the reader is.
_SLICE_VEHICLES = 200

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")

_COLUMNS = (
    "task",
    "project",
    "vin",
    "order",
    "attempt",
    "release",
    "upgrade_status",
    "reason",
    "set_by",
    "progress_pct",
    "master_before",
    "master_after",
    "slaves_before",
    "slaves_after",
    "nodes",
    "approved_at",
    "instructed_at",
    "downloaded_at",
    "last_message_at",
    "ended_at",
)


class TaskResults:
    """What became of the vehicles of a task, for a file."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def csv(
        self,
        task_id: int,
        *,
        by: Account,
        now: datetime,
        statuses: Sequence[VehicleStatus] = (),
        address: str = "",
    ) -> Iterator[str]:
        """The lines, the names of the columns first; with *statuses*, only the vehicles in one of them.

        Each slice is as it stands when it is read. The export is in the audit log.

        Raises:
            NotAllowedError: *by* may not read tasks.
            NotFoundError: there is no such task.
        """
        subject = f"task {task_id}"
        with acting(
            self._context, who=by.name, action="ota_task.export", subject=subject, now=now, address=address
        ) as act:
            require(by, Permission.OTA_READ)
            task = task_for(act.work, task_id, by)
            act.detail = ", ".join(statuses) or "all vehicles"
        return self._lines(task, statuses)

    def _lines(self, task: OtaTask, statuses: Sequence[VehicleStatus]) -> Iterator[str]:
        yield _line(_COLUMNS)
        place = 0
        while True:
            with self._context.store.reading() as work:
                upgrades = work.ota_tasks.upgrades_after(task.id, place, _SLICE_VEHICLES, statuses=statuses)
                transitions = work.ota_tasks.transitions(task.id, [upgrade.vin for upgrade in upgrades])
                releases = work.releases.many(sorted({upgrade.release_id for upgrade in upgrades}))
            if not upgrades:
                return
            yield "".join(
                _line(_row(task, upgrade, releases[upgrade.release_id], transitions[upgrade.vin]))
                for upgrade in upgrades
            )
            place = upgrades[-1].place


def _row(
    task: OtaTask, upgrade: VehicleUpgrade, release: Release, transitions: Sequence[Transition]
) -> tuple[str, ...]:
    before = {node.position: node for node in upgrade.versions_before}
    after = {node.position: node for node in upgrade.versions_after}
    ended_at = transitions[-1].at if transitions and upgrade.status not in OPEN_STATUSES else None
    heard_at = last_message_at(upgrade, transitions)
    return (
        task_key(task.id),
        task.project,
        upgrade.vin,
        upgrade.order_id,
        str(upgrade.attempt),
        release.name,
        str(upgrade.status),
        upgrade.reason,
        str(upgrade.source),
        str(upgrade.progress_pct),
        *(known[0].version if 0 in known else "" for known in (before, after)),
        *(_slaves(known.values()) for known in (before, after)),
        "; ".join(
            f"{node_name(position)} {_version(before.get(position))} -> {_version(after.get(position))}"
            for position in sorted(before.keys() | after.keys())
        ),
        *(
            "" if at is None else at.isoformat()
            for at in (task.approved_at, upgrade.instructed_at, upgrade.fetched_at, heard_at, ended_at)
        ),
    )


def _version(node: NodeVersion | None) -> str:
    return node.version if node is not None and node.version else "unknown"


def _slaves(nodes: Iterable[NodeVersion]) -> str:
    counted = Counter(node.version for node in nodes if node.position)
    return ", ".join(f"{count} x {version}" for version, count in counted.most_common())


def _line(cells: Sequence[str]) -> str:
    text = StringIO()
    csv.writer(text).writerow([f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell for cell in cells])
    return text.getvalue()
