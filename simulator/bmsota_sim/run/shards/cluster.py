"""Shards on the workers of a Dask cluster: futures of its executor, messages through queues of its scheduler.

Workers need not reach the process that started the run, nor it them: everything goes by the scheduler. A worker must have this
version of bmsota, and the files that the run was given at the same paths. Where a worker is lost, the scheduler gives its shard to another
by itself; the shard then says that it has begun, a second time.

Dask's queues are asked by threads, so neither a shard nor the run ever waits for the network.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bmsota._extras import needs
from bmsota.errors import ConfigurationError
from bmsota_sim.run.shards.carrying import ChannelClosedError, ShardBegun, carry_out_shard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from bmsota_sim.run.shards.carrying import ShardCommand, ShardMessage
    from bmsota_sim.run.shards.part import Shard, ShardEnd

__all__ = ["DaskHost", "dask_host"]

CONNECT_TIMEOUT_S = 10.0
WAIT_S = 0.5
# Who started a run says every few seconds that it is there; a shard that hears nothing for so long ends.
ALIVE_S = 5.0
SILENCE_S = 60.0


def _distributed() -> Any:
    """An extra, untyped, and a second to load."""
    return import_module("distributed")


class _QueueChannel:
    """The shard's end, on a worker."""

    def __init__(self, client: Any, name: str, index: int) -> None:
        distributed = _distributed()

        self._attempt = uuid4().hex
        self._index = index
        self._up = distributed.Queue(f"{name}-up", client=client)
        self._down = distributed.Queue(f"{name}-down-{index}", client=client)
        self._to_send: SimpleQueue[bytes | None] = SimpleQueue()
        self._received: SimpleQueue[ShardCommand] = SimpleQueue()
        self._heard_s = time.monotonic()
        self._is_closed = False
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send_all, self._receive_all)]
        for thread in self._threads:
            thread.start()

    def _send_all(self) -> None:
        with contextlib.suppress(Exception):  # Whatever the cluster's end raises here: it is gone.
            while (data := self._to_send.get()) is not None:
                self._up.put(data)
            return
        self._is_closed = True

    def _receive_all(self) -> None:
        while not self._is_closed:
            try:
                attempt, command = pickle.loads(self._down.get(timeout=WAIT_S))  # noqa: S301 - a cluster runs what it is sent anyway
            except TimeoutError:
                continue
            except Exception:  # noqa: BLE001 - as above
                self._is_closed = True
                return
            self._heard_s = time.monotonic()
            if command is not None and attempt == self._attempt:
                self._received.put(command)

    def send(self, message: ShardMessage) -> None:
        if self._is_closed:
            raise ChannelClosedError
        self._to_send.put(pickle.dumps((self._index, self._attempt, message)))

    def receive(self) -> Sequence[ShardCommand]:
        if self._is_closed or time.monotonic() - self._heard_s > SILENCE_S:
            self._is_closed = True
            raise ChannelClosedError
        found: list[ShardCommand] = []
        with contextlib.suppress(Empty):
            while True:
                found.append(self._received.get_nowait())
        return found

    def close(self) -> None:
        """All that was sent is on its way."""
        self._to_send.put(None)
        self._threads[0].join()
        self._is_closed = True
        self._threads[1].join()


def _carry_out(shard: Shard, name: str) -> ShardEnd:
    """On a worker."""
    distributed = _distributed()

    channel = _QueueChannel(distributed.get_client(), name, shard.index)
    try:
        return carry_out_shard(shard, channel)
    finally:
        channel.close()


class DaskHost:
    """Where shards run; see `coordinating.ShardHost`."""

    def __init__(self, client: Any) -> None:
        """*client*: of distributed; closed by `close`."""
        distributed = _distributed()

        self._client = client
        self._name = f"bmsota-sim-{uuid4().hex}"
        self._executor = client.get_executor(pure=False)
        self._up = distributed.Queue(f"{self._name}-up", client=client)
        self._downs: dict[int, Any] = {}
        self._futures: dict[int, Future[ShardEnd]] = {}
        self._attempts: dict[int, str] = {}
        self._messages: SimpleQueue[bytes] = SimpleQueue()
        self._alive_s = 0.0
        self._is_closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._is_closed:
            try:
                self._messages.put(self._up.get(timeout=WAIT_S))
            except TimeoutError:
                continue
            except Exception:  # noqa: BLE001 - the scheduler is gone; the futures say so
                return

    def start(self, shard: Shard) -> None:
        distributed = _distributed()

        if shard.index not in self._downs:
            self._downs[shard.index] = distributed.Queue(f"{self._name}-down-{shard.index}", client=self._client)
        self._futures[shard.index] = self._executor.submit(_carry_out, shard, self._name)

    def poll(self) -> list[tuple[int, ShardMessage]]:
        now_s = time.monotonic()
        if now_s - self._alive_s >= ALIVE_S:
            self._alive_s = now_s
            for down in self._downs.values():
                down.put(pickle.dumps(("", None)))
        found: list[tuple[int, ShardMessage]] = []
        with contextlib.suppress(Empty):
            while True:
                index, attempt, message = pickle.loads(self._messages.get_nowait())  # noqa: S301 - from our own shards
                if isinstance(message, ShardBegun):
                    self._attempts[index] = attempt
                if self._attempts.get(index) == attempt:
                    found.append((index, message))
        return found

    def send(self, index: int, command: ShardCommand) -> None:
        self._downs[index].put(pickle.dumps((self._attempts.get(index, ""), command)))

    def future(self, index: int) -> Future[ShardEnd]:
        return self._futures[index]

    def is_lost(self, error: BaseException) -> str:
        distributed = _distributed()

        return f"its workers were lost ({error})" if isinstance(error, distributed.KilledWorker) else ""

    def close(self) -> None:
        self._is_closed = True
        for future in self._futures.values():
            future.cancel()
        self._reader.join()
        with contextlib.suppress(Exception):  # It may be gone.
            self._client.close()
        self._futures.clear()


def dask_host(address: str, count: int | None, *, is_real: bool) -> tuple[int, DaskHost]:
    """The number of shards, and where they run: *count*, by default one for each worker.

    Raises:
        ConfigurationError: there is no scheduler at *address*, or too few workers.
        MissingExtraError: distributed is not installed.
    """
    with needs("--dask", "distributed", "dask"):
        distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--dask {address}: no scheduler answers there: {error}") from error
    workers = client.scheduler_info(n_workers=-1)["workers"]
    threads = sum(worker["nthreads"] for worker in workers.values())
    wanted = count or len(workers)
    if not workers or (is_real and threads < wanted):
        client.close()
        what = f"{len(workers):,} workers with {threads:,} threads"
        raise ConfigurationError(
            f"--dask {address}: the cluster has {what}; a run of {wanted or 1:,} shards in real time needs a thread for each. Start more workers"
            if workers
            else f"--dask {address}: the cluster has no workers; start some with 'dask worker {address}'"
        )
    return wanted, DaskHost(client)
