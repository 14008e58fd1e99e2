"""Projects: how their tasks are approved, and by whom."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.outbox import Mail
from bmsota_cloud.domain.projects import (
    STARTERS_MAX,
    ApprovalWay,
    Project,
    ProjectClass,
    check_project_name,
    check_project_number,
)
from bmsota_cloud.services.approval_codes import project_of
from bmsota_cloud.services.audit import acting
from bmsota_cloud.services.transitions import publish_task
from bmsota_cloud.services.views import view_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["ProjectService", "ProjectView"]

# As for accounts: enough to catch a name typed into the wrong box.
_EMAIL = re.compile(r"[^@\s<>,;\x00-\x1f\x7f]{1,64}@[^@\s<>,;\x00-\x1f\x7f]{1,189}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectView:
    """A project as it is shown."""

    name: str
    audit_mailbox: str
    """Empty if there is none."""
    approval: ApprovalWay
    starters: tuple[str, ...]
    changed_at: datetime | None
    changed_by: str
    number: str
    """Empty if there is none."""
    classification: ProjectClass
    vehicle_count: int


class ProjectService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def all(self, *, by: Account) -> tuple[ProjectView, ...]:
        """Every project that has settings or vehicles and is in the scope of *by*, by name."""
        require(by, Permission.PROJECT_READ)
        with self._context.store.reading() as work:
            known = {project.name: project for project in work.projects.all() if by.scope.has_project(project.name)}
            counts = work.vehicles.counts_by_project(by.scope)
        return tuple(
            view_of(ProjectView, known.get(name) or Project(name=name), vehicle_count=counts.get(name, 0))
            for name in sorted(known.keys() | counts.keys())
        )

    def get(self, name: str, *, by: Account) -> ProjectView:
        """One project.

        Raises:
            NotFoundError: it has neither settings nor vehicles.
        """
        for view in self.all(by=by):
            if view.name == name:
                return view
        raise NotFoundError("no-such-project", f"no project {name[:64]}")

    def configure(
        self,
        name: str,
        *,
        audit_mailbox: str,
        approval: ApprovalWay = ApprovalWay.AUDIT_MAILBOX,
        starters: Sequence[str] = (),
        number: str | None = None,
        classification: ProjectClass | None = None,
        by: Account | None,
        now: datetime,
        address: str = "",
    ) -> Project:
        """Set what a project is and how its tasks are approved; a change of how voids the codes that were mailed before.

        *number* and *classification* stay as they are where they are None. A mailbox that is replaced is told so by mail. *by* is None only for the command line and a simulation's wiring.

        Raises:
            NotAllowedError: *by* may not manage projects.
            InvalidInputError: a value can't be used.
            ConflictError: another project has this number.
        """
        who = "platform" if by is None else by.name
        voided: tuple[int, ...] = ()
        with acting(
            self._context, who=who, action="project.configure", subject=f"project {name[:64]}", now=now, address=address
        ) as act:
            if by is not None:
                require(by, Permission.PROJECT_MANAGE)
            check_project_name(name)
            number = None if number is None else number.strip()
            check_project_number(number or "")
            audit_mailbox = audit_mailbox.strip()
            if audit_mailbox and not _EMAIL.fullmatch(audit_mailbox):
                raise InvalidInputError(
                    "bad-email", f"audit mailbox: expected a mail address, got {audit_mailbox[:80]!r}"
                )
            self._check_starters(act.work, name, starters)
            # A row to lock is there only when the project has settings; without, the insert decides who is first.
            act.work.projects.get(name, lock=True)
            old = project_of(act.work, name)
            number = old.number if number is None else number
            other = act.work.projects.with_number(number) if number else None
            if other is not None and other.name != name:
                raise ConflictError("number-taken", f"project {other.name} has the number {number}")
            project = Project(
                name=name,
                audit_mailbox=audit_mailbox,
                approval=approval,
                starters=tuple(dict.fromkeys(starters)),
                changed_at=now,
                changed_by=who,
                number=number,
                classification=old.classification if classification is None else classification,
            )
            act.work.projects.save(project)
            voids = _changes(old, project)
            if voids:
                voided = act.work.ota_tasks.void_codes(name)
                voids.append(f"{len(voided)} codes void")
            if old.audit_mailbox and old.audit_mailbox != audit_mailbox:
                act.work.outbox.add(_farewell(old, project, who, now))
            act.detail = "; ".join([*_renamed(old, project), *voids]) or "nothing changed"
        for task_id in voided:
            publish_task(self._context, task_id)
        return project

    @staticmethod
    def _check_starters(work: Work, project: str, starters: Sequence[str]) -> None:
        if len(starters) > STARTERS_MAX:
            raise InvalidInputError("bad-starters", f"starters: expected at most {STARTERS_MAX}, got {len(starters)}")
        for starter in starters:
            account = work.accounts.get(starter)
            if account is None or not account.may(Permission.OTA_START):
                raise InvalidInputError(
                    "bad-starters", f"starters: {starter[:64]!r} is not an account that can start tasks"
                )
            if not account.scope.has_project(project):
                raise InvalidInputError("bad-starters", f"starters: {starter} does not see project {project}")


def _changes(old: Project, new: Project) -> list[str]:
    """What has changed about how tasks are approved."""
    return _told(
        ("audit mailbox", old.audit_mailbox, new.audit_mailbox),
        ("approval", str(old.approval), str(new.approval)),
        ("starters", ", ".join(old.starters), ", ".join(new.starters)),
    )


def _renamed(old: Project, new: Project) -> list[str]:
    """What else has changed."""
    return _told(("number", old.number, new.number), ("class", str(old.classification), str(new.classification)))


def _told(*pairs: tuple[str, str, str]) -> list[str]:
    return [f"{what}: {before or 'none'} -> {after or 'none'}" for what, before, after in pairs if before != after]


def _farewell(old: Project, new: Project, who: str, now: datetime) -> Mail:
    """The reader of the old mailbox learns that codes go elsewhere; the change may not have been meant."""
    return Mail(
        recipient=old.audit_mailbox,
        subject=f"Project {old.name}: approval codes no longer come here",
        body=(
            f"{who} has changed the audit mailbox of project {old.name} at {now:%Y-%m-%d %H:%M} UTC.\n"
            f"Codes that were mailed before are void; new ones {'go to another mailbox' if new.audit_mailbox else 'go to the auditor whom a task names'}.\n"
            "If you did not expect this, talk to the administrators of the platform.\n"
        ),
        task_id=None,
        created_at=now,
        next_try_at=now,
    )
