"""Deriving, with the store around it: frames that were appended become states and events that are saved.

Strategy: `Deriver` remembers what it has handed out, so what can't be saved must be forgotten there too, and comes again
from what the store has. One frame that makes deriving fail is left out; the others of its batch are derived one by one.
Events that have to be derived again wait in a queue, a vehicle at a time: a day of reports costs some milliseconds, and a
fleet that sends its backlog must not keep the newest states waiting. What waits is in the vehicle's row as well, so that
another process goes on with it when the vehicle is next heard of.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING

from bmsota.errors import FrameError
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, PageRequest
from bmsota_cloud.domain.telemetry import EventKind, Mark
from bmsota_cloud.services.deriving import Deriver, day_of
from bmsota_cloud.services.run_tracking import RUN_GAP_S
from bmsota_cloud.services.values import utc_of_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bmsota.gbt32960 import Layouts
    from bmsota_cloud.domain.telemetry import StateRow, StoredFrame
    from bmsota_cloud.services.counters import Counters
    from bmsota_cloud.services.deriving import UnderivedFrame
    from bmsota_cloud.storage.base import TelemetryStore

__all__ = ["Derivation"]

_LOG = logging.getLogger(__name__)

# Frames decoded together when a day is derived again, and when a start finds frames that were not derived.
_BATCH_MAX = 1000
# As many frames as may make up one state.
_CATCH_UP_FRAMES = 24
_FAR_FUTURE_S = 4_102_444_800
"""2100-01-01: behind every time that a frame can say."""


class Derivation:
    """See the module's docstring. Called by one thread at a time: the writer's, or in virtual time the caller's."""

    def __init__(
        self,
        telemetry: TelemetryStore,
        counters: Counters,
        *,
        keep_s: int,
        layouts: Layouts | None = None,
        run_gap_s: int = RUN_GAP_S,
    ) -> None:
        self._telemetry = telemetry
        self._counters = counters
        self._deriver = Deriver(telemetry.newest, keep_s=keep_s, layouts=layouts, run_gap_s=run_gap_s)
        self._again: dict[str, tuple[int, int]] = {}
        self._logged: set[str] = set()

    @property
    def waiting(self) -> int:
        """How many vehicles have events that are to be derived again."""
        return len(self._again)

    def take(
        self,
        frames: Sequence[StoredFrame],
        *,
        seen: Mapping[str, int] | None = None,
        mark: Mark | None = None,
        is_late: bool = False,
    ) -> Sequence[StateRow]:
        """Derive from *frames* and save it; the states that have changed.

        *frames* were appended and not derived, in the order of their arrival; *seen* and *is_late* as in `Deriver.take`; *mark* is
        the store's behind them (None: they are all that was appended).

        Raises:
            StorageUnavailableError: nothing was saved; call again with the same frames.
        """
        mark = self._telemetry.mark() if mark is None else mark
        try:
            return self._take(frames, seen or {}, mark, is_late=is_late)
        except StorageUnavailableError:
            self._deriver.forget()
            raise
        except Exception as error:  # noqa: BLE001 - counted and logged; the frame is kept, the others go on
            self._deriver.forget()
            if len(frames) <= 1:
                self._counters.add("derive_failed", len(frames))
                self._log_once(f"deriving: {type(error).__name__}", error)
                self._telemetry.save_derived((), (), mark)
                return ()
        states: dict[str, StateRow] = {}
        for frame in frames:
            # The mark moves behind the last one: what is derived twice after a crash in between is the same.
            states.update((row.vin, row) for row in self.take([frame], mark=Mark(), is_late=is_late))
        states.update((row.vin, row) for row in self.take((), seen=seen, mark=mark))
        return tuple(states.values())

    def forget_vehicles(self, vins: Iterable[str]) -> None:
        """Go on from what the store has of these vehicles: another process may have derived for them meanwhile."""
        self._deriver.forget_vehicles(vins)

    def derive_again(self, limit: int | None = None) -> int:
        """Derive the events of up to *limit* vehicles again; how many it were.

        Raises:
            StorageUnavailableError: the vehicle stays in the queue.
        """
        vins = list(islice(self._again, limit))
        for vin in vins:
            self._derive_again(vin)
        return len(vins)

    def _derive_again(self, vin: str) -> None:
        try:
            self._replay(vin, self._again[vin])
        except StorageUnavailableError:
            self._deriver.forget()
            raise
        except Exception as error:  # noqa: BLE001 - logged; the events stay as they are, nothing else stops
            self._deriver.forget()
            self._counters.add("derive_failed")
            self._log_once(f"deriving again: {type(error).__name__}", error)
        del self._again[vin]

    def recover(self) -> int:
        """Derive what was appended and not derived before a crash; how many frames it were."""
        count = 0
        while (unread := self._telemetry.unread(_BATCH_MAX)).frames:
            self.take(unread.frames, mark=unread.mark, is_late=True)
            count += len(unread.frames)
        return count

    def take_over(self) -> int:
        """Derive what processes that have ended have left; how many frames it were.

        Raises:
            StorageUnavailableError: not now.
        """
        count = 0
        while True:
            with self._telemetry.taking_over(_BATCH_MAX) as unread:
                if not unread.frames:
                    return count
                # Their vehicles are at other processes by now, which write their rows as soon as the block ends.
                self._deriver.forget()
                try:
                    self.take(unread.frames, mark=unread.mark, is_late=True)
                    for vin in {frame.vin for frame in unread.frames} & self._again.keys():
                        self._derive_again(vin)
                finally:
                    self._deriver.forget()
            count += len(unread.frames)
            self._counters.add("report_derived_for_another", len(unread.frames))

    def catch_up(self, vins: Iterable[str]) -> int:
        """The newest states of *vins* from their newest frames, where what is known of them is older; how many were behind.

        The events of the days of these frames are derived again, with the others that wait for it; those of days before stay as
        they are, because a fleet's ten days would keep a core busy for hours.

        Raises:
            StorageUnavailableError: not now.
        """
        count = 0
        for vin in vins:
            page = self._telemetry.frames(vin, PageRequest(1, _CATCH_UP_FRAMES))
            known = self._telemetry.newest([vin]).get(vin)
            newest_ns = max((frame.arrived_at_ns for frame in page.items), default=0)
            if newest_ns <= (0 if known is None else known.last_seen_at_ns):
                continue
            self.take(sorted(page.items, key=lambda frame: frame.arrived_at_ns), mark=Mark(), is_late=True)
            times = [frame.reported_at_s for frame in page.items if frame.is_time_plausible]
            if times:
                self._again[vin] = (min(times), max(times))
            count += 1
        return count

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take(
        self, frames: Sequence[StoredFrame], seen: Mapping[str, int], mark: Mark, *, is_late: bool
    ) -> Sequence[StateRow]:
        derived = self._deriver.take(frames, seen=seen, is_late=is_late)
        self._telemetry.save_derived(derived.states, derived.events, mark)
        self._again.update(derived.again)
        for failure in derived.failures:
            self._count(failure)
        if self._deriver.forgotten_versions:
            self._counters.add("state_of_another_version", self._deriver.forgotten_versions)
            self._deriver.forgotten_versions = 0
        return derived.states

    def _replay(self, vin: str, again: tuple[int, int]) -> None:
        telemetry = self._telemetry
        since_s = day_of(again[0])
        checkpoints = telemetry.events(
            vin, PageRequest(1, PAGE_SIZE_MAX), since=utc_of_s(since_s), kinds=(EventKind.CHECKPOINT,)
        )
        replay = self._deriver.replay(vin, again, checkpoints.items)
        frames = telemetry.read(vin, since_s, _FAR_FUTURE_S)
        while (batch := list(islice(frames, _BATCH_MAX))) and replay.take(batch):
            pass
        telemetry.replace_events(vin, replay.since_s, replay.until_s, replay.events)
        telemetry.save_derived((self._deriver.replayed(replay),), (), telemetry.mark())

    def _count(self, failure: UnderivedFrame) -> None:
        error = failure.error
        self._counters.add("report_not_derived")
        kind = f"{error.where}: expected {error.expected}" if isinstance(error, FrameError) else type(error).__name__
        self._log_once(f"report of {failure.frame.vin} kept but not shown: {kind}", error, kind=kind)

    def _log_once(self, text: str, error: Exception, *, kind: str = "") -> None:
        """Once a kind: a fleet with one fault must not fill the disk."""
        kind = kind or text
        if kind not in self._logged and len(self._logged) < _LOGGED_KINDS_MAX:
            self._logged.add(kind)
            is_expected = isinstance(error, FrameError)
            _LOG.warning("%s (told once a kind)", text, exc_info=None if is_expected else error)


_LOGGED_KINDS_MAX = 200
