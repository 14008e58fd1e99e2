"""The users of a platform in a campaign, through its REST API as any client.

Knows HTTP and JSON only. The client may be a real one or one that calls an application in the same process.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from bmsota.errors import BmsotaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = ["OPEN_STATUSES", "Operator", "PlatformRefusedError", "UpgradeRow"]

OPEN_STATUSES = frozenset({"Unapproved", "Approved", "To be downloaded", "Downloading", "Download Complete"})
"""The platform's own words for an upgrade that has not come to an end."""

PAGE_SIZE = 200

# A server may close an idle connection in the moment in which it is used again. A request that only reads is repeated then,
# over a new connection; one that changes something is not, because it may have been carried out.
LOOK_TRIES = 3


class PlatformRefusedError(BmsotaError):
    """The platform answered with an error: `.status`, and `.code` in its own words."""

    def __init__(self, what: str, status: int, code: str, detail: str) -> None:
        super().__init__(f"{what}: {detail or code} (HTTP {status})")
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class UpgradeRow:
    """One vehicle of a task, as the platform shows it."""

    vin: str
    status: str
    stage: str
    reason: str
    progress_pct: int
    transitions: tuple[tuple[str, str], ...]
    """(status, ISO time), oldest first."""
    before: tuple[tuple[int, str], ...]
    """(position, version)."""
    after: tuple[tuple[int, str], ...]


class Operator:
    """One logged-in user."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._headers: dict[str, str] = {}

    async def log_in(self, name: str, password: str) -> None:
        answer = await self._call("POST", "/login", json={"name": name, "password": password})
        self._headers = {"Authorization": f"Bearer {answer['token']}"}

    async def register_vehicle(
        self, *, vin: str, series: str, project: str, hwid: str, device_public_key: bytes
    ) -> None:
        await self._call(
            "POST",
            "/vehicles",
            json={
                "vin": vin,
                "series": series,
                "project": project,
                "hwid": hwid,
                "device_public_key": base64.b64encode(device_public_key).decode(),
            },
        )

    async def vehicle(self, vin: str) -> dict[str, Any]:
        """What the platform knows of a vehicle: `hwid`, `series`, `project`, ..."""
        return await self._call("GET", f"/vehicles/{vin}")

    async def replace_unit(self, *, vin: str, hwid: str, device_public_key: bytes) -> None:
        """Tell the platform that another master is in a vehicle."""
        await self._call(
            "PUT",
            f"/vehicles/{vin}/unit",
            json={"hwid": hwid, "device_public_key": base64.b64encode(device_public_key).decode()},
        )

    async def has_release(self, *, series: str, software_version: str) -> bool:
        """Whether this release is there."""
        async for item in self._items("/releases"):
            if (item["series"], item["software_version"]) == (series, software_version):
                return True
        return False

    async def set_audit_mailbox(self, project: str, mailbox: str) -> None:
        """Have the approval codes of a project go to *mailbox*; for an administrator."""
        await self._call("PUT", f"/projects/{quote(project, safe='')}", json={"audit_mailbox": mailbox})

    async def upload_release(self, manifest: bytes, images: Sequence[bytes]) -> str:
        """Upload a release; its name."""
        files = [("manifest", ("release.manifest.cose", manifest, "application/cose"))]
        files += [
            ("images", (f"image-{index}.bin", image, "application/octet-stream")) for index, image in enumerate(images)
        ]
        answer = await self._call("POST", "/releases", files=files)
        return str(answer["name"])

    async def create_task(
        self,
        *,
        project: str,
        reason: str,
        software_version: str,
        vins: Sequence[str],
        auditor: str = "",
        time_limit_s: int | None = None,
    ) -> int:
        """Create a task; its number. With *auditor*, only that account can enter the code; without *time_limit_s* it is the platform's."""
        answer = await self._call(
            "POST",
            "/tasks",
            json={
                "project": project,
                "reason": reason,
                "software_version": software_version,
                "vins": list(vins),
                "auditor": auditor,
                **({} if time_limit_s is None else {"time_limit_s": time_limit_s}),
            },
        )
        return int(answer["id"])

    async def approve(self, task_id: int, code: str) -> None:
        """Enter the mailed code.

        Raises:
            PlatformRefusedError: it is wrong or used up, or this user may not approve.
        """
        await self._call("POST", f"/tasks/{task_id}/approve", json={"code": code})

    async def upgrades(self, task_id: int) -> list[UpgradeRow]:
        """Every vehicle of a task."""
        rows: list[UpgradeRow] = []
        page = 1
        while True:
            answer = await self._call("GET", f"/tasks/{task_id}", params={"page": page, "size": PAGE_SIZE})
            upgrades = answer["upgrades"]
            rows += [_row(item) for item in upgrades["items"]]
            if page * PAGE_SIZE >= upgrades["total"]:
                return rows
            page += 1

    async def equipment_changes(self, vin: str) -> list[tuple[int, str, str]]:
        """(position, old HWID, new HWID) of one vehicle, newest first."""
        answer = await self._call("GET", "/equipment-changes", params={"vin": vin, "size": PAGE_SIZE})
        return [(item["position"], item["old_hwid"], item["new_hwid"]) for item in answer["items"]]

    async def upgrade_sources(self, vin: str) -> list[str]:
        """Where the upgrades in the history of one vehicle came from, "OTA" or "CAN", newest first."""
        answer = await self._call("GET", f"/vehicles/{vin}/upgrade-history", params={"size": PAGE_SIZE})
        return [item["source"] for item in answer["items"]]

    async def history(self, vin: str) -> list[str]:
        """What the platform says of one vehicle's past, a line an event, newest first: upgrades, then replaced nodes."""
        upgrades = await self._call("GET", f"/vehicles/{vin}/upgrade-history", params={"size": PAGE_SIZE})
        changes = await self.equipment_changes(vin)
        return [
            *(
                f"{item['source']} {item['software_version']}: {item['status']}"
                + (f": {item['reason']}" if item["reason"] else "")
                for item in upgrades["items"]
            ),
            *(f"node {position} replaced: {old} by {new}" for position, old, new in changes),
        ]

    async def _items(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        page = 1
        while True:
            answer = await self._call("GET", path, params={"page": page, "size": PAGE_SIZE})
            for item in answer["items"]:
                yield item
            if page * PAGE_SIZE >= answer["total"]:
                return
            page += 1

    async def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = await self._request(method, f"/api/v1{path}", **arguments)
        if response.is_success:
            return dict(response.json()) if response.content else {}
        try:
            body = response.json()
        except ValueError:
            body = {}
        body = body if isinstance(body, dict) else {}
        raise PlatformRefusedError(
            f"{method} {path}", response.status_code, str(body.get("error", "")), str(body.get("detail", ""))
        )

    async def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        for tries_left in range(LOOK_TRIES if method == "GET" else 1, 0, -1):
            try:
                return await self._client.request(method, path, headers=self._headers, **arguments)
            except httpx.RemoteProtocolError:
                if tries_left == 1:
                    raise
        raise AssertionError("no try")


def _row(item: dict[str, Any]) -> UpgradeRow:
    return UpgradeRow(
        vin=item["vin"],
        status=item["status"],
        stage=item["stage"],
        reason=item["reason"],
        progress_pct=item["progress_pct"],
        transitions=tuple((step["status"], step["at"]) for step in item["transitions"]),
        before=tuple((node["position"], node["version"]) for node in item["versions_before"]),
        after=tuple((node["position"], node["version"]) for node in item["versions_after"]),
    )
