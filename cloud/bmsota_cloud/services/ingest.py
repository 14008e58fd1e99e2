"""What comes up a vehicle's link: login, reports, heartbeat, logout, identity.

Written are the newest state (one row a vehicle) and the hot reports. `last_seen_at` moves with every frame, by the
platform's clock: staleness is judged by messages, not by changed values.
Left out so far: ingest in batches by the columnar codec, hourly blocks.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from bmsota.errors import BmsotaError
from bmsota.gbt32960 import NodeState
from bmsota.image import ImageVersion
from bmsota_cloud.domain.telemetry import ReportRow, VehicleSnapshot
from bmsota_cloud.services.equipment import NodeFact
from bmsota_cloud.services.values import merged, number, plain_bodies

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota.gbt32960 import NodeIdentity, Report, UnitIdentity
    from bmsota_cloud.domain.telemetry import JsonValue
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.equipment import EquipmentService

__all__ = ["IngestService"]

_STATE_WORDS = {NodeState.RUNNING: "running", NodeState.BOOTLOADER: "bootloader", NodeState.ABSENT: "absent"}


class IngestService:
    """One method per kind of message. Only vehicles that have logged in get here."""

    def __init__(self, context: Context, equipment: EquipmentService) -> None:
        self._context = context
        self._equipment = equipment

    def log_in(self, vin: str, *, serial: int, now: datetime) -> bool:
        """Whether this vehicle may log in: it must be registered."""
        with self._context.store.reading() as work:
            is_known = work.vehicles.get(vin) is not None
        if not is_known:
            self._context.counters["login_unknown_vin"] += 1
            return False
        state = self._state(vin)
        self._save(replace(state, is_online=True, last_seen_at=now, login_serial=serial))
        return True

    def seen(self, vin: str, now: datetime) -> None:
        """A frame without values: heartbeat, state of an upgrade."""
        self._save(replace(self._state(vin), is_online=True, last_seen_at=now))

    def report(self, vin: str, report: Report, *, is_backfill: bool, now: datetime) -> None:
        """Keep a report; the newest state takes it over unless it is older than what is there."""
        values = plain_bodies(report.bodies)
        row = ReportRow(vin=vin, reported_at=report.time, received_at=now, is_backfill=is_backfill, values=values)
        if self._context.telemetry.append([row]) == 0:
            self._context.counters["report_repeated"] += 1
        state = replace(self._state(vin), is_online=True, last_seen_at=now)
        if not is_backfill and (state.reported_at is None or report.time >= state.reported_at):
            newest = merged(state.values, values)
            state = replace(
                state,
                reported_at=report.time,
                values=newest,
                soc_pct=number(newest, "vehicle", "soc_pct"),
                speed_kmh=number(newest, "vehicle", "speed_kmh"),
            )
        self._save(state)

    def identity(self, vin: str, identity: UnitIdentity, now: datetime) -> None:
        """The unit has reported its nodes; what was exchanged is recorded as an equipment change."""
        facts = [fact for node in identity.nodes if (fact := _fact(node)) is not None]
        if len(facts) != len(identity.nodes):
            self._context.counters["node_identity_unusable"] += len(identity.nodes) - len(facts)
        self.seen(vin, now)
        self._equipment.identify(vin, facts, now)

    def link_lost(self, vin: str, now: datetime) -> None:
        """Logout, or the link is gone: the vehicle is offline, its last values stay."""
        self._save(replace(self._state(vin), is_online=False), now=now)

    def forget_links(self, now: datetime) -> None:
        """The platform has just started: no vehicle has a link to it yet."""
        for vin in self._context.telemetry.online_vins():
            self.link_lost(vin, now)

    def prune(self, now: datetime) -> int:
        """Delete reports that are too old to be kept as rows; how many there were."""
        return self._context.telemetry.prune(now - timedelta(seconds=self._context.settings.report_keep_s))

    def _state(self, vin: str) -> VehicleSnapshot:
        return self._context.telemetry.state(vin) or VehicleSnapshot(vin=vin)

    def _save(self, state: VehicleSnapshot, *, now: datetime | None = None) -> None:
        self._context.telemetry.save_state(state)
        topic = f"vehicle:{state.vin}"
        if self._context.live.is_heard(topic):
            self._context.live.publish(topic, _message(state, now))


def _message(state: VehicleSnapshot, now: datetime | None) -> dict[str, JsonValue]:
    at = state.last_seen_at if now is None else now
    return {
        "kind": "state",
        "vin": state.vin,
        "is_online": state.is_online,
        "last_seen_at": None if state.last_seen_at is None else state.last_seen_at.isoformat(),
        "reported_at": None if state.reported_at is None else state.reported_at.isoformat(),
        "soc_pct": state.soc_pct,
        "speed_kmh": state.speed_kmh,
        "values": state.values,
        "at": None if at is None else at.isoformat(),
    }


def _fact(node: NodeIdentity) -> NodeFact | None:
    try:
        version = str(ImageVersion(*node.version))
    except BmsotaError:
        return None
    return NodeFact(
        position=node.position,
        hwid=node.hwid,
        version=version,
        security_counter=node.security_counter,
        hardware_class=str(node.hardware_class),
        serial=node.serial,
        # A code without a name here is shown as it came.
        state=_STATE_WORDS.get(NodeState(node.state), "") if node.state in set(NodeState) else f"state {node.state}",
    )
