"""The OTA task of a scenario, carried out through a platform's REST API as its users would do it.

Before the first unit is switched on: log in, register the vehicles, upload the release where it is missing. At `ota.at`: create the
task, wait for the code, enter it. Then look again and again what the platform says of each vehicle. The platform is another program;
nothing here knows more of it than its API.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.errors import ConfigurationError
from bmsota_sim.operator import Operator, PlatformRefusedError
from bmsota_sim.profiles import PROFILES
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.consistency import groups_meant
from bmsota_sim.run.expectations import purpose
from bmsota_sim.run.judged import Case
from bmsota_sim.run.ledger import UpgradeFacts
from bmsota_sim.run.releases import load_release
from bmsota_sim.run.selection import select

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from bmsota_sim.run.approval_codes import CodeSource
    from bmsota_sim.run.judged import JudgedRun
    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.selection import UnitId

__all__ = ["ApiAccount", "ApiAccounts", "ScenarioTask"]

# Requests at once while vehicles are registered: enough that the way there costs little, and no attack.
REGISTER_AT_ONCE = 8
LOOK_S = 1.0
# A platform that takes long to list a task is asked more seldom: at most this share of the time.
LOOK_SHARE_MAX = 0.2
CODE_TIMEOUT_S = 120.0
CODE_LOOK_S = 0.2
REASON_LENGTH_MAX = 300


@dataclass(frozen=True, slots=True)
class ApiAccount:
    """Somebody who may log in."""

    name: str
    password: str


@dataclass(frozen=True, slots=True)
class ApiAccounts:
    """Who acts in a run."""

    operator: ApiAccount
    """Registers vehicles, uploads releases, creates tasks, and enters the code unless there is an auditor."""
    administrator: ApiAccount | None = None
    """Says where the codes of the project go; None: that has been said."""
    auditor: ApiAccount | None = None
    """The only one who may enter the code."""
    mailbox: str = "audit@bmsota.example"
    """Where the administrator sends the codes of the project."""


class ScenarioTask:
    """The task of one run."""

    def __init__(
        self,
        run: JudgedRun,
        client: httpx.AsyncClient,
        accounts: ApiAccounts,
        codes: CodeSource | None,
        *,
        say: Callable[[str], object],
    ) -> None:
        """*client* has the platform's URL as its base; *codes* may be None without a task; *say* gets a line for each step."""
        self._run = run
        self._scenario = run.scenario
        self._accounts = accounts
        self._codes = codes
        self._say = say
        self._operator = Operator(client)
        self._administrator = Operator(client)
        self._auditor = Operator(client)
        self._task_id = 0
        self._is_approved = False
        self._problem = ""
        self._lost_looks = 0
        self._units = {ledger.vin: unit for unit, ledger in run.ledger.units.items()}
        self._historic = _with_history(self._scenario, run.seed)

    async def prepare(self) -> None:
        """Log in, and make vehicles and releases known.

        Raises:
            ConfigurationError: the platform refuses something, or is not there.
        """
        accounts = self._accounts
        try:
            await self._operator.log_in(accounts.operator.name, accounts.operator.password)
            if accounts.auditor is not None:
                await self._auditor.log_in(accounts.auditor.name, accounts.auditor.password)
            project = self._project
            if accounts.administrator is not None:
                await self._administrator.log_in(accounts.administrator.name, accounts.administrator.password)
                await self._administrator.set_audit_mailbox(project, accounts.mailbox)
            await self._register(project)
            await self._upload()
        except PlatformRefusedError as error:
            raise ConfigurationError(f"the platform refuses: {error}") from error
        except httpx.HTTPError as error:
            raise ConfigurationError(f"the platform's API does not answer: {_told(error)}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"the platform's API answers something else: {_told(error)}") from error

    @property
    def _project(self) -> str:
        return self._scenario.name if self._scenario.ota is None else self._scenario.ota.project

    async def _register(self, project: str) -> None:
        units = iter(self._run.identities)
        added = 0

        async def some() -> None:
            nonlocal added
            for unit in units:
                is_new = await self._register_one(unit, project)
                added += is_new

        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(_quietly(some())) for _ in range(REGISTER_AT_ONCE)]
        for worker in workers:
            if (error := worker.result()) is not None:
                raise error
        self._say(
            f"registered {added:,} vehicles in project {project}; {len(self._run.identities) - added:,} were known"
        )

    async def _register_one(self, unit_id: UnitId, project: str) -> bool:
        """Whether it was new."""
        identity, series = self._run.identities[unit_id], self._scenario.groups[unit_id.group].profile
        key = identity.device_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        try:
            await self._operator.register_vehicle(
                vin=identity.vin, series=series, project=project, hwid=identity.master_hwid, device_public_key=key
            )
        except PlatformRefusedError as error:
            if error.code != "already-registered":
                raise
            known = await self._operator.vehicle(identity.vin)
            for name, value in (("project", project), ("series", series)):
                if known[name] != value:
                    raise ConfigurationError(
                        f"{identity.vin} ({unit_id}) is registered with {name} {known[name]!r}, the scenario has {value!r}"
                    ) from error
            if known["hwid"] != identity.master_hwid or identity.vin in self._run.keys.devices:
                # The same vehicle in a run with another seed: another unit is in it.
                await self._operator.replace_unit(vin=identity.vin, hwid=identity.master_hwid, device_public_key=key)
            return False
        return True

    async def _upload(self) -> None:
        ota = self._scenario.ota
        if ota is None:
            return
        for series in sorted(
            {PROFILES[self._scenario.groups[name].profile].series for name in groups_meant(self._scenario, ota.who)}
        ):
            release = load_release(ota.release, series)
            if await self._operator.has_release(series=series, software_version=release.software_version):
                self._say(f"release {release.software_version} for {series} is there")
                continue
            name = await self._operator.upload_release(release.manifest, release.images)
            self._say(f"uploaded release {name}: manifest and {len(release.images)} images")

    async def carry_out(self) -> None:
        """Create the task when it is due, have it approved, and look at it until this is cancelled. What fails is in `judge`."""
        try:
            ota = self._scenario.ota
            if ota is not None:
                await self._until(ota.at_s)
                await self._create()
                await self._approve()
            while True:
                begun_s = time.monotonic()
                await self.look()
                took_s = time.monotonic() - begun_s
                await asyncio.sleep(max(LOOK_S, took_s * (1 / LOOK_SHARE_MAX - 1)))
        except PlatformRefusedError as error:
            self._problem = f"the platform refuses: {error}"
        except httpx.HTTPError as error:
            self._problem = f"the platform's API does not answer: {_told(error)}"
        except ConfigurationError as error:
            self._problem = str(error)
        except (KeyError, TypeError, ValueError) as error:
            self._problem = f"the platform's API answers something else: {_told(error)}"
        self._say(f"OTA task: {self._problem}")

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._run.now_ns() / NS_PER_S))

    async def _create(self) -> None:
        ota, ledger = self._scenario.ota, self._run.ledger
        assert ota is not None
        vins = [ledger.units[unit].vin for unit in self._run.outcomes]
        versions = {
            load_release(ota.release, PROFILES[self._scenario.groups[name].profile].series).software_version
            for name in groups_meant(self._scenario, ota.who)
        }
        if len(versions) != 1:
            raise ConfigurationError(
                f"release {ota.release}: one task brings one version, got {', '.join(sorted(versions))}"
            )
        auditor = self._accounts.auditor
        self._task_id = await self._operator.create_task(
            project=ota.project,
            reason=ota.reason,
            software_version=versions.pop(),
            vins=vins,
            auditor="" if auditor is None else auditor.name,
            time_limit_s=None if ota.validity_s is None else round(ota.validity_s),
        )
        self._say(f"created task {self._task_id} for {len(vins):,} vehicles")

    async def _approve(self) -> None:
        assert self._codes is not None
        deadline_s = time.monotonic() + CODE_TIMEOUT_S
        while (code := await self._codes.code(self._task_id)) is None:
            if time.monotonic() > deadline_s:
                raise ConfigurationError(
                    f"task {self._task_id}: no code after {CODE_TIMEOUT_S:g} s: waited for {self._codes.wanted}"
                )
            await asyncio.sleep(CODE_LOOK_S)
        approver = self._operator if self._accounts.auditor is None else self._auditor
        await approver.approve(self._task_id, code)
        self._is_approved = True
        self._run.approved_ns = self._run.now_ns()
        self._say(f"task {self._task_id} is approved")

    async def look(self) -> None:
        """Ask the platform for the status of every vehicle, and for the histories that are expected. An API that is away is asked again."""
        ledger = self._run.ledger
        try:
            if self._task_id:
                for row in await self._operator.upgrades(self._task_id):
                    unit = self._units.get(row.vin)
                    if unit is not None:
                        seen = tuple(status for status, _ in row.transitions)
                        ledger.upgrades[unit] = UpgradeFacts(
                            row.status, seen, (row.reason or row.stage)[:REASON_LENGTH_MAX]
                        )
            for unit in self._historic:
                ledger.histories[unit] = tuple(await self._operator.history(ledger.units[unit].vin))
        except httpx.HTTPError as error:
            self._lost_looks += 1
            self._problem = f"the platform's API does not answer: {_told(error)}"
        else:
            self._problem = ""

    async def finish(self) -> None:
        """The last look, and the verdict on the task itself. May be cancelled: then the platform did not answer in time."""
        ota = self._scenario.ota
        self._run.task_case = Case(
            name="REST API", passed=False, expected="answers", got="no answer in time at the end of the run"
        )
        if not self._problem or self._is_approved:
            try:
                await self.look()
            except (PlatformRefusedError, KeyError, TypeError, ValueError) as error:
                self._problem = _told(error)
        if ota is None:
            self._run.task_case = Case(
                name="REST API", passed=not self._problem, expected="answers", got=self._problem or "answered"
            )
            return
        is_due = self._run.now_ns() >= ota.at_s * NS_PER_S
        passed = None if not is_due else self._is_approved and not self._problem
        got = self._problem or (
            f"task {self._task_id} approved" if self._is_approved
            else f"task {self._task_id} was not approved when the run ended" if self._task_id
            else "not created when the run ended"
        )  # fmt: skip
        lost = f"; {self._lost_looks:,} looks at it were not answered" if self._lost_looks else ""
        self._run.task_case = Case(
            name="OTA task", passed=passed, expected="created, approved and followed to the end", got=got + lost
        )


async def _quietly(coroutine: Coroutine[None, None, None]) -> Exception | None:
    """The error it raises, so that a group of tasks gives one error and not a group of them."""
    try:
        await coroutine
    except Exception as error:  # noqa: BLE001 - raised again by who waits for it
        return error
    return None


def _with_history(scenario: FleetScenario, seed: int) -> tuple[UnitId, ...]:
    """The units of whose past something is expected."""
    found: dict[UnitId, None] = {}
    for expectation in scenario.expect:
        if expectation.kind == "history":
            found.update(dict.fromkeys(select(scenario, seed, expectation.who, purpose(scenario, expectation))))
    return tuple(found)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
