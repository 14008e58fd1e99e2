"""The list of OTA tasks, and one task: its vehicles live, its approval, its cancellation."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.errors import CloudError, ConflictError, NotAllowedError
from bmsota_cloud.domain.ota_tasks import TaskStatus
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import JsonValue
from bmsota_cloud.pages.live import Message, serve_live
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.services import UpgradeView

__all__ = ["add_ota_task_pages"]

_ROWS_A_PAGE = 25
_VEHICLES_A_PAGE = 50
_TEMPLATE = "ota_tasks/task.html"
_PARTS = ("live_head", "live_approval", "live_vehicles")
# Where an open page writes the state of vehicles that are on another page of the list: nowhere; only their number counts.
_STATUSES_ELSEWHERE_MAX = 5000

Text = Annotated[str, Form()]


def add_ota_task_pages(router: APIRouter, site: Site) -> None:
    """Add the routes below /ota/tasks and their WebSocket."""
    ota_tasks = site.services.ota_tasks

    @router.get("/ota/tasks", response_class=HTMLResponse)
    def task_list(request: Request, project: str = "", page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        return site.show_list(
            request,
            "ota_tasks/list.html",
            visitor,
            section="tasks",
            rows=ota_tasks.rows(PageRequest(page, _ROWS_A_PAGE), by=visitor.account, project=project),
            projects=site.services.vehicles.projects(by=visitor.account),
            query=Query("/ota/tasks", {"project": project}),
        )

    @router.get("/ota/tasks/{task_id}", response_class=HTMLResponse)
    def task(request: Request, task_id: int, page: int = 1, late: int = 0) -> HTMLResponse:
        return _show(site, task_id, site.visitor(request), page=page, late=late)

    @router.post("/ota/tasks/{task_id}/approve", response_class=HTMLResponse)
    def approve(request: Request, task_id: int, code: Text = "", csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            ota_tasks.approve(task_id, code=code, by=visitor.account, now=site.now(), address=site.address(request))
        except (NotAllowedError, ConflictError) as error:
            return _show(site, task_id, visitor, error=error, error_at="approve", typed=code)
        return _back(task_id)

    @router.post("/ota/tasks/{task_id}/new-code", response_class=HTMLResponse)
    def send_new_code(request: Request, task_id: int, csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            ota_tasks.send_new_code(task_id, by=visitor.account, now=site.now(), address=site.address(request))
        except ConflictError as error:
            return _show(site, task_id, visitor, error=error, error_at="approve")
        return _back(task_id)

    @router.post("/ota/tasks/{task_id}/cancel", response_class=HTMLResponse)
    def cancel(request: Request, task_id: int, reason: Text = "", csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            late = ota_tasks.cancel(
                task_id, by=visitor.account, now=site.now(), reason=reason, address=site.address(request)
            )
        except ConflictError as error:
            return _show(site, task_id, visitor, error=error, error_at="cancel", typed=reason)
        return _back(task_id, late=len(late))

    @router.websocket("/live/ota/tasks/{task_id}")
    async def live_task(websocket: WebSocket, task_id: int, page: int = 1) -> None:
        await serve_live(websocket, site, lambda visitor: _LiveTask(site, task_id, visitor, page=max(1, page)))


def _back(task_id: int, *, late: int = 0) -> RedirectResponse:
    """To the task by GET, so that a reload does not repeat the act."""
    return RedirectResponse(f"/ota/tasks/{task_id}" + (f"?late={late}" if late else ""), 303)


def _show(
    site: Site,
    task_id: int,
    visitor: Visitor,
    *,
    page: int = 1,
    late: int = 0,
    error: CloudError | None = None,
    error_at: str = "",
    typed: str = "",
) -> HTMLResponse:
    live = _LiveTask(site, task_id, visitor, page=page)
    status_code = 200 if error is None else 409 if isinstance(error, ConflictError) else 403
    return site.show(
        _TEMPLATE,
        visitor,
        status_code=status_code,
        section="tasks",
        late=late,
        error=error,
        error_at=error_at,
        typed=typed,
        **live.read(),
    )


class _LiveTask:
    """One task as one open page shows it."""

    def __init__(self, site: Site, task_id: int, visitor: Visitor, *, page: int) -> None:
        self.topic = f"task:{task_id}"
        self._site = site
        self._task_id = task_id
        self._visitor = visitor
        self._request = PageRequest(page, _VEHICLES_A_PAGE)
        self._places: dict[str, int] = {}
        self._statuses: dict[str, str] = {}

    def read(self) -> dict[str, Any]:
        """Fetch everything; the context of the template."""
        detail = self._site.services.ota_tasks.detail(self._task_id, self._request, by=self._visitor.account)
        self._places = {upgrade.vin: upgrade.place for upgrade in detail.upgrades.items}
        self._statuses |= {upgrade.vin: str(upgrade.status) for upgrade in detail.upgrades.items}
        return {
            "detail": detail,
            "task": detail.task,
            "may_send_code": (
                detail.task.status is TaskStatus.UNAPPROVED
                and (
                    self._visitor.account.may(Permission.OTA_CREATE) or self._visitor.account.may(Permission.OTA_AUDIT)
                )
            ),
            "summaries": {upgrade.vin: _summary(upgrade) for upgrade in detail.upgrades.items},
            "query": Query(f"/ota/tasks/{self._task_id}", {}),
        }

    def snapshot(self) -> Message:
        context = {**self._site.context(self._visitor), **self.read()}
        return {"kind": "parts", "parts": self._site.pages.parts(_TEMPLATE, _PARTS, context)}

    def change(self, messages: Sequence[dict[str, JsonValue]]) -> Message | None:
        """Progress is a patch; another status changes counters, path and perhaps buttons: the whole."""
        texts: dict[str, str] = {}
        attributes: dict[str, dict[str, str]] = {}
        for message in messages:
            if message["kind"] != "upgrade":
                return None
            vin, status = str(message["vin"]), str(message["status"])
            if self._statuses.get(vin) != status:
                if len(self._statuses) < _STATUSES_ELSEWHERE_MAX:
                    self._statuses[vin] = status
                return None
            place = self._places.get(vin)
            if place is not None:
                texts[f"stage_{place}"] = str(message["stage"])
                texts[f"reason_{place}"] = str(message["reason"])
                texts[f"progress_{place}"] = f"{message['progress_pct']} %"
                attributes[f"bar_{place}"] = {"value": str(message["progress_pct"])}
        return {"kind": "patch", "texts": texts, "attributes": attributes}


def _summary(upgrade: UpgradeView) -> dict[str, Any]:
    """Versions in short, and node by node."""
    before = {version.position: version for version in upgrade.versions_before}
    after = {version.position: version for version in upgrade.versions_after}
    positions = sorted(before.keys() | after.keys())
    return {
        "master_before": before[0].version if 0 in before else "",
        "master_after": after[0].version if 0 in after else "",
        "slaves_before": _counted(version.version for position, version in before.items() if position),
        "slaves_after": _counted(version.version for position, version in after.items() if position),
        "nodes": [(position, before.get(position), after.get(position)) for position in positions],
    }


def _counted(versions: Iterable[str]) -> str:
    """As 8 × 2.1.0, and a mixed pack as what it is: 7 × 2.1.0, 1 × 2.0.0."""
    return ", ".join(f"{count} × {version}" for version, count in Counter(versions).most_common())
