"""What a master does about its alarms: it looks at the pack each measuring period, and reports each second around one of level 3.

GB/T 32960.3 B.3.5.2: the 30 seconds before an alarm of level 3 are sent as backfill and the 30 seconds after it as reports, at most a
second apart. 2025 has level 4 too, and goes on until the alarm is over. So the last 30 looks are kept as they were, and become reports
only when they are wanted. What was measured less often than once a second is reported as often as it was measured.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bmsota.gbt32960 import Edition
from bmsota.master._alarms import AlarmWatch, alarms_of_moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bmsota.gbt32960 import AlarmFlag
    from bmsota.master._alarms import AlarmLimits
    from bmsota.master._readings import MasterReadings, PackValues
    from bmsota.master._slave_faults import SlaveFault, SlaveFaults

SECOND = 1_000_000_000
AROUND_ALARM_NS = 30 * SECOND
REPORTED_LEVEL = 3


class MeasuredSlaves(Protocol):
    """What is known of the slaves; `MeasurementTable` is one."""

    @property
    def faults(self) -> SlaveFaults: ...

    def silent(self, since_ns: int) -> Iterable[int]:
        """The slaves that have said nothing since then."""
        ...


@dataclass(frozen=True, slots=True)
class LookedAt:
    """What a look found."""

    at_ns: int
    pack: PackValues
    readings: MasterReadings
    alarms: Mapping[AlarmFlag, int]
    faults: tuple[tuple[int, SlaveFault], ...]


class Surveillance:
    """One master's, from one power-on to the next."""

    def __init__(
        self,
        limits: AlarmLimits,
        measured: MeasuredSlaves,
        *,
        edition: Edition,
        period_ns: int,
        silent_after_ns: int,
    ) -> None:
        self._limits = limits
        self._measured = measured
        self._edition = edition
        self._period_ns = max(period_ns, SECOND)
        self._silent_after_ns = silent_after_ns
        self._watch = AlarmWatch(limits)
        self._looks: deque[LookedAt] = deque(maxlen=AROUND_ALARM_NS // SECOND)
        self._earlier: list[LookedAt] = []
        self._until_ns = 0
        """Each second is reported until then."""
        self._reported_s = 0
        self._quiet_until_ns = 0
        """A slave that is silent before then may be so for a reason."""
        self.look_ns: int | None = None
        """When `look` wants to be called; None before the slaves have booted."""

    @property
    def alarms(self) -> Mapping[AlarmFlag, int]:
        """The alarms that are present, and their levels."""
        return self._watch.levels

    @property
    def is_quiet(self) -> bool:
        """No alarm is present, none is about to come or go, and nothing is reported for one."""
        return self._watch.is_quiet and not self._until_ns

    def level_of(self, pack: PackValues, readings: MasterReadings) -> int:
        """The highest level of this moment, without waiting for other looks to agree: nothing is flashed on a doubt."""
        levels = alarms_of_moment(pack, readings, self._limits).values()
        faults = (fault.level for _, fault in self._measured.faults.present)
        return min(REPORTED_LEVEL, max((*levels, *faults), default=0))

    def begin(self, now_ns: int) -> None:
        """The slaves have booted: look from now on."""
        self.look_ns = now_ns + self._period_ns
        self._quiet_until_ns = now_ns + self._silent_after_ns + self._period_ns

    def look(self, pack: PackValues, readings: MasterReadings, now_ns: int, *, is_disturbed: bool) -> None:
        """Judge what is known now. *is_disturbed*: nodes are flashed or restarted; no slave's silence is a fault then."""
        if is_disturbed:
            self._quiet_until_ns = now_ns + self._silent_after_ns + self._period_ns
        elif now_ns >= self._quiet_until_ns:
            self._measured.faults.silent(self._measured.silent(now_ns - self._silent_after_ns), now_ns)
        before = self._watch.level_max
        self._watch.look(pack, readings, now_ns)
        level = self._watch.level_max
        self._looks.append(LookedAt(now_ns, pack, readings, self._watch.levels, self._measured.faults.present))
        if level >= REPORTED_LEVEL and before < REPORTED_LEVEL and not is_disturbed:
            since_ns = now_ns - AROUND_ALARM_NS
            self._earlier = [
                each
                for each in self._looks
                if since_ns <= each.at_ns < now_ns and each.at_ns // SECOND != self._reported_s
            ]
            self._until_ns = now_ns + AROUND_ALARM_NS
        elif level >= REPORTED_LEVEL and self._edition is Edition.GBT2025:
            self._until_ns = max(self._until_ns, now_ns + SECOND)
        self.look_ns = now_ns + (SECOND if now_ns < self._until_ns else self._period_ns)

    def take_earlier(self) -> list[LookedAt]:
        """The looks before an alarm of level 3 that has just come, oldest first; once."""
        earlier, self._earlier = self._earlier, []
        return earlier

    def wants_report(self, now_ns: int) -> bool:
        """Whether this second is to be reported, and is not yet."""
        return now_ns <= self._until_ns and now_ns // SECOND != self._reported_s

    def reported(self, now_ns: int) -> None:
        """A report was sent."""
        self._reported_s = now_ns // SECOND
