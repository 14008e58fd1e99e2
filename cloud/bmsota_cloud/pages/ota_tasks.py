"""The list of OTA tasks, and one task: its vehicles live, its approval, its cancellation, its stuck and failed vehicles."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    RateLimitedError,
)
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.ota_tasks import FAILED_STATUSES, ActKind, TaskStatus, VehicleStatus, task_key
from bmsota_cloud.domain.paging import ID_MAX, PAGE_NUMBER_MAX, PageRequest
from bmsota_cloud.domain.telemetry import JsonValue
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.live import Message, serve_live
from bmsota_cloud.pages.rendering import HEADERS
from bmsota_cloud.pages.session import Visitor, check_form, with_retry_after
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.services import REMARK_WORDS, UpgradeView

__all__ = ["add_ota_task_pages"]

_ROWS_A_PAGE = 25
_VEHICLES_A_PAGE = 50
_TEMPLATE = "ota_tasks/task.html"
_PARTS = ("live_head", "live_approval", "live_vehicles")
# Where an open page writes the state of vehicles that are on another page of the list: nowhere; only their number counts.
_STATUSES_ELSEWHERE_MAX = 5000

_ERROR_STATUSES: dict[type[CloudError], int] = {
    NotAllowedError: 403,
    ConflictError: 409,
    InvalidInputError: 422,
    RateLimitedError: 429,
}
_ACT_WORDS = {
    ActKind.LIST: "is entering vehicles; the code is mailed when all of them are entered",
    ActKind.APPROVE: "has started the upgrade; its orders are being signed",
    ActKind.CANCEL: "is cancelling vehicles",
    ActKind.END: "is ending vehicles",
    ActKind.RETRY: "is retrying vehicles",
}

_SOURCE_WORDS = {
    Source.UNSIGNED: "the unit, not signed",
    Source.DEVICE_API: "the unit's download",
    Source.SIGNED: "a signed report",
    Source.OPERATOR: "a person",
    Source.PLATFORM: "the platform",
}

Id = Annotated[int, Path(ge=1, le=ID_MAX)]


def add_ota_task_pages(router: APIRouter, site: Site) -> None:
    """Add the routes below /ota/tasks and their WebSocket."""
    ota_tasks = site.services.ota_tasks

    @router.get("/ota/tasks", response_class=HTMLResponse)
    def task_list(request: Request, project: str = "", page: int = 1, new: int = 0) -> HTMLResponse:
        visitor = site.visitor(request)
        return site.show_list(
            request,
            "ota_tasks/list.html",
            visitor,
            section="tasks",
            rows=ota_tasks.rows(PageRequest(page, _ROWS_A_PAGE), by=visitor.account, project=project),
            projects=site.services.vehicles.projects(by=visitor.account),
            new=new,
            may_create=visitor.account.may(Permission.OTA_CREATE),
            query=Query("/ota/tasks", {"project": project}),
        )

    @router.get("/ota/tasks/{task_id}", response_class=HTMLResponse)
    def task(
        request: Request,
        task_id: Id,
        page: int = 1,
        status: str = "",
        late: int = 0,
        did: str = "",
        changed: int | None = None,
    ) -> Response:
        visitor = site.visitor(request)
        return _show(site, task_id, visitor, page=page, status=status, late=late, did=did, changed=changed)

    @router.get("/ota/tasks/{task_id}/result.csv")
    def result(request: Request, task_id: Id, status: str = "") -> Response:
        visitor = site.visitor(request)
        lines = site.services.task_results.csv(
            task_id, statuses=_chosen(status), by=visitor.account, now=site.now(), address=site.address(request)
        )
        headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{task_key(task_id)}.csv"'}
        # The mark tells spreadsheets that it is UTF-8.
        return StreamingResponse(chain(["\ufeff"], lines), media_type="text/csv; charset=utf-8", headers=headers)

    @router.post("/ota/tasks/{task_id}/approve", response_class=HTMLResponse)
    def approve(request: Request, task_id: Id, code: Text = "", csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            ota_tasks.approve(task_id, code=code, by=visitor.account, now=site.now(), address=site.address(request))
        except (NotAllowedError, ConflictError, InvalidInputError, RateLimitedError) as error:
            return _show(site, task_id, visitor, error=error, error_at="approve", typed=code)
        return _back(task_id)

    @router.post("/ota/tasks/{task_id}/new-code", response_class=HTMLResponse)
    def send_new_code(request: Request, task_id: Id, csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            ota_tasks.send_new_code(task_id, by=visitor.account, now=site.now(), address=site.address(request))
        except (ConflictError, InvalidInputError, RateLimitedError) as error:
            return _show(site, task_id, visitor, error=error, error_at="approve")
        return _back(task_id)

    @router.post("/ota/tasks/{task_id}/cancel", response_class=HTMLResponse)
    def cancel(request: Request, task_id: Id, reason: Text = "", csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            late = ota_tasks.cancel(
                task_id, by=visitor.account, now=site.now(), reason=reason, address=site.address(request)
            )
        except ConflictError as error:
            return _show(site, task_id, visitor, error=error, error_at="cancel", typed=reason)
        return _back(task_id, late=len(late))

    @router.post("/ota/tasks/{task_id}/end", response_class=HTMLResponse)
    def end(request: Request, task_id: Id, vin: Text = "", reason: Text = "", csrf: Text = "") -> Response:
        return force(request, task_id, "end", [vin], reason, csrf)

    @router.post("/ota/tasks/{task_id}/retry", response_class=HTMLResponse)
    def retry(request: Request, task_id: Id, vin: Text = "", reason: Text = "", csrf: Text = "") -> Response:
        """One vehicle; without *vin* all that failed."""
        return force(request, task_id, "retry", [vin] if vin else [], reason, csrf)

    def force(request: Request, task_id: Id, act: str, vins: list[str], reason: str, csrf: str) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        call = ota_tasks.end if act == "end" else ota_tasks.retry
        try:
            count = call(
                task_id,
                reason=reason,
                vins=vins,
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )
        except (ConflictError, InvalidInputError) as error:
            return _show(site, task_id, visitor, error=error, error_at=act, typed=reason)
        return _back(task_id, did=act, changed=count)

    @router.websocket("/live/ota/tasks/{task_id}")
    async def live_task(websocket: WebSocket, task_id: Id, page: int = 1, status: str = "") -> None:
        await serve_live(
            websocket,
            site,
            lambda visitor: _LiveTask(site, task_id, visitor, page=min(max(1, page), PAGE_NUMBER_MAX), status=status),
        )


def _back(task_id: int, **said: int | str) -> RedirectResponse:
    """To the task by GET, so that a reload does not repeat the act."""
    query = urlencode({name: value for name, value in said.items() if value != 0 or name == "changed"})
    return RedirectResponse(f"/ota/tasks/{task_id}" + (f"?{query}" if query else ""), 303)


def _show(
    site: Site,
    task_id: int,
    visitor: Visitor,
    *,
    page: int = 1,
    status: str = "",
    late: int = 0,
    did: str = "",
    changed: int | None = None,
    error: CloudError | None = None,
    error_at: str = "",
    typed: str = "",
) -> Response:
    live = _LiveTask(site, task_id, visitor, page=page, status=status)
    status_code = 200 if error is None else _ERROR_STATUSES[type(error)]
    page_of_task = site.show(
        _TEMPLATE,
        visitor,
        status_code=status_code,
        section="tasks",
        late=late,
        did=did,
        changed=changed,
        error=error,
        error_at=error_at,
        typed=typed,
        **live.read(),
    )
    return page_of_task if error is None else with_retry_after(page_of_task, error)


def _chosen(status: str) -> list[VehicleStatus]:
    """A word that is no status comes from an address that was typed: all vehicles are shown."""
    return [VehicleStatus(status)] if status in set(VehicleStatus) else []


class _LiveTask:
    """One task as one open page shows it."""

    def __init__(self, site: Site, task_id: int, visitor: Visitor, *, page: int, status: str = "") -> None:
        self.topic = f"task:{task_id}"
        self._site = site
        self._task_id = task_id
        self._visitor = visitor
        self._request = PageRequest(page, _VEHICLES_A_PAGE)
        self._chosen = _chosen(status)
        self._places: dict[str, int] = {}
        self._statuses: dict[str, str] = {}

    def read(self) -> dict[str, Any]:
        """Fetch everything; the context of the template."""
        detail = self._site.services.ota_tasks.detail(
            self._task_id, self._request, by=self._visitor.account, statuses=self._chosen
        )
        self._places = {upgrade.vin: upgrade.place for upgrade in detail.upgrades.items}
        self._statuses |= {upgrade.vin: str(upgrade.status) for upgrade in detail.upgrades.items}
        chosen = str(self._chosen[0]) if self._chosen else ""
        return {
            "detail": detail,
            "task": detail.task,
            "may_send_code": (
                detail.task.status is TaskStatus.UNAPPROVED
                and (
                    self._visitor.account.may(Permission.OTA_CREATE) or self._visitor.account.may(Permission.OTA_AUDIT)
                )
            ),
            "may_edit": (
                detail.task.status is TaskStatus.UNAPPROVED
                and detail.act is None
                and self._visitor.account.may(Permission.OTA_CREATE)
            ),
            "summaries": {upgrade.vin: _summary(upgrade) for upgrade in detail.upgrades.items},
            "query": Query(f"/ota/tasks/{self._task_id}", {"status": chosen}),
            "chosen": chosen,
            "act_words": _ACT_WORDS,
            "remark_words": REMARK_WORDS,
            "source_words": _SOURCE_WORDS,
            "failed_count": _failed_count,
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
        # Before the approval.
        "master_now": next((node.version for node in upgrade.nodes if node.position == 0), ""),
        "master_coming": next((node.target_version for node in upgrade.nodes if node.position == 0), ""),
        "slaves_now": _counted(node.version or "unknown" for node in upgrade.nodes if node.position),
        "slaves_coming": ", ".join(
            dict.fromkeys(node.target_version or "no image" for node in upgrade.nodes if node.position)
        ),
        "is_signed": all(node.is_signed for node in upgrade.nodes),
    }


def _failed_count(counts: Mapping[str, int]) -> int:
    return sum(counts.get(str(status), 0) for status in FAILED_STATUSES)


def _counted(versions: Iterable[str]) -> str:
    """As 8 × 2.1.0, and a mixed pack as what it is: 7 × 2.1.0, 1 × 2.0.0."""
    return ", ".join(f"{count} × {version}" for version, count in Counter(versions).most_common())
