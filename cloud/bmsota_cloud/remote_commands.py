"""`bmsota-cloud release`, `task` and `export`: the REST API of a running platform, with an API token, from anywhere.

Exit codes as those of all commands: 0 done; 1 refused by the platform, or the platform cannot be reached; 2 usage error.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["export_app", "release_app", "task_app"]

URL_VARIABLE = "BMSOTA_CLOUD_URL"
TOKEN_VARIABLE = "BMSOTA_CLOUD_TOKEN"  # noqa: S105 - the name of a variable, not a token
_PAGE_SIZE = 500
_TIMEOUT_S = 60.0
# The longest a release may take on a slow line.
_UPLOAD_TIMEOUT_S = 1800.0
_POLL_S = 1.0

release_app = typer.Typer(no_args_is_help=True, help="Releases of a running platform.")
task_app = typer.Typer(no_args_is_help=True, help="OTA tasks of a running platform.")

Url = Annotated[
    str, typer.Option("--url", envvar=URL_VARIABLE, help="Address of the platform, as https://cloud.example.")
]
Secret = Annotated[
    str,
    typer.Option(
        "--token",
        envvar=TOKEN_VARIABLE,
        show_envvar=True,
        help="API token, as the page My account makes it. Better in the environment: other users see command lines.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the platform's answer as JSON.")]
TaskId = Annotated[int, typer.Argument(metavar="TASK", min=1, help="Number of the task.")]


class ExportKind(StrEnum):
    """Formats of exports."""

    CSV = "csv"
    PARQUET = "parquet"
    XLSX = "xlsx"


def _refuse(words: str) -> NoReturn:
    for line in words.splitlines():
        typer.echo(f"bmsota-cloud: {line}", err=True)
    raise typer.Exit(1)


class _Platform:
    """The REST API; what goes wrong ends the command with one line."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self._client.request(method, f"/api/v1{path}", **options)
        check(answer)
        return answer.json() if answer.content else None

    def everything(self, path: str, **parameters: Any) -> list[Any]:
        """Every item of a list, page by page."""
        items: list[Any] = []
        number = 1
        while True:
            page = self.ask("GET", path, params={**parameters, "page": number, "size": _PAGE_SIZE})
            items += page["items"]
            if len(items) >= page["total"] or not page["items"]:
                return items
            number += 1

    def save(self, path: str, to: Path) -> int:
        """Write a file that is there whole or not at all; its size."""
        part = to.with_name(f".{to.name}.part")
        try:
            with self._client.stream("GET", f"/api/v1{path}") as answer, part.open("wb") as file:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    check(answer)
                for data in answer.iter_bytes():
                    file.write(data)
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)
        return to.stat().st_size


def check(answer: httpx.Response) -> None:
    """End the command if the platform has refused."""
    if answer.is_success:
        return
    try:
        words = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        words = f"{answer.request.url}: status {answer.status_code}; is this the address of a bmsota platform?"
    _refuse(words)


@contextmanager
def _platform(url: str, token: str, *, timeout_s: float = _TIMEOUT_S) -> Iterator[_Platform]:
    if not url:
        raise typer.BadParameter(f"name the platform with --url or {URL_VARIABLE}")
    if not token:
        raise typer.BadParameter(f"pass an API token with --token or {TOKEN_VARIABLE}")
    if not token.isascii() or not token.isprintable():
        raise typer.BadParameter("--token: this is no API token")
    try:
        with httpx.Client(
            base_url=url.rstrip("/"), headers={"Authorization": f"Bearer {token}"}, timeout=timeout_s
        ) as client:
            yield _Platform(client)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise typer.BadParameter(f"--url: expected https://host or https://host:port, got {url!r}") from None
    except httpx.TimeoutException:
        _refuse(f"{url} did not answer in time")
    except httpx.TransportError as error:
        _refuse(f"cannot reach {url}: {error}")
    except OSError as error:
        _refuse(f"{error.filename or 'file'}: {error.strerror or error}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@release_app.command("upload")
def release_upload(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="The signed release manifest (.cose).")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Every image of it (.bin).")],
    url: Url = "",
    token: Secret = "",
    as_json: AsJson = False,
) -> None:
    """Upload a release; needs the permission release.upload."""
    with _platform(url, token, timeout_s=_UPLOAD_TIMEOUT_S) as platform:
        files = [("manifest", (manifest.name, manifest.read_bytes()))]
        files += [("images", (image.name, image.read_bytes())) for image in images]
        made = platform.ask("POST", "/releases", files=files)
    if as_json:
        _print_json(made)
    else:
        typer.echo(f"uploaded {made['name']}: release {made['id']}, {len(made['images'])} images")


@task_app.command("list")
def task_list(
    url: Url = "",
    token: Secret = "",
    project: Annotated[str, typer.Option(help="Only tasks of this project.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the tasks, the newest first; needs ota.read."""
    with _platform(url, token) as platform:
        rows = platform.everything("/tasks", **({"project": project} if project else {}))
    if as_json:
        _print_json(rows)
        return
    table = Table("task", "status", "project", "version", "vehicles", "reason", box=None)
    for row in rows:
        task, counts = row["task"], row["counts"]
        words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        table.add_row(str(task["id"]), task["status"], task["project"], task["software_version"], words, task["reason"])
    Console().print(table)


@task_app.command("show")
def task_show(task: TaskId, url: Url = "", token: Secret = "", as_json: AsJson = False) -> None:
    """Show a task and its vehicles; needs ota.read."""
    with _platform(url, token) as platform:
        detail = platform.ask("GET", f"/tasks/{task}", params={"size": _PAGE_SIZE})
    if as_json:
        _print_json(detail)
        return
    found, upgrades = detail["task"], detail["upgrades"]
    typer.echo(
        f"task {found['id']}: {found['status']}, {found['project']}, {found['software_version']}: {found['reason']}"
    )
    table = Table("vehicle", "status", "progress", "reason", box=None)
    for upgrade in upgrades["items"]:
        table.add_row(upgrade["vin"], upgrade["status"], f"{upgrade['progress_pct']} %", upgrade["reason"])
    Console().print(table)
    if upgrades["total"] > len(upgrades["items"]):
        typer.echo(f"{upgrades['total'] - len(upgrades['items'])} more vehicles are not shown")


@task_app.command("create")
def task_create(
    vins: Annotated[list[str], typer.Argument(metavar="VIN...", help="Vehicles to upgrade.")],
    project: Annotated[str, typer.Option(help="Project of the vehicles.")],
    version: Annotated[str, typer.Option(help="Software version of the release.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the mail to the auditor.")],
    auditor: Annotated[str, typer.Option(help="The only account that may enter the code.")] = "",
    url: Url = "",
    token: Secret = "",
    as_json: AsJson = False,
) -> None:
    """Create a task; its code goes to the project's audit mailbox. Needs ota.create."""
    body = {"project": project, "software_version": version, "reason": reason, "vins": vins, "auditor": auditor}
    with _platform(url, token) as platform:
        made = platform.ask("POST", "/tasks", json=body)
    if as_json:
        _print_json(made)
    else:
        task = made.get("task", made)
        typer.echo(f"created task {task['id']}, {task['status']}: its code was mailed to the project's audit mailbox")


@task_app.command("cancel")
def task_cancel(
    task: TaskId,
    reason: Annotated[str, typer.Option(help="Why; it stands in the task.")] = "",
    url: Url = "",
    token: Secret = "",
    as_json: AsJson = False,
) -> None:
    """Cancel a task. Vehicles that are past the point of no return are named and go on. Needs ota.cancel."""
    with _platform(url, token) as platform:
        ended = platform.ask("POST", f"/tasks/{task}/cancel", json={"reason": reason})
    if as_json:
        _print_json(ended)
        return
    typer.echo(f"cancelled task {task}")
    for vin in ended.get("too_late", ()):
        typer.echo(f"too late for {vin}")


def export_app(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Write the reports to this file.")],
    since: Annotated[datetime, typer.Option(help="From this time on, by the vehicles' clocks (UTC).")],
    until: Annotated[datetime, typer.Option(help="Up to this time, not included (UTC).")],
    kind: Annotated[ExportKind, typer.Option("--format", help="Format of the file.")] = ExportKind.CSV,
    project: Annotated[str, typer.Option(help="Only vehicles of this project.")] = "",
    series: Annotated[str, typer.Option(help="Only vehicles of this series.")] = "",
    text: Annotated[str, typer.Option(help="Only vehicles with this in VIN, HWID or series.")] = "",
    url: Url = "",
    token: Secret = "",
) -> None:
    """Export reports of a running platform to a file; waits until it is made. Needs vehicle.export."""
    body = {
        "format": str(kind),
        "since": since.replace(tzinfo=UTC).isoformat(),
        "until": until.replace(tzinfo=UTC).isoformat(),
        "project": project,
        "series": series,
        "text": text,
    }
    with _platform(url, token) as platform:
        job = platform.ask("POST", "/exports", json=body)
        console = Console(stderr=True)
        with console.status(f"export {job['id']}") as status:
            while job["status"] in {"waiting", "running"}:
                time.sleep(_POLL_S)
                job = platform.ask("GET", f"/exports/{job['id']}")
                status.update(f"{job['vehicles_done']} of {job['vehicles']} vehicles, {job['reports']:,} reports")
        if job["status"] != "done":
            _refuse(f"export {job['id']} {job['status']}: {job['reason']}")
        size_bytes = platform.save(f"/exports/{job['id']}/file", to)
    typer.echo(f"{job['reports']:,} reports of {job['vehicles']:,} vehicles, {size_bytes / 1024**2:,.1f} MiB, to {to}")
