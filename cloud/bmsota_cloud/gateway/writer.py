"""The one writer of a process: reports wait in a bounded queue, and a thread commits many of them at a time.

    event loop                         writer's thread
    put(frame, done)  -> queue ->      append: one transaction, synced
    done(), ...       <-  one call  <- a batch
                                       once a second, or a thousand reports: derive what is new

Strategy. A commit costs nearly the same for one row as for fifty, so the thread lingers a little before it takes what has come: as long
as about 66 reports take, at least 10 ms and at most 50. Where a gateway lingers itself and reads so many in one round, it is the 10 ms
in which it finishes that round. The queue is counted in bytes, from the moment a frame is put until it
is committed. When it is full the gateway stops reading, TCP makes the vehicles wait, and nothing is dropped. When the database is away
the same batch is tried until it is back; the frames of a batch that fails for any other reason go one by one, and one that cannot be
stored as it is is stored as bytes. Nothing that happens here reaches a link but its answer.

What is derived may be behind what is stored. When deriving could not be saved, everything behind the store's mark is derived
again (`recover`), so nothing has to be remembered here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeAlias

from bmsota_cloud.domain.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota_cloud.domain.telemetry import StoredFrame
    from bmsota_cloud.services.counters import Counters

__all__ = ["QUEUE_SIZE_BYTES_MAX", "Done", "ReportWriter"]

_LOG = logging.getLogger(__name__)

QUEUE_SIZE_BYTES_MAX = 16 * 1024 * 1024
"""Some seconds of 3,333 reports a second."""
# What a frame costs beside its bytes: the objects around it.
_FRAME_SIZE_BYTES = 500
_BATCH_FRAMES_MAX = 1000
_BATCH_SIZE_BYTES_MAX = 4 * 1024 * 1024
# From about 40 rows on, the sync of a commit costs nothing any more.
# 66 are 20 ms of 3,333 reports a second.
_BATCH_FRAMES_WANTED = 66
_LINGER_S_MIN = 0.010
_LINGER_S_MAX = 0.050
# From here on what a lingering gateway reads in one round is enough for a commit.
_ROUNDS_FROM_HZ = _BATCH_FRAMES_WANTED / _LINGER_S_MAX
_DERIVE_EVERY_S = 1.0
# The next commit waits while these are derived: some 15 ms.
_DERIVE_FRAMES_MAX = 1000
_RETRY_S_MIN = 0.05
_RETRY_S_MAX = 2.0
_LOGGED_KINDS_MAX = 100


Done: TypeAlias = "Callable[[], Callable[[], object] | None]"
"""Called when a report is committed and synced. What it returns is called once, behind all the others of its batch."""
_Waiting: TypeAlias = "tuple[StoredFrame, Done | None, int]"
"""A report, its `Done`, and its size in the queue."""


class ReportWriter:
    """See the module's docstring. `put` and `done` are in the event loop's thread."""

    def __init__(
        self,
        append: Callable[[Sequence[StoredFrame]], Sequence[bool]],
        derive: Callable[[Sequence[StoredFrame]], object],
        recover: Callable[[], object],
        counters: Counters,
        *,
        size_bytes_max: int = QUEUE_SIZE_BYTES_MAX,
    ) -> None:
        """*append* keeps frames and says which are new; *derive* gets those, in order; *recover* derives what was left behind."""
        self._append = append
        self._derive = derive
        self._recover = recover
        self._counters = counters
        self._size_bytes_max = size_bytes_max
        self.size_bytes = 0
        """What is in the queue or on its way to the database."""
        self.size_bytes_peak = 0
        self.commit_s = 0.0
        """How long the last batch took to be committed."""
        self._queue: deque[_Waiting] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._has_work = Event()
        self._is_stopping = Event()
        self._give_up_at_s = float("inf")
        self._is_full = False
        self._on_full: Callable[[], object] | None = None
        self._on_room: Callable[[], object] | None = None
        self._comes_in_rounds = False
        self._must_recover = False
        self._logged: set[str] = set()

    # --- in the event loop's thread --------------------------------------------------------------------------------------

    def start(
        self, *, on_full: Callable[[], object], on_room: Callable[[], object], comes_in_rounds: bool = False
    ) -> None:
        """Begin to write. *on_full* is called when reading has to stop, *on_room* when it may go on.

        *comes_in_rounds*: under load, frames are put many at a time, because their reader lingers.
        """
        self._comes_in_rounds = comes_in_rounds
        self._loop = asyncio.get_running_loop()
        self._on_full, self._on_room = on_full, on_room
        self._is_stopping.clear()
        self._give_up_at_s = float("inf")
        self._thread = Thread(target=self._run, name="report-writer", daemon=True)
        self._thread.start()

    def put(self, frame: StoredFrame, done: Done | None) -> None:
        """Take a frame. *done* is called when it is committed and synced, here or before. Never blocks, and never refuses."""
        size_bytes = _size_bytes(frame)
        self._queue.append((frame, done, size_bytes))
        self.size_bytes += size_bytes
        if not self._has_work.is_set():
            self._has_work.set()
        if self.size_bytes >= self._size_bytes_max and not self._is_full:
            self._is_full = True
            self._counters.add("report_queue_full")
            if self._on_full is not None:
                self._on_full()

    async def stop(self, timeout_s: float) -> bool:
        """Write what is in the queue, answer it, derive it, and end. False if the database did not take it in time."""
        thread = self._thread
        if thread is None:
            return True
        self._give_up_at_s = time.monotonic() + timeout_s
        self._is_stopping.set()
        self._has_work.set()
        await asyncio.to_thread(thread.join)
        # The answers of the last batch are on their way to this loop.
        await asyncio.sleep(0)
        self._thread = None
        if self._queue:
            _LOG.error("%d reports could not be stored before the end", len(self._queue))
        return not self._queue

    def _committed(self, batch: Sequence[_Waiting], size_bytes: int) -> None:
        self.size_bytes_peak = max(self.size_bytes_peak, self.size_bytes)
        self.size_bytes -= size_bytes
        behind: dict[Callable[[], object], None] = {}
        for _, done, _ in batch:
            if done is not None:
                try:
                    if (last := done()) is not None:
                        behind[last] = None
                except Exception as error:  # noqa: BLE001 - one link's bug must not cost the others their answers
                    self._log_once("answering a report", error)
        for last in behind:
            try:
                last()
            except Exception as error:  # noqa: BLE001 - as above
                self._log_once("sending answers", error)
        if self._is_full and self.size_bytes <= self._size_bytes_max // 2:
            self._is_full = False
            if self._on_room is not None:
                self._on_room()

    # --- in the writer's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        fresh: list[StoredFrame] = []
        derive_at_s = time.monotonic() + _DERIVE_EVERY_S
        rate_hz = 0.0
        began_s = time.monotonic()
        while True:
            is_stopping = self._is_stopping.is_set()
            if not self._queue and not is_stopping:
                self._has_work.wait(max(0.0, derive_at_s - time.monotonic()))
            if len(self._queue) < _BATCH_FRAMES_MAX and self._queue and not is_stopping:
                linger_s = _BATCH_FRAMES_WANTED / rate_hz if rate_hz else _LINGER_S_MAX
                if self._comes_in_rounds and rate_hz >= _ROUNDS_FROM_HZ:
                    linger_s = _LINGER_S_MIN
                self._is_stopping.wait(min(max(linger_s, _LINGER_S_MIN), _LINGER_S_MAX))
            self._has_work.clear()
            batch, size_bytes = self._take()
            if batch:
                now_s = time.monotonic()
                # Of the last batches, the later ones more.
                rate_hz = (rate_hz + len(batch) / max(now_s - began_s, 1e-3)) / 2
                began_s = now_s
                is_new = self._keep([frame for frame, _, _ in batch])
                if is_new is None:
                    self._queue.extendleft(reversed(batch))
                    return
                self.commit_s = time.monotonic() - now_s
                fresh += [frame for (frame, _, _), new in zip(batch, is_new, strict=True) if new]
                self._counters.add("report_repeated", is_new.count(False))
                assert self._loop is not None
                # The loop may be closed when a test ends without `stop`.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._committed, batch, size_bytes)
            is_last = is_stopping and not self._queue
            if is_last or len(fresh) >= _DERIVE_FRAMES_MAX or time.monotonic() >= derive_at_s:
                self._derive_now(fresh)
                fresh = []
                derive_at_s = time.monotonic() + _DERIVE_EVERY_S
            if is_last:
                return

    def _take(self) -> tuple[list[_Waiting], int]:
        batch: list[_Waiting] = []
        size_bytes = 0
        queue = self._queue
        while queue and len(batch) < _BATCH_FRAMES_MAX and size_bytes < _BATCH_SIZE_BYTES_MAX:
            item = queue.popleft()
            batch.append(item)
            size_bytes += item[2]
        return batch, size_bytes

    def _keep(self, frames: Sequence[StoredFrame]) -> list[bool] | None:
        """Append *frames*, however often it takes; None if the end came before the database."""
        wait_s = _RETRY_S_MIN
        away_since_s: float | None = None
        while True:
            try:
                is_new = list(self._append(frames))
            except StorageUnavailableError as error:
                if away_since_s is None:
                    away_since_s = time.monotonic()
                    _LOG.warning("reports wait for their database: %s", error)
                if time.monotonic() + wait_s > self._give_up_at_s:
                    return None
                # Not `_is_stopping`: it may be set, and then this would be a busy loop.
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_S_MAX)
            except Exception as error:  # noqa: BLE001 - logged; the frames are kept another way
                self._log_once("storing reports", error)
                return self._keep_each(frames)
            else:
                if away_since_s is not None:
                    _LOG.warning("reports are stored again, after %.1f s", time.monotonic() - away_since_s)
                return is_new

    def _keep_each(self, frames: Sequence[StoredFrame]) -> list[bool] | None:
        if len(frames) > 1:
            found: list[bool] = []
            for frame in frames:
                is_new = self._keep([frame])
                if is_new is None:
                    return None
                found += is_new
            return found
        (frame,) = frames
        raw = _as_bytes(frame)
        if raw != frame:
            self._counters.add("report_kept_as_bytes")
            return self._keep([raw])
        # Nothing is left that could be wrong with it; its bytes are in the log at least.
        self._counters.add("report_not_stored")
        _LOG.error("cannot store a report of %r: %s", frame.vin, frame.frame.hex())
        return [False]

    def _derive_now(self, fresh: Sequence[StoredFrame]) -> None:
        try:
            if self._must_recover:
                self._recover()
                self._must_recover = False
                fresh = ()
            self._derive(fresh)
        except StorageUnavailableError as error:
            self._must_recover = True
            self._log_once("deriving waits for its database", error, is_expected=True)
        except Exception as error:  # noqa: BLE001 - logged; frames are stored, and links go on
            self._counters.add("derive_failed")
            self._log_once("deriving", error)

    def _log_once(self, what: str, error: Exception, *, is_expected: bool = False) -> None:
        """Once a kind: a fleet with one fault must not fill the disk."""
        kind = f"{what}: {type(error).__name__}"
        if kind not in self._logged and len(self._logged) < _LOGGED_KINDS_MAX:
            self._logged.add(kind)
            _LOG.warning("%s: %s (told once a kind)", what, error, exc_info=None if is_expected else error)


def _size_bytes(frame: StoredFrame) -> int:
    size = len(frame.frame) + _FRAME_SIZE_BYTES
    return size if frame.clear is frame.frame else size + len(frame.clear)


def _as_bytes(frame: StoredFrame) -> StoredFrame:
    """*frame* as nothing but bytes that came, at the time they came."""
    at_s = frame.arrived_at_ns // 1_000_000_000
    return replace(
        frame,
        clear=frame.frame,
        reported_at_s=min(max(at_s, 0), 4_102_444_800),
        arrived_at_ns=min(max(frame.arrived_at_ns, 0), 2**63 - 1),
        fault=frame.fault or "not stored as a report; see the log",
        is_time_plausible=False,
        is_check_right=False,
    )
