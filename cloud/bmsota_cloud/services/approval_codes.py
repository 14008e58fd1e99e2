"""Approval codes: to which mailbox they go, who may enter them, and whether one is right.

A code of six random digits is mailed to the mailbox of `bmsota_cloud.domain.projects`. Stored is its HMAC together with the
digest of everything the task contains, the mailbox and the way of approval included, so a database copy gives no code away,
and an edited task or a changed project needs another one. It works once, for 24 hours and five tries. A task
takes nine wrong codes in all, over any number of fresh ones (`bmsota_cloud.services.limits`).
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError
from bmsota_cloud.domain.ota_tasks import (
    APPROVAL_TRIES_MAX,
    ApprovalCode,
    content_digest,
    encode_vehicles,
    task_key,
)
from bmsota_cloud.domain.outbox import Mail
from bmsota_cloud.domain.projects import ApprovalWay, Project, is_same_mailbox

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.ota_tasks import OtaTask
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.limits import CodeLimits
    from bmsota_cloud.storage.base import Work

__all__ = [
    "ApprovalCodes",
    "CodeTarget",
    "TaskContent",
    "check_may_enter",
    "may_enter",
    "project_of",
    "target_of",
]

_CODE = re.compile(r"\d{6}", re.ASCII)
_SECRET_NAME = "approval-code-key"  # noqa: S105 - the name of a secret, not the secret


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTarget:
    """How a task is approved, as its project stands now."""

    way: ApprovalWay
    mailbox: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContent:
    """The vehicles of a task as they are approved, read before the transaction that needs them."""

    code: ApprovalCode | None
    """The code at that time. Every change of the list replaces it, so that a content with another code is out of date."""
    encoded: bytes
    vehicle_count: int

    @classmethod
    def of(cls, work: Work, task_id: int) -> TaskContent:
        vehicles = work.ota_tasks.content(task_id)
        return cls(code=work.ota_tasks.code(task_id), encoded=encode_vehicles(vehicles), vehicle_count=len(vehicles))


def project_of(work: Work, name: str) -> Project:
    """The settings of a project, or the defaults."""
    return work.projects.get(name) or Project(name=name)


def target_of(work: Work, task: OtaTask) -> CodeTarget:
    """Where the code of *task* goes.

    Raises:
        InvalidInputError: no auditor is named where the project asks for one, or the named account can't be one
            ("no-auditor", "bad-auditor"); or the code would go to the creator of the task ("four-eyes").
        ConflictError: the project has no audit mailbox.
    """
    project = project_of(work, task.project)
    way = project.way_of(task.auditor)
    mailbox = project.audit_mailbox
    if way is ApprovalWay.NAMED_AUDITOR:
        auditor = _auditor(work, task)
        mailbox = mailbox or auditor.email
    elif not mailbox:
        raise ConflictError(
            "no-audit-mailbox",
            f"project {task.project} has no audit mailbox; have an administrator set one, or name an auditor",
        )
    creator = work.accounts.get(task.creator)
    if creator is not None and is_same_mailbox(mailbox, creator.email):
        raise InvalidInputError(
            "four-eyes",
            f"the code would go to an address of {task.creator}, who creates this task; use another mailbox",
        )
    return CodeTarget(way=way, mailbox=mailbox)


def _auditor(work: Work, task: OtaTask) -> Account:
    if not task.auditor:
        raise InvalidInputError(
            "no-auditor", f"project {task.project} requires a named auditor: name one for this task"
        )
    account = work.accounts.get(task.auditor)
    if account is None or not account.may(Permission.OTA_AUDIT):
        raise InvalidInputError(
            "bad-auditor", f"auditor: {task.auditor[:64]!r} is not an account that can approve tasks"
        )
    if not account.scope.has_project(task.project):
        raise InvalidInputError("bad-auditor", f"auditor: {task.auditor} does not see project {task.project}")
    if task.auditor == task.creator:
        raise InvalidInputError("four-eyes", f"auditor: {task.auditor} creates this task and cannot approve it")
    return account


def check_may_enter(task: OtaTask, project: Project, by: Account) -> None:
    """Refuse an account that may not enter the code of this task, be the code right or wrong.

    Raises:
        NotAllowedError: "not-allowed", "four-eyes", "not-the-auditor" or "not-a-starter".
    """
    if project.way_of(task.auditor) is ApprovalWay.NAMED_AUDITOR:
        require(by, Permission.OTA_AUDIT)
        if by.name == task.creator:
            raise NotAllowedError("four-eyes", f"{by.name} created this task and cannot approve it")
        if by.name != task.auditor:
            whom = f"the auditor {task.auditor}" if task.auditor else "an auditor whom the task names"
            raise NotAllowedError("not-the-auditor", f"only {whom} can approve this task")
        return
    require(by, Permission.OTA_START)
    if project.starters and by.name not in project.starters:
        raise NotAllowedError("not-a-starter", f"{by.name} may not start tasks in project {project.name}")


def may_enter(task: OtaTask, project: Project, by: Account) -> bool:
    """Whether `check_may_enter` lets *by* pass."""
    try:
        check_may_enter(task, project, by)
    except NotAllowedError:
        return False
    return True


class ApprovalCodes:
    """Issue, void and check. Everything happens in the caller's transaction."""

    def __init__(self, context: Context, limits: CodeLimits) -> None:
        self._context = context
        self._limits = limits

    def admit(self, work: Work, task: OtaTask, by: Account, now: datetime) -> CodeTarget:
        """Count a mail that *by* asks for; where it will go.

        Raises:
            InvalidInputError, ConflictError: see `target_of`; or the task takes no more codes.
            RateLimitedError: too many codes were mailed for this task, or for *by*.
        """
        target = target_of(work, task)
        self._limits.before_mail(work, task.id, by.name, now)
        return target

    def issue(self, work: Work, task: OtaTask, content: TaskContent, now: datetime, facts: Sequence[str]) -> CodeTarget:
        """Make a new code and put its mail into the outbox; the previous code becomes void.

        Args:
            work: the transaction.
            task: as it is mailed.
            content: its vehicles; read again here if its code has been replaced since.
            now: the platform's time.
            facts: lines for the mail on what is to be approved.

        Raises:
            InvalidInputError, ConflictError: see `target_of`.
        """
        target = target_of(work, task)
        if work.ota_tasks.code(task.id) != content.code:
            content = TaskContent.of(work, task.id)
        code = f"{int.from_bytes(self._context.draw(16), 'big') % 1_000_000:06d}"
        digest = content_digest(task, content.encoded, way=target.way, mailbox=target.mailbox)
        valid_s = self._context.settings.approval_code_valid_s
        work.ota_tasks.save_code(
            ApprovalCode(
                task_id=task.id,
                code_hmac=self._hmac(work, task.id, digest, code),
                content_sha256=digest,
                issued_at=now,
                expires_at=now + timedelta(seconds=valid_s),
                recipient=target.mailbox,
            )
        )
        work.outbox.add(
            Mail(
                recipient=target.mailbox,
                subject=f"{task_key(task.id)}: approval code for {task.software_version} ({task.project})",
                body=self._body(task, target, code, content.vehicle_count, facts),
                task_id=task.id,
                created_at=now,
                next_try_at=now,
            )
        )
        return target

    def _body(self, task: OtaTask, target: CodeTarget, code: str, vehicle_count: int, facts: Sequence[str]) -> str:
        settings = self._context.settings
        hours = settings.approval_code_valid_s // 3600
        page = f"{settings.pages_url.rstrip('/')}/ota/tasks/{task.id}"
        if target.way is ApprovalWay.NAMED_AUDITOR:
            how = f"To start the upgrade,\nlog in as {task.auditor} and enter it at\n{page}\n"
        else:
            how = (
                "If you approve the\nupgrade, give the code to the person who asks you for it. It is entered at\n"
                f"{page}\n"
            )
        lines = [
            f"Task      {task_key(task.id)}",
            f"Project   {task.project}",
            # One line, whatever was typed: no reason can look like another fact, or like a code.
            f"Reason    {' '.join(task.reason.split())}",
            f"Version   {task.software_version}",
            f"Vehicles  {vehicle_count}",
            f"Creator   {task.creator}",
            *facts,
        ]
        return (
            "\n".join(lines) + f"\n\nApproval code: {code}\n\n"
            f"The code is valid for {hours} hours and for this task as described above. {how}"
        )

    def void(self, work: Work, task_id: int) -> None:
        """Void the code of the task, if there is one."""
        code = work.ota_tasks.code(task_id)
        if code is not None:
            work.ota_tasks.save_code(replace(code, is_void=True))

    def check(
        self, work: Work, task: OtaTask, target: CodeTarget, content: TaskContent, code: str, now: datetime
    ) -> ConflictError | NotAllowedError | None:
        """Why *code* does not approve the task; None if it does. It is used up, or its try counted, in this transaction.

        *content* is the task's, read again here if its code has been replaced since.
        """
        known = work.ota_tasks.code(task.id)
        if known is None or known.is_void:
            return ConflictError("code-void", "there is no valid code; request a new one")
        if now >= known.expires_at:
            if not self._context.clock_guard.is_waiting:
                work.ota_tasks.save_code(replace(known, is_void=True))
            return ConflictError("code-expired", "the code has expired; request a new one")
        if known != content.code:
            content = TaskContent.of(work, task.id)
        digest = content_digest(task, content.encoded, way=target.way, mailbox=target.mailbox)
        if not hmac.compare_digest(known.content_sha256, digest):
            work.ota_tasks.save_code(replace(known, is_void=True))
            return ConflictError(
                "content-changed", "the task has changed since the code was mailed; request a new code"
            )
        if _CODE.fullmatch(code.strip()) and hmac.compare_digest(
            known.code_hmac, self._hmac(work, task.id, known.content_sha256, code.strip())
        ):
            # Single use, also if the task should ever be unapproved again.
            work.ota_tasks.save_code(replace(known, is_void=True))
            return None
        tries = known.tries + 1
        work.ota_tasks.save_code(replace(known, tries=tries, is_void=tries >= APPROVAL_TRIES_MAX))
        left = APPROVAL_TRIES_MAX - tries
        if left <= 0:
            return NotAllowedError("wrong-code", "wrong code, and no tries are left; request a new code")
        return NotAllowedError("wrong-code", f"wrong code; {left} {'try' if left == 1 else 'tries'} left")

    def _hmac(self, work: Work, task_id: int, digest: bytes, code: str) -> bytes:
        """What is stored of a code. The key makes trying out a million codes on a stolen row useless without it."""
        key = work.secret(_SECRET_NAME)
        if key is None:
            key = self._context.draw(32)
            work.save_secret(_SECRET_NAME, key)
        return hmac.digest(key, b"approval-code:" + str(task_id).encode() + b":" + digest + code.encode(), "sha256")
