"""Shards in processes of this machine. Each has an executor of its own: one that is killed breaks no other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from bmsota_sim._signals import ending_signals
from bmsota_sim.run.shards.carrying import ChannelClosedError, carry_out_shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from bmsota_sim.run.shards.carrying import ShardCommand, ShardMessage
    from bmsota_sim.run.shards.part import Shard, ShardEnd

__all__ = ["ProcessHost"]

# A process that has been told to end and does not is killed after this time.
END_TIMEOUT_S = 10.0


class _PipeChannel:
    """The shard's end of a pipe."""

    def __init__(self, connection: Connection[ShardMessage, ShardCommand]) -> None:
        self._connection = connection

    def send(self, message: ShardMessage) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise ChannelClosedError from error

    def receive(self) -> Sequence[ShardCommand]:
        found: list[ShardCommand] = []
        try:
            while self._connection.poll():
                found.append(self._connection.recv())
        except (EOFError, OSError) as error:
            raise ChannelClosedError from error
        return found


_channel: _PipeChannel


def _adopt(connection: Connection[ShardMessage, ShardCommand]) -> None:
    """In the new process: who started it decides when it ends, and a Ctrl-C reaches both."""
    global _channel  # noqa: PLW0603 - what an executor's initializer is for
    _channel = _PipeChannel(connection)
    for number in ending_signals():
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending_signals())
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess | None) -> None:
    """A worker of an executor waits for its next task for ever, whoever was to give it."""
    if parent is not None:
        parent.join()
        os._exit(1)


def _carry_out(shard: Shard) -> ShardEnd:
    return carry_out_shard(shard, _channel)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """A process that is started now hears no signal before it has said what it does with them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Process:
    """One shard in its process."""

    def __init__(self, shard: Shard) -> None:
        # Not fork: this process has threads.
        context = multiprocessing.get_context("spawn")
        self.messages: SimpleQueue[ShardMessage] = SimpleQueue()
        self._connection, theirs = context.Pipe()
        others = set(multiprocessing.active_children())
        with _signals_held():
            self._executor = ProcessPoolExecutor(1, mp_context=context, initializer=_adopt, initargs=(theirs,))
            self.future: Future[ShardEnd] = self._executor.submit(_carry_out, shard)
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        self._children = [child for child in multiprocessing.active_children() if child not in others]
        theirs.close()  # Its process alone has it now: when that is gone, so is the pipe.

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.messages.put(self._connection.recv())

    def send(self, command: ShardCommand) -> None:
        with contextlib.suppress(OSError):  # It has ended; its future says how.
            self._connection.send(command)

    def close(self) -> None:
        """End the process, one that hears nothing too."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._reader.join(END_TIMEOUT_S)  # Until the process has let go of its end.
        if self._reader.is_alive():
            for child in self._children:
                child.kill()
            self._reader.join()
        self._connection.close()


class ProcessHost:
    """Where shards run; see `coordinating.ShardHost`."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}

    def start(self, shard: Shard) -> None:
        old = self._processes.pop(shard.index, None)
        if old is not None:
            old.close()
        self._processes[shard.index] = _Process(shard)

    def poll(self) -> list[tuple[int, ShardMessage]]:
        found: list[tuple[int, ShardMessage]] = []
        for index, process in self._processes.items():
            with contextlib.suppress(Empty):
                while True:
                    found.append((index, process.messages.get_nowait()))
        return found

    def send(self, index: int, command: ShardCommand) -> None:
        self._processes[index].send(command)

    def future(self, index: int) -> Future[ShardEnd]:
        return self._processes[index].future

    def is_lost(self, error: BaseException) -> str:
        return "its process was killed" if isinstance(error, BrokenProcessPool) else ""

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
        self._processes.clear()
