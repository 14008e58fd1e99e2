"""What the updater asks of the slaves, done by the flashing engine, one operation after another.

The updater's actions go in (`request`), the engine's results go back to the updater in its own words. Between two of its
requests the master finds out who is there: at power-on, when a slave's identity pages differ from what is known, and when a
flasher has gone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bmsota.flashing import FlashingEngine, NodesDiscovered, OperationFinished, TransferProgressed
from bmsota.master._slave_rescue import RestoreSlave
from bmsota.ota import (
    ActivateSlaves,
    ConfirmSlaves,
    DiscoverNodes,
    FlashSlaves,
    RaiseCounters,
    RevertSlaves,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota.flashing import EngineEvent, FlashingProfile
    from bmsota.master._internal_bus import MeasurementTable
    from bmsota.node import NodeDescription, NodeResult
    from bmsota.ota import Updater


SlaveRequest = (
    DiscoverNodes | FlashSlaves | ActivateSlaves | ConfirmSlaves | RaiseCounters | RevertSlaves | RestoreSlave
)


class SlaveOperations:
    """One master's work on its slaves, from one power-on to the next. `engine` has the bus's side: drive it."""

    def __init__(self, profile: FlashingProfile, positions: Sequence[int], updater: Updater) -> None:
        """Take the protocol, where slaves are expected, and whose requests these are."""
        self.engine = FlashingEngine(profile)
        self.nodes: tuple[NodeDescription, ...] = ()
        self._seen: tuple[int, tuple[NodeDescription, ...], bool] | None = None
        """What was so when no slave differed."""
        """Who answered the last discovery."""
        self.wants_discovery = False
        """Whether to ask who is there as soon as no request of the updater waits."""
        self._positions = tuple(positions)
        self._updater = updater
        self._requests: deque[SlaveRequest] = deque()
        self._is_busy = False
        """An operation was begun whose end has not been handled. (Over no slaves at all it ends as it begins.)"""
        self._under_way: SlaveRequest | None = None
        """The request it belongs to; None of a discovery that the updater did not ask for."""
        self._restart: tuple[int, ...] = ()
        """Slaves to restart when those of the same request are reverted."""
        self._reverted: tuple[NodeResult, ...] = ()
        self._restored: Callable[[int, str], None] | None = None
        """Is told what became of the slave that is being restored; None: none is."""
        self._restore_steps: deque[Callable[[], None]] = deque()

    @property
    def slaves(self) -> tuple[NodeDescription, ...]:
        """The slaves among `nodes`."""
        return tuple(node for node in self.nodes if node.position > 0)

    # -- requests --------------------------------------------------------------------------------------------------------

    def request(self, request: SlaveRequest) -> None:
        """Do this when the bus is free."""
        self._requests.append(request)

    @property
    def is_restoring(self) -> bool:
        """Whether a slave is being given an image that is not an order's."""
        return self._restored is not None

    @property
    def is_free(self) -> bool:
        """Whether nothing is under way, and nothing waits for it."""
        return not (self._is_busy or self._restart or self._requests or self.wants_discovery)

    def restore(self, request: RestoreSlave, restored: Callable[[int, str], None]) -> None:
        """Do this when the bus is free, one at a time; *restored* is called at its end, with the position and what went wrong."""
        engine, position = self.engine, request.job.position
        self._restored = restored
        self._restore_steps = deque(
            [
                lambda: engine.activate([position]),
                lambda: engine.confirm([(position, request.version)], raise_counter=False),
            ]
        )
        self._requests.append(request)

    def begin_next(self, *, may_discover: bool) -> bool:
        """Begin what waits, if nothing is under way: the updater's requests first. False: there is nothing to begin."""
        if self._is_busy:
            return False
        if self._restart:
            positions, self._restart = self._restart, ()
            self.engine.restart(positions)
        elif self._requests:
            self._begin(self._requests.popleft())
        elif self.wants_discovery and may_discover:
            self.wants_discovery = False
            self._under_way = None
            self.engine.discover(self._positions)
        else:
            return False
        self._is_busy = True
        return True

    def cancel(self) -> None:
        """Free the bus at once: the operation under way is dropped, and its request is not answered."""
        self.engine.cancel()
        self._is_busy = False
        self._restart = ()
        if self._restored is not None:
            self._requests = deque(each for each in self._requests if not isinstance(each, RestoreSlave))
            self._restored = None
            self._restore_steps.clear()

    def _begin(self, request: SlaveRequest) -> None:
        engine = self.engine
        self._under_way = request
        match request:
            case DiscoverNodes():
                engine.discover(self._positions)
            case FlashSlaves(jobs):
                engine.flash(jobs)
            case ActivateSlaves(positions):
                engine.activate(positions)
            case ConfirmSlaves(versions):
                engine.confirm(versions, raise_counter=False)
            case RaiseCounters(versions):
                engine.confirm(versions, raise_counter=True)
            case RevertSlaves(positions, restart):
                self._restart = restart
                self._reverted = ()
                engine.revert(positions)
            case RestoreSlave(job):
                engine.flash([job])

    # -- results ---------------------------------------------------------------------------------------------------------

    def handle(self, event: EngineEvent, now_ns: int) -> None:
        """The engine has said something."""
        match event:
            case TransferProgressed(position, next_offset, size_bytes) if next_offset == size_bytes:
                self._updater.slave_staged(position)
            case NodesDiscovered(nodes, refused):
                self._is_busy = False
                self.nodes = nodes
                self._updater.nodes_seen(nodes)
                if isinstance(self._under_way, DiscoverNodes):
                    self._updater.nodes_discovered(nodes, now_ns, refused=refused)
            case OperationFinished(results=results):
                self._is_busy = False
                self._answer(results, now_ns)
            case _:
                pass

    def _answer(self, results: tuple[NodeResult, ...], now_ns: int) -> None:
        request = self._under_way
        if self._restart:
            self._reverted = results
            return
        results, self._reverted = (*self._reverted, *results), ()
        updater = self._updater
        match request:
            case FlashSlaves():
                updater.slaves_flashed(results, now_ns)
            case ActivateSlaves():
                updater.slaves_activated(results, now_ns)
            case ConfirmSlaves():
                updater.slaves_confirmed(results, now_ns)
            case RaiseCounters():
                updater.counters_raised(results, now_ns)
            case RevertSlaves():
                updater.slaves_reverted(results, now_ns)
            case RestoreSlave(job):
                self._go_on_restoring(job.position, results)

    def _go_on_restoring(self, position: int, results: tuple[NodeResult, ...]) -> None:
        problem = "; ".join(result.detail for result in results if not result.ok)
        if not problem and self._restore_steps:
            self._restore_steps.popleft()()
            self._is_busy = True
            return
        restored, self._restored = self._restored, None
        self._restore_steps.clear()
        self.wants_discovery = True
        if restored is not None:
            restored(position, problem)

    # -- what the slaves say of themselves -------------------------------------------------------------------------------

    def find_change(self, measured: MeasurementTable) -> tuple[int, str] | None:
        """The first slave whose identity pages differ from the last discovery: its position, and how it differs."""
        seen = (measured.pages, self.nodes, self._updater.must_rest)
        if seen == self._seen:  # After nearly every frame: nothing of it has changed.
            return None
        known = {node.position: node for node in self.nodes}
        for position, hwid in measured.hwids.items():
            if position in known and known[position].hwid != hwid:
                return position, f"slave {position} is {hwid} now, was {known[position].hwid}"
        if seen[2]:
            # The updater restarts slaves into new versions itself, and asks them afterwards.
            return None
        for position, version in measured.versions.items():
            if position in known and known[position].version != version:
                return position, f"slave {position} runs {version} now, ran {known[position].version}"
        self._seen = seen
        return None
