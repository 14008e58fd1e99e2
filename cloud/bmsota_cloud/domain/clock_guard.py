"""Whether the platform's clock can be trusted, and which time to use while it can't. Pure: both clocks are arguments.

A wall clock may start wrong (a board without a battery says 1970, a restored snapshot says last week) and may jump. The
monotonic clock only counts. So: after a start, and whenever the wall clock has moved by more than a minute against the
monotonic one, the guard *waits*: meanwhile nothing is deleted and no deadline fires. It ends

* after 10 minutes,
* when three vehicles' reports say the time that the clock says, or
* when an operator says so.

While a jump is waited out, `read` goes on with the time from before the jump, counted by the monotonic clock. If the wall
clock comes back, nothing has happened. If three vehicles say the time from before, that one is believed, and the wait is over
as long as they do. Otherwise the platform's time follows the wall clock at the end of the wait, also backwards.

Small differences (a clock that is disciplined) are followed: forwards at once, backwards by running at half speed, so that
the time never goes back by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from threading import RLock

__all__ = ["JUMP_S", "ClockDoubt", "ClockGuard", "ClockStatus", "ClockStep"]

_SECOND_NS = 1_000_000_000

WAIT_S = 600
"""Long enough for an operator, and for a vehicle of the longest usual period to report twenty times."""
JUMP_S = 60
"""Clocks that differ by less are one clock."""
AGREE_S = 300
"""As far as a vehicle's clock may be from ours (`domain.telemetry`)."""
VEHICLES_MIN = 3
"""One vehicle may be wrong, two may be one workshop."""
_HEARD_MAX = 10_000
_STEPS_MAX = 20


class ClockDoubt(StrEnum):
    """Why the guard waits."""

    NONE = ""
    START = "start"
    JUMP = "jump"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockStatus:
    """For people."""

    is_waiting: bool
    """Nothing is deleted and no deadline fires."""
    doubt: ClockDoubt
    wait_left_s: int
    """At most; 0 if the guard does not wait."""
    jump_s: int
    """How far the wall clock is ahead of the platform's time; negative: behind it."""
    agreeing_vehicles: int
    """How many vehicles' reports say the wall clock's time, since the wait began."""
    vehicles_needed: int = VEHICLES_MIN


@dataclass(frozen=True, slots=True)
class ClockStep:
    """The platform's time was wrong and has been changed."""

    since_ns: int
    """What it was when it was first doubted."""
    until_ns: int
    """What it was when it was changed."""


class ClockGuard:
    """See the module's docstring. `read` comes first; the other methods speak of the moment of the last `read`. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._is_trusting = False
        self._is_begun = False
        self._offset_ns = 0
        """The platform's time less the monotonic clock."""
        self._wall_ns = 0
        self._mono_ns = 0
        self._now_ns = 0
        self._waits_since_ns = 0
        """By the monotonic clock."""
        self._is_start = False
        """The wait after the start is not over."""
        self._jump_offset_ns: int | None = None
        """The wall clock less the monotonic clock, as it was seen first after a jump."""
        self._is_old_time_right = False
        """Vehicles have said that the jump is wrong."""
        self._doubted_ns = 0
        """The platform's time when the doubt began."""
        self._steps: list[ClockStep] = []
        self.steps_back = 0
        """How often the platform's time was put back. What waits for a time of before would wait too long."""
        self._for_wall: set[str] = set()
        self._for_old: set[str] = set()

    @classmethod
    def trusting(cls) -> ClockGuard:
        """A guard that never doubts: for virtual time, and for a command that runs once."""
        made = cls()
        made._is_trusting = True
        return made

    # -- time ----------------------------------------------------------------------------------------------------------

    def read(self, wall_ns: int, mono_ns: int) -> int:
        """The platform's time in nanoseconds since the Unix epoch, for what the two clocks say now."""
        with self._lock:
            return self._read(wall_ns, mono_ns)

    def _read(self, wall_ns: int, mono_ns: int) -> int:
        if not self._is_begun:
            self._is_begun = True
            self._is_start = True
            self._offset_ns = wall_ns - mono_ns
            self._waits_since_ns = mono_ns
            self._mono_ns = mono_ns
            self._doubted_ns = wall_ns
        elapsed_ns = max(0, mono_ns - self._mono_ns)
        self._wall_ns, self._mono_ns = wall_ns, max(mono_ns, self._mono_ns)
        ahead_ns = wall_ns - self._mono_ns - self._offset_ns
        if abs(ahead_ns) <= JUMP_S * _SECOND_NS:
            self._follow(ahead_ns, elapsed_ns)
        else:
            self._doubt(wall_ns - self._mono_ns)
        if self._is_start and self._jump_offset_ns is None and self._has_waited():
            self._is_start = False
        self._now_ns = self._mono_ns + self._offset_ns
        return self._now_ns

    def _follow(self, ahead_ns: int, elapsed_ns: int) -> None:
        if self._jump_offset_ns is not None:
            # It has come back by itself.
            self._jump_offset_ns = None
            self._is_old_time_right = False
            self._forget_votes()
        self._offset_ns += ahead_ns if ahead_ns >= 0 else -min(-ahead_ns, elapsed_ns // 2)

    def _doubt(self, wall_offset_ns: int) -> None:
        jump = self._jump_offset_ns
        if jump is None and not self._is_start:
            self._doubted_ns = self._now_ns
        if jump is None or abs(wall_offset_ns - jump) > JUMP_S * _SECOND_NS:
            self._jump_offset_ns = wall_offset_ns
            self._waits_since_ns = self._mono_ns
            self._is_old_time_right = False
            self._forget_votes()
        elif self._has_waited():
            if len(self._for_old) >= VEHICLES_MIN:
                # They have said so all the time; ask them again.
                self._waits_since_ns = self._mono_ns
                self._forget_votes()
            else:
                self._step()

    def _step(self) -> None:
        """From now on the wall clock is right."""
        offset_ns = self._wall_ns - self._mono_ns
        if offset_ns < self._offset_ns - JUMP_S * _SECOND_NS:
            self.steps_back += 1
        if abs(offset_ns - self._offset_ns) > JUMP_S * _SECOND_NS:
            self._steps = [*self._steps[-_STEPS_MAX:], ClockStep(self._doubted_ns, self._mono_ns + self._offset_ns)]
        self._offset_ns = offset_ns
        self._now_ns = self._wall_ns
        self._jump_offset_ns = None
        self._is_start = False
        self._is_old_time_right = False
        self._forget_votes()

    def _forget_votes(self) -> None:
        self._for_wall.clear()
        self._for_old.clear()

    def _has_waited(self) -> bool:
        return self._mono_ns - self._waits_since_ns >= WAIT_S * _SECOND_NS

    def take_steps(self) -> tuple[ClockStep, ...]:
        """The changes of the platform's time since the last call, oldest first."""
        with self._lock:
            steps, self._steps = tuple(self._steps), []
            return steps

    # -- trust ---------------------------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether nothing may be deleted and no deadline may fire."""
        if self._is_trusting:
            return False
        if self._jump_offset_ns is not None:
            return not self._is_old_time_right
        return self._is_start or not self._is_begun

    def hear(self, vin: str, reported_at_s: int) -> None:
        """A report in real time says what time it is for this vehicle."""
        if self._is_trusting or not self._is_begun or (not self._is_start and self._jump_offset_ns is None):
            return
        with self._lock:
            self._vote(vin, reported_at_s)

    def _vote(self, vin: str, reported_at_s: int) -> None:
        if len(self._for_wall) + len(self._for_old) >= _HEARD_MAX:
            return
        if abs(reported_at_s - self._wall_ns // _SECOND_NS) <= AGREE_S:
            self._for_wall.add(vin)
            if len(self._for_wall) >= VEHICLES_MIN:
                self._step()
        elif self._jump_offset_ns is not None and abs(reported_at_s - self._now_ns // _SECOND_NS) <= AGREE_S:
            self._for_old.add(vin)
            if len(self._for_old) >= VEHICLES_MIN:
                self._is_old_time_right = True
                self._is_start = False

    def accept(self) -> None:
        """An operator says that the wall clock is right."""
        with self._lock:
            if self._is_begun:
                self._step()

    def status(self) -> ClockStatus:
        with self._lock:
            return self._status()

    def _status(self) -> ClockStatus:
        is_waiting = self.is_waiting
        doubt = ClockDoubt.NONE
        if self._jump_offset_ns is not None:
            doubt = ClockDoubt.JUMP
        elif is_waiting:
            doubt = ClockDoubt.START
        left_ns = self._waits_since_ns + WAIT_S * _SECOND_NS - self._mono_ns
        return ClockStatus(
            is_waiting=is_waiting,
            doubt=doubt,
            wait_left_s=max(0, -(-left_ns // _SECOND_NS)) if is_waiting else 0,
            jump_s=round((self._wall_ns - self._now_ns) / _SECOND_NS),
            agreeing_vehicles=len(self._for_wall),
        )
