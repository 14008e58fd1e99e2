"""Thousands of vehicles of one series against the library's own platform end, in virtual time.

Each unit has a `TerminalSession` and, while it is connected, a `PlatformSession`; every frame goes through `data_to_send` of one and
`receive_data` of the other, at its own nanosecond and a link's delay later.

Strategy. *Prepare ahead, send at the instant, decode behind.* Time is cut into slices of one report period. At a slice's beginning
the physics is stepped and the frames of all reports of the slice are made in columns. Each is handed to its session when it is due; the
session's state decides whether it is sent, stored, or filled in later. What the platform received is decoded in one call at the
slice's end, in columns, and counted. The reports of a slice are a sorted list; links of constant delay are queues; only deadlines and
planned calls need a heap, and a session has one entry there, filed again when it comes up too early.

Rule of phase (docs/decisions/0033-two-fidelities.md). Physics steps on whole epoch seconds; a report at T shows the second of
T - 0.1 s. So a slice begins 0.1 s behind a whole second. A pack is stepped each second or each slice, as its unit says; what changes in
its vehicle shows from the next step on.

Left out: everything but the link, the pack and the drive. Orders, downloads and slaves need a full unit.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.errors import BmsotaError, LocalProtocolError
from bmsota.gbt32960 import (
    CloseRequested,
    ConnectRequested,
    HeartbeatReceived,
    LoginRequested,
    PlatformOptions,
    PlatformSession,
    ReportReceived,
    TerminalOptions,
    TerminalSession,
    TerminalState,
    decode_batch,
)
from bmsota_sim.columns.quantise import cells_on_bus, probes_on_bus
from bmsota_sim.columns.reports import CHARGING, DRIVING, IGNITION_ON, ReportColumns, VehicleRows
from bmsota_sim.devices.vehicle import CRUISE_POWER_W, CRUISE_SPEED_KMH, METERS_PER_DEGREE, STANDBY_POWER_W
from bmsota_sim.kernel import MS, SECOND
from bmsota_sim.physics import Packs
from bmsota_sim.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from bmsota.gbt32960 import FrameColumns, PlatformEvent
    from bmsota_sim.physics import PackDesign
    from bmsota_sim.profiles import SeriesProfile

    Array = NDArray[Any]

__all__ = ["ColumnFleet", "ColumnUnit", "FleetCounts"]

LATCH_NS: Final = 100 * MS
_NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnUnit:
    """What one vehicle begins as."""

    vin: str
    iccid: str
    longitude_deg: float
    latitude_deg: float
    heading_rad: float
    odometer_km: float
    is_driving: bool = False
    is_charging: bool = False


@dataclass(slots=True)
class FleetCounts:
    """In sum over the fleet, since it began."""

    reports: int = 0
    """Handed to sessions."""
    received: int = 0
    """Reports that the platform received and decoded, in real time."""
    backfilled: int = 0
    """Reports that the platform received and decoded, filled in later."""
    logins: int = 0
    heartbeats: int = 0
    driving_s: int = 0
    """Unit-seconds that were stepped one by one."""


class _Block:
    """Rows whose packs are stepped equally often."""

    def __init__(self, rows: Array, packs: Packs, step_s: int) -> None:
        self.rows, self.packs, self.step_s = rows, packs, step_s


class _Link:
    """One connection of a unit."""

    __slots__ = ("filed_ns", "platform", "row")

    def __init__(self, row: int, platform: PlatformSession) -> None:
        self.row, self.platform = row, platform
        self.filed_ns = _NEVER
        """When the platform's entry of the heap is due."""


class ColumnFleet:
    """Vehicles of one series."""

    def __init__(
        self,
        profile: SeriesProfile,
        design: PackDesign,
        units: Sequence[ColumnUnit],
        *,
        seed: int,
        start_s: int,
        report_period_s: int = 30,
        heartbeat_period_s: int = 60,
        delay_ns: int = 20 * MS,
        decoded: Callable[[FrameColumns], object] = lambda _columns: None,
    ) -> None:
        """Switch all on at *start_s*; each connects at once and reports at its own phase of the period, drawn from *seed* and VIN.

        Args:
            profile: of the series.
            design: of its packs.
            units: the vehicles. Packs of those that drive are stepped each second, the others each report period.
            seed: of the run.
            start_s: where virtual time begins, in whole seconds since the epoch.
            report_period_s: whole seconds.
            heartbeat_period_s: whole seconds.
            delay_ns: of the link, in each direction; at least 1.
            decoded: gets what the platform has received in each slice.

        Raises:
            LocalProtocolError: a period or delay that is not positive.
        """
        if report_period_s < 1 or delay_ns < 1:
            msg = f"column fleet: expected a period of 1 s or more and a delay above 0, got {report_period_s} s, {delay_ns} ns"
            raise LocalProtocolError(msg)
        count = len(units)
        self.vins = np.array([unit.vin for unit in units])
        self.counts = FleetCounts()
        self._decoded = decoded
        self._columns = ReportColumns(profile)
        self._period_s, self._delay_ns = report_period_s, delay_ns
        self._slice_s = start_s
        self.now_ns = start_s * SECOND
        drives = np.array([unit.is_driving for unit in units])
        self._blocks = []
        for is_driving, step_s in ((False, report_period_s), (True, 1)):
            rows = np.flatnonzero(drives == is_driving)
            if len(rows):
                packs = Packs(design, self.vins[rows].tolist(), seed=seed)
                self._blocks.append(_Block(rows, packs, step_s))
        self._state = np.array(
            [IGNITION_ON | DRIVING * unit.is_driving | CHARGING * unit.is_charging for unit in units], np.uint8
        )
        self._odometer = np.array([unit.odometer_km for unit in units])
        self._longitude = np.array([unit.longitude_deg for unit in units])
        self._latitude = np.array([unit.latitude_deg for unit in units])
        heading = np.array([unit.heading_rad for unit in units])
        self._north, self._east = np.cos(heading), np.sin(heading)
        phase = [
            LATCH_NS + stream(seed, unit.vin, "report phase").randrange(report_period_s * SECOND) for unit in units
        ]
        self._phase = np.array(phase, np.int64)
        self._order = np.argsort(self._phase, kind="stable")
        """Rows in the order in which they report in each slice."""
        options = TerminalOptions(heartbeat_period_ns=heartbeat_period_s * SECOND)
        self._terminals = [TerminalSession(vin=unit.vin, iccid=unit.iccid, options=options) for unit in units]
        self._hashes = [hashlib.sha256() for _ in units]
        self._platform_options = PlatformOptions(defer_decode=True)
        self._links: list[_Link | None] = [None] * count
        self._covered = [True] * count
        self._up: deque[tuple[int, _Link, bytes | None]] = deque()
        """On the way to the platform: when, on which link; None: the link has ended."""
        self._down: deque[tuple[int, _Link, bytes | None]] = deque()
        """On the way to the unit; None: the link is there."""
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._sequence = 0
        self._filed = [_NEVER] * count
        """When each terminal's entry of the heap is due."""
        self._received: list[bytes] = []
        for row in range(count):
            self._file(row)

    # -- what a caller asks and plans ------------------------------------------------------------------------------------

    def digest(self, row: int) -> str:
        """Hash over when a unit sent what."""
        return self._hashes[row].hexdigest()

    def stored(self, row: int) -> int:
        """How many reports a unit has kept for later."""
        return self._terminals[row].stored_report_count

    def is_logged_in(self, row: int) -> bool:
        return self._terminals[row].state is TerminalState.LOGGED_IN

    def call_at(self, when_ns: int, callback: Callable[..., object], *args: Any) -> None:
        """Run *callback* then; a time in the past means now."""
        self._sequence += 1
        heappush(self._heap, (max(when_ns, self.now_ns), self._sequence, callback, args))

    def set_coverage(self, rows: Iterable[int], *, covered: bool) -> None:
        """Enter or leave the mobile network, now. Leaving ends the link; what is under way to the platform arrives."""
        for row in rows:
            self._covered[row] = covered
            if not covered and self._links[row] is not None:
                self._hang_up(row)
                self._terminals[row].disconnected(self.now_ns)
                self._serve(row)
            elif covered and self._terminals[row].state is TerminalState.WAITING:
                self._connect(row)  # Not at the next try's time: a modem says when it is in its network again.

    # -- time ------------------------------------------------------------------------------------------------------------

    def run(self, seconds: int) -> None:
        """Let *seconds* pass, in whole report periods.

        Raises:
            LocalProtocolError: not whole periods.
        """
        if seconds % self._period_s:
            msg = f"column fleet: expected a multiple of {self._period_s} s, got {seconds} s"
            raise LocalProtocolError(msg)
        for _ in range(seconds // self._period_s):
            self._run_slice()

    def _run_slice(self) -> None:
        frames = self._prepare()
        base = self._slice_s * SECOND
        end = base + self._period_s * SECOND + LATCH_NS
        terminals, hashes, links, up = self._terminals, self._hashes, self._links, self._up
        delay, rest = self._delay_ns, self._next_rest()
        times = (self._phase[self._order] + base).tolist()
        for row, when in zip(self._order.tolist(), times, strict=True):
            if rest <= when or (up and up[0][0] <= when):
                rest = self._run_others(when, rest)
            self.now_ns = when
            terminal = terminals[row]
            terminal.send_encoded(frames[row], when)
            data = terminal.data_to_send()
            link = links[row]
            if data and link is not None:
                hashes[row].update(b"%d " % when + data)
                up.append((when + delay, link, data))
        self._run_others(end - 1, rest)
        self.now_ns = end - 1
        self.counts.reports += len(times)
        self._slice_s += self._period_s
        self._decode()

    def _next_rest(self) -> int:
        """When a deadline, a planned call or what is on its way to a unit is due next."""
        planned = self._heap[0][0] if self._heap else _NEVER
        answered = self._down[0][0] if self._down else _NEVER
        return min(answered, planned)

    def _run_others(self, until_ns: int, rest: int) -> int:
        """Run deadlines, planned calls and deliveries up to and including *until_ns*.

        Args:
            until_ns: how far.
            rest: what `_next_rest` says.

        Returns:
            What `_next_rest` says then.
        """
        up, received = self._up, self._received
        while True:
            # At one instant what a platform receives is first, then what a unit receives, then what is planned.
            while up and (due := up[0][0]) <= rest and due <= until_ns:
                self.now_ns = due
                _, link, data = up.popleft()
                platform = link.platform
                if data is None:
                    platform.disconnected(due)
                    link.filed_ns = _NEVER
                    continue
                platform.receive_data(data, due)
                event = platform.next_event()
                while type(event) is ReportReceived:  # Nearly all are.
                    received.append(event.clear)
                    event = platform.next_event()
                self._serve_platform(link, event)
                rest = self._next_rest()
            if rest > until_ns:
                return rest
            self.now_ns = rest
            if self._down and self._down[0][0] == rest:
                _, link, data = self._down.popleft()
                row = link.row
                if link is self._links[row]:
                    if data is None:
                        link.platform.connected(rest)
                        self._terminals[row].connected(rest)
                    else:
                        self._terminals[row].receive_data(data, rest)
                    self._serve(row)
            else:
                _, _, callback, args = heappop(self._heap)
                callback(*args)
            rest = self._next_rest()

    # -- sessions and links ----------------------------------------------------------------------------------------------

    def _file(self, row: int) -> None:
        due = self._terminals[row].next_timeout()
        if due is not None and due < self._filed[row]:
            self._filed[row] = max(due, self.now_ns)
            self.call_at(due, self._terminal_due, row)

    def _terminal_due(self, row: int) -> None:
        if self._filed[row] > self.now_ns:  # It was filed for an earlier time since, and has been served.
            return
        self._filed[row] = _NEVER
        self._terminals[row].handle_timeout(self.now_ns)
        self._serve(row)

    def _serve(self, row: int) -> None:
        """Do what a terminal wants after anything but a report."""
        terminal = self._terminals[row]
        self._send(row)
        while (event := terminal.next_event()) is not None:
            if isinstance(event, ConnectRequested):
                self._connect(row)
            elif isinstance(event, CloseRequested):
                if self._links[row] is not None:
                    self._hang_up(row)
                terminal.disconnected(self.now_ns)
        self._file(row)

    def _send(self, row: int) -> None:
        data, link = self._terminals[row].data_to_send(), self._links[row]
        if data and link is not None:
            self._hashes[row].update(b"%d " % self.now_ns + data)
            self._up.append((self.now_ns + self._delay_ns, link, data))

    def _connect(self, row: int) -> None:
        if not self._covered[row]:
            self._terminals[row].disconnected(self.now_ns)
            return
        link = self._links[row] = _Link(row, PlatformSession(options=self._platform_options))
        self._down.append((self.now_ns + self._delay_ns, link, None))

    def _hang_up(self, row: int) -> None:
        link = self._links[row]
        assert link is not None
        self._links[row] = None
        self._up.append((self.now_ns + self._delay_ns, link, None))

    def _serve_platform(self, link: _Link, event: PlatformEvent | None) -> None:
        """Do what a platform's session wants, beginning with *event*."""
        platform = link.platform
        while event is not None:
            if type(event) is ReportReceived:
                self._received.append(event.clear)
            elif isinstance(event, LoginRequested):
                self.counts.logins += 1
                platform.accept_login(self.now_ns)
            elif isinstance(event, CloseRequested):
                # The platform has given the link up; the unit learns it a delay later.
                self.call_at(self.now_ns + self._delay_ns, self._closed, link)
            else:
                self.counts.heartbeats += type(event) is HeartbeatReceived
            event = platform.next_event()
        data = platform.data_to_send()
        if data:
            self._down.append((self.now_ns + self._delay_ns, link, data))
        due = platform.next_timeout()
        if due is not None and due < link.filed_ns:
            link.filed_ns = due
            self.call_at(due, self._platform_due, link)

    def _platform_due(self, link: _Link) -> None:
        if link.filed_ns > self.now_ns:
            return
        link.filed_ns = _NEVER
        link.platform.handle_timeout(self.now_ns)
        self._serve_platform(link, link.platform.next_event())

    def _closed(self, link: _Link) -> None:
        row = link.row
        if self._links[row] is link:
            self._links[row] = None
            self._terminals[row].disconnected(self.now_ns)
            self._serve(row)

    # -- values ----------------------------------------------------------------------------------------------------------

    def _prepare(self) -> list[bytes]:
        """Step the physics through the slice, and make the frame of each row."""
        if not len(self.vins):
            return []
        columns: dict[str, Any] = {}
        second = self._slice_s + (self._phase - LATCH_NS) // SECOND  # What each row's report shows.
        for block in self._blocks:
            for now_s in range(self._slice_s, self._slice_s + self._period_s, block.step_s):
                self._step(block)
                shown = second[block.rows] - now_s
                places = np.flatnonzero((shown >= 0) & (shown < block.step_s))
                if len(places):
                    self._show(block, places, columns)
            if block.step_s == 1:
                self.counts.driving_s += self._period_s * len(block.rows)
        is_driving = (columns["state"] & (IGNITION_ON | DRIVING)) == IGNITION_ON | DRIVING
        columns["power_w"] = np.where(is_driving, CRUISE_POWER_W, 0.0)
        times = (self._phase + self._slice_s * SECOND) // SECOND
        columns["cells"], columns["probes"] = cells_on_bus(columns["cells"]), probes_on_bus(columns["probes"])
        return self._columns.frames(VehicleRows(vin=self.vins, time_s=times, **columns))

    def _step(self, block: _Block) -> None:
        packs, rows = block.packs, block.rows
        is_driving = (self._state[rows] & (IGNITION_ON | DRIVING)) == IGNITION_ON | DRIVING
        power = np.where(is_driving, CRUISE_POWER_W, STANDBY_POWER_W)
        packs.step(power / packs.cell_voltage_v.sum(axis=1, dtype=np.float64), float(block.step_s))
        if is_driving.any():
            distance_km = is_driving * (CRUISE_SPEED_KMH * block.step_s / 3600.0)
            self._odometer[rows] += distance_km
            meters = distance_km * 1000.0
            self._latitude[rows] += meters * self._north[rows] / METERS_PER_DEGREE
            per_degree = METERS_PER_DEGREE * np.cos(np.radians(self._latitude[rows]))
            self._longitude[rows] += meters * self._east[rows] / per_degree

    def _show(self, block: _Block, places: Array, columns: dict[str, Array]) -> None:
        """Put what a block's rows at *places* show into the columns of all rows."""
        packs, rows = block.packs, block.rows[places]
        for name, values in (
            ("cells", packs.cell_voltage_v[places]),
            ("probes", packs.cell_temperature_c[places[:, None], packs.probe_cells]),
            ("current_a", packs.current_a[places]),
            ("soc", packs.cell_soc[places].min(axis=1)),
            ("state", self._state[rows]),
            ("odometer_km", self._odometer[rows]),
            ("longitude_deg", self._longitude[rows]),
            ("latitude_deg", self._latitude[rows]),
        ):
            if name not in columns:
                columns[name] = np.zeros((len(self.vins), *values.shape[1:]), values.dtype)
            columns[name][rows] = values

    def _decode(self) -> None:
        """Decode what the platform has received in the slice.

        Raises:
            BmsotaError: a frame that the session took is no report.
        """
        if not self._received:
            return
        columns = decode_batch(self._received)
        if columns.errors or columns.others:
            msg = f"column fleet: {len(columns.errors) + len(columns.others)} of {len(columns)} frames have no columns"
            raise BmsotaError(msg)
        for group in columns.groups:
            backfilled = int((group.command == 3).sum())
            self.counts.backfilled += backfilled
            self.counts.received += len(group) - backfilled
        self._decoded(columns)
        self._received.clear()
