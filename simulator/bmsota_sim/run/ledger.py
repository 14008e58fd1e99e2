"""What a platform does to each unit, counted: every answer, every missing one, every wrong byte, with time and bytes of the first.

The ledger reads the bytes of a unit's link as they leave and arrive, so a fault that the unit's session survives is seen too. A
frame that is owed an answer (login, logout, heartbeat, time; a report where the platform acknowledges them) is a question until the
answer comes. An answer is recognised by its command, that of a report by the report's time too. Frames of our extension are owed
nothing: a platform may know only the standard.

Memory is bounded: a row of counters and a histogram for each unit, whatever the length of the run. No I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, log2
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bmsota.errors import FrameError
from bmsota.gbt32960 import (
    Alarms,
    Alarms2025,
    Command,
    DiscardedBytes,
    FrameReader,
    RefusalKind,
    ReplyFlag,
    Report,
    decode,
)
from bmsota_sim.run.alarm_places import AlarmPlaces
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.expectations import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.selection import UnitId, Units

__all__ = [
    "FAULTS",
    "LATENCY_BUCKETS",
    "First",
    "Ledger",
    "LedgerPart",
    "UnitLedger",
    "UpgradeFacts",
    "quantile_of",
    "replies_below",
]

FAULTS = (
    "connect_failures",
    "login_refusals",
    "refused",
    "unanswered",
    "answered_twice",
    "late_answers",
    "wrong_check_byte",
    "other_vin",
    "garbage",
    "drops",
)
"""Counters that are faults of the platform, or of the way to it. What a run does itself, such as an outage, is not in them."""

# A vehicle's driver waits for nothing longer; the terminal itself waits a minute (GB/T 32960.3, parameter 0x0B).
LATE_NS = 5 * NS_PER_S
LOST_NS = 60 * NS_PER_S
_OWED = frozenset({Command.VEHICLE_LOGIN, Command.VEHICLE_LOGOUT, Command.HEARTBEAT, Command.TIME_SYNC})
_REPORTS = frozenset({Command.REALTIME_REPORT, Command.BACKFILL_REPORT})
# Questions of a unit that are remembered: a platform that answers nothing must not fill the memory.
QUESTIONS_MAX = 256
# Of those that are over, so that a second or late answer is known as such.
KEPT_MAX = 32
_KEY_SIZE_BYTES = 6
FIRST_SIZE_BYTES_MAX = 64
HEADER_SIZE_BYTES = 24
IS_COMMAND = 0xFE

# Buckets of reply times: three for each doubling, from 0.1 ms to about 4.5 minutes.
LATENCY_BUCKETS = 64
_BUCKET_FIRST_S = 1e-4
_PER_DOUBLING = 3


class UpgradeFacts(NamedTuple):
    """How far the upgrade of one unit is, in the platform's words."""

    status: str
    seen: tuple[str, ...]
    """The statuses that it has had, oldest first."""
    reason: str
    """Why it ended so; while it is open, what the unit is doing."""


class First(NamedTuple):
    """The first time that a counter moved."""

    at_ns: int
    """From the start of the run."""
    data: bytes
    """The first bytes, at most 64."""
    detail: str


@dataclass(slots=True)
class _Question:
    command: int
    key: bytes
    asked_ns: int
    is_owed: bool


@dataclass(slots=True)
class UnitLedger:
    """What is known of one unit's link."""

    ledger: Ledger
    row: int
    unit: UnitId
    vin: str
    firsts: dict[str, First] = field(default_factory=dict)
    is_logged_in: bool = False
    is_up: bool = False
    _is_leaving: bool = False
    _received_ns: int = 0
    _reader: FrameReader | None = None
    """None until something comes."""
    _open: list[_Question] = field(default_factory=list)
    _answered: bytes = b""
    """The last `KEPT_MAX` questions that were answered, each as `_packed`. One object: there are tens of thousands of units."""
    _lost: bytes = b""
    """The same of those that were given up."""

    def add(self, counter: str, now_ns: int, data: bytes = b"", detail: str = "", *, count: int = 1) -> None:
        """Count something; the first of each counter is kept."""
        self.ledger.counts[self.row, _INDEX[counter]] += count
        if counter not in self.firsts:
            self.firsts[counter] = First(now_ns, bytes(data[:FIRST_SIZE_BYTES_MAX]), detail)

    # -- the link --------------------------------------------------------------------------------------------------------

    def opened(self, now_ns: int) -> None:
        """The link is there."""
        self._reader = None
        self._answered = self._lost = b""
        self._open.clear()
        self._is_leaving = False
        self.is_up = True
        self.add("connects", now_ns)

    def closed(self, now_ns: int, reason: str, *, is_planned: bool) -> None:
        """The link is gone, or could not be opened. *is_planned*: the unit or the run did it."""
        if not self.is_up:
            if not is_planned:
                self.add("connect_failures", now_ns, detail=reason)
            return
        self.expire(now_ns)
        for question in self._open:
            if question.is_owed and now_ns - question.asked_ns > LATE_NS:
                self._unanswered(question, now_ns)
        self._open.clear()
        self._end_reading()
        self.is_up = self.is_logged_in = False
        if not (is_planned or self._is_leaving):
            self.add("drops", now_ns, detail=reason)

    def expire(self, now_ns: int) -> None:
        """Give up the questions that have waited long enough."""
        while self._open and (now_ns - self._open[0].asked_ns > LOST_NS or len(self._open) > QUESTIONS_MAX):
            question = self._open.pop(0)
            self._lost = _kept(self._lost, _packed(question.command, question.key))
            if question.is_owed:
                self._unanswered(question, now_ns)

    def _end_reading(self) -> None:
        """Nothing more comes: what the reader still holds is no frame. It came at the last data's time."""
        if self._reader is not None and self._reader.unread_size_bytes:
            self._reader.end()
            self._read(self._reader, self._received_ns)

    def ended(self, now_ns: int) -> None:
        """The run is over: what has waited too long counts."""
        self.expire(now_ns)
        self._end_reading()
        for question in self._open:
            if question.is_owed and now_ns - question.asked_ns > LATE_NS:
                self._unanswered(question, now_ns)
        self._open.clear()

    def _unanswered(self, question: _Question, now_ns: int) -> None:
        asked = f"command {question.command:#04x}, sent at {question.asked_ns / NS_PER_S:.3f} s"
        self.add("unanswered", now_ns, question.key, asked)

    # -- bytes -----------------------------------------------------------------------------------------------------------

    def sent(self, data: bytes, now_ns: int) -> None:
        """The unit has sent whole frames."""
        self.expire(now_ns)
        at = 0
        while at + HEADER_SIZE_BYTES < len(data):
            size = HEADER_SIZE_BYTES + int.from_bytes(data[at + 22 : at + 24]) + 1
            self._frame_sent(data[at : at + size], now_ns)
            at += size

    def _frame_sent(self, raw: bytes, now_ns: int) -> None:
        command = raw[2]
        if raw[3] != IS_COMMAND:
            return  # An answer to a command of the platform.
        is_report = command in _REPORTS
        if is_report:
            self.add("sent", now_ns)
            if command == Command.BACKFILL_REPORT:
                self.add("backfilled", now_ns)
            if _has_alarm(raw):
                self.add("alarms", now_ns, raw)
        elif command == Command.HEARTBEAT:
            self.add("heartbeats", now_ns)
        elif command == Command.VEHICLE_LOGOUT:
            self._is_leaving = True
            self.is_logged_in = False
        is_owed = command in _OWED or (is_report and self.ledger.acknowledges_reports)
        self._open.append(_Question(command, raw[24:30] if is_report else b"", now_ns, is_owed))

    def received(self, data: bytes, now_ns: int) -> None:
        """The platform has sent bytes, cut anyhow."""
        self.expire(now_ns)
        self._received_ns = now_ns
        if self._reader is None:
            self._reader = FrameReader()
        self._reader.receive_data(data)
        self._read(self._reader, now_ns)

    def _read(self, reader: FrameReader, now_ns: int) -> None:
        while (event := reader.next_event()) is not None:
            if isinstance(event, DiscardedBytes):
                is_check_byte = event.kind is RefusalKind.CHECK_BYTE
                self.add("wrong_check_byte" if is_check_byte else "garbage", now_ns, event.data, event.reason)
                continue
            frame = event.frame
            if frame.vin != self.vin:
                self.add("other_vin", now_ns, event.raw, f"expected {self.vin}, got {frame.vin}")
            elif frame.reply_flag != IS_COMMAND:
                self._answer(frame.command, frame.reply_flag, event.raw, now_ns)

    def _answer(self, command: int, flag: int, raw: bytes, now_ns: int) -> None:
        key = raw[24:30] if command in _REPORTS else b""
        for question in self._open:
            if question.command == command and question.key == key:
                self._open.remove(question)
                break
        else:
            packed = _packed(command, key)
            if (at := _place(self._lost, packed)) is not None:
                self._lost = self._lost[:at] + self._lost[at + len(packed) :]
                self.add(
                    "late_answers", now_ns, raw, f"command {command:#04x}, after more than {LOST_NS // NS_PER_S} s"
                )
            elif _place(self._answered, packed) is not None:
                self.add("answered_twice", now_ns, raw, f"command {command:#04x}")
            else:
                self.add("garbage", now_ns, raw, f"an answer to command {command:#04x}, which was not sent")
            return
        self._answered = _kept(self._answered, _packed(command, key))
        self.ledger.latency(self.row, (now_ns - question.asked_ns) / NS_PER_S)
        if now_ns - question.asked_ns > LATE_NS:
            seconds = (now_ns - question.asked_ns) / NS_PER_S
            self.add("late_answers", now_ns, raw, f"command {command:#04x}, after {seconds:.3f} s")
        if command == Command.VEHICLE_LOGIN:
            self.is_logged_in = flag == ReplyFlag.SUCCESS
            self.add("logins" if self.is_logged_in else "login_refusals", now_ns, raw, f"reply flag {flag:#04x}")
        elif flag == ReplyFlag.SUCCESS:
            if command in _REPORTS:
                self.add("acknowledged", now_ns)
        elif command in _OWED or command in _REPORTS:
            self.add("refused", now_ns, raw, f"command {command:#04x}, reply flag {flag:#04x}")


def _packed(command: int, key: bytes) -> bytes:
    """A question in seven bytes: its command, and a report's time."""
    return bytes((command,)) + key.ljust(_KEY_SIZE_BYTES, b"\xff")  # No time has such a month.


def _kept(questions: bytes, packed: bytes) -> bytes:
    """These and one more, but no more than `KEPT_MAX`: the first are forgotten."""
    return (questions + packed)[-KEPT_MAX * len(packed) :]


def _place(questions: bytes, packed: bytes) -> int | None:
    """Where the first of its kind is; None if there is none."""
    at = questions.find(packed)
    while at >= 0 and at % len(packed):
        at = questions.find(packed, at + 1)
    return None if at < 0 else at


_INDEX = {name: index for index, name in enumerate(COUNTERS)}
_FAULT_COLUMNS = [_INDEX[name] for name in FAULTS]


_ALARM_PLACES = AlarmPlaces()


def _has_alarm(raw: bytes) -> bool:
    if _ALARM_PLACES.are_zero(raw):  # Nearly all are.
        return False
    try:
        report = decode(raw).message
    except FrameError:
        return False  # A body of another maker; the units of this simulator send none.
    if not isinstance(report, Report):
        return False
    alarms = (body for body in report.bodies if isinstance(body, Alarms | Alarms2025))
    return any(body.flags or (isinstance(body.level_max, int) and body.level_max > 0) for body in alarms)


class LedgerPart(NamedTuple):
    """What a ledger knows at a moment, row by row: what a shard of a run tells of its units."""

    counts: NDArray[np.int64]
    latencies: NDArray[np.uint32]
    reply_sum_s: float
    is_up: NDArray[np.bool_]
    is_logged_in: NDArray[np.bool_]
    firsts: dict[int, dict[str, First]]
    """By row; units without any are left out."""

    def after(self, earlier: LedgerPart) -> LedgerPart:
        """This one of units that began again, with what was counted before."""
        firsts = dict(self.firsts)
        for row, known in earlier.firsts.items():
            firsts[row] = {**firsts.get(row, {}), **known}
        return LedgerPart(
            self.counts + earlier.counts,
            self.latencies + earlier.latencies,
            self.reply_sum_s + earlier.reply_sum_s,
            self.is_up,
            self.is_logged_in,
            firsts,
        )


class Ledger:
    """That of all units; implements `expectations.RunFacts`. Times are nanoseconds from the start of the run."""

    def __init__(self, scenario: FleetScenario, vins: dict[UnitId, str]) -> None:
        """Empty. *vins*: every unit, in the order of the groups and their numbers."""
        self.acknowledges_reports = scenario.platform.acknowledges_reports == "yes"
        self.counts: NDArray[np.int64] = np.zeros((len(vins), len(COUNTERS)), np.int64)
        self.reply_sum_s = 0.0
        """Of all answers."""
        self._latencies: NDArray[np.uint32] = np.zeros((len(vins), LATENCY_BUCKETS), np.uint32)
        self.units = {unit: UnitLedger(self, row, unit, vin) for row, (unit, vin) in enumerate(vins.items())}
        self.upgrades: dict[UnitId, UpgradeFacts] = {}
        """What the platform's API said last of each unit's upgrade."""
        self.histories: dict[UnitId, tuple[str, ...]] = {}
        """What it said of each unit's past, where that is wanted."""
        self._marks: dict[int, NDArray[np.int64]] = {}
        self._first_row: dict[str, int] = {}
        for unit, row in ((unit, each.row) for unit, each in self.units.items()):
            self._first_row.setdefault(unit.group, row)

    def part(self) -> LedgerPart:
        """What it knows now; later counts change nothing in it."""
        units = self.units.values()
        return LedgerPart(
            self.counts.copy(),
            self._latencies.copy(),
            self.reply_sum_s,
            np.fromiter((unit.is_up for unit in units), np.bool_, len(self.units)),
            np.fromiter((unit.is_logged_in for unit in units), np.bool_, len(self.units)),
            {unit.row: dict(unit.firsts) for unit in units if unit.firsts},
        )

    def take(self, parts: Iterable[tuple[Sequence[UnitId], LedgerPart]]) -> None:
        """Know what *parts* know of their units, in place of what was known of them; together they are all units."""
        self.reply_sum_s = 0.0
        for units, part in parts:
            rows = [self.units[unit].row for unit in units]
            self.counts[rows] = part.counts
            self._latencies[rows] = part.latencies
            self.reply_sum_s += part.reply_sum_s
            for index, unit in enumerate(units):
                ledger = self.units[unit]
                ledger.is_up, ledger.is_logged_in = bool(part.is_up[index]), bool(part.is_logged_in[index])
                ledger.firsts = dict(part.firsts.get(index, {}))

    def mark(self, now_ns: int) -> None:
        """Keep the counters as they are, to count from here later."""
        self._marks[now_ns] = self.counts.copy()

    def latency(self, row: int, seconds: float) -> None:
        """An answer took so long."""
        bucket = 0 if seconds <= _BUCKET_FIRST_S else int(log2(seconds / _BUCKET_FIRST_S) * _PER_DOUBLING) + 1
        self._latencies[row, min(bucket, LATENCY_BUCKETS - 1)] += 1
        self.reply_sum_s += seconds

    def ended(self, now_ns: int) -> None:
        for unit in self.units.values():
            unit.ended(now_ns)

    def totals(self) -> dict[str, int]:
        """The sum of each counter."""
        return dict(zip(COUNTERS, map(int, self.counts.sum(axis=0)), strict=True))

    def of_unit(self, unit: UnitId) -> dict[str, int]:
        return dict(zip(COUNTERS, map(int, self.counts[self.units[unit].row]), strict=True))

    def logged_in_count(self) -> int:
        return sum(unit.is_logged_in for unit in self.units.values())

    def connected_count(self) -> int:
        """How many units have a link."""
        return sum(unit.is_up for unit in self.units.values())

    def reply_buckets(self) -> NDArray[np.int64]:
        """The histogram of all reply times, for `quantile_of`."""
        return np.asarray(self._latencies.sum(axis=0), np.int64)

    def quantile(self, share: float) -> float | None:
        """How long this share of all answers took at most; None: there was none."""
        return quantile_of(self.reply_buckets(), share)

    def worst(self, count_max: int) -> list[tuple[UnitLedger, int]]:
        """The units on whose links most faults were seen, and how many; those with none are left out."""
        sums = self.counts[:, _FAULT_COLUMNS].sum(axis=1)
        # Stable: of equals, the first of the scenario.
        order = np.argsort(-sums, kind="stable")[:count_max]
        units = list(self.units.values())
        return [(units[row], int(sums[row])) for row in order if sums[row]]

    def first_of(self, counter: str) -> tuple[UnitId, First] | None:
        """The first of this counter in the whole run."""
        found = [(unit.firsts[counter], unit.unit) for unit in self.units.values() if counter in unit.firsts]
        if not found:
            return None
        first, unit = min(found, key=lambda pair: (pair[0].at_ns, pair[1]))
        return unit, first

    # -- RunFacts -----------------------------------------------------------------------------------------------------------

    def _rows(self, units: Units) -> NDArray[np.int64]:
        rows = [self._first_row[group] + numbers - 1 for group, numbers in units.numbers.items()]
        return np.concatenate(rows) if rows else np.zeros(0, np.int64)

    def count(self, counter: str, units: Units, since_ns: int | None = None, until_ns: int | None = None) -> int:  # noqa: ARG002 - asked at that time
        """See `expectations.RunFacts`. It counts up to now: an expectation is judged when it is due.

        Raises:
            KeyError: nothing was marked at *since_ns*.
        """
        rows, column = self._rows(units), _INDEX[counter]
        total = int(self.counts[rows, column].sum())
        return total if not since_ns else total - int(self._marks[since_ns][rows, column].sum())

    def reply_seconds(self, units: Units, quantile: float) -> float | None:
        return quantile_of(self._latencies[self._rows(units)].sum(axis=0), quantile)

    def logged_in(self, unit: UnitId) -> bool:
        return self.units[unit].is_logged_in

    def status(self, unit: UnitId) -> str | None:
        upgrade = self.upgrades.get(unit)
        return None if upgrade is None else upgrade.status

    def statuses_seen(self, unit: UnitId) -> Sequence[str]:
        upgrade = self.upgrades.get(unit)
        return () if upgrade is None else upgrade.seen

    def history(self, unit: UnitId) -> Sequence[str]:
        return self.histories.get(unit, ())


def replies_below(buckets: NDArray[np.int64]) -> list[tuple[float, int]]:
    """Upper bounds in seconds, and how many answers of a histogram took at most so long; the last bound is infinite."""
    below = np.cumsum(buckets)
    bounds = [_BUCKET_FIRST_S * 2 ** (index / _PER_DOUBLING) for index in range(LATENCY_BUCKETS - 1)]
    return [(bound, int(count)) for bound, count in zip([*bounds, inf], below, strict=True)]


def quantile_of(buckets: NDArray[Any], share: float) -> float | None:
    """How long this share of the answers in a histogram took at most, in seconds; None: there was none."""
    total = int(buckets.sum())
    if not total:
        return None
    bucket = int(np.searchsorted(np.cumsum(buckets), share * total))
    return float(_BUCKET_FIRST_S * 2 ** (min(bucket, LATENCY_BUCKETS - 1) / _PER_DOUBLING))
