"""The plan of an OTA task: vehicles chosen by name or by the filters of the vehicle list, and what a task would do to each.

A preview looks at every vehicle that was chosen, because what is counted and what is submitted must be the same; one page of it
is described in full. It has a digest: what is submitted is what the person has seen, or the preview is shown again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError
from bmsota_cloud.domain.ota_tasks import TASK_VEHICLES_MAX, TaskStatus, task_key
from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.task_plans import Exclusion, PlanChoices, PlanOutcome, objections_of
from bmsota_cloud.services.scoped import check_project, task_for
from bmsota_cloud.services.turns import short_turns
from bmsota_cloud.services.vehicle_survey import survey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.ota_tasks import OtaTask
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.vehicle_checks import NodeCheck, VehicleCheck
    from bmsota_cloud.domain.vehicles import Vehicle, VehicleFilter
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["PREVIEW_VEHICLES_MAX", "PlannedVehicle", "TaskPlan", "TaskPlans", "VersionChoice", "match_releases"]

# Looked at in some seconds; who chooses more has not chosen.
PREVIEW_VEHICLES_MAX = 20_000

_TOKEN_SIZE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVehicle:
    """One vehicle of a preview."""

    vin: str
    outcome: PlanOutcome
    is_taken: bool
    """Whether it goes into the task."""
    is_online: bool
    release_name: str
    notes: tuple[str, ...]
    """Why it is left out, and what else is to be known before it is upgraded."""
    nodes: tuple[NodeCheck, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """What a task for the chosen vehicles would be."""

    vins: tuple[str, ...]
    """Those that go into it, in the order chosen; at most `TASK_VEHICLES_MAX`."""
    left_over: int
    """How many more would, if a task could have more."""
    chosen: int
    counts: Mapping[PlanOutcome, int]
    """Of every vehicle chosen."""
    running: Mapping[str, int]
    """Masters of the vehicles chosen, by version ("" if it is not known), the most first."""
    page: Page[PlannedVehicle]
    """Of those asked for."""
    choices: PlanChoices
    digest: str
    """Names the vehicles of the task and the release of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionChoice:
    """A software version that a task of a project can bring."""

    software_version: str
    releases: tuple[Release, ...]
    """One for each series, those that have not expired."""


class TaskPlans:
    """What the page "Create Task" asks before there is a task."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def form_token(self) -> str:
        """A name for a form that is about to be shown."""
        return self._context.draw(_TOKEN_SIZE_BYTES).hex()

    def versions(self, *, by: Account, now: datetime, project: str = "") -> tuple[VersionChoice, ...]:
        """What can be installed: of the series in *project*, else of all in the scope of *by*; the newest upload first."""
        require(by, Permission.OTA_CREATE)
        with self._context.store.reading() as work:
            series = {row[0] for row in work.vehicles.running(by.scope, project=project)}
            releases = [release for release in work.releases.of_series(sorted(series)) if release.expires_at > now]
        found: dict[str, list[Release]] = {}
        for release in releases:
            found.setdefault(release.software_version, []).append(release)
        return tuple(
            VersionChoice(software_version=version, releases=tuple(sorted(each, key=lambda release: release.series)))
            for version, each in found.items()
        )

    def running(self, *, by: Account, project: str) -> tuple[tuple[str, str, int], ...]:
        """Series, version of the master ("" if not known) and how many vehicles of *project*."""
        require(by, Permission.OTA_CREATE)
        with self._context.store.reading() as work:
            rows = work.vehicles.running(by.scope, project=project)
        found: Counter[tuple[str, str]] = Counter()
        for series, version, _, count in rows:
            found[series, version] += count
        return tuple((series, version, count) for (series, version), count in sorted(found.items()))

    def editable(self, task_id: int, *, by: Account) -> tuple[OtaTask, tuple[str, ...]]:
        """A task that waits for its approval, and its vehicles.

        Raises:
            NotAllowedError: *by* may not create tasks.
            NotFoundError: there is no such task.
            ConflictError: it is too late.
        """
        require(by, Permission.OTA_CREATE)
        with self._context.store.reading() as work:
            task = task_for(work, task_id, by)
            vehicles = work.ota_tasks.vehicles(task_id)
        if task.status is not TaskStatus.UNAPPROVED:
            way_out = "; cancelling stops the vehicles that have not completed the download" * (
                task.status is TaskStatus.APPROVED
            )
            raise ConflictError(
                "too-late", f"too late: {task_key(task.id)} is {task.status!s} and cannot be edited{way_out}"
            )
        return task, tuple(vin for vin, _ in vehicles)

    @short_turns()
    def preview(
        self,
        request: PageRequest,
        *,
        project: str,
        software_version: str,
        by: Account,
        now: datetime,
        vins: Sequence[str] = (),
        asked: VehicleFilter | None = None,
        choices: PlanChoices | None = None,
        shown: PlanOutcome | None = None,
        task_id: int | None = None,
    ) -> TaskPlan:
        """What a task would do to these vehicles, or to those that *asked* finds. Nothing is changed.

        *shown* is the outcome whose vehicles the page lists; None: all. *task_id* is the task that is edited.

        Raises:
            NotAllowedError: *by* may not create tasks.
            NotFoundError: *project* is not in the scope of *by*.
            InvalidInputError: no vehicle is chosen, or too many.
        """
        require(by, Permission.OTA_CREATE)
        check_project(project, by)
        choices = choices or PlanChoices()
        with self._context.store.reading() as work:
            if asked is not None:
                lease = self._context.presence.lease_check
                vins = work.vehicles.matching(asked, lease, by.scope, PREVIEW_VEHICLES_MAX + 1)
            vins = tuple(dict.fromkeys(vins))
            _check_chosen(vins, is_filter=asked is not None)
            found, excluded = match_releases(work, project, software_version, vins, by, now)
            checks = survey(work, found, task_id=task_id)
            entering = _entering(work, task_id)
        releases = {vehicle.vin: release for vehicle, release in found}
        online = self._context.presence.is_online(list(releases))
        rows = [_planned(vin, releases, excluded, checks, online, entering, choices) for vin in vins]
        fitting = [row.vin for row in rows if row.is_taken]
        taken = tuple(fitting[:TASK_VEHICLES_MAX])
        listed = [row for row in rows if shown is None or row.outcome is shown]
        counted = Counter(row.outcome for row in rows)
        running = Counter(check.nodes[0].version if check.nodes else "" for check in checks.values())
        return TaskPlan(
            vins=taken,
            left_over=len(fitting) - len(taken),
            chosen=len(vins),
            counts={outcome: counted[outcome] for outcome in PlanOutcome if counted[outcome]},
            running=dict(running.most_common()),
            page=Page(
                items=tuple(listed[request.offset : request.offset + request.size]),
                total=len(listed),
                number=request.number,
                size=request.size,
            ),
            choices=choices,
            digest=sha256("\n".join(f"{vin} {releases[vin].manifest_sha256}" for vin in taken).encode()).hexdigest(),
        )


def match_releases(
    work: Work, project: str, software_version: str, vins: Sequence[str], by: Account, now: datetime
) -> tuple[list[tuple[Vehicle, Release]], dict[str, Exclusion]]:
    """The release of each vehicle, and why the others have none."""
    excluded: dict[str, Exclusion] = {}
    found: list[tuple[Vehicle, Release]] = []
    vehicles = work.vehicles.visible_many(vins, by.scope)
    releases = {
        series: work.releases.find(series=series, software_version=software_version)
        for series in sorted({vehicle.series for vehicle in vehicles.values()})
    }
    for vin in vins:
        vehicle = vehicles.get(vin)
        release = None if vehicle is None else releases[vehicle.series]
        if vehicle is None:
            excluded[vin] = Exclusion(PlanOutcome.UNKNOWN, "is not registered")
        elif vehicle.project != project:
            excluded[vin] = Exclusion(PlanOutcome.UNKNOWN, f"belongs to project {vehicle.project}")
        elif not vehicle.is_upgradable:
            text = "is registered without a device key: it can be monitored, not upgraded"
            excluded[vin] = Exclusion(PlanOutcome.NO_OTA, text)
        elif release is None:
            text = f"no release {software_version} for series {vehicle.series}"
            excluded[vin] = Exclusion(PlanOutcome.NO_RELEASE, text)
        elif release.expires_at <= now:
            excluded[vin] = Exclusion(PlanOutcome.NO_RELEASE, f"release {release.name} has expired")
        else:
            found.append((vehicle, release))
    return found, excluded


def _check_chosen(vins: Sequence[str], *, is_filter: bool) -> None:
    if not vins:
        text = "no vehicle matches the filter" if is_filter else "name at least one vehicle"
        raise InvalidInputError("bad-vehicles", text)
    if len(vins) > PREVIEW_VEHICLES_MAX:
        text = f"more than {PREVIEW_VEHICLES_MAX} vehicles are chosen; narrow the choice"
        raise InvalidInputError("bad-vehicles", text)


def _entering(work: Work, task_id: int | None) -> dict[str, int]:
    """Vehicles of tasks whose list is being entered, which have no row yet."""
    return {vin: other for other, listed in work.ota_tasks.listed().items() if other != task_id for vin in listed}


def _planned(
    vin: str,
    releases: Mapping[str, Release],
    excluded: Mapping[str, Exclusion],
    checks: Mapping[str, VehicleCheck],
    online: Mapping[str, bool],
    entering: Mapping[str, int],
    choices: PlanChoices,
) -> PlannedVehicle:
    if (exclusion := excluded.get(vin)) is not None:
        return PlannedVehicle(
            vin=vin[:32],
            outcome=exclusion.outcome,
            is_taken=False,
            is_online=False,
            release_name="",
            notes=(exclusion.text,),
            nodes=(),
        )
    check = checks[vin]
    objections = objections_of(check)
    notes = tuple(remark.text for remark in check.remarks)
    if vin in entering and PlanOutcome.BUSY not in objections:
        objections = (PlanOutcome.BUSY, *objections)
        notes = (*notes, f"is part of {task_key(entering[vin])}, which is being entered")
    fine = PlanOutcome.UPGRADE if online[vin] else PlanOutcome.WAITS
    return PlannedVehicle(
        vin=vin,
        outcome=objections[0] if objections else fine,
        is_taken=all(choices.takes(objection) for objection in objections),
        is_online=online[vin],
        release_name=releases[vin].name,
        notes=notes,
        nodes=check.nodes,
    )
