"""The campaign of a scenario, played through a platform's REST API as an administrator and an operator would play it.

The approval is that of a project with an audit mailbox: the code goes there, and the operator asks for it and enters it.

The platform may be any that has this API: the reference cloud, in this process or elsewhere. Nothing here knows which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.errors import ConfigurationError
from bmsota_sim.defaults import release_files
from bmsota_sim.operator import OPEN_STATUSES, PlatformRefusedError
from bmsota_sim.outcome import CampaignOutcome, vehicle_result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota_sim.fleet import Fleet
    from bmsota_sim.operator import Operator, UpgradeRow
    from bmsota_sim.scenario import Campaign

__all__ = [
    "ACCOUNTS",
    "ADMINISTRATOR",
    "AUDIT_MAILBOX",
    "OPERATOR",
    "PASSWORD",
    "CampaignPlayer",
    "CampaignWatcher",
    "campaign_of",
]

PASSWORD = "demo demo demo"  # noqa: S105 - the login of a platform that lives for minutes on 127.0.0.1
OPERATOR, ADMINISTRATOR = "operator", "administrator"
ACCOUNTS = (OPERATOR, "auditor", "viewer", ADMINISTRATOR)
"""Every account of a demo, named as its role."""
AUDIT_MAILBOX = "audit@bmsota.example"


class CampaignWatcher:
    """Follows a run: the command line shows it. Every method does nothing by default."""

    def said(self, text: str) -> None:
        """Something happened that a user wants to read."""

    def started(self, fleet: Fleet) -> None:
        """The fleet has been built."""

    def progressed(self, rows: Sequence[UpgradeRow], at_s: float) -> None:
        """The task's newest state."""


@dataclass(slots=True)
class CampaignPlayer:
    """The campaign of a scenario as it is played: what it needs, and how far it has come.

    *newest_code* gives the approval code that was mailed last; None while there is none.
    """

    fleet: Fleet
    operator: Operator
    administrator: Operator
    newest_code: Callable[[], str | None]
    watcher: CampaignWatcher
    task_id: int = 0
    wrong_code_refused: bool = False
    rows: list[UpgradeRow] = field(default_factory=list)

    async def prepare(self) -> None:
        """Log in, set up the project and register the vehicles, as a maker does before they are delivered."""
        campaign = campaign_of(self.fleet)
        await self.operator.log_in(OPERATOR, PASSWORD)
        await self.administrator.log_in(ADMINISTRATOR, PASSWORD)
        await self.administrator.set_audit_mailbox(campaign.project, AUDIT_MAILBOX)
        for unit in self.fleet.units:
            await self.operator.register_vehicle(
                vin=unit.identity.vin,
                series=unit.profile.series,
                project=campaign.project,
                hwid=unit.identity.master_hwid,
                device_public_key=unit.identity.device_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
            )
        self.watcher.said(f"registered {len(self.fleet.units)} vehicles of project {campaign.project!r}")

    async def create(self) -> None:
        """Upload the releases and create the task; the platform mails a code to the audit mailbox."""
        campaign = campaign_of(self.fleet)
        for series in sorted({unit.profile.series for unit in self.fleet.units}):
            manifest, images = release_files(series, campaign.software_version)
            name = await self.operator.upload_release(manifest, images)
            self.watcher.said(f"uploaded release {name}: manifest and {len(images)} images, verified by the platform")
        self.task_id = await self.operator.create_task(
            project=campaign.project,
            reason=campaign.reason,
            software_version=campaign.software_version,
            vins=[unit.identity.vin for unit in self.fleet.units],
        )
        self.watcher.said(f"created task {self.task_id}: {campaign.software_version}, {campaign.reason!r}")

    async def approve(self) -> bool:
        """Try a wrong code, then the mailed one. False while the mail has not come."""
        code = self.newest_code()
        if code is None:
            return False
        wrong = f"{(int(code) + 1) % 1_000_000:06d}"
        try:
            await self.operator.approve(self.task_id, wrong)
        except PlatformRefusedError as refusal:
            self.wrong_code_refused = refusal.code == "wrong-code"
            self.watcher.said(f"a wrong code is refused: {refusal}")
        await self.operator.approve(self.task_id, code)
        self.watcher.said(f"the code from {AUDIT_MAILBOX} is right: the task starts")
        return True

    async def look(self, at_s: float) -> None:
        """Ask the platform for the state of every vehicle."""
        if self.task_id:
            self.rows = await self.operator.upgrades(self.task_id)
            self.watcher.progressed(self.rows, at_s)

    @property
    def ended(self) -> bool:
        return bool(self.rows) and all(row.status not in OPEN_STATUSES for row in self.rows)

    async def result(self, seconds: float, *, is_virtual: bool) -> CampaignOutcome:
        rows = {row.vin: row for row in self.rows}
        vehicles = []
        for number, unit in enumerate(self.fleet.units, start=1):
            row = rows[unit.identity.vin]
            changes = tuple(await self.operator.equipment_changes(unit.identity.vin))
            sources = await self.operator.upgrade_sources(unit.identity.vin)
            vehicles.append(vehicle_result(self.fleet, number, unit, row, changes, sources))
        return CampaignOutcome(
            scenario=self.fleet.scenario.name,
            seed=self.fleet.seed,
            seconds=seconds,
            is_virtual=is_virtual,
            trace_hash=self.fleet.trace.digest(),
            vehicles=tuple(vehicles),
            wrong_code_refused=self.wrong_code_refused,
        )


def campaign_of(fleet: Fleet) -> Campaign:
    """The campaign of the fleet's scenario.

    Raises:
        ConfigurationError: it has none.
    """
    campaign = fleet.scenario.campaign
    if campaign is None:
        raise ConfigurationError(f"scenario {fleet.scenario.name}: no campaign")
    return campaign
