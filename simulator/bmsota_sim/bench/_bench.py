"""A running bench: the world in real time, its adapters open to host programs, in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

from bmsota.errors import ConfigurationError
from bmsota_sim.bench._commands import BenchCommands
from bmsota_sim.bench._endpoints import open_endpoint
from bmsota_sim.bench._flashfile import load_flashes, save_flashes
from bmsota_sim.bench._options import BenchOptions
from bmsota_sim.bench._world import BenchWorld
from bmsota_sim.kernel import MS, SECOND, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota_sim.bench._endpoints import Endpoint
    from bmsota_sim.bench._world import NodeRow
    from bmsota_sim.trace import Note


# The longest sleep of the loop: it wakes for everything else, so this bounds only how late a mistake in that would show.
SLEEP_MAX_S = 0.5
# A burst that has piled up is worked off in slices, so that the hosts are served and an end is noticed in between.
SLICE_NS = 20 * MS
# A bench that is further behind than this has not run at all: the machine slept, or the process was stopped. It
# continues where it was; to play the lost hours would keep its hosts, and its end, waiting.
LAG_NS_MAX = 5 * SECOND
# How often changed flashes are written to the flash file: what a crash of the bench itself can cost.
KEEP_PERIOD_NS = SECOND
# How long a command waits for its answer; the loop answers within a slice.
ANSWER_TIMEOUT_S = 30.0
# How long the loop may take to notice the end, beyond the slice and the flash file it is in.
CLOSE_TIMEOUT_S = 60.0


class Bench:
    """A bench that runs from `__enter__` to `__exit__`.

        with Bench(BenchOptions(slaves=2)) as bench:
            print(bench.paths)                      # ['/dev/pts/7']
            print(bench.command("cut 1 off 500"))   # ['ok: slave 1 has lost its supply for 500 ms']

    *channel*: "pty" for slcan adapters on pseudo terminals, or python-can's interface and channel ("virtual:bench"),
    where `paths` are the channels.
    """

    def __init__(
        self,
        options: BenchOptions = BenchOptions(),  # noqa: B008 - frozen
        *,
        channel: str = "pty",
        noted: Callable[[Note], object] = lambda _note: None,
    ) -> None:
        """Build it without opening anything; *noted* gets every note of what happens, in the bench's thread.

        Raises:
            ConfigurationError: as `BenchOptions`, or the flash file is of another bench.
        """
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self.options = options
        self.channel = channel
        self.world = BenchWorld(Kernel(self._clock()), options, noted)
        """Only for the bench's own thread while it runs."""
        self.is_kept = options.flash_file is not None and load_flashes(self.world, options.flash_file)
        """Whether the flashes are those of an earlier bench."""
        self._commands = BenchCommands(self.world)
        self._endpoints: list[Endpoint] = []
        self._asked: queue.SimpleQueue[tuple[Callable[[], object], queue.SimpleQueue[object]]] = queue.SimpleQueue()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._thread: threading.Thread | None = None
        self._is_ending = False
        self._kept_operations = -1
        self._keep_ns = 0
        self.failure: BaseException | None = None
        """What ended the thread before its time."""

    @property
    def paths(self) -> list[str]:
        """What host programs open, one for each adapter."""
        return [endpoint.path for endpoint in self._endpoints]

    @property
    def has_quit(self) -> bool:
        """The command `quit` was given."""
        return self._commands.has_quit

    # -- from and to ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the adapters, switch the nodes on, and run.

        Raises:
            ConfigurationError: an adapter cannot be opened here.
        """
        try:
            for number, seat in enumerate(self.world.seats, start=1):
                self._endpoints.append(open_endpoint(seat, number, self.channel, self.options))
        except BaseException:
            self._close_endpoints()
            raise
        # Building it has taken seconds, which are not played.
        self.world.kernel.run_until(self._clock())
        self.world.power_on()
        self._thread = threading.Thread(target=self._run, name="bench", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it: the flashes are kept, the adapters are gone. Does nothing the second time.

        Raises:
            Exception: what ended the bench before its time; a bug, or the flash file cannot be written.
        """
        if self._thread is not None:
            self._is_ending = True
            self._wake()
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                raise TimeoutError(f"the bench's loop did not end within {CLOSE_TIMEOUT_S:g} s")
            self._thread = None
        self._close_endpoints()
        if self._near.fileno() >= 0:
            self._near.close()
            self._far.close()
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def _close_endpoints(self) -> None:
        while self._endpoints:
            self._endpoints.pop().close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # -- from other threads -----------------------------------------------------------------------------------------------

    def command(self, line: str) -> list[str]:
        """Carry out the command *line* (those of `bmsota-sim bench`); the lines of the answer.

        Raises:
            ConfigurationError: the bench does not run.
        """
        answer = self._in_thread(lambda: self._commands.do(line))
        assert isinstance(answer, list)
        return answer

    def rows(self) -> list[NodeRow]:
        """Every node as it is now. Raises as `command`."""
        answer = self._in_thread(self.world.rows)
        assert isinstance(answer, list)
        return answer

    def _in_thread(self, action: Callable[[], object]) -> object:
        answer: queue.SimpleQueue[object] = queue.SimpleQueue()
        thread = self._thread
        if thread is None or not thread.is_alive():
            raise ConfigurationError("the bench is not running")
        self._asked.put((action, answer))
        self._wake()
        try:
            result = answer.get(timeout=ANSWER_TIMEOUT_S)
        except queue.Empty:
            raise ConfigurationError(f"the bench did not answer within {ANSWER_TIMEOUT_S:g} s") from self.failure
        if result is None:
            raise ConfigurationError("the bench is not running") from self.failure
        return result

    def _wake(self) -> None:
        # A full socket: the loop is awake already.
        with contextlib.suppress(BlockingIOError):
            self._far.send(b"\0")

    # -- the thread -------------------------------------------------------------------------------------------------------

    def _clock(self) -> int:
        """Nanoseconds since the epoch, never going back."""
        return time.monotonic_ns() + self._offset_ns

    def _run(self) -> None:
        try:
            while not self._is_ending:
                self._turn()
            self._keep()
        except BaseException as error:  # noqa: BLE001 - handed to the caller of `close`
            self.failure = error
        self._refuse()

    def _catch_up(self, slices: int) -> None:
        """Let happen what is due, at most this many slices of it."""
        kernel = self.world.kernel
        behind_ns = self._clock() - kernel.now_ns
        if behind_ns > LAG_NS_MAX:
            self._offset_ns -= behind_ns
            self.world.trace.note(
                kernel.now_ns, "bench", f"stood still for {behind_ns / SECOND:.0f} s; continues from there"
            )
        for _ in range(slices):
            now_ns, due_ns = self._clock(), kernel.next_due()
            if self._is_ending:
                return
            if due_ns is None or due_ns > now_ns - SLICE_NS:
                kernel.run_until(now_ns)
                return
            kernel.run_until(due_ns + SLICE_NS)

    def _turn(self) -> None:
        """Let everything happen that is due, then wait for the next thing."""
        kernel = self.world.kernel
        self._catch_up(1)
        now_ns = self._clock()
        for endpoint in self._endpoints:
            endpoint.flush()
        if now_ns >= self._keep_ns:
            self._keep_ns = now_ns + KEEP_PERIOD_NS
            self._keep()
        due_ns = kernel.next_due()
        wait_s = SLEEP_MAX_S if due_ns is None else min(SLEEP_MAX_S, max(0.0, (due_ns - self._clock()) / SECOND))
        waiting = [endpoint for endpoint in self._endpoints if endpoint.has_output]
        sources: list[Endpoint | socket.socket] = [self._near, *self._endpoints]
        readable, _, _ = select.select(sources, waiting, [], wait_s)
        if not readable:
            return
        # What comes from outside comes now; everything due before it goes before it.
        self._catch_up(LAG_NS_MAX // SLICE_NS)
        for source in readable:
            if isinstance(source, socket.socket):
                source.recv(4096)
                self._answer()
            else:
                source.pump(kernel.now_ns)

    def _answer(self) -> None:
        while True:
            try:
                action, answer = self._asked.get_nowait()
            except queue.Empty:
                return
            try:
                result = action()
            except BaseException:
                answer.put(None)
                raise
            answer.put(result)

    def _refuse(self) -> None:
        """The loop has ended: what was asked in its last moment is not done."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._asked.get_nowait()[1].put(None)

    def _keep(self) -> None:
        path = self.options.flash_file
        if path is None:
            return
        operations = sum(device.node.flash.operations for device in self.world.nodes)
        if operations != self._kept_operations:
            save_flashes(self.world, path)
            self._kept_operations = operations
