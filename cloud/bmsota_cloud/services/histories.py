"""The upgrade history of a vehicle: local upgrades come in here, and the pages read both kinds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bmsota.errors import BmsotaError
from bmsota.gbt32960 import LocalUpgradeOutcome
from bmsota.image import ImageVersion
from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, NotFoundError
from bmsota_cloud.domain.histories import LocalUpgradeRow
from bmsota_cloud.domain.ota_tasks import VehicleStatus
from bmsota_cloud.domain.vehicles import node_name
from bmsota_cloud.services.audit import note
from bmsota_cloud.services.link_watch import Oddity
from bmsota_cloud.services.scoped import vehicle_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bmsota import gbt32960
    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.histories import HistoryEntry
    from bmsota_cloud.domain.paging import Page, PageRequest
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.link_watch import LinkWatch

__all__ = ["HistoryService"]

# Both kinds of upgrade have the platform's statuses.
_STATUSES: dict[int, VehicleStatus] = {
    LocalUpgradeOutcome.SUCCEEDED: VehicleStatus.SUCCEEDED,
    LocalUpgradeOutcome.FAILED: VehicleStatus.FAILED,
    LocalUpgradeOutcome.REVERTED: VehicleStatus.ROLLED_BACK,
}
# Without a signature anyone who knows the VIN may have reported them. Four frames full; a unit keeps one.
UNCONFIRMED_MAX = 256

_HWID = re.compile(r"[!-~]{1,24}", re.ASCII)
_NO_VERSION = (0, 0, 0, 0)


class HistoryService:
    """One method per use case."""

    def __init__(self, context: Context, watch: LinkWatch) -> None:
        self._context = context
        self._watch = watch

    def receive(self, vin: str, upgrades: Sequence[gbt32960.LocalUpgrade], now: datetime) -> int:
        """A local-upgrades frame of this vehicle, which is not signed; how many of its upgrades are new.

        What is known already is counted and left aside, and so is what cannot be used: another request would bring the
        same.

        Raises:
            NotFoundError: there is no such vehicle.
            ConflictError: so many are not confirmed that no more are taken; none was. The unit keeps them.
        """
        counters = self._context.counters
        new = 0
        with self._context.store.transaction() as work:
            # Locked, so that the same frame over two links is not looked for twice and added twice.
            if work.vehicles.get(vin, lock=True) is None:
                raise NotFoundError("no-such-vehicle", f"no vehicle {vin}")
            if upgrades and work.histories.unconfirmed(vin) + len(upgrades) > UNCONFIRMED_MAX:
                counters.add("local_upgrade_refused", len(upgrades))
                detail = f"{len(upgrades)} more, and {UNCONFIRMED_MAX} are kept without a signature"
                self._watch.note(vin, Oddity.REFUSED_UPGRADES, detail, now)
                raise ConflictError("too-many", f"{vin}: {detail}")
            for upgrade in upgrades:
                read = _read(vin, upgrade, now)
                if read is None:
                    counters.add("local_upgrade_unusable")
                elif not work.histories.add(read) and not work.histories.add_words(read):
                    counters.add("local_upgrade_repeated")
                else:
                    new += 1
                    note(
                        work,
                        who=f"vehicle {vin}",
                        action="local_upgrade.receive",
                        subject=f"vehicle {vin}",
                        outcome="done",
                        now=now,
                        detail=_words(read),
                    )
        if new:
            self._context.live.publish(f"vehicle:{vin}", {"kind": "upgrade_history", "new": new})
        return new

    def page(self, vin: str, request: PageRequest, *, by: Account) -> Page[HistoryEntry]:
        """Everything that was upgraded in this vehicle, newest first; an account that may see the vehicle may see it.

        Raises:
            NotFoundError: there is no such vehicle.
        """
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            vehicle_for(work, vin, by)
            return work.histories.page(vin, request)


def _read(vin: str, upgrade: gbt32960.LocalUpgrade, now: datetime) -> LocalUpgradeRow | None:
    """The upgrade as the platform keeps it; None if it cannot be used."""
    status = _STATUSES.get(upgrade.outcome)
    try:
        before, after = _version(upgrade.version_before), _version(upgrade.version_after)
    except BmsotaError:
        return None
    if status is None or not _HWID.fullmatch(upgrade.hwid):
        return None
    return LocalUpgradeRow(
        vin=vin,
        upgraded_at=upgrade.upgraded_at,
        reported_at=now,
        position=upgrade.position,
        hwid=upgrade.hwid,
        version_before=before,
        version_after=after,
        status=status,
        tool=_printable(upgrade.tool),
        detail=_printable(upgrade.detail),
    )


def _version(numbers: tuple[int, int, int, int]) -> str:
    return "" if numbers == _NO_VERSION else str(ImageVersion(*numbers))


def _printable(text: str) -> str:
    # It comes from outside; PostgreSQL keeps no NUL, and a line of the log is one line.
    return "".join(character if character.isprintable() else " " for character in text).strip()


def _words(upgrade: LocalUpgradeRow) -> str:
    versions = f"{upgrade.version_before or 'none'} -> {upgrade.version_after or 'none'}"
    tool = f", by {upgrade.tool}" if upgrade.tool else ""
    return (
        f"{node_name(upgrade.position)} {upgrade.hwid}: {versions}, {upgrade.status!s} {upgrade.detail}".rstrip() + tool
    )
