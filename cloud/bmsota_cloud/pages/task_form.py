"""The form of an OTA task: "Create Task" with its preview, and the edit of a task that waits for its approval.

It works without scripts: "Preview" and the pages of the preview send the form and show it again. What is chosen by the filters of the
vehicle list can also stand in the address, which is how other pages lead here. The form carries a token, so that a double click, a reload
or the back button make no second task, and the digest of the preview that was shown: if other vehicles match by now, they are shown first.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    RateLimitedError,
)
from bmsota_cloud.domain.ota_tasks import TASK_VEHICLES_MAX, OtaTask
from bmsota_cloud.domain.paging import ID_MAX, PAGE_NUMBER_MAX, PageRequest
from bmsota_cloud.domain.task_plans import PlanChoices, PlanOutcome
from bmsota_cloud.domain.vehicles import VehicleFilter
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.session import Visitor, check_form, with_retry_after
from bmsota_cloud.pages.site import Site
from bmsota_cloud.services import TaskPlan

__all__ = ["add_task_form_pages"]

_ROWS_A_PAGE = 50
_TEMPLATE = "ota_tasks/form.html"
_ONLINE = {"yes": True, "no": False}
_TOKEN = re.compile(r"[0-9a-f]{32}", re.ASCII)
_HOURS_DEFAULT = "72"
_HOURS_MAX = 8784

_STATUSES: dict[type[CloudError], int] = {
    NotAllowedError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    InvalidInputError: 422,
    RateLimitedError: 429,
}

Id = Annotated[int, Path(ge=1, le=ID_MAX)]
Connection = Literal["", "yes", "no"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Typed:
    """What stands in the form."""

    project: str = ""
    reason: str = ""
    version: str = ""
    auditor: str = ""
    hours: str = _HOURS_DEFAULT
    way: str = "filter"
    """"filter", "vins", or "keep" for the vehicles that the edited task has."""
    vins: str = ""
    q: str = ""
    series: str = ""
    runs: str = ""
    customer: str = ""
    online: str = ""
    downgrades: bool = False
    already: bool = False
    supersede: bool = False
    shown: str = ""
    page: int = 1
    token: str = ""
    digest: str = ""

    @property
    def choices(self) -> PlanChoices:
        return PlanChoices(downgrades=self.downgrades, already_there=self.already, supersede=self.supersede)

    @property
    def named(self) -> tuple[str, ...]:
        """The VINs typed, each once."""
        return tuple(dict.fromkeys(word.upper() for word in re.split(r"[\s,;]+", self.vins) if word))

    @property
    def asked(self) -> VehicleFilter:
        return VehicleFilter(
            project=self.project,
            series=self.series,
            text=self.q,
            is_online=_ONLINE.get(self.online),
            customer=self.customer,
            master_version=self.runs,
        )


def _form(
    project: Text = "",
    reason: Text = "",
    version: Text = "",
    auditor: Text = "",
    hours: Text = _HOURS_DEFAULT,
    way: Text = "filter",
    vins: Text = "",
    q: Text = "",
    series: Text = "",
    runs: Text = "",
    customer: Text = "",
    online: Text = "",
    downgrades: Annotated[bool, Form()] = False,
    already: Annotated[bool, Form()] = False,
    supersede: Annotated[bool, Form()] = False,
    shown: Text = "",
    show: Annotated[str | None, Form()] = None,
    page: Annotated[int, Form(ge=1, le=PAGE_NUMBER_MAX)] = 1,
    token: Text = "",
    digest: Text = "",
) -> _Typed:
    return _Typed(
        project=project.strip(),
        reason=reason.strip(),
        version=version.strip(),
        auditor=auditor.strip(),
        hours=hours.strip(),
        way=way,
        vins=vins,
        q=q.strip(),
        series=series.strip(),
        runs=runs.strip(),
        customer=customer.strip(),
        online=online,
        downgrades=downgrades,
        already=already,
        supersede=supersede,
        # A button that chooses another outcome beats what was shown before.
        shown=shown if show is None else show,
        page=page,
        token=token if _TOKEN.fullmatch(token) else "",
        digest=digest,
    )


def add_task_form_pages(router: APIRouter, site: Site) -> None:
    """Add /ota/tasks/new and /ota/tasks/{task_id}/edit."""

    @router.get("/ota/tasks/new", response_class=HTMLResponse)
    def new(
        request: Request,
        project: str = "",
        version: str = "",
        reason: str = "",
        q: str = "",
        series: str = "",
        runs: str = "",
        customer: str = "",
        online: Connection = "",
        vin: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
        shown: str = "",
        page: Annotated[int, Query(ge=1, le=PAGE_NUMBER_MAX)] = 1,
    ) -> Response:
        visitor = site.visitor(request)
        require(visitor.account, Permission.OTA_CREATE)
        typed = _Typed(
            project=project,
            version=version,
            reason=reason,
            way="vins" if vin else "filter",
            vins="\n".join(vin),
            q=q,
            series=series,
            runs=runs,
            customer=customer,
            online=online,
            shown=shown,
            page=page,
            token=site.services.task_plans.form_token(),
        )
        # The address of a link may choose only in part: what is missing is asked for without a complaint.
        return _show(site, visitor, typed, look=bool(project and version))

    @router.post("/ota/tasks/new", response_class=HTMLResponse)
    def create(
        request: Request,
        typed: Annotated[_Typed, Depends(_form)],
        act: Text = "preview",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        require(visitor.account, Permission.OTA_CREATE)
        if act != "submit":
            return _show(site, visitor, typed, look=True)

        def submit(vins: Sequence[str]) -> OtaTask:
            return site.services.ota_tasks.create(
                project=typed.project,
                reason=typed.reason,
                software_version=typed.version,
                vins=vins,
                auditor=typed.auditor,
                time_limit_s=_time_limit_s(typed.hours),
                supersede=typed.supersede,
                form_token=typed.token,
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )

        return _submit(site, visitor, typed, submit)

    @router.get("/ota/tasks/{task_id}/edit", response_class=HTMLResponse)
    def edit_form(request: Request, task_id: Id) -> Response:
        visitor = site.visitor(request)
        task, _ = site.services.task_plans.editable(task_id, by=visitor.account)
        typed = _Typed(
            project=task.project, reason=task.reason, version=task.software_version, auditor=task.auditor, way="keep"
        )
        return _show(site, visitor, typed, look=False, task=task)

    @router.post("/ota/tasks/{task_id}/edit", response_class=HTMLResponse)
    def edit(
        request: Request,
        task_id: Id,
        typed: Annotated[_Typed, Depends(_form)],
        act: Text = "preview",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        task, _ = site.services.task_plans.editable(task_id, by=visitor.account)
        typed = _of_task(typed, task)
        if act != "submit":
            return _show(site, visitor, typed, look=True, task=task)

        def submit(vins: Sequence[str]) -> OtaTask:
            return site.services.ota_tasks.edit(
                task_id,
                reason=typed.reason,
                auditor=typed.auditor,
                vins=None if typed.way == "keep" else vins,
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )

        return _submit(site, visitor, typed, submit, task=task)


def _of_task(typed: _Typed, task: OtaTask) -> _Typed:
    """An edit changes neither project nor version, and what the task takes over stays as it was."""
    values = {name: getattr(typed, name) for name in _Typed.__slots__}
    return _Typed(**values | {"project": task.project, "version": task.software_version, "supersede": task.supersedes})


def _submit(site: Site, visitor: Visitor, typed: _Typed, submit: Any, *, task: OtaTask | None = None) -> Response:
    """Do it, if the vehicles are those that were shown."""
    try:
        vins: tuple[str, ...] = ()
        if task is None and (known := site.services.ota_tasks.of_form(typed.token, by=visitor.account)) is not None:
            # Sent before; its vehicles are busy by now, with this very task.
            return _to_list(known)
        if typed.way != "keep":
            plan = _plan(site, visitor, typed, task)
            if plan.digest != typed.digest:
                return _show(site, visitor, typed, look=True, task=task, has_changed=bool(typed.digest))
            vins = plan.vins
        done = submit(vins)
    except (NotAllowedError, ConflictError, InvalidInputError, RateLimitedError, NotFoundError) as error:
        return _show(site, visitor, typed, look=True, task=task, error=error)
    return _to_list(done) if task is None else RedirectResponse(f"/ota/tasks/{done.id}?did=edit", 303)


def _to_list(task: OtaTask) -> Response:
    return RedirectResponse(f"/ota/tasks?new={task.id}", 303)


def _plan(site: Site, visitor: Visitor, typed: _Typed, task: OtaTask | None) -> TaskPlan:
    if not typed.project:
        raise InvalidInputError("bad-project", "choose a project")
    if not typed.version:
        raise InvalidInputError("bad-version", "choose a software version")
    named: Sequence[str] = ()
    if typed.way == "keep" and task is not None:
        named = site.services.task_plans.editable(task.id, by=visitor.account)[1]
    elif typed.way == "vins":
        named = typed.named
    return site.services.task_plans.preview(
        PageRequest(typed.page, _ROWS_A_PAGE),
        project=typed.project,
        software_version=typed.version,
        by=visitor.account,
        now=site.now(),
        vins=named,
        asked=typed.asked if typed.way not in {"vins", "keep"} else None,
        choices=typed.choices,
        shown=PlanOutcome(typed.shown) if typed.shown in set(PlanOutcome) else None,
        task_id=None if task is None else task.id,
    )


def _show(
    site: Site,
    visitor: Visitor,
    typed: _Typed,
    *,
    look: bool,
    task: OtaTask | None = None,
    has_changed: bool = False,
    error: CloudError | None = None,
) -> Response:
    """The form, and if *look* the preview of what is chosen. An error of the preview is shown unless there is one already."""
    by, plans = visitor.account, site.services.task_plans
    plan: TaskPlan | None = None
    if look:
        try:
            plan = _plan(site, visitor, typed, task)
        except (InvalidInputError, NotFoundError) as refusal:
            error = error or refusal
    project = next((view for view in site.services.projects.all(by=by) if view.name == typed.project), None)
    page = site.show(
        _TEMPLATE,
        visitor,
        status_code=200 if error is None else _STATUSES[type(error)],
        section="tasks",
        task=task,
        typed=typed,
        plan=plan,
        project=project,
        projects=site.services.vehicles.projects(by=by),
        all_series=site.services.vehicles.series(by=by),
        versions=plans.versions(by=by, now=site.now(), project=typed.project if project else ""),
        running=plans.running(by=by, project=typed.project) if project else (),
        may_force=by.may(Permission.OTA_FORCE),
        vehicles_max=TASK_VEHICLES_MAX,
        hours_max=_HOURS_MAX,
        has_changed=has_changed,
        error=error,
    )
    return page if error is None else with_retry_after(page, error)


def _time_limit_s(hours: str) -> int:
    if not (
        hours.isascii() and hours.isdigit() and len(hours) <= len(str(_HOURS_MAX)) and 1 <= int(hours) <= _HOURS_MAX
    ):
        raise InvalidInputError("bad-time-limit", f"time limit: expected 1 to {_HOURS_MAX} h, got {hours[:20]!r}")
    return int(hours) * 3600
