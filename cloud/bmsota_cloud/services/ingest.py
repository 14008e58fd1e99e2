"""What comes up a vehicle's link: login, reports, heartbeat, logout, identity.

A report goes to the writer (`FrameWriter`), which commits many of them at a time in a thread of its own and then has them
derived (`derive`, once a second). Without a writer, in virtual time, it is stored and derived at once, in the caller's
thread. Nothing here reads the database for a report, and `last_seen` is kept in memory until the next derived batch: it
moves with every frame, by the platform's clock, and staleness is judged by it and not by changed values.
"""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from bmsota.errors import BmsotaError
from bmsota.gbt32960 import NodeState
from bmsota.image import ImageVersion
from bmsota_cloud.domain.telemetry import StoredFrame, VehicleSnapshot, is_plausible_time
from bmsota_cloud.services.derivation import Derivation
from bmsota_cloud.services.equipment import NodeFact
from bmsota_cloud.services.values import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from bmsota.gbt32960 import NodeIdentity, UnitIdentity
    from bmsota_cloud.domain.platform_peers import PlatformPeer
    from bmsota_cloud.domain.telemetry import JsonValue, StateRow
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.equipment import EquipmentService

__all__ = ["FrameWriter", "IngestService", "stored_frame"]

_STATE_WORDS = {NodeState.RUNNING: "running", NodeState.BOOTLOADER: "bootloader", NodeState.ABSENT: "absent"}

_LOG = logging.getLogger(__name__)
# Registered vehicles that are read together when states were lost.
_VINS_AT_ONCE = 500

# Vehicles whose events are derived again in one tick of the writer: some milliseconds each, up to a hundred from a cold disk.
_AGAIN_A_TICK_MAX = 8
# Ticks of the writer behind a login in which the vehicle's row is read and not remembered: the gateway that had the vehicle before
# derives what it has read a second later, longer if its database is busy.
_READ_AGAIN_TICKS = 5
# Ticks of the writer between two looks for processes that have ended.
_TAKE_OVER_TICKS = 10


class FrameWriter(Protocol):
    """Appends frames in a thread of its own, many at a time, and calls `IngestService.derive` once a second."""

    def put(self, frame: StoredFrame, done: Callable[[], Callable[[], object] | None] | None) -> None:
        """Take a frame; *done* is called in the caller's thread when it is committed and synced. Never blocks."""
        ...


def stored_frame(
    vin: str,
    frame: bytes,
    *,
    clear: bytes | None = None,
    reported_at_s: int,
    arrived_at_ns: int,
    is_backfill: bool,
    fault: str = "",
) -> StoredFrame:
    """A report as it is kept; *clear* where it was enciphered."""
    return StoredFrame(
        vin=vin,
        frame=frame,
        clear=frame if clear is None else clear,
        reported_at_s=reported_at_s,
        arrived_at_ns=arrived_at_ns,
        is_backfill=is_backfill,
        fault=fault,
        is_time_plausible=is_plausible_time(reported_at_s, arrived_at_ns),
    )


class IngestService:
    """One method per kind of message. Only vehicles that have logged in get here."""

    def __init__(self, context: Context, equipment: EquipmentService) -> None:
        self._context = context
        self._equipment = equipment
        self._derivation = Derivation(
            context.telemetry,
            context.counters,
            keep_s=context.settings.report_keep_s,
            layouts=context.settings.layouts,
            run_gap_s=context.settings.run_gap_s,
        )
        self._writer: FrameWriter | None = None
        self._seen: dict[str, int] = {}
        self._joined: dict[str, int] = {}
        """Vehicles that have logged in lately, maybe from another gateway; how many ticks their rows are still to be read."""
        self._lock = Lock()
        self._ticks = 0

    # -- frames --------------------------------------------------------------------------------------------------------

    def attach(self, writer: FrameWriter | None) -> None:
        """From now on reports go to *writer*, which calls `derive`; None: they are stored and derived at once."""
        self._writer = writer

    def accept(self, frame: StoredFrame, done: Callable[[], Callable[[], object] | None] | None = None) -> None:
        """Keep a report. *done* is called when it is committed and synced, also if it was there before.

        Raises:
            StorageUnavailableError: only without a writer; it was not kept.
        """
        if not frame.is_backfill:
            self._context.clock_guard.hear(frame.vin, frame.reported_at_s)
        if self._writer is not None:
            with self._lock:
                self._seen[frame.vin] = frame.arrived_at_ns
            self._writer.put(frame, done)
            return
        is_new = self._context.telemetry.append([frame])[0]
        if done is not None:
            done()
        if not is_new:
            self._context.counters.add("report_repeated")
        self._seen[frame.vin] = frame.arrived_at_ns
        self.derive([frame] if is_new else [])

    def derive(self, frames: Sequence[StoredFrame]) -> None:
        """Newest states and events of *frames*: what was appended since the last call, new ones only, in that order.

        Call it once a second, also without frames: it writes down which vehicles were heard of, derives again what late reports
        have changed, and looks every now and then for what processes that have ended have left.

        Raises:
            StorageUnavailableError: call again with the same frames and what has come since.
        """
        with self._lock:
            seen, self._seen = self._seen, {}
            joined = tuple(self._joined)
            self._joined = {vin: left - 1 for vin, left in self._joined.items() if left > 1}
        try:
            self._derivation.forget_vehicles(joined)
            if frames or seen:
                self._publish(self._derivation.take(frames, seen=seen))
            self._derivation.derive_again(None if self._writer is None else _AGAIN_A_TICK_MAX)
            self._ticks += 1
            if self._writer is not None and self._ticks % _TAKE_OVER_TICKS == 0:
                self._derivation.take_over()
        except BaseException:
            with self._lock:
                self._seen = {**seen, **self._seen}
            raise

    def recover(self) -> int:
        """Derive what was stored and not derived when a process ended: this one in its life before, or another. Before the first `accept`.

        Raises:
            ConfigurationError: another process has the name of this one.
            StorageUnavailableError: not now.
        """
        count = self._derivation.recover() + self._derivation.take_over()
        if self._context.telemetry.is_set_back:
            behind = self._derivation.catch_up(self._vins())
            self._context.telemetry.states_derived_again()
            _LOG.warning(
                "the database of newest states was lost, or is an older copy: %d states are derived again, from compressed reports;"
                " events of days that are compressed may be missing",
                behind,
            )
            self._context.counters.add("state_derived_again", behind)
        return count

    def seen(self, vin: str, now: datetime) -> None:
        """A frame without values: heartbeat, state of an upgrade."""
        at_ns = int(now.timestamp()) * 1_000_000_000 + now.microsecond * 1000
        with self._lock:
            self._seen[vin] = at_ns
        if self._writer is None:
            self.derive(())

    def prune(self, now: datetime) -> int:
        """Delete reports that arrived too long ago, a day of reports at a time, and such events; how many reports there were."""
        settings, telemetry, counters = self._context.settings, self._context.telemetry, self._context.counters
        now_s = int(now.timestamp())
        reports = telemetry.prune((now_s - settings.report_keep_s) * 1_000_000_000)
        # An event has the time of its report and no arrival; but no report makes one that arrives later than reports are kept.
        keep_s = max(settings.event_keep_s, settings.report_keep_s) + settings.report_keep_s
        events = telemetry.prune_events(now_s - keep_s)
        for name, count in (("report_deleted", reports), ("event_deleted", events)):
            if count:
                counters.add(name, count)
        return reports

    # -- links ---------------------------------------------------------------------------------------------------------

    def log_in(self, vin: str, *, serial: int, now: datetime) -> int:
        """The number of the vehicle's link, for `link_lost`; 0 if it may not log in, because it is not registered."""
        with self._context.store.reading() as work:
            is_known = work.vehicles.get(vin) is not None
        if not is_known:
            self._context.counters.add("login_unknown_vin")
            return 0
        link_id = self._context.presence.joined(vin, serial=serial, now=now)
        with self._lock:
            self._joined[vin] = _READ_AGAIN_TICKS
        self.seen(vin, now)
        self._tell_presence(vin)
        return link_id

    def may_send_for(self, vin: str, peer: PlatformPeer) -> bool | None:
        """Whether a vehicle is one of those that another platform sends for; None if it is not registered."""
        with self._context.store.reading() as work:
            vehicle = work.vehicles.get(vin)
        return None if vehicle is None else peer.may_send_for(vin, vehicle.project)

    def identity(self, vin: str, identity: UnitIdentity, now: datetime) -> None:
        """The unit has reported its nodes; what was exchanged is recorded as an equipment change."""
        facts = [fact for node in identity.nodes if (fact := _fact(node)) is not None]
        if len(facts) != len(identity.nodes):
            self._context.counters.add("node_identity_unusable", len(identity.nodes) - len(facts))
        self.seen(vin, now)
        self._equipment.identify(vin, facts, now)

    def link_lost(self, vin: str, now: datetime, *, link_id: int = 0) -> None:
        """Logout, or the link is gone: the vehicle is offline, its last values stay.

        Without effect if the vehicle has another link by now; *link_id* 0: whichever it has.
        """
        if self._context.presence.left(vin, now, link_id=link_id) or not link_id:
            self._tell_presence(vin, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _vins(self) -> Iterator[str]:
        """Every registered vehicle, some hundred at a time."""
        after = ""
        while True:
            with self._context.store.reading() as work:
                vins = work.vehicles.vins_after(after, _VINS_AT_ONCE)
            yield from vins
            if len(vins) < _VINS_AT_ONCE:
                return
            after = vins[-1]

    def _presence(self, vin: str) -> VehicleSnapshot:
        return VehicleSnapshot(vin=vin, is_online=self._context.presence.is_here(vin))

    def _tell_presence(self, vin: str, now: datetime | None = None) -> None:
        if self._context.live.is_heard(f"vehicle:{vin}"):
            self._tell(self._presence(vin), self._context.telemetry.newest([vin]).get(vin), now)

    def _publish(self, rows: Sequence[StateRow]) -> None:
        for row in rows:
            if self._context.live.is_heard(f"vehicle:{row.vin}"):
                self._tell(self._presence(row.vin), row, None)

    def _tell(self, presence: VehicleSnapshot, row: StateRow | None, now: datetime | None) -> None:
        state = snapshot_of(presence, row, self._context.settings.layouts)
        self._context.live.publish(f"vehicle:{presence.vin}", _message(state, now))


def _message(state: VehicleSnapshot, now: datetime | None) -> dict[str, JsonValue]:
    at = state.last_seen_at if now is None else now
    return {
        "kind": "state",
        "vin": state.vin,
        "is_online": state.is_online,
        "last_seen_at": None if state.last_seen_at is None else state.last_seen_at.isoformat(),
        "reported_at": None if state.reported_at is None else state.reported_at.isoformat(),
        "is_time_plausible": state.is_time_plausible,
        "soc_pct": state.soc_pct,
        "speed_kmh": state.speed_kmh,
        "alarm_level": state.alarm_level,
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
